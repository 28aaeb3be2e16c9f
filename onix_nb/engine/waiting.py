"""Waiting for many futures: `wait` and `as_completed`.

Repeated `wait(FIRST_COMPLETED)` is the pattern that costs most, because the stdlib locks and
scans every future each time. Here the `not_done` that a wait returns remembers an `Inbox` at
which its futures announce themselves, so that the next wait on that set looks only there.
"""

from __future__ import annotations

import concurrent.futures
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Set
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from .. import config
from ..explore.runs import Runs
from ..model.attempt import current
from ..model.future import SETTLED, Future, settling
from ..model.parking import block, checked_timeout, checkpoint
from ..model.process import refuse_in_child
from ..model.waiter import Waiter

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class DoneAndNotDone(NamedTuple, Generic[T]):
    """What `wait` returned; as the last line of a cell, a live view. The frames are not in Oryonix.

    Attributes:
        done: The futures that were done at that moment.
        not_done: The others.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def invert(x: int) -> float:
        ...     return 1 / x
        >>> waited = onix.wait([invert.start(x=x) for x in (0, 1, 2)])
        >>> len(waited.done), len(waited.not_done)
        (3, 0)
        >>> waited.runs
        <3 runs: 1 failed, 2 succeeded>
        >>> waited.errors()["type"].tolist()
        ['ZeroDivisionError']
    """

    done: set[Future[T]]
    not_done: set[Future[T]]

    @property
    def runs(self) -> Runs:
        """The runs of all of them, in the order of starting; without futures that were made by hand."""
        entries = [(future.run, future) for future in (*self.done, *self.not_done) if future.run is not None]
        return Runs(sorted(entries, key=lambda entry: entry[0].id))

    def to_frame(self) -> pd.DataFrame:
        """One row for each run, in the order of starting, as `Runs.to_frame` has it."""
        return self.runs.to_frame()

    def results(self) -> pd.DataFrame:
        """What the runs returned, as a tidy frame, as `Runs.results` has it."""
        return self.runs.results()

    def errors(self) -> pd.DataFrame:
        """One row for each failure, as `Runs.errors` has it."""
        return self.runs.errors()


DoneAndNotDone.__module__ = "onix_nb"


class Choice(Protocol):
    """Where a durable flow records which futures were done when it looked, one look after the other."""

    def recorded(self) -> list[Future[Any]] | None:
        """What the next look saw when the flow ran before, in order; None: it has to look."""

    def keep(self, done: Iterable[Future[Any]]) -> None:
        """Records what it saw now."""


class Inbox:
    """Where the futures of a repeated wait announce themselves. One thread reads it at a time."""

    __slots__ = ("__weakref__", "_arrived", "_door", "_waiter")

    def __init__(self) -> None:
        # Futures that have settled or are about to. Filled by any thread: deques are atomic.
        self._arrived: deque[Future[Any]] = deque()
        self._waiter: Waiter | None = None
        self._door = _Door(self)

    def attach(self, futures: Iterable[Future[Any]]) -> None:
        """Lets each of `futures` announce itself here, those that have settled at once."""
        for future in futures:
            if not future._watch(self._door):
                self._arrived.append(future)

    def detach(self, futures: Iterable[Future[Any]]) -> None:
        """Lets `futures` forget it, at once; otherwise they do so some time after it is gone."""
        for future in futures:
            future._unwatch(self._door)

    def collect(self) -> list[Future[Any]]:
        """Takes the futures that have settled since the last time."""
        arrived = self._arrived
        settled = []
        for _ in range(len(arrived)):
            future = arrived.popleft()
            if future._state in SETTLED:
                settled.append(future)
            else:  # announced, and about to settle: a wake follows
                arrived.append(future)
        return settled

    def wait(self, timeout: float | None, futures: Set[Future[Any]]) -> bool:
        """Blocks until one of `futures` has settled. False when `timeout` seconds passed first."""
        arrived = self._arrived
        # A deadlock is between a few; a look at many would cost what the inbox saves.
        few = tuple(futures) if len(futures) <= 16 else ()
        self._waiter = waiter = Waiter()
        try:
            return block(waiter, lambda: any(future._state in SETTLED for future in arrived.copy()), timeout, few)
        finally:
            self._waiter = None


