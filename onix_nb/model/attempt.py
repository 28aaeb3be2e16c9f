"""One try of a run while it executes: who is inside, what it waits for, whether it has to stop.

An `Attempt` lives from `start` to the end of that try; the `Run` is what stays. The engine
subclasses it once for each way to execute (a thread, a flow's thread, the event loop).
"""

from __future__ import annotations

import contextlib
import threading
from contextvars import ContextVar
from typing import Any, Protocol

from ..errors import RunCancelled
from .process import refuse_in_child
from .run import Run
from .waiter import Waiter

# Guards the making of `_wakers`. Held for a few bytecodes, without a call.
waiting = threading.Lock()


class Awaited(Protocol):
    """What an attempt may wait for: a future, which settles when its own attempt ends."""

    _attempt: Attempt | None


class Attempt:
    """What `onix.current_run()` returns: the run that this code belongs to, and its attempt.

    Attributes:
        run: The record of the run.
        attempt: The number of this attempt, from 1.
        cancelled: Whether this attempt has to stop: its run was cancelled, or its time was up.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def who() -> tuple[str, int]:
        ...     me = onix.current_run()
        ...     return me.name, me.attempt
        >>> who()
        ('who', 1)
    """

    __slots__ = ("_base", "_stop", "_thread", "_waiting_for", "_wakers", "attempt", "run")

    # Where a flow that is recorded stands in its journal; None for all others.
    _place: Any = None

    def __init__(self, run: Run, number: int = 1, base: Attempt | None = None) -> None:
        self.run = run
        self.attempt = number
        # The flow that called it inline, on whose thread it runs; None for a thread of its own.
        self._base = base
        self._stop = False
        # The ident of the thread while it is inside the user's function. Guarded by
        # `future.settling`, so that an asynchronous exception can't be sent after it has left.
        self._thread: int | None = None
        # Who is blocked in onix on this thread; None until somebody is. Changed under `waiting`.
        self._wakers: list[Waiter] | None = None
        self._waiting_for: Awaited | None = None

    @property
    def id(self) -> int:
        """The id of the run."""
        return self.run.id

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.run.name

    @property
    def cancelled(self) -> bool:
        """Whether this attempt has to stop."""
        return self._stop or (self._base is not None and self._base._stop)

    @property
    def _holder(self) -> Attempt:
        """The attempt that holds the thread: itself, or the flow that called it inline."""
        return self if self._base is None else self._base

    def _checkpoint(self) -> None:
        """Raises `RunCancelled` in code that calls into onix after its run was cancelled."""
        if self._stop or (self._base is not None and self._base._stop):
            raise self._cancellation()

    def _cancellation(self) -> RunCancelled:
        return RunCancelled(f"run {self.run.id} ({self.run.name}) was cancelled")

    def _blocks(self, waiter: Waiter) -> None:
        """A thread in this attempt is about to park on `waiter`: a cancel has to wake it."""
        one = [waiter]
        with waiting:
            if self._wakers is None:
                self._wakers = one
            else:
                self._wakers += one

    def _goes_on(self, waiter: Waiter) -> None:
        """The thread that parked on `waiter` goes on."""
        with contextlib.suppress(ValueError, AttributeError):  # Ctrl-C came before it was in
            self._wakers.remove(waiter)  # type: ignore[union-attr]

    def _runs_in(self, task: object) -> bool:
        """Whether `task` of asyncio is what runs the body of this attempt."""
        return False

    def _children_owner(self) -> Any:
        """The `Owner` of what this code starts; None for the session."""
        return None

    def _interrupt(self) -> None:
        """Asks the code of this attempt, and what it started, to stop; returns at once."""
        self._stop = True
        for waiter in list(self._holder._wakers or ()):
            waiter.wake()

    def __repr__(self) -> str:
        return f"<run {self.run.id} {self.run.name}, attempt {self.attempt}{', cancelled' if self.cancelled else ''}>"


Attempt.__module__ = "onix_nb"

# The attempt that the running code belongs to. Copied with the context, so that it holds in
# `asyncio.to_thread` and on every thread that runs in a copied context.
current: ContextVar[Attempt | None] = ContextVar("onix_nb_attempt", default=None)


def current_run() -> Attempt | None:
    """The run that the calling code belongs to; None outside of any. Not in Oryonix.

    It is a call into onix like any other: in a run that was cancelled it raises `RunCancelled`.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def who():
        ...     return onix.current_run().name
        >>> who()
        'who'
    """
    refuse_in_child()
    attempt = current.get()
    if attempt is not None:
        attempt._checkpoint()
    return attempt


current_run.__module__ = "onix_nb"
