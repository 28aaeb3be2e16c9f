"""What runs print, in JupyterLab: under which cell it is, and how much of it, whatever becomes of cell and page."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from onix_nb.notebook.floods import MOST_SHOWN

from .lab import Lab

ACTIONS = """\
%load_ext onix_nb
import onix, threading
gate, stop = threading.Event(), threading.Event()

@onix.action
def say(word: str):
    print(f'early {word}\\n', end='')  # in one write, so that nothing comes in between
    gate.wait(600)
    print(f'late {word}\\n', end='')

@onix.action
def flood():
    n = 0
    while not stop.is_set():
        n += 1
        print(f'{n:09}', 'x' * 89)
"""
TOLD = "more characters that runs of this cell printed are not shown"
# Nothing of a server's own: it says so when it drops messages.
DROPPED = re.compile("rate exceeded")


def test_text_of_a_cell_that_was_run_again_is_that_of_its_last_execution(lab: Lab) -> None:
    """What the runs of the earlier one print then is left out; each run keeps its own."""
    notebook = lab.open(ACTIONS, "first = second\nsecond = say.start(word=f'{n}'); n += 1", "second, n = None, 1")
    notebook.run(0, 2, 1, 1)
    notebook.expect_output(1, "early 2")
    assert notebook.evaluate("gate.set() or onix.wait([first, second], timeout=30).not_done == set()")
    notebook.expect_output(1, "late 2")
    lines = notebook.output(1).inner_text().split("\n")
    assert [line for line in lines if "goes on" not in line] == ["early 2", "late 2", ""]
    assert notebook.evaluate("first.run.output.text") == "early 1\nlate 1\n"


def test_text_of_a_cell_that_was_deleted_is_shown_nowhere(lab: Lab) -> None:
    """Nothing breaks; the run has it."""
    notebook = lab.open(ACTIONS, "future = say.start(word='gone')", "print('another cell')")
    notebook.run(0, 1)
    notebook.expect_output(1, "early gone")
    lab.page.evaluate("path => bed.panel(path).content.model.sharedModel.deleteCell(1)", notebook.path.name)
    assert notebook.evaluate("gate.set() or future.result(timeout=30)") is None
    notebook.run(1)
    assert notebook.output(1).inner_text().strip() == "another cell"
    assert "gone" not in str(notebook.saved())
    assert notebook.evaluate("future.run.output.text") == "early gone\nlate gone\n"


def test_text_that_comes_after_the_page_was_loaded_again_is_kept_with_the_run(lab: Lab) -> None:
    """The page shows what was saved: Lab files no text under a cell that another page has run. The run has all."""
    notebook = lab.open(ACTIONS, "future = say.start(word='it')", "print(future.run.output.text)")
    notebook.run(0, 1)
    notebook.expect_output(1, "early it")
    notebook.saved()
    notebook.reload()
    assert notebook.evaluate("gate.set() or future.result(timeout=30)") is None
    notebook.run(2)
    notebook.expect_output(2, "late it")
    assert notebook.output(2).inner_text().split() == ["early", "it", "late", "it"]
    assert notebook.output(1).inner_text().split() == ["early", "it"]


def test_a_run_that_prints_without_end_leaves_the_page_usable(lab: Lab) -> None:
    """It shows its beginning and how much is missing; other cells print, views live, and the file stays small."""
    notebook = lab.open(ACTIONS, "future = flood.start()\nfuture", "print('the other cell')", "stop.set()")
    notebook.run(0, 1)
    notebook.expect_output(1, TOLD)
    notebook.run(2)
    assert notebook.output(2).inner_text().strip() == "the other cell"
    notebook.run(3)
    expect(notebook.view(1)).to_contain_text("succeeded")
    notebook.until("future.done() and future.run.output._written.value > 2_000_000")
    missing = notebook.evaluate("future.run.output._written.value") - MOST_SHOWN
    notebook.expect_output(1, f"{missing:,} {TOLD}")
    saved = str(notebook.saved().cells[1].outputs)
    assert len(saved) < 2 * MOST_SHOWN
    assert not DROPPED.search(saved)


def test_control_without_the_limit_the_server_drops_text(lab: Lab) -> None:
    """The same flood by a thread of the user's own, which is not limited, is one that the server complains of."""
    source = "threading.Thread(target=flood.__wrapped__).start()\nstop.wait(4)\nstop.set()"
    notebook = lab.open(ACTIONS, source)
    notebook.run(0, 1)
    assert DROPPED.search(str(notebook.saved().cells[1].outputs))
