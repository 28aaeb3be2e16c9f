"""What a digest tells apart and what it does not: in this process, and in others."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import itertools
import math
import operator
import os
import pathlib
import pickle
import random
import re
import subprocess
import sys
import threading
import types
import uuid
import warnings
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onix_nb as onix
from onix_nb.errors import UnstableArgumentWarning
from onix_nb.model import digest
from onix_nb.model.digest import SIZE, of_arguments, of_code, of_function, of_value


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    y: Any = frozenset({"one", "two", "three"})


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Flags(enum.Flag):
    A = 1
    B = 2


class Plain:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Text(str):
    pass


Pair = namedtuple("Pair", "left right")
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


def circle() -> list[Any]:
    found: list[Any] = [1]
    found.append({"again": found})
    return found


def family() -> Plain:
    parent = Plain(name="parent", children=[])
    parent.children += [Plain(name=word, parent=parent, tags=set(WORDS)) for word in WORDS]
    return parent


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "i": [1, 2, 3],
            "f": [0.5, math.nan, -0.0],
            "s": ["a", None, "c"],
            "c": pd.Categorical(["x", "y", "x"]),
            "t": pd.to_datetime(["2026-01-01", "2026-01-02", None]).tz_localize("Europe/Berlin"),
            "n": pd.array([1, None, 3], dtype="Int64"),
            "o": [{"k"}, [1], None],
        },
        index=pd.Index(["a", "b", "c"], name="name"),
    )


# Each makes a value, anew each time; all differ from each other.
VALUES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "one": lambda: 1,
    "one point zero": lambda: 1.0,
    "text one": lambda: "1",
    "bytes one": lambda: b"1",
    "bytearray one": lambda: bytearray(b"1"),
    "complex one": lambda: 1 + 0j,
    "numpy one": lambda: np.int64(1),
    "numpy small one": lambda: np.int8(1),
    "array of one, no dimension": lambda: np.array(1),
    "zero": lambda: 0.0,
    "minus zero": lambda: -0.0,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "huge integer": lambda: 10**20_000,
    "huge negative integer": lambda: -(10**20_000),
    "lone surrogate": lambda: "\ud800",
    "emoji": lambda: "🦔",
    "list": lambda: [1, 2],
    "tuple": lambda: (1, 2),
    "nested list": lambda: [[1], 2],
    "other nesting": lambda: [[1, 2]],
    "list of huge": lambda: [10**20_000],
    "empty list": list,
    "empty tuple": tuple,
    "empty dict": dict,
    "empty set": set,
    "empty frozenset": frozenset,
    "set": lambda: {*WORDS},
    "frozenset": lambda: frozenset(WORDS),
    "dict": lambda: dict.fromkeys(WORDS, 1),
    "nested dict": lambda: {word: {1, 2} for word in WORDS},
    "dict of mixed keys": lambda: {1: "a", "1": "b", None: "c", (1, 2): "d"},
    "ordered dict": lambda: OrderedDict(a=1, b=[2]),
    "ordered dict, the other way": lambda: OrderedDict(b=[2], a=1),
    "defaultdict": lambda: defaultdict(list, a=[1]),
    "defaultdict of int": lambda: defaultdict(int, a=[1]),
    "counter": lambda: Counter(WORDS),
    "deque": lambda: deque([1, 2], maxlen=3),
    "deque without end": lambda: deque([1, 2]),
    "named tuple": lambda: Pair(1, 2),
    "text of a class": lambda: Text("1"),
    "big text": lambda: "x" * 1_000_000,
    "bigger text": lambda: "x" * 1_000_001,
    "big list": lambda: list(range(100_000)),
    "date": lambda: datetime.date(2026, 1, 1),
    "datetime": lambda: datetime.datetime(2026, 1, 1),
    "aware datetime": lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "datetime of a place": lambda: datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    "fold": lambda: datetime.datetime(2026, 1, 1, fold=1),
    "time": lambda: datetime.time(1, 2),
    "timedelta": lambda: datetime.timedelta(1),
    "timezone": lambda: datetime.timezone(datetime.timedelta(hours=1)),
    "zone": lambda: zoneinfo.ZoneInfo("Europe/Paris"),
    "path": lambda: pathlib.Path("a/b"),
    "pure path": lambda: pathlib.PurePosixPath("a/b"),
    "decimal": lambda: decimal.Decimal("1.0"),
    "decimal with more digits": lambda: decimal.Decimal("1.00"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "uuid": lambda: uuid.UUID(int=1),
    "range": lambda: range(3),
    "slice": lambda: slice(1, 2),
    "ellipsis": lambda: ...,
    "pattern": lambda: re.compile("a"),
    "pattern with flags": lambda: re.compile("a", re.I),
    "getter": lambda: operator.itemgetter("a"),
    "other getter": lambda: operator.itemgetter("b"),
    "enum": lambda: Colour.RED,
    "other enum": lambda: Colour.BLUE,
    "flags": lambda: Flags.A | Flags.B,
    "dataclass": lambda: Point(1, {*WORDS}),
    "other dataclass": lambda: Point(1, {*WORDS[1:]}),
    "frozen dataclass": lambda: Frozen(1),
    "object": lambda: Plain(a={*WORDS}),
    "namespace": lambda: types.SimpleNamespace(a={*WORDS}),
    "exception": lambda: KeyError("a"),
    "text in memory": lambda: io.StringIO("a"),
    "builtin": lambda: math.sin,
    "other builtin": lambda: math.cos,
    "ufunc": lambda: np.add,
    "other ufunc": lambda: np.subtract,
    "class": lambda: Point,
    "library class": lambda: pathlib.Path,
    "function": lambda: circle,
    "lambda": lambda: lambda x: x + 1,
    "bound method": lambda: [1].append,
    "action": lambda: double,
    "set of objects": lambda: {Frozen(word) for word in WORDS},
    "set of sets": lambda: {frozenset({word, "a"}) for word in WORDS},
    "circle": circle,
    "family": family,
    "array": lambda: np.arange(6),
    "shaped array": lambda: np.arange(6).reshape(2, 3),
    "transposed array": lambda: np.arange(6).reshape(2, 3).T,
    "array of floats": lambda: np.arange(6.0),
    "array of other integers": lambda: np.arange(6, dtype="u8"),
    "empty array": lambda: np.empty((0, 3)),
    "other empty array": lambda: np.empty((3, 0)),
    "array of text": lambda: np.array(["a", "b"]),
    "array of times": lambda: np.array(["2026-01-01"], dtype="M8[s]"),
    "array of objects": lambda: np.array([{*WORDS}, "a"], dtype=object),
    "array of fields": lambda: np.array([(1, 2.0)], dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "array of strings": lambda: np.array(["a" * 40, "b"], dtype=np.dtypes.StringDType()),
    "array of long doubles": lambda: np.array([1, 2], dtype=np.longdouble),
    "masked array": lambda: np.ma.masked_array([1, 2], mask=[True, False]),
    "series": lambda: pd.Series([1, 2]),
    "series of floats": lambda: pd.Series([1.0, 2.0]),
    "named series": lambda: pd.Series([1, 2], name="n"),
    "series of text": lambda: pd.Series(["a", "b"]),
    "series of Arrow's text": lambda: pd.Series(["a", "b"], dtype="string"),
    "index": lambda: pd.Index([1, 2]),
    "range index": lambda: pd.RangeIndex(1, 3),
    "index of two": lambda: pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", "y"]),
    "interval index": lambda: pd.interval_range(0, 3),
    "periods": lambda: pd.period_range("2026-01", periods=3, freq="M"),
    "times": lambda: pd.date_range("2026-01-01", periods=3),
    "category": lambda: pd.Series(pd.Categorical(["a"], categories=["a", "b"])),
    "wider category": lambda: pd.Series(pd.Categorical(["a"], categories=["a", "b", "c"])),
    "timestamp": lambda: pd.Timestamp("2026-01-01", tz="UTC"),
    "not available": lambda: pd.NA,
    "not a time": lambda: pd.NaT,
    "table": table,
    "other columns": lambda: table()[["f", "i"]],
    "other order of columns": lambda: table()[["i", "f"]],
    "empty table": pd.DataFrame,
}


@onix.action
def double(x: int) -> int:
    return 2 * x


@pytest.fixture(autouse=True)
def no_warning() -> Any:
    """Nothing here is doubtful, unless a test says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnstableArgumentWarning)
        yield


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES.keys())
def test_a_value_made_again_is_the_same(make: Callable[[], Any]) -> None:
    """Also if what it is made of is shared in another way."""
    assert of_value(make()) == of_value(make())
    assert len(of_value(make())) == SIZE


