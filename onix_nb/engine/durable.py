"""Durable flows: what their actions come to is recorded in a journal, and read from it when they run again.

A `Recording` is one durable flow that runs. The flow, and each child flow in it, has a `Place`: where it stands, so
that the same call is found again. A `Call` keeps what an action comes to before anyone may see it; a `Choice`, which
of several futures were done when the flow looked.

A journal is opened by the first durable flow that needs it, and closed when the process ends: it belongs to us alone.
Imported by the first durable flow.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import os
import threading
import time
import warnings
from _thread import get_ident
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from .. import config
from ..errors import (
    ExecutorError,
    JournalError,
    JournalValueError,
    LostOutcomeWarning,
    NondeterminismError,
    RecordedError,
    RunCancelled,
)
from ..journal import codec
from ..journal.replay import Path, Replay, forgotten
from ..journal.store import Event, Flow, Journal, Recorded
from ..model import digest, parking
from ..model.definition import Definition, Durability
from ..model.future import Future
from ..model.run import EPOCH, Run, error_text, message_of, printable
from .session import Session, before_exit

# A flow that was running when its kernel died so many times is taken for what kills it.
MOST_DEATHS: Final = 5

NO_PAYLOAD: Final = codec.digest(b"")


class Recording:
    """One durable flow that runs, from its start to its end; the recorder of its own outcome."""

    def __init__(self, journal: Journal, flow: Flow, code: bytes, replay: Replay[Known], session: Session) -> None:
        self.flow = flow
        self._code = code
        # Guards `_replay`, which all flows of the recording ask. Held while it looks something up.
        self._asking = threading.Lock()
        self._replay = replay
        self._journal = journal
        self._session = session
        # Of the runs that it and its child flows have started, by which a choice names them.
        self._keys: dict[Run, bytes] = {}
        # The calls that failed, by the exception, which is kept so that its id stays its own.
        self._failures: dict[int, tuple[BaseException, bytes]] = {}
        self._codes: dict[int, tuple[Definition, bytes]] = {}
        # Its own outcome is known. What it has left running is recorded all the same: it need not run again, either.
        self._ended = False
        # It was given up, or another run of the same flow goes on: what still comes is not recorded.
        self._closed = False

    # What places and calls ask.

    def name(self, run: Run, key: bytes) -> None:
        """`run` is the call with this key."""
        self._keys[run] = key

    def keys_of(self, futures: Iterable[Future[Any]]) -> dict[bytes, Future[Any]] | None:
        """The futures by the keys of their calls; None when one of them is not of this flow."""
        found: dict[bytes, Future[Any]] = {}
        for future in futures:
            key = self._keys.get(future.run)  # type: ignore[arg-type]
            if key is None:
                return None
            found[key] = future
        return found

    def code_of(self, definition: Definition) -> bytes:
        """The digest of a function's code, taken when the flow first calls it."""
        known = self._codes.get(id(definition))
        if known is None:
            known = self._codes[id(definition)] = definition, digest.of_function(definition.invoke)
        return known[1]

    def ask(self, key: bytes, definition: Definition, run: Run, path: Path) -> Recorded | None:
        """What is recorded of a call; None: it has to run.

        Raises:
            NondeterminismError: It differs from what was recorded, under `on_change="error"`.
        """
        code = self.code_of(definition)
        with self._asking:
            decision = self._replay.call(key, definition.name, code, call_text(run), path)
        if decision.report is not None:
            tell(str(decision.report))
        return None if decision.recorded is None else decision.recorded.recorded

    def winners(self, key: bytes, members: Collection[bytes]) -> Sequence[bytes] | None:
        """What is recorded of a choice."""
        with self._asking:
            return self._replay.choice(key, members)

    def value(self, recorded: Recorded) -> tuple[Any, BaseException | None]:
        """What a recorded call came to: its result, or its exception."""
        event = recorded.event
        if event.status == "succeeded":
            return self._journal.value(recorded), None
        error = self._error(recorded)
        self._failures[id(error)] = error, event.key
        return None, error

    def _error(self, recorded: Recorded) -> BaseException:
        event = recorded.event
        if recorded.digest != NO_PAYLOAD:
            try:
                error: BaseException = self._journal.value(recorded)
                return error
            except JournalValueError:  # its class is gone
                pass
        return RecordedError(event.error_type, event.error)

    def keep(self, event: Event) -> JournalError | None:
        """Records an event for good; what prevented it."""
        if self._closed:
            return None
        try:
            self._journal.record(self.flow, event)
        except JournalError as error:
            return error
        return None

    def submit(self, event: Event, done: Callable[[JournalError | None], None]) -> None:
        """As `keep`, for an event loop's thread: `done` is called on it."""
        loop = self._session.loop()

        def told(_: object, error: BaseException | None) -> None:
            loop.call(lambda: done(error))  # type: ignore[arg-type]

        try:
            self._journal.submit(self.flow, event, told)
        except JournalError as error:
            done(error)

    def failed(self, error: BaseException, key: bytes) -> None:
        """A call has failed with `error`."""
        self._failures[id(error)] = error, key

    # Its own end.

    def record(self, future: Future[Any], conclude: Callable[[], None]) -> None:
        """The flow has ended: keeps its outcome, unless the process ends, too."""
        if not (self._ended or self._closed):
            self._compare(future)
            error = future._exception
            chain = b"".join(self._chain(error))
            self._end(outcome_event("end", future.run, chain, self._code, future._result, error), future)  # type: ignore[arg-type]
        conclude()

    def _compare(self, future: Future[Any]) -> None:
        """Says what of a changed flow was replayed and what ran, or refuses it."""
        try:
            with self._asking:
                report = self._replay.finish(failed=future._exception is not None)
        except NondeterminismError as error:
            replace_outcome(future, error)
        else:
            if report is not None:
                tell(str(report))

    def watch(self, future: Future[Any]) -> None:
        """Notes a cancel, which is no outcome."""
        future._hear(self._on_end)

    def _on_end(self, future: Future[Any]) -> None:
        if future.cancelled() and not (self._ended or self._closed):
            self._end(Event("end", name=self.flow.name, status="cancelled", finished=time.time()), None)

    def _end(self, event: Event, future: Future[Any] | None) -> None:
        self._ended = True
        try:
            self._journal.finish(self.flow, event)
        except JournalError as error:
            if future is not None and future._exception is None:
                replace_outcome(future, error)

    def close(self) -> None:
        """The process ends: the flow goes on in another one."""
        self._closed = True

    def _chain(self, error: BaseException | None) -> list[bytes]:
        """The calls whose exceptions made the flow fail."""
        waiting, seen, keys = [error], set(), []
        while waiting:
            one = waiting.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            if id(one) in self._failures:
                keys.append(self._failures[id(one)][1])
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += one.exceptions
        return keys


