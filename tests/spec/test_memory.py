"""E5 and E6: repeated waits scan nothing, and memory is bounded by what somebody still holds."""

from __future__ import annotations

import concurrent.futures
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30


class Value:
    """A result or an argument whose end can be watched."""


def watched(value: object) -> threading.Event:
    """An event that is set when `value` is freed."""
    freed = threading.Event()
    weakref.finalize(value, freed.set)
    return freed


def is_freed(freed: threading.Event) -> bool:
    """Whether it is, at the latest when the thread that used it has gone on."""
    gc.collect()
    return freed.wait(WAIT)


@onix.action
def give() -> Value:
    return Value()


@onix.action
def take(value: Value) -> None:
    pass


@onix.action
async def give_later(value: Value) -> Value:
    return Value()


# E5


def instructions(work: Callable[[], Any]) -> int:
    """How many bytecode instructions `work` executes on this thread, those of the stdlib and of comprehensions included."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def drain(wait: Callable[..., Any], future: Callable[[], Any], number: int) -> Callable[[], None]:
    """Settles futures one after the other, and asks for the first that is done each time."""
    futures = [future() for _ in range(number)]

    def work() -> None:
        pending: Any = set(futures)
        for one in futures:
            one.set_result(None)
            done, pending = wait(pending, return_when=onix.FIRST_COMPLETED)
            assert done == {one}

    return work


def growth(wait: Callable[..., Any], future: Callable[[], Any]) -> float:
    """How many times the work grows when there are four times as many futures."""
    return instructions(drain(wait, future, 400)) / instructions(drain(wait, future, 100))


def test_repeated_waits_for_the_first_look_at_no_unfinished_future() -> None:
    """Four times as many futures make four times the work in all, not sixteen times."""
    assert growth(onix.wait, onix.Future) < 5


def test_control_the_standard_library_scans_each_future_each_time() -> None:
    """The count above sees a scan."""
    assert growth(concurrent.futures.wait, concurrent.futures.Future) > 10


def test_as_completed_looks_at_no_unfinished_future() -> None:
    """Nor does iterating in the order of completion."""

    def work(number: int) -> Callable[[], None]:
        futures: list[onix.Future[None]] = [onix.Future() for _ in range(number)]

        def drain() -> None:
            futures[0].set_result(None)
            for position, _ in enumerate(onix.as_completed(futures), 1):
                if position < number:
                    futures[position].set_result(None)

        return drain

    assert instructions(work(400)) / instructions(work(100)) < 5


def test_a_repeated_wait_sees_every_future_once() -> None:
    """Whatever settles before, between and while it waits."""
    go = threading.Event()

    @onix.flow
    def first(x: int) -> int:
        if x % 2:
            assert go.wait(WAIT)
        return x

    futures = [first.start(x=x) for x in range(100)]
    seen: list[int] = []
    pending: Any = futures
    while pending:
        done, pending = onix.wait(pending, timeout=WAIT, return_when=onix.FIRST_COMPLETED)
        assert done
        seen += [future.result() for future in done]
        go.set()
    assert sorted(seen) == list(range(100))


# E6


def test_the_last_100_futures_of_cells_are_given_back() -> None:
    """`runs().futures` has what lost its variable, with results; older ones are freed."""
    freed = []
    for _ in range(150):
        future = give.start()
        freed.append(watched(future.result(WAIT)))
        del future
    # What still runs, or ended after these, would be in the list too; nothing is here.
    kept = onix.runs().futures
    assert len(kept) == 100
    assert all(isinstance(future.result(0), Value) for future in kept)
    del kept
    assert all(is_freed(event) for event in freed[:50])
    assert not any(event.is_set() for event in freed[50:])


def test_the_futures_of_what_runs_are_given_back() -> None:
    """Those of cells and those of flows, beyond any number."""
    go = threading.Event()

    @onix.flow
    def hold(x: int) -> int:
        assert go.wait(WAIT)
        return x

    for x in range(150):
        hold.start(x=x)
    lost = [future for future in onix.runs().futures if not future.done()]
    assert len(lost) == 150
    go.set()
    assert sorted(future.result(WAIT) for future in lost) == list(range(150))


def test_futures_are_given_back_in_the_order_of_starting() -> None:
    """As the runs are."""
    started = [give.start() for _ in range(20)]
    onix.wait(started)
    # A future is done a moment before the session has it in its list of the last ones.
    while len(given := [future for future in onix.runs().futures if future in started]) < 20:
        assert all(future.done() for future in started)
    assert given == started
    ids = [run.id for run in onix.runs()]
    assert ids == sorted(ids)


def test_10_000_records_are_kept() -> None:
    """The records of the last ones, however many ran; not their futures."""

    @onix.action
    def count(x: int) -> int:
        return x

    @onix.flow
    def many() -> None:
        for begin in range(0, 11_000, 1_000):
            onix.wait([count.start(x=x) for x in range(begin, begin + 1_000)])

    many()
    runs = [run for run in onix.runs() if run.name == "count"]
    assert 9_900 <= len(runs) <= 10_000
    assert runs[-1].arguments == {"x": 10_999}
    # A thread that is held up between the end of a run and its account hands in its record late.
    assert sum(run.arguments["x"] < 1_000 for run in runs) <= 100
    assert len(onix.runs()) <= 10_101


def test_a_run_lives_as_long_as_its_future() -> None:
    """Whoever holds the future has the run, its result and its record, when the session has forgotten it."""

    @onix.action
    def count(x: int) -> int:
        return x

    future = count.start(x=-1)
    future.result(WAIT)
    for x in range(10_200):
        count(x=x)
    for _ in range(101):
        give.start().result(WAIT)
    assert future not in onix.runs().futures
    assert future.run not in list(onix.runs())
    assert future.result(0) == -1
    assert onix.runs([future])[0].arguments == {"x": -1}


@pytest.mark.parametrize("start", [give.start, lambda: give_later.start(value=Value())], ids=["thread", "loop"])
def test_the_result_of_a_child_is_freed_with_its_future(start: Callable[[], onix.Future[Value]]) -> None:
    """The session keeps its record only."""
    freed: list[threading.Event] = []

    @onix.flow
    def flow() -> None:
        future = start()
        freed.append(watched(future.result()))

    flow()
    assert is_freed(freed[0])


def test_the_result_of_an_inline_call_is_the_callers_alone() -> None:
    """Nothing of ours holds it."""
    freed = watched(give())  # on a line of its own: an assert of pytest keeps what it compares
    assert is_freed(freed)


@pytest.mark.parametrize("outcome", ["success", "failure", "cancel", "timeout", "retry"])
def test_a_big_argument_is_freed_with_its_future(outcome: str) -> None:
    """However the run ended: the record keeps a summary."""
    policy = onix.RetryPolicy(initial_interval=0, maximum_attempts=2)
    began = threading.Event()

    def body(value: Value) -> None:
        began.set()
        if outcome in ("failure", "retry"):
            raise ValueError
        if outcome in ("cancel", "timeout"):
            onix.sleep(3600)

    action = onix.action(body).options(
        retry=policy if outcome == "retry" else None, timeout=0.05 if outcome == "timeout" else 3600
    )
    freed: list[threading.Event] = []

    @onix.flow
    def flow() -> None:
        value = Value()
        freed.append(watched(value))
        future = action.start(value=value)
        del value
        if outcome == "cancel":
            assert began.wait(WAIT)
            future.cancel(interrupt=True)
        onix.wait([future])
        if outcome != "cancel":
            future.exception()

    flow()
    assert is_freed(freed[0])
    record = [run for run in onix.runs() if run.name == "body"][-1]
    assert repr(record.arguments["value"]) == "<Value>"


def test_an_argument_of_an_inline_call_is_freed_when_it_returns() -> None:
    """Also when it fails."""
    value = Value()
    freed = watched(value)
    take(value=value)
    with pytest.raises(TypeError):
        take(value=value, other=value)  # type: ignore[call-arg]
    del value
    assert is_freed(freed)


def test_a_flows_and_a_calls_arguments_are_freed_with_their_futures() -> None:
    """Children of any kind."""
    freed: list[threading.Event] = []

    @onix.flow
    def child(value: Value) -> None:
        pass

    @onix.flow
    async def child_later(value: Value) -> None:
        pass

    @onix.flow
    def parent() -> None:
        with onix.Executor(max_workers=1) as executor:
            for start in (
                lambda value: child.start(value=value),
                lambda value: child_later.start(value=value),
                lambda value: executor.submit(type, value),
            ):
                value = Value()
                freed.append(watched(value))
                future = start(value)
                del value
                future.result()
                del future

    parent()
    assert all(is_freed(event) for event in freed)


def test_what_a_thread_did_last_is_freed_while_it_is_idle() -> None:
    """A parked worker holds neither arguments, results nor functions of its last task."""
    freed: list[threading.Event] = []

    @onix.flow
    def flow() -> None:
        value = Value()

        def body() -> Value:
            return value

        freed.extend((watched(value), watched(body)))
        assert onix.action(body).start().result() is value

    flow()
    assert all(is_freed(event) for event in freed)


def test_a_done_waits_remainder_is_freed() -> None:
    """Futures that settle after a `wait(FIRST_COMPLETED)` hold nothing of it."""
    slow: onix.Future[None] = onix.Future()
    freed = []
    for _ in range(50):
        fast: onix.Future[None] = onix.Future()
        fast.set_result(None)
        freed.append(watched(fast))
        onix.wait(onix.wait([fast, slow], return_when=onix.FIRST_COMPLETED).not_done, timeout=0)
        del fast
    gc.collect()
    assert all(event.is_set() for event in freed)
    slow.set_result(None)


def test_waiting_often_with_a_timeout_leaves_nothing_at_the_future() -> None:
    """A thousand waits that gave up cost no memory."""
    slow: onix.Future[None] = onix.Future()

    def give_up() -> None:
        for _ in range(1000):
            onix.wait([slow], timeout=0)
            onix.wait([slow], timeout=0, return_when=onix.FIRST_COMPLETED)
            with pytest.raises(TimeoutError):
                slow.result(0)

    give_up()
    gc.collect()
    before = len(gc.get_objects())
    give_up()
    gc.collect()
    assert len(gc.get_objects()) - before < 500
    slow.set_result(None)
