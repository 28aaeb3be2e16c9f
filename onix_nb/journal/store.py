"""The journal's file: a SQLite database that one kernel owns, and that others may read.

`Journal` writes. One thread of its own has the one connection that does; what many callers record
meanwhile is committed together, and each is told only after the commit. `Reader` reads, also while
another kernel writes, and never checkpoints: SQLite before 3.51.3 can damage a journal when two
connections do.

A flow is a row of `flows`, rewritten when its status changes. What happened in it is `events`, in
order and without gaps, never changed; each is sealed together with the one before it, so that none
can be altered, left out, put elsewhere or put back, but the last ones cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import secrets
import sqlite3
import stat
import threading
import time
import urllib.parse
from _thread import allocate_lock
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

from ..errors import (
    ExecutorError,
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalRefusedError,
    JournalVersionError,
    JournalWriteError,
)
from . import codec

T = TypeVar("T")

# "onix" as a number: whose file it is, for `file` and for us.
APPLICATION: Final = 0x6F6E6978

# The statements that make version n + 1 of version n; never edited once released.
MIGRATIONS: Final = (
    (
        "CREATE TABLE journal (id BLOB NOT NULL, mac BLOB NOT NULL)",
        """
        CREATE TABLE flows (
            flow INTEGER PRIMARY KEY, id TEXT NOT NULL, generation INTEGER NOT NULL, name TEXT NOT NULL,
            code BLOB NOT NULL, label TEXT NOT NULL, status TEXT NOT NULL, kernels INTEGER NOT NULL,
            started REAL NOT NULL, finished REAL, events INTEGER NOT NULL, mac BLOB NOT NULL
        )
        """,
        # The payload is last: what comes before it is read without it.
        """
        CREATE TABLE events (
            flow INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, key BLOB NOT NULL, code BLOB NOT NULL,
            name TEXT NOT NULL, label TEXT NOT NULL, status TEXT NOT NULL, error_type TEXT NOT NULL,
            error TEXT NOT NULL, attempts INTEGER NOT NULL, started REAL NOT NULL, finished REAL NOT NULL,
            digest BLOB NOT NULL, mac BLOB NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (flow, seq)
        ) WITHOUT ROWID
        """,
    ),
)
VERSION: Final = len(MIGRATIONS)

# Besides `journal_mode = WAL`, with which readers don't stop the writer, and a commit is one write and one sync.
WRITER_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",  # NORMAL loses what was committed since the last checkpoint in a power cut
    "PRAGMA fullfsync = ON",  # macOS: fsync alone leaves it in the drive's cache; no-op elsewhere
    "PRAGMA checkpoint_fullfsync = ON",  # the same for checkpoints
    "PRAGMA locking_mode = NORMAL",  # EXCLUSIVE would lock the readers out
    "PRAGMA wal_autocheckpoint = 0",  # `_checkpoint` does it, and empties the log
)
PRAGMAS: Final = (
    "PRAGMA mmap_size = 0",  # a file cut short is an error to catch, not a SIGBUS
    "PRAGMA cell_size_check = OFF",  # the rows beside a damaged one stay readable, so that it can be named
    "PRAGMA trusted_schema = OFF",  # a forged schema calls nothing
)

# Seconds that a stranger's lock on the database may take; with what else is done a caller hears within 5.
BUSY_SECONDS: Final = 3.0
# Bytes of the log after which its content goes into the database: what an open after a kill reads again.
CHECKPOINT_BYTES = 4 << 20
# Bytes up to which payloads are read together with their events.
SMALL_PAYLOAD: Final = 4096
# SQLite's own limit on a value is 1,000,000,000 bytes.
LARGEST_PAYLOAD: Final = 900_000_000

# Where tests kill, in this order. `at` does nothing in use.
POINTS: Final = ("submitted", "taken", "begun", "inserted", "committed", "checked", "acknowledged")


def at(point: str) -> None:
    """A named point of recording, which tests replace."""


class Event(NamedTuple):
    """Something that happened in a flow.

    Attributes:
        kind: "begin" (its payload the arguments), "call", "choice" (winners) or "end" (the outcome).
        key: Which call or choice; empty for begin and end.
        code: Digest of the code that ran.
        name: Of the function.
        label: A short preview of the arguments.
        status: How it ended; the words are the caller's.
        error_type: Of an exception, and `error` what it said, for when it can't be unpickled.
        attempts: How many it took.
        started: Unix seconds, UTC; only shown, and the order is another thing.
        finished: The same.
        payload: What `codec.encode` gave.
    """

    kind: str
    key: bytes = b""
    code: bytes = b""
    name: str = ""
    label: str = ""
    status: str = ""
    error_type: str = ""
    error: str = ""
    attempts: int = 0
    started: float = 0.0
    finished: float = 0.0
    payload: bytes = b""


class Recorded(NamedTuple):
    """An event as it is in the file, proven except for the payload, which `value` proves.

    Attributes:
        flow: Its flow's number.
        seq: Its place in the flow, from 0.
        event: What was recorded; its payload is empty when it is large.
        digest: Of the payload.
        before: The seal of the event before it.
        mac: Its own seal.
        small: Whether `event` has the payload.
    """

    flow: int
    seq: int
    event: Event
    digest: bytes
    before: bytes
    mac: bytes
    small: bool


class Flow(NamedTuple):
    """One generation of a durable flow.

    Attributes:
        flow: Its number in this file.
        id: The flow id that people gave or that was made from name and arguments.
        generation: From 1; each fresh start is another one.
        kernels: How many kernels began it and neither ended it nor closed the journal.
        events: How many events there were when its status last changed.
    """

    flow: int
    id: str
    generation: int
    name: str
    code: bytes
    label: str
    status: str
    kernels: int
    started: float
    finished: float | None
    events: int


_FLOWS: Final = f"SELECT {', '.join(Flow._fields)}, mac FROM flows"


class _Rows:
    """What both read: rows of a connection, proven by their seals."""

    def __init__(self, path: Path, key: bytes, connection: sqlite3.Connection) -> None:
        self.path = path
        self._key = key
        self._connection = connection
        self._id = b""

    def prove(self) -> None:
        """Raises unless the journal is this user's and of a version that is known."""
        version = self.version()
        if version > VERSION:
            raise JournalVersionError(
                f"the journal {self.path} has version {version}, and this onix_nb knows {VERSION}. "
                "Use the onix_nb that wrote it, or move the file away."
            )
        rows = self._select("row 1 of journal", "SELECT id, mac FROM journal")
        if len(rows) != 1 or rows[0][1] != codec.seal(self._key, "journal", rows[0][0]):
            raise JournalDamagedError(
                f"the journal {self.path}: row 1 of journal was sealed with another key than yours, or damaged. "
                "Move the file away."
            )
        self._id = rows[0][0]

    def version(self) -> int:
        """Of the schema; 0 when there is none yet."""
        of_file = "header"
        application = self._select(of_file, "PRAGMA application_id")[0][0]
        version: int = self._select(of_file, "PRAGMA user_version")[0][0]
        tables = self._select(of_file, "SELECT count(*) FROM sqlite_master")[0][0]
        if application != APPLICATION and (application or version or tables):
            raise JournalDamagedError(f"{self.path} is a database, and no journal of onix. Move it away.")
        return version

    def flows(self) -> list[Flow]:
        """All flows, the first to begin first."""
        found: list[Flow] = []
        for row in self._each(
            f"{_FLOWS} WHERE flow > ? ORDER BY flow", (), found, lambda: f"row {len(found) + 1} of flows"
        ):
            found.append(self._flow(row))
        return found

    def flow(self, number: int) -> Flow:
        """The flow with this number."""
        rows = self._select("flows", f"{_FLOWS} WHERE flow = ?", (number,))
        if not rows:
            raise self._damaged(f"row {number} of flows")
        return self._flow(rows[0])

    def _flow(self, row: tuple[Any, ...]) -> Flow:
        found = Flow(*row[:-1])
        if row[-1] != self._flow_seal(found):
            raise self._damaged(f"row {found.flow} of flows")
        return found

    def _flow_seal(self, flow: Flow) -> bytes:
        return codec.seal(self._key, "flow", self._id, *flow)

    def events(self, flow: Flow) -> list[Recorded]:
        """What happened in `flow`, in order, each proven.

        Raises:
            JournalDamagedError: An event is altered or missing; the message names the file and the row.
        """
        found: list[Recorded] = []
        before = b""
        for row in self._each_event(flow.flow, found):
            recorded = self._recorded(row, before)
            if recorded.seq != len(found) or recorded.mac != codec.seal(self._key, *self._fields(recorded)):
                raise self._damaged(_row(flow.flow, len(found)))
            found.append(recorded)
            before = recorded.mac
        if len(found) < max(flow.events, self._last_seq(flow.flow) + 1):
            raise self._damaged(_row(flow.flow, len(found)))
        self._prove_no_strays()
        return found

    def _last_seq(self, flow: int) -> int:
        """Looked for from the other end: behind a damaged flow number the search from the front finds no more."""
        rows = self._select("events", "SELECT max(seq) FROM events WHERE flow = ?", (flow,))
        return -1 if rows[0][0] is None else int(rows[0][0])

    def _each_event(self, flow: int, found: list[Recorded]) -> Iterator[tuple[Any, ...]]:
        columns = ", ".join(Event._fields[:-1])
        sql = (
            f"SELECT flow, seq, digest, mac, length(payload) <= {SMALL_PAYLOAD}, {columns},"
            f" CASE WHEN length(payload) <= {SMALL_PAYLOAD} THEN payload ELSE x'' END"
            " FROM events WHERE flow = ? AND seq >= ? ORDER BY seq"
        )
        return self._each(sql, (flow,), found, lambda: _row(flow, len(found)))

    def _each(
        self, sql: str, parameters: tuple[Any, ...], found: list[Any], next_row: Callable[[], str]
    ) -> Iterator[tuple[Any, ...]]:
        """All rows, the unreadable one named; `sql` takes besides `parameters` how many of them are in `found`."""
        try:
            yield from self._connection.execute(sql, (*parameters, 0))
        except sqlite3.DatabaseError:
            # The module reads one row ahead, so that the error may be of the next one: look at them one by one.
            while rows := self._select(next_row(), f"{sql} LIMIT 1", (*parameters, len(found))):
                yield from rows
            raise self._damaged(next_row()) from None

    def _recorded(self, row: tuple[Any, ...], before: bytes) -> Recorded:
        flow, seq, digest, mac, small, *fields = row
        return Recorded(flow, seq, Event(*fields), digest, before, mac, bool(small))

    def _fields(self, recorded: Recorded) -> tuple[codec.Field, ...]:
        """What is sealed of an event, the digest of the payload last."""
        place = (self._id, recorded.flow, recorded.seq, recorded.before)
        return ("event", *place, *recorded.event[:-1], recorded.digest)

    def value(self, recorded: Recorded) -> Any:
        """The value of an event's payload.

        Raises:
            JournalDamagedError: It isn't what was recorded; the message names the file and the row.
            JournalValueError: It can't be unpickled here.
        """
        row = _row(recorded.flow, recorded.seq)
        payload = recorded.event.payload
        if not recorded.small:
            sql = "SELECT payload FROM events WHERE flow = ? AND seq = ?"
            rows = self._select(row, sql, (recorded.flow, recorded.seq))
            payload = rows[0][0] if rows else b""
        try:
            return codec.decode(self._key, recorded.mac, self._fields(recorded), payload)
        except (JournalDamagedError, TypeError) as error:
            raise self._damaged(row) from error

    def _prove_no_strays(self) -> None:
        """An event whose flow number was damaged belongs to another flow or to none; its own would just be shorter."""
        known = {number for (number,) in self._select("flows", "SELECT flow FROM flows")}
        sql = "SELECT flow, seq FROM events WHERE flow > ? ORDER BY flow, seq LIMIT 1"
        last = -(2**63)
        while rows := self._select("events", sql, (last,)):
            flow, seq = rows[0]
            if flow not in known or seq != 0:
                raise self._damaged(_row(flow, seq))
            last = flow

    def _select(self, what: str, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise _failed(self.path, error, "read") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(what, error) from error

    def _damaged(self, row: str, error: BaseException | None = None) -> JournalDamagedError:
        why = "" if error is None else f" ({error})"
        return JournalDamagedError(
            f"the journal {self.path}: {row} is not what was written{why}. Nothing of it was used. "
            "Start the flow with fresh=True, or move the file away."
        )


def _row(flow: int, seq: int) -> str:
    return f"row ({flow}, {seq}) of events"


def _failed(path: Path, error: BaseException, what: str = "written") -> JournalError:
    """The typed error for one of SQLite's."""
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError | sqlite3.DataError | sqlite3.IntegrityError
    ):
        return JournalDamagedError(f"the journal {path} is no database, or damaged ({error}). Move it away.")
    return JournalWriteError(f"the journal {path} could not be {what}: {error}.")


