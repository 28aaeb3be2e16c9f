"""The text that a run printed, logged or warned of: the last of it, of bounded size; and our own words.

Nothing here takes a lock, because a print may come from anywhere: from several threads, a
`__del__`, a signal handler, a tracing function that looks at these very lines, or a forked child.
Each step that changes something shared is one call of a type written in C instead.
"""

from __future__ import annotations

import io
import weakref
from typing import Final

# Bytes of UTF-8: what is kept of one run, and of all runs together.
LIMIT: Final = 64 * 1024
LIMIT_OF_ALL: Final = 32 * 1024 * 1024

# After so many bytes were written somewhere, all outputs are added up.
STEP: Final = 1024 * 1024

_ALL_BUT_THE_END: Final = slice(None, -LIMIT)
_CONTINUATION: Final = bytes(range(0x80, 0xC0))


def tell(text: str) -> None:
    """Says something of our own under the running cell.

    In one write: what runs print meanwhile comes before or after it, not into its line.
    """
    print(f"onix_nb: {text}\n", end="")  # noqa: T201


class Counter:
    """A number to which several threads add at the same time, and lose nothing."""

    __slots__ = ("_position",)

    def __init__(self) -> None:
        self._position = io.BytesIO()  # moving the position is an addition in one call, unlike `+=`

    @property
    def value(self) -> int:
        """The sum."""
        return self._position.tell()

    def add(self, number: int) -> int:
        """The sum with `number` in it."""
        return self._position.seek(number, io.SEEK_CUR)

    def reset(self) -> None:
        """Begins again at 0."""
        self._position.seek(0)


class Output:
    """The end of what a run wrote: the last 64 KB, from all of its threads in the order of writing.

    Example:
        >>> from onix_nb.model.output import Output
        >>> output = Output()  # in a notebook, that of a run: `future.run.output`
        >>> output.write("step 1")
        >>> output.text, output.size
        ('step 1', 6)
    """

    __slots__ = ("__weakref__", "_kept", "_written")

    def __init__(self) -> None:
        self._kept = bytearray()  # an array drops its beginning, and grows, without copying the rest each time
        self._written = Counter()

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return len(self._kept)

    @property
    def text(self) -> str:
        """What is kept; the first line says how many characters are not."""
        written = self._written.value  # before the text: `write` counts after it has appended
        # A cut may leave the last bytes of a character at the beginning.
        text = bytes(self._kept).lstrip(_CONTINUATION).decode("utf-8", "surrogatepass")
        dropped = written - len(text)
        return f"[{dropped:,} characters before this were not kept]\n{text}" if dropped > 0 else text

    def write(self, text: str) -> None:
        """Appends `text`, which must be a plain `str`."""
        data = (text if len(text) <= LIMIT else text[-LIMIT:]).encode("utf-8", "surrogatepass")
        kept = self._kept
        begins = not kept
        kept += data
        if begins:  # or begins anew, after its text was dropped
            _outputs[weakref.ref(self, _outputs.pop)] = None
        if len(kept) > LIMIT:
            del kept[_ALL_BUT_THE_END]
        self._written.add(len(text))
        if _fresh.add(len(data)) >= STEP:
            _fresh.reset()
            _make_room()

    def __repr__(self) -> str:
        return f"<Output of {self._written.value:,} characters>"

    def _drop(self) -> None:
        del self._kept[:]


# Every output with a text, those that were begun first in front. One that is freed takes itself out.
# Survives a reload of this module, as the bytes written since the outputs were added up do.
_outputs: dict[weakref.ref[Output], None] = globals().get("_outputs", {})
_fresh: Counter = globals().get("_fresh", Counter())


def _make_room() -> None:
    """Drops the oldest texts, so that the next `STEP` bytes fit into `LIMIT_OF_ALL`."""
    outputs = [(ref, output) for ref in _outputs.copy() if (output := ref()) is not None]
    total = sum(output.size for _, output in outputs)
    for ref, output in outputs:
        if total <= LIMIT_OF_ALL - STEP:
            break
        total -= output.size
        _outputs.pop(ref, None)  # before its text goes: who writes into an empty one puts it in again
        output._drop()
