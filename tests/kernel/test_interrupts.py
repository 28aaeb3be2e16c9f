"""N4: Stop ends the waiting, not the work; the cell says what still runs, and its result is there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

WORK = """
gate = threading.Event()
@onix.action
def work(x: int):
    gate.wait()
    return x
@onix.flow
def total(n: int):
    return sum(future.result() for future in [work.start(x=x) for x in range(n)])
def go():
    # Prints go as soon as the main thread blocks somewhere else, or awaits.
    def look():
        while True:
            frames, frame = [], sys._current_frames()[threading.main_thread().ident]
            while frame is not None:
                frames.append(frame.f_code)
                frame = frame.f_back
            if frames[0].co_name in ("_park_main", "wait", "select") and go.__code__ not in frames:
                print("go")
                return
    threading.Thread(target=look).start()
"""
OPEN = "gate.set(); _ = onix.wait(onix.runs(status=['pending', 'running']).futures)"
# How a cell may wait for one run, with the name of that run and its result.
WAITS = {
    "result": ("future = work.start(x=7)\ngo()\nfuture.result()", "work", "7"),
    "exception": ("future = work.start(x=7)\ngo()\nfuture.exception()", "work", "7"),
    "wait": ("future = work.start(x=7)\ngo()\nonix.wait([future])", "work", "7"),
    "wait for the first": (
        "future = total.start(n=3)\ngo()\nonix.wait([future], return_when=onix.FIRST_COMPLETED)",
        "total",
        "3",
    ),
    "as_completed": ("future = work.start(x=7)\ngo()\nfor _ in onix.as_completed([future]): pass", "work", "7"),
    "a direct call of a flow": ("go()\ntotal(n=3)", "total", "3"),
    "a flow cell": ("%%onix_flow nightly --wait\ngo()\nwork.start(x=7).result()", "nightly", "7"),
    "await": ("future = work.start(x=7)\ngo()\nawait future", "work", "7"),
    "a block in a cell that awaits": (
        "import asyncio\nfuture = work.start(x=7)\nawait asyncio.sleep(0)\ngo()\nfuture.result()",
        "work",
        "7",
    ),
}


@pytest.fixture
def stop(notebook: Any) -> Iterator[Callable[..., Any]]:
    """Runs a cell, which has to print go, and stops it; what runs may end after the test."""
    notebook.ok("import sys" + WORK)

    def stop(source: str) -> Any:
        cell = notebook.start(source)
        notebook.until(lambda: cell.stdout.startswith("go"), "the cell to wait")
        notebook.interrupt()
        notebook.end(cell)
        return cell

    yield stop
    notebook.ok(OPEN)


@pytest.mark.parametrize(("source", "name", "result"), WAITS.values(), ids=WAITS)
def test_it_ends_the_wait_and_the_work_goes_on(
    notebook: Any, stop: Callable[..., Any], source: str, name: str, result: str
) -> None:
    """One message says what runs and how to wait again, and that way of waiting works."""
    cell = stop(source)
    assert cell.error == ("CancelledError" if "await future" in source else "KeyboardInterrupt")
    message = cell.stdout.partition("go\n")[2]
    assert message.count("onix_nb: stopped waiting") == 1
    assert f"this goes on: {name} (run " in message
    number = message.partition("(run ")[2].partition(")")[0]
    assert f"%onix_cancel {number}\n" in message
    again = message.partition("or ")[2].partition("\n")[0]
    notebook.ok(f"gate.set()\ndone, not_done = {again}")
    assert notebook.ok(f"[f.result() for f in done if f.run.id == {number}], not_done").value == f"([{result}], set())"


def test_without_the_extension_an_idle_await_is_not_stopped(new_notebook: Callable[[], Any]) -> None:
    """The control: what it does for cells that await is needed. Nothing wakes the loop but the next message."""
    notebook = new_notebook()
    notebook.ok("import sys, threading\nimport onix_nb as onix" + WORK)
    cell = notebook.start(WAITS["await"][0])
    notebook.until(lambda: "go\n" in cell.stdout, "the cell to begin")
    notebook.interrupt()
    assert not notebook.ends_within(cell, 2.0)
    notebook.ok(OPEN)
    assert cell.error == "CancelledError"


def test_a_stopped_action_has_ended(notebook: Any, stop: Callable[..., Any]) -> None:
    """A direct call runs on the thread that Stop interrupts: the work itself ends, and nothing is said to go on."""
    cell = stop("go()\nwork(x=1)")
    assert (cell.error, cell.stdout) == ("KeyboardInterrupt", "go\n")
    value = notebook.ok("run = onix.runs(name='work')[-1]\nrun.status, run.error, run.finished is not None").value
    assert value == "('failed', 'KeyboardInterrupt', True)"
    assert notebook.ok("gate.set(); work(x=2)").value == "2"


def test_a_stopped_attempt_of_many_is_not_tried_again(notebook: Any, stop: Callable[..., Any]) -> None:
    """Retries are for errors."""
    notebook.ok("tries = []\n@onix.action(retry=3)\ndef often():\n    tries.append(1)\n    gate.wait()")
    assert stop("go()\noften()").error == "KeyboardInterrupt"
    assert notebook.ok("tries, onix.runs(name='often')[-1].status").value == "([1], 'failed')"


def test_the_message_names_ten_and_counts_the_others(notebook: Any, stop: Callable[..., Any]) -> None:
    """However many go on. What a flow has started is left to the flow."""
    message = stop("futures = [total.start(n=2) for _ in range(1250)]\ngo()\nonix.wait(futures)").stdout
    assert message.count("total (run ") == 10
    assert " and 1,240 more\n" in message
    assert "work (run" not in message
    assert "%onix_cancel --all" in message
    assert len(message) < 800


def test_a_wait_for_what_other_cells_have_started(notebook: Any, stop: Callable[..., Any]) -> None:
    """Everything that still runs is named."""
    notebook.ok("first, second = work.start(x=1), total.start(n=1)")
    message = stop("go()\nonix.wait([first, second])").stdout
    assert "these go on: work (run " in message
    assert ", total (run " in message
    assert 'onix.wait(onix.runs(status=["pending", "running"]).futures)' in message


@pytest.mark.parametrize(
    "source",
    ["go()\nthreading.Event().wait()", "import asyncio\ngo()\nawait asyncio.sleep(3600)"],
    ids=["a cell that blocks", "a cell that awaits"],
)
def test_a_cell_that_waits_for_nothing_of_ours(notebook: Any, stop: Callable[..., Any], source: str) -> None:
    """It ends, and is not told of what other cells run."""
    notebook.ok("future = work.start(x=1)")
    cell = stop(source)
    assert cell.error in ("KeyboardInterrupt", "CancelledError")
    assert cell.stdout == "go\n"


def test_nothing_is_said_when_nothing_goes_on(notebook: Any, stop: Callable[..., Any]) -> None:
    """All runs of the cell have ended before."""
    cell = stop("gate.set()\nwork.start(x=1).result()\ngo()\nthreading.Event().wait()")
    assert (cell.error, cell.stdout) == ("KeyboardInterrupt", "go\n")


def test_only_stop_is_reported(notebook: Any, stop: Callable[..., Any]) -> None:
    """Not an error, nor a task of the user's that was cancelled, whatever goes on."""
    failed = notebook.run("future = work.start(x=1)\nraise ValueError")
    cancelled = notebook.run(
        "import asyncio\nfuture = work.start(x=2)\ntask = asyncio.ensure_future(asyncio.sleep(9))\n"
        "task.cancel()\nawait task"
    )
    assert (failed.error, cancelled.error) == ("ValueError", "CancelledError")
    assert failed.stdout + cancelled.stdout == ""


def test_the_cell_after_a_stopped_one(notebook: Any, stop: Callable[..., Any]) -> None:
    """Belongs to no run, has the kernel's own handler, and can be stopped like any other."""
    for source in ("go()\nwork(x=1)", "go()\nawait work.start(x=1)", "go()\nwork.start(x=1).result()"):
        stop(source)
        assert notebook.ok("onix.current_run()").value is None
        value = notebook.ok("import signal\nsignal.getsignal(signal.SIGINT) is signal.default_int_handler").value
        assert value == "True"


def test_shell_commands_are_stopped_as_ever(notebook: Any, stop: Callable[..., Any]) -> None:
    """Stop goes to the whole group of processes: the command dies of it, and the kernel lives."""
    stop("!echo go; sleep 3600")
    assert notebook.ok("!echo fine").stdout.strip() == "fine"
