"""A journal that was cut, altered or forged: what is delivered is what was written, or the file and the row are named."""

from __future__ import annotations

import os
import pickle
import queue
import random
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from onix_nb.errors import JournalDamagedError, JournalError, JournalRefusedError
from onix_nb.journal import codec, store
from onix_nb.journal.store import Event, Flow, Journal, Reader

KEY = bytes(range(32))
PAGE = 4096

Place = tuple[int, int]


def values_of(number: int) -> list[Any]:
    """Plain and pickled, small, of a few pages, and of many."""
    return [
        number,
        (number, "x"),
        f"text {number}" * 30,
        b"\0" * 1_500,
        [None, 1.5],
        ("y" * 9_000, number),
        {"a": number},
    ]


def call(n: int, value: Any) -> Event:
    return Event(
        "call",
        bytes([n]) * 32,
        b"code" * 8,
        f"act{n}",
        f"n={n}",
        "succeeded",
        "",
        "",
        1,
        100.5 + n,
        101,
        codec.encode(value),
    )


def begin(value: Any) -> Event:
    return Event("begin", code=b"c" * 32, name="flow", label="a=1", started=100.25, payload=codec.encode(value))


def end(value: Any, status: str = "succeeded") -> Event:
    return Event("end", name="flow", status=status, finished=200.5, payload=codec.encode(value))