def test_all_values_differ() -> None:
    """One of the other."""
    digests: dict[bytes, str] = {}
    for name, make in VALUES.items():
        assert digests.setdefault(of_value(make()), name) == name
        assert digests.setdefault(of_arguments({"x": make()}), f"x={name}") == f"x={name}"


def test_what_does_not_matter() -> None:
    """Order of dicts and sets, what is shared, how arrays lie in memory, attrs, padding."""
    one = [1, {2}]
    words = dict.fromkeys(WORDS, one)
    assert of_value(words) == of_value({word: [1, {2}] for word in reversed(WORDS)})
    assert of_arguments({"a": 1, "b": [[]]}) == of_arguments({"b": [[]], "a": 1})
    assert of_value([one, one]) == of_value([[1, {2}], [1, {2}]])
    array = np.arange(6).reshape(2, 3)
    assert of_value(array) == of_value(np.asfortranarray(array)) == of_value(np.arange(12).reshape(2, 6)[:, ::2] // 2)
    assert of_value(np.arange(6, dtype=">i8")) == of_value(np.arange(6, dtype="<i8"))
    first, second = table(), table()
    first.attrs["a"] = 1
    assert of_value(first) == of_value(second)
    assert of_value(first) == of_value(pd.concat([first[:1], first[1:]]).astype(first.dtypes.to_dict()))
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    dirty = np.frombuffer(bytes(range(16)), dtype).copy()
    clean = np.zeros(1, dtype)
    clean["a"], clean["b"] = dirty["a"], dirty["b"]
    assert of_value(dirty) == of_value(clean)


def test_deeply_shared_values_are_read_once() -> None:
    """2^200 lists would take a while."""
    value: Any = []
    for _ in range(200):
        value = [value, value]
    assert of_value(value) == of_value(value)


def test_what_comes_back_from_a_pickle_is_the_same() -> None:
    """A result that was recorded is an argument of the next call."""
    for name, make in VALUES.items():
        if name not in ("lambda", "bound method", "action"):
            value = make()
            assert of_value(pickle.loads(pickle.dumps(value))) == of_value(value), name


class Restless:
    def __reduce__(self) -> Any:
        return Restless, (random.random(),)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


def deep() -> Any:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    return value


OPAQUE: dict[str, tuple[Callable[[], Any], str]] = {
    "lock": (threading.Lock, "a lock, .*can't be pickled"),
    "generator": (lambda: (x for x in ()), "a generator, .*can't be pickled"),
    "inside": (lambda: {"a": [threading.Lock()]}, "lock can't be pickled"),
    "restless": (Restless, "two pickles"),
    "unpicklable": (Unpicklable, "ZeroDivisionError"),
    "deep": (deep, "nested too deeply"),
    "future": (onix.Future, "a future of a run that is not recorded"),
}


@pytest.mark.parametrize(("make", "message"), OPAQUE.values(), ids=OPAQUE.keys())
def test_what_cannot_be_recognised_warns_and_equals_nothing(make: Callable[[], Any], message: str) -> None:
    """So that no call gets the result of another one."""
    value = make()
    with pytest.warns(UnstableArgumentWarning, match=f"argument 'x' of f.*{message}"):
        first = of_arguments({"x": value}, call="f()")
    with pytest.warns(UnstableArgumentWarning):
        assert of_arguments({"x": value}) != first


def test_futures_count_by_the_key_of_their_run() -> None:
    """Whoever has them."""
    one, two = onix.Future(), onix.Future()  # type: ignore[var-annotated]
    keys = {id(one): b"k" * 32, id(two): b"k" * 32}
    assert of_value([one], lambda future: keys[id(future)]) == of_value([two], lambda future: keys[id(future)])
    assert of_value([one], lambda future: b"a" * 32) != of_value([one], lambda future: b"b" * 32)


def define(source: str, names: dict[str, Any] | None = None, lines: int = 0) -> Any:
    """What a cell defines last, in a notebook with `names`."""
    found = {"__name__": "__main__", "onix": onix, **(names or {})}
    exec(compile("\n" * lines + source, f"/tmp/ipykernel_{lines}/1.py", "exec"), found)
    return list(found.values())[-1]


CODE = {
    "plain": "def f(x, y=1, *, z=2):\n    return x + y + z",
    "set of constants": "def f(x):\n    return x in {'a', 'b', 'c', 'd', 'e'}",
    "helper": "def h():\n    return {'a', 'b'}\ndef f():\n    return h()",
    "recursive": "def f(n):\n    return f(n - 1)",
    "closure": "def make(n):\n    return lambda: n\nf = make(frozenset('abcdef'))",
    "class": "class C:\n    a = 1\n    def m(self):\n        self.p = self.q = self.r = 2\ndef f():\n    return C()",
    "inner class": (
        "def f():\n    class C:\n        b = 200\n        def m(self):\n"
        "            self.p = self.q = self.r = 2\n    return C"
    ),
    "slots": "class C:\n    __slots__ = ('a', 'b')\ndef f():\n    return C()",
    "dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n    a: int = 1\n    b: list = "
        "dataclasses.field(default_factory=list)\ndef f():\n    return C()"
    ),
    "enum": "import enum\nclass E(enum.Enum):\n    A = 1\n    B = 'b'\ndef f():\n    return E.A",
    "member": "import enum\nclass E(enum.Enum):\n    A = 1\n    B = 2\nm = E.A\ndef f():\n    return m",
    "abstract": (
        "import abc\nclass C(abc.ABC):\n    @abc.abstractmethod\n    def m(self):\n        pass\ndef f():\n    return C"
    ),
    "registry": "R = {}\ndef g():\n    return R\ndef f():\n    return R\nR.update(f=f, g=g)\nf = f",
    "instance": "class C:\n    def m(self):\n        return 1\nc = C()\ndef f():\n    return c.m()",
    "object": "import threading\nlock = threading.Lock()\ndef f():\n    with lock:\n        return {'a', 'b', 'c'}",
    "action": "@onix.action(retry=3)\ndef f(x):\n    return {'a', 'b', 'c'}",
    "flow": "@onix.action\ndef a(x):\n    return x\n@onix.flow\ndef f(x):\n    return a(x=x)",
    "numpy": "import numpy as np\nn = np.arange(5)\nadd = np.add\ndef f():\n    return add(n, 1)",
    "values": "import re\np = re.compile('a')\nd = {'k': {'a', 'b', 'c'}}\ndef f():\n    return p, d",
    "partial": "import functools\ndef g(x, y):\n    return x\nf = functools.partial(g, y={'a', 'b', 'c'})",
    "cached": "import functools\n@functools.lru_cache\ndef f(x):\n    return x",
}
EDITS = {
    "plain": [("y=1", "y=2"), ("x + y", "x - y"), ("z=2", "z=2.0")],
    "set of constants": [("'e'", "'f'")],
    "helper": [("'b'", "'c'")],
    "closure": [("'abcdef'", "'abcdeg'")],
    "class": [("a = 1", "a = 2"), ("= 2", "= 3")],
    "inner class": [("= 2\n", "= 3\n"), ("b = 200", "b = 201")],
    "slots": [("'b'", "'c'")],
    "dataclass": [("= 1", "= 2"), ("factory=list", "factory=dict")],
    "enum": [("A = 1", "A = 2")],
    "member": [("m = E.A", "m = E.B"), ("A = 1", "A = 3")],
    "instance": [("return 1", "return 2")],
    "action": [("'c'", "'d'")],
    "flow": [("return x", "return -x")],
    "numpy": [("arange(5)", "arange(6)"), ("np.add", "np.subtract")],
    "values": [("'a')", "'b')"), ("'c'}", "'d'}")],
    "partial": [("'c'", "'d'")],
}


