"""How journals are found and read: never above the root, never unpickled, in bounded number and time."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onix_nb.errors import JournalDamagedError
from onix_nb.journal import codec, rows
from onix_nb.journal.owner import is_owned
from onix_nb.journal.rows import Event, Reader
from onix_nb.server import listing
from onix_nb.server.page import Shelf

from .journals import Kernels, began, change, failed, succeeded


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return Kernels(tmp_path / "data")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def scanned(root: Path) -> listing.Scan:
    """A reading of all journals, at its end."""
    ended = threading.Event()
    scan = listing.Scan(str(root), done=ended.set)
    assert ended.wait(30)
    return scan


# Never above the root

# Runs a scan, and prints every file that was opened meanwhile; with an argument nothing is kept below the root.
WATCHED = """
import json, os, sys, threading, urllib.parse
from onix_nb.server import listing

root, unguarded = sys.argv[1], len(sys.argv) > 2
if unguarded:
    def below(root, path):
        try:
            return os.path.realpath(path)
        except (ValueError, RecursionError):
            return None
    listing.below = below
listing.Scan(root)._thread.join()  # imports are over
opened = []
def watch(event, arguments):
    if event in ("open", "sqlite3.connect", "os.listdir", "os.scandir"):
        opened.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else str(arguments[0]))
sys.addaudithook(watch)
scan = listing.Scan(root)
scan._thread.join()
opened = [urllib.parse.unquote(one.removeprefix("file:").partition("?")[0]) for one in opened]
print(json.dumps([opened, [entry.path for entry in scan.entries], repr(scan.entries)]))
"""


@pytest.fixture
def elsewhere(kernels: Kernels, root: Path, tmp_path: Path) -> list[object]:
    """Ways to name, from the root and from notes, two journals that are beside the root."""
    outside = tmp_path / "outside" / ".onix"
    secret = kernels.write(outside / "secret.sqlite", lambda j: succeeded(j, "SECRET"))
    beside = kernels.write(tmp_path / "root-2" / ".onix" / "beside.sqlite", lambda j: succeeded(j, "SECRET"))
    (root / "to-folder").symlink_to(outside)
    (root / "to-parent").symlink_to(tmp_path)
    (root / "to-root-of-all").symlink_to("/")
    (root / "chain").symlink_to(root / "to-parent")
    (root / "loop").symlink_to(root / "loop")
    (root / ".onix").mkdir(mode=0o700)
    (root / ".onix" / "link.sqlite").symlink_to(secret)
    (root / ".onix" / "broken.sqlite").symlink_to(tmp_path / "nothing")
    ways: list[object] = [secret, beside, root / "to-folder" / "secret.sqlite", root / ".onix" / "link.sqlite"]
    ways += [root / "to-parent" / "outside" / ".onix" / "secret.sqlite", root / ".onix" / "broken.sqlite"]
    ways += [root / "chain" / "outside" / ".onix" / "secret.sqlite", f"{root}/to-root-of-all{secret}"]
    ways += [f"{root}/../outside/.onix/secret.sqlite", f"{root}/.onix/../../outside/.onix/secret.sqlite"]
    ways += [f"{root}/x/../../root-2/.onix/beside.sqlite", f"{root}-2/.onix/beside.sqlite", f"//{secret}", f"{root}"]
    ways += [f"{root}/to-folder/../.onix/secret.sqlite", os.path.relpath(secret), "secret.sqlite", "", ".", "/"]
    ways += ["~/secret.sqlite", f"file:{secret}", f"{secret}?mode=rw", f"{secret}\0", f"\0{secret}", "\ud800"]
    ways += [
        "/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        f"/proc/self/root{secret}",
        "C:\\x",
        "\\\\x\\y",
    ]
    for number in range(2_000):
        (root / ".onix" / f"link-{number}").symlink_to(f"link-{number + 1}")
    ways += [root / ".onix" / "link-0"]
    ways += ["x" * 100_000, "/" + "x/" * 10_000, 7, ["a"], None, f"{root}/loop/secret.sqlite"]
    for way in ways:
        kernels.note(way)
    (kernels.notes / "broken.json").write_bytes(b"\xff{")
    (kernels.notes / "deep.json").write_text("[" * 30_000)
    (kernels.notes / "list.json").write_text("[]")
    (kernels.notes / "folder.json").mkdir()
    (kernels.notes / "loop.json").symlink_to("loop.json")
    kernels.write(root / "inside" / ".onix" / "inside.sqlite", lambda j: succeeded(j, "inside"))
    return ways


def watched(script: Callable[[str], Any], root: Path, *arguments: str) -> tuple[set[str], list[str], str]:
    opened, paths, shown = json.loads(script(WATCHED).passes(str(root), *arguments))
    return {one for one in opened if not one.startswith((str(root) + os.sep, str(root.parent / "data")))}, paths, shown


def test_nothing_outside_the_root_is_read(
    elsewhere: list[object], root: Path, script: Callable[[str], Any], kernels: Kernels
) -> None:
    """Whatever a note says or a link leads to: no file beside the root is opened, and the one below it is listed."""
    assert len(elsewhere) >= 35
    opened, paths, shown = watched(script, root)
    assert opened == set()
    assert "inside/.onix/inside.sqlite" in paths
    assert "SECRET" not in shown


def test_a_listing_that_leaves_the_root_is_caught(
    elsewhere: list[object], root: Path, script: Callable[[str], Any], kernels: Kernels
) -> None:
    """Control: without the check of real paths the same notes have the other journals opened and shown."""
    opened, _, shown = watched(script, root, "unguarded")
    assert any("outside" in one for one in opened)
    assert any("root-2" in one for one in opened)
    assert "SECRET" in shown


def test_links_below_the_root_are_followed_once(kernels: Kernels, root: Path) -> None:
    """A journal that has several names is listed once, by its real one."""
    path = kernels.write(root / "real" / ".onix" / "a.sqlite", lambda j: succeeded(j, "one"))
    (root / "link").symlink_to(root / "real")
    kernels.note(root / "link" / ".onix" / "a.sqlite")
    kernels.note(f"{root}/link/../real/.onix/a.sqlite")
    assert [entry.path for entry in scanned(root).entries] == [str(path.relative_to(root))]


# Never unpickled


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(kernels: Kernels, root: Path, tmp_path: Path) -> None:
    """Not even what was sealed with the user's own key; the control reads the value, and the trap springs."""
    sprung = tmp_path / "sprung"
    payload = codec.encode(Trap(sprung))

    def write(journal: Any) -> None:
        flow = began(journal, "one")
        journal.record(flow, Event("call", b"k", b"c", "fetch", payload=payload))
        journal.finish(flow, Event("end", status="failed", error_type="E", error="why", payload=payload))

    path = kernels.write(root / ".onix" / "a.sqlite", write)
    (entry,) = scanned(root).entries
    assert entry.rows[0].error == "E: why"
    assert not sprung.exists()
    with Reader(path, kernels.key) as reader:
        reader.value(reader.events(reader.flows()[0])[-1])
    assert sprung.exists()


