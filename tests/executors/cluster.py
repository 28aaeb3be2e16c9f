"""A Dask cluster of processes of its own, which tests may kill."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# What `python -c` runs as `dask`: it ends when its stdin does, so that it outlives nobody who started it.
_DASK = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
from dask.__main__ import main
main()
"""


class DaskCluster:
    """`dask scheduler` and two `dask worker`, `a` and `b`, of one thread each, as processes on loopback."""

    PATIENCE = 30.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.executor = f"dask:{self.address}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts what does not run, and waits until it is there."""
        if not self._runs("scheduler"):
            self.close()  # its workers, which are about to end
            self._start("scheduler", "--port", self._port)
        for name in ("a", "b"):
            if not self._runs(name):
                self.start_worker(name, "--resources", f"{name}=1")
        self.await_workers("a", "b")

    def start_worker(self, name: str, *options: str) -> None:
        """Starts another worker."""
        self._start(
            name, self.address, "--name", name, "--nthreads", "1", "--no-nanny", "--local-directory",
            str(self._folder), "--memory-limit", "0", *options,
        )  # fmt: skip

    def _start(self, name: str, *arguments: str) -> None:
        command = "scheduler" if name == "scheduler" else "worker"
        with open(self._folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-c", _DASK, command, "--host", "127.0.0.1", "--no-dashboard", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _runs(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def _client(self) -> Any:
        import distributed

        try:
            return distributed.Client(self.address, timeout=self.PATIENCE, set_as_default=False)
        except AssertionError:  # Dask's own: somebody's tasks were cancelled while it came
            return distributed.Client(self.address, timeout=self.PATIENCE, set_as_default=False)

    def await_workers(self, *names: str) -> dict[str, str]:
        """The addresses of these workers, once they are there and nobody else."""
        deadline = time.monotonic() + self.PATIENCE
        with self._client() as client:
            while True:
                workers = client.scheduler_info(n_workers=-1)["workers"]
                found = {str(worker["name"]): address for address, worker in workers.items()}
                if set(found) == set(names):
                    return found
                assert time.monotonic() < deadline, f"workers {found} instead of {names}"
                time.sleep(0.02)

    def tasks_of(self, name: str) -> int:
        """How many tasks a worker has, by its own account."""
        address = self.await_workers("a", "b")[name]
        with self._client() as client:
            found: dict[str, int] = client.run(lambda dask_worker: len(dask_worker.state.tasks), workers=[address])
        return found[address]

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def kill(self, *names: str) -> None:
        """Kills processes, and waits for their end."""
        for name in names:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._processes[name].pid, signal.SIGKILL)
        for name in names:
            process = self._processes.pop(name)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def close(self) -> None:
        self.kill(*self._processes)