@pytest.mark.parametrize("source", CODE.values(), ids=CODE.keys())
def test_a_function_that_moved_is_the_same(source: str) -> None:
    """In another cell, in other lines, defined again."""
    assert of_function(define(source)) == of_function(define(source)) == of_function(define(source, lines=300))


@pytest.mark.parametrize(
    ("name", "old", "new"), [(name, old, new) for name, edits in EDITS.items() for old, new in edits]
)
def test_an_edited_function_is_another(name: str, old: str, new: str) -> None:
    """Its code, what it uses, and the values that it reads."""
    assert CODE[name].count(old) >= 1
    assert of_function(define(CODE[name])) != of_function(define(CODE[name].replace(old, new)))


def test_an_object_of_the_notebook_counts_with_its_class() -> None:
    """A method that was edited makes another argument of it, wherever its class stands."""
    source = (
        "class C:\n    def __init__(self):\n        self.tags = {'a', 'b'}\n    def m(self):\n        return 1\nc = C()"
    )
    assert of_value(define(source)) == of_value(define(source, lines=20))
    assert of_value(define(source)) != of_value(define(source.replace("return 1", "return 2")))
    assert of_value(define(source)) != of_value(define(source.replace("'b'", "'c'")))


def test_whatever_a_function_reads_has_a_digest() -> None:
    """Values that are too deep, or broken, count by their type, and nobody is warned."""

    class Broken:
        __reduce__ = __getattr__ = None  # type: ignore[assignment]

    source = "def f():\n    return value"
    for value in (deep(), Broken(), Unpicklable(), threading.Lock(), [threading.Lock()], onix.Future()):
        assert of_function(define(source, {"value": value})) != of_function(define(source, {"value": 1}))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, -0.0, 1.0])
    | st.sampled_from(["", "1", b"1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b", 1, None, (1,)]), inner, max_size=3)
    ),
    max_leaves=6,
)


