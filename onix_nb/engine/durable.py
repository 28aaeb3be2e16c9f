"""Durable flows: which journal they are recorded in, under which id, and how they are started and resumed.

A journal is opened by the first durable flow that needs it, and closed when the process ends: it belongs to us alone.
Imported by the first durable flow. What happens while one runs is in `recording.py`.
"""

from __future__ import annotations

import datetime
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .. import config
from ..errors import ExecutorError, JournalError
from ..journal.registry import register
from ..journal.replay import Path, Replay, forgotten
from ..journal.store import Event, Flow, Journal, Recorded
from ..model import digest
from ..model.definition import Definition, Durability
from ..model.future import Future
from ..model.output import tell
from ..model.run import EPOCH, Run
from .recording import NO_PAYLOAD, Call, Known, Outcome, Place, Recording, arguments_digest, call_text
from .session import MOST_TOLD, Session, and_more, before_exit

# A flow that was running when its kernel died so many times is taken for what kills it.
MOST_DEATHS: Final = 5

# Guards `_journals`, `_running` and `_recordings`, and that a flow id is started by one thread at a time. It is
# reentrant, because a finalizer may start a flow, too. Held while the journal is opened and read. All survive a reload.
_starting: threading.RLock = globals().get("_starting", threading.RLock())
_journals: dict[str, Journal] = globals().get("_journals", {})
# The flows that run, by the journal's file and their id.
_running: dict[tuple[str, str], tuple[Future[Any], Recording]] = globals().get("_running", {})
# The last recording of each flow, while it runs and as long as something goes on that it has left running.
_recordings: weakref.WeakValueDictionary[tuple[str, str], Recording] = globals().get(
    "_recordings", weakref.WeakValueDictionary()
)


def journal_file() -> str:
    """Where durable flows are recorded that start now."""
    if config.current.journal is not None:
        return config.current.journal
    notebook = os.path.splitext(os.path.basename(os.environ.get("JPY_SESSION_NAME", "")))[0]
    return os.path.abspath(os.path.join(".onix", f"{notebook or 'default'}.sqlite"))


def flow_id(definition: Definition, arguments: Mapping[str, Any]) -> str:
    """The id of the flow that a start with these arguments means.

    Raises:
        ValueError: Its template does not fit the arguments.
    """
    assert definition.durable is not None
    template = definition.durable.flow_id
    if template is not None:
        given = _defaults(definition) | dict(arguments)
        try:
            return template.format(**given)
        except Exception as error:
            raise ValueError(f"flow_id={template!r} does not fit the arguments: {error}") from error
    if not arguments:
        return definition.name
    return f"{definition.name}-{arguments_digest(definition, arguments).hex()[:16]}"


def _defaults(definition: Definition) -> dict[str, Any]:
    """The defaults of a function's parameters."""
    parameters = inspect.signature(definition.invoke).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def start_durable(
    session: Session,
    definition: Definition,
    arguments: Mapping[str, Any],
    run: Run,
    begin: Callable[[Place, Recording], Future[Any]],
    replay: Callable[[Call], Future[Any]],
) -> Future[Any]:
    """Starts or resumes the durable flow that these arguments mean; the future of one that runs.

    Args:
        session: Where it runs.
        definition: The flow.
        arguments: Its arguments by name.
        run: Its record, if it has to be started.
        begin: Starts it.
        replay: Makes a future that has ended of a recorded outcome.

    Raises:
        JournalError: The journal can't be used.
        ExecutorError: It has killed its kernel too often.
    """
    key = journal_file(), flow_id(definition, arguments)
    with _starting:
        if key in _running and not _running[key][0].done():
            return _running[key][0]
        before = _recordings.get(key)
        if before is not None:  # what it has left running runs again, and is recorded by the next one
            before.close()
        recording, outcome = _taken_up(_opened(key[0]), key[1], definition, run, session)
        if outcome is not None:
            when = datetime.datetime.fromtimestamp(outcome.finished, datetime.UTC)
            tell(
                f"durable flow {key[1]!r} ended on {when:%Y-%m-%d %H:%M:%S} UTC, and this is its recorded result; "
                ".options(fresh=True) runs it anew"
            )
            return replay(Call(recording, b"", b"", b"", outcome))
        _recordings[key] = recording
        future = begin(Place(recording, Path()), recording)
        _running[key] = future, recording

    def ended(_: object) -> None:
        recording.on_end(future)
        if _running.get(key, (None,))[0] is future:
            _running.pop(key, None)

    if not future._hear(ended):
        ended(future)
    return future