class _Door:
    """The watcher that futures keep: it does not keep the inbox alive once nobody reads it."""

    __slots__ = ("_inbox",)

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = weakref.ref(inbox)

    @property
    def stale(self) -> bool:
        return self._inbox() is None

    def arriving(self, future: Future[Any]) -> None:
        inbox = self._inbox()
        if inbox is not None:
            inbox._arrived.append(future)

    def wake(self) -> None:
        inbox = self._inbox()
        if inbox is not None:
            waiter = inbox._waiter
            if waiter is not None:
                waiter.wake()


class _Remaining(set[Future[Any]]):
    """The `not_done` of a wait for the first: a set that knows where its members announce themselves.

    Members may be taken out of it; as soon as one is put in, it is a plain set again.
    """

    __slots__ = ("_inbox",)
    _inbox: Inbox | None

    def __init__(self, members: Iterable[Future[Any]] = (), inbox: Inbox | None = None) -> None:
        super().__init__(members)
        self._inbox = inbox

    def take_inbox(self) -> Inbox | None:
        """The inbox, for one reader: a second wait on the same set has to look for itself."""
        with settling:
            inbox = self._inbox
            self._inbox = None
        return inbox

    def add(self, member: Future[Any]) -> None:
        self._inbox = None
        super().add(member)

    def update(self, *others: Iterable[Future[Any]]) -> None:
        self._inbox = None
        super().update(*others)

    def symmetric_difference_update(self, other: Iterable[Future[Any]]) -> None:
        self._inbox = None
        super().symmetric_difference_update(other)

    def __ior__(self, other: Any) -> _Remaining:  # type: ignore[override,misc]
        self._inbox = None
        super().__ior__(other)
        return self

    def __ixor__(self, other: Any) -> _Remaining:  # type: ignore[override,misc]
        self._inbox = None
        super().__ixor__(other)
        return self

    def copy(self) -> set[Future[Any]]:
        return set(self)

    def __reduce__(self) -> Any:
        return set, (list(self),)

    def __repr__(self) -> str:
        return repr(set(self))


