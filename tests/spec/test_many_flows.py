"""E2: thousands of flows wait at the same time, and a system that has no more threads only slows them down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

MANY = """
    import resource, sys, threading
    from pathlib import Path
    import onix_nb as onix

    number = int(sys.argv[1])
    # What the system allows, for the one who reads a failure.
    def limit(path):
        try:
            return Path(path).read_text().strip()
        except OSError:
            return "?"
    print("user processes:", resource.getrlimit(resource.RLIMIT_NPROC), "address space:",
          resource.getrlimit(resource.RLIMIT_AS), "threads-max:", limit("/proc/sys/kernel/threads-max"),
          "pids.max:", limit("/sys/fs/cgroup/pids.max"), "max_map_count:", limit("/proc/sys/vm/max_map_count"))

    go, begun = threading.Event(), threading.Semaphore(0)

    @onix.action
    def hold():
        go.wait()
        return 1

    @onix.flow
    def waits_for_an_event():
        begun.release()
        go.wait()
        return 1

    @onix.flow
    def waits_for_a_child():
        child = hold.start()
        begun.release()
        return child.result()

    @onix.flow
    def waits_for_another():
        begun.release()
        return shared.result()

    shared = waits_for_an_event.start()
    kinds = (waits_for_an_event, waits_for_a_child, waits_for_another)
    with onix.configure(max_workers=2):
        futures = [shared] + [kinds[position % 3].start() for position in range(number - 1)]
        waiting = 0
        while waiting < number and begun.acquire(timeout=20):
            waiting += 1
        statuses = [future.run.status for future in futures]
        print("waiting at once:", waiting, "pending:", statuses.count("pending"))
        assert waiting + statuses.count("pending") >= number, "flows are neither waiting nor pending"
        go.set()
        done, not_done = onix.wait(futures, timeout=60)
    print("ended:", len(done), "peak memory in MB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    assert [future.result(0) for future in futures] == [1] * number
    assert waiting == number, "the system has fewer threads than this test needs; see the first line"
"""


def peak_memory(out: str) -> int:
    return int(out.strip().rpartition(" ")[2])


def test_1_000_flows_wait_at_once(script: Callable[..., Any]) -> None:
    """For an event, for a child, for one another: all of them run, wait, and end."""
    out = script(MANY).passes("1000")
    assert "waiting at once: 1000" in out, out


@pytest.mark.deep
def test_10_000_flows_wait_at_once(script: Callable[..., Any]) -> None:
    """In one process, with less memory than a browser tab takes."""
    out = script(MANY).passes("10000", timeout=180)
    assert "waiting at once: 10000" in out, out
    assert peak_memory(out) < 600, out


# A system that refuses threads. Simulated at the one place where Python asks for one, because a
# limit of the kernel's would hold for the user or the container that runs the tests, too.
REFUSING = """
    import threading
    import onix_nb as onix

    real_start = threading.Thread.start
    allowed = None  # how many more threads the system has; None for any number
    counting = threading.Lock()

    def start(thread):
        global allowed
        with counting:
            if allowed is not None:
                if allowed == 0:
                    raise RuntimeError("can't start new thread")
                allowed -= 1
        real_start(thread)

    threading.Thread.start = start

    go, begun = threading.Event(), threading.Semaphore(0)

    @onix.flow
    def hold(x):
        begun.release()
        go.wait()
        return x

    def statuses(futures):
        return [future.run.status for future in futures]
"""


def test_a_flow_stays_pending_while_the_system_refuses_a_thread(script: Callable[..., Any]) -> None:
    """What got a thread runs; the others start, in order, as threads get free; none fails and none is lost."""
    script(
        REFUSING
        + """
    allowed = 3
    futures = [hold.start(x=x) for x in range(10)]
    assert all(begun.acquire(timeout=30) for _ in range(3))
    assert statuses(futures) == ["running"] * 3 + ["pending"] * 7, statuses(futures)
    go.set()
    assert [future.result(30) for future in futures] == list(range(10))
"""
    ).passes()


def test_a_pending_flow_can_be_cancelled(script: Callable[..., Any]) -> None:
    """As any flow that has not begun."""
    script(
        REFUSING
        + """
    allowed = 1
    first, second = hold.start(x=1), hold.start(x=2)
    assert begun.acquire(timeout=30)
    assert second.cancel()
    go.set()
    assert first.result(30) == 1
    assert not begun.acquire(blocking=False)
"""
    ).passes()


def test_a_flow_that_can_never_start_is_refused(script: Callable[..., Any]) -> None:
    """Without a single thread, `start` and a call raise ExecutorError, and nothing is left behind."""
    script(
        REFUSING
        + """
    allowed = 0
    for call in (hold.start, hold):
        try:
            call(x=1)
        except onix.errors.ExecutorError as error:
            assert "thread" in str(error)
        else:
            raise AssertionError("not refused")
    assert not [run for run in onix.runs() if run.status in ("pending", "running")], list(onix.runs())
    allowed = None
    go.set()
    assert hold(x=2) == 2
"""
    ).passes()


def test_a_refused_flow_keeps_no_place_of_max_flows(script: Callable[..., Any]) -> None:
    """What was refused does not count as running."""
    script(
        REFUSING
        + """
    onix.configure(max_flows=1)
    allowed = 0
    for _ in range(3):
        try:
            hold.start(x=1)
        except onix.errors.ExecutorError:
            pass
    allowed = None
    go.set()
    assert hold.start(x=2).result(30) == 2
"""
    ).passes()


def test_a_child_that_was_refused_starts_when_the_system_has_threads_again(script: Callable[..., Any]) -> None:
    """Also when its parent, which waits for it, has the only thread: another program's threads may have ended."""
    script(
        REFUSING
        + """
    @onix.flow
    def parent():
        child = hold.start(x=1)
        begun.release()
        return child.result()

    go.set()
    allowed = 1
    future = parent.start()
    assert begun.acquire(timeout=30)
    allowed = None
    assert future.result(30) == 1
"""
    ).passes()


def test_actions_wait_for_a_thread_as_flows_do(script: Callable[..., Any]) -> None:
    """With fewer threads than max_workers they take turns."""
    script(
        REFUSING
        + """
    @onix.action
    def double(x):
        return 2 * x

    onix.configure(max_workers=8)
    allowed = 1
    futures = [double.start(x=x) for x in range(50)]
    assert [future.result(30) for future in futures] == [2 * x for x in range(50)]
"""
    ).passes()
