"""Journals that somebody else made or changed: nothing of theirs is unpickled."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from onix_nb.errors import JournalDamagedError, JournalError, JournalRefusedError
from onix_nb.journal import codec, store
from onix_nb.journal.store import Event, Journal, Reader

from .child import BEGIN, KEY, call, value_of

EVIL = codec._PICKLE + pickle.dumps(("evil", 1), protocol=5)


def write(path: Path, key: bytes = KEY) -> None:
    """Two generations of one flow and another flow, each with three calls; the last one has ended."""
    with Journal(path, key) as journal:
        for number, flow_id in enumerate(("f", "f", "g")):
            flow = journal.begin(flow_id, BEGIN)
            for place in range(3):
                journal.record(flow, call(number, place))
        journal.finish(flow, Event("end", status="succeeded", payload=codec.encode(("outcome", 1))))


@pytest.fixture
def written(path: Path) -> Path:
    write(path)
    return path


@pytest.fixture
def unpickled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the one function that unpickles was given."""
    seen: list[bytes] = []
    real = codec._unpickled
    monkeypatch.setattr(codec, "_unpickled", lambda data: (seen.append(data), real(data))[1])
    return seen


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def read_all(path: Path) -> list[str]:
    """Reads every value that can be had, as the owner and as a reader; what the errors say."""
    said = []
    for opener in (Journal, Reader):
        with opener(path, KEY) as journal:
            for flow in journal.flows():
                try:
                    events = journal.events(flow)
                except JournalDamagedError as error:
                    said.append(str(error))
                    continue
                for recorded in events:
                    try:
                        value = journal.value(recorded)
                    except JournalDamagedError as error:
                        said.append(str(error))
                    else:
                        assert value in (("arguments", 1), ("outcome", 1)) or value == value_of(*value[:2])
                        assert value[0] in ("arguments", "outcome", flow.flow - 1), "of another flow"
                        assert value[0] in ("arguments", "outcome") or value[1] == recorded.seq - 1, "of another call"
    return said


def swap(table: str, column: str, one: str, other: str) -> tuple[str, ...]:
    """Statements that swap a column of two rows."""
    return (
        f"CREATE TEMP TABLE kept AS SELECT {column} AS x FROM {table} WHERE {one}",
        f"UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE {other}) WHERE {one}",
        f"UPDATE {table} SET {column} = (SELECT x FROM kept) WHERE {other}",
    )


def row(flow: int, seq: int) -> str:
    return f"flow = {flow} AND seq = {seq}"


def copied(source: str, flow: int, seq: int) -> tuple[str, ...]:
    """Statements that put a copy of a row in the place of another."""
    columns = ", ".join((*Event._fields[:-1], "digest", "mac", "payload"))
    return (
        f"CREATE TEMP TABLE kept AS SELECT {columns} FROM events WHERE {source}",
        f"DELETE FROM events WHERE {row(flow, seq)}",
        f"INSERT INTO events (flow, seq, {columns}) SELECT {flow}, {seq}, {columns} FROM kept",
    )


