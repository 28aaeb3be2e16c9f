"""The handle of a run: a `concurrent.futures.Future` that knows its run, and is cheap.

A stdlib future owns a `Condition` and three lists from birth, which is most of its weight and of
its time. Here they are made when someone asks for them: a thread that blocks in `result()` parks
on a lock of its own, and the stdlib's `wait`, `as_completed` and `wrap_future`, which take
`_condition` and append to `_waiters`, get real ones at that moment.

How a future settles, in `_settle`:

1. claim: under `settling`, one caller wins the right to settle it, and stores the outcome. The
   others are told no. If nobody watches, it commits at once. The outcome of a run that is recorded
   is kept for good first: its `Recorder` calls for the next steps when that is done.
2. announce: every watcher hears that the future is about to settle. So whatever is `done()` has
   been announced before, and a repeated `wait` misses none.
3. commit: under `settling` (and under the condition, if there is one) `_state` becomes final, and
   the watchers wake.
4. tell: the attempt hears of a cancel, the owner keeps its account, callbacks run.

`settling` is one lock for all futures. It guards `_state`, `_claimed`, `_attempt`, `_watchers`,
`_callbacks` and `_cond` of each. It is held for a few bytecodes that call no Python function and
allocate nothing that the garbage collector counts, so no finalizer of a user can run under it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from _thread import get_ident
from collections.abc import Callable, Generator, Mapping
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any, Final, Protocol, TypeVar

from .attempt import Attempt, current
from .parking import block, checked_timeout, checkpoint, refuse_cycles, refuse_to_block
from .process import refuse_in_child
from .run import Run, Status, error_text
from .waiter import Waiter

T = TypeVar("T")

# Guards every future's settling and the attaching of those who want to hear of it; see above.
settling = threading.Lock()

#: The states in which the stdlib's `wait` counts a future as done.
SETTLED: Final = frozenset({CANCELLED_AND_NOTIFIED, FINISHED})

# What was done with an outcome. JOINED: it was in the `done` of a wait. LOOKED: the value or the
# exception was handed over, or will be (a callback), or was given up (cancel, detach).
NEW, JOINED, LOOKED = 0, 1, 2

_UNSETTLED: Final = frozenset({PENDING, RUNNING})
_NOT_BEGUN: Final = frozenset({PENDING})
_CANCELLED_BY_HAND: Final = frozenset({CANCELLED})
_STATUS: Final[Mapping[str, Status]] = {FINISHED: "succeeded", CANCELLED_AND_NOTIFIED: "cancelled"}

_log = logging.getLogger("concurrent.futures")


class Owner(Protocol):
    """Who started futures and keeps account of them: a flow's attempt, or the session."""

    def opened(self, future: Future[Any]) -> None:
        """`future` was started."""

    def settled(self, future: Future[Any]) -> None:
        """`future` has just settled; called once, by the thread that settled it."""

    def consumed(self, future: Future[Any]) -> None:
        """`future` was joined, or looked at; it may not have settled yet."""

    def detached(self, future: Future[Any]) -> None:
        """`future` is nobody's concern any more."""


class Recorder(Protocol):
    """Who keeps the outcome of a run for good before anybody may see it."""

    def record(self, future: Future[Any], conclude: Callable[[], None]) -> None:
        """Keeps the outcome that `future` was claimed with, and calls `conclude`: before it returns, or later.

        It must not raise; it may replace an outcome that could not be kept.
        """


class Watcher(Protocol):
    """Who wants to hear when a future settles."""

    @property
    def stale(self) -> bool:
        """Whether nobody listens any more."""

    def arriving(self, future: Future[Any]) -> None:
        """`future` is about to settle; a wake follows when it has."""

    def wake(self) -> None:
        """A future that announced itself has settled."""


