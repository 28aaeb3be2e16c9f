"""Values to bytes and back, and what seals them."""

from __future__ import annotations

import math
import os
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onix_nb.errors import JournalDamagedError, JournalRefusedError, JournalValueError
from onix_nb.journal import codec

KEY = bytes(32)


def sealed(payload: bytes, *fields: codec.Field) -> tuple[bytes, tuple[codec.Field, ...]]:
    full = (*fields, codec.digest(payload))
    return codec.seal(KEY, *full), full


def back(payload: bytes) -> Any:
    mac, fields = sealed(payload, "row", 1)
    return codec.decode(KEY, mac, fields, payload)


def exactly(one: Any, other: Any) -> bool:
    """Equal, with equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(exactly(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(exactly, one, other))
    return bool(one == other)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(values)
def test_values_come_back_with_their_types(value: Any) -> None:
    """No tuple becomes a list, no key a text, and nothing is rounded."""
    assert exactly(back(codec.encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        "\ud83d\ude00",  # two lone surrogates that json would join
        "\ud800",
        10**5000,
        -0.0,
        math.nan,
        -math.inf,
        np.float64(0.5),
        True,
        {1: "a"},
        (1, [2]),
        {"a": {"b": [None, 1.5, "é"]}},
        list(range(5000)),
    ],
    ids=lambda value: f"{type(value).__name__}-{ascii(value)[:20] if not isinstance(value, int) else 'int'}",
)
def test_values_that_json_would_change_come_back(value: Any) -> None:
    """What JSON can't keep exactly is pickled."""
    assert exactly(back(codec.encode(value)), value)


def test_small_plain_values_are_readable() -> None:
    """JSON, for people and for other Pythons."""
    assert codec.encode({"a": [1, "ü"]}) == b'J\x01{"a":[1,"\\u00fc"]}'


def test_what_is_shared_stays_shared() -> None:
    """Two names for one list are one list afterwards, and a cycle is one."""
    inner: list[Any] = []
    first, second = back(codec.encode([inner, inner]))
    assert first is second
    inner.append(inner)
    copy = back(codec.encode(inner))
    assert copy[0] is copy


def test_arrays_and_frames_come_back() -> None:
    """By pickle."""
    frame = pd.DataFrame({"a": [1, 2], "when": pd.to_datetime(["2024-01-01", None])})
    pd.testing.assert_frame_equal(back(codec.encode(frame)), frame)
    assert (back(codec.encode(np.arange(5))) == np.arange(5)).all()


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("no")


class NoReturn:
    """Pickles, and doesn't unpickle."""

    def __reduce__(self) -> Any:
        return (_explode, ())


def _explode() -> None:
    raise ZeroDivisionError("boom")


