"""Reading a journal: its rows, each proven by its seal before anything of it is used.

A flow is a row of `flows`, rewritten when its status changes. What happened in it is `events`, in
order and without gaps, never changed; each is sealed together with the one before it, so that none
can be altered, left out, put elsewhere or put back, but the last ones cut off.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from ..errors import JournalDamagedError, JournalError, JournalVersionError
from . import codec, schema
from .owner import refuse_unsafe

# Bytes up to which payloads are read together with their events.
SMALL_PAYLOAD: Final = 4096


class Event(NamedTuple):
    """Something that happened in a flow.

    Attributes:
        kind: "begin" (its payload the arguments), "call", "choice" (winners), "sleep" (when it ends) or "end" (the
            outcome).
        key: Which call, choice or sleep; empty for begin and end.
        code: Digest of the code that ran.
        name: Of the function.
        label: A short preview of the arguments.
        status: How it ended; the words are the caller's.
        error_type: Of an exception, and `error` what it said, for when it can't be unpickled.
        attempts: How many it took.
        started: Unix seconds, UTC; only shown, and the order is another thing.
        finished: The same.
        payload: What `codec.encode` gave.
    """

    kind: str
    key: bytes = b""
    code: bytes = b""
    name: str = ""
    label: str = ""
    status: str = ""
    error_type: str = ""
    error: str = ""
    attempts: int = 0
    started: float = 0.0
    finished: float = 0.0
    payload: bytes = b""


class Recorded(NamedTuple):
    """An event as it is in the file, proven except for the payload, which `value` proves.

    Attributes:
        flow: Its flow's number.
        seq: Its place in the flow, from 0.
        event: What was recorded; its payload is empty when it is large.
        digest: Of the payload.
        before: The seal of the event before it.
        mac: Its own seal.
        small: Whether `event` has the payload.
    """

    flow: int
    seq: int
    event: Event
    digest: bytes
    before: bytes
    mac: bytes
    small: bool


class Flow(NamedTuple):
    """One generation of a durable flow.

    Attributes:
        flow: Its number in this file.
        id: The flow id that people gave or that was made from name and arguments.
        generation: From 1; each fresh start is another one.
        kernels: How many kernels began it and neither ended it nor closed the journal.
        events: How many events there were when its status last changed.
    """

    flow: int
    id: str
    generation: int
    name: str
    code: bytes
    label: str
    status: str
    kernels: int
    started: float
    finished: float | None
    events: int


class Glance(NamedTuple):
    """What is known of a flow without reading all of it.

    Attributes:
        flow: Its row.
        last: What happened last in it.
        calls: How many calls are recorded, and `size` the bytes of all payloads; not proven. None where there
            was too much to count.
    """

    flow: Flow
    last: Recorded
    calls: int | None
    size: int | None


Parameters = tuple[Any, ...] | dict[str, int]

_FLOWS: Final = f"SELECT {', '.join(Flow._fields)}, mac FROM flows"
_EVENTS: Final = (
    f"SELECT event, digest, mac, length(payload) <= {SMALL_PAYLOAD}, {', '.join(Event._fields[:-1])},"
    f" CASE WHEN length(payload) <= {SMALL_PAYLOAD} THEN payload ELSE x'' END"
    " FROM events WHERE event >= :start + :found AND event < :end ORDER BY event"
)

# Of a text that `newest` reads: a forged one isn't taken into memory to find that out.
LONGEST_GLANCED: Final = 1 << 20


class Rows:
    """What both read: rows of a connection, proven by their seals."""

    def __init__(self, path: Path, key: bytes, connection: sqlite3.Connection) -> None:
        self.path = path
        self._key = key
        self.connection = connection
        self._id = b""

    def prove(self) -> None:
        """Raises unless the journal is this user's and of a version that is known."""
        version = self.version()
        if version > schema.VERSION:
            raise JournalVersionError(
                f"the journal {self.path} has version {version}, and this onix_nb knows {schema.VERSION}. "
                "Use the onix_nb that wrote it, or move the file away."
            )
        if version == 0:
            raise schema.empty(self.path)
        rows = self.select("row 1 of journal", "SELECT id, mac FROM journal")
        if len(rows) != 1 or rows[0][1] != codec.seal(self._key, "journal", rows[0][0]):
            raise JournalDamagedError(
                f"the journal {self.path}: row 1 of journal was sealed with another key than yours, or damaged. "
                "Move the file away."
            )
        self._id = rows[0][0]

    def version(self) -> int:
        """Of the schema; 0 when there is none yet."""
        of_file = "header"
        application = self.select(of_file, "PRAGMA application_id")[0][0]
        version: int = self.select(of_file, "PRAGMA user_version")[0][0]
        tables = self.select(of_file, "SELECT count(*) FROM sqlite_master")[0][0]
        if application != schema.APPLICATION and (application or version or tables):
            raise JournalDamagedError(f"{self.path} is a database, and no journal of onix. Move it away.")
        return version

    def flows(self) -> list[Flow]:
        """All flows, the first to begin first."""
        found: list[Flow] = []
        sql = f"{_FLOWS} WHERE flow > :found ORDER BY flow"
        for row in self._each(sql, {}, found, lambda: f"row {len(found) + 1} of flows"):
            if row[0] != len(found) + 1:
                raise self.damaged(f"row {len(found) + 1} of flows")
            found.append(self._flow(row))
        return found

    def flow(self, number: int) -> Flow:
        """The flow with this number."""
        rows = self.select(f"row {number} of flows", f"{_FLOWS} WHERE flow = ?", (number,))
        if not rows:
            raise self.damaged(f"row {number} of flows")
        return self._flow(rows[0])

    def _flow(self, row: tuple[Any, ...]) -> Flow:
        found = Flow(*row[:-1])
        if row[-1] != self.flow_seal(found):
            raise self.damaged(f"row {found.flow} of flows")
        return found

    def flow_seal(self, flow: Flow) -> bytes:
        """Of a flow's row, in this file only."""
        return codec.seal(self._key, "flow", self._id, *flow)

    def sizes(self) -> dict[int, tuple[int, int]]:
        """Of each flow, by its number: how many calls are recorded, and the bytes of all payloads; not proven."""
        sql = "SELECT event >> 32, sum(kind = 'call'), sum(length(payload)) FROM events GROUP BY 1"
        return {flow: (calls, size) for flow, calls, size in self.select("events", sql)}

    def events(self, flow: Flow) -> list[Recorded]:
        """What happened in `flow`, in order, each proven.

        Raises:
            JournalDamagedError: An event is altered or missing; the message names the file and the row.
        """
        flow = self.flow(flow.flow)
        found: list[Recorded] = []
        before = b""
        for row in self._each_event(flow.flow, found):
            recorded = self._recorded(row, before)
            if recorded.seq != len(found) or recorded.mac != codec.seal(self._key, *self.fields(recorded)):
                raise self.damaged(row_name(flow.flow, len(found)))
            if recorded.event.kind == "end" and len(found) >= flow.events:
                # Put back: what is in the file was written together with this event.
                raise self.damaged(f"row {flow.flow} of flows")
            found.append(recorded)
            before = recorded.mac
        if len(found) < max(flow.events, self._last_seq(flow.flow) + 1):
            raise self.damaged(row_name(flow.flow, len(found)))
        self._prove_no_strays()
        return found

    def _last_seq(self, flow: int) -> int:
        """Looked for from the other end: behind a damaged flow number the search from the front finds no more."""
        sql = "SELECT event FROM events WHERE event < ? ORDER BY event DESC LIMIT 1"
        rows = self.select("events", sql, (number_of(flow + 1),))
        return rows[0][0] - number_of(flow) if rows else -1

    def _each_event(self, flow: int, found: list[Recorded]) -> Iterator[tuple[Any, ...]]:
        return self._each(_EVENTS, span_of(flow), found, lambda: row_name(flow, len(found)))

    def _each(
        self, sql: str, parameters: dict[str, int], found: list[Any], next_row: Callable[[], str]
    ) -> Iterator[tuple[Any, ...]]:
        """All rows, the unreadable one named; `sql` takes besides `parameters` how many are `found`."""
        try:
            yield from self.connection.execute(sql, {**parameters, "found": 0})
        except sqlite3.DatabaseError:
            # The module reads one row ahead, so that the error may be of the next one: look at them one by one.
            while rows := self.select(next_row(), f"{sql} LIMIT 1", {**parameters, "found": len(found)}):
                yield from rows
            raise self.damaged(next_row()) from None

    def _recorded(self, row: tuple[Any, ...], before: bytes) -> Recorded:
        number, digest, mac, small, *fields = row
        return Recorded(number >> 32, number & 0xFFFFFFFF, Event(*fields), digest, before, mac, bool(small))

    def fields(self, recorded: Recorded) -> tuple[codec.Field, ...]:
        """What is sealed of an event, the digest of the payload last."""
        place = (self._id, recorded.flow, recorded.seq, recorded.before)
        return ("event", *place, *recorded.event[:-1], recorded.digest)

    def value(self, recorded: Recorded) -> Any:
        """The value of an event's payload.

        Raises:
            JournalDamagedError: It isn't what was recorded; the message names the file and the row.
            JournalValueError: It can't be unpickled here.
        """
        return self.decoded(recorded, self.payload(recorded))

    def payload(self, recorded: Recorded) -> Any:
        """The payload of an event, which nothing has proven yet."""
        if recorded.small:
            return recorded.event.payload
        sql = "SELECT payload FROM events WHERE event = ?"
        number = number_of(recorded.flow, recorded.seq)
        rows = self.select(row_name(recorded.flow, recorded.seq), sql, (number,))
        return rows[0][0] if rows else b""

    def decoded(self, recorded: Recorded, payload: Any) -> Any:
        """The value of `payload`, if it is that of the event; needs no connection."""
        try:
            return codec.decode(self._key, recorded.mac, self.fields(recorded), payload)
        except (JournalDamagedError, TypeError) as error:
            raise self.damaged(row_name(recorded.flow, recorded.seq)) from error

    def _prove_no_strays(self) -> None:
        """An event whose flow number was damaged belongs to another flow or to none; its own would just be shorter."""
        known = {number for (number,) in self.select("flows", "SELECT flow FROM flows")}
        sql = "SELECT event FROM events WHERE event >= ? ORDER BY event LIMIT 1"
        start, expected = -(2**63), 0
        while rows := self.select("events", sql, (start,)):
            flow, seq = rows[0][0] >> 32, rows[0][0] & 0xFFFFFFFF
            if flow not in known or seq != 0:
                raise self.damaged(row_name(flow, seq))
            start = number_of(flow + 1)
            expected += self._last_seq(flow) + 1
        if expected != self.select("events", "SELECT count(*) FROM events")[0][0]:
            self._refuse_gap()

    def _refuse_gap(self) -> None:
        sql = (
            "SELECT event FROM events AS one WHERE event & 0xFFFFFFFF AND NOT EXISTS"
            " (SELECT 1 FROM events WHERE event = one.event - 1) ORDER BY event LIMIT 1"
        )
        for (number,) in self.select("events", sql):
            raise self.damaged(row_name(number >> 32, number & 0xFFFFFFFF))

    def select(self, what: str, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """The rows of a query; an error says of `what` it is."""
        try:
            return self.connection.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            # To Python a table that is missing is operational, too.
            missing = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
            if isinstance(error, sqlite3.OperationalError) and not missing:
                raise schema.failed(self.path, error, "read") from error
            raise self.damaged(what, error) from error

    def damaged(self, row: str, error: BaseException | None = None) -> JournalDamagedError:
        """The error that names the file and the row."""
        why = "" if error is None else f" ({error})"
        return JournalDamagedError(
            f"the journal {self.path}: {row} is not what was written{why}. Nothing of it was used. "
            + ("Start the flow with fresh=True, or move the file away." if "events" in row else "Move the file away.")
        )


def number_of(flow: int, seq: int = 0) -> int:
    """Of an event in its table."""
    return (flow << 32) + seq


def span_of(flow: int) -> dict[str, int]:
    """The numbers of a flow's events."""
    return {"start": number_of(flow), "end": number_of(flow + 1)}


def row_name(flow: int, seq: int) -> str:
    """Of an event in messages."""
    return f"row ({flow}, {seq}) of events"


class Reader(Rows):
    """A journal that is only read, whoever owns it.

    Args:
        path: The file.
        key: The user's key, by default the one in Jupyter's data folder.
        glance: For a short look at one of many: hardly waits for a lock, and leaves no log beside a file that
            has none. If a kernel opens the journal meanwhile, what is read may not prove: look again.
    """

    def __init__(self, path: str | os.PathLike[str], key: bytes | None = None, *, glance: bool = False) -> None:
        path = Path(os.path.abspath(path))
        if not os.path.lexists(path):
            raise JournalError(f"there is no journal {path}")
        # A rollback journal is there only while the first kernel makes the file, or if it died before it had.
        if os.path.lexists(f"{path}-journal"):
            raise schema.empty(path)
        refuse_unsafe(path, read_only=True)
        # Without a log nobody writes, and SQLite would make one, to read.
        mode = "ro&immutable=1" if glance and not os.path.lexists(f"{path}-wal") else "ro"
        pragmas = (*schema.PRAGMAS, "PRAGMA busy_timeout = 100") if glance else schema.PRAGMAS
        super().__init__(path, codec.user_key() if key is None else key, schema.connect(path, mode, pragmas))
        try:
            if glance:
                self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_GLANCED)
            self.prove()
        except BaseException:
            self.close()
            raise

    def newest(self, most: int, countable: int) -> list[Glance]:
        """The flows that began last, of one moment; the first number is how many there are.

        Args:
            most: How many flows.
            countable: Beyond so many events those of further flows are not counted.

        Raises:
            JournalDamagedError: Something of it is altered or missing; the message names the file and the row.
        """
        self.select("header", "BEGIN")
        try:
            rows = self.select("flows", f"{_FLOWS} ORDER BY flow DESC LIMIT ?", (most,))
            found: list[Glance] = []
            for place, row in enumerate(rows):
                if row[0] != rows[0][0] - place:
                    raise self.damaged(f"row {rows[0][0] - place} of flows")
                found.append(self._glance(self._flow(row), countable))
                countable -= found[-1].last.seq + 1
            return found
        finally:
            self.connection.rollback()

    def _glance(self, flow: Flow, countable: int) -> Glance:
        last = self._last_seq(flow.flow)
        span = span_of(flow.flow)
        rows = self.select(row_name(flow.flow, last), f"{_EVENTS} LIMIT 2", {**span, "found": max(last - 1, 0)})
        if last + 1 < flow.events or len(rows) != min(last, 1) + 1:
            raise self.damaged(row_name(flow.flow, last + 1))
        recorded = self._recorded(rows[-1], rows[-2][2] if last else b"")
        if recorded.seq != last or recorded.mac != codec.seal(self._key, *self.fields(recorded)):
            raise self.damaged(row_name(flow.flow, last))
        if recorded.event.kind == "end" and last >= flow.events:
            raise self.damaged(f"row {flow.flow} of flows")  # put back, as in `events`
        if last >= countable:
            return Glance(flow, recorded, None, None)
        sql = "SELECT sum(kind = 'call'), sum(length(payload)) FROM events WHERE event >= :start AND event < :end"
        return Glance(flow, recorded, *self.select("events", sql, span)[0])

    def events(self, flow: Flow) -> list[Recorded]:
        """As `Rows.events`, of one moment while another kernel writes."""
        self.select("header", "BEGIN")
        try:
            return super().events(flow)
        finally:
            self.connection.rollback()

    def close(self) -> None:
        """No more is read."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
