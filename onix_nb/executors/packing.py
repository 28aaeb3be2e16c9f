"""What travels between the kernel and a worker: a call on its way there, its outcome on its way back.

Functions and classes of cells travel by value, by cloudpickle. Big buffers (of numpy and pandas) travel beside the
pickle, by its protocol 5, and are not copied into it: the transport moves them as it can, or a `Store` lays them into
memory that both sides share.
"""

from __future__ import annotations

import ast
import functools
import io
import itertools
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from operator import is_
from typing import Any, ClassVar, Final, Protocol

import cloudpickle

from ..errors import TransferError
from ..model.run import error_text
from . import Call, Outcome

# Buffers from this size on travel beside the pickle.
BIG: Final = 1024 * 1024

# One frame of a traceback: file, function, module, and where in the file: lines and columns, from and to.
_Frame = tuple[str, str, str, int | None, int | None, int | None, int | None]


class Store(Protocol):
    """Memory that the kernel and its workers share."""

    def put(self, buffer: memoryview) -> Any:
        """What stands for the buffer on its way: `get()` of it, there, gives the buffer. None when there is no room."""


class Package:
    """A pickle, and the buffers beside it."""

    __slots__ = ("buffers", "data")

    def __init__(self, data: bytes, buffers: list[Any]) -> None:
        self.data = data
        self.buffers = buffers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Buffers go beside the pickle again, where the transport can do that."""
        return Package, (self.data, [_beside(buffer, protocol) for buffer in self.buffers])


def _beside(buffer: Any, protocol: int) -> Any:
    if not isinstance(buffer, memoryview):
        return buffer
    return pickle.PickleBuffer(buffer) if protocol >= 5 else bytes(buffer)


def pack(value: object, store: Store | None = None) -> Package:
    """Pickles `value`; what pickling raises is passed on."""
    buffers: list[Any] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        with memoryview(buffer) as view:
            if view.nbytes < BIG:
                return True
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        beside = raw if store is None else store.put(raw)
        if beside is None:
            return True
        buffers.append(beside)
        return False

    return Package(_dumps(value, keep_inside), buffers)


def _reduced(code: types.CodeType) -> tuple[Any, ...]:
    """As cloudpickle reduces it, with its file, which cloudpickle leaves out since 3.1.3 and tracebacks need."""
    build, parts = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return _rebuilt, (build, parts, code.co_filename)


def _rebuilt(build: Callable[..., types.CodeType], parts: tuple[Any, ...], file: str) -> types.CodeType:
    return build(*parts).replace(co_filename=file)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Cloudpickle's, with the files of code."""

    dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: _reduced}, cloudpickle.Pickler.dispatch_table)


def _dumps(value: object, keep_inside: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    file = io.BytesIO()
    _Pickler(file, 5, keep_inside).dump(value)
    return file.getvalue()


def unpack(package: Package) -> Any:
    """The value of a package; what unpickling raises is passed on."""
    if not package.buffers:
        return pickle.loads(package.data)
    return pickle.loads(package.data, buffers=[_writable(buffer) for buffer in package.buffers])


def _writable(buffer: Any) -> Any:
    """A buffer that a function may change, as it may on threads."""
    if hasattr(buffer, "get"):
        return buffer.get()
    return bytearray(buffer) if memoryview(buffer).readonly else buffer


# A call on its way to a worker.


class Packed:
    """A call as it travels: who it is, which can be read before, and what it does, which may fail to be."""

    __slots__ = ("alias", "attempt", "body", "id", "key", "name")

    def __init__(self, key: str, id: int, name: str, attempt: int, alias: bool, body: Package) -> None:
        self.key = key
        self.id = id
        self.name = name
        self.attempt = attempt
        self.alias = alias
        self.body = body

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self.key, self.id, self.name, self.attempt, self.alias, self.body)


def pack_call(call: Call, store: Store | None = None, key: str = "") -> Packed:
    """The call, to be given to `worker.perform` elsewhere.

    Raises:
        TransferError: Something can't travel; the message names it.
    """
    arguments = dict(call.arguments)
    try:
        function = _known(call.function)
        if function is not None and _ATOMS.issuperset(map(type, arguments.values())):
            body = Package(pickle.dumps((function, arguments), 5), [])
        else:
            body = pack((function or call.function, arguments), store)
    except Exception as error:
        raise TransferError(_why_not(call, error)) from error
    alias = sys.modules.get("onix") is sys.modules["onix_nb"]
    return Packed(key or f"{call.name}-{call.id}-{call.attempt}", call.id, call.name, call.attempt, alias, body)


# Functions of cells that were pickled before, by their code. To pickle one takes longer than all else on a call's way.

# Values of these types never change.
_ATOMS: Final = frozenset({int, float, bool, str, bytes, type(None)})
_MOST_KNOWN: Final = 256
_ABSENT: Final = object()

_pickled: Final[dict[types.CodeType, tuple[int, list[Any], bytes]]] = {}


