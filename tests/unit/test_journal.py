"""The journal's file: what it keeps and in what order, whose it is, and what it says when it can't be used."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onix_nb.errors import (
    ExecutorError,
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalRefusedError,
    JournalValueError,
    JournalVersionError,
    JournalWriteError,
)
from onix_nb.journal import codec, schema, store
from onix_nb.journal.rows import Rows
from onix_nb.journal.store import Event, Flow, Journal, Reader, Recorded

KEY = bytes(range(32))
WAIT = 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".onix" / "nb.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path, KEY) as opened:
        yield opened


def call(n: Any, **more: Any) -> Event:
    """The event of a call that gave `n`."""
    return Event("call", f"key {n!r:.50}".encode(), name="act", status="succeeded", payload=codec.encode(n), **more)


BEGIN = Event("begin", name="flow", payload=codec.encode({"a": 1}))
END = Event("end", name="flow", status="succeeded", payload=codec.encode("outcome"))


def content(source: Journal | Reader) -> dict[tuple[str, int], list[Any]]:
    """Of each generation of a flow, what its events came to."""
    return {(flow.id, flow.generation): [source.value(one) for one in source.events(flow)] for flow in source.flows()}


def read(path: Path, key: bytes = KEY) -> dict[tuple[str, int], list[Any]]:
    with Reader(path, key) as reader:
        return content(reader)


class Points:
    """Stands for `store.at`: counts the points, and does something at one of them, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.then: dict[str, Callable[[], Any]] = {}
        monkeypatch.setattr(store, "at", self)

    def __call__(self, point: str) -> None:
        self.seen.append(point)
        if point in self.then:
            self.then.pop(point)()


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    return Points(monkeypatch)


def disk_error() -> None:
    raise sqlite3.OperationalError("disk I/O error")


# The file


def test_the_schema_is_as_told(journal: Journal, path: Path) -> None:
    plain = sqlite3.connect(path)
    columns = {
        table: [
            (name, kind, bool(needed)) for _, name, kind, needed, *_ in plain.execute(f"PRAGMA table_info({table})")
        ]
        for (table,) in plain.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    }
    assert set(columns) == {"journal", "flows", "events"}
    assert {name for name, _, _ in columns["events"]} == {"event", "digest", "mac", *Event._fields}
    assert [name for name, _, _ in columns["events"]][-1] == "payload"
    assert [name for name, _, _ in columns["flows"]] == [*Flow._fields, "mac"]
    free = [name for rows in columns.values() for name, _, needed in rows if not needed]
    assert free == ["flow", "finished", "event"]  # a primary key of its own, and what isn't known before the end
    assert plain.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION,)
    assert plain.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    plain.close()


def test_every_pragma_is_in_force(journal: Journal, path: Path) -> None:
    in_words = {"wal": "wal", "full": 2, "normal": "normal", "on": 1, "off": 0}

    def wrong(connection: sqlite3.Connection, pragmas: tuple[str, ...]) -> list[str]:
        found = []
        for pragma in pragmas:
            name, _, wanted = pragma.removeprefix("PRAGMA ").partition(" = ")
            row = connection.execute(f"PRAGMA {name}").fetchone()
            if row is not None and row[0] != in_words.get(wanted.lower(), None if wanted.isalpha() else int(wanted)):
                found.append(f"{pragma}: {row[0]}")
        return found

    def known(connection: sqlite3.Connection, pragmas: tuple[str, ...]) -> int:
        names = {name for (name,) in connection.execute("PRAGMA pragma_list")}
        return sum(pragma.split()[1] in names for pragma in pragmas)

    writer = journal._now().connection
    assert wrong(writer, schema.WRITER_PRAGMAS + schema.PRAGMAS) == []
    assert known(writer, schema.WRITER_PRAGMAS + schema.PRAGMAS) == 9
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with Reader(path, KEY) as reader:
        assert wrong(reader.connection, schema.PRAGMAS) == []
    plain = sqlite3.connect(":memory:")  # which a connection without them would be like
    assert len(wrong(plain, schema.WRITER_PRAGMAS + schema.PRAGMAS)) >= 5
    plain.close()


def test_the_files_are_only_ours(path: Path) -> None:
    before = os.umask(0)
    try:
        with Journal(path, KEY) as journal:
            journal.begin("f", BEGIN)
            modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {path.name + suffix: 0o600 for suffix in ("", "-wal", "-shm", ".lock")}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


# What is recorded


