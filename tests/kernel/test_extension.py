"""`%load_ext onix_nb`: what it changes, what it leaves alone, and that unloading takes all of it back."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Everything of IPython that an extension can hook into, as plain values that compare.
STATE = """
import builtins, logging, sys, threading, warnings
from IPython import get_ipython

def ipython_state():
    shell = get_ipython()
    formatters = {"ipython_display": shell.display_formatter.ipython_display_formatter}
    formatters |= {"mimebundle": shell.display_formatter.mimebundle_formatter}
    formatters |= shell.display_formatter.formatters
    manager = shell.magics_manager
    return {
        "hooks": {event: list(callbacks) for event, callbacks in shell.events.callbacks.items()},
        "magics": {kind: dict(magics) for kind, magics in manager.magics.items()},
        "registry": dict(manager.registry),
        "formatters": {
            name: (dict(f.type_printers), dict(f.singleton_printers), dict(f.deferred_printers))
            for name, f in formatters.items()
        },
        "input": (list(shell.input_transformers_cleanup), list(shell.input_transformers_post)),
        "ast": list(shell.ast_transformers),
        "exceptions": (shell.CustomTB, shell.custom_exceptions, sys.excepthook, threading.excepthook),
        "streams": (sys.stdout, sys.stderr, sys.displayhook),
        "display": (shell.display_pub, shell.displayhook, list(getattr(shell.display_pub, "_hooks", ()))),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "logging": list(logging.getLogger().handlers),
        "builtins": set(vars(builtins)),
        "extensions": set(shell.extension_manager.loaded),
        "onix": sys.modules.get("onix"),
    }
"""

# Records what this process opens, connects and starts; reading code is what an import is.
AUDIT = """
import sys, _thread
seen = []
watched = ("open", "socket.", "sqlite3.", "_thread.start_new_thread", "subprocess.", "os.mkdir", "os.fork")
def hook(event, arguments):
    if recording and event.startswith(watched):
        path = str(arguments[0]) if arguments else ""
        if not (event == "open" and (path.endswith((".py", ".pyc", ".so")) or ".pyc." in path)):
            seen.append((event, path))
recording = False
sys.addaudithook(hook)

import os, threading
def held():
    return {thread.name for thread in threading.enumerate()}, set(os.listdir("/proc/self/fd"))
