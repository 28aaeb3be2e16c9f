"""The policy of running a cell again, as a table; and what "unchanged" means."""

from __future__ import annotations

import datetime
import functools
import math
import pathlib
import types
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import onix_nb as onix
from onix_nb.model.fingerprint import LARGEST, of_arguments, of_code, of_function, of_value
from onix_nb.notebook.executions import Execution, Started, Takeover


class Fake(NamedTuple):
    """A run, as far as the policy looks at it."""

    status: str
    id: int


def started(text: str) -> list[Started]:
    """`a1 running, b2 failed`: functions and arguments, with how their runs are now."""
    found = []
    for number, part in enumerate(filter(None, text.split(", "))):
        what, status = part.split()
        found.append(Started(what[0], {"x": what[1:]}, Fake(status, number)))
    return found


def plan(before: str, asked: str, policy: str) -> tuple[str, str, str]:
    """For each start which one before stands for it (its number, or `new`); what is left, and what is cancelled."""
    past = started(before)
    takeover = Takeover(past, policy)  # type: ignore[arg-type]
    taken = [takeover.take(Started(what[0], {"x": what[1:]}, None).what) for what in asked.split()]
    numbers = " ".join("new" if one is None else str(one.run.id) for one in taken)
    return (
        numbers,
        " ".join(str(one.run.id) for one in takeover.left()),
        " ".join(str(one.run.id) for one in takeover.cancelled),
    )


# What the execution before had started, what the new one starts, the policy; then for each start the number of the
# one that stands for it or `new`, what goes on though nobody asks for it, and what is cancelled.
TABLE = [
    # Nothing before, or nothing unfinished: everything is started.
    ("", "a1", "attach", "new", "", ""),
    ("a1 succeeded", "a1", "attach", "new", "", ""),
    ("a1 succeeded, a2 failed, a3 cancelled", "a1 a2 a3", "attach", "new new new", "", ""),
    # Unfinished: the same start is taken over.
    ("a1 running", "a1", "attach", "0", "", ""),
    ("a1 pending", "a1", "attach", "0", "", ""),
    ("a1 running, a2 running", "a1 a2", "attach", "0 1", "", ""),
    ("a1 running, a2 running", "a2 a1", "attach", "1 0", "", ""),
    # Finished ones, too, while another is unfinished.
    ("a1 succeeded, a2 running", "a1 a2", "attach", "0 1", "", ""),
    ("a1 succeeded, a1 running", "a1 a1", "attach", "0 1", "", ""),
    # Failed and cancelled ones start again.
    ("a1 failed, a2 running", "a1 a2", "attach", "new 1", "", ""),
    ("a1 cancelled, a2 running", "a1 a2", "attach", "new 1", "", ""),
    ("a1 failed, a1 running", "a1 a1", "attach", "new 1", "", ""),
    ("a1 running, a1 failed", "a1 a1", "attach", "0 new", "", ""),
    # Another function (edited, or another default) or argument is started; what is not asked for goes on.
    ("a1 running", "b1", "attach", "new", "0", ""),
    ("a1 running", "a2", "attach", "new", "0", ""),
    ("a1 running, a2 running", "a2 a3", "attach", "1 new", "0", ""),
    ("a1 running, a2 succeeded", "a1", "attach", "0", "", ""),
    ("a1 running, a2 running", "", "attach", "", "0 1", ""),
    # Loops: the k-th start is the k-th start; more of them are started, fewer leave some.
    ("a1 running, a1 running, a1 running", "a1 a1 a1", "attach", "0 1 2", "", ""),
    ("a1 running, a1 running", "a1 a1 a1", "attach", "0 1 new", "", ""),
    ("a1 running, a1 running, a1 running", "a1", "attach", "0", "1 2", ""),
    ("a1 running, b1 running, a1 running", "a1 a1 b1", "attach", "0 2 1", "", ""),
    # The other policies take nothing over.
    ("a1 running", "a1", "restart", "new", "", "0"),
    ("a1 running, a2 succeeded, a3 pending", "a1 a2 a3", "restart", "new new new", "", "0 2"),
    ("a1 succeeded", "a1", "restart", "new", "", ""),
    ("a1 running", "a2", "restart", "new", "", "0"),
    ("a1 running", "a1", "parallel", "new", "", ""),
    ("a1 running, a1 running", "a1 a1", "parallel", "new new", "", ""),
]


@pytest.mark.parametrize(("before", "asked", "policy", "taken", "left", "cancelled"), TABLE)
def test_what_stands_for_a_start(before: str, asked: str, policy: str, taken: str, left: str, cancelled: str) -> None:
    """Row by row."""
    assert plan(before, asked, policy) == (taken, left, cancelled)


def test_the_table_is_long() -> None:
    """Enough rows to say what the policy is."""
    assert len(TABLE) >= 24


