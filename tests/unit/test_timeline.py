"""The timeline: a bar for each stretch of time, in the right order, place and colour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib import colors, pyplot
from matplotlib.axes import Axes

import onix_nb as onix
from onix_nb.explore.timeline import COLOURS

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


def colours(ax: Axes) -> set[str]:
    return {colors.to_hex(patch.get_facecolor()) for patch in ax.patches}


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


def test_the_colour_tells_the_status() -> None:
    """Failures have the colour of failures, and are in the legend."""
    future = fail.start()
    assert isinstance(future.exception(), ValueError)
    ax = onix.timeline([future])
    assert COLOURS["failed"] in colours(ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["failed"]


def test_bars_are_as_long_as_the_runs() -> None:
    """The last bar of a run ends at its end, in seconds from the first start."""
    future = double.start(x=1)
    future.result()
    (bar,) = [patch for patch in onix.timeline(future).patches if patch.get_alpha() is None]
    run = future.run
    assert run is not None
    assert run.elapsed == pytest.approx(bar.get_width())
    assert bar.get_x() == pytest.approx((run.started or 0) - run.queued)


def test_earlier_attempts_are_segments() -> None:
    """A run that was tried three times has two failed segments and its last one."""
    policy = onix.RetryPolicy(initial_interval=0.001)
    future = fail.options(retry=policy).start()
    assert isinstance(future.exception(), ValueError)
    ax = onix.timeline([future])
    assert sum(patch.get_alpha() == 0.7 for patch in ax.patches) == 2


def test_given_axes_are_used_and_returned() -> None:
    """It draws where it is told to, and opens no figure of its own."""
    _, ax = pyplot.subplots()
    future = double.start(x=1)
    onix.wait([future])
    assert onix.timeline(onix.wait([future]), ax=ax) is ax
    assert len(pyplot.get_fignums()) == 1


def test_nothing_is_an_empty_chart() -> None:
    """No runs: labelled axes without bars."""
    ax = onix.timeline([])
    assert (len(ax.patches), ax.get_xlabel()) == (0, "seconds")


@pytest.mark.parametrize("wrong", [[3], ["text"], [None]])
def test_what_is_no_run_is_refused(wrong: Any) -> None:
    """Anything but futures and runs is a TypeError that shows it."""
    with pytest.raises(TypeError, match="takes futures"):
        onix.timeline(wrong)
