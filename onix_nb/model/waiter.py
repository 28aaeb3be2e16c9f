"""What one thread parks on."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from _thread import allocate_lock, get_ident
from typing import Final

# The main thread looks for Ctrl-C so often, in seconds. A signal ends its wait at once, except one that comes
# between the interpreter's last look for signals and the system call that blocks: nothing would tell of that.
BEAT: Final = 0.1


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
        if get_ident() == threading.main_thread().ident:
            return self._park_main(math.inf if seconds is None else time.monotonic() + seconds)
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(seconds, 0), threading.TIMEOUT_MAX))

    def _park_main(self, deadline: float) -> bool:
        while not self._lock.acquire(timeout=max(0, min(BEAT, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
        return True

    @property
    def stale(self) -> bool:
        """Whether nobody can be waiting here any more."""
        return False
