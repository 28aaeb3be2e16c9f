"""Memory that the kernel shares with the processes that it has started: files in `/dev/shm`, where there is one.

A buffer is laid into a file once, however many calls take it at the same time, and mapped there copy-on-write: a
function may change its argument without anybody else seeing it. The file goes when the last of those calls has ended.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import shutil
import tempfile
import threading
from typing import Any, Final

_SHM: Final = "/dev/shm"


class Laid:
    """A buffer in a file, as it travels."""

    __slots__ = ("once", "path")

    def __init__(self, path: str, once: bool) -> None:
        self.path = path
        self.once = once  # who takes it is the only one, and removes the file

    def get(self) -> mmap.mmap:
        """The buffer: what is changed in it stays here."""
        with open(self.path, "rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if self.once:
            os.unlink(self.path)
        return buffer

    def __reduce__(self) -> tuple[Any, ...]:
        return Laid, (self.path, self.once)


class OneWay:
    """A `Store` for what goes to one who takes it once: results."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    def put(self, buffer: memoryview) -> Laid | None:
        """Lays the buffer into a file of its own."""
        path = os.path.join(self._folder, f"{os.getpid()}-{next(self._numbers)}")
        return Laid(path, True) if _lay(path, buffer) else None


class Shared:
    """The files of a kernel, with the number of calls that need each."""

    def __init__(self) -> None:
        writable = os.path.isdir(_SHM) and os.access(_SHM, os.W_OK)
        self.folder = tempfile.mkdtemp(prefix="onix-", dir=_SHM if writable else None)
        self._numbers = itertools.count(1)
        # By address and size: its file, and how many calls need it. Guarded by `_lock`, also while a file is written,
        # so that calls that start at once write one file.
        self._files: dict[tuple[int, int], list[Any]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Removes the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def lay(self, buffer: memoryview) -> tuple[tuple[int, int], Laid] | None:
        """The file that has the buffer's bytes, needed by one more call; a new one unless there is one already."""
        key = _address(buffer), buffer.nbytes
        with self._lock:
            entry = self._files.get(key)
            if entry is not None and _same(entry[0].path, buffer):
                entry[1] += 1
                return entry[2], entry[0]
            number = next(self._numbers)
            path = os.path.join(self.folder, f"to-{number}")
            if not _lay(path, buffer):
                return None
            if entry is not None or not key[0]:  # what was there has changed since, and others still need that
                key = (-number, buffer.nbytes)
            self._files[key] = [Laid(path, False), 1, key]
            return key, self._files[key][0]

    def release(self, key: tuple[int, int]) -> None:
        """One call less needs the file."""
        with self._lock:
            entry = self._files[key]
            entry[1] -= 1
            if entry[1]:
                return
            del self._files[key]
        with contextlib.suppress(OSError):
            os.unlink(entry[0].path)


class Needed:
    """A `Store` for one call: it knows which files the call needs."""

    __slots__ = ("_keys", "_shared")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._keys: list[tuple[int, int]] | None = None  # most calls have no big buffer

    def put(self, buffer: memoryview) -> Laid | None:
        """Lays the buffer into a file, unless it is there."""
        laid = self._shared.lay(buffer)
        if laid is None:
            return None
        self._keys = [*(self._keys or ()), laid[0]]
        return laid[1]

    def release(self) -> None:
        """The call has ended."""
        keys, self._keys = self._keys, None
        for key in keys or ():
            self._shared.release(key)


def _lay(path: str, buffer: memoryview) -> bool:
    """Writes a file; False when there is no room."""
    try:
        with open(path, "xb", buffering=0) as file:
            if hasattr(os, "posix_fallocate"):  # or a full /dev/shm would end us by SIGBUS
                os.posix_fallocate(file.fileno(), 0, buffer.nbytes)
            written = 0
            while written < buffer.nbytes:
                written += file.write(buffer[written:])
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        return False
    return True


def _address(buffer: memoryview) -> int:
    """Where the buffer is; 0 when that can't be told."""
    import numpy  # big buffers are numpy's, or of what stands on it

    return int(numpy.frombuffer(buffer, numpy.uint8).ctypes.data)


def _same(path: str, buffer: memoryview) -> bool:
    """Whether the file has the bytes of the buffer."""
    import ctypes

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as there:
        place = ctypes.c_char.from_buffer(there)
        compare = ctypes.CDLL(None).memcmp
        compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        same: bool = compare(ctypes.addressof(place), _address(buffer), buffer.nbytes) == 0
        del place
    return same
