"""JupyterLab as the tests use it: `Lab` is a page of the browser, `Notebook` a notebook that is open in it.

What a user does with the mouse or the keyboard goes through Playwright's locators; what is only
needed on the way, such as running a cell, goes through Lab's commands, which are quicker and do
not change with its menus.
"""

from __future__ import annotations

import ast
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import nbconvert
import nbformat
from playwright.sync_api import ConsoleMessage, Dialog, Locator, Page, expect

from .server import PATIENCE, LabServer

# Milliseconds, as Playwright wants them.
PATIENCE_MS = PATIENCE * 1000

# What Lab itself writes as an error when a kernel ends while it asks it something.
LABS_OWN = ("Could not restore the debugger state", "Canceled future for ")

# What the page offers to the tests. Each function gives plain values or promises.
HELPERS = """
window.bed = {
  ended: {},
  panel(path) {
    return [...jupyterapp.shell.widgets('main')].find(widget => widget.context?.path === path);
  },
  kernel(path) { return this.panel(path)?.sessionContext.session?.kernel; },
  status(path) { return this.kernel(path)?.connectionStatus === 'connected' && this.kernel(path).status; },
  start(path, command, cell, ticket) {
    const panel = this.panel(path);
    jupyterapp.shell.activateById(panel.id);
    if (cell !== null) { panel.content.deselectAll(); panel.content.activeCellIndex = cell; }
    const end = error => { this.ended[ticket] = error ? String(error) : 'ended'; };
    jupyterapp.commands.execute(command).then(() => end(), end);
  },
  failed(path, cell) {
    const outputs = this.panel(path).content.widgets[cell].model.outputs.toJSON();
    return outputs.find(output => output.output_type === 'error')?.traceback.join('\\n') ?? null;
  },
  async evaluate(path, expression) {
    const future = this.kernel(path).requestExecute(
      {code: '', silent: true, store_history: false, user_expressions: {value: expression}});
    const reply = (await future.done).content;
    return reply.user_expressions?.value?.data?.['text/plain'] ?? {failed: JSON.stringify(reply)};
  },
  async restored(path) {
    const kernel = this.kernel(path);
    const {comms} = (await kernel.requestCommInfo({target_name: 'jupyter.widget'})).content;
    return Object.keys(comms).every(id => kernel.hasComm(id));
  },
  async close(path, shutdown) {
    const panel = this.panel(path);
    if (shutdown) await panel.sessionContext.shutdown();
    panel.dispose();
  },
};
"""


class Lab:
    """A page with JupyterLab in it.

    Attributes:
        page: Playwright's page.
        problems: What the browser complained of: console errors, uncaught errors and dialogs.
    """

    def __init__(self, page: Page, server: LabServer, screenshots: Path) -> None:
        self.page = page
        self.problems: list[str] = []
        self._server = server
        self._screenshots = screenshots
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(HELPERS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._told(f"uncaught: {error.message} ({error.stack})"))
        page.on("dialog", self._on_dialog)
        # The messages that came from kernels: when, on the monotonic clock, and what.
        self.received: list[tuple[float, bytes]] = []
        page.on("websocket", lambda socket: socket.on("framereceived", self._on_frame))
        self.load("lab?reset")

    def _on_frame(self, frame: str | bytes) -> None:
        self.received.append((time.monotonic(), frame if isinstance(frame, bytes) else frame.encode()))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._told(f"console: {message.text} ({message.location.get('url')})")

    def _on_dialog(self, dialog: Dialog) -> None:
        if dialog.type == "beforeunload":
            dialog.accept()
        else:
            self._told(f"{dialog.type}: {dialog.message}")
            dialog.dismiss()

    def _told(self, problem: str) -> None:
        if not any(known in problem for known in LABS_OWN):
            self.problems.append(problem)

    def load(self, path: str) -> None:
        """Loads Lab anew at one of its addresses."""
        self.page.goto(f"{self._server.url}{path}{'&' if '?' in path else '?'}token={self._server.token}")
        self.page.wait_for_function("window.jupyterapp?.restored.then(() => true)")
        self._splash_has_gone()

    def _splash_has_gone(self) -> None:
        # Lab fails to remove a splash that has come while the last one fades out: at its start, and with a theme.
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def command(self, command: str, **arguments: Any) -> None:
        """Executes one of Lab's commands to its end."""
        self.page.evaluate("([id, args]) => jupyterapp.commands.execute(id, args).then(() => {})", [command, arguments])

    def open(self, *sources: str, name: str = "test.ipynb") -> Notebook:
        """Writes a notebook of code cells, and opens it with a kernel of its own."""
        cells = [nbformat.v4.new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), self._server.root / name)
        notebook = Notebook(self, self._server.root / name)
        notebook.open()
        return notebook

    def open_copy(self, source: Path) -> Notebook:
        """Opens a copy of a notebook, with a kernel of its own."""
        notebook = Notebook(self, Path(shutil.copy(source, self._server.root)))
        notebook.open()
        return notebook

    def set_theme(self, theme: str) -> None:
        """`"light"` or `"dark"`."""
        self.command("apputils:change-theme", theme=f"JupyterLab {theme.title()}")
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light", arg=str(theme == "light").lower()
        )
        self._splash_has_gone()

    def set_comms_over_subshells(self, value: str) -> None:
        """Sets over which subshells Lab sends comm messages, and loads it anew: settings are read at its start."""
        self._save_settings("apputils-extension:kernels-settings", {"commsOverSubshells": value})
        self.load("lab?reset")

    def _save_settings(self, plugin: str, values: dict[str, Any]) -> None:
        self.page.evaluate(
            "([id, raw]) => jupyterapp.serviceManager.settings.save(id, raw)",
            [f"@jupyterlab/{plugin}", json.dumps(values)],
        )

    def screenshot(self, name: str) -> Path:
        """Takes a picture of the page for people to look at."""
        path = self._screenshots / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def close(self) -> None:
        """Ends every kernel, sets the settings back and closes the page."""
        try:
            self._save_settings("apputils-extension:kernels-settings", {})
            self._save_settings("apputils-extension:themes", {})
            self.page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
        finally:
            self.page.close()


