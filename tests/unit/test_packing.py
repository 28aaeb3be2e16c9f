"""What travels to a worker: a function of a cell is pickled again when anything that goes with it is another."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from onix_nb.executors import packing, worker

CELL = """
import math
factor, numbers, empty = 2, [1], None

class Own:
    value = 1

def helper(x):
    return factor * x

def plain(x, y=1):
    return math.floor(helper(x)) + y

def listing(x):
    return numbers + [x]

def of_class(x):
    return Own.value + x

def closing(by):
    def closed(x):
        return by + x
    def to(other):
        nonlocal by
        by = other
    return closed, to
"""


@pytest.fixture
def cell(monkeypatch: Any) -> dict[str, Any]:
    """The names of a notebook after a cell, where no module was registered to travel by value."""
    packing._pickled.clear()
    monkeypatch.setattr(cloudpickle, "list_registry_pickle_by_value", set)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(CELL, names)
    return names


def there(function: Any, **arguments: Any) -> Any:
    """What a call gives where it is unpickled."""
    call: Any = SimpleNamespace(id=1, name="call", attempt=1, function=function, arguments=arguments)
    outcome = packing.unpack_outcome(worker.perform(packing.pack_call(call)))
    if outcome.error is not None:
        raise outcome.error
    return outcome.result


def test_it_is_pickled_once(cell: dict[str, Any]) -> None:
    """A function that uses modules, helpers and constants, while they stay what they are."""
    first = packing._known(cell["plain"])
    assert first is not None
    assert packing._known(cell["plain"]) is first
    assert there(cell["plain"], x=3) == 7


CHANGES = {
    "a constant that a helper uses": ("factor = 5", 16),
    "a helper": ("def helper(x):\n    return -x", -2),
    "a module": ("class math:\n    floor = staticmethod(lambda x: 40)", 41),
    "a default": ("plain.__defaults__ = (10,)", 16),
    "an attribute": ("plain.note = []", 7),
    "the function": ("def plain(x):\n    return 'new'", "new"),
}


@pytest.mark.parametrize(("change", "result"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen(cell: dict[str, Any], change: str, result: Any) -> None:
    """Of whatever the function takes along."""
    assert there(cell["plain"], x=3) == 7
    exec(change, cell)
    assert there(cell["plain"], x=3) == result


def test_one_who_compares_code_only_is_caught(cell: dict[str, Any], monkeypatch: Any) -> None:
    """Control: the changes above would not be seen."""
    monkeypatch.setattr(packing, "_parts", lambda function: [function.__code__])
    assert there(cell["plain"], x=3) == 7
    cell["factor"] = 5
    assert there(cell["plain"], x=3) == 7


def test_the_variable_of_a_closure_is_seen(cell: dict[str, Any]) -> None:
    """Also when it is another one for the same function."""
    closed, to = cell["closing"](1)
    other, _ = cell["closing"](100)
    assert [there(closed, x=1), there(other, x=1), there(closed, x=1)] == [2, 101, 2]
    to(50)
    assert there(closed, x=1) == 51


def test_what_can_change_in_place_is_pickled_each_time(cell: dict[str, Any]) -> None:
    """A list, a class of a cell."""
    assert packing._known(cell["listing"]) is None
    assert there(cell["listing"], x=2) == [1, 2]
    cell["numbers"].append(7)
    assert there(cell["listing"], x=2) == [1, 7, 2]
    assert packing._known(cell["of_class"]) is None


def test_nor_what_is_no_function_of_a_cell() -> None:
    """Methods, callables, functions of modules, and functions while somebody registers modules to go by value."""
    assert [packing._known(one) for one in (math.floor, "a".upper, SimpleNamespace, there)] == [None] * 4


def test_a_registered_module_switches_it_off(cell: dict[str, Any], monkeypatch: Any) -> None:
    """Its functions travel by value, and may change inside."""
    assert packing._known(cell["plain"]) is not None
    monkeypatch.undo()
    cloudpickle.register_pickle_by_value(packing)
    try:
        assert packing._known(cell["plain"]) is None
    finally:
        cloudpickle.unregister_pickle_by_value(packing)


def test_few_are_kept(cell: dict[str, Any], monkeypatch: Any) -> None:
    """Thousands of cells fill no memory."""
    monkeypatch.setattr(packing, "_MOST_KNOWN", 3)
    for number in range(10):
        exec(f"def f{number}(x):\n    return {number} + x", cell)
        assert there(cell[f"f{number}"], x=1) == number + 1
    assert len(packing._pickled) <= 3
