"""`%load_ext onix_nb`, and everything that it changes in IPython; unloading takes all of it back."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from .. import config
from ..engine.session import live
from ..engine.waiting import DoneAndNotDone
from ..explore.runs import Runs
from ..live import clicks
from ..live.view import refresher, show
from ..model.future import Entry, Future
from ..model.output import tell
from ..model.run import Run, name_cells
from . import autoreload
from .cells import Landings, cell_of, next_number
from .executions import Execution, Executions
from .interrupts import Interrupts
from .magics import LINE_MAGICS, OnixMagics
from .output import capture, expect_exit, floods, release

ALIAS = "onix"


class Extension:
    """What is registered with one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._landings = Landings(shell)
        self._executions = Executions()
        self._interrupts = Interrupts()
        self._aliased = False
        # Failures that were there when the running cell began: reported when it ends.
        self._failed: list[Run] = []

    def load(self) -> None:
        """Registers the magics, the displays, the hooks and the alias."""
        magics = OnixMagics(self._shell, self._landings)
        self._shell.register_magics(magics)
        for name in LINE_MAGICS:
            self._shell.set_hook("complete_command", magics.complete, str_key=f"%{name}")
        formatter = self._shell.display_formatter.ipython_display_formatter  # type: ignore[union-attr]
        formatter.for_type(Future, _show_future)
        formatter.for_type(DoneAndNotDone, _show_waited)
        formatter.for_type(Runs, _show_runs)
        self._shell.events.register("pre_run_cell", self._before_cell)
        self._shell.events.register("post_run_cell", self._after_cell)
        self._shell.observe(self._on_exit, "exit_now")
        self._captured = capture(sys.stdout, sys.stderr)
        name_cells(functools.partial(cell_of, self._shell))
        self._alias()
        # The cell that loads the extension may start runs, too.
        live().cell = f"In [{next_number(self._shell) - 1}]"

    def unload(self) -> None:
        """Leaves IPython as it was before `load`."""
        clicks.close()
        autoreload.unfollow()
        name_cells()
        release(self._captured)
        self._shell.unobserve(self._on_exit, "exit_now")
        self._shell.events.unregister("pre_run_cell", self._before_cell)
        self._shell.events.unregister("post_run_cell", self._after_cell)
        formatter = self._shell.display_formatter.ipython_display_formatter  # type: ignore[union-attr]
        for shown in (Future, DoneAndNotDone, Runs):
            formatter.pop(shown, None)
        manager = self._shell.magics_manager
        manager.magics["cell"].pop("onix_flow", None)
        for name in LINE_MAGICS:
            manager.magics["line"].pop(name, None)
            self._shell.strdispatchers["complete_command"].strs.pop(f"%{name}", None)
        manager.registry.pop(OnixMagics.__name__, None)
        if self._aliased and sys.modules.get(ALIAS) is sys.modules["onix_nb"]:
            sys.modules.pop(ALIAS, None)
        live().cell = None
        live().execution = None

    def _alias(self) -> None:
        """Makes `import onix` work, unless that name is taken."""
        ours = sys.modules["onix_nb"]
        taken = sys.modules.get(ALIAS)
        if taken is ours:
            return
        if taken is not None or importlib.util.find_spec(ALIAS) is not None:
            tell(
                "another package named 'onix' is installed, so `import onix` stays that one; "
                "use `import onix_nb as onix`"
            )
            return
        sys.modules[ALIAS] = ours
        self._aliased = True

    def _on_exit(self, change: Any) -> None:
        """The kernel, or the terminal, is about to end."""
        if change["new"]:
            expect_exit(sys.stdout, sys.stderr)

    def _before_cell(self, info: Any) -> None:
        session = live()
        session.cell = f"In [{next_number(self._shell)}]"
        self._failed = session.unseen()
        cell_id = getattr(info, "cell_id", None)
        if cell_id:
            refresher.drop(cell_id)
        self._landings.land()
        autoreload.follow()
        session.execution = self._executions.begin(cell_id, info.raw_cell, config.current.on_rerun)
        self._interrupts.before_cell()

    def _after_cell(self, result: Any) -> None:
        live().execution = self._executions.end(succeeded=result.success)
        self._landings.land()
        refresher.flush()
        self._interrupts.after_cell(result)
        floods.tell()
        failed, self._failed = self._failed, []
        if failed:
            live().report(failed)


def _show_future(future: Future[Any]) -> None:
    if future.run is None:
        print(repr(future))  # made by hand: there is no run to show
    else:
        _show([(future.run, future)])


def _show_waited(waited: DoneAndNotDone[Any]) -> None:
    _show(waited.runs.entries, f"{len(waited.done)} done, {len(waited.not_done)} not done")


def _show_runs(runs: Runs) -> None:
    _show(runs.entries)


def _show(entries: Sequence[Entry], note: str = "") -> None:
    """A view, which says what of it the cell has taken over from when it ran before."""
    execution = live().execution
    attached = execution.note(entries) if isinstance(execution, Execution) else ""
    show(entries, "; ".join(filter(None, (note, attached))))


_loaded: Extension | None = globals().get("_loaded")


def load(shell: InteractiveShell) -> None:
    """Loads the extension into `shell`; loading twice changes nothing."""
    global _loaded
    if _loaded is None:
        _loaded = Extension(shell)
        _loaded.load()


def unload(shell: InteractiveShell) -> None:
    """Unloads the extension; what runs goes on."""
    global _loaded
    if _loaded is not None:
        _loaded.unload()
        _loaded = None
