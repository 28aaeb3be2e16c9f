"""Attempts that were started: how they end, time out, are tried again, and are made to stop.

`RunCancelled` reaches code that calls into onix by itself. Code on a thread that does not gets it
as an asynchronous exception after a second of grace. Two promises make that safe:

- It is sent only while the thread is inside the user's function. The thread sets `_thread` when
  it goes in, and clears it under `settling` when it comes out; under the same lock the sender
  reads it and marks the attempt as `_interrupting`.
- It is never left pending. A thread that comes out and finds the mark waits until the sender has
  sent, and takes the exception back if it has not been raised meanwhile. It is sent once for each
  attempt, so one `except` is enough, whichever of our own lines it hits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures._base import FINISHED
from contextvars import Context
from types import TracebackType
from typing import Any, Final, Self

from ..errors import AttemptTimeoutError, RunCancelled
from ..model.attempt import Attempt, current
from ..model.definition import Definition
from ..model.future import Future, Owner, Recorder, settling
from ..model.interrupting import raise_in, take_back
from ..model.run import Run, Span, error_text
from ..model.waiter import Waiter
from .clock import Alarm, Clock
from .pool import Pool

# Seconds between a cancel and the asynchronous exception.
GRACE: Final = 1.0


class StartedAttempt(Attempt):
    """A try of a run that has a future."""

    __slots__ = ("_alarm", "_begun", "_clock", "_context", "_definition", "_future")

    def __init__(self, definition: Definition, run: Run, context: Context, clock: Clock, number: int = 1) -> None:
        super().__init__(run, number)
        self._definition = definition
        # None once it has run: the context knows the attempt, which would keep both alive.
        self._context: Context | None = context
        self._clock = clock
        self._future: Future[Any]
        self._begun = 0.0
        self._alarm: Alarm | None = None

    def _submit(self) -> None:
        """Brings the attempt to where it runs; returns at once."""
        raise NotImplementedError

    def _next(self, context: Context) -> Self:
        """The attempt that follows this one when it failed."""
        raise NotImplementedError

    def _begin(self) -> bool:
        """Marks the attempt as begun on this thread. False when its run was cancelled meanwhile."""
        if not self._future._begin(self):
            return False
        self._begun = time.monotonic()
        if self.run.started is None:
            self.run.started = self._begun
        else:
            self.run.begun = self._begun
        if self._definition.timeout is not None:
            self._alarm = self._clock.after(self._definition.timeout, self._time_out)
        return True

    def _succeed(self, result: Any) -> None:
        """The user's function has returned."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._future._settle(FINISHED, result, attempt=self)

    def _fail(self, error: BaseException, *, leaving: bool = True, at: float | None = None) -> bool:
        """The attempt has failed: another one follows, or the run ends. False when it came too late.

        Args:
            error: What the user's function raised, or that its time is up.
            leaving: Whether it is the thread of the attempt that calls.
            at: When it failed; None for now.
        """
        if self._alarm is not None:
            self._alarm.cancel()
        policy = self._definition.retry
        if policy is None or not policy.again(self.attempt, error):
            return self._future._settle(FINISHED, None, error, attempt=self, leaving=leaving, at=at)
        context = self._context
        if context is None:
            return False
        new = self._next(context.copy())  # a copy, because this one may still run, after a timeout
        new._future = self._future
        if not self._future._replace_attempt(self, new, leaving=leaving):
            return False
        add_span(self.run, self._begun, error)
        self.run.attempt = new.attempt
        self._clock.after(policy.delay(self.attempt), new._submit)
        return True

    def _time_out(self) -> None:
        error = AttemptTimeoutError(
            f"{self.run.kind} {self.run.name} (run {self.run.id}) took longer than {self._definition.timeout} s"
            f" in attempt {self.attempt}"
        )
        if self._fail(error, leaving=False):
            self._interrupt()


