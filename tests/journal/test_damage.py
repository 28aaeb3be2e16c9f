"""Files that are cut short or have flipped bits: a prefix or a typed error that names the row, never a wrong value."""

from __future__ import annotations

import os
import queue
import random
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from onix_nb.errors import JournalDamagedError, JournalError
from onix_nb.journal import codec, store
from onix_nb.journal.store import Event, Journal, Reader

from .child import BEGIN, KEY, Zygote, call, value_of

Image = dict[str, bytes]
# Of a flow's number and a place in it, the value recorded there.
Values = dict[tuple[int, int], Any]


def expected(flow: int, seq: int, value: Any) -> bool:
    if seq == 0:
        return bool(value == ("arguments", 1))
    return isinstance(value, tuple) and len(value) == 3 and value == value_of(*value[:2])


def look(folder: Path, image: Image, owner: bool = False) -> tuple[Values, list[str]]:
    """What a journal gives, and what its errors say. Opens it as its owner or as a reader."""
    folder.mkdir(mode=0o700)
    for name, data in image.items():
        with open(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(data)
    values: Values = {}
    said: list[str] = []
    try:
        opened = Journal(folder / "j.sqlite", KEY) if owner else Reader(folder / "j.sqlite", KEY)
    except JournalError as error:
        return values, [str(error)]
    with opened as journal:
        try:
            flows = journal.flows()
        except JournalDamagedError as error:
            return values, [str(error)]
        for flow in flows:
            try:
                for recorded in journal.events(flow):
                    values[flow.flow, recorded.seq] = journal.value(recorded)
            except JournalDamagedError as error:
                said.append(str(error))
    return values, said


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The files of a kernel that died: part of what it recorded is in the database, the rest in the WAL."""
    folder = tmp_path_factory.mktemp("crashed") / ".onix"
    with Zygote() as zygote:
        zygote.start("record", path=str(folder / "j.sqlite"), workers=1, most=60, pages=80)
        [*zygote.rest()]
    image = {name: (folder / name).read_bytes() for name in ("j.sqlite", "j.sqlite-wal")}
    assert min(map(len, image.values())) > 20_000
    return image


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The file of a kernel that ended in good order, with three flows: one ended, one failed, one unfinished."""
    path = tmp_path_factory.mktemp("whole") / ".onix" / "j.sqlite"
    with Journal(path, KEY) as journal:
        for number in range(3):
            flow = journal.begin(f"flow {number}", BEGIN)
            for place in range(60):
                journal.record(flow, call(number, place))
            if number < 2:
                status = ("succeeded", "failed")[number]
                journal.finish(flow, Event("end", status=status, payload=codec.encode(value_of(number, 60))))
    return {"j.sqlite": path.read_bytes()}


def assert_prefix(values: Values) -> None:
    """Without gaps, and each value is the one that was recorded."""
    assert all(expected(*place, value) for place, value in values.items())
    assert sorted(seq for _, seq in values) == list(range(len(values)))


def test_a_log_that_is_cut_short_opens_with_a_prefix(crashed: Image, tmp_path: Path) -> None:
    """At 200 places: what is before the cut is there, and nothing else."""
    complete, _ = look(tmp_path / "complete", crashed, owner=True)
    assert len(complete) == 61
    dice, lengths = random.Random(1), set()
    for number in range(200):
        cut = dice.randrange(len(crashed["j.sqlite-wal"]))
        image = {**crashed, "j.sqlite-wal": crashed["j.sqlite-wal"][:cut]}
        values, said = look(tmp_path / f"{number}", image, owner=number % 4 == 0)
        assert not said
        assert_prefix(values)
        lengths.add(len(values))
    assert len(lengths) > 5, "control: the cuts take something"


def test_a_log_with_flipped_bits_opens_with_a_prefix(crashed: Image, tmp_path: Path) -> None:
    """150 of them: what comes before is there, and nothing else."""
    dice, lengths = random.Random(2), set()
    for number in range(150):
        log = bytearray(crashed["j.sqlite-wal"])
        log[dice.randrange(len(log))] ^= 1 << dice.randrange(8)
        image = {**crashed, "j.sqlite-wal": bytes(log)}
        values, said = look(tmp_path / f"{number}", image, owner=number % 4 == 0)
        assert not said
        assert_prefix(values)
        lengths.add(len(values))
    assert len(lengths) > 5, "control: the flips take something"


def test_a_database_that_is_cut_short_gives_a_prefix_or_says_so(crashed: Image, whole: Image, tmp_path: Path) -> None:
    """At 100 places: its pages are gone, so that it may also be an error that names the file."""
    dice, told = random.Random(3), 0
    for number in range(100):
        image = dict((crashed, whole)[number % 2])
        image["j.sqlite"] = image["j.sqlite"][: dice.randrange(1, len(image["j.sqlite"]))]
        values, said = look(tmp_path / f"{number}", image, owner=number % 4 == 0)
        for flow in {flow for flow, _ in values}:
            assert_prefix({place: value for place, value in values.items() if place[0] == flow})
        assert all("j.sqlite" in text for text in said)
        told += bool(said)
    assert told > 50, "control"


# Bits of stored rows


class Cell(NamedTuple):
    """Where a row is in the file: the bytes of one cell of a B-tree."""

    row: str
    start: int
    end: int


def varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for length in range(1, 10):
        byte = data[place + length - 1]
        if length == 9:
            return value << 8 | byte, place + 9
        value = value << 7 | byte & 127
        if byte < 128:
            return value, place + length
    raise AssertionError


def row_at(data: bytes, start: int, table: str) -> Cell:
    """The row that a cell of a leaf holds, without what is on overflow pages."""
    size, place = varint(data, start)
    number, place = varint(data, place)
    row = f"row {number} of flows" if table == "flows" else f"row ({number >> 32}, {number & 0xFFFFFFFF}) of events"
    most, least = 4096 - 35, 4084 * 32 // 255 - 23
    spilled = least + (size - least) % 4092
    return Cell(row, start, place + (size if size <= most else spilled if spilled <= most else least))


def cells(data: bytes, roots: dict[str, int]) -> Iterator[Cell]:
    """The rows of `flows` and `events`, as the file format of SQLite has them."""
    waiting = [(table, roots[table]) for table in ("flows", "events")]
    while waiting:
        table, number = waiting.pop()
        page = (number - 1) * 4096
        leaf = data[page] == 13
        count = int.from_bytes(data[page + 3 : page + 5], "big")
        head = page + (8 if leaf else 12)
        starts = [page + int.from_bytes(data[head + 2 * at : head + 2 * at + 2], "big") for at in range(count)]
        if leaf:
            yield from (row_at(data, start, table) for start in starts)
        else:
            waiting += [(table, int.from_bytes(data[at : at + 4], "big")) for at in (*starts, page + 8)]


@pytest.fixture(scope="module")
def rows(whole: Image, tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    path = tmp_path_factory.mktemp("rows") / "j.sqlite"
    path.write_bytes(whole["j.sqlite"])
    connection = sqlite3.connect(path)
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"))
    assert connection.execute("PRAGMA page_size").fetchone()[0] == 4096
    connection.close()
    found = list(cells(whole["j.sqlite"], roots))
    assert len({cell.row for cell in found}) == 3 + 3 * 61 + 2, "all rows were found"
    return found


def flipped(data: bytes, cell: Cell, dice: random.Random) -> bytes:
    image = bytearray(data)
    image[dice.randrange(cell.start, cell.end)] ^= 1 << dice.randrange(8)
    return bytes(image)


def named_row(said: list[str]) -> list[str]:
    return [found for text in said for found in re.findall(r"row \d+ of \w+|row \(-?\d+, -?\d+\) of events", text)]


def flip_rows(whole: Image, rows: list[Cell], folder: Path, seed: int, flips: int) -> None:
    """Fails when a value is wrong, or a damaged row isn't named together with its file."""
    data, dice, unread = whole["j.sqlite"], random.Random(seed), 0
    for number in range(flips):
        cell = dice.choice(rows)
        image = flipped(data, cell, dice)
        values, said = look(folder / f"{number}", {"j.sqlite": image})
        assert all(expected(*place, value) for place, value in values.items()), number
        assert all(f"{number}/j.sqlite" in text for text in said)
        if not said:
            # In the header of each record is one bit that nobody reads: the type of the number that it hasn't.
            assert len(values) == 3 * 61 + 2
            unread += 1
            continue
        # When its number is what was flipped, it may be named by the new one.
        names = {cell.row, row_at(image, cell.start, cell.row.split()[-1]).row}
        assert names & {*named_row(said)}, (number, cell, said)
    assert unread <= flips // 500


def test_a_flipped_bit_in_a_row_is_noticed_and_the_row_is_named(whole: Image, rows: list[Cell], tmp_path: Path) -> None:
    """600 of them: no wrong value, and each error names the file and the row."""
    flip_rows(whole, rows, tmp_path, 4, 600)


def reading_while_recording(journal: Journal, patch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """The errors of two records of the third flow and a reading of the first; the last two come together."""
    flows = journal.flows()
    at_first, go = threading.Event(), threading.Event()
    told: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def at(point: str) -> None:
        if point == "taken" and not at_first.is_set():
            at_first.set()
            assert go.wait(30)

    def read() -> None:
        try:
            [journal.value(one) for one in journal.events(flows[0])]
        except JournalError as error:
            told.put(error)
        else:
            told.put(None)

    patch.setattr(store, "at", at)
    journal.submit(flows[2], call(2, 60), lambda _, error: told.put(error))
    assert at_first.wait(30)
    reading = threading.Thread(target=read)
    reading.start()
    journal.submit(flows[2], call(2, 61), lambda _, error: told.put(error))
    go.set()
    reading.join(30)
    return [told.get(timeout=30) for _ in range(3)]


def test_reading_a_damaged_flow_fails_nobody_else(
    whole: Image, rows: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who records at that moment is told that it is recorded."""
    dice, seen = random.Random(6), 0
    mine = [cell for cell in rows if cell.row.startswith("row (1,")]
    for turn in range(100):
        folder = tmp_path / f"{turn}"
        folder.mkdir(mode=0o700)
        image = flipped(whole["j.sqlite"], dice.choice(mine), dice)
        with open(os.open(folder / "j.sqlite", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(image)
        with Journal(folder / "j.sqlite", KEY) as journal:
            errors = [error for error in reading_while_recording(journal, monkeypatch) if error is not None]
        assert len(errors) <= 1, (turn, errors)
        assert all(isinstance(error, JournalDamagedError) and "of events" in str(error) for error in errors)
        seen += len(errors)
    assert seen > 50


@pytest.mark.deep
def test_very_many_flipped_bits_are_noticed(whole: Image, rows: list[Cell], tmp_path: Path) -> None:
    """10,000 more."""
    flip_rows(whole, rows, tmp_path, 5, 10_000)


def test_sqlite_alone_would_deliver_flipped_bits(whole: Image, rows: list[Cell], tmp_path: Path) -> None:
    """Control: most of the same flips read without an error, as something else."""

    def read(data: bytes) -> list[Any] | None:
        path = tmp_path / "j.sqlite"
        path.write_bytes(data)
        connection = sqlite3.connect(path)
        try:
            return (
                connection.execute("SELECT * FROM events").fetchall()
                + connection.execute("SELECT * FROM flows").fetchall()
            )
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return None
        finally:
            connection.close()

    data, dice = whole["j.sqlite"], random.Random(4)
    right = read(data)
    delivered = [read(flipped(data, dice.choice(rows), dice)) for _ in range(100)]
    assert sum(found is not None and found != right for found in delivered) > 50
