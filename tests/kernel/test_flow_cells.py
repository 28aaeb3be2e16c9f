"""`%%onix_flow`: a cell as a flow that runs in the background."""

from __future__ import annotations

import re
from typing import Any

import pytest

GATE = "gate = threading.Event()"


class TestBackground:
    def test_the_cell_returns_while_its_flow_runs(self, notebook: Any) -> None:
        """The cell ends at once; NAME is the future of the flow, and the last expression its result."""
        notebook.ok(GATE)
        cell = notebook.ok("%%onix_flow answer\nopened = gate.wait(30)\n41 + opened")
        assert "answer" in cell.text
        assert notebook.ok("type(answer) is onix.Future, answer.done(), answer.run.kind").value == (
            "(True, False, 'flow')"
        )
        assert notebook.ok("gate.set()\nanswer.result(timeout=30)").value == "42"

    def test_without_a_name_it_runs_all_the_same(self, notebook: Any) -> None:
        """NAME is optional; `onix.runs()` gives the future back."""
        notebook.ok("%%onix_flow\nnameless = 5\nnameless + 1")
        assert notebook.ok("onix.runs().futures[-1].result(timeout=30)").value == "6"
        assert notebook.ok("nameless").value == "5"

    @pytest.mark.parametrize("body", ["kept = 1", "def kept(): pass", "for kept in range(3):\n    kept * 2"])
    def test_without_a_last_expression_the_result_is_none(self, notebook: Any, body: str) -> None:
        """As in a cell, a statement has no value."""
        notebook.ok(f"%%onix_flow nothing --wait\n{body}")
        assert notebook.ok("nothing.result() is None").value == "True"

    def test_it_starts_actions_and_flows(self, notebook: Any) -> None:
        """The body is a flow: what it starts are its children."""
        notebook.ok("@onix.action\ndef double(x: int):\n    return 2 * x")
        notebook.ok(
            "%%onix_flow doubled --wait\n"
            "futures = [double.start(x=x) for x in range(5)]\n"
            "done, _ = onix.wait(futures)\n"
            "sorted(future.result() for future in done)"
        )
        assert notebook.ok("doubled.result()").value == "[0, 2, 4, 6, 8]"
        parents = "{run.parent.name for run in onix.runs() if run.name == 'double'}"
        assert notebook.ok(parents).value == "{'doubled'}"

    def test_what_it_leaves_behind_is_leaked(self, notebook: Any) -> None:
        """A flow cell that does not consume its futures is warned of, like any flow, with the line of its body."""
        notebook.ok("@onix.action\ndef double(x: int):\n    return 2 * x")
        cell = notebook.ok("%%onix_flow careless --wait\nx = 1\nforgotten = double.start(x=x)\nx")
        notebook.until(lambda: "LeakedFutureWarning" in cell.stderr, "the warning")
        assert "flow 'careless' returned while 1 future" in cell.stderr
        assert "double (run " in cell.stderr
        assert ", line 2)" in cell.stderr
        assert notebook.ok("forgotten.result(timeout=30)").value == "2"

    def test_with_wait_the_cell_ends_with_its_flow(self, notebook: Any) -> None:
        """`--wait` blocks until the flow has ended, and its names are there in the next cell."""
        notebook.ok("@onix.action\ndef slow():\n    onix.sleep(0.2)\n    return 'ready'")
        cell = notebook.ok("%%onix_flow waited --wait\nword = slow.start().result()")
        notebook.until(lambda: "succeeded" in cell.text)
        assert notebook.ok("waited.done(), word").value == "(True, 'ready')"

    def test_with_wait_the_cell_raises_what_its_flow_raised(self, notebook: Any) -> None:
        """`--wait` makes a failed flow a failed cell, and NAME is set all the same."""
        cell = notebook.run("%%onix_flow bad --wait\n{}['missing']")
        assert cell.error == "KeyError"
        assert notebook.ok("repr(bad.exception())").value == "\"KeyError('missing')\""


