"""The journal's file: what is recorded is there, in order, for its owner and for readers."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from onix_nb.errors import ExecutorError, JournalError, JournalValueError, JournalVersionError
from onix_nb.journal import codec, store
from onix_nb.journal.store import Event, Flow, Journal, Reader

KEY = bytes(range(32))


def call(value: Any, name: str = "fetch") -> Event:
    key = codec.digest(codec.encode(value))
    return Event("call", key=key, name=name, status="succeeded", attempts=1, payload=codec.encode(value))


BEGIN = Event("begin", name="nightly", code=b"code", label="day=1", payload=codec.encode({"day": 1}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".onix" / "notebook.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path, KEY) as journal:
        yield journal


def values(journal: Journal | Reader, flow: Flow) -> list[Any]:
    return [journal.value(recorded) for recorded in journal.events(flow)]


def test_what_is_recorded_is_there_after_a_restart(path: Path) -> None:
    """In order, with the flow's row."""
    with Journal(path, KEY) as journal:
        flow = journal.begin("nightly:1", BEGIN)
        for number in range(5):
            journal.record(flow, call(number))
        assert values(journal, flow) == [{"day": 1}, 0, 1, 2, 3, 4]
    with Journal(path, KEY) as journal:
        found = journal.find("nightly:1")
        assert found == flow._replace(kernels=0, events=6)
        assert values(journal, found) == [{"day": 1}, 0, 1, 2, 3, 4]
        assert [recorded.seq for recorded in journal.events(found)] == list(range(6))
        assert journal.find("nightly:2") is None


def test_a_flow_ends_with_its_outcome_in_one_commit(journal: Journal) -> None:
    """Its row says how and when, its last event holds the outcome."""
    flow = journal.begin("f", BEGIN)
    ended = journal.finish(flow, Event("end", status="succeeded", finished=12.5, payload=codec.encode("out")))
    assert (ended.status, ended.finished, ended.kernels, ended.events) == ("succeeded", 12.5, 0, 2)
    assert journal.find("f") == ended
    assert values(journal, ended)[-1] == "out"


def test_a_fresh_start_is_another_generation(journal: Journal) -> None:
    """The older one stays, and is not found."""
    first, second = journal.begin("f", BEGIN), journal.begin("f", BEGIN)
    assert (first.generation, second.generation) == (1, 2)
    journal.record(first, call("old"))
    journal.record(second, call("new"))
    assert journal.find("f") == second
    assert values(journal, second)[-1] == "new"
    assert journal.flows() == [first, second]


def test_kernels_that_end_in_good_order_are_not_counted(path: Path) -> None:
    """`kernels` counts those that died while they ran the flow."""
    with Journal(path, KEY) as journal:
        journal.begin("f", BEGIN)
    with Journal(path, KEY) as journal:
        found = journal.find("f")
        assert found is not None
        assert found.kernels == 0
        assert journal.resume(found).kernels == 1


def test_a_flow_that_is_resumed_in_the_same_kernel_counts_it_once(journal: Journal) -> None:
    """A full disk, say, has ended it; no kernel has died."""
    flow = journal.begin("f", BEGIN)
    assert [journal.resume(flow).kernels for _ in range(6)] == [1] * 6


def test_a_callback_tells_of_the_commit(journal: Journal) -> None:
    """`submit` returns at once."""
    flow = journal.begin("f", BEGIN)
    told: list[Any] = []
    done = threading.Event()

    def hear(recorded: Any, error: BaseException | None) -> None:
        told[:] = recorded, error
        done.set()

    journal.submit(flow, call("x"), hear)
    assert done.wait(30)
    assert told[1] is None
    assert journal.value(told[0]) == "x"


