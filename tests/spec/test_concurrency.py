"""Races: whatever happens at the same time, each future settles once, and everybody hears of it once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.model.waiter import Waiter

WAIT = 30
ROUNDS = 200


@pytest.fixture(autouse=True)
def racing() -> Iterator[None]:
    """Lets threads take turns after almost every bytecode."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Together:
    """Threads that do one thing each at the same time, interleaved anew each time."""

    def __init__(self, number: int, interleaved: Callable[[], Any]) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(number)
        self._interleaved = interleaved

    def __enter__(self) -> Together:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def __call__(self, *works: Callable[[], Any]) -> list[Any]:
        """What each returned; its exception is raised."""
        start = threading.Barrier(len(works))

        def run(work: Callable[[], Any]) -> Any:
            start.wait(WAIT)
            before = sys.gettrace()
            sys.settrace(self._interleaved())
            try:
                return work()
            finally:
                sys.settrace(before)

        return [future.result(WAIT) for future in [self._pool.submit(run, work) for work in works]]


@pytest.fixture
def together(interleaved: Callable[[], Any]) -> Iterator[Together]:
    with Together(6, interleaved) as together:
        yield together


class Count:
    """Counts calls; `next()` on a count is atomic."""

    def __init__(self) -> None:
        self._count = itertools.count()
        self.told = threading.Event()
        self.value = 0

    def __call__(self, *_: object) -> None:
        self.value = next(self._count) + 1
        self.told.set()


@onix.action
def double(x: int) -> int:
    return 2 * x


@onix.action
async def double_later(x: int) -> int:
    return 2 * x


@onix.flow
def double_in_a_flow(x: int) -> int:
    return 2 * x


ALL = [double, double_later, double_in_a_flow]
IDS = ["action", "async action", "flow"]


# Settling


def wins(call: Callable[[], Any]) -> Callable[[], bool]:
    """Whether this call was the one that settled the future."""

    def attempt() -> bool:
        try:
            return call() is not False
        except concurrent.futures.InvalidStateError:
            return False

    return attempt


def test_of_several_that_settle_one_wins(together: Together) -> None:
    """A result, an exception and a cancel at once: one counts, and callbacks are called once."""
    for _ in range(ROUNDS):
        future: onix.Future[int] = onix.Future()
        called = Count()
        future.add_done_callback(called)
        won = together(
            wins(partial(future.set_result, 1)),
            wins(partial(future.set_result, 2)),
            wins(partial(future.set_exception, ValueError())),
            wins(future.cancel),
        )
        assert won.count(True) == 1
        assert called.value == 1
        assert future.done()
        assert future.cancelled() is won[3]
        if not won[3]:
            assert (future.exception(0) is not None) is won[2]


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="3.12 can't trace several threads, so races are rare")
def test_control_a_check_before_an_act_lets_several_win(together: Together) -> None:
    """The races above do happen: without a claim, more than one wins in some round."""

    class Broken:
        settled = False

        def settle(self) -> bool:
            if self.settled:
                return False
            self.settled = True
            return True

    for _ in range(ROUNDS):
        broken = Broken()
        if together(*[broken.settle] * 4).count(True) > 1:
            return
    pytest.fail("no race: these tests test nothing")


@pytest.mark.parametrize("function", ALL, ids=IDS)
def test_a_cancel_and_the_begin_of_a_run_exclude_each_other(together: Together, function: Any) -> None:
    """A run that was cancelled before it began has not run; one that has run was not cancelled."""
    ran: list[int] = []

    def body(x: int) -> int:
        ran.append(x)
        return x

    async def body_later(x: int) -> int:
        return body(x)

    decorated: Any = {
        double: lambda: onix.action(body),
        double_later: lambda: onix.action(body_later),
        double_in_a_flow: lambda: onix.flow(body),
    }[function]()
    for turn in range(ROUNDS):
        started: list[onix.Future[int]] = []
        known = threading.Event()

        def start(turn: int = turn, known: threading.Event = known, started: list[Any] = started) -> None:
            started.append(decorated.start(x=turn))
            known.set()

        def cancel(known: threading.Event = known, started: list[Any] = started) -> bool:
            assert known.wait(WAIT)
            return bool(started[0].cancel())

        _, cancelled = together(start, cancel)
        future = started[0]
        onix.wait([future], timeout=WAIT)
        assert future.cancelled() is cancelled
        assert (turn in ran) is not cancelled


