"""Runs that print without end, and where the text of runs is shown when its cell is not what it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from onix_nb.notebook.floods import MOST_FLUSHES, MOST_SHOWN

TOLD = re.compile(r"onix_nb: ([\d,]+) more characters that runs of this cell printed are not shown")
ACTIONS = """
import sys, threading

@onix.action
def flood(lines: int, kind: str = "print"):
    "Lines of 100 characters; each with its number, the last one is seen."
    for n in range(lines):
        text = f"{n:06} ".ljust(99, "x")
        print(text, flush=kind == "flush", file=sys.stderr if kind == "stderr" else sys.stdout)

# So that the tests don't wait for the next window of some seconds.
def fresh_windows():
    from onix_nb.notebook.output import floods
    for window in (floods._sent, floods._redrawn, floods._flushes):
        window._begun = 0.0
"""

# Both streams have IPython's `write` of a cell in front, as prints of cells have.
MEASURE = """
import time
from ipykernel.iostream import OutStream

class Plain(OutStream):
    "The same stream without what the extension puts in."
    def __init__(self):
        vars(self).update({name: value for name, value in vars(streams[0]).items() if name not in ("write", "flush")})
        self.echo = None

streams = [sys.stdout]
plain = Plain()

def took(stream):
    begun = time.perf_counter()
    for _ in range(200):
        print("a line", file=stream)
    return time.perf_counter() - begun

def measured():
    rounds, shell, before = [], get_ipython(), sys.stdout
    with onix.Executor(max_workers=1) as executor:
        sys.stdout = plain
        try:
            with shell._tee("stdout"):
                for _ in range(50):
                    rounds.append([executor.submit(took, before).result(), took(plain)])
        finally:
            sys.stdout = before
    return min(run for run, _ in rounds) / min(bare for _, bare in rounds)
"""


@pytest.fixture
def flooding(notebook: Any) -> Iterator[Any]:
    """The loaded kernel with the action that floods; its rate begins anew."""
    notebook.ok(ACTIONS)
    notebook.ok("fresh_windows()")
    yield notebook
    notebook.ok("fresh_windows()")


def told(cell: Any) -> list[int]:
    """The numbers of characters that are told to be missing, one for each place where it is said."""
    return [int(match[1].replace(",", "")) for match in TOLD.finditer(cell.text)]


class TestFloods:
    @pytest.mark.parametrize("kind", ["print", "flush", "stderr"])
    def test_the_first_part_is_shown_and_the_rest_is_told(self, flooding: Any, kind: str) -> None:
        """Under the cell, once, with how much is missing, to the character; the end is kept with the run."""
        cell = flooding.ok(f"future = flood.start(lines=20_000, kind={kind!r})")
        flooding.ok("future.result(timeout=30)")
        flooding.until(lambda: told(cell) == [20_000 * 100 - MOST_SHOWN], "what is told")
        text = cell.stderr if kind == "stderr" else cell.stdout
        assert len(text) == MOST_SHOWN
        assert text.startswith("000000 ")
        assert flooding.ok("future.run.output.text.splitlines()[-1][:6]").value == "'019999'"

    def test_in_a_cell_that_waits_it_is_told_when_that_ends(self, flooding: Any) -> None:
        """At once: a batch run has no later moment."""
        cell = flooding.ok("flood(lines=10_000)")
        assert len(cell.stdout) == MOST_SHOWN
        assert told(cell) == [10_000 * 100 - MOST_SHOWN]

    def test_while_a_cell_blocks_it_is_told_too(self, flooding: Any) -> None:
        """Not by the thread that is blocked."""
        flooding.ok(
            "gate = threading.Event()\n"
            "@onix.action\ndef hold():\n    flood_now(10_000)\n    gate.wait(30)\nflood_now = flood.__wrapped__"
        )
        cell = flooding.ok("future = hold.start()")
        blocking = flooding.start("print(gate.wait(3))")
        flooding.until(lambda: told(cell) == [10_000 * 100 - MOST_SHOWN], "what is told")
        assert not blocking.reply
        flooding.end(blocking)
        flooding.ok("gate.set()\nfuture.result(timeout=30)")

    def test_all_runs_of_a_cell_share_it(self, flooding: Any) -> None:
        """A hundred runs show no more than one, and are told in one place."""
        cell = flooding.ok("futures = [flood.start(lines=100) for _ in range(100)]")
        flooding.ok("done = onix.wait(futures, timeout=30).done\n_ = [future.result() for future in done]")
        flooding.until(lambda: told(cell) != [] and len(cell.stdout) + told(cell)[-1] == 100 * 100 * 100)
        assert len(told(cell)) == 1
        assert MOST_SHOWN <= len(cell.stdout) <= MOST_SHOWN * 1.02

    def test_the_text_of_cells_is_not_limited(self, flooding: Any) -> None:
        """Nor that of a user's own threads. The control: without the limit all of a flood is shown."""
        cell = flooding.ok("for n in range(20_000):\n    print('x' * 99)")
        flooding.until(lambda: len(cell.stdout) == 20_000 * 100)
        assert told(cell) == []

    def test_a_run_may_print_much_that_fits(self, flooding: Any) -> None:
        """Nothing is told of less than the limit."""
        cell = flooding.ok("flood(lines=4_000)")
        flooding.until(lambda: len(cell.stdout) == 4_000 * 100)
        assert told(cell) == []

    def test_flushing_all_the_time_sends_few_messages(self, flooding: Any) -> None:
        """Each flush is a message; of a run that flushes each line it is some hundreds, and all text is shown."""
        cell = flooding.ok("flood(lines=4_000, kind='flush')")
        flooding.until(lambda: len(cell.stdout) == 4_000 * 100)
        streams = [output for output in cell.outputs if output.get("name") == "stdout"]
        assert len(streams) <= 2 * MOST_FLUSHES
        # Control: a cell of the user's own sends thousands.
        own = flooding.ok("for n in range(4_000):\n    print('x' * 99, flush=True)")
        flooding.until(lambda: len(own.stdout) == 4_000 * 100)
        assert len([output for output in own.outputs if output.get("name") == "stdout"]) > 2 * MOST_FLUSHES

    def test_a_print_that_fits_costs_little(self, flooding: Any) -> None:
        """In a run less than three times one to a stream as ipykernel has it, in the best of alternating rounds."""
        flooding.ok(MEASURE)
        ratio = float(flooding.ok("measured()").value)
        assert ratio < 3, ratio

    def test_unloading_ends_the_limit(self, new_notebook: Any) -> None:
        """And the streams are as they were; loading again limits again."""
        notebook = new_notebook()
        notebook.ok(
            "import sys\nwrites = lambda: [vars(s).get('write') for s in streams]\nstreams = sys.stdout, sys.stderr"
        )
        look = "import asyncio\nawait asyncio.sleep(0)\nbefore = writes()\n'flush' in vars(sys.stdout)"
        assert notebook.ok(look).value == "False"
        notebook.ok("%load_ext onix_nb\nimport onix")
        notebook.ok(ACTIONS)
        assert len(notebook.ok("flood(lines=10_000)").stdout) == MOST_SHOWN
        notebook.ok("%unload_ext onix_nb")
        # An async cell: IPython has no `write` of its own in front then.
        assert notebook.ok("await asyncio.sleep(0)\nwrites() == before, 'flush' in vars(sys.stdout)").value == (
            "(True, False)"
        )
        cell = notebook.ok("flood(lines=10_000)")
        notebook.until(lambda: len(cell.stdout) == 10_000 * 100)
        notebook.ok("%load_ext onix_nb\nfresh_windows()")
        assert len(notebook.ok("flood(lines=10_000)").stdout) == MOST_SHOWN


