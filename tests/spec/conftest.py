"""What the specification's tests share: work that stays unfinished until it is let go."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import onix_nb as onix

# Seconds after which a wait is a failure instead of a hang.
WAIT = 30


class Held:
    """An action and a flow that return their argument `x` when they are let go, all at once."""

    def __init__(self) -> None:
        self._begun = threading.Semaphore(0)
        self._go = threading.Event()
        self.action = onix.action(name="held_action")(self._stay)
        self.flow = onix.flow(name="held_flow")(self._stay)

    def _stay(self, x: int = 0) -> int:
        self._begun.release()
        assert self._go.wait(WAIT), "nobody let it go"
        return x

    def await_begun(self, number: int = 1) -> None:
        """Blocks until `number` more of them are running."""
        for _ in range(number):
            assert self._begun.acquire(timeout=WAIT), "it did not begin"

    def let_go(self) -> None:
        """Lets those that run, and those to come, return."""
        self._go.set()


@pytest.fixture
def held() -> Iterator[Held]:
    """A `Held` of the test's own, let go at its end at the latest."""
    held = Held()
    yield held
    held.let_go()
