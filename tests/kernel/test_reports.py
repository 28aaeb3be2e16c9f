"""Failures that nobody looked at are reported at the end of the next cell: each once, none ever lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

FAIL = """
@onix.action
def fail(word: str):
    raise ValueError(word)
"""
# A failure that has happened when its cell ends, and that nobody has looked at: the standard
# library's wait() is not onix.wait().
FAILED = """import concurrent.futures
future = fail.start(word="lost")
_ = concurrent.futures.wait([future], timeout=30)
"""


class TestFailures:
    def test_one_is_reported_at_the_end_of_the_next_cell(self, notebook: Any) -> None:
        """The cell in which it failed is quiet; the next one reports it, after its own output."""
        notebook.ok(FAIL)
        assert notebook.ok(FAILED).stderr == ""
        cell = notebook.ok("print('the next one')")
        streams = [(output["name"], output["text"]) for output in cell.outputs]
        assert [name for name, _ in streams] == ["stdout", "stderr"]
        assert "ValueError: lost" in streams[1][1]

    def test_it_names_the_line_and_the_error(self, notebook: Any) -> None:
        """One warning: what failed, with which error, and where it was started."""
        notebook.ok(FAIL)
        failing = notebook.ok(FAILED)
        report = notebook.ok("print('the next one')").stderr
        assert report.count("UnseenFailureWarning") == 1
        assert "1 run failed" in report
        assert "ValueError: lost" in report
        assert "fail (run " in report
        assert f"started at In [{failing.reply['execution_count']}], line 2)" in report
        assert 'future = fail.start(word="lost")' in report

    def test_the_line_is_named_by_the_cell_that_it_is_in(self, notebook: Any) -> None:
        """A flow that another cell defines starts its runs there, whichever cell has started it."""
        notebook.ok(FAIL)
        defining = notebook.ok(
            "@onix.flow\ndef fails():\n    future = fail.start(word='lost')\n    onix.wait([future])\n    return future"
        )
        notebook.ok("inner = fails.start().result()")
        assert notebook.ok("inner.run.where").value == f"'In [{defining.reply['execution_count']}], line 3'"

    def test_one_whose_text_cannot_be_encoded_is_reported(self, notebook: Any) -> None:
        """A lone surrogate is shown as its number; as it is, ipykernel could not send the report."""
        notebook.ok(FAIL)
        notebook.ok(FAILED.replace("lost", r"before \ud800 after"))
        assert r"ValueError: before \ud800 after" in notebook.ok("1").stderr

    def test_it_is_reported_once(self, notebook: Any) -> None:
        """The cells after the report are quiet."""
        notebook.ok(FAIL)
        notebook.ok(FAILED)
        assert "lost" in notebook.ok("1").stderr
        assert notebook.ok("2").stderr == ""
        assert notebook.ok("3").stderr == ""

    def test_one_that_the_next_cell_looks_at_is_not_reported(self, notebook: Any) -> None:
        """`exception()`, or `result()` in a `try`, is looking."""
        notebook.ok(FAIL)
        notebook.ok(FAILED)
        assert notebook.ok("future.exception()").stderr == ""
        notebook.ok(FAILED)
        assert notebook.ok("try:\n    future.result()\nexcept ValueError as error:\n    print(error)").stderr == ""
        assert notebook.ok("1").stderr == ""

    def test_one_whose_result_raised_in_the_next_cell_is_not_reported_again(self, notebook: Any) -> None:
        """The traceback was the report."""
        notebook.ok(FAIL)
        notebook.ok(FAILED)
        cell = notebook.run("future.result()")
        assert cell.error == "ValueError"
        assert cell.stderr == ""
        assert notebook.ok("1").stderr == ""

    def test_joining_is_not_looking(self, notebook: Any) -> None:
        """A failure that was only in the `done` of a wait is reported all the same."""
        notebook.ok(FAIL)
        notebook.ok("done, _ = onix.wait([fail.start(word='joined')])")
        assert "ValueError: joined" in notebook.ok("1").stderr

    def test_showing_is_not_looking(self, notebook: Any) -> None:
        """Nor is a view of the future: the code has not seen the failure."""
        notebook.ok(FAIL)
        notebook.ok(FAILED + "future")
        assert "ValueError: lost" in notebook.ok("1").stderr

    def test_a_detached_one_is_not_reported(self, notebook: Any) -> None:
        """`detach()` says that nobody will look."""
        notebook.ok(FAIL)
        notebook.ok("import concurrent.futures\nfuture = fail.start(word='let go').detach()")
        notebook.ok("_ = concurrent.futures.wait([future], timeout=30)")
        assert notebook.ok("1").stderr == ""

    def test_one_whose_variable_is_gone_is_reported(self, notebook: Any) -> None:
        """A future that no name holds any more has not taken its failure with it."""
        notebook.ok(FAIL)
        notebook.ok(FAILED + "del future, _\nimport gc\ncollected = gc.collect()")
        assert "ValueError: lost" in notebook.ok("1").stderr

    def test_one_that_fails_while_a_cell_runs_waits_for_the_next(self, notebook: Any) -> None:
        """The reader gets a whole cell to look at a failure."""
        notebook.ok(FAIL + "gate = threading.Event()")
        notebook.ok("@onix.action\ndef late():\n    gate.wait(30)\n    raise ValueError('late')\nfuture = late.start()")
        during = notebook.ok("import concurrent.futures\ngate.set()\n_ = concurrent.futures.wait([future], timeout=30)")
        assert during.stderr == ""
        assert "ValueError: late" in notebook.ok("1").stderr

    def test_several_are_reported_together(self, notebook: Any) -> None:
        """One warning for all, a line for each, in the order of failing."""
        notebook.ok(FAIL)
        notebook.ok(
            "import concurrent.futures\n"
            "for word in ('first', 'second', 'third'):\n"
            "    _ = concurrent.futures.wait([fail.start(word=word)], timeout=30)"
        )
        report = notebook.ok("1").stderr
        assert report.count("UnseenFailureWarning") == 1
        assert "3 runs failed" in report
        assert report.index("first") < report.index("second") < report.index("third")

    def test_a_flow_cell_that_fails_is_reported(self, notebook: Any) -> None:
        """Also a `%%onix_flow` cell whose future nobody asks, by its name."""
        notebook.ok("%%onix_flow unlucky\n1 / 0")
        waited = notebook.ok("import concurrent.futures\n_ = concurrent.futures.wait([unlucky], timeout=30)")
        report = waited.stderr + notebook.ok("1").stderr + notebook.ok("2").stderr
        assert report.count("unlucky (run ") == 1
        assert "ZeroDivisionError: division by zero" in report

    def test_a_failed_flow_cell_with_wait_is_not_reported_again(self, notebook: Any) -> None:
        """Its cell has raised it."""
        assert notebook.run("%%onix_flow unlucky --wait\n1 / 0").error == "ZeroDivisionError"
        assert notebook.ok("1").stderr == ""
        assert notebook.ok("2").stderr == ""


class TestLeaks:
    def test_the_warning_comes_under_the_cell_of_the_flow(self, notebook: Any) -> None:
        """A flow that runs in the background warns under the cell that started it, not under the running one."""
        notebook.ok("gate = threading.Event()\n@onix.action\ndef double(x: int):\n    return 2 * x")
        notebook.ok("@onix.flow\ndef careless():\n    gate.wait(30)\n    forgotten = double.start(x=1)")
        cell = notebook.ok("future = careless.start()")
        later = notebook.ok("gate.set()\nfuture.result(timeout=30)")
        notebook.until(lambda: "LeakedFutureWarning" in cell.stderr)
        assert "forgotten = double.start(x=1)" in cell.stderr
        assert later.stderr == ""

    def test_the_failure_of_a_leaked_run_is_reported_in_a_later_cell(self, notebook: Any) -> None:
        """A run that failed after its flow had returned is not lost."""
        notebook.ok(
            "gate = threading.Event()\n@onix.action\ndef late():\n    gate.wait(30)\n    raise ValueError('left behind')"
        )
        notebook.ok("@onix.flow\ndef careless():\n    return late.start()")
        assert "LeakedFutureWarning" in notebook.ok("future = careless()").stderr
        notebook.ok("import concurrent.futures\ngate.set()\n_ = concurrent.futures.wait([future], timeout=30)")
        assert "ValueError: left behind" in notebook.ok("1").stderr


class TestCellNumbers:
    @pytest.mark.parametrize("before", ["pass", "%reset -f", "%load_ext autoreload"])
    def test_a_run_says_in_which_cell_it_started(self, new_notebook: Callable[[], Any], before: str) -> None:
        """The number is that of the cell's prompt, whatever was done to the history."""
        fresh = new_notebook()
        fresh.ok("%load_ext onix_nb")
        fresh.ok(before)
        fresh.run("1 / 0")
        cell = fresh.ok("import onix\n@onix.action\ndef one():\n    return 1\none.start().run.cell")
        assert cell.value == f"'In [{cell.reply['execution_count']}]'"
        fresh.ok(
            "pass",
        )
        cell = fresh.ok("%%onix_flow named --wait\none.start().result()")
        assert fresh.ok("named.run.cell").value == f"'In [{cell.reply['execution_count']}]'"
