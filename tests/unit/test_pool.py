"""The threads that run tasks, and the clock that calls back: no task is lost, whatever races."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from _thread import LockType
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from onix_nb.engine import pool as pool_module
from onix_nb.engine.clock import Clock
from onix_nb.engine.pool import Pool, waker

WAIT = 30


@pytest.fixture
def racing(interleaved: Callable[[], Any]) -> Iterator[None]:
    """Lets threads take turns at any instruction: this one, and all that are started."""
    interval, trace = sys.getswitchinterval(), sys.gettrace()
    sys.setswitchinterval(1e-6)
    if interleaved() is not None:
        threading.settrace(lambda *event: interleaved()(*event))
    sys.settrace(interleaved())
    yield
    sys.settrace(trace)
    threading.settrace(None)  # type: ignore[arg-type]
    sys.setswitchinterval(interval)


@pytest.fixture
def short_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle threads leave at once, so that leaving and submitting meet."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.0005)


class Task:
    """Counts that it ran, on which thread; may hold its thread until it is let go."""

    def __init__(self, done: threading.Semaphore, held: threading.Event | None = None, *, stays: bool = True) -> None:
        self.begun = threading.Event()
        self.runs = 0
        self.replaced = False
        self.thread: threading.Thread | None = None
        self._done = done
        self._held = held
        self._stays = stays

    def execute(self) -> bool:
        self.runs += 1
        self.thread = threading.current_thread()
        self.begun.set()
        if self._held is not None:
            assert self._held.wait(WAIT)
        self._done.release()
        return self._stays


def done(semaphore: threading.Semaphore, number: int) -> bool:
    """Whether `number` tasks end in time."""
    return all(semaphore.acquire(timeout=WAIT) for _ in range(number))


@pytest.fixture
def ended() -> threading.Semaphore:
    return threading.Semaphore(0)


# No task is lost


@pytest.mark.parametrize("limit", [1, 2, 8, None])
def test_no_task_is_lost_in_1_000_rounds(racing: None, ended: threading.Semaphore, limit: int | None) -> None:
    """Each runs once, though threads park while tasks come."""
    pool = Pool("test", limit)
    for _ in range(1000):
        tasks = [Task(ended) for _ in range(3)]
        for task in tasks:
            pool.submit(task)
        assert done(ended, 3)
        assert [task.runs for task in tasks] == [1, 1, 1]
    assert limit is None or pool.size <= limit
    pool.close()


def test_no_task_is_lost_while_idle_threads_leave(racing: None, short_idle: None, ended: threading.Semaphore) -> None:
    """A thread that gives up waiting looks once more."""
    pool = Pool("test", 2)
    pause = threading.Event()
    for turn in range(1000):
        task = Task(ended)
        pool.submit(task)
        assert done(ended, 1)
        assert task.runs == 1
        if turn % 3 == 0:
            pause.wait(0.0006)  # about as long as a thread stays idle
    assert pool.size <= 2
    pool.close()


def test_no_task_is_lost_between_several_that_submit(
    racing: None, short_idle: None, ended: threading.Semaphore
) -> None:
    """From four threads at once, while the limit changes."""
    pool = Pool("test", 2)
    number = 300

    def submit() -> None:
        for _ in range(number):
            pool.submit(Task(ended))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for limit in range(200):
        pool.resize(limit % 4 + 1)
    pool.resize(2)
    for thread in threads:
        thread.join(WAIT)
    assert done(ended, 4 * number)
    pool.close()


class Meeting(list[LockType]):
    """The list of idle threads, where one that is about to park is held up."""

    def __init__(self) -> None:
        self.arrived, self.go = threading.Event(), threading.Event()

    def append(self, parking: LockType) -> None:
        self.arrived.set()
        assert self.go.wait(WAIT)
        super().append(parking)


class LooksOnce(Pool):
    """A broken pool: its threads park without a second look into the backlog."""

    def _park(self, parking: LockType) -> bool:
        self._idle.append(parking)
        return parking.acquire(timeout=1)


@pytest.mark.parametrize(("kind", "loses"), [(Pool, False), (LooksOnce, True)], ids=["ours", "control"])
def test_a_task_that_comes_while_a_thread_parks_is_seen(
    ended: threading.Semaphore, kind: type[Pool], loses: bool
) -> None:
    """After the thread found nothing, and before it can be woken; a pool that looks once only loses it."""
    pool = kind("test", 1)
    meeting = pool._idle = Meeting()
    pool._wake = waker(meeting)
    pool.submit(Task(ended))
    assert done(ended, 1)
    assert meeting.arrived.wait(WAIT)
    pool.submit(Task(ended))
    meeting.go.set()
    assert ended.acquire(timeout=0.3 if loses else WAIT) is not loses
    pool.close()


# Threads


def test_threads_are_made_as_needed_up_to_the_limit(ended: threading.Semaphore) -> None:
    """Not before, and not more."""
    pool, held = Pool("test", 3), threading.Event()
    assert pool.size == 0
    tasks = [Task(ended, held) for _ in range(5)]
    for number, task in enumerate(tasks, 1):
        pool.submit(task)
        assert pool.size == min(number, 3)
    assert all(task.begun.wait(WAIT) for task in tasks[:3])
    assert not any(task.begun.is_set() for task in tasks[3:])
    held.set()
    assert done(ended, 5)
    pool.close()


def test_tasks_begin_in_the_order_of_submission(ended: threading.Semaphore) -> None:
    """On one thread also one after the other."""
    order: list[int] = []

    class Numbered(Task):
        def __init__(self, number: int) -> None:
            super().__init__(ended)
            self.number = number

        def execute(self) -> bool:
            order.append(self.number)
            return super().execute()

    pool = Pool("test", 1)
    for number in range(100):
        pool.submit(Numbered(number))
    assert done(ended, 100)
    assert order == list(range(100))
    pool.close()


def test_threads_are_daemons_with_a_name(ended: threading.Semaphore) -> None:
    """So that they hold up no exit, and a debugger shows whose they are."""
    pool, task = Pool("test", 1), Task(ended)
    pool.submit(task)
    assert done(ended, 1)
    assert task.thread is not None
    assert task.thread.daemon
    assert task.thread.name == "onix-test-1"
    pool.close()


def test_an_idle_thread_leaves_after_a_while(short_idle: None, ended: threading.Semaphore) -> None:
    """And the next task gets a new one."""
    pool, first, second = Pool("test", 1), Task(ended), Task(ended)
    pool.submit(first)
    assert done(ended, 1)
    assert first.thread is not None
    first.thread.join(WAIT)
    assert not first.thread.is_alive()
    assert pool.size == 0
    pool.submit(second)
    assert done(ended, 1)
    assert second.thread is not first.thread
    pool.close()


def test_a_closed_pool_lets_its_threads_go(ended: threading.Semaphore) -> None:
    """Idle ones at once, busy ones after the backlog."""
    pool, held = Pool("test", 2), threading.Event()
    tasks = [Task(ended), Task(ended, held), Task(ended)]
    for task in tasks:
        pool.submit(task)
    assert done(ended, 2)
    pool.close()
    held.set()
    assert done(ended, 1)
    for task in tasks:
        assert task.thread is not None
        task.thread.join(WAIT)
        assert not task.thread.is_alive()
    assert pool.size == 0


def test_a_task_is_let_go_when_it_has_run(ended: threading.Semaphore) -> None:
    """Its thread, idle now, does not keep it."""
    pool, task = Pool("test", 1), Task(ended)
    freed = threading.Event()
    weakref.finalize(task, freed.set)
    pool.submit(task)
    assert done(ended, 1)
    del task
    assert freed.wait(WAIT)
    pool.close()


# Resizing


def test_a_higher_limit_starts_what_waits(ended: threading.Semaphore) -> None:
    """At once, as many as there are."""
    pool, held = Pool("test", 1), threading.Event()
    tasks = [Task(ended, held) for _ in range(4)]
    for task in tasks:
        pool.submit(task)
    pool.resize(10)
    assert all(task.begun.wait(WAIT) for task in tasks)
    assert pool.size == 4
    held.set()
    assert done(ended, 4)
    pool.close()


def test_a_lower_limit_holds_for_the_next_task(ended: threading.Semaphore) -> None:
    """What runs goes on; threads above the limit leave, idle ones included."""
    pool, held = Pool("test", 4), threading.Event()
    first = [Task(ended, held) for _ in range(4)]
    for task in first:
        pool.submit(task)
    assert all(task.begun.wait(WAIT) for task in first)
    pool.resize(1)
    held.set()
    assert done(ended, 4)
    again = threading.Event()
    second = [Task(ended, again) for _ in range(3)]
    for task in second:
        pool.submit(task)
    assert any(task.begun.wait(0.2) for task in second)
    assert sum(task.begun.is_set() for task in second) == 1
    again.set()
    assert done(ended, 3)
    assert pool.size == 1
    pool.close()


def test_idle_threads_above_a_lower_limit_take_no_task(ended: threading.Semaphore) -> None:
    """They were parked before it: one of them at a time may work."""
    pool, held = Pool("test", 4), threading.Event()
    for task in [Task(ended, held) for _ in range(4)]:
        pool.submit(task)
    held.set()
    assert done(ended, 4)
    pool.resize(1)
    for _ in range(50):
        again = threading.Event()
        tasks = [Task(ended, again) for _ in range(4)]
        for task in tasks:
            pool.submit(task)
        running = [task for task in tasks if task.begun.wait(0.01)]
        assert len(running) <= 1
        again.set()
        assert done(ended, 4)
    pool.close()


# Replacing


def test_a_replaced_thread_gives_its_place_to_another(ended: threading.Semaphore) -> None:
    """What waits starts, and the old thread leaves when its task returns."""
    pool, held = Pool("test", 1), threading.Event()
    stuck, waiting = Task(ended, held, stays=False), Task(ended)
    pool.submit(stuck)
    assert stuck.begun.wait(WAIT)
    pool.submit(waiting)
    pool.replace(stuck)
    assert done(ended, 1)
    assert waiting.runs == 1
    held.set()
    assert done(ended, 1)
    assert stuck.thread is not None
    stuck.thread.join(WAIT)
    assert not stuck.thread.is_alive()
    assert pool.size == 1
    pool.close()


def test_a_place_given_up_while_nothing_waits_is_there_for_the_next(ended: threading.Semaphore) -> None:
    """The pool is one thread smaller until a task comes."""
    pool, held = Pool("test", 1), threading.Event()
    stuck = Task(ended, held, stays=False)
    pool.submit(stuck)
    assert stuck.begun.wait(WAIT)
    pool.replace(stuck)
    assert pool.size == 0
    pool.submit(Task(ended))
    assert done(ended, 1)
    held.set()
    assert done(ended, 1)
    pool.close()


def test_the_count_of_threads_stays_right_through_it_all(racing: None, ended: threading.Semaphore) -> None:
    """After many replacements the limit holds as at first."""
    pool = Pool("test", 2)
    for _ in range(200):
        held = threading.Event()
        stuck = Task(ended, held, stays=False)
        pool.submit(stuck)
        assert stuck.begun.wait(WAIT)
        pool.replace(stuck)
        pool.submit(Task(ended))
        held.set()
        assert done(ended, 2)
    held = threading.Event()
    tasks = [Task(ended, held) for _ in range(4)]
    for task in tasks:
        pool.submit(task)
    assert pool.size == 2
    held.set()
    assert done(ended, 4)
    pool.close()


# The clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_alarms_are_called_in_the_order_of_their_times(clock: Clock) -> None:
    """Not in that of scheduling; equal ones in that of scheduling."""
    called: list[int] = []
    ended = threading.Event()
    clock.after(0.15, ended.set)
    for number, seconds in ((3, 0.1), (1, 0.02), (2, 0.05)):
        clock.after(seconds, lambda number=number: called.append(number))  # type: ignore[misc]
    assert ended.wait(WAIT)
    assert called == [1, 2, 3]


def test_an_alarm_never_comes_early(clock: Clock) -> None:
    """At the earliest after its seconds."""
    ended: list[float] = []
    rang = threading.Event()
    begun = time.monotonic()
    clock.after(0.05, lambda: (ended.append(time.monotonic()), rang.set())[0])
    assert rang.wait(WAIT)
    assert ended[0] - begun >= 0.05


def test_an_earlier_alarm_wakes_a_sleeping_clock(clock: Clock) -> None:
    """It does not wait for the later one that came first."""
    later, sooner = threading.Event(), threading.Event()
    alarm = clock.after(3600, later.set)
    clock.after(0.01, sooner.set)
    assert sooner.wait(WAIT)
    assert not later.is_set()
    alarm.cancel()


def test_a_cancelled_alarm_is_not_called_and_lets_go(clock: Clock) -> None:
    """What it would have used is freed at once, not at its time."""

    class Used:
        def __call__(self) -> None:
            called.append(1)

    called: list[int] = []
    ended, freed = threading.Event(), threading.Event()
    used = Used()
    weakref.finalize(used, freed.set)
    early, late = clock.after(0.01, Used()), clock.after(3600, used)
    early.cancel()
    late.cancel()
    del used
    assert freed.is_set()
    clock.after(0.05, ended.set)
    assert ended.wait(WAIT)
    assert called == []


def test_an_alarm_may_schedule_another(clock: Clock) -> None:
    """The clock holds no lock while it calls."""
    ended = threading.Event()
    clock.after(0, lambda: clock.after(0, lambda: clock.after(0, ended.set) and None) and None)
    assert ended.wait(WAIT)


def test_an_alarm_that_fails_is_logged_and_the_next_is_called(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    """One failure stops nobody else's time."""
    ended = threading.Event()

    def fails() -> None:
        raise ValueError("in an alarm")

    clock.after(0, fails)
    clock.after(0.01, ended.set)
    assert ended.wait(WAIT)
    assert "in an alarm" in capfd.readouterr().err  # where logging prints what nobody has configured


def test_no_alarm_is_lost_between_several_that_schedule(racing: None, clock: Clock) -> None:
    """Each is called once."""
    called = threading.Semaphore(0)

    def schedule(seconds: Callable[[int], float]) -> None:
        for turn in range(300):
            clock.after(seconds(turn), called.release)

    threads = [
        threading.Thread(target=schedule, args=(seconds,))
        for seconds in (lambda turn: 0, lambda turn: turn % 7 / 1000, lambda turn: (300 - turn) / 10000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert all(called.acquire(timeout=WAIT) for _ in range(900))
    assert not called.acquire(timeout=0.05)
