"""What one thread parks on."""

from __future__ import annotations

import contextlib
import threading
from _thread import allocate_lock


class Waiter:
    """Parks one thread. A wake that comes before the park is not lost; more wakes count as one."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Lets the parked thread go on; from any thread."""
        with contextlib.suppress(RuntimeError):  # it was awake already
            self._lock.release()

    def arriving(self, future: object) -> None:
        """A watched future is about to settle; a wake follows when it has."""

    def park(self, seconds: float | None = None) -> bool:
        """Blocks until a wake. False when `seconds` passed first. Ctrl-C raises out of it."""
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(seconds, 0), threading.TIMEOUT_MAX))

    @property
    def stale(self) -> bool:
        """Whether nobody can be waiting here any more."""
        return False
