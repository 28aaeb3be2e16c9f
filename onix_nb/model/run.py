"""The record of one execution of an action, a flow or an executor's call.

A `Run` is a small record: it never holds a result, an exception, a frame or a big argument, so
that the session can remember thousands. Times are `time.monotonic()` seconds; `clock_time` turns
one into an aware UTC `datetime` to show.
"""

from __future__ import annotations

import datetime
import itertools
import sys
import time
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Final, Literal, NamedTuple

from .output import Output

Kind = Literal["action", "flow", "call"]
Status = Literal["pending", "running", "succeeded", "failed", "cancelled"]

# What a record may keep by value; strings up to LONGEST_TEXT characters.
SCALARS: Final = frozenset({int, float, bool, type(None), complex})
LONGEST_TEXT: Final = 200

# The next run's id; `next()` on a count is atomic.
_ids = itertools.count(1)

# Outputs of runs that write their first text just now.
_first_outputs: Final[dict[Run, Output]] = {}

# Added to a monotonic time it gives the seconds since the epoch, as the clock stood at import.
EPOCH: Final = time.time() - time.monotonic()


def clock_time(monotonic: float) -> datetime.datetime:
    """The UTC time of a monotonic one; for display only."""
    return datetime.datetime.fromtimestamp(monotonic + EPOCH, datetime.UTC)


def clock_seconds() -> float:
    """The time of day in seconds since the epoch, as other processes can read it."""
    return time.monotonic() + EPOCH


def monotonic_time(clock: float, earliest: float) -> float:
    """The monotonic time here of `clock_seconds()` in a worker; of a clock that is wrong, within reason."""
    return max(earliest, min(time.monotonic(), clock - EPOCH))


class Span(NamedTuple):
    """One attempt that failed and was followed by another.

    Attributes:
        attempt: Its number, from 1.
        started: When it began, in monotonic seconds.
        finished: When it ended, in monotonic seconds.
        error: What it raised, as one line of text.

    Example:
        >>> import onix_nb as onix
        >>> tries = iter([ConnectionError("busy"), None])
        >>> @onix.action(retry=onix.RetryPolicy(initial_interval=0))
        ... def fetch() -> str:
        ...     if error := next(tries):
        ...         raise error
        ...     return "fetched"
        >>> future = fetch.start()
        >>> future.result()
        'fetched'
        >>> [(span.attempt, span.error) for span in future.run.spans]
        [(1, 'ConnectionError: busy')]
    """

    attempt: int
    started: float
    finished: float
    error: str | None


class Summary:
    """Stands in a record for a value that is too big, or too alive, to be kept.

    Attributes:
        text: Its type, and its shape or its length.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def largest(numbers: list[int]) -> int:
        ...     return max(numbers)
        >>> future = largest.start(numbers=[3, 1, 2])
        >>> future.result(), future.run.arguments
        (3, {'numbers': <list of 3>})
    """

    __slots__ = ("text",)

    def __init__(self, value: object) -> None:
        size = getattr(value, "shape", None) if type(value).__module__.partition(".")[0] in _SHAPED else None
        if isinstance(size, tuple) and size:  # a scalar of numpy has the shape ()
            self.text = f"{type(value).__name__} {'×'.join(map(str, size))}"
        elif type(value) in (list, tuple, dict, set, frozenset, str, bytes):
            self.text = f"{type(value).__name__} of {len(value)}"  # type: ignore[arg-type]
        else:
            self.text = type(value).__name__

    def __repr__(self) -> str:
        return f"<{self.text}>"


_SHAPED: Final = frozenset({"numpy", "pandas", "scipy", "polars"})


def is_kept(value: object) -> bool:
    """Whether a record may keep `value` itself."""
    kind = type(value)
    return kind in SCALARS or (kind is str and len(value) <= LONGEST_TEXT)  # type: ignore[arg-type]


def plain(value: object) -> object:
    """A scalar of numpy as Python's own; anything else as it is."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic) and type(value).__module__ == "numpy":
        return value.item()
    return value


def message_of(error: BaseException) -> str:
    """What the exception says, whatever its `__str__` does."""
    try:
        return str(error)
    except Exception as failure:
        return f"<its __str__ raised {type(failure).__name__}>"


def error_text(error: BaseException) -> str:
    """`Type: message`, one line of bounded length that can be printed, whatever the exception's `__str__` does."""
    message = message_of(error)
    return printable(" ".join(f"{type(error).__name__}: {message}".split()) if message else type(error).__name__)


def printable(text: str) -> str:
    """`text` of bounded length, without lone surrogates: they can't be sent or written, nor can what they are in."""
    text = text[: LONGEST_TEXT + 1].encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


