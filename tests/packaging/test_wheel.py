"""What `pip install` of the wheel puts into a fresh virtual environment, as Jupyter there sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PLACES = {
    "share/jupyter/kernels/onix": "jupyter-config/kernels/onix",
    "share/jupyter/lab/settings/overrides.d/onix_nb.json": "jupyter-config/lab/onix_nb.json",
    "etc/jupyter/jupyter_server_config.d/onix_nb.json": "jupyter-config/server/onix_nb.json",
}

Run = Callable[..., str]


def run(*command: str, home: Path) -> str:
    """What a command prints, with nothing of this repository or user around it."""
    hidden = ("JUPYTER", "IPYTHON", "ONIX_", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    ended = subprocess.run(
        command,
        cwd=home,
        env={**environment, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, f"{command} failed\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a user who has nothing yet, and where the environment is."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def wheel(home: Path) -> Path:
    """The wheel of this repository, as pip builds it."""
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--quiet")
    run(*pip, "--wheel-dir", str(home / "dist"), str(REPOSITORY), home=home)
    (wheel,) = (home / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def prefix(home: Path) -> Path:
    """A fresh environment, without onix_nb.

    So that this is quick, the packages that it depends on are those of the environment that runs the tests, by their
    folder: what they have installed elsewhere, such as kernels and extensions, and what is installed there as
    editable, such as this repository, isn't there.
    """
    prefix = home / "venv"
    venv.create(prefix, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return prefix


@pytest.fixture(scope="module")
def python(prefix: Path, wheel: Path, home: Path) -> Run:
    """Runs the environment's Python, after the wheel was installed and what was there before was looked at."""

    def python(*arguments: str) -> str:
        return run(str(prefix / "bin" / "python"), *arguments, home=home)

    # The control: nothing of it is there yet, so that what is found later comes from the wheel.
    assert "onix" not in kernels(python)
    assert "onix_nb" not in extensions(python)
    assert lab_overrides(python, prefix) == {}
    pip = (sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"))
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel), home=home)
    return python


def kernels(python: Run) -> dict[str, dict[str, object]]:
    """`jupyter kernelspec list`, of that environment."""
    printed = python("-m", "jupyter_client.kernelspecapp", "list", "--json")
    found: dict[str, dict[str, object]] = json.loads(printed[printed.index("{") :])["kernelspecs"]
    return found


def extensions(python: Run) -> str:
    """`jupyter server extension list`, of that environment."""
    return python("-m", "jupyter_server.extension.serverextension", "list")


def lab_overrides(python: Run, prefix: Path) -> dict[str, object]:
    """The defaults of settings that JupyterLab's server hands out instead of its own."""
    code = (
        "import json, sys; from jupyterlab_server.settings_utils import _get_overrides\n"
        # By its prefix: where there is no such folder Lab takes that of the environment in which it is itself.
        "found, error = _get_overrides(sys.prefix + '/share/jupyter/lab/settings')\n"
        "print(json.dumps([found, str(error)]))"
    )
    found, error = json.loads(python("-c", code).splitlines()[-1])
    assert error == ""
    return dict(found)


def test_all_three_are_in_place(python: Run, prefix: Path) -> None:
    """Kernel, Lab's defaults and server entry are, byte for byte, those of the repository."""
    for place, source in PLACES.items():
        installed, own = prefix / place, REPOSITORY / source
        files = own.rglob("*") if own.is_dir() else [own]
        for file in files:
            assert (installed / file.relative_to(own)).read_bytes() == file.read_bytes(), place


def test_the_package_is_the_wheels(python: Run, prefix: Path) -> None:
    """With the templates of the page, and not this repository's folder."""
    code = "import onix_nb.server.page as page; print(page.__file__); print(sorted(p.name for p in page.TEMPLATES.iterdir()))"
    file, templates = python("-c", code).splitlines()
    assert Path(file).is_relative_to(prefix)
    assert templates == "['403.html', 'onix.html']"


def test_jupyter_lists_the_kernel(python: Run, prefix: Path) -> None:
    """With its logo in the sizes that Jupyter wants."""
    found = kernels(python)["onix"]
    spec = found["spec"]
    assert isinstance(spec, dict)
    assert spec["display_name"] == "Python (Onix)"
    folder = Path(str(found["resource_dir"]))
    assert folder == prefix / "share/jupyter/kernels/onix"
    for size in 32, 64:
        png = (folder / f"logo-{size}x{size}.png").read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (size, size)
    assert (folder / "logo-svg.svg").read_text().startswith("<svg")


def test_jupyter_lists_the_server_extension(python: Run) -> None:
    """Enabled, and it can be loaded."""
    listed = extensions(python)
    assert "onix_nb.server enabled" in plain(listed)
    assert "onix_nb.server" in plain(listed).partition("Validating")[2]
    assert "OK" in plain(listed)
    assert "X is" not in plain(listed)


def plain(text: str) -> str:
    """Without colours."""
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])


def test_lab_has_the_defaults_that_the_live_view_needs(python: Run, prefix: Path) -> None:
    """Comms over subshells, so that a click arrives while a cell blocks; nothing else is changed."""
    assert lab_overrides(python, prefix) == {
        "@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "perCommTarget"}
    }


def test_the_kernel_starts_with_onix(python: Run, prefix: Path) -> None:
    """On the Python of the environment, with magics and alias, and a flow runs."""
    code = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="onix")
def show(message):
    if message["msg_type"] == "stream":
        print(message["content"]["text"], end="")
    if message["msg_type"] == "error":
        print(*message["content"]["traceback"], sep="\\n")
try:
    client.execute_interactive('''
import onix, sys
@onix.action
def one(): return 1
print([onix.__name__, sys.prefix, one.start().result(), "onix_flow" in get_ipython().magics_manager.magics["cell"]])
''', timeout=60, output_hook=show)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""
    assert str(["onix_nb", str(prefix), 1, True]) in python("-c", code).splitlines()


def test_uninstalling_takes_all_of_it_away(python: Run, prefix: Path, home: Path) -> None:
    """No file stays; the last test, because the others need them."""
    pip = (sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"))
    run(*pip, "uninstall", "--yes", "--quiet", "onix_nb", home=home)
    assert [place for place in PLACES if (prefix / place).exists()] == []
    assert "onix_nb" not in extensions(python)
