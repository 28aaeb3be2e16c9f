"""P11: async actions share one event loop, async flows have one each, and no wait is for ever."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.errors import DeadlockError, RunCancelled

WAIT = 30


@onix.action
async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@onix.action
async def fails() -> None:
    raise ValueError("fails")


class Held:
    """An action that stays unfinished until it is let go."""

    def __init__(self) -> None:
        self._go = threading.Event()
        self.future = onix.action(name="held")(self._body).start()

    def _body(self) -> str:
        assert self._go.wait(WAIT)
        return "held"

    def __enter__(self) -> onix.Future[str]:
        return self.future

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self.future.result(WAIT)


# The loop of actions


def test_async_actions_share_one_loop_on_one_thread() -> None:
    """Not the caller's thread."""

    @onix.action
    async def place() -> tuple[object, object]:
        return asyncio.get_running_loop(), threading.current_thread()

    places = {place.start().result(WAIT) for _ in range(20)}
    assert len(places) == 1
    assert places.pop()[1] is not threading.current_thread()


def test_async_actions_take_no_worker() -> None:
    """A thousand of them meet while the one worker is busy."""
    number, arrived, everybody = 1000, [], asyncio.Event()

    @onix.action
    async def meet() -> None:
        arrived.append(1)
        if len(arrived) == number:
            everybody.set()
        await everybody.wait()

    with onix.configure(max_workers=1), Held():
        futures = [meet.start() for _ in range(number)]
        assert not onix.wait(futures, timeout=WAIT).not_done


def test_a_direct_call_of_an_async_action_returns_its_result() -> None:
    """In a cell, without `await`."""
    assert double(x=2) == 4


def test_a_direct_call_of_an_async_action_raises_its_exception() -> None:
    """The same object that the function raised, with the line that raised it."""
    with pytest.raises(ValueError, match="fails") as caught:
        fails()
    assert caught.traceback[-1].name == "fails"


def test_async_actions_are_called_and_started_in_flows() -> None:
    """In flows with `def`, blocking, and in flows with `async def`, also awaiting."""

    @onix.flow
    def plain() -> list[int]:
        return [double(x=1), double.start(x=2).result()]

    @onix.flow
    async def asynchronous() -> list[int]:
        return [double(x=1), double.start(x=2).result(), await double.start(x=3)]

    assert plain() == [2, 4]
    assert asynchronous() == [2, 4, 6]


def test_async_actions_work_while_the_caller_has_a_running_loop() -> None:
    """As a cell of a notebook has."""

    async def cell() -> list[int]:
        return [double(x=1), double.start(x=2).result(), await double.start(x=3)]

    assert asyncio.run(cell()) == [2, 4, 6]


def test_a_callable_object_and_a_method_may_be_async() -> None:
    """What counts is whether the call gives a coroutine."""

    class Fetch:
        async def __call__(self, x: int) -> int:
            return await self.get(x=x)

        async def get(self, x: int) -> int:
            await asyncio.sleep(0)
            return x + 1

    assert onix.action(name="fetch")(Fetch())(x=1) == 2
    assert onix.action(Fetch().get)(x=1) == 2


@pytest.mark.parametrize(
    "block",
    [
        lambda future: future.result(),
        lambda future: future.result(timeout=WAIT),
        lambda future: future.exception(),
        lambda future: onix.wait([future]),
        lambda future: list(onix.as_completed([future])),
        lambda _: onix.sleep(0.01),
    ],
    ids=["result", "result with a timeout", "exception", "wait", "as_completed", "sleep"],
)
def test_blocking_the_shared_loop_is_a_deadlock_error(block: Callable[[Any], Any]) -> None:
    """It says to use `await`, at once, and the loop goes on."""
    with Held() as held:

        @onix.action
        async def blocks() -> None:
            block(held)

        with pytest.raises(DeadlockError, match="await"):
            blocks.start().result(WAIT)
        assert double(x=1) == 2


