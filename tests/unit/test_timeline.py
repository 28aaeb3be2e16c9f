"""The timeline: a bar for each stretch of time, in the right order, place and colour."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colors, pyplot
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

import onix_nb as onix
from onix_nb.explore.timeline import COLOURS, LEGEND, MOST_BARS, MOST_LABELS, MOST_ROWS, counts, in_lanes
from onix_nb.model.run import Run, Span

mpl.use("Agg")


@onix.action
def double(x: int) -> int:
    return 2 * x


@onix.action
def fail() -> None:
    raise ValueError("no")


@onix.flow
def both(n: int) -> int:
    done, _ = onix.wait([double.start(x=x) for x in range(n)])
    return sum(future.result() for future in done)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


class Box(NamedTuple):
    """A bar as it is drawn."""

    left: float
    right: float
    middle: float
    height: float
    colour: Any

    @property
    def row(self) -> int:
        return round(self.middle)


def boxes(ax: Axes, label: str | None) -> list[Box]:
    """The bars of one kind, from top to bottom, from left to right; those that have no label are the bands."""
    found = []
    for collection in ax.collections:
        if isinstance(collection, PolyCollection) and collection.get_label().startswith(label or "_"):
            for path in collection.get_paths():
                (left, bottom), (right, top) = path.vertices.min(axis=0), path.vertices.max(axis=0)
                colour = tuple(collection.get_facecolor()[0])
                found.append(Box(left, right, (bottom + top) / 2, top - bottom, colour))
    return sorted(found, key=lambda box: (box.middle, box.left))


def bars(ax: Axes, kind: str) -> list[Box]:
    """The bars of a kind, which have its colour."""
    found = [box for box in boxes(ax, kind) if kind != "failed" or box.colour[3] == 1]
    assert {box.colour for box in found} <= {colors.to_rgba(*LEGEND[kind])}
    return found


def rows(ax: Axes, kind: str) -> list[int]:
    """The rows in which that kind appears."""
    return [bar.row for bar in bars(ax, kind)]


def marks(ax: Axes) -> list[tuple[float, float]]:
    """Where failures are marked."""
    return sorted((x, y) for line in ax.lines if line.get_marker() == "x" for x, y in line.get_xydata())


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_each_run_is_a_row_in_the_order_of_starting() -> None:
    """Futures become rows, first started on top."""
    futures = [double.start(x=1), double.options(name="second").start(x=2)]
    onix.wait(futures)
    ax = onix.timeline(reversed(futures))
    assert labels(ax) == ["double", "second"]
    assert ax.yaxis_inverted()


def test_children_are_below_their_flow() -> None:
    """What a flow started is indented under it."""
    future = both.start(n=2)
    future.result()
    runs = [run for run in onix.runs() if run is future.run or run.parent is future.run]
    assert labels(onix.timeline(runs)) == ["both", "   double", "   double"]


def test_a_run_whose_flow_is_left_out_is_below_the_next_one_above() -> None:
    """Without the flow between them, a run is under the flow of that flow."""

    @onix.flow
    def outer() -> int:
        return both(n=1)

    future = outer.start()
    future.result()
    runs = [run for run in onix.runs() if run.id >= future.run.id and run.name != "both"]
    assert labels(onix.timeline(runs)) == ["outer", "   double"]


def test_the_colour_tells_the_status() -> None:
    """Each row has the colour of its run, and the legend names the colours that are there, and no other."""
    gate, begun = threading.Event(), threading.Event()

    @onix.action
    def hold() -> None:
        begun.set()
        gate.wait(30)

    with onix.configure(max_workers=1):
        futures = [fail.start(), double.start(x=1)]
        onix.wait(futures)
        futures += [hold.start(), double.start(x=2), double.start(x=3)]
        assert begun.wait(30)
        futures[4].cancel()
        ax = onix.timeline(futures)
        gate.set()
    onix.wait(futures)
    assert isinstance(futures[0].exception(), ValueError)
    kinds = ("failed", "succeeded", "running", "cancelled")
    assert {kind: rows(ax, kind) for kind in kinds} == {
        "failed": [0],
        "succeeded": [1],
        "running": [2],
        "cancelled": [4],
    }
    assert legend(ax) == ["queued", "running", "succeeded", "failed", "cancelled"]


def test_the_colours_are_those_of_okabe_and_ito() -> None:
    """A palette that people with any kind of colour vision can tell apart, each colour once."""
    palette = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}
    assert set(COLOURS.values()) <= palette
    assert len(set(LEGEND.values())) == len(LEGEND)


@given(st.lists(st.sampled_from(["double", "fail", "both"]), min_size=1, max_size=8), st.randoms())
@settings(max_examples=25, deadline=None)
def test_bars_tell_the_times_of_the_runs(names: list[str], random: Any) -> None:
    """In whatever order they are given: queued from the start to the first attempt, then run time to the end."""
    start: dict[str, Any] = {"double": lambda: double.start(x=1), "fail": fail.start, "both": lambda: both.start(n=1)}
    futures = [start[name]() for name in names]
    for future in futures:
        future.exception()
    shuffled = random.sample(futures, len(futures))
    ax = onix.timeline(shuffled)
    pyplot.close(ax.figure)
    assert labels(ax) == names
    origin = futures[0].run.queued
    ran = sorted((bar for kind in ("succeeded", "failed") for bar in bars(ax, kind)), key=lambda bar: bar.middle)
    for row, (future, waited, bar) in enumerate(zip(futures, bars(ax, "queued"), ran, strict=True)):
        run = future.run
        assert waited.row == bar.row == row
        assert (waited.left, waited.right) == pytest.approx((run.queued - origin, run.started - origin))
        assert (bar.left, bar.right) == pytest.approx((run.started - origin, run.finished - origin))
    failed = [(run.finished - origin, row) for row, run in enumerate(f.run for f in futures) if run.status == "failed"]
    assert np.array(marks(ax)) == pytest.approx(np.array(sorted(failed)))


def test_what_has_not_ended_goes_on_up_to_now() -> None:
    """The bar of a run that runs grows from one drawing to the next."""
    gate, begun = threading.Event(), threading.Event()

    @onix.action
    def hold() -> None:
        begun.set()
        gate.wait(30)

    future = hold.start()
    assert begun.wait(30)
    (first,), (second,) = (bars(onix.timeline([future]), "running") for _ in range(2))
    gate.set()
    future.result()
    assert 0 <= first.left < first.right < second.right


def test_earlier_attempts_are_segments() -> None:
    """A run that was tried three times has three segments with gaps between them, and three marks."""
    policy = onix.RetryPolicy(initial_interval=0.01)
    future = fail.options(retry=policy).start()
    assert isinstance(future.exception(), ValueError)
    ax = onix.timeline([future])
    parts = sorted([*bars(ax, "failed attempt"), *bars(ax, "failed")], key=lambda bar: bar.left)
    assert (len(bars(ax, "failed attempt")), len(bars(ax, "failed"))) == (2, 1)
    for before, after in itertools.pairwise(parts):
        assert after.left - before.right >= 0.009  # the pause is no run time
    assert [x for x, _ in marks(ax)] == pytest.approx([part.right for part in parts])
    assert future.run.finished - future.run.queued == pytest.approx(parts[-1].right)


def test_a_run_that_waits_for_its_next_attempt_is_not_drawn_as_running() -> None:
    """Nothing follows its last attempt, until the next begins."""
    run = ran("tried", 0, 0, None)
    run.attempt, run.spans = 2, [Span(1, 0.0, 1.0, "Error")]
    ax = onix.timeline([run])
    assert (len(bars(ax, "failed attempt")), len(bars(ax, "running"))) == (1, 0)


def test_a_flow_is_a_band_around_what_it_started() -> None:
    """From its own row to the last one below it, as long as it ran."""
    future = both.start(n=3)
    future.result()
    other = double.start(x=1)
    other.result()
    runs = [run for run in onix.runs() if run.id >= future.run.id]
    (band,) = boxes(onix.timeline(runs), None)
    assert (band.middle - band.height / 2, band.middle + band.height / 2) == (-0.5, 3.5)
    origin = future.run.queued
    assert (band.left, band.right) == pytest.approx((future.run.started - origin, future.run.finished - origin))
    assert band.colour == colors.to_rgba(COLOURS["succeeded"], band.colour[3])
    assert band.colour[3] < 0.2


def test_what_is_named_twice_is_drawn_once() -> None:
    """A run has one row, however often it, or its future, is given."""
    future = double.start(x=1)
    future.result()
    assert labels(onix.timeline([future, future.run, future])) == ["double"]


def test_both_sets_of_a_wait_are_drawn() -> None:
    """What `wait` returned can be drawn as it is: what is done, and what is not."""
    gate = threading.Event()

    @onix.flow
    def hold() -> None:
        gate.wait(30)

    futures = [hold.start(), both.start(n=0)]
    waited = onix.wait(futures, return_when=onix.FIRST_COMPLETED)
    ax = onix.timeline(waited)
    gate.set()
    onix.wait(futures)
    assert labels(ax) == ["hold", "both"]
    assert len(waited.not_done) == 1


def test_everything_that_is_remembered_is_drawn_by_default() -> None:
    """Without an argument, the runs are those of `onix.runs()`."""
    onix.wait([double.start(x=x) for x in range(3)])
    assert len(onix.runs()) > 2
    assert onix.timeline().get_legend() is not None


def ran(name: str, queued: float, started: float | None, finished: float | None, status: str = "succeeded") -> Run:
    """A run with times of our own."""
    run = Run(name, "flow" if name == "flow" else "action", None, {}, None, None, 0)
    run.queued, run.started = queued, started
    if finished is not None:
        run.end(status, finished)  # type: ignore[arg-type]
    return run


def test_of_many_rows_some_are_named() -> None:
    """All are drawn, and no more than fit are named."""
    runs = [ran("work", n, n + 1, n + 2) for n in range(MOST_ROWS)]
    ax = onix.timeline(runs)
    assert len(bars(ax, "succeeded")) == MOST_ROWS
    assert 0 < len(labels(ax)) <= MOST_LABELS


INTERVALS = st.lists(
    st.tuples(
        st.booleans(), st.floats(0, 9), st.floats(0, 9), st.floats(0, 9), st.sampled_from(["succeeded", "failed"])
    ),
    min_size=1,
    max_size=40,
)


@given(INTERVALS)
@settings(max_examples=200, deadline=None)
def test_in_a_lane_no_two_runs_overlap_and_there_is_none_too_many(times: list[Any]) -> None:
    """Each run is there once, and there are as many lanes as ran at once; flows have lanes of their own, above."""
    runs = [
        ran("flow" if flow else "work", queued, queued + waited, queued + waited + took, status)
        for flow, queued, waited, took, status in times
    ]
    drawn = in_lanes(runs, 30.0)
    lanes: dict[float, list[Any]] = {}
    for bar in drawn:
        lanes.setdefault(bar.height, []).append(bar.segment)
    for segments in lanes.values():
        segments.sort(key=lambda segment: (segment.begun, segment.ended))
        assert all(before.ended <= after.begun for before, after in itertools.pairwise(segments))
    worked = [bar for bar in drawn if bar.segment.kind != "queued"]
    assert sorted(bar.segment[1:] for bar in worked) == sorted((run.started, run.finished) for run in runs)
    for name, offset in (("flow", 0), ("work", None)):
        group = [run for run in runs if run.name == name]
        most = max((sum(a.started <= b.started < a.finished for a in group) for b in group), default=0)
        heights = {bar.height for bar in worked if (bar.segment[1:] in {(r.started, r.finished) for r in group})}
        assert len(heights) >= min(most, 1)
        if offset == 0 and group:
            assert min(heights) == 0
    both_most = [
        max((sum(a.started <= b.started < a.finished or a is b for a in group) for b in group), default=0)
        for group in ([run for run in runs if run.name == "flow"], [run for run in runs if run.name == "work"])
    ]
    assert len(lanes) <= sum(both_most)


def test_more_runs_than_rows_share_lanes() -> None:
    """Each is drawn once, failures are marked, and no name is written."""
    runs = [ran("work", 0, n, n + 2, "failed" if n % 10 == 0 else "succeeded") for n in range(MOST_ROWS + 1)]
    ax = onix.timeline(runs)
    assert len(bars(ax, "succeeded")) + len(bars(ax, "failed")) == len(runs)
    assert {bar.row for bar in bars(ax, "succeeded")} == {0, 1}
    assert len(marks(ax)) == len(bars(ax, "failed")) == 21
    assert labels(ax) == []
    assert ax.get_ylabel().startswith("2 lanes")


def test_of_very_many_runs_curves_say_how_many_ran() -> None:
    """Counted by status at each moment; the queue has a scale of its own, and moments of failures are marked."""
    runs = [ran("work", 0, n, n + 3, "failed" if n == 1000 else "succeeded") for n in range(MOST_BARS + 1)]
    ax = onix.timeline(runs)
    assert legend(ax) == ["succeeded", "failed", "queued"]
    assert f"{len(runs):,} runs" in ax.get_ylabel()
    assert len(ax.patches) == 0
    assert len(ax.collections) == 2  # a layer for each status
    (mark,) = marks(ax)
    assert mark[0] == pytest.approx(1003, abs=10)
    (other,) = (beside for beside in ax.figure.axes if beside is not ax)
    waiting = other.lines[0].get_ydata()
    assert (waiting[0], waiting[-1]) == (MOST_BARS, 0)


@given(INTERVALS, st.lists(st.floats(0, 30), min_size=1, max_size=10))
@settings(max_examples=100, deadline=None)
def test_counts_are_those_of_the_runs(times: list[Any], moments: list[float]) -> None:
    """At each moment, as many as have begun and not ended."""
    runs = [ran("work", q, q + w, q + w + took, status) for _, q, w, took, status in times]
    edges = np.sort(moments)
    found = counts(runs, edges, 30.0)
    for number, moment in enumerate(edges):
        waiting = sum(run.queued <= moment < run.started for run in runs)
        assert found["queued"][number] == waiting
        for status in {run.status for run in runs}:
            running = sum(run.status == status and run.started <= moment < run.finished for run in runs)
            assert found[status][number] == running


@pytest.mark.parametrize("number", [3, MOST_ROWS + 1, MOST_BARS + 1])
def test_a_dark_style_is_kept(number: int) -> None:
    """Its background shows through, and nothing is drawn in a colour that only fits a light one."""
    with pyplot.style.context("dark_background"):
        ax = onix.timeline([ran("work", 0, n, n + 1) for n in range(number)])
        ax.figure.canvas.draw()
        assert colors.to_hex(ax.get_facecolor()) == "#000000"
        assert colors.to_hex(ax.xaxis.label.get_color()) == "#ffffff"
        assert all(text.get_color() == "white" for text in ax.get_legend().get_texts())


def test_names_are_shown_as_they_are() -> None:
    """Dollar signs are no formula, line breaks no second line, and a long name is cut."""
    named = [double.options(name=name) for name in ("a$\\frac$b", "two\nlines", "x" * 100)]
    ax = onix.timeline([action.start(x=1).detach() for action in named])
    ax.figure.canvas.draw()
    first, second, third = labels(ax)
    assert (first, second) == ("a$\\frac$b", "two lines")
    assert len(third) < 100
    assert third.endswith("…")


def test_given_axes_are_used_and_returned() -> None:
    """It draws where it is told to, and opens no figure of its own."""
    _, ax = pyplot.subplots()
    future = double.start(x=1)
    onix.wait([future])
    assert onix.timeline(onix.wait([future]), ax=ax) is ax
    assert len(pyplot.get_fignums()) == 1


def test_drawing_changes_no_style_and_opens_one_figure() -> None:
    """The user's settings of matplotlib stay, and nothing is closed or shown."""
    before, other = dict(mpl.rcParams), pyplot.figure()
    future = double.start(x=1)
    future.result()
    ax = onix.timeline(future)
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == [other.number, ax.figure.number]


def test_nothing_is_an_empty_chart() -> None:
    """No runs: labelled axes without bars."""
    ax = onix.timeline([])
    assert (len(ax.collections), ax.get_xlabel(), labels(ax)) == (0, "seconds", [])


@pytest.mark.parametrize("wrong", [[3], ["text"], [None], 3, "text", [onix.Future()]])
def test_what_is_no_run_is_refused(wrong: Any) -> None:
    """Anything but futures and runs is a TypeError that shows it, and leaves no empty figure behind."""
    with pytest.raises(TypeError, match="takes futures"):
        onix.timeline(wrong)
    assert not pyplot.get_fignums()