def wait(
    futures: Iterable[Future[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[T]:
    """Waits for several futures. It never raises for a failed one: `result()` does that.

    Args:
        futures: Any iterable of futures of onix; duplicates count once.
        timeout: Seconds to wait at most (not in Oryonix); None for no limit. When it passes, what
            is not done is in `not_done`.
        return_when: `onix.ALL_COMPLETED` (default), or `onix.FIRST_COMPLETED` for the futures of
            flows. `onix.FIRST_EXCEPTION`, and `FIRST_COMPLETED` with the future of an action, are
            not in Oryonix and need `onix.configure(strict=False)`.

    Returns:
        The named tuple `(done, not_done)` of two sets. Every future that is done at that moment
        is in `done`.

    Raises:
        TypeError: Something in `futures` is no future of onix, or `timeout` no number.
        ValueError: An unknown `return_when`, or a negative `timeout`.
        NotImplementedError: A `return_when` that Oryonix does not have.
        RunCancelled: The run that waits was cancelled.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> done, not_done = onix.wait([double.start(x=x) for x in range(3)])
        >>> sorted(future.result() for future in done), not_done
        ([0, 2, 4], set())
    """
    refuse_in_child()
    checkpoint()
    timeout = checked_timeout(timeout)
    inbox = futures.take_inbox() if type(futures) is _Remaining else None
    members: set[Future[T]] = futures if type(futures) is _Remaining else _futures(futures, "wait")
    if inbox is None or return_when != FIRST_COMPLETED:
        _refuse_beyond_seed(members, return_when)
    if return_when == ALL_COMPLETED and timeout is None:
        wait_all(futures if isinstance(futures, (list, tuple)) else members, None)
        return _split(members)
    choice = _choice(f"wait {return_when}", members)
    if choice is not None and (done := choice.recorded()) is not None:
        wait_all(done, None)
        for future in done:
            future._joined()
        return DoneAndNotDone(set(done), members.difference(done))
    if return_when == FIRST_COMPLETED:
        waited = _wait_first(members, timeout, inbox)
    elif return_when == ALL_COMPLETED:
        wait_all(futures if isinstance(futures, (list, tuple)) else members, timeout)
        waited = _split(members)
    else:
        waited = _wait_exception(members, timeout)
    if choice is not None:
        choice.keep(waited.done)
    return waited


wait.__module__ = "onix_nb"


def as_completed(futures: Iterable[Future[T]], timeout: float | None = None) -> Generator[Future[T], None, None]:
    """Yields futures as they end, those that have ended first. Not in Oryonix.

    Args:
        futures: Any iterable of futures of onix; duplicates are yielded once.
        timeout: Seconds, from this call, until the last one may come; None for no limit.

    Raises:
        TimeoutError: `timeout` seconds passed; it says how many had not ended.
        TypeError: Something in `futures` is no future of onix.
        RunCancelled: The run that waits was cancelled.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> sorted(f.result() for f in onix.as_completed([double.start(x=1), double.start(x=2)]))
        [2, 4]
    """
    refuse_in_child()
    checkpoint()
    timeout = checked_timeout(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    members = _futures(futures, "as_completed")
    choice = _choice("as_completed", members)
    return _as_completed(members, deadline) if choice is None else _as_recorded(choice, members, deadline)


as_completed.__module__ = "onix_nb"


def _as_completed(remaining: set[Future[T]], deadline: float | None) -> Generator[Future[T], None, None]:
    total = len(remaining)
    inbox = Inbox()
    try:
        inbox.attach(remaining)
        while remaining:
            # One that settles while it is attached announces itself twice.
            settled = [future for future in dict.fromkeys(inbox.collect()) if future in remaining]
            if not settled:
                seconds = None if deadline is None else max(0, deadline - time.monotonic())
                if not inbox.wait(seconds, remaining):
                    raise TimeoutError(f"{len(remaining)} (of {total}) futures unfinished")
            remaining.difference_update(settled)
            settled.reverse()
            while settled:
                settled[-1]._joined()
                yield settled.pop()  # and keep no reference to what was yielded
    finally:
        inbox.detach(remaining)


def _choice(what: str, members: set[Future[Any]]) -> Choice | None:
    """Where a durable flow records which of `members` were done; None for all others."""
    attempt = current.get()
    return None if attempt is None or attempt._place is None else attempt._place.choice(what, members)


def _as_recorded(choice: Choice, remaining: set[Future[T]], deadline: float | None) -> Generator[Future[T], None, None]:
    """As `_as_completed`, in the order in which they came when the flow ran first."""
    total, inbox = len(remaining), None
    while remaining:
        done = choice.recorded()
        if done is None:
            waited = _wait_first(remaining, None if deadline is None else max(0, deadline - time.monotonic()), inbox)
            done, remaining = list(waited.done), waited.not_done
            inbox = remaining.take_inbox()  # type: ignore[attr-defined]
            choice.keep(done)
        else:
            wait_all(done, None)
            remaining = remaining.difference(done)
        if not done:
            raise TimeoutError(f"{len(remaining)} (of {total}) futures unfinished")
        done.reverse()
        while done:
            done[-1]._joined()
            yield done.pop()  # and keep no reference to what was yielded


def _futures(futures: Iterable[Any], caller: str) -> set[Future[Any]]:
    """The futures as a set.

    Raises:
        TypeError: It is no iterable, or something in it is no future of onix.
    """
    if isinstance(futures, concurrent.futures.Future) or not isinstance(futures, Iterable):
        raise TypeError(f"{caller}() takes an iterable of futures, such as a list, not {futures!r}")
    if not isinstance(futures, (set, frozenset, list, tuple)):
        futures = list(futures)
    for kind in set(map(type, futures)):
        if not issubclass(kind, Future):
            other = next(member for member in futures if type(member) is kind)
            advice = (
                f"; concurrent.futures.{caller}() takes both" if issubclass(kind, concurrent.futures.Future) else ""
            )
            raise TypeError(f"{caller}() takes futures that .start() returned, not {other!r}{advice}")
    return set(futures)


def _refuse_beyond_seed(members: set[Future[Any]], return_when: str) -> None:
    """Raises for a `return_when` that does not exist, or that Oryonix does not have."""
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(
            f"wait() has no return_when={return_when!r}; it has onix.ALL_COMPLETED and onix.FIRST_COMPLETED"
        )
    if return_when == ALL_COMPLETED or not config.current.strict:
        return
    if members and all(future.run is None or future.run.kind == "call" for future in members):
        return  # an executor's calls are nothing that Oryonix has
    switch = "onix.configure(strict=False) allows it here"
    if return_when == FIRST_EXCEPTION:
        raise NotImplementedError(
            "Oryonix does not support return_when=FIRST_EXCEPTION: wait for FIRST_COMPLETED and "
            f"look for exceptions in `done`; {switch}"
        )
    for future in members:
        if future.run is not None and future.run.kind == "action":
            raise NotImplementedError(
                "Oryonix supports return_when=FIRST_COMPLETED for the futures of child flows only, and "
                f"{future.run.name!r} is an action: make it a flow, or wait for ALL_COMPLETED; {switch}"
            )


def _split(members: set[Future[T]]) -> DoneAndNotDone[T]:
    done = {future for future in members if future._state in SETTLED}
    for future in done:
        if not future._seen:
            future._joined()
    return DoneAndNotDone(done, members - done if len(done) < len(members) else set())


def wait_all(futures: Iterable[Future[Any]], timeout: float | None) -> None:
    """Blocks until all are done, or `timeout` seconds passed.

    One future at a time: what is watched is only the one that it blocks on. The last started
    come first, because they most often end last, and then nothing is left to block on.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    for future in reversed(futures) if isinstance(futures, (list, tuple)) else futures:
        if future._state in SETTLED:
            continue
        seconds = None if deadline is None else max(0, deadline - time.monotonic())
        if not future._block(lambda f=future: f._state in SETTLED, seconds):  # type: ignore[misc]
            return


def _wait_first(members: set[Future[T]], timeout: float | None, inbox: Inbox | None) -> DoneAndNotDone[T]:
    try:
        if inbox is None:
            done = {future for future in members if future._state in SETTLED}
            # Attaching to each costs more than one look at each: only to block, or when it is repeated.
            if len(done) < len(members) and (not done or type(members) is _Remaining):
                inbox = Inbox()
                inbox.attach(members - done)
        else:
            done = members.intersection(inbox.collect())
        if not done and inbox is not None:
            deadline = None if timeout is None else time.monotonic() + timeout
            while not done and inbox.wait(None if deadline is None else max(0, deadline - time.monotonic()), members):
                done = members.intersection(inbox.collect())
    except BaseException:  # Ctrl-C, a cancel, a deadlock: nobody will read it
        if inbox is not None:
            inbox.detach(members)
        raise
    for future in done:
        future._joined()
    not_done = _Remaining(members, inbox)
    not_done.difference_update(done)
    return DoneAndNotDone(done, not_done)


def _wait_exception(members: set[Future[T]], timeout: float | None) -> DoneAndNotDone[T]:
    deadline = None if timeout is None else time.monotonic() + timeout
    inbox = Inbox()
    unsettled = set(members)
    try:
        inbox.attach(members)
        while unsettled:
            settled = inbox.collect()
            unsettled.difference_update(settled)
            if any(future._exception is not None for future in settled) or not unsettled:
                break
            if not inbox.wait(None if deadline is None else max(0, deadline - time.monotonic()), unsettled):
                break
    finally:
        inbox.detach(unsettled)
    return _split(members)