def _known(function: Any) -> bytes | None:
    """The pickle of a function whose every part is the one that it was before; None for what can't be known so."""
    parts = _parts(function)
    if parts is None:
        return None
    modules = len(sys.modules)  # which submodules travel along depends on what is imported
    known = _pickled.get(function.__code__)
    if known is not None and known[0] == modules and len(known[1]) == len(parts) and all(map(is_, known[1], parts)):
        return known[2]
    data = _dumps(function)
    if len(_pickled) >= _MOST_KNOWN:
        _pickled.clear()
    _pickled[function.__code__] = modules, parts, data
    return data


def _parts(function: Any) -> list[Any] | None:
    """All that travels with a function of a cell; None when some of it may change and stay the same object."""
    if cloudpickle.list_registry_pickle_by_value():
        return None
    parts: list[Any] = []
    functions = [function]
    for one in functions:
        if type(one) is not types.FunctionType or one.__module__ != "__main__" or one.__dict__ or one.__kwdefaults__:
            return None
        names = one.__globals__
        parts += one, one.__code__, one.__name__, one.__qualname__, one.__doc__
        try:
            found = [cell.cell_contents for cell in one.__closure__ or ()]
        except ValueError:  # not bound yet
            return None
        found += [names.get(name, _ABSENT) for name in _all_names(one.__code__)]
        found += [*(one.__defaults__ or ()), *one.__annotations__.values()]
        for value in found:
            if type(value) is types.FunctionType and value.__module__ == "__main__":
                if value not in functions:
                    functions.append(value)
            elif not (type(value) in _ATOMS or value is _ABSENT or _is_imported(value)):
                return None
        parts += found
    return parts


@functools.lru_cache(1024)
def _all_names(code: types.CodeType) -> tuple[str, ...]:
    return tuple(_names(code))


def _is_imported(value: Any) -> bool:
    """Whether a module, class or function travels as its name."""
    if type(value) is types.ModuleType:
        return sys.modules.get(value.__name__) is value
    if not isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) or value.__module__ == "__main__":
        return False
    return getattr(sys.modules.get(value.__module__), value.__name__, None) is value


def _why_not(call: Call, error: Exception) -> str:
    who = f"action {call.name}() (run {call.id}) can't be sent to another process"
    for what, value in _suspects(call.function, call.arguments):
        reason = _refusal(value)
        if reason is not None:
            return f"{who}: {what} is {_article(type(value).__name__)}, which can't be pickled ({reason})"
    return f"{who}: {error_text(error)}"


