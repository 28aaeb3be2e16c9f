"""What "unchanged" means: of a function, and of the arguments of a call.

A fingerprint is a value that equals another one when nothing that matters differs. It lives in
this process: what is not plain is compared by identity, never pickled, and no code of a user runs.
"""

from __future__ import annotations

import datetime
import decimal
import dis
import fractions
import functools
import itertools
import pathlib
import types
import uuid
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final

from .run import is_cell_file, plain

# Bytes up to which a plain value is compared by what it is.
LARGEST: Final = 4096

# Immutable values that compare by what they are.
_VALUES: Final = frozenset(
    {
        datetime.date,
        datetime.datetime,
        datetime.time,
        datetime.timedelta,
        datetime.timezone,
        decimal.Decimal,
        fractions.Fraction,
        pathlib.PosixPath,
        pathlib.WindowsPath,
        pathlib.PurePosixPath,
        pathlib.PureWindowsPath,
        range,
        uuid.UUID,
    }
)
_MISSING: Final = object()


class Same:
    """Equals only what is the same object; keeps it, so that no other one gets its address."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)

    def __repr__(self) -> str:
        return f"<the same {type(self._value).__name__}>"


def of_arguments(arguments: Mapping[str, Any]) -> Hashable:
    """Of the arguments of a call: plain values up to 4 KB by what they are, all others by identity."""
    return tuple((name, of_value(arguments[name])) for name in sorted(arguments))


def of_value(value: Any) -> Hashable:
    """Of one argument."""
    return _Budget().of(value)


def of_function(function: Any) -> Hashable:
    """Of a function: its code, constants, names, defaults and closure, and the plain globals that it reads.

    Functions and classes of the notebook that it uses count in the same way; those of libraries by their name and
    code. Line numbers, files and docstrings do not count.
    """
    return Walk().of(function)


def of_code(codes: tuple[types.CodeType, ...], names: Mapping[str, Any]) -> Hashable:
    """Of code that runs with `names` as its globals: the body of a cell."""
    return Walk().cells(codes, names)


class _TooBig(Exception):
    """A plain value is larger than what is compared by what it is."""


class _Budget:
    """Tokens of plain values, as long as they are small; a circle uses it up."""

    def __init__(self) -> None:
        self._left = LARGEST

    def of(self, value: Any) -> Hashable:
        try:
            return self._of(plain(value))
        except (_TooBig, RecursionError):
            return Same(value)

    def _of(self, value: Any) -> Hashable:
        kind = type(value)
        self._spend(1)
        if kind in (str, bytes):
            self._spend(len(value))
            return kind, value
        if kind is int:
            self._spend(value.bit_length() // 8)
            return kind, value
        if kind is float:
            return kind, value.hex()  # NaN is NaN, and zero has a sign
        if kind is complex:
            return kind, value.real.hex(), value.imag.hex()
        if value is None or kind is bool or kind in _VALUES:
            return kind, value
        if kind in (list, tuple):
            return kind, tuple(map(self._of, value))
        if kind in (set, frozenset):
            return kind, frozenset(map(self._of, value))
        if kind is dict:
            return kind, frozenset((self._of(key), self._of(member)) for key, member in value.items())
        raise _TooBig

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _TooBig


class Walk:
    """Follows what a function uses; each function and class is looked at once.

    What it ends at is what `leaf` and `library_class` say: here, values of this process. `digest.py` has others.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, object]] = {}
        # The actions and flows that it came to.
        self.met: list[Any] = []

    def leaf(self, value: Any) -> Hashable:
        """A value that is neither a function nor made of functions."""
        return of_value(value)

    def library_class(self, kind: type) -> Hashable:
        """A class that is not of the notebook."""
        return Same(kind)

    def cells(self, codes: tuple[types.CodeType, ...], names: Mapping[str, Any]) -> Hashable:
        """Code that runs with `names` as its globals."""
        return tuple((_code(code), self.read(code, names)) for code in codes)

    def of(self, value: Any) -> Hashable:
        """What `value` is, as something that a function uses."""
        parts = getattr(type(value), "_fingerprinted", None)
        if parts is not None:
            self.met.append(value)
            return "onix", tuple(map(self.of, parts(value)))
        if isinstance(value, (types.FunctionType, type)):
            if id(value) in self._seen:
                return "again", self._seen[id(value)][0]
            self._seen[id(value)] = len(self._seen), value
            return self._function(value) if isinstance(value, types.FunctionType) else self._class(value)
        if type(value) is tuple:
            return "tuple", tuple(map(self.of, value))
        if isinstance(value, functools.partial):
            return "partial", self.of(value.func), tuple(map(self.of, value.args)), self._named(value.keywords)
        if isinstance(value, types.MethodType):
            return "method", self.of(value.__func__), self.of(value.__self__)
        if isinstance(value, (staticmethod, classmethod)):
            return type(value), self.of(value.__func__)
        if isinstance(value, property):
            return "property", self.of(value.fget), self.of(value.fset), self.of(value.fdel)
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if type(value) is functools._lru_cache_wrapper:
            return "cached", self.of(value.__wrapped__)
        return self.leaf(value)

    def read(self, code: types.CodeType, names: Mapping[str, Any]) -> Hashable:
        """The globals that code reads, as far as they are there."""
        return tuple((name, self.of(names[name])) for name in _globals(code) if name in names)

    def _function(self, function: types.FunctionType) -> Hashable:
        code = function.__code__
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        defaults = tuple(map(self.of, function.__defaults__ or ())), self._named(function.__kwdefaults__ or {})
        if not _is_of_notebook(function.__module__, code.co_filename):
            return "library", function.__module__, function.__qualname__, _code(code), cells, defaults
        return "function", _code(code), cells, defaults, self.read(code, function.__globals__)

    def _cell(self, cell: types.CellType) -> Hashable:
        try:
            return self.of(cell.cell_contents)
        except ValueError:  # it is empty
            return "empty"

    def _class(self, kind: type) -> Hashable:
        if kind.__module__ != "__main__":
            return self.library_class(kind)
        members = {name: member for name, member in vars(kind).items() if name not in _OF_THE_CLASS}
        return "class", kind.__qualname__, tuple(map(self.of, kind.__bases__)), self._named(members)

    def _named(self, values: Mapping[str, Any]) -> Hashable:
        return tuple((name, self.of(values[name])) for name in sorted(values))


