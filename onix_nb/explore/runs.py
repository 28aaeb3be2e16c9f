"""Runs in a row, as a sequence and as data; pandas is imported for those who ask for a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

from ..model.future import Entry
from ..model.run import Run

if TYPE_CHECKING:
    import pandas as pd


class Runs(Sequence[Run]):
    """Some runs, in order; what `onix.runs()` returns. As the last line of a cell, a live view.

    Attributes:
        entries: Each run with its future, if that is still known.
        futures: The futures that are still known.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def halve(x: int) -> float:
        ...     return x / 2
        >>> done, _ = onix.wait([halve.start(x=x) for x in (4, 6)])
        >>> sorted(onix.runs(done).results()["result"])
        [2.0, 3.0]
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)
        self.futures = [future for _, future in self.entries if future is not None]

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        """The run at a position, or the runs of a slice."""
        return Runs(self.entries[index]) if isinstance(index, slice) else self.entries[index][0]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Run]:
        return (run for run, _ in self.entries)

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for run in self:
            counts[run.status] = counts.get(run.status, 0) + 1
        return f"<{len(self)} runs: {', '.join(f'{n} {status}' for status, n in counts.items())}>"

    def to_frame(self) -> pd.DataFrame:
        """One row for each run, in this order. Never blocks.

        Returns:
            A frame with the columns `run` (its id), `name`, `kind`, `status` (categorical), `attempts`, `queued`
            and `elapsed` (`timedelta64`), `started` and `finished` (UTC), `cell`, `worker` (where it ran; missing on
            the kernel's own threads), a column `arg.<name>` for each argument, `result`, `error_type` and `error`.
            What has not happened, or was forgotten, is NA. Columns have the narrowest type that keeps each value.

        Example:
            >>> import onix_nb as onix
            >>> onix.runs([]).to_frame().columns.tolist()[:5]
            ['run', 'name', 'kind', 'status', 'attempts']
        """
        from . import frames

        self._look()
        return frames.to_frame(self.entries)

    def results(self) -> pd.DataFrame:
        """What the runs returned, as a tidy frame: `run`, a column `arg.<name>` for each argument, and the values.

        A dict, a dataclass, a named tuple or an object with `model_dump` is a row with a column for each field, nested
        ones with dotted names; so is a Series with texts as labels. A list of such, an array, a DataFrame and any
        other Series are several rows; lists and arrays number theirs in `item`. An index that is named, or not of
        integers, becomes columns. Anything else is in the column `result`. A column whose name is that of a key
        (`run`, `arg.x`) gets `result.` in front.

        Returns:
            The frame. Runs that failed, were cancelled or have not ended are left out; `frame.attrs["left_out"]`
            counts them by status (`succeeded`: the result has been forgotten).

        Example:
            >>> import onix_nb as onix
            >>> @onix.action
            ... def score(depth: int) -> dict:
            ...     return {"train": 0.9, "test": 0.8 - depth / 100}
            >>> done, _ = onix.wait([score.start(depth=depth) for depth in (1, 2)])
            >>> onix.runs(done).results().columns.tolist()
            ['run', 'arg.depth', 'train', 'test']
        """
        from . import frames

        return frames.results(self.entries)

    def errors(self) -> pd.DataFrame:
        """One row for each failure; one for each member of an exception group.

        Returns:
            A frame with the columns `run`, `name`, `type`, `message`, `where` (the line of your own code: `In [3],
            line 2` or `file.py:12`), `notes`, `causes` (from the nearest to the first), `group` (for a member, what
            it was in), `attempts`, a column `arg.<name>` for each argument, and `traceback` (the whole of it).

        Example:
            >>> import onix_nb as onix
            >>> @onix.action
            ... def invert(x: int) -> float:
            ...     return 1 / x
            >>> done, _ = onix.wait([invert.start(x=x) for x in (0, 1, 2)])
            >>> onix.runs(done).errors()["type"].tolist()
            ['ZeroDivisionError']
        """
        from . import frames

        self._look()
        return frames.errors(self.entries)

    def _look(self) -> None:
        """Failures that are in a frame have been looked at."""
        for future in self.futures:
            if future._exception is not None and future.done():
                future._look()


Runs.__module__ = "onix_nb"
