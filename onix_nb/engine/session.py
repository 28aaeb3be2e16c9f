"""The session: this process's one live engine, and the only place with global state.

It is kept in this module across `importlib.reload`, so that re-running cells and reloading the
extension leave what runs alone. `live()` gives it, made at the first call.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from .. import config
from ..errors import ExecutorError, UnseenFailureWarning
from ..executors import Executor
from ..model import process
from ..model.definition import Definition
from ..model.future import LOOKED, Future, settling
from ..model.run import Run
from .aio import ActionLoop
from .attempts import ThreadAttempt
from .clock import Clock
from .nested import set_nested
from .pool import Pool
from .waiting import wait_all

# How many finished runs are remembered: with their futures those that cells started, as records
# the others.
RECENT_FUTURES: Final = 100
ARCHIVED_RUNS: Final = 10_000

# A warning names so many runs, and counts the others.
MOST_TOLD: Final = 20

# At exit: seconds for the calls of `onix.Executor` to end, then for interrupted runs to stop.
EXIT_GRACE: Final = 3.0
STOP_GRACE: Final = 0.5


class Execution(Protocol):
    """A run of a cell, which remembers what it starts, and takes over what it started when it ran before."""

    def earlier(self, definition: Definition, arguments: Mapping[str, Any]) -> Future[Any] | None:
        """The future that stands for this start already, if there is one."""

    def opened(self, future: Future[Any]) -> None:
        """The cell has started `future`."""


# Called when the process ends, before what runs is cancelled. Survives a reload of this module.
before_exit: list[Callable[[], None]] = globals().get("before_exit", [])


class Session:
    """Holds what runs and what ran. It owns the futures that cells (or scripts) start.

    Attributes:
        unfinished: Every run that has not ended, with its future; None for an inline call.
        archive: The records of the last finished runs.
        cell: The cell that runs now, as people name it (`In [3]`); None outside a notebook.
        execution: What the running cell starts and takes over; None outside a cell.
    """

    def __init__(self) -> None:
        settings = config.current
        self.unfinished: dict[Run, Future[Any] | None] = {}
        self.archive: deque[Run] = deque(maxlen=ARCHIVED_RUNS)
        self.cell: str | None = None
        self.execution: Execution | None = None
        # Where actions run that do not run on our threads, by their setting. `setdefault` decides who was first.
        self.executors: dict[Any, Executor] = {}
        self.clock = Clock()
        self.actions = Pool("action", settings.workers, self.clock)
        self.flows = Pool("flow", None, self.clock)
        self.gate = Gate(self.flows, settings.max_flows)
        self._recent: deque[Future[Any]] = deque(maxlen=RECENT_FUTURES)
        # Failed runs that cells started and nobody looked at, in the order of failing.
        self._unseen: dict[Run, None] = {}
        self._loop: ActionLoop | None = None
        # Guards the choice of `_loop`; nothing is made under it.
        self._choosing = threading.Lock()

    # The owner of what cells start.

    def opened(self, future: Future[Any]) -> None:
        """A cell started `future`; `unfinished` has it already."""
        if self.execution is not None:
            self.execution.opened(future)

    def settled(self, future: Future[Any]) -> None:
        """A run has ended that a cell started, or a flow that left it behind."""
        run = future.run
        self.archive.append(run)  # type: ignore[arg-type]
        self.unfinished.pop(run, None)  # type: ignore[arg-type]
        if run.parent is None:  # type: ignore[union-attr]
            self._recent.append(future)
        if future._exception is not None and future._seen != LOOKED:
            self.fail(future)

    def consumed(self, future: Future[Any]) -> None:
        """A future of a cell was joined or looked at."""
        if future._seen == LOOKED and self._unseen:
            self._unseen.pop(future.run, None)  # type: ignore[arg-type]

    def detached(self, future: Future[Any]) -> None:
        """A future of a cell is nobody's concern any more."""
        self.consumed(future)

    def forget(self, future: Future[Any]) -> None:
        """Keeps of a run that has ended just the record."""
        self.archive.append(future.run)  # type: ignore[arg-type]
        self.unfinished.pop(future.run, None)  # type: ignore[arg-type]

    def fail(self, future: Future[Any]) -> None:
        """Remembers a failure to report, unless somebody looks at it first."""
        assert future.run is not None
        self._unseen[future.run] = None
        if future._seen == LOOKED:  # somebody did, just now
            self._unseen.pop(future.run, None)

    # What ran.

    def futures(self) -> list[Future[Any]]:
        """The futures of what runs, and of the last runs that cells started, in order of starting."""
        futures = [*self._recent.copy(), *(future for future in self.unfinished.copy().values() if future)]
        return sorted(dict.fromkeys(futures), key=lambda future: future.run.id)  # type: ignore[union-attr]

    def runs(self) -> list[Run]:
        """Every run that is remembered, in order of starting."""
        # A run that ends is put into the archive before it is taken out of `unfinished`: none is missed.
        unfinished = self.unfinished.copy()
        runs = {*unfinished, *self.archive.copy(), *(future.run for future in self._recent.copy())}
        return sorted((run for run in runs if run is not None), key=lambda run: run.id)

    # Failures that nobody looked at.

    def unseen(self) -> list[Run]:
        """The runs whose failure is to be reported, in the order of failing."""
        return list(self._unseen)

    def report(self, runs: list[Run]) -> None:
        """Warns of those of `runs` whose failure nobody has looked at yet, once."""
        unseen = [run for run in runs if self._unseen.pop(run, self) is None]
        if unseen:
            warn_unseen(unseen)

    # The event loop of async actions.

    def loop(self) -> ActionLoop:
        """The background event loop, started at the first call."""
        if self._loop is not None:
            return self._loop
        try:
            new = ActionLoop()
        except RuntimeError as error:
            raise ExecutorError(f"the system has no thread for the event loop of async actions: {error}") from error
        with self._choosing:
            loop = self._loop
            if loop is None:
                self._loop = loop = new
        if loop is not new:  # another thread was first
            new.close()
        return loop

    # Executors.

    def close_executors(self) -> None:
        """Ends the workers that we started, and what runs on them; the next call starts new ones."""
        while self.executors:
            _, executor = self.executors.popitem()
            executor.close()

    # The end.

    def shut_down(self) -> None:
        """Waits a little for the calls of executors, then stops what runs."""
        for close in before_exit:
            close()
        calls = [future for run, future in self.unfinished.copy().items() if future and run.kind == "call"]
        wait_all(calls, EXIT_GRACE)
        self.report(self.unseen())
        # Threads are asked to stop, not made to: an asynchronous exception may leave a library's lock
        # held, such as one that `logging` waits for at exit.
        self.clock.stop()
        attempts = [future._attempt for future in self.futures()]
        for future in self.futures():
            future.cancel(interrupt=True)
        self.close_executors()
        _wait_for_threads([attempt for attempt in attempts if isinstance(attempt, ThreadAttempt)])