class Place:
    """Where one flow of a recording stands: what it has called so far."""

    __slots__ = ("_path", "recording")

    def __init__(self, recording: Recording, path: Path) -> None:
        self.recording = recording
        self._path = path

    def call(self, definition: Definition, arguments: Mapping[str, Any], run: Run) -> Call:
        """The next call of an action."""
        recording, key = self.recording, self._key(definition, arguments, run)
        return Call(recording, key, recording.code_of(definition), recording.ask(key, definition, run, self._path))

    def child(self, definition: Definition, arguments: Mapping[str, Any], run: Run) -> Place:
        """Where the next child flow stands."""
        return Place(self.recording, self._path.child(self._key(definition, arguments, run)))

    def _key(self, definition: Definition, arguments: Mapping[str, Any], run: Run) -> bytes:
        key = self._path.call(definition.kind, definition.name, _arguments_digest(definition, arguments))
        self.recording.name(run, key)
        return key

    def choice(self, what: str, members: Iterable[Future[Any]]) -> Choice | None:
        """The next look at which of `members` are done; None when one of them is not of this flow."""
        keys = self.recording.keys_of(members)
        return None if keys is None else Choice(self.recording, self._path.choice(what, keys), keys)


class Call:
    """One call of an action by a durable flow; the recorder of its outcome, if it has to run."""

    __slots__ = ("_code", "_key", "_recorded", "_recording")

    def __init__(self, recording: Recording, key: bytes, code: bytes, recorded: Recorded | None) -> None:
        self._recording = recording
        self._key = key
        self._code = code
        self._recorded = recorded

    @property
    def is_recorded(self) -> bool:
        """Whether it need not run."""
        return self._recorded is not None

    def replay(self, run: Run) -> tuple[Any, BaseException | None]:
        """The recorded result or exception; `run` is marked with the time at which it first came."""
        assert self._recorded is not None
        run.first_ran = self._recorded.event.finished
        run.attempt = self._recorded.event.attempts
        try:
            return self._recording.value(self._recorded)
        except JournalError as error:  # the row is damaged
            return None, error

    def record(self, future: Future[Any], conclude: Callable[[], None]) -> None:
        """Keeps the outcome of a started action."""

        def kept(failure: JournalError | None) -> None:
            if failure is not None:
                replace_outcome(future, failure)
            conclude()

        event = self._event(future.run, future._result, future._exception)  # type: ignore[arg-type]
        if event is None:
            conclude()
        elif get_ident() in parking.loop_threads:
            self._recording.submit(event, kept)
        else:
            kept(self._recording.keep(event))

    def keep(self, run: Run, result: Any, error: BaseException | None) -> None:
        """Keeps the outcome of an inline call.

        Raises:
            JournalError: It could not be recorded.
        """
        event = self._event(run, result, error)
        failure = None if event is None else self._recording.keep(event)
        if failure is not None:
            raise failure

    def _event(self, run: Run, result: Any, error: BaseException | None) -> Event | None:
        if isinstance(error, RunCancelled):
            return None
        if error is not None:
            self._recording.failed(error, self._key)
        return outcome_event("call", run, self._key, self._code, result, error)


