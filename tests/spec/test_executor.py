"""P13: `onix.Executor` is a `concurrent.futures.Executor` whose calls are runs of the session."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30


@pytest.fixture
def executor() -> Iterator[onix.Executor]:
    with onix.Executor(max_workers=2) as executor:
        yield executor


@onix.action
def one() -> int:
    return 1


def raises(error: BaseException) -> None:
    raise error


# As an executor of the stdlib


def test_it_is_an_executor_and_its_futures_are_futures(executor: onix.Executor) -> None:
    """Of the stdlib and of onix."""
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(pow, 2, 5)
    assert isinstance(future, onix.Future)
    assert future.result(WAIT) == 32


def test_submit_passes_every_argument(executor: onix.Executor) -> None:
    """By position and by name, names that submit uses itself included."""

    def collect(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    future = executor.submit(collect, 1, 2, self=3, fn=4, args=5, kwargs=6)
    assert future.result(WAIT) == ((1, 2), {"self": 3, "fn": 4, "args": 5, "kwargs": 6})


@pytest.mark.parametrize(
    "function", [functools.partial(pow, 2), pow, lambda x: 2**x, type("F", (), {"__call__": lambda self, x: 2**x})()]
)
def test_submit_takes_anything_that_can_be_called(executor: onix.Executor, function: Any) -> None:
    """Partials, builtins, lambdas, objects."""
    arguments = (2, 3) if function is pow else (3,)
    assert executor.submit(function, *arguments).result(WAIT) == 8


def test_an_exception_is_raised_as_it_is(executor: onix.Executor) -> None:
    """The same object, SystemExit included, and the worker goes on."""
    for error in (ValueError("no"), SystemExit(3)):
        assert executor.submit(raises, error).exception(WAIT) is error
    assert executor.submit(int, "1").result(WAIT) == 1


def test_map_keeps_the_order(executor: onix.Executor) -> None:
    """Over several iterables, as long as the shortest."""
    assert list(executor.map(pow, [2, 3, 4, 5], [5, 2, 3])) == [32, 9, 64]


def test_map_raises_where_the_result_would_be(executor: onix.Executor) -> None:
    """After the results before it."""
    results = executor.map(lambda x: 1 // x, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_has_a_timeout(executor: onix.Executor) -> None:
    """TimeoutError when it passes before the next result is there."""
    go = threading.Event()
    results = executor.map(lambda _: go.wait(WAIT), [1], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    go.set()


def test_after_shutdown_it_takes_no_calls() -> None:
    """RuntimeError, as in the stdlib; what was submitted ends."""
    executor = onix.Executor(max_workers=1)
    go = threading.Event()
    first, second = executor.submit(go.wait, WAIT), executor.submit(int, "2")
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(int, "3")
    go.set()
    executor.shutdown()
    assert (first.result(0), second.result(0)) == (True, 2)


def test_shutdown_can_cancel_what_has_not_begun() -> None:
    """And waits for what has."""
    begun, go = threading.Event(), threading.Event()

    def hold() -> int:
        begun.set()
        go.wait(WAIT)
        return 1

    executor = onix.Executor(max_workers=1)
    first, second = executor.submit(hold), executor.submit(int, "2")
    assert begun.wait(WAIT)
    executor.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    go.set()
    executor.shutdown()
    assert first.result(0) == 1


def test_the_end_of_its_block_waits_for_its_calls() -> None:
    """As a context manager it shuts down, also when the block raises."""
    executor = onix.Executor(max_workers=2)
    with pytest.raises(KeyError), executor:
        futures = [executor.submit(time.sleep, 0.05) for _ in range(4)]
        raise KeyError
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        executor.submit(int)


@pytest.mark.parametrize("workers", [0, -1])
def test_it_needs_a_worker(workers: int) -> None:
    """ValueError at the construction."""
    with pytest.raises(ValueError, match="max_workers"):
        onix.Executor(max_workers=workers)


def test_max_workers_is_its_own() -> None:
    """It runs that many calls at once, whatever the actions' workers do."""
    begun, go = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        begun.release()
        go.wait(WAIT)

    @onix.action
    def holds() -> None:
        hold()

    with onix.configure(max_workers=1), onix.Executor(max_workers=3) as executor:
        action = holds.start()
        assert begun.acquire(timeout=WAIT)
        futures = [executor.submit(hold) for _ in range(5)]
        assert all(begun.acquire(timeout=WAIT) for _ in range(3))
        assert [future.run.status for future in futures if future.run] == ["running"] * 3 + ["pending"] * 2
        go.set()
        onix.wait([action, *futures], timeout=WAIT)


