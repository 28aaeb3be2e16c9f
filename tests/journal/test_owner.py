"""One kernel owns a journal, and a dead one never."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from onix_nb.errors import JournalBusyError, JournalWriteError
from onix_nb.journal.store import Journal

from .child import BEGIN, KEY, Zygote, call, value_of


def race(one: Zygote, other: Zygote, path: Path, unlocked: bool = False) -> list[str]:
    """Two processes open a journal at the same moment; what each of them says."""
    both = (one, other)
    for zygote in both:
        zygote.start("own", path=str(path), unlocked=unlocked)
        assert zygote.line() == "ready"
    for zygote in both:
        zygote.tell("go")
    said = [zygote.line().split()[0] for zygote in both]
    for zygote in both:
        zygote.tell("end")
        *_, end = zygote.rest()
        assert unlocked or end == "ended 0"
    return said


def test_two_kernels_never_own_one_journal(tmp_path: Path) -> None:
    """100 races, half of them for a journal that is new: always one owner."""
    with Zygote() as one, Zygote() as other:
        for number in range(100):
            path = tmp_path / f".onix{number // 2}" / "j.sqlite"
            assert sorted(race(one, other, path)) == ["busy", "owner"]


def test_without_the_lock_both_would_own_it(tmp_path: Path) -> None:
    """Control: the race is one."""
    with Zygote() as one, Zygote() as other:
        said: Counter[str] = Counter()
        for number in range(5):
            said.update(race(one, other, tmp_path / f".onix{number}" / "j.sqlite", unlocked=True))
    assert said["owner"] > 5 or said["failed"], "two own it, or get in each other's way"
    assert not said["busy"]


def test_the_second_is_told_who_the_first_is(path: Path, zygote: Zygote) -> None:
    """Its process, user, host, and since when; the owner goes on."""
    pid = zygote.start("hold", path=str(path))
    assert zygote.line() == "owner"
    with pytest.raises(JournalBusyError, match=rf"process {pid} of user {os.geteuid()} on .*, since 20\d\d-"):
        Journal(path, KEY)
    os.kill(pid, signal.SIGKILL)


def test_a_dead_owner_is_taken_over(path: Path, zygote: Zygote) -> None:
    """Within 2 s, though a child of the dead one still has its files open."""
    pid = zygote.start("hold", path=str(path))
    assert zygote.line() == "owner"
    os.kill(pid, signal.SIGKILL)
    assert [*zygote.rest()][-1] == f"ended {-signal.SIGKILL}"
    begun = time.monotonic()
    with Journal(path, KEY) as journal:
        assert time.monotonic() - begun < 2
        flow = journal.find("f")
        assert flow is not None
        assert flow.kernels == 1
        assert journal.value(journal.events(flow)[-1]) == value_of(0, 0)


def test_one_process_opens_a_journal_once(path: Path) -> None:
    """A second time would give up the lock of the first."""
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        with pytest.raises(JournalBusyError, match="in this process"):
            Journal(path, KEY)
        journal.record(flow, call(0, 0))
        with Zygote() as other:
            other.start("own", path=str(path))
            assert other.line() == "ready"
            other.tell("go")
            assert other.line() == "busy", "the lock of the first still holds"
            other.tell("end")
    Journal(path, KEY).close()


@pytest.mark.parametrize(
    "gone", ["notebook.sqlite", "notebook.sqlite-wal", "notebook.sqlite.lock", "folder", "replaced"]
)
def test_a_journal_that_is_deleted_while_in_use_is_told(path: Path, gone: str) -> None:
    """What would go into files that nobody finds again is not acknowledged, now and later."""
    with Journal(path, KEY) as journal:
        flow = journal.begin("f", BEGIN)
        if gone == "folder":
            path.parent.rename(path.parent.with_name("elsewhere"))
        elif gone == "replaced":
            path.rename(path.with_name("elsewhere"))
            path.touch(0o600)
        else:
            path.with_name(gone).unlink()
        for _ in range(2):
            with pytest.raises(JournalWriteError, match="deleted or replaced while in use"):
                journal.record(flow, call(0, 0))
    assert not (gone == "replaced" and path.stat().st_size), "the other file is left alone"
