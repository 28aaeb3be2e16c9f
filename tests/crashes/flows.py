"""Durable flows that are killed, and started again until they end; what their actions did is compared with the journal.

    python -m tests.crashes.flows FOLDER PROGRAM POINTS SEEDS [BROKEN]

`PROGRAM` is `tree`, a flow with child flows and four actions in flight, or `race`, whose way depends on who is first.
Prints one line of JSON: how many kills there were, how many calls were replayed and run again, and what is wrong.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import sys
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onix_nb as onix
from onix_nb import errors
from onix_nb.engine import durable, recording
from onix_nb.journal import replay, store
from onix_nb.model import process
from onix_nb.model.future import Future

from . import victim

WORKERS = 4
PARTS = 3
KEY = b"k" * 32

# Most that may be in flight: the workers' actions, the loop's, and one in each flow's own thread.
IN_FLIGHT = WORKERS + PARTS + PARTS + 1

# Kills before the run that may end: a flow that has killed its kernel five times is refused.
KILLS = 3


class Log:
    """Lines that are on the disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words: object) -> None:
        os.write(self._file, " ".join(map(str, words)).encode() + b"\n")
        os.fsync(self._file)


def lines(path: Path) -> list[list[str]]:
    """What a log says, in words."""
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


class Unlucky(Exception):
    """What some actions raise."""


def tree(begun: Log, seen: Log, seed: int) -> Any:
    """The flow with child flows. No call comes to the same twice: what is replayed is what was recorded."""

    def once(x: str) -> list[str]:
        begun.write(x)
        if x.endswith("unlucky"):
            raise Unlucky(x, os.urandom(8).hex())
        return [x, os.urandom(8).hex()]

    @onix.action
    def work(x: str) -> list[str]:
        return once(x)

    @onix.action(name="loose")
    async def loose(x: str) -> list[str]:
        await asyncio.sleep(0)
        return once(x)

    def told(result: list[str]) -> list[str]:
        seen.write(*result)
        return result

    @onix.flow
    def part(number: int) -> list[list[str]]:
        futures = [work.start(x=f"{number}-{n}") for n in range(6)]
        futures.append(loose.start(x=f"{number}-loose"))
        unlucky = work.start(x=f"{number}-unlucky")
        found = [told(work(x=f"{number}-inline"))]
        found += [told(future.result()) for future in futures]
        try:
            unlucky.result()
        except Unlucky as error:
            found.append(told(list(error.args)))
        return found

    @onix.flow(durable=True)
    def whole(seed: int) -> list[list[str]]:
        parts = [part.start(number=number) for number in range(PARTS)]
        found = [told(work(x="first"))]
        for future in parts:
            found += future.result()
        return [*found, told(work(x="last"))]

    return whole


def race(begun: Log, seen: Log, seed: int) -> Any:
    """The flow whose calls depend on which of its futures is done first, in another order each time it runs."""
    order = random.Random(int.from_bytes(os.urandom(8)))

    @onix.action
    def runner(x: str) -> list[str]:
        begun.write(x)
        for _ in range(order.randint(0, 3_000)):
            pass
        return [x, os.urandom(8).hex()]

    @onix.action
    def prize(x: str) -> list[str]:
        begun.write(x)
        return [x, os.urandom(8).hex()]

    @onix.flow(durable=True)
    def whole(seed: int) -> list[list[str]]:
        found = []
        for lap in range(4):
            running = {runner.start(x=f"{lap}-{n}") for n in range(WORKERS)}
            if lap % 2:
                came = [future.result() for future in onix.as_completed(running)]
            else:
                came, pending = [], running
                while pending:
                    done, pending = onix.wait(pending, return_when=onix.FIRST_COMPLETED)
                    came.append(sorted(future.result() for future in done)[0])
            for place, (first, _) in enumerate(came):
                seen.write("way", lap, place, first)
            found.append(prize(x=f"{lap}-prize-for-{came[0][0]}"))
            seen.write(*found[-1])
        return found

    return whole


PROGRAMS: dict[str, Callable[[Log, Log, int], Any]] = {"tree": tree, "race": race}


def live(folder: Path, program: str, seed: int, tell: victim.Tell, broken: str) -> None:
    """What the victim does: it starts the flow, or resumes it."""
    process.refusal = None  # onix refuses a fork for its threads, of which there was none
    sys.stdout = io.StringIO()  # what a flow says about its replay
    BROKEN[broken]()
    onix.configure(max_workers=WORKERS, strict=False, journal=folder / "journal.sqlite")
    whole = PROGRAMS[program](Log(folder / "begun"), Log(folder / "seen"), seed)
    tell("started")
    tell(json.dumps(whole(seed=seed)))


# Broken variants, for the controls.


def _forgets_choices() -> None:
    replay.Replay.choice = lambda self, key, members: None  # type: ignore[method-assign]


