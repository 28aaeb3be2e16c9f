"""What a front end sends to a widget while a cell blocks the main thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ipykernel
import pytest

VERSION = tuple(int(part) for part in ipykernel.__version__.split(".")[:2])

WIDGET = """
import threading
import anywidget
import traitlets

from onix_nb.live import clicks

class Clicked(anywidget.AnyWidget):
    _esm = "export default {}"
    count = traitlets.Int(0).tag(sync=True)

    def __init__(self):
        super().__init__()
        self.clicks = []  # each message, and whether it came while the cell was running
        self.came = threading.Event()
        self.on_msg(self.handle)

    def handle(self, _, content, buffers):
        self.clicks.append((content, [bytes(b) for b in buffers], running))
        self.came.set()

running = False
widget = Clicked()
other = Clicked()
"""

BLOCK = """
running = True
print("blocked", flush=True)
assert {event}.wait(20)
running = False
"""


class Page:
    """A notebook whose widgets are sent to as JupyterLab does, under one value of its setting `commsOverSubshells`."""

    def __init__(self, notebook: Any, setting: str) -> None:
        self.notebook = notebook
        self._client = notebook._client
        self._subshell = self.new_subshell() if setting == "perCommTarget" else None

    def new_subshell(self) -> str:
        """Asks the kernel for a subshell, as it is asked on the control channel."""
        message = self._client.session.msg("create_subshell_request")
        self._client.control_channel.send(message)
        reply = self._client.get_control_msg(timeout=30)
        return str(reply["content"]["subshell_id"])

    def send(self, widget: str, data: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        """Sends a comm message to the widget of this name."""
        self._send("comm_msg", {"comm_id": self._ids[widget], "data": data}, self._subshell, buffers)

    def click(self, widget: str, content: Any = "click", buffers: list[bytes] | None = None) -> None:
        """Sends a custom message."""
        self.send(widget, {"method": "custom", "content": content}, buffers)

    def elsewhere(self, source: str) -> None:
        """Runs code on a subshell of its own, while the main thread is blocked."""
        self._send("execute_request", {"code": source, "silent": True}, self.new_subshell())

    def _send(self, kind: str, content: Any, subshell: str | None, buffers: list[bytes] | None = None) -> None:
        message = self._client.session.msg(kind, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        message["buffers"] = buffers or []
        self._client.session.send(self._client.shell_channel.socket, message, buffers=buffers)

    def open(self, *, routed: bool = True) -> None:
        """Makes the widgets."""
        self.notebook.ok(WIDGET)
        if routed:
            self.notebook.ok("clicks.route(widget)")
        names = ("widget", "other")
        self._ids = {name: self.notebook.ok(f"{name}.model_id").value.strip("'") for name in names}  # type: ignore[union-attr]

    def block(self, source: str = BLOCK, event: str = "widget.came") -> Any:
        """Starts a cell that waits for an event, and returns when it waits."""
        cell = self.notebook.start(source.format(event=event))
        self.notebook.until(lambda: "blocked" in cell.stdout, "the cell to block")
        return cell

    def end(self, cell: Any) -> Any:
        self.notebook.end(cell)
        assert cell.error is None, cell.traceback
        return cell


@pytest.fixture(scope="module", params=["perCommTarget", "disabled"])
def _page(request: pytest.FixtureRequest, new_notebook: Callable[[], Any]) -> Page:
    return Page(new_notebook(), request.param)


@pytest.fixture
def page(_page: Page) -> Iterator[Page]:
    """Two widgets in a kernel; the first is routed."""
    _page.open()
    yield _page
    _page.notebook.ok("widget.close()\nother.close()")


def test_a_click_is_handled_while_a_cell_blocks(page: Page) -> None:
    """A custom message comes with its buffers, although the cell waits for nothing else."""
    cell = page.block()
    page.click("widget", {"cancel": 7}, [b"bytes"])
    page.end(cell)
    assert page.notebook.ok("widget.clicks").value == "[({'cancel': 7}, [b'bytes'], True)]"
