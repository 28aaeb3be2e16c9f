"""P1: what `@onix.action` and `@onix.flow` make of a function."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30

both = pytest.mark.parametrize("decorate", [onix.action, onix.flow], ids=["action", "flow"])


@onix.action
def price(item: str, *, amount: int = 1) -> float:
    """What it costs."""
    return len(item) * amount * 0.5


@onix.flow
def bill(item: str, *, amount: int = 1) -> float:
    """What to pay."""
    return price(item=item, amount=amount)


@onix.action
async def price_online(item: str) -> float:
    return len(item) * 0.5


@onix.flow
async def bill_online(item: str) -> float:
    return await price_online.start(item=item)


# Calling and starting


@pytest.mark.parametrize("function", [price, bill, price_online, bill_online], ids=lambda function: function.__name__)
def test_a_direct_call_blocks_and_returns_the_result(function: Any) -> None:
    """It is the function's own result, not a future."""
    assert function(item="tea") == 1.5


@pytest.mark.parametrize("function", [price, bill, price_online, bill_online], ids=lambda function: function.__name__)
def test_start_returns_a_future(function: Any) -> None:
    """An `onix.Future`, which is one of `concurrent.futures`, of the same result."""
    future = function.start(item="tea")
    assert isinstance(future, onix.Future)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(WAIT) == 1.5


@pytest.mark.parametrize("kind", ["action", "flow"])
def test_start_returns_at_once(held: Any, kind: str) -> None:
    """While the function still runs."""
    future = getattr(held, kind).start(x=3)
    held.await_begun()
    assert not future.done()
    held.let_go()
    assert future.result(WAIT) == 3


@both
def test_each_start_is_a_run_of_its_own(decorate: Any) -> None:
    """The same arguments twice are two runs."""
    calls: list[int] = []

    @decorate
    def count() -> int:
        calls.append(1)
        return len(calls)

    first, second = count.start(), count.start()
    assert first is not second
    assert {first.result(WAIT), second.result(WAIT)} == {1, 2}


@both
def test_an_exception_of_a_direct_call_is_the_functions_own(decorate: Any) -> None:
    """The same object, as if the function were not decorated."""
    error = KeyError("mine")

    @decorate
    def fails() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        fails()
    assert caught.value is error


# What it keeps


@pytest.mark.parametrize(("function", "doc"), [(price, "What it costs."), (bill, "What to pay.")])
def test_it_keeps_what_help_shows(function: Any, doc: str) -> None:
    """Name, qualified name, module, docstring, annotations and signature are the function's."""
    plain = function.__wrapped__
    assert function.__doc__ == doc
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(function, attribute) == getattr(plain, attribute)
    assert inspect.signature(function) == inspect.signature(plain)
    assert list(inspect.signature(function).parameters) == ["item", "amount"]


def test_the_function_itself_can_still_be_called() -> None:
    """`__wrapped__` is the plain function, positional arguments and all."""
    assert price.__wrapped__("tea", amount=2) == 3.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(("function", "shown"), [(price, "action price"), (bill, "flow bill")])
def test_its_repr_says_what_it_is(function: Any, shown: str) -> None:
    """The kind and the name."""
    assert shown in repr(function)


# Options


@both
def test_it_is_used_bare_or_with_options(decorate: Any) -> None:
    """`@decorate`, `@decorate()` and `@decorate(name=...)` make the same kind of thing."""

    def function(x: int) -> int:
        return x

    for decorated in (decorate(function), decorate()(function), decorate(name="renamed")(function)):
        assert decorated(x=4) == 4
        assert decorated.start(x=5).result(WAIT) == 5


@both
def test_name_is_what_views_and_messages_call_it(decorate: Any) -> None:
    """Its run, the repr of its future and its errors have the name that was asked for."""

    @decorate(name="renamed")
    def function(x: int) -> int:
        return x

    future = function.start(x=1)
    assert future.result(WAIT) == 1
    assert future.run.name == "renamed"
    assert "renamed" in repr(future)
    with pytest.raises(TypeError, match="renamed"):
        function.start()


@both
def test_without_a_name_it_is_called_as_the_function(decorate: Any) -> None:
    """The run has the function's own name."""

    @decorate
    def function() -> None: ...

    future = function.start()
    future.result(WAIT)
    assert future.run.name == "function"


@both
def test_options_returns_a_copy(decorate: Any) -> None:
    """The copy has the new options, and the original keeps its own."""

    @decorate
    def original(x: int) -> int:
        """Doc."""
        return x

    copy = original.options(name="copy")
    assert copy is not original
    assert type(copy) is type(original)
    futures = [original.start(x=1), copy.start(x=2)]
    assert [future.result(WAIT) for future in futures] == [1, 2]
    assert [future.run.name for future in futures] == ["original", "copy"]
    assert copy.__doc__ == "Doc."
    assert inspect.signature(copy) == inspect.signature(original)


