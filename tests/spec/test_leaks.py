"""P7: what a flow starts it has to consume, and no failure is lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.errors import LeakedFutureError, LeakedFutureWarning, OnixError, UnseenFailureWarning

WAIT = 30


@onix.action
def double(x: int) -> int:
    return 2 * x


@onix.action
def fail(text: str) -> None:
    raise ValueError(text)


@onix.action
async def double_async(x: int) -> int:
    return 2 * x


@onix.flow
def triple(x: int) -> int:
    return 3 * x


def here() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


@contextlib.contextmanager
def reports() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings of onix in the block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield caught
    assert all(report.category in (LeakedFutureWarning, UnseenFailureWarning) for report in caught)


def ended(*futures: Any) -> None:
    """Blocks until those runs have ended, without consuming them: `concurrent.futures` is not onix."""
    assert not concurrent.futures.wait(futures, WAIT).not_done


# Each way to consume

CONSUME: dict[str, Callable[[Any], Any]] = {
    "result": lambda future: future.result(),
    "exception": lambda future: future.exception(),
    "wait": lambda future: onix.wait([future]),
    "wait for the first": lambda future: onix.wait([future], return_when=onix.FIRST_COMPLETED),
    "as_completed": lambda future: list(onix.as_completed([future])),
    "callback": lambda future: future.add_done_callback(lambda _: None),
    "cancel": lambda future: future.cancel(interrupt=True),
    "detach": lambda future: future.detach(),
    "await": lambda future: asyncio.run(take(future)),
    "wrap_future": lambda future: asyncio.run(take_wrapped(future)),
}


async def take(future: Any) -> Any:
    return await future


async def take_wrapped(future: Any) -> Any:
    return await asyncio.wrap_future(future)


@pytest.mark.parametrize("moment", ["ended", "may run"])
@pytest.mark.parametrize("child", [double, double_async, triple], ids=lambda child: child.__name__)
@pytest.mark.parametrize("consume", CONSUME.values(), ids=CONSUME.keys())
def test_what_is_consumed_is_no_leak(consume: Callable[[Any], Any], child: Any, moment: str) -> None:
    """Whether it has ended before or not; nothing is reported, nothing is marked."""

    @onix.flow
    def flow() -> Any:
        future = child.start(x=1)
        if moment == "ended":
            ended(future)
        consume(future)
        return future.run

    with onix.configure(strict=False), reports() as caught:
        run = flow()
    assert caught == []
    assert not run.leaked


def test_a_cancel_that_came_too_late_consumes_but_hides_no_failure() -> None:
    """Who cancels the losers of a race can't know which have just ended: no leak, and a failure is still reported."""

    @onix.flow
    def flow() -> None:
        futures = [double.start(x=1), fail.start(text="just before")]
        ended(*futures)
        assert [future.cancel(interrupt=True) for future in futures] == [False, False]

    with reports() as caught:
        flow()
    assert [report.category for report in caught] == [UnseenFailureWarning]
    assert "ValueError: just before" in str(caught[0].message)


def test_a_cancel_that_is_refused_does_not_consume(held: Any) -> None:
    """Without `interrupt` it leaves what runs alone, and so it is still a leak."""

    @onix.flow
    def flow() -> None:
        future = held.action.start()
        held.await_begun()
        assert not future.cancel()

    with pytest.warns(LeakedFutureWarning, match="held_action"):
        flow()
    held.let_go()


def test_it_does_not_matter_who_consumes() -> None:
    """A plain function, another thread, a child flow, or the one who waits for the flow."""
    futures: dict[str, Any] = {}
    told = threading.Event()

    @onix.flow
    def child() -> int:
        return int(futures["child"].result(WAIT))

    @onix.flow
    def flow() -> None:
        futures.update({name: double.start(x=1) for name in ("function", "thread", "child", "outside")})
        CONSUME["result"](futures["function"])
        thread = threading.Thread(target=futures["thread"].result)
        thread.start()
        thread.join(WAIT)
        child()
        assert told.wait(WAIT)

    with reports() as caught:
        future = flow.start()
        while "outside" not in futures:
            onix.sleep(0.001)
        assert futures["outside"].result(WAIT) == 2
        told.set()
        future.result(WAIT)
    assert caught == []