def test_its_threads_end_with_it() -> None:
    """After a shutdown, and when it is dropped without one."""

    def threads(executor: onix.Executor) -> set[threading.Thread]:
        meeting = threading.Barrier(2)

        def meet() -> threading.Thread:
            meeting.wait(WAIT)
            return threading.current_thread()

        return {future.result(WAIT) for future in [executor.submit(meet) for _ in range(2)]}

    executor = onix.Executor(max_workers=2)
    shut = threads(executor)
    executor.shutdown()
    executor = onix.Executor(max_workers=2)
    dropped = threads(executor)
    del executor
    gc.collect()
    for thread in shut | dropped:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_the_stdlibs_functions_take_its_futures(executor: onix.Executor) -> None:
    """`wait`, `as_completed` and `asyncio.wrap_future`."""
    futures = [executor.submit(pow, 2, x) for x in range(4)]
    assert concurrent.futures.wait(futures, timeout=WAIT).not_done == set()
    assert sum(future.result() for future in concurrent.futures.as_completed(futures, timeout=WAIT)) == 15

    async def wrap() -> int:
        return await asyncio.wrap_future(executor.submit(pow, 2, 4))

    assert asyncio.run(wrap()) == 16


def test_run_in_executor_shows_its_work(executor: onix.Executor) -> None:
    """A loop's calls are runs like any other."""

    async def main() -> int:
        return await asyncio.get_running_loop().run_in_executor(executor, pow, 2, 6)

    assert asyncio.run(main()) == 64
    run = onix.runs()[-1]
    assert (run.name, run.kind, run.status) == ("pow", "call", "succeeded")


def test_a_loops_default_executor_can_be_one(executor: onix.Executor) -> None:
    """Then `asyncio.to_thread` is visible, and keeps its context variables."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def main() -> int:
        variable.set(7)
        return await asyncio.get_running_loop().run_in_executor(executor, contextvars.copy_context().run, variable.get)

    assert asyncio.run(main()) == 7


# As runs


def test_its_calls_are_runs_of_kind_call(executor: onix.Executor) -> None:
    """In `onix.runs()`, with name, arguments, times and outcome; positional ones are arg0, arg1, ..."""
    future = executor.submit(sorted, [3, 1], reverse=True)
    assert future.result(WAIT) == [3, 1]
    failed = executor.submit(raises, ValueError("no"))
    assert isinstance(failed.exception(WAIT), ValueError)
    run, error = onix.runs([future, failed])
    assert (run.name, run.kind, run.status) == ("sorted", "call", "succeeded")
    assert list(run.arguments) == ["arg0", "reverse"]
    assert run.arguments["reverse"] is True
    assert (error.name, error.status, error.error) == ("raises", "failed", "ValueError: no")
    assert run.started is not None
    assert run.finished is not None
    assert run.queued <= run.started <= run.finished
    assert run in list(onix.runs())
    assert "sorted" in repr(future)


def test_a_call_is_the_child_of_the_flow_that_submits_it(executor: onix.Executor) -> None:
    """So that the view shows it there."""

    @onix.flow
    def submits() -> onix.Future[int]:
        future = executor.submit(pow, 2, 3)
        future.result()
        return future

    future = submits.start()
    child = future.result(WAIT)
    assert child.run is not None
    assert child.run.parent is future.run


def test_code_in_a_call_knows_its_run(executor: onix.Executor) -> None:
    """`onix.current_run()` is the call."""

    def look() -> tuple[str, str]:
        attempt = onix.current_run()
        assert attempt is not None
        return attempt.name, attempt.run.kind

    assert executor.submit(look).result(WAIT) == ("look", "call")


def test_a_call_may_be_interrupted(executor: onix.Executor) -> None:
    """`cancel(interrupt=True)` works as for actions."""
    begun = threading.Event()

    def sleep() -> None:
        begun.set()
        onix.sleep(3600)

    future = executor.submit(sleep)
    assert begun.wait(WAIT)
    assert not future.cancel()
    assert future.cancel(interrupt=True)
    assert executor.submit(int, "1").result(WAIT) == 1


# Exempt from the rules of actions and flows


def test_exempt_from_p2_a_call_takes_a_future_as_an_argument(executor: onix.Executor) -> None:
    """And any positional ones: it is a plain function."""
    first = executor.submit(int, "3")
    assert executor.submit(lambda future, times: future.result() * times, first, 2).result(WAIT) == 6


def test_exempt_from_p3_a_call_starts_actions_and_flows(executor: onix.Executor) -> None:
    """Libraries call back what they like."""

    @onix.flow
    def total() -> int:
        return one.start().result() + one()

    assert executor.submit(lambda: one() + one.start().result() + total()).result(WAIT) == 4


def test_exempt_from_p3_an_action_uses_an_executor(executor: onix.Executor) -> None:
    """A library inside an action may take one."""

    @onix.action
    def uses() -> int:
        return sum(executor.map(int, "123"))

    assert uses() == 6
    assert uses.start().result(WAIT) == 6


@pytest.mark.parametrize("return_when", [onix.FIRST_COMPLETED, onix.FIRST_EXCEPTION])
def test_exempt_from_p6_any_wait_takes_its_futures(executor: onix.Executor, return_when: str) -> None:
    """In strict mode too: an executor's futures are not in Oryonix anyway."""
    go = threading.Event()
    slow, failed = executor.submit(go.wait, WAIT), executor.submit(raises, ValueError("no"))
    try:
        done, not_done = onix.wait([slow, failed], timeout=WAIT, return_when=return_when)
        assert (done, not_done) == ({failed}, {slow})
    finally:
        go.set()


