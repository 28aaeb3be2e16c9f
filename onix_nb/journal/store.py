"""The journal of the kernel that owns it: a SQLite database beside the notebook.

One thread of its own has the one connection that writes; what many callers record meanwhile is
committed together, and each is told only after the commit. Others may read (`rows.Reader`), and never
checkpoint: SQLite before 3.51.3 can damage a journal when two connections do.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import sqlite3
import threading
from _thread import allocate_lock
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

from ..errors import ExecutorError, JournalDamagedError, JournalError, JournalWriteError
from ..model.run import clock_seconds
from . import codec, schema
from .owner import Owner, create, inode, refuse_unsafe
from .rows import SMALL_PAYLOAD, Event, Flow, Reader, Recorded, Rows, number_of, span_of

__all__ = ["POINTS", "Event", "Flow", "Journal", "Reader", "Recorded", "at"]

T = TypeVar("T")

# Bytes of the log after which its content goes into the database: what an open after a kill reads again. They are
# estimated, by what an event takes besides its payload.
CHECKPOINT_BYTES = 4 << 20
_FRAMES: Final = 8192
# SQLite's own limit on a value is 1,000,000,000 bytes.
LARGEST_PAYLOAD: Final = 900_000_000
# SQLite's largest integer.
_MOST_ATTEMPTS: Final = 2**63 - 1

# Where tests kill, in this order. `at` does nothing in use.
POINTS: Final = ("submitted", "taken", "begun", "inserted", "committed", "checked", "acknowledged")


def at(point: str) -> None:
    """A named point of recording, which tests replace."""


class _Job(NamedTuple):
    """Work for the writer's thread, and who hears of its end, after the commit, if it writes."""

    work: Callable[[], Any]
    done: Callable[[Any, BaseException | None], None]
    writes: bool = True


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
        self._files: dict[str, tuple[int, int]] = {}
        self._logged = 0  # bytes, about, since the last checkpoint
        # Of each flow that was written to: the place of the next event, and the seal of the last.
        self._heads: dict[int, tuple[int, bytes]] = {}
        # The flows that this kernel began or resumed and has not ended.
        self._running: set[int] = set()
        with contextlib.ExitStack() as undo:
            self._owner = Owner(self.path)
            undo.callback(self._owner.release)
            self._open()
            undo.pop_all()
        self._thread = threading.Thread(target=self._write, name="onix-journal", daemon=True)
        self._thread.start()

    # Asked by any thread

    def flows(self) -> list[Flow]:
        """All flows, the first to begin first."""
        return self._ask(lambda: self._now().flows(), writes=False)

    def find(self, flow_id: str) -> Flow | None:
        """The last generation of the flow with this id."""
        _refuse_id(flow_id)
        return self._ask(lambda: self._find(flow_id), writes=False)

    def sizes(self) -> dict[int, tuple[int, int]]:
        """How much is recorded of each flow; see `Reader.sizes`."""
        return self._ask(lambda: self._now().sizes(), writes=False)

    def events(self, flow: Flow) -> list[Recorded]:
        """What happened in `flow`, in order; see `Reader.events`."""
        return self._ask(lambda: self._now().events(flow), writes=False)

    def value(self, recorded: Recorded) -> Any:
        """The value of an event's payload; see `Reader.value`. Unpickled on the caller's thread."""
        small = recorded.small
        payload = recorded.event.payload if small else self._ask(lambda: self._now().payload(recorded), writes=False)
        return self._rows.decoded(recorded, payload)

    def begin(self, flow_id: str, event: Event) -> Flow:
        """Begins a new generation of the flow with this id, and records `event` as its first."""
        _refuse_id(flow_id)
        return self._ask(lambda: self._begin(flow_id, _written(event)))

    def resume(self, flow: Flow) -> Flow:
        """Notes that this kernel runs `flow` again."""
        return self._ask(lambda: self._resume(flow.flow))

    def give_back(self, flow: Flow) -> None:
        """Notes that `flow`, as it was before it was resumed, was not run after all."""
        self._ask(lambda: self._give_back(flow))

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
        if self._forked():
            return
        with self._closing:
            if self._closed:
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

    def _ask(self, work: Callable[[], T], *, writes: bool = True) -> T:
        """The result of `work`, which runs on the writer's thread, once it is committed."""
        ended = allocate_lock()
        ended.acquire()
        answer: list[Any] = []

        def done(result: Any, error: BaseException | None) -> None:
            answer[:] = result, error
            ended.release()

        self._send(_Job(work, done, writes))
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
            del job  # what it holds is not kept until the next one
            self._work(batch)
            del batch
        with contextlib.suppress(sqlite3.Error):
            self._rows.connection.close()
        self._owner.release()

    def _work(self, batch: list[_Job]) -> None:
        writing = [job for job in batch if job.writes]
        if writing:
            self._commit(writing)
        # By themselves: after a row that SQLite can't read a commit would fail, too.
        for job in batch:
            if not job.writes:
                self._look(job)

    def _commit(self, batch: list[_Job]) -> None:
        answers: list[tuple[Any, BaseException | None]] = [(None, None)] * len(batch)
        running = set(self._running)
        try:
            at("taken")
            connection = self._now().connection
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
            answers = [(None, failed or failure) for _, failed in answers]
            self._running = running
        for job, (result, failed) in zip(batch, answers, strict=True):
            with contextlib.suppress(Exception):
                job.done(result, failed)
        at("acknowledged")
        if not self._broken:
            self._checkpoint()

    def _look(self, job: _Job) -> None:
        result: Any = None
        failed: BaseException | None = None
        try:
            result = job.work()
            self._prove_in_place()
        except JournalDamagedError as error:
            failed = error
        except BaseException as error:
            failed = self._undo(error)
        with contextlib.suppress(Exception):
            job.done(None if failed else result, failed)

    def _checkpoint(self) -> None:
        """When the log has become long: moves its content into the database, and begins it anew.

        SQLite would begin it at the next commit. Cut short before that it would bring older pages back beside newer
        ones in the database, instead of a prefix. Where a reader is in the way, the next time is soon enough.
        """
        if self._logged < CHECKPOINT_BYTES:
            return
        self._logged = 0
        execute = self._rows.connection.execute
        with contextlib.suppress(sqlite3.Error):
            execute("PRAGMA busy_timeout = 0")
            busy, *_ = execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            if not busy:
                execute(f"PRAGMA user_version = {schema.VERSION}")  # writes the first page, which begins the log
        execute(f"PRAGMA busy_timeout = {round(schema.BUSY_SECONDS * 1000)}")

    def _answer(self, job: _Job) -> tuple[Any, BaseException | None]:
        """What `job` gives. That it is refused is not the others' fault, unless it leaves something half written."""
        changes = self._rows.connection.total_changes
        try:
            return job.work(), None
        except Exception as error:
            half = self._rows.connection.total_changes != changes
            if half or isinstance(error, sqlite3.Error | JournalWriteError):
                raise
            return None, error

    def _undo(self, error: BaseException) -> BaseException:
        """Forgets everything that a failed commit may have left, and gives the error for those who wait.

        The connection is opened anew: what SQLite, the file and we believe is then the same.
        """
        self._heads.clear()
        self._broken = True
        connection = self._rows.connection
        for end in (connection.rollback, connection.close):
            with contextlib.suppress(sqlite3.Error):
                end()
        return schema.failed(self.path, error) if isinstance(error, sqlite3.Error | OSError) else error

    def _now(self) -> Rows:
        if self._gone is not None:
            raise JournalWriteError(self._gone)
        if self._broken:
            self._files = {path: known for path, known in self._files.items() if not path.endswith("-wal")}
            self._prove_in_place()  # but for the WAL, which SQLite deletes when it closes
            self._open()
            self._broken = False
        return self._rows

    def _open(self) -> None:
        refuse_unsafe(self.path)
        create(self.path)
        connection = schema.connect(self.path, "rw", schema.PRAGMAS)
        rows = Rows(self.path, self._key, connection)
        try:
            version = rows.version()
            if version:
                rows.prove()  # before anything is changed
            schema.migrate(self.path, connection, version, self._key)
            rows.prove()
            rows.flows()
            paths = (f"{self.path}", f"{self.path}-wal", f"{self._owner.path}")
            self._files = {path: inode(path) for path in paths}
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise schema.failed(self.path, error) from error
            raise
        self._rows: Rows = rows
        with contextlib.suppress(OSError):  # there is no space; SQLite will say so, when it needs some
            _make_room(paths[1])

    def _prove_in_place(self) -> None:
        """Raises when what was written is in files that nobody will find again."""
        for path, known in self._files.items():
            try:
                same = inode(path) == known
            except OSError:
                same = False
            if not same:
                self._gone = (
                    f"the journal {self.path} was deleted or replaced while in use: "
                    f"{os.path.basename(path)} is another file. Restart the kernel to begin a new one."
                )
                raise JournalWriteError(self._gone)

    def _find(self, flow_id: str) -> Flow | None:
        return next((flow for flow in reversed(self._now().flows()) if flow.id == flow_id), None)

    def _begin(self, flow_id: str, event: Event) -> Flow:
        rows = self._now()
        last = self._find(flow_id)
        number = rows.select("flows", "SELECT coalesce(max(flow), 0) + 1 FROM flows")[0][0]
        generation = 1 if last is None else last.generation + 1
        started = event.started or clock_seconds()
        flow = Flow(number, flow_id, generation, event.name, event.code, event.label, "running", 1, started, None, 1)
        self._put(flow)
        self._append(number, event)
        self._running.add(number)
        return flow

    def _finish(self, number: int, event: Event) -> Flow:
        flow = self._now().flow(number)
        self._append(number, event)
        self._running.discard(number)
        return self._rewrite(flow._replace(status=event.status, finished=event.finished or clock_seconds(), kernels=0))

    def _resume(self, number: int) -> Flow:
        flow = self._now().flow(number)
        kernels = flow.kernels + (number not in self._running)  # in the same kernel it is counted once
        self._running.add(number)
        return self._rewrite(flow._replace(status="running", finished=None, kernels=kernels))

    def _give_back(self, flow: Flow) -> None:
        self._running.discard(flow.flow)
        self._rewrite(flow)

    def _leave(self) -> None:
        """This kernel ends in good order: what it runs was not what killed it."""
        for number in self._running:
            with contextlib.suppress(JournalDamagedError):
                flow = self._now().flow(number)
                if flow.status == "running":
                    self._rewrite(flow._replace(kernels=max(0, flow.kernels - 1)))

    def _rewrite(self, flow: Flow) -> Flow:
        """Changes a flow's row, which then vouches for all events that there are."""
        flow = flow._replace(events=self._head(flow.flow)[0])
        self._put(flow)
        return flow

    def _put(self, flow: Flow) -> None:
        rows = self._now()
        sql = f"INSERT OR REPLACE INTO flows VALUES ({', '.join('?' * (len(flow) + 1))})"
        rows.connection.execute(sql, (*flow, rows.flow_seal(flow)))

    def _append(self, flow: int, event: Event) -> Recorded:
        rows = self._now()
        seq, before = self._head(flow)
        small = len(event.payload) <= SMALL_PAYLOAD
        recorded = Recorded(flow, seq, event, codec.digest(event.payload), before, b"", small)
        recorded = recorded._replace(mac=codec.seal(rows._key, *rows.fields(recorded)))
        values = (number_of(flow, seq), *event[:-1], recorded.digest, recorded.mac, event.payload)
        rows.connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(values))})", values)
        self._heads[flow] = seq + 1, recorded.mac
        self._logged += _FRAMES + len(event.payload)
        return recorded if small else recorded._replace(event=event._replace(payload=b""))

    def _head(self, flow: int) -> tuple[int, bytes]:
        if flow not in self._heads:
            sql = (
                "SELECT event + 1 - :start, mac FROM events WHERE event >= :start AND event < :end"
                " ORDER BY event DESC LIMIT 1"
            )
            rows = self._now().select("events", sql, span_of(flow))
            self._heads[flow] = rows[0] if rows else (0, b"")
        return self._heads[flow]