REST = ", ".join((*Event._fields[:-1], "digest", "mac", "payload"))
EDITS: dict[str, tuple[str, ...]] = {
    "edited payload": (f"UPDATE events SET payload = x'{EVIL.hex()}' WHERE {row(1, 2)}",),
    "edited payload and digest": (
        f"UPDATE events SET payload = x'{EVIL.hex()}', digest = x'{codec.digest(EVIL).hex()}' WHERE {row(1, 2)}",
    ),
    "edited status": (f"UPDATE events SET status = 'failed' WHERE {row(1, 2)}",),
    "swapped payloads": swap("events", "payload", row(1, 1), row(1, 2)),
    "swapped rows": (
        f"UPDATE events SET seq = 99 WHERE {row(1, 1)}",
        f"UPDATE events SET seq = 1 WHERE {row(1, 2)}",
        "UPDATE events SET seq = 2 WHERE flow = 1 AND seq = 99",
    ),
    "swapped columns": (f"UPDATE events SET name = label, label = name WHERE {row(1, 2)}",),
    "row of another flow": copied(row(3, 2), 1, 2),
    "row of another generation": copied(row(1, 2), 2, 2),
    "an older row put back": copied(row(1, 1), 1, 2),
    "row left out": (f"DELETE FROM events WHERE {row(1, 2)}",),
    "outcome cut off": (f"DELETE FROM events WHERE {row(3, 4)}",),
    "row without a flow": (f"INSERT INTO events SELECT 9, 0, {REST} FROM events WHERE {row(1, 2)}",),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_row_is_named_and_not_unpickled(written: Path, unpickled: list[bytes], edit: str) -> None:
    """Rows of other flows stay readable."""
    change(written, *EDITS[edit])
    said = read_all(written)
    assert said
    assert all(str(written) in text and "of events" in text for text in said)
    assert EVIL[2:] not in unpickled


FLOW_EDITS: dict[str, tuple[str, ...]] = {
    "status": ("UPDATE flows SET status = 'succeeded' WHERE flow = 1",),
    "generation": ("UPDATE flows SET generation = 3 WHERE flow = 1",),
    "flows swapped": swap("flows", "id", "flow = 1", "flow = 3"),
    "kernels": ("UPDATE flows SET kernels = 0, started = 5 WHERE flow = 1",),
    "journal": ("UPDATE journal SET id = x'00'",),
    "no journal": ("DELETE FROM journal",),
}


@pytest.mark.parametrize("edit", FLOW_EDITS)
def test_a_changed_flow_or_head_is_named_at_the_opening(written: Path, unpickled: list[bytes], edit: str) -> None:
    """Before anything else is read."""
    change(written, *FLOW_EDITS[edit])
    before = written.read_bytes()
    with pytest.raises(JournalDamagedError, match=r"row \d of (flows|journal)"):
        Journal(written, KEY)
    assert unpickled == []
    assert written.read_bytes() == before


def test_a_row_of_another_file_is_named(written: Path, tmp_path: Path, unpickled: list[bytes]) -> None:
    """Though the same user wrote it in the same place."""
    other = tmp_path / "other" / "j.sqlite"
    write(other)
    change(written, f"ATTACH '{other}' AS other", "DELETE FROM events", "INSERT INTO events SELECT * FROM other.events")
    with Reader(written, KEY) as reader:
        for flow in reader.flows():
            with pytest.raises(JournalDamagedError, match=rf"row \({flow.flow}, 0\) of events"):
                reader.events(flow)
    assert unpickled == []


def test_a_journal_of_another_key_is_refused(path: Path, unpickled: list[bytes]) -> None:
    """Another user's, who copied it here, or one from before the key was renewed."""
    write(path, bytes(32))
    for opener in (Journal, Reader):
        with pytest.raises(JournalDamagedError, match="another key"):
            opener(path, KEY)
    assert unpickled == []


def other_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)


def open_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.chmod(0o777)


def open_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o666)


def linked(path: Path) -> None:
    moved = path.with_name("elsewhere")
    path.rename(moved) if path.exists() else moved.touch()
    path.symlink_to(moved)


UNSAFE: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "of another user": other_owner,
    "world-writable folder": open_folder,
    "world-writable file": open_file,
    "symlinked folder": lambda path, _: linked(path.parent),
    "symlinked file": lambda path, _: linked(path),
    "symlinked log": lambda path, _: linked(path.with_name(path.name + "-wal")),
    "symlinked lock": lambda path, _: linked(path.with_name(path.name + ".lock")),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_a_journal_that_is_not_safely_ours_is_refused(
    written: Path, monkeypatch: pytest.MonkeyPatch, unpickled: list[bytes], case: str
) -> None:
    """Its owner and its readers open nothing, and the message says what is wrong."""
    UNSAFE[case](written, monkeypatch)
    for opener in (Journal, Reader):
        with pytest.raises(JournalRefusedError, match="so the journal is not used"):
            opener(written, KEY)
    assert unpickled == []