def _forgets_calls() -> None:
    """A digest of the code that differs in each process."""
    salt = os.urandom(8)
    durable.digest.of_function = lambda function, met=None: salt  # type: ignore[assignment]


def _concludes_first() -> None:
    """Everyone sees an outcome before it is recorded, which is when some more have come."""
    proper, late = recording.Call.record, deque[tuple[recording.Call, Future[Any]]]()

    def record(self: recording.Call, future: Future[Any], conclude: Callable[[], None]) -> None:
        conclude()
        late.append((self, future))
        if len(late) > WORKERS:
            proper(*late.popleft(), lambda: None)

    recording.Call.record = record  # type: ignore[method-assign]


BROKEN: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "forgets choices": _forgets_choices,
    "forgets calls": _forgets_calls,
    "concludes first": _concludes_first,
}


class Comparison:
    """A flow that is killed, run by run, and what its journal and its logs say after each."""

    def __init__(self, folder: Path, program: str, seed: int, broken: str) -> None:
        self.wrong: list[str] = []
        self.killed = self.replayed = self.again = 0
        self._folder = folder
        self._program, self._seed, self._broken = program, seed, broken
        # What is recorded, by the action's argument, in order.
        self._recorded: dict[str, list[str]] = {}
        self._in_flight: set[str] = set()
        folder.mkdir(parents=True)

    def run(self, kill: victim.Kill) -> bool:
        """Starts it once more, and whether it has ended."""
        before = len(lines(self._folder / "begun"))
        ended = victim.run(lambda tell: live(self._folder, self._program, self._seed, tell, self._broken), kill)
        self.killed += ended.killed
        begun = [words[0] for words in lines(self._folder / "begun")[before:]]
        self._compare(begun, kill)
        if not ended.killed:
            self._compare_result(json.loads(ended.lines[-1]))
        return not ended.killed

    def _compare(self, begun: list[str], kill: victim.Kill) -> None:
        """What began in a run, and what is recorded after it."""
        known, self._recorded = self._recorded, self._read()
        self.replayed += len(known)
        again = [x for x in begun if x in known]
        self._say(f"{again} ran again, and were recorded", wrong=bool(again))
        self._say(
            "what was recorded is lost or another",
            wrong=list(known.items()) != list(self._recorded.items())[: len(known)],
        )
        twice = [x for x, times in Counter(begun).items() if times > 1]
        self._say(f"{twice} ran twice in one run", wrong=bool(twice))
        self.again += len(self._in_flight.intersection(begun))
        self._in_flight = set(begun).difference(self._recorded)
        self._say(f"{self._in_flight} were in flight, so many", wrong=len(self._in_flight) > IN_FLIGHT)
        self._compare_seen()
        if self.wrong:
            self.wrong = [f"{kill}: {one}" for one in self.wrong]

    def _compare_seen(self) -> None:
        """A result that the flow has seen is recorded, and it has gone the same way in each run."""
        ways: dict[tuple[str, ...], str] = {}
        for *place, what in lines(self._folder / "seen"):
            if place[0] == "way":
                first = ways.setdefault(tuple(place), what)
                self._say(f"way {place[1:]} led to {first}, and then to {what}", wrong=first != what)
            else:
                found = self._recorded.get(place[0], [])
                self._say(f"{place[0]} was seen and is not recorded so", wrong=what not in found)

    def _compare_result(self, result: list[list[str]]) -> None:
        for x, token in result:
            self._say(f"the flow's result has another {x}", wrong=self._recorded.get(x) != [x, token])

    def _read(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        file = self._folder / "journal.sqlite"
        if not self._recorded and not file.exists():  # killed before there was one
            return {}
        try:
            reader = store.Reader(file, KEY)
        except errors.JournalError as error:
            if "nothing in it yet" not in str(error):
                raise
            return {}
        with reader:
            for flow in reader.flows():
                for one in reader.events(flow):
                    if one.event.kind == "call":
                        value = reader.value(one)
                        value = list(value.args) if isinstance(value, Exception) else value
                        self._say(f"{value[0]} was recorded twice", wrong=value[0] in found)
                        found[value[0]] = value
        return found

    def _say(self, text: str, *, wrong: bool) -> None:
        if wrong:
            self.wrong.append(text)


def main(folder: str, program: str, points: str, seeds: str, broken: str = "") -> None:
    """Kills at each point, as often as there are seeds."""
    store.codec.user_key = lambda: KEY  # the user's own stays as it is
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for point in points.split(","):
        for seed in range(int(seeds)):
            flow = Comparison(Path(folder) / f"{point}-{seed}", program, seed, broken)
            for turn in range(KILLS):
                if flow.wrong or flow.run(victim.kills(None if point == "moment" else point, seed * KILLS + turn)):
                    break
            else:
                assert flow.run(victim.NEVER)
            counts.update(killed=flow.killed, replayed=flow.replayed, again=flow.again)
            wrong += flow.wrong
    print(json.dumps({**counts, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