def _make_room(log: str) -> None:
    """Zeros in the log up to the next checkpoint, on the disk before anything is written over them.

    A commit into a file that doesn't grow syncs no size: on ext4 it takes two thirds of the time. SQLite takes zeros
    for the end of the log, never asks how long it is while it has it open, and leaves it as long as it is.
    """
    file = os.open(log, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        if size < CHECKPOINT_BYTES:
            os.pwrite(file, bytes(CHECKPOINT_BYTES - size), size)
            os.fsync(file)
    finally:
        os.close(file)


def _written(event: Event) -> Event:
    """The event as SQLite gives it back: texts that it can keep, which are only shown, and plain numbers."""
    if len(event.payload) > LARGEST_PAYLOAD:
        raise JournalWriteError(f"{event.name}: a value of {len(event.payload):,} bytes is too large for a journal.")
    texts = {name: text for name, text in event._asdict().items() if isinstance(text, str) and not text.isascii()}
    shown: dict[str, Any] = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in texts.items()}
    started, finished = float(event.started), float(event.finished)
    if not (math.isfinite(started) and math.isfinite(finished)):
        raise ValueError(f"{event.name}: {started} and {finished} are no times")
    return event._replace(
        **shown, started=started, finished=finished, attempts=min(int(event.attempts), _MOST_ATTEMPTS)
    )


def _refuse_id(flow_id: str) -> None:
    try:
        flow_id.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the flow id {flow_id!a} is no text that can be written: {error.reason}") from error
