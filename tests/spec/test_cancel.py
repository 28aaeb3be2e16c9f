"""P8: cancel, as in the stdlib and with `interrupt=True`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.errors import OnixError, RunCancelled

WAIT = 30
HOUR = 3600

both = pytest.mark.parametrize("decorate", [onix.action, onix.flow], ids=["action", "flow"])
both_kinds = pytest.mark.parametrize("kind", ["action", "flow"])


@onix.action
def double(x: int) -> int:
    return 2 * x


def eventually(look: Callable[[], bool]) -> bool:
    """Whether `look()` becomes true. It looks again and again: no event tells of what a thread does after its run."""
    deadline = time.monotonic() + WAIT
    while not look() and time.monotonic() < deadline:
        time.sleep(0.005)
    return look()


class Body:
    """A function's body with a part that a cancel interrupts; it remembers how it left that part."""

    def __init__(self, part: Callable[[], object], ready: bool = True) -> None:
        self._part = part
        self.begun = threading.Event()
        self.go = threading.Event()
        self.left = threading.Event()
        self.error: BaseException | None = None
        if ready:
            self.go.set()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(WAIT)
        try:
            self._part()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.left.set()
        return "not cancelled"

    def cancel(self, future: Any) -> None:
        """Interrupts its future as soon as it has begun."""
        assert self.begun.wait(WAIT)
        assert future.cancel(interrupt=True)

    def was_stopped(self) -> bool:
        return self.left.wait(WAIT) and isinstance(self.error, RunCancelled)


