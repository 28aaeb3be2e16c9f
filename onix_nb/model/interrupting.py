"""An exception that is raised in another thread, between two of its bytecodes."""

from __future__ import annotations

import contextlib
import sys
from _thread import get_ident
from collections.abc import Callable

from ..errors import RunCancelled


def raise_in(thread: int) -> None:
    """Raises `RunCancelled` in `thread` at its next bytecode."""
    _set(thread, RunCancelled)


def take_back() -> None:
    """What was sent to this thread, and has not been raised, will not be."""
    _set(get_ident(), None)
    if sys.version_info < (3, 12):
        # There a mark stays for all threads until one of them raises what it was sent. With it Python is slow, and a
        # thread that is traced, by a debugger or for coverage, never gets into the next function.
        with contextlib.suppress(RunCancelled):
            _set(get_ident(), RunCancelled)
            while True:
                pass


def _set(thread: int, exception: type[BaseException] | None) -> None:
    import ctypes  # only when needed: it takes some milliseconds

    set_exception: Callable[..., int] = ctypes.pythonapi.PyThreadState_SetAsyncExc
    set_exception(ctypes.c_ulong(thread), None if exception is None else ctypes.py_object(exception))
