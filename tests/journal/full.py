"""One journal on a disk of which the n-th write fails; run by `child`, because the disk is its C library's."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from onix_nb.errors import JournalWriteError
from onix_nb.journal.store import Flow, Journal

from .child import BEGIN, KEY, call, value_of

SECONDS = 5.0
MOST = 12


def attempt(path: Path, told: list[int]) -> None:
    """Opens, records and closes; `told` are the numbers that were acknowledged."""
    with Journal(path, KEY) as journal:
        flow = journal.find("f") or journal.begin("f", BEGIN)
        for number in range(len(told), MOST):
            begun = time.monotonic()
            try:
                journal.record(flow, call(0, number))
            except JournalWriteError:
                took = time.monotonic() - begun
                assert took < SECONDS, took
                space_again(journal, flow, told)
                return
            told.append(number)


def space_again(journal: Journal, flow: Flow, told: list[int]) -> None:
    """After the error the same journal goes on, and has what was acknowledged."""
    ctypes.CDLL(None).disk_fail(0, 0, 0)
    proven(journal, flow, told)
    number = len(told)
    journal.record(flow, call(0, number))
    told.append(number)
    proven(journal, flow, told)


def proven(journal: Journal, flow: Flow, told: list[int]) -> None:
    found = [journal.value(recorded) for recorded in journal.events(flow)[1:]]
    numbers = [value[1] for value in found]
    assert all(value == value_of(*value[:2]) for value in found)
    assert set(told) <= set(numbers), (told, numbers)


def session(path: Path, disk: ctypes.CDLL, number: int, error: int, forever: bool) -> int:
    """With a journal that is there already when the number is even, so that both are seen; how many writes failed."""
    told: list[int] = []
    if number % 2 == 0:
        with Journal(path, KEY) as journal:
            journal.begin("f", BEGIN)
    else:
        path.parent.parent.mkdir(exist_ok=True)
    failed = disk.disk_failures()
    disk.disk_fail(1 + number // 2, error, int(forever))
    begun = time.monotonic()
    try:
        attempt(path, told)
    except JournalWriteError:  # at the opening
        assert time.monotonic() - begun < SECONDS
    disk.disk_fail(0, 0, 0)
    failed = disk.disk_failures() - failed
    assert failed or len(told) == MOST
    with Journal(path, KEY) as journal:
        flow = journal.find("f") or journal.begin("f", BEGIN)
        proven(journal, flow, told)
        journal.record(flow, call(1, 0))
    with Journal(path, KEY) as journal:
        assert journal.value(journal.events(flow)[-1]) == value_of(1, 0)
    return failed