def test_p6_still_holds_for_actions_among_its_futures(executor: onix.Executor) -> None:
    """One action is enough for NotImplementedError."""
    futures: list[onix.Future[Any]] = [executor.submit(int, "1"), one.start()]
    for return_when in (onix.FIRST_COMPLETED, onix.FIRST_EXCEPTION):
        with pytest.raises(NotImplementedError):
            onix.wait(futures, return_when=return_when)
    onix.wait(futures)


def test_exempt_from_p7_nobody_has_to_consume_its_futures(
    executor: onix.Executor, recwarn: pytest.WarningsRecorder
) -> None:
    """Neither in a flow, whatever `leaks` says, nor for a failure of a call from a cell."""

    @onix.flow
    def forgets() -> int:
        executor.submit(int, "1")
        executor.submit(raises, ValueError("unseen"))
        return 1

    with onix.configure(leaks="error"):
        assert forgets() == 1
    executor.submit(raises, ValueError("unseen"))
    executor.shutdown()
    assert not recwarn.list
    assert not any(run.leaked for run in onix.runs()[-4:])


# At exit


def test_at_exit_calls_get_up_to_three_seconds(script: Callable[..., Any]) -> None:
    """What ends in time ends well."""
    out = script("""
    import time
    import onix_nb as onix

    def work():
        time.sleep(1)
        print("worked", flush=True)

    executor = onix.Executor()
    executor.submit(work)
    print("script ends", flush=True)
    """).passes()
    assert out == "script ends\nworked\n"


@pytest.mark.parametrize("work", ["time.sleep(3600)", "onix.sleep(3600)", "spin()"])
def test_at_exit_a_call_that_does_not_end_is_left(script: Callable[..., Any], work: str) -> None:
    """The process ends all the same, in silence, and not at once."""
    out = script(f"""
    import atexit, threading, time
    import onix_nb as onix

    def spin():
        while True:
            pass

    def call():
        begun.set()
        {work}

    # Registered after the import of onix, so called before its exit.
    atexit.register(lambda: print(time.monotonic(), flush=True))
    begun = threading.Event()
    onix.Executor().submit(call)
    begun.wait()
    """).passes()
    # From the exit of the script to now, which is after the end of the process.
    # Within 5 s on a machine that is free; a process that waited would take an hour.
    assert 2.5 < time.monotonic() - float(out) < 30
