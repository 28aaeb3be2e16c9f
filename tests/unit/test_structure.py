"""The structure of the package: layers whose imports point down only, and a light door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import onix_nb

PACKAGE = Path(onix_nb.__file__).parent
# From the ground up; a layer may import itself and what is below it.
LAYERS = (
    "_version",
    "errors",
    "config",
    "model",
    "executors",
    "journal",
    "explore",
    "engine",
    "functions",
    "live",
    "notebook",
    "server",
    "",
)


def layer(module: str) -> int:
    """The floor of `onix_nb.<module>`; the door is on top."""
    return LAYERS.index(module.partition(".")[0])


def imports(module: str, source: str, is_package: bool) -> Iterable[str]:
    """What a module imports from the package, without its name; imports inside functions included."""
    here = module.split(".") if module else []
    folder = here if is_package else here[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            target = [*base, *(node.module.split(".") if node.module else [])]
            yield from [".".join(target)] if node.module else (".".join([*target, alias.name]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onix_nb"):
            yield (node.module or "").removeprefix("onix_nb").lstrip(".")
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("onix_nb").lstrip(".") for a in node.names if a.name.startswith("onix_nb"))


def modules() -> dict[str, list[str]]:
    """Every module of the package with what it imports from it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = list(imports(name, path.read_text(encoding="utf-8"), is_package))
    return found


def upward(found: dict[str, list[str]]) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, targets in found.items()
        for target in targets
        if layer(target) > layer(name)
    ]


def cycle(found: dict[str, list[str]]) -> list[str]:
    """The modules of a cycle, or none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done or name not in found:
            return []
        for target in found[name]:
            if circle := walk(target, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in found if (circle := walk(name, []))), [])


def test_imports_point_down() -> None:
    """No module imports from a floor above its own."""
    assert upward(modules()) == []


def test_no_imports_go_in_circles() -> None:
    """No module imports itself, also not through others."""
    assert cycle(modules()) == []


def test_an_upward_import_is_caught() -> None:
    """Control: planted imports are found, whichever way they are written."""
    for source in (
        "from ..engine import pool",
        "def f():\n    from ..engine.pool import Pool",
        "import onix_nb.engine.pool",
    ):
        planted = {**modules(), "model.run": list(imports("model.run", source, False))}
        assert upward(planted), source
    assert cycle({**modules(), "model.run": list(imports("model.run", "from .future import Future", False))})


# Of the package, what the page in Jupyter Server may know: it reads journals and starts nothing.
SERVER_MAY_IMPORT = {"_version", "errors", "journal", "journal.owner", "journal.rows", "live.html", "server"}


def allowed(target: str) -> bool:
    return target in SERVER_MAY_IMPORT or target.startswith("server.")


def too_much(found: dict[str, list[str]]) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, targets in found.items()
        for target in targets
        if name.startswith("server") and not allowed(target)
    ]


def test_the_server_only_reads() -> None:
    """The page in Jupyter Server imports what reads a journal, and the one place that makes markup."""
    assert too_much(modules()) == []


def test_a_server_that_writes_is_caught() -> None:
    """Control: an import of what writes journals, or runs flows, is found."""
    for source in "from ..journal.store import Journal", "from ..engine import session":
        assert too_much({**modules(), "server.page": list(imports("server.page", source, False))}), source


@pytest.mark.parametrize(
    "heavy",
    [
        "pandas",
        "numpy",
        "matplotlib",
        "anywidget",
        "IPython",
        "loky",
        "distributed",
        "ctypes",
        "sqlite3",
        "jupyter_server",
    ],
)
def test_the_import_is_light(heavy: str) -> None:
    """`import onix_nb`, starting and waiting load nothing that nobody asked for."""
    code = (
        "import sys, onix_nb as onix\n"
        "@onix.action\ndef one(): return 1\n"
        "onix.wait([one.start()])\n"
        f"sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
