"""A durable flow while it runs: what its actions come to is recorded, or taken from what was recorded before.

A `Recording` is one durable flow that runs. The flow, and each child flow in it, has a `Place`: where it stands, so
that the same call is found again. A `Call` keeps what an action comes to before anyone may see it; a `Choice`, which
of several futures were done when the flow looked.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import warnings
from _thread import get_ident
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..errors import (
    JournalError,
    JournalValueError,
    LostOutcomeWarning,
    NondeterminismError,
    RecordedError,
    RunCancelled,
)
from ..journal import codec
from ..journal.replay import ROOT, Path, Replay
from ..journal.store import Event, Flow, Journal, Recorded
from ..model import digest, parking
from ..model.definition import Definition
from ..model.future import Future
from ..model.output import tell
from ..model.run import EPOCH, Run, clock_seconds, error_text, message_of, printable
from .session import Session

NO_PAYLOAD: Final = codec.digest(b"")


class Recording:
    """One durable flow that runs, from its start to its end; the recorder of its own outcome."""

    def __init__(self, journal: Journal, flow: Flow, code: bytes, replay: Replay[Known], session: Session) -> None:
        self._flow = flow
        self._code = code
        # Guards `_replay`, which all flows of the recording ask. Held while it looks something up.
        self._asking = threading.Lock()
        self._replay = replay
        self._journal = journal
        self._session = session
        # Of the runs that it and its child flows have started, by which a choice names them.
        self._keys: dict[Run, bytes] = {}
        # The calls and child flows that failed, by the exception, which is kept so that its id stays its own.
        self._failures: dict[int, tuple[BaseException, list[bytes]]] = {}
        # What flows that failed had not looked at, by their keys.
        self._unseen: dict[bytes, Sequence[Future[Any]]] = {}
        self._codes: dict[int, tuple[Definition, bytes]] = {}
        # The flow as it was before it was resumed, and the difference for which it is refused.
        self._before: Flow | None = None
        self._refusal: NondeterminismError | None = None
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
        """The digest of a function's code, as it was when the flow started or first called it."""
        known = self._codes.get(id(definition))
        if known is None:
            known = self._codes[id(definition)] = definition, digest.of_function(definition.invoke)
        return known[1]

    def call(self, key: bytes, definition: Definition, run: Run, path: Path) -> Call:
        """A call, with what is recorded of it.

        Raises:
            NondeterminismError: It differs from what was recorded, under `on_change="error"`.
        """
        code = self.code_of(definition)
        try:
            with self._asking:
                decision = self._replay.call(key, definition.name, code, call_text(run), path)
        except NondeterminismError as difference:
            self._refusal = difference
            raise
        if decision.report is not None:
            tell(str(decision.report))
        known = decision.recorded
        return Call(self, path.key, key, code, None if known is None else self.outcome(known.recorded))

    def winners(self, key: bytes, members: Collection[bytes]) -> Sequence[bytes] | None:
        """What is recorded of a choice."""
        with self._asking:
            return self._replay.choice(key, members)

    def sleep(self, key: bytes, seconds: float) -> float:
        """How many of `seconds` are left.

        Raises:
            JournalError: When it ends could not be recorded.
        """
        now = clock_seconds()
        end = self._replay.end_of_sleep(key)
        if end is None:
            end = now + seconds
            failure = self.keep(Event("sleep", key, started=now, finished=end, payload=codec.encode(end)))
            if failure is not None:
                raise failure
        # A clock that was set back makes it no longer than it was to be.
        return min(max(end - clock_seconds(), 0.0), seconds)

    def outcome(self, recorded: Recorded) -> Outcome | None:
        """What a call came to; None, after a warning, when its result can't be read any more, so that it runs again."""
        event = recorded.event
        result, error = None, None
        try:
            if event.status == "succeeded":
                result = self._journal.value(recorded)
            else:
                error = self._error(recorded)
                self.failed(error, event.key)
        except JournalValueError as why:
            message = f"the recorded result of {event.name}() can't be read, so that it runs again: {why}"
            warnings.warn(message, LostOutcomeWarning, 2)
            return None
        except JournalError as damaged:  # the row is not what was written
            error = damaged
        return Outcome(result, error, event.finished, event.attempts)

    def _error(self, recorded: Recorded) -> BaseException:
        event = recorded.event
        if recorded.digest != NO_PAYLOAD:
            with contextlib.suppress(JournalValueError):  # its class is gone
                error: BaseException = self._journal.value(recorded)
                return error
        stand_in = RecordedError(f"{event.error_type}: {event.error}" if event.error else event.error_type)
        stand_in.type = event.error_type
        return stand_in

    def keep(self, event: Event) -> JournalError | None:
        """Records an event for good; what prevented it."""
        if self._closed:
            return None
        try:
            self._journal.record(self._flow, event)
        except JournalError as error:
            return error
        return None

    def submit(self, event: Event, done: Callable[[JournalError | None], None]) -> None:
        """As `keep`, for an event loop's thread: `done` is called on it."""
        if self._closed:
            done(None)
            return
        loop = self._session.loop()

        def told(_: object, error: BaseException | None) -> None:
            loop.call(lambda: done(error))  # type: ignore[arg-type]

        try:
            self._journal.submit(self._flow, event, told)
        except JournalError as error:
            done(error)

    def leave(self, flow: bytes, children: Sequence[Future[Any]]) -> None:
        """The flow with this key has failed, and has not looked at what these came to."""
        self._unseen[flow] = children

    def has_left(self, flow: bytes) -> bool:
        """Whether the flow with this key has failed, so that it looks at nothing any more."""
        return flow in self._unseen

    def failed(self, error: BaseException, key: bytes) -> None:
        """A call, or a child flow, has failed with `error`."""
        self._failures.setdefault(id(error), (error, []))[1].append(key)

    def resume(self) -> None:
        """The flow runs again in this kernel."""
        self._before = self._flow
        self._journal.resume(self._flow)

    # Its own end.

    def record(self, future: Future[Any], conclude: Callable[[], None]) -> None:
        """The flow has ended: keeps its outcome, unless the process ends, too."""
        if not (self._ended or self._closed):
            self._compare(future)
            if self._refusal is not None:
                self._refuse(future, self._refusal)
            else:
                error = future._exception
                chain = b"".join(self._chain(error))
                self._end(outcome_event("end", future.run, chain, self._code, future._result, error), future)  # type: ignore[arg-type]
        conclude()

    def _compare(self, future: Future[Any]) -> None:
        """Says what of a changed flow was replayed and what ran."""
        if self._refusal is None:
            try:
                with self._asking:
                    report = self._replay.finish(failed=future._exception is not None)
            except NondeterminismError as difference:
                self._refusal = difference
            else:
                if report is not None:
                    tell(str(report))

    def _refuse(self, future: Future[Any], difference: NondeterminismError) -> None:
        """It differs, and that is no outcome of it, whatever it made of it: it stays as it was."""
        self._ended = True
        replace_outcome(future, difference)
        assert self._before is not None, "what has no past has no difference"
        with contextlib.suppress(JournalError):  # its next start tells
            self._journal.give_back(self._before)

    def on_end(self, future: Future[Any]) -> None:
        """The future of the flow has settled: notes a cancel, which is no outcome."""
        if future.cancelled() and not (self._ended or self._closed):
            end = Event("end", code=self._code, name=self._flow.name, status="cancelled", finished=clock_seconds())
            self._end(end, None)

    def _end(self, event: Event, future: Future[Any] | None) -> None:
        self._ended = True
        try:
            self._journal.finish(self._flow, event)
        except JournalError as error:
            if future is not None and future._exception is None:
                replace_outcome(future, error)

    def close(self) -> None:
        """The process ends: the flow goes on in another one."""
        self._closed = True

    def _chain(self, error: BaseException | None) -> list[bytes]:
        """The calls and child flows whose exceptions made the flow fail, or were not looked at when it did.

        What a flow has not looked at has not led it anywhere: it may run again with what it failed of.
        """
        waiting, seen, keys = [error, *self._unseen_by(ROOT)], set[int](), list[bytes]()
        while waiting:
            one = waiting.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            if id(one) in self._failures:
                for key in self._failures[id(one)][1]:
                    keys.append(key)
                    waiting += self._unseen_by(key)
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += one.exceptions
        return keys

    def _unseen_by(self, flow: bytes) -> list[BaseException | None]:
        return [future._exception for future in self._unseen.get(flow, ())]