def spin() -> None:
    """A pure-Python loop that never calls onix."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        pass


# What cancel() returns


@both_kinds
def test_a_pending_run_is_cancelled_for_good(held: Any, kind: str) -> None:
    """With and without `interrupt`: its function is never called."""
    called = threading.Event()
    never = {"action": onix.action, "flow": onix.flow}[kind](name="never")(lambda: called.set())
    with onix.configure(max_workers=1, max_flows=1):
        blocker = getattr(held, kind).start()
        held.await_begun()
        for interrupt in (False, True):
            future = never.start()
            assert future.cancel(interrupt=interrupt)
            assert future.cancelled()
            assert future.cancel()
            assert future.cancel(interrupt=True)
        held.let_go()
        blocker.result(WAIT)
        assert {"action": double, "flow": onix.flow(lambda x: 2 * x)}[kind].start(x=1).result(WAIT) == 2
    assert not called.is_set()


@both_kinds
def test_a_run_that_has_ended_is_not_cancelled(held: Any, kind: str) -> None:
    """cancel() is False, and the result stays."""
    held.let_go()
    future = getattr(held, kind).start(x=3)
    assert future.result(WAIT) == 3
    assert not future.cancel()
    assert not future.cancel(interrupt=True)
    assert not future.cancelled()
    assert future.result() == 3
    assert future.run.status == "succeeded"


def test_interrupt_is_a_keyword(held: Any) -> None:
    """`cancel(True)` would say nothing to its reader."""
    future = held.action.start()
    with pytest.raises(TypeError, match="positional"):
        future.cancel(True)
    held.let_go()
    future.result(WAIT)


@both_kinds
def test_an_interrupted_future_resolves_at_once(held: Any, kind: str) -> None:
    """While its function is still stuck somewhere."""
    future, called = getattr(held, kind).start(), []
    future.add_done_callback(called.append)
    held.await_begun()
    assert future.cancel(interrupt=True)
    assert (future.done(), future.cancelled(), future.running()) == (True, True, False)
    assert future.run.status == "cancelled"
    assert future.run.finished is not None
    assert called == [future]
    held.let_go()


# Those who wait


@both_kinds
def test_those_who_wait_get_the_stdlibs_error(held: Any, kind: str) -> None:
    """result() and exception() raise concurrent.futures.CancelledError, in threads that block and afterwards."""
    future, errors, ready = getattr(held, kind).start(), [], threading.Barrier(3)
    held.await_begun()

    def ask(method: Callable[[], Any]) -> None:
        ready.wait(WAIT)
        try:
            method()
        except BaseException as error:
            errors.append(type(error))

    threads = [threading.Thread(target=ask, args=[method]) for method in (future.result, future.exception)]
    for thread in threads:
        thread.start()
    ready.wait(WAIT)
    assert future.cancel(interrupt=True)
    for thread in threads:
        thread.join(WAIT)
    assert errors == [concurrent.futures.CancelledError] * 2
    for method in (future.result, future.exception, lambda: future.result(WAIT), lambda: future.exception(0)):
        with pytest.raises(concurrent.futures.CancelledError):
            method()
    held.let_go()


def test_every_wait_counts_it_as_done(held: Any) -> None:
    """onix.wait, onix.as_completed, and both of the stdlib."""
    future = held.flow.start()
    held.await_begun()
    assert future.cancel(interrupt=True)
    assert onix.wait([future], WAIT).done == {future}
    assert onix.wait([future], WAIT, onix.FIRST_COMPLETED).done == {future}
    assert list(onix.as_completed([future], WAIT)) == [future]
    assert concurrent.futures.wait([future], WAIT).done == {future}
    assert list(concurrent.futures.as_completed([future], WAIT)) == [future]
    held.let_go()


def test_the_parent_gets_the_stdlibs_error_and_may_go_on(held: Any) -> None:
    """A child that somebody cancels is a failure that its parent can handle."""
    children: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @onix.flow
    def parent() -> str:
        child = held.flow.start()
        children.put(child)
        try:
            child.result()
        except concurrent.futures.CancelledError:
            return f"went on with {double(x=1)}"
        return "not cancelled"

    future = parent.start()
    assert children.get(timeout=WAIT).cancel(interrupt=True)
    assert future.result(WAIT) == "went on with 2"
    held.let_go()


def test_a_direct_call_gets_the_stdlibs_error(held: Any) -> None:
    """Its future is in `onix.runs().futures`, so that it can be cancelled."""
    errors: list[BaseException] = []

    def call() -> None:
        try:
            held.flow()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    held.await_begun()
    for future in onix.runs().futures:
        future.cancel(interrupt=True)
    thread.join(WAIT)
    assert [type(error) for error in errors] == [concurrent.futures.CancelledError]
    held.let_go()


# Inside the run: the next call into onix


def done_future() -> onix.Future[int]:
    future = double.start(x=1)
    future.result(WAIT)
    return future


CALLS: dict[str, Callable[[Any], Any]] = {
    "current_run": lambda future: onix.current_run(),
    "sleep": lambda future: onix.sleep(0),
    "wait": lambda future: onix.wait([future]),
    "wait with a timeout": lambda future: onix.wait([future], timeout=0),
    "wait for nothing": lambda future: onix.wait([]),
    "as_completed": lambda future: list(onix.as_completed([future])),
    "result": lambda future: future.result(),
    "result with a timeout": lambda future: future.result(timeout=0),
    "exception": lambda future: future.exception(),
}


@both
@pytest.mark.parametrize("state", ["running", "cancelled"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_the_next_call_into_onix_raises(held: Any, decorate: Any, call: Callable[[Any], Any], state: str) -> None:
    """RunCancelled, whatever the call would have given, and long before the second of grace is over."""
    other = held.flow.start()
    held.await_begun()
    if state == "cancelled":
        other.cancel(interrupt=True)
    body = Body(lambda: call(other), ready=False)
    future = decorate(name="caller")(body).start()
    body.cancel(future)
    body.go.set()
    assert body.left.wait(WAIT)
    held.let_go()
    assert isinstance(body.error, RunCancelled)


@pytest.mark.parametrize(
    "call",
    [
        lambda: double(x=1),
        lambda: double.start(x=1),
        lambda: onix.flow(spin)(),
        lambda: onix.flow(spin).start(),
    ],
    ids=["call an action", "start an action", "call a flow", "start a flow"],
)
def test_a_cancelled_flow_starts_nothing_more(call: Callable[[], Any]) -> None:
    """RunCancelled is raised instead, and no run is recorded."""
    body = Body(call, ready=False)
    future = onix.flow(name="parent")(body).start()
    body.cancel(future)
    before = {run.id for run in onix.runs()}
    body.go.set()
    assert body.was_stopped()
    assert {run.id for run in onix.runs()} - before == set()


@both
@pytest.mark.parametrize(
    "block",
    [
        lambda future: onix.sleep(HOUR),
        lambda future: future.result(),
        lambda future: future.result(timeout=HOUR),
        lambda future: future.exception(),
        lambda future: onix.wait([future]),
        lambda future: onix.wait([future], return_when=onix.FIRST_COMPLETED),
        lambda future: list(onix.as_completed([future])),
    ],
    ids=["sleep", "result", "result with a timeout", "exception", "wait", "wait for the first", "as_completed"],
)
def test_a_call_that_blocks_is_ended(held: Any, decorate: Any, block: Callable[[Any], Any]) -> None:
    """At once, with RunCancelled; what it waited for goes on if it is not its child."""
    other = held.flow.start(x=5)
    held.await_begun()
    body = Body(lambda: block(other))
    future = decorate(name="blocks")(body).start()
    body.cancel(future)
    assert body.was_stopped()
    assert not other.done()
    held.let_go()
    assert other.result(WAIT) == 5


def test_run_cancelled_is_no_exception_that_a_program_catches_by_chance() -> None:
    """A BaseException, and no OnixError."""
    assert issubclass(RunCancelled, BaseException)
    assert not issubclass(RunCancelled, Exception)
    assert not issubclass(RunCancelled, OnixError)


@pytest.mark.parametrize("part", ["calls onix", "calls nothing", "waits for a child"])
def test_except_exception_does_not_swallow_it(part: str, held: Any) -> None:
    """A loop that tries again whatever happens ends all the same."""
    rounds: list[int] = []

    def insist() -> None:
        children = [held.flow.start()] if part == "waits for a child" else []
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            try:
                rounds.append(1)
                if part == "calls onix":
                    onix.sleep(0.001)
                elif children:
                    children[0].result()
                else:
                    sum(range(100))
            except Exception:
                continue

    body = Body(insist)
    future = onix.flow(name="insists")(body).start()
    if part == "waits for a child":
        held.await_begun()
    body.cancel(future)
    assert body.was_stopped()
    held.let_go()


def test_cleaning_up_works_and_the_exception_is_dropped() -> None:
    """`finally` and `except RunCancelled` run; whatever they raise or return, the future stays cancelled."""
    ways: dict[str, list[str]] = {"finally": [], "return": [], "raise": []}
    left = threading.Semaphore(0)
    begun = threading.Semaphore(0)

    @onix.flow
    def cleans_up(way: str) -> str:
        try:
            begun.release()
            onix.sleep(HOUR)
        except RunCancelled:
            ways[way].append("cleaned up")
            if way == "return":
                return "a late result"
            if way == "raise":
                raise KeyError("a late error") from None
            raise
        finally:
            left.release()
        return "not cancelled"

    futures = [cleans_up.start(way=way) for way in ways]
    for _ in ways:
        assert begun.acquire(timeout=WAIT)
    for future in futures:
        assert future.cancel(interrupt=True)
    for _ in ways:
        assert left.acquire(timeout=WAIT)
    assert ways == {way: ["cleaned up"] for way in ways}
    for future in futures:
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(WAIT)


# Inside the run: async code


@pytest.mark.parametrize("decorate", [onix.action, onix.flow], ids=["action", "flow"])
@pytest.mark.parametrize("what", ["sleep", "future", "task"])
def test_async_code_gets_it_at_its_next_await(held: Any, decorate: Any, what: str) -> None:
    """Wherever the body awaits; `except Exception` does not swallow it there either."""
    begun, left, errors = threading.Event(), threading.Event(), []
    other = held.flow.start()
    held.await_begun()

    @decorate
    async def waits() -> None:
        begun.set()
        try:
            while True:
                try:
                    if what == "sleep":
                        await asyncio.sleep(HOUR)
                    elif what == "future":
                        await other
                    else:
                        await asyncio.create_task(asyncio.sleep(HOUR))
                except Exception as error:
                    errors.append(error)
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            left.set()

    future = waits.start()
    assert begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert left.wait(WAIT)
    assert [type(error) for error in errors] == [RunCancelled]
    assert not other.done()
    held.let_go()
    other.result(WAIT)


def test_an_async_flow_that_awaits_its_child_gets_it_too(held: Any) -> None:
    """RunCancelled, not the CancelledError of the child that was cancelled with it."""
    left, errors, children = threading.Event(), [], []

    @onix.flow
    async def parent() -> None:
        children.append(held.flow.start())
        try:
            await children[0]
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            left.set()

    future = parent.start()
    held.await_begun()
    assert future.cancel(interrupt=True)
    assert left.wait(WAIT)
    assert [type(error) for error in errors] == [RunCancelled]
    assert not onix.wait(children, timeout=WAIT).not_done
    assert children[0].cancelled()
    held.let_go()


# Inside the run: code that never calls onix


@pytest.mark.parametrize("where", ["action", "flow", "action called in a flow", "action with a timeout"])
def test_a_loop_that_calls_nothing_is_ended_after_a_second(where: str) -> None:
    """RunCancelled is raised at a bytecode of it, after a second in which it could have ended by itself."""
    body = Body(spin)
    action = onix.action(name="spins")(body)
    if where == "action called in a flow":

        @onix.flow
        def calls() -> None:
            action()

        future = calls.start()
    else:
        function = {"flow": onix.flow(name="spins")(body), "action with a timeout": action.options(timeout=HOUR)}
        future = function.get(where, action).start()
    body.cancel(future)
    begun = time.monotonic()
    assert not body.left.wait(0.5)
    assert body.was_stopped()
    assert time.monotonic() - begun < 10
    assert eventually(lambda: future.run is not None and not future.run.stopping)


def test_code_that_watches_for_a_cancel_may_end_by_itself() -> None:
    """In its second of grace it is left alone."""
    begun, ended = threading.Event(), []

    @onix.action
    def watches() -> None:
        run = onix.current_run()
        assert run is not None
        begun.set()
        end = time.monotonic() + WAIT
        while not run.cancelled and time.monotonic() < end:
            pass
        ended.append(run.cancelled)

    future = watches.start()
    assert begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert eventually(lambda: not future.run.stopping)  # type: ignore[union-attr]
    assert ended == [True]


def test_a_thread_that_is_stuck_gives_its_place_away(held: Any) -> None:
    """It is shown as still stopping, another action runs although max_workers=1, and its late result is dropped."""
    calls: list[Any] = []
    with onix.configure(max_workers=1):
        future = held.action.start(x=7)
        future.add_done_callback(calls.append)
        held.await_begun()
        waiting = double.start(x=1)
        assert future.cancel(interrupt=True)
        assert future.run.stopping
        assert future.run.status == "cancelled"
        assert waiting.result(WAIT) == 2
        assert double.start(x=2).result(WAIT) == 4
        assert future.run.stopping
        (shown,) = [run for run in onix.runs() if run.id == future.run.id]
        assert shown.stopping
        held.let_go()
        assert eventually(lambda: not future.run.stopping)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(WAIT)
        assert future.run.status == "cancelled"
        assert calls == [future]
        assert double.start(x=3).result(WAIT) == 6


def test_a_thread_that_is_stuck_in_a_system_call_stops_after_it() -> None:
    """At the first bytecode after it, if its second of grace is over."""
    body = Body(lambda: (time.sleep(1.3), spin()))
    with onix.configure(max_workers=1):
        future = onix.action(name="stuck")(body).start()
        body.cancel(future)
        assert future.run is not None
        assert future.run.stopping
        assert double.start(x=1).result(WAIT) == 2
        assert body.was_stopped()
        assert eventually(lambda: future.run is not None and not future.run.stopping)


def test_places_are_not_multiplied_by_cancels(held: Any) -> None:
    """When the stuck threads come back, no more actions run at once than before."""
    with onix.configure(max_workers=1):
        for _ in range(5):
            future = held.action.start()
            held.await_begun()
            assert future.cancel(interrupt=True)
        held.let_go()
        running, peak, counting = [], [], threading.Lock()

        @onix.action
        def count() -> None:
            with counting:
                running.append(1)
                peak.append(len(running))
            time.sleep(0.002)
            with counting:
                running.pop()

        onix.wait([count.start() for _ in range(30)], timeout=WAIT)
    assert max(peak) == 1


# The asynchronous exception hits nothing else


class Probe:
    """Code that must not be hit by an exception that was meant for another run."""

    def __init__(self) -> None:
        self.strays: list[BaseException | None] = []

    def __call__(self) -> None:
        try:
            for _ in range(2000):
                pass
        except BaseException as error:
            self.strays.append(error)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """Sees what hits it, and what ends a thread between two runs."""
    probe = Probe()
    monkeypatch.setattr(threading, "excepthook", lambda hooked: probe.strays.append(hooked.exc_value))
    return probe


def test_the_asynchronous_exception_never_hits_the_next_run(probe: Probe) -> None:
    """200 functions that return just when it is sent: it hits the function, or nothing."""
    number, rounds = 100, 2
    times: dict[int, tuple[float, float]] = {}
    how: dict[str, list[int]] = {"returned": [], "hit": []}
    begun, go, left = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)

    @onix.action
    def ends_about_then(x: int) -> None:
        begun.release()
        try:
            assert go.wait(WAIT)
            soon, end = times[x]
            time.sleep(max(0, soon - time.monotonic()))
            while time.monotonic() < end:
                time.sleep(0.002)
            how["returned"].append(x)
        except RunCancelled:
            how["hit"].append(x)
            raise
        finally:
            left.release()

    def seconds(place: float) -> float:
        """From a cancel to the end of its function: mostly about when it is sent, for some clearly before or after."""
        return 0.2 if place < 0.05 else WAIT if place > 0.95 else 0.95 + 0.15 * place

    with onix.configure(max_workers=number):
        for _ in range(rounds):
            go.clear()
            futures = [ends_about_then.start(x=x) for x in range(number)]
            for _ in futures:
                assert begun.acquire(timeout=WAIT)
            for x, future in enumerate(futures):
                now, length = time.monotonic(), seconds(x / number)
                times[x] = now + min(length, 0.9), now + length
                assert future.cancel(interrupt=True)
            go.set()
            for _ in futures:
                assert left.acquire(timeout=WAIT)
            probes = [onix.action(name="probe")(probe).start() for _ in range(2 * number)]
            assert not onix.wait(probes, timeout=WAIT).not_done
            assert eventually(lambda left=futures: not any(future.run.stopping for future in left))
    assert probe.strays == []
    assert how["hit"], "none was interrupted"
    assert how["returned"], "none returned"


def test_control_an_exception_sent_without_care_hits_the_next_run(probe: Probe) -> None:
    """The guard above sees one that is sent when the function has returned and the thread does something else."""
    returned = threading.Event()

    def work() -> None:
        returned.set()
        end = time.monotonic() + WAIT
        while not probe.strays and time.monotonic() < end:
            probe()

    thread = threading.Thread(target=work)
    thread.start()
    assert returned.wait(WAIT)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(RunCancelled))
    thread.join(WAIT)
    assert [type(error) for error in probe.strays] == [RunCancelled]


# Children


def test_a_cancel_goes_down_to_every_child(held: Any) -> None:
    """To those that run, those that are pending, and their children."""
    futures: dict[str, Any] = {}
    child_ready, ready = threading.Event(), threading.Event()

    @onix.flow
    def child() -> None:
        futures["grandchild"] = held.action.start()
        held.await_begun()
        futures["pending"] = held.action.start()
        child_ready.set()
        onix.sleep(HOUR)

    @onix.flow
    def parent() -> None:
        futures["done"] = double.start(x=1)
        futures["done"].result()
        futures["child"] = child.start()
        assert child_ready.wait(WAIT)
        ready.set()
        onix.sleep(HOUR)

    with onix.configure(max_workers=1):
        future = parent.start()
        assert ready.wait(WAIT)
        sibling = held.flow.start(x=1)
        assert future.cancel(interrupt=True)
        assert not onix.wait(futures.values(), timeout=WAIT).not_done
        assert {name: future.run.status for name, future in futures.items()} == {
            "done": "succeeded",
            "child": "cancelled",
            "grandchild": "cancelled",
            "pending": "cancelled",
        }
        held.let_go()
        assert sibling.result(WAIT) == 1


def test_a_detached_child_is_left_alone(held: Any) -> None:
    """It is nobody's child any more."""
    futures: list[Any] = []
    ready = threading.Event()

    @onix.flow
    def parent() -> None:
        futures.append(held.action.start(x=1).detach())
        futures.append(held.action.start(x=2))
        ready.set()
        onix.sleep(HOUR)

    future = parent.start()
    assert ready.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert not onix.wait(futures[1:], timeout=WAIT).not_done
    assert [child.cancelled() for child in futures] == [False, True]
    held.let_go()
    assert futures[0].result(WAIT) == 1