def _wait_for_threads(attempts: list[ThreadAttempt]) -> None:
    """Gives the attempts that are inside a function a little time to leave it."""
    deadline = time.monotonic() + STOP_GRACE
    nap = threading.Event()
    while any(attempt._thread is not None for attempt in attempts):
        if time.monotonic() > deadline:
            for name in ("stdout", "__stdout__", "stderr", "__stderr__"):
                _unbuffer(name)
            return
        nap.wait(0.01)


def _unbuffer(name: str) -> None:
    """Replaces a standard stream by one without a buffer, as with `python -u`.

    A buffer has a lock. The interpreter aborts when a thread that prints has it at the very end.
    """
    stream = getattr(sys, name)
    if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.BufferedWriter):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
        raw = cast(io.BufferedWriter, stream.buffer.raw)
        setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, stream.errors, write_through=True))
        _keep_for_ever(stream)


def _keep_for_ever(value: object) -> None:
    """The interpreter never frees `value`, not even when it ends."""
    import ctypes  # only when needed: it takes some milliseconds

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


class Gate:
    """Limits how many flows of cells run at once, from start to end (`max_flows`)."""

    def __init__(self, pool: Pool, limit: int | None) -> None:
        self._pool = pool
        self._limit = limit
        # Guards `_running`. No call is made under it: from Python 3.12 on a call may collect garbage.
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Any] = deque()

    def admit(self, attempt: Any) -> None:
        """Runs the flow as soon as fewer than the limit run."""
        self._waiting.append(attempt)
        self._fill()

    def resize(self, limit: int | None) -> None:
        """Changes the limit; flows that run go on."""
        self._limit = limit
        self._fill()

    def _fill(self) -> None:
        while self._waiting:
            place = _Place(self)
            stays = False
            limit = self._limit
            try:
                with self._lock:
                    if limit is None or self._running < limit:
                        self._running += 1
                        place.taken = True
                if not place.taken:
                    return
                attempt = self._waiting.popleft()
                stays = attempt._future._hear(place.leave)
                if stays:
                    self._pool.submit(attempt)
            except IndexError:  # another thread took it; look again for one that found no place meanwhile
                pass
            finally:  # also after Ctrl-C
                if not stays:
                    place.free()