class TestBatch:
    def test_a_flood_is_saved_with_what_is_missing(self, run_cells: Any) -> None:
        """In the notebook that nbclient saves; and the file stays small."""
        saved = run_cells("%load_ext onix_nb\nimport onix", ACTIONS, "flood(lines=20_000)\n'end'")
        shown = "".join(output.get("text", "") for output in saved.cells[2].outputs)
        notes = [output.data["text/plain"] for output in saved.cells[2].outputs if "data" in output]
        assert len(shown) == MOST_SHOWN
        (missing,) = [match[1] for note in notes if (match := TOLD.match(note))]
        assert missing == f"{20_000 * 100 - MOST_SHOWN:,}"

    def test_text_that_comes_after_its_cell_is_kept_with_the_run(self, run_cells: Any) -> None:
        """Nbclient drops it, whoever printed it, and never shows it under another cell."""
        saved = run_cells(
            "%load_ext onix_nb\nimport onix, threading\ngate = threading.Event()",
            "@onix.action\ndef late():\n    print('early')\n    begun.set()\n    gate.wait(30)\n    print('late')\n"
            "begun = threading.Event()\nfuture = late.start()\nbegun.wait(30) and None",
            "gate.set()\nfuture.result(timeout=30)",
            "future.run.output.text",
        )
        texts = ["".join(output.get("text", "") for output in cell.outputs) for cell in saved.cells]
        assert "late" not in "".join(texts[2:])
        assert texts[1] == "early\n" or texts[1] == "early\nlate\n"
        assert saved.cells[3].outputs[0].data["text/plain"] == r"'early\nlate\n'"


class TestAgain:
    def test_each_execution_has_its_own_text(self, flooding: Any) -> None:
        """A cell that is run again: what the runs of its earlier execution print is marked as theirs, not as the later's.

        A page knows both executions as one cell, and leaves out what comes for the earlier one.
        """
        flooding.ok(
            "gate = threading.Event()\n@onix.action\ndef late(word: str):\n    gate.wait(30)\n    print('said', word)"
        )
        first = flooding.run("first = late.start(word='first')", cell_id="one")
        second = flooding.run("second = late.start(word='second')", cell_id="one")
        later = flooding.ok("gate.set()\nfirst.result(timeout=30), second.result(timeout=30)")
        flooding.until(lambda: "said" in first.stdout and "said" in second.stdout)
        said = [[line for line in cell.stdout.splitlines() if "said" in line] for cell in (first, second, later)]
        assert said == [["said first"], ["said second"], []]
        assert flooding.ok("first.run.output.text, second.run.output.text").value == (
            r"('said first\n', 'said second\n')"
        )
