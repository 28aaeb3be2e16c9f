"""Where actions run when it is not the kernel's threads: other processes, a cluster, somebody's executor.

The engine and an executor talk by two small interfaces, both in this file. `Executor` is what you write; `Call`, one
attempt of an action, is what you get. An executor brings each call to where it runs, and tells the call what becomes of
it: `begins` when its code really begins and where, `writes` when it printed, and at the end exactly one of `ends` (what
came back, whether a result or an exception of the user) and `fails` (it was lost on the way, as a typed error).
The engine does the rest: retries, timeouts, statuses, times, tracebacks, warnings.

The outline of one, for a pool whose futures are those of `concurrent.futures`. It does not tell when code begins, so
that a run is pending until it has ended, and `timeout=` has no effect:

    class Somewhere:
        name = "somewhere"

        def submit(self, call):
            future = pool.submit(worker.perform, packing.pack_call(call))
            call.handle = future
            future.add_done_callback(lambda future: call.ends(packing.unpack_outcome(future.result())))

        def cancel(self, call):
            call.handle.cancel()

        def close(self):
            pool.shutdown(wait=False)

`packing.py` has what travels, and `worker.py` what runs there. `futures.py` is the example in full, with the errors.
What an executor promises:

- `submit` returns soon. What it raises fails the call.
- A call that `submit` took gets one `ends` or `fails`, also after `cancel`; what comes after the first is ignored.
- All of `Call` may be used from any thread. No lock of the executor is held meanwhile, because callbacks of users run.
- In a child of `os.fork` it does nothing; `close` ends what it started within a few seconds, whatever runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..errors import ExecutorError


@dataclasses.dataclass(slots=True)
class Outcome:
    """How a call ended where it ran.

    Attributes:
        result: What the function returned.
        error: What it raised, with the traceback of the user's frames; None when it returned.
        where: The worker, for people: `"pid 4711"`.
        started: When the function began, in seconds since the epoch, by the worker's clock.
        seconds: How long it took.
        text: What it wrote and has not been sent before: pairs of `"stdout"` or `"stderr"` and text.
        sent: How many texts were sent before.
    """

    result: Any
    error: BaseException | None
    where: str
    started: float
    seconds: float
    text: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    sent: int = 0


class Call(Protocol):
    """One attempt of an action, as an executor gets it.

    Attributes:
        handle: The executor's own; None at first.
    """

    handle: Any

    @property
    def id(self) -> int:
        """The id of the run."""

    @property
    def name(self) -> str:
        """The name of the action."""

    @property
    def attempt(self) -> int:
        """The number of the attempt, from 1."""

    @property
    def cancelled(self) -> bool:
        """Whether it has to stop, or need not begin."""

    @property
    def function(self) -> Callable[..., Any]:
        """What to call."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The keyword arguments to call it with."""

    @property
    def placement(self) -> Mapping[str, Any]:
        """What `options(<name of the executor>=...)` asks for."""

    def perform(self) -> None:
        """Runs the action on this thread of the kernel; for executors that stay in its process."""

    def begins(self, where: str, started: float | None = None) -> bool:
        """The function begins. False when it must not: the run was cancelled meanwhile.

        Args:
            where: The worker, for people.
            started: Seconds since the epoch, by the worker's clock; None for now.
        """

    def writes(self, stream: str, text: str) -> bool:
        """The function wrote `text` to `stream`, `"stdout"` or `"stderr"`. True when that was all that was missing."""

    def ends(self, outcome: Outcome) -> bool:
        """The function returned or raised. False while texts that were sent before have not come: see `writes`."""

    def fails(self, error: ExecutorError) -> None:
        """The call was lost, and nobody knows how its function ended, if it began."""


class Executor(Protocol):
    """Brings calls to where they run."""

    @property
    def name(self) -> str:
        """What messages and `options(<name>=...)` call it."""

    def submit(self, call: Call) -> None:
        """Brings the call on its way; returns soon."""

    def cancel(self, call: Call) -> None:
        """The call need not begin, or has to stop: its result is no longer wanted. From any thread; returns at once."""

    def close(self) -> None:
        """Ends what this executor started itself, and whatever runs there."""