class Future(concurrent.futures.Future[T]):
    """The handle of a run that was started.

    A `concurrent.futures.Future` in every respect: it works in `concurrent.futures.wait` and
    `as_completed`, in `asyncio.wrap_future`, and it can be awaited. `start()` returns one; there
    is no need to make one.

    Attributes:
        run: The record of the run: id, name, status, times. None for a future made by hand.
        arguments: The arguments of the call, by name.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> future = double.start(x=21)
        >>> future.result()
        42
    """

    __slots__ = (
        "_attempt",
        "_callbacks",
        "_claimed",
        "_cond",
        "_exception",
        "_owner",
        "_recorder",
        "_result",
        "_seen",
        "_state",
        "_waiters",
        "_watchers",
        "arguments",
        "run",
    )

    def __init__(
        self,
        run: Run | None = None,
        arguments: Mapping[str, Any] | None = None,
        owner: Owner | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        # Not the base's __init__: it makes the condition and the lists that are lazy here.
        self.run = run
        self.arguments = arguments
        self._owner = owner
        self._attempt = attempt  # the try that may settle this future; None once it has settled
        self._state = PENDING
        self._result: T | None = None
        self._exception: BaseException | None = None
        self._seen = NEW
        self._claimed = False  # between claim and commit
        self._recorder: Recorder | None = None
        self._watchers: list[Watcher] | None = None
        self._callbacks: list[Callable[[Future[T]], object]] | None = None
        self._cond: threading.Condition | None = None

    # What the stdlib's functions reach into.

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        if self._cond is None:
            condition: threading.Condition = threading.Condition()
            waiters: list[Any] = []
            with settling:
                if self._cond is None:
                    self._waiters = waiters
                    self._cond = condition
        return self._cond

    # Asking.

    def done(self) -> bool:
        """Whether the run has ended or was cancelled."""
        return self._state not in (PENDING, RUNNING)

    def running(self) -> bool:
        """Whether the run has begun and not ended."""
        return self._state == RUNNING

    def cancelled(self) -> bool:
        """Whether the run was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> T:
        """What the function returned; blocks until then.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Raises:
            TimeoutError: `timeout` seconds passed; the run goes on.
            concurrent.futures.CancelledError: The run was cancelled.
            RunCancelled: The run that asks was cancelled itself.
            DeadlockError: The wait could never end.
            Exception: What the function raised: the same object, with its traceback.

        Example:
            >>> import onix_nb as onix
            >>> @onix.action
            ... def invert(x: int) -> float:
            ...     return 1 / x
            >>> invert.start(x=4).result()
            0.25
            >>> invert.start(x=0).result()
            Traceback (most recent call last):
            ZeroDivisionError: division by zero
        """
        __tracebackhide__ = True  # IPython then shows the user's frames only
        if self._state != FINISHED or timeout is not None:
            self._join(timeout)
        if self._seen != LOOKED:
            self._look()
        attempt = current.get()
        if attempt is not None and attempt.cancelled:
            attempt._checkpoint()
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment] # or the traceback keeps the future alive
        return self._result  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the function raised, or None when it returned; blocks until then.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Raises:
            TimeoutError: `timeout` seconds passed; the run goes on.
            concurrent.futures.CancelledError: The run was cancelled.
            RunCancelled: The run that asks was cancelled itself.
            DeadlockError: The wait could never end.

        Example:
            >>> import onix_nb as onix
            >>> @onix.action
            ... def invert(x: int) -> float:
            ...     return 1 / x
            >>> futures = [invert.start(x=x) for x in (0, 1)]
            >>> [future.exception() for future in futures]
            [ZeroDivisionError('division by zero'), None]
        """
        if self._state != FINISHED or timeout is not None:
            self._join(timeout)
        if self._seen != LOOKED:
            self._look()
        attempt = current.get()
        if attempt is not None and attempt.cancelled:
            attempt._checkpoint()
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Calls `fn(future)` when the run has ended or was cancelled; at once when it has already.

        It is called on the thread that ended the run, outside of the run. An exception that it
        raises is logged and ignored.

        Example:
            >>> import queue
            >>> import onix_nb as onix
            >>> @onix.action
            ... def double(x: int) -> int:
            ...     return 2 * x
            >>> ended = queue.SimpleQueue()
            >>> double.start(x=21).add_done_callback(ended.put)
            >>> ended.get().result()
            42
        """
        self._look()
        if not self._hear(fn):
            self._call(fn)

    def __await__(self) -> Generator[Any, None, T]:
        """Waits in a coroutine. Cancelling the wait never cancels the run."""
        refuse_in_child()
        checkpoint()
        attempt = current.get()
        if attempt is not None and self._attempt is attempt and attempt._runs_in(asyncio.current_task()):
            refuse_cycles(attempt, (self,))
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        if self._hear(lambda _: _wake_loop(loop, waiting)):
            yield from waiting
        return self.result()

    # Giving up.

    def cancel(self, *, interrupt: bool = False) -> bool:
        """Cancels the run if it has not begun; with `interrupt=True` also while it runs.

        An interrupted future is cancelled at once. Inside its run, and in the runs that it
        started, `onix.errors.RunCancelled` is raised: at the next call into onix, at the next
        `await`, or, in a function that does neither, at its next bytecode after one second. That
        last way is an asynchronous exception: it can hit anywhere, and a library whose code it
        hits may keep a lock. Code that is stuck in a system call goes on until that returns; the
        run is then shown as still stopping, and its result is dropped. `interrupt` is not in
        Oryonix.

        Returns:
            True when the future is cancelled, False when it runs (without `interrupt`) or ended.

        Example:
            >>> import onix_nb as onix
            >>> @onix.action
            ... def listen() -> None:
            ...     onix.sleep(60)
            >>> future = listen.start()
            >>> future.cancel(interrupt=True), future.cancelled()
            (True, True)
        """
        refuse_in_child()
        # A future made by hand is notified by whoever made it, as in the stdlib.
        outcome = CANCELLED if self.run is None else CANCELLED_AND_NOTIFIED
        if self._settle(outcome, since=_UNSETTLED if interrupt and self.run is not None else _NOT_BEGUN):
            self._look()
            return True
        if self._state == FINISHED:  # it came too late: no leak, but a failure still has to be seen
            self._joined()
        return self.cancelled()

    def detach(self) -> Future[T]:
        """Fire and forget: the run is no longer watched for leaks or failures. Not in Oryonix.

        It goes on after its flow has returned, and a cancel of its flow leaves it alone.

        Returns:
            The future itself.

        Example:
            >>> import onix_nb as onix
            >>> @onix.action
            ... def log(text: str) -> None: ...
            >>> @onix.flow
            ... def visit() -> str:
            ...     log.start(text="somebody came").detach()  # without it: LeakedFutureWarning
            ...     return "welcome"
            >>> visit()
            'welcome'
        """
        refuse_in_child()
        self._seen = LOOKED
        if self._owner is not None:
            self._owner.detached(self)
        return self

    # For executors and tests, as in the stdlib.

    def set_running_or_notify_cancel(self) -> bool:
        """Marks the run as begun. False when it was cancelled; its waiters are then told."""
        if self._begin(self._attempt):
            return True
        if self._settle(CANCELLED_AND_NOTIFIED, since=_CANCELLED_BY_HAND):
            return False
        _log.critical("Future %s in unexpected state: %s", id(self), self._state)
        raise RuntimeError("Future in unexpected state")

    def set_result(self, result: T) -> None:
        """Ends a future made by hand with a result."""
        if not self._settle(FINISHED, result):
            raise concurrent.futures.InvalidStateError(f"{self._state}: {self!r}")

    def set_exception(self, exception: BaseException | None) -> None:
        """Ends a future made by hand with an exception."""
        if not self._settle(FINISHED, None, exception):
            raise concurrent.futures.InvalidStateError(f"{self._state}: {self!r}")

    # How it settles. The engine calls these, too.

    def _begin(self, attempt: Attempt | None) -> bool:
        """Marks `attempt` as begun on this thread. False when the run was cancelled meanwhile."""
        ident = get_ident()
        with settling:
            if self._claimed or self._attempt is not attempt:
                return False
            state = self._state
            if state != PENDING and (state != RUNNING or attempt is None):
                return False
            self._state = RUNNING
            if attempt is not None:
                attempt._thread = ident
        return True

    def _settle(
        self,
        state: str,
        result: T | None = None,
        exception: BaseException | None = None,
        *,
        since: frozenset[str] = _UNSETTLED,
        attempt: Attempt | None = None,
        leaving: bool = True,
        at: float | None = None,
    ) -> bool:
        """Settles the future, unless someone else has; see the top of this file.

        Args:
            state: The stdlib's name of the final state.
            result: What the function returned.
            exception: What it raised.
            since: The states from which it may.
            attempt: The try that ended; it may settle only while it is the current one.
            leaving: Whether the thread of `attempt` calls, having left the user's function.
            at: When the run ended, for one that ended elsewhere; None for now.

        Returns:
            Whether this call settled it.
        """
        run = self.run
        now = time.monotonic() if at is None else at
        error = None if exception is None or run is None else error_text(exception)
        outcome = _STATUS.get(state) if exception is None else "failed"
        recorder = self._recorder if state == FINISHED else None
        ours = False
        try:
            with settling:
                if attempt is not None:
                    if leaving:
                        attempt._thread = None
                    if self._attempt is not attempt:
                        return False
                if self._claimed or self._state not in since:
                    return False
                ours = True
                current_one = self._attempt
                self._result = result
                self._exception = exception
                if run is not None:
                    run.finished = now
                    run.error = error
                    run._outcome = outcome
                alone = recorder is None and self._watchers is None and self._cond is None
                if alone:  # nobody to announce it to: claim and commit in one
                    self._state = state
                else:
                    self._claimed = True
            if recorder is None:
                self._conclude(state, current_one, alone)
            else:
                recorder.record(self, lambda: self._conclude(state, current_one, alone=False))
        except BaseException:  # Ctrl-C hit us half way: what is claimed must settle all the same
            if ours:
                self._conclude(state, current_one, alone)
            raise
        return True

    def _conclude(self, state: str, attempt: Attempt | None, alone: bool) -> None:
        """What follows the claim. Running it again does no harm."""
        if not alone:
            self._commit(state)
        self._attempt = self._recorder = None
        if attempt is not None and state == CANCELLED_AND_NOTIFIED:
            attempt._interrupt()
        if self._owner is not None:
            self._owner.settled(self)
        if self._callbacks is not None:
            self._call_back()

    def _commit(self, state: str) -> None:
        """Steps 2 and 3 for a claimed future, and waking its watchers. Running it again does no harm."""
        if state != CANCELLED:
            for watcher in list(self._watchers or ()):
                watcher.arriving(self)
        watchers = None
        with settling:
            condition = self._cond
            if condition is None:
                self._state = state
                self._claimed = False
                watchers = self._watchers
                self._watchers = None
        if condition is not None:
            watchers = self._commit_with_condition(condition, state)
        if watchers is not None:
            for watcher in watchers[:]:
                watcher.wake()

    def _commit_with_condition(self, condition: threading.Condition, state: str) -> list[Watcher] | None:
        """Step 3 for a future that the stdlib waits for: under its condition, as the stdlib does."""
        with condition:
            with settling:
                self._state = state
                self._claimed = False
                watchers = self._watchers
                if state != CANCELLED:
                    self._watchers = None
            if state != CANCELLED:
                for waiter in self._waiters:
                    if state == CANCELLED_AND_NOTIFIED:
                        waiter.add_cancelled(self)
                    elif self._exception is None:
                        waiter.add_result(self)
                    else:
                        waiter.add_exception(self)
            condition.notify_all()
        return watchers if state != CANCELLED else None

    def _replace_attempt(self, old: Attempt, new: Attempt, *, leaving: bool) -> bool:
        """Lets `new` follow the try `old`, which ended without settling. False when `old` is stale."""
        with settling:
            if leaving:
                old._thread = None
            if self._attempt is not old or self._claimed:
                return False
            self._attempt = new
        return True

    # How others hear of it.

    def _watch(self, watcher: Watcher) -> bool:
        """Attaches a watcher. False when the future has settled already."""
        for other in list(self._watchers or ()):
            if other.stale:
                self._unwatch(other)
        one = [watcher]
        with settling:
            settled = self._state == FINISHED or self._state == CANCELLED_AND_NOTIFIED
            claimed = self._claimed
            if not settled:
                if self._watchers is None:
                    self._watchers = one
                else:
                    self._watchers += one
        if claimed and not settled:
            watcher.arriving(self)
        return not settled

    def _unwatch(self, watcher: Watcher) -> None:
        """Takes a watcher back. Readers iterate copies, so none of them misses another watcher."""
        watchers = self._watchers
        if watchers is not None and watcher in watchers:
            with contextlib.suppress(ValueError):  # somebody else took it back
                watchers.remove(watcher)

    def _hear(self, callback: Callable[[Future[T]], object]) -> bool:
        """Registers a callback, without counting as a look. False when there is nothing to wait for."""
        one = [callback]
        with settling:
            pending = self._state == PENDING or self._state == RUNNING
            if pending:
                if self._callbacks is None:
                    self._callbacks = one
                else:
                    self._callbacks += one
        return pending

    def _call_back(self) -> None:
        begun = 0
        callbacks: list[Callable[[Future[T]], object]] | None = None
        try:
            with settling:
                callbacks = self._callbacks
                self._callbacks = None
            for callback in callbacks or ():
                begun += 1
                self._call(callback)
        except BaseException:  # Ctrl-C hit one: the others are called all the same
            for callback in (callbacks or [])[begun:]:
                self._call(callback)
            raise

    def _call(self, callback: Callable[[Future[T]], object]) -> None:
        """Calls back outside of the run that just ended, so that a callback may start actions."""
        before = current.get()
        try:
            current.set(None)
            callback(self)
        except Exception:
            _log.exception("exception calling callback for %r", self)
        finally:
            current.set(before)  # no `reset`: Ctrl-C may come before its token is ours

    def _look(self) -> None:
        """The outcome goes to the user's code, or was given up: it is no leak and no lost failure."""
        if self._seen != LOOKED:
            self._seen = LOOKED
            if self._owner is not None:
                self._owner.consumed(self)

    def _joined(self) -> None:
        """The future was in the `done` of a wait: no leak; but its failure still has to be seen."""
        if self._seen == NEW:
            self._seen = JOINED
            if self._owner is not None:
                self._owner.consumed(self)

    def _join(self, timeout: float | None) -> None:
        """Blocks until the future is done; raises `TimeoutError` or `CancelledError`."""
        refuse_in_child()
        by_hand = self.run is None or self.run.kind == "call"
        if by_hand and timeout is not None:
            timeout = max(timeout, 0)  # as in the stdlib, whose map() passes what is left of its time
        timeout = checked_timeout(timeout)
        if not self.done() and not (
            self._block_as_stdlib(timeout) if self.run is None else self._block(self.done, timeout)
        ):
            raise TimeoutError
        if self.cancelled():
            checkpoint()  # who was cancelled, too, must not take it for its child's fate alone
            self._look()
            raise concurrent.futures.CancelledError

    def _block(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Blocks until `ready()`, which the settling of this future makes true. False when time ran out first."""
        waiter = Waiter()
        try:
            return not self._watch(waiter) or block(waiter, ready, timeout, (self,))
        finally:
            try:
                self._unwatch(waiter)
            except BaseException:  # Ctrl-C hit it half way
                self._unwatch(waiter)
                raise

    def _block_as_stdlib(self, timeout: float | None) -> bool:
        """Blocks on the condition: whoever made the future by hand may notify just that."""
        refuse_to_block()
        with self._condition:
            return self._condition.wait_for(self.done, timeout)

    def __repr__(self) -> str:
        run = self.run
        if run is None:
            return super().__repr__()
        arguments = ", ".join(f"{name}={value!r}" for name, value in run.arguments.items())
        tail = f", {run.error}" if run.error else ""
        return f"<Future {run.name}({arguments}) {run.status}{tail}>"


def _wake_loop(loop: asyncio.AbstractEventLoop, waiting: asyncio.Future[None]) -> None:
    """Ends a coroutine's wait, from any thread."""

    def wake() -> None:
        if not waiting.done():
            waiting.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(wake)


Future.__module__ = "onix_nb"


#: A run with its future; None for an inline call, and where the future has been forgotten.
Entry = tuple[Run, Future[Any] | None]