class Written(NamedTuple):
    """A journal as it was written.

    Attributes:
        closed: Its file after the journal was closed.
        file: Its file while the journal was open; half of what was written is in it, and
        wal: the rest.
        events: What was recorded, in order.
        states: What `flows` said after each commit, by the number of events.
    """

    closed: bytes
    file: bytes
    wal: bytes
    events: dict[Place, tuple[Event, Any]]
    states: dict[int, list[list[Flow]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("written") / ".onix" / "nb.sqlite"
    events: dict[Place, tuple[Event, Any]] = {}
    states: dict[int, list[list[Flow]]] = {0: [[]]}
    with Journal(path, KEY) as journal:

        def note(flow: Flow, event: Event, value: Any) -> None:
            seq = sum(number == flow.flow for number, _ in events)
            events[flow.flow, seq] = event, value
            states.setdefault(len(events), []).append(journal.flows())

        flows = []
        for number in range(3):
            event = begin({"number": number})
            flows.append(journal.begin(f"flow {number}", event))
            note(flows[-1], event, {"number": number})
        for n in range(3):
            for flow, value in zip(flows, values_of(n)[n:], strict=False):
                journal.record(flow, event := call(n, value))
                note(flow, event, value)
        journal.finish(flows[1], event := end("failed", "failed"))
        note(flows[1], event, "failed")
        journal._ask(lambda: None)
        journal._now()._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        journal.resume(flows[1])
        states[len(events)].append(journal.flows())
        for n, value in enumerate(values_of(9)):
            for flow in flows:
                journal.record(flow, event := call(n + 10, value))
                note(flow, event, value)
        journal.finish(flows[0], event := end(("out", "come")))
        note(flows[0], event, ("out", "come"))
        file, wal = path.read_bytes(), path.with_name(path.name + "-wal").read_bytes()
    assert len(wal) > 20 * PAGE
    assert len(file) > 5 * PAGE
    # Closing is a last change of the flows that run.
    with Reader(path, KEY) as reader:
        states[len(events)].append(reader.flows())
    return Written(path.read_bytes(), file, wal, events, states)


class Found(NamedTuple):
    """What a journal delivers.

    Attributes:
        flows: Of `flows`; None when it failed.
        events: The events with their values.
        errors: What was raised.
    """

    flows: list[Flow] | None
    events: dict[Place, tuple[Event, Any]]
    errors: list[Exception]


def look(path: Path, opener: Callable[..., Journal | Reader] = Reader) -> Found:
    """Reads everything that can be read."""
    events: dict[Place, tuple[Event, Any]] = {}
    errors: list[Exception] = []
    flows = None
    try:
        with opener(path, KEY) as source:
            flows = source.flows()
            for flow in flows:
                try:
                    recorded = source.events(flow)
                except Exception as error:
                    errors.append(error)
                    continue
                for one in recorded:
                    try:
                        events[one.flow, one.seq] = one.event, source.value(one)
                    except Exception as error:
                        errors.append(error)
    except Exception as error:
        errors.append(error)
    return Found(flows, events, errors)


def wrong(found: Found, written: Written) -> list[Place]:
    """The events that were delivered and never recorded so."""

    def same(place: Place) -> bool:
        if place not in written.events:
            return False
        event, value = found.events[place]
        wanted, wanted_value = written.events[place]
        return event[:-1] == wanted[:-1] and type(value) is type(wanted_value) and value == wanted_value

    return [place for place in found.events if not same(place)]


def typed(found: Found, path: Path) -> bool:
    """Whether all errors are ours and name the file."""
    return all(isinstance(error, JournalError) and str(path) in str(error) for error in found.errors)


def is_prefix(found: Found, written: Written) -> bool:
    """Whether it is the journal as it was after one of the commits."""
    count = len(found.events)
    return (
        not found.errors
        and set(found.events) == set(list(written.events)[:count])
        and any(found.flows == state for state in written.states.get(count, []))
    )


class Copy:
    """A folder in which journals are put, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".onix" / "nb.sqlite"
        self.path.parent.mkdir(mode=0o700, parents=True)

    def put(self, file: bytes, wal: bytes | None = None) -> Path:
        for one in self.path.parent.iterdir():
            one.unlink()
        self.path.write_bytes(file)
        if wal is not None:
            self.path.with_name(self.path.name + "-wal").write_bytes(wal)
        for one in self.path.parent.iterdir():
            one.chmod(0o600)
        return self.path


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def flipped(data: bytes, bit: int) -> bytes:
    altered = bytearray(data)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


OPENERS: list[Callable[..., Journal | Reader]] = [Reader, Journal]


# What breaks by itself


def test_the_journal_as_it_was_written_is_complete(written: Written, copy: Copy) -> None:
    for opener in OPENERS:
        for parts in ((written.closed,), (written.file, written.wal)):
            found = look(copy.put(*parts), opener)
            assert is_prefix(found, written)
            assert len(found.events) == len(written.events) == 35
            assert wrong(found, written) == []


def test_what_is_cut_off_the_file_is_named(written: Written, copy: Copy) -> None:
    rng = random.Random(1)
    cuts = [0, 1, 99, 100, 511, 512, PAGE, *range(PAGE, len(written.closed), 2 * PAGE)]
    cuts += [rng.randrange(len(written.closed)) for _ in range(100 - len(cuts))]
    came = Counter()
    for n, cut in enumerate(cuts):
        found = look(copy.put(written.closed[:cut]), OPENERS[n % 2])
        assert wrong(found, written) == [], cut
        assert is_prefix(found, written) or found.errors, cut
        assert typed(found, copy.path), cut
        came["error" if found.errors else "prefix"] += 1
    assert len(cuts) == 100
    assert came["error"] > 80


def test_a_cut_wal_leaves_a_gapless_prefix(written: Written, copy: Copy) -> None:
    rng = random.Random(2)
    frame = PAGE + 24
    cuts = [0, 1, 31, 32, *(32 + frame * n for n in range(1, 30)), *(32 + frame * n - 1 for n in range(1, 20))]
    cuts += [rng.randrange(len(written.wal)) for _ in range(100 - len(cuts))]
    lengths = set()
    for n, cut in enumerate(cuts):
        found = look(copy.put(written.file, written.wal[:cut]), OPENERS[n % 2])
        assert wrong(found, written) == [], cut
        assert is_prefix(found, written), (cut, found.errors)
        lengths.add(len(found.events))
    assert len(cuts) == 100
    assert len(lengths) > 10


def test_an_altered_wal_leaves_a_gapless_prefix(written: Written, copy: Copy) -> None:
    rng = random.Random(3)
    bits = [*range(0, 32 * 8, 16), *(rng.randrange(len(written.wal) * 8) for _ in range(84))]
    lengths = set()
    for n, bit in enumerate(bits):
        found = look(copy.put(written.file, flipped(written.wal, bit)), OPENERS[n % 2])
        assert wrong(found, written) == [], bit
        assert is_prefix(found, written), (bit, found.errors)
        lengths.add(len(found.events))
    assert len(bits) == 100
    assert len(lengths) > 10


def test_a_cut_file_beside_its_wal_is_complete_or_named(written: Written, copy: Copy) -> None:
    rng = random.Random(4)
    for n in range(40):
        cut = rng.randrange(len(written.file))
        found = look(copy.put(written.file[:cut], written.wal), OPENERS[n % 2])
        assert wrong(found, written) == [], cut
        assert is_prefix(found, written) or found.errors, cut
        assert typed(found, copy.path), cut


def test_a_wrong_value_and_a_gap_would_be_noticed(written: Written, copy: Copy) -> None:
    """The control of the tests above: what they judge by."""
    found = look(copy.put(written.closed))
    assert is_prefix(found, written)
    for place, (event, value) in list(found.events.items()):
        gap = {other: found.events[other] for other in found.events if other != place}
        assert not is_prefix(found._replace(events=gap), written)
        for other in ((event, [value]), (event._replace(status="?"), value), (event._replace(key=b"?"), value)):
            assert wrong(found._replace(events={**found.events, place: other}), written) == [place]
    assert wrong(found._replace(events={(3, 99): found.events[3, 1]}), written) == [(3, 99)]
    assert found.flows is not None
    assert not is_prefix(found._replace(flows=found.flows[:-1]), written)


# Where the rows are in the file: just enough of SQLite's format to find them.


def varint(page: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = 0
    for byte in page[at : at + 8]:
        number, at = number << 7 | byte & 127, at + 1
        if byte < 128:
            return number, at
    return number << 8 | page[at], at + 1


def records(file: bytes) -> Iterator[list[range]]:
    """Where each record is, in pieces; cells on pages of rows only, without their sizes and pointers."""
    for number in range(len(file) // PAGE):
        page = file[number * PAGE : (number + 1) * PAGE]
        head = 100 if number == 0 else 0
        kind = page[head]
        if kind not in (2, 10, 13):  # rows of an index inside and at its leaves, rows of a table at its leaves
            continue
        count = int.from_bytes(page[head + 3 : head + 5], "big")
        pointers = head + (12 if kind == 2 else 8)
        for pointer in range(pointers, pointers + 2 * count, 2):
            at = int.from_bytes(page[pointer : pointer + 2], "big")
            size, at = varint(page, at + (4 if kind == 2 else 0))
            if kind == 13:
                _, at = varint(page, at)
            yield pieces(file, number * PAGE + at, size, PAGE - 35 if kind == 13 else (PAGE - 12) * 64 // 255 - 23)


def pieces(file: bytes, at: int, size: int, most: int) -> list[range]:
    least = (PAGE - 12) * 32 // 255 - 23
    if size <= most:
        return [range(at, at + size)]
    kept = least + (size - least) % (PAGE - 4)
    kept = kept if kept <= most else least
    found, left = [range(at, at + kept)], size - kept
    overflow = int.from_bytes(file[at + kept : at + kept + 4], "big")
    while left:
        start = (overflow - 1) * PAGE
        part = min(left, PAGE - 4)
        found.append(range(start + 4, start + 4 + part))
        overflow = int.from_bytes(file[start : start + 4], "big")
        left -= part
    return found


def rows_of(written: Written, copy: Copy) -> dict[str, list[range]]:
    """Where each row is in the closed file, by the name that errors give it. Rows are found by their seals."""
    plain = sqlite3.connect(copy.put(written.closed))
    names = {
        mac: f"row ({flow}, {seq}) of events" for flow, seq, mac in plain.execute("SELECT flow, seq, mac FROM events")
    }
    names |= {mac: f"row {flow} of flows" for flow, mac in plain.execute("SELECT flow, mac FROM flows")}
    names |= {mac: "row 1 of journal" for (mac,) in plain.execute("SELECT mac FROM journal")}
    plain.close()
    found: dict[str, list[range]] = {}
    for where in records(written.closed):
        data = b"".join(written.closed[piece.start : piece.stop] for piece in where)
        for mac, name in names.items():
            if mac in data:
                found[name] = where
    return found


def flips(written: Written, copy: Copy, count: int) -> Iterator[tuple[str, int]]:
    """Rows, and bits in them: as many of each row, half of them before the payload."""
    rng = random.Random(5)
    rows = rows_of(written, copy)
    assert len(rows) == len(written.events) + 3 + 1
    for n in range(count):
        name = list(rows)[n % len(rows)]
        places = [at for piece in rows[name] for at in piece]
        yield name, 8 * rng.choice(places if n % 2 else places[:200]) + rng.randrange(8)


def as_it_reads(path: Path, name: str) -> set[str]:
    """The names that a row may have: its own, and the one that an altered number gives it."""
    names = {name}
    try:
        plain = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        for flow, seq in plain.execute("SELECT flow, seq FROM events"):
            names.add(f"row ({flow!r}, {seq!r}) of events")
    except sqlite3.Error:
        pass
    finally:
        plain.close()
    return names


class Flips(NamedTuple):
    wrong: int
    unnoticed: list[tuple[str, int]]
    unnamed: list[tuple[str, int, str]]
    count: int


def after_flips(written: Written, copy: Copy, count: int) -> Flips:
    wrongs, unnoticed, unnamed, done = 0, [], [], 0
    before = as_it_reads(copy.put(written.closed), "")
    for name, bit in list(flips(written, copy, count)):
        path = copy.put(flipped(written.closed, bit))
        found = look(path, OPENERS[done % 10 == 0])
        wrongs += len(wrong(found, written))
        said = [str(error) for error in found.errors]
        names = {name} | (as_it_reads(path, name) - before)
        if not said:
            unnoticed.append((name, bit))
        elif not typed(found, path) or not any(one in text for text in said for one in names):
            unnamed.append((name, bit, said[0]))
        done += 1
    return Flips(wrongs, unnoticed, unnamed, done)


def test_each_bit_in_each_row_is_proven(written: Written, copy: Copy) -> None:
    assert after_flips(written, copy, 600) == Flips(0, [], [], 600)


def read_while_recording(journal: Journal, patch: pytest.MonkeyPatch) -> list[Exception | None]:
    """The errors of two records of the third flow and a reading of the first; the last two come together."""
    flows = journal.flows()
    at_first, go = threading.Event(), threading.Event()
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def at(point: str) -> None:
        if point == "taken" and not at_first.is_set():
            at_first.set()
            assert go.wait(30)

    patch.setattr(store, "at", at)
    journal.submit(flows[2], call(50, 50), lambda result, error: told.put(error))
    assert at_first.wait(30)
    reading = threading.Thread(target=lambda: told.put(look_at(journal, flows[0])))
    reading.start()
    journal.submit(flows[2], call(51, 51), lambda result, error: told.put(error))
    go.set()
    reading.join(30)
    return [told.get(timeout=30) for _ in range(3)]


def test_reading_a_damaged_flow_fails_nobody_else(
    written: Written, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    for name, bit in flips(written, Copy(copy.path.parent.parent / "rows"), 350):
        if name.startswith("row (1,"):
            with Journal(copy.put(flipped(written.closed, bit)), KEY) as journal:
                errors = [error for error in read_while_recording(journal, monkeypatch) if error is not None]
            assert len(errors) <= 1, (name, bit, errors)
            assert all(isinstance(error, JournalDamagedError) and "of events" in str(error) for error in errors)
            seen += len(errors)
    assert seen > 50


def look_at(journal: Journal, flow: Flow) -> JournalError | None:
    try:
        for one in journal.events(flow):
            journal.value(one)
    except JournalError as error:
        return error
    return None


class Anything(bytes):
    """Is what it is compared with."""

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def without_mac(patch: pytest.MonkeyPatch) -> None:
    """The broken variant that believes every seal."""
    patch.setattr(codec, "seal", lambda key, *fields: Anything(32))
    patch.setattr(codec.hmac, "compare_digest", lambda one, other: True)


def without_digest(patch: pytest.MonkeyPatch) -> None:
    """The one that proves a row and not its payload."""
    digest = codec.digest
    patch.setattr(codec, "digest", lambda payload: Anything(digest(payload)))


def without_chain(patch: pytest.MonkeyPatch) -> None:
    """The one whose rows don't vouch for those before them."""
    fields = store._Rows._fields
    patch.setattr(store._Rows, "_fields", lambda self, recorded: fields(self, recorded._replace(before=b"")))


def without_refusal(patch: pytest.MonkeyPatch) -> None:
    """The one that opens any file."""
    patch.setattr(store, "_refuse_unsafe", lambda path: None)
    patch.setattr(os, "O_NOFOLLOW", 0)


@pytest.mark.parametrize("variant", [without_mac, without_digest])
def test_a_variant_that_proves_less_would_deliver_wrong_values(
    variant: Callable[[pytest.MonkeyPatch], None], written: Written, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant(monkeypatch)
    assert after_flips(written, copy, 150).wrong > 10


# What someone breaks


@pytest.fixture
def unpickled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is given to `pickle.loads`, and to the one function of ours that calls it."""
    given: list[bytes] = []
    loads, ours = pickle.loads, codec._unpickled
    monkeypatch.setattr(pickle, "loads", lambda data, **options: given.append(data) or loads(data, **options))
    monkeypatch.setattr(codec, "_unpickled", lambda data: given.append(data) or ours(data))
    return given


def build(path: Path, key: bytes | None = KEY, secret: str = "ours") -> None:
    """A journal of two flows, the first of two generations; the third event of each is a pickle."""
    with Journal(path, key) as journal:
        for flow_id, n in (("a", 1), ("b", 2), ("a", 3)):
            flow = journal.begin(flow_id, begin(n))
            for k, value in enumerate([f"{n} first", (secret, n), f"{n} third", f"{n} fourth"]):
                journal.record(flow, call(k, value))
            journal.finish(flow, end(n))


COLUMNS = (*Event._fields[:-1], "digest", "mac", "payload")


def edit(path: Path, *statements: tuple[str, tuple[Any, ...]]) -> None:
    plain = sqlite3.connect(path)
    for statement, parameters in statements:
        assert plain.execute(statement, parameters).rowcount == 1
    plain.commit()
    plain.close()


def take(path: Path, place: Place) -> tuple[Any, ...]:
    plain = sqlite3.connect(path)
    row: tuple[Any, ...] = plain.execute(
        f"SELECT {', '.join(COLUMNS)} FROM events WHERE (flow, seq) = (?, ?)", place
    ).fetchone()
    plain.close()
    return row


def put(path: Path, place: Place, row: tuple[Any, ...]) -> None:
    names = ", ".join(f"{name} = ?" for name in COLUMNS)
    edit(path, (f"UPDATE events SET {names} WHERE (flow, seq) = (?, ?)", (*row, *place)))


def other_key(path: Path) -> Path:
    build(path, bytes(32), "theirs")
    return path


def swapped_rows(path: Path) -> Path:
    build(path)
    two, three = take(path, (1, 2)), take(path, (1, 3))
    put(path, (1, 2), three)
    put(path, (1, 3), two)
    return path


def swapped_columns(path: Path) -> Path:
    build(path)
    edit(path, ("UPDATE events SET name = label, label = name WHERE (flow, seq) = (1, 2)", ()))
    return path


def edited_payload(path: Path) -> Path:
    build(path)
    edit(path, ("UPDATE events SET payload = ? WHERE (flow, seq) = (1, 2)", (codec.encode(("forged",)),)))
    return path


def edited_payload_and_digest(path: Path) -> Path:
    build(path)
    payload = codec.encode(("forged",))
    sql = "UPDATE events SET payload = ?, digest = ? WHERE (flow, seq) = (1, 2)"
    edit(path, (sql, (payload, codec.digest(payload))))
    return path


def edited_large_payload(path: Path) -> Path:
    build(path)
    payload = codec.encode(("forged" * 10_000, 1))
    edit(path, ("UPDATE events SET payload = ? WHERE (flow, seq) = (1, 2)", (payload,)))
    return path


def renumbered(path: Path) -> Path:
    """A row is left out, and those after it move up."""
    build(path)
    edit(path, ("DELETE FROM events WHERE (flow, seq) = (1, 1)", ()))
    for seq in (2, 3, 4, 5):
        edit(path, ("UPDATE events SET seq = seq - 1 WHERE (flow, seq) = (1, ?)", (seq,)))
    edit(path, ("UPDATE flows SET events = 5 WHERE flow = 1", ()))
    return path


def another_flow(path: Path) -> Path:
    build(path)
    put(path, (1, 2), take(path, (2, 2)))
    return path


def another_generation(path: Path) -> Path:
    build(path)
    put(path, (1, 2), take(path, (3, 2)))
    return path


def another_file(path: Path) -> Path:
    build(path)
    build(path.with_name("other.sqlite"))
    put(path, (1, 2), take(path.with_name("other.sqlite"), (1, 2)))
    return path


def older_row(path: Path) -> Path:
    """The file is put back to before a row, another is recorded in its place, and then the first one returns."""
    with Journal(path, KEY) as journal:
        flow = journal.begin("a", begin(1))
        journal.record(flow, call(0, "first"))
    shutil.copy(path, path.with_name("before"))
    with Journal(path, KEY) as journal:
        journal.record(flow, call(1, ("older",)))
    older = take(path, (1, 2))
    path.with_name("before").replace(path)
    with Journal(path, KEY) as journal:
        for n in (1, 2, 3):
            journal.record(flow, call(n, n))
    put(path, (1, 2), older)
    return path


def another_owner(path: Path) -> Path:
    build(path)
    us = os.geteuid()
    os.geteuid = lambda: us + 1  # undone by the test
    return path


def open_folder(path: Path) -> Path:
    build(path)
    path.parent.chmod(0o777)
    return path


def open_file(path: Path) -> Path:
    build(path)
    path.chmod(0o666)
    return path


def symlinked_file(path: Path) -> Path:
    build(path)
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    return path


def symlinked_folder(path: Path) -> Path:
    build(path)
    path.parent.rename(path.parent.with_name("real"))
    path.parent.symlink_to("real")
    return path


def symlinked_key(path: Path) -> Path:
    """Someone has made a key that he knows the user's, and a journal that it seals."""
    build(path, None, "theirs")
    key = Path(os.environ["JUPYTER_DATA_DIR"]) / "onix_nb" / "journal.key"
    key.rename(key.with_name("theirs"))
    key.symlink_to("theirs")
    return path


def attack(path: Path, key: bytes | None, opener: Callable[..., Journal | Reader]) -> JournalError | None:
    """Reads the first flow, as a kernel that resumes it does; what stopped it."""
    try:
        with opener(path, key) as source:
            for recorded in source.events(source.flows()[0]):
                source.value(recorded)
    except JournalError as error:
        return error
    return None


FORGERIES: dict[Callable[[Path], Path], tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    other_key: (without_mac, "another key than yours"),
    swapped_rows: (without_mac, r"row \(1, 2\) of events"),
    swapped_columns: (without_mac, r"row \(1, 2\) of events"),
    edited_payload: (without_digest, r"row \(1, 2\) of events"),
    edited_payload_and_digest: (without_mac, r"row \(1, 2\) of events"),
    edited_large_payload: (without_digest, r"row \(1, 2\) of events"),
    renumbered: (without_mac, "row 1 of flows"),
    another_flow: (without_mac, r"row \(1, 2\) of events"),
    another_generation: (without_mac, r"row \(1, 2\) of events"),
    another_file: (without_mac, r"row \(1, 2\) of events"),
    older_row: (without_chain, r"row \(1, 3\) of events"),
    another_owner: (without_refusal, "belongs to another user"),
    open_folder: (without_refusal, "can be written by everyone"),
    open_file: (without_refusal, "can be written by everyone"),
    symlinked_file: (without_refusal, "is a symbolic link"),
    symlinked_folder: (without_refusal, "is a symbolic link"),
    symlinked_key: (without_refusal, "is a symbolic link"),
}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("forge", FORGERIES)
def test_nothing_forged_is_unpickled(
    forge: Callable[[Path], Path],
    opener: Callable[..., Journal | Reader],
    tmp_path: Path,
    unpickled: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(os, "geteuid", os.geteuid)
    key = None if forge is symlinked_key else KEY
    variant, says = FORGERIES[forge]

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    path = forge(tmp_path / "one" / ".onix" / "nb.sqlite")
    error = attack(path, key, opener)
    assert isinstance(error, JournalDamagedError | JournalRefusedError)
    with pytest.raises(type(error), match=says):
        raise error
    assert str(path) in str(error) or str(path.parent) in str(error) or key is None
    assert unpickled == []
    if key is None:  # the variant starts anew
        shutil.rmtree(tmp_path / "data")

    variant(monkeypatch)
    path = forge(tmp_path / "two" / ".onix" / "nb.sqlite")
    assert attack(path, key, Reader) is None
    assert unpickled != []


def test_an_older_status_put_back_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / ".onix" / "nb.sqlite"

    def row() -> tuple[Any, ...]:
        plain = sqlite3.connect(path)
        found: tuple[Any, ...] = plain.execute("SELECT * FROM flows").fetchone()
        plain.close()
        return found

    with Journal(path, KEY) as journal:
        flow = journal.begin("a", begin(1))
        older = row()
        journal.record(flow, call(1, 1))
        journal.finish(flow, end(1))
        newer = row()
    for put_back, errors in ((newer, 0), (older, 1)):
        edit(path, (f"INSERT OR REPLACE INTO flows VALUES ({', '.join('?' * len(put_back))})", put_back))
        for opener in OPENERS:
            found = look(path, opener)
            assert len(found.errors) == errors
            assert all("row 1 of flows" in str(error) for error in found.errors)


def test_a_finished_flow_without_its_end_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / ".onix" / "nb.sqlite"
    build(path)
    edit(path, ("DELETE FROM events WHERE (flow, seq) = (1, 5)", ()))
    for opener in OPENERS:
        error = attack(path, KEY, opener)
        assert isinstance(error, JournalDamagedError)
        assert "row (1, 5) of events" in str(error)


@pytest.mark.parametrize("number", [0, 2, 3, 9, 2**40])
def test_an_event_with_another_flows_number_is_missed_by_its_flow(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one of a flow that goes on: what is left of it is a prefix."""
    path = tmp_path / ".onix" / "nb.sqlite"
    with Journal(path, KEY) as journal:
        for n in (1, 2, 3):
            flow = journal.begin(f"flow {n}", begin(n))
            for k in range(4 if n == 1 else 2):
                journal.record(flow, call(k, k))
        journal._running.clear()  # as if it were killed
    edit(path, ("UPDATE events SET flow = ? WHERE (flow, seq) = (1, 4)", (number,)))
    for opener in OPENERS:
        error = attack(path, KEY, opener)
        assert isinstance(error, JournalDamagedError)
        assert f"row ({number}, 4) of events" in str(error)
    monkeypatch.setattr(store._Rows, "_prove_places", lambda self: None)
    assert attack(path, KEY, Reader) is None


def test_a_damaged_flow_is_begun_anew_beside_it(tmp_path: Path) -> None:
    path = edited_payload_and_digest(tmp_path / ".onix" / "nb.sqlite")
    before = take(path, (1, 2))
    with Journal(path, KEY) as journal:
        flow = journal.begin("a", begin(4))
        journal.record(flow, call(1, 1))
        assert [journal.value(one) for one in journal.events(flow)] == [4, 1]
        assert [journal.value(one) for one in journal.events(journal.flows()[1])][0] == 2
    assert take(path, (1, 2)) == before  # nothing of it was overwritten
