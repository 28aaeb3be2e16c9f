"""What the notebook shows of runs: one display for each view, updated in place, escaped, and saved in its final state."""

from __future__ import annotations

from typing import Any

import pytest

GATE = "gate = threading.Event()"
HELD = GATE + "\n@onix.action\ndef held(x: int):\n    gate.wait(30)\n    return 7 * x"
RELEASE = "gate.set()\nfor future in onix.runs().futures:\n    future.exception(timeout=30)"

WIDGET = "application/vnd.jupyter.widget-view+json"

SHOWN = {
    "a future": "future = held.start(x=3)\nfuture",
    "what wait returned": "future = held.start(x=3)\nonix.wait([future], timeout=0)",
    "runs()": "future = held.start(x=3)\nonix.runs([future])",
    "a flow cell": "%%onix_flow future\nheld.start(x=3).result()",
}


class TestInPlace:
    @pytest.mark.parametrize("source", SHOWN.values(), ids=SHOWN.keys())
    def test_a_view_is_one_display_of_html_and_text(self, notebook: Any, source: str) -> None:
        """A view has a display id of its own, is a widget while something runs, and ends as static HTML and text."""
        notebook.ok(HELD)
        cell = notebook.ok(source)
        (display,) = cell.displays
        assert set(display["data"]) == {WIDGET, "text/html", "text/plain"}
        assert display["display_id"]
        assert ("future" if source.startswith("%%") else "held(x=3)") in cell.text
        assert cell.value is None
        notebook.ok(RELEASE)
        notebook.until(lambda: "succeeded" in cell.text and "running" not in cell.text)
        assert len(cell.displays) == 1
        assert set(cell.displays[0]["data"]) == {"text/html", "text/plain"}
        assert "<script" not in cell.html

    def test_a_view_is_updated_when_its_run_ends(self, notebook: Any) -> None:
        """The same display goes from unfinished to succeeded, with the result, under the cell that showed it."""
        notebook.ok(HELD)
        cell = notebook.ok("future = held.start(x=3)\nfuture")
        assert "held(x=3)  21" not in cell.text
        assert "succeeded" not in cell.text
        later = notebook.ok("gate.set()\nfuture.result(timeout=30)")
        notebook.until(lambda: "succeeded" in cell.text)
        assert "succeeded" in cell.html.rpartition("</style>")[2]
        assert "held(x=3)  21" in cell.text
        assert "running" not in cell.html.rpartition("</style>")[2]
        assert later.displays == []

    def test_each_showing_is_a_view_of_its_own(self, notebook: Any) -> None:
        """A future that is shown twice has two displays, and both end right."""
        notebook.ok(HELD)
        first = notebook.ok("future = held.start(x=3)\nfuture")
        second = notebook.ok("future")
        assert first.displays[0]["display_id"] != second.displays[0]["display_id"]
        notebook.ok(RELEASE)
        notebook.until(lambda: "succeeded" in first.text and "succeeded" in second.text)

    def test_a_failure_shows_its_error(self, notebook: Any) -> None:
        """A failed run is shown with type and message."""
        notebook.ok("@onix.action\ndef fail():\n    raise LookupError('nothing there')")
        cell = notebook.ok("future = fail.start()\nerror = future.exception(timeout=30)\nfuture")
        assert "LookupError: nothing there" in cell.text
        assert "LookupError: nothing there" in cell.html
        assert "failed" in cell.text

    def test_a_flow_is_shown_with_what_it_started(self, notebook: Any) -> None:
        """The children of a flow stand below it, indented, with their arguments."""
        notebook.ok("@onix.action\ndef double(x: int):\n    return 2 * x")
        notebook.ok("@onix.flow\ndef both():\n    return [double.start(x=x).result() for x in (4, 5)]")
        cell = notebook.ok("future = both.start()\nresult = future.result(timeout=30)\nfuture")
        lines = cell.text.splitlines()
        assert "3 runs: 3 succeeded" in lines[0]
        assert "both()" in lines[1]
        assert "  double(x=4)" in lines[2]
        assert "  double(x=5)" in lines[3]

    def test_the_future_is_still_the_value_of_the_cell(self, notebook: Any) -> None:
        """`_` and `Out` have what was shown."""
        notebook.ok("@onix.action\ndef double(x: int):\n    return 2 * x")
        notebook.ok("double.start(x=4)")
        assert notebook.ok("_.result(timeout=30)").value == "8"

    def test_a_container_of_futures_is_shown_as_python_does(self, notebook: Any) -> None:
        """A list of futures has the text of a list, with the state of each."""
        notebook.ok("@onix.action\ndef double(x: int):\n    return 2 * x")
        notebook.ok("future = double.start(x=4)\nresult = future.result(timeout=30)")
        assert notebook.ok("[future]").value == "[<Future double(x=4) succeeded>]"


