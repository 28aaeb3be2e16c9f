"""Cells that are run again and again, in any order with whatever else happens to their runs, against a plain model."""

from __future__ import annotations

import gc
import importlib
import threading
from collections import deque
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import onix_nb as onix
from onix_nb.engine import history
from onix_nb.engine.session import live
from onix_nb.notebook.executions import Executions, Takeover

WAIT = 30
# Few, so that what matters comes together: a cell that is run again with some runs finished and some not.
CELLS, VALUES = st.sampled_from("ab"), st.lists(st.integers(0, 1), min_size=1, max_size=3)
POLICIES = st.sampled_from(["attach"] * 6 + ["restart", "parallel"])
WHICH = st.integers(0, 3)


class _Gate:
    """What a run waits for, and how it is to end."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.fails = False


_gates: dict[int, _Gate] = {}


@onix.action
def held(x: int) -> int:
    """Goes on until its gate is opened."""
    gate = _gates.setdefault(onix.current_run().id, _Gate())
    while not gate.opened.wait(0.05):
        onix.sleep(0)  # where a cancel is heard
    if gate.fails:
        raise LookupError(x)
    return x


class Reruns(RuleBasedStateMachine):
    """The model: for each cell its source, and what its last execution started: value, status, future."""

    def __init__(self) -> None:
        super().__init__()
        self.executions = Executions()
        self.cells: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self.sources = dict.fromkeys("ab", 0)
        self.all: list[dict[str, Any]] = []

    def teardown(self) -> None:
        for one in self.all:
            one["future"].cancel(interrupt=True)
            one["future"].detach()
            _gates.setdefault(one["future"].run.id, _Gate()).opened.set()

    @rule(cell=CELLS, values=VALUES)
    def run_again(self, cell: str, values: list[int]) -> None:
        """What is done most."""
        self.run_cell(cell, values, "attach", None)

    @rule(cell=CELLS, values=VALUES, policy=POLICIES, stop=st.none() | st.integers(0, 2))
    def run_cell_as(self, cell: str, values: list[int], policy: Any, stop: int | None) -> None:
        """With another policy, or interrupted."""
        self.run_cell(cell, values, policy, stop)

    def run_cell(self, cell: str, values: list[int], policy: Any, stop: int | None) -> None:
        """A cell starts `held` for some values; `stop`: it is interrupted after so many."""
        source, past = self.cells.get(cell, (self.sources[cell], []))
        same = source == self.sources[cell]
        attaches = policy == "attach" and same and any(one["status"] == "unfinished" for one in past)
        if policy == "restart":
            for one in past:
                one["status"] = "cancelled" if one["status"] == "unfinished" else one["status"]
        execution = self.executions.begin(cell, f"source {self.sources[cell]}", policy)
        live().execution = execution
        started, left = [], list(past) if attaches else []
        for value in values[:stop]:
            future = held.start(x=value)
            found = next((one for one in left if one["value"] == value), None)
            if found is not None:
                left = [one for one in left if one is not found]
            if found is None or found["status"] in ("failed", "cancelled"):
                assert all(future is not one["future"] for one in self.all), "it was taken over, and should not be"
                found = {"value": value, "status": "unfinished", "future": future}
                self.all.append(found)
            assert future is found["future"], "it was started, and should have been taken over"
            started.append(found)
        ended = stop is None or stop >= len(values)
        live().execution = self.executions.end(succeeded=ended)
        if not ended:  # what was not asked for yet is still known
            others = left if same else past
            started += [one for one in others if one["status"] == "unfinished" and (attaches or not same)]
        if any(one["status"] == "unfinished" for one in started):
            self.cells[cell] = self.sources[cell], started
        else:
            self.cells.pop(cell, None)

    @rule(cell=CELLS)
    def edit(self, cell: str) -> None:
        """The source of a cell is changed."""
        self.sources[cell] += 1

    def _choose(self, which: int) -> dict[str, Any] | None:
        unfinished = [one for one in self.all if one["status"] == "unfinished"]
        return unfinished[which % len(unfinished)] if unfinished else None

    def _end(self, which: int, status: str) -> None:
        one = self._choose(which)
        if one is None:
            return
        one["status"] = status
        gate = _gates.setdefault(one["future"].run.id, _Gate())
        gate.fails = status == "failed"
        if status == "cancelled":
            one["future"].cancel(interrupt=True)
        else:
            gate.opened.set()
            assert (one["future"].exception(WAIT) is not None) is gate.fails

    @rule(which=WHICH)
    def finish(self, which: int) -> None:
        """A run returns."""
        self._end(which, "succeeded")

    @rule(which=WHICH)
    def fail(self, which: int) -> None:
        """A run raises."""
        self._end(which, "failed")

    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        """Somebody cancels a run."""
        self._end(which, "cancelled")

    @rule()
    def reload(self) -> None:
        """A module of the engine is loaded again."""
        importlib.reload(history)

    @rule()
    def collect(self) -> None:
        """Garbage is collected."""
        gc.collect()

    @invariant()
    def futures_are_what_the_model_says(self) -> None:
        """And the session knows all that is unfinished."""
        for one in self.all:
            assert one["future"].done() is (one["status"] != "unfinished")
        unfinished = {one["future"].run for one in self.all if one["status"] == "unfinished"}
        assert unfinished <= set(live().unfinished)


def test_what_an_interrupted_cell_has_not_asked_for_keeps_its_order() -> None:
    """The k-th start is the k-th of the execution before, also when that had taken over what is older than it."""
    reruns = Reruns()
    reruns.run_cell("a", [0, 0], "attach", None)
    reruns.cancel(0)
    reruns.run_cell("a", [0, 0], "attach", None)  # one is new, the second is the one of before
    reruns.run_cell("a", [0], "attach", 0)
    reruns.run_cell("a", [0], "attach", None)
    live().execution = None
    reruns.teardown()


class TestReruns(Reruns.TestCase):
    """Run by hypothesis."""

    settings = settings(max_examples=100, stateful_step_count=20, deadline=None)

    @pytest.fixture(autouse=True)
    def _workers(self) -> Any:
        with onix.configure(max_workers=200):
            yield
        live().execution = None


def test_control_a_policy_that_takes_over_what_failed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model and the policy are two things."""
    monkeypatch.setattr(Takeover, "take", lambda self, what: (self._same.get(what) or deque([None])).popleft())
    generating = settings(TestReruns.settings, derandomize=True, phases=[Phase.generate], max_examples=1_000)
    with pytest.raises(AssertionError), onix.configure(max_workers=200):
        run_state_machine_as_test(Reruns, settings=generating)
    live().execution = None
