"""Where CPython's own tests of futures are, and how they are made to test ours.

They come with a Python that was built from source, as `test.test_concurrent_futures`. Where they
were left out, Debian's package of them is fetched once, into `.cache/`. They are imported while
stand-ins for `concurrent.futures` are in `sys.modules`, so that what they import is ours, in
whichever way they spell it; the library itself stays as it is.
"""

from __future__ import annotations

import concurrent.futures.process
import concurrent.futures.thread
import importlib
import importlib.util
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import types
import unittest
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import onix_nb as onix

CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "cpython"

SUITE: Final = "test.test_concurrent_futures"
# Its tests of `asyncio.wrap_future` are about our futures; the others are about asyncio's.
ASYNCIO: Final = "test.test_asyncio.test_futures"
WRAPPING: Final = "*FutureTests.test_wrap_future*"

OURS: Final[Mapping[str, Any]] = {
    "Future": onix.Future,
    "wait": onix.wait,
    "as_completed": onix.as_completed,
    "ThreadPoolExecutor": onix.Executor,
}


class NoSuite(Exception):
    """CPython's tests can't be had here; the message says what was tried."""


# Where it is.


def locate() -> None:
    """Makes the suite importable.

    Raises:
        NoSuite: It is neither in this Python nor to be had from Debian.
    """
    if _is_importable():
        return
    tried = [f"{sys.executable} has no {SUITE}"]
    # The tests of the oldest Python that we support hold for the later ones, too.
    for version in dict.fromkeys(("{}.{}".format(*sys.version_info[:2]), "3.11")):
        try:
            _add(_fetched(version))
        except NoSuite as error:
            tried.append(str(error))
        else:
            if _is_importable():
                return
            tried.append(f"Debian's tests of {version} have none either")
    raise NoSuite("CPython's tests are nowhere: " + "; ".join(tried))


def _is_importable() -> bool:
    importlib.invalidate_caches()
    return all(map(_has, ("test.support", SUITE, ASYNCIO)))


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _add(folder: Path) -> None:
    """Lets the package `test` go on in `folder`. What this Python has of it comes first."""
    if _has("test.support"):
        importlib.import_module("test").__path__.append(str(folder / "test"))
    else:
        sys.path.append(str(folder))


def _fetched(version: str) -> Path:
    """A folder with the `test` of Debian's Python `version`, downloaded at the first call.

    Raises:
        NoSuite: Debian has none, or there is no apt here.
    """
    folder = CACHE / f"python{version}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    # `test.support` is in the package of the standard library, for a Python that lacks it as well.
    packages = [f"libpython{version}-testsuite", f"libpython{version}-stdlib"]
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        download = ["apt-get", "download", "-q", *packages]
        try:
            _run(download, name)
        except NoSuite as error:  # a fresh container has no lists of packages yet
            try:
                _run(["apt-get", "update", "-q"], name)
                _run(download, name)
            except NoSuite as again:
                raise NoSuite(f"{error}; {again}") from again
        for archive in Path(name).glob("*.deb"):
            _run(["dpkg", "-x", archive.name, "."], name)
        shutil.copytree(Path(name, "usr/lib", f"python{version}", "test"), Path(name, "out", "test"))
        try:
            Path(name, "out").rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    return folder


def _run(command: list[str], folder: str) -> None:
    shown = " ".join(command)
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSuite(f"`{shown}`: {error}") from error
    if ended.returncode:
        raise NoSuite(f"`{shown}`: {ended.stderr.strip()}")


# How it tests ours.


def load(**instead: Any) -> dict[str, type[unittest.TestCase]]:
    """The classes of CPython's tests, by name, testing ours.

    Each call imports the suite anew, with futures in it of its own.

    Args:
        instead: What to test instead of one of `OURS`, by its name there.

    Raises:
        NoSuite: The suite can't be had, or refuses to be imported.
    """
    locate()
    with _stand_ins({**OURS, **instead}):
        try:
            modules = [importlib.import_module(SUITE)]
            for part in pkgutil.iter_modules(getattr(modules[0], "__path__", ())):  # one file in 3.11
                modules.append(importlib.import_module(f"{SUITE}.{part.name}"))
            wrapping = importlib.import_module(ASYNCIO)
        except unittest.SkipTest as error:
            raise NoSuite(f"{SUITE} refuses to run here: {error}") from error
    for module in modules:
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = in_child(module.assert_python_ok)  # type: ignore[attr-defined]
    found = {name: case for module in modules for name, case in _cases(module)}
    for name, case in _cases(wrapping):
        only = without(case, [test for test in tests(case) if not fnmatchcase(f"{name}.{test}", WRAPPING)])
        if tests(only):
            found[name] = only
    return found


def tests(case: type[unittest.TestCase]) -> list[str]:
    """The names of the tests of a class."""
    return list(unittest.defaultTestLoader.getTestCaseNames(case))


def without(case: type[unittest.TestCase], left_out: list[str]) -> type[unittest.TestCase]:
    """A class like `case` that lacks the tests `left_out`."""
    return type(case.__name__, (case,), dict.fromkeys(left_out))


def in_child(run: Callable[..., Any]) -> Callable[..., Any]:
    """`assert_python_ok` for the suite's scripts: they find the suite, and ours in place of the stdlib's.

    They import ours where they would import the stdlib's, not before: the order of what is
    registered with `atexit` is part of what they test.
    """

    def assert_python_ok(option: str, source: str) -> Any:
        source, count = re.subn(r"from concurrent\.futures import (\w+)", r"from onix_nb import Executor as \1", source)
        assert count == 1, f"the script must import one executor from concurrent.futures: {source}"
        path = list(importlib.import_module("test").__path__)
        return run(
            option, f"import sys; sys.path[:] = {sys.path!r}; import test; test.__path__[:] = {path!r}\n{source}"
        )

    return assert_python_ok


def _cases(module: types.ModuleType) -> Iterator[tuple[str, type[unittest.TestCase]]]:
    for name, case in vars(module).items():
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and tests(case):
            yield name, case


@contextmanager
def _stand_ins(ours: Mapping[str, Any]) -> Iterator[None]:
    """While the suite is imported: `concurrent.futures` is one with `ours` in it.

    What is imported here for the first time keeps the stand-ins. So the suite is not left in
    `sys.modules`, and `test.support`, which is, comes before.
    """
    importlib.import_module("test.support.script_helper")
    futures = _like(concurrent.futures, **ours)
    stand_ins = {
        "concurrent": _like(concurrent, futures=futures),
        "concurrent.futures": futures,
        "concurrent.futures._base": _like(concurrent.futures._base, **ours),
    }
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("test.test_")}
    before |= {name: sys.modules[name] for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.startswith("test.test_")]:
            del sys.modules[name]
        sys.modules.update(before)


def _like(module: types.ModuleType, **changed: Any) -> types.ModuleType:
    copy = types.ModuleType(module.__name__)
    vars(copy).update({**vars(module), **changed})
    return copy