class Notebook:
    """A notebook that is open in Lab. Cells are counted from 0."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab = lab
        self.page = lab.page
        self.path = path
        self._tickets = itertools.count()

    def open(self) -> None:
        """Opens it, and waits for its kernel."""
        self.lab.command("docmanager:open", path=self.path.name)
        self.until_kernel("idle")

    def reload(self) -> None:
        """Loads the page anew, with the notebook as the file has it and its kernel as it is.

        By the notebook's address: F5 shows what Lab has noted as open, which it does a while later.
        """
        self.lab.load(f"lab/tree/{self.path.name}")
        self.page.wait_for_function("path => bed.status(path)", arg=self.path.name)

    def until_restored(self) -> None:
        """Waits until the page knows each widget of the kernel; between cells only.

        Lab gets to know them some moments after it was loaded. When one of them ends before, it complains.
        """
        self.page.wait_for_function("path => bed.restored(path)", arg=self.path.name, polling=100)

    def reopen(self) -> None:
        """Closes it, ends its kernel, and opens it with a fresh one; what was not saved is lost."""
        self.page.evaluate("path => bed.close(path, true)", self.path.name)
        self.open()

    def saved(self) -> nbformat.NotebookNode:
        """Saves it; what the file then contains."""
        self.lab.page.evaluate("path => bed.panel(path).context.save()", self.path.name)
        return nbformat.read(self.path, as_version=4)

    # Running.

    def start(self, cell: int) -> str:
        """Sends a cell to the kernel and returns at once. Give `end` what it returns."""
        return self._start("notebook:run-cell", cell)

    def _start(self, command: str, cell: int | None) -> str:
        ticket = f"{self.path.name}-{next(self._tickets)}"
        self.page.evaluate(
            "([path, command, cell, ticket]) => bed.start(path, command, cell, ticket)",
            [self.path.name, command, cell, ticket],
        )
        return ticket

    def end(self, ticket: str) -> None:
        """Waits for the end of what was started."""
        self.page.wait_for_function("ticket => ticket in bed.ended", arg=ticket)

    def run(self, *cells: int) -> None:
        """Runs cells to their end, one after the other; none of them may fail."""
        for cell in cells:
            self.end(self.start(cell))
            failed = self.page.evaluate("([path, cell]) => bed.failed(path, cell)", [self.path.name, cell])
            assert failed is None, failed

    def run_all(self) -> None:
        """Runs all cells to their end."""
        self.end(self._start("notebook:run-all-cells", None))

    def set_source(self, cell: int, source: str) -> None:
        """Replaces what is in a cell."""
        self.page.evaluate(
            "([path, cell, source]) => bed.panel(path).content.widgets[cell].model.sharedModel.setSource(source)",
            [self.path.name, cell, source],
        )

    # The kernel.

    def until_kernel(self, status: str) -> None:
        """Waits until the kernel is `"idle"`, `"busy"` and so on."""
        self.page.wait_for_function("([path, status]) => bed.status(path) === status", arg=[self.path.name, status])

    def evaluate(self, expression: str) -> Any:
        """The value of a Python expression in the kernel, as JSON carries it, without running a cell."""
        code = f"__import__('json').dumps({expression})"
        answer = self.page.evaluate("([path, code]) => bed.evaluate(path, code)", [self.path.name, code])
        assert isinstance(answer, str), answer
        return json.loads(ast.literal_eval(answer))

    def until(self, expression: str) -> None:
        """Waits until a Python expression is true in the kernel; between cells only."""
        self.page.wait_for_function(
            "([path, code]) => bed.evaluate(path, code).then(answer => answer === 'True')",
            arg=[self.path.name, f"bool({expression})"],
            polling=100,
        )

    def interrupt(self) -> None:
        """What the stop button does."""
        self.page.evaluate("path => bed.kernel(path).interrupt()", self.path.name)

    def restart(self) -> None:
        """Ends the kernel and starts another one for the notebook; outputs stay."""
        self.page.evaluate("path => bed.kernel(path).restart()", self.path.name)
        self.until_kernel("idle")

    # What is on the page.

    def view(self, cell: int) -> Locator:
        """The view of runs below a cell, live or static."""
        return self.output(cell).locator(".onix-runs")

    def cell(self, cell: int) -> Locator:
        """The cell with its outputs."""
        panel = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        return panel.locator(".jp-Notebook .jp-Cell").nth(cell)

    def output(self, cell: int) -> Locator:
        """Where the outputs of a cell are."""
        return self.cell(cell).locator(".jp-Cell-outputArea")

    def expect_output(self, cell: int, text: str) -> None:
        """Waits until a text is shown below a cell."""
        expect(self.output(cell)).to_contain_text(text, timeout=PATIENCE_MS)


def converted(notebook: nbformat.NotebookNode, folder: Path) -> Path:
    """The file that nbconvert makes of a notebook for a browser."""
    html, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    path = folder / "converted.html"
    path.write_text(html, encoding="utf-8", errors="replace")
    return path
