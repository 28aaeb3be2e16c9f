"""Where an exception comes from, as people who wrote the code read it: cells by name, their own line first."""

from __future__ import annotations

import functools
import os
import re
import site
import sysconfig
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

from ..model.run import Run, cell_of, place

# A line of a traceback that came as text, from another process.
_REMOTE_LINE: Final = re.compile(r'^ *File "(?P<file>[^"\n]+)", line (?P<line>\d+), in ', re.MULTILINE)
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def where(error: BaseException, run: Run) -> str:
    """The line of the user's own code in which `error` was raised or passed last.

    That is neither in onix_nb nor in a library. Where no such line is known, the line that started the run.
    """
    lines = [*_remote_lines(error), *_lines(error.__traceback__)]
    own = next(((file, line) for file, line in reversed(lines) if is_own(file)), None)
    return run.where if own is None else place(*own, run.cell)


def is_own(file: str) -> bool:
    """Whether code in a file is the user's own: of a cell or a prompt, or in a file outside the libraries."""
    if file.startswith("<"):
        return cell_of(file) is not None or file == "<stdin>"
    # Compiled libraries name their sources as they were when they were built.
    return os.path.isabs(file) and not file.startswith((_PACKAGE, *_libraries()))


@functools.cache
def _libraries() -> tuple[str, ...]:
    """The folders of the standard library and of what is installed."""
    paths = sysconfig.get_paths()
    installed = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(f"{folder}{os.sep}" for folder in {*installed, *site.getsitepackages(), site.getusersitepackages()})


def _lines(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    for frame, line in traceback.walk_tb(trace):
        yield frame.f_code.co_filename, line


def _remote_lines(error: BaseException) -> Iterator[tuple[str, int]]:
    """The lines of a traceback that another process sent as text, by which pools of processes set the cause."""
    cause = error.__cause__
    if cause is not None and is_remote(cause):
        for found in _REMOTE_LINE.finditer(cause.tb):  # type: ignore[attr-defined]
            yield found["file"], int(found["line"])


def is_remote(error: BaseException) -> bool:
    """Whether it is no exception of its own, but the text of a traceback, as `concurrent.futures` and loky have it."""
    return type(error).__name__ == "_RemoteTraceback" and type(getattr(error, "tb", None)) is str


def text_of(error: BaseException) -> str:
    """The whole traceback as Python prints it, with causes, notes and groups; cells are named."""
    lines = traceback.format_exception(error)
    return _with_cells("".join(lines))


def _with_cells(text: str) -> str:
    def named(found: re.Match[str]) -> str:
        cell = cell_of(found["file"])
        return found[0] if cell is None else found[0].replace(f'File "{found["file"]}"', f"Cell {cell}", 1)

    return _REMOTE_LINE.sub(named, text)


def stack_of(error: BaseException) -> str:
    """The stack of an exception alone, without running code of its class."""
    return _with_cells("".join(traceback.format_tb(error.__traceback__)))


def causes_of(error: BaseException) -> list[BaseException]:
    """What led to an exception: its cause, else its context, and so on."""
    causes: list[BaseException] = []
    at: Any = error
    while (at := at.__cause__ or (None if at.__suppress_context__ else at.__context__)) is not None:
        if any(at is known for known in (error, *causes)):
            break
        causes.append(at)
    return causes


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, of groups in it, too; of any other exception, itself."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from leaves_of(member)
    else:
        yield error
