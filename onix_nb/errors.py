"""Every error and warning of onix_nb, in one tree.

A user's own exception is never wrapped in one of these: `future.result()` raises it as it is.

    OnixError
        ActionCallError         an action called or started an action or a flow
        AttemptTimeoutError     an attempt took longer than its `timeout=`; also a `TimeoutError`
        DeadlockError           a wait that could never end; also a `RuntimeError`
        ExecutorError           onix can't run this here or now; also a `RuntimeError`
        LeakedFutureError       a flow returned with leaked futures, under `configure(leaks="error")`
        NondeterminismError     a durable flow differs from what its journal recorded; also a `RuntimeError`
    RunCancelled                raised inside a run that was cancelled; a `BaseException`
    LeakedFutureWarning         a flow returned with futures that nobody consumed
    UnseenFailureWarning        a run failed and nobody looked at its exception
    UnstableArgumentWarning     an argument can't be recognised after a restart
"""

from __future__ import annotations


class OnixError(Exception):
    """The root of onix_nb's errors."""


class ActionCallError(OnixError):
    """An action called or started an action or a flow.

    Actions may call plain functions only. Make the caller a flow (`@onix.flow`), or drop
    `@onix.action` from what it calls.
    """


class AttemptTimeoutError(OnixError, TimeoutError):
    """One attempt of an action took longer than the `timeout=` of that action.

    `future.result(timeout)` raises a plain `TimeoutError` when the *wait* is over; this one says
    that the *work* was given up.
    """


class DeadlockError(OnixError, RuntimeError):
    """A wait that could never end: for oneself, or on the event loop that has to do the work."""


class ExecutorError(OnixError, RuntimeError):
    """onix can't run this here or now: after a fork, at interpreter exit, or without threads."""


class LeakedFutureError(OnixError):
    """A flow returned while futures that it started were not consumed.

    Raised only under `onix.configure(leaks="error")`; by default it is a `LeakedFutureWarning`.
    """


class NondeterminismError(OnixError, RuntimeError):
    """A durable flow asks for other calls than its journal has recorded.

    Raised only under `on_change="error"`; it names the first difference. Undo the change, allow it with
    `on_change="report"`, reuse what older code returned with `keep=`, or start anew with `fresh=True`. If
    nobody has changed the flow, it depends on something that differs from run to run, as the time or random
    numbers: move that into an action.
    """


class RunCancelled(BaseException):
    """Raised inside a run that was cancelled with `cancel(interrupt=True)`.

    A `BaseException`, so that `except Exception` can't swallow it. Clean up in `finally` and let
    it pass. Those who wait for the run get `concurrent.futures.CancelledError` instead.
    """


class LeakedFutureWarning(UserWarning):
    """A flow returned while futures that it started were not consumed; each is named."""


class UnseenFailureWarning(UserWarning):
    """A run failed and nobody asked for its result or its exception."""


class UnstableArgumentWarning(UserWarning):
    """An argument can't be recognised after a restart, so that this call would run again.

    It can't be pickled, or two pickles of it differ. Pass what it is made from instead: a path for an open
    file, a seed for a generator.
    """


__all__ = [
    "ActionCallError",
    "AttemptTimeoutError",
    "DeadlockError",
    "ExecutorError",
    "LeakedFutureError",
    "LeakedFutureWarning",
    "NondeterminismError",
    "OnixError",
    "RunCancelled",
    "UnseenFailureWarning",
    "UnstableArgumentWarning",
]
