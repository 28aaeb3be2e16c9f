"""When runs waited and ran: a Gantt chart on matplotlib's Axes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..engine.history import Runs
from ..engine.history import runs as all_runs
from ..model.future import Future
from ..model.run import Run, Status
from ..model.waiting import DoneAndNotDone

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS: Final[dict[Status, str]] = {
    "pending": "#999999",
    "running": "#0072b2",
    "succeeded": "#009e73",
    "failed": "#d55e00",
    "cancelled": "#cc79a7",
}
# How many names fit at the left; of more rows, every n-th is named.
MOST_LABELS: Final = 60


def timeline(runs: Any = None, *, ax: Axes | None = None) -> Axes:
    """Draws runs on given Axes or on new ones; `onix.timeline` describes it."""
    if ax is None:
        from matplotlib import pyplot

        chosen = nested(_chosen(runs))
        _, ax = pyplot.subplots(figsize=(9, min(12.0, 1.4 + 0.26 * len(chosen))), layout="constrained")
    else:
        chosen = nested(_chosen(runs))
    now = time.monotonic()
    origin = min((run.queued for run, _ in chosen), default=now)
    for row, (run, _) in enumerate(chosen):
        _draw(ax, row, run, origin, now)
    step = -(-len(chosen) // MOST_LABELS) or 1
    ax.set_yticks(
        range(0, len(chosen), step),
        [f"{'   ' * depth}{run.name}" for run, depth in chosen[::step]],
        ha="left",
        family="monospace",
    )
    _tidy(ax, len(chosen))
    present = {run.status for run, _ in chosen}
    handles = [_patch(colour, status) for status, colour in COLOURS.items() if status in present]
    if handles:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return ax


def _chosen(runs: Any) -> list[Run]:
    """The runs that a caller named.

    Raises:
        TypeError: Something is neither a future nor a run.
    """
    if runs is None:
        return list(all_runs())
    if isinstance(runs, DoneAndNotDone):
        members: Iterable[Any] = [*runs.done, *runs.not_done]
    elif isinstance(runs, (Run, Future)):
        members = [runs]
    else:
        members = runs if isinstance(runs, Runs) else list(runs)
    chosen = []
    for member in members:
        run = member.run if isinstance(member, Future) else member
        if not isinstance(run, Run):
            raise TypeError(f"timeline() takes futures that .start() returned, or runs, not {member!r}")
        chosen.append(run)
    return sorted(chosen, key=lambda run: run.id)


def nested(chosen: Sequence[Run]) -> list[tuple[Run, int]]:
    """Runs in order of starting, each followed by the runs below it, with their depth."""
    among = set(chosen)
    children: dict[Run | None, list[Run]] = {}
    for run in chosen:
        children.setdefault(run.parent if run.parent in among else None, []).append(run)
    rows = []
    stack = [(run, 0) for run in reversed(children.get(None, []))]
    while stack:
        run, depth = stack.pop()
        rows.append((run, depth))
        stack += [(child, depth + 1) for child in reversed(children.get(run, []))]
    return rows


def _draw(ax: Axes, row: int, run: Run, origin: float, now: float) -> None:
    """One row: the time in the queue lightly, earlier attempts, and the last one in its status's colour."""
    colour = COLOURS[run.status]
    ended = now if run.finished is None else run.finished
    began = ended if run.started is None else run.started
    ax.barh(row, began - run.queued, left=run.queued - origin, height=0.62, color=colour, alpha=0.25)
    for span in run.spans or ():
        width = span.finished - span.started
        ax.barh(row, width, left=span.started - origin, height=0.62, color=COLOURS["failed"], alpha=0.7)
        began = max(began, span.finished)
    if run.started is not None:
        ax.barh(row, ended - began, left=began - origin, height=0.62, color=colour)


def _tidy(ax: Axes, rows: int) -> None:
    ax.set_ylim(max(rows, 1) - 0.4, -0.6)
    ax.set_xlabel("seconds")
    ax.margins(x=0.01)
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0, pad=4 + 6 * max((len(t.get_text()) for t in ax.get_yticklabels()), default=0))
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
