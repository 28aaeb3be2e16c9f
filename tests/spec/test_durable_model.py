"""Durable flows of a random shape that fail, are killed and are started again until they end, beside what must hold."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.engine import durable
from onix_nb.engine.session import live
from onix_nb.journal.store import Journal, Reader

Step = tuple[str, Any]

# Lives in which something may fail, and which may be cut short.
LIVES = 6


class World:
    """What the actions touch: which of them fail now, and what has begun."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.begun: list[str] = []
        self.order = random.Random()

    def act(self, x: str) -> str:
        """What each action does."""
        self.begun.append(x)
        for _ in range(self.order.randint(0, 2_000)):
            pass
        if x in self.failing:
            raise LookupError(x)
        return x


def steps(dice: random.Random, depth: int = 0) -> list[Step]:
    """What a flow does; each call has a name of its own."""
    found: list[Step] = []
    for _ in range(dice.randint(1, 4)):
        kind = dice.choice(["call", "caught", "started", "race", "child", "children"][: 6 if depth < 2 else 4])
        if kind in ("call", "caught"):
            found.append((kind, f"{kind}-{dice.getrandbits(32):08x}"))
        elif kind in ("started", "race"):
            found.append((kind, [f"{kind}-{dice.getrandbits(32):08x}" for _ in range(dice.randint(2, 4))]))
        else:
            found.append((kind, [steps(dice, depth + 1) for _ in range(1 if kind == "child" else 2)]))
    return found


def names(program: list[Step]) -> Iterator[str]:
    """Of all calls but those that depend on a race."""
    for kind, what in program:
        if kind in ("call", "caught"):
            yield what
        elif kind in ("started", "race"):
            yield from what
        else:
            for inner in what:
                yield from names(inner)


def flow_of(world: World, program: list[Step]) -> Any:
    """The durable flow."""
    act = onix.action(name="act")(world.act)

    def run(program: list[Step]) -> list[Any]:
        return [DOES[kind](what) for kind, what in program]

    def caught(x: str) -> str:
        try:
            return act(x=x)
        except LookupError:
            return f"not {x}"

    def started(xs: list[str]) -> list[str]:
        futures = [act.start(x=x) for x in xs]
        onix.wait(futures)
        return [future.result() for future in futures]

    def race(xs: list[str]) -> str:
        futures = {act.start(x=x): x for x in xs}
        done, left = onix.wait(futures, return_when=onix.FIRST_COMPLETED)
        onix.wait(left)
        first = min(futures[future] for future in done)
        return act(x=f"prize-of-{first}")

    def children(programs: list[list[Step]]) -> list[Any]:
        futures = [child.start(program=program) for program in programs]
        onix.wait(futures)
        return [future.result() for future in futures]

    @onix.flow
    def child(program: list[Step]) -> list[Any]:
        return run(program)

    DOES: dict[str, Callable[[Any], Any]] = {
        "call": lambda x: act(x=x),
        "caught": caught,
        "started": started,
        "race": race,
        "child": lambda programs: child(program=programs[0]),
        "children": children,
    }

    @onix.flow(durable=True)
    def whole() -> list[Any]:
        return run(program)

    return whole


class Deaths:
    """Kills the kernel, as far as the journal knows: from some record on nothing more of this life is recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._counting = threading.Lock()
        self._left = -1
        proper = Journal._send

        def send(journal: Any, job: Any) -> None:
            if job.writes and self._counts():
                for one in list(durable._recordings.values()):
                    one.close()
            proper(journal, job)

        monkeypatch.setattr(Journal, "_send", send)

    def after(self, records: int) -> None:
        """The next life ends so soon."""
        self._left = records

    def _counts(self) -> bool:
        with self._counting:
            self._left -= 1
            return self._left == 0


def recorded(path: Path) -> dict[str, str]:
    """How each call ended, by what it was called with, as the journal has it."""
    with Reader(path) as reader:
        events = [one.event for flow in reader.flows() for one in reader.events(flow)]
    return {event.label.partition("'")[2].rstrip("'"): event.status for event in events if event.kind == "call"}


def differences(folder: Path, deaths: Deaths, seed: int) -> list[str]:
    """What is not as it must be in the lives of one flow."""
    dice = random.Random(seed)
    program, world, path = steps(dice), World(), folder / f"{seed}" / "j.sqlite"
    wrong: list[str] = []
    every = list(names(program))
    with onix.configure(journal=path, strict=False, leaks="ignore", max_workers=4):
        flow = flow_of(world, program)
        failed, life = True, 0
        while failed or life <= LIVES:
            life += 1
            before = recorded(path) if path.exists() else {}
            world.begun.clear()
            well = life > LIVES
            world.failing = set() if well else {x for x in every if dice.random() < 0.15}
            deaths.after(0 if well or dice.random() < 0.4 else dice.randint(2, 12))
            future = flow.start()
            failed = future.exception(60) is not None
            onix.wait(live().futures())  # what a failed flow has left
            deaths.after(0)
            after = recorded(path)
            ran = set(world.begun)
            for x, status in before.items():
                if status == "succeeded" and x in ran:
                    wrong.append(f"life {life}: {x} ran again, and had succeeded")
                if x.startswith("caught") and x in ran:
                    wrong.append(f"life {life}: {x} ran again, and its failure was caught")
                if x not in after or (status == "succeeded" and after[x] != "succeeded"):
                    wrong.append(f"life {life}: {x} is lost")
            # After a death it fails of what is recorded, and then no more.
            if failed and life > LIVES + 1:
                return [*wrong, f"it still fails: {future.exception()!r}"]
    return wrong


def test_what_has_succeeded_never_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the shape of the flow, whatever failed and whenever it was killed; in the end it succeeds."""
    deaths = Deaths(monkeypatch)
    wrong = {seed: found for seed in range(40) if (found := differences(tmp_path, deaths, seed))}
    assert not wrong


def test_a_replay_that_forgets_too_much_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: of what failed once, also what has succeeded since."""
    monkeypatch.setattr(
        durable, "forgotten", lambda calls, chain, ended: {c.key for c in calls if c.status == "failed"} & set(chain)
    )
    deaths = Deaths(monkeypatch)
    wrong = [one for seed in range(40) for one in differences(tmp_path, deaths, seed)]
    assert any("ran again, and had succeeded" in one for one in wrong)
