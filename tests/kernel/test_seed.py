"""The examples of the owner's specification run word for word in a real kernel.

The text of the specification has lost its indentation; `seed/*.py` hold the examples with it
restored. `seed/parallel-operations.txt` is a copy of the text, for a checkout that has no `shared/`
beside it.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

SEED = Path(__file__).with_name("seed")
COPY = SEED / "parallel-operations.txt"
ORIGINAL = SEED.parents[3] / "shared" / "seed" / COPY.name
# In the order of the text; the last one needs the one before it.
EXAMPLES = ("get_dashboard", "validate_order", "get_user_info", "parallel_failures", "wait_failures")

# What `# ...` stands for in the second example.
OTHER_CHECKS = """
import onix

@onix.action
def check_shipping_address(order_id: str):
    return [] if order_id == "ord-1" else ["no such address"]

@onix.action
def check_fraud(order_id: str):
    return []
"""

# Makes `flow.start()` return only when the run has ended: an outcome of the race, whatever the machine does.
# The standard library's wait() is not onix.wait(): the future stays unconsumed.
ENDED = """
import concurrent.futures

class Ended:
    def __init__(self, flow):
        self.flow = flow

    def start(self, **arguments):
        future = self.flow.start(**arguments)
        concurrent.futures.wait([future], timeout=30)
        return future
"""

# Makes `flow.start()` start a flow that ends only when `gate` opens.
HELD = """
gate = threading.Event()

def held(source):
    @onix.flow(name=f"fetch_from_{source}")
    def fetch(user_id: str):
        gate.wait(30)
        return {"user_id": user_id, "source": source}
    return fetch
"""


def example(name: str) -> str:
    return (SEED / f"{name}.py").read_text(encoding="utf-8")


def lines_of(text: str) -> list[str]:
    """The lines that say something, without indentation."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def stands_in(part: list[str], whole: list[str]) -> bool:
    """Whether `part` stands in `whole`, line by line, with nothing between."""
    return any(whole[start : start + len(part)] == part for start in range(len(whole)))


class TestWordForWord:
    @pytest.mark.parametrize("name", EXAMPLES)
    @pytest.mark.parametrize(
        "specification",
        [pytest.param(path, id=where) for path, where in ((COPY, "copy"), (ORIGINAL, "original")) if path.exists()],
    )
    def test_each_example_is_the_specification_but_for_indentation(self, specification: Path, name: str) -> None:
        """The lines of an example stand in the specification in one piece, but for indentation and blank lines."""
        words = lines_of(specification.read_text(encoding="utf-8"))
        assert stands_in(lines_of(example(name)), words)

    def test_a_changed_example_would_be_noticed(self) -> None:
        """Control: one other character, or a line left out, and the comparison says no."""
        words = lines_of(COPY.read_text(encoding="utf-8"))
        lines = lines_of(example("get_dashboard"))
        assert not stands_in([*lines[:-2], lines[-2] + ",", lines[-1]], words)
        assert not stands_in(lines[:3] + lines[4:], words)

    def test_no_example_is_left_out(self) -> None:
        """Each example of the text begins with `import onix`, and each has its file."""
        assert lines_of(COPY.read_text(encoding="utf-8")).count("import onix") == len(EXAMPLES)
        assert {path.stem for path in SEED.glob("*.py")} == set(EXAMPLES)

    def test_the_copy_is_the_original(self) -> None:
        """Where `shared/` lies beside the checkout, its text and the copy here are the same."""
        text = COPY.read_bytes()
        assert (ORIGINAL.read_bytes() if ORIGINAL.exists() else text) == text


@pytest.fixture
def seed(notebook: Any) -> Any:
    """The notebook of a reader who pasted every example into a cell of its own."""
    notebook.ok(OTHER_CHECKS)
    for name in EXAMPLES:
        cell = notebook.ok(example(name))
        assert cell.outputs == []
    return notebook


def value(notebook: Any, expression: str) -> Any:
    """The value of an expression in the kernel; nothing may be written to stderr."""
    cell = notebook.ok(expression)
    assert cell.stderr == ""
    return ast.literal_eval(cell.value)