def test_options_changes_only_what_it_is_given() -> None:
    """The other options stay; None takes one away."""
    attempts: list[int] = []

    @onix.action(name="fragile", retry=onix.RetryPolicy(initial_interval=0.001, maximum_attempts=3))
    def fails() -> None:
        attempts.append(1)
        raise ValueError

    renamed = fails.options(name="renamed")
    once = renamed.options(retry=None)
    for action, expected, name in ((renamed, 3, "renamed"), (once, 1, "renamed"), (fails, 3, "fragile")):
        attempts.clear()
        future = action.start()
        assert isinstance(future.exception(WAIT), ValueError)
        assert (len(attempts), future.run and future.run.name) == (expected, name)


@both
def test_an_unknown_option_is_refused(decorate: Any) -> None:
    """A TypeError that names it, at decoration and in `options`."""
    with pytest.raises(TypeError, match="retries"):
        decorate(retries=3)
    with pytest.raises(TypeError, match="retries"):
        decorate(lambda: None).options(retries=3)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("name", 3, TypeError),
        ("retry", 0, TypeError),
        ("retry", -1, TypeError),
        ("retry", 1.5, TypeError),
        ("retry", True, TypeError),
        ("retry", "3", TypeError),
        ("timeout", "1", TypeError),
        ("timeout", True, TypeError),
        ("timeout", 0, ValueError),
        ("timeout", -1, ValueError),
        ("timeout", float("nan"), ValueError),
    ],
)
def test_a_bad_option_is_refused_at_decoration(option: str, value: Any, error: type[Exception]) -> None:
    """With the option's name and the value, and by `options` as well."""
    for decorate in (lambda **options: onix.action(**options)(lambda: None), price.options):
        with pytest.raises(error, match=f"{option}=.*{value!r}"):
            decorate(**{option: value})


# What can be decorated


class Shop:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return x * self.factor

    def method(self, x: int) -> int:
        return x * self.factor

    @staticmethod
    def static(x: int) -> int:
        return x * 2


@both
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        functools.partial(lambda factor, x: x * factor, 2),
        Shop(2),
        Shop(2).method,
        Shop.static,
        functools.lru_cache(lambda x: x * 2),
    ],
    ids=["lambda", "partial", "callable object", "bound method", "static method", "cached function"],
)
def test_whatever_is_called_like_a_function_can_be_decorated(decorate: Any, function: Callable[..., int]) -> None:
    """Called and started."""
    decorated = decorate(function)
    assert decorated(x=2) == 4
    assert decorated.start(x=3).result(WAIT) == 6


@both
def test_a_parameter_may_have_any_name(decorate: Any) -> None:
    """Also `self`, `args` or `function`: nothing of ours is in its way."""

    @decorate
    def function(self: int, args: int, kwargs: int, function: int, name: int, timeout: int) -> int:
        return self + args + kwargs + function + name + timeout

    arguments = {"self": 1, "args": 2, "kwargs": 3, "function": 4, "name": 5, "timeout": 6}
    assert function(**arguments) == 21
    assert function.start(**arguments).result(WAIT) == 21


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Stream:
    def __call__(self) -> Iterator[int]:
        yield 1

    def method(self) -> Iterator[int]:
        yield 1


@both
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (generator, "generator"),
        (async_generator, "async_generator"),
        (functools.partial(generator), "partial"),
        (Stream().method, "method"),
        (Stream(), "Stream"),
    ],
    ids=["generator", "async generator", "partial of a generator", "generator method", "generator object"],
)
def test_generators_are_refused(decorate: Any, function: Any, name: str) -> None:
    """A TypeError at decoration, which names it and says to return a list."""
    with pytest.raises(TypeError, match=f"{name}.*return a list"):
        decorate(function)


@both
@pytest.mark.parametrize("kind", [Shop, int, Exception], ids=lambda kind: kind.__name__)
def test_classes_are_refused(decorate: Any, kind: type) -> None:
    """A TypeError at decoration, which names the class and says what to decorate."""
    with pytest.raises(TypeError, match=f"class {kind.__name__} .*decorate a function"):
        decorate(kind)


@both
@pytest.mark.parametrize("thing", [None, 3, "name", [], staticmethod(Shop.static), classmethod(Shop.static)], ids=repr)
def test_what_cannot_be_called_is_refused(decorate: Any, thing: Any) -> None:
    """A TypeError at decoration, which shows it; also for `@onix.action("name")`, an option without its name."""
    with pytest.raises(TypeError, match="decorate a function"):
        decorate(thing)


@both
@pytest.mark.parametrize("decorated", [price, bill], ids=["action", "flow"])
def test_what_is_decorated_is_not_decorated_again(decorate: Any, decorated: Any) -> None:
    """A TypeError, which says so."""
    with pytest.raises(TypeError, match=f"{decorated.__name__}.*once"):
        decorate(decorated)


@both
def test_positional_only_parameters_are_refused(decorate: Any) -> None:
    """Arguments are keywords, so the TypeError comes at decoration, and names the parameter."""

    def function(x: int, /) -> int:
        return x

    with pytest.raises(TypeError, match=r"function\(\).*'x'.*by name"):
        decorate(function)


@both
@pytest.mark.parametrize("builtin", [getattr, max], ids=lambda builtin: builtin.__name__)
def test_a_function_that_does_not_tell_its_parameters_is_refused(decorate: Any, builtin: Any) -> None:
    """A TypeError at decoration, which names it: nothing could check its arguments."""
    with pytest.raises(TypeError, match=builtin.__name__):
        decorate(builtin)
