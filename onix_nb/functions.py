"""`@onix.action` and `@onix.flow`: what a decorated function can do."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import string
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, ClassVar, Generic, ParamSpec, Protocol, TypeVar, get_args, overload

from . import config
from .engine.actions import Origin, call_action, on_threads, start_action
from .engine.flows import start_flow
from .model.definition import Definition, Durability, OnChange, secrets_among
from .model.future import Future
from .model.retry import RetryPolicy
from .model.run import printable

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_KEEP: Any = type("Keep", (), {"__repr__": lambda self: "<unchanged>"})()

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Function(Generic[P, R]):
    """What actions and flows have in common: their signature, and how arguments are checked."""

    _definition: Definition
    # Starts the function in the background: start_action or start_flow.
    _starter: ClassVar[staticmethod[[Definition, Mapping[str, Any], Origin], Future[Any]]]

    def __init__(self, function: Callable[P, Any], definition: Definition) -> None:
        functools.update_wrapper(self, function)  # type: ignore[arg-type]
        self._definition = definition
        self._parameters = inspect.signature(function).parameters
        # Almost every call gives each parameter by name: that is the check of the fast path. A
        # function with *args or **kwargs never takes it.
        plain = all(parameter.kind in _BY_NAME for parameter in self._parameters.values())
        self._names = frozenset(self._parameters) if plain else frozenset({"*"})

    def start(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Starts the function in the background and returns its future at once.

        Raises:
            TypeError: An argument is positional, unknown, missing, or a future.
            ActionCallError: The caller is an action.
            ExecutorError: In a forked child, or while the interpreter exits.

        Example:
            >>> import onix_nb as onix
            >>> @onix.action
            ... def double(x: int) -> int:
            ...     return 2 * x
            >>> future = double.start(x=21)
            >>> future.result()
            42
        """
        if args or kwargs.keys() != self._names:
            kwargs = self._bound(args, kwargs)  # type: ignore[assignment]
        return self._starter(self._definition, kwargs, sys._getframe(1))

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, after every check that the fast path could not make.

        Raises:
            TypeError: An argument is positional (when strict), unknown, missing or given twice.
        """
        if args:
            kwargs = self._named(args, kwargs)
        parameters = self._parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if not takes_any:
            for name in kwargs:
                if name not in parameters:
                    raise TypeError(f"{self} got an unknown argument {name!r}; it takes {self._takes()}")
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and parameter.kind in _BY_NAME and name not in kwargs:
                raise TypeError(f"{self} is missing the argument {name!r}; it takes {self._takes()}")
        return kwargs

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = [name for name, p in self._parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        if config.current.strict:
            shown = ", ".join(f"{name}=..." for name in names[: len(args)])
            raise TypeError(
                f"{self} takes keyword arguments only, as in Oryonix: call it with {shown or 'names'}; "
                "onix.configure(strict=False) allows positional ones here"
            )
        if len(args) > len(names):
            raise TypeError(f"{self} got {len(args)} positional arguments; it takes {self._takes()}")
        named = dict(zip(names, args, strict=False))
        for name in named:
            if name in kwargs:
                raise TypeError(f"{self} got the argument {name!r} twice")
        return {**named, **kwargs}

    def _takes(self) -> str:
        names = [f"{name}=" for name, p in self._parameters.items() if p.kind in _BY_NAME]
        return ", ".join(names) or "no arguments"

    def _fingerprinted(self) -> tuple[Any, ...]:
        """What is compared to tell whether it has changed."""
        definition = self._definition
        retry = None if definition.retry is None else dataclasses.astuple(definition.retry)
        place = definition.executor, definition.placement
        return definition.kind, definition.name, definition.invoke, retry, definition.timeout, place

    def __str__(self) -> str:
        return f"{self._definition.kind} {self._definition.name}()"

    def __repr__(self) -> str:
        return f"<onix {self._definition.kind} {self._definition.name}>"


class Action(Function[P, R]):
    """A function that touches the world, as `@onix.action` makes it.

    Call it to run it and get its result, or `.start(...)` it to get a `Future` at once.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> double(x=21)
        42
        >>> futures = [double.start(x=x) for x in range(3)]
        >>> [future.result() for future in futures]
        [0, 2, 4]
    """

    _starter = staticmethod(start_action)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the action and returns its result; blocks until then.

        A synchronous action without `timeout=` runs on the caller's own thread, when the executor is threads.

        Raises:
            TypeError: An argument is positional, unknown, missing, or a future.
            ActionCallError: The caller is an action.
            Exception: What the function raised.
        """
        __tracebackhide__ = True
        if args or kwargs.keys() != self._names:
            kwargs = self._bound(args, kwargs)  # type: ignore[assignment]
        definition = self._definition
        if definition.is_async or definition.timeout is not None or not on_threads(definition):
            return start_action(definition, kwargs, sys._getframe(1)).result()  # type: ignore[no-any-return]
        return call_action(definition, kwargs, sys._getframe(1))  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels with its function, so that a worker tells an action that calls it what it may not."""
        return Action, (self.__wrapped__, self._definition)  # type: ignore[attr-defined]

    def options(
        self,
        *,
        name: str = _KEEP,
        retry: int | RetryPolicy | None = _KEEP,
        timeout: float | None = _KEEP,
        executor: config.Executor = _KEEP,
        dask: Mapping[str, Any] | None = _KEEP,
    ) -> Action[P, R]:
        """A copy with other options; the arguments are those of `onix.action`.

        Example:
            >>> import onix_nb as onix
            >>> @onix.action
            ... def double(x: int) -> int:
            ...     return 2 * x
            >>> patient = double.options(name="patient", retry=3, timeout=60)
            >>> patient, patient(x=21)
            (<onix action patient>, 42)
        """
        changes: dict[str, Any] = {}
        if name is not _KEEP:
            changes["name"] = _checked_name(name)
        if retry is not _KEEP:
            changes["retry"] = RetryPolicy.of(retry)
        if timeout is not _KEEP:
            changes["timeout"] = _checked_attempt_timeout(timeout)
        if executor is not _KEEP:
            changes["executor"] = _checked_executor(executor, self._definition)
        if dask is not _KEEP:
            changes["placement"] = _checked_placement(dask)
        return Action(self.__wrapped__, dataclasses.replace(self._definition, **changes))  # type: ignore[attr-defined]


class Flow(Function[P, R]):
    """A function that orchestrates actions and child flows, as `@onix.flow` makes it.

    Call it to run it and get its result, or `.start(...)` it to get a `Future` at once.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> @onix.flow
        ... def total(n: int) -> int:
        ...     return sum(double.start(x=x).result() for x in range(n))
        >>> total(n=3)
        6
        >>> total.start(n=3).result()
        6
    """

    _starter = staticmethod(start_flow)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the flow and returns its result; blocks until then.

        Raises:
            TypeError: An argument is positional, unknown, missing, or a future.
            ActionCallError: The caller is an action.
            Exception: What the function raised.
        """
        __tracebackhide__ = True
        if args or kwargs.keys() != self._names:
            kwargs = self._bound(args, kwargs)  # type: ignore[assignment]
        return start_flow(self._definition, kwargs, sys._getframe(1)).result()  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels with its function, as actions do."""
        return Flow, (self.__wrapped__, self._definition)  # type: ignore[attr-defined]

    def options(
        self,
        *,
        name: str = _KEEP,
        durable: bool = _KEEP,
        flow_id: str | None = _KEEP,
        fresh: bool = _KEEP,
        keep: Iterable[Action[..., Any] | str] = _KEEP,
        on_change: OnChange = _KEEP,
    ) -> Flow[P, R]:
        """A copy with other options; the arguments are those of `onix.flow`, and of its resuming.

        Args:
            name: As in `onix.flow`.
            durable: As in `onix.flow`.
            flow_id: As in `onix.flow`.
            fresh: True starts the flow anew, and forgets what is recorded of it.
            keep: Actions, or their names, whose recorded results are reused though their code has changed.
            on_change: What is done when the code of a recorded flow has changed: `"report"` (default) says
                what is replayed and what runs, `"error"` raises `NondeterminismError` at the first difference.

        Raises:
            TypeError: An option has the wrong type, or needs `durable=True`.
            ValueError: `on_change` is neither.

        Example:
            >>> import onix_nb as onix
            >>> @onix.flow(durable=True)
            ... def nightly(day: str) -> str:
            ...     return f"{day} is done"
            >>> nightly(day="Monday")
            'Monday is done'
            >>> nightly.options(fresh=True)(day="Monday")  # instead of giving the recorded result
            'Monday is done'
        """
        definition = self._definition
        changes: dict[str, Any] = {} if name is _KEEP else {"name": _checked_name(name)}
        resuming = {"flow_id": flow_id, "fresh": fresh, "keep": keep, "on_change": on_change}
        resuming = {option: value for option, value in resuming.items() if value is not _KEEP}
        if durable is not _KEEP or resuming:
            is_durable = definition.durable is not None if durable is _KEEP else durable
            changes["durable"] = _durability(is_durable, resuming, definition.durable, definition)
        return Flow(self.__wrapped__, dataclasses.replace(self._definition, **changes))  # type: ignore[attr-defined]


class _ActionDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Action[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Action[P, R]: ...


class _FlowDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Flow[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Flow[P, R]: ...


@overload
def action(function: Callable[P, Coroutine[Any, Any, R]], /) -> Action[P, R]: ...
@overload
def action(function: Callable[P, R], /) -> Action[P, R]: ...
@overload
def action(
    *,
    name: str | None = None,
    retry: int | RetryPolicy | None = None,
    timeout: float | None = None,
    executor: config.Executor | None = None,
    dask: Mapping[str, Any] | None = None,
) -> _ActionDecorator: ...
def action(
    function: Any = _KEEP,
    /,
    *,
    name: str | None = None,
    retry: int | RetryPolicy | None = None,
    timeout: float | None = None,
    executor: config.Executor | None = None,
    dask: Mapping[str, Any] | None = None,
) -> Any:
    """Makes an action of a function: one that touches the world, and may call plain functions only.

    Use it bare or with options. Arguments are passed by name. An `async def` function, which is not in
    Oryonix, runs on one background event loop that all async actions share.

    Args:
        function: The function, when used bare.
        name: What views and messages call it; its own name by default.
        retry: How often a failed attempt is tried again: a number of attempts in all, or a
            `RetryPolicy`; None (default) for one attempt. Not in Oryonix.
        timeout: Seconds that one attempt may take; then it fails with `AttemptTimeoutError`. What
            it does may go on for a while, also beside the next attempt. Not in Oryonix.
        executor: Where it runs, as in `onix.configure(executor=...)`; None (default) for what is configured
            when it is started. Not in Oryonix.
        dask: What it asks of a Dask cluster: a dict with any of `workers`, `allow_other_workers`, `resources`
            and `priority`, as in `distributed.Client.submit`. Elsewhere it means nothing. Not in Oryonix.

    Raises:
        TypeError: `function` is a generator, a class, or nothing that can be called; an option
            has the wrong type.
        ValueError: An option is out of range.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action(retry=3)
        ... def fetch(user_id: str) -> dict:
        ...     return {"user_id": user_id}
        >>> fetch.start(user_id="u1").result()
        {'user_id': 'u1'}
    """
    options: dict[str, Any] = {
        "name": name,
        "retry": RetryPolicy.of(retry),
        "timeout": _checked_attempt_timeout(timeout),
        "placement": _checked_placement(dask),
    }

    def decorate(function: Any) -> Any:
        definition = _defined("action", function, options)
        if executor is not None:
            definition = dataclasses.replace(definition, executor=_checked_executor(executor, definition))
        return Action(function, definition)

    return decorate if function is _KEEP else decorate(function)


@overload
def flow(function: Callable[P, Coroutine[Any, Any, R]], /) -> Flow[P, R]: ...
@overload
def flow(function: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(*, name: str | None = None, durable: bool = False, flow_id: str | None = None) -> _FlowDecorator: ...
def flow(
    function: Any = _KEEP, /, *, name: str | None = None, durable: bool = False, flow_id: str | None = None
) -> Any:
    """Makes a flow of a function: one that orchestrates actions and child flows.

    Use it bare or with options. Arguments are passed by name. A flow runs on a thread of its own,
    an `async def` flow, which is not in Oryonix, also on an event loop of its own. What it starts
    it should wait for: see `onix.configure(leaks=...)`.

    Args:
        function: The function, when used bare.
        name: What views and messages call it; its own name by default.
        durable: True records the outcome of each action in the journal of the notebook (see
            `onix.configure(journal=...)`). Started again after the kernel has died, the flow runs
            again, but no action of which the outcome is recorded does.
        flow_id: The id of a durable flow, with its arguments in braces: `"nightly:{day}"`. What has the
            same id is the same flow. By default its name and all arguments.

    Raises:
        TypeError: `function` is a generator, a class, or nothing that can be called; it is
            `async def` and durable; an option has the wrong type.
        ValueError: `flow_id` names no argument of it.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> @onix.flow
        ... def total(n: int) -> int:
        ...     futures = [double.start(x=x) for x in range(n)]
        ...     return sum(future.result() for future in futures)
        >>> total(n=4)
        12
    """

    def decorate(function: Any) -> Any:
        definition = _defined("flow", function, {"name": name})
        resuming = {} if flow_id is None else {"flow_id": flow_id}
        return Flow(function, dataclasses.replace(definition, durable=_durability(durable, resuming, None, definition)))

    return decorate if function is _KEEP else decorate(function)


for _public in (Action, Flow, action, flow):
    _public.__module__ = "onix_nb"


def _defined(kind: Any, function: Any, options: Mapping[str, Any]) -> Definition:
    """What the engine needs to know of a function that is being decorated."""
    article = {"action": "an action", "flow": "a flow"}[kind]
    if isinstance(function, Function):
        raise TypeError(f"{function} can't be made {article} as well: decorate a function once")
    if inspect.isclass(function):
        raise TypeError(f"class {function.__name__} can't be {article}: decorate a function that makes the object")
    if not callable(function) or isinstance(function, (staticmethod, classmethod)):
        raise TypeError(f"{function!r} can't be {article}: decorate a function")
    name = _checked_name(options["name"] or getattr(function, "__name__", type(function).__name__))
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in (function, call)):
        raise TypeError(f"generator {name}() can't be {article}: return a list instead of yielding")
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        raise TypeError(
            f"{name}() can't be {article}: it does not tell its parameters; wrap it in a function that does"
        ) from None
    for parameter in parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{name}() can't be {article}: its parameter {parameter.name!r} can't be passed by name")
    return Definition(
        name,
        kind,
        function,
        is_async=inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call),
        retry=options.get("retry"),
        timeout=options.get("timeout"),
        placement=options.get("placement") or {},
        secrets=secrets_among(parameters),
        is_open=any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()),
    )


def _durability(
    durable: object, options: Mapping[str, Any], before: Durability | None, definition: Definition
) -> Durability | None:
    """The options of a durable flow, checked; None for one that is not durable."""
    if not isinstance(durable, bool):
        raise TypeError(f"durable= takes True or False, not {durable!r}")
    if not durable:
        if options:
            raise TypeError(f"{next(iter(options))}= is for durable flows: say durable=True")
        return None
    if definition.is_async:
        raise TypeError(
            f"async flow {definition.name}() can't be durable: what it awaits has no order that could be repeated; "
            "make it a plain def, whose async actions are durable all the same"
        )
    from .engine.durable import tell_unfinished  # SQLite is for those who have a durable flow

    tell_unfinished()
    changes = {option: _DURABLE_CHECKS[option](value, definition) for option, value in options.items()}
    return dataclasses.replace(before or Durability(), **changes)


def _checked_flow_id(flow_id: object, definition: Definition) -> str | None:
    if flow_id is None:
        return None
    if not isinstance(flow_id, str) or not flow_id:
        raise TypeError(f"flow_id= takes a text, not {flow_id!r}")
    parameters = inspect.signature(definition.invoke).parameters
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(flow_id) if field is not None]
    except ValueError as error:
        raise ValueError(f"flow_id={flow_id!r} is no template: {error}") from None
    for field in fields:
        if re.split(r"[.\[]", field)[0] not in parameters:
            raise ValueError(f"flow_id={flow_id!r} names {field!r}, which is no argument of {definition.name}()")
    return flow_id


def _checked_fresh(fresh: object, _: Definition) -> bool:
    if not isinstance(fresh, bool):
        raise TypeError(f"fresh= takes True or False, not {fresh!r}")
    return fresh


def _checked_keep(keep: object, _: Definition) -> frozenset[str]:
    if isinstance(keep, (str, Function)) or not isinstance(keep, Iterable):
        raise TypeError(f"keep= takes a list of actions, or of their names, not {keep!r}")
    names = []
    for one in keep:
        if not isinstance(one, (str, Action)):
            raise TypeError(f"keep= takes actions, or their names, not {one!r}")
        names.append(one if isinstance(one, str) else one._definition.name)
    return frozenset(names)


def _checked_on_change(on_change: object, _: Definition) -> OnChange:
    if on_change not in get_args(OnChange):
        raise ValueError(f"on_change= takes 'report' or 'error', not {on_change!r}")
    return on_change  # type: ignore[return-value]


_DURABLE_CHECKS: Mapping[str, Callable[[object, Definition], Any]] = {
    "flow_id": _checked_flow_id,
    "fresh": _checked_fresh,
    "keep": _checked_keep,
    "on_change": _checked_on_change,
}


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"name= takes a text, not {name!r}")
    return printable(name)


def _checked_attempt_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout= takes seconds or None, not {timeout!r}")
    if math.isnan(timeout) or timeout <= 0:
        raise ValueError(f"timeout= must be more than 0 seconds, not {timeout!r}")
    return timeout


def _checked_executor(executor: Any, definition: Definition) -> Any:
    if executor is None:
        return None
    checked = config.checked_executor("executor", executor)
    if definition.is_async and checked is not config.THREADS:
        raise TypeError(
            f"async action {definition.name}() runs on the kernel's event loop: executor= is for plain functions"
        )
    return checked


def _checked_placement(dask: Any) -> Mapping[str, Any]:
    if dask is None:
        return {}
    allowed = ("workers", "allow_other_workers", "resources", "priority")
    if not isinstance(dask, Mapping):
        raise TypeError(f"dask= takes a dict, not {dask!r}")
    for name in dask:
        if name not in allowed:
            raise TypeError(f"dask= takes {', '.join(map(repr, allowed))}, not {name!r}")
    return {"dask": dict(dask)}
