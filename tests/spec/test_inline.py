"""E3: a direct call of a synchronous action is a function call on the caller's own thread."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30
NOW = onix.RetryPolicy(initial_interval=0, maximum_attempts=3)


@onix.action
def thread() -> threading.Thread:
    return threading.current_thread()


@onix.action(timeout=WAIT)
def thread_with_timeout() -> threading.Thread:
    return threading.current_thread()


@onix.action
async def thread_of_loop() -> threading.Thread:
    return threading.current_thread()


def test_in_a_cell_it_runs_on_the_cells_thread() -> None:
    """Without one of its own."""
    assert thread() is threading.current_thread()


def test_in_a_flow_it_runs_on_the_flows_thread() -> None:
    """With `def` and with `async def`."""

    @onix.flow
    def plain() -> bool:
        return thread() is threading.current_thread() is not threading.main_thread()

    @onix.flow
    async def asynchronous() -> bool:
        return thread() is threading.current_thread() is not threading.main_thread()

    assert plain()
    assert asynchronous()


@pytest.mark.parametrize("action", [thread_with_timeout, thread_of_loop], ids=["timeout", "async"])
def test_with_a_timeout_or_async_it_runs_elsewhere(action: Any) -> None:
    """Its caller could not give it up, or would block its loop."""
    assert action() is not threading.current_thread()


def test_it_takes_no_worker() -> None:
    """A direct call goes on while all workers are busy, from cells and from flows, as many as there are callers."""
    begun, go = threading.Event(), threading.Event()
    meeting = threading.Barrier(10)

    @onix.action
    def hold() -> None:
        begun.set()
        assert go.wait(WAIT)

    @onix.action
    def meet() -> int:
        return meeting.wait(WAIT)

    @onix.flow
    def caller() -> int:
        return meet()

    with onix.configure(max_workers=1):
        held = hold.start()
        assert begun.wait(WAIT)
        assert thread() is threading.current_thread()
        assert sorted(future.result(WAIT) for future in [caller.start() for _ in range(10)]) == list(range(10))
        assert not held.done()
        go.set()
        held.result(WAIT)


def test_retries_loop_inline() -> None:
    """Each attempt on the caller's thread, and the last one's result counts."""
    attempts: list[tuple[int, threading.Thread]] = []

    @onix.action(retry=NOW)
    def shaky() -> str:
        attempt = onix.current_run()
        assert attempt is not None
        attempts.append((attempt.attempt, threading.current_thread()))
        if len(attempts) < 3:
            raise ValueError(len(attempts))
        return "done"

    assert shaky() == "done"
    assert attempts == [(number, threading.current_thread()) for number in (1, 2, 3)]
    run = onix.runs()[-1]
    assert (run.status, run.attempt) == ("succeeded", 3)
    assert [(span.attempt, span.error) for span in run.spans or ()] == [(1, "ValueError: 1"), (2, "ValueError: 2")]


def test_after_the_last_attempt_its_own_exception_is_raised() -> None:
    """The last one, as it is."""
    errors: list[ValueError] = []

    @onix.action(retry=NOW)
    def fails() -> None:
        errors.append(ValueError(len(errors)))
        raise errors[-1]

    with pytest.raises(ValueError, match="2") as caught:
        fails()
    assert len(errors) == 3
    assert caught.value is errors[-1]


def test_an_exception_comes_with_its_traceback() -> None:
    """Down to the line of the user's function."""

    @onix.action
    def fails() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here") as caught:
        fails()
    assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][-1] == "fails"


def test_what_ends_the_program_passes_and_is_recorded() -> None:
    """KeyboardInterrupt and SystemExit are raised at the caller, without a retry."""
    calls: list[int] = []

    @onix.action(retry=NOW)
    def stops() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stops()
    assert calls == [1]
    assert onix.runs()[-1].status == "failed"


def test_it_is_a_run_as_any_other() -> None:
    """While it runs and after: with its parent, its arguments, its times and its outcome."""
    seen: list[Any] = []

    @onix.action
    def act(x: int) -> int:
        attempt = onix.current_run()
        assert attempt is not None
        seen.append((attempt.run, attempt.run.status, attempt.run in list(onix.runs())))
        return x

    @onix.flow
    def calls() -> int:
        return act(x=3)

    future = calls.start()
    assert future.result(WAIT) == 3
    run, status, visible = seen[0]
    assert (status, visible) == ("running", True)
    assert (run.name, run.kind, run.status, run.arguments) == ("act", "action", "succeeded", {"x": 3})
    assert run.parent is future.run
    assert run.queued == run.started <= run.finished


def test_after_it_the_caller_is_the_current_run_again() -> None:
    """Also after a failure, and in a cell nobody is."""

    @onix.action
    def fails() -> None:
        raise ValueError("inside")

    @onix.flow
    def calls() -> str:
        with pytest.raises(ValueError, match="inside"):
            fails()
        attempt = onix.current_run()
        assert attempt is not None
        return attempt.name

    assert calls() == "calls"
    with pytest.raises(ValueError, match="inside"):
        fails()
    assert onix.current_run() is None


def test_it_may_not_call_actions_or_flows_either() -> None:
    """ActionCallError, as for an action that was started."""

    @onix.action
    def calls() -> None:
        thread()

    with pytest.raises(onix.errors.ActionCallError, match="calls"):
        calls()


@pytest.mark.parametrize("call", [onix.current_run, lambda: onix.sleep(0), lambda: onix.wait([])])
def test_a_cancel_of_its_flow_reaches_it(call: Callable[[], Any]) -> None:
    """At its next call into onix."""
    begun, cancelled, ended = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    @onix.action
    def act() -> None:
        begun.set()
        assert cancelled.wait(WAIT)
        try:
            call()
            onix.sleep(3600)
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            ended.set()

    @onix.flow
    def flow() -> None:
        act()

    future = flow.start()
    assert begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    cancelled.set()
    assert ended.wait(WAIT)
    assert isinstance(errors[0], onix.errors.RunCancelled)


def test_a_cancel_between_two_attempts_ends_it() -> None:
    """The pause before a retry is interruptible, and no further attempt is made."""
    failed, ended = threading.Event(), threading.Event()
    calls: list[int] = []

    @onix.action(retry=onix.RetryPolicy(initial_interval=3600))
    def fails() -> None:
        calls.append(1)
        failed.set()
        raise ValueError

    @onix.flow
    def flow() -> None:
        try:
            fails()
        finally:
            ended.set()

    future = flow.start()
    assert failed.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert ended.wait(WAIT)
    assert calls == [1]


def test_a_cell_with_a_running_loop_calls_it_inline_too() -> None:
    """As in a notebook."""

    async def cell() -> threading.Thread:
        return thread()

    assert asyncio.run(cell()) is threading.current_thread()
