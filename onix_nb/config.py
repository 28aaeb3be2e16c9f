"""Settings: one frozen dataclass, and `configure()` to replace it.

`current` is the one place that holds the settings in force. They are the process's, not a
thread's or a flow's: work that runs in the background sees a change at once.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, get_args

Leaks = Literal["warn", "error", "cancel", "ignore"]
# "threads", "processes", "dask", "dask:tcp://...", a `distributed.Client` or a `concurrent.futures.Executor`.
Executor = Any
# The one text that means it: settings are compared by identity, which costs a start next to nothing.
THREADS: Final = "threads"

OnRerun = Literal["attach", "restart", "parallel"]


def default_workers() -> int:
    """How many actions run at once on threads by default, as in `ThreadPoolExecutor`."""
    return min(32, (os.cpu_count() or 1) + 4)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force; `onix.configure` describes each.

    Example:
        >>> import onix_nb as onix
        >>> with onix.configure(max_workers=2, leaks="error") as settings:
        ...     settings.workers, settings.leaks
        (2, 'error')
    """

    strict: bool = True
    leaks: Leaks = "warn"
    executor: Executor = THREADS
    max_workers: int | None = None
    max_flows: int | None = None
    on_rerun: OnRerun = "attach"
    nested_asyncio: bool = False
    journal: str | None = None

    @property
    def workers(self) -> int:
        """How many synchronous actions run at once."""
        return self.max_workers or default_workers()


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"configure({name}=...) takes True or False, not {value!r}")


def _choice(*allowed: str) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise ValueError(f"configure({name}=...) takes {' or '.join(map(repr, allowed))}, not {value!r}")

    return check


def _count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"configure({name}=...) takes a whole number or None, not {value!r}")
    if value < 1:
        raise ValueError(f"configure({name}=...) must be at least 1, not {value}")
    return value


def checked_executor(name: str, value: object) -> Any:
    """An executor as a setting holds it.

    Raises:
        ValueError: A text that names none.
        TypeError: An object that is none.
    """
    distributed = sys.modules.get("distributed")  # who has a Client has imported it
    if isinstance(value, str):
        if value == THREADS:
            return THREADS
        if value in ("processes", "dask") or (value.startswith("dask:") and "://" in value):
            return value
    elif isinstance(value, concurrent.futures.Executor) or (
        distributed is not None and isinstance(value, distributed.Client)
    ):
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(
        f"configure({name}=...) takes 'threads', 'processes', 'dask', 'dask:tcp://host:port', a distributed.Client "
        f"or a concurrent.futures.Executor, not {value!r}"
    )


def _path(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not isinstance(path := os.fspath(value), str):
        raise TypeError(f"configure({name}=...) takes the path of a file or None, not {value!r}")
    if not path or "\0" in path:
        raise ValueError(f"configure({name}=...) takes the path of a file, not {path!r}")
    return os.path.abspath(os.path.expanduser(path))


_CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "strict": _boolean,
    "leaks": _choice(*get_args(Leaks)),
    "executor": checked_executor,
    "max_workers": _count,
    "max_flows": _count,
    "on_rerun": _choice(*get_args(OnRerun)),
    "nested_asyncio": _boolean,
    "journal": _path,
}

_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _parsed(name: str, text: str) -> object:
    """What the text of an environment variable means for the setting `name`."""
    if _CHECKS[name] is _boolean:
        return _WORDS.get(text.strip().lower(), text)
    if name.startswith("max_"):
        if text.strip().lower() in ("", "none"):
            return None
        return int(text) if text.strip().isdecimal() else text
    return text.strip()


def from_environment(environ: Mapping[str, str]) -> Settings:
    """The settings that `ONIX_<SETTING>` variables ask for, the defaults for the others.

    Raises:
        ValueError: A variable has a value that its setting does not take; the message names it.
    """
    settings: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        variable = f"ONIX_{name.upper()}"
        if variable in environ:
            try:
                settings[name] = check(name, _parsed(name, environ[variable]))
            except (TypeError, ValueError) as error:
                raise ValueError(f"environment variable {variable}: {error}") from None
    return Settings(**settings)


current = from_environment(os.environ)

