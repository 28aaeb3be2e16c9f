"""P4: an `onix.Future` is a `concurrent.futures.Future` of a run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.errors import DeadlockError

WAIT = 30


@onix.action
def double(x: int) -> int:
    return 2 * x


@onix.action
def fail(error: BaseException) -> None:
    raise error


@onix.flow
def fail_in_flow(error: BaseException) -> None:
    raise error


@onix.action
async def fail_async(error: BaseException) -> None:
    raise error


@onix.flow
async def fail_in_async_flow(error: BaseException) -> None:
    raise error


FAILING = [fail, fail_in_flow, fail_async, fail_in_async_flow]
each_failing = pytest.mark.parametrize("function", FAILING, ids=lambda function: function.__name__)
both_kinds = pytest.mark.parametrize("kind", ["action", "flow"])


def ended(future: onix.Future[Any]) -> onix.Future[Any]:
    """The future, when its run has ended."""
    onix.wait([future], timeout=WAIT)
    assert future.done()
    return future


# Its states


@both_kinds
def test_it_goes_from_running_to_done(held: Any, kind: str) -> None:
    """`running()` while the function runs, then `done()`, never both."""
    future = getattr(held, kind).start()
    held.await_begun()
    assert (future.running(), future.done(), future.cancelled()) == (True, False, False)
    assert future.run.status == "running"
    held.let_go()
    assert future.result(WAIT) == 0
    assert (future.running(), future.done(), future.cancelled()) == (False, True, False)
    assert future.run.status == "succeeded"


def test_it_is_neither_running_nor_done_while_it_is_pending(held: Any) -> None:
    """An action that waits for a worker."""
    with onix.configure(max_workers=1):
        first = held.action.start()
        held.await_begun()
        second = double.start(x=1)
        assert (second.running(), second.done(), second.cancelled()) == (False, False, False)
        assert second.run is not None
        assert second.run.status == "pending"
        held.let_go()
        assert (first.result(WAIT), second.result(WAIT)) == (0, 2)


@each_failing
def test_a_failed_future_is_done(function: Any) -> None:
    """And not cancelled."""
    future = function.start(error=ValueError("v"))
    assert isinstance(future.exception(WAIT), ValueError)
    assert (future.running(), future.done(), future.cancelled()) == (False, True, False)
    assert future.run.status == "failed"


def test_cancel_takes_back_what_has_not_begun(held: Any) -> None:
    """Its function never runs; result() and exception() raise CancelledError; a second cancel is True, too."""
    called = threading.Event()

    @onix.action
    def never() -> None:
        called.set()

    with onix.configure(max_workers=1):
        first = held.action.start()
        held.await_begun()
        second = never.start()
        assert second.cancel()
        assert (second.cancelled(), second.done(), second.running()) == (True, True, False)
        assert second.run is not None
        assert second.run.status == "cancelled"
        for ask in (second.result, second.exception):
            with pytest.raises(concurrent.futures.CancelledError):
                ask(WAIT)
        assert second.cancel()
        held.let_go()
        first.result(WAIT)
        assert double.start(x=1).result(WAIT) == 2  # the one worker has come past it
    assert not called.is_set()


@both_kinds
def test_cancel_leaves_what_runs_alone(held: Any, kind: str) -> None:
    """As in the stdlib it returns False, and the result comes."""
    future = getattr(held, kind).start(x=5)
    held.await_begun()
    assert not future.cancel()
    assert not future.cancelled()
    held.let_go()
    assert future.result(WAIT) == 5
    assert not future.cancel()


# result() and exception()


def test_result_can_be_taken_again_and_again() -> None:
    """Always the same object."""

    @onix.action
    def make() -> list[int]:
        return [1]

    future = make.start()
    assert future.result(WAIT) is future.result()


def test_exception_is_none_on_success() -> None:
    """And blocks until then."""
    assert double.start(x=1).exception(WAIT) is None


@pytest.mark.parametrize("method", ["result", "exception"])
@both_kinds
def test_a_timeout_ends_the_wait_only(held: Any, kind: str, method: str) -> None:
    """The builtin TimeoutError is raised, and the run goes on."""
    future = getattr(held, kind).start(x=6)
    held.await_begun()
    for seconds in (0, 0.01):
        with pytest.raises(TimeoutError) as caught:
            getattr(future, method)(seconds)
        assert type(caught.value) is concurrent.futures.TimeoutError
    assert future.running()
    held.let_go()
    assert future.result(timeout=WAIT) == 6
    assert future.result(timeout=0) == 6


@pytest.mark.parametrize("method", ["result", "exception"])
@pytest.mark.parametrize("state", ["done", "running"])
@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (-0.001, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_a_bad_timeout_is_refused(held: Any, method: str, state: str, timeout: Any, error: type[Exception]) -> None:
    """Whether the run has ended or not; the message names the parameter and shows the value."""
    future = held.action.start()
    held.await_begun()
    if state == "done":
        held.let_go()
        ended(future)
    with pytest.raises(error, match=f"timeout.*{timeout!r}"):
        getattr(future, method)(timeout)
    held.let_go()
    future.result(WAIT)


@pytest.mark.parametrize("method", ["result", "exception"])
def test_many_threads_wait_for_the_same_future(held: Any, method: str) -> None:
    """Each gets the outcome."""
    future, ready, got = held.action.start(x=8), threading.Barrier(11), []

    def ask() -> None:
        ready.wait(WAIT)
        got.append(getattr(future, method)(WAIT))

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    ready.wait(WAIT)
    held.let_go()
    for thread in threads:
        thread.join(WAIT)
    assert got == [8 if method == "result" else None] * 10


# A user's exception


@each_failing
def test_an_exception_is_the_same_object(function: Any) -> None:
    """From exception(), from result(), and from a direct call."""
    error = ValueError("mine")
    future = function.start(error=error)
    assert future.exception(WAIT) is error
    with pytest.raises(ValueError, match="mine") as caught:
        future.result()
    assert caught.value is error
    with pytest.raises(ValueError, match="mine") as caught:
        function(error=error)
    assert caught.value is error


@each_failing
def test_its_traceback_starts_in_the_users_function(function: Any) -> None:
    """Without the frames of ours that led to it."""
    error = function.start(error=ValueError("mine")).exception(WAIT)
    frames = traceback.extract_tb(error.__traceback__)
    assert [frame.name for frame in frames] == [function.__name__]
    assert frames[0].filename == __file__
    assert frames[0].line == "raise error"


def test_its_traceback_has_every_frame_of_the_user() -> None:
    """From the decorated function down to the line that raised."""

    def inner() -> None:
        raise ValueError("mine")

    def middle() -> None:
        inner()

    @onix.action
    def outer() -> None:
        middle()

    error = outer.start().exception(WAIT)
    assert error is not None
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["outer", "middle", "inner"]


@each_failing
def test_result_raises_it_with_that_traceback(function: Any) -> None:
    """The frames of the one who asks come first, the user's function last."""
    future = function.start(error=ValueError("mine"))
    with pytest.raises(ValueError, match="mine") as caught:
        future.result(WAIT)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[0] == "test_result_raises_it_with_that_traceback"
    assert names[-1] == function.__name__