def test_a_future_in_done_is_consumed_and_one_in_not_done_is_leaked(held: Any) -> None:
    """The documented way to leak: the losers of a race."""

    @onix.flow
    def race() -> Any:
        slow, quick = held.flow.start(), triple.start(x=1)
        done, not_done = onix.wait([slow, quick], return_when=onix.FIRST_COMPLETED)
        assert (done, not_done) == ({quick}, {slow})
        return slow.run

    with pytest.warns(LeakedFutureWarning, match="1 future .*not consumed") as caught:
        run = race()
    assert len(caught) == 1
    assert "held_flow" in str(caught[0].message)
    assert "triple" not in str(caught[0].message)
    assert run.leaked
    held.let_go()


def test_direct_calls_never_leak() -> None:
    """Their outcome is what they return."""

    @onix.flow
    def flow() -> int:
        return double(x=1) + triple(x=1) + double_async(x=1)

    with reports() as caught:
        assert flow() == 7
    assert caught == []


def test_what_a_cell_starts_is_no_leak(held: Any) -> None:
    """A cell is no flow: its futures live on."""
    with reports() as caught:
        future = held.action.start(x=3)
        held.let_go()
        assert future.result(WAIT) == 3
        double.start(x=1)
    assert caught == []


# The warning


def test_a_leak_is_a_warning() -> None:
    """The flow succeeds; the warning is a UserWarning, and says what to do."""

    @onix.flow
    def leaks() -> str:
        double.start(x=1)
        return "returned"

    with pytest.warns(LeakedFutureWarning) as caught:
        assert leaks() == "returned"
    assert len(caught) == 1
    assert issubclass(LeakedFutureWarning, UserWarning)
    message = str(caught[0].message)
    assert "flow 'leaks' returned while 1 future that it started was not consumed" in message
    for advice in ("result()", "exception()", "onix.wait()", "detach()"):
        assert advice in message


def test_it_names_each_run_and_the_line_that_started_it(held: Any) -> None:
    """And how each stands: it goes on, it has ended, or it failed and why. It points to the first line."""
    lines: list[int] = []

    @onix.flow
    def leaks() -> list[Any]:
        lines.append(here() + 1)
        first = held.action.start(x=1)
        lines.append(here() + 1)
        second = triple.start(x=2)
        lines.append(here() + 3)
        third = [
            None,
            fail.start(text="lost"),
        ][1]
        ended(second, third)
        return [future.run for future in (first, second, third)]

    with pytest.warns(LeakedFutureWarning, match="3 futures") as caught:
        runs = leaks()
    assert len(caught) == 1
    report = str(caught[0].message).splitlines()[1:4]
    expected = [("held_action", "it goes on"), ("triple", "it has ended"), ("fail", "it failed: ValueError: lost")]
    for text, run, line, (name, state) in zip(report, runs, lines, expected, strict=True):
        assert re.fullmatch(rf"\s+{name} \(run {run.id}, started at test_leaks\.py:{line}\); {state}", text)
    assert (caught[0].filename, caught[0].lineno) == (__file__, lines[0])
    held.let_go()


def test_every_leak_of_a_loop_is_named() -> None:
    """Each with its run, though they have the line in common."""

    @onix.flow
    def leaks() -> list[Any]:
        return [double.start(x=x).run for x in range(5)]

    with pytest.warns(LeakedFutureWarning, match="5 futures") as caught:
        runs = leaks()
    for run in runs:
        assert f"double (run {run.id}, started at test_leaks.py:" in str(caught[0].message)


