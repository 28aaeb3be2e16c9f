"""The tutorials run from top to bottom, in batch, and say nothing that they do not explain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from tests.tutorials import TUTORIALS, wrong_in

MOST_CELLS = 15
# Those that start worker processes.
ON_WORKERS = ("04_all_cores_and_a_cluster.ipynb",)
# A notebook is read as it is saved: what all its outputs may take, in characters.
MOST_OUTPUT = 400_000


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
        assert wrong_in(saved) == []
        outputs = [output for cell in saved.cells for output in cell.get("outputs", ())]
        assert len(str(outputs)) < MOST_OUTPUT
