"""`onix.configure`: every setting, its limits, its scope, and its environment variable."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30
DEFAULTS = {
    "strict": True,
    "leaks": "warn",
    "executor": "threads",
    "max_workers": None,
    "max_flows": None,
    "on_rerun": "attach",
    "nested_asyncio": False,
    "journal": None,
}

OTHERS: list[tuple[str, Any]] = [
    ("strict", False),
    ("leaks", "error"),
    ("leaks", "cancel"),
    ("leaks", "ignore"),
    ("executor", "threads"),
    ("max_workers", 3),
    ("max_workers", None),
    ("max_flows", 3),
    ("max_flows", None),
    ("on_rerun", "restart"),
    ("on_rerun", "parallel"),
    ("nested_asyncio", True),
    ("journal", "/tmp/journal.sqlite"),
]


def setting(name: str) -> Any:
    """The setting in force; `configure()` without arguments changes nothing."""
    with onix.configure() as settings:
        return getattr(settings, name)


@pytest.mark.parametrize(("name", "value"), DEFAULTS.items())
def test_the_defaults_are_those_of_the_documentation(name: str, value: Any) -> None:
    """Strict, warning of leaks, on threads, without a limit of flows."""
    assert setting(name) == value


def test_every_setting_is_a_keyword_only_argument() -> None:
    """And `configure` has no others."""
    parameters = inspect.signature(onix.configure).parameters
    assert list(parameters) == list(DEFAULTS)
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError, match="positional"):
        onix.configure(False)  # type: ignore[misc]


def test_an_unknown_setting_is_refused() -> None:
    """A misspelt name is a TypeError that names it."""
    with pytest.raises(TypeError, match="max_worker"):
        onix.configure(max_worker=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_a_setting_is_in_force_inside_its_block_only(name: str, value: Any) -> None:
    """As a context manager it takes back what it changed."""
    with onix.configure(**{name: value}) as settings:
        assert getattr(settings, name) == value
        assert setting(name) == value
    assert setting(name) == DEFAULTS[name]


def test_a_setting_without_a_block_stays() -> None:
    """The change is in force at once, before and without `with`."""
    changed = onix.configure(max_flows=7)
    assert setting("max_flows") == 7
    with changed:
        pass
    assert setting("max_flows") is None


def test_a_block_takes_its_change_back_when_it_raises() -> None:
    """The exception passes."""
    with pytest.raises(KeyError), onix.configure(strict=False):
        raise KeyError
    assert setting("strict") is True


def test_blocks_nest() -> None:
    """Each gives back what it found."""
    with onix.configure(max_workers=2):
        with onix.configure(max_workers=3):
            with onix.configure(max_workers=None):
                assert setting("max_workers") is None
            assert setting("max_workers") == 3
        assert setting("max_workers") == 2
    assert setting("max_workers") is None


def test_a_block_leaves_the_settings_alone_that_it_did_not_change() -> None:
    """What is configured inside of it, by another setting, stays."""
    try:
        with onix.configure(max_workers=2):
            onix.configure(leaks="ignore")
        assert setting("leaks") == "ignore"
        assert setting("max_workers") is None
    finally:
        onix.configure(leaks="warn")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("strict", 1, TypeError),
        ("strict", None, TypeError),
        ("strict", "yes", TypeError),
        ("leaks", "warning", ValueError),
        ("leaks", None, ValueError),
        ("executor", "cluster", ValueError),
        ("executor", 3, TypeError),
        ("max_workers", 0, ValueError),
        ("max_workers", -1, ValueError),
        ("max_workers", 1.5, TypeError),
        ("max_workers", "2", TypeError),
        ("max_workers", True, TypeError),
        ("max_flows", 0, ValueError),
        ("max_flows", True, TypeError),
        ("on_rerun", "sideways", ValueError),
        ("on_rerun", None, ValueError),
        ("journal", 3, TypeError),
        ("journal", b"journal", TypeError),
        ("journal", "", ValueError),
        ("nested_asyncio", 1, TypeError),
        ("nested_asyncio", "yes", TypeError),
        ("max_flows", [], TypeError),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: Any, error: type[Exception]) -> None:
    """The message names the setting and shows the value."""
    with pytest.raises(error, match=rf"{name}.*{value!r}".replace("[", r"\[").replace("]", r"\]")):
        onix.configure(**{name: value})
    assert setting(name) == DEFAULTS[name]


def test_one_bad_value_changes_nothing() -> None:
    """Settings of one call are taken together, or not at all."""
    with pytest.raises(ValueError, match="max_flows"):
        onix.configure(max_workers=2, max_flows=0)
    assert setting("max_workers") is None


def test_settings_are_those_of_the_process() -> None:
    """Work that runs in the background sees a change at once."""
    changed, seen = threading.Event(), []

    @onix.action
    def look() -> None:
        assert changed.wait(WAIT)
        seen.append(setting("max_flows"))

    future = look.start()
    with onix.configure(max_flows=5):
        changed.set()
        future.result(WAIT)
    assert seen == [5]


def test_settings_show_themselves() -> None:
    """The repr of what `configure` returns names each setting with its value."""
    shown = repr(onix.configure())
    for name, value in DEFAULTS.items():
        assert f"{name}={value!r}" in shown


def test_settings_cannot_be_changed_behind_its_back() -> None:
    """The settings that a block gives are frozen."""
    with onix.configure() as settings, pytest.raises(AttributeError):
        settings.strict = False  # type: ignore[misc]


def test_max_workers_limits_the_actions_that_run_at_once() -> None:
    """A higher limit starts waiting actions at once; a lower one holds from the next action on."""
    begun, let_go = threading.Semaphore(0), threading.Event()

    @onix.action
    def hold() -> None:
        begun.release()
        assert let_go.wait(WAIT)

    with onix.configure(max_workers=1):
        futures = [hold.start() for _ in range(4)]
        assert begun.acquire(timeout=WAIT)
        assert [future.run.status for future in futures if future.run] == ["running"] + ["pending"] * 3
        onix.configure(max_workers=3)
        assert all(begun.acquire(timeout=WAIT) for _ in range(2))
        assert [future.run.status for future in futures if future.run] == ["running"] * 3 + ["pending"]
        onix.configure(max_workers=1)
        let_go.set()
        assert not onix.wait(futures, timeout=WAIT).not_done


# Environment variables

SHOW = """
    import onix_nb as onix
    with onix.configure() as settings:
        print(settings.strict, settings.leaks, settings.executor, settings.max_workers, settings.max_flows)
