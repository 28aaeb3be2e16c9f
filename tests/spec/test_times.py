"""E8: times are monotonic; the time of day is UTC, aware, and only shown."""

from __future__ import annotations

import ast
import datetime
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.model.run import (
    clock_time,
)  # the one place that knows the time of day; views and frames take it from there

WAIT = 30


@onix.action
def act() -> None:
    pass


@onix.action
async def act_later() -> None:
    pass


@onix.flow
def flow() -> None:
    act.start().result()


@pytest.mark.parametrize(
    "start",
    [act.start, act_later.start, flow.start, lambda: EXECUTOR.submit(act.__wrapped__)],
    ids=["action", "async action", "flow", "call"],
)
def test_a_runs_times_are_monotonic_seconds_in_order(start: Callable[[], onix.Future[None]]) -> None:
    """Queued, started and finished lie between the call and the result, by `time.monotonic()`."""
    before = time.monotonic()
    future = start()
    future.result(WAIT)
    after = time.monotonic()
    run = future.run
    assert run is not None
    assert run.started is not None
    assert run.finished is not None
    assert before <= run.queued <= run.started <= run.finished <= after


EXECUTOR = onix.Executor(max_workers=1)


def test_times_are_none_until_it_happens() -> None:
    """A pending run has no start, a running one no end."""
    begun, go = threading.Event(), threading.Event()

    @onix.action
    def hold() -> None:
        begun.set()
        assert go.wait(WAIT)

    with onix.configure(max_workers=1):
        running, pending = hold.start(), hold.start()
        assert begun.wait(WAIT)
        assert running.run is not None
        assert pending.run is not None
        assert running.run.started is not None
        assert (running.run.finished, pending.run.started, pending.run.finished) == (None, None, None)
        assert pending.run.elapsed is None
        first = running.run.elapsed
        assert first is not None
        onix.sleep(0.01)
        assert running.run.elapsed >= first + 0.01
        go.set()
        onix.wait([running, pending], timeout=WAIT)
    assert running.run.elapsed == running.run.finished - running.run.started  # type: ignore[operator]
    assert running.run.elapsed == running.run.elapsed


def test_a_run_that_was_cancelled_while_pending_has_an_end_and_no_start() -> None:
    """It never ran."""
    begun, go = threading.Event(), threading.Event()

    @onix.action
    def hold() -> None:
        begun.set()
        assert go.wait(WAIT)

    with onix.configure(max_workers=1):
        running, pending = hold.start(), hold.start()
        assert begun.wait(WAIT)
        assert pending.cancel()
        assert pending.run is not None
        assert pending.run.started is None
        assert pending.run.finished is not None
        assert pending.run.finished >= pending.run.queued
        go.set()
        running.result(WAIT)


def test_each_attempt_has_its_times() -> None:
    """In order, within those of the run."""

    @onix.action(retry=onix.RetryPolicy(initial_interval=0.01, maximum_attempts=3))
    def fails() -> None:
        raise ValueError

    future = fails.start()
    assert isinstance(future.exception(WAIT), ValueError)
    run = future.run
    assert run is not None
    times = [time for span in run.spans or () for time in (span.started, span.finished)]
    assert len(times) == 4
    assert [run.started, *times[1:], run.finished] == sorted([run.started, *times[1:], run.finished])  # type: ignore[type-var]
    assert times[2] - times[1] >= 0.01


def test_the_time_of_day_is_aware_and_utc() -> None:
    """What is shown says which zone it is in."""
    shown = clock_time(time.monotonic())
    assert shown.tzinfo is datetime.UTC
    assert abs(shown - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(seconds=5)


JUMPING = """
    import itertools, threading, time
    real, turn = time.time, itertools.count()
    # A clock that is set an hour forward and a day back, again and again.
    time.time = lambda: real() + (3600 if next(turn) % 2 else -86400)
    import onix_nb as onix

    @onix.action(timeout=0.2)
    def slow():
        onix.sleep(30)

    @onix.action(retry=onix.RetryPolicy(initial_interval=0.1, maximum_attempts=3))
    def shaky():
        if onix.current_run().attempt < 3:
            raise ValueError
        return 1

    begun = time.monotonic()
    assert isinstance(slow.start().exception(30), onix.errors.AttemptTimeoutError)
    assert 0.2 <= time.monotonic() - begun < 20
    begun = time.monotonic()
    assert shaky.start().result(30) == shaky() == 1
    assert 0.6 <= time.monotonic() - begun < 20
    begun = time.monotonic()
    never = onix.Future()
    for wait in (lambda: never.result(0.1), lambda: list(onix.as_completed([never], 0.1))):
        try:
            wait()
        except TimeoutError:
            pass
        else:
            raise AssertionError("no timeout")
    onix.wait([never], timeout=0.1)
    onix.sleep(0.1)
    assert 0.4 <= time.monotonic() - begun < 20
    for run in onix.runs():
        assert 0 <= run.queued <= run.started <= run.finished and 0 <= run.elapsed < 20
"""


def test_a_clock_that_is_set_changes_nothing(script: Callable[..., Any]) -> None:
    """Timeouts, pauses, sleeps and elapsed times go by the monotonic clock."""
    script(JUMPING).passes()


def time_of_day_calls(source: str) -> list[int]:
    """The lines that ask for the time of day."""
    wanted = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today")}
    wanted |= {("date", "today"), ("time", "localtime"), ("time", "gmtime")}
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, (ast.Name, ast.Attribute))
        and (node.value.id if isinstance(node.value, ast.Name) else node.value.attr, node.attr) in wanted
    ]


def test_only_one_place_asks_for_the_time_of_day() -> None:
    """`model/run.py`, once, to show monotonic times."""
    folder = Path(onix.__file__).parent
    found = {
        str(path.relative_to(folder)): lines
        for path in sorted(folder.rglob("*.py"))
        if (lines := time_of_day_calls(path.read_text(encoding="utf-8")))
    }
    assert list(found) == ["model/run.py"]
    assert len(found["model/run.py"]) == 1


def test_control_the_search_finds_the_time_of_day() -> None:
    """In the ways it is written."""
    assert time_of_day_calls("import time\nx = time.time()\ny = datetime.datetime.now()\nz = time.monotonic()") == [
        2,
        3,
    ]