def test_a_cancel_of_a_child_leaves_its_parent_and_siblings_alone(held: Any) -> None:
    """It goes down, never up or sideways."""
    futures: list[Any] = []

    @onix.flow
    def parent() -> list[int]:
        futures.extend(held.flow.start(x=x) for x in range(3))
        held.await_begun(3)
        futures[1].cancel(interrupt=True)
        held.let_go()
        done, _ = onix.wait(futures)
        return sorted(future.result() for future in done if not future.cancelled())

    assert parent() == [0, 2]


def test_no_child_slips_through_a_cancel() -> None:
    """A flow that starts children all the time is cancelled at any moment: none of them goes on."""
    for round_ in range(30):
        started: list[Any] = []
        begun, left = threading.Event(), threading.Event()

        @onix.flow
        def child() -> None:
            onix.sleep(HOUR)

        @onix.flow
        def parent(
            started: list[Any] = started, begun: Any = begun, left: Any = left, child: Any = child, late: int = round_
        ) -> None:
            try:
                while True:
                    started.append(child.start())
                    if len(started) > late % 5:
                        begun.set()
            finally:
                left.set()

        future = parent.start()
        assert begun.wait(WAIT)
        assert future.cancel(interrupt=True)
        assert left.wait(WAIT)
        assert not onix.wait(started, timeout=WAIT).not_done
        assert all(future.cancelled() for future in started)


