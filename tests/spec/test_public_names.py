"""P14: the public names, what their documentation owes to the specification, and what messages call them."""

from __future__ import annotations

import inspect
import pickle
import re
import types
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix

NAMES = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "Executor",
    "Future",
    "RetryPolicy",
    "action",
    "as_completed",
    "configure",
    "current_run",
    "errors",
    "flow",
    "runs",
    "sleep",
    "timeline",
    "wait",
]

# Each error with its bases.
ERRORS = {
    "OnixError": (Exception,),
    "ActionCallError": (onix.errors.OnixError,),
    "AttemptTimeoutError": (onix.errors.OnixError, TimeoutError),
    "DeadlockError": (onix.errors.OnixError, RuntimeError),
    "ExecutorError": (onix.errors.OnixError, RuntimeError),
    "JournalBusyError": (onix.errors.JournalError,),
    "JournalDamagedError": (onix.errors.JournalError,),
    "JournalError": (onix.errors.OnixError,),
    "JournalRefusedError": (onix.errors.JournalError,),
    "JournalValueError": (onix.errors.JournalError,),
    "JournalVersionError": (onix.errors.JournalError,),
    "JournalWriteError": (onix.errors.JournalError,),
    "LeakedFutureError": (onix.errors.OnixError,),
    "NondeterminismError": (onix.errors.OnixError, RuntimeError),
    "RecordedError": (onix.errors.OnixError,),
    "RunCancelled": (BaseException,),
    "TransferError": (onix.errors.ExecutorError,),
    "LeakedFutureWarning": (UserWarning,),
    "LostOutcomeWarning": (UserWarning,),
    "UnseenFailureWarning": (UserWarning,),
    "UnstableArgumentWarning": (UserWarning,),
}

CALLABLE = [name for name in NAMES if not name.isupper() and name != "errors"]


@onix.action
def double(x: int) -> int:
    """Twice x."""
    return 2 * x


@onix.flow
def twice(x: int) -> int:
    """Twice x, by an action."""
    return double(x=x)


def test_the_public_names_are_exactly_these() -> None:
    """`__all__` is pinned: a new name is a decision."""
    assert onix.__all__ == NAMES


def test_star_import_gives_the_public_names() -> None:
    """And nothing else."""
    names: dict[str, Any] = {}
    exec("from onix_nb import *", names)
    assert sorted(set(names) - {"__builtins__"}) == sorted(NAMES)


def test_no_other_name_looks_public() -> None:
    """What `onix.<Tab>` offers beyond them are submodules and the hooks that IPython calls."""
    others = {name for name in vars(onix) if not name.startswith("_")} - set(NAMES)
    leftovers = {name for name in others if not isinstance(getattr(onix, name), types.ModuleType)}
    assert leftovers - {"annotations", "TYPE_CHECKING", "Any"} == {
        "load_ipython_extension",
        "unload_ipython_extension",
    }


def test_the_conditions_are_those_of_the_stdlib() -> None:
    """So that code for `concurrent.futures.wait` reads the same."""
    import concurrent.futures as stdlib

    assert onix.ALL_COMPLETED == stdlib.ALL_COMPLETED
    assert onix.FIRST_COMPLETED == stdlib.FIRST_COMPLETED
    assert onix.FIRST_EXCEPTION == stdlib.FIRST_EXCEPTION


BEYOND: dict[str, Callable[..., Any]] = {
    "as_completed": onix.as_completed,
    "RetryPolicy": onix.RetryPolicy,
    "Executor": onix.Executor,
    "sleep": onix.sleep,
    "runs": onix.runs,
    "timeline": onix.timeline,
    "current_run": onix.current_run,
    "detach": onix.Future.detach,
    "cancel": onix.Future.cancel,
    "wait(timeout)": onix.wait,
    "configure": onix.configure,
    "action(retry, timeout)": onix.action,
}