def test_a_plain_function_that_blocks_the_shared_loop_is_told_too() -> None:
    """The rule is the thread's, however deep the call."""
    with Held() as held:

        def deep() -> None:
            held.result()

        @onix.action
        async def blocks() -> None:
            deep()

        with pytest.raises(DeadlockError, match="await"):
            blocks.start().result(WAIT)


def test_a_result_that_is_there_can_be_taken_on_the_shared_loop() -> None:
    """Only what would block is refused."""
    ready = double.start(x=1)
    assert ready.result(WAIT) == 2

    @onix.action
    async def takes() -> int:
        onix.wait([ready])
        return ready.result()

    assert takes() == 2


def test_an_async_action_awaits_futures() -> None:
    """`await future` gives the result, and the loop serves the others meanwhile."""
    with Held() as held:

        @onix.action
        async def awaits() -> str:
            return await held

        future = awaits.start()
        assert double(x=1) == 2
        assert not future.done()
    assert future.result(WAIT) == "held"


def test_to_thread_works_in_an_async_action() -> None:
    """`asyncio.to_thread` leaves the loop free, and keeps the run and the context variables."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    begun, go = threading.Event(), threading.Event()

    def blocking() -> tuple[str, str]:
        begun.set()
        assert go.wait(WAIT)
        run = onix.current_run()
        assert run is not None
        return run.name, variable.get()

    @onix.action
    async def outsources() -> tuple[str, str]:
        variable.set("set")
        return await asyncio.to_thread(blocking)

    future = outsources.start()
    assert begun.wait(WAIT)
    assert double(x=1) == 2
    go.set()
    assert future.result(WAIT) == ("outsources", "set")


def test_to_thread_passes_an_exception_on() -> None:
    """The same object."""
    error = ValueError("in a thread")

    def blocking() -> None:
        raise error

    @onix.action
    async def outsources() -> None:
        await asyncio.to_thread(blocking)

    assert outsources.start().exception(WAIT) is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda error: repr(error))
def test_no_exception_of_an_action_ends_the_shared_loop(error: BaseException) -> None:
    """`sys.exit` fails its own run only."""

    @onix.action
    async def exits() -> None:
        raise error

    assert exits.start().exception(WAIT) is error
    assert double.start(x=1).result(WAIT) == 2


@pytest.mark.parametrize(
    "leave",
    ["await asyncio.gather(asyncio.sleep(0), leaves())", "asyncio.get_running_loop().call_soon(sys.exit, 3)"],
    ids=["in a task", "in a callback"],
)
def test_sys_exit_beside_an_action_does_not_end_the_shared_loop(script: Callable[..., Any], leave: str) -> None:
    """In a task that the action awaits, or in what it leaves on the loop; in a process of its own, for the others' sake."""
    code, out, err = script(
        f"""
    import asyncio, sys
    import onix_nb as onix

    async def leaves():
        sys.exit(3)

    @onix.action
    async def exits():
        {leave}
        await asyncio.sleep(0)

    @onix.action
    async def double(x):
        return 2 * x

    print(type(exits.start().exception(10)).__name__)
    print(double.start(x=1).result(10))
    """
    ).run()
    assert (code, out) == (0, f"{'SystemExit' if 'gather' in leave else 'NoneType'}\n2\n"), err


def test_a_cancel_stops_an_async_action_at_its_next_await() -> None:
    """It gets RunCancelled there, and may clean up, also with `await`."""
    begun, cleaned = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    @onix.action
    async def waits() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except BaseException as error:
            errors.append(error)
            await asyncio.sleep(0)
            cleaned.set()
            raise

    future = waits.start()
    assert begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert cleaned.wait(WAIT)
    assert isinstance(errors[0], RunCancelled)


def test_an_actions_own_use_of_cancel_stays_asyncios() -> None:
    """`asyncio.timeout` and a task's cancel work in an async action as anywhere."""

    @onix.action
    async def cancels() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(3600)
        except TimeoutError:
            pass
        task = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    assert cancels() == "cancelled"


