"""The tutorials run from top to bottom, in batch, and say nothing that they do not explain."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
MOST_CELLS = 15
# Those that start worker processes.
ON_WORKERS = ("04_all_cores_and_a_cluster.ipynb",)
# A notebook is read as it is saved: what all its outputs may take, in characters.
MOST_OUTPUT = 400_000


def words_of(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def streams(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.text for output in outputs if output.output_type == "stream" and output.name == name]


def test_there_are_tutorials() -> None:
    """The tests below are not about nothing."""
    assert [path.name for path in TUTORIALS][0] == "01_first_flow.ipynb"


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
class TestFile:
    def test_it_is_valid_short_and_without_outputs(self, path: Path) -> None:
        """What is committed is the source: a valid notebook of 15 cells at most, for any Python 3 kernel."""
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert len(notebook.cells) <= MOST_CELLS
        assert notebook.metadata.kernelspec.name == "python3"
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert cell.outputs == []
                assert cell.execution_count is None


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
class TestRun:
    def test_it_runs_and_explains_what_it_shows(
        self, path: Path, run_notebook: Callable[[Path], nbformat.NotebookNode], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No cell fails, each warning is one that the text names, and each view is saved as it ended."""
        if path.name in ON_WORKERS:
            monkeypatch.setenv("ONIX_MAX_WORKERS", "2")  # not as many as this machine has cores
        saved = run_notebook(path)
        outputs: list[Any] = [output for cell in saved.cells for output in cell.get("outputs", ())]
        assert [output for output in outputs if output.output_type == "error"] == []
        assert len(str(outputs)) < MOST_OUTPUT
        words = words_of(saved)
        for text in streams(saved, "stderr"):
            categories = re.findall(r": (\w+Warning): ", text)
            assert categories, f"stderr that is no warning: {text}"
            for category in categories:
                assert category in words, f"{category} is not explained: {text}"
        views = [output.data["text/plain"] for output in outputs if "onix-runs" in str(output.get("data", ""))]
        assert views
        for view in views:
            assert not re.search(r"[◐○] ", view), f"saved before it ended: {view}"
