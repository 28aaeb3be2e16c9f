"""What every test gets: a check that it leaves nothing behind, and scripts in processes of their own."""

from __future__ import annotations

import gc
import itertools
import os
import random
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
from tests.executors.cluster import DaskCluster

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
