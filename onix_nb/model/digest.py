"""What is the same in another process: 32 bytes of a function, and of the arguments of a call.

A digest is canonical: the hash seed, the order in which a dict or a set was filled, what is shared and in which line
a function stands do not matter. The type does: `1`, `True`, `1.0` and `"1"` differ.

Plain values, and arrays and tables of numpy and pandas, are read as they are. Any other value is what its pickle is
made from (`__reduce_ex__`), read in the same way, so that a set inside has no order either. Functions and classes
are what they are to `fingerprint.py`, whose walk ends at digests here instead of at identities.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import functools
import itertools
import os
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

from ..errors import UnstableArgumentWarning
from .fingerprint import Walk
from .future import Future

SIZE: Final = 32

# What a future stands for: the key of its run, if it has one.
OfFuture = Callable[[Future[Any]], bytes | None]

# Their `ascii` says their type and all of them; the same in every process.
_SCALARS: Final = frozenset({int, str, float, bool, complex, type(None)})

_PLAIN: Final = (int, str, float, complex, bytes, list, tuple, dict, set, frozenset)

# Values of these modules pickle the same whenever they are the same, and hold no more than what they are.
_VALUES_OF: Final = frozenset(
    {
        "array",
        "builtins",
        "collections",
        "copyreg",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "ipaddress",
        "numpy",
        "numpy.dtypes",
        "operator",
        "pathlib",
        "pathlib._local",
        "re",
        "types",
        "uuid",
        "zoneinfo",
    }
)

# Parts of classes that their qualified name says all of.
_DESCRIPTORS: Final = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
)

# What `fingerprint.py` looks into.
_CODE: Final = (
    types.FunctionType,
    type,
    staticmethod,
    classmethod,
    property,
    types.ModuleType,
    functools._lru_cache_wrapper,
)


def of_arguments(arguments: Mapping[str, Any], of_future: OfFuture | None = None, call: str = "a call") -> bytes:
    """Of the arguments of a call, by name.

    Args:
        arguments: The arguments.
        of_future: Gives the key of the run that a future stands for, or None if it has none.
        call: What is called, for the warning.

    Warns:
        UnstableArgumentWarning: An argument can't be recognised in another process. What is returned is then
            equal to nothing else.
    """
    flat = _flat_dict(arguments)
    if flat is None:
        flat = b"".join(
            _framed(_flat(name) or b"") + _framed(_argument(name, arguments[name], of_future, call))
            for name in sorted(arguments)
        )
    return blake2b(flat, digest_size=SIZE).digest()


def of_value(value: Any, of_future: OfFuture | None = None) -> bytes:
    """Of one value; as `of_arguments`."""
    return blake2b(_argument("", value, of_future, "a call"), digest_size=SIZE).digest()


def of_function(function: Any, met: list[Any] | None = None) -> bytes:
    """Of a function's code and what it uses, as `fingerprint.of_function` compares it.

    Values that it reads count by their digest where they have one, others by their type. It does not warn.
    The actions and flows that it uses are appended to `met`.
    """
    return _of_code(lambda walk: walk.token_of_code(function), met)


def of_code(codes: tuple[types.CodeType, ...], names: Mapping[str, Any], met: list[Any] | None = None) -> bytes:
    """Of code that runs with `names` as its globals: the body of a cell. As `of_function`."""
    return _of_code(lambda walk: walk.token(walk.cells(codes, names)), met)


def _of_code(read: Callable[[_Canonical], bytes], met: list[Any] | None) -> bytes:
    def noting(walk: _Canonical) -> bytes:
        token = read(walk)
        if met is not None:
            met.extend(walk.met)
        return token

    return blake2b(_read(noting, None)[0], digest_size=SIZE).digest()


def _argument(name: str, value: Any, of_future: OfFuture | None, call: str) -> bytes:
    try:
        found, doubtful = _read(lambda walk: walk.token(value), of_future)
        if not doubtful or _read(lambda walk: walk.token(value), of_future)[0] == found:
            return found
        why = "two pickles of it differ"
    except _Opaque as error:
        why = str(error)
    except RecursionError:
        why = "it is nested too deeply"
    except Exception as error:  # of a class of the user, or of a library
        why = f"reading it raised {type(error).__name__}"
    what = f"argument {name!r} of {call}, a {type(value).__name__}," if name else f"a {type(value).__name__}"
    warnings.warn(
        f"{what} can't be recognised after a restart: {why}; the call would run again", UnstableArgumentWarning, 2
    )
    return os.urandom(SIZE)


def _read(read: Callable[[_Canonical], bytes], of_future: OfFuture | None) -> tuple[bytes, bool]:
    """What `read` reads, and whether it may be another one the next time."""
    try:
        walk = _Canonical(of_future)
        return read(walk), walk.doubtful
    except _Cyclic:
        walk = _Numbered(of_future)
        return read(walk), walk.doubtful


class _Opaque(Exception):
    """A value can't be read."""


