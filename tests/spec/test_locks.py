"""E4: no lock of onix is held while code of the user runs.

The test of it: whenever onix calls a user's code, that code may use onix from another thread and
wait for it. A lock that is held over the call would never let the other thread finish.
"""

from __future__ import annotations

import _thread
import concurrent.futures
import contextlib
import contextvars
import gc
import itertools
import queue
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.model.future import settling

WAIT = 30


@onix.action
def double(x: int) -> int:
    return 2 * x


@onix.action(timeout=WAIT)
def timed(x: int) -> int:
    return 2 * x


@onix.action(retry=onix.RetryPolicy(initial_interval=0))
def shaky() -> int:
    attempt = onix.current_run()
    assert attempt is not None
    if attempt.attempt == 1:
        raise ValueError("the first attempt")
    return attempt.attempt


@onix.action
async def double_later(x: int) -> int:
    return 2 * x


@onix.flow
def total(n: int) -> int:
    done, _ = onix.wait([double.start(x=x) for x in range(n)])
    return sum(future.result() for future in done)


@onix.flow
async def total_later(n: int) -> int:
    return sum([await double.start(x=x) for x in range(n)])


@onix.flow
def sleeps() -> None:
    onix.sleep(3600)


def interrupt() -> None:
    future = sleeps.start()
    future.cancel(interrupt=True)
    assert future.cancelled()


def wait_for_each() -> None:
    pending = {total.start(n=1), total.start(n=2)}
    while pending:
        done, pending = onix.wait(pending, return_when=onix.FIRST_COMPLETED)
        for future in done:
            future.result()


def call_back() -> None:
    called = threading.Event()
    double.start(x=1).add_done_callback(lambda _: called.set())
    assert called.wait(WAIT)


def settle_by_hand() -> None:
    future: onix.Future[int] = onix.Future()
    future.add_done_callback(repr)
    future.set_result(1)
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        future.set_result(2)


def configure() -> None:
    with onix.configure():
        pass


# Every way into onix. Each leaves nothing unfinished.
CALLS: dict[str, Callable[[], Any]] = {
    "direct call": lambda: double(x=1),
    "start": lambda: double.start(x=1).result(WAIT),
    "timeout": lambda: timed.start(x=1).result(WAIT),
    "retry": lambda: shaky.start().result(WAIT),
    "inline retry": lambda: shaky(),
    "async action": lambda: double_later.start(x=1).result(WAIT),
    "flow": lambda: total.start(n=2).result(WAIT),
    "async flow": lambda: total_later.start(n=2).result(WAIT),
    "interrupt": interrupt,
    "wait": lambda: onix.wait([double.start(x=1), double.start(x=2)], timeout=WAIT),
    "wait for the first": wait_for_each,
    "as_completed": lambda: [f.result() for f in onix.as_completed([double.start(x=1), double.start(x=2)])],
    "callback": call_back,
    "by hand": settle_by_hand,
    "detach": lambda: double.start(x=1).detach().result(WAIT),
    "runs": lambda: (list(onix.runs()), onix.runs().futures),
    "repr": lambda: repr(onix.runs()),
    "configure": configure,
    "sleep": lambda: onix.sleep(0),
    "executor": lambda: EXECUTOR.submit(int, "1").result(WAIT),
    "new executor": lambda: onix.Executor(max_workers=1).submit(int, "1").result(WAIT),
}
EXECUTOR = onix.Executor(max_workers=2)


def on_a_shared_thread() -> bool:
    """Whether this is the clock or the loop: code that waits there holds up what needs them, lock or not."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if frame.f_code.co_name == "_run" and module in ("onix_nb.engine.clock", "onix_nb.engine.aio"):
            return True
        frame = frame.f_back
    return False


def in_the_stdlibs_lock() -> bool:
    """Whether this thread is in `threading`'s own account of threads: no other one can start or end meanwhile."""
    return threading._active_limbo_lock._is_owned()  # type: ignore[attr-defined]