@pytest.mark.parametrize(
    ("source", "before", "taken"),
    [("futures = go()", "futures = go()", True), ("futures = go()", "futures = stay()", False)],
    ids=["the same cell", "an edited cell"],
)
def test_an_edited_cell_takes_nothing_over(source: str, before: str, taken: bool) -> None:
    """And tells what goes on."""
    first = Execution(before, None, "attach")
    first.started += started("a1 running")
    assert Execution(source, first, "attach")._takeover.expects is taken


# The same source, as if the cell had been run again.
def define(source: str, names: dict[str, Any] | None = None) -> Any:
    """What a cell defines last, in a notebook with `names`."""
    found = {"__name__": "__main__", "onix": onix, **(names or {})}
    exec(compile(source, "/tmp/ipykernel_1/1.py", "exec"), found)
    return list(found.values())[-1]


def is_same(first: Any, second: Any) -> bool:
    return of_function(first) == of_function(second)


BASE = "def work(x, y=1, *, z=2):\n    return x + y + z"
SAME = {
    "again": (BASE, BASE),
    "moved down": (BASE, "\n\n# a comment\n" + BASE),
    "docstring": (BASE, BASE.replace(":\n", ":\n    'What it does.'\n", 1)),
    "another docstring": ("def f():\n    'one'\n    return 1", "def f():\n    'two'\n    return 1"),
    "inner docstring": (
        "def f():\n    def g():\n        'one'\n        return 1\n    return g",
        "def f():\n    def g():\n        'two'\n        return 1\n    return g",
    ),
    "comment": (BASE, BASE.replace(":\n", ":  # why\n", 1)),
    "annotation": (BASE, BASE.replace("x,", "x: int,")),
    "recursive": ("def f(n):\n    return f(n - 1)",) * 2,
    "mutual": ("def g():\n    return f()\ndef f():\n    return g()",) * 2,
    "helper": ("def helper():\n    return 1\ndef f():\n    return helper()",) * 2,
    "unused global": ("n = 1\ndef f():\n    return 1", "n = 2\ndef f():\n    return 1"),
    "class": ("class C:\n    a = 1\n    def m(self):\n        return 2\ndef f():\n    return C()",) * 2,
    "decorated": ("import functools\n@functools.lru_cache\ndef f(x):\n    return x",) * 2,
    "action": ("@onix.action\ndef f(x):\n    return x",) * 2,
    "retry": ("@onix.action(retry=onix.RetryPolicy(non_retryable_error_types=(KeyError,)))\ndef f(x):\n    return x",)
    * 2,
    "lambda": ("f = lambda x: x + 1",) * 2,
    "closure": ("def make(n):\n    return lambda: n\nf = make(3)",) * 2,
    "partial": ("import functools\ndef g(x):\n    return x\nf = functools.partial(g, 1)",) * 2,
    "list global": ("sizes = [1, 2]\ndef f():\n    return sizes",) * 2,
}
CHANGED = {
    "code": (BASE, BASE.replace("x + y", "x - y")),
    "constant": ("def f():\n    return 1", "def f():\n    return 2"),
    "type of a constant": ("def f():\n    return 1", "def f():\n    return True"),
    "zero and minus zero": ("def f():\n    return 0.0", "def f():\n    return -0.0"),
    "text": ("f = lambda: 'one'", "f = lambda: 'two'"),
    "inner constant": ("def f():\n    return [1 for _ in x]", "def f():\n    return [2 for _ in x]"),
    "attribute": ("def f(x):\n    return x.a", "def f(x):\n    return x.b"),
    "default": (BASE, BASE.replace("y=1", "y=2")),
    "keyword default": (BASE, BASE.replace("z=2", "z=3")),
    "parameter": (BASE, BASE.replace("x, ", "x, w=0, ")),
    "closure": ("def make(n):\n    return lambda: n\nf = make(3)", "def make(n):\n    return lambda: n\nf = make(4)"),
    "plain global": ("n = 1\ndef f():\n    return n", "n = 2\ndef f():\n    return n"),
    "list global": ("n = [1]\ndef f():\n    return n", "n = [2]\ndef f():\n    return n"),
    "global of an inner function": (
        "n = 1\ndef f():\n    return lambda: n",
        "n = 2\ndef f():\n    return lambda: n",
    ),
    "helper": (
        "def helper():\n    return 1\ndef f():\n    return helper()",
        "def helper():\n    return 2\ndef f():\n    return helper()",
    ),
    "helper of a helper": (
        "n = 1\ndef h():\n    return n\ndef g():\n    return h()\ndef f():\n    return g()",
        "n = 2\ndef h():\n    return n\ndef g():\n    return h()\ndef f():\n    return g()",
    ),
    "action that a flow uses": (
        "@onix.action\ndef a():\n    return 1\n@onix.flow\ndef f():\n    return a()",
        "@onix.action\ndef a():\n    return 2\n@onix.flow\ndef f():\n    return a()",
    ),
    "method": (
        "class C:\n    def m(self):\n        return 1\ndef f():\n    return C()",
        "class C:\n    def m(self):\n        return 2\ndef f():\n    return C()",
    ),
    "retry": (
        "@onix.action(retry=2)\ndef f(x):\n    return x",
        "@onix.action(retry=3)\ndef f(x):\n    return x",
    ),
    "exception handler": (
        "def f():\n    try:\n        g()\n    except KeyError:\n        pass",
        "def f():\n    try:\n        g()\n    except OSError:\n        pass",
    ),
}


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME.keys())
def test_what_does_not_change_a_function(first: str, second: str) -> None:
    """Lines, files, docstrings, comments, and to define everything again."""
    assert is_same(define(first), define(second))


