"""Journals that somebody else made or changed: nothing of theirs is unpickled."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onix_nb.errors import JournalDamagedError, JournalRefusedError
from onix_nb.journal import codec, store
from onix_nb.journal.rows import Rows
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
    return f"event = {number(flow, seq)}"


def number(flow: int, seq: int) -> int:
    return (flow << 32) + seq


def copied(source: str, flow: int, seq: int) -> tuple[str, ...]:
    """Statements that put a copy of a row in the place of another."""
    columns = ", ".join((*Event._fields[:-1], "digest", "mac", "payload"))
    return (
        f"CREATE TEMP TABLE kept AS SELECT {columns} FROM events WHERE {source}",
        f"DELETE FROM events WHERE {row(flow, seq)}",
        f"INSERT INTO events SELECT {number(flow, seq)}, {columns} FROM kept",
    )


REST = ", ".join((*Event._fields[:-1], "digest", "mac", "payload"))
EDITS: dict[str, tuple[str, ...]] = {
    "edited payload": (f"UPDATE events SET payload = x'{EVIL.hex()}' WHERE {row(1, 2)}",),
    "edited payload and digest": (
        f"UPDATE events SET payload = x'{EVIL.hex()}', digest = x'{codec.digest(EVIL).hex()}' WHERE {row(1, 2)}",
    ),
    "edited large payload": (f"UPDATE events SET payload = x'{(EVIL + bytes(50_000)).hex()}' WHERE {row(1, 2)}",),
    "edited status": (f"UPDATE events SET status = 'failed' WHERE {row(1, 2)}",),
    "swapped payloads": swap("events", "payload", row(1, 1), row(1, 2)),
    "swapped rows": (
        f"UPDATE events SET event = 99 WHERE {row(1, 1)}",
        f"UPDATE events SET event = {number(1, 1)} WHERE {row(1, 2)}",
        f"UPDATE events SET event = {number(1, 2)} WHERE event = 99",
    ),
    "swapped columns": (f"UPDATE events SET name = label, label = name WHERE {row(1, 2)}",),
    "row of another flow": copied(row(3, 2), 1, 2),
    "row of another generation": copied(row(1, 2), 2, 2),
    "an older row put back": copied(row(1, 1), 1, 2),
    "row left out": (f"DELETE FROM events WHERE {row(1, 2)}",),
    "outcome cut off": (f"DELETE FROM events WHERE {row(3, 4)}",),
    "row without a flow": (f"INSERT INTO events SELECT {number(9, 0)}, {REST} FROM events WHERE {row(1, 2)}",),
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


def without_chain(patch: pytest.MonkeyPatch) -> None:
    """The variant whose rows don't vouch for those before them."""
    fields = Rows.fields
    patch.setattr(Rows, "fields", lambda self, recorded: fields(self, recorded._replace(before=b"")))


def put_older_row_back(path: Path) -> JournalDamagedError | None:
    """The file is put back to before a row, others are recorded in its place, and then the first one returns."""
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        journal.record(flow, call(0, 0))
    before = path.with_name("before")
    shutil.copy(path, before)
    with Journal(path, KEY) as journal:
        journal.record(flow, call(0, 9))
    older = path.with_name("older")
    shutil.copy(path, older)
    before.replace(path)
    with Journal(path, KEY) as journal:
        for place in range(1, 4):
            journal.record(flow, call(0, place))
    change(
        path,
        f"ATTACH '{older}' AS older",
        f"DELETE FROM events WHERE {row(1, 2)}",
        f"INSERT INTO events SELECT * FROM older.events WHERE {row(1, 2)}",
    )
    with Reader(path, KEY) as reader:
        try:
            [reader.value(one) for one in reader.events(reader.flows()[0])]
        except JournalDamagedError as error:
            return error
    return None


