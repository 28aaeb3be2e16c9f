"""`%%onix_flow`: a cell as a flow in the background."""

from __future__ import annotations

import keyword
import types
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from ..engine.flows import start_flow
from ..engine.history import runs
from ..live.view import show
from ..model.definition import Definition
from .cells import CellBody, Landings, next_number


@magics_class
class OnixMagics(Magics):
    """The magics of onix_nb."""

    def __init__(self, shell: InteractiveShell, landings: Landings) -> None:
        super().__init__(shell)
        self._landings = landings

    @no_var_expand
    @magic_arguments()
    @argument("name", nargs="?", metavar="NAME", help="the variable that becomes the future of the flow")
    @argument("--wait", action="store_true", help="wait until the flow has ended, and raise its exception")
    @argument("--local", action="store_true", help="keep the names that the cell binds out of the notebook")
    @cell_magic
    def onix_flow(self, line: str, cell: str) -> None:
        """Run the cell as a flow in the background; it returns at once and shows the flow live.

        The cell may start actions and flows, await, and use magics. It runs on a copy of the
        notebook's names, taken when it starts. When it succeeds, the names that it has bound land
        in the notebook, between cells; a name that you have rebound meanwhile stays yours.
        The value of its last expression is the flow's result.
        """
        __tracebackhide__ = True
        options = parse_argstring(self.onix_flow, line)
        name = _checked(options.name)
        shell = self.shell
        assert shell is not None
        body = CellBody(shell, cell)
        flow = name or f"cell {next_number(shell) - 1}"
        definition = Definition(
            flow, "flow", self._landings.body(flow, body, local=options.local), is_async=body.is_async
        )
        future = start_flow(definition, {}, _Origin(body.code))
        if name is not None:
            shell.user_ns[name] = future
        show(runs([future]).entries)
        if options.wait:
            future.result()


class _Origin:
    """Where a flow cell starts, as a frame would say it: the first line of the cell."""

    f_lasti = 0

    def __init__(self, code: types.CodeType) -> None:
        self.f_code = code


def _checked(name: Any) -> str | None:
    if name is None:
        return None
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"%%onix_flow: NAME must be a name that a variable can have, not {name!r}")
    return str(name)