def test_a_flow_from_its_beginning_to_its_end(path: Path) -> None:
    with Journal(path, KEY) as journal:
        flow = journal.begin("nightly", BEGIN._replace(code=b"code", label="a=1", started=100.0))
        assert flow == Flow(1, "nightly", 1, "flow", b"code", "a=1", "running", 1, 100.0, None, 1)
        event = call(7, code=b"c", label="n=7", attempts=2, started=101.0, finished=102.5)
        recorded = journal.record(flow, event)
        assert (recorded.flow, recorded.seq, recorded.event) == (1, 1, event)
        journal.record(flow, Event("choice", b"k", payload=codec.encode(["aa", "bb"])))
        ended = journal.finish(flow, END._replace(finished=200.0))
        assert ended == flow._replace(status="succeeded", kernels=0, finished=200.0, events=4)
        assert journal.find("nightly") == ended
        assert journal.find("another") is None
    with Reader(path, KEY) as reader:
        assert reader.flows() == [ended]
        assert [one.event.kind for one in reader.events(ended)] == ["begin", "call", "choice", "end"]
        assert reader.events(ended)[1] == recorded
    assert read(path) == {("nightly", 1): [{"a": 1}, 7, ["aa", "bb"], "outcome"]}


def test_each_beginning_is_another_generation(path: Path) -> None:
    with Journal(path, KEY) as journal:
        for n in range(3):
            for flow_id in ("a", "b"):
                flow = journal.begin(flow_id, BEGIN)
                assert flow.generation == n + 1
                journal.record(flow, call([flow_id, n]))
    with Journal(path, KEY) as journal:
        found = journal.find("a")
        assert found is not None
        assert found.generation == 3
        assert [journal.value(one) for one in journal.events(found)] == [{"a": 1}, ["a", 2]]
        assert content(journal)["b", 1] == [{"a": 1}, ["b", 0]]


def test_kernels_are_counted_that_did_not_end_well(path: Path, points: Points) -> None:
    def kernels(journal: Journal, flow_id: str = "f") -> int:
        flow = journal.find(flow_id)
        assert flow is not None
        return flow.kernels

    def die(journal: Journal) -> None:
        """As if the process were killed, apart from the lock."""
        journal._running.clear()
        journal.close()

    journal = Journal(path, KEY)
    flow = journal.begin("f", BEGIN)
    die(journal)
    for n in range(1, 4):
        journal = Journal(path, KEY)
        assert kernels(journal) == n
        assert journal.resume(flow).kernels == n + 1
        die(journal)
    with Journal(path, KEY) as journal:
        journal.resume(flow)  # and closed: not one more
    with Journal(path, KEY) as journal:
        assert kernels(journal) == 4
        other = journal.begin("other", BEGIN)
        # A beginning and an end that were not committed change nothing of that.
        points.then["inserted"] = disk_error
        with pytest.raises(JournalWriteError):
            journal.begin("third", BEGIN)
        points.then["inserted"] = disk_error
        with pytest.raises(JournalWriteError):
            journal.finish(other, END)
        assert kernels(journal, "other") == 1
    with Journal(path, KEY) as journal:
        assert kernels(journal, "other") == 0
        assert journal.find("third") is None
        assert journal.finish(flow, END).kernels == 0


def test_a_flow_that_is_resumed_in_the_same_kernel_counts_it_once(journal: Journal, points: Points) -> None:
    """A full disk, say, has ended it; no kernel has died. A resume that was not committed counts nothing."""
    flow = journal.begin("f", BEGIN)
    assert [journal.resume(flow).kernels for _ in range(6)] == [1] * 6
    journal.finish(flow, END)
    points.then["inserted"] = disk_error
    with pytest.raises(JournalWriteError):
        journal.resume(flow)
    assert [journal.resume(flow).kernels for _ in range(2)] == [1, 1]


def test_a_damaged_flow_does_not_keep_others_from_being_left(path: Path) -> None:
    with Journal(path, KEY) as journal:
        for flow_id in ("a", "b"):
            journal.begin(flow_id, BEGIN)
        stranger = sqlite3.connect(path)
        stranger.execute("UPDATE flows SET name = 'damaged' WHERE id = 'a'")
        stranger.commit()
    assert stranger.execute("SELECT id, kernels FROM flows").fetchall() == [("a", 1), ("b", 0)]
    stranger.close()


@pytest.mark.parametrize(
    "flow_id",
    [
        "",
        "../../etc/passwd",
        "/",
        "a\0b",
        "\0",
        "🦊 e\u0301 é",
        "x" * 10_000,
        "a\nb",
        "'; DROP TABLE flows; --",
        "%s{}",
    ],
    ids=["empty", "dots", "slash", "nul inside", "nul", "emoji", "long", "newline", "sql", "format"],
)
def test_any_text_is_a_flow_id(flow_id: str, journal: Journal, path: Path) -> None:
    journal.begin(flow_id + "2", BEGIN)
    flow = journal.begin(flow_id, BEGIN)
    journal.record(flow, call(1))
    assert journal.begin(flow_id, BEGIN).generation == 2
    found = journal.find(flow_id)
    assert found is not None
    assert (found.id, found.generation) == (flow_id, 2)
    assert read(path)[flow_id, 1] == [{"a": 1}, 1]
    assert {one.name for one in path.parent.iterdir()} == {
        path.name + suffix for suffix in ("", "-wal", "-shm", ".lock")
    }


