"""Worker processes of a real kernel: what cells define goes there, what is printed there comes back to its cell."""

from __future__ import annotations

import ast
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SETUP = """
import logging, os, sys, warnings, dataclasses
import onix

kernel = os.getpid()
held = threading.Event()  # can't be sent

@dataclasses.dataclass
class Point:
    x: int

factor = 3

def times(x):
    return factor * x

class Gone(Exception):
    pass

@onix.action
def speak(word: str):
    print("printed", word)
    print("on stderr", word, file=sys.stderr)
    logging.getLogger("work").warning("logged %s", word)
    warnings.warn(f"warned {word}")
    return os.getpid() != kernel

@onix.action
def wait_for(folder: str):
    open(f"{folder}/begun{os.getpid()}", "w").close()
    print("it has begun")
    with open(f"{folder}/go") as go:
        return go.read()
"""
SPOKEN = ("printed", "on stderr", "logged", "warned")


@pytest.fixture
def processes(notebook: Any) -> Iterator[Any]:
    """The loaded kernel, whose actions run on processes."""
    notebook.ok(SETUP + "settings = onix.configure(executor='processes', max_workers=2)")
    yield notebook
    notebook.ok("settings.__exit__(None, None, None)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `wait_for` says that it has begun, and waits for its end."""
    os.mkfifo(tmp_path / "go")
    return tmp_path


def value(notebook: Any, source: str) -> Any:
    """The value of an expression in the kernel."""
    return ast.literal_eval(notebook.ok(source).value)


def let_go(folder: Path, text: str) -> None:
    (folder / "go").write_text(text)


def await_begun(folder: Path) -> int:
    """The process that has begun."""
    deadline = time.monotonic() + 30
    while not (begun := list(folder.glob("begun*"))):
        assert time.monotonic() < deadline, "it did not begin"
        threading.Event().wait(0.01)
    return int(begun[0].name.removeprefix("begun"))


class TestOutput:
    def test_what_a_worker_prints_is_under_the_cell_that_started_it(self, processes: Any) -> None:
        """Prints, stderr, logs and warnings; none of it under the cell that runs when they come. And with the run."""
        cell = processes.ok("futures = [speak.start(word=word) for word in ('one', 'two')]")
        later = processes.ok("results = [future.result(timeout=30) for future in futures]")
        assert value(processes, "results") == [True, True]
        processes.until(lambda: said(cell.stdout + cell.stderr, "two") == list(SPOKEN), "all outputs")
        assert said(cell.stdout + cell.stderr, "one") == list(SPOKEN)
        assert "printed one" in cell.stdout
        assert "on stderr one" in cell.stderr
        assert later.stdout + later.stderr == ""
        kept = value(processes, "[future.run.output.text for future in futures]")
        assert [said(text, word) for text, word in zip(kept, ("one", "two"), strict=True)] == [list(SPOKEN)] * 2

    def test_it_comes_while_the_action_runs(self, processes: Any, folder: Path) -> None:
        """A line is shown when it is printed, not at the end."""
        cell = processes.ok(f"future = wait_for.start(folder={str(folder)!r})")
        processes.until(lambda: cell.stdout == "it has begun\n", "the line")
        assert value(processes, "future.done()") is False
        let_go(folder, "done")
        assert value(processes, "future.result(timeout=30)") == "done"


def said(text: str, word: str) -> list[str]:
    """Which kinds of output are in `text`."""
    return [kind for kind in SPOKEN if f"{kind} {word}\n" in text]


class TestCells:
    def test_what_cells_define_goes_there(self, processes: Any) -> None:
        """Functions, classes, closures and exceptions of the notebook; as they are at the start."""
        processes.ok(
            "@onix.action\ndef move(point: Point):\n    return Point(times(point.x)), os.getpid()\n"
            "@onix.action\ndef fail():\n    raise Gone('away')\n"
            "moved, pid = move(point=Point(2)), 0\n"
            "future = move.start(point=Point(2))\nfactor = 5\n"
            "(first, pid), (second, _) = future.result(), move.start(point=Point(2)).result()\n"
            "error = fail.start().exception()"
        )
        assert (
            value(processes, "[first == Point(6), second == Point(10), pid != kernel, type(error) is Gone]")
            == [True] * 4
        )

    def test_onix_is_there(self, processes: Any) -> None:
        """`import onix` in an action's body, its run, and the rules: an action calls no action."""
        processes.ok(
            "@onix.action\ndef inside():\n    import onix as there\n"
            "    return there.current_run().name, there.__name__\n"
            "@onix.action\ndef calls():\n    return speak(word='no')\n"
            "inner, error = inside.start().result(), calls.start().exception()"
        )
        assert value(processes, "inner") == ("inside", "onix_nb")
        assert value(processes, "type(error).__name__") == "ActionCallError"

    def test_what_cannot_go_there_is_named(self, processes: Any) -> None:
        """The variable of the notebook that prevents it; also when it is the kernel itself."""
        processes.ok(
            "shell = get_ipython()\n"
            "@onix.action\ndef waits():\n    held.wait()\n"
            "@onix.action\ndef asks():\n    return shell.user_ns\n"
            "errors = [waits.start().exception(), asks.start().exception()]"
        )
        assert value(processes, "[type(error).__name__ for error in errors]") == ["TransferError"] * 2
        texts = value(processes, "[str(error) for error in errors]")
        assert "its variable 'held' is an Event" in texts[0]
        assert "its variable 'shell' is" in texts[1]


class TestStop:
    def test_stop_ends_the_waiting_only(self, processes: Any, folder: Path) -> None:
        """The cell ends, the worker goes on: the signal goes to the whole process group."""
        processes.ok("speak.start(word='a').result(), speak.start(word='b').result()")
        cell = processes.start(f"future = wait_for.start(folder={str(folder)!r})\nfuture.result()")
        pid = await_begun(folder)
        processes.interrupt()
        processes.end(cell)
        assert cell.error == "KeyboardInterrupt"
        assert value(processes, "future.run.status") == "running"
        let_go(folder, "went on")
        assert value(processes, "future.result(timeout=30)") == "went on"
        assert f"pid {pid} on " in value(processes, "future.run.worker")

    def test_cancel_stops_it(self, processes: Any) -> None:
        """Code that never calls into onix, too; the worker stays and takes the next one."""
        processes.ok(
            "@onix.action\ndef spin():\n    print('spins')\n    while True:\n        pass\n"
            "future = spin.start()\nwhile not future.running():\n    threading.Event().wait(0.01)\n"
            "pid = future.run.worker"
        )
        assert value(processes, "future.cancel(interrupt=True)") is True
        assert value(processes, "future.run.status") == "cancelled"
        processes.ok("while future.run.stopping:\n    threading.Event().wait(0.01)")
        assert value(processes, "speak.start(word='next').result(timeout=30)") is True
        os.kill(int(value(processes, "pid").split()[1]), 0)  # it is there


def test_the_end_of_a_kernel_ends_its_workers(new_notebook: Any, folder: Path) -> None:
    """Restart in the middle of a run: no process is left."""
    notebook = new_notebook()
    notebook.ok("%load_ext onix_nb\nimport threading" + SETUP)
    notebook.ok(f"onix.configure(executor='processes', max_workers=2)\nfuture = wait_for.start(folder={str(folder)!r})")
    pid = await_begun(folder)
    notebook._manager.shutdown_kernel(now=True)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the worker is left behind"
        threading.Event().wait(0.01)
