"""A durable flow on a disk of which the n-th write fails, and which is started again when there is space.

    LD_PRELOAD=disk.so DISK_FOLDER=FOLDER/disk python -m tests.crashes.full FOLDER FIRST LAST ERROR FOREVER [BROKEN]

Prints one line of JSON: how often the flow failed and was resumed, and what is wrong. See `tests/journal/disk.c`.
"""

from __future__ import annotations

import ctypes
import io
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import onix_nb as onix
from onix_nb.engine.session import live as live_session
from onix_nb.errors import JournalError, JournalWriteError
from onix_nb.journal import codec, store
from onix_nb.model import process

from . import flows, victim

SECONDS = 5.0


def live(disk: Path, logs: Path, write: int, error: int, forever: bool, tell: victim.Tell) -> None:
    """Starts the flow on the failing disk, and again on one that works."""
    process.refusal = None  # onix refuses a fork for its threads, of which there was none
    warnings.simplefilter("ignore")  # futures that the failed flow has left
    sys.stdout = io.StringIO()
    onix.configure(max_workers=flows.WORKERS, strict=False, journal=disk / "journal.sqlite")
    whole = flows.tree(flows.Log(logs / "begun"), flows.Log(logs / "seen"), write)
    library = ctypes.CDLL(None)
    library.disk_fail(write, error, int(forever))
    begun = time.monotonic()
    try:
        whole(seed=write)
        tell("survived")
    except JournalWriteError:
        tell("failed")
    took = time.monotonic() - begun
    library.disk_fail(0, 0, 0)
    while left := [one for one in live_session().futures() if not one.done()]:  # what the failed flow has left
        onix.wait(left)
    flows.Log(logs / "begun").write("again", *recorded(disk))
    flows.Log(logs / "seen").write("again", "")
    tell(f"{library.disk_failures()} {took}")
    tell(json.dumps(whole(seed=write)))


def recorded(folder: Path) -> dict[str, list[str]]:
    """What the journal has of each call, by its argument."""
    try:
        reader = store.Reader(folder / "journal.sqlite", flows.KEY)
    except JournalError:
        return {}
    with reader:
        events = [one for flow in reader.flows() for one in reader.events(flow) if one.event.kind == "call"]
        values = [reader.value(one) for one in events]
    return {value[0]: value for value in (list(v.args) if isinstance(v, Exception) else v for v in values)}


def differences(disk: Path, logs: Path, told: list[str]) -> list[str]:
    """What is not as it should be after both runs."""
    how, (failures, took), result = told[0], map(float, told[1].split()), json.loads(told[2])
    begun = flows.lines(logs / "begun")
    turn = next(place for place, words in enumerate(begun) if words[0] == "again")
    known, again = set(begun[turn][1:]), [words[0] for words in begun[turn + 1 :]]
    found, seen = recorded(disk), flows.lines(logs / "seen")
    first = [words[0] for words in seen[: seen.index(["again"])]]
    seen.remove(["again"])
    # A failure that the flow had not looked at when it failed runs again.
    wrong = [f"{x} ran again, and was recorded" for x in again if x in known and (x in first or "unlucky" not in x)]
    wrong += [f"{x} ran twice" for x, times in Counter(again).items() if times > 1]
    wrong += [f"{x} was seen and is not recorded so" for x, token in seen if found.get(x) != [x, token]]
    wrong += [f"the flow's result has another {x}" for x, token in result if found.get(x) != [x, token]]
    if took > SECONDS:
        wrong.append(f"the error took {took:.1f} s")
    if how == "failed" and not failures:
        wrong.append("it failed without a failing write")
    return wrong


def main(folder: str, first: str, last: str, error: str, forever: str, broken: str = "") -> None:
    """Fails at each write from `first` to `last`."""
    codec.user_key = lambda: flows.KEY  # the user's own stays as it is
    flows.BROKEN[broken]()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    (Path(folder) / "disk").mkdir()
    for write in range(int(first), int(last)):
        disk, logs = Path(folder) / "disk" / f"{write}", Path(folder) / f"logs{write}"
        logs.mkdir()
        ended = victim.run(
            lambda tell, disk=disk, logs=logs, write=write: live(
                disk, logs, write, int(error), forever == "forever", tell
            ),
            victim.NEVER,
        )
        counts[ended.lines[0]] += 1
        wrong += [f"write {write}: {one}" for one in differences(disk, logs, ended.lines)]
    print(json.dumps({"failed": 0, "survived": 0, **counts, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
