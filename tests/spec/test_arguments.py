"""P2: arguments are keywords, checked at the call or at `.start`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30

calls: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    calls.clear()


@onix.action
def pay(amount: int, account: str = "main", *, note: str = "") -> Any:
    calls.append(amount)
    return amount, account, note


@onix.flow
def settle(amount: int, account: str = "main", *, note: str = "") -> Any:
    calls.append(amount)
    return amount, account, note


@onix.action
async def transfer(amount: int, account: str = "main", *, note: str = "") -> Any:
    calls.append(amount)
    return amount, account, note


@onix.flow
async def audit(amount: int, account: str = "main", *, note: str = "") -> Any:
    calls.append(amount)
    return amount, account, note


def collect(function: Any) -> Any:
    """The ways to use a function, each with the name that messages have to show."""
    name = function.__name__
    return [
        pytest.param(function, name, id=f"{name}()"),
        pytest.param(function.start, name, id=f"{name}.start()"),
    ]


every_way = pytest.mark.parametrize(
    ("use", "name"), [way for function in (pay, settle, transfer, audit) for way in collect(function)]
)


def result(value: Any) -> Any:
    return value.result(WAIT) if isinstance(value, onix.Future) else value


# What is accepted


@every_way
def test_arguments_are_passed_by_name(use: Callable[..., Any], name: str) -> None:
    """In any order."""
    assert result(use(note="n", account="a", amount=1)) == (1, "a", "n")


@every_way
def test_defaults_are_the_functions_own(use: Callable[..., Any], name: str) -> None:
    """What is left out has its default."""
    assert result(use(amount=2)) == (2, "main", "")


@pytest.mark.parametrize("decorate", [onix.action, onix.flow], ids=["action", "flow"])
def test_a_function_with_keywords_of_any_name_gets_them(decorate: Any) -> None:
    """`**options` takes what is not declared, next to what is."""

    @decorate
    def function(amount: int, **options: Any) -> Any:
        return amount, options

    assert function(amount=1, a=2, b=3) == (1, {"a": 2, "b": 3})
    assert function.start(a=2, amount=1).result(WAIT) == (1, {"a": 2})
    with pytest.raises(TypeError, match="amount"):
        function.start(a=2)


def test_values_reach_the_function_as_they_are() -> None:
    """The same objects, not copies; also those that a record would not keep."""
    value = {"big": list(range(1000))}

    @onix.action
    def same(x: Any) -> Any:
        return x

    assert same(x=value) is value
    assert same.start(x=value).result(WAIT) is value


# What is refused


def refused(use: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The message of the TypeError, after checking that nothing was started."""
    before = len(onix.runs())
    with pytest.raises(TypeError) as caught:
        use(*args, **kwargs)
    assert len(onix.runs()) == before, "a run was recorded"
    assert calls == [], "the function was called"
    return str(caught.value)


@every_way
def test_a_positional_argument_is_refused(use: Callable[..., Any], name: str) -> None:
    """The TypeError names the function and the parameter, and the switch that allows it."""
    message = refused(use, 1)
    assert name in message
    assert "amount=" in message
    assert "onix.configure(strict=False)" in message


@every_way
def test_each_positional_argument_is_named(use: Callable[..., Any], name: str) -> None:
    """So that the call can be corrected in one go; also when others are keywords already."""
    message = refused(use, 1, "a", note="n")
    assert "amount=" in message
    assert "account=" in message


@every_way
def test_an_unknown_argument_is_refused(use: Callable[..., Any], name: str) -> None:
    """The TypeError names the function, the argument, and what there is instead."""
    message = refused(use, amount=1, amuont=2)
    assert name in message
    assert "unknown argument 'amuont'" in message
    assert all(parameter in message for parameter in ("amount=", "account=", "note="))


@every_way
def test_a_missing_argument_is_refused(use: Callable[..., Any], name: str) -> None:
    """The TypeError names the function and the parameter."""
    message = refused(use, note="n")
    assert name in message
    assert "missing the argument 'amount'" in message


def test_a_function_without_parameters_says_so() -> None:
    """Its message does not end in an empty list."""

    @onix.action
    def bare() -> None: ...

    assert "no arguments" in refused(bare.start, x=1)


@every_way
def test_a_future_as_an_argument_is_refused(use: Callable[..., Any], name: str, held: Any) -> None:
    """The TypeError names the function and the parameter, and says to pass `.result()`."""
    future = held.action.start()
    held.await_begun()
    for arguments in ({"amount": future}, {"amount": 1, "account": future}, {"amount": [], "note": future}):
        message = refused(use, **arguments)
        assert name in message
        assert f"argument {list(arguments)[-1]!r}" in message
        assert ".result()" in message
    held.let_go()
    future.result(WAIT)


def test_a_future_that_is_done_is_refused_too(held: Any) -> None:
    """It does not depend on luck."""
    held.let_go()
    future = held.action.start()
    future.result(WAIT)
    assert "'amount'" in refused(pay.start, amount=future)


def test_a_future_among_keywords_of_any_name_is_refused(held: Any) -> None:
    """`**options` is no way around it."""

    @onix.action
    def function(**options: Any) -> None:
        calls.append(options)

    held.let_go()
    future = held.action.start()
    future.result(WAIT)
    assert "'extra'" in refused(function.start, extra=future)