class Choice:
    """Which of some futures were done when a flow looked, in their order."""

    __slots__ = ("_key", "_members", "_names", "_recording", "_turn")

    def __init__(self, recording: Recording, key: bytes, members: Mapping[bytes, Future[Any]]) -> None:
        self._recording = recording
        self._key = key
        self._members = members
        self._names = {future: key.hex() for key, future in members.items()}
        self._turn = 0

    def recorded(self) -> list[Future[Any]] | None:
        """What the next look saw when the flow ran before; None: it has to look."""
        self._turn += 1
        keys = self._recording.winners(self._turn_key(), self._members.keys())
        return None if keys is None else [self._members[key] for key in keys]

    def keep(self, done: Iterable[Future[Any]]) -> None:
        """Records what this look saw.

        Raises:
            JournalError: It could not be recorded.
        """
        payload = codec.encode([self._names[future] for future in done])
        failure = self._recording.keep(Event("choice", self._turn_key(), finished=time.time(), payload=payload))
        if failure is not None:
            raise failure

    def _turn_key(self) -> bytes:
        return hashlib.blake2b(self._key + self._turn.to_bytes(8), digest_size=32).digest()


def outcome_event(kind: str, run: Run, key: bytes, code: bytes, result: Any, error: BaseException | None) -> Event:
    """What is recorded of a run that has ended; without the value, after a warning, if that can't be pickled."""
    status, payload = ("succeeded", b"") if error is None else ("failed", b"")
    try:
        payload = codec.encode(result) if error is None else codec.encode_error(error)
    except JournalValueError as why:
        status = "lost" if error is None else "failed"
        then = "it would run again" if error is None else "its type and text are recorded"
        warnings.warn(
            f"the {'result' if error is None else 'exception'} of {run.name}() can't be recorded, "
            f"so that after a restart {then}: {why}",
            LostOutcomeWarning,
            2,
        )
    started = run.queued if run.started is None else run.started
    return Event(
        kind,
        key,
        code,
        run.name,
        call_text(run),
        status,
        "" if error is None else type(error).__name__,
        "" if error is None else message_of(error)[:4000],
        run.attempt,
        started + EPOCH,
        time.time(),
        payload,
    )


def replace_outcome(future: Future[Any], error: BaseException) -> None:
    """The outcome with which `future` was claimed could not be kept: nobody may see it."""
    future._result, future._exception = None, error
    if future.run is not None:
        future.run.error, future.run._outcome = error_text(error), "failed"


def _arguments_digest(definition: Definition, arguments: Mapping[str, Any]) -> bytes:
    return digest.of_arguments(arguments, call=f"{definition.name}()")


# Starting.