class _Cyclic(Exception):
    """A value is part of itself."""


def _flat(value: Any) -> bytes | None:
    """The token of a scalar, or of a list or tuple of scalars; None for others."""
    kind = type(value)
    if kind in _SCALARS or ((kind is list or kind is tuple) and _SCALARS.issuperset(map(type, value))):
        try:
            return _short(b"p" + ascii(value).encode())
        except ValueError:  # an integer of thousands of digits
            return _short(b"i" + hex(value).encode()) if kind is int else None
    return None


def _flat_dict(value: Mapping[str, Any]) -> bytes | None:
    """The token of a dict from text to scalars."""
    if _SCALARS.issuperset(map(type, value.values())) and all(type(key) is str for key in value):
        try:
            return _short(b"d" + ascii(sorted(value.items())).encode())
        except ValueError:
            return None
    return None


def _short(token: bytes) -> bytes:
    """The token, or if it is long a digest of it: tokens of parts are put together, and kept."""
    return token if len(token) <= 2 * SIZE else b"#" + blake2b(token, digest_size=SIZE).digest()


def _framed(token: bytes) -> bytes:
    return len(token).to_bytes(8, "big") + token


def _joined(tag: bytes, parts: Iterable[bytes]) -> bytes:
    return _short(tag + b"".join(map(_framed, parts)))