class ThreadAttempt(StartedAttempt):
    """A try that runs on a thread of a pool, in a context of its own."""

    __slots__ = ("_abandoned", "_interrupting", "_pool", "_sent", "replaced")

    def __init__(
        self, definition: Definition, run: Run, context: Context, clock: Clock, pool: Pool, number: int = 1
    ) -> None:
        # Not through super(): one call for each class above is what a no-op would feel most.
        self.run = run
        self.attempt = number
        self._base = None
        self._stop = False
        self._thread = None
        self._wakers = None
        self._waiting_for = None
        self._definition = definition
        self._context = context
        self._clock = clock
        self._begun = 0.0
        self._alarm = None
        self._pool = pool
        # Another thread gets this one's place in the pool. Guarded by `settling`.
        self._abandoned = False
        self.replaced = False  # it has got it; the pool's
        # An asynchronous exception is on its way; `_sent` wakes when it was sent. Guarded by `settling`.
        self._interrupting = False
        self._sent: Waiter | None = None

    def _submit(self) -> None:
        self._pool.submit(self)

    def execute(self) -> bool:
        """Runs the attempt on this thread. False when another thread has taken its place."""
        try:
            self._context.run(self._perform)  # type: ignore[union-attr]
        except RunCancelled:  # an asynchronous one that hit a line of ours
            self._abandoned = True
        self._context = None
        if self._abandoned:
            self.run.stopping = False
            return False
        return True

    def _perform(self) -> None:
        """Runs the user's function, and tells the future; in the attempt's context."""
        current.set(self)
        if not self._begin():
            return
        try:
            try:
                result = self._run()
            except BaseException as error:
                self._fail(trimmed(error))
            else:
                self._succeed(result)
        finally:
            self._leave()

    def _run(self) -> Any:
        """Runs the user's function."""
        return self._definition.invoke(**self._future.arguments)  # type: ignore[arg-type]

    def _leave(self) -> None:
        """Takes back an asynchronous exception that was sent and has not been raised."""
        if self._interrupting and self._sent is not None:
            self._sent.park()
            take_back()

    def _interrupt(self) -> None:
        super()._interrupt()
        with settling:
            if self._thread is not None and not self._abandoned:
                self._abandoned = True
                self.run.stopping = True
        if self._abandoned and not self.replaced:  # not before: Ctrl-C may have hit this, which is then run again
            self._clock.after(GRACE, self._raise_inside)
            self._pool.replace(self)

    def _raise_inside(self) -> None:
        """Raises `RunCancelled` in the user's function, if it is still running."""
        sent = Waiter()
        with settling:
            thread = self._thread
            if thread is None or self._interrupting:
                return
            self._sent = sent
            self._interrupting = True
        raise_in(thread)
        sent.wake()


def add_span(run: Run, begun: float, error: BaseException) -> None:
    """Records an attempt that another one follows."""
    run.spans = [*(run.spans or ()), Span(run.attempt, begun, time.monotonic(), error_text(error))]


def trimmed(error: BaseException) -> BaseException:
    """The exception with its traceback from the user's function on, without the frames that led to it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and _is_ours(trace):
        trace = trace.tb_next
    error.__traceback__ = trace
    return error


def _is_ours(trace: TracebackType) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in ("onix_nb", "asyncio")


# Who is told of each run that starts, as (run, future), on the thread that starts it: views. It must
# not raise, and be quick.
listeners: list[Callable[[tuple[Run, Future[Any] | None]], None]] = globals().get("listeners", [])


def start(
    attempt: StartedAttempt,
    arguments: Mapping[str, Any],
    owner: Owner,
    unfinished: dict[Run, Future[Any] | None],
    submit: Callable[[], None],
    recorder: Recorder | None = None,
) -> Future[Any]:
    """Puts an attempt into the accounts of its owner, and brings it to where it runs.

    Raises:
        RuntimeError: `submit` refused it; the run is then cancelled, as it is after Ctrl-C unless it has begun.
    """
    future: Future[Any] = Future(attempt.run, arguments, owner, attempt)
    attempt._future = future
    future._recorder = recorder
    try:
        unfinished[attempt.run] = future
        if listeners:
            for listener in listeners:
                listener((attempt.run, future))
        owner.opened(future)
        submit()
    except BaseException:  # refused; or Ctrl-C, and who has no future must not be left with a run that never begins
        future.cancel()
        raise
    return future
