"""Running a cell again: what it started before is taken over instead of being started twice.

A cell is known by its id; where the front end has none, by its source. `Takeover` is the policy,
and pure; an `Execution` is one run of a cell; `Executions` remembers the last of each cell that has
something unfinished.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from ..config import OnRerun
from ..engine.attempts import StartedAttempt
from ..model.definition import Definition
from ..model.fingerprint import of_arguments, of_function
from ..model.future import Entry, Future
from ..model.output import tell
from ..model.run import SCALARS, Run, Status, clock_time

UNFINISHED: Final = ("pending", "running")
MOST_TOLD: Final = 5


class HasStatus(Protocol):
    """A run, as far as the policy looks at it."""

    @property
    def status(self) -> Status:
        """How it is now."""


class Started:
    """What a cell started: of which function, with which arguments, as they were then.

    Attributes:
        run: Its run.
        future: Its future.
    """

    __slots__ = ("_arguments", "_function", "_token", "future", "run")

    def __init__(self, function: Hashable, arguments: Mapping[str, Any], run: Any, future: Any = None) -> None:
        self._function = function
        self._arguments: Mapping[str, Any] | None = arguments
        # Plain values can't change; a token of them is made when somebody asks.
        plain = all(type(value) in SCALARS or type(value) is str for value in arguments.values())
        self._token: Hashable = None if plain else of_arguments(arguments)
        self.run = run
        self.future = future

    @property
    def what(self) -> Hashable:
        """Equal for starts of the same function with the same arguments."""
        if self._token is None and self._arguments is not None:
            self._token, self._arguments = of_arguments(self._arguments), None
        return self._function, self._token

    @property
    def unfinished(self) -> bool:
        """Whether it waits or runs."""
        return self.run.status in UNFINISHED


class Takeover:
    """The policy: for each start of an execution the one of the execution before that stands for it.

    `attach`: while something of the execution before is unfinished, the k-th start of the same function with the same
    arguments is the k-th such start then, unless that failed or was cancelled. `restart` and `parallel`: none is.
    """

    def __init__(self, before: Sequence[Started], policy: OnRerun) -> None:
        self._before = before
        self.cancelled = [one for one in before if one.unfinished] if policy == "restart" else []
        self._same: dict[Hashable, deque[Started]] = {}
        if policy == "attach" and any(one.unfinished for one in before):
            for one in before:
                self._same.setdefault(one.what, deque()).append(one)

    @property
    def expects(self) -> bool:
        """Whether something may be taken over."""
        return bool(self._same)

    def take(self, what: Hashable) -> Started | None:
        """What stands for the next start of `what`; None: it is started."""
        same = self._same.get(what)
        if not same:
            return None
        found = same.popleft()
        return found if found.unfinished or found.run.status == "succeeded" else None

    def left(self) -> list[Started]:
        """What nobody has asked for and goes on, in the order of the execution before."""
        left = {id(one) for same in self._same.values() for one in same}
        return [one for one in self._before if id(one) in left and one.unfinished]


class Execution:
    """One run of a cell."""

    def __init__(self, source: str, before: Execution | None, policy: OnRerun) -> None:
        self.source = source
        self.started: list[Started] = []
        # A cell of `%%onix_flow`: what its flow is, for the next execution to compare.
        self.flow: Hashable = None
        self._before = [] if before is None else before.started
        self._flow_before = None if before is None else before.flow
        self._edited = before is not None and before.source != source
        self.is_flow = source.lstrip().startswith("%%onix_flow")
        if self.is_flow:  # its magic says what is to be done
            policy = "parallel"
        self._takeover = Takeover(() if self._edited and policy == "attach" else self._before, policy)
        self._attached: set[Run] = set()
        self._thread = threading.get_ident()
        # Of each function that was started: what it was at its first start.
        self._functions: dict[int, tuple[Definition, Hashable]] = {}
        cancel(self._takeover.cancelled)

    # The session's side.

    def earlier(self, definition: Definition, arguments: Mapping[str, Any]) -> Future[Any] | None:
        """The future of the execution before that stands for this start."""
        if not self._takeover.expects or threading.get_ident() != self._thread:
            return None
        found = self._takeover.take((self._function(definition), of_arguments(arguments)))
        if found is None:
            return None
        self._attach(found)
        return found.future  # type: ignore[no-any-return]

    def opened(self, future: Future[Any]) -> None:
        """The cell has started `future`."""
        run, attempt = future.run, future._attempt
        if run is None or run.parent is not None or run.kind == "call" or not isinstance(attempt, StartedAttempt):
            return
        if threading.get_ident() == self._thread:
            self.started.append(Started(self._function(attempt._definition), future.arguments or {}, run, future))

    def _function(self, definition: Definition) -> Hashable:
        known = self._functions.get(id(definition))
        if known is None:
            token = (definition.kind, definition.name, of_function(definition.invoke))
            known = self._functions[id(definition)] = definition, token
        return known[1]

    # The magic's side.

    def take_over_flow(self, flow: Hashable, policy: OnRerun) -> Future[Any] | None:
        """The flow that the cell started before, if it goes on and is the same; a changed one is cancelled."""
        self.flow = flow
        running = [one for one in self._before if one.unfinished]
        if policy == "parallel" or not running:
            return None
        if policy == "attach" and flow == self._flow_before:
            self._attach(running[-1])
            return running[-1].future  # type: ignore[no-any-return]
        cancel(running)
        why = "" if policy == "restart" else ", because the cell, or something that it uses, has changed"
        tell(f"cancelled {names_of(running)}{why}")
        return None

    def _attach(self, found: Started) -> None:
        self.started.append(found)
        if not self._attached:
            how = "--on-rerun restart" if self.is_flow else 'onix.configure(on_rerun="restart")'
            tell(f"{_attached_to([found.run])}, instead of starting it twice; {how} starts anew")
        self._attached.add(found.run)

    # The extension's side.

    def note(self, entries: Iterable[Entry]) -> str:
        """What a view of these runs says of those that were taken over."""
        attached = [run for run, _ in entries if run in self._attached]
        return _attached_to(attached) if attached else ""

    def end(self, *, succeeded: bool) -> None:
        """Tells what goes on though the cell has not asked for it; keeps it, if the cell did not come to its end."""
        left = [one for one in self._before if one.unfinished] if self._edited else self._takeover.left()
        if not succeeded:
            self.started += left
        elif left and not self.is_flow:
            tell(f"{names_of(left)}, which this cell started before, goes on; %onix_cancel ends it")


class Executions:
    """The last execution of each cell that has something unfinished."""

    def __init__(self) -> None:
        self._last: dict[str, Execution] = {}
        # Cells that run: more than one when a cell runs another.
        self._running: list[tuple[str, Execution]] = []

    def begin(self, cell_id: str | None, source: str, policy: OnRerun) -> Execution:
        """A cell begins to run."""
        self._forget()
        key = cell_id or source
        execution = Execution(source, self._last.get(key), policy)
        self._running.append((key, execution))
        return execution

    def end(self, *, succeeded: bool) -> Execution | None:
        """The cell has ended; the one that runs on."""
        if self._running:
            key, execution = self._running.pop()
            execution.end(succeeded=succeeded)
            self._last[key] = execution
            self._forget()
        return self._running[-1][1] if self._running else None

    def _forget(self) -> None:
        """What has nothing unfinished is started anew when it is run again: its futures can go."""
        for key in [key for key, last in self._last.items() if not any(one.unfinished for one in last.started)]:
            del self._last[key]


def cancel(started: Iterable[Started]) -> None:
    """Cancels runs, with what they started."""
    for one in started:
        one.future.cancel(interrupt=True)


def names_of(started: Sequence[Started]) -> str:
    """The runs, by name and number."""
    told = ", ".join(f"{one.run.kind} {one.run.name} (run {one.run.id})" for one in started[:MOST_TOLD])
    more = len(started) - MOST_TOLD
    return f"{told} and {more} more" if more > 0 else told


def _attached_to(runs: Sequence[Run]) -> str:
    many = f"{len(runs)} runs" if len(runs) > 1 else "run"
    return f"attached to {many} started {clock_time(min(run.queued for run in runs)):%H:%M:%S} UTC"
