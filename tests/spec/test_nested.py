"""`onix.configure(nested_asyncio=True)`: `asyncio.run()` inside a running loop, and asyncio as it was afterwards."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix


async def inner() -> str:
    await asyncio.sleep(0)
    return "inner"


def owners() -> list[Any]:
    """Every place in which nest-asyncio2 may put something."""
    kinds = [asyncio.BaseEventLoop]
    for kind in kinds:
        kinds += [below for below in kind.__subclasses__() if below not in kinds]
    modules = [sys.modules[name] for name in ("asyncio", *(f"asyncio.{n}" for n in ("events", "futures", "tasks")))]
    if sys.version_info < (3, 14):
        modules.append(type(asyncio.get_event_loop_policy()))  # type: ignore[arg-type]
    return [*modules, *kinds]


# Attributes that asyncio does not know; loops that began meanwhile read them to their end.
LEFT = {"_is_proactorloop", "_nest_deferred", "_num_runs_pending"}


def state() -> list[dict[str, Any]]:
    """Asyncio, name by name; functions and classes are equal only to themselves."""
    return [{name: value for name, value in vars(owner).items() if name not in LEFT} for owner in owners()]


def nested() -> str:
    """Runs a loop inside a running loop."""

    async def outer() -> str:
        coroutine = inner()
        try:
            return asyncio.run(coroutine)
        finally:
            coroutine.close()

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(outer())
    finally:
        loop.close()


def test_a_loop_runs_inside_a_loop() -> None:
    """Where asyncio itself refuses it, before and after."""
    with pytest.raises(RuntimeError, match="running event loop"):
        nested()
    with onix.configure(nested_asyncio=True):
        assert nested() == "inner"
    with pytest.raises(RuntimeError, match="running event loop"):
        nested()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_leaving_the_block_restores_asyncio(times: int) -> None:
    """Every function and class that was replaced is the one that it was; also when it was asked for twice."""
    before = state()
    for _ in range(times):
        with onix.configure(nested_asyncio=True):
            onix.configure(nested_asyncio=True)
            # Control: the comparison sees what is replaced.
            assert [now == then for now, then in zip(state(), before, strict=True)].count(False) >= 4
            assert nested() == "inner"
        assert state() == before


def test_turning_it_off_restores_asyncio() -> None:
    """As leaving the block does; inside a running loop and by another setting's change it stays as it is."""
    before = state()

    async def change() -> None:
        onix.configure(nested_asyncio=True)
        with onix.configure(max_flows=3):
            assert asyncio.run(inner()) == "inner"
        assert asyncio.run(inner()) == "inner"
        onix.configure(nested_asyncio=False)

    try:
        asyncio.run(change())
    finally:
        onix.configure(nested_asyncio=False)
    assert state() == before


def test_what_somebody_else_changed_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is ours is taken back."""
    monkeypatch.setattr(asyncio, "run", asyncio.run)

    def run(main: Any) -> None:
        """Somebody's own."""

    with onix.configure(nested_asyncio=True):
        asyncio.run = run  # type: ignore[assignment]
    assert asyncio.run is run


def test_runs_go_on_across_the_change() -> None:
    """Futures, the loop of async actions and async flows work before, while and after."""

    @onix.action
    async def double(x: int) -> int:
        await asyncio.sleep(0.001)
        return 2 * x

    @onix.flow
    async def total() -> int:
        return sum(await asyncio.gather(*(double.start(x=x) for x in range(5))))

    async def outer() -> int:
        return await double.start(x=21)

    first = [total.start() for _ in range(5)]
    with onix.configure(nested_asyncio=True):
        second = [total.start() for _ in range(5)]
        assert asyncio.run(outer()) == 42
    third = [total.start() for _ in range(5)]
    assert [future.result(timeout=30) for future in first + second + third] == [20] * 15


def test_it_is_imported_only_when_asked_for(script: Callable[..., Any]) -> None:
    """And the environment variable asks for it, at the import."""
    source = "import sys, asyncio, onix_nb\nprint('nest_asyncio2' in sys.modules, asyncio.run.__module__)"
    assert script(source).passes() == "False asyncio.runners\n"
    assert script(source).passes(env={"ONIX_NESTED_ASYNCIO": "yes"}) == "True nest_asyncio2\n"


def test_a_loop_of_another_kind_is_refused_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that is not asyncio's own can't be made reentrant: the setting stays off."""
    import nest_asyncio2

    def refuse(loop: Any) -> None:
        raise ValueError(f"Can't patch loop of type {type(loop)}")

    before = state()
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="Can't patch"):
        patch.setattr(nest_asyncio2, "_patch_loop", refuse)
        onix.configure(nested_asyncio=True)
    assert state() == before
    assert "nested_asyncio=False" in repr(onix.configure())