class Place:
    """Where one flow of a recording stands: what it has called so far; the recorder of a child flow."""

    __slots__ = ("_path", "recording")

    def __init__(self, recording: Recording, path: Path) -> None:
        self.recording = recording
        self._path = path

    def call(self, definition: Definition, arguments: Mapping[str, Any], run: Run) -> Call:
        """The next call of an action."""
        key = self._key(definition, arguments, run)
        return self.recording.call(key, definition, run, self._path)

    def child(self, definition: Definition, arguments: Mapping[str, Any], run: Run) -> Place:
        """Where the next child flow stands."""
        return Place(self.recording, self._path.child(self._key(definition, arguments, run)))

    def sleep(self, seconds: float) -> float:
        """How many seconds are left of the next sleep."""
        return self.recording.sleep(self._path.call("sleep", "", repr(float(seconds)).encode()), seconds)

    def leave(self, children: Sequence[Future[Any]]) -> None:
        """The flow has failed, and has not looked at what these came to."""
        self.recording.leave(self._path.key, children)

    def record(self, future: Future[Any], conclude: Callable[[], None]) -> None:
        """A child flow has ended. It runs again in each replay; what it failed of is known by its failure, too."""
        if future._exception is not None:
            self.recording.failed(future._exception, self._path.key)
        conclude()

    def _key(self, definition: Definition, arguments: Mapping[str, Any], run: Run) -> bytes:
        key = self._path.call(definition.kind, definition.name, arguments_digest(definition, arguments))
        self.recording.name(run, key)
        return key

    def choice(self, what: str, members: Iterable[Future[Any]]) -> Choice | None:
        """The next look at which of `members` are done; None when one of them is not of this flow."""
        keys = self.recording.keys_of(members)
        return None if keys is None else Choice(self.recording, self._path.choice(what, keys), keys)


