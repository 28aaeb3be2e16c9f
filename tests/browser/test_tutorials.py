"""The first tutorials as most people will run them: in JupyterLab, from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tutorials import TUTORIALS, wrong_in

from .lab import Lab


@pytest.mark.parametrize("path", TUTORIALS[:3], ids=lambda path: path.stem)
def test_it_runs_and_explains_what_it_shows(lab: Lab, path: Path) -> None:
    """No cell fails, each warning is one that the text names, and each view is there and has ended."""
    notebook = lab.open_copy(path)
    notebook.run_all()
    notebook.until("not onix.runs(status=['pending', 'running'])")
    lab.screenshot(path.stem)
    assert wrong_in(notebook.saved()) == []


def test_control_what_a_tutorial_does_not_explain_is_found(lab: Lab) -> None:
    """A warning of the reader's own, a failure, and nothing to see."""
    notebook = lab.open("import warnings; warnings.warn('why?', FutureWarning)", "1 / 0")
    notebook.run_all()
    wrong = wrong_in(notebook.saved())
    assert [text.partition(":")[0] for text in wrong] == ["ZeroDivisionError", "not explained", "no view"]
