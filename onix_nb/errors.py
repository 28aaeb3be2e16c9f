"""Every error and warning of onix_nb, in one tree.

A user's own exception is never wrapped in one of these: `future.result()` raises it as it is.

    OnixError
        ActionCallError         an action called or started an action or a flow
        AttemptTimeoutError     an attempt took longer than its `timeout=`; also a `TimeoutError`
        DeadlockError           a wait that could never end; also a `RuntimeError`
        ExecutorError           onix can't run this here or now; also a `RuntimeError`
            TransferError       a function, an argument, a result or an exception can't travel
        JournalError            the journal of durable flows can't be used
            JournalBusyError    another kernel owns it
            JournalDamagedError it isn't what was written; names file and row
            JournalRefusedError it, its folder or the key isn't safely this user's
            JournalValueError   a value can't be written to it, or read back
            JournalVersionError a newer onix_nb wrote it
            JournalWriteError   it could not be written: no space, an I/O error, deleted while in use
        LeakedFutureError       a flow returned with leaked futures, under `configure(leaks="error")`
        NondeterminismError     a durable flow differs from what its journal recorded; also a `RuntimeError`
        RecordedError           stands for an exception of which the journal has only type and text
    RunCancelled                raised inside a run that was cancelled; a `BaseException`
    LeakedFutureWarning         a flow returned with futures that nobody consumed
    LostOutcomeWarning          what an action came to can't be recorded
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
    """onix can't run this here or now.

    After a fork, at interpreter exit or without threads; or where the action was to run: its worker died, the
    cluster was lost, the executor was shut down or is not installed. An action with `retry=` is tried again.
    """


class TransferError(ExecutorError):
    """What an action needs, returns or raises can't be sent to another process or back.

    The message names the variable. Make such an object (a lock, a socket, an open file) inside the action, or run
    the action on threads: `@onix.action(executor="threads")`. It is not tried again: it would fail the same way.
    """


class JournalError(OnixError):
    """The journal of durable flows can't be used. The message names the file and says what to do."""


class JournalBusyError(JournalError):
    """Another kernel owns the journal; the message says which, and since when.

    Shut that kernel down, or give this one a journal of its own by `onix.configure(journal=path)`. When
    the owner dies the journal is free at once.
    """


class JournalDamagedError(JournalError):
    """The journal is not what was written to it; the message names the file and the row.

    Nothing of the row was used, and nothing was overwritten. Start the flow anew with `fresh=True`;
    when the file as a whole can't be read, move it away.
    """


class JournalRefusedError(JournalError):
    """The journal, its folder or the key that seals it isn't safely this user's, so that nothing was read.

    It belongs to someone else, others may write to it, or it is a symbolic link. Make it yours, or remove it.
    """


class JournalValueError(JournalError):
    """A value can't be written to the journal, or what was recorded can't be made a value again."""


class JournalVersionError(JournalError):
    """A newer onix_nb wrote the journal. Use that one, or move the file away."""


class JournalWriteError(JournalError):
    """The journal could not be written, or read: no space, or an I/O error. Nothing was acknowledged.

    After there is space again it goes on. A journal that was deleted while in use stays lost for this
    kernel until it is restarted.
    """


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


class RecordedError(OnixError):
    """Stands for an exception that an action of a durable flow raised before the kernel died.

    It could not be pickled, or its class is gone: type and text are what is left of it.

    Attributes:
        type: The name of its class.
    """

    type: str = ""


class RunCancelled(BaseException):
    """Raised inside a run that was cancelled with `cancel(interrupt=True)`.

    A `BaseException`, so that `except Exception` can't swallow it. Clean up in `finally` and let
    it pass. Those who wait for the run get `concurrent.futures.CancelledError` instead.
    """


class LeakedFutureWarning(UserWarning):
    """A flow returned while futures that it started were not consumed; each is named."""


class LostOutcomeWarning(UserWarning):
    """What an action of a durable flow came to can't be pickled, and so not be recorded.

    After a restart of the kernel the action runs again; of an exception type and text are kept.
    """


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
    "JournalBusyError",
    "JournalDamagedError",
    "JournalError",
    "JournalRefusedError",
    "JournalValueError",
    "JournalVersionError",
    "JournalWriteError",
    "LeakedFutureError",
    "LeakedFutureWarning",
    "LostOutcomeWarning",
    "NondeterminismError",
    "OnixError",
    "RecordedError",
    "RunCancelled",
    "TransferError",
    "UnseenFailureWarning",
    "UnstableArgumentWarning",
]
