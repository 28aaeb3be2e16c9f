"""Servers of the tests' own: nothing of the user's configuration, data or history."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import psutil  # of ipykernel
import pytest

REPOSITORY = Path(__file__).parents[2]

# Seconds after which a server or a page that says nothing is a failure, not a slow machine.
PATIENCE = 30.0

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
    "completer-extension/manager": {"autoCompletion": False},
}


class JupyterServer:
    """A server on a free port, on the Python that runs the tests; its kernels, too.

    Attributes:
        folder: Where it keeps everything.
        root: What it serves; may be a link.
        url: Of its base, with a slash at the end.
    """

    MODULE = "jupyter_server"
    OPTIONS: Sequence[str] = ()

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.root = folder / "notebooks"
        self._log = folder / "server.log"
        self.root.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-m", self.MODULE, "--no-browser", "--allow-root", "--ServerApp.port=0"),
                *(f"--ServerApp.root_dir={self.root}", *self.OPTIONS, *options),
            ],
            env=environment(folder),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.url, self.token = self._address()
        self._listens()

    def _listens(self) -> None:
        """Waits until somebody listens at the address: it is told a moment before."""
        address = urllib.parse.urlsplit(self.url)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection((address.hostname, address.port), PATIENCE).close()
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)  # between two looks; nobody tells

    def _address(self) -> tuple[str, str]:
        """Where it listens, as it says in its log; the rest of that goes to a file."""
        assert self._process.stdout is not None
        told = ""
        too_late = threading.Timer(PATIENCE, self._process.terminate)
        too_late.start()
        for line in self._process.stdout:
            told += line
            if found := re.search(r"(http://127\.0\.0\.1:\d+/(?:\S+/)?)\w*\?token=(\w+)", line):
                too_late.cancel()
                threading.Thread(target=self._keep, args=(told,), daemon=True).start()
                return found[1], found[2]
        too_late.cancel()
        self.stop()
        pytest.fail(f"the server does not listen; it wrote:\n{told}", pytrace=False)

    def _keep(self, told: str) -> None:
        """Writes the log: a full pipe would hold the server up."""
        assert self._process.stdout is not None
        with self._log.open("w", encoding="utf-8") as log:
            log.write(told)
            log.writelines(self._process.stdout)

    def worked(self) -> float:
        """Seconds of processor time that it has used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """Ends the server, and with it its kernels."""
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class LabServer(JupyterServer):
    """JupyterLab."""

    MODULE = "jupyterlab"
    OPTIONS = (
        "--expose-app-in-browser",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    )

    def __init__(self, folder: Path) -> None:
        settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab"
        for plugin, values in SETTINGS.items():
            file = settings / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values), encoding="utf-8")
        super().__init__(folder)


class PageServer(JupyterServer):
    """A server with the page of durable flows."""

    def __init__(self, folder: Path, *options: str) -> None:
        entry = folder / "config" / "jupyter_server_config.d" / "onix_nb.json"
        entry.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "jupyter-config" / "server" / "onix_nb.json", entry)
        super().__init__(folder, *options)


def environment(folder: Path) -> dict[str, str]:
    """This process's environment, with Jupyter's folders below `folder`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("ONIX_", "JUPYTER"))}
    return {
        **own,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