class TestBody:
    def test_it_may_await(self, notebook: Any) -> None:
        """Top-level await works, on futures and on coroutines, in statements and in the last expression."""
        notebook.ok("@onix.action\nasync def double(x: int):\n    return 2 * x")
        notebook.ok(
            "%%onix_flow awaited --wait\n"
            "import asyncio\n"
            "await asyncio.sleep(0)\n"
            "first = await double.start(x=4)\n"
            "first + await double.start(x=5)"
        )
        assert notebook.ok("awaited.result(), first").value == "(18, 8)"

    def test_a_coroutine_that_is_not_awaited_is_the_result(self, notebook: Any) -> None:
        """Nothing is awaited that the body does not await."""
        notebook.ok("%%onix_flow made --wait\nimport asyncio\nasync def nothing(): ...\nnothing()")
        assert notebook.ok("coroutine = made.result()\ncoroutine.close()\ntype(coroutine).__name__").value == (
            "'coroutine'"
        )

    def test_it_may_use_magics(self, notebook: Any) -> None:
        """Line magics and shell commands work in the body, and see its names."""
        cell = notebook.ok(
            "%%onix_flow magical --wait\n"
            "word = 'hello'\n"
            "!echo {word} from the shell\n"
            "listed = !echo one; echo two\n"
            "%time length = len(word)\n"
            "list(listed), length"
        )
        notebook.until(lambda: "hello from the shell" in cell.stdout)
        notebook.until(lambda: "Wall time" in cell.stdout)
        assert notebook.ok("magical.result()").value == "(['one', 'two'], 5)"

    def test_what_it_displays_comes_under_its_cell(self, notebook: Any) -> None:
        """Print and display in the body land under the flow's cell, also after that has ended."""
        notebook.ok(GATE)
        cell = notebook.ok(
            "%%onix_flow shown\n"
            "opened = gate.wait(30)\n"
            "print('printed later')\n"
            "from IPython.display import HTML\n"
            "_ = display(HTML('<b>displayed later</b>'))"
        )
        later = notebook.ok("gate.set()\nshown.result(timeout=30)")
        notebook.until(lambda: "printed later" in cell.stdout and "displayed later" in cell.html)
        assert "later" not in later.stdout + later.html

    def test_a_traceback_shows_its_lines(self, notebook: Any) -> None:
        """An error in the body is shown with the body's own line, and without the engine's frames."""
        cell = notebook.run("%%onix_flow broken --wait\nnumbers = [1, 2]\nnumbers[2]  # one too far\n'unreached'")
        assert cell.error == "IndexError"
        assert "numbers[2]  # one too far" in cell.traceback
        assert "----> 2 numbers[2]" in cell.traceback
        assert "onix_nb" not in cell.traceback

    def test_a_later_result_shows_its_lines_too(self, notebook: Any) -> None:
        """The same in another cell, when the future is asked for its result."""
        notebook.ok("%%onix_flow broken\nnumbers = [1, 2]\ndef pick(n):\n    return numbers[n]\npick(2)")
        cell = notebook.run("broken.result(timeout=30)")
        assert cell.error == "IndexError"
        assert "----> 3     return numbers[n]" in cell.traceback
        assert "----> 4 pick(2)" in cell.traceback
        assert "/onix_nb/" not in cell.traceback

    def test_a_syntax_error_shows_its_line(self, notebook: Any) -> None:
        """The cell fails at once, with the line of the body; no flow is started."""
        before = notebook.ok("len(onix.runs())").value
        cell = notebook.run("%%onix_flow wrong\nfine = 1\nif fine\n    2\n")
        assert cell.error == "SyntaxError"
        assert "line 2" in cell.traceback
        assert "if fine" in cell.traceback
        assert notebook.ok("len(onix.runs())").value == before
        assert notebook.run("wrong").error == "NameError"

    @pytest.mark.parametrize(
        "body",
        [
            "fine = 1\nif fine\n    2",
            "fine = 1\nx = (1,]",
            "fine = 1\n  y = 2",
            "for x in y:\npass",
            "x = 'abc",
            "!echo fine\nx = = 2",
            "ä = 1\nü ö",
            "a\x00b",
        ],
    )
    def test_a_syntax_error_is_shown_as_that_of_a_plain_cell(self, notebook: Any, body: str) -> None:
        """By IPython, with the line, the place and the message, and without a frame of ours; the cell fails."""
        before = notebook.ok("len(onix.runs())").value
        cell, plain = notebook.run(f"%%onix_flow wrong\n{body}"), notebook.run(body)
        numberless = re.compile(r"In\[\d+\]")
        assert numberless.sub("In", cell.traceback) == numberless.sub("In", plain.traceback)
        assert cell.error == plain.error
        assert "onix_nb" not in cell.traceback
        assert notebook.ok("len(onix.runs())").value == before

    def test_return_outside_a_function_is_refused(self, notebook: Any) -> None:
        """The body is a cell, not a function."""
        cell = notebook.run("%%onix_flow wrong\nreturn 1")
        assert cell.error == "SyntaxError"
        assert "outside function" in cell.traceback


