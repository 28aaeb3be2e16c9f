"""The tutorials, and what they may show when they have run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat

TUTORIALS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def wrong_in(notebook: nbformat.NotebookNode) -> list[str]:
    """What the outputs of a tutorial should not have: errors, warnings that its text does not name, unfinished views."""
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    wrong = [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            categories = re.findall(r": (\w+Warning): ", output.text)
            if not categories or not all(category in words for category in categories):
                wrong.append(f"not explained: {output.text}")
    views = [output.data["text/plain"] for output in outputs if "onix-runs" in str(output.get("data", ""))]
    wrong += [f"saved before it ended: {view}" for view in views if re.search(r"[◐○] ", view)]
    return wrong if views else [*wrong, "no view"]
