"""`onix.Executor`: a `concurrent.futures.Executor` whose calls are runs of the session."""

from __future__ import annotations

import concurrent.futures
import functools
import sys
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from .. import config
from ..errors import ExecutorError
from ..model import process
from ..model.attempt import current
from ..model.definition import Definition
from ..model.future import Future
from ..model.run import printable
from .actions import ActionAttempt, new_run
from .attempts import start
from .pool import Pool
from .session import Session, live
from .waiting import wait_all

P = ParamSpec("P")
T = TypeVar("T")


class _Calls:
    """The owner of an executor's futures: it knows which have not ended, and warns of nothing."""

    def __init__(self) -> None:
        self.unfinished: dict[Future[Any], None] = {}
        self.session: Session | None = None

    def opened(self, future: Future[Any]) -> None:
        """A call was submitted."""
        self.unfinished[future] = None

    def settled(self, future: Future[Any]) -> None:
        """A call has ended."""
        self.unfinished.pop(future, None)
        if self.session is not None:
            self.session.forget(future)

    def consumed(self, future: Future[Any]) -> None:
        """Calls are not watched for leaks."""

    def detached(self, future: Future[Any]) -> None:
        """Calls are not watched for leaks."""


class Executor(concurrent.futures.Executor):
    """Runs plain functions on threads, for any library that takes an executor. Not in Oryonix.

    Its calls show in the view and in `onix.runs()` as runs of kind `call`. They are exempt from
    the rules of actions and flows: any arguments, any `wait`, no warning for what is not
    consumed. When the interpreter exits, calls that have been submitted get up to three seconds.

    Args:
        max_workers: How many calls run at once; None for the number of cores plus 4, 32 at most.

    Raises:
        ValueError: `max_workers` is less than 1.

    Example:
        >>> import onix_nb as onix
        >>> with onix.Executor(max_workers=2) as executor:
        ...     list(executor.map(pow, [2, 3], [5, 2]))
        [32, 9]
    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is None:
            max_workers = config.default_workers()
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._max_workers = max_workers
        self._pool = Pool("executor", max_workers)
        self._calls = _Calls()
        self._shut_down = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs `fn(*args, **kwargs)` on a thread.

        Raises:
            RuntimeError: After `shutdown`, or while the interpreter exits.
            ExecutorError: In a forked child.

        Example:
            >>> import onix_nb as onix
            >>> with onix.Executor() as executor:
            ...     executor.submit(pow, 2, 5).result()
            32
        """
        name = getattr(fn, "__name__", None)
        name = printable(name if isinstance(name, str) else type(fn).__name__)
        definition = Definition(name, "call", functools.partial(_call, fn, args, kwargs), is_open=True)
        self._refuse_after_shutdown()
        session = _live()
        shown = {**{f"arg{position}": value for position, value in enumerate(args)}, **kwargs}
        run = new_run(session, current.get(), definition, shown, sys._getframe(1))
        self._calls.session = session
        attempt = ActionAttempt(definition, run, copy_context(), session.clock, self._pool)

        def submit() -> None:
            # Once more, now that the call is in the accounts: either this sees the shutdown, or
            # the shutdown sees the call.
            self._refuse_after_shutdown()
            attempt._submit()

        return start(attempt, {}, self._calls, session.unfinished, submit)

    def _refuse_after_shutdown(self) -> None:
        if self._shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accepts no more calls.

        Args:
            wait: Block until the calls that were submitted have ended.
            cancel_futures: Cancel those that have not begun.
        """
        self._shut_down = True
        calls = list(self._calls.unfinished)
        if cancel_futures:
            for future in calls:
                future.cancel()
        self._pool.close()
        if wait:
            wait_all(calls, None)

    def __del__(self) -> None:
        pool = self.__dict__.get("_pool")
        if pool is not None:
            pool.close()


Executor.__module__ = "onix_nb"


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    __tracebackhide__ = True
    return fn(*args, **kwargs)


def _live() -> Session:
    """The session; in the stdlib's words when the interpreter exits."""
    try:
        return live()
    except ExecutorError:
        if process.refusal is not None:
            raise
        raise RuntimeError("cannot schedule new futures after interpreter shutdown") from None
