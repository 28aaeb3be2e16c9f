"""Flows: each on a thread of its own, keeping account of the futures that it starts."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any

from .. import config
from ..errors import LeakedFutureError, LeakedFutureWarning
from ..model.attempt import current
from ..model.definition import Definition
from ..model.future import JOINED, LOOKED, NEW, Future, Owner, Recorder
from ..model.run import Run
from .actions import Origin, new_run, owner_of, replayed
from .aio import cancel_task, run_flow
from .attempts import ThreadAttempt, start
from .session import MOST_TOLD, Session, and_more, live, warn_unseen


class FlowAttempt(ThreadAttempt):
    """The one try of a flow. It owns the futures that the flow starts."""

    __slots__ = ("_body", "_children", "_open", "_place", "_session")

    _session: Session

    def _adopt(self, session: Session, place: Any) -> None:
        self._session = session
        self._place = place
        # The children that are unfinished or not consumed, in the order of starting. Changed by
        # any thread, one atomic operation at a time.
        self._children: dict[Future[Any], None] = {}
        self._open = True
        # What runs the body of an async flow.
        self._body: asyncio.Task[Any] | None = None

    # Running.

    def _run(self) -> Any:
        __tracebackhide__ = True
        definition, arguments = self._definition, self._future.arguments or {}
        try:
            if definition.is_async:
                result = run_flow(definition.invoke(**arguments), self, self._on_begin)
            else:
                result = definition.invoke(**arguments)
        except BaseException:
            self._close(failed=True)
            raise
        self._close(failed=False)
        return result

    def _on_begin(self, body: asyncio.Task[Any]) -> None:
        self._body = body

    def _runs_in(self, task: object) -> bool:
        return task is not None and task is self._body

    def _interrupt(self) -> None:
        super()._interrupt()
        if self._body is not None:
            cancel_task(self._body)
        for child in list(self._children):
            child.cancel(interrupt=True)

    # The owner of its children.

    def _children_owner(self) -> Owner | None:
        return self if self._open else None

    def opened(self, future: Future[Any]) -> None:
        """The flow started `future`."""
        self._children[future] = None
        if self._stop:  # cancelled between its look and this: what was missed is cancelled here
            future.cancel(interrupt=True)

    def settled(self, future: Future[Any]) -> None:
        """A child has ended."""
        self._session.forget(future)
        if future._seen == LOOKED or (future._seen == JOINED and future._exception is None):
            self._children.pop(future, None)

    def consumed(self, future: Future[Any]) -> None:
        """A child was joined or looked at; it stays in the accounts until it has ended."""
        if future.done() and (future._seen == LOOKED or future._exception is None):
            self._children.pop(future, None)

    def detached(self, future: Future[Any]) -> None:
        """A child is nobody's concern any more."""
        future._owner = self._session
        self._children.pop(future, None)

    # The end of its accounts.

    def _close(self, *, failed: bool) -> None:
        """Reports what the flow leaves behind, and hands it to the session.

        Raises:
            LeakedFutureError: Futures are leaked, under `configure(leaks="error")`.
        """
        self._open = False
        leaked: list[Future[Any]] = []
        unseen: list[Run] = []
        leaks = config.current.leaks
        quiet = leaks == "ignore" or self._stop
        children = list(self._children)
        if failed and self._place is not None:
            self._place.leave(children)
        for child in children:
            child._owner = self._session
            assert child.run is not None
            if child._seen == NEW:
                child.run.leaked = not self._stop
                leaked.append(child)
            elif child._seen == JOINED and child._exception is not None:
                unseen.append(child.run)
            if quiet or (child.done() and child._exception is not None):
                child._seen = LOOKED  # it is reported now, or never
                self._session.consumed(child)
        self._children.clear()
        if self._stop:  # the cancel may have looked for the children when they were gone already
            for child in children:
                child.cancel(interrupt=True)
        if quiet:
            return
        if unseen:
            warn_unseen(unseen)
        if leaked:
            if leaks == "cancel":
                for child in leaked:
                    child.cancel(interrupt=True)
            message = _describe(self.run, leaked)
            if leaks == "error" and not failed:
                raise LeakedFutureError(message)
            file, line = leaked[0].run.line or ("onix", 1)  # type: ignore[union-attr]
            warnings.warn_explicit(message, LeakedFutureWarning, file, line)


def _describe(run: Run, leaked: list[Future[Any]]) -> str:
    """The report of a flow's leaked futures, a line each for the first."""
    lines = []
    for future in leaked[:MOST_TOLD]:
        child = future.run
        assert child is not None
        state = {"failed": f"it failed: {child.error}", "cancelled": "it was cancelled"}.get(
            child.status, "it has ended" if future.done() else "it goes on"
        )
        lines.append(f"\n  {child.name} (run {child.id}, started at {child.where}); {state}")
    many = len(leaked) > 1
    return (
        f"flow {run.name!r} returned while {len(leaked)} future{'s' * many} that it started "
        f"{'were' if many else 'was'} not consumed:{''.join(lines)}{and_more(len(leaked))}\n"
        "Ask each for result() or exception(), give it to onix.wait(), or detach() it."
    )


def start_flow(definition: Definition, arguments: Mapping[str, Any], origin: Origin) -> Future[Any]:
    """Starts a flow on a thread of its own."""
    session = live()
    parent = current.get()
    if parent is None and session.execution is not None:
        earlier = session.execution.earlier(definition, arguments)
        if earlier is not None:
            return earlier
    owner = owner_of(session, parent, definition)
    run = new_run(session, parent, definition, arguments, origin)

    def begin(place: Any, recorder: Recorder | None) -> Future[Any]:
        attempt = FlowAttempt(definition, run, copy_context(), session.clock, session.flows)
        attempt._adopt(session, place)
        submit = attempt._submit if parent is not None else lambda: session.gate.admit(attempt)
        return start(attempt, arguments, owner, session.unfinished, submit, recorder)

    if parent is not None and parent._place is not None:
        place = parent._place.child(definition, arguments, run)
        return begin(place, place)
    if definition.durable is None:
        return begin(None, None)
    from .durable import start_durable  # SQLite is for those who use it

    return start_durable(
        session,
        definition,
        arguments,
        run,
        begin,
        lambda call: replayed(session, definition, arguments, owner, run, call),
    )
