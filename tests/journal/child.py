"""A process that uses journals and is killed: `python -m tests.journal.child`, told by lines of JSON what to do.

Each line makes a child of its own by fork, so that hundreds take seconds. What it acknowledges goes
to stdout by one write each, which a kill can't tear.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onix_nb.errors import JournalBusyError
from onix_nb.journal import codec, owner, schema, store
from onix_nb.journal.store import Event, Flow, Journal, Recorded

ROOT = Path(__file__).resolve().parents[2]
KEY = bytes(range(32))
BEGIN = Event("begin", name="nightly", code=b"code", label="day=1", payload=codec.encode(("arguments", 1)))


def value_of(worker: int, number: int) -> tuple[int, int, str]:
    """What a worker records as its n-th call: pickled, and of a size that differs."""
    return worker, number, "x" * (random.Random(f"{worker} {number}").randrange(3_000))


def call(worker: int, number: int) -> Event:
    key = codec.digest(b"%d %d" % (worker, number))
    payload = codec.encode(value_of(worker, number))
    return Event("call", key, b"code", "fetch", f"n={number}", "succeeded", attempts=1, payload=payload)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def checkpoint_often(pages: int = 16) -> None:
    """So that a short test has many; every 1,000 pages in use."""
    store.CHECKPOINT_BYTES = pages * 4096


def kill_at(point: str, nth: int) -> None:
    """This process ends when it comes to `point` for the n-th time."""
    left = [nth]

    def at(here: str) -> None:
        if here == point:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    store.at = at


def record_early(self: Journal, flow: Flow, event: Event) -> None:
    """The control: says that it is recorded before it is."""
    self.submit(flow, event, lambda *_: None)


def record(
    path: str, point: str = "", nth: int = 0, early: bool = False, workers: int = 4, most: int = 1_000, pages: int = 16
) -> None:
    """Four threads record, and acknowledge each call, until the process is killed."""
    checkpoint_often(pages)
    if early:
        Journal.record = record_early  # type: ignore[method-assign, assignment]
    journal = Journal(path, KEY)
    flow = journal.begin("f", BEGIN)
    if point:
        kill_at(point, nth)

    def work(worker: int) -> None:
        for number in range(most):
            journal.record(flow, call(worker, number))
            say("ack", worker, number)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.kill(os.getpid(), signal.SIGKILL)


def own(path: str, unlocked: bool = False) -> None:
    """Opens a journal when told, says whether it owns it, and holds it until it is told or killed."""
    if unlocked:
        owner.fcntl.lockf = lambda *_: None  # type: ignore[attr-defined]
    say("ready")
    sys.stdin.readline()
    try:
        journal = Journal(path, KEY)
    except JournalBusyError:
        say("busy")
        sys.stdin.readline()
        return
    except Exception as error:
        say("failed", type(error).__name__)
        sys.stdin.readline()
        return
    say("owner")
    sys.stdin.readline()
    journal.close()


def hold(path: str) -> None:
    """Owns a journal, and has a child that outlives it and still has its files open."""
    journal = Journal(path, KEY)
    journal.record(journal.begin("f", BEGIN), call(0, 0))
    gate, other = os.pipe()
    if os.fork() == 0:
        os.close(other)
        os.read(0, 1)
        os._exit(0)
    say("owner")
    os.read(gate, 1)


def trace(path: str, synchronous: str, seed: int, most: int = 60) -> None:
    """Two sessions under `disk.c`, with a note in its trace after each acknowledgement, from where it is given."""
    checkpoint_often()
    schema.WRITER_PRAGMAS = (*schema.WRITER_PRAGMAS, f"PRAGMA synchronous = {synchronous}")  # type: ignore[misc]
    file = os.open(os.environ["DISK_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def heard(recorded: Recorded | None, error: BaseException | None) -> None:
        if recorded is not None and error is None:
            head = [ord("A"), 0, recorded.flow, recorded.seq]
            os.write(file, b"".join(number.to_bytes(8, sys.byteorder) for number in head))

    for session in range(2):
        journal = Journal(path, KEY)
        flow = journal.find("f") or journal.begin("f", BEGIN)
        for number in range(most):
            journal.submit(flow, call(session, number), heard)
            if random.Random(f"{seed} {number}").random() < 0.7:
                journal.flows()  # the commit of what was submitted is over
        journal.close()


def acknowledge_anyway(self: Journal, batch: list[Any]) -> None:
    """The control: who waits doesn't hear of errors."""
    done = [job._replace(done=lambda result, error, tell=job.done: tell(result, None)) for job in batch]
    commit(self, done)


commit = Journal._commit


def full_disk(path: str, error: int, forever: bool, numbers: list[int], blind: bool = False) -> None:
    """For each n: the n-th write fails, then there is space again. See `full`."""
    import ctypes

    from . import full

    checkpoint_often()
    if blind:
        Journal._commit = acknowledge_anyway  # type: ignore[method-assign]
    disk = ctypes.CDLL(None)
    for number in numbers:
        failed = full.session(Path(path) / f"{number}" / "j.sqlite", disk, number, error, forever)
        say("failed", failed)


TASKS: dict[str, Callable[..., None]] = {task.__name__: task for task in (record, own, hold, trace, full_disk)}


class Zygote:
    """Runs tasks in processes that are forked from one which has imported everything."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.journal.child"],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def start(self, task: str, **arguments: Any) -> int:
        """Begins a task; its process id."""
        self.tell(json.dumps([task, arguments]))
        word, pid = self.line().split()
        assert word == "pid"
        return int(pid)

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process is gone"
        return line.strip()

    def rest(self) -> Iterator[str]:
        """What the task says until it ends; its exit code is the last word."""
        while not (line := self.line()).startswith("ended"):
            yield line
        yield line

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()


def main() -> None:
    sqlite3.connect(":memory:").close()
    while line := sys.stdin.readline():
        task, arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            say("pid", os.getpid())
            TASKS[task](**arguments)
            os._exit(0)
        say("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