class TestNames:
    def test_they_land_together_between_cells(self, notebook: Any) -> None:
        """What the body binds is nowhere while a cell runs, and all there in the next one."""
        notebook.ok(GATE)
        notebook.ok("%%onix_flow pair\nleft = 1\nopened = gate.wait(30)\nright = 2")
        names = "[name for name in ('left', 'opened', 'right') if name in globals()]"
        assert notebook.ok(names).value == "[]"
        during = notebook.ok(f"gate.set()\npair.result(timeout=30)\n{names}")
        assert during.value == "[]"
        assert notebook.ok("left, opened, right").value == "(1, True, 2)"

    def test_none_lands_when_the_flow_fails(self, notebook: Any) -> None:
        """A flow that failed has changed no name."""
        notebook.ok("%%onix_flow failing\nhalf = 1\n1 / 0")
        notebook.ok("repr(failing.exception(timeout=30))")
        assert notebook.run("half").error == "NameError"

    def test_none_lands_when_the_flow_is_cancelled(self, notebook: Any) -> None:
        """Nor one that was cancelled."""
        notebook.ok("reached = threading.Event()")
        notebook.ok("%%onix_flow stopped\nhalf = 1\nreached.set()\nonix.sleep(30)")
        assert notebook.ok("reached.wait(30), stopped.cancel(interrupt=True)").value == "(True, True)"
        assert notebook.run("half").error == "NameError"

    def test_none_lands_with_local(self, notebook: Any) -> None:
        """`--local` keeps every name out of the notebook; the result is the future's."""
        notebook.ok("%%onix_flow alone --local --wait\nscratch = 6\nscratch * 7")
        assert notebook.ok("alone.result()").value == "42"
        assert notebook.run("scratch").error == "NameError"

    def test_the_body_runs_on_a_copy(self, notebook: Any) -> None:
        """A name that the notebook rebinds meanwhile keeps its old value in the body."""
        notebook.ok(GATE + "\nfactor = 2")
        notebook.ok("%%onix_flow product\nopened = gate.wait(30)\nfactor * 10")
        notebook.ok("factor = 3")
        assert notebook.ok("gate.set()\nproduct.result(timeout=30)").value == "20"
        assert notebook.ok("factor").value == "3"

    def test_a_name_that_was_rebound_meanwhile_is_kept_and_reported(self, notebook: Any) -> None:
        """The user's value wins; the message names the flow and the name, and the other names land."""
        notebook.ok(GATE + "\nmine = 'old'")
        notebook.ok("%%onix_flow binder\nopened = gate.wait(30)\nmine, other = 'of the flow', 'lands'")
        notebook.ok("mine = 'of the notebook'")
        reported = notebook.ok("gate.set()\nbinder.result(timeout=30)")
        later = notebook.ok("mine, other")
        assert later.value == "('of the notebook', 'lands')"
        said = reported.stdout + later.stdout
        assert said.count("binder") == said.count("\n") == 1
        assert "mine" in said
        assert "other" not in said.partition("flow binder")[2].replace("another", "")

    def test_a_name_that_the_notebook_had_and_left_alone_is_replaced(self, notebook: Any) -> None:
        """Rebinding is what a cell does; only a conflict is kept."""
        notebook.ok("total = 1")
        cell = notebook.ok("%%onix_flow adder --wait\ntotal = total + 1")
        assert notebook.ok("total").value == "2"
        assert "kept" not in cell.stdout

    def test_running_the_cell_again_lands_again(self, notebook: Any) -> None:
        """The second run of the same cell replaces what the first one bound, without a message."""
        for expected in ("2", "3"):
            notebook.ok("count = globals().get('count', 1)")
            cell = notebook.ok("%%onix_flow counter --wait\ncount = count + 1")
            following = notebook.ok("count")
            assert following.value == expected
            assert "kept" not in cell.stdout + following.stdout


