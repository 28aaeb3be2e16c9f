"""Values to bytes and back, and the key that seals them.

A payload is a tag, a version and data: JSON for small plain values, which people and any Python can
read, else a pickle. `decode` is the one place that unpickles, and it does so only for bytes that were
sealed with the user's own key together with everything else in their row.
"""

from __future__ import annotations

import contextlib
import copyreg
import errno
import hashlib
import hmac
import io
import json
import os
import pickle
import re
import secrets
import stat
import struct
import tempfile
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import JournalDamagedError, JournalRefusedError, JournalValueError

Field = None | int | float | str | bytes

_JSON: Final = b"J\x01"
_PICKLE: Final = b"P\x01"
_ERROR: Final = b"E\x01"
# Values in a plain one beyond which it is pickled: the walk below is slower than C.
_MOST_PLAIN: Final = 1_000
# Levels beyond which it is pickled: JSON is read recursively, perhaps deep in a stack.
_DEEPEST_PLAIN: Final = 50
# Bits beyond which an int is pickled: Python may refuse to read so many digits, from 640 on.
_LONGEST_PLAIN: Final = 2_000
# Causes of causes that are kept with an exception.
_DEEPEST: Final = 20
_KEY_BYTES: Final = 32


def encode(value: object) -> bytes:
    """The payload of a value. It comes back equal and with the same types.

    Raises:
        JournalValueError: It can't be pickled.
    """
    with contextlib.suppress(RuntimeError):  # another thread changes it
        if _is_plain(value):
            return _JSON + json.dumps(value, separators=(",", ":")).encode("ascii")
    return _PICKLE + _pickled(value)


def encode_error(error: BaseException) -> bytes:
    """The payload of an exception, with its causes and without tracebacks.

    Raises:
        JournalValueError: It can't be pickled, or comes back as another one.
    """
    data = _pickled(_linked(error), _reducers())
    # Exceptions with a constructor of their own are often rebuilt from the wrong arguments.
    copy = _unpickled(data)[0]
    try:
        same = _looks(copy) == _looks(error)
    except Exception as unreadable:
        raise JournalValueError(f"what a {type(error).__name__} says can't be read") from unreadable
    if not same:
        raise JournalValueError(f"a {type(error).__name__} comes back from its pickle as another exception")
    return _ERROR + data


def decode(key: bytes, mac: bytes, fields: Sequence[Field], payload: bytes) -> Any:
    """The value of a payload, once its row proves to be the one that was sealed.

    Args:
        key: The user's key.
        mac: What `seal` gave for the row.
        fields: Everything else in the row, with `digest(payload)` last.
        payload: What `encode` or `encode_error` gave.

    Raises:
        JournalDamagedError: The row or the payload is not what was sealed.
        JournalValueError: It is, and can't be unpickled here: a class is gone, a module has changed.
    """
    if not hmac.compare_digest(seal(key, *fields), mac) or not fields or fields[-1] != digest(payload):
        raise JournalDamagedError("the row is not what was sealed")
    tag, data = payload[:2], payload[2:]
    if tag == _JSON:
        return json.loads(data)
    if tag == _PICKLE:
        return _unpickled(data)
    if tag == _ERROR:
        return _relinked(_unpickled(data))
    raise JournalValueError(f"written by another onix_nb, as {tag!r}")


def digest(payload: bytes) -> bytes:
    """What stands for a payload in its row's seal, so that a row is proven without reading megabytes."""
    return hashlib.sha256(payload).digest()


def seal(key: bytes, *fields: Field) -> bytes:
    """The code by which only the holder of `key` can vouch for exactly these fields in this order."""
    return hmac.digest(key, b"".join(map(_framed, fields)), "sha256")


def _framed(field: Field) -> bytes:
    """A field with its type and length, so that no other fields give the same bytes."""
    if isinstance(field, bytes):
        return b"B%d:%b" % (len(field), field)
    if isinstance(field, str):
        data = field.encode("utf-8", "surrogatepass")
        return b"S%d:%b" % (len(data), data)
    if isinstance(field, int):
        return b"I%d:" % field
    return b"N" if field is None else b"F" + struct.pack(">d", field)


def _is_plain(value: Any) -> bool:
    """Whether JSON gives the value back exactly, sharing included."""
    level: list[Any] = [value]
    containers: set[int] = set()
    seen = 0
    for _ in range(_DEEPEST_PLAIN):
        seen += len(level)
        if seen > _MOST_PLAIN:
            return False
        inner: list[Any] = []
        for one in level:
            kind = type(one)
            if kind is list or kind is dict:
                if id(one) in containers or len(one) > _MOST_PLAIN:
                    return False
                containers.add(id(one))
                if kind is dict and not all(type(name) is str for name in one):
                    return False
                inner += one
                inner += one.values() if kind is dict else ()
            elif not _is_plain_leaf(one):
                return False
        if not inner:
            return True
        level = inner
    return False


