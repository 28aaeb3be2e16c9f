"""Runs the tests on each Python that is installed, two at the same time.

`make test` calls it. The Python that runs this runs all tests but those that look at pages of a
browser or measure, which want the machine for themselves; the others run those of behaviour, each
in an environment of its own, `.venv-3.12` and so on, made anew when `pyproject.toml` has changed.
Exits non-zero if one of them fails, or finds no test. A version that is not installed is told,
and does not fail: the machine has what it has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The other versions, with what is installed besides: the oldest line of pandas has its turn, too.
OTHERS = {"3.12": ["pandas<3"], "3.13": []}
SUITE = ["tests/spec", "tests/unit"]
OWN_SUITE = ["tests", "--ignore=tests/browser", "--ignore=tests/benchmarks"]
OWN = "{}.{}".format(*sys.version_info[:2])
AT_A_TIME = 2


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
        subprocess.run([*install, "--editable", f"{ROOT}[test]", *OTHERS[version]], check=True)
        stamp.touch()
    return str(inside)


def passes(version: str) -> bool:
    """Whether the tests pass on that version, if it is there; prints what pytest says when it has ended."""
    python = sys.executable if version == OWN else interpreter(version)
    if python is None:
        print(f"Python {version}: not installed", flush=True)
        return True
    told = f"Python {version}: {python}\n"
    try:
        inside, suite = (python, OWN_SUITE) if version == OWN else (environment(python, version), SUITE)
    except subprocess.CalledProcessError as error:
        print(f"{told}no environment: {error}", flush=True)
        return False
    command = [inside, "-m", "pytest", "-m", "not deep", *suite]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(told + ended.stdout, flush=True)
    # Exit code 5, no test was found, is a failure: there are tests.
    return ended.returncode == 0


def main() -> int:
    """Runs the tests; the number of versions on which they failed."""
    versions = [OWN, *(version for version in OTHERS if version != OWN)]  # the longest first
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(passes, versions)).count(False)


if __name__ == "__main__":
    sys.exit(main())