class Deep(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


class Silent(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


class Stubborn(Exception):
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("no pickle")


@pytest.mark.parametrize(
    "value", [(i for i in ()), threading.Lock(), Unpicklable()], ids=["generator", "lock", "reduce raises"]
)
def test_what_cannot_be_pickled_says_so(value: Any) -> None:
    """With a typed error that names the type."""
    with pytest.raises(JournalValueError, match=type(value).__name__):
        codec.encode(value)


def test_what_does_not_unpickle_says_so() -> None:
    """With the same type of error: it is authentic, and of no use."""
    with pytest.raises(JournalValueError, match="boom"):
        back(codec.encode(NoReturn()))


def test_nesting_beyond_the_stack_says_so() -> None:
    """A list in a list in a list..."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(JournalValueError):
        codec.encode(deep)


@pytest.mark.parametrize("error", [Deep(5), Silent(), Stubborn()], ids=lambda error: type(error).__name__)
def test_an_exception_that_would_come_back_as_another_is_refused(error: Exception) -> None:
    """Pickle would rebuild `Deep("code 5")` as `Deep("code code 5")`, without a word."""
    with pytest.raises(JournalValueError):
        codec.encode_error(error)


def test_an_exception_comes_back_with_its_causes() -> None:
    """And notes; pickle alone drops the causes."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            inner.add_note("a note")
            raise ValueError("outer", object()) from inner
    except ValueError as outer:
        copy = back(codec.encode_error(outer))
    assert type(copy) is ValueError
    assert copy.args[0] == "outer"
    assert type(copy.__cause__) is KeyError
    assert copy.__cause__.__notes__ == ["a note"]
    assert copy.__suppress_context__


# The seal


fields = st.lists(st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary())


@given(fields, fields)
def test_no_two_rows_share_a_seal(one: list[Any], other: list[Any]) -> None:
    """Whatever their fields: "ab", "c" is not "a", "bc", nor 1 "1"."""
    same = [(type(x), x) for x in one] == [(type(x), x) for x in other]
    assert (codec.seal(KEY, *one) == codec.seal(KEY, *other)) == same


def test_a_boundary_that_moves_changes_the_seal() -> None:
    """Control: joined without lengths these would be one."""
    assert b"".join([b"ab", b"c"]) == b"".join([b"a", b"bc"])
    assert codec.seal(KEY, b"ab", b"c") != codec.seal(KEY, b"a", b"bc")
    assert codec.seal(KEY, "1") != codec.seal(KEY, 1) != codec.seal(KEY, 1.0)


@pytest.mark.parametrize("what", ["key", "mac", "field", "payload", "digest"])
def test_nothing_unproven_is_unpickled(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Whichever part is not the one that was sealed."""
    unpickled: list[bytes] = []
    monkeypatch.setattr(codec, "_unpickled", unpickled.append)
    payload = codec.encode((1, 2))
    mac, full = sealed(payload, "row", 1)
    key = bytes(31) + b"x" if what == "key" else KEY
    mac = bytes(32) if what == "mac" else mac
    full = ("row", 2, full[-1]) if what == "field" else full
    payload = codec.encode((1, 3)) if what in ("payload", "digest") else payload
    full = (*full[:-1], codec.digest(payload)) if what == "digest" else full
    with pytest.raises(JournalDamagedError):
        codec.decode(key, mac, full, payload)
    assert unpickled == []
    back(codec.encode((1, 2)))
    assert len(unpickled) == 1, "control: the spy sees what is unpickled"


def test_one_function_unpickles() -> None:
    """The only call of pickle.loads in the folder is in `codec._unpickled`."""
    folder = Path(codec.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    assert source.count("pickle.load") == 1
    assert "Unpickler" not in source


# The key


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "onix_nb"


def test_the_key_is_made_once_and_only_ours(folder: Path) -> None:
    """32 bytes, mode 0600; the second call reads it."""
    key = codec.user_key()
    path = folder / "journal.key"
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert codec.user_key() == key == path.read_bytes()
    assert os.listdir(folder) == ["journal.key"]


def test_kernels_that_start_together_get_one_key(folder: Path) -> None:
    """16 at once, 10 times."""
    for _ in range(10):
        keys: list[bytes] = []
        gate = threading.Barrier(16)

        def get(gate: threading.Barrier = gate, keys: list[bytes] = keys) -> None:
            gate.wait()
            keys.append(codec.user_key())

        threads = [threading.Thread(target=get) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 16
        assert len(set(keys)) == 1
        (folder / "journal.key").unlink()


@pytest.mark.parametrize("case", ["readable", "symlink", "short", "folder", "other user"])
def test_a_key_that_is_not_safely_ours_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """And stays as it is."""
    codec.user_key()
    path = folder / "journal.key"
    if case == "readable":
        path.chmod(0o640)
    elif case == "symlink":
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")
    elif case == "short":
        path.write_bytes(b"short")
    elif case == "folder":
        path.unlink()
        path.mkdir()
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(JournalRefusedError, match=r"journal\.key"):
        codec.user_key()


def test_without_a_home_the_key_is_among_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that only we can use; one that others can use is refused."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(codec.tempfile, "gettempdir", lambda: str(tmp_path))
    key = codec.user_key()
    assert codec.user_key() == key
    folder = tmp_path / f"onix_nb-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    with pytest.raises(JournalRefusedError, match="only you"):
        codec.user_key()
