"""A disk that is full, broken, or cut off from its power.

The disk is `disk.c`, loaded before the C library of a process with the real store and the real SQLite.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from onix_nb.errors import JournalError
from onix_nb.journal.store import Journal, Reader

from .child import KEY, Zygote, value_of

FAILURES = {"full": (errno.ENOSPC, True), "one error": (errno.EIO, False), "broken": (errno.EIO, True)}
# More than the writes, syncs and truncations of a session: first those of a new journal, then those of one that is there.
WRITES = 240


def failing(disk: Path, folder: Path, failure: str, numbers: list[int], blind: bool = False) -> tuple[list[int], str]:
    """How many writes failed in each session, and how it ended."""
    error, forever = FAILURES[failure]
    env = {"LD_PRELOAD": str(disk), "DISK_FOLDER": str(folder)}
    with Zygote(env) as zygote:
        zygote.start("full_disk", path=str(folder), error=error, forever=forever, numbers=numbers, blind=blind)
        *lines, end = zygote.rest()
    return [int(line.split()[1]) for line in lines], end


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.deep)])
def test_a_disk_that_fails_at_any_write_is_told_and_overcome(
    disk: Path, tmp_path: Path, failure: str, step: int
) -> None:
    """A typed error within 5 s, nothing acknowledged that is not there, and afterwards it goes on."""
    numbers = [*range(0, WRITES, step), WRITES, WRITES + 1]
    failed, end = failing(disk, tmp_path, failure, numbers)
    assert end == "ended 0", failed
    assert len(failed) == len(numbers)
    assert all(failed[:5])
    assert failed[-2:] == [0, 0], "there are no more writes"


def test_a_store_that_is_blind_to_errors_is_caught(disk: Path, tmp_path: Path) -> None:
    """Control: it acknowledges what is not there."""
    assert failing(disk, tmp_path, "full", [60], blind=True)[1] == "ended 1"


# A power cut


@dataclasses.dataclass(frozen=True)
class Step:
    """A record of the trace."""

    operation: str
    name: str
    offset: int
    data: bytes


def steps(path: Path) -> Iterator[Step]:
    trace = path.read_bytes()
    place = 0
    while place < len(trace):
        operation, named, offset, length = struct.unpack_from("=4Q", trace, place)
        place += 32
        name = trace[place : place + named].decode()
        place += named
        data = trace[place : place + length] if chr(operation) == "W" else b""
        place += len(data)
        yield Step(chr(operation), name, offset, data if data else length.to_bytes(8, "little"))


class Disk:
    """What is surely on the disk, and what may be: all since the last sync of its file, or of the folder for names."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.waiting: dict[str, list[Step]] = {}
        self.told: list[tuple[int, int]] = []

    def take(self, step: Step) -> None:
        if step.operation == "A":
            self.told.append((step.offset, int.from_bytes(step.data, "little")))
        elif step.operation == "S" and not step.name:
            for name in [name for name, steps in self.waiting.items() if steps[-1].operation == "U"]:
                apply(self.files, self.waiting.pop(name)[-1])
        elif step.operation == "S":
            for one in self.waiting.pop(step.name, []):
                apply(self.files, one)
            self.files.setdefault(step.name, bytearray())
        elif not step.name.endswith("-shm"):
            self.waiting.setdefault(step.name, []).append(step)

    def after_the_cut(self, seed: int) -> dict[str, bytearray]:
        """One of the many states in which a disk may be: writes are lost, partial, torn or reordered."""
        dice = random.Random(seed)
        files = {name: bytearray(data) for name, data in self.files.items()}
        for pending in self.waiting.values():
            for step in survivors(pending, dice):
                apply(files, step)
        return files


def survivors(pending: list[Step], dice: random.Random) -> list[Step]:
    how = dice.choice(["lost", "all", "prefix", "some", "reordered", "torn"])
    if how == "lost":
        return []
    if how == "prefix":
        return pending[: dice.randrange(len(pending) + 1)]
    if how == "all":
        return pending
    if how == "torn":
        return [part for step in pending for part in sectors(step) if dice.random() < 0.5]
    kept = [step for step in pending if dice.random() < 0.5]
    if how == "reordered":
        dice.shuffle(kept)
    return kept