def test_an_inline_call_is_cancelled_with_its_flow() -> None:
    """Its run is recorded as cancelled."""
    body = Body(lambda: onix.sleep(HOUR))
    action = onix.action(name="inline_in_a_cancelled_flow")(body)

    @onix.flow
    def calls() -> None:
        action()

    future = calls.start()
    body.cancel(future)
    assert body.was_stopped()
    (run,) = [run for run in onix.runs() if run.name == "inline_in_a_cancelled_flow"]
    assert eventually(lambda: run.status == "cancelled")


# Retries and the record


def test_a_cancel_ends_retries() -> None:
    """Between two attempts, too: the next one never begins."""
    failed, attempts = threading.Event(), []

    @onix.action(retry=onix.RetryPolicy(initial_interval=HOUR, maximum_interval=HOUR))
    def fails() -> None:
        attempts.append(1)
        failed.set()
        raise ValueError("again")

    future = fails.start()
    assert failed.wait(WAIT)
    assert eventually(lambda: future.run is not None and future.run.attempt == 2)
    assert not future.cancel()
    assert future.cancel(interrupt=True)
    assert future.cancelled()
    assert attempts == [1]


def test_run_cancelled_is_not_retried() -> None:
    """A policy for whatever fails does not bring a cancelled run back."""
    body = Body(lambda: onix.sleep(HOUR))
    future = onix.action(name="again", retry=onix.RetryPolicy(initial_interval=0.001))(body).start()
    body.cancel(future)
    assert body.was_stopped()
    assert future.run is not None
    assert (future.run.status, future.run.attempt) == ("cancelled", 1)


