"""Worker processes: how they die, what Stop does to them, and that none outlives its kernel."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import onix_nb as onix
from onix_nb import errors
from onix_nb.engine import session as engine
from onix_nb.executors import processes

cloudpickle.register_pickle_by_value(sys.modules[__name__])

WAIT = 30
# Seconds within which the death of a worker is told.
SOON = 5
# Those that are queued while one dies; and so many of them loky has handed out to two workers at a time.
MANY = 100
PREFETCHED = 2 + 2 * 2 + 1


@pytest.fixture(autouse=True)
def on_processes() -> Iterator[None]:
    """All actions run on two processes, which are gone at the end of each test."""
    with onix.configure(executor="processes", max_workers=2):
        yield
    session = engine._session
    assert session is not None
    session.close_executors()
    until(lambda: not workers_of(os.getpid()), SOON)


def until(ready: Callable[[], object], seconds: float = WAIT) -> None:
    """Waits for what no event tells, such as the end of a process that somebody else waits for."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"it did not come; workers are {workers_of(os.getpid())}"
        threading.Event().wait(0.01)


def workers_of(kernel: int) -> set[int]:
    """The worker processes that a process has started."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == kernel and b"popen_loky" in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended, if it is not our child."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@onix.action
def note(path: str, x: int) -> int:
    with open(path, "a") as log:
        log.write(f"{x}\n")
    return 2 * x


# How workers die.


def send(number: int) -> Callable[[Any], Any]:
    """Sends a signal to its own process, also where whoever started the tests has it ignored."""

    def send(_: Any) -> None:
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return send


def segfaults(_: Any) -> None:
    ctypes.string_at(0)


def runs_out_of_stack(_: Any) -> Any:
    sys.setrecursionlimit(10**9)
    deep: Any = ()
    for _ in range(10**6):
        deep = (deep,)
    return hash(deep)


def runs_out_of_time(_: Any) -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.02)
    while True:
        pass


def in_another_thread(_: Any) -> None:
    threading.Thread(target=os._exit, args=(4,)).start()
    threading.Event().wait(WAIT)


class Deadly:
    """Ends the process that pickles it; or, when it is sent there, the one that unpickles it."""

    def __init__(self, here: bool) -> None:
        self.here = here

    def __reduce__(self) -> Any:
        if self.here:
            os._exit(5)
        return os._exit, (6,)


DEATHS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "exit code 0": (lambda _: os._exit(0), "with exit code 0"),
    "exit code 3": (lambda _: os._exit(3), "with exit code 3"),
    "abort": (lambda _: os.abort(), "of SIGABRT"),
    "kill": (send(signal.SIGKILL), "of SIGKILL"),
    "terminate": (send(signal.SIGTERM), "of SIGTERM"),
    "hang-up": (send(signal.SIGHUP), "of SIGHUP"),
    "bus error": (send(signal.SIGBUS), "of SIGBUS"),
    "illegal instruction": (send(signal.SIGILL), "of SIGILL"),
    "division in hardware": (send(signal.SIGFPE), "of SIGFPE"),
    "segfault": (segfaults, "of SIGSEGV"),
    "stack overflow": (runs_out_of_stack, "of SIGSEGV"),
    "processor time": (runs_out_of_time, "of SIGVTALRM"),
    "another thread": (in_another_thread, "with exit code 4"),
    "its result": (lambda _: Deadly(here=True), "with exit code 5"),
    "its argument": (lambda _: None, "with exit code 6"),
    "another program": (lambda _: os.execv("/bin/false", ["false"]), "with exit code 1"),
    "from outside": (lambda _: threading.Event().wait(WAIT), "of SIGKILL"),
}


def deaths_end(how: str, folder: Path, load: int) -> list[str]:
    """What is wrong after a worker has died, while `load` others were queued."""
    function, told = DEATHS[how]
    log = str(folder / "log")
    dies = onix.action(name="dies")(function)
    onix.wait([note.start(path=log, x=-1), note.start(path=log, x=-1)])
    before = workers_of(os.getpid())
    first = note.start(path=log, x=-2)
    began = time.monotonic()
    future = dies.start(_=Deadly(here=False) if how == "its argument" else None)
    others = [note.start(path=log, x=x) for x in range(load)]
    assert future.run is not None
    if how == "from outside":
        while future.run.worker is None:
            threading.Event().wait(0.001)
        os.kill(int(future.run.worker.split()[1]), signal.SIGKILL)
    error = future.exception(timeout=WAIT)
    wrong = []
    if time.monotonic() - began > SOON:
        wrong.append(f"it took {time.monotonic() - began:.1f} s")
    if not (
        isinstance(error, errors.ExecutorError)
        and f"action dies() (run {future.run.id}, attempt 1) was lost" in str(error)
        and told in str(error)
        and any(f"process {pid}," in str(error) for pid in before)
    ):
        wrong.append(f"it ended with {error!r}")
    lost = [other for other in [first, *others] if other.exception(timeout=WAIT)]
    if len(lost) > PREFETCHED:  # they run on the other worker until loky has noticed, and nobody hears how they end
        wrong.append(f"{len(lost)} others were lost")
    wrong += [str(one.exception()) for one in lost if "was ended because another one" not in str(one.exception())]
    wrong += [f"{x} gave {o.result()}" for x, o in enumerate(others) if o not in lost and o.result() != 2 * x]
    ran = Counter(map(int, Path(log).read_text().split()))
    wrong += [f"{x} ran {ran[x]} times" for x in range(load) if ran[x] > 1 or (ran[x] == 0 and others[x] not in lost)]
    if note.start(path=log, x=7).result(timeout=WAIT) != 14:
        wrong.append("the next one is wrong")
    if left := before & workers_of(os.getpid()):
        wrong.append(f"workers {left} go on")
    return wrong


@pytest.mark.parametrize("load", [0, MANY])
@pytest.mark.parametrize("how", DEATHS)
def test_a_worker_that_dies(how: str, load: int, tmp_path: Path) -> None:
    """Its run fails soon, and names itself, the process and how that ended; the others run, none of them twice."""
    assert deaths_end(how, tmp_path, load) == []


def test_a_kernel_that_does_not_know_what_had_begun_is_caught(tmp_path: Path, monkeypatch: Any) -> None:
    """Control: without the last words of the dead, what had begun runs again."""
    monkeypatch.setattr(processes._Begun, "last_words", lambda *_: [])
    assert deaths_end("exit code 3", tmp_path, 0) != []


def test_the_retry_policy_decides_what_runs_again(tmp_path: Path) -> None:
    """A lost attempt is one that failed: recorded, and followed by another."""

    @onix.action(retry=onix.RetryPolicy(initial_interval=0.01, maximum_attempts=3))
    def dies_once(path: str) -> int:
        attempt = onix.current_run().attempt  # type: ignore[union-attr]
        if attempt == 1:
            os._exit(9)
        return attempt

    future = dies_once.start(path="")
    assert future.result(timeout=WAIT) == 2
    assert future.run is not None
    (span,) = future.run.spans or ()
    assert "died with exit code 9" in str(span.error)


def test_workers_that_die_at_their_start_are_told(monkeypatch: Any) -> None:
    """A run does not wait for ever for workers that never come."""
    monkeypatch.setattr(processes, "_begin_worker", lambda *_: os._exit(3))
    error = note.start(path="/dev/null", x=1).exception(timeout=WAIT)
    assert isinstance(error, errors.ExecutorError)
    assert "the worker processes die at their start" in str(error)


# Stop, and the end of the kernel.

STOPPED = """
    import contextlib, os, signal, sys, threading
    import onix_nb as onix
    {broken}
    os.setpgrp()
    stops = []
    signal.signal(signal.SIGINT, lambda *_: stops.append(1))

    @onix.action
    def work(x):
        return sum(range(200_000)) and x

    ended = threading.Event()
    def stop():
        while not ended.wait(0.005):
            os.killpg(0, signal.SIGINT)

    stopping = threading.Thread(target=stop)
    stopping.start()
    results, all_of_them = [], []
    for x in range(3):
        onix.configure(executor="processes", max_workers=1 + x % 2)  # other workers each time
        futures = [work.start(x=x) for x in range(20)]
        onix.wait(futures)
        all_of_them += futures
        results.append([None if future.exception() else future.result() for future in futures])
    ended.set()
    stopping.join()
    wrong = [str(f.exception()) for f in all_of_them if f.exception()] + [o for o in results if o != list(range(20))]
    print(len(stops) > 3, wrong)
