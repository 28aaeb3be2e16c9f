"""What a run prints, logs or warns of in a kernel is shown under its cell as ever, and kept with it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SPEAK = """
import asyncio, logging, sys, threading, warnings
import onix_nb as onix

gate = threading.Event()
log = logging.getLogger("tutorial")
log.handlers[:] = [logging.StreamHandler()]  # it holds on to the stream that it finds now
log.propagate = False

def speak(word):
    print(f"printed {word}")
    print(f"on stderr {word}", file=sys.stderr)
    log.warning("logged %s", word)
    warnings.warn(f"warned {word}")

def output(run):
    return None if run.output is None else run.output.text

def outputs(name):
    return [output(run) for run in onix.runs() if run.name == name]
"""
SPOKEN = ("printed", "on stderr", "logged", "warned")

STARTED = {
    "an action": "@onix.action\ndef work():\n    gate.wait(30)\n    speak('it')\nfuture = work.start()",
    "an async action": (
        "@onix.action\nasync def work():\n    await asyncio.to_thread(gate.wait, 30)\n    speak('it')\n"
        "future = work.start()"
    ),
    "a flow": "@onix.flow\ndef work():\n    gate.wait(30)\n    speak('it')\nfuture = work.start()",
    "an async flow": (
        "@onix.flow\nasync def work():\n    await asyncio.to_thread(gate.wait, 30)\n    speak('it')\n"
        "future = work.start()"
    ),
    "a flow cell": "%%onix_flow future\nopened = gate.wait(30)\nspeak('it')",
    "to_thread": (
        "@onix.action\nasync def work():\n    await asyncio.to_thread(gate.wait, 30)\n"
        "    await asyncio.to_thread(speak, 'it')\nfuture = work.start()"
    ),
    "an executor": (
        "def work():\n    gate.wait(30)\n    speak('it')\n"
        "executor = onix.Executor(max_workers=1)\nfuture = executor.submit(work)"
    ),
}


def said(text: str) -> list[str]:
    """Which kinds of output are in `text`."""
    return [word for word in SPOKEN if f"{word} it\n" in text]


@pytest.fixture
def speaking(notebook: Any) -> Any:
    """The loaded kernel with `speak`, its logger and what reads the outputs of runs."""
    notebook.ok(SPEAK)
    return notebook


def value(notebook: Any, source: str) -> Any:
    """The value of an expression in the kernel."""
    return ast.literal_eval(notebook.ok(source).value)


class TestKept:
    @pytest.mark.parametrize("source", STARTED.values(), ids=STARTED.keys())
    def test_the_output_of_a_run_is_kept_and_shown(self, speaking: Any, source: str) -> None:
        """Prints, stderr, logs and warnings are with the run, and under its cell, which has ended long ago."""
        cell = speaking.ok(source)
        later = speaking.ok("gate.set()\nif future.exception(timeout=30):\n    raise future.exception()")
        text = value(speaking, "output(future.run)")
        assert said(text) == list(SPOKEN)
        assert text.index("printed it") < text.index("on stderr it") < text.index("logged it") < text.index("warned it")
        assert text.count("printed it") == 1
        speaking.until(lambda: said(cell.stdout + cell.stderr) == list(SPOKEN), "all four outputs")
        assert said(later.stdout + later.stderr) == []

    def test_the_innermost_run_gets_it(self, speaking: Any) -> None:
        """What a flow prints is the flow's, what its actions print is theirs, called or started."""
        speaking.ok(
            "@onix.action\ndef inner(n: int):\n    print('inner', n)\n"
            "@onix.flow\ndef child():\n    print('child begins')\n    inner(n=3)\n    print('child ends')\n"
            "@onix.flow\ndef outer():\n    print('begins')\n    inner(n=1)\n    print('between')\n"
            "    inner.start(n=2).result()\n    child()\n    print('ends')\n"
            "outer.start().result(timeout=30)"
        )
        assert value(speaking, "outputs('outer')") == ["begins\nbetween\nends\n"]
        assert value(speaking, "outputs('child')") == ["child begins\nchild ends\n"]
        assert value(speaking, "outputs('inner')")[-3:] == ["inner 1\n", "inner 2\n", "inner 3\n"]

    def test_an_action_that_a_cell_calls_has_its_output(self, speaking: Any) -> None:
        """It runs on the cell's own thread."""
        cell = speaking.ok(
            "@onix.action\ndef direct():\n    print('inside')\nprint('before')\ndirect()\nprint('after')"
        )
        assert value(speaking, "outputs('direct')") == ["inside\n"]
        assert cell.stdout == "before\ninside\nafter\n"

    def test_each_attempt_adds_to_it(self, speaking: Any) -> None:
        """The output of a run is that of all its attempts."""
        speaking.ok(
            "@onix.action(retry=onix.RetryPolicy(initial_interval=0))\ndef twice():\n"
            "    number = onix.current_run().attempt\n    print('attempt', number)\n    assert number == 2\n"
            "future = twice.start()\nfuture.result(timeout=30)"
        )
        assert value(speaking, "output(future.run)") == "attempt 1\nattempt 2\n"

    @pytest.mark.parametrize(
        "source",
        [
            "@onix.action\ndef say(word: str):\n    for n in range(50):\n        print(word, n)\n        onix.sleep(0)",
            "@onix.action\nasync def say(word: str):\n    for n in range(50):\n        print(word, n)\n        await asyncio.sleep(0)",
        ],
        ids=["threads", "loop"],
    )
    def test_runs_at_the_same_time_do_not_mix(self, speaking: Any, source: str) -> None:
        """On shared threads, and on one event loop."""
        speaking.ok(source)
        speaking.ok(
            "words = [f'word{k}' for k in range(20)]\nfutures = [say.start(word=word) for word in words]\n"
            "done = onix.wait(futures, timeout=30)\n_ = [future.result(timeout=0) for future in futures]"
        )
        whole = "[''.join(f'{word} {n}\\n' for n in range(50)) for word in words]"
        assert speaking.ok(f"[output(future.run) for future in futures] == {whole}").value == "True"
        # Control: one text that is kept for all of a thread or a loop, whoever wrote it, would be another.
        assert speaking.ok(f"[''.join(map(output, [f.run for f in futures]))] * 20 == {whole}").value == "False"

    def test_what_cells_print_outside_of_runs_is_kept_by_none(self, speaking: Any) -> None:
        """Nor is what a thread of the user's own prints, while a run is under way."""
        speaking.ok("@onix.action\ndef quiet():\n    return gate.wait(30)\nfuture = quiet.start()")
        cell = speaking.ok(
            "speak('it')\nthread = threading.Thread(target=speak, args=('it',))\nthread.start(); thread.join()"
        )
        speaking.until(lambda: said(cell.stdout + cell.stderr) == list(SPOKEN))
        speaking.ok("gate.set()\nfuture.result(timeout=30)")
        assert speaking.ok("future.run.output is None").value == "True"

    def test_what_is_redirected_is_not_kept(self, speaking: Any) -> None:
        """It goes where the run has sent it."""
        speaking.ok(
            "import contextlib, io\n@onix.action\ndef redirect():\n    buffer = io.StringIO()\n"
            "    with contextlib.redirect_stdout(buffer):\n        print('redirected')\n    print('shown')\n"
            "    return buffer.getvalue()\nfuture = redirect.start()\nresult = future.result(timeout=30)"
        )
        assert value(speaking, "result, output(future.run)") == ("redirected\n", "shown\n")

    def test_the_end_of_a_long_output_is_kept(self, speaking: Any) -> None:
        """The last 64 KB, with how many characters came before."""
        speaking.ok(
            "@onix.action\ndef long():\n    for n in range(10_000):\n        print(f'line {n:05}')\n"
            "future = long.start()\nfuture.result(timeout=30)"
        )
        text = value(speaking, "output(future.run)")
        mark, _, end = text.partition("\n")
        everything = "".join(f"line {n:05}\n" for n in range(10_000))
        assert end == everything[-65_536:]
        assert mark == f"[{len(everything) - 65_536:,} characters before this were not kept]"


