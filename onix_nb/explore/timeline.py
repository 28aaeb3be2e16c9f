"""When runs waited and ran: a Gantt chart on matplotlib's Axes.

Up to 200 runs have a row and a name each. Up to 5,000 share lanes: as many as ran at the same time. Of more, curves
say how many ran. Bars of one kind are one collection, because matplotlib takes its time for each artist.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ..model.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS: Final = 200
MOST_BARS: Final = 5_000
MOST_LABELS: Final = 60  # so many names fit at the left; of more rows, every n-th is named
BINS: Final = 600  # along the time axis, of very many runs
LONGEST_NAME: Final = 40

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS: Final[dict[str, str]] = {
    "running": "#0072b2",
    "succeeded": "#009e73",
    "failed": "#d55e00",
    "cancelled": "#cc79a7",
}
# In the order of the legend, with their opacity: what is light lets the background through, light or dark.
LEGEND: Final[dict[str, tuple[str, float]]] = {
    "queued": ("#8c8c8c", 0.35),
    "failed attempt": (COLOURS["failed"], 0.55),
    **{status: (colour, 1.0) for status, colour in COLOURS.items()},
}
BAND: Final = 0.1  # the opacity of what shows which runs a flow started


class Segment(NamedTuple):
    """A stretch of a run's time, in seconds of the monotonic clock; its kind is that of the legend."""

    kind: str
    begun: float
    ended: float


class Bar(NamedTuple):
    """A segment at a height of the chart."""

    height: float
    segment: Segment


def timeline(runs: Iterable[Run], *, ax: Axes | None = None) -> Axes:
    """Draws runs on given Axes or on new ones; `onix.timeline` describes it."""
    runs = sorted(set(runs), key=lambda run: run.id)
    now = time.monotonic()
    origin = min((run.queued for run in runs), default=now)
    if len(runs) <= MOST_ROWS:
        rows = nested(runs)
        ax = ax or _new_axes(1.4 + 0.26 * len(rows))
        _draw_rows(ax, rows, origin, now)
    elif len(runs) <= MOST_BARS:
        lanes = in_lanes(runs, now)
        ax = ax or _new_axes(1.4 + 0.26 * (1 + max((bar.height for bar in lanes), default=0)))
        _draw_lanes(ax, lanes, origin)
    else:
        ax = ax or _new_axes(4.5)
        _draw_counts(ax, runs, origin, now)
    ax.set_xlabel("seconds")
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    if runs:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01 if len(runs) <= MOST_BARS else 1.13, 1), frameon=False)
    return ax


def _new_axes(height: float) -> Axes:
    from matplotlib import pyplot  # for those who draw

    _, ax = pyplot.subplots(figsize=(9, min(12.0, height)), layout="constrained")
    return ax


def segments(run: Run, now: float) -> Iterator[Segment]:
    """In the queue, the attempts that another one followed, and the last one; unfinished ones up to `now`.

    Between two attempts there is a gap: the pause before the next.
    """
    ended = now if run.finished is None else run.finished
    begun = run.finished if run.started is None else run.started  # cancelled in the queue: a line
    yield Segment("queued", run.queued, ended if begun is None else begun)
    spans = run.spans or ()
    for span in spans:
        yield Segment("failed attempt", span.started, span.finished)
    if spans:
        begun = run.begun if run.begun is not None and run.begun >= spans[-1].finished else None
    if begun is not None:
        yield Segment(run.status, min(begun, ended), ended)


# A row for each run.


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


