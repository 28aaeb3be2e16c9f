"""What is in the journal's file, and how it is opened."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import urllib.parse
from pathlib import Path
from typing import Final

from ..errors import JournalDamagedError, JournalError, JournalWriteError
from . import codec

# "onix" as a number: whose file it is, for `file` and for us.
APPLICATION: Final = 0x6F6E6978

# The statements that make version n + 1 of version n; never edited once released.
MIGRATIONS: Final = (
    (
        "CREATE TABLE journal (id BLOB NOT NULL, mac BLOB NOT NULL)",
        """
        CREATE TABLE flows (
            flow INTEGER PRIMARY KEY, id TEXT NOT NULL, generation INTEGER NOT NULL, name TEXT NOT NULL,
            code BLOB NOT NULL, label TEXT NOT NULL, status TEXT NOT NULL, kernels INTEGER NOT NULL,
            started REAL NOT NULL, finished REAL, events INTEGER NOT NULL, mac BLOB NOT NULL
        )
        """,
        # `event` is flow * 2^32 + place: in order of recording, so that SQLite appends. The payload is last: what
        # comes before it is read without it.
        """
        CREATE TABLE events (
            event INTEGER PRIMARY KEY, kind TEXT NOT NULL, key BLOB NOT NULL, code BLOB NOT NULL,
            name TEXT NOT NULL, label TEXT NOT NULL, status TEXT NOT NULL, error_type TEXT NOT NULL,
            error TEXT NOT NULL, attempts INTEGER NOT NULL, started REAL NOT NULL, finished REAL NOT NULL,
            digest BLOB NOT NULL, mac BLOB NOT NULL, payload BLOB NOT NULL
        )
        """,
    ),
)
VERSION: Final = len(MIGRATIONS)

# Besides `journal_mode = WAL`, with which readers don't stop the writer, and a commit is one write and one sync.
WRITER_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",  # NORMAL loses what was committed since the last checkpoint in a power cut
    "PRAGMA fullfsync = ON",  # macOS: fsync alone leaves it in the drive's cache; no-op elsewhere
    "PRAGMA checkpoint_fullfsync = ON",  # the same for checkpoints
    "PRAGMA locking_mode = NORMAL",  # EXCLUSIVE would lock the readers out
    "PRAGMA wal_autocheckpoint = 0",  # `_checkpoint` does it, and begins the log anew
    "PRAGMA journal_size_limit = 16777216",  # one large result doesn't leave a large log behind for ever
)
PRAGMAS: Final = (
    "PRAGMA mmap_size = 0",  # a file cut short is an error to catch, not a SIGBUS
    "PRAGMA cell_size_check = OFF",  # the rows beside a damaged one stay readable, so that it can be named
    "PRAGMA trusted_schema = OFF",  # a forged schema calls nothing
)

# Seconds that a stranger's lock on the database may take; with what else is done a caller hears within 5.
BUSY_SECONDS: Final = 3.0


def connect(path: Path, mode: str, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    """A connection; transactions are begun and committed by hand."""
    uri = f"file:{urllib.parse.quote(os.fsencode(path))}?mode={mode}"
    with contextlib.ExitStack() as undo:
        try:
            connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            undo.callback(connection.close)
            connection.text_factory = _text
            for pragma in pragmas:
                connection.execute(pragma)
        except sqlite3.Error as error:
            raise failed(path, error, "opened") from error
        undo.pop_all()
    return connection


def _text(data: bytes) -> str:
    """A damaged text is no error of its own: its row does not prove."""
    return data.decode("utf-8", "surrogateescape")


def migrate(path: Path, connection: sqlite3.Connection, version: int, key: bytes) -> None:
    """Makes the schema, or brings that of an older `version` up to date, in one transaction."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":  # SQLite keeps the old one where the file system or the disk doesn't let it
        raise JournalWriteError(f"the journal {path} can't have a write-ahead log there; its mode is {mode!r}.")
    for pragma in WRITER_PRAGMAS:
        connection.execute(pragma)
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    if version == 0:
        identity = secrets.token_bytes(16)
        connection.execute("INSERT INTO journal VALUES (?, ?)", (identity, codec.seal(key, "journal", identity)))
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def failed(path: Path, error: BaseException, what: str = "written") -> JournalError:
    """The typed error for one of SQLite's."""
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError | sqlite3.DataError | sqlite3.IntegrityError
    ):
        return JournalDamagedError(f"the journal {path} is no database, or damaged ({error}). Move it away.")
    return JournalWriteError(f"the journal {path} could not be {what}: {error}.")


def empty(path: Path) -> JournalError:
    """The error for a file of which nothing was made yet."""
    return JournalError(f"the journal {path} has nothing in it yet")
