"""P3: an action calls plain functions only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.errors import ActionCallError, OnixError

WAIT = 30

reached: list[str] = []


@pytest.fixture(autouse=True)
def nothing_reached() -> None:
    reached.clear()


@onix.action
def inner_action(x: int = 0) -> int:
    reached.append("inner_action")
    return x


@onix.flow
def inner_flow(x: int = 0) -> int:
    reached.append("inner_flow")
    return x


@onix.action
async def inner_async_action(x: int = 0) -> int:
    reached.append("inner_async_action")
    return x


@onix.flow
async def inner_async_flow(x: int = 0) -> int:
    reached.append("inner_async_flow")
    return x


CALLEES = [inner_action, inner_flow, inner_async_action, inner_async_flow]
USES = [
    pytest.param(use, callee.__name__, id=f"{callee.__name__}{suffix}")
    for callee in CALLEES
    for use, suffix in ((callee, "()"), (callee.start, ".start()"))
]
each_use = pytest.mark.parametrize(("use", "callee"), USES)


def check(error: BaseException | None, callee: str) -> None:
    """The error names both, says what to do, and nothing was called."""
    assert isinstance(error, ActionCallError)
    assert isinstance(error, OnixError)
    message = str(error)
    assert "'outer'" in message
    assert f"'{callee}'" in message
    assert "make 'outer' a flow (@onix.flow)" in message
    assert "a plain function" in message
    assert reached == []


@each_use
def test_an_action_that_was_started_is_refused(use: Callable[[], Any], callee: str) -> None:
    """Its future fails with ActionCallError."""

    @onix.action
    def outer() -> None:
        use()

    check(outer.start().exception(WAIT), callee)


@each_use
def test_an_action_that_was_called_is_refused(use: Callable[[], Any], callee: str) -> None:
    """Also on the caller's own thread."""

    @onix.action
    def outer() -> None:
        use()

    with pytest.raises(ActionCallError) as caught:
        outer()
    check(caught.value, callee)


@each_use
def test_an_action_in_a_flow_is_refused(use: Callable[[], Any], callee: str) -> None:
    """That its caller is a flow makes no difference."""

    @onix.action
    def outer() -> None:
        use()

    @onix.flow
    def flow() -> None:
        outer()

    check(flow.start().exception(WAIT), callee)


@each_use
def test_an_async_action_is_refused(use: Callable[[], Any], callee: str) -> None:
    """At once, before it could block the shared event loop."""

    @onix.action
    async def outer() -> None:
        use()

    check(outer.start().exception(WAIT), callee)


@each_use
def test_the_call_may_be_deep_in_plain_functions(use: Callable[[], Any], callee: str) -> None:
    """What counts is the action that the code belongs to."""

    def deep(levels: int) -> None:
        use() if levels == 0 else deep(levels - 1)

    @onix.action
    def outer() -> None:
        deep(10)

    check(outer.start().exception(WAIT), callee)


def test_code_in_a_thread_of_an_async_action_is_refused() -> None:
    """`asyncio.to_thread` still belongs to the action."""

    @onix.action
    async def outer() -> None:
        await asyncio.to_thread(inner_flow)

    check(outer.start().exception(WAIT), "inner_flow")


def test_the_error_is_raised_at_the_call() -> None:
    """So that the action's own code can see it, and the line is in the traceback."""
    seen: list[BaseException] = []

    @onix.action
    def outer() -> str:
        try:
            inner_action()
        except ActionCallError as error:
            seen.append(error)
        return "went on"

    assert outer.start().result(WAIT) == "went on"
    check(seen[0], "inner_action")


def test_it_leaves_no_run_of_what_was_called() -> None:
    """`onix.runs()` shows the action only."""

    @onix.action
    def outer() -> None:
        inner_flow.start()

    before = set(onix.runs())
    future = outer.start()
    assert isinstance(future.exception(WAIT), ActionCallError)
    assert {run.name for run in set(onix.runs()) - before} == {"outer"}


def test_it_is_not_tried_again() -> None:
    """A mistake in the program would fail the same way in each attempt."""
    attempts: list[int] = []

    @onix.action(retry=onix.RetryPolicy(initial_interval=0.001))
    def outer() -> None:
        attempts.append(1)
        inner_action()

    check(outer.start().exception(WAIT), "inner_action")
    with pytest.raises(ActionCallError):
        outer()
    assert len(attempts) == 2


def test_the_arguments_are_checked_first() -> None:
    """One mistake after the other: a wrong argument is a TypeError in an action, too."""

    @onix.action
    def outer() -> None:
        inner_action(wrong=1)  # type: ignore[call-arg]

    assert isinstance(outer.start().exception(WAIT), TypeError)


@pytest.mark.parametrize("callee", CALLEES, ids=lambda callee: callee.__name__)
def test_a_flow_may_do_what_an_action_may_not(callee: Any) -> None:
    """The advice of the message works: as a flow the same function calls and starts."""

    @onix.flow
    def outer() -> tuple[int, int]:
        return callee(x=1), callee.start(x=2).result()

    assert outer() == (1, 2)


def test_an_action_may_call_the_plain_function() -> None:
    """The other advice works, too."""

    @onix.action
    def outer() -> int:
        return inner_action.__wrapped__(3)  # type: ignore[attr-defined, no-any-return]

    assert outer() == 3
    assert outer.start().result(WAIT) == 3


def test_after_an_action_its_caller_may_call_again() -> None:
    """The rule ends with the action, also when it failed."""

    @onix.action
    def fails() -> None:
        raise ValueError("fails")

    @onix.flow
    def outer() -> int:
        with pytest.raises(ValueError, match="fails"):
            fails()
        return inner_action(x=1)

    assert outer() == 1
    with pytest.raises(ValueError, match="fails"):
        fails()
    assert inner_flow(x=2) == 2
