"""Runs the tests that need no browser on the other Pythons that are installed, at the same time.

`make test` calls it. Each Python gets an environment of its own, `.venv-3.12` and so on, made
anew when `pyproject.toml` has changed. Exits non-zero if one of them fails, or finds no test. A
version that is not installed is told, and does not fail: the machine has what it has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The versions, with what is installed besides: the oldest line of pandas has its turn, too.
VERSIONS = {"3.12": ["pandas<3"], "3.13": []}
SUITE = ["tests/spec", "tests/unit"]


def runs(python: str, version: str) -> bool:
    """Whether `python` really is that version: a shim on the PATH may be empty."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == version


def interpreter(version: str) -> str | None:
    """Where Python `version` is: on the PATH, or among those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"{version}*/bin/python")))]
    return next((python for python in candidates if python and runs(python, version)), None)


def environment(python: str, version: str) -> str:
    """The interpreter of an environment for `version` with the package in it."""
    folder = ROOT / f".venv-{version}"
    stamp, inside = folder / ".installed", folder / "bin" / "python"
    project = ROOT / "pyproject.toml"
    if not stamp.exists() or stamp.stat().st_mtime < project.stat().st_mtime:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--editable", f"{ROOT}[test]", *VERSIONS[version]], check=True)
        stamp.touch()
    return str(inside)


def passes(python: str, version: str) -> bool:
    """Whether the suite passes on that interpreter; prints what pytest says when it has ended."""
    told = f"Python {version}: {python} runs {' '.join(SUITE)}\n"
    try:
        command = [environment(python, version), "-m", "pytest", "-q", "-m", "not deep", *SUITE]
    except subprocess.CalledProcessError as error:
        print(f"{told}no environment: {error}", flush=True)
        return False
    suite = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(told + suite.stdout, flush=True)
    # Exit code 5, no test was found, is a failure: there are tests.
    return suite.returncode == 0


def main() -> int:
    """Runs the suite on all of them at the same time; the number of those on which it failed."""
    found = {}
    for version in VERSIONS:
        if version == "{}.{}".format(*sys.version_info[:2]):
            continue
        python = interpreter(version)
        if python is None:
            print(f"Python {version}: not installed", flush=True)
        else:
            found[python] = version
    with ThreadPoolExecutor() as pool:
        return list(pool.map(passes, found, found.values())).count(False)


if __name__ == "__main__":
    sys.exit(main())