@pytest.mark.parametrize("child", [double, double_async, triple], ids=lambda child: child.__name__)
def test_a_future_that_is_returned_is_leaked_too(child: Any) -> None:
    """It would not survive a move to Oryonix; here it still works."""

    @onix.flow
    def returns() -> Any:
        return child.start(x=1)

    with pytest.warns(LeakedFutureWarning, match=child.__name__):
        future = returns()
    assert future.result(WAIT) in (2, 3)
    assert future.run.leaked


def test_a_leak_of_an_async_flow_is_reported() -> None:
    """As of any flow."""

    @onix.flow
    async def leaks() -> None:
        double.start(x=1)

    with pytest.warns(LeakedFutureWarning, match=r"'leaks'[\s\S]*double"):
        leaks()


def test_a_leak_of_a_plain_function_is_its_flows() -> None:
    """The line is the one in the function."""
    line = 0

    def helper() -> None:
        nonlocal line
        line = here() + 1
        double.start(x=1)

    @onix.flow
    def leaks() -> None:
        helper()

    with pytest.warns(LeakedFutureWarning) as caught:
        leaks()
    assert f"test_leaks.py:{line}" in str(caught[0].message)


def test_each_flow_reports_its_own_leaks(held: Any) -> None:
    """The child its own, and the parent not those of its child."""

    @onix.flow
    def child() -> None:
        double.start(x=1)

    @onix.flow
    def parent() -> None:
        child()
        triple.start(x=1)

    with pytest.warns(LeakedFutureWarning) as caught:
        parent()
    messages = [str(report.message) for report in caught]
    assert len(messages) == 2
    assert "flow 'child'" in messages[0]
    assert "double" in messages[0]
    assert "flow 'parent'" in messages[1]
    assert "triple" in messages[1]
    assert "double" not in messages[1]


def test_a_flow_that_fails_reports_its_leaks_as_well() -> None:
    """And raises its own exception."""

    @onix.flow
    def fails() -> None:
        double.start(x=1)
        raise KeyError("mine")

    with pytest.warns(LeakedFutureWarning, match="double"), pytest.raises(KeyError, match="mine"):
        fails()


def test_the_report_is_there_when_the_flow_is_done() -> None:
    """Whoever has its result has been warned."""

    @onix.flow
    def leaks() -> None:
        double.start(x=1)

    for _ in range(20):
        with reports() as caught:
            leaks.start().result(WAIT)
            assert len(caught) == 1