def test_half_a_character_is_no_flow_id(journal: Journal) -> None:
    for ask in (journal.find, lambda flow_id: journal.begin(flow_id, BEGIN)):
        with pytest.raises(ValueError, match="flow id"):
            ask("\ud800")
    assert journal.flows() == []


def test_odd_texts_and_numbers_are_shown_and_never_taken_for_damage(journal: Journal, path: Path) -> None:
    flow = journal.begin("f", BEGIN._replace(label="\ud800", started=5))  # an int, where a float is meant
    odd = call(1, label="\0 \ud83d", error="é\udfff", error_type="\0", attempts=2**70, started=7, finished=True)
    recorded = journal.record(flow, odd)
    assert recorded.event.error == "é\\udfff"
    for time_ in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="no times"):
            journal.record(flow, call(2, started=time_))
        with pytest.raises(ValueError, match="no times"):
            journal.begin("g", BEGIN._replace(finished=time_))
    journal.finish(flow, END._replace(finished=9))
    with Reader(path, KEY) as reader:
        (found,) = reader.flows()
        assert found.label == "\\ud800"
        assert reader.events(found)[1] == recorded
        assert content(reader) == {("f", 1): [{"a": 1}, 1, "outcome"]}


@pytest.mark.parametrize("size", [0, 1, 4094, 4095, 5000, 2_000_000])
def test_payloads_of_any_size_come_back(size: int, journal: Journal, path: Path) -> None:
    flow = journal.begin("f", BEGIN)
    value = b"\0" * size
    recorded = journal.record(flow, call(value))
    assert recorded.small == (len(codec.encode(value)) <= store.SMALL_PAYLOAD)
    assert recorded.small or journal.events(flow)[1].event.payload == b""
    assert journal.value(recorded) == value
    assert read(path)["f", 1][1] == value
    with Reader(path, KEY) as reader:
        assert reader.events(flow)[1] == recorded


def test_200_mb_are_recorded_and_come_back(journal: Journal) -> None:
    """And the next commit is small again."""
    flow = journal.begin("f", BEGIN)
    value = os.urandom(1 << 20) * 200
    recorded = journal.record(flow, call(value))
    assert recorded.event.payload == b""
    assert journal.value(recorded) == value
    assert journal.value(journal.record(flow, call(1))) == 1


def test_a_payload_that_sqlite_can_not_keep_is_refused_alone(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGEST_PAYLOAD", 1_000)
    flow = journal.begin("f", BEGIN)
    with pytest.raises(JournalWriteError, match=r"act: a value of 1,0.. bytes is too large"):
        journal.record(flow, call(b"x" * 1_000))
    journal.record(flow, call(1))
    assert content(journal) == {("f", 1): [{"a": 1}, 1]}


def test_the_clock_may_be_set_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10_000.0]
    monkeypatch.setattr(store, "clock_seconds", lambda: now[0])
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        for n in range(5):
            journal.record(flow, call(n, started=now[0], finished=now[0]))
            now[0] -= 3600
        again = journal.begin("f", BEGIN)
        assert again.started < flow.started
        assert journal.find("f") == again
        journal.finish(flow, END)
        assert content(journal)["f", 1] == [{"a": 1}, *range(5), "outcome"]
    with Journal(path, KEY) as journal:
        assert journal.find("f") == again._replace(kernels=0)
        assert [flow.generation for flow in journal.flows()] == [1, 2]


# Committing


def test_records_of_many_threads_are_gapless_and_in_order(journal: Journal, path: Path, points: Points) -> None:
    flows = [journal.begin(f"f{n}", BEGIN) for n in range(3)]
    start = threading.Barrier(12)

    def work(worker: int) -> None:
        start.wait(WAIT)
        for n in range(25):
            journal.record(flows[worker % 3], call([worker, n]))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    found = read(path)
    assert sum(map(len, found.values())) == 300 + 3
    for values in found.values():
        for worker in {one[0] for one in values[1:]}:
            assert [n for w, n in values[1:] if w == worker] == list(range(25))
    assert points.seen.count("committed") < 300 + 3  # several were committed together


