"""Durable flows whose process is killed with SIGKILL, again and again: what was recorded never runs again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onix_nb.journal.store import POINTS

ROOT = Path(__file__).resolve().parents[2]


def killed(tmp_path: Path, program: str, points: str, seeds: int, broken: str = "") -> dict[str, Any]:
    """What `tests/crashes/flows.py` finds in the journals and logs of its victims."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.crashes.flows", str(tmp_path), program, points, str(seeds), broken],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(child.stdout)
    return found


@pytest.mark.parametrize("program", ["tree", "race"])
@pytest.mark.parametrize("point", [*POINTS, "moment"])
def test_nothing_recorded_runs_again_or_is_lost(tmp_path: Path, program: str, point: str) -> None:
    """`tree` has child flows and four actions in flight; `race` goes the way of whoever is done first."""
    found = killed(tmp_path, program, point, 1)
    assert found["wrong"] == []


@pytest.mark.deep
@pytest.mark.parametrize("program", ["tree", "race"])
@pytest.mark.parametrize("point", POINTS)
def test_nothing_recorded_runs_again_after_many_kills(tmp_path: Path, program: str, point: str) -> None:
    found = killed(tmp_path, program, point, 5)
    assert found["wrong"] == []
    assert found["killed"] >= 5


@pytest.mark.deep
@pytest.mark.parametrize("program", ["tree", "race"])
def test_nothing_recorded_runs_again_after_kills_at_very_many_moments(tmp_path: Path, program: str) -> None:
    found = killed(tmp_path, program, "moment", 100)
    assert found["wrong"] == []
    assert found["killed"] > 100
    assert found["replayed"] > 100
    assert found["again"] > 10, "no call was in flight"


@pytest.mark.parametrize(
    ("broken", "program", "said"),
    [
        ("forgets choices", "race", "led to"),
        ("forgets calls", "tree", "ran again, and were recorded"),
        ("concludes first", "tree", "was seen and is not recorded"),
    ],
)
def test_a_broken_variant_is_found(tmp_path: Path, broken: str, program: str, said: str) -> None:
    """The controls: a replay that forgets, a recorder that records after others have seen the outcome."""
    found = killed(tmp_path, program, "submitted,taken,acknowledged", 3, broken)
    assert any(said in one for one in found["wrong"]), found
