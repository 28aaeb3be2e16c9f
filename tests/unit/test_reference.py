"""The reference: what `?` shows of every public name, and that each example in the package is true."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.engine.durable import close_journals
from onix_nb.engine.session import live

PACKAGE = Path(onix.__file__).parent

PUBLIC: dict[str, Any] = {
    **{name: getattr(onix, name) for name in onix.__all__},
    **{f"errors.{name}": getattr(onix.errors, name) for name in onix.errors.__all__},
}
# Public names that have no example, and why.
WITHOUT_EXAMPLE = {
    "ALL_COMPLETED": "a text has no docstring of its own: `wait` has the example",
    "FIRST_COMPLETED": "a text has no docstring of its own: `wait` has the example",
    "FIRST_EXCEPTION": "a text has no docstring of its own: `wait` has the example",
    "errors.JournalBusyError": "it takes a second kernel: `JournalError` has the example of the group",
    "errors.JournalValueError": "flows warn instead of raising it: `LostOutcomeWarning` has the example",
    "errors.JournalVersionError": "it takes an onix_nb to come: `JournalError` has the example of the group",
    "errors.RecordedError": "it takes a kernel that died",
}
# The classes whose objects users meet.
KINDS = {
    "Action",
    "Attempt",
    "Configured",
    "DoneAndNotDone",
    "Executor",
    "Flow",
    "Future",
    "Output",
    "RetryPolicy",
    "Run",
    "Runs",
    "Settings",
    "Span",
    "Summary",
}


# Examples


def examples(source: str, module: str, file: str = "<source>") -> list[doctest.DocTest]:
    """Each docstring of a module that has an example, whether of a public name or not."""
    found = []

    def look(node: ast.AST, name: str) -> None:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node) or ""
            line = 0 if isinstance(node, ast.Module) else node.lineno
            test = doctest.DocTestParser().get_doctest(text, {"__name__": "example"}, name, file, line)
            if test.examples:
                found.append(test)
        for child in ast.iter_child_nodes(node):
            look(child, f"{name}.{child.name}" if hasattr(child, "name") else name)

    look(ast.parse(source), module)
    return found


def package_examples() -> Iterator[doctest.DocTest]:
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        yield from examples(path.read_text(encoding="utf-8"), module.removesuffix(".__init__"), str(path))


def complaints(test: doctest.DocTest) -> str:
    """What is wrong with an example: what it printed instead, and failures that nobody looked at."""
    before, printed = live().unseen(), list[str]()
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=printed.append)
    printed += [f"nobody looked at the failure of {run.name}" for run in live().unseen() if run not in before]
    return "".join(printed)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, with warnings as in a notebook; what examples open there is closed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    with warnings.catch_warnings(), onix.configure(journal=None):
        warnings.simplefilter("always")
        yield tmp_path
    close_journals()
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.mark.parametrize("test", list(package_examples()), ids=lambda test: test.name)
@pytest.mark.usefixtures("place")
def test_an_example_is_true(test: doctest.DocTest) -> None:
    """It gives what it says, and leaves no failure that nobody looked at."""
    assert complaints(test) == ""


FALSE = {
    "another result": ">>> 1 + 1\n3",
    "an exception": ">>> 1 / 0\n1",
    "another exception": ">>> 1 / 0\nTraceback (most recent call last):\nKeyError: 0",
    "a print": ">>> print('done')",
    "a failure that nobody looked at": (
        ">>> import onix_nb as onix\n"
        ">>> def fails():\n...     raise LookupError\n"
        ">>> future = onix.action(fails).start()\n"
        ">>> len(onix.wait([future]).done)\n1"
    ),
}


@pytest.mark.parametrize("text", FALSE.values(), ids=FALSE.keys())
@pytest.mark.usefixtures("place")
def test_a_false_example_is_caught(text: str) -> None:
    """Control: in a method, behind a true one."""
    indented = "".join(f"        {line}\n" for line in (">>> 1 + 1", "2", *text.split("\n")))
    (test,) = examples(f'class C:\n    def method(self):\n        """What.\n\n{indented}        """\n', "module")
    assert test.name == "module.C.method"
    assert complaints(test)
    for future in onix.runs(status="failed").futures:
        future.exception()


# Who has one


def has_example(member: Any) -> bool:
    return ">>> " in (inspect.getdoc(member) or "")


def test_every_public_name_has_an_example() -> None:
    """But for the few that can't; those whose reason is gone are noticed, too."""
    assert {name for name, member in PUBLIC.items() if not has_example(member)} == WITHOUT_EXAMPLE.keys()
    assert has_example(onix)


