"""Calls back at a time: back-off of retries, timeouts of attempts, grace of cancels.

One thread for all, started when the first call is scheduled. What it calls must return at once.
"""

from __future__ import annotations

import _thread
import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

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
    """A thread that sleeps until the earliest alarm."""

    def __init__(self) -> None:
        # Guards `_alarms` and `_started`; notified when an alarm becomes the earliest. Not held
        # while a callback runs. Re-entrant, for a finalizer that schedules something.
        self._changed = threading.Condition(threading.RLock())
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._started = False
        self._order = itertools.count()

    def after(self, seconds: float, callback: Callable[[], None]) -> Alarm:
        """Calls `callback` on the clock's thread in `seconds`."""
        alarm = Alarm(callback)
        entry = (time.monotonic() + min(seconds, threading.TIMEOUT_MAX / 2), next(self._order), alarm)
        with self._changed:
            heapq.heappush(self._alarms, entry)
            if not self._started:
                with contextlib.suppress(RuntimeError):  # refused, or the interpreter exits: the next call tries again
                    self.start()
            elif self._alarms[0] is entry:
                self._changed.notify()
        return alarm

    def start(self) -> None:
        """Starts the clock's thread, unless it runs.

        Raises:
            RuntimeError: The system has no thread for it.
        """
        with self._changed:
            if not self._started:
                _thread.start_new_thread(self._run, ())  # nobody joins it, so `threading` need not know it
                self._started = True

    def _run(self) -> None:
        while True:
            callback = self._next().callback
            if callback is not None:
                try:
                    callback()
                except Exception:
                    _log.exception("a scheduled call failed")
            del callback

    def _next(self) -> Alarm:
        """Blocks until the earliest alarm is due, and takes it."""
        with self._changed:
            while True:
                if not self._alarms:
                    self._changed.wait()
                    continue
                seconds = self._alarms[0][0] - time.monotonic()
                if seconds <= 0:
                    return heapq.heappop(self._alarms)[2]
                self._changed.wait(seconds)