# What Python itself puts into a class, and what does not count.
_OF_THE_CLASS: Final = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__firstlineno__",
        "__static_attributes__",
        "__annotate__",
        "_member_map_",  # of an enum: its members, once more
        "_value2member_map_",
    }
)


def _is_of_notebook(module: str | None, file: str) -> bool:
    return module == "__main__" or is_cell_file(file)


@functools.lru_cache(maxsize=512)
def _code(code: types.CodeType) -> Hashable:
    """What code does, without where it is and what it says of itself."""
    return (
        code.co_code,
        code.co_exceptiontable,
        code.co_flags,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        tuple(_constant(constant) for constant in _without_places(code, _without_docstring(code))),
    )


def _without_docstring(code: types.CodeType) -> tuple[Any, ...]:
    # The first constant of a function is its docstring, or None, or (3.13) what it is used for.
    first = code.co_consts[:1]
    has = code.co_flags & 0x4000000 if _FLAGGED else not code.co_name.startswith("<")
    return (None, *code.co_consts[1:]) if has and first and isinstance(first[0], str) else code.co_consts


def _without_places(code: types.CodeType, constants: tuple[Any, ...]) -> tuple[Any, ...]:
    """From 3.13 on the body of a class has its line, and the names of attributes in the order of a set."""
    if "__firstlineno__" not in code.co_names:
        return constants
    loaded = [one for one in dis.get_instructions(code) if one.opname in ("LOAD_CONST", "STORE_NAME")]
    uses = Counter(one.arg for one in loaded if one.opname == "LOAD_CONST")
    places = {
        before.arg
        for before, one in itertools.pairwise(loaded)
        if one.argval in ("__firstlineno__", "__static_attributes__") and uses[before.arg] == 1
    }
    return tuple(None if index in places else constant for index, constant in enumerate(constants))


# From 3.13 on a flag says whether there is a docstring.
_FLAGGED: Final = "HAS_DOCSTRING" in dis.COMPILER_FLAG_NAMES.values()


def _constant(constant: Any) -> Hashable:
    if isinstance(constant, types.CodeType):
        return _code(constant)
    if isinstance(constant, (tuple, frozenset)):
        return type(constant), tuple(map(_constant, constant)) if isinstance(constant, tuple) else constant
    if isinstance(constant, (float, complex)):
        return type(constant), repr(constant)
    return type(constant), constant


@functools.lru_cache(maxsize=512)
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """The names of the globals that code reads, in itself and in the functions inside, in order."""
    return tuple(dict.fromkeys(_read(code)))


def _read(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _read(constant)