def _nothing_yet(path: Path) -> JournalError:
    return JournalError(f"there is no journal {path}, or nothing in it yet")


class Reader(_Rows):
    """A journal that is only read, whoever owns it."""

    def __init__(self, path: str | os.PathLike[str], key: bytes | None = None) -> None:
        path = Path(os.path.abspath(path))
        # A rollback journal is there only while the first kernel makes the file, or if it died before it had.
        if not os.path.lexists(path) or os.path.lexists(f"{path}-journal"):
            raise _nothing_yet(path)
        _refuse_unsafe(path, read_only=True)
        super().__init__(path, codec.user_key() if key is None else key, _connect(path, "ro", PRAGMAS))
        try:
            if self.version() == 0:
                raise _nothing_yet(path)
            self.prove()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """No more is read."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Job(NamedTuple):
    """Work for the writer's thread, and who hears of its end, after the commit."""

    work: Callable[[], Any]
    done: Callable[[Any, BaseException | None], None]


class Journal:
    """A journal that this process owns. All methods may be called from any thread.

    Args:
        path: The file; its folder is made when it isn't there.
        key: The user's key, by default the one in Jupyter's data folder.

    Raises:
        JournalBusyError: Another kernel owns it, or this one has it open.
        JournalDamagedError: It isn't a journal, or its head is damaged or sealed with another key.
        JournalRefusedError: It, its folder or the key isn't safely ours.
        JournalVersionError: A newer onix_nb wrote it.
        JournalWriteError: It can't be opened for writing.
    """

    def __init__(self, path: str | os.PathLike[str], key: bytes | None = None) -> None:
        self.path = Path(os.path.abspath(path))
        self._key = codec.user_key() if key is None else key
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Guards `_closed`, so that no job arrives after the last one. Not held while anything is written.
        self._closing = threading.Lock()
        self._closed = False
        # What follows belongs to the writer's thread.
        self._broken = False  # whether the connection is closed, after a failure
        self._gone: str | None = None  # how the files were lost
        self._files: dict[Path, tuple[int, int]] = {}
        self._checkpoint_at = CHECKPOINT_BYTES
        self._log: _Log | None = None
        # Of each flow that was written to: the place of the next event, and the seal of the last.
        self._heads: dict[int, tuple[int, bytes]] = {}
        # The flows that this kernel runs.
        self._running: set[int] = set()
        with contextlib.ExitStack() as undo:
            self._owner = _Owner(self.path)
            undo.callback(self._owner.release)
            self._open()
            undo.pop_all()
        self._thread = threading.Thread(target=self._write, name="onix-journal", daemon=True)
        self._thread.start()

    # Asked by any thread

    def flows(self) -> list[Flow]:
        """All flows, the first to begin first."""
        return self._ask(lambda: self._now().flows())

    def find(self, flow_id: str) -> Flow | None:
        """The last generation of the flow with this id."""
        _refuse_id(flow_id)
        return self._ask(lambda: self._find(flow_id))

    def events(self, flow: Flow) -> list[Recorded]:
        """What happened in `flow`, in order; see `Reader.events`."""
        return self._ask(lambda: self._now().events(flow))

    def value(self, recorded: Recorded) -> Any:
        """The value of an event's payload; see `Reader.value`. Unpickled on the caller's thread."""
        if recorded.small:
            return self._rows.value(recorded)
        return self._ask(lambda: self._now().value(recorded))

    def begin(self, flow_id: str, event: Event) -> Flow:
        """Begins a new generation of the flow with this id, and records `event` as its first."""
        _refuse_id(flow_id)
        return self._ask(lambda: self._begin(flow_id, _written(event)))

    def resume(self, flow: Flow) -> Flow:
        """Notes that this kernel runs `flow` again."""
        return self._ask(lambda: self._rewrite(flow.flow, "running", None, 0 if flow.flow in self._running else 1))

    def record(self, flow: Flow, event: Event) -> Recorded:
        """Records an event of `flow`. Blocks until it is on the disk.

        An interrupt ends the waiting, not the recording.

        Raises:
            JournalWriteError: It is not recorded.
        """
        event = _written(event)
        return self._ask(lambda: self._append(flow.flow, event))

    def submit(self, flow: Flow, event: Event, done: Callable[[Recorded | None, BaseException | None], None]) -> None:
        """Like `record`, and returns at once; `done` is called on the writer's thread, and must be quick."""
        event = _written(event)
        self._send(_Job(lambda: self._append(flow.flow, event), done))

    def finish(self, flow: Flow, event: Event) -> Flow:
        """Records how `flow` ended, with the status of `event`, and its outcome, in one commit."""
        event = _written(event)
        return self._ask(lambda: self._finish(flow.flow, event))

    def close(self) -> None:
        """Commits what was submitted, and gives the journal up. Closing again does nothing."""
        with self._closing:
            if self._closed or self._forked():
                return
            self._closed = True
            self._jobs.put(_Job(self._leave, lambda result, error: None))
            self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, work: Callable[[], T]) -> T:
        """The result of `work`, which runs on the writer's thread, once it is committed."""
        ended = allocate_lock()
        ended.acquire()
        answer: list[Any] = []

        def done(result: Any, error: BaseException | None) -> None:
            answer[:] = result, error
            ended.release()

        self._send(_Job(work, done))
        ended.acquire()
        result, error = answer
        if error is not None:
            raise error
        return cast(T, result)

    def _send(self, job: _Job) -> None:
        if self._forked():
            raise ExecutorError("a forked process can't use its parent's journal")
        with self._closing:
            if self._closed:
                raise JournalError(f"the journal {self.path} is closed")
            self._jobs.put(job)
        at("submitted")

    def _forked(self) -> bool:
        return os.getpid() != self._pid

    # On the writer's thread

    def _write(self) -> None:
        """Commits what has arrived, together, again and again."""
        going = True
        while going:
            batch: list[_Job] = []
            job = self._jobs.get()
            with contextlib.suppress(queue.Empty):
                while job is not None:
                    batch.append(job)
                    job = self._jobs.get_nowait()
                going = False
            if batch:
                self._commit(batch)
            del job, batch
        self._close_files()
        self._owner.release()

    def _close_files(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._rows._connection.close()
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def _commit(self, batch: list[_Job]) -> None:
        at("taken")
        answers: list[tuple[Any, BaseException | None]]
        try:
            connection = self._now()._connection
            connection.execute("BEGIN IMMEDIATE")
            at("begun")
            answers = [self._answer(job) for job in batch]
            at("inserted")
            connection.execute("COMMIT")
            at("committed")
            self._prove_in_place()
            at("checked")
        except BaseException as error:
            failure = self._undo(error)
            answers = [(None, failure)] * len(batch)
        for job, (result, failed) in zip(batch, answers, strict=True):
            with contextlib.suppress(Exception):
                job.done(result, failed)
        at("acknowledged")
        if not self._broken:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Empties a log that has become long.

        SQLite on its own would leave the frames there; cut short later, they would bring older pages back beside
        newer ones in the database, instead of a prefix. Where a reader is in the way, the next one does it.
        """
        with contextlib.suppress(OSError, sqlite3.Error):
            if self._log is not None and self._log.reaches(self._checkpoint_at):
                self._checkpoint_at += CHECKPOINT_BYTES
                busy, *_ = self._rows._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not busy:
                    self._checkpoint_at = CHECKPOINT_BYTES
                    self._log.make_room()

    def _answer(self, job: _Job) -> tuple[Any, BaseException | None]:
        """What `job` gives. That it is refused is not the others' fault, unless it leaves something half written."""
        changes = self._rows._connection.total_changes
        try:
            return job.work(), None
        except Exception as error:
            half = self._rows._connection.total_changes != changes
            if half or isinstance(error, sqlite3.Error | JournalWriteError):
                raise
            return None, error

    def _undo(self, error: BaseException) -> BaseException:
        """Forgets everything that a failed commit may have left, and gives the error for those who wait.

        The connection is opened anew: what SQLite, the file and we believe is then the same.
        """
        self._heads.clear()
        self._broken = True
        with contextlib.suppress(sqlite3.Error):
            self._rows._connection.rollback()
        self._close_files()
        return _failed(self.path, error) if isinstance(error, sqlite3.Error | OSError) else error

    def _now(self) -> _Rows:
        if self._gone is not None:
            raise JournalWriteError(self._gone)
        if self._broken:
            self._files = {path: inode for path, inode in self._files.items() if not path.name.endswith("-wal")}
            self._prove_in_place()  # but for the WAL, which SQLite deletes when it closes
            self._open()
            self._broken = False
        return self._rows

    def _open(self) -> None:
        _refuse_unsafe(self.path)
        _create(self.path)
        connection = _connect(self.path, "rw", PRAGMAS)
        rows = _Rows(self.path, self._key, connection)
        try:
            _migrate(rows, self._key)
            rows.prove()
            rows.flows()
            paths = (self.path, self.path.with_name(self.path.name + "-wal"), self._owner.path)
            self._files = {path: _inode(path) for path in paths}
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise _failed(self.path, error) from error
            raise
        self._rows: _Rows = rows
        with contextlib.suppress(OSError):  # there is no space; SQLite will say so, when it needs some
            self._log = _Log(paths[1])
            self._log.make_room()

    def _prove_in_place(self) -> None:
        """Raises when what was written is in files that nobody will find again."""
        for path, inode in self._files.items():
            try:
                same = _inode(path) == inode
            except OSError:
                same = False
            if not same:
                self._gone = (
                    f"the journal {self.path} was deleted or replaced while in use: {path.name} is another file. "
                    "Restart the kernel to begin a new one."
                )
                raise JournalWriteError(self._gone)

    def _find(self, flow_id: str) -> Flow | None:
        return next((flow for flow in reversed(self._now().flows()) if flow.id == flow_id), None)

    def _begin(self, flow_id: str, event: Event) -> Flow:
        rows = self._now()
        last = self._find(flow_id)
        number = rows._select("flows", "SELECT coalesce(max(flow), 0) + 1 FROM flows")[0][0]
        generation = 1 if last is None else last.generation + 1
        started = event.started or time.time()
        flow = Flow(number, flow_id, generation, event.name, event.code, event.label, "running", 1, started, None, 1)
        self._put(flow)
        self._append(number, event)
        self._running.add(number)
        return flow

    def _finish(self, number: int, event: Event) -> Flow:
        self._append(number, event)
        flow = self._rewrite(number, event.status, event.finished or time.time(), None)
        self._running.discard(number)
        return flow

    def _leave(self) -> None:
        """This kernel ends in good order: what it runs was not what killed it."""
        for number in self._running:
            self._rewrite(number, None, None, -1)

    def _rewrite(self, number: int, status: str | None, finished: float | None, kernels: int | None) -> Flow:
        """Changes a flow's row: `kernels` is added; None makes it 0."""
        flow = self._now().flow(number)._replace(finished=finished, events=self._head(number)[0])
        flow = flow._replace(kernels=0 if kernels is None else max(0, flow.kernels + kernels))
        flow = flow if status is None else flow._replace(status=status)
        self._put(flow)
        if status == "running":
            self._running.add(number)
        return flow

    def _put(self, flow: Flow) -> None:
        rows = self._now()
        sql = f"INSERT OR REPLACE INTO flows VALUES ({', '.join('?' * (len(flow) + 1))})"
        rows._connection.execute(sql, (*flow, rows._flow_seal(flow)))

    def _append(self, flow: int, event: Event) -> Recorded:
        rows = self._now()
        seq, before = self._head(flow)
        small = len(event.payload) <= SMALL_PAYLOAD
        recorded = Recorded(flow, seq, event, codec.digest(event.payload), before, b"", small)
        recorded = recorded._replace(mac=codec.seal(rows._key, *rows._fields(recorded)))
        values = (flow, seq, *event[:-1], recorded.digest, recorded.mac, event.payload)
        rows._connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(values))})", values)
        self._heads[flow] = seq + 1, recorded.mac
        return recorded if small else recorded._replace(event=event._replace(payload=b""))

    def _head(self, flow: int) -> tuple[int, bytes]:
        if flow not in self._heads:
            sql = "SELECT seq + 1, mac FROM events WHERE flow = ? ORDER BY seq DESC LIMIT 1"
            rows = self._now()._select("events", sql, (flow,))
            self._heads[flow] = rows[0] if rows else (0, b"")
        return self._heads[flow]


