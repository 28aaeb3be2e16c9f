"""Values to bytes and back with their types, and the key that seals them."""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import datetime
import decimal
import enum
import json
import math
import multiprocessing
import os
import pickle
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onix_nb.errors import JournalDamagedError, JournalRefusedError, JournalValueError
from onix_nb.journal import codec

KEY = bytes(range(32))


def there_and_back(payload: bytes) -> Any:
    fields = ("row", 1, codec.digest(payload))
    return codec.decode(KEY, codec.seal(KEY, *fields), fields, payload)


def back(value: Any) -> Any:
    return there_and_back(codec.encode(value))


def error_back(error: BaseException) -> Any:
    return there_and_back(codec.encode_error(error))


def exact(value: Any) -> Any:
    """The value as what is equal only for the same types, the same order, and the same bits of floats."""
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, "nan" if math.isnan(value) else struct.pack(">d", value)
    if isinstance(value, dict):
        return kind, [(exact(name), exact(one)) for name, one in value.items()]
    if isinstance(value, list | tuple):
        return kind, [exact(one) for one in value]
    if isinstance(value, set | frozenset):
        return kind, sorted(map(repr, value))
    return kind, value


any_text = st.text(st.characters(exclude_categories=()), max_size=8)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**4000), 2**4000)
    | st.floats()
    | any_text
    | st.binary(max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(any_text, inner, max_size=4)
        | st.dictionaries(st.integers() | st.booleans() | st.tuples(any_text), inner, max_size=3)
        | st.sets(st.integers() | any_text, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
@example(-0.0)
@example([math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324])
@example("\ud83d\ude00")  # two lone surrogates, which JSON takes for a pair
@example("\U0001f600")
@example({"\ud800": ["\udfff"]})
@example([1, True, 1.0, (1,), [1]])
@example({1: "int", 2: "two"})
@example({True: "bool"})
@example({"b": 1, "a": 2})
@example(10**5000)
@example(list(range(5_000)))
def test_any_value_comes_back_with_its_types(value: Any) -> None:
    assert exact(back(value)) == exact(value)


def test_a_codec_of_json_alone_would_be_caught() -> None:
    def broken(value: Any) -> Any:
        return json.loads(json.dumps(value))

    for value in ((1,), {1: 2}, "\ud83d\ude00", [(1,)]):
        assert exact(broken(value)) != exact(value)
        assert exact(back(value)) == exact(value)
    for value in (-0.0, math.nan, 2**70, [None, True, {"a": 1.5}]):
        assert exact(broken(value)) == exact(value)


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "text", [1, [2, {"a": None}]], {"é": "ü"}, math.nan, -0.0])
def test_plain_values_are_json_that_people_can_read(value: Any) -> None:
    payload = codec.encode(value)
    assert payload[:2] == b"J\x01"
    assert exact(json.loads(payload[2:])) == exact(value)


def test_the_bytes_of_plain_values_stay_as_they_are() -> None:
    """Another onix_nb reads them."""
    assert codec.encode({"a": [1, "ü"]}) == b'J\x01{"a":[1,"\\u00fc"]}'


class Shade(enum.IntEnum):
    DARK = 1


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Text(str):
    __slots__ = ("extra",)


class Names(dict[str, int]):
    pass