"""


@pytest.fixture
def bare(bare_kernel: Any) -> Iterator[Any]:
    """A kernel in which the extension is not loaded, before the test and after it."""
    yield bare_kernel
    bare_kernel.ok(
        "import sys\n"
        "if 'onix_nb' in get_ipython().extension_manager.loaded:\n"
        "    get_ipython().run_line_magic('unload_ext', 'onix_nb')\n"
        "sys.modules.pop('onix', None)"
    )


class TestAlias:
    def test_import_onix_works_after_loading(self, bare: Any) -> None:
        """`import onix` and `from onix import ...` give onix_nb."""
        bare.ok("%load_ext onix_nb")
        cell = bare.ok("import onix, onix_nb\nfrom onix import flow, wait\nonix is onix_nb, flow is onix_nb.flow")
        assert cell.value == "(True, True)"

    def test_loading_says_nothing_when_the_name_is_free(self, bare: Any) -> None:
        """A message is for what the reader has to know."""
        assert bare.ok("%load_ext onix_nb").outputs == []

    def test_another_onix_that_could_be_imported_stays(self, bare: Any) -> None:
        """A package of that name on the path is not hidden, and loading says which import is the way."""
        bare.ok(
            "import pathlib, sys, tempfile\n"
            "folder = tempfile.mkdtemp()\n"
            "_ = pathlib.Path(folder, 'onix.py').write_text('whose = 2')\n"
            "sys.path.insert(0, folder)"
        )
        try:
            said = bare.ok("%load_ext onix_nb").stdout
            assert "'onix'" in said
            assert "import onix_nb as onix" in said
            assert said.count("\n") == 1
            assert bare.ok("import onix\nonix.whose").value == "2"
            bare.ok("%unload_ext onix_nb")
            assert bare.ok("sys.modules['onix'].whose").value == "2"
        finally:
            bare.ok("sys.path.remove(folder)\nsys.path_importer_cache.pop(folder, None)")

    def test_another_onix_that_is_imported_stays(self, bare: Any) -> None:
        """A module of that name that the notebook uses is not replaced, and survives unloading."""
        bare.ok("import sys, types\nother = sys.modules['onix'] = types.ModuleType('onix')")
        assert "import onix_nb as onix" in bare.ok("%load_ext onix_nb").stdout
        assert bare.ok("import onix\nonix is other").value == "True"
        bare.ok("%unload_ext onix_nb")
        assert bare.ok("sys.modules['onix'] is other").value == "True"

    def test_an_onix_that_came_later_survives_unloading(self, bare: Any) -> None:
        """Unloading takes back our alias, not what somebody has put in its place."""
        bare.ok("%load_ext onix_nb")
        bare.ok("import sys, types\nother = sys.modules['onix'] = types.ModuleType('onix')")
        bare.ok("%unload_ext onix_nb")
        assert bare.ok("sys.modules.get('onix') is other").value == "True"


class TestLoading:
    def test_it_opens_connects_and_starts_nothing(self, new_notebook: Callable[[], Any]) -> None:
        """The first load in a fresh kernel reads code, and opens no file, no connection and no thread."""
        fresh = new_notebook()
        fresh.ok(AUDIT)
        fresh.ok("before = held()")
        fresh.ok("recording = True")
        fresh.ok("%load_ext onix_nb")
        fresh.ok("recording = False\nafter = held()")
        # What the cells themselves do, with nothing loaded, is what may be seen.
        loaded = ast.literal_eval(fresh.ok("seen").value)
        fresh.ok("seen.clear()\nrecording = True")
        fresh.ok("pass")
        fresh.ok("recording = False")
        idle = ast.literal_eval(fresh.ok("seen").value)
        assert [event for event in loaded if event not in idle] == []
        assert fresh.ok("after[0] - before[0]").value == "set()"  # of descriptors, the kernel opens some of its own

    def test_the_recorder_notices_a_thread(self, new_notebook: Callable[[], Any]) -> None:
        """Control: the same recorder sees the thread of a first action, and a file that is opened."""
        bare = new_notebook()
        bare.ok(AUDIT)
        bare.ok("%load_ext onix_nb")
        bare.ok("import onix\n@onix.action\ndef look():\n    return open('/proc/self/stat').read()")
        bare.ok("recording = True\ntext = look.start().result()\nrecording = False")
        events = dict(ast.literal_eval(bare.ok("seen").value))
        assert "onix-action" in bare.ok("[thread.name for thread in __import__('threading').enumerate()]").value
        assert events["open"] == "/proc/self/stat"

    def test_loading_twice_changes_nothing(self, bare: Any) -> None:
        """A second `%load_ext` registers nothing a second time."""
        bare.ok(STATE)
        bare.ok("%load_ext onix_nb")
        bare.ok("once = ipython_state()")
        bare.ok("%load_ext onix_nb")
        assert bare.ok("ipython_state() == once").value == "True"

    def test_reloading_keeps_what_runs(self, bare: Any) -> None:
        """`%reload_ext` leaves runs, futures and their session alone."""
        bare.ok("import threading\ngate = threading.Event()")
        bare.ok("%load_ext onix_nb")
        bare.ok("import onix\n@onix.action\ndef held():\n    return gate.wait(30)\nfuture = held.start()")
        bare.ok("%reload_ext onix_nb")
        assert bare.ok("import onix\n[run.name for run in onix.runs() if not run.finished]").value == "['held']"
        assert bare.ok("gate.set()\nfuture.result(timeout=30)").value == "True"


class TestUnloading:
    def test_it_leaves_ipython_as_it_was(self, bare: Any) -> None:
        """Hooks, magics, displays, streams, warnings, built-ins and `sys.modules` are those of before."""
        bare.ok(STATE)
        bare.ok("before = ipython_state()")
        bare.ok("%load_ext onix_nb")
        bare.ok("during = ipython_state()")
        bare.ok("%unload_ext onix_nb")
        bare.ok("after = ipython_state()")
        changed = "[key for key in before if before[key] != {}[key]]"
        assert bare.ok(changed.format("after")).value == "[]"
        # Control: the comparison sees what loading does.
        seen = ast.literal_eval(bare.ok(changed.format("during")).value)
        assert {"hooks", "magics", "registry", "formatters", "extensions", "onix"} <= set(seen)

    def test_a_future_is_then_shown_as_any_object(self, bare: Any) -> None:
        """After unloading, the plain text form is left; and the magic is gone."""
        bare.ok("%load_ext onix_nb")
        bare.ok("import onix\n@onix.action\ndef double(x: int):\n    return 2 * x\nfuture = double.start(x=1)")
        bare.ok("future.result()")
        bare.ok("%unload_ext onix_nb")
        cell = bare.ok("future")
        assert cell.displays == []
        assert cell.value == "<Future double(x=1) succeeded>"
        assert "not found" in bare.run("%%onix_flow\n1").stderr

    def test_what_runs_goes_on(self, bare: Any) -> None:
        """Unloading ends no run."""
        bare.ok("import threading\ngate = threading.Event()")
        bare.ok("%load_ext onix_nb")
        bare.ok("import onix\n@onix.action\ndef held():\n    return gate.wait(30)\nfuture = held.start()")
        bare.ok("%unload_ext onix_nb")
        assert bare.ok("future.running() or not future.done()").value == "True"
        assert bare.ok("gate.set()\nfuture.result(timeout=30)").value == "True"

    def test_load_unload_load_works_as_the_first_time(self, bare: Any) -> None:
        """The second load is a first load."""
        bare.ok(STATE)
        bare.ok("%load_ext onix_nb")
        bare.ok("first = ipython_state()")
        bare.ok("%unload_ext onix_nb")
        bare.ok("%load_ext onix_nb")
        sizes = "{event: len(callbacks) for event, callbacks in %s['hooks'].items()}"
        assert bare.ok(f"{sizes % 'ipython_state()'} == {sizes % 'first'}").value == "True"
        cell = bare.ok("%%onix_flow seven --wait\nimport onix\n3 + 4")
        assert "succeeded" in cell.text
        assert bare.ok("seven.result()").value == "7"