@pytest.mark.parametrize("member", BEYOND.values(), ids=BEYOND.keys())
def test_what_goes_beyond_the_specification_says_so(member: Any) -> None:
    """Its docstring says "not in Oryonix"."""
    assert "not in oryonix" in " ".join((inspect.getdoc(member) or "").lower().split())


@pytest.mark.parametrize("decorator", [onix.action, onix.flow])
def test_async_def_says_that_it_goes_beyond_the_specification(decorator: Any) -> None:
    """In the paragraph that tells of it."""
    paragraphs = [" ".join(part.lower().split()) for part in re.split(r"\n\s*\n", inspect.getdoc(decorator) or "")]
    told = [part for part in paragraphs if "async def" in part]
    assert told
    assert any("not in oryonix" in part for part in told), told


# Errors


def test_the_tree_of_errors_is_exactly_this() -> None:
    """Names and bases are pinned."""
    assert sorted(onix.errors.__all__) == sorted(ERRORS)
    defined = {
        name
        for name, value in vars(onix.errors).items()
        if isinstance(value, type) and value.__module__ == "onix_nb.errors"
    }
    assert defined == set(ERRORS)


@pytest.mark.parametrize(("name", "bases"), ERRORS.items())
def test_each_error_has_its_bases(name: str, bases: tuple[type, ...]) -> None:
    """`except onix.errors.OnixError` catches all of ours, and no cancel."""
    error = getattr(onix.errors, name)
    assert error.__bases__ == bases


def test_a_cancel_is_no_exception_that_code_swallows() -> None:
    """`except Exception` lets RunCancelled pass."""
    assert not issubclass(onix.errors.RunCancelled, Exception)


def test_an_attempts_timeout_is_told_from_a_waits() -> None:
    """AttemptTimeoutError is a TimeoutError, and a wait's TimeoutError is none of ours."""
    assert issubclass(onix.errors.AttemptTimeoutError, TimeoutError)
    assert not issubclass(TimeoutError, onix.errors.OnixError)


@pytest.mark.parametrize("name", ERRORS)
def test_errors_can_be_pickled(name: str) -> None:
    """For queues and other processes; type and message come back."""
    error = getattr(onix.errors, name)("what happened")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.args == error.args


# What messages call them


@pytest.mark.parametrize("name", CALLABLE)
def test_a_public_name_says_that_it_is_onix_nbs(name: str) -> None:
    """Its `__module__` is the door, not a file behind it."""
    assert getattr(onix, name).__module__ == "onix_nb"


def test_what_public_functions_return_says_so_too() -> None:
    """Runs, attempts, actions and flows, and the named tuple of `wait`."""
    future = double.start(x=1)
    future.result()
    assert future.run is not None
    objects = [future, future.run, onix.runs([future]), onix.wait([future]), double, twice]
    assert {type(value).__module__ for value in objects} == {"onix_nb"}
    assert repr(type(future)) == "<class 'onix_nb.Future'>"
    assert repr(onix.wait([])) == "DoneAndNotDone(done=set(), not_done=set())"


def test_a_traceback_names_an_error_as_the_user_can_catch_it() -> None:
    """`onix_nb.errors.DeadlockError`, importable under just that name."""
    import traceback

    for name in ERRORS:
        error = getattr(onix.errors, name)("what happened")
        assert traceback.format_exception_only(error) == [f"onix_nb.errors.{name}: what happened\n"]


@pytest.mark.parametrize("value", [onix.RetryPolicy(maximum_attempts=4), onix.Future, onix.wait, onix.Executor])
def test_public_values_can_be_pickled(value: Any) -> None:
    """By their public name."""
    assert pickle.loads(pickle.dumps(value)) == value
    assert b"onix_nb" in pickle.dumps(value)
    assert b"onix_nb.model" not in pickle.dumps(value)


def test_a_decorated_function_says_what_it_is() -> None:
    """In a notebook's output and in messages."""
    assert repr(double) == "<onix action double>"
    assert repr(twice) == "<onix flow twice>"
    assert str(double) == "action double()"


def test_the_version_is_there() -> None:
    """As packages have it."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", onix.__version__)