def _taken_up(
    journal: Journal, name: str, definition: Definition, run: Run, session: Session
) -> tuple[Recording, Outcome | None]:
    """The recording of the flow with this id; and what it came to, if it need not run."""
    options = definition.durable
    assert options is not None
    code, uses = options.code, list(options.uses)
    if code is None:
        code = digest.of_function(definition.invoke, uses)
    flow = None if options.fresh else journal.find(name)
    events = [] if flow is None else journal.events(flow)
    end = next((one for one in reversed(events) if one.event.kind == "end"), None)
    changed = flow is not None and code != (flow.code if end is None else end.event.code)
    if flow is None:
        flow = journal.begin(name, Event("begin", b"", code, run.name, call_text(run), started=run.queued + EPOCH))
    recording = Recording(journal, flow, code, _replay(journal, run.name, events, end, options, changed), session)
    stays = not changed and options.code is None
    if stays and end is not None and end.event.status == "succeeded" and end.digest != NO_PAYLOAD:
        outcome = recording.outcome(end)
        if outcome is not None:
            if flow.status == "running":  # with other code, which is undone now
                journal.give_back(flow._replace(status="succeeded", finished=outcome.finished, kernels=0))
            return recording, outcome
    if events:  # a flow has one from its beginning on
        _refuse_deadly(flow)
        _tell_unknown(options.keep, events, run.name)
        recording.resume()
    for one in uses:  # now, and not when they are called: what they read may have changed by then
        recording.code_of(one._definition)
    return recording, None


def _tell_unknown(keep: Collection[str], events: Sequence[Recorded], name: str) -> None:
    """Says which names of `keep` nothing is recorded of: a slip would run hours of work again."""
    unknown = sorted(set(keep).difference(one.event.name for one in events if one.event.kind == "call"))
    if unknown:
        tell(f"keep= names {', '.join(map(repr, unknown))}, of which {name}() has recorded nothing")


def _opened(file: str) -> Journal:
    journal = _journals.get(file)
    if journal is None:
        journal = _journals[file] = Journal(file)
        register(journal.path)
    return journal


class Held(NamedTuple):
    """What a journal holds of one durable flow.

    Attributes:
        flow: The last generation of it.
        calls: How many calls are recorded.
        size: Bytes of what they returned.
    """

    flow: Flow
    calls: int
    size: int


def held() -> list[Held]:
    """What the journal of this notebook holds, the first started first; nothing when there is none.

    Raises:
        JournalError: It can't be read, or belongs to another kernel.
    """
    file = journal_file()
    if not os.path.lexists(file):
        return []
    with _starting:
        journal = _opened(file)
    sizes = journal.sizes()
    last = {flow.id: flow for flow in journal.flows()}
    return [Held(flow, *sizes.get(flow.flow, (0, 0))) for flow in last.values()]


def tell_unfinished() -> None:
    """Says once, when the first durable flow is defined, which ones have not come to their end."""
    global _told
    if _told:
        return
    _told = True
    try:
        unfinished = [one for one in held() if one.flow.status == "running"]
    except JournalError:  # whoever starts one is told
        return
    if unfinished:
        names = ", ".join(
            f"{one.flow.id} ({one.calls:,} call{'s' * (one.calls != 1)} recorded)" for one in unfinished[:MOST_TOLD]
        )
        tell(
            f"unfinished in the journal: {names}{and_more(len(unfinished))}. Started again, a flow goes on where it "
            "was; with fresh=True (--fresh) it starts anew"
        )


_told: bool = globals().get("_told", False)


def close_journals() -> None:
    """The process ends: what runs is neither failed nor cancelled, and goes on when it is started again."""
    with _starting:
        for recording in list(_recordings.values()):
            recording.close()
        for journal in _journals.values():
            journal.close()
        _journals.clear()
        _running.clear()


def _refuse_deadly(flow: Flow) -> None:
    if flow.kernels >= MOST_DEATHS:
        raise ExecutorError(
            f"durable flow {flow.id!r} was running each of the last {flow.kernels} times that its kernel died, and is "
            "not resumed; .options(fresh=True) starts it anew"
        )


def _replay(
    journal: Journal,
    name: str,
    events: Sequence[Recorded],
    end: Recorded | None,
    options: Durability,
    changed: bool,
) -> Replay[Known]:
    """What is recorded of a flow; a failed one forgets what it failed of."""
    calls = [Known(one) for one in events if one.event.kind == "call"]
    chain, ended = (b"", 0) if end is None or end.event.status != "failed" else (end.event.key, end.seq)
    failures = {chain[at : at + digest.SIZE] for at in range(0, len(chain), digest.SIZE)}
    ends = {one.event.key: journal.value(one) for one in events if one.event.kind == "sleep"}
    choices: dict[bytes, list[bytes]] = {}
    for one in events:
        if one.event.kind == "choice":
            winners = [bytes.fromhex(key) for key in journal.value(one)]
            choices[one.event.key] = winners
            if one.seq < ended and not failures.isdisjoint(winners):  # what failed may end otherwise, or later
                del choices[one.event.key]
    return Replay(
        calls,
        choices,
        ends=ends,
        flow=name,
        changed=changed,
        forget=forgotten(calls, failures, ended),
        keep=options.keep,
        on_change=options.on_change,
    )


if "_registered" not in globals():  # once, also when this module is reloaded
    _registered = True
    before_exit.append(lambda: close_journals())