# In bounded number and time


def test_only_the_last_flows_of_a_journal_are_read(
    kernels: Kernels, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it says how many are not."""
    monkeypatch.setattr(listing, "MOST_OF_JOURNAL", 5)
    kernels.write(root / ".onix" / "a.sqlite", *[lambda j, n=n: succeeded(j, f"flow {n}") for n in range(12)])
    (entry,) = scanned(root).entries
    assert [row.id for row in entry.rows] == ["flow 11", "flow 10", "flow 9", "flow 8", "flow 7"]
    assert entry.earlier == 7


def test_many_journals_share_the_page(kernels: Kernels, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more there are, the fewer flows of each are read; those beyond the limit are counted."""
    monkeypatch.setattr(listing, "MOST_FLOWS", 12)
    monkeypatch.setattr(listing, "LEAST_OF_JOURNAL", 1)
    monkeypatch.setattr(listing, "MOST_JOURNALS", 5)
    flows = [lambda j, n=n: succeeded(j, f"flow {n}") for n in range(6)]
    first = kernels.write(root / ".onix" / "a.sqlite", *flows)
    kernels.copies(first, [root / f"{n}" / ".onix" / "a.sqlite" for n in range(5)])
    scan = scanned(root)
    assert [len(entry.rows) for entry in scan.entries] == [2] * 5
    assert scan.left_out == 1


def test_a_long_flow_is_not_counted(kernels: Kernels, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last event is found without reading the others."""
    monkeypatch.setattr(listing, "MOST_COUNTED", 20)
    flows = (lambda j: began(j, "short", calls=9), lambda j: failed(j, "long"), lambda j: began(j, "b", calls=9))
    path = kernels.write(root / ".onix" / "a.sqlite", *flows)
    (entry,) = scanned(root).entries
    assert [(row.id, row.calls, row.size) for row in entry.rows] == [
        ("b", "9", "132 B"),
        ("long", "3", "104 B"),
        ("short", "many", ""),
    ]
    steps = {most: work(path, most, kernels.key) for most in (0, 1_000)}
    assert steps[0] < steps[1_000]  # the control: counting is work


def work(path: Path, countable: int, key: bytes) -> int:
    """How many steps SQLite makes for a glance."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with Reader(path, key, glance=True) as reader:
        reader.connection.set_progress_handler(step, 1)
        reader.newest(10, countable)
    return steps


def test_a_glance_at_a_long_flow_is_as_short_as_at_a_short_one(kernels: Kernels, root: Path) -> None:
    """The steps that SQLite makes don't grow with what is not counted."""
    steps = []
    for calls in 10, 300:
        path = kernels.write(root / f"{calls}" / ".onix" / "a.sqlite", lambda j, n=calls: began(j, "one", calls=n))
        steps.append(work(path, 0, kernels.key))
    assert steps[1] < 2 * steps[0]
    assert work(path, 5_000, kernels.key) > 5 * steps[1]  # the control


def test_what_takes_too_long_is_left_out(kernels: Kernels, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan ends when its time is over, and says what it did not read."""
    kernels.write(root / ".onix" / "a.sqlite", lambda j: began(j, "one"))
    monkeypatch.setattr(listing, "PATIENCE", -1.0)
    scan = scanned(root)
    assert (scan.entries, scan.left_out) == ([], 1)


def test_an_error_of_ours_is_no_empty_page(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that fails as a whole says so to who asked."""
    monkeypatch.setattr(listing.registry, "registered", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Shelf(str(root)).look())


# A glance proves what it shows


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE flows SET name = 'x' WHERE flow = 2",
        "UPDATE flows SET finished = 1 WHERE flow = 2",
        "DELETE FROM flows WHERE flow = 2",
        "UPDATE flows SET flow = 4 WHERE flow = 3",
        "UPDATE events SET error = 'x' WHERE kind = 'end' AND event >> 32 = 2",
        "UPDATE events SET mac = x'00' WHERE event = (2 << 32) + 3",
        "DELETE FROM events WHERE event >> 32 = 2",
        "DELETE FROM events WHERE event = (3 << 32) + 4",
        "UPDATE events SET event = event + 1 WHERE event = (3 << 32) + 4",
        "UPDATE events SET event = (1 << 32) + 5 WHERE event = (2 << 32) + 4",
    ],
)
def test_what_was_changed_is_not_shown(kernels: Kernels, root: Path, sql: str) -> None:
    """A row of a flow or its last event that is not what was written; before the change all are shown."""
    path = root / ".onix" / "a.sqlite"
    kernels.write(path, lambda j: failed(j, "a"), lambda j: failed(j, "b"), lambda j: failed(j, "c"))
    with Reader(path, kernels.key, glance=True) as reader:
        assert [glance.flow.id for glance in reader.newest(10, 100)] == ["c", "b", "a"]
    change(path, sql)
    with (
        Reader(path, kernels.key, glance=True) as reader,
        pytest.raises(JournalDamagedError, match=r"row .* is not what"),
    ):
        reader.newest(10, 100)


def test_a_status_put_back_is_not_shown(kernels: Kernels, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of a flow that ran, restored after it has ended, is sealed, and yet not what is."""
    path = root / ".onix" / "a.sqlite"
    with kernels.open(path) as journal:
        flow = began(journal, "a")
        old = rows_of(path)
        journal.finish(flow, Event("end", status="succeeded", payload=codec.encode(1)))
    columns = ", ".join(f"{name} = ?" for name in (*rows.Flow._fields, "mac"))
    change(path, f"UPDATE flows SET {columns}", *old)
    with Reader(path, kernels.key, glance=True) as reader, pytest.raises(JournalDamagedError, match="row 1 of flows"):
        reader.newest(10, 100)


def rows_of(path: Path) -> tuple[Any, ...]:
    with Reader(path, bytes(range(32))) as reader:
        row: tuple[Any, ...] = reader.connection.execute("SELECT * FROM flows").fetchone()
        return row


def test_a_journal_that_is_opened_while_it_is_read_is_read_again(
    kernels: Kernels, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of a file without a log may not prove once there is one; without a log it is damaged indeed."""
    path = kernels.write(root / ".onix" / "a.sqlite", lambda j: began(j, "one"))
    glance, looks = listing._glance, []

    def torn(*arguments: Any) -> list[rows.Glance]:
        looks.append(1)
        if len(looks) == 1:
            raise JournalDamagedError("torn")
        return glance(*arguments)

    monkeypatch.setattr(listing, "_glance", torn)
    with kernels.open(path):
        (entry,) = scanned(root).entries
    assert (entry.problem, len(entry.rows), len(looks)) == ("", 1, 2)
    looks.clear()
    (entry,) = scanned(root).entries
    assert (entry.problem, len(looks)) == ("torn", 1)


# Whether a kernel has a journal


def test_whether_a_kernel_has_a_journal(
    kernels: Kernels, root: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked from another process and from its own, any number of times, it stays the kernel's."""
    path = root / ".onix" / "a.sqlite"
    assert is_owned(path) is False
    ask = script(
        "import sys, pathlib\nfrom onix_nb.journal.owner import is_owned\nprint(is_owned(pathlib.Path(sys.argv[1])))"
    )
    with kernels.open(path):
        for _ in range(3):
            assert is_owned(path) is True
            assert ask.passes(str(path)) == "True\n"
    assert is_owned(path) is False
    assert ask.passes(str(path)) == "False\n"


# The server does not wait


class Disk:
    """A disk that does not answer when one of its journals is read, until it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *held: str) -> None:
        self.asked: list[str] = []
        self.reached = threading.Event()
        self.answers = threading.Event()
        self._look = listing.look
        self._held = held
        monkeypatch.setattr(listing, "look", self.look)

    def look(self, root: str, path: str, key: bytes, most: int) -> listing.Entry:
        name = os.path.basename(path)
        self.asked.append(name)
        if name in self._held:
            self.reached.set()
            assert self.answers.wait(30)
        return self._look(root, path, key, most)


@pytest.fixture
def disk(kernels: Kernels, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Three journals, of which the second does not answer."""
    for name in "c", "b", "a":
        kernels.write(root / ".onix" / f"{name}.sqlite", lambda j: began(j, "one"))
    disk = Disk(monkeypatch, "b.sqlite")
    yield disk
    disk.answers.set()


def test_the_server_goes_on_while_a_disk_is_slow(disk: Disk, root: Path) -> None:
    """What else the server has to do is done meanwhile, and who asks in that time gets the same reading."""

    async def serve() -> None:
        shelf = Shelf(str(root))
        first = asyncio.create_task(shelf.look())
        assert await asyncio.to_thread(disk.reached.wait, 30)
        second = asyncio.create_task(shelf.look())
        assert await asyncio.to_thread(int, "7") == 7  # the loop runs
        assert not first.done()
        disk.answers.set()
        scan, unanswered = await first
        assert (await second)[0] is scan
        assert unanswered == []
        assert [entry.path for entry in scan.entries] == [f".onix/{name}.sqlite" for name in "abc"]

    asyncio.run(serve())
    assert disk.asked == ["a.sqlite", "b.sqlite", "c.sqlite"]


def test_a_disk_that_does_not_answer_holds_nothing_up(disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows what was read until then; the next ones leave that journal alone, until it answers."""
    monkeypatch.setattr(listing, "PATIENCE", 60.0)
    path = root / ".onix" / "b.sqlite"

    async def serve() -> None:
        shelf = Shelf(str(root))
        patient = asyncio.create_task(shelf.look(60))
        assert await asyncio.to_thread(disk.reached.wait, 30)
        scan, unanswered = await shelf.look(0)
        assert ([entry.path for entry in scan.entries], unanswered) == ([".onix/a.sqlite"], [path])
        for _ in range(2):
            again, unanswered = await shelf.look(60)
            assert ([entry.path for entry in again.entries], unanswered) == (
                [".onix/a.sqlite", ".onix/c.sqlite"],
                [path],
            )
        assert scan.alive
        disk.answers.set()
        await patient
        again, unanswered = await shelf.look(60)
        assert (len(again.entries), unanswered) == (3, [])

    asyncio.run(serve())
