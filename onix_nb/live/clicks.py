"""Clicks that arrive while a cell blocks the main thread.

A kernel handles what a front end sends to a widget on its main thread, after the running cell, unless a subshell
(a thread of ipykernel 7 with a message queue of its own) does. `route` has one subshell of ours handle what comes for
our widgets, and what a page that is reloaded meanwhile must have answered before it can show them again. ipykernel
has no public way to do so: each step is taken only if its feature is there, and where it is not, the click comes
after the cell, as for any other widget.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ipywidgets import Widget  # type: ignore[import-untyped]

# Over a comm with this target a page that has been loaded asks for the states of all widgets.
CONTROL_TARGET: Final = "jupyter.widget.control"


def route(widget: Widget) -> None:
    """Makes messages from `widget`'s front end arrive while a cell blocks, where the kernel can do that.

    To be called once, when the widget's comm has been opened. From then on the widget's handlers run on another
    thread, also while the main thread runs a cell; they must not wait for that cell, and must be quick, because the
    kernel cannot shut down before a handler has returned. Never raises and never prints.

    Args:
        widget: any ipywidgets or anywidget widget; without a comm, nothing happens.
    """
    comm = widget.comm
    if comm is None:
        return
    _handle_without_hooks(comm)
    # ipykernel's comms know their kernel once they have been opened; others have no subshells.
    kernel = getattr(comm, "kernel", None)
    # What follows is not ours and may change with any release.
    with contextlib.suppress(Exception):
        subshell = _subshell_of(kernel)
        subshell.take(comm)


def close() -> None:
    """Ends our subshell and takes back what `route` changed in the kernel; clicks then come after the cell."""
    global _current
    if _current is not None:
        with contextlib.suppress(Exception):
            _current.close()
        _current = None


class Subshell:
    """A subshell of ours in one kernel."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        # The comms whose messages come here, by their ids, and the id of the one over which a page asks for states.
        self._comms: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._control: str | None = None
        # None until the kernel has made the subshell, and when it has ended. Changes on the channel's thread only.
        self._id: str | None = None
        # The thread that receives every shell message and hands it to the main thread or to a subshell.
        self._channel = kernel.shell_channel_thread
        self._manager = self._channel.manager
        self._set_parent = kernel.set_parent

    def open(self) -> None:
        """Asks for the subshell; a message that is sent after this call finds it made."""
        self._on_channel(self._create)
        self.kernel.set_parent = self._set_parent_quietly

    def close(self) -> None:
        """Ends the subshell's thread as soon as it is idle."""
        if self.kernel.__dict__.get("set_parent") == self._set_parent_quietly:
            del self.kernel.set_parent
        self._on_channel(self._delete)

    def take(self, comm: Any) -> None:
        """Has the messages of `comm` come here."""
        self._comms[comm.comm_id] = comm
        # ipykernel 7.4 asks the comm, whatever the message says; the comm would name the main thread.
        if hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = self._choose

    def _choose(self, data: Any, default: str | None) -> str | None:
        """The id of the subshell that handles a comm's message; `default` is the one that the front end asks for."""
        # Somebody may have ended ours: a message to it would be lost.
        return self._id if self._id in self._manager.list_subshell() else default

    # Making and ending.

    def _on_channel(self, function: Callable[[], None]) -> None:
        """Has `function` called on the channel's thread, the only one that may make and end subshells."""
        # In an empty context: the subshell would inherit the cell and the run that are current here.
        contextvars.Context().run(self._channel.io_loop.add_callback, function)

    def _create(self) -> None:
        with contextlib.suppress(Exception):
            self._id = self._manager._create_subshell()
            self.kernel.shell_stream.on_recv(self._receive, copy=False)

    def _delete(self) -> None:
        id, self._id = self._id, None
        with contextlib.suppress(Exception):
            self.kernel.shell_stream.on_recv(self.kernel.shell_channel_thread_main, copy=False)
            self._manager._delete_subshell(id)

    # Receiving, on the channel's thread.

    def _receive(self, frames: list[Any]) -> Any:
        """Stands in for the kernel's `shell_channel_thread_main`, which hands a message to the one it names."""
        with contextlib.suppress(Exception):
            frames = self._addressed(frames)
        return self.kernel.shell_channel_thread_main(frames)

    def _addressed(self, frames: list[Any]) -> list[Any]:
        """The frames of a message, signed anew if it now names our subshell."""
        session = self.kernel.session
        identities, signed = session.feed_identities(frames, copy=False)
        message = session.deserialize(signed, content=False, copy=False)  # raises if the signature is wrong
        id = self._choose(None, None)
        if id is None or not self._comes_here(message["msg_type"], lambda: session.unpack(message["content"])):
            return frames
        header = session.pack({**session.unpack(signed[1].bytes), "subshell_id": id})
        parts = [header, *(frame.bytes for frame in signed[2:5])]
        start = frames[: len(identities) + 1]  # with the delimiter
        new = [type(signed[0])(part) for part in (session.sign(parts), *parts)]
        return [*start, *new, *signed[5:]]

    def _comes_here(self, kind: str, content: Callable[[], Any]) -> bool:
        """Whether our subshell handles a message."""
        if kind in ("comm_msg", "comm_close"):
            return self._has(content()["comm_id"])
        # What a page asks for when it is loaded: the main thread would answer after the cell.
        if not self.kernel._main_asyncio_lock.locked():
            return False
        if kind == "comm_open" and content()["target_name"] == CONTROL_TARGET:
            self._control = content()["comm_id"]
            return True
        return kind == "kernel_info_request"

    # Whose output comes next.

    def _set_parent_quietly(self, ident: Any, parent: Any, channel: str = "shell") -> None:
        """Stands in for the kernel's `set_parent`, which says whose output comes next.

        The kernel also makes each message the parent of the output of threads that have no context. When that
        message is a click, no cell shows their prints any more, until the next cell runs.
        """
        with contextlib.suppress(Exception):
            if channel == "shell" and self._is_ours(parent):
                self._set_parent_of_thread(ident, parent)
                return
        self._set_parent(ident, parent, channel)

    def _set_parent_of_thread(self, ident: Any, parent: Any) -> None:
        """Does what the kernel's `set_parent` does, but for the thread that calls it only."""
        self.kernel._shell_parent_ident.set(ident)
        self.kernel._shell_parent.set(parent)
        shell = self.kernel.shell
        shell._parent_header.set(parent)
        for output in (shell.displayhook, shell.display_pub, sys.stdout, sys.stderr):
            if hasattr(output, "_parent_header"):
                output._parent_header.set(parent["header"])

    def _is_ours(self, message: Any) -> bool:
        if threading.current_thread().name == f"subshell-{self._id}":
            return True
        return message["header"]["msg_type"] == "comm_msg" and self._has(message["content"]["comm_id"])

    def _has(self, comm_id: str) -> bool:
        return comm_id in self._comms or comm_id == self._control


# The subshell of this process's kernel; reloading the module keeps it.
_current: Subshell | None = globals().get("_current")


def _subshell_of(kernel: Any) -> Subshell:
    """Our subshell in `kernel`, made at the first call."""
    global _current
    if _current is None or _current.kernel is not kernel:
        subshell = Subshell(kernel)
        subshell.open()
        _current = subshell
    return _current


def _handle_without_hooks(comm: Any) -> None:
    """Makes `comm` call its handler alone, without IPython's hooks for the begin and the end of a cell.

    They make matplotlib show, and so lose, the figures of the cell that is running.
    """
    if hasattr(comm, "_msg_callback"):

        def handle_msg(message: Any) -> None:
            if comm._msg_callback is not None:
                comm._msg_callback(message)

        comm.handle_msg = handle_msg