def test_a_key_that_others_can_read_opens_nothing(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpickled: list[bytes]
) -> None:
    """Whoever has it could have sealed anything."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    codec.user_key()
    (tmp_path / "data" / "onix_nb" / "journal.key").chmod(0o644)
    for opener in (Journal, Reader):
        with pytest.raises(JournalRefusedError, match="others may use the key"):
            opener(written)
    assert unpickled == []


def test_what_is_untouched_is_read_and_unpickled(written: Path, unpickled: list[bytes]) -> None:
    """Control: the journal is fine, and the spy sees what is read from it."""
    assert read_all(written) == []
    assert len(unpickled) == 2 * (3 * 4 + 1)


def test_without_its_seal_a_forged_row_would_be_unpickled(
    written: Path, monkeypatch: pytest.MonkeyPatch, unpickled: list[bytes]
) -> None:
    """Control: with a key that everybody knows the same edit passes."""
    seal = codec.seal
    monkeypatch.setattr(codec, "seal", lambda key, *fields: bytes(32))
    monkeypatch.setattr(codec.hmac, "compare_digest", lambda *_: True)
    change(
        written,
        "UPDATE journal SET mac = zeroblob(32)",
        "UPDATE flows SET mac = zeroblob(32)",
        "UPDATE events SET mac = zeroblob(32)",
        *EDITS["edited payload and digest"],
    )
    with Reader(written, KEY) as reader:
        assert reader.value(reader.events(reader.flows()[0])[2]) == ("evil", 1)
    assert EVIL[2:] in unpickled
    assert seal(KEY, 1) != bytes(32)


def test_an_older_copy_of_the_whole_file_is_not_noticed(written: Path, tmp_path: Path) -> None:
    """The limit: who puts yesterday's file back gets yesterday's flow, which is what a backup is for."""
    older = tmp_path / "older"
    shutil.copy(written, older)
    with Journal(written, KEY) as journal:
        journal.record(journal.flows()[0], call(0, 3))
    shutil.copy(older, written)
    assert read_all(written) == []


# What is no journal


def make_folder(path: Path) -> None:
    path.mkdir(mode=0o700)


def make_text(path: Path) -> None:
    path.write_text("dear diary, " * 100)
    path.chmod(0o600)


def make_database(path: Path) -> None:
    change(path, "CREATE TABLE mine (x)")
    path.chmod(0o600)


def make_read_only(path: Path) -> None:
    write(path)
    path.chmod(0o400)


@pytest.mark.parametrize("make", [make_folder, make_text, make_database, make_read_only])
def test_what_is_no_journal_is_refused_and_left_alone(path: Path, make: Callable[[Path], None]) -> None:
    """A folder, a text, a database of others, a file that is read-only."""
    path.parent.mkdir(mode=0o700)
    make(path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(JournalError, match=str(path)):
        Journal(path, KEY)
    assert before is None or path.read_bytes() == before
    if make is make_read_only:
        assert read_all_as_reader(path) == 13


def read_all_as_reader(path: Path) -> int:
    with Reader(path, KEY) as reader:
        return sum(len(reader.events(flow)) for flow in reader.flows())


@pytest.fixture
def nobody() -> Callable[[Callable[[], None]], str]:
    """Runs something in a process that no root is, for which "read-only" means it; what it raised."""

    def run(work: Callable[[], None]) -> str:
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = "nothing"
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                work()
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(into, said.encode())
            os._exit(0)
        os.close(into)
        with open(out, "rb") as stream:
            said = stream.read().decode()
        os.waitpid(pid, 0)
        return said

    return run


def test_a_read_only_working_directory_is_told(
    tmp_path: Path, nobody: Callable[[Callable[[], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a typed error that names the folder."""
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents:
        if parent.owner() == tmp_path.owner() and parent != Path("/") and not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o111)
    monkeypatch.chdir(tmp_path)
    said = nobody(lambda: Journal(tmp_path / ".onix" / "j.sqlite", KEY).close())
    tmp_path.chmod(0o755)
    assert said.startswith("JournalWriteError: "), said
    assert str(tmp_path / ".onix") in said


def test_the_limits_are_those_of_the_store() -> None:
    """The points at which tests kill are named, and do nothing."""
    assert [store.at(point) for point in store.POINTS] == [None] * len(store.POINTS)
