"""Every error and warning of onix_nb, in one tree.

A user's own exception is never wrapped in one of these: `future.result()` raises it as it is.

    OnixError
        ActionCallError         an action called or started an action or a flow
        AttemptTimeoutError     an attempt took longer than its `timeout=`; also a `TimeoutError`
        DeadlockError           a wait that could never end; also a `RuntimeError`
        ExecutorError           onix can't run this here or now; also a `RuntimeError`
            TransferError       a function, an argument, a result or an exception can't travel
        LeakedFutureError       a flow returned with leaked futures, under `configure(leaks="error")`
    RunCancelled                raised inside a run that was cancelled; a `BaseException`
    LeakedFutureWarning         a flow returned with futures that nobody consumed
    UnseenFailureWarning        a run failed and nobody looked at its exception
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
    """onix can't run this here or now.

    After a fork, at interpreter exit or without threads; or where the action was to run: its worker died, the
    cluster was lost, the executor was shut down or is not installed. An action with `retry=` is tried again.
    """


class TransferError(ExecutorError):
    """What an action needs, returns or raises can't be sent to another process or back.

    The message names the variable. Make such an object (a lock, a socket, an open file) inside the action, or run
    the action on threads: `@onix.action(executor="threads")`. It is not tried again: it would fail the same way.
    """


class LeakedFutureError(OnixError):
    """A flow returned while futures that it started were not consumed.

    Raised only under `onix.configure(leaks="error")`; by default it is a `LeakedFutureWarning`.
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


__all__ = [
    "ActionCallError",
    "AttemptTimeoutError",
    "DeadlockError",
    "ExecutorError",
    "LeakedFutureError",
    "LeakedFutureWarning",
    "OnixError",
    "RunCancelled",
    "TransferError",
    "UnseenFailureWarning",
]
