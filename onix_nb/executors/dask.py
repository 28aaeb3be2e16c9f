"""Actions on a Dask cluster: a local one, one at an address, or that of a `distributed.Client`.

Each attempt is a task of its own key, never shared (`pure=False`) and never retried by Dask, which is for the engine.
Workers tell by events that a call begins and what it prints.
"""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from typing import Any, Final

import dask
import distributed

from ..errors import ExecutorError
from ..model.run import error_text
from . import Call, worker
from .packing import Packed, Reply, pack_call, unpack_outcome

# Seconds that a scheduler has to answer.
CONNECT: Final = 8


class _Sent:
    """A call that was handed to the scheduler."""

    __slots__ = ("address", "call", "future", "key")

    def __init__(self, call: Call, key: str) -> None:
        self.call = call
        self.key = key
        self.future: Any = None
        self.address: str | None = None  # of the worker that has begun it


class Cluster:
    """Brings calls to a cluster."""

    name = "dask"

    def __init__(self, client: Any, cluster: Any = None, *, ours: bool = True) -> None:
        self._owner = os.getpid()
        self._client = client
        self._cluster = cluster
        self._ours = ours
        self._token = uuid.uuid4().hex
        # By key; changed one atomic step at a time. And the workers whose end is watched.
        self._sent: dict[str, _Sent] = {}
        self._watched: set[str] = set()
        self._refuse_other_pythons()
        client.subscribe_topic(self._topic, self._hear)

    @classmethod
    def of(cls, wanted: Any) -> Cluster:
        """The cluster that a setting names.

        Raises:
            ExecutorError: Nothing answers, or its workers run another Python.
        """
        if isinstance(wanted, distributed.Client):
            return cls(wanted, ours=False)
        if wanted == "dask":
            # A worker's death is told at once: whether to run an action again is not Dask's to decide.
            with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
                cluster = distributed.LocalCluster(threads_per_worker=1, dashboard_address=None)
            return cls(distributed.Client(cluster, set_as_default=False), cluster)
        address = wanted.removeprefix("dask:")
        try:
            return cls(distributed.Client(address, timeout=CONNECT, set_as_default=False))
        except OSError as error:  # also its timeout
            raise ExecutorError(f"no Dask scheduler answers at {address} within {CONNECT} s: {error}") from error

    @property
    def _topic(self) -> str:
        return f"onix-{self._token}"

    def submit(self, call: Call) -> None:
        """Submits the call as a task."""
        packed = pack_call(call, key=f"{call.name}-{self._token}-{call.id}-{call.attempt}")
        if self._client.status not in ("running", "connecting"):
            raise ExecutorError(
                f"action {call.name}() (run {call.id}) can't run: the Dask client is {self._client.status}"
            )
        sent = _Sent(call, packed.key)
        self._sent[packed.key] = sent
        call.handle = sent
        try:
            sent.future = self._client.submit(
                _perform, packed, self._topic, key=packed.key, pure=False, retries=0, **call.placement
            )
        except BaseException:
            self._sent.pop(packed.key, None)
            raise
        sent.future.add_done_callback(lambda _: self._ended(sent))
        if call.cancelled:
            self.cancel(call)

    def cancel(self, call: Call) -> None:
        """Takes it from the scheduler; a function that runs is made to stop."""
        sent: _Sent | None = call.handle
        if sent is None or sent.future is None:
            return
        # To all workers while it isn't known which one has it: it may have begun just now.
        self._client.loop.add_callback(self._stop, sent.key, None if sent.address is None else [sent.address])
        with contextlib.suppress(Exception):  # the client is closed
            sent.future.cancel()

    async def _stop(self, key: str, workers: list[str] | None) -> None:
        with contextlib.suppress(Exception):  # the worker is gone
            await self._client._run(worker.interrupt, key, workers=workers)

    def close(self) -> None:
        """Ends the connection, and the cluster, if they are ours."""
        if os.getpid() != self._owner or not self._ours:
            return
        for part in (self._client, self._cluster):
            if part is not None:
                with contextlib.suppress(Exception):  # it ended before us
                    part.close(timeout=2)

    # What comes back.

    def _ended(self, sent: _Sent) -> None:
        call = sent.call
        what = f"action {call.name}() (run {call.id}, attempt {call.attempt})"
        try:
            reply: Reply = sent.future.result(timeout=CONNECT)
        except BaseException as error:
            self._sent.pop(sent.key, None)
            where = "" if sent.address is None else f" by worker {sent.address}"
            lost = ExecutorError(f"{what} was lost{where}: {error_text(error)}")
            lost.__cause__ = error
            call.fails(lost)
        else:
            if call.ends(unpack_outcome(reply)):
                self._sent.pop(sent.key, None)
        sent.future.release()

    def _hear(self, event: tuple[float, Any]) -> None:
        """A worker tells something."""
        kind, key, address, *rest = event[1]
        sent = self._sent.get(key)
        if sent is None:
            return
        if kind == "writes":
            if sent.call.writes(*rest):
                self._sent.pop(key, None)
        elif sent.address is None:
            sent.address = address
            self._watch(address)
            if not sent.call.begins(f"worker {address}", *rest):
                self.cancel(sent.call)
        elif sent.address != address:  # the scheduler gave it to another one
            self._lose(sent)

    def _watch(self, address: str) -> None:
        """Hears when a worker is removed: a scheduler that waits for another one would not tell."""
        if address not in self._watched:
            self._watched.add(address)
            self._client.subscribe_topic(address, lambda event: self._hear_of_worker(address, event[1]))

    def _hear_of_worker(self, address: str, message: Any) -> None:
        if isinstance(message, dict) and message.get("action") == "remove-worker":
            for sent in list(self._sent.values()):
                if sent.address == address:
                    self._lose(sent)

    def _lose(self, sent: _Sent) -> None:
        if sent.future.status == "finished":  # it is on its way
            return
        self._sent.pop(sent.key, None)
        call = sent.call
        what = f"action {call.name}() (run {call.id}, attempt {call.attempt})"
        call.fails(ExecutorError(f"{what} was lost: its worker {sent.address} left the cluster"))
        with contextlib.suppress(Exception):  # the client is closed
            sent.future.cancel()

    def _refuse_other_pythons(self) -> None:
        ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
        for address, versions in self._client.get_versions().get("workers", {}).items():
            theirs = str(((versions or {}).get("host") or {}).get("python") or ours)
            if not theirs.startswith(f"{ours}."[: len(theirs)]):
                raise ExecutorError(
                    f"worker {address} runs Python {theirs}, this kernel {ours}: functions can't travel"
                )


class _Events:
    """A worker's way to tell the kernel."""

    def __init__(self, topic: str) -> None:
        self._worker = distributed.get_worker()
        self._topic = topic
        self.where = f"worker {self._worker.address}"

    def begins(self, key: str, started: float) -> None:
        """The call begins."""
        self._worker.log_event(self._topic, ("begins", key, self._worker.address, started))

    def writes(self, key: str, stream: str, text: str) -> None:
        """The call wrote `text`."""
        self._worker.log_event(self._topic, ("writes", key, self._worker.address, stream, text))


def _perform(packed: Packed, topic: str) -> Reply:
    return worker.perform(packed, _Events(topic))
