"""E1: the session outlives every reload of its modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

BEFORE = """
    import importlib, sys, threading
    import onix_nb as onix

    go, begun = threading.Event(), threading.Semaphore(0)

    @onix.action
    def hold(x):
        begun.release()
        go.wait()
        return 2 * x

    @onix.flow
    def flow(x):
        begun.release()
        return hold.start(x=x).result()

    @onix.action
    async def later(x):
        return x

    assert later(x=1) == 1
    action, running = hold.start(x=1), flow.start(x=2)
    for _ in range(3):
        assert begun.acquire(timeout=30)
    before = list(onix.runs())
    assert [run.name for run in before] == ["later", "hold", "flow", "hold"]

    def reload(name):
        importlib.reload(sys.modules[name])
"""

AFTER = """
    after = list(onix.runs())
    assert after == before, after
    assert [run.status for run in after] == ["succeeded", "running", "running", "running"]
    assert action in onix.runs().futures and running in onix.runs().futures
    go.set()
    assert (action.result(30), running.result(30)) == (2, 4)

    @onix.action
    def new(x):
        return x + 1

    @onix.flow
    def new_flow(x):
        return new.start(x=x).result() + new(x=x) + later(x=x)

    # What was defined before works as well, and all are runs of the one session.
    assert (new(x=1), new.start(x=1).result(30), new_flow(x=1)) == (2, 2, 5)
    assert (hold(x=1), hold.start(x=1).result(30), flow(x=1)) == (2, 2, 2)
    assert list(onix.runs())[:4] == before
    assert len(onix.runs()) == 4 + 2 + 4 + 2 + 2
"""

DOORS = ["onix_nb", "onix_nb.engine.session"]
OTHERS = ["onix_nb.engine.actions", "onix_nb.engine.flows", "onix_nb.engine.history", "onix_nb.functions"]


@pytest.mark.parametrize("module", [*DOORS, *OTHERS])
def test_a_reload_keeps_the_session_and_what_runs(script: Callable[..., Any], module: str) -> None:
    """Runs, futures and results are as they were, and old and new functions work."""
    script(BEFORE + f'    reload("{module}")\n' + AFTER).passes()


def test_several_reloads_keep_the_session_and_what_runs(script: Callable[..., Any]) -> None:
    """As `%autoreload` does while somebody works on the package."""
    reloads = "".join(f'    reload("{module}")\n' for module in [*DOORS, *OTHERS, *DOORS])
    script(BEFORE + reloads + AFTER).passes()


@pytest.mark.parametrize("module", DOORS)
def test_settings_work_after_a_reload(script: Callable[..., Any], module: str) -> None:
    """They are as before, and a change reaches the running engine."""
    script(
        BEFORE
        + f"""
    onix.configure(max_workers=3)
    reload("{module}")
    assert "max_workers=3" in repr(onix.configure())
    waiting = [hold.start(x=x) for x in range(5)]
    assert begun.acquire(timeout=30)  # the third worker: two of them are held already
    assert not begun.acquire(timeout=0.1)
    onix.configure(max_workers=7)
    assert all(begun.acquire(timeout=30) for _ in range(4))
    go.set()
    assert [future.result(30) for future in waiting] == [0, 2, 4, 6, 8]
"""
    ).passes()


@pytest.mark.parametrize("module", DOORS)
def test_a_process_ends_once_after_a_reload(script: Callable[..., Any], module: str) -> None:
    """Exit hooks are registered once: what runs is stopped, in time, in silence."""
    script(BEFORE + f'    reload("{module}")\n    reload("{module}")\n').passes(timeout=20)


def test_a_forked_child_is_refused_after_a_reload(script: Callable[..., Any]) -> None:
    """The hook for forks is registered once, and finds the session of now."""
    script(
        BEFORE
        + """
    import os, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads, from 3.12 on
    reload("onix_nb.engine.session")
    child = os.fork()
    if child == 0:
        try:
            hold.start(x=1)
        except onix.errors.ExecutorError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    go.set()
    assert action.result(30) == 2
"""
    ).passes()


def test_a_re_run_definition_leaves_its_runs_alone(script: Callable[..., Any]) -> None:
    """A cell that is run again makes a new function; what the old one started goes on."""
    script(
        BEFORE
        + """
    @onix.action
    def hold(x):
        return "new"

    assert hold(x=1) == "new"
    go.set()
    assert (action.result(30), running.result(30)) == (2, 4)
"""
    ).passes()