def test_many_callers_are_committed_together(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives during a commit is one commit."""
    flow = journal.begin("f", BEGIN)
    taken, busy, go = [], threading.Event(), threading.Event()

    def at(point: str) -> None:
        if point == "taken":
            taken.append(point)
            busy.set()
            assert go.wait(WAIT)

    monkeypatch.setattr(store, "at", at)
    arrived = threading.Semaphore(0)
    journal.submit(flow, call(0), lambda *_: arrived.release())
    assert busy.wait(WAIT)
    for n in range(1, 50):
        journal.submit(flow, call(n), lambda *_: arrived.release())
    go.set()
    for _ in range(50):
        assert arrived.acquire(timeout=WAIT)
    assert len(taken) == 2
    assert content(journal)["f", 1] == [{"a": 1}, *range(50)]


def test_nothing_is_acknowledged_before_its_commit(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each point before the acknowledgement nobody has heard."""
    flow = journal.begin("f", BEGIN)
    heard: list[Any] = []
    seen: list[tuple[str, int]] = []
    done = threading.Event()
    monkeypatch.setattr(store, "at", lambda point: seen.append((point, len(heard))))
    journal.submit(flow, call("x"), lambda *_: (heard.append(1), done.set()))
    assert done.wait(WAIT)
    journal.flows()
    assert [point for point, count in seen if not count] == [point for point in store.POINTS if point != "acknowledged"]


def test_a_record_is_acknowledged_only_when_others_can_read_it(journal: Journal, path: Path, points: Points) -> None:
    flow = journal.begin("f", BEGIN)
    at_commit, go, seen = threading.Event(), threading.Event(), []
    points.then["inserted"] = lambda: (at_commit.set(), go.wait(WAIT))
    ended = threading.Event()

    def record() -> None:
        journal.record(flow, call(1))
        seen.append(read(path)["f", 1])
        ended.set()

    thread = threading.Thread(target=record)
    thread.start()
    assert at_commit.wait(WAIT)
    assert not ended.is_set()
    assert read(path)["f", 1] == [{"a": 1}]
    go.set()
    thread.join(WAIT)
    assert seen == [[{"a": 1}, 1]]


def test_a_commit_that_tells_too_early_would_be_caught(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: a journal that answers before the commit."""

    def early(self: Journal, job: Any) -> Any:
        result = job.work()
        job.done(result, None)
        told.set()
        assert go.wait(WAIT)
        return result, None

    go, told = threading.Event(), threading.Event()
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        monkeypatch.setattr(Journal, "_answer", early)
        journal.submit(flow, call(1), lambda result, error: None)
        assert told.wait(WAIT)
        assert read(path)["f", 1] == [{"a": 1}]
        go.set()
        monkeypatch.undo()


def test_submitted_events_are_told_of_on_the_writers_thread(journal: Journal, path: Path) -> None:
    flow = journal.begin("f", BEGIN)
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def done(result: Recorded | None, error: BaseException | None) -> None:
        told.put((result, error, threading.current_thread().name, read(path)["f", 1]))
        raise RuntimeError("a callback's failure is its own")

    for n in range(3):
        journal.submit(flow, call(n), done)
    for n in range(3):
        result, error, thread, values = told.get(timeout=WAIT)
        assert (result.seq, error, thread) == (n + 1, None, "onix-journal")
        assert n in values
    assert journal.record(flow, call(3)).seq == 4


@pytest.mark.parametrize("point", ["taken", "begun", "inserted"])
def test_a_failed_commit_is_told_to_everyone_and_leaves_nothing(
    point: str, journal: Journal, path: Path, points: Points
) -> None:
    flow = journal.begin("f", BEGIN)
    small, large = journal.record(flow, call(1)), journal.record(flow, call(b"x" * 10_000))
    at_first, go = threading.Event(), threading.Event()
    points.then["taken"] = lambda: (at_first.set(), go.wait(WAIT))
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    journal.submit(flow, call("first"), lambda result, error: told.put((result, error)))
    assert at_first.wait(WAIT)
    for n in range(5):  # these come together, after the first
        journal.submit(flow, call(n), lambda result, error: told.put((result, error)))
    points.then["acknowledged"] = lambda: points.then.update({point: disk_error})
    go.set()
    answers = [told.get(timeout=WAIT) for _ in range(6)]
    assert answers[0][1] is None
    for result, error in answers[1:]:
        assert result is None
        assert isinstance(error, JournalWriteError)
        assert str(path) in str(error)
        assert "disk I/O error" in str(error)
    # What was read before can still be used, and it goes on where it was.
    assert journal.value(small) == 1
    assert journal.value(large) == b"x" * 10_000
    assert journal.record(flow, call("after")).seq == 4
    assert read(path)["f", 1] == [{"a": 1}, 1, b"x" * 10_000, "first", "after"]


def test_a_small_value_needs_no_connection(journal: Journal, points: Points) -> None:
    recorded = journal.record(journal.begin("f", BEGIN), call(1))
    points.then["inserted"] = disk_error
    with pytest.raises(JournalWriteError):
        journal.begin("g", BEGIN)
    assert journal._broken  # nothing is open at the moment
    assert journal.value(recorded) == 1


class OnThread:
    """Says which thread has unpickled it."""

    def __init__(self, size: int) -> None:
        self.data = b"x" * size

    def __setstate__(self, state: Any) -> None:
        self.thread = threading.current_thread()


@pytest.mark.parametrize("size", [1, 10_000])
def test_values_are_unpickled_on_the_thread_that_asks(size: int, journal: Journal) -> None:
    recorded = journal.record(journal.begin("f", BEGIN), call(OnThread(size)))
    assert journal.value(recorded).thread is threading.current_thread()


def test_a_full_disk_is_told_and_then_it_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [True]

    def small_disk(*arguments: Any) -> sqlite3.Connection:
        connection = connect(*arguments)
        connection.execute(f"PRAGMA max_page_count = {60 if full[0] else 1_000_000}")
        return connection

    connect = schema.connect
    monkeypatch.setattr(schema, "connect", small_disk)
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        kept: list[Any] = []
        with pytest.raises(JournalWriteError, match="full"):
            for n in range(100):
                journal.record(flow, call([n, "x" * 10_000]))
                kept.append([n, "x" * 10_000])
        assert 5 < len(kept) < 100
        assert read(path)["f", 1] == [{"a": 1}, *kept]
        with pytest.raises(JournalWriteError, match="full"):
            journal.record(flow, call("x" * 100_000))
        full[0] = False
        with contextlib.suppress(JournalWriteError):  # the connection opened with the small disk
            journal.record(flow, call("x" * 100_000))
        journal.record(flow, call("after"))
        assert read(path)["f", 1][: len(kept) + 1] == [{"a": 1}, *kept]
        assert read(path)["f", 1][-1] == "after"


def test_a_strangers_lock_is_told_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert schema.BUSY_SECONDS < 5
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalWriteError, match="locked"):
            journal.record(flow, call(1))
        stranger.execute("ROLLBACK")
        stranger.close()
        assert journal.record(flow, call(2)).seq == 1


def test_an_interrupt_ends_the_waiting_and_not_the_recording(journal: Journal, path: Path, points: Points) -> None:
    flow = journal.begin("f", BEGIN)
    interrupted = threading.Event()

    def once(*_: Any) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        # Again and again: a signal may come a moment before the main thread waits.
        while not interrupted.wait(0.02):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert ended.wait(WAIT)

    ended = threading.Event()
    points.then["begun"] = interrupt
    before = signal.signal(signal.SIGINT, once)
    try:
        with pytest.raises(KeyboardInterrupt):
            journal.record(flow, call(1))
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)
    assert journal.record(flow, call(2)).seq == 2
    assert read(path)["f", 1] == [{"a": 1}, 1, 2]


def test_the_log_has_room_for_what_comes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits don't make it grow, neither before the first checkpoint nor after it."""
    log = path.with_name(path.name + "-wal")
    monkeypatch.setattr(store, "CHECKPOINT_BYTES", 1 << 18)
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        sizes, written = set(), path.stat().st_size
        for n in range(300):
            journal.record(flow, call(n))
            journal.flows()  # the checkpoint is over that may follow a commit
            sizes.add(log.stat().st_size)
        assert path.stat().st_size > written, "no checkpoint"
        assert max(sizes) < 2 << 18
        assert len(sizes) < 10
    monkeypatch.setattr(store, "_make_room", lambda log: None)  # the control
    with Journal(path, KEY) as journal:
        sizes = set()
        for n in range(20):
            journal.record(flow, call(n))
            sizes.add(log.stat().st_size)
        assert len(sizes) == 20


def test_closing_commits_what_was_submitted(path: Path) -> None:
    journal = Journal(path, KEY)
    flow = journal.begin("f", BEGIN)
    for n in range(200):
        journal.submit(flow, call(n), lambda result, error: None)
    journal.close()
    journal.close()
    assert not path.with_name(path.name + "-wal").exists()
    assert read(path)["f", 1] == [{"a": 1}, *range(200)]
    with pytest.raises(JournalError, match="closed"):
        journal.record(flow, call(1))


# Readers


def test_readers_see_a_gapless_prefix_while_it_is_written(journal: Journal, path: Path) -> None:
    stop, failures = threading.Event(), []
    lengths: list[list[int]] = [[], []]

    def look(mine: list[int]) -> None:
        with Reader(path, KEY) as reader:
            while not stop.is_set():
                try:
                    found = [len(reader.events(flow)) for flow in reader.flows()]
                    if reader.flows():
                        flow = reader.flows()[0]
                        values = [reader.value(one) for one in reader.events(flow)]
                        assert values[:101] == [{"a": 1}, *range(len(values) - 1)][:101]
                    mine.append(sum(found))
                except Exception as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=look, args=(mine,)) for mine in lengths]
    for thread in threads:
        thread.start()
    flow = journal.begin("f", BEGIN)
    for n in range(100):
        journal.record(flow, call(n))
        if n % 5 == 0:
            journal.finish(journal.begin(f"g{n}", BEGIN), END)
    journal.finish(flow, END)
    stop.set()
    for thread in threads:
        thread.join(WAIT)
    assert failures == []
    assert all(mine == sorted(mine) for mine in lengths)
    assert read(path)["f", 1] == [{"a": 1}, *range(100), "outcome"]


