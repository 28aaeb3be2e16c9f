"""What a front end sends to a widget while a cell blocks the main thread."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ipykernel
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

VERSION = tuple(int(part) for part in ipykernel.__version__.split(".")[:2])

# Seconds after which something that does not come is a failure.
PATIENCE = 30.0

# JupyterLab's setting `commsOverSubshells`: its default names a subshell in each message to a widget.
SETTINGS = ["perCommTarget", "disabled"]

WIDGETS = """
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
        self.came, self.last = threading.Event(), threading.Event()
        self.on_msg(self.handle)

    def handle(self, _, content, buffers):
        self.clicks.append((content, [bytes(buffer) for buffer in buffers], running))
        self.came.set()
        if content == "last":
            self.last.set()

    def send_state(self, key=None):
        super().send_state(key)
        if running and key is None:
            self.came.set()

    @traitlets.observe("count")
    def counted(self, change):
        self.came.set()

running = False
widget, other = Clicked(), Clicked()
release = threading.Event()
"""

BLOCK = """
running = True
print("blocked", flush=True)
try:
    assert {event}.wait(20), "nothing came while the cell was running"
finally:
    running = False
"""


class Page:
    """JupyterLab's page of one notebook, with two widgets: `widget` is routed, `other` is not."""

    def __init__(self, notebook: Any, setting: str) -> None:
        self.notebook = notebook
        self.client = notebook._client
        # A subshell of the page's own, for the messages to widgets.
        self._subshell = self.new_subshell() if setting == "perCommTarget" else None
        self._idle_subshell = self.new_subshell()
        self.ids: dict[str, str] = {}

    def new_subshell(self) -> str:
        """Asks the kernel for a subshell, in the way that is open to a page."""
        self.client.control_channel.send(self.client.session.msg("create_subshell_request"))
        return str(self.client.get_control_msg(timeout=PATIENCE)["content"]["subshell_id"])

    def open(self, before: str = "") -> None:
        """Makes the widgets, and routes the first."""
        self.notebook.ok(WIDGETS + before)
        routed = self.notebook.ok("clicks.route(widget)")
        assert routed.outputs == []
        self.ids = {name: self.notebook.ok(f"{name}.model_id").value.strip("'") for name in ("widget", "other")}

    def block(self, source: str = BLOCK, event: str = "widget.came") -> Any:
        """Starts a cell that waits for an event, and returns when it waits."""
        cell = self.notebook.start(source.format(event=event))
        self.notebook.until(lambda: "blocked" in cell.stdout, "the cell to block")
        return cell

    def end(self, cell: Any) -> None:
        self.notebook.end(cell)
        assert cell.error is None, cell.traceback

    def click(self, name: str, content: Any = "click", buffers: list[bytes] | None = None) -> None:
        """Sends a custom message to the widget of that name."""
        self.send(name, {"method": "custom", "content": content}, buffers)

    def send(self, name: str, data: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        send(self.client, "comm_msg", {"comm_id": self.ids[name], "data": data}, self._subshell, buffers)

    def release(self) -> None:
        """Sets the event `release` while the main thread is blocked."""
        send(self.client, "execute_request", {"code": "release.set()", "silent": True}, self._idle_subshell)


def send(client: Any, kind: str, content: Any, subshell: str | None = None, buffers: list[bytes] | None = None) -> None:
    """Sends a message on the shell channel, to a subshell if one is named."""
    message = client.session.msg(kind, content)
    if subshell is not None:
        message["header"]["subshell_id"] = subshell
    client.session.send(client.shell_channel.socket, message, buffers=buffers)


@pytest.fixture(scope="module", params=SETTINGS)
def kernel_page(request: pytest.FixtureRequest, new_notebook: Callable[[], Any]) -> Page:
    return Page(new_notebook(), request.param)


@pytest.fixture
def page(kernel_page: Page) -> Iterator[Page]:
    """A page with new widgets."""
    kernel_page.open()
    yield kernel_page
    kernel_page.notebook.ok("widget.close()\nother.close()")


@pytest.fixture
def reloaded(page: Page) -> Iterator[BlockingKernelClient]:
    """The channels of the page after it has been loaded again."""
    client = BlockingKernelClient()
    client.load_connection_info(page.client.get_connection_info())
    client.start_channels()
    yield client
    client.stop_channels()


# While a cell blocks.


def test_a_click_is_handled_while_a_cell_blocks(page: Page) -> None:
    """A custom message comes with its buffers."""
    cell = page.block()
    page.click("widget", {"cancel": 7}, [b"bytes"])
    page.end(cell)
    assert page.notebook.ok("widget.clicks").value == "[({'cancel': 7}, [b'bytes'], True)]"


def test_a_changed_trait_arrives_while_a_cell_blocks(page: Page) -> None:
    """A new value that the front end sends is there at once."""
    cell = page.block()
    page.send("widget", {"method": "update", "state": {"count": 3}, "buffer_paths": []})
    page.end(cell)
    assert page.notebook.ok("widget.count").value == "3"


def test_a_state_is_sent_while_a_cell_blocks(page: Page) -> None:
    """A front end that asks for the state of one widget has it at once."""
    cell = page.block()
    page.send("widget", {"method": "request_state"})
    page.end(cell)


def test_clicks_keep_their_order(page: Page) -> None:
    """Messages are handled one after the other."""
    cell = page.block(event="widget.last")
    contents = [*range(20), "last"]
    for content in contents:
        page.click("widget", content)
    page.end(cell)
    assert page.notebook.ok("[content for content, *_ in widget.clicks]").value == str(contents)


def test_without_route_a_click_comes_after_the_cell(page: Page) -> None:
    """What `route` is for. ipykernel before 7.4 follows the page's setting."""
    if VERSION < (7, 4) and page._subshell is not None:
        pytest.skip("this kernel handles it on the page's subshell")
    cell = page.block()
    page.click("other")
    page.click("widget")
    page.end(cell)
    assert page.notebook.ok("other.clicks").value == "[('click', [], False)]"


def test_a_click_between_cells_is_handled(page: Page) -> None:
    """A cell is not needed for a click to be heard."""
    page.click("widget")
    assert page.notebook.ok("widget.came.wait(20)").value == "True"


# What the running cell shows.

FIGURE = (
    """
%matplotlib inline
import matplotlib.pyplot as plt
plt.plot([1, 2])
"""
    + BLOCK
)


def test_the_figure_of_the_running_cell_stays_with_it(page: Page) -> None:
    """A click does not end the cell for matplotlib."""
    cell = page.block(FIGURE, "widget.last")
    page.click("widget")
    page.click("widget", "last")  # comes when the first has been handled, hooks included
    page.end(cell)
    assert [sorted(display["data"]) for display in cell.displays] == [["image/png", "text/plain"]]


def test_with_the_hooks_of_a_cell_the_figure_would_be_lost(page: Page) -> None:
    """Why a routed comm calls no hooks."""
    page.notebook.ok("del widget.comm.handle_msg")
    cell = page.block(FIGURE, "widget.last")
    page.click("widget")
    page.click("widget", "last")  # comes when the first has been handled, hooks included
    page.end(cell)
    assert cell.displays == []


THREAD = """
def work():
    {event}.wait(20)
    print("from the thread")
thread = threading.Thread(target=work)
thread.start()
print("blocked", flush=True)
thread.join()
"""


def test_prints_of_plain_threads_stay_with_the_running_cell(page: Page) -> None:
    """A click does not become the parent of what threads print that have no context of their own."""
    cell = page.block(THREAD)
    page.click("widget")
    page.end(cell)
    assert "from the thread" in cell.stdout


def test_prints_of_plain_threads_stay_with_the_last_cell(page: Page) -> None:
    """Nor does a click that comes between two cells."""
    cell = page.notebook.ok("""
def work():
    widget.came.wait(20)
    print("from the thread")
thread = threading.Thread(target=work)
thread.start()
""")
    page.click("widget")
    page.notebook.until(lambda: "from the thread" in cell.stdout, "the print of the thread")


@pytest.mark.skipif(VERSION < (7, 1), reason="this kernel looks for the cell that started the thread")
def test_with_the_kernels_own_parents_prints_would_be_lost(page: Page) -> None:
    """Why the kernel's `set_parent` is replaced."""
    page.notebook.ok("kernel = get_ipython().kernel\nquiet = kernel.set_parent\ndel kernel.set_parent")
    cell = page.block(THREAD)
    page.click("widget")
    page.end(cell)
    page.notebook.ok("kernel.set_parent = quiet")
    assert "from the thread" not in cell.stdout


def test_a_kernel_with_other_parents_still_handles_clicks(page: Page) -> None:
    """What is private in the kernel may change: then it does what it always did."""
    page.notebook.ok("""
private = clicks.Subshell._set_parent_of_thread
def lost(*_):
    raise AttributeError
clicks.Subshell._set_parent_of_thread = lost
""")
    cell = page.block()
    page.click("widget")
    page.end(cell)
    page.notebook.ok("clicks.Subshell._set_parent_of_thread = private")
    assert page.notebook.ok("widget.clicks").value == "[('click', [], True)]"


# A page that is loaded while a cell blocks.


def test_a_page_that_is_loaded_while_a_cell_blocks_gets_the_widgets(page: Page, reloaded: BlockingKernelClient) -> None:
    """What JupyterLab asks for before it shows a widget is answered, and the new page's click arrives."""
    cell = page.block()
    reloaded.wait_for_ready(timeout=PATIENCE)  # it asks for the kernel's info
    control = uuid.uuid4().hex
    target = {"comm_id": control, "target_name": "jupyter.widget.control", "data": {}}
    message = reloaded.session.msg("comm_open", target, metadata={"version": "1.0.0"})
    reloaded.shell_channel.send(message)
    send(reloaded, "comm_msg", {"comm_id": control, "data": {"method": "request_states"}})
    states = answer(reloaded, control)["states"]
    assert set(page.ids.values()) <= set(states)
    send(reloaded, "comm_close", {"comm_id": control, "data": {}})
    send(
        reloaded,
        "comm_msg",
        {"comm_id": page.ids["widget"], "data": {"method": "custom", "content": "from the new page"}},
    )
    page.end(cell)
    assert page.notebook.ok("widget.clicks").value == "[('from the new page', [], True)]"


def answer(client: BlockingKernelClient, comm_id: str) -> dict[str, Any]:
    """The data of the first message from the kernel over a comm."""
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == comm_id:
            return dict(message["content"]["data"])


# Kernels that lack what `route` needs.

WITHOUT = {
    "subshells": "import types\nwidget.comm.kernel = types.SimpleNamespace(shell_channel_thread=None)",
    "a way to make them": "import ipykernel.subshell_manager as m\ndel m.SubshellManager._create_subshell",
    "a comm of ipykernel": "widget.comm.kernel = None",
}


@pytest.mark.parametrize("lack", WITHOUT)
def test_where_the_kernel_lacks_it_the_click_comes_after_the_cell(
    new_notebook: Callable[[], Any], capfd: pytest.CaptureFixture[str], lack: str
) -> None:
    """Nothing is raised or printed, neither in the notebook nor on the kernel's terminal."""
    page = Page(new_notebook(), "disabled")
    page.open("\n" + WITHOUT[lack])
    cell = page.block(event="release")
    capfd.readouterr()
    page.click("widget")
    page.release()
    page.end(cell)
    assert page.notebook.ok("widget.clicks").value == "[('click', [], False)]"
    assert (cell.stdout, cell.stderr) == ("blocked\n", "")
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(VERSION < (7, 4), reason="this kernel is such a one")
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_kernel_that_does_not_ask_the_comm_handles_clicks_at_once(
    new_notebook: Callable[[], Any], setting: str
) -> None:
    """The message says who is to handle it: so it is with ipykernel 7.0 to 7.3."""
    page = Page(new_notebook(), setting)
    page.open("\nimport ipykernel.comm.comm\ndel ipykernel.comm.comm.BaseComm._reply_subshell_for")
    cell = page.block()
    page.click("widget")
    page.end(cell)


# What is left behind.


def test_the_kernel_has_one_subshell_for_all_widgets_until_it_is_closed(page: Page) -> None:
    """`close` ends its thread and gives the kernel back as it was; later clicks come after the cell."""
    page.notebook.ok("""
kernel = get_ipython().kernel
def subshells():
    return set(kernel.shell_channel_thread.manager.list_subshell())
def threads():
    return {t.name for t in threading.enumerate()}
clicks.close()
""")
    before = page.notebook.ok("before, names = subshells(), threads()\n'set_parent' in vars(kernel)")
    assert before.value == "False"
    page.notebook.ok("clicks.route(widget)\nclicks.route(other)")
    assert page.notebook.ok("len(subshells() - before), len(threads() - names)").value == "(1, 1)"
    page.notebook.ok("clicks.close()\nclicks.close()")
    after = page.notebook.ok("subshells() == before, threads() == names, 'set_parent' in vars(kernel)")
    assert after.value == "(True, True, False)"
    page.click("widget")
    assert page.notebook.ok("widget.came.wait(20)").value == "True"
    page.notebook.ok("clicks.route(widget)\nwidget.came.clear()")
    cell = page.block()
    page.click("widget")
    page.end(cell)


def test_reloading_the_module_keeps_the_subshell(page: Page) -> None:
    """Widgets of before and after a reload share it."""
    cell = page.notebook.ok("""
import importlib
first = clicks._current
importlib.reload(clicks)
clicks.route(other)
clicks._current is first
""")
    assert cell.value == "True"


@pytest.mark.parametrize("blocked", [False, True], ids=["idle", "blocked"])
def test_a_kernel_with_routed_widgets_shuts_down_in_time(new_notebook: Callable[[], Any], blocked: bool) -> None:
    """Its thread holds no exit up, whether the main thread is idle or runs a cell."""
    notebook_class = type(new_notebook())
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    with contextlib.closing(notebook_class(manager)) as notebook:
        page = Page(notebook, "disabled")
        page.open()
        page.click("widget")
        assert notebook.ok("widget.came.wait(20)").value == "True"
        if blocked:
            page.block(event="release")
        manager.shutdown_kernel(now=False)
        assert not manager.is_alive()