class Run:
    """One execution: what was called, by whom, when, and how it ended.

    Attributes:
        id: A number, unique in this process, in the order of starting.
        name: The name of the function.
        kind: `"action"`, `"flow"`, or `"call"` for what went through `onix.Executor`.
        parent: The run that started it; None for one that a cell started.
        arguments: The arguments by name, big ones as a `Summary`.
        cell: Which cell started it, or its parent; None outside a notebook.
        queued: When it was started by its caller (monotonic seconds), `started` when it began to
            run, `finished` when it ended; None while that has not happened.
        attempt: The number of the latest attempt, from 1.
        begun: When the latest attempt began, if it is not the first.
        spans: The attempts that another one followed, each a `Span`; None when the first was the last.
        error: The exception as one line of text, for a failed run.
        leaked: Whether its flow returned without consuming it.
        stopping: Whether it was cancelled, or timed out, while its thread goes on for now.
        worker: Which worker of an executor ran it last, for people; None on the kernel's own threads.
        first_ran: For a run of which the journal had the outcome, so that it did not run again: when it ended
            at first, in seconds since the epoch; else None.
        output: The end of what it printed, logged or warned of, as `output.text`; None for nothing.
            Only where the extension is loaded.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> future = double.start(x=21)
        >>> future.result()
        42
        >>> run = future.run
        >>> run.name, run.kind, run.status, run.arguments, run.attempt
        ('double', 'action', 'succeeded', {'x': 21}, 1)
        >>> run.queued <= run.started <= run.finished
        True
    """

    __slots__ = (
        "_code",
        "_instruction",
        "_outcome",
        "arguments",
        "attempt",
        "begun",
        "cell",
        "error",
        "finished",
        "first_ran",
        "id",
        "kind",
        "leaked",
        "name",
        "output",
        "parent",
        "queued",
        "spans",
        "started",
        "stopping",
        "worker",
    )

    def __init__(
        self,
        name: str,
        kind: Kind,
        parent: Run | None,
        arguments: Mapping[str, Any],
        cell: str | None,
        code: CodeType | None,
        instruction: int,
    ) -> None:
        self.id = next(_ids)
        self.name = name
        self.kind = kind
        self.parent = parent
        self.arguments = arguments
        self.cell = cell
        self._code = code  # with the instruction: the line that started it, computed when asked for
        self._instruction = instruction
        self.queued = time.monotonic()
        self.started: float | None = None
        self.finished: float | None = None
        self.attempt = 1
        self.begun: float | None = None
        self.spans: list[Span] | None = None
        self._outcome: Status | None = None
        self.error: str | None = None
        self.leaked = False
        self.stopping = False
        self.worker: str | None = None
        self.first_ran: float | None = None
        self.output: Output | None = None

    @property
    def status(self) -> Status:
        """`pending`, `running`, `succeeded`, `failed` or `cancelled`."""
        return self._outcome or ("pending" if self.started is None else "running")

    @property
    def line(self) -> tuple[str, int] | None:
        """The file (for a cell, its name in tracebacks) and the line that started the run."""
        if self._code is None:
            return None
        for begin, end, line in self._code.co_lines():
            if begin <= self._instruction < end and line is not None:
                return self._code.co_filename, line
        return self._code.co_filename, self._code.co_firstlineno

    @property
    def where(self) -> str:
        """The line that started the run, as text: `file.py:12`, or `In [3], line 2` in a notebook."""
        if self.line is None:
            return "?"
        return place(*self.line, self.cell)

    @property
    def elapsed(self) -> float | None:
        """Seconds that it ran, up to now while it runs; None when it has not started."""
        if self.started is None:
            return None
        return (time.monotonic() if self.finished is None else self.finished) - self.started

    def end(self, outcome: Status, now: float, error: str | None = None) -> None:
        """Records the end. Only the one who settled the run may call it, once."""
        self.finished = now
        self.error = error
        self._outcome = outcome

    def keep_output(self, text: str) -> None:
        """Appends what the run wrote to its output; from any thread."""
        text = str.__str__(text)  # of a subclass, which may override anything, the plain text
        if not text:
            return
        output = self.output
        if output is None:
            # `setdefault` is one step, so that threads that come together take the same one. It
            # stays there until it is in its place, where a thread that comes later finds it.
            output = _first_outputs.setdefault(self, Output())
            if self.output is None:
                self.output = output
            output = self.output
            _first_outputs.pop(self, None)
        output.write(text)

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.name} {self.status}>"


def _no_cell(file: str) -> None:
    """Outside a notebook."""


_cell_of: Callable[[str], str | None] = globals().get("_cell_of", _no_cell)


def name_cells(cell_of: Callable[[str], str | None] = _no_cell) -> None:
    """A notebook tells which cell (`In [3]`) has the code of a file's name; without an argument, no longer."""
    global _cell_of
    _cell_of = cell_of


def cell_of(file: str) -> str | None:
    """The cell that has the code of a file's name, as people name it; None for a file, or when it isn't known."""
    return _cell_of(file)


def place(file: str, line: int, cell: str | None = None) -> str:
    """A line of code as text: `In [3], line 2`, or `file.py:12`.

    Args:
        file: The name of the code's file; for a cell, as tracebacks have it.
        line: Its line, from 1.
        cell: The cell that it is taken for, if it is a cell's and nobody knows which.
    """
    cell = cell_of(file) or (cell if is_cell_file(file) else None)
    return f"{file.rpartition('/')[2]}:{line}" if cell is None else f"{cell}, line {line}"


def is_cell_file(file: str) -> bool:
    """Whether a code's file name is that of a notebook cell or of a prompt, not of a file."""
    return file.startswith("<") or "ipykernel_" in file


Run.__module__ = "onix_nb"