STREAMS = """
import sys
streams = (sys.stdout, sys.stderr)

def state():
    # `write` is IPython's own doing: it gives the streams another one for each cell.
    return [(id(stream), set(vars(stream)), stream.echo) for stream in (sys.stdout, sys.stderr)]

before = state()
"""
SAYS = """
import onix_nb as onix

@onix.action
def says(word: str):
    print(word)

def said(word):
    future = says.start(word=word)
    future.result(timeout=30)
    return future.run.output and future.run.output.text
"""
# Somebody else's echo, which passes on what it hears.
THEIRS = """
class Theirs:
    heard = []
    def __init__(self, below):
        self.below = below
    def write(self, text):
        self.heard.append(text)
        if self.below is not None:
            self.below.write(text)
    def flush(self):
        pass

theirs = sys.stdout.echo = Theirs(sys.stdout.echo)
"""
# A shell outside of a kernel, which loads the extension before its first cell.
SHELL = """
import sys, threading
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "onix_nb")
import onix_nb as onix

@onix.action
def says():
    print("out")
    print("err", file=sys.stderr)

shell.user_ns["says"] = says
shell.run_cell("future = says.start()\\nfuture.result(timeout=30)")
print(repr(shell.user_ns["future"].run.output.text))
shell.run_line_magic("unload_ext", "onix_nb")
print([vars(stream).get("write", stream.write).__qualname__ for stream in (sys.stdout, sys.stderr)])
"""


