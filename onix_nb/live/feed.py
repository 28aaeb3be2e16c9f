"""The runs of one view as messages: a snapshot for who comes late, small deltas for who is there.

Pure: runs go in, messages come out; when, and to whom, is decided elsewhere. A message is a head
(JSON) and a block of records, one for each row that is new or has changed, little-endian:

    u32 row, u32 run id, u32 row of the parent + 1, u16 name, u8 status, u8 flags,
    u32 queued, u32 started + 1, u32 finished + 1 (milliseconds), u16 attempt, u16 unused

Rows are numbered in the order in which they came, so a parent is always before its children. Names
are sent once each; the texts of rows follow when the records have gone, as far as there is room.
`static/runs.js` reads this.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ..model.future import Future
from ..model.run import Run, Status
from . import html

RECORD: Final = struct.Struct("<IIIHBBIIIHH")
STATUSES: Final[tuple[Status, ...]] = ("pending", "running", "succeeded", "failed", "cancelled")
STOPPING, LEAKED, CANCELLABLE, REPLAYED = 1, 2, 4, 8

# Bytes of one delta, and of a snapshot, with their heads.
DELTA_BYTES: Final = 64_000
SNAPSHOT_BYTES: Final = 2_000_000
# Rows that a view lists; of more it says how many.
MOST_ROWS: Final = 40_000
# Different names that a view tells apart; what comes later shares the last one.
MOST_NAMES: Final = 1_000
OTHER_NAME: Final = "…"
# Failures of which the traceback is kept.
MOST_TRACEBACKS: Final = 200
# Room for the head of a delta without its names and texts.
HEAD_BYTES: Final = 1_000


class Message(NamedTuple):
    """What is sent to a page."""

    head: dict[str, Any]
    records: bytes

    @property
    def size(self) -> int:
        """Its bytes on the wire, without the envelope."""
        return len(json.dumps(self.head)) + len(self.records)


class Feed:
    """The rows of one view, and what of them has not been sent.

    Every message may be taken twice: records and texts say which row they are of, names their number.
    """

    def __init__(self, begun: float, note: str = "") -> None:
        self.rows: list[html.Row] = []
        self.more = 0
        self._begun = begun
        self._note = note
        self._index: dict[Run, int] = {}
        self._names: dict[str, int] = {}
        self._named = 0  # how many of them have been sent
        self._states: list[tuple[object, ...] | None] = []  # of each row, when it was last looked at
        self._open: list[int] = []  # the rows that may still change
        self._changed: deque[int] = deque()  # rows whose record is to be sent
        self._untold: dict[int, None] = {}  # rows whose texts are to be sent
        self._tracebacks = 0
        self._seq = 0

    def __contains__(self, run: object) -> bool:
        return run in self._index

    @property
    def unfinished(self) -> bool:
        """Whether something may still change."""
        return bool(self._open)

    def add(self, run: Run, future: Future[Any] | None) -> None:
        """Puts a run below the one that started it, if that is here, else at the top; the next look finds it."""
        if run in self._index:
            return
        if len(self.rows) >= MOST_ROWS:
            self.more += 1
            return
        parent = -1 if run.parent is None else self._index.get(run.parent, -1)
        number = len(self.rows)
        row = html.Row(run, future, parent, self.rows[parent].depth + 1 if parent >= 0 else 0)
        self._index[run] = number
        if row.name not in self._names and len(self._names) >= MOST_NAMES:
            row.name = OTHER_NAME
        self._names.setdefault(row.name, len(self._names))
        self.rows.append(row)
        self._states.append(None)
        self._open.append(number)

    def look(self) -> bool:
        """Notices what has changed. Returns whether something has."""
        still: list[int] = []
        before = len(self._changed)
        for number in self._open:
            row = self.rows[number]
            run = row.run
            state = (run.started, run.finished, run.stopping, run.leaked, run.attempt)
            ended = run.finished is not None and not run.stopping
            if ended:
                row.end(keep_traceback=self._tracebacks < MOST_TRACEBACKS)
                self._tracebacks += row.traceback is not None
            else:
                still.append(number)
            if ended or run.attempt > 1 or self._states[number] is None:
                self._untold[number] = None
            if state != self._states[number]:
                self._states[number] = state
                self._changed.append(number)
        self._open = still
        return len(self._changed) > before

    def tree(self) -> list[html.Row]:
        """The rows in the order of starting, each followed by those that it started."""
        below: dict[int, list[int]] = {}
        for number, row in enumerate(self.rows):
            below.setdefault(row.parent, []).append(number)
        rows: list[html.Row] = []
        stack = below.get(-1, [])[::-1]
        while stack:
            number = stack.pop()
            rows.append(self.rows[number])
            stack += reversed(below.get(number, ()))
        return rows

    def with_id(self, run_id: int) -> html.Row | None:
        """The row of a run."""
        return next((row for row in self.rows if row.run.id == run_id), None)

    # Messages.

    def opening(self, now: float) -> Message:
        """The first snapshot, for a page that has nothing; what it contains is not sent again."""
        self._changed.clear()
        self._untold.clear()
        self._named = len(self._names)
        return self.snapshot(now)

    def snapshot(self, now: float) -> Message:
        """Everything; texts as far as they fit, the others come with the next deltas."""
        head = self._head(now, whole=True, names=list(self._names))
        room = SNAPSHOT_BYTES - len(self.rows) * RECORD.size - len(json.dumps(head))
        head["texts"] = self._texts(range(len(self.rows)), room)
        for number in range(len(head["texts"]), len(self.rows)):
            self._untold[number] = None
        return Message(head, self._records(range(len(self.rows))))

    def delta(self, now: float) -> Message | None:
        """What has changed since the last one, as far as it fits, the rest comes with the next. None: nothing."""
        if not self._changed and not self._untold:
            return None
        first = self._named
        numbers = self._take_changed()
        self._seq += 1
        head = self._head(now, whole=False, names=list(self._names)[first : self._named])
        if not self._changed:  # each row is known, so it may get its texts
            room = DELTA_BYTES - len(numbers) * RECORD.size - len(json.dumps(head))
            head["texts"] = self._texts(self._untold, room)
            for number, *_ in head["texts"]:
                del self._untold[number]
        return Message(head, self._records(numbers))

    def _take_changed(self) -> list[int]:
        """Rows whose records fit into one delta, with the names that they need."""
        numbers: dict[int, None] = {}
        room = DELTA_BYTES - HEAD_BYTES
        while self._changed:
            name = self.rows[self._changed[0]].name
            new = self._names[name] >= self._named
            room -= RECORD.size + new * (len(json.dumps(name)) + 2)
            if room < 0:
                break
            numbers[self._changed.popleft()] = None
            self._named += new
        return sorted(numbers)  # a parent before its children

    def _head(self, now: float, *, whole: bool, names: list[str]) -> dict[str, Any]:
        return {
            "kind": "runs",
            "seq": self._seq,
            "whole": whole,
            "now": round((now - self._begun) * 1000),
            "note": self._note,
            "more": self.more,
            "first": 0 if whole else self._named - len(names),
            "names": names,
            "texts": [],
        }

    def _texts(self, numbers: Iterable[int], room: int) -> list[list[Any]]:
        texts: list[list[Any]] = []
        for number in numbers:
            row = self.rows[number]
            text = [number, row.arguments, row.value, self._spans(row.run)]
            room -= len(json.dumps(text)) + 2
            if room < 0:
                break
            texts.append(text)
        return texts

    def _spans(self, run: Run) -> list[list[int]] | None:
        """Begin and end of each attempt that another followed, and the begin of that, or -1."""
        if not run.spans:
            return None
        spans = list(run.spans)
        last = run.begun if run.begun is not None and run.begun >= spans[-1].finished else None
        nexts = [span.started for span in spans[1:]] + [last]
        return [
            [self._since(span.started), self._since(span.finished), -1 if after is None else self._since(after)]
            for span, after in zip(spans, nexts, strict=True)
        ]

    def _since(self, moment: float) -> int:
        return max(0, round((moment - self._begun) * 1000))

    def _records(self, numbers: Iterable[int]) -> bytes:
        return b"".join(map(self._record, numbers))

    def _record(self, number: int) -> bytes:
        row = self.rows[number]
        run = row.run
        status, started, finished = run.status, run.started, run.finished
        return RECORD.pack(
            number,
            run.id & 0xFFFFFFFF,
            row.parent + 1,
            self._names[row.name],
            STATUSES.index(status),
            STOPPING * run.stopping
            | LEAKED * run.leaked
            | CANCELLABLE * (row.future is not None)
            | REPLAYED * (run.first_ran is not None),
            self._since(run.queued),
            0 if started is None else self._since(started) + 1,
            0 if finished is None else self._since(finished) + 1,
            min(run.attempt, 0xFFFF),
            0,
        )