def test_each_async_action_has_its_own_context_variables() -> None:
    """What one sets the others don't see, nor does the caller; what the caller set, all see."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(1)

    @onix.action
    async def sets(x: int) -> int:
        before = variable.get()
        variable.set(x)
        await asyncio.sleep(0.001)
        assert variable.get() == x
        return before

    assert {future.result(WAIT) for future in [sets.start(x=x) for x in range(2, 20)]} == {1}
    assert variable.get() == 1


# The loops of flows


def test_each_async_flow_has_a_loop_and_a_thread_of_its_own() -> None:
    """Ten flows that run at once have ten of each, none of them the actions'."""
    meeting = threading.Barrier(10)

    @onix.action
    async def loop_of_actions() -> object:
        return asyncio.get_running_loop()

    @onix.flow
    async def place() -> tuple[object, object]:
        meeting.wait(WAIT)  # a flow may block its own loop
        return asyncio.get_running_loop(), threading.current_thread()

    places = [future.result(WAIT) for future in [place.start() for _ in range(10)]]
    assert len({loop for loop, _ in places}) == 10
    assert len({thread for _, thread in places}) == 10
    assert loop_of_actions() not in {loop for loop, _ in places}


def test_an_async_flow_awaits_its_children_together() -> None:
    """Through `asyncio.gather`, `asyncio.as_completed` or a task group."""

    @onix.flow
    async def gathers() -> list[int]:
        async def one(x: int) -> int:
            return await double.start(x=x)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(x)) for x in range(5)]
        return [task.result() for task in tasks] + await asyncio.gather(*(double.start(x=x) for x in range(3)))

    assert gathers() == [0, 2, 4, 6, 8, 0, 2, 4]


def test_an_async_flow_may_block_on_its_children() -> None:
    """With `result()` and `wait()`, as any flow."""

    @onix.flow
    async def blocks() -> int:
        futures = [double.start(x=x) for x in range(3)]
        done, _ = onix.wait(futures)
        return sum(future.result() for future in done)

    assert blocks() == 6


def test_async_flows_nest() -> None:
    """Called, started and awaited."""

    @onix.flow
    async def nest(depth: int) -> int:
        if depth == 0:
            return await double.start(x=0)
        return 1 + (nest(depth=depth - 1) if depth % 2 else await nest.start(depth=depth - 1))

    assert nest.start(depth=50).result(WAIT) == 50


def test_sys_exit_fails_an_async_flow_only() -> None:
    """The next flow runs."""

    @onix.flow
    async def exits() -> None:
        sys.exit(3)

    assert isinstance(exits.start().exception(WAIT), SystemExit)
    assert isinstance(exits.start().exception(WAIT), SystemExit)


def test_what_an_async_flow_leaves_on_its_loop_is_cancelled_when_it_returns() -> None:
    """As `asyncio.run` does."""
    seen: list[str] = []

    @onix.flow
    async def leaves() -> str:
        async def background() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        assert not task.done()
        return "returned"

    assert leaves.start().result(WAIT) == "returned"
    assert seen == ["cancelled"]


# Waits that could never end


class Ring:
    """Flows that wait for each other, in a circle: each starts to wait when all futures are there."""

    def __init__(self, wait_for: Callable[[Any], Any], names: list[str]) -> None:
        self._wait_for = wait_for
        self._known = threading.Event()
        self.futures = [onix.flow(name=name)(self._body).start(place=place) for place, name in enumerate(names)]
        self._known.set()

    def _body(self, place: int) -> Any:
        assert self._known.wait(WAIT)
        return self._wait_for(self.futures[(place + 1) % len(self.futures)])

    def errors(self) -> list[BaseException | None]:
        """How each ended; what hangs is cancelled, so that it fails one test only."""
        for future in onix.wait(self.futures, timeout=10).not_done:
            future.cancel(interrupt=True)
        return [None if future.cancelled() else future.exception(0) for future in self.futures]


BLOCKING = {
    "result": lambda future: future.result(),
    "exception": lambda future: future.exception(),
    "wait": lambda future: onix.wait([future]).done.pop().result(),
    "wait for the first": lambda future: onix.wait([future], return_when=onix.FIRST_COMPLETED).done.pop().result(),
    "as_completed": lambda future: [one.result() for one in onix.as_completed([future])],
}