class TestResults:
    def test_get_dashboard(self, seed: Any) -> None:
        """Two actions in parallel; their results are joined."""
        assert value(seed, 'get_dashboard(user_id="u-1")') == {
            "profile": {"user_id": "u-1", "name": "Ada"},
            "orders": [{"id": "ord-1"}, {"id": "ord-2"}],
        }

    def test_get_dashboard_in_the_background(self, seed: Any) -> None:
        """A flow has `.start()`, too."""
        dashboard = value(seed, 'get_dashboard.start(user_id="u-2").result()')
        assert dashboard["profile"] == {"user_id": "u-2", "name": "Ada"}

    def test_validate_order_without_errors(self, seed: Any) -> None:
        """`done` has all three checks, and none of them complains."""
        assert value(seed, 'validate_order(order_id="ord-1")') == {"ok": True, "errors": []}

    def test_validate_order_with_errors(self, seed: Any) -> None:
        """The errors of all checks, in any order, because `done` is a set."""
        checked = value(seed, 'validate_order(order_id="ord-2")')
        assert checked["ok"] is False
        assert sorted(checked["errors"]) == ["item out of stock", "no such address"]

    def test_parallel_failures(self, seed: Any) -> None:
        """`result()` raises what the action raised, or returns what it returned."""
        assert value(seed, "test_parallel_failures(x=0)") == "Caught exception: x cannot be zero"
        assert value(seed, "test_parallel_failures(x=1)") == 10.0

    def test_wait_failures(self, seed: Any) -> None:
        """`wait` does not raise for a failed future; its `result()` does."""
        assert set(value(seed, "test_wait_failures(x=0)")) == {"Caught exception: x cannot be zero", 10.0}
        assert set(value(seed, "test_wait_failures(x=-1)")) == {-10.0, "Caught exception: x cannot be zero"}
        assert set(value(seed, "test_wait_failures(x=1)")) == {10.0, 5.0}


class TestRace:
    """The example whose loser is a leaked future."""

    def test_the_result_is_one_of_the_two(self, seed: Any) -> None:
        """Whoever is first, its result comes back; a warning comes exactly when the other was still running."""
        for _ in range(10):
            cell = seed.ok('future = get_user_info.start(user_id="u-1")\nfuture.result()')
            assert ast.literal_eval(cell.value) in (
                {"user_id": "u-1", "source": "cache"},
                {"user_id": "u-1", "source": "db"},
            )
            children = "[run.leaked for run in onix.runs() if run.parent is future.run]"
            leaked = ast.literal_eval(seed.ok(children).value)
            assert len(leaked) == 2
            assert any(leaked) == ("LeakedFutureWarning" in cell.stderr)

    @pytest.mark.parametrize(("slow", "fast"), [("db", "cache"), ("cache", "db")])
    def test_the_loser_is_reported_as_leaked(self, seed: Any, slow: str, fast: str) -> None:
        """The loser that still runs when the flow returns is named, with the line that started it, and goes on."""
        seed.ok(HELD + f"fetch_from_{slow} = held({slow!r})")
        cell = seed.ok('get_user_info(user_id="u-1")')
        assert ast.literal_eval(cell.value) == {"user_id": "u-1", "source": fast}
        assert cell.stderr.count("LeakedFutureWarning") == 1
        assert f"fetch_from_{slow} (run " in cell.stderr
        assert f"fetch_from_{fast} (run " not in cell.stderr
        line = 1 + example("get_user_info").splitlines().index(
            f"    f{2 if slow == 'db' else 1} = fetch_from_{slow}.start(user_id=user_id)"
        )
        assert f", line {line})" in cell.stderr
        loser = f"loser = [run for run in onix.runs() if run.name == 'fetch_from_{slow}'][-1]\n"
        assert ast.literal_eval(seed.ok(loser + "loser.status, loser.leaked").value) == ("running", True)
        seed.ok("gate.set()\nfor future in onix.runs().futures:\n    future.exception(timeout=30)")
        assert seed.ok("loser.status").value == "'succeeded'"

    def test_two_that_complete_at_once_are_both_in_done(self, seed: Any) -> None:
        """A future in the `done` of a wait is consumed, also if its result is never asked for: nothing has leaked."""
        seed.ok(ENDED + "fetch_from_cache, fetch_from_db = Ended(fetch_from_cache), Ended(fetch_from_db)")
        assert value(seed, 'get_user_info(user_id="u-1")')["user_id"] == "u-1"

    def test_two_that_nobody_waited_for_would_be_reported(self, seed: Any) -> None:
        """Control for the test above: without `onix.wait`, the same two ended futures are leaked."""
        seed.ok(ENDED + "fetch_from_cache, fetch_from_db = Ended(fetch_from_cache), Ended(fetch_from_db)")
        seed.ok(
            "@onix.flow\ndef forgetful():\n    fetch_from_cache.start(user_id='')\n    fetch_from_db.start(user_id='')"
        )
        assert "2 futures that it started were not consumed" in seed.ok("forgetful()").stderr
