"""When runs waited and ran: a Gantt chart on matplotlib's Axes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..engine.history import runs as all_runs
from ..model.future import Future
from ..model.run import Run
from ..model.waiting import DoneAndNotDone

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS: Final[dict[str, str]] = {
    "running": "#0072b2",
    "succeeded": "#009e73",
    "failed": "#d55e00",
    "cancelled": "#cc79a7",
}
QUEUED: Final = "#d9d9d9"
# An attempt that another one followed: the colour of failures, on white.
RETRIED: Final = "#e69566"
# In the order of the legend.
LEGEND: Final[dict[str, str]] = {"queued": QUEUED, "failed attempt": RETRIED, **COLOURS}
MOST_LABELS: Final = 60  # so many names fit at the left; of more rows, every n-th is named
MOST_WITH_GAPS: Final = 200  # of more rows, bars touch each other
LONGEST_NAME: Final = 40


class Segment(NamedTuple):
    """A stretch of a run's time, in seconds of the monotonic clock; its kind is that of the legend."""

    kind: str
    begun: float
    ended: float


def timeline(runs: Any = None, *, ax: Axes | None = None) -> Axes:
    """Draws runs on given Axes or on new ones; `onix.timeline` describes it."""
    rows = nested(_chosen(runs))
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=(9, min(12.0, 1.4 + 0.26 * len(rows))), layout="constrained")
    _draw(ax, [run for run, _ in rows])
    step = -(-len(rows) // MOST_LABELS) or 1
    _name(ax, range(0, len(rows), step), [label(run, depth) for run, depth in rows[::step]])
    _tidy(ax, len(rows))
    return ax


def _chosen(runs: Any) -> Sequence[Run]:
    """The runs that a caller named, in order of starting.

    Raises:
        TypeError: Something is neither a future nor a run.
    """
    if runs is None:
        runs = all_runs()
    elif isinstance(runs, DoneAndNotDone):
        runs = [*runs.done, *runs.not_done]
    elif isinstance(runs, Future) or not isinstance(runs, Iterable):
        runs = [runs]
    chosen = {_run_of(member): None for member in runs}
    return sorted(chosen, key=lambda run: run.id)


def _run_of(member: Any) -> Run:
    run = member.run if isinstance(member, Future) else member
    if not isinstance(run, Run):
        raise TypeError(f"timeline() takes futures that .start() returned, or runs, not {member!r}")
    return run


def nested(chosen: Sequence[Run]) -> list[tuple[Run, int]]:
    """Runs in order of starting, each followed by the runs below it, with their depth."""
    among = set(chosen)
    children: dict[Run | None, list[Run]] = {}
    for run in chosen:
        above = run.parent
        while above is not None and above not in among:
            above = above.parent
        children.setdefault(above, []).append(run)
    rows, stack = [], [(run, 0) for run in reversed(children.get(None, []))]
    while stack:
        run, depth = stack.pop()
        rows.append((run, depth))
        stack += [(child, depth + 1) for child in reversed(children.get(run, []))]
    return rows


def label(run: Run, depth: int) -> str:
    """A run's name, indented, of bounded length, on one line."""
    name = " ".join(run.name.split())
    return "   " * depth + (name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")


def segments(run: Run, now: float) -> Iterator[Segment]:
    """In the queue, the attempts that another one followed, and the last one; unfinished ones up to `now`."""
    ended = now if run.finished is None else run.finished
    begun = ended if run.started is None else run.started
    yield Segment("queued", run.queued, begun)
    for span in run.spans or ():
        yield Segment("failed attempt", span.started, span.finished)
        begun = span.finished
    status = run.status
    if status != "pending":
        yield Segment(status, min(begun, ended), ended)


def _draw(ax: Axes, runs: Sequence[Run]) -> None:
    """The bars and the legend. One call for each kind, because a call takes a millisecond."""
    now = time.monotonic()
    origin = min((run.queued for run in runs), default=now)
    drawn: dict[str, list[tuple[int, Segment]]] = {}
    for row, run in enumerate(runs):
        for segment in segments(run, now):
            drawn.setdefault(segment.kind, []).append((row, segment))
    gaps = len(runs) <= MOST_WITH_GAPS
    height = 0.62 if gaps else 1.0
    for kind, colour in LEGEND.items():
        if bars := drawn.get(kind):
            edge = colour if gaps and kind in COLOURS else "none"  # what ended at once is a line
            ys, widths = [row for row, _ in bars], [bar.ended - bar.begun for _, bar in bars]
            lefts = [bar.begun - origin for _, bar in bars]
            ax.barh(ys, widths, height, lefts, color=colour, edgecolor=edge, linewidth=0.8, label=kind)
    ax.set_xlim(0, None if runs else 1)
    if runs:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def _name(ax: Axes, rows: Sequence[int], names: Sequence[str]) -> None:
    """The names, their left edges in line: what is indented is below what is not."""
    ax.set_yticks(rows, names, ha="left", family="monospace", parse_math=False)
    sizes = [text.get_fontproperties().get_size_in_points() for text in ax.get_yticklabels()]
    ax.tick_params(axis="y", length=0, pad=4 + 0.602 * max(sizes, default=0) * max(map(len, names), default=0))


def _tidy(ax: Axes, rows: int) -> None:
    ax.set_ylim(max(rows, 2) - 0.4, -0.6)
    ax.set_xlabel("seconds")
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