def test_an_exception_passes_through_flows_unchanged() -> None:
    """However many flows it passes, it is the object that the action raised."""
    error = KeyError("deep")

    @onix.flow
    def nest(depth: int) -> None:
        if depth:
            nest.start(depth=depth - 1).result()
        else:
            fail(error=error)

    future = nest.start(depth=5)
    assert future.exception(WAIT) is error
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == "fail"


def test_cause_context_and_notes_stay() -> None:
    """Nothing is chained to it, and nothing is lost."""

    @onix.action
    def chained() -> None:
        try:
            raise KeyError("cause")
        except KeyError as cause:
            error = ValueError("effect")
            error.add_note("a note")
            raise error from cause

    error = chained.start().exception(WAIT)
    assert error is not None
    assert isinstance(error.__cause__, KeyError)
    assert error.__context__ is error.__cause__
    assert error.__notes__ == ["a note"]
    plain = fail.start(error=ValueError("alone")).exception(WAIT)
    assert plain is not None
    assert (plain.__cause__, plain.__context__) == (None, None)


@each_failing
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(1)], ids=repr)
def test_any_exception_is_an_outcome(function: Any, error: BaseException) -> None:
    """Also those that would end a program: they fail their run, and the next one works."""
    future = function.start(error=error)
    outcome = future.exception(WAIT)
    if isinstance(error, StopIteration) and function in (fail_async, fail_in_async_flow):
        assert isinstance(outcome, RuntimeError)  # Python itself does that in a coroutine
        assert outcome.__cause__ is error
    else:
        assert outcome is error
        with pytest.raises(type(error)):
            future.result()
    assert double.start(x=1).result(WAIT) == 2


