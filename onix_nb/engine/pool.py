"""Threads that run tasks: as many as needed up to a limit, reused, parked while there is nothing."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..errors import ExecutorError
from .clock import Clock

# How long an idle thread stays, and how long it takes until a refused one is asked for again, in seconds.
IDLE_SECONDS = 10.0
REFUSED_SECONDS = 0.2
# How much longer each idle thread stays than the one that parked before it. If thousands left at
# once they would fight for the GIL, and nothing else in the process would get it for most of a minute.
APART_SECONDS = 0.002


class Task(Protocol):
    """What a pool runs."""

    def execute(self) -> bool:
        """Runs on a thread of the pool. False when another thread has taken this one's place."""


class Replaceable(Protocol):
    """A task whose thread may be given up."""

    replaced: bool


def waker(idle: list[LockType]) -> Callable[[], None]:
    """What takes a lock out of `idle` and releases it, in one call from C; IndexError when there is none.

    In two steps, Ctrl-C between them would leave a thread parked for ever.
    """
    return functools.partial(next, map(LockType.release, iter(idle.pop, None)))


class Pool:
    """A pool of daemon threads.

    `submit` puts the task into the backlog first, and wakes or makes a thread second; a thread
    parks itself first, and looks into the backlog once more second. So one of the two always sees
    the other, without a lock: appends, pops and removals of lists and deques are atomic.
    """

    def __init__(self, name: str, limit: int | None, clock: Clock | None = None) -> None:
        self._name = name
        self._clock = clock
        self._limit = limit
        self._backlog: deque[Task] = deque()
        # The locks on which idle threads are parked. Who takes one out releases it, once.
        self._idle: list[LockType] = []
        self._wake = waker(self._idle)
        # Guards `_size`, and `replaced` of tasks. Not held while a thread starts or a task runs.
        self._resizing = threading.Lock()
        self._size = 0
        self._closed = False
        self._numbers = itertools.count(1)

    @property
    def size(self) -> int:
        """How many threads the pool has."""
        return self._size

    def submit(self, task: Task) -> None:
        """Runs `task` on a thread, at once or as soon as one is free.

        Raises:
            ExecutorError: The system has no thread for us, and the pool has none.
        """
        self._backlog.append(task)
        if self._idle:
            try:
                self._wake()
                return
            except IndexError:  # somebody else woke it
                pass
        limit = self._limit  # read once: another thread may change it
        if limit is None or self._size < limit:
            self._grow(task)

    def resize(self, limit: int | None) -> None:
        """Changes how many tasks run at once. Threads above the limit end after their task."""
        self._limit = limit
        for _ in range(len(self._backlog)):
            if limit is not None and self._size >= limit:
                break
            self._grow(None)

    def close(self) -> None:
        """Lets the threads end as soon as the backlog is empty, instead of staying for more."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(IndexError):  # somebody else woke it
                self._wake()

    def replace(self, task: Replaceable) -> None:
        """A thread will not come back from `task` soon: another may take its place. Twice counts once."""
        with self._resizing:
            if not task.replaced:
                task.replaced = True
                self._size -= 1
        if self._backlog:
            self._grow(None)

    def _grow(self, task: Task | None) -> None:
        limit = self._limit
        # Whoever takes this out decides: the thread, that it is one; we, that it must not be.
        undecided = [True]
        counted = False
        try:
            with self._resizing:
                if limit is not None and self._size >= limit:
                    return
                self._size += 1
                counted = True
            if self._clock is not None:
                self._clock.start()  # while the system still has threads: it asks again when there are none
            name = f"onix-{self._name}-{next(self._numbers)}"
            threading.Thread(target=self._work, args=(undecided,), name=name, daemon=True).start()
        except RuntimeError as error:  # the system refuses: the task waits until a thread is free
            self._refused(task, error)
        except BaseException:  # Ctrl-C: we may not know whether there is a thread
            if counted and undecided:
                with contextlib.suppress(IndexError):  # there is, after all
                    undecided.pop()
                    with self._resizing:
                        self._size -= 1
            raise

    def _refused(self, task: Task | None, error: RuntimeError) -> None:
        with self._resizing:
            self._size -= 1
            alone = self._size == 0
        if alone and task is not None:
            try:
                self._backlog.remove(task)
            except ValueError:
                return  # a thread that was about to end took it after all
            raise ExecutorError(f"the system has no thread to run this on: {error}") from error
        if self._clock is not None:
            self._clock.after(REFUSED_SECONDS, self._ask_again)

    def _ask_again(self) -> None:
        """After a refusal: all our threads may be waiting for what is in the backlog."""
        if self._backlog:
            self._grow(None)

    def _work(self, undecided: list[bool]) -> None:
        try:
            undecided.pop()
        except IndexError:  # Ctrl-C hit the one who started us
            return
        parking = allocate_lock()
        parking.acquire()
        while True:
            if self._is_surplus():  # the limit may have become lower while it was parked
                self._pass_on()
                return
            try:
                task = self._backlog.popleft()
            except IndexError:
                if not self._park(parking):
                    return
                continue
            stays = task.execute()
            del task  # or this frame keeps its arguments alive while it is parked
            if not stays:
                return

    def _park(self, parking: LockType) -> bool:
        """Waits for work. False when there was none for long, and this thread has left the pool."""
        self._idle.append(parking)
        seconds = IDLE_SECONDS + APART_SECONDS * len(self._idle)
        if not self._backlog and not self._closed and parking.acquire(timeout=seconds):
            return True
        try:
            self._idle.remove(parking)
        except ValueError:  # somebody took it out, so the release has come or will
            parking.acquire()
            return True
        if self._backlog:
            return True
        with self._resizing:
            self._size -= 1
        if self._backlog:  # it came after our look, when `submit` still counted on us
            with self._resizing:
                self._size += 1
            return True
        return False

    def _pass_on(self) -> None:
        """This thread leaves: if it was woken for a task, another idle one has to look."""
        if self._backlog:
            with contextlib.suppress(IndexError):  # nobody is idle: the busy ones look when they are done
                self._wake()

    def _is_surplus(self) -> bool:
        limit = self._limit
        if limit is None or self._size <= limit:
            return False
        with self._resizing:
            surplus = self._size > limit
            if surplus:
                self._size -= 1
        return surplus
