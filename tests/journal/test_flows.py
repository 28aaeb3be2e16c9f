"""Durable flows on a disk that is full or broken; see `disk.c` and `tests/crashes/full.py`."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .child import ROOT

DISKS = pytest.mark.parametrize(
    ("error", "forever"),
    [(errno.ENOSPC, "forever"), (errno.EIO, "once"), (errno.EIO, "forever")],
    ids=["full", "one error", "broken"],
)


def on_a_disk(disk: Path, tmp_path: Path, writes: range, error: int, forever: str, broken: str = "") -> dict[str, Any]:
    """What is found after a flow has failed at each of these writes, and was resumed."""
    bounds = [str(writes.start), str(writes.stop)]
    child = subprocess.run(
        [sys.executable, "-m", "tests.crashes.full", str(tmp_path), *bounds, str(error), forever, broken],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(disk), "DISK_FOLDER": str(tmp_path / "disk")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(child.stdout)
    return found


@DISKS
def test_a_flow_is_told_that_the_disk_fails_and_goes_on_afterwards(
    disk: Path, tmp_path: Path, error: int, forever: str
) -> None:
    """A typed error within 5 s, no result that is not recorded, and the same kernel resumes it."""
    found = on_a_disk(disk, tmp_path, range(30, 60), error, forever)
    assert found["wrong"] == []
    assert found["failed"] > 20


@pytest.mark.deep
@DISKS
def test_a_flow_goes_on_after_a_failure_at_any_write(disk: Path, tmp_path: Path, error: int, forever: str) -> None:
    found = on_a_disk(disk, tmp_path, range(1, 130), error, forever)
    assert found["wrong"] == []
    assert found["failed"] > 50


def test_a_recorder_that_hides_a_failure_is_found(disk: Path, tmp_path: Path) -> None:
    """The control: others see an outcome before it is recorded."""
    found = on_a_disk(disk, tmp_path, range(46, 60), errno.ENOSPC, "forever", "concludes first")
    assert any("was seen and is not recorded so" in one for one in found["wrong"])