class _Log:
    """SQLite's write-ahead log, with room for what comes.

    A commit into a file that doesn't grow syncs no size: on ext4 it takes two thirds of the time. SQLite takes zeros
    for the end of the log, and never asks how long the file is while it has it open.
    """

    HEAD: Final = 32
    FRAME: Final = 24 + 4096

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def reaches(self, place: int) -> bool:
        """Whether a frame was written there."""
        return any(os.pread(self._file, 4, self.HEAD + place // self.FRAME * self.FRAME))

    def make_room(self) -> None:
        """Zeros up to the next checkpoint, on the disk before anything is written over them."""
        size = os.fstat(self._file).st_size
        if size < CHECKPOINT_BYTES:
            os.pwrite(self._file, bytes(CHECKPOINT_BYTES - size), size)
            os.fsync(self._file)

    def close(self) -> None:
        """It is no longer looked at."""
        os.close(self._file)


def _written(event: Event) -> Event:
    """The event with texts that SQLite can keep; they are only shown."""
    if len(event.payload) > LARGEST_PAYLOAD:
        raise JournalWriteError(f"{event.name}: a value of {len(event.payload):,} bytes is too large for a journal.")
    texts = {name: text for name, text in event._asdict().items() if isinstance(text, str) and not text.isascii()}
    shown = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in texts.items()}
    return event._replace(**cast(Mapping[str, Any], shown)) if texts else event


def _refuse_id(flow_id: str) -> None:
    try:
        flow_id.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the flow id {flow_id!a} is no text that can be written: {error.reason}") from error


# The file


def _connect(path: Path, mode: str, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    """A connection; transactions are begun and committed by hand."""
    uri = f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.text_factory = _text
        for pragma in pragmas:
            connection.execute(pragma)
    except sqlite3.Error as error:
        raise _failed(path, error, "opened") from error
    return connection


def _text(data: bytes) -> str:
    """A damaged text is no error of its own: its row does not prove."""
    return data.decode("utf-8", "surrogateescape")


def _migrate(rows: _Rows, key: bytes) -> None:
    """Makes the schema, or brings an older one up to date, in one transaction."""
    connection = rows._connection
    version = rows.version()
    if version > VERSION:
        return
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":  # SQLite keeps the old one where the file system or the disk doesn't let it
        raise JournalWriteError(f"the journal {rows.path} can't have a write-ahead log there; its mode is {mode!r}.")
    for pragma in WRITER_PRAGMAS:
        connection.execute(pragma)
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    if version == 0:
        identity = secrets.token_bytes(16)
        connection.execute("INSERT INTO journal VALUES (?, ?)", (identity, codec.seal(key, "journal", identity)))
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _create(path: Path) -> None:
    """An empty file that only this user can use, and whose name a power cut doesn't take."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise _failed(path, error, "made") from error
    with contextlib.suppress(OSError):
        codec.sync_folder(path.parent)


def _inode(path: Path) -> tuple[int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_dev, found.st_ino


def _refuse_unsafe(path: Path, read_only: bool = False) -> None:
    """Raises unless the folder and each file in it that SQLite will open are safely ours."""
    _refuse(path.parent, stat.S_ISDIR, "a folder", read_only)
    for suffix in ("", "-journal", "-wal", "-shm", ".lock"):
        with contextlib.suppress(FileNotFoundError):
            _refuse(path.with_name(path.name + suffix), stat.S_ISREG, "a file", read_only)


def _refuse(path: Path, is_kind: Callable[[int], bool], kind: str, read_only: bool) -> None:
    found = os.stat(path, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        why = "is a symbolic link"
    elif not is_kind(found.st_mode):
        why = f"is not {kind}"
    elif found.st_uid != os.geteuid():
        why = "belongs to another user"
    elif found.st_mode & stat.S_IWOTH:
        why = "can be written by everyone"
    elif not read_only and not found.st_mode & stat.S_IWUSR:
        why = "is read-only"
    else:
        return
    raise JournalRefusedError(f"{path} {why}, so the journal is not used.")


# The owner


# Guards `_owned`, which says what this process owns: opening a lock file a second time, and closing
# it, would give up the lock. Held while a lock is taken.
_owning = threading.Lock()
_owned: dict[tuple[int, int], int] = {}


class _Owner:
    """The lock that says whose the journal is, on a file of its own.

    A record lock (`lockf`): it ends with its process, however that ends, and forked children don't have it.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(journal.name + ".lock")
        self._pid = os.getpid()
        self._make_folder(journal.parent)
        _refuse_unsafe(journal)
        with _owning:
            self._take(journal)

    def release(self) -> None:
        """Gives the journal up. In a forked child it isn't ours to give."""
        with _owning:
            if os.getpid() == self._pid and _owned.pop(self._inode, None) is not None:
                os.close(self._file)

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            return
        except OSError as error:
            raise _failed(folder, error, "made") from error
        with contextlib.suppress(OSError):
            codec.sync_folder(folder.parent)

    def _take(self, journal: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if _inode(self.path) in _owned:
                raise JournalBusyError(f"the journal {journal} is open in this process.")
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed(self.path, error, "opened") from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sign()
            self._inode = _inode(self.path)
            found = os.fstat(self._file)
            if (found.st_dev, found.st_ino) != self._inode:
                raise JournalBusyError(f"the journal {journal} was replaced at this moment. Try again.")
        except (BlockingIOError, PermissionError) as error:
            busy = JournalBusyError(f"the journal {journal} belongs to {self._who()}. Shut that kernel down first.")
            os.close(self._file)
            raise busy from error
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, OSError):
                raise _failed(self.path, error, "locked") from error
            raise
        _owned[self._inode] = self._file

    def _sign(self) -> None:
        """Says who owns the journal, for those who come too late."""
        owner = {"pid": os.getpid(), "host": os.uname().nodename, "uid": os.geteuid(), "since": time.time()}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(owner).encode(), 0)

    def _who(self) -> str:
        try:
            owner = json.loads(os.pread(self._file, 4096, 0))
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
            return f"process {owner['pid']:d} of user {owner['uid']:d} on {owner['host']!s:.100}, since {since}"
        except (OSError, ValueError, KeyError, TypeError):  # it is just being written
            return "another process"
