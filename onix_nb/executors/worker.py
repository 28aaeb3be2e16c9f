"""What runs where an action runs: in a process of a pool, on a worker of a cluster.

`perform` is the one function that executors call there. It makes the code believe that it is at home: `onix` is
there, `current_run()` tells its run, an action that calls an action is refused, what it prints is told to the
kernel. `interrupt` makes it stop, as a cancel does on threads.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
import time
from _thread import get_ident
from collections import deque
from types import TracebackType
from typing import Any, Final, Protocol

from ..errors import TransferError
from ..model.attempt import Attempt, current
from ..model.interrupting import raise_in, take_back
from ..model.run import Run, clock_seconds, error_text
from . import Outcome
from .packing import Packed, Reply, Store, pack_outcome, unpack

# Seconds between a cancel and the asynchronous exception, as on threads.
GRACE: Final = 1.0

# A line that is not ended is told when it is so long.
LONGEST_LINE: Final = 8 * 1024


class Reporter(Protocol):
    """Tells the kernel what happens here."""

    where: str

    def begins(self, key: str, started: float) -> None:
        """The call begins."""

    def writes(self, key: str, stream: str, text: str) -> None:
        """The call wrote `text`."""


class Performed(Attempt):
    """An attempt as the worker knows it."""

    __slots__ = ("_interrupting", "_lock", "key", "reporter", "sent", "texts")

    def __init__(self, packed: Packed, reporter: Reporter | None) -> None:
        run = Run(packed.name, "action", None, {}, None, None, 0)
        run.id = packed.id
        run.attempt = packed.attempt
        super().__init__(run, packed.attempt)
        self.key = packed.key
        self.reporter = reporter
        self.sent = 0
        self.texts: list[tuple[str, str]] = []
        # Guards `_thread` and `_interrupting`: an exception is sent only while the thread is inside.
        self._lock = threading.Lock()
        self._interrupting = False

    def writes(self, stream: str, text: str) -> None:
        """The code wrote `text`: whole lines are told at once, the rest with the outcome."""
        self.texts.append((stream, text))
        if self.reporter is None or not ("\n" in text or len(text) >= LONGEST_LINE):
            return
        texts, self.texts = self.texts, []
        for stream, text in _joined(texts):
            self.sent += 1
            self.reporter.writes(self.key, stream, text)

    def enter(self) -> None:
        """The thread goes into the user's function."""
        self._thread = get_ident()

    def leave(self) -> None:
        """It has come out: an exception that was sent and not raised is taken back."""
        with self._lock:
            self._thread = None
            if self._interrupting:
                take_back()

    def raise_inside(self) -> None:
        """Raises `RunCancelled` in the user's function, if it is still running."""
        with self._lock:
            if self._thread is not None and not self._interrupting:
                self._interrupting = True
                raise_in(self._thread)


def _joined(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of the same stream as one."""
    joined: list[tuple[str, str]] = []
    for stream, text in texts:
        if joined and joined[-1][0] == stream:
            joined[-1] = (stream, joined[-1][1] + text)
        else:
            joined.append((stream, text))
    return joined


# What runs in this process, by key; and what must not begin.
_running: Final[dict[str, Performed]] = {}
_refused: Final[deque[str]] = deque(maxlen=1000)


def perform(packed: Packed, reporter: Reporter | None = None, store: Store | None = None) -> Reply:
    """Runs a call, and gives what became of it as it travels back."""
    attempt = Performed(packed, reporter)
    if packed.alias:
        sys.modules.setdefault("onix", sys.modules["onix_nb"])
    watch_streams()
    where = f"pid {os.getpid()} on {socket.gethostname()}" if reporter is None else reporter.where
    started, begun = clock_seconds(), time.monotonic()
    _running[packed.key] = attempt
    if _refused and packed.key in _refused:  # looked up after it was entered, as `interrupt` does in reverse
        attempt._interrupt()
    elif reporter is not None:
        reporter.begins(packed.key, started)
    before = current.get()
    current.set(attempt)
    result: Any = None
    failure: BaseException | None = None
    try:
        try:
            result = _run(packed, attempt)
        finally:
            attempt.leave()
    except BaseException as error:
        failure = _without_ours(error)
    current.set(before)
    _running.pop(packed.key, None)
    seconds = time.monotonic() - begun
    outcome = Outcome(result, failure, where, started, seconds, _joined(attempt.texts), attempt.sent)
    del result, failure
    return pack_outcome(packed.name, outcome, store)


def _run(packed: Packed, attempt: Performed) -> Any:
    try:
        function, arguments = unpack(packed.body)
        if type(function) is bytes:  # pickled apart from the arguments
            function = pickle.loads(function)
    except Exception as error:
        raise TransferError(
            f"action {packed.name}() (run {packed.id}) can't be read in the worker: {error_text(error)}"
        ) from error
    attempt.enter()
    attempt._checkpoint()
    return function(**arguments)


def _without_ours(error: BaseException) -> BaseException:
    """The exception with its traceback from the user's function on."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    error.__traceback__ = trace
    return error


def runs(key: str) -> bool:
    """Whether a call runs here."""
    return key in _running


def interrupt(key: str) -> None:
    """Makes a call stop: at its next call into onix, or at its next bytecode after a second. Or lets it not begin."""
    _refused.append(key)
    attempt = _running.get(key)
    if attempt is not None:
        attempt._interrupt()
        timer = threading.Timer(GRACE, attempt.raise_inside)
        timer.daemon = True
        timer.start()


class Stream:
    """Stands in for `sys.stdout` or `sys.stderr`: what a call writes is told to the kernel."""

    def __init__(self, name: str, stream: Any) -> None:
        self._name = name
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes `text`: for a call to its cell, else where it would have gone."""
        attempt = current.get()
        if isinstance(attempt, Performed):
            attempt.writes(self._name, str.__str__(text))
            return len(text)
        return 0 if self._stream is None else self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        """Writes each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def watch_streams() -> None:
    """Puts our streams in front of this process's, unless they are."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Stream):
            setattr(sys, name, Stream(name, stream))
