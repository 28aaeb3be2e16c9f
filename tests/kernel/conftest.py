"""Real kernels, seen as a front end sees them: `Notebook` as JupyterLab does, `run_cells` as nbclient does."""

from __future__ import annotations

import dataclasses
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import zmq
from jupyter_client.manager import KernelManager

# Seconds after which a kernel that says nothing is a failure, not a slow machine.
PATIENCE = 30.0


@dataclasses.dataclass
class Cell:
    """One execution of a cell, with what has come out of it so far."""

    source: str
    id: str
    outputs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    reply: dict[str, Any] = dataclasses.field(default_factory=dict)
    idle: bool = False

    @property
    def stdout(self) -> str:
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        return self._stream("stderr")

    def _stream(self, name: str) -> str:
        return "".join(output["text"] for output in self.outputs if output.get("name") == name)

    @property
    def displays(self) -> list[dict[str, Any]]:
        """What was displayed, each with its `data` and its `display_id`."""
        return [output for output in self.outputs if output["type"] == "display_data"]

    @property
    def html(self) -> str:
        return "".join(output["data"].get("text/html", "") for output in self.displays)

    @property
    def text(self) -> str:
        """The text form of what was displayed, then of the cell's value."""
        shown = [output for output in self.outputs if "data" in output]
        return "\n".join(output["data"].get("text/plain", "") for output in shown)

    @property
    def value(self) -> str | None:
        """The text of the cell's last expression, if it has one."""
        for output in self.outputs:
            if output["type"] == "execute_result":
                return str(output["data"]["text/plain"])
        return None

    @property
    def error(self) -> str | None:
        """The name of the exception that ended the cell."""
        return self.reply.get("ename") if self.reply.get("status") == "error" else None

    @property
    def traceback(self) -> str:
        """The traceback as it is shown, without its colours."""
        lines = [line for output in self.outputs if output["type"] == "error" for line in output["traceback"]]
        return plain("\n".join(lines))


def plain(text: str) -> str:
    """`text` without ANSI colours."""
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])


class Notebook:
    """A front end for one kernel, as JupyterLab is.

    It files each message under the cell that is its parent, also after that cell has ended, and
    updates displays wherever they are.
    """

    def __init__(self, manager: KernelManager) -> None:
        self._manager = manager
        self._client = manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE)
        self._poller = zmq.Poller()
        for channel in (self._client.shell_channel, self._client.iopub_channel):
            self._poller.register(channel.socket, zmq.POLLIN)
        self._cells: dict[str, Cell] = {}
        # What came for widgets, of any cell.
        self.comms: list[dict[str, Any]] = []

    def close(self) -> None:
        self._client.stop_channels()

    def is_alive(self) -> bool:
        """Whether the kernel's process is."""
        return bool(self._manager.is_alive())

    # Running.

    def start(self, source: str, *, silent: bool = False, cell_id: str | None = None) -> Cell:
        """Sends a cell to the kernel and returns at once."""
        cell = Cell(source, cell_id or uuid.uuid4().hex[:8])
        content = {
            "code": source,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self._client.session.msg("execute_request", content, metadata={"cellId": cell.id})
        self._cells[message["header"]["msg_id"]] = cell
        self._client.shell_channel.send(message)
        return cell

    def run(self, source: str, *, silent: bool = False, cell_id: str | None = None) -> Cell:
        """Runs a cell to its end, with every output that came before the kernel said idle."""
        cell = self.start(source, silent=silent, cell_id=cell_id)
        self.end(cell)
        return cell

    def ok(self, source: str) -> Cell:
        """Runs a cell that must not fail."""
        cell = self.run(source)
        assert cell.error is None, cell.traceback
        return cell

    def end(self, cell: Cell) -> None:
        """Waits for the end of a cell that was started."""
        self.until(lambda: cell.idle and bool(cell.reply), f"the end of {cell.source!r}")

    def interrupt(self) -> None:
        """Stop: interrupts the kernel, as the button does."""
        self._manager.interrupt_kernel()

    def ends_within(self, cell: Cell, seconds: float) -> bool:
        """Whether a cell that was started ends in that time."""
        deadline = time.monotonic() + seconds
        while not cell.idle and time.monotonic() < deadline:
            self._take_in()
        return cell.idle

    def until(self, condition: Callable[[], bool], what: str = "the condition") -> None:
        """Takes in messages until `condition()` holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if not self._take_in() and time.monotonic() > deadline:
                shown = [cell for cell in self._cells.values() if cell.outputs]
                pytest.fail(f"waited {PATIENCE} s in vain for {what}; the last outputs: {shown[-3:]}")

    def _take_in(self) -> bool:
        """Handles the messages that have come; waits a second for one, and says whether there was any."""
        ready = dict(self._poller.poll(1000))
        if self._client.shell_channel.socket in ready:
            message = self._client.get_shell_msg(timeout=1)
            if cell := self._cells.get(message["parent_header"].get("msg_id", "")):
                cell.reply = message["content"]
        if self._client.iopub_channel.socket in ready:
            self._file(self._client.get_iopub_msg(timeout=1))
        return bool(ready)

    def _file(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "update_display_data":
            self._update(content)
            return
        if kind.startswith("comm_"):
            self.comms.append(message)
            return
        cell = self._cells.get(message["parent_header"].get("msg_id", ""))
        if cell is None:
            return
        if kind == "status":
            cell.idle = cell.idle or content["execution_state"] == "idle"
        elif kind in ("stream", "error"):
            cell.outputs.append({"type": kind, **content})
        elif kind in ("display_data", "execute_result"):
            display_id = content.get("transient", {}).get("display_id")
            cell.outputs.append({"type": kind, "data": content["data"], "display_id": display_id})

    def _update(self, content: dict[str, Any]) -> None:
        for cell in self._cells.values():
            for output in cell.outputs:
                if output.get("display_id") == content["transient"]["display_id"]:
                    output["data"] = content["data"]


@pytest.fixture(scope="session")
def _bare_ipython(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels without anybody's configuration, start-up files or history."""
    before = os.environ.get("IPYTHONDIR")
    os.environ["IPYTHONDIR"] = str(tmp_path_factory.mktemp("ipython"))
    yield
    if before is None:
        del os.environ["IPYTHONDIR"]
    else:
        os.environ["IPYTHONDIR"] = before


@pytest.fixture(scope="module")
def new_notebook(_bare_ipython: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Notebook]]:
    """Starts a kernel and gives its `Notebook`; all of them end with the module."""
    opened: list[tuple[KernelManager, Notebook]] = []

    def new_notebook() -> Notebook:
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(cwd=str(tmp_path_factory.mktemp("notebook")))
        try:
            notebook = Notebook(manager)
        except BaseException:
            manager.shutdown_kernel(now=True)
            raise
        opened.append((manager, notebook))
        return notebook

    yield new_notebook
    for manager, notebook in opened:
        notebook.close()
        manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def bare_kernel(new_notebook: Callable[[], Notebook]) -> Notebook:
    """The kernel that the tests of a module share, without the extension."""
    return new_notebook()


