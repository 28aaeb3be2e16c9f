"""Actions that run on an executor: which one, and an attempt that is one of its calls."""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures._base import FINISHED
from contextvars import Context
from typing import Any, Final

from ..errors import ExecutorError
from ..executors import Executor, Outcome
from ..model import process
from ..model.attempt import current
from ..model.definition import Definition
from ..model.run import Run, monotonic_time
from .attempts import StartedAttempt, trimmed
from .clock import Clock
from .pool import Pool
from .session import Session

# Where attempts after the first are packed and sent: it may take long, which the clock must not.
_senders: Final = Pool("send", 4)


class RemoteAttempt(StartedAttempt):
    """One try of an action on an executor; what the executor gets as a `Call`."""

    __slots__ = ("_done", "_executor", "_outcome", "_unbegun", "_written", "handle")

    def __init__(
        self, definition: Definition, run: Run, context: Context, clock: Clock, executor: Executor, number: int = 1
    ) -> None:
        super().__init__(definition, run, context, clock, number)
        self._executor = executor
        self.handle: Any = None
        # Who takes this out marks it as begun; who takes the other out ends it. Taking is atomic.
        self._unbegun = [True]
        self._done = [True]
        # Texts that came, and an outcome that came before the last of them.
        self._written = 0
        self._outcome: Outcome | None = None

    # On its way.

    def _submit(self) -> None:
        if self.attempt == 1:
            self.execute()
        else:
            _senders.submit(self)

    def execute(self) -> bool:
        """Hands the call to its executor."""
        try:
            self._executor.submit(self)
        except ExecutorError as error:
            self.fails(error)
        except Exception as error:
            self.fails(self._lost(f"was refused by executor {self._executor.name}: {error}", error))
        return True

    def _next(self, context: Context) -> RemoteAttempt:
        return RemoteAttempt(self._definition, self.run, context, self._clock, self._executor, self.attempt + 1)

    def _interrupt(self) -> None:
        super()._interrupt()
        if self._done:
            self.run.stopping = not self._unbegun
            with contextlib.suppress(Exception):  # it is on its way out
                self._executor.cancel(self)

    def _lost(self, what: str, cause: BaseException | None = None) -> ExecutorError:
        error = ExecutorError(f"{self.run.kind} {self.run.name} (run {self.run.id}, attempt {self.attempt}) {what}")
        error.__cause__ = cause
        return error

    # What the executor may ask.

    @property
    def function(self) -> Callable[..., Any]:
        """What to call."""
        return self._definition.invoke

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The keyword arguments to call it with."""
        return self._future.arguments or {}

    @property
    def placement(self) -> Mapping[str, Any]:
        """What `options(<name of the executor>=...)` asks for."""
        placement: Mapping[str, Any] = self._definition.placement.get(self._executor.name, {})
        return placement

    # What it tells.

    def begins(self, where: str, started: float | None = None) -> bool:
        """The function begins."""
        if self._unbegun:
            with contextlib.suppress(IndexError):
                self._unbegun.pop()
                if not self._begin():
                    return False
                self._thread = None  # that is for attempts that have a thread of their own
                if started is not None:
                    self._begun = monotonic_time(started, self.run.queued)
                    if self.run.begun is None:
                        self.run.started = self._begun
                    else:
                        self.run.begun = self._begun
                self.run.worker = where
        return not self._stop

    def writes(self, stream: str, text: str) -> bool:
        """The function wrote `text`."""
        self._print(stream, text)
        self._written += 1  # before the look at the outcome, as `ends` looks here after it has come
        return self._end_if_complete()

    def ends(self, outcome: Outcome) -> bool:
        """The function returned or raised."""
        self._outcome = outcome
        return self._end_if_complete()

    def _end_if_complete(self) -> bool:
        outcome = self._outcome
        if outcome is None or self._written < outcome.sent:
            return not self._done
        if self._future._callbacks is None:
            self._end(outcome)
        else:  # what is the user's must not run where an executor waits for the next result
            _senders.submit(_Ending(self._end, outcome))
        return True

    def fails(self, error: ExecutorError) -> None:
        """The call was lost."""
        if self._take():
            self._fail(error)
            self._leave()

    def perform(self) -> None:
        """Runs the action on this thread, in the context of its start."""
        context = self._context
        if context is not None:
            context.run(self._perform)

    def _perform(self) -> None:
        current.set(self)
        if self._begin_here():
            try:
                result = self._definition.invoke(**self.arguments)
            except BaseException as error:
                self._fail(trimmed(error))
            else:
                self._succeed(result)
        self._done.clear()
        self._leave()

    def _begin_here(self) -> bool:
        self._unbegun.clear()
        self.run.worker = "this process"
        return self._begin()

    def _take(self) -> bool:
        """Whether the caller is the one who ends this attempt."""
        try:
            return self._done.pop()
        except IndexError:
            return False

    def _end(self, outcome: Outcome) -> None:
        if not self._take():
            return
        for stream, text in outcome.text:
            self._print(stream, text)
        self.begins(outcome.where, outcome.started)
        at = min(self._begun + outcome.seconds, time.monotonic())
        if outcome.error is not None:
            self._fail(outcome.error, at=at)
        else:
            if self._alarm is not None:
                self._alarm.cancel()
            self._future._settle(FINISHED, outcome.result, attempt=self, at=at)
        self._leave()

    def _leave(self) -> None:
        """It does nothing any more, there or here."""
        self.run.stopping = False
        self._context = self._outcome = self.handle = None

    def _print(self, stream: str, text: str) -> None:
        """Writes as the cell that started the run would."""
        context = self._context
        if context is not None and text:
            context.copy().run(self._write, stream, text)

    def _write(self, stream: str, text: str) -> None:
        current.set(self)
        with contextlib.suppress(Exception):  # nobody reads it, or it is closed
            getattr(sys, stream).write(text)


class _Ending:
    """The end of a call, on a thread of ours."""

    __slots__ = ("_end", "_outcome")

    def __init__(self, end: Callable[[Outcome], None], outcome: Outcome) -> None:
        self._end = end
        self._outcome = outcome

    def execute(self) -> bool:
        self._end(self._outcome)
        return True


def executor_of(session: Session, wanted: Any) -> Executor:
    """The executor that a setting names: made at the first call, and the same one from then on.

    Raises:
        ExecutorError: What it stands on is not installed, or a cluster does not answer.
    """
    key = wanted if isinstance(wanted, str) else id(wanted)
    executor = session.executors.get(key)
    if executor is None:
        process.refuse_in_child()
        made = _made(wanted)
        executor = session.executors.setdefault(key, made)
        if executor is not made:  # another thread was first
            made.close()
    return executor


def _made(wanted: Any) -> Executor:
    if wanted == "processes":
        with _installed("loky", "processes"):
            from ..executors.processes import Processes
        return Processes()
    if isinstance(wanted, concurrent.futures.Executor):
        from ..executors.futures import Foreign

        return Foreign(wanted)
    with _installed("distributed", "dask"):
        from ..executors.dask import Cluster
    return Cluster.of(wanted)


@contextlib.contextmanager
def _installed(package: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in (package, "dask"):
            raise
        raise ExecutorError(
            f"executor {extra!r} needs the package {package!r}, which is not installed: pip install onix_nb[{extra}]"
        ) from error