def _draw_rows(ax: Axes, rows: Sequence[tuple[Run, int]], origin: float, now: float) -> None:
    bands: dict[str, list[tuple[float, float, float, float]]] = {}
    for row, (run, depth) in enumerate(rows):
        last = row
        while last + 1 < len(rows) and rows[last + 1][1] > depth:
            last += 1
        if last > row and run.started is not None:
            ended = now if run.finished is None else run.finished
            bands.setdefault(run.status, []).append((run.started - origin, ended - origin, row - 0.5, last + 0.5))
    for status, boxes in bands.items():
        _boxes(ax, boxes, COLOURS[status], BAND, zorder=0.5, linewidth=0.0)
    bars = [Bar(row, segment) for row, (run, _) in enumerate(rows) for segment in segments(run, now)]
    _draw_bars(ax, bars, origin, 0.62)
    step = -(-len(rows) // MOST_LABELS) or 1
    _name(ax, range(0, len(rows), step), [label(run, depth) for run, depth in rows[::step]])
    ax.set_ylim(max(len(rows), 2) - 0.4, -0.6)


def _name(ax: Axes, rows: Sequence[int], names: Sequence[str]) -> None:
    """The names, their left edges in line: what is indented is below what is not."""
    ax.set_yticks(rows, names, ha="left", family="monospace", parse_math=False)
    sizes = [text.get_fontproperties().get_size_in_points() for text in ax.get_yticklabels()]
    ax.tick_params(axis="y", length=0, pad=4 + 0.602 * max(sizes, default=0) * max(map(len, names), default=0))


# Lanes that runs share.


def in_lanes(runs: Sequence[Run], now: float) -> list[Bar]:
    """The segments of runs that have begun, each run in the first lane that is free: flows above, the others below.

    In the queue a run is drawn as far back as its lane is free.
    """
    bars: list[Bar] = []
    first = 0
    for group in ([run for run in runs if run.kind == "flow"], [run for run in runs if run.kind != "flow"]):
        free: list[int] = []  # lanes without a run
        busy: list[tuple[float, int]] = []  # when a lane will be free
        until: list[float] = []  # of each lane, when its last run ended
        for run in sorted((run for run in group if run.started is not None), key=lambda run: run.started or 0.0):
            begun, ended = run.started or 0.0, now if run.finished is None else run.finished
            while busy and busy[0][0] <= begun:
                heapq.heappush(free, heapq.heappop(busy)[1])
            if free:
                lane = heapq.heappop(free)
            else:
                lane = len(until)
                until.append(run.queued)
            for segment in segments(run, now):
                begin = max(segment.begun, until[lane])
                if segment.kind != "queued" or begin < segment.ended:
                    bars.append(Bar(first + lane, segment._replace(begun=begin)))
            until[lane] = ended
            heapq.heappush(busy, (ended, lane))
        first += len(until)
    return bars


def _draw_lanes(ax: Axes, bars: Sequence[Bar], origin: float) -> None:
    lanes = 1 + int(max((bar.height for bar in bars), default=0))
    _draw_bars(ax, bars, origin, 0.8)
    ax.set_ylim(lanes - 0.4, -0.6)
    ax.set_yticks([])
    ax.set_ylabel(f"{lanes} lanes: so many at the same time")


def _draw_bars(ax: Axes, bars: Sequence[Bar], origin: float, height: float) -> None:
    """Bars, a mark at the end of each failure, and the limits of the time axis."""
    by_kind: dict[str, list[Bar]] = {}
    for bar in bars:
        by_kind.setdefault(bar.segment.kind, []).append(bar)
    for kind, (colour, opacity) in LEGEND.items():
        if here := by_kind.get(kind):
            boxes = [
                (segment.begun - origin, segment.ended - origin, row - height / 2, row + height / 2)
                for row, segment in here
            ]
            # What ended at once is a line.
            _boxes(ax, boxes, colour, opacity, label=kind, linewidth=0.6 if kind in COLOURS else 0.0)
    failures = [bar for kind in ("failed attempt", "failed") for bar in by_kind.get(kind, ())]
    if failures:
        ends = [bar.segment.ended - origin for bar in failures]
        rows = [bar.height for bar in failures]
        ax.plot(ends, rows, "x", color=COLOURS["failed"], markersize=4.5, markeredgewidth=1.4)
    latest = max((bar.segment.ended - origin for bar in bars), default=0.0)
    ax.set_xlim(0, 1.02 * latest or 1)


def _boxes(
    ax: Axes, boxes: Sequence[tuple[float, float, float, float]], colour: str, opacity: float, **options: Any
) -> None:
    """Rectangles of one colour, each from its left, right, bottom and top."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    left, right, bottom, top = np.array(boxes, dtype=float).T
    corners = np.stack([left, bottom, left, top, right, top, right, bottom], axis=1).reshape(-1, 4, 2)
    filled = to_rgba(colour, opacity)
    ax.add_collection(PolyCollection(list(corners), facecolors=filled, edgecolors=filled, **options), autolim=False)


# Curves of how many ran.


def counts(runs: Sequence[Run], edges: Any, now: float) -> dict[str, Any]:
    """How many runs waited, and how many that ended in each way ran, at each of some moments.

    Args:
        runs: The runs; a retried one counts as running from its first attempt on.
        edges: The moments, an ascending array of monotonic seconds.
        now: The time up to which unfinished runs are counted.

    Returns:
        An array of integers, as long as `edges`, by the kinds of the legend that there are.
    """
    begins: dict[str, list[float]] = {}
    ends: dict[str, list[float]] = {}
    for run in runs:
        ended = now if run.finished is None else run.finished
        begun = ended if run.started is None else run.started
        begins.setdefault("queued", []).append(run.queued)
        ends.setdefault("queued", []).append(begun)
        if run.started is not None:
            begins.setdefault(run.status, []).append(begun)
            ends.setdefault(run.status, []).append(ended)
    found = {}
    for kind in LEGEND:
        if kind in begins:
            begun_by = np.searchsorted(np.sort(begins[kind]), edges, side="right")
            found[kind] = begun_by - np.searchsorted(np.sort(ends[kind]), edges, side="right")
    return found


def _draw_counts(ax: Axes, runs: Sequence[Run], origin: float, now: float) -> None:
    from matplotlib.colors import to_rgba

    working = [run for run in runs if run.kind != "flow"] or runs
    ended = max(now if run.finished is None else run.finished for run in working)
    edges = np.linspace(origin, ended, BINS)
    found = counts(working, edges, now)
    waiting = found.pop("queued")
    colours = [to_rgba(*LEGEND[kind]) for kind in found]
    ax.stackplot(edges - origin, *found.values(), labels=list(found), colors=colours, step="post", linewidth=0)
    if failures := [run.finished for run in working if run.status == "failed" and run.finished is not None]:
        moments = np.unique(np.searchsorted(edges, failures, side="right") - 1)
        ax.plot(edges[moments] - origin, np.zeros(len(moments)), "x", color=COLOURS["failed"], clip_on=False)
    # What waits is of another size than what runs.
    beside = ax.twinx()
    ink = ax.xaxis.label.get_color()  # dark on light, light on dark
    beside.plot(edges - origin, waiting, color=ink, linewidth=1.2)
    beside.set_ylabel("queued")
    beside.set_ylim(0, None)
    beside.spines[["top", "left"]].set_visible(False)
    ax.plot([], [], color=ink, linewidth=1.2, label="queued")
    ax.set_xlim(0, (ended - origin) or 1)
    ax.set_ylim(0, None)
    ax.set_ylabel(f"of {len(working):,} runs, at the same time")