@pytest.fixture(scope="module")
def loaded_kernel(bare_kernel: Notebook) -> Notebook:
    """The same, with `%load_ext onix_nb`."""
    bare_kernel.ok("%load_ext onix_nb")
    return bare_kernel


@pytest.fixture
def notebook(loaded_kernel: Notebook) -> Iterator[Notebook]:
    """The loaded kernel without names of earlier tests; the test must leave nothing that runs or waits to be told."""
    loaded_kernel.run("_names_before = set(get_ipython().user_ns)", silent=True)
    loaded_kernel.ok("import threading\nimport onix")
    yield loaded_kernel
    left = loaded_kernel.ok("[run for run in onix.runs() if run.finished is None]")
    assert left.value == "[]", "the test left runs behind"
    untold = loaded_kernel.ok("pass").stderr + loaded_kernel.ok("pass").stderr
    assert untold == "", "the test left failures that nobody looked at"
    loaded_kernel.run(
        "for _name in set(get_ipython().user_ns) - _names_before:\n    del get_ipython().user_ns[_name]",
        silent=True,
    )


@pytest.fixture
def run_cells(_bare_ipython: None, tmp_path: Path) -> Callable[..., nbformat.NotebookNode]:
    """Executes cells as a notebook in batch, with nbclient, and gives what would be saved."""

    def run_cells(*sources: str, allow_errors: bool = False) -> nbformat.NotebookNode:
        cells = [nbformat.v4.new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources, 1)]
        return execute(nbformat.v4.new_notebook(cells=cells), tmp_path, allow_errors=allow_errors)

    return run_cells


@pytest.fixture
def run_notebook(_bare_ipython: None, tmp_path: Path) -> Callable[[Path], nbformat.NotebookNode]:
    """Executes a notebook's file in batch, in an empty folder, and gives what would be saved."""
    return lambda path: execute(nbformat.read(path, as_version=4), tmp_path)


def execute(notebook: nbformat.NotebookNode, folder: Path, *, allow_errors: bool = False) -> nbformat.NotebookNode:
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=PATIENCE,
        allow_errors=allow_errors,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()