class _Canonical(Walk):
    """Reads values to tokens: bytes that are equal for what is the same.

    What is part of several values is read once; what is part of itself is left to `_Numbered`.

    Attributes:
        doubtful: Whether a type was met that says itself how it is pickled, and might say another thing each time.
    """

    def __init__(self, of_future: OfFuture | None) -> None:
        super().__init__()
        self.doubtful = False
        self._of_future = of_future
        # Whether it reads what a function uses; there, what can't be read counts by its type.
        self._in_code = False
        # By identity, the token; None while it is read. The value is kept: its address stays its own.
        self._known: dict[tuple[int, bool], tuple[object, bytes | None]] = {}

    def token(self, value: Any) -> bytes:
        """What `value` is."""
        flat = _flat(value)
        if flat is not None:
            return flat
        key = id(value), self._in_code
        if key in self._known:
            return self._again(self._known[key][1])
        self._known[key] = value, self._first()
        return self._end(key, value, self._of(value))

    def _first(self) -> bytes | None:
        return None

    def _end(self, key: tuple[int, bool], value: object, token: bytes) -> bytes:
        self._known[key] = value, token
        return token

    def _again(self, token: bytes | None) -> bytes:
        if token is None:
            raise _Cyclic
        return token

    def _of(self, value: Any) -> bytes:
        kind = type(value)
        if kind is dict:
            return _flat_dict(value) or self._pairs(b"D", list(value.items()))
        if kind is list or kind is tuple:
            return _joined(b"L" if kind is list else b"T", map(self.token, value))
        if kind is set or kind is frozenset:
            return _joined(b"S" if kind is set else b"F", self._unordered(value))
        if kind is bytes or kind is bytearray:
            return _short((b"y" if kind is bytes else b"Y") + value)
        if isinstance(value, pickle.PickleBuffer):
            return _short(b"y" + value.raw())
        if isinstance(value, Future):
            return self._future(value)
        if isinstance(value, _CODE) or hasattr(kind, "_fingerprinted"):
            return self.token_of_code(value)
        if isinstance(value, enum.Enum):
            return _joined(b"E", (self.token(kind), self.token(value.name), self.token(value._value_)))
        numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
        if numpy is not None and kind is numpy.ndarray:
            return self._array(value)
        if numpy is not None and isinstance(value, numpy.generic) and kind.__module__ == "numpy":
            return _joined(b"N", (self._array(numpy.asarray(value)),))
        masked = sys.modules.get("numpy.ma")
        if masked is not None and kind is masked.MaskedArray:  # a pickle of it may come back with another state
            return _joined(b"M", map(self.token, (value.data, masked.getmaskarray(value), value.fill_value)))
        if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series, pandas.Index)):
            return self._table(pandas, value)
        return self._reduced(value)

    # Containers.

    def _pairs(self, tag: bytes, pairs: Iterable[tuple[Any, Any]]) -> bytes:
        keys = [(self._key(key), key, value) for key, value in pairs]
        keys.sort(key=lambda one: one[0])
        return _joined(tag, (part for name, key, value in keys for part in (name, self.token(value))))

    def _unordered(self, members: Iterable[Any]) -> list[bytes]:
        return sorted(map(self._key, members))

    def _key(self, value: Any) -> bytes:
        """The token of what is ordered by it."""
        return self.token(value)

    # Code.

    def token_of_code(self, value: Any) -> bytes:
        """What a function or a class is."""
        seen, self._seen = self._begin_code()
        in_code, self._in_code = self._in_code, True
        try:
            return _joined(b"C", (self.token(self.of(value)),))
        finally:
            self._seen, self._in_code = seen, in_code

    def _begin_code(self) -> tuple[dict[int, tuple[int, object]], dict[int, tuple[int, object]]]:
        """A function is the same, whatever else was looked at before."""
        return self._seen, {}

    def leaf(self, value: Any) -> Hashable:
        """A value that a function uses: its token, or its type."""
        kind = type(value)
        if isinstance(value, _DESCRIPTORS):
            return "descriptor", kind.__name__, value.__qualname__
        if isinstance(value, enum.Enum):  # in its class, which is being read
            return "enum", self.of(kind), value.name, self._inside(value._value_)
        return self._inside(value)

    def _inside(self, value: Any) -> bytes:
        in_code, self._in_code = self._in_code, True
        try:
            return self.token(value)
        except _Cyclic:
            raise
        except Exception:  # nested too deeply, or changed by another thread
            return self._named_by_type(value)
        finally:
            self._in_code = in_code

    def library_class(self, kind: type) -> Hashable:
        """By its name."""
        return "library class", kind.__module__, kind.__qualname__

    # Everything else.

    def _future(self, future: Future[Any]) -> bytes:
        key = None if self._of_future is None else self._of_future(future)
        if key is not None:
            return _joined(b"U", (key,))
        if self._in_code:
            return b"U"
        raise _Opaque("it is, or has inside, a future of a run that is not recorded")

    def _reduced(self, value: Any) -> bytes:
        """What the pickle of a value is made from."""
        kind = type(value)
        simple = _is_simple(kind)
        if self._in_code and not (simple and _is_value(kind)):
            return self._named_by_type(value)
        try:
            parts = _reduce(value)
        except Exception as error:
            if self._in_code:
                return self._named_by_type(value)
            raise _Opaque(f"{kind.__name__} can't be pickled ({type(error).__name__})") from None
        self.doubtful = self.doubtful or not simple
        if isinstance(parts, str):
            return _joined(b"G", map(self.token, (kind.__name__, getattr(value, "__module__", None), parts)))
        return self._made(value, *parts)

    def _named_by_type(self, value: Any) -> bytes:
        name = getattr(value, "__qualname__", getattr(value, "__name__", None)) if _is_builtin(type(value)) else None
        return _joined(b"O", (self.token(type(value)), self.token(name if isinstance(name, str) else None)))

    def _made(
        self, value: Any, call: Any, arguments: tuple[Any, ...], state: Any = None, items: Any = None, *more: Any
    ) -> bytes:
        """A value that is what `call` makes of `arguments`, with a state, items of a list, and pairs of a dict."""
        if isinstance(value, (set, frozenset)):  # the list in its arguments has no order
            arguments = (type(value), self._unordered(value))
        names = getattr(call, "__module__", None), getattr(call, "__qualname__", None)
        by_name = not isinstance(call, type) and None not in names
        parts = [self.token(part) for part in (names if by_name else call, arguments, state, list(items or ()))]
        pairs = list(more[0] or ()) if more else []
        parts.append(self.token(pairs) if isinstance(value, OrderedDict) else self._pairs(b"D", pairs))
        return _joined(b"R", (*parts, *map(self.token, more[1:])))

    # numpy and pandas; what is of them can't be there before they are imported.

    def _array(self, array: Any) -> bytes:
        dtype = array.dtype
        if not dtype.isnative:  # a pickle of it may come back in the machine's own order
            dtype = dtype.newbyteorder("=")
        head = self.token((dtype.names or str(dtype), array.shape))
        if dtype.fields is not None:  # the gaps between fields hold anything
            return _joined(b"A", (head, *(self._array(array[name]) for name in dtype.names)))
        if dtype.kind in "biufcmMSUV" and dtype.char not in "gG":  # long doubles have gaps, too
            numbers = blake2b(_framed(head), digest_size=SIZE, person=b"array")
            numbers.update(_contiguous(array.astype(dtype, copy=False)))
            return b"A" + numbers.digest()
        members = array.ravel().tolist()
        return _joined(b"A", (head, self.token([repr(one) for one in members] if dtype.char in "gG" else members)))

    def _table(self, pandas: Any, value: Any) -> bytes:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, pandas.DataFrame):
            columns = [self._column(value.iloc[:, number].array) for number in range(value.shape[1])]
            return _joined(b"P", (self.token(kind), self.token(value.columns), self.token(value.index), *columns))
        if isinstance(value, pandas.Series):
            return _joined(b"P", (*map(self.token, (kind, value.name, value.index)), self._column(value.array)))
        if isinstance(value, pandas.MultiIndex):
            levels = [value.get_level_values(number) for number in range(value.nlevels)]
            return _joined(b"P", map(self.token, (kind, list(value.names), levels)))
        if isinstance(value, pandas.RangeIndex):
            return _joined(b"P", map(self.token, (kind, value.name, value.start, value.stop, value.step)))
        about = self.token((kind, value.name, getattr(value, "freqstr", None)))
        return _joined(b"P", (about, self._column(value.array)))

    def _column(self, array: Any) -> bytes:
        """One column, whatever its pieces are in memory."""
        name = self.token(str(array.dtype))
        if hasattr(array, "categories"):
            return _joined(b"c", (name, *map(self.token, (bool(array.ordered), array.categories, array.codes))))
        inner = getattr(array, "_ndarray", None)  # of numpy's own dtypes, and of times
        if inner is None or inner.dtype.hasobject:
            inner = array.astype(object)
        return _joined(b"c", (name, self._array(inner) if hasattr(inner, "dtype") else self.token(list(inner))))


