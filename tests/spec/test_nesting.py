"""P10 and E2: flows nest to any depth and width, and never take an action's place."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30


@onix.action
def one() -> int:
    return 1


@onix.flow
def single() -> int:
    return one()


def all_done(futures: list[onix.Future[Any]]) -> bool:
    """Whether all have ended in time; what has not is cancelled, so that a deadlock fails just one test."""
    not_done = onix.wait(futures, timeout=WAIT).not_done
    for future in not_done:
        future.cancel(interrupt=True)
    return not not_done


@pytest.mark.parametrize("child", [one, single], ids=["actions", "flows"])
def test_200_flows_with_10_children_each_end_on_two_workers(child: Any) -> None:
    """However many flows wait for their children, the children get the workers."""

    @onix.flow
    def parent() -> int:
        return sum(future.result() for future in [child.start() for _ in range(10)])

    with onix.configure(max_workers=2):
        parents = [parent.start() for _ in range(200)]
        assert all_done(parents)
        assert [future.result() for future in parents] == [10] * 200


def test_control_parents_that_hold_a_worker_starve_their_children() -> None:
    """The guard above sees the deadlock of a pool in which those who wait occupy its workers."""
    begun = threading.Barrier(3)
    children: list[onix.Future[int]] = []

    def parent() -> int:
        begun.wait(WAIT)
        child = executor.submit(int, 1)
        children.append(child)
        return child.result()

    with onix.Executor(max_workers=2) as executor:
        parents = [executor.submit(parent) for _ in range(2)]
        begun.wait(WAIT)
        assert not onix.wait(parents, timeout=0.3).done
        for child in children:
            child.cancel()
        for future in parents:
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(WAIT)


def test_a_flow_calls_itself_500_deep() -> None:
    """Each flow has a thread of its own, so depth is not bounded by the stack of one."""

    @onix.flow
    def nest(depth: int) -> int:
        return 0 if depth == 0 else 1 + nest(depth=depth - 1)

    future = nest.start(depth=500)
    assert all_done([future])
    assert future.result() == 500


def test_a_flow_starts_itself_500_deep() -> None:
    """`.start().result()` nests as deep as a direct call."""

    @onix.flow
    def nest(depth: int) -> int:
        return 0 if depth == 0 else 1 + nest.start(depth=depth - 1).result()

    future = nest.start(depth=500)
    assert all_done([future])
    assert future.result() == 500


def test_one_flow_has_2_000_children() -> None:
    """Width is not bounded by the number of workers either."""

    @onix.flow
    def wide() -> int:
        done, _ = onix.wait([one.start() for _ in range(2000)])
        return sum(future.result() for future in done)

    with onix.configure(max_workers=2):
        future = wide.start()
        assert all_done([future])
        assert future.result() == 2000


def test_a_cell_calls_and_starts_actions_and_flows() -> None:
    """The session is the parent of what a cell runs: it has no parent run."""
    started = [one.start(), single.start()]
    assert [one(), single()] == [1, 1]
    assert [future.result(WAIT) for future in started] == [1, 1]
    assert [future.run.parent for future in started if future.run] == [None, None]


def test_a_child_knows_its_parent_at_every_level() -> None:
    """The run of a child has the run of the flow that called or started it as its parent."""
    runs: dict[str, Any] = {}

    @onix.action
    def leaf() -> None:
        runs["leaf"] = onix.current_run()

    @onix.flow
    def inner() -> None:
        runs["inner"] = onix.current_run()
        leaf()
        leaf.start().result()

    @onix.flow
    def outer() -> None:
        runs["outer"] = onix.current_run()
        inner()

    outer()
    assert runs["outer"].run.parent is None
    assert runs["inner"].run.parent is runs["outer"].run
    assert runs["leaf"].run.parent is runs["inner"].run


def test_a_waiting_flow_takes_no_workers_place() -> None:
    """With one worker an action runs while flows wait for it and for each other."""

    @onix.flow
    def chain(depth: int) -> int:
        return one.start().result() if depth == 0 else chain.start(depth=depth - 1).result()

    with onix.configure(max_workers=1):
        assert chain.start(depth=20).result(WAIT) == 1


def test_threads_of_flows_are_reused() -> None:
    """Flows that follow each other need only a few threads."""

    @onix.flow
    def thread() -> threading.Thread:
        return threading.current_thread()

    threads = {thread() for _ in range(200)}
    assert len(threads) < 20
    assert threading.main_thread() not in threads


# max_flows


class Held:
    """Flows that count how many of them run at once, and stay until they are let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.running = self.peak = 0
        self._counting = threading.Lock()
        self.flow = onix.flow(self._body).options(name="held")

    def _body(self) -> int:
        with self._counting:
            self.running += 1
            self.peak = max(self.peak, self.running)
        self.begun.release()
        try:
            assert self.let_go.wait(WAIT)
        finally:
            with self._counting:
                self.running -= 1
        return one.start().result()

    def await_begun(self, number: int) -> None:
        for _ in range(number):
            assert self.begun.acquire(timeout=WAIT)