"""


def test_without_variables_the_defaults_hold(script: Callable[..., Any]) -> None:
    """In a new process."""
    assert script(SHOW).passes() == "True warn threads None None\n"


def test_each_setting_has_an_environment_variable(script: Callable[..., Any]) -> None:
    """`ONIX_<SETTING>`, read at import."""
    env = {"ONIX_STRICT": "0", "ONIX_LEAKS": "error", "ONIX_EXECUTOR": "threads"}
    env |= {"ONIX_MAX_WORKERS": "8", "ONIX_MAX_FLOWS": "9"}
    assert script(SHOW).passes(env=env) == "False error threads 8 9\n"


def test_variables_are_read_as_people_write_them(script: Callable[..., Any]) -> None:
    """Case and spaces don't matter; None and nothing mean no limit."""
    env = {"ONIX_STRICT": " Off ", "ONIX_LEAKS": " cancel", "ONIX_MAX_WORKERS": "None", "ONIX_MAX_FLOWS": ""}
    assert script(SHOW).passes(env=env) == "False cancel threads None None\n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ONIX_STRICT", "perhaps"),
        ("ONIX_LEAKS", "loud"),
        ("ONIX_EXECUTOR", "cluster"),
        ("ONIX_MAX_WORKERS", "many"),
        ("ONIX_MAX_WORKERS", "0"),
        ("ONIX_MAX_WORKERS", "-2"),
        ("ONIX_MAX_FLOWS", "1.5"),
        ("ONIX_ON_RERUN", "sideways"),
        ("ONIX_NESTED_ASYNCIO", "perhaps"),
    ],
)
def test_a_bad_variable_is_refused_at_import_by_name(script: Callable[..., Any], variable: str, value: str) -> None:
    """The message names the variable and shows the value."""
    code, out, err = script(SHOW).run(env={variable: value})
    assert (code, out) == (1, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("ValueError: ")
    assert variable in last
    assert value in last


def test_configure_outranks_a_variable(script: Callable[..., Any]) -> None:
    """What the program says counts."""
    source = "import onix_nb\nonix_nb.configure(max_workers=2)\nprint(onix_nb.configure())"
    assert "max_workers=2" in script(source).passes(env={"ONIX_MAX_WORKERS": "8"})
