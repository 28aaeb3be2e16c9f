"""What a decorated function is to the engine: its name, its kind, how to call it, its options."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

from .future import Future
from .retry import RetryPolicy
from .run import LONGEST_TEXT, SCALARS, Kind, Summary, is_kept, plain

# Arguments whose values are never shown or kept, by their names.
_SECRET: Final = re.compile(r"passw(or)?d|secret|api_?key|access_?token", re.IGNORECASE)


class Masked:
    """Stands in a record for a secret."""

    def __repr__(self) -> str:
        return "•••"


MASKED: Final = Masked()


OnChange = Literal["report", "error"]


@dataclasses.dataclass(frozen=True, slots=True)
class Durability:
    """How a durable flow is kept and resumed.

    Attributes:
        flow_id: The template of its id, such as `"nightly:{day}"`; None for its name and arguments.
        fresh: Whether it starts anew, whatever is recorded.
        keep: The names of actions whose results are reused though their code has changed.
        on_change: Whether a recorded flow whose code has changed goes on with a report, or is refused.
        code: Of a cell: the digest of its code. A cell that has ended runs again, for the names that it binds.
        uses: Of a cell: the actions and flows that it uses.
    """

    flow_id: str | None = None
    fresh: bool = False
    keep: frozenset[str] = frozenset()
    on_change: OnChange = "report"
    code: bytes | None = None
    uses: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """A function with its options.

    Attributes:
        name: Its name, as views and messages show it.
        kind: `"action"`, `"flow"`, or `"call"`.
        invoke: Calls it, with keyword arguments.
        is_async: Whether `invoke` returns a coroutine.
        retry: When a failed attempt is followed by another; None for never.
        timeout: Seconds that one attempt may take; None for no limit.
        executor: Where it runs, if not where `configure(executor=...)` says.
        placement: What an executor is told in addition, by its name: `{"dask": {...}}`.
        secrets: The names of the parameters whose values are masked.
        is_open: Whether it takes keywords of any name, which may be secrets, too.
        durable: How it is kept in the journal; None for a flow, or an action, that is not durable by itself.
    """

    name: str
    kind: Kind
    invoke: Callable[..., Any]
    is_async: bool = False
    retry: RetryPolicy | None = None
    timeout: float | None = None
    secrets: frozenset[str] = frozenset()
    is_open: bool = False
    executor: Any = None
    placement: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    durable: Durability | None = None

    def record(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments as a record may keep them: big values summed up, secrets masked.

        Raises:
            TypeError: An argument is a future.
        """
        secrets = secrets_among(arguments) if self.is_open else self.secrets
        for value in arguments.values():  # as is_kept() does, without a call for each
            kind = type(value)
            if kind not in SCALARS and (kind is not str or len(value) > LONGEST_TEXT):
                break
        else:
            if not secrets:
                return arguments
        record = {}
        for name, value in arguments.items():
            if isinstance(value, Future) and self.kind != "call":  # libraries pass what they like
                raise TypeError(
                    f"{self.kind} {self.name}() got a future as argument {name!r}: pass its value, "
                    f"{name}={name}.result()"
                )
            short = plain(value)
            record[name] = MASKED if name in secrets else short if is_kept(short) else Summary(value)
        return record


def secrets_among(names: Iterable[str]) -> frozenset[str]:
    """The names of parameters that look like those of secrets."""
    return frozenset(name for name in names if _SECRET.search(name))
