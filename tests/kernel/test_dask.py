"""A kernel whose actions run on a Dask cluster: what they print is shown under the cell that started them."""

from __future__ import annotations

from typing import Any

CELL = """
import os, sys
import onix_nb as onix

@onix.action
def speak(folder):
    print("first")
    with open(f"{folder}/go") as go:
        go.read()
    print("then")
    print("an error", file=sys.stderr)

"""


def test_prints_of_workers_come_to_the_cell_that_started_them(notebook: Any, dask_cluster: Any, tmp_path: Any) -> None:
    """At once, and also when other cells have run meanwhile."""
    notebook.ok(CELL + f"onix.configure(executor={dask_cluster.executor!r}); os.mkfifo({str(tmp_path / 'go')!r})")
    starting = notebook.ok(f"future = speak.start(folder={str(tmp_path)!r})")
    notebook.until(lambda: starting.stdout == "first\n", "the first line")
    other = notebook.ok(f"open({str(tmp_path / 'go')!r}, 'w').close(); future.result()")
    notebook.until(lambda: starting.stdout == "first\nthen\n" and starting.stderr == "an error\n", "the rest")
    assert (other.stdout, other.stderr) == ("", "")