@pytest.mark.parametrize("moment", ["FROM events WHERE", "SELECT flow FROM flows", "count(*)"])
def test_a_reader_sees_one_moment(moment: str, journal: Journal, path: Path) -> None:
    """While it reads a flow, at the worst moments, that flow ends and another begins."""
    flow = journal.begin("f", BEGIN)
    written = []

    def write(statement: str) -> None:
        if moment in statement and not written:
            written.append(statement)
            journal.finish(journal.begin("g", BEGIN), END)
            journal.finish(flow, END)

    with Reader(path, KEY) as reader:
        reader.connection.set_trace_callback(write)
        assert [one.event.kind for one in reader.events(flow)] == ["begin"]
        assert len(written) == 1
        assert [one.event.kind for one in reader.events(flow)] == ["begin", "end"]


def test_a_reader_of_several_moments_would_be_caught(
    path: Path, monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    monkeypatch.setattr(Reader, "events", Rows.events)
    with pytest.raises((JournalDamagedError, AssertionError)):
        test_a_reader_sees_one_moment("FROM events WHERE", journal, path)


def test_a_reader_can_not_write(journal: Journal, path: Path) -> None:
    with Reader(path, KEY) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.connection.execute("DELETE FROM events")


def test_an_old_record_of_a_flow_reads_what_has_come_since(journal: Journal, path: Path) -> None:
    flow = journal.begin("f", BEGIN)
    with Reader(path, KEY) as reader:
        (old,) = reader.flows()
        journal.finish(flow, END)
        assert [one.event.kind for one in reader.events(old)] == ["begin", "end"]
    assert len(journal.events(flow)) == 2


OWNER = """
    import sys
    from onix_nb.journal import codec
    from onix_nb.journal.store import Event, Journal

    journal = Journal(sys.argv[1], bytes(range(32)))
    flow = journal.begin("f", Event("begin", name="flow", payload=codec.encode({"a": 1})))
    for n in range(int(sys.argv[2])):
        journal.record(flow, Event("call", b"%d" % n, payload=codec.encode(n)))
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def owner(script: Callable[[str], Any], path: Path, records: int = 3) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the journal."""
    source = script(OWNER)
    process = subprocess.Popen(
        [sys.executable, str(source.path), str(path), str(records)],
        env=source.environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.parent.iterdir() if not one.name.endswith("-shm")}


@pytest.mark.parametrize("alive", [True, False])
def test_readers_never_checkpoint(alive: bool, path: Path, script: Callable[[str], Any]) -> None:
    with owner(script, path, 20) as process:
        if not alive:
            process.kill()
            process.wait()
        before = files(path)
        assert len(before[path.name + "-wal"]) > 20_000
        for _ in range(3):
            assert read(path)["f", 1] == [{"a": 1}, *range(20)]
        assert files(path) == before
        # A connection that may write would, when it is the last to go.
        if not alive:
            plain = sqlite3.connect(path)
            plain.execute("SELECT count(*) FROM events").fetchall()
            plain.close()
            assert files(path) != before


def test_a_reader_of_nothing_is_told_so(path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        Reader(path, KEY)
    path.parent.mkdir(mode=0o700)
    with pytest.raises(JournalError, match="no journal"):
        Reader(path, KEY)
    for leftover in (path, path.with_name(path.name + "-journal")):  # of a kernel that died while it made a journal
        leftover.touch(mode=0o600)
        with pytest.raises(JournalError, match="nothing in it yet"):
            Reader(path, KEY)
    assert path.stat().st_size == 0
    with Journal(path, KEY), Reader(path, KEY) as reader:
        assert reader.flows() == []


def test_a_closed_journal_is_read(path: Path) -> None:
    with Journal(path, KEY) as journal:
        journal.record(journal.begin("f", BEGIN), call(1))
    before = files(path)
    assert read(path)["f", 1] == [{"a": 1}, 1]
    assert {name: data for name, data in files(path).items() if not name.endswith("-wal")} == before


# Versions


def newer(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """As if this were the next version of onix_nb."""
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, statements))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)


