"""Actions on a Dask cluster: a local one, one at an address, or that of a `distributed.Client`.

Each attempt is a task of its own key, never shared (`pure=False`). Workers tell by events that a call runs and what
it prints; its result comes back when the task has ended, unless the run was cancelled meanwhile.

Dask runs a task again elsewhere when its worker is lost. For an action that is not Dask's to decide, so a plugin on the
scheduler (`Once`) hands each task that loses its worker back to the kernel: what may have begun fails with a typed
error, which a `retry=` of the action may follow, and what can't have begun is submitted again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

import dask
import distributed
from distributed.client import done_callback
from distributed.diagnostics.plugin import SchedulerPlugin

from .. import config
from .._version import __version__
from ..errors import ExecutorError
from ..model.run import error_text
from . import Call, worker
from .packing import Packed, Reply, pack_call, unpack_outcome

# Seconds that a scheduler has to answer, also to come back after it was lost.
PATIENCE: Final = 4

# Seconds that a call runs before its worker tells of it: shorter ones begin too often, and tell it with their outcome.
PACE: Final = 0.01

# Why the plugin took a task back.
LEFT: Final = "onix-worker-left"

# In the key of each of our tasks, by which the scheduler knows them.
MARK: Final = "-onix-"

# What has to be the same on both sides: code objects travel, and our own classes.
VERSIONS: Final = (f"{sys.version_info[0]}.{sys.version_info[1]}", __version__)


class _Sent:
    """A call that was handed to the scheduler."""

    __slots__ = ("address", "call", "epoch", "future", "packed", "resent")

    def __init__(self, call: Call, packed: Packed) -> None:
        self.call = call
        self.packed = packed
        self.future: Any = None
        self.address: str | None = None  # of the worker that has begun it
        self.epoch = 0  # of the connection by which it was sent
        self.resent = 0

    def __str__(self) -> str:
        return f"action {self.call.name}() (run {self.call.id}, attempt {self.call.attempt})"


class Cluster:
    """Brings calls to a cluster."""

    name = "dask"

    def __init__(self, connect: Callable[[], tuple[Any, Any]], *, ours: bool) -> None:
        self._owner = os.getpid()
        self._connect = connect
        self._ours = ours
        self._token = uuid.uuid4().hex[:16]
        self._topic = f"onix-{self._token}"
        # By key; changed one atomic step at a time.
        self._sent: dict[str, _Sent] = {}
        # How many calls may have begun unheard on a lost worker, by its address. For the thread of `_settle` alone.
        self._unheard: dict[str, int] = {}
        self._ended: queue.SimpleQueue[_Sent | None] = queue.SimpleQueue()
        self._closed = False
        # Guards the choice of `_client`, `_cluster`, `_stream` and `_patience`. No call of ours is told under it.
        self._choosing = threading.Lock()
        self._client, self._cluster = connect()
        self._stream: Any = None  # to the scheduler that knows of us
        self._epoch = 0  # how often that changed
        self._refusal = ""  # why the scheduler can't have our plugin
        self._threads = 0  # of all workers, as the scheduler said last
        self._patience: threading.Timer | None = None
        threading.Thread(target=self._settle, name="onix-dask", daemon=True).start()
        self._introduce()

    @classmethod
    def of(cls, wanted: Any) -> Cluster:
        """The cluster that a setting names.

        Raises:
            ExecutorError: Nothing answers.
        """
        if isinstance(wanted, distributed.Client):
            return cls(lambda: (wanted, None), ours=False)
        if wanted == "dask":
            return cls(_local, ours=True)
        return cls(lambda: (_at(wanted.removeprefix("dask:")), None), ours=True)

    def submit(self, call: Call) -> None:
        """Submits the call as a task."""
        packed = pack_call(call, key=f"{call.name}{MARK}{self._token}-{call.id}-{call.attempt}")
        sent = _Sent(call, packed)
        call.handle = sent
        try:
            self._submit(sent)
        except Exception as error:
            raise ExecutorError(f"{sent} could not be sent: {error}") from error

    def _submit(self, sent: _Sent) -> None:
        key = sent.packed.key
        self._sent[key] = sent
        try:
            self._introduce()
            sent.epoch = self._epoch
            with _without_advice(sent.packed):
                sent.future = self._client.submit(
                    _perform, sent.packed, self._topic, VERSIONS, key=key, pure=False, retries=0, **sent.call.placement
                )
        except BaseException:
            self._sent.pop(key, None)
            raise
        # As `add_done_callback`, but on the client's loop, without a thread of Dask's own between: putting never waits.
        self._client.loop.add_callback(done_callback, sent.future, lambda _: self._ended.put(sent))
        if sent.call.cancelled:
            self.cancel(sent.call)

    def cancel(self, call: Call) -> None:
        """Takes it from the scheduler; a function that runs is made to stop."""
        sent: _Sent | None = call.handle
        if sent is not None and sent.future is not None:
            self._stop(sent.packed.key, sent.address, sent.future)

    def close(self) -> None:
        """Ends the connection, and the cluster, if they are ours."""
        if os.getpid() != self._owner:
            return
        self._closed = True
        self._ended.put(None)
        if self._ours:
            for part in (self._client, self._cluster):
                if part is not None:
                    with contextlib.suppress(Exception):  # it ended before us
                        part.close(timeout=2)
        self._fail_all("the connection to the cluster was closed")

    # The connection.

    def _introduce(self) -> None:
        """Makes the scheduler know of us: at first, and after it was lost and is back."""
        with self._choosing:
            if self._client.status not in ("running", "connecting"):
                if not self._ours or self._closed:
                    raise ExecutorError(f"the Dask client is {self._client.status}")
                self._client, self._cluster = self._connect()
            client = self._client
            self._threads = (client._scheduler_identity or {}).get("total_threads") or self._threads
            stream = client.scheduler_comm
            if self._refusal and stream is self._stream:
                raise ExecutorError(self._refusal)
            if stream is not None and stream is self._stream:
                return
            self._epoch += 1
            self._stream = stream  # None while it is away: what is sent then is kept for it
            if stream is None and self._patience is None:
                self._patience = threading.Timer(PATIENCE, self._give_up)
                self._patience.daemon = True
                self._patience.start()
        client.subscribe_topic(self._topic, self._hear)
        client.loop.add_callback(self._register, client)

    async def _register(self, client: Any) -> None:
        try:
            await client.register_plugin(Once())
            self._refusal = ""
        except (OSError, ValueError):  # it is lost again, or the client is closed
            pass
        except Exception as error:
            self._refusal = f"the scheduler can't run onix_nb: {error_text(error)}"
            self._fail_all(self._refusal)

    def _give_up(self) -> None:
        """The scheduler had its time to come back."""
        with self._choosing:
            self._patience = None
            back = self._client.status == "running"
        if not back:
            self._fail_all(f"the scheduler of {self._client!r} is gone")

    def _fail_all(self, why: str) -> None:
        while self._sent:
            with contextlib.suppress(KeyError):
                _, sent = self._sent.popitem()
                sent.call.fails(ExecutorError(f"{sent} was lost: {why}"))
                if sent.future is not None:
                    self._stop(sent.packed.key, None, sent.future)

    def _stop(self, key: str, address: str | None, future: Any = None) -> None:
        client = self._client

        async def stop() -> None:
            with contextlib.suppress(Exception):  # the client or the worker is gone
                if future is not None:
                    await client.cancel([future], asynchronous=True)
                if address is not None:
                    await client.run(worker.interrupt, key, workers=[address], on_error="ignore")

        client.loop.add_callback(stop)

    # What comes back.

    def _hear(self, event: tuple[float, Any]) -> None:
        """A worker tells something, before it tells the scheduler that the task has ended."""
        kind, key, address, *rest = event[1]
        sent = self._sent.get(key)
        if sent is None:
            if kind == "begins":  # nobody wants it any more
                self._stop(key, address)
        elif kind == "writes":
            sent.call.writes(*rest)
        else:
            sent.address = address
            if not sent.call.begins(f"worker {address}", *rest):
                self.cancel(sent.call)

    def _settle(self) -> None:
        """The thread that tells calls how they ended. What has ended meanwhile is fetched together."""
        while True:
            ended = [self._ended.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    ended.append(self._ended.get_nowait())
            wanted = {sent.packed.key: sent for sent in ended if sent is not None and sent.packed.key in self._sent}
            replies = self._fetch(
                {key: sent.future for key, sent in wanted.items() if sent.future.status == "finished"}
            )
            for key, sent in wanted.items():
                reply = replies.get(key)
                if reply is None:
                    self._lose(sent)
                elif self._sent.pop(key, None) is not None:
                    sent.future.release()
                    _end(sent.call, reply)
            del wanted, replies
            if None in ended:
                return
            del ended

    def _fetch(self, futures: dict[str, Any]) -> dict[str, Reply | None]:
        if not futures:
            return {}
        try:
            replies: dict[str, Reply | None] = self._client.gather(futures, errors="skip")
        except Exception:
            return {}
        return replies

    def _lose(self, sent: _Sent) -> None:
        """A task ended without a reply: its worker or its scheduler is gone, or it could not be read there."""
        error: Any = sent.future._state.exception
        try:
            where, threads, what = self._lost_with(sent, error)
            if self._may_have_begun(sent, where, threads):
                raise ExecutorError(what if sent.address else f"{what}; whether it had begun is not known")
            self._send_again(sent)
        except Exception as failure:
            if self._sent.pop(sent.packed.key, None) is not None:
                lost = ExecutorError(f"{sent} was lost: {failure}")
                lost.__cause__ = error
                sent.call.fails(lost)

    def _lost_with(self, sent: _Sent, error: Any) -> tuple[str, int, str]:
        """What was lost that had the call: its address, its threads, and how to say it."""
        if isinstance(error, distributed.KilledWorker):
            lost = error.last_worker
            return lost.address, lost.nthreads, f"its worker {lost.address} died"
        reason = getattr(error, "reason", None)
        if reason == LEFT:
            return "", 0, f"its worker {sent.address} left the cluster"
        if reason == "scheduler-connection-lost":
            self._introduce()
            return f"scheduler {sent.epoch}", self._threads, "its scheduler was lost"
        raise ExecutorError(error_text(error))

    def _may_have_begun(self, sent: _Sent, where: str, threads: int) -> bool:
        """Whether a call may have begun at a place that was lost.

        The word of its beginning may have been lost, too, or not yet sent: that of the worker's last milliseconds. As
        many calls may have begun unheard as it had threads that ran none which we heard of.
        """
        if where not in self._unheard:
            at = None if where.startswith("scheduler") else where
            self._unheard[where] = threads - sum(_runs(one, at) for one in list(self._sent.values()))
        if sent.address is not None:
            return True
        self._unheard[where] -= 1
        return self._unheard[where] >= 0

    def _send_again(self, sent: _Sent) -> None:
        if sent.call.cancelled or self._closed:
            raise ExecutorError("it had not begun")
        self._sent.pop(sent.packed.key, None)
        sent.resent += 1
        stem = sent.packed.key.partition("+")[0]
        sent.packed.key = f"{stem}+{sent.resent}"
        self._submit(sent)


def _runs(sent: _Sent, address: str | None) -> bool:
    """Whether a call is known to run at `address`; None for anywhere."""
    return sent.address is not None and address in (None, sent.address) and sent.future.status != "finished"


def _end(call: Call, reply: Reply) -> None:
    outcome = unpack_outcome(reply)
    if not call.ends(outcome):
        # What it printed came before, unless the scheduler was lost meanwhile: then that is lost, and nothing else.
        for _ in range(outcome.sent):
            if call.writes("stdout", ""):
                break


# Guards Dask's setting while something big is submitted: it is the whole process's.
_submitting_big: Final = threading.Lock()


@contextlib.contextmanager
def _without_advice(packed: Packed) -> Iterator[None]:
    """Dask warns of big arguments, and advises what users of onix can't do."""
    if not packed.body.buffers:
        yield
        return
    with _submitting_big, dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PB"}):
        yield