def test_a_cancelled_run_is_remembered_as_cancelled() -> None:
    """In `onix.runs()`, without an error that nobody looked at."""
    body = Body(lambda: onix.sleep(HOUR))
    future = onix.action(name="remembered")(body).start()
    body.cancel(future)
    assert body.was_stopped()
    (run,) = [run for run in onix.runs() if future.run and run.id == future.run.id]
    assert (run.status, run.error) == ("cancelled", None)


# current_run()


def test_outside_of_a_run_there_is_none() -> None:
    """In a cell or a script."""
    assert onix.current_run() is None


@pytest.mark.parametrize("way", ["call", "start"])
@both
def test_current_run_tells_the_code_inside_about_its_run(decorate: Any, way: str) -> None:
    """Its run with id and name, its attempt, and that it was not cancelled."""

    @decorate
    def tells() -> Any:
        run = onix.current_run()
        assert run is not None
        return run.id, run.name, run.run, run.attempt, run.cancelled

    run_id, name, run, attempt, cancelled = tells() if way == "call" else tells.start().result(WAIT)
    assert (name, attempt, cancelled) == ("tells", 1, False)
    assert run.id == run_id
    assert run in list(onix.runs())


@pytest.mark.parametrize("way", ["call", "start", "async"])
def test_current_run_counts_attempts(way: str) -> None:
    """From 1."""
    seen: list[int] = []

    def tries() -> str:
        run = onix.current_run()
        assert run is not None
        seen.append(run.attempt)
        if len(seen) < 3:
            raise ValueError("again")
        return "done"

    async def tries_async() -> str:
        return tries()

    function = onix.action(retry=onix.RetryPolicy(initial_interval=0.001))(tries_async if way == "async" else tries)
    assert (function() if way == "call" else function.start().result(WAIT)) == "done"
    assert seen == [1, 2, 3]