def test_an_exception_group_stays_a_group() -> None:
    """`except*` works on what result() raises."""
    caught = []
    try:
        fail.start(error=ExceptionGroup("both", [ValueError("v"), KeyError("k")])).result(WAIT)
    except* ValueError as group:
        caught.append(group.exceptions)
    except* KeyError as group:
        caught.append(group.exceptions)
    assert [type(error) for (error,) in caught] == [ValueError, KeyError]


def test_an_exception_that_cannot_be_shown_is_an_outcome_too() -> None:
    """Whatever its `__str__` does."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    error = Broken()
    future = fail.start(error=error)
    assert future.exception(WAIT) is error
    assert "Broken" in repr(future)


# Callbacks


def test_a_callback_gets_the_future_once(held: Any) -> None:
    """When the run has ended, in the order of adding."""
    future, seen, called = held.action.start(), [], threading.Event()
    future.add_done_callback(lambda f: seen.append(("first", f, f.done())))
    future.add_done_callback(lambda f: seen.append(("second", f, f.done())))
    future.add_done_callback(lambda _: called.set())
    assert not seen
    held.let_go()
    assert called.wait(WAIT)
    assert seen == [("first", future, True), ("second", future, True)]


def test_a_callback_of_a_done_future_is_called_at_once() -> None:
    """On the thread that adds it."""
    future, seen = ended(double.start(x=1)), []
    future.add_done_callback(lambda f: seen.append((f, threading.current_thread())))
    assert seen == [(future, threading.current_thread())]


def test_a_callback_of_a_cancelled_future_is_called(held: Any) -> None:
    """By the one who cancels."""
    seen = []
    with onix.configure(max_workers=1):
        first = held.action.start()
        held.await_begun()
        second = double.start(x=1)
        second.add_done_callback(lambda f: seen.append(f.cancelled()))
        assert second.cancel()
        assert seen == [True]
        held.let_go()
        first.result(WAIT)


def test_a_callback_that_raises_is_logged_and_ignored(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the stdlib, by its logger: the callbacks after it are called, and the outcome stays."""
    future, called = held.action.start(x=9), threading.Event()
    logger, logged = logging.getLogger("concurrent.futures"), []
    monkeypatch.setattr(logger, "handle", logged.append)

    def broken(_: Any) -> None:
        raise ValueError("callback")

    future.add_done_callback(broken)
    future.add_done_callback(lambda _: called.set())
    held.let_go()
    assert called.wait(WAIT)
    assert future.result(WAIT) == 9
    assert [record.levelname for record in logged] == ["ERROR"]
    assert isinstance(logged[0].exc_info[1], ValueError)


def test_a_callback_may_start_actions(held: Any) -> None:
    """It runs outside of the run that ended: the rule of actions does not hold for it."""
    future, started, called = held.action.start(), [], threading.Event()

    def start_another(_: Any) -> None:
        started.append((onix.current_run(), double.start(x=4)))
        called.set()

    future.add_done_callback(start_another)
    held.let_go()
    assert called.wait(WAIT)
    run, child = started[0]
    assert run is None
    assert child.result(WAIT) == 8
    assert child.run.parent is None


# The stdlib's functions