@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.isupper()])
def test_every_public_name_has_a_docstring(name: str) -> None:
    """Its own, of which the first line is a sentence."""
    text = inspect.cleandoc(PUBLIC[name].__doc__ or "")
    assert text.split("\n")[0].endswith("."), text


@onix.action(retry=onix.RetryPolicy(initial_interval=0))
def tried(numbers: list[int]) -> Any:
    """Succeeds in its second attempt."""
    me = onix.current_run()
    assert me is not None
    if me.attempt == 1:
        raise ConnectionError
    return me


@onix.flow
def joins() -> Any:
    """What `tried` returns."""
    return tried(numbers=[1, 2])


def met(values: Iterable[Any]) -> dict[str, list[Any]]:
    """The objects of onix that one comes to from `values`, attribute by attribute, by the name of their class."""
    found: dict[str, list[Any]] = {}
    seen: dict[int, Any] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        if type(value).__module__.startswith("onix_nb"):
            found.setdefault(type(value).__name__, []).append(value)
            attributes = [name for name in public(value) if not is_method(static(value, name))]
            waiting += [getattr(value, name) for name in attributes]
    return found


def public(value: Any) -> list[str]:
    return [name for name in dir(value) if not name.startswith("_")]


def static(value: Any, name: str) -> Any:
    """What the class has under that name; None for what only the object has."""
    return inspect.getattr_static(type(value), name, None)


def is_method(member: Any) -> bool:
    return callable(member) or isinstance(member, classmethod)


def untold(value: Any, *texts: str) -> list[str]:
    """The public names of an object without a docstring, or that neither its class nor `texts` tells of."""
    told = "\n".join([inspect.getdoc(type(value)) or "", *texts])
    missing = []
    for name in public(value):
        member = static(value, name)
        own = is_method(member) or isinstance(member, property)
        if not (inspect.getdoc(member) if own else re.search(rf"\b{name}\b", told)):
            missing.append(name)
    return missing


@pytest.fixture
def objects() -> dict[str, list[Any]]:
    """Objects of each class that users meet."""
    with onix.configure() as settings, onix.Executor(max_workers=1) as executor:
        future = joins.start()
        attempt = future.result()
        attempt.run.keep_output("as a print does in a notebook")
        values = [future, attempt, onix.wait([future]), onix.runs(parent=future), settings, onix.configure()]
        return met([*values, executor, onix.RetryPolicy(), tried, joins])


def test_every_attribute_and_method_is_told(objects: dict[str, list[Any]]) -> None:
    """Of whatever one comes to from the public names; each class has an example."""
    assert objects.keys() == KINDS
    elsewhere = {"Settings": [inspect.getdoc(onix.configure) or ""]}
    for kind, values in objects.items():
        assert has_example(type(values[0])), kind
        assert not [name for value in values for name in untold(value, *elsewhere.get(kind, []))], kind


def test_what_is_not_told_is_caught() -> None:
    """Control: each way to have a public name."""

    class Base:
        """Has an attribute `told`."""

        __slots__ = ("__dict__", "slot", "told")

        def method(self) -> None: ...

        @property
        def computed(self) -> int:
            return 1

        @classmethod
        def of(cls) -> None: ...

        def documented(self) -> None:
            """What it does."""

    class Kind(Base):
        """Also `heard`."""

    value = Kind()
    value.told, value.heard, value.silent = 1, 2, 3  # type: ignore[attr-defined]
    assert untold(value) == ["computed", "method", "of", "silent", "slot", "told"]
    assert untold(value, inspect.getdoc(Base) or "") == ["computed", "method", "of", "silent", "slot"]