def _is_plain_leaf(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        # Two lone surrogates that make a pair would come back as one character.
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if kind is int:
        return bool(value.bit_length() <= _LONGEST_PLAIN)
    return value is None or kind is bool or kind is float


def _pickled(value: object, reducers: Mapping[type, Any] | None = None) -> bytes:
    """By name what has one, classes of the notebook, too: `except` knows only the class that is there.

    Args:
        value: What is pickled.
        reducers: How types are pickled that have no way of their own; None for what `copyreg` has.
    """
    with contextlib.suppress(Exception):
        return _dumped(pickle, value, reducers)
    import cloudpickle  # 20 ms that few values need

    try:
        return _dumped(cloudpickle, value, reducers)
    except Exception as error:  # whatever a `__reduce__` raises
        raise JournalValueError(f"a {type(value).__name__} can't be pickled: {_said(error)}") from error


def _dumped(module: Any, value: object, reducers: Mapping[type, Any] | None) -> bytes:
    """By the pickler of `module`, which is `pickle` or `cloudpickle`."""
    if reducers is None:
        data: bytes = module.dumps(value, protocol=5)
        return data
    table = ChainMap(dict(getattr(module.Pickler, "_dispatch_table", {})), dict(reducers))
    file = io.BytesIO()
    type("Pickler", (module.Pickler,), {"dispatch_table": table})(file, 5).dump(value)
    return file.getvalue()


def _reducers() -> dict[type, Any]:
    """As in `copyreg`, but for exceptions, into which some libraries put their tracebacks (tblib, which Dask uses)."""
    return {kind: reduce for kind, reduce in copyreg.dispatch_table.items() if not issubclass(kind, BaseException)}


def _unpickled(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # whatever a `__setstate__` raises
        raise JournalValueError(f"what was recorded can't be unpickled: {_said(error)}") from error


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:
        return type(error).__name__


def _looks(error: BaseException) -> tuple[str, str, str]:
    """What tells one exception from another, addresses of objects left out."""
    said, arguments = (re.sub("0x[0-9a-f]+", "0x", text) for text in (str(error), repr(error.args)))
    return type(error).__qualname__, said, arguments


_Linked = tuple[BaseException, Any, Any, bool, Any]


def _linked(error: BaseException, depth: int = 0) -> _Linked:
    """An exception with its cause and context, which pickle leaves out, and notes, which a `__reduce__` may."""

    def further(other: BaseException | None) -> _Linked | None:
        return None if other is None or depth == _DEEPEST else _linked(other, depth + 1)

    cause = further(error.__cause__)
    # Nobody is shown both; and to follow both would double the work at each level.
    context = None if cause or error.__suppress_context__ else further(error.__context__)
    return error, cause, context, error.__suppress_context__, getattr(error, "__notes__", None)


def _relinked(parts: _Linked) -> BaseException:
    error, cause, context, suppress, notes = parts
    if notes is not None:
        error.__notes__ = notes
    error.__cause__ = _relinked(cause) if cause else None
    error.__context__ = _relinked(context) if context else None
    error.__suppress_context__ = suppress
    return error


# The key


def user_key() -> bytes:
    """The user's key, made at the first call. All kernels of the user get the same.

    Raises:
        JournalRefusedError: There is one, and it isn't safely ours; or there is no place for one.
    """
    try:
        path = _made_key(data_folder())
    except (OSError, RuntimeError):
        # No home: the key lasts as long as the machine's temporary files.
        path = _temporary_key()
    return _read_key(path)


def data_folder() -> Path:
    """Where onix_nb keeps what belongs to the user, not to a notebook."""
    from jupyter_core.paths import jupyter_data_dir

    folder = Path(jupyter_data_dir()) / "onix_nb"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _temporary_key() -> Path:
    folder = Path(tempfile.gettempdir()) / f"onix_nb-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise JournalRefusedError(f"{folder} isn't a folder that only you can use. Remove it.")
        return _made_key(folder)
    except OSError as error:
        raise JournalRefusedError(
            f"there is no folder for the key of the journals: {error}. Set JUPYTER_DATA_DIR to a folder of yours."
        ) from error


def _read_key(path: Path) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        link = error.errno in (errno.ELOOP, errno.EMLINK)
        why = "is a symbolic link" if link else f"can't be read: {error.strerror}"
        raise JournalRefusedError(f"the key {path} {why}. {_NEW_KEY}") from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise JournalRefusedError(f"the key {path} isn't a file of yours. {_NEW_KEY}")
        if found.st_mode & 0o077:
            raise JournalRefusedError(f"others may use the key {path}. {_NEW_KEY}")
        key = os.read(file, _KEY_BYTES + 1)
    finally:
        os.close(file)
    if len(key) != _KEY_BYTES:
        raise JournalRefusedError(f"the key {path} isn't one of onix. {_NEW_KEY}")
    return key


_NEW_KEY: Final = "Remove it to get a new one; journals that it sealed are then refused, so remove them, too."


def _made_key(folder: Path) -> Path:
    """Where the key is; a new one is complete when it appears, and where another kernel was first its key stays."""
    path = folder / "journal.key"
    if os.path.lexists(path):
        return path
    file, name = tempfile.mkstemp(prefix=".key-", dir=folder)
    try:
        with open(file, "wb") as stream:
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(file)
        try:
            os.link(name, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links; two first kernels at one moment may then differ
            os.rename(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    sync_folder(folder)
    return path


def sync_folder(folder: Path) -> None:
    """Makes the names of new files in `folder` survive a power cut."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