class Elsewhere:
    """Called by code of a user: makes one call into onix on another thread, the next one each time, and waits for it.

    The other thread is there from the start, because starting one takes locks of the stdlib.
    """

    def __init__(self, patience: float = 10.0, calls: dict[str, Callable[[], Any]] = CALLS) -> None:
        self.stuck: list[str] = []
        self.errors: list[BaseException] = []
        self.called = 0
        self._patience = patience
        self._next = itertools.cycle(calls.items())
        self._asked: queue.SimpleQueue[tuple[Callable[[], Any], Any]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def __call__(self, *_: object) -> None:
        if self.stuck:
            return
        name, call = next(self._next)
        answered = _thread.allocate_lock()
        answered.acquire()
        self._asked.put((call, answered))
        if answered.acquire(timeout=self._patience):
            self.called += 1
        else:
            here = "".join(traceback.format_stack(limit=12))
            self.stuck.append(f"{name!r} on another thread could not finish while this one was here:\n{here}")

    def _serve(self) -> None:
        while True:
            call, answered = self._asked.get()
            try:
                call()
            except BaseException as error:
                self.errors.append(error)
            answered.release()

    def check(self, at_least: int = 1) -> None:
        assert not self.stuck, self.stuck[0]
        assert not self.errors, self.errors
        assert self.called >= at_least


EVERY = len(CALLS)


def test_functions_may_use_onix_from_another_thread() -> None:
    """Actions, inline and started, flows, async ones, and calls of an executor."""
    elsewhere = Elsewhere()

    @onix.action
    def act() -> None:
        elsewhere()

    @onix.flow
    def flow() -> None:
        elsewhere()

    @onix.flow
    async def later() -> None:
        elsewhere()

    for _ in range(EVERY):
        act()
        act.start().result(WAIT)
        flow.start().result(WAIT)
        later.start().result(WAIT)
        EXECUTOR.submit(elsewhere).result(WAIT)
    elsewhere.check(5 * EVERY)


def test_an_async_action_may_use_what_needs_no_loop() -> None:
    """It blocks the shared loop, so another thread's async actions wait; everything else goes on."""
    elsewhere = Elsewhere(calls={name: call for name, call in CALLS.items() if name != "async action"})

    @onix.action
    async def later() -> None:
        elsewhere()

    for _ in range(EVERY):
        later.start().result(WAIT)
    elsewhere.check(EVERY)


def test_callbacks_may_use_onix_from_another_thread() -> None:
    """Called on the thread that ended the run, on the one that cancelled it, and at once."""
    elsewhere = Elsewhere()
    told = threading.Semaphore(0)

    def callback(future: onix.Future[Any]) -> None:
        elsewhere(future)
        told.release()

    for _ in range(EVERY):
        go = threading.Event()
        future = EXECUTOR.submit(go.wait, WAIT)
        future.add_done_callback(callback)
        go.set()
        assert told.acquire(timeout=WAIT)
        future.add_done_callback(callback)
        by_hand: onix.Future[int] = onix.Future()
        by_hand.add_done_callback(callback)
        by_hand.cancel()
        interrupted = sleeps.start()
        interrupted.add_done_callback(callback)
        interrupted.cancel(interrupt=True)
        assert all(told.acquire(timeout=WAIT) for _ in range(3))
    elsewhere.check(4 * EVERY)


def test_texts_of_values_may_use_onix_from_another_thread() -> None:
    """`__repr__` of arguments in messages, `__str__` of exceptions, `__name__` of callables, `shape` of arrays."""
    elsewhere = Elsewhere()

    class Loud:
        def __repr__(self) -> str:
            elsewhere()
            return "<Loud>"

        def __call__(self) -> int:
            return 1

        def __getattr__(self, name: str) -> Any:
            if name in ("__name__", "shape"):
                elsewhere()
            raise AttributeError(name)

    class LoudError(Exception):
        def __str__(self) -> str:
            elsewhere()
            return "loud"

    def fails() -> None:
        raise LoudError

    loud: Any = Loud()
    act = onix.action(fails)
    for _ in range(EVERY):
        for call in (
            lambda: onix.configure(max_workers=loud),
            lambda: onix.wait([loud]),
            lambda: onix.wait(loud),
            lambda: onix.runs([loud]),
            lambda: onix.sleep(loud),
            lambda: onix.action(retry=loud),
        ):
            with pytest.raises(TypeError, match="Loud"):
                call()
        assert isinstance(act.start().exception(WAIT), LoudError)
        with pytest.raises(LoudError):
            act()
        assert EXECUTOR.submit(loud).result(WAIT) == 1
        repr(onix.action(lambda value: value).start(value=loud).result(WAIT))
    elsewhere.check(8 * EVERY)


def test_iterables_may_use_onix_from_another_thread() -> None:
    """What `wait`, `as_completed` and `runs` iterate over."""
    elsewhere = Elsewhere()
    future = double.start(x=1)

    def futures() -> Iterator[onix.Future[int]]:
        elsewhere()
        yield future
        elsewhere()

    for _ in range(EVERY):
        onix.wait(futures(), timeout=WAIT)
        list(onix.as_completed(futures()))
        onix.runs(futures())
    elsewhere.check(6 * EVERY)


def test_warnings_may_use_onix_from_another_thread() -> None:
    """A hook for warnings runs when a flow returns with a leak."""
    elsewhere = Elsewhere()

    @onix.flow
    def leaks() -> None:
        double.start(x=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = elsewhere
        for _ in range(EVERY):
            leaks()
    elsewhere.check(EVERY)


# Finalizers. The garbage collector runs them at any allocation, so also in the middle of onix.


class Chain:
    """Objects that only the garbage collector can free, one at a time: each calls `on_free`, and makes the next."""

    def __init__(self, on_free: Callable[[], Any], length: int) -> None:
        self.on_free = on_free
        self.left = length
        self.called = False


class Garbage:
    """A link of a chain."""

    def __init__(self, chain: Chain) -> None:
        self._itself = self
        self._chain = chain

    def __del__(self) -> None:
        chain = self._chain
        if chain.left:
            chain.left -= 1
            Garbage(chain)
            if not on_a_shared_thread() and not in_the_stdlibs_lock():
                chain.on_free()
                chain.called = True


@contextlib.contextmanager
def collecting_everywhere(on_free: Callable[[], Any], times: int) -> Iterator[None]:
    """Frees garbage at almost every allocation in the block, on whichever thread makes it; once at least."""
    threshold = gc.get_threshold()
    gc.collect()
    chain = Chain(on_free, times)
    gc.set_threshold(0)
    Garbage(chain)  # a collection in here would make it old, so never collected again
    gc.set_threshold(1, *threshold[1:])
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        deadline = time.monotonic() + WAIT
        while not chain.called and time.monotonic() < deadline:
            gc.collect()  # does nothing while another thread is in a collection, or in what that calls
        chain.left = 0  # what it calls is of this test


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_finalizers_may_use_onix_from_another_thread(call: Callable[[], Any]) -> None:
    """In the middle of any call into onix, on any thread."""
    elsewhere = Elsewhere(patience=4.0)
    with collecting_everywhere(elsewhere, times=4 * EVERY):
        for _ in range(8):
            if not elsewhere.stuck:
                call()
    elsewhere.check()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_finalizers_may_use_onix_on_their_own_thread(call: Callable[[], Any]) -> None:
    """What they start does not have to wait for what they interrupted."""
    freed: list[onix.Future[int]] = []

    def on_free() -> None:
        contextvars.Context().run(use)  # not as a part of the run that it interrupts, which may be an action

    def use() -> None:
        with onix.configure():
            future = double.start(x=1)
        future.add_done_callback(repr)
        future.cancel()
        freed.append(future)

    def calls() -> None:
        for _ in range(8):
            call()

    worker = threading.Thread(target=calls, daemon=True)
    with collecting_everywhere(on_free, times=100):
        worker.start()
        worker.join(WAIT)
        assert not worker.is_alive()
    assert freed
    assert not onix.wait(freed, timeout=WAIT).not_done


FIRST = """
    import _thread, gc, sys, threading, traceback
    import onix_nb as onix
    from onix_nb.engine import session

    @onix.action
    def double(x):
        return 2 * x

    @onix.action
    async def double_later(x):
        return 2 * x

    @onix.action(timeout=30)
    def timed(x):
        return 2 * x

    @onix.flow
    def total():
        return 2

    CALLS = {
        "action": lambda: double.start(x=1).result(20),
        "inline": lambda: double(x=1),
        "async": lambda: double_later.start(x=1).result(20),
        "timed": lambda: timed.start(x=1).result(20),
        "flow": lambda: total.start().result(20),
        "runs": onix.runs,
    }
    call = CALLS[sys.argv[1]]
    asked, answered = _thread.allocate_lock(), _thread.allocate_lock()
    asked.acquire(), answered.acquire()
    skip, stuck = None, []

    def serve():
        while asked.acquire():
            call()
            answered.release()

    class Garbage:
        def __init__(self):
            self.itself = self

        def __del__(self):
            # Once for each session, on the thread that makes it, and a little later each time.
            global skip
            if skip is None or threading.get_ident() != main:
                return
            if skip > 0:
                skip -= 1
                Garbage()
                return
            skip = None
            asked.release()
            if not answered.acquire(timeout=5):
                stuck.extend(traceback.format_stack(limit=12))

    main = threading.get_ident()
    threading.Thread(target=serve, daemon=True).start()
    for later in range(60):
        session._session = None  # as in a new process
        gc.collect()
        skip = later
        gc.set_threshold(1)
        Garbage()
        call()
        gc.set_threshold(700)
        skip = None
        assert not stuck, "a lock is held while a finalizer runs:" + "".join(stuck)
"""


@pytest.mark.parametrize("call", ["action", "inline", "async", "timed", "flow", "runs"])
def test_finalizers_may_use_onix_during_its_first_call(script: Callable[..., Any], call: str) -> None:
    """While the session, the loop or the clock is being made."""
    script(FIRST).passes(call)


# Controls


def test_control_a_held_lock_is_caught_in_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the lock of all futures were held over callbacks, the tests above would say so."""
    call = onix.Future._call

    def held(future: onix.Future[Any], callback: Callable[..., Any]) -> None:
        with settling:
            call(future, callback)

    monkeypatch.setattr(onix.Future, "_call", held)
    elsewhere = Elsewhere(patience=0.3, calls={"cancel": lambda: onix.Future().cancel()})
    future: onix.Future[int] = onix.Future()
    future.add_done_callback(elsewhere)
    future.set_result(1)
    assert "could not finish" in elsewhere.stuck[0]


def test_control_a_held_lock_is_caught_in_finalizers() -> None:
    """If garbage were collected under the lock of all futures, the tests above would say so."""
    elsewhere = Elsewhere(patience=0.3, calls={"cancel": lambda: onix.Future().cancel()})
    with collecting_everywhere(elsewhere, times=10), settling:
        [[] for _ in range(100)]
    assert "could not finish" in elsewhere.stuck[0]
