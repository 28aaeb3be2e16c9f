"""Any `concurrent.futures.Executor`: a thread pool, a process pool, ipyparallel, mpi4py, executorlib.

In the kernel's own process a call runs as it is. If it is pickled on its way, it becomes a `Packed` one there.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from typing import Any

from ..errors import ExecutorError
from . import Call, worker
from .packing import Reply, pack_call, unpack_outcome


class _Task:
    """What the executor calls: here, or, as a pickled copy, elsewhere."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self) -> None:
        self._call.perform()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (worker.perform, pack_call(self._call))


class Foreign:
    """Brings calls to an executor that somebody else made, and who also ends it."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = executor
        self.name = type(executor).__name__

    def submit(self, call: Call) -> None:
        """Submits the call."""
        try:
            call.handle = future = self._executor.submit(_Task(call))
        except Exception as error:
            raise ExecutorError(
                f"action {call.name}() (run {call.id}) was refused by {self._executor!r}: {error}"
            ) from error
        if call.cancelled:
            future.cancel()
        future.add_done_callback(functools.partial(self._ended, call))

    def cancel(self, call: Call) -> None:
        """Takes it back if it has not begun."""
        if call.handle is not None:
            call.handle.cancel()

    def close(self) -> None:
        """Nothing: it is not ours."""

    def _ended(self, call: Call, future: concurrent.futures.Future[Any]) -> None:
        what = f"action {call.name}() (run {call.id}, attempt {call.attempt})"
        try:
            reply = future.result()
        except concurrent.futures.CancelledError:
            call.fails(ExecutorError(f"{what} was cancelled by {self.name}"))
        except ExecutorError as error:  # it can't travel
            call.fails(error)
        except BaseException as error:
            lost = ExecutorError(f"{what} was lost by {self.name}: {type(error).__name__}: {error}")
            lost.__cause__ = error
            call.fails(lost)
        else:
            if isinstance(reply, Reply):
                call.ends(unpack_outcome(reply))
            else:
                with contextlib.suppress(RuntimeError):
                    call.fails(ExecutorError(f"{what} was cancelled before it began"))