# Guards `_journals` and `_current`, and that a flow id is started by one thread at a time. It is reentrant, because a
# finalizer may start a flow, too. Held while the journal is opened and read.
_starting = threading.RLock()
_journals: dict[str, Journal] = {}
# The last start of each flow id, by the journal's file and the id.
_current: dict[tuple[str, str], tuple[Future[Any], Recording | None]] = {}


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
    return f"{definition.name}-{_arguments_digest(definition, arguments).hex()[:16]}"


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
    options, key = definition.durable, (journal_file(), flow_id(definition, arguments))
    assert options is not None
    with _starting:
        future, before = _current.get(key, (None, None))
        if future is not None and not future.done():
            return future
        if before is not None:
            before.close()
        journal = _opened(key[0])
        code = options.code or digest.of_function(definition.invoke)
        flow = None if options.fresh else journal.find(key[1])
        events = [] if flow is None else journal.events(flow)
        if flow is None:
            flow = journal.begin(key[1], _begun(run, code))
        end = next((one for one in reversed(events) if one.event.kind == "end"), None)
        same = code == (flow.code if end is None else end.event.code)
        known = _replay(journal, run.name, events, end, options, changed=not same)
        recording = Recording(journal, flow, code, known, session)
        if end is not None and end.event.status == "succeeded" and same and options.code is None:
            recording.close()
            future = replay(Call(recording, b"", code, end))
            tell(
                f"durable flow {key[1]!r} ended on {clock_text(end.event.finished)}, and this is its recorded "
                "result; .options(fresh=True) runs it anew"
            )
        else:
            if events:
                _refuse_deadly(flow)
                recording.flow = journal.resume(flow)
            future = begin(Place(recording, Path()), recording)
            recording.watch(future)
        _current[key] = future, recording
    return future


def _opened(file: str) -> Journal:
    journal = _journals.get(file)
    if journal is None:
        journal = _journals[file] = Journal(file)
        if close_journals not in before_exit:
            before_exit.append(close_journals)
    return journal


def close_journals() -> None:
    """The process ends: what runs is neither failed nor cancelled, and goes on when it is started again."""
    with _starting:
        for _, recording in _current.values():
            if recording is not None:
                recording.close()
        for journal in _journals.values():
            journal.close()
        _journals.clear()
        _current.clear()


def _refuse_deadly(flow: Flow) -> None:
    if flow.kernels >= MOST_DEATHS:
        raise ExecutorError(
            f"durable flow {flow.id!r} was running each of the last {flow.kernels} times that its kernel died, and is "
            "not resumed; .options(fresh=True) starts it anew"
        )


def _begun(run: Run, code: bytes) -> Event:
    return Event("begin", b"", code, run.name, call_text(run), started=run.queued + EPOCH)


def _replay(
    journal: Journal,
    name: str,
    events: Sequence[Recorded],
    end: Recorded | None,
    options: Durability,
    *,
    changed: bool,
) -> Replay[Known]:
    """What is recorded of a flow; a failed one forgets what it failed of."""
    calls = [Known(one) for one in events if one.event.kind == "call"]
    choices = {
        one.event.key: [bytes.fromhex(key) for key in journal.value(one)]
        for one in events
        if one.event.kind == "choice"
    }
    chain = b"" if end is None or end.event.status != "failed" else end.event.key
    failures = {chain[at : at + digest.SIZE] for at in range(0, len(chain), digest.SIZE)}
    return Replay(
        calls,
        choices,
        flow=name,
        changed=changed,
        forget=forgotten(calls, failures),
        keep=options.keep,
        on_change=options.on_change,
    )


class Known:
    """A recorded call, as a replay looks at it."""

    __slots__ = ("code", "key", "label", "name", "recorded", "seq", "status")

    def __init__(self, recorded: Recorded) -> None:
        event = recorded.event
        self.recorded = recorded
        self.key, self.code, self.name, self.label = event.key, event.code, event.name, event.label
        self.status, self.seq = event.status, recorded.seq


def tell(text: str) -> None:
    """Says something under the cell that has started the flow."""
    print(f"onix_nb: {text}")  # noqa: T201


def call_text(run: Run) -> str:
    """The arguments of a run, in short."""
    return printable(", ".join(f"{name}={value!r}" for name, value in run.arguments.items()))


def clock_text(seconds: float) -> str:
    """Seconds since the epoch as people read them."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
