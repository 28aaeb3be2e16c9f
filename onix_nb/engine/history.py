"""`onix.runs()`: what this process runs and ran, all of it or what one asks for."""

from __future__ import annotations

import datetime
import time
from collections.abc import Collection, Iterable
from typing import Any, Final, get_args

from ..explore.runs import Runs
from ..model.future import Entry, Future
from ..model.process import refuse_in_child
from ..model.run import EPOCH, Kind, Run, Status
from .session import live
from .waiting import DoneAndNotDone

_STATUSES: Final = get_args(Status)
_KINDS: Final = get_args(Kind)


def runs(
    futures: Iterable[Future[Any]] | None = None,
    *,
    status: str | Collection[str] | None = None,
    name: str | Collection[str] | None = None,
    kind: str | Collection[str] | None = None,
    parent: Future[Any] | Run | int | None = None,
    cell: str | int | None = None,
    since: datetime.datetime | datetime.timedelta | float | None = None,
) -> Runs:
    """What this process runs, and the last ten thousand runs that ended; or some of it. Not in Oryonix.

    `runs().futures` gives back the futures whose variable was lost: those of all runs that have
    not ended, and of the last hundred that cells started.

    Args:
        futures: Only the runs of these futures, in this order.
        status: Only `"pending"`, `"running"`, `"succeeded"`, `"failed"` or `"cancelled"`, or several of them.
        name: Only runs of functions with this name, or these names.
        kind: Only `"action"`, `"flow"` or `"call"`, or several of them.
        parent: Only what this flow started: its future, its run, or its id.
        cell: Only what this cell started, directly or not: `"In [3]"` or 3.
        since: Only what was started at this time or later: an aware time, or so many seconds ago.

    Raises:
        TypeError: Something in `futures` is no future that `.start()` returned; a filter is of a wrong type.
        ValueError: There is no such status or kind; a time without a time zone.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> future = double.start(x=1)
        >>> onix.runs([future])[0].name
        'double'
        >>> future.result()
        2
        >>> len(onix.runs([future], status="failed"))
        0
    """
    refuse_in_child()
    entries = _remembered() if futures is None else [_entry(future) for future in futures]
    if status is not None:
        statuses = _words("status", status, _STATUSES)
        entries = [entry for entry in entries if entry[0].status in statuses]
    if name is not None:
        names = _words("name", name)
        entries = [entry for entry in entries if entry[0].name in names]
    if kind is not None:
        kinds = _words("kind", kind, _KINDS)
        entries = [entry for entry in entries if entry[0].kind in kinds]
    if parent is not None:
        above = _id_of(parent)
        entries = [(run, future) for run, future in entries if run.parent is not None and run.parent.id == above]
    if cell is not None:
        label = _label_of(cell)
        entries = [entry for entry in entries if entry[0].cell == label]
    if since is not None:
        moment = _moment_of(since)
        entries = [entry for entry in entries if entry[0].queued >= moment]
    return Runs(entries)


runs.__module__ = "onix_nb"


def chosen(what: Any) -> Runs:
    """The runs that a caller means by futures, runs, or what `wait` or `runs` returned; None for all.

    Raises:
        TypeError: Something is neither a future that `.start()` returned nor a run.
    """
    if what is None:
        return runs()
    if isinstance(what, Runs):
        return what
    if isinstance(what, DoneAndNotDone):
        return what.runs
    if isinstance(what, (Future, Run)) or not isinstance(what, Iterable):
        what = [what]
    return Runs([(member, None) if isinstance(member, Run) else _entry(member) for member in what])


def _remembered() -> list[Entry]:
    session = live()
    known: dict[Run | None, Future[Any]] = {future.run: future for future in session.futures()}
    return [(run, known.get(run)) for run in session.runs()]


def _entry(future: Any) -> Entry:
    if not isinstance(future, Future) or future.run is None:
        raise TypeError(f"this takes futures that .start() returned, and no {future!r}")
    return future.run, future


def _words(option: str, value: Any, known: Collection[str] | None = None) -> Collection[str]:
    words = {value} if isinstance(value, str) else set(value) if isinstance(value, Iterable) else {value}
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"{option}= takes a text, or several, not {value!r}")
        if known is not None and word not in known:
            raise ValueError(f"{option}= takes one of {', '.join(map(repr, known))}, not {word!r}")
    return words


def _id_of(parent: Any) -> int:
    run = parent.run if isinstance(parent, Future) else parent
    number = run.id if isinstance(run, Run) else run
    if type(number) is not int:
        raise TypeError(f"parent= takes the future, the run or the id of a flow, not {parent!r}")
    return number


def _label_of(cell: Any) -> str:
    if isinstance(cell, bool) or not isinstance(cell, (str, int)):
        raise TypeError(f"cell= takes a cell's number, or `In [3]` as text, not {cell!r}")
    return cell if isinstance(cell, str) else f"In [{cell}]"


def _moment_of(since: Any) -> float:
    """The monotonic time."""
    if isinstance(since, datetime.datetime):
        if since.tzinfo is None:
            raise ValueError(f"since= takes a time with a time zone, as datetime.now(UTC) is, not {since!r}")
        return since.timestamp() - EPOCH  # as the times of runs are shown
    if isinstance(since, datetime.timedelta):
        return time.monotonic() - since.total_seconds()
    if isinstance(since, bool) or not isinstance(since, (int, float)):
        raise TypeError(f"since= takes a time, a timedelta or a number of seconds, not {since!r}")
    return time.monotonic() - since
