"""Durable flows whose code is edited between two runs: what has changed runs, the rest is replayed, and a report says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import onix_nb as onix
from onix_nb.journal import replay

# `note` is told what really runs.
SOURCE = """
SIZE = 10

def helper(x):
    return x + SIZE

@onix.action
def fetch(x: int, y: int = 1):
    note(f"fetch({x}, {y})")
    return 100 * x + y

@onix.action
def parse(x: int):
    note(f"parse({x})")
    return helper(x) * 2

@onix.flow
def child(x: int):
    return parse(x=x)

@onix.flow(durable=True)
def flow():
    first = [fetch.start(x=n) for n in range(1, 4)]
    onix.wait(first, return_when=onix.FIRST_COMPLETED).done
    onix.wait(first)
    found = [parse(x=n) for n in range(2)]
    return [future.result() for future in first], found, child(x=7)
"""


class Edit(NamedTuple):
    """An edit, what runs after it, and words of the report; None for no report."""

    old: str
    new: str
    runs: list[str]
    said: str | None


PARSED = ["parse(0)", "parse(1)", "parse(7)"]
EDITS = {
    "nothing": Edit("SIZE", "SIZE", [], None),
    "comment": Edit("@onix.flow(durable", "# new\n\n@onix.flow(durable", [], None),
    "inserted": Edit(
        "    found = ", "    fetch(x=9)\n    found = ", ["fetch(9, 1)"], "runs, since nothing is recorded"
    ),
    "deleted": Edit("range(1, 4)", "range(1, 3)", [], "not asked for: fetch(x=3)"),
    "reordered": Edit("range(1, 4)", "(3, 1, 2)", [], None),
    "renamed": Edit("parse", "read", ["read(0)", "read(1)", "read(7)"], "not asked for: parse(x=0), parse(x=1)"),
    "argument": Edit("child(x=7)", "child(x=8)", ["parse(8)"], "since other arguments are recorded: parse(x=8)"),
    "argument given": Edit("fetch.start(x=n)", "fetch.start(x=n, y=2)", [f"fetch({n}, 2)" for n in (1, 2, 3)], "other"),
    "default": Edit("y: int = 1", "y: int = 2", [f"fetch({n}, 2)" for n in (1, 2, 3)], "its code has changed"),
    "body": Edit("100 * x", "200 * x", [f"fetch({n}, 1)" for n in (1, 2, 3)], "its code has changed: fetch"),
    "helper": Edit("x + SIZE", "x - SIZE", PARSED, "its code has changed: parse"),
    "global of a helper": Edit("SIZE = 10", "SIZE = 11", PARSED, "its code has changed: parse"),
    "loop count": Edit("range(2)", "range(3)", ["parse(2)"], "ran, since nothing is recorded for it: parse(x=2)"),
    "body of a child": Edit("return parse(x=x)", "return -parse(x=x) + parse(x=0)", ["parse(0)"], "parse(x=0)"),
    "wait mode": Edit("FIRST_COMPLETED", "FIRST_EXCEPTION", [], None),
}


class Kernel:
    """Cells that are run with a journal of the test's own."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def define(self, source: str) -> Any:
        """The flow that a cell defines."""
        names: dict[str, Any] = {"__name__": "__main__", "onix": onix, "note": self.ran.append}
        exec(compile(source, "<cell>", "exec"), names)
        return names["flow"]

    def runs(self, flow: Any) -> tuple[Any, list[str]]:
        """The flow's result, and what has run for it."""
        self.ran.clear()
        return flow(), sorted(self.ran)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    """One whose journal is its own."""
    with onix.configure(journal=tmp_path / "journal" / "flows.sqlite", strict=False):
        yield Kernel()


def edited(edit: Edit) -> str:
    """The source after the edit."""
    assert edit.old in SOURCE
    return SOURCE.replace(edit.old, edit.new)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_runs_what_has_changed(kernel: Kernel, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The result is that of the new code, as a fresh run shows."""
    edit = EDITS[name]
    kernel.runs(kernel.define(SOURCE))
    capsys.readouterr()
    flow = kernel.define(edited(edit))
    result, ran = kernel.runs(flow)
    said = capsys.readouterr().out
    assert ran == sorted(edit.runs)
    if edit.said is None:
        assert "since" not in said
        assert "not asked for" not in said
    else:
        assert edit.said in said
    assert result == kernel.runs(flow.options(fresh=True))[0]


@pytest.mark.parametrize("name", ["default", "body", "helper", "global of a helper"])
def test_a_replay_that_does_not_look_at_code_would_be_caught(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The control: its result is stale."""
    proper: Callable[..., Any] = replay.Replay._reason

    def blind(self: Any, key: bytes, name: str, code: bytes, recorded: Any) -> Any:
        return proper(self, key, name, code if recorded is None else recorded.code, recorded)

    kernel.runs(kernel.define(SOURCE))
    monkeypatch.setattr(replay.Replay, "_reason", blind)
    flow = kernel.define(edited(EDITS[name]))
    stale, ran = kernel.runs(flow)
    assert ran == []
    assert stale != kernel.runs(flow.options(fresh=True))[0]
