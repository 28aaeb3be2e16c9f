"""The magics: `%%onix_flow`, a cell as a flow in the background; `%onix_runs`, `%onix_timeline` and `%onix_cancel`."""

from __future__ import annotations

import keyword
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, get_args

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from .. import config
from ..config import OnRerun
from ..engine.flows import start_flow
from ..engine.history import runs
from ..engine.session import live
from ..explore.runs import Runs
from ..live.view import show
from ..model.definition import Definition, Durability, OnChange
from .cells import CellBody, Landings, NamedFlows, in_batch, next_number
from .executions import UNFINISHED, Execution
from .output import tell

if TYPE_CHECKING:
    import pandas as pd


@magics_class
class OnixMagics(Magics):
    """The magics of onix_nb."""

    def __init__(self, shell: InteractiveShell, landings: Landings) -> None:
        super().__init__(shell)
        self._landings = landings
        self._named = NamedFlows(shell)

    @no_var_expand
    @magic_arguments()
    @argument("name", nargs="?", metavar="NAME", help="the variable that becomes the future of the flow")
    @argument("--wait", action="store_true", help="wait until the flow has ended, and raise its exception")
    @argument("--no-wait", action="store_true", help="go on at once in batch, too, where flow cells wait by default")
    @argument("--local", action="store_true", help="keep the names that the cell binds out of the notebook")
    @argument(
        "--on-rerun",
        choices=get_args(OnRerun),
        help="when the cell is run again while its flow goes on: attach to it (default), restart it, or run one more",
    )
    @argument("--durable", action="store_true", help="record what its actions return, so that it survives the kernel")
    @argument("--fresh", action="store_true", help="durable: start anew, and forget what is recorded")
    @argument(
        "--keep", metavar="ACTION", action="append", help="durable: reuse its results though its code has changed"
    )
    @argument(
        "--on-change",
        choices=get_args(OnChange),
        help="durable: when the code has changed, report what runs (default), or raise at the first difference",
    )
    @cell_magic
    def onix_flow(self, line: str, cell: str) -> None:
        """Run the cell as a flow in the background; it returns at once and shows the flow live.

        The cell may start actions and flows, await, and use magics. It runs on a copy of the
        notebook's names, taken when it starts. When it succeeds, the names that it has bound land
        in the notebook, between cells; a name that you have rebound meanwhile stays yours.
        The value of its last expression is the flow's result.

        With `--durable` the outcome of each action is recorded in the journal of the notebook, under
        NAME. After a restart of the kernel, run the cells again: the flow goes on where it was.

        In batch (papermill, nbclient, `nbconvert --execute`) the cell waits, as with `--wait`.
        """
        __tracebackhide__ = True
        options = parse_argstring(self.onix_flow, line)
        name = _checked(options.name)
        if options.wait and options.no_wait:
            raise UsageError("%%onix_flow: --wait and --no-wait exclude each other")
        shell = self.shell
        assert shell is not None
        body = CellBody(shell, cell)
        flow = name or f"cell {next_number(shell) - 1}"
        definition = Definition(
            flow,
            "flow",
            self._landings.body(flow, body, local=options.local),
            is_async=body.is_async,
            durable=_durability(options, name, body),
        )
        execution = live().execution
        future = None
        if isinstance(execution, Execution):
            policy = options.on_rerun or config.current.on_rerun
            future = execution.take_over_flow((name, body.fingerprint()), policy)
        if future is None:
            future = start_flow(definition, {}, _Origin(body.code))
        if name is not None:
            self._named.bind(name, future, cell)
        entries = runs([future]).entries
        show(entries, execution.note(entries) if isinstance(execution, Execution) else "")
        if options.wait or (in_batch(shell) and not options.no_wait):
            future.result()

    @magic_arguments()
    @argument("name", nargs="?", metavar="NAME", help="only runs of functions, or flow cells, with this name")
    @argument("--failed", action="store_true", help="only those that failed")
    @argument("--unfinished", action="store_true", help="only those that wait or run")
    @argument("--leaked", action="store_true", help="only those whose flow returned without consuming them")
    @argument("--frame", action="store_true", help="as a pandas DataFrame instead of a live view")
    @argument("--journal", action="store_true", help="instead, what the journal of durable flows holds")
    @line_magic
    def onix_runs(self, line: str) -> Any:
        """Show what this kernel runs and ran, live; or a part of it.

        `failed = %onix_runs --failed` gives the runs, as `onix.runs()` does.
        """
        options = parse_argstring(self.onix_runs, line)
        if options.journal:
            return _held()
        found = runs(name=_unquoted(options.name))
        entries = [
            (run, future)
            for run, future in found.entries
            if (not options.failed or run.status == "failed")
            and (not options.unfinished or run.status in UNFINISHED)
            and (not options.leaked or run.leaked)
        ]
        return Runs(entries).to_frame() if options.frame else Runs(entries)

    @magic_arguments()
    @argument("name", nargs="?", metavar="NAME", help="only runs of functions, or flow cells, with this name")
    @line_magic
    def onix_timeline(self, line: str) -> None:
        """Draw when runs waited and ran, with what they started, by matplotlib."""
        from ..explore.timeline import timeline  # numpy and matplotlib are imported for those who draw

        options = parse_argstring(self.onix_timeline, line)
        timeline(_with_children(runs(name=_unquoted(options.name))))

    @magic_arguments()
    @argument("which", nargs="?", metavar="ID|NAME", help="the id of a run, or the name of functions or flow cells")
    @argument("--all", action="store_true", help="everything that has not ended")
    @line_magic
    def onix_cancel(self, line: str) -> None:
        """Cancel what waits or runs, as `future.cancel(interrupt=True)` does, with everything that it started."""
        options = parse_argstring(self.onix_cancel, line)
        which = _unquoted(options.which)
        if options.all == (options.which is not None):
            raise UsageError("%onix_cancel: say which: the id of a run, a name, or --all")
        found = [
            (run, future)
            for run, future in runs(status=UNFINISHED).entries
            if future is not None and (options.all or which in (str(run.id), run.name))
        ]
        if not found and not options.all:
            raise UsageError(f"%onix_cancel: nothing that waits or runs has the id or the name {which!r}")
        cancelled = sum(future.cancel(interrupt=True) for _, future in found if future is not None)
        tell(f"cancelled {cancelled} run{'s' * (cancelled != 1)}")

    def complete(self, shell: InteractiveShell, event: Any) -> list[str]:
        """What may follow `%onix_runs`, `%onix_timeline` and `%onix_cancel`."""
        command = event.line.split()[0].lstrip("%")
        found = runs(status=UNFINISHED if command == "onix_cancel" else None)
        words = [*_OPTIONS[command], *sorted({run.name for run in found if " " not in run.name})]
        if command == "onix_cancel":
            words += [str(run.id) for run in found]
        return [word for word in words if word.startswith(event.symbol)]


