"""What every test gets: a check that it leaves nothing behind, and scripts in processes of their own."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from onix_nb import config
from onix_nb.engine import session as engine

# Seconds that what a test started may take to be gone: a future is done a moment before its run
# leaves the session's books, and a thread a moment after its last line.
GRACE = 5.0


def _unfinished() -> list[str]:
    session = engine._session
    return [] if session is None else [f"{run.kind} {run.name} (run {run.id})" for run in session.unfinished.copy()]


def _new_threads(before: set[threading.Thread]) -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread not in before
        and not thread.daemon
        and thread is not threading.current_thread()
        and thread.name != "ExecutorManagerThread"  # loky's: it belongs to the session's worker processes
    ]


def _until_empty(look: Callable[[], list[str]]) -> list[str]:
    """What `look` still finds after a grace. Looks again and again: no event tells of a book-keeping step."""
    deadline = time.monotonic() + GRACE
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


def _cancel_everything() -> None:
    """So that one test's leftovers fail that test only."""
    session = engine._session
    for future in [] if session is None else session.futures():
        future.detach()
        future.cancel(interrupt=True)


@pytest.fixture(autouse=True, scope="module")
def collects_its_own_garbage() -> None:
    """What other modules have left is not looked through again and again: many tests call `gc.collect()`."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fails the test that leaves runs, threads or changed settings to the next one."""
    threads = set(threading.enumerate())
    settings, interval, threshold = config.current, sys.getswitchinterval(), gc.get_threshold()
    yield
    left = []
    if config.current != settings:
        left.append(f"settings {config.current}")
        config._install(settings)
    if sys.getswitchinterval() != interval:
        left.append(f"switch interval {sys.getswitchinterval()}")
        sys.setswitchinterval(interval)
    if gc.get_threshold() != threshold:
        left.append(f"gc threshold {gc.get_threshold()}")
        gc.set_threshold(*threshold)
    if runs := _until_empty(_unfinished):
        left.append(f"unfinished: {', '.join(runs[:10])}" + (f" and {len(runs) - 10} more" if len(runs) > 10 else ""))
        _cancel_everything()
    if names := _until_empty(lambda: _new_threads(threads)):
        left.append(f"threads: {', '.join(names)}")
    if left:
        pytest.fail(f"the test left behind {'; '.join(left)}", pytrace=False)


class Script:
    """Python source as a file that runs in a process of its own, with onix's settings at their defaults."""

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        path.write_text(textwrap.dedent(source), encoding="utf-8")

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """This process's environment without settings of onix, and with `extra`."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("ONIX_")}
        return {**own, "PYTHONUNBUFFERED": "1", **extra}

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 40) -> tuple[int, str, str]:
        """The exit code, stdout and stderr; a script that takes longer than `timeout` seconds fails the test."""
        try:
            ended = subprocess.run(
                [sys.executable, str(self.path), *arguments],
                env=self.environment(env or {}),
                cwd=self.path.parent,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"the script hung; stdout: {error.stdout!r}, stderr: {error.stderr!r}", pytrace=False)
        return ended.returncode, ended.stdout, ended.stderr

    def passes(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 40) -> str:
        """Its stdout, after it ended well and wrote nothing to stderr."""
        code, out, err = self.run(*arguments, env=env, timeout=timeout)
        assert (code, err) == (0, ""), f"exit code {code}\nstdout: {out}\nstderr: {err}"
        return out


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Script]:
    """Makes a `Script` of Python source."""
    return lambda source: Script(tmp_path / "script.py", source)


class Interleaved:
    """Traces a thread, and lets others go first at some of its instructions.

    A short switch interval alone is not enough: a call that takes a few microseconds is over before
    another thread has woken up.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(("onix_nb", "tests.")):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and self._random() < 0.02:
            time.sleep(1e-6)
        return self


@pytest.fixture
def interleaved() -> Callable[[], Interleaved | None]:
    """Makes functions for `sys.settrace`, each with other pauses; the same ones in each run of the test.

    None on Python 3.12, which crashes when several threads trace instructions; races are rarer there.
    """
    seeds = itertools.count()
    return lambda: None if sys.version_info[:2] == (3, 12) else Interleaved(next(seeds))


# What `python -c` runs as `dask`: it ends when its stdin does, so that it outlives nobody who started it.
_DASK = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
from dask.__main__ import main
main()
"""


class DaskCluster:
    """`dask scheduler` and two `dask worker`, `a` and `b`, of one thread each, as processes on loopback."""

    PATIENCE = 30.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.executor = f"dask:{self.address}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts what does not run, and waits until it is there."""
        if not self._runs("scheduler"):
            self.close()  # its workers, which are about to end
            self._start("scheduler", "--port", self._port)
        for name in ("a", "b"):
            if not self._runs(name):
                self.start_worker(name, "--resources", f"{name}=1")
        self.await_workers("a", "b")

    def start_worker(self, name: str, *options: str) -> None:
        """Starts another worker."""
        self._start(
            name, self.address, "--name", name, "--nthreads", "1", "--no-nanny", "--local-directory",
            str(self._folder), "--memory-limit", "0", *options,
        )  # fmt: skip

    def _start(self, name: str, *arguments: str) -> None:
        command = "scheduler" if name == "scheduler" else "worker"
        with open(self._folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-c", _DASK, command, "--host", "127.0.0.1", "--no-dashboard", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _runs(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def await_workers(self, *names: str) -> dict[str, str]:
        """The addresses of these workers, once they are there and nobody else."""
        import distributed

        deadline = time.monotonic() + self.PATIENCE
        with distributed.Client(self.address, timeout=self.PATIENCE, set_as_default=False) as client:
            while True:
                workers = client.scheduler_info(n_workers=-1)["workers"]
                found = {str(worker["name"]): address for address, worker in workers.items()}
                if set(found) == set(names):
                    return found
                assert time.monotonic() < deadline, f"workers {found} instead of {names}"
                time.sleep(0.02)

    def tasks_of(self, name: str) -> int:
        """How many tasks a worker has, by its own account."""
        import distributed

        address = self.await_workers("a", "b")[name]
        with distributed.Client(self.address, set_as_default=False) as client:
            found: dict[str, int] = client.run(lambda dask_worker: len(dask_worker.state.tasks), workers=[address])
        return found[address]

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def kill(self, *names: str) -> None:
        """Kills processes, and waits for their end."""
        for name in names:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._processes[name].pid, signal.SIGKILL)
        for name in names:
            process = self._processes.pop(name)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def close(self) -> None:
        self.kill(*self._processes)


@pytest.fixture(scope="session")
def _dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    cluster = DaskCluster(tmp_path_factory.mktemp("dask"))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def dask_cluster(_dask_cluster: DaskCluster) -> DaskCluster:
    """A cluster that is whole, whatever an earlier test did to it."""
    _dask_cluster.start()
    return _dask_cluster