def test_an_older_journal_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(path, KEY) as journal:
        journal.record(journal.begin("f", BEGIN), call(1))
    newer(monkeypatch, "CREATE TABLE more (a)", "CREATE INDEX further ON events (kind)")
    assert read(path)["f", 1] == [{"a": 1}, 1]  # also before
    with Journal(path, KEY) as journal:
        assert content(journal)["f", 1] == [{"a": 1}, 1]
        assert journal._now().version() == 2


def test_a_newer_journal_is_refused_and_stays_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        newer(later, "CREATE TABLE more (a)")
        with Journal(path, KEY) as journal:
            journal.begin("f", BEGIN)
    before = files(path)[path.name]
    for attempt in (Journal, Reader, Journal):
        with pytest.raises(JournalVersionError, match="version 2, and this onix_nb knows 1") as refused:
            attempt(path, KEY)
        assert str(path) in str(refused.value)
    assert files(path)[path.name] == before
    with monkeypatch.context() as later:
        newer(later, "CREATE TABLE more (a)")
        assert read(path) == {("f", 1): [{"a": 1}]}


def test_a_migration_that_fails_leaves_the_journal_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(path, KEY) as journal:
        journal.begin("f", BEGIN)
    with monkeypatch.context() as later:
        newer(later, "CREATE TABLE more (a)", "CREATE TABLE more (a)")
        with pytest.raises(JournalWriteError, match="already exists"):
            Journal(path, KEY)
    with Journal(path, KEY) as journal:
        assert journal._now().version() == 1
        assert content(journal) == {("f", 1): [{"a": 1}]}


