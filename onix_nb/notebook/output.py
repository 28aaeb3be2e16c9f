"""What a run writes to the kernel's streams is kept with the run; it is shown as ever.

The streams stay the same objects, because logging handlers hold on to them: each gets a `write`
of its own, in front of that of its class. Contexts say whose text it is, so that threads of
`asyncio.to_thread` and interleaved coroutines are told apart. What somebody redirects elsewhere
(`redirect_stdout`, `%%capture`) does not come by here, and is not kept.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

from ..model.attempt import current


class Captured:
    """A stream that keeps what runs write to it, until it is released."""

    def __init__(self, stream: Any) -> None:
        """Begins.

        Raises:
            TypeError: The stream can't have a `write` of its own.
        """
        self._own = vars(stream)
        self._before = self._own.get("write")
        self._keeps = True
        self._write = self._own["write"] = self._keeping(stream.write)

    def release(self) -> None:
        """Leaves the stream as it was.

        If somebody has wrapped its `write` since, ours stays below theirs, and just lets text through.
        """
        self._keeps = False
        if self._own.get("write") is not self._write:
            return
        if self._before is None:
            del self._own["write"]
        else:
            self._own["write"] = self._before

    def _keeping(self, through: Callable[[str], Any]) -> Callable[[str], Any]:
        """`through`, and then the text is kept with the run that wrote it."""
        innermost = current.get

        @functools.wraps(through)
        def write(string: str) -> Any:
            __tracebackhide__ = True
            written = through(string)
            attempt = innermost()
            if attempt is not None and self._keeps:
                with contextlib.suppress(Exception):  # whatever goes wrong here, the print was right
                    attempt.run.keep_output(string)
            return written

        return write


def capture(*streams: Any) -> list[Captured]:
    """Begins to keep what runs write to `streams`; those that don't allow it are left alone."""
    captured = []
    for stream in {id(stream): stream for stream in streams}.values():
        with contextlib.suppress(TypeError, AttributeError):  # has no attributes of its own; is None
            captured.append(Captured(stream))
    return captured


def release(captured: Iterable[Captured]) -> None:
    """Leaves the streams as they were."""
    for one in captured:
        one.release()
