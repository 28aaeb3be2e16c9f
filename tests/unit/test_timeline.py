"""The timeline: a bar for each stretch of time, in the right order, place and colour."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colors, pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

import onix_nb as onix
from onix_nb.explore.timeline import COLOURS, LEGEND, MOST_LABELS

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


def bars(ax: Axes, kind: str) -> list[Rectangle]:
    """The bars of that colour, from top to bottom."""
    found = [patch for patch in ax.patches if colors.to_hex(patch.get_facecolor()) == LEGEND[kind]]
    assert all(isinstance(patch, Rectangle) for patch in found)
    return sorted(found, key=lambda bar: bar.get_y())  # type: ignore[attr-defined]


def rows(ax: Axes, kind: str) -> list[int]:
    """The rows in which that colour appears."""
    return [round(bar.get_y() + bar.get_height() / 2) for bar in bars(ax, kind)]


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
    ran = sorted((bar for kind in ("succeeded", "failed") for bar in bars(ax, kind)), key=lambda bar: bar.get_y())
    for future, waited, bar in zip(futures, bars(ax, "queued"), ran, strict=True):
        run = future.run
        assert waited.get_x() == pytest.approx(run.queued - origin)
        assert waited.get_width() == pytest.approx(run.started - run.queued)
        assert bar.get_x() == pytest.approx(run.started - origin)
        assert bar.get_width() == pytest.approx(run.elapsed)


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
    assert 0 <= first.get_width() < second.get_width()


def test_earlier_attempts_are_segments() -> None:
    """A run that was tried three times has two segments of failed attempts and its last one, one after another."""
    policy = onix.RetryPolicy(initial_interval=0.001)
    future = fail.options(retry=policy).start()
    assert isinstance(future.exception(), ValueError)
    ax = onix.timeline([future])
    parts = sorted([*bars(ax, "failed attempt"), *bars(ax, "failed")], key=lambda bar: bar.get_x())
    assert (len(bars(ax, "failed attempt")), len(bars(ax, "failed"))) == (2, 1)
    assert all(a.get_x() + a.get_width() <= b.get_x() + 1e-9 for a, b in itertools.pairwise(parts))


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
    assert len(bars(onix.timeline(), "queued")) == len(onix.runs())


def test_of_many_rows_some_are_named() -> None:
    """All are drawn, and no more than fit are named."""
    futures = [double.start(x=x) for x in range(250)]
    onix.wait(futures)
    ax = onix.timeline(futures)
    assert len(bars(ax, "succeeded")) == 250
    assert 0 < len(labels(ax)) <= MOST_LABELS


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
    assert (len(ax.patches), ax.get_xlabel(), labels(ax)) == (0, "seconds", [])


@pytest.mark.parametrize("wrong", [[3], ["text"], [None], 3, "text", [onix.Future()]])
def test_what_is_no_run_is_refused(wrong: Any) -> None:
    """Anything but futures and runs is a TypeError that shows it, and leaves no empty figure behind."""
    with pytest.raises(TypeError, match="takes futures"):
        onix.timeline(wrong)
    assert not pyplot.get_fignums()