def test_an_older_row_put_back_breaks_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpickled: list[bytes]
) -> None:
    """Though the user's own key sealed it, in this file and for this place."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    error = put_older_row_back(tmp_path / "one" / ".onix" / "j.sqlite")
    assert "row (1, 3) of events" in str(error)
    assert unpickled == []
    without_chain(monkeypatch)  # the control
    assert put_older_row_back(tmp_path / "two" / ".onix" / "j.sqlite") is None


def test_an_older_status_put_back_is_noticed(path: Path) -> None:
    """The row of a flow that ran, when it has ended since."""

    def flow_row() -> tuple[Any, ...]:
        plain = sqlite3.connect(path)
        found: tuple[Any, ...] = plain.execute("SELECT * FROM flows").fetchone()
        plain.close()
        return found

    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        older = flow_row()
        journal.record(flow, call(0, 0))
        journal.finish(flow, Event("end", status="succeeded", payload=codec.encode(("outcome", 1))))
        newer = flow_row()
    for put_back, count in ((newer, 0), (older, 2)):
        plain = sqlite3.connect(path)
        with plain:
            plain.execute(f"INSERT OR REPLACE INTO flows VALUES ({', '.join('?' * len(put_back))})", put_back)
        plain.close()
        said = read_all(path)
        assert len(said) == count
        assert all("row 1 of flows" in text for text in said)


def test_rows_that_move_up_for_one_that_is_left_out_are_noticed(written: Path, unpickled: list[bytes]) -> None:
    """Also when the flow's row is told that they are fewer."""
    change(
        written,
        f"DELETE FROM events WHERE {row(3, 1)}",
        *(f"UPDATE events SET event = event - 1 WHERE {row(3, place)}" for place in (2, 3, 4)),
    )
    assert all("row (3, 1) of events" in text for text in read_all(written))
    change(written, "UPDATE flows SET events = 4 WHERE flow = 3")
    with pytest.raises(JournalDamagedError, match="row 3 of flows"):
        Reader(written, KEY).flows()


@pytest.mark.parametrize("other", [0, 2, 3, 9, 2**30])
def test_an_event_that_changed_flows_is_missed_by_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    """The last one of a flow that goes on: what is left of it is a prefix."""
    with Journal(path, KEY) as journal:
        for flow_id in ("f", "g", "h"):
            flow = journal.begin(flow_id, BEGIN)
            for place in range(4 if flow_id == "f" else 2):
                journal.record(flow, call(flow.flow - 1, place))
        journal._running.clear()  # as if it were killed
    change(path, f"UPDATE events SET event = {number(other, 4)} WHERE {row(1, 4)}")
    for opener in (Journal, Reader):
        with (
            opener(path, KEY) as journal,
            pytest.raises(JournalDamagedError, match=rf"row \({other}, 4\) of events"),
        ):
            journal.events(journal.flows()[0])
    monkeypatch.setattr(Rows, "_prove_no_strays", lambda self: None)  # the control
    with Reader(path, KEY) as reader:
        assert len(reader.events(reader.flows()[0])) == 4


def test_a_damaged_flow_is_begun_anew_beside_it(written: Path) -> None:
    """Nothing of it is overwritten, and others are read."""
    change(written, *EDITS["edited payload and digest"])
    with Journal(written, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        assert flow.generation == 3
        journal.record(flow, call(3, 0))
        assert [journal.value(one) for one in journal.events(flow)] == [("arguments", 1), value_of(3, 0)]
    assert all("row (1, 2) of events" in text for text in read_all(written))


def test_a_key_that_is_a_link_opens_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpickled: list[bytes]
) -> None:
    """Someone has made a key that he knows the user's, and a journal that it seals."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    write(path, codec.user_key())
    linked(tmp_path / "data" / "onix_nb" / "journal.key")
    for opener in (Journal, Reader):
        with pytest.raises(JournalRefusedError, match="is a symbolic link"):
            opener(path)
    assert unpickled == []


def test_an_older_copy_of_the_whole_file_is_not_noticed(written: Path, tmp_path: Path) -> None:
    """The limit: who puts yesterday's file back gets yesterday's flow, which is what a backup is for."""
    older = tmp_path / "older"
    shutil.copy(written, older)
    with Journal(written, KEY) as journal:
        journal.record(journal.flows()[0], call(0, 3))
    shutil.copy(older, written)
    assert read_all(written) == []


def test_the_limits_are_those_of_the_store() -> None:
    """The points at which tests kill are named, and do nothing."""
    assert [store.at(point) for point in store.POINTS] == [None] * len(store.POINTS)