TERMINAL = """
from IPython.terminal.interactiveshell import TerminalInteractiveShell
shell = TerminalInteractiveShell.instance()
for cell in (
    "%load_ext onix_nb\\nimport onix, threading\\ngate = threading.Event()",
    "@onix.action\\ndef held(x):\\n    gate.wait(30)\\n    return x",
    "future = held.start(x=3)\\nfuture",
    "from onix_nb.live.view import refresher\\nprint(refresher._views, refresher._thread)",
    "gate.set()\\nfuture.result(timeout=30)",
    "future",
):
    shell.run_cell(cell, store_history=True).raise_error()
"""


def test_a_terminal_gets_the_text_once(script: Any) -> None:
    """What has been printed can't be updated: it is not printed again and again."""
    lines = script(TERMINAL).passes(env={"IPYTHONDIR": "."}).splitlines()
    first, last = (line.partition(": ")[2] for line in lines if "held(x=3)" in line)
    assert "succeeded" not in first
    assert "succeeded" in last
    assert "[] None" in lines


class TestSaved:
    @pytest.mark.parametrize(
        "shown", ["future", "onix.runs([future])", "onix.wait([future], timeout=0)"], ids=["future", "runs", "wait"]
    )
    def test_the_saved_notebook_shows_the_final_state(self, run_cells: Any, shown: str) -> None:
        """A view of what ran when it was shown is saved as it ended, when that was during a later cell."""
        saved = run_cells(
            "%load_ext onix_nb\nimport onix, threading",
            HELD,
            f"future = held.start(x=3)\n{shown}",
            "gate.set()\nfuture.result(timeout=30)",
        )
        (output,) = saved.cells[2].outputs
        assert output.output_type == "display_data"
        assert "succeeded" in output.data["text/plain"]
        assert "✓" in output.data["text/html"]

    def test_a_view_that_ended_between_two_cells_is_saved_as_it_ended(self, run_cells: Any) -> None:
        """An update that comes while no cell runs, which a batch front end drops, is not lost."""
        sources = [f"future_{n} = held.start(x={n})\nfuture_{n}" for n in range(8)]
        saved = run_cells(
            "%load_ext onix_nb\nimport onix",
            "@onix.action\ndef held(x: int):\n    onix.sleep(0.002 * x)",
            *sources,
            "onix.wait([future_0, future_1, future_2, future_3, future_4, future_5, future_6, future_7]).done and None",
        )
        for cell in saved.cells[2:-1]:
            assert "✓ succeeded" in cell.outputs[0].data["text/plain"]

    def test_a_flow_cell_is_saved_in_its_final_state(self, run_cells: Any) -> None:
        """With `--wait`, the flow's cell is saved as it ended, its children with it."""
        saved = run_cells(
            "%load_ext onix_nb\nimport onix\n@onix.action\ndef double(x: int):\n    return 2 * x",
            "%%onix_flow eight --wait\ndouble.start(x=4).result()",
        )
        (output,) = saved.cells[1].outputs
        assert "2 runs: 2 succeeded" in output.data["text/plain"]


