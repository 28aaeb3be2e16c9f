"""A JupyterLab server of the tests' own: nothing of the user's configuration, data or history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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
        self._runtime = folder / "runtime"
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
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
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
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.url, self.token = self._address()

    def _address(self) -> tuple[str, str]:
        """Where it listens. Looks again and again: the file that it writes then is the only sign."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            for file in self._runtime.glob("jpserver-*.json"):
                if text := file.read_text(encoding="utf-8"):
                    told = json.loads(text)
                    return f"http://127.0.0.1:{told['port']}/", told["token"]
            time.sleep(0.05)
        self.stop()
        pytest.fail(f"JupyterLab does not listen; it wrote:\n{self._log.read_text()}", pytrace=False)

    def stop(self) -> None:
        """Ends the server, and with it its kernels."""
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
