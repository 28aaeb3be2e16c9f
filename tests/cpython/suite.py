"""Where CPython's own tests of futures are, and how they are made to test ours.

A Python built from source has them as `test.test_concurrent_futures`. Where they were left out,
Debian's package of the test suite is fetched once, into `.cache/`.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
import subprocess
import sys
import types
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import onix_nb as onix

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "cpython"
VERSION = "{}.{}".format(*sys.version_info[:2])
# The module of 3.11 is one file; later ones are a package of these.
PARTS = ("test_future", "test_wait", "test_as_completed", "test_shutdown", "test_thread_pool")
CLASSES = (
    "FutureTests",
    "ThreadPoolWaitTests",
    "ThreadPoolAsCompletedTest",
    "ThreadPoolShutdownTest",
    "ThreadPoolExecutorTest",
)


class OnixExecutor(onix.Executor):
    """Ours, under a name that the scripts of the suite can be made to import."""


class NoSuite(Exception):
    """CPython's tests can't be had here; the message says what was tried."""


def locate() -> None:
    """Makes `test.test_concurrent_futures` importable.

    Raises:
        NoSuite: It is neither in this Python nor to be had from Debian.
    """
    if importlib.util.find_spec("test.test_concurrent_futures") is not None:
        return
    package = f"libpython{VERSION}-testsuite"
    folder = CACHE / f"usr/lib/python{VERSION}/test"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        download = ["apt-get", "download", "-q", package]
        try:
            if subprocess.run(download, cwd=CACHE, capture_output=True).returncode:
                subprocess.run(["apt-get", "update", "-q"], cwd=CACHE, capture_output=True)
                subprocess.run(download, cwd=CACHE, capture_output=True, check=True)
            archive = next(CACHE.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg", "-x", archive, CACHE], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            raise NoSuite(
                f"no test.test_concurrent_futures in this Python, nor {package} from Debian: {error}"
            ) from error
    import test

    if str(folder) not in test.__path__:
        test.__path__.append(str(folder))
    importlib.invalidate_caches()


class _Futures(types.ModuleType):
    """What the tests see as `concurrent.futures`: the real one with ours in its place."""

    ThreadPoolExecutor = OnixExecutor
    Future = onix.Future
    wait = staticmethod(onix.wait)
    as_completed = staticmethod(onix.as_completed)

    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent.futures, name)


def in_child(source: str) -> str:
    """A script of the suite, importing ours, and without the suite's own package."""
    source = source.replace(
        "from concurrent.futures import OnixExecutor", "from onix_nb import Executor as OnixExecutor"
    )
    for module in ("test.test_concurrent_futures", "test.test_concurrent_futures.util"):
        source = source.replace(
            f"from {module} import sleep_and_print",
            "sleep_and_print = lambda t, text: (__import__('time').sleep(t), print(text, flush=True))",
        )
    return source


@contextmanager
def ours(future: type) -> Iterator[None]:
    """While the suite is imported: its futures and its executor are ours."""
    with (
        mock.patch.object(concurrent.futures._base, "Future", future),
        mock.patch.object(concurrent.futures, "ThreadPoolExecutor", OnixExecutor),
    ):
        yield


def load(future: type = onix.Future) -> dict[str, type[unittest.TestCase]]:
    """The test classes of CPython, testing `future`, `onix.wait` and `onix.Executor`."""
    locate()
    for name in [name for name in sys.modules if name.startswith("test.test_concurrent_futures")]:
        del sys.modules[name]  # each load gets modules, and futures in them, of its own
    with ours(future):
        suite = importlib.import_module("test.test_concurrent_futures")
        modules = [suite]
        if hasattr(suite, "__path__"):
            modules = [importlib.import_module(f"test.test_concurrent_futures.{part}") for part in PARTS]
            modules += [sys.modules[f"test.test_concurrent_futures.{part}"] for part in ("util", "executor")]
    found: dict[str, type[unittest.TestCase]] = {}
    for module in modules:
        module.futures = _Futures("futures")  # type: ignore[attr-defined]
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = _in_children(module.assert_python_ok)
        found |= {name: getattr(module, name) for name in CLASSES if hasattr(module, name)}
    return found


def _in_children(run: Any) -> Any:
    return lambda option, source, **env: run(option, in_child(source), **env)