@pytest.mark.parametrize(
    "value",
    [
        Shade.DARK,
        Text("a"),
        Names(a=1),
        Point(1, [2]),
        np.float64(1.5),
        np.int64(3),
        decimal.Decimal("1.10"),
        datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
        Path("a/b"),
        collections.OrderedDict(a=1),
        1j,
        range(3),
        bytearray(b"a"),
        10**10_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_pickled_and_keep_their_type(value: Any) -> None:
    assert codec.encode(value)[:2] == b"P\x01"
    found = back(value)
    assert type(found) is type(value)
    assert found == value


def test_arrays_and_frames_come_back() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=pd.date_range("2024", periods=2))
    pd.testing.assert_frame_equal(back(frame), frame)
    array = np.arange(12, dtype="f4").reshape(3, 4)
    found = back(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert (found == array).all()


def test_what_is_shared_stays_shared() -> None:
    inner: list[Any] = []
    found = back([inner, inner])
    assert found[0] is found[1]
    ring: list[Any] = []
    ring.append(ring)
    found = back(ring)
    assert found[0] is found


def test_functions_of_a_notebook_come_back() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("class Local:\n    x = 3\ndef twice(n): return n * 2", namespace)
    assert back(namespace["twice"])(21) == 42
    assert back(namespace["Local"]()).x == 3


def test_a_class_of_the_notebook_comes_back_as_the_one_that_is_there(script: Callable[[str], Any]) -> None:
    """`except` knows no other one, and cloudpickle alone would bring back a copy."""
    out = script(
        """
        import cloudpickle, pickle
        from onix_nb.journal import codec

        class Refused(Exception):
            pass

        def back(payload):
            fields = ("row", codec.digest(payload))
            return codec.decode(bytes(32), codec.seal(bytes(32), *fields), fields, payload)

        payload = codec.encode_error(Refused("x"))
        copy = cloudpickle.dumps(Refused("x"))

        class Refused(Exception):
            pass

        print(type(back(payload)) is Refused, type(pickle.loads(copy)) is Refused)
        """
    ).passes()
    assert out == "True False\n"


@pytest.mark.parametrize("depth", [49, 50, 51, 300])
def test_nested_values_come_back_deep_in_a_stack(depth: int) -> None:
    value: Any = []
    for _ in range(depth):
        value = [value]
    payload = codec.encode(value)

    def deep(left: int) -> Any:
        return there_and_back(payload) if left == 0 else deep(left - 1)

    found, depth_found = deep(sys.getrecursionlimit() - 300), 0
    while found:
        found, depth_found = found[0], depth_found + 1
    assert depth_found == depth


def test_what_is_nested_too_deep_is_refused() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(JournalValueError, match="list"):
        codec.encode(value)
    while value:  # by hand: its own end is recursive, too
        value = value[0]


def test_a_plain_value_is_readable_where_fewer_digits_are_allowed() -> None:
    allowed = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        payloads = {digits: codec.encode(10**digits) for digits in (600, 650, 5_000)}
        sys.set_int_max_str_digits(640)
        assert all(there_and_back(payload) == 10**digits for digits, payload in payloads.items())
        with pytest.raises(ValueError):  # what JSON alone would do
            json.loads("1" + "0" * 650)
    finally:
        sys.set_int_max_str_digits(allowed)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


class UnpicklableMute:
    def __reduce__(self) -> Any:
        raise Mute


class Returning:
    """Is pickled, and can't be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_what_can_not_be_pickled_is_refused_with_its_type() -> None:
    generator = (n for n in range(3))
    for value in (generator, Unpicklable(), UnpicklableMute(), threading.Lock(), [sys._getframe()]):
        with pytest.raises(JournalValueError, match=f"a {type(value).__name__} can't be pickled"):
            codec.encode(value)
    assert next(generator) == 0  # it was not consumed


def test_what_can_not_be_unpickled_is_a_typed_error() -> None:
    payload = codec.encode(Returning())
    with pytest.raises(JournalValueError, match=r"can't be unpickled: ValueError: .*no number"):
        there_and_back(payload)
    gone = codec.encode(Point(1, [])).replace(b"Point", b"Pqint")
    with pytest.raises(JournalValueError, match="Pqint"):
        there_and_back(gone)


def test_a_payload_of_another_version_is_a_typed_error() -> None:
    for payload in (b"J\x02null", b"X\x01", b"", b"J"):
        with pytest.raises(JournalValueError, match="another onix_nb"):
            there_and_back(payload)


@pytest.mark.deep
def test_200_megabytes_come_back() -> None:
    array = np.arange(25_000_000, dtype="i8")
    payload = codec.encode(array)
    assert len(payload) >= 200_000_000
    assert (there_and_back(payload) == array).all()
    text = "x" * 200_000_000
    assert back(text) == text


# Exceptions


class Attributed(Exception):
    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Rewording(Exception):
    """Its own constructor, given what `super()` was given, makes another text."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


class Demanding(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Unreduced(Exception):
    def __reduce__(self) -> Any:
        raise OSError("no reduce")


def look(error: BaseException) -> Any:
    return type(error), repr(error.args), str(error), getattr(error, "__notes__", None)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("name"),
        OSError(2, "gone", "file.txt"),
        FileNotFoundError(2, "gone"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(3),
        SystemExit(4),
        KeyboardInterrupt(),
        Attributed("text", code=5),
        ExceptionGroup("some", [ValueError("a"), ExceptionGroup("more", [KeyError("b")])]),
        json.JSONDecodeError("no", "doc", 1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_come_back(error: BaseException) -> None:
    error.add_note("a note")
    found = error_back(error)
    assert look(found) == look(error)
    assert getattr(found, "code", None) == getattr(error, "code", None)
    assert getattr(found, "filename", None) == getattr(error, "filename", None)
    if isinstance(error, BaseExceptionGroup):
        assert [look(one) for one in found.exceptions[1].exceptions] == [
            look(one) for one in error.exceptions[1].exceptions
        ]


def test_exceptions_are_pickled_in_their_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a library registers for them, as tblib does, which comes with Dask; of other types that counts."""
    monkeypatch.setitem(copyreg.dispatch_table, ValueError, lambda error: (ValueError, ("another",)))
    reduced: list[Fraction] = []
    monkeypatch.setitem(
        copyreg.dispatch_table, Fraction, lambda value: (Fraction, (reduced.append(value), str(value))[1:])
    )
    assert pickle.loads(pickle.dumps(ValueError("mine"))).args == ("another",), "control"
    assert error_back(ValueError("mine", Fraction(1, 2))).args == ("mine", Fraction(1, 2))
    assert reduced == [Fraction(1, 2)]


def test_an_address_in_an_exception_is_no_difference() -> None:
    """Its copy lies elsewhere."""
    found = error_back(ValueError("outer", object()))
    assert type(found) is ValueError
    assert found.args[0] == "outer"


def test_causes_and_contexts_come_back_and_tracebacks_do_not() -> None:
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise TypeError("second")  # noqa: B904 - a context
        except TypeError as error:
            raise ValueError("third") from error
    except ValueError as error:
        found = error_back(error)
    assert look(found.__cause__) == look(TypeError("second"))
    assert found.__suppress_context__
    assert look(found.__cause__.__context__) == look(KeyError("first"))
    assert not found.__cause__.__suppress_context__
    assert found.__traceback__ is None
    try:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None
    except ValueError as error:
        found = error_back(error)
    assert found.__context__ is None
    assert found.__suppress_context__


def test_long_and_circular_and_branching_causes_end() -> None:
    error = ValueError("0")
    for n in range(1, 1_000):
        further = ValueError(str(n))
        further.__cause__ = error
        error = further
    found, depth = error_back(error), 0
    while found.__cause__ is not None:
        found, depth = found.__cause__, depth + 1
    assert depth == codec._DEEPEST

    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    found = error_back(one)
    assert str(found.__context__) == "two"

    branching = ValueError("0")
    for n in range(1, 40):
        further = ValueError(str(n))
        further.__cause__ = further.__context__ = branching
        further.__suppress_context__ = False
        branching = further
    assert len(codec.encode_error(branching)) < 10_000  # and it ends


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Rewording(3), "comes back from its pickle as another exception"),
        (Demanding(1, 2), "can't be unpickled"),
        (Unreduced("x"), "can't be pickled"),
        (Mute("x"), "can't be read"),
        (ValueError(open), "^$"),
        (ValueError(n for n in ()), "can't be pickled"),
        (ValueError(Returning()), "can't be unpickled"),
    ],
    ids=["rewording", "demanding", "unreduced", "mute", "function", "generator", "returning"],
)
def test_exceptions_that_would_come_back_as_others_are_refused(error: BaseException, says: str) -> None:
    if says == "^$":
        assert error_back(error).args == error.args
        return
    with pytest.raises(JournalValueError, match=says):
        codec.encode_error(error)


def test_a_cause_that_can_not_be_pickled_is_refused() -> None:
    error = ValueError("fine")
    error.__cause__ = Unreduced("not fine")
    with pytest.raises(JournalValueError, match="no reduce"):
        codec.encode_error(error)


# The seal


FIELDS = st.lists(
    st.none() | st.integers() | st.floats(allow_nan=False) | any_text | st.binary(max_size=6), min_size=1, max_size=5
)


def framed_exactly(fields: list[Any]) -> Any:
    return [exact(field) for field in fields]


@settings(max_examples=400, deadline=None)
@given(FIELDS, FIELDS)
@example(["ab", "c"], ["a", "bc"])
@example(["1"], [1])
@example([1], [1.0])
@example([None], [""])
@example([b"a"], ["a"])
@example(["a", ""], ["a"])
@example([0.0], [-0.0])
def test_only_the_same_fields_have_the_same_seal(one: list[Any], other: list[Any]) -> None:
    same = framed_exactly(one) == framed_exactly(other)
    assert (codec.seal(KEY, *one) == codec.seal(KEY, *other)) == same
    assert codec.seal(KEY, *one) != codec.seal(bytes(32), *one)


def test_a_seal_of_joined_fields_would_be_caught() -> None:
    def broken(*fields: str) -> bytes:
        return codec.seal(KEY, "".join(fields))

    assert broken("ab", "c") == broken("a", "bc")
    assert codec.seal(KEY, "ab", "c") != codec.seal(KEY, "a", "bc")


@pytest.fixture
def unpickled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is given to `pickle.loads`."""
    given: list[bytes] = []
    loads = pickle.loads
    monkeypatch.setattr(pickle, "loads", lambda data, **options: given.append(data) or loads(data, **options))
    return given


def altered() -> dict[str, tuple[bytes, bytes, tuple[Any, ...], bytes]]:
    """Key, mac, fields and payload, of which one is another."""
    payload, other = codec.encode((1, 2)), codec.encode((3, 4))
    fields = ("row", 1, codec.digest(payload))
    mac = codec.seal(KEY, *fields)
    return {
        "key": (bytes(32), mac, fields, payload),
        "mac": (KEY, bytes(32), fields, payload),
        "empty mac": (KEY, b"", fields, payload),
        "field": (KEY, mac, ("row", 2, codec.digest(payload)), payload),
        "payload": (KEY, mac, fields, other),
        "payload and digest": (KEY, mac, ("row", 1, codec.digest(other)), other),
        "no digest": (KEY, codec.seal(KEY, "row", 1), ("row", 1), payload),
        "no fields": (KEY, codec.seal(KEY), (), payload),
    }


@pytest.mark.parametrize("what", altered())
def test_nothing_altered_is_unpickled(what: str, unpickled: list[bytes]) -> None:
    with pytest.raises(JournalDamagedError):
        codec.decode(*altered()[what])
    assert unpickled == []


def test_a_decoder_that_skips_the_mac_or_the_digest_would_be_caught(
    unpickled: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as skipping:
        skipping.setattr(codec.hmac, "compare_digest", lambda one, other: True)
        assert codec.decode(*altered()["payload and digest"]) == (3, 4)
    with monkeypatch.context() as skipping:
        case = altered()["payload"]
        skipping.setattr(codec, "digest", lambda payload: case[2][-1])
        assert codec.decode(*case) == (3, 4)
    assert len(unpickled) == 2


def test_one_function_unpickles() -> None:
    """The only call of pickle.loads in the folder is in `codec._unpickled`."""
    folder = Path(codec.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    assert source.count("pickle.load") == 1
    assert "Unpickler" not in source


# The key


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the key is."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "onix_nb"


def test_the_key_is_made_once_and_only_ours(folder: Path) -> None:
    key = codec.user_key()
    assert len(key) == 32
    assert codec.user_key() == key
    assert os.listdir(folder) == ["journal.key"]
    found = (folder / "journal.key").stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_nlink == 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_key_is_only_ours_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        codec.user_key()
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "journal.key").stat().st_mode) == 0o600


def first_key(barrier: Any, keys: Any) -> None:
    barrier.wait(30)
    keys.put(codec.user_key())


def keys_of_two() -> set[bytes]:
    fork = multiprocessing.get_context("fork")
    barrier, keys = fork.Barrier(2), fork.Queue()
    both = [fork.Process(target=first_key, args=(barrier, keys), daemon=True) for _ in range(2)]
    for one in both:
        one.start()
    found = {keys.get(timeout=30) for _ in both}
    for one in both:
        one.join(30)
    return found


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_at_once_get_one_key(folder: Path) -> None:
    for _ in range(10):
        keys = keys_of_two()
        assert keys == {codec.user_key()}
        assert os.listdir(folder) == ["journal.key"]
        (folder / "journal.key").unlink()


def test_threads_that_start_together_get_one_key(folder: Path) -> None:
    """16 at once, 10 times."""
    for _ in range(10):
        gate = threading.Barrier(16)

        def get(number: int, gate: threading.Barrier = gate) -> bytes:
            gate.wait(30)
            return codec.user_key()

        with ThreadPoolExecutor(16) as pool:
            assert len(set(pool.map(get, range(16)))) == 1
        (folder / "journal.key").unlink()


def test_whoever_was_second_takes_the_key_of_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race at its worst moment: the other key appears when ours is complete."""
    folder.mkdir(parents=True)
    first, link = b"1" * 32, os.link

    def late(source: str, target: Path) -> None:
        if not target.exists():
            target.write_bytes(first)
            target.chmod(0o600)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert codec.user_key() == first
    (folder / "journal.key").unlink()
    monkeypatch.setattr(os, "link", lambda source, target: os.replace(source, target))  # the broken variant
    assert codec.user_key() != first


def test_a_file_system_without_links_has_a_key_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(source: str, target: Path) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", none)
    assert codec.user_key() == codec.user_key()
    assert os.listdir(folder) == ["journal.key"]


def of_symlink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def of_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def of_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def of_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (of_symlink, "symbolic link"),
        (of_nothing, "symbolic link"),
        (of_fifo, "isn't a file of yours"),
        (of_folder, "isn't a file of yours"),
        (lambda path: path.chmod(0o640), "others may use"),
        (lambda path: path.chmod(0o604), "others may use"),
        (lambda path: path.chmod(0o602), "others may use"),
        (lambda path: path.write_bytes(b"short"), "isn't one of onix"),
        (lambda path: path.write_bytes(b""), "isn't one of onix"),
        (lambda path: path.write_bytes(bytes(33)), "isn't one of onix"),
    ],
    ids=["symlink", "dangling", "fifo", "folder", "group", "world", "writable", "short", "empty", "long"],
)
def test_an_unsafe_key_is_refused_and_stays(spoil: Callable[[Path], Any], says: str, folder: Path) -> None:
    codec.user_key()
    path = folder / "journal.key"
    spoil(path)
    before = os.lstat(path)[:7]
    with pytest.raises(JournalRefusedError, match=says) as refused:
        codec.user_key()
    assert str(path) in str(refused.value)
    assert "Remove it" in str(refused.value)
    assert os.lstat(path)[:7] == before


def test_a_key_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec.user_key()
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    with pytest.raises(JournalRefusedError, match="isn't a file of yours"):
        codec.user_key()


def test_a_key_that_we_may_not_read_is_refused_and_not_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec.user_key()
    real = os.open

    def denied(path: Any, *rest: Any, **options: Any) -> int:
        if str(path).endswith("journal.key"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(JournalRefusedError, match="can't be read: Permission denied"):
        codec.user_key()


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nowhere to write but the temporary folder."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file" / "data"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary" / f"onix_nb-{os.geteuid()}"


def test_without_a_home_the_key_is_in_a_temporary_folder_of_ours(homeless: Path) -> None:
    key = codec.user_key()
    assert (homeless / "journal.key").read_bytes() == key == codec.user_key()
    assert stat.S_IMODE(homeless.stat().st_mode) == 0o700


def test_a_user_whose_home_nobody_knows_has_a_key(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("JUPYTER_DATA_DIR")
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr("jupyter_core.paths.jupyter_data_dir", unknown)
    assert codec.user_key() == (homeless / "journal.key").read_bytes()


@pytest.mark.parametrize("spoil", ["open", "symlink", "file"])
def test_an_unsafe_temporary_folder_is_refused(spoil: str, homeless: Path, tmp_path: Path) -> None:
    if spoil == "open":
        homeless.mkdir()
        homeless.chmod(0o777)
    elif spoil == "symlink":
        (tmp_path / "theirs").mkdir(mode=0o700)
        homeless.symlink_to(tmp_path / "theirs")
    else:
        homeless.write_text("")
    with pytest.raises(JournalRefusedError):
        codec.user_key()


def test_no_place_at_all_is_a_typed_error(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*rest: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(JournalRefusedError, match=r"No space left.*JUPYTER_DATA_DIR"):
        codec.user_key()