# The magics that complete what follows them, with their options.
_OPTIONS: Final[Mapping[str, Sequence[str]]] = {
    "onix_runs": ("--failed", "--frame", "--journal", "--leaked", "--unfinished"),
    "onix_timeline": (),
    "onix_cancel": ("--all",),
}
LINE_MAGICS: Final = tuple(_OPTIONS)


def _durability(options: Any, name: str | None, body: CellBody) -> Durability | None:
    """What the options say of a durable flow; None without `--durable`."""
    if not options.durable:
        for option in ("fresh", "keep", "on_change"):
            if getattr(options, option):
                raise UsageError(f"%%onix_flow: --{option.replace('_', '-')} needs --durable")
        return None
    if name is None:
        raise UsageError("%%onix_flow: --durable needs a NAME, under which the flow is found again")
    if body.is_async:
        raise UsageError("%%onix_flow: a durable cell can't await, because what it awaits has no order to repeat")
    from ..engine.durable import tell_unfinished  # SQLite is for those who have a durable flow

    tell_unfinished()
    code, uses = body.digest()
    on_change: OnChange = options.on_change or "report"
    return Durability(None, options.fresh, frozenset(options.keep or ()), on_change, code, uses)


def _held() -> pd.DataFrame:
    """What the journal holds, a row for each durable flow."""
    import pandas as pd  # for those who look

    from ..engine.durable import held

    flows = held()
    return pd.DataFrame(
        {
            "id": [one.flow.id for one in flows],
            "flow": [one.flow.name for one in flows],
            "status": [one.flow.status for one in flows],
            "started": _times(one.flow.started for one in flows),
            "finished": _times(one.flow.finished for one in flows),
            "calls": [one.calls for one in flows],
            "bytes": [one.size for one in flows],
        }
    )


def _times(seconds: Iterable[float | None]) -> pd.Series[Any]:
    """Seconds since the epoch as UTC times."""
    import pandas as pd

    return pd.to_datetime(pd.Series(list(seconds), dtype="float64"), unit="s", utc=True).dt.round("s")


def _unquoted(text: str | None) -> str | None:
    """A name as it is: IPython keeps the quotes that hold it together."""
    quoted = text is not None and len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if text is not None and quoted else text


def _with_children(chosen: Runs) -> Runs:
    """The runs, and everything below them."""
    found = dict(chosen.entries)
    for run, future in runs().entries:  # a parent comes before what it started
        if run.parent in found:
            found.setdefault(run, future)
    return Runs(found.items())


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