def _suspects(function: Any, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What travels with a call, by the names that its author gave."""
    for name, value in arguments.items():
        yield f"its argument {name!r}", value
    seen: set[int] = set()
    functions = [function]
    while functions:
        one = functions.pop()
        one = getattr(one, "__func__", one)
        code = getattr(one, "__code__", None)
        if code is None or id(one) in seen:
            continue
        seen.add(id(one))
        defaults = getattr(one, "__kwdefaults__", None) or {}
        positional = code.co_varnames[: code.co_argcount]
        values = one.__defaults__ or ()
        found = [*zip(positional[len(positional) - len(values) :], values, strict=True), *defaults.items()]
        for name, cell in zip(code.co_freevars, one.__closure__ or (), strict=True):
            try:
                found.append((name, cell.cell_contents))
            except ValueError:  # not bound yet
                continue
        found += [(name, one.__globals__[name]) for name in _names(code) if name in one.__globals__]
        for name, value in found:
            if isinstance(value, types.FunctionType):
                functions.append(value)
            yield f"its variable {name!r}", value
    if getattr(function, "__self__", None) is not None:
        yield "the object whose method it is", function.__self__


def _names(code: types.CodeType) -> set[str]:
    """The names that some code looks up, and code inside it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _refusal(value: object) -> str | None:
    """Why `value` can't be pickled; None when it can, or is a function, whose own variables are looked at."""
    if isinstance(value, (types.FunctionType, types.ModuleType)):
        return None
    try:
        pack(value)
    except Exception as error:
        return error_text(error)
    return None


def _article(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


# An outcome on its way back.


class Reply:
    """An outcome as it travels. The texts of errors travel apart from the objects, which may be unreadable here."""

    __slots__ = ("body", "failure", "name", "outcome", "trouble")

    def __init__(self, name: str, outcome: Outcome, body: Package | None, failure: Any, trouble: str | None) -> None:
        self.name = name
        self.outcome = outcome
        self.body = body  # the result, or the exceptions of `failure`
        self.failure = failure  # tracebacks and links of the exceptions; None for a result
        self.trouble = trouble  # why there is no body

    def __reduce__(self) -> tuple[Any, ...]:
        return _reply, (self.name, _fields(self.outcome), self.body, self.failure, self.trouble)


def _fields(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.where, outcome.started, outcome.seconds, outcome.text, outcome.sent


def _reply(name: str, fields: tuple[Any, ...], body: Package | None, failure: Any, trouble: str | None) -> Reply:
    return Reply(name, Outcome(None, None, *fields), body, failure, trouble)


def pack_outcome(name: str, outcome: Outcome, store: Store | None = None) -> Reply:
    """The outcome of action `name`; if it can't travel, what can be told of it."""
    if outcome.error is None:
        if type(outcome.result) in _ATOMS:
            return Reply(name, outcome, Package(pickle.dumps(outcome.result, 5), []), None, None)
        try:
            return Reply(name, outcome, pack(outcome.result, store), None, None)
        except Exception as error:
            kind = type(outcome.result).__name__
            text = f"returned {_article(kind)}, which can't be sent back: {error_text(error)}"
            return Reply(name, outcome, None, None, text)
    failure = _described(outcome.error, set())
    try:
        body = pack(_exceptions(outcome.error, set()))
        unpack(body)  # many exceptions can be pickled, and then not be read
    except Exception as error:
        text = f"raised {error_text(outcome.error)}; the exception can't be sent back: {error_text(error)}"
        return Reply(name, outcome, None, failure, text)
    return Reply(name, outcome, body, failure, None)


def unpack_outcome(reply: Reply) -> Outcome:
    """The outcome that came back. One that can't be read is an outcome with a `TransferError`."""
    outcome, trouble = reply.outcome, reply.trouble
    if reply.body is not None:
        try:
            value = unpack(reply.body)
            if reply.failure is None:
                outcome.result = value
            else:
                _restore(value, reply.failure)
                outcome.error = value[0]
            return outcome
        except Exception as error:
            what = "raised" if reply.failure is not None else "returned"
            told = f" {reply.failure[0]}," if reply.failure is not None else ""
            trouble = f"{what}{told} something that can't be read here: {error_text(error)}"
    outcome.error = TransferError(f"action {reply.name}() in {outcome.where} {trouble}")
    if reply.failure is not None:
        outcome.error.__traceback__ = _traceback(reply.failure[1])
    return outcome


# Exceptions: pickle drops tracebacks, causes and contexts, so these travel beside them.


def _related(error: BaseException) -> list[BaseException]:
    parts = [*error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    return [one for one in (error.__cause__, error.__context__, *parts) if one is not None]


def _exceptions(error: BaseException, seen: set[int]) -> tuple[Any, ...]:
    """An exception with those it is linked to, each once, as `_described` walks them."""
    seen.add(id(error))
    return error, [None if id(one) in seen else _exceptions(one, seen) for one in _related(error)]


def _described(error: BaseException, seen: set[int]) -> tuple[Any, ...]:
    """Text, frames and links of an exception and of those it is linked to."""
    seen.add(id(error))
    links = (error.__cause__ is not None, error.__context__ is not None, error.__suppress_context__)
    related = [None if id(one) in seen else _described(one, seen) for one in _related(error)]
    notes = [note for note in getattr(error, "__notes__", None) or () if isinstance(note, str)]
    return error_text(error), list(_frames(error.__traceback__)), links, related, notes


def _restore(tree: tuple[Any, ...], description: tuple[Any, ...]) -> None:
    error, related = tree
    _, frames, (has_cause, has_context, suppress), descriptions, notes = description
    if notes:  # an exception's own `__reduce__` may not know of them
        error.__notes__ = notes
    for one, its in zip(related, descriptions, strict=True):
        if one is not None:
            _restore(one, its)
    linked = [None if one is None else one[0] for one in related]
    if has_cause:
        error.__cause__ = linked.pop(0)
    if has_context:
        error.__context__ = linked.pop(0)
    error.__suppress_context__ = suppress
    error.__traceback__ = _traceback(frames)


def _frames(trace: types.TracebackType | None) -> Iterator[_Frame]:
    while trace is not None:
        code = trace.tb_frame.f_code
        where = next(itertools.islice(code.co_positions(), trace.tb_lasti // 2, None), None)
        if where is None or where[0] is None:
            where = (trace.tb_lineno, trace.tb_lineno, None, None)
        yield code.co_filename, code.co_name, str(trace.tb_frame.f_globals.get("__name__")), *where
        trace = trace.tb_next


def _traceback(frames: list[_Frame]) -> types.TracebackType | None:
    trace: types.TracebackType | None = None
    for frame in reversed(frames):
        trace = _stand_in(frame, trace)
    return trace


def _stand_in(frame: _Frame, after: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback entry that shows a frame of another process: an empty function raised at the same place."""
    file, name, module, line, end_line, column, end_column = frame
    line = line or 1
    place: Any = {"lineno": line, "col_offset": column or 0}
    place |= {"end_lineno": end_line or line, "end_col_offset": end_column or 0}
    raising = ast.Raise(ast.Call(ast.Name("Exception", ast.Load(), **place), [], [], **place), None, **place)
    code = compile(ast.Module([raising], []), file, "exec").replace(co_name=name, co_qualname=name)
    try:
        exec(code, {"__name__": module, "__file__": file})
    except Exception as error:
        entry = error.__traceback__.tb_next if error.__traceback__ is not None else None
        if entry is None:
            return after
        return types.TracebackType(after, entry.tb_frame, entry.tb_lasti, line)
    return after
