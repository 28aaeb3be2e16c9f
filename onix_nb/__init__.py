"""Oryonix in the notebook: flows orchestrate, actions do the work, futures join them.

In a notebook, `%load_ext onix_nb`; after it `import onix` works. Elsewhere, `import onix_nb as onix`.

Example:
    >>> import onix_nb as onix
    >>> @onix.action
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> @onix.flow
    ... def total(n: int) -> int:
    ...     done, _ = onix.wait([double.start(x=x) for x in range(n)])
    ...     return sum(future.result() for future in done)
    >>> total(n=4)
    12

What there is; `?` behind a name tells the rest:

    action, flow            decorators: call what they make, or `.start(...)` it to get a Future at once
    Future                  result(), exception(), cancel(), detach(), await; `future.run` is its record
    wait, as_completed      for several futures; ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
    RetryPolicy             how failed attempts are tried again: `@onix.action(retry=...)`
    sleep, current_run      inside of actions and flows
    configure               settings: where actions run, how many at once, what leaks do, the journal
    runs, timeline          what ran, as frames and as a chart
    Executor                for libraries that take a `concurrent.futures.Executor`
    errors                  every error and warning

And in a notebook `%%onix_flow`, `%onix_runs`, `%onix_timeline` and `%onix_cancel`.

The map of the package, for those who change it; imports point from the lower lines to the upper ones, never back:

    errors.py      every error and warning
    config.py      the settings in force, and configure()
    model/         what a run is: Run, Future, RetryPolicy. No threads, files or notebook
    executors/     where actions run when it is not here: processes, clusters, anybody's pool
    journal/       durable memory: how the calls of durable flows ended, in a file
    explore/       runs as data: frames, the timeline
    engine/        how runs run: the session, its threads and its event loop, wait
    functions.py   @action and @flow
    live/          runs on the page: the live view, its static form, clicks
    notebook/      IPython: the extension, %%onix_flow, hooks
    server/        Jupyter Server: the page /onix, in a process of its own, which only reads journals

Where to read first: `functions.py` (what a user touches), then `model/future.py` (the heart: how
a future settles), then `engine/attempts.py` (how code is run, timed out and stopped) and
`engine/session.py` (the one place with global state).
"""

from __future__ import annotations

from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import TYPE_CHECKING, Any

from . import errors
from ._version import __version__ as __version__
from .config import configure
from .engine.executor import Executor
from .engine.history import runs
from .engine.waiting import as_completed, wait
from .functions import action, flow
from .model.attempt import current_run
from .model.future import Future
from .model.parking import sleep
from .model.retry import RetryPolicy

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "Executor",
    "Future",
    "RetryPolicy",
    "action",
    "as_completed",
    "configure",
    "current_run",
    "errors",
    "flow",
    "runs",
    "sleep",
    "timeline",
    "wait",
]


def __dir__() -> list[str]:
    """What `onix.<TAB>` offers: the public names, without the modules behind them."""
    return [*__all__, "__version__"]


def timeline(runs: Any = None, *, ax: Any = None) -> Any:
    """When runs waited and ran, as a Gantt chart by matplotlib. Not in Oryonix.

    Up to 200 runs have a row each: time in the queue light, a segment for each attempt, a cross where one failed, and
    flows as bands around what they started. Up to 5,000 share lanes; of more, curves say how many ran at once. It
    sets no style, and closes no figure.

    Args:
        runs: Futures, what `wait` or `runs` returned; None for everything that is remembered.
        ax: The matplotlib `Axes` to draw on; None for new ones.

    Returns:
        The `Axes`.

    Raises:
        TypeError: Something in `runs` is neither a future nor a run.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> done, _ = onix.wait([double.start(x=x) for x in range(3)])
        >>> onix.timeline(done).get_xlabel()
        'seconds'
    """
    from .engine.history import chosen
    from .explore.timeline import timeline  # matplotlib is imported for those who draw

    return timeline(chosen(runs), ax=ax)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext onix_nb`."""
    from .notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext onix_nb`."""
    from .notebook.extension import unload

    unload(shell)
