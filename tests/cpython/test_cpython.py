"""CPython's own tests of futures, waits and executors, run against ours. Each of them is a test here."""

from __future__ import annotations

import asyncio
import io
import unittest
from collections.abc import Generator, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, ClassVar
from unittest import mock

import pytest

import onix_nb as onix

from . import suite

# One of CPython's tests forks on purpose, while threads run.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

# Everything of the suite that is not run against ours, with the reason. Python's versions differ in
# what they have of the kinds that end in *; what has a name of its own is in each of them.
EXCEPTED = {
    "ProcessPool*": "tests processes: onix.Executor runs calls on threads",
    "*Initializer*": "passes initializer=, which onix.Executor does not have",
    "ThreadPoolShutdownTest.test_threads_terminate": "counts executor._threads",
    "ThreadPoolShutdownTest.test_context_manager_shutdown": "joins executor._threads",
    "ThreadPoolShutdownTest.test_del_shutdown": "joins executor._threads",
    "ThreadPoolShutdownTest.test_shutdown_no_wait": "joins executor._threads",
    "ThreadPoolShutdownTest.test_thread_names_assigned": "passes thread_name_prefix=, which onix.Executor does not have",
    "ThreadPoolShutdownTest.test_thread_names_default": "reads the names of executor._threads",
    "ThreadPoolExecutorTest.test_saturation": "counts executor._threads",
    "ThreadPoolExecutorTest.test_idle_thread_reuse": "counts executor._threads",
}

# How many of CPython's tests run at least: 75 of 3.11's do, 76 of 3.13's.
FLOOR = 70

try:
    CASES, MISSING = suite.load(), None
except suite.NoSuite as error:
    CASES, MISSING = {}, str(error)


def _excepted(name: str, test: str) -> list[str]:
    return [pattern for pattern in EXCEPTED if fnmatchcase(f"{name}.{test}", pattern)]


def _selected() -> Iterator[type[unittest.TestCase]]:
    for name, case in CASES.items():
        selected = suite.without(case, [test for test in suite.tests(case) if _excepted(name, test)])
        selected.__module__ = __name__
        if suite.tests(selected):
            yield selected


SELECTED = {case.__name__: case for case in _selected()}
globals().update(SELECTED)  # where pytest finds them


@pytest.fixture(autouse=True)
def _beyond_the_seed() -> Iterator[None]:
    """CPython's tests wait for FIRST_EXCEPTION, which strict refuses."""
    with onix.configure(strict=False):
        yield


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Iterator[None]:
    """Makes CPython's warning about a test that leaves a thread, or a child process, a failure."""
    if MISSING is not None:
        pytest.fail(MISSING, pytrace=False)
    from test import support

    support.environment_altered = False
    yield
    assert not support.environment_altered, "CPython's check after the test found a thread or a process left behind"


@pytest.fixture(autouse=True, scope="module")
def _event_loop_policy() -> Iterator[None]:
    """Takes back what the tests of `asyncio.wrap_future` do to the main thread, as CPython's module does."""
    yield
    asyncio.set_event_loop_policy(None)


def test_the_suite_is_there() -> None:
    """CPython's tests were found, and enough of them run."""
    count = sum(len(suite.tests(case)) for case in SELECTED.values())
    assert count >= FLOOR, f"only {count} of CPython's tests run: {sorted(SELECTED)}"


@pytest.mark.parametrize("pattern", EXCEPTED)
def test_what_is_excepted_is_in_the_suite(pattern: str) -> None:
    """Each line of the table of exceptions names tests that the suite still has."""
    names = [(name, test) for name, case in CASES.items() for test in suite.tests(case)]
    assert any(pattern in _excepted(*name) for name in names)


class _Mute(onix.Future[Any]):
    """A future that settles without telling anybody: no waiter, no callback."""

    def set_result(self, result: object) -> None:
        self._result, self._state = result, "FINISHED"


class _Uncancelled(onix.Future[Any]):
    """A future that can't be cancelled."""

    def cancel(self, *, interrupt: bool = False) -> bool:
        return False


def _wait_for_all(fs: Any, timeout: float | None = None, return_when: str = onix.ALL_COMPLETED) -> Any:
    """A wait that does not know when to return."""
    return onix.wait(fs, timeout)


def _one_by_one(
    fs: Iterable[onix.Future[Any]], timeout: float | None = None
) -> Generator[onix.Future[Any], None, None]:
    """An as_completed that yields in the order of the argument, duplicates too."""
    for future in list(fs):
        onix.wait([future], timeout)
        yield future


class _Stubborn(onix.Executor):
    """An executor that cancels nothing when it is shut down."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait)


@pytest.mark.parametrize(
    ("name", "broken", "test"),
    [
        ("Future", _Mute, "FutureTests.test_done_callback_with_result"),
        ("Future", _Mute, "FutureTests.test_multiple_set_result"),
        ("wait", _wait_for_all, "ThreadPoolWaitTests.test_first_completed_some_already_completed"),
        ("as_completed", _one_by_one, "ThreadPoolAsCompletedTest.test_duplicate_futures"),
        ("ThreadPoolExecutor", _Stubborn, "ThreadPoolShutdownTest.test_cancel_futures"),
        ("Future", _Uncancelled, "PyFutureTests.test_wrap_future_cancel"),
    ],
)
def test_a_broken_one_is_caught(name: str, broken: Any, test: str) -> None:
    """CPython's tests fail when one of ours is replaced by one that is broken (control)."""
    case, _, method = test.partition(".")
    result = unittest.TestResult()
    suite.load(**{name: broken})[case](method).run(result)
    assert (result.testsRun, len(result.failures) + len(result.errors)) == (1, 1), result


class _Lingering(onix.Executor):
    """An executor that keeps its threads when it is shut down."""

    made: ClassVar[list[onix.Executor]] = []

    def __init__(self, max_workers: int | None = None) -> None:
        super().__init__(max_workers)
        self.made.append(self)  # or it would let go of them when it is deleted

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def test_a_thread_left_behind_is_caught() -> None:
    """CPython's check after each of its tests sees a thread of an executor that was shut down (control)."""
    from test import support

    result = unittest.TestResult()
    with support.captured_stderr(), mock.patch.object(support.print_warning, "orig_stderr", io.StringIO()):
        suite.load(ThreadPoolExecutor=_Lingering)["ThreadPoolExecutorTest"]("test_submit").run(result)
    assert result.wasSuccessful()
    assert support.environment_altered
    support.environment_altered = False
    while _Lingering.made:
        onix.Executor.shutdown(_Lingering.made.pop())


def test_the_scripts_of_the_suite_run_ours() -> None:
    """What a script of the suite imports from `concurrent.futures` is ours, and it finds the suite (control)."""
    from test.support.script_helper import assert_python_ok

    source = """if 1:
        from concurrent.futures import ThreadPoolExecutor
        import test.test_concurrent_futures
        print(ThreadPoolExecutor.__module__)
        """
    assert suite.in_child(assert_python_ok)("-c", source)[1].split() == [b"onix_nb"]
