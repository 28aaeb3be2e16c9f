"""A child process that is killed, and what it has told before."""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from onix_nb.journal import store

# Seconds after which a victim that nobody has killed is taken for stuck.
PATIENCE = 60.0


class Kill(NamedTuple):
    """When the child dies.

    Attributes:
        point: At this fault point of the store; None for a moment that the parent chooses.
        count: When it is there for this time, from 1.
        seconds: For a moment: how long after the child has told its first line.
    """

    point: str | None = None
    count: int = 1
    seconds: float = 0.0


NEVER = Kill(None, 0, PATIENCE)


def kills(point: str | None, seed: int) -> Kill:
    """A kill at `point`, or at a moment, that `seed` chooses."""
    chosen = random.Random(f"{point} {seed}")
    return Kill(point, chosen.randint(1, 12)) if point else Kill(None, 0, chosen.uniform(0, 0.03))


class Ended(NamedTuple):
    """What is left of a child: the lines that it told, and whether it was killed."""

    lines: list[str]
    killed: bool


Tell = Callable[[str], None]


def run(body: Callable[[Tell], None], kill: Kill) -> Ended:
    """Runs `body` in a child until it ends or is killed. What it tells has left it when `tell` returns."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        _live(body, kill, writes)
    os.close(writes)
    told = _listen(reads, child, kill)
    os.close(reads)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, f"the child failed with status {status}: {told}"
    return Ended(told.decode().splitlines(), killed)


def _listen(reads: int, child: int, kill: Kill) -> bytes:
    """What the child tells until it has ended; the first line starts the clock of a kill by the parent."""
    told, limit = b"", time.monotonic() + PATIENCE
    by_clock = kill.point is None
    while True:
        ready, _, _ = select.select([reads], [], [], max(0.0, limit - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            if not by_clock or kill == NEVER:
                raise TimeoutError(f"the child is stuck: {told!r}")
            limit = time.monotonic() + PATIENCE
            continue
        more = os.read(reads, 1 << 16)
        if not more:
            return told
        if by_clock and not told and kill != NEVER:
            limit = time.monotonic() + kill.seconds
        told += more


def _live(body: Callable[[Tell], None], kill: Kill, writes: int) -> None:
    """The child's life; it never returns."""
    status = 1
    try:
        if kill.point is not None:
            store.at = _deadly(kill)
        body(lambda line: _write(writes, line))
        status = 0
    except BaseException:
        _write(writes, traceback.format_exc().replace("\n", " | "))
    finally:
        os._exit(status)


def _write(file: int, line: str) -> None:
    assert os.write(file, line.encode() + b"\n") > len(line.encode())


def _deadly(kill: Kill) -> Callable[[str], None]:
    """What replaces `store.at`: death at the point and time that `kill` says."""
    counting, left = threading.Lock(), [kill.count]

    def at(point: str) -> None:
        if point == kill.point:
            with counting:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    return at