@pytest.mark.parametrize("way", ["call", "start"])
def test_the_error_is_raised_where_the_mistake_is(way: str) -> None:
    """In a flow it is raised at the line of the call, and can be caught there; the flow goes on."""

    @onix.flow
    def careful() -> str:
        try:
            pay() if way == "call" else pay.start()  # type: ignore[call-arg]
        except TypeError:
            return "caught"
        return "not caught"

    assert careful() == "caught"


# strict=False


@every_way
def test_without_strict_positional_arguments_are_allowed(use: Callable[..., Any], name: str) -> None:
    """They mean what they mean to the plain function."""
    with onix.configure(strict=False):
        assert result(use(1, "a", note="n")) == (1, "a", "n")
        assert result(use(2)) == (2, "main", "")


@every_way
def test_without_strict_everything_else_is_still_refused(use: Callable[..., Any], name: str) -> None:
    """Too many, given twice, unknown, missing, or a future: each with the function's name."""
    with onix.configure(strict=False):
        messages = [
            refused(use, 1, "a", "n"),
            refused(use, 1, amount=1),
            refused(use, 1, amuont=2),
            refused(use, account="a"),
        ]
    assert all(name in message for message in messages)
    assert "positional" in messages[0]
    assert "'amount' twice" in messages[1]
    assert "'amuont'" in messages[2]
    assert "'amount'" in messages[3]


def test_without_strict_a_positional_future_is_still_refused(held: Any) -> None:
    """With the name of the parameter that it would have been."""
    held.let_go()
    future = held.action.start()
    future.result(WAIT)
    with onix.configure(strict=False):
        assert "'amount'" in refused(pay.start, future)


# What is shown of them


def test_the_repr_of_a_future_shows_its_arguments() -> None:
    """By name, as they were passed."""
    future = pay.start(amount=7, note="rent")
    future.result(WAIT)
    assert "pay(amount=7, note='rent')" in repr(future)


SECRETS = [
    "password",
    "passwd",
    "db_password",
    "secret",
    "client_secret",
    "api_key",
    "apikey",
    "API_KEY",
    "access_token",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_masked_by_their_names(name: str) -> None:
    """The function gets the value; the repr of the future, its run, and `onix.runs()` do not show it."""
    received: list[str] = []
    namespace: dict[str, Any] = {"received": received}
    exec(f"def login(user, {name}): received.append({name})", namespace)
    for login in (onix.action(namespace["login"]), onix.flow(namespace["login"])):
        future = login.start(user="ada", **{name: "hunter2"})
        future.result(WAIT)
        assert received.pop() == "hunter2"
        assert future.run is not None
        shown = f"{future!r} {future.run.arguments!r} {onix.runs([future])!r} {list(onix.runs([future]))!r}"
        assert "hunter2" not in shown
        assert "•••" in shown
        assert "ada" in shown
        assert future.run.arguments[name] != "hunter2"


def test_secrets_are_masked_in_every_state(held: Any) -> None:
    """While it is pending or running, and when it failed."""

    @onix.action
    def login(password: str) -> None:
        raise ValueError("refused")

    with onix.configure(max_workers=1):
        blocker = held.action.start()
        held.await_begun()
        future = login.start(password="hunter2")
        shown = [repr(future)]
        held.let_go()
        blocker.result(WAIT)
        assert isinstance(future.exception(WAIT), ValueError)
    shown.append(repr(future))
    assert not any("hunter2" in text for text in shown)


def test_secrets_of_direct_calls_are_masked() -> None:
    """In the record of a run without a future."""

    @onix.action
    def login_directly(password: str) -> None: ...

    login_directly(password="hunter2")
    run = next(run for run in reversed(onix.runs()) if run.name == "login_directly")
    assert "hunter2" not in repr(run.arguments)
    assert "•••" in repr(run.arguments)


@pytest.mark.parametrize("decorate", [onix.action, onix.flow], ids=["action", "flow"])
def test_secrets_among_keywords_of_any_name_are_masked(decorate: Any) -> None:
    """What goes into `**options` is named all the same."""

    @decorate
    def login(**options: str) -> dict[str, str]:
        return options

    future = login.start(user="ada", password="hunter2")
    assert future.result(WAIT)["password"] == "hunter2"
    assert "hunter2" not in f"{future!r} {future.run.arguments!r}"


def test_secrets_of_an_executors_calls_are_masked() -> None:
    """Those that are passed by name."""
    with onix.Executor(max_workers=1) as executor:
        future = executor.submit(dict, user="ada", password="hunter2")
        assert future.result(WAIT)["password"] == "hunter2"
    assert "hunter2" not in repr(future)


def test_big_values_are_summed_up() -> None:
    """A repr says what they are, and stays short."""

    @onix.action
    def measure(text: str, rows: list[int]) -> int:
        return len(text) + len(rows)

    future = measure.start(text="x" * 10_000, rows=list(range(10_000)))
    assert future.result(WAIT) == 20_000
    assert len(repr(future)) < 300
    assert "list of 10000" in repr(future)