def _local() -> tuple[Any, Any]:
    workers = config.current.max_workers or os.cpu_count()
    cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    return _client_of(cluster), cluster


def _client_of(scheduler: Any) -> Any:
    try:
        return distributed.Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except AssertionError:  # Dask's own: the scheduler told all of its clients something before it welcomed this one
        return distributed.Client(scheduler, timeout=PATIENCE, set_as_default=False)


def _at(address: str) -> Any:
    """A client of the scheduler at `address`. Made on a thread: for what accepts and is silent Dask waits for ever."""
    made: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def make() -> None:
        try:
            client = _client_of(address)
        except BaseException as error:
            if made.set_running_or_notify_cancel():
                made.set_exception(error)
        else:
            if made.set_running_or_notify_cancel():
                made.set_result(client)
            else:
                client.close()

    threading.Thread(target=make, name="onix-dask-connect", daemon=True).start()
    try:
        return made.result(PATIENCE + 0.5)
    except Exception as error:
        if not made.cancel() and made.exception() is None:
            return made.result()  # just now
        raise ExecutorError(
            f"no Dask scheduler answers at {address} (tried for up to {PATIENCE} s): {error_text(error)}"
        ) from error


# What runs on the scheduler.


class Once(SchedulerPlugin):
    """Lets Dask run none of our tasks a second time: what is to become of them is the kernel's to decide."""

    name = "onix"
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        """The scheduler has us."""
        self._scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """A task changes its state."""
        if MARK not in str(key):
            return
        task = self._scheduler.tasks[key]
        if finish == "processing":
            # A worker that dies with it is the last one that may: the task fails with `KilledWorker`.
            task.suspicious = self._scheduler.allowed_failures
        elif finish == "memory":
            # A result that is lost is not computed again.
            task.run_spec = None
        elif start == "processing" and finish == "released" and task.who_wants:
            # Its worker leaves in good order, and another one would get it.
            client = next(iter(task.who_wants)).client_key
            self._scheduler.stimulus_cancel(keys=[key], client=client, force=True, reason=LEFT, msg="")
            self._scheduler.tasks.setdefault(key, task)  # the scheduler takes it out, after its plugins have seen it


