"""Async code: the one background event loop of `async def` actions, and the loops of async flows.

A cancelled coroutine gets `RunCancelled` at its next `await`, thrown by `drive`; asyncio's own
`CancelledError` stays what it is: somebody's cancel inside the user's code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future as StdlibFuture
from contextvars import Context
from typing import Any, Final

from ..errors import RunCancelled
from ..model import parking
from ..model.attempt import Attempt, current
from ..model.definition import Definition
from ..model.run import Run
from .attempts import StartedAttempt, trimmed
from .clock import Clock
from .pool import Pool

_log = logging.getLogger(__name__)

_ADVICE: Final = (
    "an async action must not block the event loop that all async actions share: "
    "use `await future` instead of future.result() or wait(), and `await asyncio.sleep()` instead of sleep()"
)


class Interruptible:
    """Awaits a coroutine; a cancel of the run is thrown into it as `RunCancelled`."""

    __slots__ = ("_attempt", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], attempt: Attempt) -> None:
        self._coroutine = coroutine
        self._attempt = attempt

    def __await__(self) -> Generator[Any, Any, Any]:
        send, throw = self._coroutine.send, self._coroutine.throw
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                awaited = send(sent) if thrown is None else throw(thrown)
            except StopIteration as stop:
                return stop.value
            try:
                sent, thrown = (yield awaited), None
            except asyncio.CancelledError as error:
                thrown = self._attempt._cancellation() if self._attempt.cancelled else error
            except BaseException as error:
                thrown = error


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose default executor can't hold up the exit of the process.

    The stdlib's default executor has threads that the interpreter waits for at its end, however
    long what they do takes.
    """

    _threads = Pool("to-thread", 32)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Runs `func` on a daemon thread when `executor` is None."""
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        work = _Work(func, args)
        self._threads.submit(work)
        return asyncio.wrap_future(work.future, loop=self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Logs, except what the exit of the process leaves behind."""
        # A cancelled flow may end by the asynchronous exception before the cancel of its task.
        cancelled = isinstance(context.get("exception"), RunCancelled)
        if not cancelled and "was destroyed but it is pending" not in str(context.get("message")):
            super().call_exception_handler(context)


class _Work:
    """A plain function on a thread, for `asyncio.to_thread`."""

    __slots__ = ("_arguments", "_function", "future")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self.future: StdlibFuture[Any] = StdlibFuture()

    def execute(self) -> bool:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._function(*self._arguments))
            except BaseException as error:
                self.future.set_exception(error)
        return True


class ActionLoop:
    """The event loop that all async actions share, on a thread of its own."""

    def __init__(self) -> None:
        self._loop = Loop()
        # Attempts on their way to the loop, which fetches all that have come whenever it is called.
        self._arriving: deque[LoopAttempt] = deque()
        self._closed = False
        threading.Thread(target=self._run, name="onix-loop", daemon=True).start()

    def close(self) -> None:
        """Ends the thread of a loop that nobody uses."""
        self._closed = True
        self.call(self._loop.stop)

    def submit(self, attempt: LoopAttempt) -> None:
        """Starts the attempt on the loop; from any thread."""
        self._arriving.append(attempt)
        self.call(self._fetch)

    def call(self, callback: Callable[[], object]) -> None:
        """Calls `callback` on the loop's thread."""
        self._loop.call_soon_threadsafe(callback)

    def _run(self) -> None:
        parking.loop_threads[get_ident()] = _ADVICE
        asyncio.set_event_loop(self._loop)
        while not self._closed:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # of a task that an action made; asyncio lets them through
                _log.exception("a task of an async action raised")
        del parking.loop_threads[get_ident()]
        self._loop.close()

    def _fetch(self) -> None:
        while self._arriving:
            self._arriving.popleft().launch(self._loop)


class LoopAttempt(StartedAttempt):
    """One try of an async action."""

    __slots__ = ("_action_loop", "_task")

    def __init__(
        self, definition: Definition, run: Run, context: Context, clock: Clock, loop: ActionLoop, number: int = 1
    ) -> None:
        super().__init__(definition, run, context, clock, number)
        self._action_loop = loop
        self._task: asyncio.Task[None] | None = None

    def _submit(self) -> None:
        self._action_loop.submit(self)

    def _next(self, context: Context) -> LoopAttempt:
        return LoopAttempt(self._definition, self.run, context, self._clock, self._action_loop, self.attempt + 1)

    def launch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins on the loop's thread."""
        if self._begin():
            self._thread = None  # that is for attempts that have a thread of their own
            context = self._context
            assert context is not None
            context.run(current.set, self)
            self._task = loop.create_task(self._perform(), context=context)

    async def _perform(self) -> None:
        try:
            result = await Interruptible(self._definition.invoke(**(self._future.arguments or {})), self)
        except BaseException as error:  # also SystemExit, which would end the loop
            self._fail(trimmed(error))
        else:
            self._succeed(result)
        self.run.stopping = False
        self._context = self._task = None

    def _runs_in(self, task: object) -> bool:
        return task is self._task

    def _interrupt(self) -> None:
        super()._interrupt()
        self._action_loop.call(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None and not self._task.done():
            self.run.stopping = True
            self._task.cancel()


def run_flow(
    coroutine: Coroutine[Any, Any, Any], attempt: Attempt, on_begin: Callable[[asyncio.Task[Any]], None]
) -> Any:
    """Runs an async flow to its end on this thread, on a loop of its own.

    Args:
        coroutine: The flow's body.
        attempt: The flow's attempt.
        on_begin: Is given the task that runs the body, for a cancel.
    """
    __tracebackhide__ = True

    async def drive() -> Any:
        task = asyncio.current_task()
        assert task is not None
        on_begin(task)
        attempt._checkpoint()
        return await Interruptible(coroutine, attempt)

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(drive())


def cancel_task(task: asyncio.Task[Any]) -> None:
    """Cancels a task from any thread."""
    with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
        task.get_loop().call_soon_threadsafe(task.cancel)
