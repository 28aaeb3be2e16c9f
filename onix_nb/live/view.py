"""Views of futures in a notebook, kept current in place until everything in them has ended.

A view is a display of its own (`display_id`), because the last expression of a cell has none. It
is updated from one thread for the whole kernel, which ends when nothing that is shown is
unfinished. The last update is static HTML and text: that is what the saved notebook shows.
"""

from __future__ import annotations

import contextvars
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any, Final

from IPython.display import display

from ..engine.session import live
from ..model.future import Future
from ..model.run import Run
from . import html

# Seconds between two looks at what is shown, and between two updates of a view in which just time passed.
LOOK_SECONDS: Final = 0.2
TICK_SECONDS: Final = 1.0


class View:
    """Some futures, and the runs below them, on the page."""

    def __init__(self, futures: Iterable[Future[Any]], note: str = "") -> None:
        self._futures = sorted(futures, key=lambda future: future.run.id if future.run else 0)
        self._note = note
        self._display_id = f"onix-{uuid.uuid4().hex}"
        self._shown: list[html.Row] = []
        # What runs below the futures: their futures until they have ended, then their last rows,
        # because the session keeps no results of theirs.
        self._running: dict[Run, Future[Any]] = {}
        self._ended: dict[Run, html.Row] = {}
        self._updated = 0.0

    def show(self) -> None:
        """Displays the view under the cell that runs now."""
        display(self._bundle(self.rows()), raw=True, display_id=self._display_id)

    def refresh(self) -> bool:
        """Brings the page up to date. False when everything has ended and nothing more will come."""
        rows = self.rows()
        ended = all(row.finished is not None for row in rows)
        now = time.monotonic()
        if rows != self._shown or (not ended and now - self._updated >= TICK_SECONDS):
            self._send(rows)
        return not ended

    def repeat(self) -> None:
        """Sends the final state again."""
        self._send(self._shown)

    def _send(self, rows: list[html.Row]) -> None:
        # In an empty context: nbclient drops updates that come with a cell's own parent.
        contextvars.Context().run(display, self._bundle(rows), raw=True, display_id=self._display_id, update=True)

    def _bundle(self, rows: list[html.Row]) -> dict[str, str]:
        self._shown = rows
        self._updated = time.monotonic()
        return {"text/html": html.as_html(rows, self._note), "text/plain": html.as_text(rows)}

    def rows(self) -> list[html.Row]:
        """The futures' runs in order of starting, each followed by the runs that it started."""
        children: dict[Run, list[Run]] = {}
        if any(future.run is not None and future.run.kind == "flow" for future in self._futures):
            for run in live().runs():
                if run.parent is not None:
                    children.setdefault(run.parent, []).append(run)
        self._running.update({run: future for run, future in live().unfinished.copy().items() if future})
        rows: list[html.Row] = []
        running: dict[Run, Future[Any]] = {}
        own = {future.run: future for future in self._futures}
        stack = [(future.run, 0) for future in reversed(self._futures) if future.run is not None]
        while stack:
            run, depth = stack.pop()
            future = own.get(run) or self._running.get(run)
            row = self._ended.get(run) or html.row_of(run, future, depth)
            if row.finished is not None and not run.stopping:
                self._ended[run] = row
            elif future is not None:
                running[run] = future
            rows.append(row)
            stack += [(child, depth + 1) for child in reversed(children.get(run, ()))]
        self._running = running
        return rows


class Refresher:
    """The one thread that keeps views current; it ends when there is nothing to do."""

    def __init__(self) -> None:
        # Guards `_views` and `_thread`; notified when a shown future has settled.
        self._changed = threading.Condition(threading.RLock())
        self._views: list[View] = []
        self._thread: threading.Thread | None = None
        self._hurry = False
        # Views that have ended since the last `flush`. Guarded by `_refreshing`.
        self._ended: list[View] = []
        # Guards the rows that each view remembers. Held while a view is sent.
        self._refreshing = threading.RLock()

    def follow(self, view: View, futures: Iterable[Future[Any]]) -> None:
        """Keeps `view` current until all of it has ended."""
        for future in futures:
            future._hear(self._settled)
        with self._changed:
            self._views.append(view)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="onix-view", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Brings every view up to date at once: what a batch run saves is what a cell ends with."""
        with self._refreshing:
            # nbclient drops what comes between two cells, which may have been the last update.
            ended, self._ended = self._ended, []
            for view in ended:
                view.repeat()
            for view in list(self._views):
                view.refresh()

    def _settled(self, _: Future[Any]) -> None:
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def _run(self) -> None:
        while views := self._next():
            with self._refreshing:
                ended = [view for view in views if not view.refresh()]
                self._ended += ended
            with self._changed:
                self._views = [view for view in self._views if view not in ended]

    def _next(self) -> list[View]:
        """The views to look at, at most five times a second; none when the thread is to end."""
        with self._changed:
            if not self._hurry:
                self._changed.wait(LOOK_SECONDS)
            self._hurry = False
            if not self._views:
                self._thread = None
            return list(self._views)


refresher = Refresher()


def show(futures: Iterable[Future[Any]], note: str = "") -> None:
    """Shows futures under the running cell, and keeps them current until they have ended."""
    futures = list(futures)
    view = View(futures, note)
    view.show()
    if any(row.finished is None for row in view._shown):
        refresher.follow(view, futures)
