"""What a notebook tells of onix without its README: `?`, Shift+Tab and Tab."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

import onix_nb as onix

# Each magic with all that may follow it.
MAGICS = {
    "%%onix_flow": [
        "NAME",
        "--wait",
        "--no-wait",
        "--local",
        "--on-rerun",
        "--durable",
        "--fresh",
        "--keep",
        "--on-change",
    ],
    "%onix_runs": ["NAME", "--failed", "--unfinished", "--leaked", "--frame", "--journal"],
    "%onix_timeline": ["NAME"],
    "%onix_cancel": ["ID|NAME", "--all"],
}
# What the examples of line magics speak of: three runs of double(), of which one is 12.
WORK = """
gate = threading.Event()

@onix.action
def double(x=1):
    \"""Twice x, at last.\"""
    gate.wait(30)
    return 2 * x

started = [double.start(x=x) for x in range(3)]
"""
END = "gate.set()\nonix.wait(onix.runs(status=['pending', 'running']).futures).done and None"


@pytest.fixture
def working(notebook: Any) -> Iterator[Any]:
    """The loaded kernel while runs of `double` wait."""
    notebook.ok(WORK)
    yield notebook
    notebook.ok(END)


def asked(notebook: Any, name: str) -> str:
    """The text that `?` shows of a name."""
    (page,) = notebook.ok(f"{name}?").reply["payload"]
    return re.sub(r"\x1b\[[\d;]*m", "", page["data"]["text/plain"])


def hovered(notebook: Any, name: str) -> str:
    """The text that Shift+Tab shows of a name."""
    content = notebook._client.inspect(name, len(name), reply=True, timeout=30)["content"]
    return re.sub(r"\x1b\[[\d;]*m", "", content["data"].get("text/plain", ""))


def listed(text: str) -> list[str]:
    """The arguments and options that a magic's help has lines for."""
    return re.findall(r"^  (NAME|ID\|NAME|--[\w-]+)(?: .*)?$", text.partition("positional arguments:")[2], re.MULTILINE)


def examples(text: str) -> list[str]:
    """The cells of its examples: one for each line that a magic begins, without what is said beside it."""
    cells: list[str] = []
    for line in re.findall(r"^    (\S.*)$", text.partition("Example:")[2].partition("positional")[0], re.MULTILINE):
        code = re.split(r"\s{2,}", line)[0]
        if "%onix" in code:
            cells.append(code)
        else:
            cells[-1] += f"\n{code}"
    return cells


def refused(cell: Any) -> bool:
    return cell.error is not None or "UsageError" in cell.stderr


@pytest.mark.parametrize("ask", [asked, hovered])
@pytest.mark.parametrize("magic", MAGICS)
def test_a_magic_tells_all_of_its_options(notebook: Any, magic: str, ask: Any) -> None:
    """Each in a line that says what it does, and examples."""
    text = ask(notebook, magic)
    assert listed(text) == MAGICS[magic]
    assert len(examples(text)) >= 2
    name = magic.strip("%")
    kind = "cell" if magic.startswith("%%") else "line"
    parser = f"get_ipython().find_magic({name!r}, {kind!r}).parser"
    known = notebook.ok(f"[(action.option_strings or [action.metavar])[0] for action in {parser}._actions]").value
    assert ast.literal_eval(known) == MAGICS[magic]


@pytest.mark.parametrize("magic", [magic for magic in MAGICS if not magic.startswith("%%")])
def test_the_examples_of_a_line_magic_run(working: Any, magic: str) -> None:
    """As they stand, but for the id."""
    number = working.ok("started[0].run.id").value
    cells = examples(asked(working, magic))
    for cell in cells:
        assert not refused(working.run(re.sub(r"\b12\b", number, cell))), cell
    # Control: what is no option is seen.
    assert refused(working.run(f"{magic} --some"))


def test_the_examples_of_flow_cells_run(working: Any) -> None:
    """The first gives what it says, and each of the others is a head for any cell."""
    working.ok("gate.set()")
    first, *heads = examples(asked(working, "%%onix_flow"))
    working.ok(first)
    assert working.ok("total.result()").value == "12"
    for head in heads:
        assert head.count("\n") == 0
        working.ok(f"{head}\ndouble(x=21)")
        assert working.ok(f"{head.split()[1]}.result()").value == "42", head
    assert refused(working.run("%%onix_flow total --some\n1"))


def test_tab_offers_every_public_name(notebook: Any) -> None:
    """Of the package, and nothing else that has no underscore; and of its errors."""
    for code, names in {"onix.": onix.__all__, "onix.errors.": onix.errors.__all__}.items():
        found = notebook._client.complete(code, reply=True, timeout=30)["content"]["matches"]
        offered = {name.rpartition(".")[2] for name in found}
        assert set(names) <= offered
        assert code != "onix." or set(names) == {name for name in offered if not name.startswith("_")}


def test_a_question_mark_shows_an_example_of_each_public_name(notebook: Any) -> None:
    """The docstring's, with its arguments and errors; of the package, where to begin."""
    for name in onix.__all__:
        if not name.isupper():
            assert ">>> " in asked(notebook, f"onix.{name}"), name
    assert all(name in asked(notebook, "onix") for name in onix.__all__)


def test_a_decorated_function_shows_what_is_the_users(working: Any) -> None:
    """Its signature and its docstring; `start` shows what it does."""
    assert "Twice x, at last." in asked(working, "double")
    assert "x=1" in asked(working, "double")
    assert "returns its future at once" in asked(working, "double.start")
    assert "max_workers" in asked(working, "onix.configure")
