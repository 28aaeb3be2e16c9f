"""Actions on all cores: worker processes of loky.

Beside loky's queues each worker has a connection of its own to the kernel. On it the worker tells which call it runs,
and what that prints; the kernel tells which call has to stop. Its end tells each of them that the other is gone: a
worker whose kernel died ends.

loky fails every call when one worker dies. Those that had begun are lost; those that had not go to the next pool.
Which ones had begun, the dead have left in a file: short calls begin too often to tell the kernel of each in time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import mmap
import multiprocessing.resource_tracker
import os
import pickle
import signal
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener, wait
from typing import Any, Final

import loky
from loky.backend import resource_tracker

from .. import config
from ..errors import ExecutorError
from . import Call, worker
from .packing import Packed, Reply, pack_call, unpack_outcome
from .shared import Needed, OneWay, Shared

# Seconds after which workers that have nothing to do end: from one to two times so many. Loky would do that itself,
# but then each of its workers looks at a clock before each call, which takes as long as what we do for one.
IDLE_SECONDS: Final = 300.0

# Seconds for what a dead worker told last to be read.
LAST_WORDS: Final = 2.0

# Seconds between two of a worker's messages of which call it runs.
PACE: Final = 0.01

# So many of the calls that a worker began last are known after its death. Those before had been answered by then: so
# many answers do not fit into a pipe.
BEGUN: Final = 4096

# So many pools may die, one after the other, before any of their calls has begun.
STILLBORN: Final = 3


class _Sent:
    """A call that was handed to a pool."""

    __slots__ = ("call", "data", "future", "key", "needed", "pid", "pool")

    def __init__(self, call: Call, key: str, data: bytes, needed: Needed) -> None:
        self.call = call
        self.key = key
        self.data = data
        self.needed = needed
        self.future: concurrent.futures.Future[bytes]
        self.pool: _Pool
        self.pid: int | None = None  # of the worker that has begun it

    def __call__(self, _: object) -> None:
        """Its future has settled. The callback itself, as each object more is one that the garbage collector visits."""
        self.pool.ended(self)


class Processes:
    """Brings calls to worker processes, which are started with the first call."""

    name = "processes"

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._shared: Shared | None = None
        self._pool: _Pool | None = None
        self._retired: list[_Pool] = []  # take no more calls, and may not have ended
        self._closed = False
        self.stillborn = 0  # pools that died one after the other before a call had begun
        self._keys = itertools.count(1)
        self._cores = loky.cpu_count()
        # Guards the choice of `_pool` and `_shared`. No call of ours or of loky's is made on a call's account under it.
        self._choosing = threading.Lock()
        _processes.add(self)

    def submit(self, call: Call) -> None:
        """Packs the call, and hands it to the pool."""
        needed = Needed(self._shared or self._files())
        try:
            key = str(next(self._keys))
            # Pickled here, as loky's own pickler is slow with classes.
            data = pickle.dumps(pack_call(call, needed, key), 5)
            self._send(_Sent(call, key, data, needed))
        except BaseException:
            needed.release()
            raise

    def cancel(self, call: Call) -> None:
        """Takes it out of the queue, or makes its function stop."""
        sent: _Sent | None = call.handle
        if sent is not None and not sent.future.cancel():
            sent.pool.interrupt(sent)

    def close(self) -> None:
        """Kills the workers."""
        if os.getpid() != self._owner:
            return
        self._closed = True
        with self._choosing:
            pools = [*self._retired, *([self._pool] if self._pool else [])]
            self._pool, self._retired = None, []
            shared, self._shared = self._shared, None
        for pool in pools:
            pool.kill()
        if shared is not None:
            shared.close()
            with contextlib.suppress(Exception):
                resource_tracker.unregister(shared.folder, "folder")

    def _files(self) -> Shared:
        with self._choosing:
            if self._shared is None:
                self._shared = Shared()
                resource_tracker.register(self._shared.folder, "folder")  # which removes it if we are killed
                # The standard library's starts with the first worker otherwise, and in many releases of Python leaves
                # SIGINT unblocked then, which `_undisturbed` has blocked.
                multiprocessing.resource_tracker.ensure_running()
            return self._shared

    def _current(self) -> _Pool:
        """The pool for the next call: a new one after a worker died, or after `configure(max_workers=...)`."""
        workers = config.current.max_workers or self._cores
        pool = self._pool
        if pool is not None and not pool.broken and pool.workers == workers:
            return pool
        if self._closed:
            raise ExecutorError("the worker processes were ended")
        folder = self._files().folder
        with self._choosing:
            before = self._pool
            if before is None or before.broken or before.workers != workers:
                self._pool = _Pool(self, workers, folder)
                if before is not None:
                    self._retire(before)
            assert self._pool is not None
            return self._pool

    def _retire(self, pool: _Pool) -> None:
        self._retired = [one for one in self._retired if not one.broken]
        if not pool.broken:
            pool.retire()
            self._retired.append(pool)

    def rest(self, pool: _Pool) -> None:
        """A pool has had nothing to do for a while: its workers end, and the next call starts others."""
        with self._choosing:
            if self._pool is pool:
                self._pool = None
                self._retire(pool)

    def _send(self, sent: _Sent) -> None:
        for _ in range(3):
            pool = self._current()
            try:
                pool.submit(sent)
                return
            except loky.process_executor.BrokenProcessPool:  # a worker died just now
                pool.give_up()
            except loky.process_executor.ShutdownExecutorError:  # it was retired just now
                continue
        raise ExecutorError(f"no worker process stays alive for action {sent.call.name}() (run {sent.call.id})")

    def mourn(self, lost: list[_Sent], reason: str, culprits: dict[int, int]) -> None:
        """A pool died: what had begun is lost, the rest goes to the next pool."""
        for sent in lost:
            call = sent.call
            what = f"action {call.name}() (run {call.id}, attempt {call.attempt})"
            if sent.pid is not None:
                sent.needed.release()
                call.fails(ExecutorError(f"{what} was lost: {_death(sent.pid, culprits)}"))
            elif self.stillborn >= STILLBORN or self._closed or call.cancelled:
                sent.needed.release()
                call.fails(ExecutorError(f"{what} did not begin: the worker processes die at their start; {reason}"))
            else:
                try:
                    self._send(sent)
                except Exception as error:
                    sent.needed.release()
                    call.fails(error if isinstance(error, ExecutorError) else ExecutorError(f"{what}: {error}"))


def _death(pid: int, culprits: dict[int, int]) -> str:
    if pid in culprits or not culprits:
        return f"its worker, process {pid}, died{_exit(culprits.get(pid))}"
    first = next(iter(culprits))
    return f"its worker, process {pid}, was ended because another one, process {first}, died{_exit(culprits[first])}"


def _exit(code: int | None) -> str:
    if code is None:
        return ""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f" of {signal.Signals(-code).name} (exit code {code})"
    return f" with exit code {code}"


class _Pool:
    """One pool of loky, from its first call to its end."""

    def __init__(self, owner: Processes, workers: int, folder: str) -> None:
        self.workers = workers
        self.broken = False
        self._calls = 0  # that have been handed to it
        self._retired = threading.Event()  # takes no more
        self._lived = False  # one has begun
        self._owner = owner
        self._folder = folder
        secret = os.urandom(32)
        self._listener = Listener(os.path.join(folder, f"kernel-{id(self)}"), "AF_UNIX", 64, secret)
        self._address = self._listener.address
        self._executor = loky.ProcessPoolExecutor(
            workers,
            initializer=_begin_worker,
            initargs=(self._address, secret, folder),
        )
        # Changed one atomic step at a time: calls by their key, and the connection to each worker by its pid.
        self._sent: dict[str, _Sent] = {}
        self._connections: dict[int, Connection[Any, Any]] = {}
        self._readers: list[threading.Thread] = []
        # Guards what follows.
        self._dying = threading.Lock()
        self._lost: list[_Sent] | None = None
        self._buried = False
        self._workers: dict[int, Any] = {}  # of loky, when the first had died
        self._culprits: dict[int, int] = {}  # those that were dead then, with their exit codes
        threading.Thread(target=self._accept, name="onix-workers", daemon=True).start()
        threading.Thread(target=self._tire, name="onix-idle-workers", daemon=True).start()

    def submit(self, sent: _Sent) -> None:
        """Hands a call to loky."""
        sent.pool, sent.pid = self, None
        self._sent[sent.key] = sent
        try:
            # When all workers are there, none is started.
            with _undisturbed() if len(self._connections) < self.workers else contextlib.nullcontext():
                sent.future = self._executor.submit(_perform, sent.data)
        except BaseException:
            self._sent.pop(sent.key, None)
            raise
        sent.call.handle = sent
        first = not self._calls
        self._calls += 1
        if first:
            # At exit loky waits for its workers, however long they run: ours are ended before it does. It registers
            # that with the first call of each pool, in the way of concurrent.futures, and the last one comes first.
            threading._register_atexit(_end_all)  # type: ignore[attr-defined]
        sent.future.add_done_callback(sent)
        if sent.call.cancelled:
            self._owner.cancel(sent.call)

    def interrupt(self, sent: _Sent) -> None:
        """Asks the worker that runs the call to stop it; or all of them not to begin it."""
        for pid, connection in list(self._connections.items()):
            if sent.pid is None or sent.pid == pid:
                with contextlib.suppress(OSError, ValueError):  # it is gone
                    connection.send_bytes(sent.key.encode())

    def retire(self) -> None:
        """Takes no more calls; its workers end when the last one has."""
        self._retired.set()
        self._executor.shutdown(wait=False)

    def give_up(self) -> None:
        """Notes that its workers are no more, or will soon be."""
        self.broken = True
        self._retired.set()

    def kill(self) -> None:
        """Ends the workers at once."""
        self.give_up()
        manager = getattr(self._executor, "_executor_manager_thread", None)
        with contextlib.suppress(Exception):  # it is broken already
            self._executor.shutdown(wait=False, kill_workers=True)
        if manager is not None:  # what it gives back is complained of if the interpreter ends before
            with contextlib.suppress(RuntimeError):  # it is that thread which calls
                manager.join(LAST_WORDS)
        self._stop_listening()

    def _stop_listening(self) -> None:
        """Lets the thread that waits for workers see that there will be none."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.connect(self._address)
        with contextlib.suppress(OSError):
            self._listener.close()

    def _tire(self) -> None:
        """Lets the workers rest when there was nothing to do from one look to the next."""
        calls = 0
        while not self._retired.wait(IDLE_SECONDS):
            if self._calls == calls and not self._sent:
                self._owner.rest(self)
                return
            calls = self._calls

    # What comes back.

    def ended(self, sent: _Sent) -> None:
        """The future of a call has settled; on loky's thread."""
        try:
            reply: Reply = pickle.loads(sent.future.result())
        except concurrent.futures.CancelledError:
            self._sent.pop(sent.key, None)
            sent.needed.release()
            sent.call.fails(ExecutorError("it was cancelled"))
        except BaseException as error:
            self._lose(sent, error)
        else:
            sent.needed.release()
            self._lived = True
            if sent.call.ends(unpack_outcome(reply)):
                self._sent.pop(sent.key, None)

    def _lose(self, sent: _Sent, error: BaseException) -> None:
        """A worker died. What had begun is known when all of them have ended, which is after loky has told us."""
        self.give_up()
        with self._dying:
            first = self._lost is None
            if first:
                self._lost = []
                self._workers = dict(getattr(self._executor, "_processes", {}))
                self._culprits = {pid: one.exitcode for pid, one in self._workers.items() if one.exitcode is not None}
            assert self._lost is not None
            self._lost.append(sent)
            late = self._buried
        if first or late:
            burying = threading.Thread(target=self._bury, args=(str(error),), name="onix-lost-workers", daemon=True)
            with contextlib.suppress(RuntimeError):  # the kernel ends
                burying.start()

    def _bury(self, reason: str) -> None:
        """Finds out what the dead had begun, and has it told."""
        deadline = time.monotonic() + LAST_WORDS
        for one in self._workers.values():  # loky kills those that live
            wait([one.sentinel], max(0.0, deadline - time.monotonic()))
        for reader in list(self._readers):
            reader.join(max(0.0, deadline - time.monotonic()))
        for pid in self._workers:
            for key in _Begun.last_words(self._folder, pid):
                self._lived = True
                if (sent := self._sent.get(key)) is not None:
                    sent.pid = pid
        with self._dying:
            if not self._buried:
                self._buried = True
                self._owner.stillborn = 0 if self._lived else self._owner.stillborn + 1
            lost, self._lost = self._lost or [], []
        self._stop_listening()
        for sent in lost:
            self._sent.pop(sent.key, None)
        self._owner.mourn(lost, reason, self._culprits)

    # The connections.

    def _accept(self) -> None:
        while not self.broken:
            try:
                connection = self._listener.accept()
            except OSError:
                if self.broken:
                    return
                continue
            except Exception:  # a worker that died just then, or somebody without the key
                continue
            reader = threading.Thread(target=self._read, args=(connection,), name="onix-worker", daemon=True)
            self._readers.append(reader)
            try:
                reader.start()
            except RuntimeError:  # no thread starts any more: the kernel ends
                connection.close()
                return

    def _read(self, connection: Connection[Any, Any]) -> None:
        """Hears a worker to its end."""
        pid = 0
        try:
            pid, host = json.loads(connection.recv_bytes())
            self._connections[pid] = connection
            for sent in list(self._sent.values()):
                if sent.call.cancelled:  # before it could be told
                    connection.send_bytes(sent.key.encode())
            while True:
                self._hear(pid, host, json.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            pass
        finally:
            self._connections.pop(pid, None)
            connection.close()
            if self._retired.is_set() and not self._connections:
                self.give_up()
                self._stop_listening()

    def _hear(self, pid: int, host: str, message: list[Any]) -> None:
        kind, key, *rest = message
        sent = self._sent.get(key)
        if sent is None:
            return
        if kind == "writes":
            if sent.call.writes(*rest):
                self._sent.pop(key, None)
            return
        sent.pid = pid
        if not sent.call.begins(f"pid {pid} on {host}", *rest):
            self.interrupt(sent)


# What runs in a worker.


class _Begun:
    """The calls that a worker has begun last, in a file that outlives it."""

    def __init__(self, folder: str) -> None:
        with open(self._path(folder, os.getpid()), "xb+") as file:
            file.truncate(8 * BEGUN)
            self._keys = memoryview(mmap.mmap(file.fileno(), 8 * BEGUN)).cast("Q")
        self._places = itertools.cycle(range(BEGUN))

    def note(self, key: str) -> None:
        """The call begins now."""
        self._keys[next(self._places)] = int(key)

    @classmethod
    def last_words(cls, folder: str, pid: int) -> list[str]:
        """What a worker that is no more had begun; its file goes."""
        path = cls._path(folder, pid)
        try:
            with open(path, "rb") as file:
                keys = memoryview(file.read()).cast("Q")
            os.unlink(path)
        except OSError:  # it never came so far, or the folder is gone
            return []
        return [str(key) for key in keys if key]

    @staticmethod
    def _path(folder: str, pid: int) -> str:
        return os.path.join(folder, f"begun-{pid}")


class _Kernel:
    """A worker's connection to its kernel."""

    def __init__(self, address: str, key: bytes, folder: str) -> None:
        self.where = f"pid {os.getpid()} on {socket.gethostname()}"
        self._begun = _Begun(folder)
        self._latest: tuple[str, float] = "", 0.0
        self._begins = threading.Event()  # there is a `_latest` that was not told
        self._connection = Client(address, "AF_UNIX", key)
        # Guards the sending: one message at a time.
        self._sending = threading.Lock()
        self._tell(os.getpid(), socket.gethostname())
        threading.Thread(target=self._obey, name="onix-kernel", daemon=True).start()
        threading.Thread(target=self._tell_begun, name="onix-begun", daemon=True).start()

    def begins(self, key: str, started: float) -> None:
        """The call begins."""
        self._begun.note(key)
        self._latest = key, started
        if not self._begins.is_set():
            self._begins.set()

    def writes(self, key: str, stream: str, text: str) -> None:
        """The call wrote `text`."""
        self._tell("writes", key, stream, text)

    def _tell(self, *message: Any) -> None:
        data = json.dumps(message).encode()
        with self._sending, contextlib.suppress(OSError):  # the kernel is gone, and we shall be
            self._connection.send_bytes(data)

    def _tell_begun(self) -> None:
        """Tells which call runs: each that takes longer than the pace, and few of the others."""
        while True:
            self._begins.wait()
            self._begins.clear()
            self._tell("begins", *self._latest)
            time.sleep(PACE)

    def _obey(self) -> None:
        """Stops what the kernel says; ends with the kernel."""
        try:
            while True:
                worker.interrupt(self._connection.recv_bytes().decode())
        except (EOFError, OSError):
            os._exit(1)


_kernel: _Kernel | None = None
_results: OneWay | None = None


def _begin_worker(address: str, key: bytes, folder: str) -> None:
    """The first thing that a worker does."""
    global _kernel, _results
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.watch_streams()
    try:
        _kernel = _Kernel(address, key, folder)
    except (
        FileNotFoundError,
        ConnectionError,
        EOFError,
    ):  # the kernel has ended meanwhile, and nobody is to hear of it
        os._exit(1)
    _results = OneWay(folder)


def _perform(data: bytes) -> bytes:
    packed: Packed = pickle.loads(data)
    return pickle.dumps(worker.perform(packed, _kernel, _results), 5)


# The beginning and the end.


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Workers that start here have SIGINT blocked until they ignore it: Stop goes to the whole process group."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_processes: weakref.WeakSet[Processes] = weakref.WeakSet()


def _end_all() -> None:
    for processes in list(_processes):
        processes.close()
