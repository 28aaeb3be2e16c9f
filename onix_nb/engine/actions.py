"""Actions: started in the background, or run inline by the one who calls them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures._base import FINISHED
from contextvars import Context, copy_context
from types import CodeType
from typing import Any, Protocol

from .. import config
from ..errors import ActionCallError, RunCancelled
from ..model.attempt import Attempt, current
from ..model.definition import Definition
from ..model.future import Future, Owner
from ..model.parking import sleep
from ..model.run import Run, Status, error_text
from .aio import LoopAttempt
from .attempts import StartedAttempt, ThreadAttempt, add_span, listeners, start
from .remote import RemoteAttempt, executor_of
from .session import Session, live


class Origin(Protocol):
    """Where a run was started: a frame of the caller, or what looks like one."""

    @property
    def f_code(self) -> CodeType:
        """The code of the caller."""

    @property
    def f_lasti(self) -> int:
        """The instruction of the call."""


class ActionAttempt(ThreadAttempt):
    """One try of an action that was started, on a thread of the pool of actions."""

    __slots__ = ()

    def _next(self, context: Context) -> ActionAttempt:
        return ActionAttempt(self._definition, self.run, context, self._clock, self._pool, self.attempt + 1)


def new_run(
    session: Session, parent: Attempt | None, definition: Definition, arguments: Mapping[str, Any], origin: Origin
) -> Run:
    """The record of what `parent`, or a cell, is about to start."""
    record = definition.record(arguments)
    if parent is None:
        return Run(definition.name, definition.kind, None, record, session.cell, origin.f_code, origin.f_lasti)
    run = parent.run
    return Run(definition.name, definition.kind, run, record, run.cell, origin.f_code, origin.f_lasti)


def owner_of(session: Session, parent: Attempt | None, definition: Definition) -> Owner:
    """Who keeps account of what `parent` is about to start: its flow, or the session.

    Raises:
        RunCancelled: The parent was cancelled.
        ActionCallError: The parent is an action.
    """
    if parent is None:
        return session
    parent._checkpoint()
    if parent.run.kind == "action":
        raise ActionCallError(
            f"action {parent.run.name!r} called {definition.kind} {definition.name!r}, but actions may call plain "
            f"functions only: make {parent.run.name!r} a flow (@onix.flow), or {definition.name!r} a plain function"
        )
    return parent._children_owner() or session


def on_threads(definition: Definition) -> bool:
    """Whether a synchronous action runs on threads of this process."""
    executor = definition.executor
    if executor is None:
        executor = config.current.executor
    return executor is config.THREADS


def start_action(definition: Definition, arguments: Mapping[str, Any], origin: Origin) -> Future[Any]:
    """Starts an action in the background: on a thread, or on the event loop if it is async."""
    session = live()
    parent = current.get()
    if parent is None and session.execution is not None:
        earlier = session.execution.earlier(definition, arguments)
        if earlier is not None:
            return earlier
    owner: Owner = session if parent is None else owner_of(session, parent, definition)
    run = new_run(session, parent, definition, arguments, origin)
    call = None if parent is None or parent._place is None else parent._place.call(definition, arguments, run)
    if call is not None and call.is_recorded:
        return replayed(session, definition, arguments, owner, run, call)
    attempt: StartedAttempt
    if definition.is_async:
        attempt = LoopAttempt(definition, run, copy_context(), session.clock, session.loop())
    elif not on_threads(definition):
        executor = executor_of(session, definition.executor or config.current.executor)
        attempt = RemoteAttempt(definition, run, copy_context(), session.clock, executor)
    else:
        attempt = ActionAttempt(definition, run, copy_context(), session.clock, session.actions)
    return start(attempt, arguments, owner, session.unfinished, attempt._submit, call)


def replayed(
    session: Session, definition: Definition, arguments: Mapping[str, Any], owner: Owner, run: Run, call: Any
) -> Future[Any]:
    """A future that has ended already, with the outcome that the journal has of `call`."""
    run.started = run.queued
    result, error = call.replay(run)
    attempt = StartedAttempt(definition, run, Context(), session.clock)

    def end() -> None:
        attempt._future._settle(FINISHED, result, error)

    return start(attempt, arguments, owner, session.unfinished, end)


def call_action(definition: Definition, arguments: Mapping[str, Any], origin: Origin) -> Any:
    """Runs a synchronous action on the caller's thread, as often as its policy says."""
    __tracebackhide__ = True
    session = live()
    parent = current.get()
    if parent is not None:
        owner_of(session, parent, definition)
    run = new_run(session, parent, definition, arguments, origin)
    outcome: Status = "failed"
    text: str | None = None
    try:
        session.unfinished[run] = None
        if listeners:
            for listener in listeners:
                listener((run, None))
        run.started = run.queued
        if parent is not None and parent._place is not None:
            result = _inline_recorded(definition, arguments, run, parent)
        elif definition.retry is None:
            result = _try_inline(definition, arguments, run, parent)
        else:
            result = _try_inline_often(definition, arguments, run, parent)
        outcome = "succeeded"
        return result
    except BaseException as error:
        if isinstance(error, RunCancelled):
            outcome = "cancelled"
        text = error_text(error)
        raise
    finally:
        try:
            _close(session, run, outcome, text)
        except BaseException:  # Ctrl-C hit it half way
            _close(session, run, outcome, text)
            raise


def _close(session: Session, run: Run, outcome: Status, text: str | None) -> None:
    """An inline run has ended. Running it again does no harm."""
    run.end(outcome, time.monotonic(), text)
    session.archive.append(run)
    session.unfinished.pop(run, None)


def _inline_recorded(definition: Definition, arguments: Mapping[str, Any], run: Run, parent: Attempt) -> Any:
    """Runs it, unless the journal has its outcome; then it gets it."""
    __tracebackhide__ = True
    call = parent._place.call(definition, arguments, run)
    if call.is_recorded:
        result, error = call.replay(run)
        if error is not None:
            raise error
        return result
    once_or_often = _try_inline if definition.retry is None else _try_inline_often
    try:
        result = once_or_often(definition, arguments, run, parent)
    except BaseException as error:
        call.keep(run, None, error)
        raise
    call.keep(run, result, None)
    return result


def _try_inline(definition: Definition, arguments: Mapping[str, Any], run: Run, parent: Attempt | None) -> Any:
    __tracebackhide__ = True
    attempt = Attempt(run, run.attempt, None if parent is None else parent._holder)
    try:
        current.set(attempt)
        return definition.invoke(**arguments)
    finally:
        current.set(parent)  # no `reset`: Ctrl-C may come before its token is ours


def _try_inline_often(definition: Definition, arguments: Mapping[str, Any], run: Run, parent: Attempt | None) -> Any:
    __tracebackhide__ = True
    policy = definition.retry
    assert policy is not None
    while True:
        begun = time.monotonic()
        try:
            return _try_inline(definition, arguments, run, parent)
        except Exception as error:
            if not policy.again(run.attempt, error):
                raise
            add_span(run, begun, error)
        sleep(policy.delay(run.attempt))
        run.attempt += 1