@pytest.mark.parametrize(("first", "second"), CHANGED.values(), ids=CHANGED.keys())
def test_what_changes_a_function(first: str, second: str) -> None:
    """Whatever may change what it returns."""
    assert not is_same(define(first), define(second))


def test_objects_are_compared_by_identity() -> None:
    """A global that is no plain value is the same as long as it is the same object, whatever is in it."""
    source, table = "def f():\n    return table", deque([1])
    first = of_function(define(source, {"table": table}))
    table.append(2)
    assert first == of_function(define(source, {"table": table}))
    assert first != of_function(define(source, {"table": deque([1])}))


def test_functions_of_libraries_count_by_name_and_code() -> None:
    """And by what they close over: a decorated function is the user's."""

    def library(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        wrapper.__module__ = "library"
        return wrapper

    one, two = define("def f():\n    return 1"), define("def f():\n    return 2")
    assert is_same(library(one), library(define("def f():\n    return 1")))
    assert not is_same(library(one), library(two))
    assert not is_same(math.sin, math.cos)


def test_no_code_of_the_user_runs() -> None:
    """Not to compare values, and not to read them."""

    class Touchy:
        def __eq__(self, other: object) -> bool:
            raise AssertionError

        def __hash__(self) -> int:
            raise AssertionError

        __repr__ = __str__ = __reduce__ = __len__ = __hash__  # type: ignore[assignment]

    value = Touchy()
    source = "def f(x=value):\n    return value"
    assert of_function(define(source, {"value": value})) == of_function(define(source, {"value": value}))
    assert of_arguments({"x": value}) == of_arguments({"x": value})
    assert of_arguments({"x": value}) != of_arguments({"x": Touchy()})


class Kind(str):
    """A text with a class of its own."""


EQUAL = [
    (1, 1),
    ("a" * 100, "a" * 100),
    (float("nan"), float("nan")),
    ([1, [2, {"k": (3, None)}]], [1, [2, {"k": (3, None)}]]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1, 2}, {2, 1}),
    (pathlib.Path("x"), pathlib.Path("x")),
    (datetime.date(2026, 1, 1), datetime.date(2026, 1, 1)),
    (np.float64(0.5), 0.5),
    (range(3), range(3)),
]
UNEQUAL = [
    (1, True),
    (1, 1.0),
    (0.0, -0.0),
    ("1", 1),
    ("a", b"a"),
    ([1], (1,)),
    (Kind("a"), "a"),
    (Kind("a"), Kind("a")),
    ("a" * (LARGEST + 1), "b" + "a" * LARGEST),
    (np.arange(3), np.arange(3)),
    (object(), object()),
    ([object()], [object()]),
    ({"a": 1}, {"a": 2}),
    (types.SimpleNamespace(a=1), types.SimpleNamespace(a=1)),
]


@pytest.mark.parametrize(("first", "second"), EQUAL, ids=repr)
def test_arguments_that_are_the_same(first: Any, second: Any) -> None:
    """Small plain values by what they are."""
    assert of_value(first) == of_value(second)
    assert hash(of_value(first)) == hash(of_value(second))


@pytest.mark.parametrize(("first", "second"), UNEQUAL, ids=lambda value: f"{value!r:.20}")
def test_arguments_that_are_not(first: Any, second: Any) -> None:
    """Big values, and all others, by identity."""
    assert of_value(first) != of_value(second)
    assert of_value(first) == of_value(first)


def test_a_list_is_what_it_was_when_it_was_passed() -> None:
    """Changing it afterwards makes another argument of it."""
    sizes = [1, 2]
    before = Started("f", {"sizes": sizes}, None)
    sizes.append(3)
    assert before.what != Started("f", {"sizes": sizes}, None).what
    assert before.what == Started("f", {"sizes": [1, 2]}, None).what


def test_circles_end() -> None:
    """They are compared by identity."""
    circle: list[Any] = []
    circle.append(circle)
    assert of_value(circle) == of_value(circle)
    assert of_value([circle]) != of_value([circle])


def test_code_of_a_cell_counts_with_what_it_reads() -> None:
    """Names that it does not read do not matter."""

    def of(source: str, **names: Any) -> Any:
        return of_code((compile(source, "<cell>", "exec"),), names)

    assert of("a = b", b=1, c=1) == of("\n\na = b", b=1, c=2)
    assert of("a = b", b=1) != of("a = b", b=2)
    assert of("a = b", b=1) != of("a = b")
