"""Views of runs in a notebook, kept current in place until everything in them has ended.

A view is a display of its own (`display_id`), because the last expression of a cell has none. Where
somebody sits at the page it is a widget, else HTML that is updated; both are kept current by one
thread for the whole kernel, which ends when nothing that is shown is unfinished. The last update
is static HTML and text: that is what the saved notebook shows. A terminal gets the text, once.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from IPython.core.getipython import get_ipython
from IPython.display import display

from ..engine.attempts import listeners
from ..engine.session import live
from ..model.future import Entry, Future
from . import html
from .feed import Feed

if TYPE_CHECKING:
    from .widget import RunsWidget

_log = logging.getLogger(__name__)

# Seconds between two messages to a page, and between two updates of HTML in which just time passed.
LOOK_SECONDS: Final = 0.1
TICK_SECONDS: Final = 1.0
# Looking may take this share of the time at most.
MOST_LOOKING: Final = 0.04
# So many futures of a view tell when they end; of more it is found out by looking.
MOST_HEARD: Final = 20
# So many views that have ended stay on pages that were loaded again.
MOST_STAYING: Final = 20


def _is_notebook() -> bool:
    """Whether what was displayed can be updated; a terminal would print it again."""
    return getattr(get_ipython(), "kernel", None) is not None


def _cell_of_page() -> str | None:
    """The id of the running cell if somebody sits at a page that shows widgets, else None."""
    shell: Any = get_ipython()
    return (shell.get_parent().get("metadata") or {}).get("cellId") if _is_notebook() else None


class View:
    """Some runs, and those below them, on the page."""

    def __init__(self, entries: Iterable[Entry], note: str = "") -> None:
        self.cell = _cell_of_page()
        self._note = note
        self._display_id = f"onix-{uuid.uuid4().hex}"
        self._widget: RunsWidget | None = None
        self._updated = 0.0
        self._last: dict[str, str] = {}
        own = dict(sorted(entries, key=lambda entry: entry[0].id))
        begun = next((run.queued for run in own), time.monotonic())
        # Guards the feed: the view's thread, the cells and the page use it.
        self._lock = threading.RLock()
        self._feed = Feed(begun, note)
        if any(run.kind == "flow" for run in own):
            unfinished = live().unfinished.copy()
            for run in live().runs():
                if run.parent in own:
                    own.setdefault(run, unfinished.get(run))
            own = dict(sorted(own.items(), key=lambda entry: entry[0].id))
        for run, future in own.items():
            self._feed.add(run, future)
        self._feed.look()

    @property
    def unfinished(self) -> bool:
        """Whether something in it may still change."""
        return self._feed.unfinished

    def show(self) -> None:
        """Displays the view under the cell that runs now."""
        bundle = self._bundle()
        if self.cell is not None and self.unfinished:
            from .widget import RunsWidget  # only when needed: it takes some 50 milliseconds

            with self._lock:
                self._widget = RunsWidget(self._feed, self.cancel, self._lock)
            shown = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
            bundle["application/vnd.jupyter.widget-view+json"] = shown  # type: ignore[assignment]
        display(bundle, raw=True, display_id=self._display_id)

    def arrive(self, arrivals: Iterable[Entry]) -> None:
        """Takes runs that have started, if they belong below one that is here."""
        with self._lock:
            for run, future in arrivals:
                if run.parent in self._feed:
                    self._feed.add(run, future)

    def refresh(self) -> bool:
        """Brings the page up to date. False when everything has ended and nothing more will come."""
        with self._lock:
            changed = self._feed.look()
            if not self._feed.unfinished:
                self.finish()
                return False
            if self._widget is not None:
                message = self._feed.delta(time.monotonic())
                if message is not None:
                    self._widget.tell(message)
            elif changed or time.monotonic() - self._updated >= TICK_SECONDS:
                self._send(self._bundle())
            return True

    def finish(self) -> None:
        """Leaves the static form, and closes the widget; a page that was loaded again keeps that as it ends."""
        self._send(self._bundle())
        if self._widget is None:
            return
        if not self._widget.reloaded:
            self.drop()
            return
        while (message := self._feed.delta(time.monotonic())) is not None:
            self._widget.tell(message)

    @property
    def stays(self) -> bool:
        """Whether its widget is still open, though all has ended."""
        return self._widget is not None

    def repeat(self) -> None:
        """Sends the final state again."""
        self._send(self._last)

    def drop(self) -> None:
        """Closes the widget, for example because the cell is run again: its output is gone."""
        with self._lock:
            if self._widget is not None:
                self._widget.close()
                self._widget = None

    def cancel(self, run_id: int | None) -> None:
        """Cancels a run of the view, or all that have not ended.

        Raises:
            LookupError: No such run is here.
        """
        with self._lock:
            rows = self._feed.rows if run_id is None else [self._feed.with_id(run_id)]
            if None in rows:
                raise LookupError(f"no run {run_id} in this view")
            futures = [row.future for row in rows if row is not None and row.future is not None]
        for future in futures:
            future.cancel(interrupt=True)

    def _send(self, bundle: dict[str, str]) -> None:
        # In an empty context: nbclient drops updates that come with a cell's own parent.
        contextvars.Context().run(display, bundle, raw=True, display_id=self._display_id, update=True)

    def _bundle(self) -> dict[str, str]:
        rows = self._feed.tree()
        self._updated = time.monotonic()
        self._last = {"text/html": html.as_html(rows, self._note), "text/plain": html.as_text(rows)}
        return dict(self._last)


class Refresher:
    """The one thread that keeps views current; it ends when there is nothing to do."""

    def __init__(self) -> None:
        # Guards `_views` and `_thread`; notified when a shown future has settled.
        self._changed = threading.Condition(threading.RLock())
        self._views: list[View] = []
        self._thread: threading.Thread | None = None
        self._hurry = False
        # Runs that have started since the last look; while there are views, each start appends one.
        self._arrivals: deque[Entry] = deque()
        # Views that have ended since the last `flush`. Guarded by `_refreshing`.
        self._ended: list[View] = []
        # Those that have ended and stay, because their page was loaded again.
        self._staying: deque[View] = deque()
        # One look at a time.
        self._refreshing = threading.RLock()

    def show(self, view: View, entries: Iterable[Entry]) -> None:
        """Shows `view`, and keeps it current until all of it has ended."""
        with self._changed:
            self._views.append(view)
            if self._arrivals.append not in listeners:
                listeners.append(self._arrivals.append)
        view.show()
        unfinished = (future for run, future in entries if future is not None and run.finished is None)
        for future in itertools.islice(unfinished, MOST_HEARD):
            future._hear(self._settled)
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="onix-view", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Brings every view up to date at once: what a batch run saves is what a cell ends with."""
        with self._refreshing:
            # nbclient drops what comes between two cells, which may have been the last update.
            ended, self._ended = self._ended, []
            for view in ended:
                if view.cell is None:
                    view.repeat()
            if any(view.cell is None for view in self._views):
                self._look()

    def drop(self, cell: str) -> None:
        """Closes the views of a cell that is run again."""
        with self._changed:
            dropped = [view for view in self._views if view.cell == cell]
            self._views = [view for view in self._views if view.cell != cell]
        dropped += [view for view in self._staying.copy() if view.cell == cell]
        for view in dropped:
            view.drop()

    def _settled(self, _: Future[Any]) -> None:
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def _look(self) -> None:
        """One look at every view."""
        with self._refreshing:
            arrivals = [self._arrivals.popleft() for _ in range(len(self._arrivals))]
            with self._changed:
                views = list(self._views)
            ended = []
            for view in views:
                try:
                    view.arrive(arrivals)
                    goes_on = view.refresh()
                except Exception:  # the others go on
                    _log.exception("a view could not be brought up to date, and stays as it is")
                    goes_on = False
                if not goes_on:
                    ended.append(view)
            self._ended += ended
            self._staying = deque(view for view in (*self._staying, *ended) if view.stays)
            while len(self._staying) > MOST_STAYING:
                self._staying.popleft().drop()
            with self._changed:
                self._views = [view for view in self._views if view not in ended]

    def _run(self) -> None:
        pause = LOOK_SECONDS
        while self._next(pause):
            begun = time.thread_time()
            self._look()
            pause = max(LOOK_SECONDS, (time.thread_time() - begun) / MOST_LOOKING)

    def _next(self, pause: float) -> bool:
        """Waits until it is time for a look. False when the thread is to end."""
        now = time.monotonic()
        earliest, latest = now + pause / 2, now + pause
        with self._changed:
            while (now := time.monotonic()) < (earliest if self._hurry else latest) and self._views:
                self._changed.wait((earliest if self._hurry else latest) - now)
            self._hurry = False
            if not self._views:
                self._thread = None
                if self._arrivals.append in listeners:
                    listeners.remove(self._arrivals.append)
                self._arrivals.clear()
            return bool(self._views)


refresher = Refresher()


def show(entries: Iterable[Entry], note: str = "") -> None:
    """Shows runs under the running cell, and in a notebook keeps them current until they have ended."""
    entries = list(entries)
    view = View(entries, note)
    if view.unfinished and _is_notebook():
        refresher.show(view, entries)
    else:
        view.show()