@pytest.fixture
def bare(bare_kernel: Any) -> Iterator[Any]:
    """A kernel in which the extension is not loaded before the test; after it, it is loaded as for the others."""
    unload = (
        "if 'onix_nb' in get_ipython().extension_manager.loaded:\n"
        "    get_ipython().run_line_magic('unload_ext', 'onix_nb')\n"
    )
    bare_kernel.ok(unload)
    bare_kernel.ok(STREAMS)
    yield bare_kernel
    bare_kernel.ok(unload)
    bare_kernel.ok("for stream in streams:\n    stream.echo = None")
    bare_kernel.ok("%load_ext onix_nb")


class TestStreams:
    def test_unloading_leaves_the_streams_as_they_were(self, bare: Any) -> None:
        """The same objects with the same attributes; and nothing is kept any more."""
        bare.ok("%load_ext onix_nb")
        assert bare.ok("(sys.stdout, sys.stderr) == streams").value == "True"
        # Control: the comparison sees what loading does to each of them.
        assert bare.ok("[now == then for now, then in zip(state(), before)]").value == "[False, False]"
        bare.ok(SAYS)
        assert value(bare, "said('loaded')") == "loaded\n"
        bare.ok("%unload_ext onix_nb")
        assert bare.ok("state() == before").value == "True"
        assert bare.ok("said('unloaded') is None").value == "True"
        assert bare.ok("print('as ever')").stdout == "as ever\n"

    def test_loading_twice_captures_once(self, bare: Any) -> None:
        """And so does reloading: a text is kept once."""
        bare.ok("%load_ext onix_nb")
        bare.ok(SAYS)
        bare.ok("%load_ext onix_nb")
        assert value(bare, "said('twice')") == "twice\n"
        bare.ok("%reload_ext onix_nb")
        assert value(bare, "said('reloaded')") == "reloaded\n"
        # Control: a second capture would be seen.
        bare.ok("from onix_nb.notebook.output import capture, release\ncaptured = capture(sys.stdout)")
        assert value(bare, "said('again')").count("again") == 2
        bare.ok("release(captured)")
        assert value(bare, "said('released')") == "released\n"
        bare.ok("%unload_ext onix_nb")
        assert bare.ok("state() == before").value == "True"

    def test_an_echo_that_was_there_goes_on(self, bare: Any) -> None:
        """It hears every text once, and is there again after unloading."""
        bare.ok(THEIRS)
        bare.ok("%load_ext onix_nb")
        bare.ok(SAYS)
        assert value(bare, "said('loaded')") == "loaded\n"
        bare.ok("%unload_ext onix_nb")
        assert bare.ok("sys.stdout.echo is theirs").value == "True"
        assert value(bare, "''.join(theirs.heard)") == "loaded\n"

    def test_an_echo_that_came_later_survives_unloading(self, bare: Any) -> None:
        """Text goes through ours below it; loading again keeps each text once."""
        bare.ok("%load_ext onix_nb")
        bare.ok(SAYS)
        bare.ok(THEIRS)
        assert value(bare, "said('loaded')") == "loaded\n"
        bare.ok("%unload_ext onix_nb")
        assert bare.ok("sys.stdout.echo is theirs").value == "True"
        assert bare.ok("said('unloaded') is None").value == "True"
        bare.ok("%load_ext onix_nb")
        assert value(bare, "said('loaded again')") == "loaded again\n"
        assert value(bare, "''.join(theirs.heard)") == "loaded\nunloaded\nloaded again\n"

    def test_a_shell_without_a_kernel_keeps_it_too(self, tmp_path: Path) -> None:
        """Where the streams are those of the process, and the extension is loaded before the first cell."""
        environment = {**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
        ended = subprocess.run(
            [sys.executable, "-c", SHELL], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.stdout == "out\n'out\\nerr\\n'\n['TextIOWrapper.write', 'TextIOWrapper.write']\n", ended.stderr


class TestExit:
    PREPARE = """
import sys, threading
from onix_nb.notebook.output import expect_exit
pub = sys.stdout.pub_thread

def printed():
    "How many sockets ipykernel has for threads that print, before and after a new one does."
    before = len(pub._event_pipes)
    thread = threading.Thread(target=lambda: print("from a thread", flush=True))
    thread.start()
    thread.join()
    return before, len(pub._event_pipes)
"""

    @pytest.fixture
    def exiting(self, new_notebook: Any) -> Any:
        """A kernel of its own, because what is done at the exit is not taken back."""
        notebook = new_notebook()
        notebook.ok("%load_ext onix_nb")
        notebook.ok(self.PREPARE)
        return notebook

    def test_threads_that_print_use_no_sockets_at_the_exit(self, exiting: Any) -> None:
        """The kernel closes theirs while they may be using them, and then may never end; the text is shown as ever."""
        before, after = value(exiting, "printed()")
        assert after == before + 1  # the control: ipykernel's own way
        exiting.ok("expect_exit(sys.stdout, sys.stderr)")
        cell = exiting.ok("printed()")
        before, after = ast.literal_eval(cell.value)
        assert after == before
        exiting.until(lambda: "from a thread" in cell.stdout)