class TestUsage:
    @pytest.mark.parametrize(
        "line",
        [
            "--bad",
            "1x",
            "class",
            "None",
            "two names",
            "a.b",
            "--wait=yes",
            "{1 / 0}",
            "$gate",
            "<script>",
            "x; import os",
        ],
    )
    def test_a_bad_option_or_name_gets_one_line(self, notebook: Any, line: str) -> None:
        """A usage error is one line without a traceback; nothing is evaluated, and no flow starts."""
        before = notebook.ok("len(onix.runs())").value
        cell = notebook.run(f"%%onix_flow {line}\n1")
        assert cell.stderr.startswith("UsageError: ")
        assert cell.stderr.rstrip("\n").count("\n") == 0
        assert cell.traceback == ""
        assert cell.displays == []
        assert notebook.ok("len(onix.runs())").value == before

    @pytest.mark.parametrize(
        ("before", "said"),
        [
            ("taken = 3", "onix_nb: taken was a variable of type int, and is the future of this flow now\n"),
            ("taken = None", "onix_nb: taken was a variable of type NoneType, and is the future of this flow now\n"),
            ("", ""),
        ],
        ids=["a number", "None", "nothing"],
    )
    def test_a_name_that_was_another_variable_is_told(self, notebook: Any, before: str, said: str) -> None:
        """In one line; the cell runs all the same."""
        notebook.ok(before)
        cell = notebook.ok("%%onix_flow taken --wait\n7")
        assert (cell.stdout, cell.stderr) == (said, "")
        assert notebook.ok("taken.result()").value == "7"

    def test_a_name_that_hides_a_builtin_is_told(self, notebook: Any) -> None:
        """In one line, which says how to get it back."""
        cell = notebook.ok("%%onix_flow sum --wait\n7")
        assert cell.stdout == (
            "onix_nb: sum is the future of this flow now, and hides the builtin; `del sum` brings that back\n"
        )
        assert notebook.ok("sum.result()").value == "7"
        assert notebook.ok("del sum\nsum([1, 2])").value == "3"

    def test_a_cell_that_runs_again_replaces_its_own_future_silently(self, notebook: Any) -> None:
        """Also when its source was edited: it has the same id. A future of another cell is told."""
        for body in ("7", "7", "8"):
            cell = notebook.run(f"%%onix_flow again --wait\n{body}", cell_id="one")
            assert cell.error is None
            assert (cell.stdout, cell.stderr) == ("", "")
        cell = notebook.run("%%onix_flow again --wait\n9", cell_id="two")
        assert re.fullmatch(
            r"onix_nb: again was the future of flow 'again' \(run \d+\), and is the future of this flow now\n",
            cell.stdout,
        )
        assert notebook.ok("again.result()").value == "9"

    def test_help_says_what_it_does(self, notebook: Any) -> None:
        """`%%onix_flow?` explains the options."""
        pages = notebook.ok("%%onix_flow?").reply["payload"]
        text = "".join(page["data"]["text/plain"] for page in pages if page["source"] == "page")
        for option in ("NAME", "--wait", "--no-wait", "--local"):
            assert option in text
        assert "background" in text
