"""Journals as kernels leave them, below the folder of a server of the tests."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from onix_nb.journal import codec, schema
from onix_nb.journal.rows import Event, Flow
from onix_nb.journal.store import Journal

# When the flows of the tests began: 2026-01-02 03:04:05 UTC.
BEGAN = 1767323045.0


class Kernels:
    """What kernels of a user do, without kernels: they write journals, and note them.

    Attributes:
        data: Jupyter's data folder.
        key: The user's key.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.notes = data / "onix_nb" / "journals"
        self.notes.mkdir(parents=True, mode=0o700)
        (data / "onix_nb").chmod(0o700)
        self.key = bytes(range(32))
        key = data / "onix_nb" / "journal.key"
        key.write_bytes(self.key)
        key.chmod(0o600)
        self._noted = 0

    def note(self, path: object) -> None:
        """Notes a journal, the last one as the one that was opened last."""
        self._noted += 1
        told = {"path": path if isinstance(path, (str, int, list)) else str(path), "opened": BEGAN + self._noted}
        (self.notes / f"{self._noted:032}.json").write_text(json.dumps(told))

    @contextmanager
    def open(self, path: Path) -> Iterator[Journal]:
        """A journal that a kernel has open."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with closing(Journal(path, self.key)) as journal:
            yield journal

    def write(self, path: Path, *flows: Callable[[Journal], object]) -> Path:
        """A journal that a kernel has written, noted and closed."""
        with self.open(path) as journal:
            for flow in flows:
                flow(journal)
        self.note(path)
        return path

    def copies(self, path: Path, targets: Iterable[Path]) -> None:
        """Many journals with the same content, noted."""
        content = path.read_bytes()
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.write_bytes(content)
            target.chmod(0o600)
            self.note(target)


def began(journal: Journal, flow_id: str, name: str = "nightly", calls: int = 3, size: int = 10) -> Flow:
    """A flow that runs, with so many calls recorded."""
    flow = journal.begin(
        flow_id, Event("begin", name=name, code=b"c", label="n=8", started=BEGAN, payload=codec.encode(None))
    )
    for number in range(calls):
        payload = codec.encode("x" * size)
        one = Event("call", codec.digest(b"%d" % number), b"c", "fetch", f"n={number}", "succeeded", payload=payload)
        journal.record(flow, one)
    return flow


def succeeded(journal: Journal, flow_id: str, name: str = "nightly", calls: int = 3) -> None:
    """A flow that has succeeded."""
    flow = began(journal, flow_id, name, calls)
    journal.finish(flow, Event("end", code=b"c", status="succeeded", finished=BEGAN + 61, payload=codec.encode(1)))


def failed(journal: Journal, flow_id: str, error: str = "no", kind: str = "ValueError", calls: int = 3) -> None:
    """A flow that has failed."""
    flow = began(journal, flow_id, calls=calls)
    end = Event("end", code=b"c", status="failed", error_type=kind, error=error, finished=BEGAN + 61)
    journal.finish(flow, end._replace(payload=codec.encode_error(ValueError("no"))))


def change(path: Path, sql: str, *parameters: object) -> None:
    """Changes a journal behind its back."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sql, parameters)
        connection.commit()


def newer(path: Path) -> None:
    """Makes a journal that of a newer version."""
    change(path, f"PRAGMA user_version = {schema.VERSION + 1}")