def test_many_callers_are_committed_together(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives during a commit is one commit."""
    flow = journal.begin("f", BEGIN)
    taken, busy, go = [], threading.Event(), threading.Event()

    def at(point: str) -> None:
        if point == "taken":
            taken.append(point)
            busy.set()
            assert go.wait(30)

    monkeypatch.setattr(store, "at", at)
    arrived = threading.Semaphore(0)
    journal.submit(flow, call(0), lambda *_: arrived.release())
    assert busy.wait(30)
    for number in range(1, 50):
        journal.submit(flow, call(number), lambda *_: arrived.release())
    go.set()
    for _ in range(50):
        assert arrived.acquire(timeout=30)
    assert len(taken) == 2
    assert sorted(values(journal, flow)[1:]) == list(range(50))


def test_nothing_is_acknowledged_before_its_commit(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each point before the acknowledgement nobody has heard."""
    flow = journal.begin("f", BEGIN)
    heard: list[Any] = []
    seen: list[tuple[str, int]] = []
    done = threading.Event()
    monkeypatch.setattr(store, "at", lambda point: seen.append((point, len(heard))))
    journal.submit(flow, call("x"), lambda *_: (heard.append(1), done.set()))
    assert done.wait(30)
    journal.flows()
    assert [point for point, count in seen if not count] == [point for point in store.POINTS if point != "acknowledged"]


def test_large_values_are_read_when_they_are_asked_for(journal: Journal) -> None:
    """Not with the events."""
    flow = journal.begin("f", BEGIN)
    value = os.urandom(300_000)
    journal.record(flow, call(value))
    recorded = journal.events(flow)[-1]
    assert recorded.event.payload == b""
    assert journal.value(recorded) == value


def test_a_reader_sees_what_is_committed_and_writes_nothing(journal: Journal, path: Path) -> None:
    """While the owner works, and it never checkpoints: the file stays as it is."""
    flow = journal.begin("f", BEGIN)
    journal.record(flow, call(1))
    before = path.stat().st_mtime_ns, path.stat().st_size
    with Reader(path, KEY) as reader:
        assert values(reader, reader.flows()[0]) == [{"day": 1}, 1]
        journal.record(flow, call(2))
        assert values(reader, reader.flows()[0]) == [{"day": 1}, 1, 2]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._connection.execute("DELETE FROM events")
    assert (path.stat().st_mtime_ns, path.stat().st_size) == before


def test_a_reader_opens_what_nobody_owns(path: Path) -> None:
    """After the owner has gone in good order."""
    with Journal(path, KEY) as journal:
        journal.record(journal.begin("f", BEGIN), call(1))
    with Reader(path, KEY) as reader:
        assert values(reader, reader.flows()[0]) == [{"day": 1}, 1]


def test_there_is_nothing_to_read_where_no_journal_is(path: Path) -> None:
    """And none is made."""
    with pytest.raises(JournalError, match="no journal"):
        Reader(path, KEY)
    assert not path.parent.exists()


def test_there_is_nothing_to_read_where_a_kernel_died_while_it_made_a_journal(path: Path) -> None:
    """Neither before its tables are there, nor in the middle of them; the next kernel makes it."""
    path.parent.mkdir(mode=0o700)
    for leftover in (path, path.with_name(path.name + "-journal")):
        leftover.touch(0o600)
        with pytest.raises(JournalError, match="or nothing in it yet"):
            Reader(path, KEY)
    with Journal(path, KEY), Reader(path, KEY) as reader:
        assert reader.flows() == []


def test_the_log_has_room_for_what_comes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits don't make it grow; after each checkpoint it is made anew."""
    log = path.with_name(path.name + "-wal")
    monkeypatch.setattr(store, "CHECKPOINT_BYTES", 1 << 18)
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        sizes, written = set(), path.stat().st_size
        for number in range(300):
            journal.record(flow, call(number))
            journal.flows()  # the checkpoint is over that may follow a commit
            sizes.add(log.stat().st_size)
        assert path.stat().st_size > written, "no checkpoint"
        assert max(sizes) < 2 << 18
        assert len(sizes) < 10


def test_only_the_user_can_use_the_files(journal: Journal, path: Path) -> None:
    """0700 and 0600, whatever the umask is."""
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == dict.fromkeys(
        ("notebook.sqlite", "notebook.sqlite-wal", "notebook.sqlite-shm", "notebook.sqlite.lock"), 384
    )


def test_the_settings_are_those_that_keep_what_is_committed(journal: Journal) -> None:
    """Read back from SQLite."""
    connection = journal._rows._connection

    def pragma(name: str) -> Any:
        return journal._ask(lambda: connection.execute(f"PRAGMA {name}").fetchone()[0])

    assert pragma("journal_mode") == "wal"
    assert pragma("synchronous") == 2
    assert pragma("locking_mode") == "normal"
    assert pragma("mmap_size") == 0
    assert pragma("trusted_schema") == 0
    assert pragma("application_id") == store.APPLICATION
    assert pragma("user_version") == store.VERSION


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    """The message says which versions."""
    Journal(path, KEY).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {store.VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    for opener in (Journal, Reader):
        with pytest.raises(JournalVersionError, match=f"version {store.VERSION + 1}"):
            opener(path, KEY)
    assert path.read_bytes() == before


def test_an_older_schema_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step once, and what was recorded stays."""
    with Journal(path, KEY) as journal:
        journal.record(journal.begin("f", BEGIN), call(1))
    step = ("CREATE TABLE later (x)", "INSERT INTO later VALUES (7)")
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, step))
    monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    for _ in range(2):
        with Journal(path, KEY) as journal:
            assert journal._ask(lambda j=journal: j._rows.version()) == store.VERSION
            assert journal._ask(lambda j=journal: j._rows._select("later", "SELECT x FROM later")) == [(7,)]
            assert values(journal, journal.flows()[0]) == [{"day": 1}, 1]


def test_a_forked_child_cannot_use_it_and_leaves_it_alone(journal: Journal) -> None:
    """Neither by a call nor by its own end; the parent goes on."""
    flow = journal.begin("f", BEGIN)
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (journal.flows, lambda: journal.record(flow, call("child")), lambda: journal.begin("g", BEGIN)):
            try:
                use()
            except ExecutorError:
                refused += 1
        journal.close()
        journal._rows._connection.close()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    journal.record(flow, call("parent"))
    assert values(journal, flow) == [{"day": 1}, "parent"]


def test_a_closed_journal_says_so(path: Path) -> None:
    """And closing twice does nothing."""
    journal = Journal(path, KEY)
    flow = journal.begin("f", BEGIN)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.record(flow, call(1))


def test_closing_commits_what_was_submitted(path: Path) -> None:
    """Whoever waits hears of it."""
    journal = Journal(path, KEY)
    flow = journal.begin("f", BEGIN)
    heard: list[Any] = []
    for number in range(20):
        journal.submit(flow, call(number), lambda recorded, error: heard.append(error))
    journal.close()
    assert heard == [None] * 20
    with Reader(path, KEY) as reader:
        assert values(reader, reader.flows()[0]) == [{"day": 1}, *range(20)]


def test_many_threads_record_at_once(journal: Journal) -> None:
    """Without gaps, and each gets its own."""
    flow = journal.begin("f", BEGIN)
    with ThreadPoolExecutor(8) as pool:
        recorded = list(pool.map(lambda number: journal.record(flow, call(number)), range(400)))
    assert [journal.value(one) for one in recorded] == list(range(400))
    assert sorted(one.seq for one in recorded) == list(range(1, 401))
    assert sorted(values(journal, flow)[1:]) == list(range(400))


# Bad input


@pytest.mark.parametrize(
    "flow_id",
    ["../../etc/passwd", "a\0b", "", "🦊", "x" * 10_000, "a'; DROP TABLE flows; --", "a\nb", "%s?#&"],
    ids=ascii,
)
def test_a_flow_id_is_a_text_and_never_a_path(journal: Journal, path: Path, flow_id: str) -> None:
    """It comes back as it is, and no file has its name."""
    before = sorted(path.parent.parent.rglob("*"))
    flow = journal.begin(flow_id, BEGIN)
    assert journal.find(flow_id) == flow
    assert flow.id == flow_id
    assert journal.events(flow)
    assert sorted(path.parent.parent.rglob("*")) == before


def test_a_flow_id_that_is_no_text_is_refused(journal: Journal) -> None:
    """Half a character can't be written."""
    with pytest.raises(ValueError, match="flow id"):
        journal.begin("\ud800", BEGIN)


def test_texts_that_are_only_shown_are_made_writable(journal: Journal) -> None:
    """Half a character becomes its escape, and the row proves."""
    flow = journal.begin("f", BEGIN._replace(label="\ud800 é"))
    assert flow.label == "\\ud800 é"
    assert journal.events(flow)[0].event.label == "\\ud800 é"


def test_200_mb_are_recorded_and_come_back(journal: Journal, path: Path) -> None:
    """And the next commit is small again."""
    flow = journal.begin("f", BEGIN)
    value = os.urandom(1 << 20) * 200
    recorded = journal.record(flow, call(value))
    assert recorded.event.payload == b""
    assert journal.value(recorded) == value
    journal.record(flow, call(1))
    assert values(journal, flow)[-1] == 1


def test_a_value_beyond_what_sqlite_takes_is_refused(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a typed error, before it is written."""
    monkeypatch.setattr(store, "LARGEST_PAYLOAD", 1000)
    flow = journal.begin("f", BEGIN)
    with pytest.raises(JournalError, match="too large"):
        journal.record(flow, call("x" * 2000))
    assert values(journal, flow) == [{"day": 1}]


def test_a_clock_that_is_set_back_changes_no_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are only shown, and the owner's lock knows none."""
    now = time.time()
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN._replace(started=now))
        journal.record(flow, call(1)._replace(started=now, finished=now))
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    with Journal(path, KEY) as journal:
        flow = journal.flows()[0]
        journal.record(flow, call(2)._replace(started=now - 3600, finished=now - 3600))
        assert values(journal, flow) == [{"day": 1}, 1, 2]
        assert journal.finish(flow, Event("end", status="succeeded")).finished == now - 3600


def test_a_result_that_does_not_unpickle_leaves_the_others_readable(journal: Journal) -> None:
    """It is authentic, so that it is no damage."""
    flow = journal.begin("f", BEGIN)
    broken = codec._PICKLE + b"cno_such_module\nthing\n."
    recorded = journal.record(flow, call(1)._replace(payload=broken))
    with pytest.raises(JournalValueError):
        journal.value(recorded)
    assert journal.value(journal.record(flow, call(2))) == 2
