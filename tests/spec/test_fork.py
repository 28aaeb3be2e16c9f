"""E7: in a forked child onix refuses to work, and everything else works as without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12 and later warn of forks with threads

HEAD = """
    import asyncio, gc, os, signal, sys, threading, time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads, from 3.12 on
    import onix_nb as onix

    @onix.action
    def double(x):
        return 2 * x

    @onix.action
    async def later(x):
        return 2 * x

    @onix.action(timeout=30)
    def timed(x):
        return 2 * x

    @onix.flow
    def total(n):
        return sum(future.result() for future in [double.start(x=x) for x in range(n)])

    def in_child(body, seconds=30):
        \"\"\"Forks, runs `body` in the child, and gives its exit code; a child that hangs is killed.\"\"\"
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = body() or 0
            except BaseException as error:
                os.write(2, f"in the child: {type(error).__name__}: {error}\\n".encode())
            finally:
                os._exit(code)
        kill = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
        kill.start()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        kill.cancel()
        return code
"""

EVERY_CALL = """
    assert total(n=3) == 6 and later(x=1) == 2 and timed(x=1) == 2
    ended = double.start(x=1)
    ended.result()
    executor = onix.Executor(max_workers=2)
    executor.submit(int).result()
    go = threading.Event()

    @onix.flow
    def hold():
        go.wait()
        return 1

    running = hold.start()

    async def awaits():
        await running

    CALLS = {
        "call an action": lambda: double(x=1),
        "start an action": lambda: double.start(x=1),
        "call an action with a timeout": lambda: timed(x=1),
        "call an async action": lambda: later(x=1),
        "start an async action": lambda: later.start(x=1),
        "call a flow": lambda: total(n=1),
        "start a flow": lambda: total.start(n=1),
        "result": lambda: running.result(),
        "result with a timeout": lambda: running.result(1),
        "exception": lambda: running.exception(),
        "await": lambda: asyncio.run(awaits()),
        "cancel": lambda: running.cancel(),
        "interrupt": lambda: running.cancel(interrupt=True),
        "detach": lambda: running.detach(),
        "wait": lambda: onix.wait([running]),
        "wait for what has ended": lambda: onix.wait([ended]),
        "wait for nothing": lambda: onix.wait([]),
        "as_completed": lambda: list(onix.as_completed([running])),
        "sleep": lambda: onix.sleep(0.01),
        "runs": onix.runs,
        "current_run": onix.current_run,
        "configure": lambda: onix.configure(max_workers=3),
        "submit": lambda: executor.submit(int),
        "a new executor": lambda: onix.Executor(max_workers=1).submit(int),
    }
"""


def test_every_call_is_refused_in_a_forked_child(script: Callable[..., Any]) -> None:
    """ExecutorError, at once, which says what to do instead."""
    script(
        HEAD
        + EVERY_CALL
        + """
    def body():
        for name, call in CALLS.items():
            try:
                call()
            except onix.errors.ExecutorError as error:
                assert "fork" in str(error), (name, error)
            else:
                os.write(2, f"not refused: {name}\\n".encode())

    assert in_child(body) == 0
    go.set()
    assert running.result(30) == 1
"""
    ).passes()


def test_every_call_is_refused_in_a_child_that_a_run_forks(script: Callable[..., Any]) -> None:
    """Also inside an action or a flow."""
    script(
        HEAD
        + """
    def body():
        for call in (lambda: double.start(x=1), onix.current_run, lambda: onix.sleep(0), onix.runs):
            try:
                call()
            except onix.errors.ExecutorError:
                pass
            else:
                return 71

    @onix.action
    def forks():
        return in_child(body)

    @onix.flow
    def forks_in_a_flow():
        return in_child(body)

    assert [forks(), forks.start().result(), forks_in_a_flow()] == [0, 0, 0]
"""
    ).passes()


def test_a_child_may_decorate_functions(script: Callable[..., Any]) -> None:
    """Modules with actions can be imported there; plain functions are called, those of the decorated ones included."""
    script(
        HEAD
        + """
    def body():
        @onix.action(retry=3)
        def act(x):
            return x + 1

        assert act.__wrapped__(1) == 2
        assert double.options(name="other").__name__ == "double"

    assert in_child(body) == 0
"""
    ).passes()


def test_a_child_that_forks_before_anything_started_is_refused_too(script: Callable[..., Any]) -> None:
    """The rule is simple: one process."""
    script(
        HEAD
        + """
    def body():
        try:
            double(x=1)
        except onix.errors.ExecutorError:
            return 7

    assert in_child(body) == 7
    assert double(x=1) == 2