# Called with the new settings before they come into force: the engine resizes its pools, or refuses.
on_change: list[Callable[[Settings], None]] = []


def _install(settings: Settings) -> None:
    global current
    for notify in on_change:
        notify(settings)
    current = settings


class Configured:
    """What `configure` returns: the change is in force already; `with` takes it back at the end.

    Example:
        >>> import onix_nb as onix
        >>> with onix.configure(leaks="cancel"):
        ...     onix.configure()  # shows what is in force
        <onix settings: strict=True, leaks='cancel', ...>
    """

    __slots__ = ("_before", "_changed")

    def __init__(self, before: Settings, changed: Mapping[str, Any]) -> None:
        self._before = before
        self._changed = changed

    def __repr__(self) -> str:
        settings = (f"{field.name}={getattr(current, field.name)!r}" for field in dataclasses.fields(current))
        return f"<onix settings: {', '.join(settings)}>"

    def __enter__(self) -> Settings:
        return current

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Only what this call changed goes back: an inner configure() of another setting stays.
        _install(dataclasses.replace(current, **{name: getattr(self._before, name) for name in self._changed}))


_KEEP: Any = type("Keep", (), {"__repr__": lambda self: "<unchanged>"})()


def configure(
    *,
    strict: bool = _KEEP,
    leaks: Leaks = _KEEP,
    executor: Executor = _KEEP,
    max_workers: int | None = _KEEP,
    max_flows: int | None = _KEEP,
    on_rerun: OnRerun = _KEEP,
    nested_asyncio: bool = _KEEP,
    journal: str | os.PathLike[str] | None = _KEEP,
) -> Configured:
    """Changes settings for this process, at once; as a context manager, until its end. Not in Oryonix.

    Each setting can also be given before the import by the environment variable `ONIX_<SETTING>`,
    for example `ONIX_MAX_WORKERS=8`.

    Args:
        strict: What the Oryonix documentation refuses is refused here (default True). False allows
            positional arguments, `FIRST_EXCEPTION`, and `FIRST_COMPLETED` with action futures.
        leaks: What happens when a flow returns with futures that nobody consumed: `"warn"`
            (default), `"error"` fails the flow with `LeakedFutureError`, `"cancel"` cancels the
            leaked runs, `"ignore"` is silent.
        executor: Where synchronous actions run: `"threads"` (default); `"processes"` on all cores, by loky;
            `"dask"` on a local cluster, `"dask:tcp://host:port"` or a `distributed.Client` on that one; or any
            `concurrent.futures.Executor`. What runs already stays where it is. Flows, and `async def` actions,
            stay in the kernel.
        max_workers: How many synchronous actions run at once; None (default) for the number of
            cores plus 4, 32 at most, on threads, and for the number of cores on processes.
        max_flows: How many of the flows that cells start run at once; None (default) for any
            number. Child flows always start.
        on_rerun: What a cell does that is run again while something that it started is unfinished:
            `"attach"` (default) takes the same starts over instead of starting them twice,
            `"restart"` cancels them first, `"parallel"` starts more.
        nested_asyncio: True lets your own `asyncio.run()` work in a cell, where a loop runs
            already (default False). It needs nest-asyncio2, which changes asyncio for the whole
            process; False puts that back. Not needed for `await` or for onix.
        journal: The file in which durable flows are recorded, which one kernel uses at a time; None
            (default) for `.onix/<notebook>.sqlite` in the working directory, which is that of the
            notebook. Flows that run go on in theirs.

    Returns:
        A context manager that restores what this call changed when its block ends.

    Raises:
        TypeError: A setting that does not exist, or a value of the wrong type.
        ValueError: A value out of range, or a running loop that nest-asyncio2 can't change.

    Example:
        >>> import onix_nb as onix
        >>> with onix.configure(max_workers=2) as settings:
        ...     settings.workers
        2
    """
    asked = {name: value for name, value in locals().items() if value is not _KEEP}
    for name, value in asked.items():
        asked[name] = _CHECKS[name](name, value)
    before = current
    _install(dataclasses.replace(current, **asked))
    return Configured(before, asked)


configure.__module__ = "onix_nb"