# Markup in every place where something of the user is shown.
HOSTILE = """
text = "<script>alert(1)</script><img src=x onerror=alert(2)>\\"'&"

@onix.action(name="<script>name</script>")
def act(**arguments):
    if arguments.get("fails"):
        raise ValueError(arguments["word"])
    return arguments

class Hostile:
    shouted = []
    def __repr__(self):
        Hostile.shouted.append("repr")
        return "<script>repr</script>"
    __str__ = __format__ = _repr_html_ = __repr__
    def _repr_mimebundle_(self, **kwargs):
        Hostile.shouted.append("bundle")
        return {"text/html": "<script>bundle</script>"}
    _ipython_display_ = _repr_mimebundle_
"""


class TestEscaped:
    def test_markup_in_names_arguments_results_and_errors(self, notebook: Any) -> None:
        """The page gets no tag and no attribute from a name, an argument, a result or an error."""
        notebook.ok(HOSTILE)
        notebook.ok(
            'good = act.start(**{"word": text, "<b>": 1, "members": [text, {text: text}]})\n'
            "bad = act.start(word=text, fails=True)\n"
            "wait = onix.wait([good, bad])"
        )
        for source in ("good", "bad", "wait", "onix.runs([good, bad])"):
            cell = notebook.ok(source)
            markup = cell.html.rpartition("</style>")[2]
            for tag in ("<script", "<img", "<b>=", "onerror=alert(2)>"):
                assert tag not in markup, (source, tag)
            assert "&lt;script&gt;name&lt;/script&gt;" in markup
            assert "&lt;script&gt;alert(1)" in markup
            # In an attribute, a quote would end it.
            assert 'alert(2)>"' not in markup
        notebook.ok("bad.exception()")

    def test_names_of_flow_cells_cannot_hold_markup(self, notebook: Any) -> None:
        """NAME is an identifier, and nothing else."""
        assert notebook.run("%%onix_flow <script>\n1").displays == []

    @pytest.mark.parametrize("character", ["\x1b", "\u202e", "\u200b", "\x00", "\u2066"], ids=ascii)
    def test_control_and_bidi_characters_are_made_visible(self, notebook: Any, character: str) -> None:
        """What would move, hide or reorder the text around it is shown by its number."""
        notebook.ok(HOSTILE)
        notebook.ok(f"odd = act.start(word='before' + {character!r} + 'after', fails=True)\nodd.exception(timeout=30)")
        cell = notebook.ok("odd")
        assert character not in cell.text + cell.html
        assert f"{ord(character):02x}after" in cell.text

    def test_no_code_of_the_user_runs_to_show_a_value(self, notebook: Any) -> None:
        """`__repr__`, `__str__`, `_repr_html_` and their kin of arguments and results are not called."""
        notebook.ok(HOSTILE)
        notebook.ok(
            "things = act.start(thing=Hostile(), members=[Hostile(), {Hostile(): Hostile()}])\n"
            "result = things.result(timeout=30)"
        )
        for source in ("things", "onix.wait([things])", "onix.runs([things])", "[things]"):
            cell = notebook.ok(source)
            assert "Hostile" in cell.text
            assert "repr" not in cell.text
        assert notebook.ok("Hostile.shouted").value == "[]"
        # Control: the class does notice.
        assert notebook.ok("text = repr(Hostile())\nHostile.shouted").value == "['repr']"

    def test_scalars_of_numpy_are_shown_as_numbers(self, notebook: Any) -> None:
        """As arguments and results, also inside of containers."""
        notebook.ok(HOSTILE)
        notebook.ok(
            "import numpy as np\nnumbers = act.start(one=np.float64(0.5), many=[np.int8(7), np.bool_(True)])\n"
            "result = numbers.result(timeout=30)"
        )
        assert "one=0.5" in notebook.ok("numbers").text
        assert "{'one': 0.5, 'many': [7, True]}" in notebook.ok("numbers").text

    def test_rows_show_few_digits(self, notebook: Any) -> None:
        """Six of a float that has more."""
        notebook.ok(HOSTILE)
        notebook.ok(
            "floats = act.start(word=[0.1 + 0.2, 1e300, float('nan'), 0.25])\nresult = floats.result(timeout=30)"
        )
        assert "word': [0.3, 1e+300, nan, 0.25]" in notebook.ok("floats").text

    def test_big_values_are_cut(self, notebook: Any) -> None:
        """A view is of bounded size whatever is passed, returned or raised."""
        notebook.ok(HOSTILE)
        notebook.ok(
            "big = act.start(word='x' * 1_000_000, many=list(range(1_000_000)), deep=[[['y' * 100_000]]])\n"
            "bad = act.start(word='z' * 1_000_000, fails=True)\n"
            "errors = [big.exception(timeout=30), bad.exception(timeout=30)]"
        )
        assert len(notebook.ok("big").html) < 20_000
        assert len(notebook.ok("bad").html) < 20_000


