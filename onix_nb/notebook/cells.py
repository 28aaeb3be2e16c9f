"""A cell as the body of a flow: compiled as IPython would, run on a copy of the notebook's names."""

from __future__ import annotations

import ast
import inspect
import types
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from IPython.core.interactiveshell import InteractiveShell


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
    message = shell.get_parent()
    cell = (message.get("metadata") or {}).get("cellId")
    return cell is None and (message.get("content") or {}).get("allow_stdin") is False


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
            SyntaxError: With the line of the cell.
        """
        source = shell.transform_cell(cell)
        file = shell.compile.cache(source, next_number(shell) - 1, raw_code=cell)
        flags = shell.compile.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = ast.parse(source, file)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self.code: types.CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True)
        self._value: types.CodeType | None = None
        if isinstance(last, ast.Expr):
            self._value = compile(ast.Expression(last.value), file, "eval", flags=flags, dont_inherit=True)
        codes = [code for code in (self.code, self._value) if code is not None]
        self.is_async = any(code.co_flags & inspect.CO_COROUTINE for code in codes)

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
                print(
                    f"onix_nb: flow {flow} bound {', '.join(sorted(kept))}, but the notebook has rebound "
                    f"{'them' if len(kept) > 1 else 'it'} since; yours {'are' if len(kept) > 1 else 'is'} kept"
                )