@pytest.mark.parametrize("wait_for", BLOCKING.values(), ids=BLOCKING.keys())
def test_a_flow_that_waits_for_itself_is_told(wait_for: Callable[[Any], Any]) -> None:
    """DeadlockError names the flow."""
    (error,) = Ring(wait_for, ["narcissus"]).errors()
    assert isinstance(error, DeadlockError)
    assert "narcissus" in str(error)


@pytest.mark.parametrize("wait_for", BLOCKING.values(), ids=BLOCKING.keys())
def test_flows_that_wait_for_each_other_are_told(wait_for: Callable[[Any], Any]) -> None:
    """The one that closes the circle gets DeadlockError, which names every flow in it; none hangs."""
    errors = Ring(wait_for, ["ann", "bob", "cat"]).errors()
    assert all(isinstance(error, DeadlockError) or error is None for error in errors)
    named = [
        str(error) for error in errors if error is not None and all(n in str(error) for n in ("ann", "bob", "cat"))
    ]
    assert named
    assert "->" in named[0]


def test_an_async_flow_that_awaits_itself_is_told() -> None:
    """`await` on one's own future would never end either."""
    known = threading.Event()

    @onix.flow
    async def narcissus() -> None:
        assert known.wait(WAIT)
        await future

    future = narcissus.start()
    known.set()
    onix.wait([future], timeout=5)
    future.cancel(interrupt=True)
    assert not future.cancelled(), "it hangs"
    with pytest.raises(DeadlockError, match="narcissus"):
        future.result(0)


def test_an_async_action_that_awaits_itself_is_told() -> None:
    """On the shared loop, too."""
    known = threading.Event()

    @onix.action
    async def narcissus() -> None:
        while not known.is_set():
            await asyncio.sleep(0)
        await future

    future = narcissus.start()
    known.set()
    onix.wait([future], timeout=5)
    future.cancel(interrupt=True)
    assert not future.cancelled(), "it hangs"
    with pytest.raises(DeadlockError, match="narcissus"):
        future.result(0)


def test_a_task_may_wait_for_the_end_of_the_action_that_made_it() -> None:
    """It is no deadlock: the action returns without it."""
    known, heard = threading.Event(), threading.Event()

    @onix.action
    async def leaves_a_task() -> asyncio.Task[None]:
        while not known.is_set():
            await asyncio.sleep(0)

        async def listen() -> None:
            await future
            heard.set()

        return asyncio.create_task(listen())

    future = leaves_a_task.start()
    known.set()
    task = future.result(WAIT)  # who makes a task has to keep it, says asyncio
    assert heard.wait(WAIT)
    del task


def test_an_inline_action_that_waits_for_its_flow_is_told() -> None:
    """It runs on the flow's thread, so the flow could not return."""
    known = threading.Event()

    @onix.action
    def waits() -> None:
        future.result()

    @onix.flow
    def calls() -> None:
        assert known.wait(WAIT)
        waits()

    future = calls.start()
    known.set()
    onix.wait([future], timeout=10)
    future.cancel(interrupt=True)
    assert not future.cancelled(), "it hangs"
    with pytest.raises(DeadlockError, match="calls"):
        future.result(0)


def test_a_wait_with_a_timeout_is_no_deadlock() -> None:
    """It ends by itself: `result(timeout)` raises TimeoutError, also for one's own future."""
    known = threading.Event()

    @onix.flow
    def impatient() -> str:
        assert known.wait(WAIT)
        try:
            future.result(timeout=0.01)
        except DeadlockError:
            return "deadlock"
        except TimeoutError:
            return "timeout"
        return "result"

    future = impatient.start()
    known.set()
    assert future.result(WAIT) == "timeout"


def test_waiting_for_a_flow_that_waits_for_a_third_is_no_deadlock() -> None:
    """A chain ends; only a circle does not."""
    with Held() as held:

        @onix.flow
        def second() -> str:
            return held.result()

        @onix.flow
        def first() -> str:
            return second.start().result()

        future = first.start()
    assert future.result(WAIT) == "held"