OUTPUTS = """
import logging, sys, warnings
from IPython.display import HTML, display
log = logging.getLogger("tutorial")
log.addHandler(logging.StreamHandler())

def speak(word):
    print(f"printed {word}")
    print(f"on stderr {word}", file=sys.stderr)
    log.warning("logged %s", word)
    warnings.warn(f"warned {word}")
    display(HTML(f"<i>displayed {word}</i>"))
"""
SPOKEN = ("printed", "on stderr", "logged", "warned", "displayed")

STARTED = {
    "an action": "@onix.action\ndef work():\n    gate.wait(30)\n    speak('it')\nfuture = work.start()",
    "an action of a flow": (
        "@onix.action\ndef work():\n    gate.wait(30)\n    speak('it')\n"
        "@onix.flow\ndef flow():\n    work.start().result()\nfuture = flow.start()"
    ),
    "an async action": (
        "import asyncio\n@onix.action\nasync def work():\n    await asyncio.to_thread(gate.wait, 30)\n    speak('it')\n"
        "future = work.start()"
    ),
    "a flow cell": "%%onix_flow future\nopened = gate.wait(30)\nspeak('it')",
}


class TestOutput:
    @pytest.mark.parametrize("source", STARTED.values(), ids=STARTED.keys())
    def test_it_lands_under_the_cell_that_started_the_run(self, notebook: Any, source: str) -> None:
        """What a run prints, logs, warns of and displays comes under its cell, also when that has ended long ago."""
        notebook.ok(GATE + OUTPUTS)
        cell = notebook.ok(source)
        between = notebook.ok("'another cell'")
        later = notebook.ok("gate.set()\nfuture.result(timeout=30)")

        def said(cell: Any) -> list[str]:
            text = cell.stdout + cell.stderr + cell.html
            return [word for word in SPOKEN if f"{word} it" in text]

        notebook.until(lambda: said(cell) == list(SPOKEN), "all five outputs")
        assert said(between) == said(later) == []

    def test_runs_of_two_cells_do_not_mix(self, notebook: Any) -> None:
        """Actions of two cells that run on the same threads at the same time print under their own cell."""
        notebook.ok(GATE)
        notebook.ok(
            "@onix.action\ndef say(word: str):\n    for n in range(20):\n        print(word, n)\n        onix.sleep(0.001)"
        )
        cells = [notebook.ok(f"{word} = [say.start(word={word!r}) for _ in range(3)]") for word in ("ours", "theirs")]
        notebook.ok("done, _ = onix.wait(ours + theirs)")
        for cell, word, other in zip(cells, ("ours", "theirs"), ("theirs", "ours"), strict=True):
            notebook.until(lambda cell=cell, word=word: cell.stdout.count(word) == 60)
            assert other not in cell.stdout
