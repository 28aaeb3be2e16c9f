"""How much of what runs print is shown: pure counting, without a kernel."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from onix_nb.notebook import floods
from onix_nb.notebook.floods import MOST_SENT, MOST_SHOWN, WINDOW, Floods, Window

# Jupyter Server's limits (`ZMQChannelsWebsocketConnection`), for which the figures of `floods` are made.
SERVERS = {"iopub_data_rate_limit": 1_000_000, "iopub_msg_rate_limit": 1_000, "rate_limit_window": 3}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that windows see, in its only member."""
    now = [1000.0]
    monkeypatch.setattr(floods.time, "monotonic", lambda: now[0])
    return now


def test_the_limits_are_those_of_the_server() -> None:
    """Two windows that touch stay, with a third of it for views and cells, below what the server sends."""
    connections = pytest.importorskip("jupyter_server.services.kernels.connection.channels")
    traits = connections.ZMQChannelsWebsocketConnection.class_traits()
    assert {name: traits[name].default_value for name in SERVERS} == SERVERS
    assert 2 / 3 * SERVERS["iopub_data_rate_limit"] * SERVERS["rate_limit_window"] >= 2 * MOST_SENT
    assert 2 / 3 * SERVERS["iopub_msg_rate_limit"] * SERVERS["rate_limit_window"] >= 2 * floods.MOST_FLUSHES
    assert SERVERS["rate_limit_window"] == WINDOW


def test_a_window_lets_through_what_fits(clock: list[float]) -> None:
    """And begins anew some seconds later."""
    window = Window(10)
    assert [window.take(4), window.take(6), window.take(1)] == [True, True, False]
    clock[0] += WINDOW - 0.01
    assert not window.take(1)
    clock[0] += 0.01
    assert window.take(10)


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ([MOST_SHOWN], [MOST_SHOWN]),
        ([MOST_SHOWN + 1], [MOST_SHOWN]),
        ([MOST_SHOWN - 5, 10, 10], [MOST_SHOWN - 5, 5, 0]),
        ([0, 10], [0, 10]),
    ],
)
def test_the_first_part_of_a_cell_is_shown(texts: list[int], shown: list[int]) -> None:
    """Up to the very character."""
    counted = Floods()
    assert [counted.fits("In [1]", "x" * length) for length in texts] == shown


def test_characters_that_take_more_bytes_cost_more() -> None:
    """A limit of the server is one of bytes."""
    assert Floods().fits("In [1]", "ü" * MOST_SHOWN) == MOST_SHOWN // 4


def test_each_execution_of_a_cell_has_its_own(clock: list[float]) -> None:
    """All its runs share it; all cells together share the rate."""
    counted = Floods()
    text = "x" * MOST_SHOWN
    assert [counted.fits("In [1]", text), counted.fits("In [1]", "more")] == [MOST_SHOWN, 0]
    assert [counted.fits("In [2]", text), counted.fits("In [3]", "x")] == [MOST_SHOWN, 0]
    clock[0] += WINDOW
    assert [counted.fits("In [3]", "x"), counted.fits("In [1]", "more")] == [1, 0]


def test_a_progress_bar_goes_on(clock: list[float]) -> None:
    """What is drawn over itself does not grow on the page: at its usual pace it is always shown, but not faster."""
    counted = Floods()
    counted.fits("In [1]", "x" * MOST_SHOWN)
    bar = "\r" + 99 * "="
    for _ in range(1000):
        clock[0] += 0.1
        assert counted.fits("In [1]", bar) == len(bar)
    assert sum(counted.fits("In [1]", bar) for _ in range(1000)) <= floods.MOST_REDRAWN


def test_threads_count_everything() -> None:
    """What is shown and what is not add up to what was written."""
    counted, start = Floods(), threading.Barrier(8)
    fits: list[int] = []

    def write() -> None:
        start.wait(30)
        fits.append(sum(counted.fits("In [1]", "x" * 100) for _ in range(2_000)))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    flood: Any = counted._cells["In [1]"]
    assert flood.shown.value == sum(fits)
    assert flood.shown.value + flood.dropped.value == 8 * 2_000 * 100
    # Each of the threads may have seen room for one more text.
    assert MOST_SHOWN <= flood.shown.value <= MOST_SHOWN + 8 * 100