@pytest.mark.parametrize("return_when", ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"])
def test_the_stdlibs_wait_takes_it(held: Any, return_when: str) -> None:
    """With futures of others mixed in, and without the rules of `onix.wait`."""
    foreign: concurrent.futures.Future[int] = concurrent.futures.Future()
    futures = [held.action.start(), held.flow.start(), foreign]
    held.await_begun(2)
    assert concurrent.futures.wait(futures, timeout=0.01).done == set()
    foreign.set_exception(ValueError())
    if return_when != "ALL_COMPLETED":
        assert concurrent.futures.wait(futures, timeout=WAIT, return_when=return_when).done == {foreign}
    held.let_go()
    assert concurrent.futures.wait(futures, timeout=WAIT).not_done == set()
    assert [future.result() for future in futures[:2]] == [0, 0]


def test_the_stdlibs_wait_wakes_for_it(held: Any) -> None:
    """A thread that blocks there hears of a result, of a failure and of a cancel."""
    error = ValueError("late")

    @onix.flow
    def fails_late() -> None:
        held.flow()
        raise error

    futures = [held.flow.start(), fails_late.start()]
    held.await_begun(2)
    blocked, returned = threading.Event(), []

    def wait() -> None:
        blocked.set()
        returned.append(concurrent.futures.wait(futures, timeout=WAIT))

    thread = threading.Thread(target=wait)
    thread.start()
    assert blocked.wait(WAIT)
    held.let_go()
    thread.join(WAIT)
    assert returned[0].done == set(futures)
    assert futures[1].exception() is error


def test_the_stdlibs_as_completed_takes_it(held: Any) -> None:
    """It yields each once, as it ends."""
    slow = held.action.start()
    quick = [double.start(x=x) for x in range(5)]
    iterator = concurrent.futures.as_completed([slow, *quick], timeout=WAIT)
    first = {next(iterator) for _ in range(5)}
    assert first == set(quick)
    held.let_go()
    assert list(iterator) == [slow]
    assert sorted(future.result() for future in quick) == [0, 2, 4, 6, 8]
    slow.result()


def test_wrap_future_takes_it(held: Any) -> None:
    """`asyncio.wrap_future` gives its result, its exception, and its cancel."""
    error = ValueError("mine")

    async def main() -> None:
        waiting = asyncio.wrap_future(held.flow.start(x=3))
        await asyncio.sleep(0)
        assert not waiting.done()
        held.let_go()
        assert await asyncio.wait_for(waiting, WAIT) == 3
        with pytest.raises(ValueError, match="mine") as caught:
            await asyncio.wrap_future(fail.start(error=error))
        assert caught.value is error

    asyncio.run(main())


def test_wrap_future_is_cancelled_with_it(held: Any) -> None:
    """A run that is cancelled cancels what wraps it."""

    async def main() -> None:
        blocker = held.action.start()
        held.await_begun()
        future = double.start(x=1)
        waiting = asyncio.wrap_future(future)
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.let_go()
        await blocker

    with onix.configure(max_workers=1):
        asyncio.run(main())


# await


def test_await_gives_the_result() -> None:
    """Of what runs, and of what has ended already."""

    async def main() -> None:
        future = double.start(x=3)
        assert await future == 6
        assert await future == 6
        assert await asyncio.gather(*(double.start(x=x) for x in range(3))) == [0, 2, 4]

    asyncio.run(main())


@each_failing
def test_await_raises_the_same_exception(function: Any) -> None:
    """With the user's function in its traceback."""
    error = ValueError("mine")

    async def main() -> None:
        with pytest.raises(ValueError, match="mine") as caught:
            await function.start(error=error)
        assert caught.value is error
        assert caught.traceback[-1].name == function.__name__

    asyncio.run(main())


def test_await_leaves_the_loop_free(held: Any) -> None:
    """Other tasks run while one awaits."""

    async def main() -> int:
        async def release() -> None:
            held.let_go()

        async def take() -> int:
            return await held.flow.start(x=4)

        async with asyncio.TaskGroup() as group:
            taken = group.create_task(take())
            group.create_task(release())
        return taken.result()

    assert asyncio.run(main()) == 4


@both_kinds
def test_await_is_shielded(held: Any, kind: str) -> None:
    """A wait that is cancelled, or timed out, never cancels the work."""

    async def main() -> Any:
        future = getattr(held, kind).start(x=7)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take(future), 0.01)
        task = asyncio.create_task(take(future))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not future.cancelled()
        assert not future.done()
        return future

    async def take(future: Any) -> Any:
        return await future

    future = asyncio.run(main())
    held.let_go()
    assert future.result(WAIT) == 7