class Outcome(NamedTuple):
    """What is recorded of a run: its result or exception, when it ended, in seconds since the epoch, and attempts."""

    result: Any
    error: BaseException | None
    finished: float
    attempts: int


class Call:
    """One call of an action by a durable flow; the recorder of its outcome, if it has to run."""

    __slots__ = ("_code", "_flow", "_key", "_outcome", "_recording")

    def __init__(self, recording: Recording, flow: bytes, key: bytes, code: bytes, outcome: Outcome | None) -> None:
        self._recording = recording
        self._flow = flow
        self._key = key
        self._code = code
        self._outcome = outcome

    @property
    def is_recorded(self) -> bool:
        """Whether it need not run."""
        return self._outcome is not None

    def replay(self, run: Run) -> tuple[Any, BaseException | None]:
        """The recorded result or exception; `run` is marked with the time at which it first came."""
        assert self._outcome is not None
        result, error, run.first_ran, run.attempt = self._outcome
        return result, error

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
            if self._recording.has_left(self._flow):  # it runs again, with what the flow failed of
                return None
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
        failure = self._recording.keep(Event("choice", self._turn_key(), finished=clock_seconds(), payload=payload))
        if failure is not None:
            raise failure

    def _turn_key(self) -> bytes:
        return hashlib.blake2b(self._key + self._turn.to_bytes(8), digest_size=32).digest()


class Known:
    """A recorded call, as a replay looks at it."""

    __slots__ = ("code", "key", "label", "name", "recorded", "seq", "status")

    def __init__(self, recorded: Recorded) -> None:
        event = recorded.event
        self.recorded = recorded
        self.key, self.code, self.name, self.label = event.key, event.code, event.name, event.label
        self.status, self.seq = event.status, recorded.seq


def outcome_event(kind: str, run: Run, key: bytes, code: bytes, result: Any, error: BaseException | None) -> Event:
    """What is recorded of a run that has ended; without the value, after a warning, if that can't be pickled."""
    status, payload = ("succeeded", b"") if error is None else ("failed", b"")
    try:
        payload = codec.encode(result) if error is None else codec.encode_error(error)
    except JournalValueError as why:
        status = "lost" if error is None and kind == "call" else status
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
        clock_seconds(),
        payload,
    )


def replace_outcome(future: Future[Any], error: BaseException) -> None:
    """The outcome with which `future` was claimed could not be kept: nobody may see it."""
    future._result, future._exception = None, error
    if future.run is not None:
        future.run.error, future.run._outcome = error_text(error), "failed"


def arguments_digest(definition: Definition, arguments: Mapping[str, Any]) -> bytes:
    """The digest of the arguments of a call."""
    return digest.of_arguments(arguments, call=f"{definition.name}()")


def call_text(run: Run) -> str:
    """The arguments of a run, in short."""
    return printable(", ".join(f"{name}={value!r}" for name, value in run.arguments.items()))
