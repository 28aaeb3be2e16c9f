"""Running a cell again in a real kernel: what it started is taken over instead of being started twice."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORK = """
import threading
from collections import deque
gate = threading.Event()
begun = deque()  # a list would be a plain global, whose contents count

@onix.action
def held(x=1):
    begun.append(x)
    gate.wait(30)
    return x

@onix.action
def quick(x=1):
    begun.append(x)
    return x
"""
END = "gate.set()\nfor future in onix.runs(status=['pending', 'running']).futures:\n    future.cancel(interrupt=True)"
START = "futures = [held.start(x=x) for x in range(3)]\nfutures[0]"


@pytest.fixture
def working(notebook: Any) -> Iterator[Any]:
    """The loaded kernel with its actions; what still runs is ended."""
    notebook.ok(WORK)
    yield notebook
    notebook.ok(END)
    notebook.ok("onix.runs(status='failed').errors() is None")


def again(notebook: Any, source: str, cell_id: str = "the-cell") -> Any:
    """Runs a cell with an id of its own; it must not fail."""
    cell = notebook.run(source, cell_id=cell_id)
    assert cell.error is None, cell.traceback
    return cell


def value(notebook: Any, source: str) -> Any:
    return ast.literal_eval(notebook.ok(source).value)


class TestPlainCells:
    def test_a_cell_attaches_to_what_it_started(self, working: Any) -> None:
        """The same futures, the work is done once, and the view says so."""
        first = again(working, START)
        assert "attached" not in first.stdout + first.html
        working.ok("before = futures")
        second = again(working, START)
        assert value(working, "[a is b for a, b in zip(before, futures)]") == [True, True, True]
        assert second.stdout.startswith("onix_nb: attached to run started ")
        assert "attached to run started" in second.html
        working.ok("gate.set()\nonix.wait(futures)")
        assert value(working, "sorted(begun)") == [0, 1, 2]

    def test_when_all_has_ended_everything_is_started_anew(self, working: Any) -> None:
        """Who runs a cell again then wants new results."""
        source = "futures = [quick.start(x=x) for x in range(3)]\nonix.wait(futures).done and None"
        again(working, source)
        cell = again(working, source)
        assert cell.stdout == ""
        assert value(working, "sorted(begun)") == [0, 0, 1, 1, 2, 2]

    def test_finished_ones_are_taken_over_while_others_run(self, working: Any) -> None:
        """Loops and comprehensions go by order; what failed or was cancelled starts again."""
        source = "kept = quick.start(x=5), held.start(x=6), held.start(x=7)\nkept[0].result()\nkept[2].cancel(interrupt=True)"
        again(working, source)
        working.ok("before = kept")
        again(working, source)
        assert value(working, "[a is b for a, b in zip(before, kept)]") == [True, True, False]

    def test_a_changed_argument_or_function_starts(self, working: Any) -> None:
        """And what is no longer asked for goes on, and is listed."""
        again(working, START)
        working.ok("before = futures")
        working.ok("@onix.action\ndef held(x=1):\n    begun.append(x)\n    gate.wait(30)\n    return x + 1")
        cell = again(working, START)
        assert value(working, "[a in before for a in futures]") == [False, False, False]
        assert "3 more" not in cell.stdout
        assert cell.stdout.count("action held (run") == 3
        assert "goes on" in cell.stdout
        assert value(working, "[future.done() for future in before]") == [False, False, False]

    def test_defining_the_function_again_unchanged_attaches(self, working: Any) -> None:
        """In the same cell, or in another one; a comment and a docstring change nothing."""
        again(working, START)
        working.ok("before = futures")
        working.ok(
            "@onix.action\ndef held(x=1):\n    'What it does.'\n    # and a comment\n    begun.append(x)\n    gate.wait(30)\n    return x"
        )
        again(working, START)
        assert value(working, "futures == before") is True

    def test_an_edited_cell_starts_and_lists_what_goes_on(self, working: Any) -> None:
        """Its old runs are nobody's to end but the user's."""
        again(working, START)
        working.ok("before = futures")
        cell = again(working, START.replace("range(3)", "range(2)"))
        assert "goes on" in cell.stdout
        assert value(working, "any(future in before for future in futures)") is False

    def test_another_cell_with_the_same_source_starts(self, working: Any) -> None:
        """It is another cell; a cell that has moved is the same."""
        again(working, START, cell_id="one")
        working.ok("before = futures")
        again(working, START, cell_id="another")
        assert value(working, "any(future in before for future in futures)") is False

    def test_restart_and_parallel(self, working: Any) -> None:
        """By `configure(on_rerun=...)`."""
        again(working, START)
        working.ok("before = futures")
        with_policy = (
            "with onix.configure(on_rerun={!r}):\n    get_ipython().run_cell({!r}, cell_id='the-cell').raise_error()"
        )
        working.ok(with_policy.format("parallel", START))
        assert value(working, "[future.done() for future in before + futures]") == [False] * 6
        working.ok("before = futures")
        working.ok(with_policy.format("restart", START))
        assert value(working, "[future.cancelled() for future in before]") == [True] * 3
        assert value(working, "[future.done() for future in futures]") == [False] * 3

    def test_a_cell_that_raised_half_way_is_taken_up_again(self, working: Any) -> None:
        """What it had started, before and after the error, is still known the time after."""
        source = "first = held.start(x=1)\nif broken:\n    raise LookupError('half way')\nsecond = held.start(x=2)"
        working.ok("broken = False")
        again(working, source)
        working.ok("before = first, second\nbroken = True")
        assert working.run(source, cell_id="the-cell").error == "LookupError"
        working.ok("broken = False")
        again(working, source)
        assert value(working, "(first, second) == before") is True

    def test_without_a_cell_id_the_source_is_the_cell(self, working: Any) -> None:
        """As in plain IPython."""
        run = f"get_ipython().run_cell({START!r}).raise_error()"
        working.ok(run)
        working.ok("before = futures")
        working.ok(run)
        assert value(working, "futures == before") is True

    def test_200_reruns_leave_one_set_of_runs(self, working: Any) -> None:
        """No thread more, and less than a megabyte."""
        for _ in range(20):
            again(working, START)
        working.ok(
            "import gc, tracemalloc\ntracemalloc.start()\n"
            "gc.collect()\nthreads, before = threading.active_count(), tracemalloc.get_traced_memory()[0]"
        )
        for _ in range(200):
            again(working, START)
        working.ok("gc.collect()\ngrown = tracemalloc.get_traced_memory()[0] - before\ntracemalloc.stop()")
        assert value(working, "threading.active_count() - threads") <= 0
        assert value(working, "len(onix.runs(status=['pending', 'running'], name='held'))") == 3
        assert value(working, "grown") < 1_000_000
        assert value(working, "len(begun)") == 3


BODY = "value = held.start(x=1).result()\nvalue"


class TestFlowCells:
    def test_a_cell_attaches_to_its_flow(self, working: Any) -> None:
        """NAME is the same future."""
        again(working, f"%%onix_flow report\n{BODY}")
        working.ok("before = report")
        cell = again(working, f"%%onix_flow report\n{BODY}")
        assert value(working, "report is before") is True
        assert "attached to run started" in cell.stdout
        assert "attached to run started" in cell.html

    def test_a_changed_cell_cancels_its_old_flow(self, working: Any) -> None:
        """And starts the new one; so does a changed helper or number that it uses."""
        working.ok("number = 1\ndef helper():\n    return number")
        source = "%%onix_flow report\nheld.start(x=helper()).result()"
        again(working, source)
        for change in ("number = 2", "def helper():\n    return number + 1"):
            working.ok(f"before = report\n{change}")
            cell = again(working, source)
            assert "cancelled flow report" in cell.stdout
            assert value(working, "before.cancelled(), report.done()") == (True, False)
        working.ok("before = report")
        again(working, source + " + 1")
        assert value(working, "before.cancelled(), report.done()") == (True, False)

    @pytest.mark.parametrize(("option", "ended"), [("restart", True), ("parallel", False), ("attach", False)])
    def test_the_option_says_what_is_to_be_done(self, working: Any, option: str, ended: bool) -> None:
        """Whatever `configure` says."""
        source = f"%%onix_flow report --on-rerun {option}\n{BODY}"
        again(working, source)
        working.ok("before = report")
        again(working, source)
        assert value(working, "before.cancelled()") is ended
        assert value(working, "report is before") is (option == "attach")

    def test_an_unknown_option_is_refused(self, working: Any) -> None:
        """In one line, and nothing runs."""
        cell = working.run("%%onix_flow report --on-rerun sideways\n1")
        assert "sideways" in cell.stderr + cell.traceback
        assert "Traceback" not in cell.stderr
        assert working.run("report").error == "NameError"


RELOADS = {
    "the extension": "%reload_ext onix_nb",
    "the package": "import importlib, onix_nb\nonix_nb = importlib.reload(onix_nb)",
    "its modules": (
        "import importlib, sys\n"
        "for name in sorted(name for name in sys.modules if name.startswith('onix_nb.engine')):\n"
        "    module = importlib.reload(sys.modules[name])"
    ),
}


class TestFunctions:
    def test_a_run_keeps_the_function_that_it_was_started_with(self, working: Any) -> None:
        """Redefining it changes what starts later."""
        working.ok("@onix.action\ndef version():\n    gate.wait(30)\n    return 1\nold = version.start()")
        working.ok("@onix.action\ndef version():\n    return 2\nnew = version.start().result()")
        working.ok("gate.set()")
        assert value(working, "old.result(), new") == (1, 2)

    def test_autoreload_brings_actions_up_to_date(self, working: Any, tmp_path: Path) -> None:
        """Also those that were imported by name; what was started before, begun or not, keeps its function."""
        source = (
            "import onix_nb as onix\n@onix.action\ndef version(gate=None):\n    gate and gate.wait(30)\n    return {}\n"
        )
        module = tmp_path / "versions_of_work.py"
        module.write_text(source.format(1))
        working.ok(
            f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n%load_ext autoreload\n%autoreload 2\n"
            "import versions_of_work\nfrom versions_of_work import version"
        )
        try:
            with_one = (
                "with onix.configure(max_workers=1):\n    old = version.start(gate=gate), version.start(gate=None)"
            )
            working.ok(with_one)
            module.write_text(source.format(2))
            os.utime(module, (2_000_000_000, 2_000_000_000))  # whatever the resolution of file times is
            new = "version.start(gate=None).result(), versions_of_work.version.start(gate=None).result()"
            assert value(working, new) == (2, 2)
            working.ok("gate.set()")
            assert value(working, "[future.result() for future in old]") == [1, 1]
        finally:
            working.ok("%autoreload 0\nsys.path.pop(0) and None")

    @pytest.mark.parametrize("reload", RELOADS.values(), ids=RELOADS.keys())
    def test_reloading_while_100_runs_are_in_flight(self, new_notebook: Any, reload: str) -> None:
        """Futures stay valid, runs end, and nothing is registered twice."""
        notebook = new_notebook()
        notebook.ok("%load_ext onix_nb\nimport onix\nonix.configure(max_workers=10)" + WORK)
        notebook.ok("futures = [held.start(x=x) for x in range(100)]")
        state = (
            "[len(callbacks) for callbacks in get_ipython().events.callbacks.values()], "
            "sum(name.startswith('onix') for kind in get_ipython().magics_manager.magics.values() for name in kind), "
            "sorted(thread.name for thread in threading.enumerate() if thread.name.startswith('onix'))"
        )
        before = value(notebook, state)
        notebook.ok(reload)
        assert value(notebook, state) == before
        notebook.ok("import onix\ngate.set()\ndone, _ = onix.wait(futures)")
        assert value(notebook, "sorted(future.result() for future in futures)") == list(range(100))
        notebook.ok("@onix.action\ndef later(x):\n    return x")
        assert value(notebook, "later.start(x=7).result()") == 7
