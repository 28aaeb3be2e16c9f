"""A process that records from four threads is killed with SIGKILL: what it has acknowledged is in the journal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onix_nb.journal.store import POINTS

ROOT = Path(__file__).resolve().parents[2]


def killed(tmp_path: Path, points: str, seeds: int, broken: str = "") -> dict[str, Any]:
    """What `tests/crashes/rows.py` finds in the journals of its victims."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.crashes.rows", str(tmp_path), points, str(seeds), broken],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def at_every_point(tmp_path: Path, seeds: int) -> None:
    for point in POINTS:
        found = killed(tmp_path, point, seeds)
        assert found["wrong"] == [], point
        assert found["killed"] == seeds, point


def at_moments(tmp_path: Path, seeds: int) -> None:
    found = killed(tmp_path, "moment", seeds)
    assert found["wrong"] == []
    # Some of them end first.
    assert found["killed"] > seeds / 2
    assert found["acknowledged"] > seeds


def test_what_was_acknowledged_survives_a_kill_at_every_point(tmp_path: Path) -> None:
    at_every_point(tmp_path, 1)


def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    at_moments(tmp_path, 10)


@pytest.mark.deep
def test_what_was_acknowledged_survives_many_kills_at_every_point(tmp_path: Path) -> None:
    at_every_point(tmp_path, 5)


@pytest.mark.deep
def test_what_was_acknowledged_survives_a_kill_at_very_many_moments(tmp_path: Path) -> None:
    at_moments(tmp_path, 100)


def test_a_row_that_is_acknowledged_before_its_commit_is_found_to_be_lost(tmp_path: Path) -> None:
    """The control: kills just before the commit, of a child that doesn't wait for it."""
    found = killed(tmp_path, "inserted", 10, "early")
    assert any("is lost" in one for one in found["wrong"])


def test_a_wrong_row_is_found(tmp_path: Path) -> None:
    """The control: one row has another's value."""
    found = killed(tmp_path, "acknowledged", 5, "wrong")
    assert found["wrong"]