def told_apart(value: Any) -> Any:
    """The model: equal for what is the same."""
    if isinstance(value, dict):
        return dict, frozenset((told_apart(key), told_apart(member)) for key, member in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(told_apart, value))
    return type(value), repr(value)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(st.lists(PLAIN, min_size=2, max_size=8))
def test_digests_agree_with_a_model(values: list[Any]) -> None:
    """Equal if and only if the values are the same."""
    tokens, found = [told_apart(value) for value in values], [of_value(value) for value in values]
    for one, two in itertools.combinations(range(len(values)), 2):
        assert (tokens[one] == tokens[two]) == (found[one] == found[two])


def test_code_of_a_cell_counts_with_what_it_reads() -> None:
    """Names that it does not read do not matter."""

    def of(source: str, **names: Any) -> bytes:
        return of_code((compile(source, "<cell>", "exec"),), names)

    assert of("a = b", b=1, c=1) == of("\n\na = b", b=1, c=2)
    assert of("a = b", b=1) != of("a = b", b=2)


def digests() -> str:
    """All of them, as text: what the other processes print."""
    values = [of_value(make()).hex() for make in VALUES.values()]
    arguments = [of_arguments({"x": make(), "y": 1}).hex() for make in VALUES.values()]
    moved = int(os.environ.get("MOVED", "0"))
    return "\n".join(
        [*values, *arguments, *(of_function(define(source, lines=moved)).hex() for source in CODE.values())]
    )


def elsewhere(seed: int, function: str = "digests") -> list[str]:
    """What `function` prints in another process."""
    code = (
        "import importlib.util as u, sys\n"
        f"s = u.spec_from_file_location('tests.unit.test_digest', {__file__!r})\n"
        "m = sys.modules[s.name] = u.module_from_spec(s)\ns.loader.exec_module(m)\n"
        f"print(m.{function}())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": str(seed), "MOVED": str(seed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def broken() -> str:
    """Control: sets in the order in which they are."""
    digest._Canonical._unordered = lambda self, members: list(map(self._key, members))  # type: ignore[method-assign]
    return of_value({*WORDS}).hex()


def test_other_processes_find_the_same() -> None:
    """With another hash seed, and functions in other lines."""
    names = [*VALUES, *(f"x={name}" for name in VALUES), *(f"code {name}" for name in CODE)]
    first, *others = (elsewhere(seed) for seed in (0, 1, 2, 77))
    for other in others:
        assert [name for name, one, two in zip(names, first, other, strict=True) if one != two] == []
    assert len({*map(tuple, (elsewhere(seed, "broken") for seed in (0, 1, 2)))}) > 1
