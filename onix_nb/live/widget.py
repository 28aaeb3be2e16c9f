"""One view of runs as a widget: what the page sends, and what it gets."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from . import clicks, html
from .feed import Feed, Message

_log = logging.getLogger(__name__)


class RunsWidget(anywidget.AnyWidget):
    """The model of one live view.

    `head` and `snapshot` are made when somebody reads the model's state: a page that is loaded
    again gets what is true then. Everything else goes by messages, because a trait that changes
    is kept, compared and sent whole.
    """

    # Texts: of a file anywidget would keep each widget that has read it, to tell it of changes.
    _esm = (html.STATIC / "runs.js").read_text(encoding="utf-8")
    _css = (html.STATIC / "runs.css").read_text(encoding="utf-8")
    head = traitlets.Unicode().tag(sync=True)
    snapshot = traitlets.Bytes().tag(sync=True)

    def __init__(self, feed: Feed, cancel: Callable[[int | None], None], lock: threading.RLock) -> None:
        self._feed = feed
        self._cancel = cancel
        self._lock = lock  # guards the feed
        self._complained = False
        self._pages = 0
        opening = feed.opening(time.monotonic())
        super().__init__(head=json.dumps(opening.head), snapshot=opening.records)
        self.on_msg(self._receive)
        clicks.route(self)

    @property
    def reloaded(self) -> bool:
        """Whether the page was loaded again: then Jupyter no longer finds the display to replace it."""
        return self._pages > 1

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state as of now, for a page that comes late."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        if "snapshot" in state and self.comm is not None:
            with self._lock:
                whole = self._feed.snapshot(time.monotonic())
            state.update(head=json.dumps(whole.head), snapshot=whole.records)
        return state

    def close(self) -> None:
        """Closes the widget, and the one that ipywidgets has made for its layout."""
        layout = self.layout
        super().close()
        layout.close()

    def tell(self, message: Message) -> None:
        """Sends runs to the page."""
        self.send(message.head, [message.records])

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """A message of the page; what is malformed, or names a run that is not here, is ignored."""
        try:
            self._obey(content)
        except Exception as error:
            if not self._complained:
                self._complained = True
                _log.warning("a message from the page was ignored: %s", type(error).__name__)

    def _obey(self, content: Any) -> None:
        kind = content["kind"]
        run = content.get("run")
        if run is not None and type(run) is not int:
            raise TypeError("run")
        if kind == "cancel":
            self._cancel(run)
        elif kind == "hello":
            self._pages += 1
            with self._lock:  # so that no delta comes before it
                whole = self._feed.snapshot(time.monotonic())
                if content.get("seq") != whole.head["seq"]:
                    self.tell(whole)
        elif kind == "details":
            with self._lock:
                row = self._feed.with_id(run)  # type: ignore[arg-type]
            if row is None:
                raise LookupError("run")
            self.send({"kind": "details", "run": run, **html.details(row)})
        else:
            raise ValueError("kind")