"""


def test_stop_reaches_no_worker(script: Any) -> None:
    """SIGINT goes to the whole process group: workers that start and workers that run go on."""
    assert script(STOPPED.format(broken="")).passes(env={"PYTHONWARNINGS": "ignore"}) == "True []\n"


def test_workers_that_hear_stop_are_caught(script: Any) -> None:
    """Control: without the two lines that keep it from them, runs are lost."""
    broken = """
    from onix_nb.executors import processes
    processes._undisturbed = contextlib.nullcontext
    """.strip()
    assert "True []" not in script(STOPPED.format(broken=broken)).run(env={"PYTHONWARNINGS": "ignore"})[1]


STARTED = """
    import _posixsubprocess, contextlib, signal
    import onix_nb as onix
    {broken}
    start, reached = _posixsubprocess.fork_exec, []

    def watched(command, *others):
        if b"loky.backend.popen_loky_posix" in command:
            reached.append(signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return start(command, *others)

    _posixsubprocess.fork_exec = watched
    onix.configure(executor="processes", max_workers=2)

    @onix.action
    def work(x):
        return x

    onix.wait([work.start(x=x) for x in range(4)])
    print(reached)
"""


@pytest.mark.parametrize(
    ("broken", "reached"),
    [
        ("", [False, False]),
        ("from onix_nb.executors import processes; processes._undisturbed = contextlib.nullcontext", [True, True]),
    ],
    ids=["ours", "control"],
)
def test_stop_reaches_no_worker_that_starts(script: Any, broken: str, reached: list[bool]) -> None:
    """It is blocked when each of them begins, the first one, too, with which others of loky's and Python's start."""
    assert script(STARTED.format(broken=broken)).passes() == f"{reached}\n"


ENDING = """
    import os, signal, sys, threading, time
    import onix_nb as onix

    @onix.action
    def held(path):
        open(path + str(os.getpid()), "w").close()
        time.sleep(3600)

    onix.configure(executor="processes", max_workers=2)
    futures = [held.start(path=sys.argv[1] + "/") for _ in range(4)]
    while len(os.listdir(sys.argv[1])) < 2:
        time.sleep(0.01)
    print(onix.engine.session._session.executors["processes"]._shared.folder, flush=True)
    {end}
"""
ENDINGS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "terminated": "os.kill(os.getpid(), signal.SIGTERM)",
    "exits": "sys.exit(0)",
    "exits at once": "os._exit(0)",
    "interrupted": "signal.raise_signal(signal.SIGINT)",
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_the_end_of_the_kernel_ends_its_workers(script: Any, tmp_path: Path, end: str) -> None:
    """However it ends: they end soon, whatever they do, and the memory that they shared goes."""
    (tmp_path / "pids").mkdir()
    began = time.monotonic()
    _, out, _ = script(ENDING.format(end=end)).run(str(tmp_path / "pids"))
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2
    folder = Path(out.strip())
    deadline = time.monotonic() + SOON
    while not (all(map(gone, pids)) and not folder.exists()):
        assert time.monotonic() < deadline, f"{pids} or {folder} are left behind after {end}"
        threading.Event().wait(0.01)
    assert time.monotonic() - began < WAIT


def test_another_number_of_workers_leaves_what_runs_where_it_is(tmp_path: Path) -> None:
    """The old workers end when their last run has; the new ones take what starts from then on."""
    os.mkfifo(tmp_path / "go")

    @onix.action
    def held(folder: str) -> int:
        with open(f"{folder}/go") as go:
            go.read()
        return os.getpid()

    first = held.start(folder=str(tmp_path))
    with onix.configure(max_workers=1):
        assert note.start(path=os.devnull, x=1).result(timeout=WAIT) == 2
        assert len(workers_of(os.getpid())) == 3
        with open(tmp_path / "go", "w"):
            pass
        old = first.result(timeout=WAIT)
        until(lambda: old not in (left := workers_of(os.getpid())) and len(left) == 1)


def test_workers_without_work_end() -> None:
    """The next call starts others; nobody listens to the old ones any more."""
    assert note.start(path=os.devnull, x=1).result(timeout=WAIT) == 2
    session = engine._session
    assert session is not None
    executor: Any = session.executors["processes"]
    pool = executor._pool
    executor.rest(pool)  # as after some minutes
    until(lambda: not workers_of(os.getpid()))
    until(lambda: pool.broken)
    assert note.start(path=os.devnull, x=2).result(timeout=WAIT) == 4
    assert executor._pool is not pool


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_they_rest_after_a_while(busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there was nothing to do from one look to the next; not while something runs."""
    rested: list[object] = []
    monkeypatch.setattr(processes.Processes, "rest", lambda self, pool: rested.append(pool))
    looks = iter([False, False, True])

    pool = object.__new__(processes._Pool)
    pool._owner, pool._calls, pool._sent = processes.Processes(), 1, {"1": object()} if busy else {}

    class Looks:
        def wait(self, seconds: float) -> bool:
            return next(looks)

    pool._retired = Looks()  # type: ignore[assignment]
    pool._tire()
    assert rested == ([] if busy else [pool])


def test_memory_is_given_back(tmp_path: Path) -> None:
    """The file of a big argument goes when the last call that takes it has ended, and that of a result when it is read."""
    numpy = pytest.importorskip("numpy")

    @onix.action
    def add(array: Any) -> Any:
        return array + 1

    big = numpy.zeros(1_000_000)
    futures = [add.start(array=big) for _ in range(4)]
    assert [future.result(timeout=WAIT).sum() for future in futures] == [1_000_000] * 4
    session = engine._session
    assert session is not None
    folder = Path(session.executors["processes"]._shared.folder)  # type: ignore[attr-defined]
    left = [path.name for path in folder.iterdir() if path.stat().st_size >= big.nbytes]
    assert left == []
