"""How a thread blocks: parked on a lock of its own, until woken, timed out, cancelled or interrupted."""

from __future__ import annotations

import math
import time
from _thread import get_ident
from collections.abc import Callable, Sequence

from ..errors import DeadlockError
from .attempt import Attempt, Awaited, current
from .process import refuse_in_child
from .waiter import Waiter

# Threads that must not block because they run an event loop that others wait for; the value
# says what to do instead. Written by the thread itself.
loop_threads: dict[int, str] = {}


def checked_timeout(timeout: float | None) -> float | None:
    """`timeout` in seconds, or a clear error.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative or not a number (NaN).
    """
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout takes seconds or None, not {timeout!r}")
    if math.isnan(timeout) or timeout < 0:
        raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}")
    return timeout


def checkpoint() -> None:
    """Raises `RunCancelled` when the code that calls belongs to a run that was cancelled."""
    attempt = current.get()
    if attempt is not None:
        attempt._checkpoint()


def refuse_to_block() -> None:
    """Raises when this thread or process must not block."""
    refuse_in_child()
    advice = loop_threads.get(get_ident())
    if advice is not None:
        raise DeadlockError(advice)


def block(waiter: Waiter, ready: Callable[[], bool], timeout: float | None, futures: Sequence[Awaited] = ()) -> bool:
    """Blocks this thread until `ready()`, asked again after each wake of `waiter`.

    Args:
        waiter: Parks the thread. Whoever can change `ready` wakes it.
        ready: Whether the wait is over. Must not run user code.
        timeout: Seconds; None for no limit.
        futures: What the wait is for: any one of these.

    Returns:
        True when ready, False when `timeout` seconds passed first.

    Raises:
        RunCancelled: The run that waits was cancelled.
        DeadlockError: The wait could never end.
        ExecutorError: In a forked child.
        KeyboardInterrupt: On the main thread, after Stop or Ctrl-C; nothing is left behind.
    """
    refuse_to_block()
    deadline = None if timeout is None else time.monotonic() + timeout
    attempt = current.get()
    base = None if attempt is None else attempt._holder
    try:
        if base is not None:
            base._blocks(waiter)
            if futures and timeout is None:  # one with a timeout ends by itself
                # Published before the look for a cycle: of two that close it at once, one sees it.
                base._waiting_for = futures[0] if len(futures) == 1 else None
                refuse_cycles(base, futures)
        while True:
            if attempt is not None:
                attempt._checkpoint()
            if ready():
                return True
            if deadline is None:
                waiter.park()
            elif not waiter.park(deadline - time.monotonic()):
                return ready()
    finally:
        if base is not None:
            base._waiting_for = None
            base._goes_on(waiter)


def refuse_cycles(base: Attempt, futures: Sequence[Awaited]) -> None:
    """Raises `DeadlockError` when none of `futures` can settle before the attempt `base` has ended."""
    cycle: list[str] = []
    for future in futures:
        found = _cycle(base, future)
        if found is None:
            return  # most often the first: this one can settle
        cycle = found
    if len(cycle) == 2:
        raise DeadlockError(
            f"{base.run.kind} {base.run.name} waits for its own future, which settles only when it returns"
        )
    raise DeadlockError(f"these wait for each other for ever: {' -> '.join(cycle)}")


def _cycle(base: Attempt, future: Awaited) -> list[str] | None:
    """The names from `base` back to itself, if `future` settles only after it; else None."""
    names = [base.run.name]
    target: Awaited | None = future
    seen = set()
    while target is not None and target not in seen:
        seen.add(target)
        attempt = target._attempt
        if attempt is None:
            return None
        names.append(attempt.run.name)
        if attempt._holder is base:
            return names
        target = attempt._holder._waiting_for
    return None


def sleep(seconds: float) -> None:
    """Sleeps like `time.sleep`, but a cancel of the run ends it at once. Not in Oryonix.

    In a durable flow it is recorded when it ends: what is left of it is slept after a restart of the kernel.

    Args:
        seconds: How long, 0 or more.

    Raises:
        RunCancelled: The run that sleeps was cancelled.
        DeadlockError: In an `async def` action; use `await asyncio.sleep(seconds)` there.
        TypeError, ValueError: `seconds` is no number, or negative.

    Example:
        >>> import onix_nb as onix
        >>> onix.sleep(0.01)
    """
    if checked_timeout(seconds) is None:
        raise TypeError("sleep() takes seconds, not None")
    attempt = current.get()
    if attempt is not None and attempt._place is not None:
        seconds = attempt._place.sleep(seconds)
    block(Waiter(), lambda: False, seconds)


sleep.__module__ = "onix_nb"