def test_await_is_shielded_while_the_run_is_pending(held: Any) -> None:
    """Where a cancel of the future itself would take the run back."""

    async def take(future: Any) -> Any:
        return await future

    async def main() -> Any:
        future = double.start(x=2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take(future), 0.01)
        return future

    with onix.configure(max_workers=1):
        blocker = held.action.start()
        held.await_begun()
        future = asyncio.run(main())
        held.let_go()
        assert future.result(WAIT) == 4
        blocker.result(WAIT)


def test_a_loop_that_ends_during_an_await_hurts_nobody(held: Any) -> None:
    """The run goes on when the event loop of the one who awaited is closed."""

    async def main() -> Any:
        async def take() -> Any:
            return await future

        future = held.action.start(x=1)
        task = asyncio.create_task(take())
        await asyncio.sleep(0)
        del task  # the end of the loop cancels it
        return future

    future = asyncio.run(main())
    held.let_go()
    assert future.result(WAIT) == 1


def test_await_of_a_cancelled_run_raises_the_stdlibs_error(held: Any) -> None:
    """concurrent.futures.CancelledError, not asyncio's: it is not the awaiting task that was cancelled."""

    async def main() -> None:
        future = held.action.start()
        held.await_begun()
        task = asyncio.ensure_future(take(future))
        await asyncio.sleep(0)
        assert future.cancel(interrupt=True)
        with pytest.raises(concurrent.futures.CancelledError):
            await task
        assert not task.cancelled()

    async def take(future: Any) -> Any:
        return await future

    asyncio.run(main())
    held.let_go()


def test_await_works_in_async_flows(held: Any) -> None:
    """And counts as a look at the outcome: nothing is reported as leaked."""
    error = ValueError("mine")

    @onix.flow
    async def flow() -> tuple[int, BaseException]:
        futures = [double.start(x=x) for x in range(3)]
        failing = fail.start(error=error)
        total = sum([await future for future in futures])
        try:
            await failing
        except ValueError as caught:
            return total, caught
        raise AssertionError

    assert flow() == (6, error)


# What it knows of its run


def test_it_knows_its_run_and_its_arguments() -> None:
    """Name, kind, times, status; the arguments by name."""
    future = double.start(x=21)
    future.result(WAIT)
    run = future.run
    assert run is not None
    assert (run.name, run.kind, run.status, run.attempt, run.error) == ("double", "action", "succeeded", 1, None)
    assert run.started is not None
    assert run.finished is not None
    assert run.queued <= run.started <= run.finished
    assert future.arguments == {"x": 21}
    assert onix.runs([future])[0] is run


def test_its_repr_says_how_it_stands(held: Any) -> None:
    """Function, arguments, status; for a failure the error."""
    future = held.action.start(x=1)
    held.await_begun()
    assert "held_action(x=1) running" in repr(future)
    held.let_go()
    future.result(WAIT)
    assert "held_action(x=1) succeeded" in repr(future)
    failed = ended(fail_in_flow.start(error=ValueError("mine")))
    assert "failed" in repr(failed)
    assert "ValueError: mine" in repr(failed)
    failed.exception()


def test_futures_are_compared_by_identity() -> None:
    """They are members of sets and keys of dicts."""
    first, second = double.start(x=1), double.start(x=1)
    assert first != second
    assert len({first, second, first}) == 2
    assert {first: "a", second: "b"}[first] == "a"
    assert first.result(WAIT) == second.result(WAIT)


# Its own future


OWN: dict[str, Callable[[Any], Any]] = {
    "result": lambda future: future.result(),
    "exception": lambda future: future.exception(),
    "wait": lambda future: onix.wait([future]),
}


@pytest.mark.parametrize("ask", OWN.values(), ids=OWN.keys())
@pytest.mark.parametrize("decorate", [onix.action, onix.flow], ids=["action", "flow"])
def test_a_run_that_waits_for_its_own_future_is_told(decorate: Any, ask: Callable[[Any], Any]) -> None:
    """A DeadlockError names the function and says why the wait could never end."""
    known = threading.Event()

    @decorate
    def narcissus() -> None:
        assert known.wait(WAIT)
        ask(future)

    future = narcissus.start()
    known.set()
    ended(future)
    with pytest.raises(DeadlockError, match=r"narcissus waits for its own future.*only when it returns"):
        future.result(0)
