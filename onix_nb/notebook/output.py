"""What a run writes to the kernel's streams is kept with the run; it is shown as ever.

The streams stay the same objects, because logging handlers hold on to them. Contexts say whose
text it is, so that threads of `asyncio.to_thread` and interleaved coroutines are told apart. What
somebody redirects elsewhere (`redirect_stdout`, `%%capture`) does not come by here, and is not kept.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..model.attempt import current
from .floods import Floods, Limit

# Seconds that ipykernel waits at its exit for what was printed to be sent; ten by default, for each stream.
EXIT_FLUSH: Final = 0.5

_innermost = current.get

# What runs show is counted for the whole kernel. Survives a reload of this module.
floods: Floods = globals().get("floods", Floods())


def _keep(text: str) -> None:
    """Keeps `text` with the run that this code belongs to, if any."""
    attempt = _innermost()
    if attempt is not None:
        with contextlib.suppress(Exception):  # whatever goes wrong here, the user's print is right
            attempt.run.keep_output(text)


class Echo:
    """Keeps what runs write to a stream of ipykernel, as the `echo` that is told of each write.

    IPython gives the streams another `write` for each cell and takes it away at the cell's end,
    with all that was put on top of it meanwhile; the echo is below that.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._before = stream.echo
        self._keeps = True
        stream.echo = self

    def write(self, text: str) -> None:
        """The stream was given `text`."""
        if self._keeps:
            _keep(text)
        if self._before is not None:
            self._before.write(text)

    def flush(self) -> None:
        """The stream is being flushed."""
        if self._before is not None:
            self._before.flush()

    def release(self) -> None:
        """Leaves the stream as it was. If somebody passes an echo on to us since, text just goes through."""
        self._keeps = False
        if self._stream.echo is self:
            self._stream.echo = self._before


class OwnWrite:
    """Keeps what runs write to another stream, by a `write` of its own in front of that of its class.

    In a terminal that holds when the extension is loaded before the first prompt (`ipython --ext`);
    otherwise IPython takes it away at the end of the cell that has loaded it.
    """

    def __init__(self, stream: Any) -> None:
        """Begins.

        Raises:
            TypeError: The stream can't have a `write` of its own.
            AttributeError: It has no `write` at all.
        """
        self._own = vars(stream)
        self._before = self._own.get("write")
        self._keeps = True
        self._write = self._own["write"] = self._keeping(stream.write)

    def release(self) -> None:
        """Leaves the stream as it was. If somebody has wrapped its `write` since, text just goes through ours."""
        self._keeps = False
        if self._own.get("write") is not self._write:
            return
        if self._before is None:
            del self._own["write"]
        else:
            self._own["write"] = self._before

    def _keeping(self, through: Callable[[str], Any]) -> Callable[[str], Any]:
        """`through`, and then the text is kept."""

        @functools.wraps(through)
        def write(string: str) -> Any:
            __tracebackhide__ = True
            written = through(string)
            if self._keeps:
                _keep(string)
            return written

        return write


def capture(*streams: Any) -> list[Echo | OwnWrite | Limit]:
    """Begins to keep what runs write to `streams`; those that don't allow it are left alone.

    What they show of it is limited in a kernel, where it goes to a page and into a file.
    """
    captured: list[Echo | OwnWrite | Limit] = []
    for stream in {id(stream): stream for stream in streams}.values():
        with contextlib.suppress(TypeError, AttributeError):  # has no attributes of its own; is None
            captured.append(Echo(stream) if _is_kernels(stream) else OwnWrite(stream))
            if _is_kernels(stream):
                captured.append(Limit(stream, floods, _keep))
    return captured


def release(captured: Iterable[Echo | OwnWrite | Limit]) -> None:
    """Leaves the streams as they were."""
    for one in captured:
        one.release()


def tell(text: str) -> None:
    """Says a line under the cell, in one write: what runs print meanwhile comes before or after it, not into it."""
    print(f"{text}\n", end="")


def expect_exit(*streams: Any) -> None:
    """Lets ipykernel end, in time, while threads go on to write to its `streams`.

    It closes the sockets by which threads wake its IO thread while they may be using them; then it may wait for ever
    for sockets to close. From now on they wake it by way of its event loop, and what they write when it has ended
    is dropped.
    """
    for stream in streams:
        if hasattr(stream, "flush_timeout"):
            stream.flush_timeout = EXIT_FLUSH
        with contextlib.suppress(AttributeError):  # not a stream of ipykernel, or of one that works otherwise
            stream.pub_thread.schedule = _without_sockets(stream.pub_thread.thread, stream.pub_thread.io_loop)


def _without_sockets(thread: threading.Thread, loop: Any) -> Callable[[Callable[[], Any]], None]:
    """Stands in for `schedule` of ipykernel's IO thread, which has a function called on that thread."""
    closing = threading.main_thread()

    def schedule(function: Callable[[], Any]) -> None:
        if thread.is_alive():
            loop.add_callback(function)
        elif threading.current_thread() is closing:  # the only one that may use the thread's own socket now
            function()

    return schedule


def _is_kernels(stream: Any) -> bool:
    iostream = sys.modules.get("ipykernel.iostream")  # not imported for a terminal
    return iostream is not None and isinstance(stream, iostream.OutStream) and hasattr(stream, "echo")
