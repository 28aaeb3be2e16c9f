"""A cell as the body of a flow: compiled as IPython would, run on a copy of the notebook's names."""

from __future__ import annotations

import ast
import builtins
import inspect
import types
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from IPython.core.interactiveshell import InteractiveShell

from ..model import digest
from ..model.fingerprint import of_code
from ..model.future import Future
from ..model.output import tell


def next_number(shell: InteractiveShell) -> int:
    """The number of the cell that is about to run, as in `In [3]`.

    From the history, because `execution_count` is that number in some versions of IPython, and
    the one after it in others.
    """
    return len(shell.history_manager.input_hist_parsed)  # type: ignore[union-attr]


def cell_of(shell: InteractiveShell, file: str) -> str | None:
    """The cell that has the code of a file's name, as in `In [3]`; the last one, where several are the same."""
    named = shell.compile.format_code_name(file)
    return None if named is None else f"In [{named[1][3:-1]}]"


def in_batch(shell: Any) -> bool:
    """Whether the running cell belongs to a notebook that is executed in batch, with nobody at the page.

    nbclient, and with it papermill and `nbconvert --execute`, sends no cell id and allows no input. JupyterLab,
    Notebook and VS Code send an id; a console of Jupyter sends none and allows input; a terminal has no kernel.
    """
    if getattr(shell, "kernel", None) is None:
        return False
    return _cell_id(shell) is None and (shell.get_parent().get("content") or {}).get("allow_stdin") is False


class NamedFlows:
    """Which cell made a variable the future of its flow, so that what its NAME hides can be said."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._cells: dict[str, str] = {}

    def bind(self, name: str, future: Future[Any], source: str) -> None:
        """Makes `name` the future of the flow of the running cell; says so if it was something else of the user's."""
        cell = _cell_id(self._shell) or source
        names = self._shell.user_ns
        old = names.get(name, _MISSING)
        own = isinstance(old, Future) and old.run is not None and old.run.name == name and self._cells.get(name) == cell
        if old is not _MISSING and not own:
            tell(f"{name} was {_described(old)}, and is the future of this flow now")
        elif old is _MISSING and hasattr(builtins, name):
            tell(f"{name} is the future of this flow now, and hides the builtin; `del {name}` brings that back")
        self._cells[name] = cell
        names[name] = future


def _cell_id(shell: Any) -> str | None:
    """The id of the running cell; None where the front end sends none."""
    if getattr(shell, "kernel", None) is None:
        return None
    return (shell.get_parent().get("metadata") or {}).get("cellId")


def _described(value: object) -> str:
    if isinstance(value, Future) and value.run is not None:
        return f"the future of {value.run.kind} {value.run.name!r} (run {value.run.id})"
    return f"a variable of type {type(value).__name__}"


_MISSING: Final = object()


class CellBody:
    """A cell's code, ready to run in the background.

    Attributes:
        code: The compiled statements, whose file name is the cell's in tracebacks.
        is_async: Whether the cell awaits at its top level.
    """

    def __init__(self, shell: InteractiveShell, cell: str) -> None:
        """Compiles the cell.

        Raises:
            Exception: The cell has a syntax error; it is shown like that of a plain cell.
        """
        self._names = shell.user_ns
        try:
            self._compile(shell, cell)
        except SyntaxError as error:
            raise _without_frames(shell, error) from None

    def _compile(self, shell: InteractiveShell, cell: str) -> None:
        source = shell.transform_cell(cell)
        file = shell.compile.cache(source, next_number(shell) - 1, raw_code=cell)
        flags = shell.compile.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = ast.parse(source, file)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self.code: types.CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True)
        self._value: types.CodeType | None = None
        if isinstance(last, ast.Expr):
            self._value = compile(ast.Expression(last.value), file, "eval", flags=flags, dont_inherit=True)
        self._codes = (self.code,) if self._value is None else (self.code, self._value)
        self.is_async = any(code.co_flags & inspect.CO_COROUTINE for code in self._codes)

    def fingerprint(self) -> Hashable:
        """What the cell does, with what it uses of the notebook now."""
        return of_code(self._codes, self._names)

    def digest(self) -> tuple[bytes, tuple[Any, ...]]:
        """The same, for a durable flow: it holds in another kernel. With the actions and flows that it uses."""
        met: list[Any] = []
        codes = (self.code,) if self._value is None else (self.code, self._value)
        return digest.of_code(codes, self._names, met), tuple(met)

    def run(self, names: dict[str, Any]) -> Any:
        """Runs the cell with `names` as its globals; the value of its last expression."""
        __tracebackhide__ = True
        exec(self.code, names)
        return None if self._value is None else eval(self._value, names)

    async def run_async(self, names: dict[str, Any]) -> Any:
        """The same for a cell that awaits."""
        __tracebackhide__ = True
        value = None
        for code in (self.code, self._value):
            if code is not None:
                value = eval(code, names)
                if inspect.iscoroutine(value) and code.co_flags & inspect.CO_COROUTINE:
                    value = await value
        return None if self._value is None else value


def _without_frames(shell: InteractiveShell, error: SyntaxError) -> Exception:
    """A stand-in for `error` that IPython shows as the syntax error of a plain cell, without a frame.

    A real one that comes out of a magic it shows with all frames that led there, most of them its own and ours.
    """

    class Shown(Exception):
        def _render_traceback_(self) -> list[str]:
            return shell.SyntaxTB.structured_traceback(type(error), error, [])  # type: ignore[arg-type]

    Shown.__name__ = Shown.__qualname__ = type(error).__name__
    return Shown(str(error))


def bound_names(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The names that a body bound anew, with their values."""
    return {
        name: value
        for name, value in after.items()
        if name != "__builtins__" and before.get(name, _MISSING) is not value
    }


def kept_names(bound: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Which of the names that a body bound the user has rebound meanwhile: those are kept."""
    return {name for name in bound if now.get(name, _MISSING) is not before.get(name, _MISSING)}


class Landings:
    """The names that flows bound, on their way into the notebook: they land between cells."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        # Filled by the flows' threads, emptied on the main one.
        self._waiting: deque[tuple[str, dict[str, Any], dict[str, Any]]] = deque()

    def body(self, name: str, cell: CellBody, *, local: bool) -> Callable[[], Any]:
        """The function of the flow `name`: runs the cell on a copy of the notebook's names, taken now."""
        names = dict(self._shell.user_ns)
        before = dict(names)

        def finish() -> None:
            if not local:
                self._waiting.append((name, bound_names(before, names), before))

        def run() -> Any:
            __tracebackhide__ = True
            value = cell.run(names)
            finish()
            return value

        async def run_async() -> Any:
            __tracebackhide__ = True
            value = await cell.run_async(names)
            finish()
            return value

        return run_async if cell.is_async else run

    def land(self) -> None:
        """Puts the names of flows that have succeeded into the notebook; on the main thread."""
        while self._waiting:
            flow, bound, before = self._waiting.popleft()
            kept = kept_names(bound, before, self._shell.user_ns)
            self._shell.user_ns.update({name: value for name, value in bound.items() if name not in kept})
            if kept:
                tell(
                    f"flow {flow} bound {', '.join(sorted(kept))}, but the notebook has rebound "
                    f"{'them' if len(kept) > 1 else 'it'} since; yours {'are' if len(kept) > 1 else 'is'} kept"
                )