def test_warnings_as_errors_fail_the_flow() -> None:
    """With Python's own switch, as any warning."""

    @onix.flow
    def leaks() -> None:
        double.start(x=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error", LeakedFutureWarning)
        with pytest.raises(LeakedFutureWarning, match="double"):
            leaks()


# What becomes of a leaked run


def test_a_leaked_run_goes_on(held: Any) -> None:
    """To its end, marked in `onix.runs()` from the moment that the flow returned."""
    kept: list[Any] = []

    @onix.flow
    def leaks() -> None:
        kept.append(held.action.start(x=4))
        held.await_begun()
        assert not kept[0].run.leaked

    with pytest.warns(LeakedFutureWarning, match="held_action"):
        leaks()
    (future,) = kept
    (seen,) = [run for run in onix.runs() if run.id == future.run.id]
    assert (seen.leaked, seen.status) == (True, "running")
    held.let_go()
    assert future.result(WAIT) == 4
    (seen,) = [run for run in onix.runs() if run.id == future.run.id]
    assert (seen.leaked, seen.status) == (True, "succeeded")


def test_a_leaked_flow_still_has_its_children(held: Any) -> None:
    """It starts and waits as if nothing had happened."""
    kept: list[Any] = []

    @onix.flow
    def child() -> int:
        return held.action.start(x=1).result() + double.start(x=2).result()

    @onix.flow
    def leaks() -> None:
        kept.append(child.start())

    with pytest.warns(LeakedFutureWarning, match="child"):
        leaks()
    held.let_go()
    assert kept[0].result(WAIT) == 5


def test_a_leaked_future_can_be_found_again(held: Any) -> None:
    """`onix.runs().futures` has it while it runs, so it can be waited for or cancelled."""

    @onix.flow
    def leaks() -> None:
        held.action.start(x=6)

    with pytest.warns(LeakedFutureWarning, match="held_action"):
        leaks()
    (future,) = [future for future in onix.runs().futures if future.run and future.run.leaked and not future.done()]
    held.let_go()
    assert future.result(WAIT) == 6


# Failures that nobody looked at


@pytest.mark.parametrize(
    "join",
    [
        lambda future: onix.wait([future]),
        lambda future: onix.wait([future], return_when=onix.FIRST_COMPLETED),
        lambda future: list(onix.as_completed([future])),
    ],
    ids=["wait", "wait for the first", "as_completed"],
)
def test_a_failure_that_was_only_joined_is_reported_when_the_flow_returns(join: Callable[[Any], Any]) -> None:
    """With its run, the line that started it, and the error; it is no leak."""
    lines: list[int] = []

    @onix.flow
    def careless() -> Any:
        lines.append(here() + 1)
        future = fail.start(text="unseen")
        join(future)
        return future.run

    with onix.configure(strict=False), pytest.warns(UnseenFailureWarning) as caught:
        run = careless()
    assert len(caught) == 1
    message = str(caught[0].message)
    assert f"fail (run {run.id}, started at test_leaks.py:{lines[0]}): ValueError: unseen" in message
    assert "1 run failed and nobody asked for its result" in message
    assert (caught[0].filename, caught[0].lineno) == (__file__, lines[0])
    assert not run.leaked


def test_several_unseen_failures_are_one_report() -> None:
    """Each is named; the successes among them are not."""

    @onix.flow
    def careless() -> None:
        onix.wait([fail.start(text="a"), double.start(x=1), fail.start(text="b")])

    with pytest.warns(UnseenFailureWarning, match="2 runs failed") as caught:
        careless()
    assert len(caught) == 1
    assert "ValueError: a" in str(caught[0].message)
    assert "ValueError: b" in str(caught[0].message)
    assert "double" not in str(caught[0].message)


@pytest.mark.parametrize("look", ["exception", "result", "callback", "detach"])
def test_a_failure_that_somebody_looked_at_is_not_reported(look: str) -> None:
    """Before or after it was joined."""

    @onix.flow
    def careful() -> None:
        futures = [fail.start(text="seen") for _ in range(2)]
        for number, future in enumerate(futures):
            if number:
                onix.wait([future])
            with contextlib.suppress(ValueError):
                CONSUME[look](future)
            onix.wait([future])

    with reports() as caught:
        careful()
    assert caught == []


def test_a_failure_is_not_reported_twice(held: Any) -> None:
    """What the flow has reported is not reported again, also when it ends with a failure later, or by the parent."""

    @onix.flow
    def child() -> None:
        onix.wait([fail.start(text="once")])

    @onix.flow
    def parent() -> None:
        child.start().result()
        onix.wait([child.start()])

    with reports() as caught:
        parent()
    assert [report.category for report in caught] == [UnseenFailureWarning] * 2


def test_a_leak_that_has_failed_is_one_report() -> None:
    """It is named as a leak, with its error, and not as an unseen failure as well."""

    @onix.flow
    def leaks() -> None:
        ended(fail.start(text="both"))

    with reports() as caught:
        leaks()
    (report,) = caught
    assert report.category is LeakedFutureWarning
    assert "it failed: ValueError: both" in str(report.message)


SCRIPT = """
    import warnings
    import concurrent.futures as cf
    import threading
    import onix_nb as onix

    @onix.action
    def fail(text): raise ValueError(text)

    go = threading.Event()

    @onix.action
    def fail_late(text):
        go.wait(30)
        raise ValueError(text)
"""


def counted(script: Callable[[str], Any], body: str) -> tuple[str, int, int]:
    """What a script of its own wrote to stderr, and how many reports of each kind there were."""
    code, _, err = script(SCRIPT + body).run()
    assert code == 0, err
    return err, err.count("LeakedFutureWarning:"), err.count("UnseenFailureWarning:")


def test_a_failure_that_a_script_never_looked_at_is_reported_at_its_end(script: Callable[[str], Any]) -> None:
    """Once each; what was looked at is not."""
    err, leaks, failures = counted(
        script,
        """
    lost, joined, seen, detached = (fail.start(text=text) for text in ("lost", "joined", "seen", "detached"))
    onix.wait([joined])
    seen.exception()
    detached.detach()
    cf.wait([lost, detached])
    del lost
    """,
    )
    assert (leaks, failures) == (0, 1)
    assert err.count("ValueError: lost") == 1
    assert err.count("ValueError: joined") == 1
    assert "ValueError: seen" not in err
    assert "ValueError: detached" not in err


def test_a_leaked_run_that_fails_later_is_not_lost(script: Callable[[str], Any]) -> None:
    """The flow reports the leak; its failure, which came after, is reported as what it is, once."""
    err, leaks, failures = counted(
        script,
        """
    kept = []

    @onix.flow
    def leaks():
        kept.append(fail_late.start(text="late"))

    leaks()
    go.set()
    cf.wait(kept)
    kept.clear()
    """,
    )
    assert (leaks, failures) == (1, 1)
    assert err.count("ValueError: late") == 1


def test_what_a_flow_has_reported_is_not_reported_at_the_end(script: Callable[[str], Any]) -> None:
    """Leaked with its failure, or joined: once."""
    err, leaks, failures = counted(
        script,
        """
    @onix.flow
    def careless():
        cf.wait([fail.start(text="leaked")])
        onix.wait([fail.start(text="joined")])

    careless()
    """,
    )
    assert (leaks, failures) == (1, 1)
    assert err.count("ValueError: leaked") == 1
    assert err.count("ValueError: joined") == 1


def test_nothing_is_reported_for_what_a_cancelled_flow_left(script: Callable[[str], Any]) -> None:
    """Its children were cancelled with it."""
    err, leaks, failures = counted(
        script,
        """
    begun = threading.Event()

    @onix.flow
    def sleeps():
        fail_late.start(text="child")
        begun.set()
        onix.sleep(3600)

    future = sleeps.start()
    begun.wait(30)
    future.cancel(interrupt=True)
    go.set()
    """,
    )
    assert (leaks, failures) == (0, 0), err


# configure(leaks=...)


def test_error_fails_the_flow(held: Any) -> None:
    """With LeakedFutureError, an OnixError, which says what the warning says; the run goes on."""
    kept: list[Any] = []

    @onix.flow
    def leaks() -> str:
        kept.append(held.action.start(x=2))
        return "lost"

    with onix.configure(leaks="error"), reports() as caught:
        future = leaks.start()
        error = future.exception(WAIT)
    assert isinstance(error, LeakedFutureError)
    assert isinstance(error, OnixError)
    assert re.search(
        r"flow 'leaks'.*\n.*held_action \(run \d+, started at test_leaks\.py:\d+\); it goes on", str(error)
    )
    assert caught == []
    assert future.run is not None
    assert future.run.status == "failed"
    assert kept[0].run.leaked
    held.let_go()
    assert kept[0].result(WAIT) == 2


def test_error_leaves_a_flow_that_fails_its_own_exception() -> None:
    """The leak is then a warning, so that neither is lost."""

    @onix.flow
    def fails() -> None:
        double.start(x=1)
        raise KeyError("mine")

    with (
        onix.configure(leaks="error"),
        pytest.warns(LeakedFutureWarning, match="double"),
        pytest.raises(KeyError, match="mine"),
    ):
        fails()


def test_cancel_cancels_the_leaked_runs(held: Any) -> None:
    """Those that run and those that are pending, and says so; what was consumed is left alone."""
    kept: list[Any] = []

    @onix.flow
    def leaks() -> None:
        kept.append(held.flow.start())
        held.await_begun()
        kept.append(double.start(x=1))
        kept[1].result()
        kept.append(held.action.start())

    with onix.configure(leaks="cancel"), pytest.warns(LeakedFutureWarning, match="2 futures") as caught:
        leaks()
    assert [future.cancelled() for future in kept] == [True, False, True]
    assert [future.run.leaked for future in kept] == [True, False, True]
    assert str(caught[0].message).count("it was cancelled") == 2
    with pytest.raises(concurrent.futures.CancelledError):
        kept[0].result()
    held.let_go()


def test_ignore_is_silent(held: Any) -> None:
    """The run goes on, and is still marked."""
    kept: list[Any] = []

    @onix.flow
    def leaks() -> None:
        kept.append(held.action.start(x=5))
        onix.wait([fail.start(text="joined")])

    with onix.configure(leaks="ignore"), reports() as caught:
        leaks()
    assert caught == []
    assert kept[0].run.leaked
    held.let_go()
    assert kept[0].result(WAIT) == 5


def test_the_setting_counts_that_is_in_force_when_the_flow_returns(held: Any) -> None:
    """Not the one at its start."""

    @onix.flow
    def leaks() -> None:
        double.start(x=1)
        held.flow.start().result()

    with onix.configure(leaks="error"):
        future = leaks.start()
        held.await_begun()
        with onix.configure(leaks="ignore"):
            held.let_go()
            assert future.exception(WAIT) is None


# detach


def test_detach_returns_the_future_itself() -> None:
    """So that it can be written behind `.start(...)`."""
    future = double.start(x=1)
    assert future.detach() is future
    assert future.result(WAIT) == 2


def test_a_detached_run_outlives_its_flow(held: Any) -> None:
    """It is neither reported nor marked, and it can still be asked."""
    kept: list[Any] = []

    @onix.flow
    def flow() -> None:
        kept.append(held.action.start(x=7).detach())

    with onix.configure(leaks="cancel"), reports() as caught:
        flow()
    assert caught == []
    assert not kept[0].run.leaked
    assert not kept[0].cancelled()
    held.let_go()
    assert kept[0].result(WAIT) == 7


def test_a_detached_failure_is_nobodys_concern() -> None:
    """Neither when the flow returns nor later."""

    @onix.flow
    def flow() -> None:
        ended(fail.start(text="detached").detach())

    with reports() as caught:
        flow()
    assert caught == []


# The garbage collector


def test_a_warning_of_very_many_names_the_first_and_counts_the_others() -> None:
    """Of leaks and of failures: a thousand lines would be read by nobody."""

    @onix.flow
    def leaks() -> None:
        onix.wait([double.start(x=x) for x in range(3)])
        for x in range(1000):
            double.start(x=x)

    with pytest.warns(LeakedFutureWarning, match="1000 futures") as caught:
        leaks()
    lines = str(caught[0].message).splitlines()
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[21] == "  … and 980 more: see onix.runs()"


def test_nothing_is_reported_from_garbage_collection(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Futures may be dropped and collected, running, failed or leaked: reports come from flows and cells only."""
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)

    @onix.flow
    def leaks() -> None:
        onix.wait([fail.start(text="joined")])
        held.action.start()
        fail.start(text="leaked")

    with onix.configure(leaks="ignore"):
        leaks()
    with reports() as caught:
        for _ in range(20):
            ended(fail.start(text="dropped").detach())
            double.start(x=1)
        held.flow.start()
        held.let_go()
        gc.collect()
    assert caught == []
    assert unraisable == []


def test_control_a_report_from_garbage_collection_is_seen() -> None:
    """The guard above would see a finalizer that warns."""

    class Warns:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            warnings.warn("from a finalizer", LeakedFutureWarning, stacklevel=1)

    with reports() as caught:
        Warns()
        gc.collect()
    assert [report.category for report in caught] == [LeakedFutureWarning]
