"""Stop ends the waiting, not the work: a cell that it has ended says what still runs."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from ..engine.session import live
from ..model.future import Future
from ..model.output import tell
from ..model.parking import block
from ..model.run import Run

# The message names so many runs, and counts the others.
MOST_NAMED: Final = 10

# While a cell awaits, the event loop looks for Stop so often, in seconds.
BEAT: Final = 0.1

# Code that waits for futures; it is in the traceback of a wait that was interrupted.
_WAITS: Final = frozenset({block.__code__, Future.__await__.__code__})


class Interrupts:
    """Sees Stop end cells of one shell."""

    def __init__(self) -> None:
        # What runs the cell, if it runs in an event loop.
        self._task: asyncio.Task[Any] | None = None

    def before_cell(self) -> None:
        """A cell begins: if it awaits, lets Stop reach it also while nothing else happens.

        ipykernel then has a handler that asks the event loop to cancel the cell; but nothing wakes
        a loop that is idle, and what blocks the loop is not interrupted. It puts the former handler
        back itself, at the end of the cell.
        """
        self._task = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._task = task = asyncio.current_task(loop)
        if task is not None and threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler) and handler is not signal.default_int_handler:
                signal.signal(signal.SIGINT, _reaching(handler, loop, task))
                _keep_awake(loop, task)

    def after_cell(self, result: Any) -> None:
        """A cell has ended: if Stop has ended it, says what still runs."""
        error: BaseException | None = getattr(result, "error_in_exec", None)
        task, self._task = self._task, None
        if isinstance(error, asyncio.CancelledError):  # of the cell itself, or of a task of the user's
            if task is None or not task.cancelling():
                return
        elif not isinstance(error, KeyboardInterrupt):
            return
        session = live()
        unfinished = [run for run, future in session.unfinished.copy().items() if future is not None]
        own = [run for run in unfinished if run.cell == session.cell]
        if own:
            tell(what_goes_on(own, session.cell))
        elif unfinished and _has_waited(error.__traceback__):  # for what other cells have started
            tell(what_goes_on(unfinished, None))


def _reaching(
    handler: Callable[..., Any], loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]
) -> Callable[..., None]:
    def handle(*signal_and_frame: Any) -> None:
        if asyncio.current_task(loop) is task:  # the cell is not awaiting now
            raise KeyboardInterrupt
        handler(*signal_and_frame)

    return handle


def _keep_awake(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    if not task.done():
        loop.call_later(BEAT, _keep_awake, loop, task)


def _has_waited(trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code in _WAITS:
            return True
        trace = trace.tb_next
    return False


def what_goes_on(unfinished: list[Run], cell: str | None) -> str:
    """What to tell after Stop.

    Args:
        unfinished: The runs; those that another one of them has started are left to that one.
        cell: Which cell started all of them; None when several did.
    """
    inner = set(unfinished)
    runs = [run for run in unfinished if run.parent not in inner]
    named = ", ".join(f"{run.name} (run {run.id})" for run in runs[:MOST_NAMED])
    more = f" and {len(runs) - MOST_NAMED:,} more" if len(runs) > MOST_NAMED else ""
    one = len(runs) == 1
    which = 'status=["pending", "running"]' if cell is None else f'cell="{cell}", status=["pending", "running"]'
    return (
        f"stopped waiting, but {'this goes' if one else 'these go'} on: {named}{more}\n"
        f"Wait again: future.result(), or onix.wait(onix.runs({which}).futures)\n"
        f"End {'it' if one else 'one'}: %onix_cancel {runs[0].id}{'' if one else '; everything: %onix_cancel --all'}"
    )
