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

Example:
    >>> import onix_nb as onix
    >>> @onix.action(timeout=0.01)
    ... def fetch(user_id: str) -> str:
    ...     if not user_id:
    ...         raise LookupError("nobody has no name")
    ...     onix.sleep(60)
    >>> for user_id in ("", "u1"):
    ...     try:
    ...         fetch(user_id=user_id)
    ...     except onix.errors.AttemptTimeoutError:
    ...         print("too slow")
    ...     except LookupError as error:
    ...         print(error)
    nobody has no name
    too slow
"""

from __future__ import annotations


class OnixError(Exception):
    """The root of onix_nb's errors.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action(timeout=0.01)
        ... def slow() -> None:
        ...     onix.sleep(60)
        >>> try:
        ...     slow()
        ... except onix.errors.OnixError as error:
        ...     print(type(error).__name__)
        AttemptTimeoutError
    """


class ActionCallError(OnixError):
    """An action called or started an action or a flow.

    Actions may call plain functions only. Make the caller a flow (`@onix.flow`), or drop
    `@onix.action` from what it calls.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> @onix.action
        ... def quadruple(x: int) -> int:
        ...     return double(x=double(x=x))
        >>> quadruple(x=1)
        Traceback (most recent call last):
        onix_nb.errors.ActionCallError: action 'quadruple' called action 'double', ...
        >>> @onix.flow
        ... def quadruple(x: int) -> int:
        ...     return double(x=double(x=x))
        >>> quadruple(x=1)
        4
    """


class AttemptTimeoutError(OnixError, TimeoutError):
    """One attempt of an action took longer than the `timeout=` of that action.

    `future.result(timeout)` raises a plain `TimeoutError` when the *wait* is over; this one says
    that the *work* was given up.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action(timeout=0.01)
        ... def slow() -> None:
        ...     onix.sleep(60)
        >>> slow()
        Traceback (most recent call last):
        onix_nb.errors.AttemptTimeoutError: action slow (run ...) took longer than 0.01 s in attempt 1
    """


class DeadlockError(OnixError, RuntimeError):
    """A wait that could never end: for oneself, or on the event loop that has to do the work.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... async def nap() -> None:
        ...     onix.sleep(1)  # instead of: await asyncio.sleep(1)
        >>> nap()
        Traceback (most recent call last):
        onix_nb.errors.DeadlockError: ...
    """


class ExecutorError(OnixError, RuntimeError):
    """onix can't run this here or now.

    After a fork, at interpreter exit or without threads; or where the action was to run: its worker died, the
    cluster was lost, the executor was shut down or is not installed. An action with `retry=` is tried again.

    Example:
        >>> import concurrent.futures
        >>> import onix_nb as onix
        >>> pool = concurrent.futures.ThreadPoolExecutor()
        >>> @onix.action(executor=pool)
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> pool.shutdown()
        >>> double(x=1)
        Traceback (most recent call last):
        onix_nb.errors.ExecutorError: action double() (run ...) was refused by ...
    """


class TransferError(ExecutorError):
    """What an action needs, returns or raises can't be sent to another process or back.

    The message names the variable. Make such an object (a lock, a socket, an open file) inside the action, or run
    the action on threads: `@onix.action(executor="threads")`. It is not tried again: it would fail the same way.

    Example:
        >>> import threading
        >>> import onix_nb as onix
        >>> @onix.action(executor="processes")
        ... def count(lock: threading.Lock) -> int:
        ...     with lock:
        ...         return 1
        >>> count(lock=threading.Lock())
        Traceback (most recent call last):
        onix_nb.errors.TransferError: ... its argument 'lock' is a lock, which can't be pickled ...
        >>> count.options(executor="threads")(lock=threading.Lock())
        1
    """


class JournalError(OnixError):
    """The journal of durable flows can't be used. The message names the file and says what to do.

    Example:
        >>> import onix_nb as onix
        >>> @onix.flow(durable=True)
        ... def nightly() -> str:
        ...     return "done"
        >>> with onix.configure(journal="no/such/folder/flows.sqlite"):
        ...     try:
        ...         nightly()
        ...     except onix.errors.JournalError as error:
        ...         print(type(error).__name__)
        JournalWriteError
    """


class JournalBusyError(JournalError):
    """Another kernel owns the journal; the message says which, and since when.

    Shut that kernel down, or give this one a journal of its own by `onix.configure(journal=path)`. When
    the owner dies the journal is free at once.
    """


class JournalDamagedError(JournalError):
    """The journal is not what was written to it; the message names the file and the row.

    Nothing of the row was used, and nothing was overwritten. Start the flow anew with `fresh=True`;
    when the file as a whole can't be read, move it away.

    Example:
        >>> import onix_nb as onix
        >>> @onix.flow(durable=True)
        ... def nightly() -> str:
        ...     return "done"
        >>> with open("broken.sqlite", "w") as file:
        ...     _ = file.write("no journal " * 100)
        >>> with onix.configure(journal="broken.sqlite"):
        ...     nightly()
        Traceback (most recent call last):
        onix_nb.errors.JournalDamagedError: the journal ...broken.sqlite: ... Move the file away.
    """


class JournalRefusedError(JournalError):
    """The journal, its folder or the key that seals it isn't safely this user's, so that nothing was read.

    It belongs to someone else, others may write to it, or it is a symbolic link. Make it yours, or remove it.

    Example:
        >>> import os
        >>> import onix_nb as onix
        >>> @onix.flow(durable=True)
        ... def nightly() -> str:
        ...     return "done"
        >>> os.symlink("elsewhere.sqlite", "link.sqlite")
        >>> with onix.configure(journal="link.sqlite"):
        ...     nightly()
        Traceback (most recent call last):
        onix_nb.errors.JournalRefusedError: ...link.sqlite is a symbolic link, so the journal is not used.
    """


class JournalValueError(JournalError):
    """A value can't be written to the journal, or what was recorded can't be made a value again."""


class JournalVersionError(JournalError):
    """A newer onix_nb wrote the journal. Use that one, or move the file away."""


class JournalWriteError(JournalError):
    """The journal could not be written, or read: no space, or an I/O error. Nothing was acknowledged.

    After there is space again it goes on. A journal that was deleted while in use stays lost for this
    kernel until it is restarted.

    Example:
        >>> import onix_nb as onix
        >>> @onix.flow(durable=True)
        ... def nightly() -> str:
        ...     return "done"
        >>> with onix.configure(journal="no/such/folder/flows.sqlite"):
        ...     nightly()
        Traceback (most recent call last):
        onix_nb.errors.JournalWriteError: the journal ...folder could not be made: ...
    """


class LeakedFutureError(OnixError):
    """A flow returned while futures that it started were not consumed.

    Raised only under `onix.configure(leaks="error")`; by default it is a `LeakedFutureWarning`.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> @onix.flow
        ... def forgetful() -> None:
        ...     double.start(x=1)
        >>> with onix.configure(leaks="error"):
        ...     forgetful()
        Traceback (most recent call last):
        onix_nb.errors.LeakedFutureError: flow 'forgetful' returned while 1 future ...
    """


class NondeterminismError(OnixError, RuntimeError):
    """A durable flow asks for other calls than its journal has recorded.

    Raised only under `on_change="error"`; it names the first difference. Undo the change, allow it with
    `on_change="report"`, reuse what older code returned with `keep=`, or start anew with `fresh=True`. If
    nobody has changed the flow, it depends on something that differs from run to run, as the time or random
    numbers: move that into an action.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> @onix.flow(durable=True)
        ... def nightly() -> int:
        ...     return double(x=1)
        >>> nightly()
        2
        >>> @onix.flow(durable=True)
        ... def nightly() -> int:
        ...     return double(x=2)
        >>> nightly.options(on_change="error")()
        Traceback (most recent call last):
        onix_nb.errors.NondeterminismError: nightly() differs from its journal: double(x=2) is not recorded, ...
        >>> nightly.options(fresh=True)()
        4
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

    Example:
        >>> import threading
        >>> import onix_nb as onix
        >>> begun, cleaned_up = threading.Event(), threading.Event()
        >>> @onix.action
        ... def listen() -> None:
        ...     try:
        ...         begun.set()
        ...         onix.sleep(60)
        ...     finally:
        ...         cleaned_up.set()
        >>> future = listen.start()
        >>> begun.wait() and future.cancel(interrupt=True)
        True
        >>> cleaned_up.wait()
        True
    """


class LeakedFutureWarning(UserWarning):
    """A flow returned while futures that it started were not consumed; each is named.

    Example:
        >>> import warnings
        >>> import onix_nb as onix
        >>> @onix.action
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> @onix.flow
        ... def forgetful() -> None:
        ...     double.start(x=1)
        >>> with warnings.catch_warnings(record=True) as told:
        ...     forgetful()
        >>> print(told[0].message)
        flow 'forgetful' returned while 1 future that it started was not consumed:
          double (run ..., started at ...); it ...
        Ask each for result() or exception(), give it to onix.wait(), or detach() it.
    """


class LostOutcomeWarning(UserWarning):
    """What an action of a durable flow came to can't be pickled, and so not be recorded.

    After a restart of the kernel the action runs again; of an exception type and text are kept.

    Example:
        >>> import threading, warnings
        >>> import onix_nb as onix
        >>> @onix.action
        ... def make_lock() -> threading.Lock:
        ...     return threading.Lock()
        >>> @onix.flow(durable=True)
        ... def guarded() -> bool:
        ...     return make_lock().locked()
        >>> with warnings.catch_warnings(record=True) as told:
        ...     guarded()
        False
        >>> print(told[0].message)
        the result of make_lock() can't be recorded, so that after a restart it would run again: ...
    """


class UnseenFailureWarning(UserWarning):
    """A run failed and nobody asked for its result or its exception.

    Example:
        >>> import onix_nb as onix
        >>> @onix.action
        ... def invert(x: int) -> float:
        ...     return 1 / x
        >>> invert.start(x=0).exception()  # asked for, so that nothing is warned of
        ZeroDivisionError('division by zero')
    """


class UnstableArgumentWarning(UserWarning):
    """An argument can't be recognised after a restart, so that this call would run again.

    It can't be pickled, or two pickles of it differ. Pass what it is made from instead: a path for an open
    file, a seed for a generator.

    Example:
        >>> import os, warnings
        >>> import onix_nb as onix
        >>> @onix.action
        ... def name_of(file: object) -> str:
        ...     return file.name
        >>> @onix.flow(durable=True)
        ... def reads() -> str:
        ...     with open(os.devnull) as file:
        ...         return name_of(file=file)  # instead of: name_of(path=os.devnull)
        >>> with warnings.catch_warnings(record=True) as told:
        ...     name = reads()
        >>> print(told[0].message)
        argument 'file' of name_of(), a TextIOWrapper, can't be recognised after a restart: ...
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