def test_current_run_is_that_of_the_innermost_function() -> None:
    """Each function of a call has its own."""

    @onix.action
    def inner() -> Any:
        run = onix.current_run()
        return run and run.name

    @onix.flow
    def outer() -> Any:
        names = [inner(), inner.start().result()]
        run = onix.current_run()
        return [run and run.name, *names]

    assert outer() == ["outer", "inner", "inner"]


def test_cancelled_becomes_true_in_all_code_of_a_flow() -> None:
    """For the flow, and for the action that it has called."""
    begun, go, seen = threading.Event(), threading.Event(), []

    @onix.action
    def inner(outer_run: Any) -> None:
        run = onix.current_run()
        assert run is not None
        seen.append((outer_run.cancelled, run.cancelled))
        begun.set()
        assert go.wait(WAIT)
        seen.append((outer_run.cancelled, run.cancelled))

    @onix.flow
    def outer() -> None:
        inner(outer_run=onix.current_run())

    future = outer.start()
    assert begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    go.set()
    assert eventually(lambda: len(seen) == 2)
    assert seen == [(False, False), (True, True)]


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_asking_a_finished_future_in_a_cancelled_run_raises(ask: str) -> None:
    """Also an outcome that is there already is not handed to a run that was cancelled."""
    begun, cancelled = threading.Event(), threading.Event()
    heard: list[BaseException] = []

    @onix.action
    def one() -> int:
        return 1

    @onix.flow
    def asks() -> None:
        finished = one.start()
        finished.result()
        begun.set()
        assert cancelled.wait(30)
        try:
            getattr(finished, ask)()
        except BaseException as error:
            heard.append(error)
            ended.set()
            raise
        ended.set()

    ended = threading.Event()
    future = asks.start()
    assert begun.wait(30)
    assert future.cancel(interrupt=True)
    cancelled.set()
    assert ended.wait(30)
    assert [type(error) for error in heard] == [onix.errors.RunCancelled]