# What runs on a worker.


class _Events:
    """A worker's way to tell the kernel."""

    def __init__(self, topic: str) -> None:
        self._worker = distributed.get_worker()
        self._topic = topic
        self.where = f"worker {self._worker.address}"

    def begins(self, key: str, started: float) -> None:
        """The call begins."""
        _begun().news.put((time.monotonic() + PACE, self, key, started))

    def runs(self, key: str, started: float) -> None:
        """The call began, and has not ended soon."""
        self._worker.log_event(self._topic, ("begins", key, self._worker.address, started))

    def writes(self, key: str, stream: str, text: str) -> None:
        """The call wrote `text`."""
        self._worker.log_event(self._topic, ("writes", key, self._worker.address, stream, text))


class _Begun:
    """Tells which calls run: those that take longer than the pace."""

    def __init__(self) -> None:
        self.news: queue.SimpleQueue[tuple[float, _Events, str, float]] = queue.SimpleQueue()
        threading.Thread(target=self._tell, name="onix-begun", daemon=True).start()

    def _tell(self) -> None:
        while True:
            due, events, key, started = self.news.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if worker.runs(key):
                with contextlib.suppress(Exception):  # the worker ends
                    events.runs(key, started)


_begun = functools.cache(_Begun)  # one of each process


def _perform(packed: Packed, topic: str, kernels: tuple[str, str]) -> Reply:
    events = _Events(topic)
    if tuple(kernels) != VERSIONS:
        raise ExecutorError(
            "{} has Python {} and onix_nb {}, this kernel {} and {}: they have to be the same".format(
                events.where, *VERSIONS, *kernels
            )
        )
    return worker.perform(packed, events)
