"""P12: `onix.sleep` ends at once when its run is cancelled."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30
HOUR = 3600


class Sleeper:
    """Sleeps for an hour, and remembers what woke it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.woken = threading.Event()
        self.error: BaseException | None = None

    def __call__(self) -> None:
        self.begun.set()
        try:
            onix.sleep(HOUR)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.woken.set()


def test_sleep_returns_none_after_its_seconds() -> None:
    """It never returns early."""
    begun = time.monotonic()
    assert onix.sleep(0.05) is None  # type: ignore[func-returns-value]
    assert time.monotonic() - begun >= 0.05


@pytest.mark.parametrize("seconds", [0, 0.0, 0.001])
def test_sleep_takes_whole_and_broken_seconds(seconds: float) -> None:
    """Zero is allowed."""
    onix.sleep(seconds)


@pytest.mark.parametrize("seconds", [None, "1", True, [1]])
def test_sleep_refuses_what_is_no_number(seconds: Any) -> None:
    """With a TypeError that shows the value."""
    with pytest.raises(TypeError, match="seconds"):
        onix.sleep(seconds)


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan")])
def test_sleep_refuses_negative_seconds(seconds: float) -> None:
    """With a ValueError that shows the value."""
    with pytest.raises(ValueError, match="seconds"):
        onix.sleep(seconds)


@pytest.mark.parametrize("decorate", [onix.action, onix.flow], ids=["action", "flow"])
def test_cancel_ends_a_sleep_at_once(decorate: Any) -> None:
    """Inside the run it raises RunCancelled, in an action and in a flow."""
    sleeper = Sleeper()
    future = decorate(name="sleeper")(sleeper).start()
    assert sleeper.begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert sleeper.woken.wait(WAIT)
    assert isinstance(sleeper.error, onix.errors.RunCancelled)


def test_cancel_of_a_flow_ends_the_sleep_of_an_action_it_calls() -> None:
    """An inline action sleeps on its flow's thread, and hears of its cancel."""
    sleeper = Sleeper()
    sleep = onix.action(name="sleeper")(sleeper)

    @onix.flow
    def flow() -> None:
        sleep()

    future = flow.start()
    assert sleeper.begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert sleeper.woken.wait(WAIT)
    assert isinstance(sleeper.error, onix.errors.RunCancelled)


def test_cancel_of_a_flow_ends_the_sleep_of_its_children() -> None:
    """A cancel goes down to what the flow started."""
    sleeper = Sleeper()
    sleep = onix.action(name="sleeper")(sleeper)

    @onix.flow
    def flow() -> None:
        sleep.start().result()

    future = flow.start()
    assert sleeper.begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert sleeper.woken.wait(WAIT)


def test_the_end_of_an_attempts_time_ends_its_sleep() -> None:
    """`timeout=` stops an attempt as a cancel does."""
    sleeper = Sleeper()
    future = onix.action(name="sleeper", timeout=0.1)(sleeper).start()
    assert isinstance(future.exception(WAIT), onix.errors.AttemptTimeoutError)
    assert sleeper.woken.wait(WAIT)
    assert isinstance(sleeper.error, onix.errors.RunCancelled)


def test_cancel_ends_the_sleep_of_an_async_flow() -> None:
    """An async flow may block: it has a loop of its own."""
    sleeper = Sleeper()

    @onix.flow
    async def flow() -> None:
        sleeper()

    future = flow.start()
    assert sleeper.begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert sleeper.woken.wait(WAIT)
    assert isinstance(sleeper.error, onix.errors.RunCancelled)


def test_a_cancelled_run_does_not_sleep_at_all() -> None:
    """The next call into onix after a cancel raises, also when it swallowed the first."""
    begun, again = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    @onix.flow
    def stubborn() -> None:
        for _ in range(2):
            begun.set()
            try:
                onix.sleep(HOUR)
            except onix.errors.RunCancelled as error:
                errors.append(error)
        again.set()

    future = stubborn.start()
    assert begun.wait(WAIT)
    assert future.cancel(interrupt=True)
    assert again.wait(WAIT)
    assert len(errors) == 2


def test_an_async_action_is_told_to_await_instead() -> None:
    """Sleeping would block the loop that all async actions share."""

    @onix.action
    async def nap() -> None:
        onix.sleep(0.01)

    with pytest.raises(onix.errors.DeadlockError, match=r"await asyncio\.sleep"):
        nap()


def test_a_signal_handler_may_raise_out_of_a_sleep() -> None:
    """Ctrl-C ends a sleep on the main thread, as it ends `time.sleep`."""

    class Stop(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    begun = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Stop):
            onix.sleep(HOUR)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < WAIT


def test_a_thousand_flows_sleep_at_the_same_time() -> None:
    """Sleeping flows take no worker."""

    @onix.flow
    def nap() -> None:
        onix.sleep(0.2)

    with onix.configure(max_workers=1):
        begun = time.monotonic()
        futures = [nap.start() for _ in range(1000)]
        assert not onix.wait(futures, timeout=WAIT).not_done
    assert time.monotonic() - begun < 100  # one after the other they would take 200 s