class _Place:
    """One flow's place among those that run. Leaving it twice counts once."""

    __slots__ = ("_gate", "taken")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.taken = False  # changed under the gate's lock, with its count

    def free(self) -> None:
        """Nobody has it any more."""
        gate = self._gate
        with gate._lock:
            if self.taken:
                self.taken = False
                gate._running -= 1

    def leave(self, _: Future[Any]) -> None:
        """The flow has ended, and another may begin."""
        self.free()
        self._gate._fill()


def warn_unseen(runs: list[Run]) -> None:
    """One warning for failures that nobody looked at; each with its line and its message."""
    many = len(runs) > 1
    told = [f"\n  {run.name} (run {run.id}, started at {run.where}): {run.error}" for run in runs[:MOST_TOLD]]
    lines = "".join(told) + and_more(len(runs))
    message = (
        f"{len(runs)} run{'s' * many} failed and nobody asked for {'their results' if many else 'its result'}:{lines}\n"
        "Ask each future for result() or exception(), or detach() it."
    )
    file, line = runs[0].line or ("onix", 1)
    warnings.warn_explicit(UnseenFailureWarning(message), None, file, line)


def and_more(number: int) -> str:
    """The line that ends a list of which a warning tells the first."""
    return f"\n  … and {number - MOST_TOLD:,} more: see onix.runs()" if number > MOST_TOLD else ""


# Survives a reload of this module: the old value is found in its namespace.
_session: Session | None = globals().get("_session")
_exiting = False


def live() -> Session:
    """This process's session, made at the first call.

    Raises:
        ExecutorError: In a forked child, or while the interpreter exits.
    """
    return _session if _session is not None else _create()


# Guards the choice of `_session`; nothing is made under it.
_choosing = threading.Lock()


def _create() -> Session:
    global _session
    process.refuse_in_child()
    if _exiting:
        raise ExecutorError("cannot start anything: the interpreter is exiting")
    new = Session()  # it has no threads yet: of two, one is just dropped
    with _choosing:
        session = _session
        if session is None:
            _session = session = new
    return session


def _shut_down() -> None:
    """At interpreter exit: ends the session, if there is one, within a few seconds."""
    global _session, _exiting
    session, _session, _exiting = _session, None, process.refusal is None
    if session is not None:
        session.shut_down()


# One fork at a time; and whether garbage was collected before it.
_forking = threading.RLock()
_collected = True


def _before_fork() -> None:
    """Takes `settling`, so that no other thread holds it in the child, and lets no finalizer run under it."""
    global _collected
    _forking.acquire()
    _collected = gc.isenabled()
    gc.disable()
    settling.acquire()


def _after_fork() -> None:
    settling.release()
    if _collected:
        gc.enable()
    _forking.release()


def _forbid_in_child() -> None:
    global _session
    _session = None
    process.refusal = (
        "onix does not work in a forked child process: its threads stayed in the parent. "
        "Call plain functions here, or use subprocess or the spawn method"
    )
    _after_fork()


def _apply(settings: config.Settings) -> None:
    process.refuse_in_child()
    set_nested(settings.nested_asyncio)  # the one that may be refused
    if _session is not None:
        _session.actions.resize(settings.workers)
        _session.gate.resize(settings.max_flows)


config.on_change[:] = [_apply]
if config.current.nested_asyncio:  # asked for by the environment
    set_nested(True)

if "_registered" not in globals():  # once, also when this module is reloaded
    _registered = True
    atexit.register(lambda: _shut_down())
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lambda: _before_fork(),
            after_in_parent=lambda: _after_fork(),
            after_in_child=lambda: _forbid_in_child(),
        )
