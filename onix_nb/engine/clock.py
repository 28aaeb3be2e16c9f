"""Calls back at a time: back-off of retries, timeouts of attempts, grace of cancels.

One thread for all, started when the first call is scheduled. What it calls must return at once.
"""

from __future__ import annotations

import _thread
import contextlib
import heapq
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from ..model.waiter import Waiter

_log = logging.getLogger(__name__)


class Alarm:
    """One scheduled call. `cancel` takes it back, if it has not been made."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """The call will not be made. What it would have used is let go at once."""
        self.callback = None


class Clock:
    """A thread that sleeps until the earliest alarm.

    Alarms are put into `_arriving`, an atomic deque, from which the thread sorts them into its own
    heap. So no lock is held while anything is allocated or called.
    """

    def __init__(self) -> None:
        self._arriving: deque[tuple[float, int, Alarm]] = deque()
        self._alarms: list[tuple[float, int, Alarm]] = []  # the thread's own
        # Until when the thread means to sleep. It is written before the last look into `_arriving`,
        # and read after an alarm was put there: one of the two sees the other.
        self._until = math.inf
        self._waiter = Waiter()
        self._order = itertools.count()
        self._started = False
        self._stopped = False
        # Guards `_started`. No call is made under it.
        self._starting = threading.Lock()

    def after(self, seconds: float, callback: Callable[[], None]) -> Alarm:
        """Calls `callback` on the clock's thread in `seconds`."""
        alarm = Alarm(callback)
        when = time.monotonic() + min(seconds, threading.TIMEOUT_MAX / 2)
        self._arriving.append((when, next(self._order), alarm))
        with contextlib.suppress(RuntimeError):  # refused, or the interpreter exits: the next call tries again
            self.start()
        if when < self._until:
            self._waiter.wake()
        return alarm

    def start(self) -> None:
        """Starts the clock's thread, unless it runs.

        Raises:
            RuntimeError: The system has no thread for it.
        """
        if self._started:
            return
        with self._starting:
            first = not self._started
            self._started = True
        if first:
            try:
                _thread.start_new_thread(self._run, ())  # nobody joins it, so `threading` need not know it
            except RuntimeError:
                self._started = False
                raise

    def stop(self) -> None:
        """No more calls are made."""
        self._stopped = True

    def _run(self) -> None:
        while True:
            callback = self._next().callback
            if callback is not None and not self._stopped:
                try:
                    callback()
                except Exception:
                    _log.exception("a scheduled call failed")
            del callback

    def _next(self) -> Alarm:
        """Blocks until the earliest alarm is due, and takes it."""
        while True:
            while self._arriving:
                heapq.heappush(self._alarms, self._arriving.popleft())
            self._until = self._alarms[0][0] if self._alarms else math.inf
            if self._arriving:
                continue
            seconds = self._until - time.monotonic()
            if seconds <= 0:
                return heapq.heappop(self._alarms)[2]
            self._waiter.park(None if seconds == math.inf else seconds)
