"""kill -9, whenever it comes: what was acknowledged is there, and nothing else than what was recorded."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from onix_nb.journal import store
from onix_nb.journal.store import Journal

from .child import KEY, Zygote, call, value_of

WORKERS = 4


def acknowledged(lines: list[str]) -> set[tuple[int, int]]:
    return {(int(words[1]), int(words[2])) for words in map(str.split, lines) if words[0] == "ack"}


def lost(path: Path, told: set[tuple[int, int]]) -> int:
    """How many acknowledged calls are not in the journal, which goes on. Fails when it says anything wrong."""
    with Journal(path, KEY) as journal:
        flow = journal.find("f")
        if flow is None:
            assert not told
            return 0
        begin, *calls = journal.events(flow)
        assert journal.value(begin) == ("arguments", 1)
        found = [journal.value(recorded) for recorded in calls]
        assert all(value == value_of(*value[:2]) for value in found)
        present = {value[:2] for value in found}
        assert len(present) == len(found)
        assert len(present - told) <= WORKERS, "no more than were in flight may run again"
        journal.resume(flow)
        again = journal.record(flow, call(99, 0))
        assert again.seq == len(calls) + 1
        assert journal.value(journal.events(flow)[-1]) == value_of(99, 0)
        return len(told - present)


@pytest.mark.parametrize("point", store.POINTS)
def test_a_kill_at_each_point_loses_nothing(zygote: Zygote, tmp_path: Path, point: str) -> None:
    """5 times at each, early and late."""
    for seed in range(5):
        path = tmp_path / f".onix{seed}" / "j.sqlite"
        zygote.start("record", path=str(path), point=point, nth=1 + random.Random(seed).randrange(1 + 6 * seed))
        *lines, end = zygote.rest()
        assert end == f"ended {-signal.SIGKILL}"
        assert lost(path, acknowledged(lines)) == 0


def killed_at_random(zygote: Zygote, path: Path, seed: int, early: bool = False) -> set[tuple[int, int]]:
    """What a process had acknowledged that was killed in the middle of its work."""
    acks = random.Random(seed).randrange(40)
    pid = zygote.start("record", path=str(path), early=early)
    lines = [zygote.line() for _ in range(acks)]
    os.kill(pid, signal.SIGKILL)
    return acknowledged([*lines, *zygote.rest()])


def test_a_kill_at_any_moment_loses_nothing(zygote: Zygote, tmp_path: Path) -> None:
    """100 times."""
    told = 0
    for seed in range(100):
        path = tmp_path / f".onix{seed}" / "j.sqlite"
        heard = killed_at_random(zygote, path, seed)
        told += len(heard)
        assert lost(path, heard) == 0, f"seed {seed}"
    assert told > 1_000


def test_a_store_that_acknowledges_too_early_is_caught(zygote: Zygote, tmp_path: Path) -> None:
    """Control: the same kills show what such a store loses."""
    missing = 0
    for seed in range(10):
        path = tmp_path / f".onix{seed}" / "j.sqlite"
        told = killed_at_random(zygote, path, seed, early=True)
        with Journal(path, KEY) as journal:
            flow = journal.find("f")
            events = [] if flow is None else journal.events(flow)[1:]
            missing += len(told - {journal.value(recorded)[:2] for recorded in events})
    assert missing > 0