# What is no journal of ours


def other_database(path: Path) -> None:
    plain = sqlite3.connect(path)
    plain.execute("CREATE TABLE songs (name)")
    plain.execute("PRAGMA application_id = 7")
    plain.commit()
    plain.close()


def headless(path: Path) -> None:
    plain = sqlite3.connect(path)
    plain.execute(f"PRAGMA application_id = {schema.APPLICATION}")
    plain.execute("PRAGMA user_version = 1")
    plain.commit()
    plain.close()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda path: path.mkdir(), JournalRefusedError, "is not a file"),
        (os.mkfifo, JournalRefusedError, "is not a file"),
        (lambda path: path.write_text("dear diary\n" * 100), JournalDamagedError, "file is not a database"),
        (lambda path: path.write_bytes(b"\0" * 8192), JournalDamagedError, "file is not a database"),
        (other_database, JournalDamagedError, "no journal of onix"),
        (headless, JournalDamagedError, "no such table"),
    ],
    ids=["folder", "fifo", "text", "zeros", "database", "headless"],
)
def test_what_is_no_journal_is_refused_and_stays(
    make: Callable[[Path], Any], error: type[Exception], says: str, path: Path
) -> None:
    path.parent.mkdir(mode=0o700)
    make(path)
    os.chmod(path, 0o700 if path.is_dir() else 0o600)
    before = path.read_bytes() if path.is_file() else None
    for attempt in (Journal, Reader, Journal):
        with pytest.raises(error, match=says) as refused:
            attempt(path, KEY)
        assert str(path) in str(refused.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    with Journal(path, KEY) as journal:
        journal.begin("f", BEGIN)
    assert read(path) == {("f", 1): [{"a": 1}]}


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_journal_is_refused(what: str, path: Path) -> None:
    Journal(path, KEY).close()
    read_only = path if what == "file" else path.parent
    read_only.chmod(0o400 if what == "file" else 0o500)
    try:
        with pytest.raises(JournalRefusedError, match=f"{read_only} is read-only"):
            Journal(path, KEY)
        with Reader(path, KEY) as reader:
            assert reader.flows() == []
    finally:
        path.parent.chmod(0o700)


def test_a_read_only_working_directory_is_a_typed_error(script: Callable[[str], Any]) -> None:
    out = script(
        """
        import os, tempfile
        from onix_nb.errors import JournalError, JournalWriteError
        from onix_nb.journal.store import Journal, Reader

        folder = tempfile.mkdtemp()
        os.chmod(folder, 0o555)
        if os.geteuid() == 0:  # to whom nothing is read-only
            os.setegid(65534)
            os.seteuid(65534)
        os.chdir(folder)
        for attempt in (Journal, Journal):
            try:
                attempt(".onix/nb.sqlite", bytes(32))
            except JournalWriteError as error:
                print(str(error).replace(folder, "HERE"))
        if os.getuid() == 0:
            os.seteuid(0)
        os.rmdir(folder)
        """
    ).passes()
    assert out == "the journal HERE/.onix could not be made: [Errno 13] Permission denied: 'HERE/.onix'.\n" * 2


@pytest.mark.parametrize(
    ("where", "says"),
    [("file/.onix/a", "could not be made"), ("no/such/.onix/a", "could not be made"), ("x" * 300, "could not be")],
)
def test_a_place_that_can_not_be_is_a_typed_error(where: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tmp_path.chmod(0o700)
    with pytest.raises(JournalWriteError, match=says):
        Journal(tmp_path / where, KEY)
    with pytest.raises(JournalError):
        Reader(tmp_path / where, KEY)


# Deleted and replaced


def test_a_deleted_wal_is_noticed_and_nothing_is_lost(path: Path) -> None:
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        journal.record(flow, call(1))
        path.with_name(path.name + "-wal").unlink()
        with pytest.raises(JournalWriteError, match="-wal is another file"):
            journal.record(flow, call(2))
    assert read(path)["f", 1][:2] == [{"a": 1}, 1]


def test_a_journal_without_the_check_would_lose_what_it_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "_prove_in_place", lambda self: None)
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        path.unlink()
        journal.record(flow, call(1))
    assert not path.exists()


def test_the_journal_of_another_in_our_place_is_left_alone(path: Path) -> None:
    """Someone moves the folder away, and another kernel begins a new one."""
    first = Journal(path, KEY)
    first.record(first.begin("f", BEGIN), call(1))
    path.parent.rename(path.parent.with_name("old"))
    with Journal(path, KEY) as second:
        flow = second.begin("g", BEGIN)
        second.record(flow, call(2))
        with pytest.raises(JournalWriteError, match="deleted or replaced"):
            first.begin("h", BEGIN)
        first.close()
        second.record(flow, call(3))
        with pytest.raises(JournalBusyError):
            Journal(path, KEY)
        assert read(path) == {("g", 1): [{"a": 1}, 2, 3]}
    assert read(path) == {("g", 1): [{"a": 1}, 2, 3]}
    assert read(path.parent.with_name("old") / path.name)["f", 1] == [{"a": 1}, 1]


# The owner


@pytest.mark.parametrize("signed", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff\xfe", b'{"pid": 1e400}'])
def test_a_signature_that_can_not_be_read_is_no_obstacle(
    signed: bytes, path: Path, script: Callable[[str], Any]
) -> None:
    with owner(script, path, 0):
        path.with_name(path.name + ".lock").write_bytes(signed)
        with pytest.raises(JournalBusyError, match="belongs to another process"):
            Journal(path, KEY)


def test_what_could_not_be_opened_is_free_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(path, KEY) as journal:
        journal.begin("f", BEGIN)
    for _ in range(2):
        with pytest.raises(JournalDamagedError, match="another key"):
            Journal(path, bytes(32))
    with Journal(path, KEY) as journal:
        assert content(journal) == {("f", 1): [{"a": 1}]}


forking = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


# Forks


@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)"])
def test_a_forked_child_does_not_touch_it(leave: str, path: Path, script: Callable[[str], Any]) -> None:
    out = script(
        f"""
        import os, sys, warnings
        from onix_nb.errors import ExecutorError, JournalBusyError
        from onix_nb.journal import codec
        from onix_nb.journal.store import Event, Journal, Reader

        warnings.simplefilter("ignore", DeprecationWarning)
        path, key = sys.argv[1], bytes(range(32))
        journal = Journal(path, key)
        flow = journal.begin("f", Event("begin", payload=codec.encode(0)))
        # Held by a thread that the child doesn't have.
        journal._closing.acquire()
        child = os.fork()
        if not child:
            for ask in (lambda: journal.record(flow, Event("call")), journal.flows, lambda: journal.find("f")):
                try:
                    ask()
                except ExecutorError as error:
                    print(error)
            journal.close()
            try:
                Journal(path, key)
            except JournalBusyError as error:
                print(f"process {{os.getppid()}} " in str(error))
            sys.stdout.flush()
            {leave}
        journal._closing.release()
        assert os.waitpid(child, 0)[1] == 0
        print([journal.record(flow, Event("call", payload=codec.encode(n))).seq for n in range(3)])
        for suffix in ("", "-wal", ".lock"):
            assert os.path.exists(path + suffix), suffix
        child = os.fork()
        if not child:
            try:
                Journal(path, key)
            except JournalBusyError as error:
                print("still ours", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        with Reader(path, key) as reader:
            print([reader.value(one) for one in reader.events(reader.flows()[0])])
        """
    ).passes(str(path))
    assert out.splitlines() == [
        *["a forked process can't use its parent's journal"] * 3,
        "True",
        "[1, 2, 3]",
        "still ours",
        "[0, 0, 1, 2]",
    ]
    assert read(path)["f", 1] == [0, 0, 1, 2]


@forking
def test_a_child_takes_over_from_its_dead_parent(path: Path, script: Callable[[str], Any]) -> None:
    out = script(
        """
        import os, sys, warnings
        from onix_nb.journal import codec
        from onix_nb.journal.store import Event, Journal

        warnings.simplefilter("ignore", DeprecationWarning)
        path, key = sys.argv[1], bytes(range(32))
        dead, alive = os.pipe()
        told, tell = os.pipe()
        if not os.fork():  # the one that will own it, and die
            os.close(told)
            journal = Journal(path, key)
            flow = journal.begin("f", Event("begin", payload=codec.encode(0)))
            if not os.fork():  # its child, which has a copy of everything
                os.close(alive)
                os.read(dead, 1)
                with Journal(path, key) as mine:
                    mine.record(mine.find("f"), Event("call", payload=codec.encode(1)))
                os.write(tell, b"done")
                os._exit(0)
            os._exit(1)
        os.close(alive)
        os.close(tell)
        print(os.read(told, 4))
        """
    ).passes(str(path))
    assert out == "b'done'\n"
    assert read(path)["f", 1] == [0, 1]


def test_errors_of_values_are_typed(journal: Journal) -> None:
    flow = journal.begin("f", BEGIN)
    recorded = journal.record(flow, Event("call", payload=codec.encode(OnThread(1)).replace(b"OnThread", b"OnThreat")))
    with pytest.raises(JournalValueError, match="OnThreat"):
        journal.value(recorded)
    assert len(journal.events(flow)) == 2


def test_a_forked_journal_is_an_executor_error(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: ours + 1)
    with pytest.raises(ExecutorError):
        journal.flows()
    monkeypatch.undo()
    assert journal.flows() == []