def sectors(step: Step) -> list[Step]:
    if step.operation != "W":
        return [step]
    places = range(0, len(step.data), 512)
    return [dataclasses.replace(step, offset=step.offset + at, data=step.data[at : at + 512]) for at in places]


def apply(files: dict[str, bytearray], step: Step) -> None:
    if step.operation == "U":
        files.pop(step.name, None)
        return
    data = files.setdefault(step.name, bytearray())
    end = step.offset + (len(step.data) if step.operation == "W" else 0)
    data.extend(bytes(max(0, end - len(data))))
    if step.operation == "W":
        data[step.offset : end] = step.data
    else:
        del data[end:]


def recorded_trace(disk: Path, folder: Path, synchronous: str, seed: int) -> list[Step]:
    """What a process wrote and synced, and when it acknowledged what."""
    notebook, trace = folder / ".onix", folder / f"trace{seed}{synchronous}"
    env = {"LD_PRELOAD": str(disk), "DISK_FOLDER": str(notebook), "DISK_TRACE": str(trace)}
    with Zygote(env) as zygote:
        zygote.start("trace", path=str(notebook / "j.sqlite"), synchronous=synchronous, seed=seed)
        assert [*zygote.rest()][-1] == "ended 0"
    return list(steps(trace))


def found_after(folder: Path, files: dict[str, bytearray], owner: bool) -> set[tuple[int, int]]:
    """Opens what a power cut left: the places of its events. Fails when a value is wrong."""
    owner = owner or "j.sqlite-journal" in files  # cut off while it was made: a reader can't undo that
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        if not name.endswith(".lock"):
            with open(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(data)
    if not files.get("j.sqlite") and not owner:
        return set()
    opened = Journal(folder / "j.sqlite", KEY) if owner else Reader(folder / "j.sqlite", KEY)
    with opened as journal:
        found = set()
        for flow in journal.flows():
            for recorded in journal.events(flow):
                value = journal.value(recorded)
                assert recorded.seq == 0 or value == value_of(*value[:2])
                found.add((recorded.flow, recorded.seq))
        return found


def power_cuts(disk: Path, folder: Path, synchronous: str, images: int, seed: int = 0) -> int:
    """In how many of so many images something is lost that was acknowledged."""
    folder.mkdir()
    trace = recorded_trace(disk, folder, synchronous, seed)
    dice = random.Random(seed)
    cuts = sorted(dice.randrange(len(trace) + 1) for _ in range(images))
    device, place, losses = Disk(), 0, 0
    for number, cut in enumerate(cuts):
        for step in trace[place:cut]:
            device.take(step)
        place = cut
        try:
            found = found_after(folder / f"{number}", device.after_the_cut(number), owner=number % 4 == 0)
        except JournalError:
            if synchronous == "FULL" and device.told:
                raise
            found = set()
        losses += not set(device.told) <= found
    assert len(device.told) > 100
    return losses


def test_a_power_cut_takes_nothing_that_was_acknowledged(disk: Path, tmp_path: Path) -> None:
    """Of 200 images of the disk none lacks an outcome; the same writes with `synchronous=NORMAL` lose some."""
    assert power_cuts(disk, tmp_path / "full", "FULL", 200) == 0
    assert power_cuts(disk, tmp_path / "normal", "NORMAL", 100) > 10, "control"


@pytest.mark.deep
def test_very_many_power_cuts_take_nothing(disk: Path, tmp_path: Path) -> None:
    """2,500 images of five traces."""
    for seed in range(1, 6):
        assert power_cuts(disk, tmp_path / f"full{seed}", "FULL", 500, seed) == 0
        assert power_cuts(disk, tmp_path / f"normal{seed}", "NORMAL", 100, seed) > 10, "control"