def statuses(futures: list[onix.Future[Any]]) -> list[str]:
    return [future.run.status for future in futures if future.run]


def test_max_flows_limits_the_flows_of_cells_from_start_to_end() -> None:
    """A flow of a cell has its place until it ends, also while it waits; the others are pending, and start in order."""
    held = Held()
    with onix.configure(max_flows=2):
        futures = [held.flow.start() for _ in range(6)]
        held.await_begun(2)
        assert statuses(futures) == ["running"] * 2 + ["pending"] * 4
        held.let_go.set()
        assert all_done(futures)
    assert held.peak == 2
    assert [future.result() for future in futures] == [1] * 6


def test_without_max_flows_any_number_of_flows_runs_at_once() -> None:
    """None, the default, is no limit."""
    held = Held()
    futures = [held.flow.start() for _ in range(50)]
    held.await_begun(50)
    held.let_go.set()
    assert all_done(futures)
    assert held.peak == 50


def test_child_flows_always_start() -> None:
    """With max_flows=1 the children of the one flow run, all at once."""
    meeting = threading.Barrier(20)

    @onix.flow
    def child() -> int:
        return meeting.wait(WAIT)

    @onix.flow
    def parent() -> list[int]:
        return sorted(future.result() for future in [child.start() for _ in range(20)])

    with onix.configure(max_flows=1):
        assert parent.start().result(WAIT) == list(range(20))


def test_a_higher_max_flows_starts_pending_flows_at_once() -> None:
    """A change of the limit holds for what is pending already."""
    held = Held()
    with onix.configure(max_flows=1):
        futures = [held.flow.start() for _ in range(4)]
        held.await_begun(1)
        onix.configure(max_flows=3)
        held.await_begun(2)
        assert statuses(futures) == ["running"] * 3 + ["pending"]
        held.let_go.set()
        assert all_done(futures)


def test_a_lower_max_flows_lets_what_runs_go_on() -> None:
    """After it, the next flow starts only when fewer than the new limit run."""
    held = Held()
    with onix.configure(max_flows=3):
        first = [held.flow.start() for _ in range(3)]
        held.await_begun(3)
        onix.configure(max_flows=1)
        later = held.flow.start()
        assert statuses([*first, later]) == ["running"] * 3 + ["pending"]
        held.let_go.set()
        assert all_done([*first, later])


@pytest.mark.parametrize("end", ["cancel", "interrupt", "failure"])
def test_a_flow_that_does_not_succeed_gives_its_place_back(end: str) -> None:
    """Cancelled while pending, cancelled while running, or failed: the next flow starts."""
    running = threading.Event()

    @onix.flow
    def ends() -> None:
        running.set()
        if end == "interrupt":
            onix.sleep(3600)
        if end == "failure":
            raise ValueError("ends")

    held = Held()
    with onix.configure(max_flows=1):
        before = held.flow.start() if end == "cancel" else None
        future = ends.start()
        if end == "cancel":
            assert future.cancel()
        elif end == "interrupt":
            assert running.wait(WAIT)
            assert future.cancel(interrupt=True)
        else:
            assert isinstance(future.exception(WAIT), ValueError)
        held.let_go.set()
        assert before is None or before.result(WAIT) == 1
        assert [held.flow.start().result(WAIT) for _ in range(2)] == [1, 1]