"""
    ).passes()


def test_the_parents_runs_do_not_notice(script: Callable[..., Any]) -> None:
    """What ran before the fork ends as it would; what starts after it runs."""
    script(
        HEAD
        + EVERY_CALL
        + """
    futures = [double.start(x=x) for x in range(100)]
    assert in_child(lambda: sys.modules and 0) == 0
    assert [future.result(30) for future in futures] == [2 * x for x in range(100)]
    go.set()
    assert running.result(30) == 1
    assert total(n=3) == 6 and later(x=1) == 2
"""
    ).passes()


def test_a_child_that_exits_normally_exits_in_silence(script: Callable[..., Any]) -> None:
    """Its exit hooks run, and onix's does nothing there, whatever runs in the parent."""
    code, out, err = script(
        HEAD
        + EVERY_CALL
        + """
    executor.submit(go.wait)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        sys.exit(5)
    begun = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    assert time.monotonic() - begun < 3
    go.set()
    print(running.result(30))
"""
    ).run()
    assert (code, out, err) == (0, "1\n", "")


def test_subprocesses_work_while_runs_go_on(script: Callable[..., Any]) -> None:
    """`subprocess`, `os.system` and a shell, also with `preexec_fn`, from cells, actions and flows."""
    script(
        HEAD
        + EVERY_CALL
        + """
    import subprocess

    def shell():
        assert subprocess.run(["echo", "x"], capture_output=True, text=True, timeout=30).stdout == "x\\n"
        assert subprocess.run("exit 3", shell=True, timeout=30).returncode == 3
        assert subprocess.run(["true"], preexec_fn=os.getpid, timeout=30).returncode == 0
        assert os.system("true") == 0
        return 1

    act, flow = onix.action(shell), onix.flow(shell)
    assert shell() == act() == act.start().result(30) == flow() == 1
    go.set()
    assert running.result(30) == 1
"""
    ).passes()


def test_a_forking_pool_works_with_plain_functions(script: Callable[..., Any]) -> None:
    """`multiprocessing` and `ProcessPoolExecutor`, from cells, actions and flows, while runs go on."""
    script(
        HEAD
        + EVERY_CALL
        + """
    import concurrent.futures, multiprocessing
    fork = multiprocessing.get_context("fork")

    def pools():
        with fork.Pool(2) as pool:
            assert pool.map_async(abs, [-1, -2, 3]).get(30) == [1, 2, 3]
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:
            assert list(pool.map(abs, [-1, -2, 3], timeout=30)) == [1, 2, 3]
        return 1

    act, flow = onix.action(pools), onix.flow(pools)
    assert pools() == act.start().result(30) == flow() == 1
    go.set()
    assert running.result(30) == 1
"""
    ).passes()


def test_a_fork_never_hangs_the_child_or_the_parent(script: Callable[..., Any]) -> None:
    """Fifty forks while other threads start, wait and cancel: no lock is taken along."""
    script(
        HEAD
        + """
    sys.setswitchinterval(1e-5)
    stop, worked = threading.Event(), []

    def work(turn):
        while not stop.is_set():
            onix.wait([double.start(x=1), total.start(n=2), later.start(x=1)])
            future = double.start(x=1)
            future.add_done_callback(repr)
            future.cancel()
            onix.wait([future])
            worked.append(turn)

    def body():
        try:
            double.start(x=1)
        except onix.errors.ExecutorError:
            return 0
        return 71

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(3)]
    for thread in threads:
        thread.start()
    codes = [in_child(body, seconds=20) for _ in range(50)]
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert codes == [0] * 50, codes
    assert worked
"""
    ).passes()


def test_finalizers_that_run_around_a_fork_never_hang(script: Callable[..., Any]) -> None:
    """The garbage collector may call a user's `__del__` during the fork, in the parent and in the child."""
    script(
        HEAD
        + """
    import contextlib
    future = double.start(x=1)
    future.result()

    class Garbage:
        def __init__(self, left):
            self.itself, self.left = self, left

        def __del__(self):
            if self.left:
                Garbage(self.left - 1)
                with contextlib.suppress(onix.errors.ExecutorError):
                    future.cancel()
                    onix.Future().cancel()

    gc.collect()
    gc.set_threshold(1)
    for _ in range(20):
        Garbage(1000)
        assert in_child(lambda: 0, seconds=5) == 0
    gc.set_threshold(700)
"""
    ).passes()
