"""`configure(nested_asyncio=True)`: a user's own `asyncio.run()` works where a loop runs already, as in a cell.

nest-asyncio2 does it, by replacing functions and classes of asyncio, for the whole process. It has no way
back: what it replaces is found by comparing before and after, and put back where nobody has changed it since.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

_MISSING: Final = object()

# What stays, because something that began meanwhile may need it to its end: loops that run read three attributes
# that asyncio does not know, and tornado has to take for futures what it was given as such.
_LEFT: Final = frozenset({"_is_proactorloop", "_nest_deferred", "_num_runs_pending", "FUTURES"})

# What is replaced: its owner, its name, the value before and ours. Survives a reload of this module.
_replaced: list[tuple[Any, str, Any, Any]] = globals().get("_replaced", [])

# Guards `_replaced`, and that asyncio is changed by one thread at a time.
_changing = threading.Lock()


def set_nested(on: bool) -> None:
    """Makes asyncio reentrant, or what it was before.

    Raises:
        ValueError: The running loop is none of asyncio's own kinds.
    """
    if on == bool(_replaced):  # nothing to change: no lock, which a finalizer might wait for
        return
    if not on:
        with _changing:
            _restore()
        return
    import nest_asyncio2  # type: ignore[import-untyped]  # for those who ask for it

    with _changing:
        if _replaced:
            return
        loop, made = _loop()
        owners = list(_owners(type(loop)))
        before = [dict(vars(owner)) for owner in owners]
        try:
            # Its `asyncio.run` closes the loops that it makes, as asyncio's own does.
            nest_asyncio2.apply(loop, run_close_loop=True)
        except BaseException:
            _note(owners, before)
            _restore()
            raise
        finally:
            if made:
                loop.close()
        _note(owners, before)


def _loop() -> tuple[asyncio.AbstractEventLoop, bool]:
    """A loop of the kind to be changed, and whether it was made for this: the kind is what counts."""
    try:
        return asyncio.get_running_loop(), False
    except RuntimeError:
        return asyncio.new_event_loop(), True


def _owners(kind: type[asyncio.AbstractEventLoop]) -> Iterator[Any]:
    """The modules and classes in which it replaces something."""
    yield from (asyncio, asyncio.events, asyncio.futures, asyncio.tasks, kind)
    if sys.version_info < (3, 14):  # from then on it leaves the policy alone
        yield type(asyncio.get_event_loop_policy())
    if "tornado.concurrent" in sys.modules:
        yield sys.modules["tornado.concurrent"]


def _note(owners: list[Any], before: list[dict[str, Any]]) -> None:
    """Remembers what has been replaced."""
    for owner, then in zip(owners, before, strict=True):
        for name, value in list(vars(owner).items()):
            if value is not then.get(name, _MISSING) and name not in _LEFT:
                _replaced.append((owner, name, then.get(name, _MISSING), value))


def _restore() -> None:
    while _replaced:
        owner, name, before, ours = _replaced.pop()
        if vars(owner).get(name, _MISSING) is not ours:
            continue
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
