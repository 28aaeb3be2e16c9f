"""What runs print is shown as long as a page can take it; then it is kept with them, and what is missing is said.

A server of Jupyter lets a kernel send 1,000,000 bytes of text and 1,000 messages a second, on average over
three seconds; beyond, it drops whatever comes, of views and other cells too. And what is shown under a
cell is in the notebook's file for ever. A cell's own text, outside of runs, is not limited.

As in `model/output.py` nothing that a print goes through takes a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import html
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from IPython.display import display

from ..model.attempt import current
from ..model.output import Counter

# Bytes that the runs of one execution of a cell show under it.
MOST_SHOWN: Final = 500_000

# Seconds of a window, and what all runs send in one: of two windows that touch, the server sees both as one.
WINDOW: Final = 3.0
MOST_SENT: Final = 1_000_000
MOST_FLUSHES: Final = 600

# Bytes a window for progress bars, which a page draws over each other, when their cell shows no more.
MOST_REDRAWN: Final = 9_000

# Seconds between two updates of what is said under a cell.
TELL_SECONDS: Final = 1.0

_innermost = current.get


class Window:
    """Lets through what fits into each few seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun = 0.0
        self._taken = Counter()

    def take(self, size: int) -> bool:
        """Whether `size` more fits."""
        now = time.monotonic()
        if now - self._begun >= WINDOW:
            self._begun = now
            self._taken.reset()
        return self._taken.add(size) <= self._most


class Flood:
    """What the runs of one execution of a cell have shown, and what they have not."""

    def __init__(self) -> None:
        self.shown = Counter()
        self.dropped = Counter()
        self._told = 0
        self._display_id = f"onix-{uuid.uuid4().hex}"
        # That of the code whose text was dropped first: what is displayed in it comes under its cell.
        self._context: contextvars.Context | None = None

    def drop(self, characters: int) -> None:
        """Counts what is not shown."""
        self.dropped.add(characters)
        if self._context is None:
            self._context = contextvars.copy_context()

    def tell(self) -> None:
        """Says under the cell how much is missing, in one place; one thread at a time."""
        dropped, context = self.dropped.value, self._context
        if dropped <= self._told or context is None:
            return
        text = (
            f"onix_nb: {dropped:,} more characters that runs of this cell printed are not shown, so that the page can "
            "take it; the last 64 KB of each run are in its details, and in run.output.text"
        )
        bundle = {"text/plain": text, "text/html": f'<div class="onix-note">{html.escape(text)}</div>'}
        first, self._told = not self._told, dropped
        # An update in an empty context, as that of a view.
        where = context if first else contextvars.Context()
        where.run(display, bundle, raw=True, display_id=self._display_id, update=not first)


class Floods:
    """The limits of one kernel."""

    def __init__(self) -> None:
        self._cells: dict[str | None, Flood] = {}
        self._sent = Window(MOST_SENT)
        self._redrawn = Window(MOST_REDRAWN)
        self._flushes = Window(MOST_FLUSHES)
        # One thread tells at a time.
        self._telling = threading.Lock()

    def fits(self, cell: str | None, text: str) -> int:
        """How many characters of `text` are to be shown; the others are counted."""
        flood = self._cells.get(cell)
        if flood is None:
            flood = self._cells.setdefault(cell, Flood())
        size = len(text)
        cost = size if text.isascii() else 4 * size  # in bytes, at most
        if flood.shown.add(cost) <= MOST_SHOWN:
            if self._sent.take(cost):
                return size
            fits = 0
        else:
            room = MOST_SHOWN - (flood.shown.value - cost)
            fits = max(room * size // cost, 0)
            if not fits and text.startswith("\r") and self._redrawn.take(cost):
                fits = size
            if fits and not self._sent.take(cost * fits // size):
                fits = 0
        flood.shown.add(cost * fits // size - cost)
        flood.drop(size - fits)
        return fits

    def may_flush(self) -> bool:
        """Whether a run may have its text sent at once; the stream sends it some moments later anyway."""
        return self._flushes.take(1)

    def tell(self) -> None:
        """Brings what is said under the cells up to date."""
        if self._telling.acquire(blocking=False):
            try:
                for flood in list(self._cells.values()):
                    flood.tell()
            finally:
                self._telling.release()


class Limit:
    """Lets a stream of ipykernel show what fits, by a `write` and a `flush` of its own.

    IPython puts a `write` of its own in front for each cell, and at the cell's end puts back the one that it has
    found: ours comes in, and goes away, between cells.
    """

    def __init__(self, stream: Any, floods: Floods, keep: Callable[[str], None]) -> None:
        self._stream = stream
        self._floods = floods
        self._keep = keep
        self._limits = True
        self._telling = False
        self._before: Any = None
        self._write: Any = None
        self._flush = vars(stream)["flush"] = self._sparing(stream.flush)
        self._settle()

    def release(self) -> None:
        """Leaves the stream as it was. Where somebody has wrapped its `write` since, text just goes through ours."""
        self._limits = False
        if vars(self._stream).get("flush") is self._flush:
            del self._stream.flush
        self._settle()

    def _settle(self) -> None:
        """Puts `write` in place, or takes it away, as soon as no cell runs."""
        own = vars(self._stream)
        present = own.get("write")
        if getattr(present, "__qualname__", "").startswith("InteractiveShell._tee"):
            with contextlib.suppress(RuntimeError):  # no loop: not in a kernel's cell
                asyncio.get_running_loop().call_later(0, self._settle)
        elif self._limits and self._write is None:
            self._before = present
            self._write = own["write"] = self._limiting(self._stream.write)
        elif not self._limits and present is self._write and present is not None:
            if self._before is None:
                del own["write"]
            else:
                own["write"] = self._before

    def _limiting(self, through: Callable[[str], Any]) -> Callable[[str], Any]:
        """`through` for what fits."""

        def write(string: str) -> Any:
            __tracebackhide__ = True
            attempt = _innermost()
            if attempt is None or not string or not self._limits or type(string) is not str:
                return through(string)
            size = len(string)
            try:
                fits = self._floods.fits(attempt.run.cell, string)
            except Exception:  # whatever goes wrong here, the user's print is right
                fits = size
            if fits == size:
                return through(string)
            if fits:
                through(string[:fits])
            self._keep(string[fits:])
            self._tell_soon()
            return size

        return write

    def _sparing(self, through: Callable[[], None]) -> Callable[[], None]:
        """`through` unless runs flush all the time, each time a message."""

        def flush() -> None:
            if _innermost() is None or self._floods.may_flush():
                through()

        return flush

    def _tell_soon(self) -> None:
        """Has the stream's IO thread tell, as it does with what is written; cells may block for long."""
        if not self._telling:
            self._telling = True
            thread = self._stream.pub_thread
            thread.schedule(lambda: thread.io_loop.call_later(TELL_SECONDS, self._tell))

    def _tell(self) -> None:
        self._telling = False
        self._floods.tell()
