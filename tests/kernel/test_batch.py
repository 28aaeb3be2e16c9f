"""A notebook that is executed in batch, as by nbclient, papermill and `nbconvert --execute`: what is saved."""

from __future__ import annotations

import re
from typing import Any

import nbclient
import pytest

LOAD = "%load_ext onix_nb\nimport onix, threading\ngate = threading.Event()"
AS_OF = re.compile(r"as of \d\d:\d\d:\d\d UTC, not the end")


def text(cell: Any) -> str:
    """What the cell shows, as text."""
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def html(cell: Any) -> str:
    """What the cell displays, as HTML."""
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


class TestFlowCells:
    def test_a_flow_cell_waits(self, run_cells: Any) -> None:
        """Its flow has ended, and its names have landed, when the next cell runs; it is saved as it ended."""
        saved = run_cells(
            LOAD,
            "%%onix_flow late\nonix.sleep(0.3)\nword = 'ready'\n7",
            "late.done(), late.result(timeout=0), word",
        )
        assert text(saved.cells[2]) == "(True, 7, 'ready')"
        assert "✓ succeeded" in text(saved.cells[1])
        assert "not the end" not in text(saved.cells[1]) + html(saved.cells[1])

    def test_with_no_wait_it_goes_on(self, run_cells: Any) -> None:
        """`--no-wait` starts the flow and returns, as with somebody at the page. The control for the waiting."""
        saved = run_cells(
            LOAD,
            "%%onix_flow late --no-wait\nopened = gate.wait(30)",
            "late.done()",
            "gate.set()\nlate.result(timeout=30)\nlate.done()",
        )
        assert [text(cell) for cell in saved.cells[2:]] == ["False", "True"]
        assert "✓ succeeded" in text(saved.cells[1])

    def test_its_exception_ends_the_notebook(self, run_cells: Any) -> None:
        """As that of a plain cell does."""
        with pytest.raises(nbclient.exceptions.CellExecutionError, match="KeyError"):
            run_cells(LOAD, "%%onix_flow bad\n{}['missing']", "'not reached'")

    def test_its_exception_is_saved_with_its_view(self, run_cells: Any) -> None:
        """Where errors are allowed: the view as it ended, and the error."""
        saved = run_cells(LOAD, "%%onix_flow bad\n{}['missing']", "bad.done()", allow_errors=True)
        shown, error = saved.cells[1].outputs
        assert "✗ failed" in shown.data["text/plain"]
        assert (error.ename, error.evalue) == ("KeyError", "'missing'")
        assert text(saved.cells[2]) == "True"

    def test_a_cell_of_a_page_goes_on(self, notebook: Any) -> None:
        """It has an id, also where no input is allowed: that cell does not wait."""
        notebook.ok("gate = threading.Event()")
        notebook.ok("%%onix_flow late\nopened = gate.wait(30)")
        assert notebook.ok("late.done(), gate.set()").value == "(False, None)"
        notebook.ok("late.result(timeout=30)")

    def test_a_cell_of_a_console_goes_on(self, notebook: Any) -> None:
        """It has no id, and input is allowed."""
        told = "from onix_nb.notebook.cells import in_batch\nparent = get_ipython().get_parent()\n"
        assert notebook.ok(told + "in_batch(get_ipython())").value == "False"
        # Control: the same cell without its id would be one in batch; with input allowed it is not.
        assert notebook.ok(told + "del parent['metadata']['cellId']\nin_batch(get_ipython())").value == "True"
        console = "del parent['metadata']['cellId']\nparent['content']['allow_stdin'] = True\nin_batch(get_ipython())"
        assert notebook.ok(told + console).value == "False"

    def test_waiting_and_not_waiting_exclude_each_other(self, notebook: Any) -> None:
        """One line, and no flow starts."""
        before = notebook.ok("len(onix.runs())").value
        cell = notebook.run("%%onix_flow both --wait --no-wait\n1")
        assert cell.stderr == "UsageError: %%onix_flow: --wait and --no-wait exclude each other\n"
        assert cell.traceback == ""
        assert notebook.ok("len(onix.runs())").value == before


class TestPlainCells:
    STARTED = "@onix.action\ndef held(x: int):\n    return gate.wait(30)\nfuture = held.start(x=3)\nfuture"

    def test_what_a_plain_cell_starts_goes_on(self, run_cells: Any) -> None:
        """The cell does not wait; its view is saved as it ended, when that was during a later cell."""
        saved = run_cells(LOAD, self.STARTED, "future.done()", "gate.set()\nfuture.result(timeout=30)")
        assert text(saved.cells[2]) == "False"
        assert "✓ succeeded" in text(saved.cells[1])
        assert "not the end" not in text(saved.cells[1]) + html(saved.cells[1])

    @pytest.mark.parametrize("shown", ["future", "onix.runs()", "onix.wait([future], timeout=0)"])
    def test_what_has_not_ended_is_saved_with_the_time(self, run_cells: Any, shown: str) -> None:
        """A view of what still runs at the end says as of when it is, and that this is not the end."""
        saved = run_cells(LOAD, f"{self.STARTED[:-6]}{shown}", "'the last cell'")
        assert AS_OF.search(text(saved.cells[1]))
        assert AS_OF.search(html(saved.cells[1]))
