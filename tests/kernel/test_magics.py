"""`%onix_runs`, `%onix_timeline` and `%onix_cancel`, and what completes them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest

WORK = """
import threading
gate = threading.Event()

@onix.action
def held(x=1):
    gate.wait(30)
    return x

@onix.action
def broken(x=1):
    raise LookupError(f"nothing at {x}")

@onix.flow
def leaves():
    held.options(name="left behind").start()

@onix.flow
def many():
    onix.wait([held.options(name="child").start(x=x) for x in range(3)])
"""
END = "gate.set()\nfor future in onix.runs(status=['pending', 'running']).futures:\n    future.cancel(interrupt=True)"


@pytest.fixture
def working(notebook: Any) -> Iterator[Any]:
    """The loaded kernel with its actions; what still runs is ended."""
    notebook.ok(WORK)
    yield notebook
    notebook.ok(END)


def names(notebook: Any, source: str) -> list[str]:
    """The names of the runs that a magic gives."""
    notebook.ok(f"chosen = {source}")
    return list(ast.literal_eval(notebook.ok("[run.name for run in chosen]").value))


def completions(notebook: Any, code: str) -> list[str]:
    reply = notebook._client.complete(code, reply=True, timeout=30)
    return list(reply["content"]["matches"])


class TestRuns:
    def test_it_shows_runs_as_a_view(self, working: Any) -> None:
        """As `onix.runs()` does; those whose future is gone, too."""
        working.ok(
            "ended = [held.options(name='of the magic').start(x=x) for x in range(3)]\ngate.set()\nonix.wait(ended).done and None"
        )
        cell = working.ok("%onix_runs 'of the magic'")
        assert "3 succeeded" in cell.text
        assert cell.text.count("of the magic(") == 3
        cell = working.ok("type(onix.runs())([(run, None) for run in onix.runs(ended)])")
        assert cell.text.count("of the magic(") == 3

    def test_options_choose_among_them(self, working: Any) -> None:
        """By status, by leak and by name, also together."""
        working.ok(
            "running = held.options(name='A').start()\nfailed = broken.options(name='B').start()\nfailed.exception()"
        )
        working.run("leaves.start().result()")
        assert names(working, "%onix_runs --unfinished A") == ["A"]
        assert names(working, "%onix_runs --unfinished B") == []
        assert names(working, "%onix_runs --failed B") == ["B"]
        assert names(working, "%onix_runs --leaked 'left behind'") == ["left behind"]
        assert "B" not in names(working, "%onix_runs --unfinished")

    def test_a_frame(self, working: Any) -> None:
        """With `--frame`, which needs pandas only then."""
        working.ok("failed = broken.options(name='framed').start(x=7)\nfailed.exception()")
        assert (
            working.ok("frame = %onix_runs --frame --failed framed\nframe['error'].tolist()").value
            == "['nothing at 7']"
        )


class TestTimeline:
    def test_it_draws_a_figure_below_the_cell(self, working: Any) -> None:
        """With a name, those runs and what they started."""
        working.ok("gate.set()\nmany.start().result()")
        working.ok("%matplotlib inline\nimport matplotlib.pyplot as plt")
        cell = working.ok("%onix_timeline many\nrows = [label.get_text() for label in plt.gca().get_yticklabels()]")
        assert [list(display["data"]) for display in cell.displays] == [["text/plain", "image/png"]]
        assert working.ok("rows").value == "['many', '   child', '   child', '   child']"


class TestCancel:
    def test_by_id_by_name_and_all(self, working: Any) -> None:
        """What is named is cancelled, with what it started, and nothing else."""
        working.ok("a, b, c = (held.options(name=name).start() for name in ('A', 'A', 'C'))\nflow = many.start()")
        done = "[future.cancelled() for future in (a, b, c, flow)]"
        assert working.ok(f"%onix_cancel {working.ok('b.run.id').value}").stdout == "cancelled 1 run\n"
        assert working.ok(done).value == "[False, True, False, False]"
        assert working.ok("%onix_cancel A").stdout == "cancelled 1 run\n"
        assert working.ok(done).value == "[True, True, False, False]"
        working.until(lambda: working.ok("len(onix.runs(parent=flow))").value == "3")
        working.ok("%onix_cancel many")
        assert working.ok("{run.status for run in onix.runs(parent=flow)}").value == "{'cancelled'}"
        assert working.ok("%onix_cancel --all").stdout == "cancelled 1 run\n"
        assert working.ok(done).value == "[True, True, True, True]"
        assert working.ok("%onix_cancel --all").stdout == "cancelled 0 runs\n"

    @pytest.mark.parametrize("line", ["", "nobody", "999999", "A --all", "--some"])
    def test_what_says_nothing_is_refused(self, working: Any, line: str) -> None:
        """And cancels nothing."""
        working.ok("a = held.options(name='A').start()")
        cell = working.run(f"%onix_cancel {line}")
        assert cell.error == "UsageError" or "UsageError" in cell.stderr
        assert working.ok("a.done()").value == "False"


class TestCompletion:
    def test_names_ids_and_options(self, working: Any) -> None:
        """Of what there is to choose from."""
        working.ok("one, other = held.options(name='waits_long').start(), broken.start()\nother.exception()")
        number = working.ok("one.run.id").value
        assert {"--failed", "--frame", "waits_long", "broken"} <= set(completions(working, "%onix_runs "))
        assert completions(working, "%onix_runs --fa") == ["--failed"]
        assert "waits_long" in completions(working, "%onix_timeline wai")
        found = completions(working, "%onix_cancel ")
        assert {"--all", "waits_long", number} <= set(found)
        assert "broken" not in found
