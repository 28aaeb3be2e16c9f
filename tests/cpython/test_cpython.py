"""CPython's own tests for futures, waits and executors, run against ours."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Iterator

import pytest

import onix_nb as onix

from . import suite

# The tests that reach into private attributes of ThreadPoolExecutor, or into arguments that
# onix.Executor does not have: everything that is not run, with the reason.
EXCEPTED = {
    "ThreadPoolShutdownTest.test_threads_terminate": "counts executor._threads",
    "ThreadPoolShutdownTest.test_context_manager_shutdown": "joins executor._threads",
    "ThreadPoolShutdownTest.test_del_shutdown": "joins executor._threads",
    "ThreadPoolShutdownTest.test_shutdown_no_wait": "joins executor._threads",
    "ThreadPoolShutdownTest.test_thread_names_assigned": "passes thread_name_prefix=",
    "ThreadPoolShutdownTest.test_thread_names_default": "reads the names of executor._threads",
    "ThreadPoolExecutorTest.test_saturation": "counts executor._threads",
    "ThreadPoolExecutorTest.test_idle_thread_reuse": "counts executor._threads",
    "ThreadPoolExecutorTest.test_hang_global_shutdown_lock": "tests a private lock; tests/spec/ has our own of forks",
}
FEWEST = 45

try:
    CLASSES, MISSING = suite.load(), None
except suite.NoSuite as error:
    CLASSES, MISSING = {}, str(error)


@pytest.fixture(autouse=True)
def _beyond_the_seed() -> Iterator[None]:
    with onix.configure(strict=False):
        yield


def _without_excepted(name: str, tests: type[unittest.TestCase]) -> type[unittest.TestCase]:
    left_out = {key.partition(".")[2]: None for key in EXCEPTED if key.startswith(f"{name}.")}
    return type(name, (tests,), {"__module__": __name__, **left_out})


globals().update({name: _without_excepted(name, tests) for name, tests in CLASSES.items()})


@pytest.mark.skipif(
    MISSING is not None and sys.version_info[:2] != (3, 11), reason=f"only 3.11 may not do without: {MISSING}"
)
def test_the_suite_is_there() -> None:
    """CPython's tests were found, and enough of them run."""
    assert MISSING is None, MISSING
    loader = unittest.TestLoader()
    assert set(CLASSES) == set(suite.CLASSES)
    assert sum(len(loader.getTestCaseNames(globals()[name])) for name in CLASSES) >= FEWEST


@pytest.mark.skipif(not CLASSES, reason="the test above says that the suite is missing")
def test_every_exception_still_exists() -> None:
    """What the table of exceptions names is in the suite."""
    for excepted in EXCEPTED:
        name, _, test = excepted.partition(".")
        assert callable(getattr(CLASSES[name], test, None)), excepted


class _Mute(onix.Future):  # type: ignore[type-arg]
    """A broken variant: it settles without telling anybody, as often as asked."""

    def set_result(self, result: object) -> None:
        self._result, self._state = result, "FINISHED"


@pytest.mark.skipif(not CLASSES, reason="the test above says that the suite is missing")
def test_a_broken_future_is_caught() -> None:
    """CPython's tests fail for a future that calls nobody back and settles twice (control)."""
    tests = suite.load(_Mute)["FutureTests"]
    result = unittest.TestResult()
    tests("test_multiple_set_result").run(result)
    tests("test_done_callback_with_result").run(result)
    assert len(result.failures) + len(result.errors) == 2
