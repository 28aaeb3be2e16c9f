"""What the journals below a folder hold, read in bounded time, memory and number; whatever is in them."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import JournalDamagedError, JournalError
from ..journal import codec, registry
from ..journal.owner import is_owned
from ..journal.rows import Glance, Reader
from ..live.html import GLYPHS, multiline, preview_text, seconds, visible

# Journals that are read, flows of all of them and of each, and events that are counted in each.
MOST_JOURNALS: Final = 2_000
MOST_FLOWS: Final = 2_000
MOST_OF_JOURNAL: Final = 500
LEAST_OF_JOURNAL: Final = 5
MOST_COUNTED: Final = 20_000
# Seconds that reading may take; a page shows what was read until then.
PATIENCE: Final = 5.0
# Characters of an error, and of a path.
LONGEST_ERROR: Final = 4_000
LONGEST_PATH: Final = 300

STATUSES: Final[Mapping[str, str]] = {
    "running": GLYPHS["running"],
    "interrupted": "◍",
    "succeeded": GLYPHS["succeeded"],
    "failed": GLYPHS["failed"],
    "cancelled": GLYPHS["cancelled"],
}


class Row(NamedTuple):
    """A durable flow as the page shows it, in texts that move and hide nothing.

    Attributes:
        id: Its flow id, and `call` its function with the arguments, in short.
        status: As recorded, but "interrupted" when it has not ended and no kernel has the journal.
        calls: How many are recorded, or at least that there are many; `size` of what they returned.
        started: In UTC, and `finished` the same; empty until then.
        took: How long; empty until it has ended.
        error: Type and text of what it failed of.
    """

    id: str
    call: str
    status: str
    calls: str
    size: str
    started: str
    finished: str
    took: str
    error: str


class Entry(NamedTuple):
    """A journal as the page shows it.

    Attributes:
        path: Below the folder.
        rows: Its flows, the last started first; of each id the last start.
        earlier: How many earlier starts are not among them.
        size: Of its files.
        owned: Whether a kernel has it.
        problem: Why it can't be read, or not all of it.
    """

    path: str
    rows: tuple[Row, ...] = ()
    earlier: int = 0
    size: str = ""
    owned: bool = False
    problem: str = ""


class Scan:
    """One reading of all journals below `root`, on a thread of its own.

    The thread is a daemon, and may be given up: a disk that does not answer holds it, and nothing else.

    Attributes:
        root: The folder, as the server names it.
        alive: Whether it still reads.
        entries: What was read so far; only appended to.
        reading: The journal that is read now; None before and after.
        left_out: How many journals were not looked at, because there are too many or it took too long.
        failure: Why nothing more was read, for whoever asked: it is an error of ours.
    """

    def __init__(self, root: str, skip: frozenset[Path] = frozenset(), done: Callable[[], object] = bool) -> None:
        self.alive = True
        self.entries: list[Entry] = []
        self.reading: Path | None = None
        self.left_out = 0
        self.failure: Exception | None = None
        self.root = root
        self._skip = skip
        self._done = done
        self._thread = threading.Thread(target=self._run, name="onix-listing", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._read(time.monotonic() + PATIENCE)
        except Exception as failure:
            self.failure = failure
        finally:
            self.alive, self.reading = False, None
            self._done()

    def _read(self, deadline: float) -> None:
        paths = registry.registered()
        share = min(MOST_OF_JOURNAL, max(MOST_FLOWS // max(len(paths), 1), LEAST_OF_JOURNAL))
        root = os.path.realpath(self.root)
        key: bytes | None = None
        seen: set[str] = set()
        for place, path in enumerate(paths):
            if len(self.entries) >= MOST_JOURNALS or time.monotonic() > deadline:
                self.left_out = len(paths) - place
                return
            if path in self._skip:
                continue
            self.reading = path
            found = below(root, path)
            if found is None or found in seen:
                continue
            seen.add(found)
            try:
                key = key or codec.user_key()
                self.entries.append(look(root, found, key, share))
            except Exception as error:  # whatever is in a file, the page is for the other ones, too
                self.entries.append(Entry(shown(root, found), problem=_why(root, found, error)))


def below(root: str, path: Path) -> str | None:
    """The real path of a journal if that is below `root`, a real path; None if it is elsewhere."""
    try:
        if not path.is_absolute():
            return None
        found = os.path.realpath(path)
    except (OSError, ValueError, RecursionError):  # names that no file can have, links without end
        return None
    return found if found.startswith(os.path.join(root, "")) else None


def shown(root: str, path: str) -> str:
    """A path below `root` as people read it; of a long one the end, which has the journal's name."""
    text = visible(os.path.relpath(path, root))
    return text if len(text) <= LONGEST_PATH else f"…{text[1 - LONGEST_PATH :]}"


def look(root: str, path: str, key: bytes, most: int) -> Entry:
    """What a journal holds: its last `most` flows.

    Raises:
        JournalError: It can't be read, or something in it is not what was written.
    """
    journal = Path(path)
    try:
        found = _glance(journal, key, most)
    except JournalDamagedError:
        if not os.path.lexists(f"{path}-wal"):
            raise
        found = _glance(journal, key, most)  # a kernel has opened it in that moment
    owned = is_owned(journal)
    last: dict[str, Glance] = {}
    for glance in found:
        last.setdefault(glance.flow.id, glance)
    rows = tuple(_row(glance, owned) for glance in last.values())
    earlier = found[0].flow.flow - len(rows) if found else 0
    return Entry(shown(root, path), rows, earlier, amount(_size(path)), bool(owned))


def _glance(journal: Path, key: bytes, most: int) -> list[Glance]:
    with Reader(journal, key, glance=True) as reader:
        return reader.newest(most, MOST_COUNTED)


def _row(glance: Glance, owned: bool | None) -> Row:
    flow, last = glance.flow, glance.last.event
    error = finished = took = ""
    if flow.finished is not None:
        finished, took = moment(flow.finished), seconds(max(flow.finished - flow.started, 0.0))
    if flow.status == "failed" and last.kind == "end":
        error = (
            multiline(f"{last.error_type}: {last.error}"[:LONGEST_ERROR])
            if last.error
            else preview_text(last.error_type)
        )
    return Row(
        preview_text(flow.id),
        preview_text(f"{flow.name}({flow.label})"),
        "interrupted" if flow.status == "running" and owned is False else preview_text(flow.status),
        "many" if glance.calls is None else f"{glance.calls:,}",
        "" if glance.size is None else amount(glance.size),
        moment(flow.started),
        finished,
        took,
        error,
    )


def _size(path: str) -> int:
    """Bytes of a journal and its log."""
    size = os.stat(path).st_size
    try:
        return size + os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return size


def _why(root: str, path: str, error: Exception) -> str:
    said = str(error) if isinstance(error, JournalError) else f"it can't be read: {type(error).__name__}: {error}"
    return multiline(said.replace(path, shown(root, path))[:LONGEST_ERROR])


def moment(when: float) -> str:
    """A time as people read it, in UTC."""
    return f"{datetime.datetime.fromtimestamp(when, datetime.UTC):%Y-%m-%d %H:%M:%S}"


def amount(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
