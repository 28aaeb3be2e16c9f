"""A JupyterLab server of the tests' own: nothing of the user's configuration, data or history."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

# Seconds after which a server or a page that says nothing is a failure, not a slow machine.
PATIENCE = 30.0

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
    "completer-extension/manager": {"autoCompletion": False},
}


class LabServer:
    """JupyterLab on a free port, on the Python that runs the tests; its kernels, too."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "notebooks"
        self._log = folder / "server.log"
        settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab"
        for plugin, values in SETTINGS.items():
            file = settings / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values), encoding="utf-8")
        self.root.mkdir()
        own = {name: value for name, value in os.environ.items() if not name.startswith(("ONIX_", "JUPYTER"))}
        environment = {
            **own,
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        options = [
            "--no-browser",
            "--expose-app-in-browser",
            "--allow-root",
            "--ServerApp.port=0",
            f"--ServerApp.root_dir={self.root}",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.url, self.token = self._address()

    def _address(self) -> tuple[str, str]:
        """Where it listens, as it says in its log; the rest of that goes to a file."""
        assert self._process.stdout is not None
        told = ""
        too_late = threading.Timer(PATIENCE, self._process.terminate)
        too_late.start()
        for line in self._process.stdout:
            told += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/lab\?token=(\w+)", line):
                too_late.cancel()
                threading.Thread(target=self._keep, args=(told,), daemon=True).start()
                return f"http://127.0.0.1:{found[1]}/", found[2]
        too_late.cancel()
        self.stop()
        pytest.fail(f"JupyterLab does not listen; it wrote:\n{told}", pytrace=False)

    def _keep(self, told: str) -> None:
        """Writes the log: a full pipe would hold the server up."""
        assert self._process.stdout is not None
        with self._log.open("w", encoding="utf-8") as log:
            log.write(told)
            log.writelines(self._process.stdout)

    def stop(self) -> None:
        """Ends the server, and with it its kernels."""
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