class _Numbered(_Canonical):
    """Reads what is part of itself: by how many values were read before it, when it comes again.

    So it matters what is shared, as in a pickle.
    """

    def __init__(self, of_future: OfFuture | None) -> None:
        super().__init__(of_future)
        self._numbers = itertools.count()
        self._kept: list[object] = []  # so that their addresses stay their own

    def _first(self) -> bytes:
        return b"@%d" % next(self._numbers)

    def _end(self, key: tuple[int, bool], value: object, token: bytes) -> bytes:
        if type(value) in (tuple, frozenset, bytes):  # Python shares them as it likes; they alone make no circle
            self._kept.append(value)
            del self._known[key]
        return token

    def _begin_code(self) -> tuple[dict[int, tuple[int, object]], dict[int, tuple[int, object]]]:
        return self._seen, self._seen

    def _key(self, value: Any) -> bytes:
        walk = _Canonical(self._of_future)
        walk._in_code = self._in_code
        try:
            return walk.token(value)
        except _Cyclic:
            if not self._in_code:
                raise _Opaque("it has a circle through a member of a set, or a key of a dict") from None
            return self._named_by_type(value)


def _reduce(value: Any) -> Any:
    """As pickle asks: a table of functions by type, then the value itself."""
    by_table = copyreg.dispatch_table.get(type(value))
    parts = value.__reduce_ex__(5) if by_table is None else by_table(value)
    if isinstance(parts, str) or (isinstance(parts, tuple) and 2 <= len(parts) <= 6):
        return parts
    raise TypeError


def _is_builtin(kind: type) -> bool:
    module = kind.__module__
    return module in _VALUES_OF or module.partition(".")[0] == "pandas"


def _is_simple(kind: Any) -> bool:
    """Whether its pickles can't differ: its state is its attributes, or it is known."""
    return _is_builtin(kind) or (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and (kind.__getstate__ is object.__getstate__ or getattr(kind.__getstate__, "__module__", "") == "dataclasses")
        and kind not in copyreg.dispatch_table
    )


def _is_value(kind: type) -> bool:
    """Whether a value of this type that a function uses counts by what is in it."""
    return _is_builtin(kind) or dataclasses.is_dataclass(kind) or issubclass(kind, _PLAIN)


def _contiguous(array: Any) -> Any:
    """The bytes of an array in C's order, without a copy if they are."""
    numpy = sys.modules["numpy"]
    return numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8) if array.size else b""