@pytest.mark.parametrize("function", ALL, ids=IDS)
def test_an_interrupt_and_the_end_of_a_run_exclude_each_other(together: Together, function: Any) -> None:
    """The future has the result, or is cancelled, and `cancel` said which."""
    for turn in range(ROUNDS):
        future = function.start(x=turn)
        called = Count()
        future.add_done_callback(called)
        cancelled, outcome = together(
            lambda future=future: future.cancel(interrupt=True),
            lambda future=future: onix.wait([future], timeout=WAIT),
        )
        assert outcome.done == {future}
        assert future.cancelled() is cancelled
        assert cancelled or future.result(0) == 2 * turn
        assert called.told.wait(WAIT)
        assert called.value == 1
    # No exception is left pending in a thread: what runs next is not hit.
    assert [function(x=x) for x in range(20)] == [2 * x for x in range(20)]


@pytest.mark.parametrize("function", ALL, ids=IDS)
def test_callbacks_that_are_added_while_it_settles_are_called_once(together: Together, function: Any) -> None:
    """None is lost and none is called twice."""
    for turn in range(ROUNDS // 3):
        counts = [Count() for _ in range(8)]
        future = function.start(x=turn)

        def add(some: list[Count], future: onix.Future[int] = future) -> None:
            for count in some:
                future.add_done_callback(count)

        together(partial(add, counts[:4]), partial(add, counts[4:]), partial(future.result, WAIT))
        assert all(count.told.wait(WAIT) for count in counts)
        assert [count.value for count in counts] == [1] * 8


# Waking


WAITS: dict[str, Callable[[onix.Future[int]], Any]] = {
    "result": lambda future: future.result(),
    "result with a timeout": lambda future: future.result(WAIT),
    "wait": lambda future: onix.wait([future], timeout=WAIT).done.pop().result(0),
    "wait for the first": lambda future: (
        onix.wait([future], timeout=WAIT, return_when=onix.FIRST_COMPLETED).done.pop().result(0)
    ),
    "as_completed": lambda future: next(iter(onix.as_completed([future], timeout=WAIT))).result(0),
    "the stdlib's wait": lambda future: concurrent.futures.wait([future], timeout=WAIT).done.pop().result(0),
    "the stdlib's as_completed": lambda future: next(
        iter(concurrent.futures.as_completed([future], timeout=WAIT))
    ).result(0),
    "await": lambda future: asyncio.run(awaited(future)),
    "wrap_future": lambda future: asyncio.run(wrapped(future)),
}


async def awaited(future: onix.Future[int]) -> int:
    return await asyncio.wait_for(_await(future), WAIT)


async def _await(future: onix.Future[int]) -> int:
    return await future


async def wrapped(future: onix.Future[int]) -> int:
    return await asyncio.wait_for(asyncio.wrap_future(future), WAIT)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_nobody_who_waits_misses_the_end(together: Together, wait: Callable[[onix.Future[int]], Any]) -> None:
    """However the wait and the end overlap."""
    makes_a_loop = "asyncio" in wait.__code__.co_names
    for turn in range(ROUNDS // 10 if makes_a_loop else ROUNDS):
        future = double_in_a_flow.start(x=turn)
        assert together(lambda future=future: wait(future)) == [2 * turn]
        by_hand: onix.Future[int] = onix.Future()
        answer, _ = together(
            lambda by_hand=by_hand: wait(by_hand), lambda by_hand=by_hand, turn=turn: by_hand.set_result(turn)
        )
        assert answer == turn


def test_control_a_lost_wake_up_is_noticed(monkeypatch: pytest.MonkeyPatch, together: Together) -> None:
    """If wakes got lost, the waits above would run into their timeouts."""
    monkeypatch.setattr(Waiter, "wake", lambda self: None)
    future: onix.Future[int] = onix.Future()
    parked = threading.Event()
    park = Waiter.park

    waiting: list[int] = []

    def tell(waiter: Waiter, seconds: float | None = None) -> bool:
        if threading.get_ident() in waiting:  # and no idle thread of a pool
            parked.set()
        return park(waiter, seconds)

    monkeypatch.setattr(Waiter, "park", tell)

    def settle() -> None:
        assert parked.wait(WAIT)
        future.set_result(1)

    def wait() -> None:
        waiting.append(threading.get_ident())
        onix.wait([future], timeout=0.3)

    begun = time.monotonic()
    together(wait, settle)
    assert time.monotonic() - begun >= 0.3


def test_all_who_wait_for_one_future_wake(together: Together) -> None:
    """In every way at once."""
    for turn in range(ROUNDS // 3):
        future = double_in_a_flow.start(x=turn)
        answers = together(
            lambda future=future: future.result(WAIT),
            lambda future=future: future.exception(WAIT),
            lambda future=future: onix.wait([future], timeout=WAIT).done,
            lambda future=future: onix.wait([future], timeout=WAIT, return_when=onix.FIRST_COMPLETED).done,
            lambda future=future: list(onix.as_completed([future], timeout=WAIT)),
            lambda future=future: concurrent.futures.wait([future], timeout=WAIT).done,
        )
        assert answers == [2 * turn, None, {future}, {future}, [future], {future}]


def test_repeated_waits_for_the_first_give_each_future_once(together: Together) -> None:
    """While others settle them, from several threads."""
    for _ in range(ROUNDS // 3):
        futures: list[onix.Future[int]] = [onix.Future() for _ in range(40)]

        def settle(some: list[onix.Future[int]]) -> None:
            for future in some:
                future.set_result(1)

        def collect(futures: list[onix.Future[int]] = futures) -> list[onix.Future[int]]:
            seen: list[onix.Future[int]] = []
            pending: Any = set(futures)
            while pending:
                done, rest = onix.wait(pending, timeout=WAIT, return_when=onix.FIRST_COMPLETED)
                assert done
                assert done | rest == pending
                assert not done & rest
                seen += done
                pending = rest
            return seen

        def iterate(futures: list[onix.Future[int]] = futures) -> list[onix.Future[int]]:
            return list(onix.as_completed(futures, timeout=WAIT))

        seen, iterated, *_ = together(
            collect,
            iterate,
            lambda futures=futures: settle(futures[::3]),
            lambda futures=futures: settle(futures[1::3]),
            lambda futures=futures: settle(futures[2::3]),
        )
        assert len(seen) == len(iterated) == 40
        assert set(seen) == set(iterated) == set(futures)


def test_two_that_wait_on_one_remainder_both_see_everything(together: Together) -> None:
    """The `not_done` of one wait may be given to two."""
    for _ in range(ROUNDS // 3):
        first, second = onix.Future[int](), onix.Future[int]()
        first.set_result(1)
        rest = onix.wait([first, second], return_when=onix.FIRST_COMPLETED).not_done

        def wait(rest: Any = rest) -> Any:
            return onix.wait(rest, timeout=WAIT, return_when=onix.FIRST_COMPLETED).done

        assert together(wait, wait, lambda second=second: second.set_result(2))[:2] == [{second}, {second}]


# Starting


def test_starts_from_many_threads_are_all_run(together: Together) -> None:
    """Each once, with its own result and its own id."""

    def start() -> list[onix.Future[int]]:
        return [function.start(x=x) for x in range(60) for function in ALL]

    futures = [future for some in together(*[start] * 6) for future in some]
    assert not onix.wait(futures, timeout=WAIT).not_done
    assert sorted(future.result(0) for future in futures) == sorted(2 * x for x in range(60) for _ in range(18))
    assert len({future.run.id for future in futures if future.run}) == len(futures)


def test_a_flow_that_is_cancelled_while_it_starts_children_leaves_none(together: Together) -> None:
    """Each child is cancelled or was never started."""
    for _ in range(ROUNDS // 10):
        children: list[onix.Future[None]] = []
        begun = threading.Event()

        @onix.flow
        def child() -> None:
            onix.sleep(3600)

        @onix.flow
        def parent(children: Any = children, begun: Any = begun, child: Any = child) -> None:
            while True:
                children.append(child.start())
                begun.set()

        future = parent.start()
        assert begun.wait(WAIT)
        together(lambda future=future: future.cancel(interrupt=True))
        # The parent appends what `start` returned after it: the session knows better what there is.
        own = [one for one in onix.runs().futures if one.run and one.run.parent is future.run]
        assert not onix.wait(own, timeout=WAIT).not_done
        assert all(one.cancelled() for one in own)


def test_settings_that_change_while_work_starts_lose_nothing(together: Together) -> None:
    """Workers and flows come and go, and every run ends."""

    def change() -> None:
        for turn in range(400):
            with onix.configure(max_workers=turn % 3 + 1, max_flows=turn % 2 + 1):
                pass

    def start() -> list[onix.Future[int]]:
        return [function.start(x=x) for x in range(150) for function in ALL]

    *some, _ = together(start, start, change)
    futures = [future for part in some for future in part]
    assert not onix.wait(futures, timeout=WAIT).not_done
