"""`onix.runs()`: what this process runs and ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from ..model.future import Future
from ..model.process import refuse_in_child
from ..model.run import Run
from .session import live


class Runs(Sequence[Run]):
    """Some runs, in order; what `onix.runs()` returns.

    Attributes:
        futures: The futures of those runs that still have one.
    """

    def __init__(self, runs: Iterable[Run], futures: Iterable[Future[Any]]) -> None:
        self._runs = list(runs)
        self.futures = list(futures)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | Sequence[Run]:
        """The run at a position, or the runs of a slice."""
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for run in self._runs:
            counts[run.status] = counts.get(run.status, 0) + 1
        return f"<{len(self._runs)} runs: {', '.join(f'{n} {status}' for status, n in counts.items())}>"


Runs.__module__ = "onix_nb"


def runs(futures: Iterable[Future[Any]] | None = None) -> Runs:
    """What this process runs, and the last ten thousand runs that ended. Not in Oryonix.

    `runs().futures` gives back the futures whose variable was lost: those of all runs that have
    not ended, and of the last hundred that cells started.

    Args:
        futures: Only the runs of these futures, in this order.

    Raises:
        TypeError: Something in `futures` is no future that `.start()` returned.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> future = double.start(x=1)
        >>> onix.runs([future])[0].name
        'double'
        >>> future.result()
        2
    """
    refuse_in_child()
    if futures is None:
        session = live()
        return Runs(session.runs(), session.futures())
    chosen = list(futures)
    for future in chosen:
        if not isinstance(future, Future) or future.run is None:
            raise TypeError(f"runs() takes futures that .start() returned, not {future!r}")
    return Runs([future.run for future in chosen if future.run], chosen)


runs.__module__ = "onix_nb"
