"""Four threads record calls in a journal and acknowledge each; killed, what is left in the file is compared.

    python -m tests.crashes.rows FOLDER POINTS SEEDS [BROKEN]

`POINTS` are fault points of the store, with commas; `moment` for random moments. Prints one line of JSON: how many kills
there were and rows were acknowledged, and what is wrong.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from pathlib import Path
from typing import Any

from onix_nb.journal import codec
from onix_nb.journal.store import Event, Flow, Journal, Reader

from . import victim

KEY = b"k" * 32
THREADS = 4
ROWS = 25


def value(seed: int, thread: int, number: int) -> list[Any]:
    """What a thread records as its call `number`; now and then larger than a page."""
    size = random.Random(f"{seed} {thread} {number}").choice([0, 3, 300, 9_000])
    return [thread, number, "x" * size]


def call(seed: int, thread: int, number: int) -> Event:
    """The same as an event."""
    key = bytes([thread, number]) * 16
    return Event(
        "call", key, b"code", "work", f"{thread}", "succeeded", payload=codec.encode(value(seed, thread, number))
    )


def record(path: Path, seed: int, tell: victim.Tell, broken: str) -> None:
    """What the victim does."""
    journal = Journal(path, KEY)
    flow = journal.begin("flow", Event("begin", name="flow"))
    tell("begun")

    def work(thread: int) -> None:
        for number in range(ROWS):
            recorded = call(seed, thread, number)
            if broken == "early":  # acknowledged before it is committed
                journal.submit(flow, recorded, lambda *_: None)
            elif broken == "wrong":
                journal.record(flow, call(seed, thread, number + (number == 1)))
            else:
                journal.record(flow, recorded)
            tell(f"{thread} {number}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    journal.close()


def differences(path: Path, seed: int, told: list[str]) -> list[str]:
    """What in the file is not as it was acknowledged. `events` proves that the order has no gap."""
    if not told:  # killed before the flow had begun
        return []
    with Reader(path, KEY) as reader:
        flow = reader.flows()[0]
        found = {}
        for one in reader.events(flow)[1:]:
            thread, number = one.event.key[:2]
            if reader.value(one) != value(seed, thread, number):
                return [f"call {number} of thread {thread} has a wrong value"]
            if number != sum(thread == other for other, _ in found):
                return [f"call {number} of thread {thread} comes out of order"]
            found[thread, number] = one
    acknowledged = [tuple(map(int, line.split())) for line in told[1:]]
    return [
        f"call {number} of thread {thread} is lost" for thread, number in acknowledged if (thread, number) not in found
    ]


def goes_on(path: Path) -> None:
    """The dead owner's journal is taken over at once, and records after what is there."""
    with Journal(path, KEY) as journal:
        for flow in journal.flows() or [begun(journal)]:
            before = journal.events(flow)
            last = journal.record(flow, call(0, 9, 9))
            assert last.seq == len(before)
            assert journal.events(flow) == [*before, last]


def begun(journal: Journal) -> Flow:
    """A flow in a journal that has none."""
    return journal.begin("flow", Event("begin", name="flow"))


def main(folder: str, points: str, seeds: str, broken: str = "") -> None:
    """Kills at each point, as often as there are seeds."""
    killed, acknowledged, wrong = 0, 0, []
    for point in points.split(","):
        for seed in range(int(seeds)):
            path = Path(folder) / f"{point}-{seed}.sqlite"
            kill = victim.kills(None if point == "moment" else point, seed)
            ended = victim.run(lambda tell, path=path, seed=seed: record(path, seed, tell, broken), kill)  # type: ignore[misc]
            killed += ended.killed
            acknowledged += len(ended.lines)
            wrong += [f"{kill}: {one}" for one in differences(path, seed, ended.lines)]
            victim.run(lambda tell, path=path: goes_on(path), victim.NEVER)  # type: ignore[misc]
    print(json.dumps({"killed": killed, "acknowledged": acknowledged, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
