"""Durable cells in a real kernel, which is killed in the middle of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager

SETUP = """
%load_ext onix_nb
import onix, os, threading, time

@onix.action
def fetch(n: int):
    with open('ran', 'a') as log:
        log.write(f'{n} ')
    return n * n

@onix.action
def last(held: bool):
    if held:
        open('held', 'w').close()
        time.sleep(3600)
    return 'end'
"""
CELL = """%%onix_flow squares --durable
futures = [fetch.start(n=n) for n in range(4)]
total = sum(future.result() for future in futures)
last(held=os.path.exists('hold'))
total
"""

# Kills its kernel when some results are recorded: the begin of the flow is the first commit.
DEADLY = """
import os, signal
from onix_nb.journal import store
left = [3]
def at(point):
    left[0] -= point == 'acknowledged'
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
store.at = at
"""
TUTORIAL = Path(__file__).parents[2] / "notebooks" / "03_survive_a_restart.ipynb"


@pytest.fixture
def kernels(new_notebook: Callable[[], Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a kernel in the same folder, after killing the one before, and runs `SETUP` in it."""
    kind = type(new_notebook())
    running: list[tuple[KernelManager, Any]] = []

    def kill() -> None:
        for manager, notebook in running:
            notebook.close()
            manager.shutdown_kernel(now=True)
        running.clear()

    def start(setup: str = SETUP) -> Any:
        kill()
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(cwd=str(tmp_path))
        notebook = kind(manager)
        running.append((manager, notebook))
        notebook.ok(setup)
        return notebook

    yield start
    kill()


def ran(folder: Path) -> list[str]:
    """Which of the actions have run, in all kernels."""
    return sorted((folder / "ran").read_text().split())


def test_a_cell_goes_on_in_another_kernel(kernels: Callable[[], Any], tmp_path: Path) -> None:
    """Nothing recorded runs again, its names land, and the view says what was replayed."""
    (tmp_path / "hold").touch()
    notebook = kernels()
    notebook.ok(CELL)
    notebook.until(lambda: (tmp_path / "held").exists() or not notebook.run("None"), "the held action")
    (tmp_path / "hold").unlink()
    notebook = kernels()
    cell = notebook.ok(CELL)
    assert "unfinished in the journal: squares (4 calls recorded)" in cell.stdout
    assert notebook.ok("squares.result()").value == "14"
    assert notebook.ok("total").value == "14"
    assert ran(tmp_path) == ["0", "1", "2", "3"]
    marks = "onix.runs(name='fetch').to_frame()['first_ran'].notna().all()"
    assert notebook.ok(f"bool({marks})").value == "True"
    assert "replayed" in notebook.ok("%onix_runs fetch").text


def test_a_cell_that_has_ended_runs_from_the_journal(kernels: Callable[[], Any], tmp_path: Path) -> None:
    """So its names are there again, and no action runs."""
    kernels().ok(CELL.replace("--durable", "--durable --wait"))
    notebook = kernels()
    notebook.ok(CELL.replace("--durable", "--durable --wait"))
    assert notebook.ok("total").value == "14"
    assert ran(tmp_path) == ["0", "1", "2", "3"]
    notebook.ok(CELL.replace("--durable", "--durable --wait --fresh"))
    assert ran(tmp_path) == ["0", "0", "1", "1", "2", "2", "3", "3"]


def test_what_the_journal_holds(kernels: Callable[[], Any], tmp_path: Path) -> None:
    """A row for each flow; an empty frame without a journal."""
    notebook = kernels()
    assert notebook.ok("held = %onix_runs --journal\nlen(held)").value == "0"
    assert not (tmp_path / ".onix").exists()
    notebook.ok(CELL.replace("--durable", "--durable --wait"))
    notebook.ok("held = %onix_runs --journal")
    assert (
        notebook.ok("list(held.columns)").value == "['id', 'flow', 'status', 'started', 'finished', 'calls', 'bytes']"
    )
    assert notebook.ok("held[['id', 'flow', 'status', 'calls']].values.tolist()").value == (
        "[['squares', 'squares', 'succeeded', 5]]"
    )
    assert (tmp_path / ".onix" / "default.sqlite").exists()


def test_the_tutorial_survives_what_it_is_about(kernels: Callable[..., Any]) -> None:
    """Its kernel is killed in the middle of it; run again from the top, it repeats only what was in flight."""
    cells = [cell.source for cell in nbformat.read(TUTORIAL, as_version=4).cells if cell.cell_type == "code"]
    begins = next(place for place, cell in enumerate(cells) if "warming.start(" in cell)
    notebook = kernels("None")
    for cell in cells[:begins]:
        notebook.ok(cell)
    notebook.ok(DEADLY)
    notebook.start(cells[begins])
    notebook.until(lambda: not notebook.is_alive(), "the death of the kernel")
    notebook = kernels("None")
    told = notebook.ok("\n".join(cells[:begins])).stdout
    recorded = int(re.findall(r"\((\d+) calls? recorded\)", told)[0])
    assert 2 <= recorded < 12, "it was killed in the middle"
    notebook.ok(cells[begins])
    notebook.ok("result, runs = report.result(), onix.runs(name='trend').to_frame()")
    assert notebook.ok("len(runs), int(runs['first_ran'].notna().sum())").value == f"(12, {recorded})"
    anew = "warming.options(fresh=True).start(year=2014, draws=2000).result()"
    assert notebook.ok(f"result.equals({anew})").value == "True"
    for cell in cells[begins:]:
        notebook.ok(cell)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%%onix_flow --durable", "needs a NAME"),
        ("%%onix_flow work --fresh", "--fresh needs --durable"),
        ("%%onix_flow work --keep fetch", "--keep needs --durable"),
        ("%%onix_flow work --on-change error", "--on-change needs --durable"),
        ("%%onix_flow work --durable --on-change sideways", "invalid choice"),
    ],
)
def test_options_that_make_no_sense_are_refused(notebook: Any, line: str, said: str) -> None:
    """In one line."""
    assert said in notebook.run(f"{line}\n1").stderr


def test_a_durable_cell_can_not_await(notebook: Any) -> None:
    """What it awaits has no order that could be repeated."""
    cell = notebook.run("%%onix_flow work --durable\nimport asyncio\nawait asyncio.sleep(0)")
    assert "can't await" in cell.stderr
