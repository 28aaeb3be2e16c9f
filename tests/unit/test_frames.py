"""Frames of runs: the columns and their types, whatever was passed, returned or raised; in the order passed."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import threading
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onix_nb as onix
from onix_nb.explore.frames import STATUS, TEXT, _record, column
from onix_nb.explore.tracebacks import is_own

MICROSECONDS, UTC_MICROSECONDS = np.dtype("timedelta64[us]"), pd.DatetimeTZDtype("us", "UTC")
TEXTS = pd.Series([], dtype=TEXT).dtype

COLUMNS = {
    "run": np.dtype("int64"),
    "name": TEXTS,
    "kind": TEXTS,
    "status": STATUS,
    "attempts": np.dtype("int64"),
    "queued": MICROSECONDS,
    "elapsed": MICROSECONDS,
    "started": UTC_MICROSECONDS,
    "finished": UTC_MICROSECONDS,
    "cell": TEXTS,
    "worker": TEXTS,
    "first_ran": UTC_MICROSECONDS,
    "result": np.dtype(object),
    "error_type": TEXTS,
    "error": TEXTS,
}


@onix.action
def give(value: Any) -> Any:
    return value


@onix.action
def fail(error: BaseException) -> None:
    raise error


def given_values(*values: Any) -> onix.DoneAndNotDone[Any]:
    """What wait returned for actions that returned these."""
    return onix.wait([give.start(value=value) for value in values])


def result_of(*values: Any) -> pd.DataFrame:
    """Their results, without the arguments, which are the same."""
    return given_values(*values).results().drop(columns=["run", "arg.value"])


class TestToFrame:
    def test_without_runs_there_are_all_columns(self) -> None:
        """With their types."""
        frame = onix.runs([]).to_frame()
        assert frame.dtypes.to_dict() == COLUMNS
        assert len(frame) == 0

    def test_with_runs_the_types_are_the_same(self) -> None:
        """But for the results and arguments, which are of the type of their values."""
        frame = given_values(1, 2).to_frame()
        assert frame.dtypes.to_dict() == {**COLUMNS, "arg.value": pd.Int64Dtype(), "result": pd.Int64Dtype()}
        assert list(frame.columns) == [*list(COLUMNS)[:12], "arg.value", "result", "error_type", "error"]

    def test_rows_are_in_the_order_passed(self) -> None:
        """Each with what its run was."""
        futures = [give.start(value=value) for value in range(5)]
        onix.wait(futures)
        order = [futures[n] for n in (3, 0, 4, 1)]
        frame = onix.runs(order).to_frame()
        assert frame["result"].tolist() == [3, 0, 4, 1]
        assert frame["run"].tolist() == [future.run.id for future in order]
        for row, future in zip(frame.itertuples(), order, strict=True):
            run = future.run
            assert (row.name, row.kind, row.status, row.attempts) == ("give", "action", "succeeded", 1)
            assert row.elapsed.total_seconds() == pytest.approx(run.finished - run.started, abs=2e-6)
            assert row.queued.total_seconds() == pytest.approx(run.started - run.queued, abs=2e-6)
            assert abs(row.finished - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)
            assert row.finished - row.started == pytest.approx(row.elapsed, abs=pd.Timedelta("2us"))

    def test_what_wait_returned_is_in_the_order_of_starting(self) -> None:
        """Because its sets have none."""
        assert given_values(*"edcba").to_frame()["result"].tolist() == list("edcba")

    def test_what_has_not_happened_is_missing(self) -> None:
        """It never blocks."""
        gate, begun = threading.Event(), threading.Event()

        @onix.action
        def hold() -> None:
            begun.set()
            gate.wait(30)

        with onix.configure(max_workers=1):
            futures = [hold.start(), give.start(value=1), give.start(value=2)]
            assert begun.wait(30)
            futures[2].cancel()
            frame = onix.runs(futures).to_frame()
            gate.set()
        onix.wait(futures)
        assert frame["status"].tolist() == ["running", "pending", "cancelled"]
        assert frame["attempts"].tolist() == [1, 0, 0]
        missing = frame[["started", "queued", "finished", "elapsed", "result", "error"]].isna().to_numpy().tolist()
        assert missing == [
            [False, False, True, True, True, True],
            [True, True, True, True, True, True],
            [True, True, False, True, True, True],
        ]

    def test_a_failure_has_its_type_and_its_message(self) -> None:
        """The whole message, and no result."""
        frame = onix.wait([fail.start(error=LookupError("m" * 5_000))]).to_frame()
        assert frame.loc[0, ["error_type", "error"]].tolist() == ["LookupError", "m" * 5_000]
        assert frame["result"].isna().all()

    def test_frames_count_as_looking_at_failures(self) -> None:
        """What is in a table is not reported again: no warning, which would be an error here."""
        concurrent.futures.wait([fail.start(error=ValueError("seen"))])  # unlike onix.wait(), it joins nothing
        assert "seen" in onix.runs(status="failed", name="fail").to_frame()["error"].tolist()

    def test_what_was_forgotten_is_missing(self) -> None:
        """A run whose future is gone has no result, and of its error what the record has."""
        runs = [
            (onix.wait([give.start(value=7)]).runs[0], None),
            (onix.wait([fail.start(error=KeyError("x"))]).runs[0], None),
        ]
        frame = type(onix.runs())(runs).to_frame()
        assert frame["result"].isna().tolist() == [True, True]
        assert frame["error_type"].tolist()[1] == "KeyError"
        assert frame["error"].tolist()[1] == "'x'"
        onix.runs(status="failed", name="fail").errors()

    def test_arguments_have_columns_of_their_own(self) -> None:
        """Also when they are called as columns are; in the order in which they appear; missing where there is none."""
        many = onix.action(lambda **arguments: None)
        futures = [many.start(result=1, status="x"), many.start(run=2.5, status="y"), many.start()]
        onix.wait(futures)
        frame = onix.runs(futures).to_frame()
        assert [name for name in frame if name.startswith("arg.")] == ["arg.result", "arg.status", "arg.run"]
        assert frame["arg.result"].dtype == pd.Int64Dtype()
        assert frame["arg.status"].tolist()[:2] == ["x", "y"]
        assert frame[["arg.result", "arg.status", "arg.run"]].isna().to_numpy().tolist() == [
            [False, False, True],
            [True, False, False],
            [True, True, True],
        ]

    def test_big_arguments_are_themselves_and_secrets_are_not(self) -> None:
        """As long as the future has them."""
        login = onix.action(lambda data, password: None)
        data = np.arange(1000)
        frame = onix.wait([login.start(data=data, password="hunter2")]).to_frame()
        assert frame.loc[0, "arg.data"] is data
        assert "hunter2" not in frame.to_string()

    def test_names_may_be_the_same(self) -> None:
        """Of two functions; each run is a row."""
        futures = [give.options(name="same").start(value=1), fail.options(name="same").start(error=ValueError())]
        onix.wait(futures)
        frame = onix.runs(futures).to_frame()
        assert frame["name"].tolist() == ["same", "same"]
        assert frame["status"].tolist() == ["succeeded", "failed"]

    def test_a_foreign_future_is_refused(self) -> None:
        """And so is a future that was made by hand."""
        for foreign in (concurrent.futures.Future(), onix.Future(), 3):
            with pytest.raises(TypeError, match="takes futures"):
                onix.runs([give.start(value=1).detach(), foreign])  # type: ignore[list-item]


HUGE, AWARE = 2**70, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], "Int64"),
        ([1, None], "Int64"),
        ([np.int8(1), 2], "Int64"),
        ([2**63 - 1, -(2**63)], "Int64"),
        ([True, None], "boolean"),
        ([True, np.bool_(False)], "boolean"),
        ([1.5, None], "float64"),
        ([1, 1.5], "float64"),
        ([np.float32(0.5), float("nan")], "float64"),
        (["a", None], TEXT),
        ([datetime.datetime(2026, 1, 1), None], "M"),
        ([AWARE, pd.Timestamp(AWARE)], "M"),
        ([datetime.timedelta(1), pd.Timedelta("2s")], "m"),
        ([None, None], "object"),
        ([], "object"),
        ([HUGE, 1], "object"),
        ([2**60 + 1, 0.5], "object"),
        ([True, 1], "object"),
        ([1, "a"], "object"),
        ([[1], (2,)], "object"),
        ([{1}, {2: 3}], "object"),
        ([datetime.datetime(2026, 1, 1), AWARE], "object"),
        ([datetime.date(2026, 1, 1)], "object"),
        ([np.arange(3), np.arange(2)], "object"),
        ([pd.DataFrame({"x": [1]}), pd.Series([2])], "object"),
        ([1 + 2j], "object"),
        ([b"bytes"], "object"),
    ],
    ids=repr,
)
def test_a_column_has_the_narrowest_type_that_keeps_its_values(values: list[Any], dtype: str) -> None:
    """And the values in it are those."""
    series = column(values)
    if dtype in "mM":
        assert series.dtype.kind == dtype
    else:
        assert series.dtype == dtype
    for found, value in zip(series, values, strict=True):
        if value is None or (isinstance(value, float) and value != value):
            assert found is None or found is pd.NA or found != found or pd.isna(found)
        elif dtype == "object":
            assert found is value
        else:
            assert found == value


class Plain:
    """A result like any other object."""


@dataclasses.dataclass
class Score:
    train: float
    test: float
    inner: Any = None


Point = namedtuple("Point", "x y")


class Model:
    """As pydantic has it."""

    def model_dump(self) -> dict[str, Any]:
        return {"a": 1, "b": {"c": 2}}


class TestResults:
    def test_scalars_are_one_column(self) -> None:
        """With the run and its arguments before it."""
        waited = given_values(3, 4)
        frame = waited.results()
        assert list(frame.columns) == ["run", "arg.value", "result"]
        assert frame["result"].tolist() == [3, 4]
        assert frame["run"].tolist() == [run.id for run in waited.runs]
        assert frame.dtypes.to_dict() == {
            "run": np.dtype("int64"),
            "arg.value": pd.Int64Dtype(),
            "result": pd.Int64Dtype(),
        }

    def test_none_is_a_result(self) -> None:
        """It has a row."""
        assert result_of(None, None)["result"].tolist() == [None, None]
        assert result_of(1, None)["result"].isna().tolist() == [False, True]

    @pytest.mark.parametrize(
        ("value", "columns"),
        [
            ({"a": 1, "b": {"c": 2, "d": {"e": 3}}}, {"a": 1, "b.c": 2, "b.d.e": 3}),
            ({1: "x", "y": []}, {"1": "x", "y": []}),
            ({"a": {}}, {"a": {}}),
            (Score(0.9, 0.8), {"train": 0.9, "test": 0.8, "inner": None}),
            (Score(0.9, 0.8, {"n": Point(1, 2)}), {"train": 0.9, "test": 0.8, "inner.n.x": 1, "inner.n.y": 2}),
            (Point(1, 2), {"x": 1, "y": 2}),
            (Model(), {"a": 1, "b.c": 2}),
            (pd.Series({"mean": 1.5, "std": 0.5}), {"mean": 1.5, "std": 0.5}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_has_fields_has_a_column_for_each(self, value: Any, columns: dict[str, Any]) -> None:
        """Nested ones get dotted names."""
        frame = result_of(value, value)
        assert frame.to_dict("records") == [columns, columns]

    @given(st.recursive(st.integers(0, 9), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1)))
    @settings(max_examples=100, deadline=None)
    def test_nested_dicts_are_as_pandas_normalizes_them(self, value: Any) -> None:
        """`pandas.json_normalize` names the columns so."""
        if isinstance(value, dict):
            assert _record(value) == pd.json_normalize(value).to_dict("records")[0]

    def test_two_keys_with_one_text_stay_an_object(self) -> None:
        """No value overwrites another."""
        for value in ({1: "a", "1": "b"}, {"a.b": 1, "a": {"b": 2}}):
            assert result_of(value)["result"].tolist() == [value]

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_lists_of_records_are_rows(self, kind: Callable[..., Any]) -> None:
        """Numbered within their run, the keys repeated; what one lacks is missing."""
        frame = given_values(kind([{"a": 1}, {"a": 2, "b": True}]), kind([Point(3, 4)])).results()
        assert frame["item"].tolist() == [0, 1, 0]
        assert frame["a"].tolist()[:2] == [1, 2]
        assert frame["x"].isna().tolist() == [True, True, False]
        assert frame["run"].nunique() == 2
        assert frame["a"].dtype == frame["x"].dtype == pd.Int64Dtype()
        assert frame["b"].dtype == pd.BooleanDtype()

    @pytest.mark.parametrize(
        "value",
        [[], (), [1, 2], "text", b"", {1, 2}, Plain(), Plain, Score, [{"a": 1}, 2], np.zeros((2, 2, 2)), lambda: 0],
        ids=lambda value: str(type(value)),
    )
    def test_anything_else_is_one_object(self, value: Any) -> None:
        """In the column `result`, itself."""
        (found,) = result_of(value)["result"].tolist()
        assert found is value or found == value

    def test_frames_are_stacked(self) -> None:
        """With the run and its arguments as keys, and an index that says something as columns."""
        named = pd.DataFrame({"n": [1, 2]}, index=pd.Index(["u", "v"], name="who"))
        plain = pd.DataFrame({"n": [3], "p": [0.5]})
        frame = given_values(named, plain).results().drop(columns="arg.value")
        assert frame.drop(columns="run").to_dict("list") == {
            "who": ["u", "v", pytest.approx(float("nan"), nan_ok=True)],
            "n": [1, 2, 3],
            "p": [pytest.approx(float("nan"), nan_ok=True)] * 2 + [0.5],
        }
        assert frame["run"].is_monotonic_increasing
        assert frame["n"].dtype == "int64"

    def test_a_filtered_frames_index_says_nothing(self) -> None:
        """Integers without a name are where the rows were; texts are kept, levels get names."""
        frame = pd.DataFrame({"n": [1, 2, 3]})
        assert list(result_of(frame[frame["n"] > 1])) == ["n"]
        assert list(result_of(frame.set_axis(list("abc")))) == ["index", "n"]
        levels = frame.set_axis(pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["k", None]))
        assert list(result_of(levels)) == ["k", "level_1", "n"]

    def test_columns_of_any_kind_have_texts_as_names(self) -> None:
        """Two that have one text are told apart."""
        frame = pd.DataFrame([[1, 2, 3]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", 1), ("a", "x")]))
        assert result_of(frame).to_dict("records") == [{"a.x": 1, "a.1": 2, "a.x.1": 3}]
        assert list(result_of(pd.DataFrame({0: [1], "0": [2]}))) == ["0", "0.1"]

    def test_series_and_arrays_are_rows(self) -> None:
        """But for Series with texts as labels."""
        assert result_of(pd.Series([5, 6], name="n")).to_dict("list") == {"n": [5, 6]}
        assert result_of(pd.Series([5.0], index=pd.Index([0.1], name="t"))).to_dict("list") == {
            "t": [0.1],
            "result": [5.0],
        }
        assert result_of(np.array([5, 6])).to_dict("list") == {"item": [0, 1], "result": [5, 6]}
        assert result_of(np.eye(2)).to_dict("list") == {"item": [0, 1], "result.0": [1, 0], "result.1": [0, 1]}
        assert result_of(np.array(7))["result"].tolist() == [7]
        pairs = np.array([(1, 0.5)], dtype=[("n", "i4"), ("p", "f8")])
        assert result_of(pairs).to_dict("list") == {"item": [0], "n": [1], "p": [0.5]}

    def test_mixed_results_are_below_one_another(self) -> None:
        """Each in the columns of its kind, in the order passed, and no row more."""
        values = (1, {"a": 2}, pd.DataFrame({"a": [3, 4]}), None, [{"b": "x"}], np.array([5]), "text")
        frame = given_values(*values).results()
        assert frame["a"].tolist() == [pd.NA, 2, 3, 4, pd.NA, pd.NA, pd.NA, pd.NA]
        assert frame["a"].dtype == pd.Int64Dtype()
        assert frame["result"].tolist()[0] == 1
        assert frame["result"].tolist()[6:] == [5, "text"]
        assert frame["run"].is_monotonic_increasing
        assert len(frame) == 8

    def test_columns_that_are_called_as_keys_are_renamed(self) -> None:
        """No key is overwritten."""
        waited = given_values({"run": "mine", "arg.value": "theirs", "status": 1})
        row = waited.results().iloc[0]
        assert (row["run"], row["result.run"], row["result.arg.value"], row["status"]) == (
            waited.runs[0].id,
            "mine",
            "theirs",
            1,
        )

    def test_what_gave_no_result_is_left_out_and_counted(self) -> None:
        """By status."""
        futures = [give.start(value=1), fail.start(error=ValueError()), fail.start(error=ValueError())]
        onix.wait(futures)
        frame = onix.runs(futures).results()
        assert frame["result"].tolist() == [1]
        assert frame.attrs["left_out"] == {"pending": 0, "running": 0, "succeeded": 0, "failed": 2, "cancelled": 0}
        onix.runs(futures).errors()

    def test_all_failed_or_none_at_all(self) -> None:
        """The columns are there."""
        failed = onix.wait([fail.start(error=ValueError("x"))])
        for frame in (failed.results(), onix.runs([]).results(), onix.wait([]).results()):
            assert len(frame) == 0
            assert {"run", "result"} == set(frame.columns)
        failed.errors()

    def test_results_that_are_futures_are_not_waited_for(self) -> None:
        """They are objects."""
        inner = concurrent.futures.Future[int]()
        assert result_of(inner)["result"].tolist() == [inner]


class Odd(Exception):
    """An exception that can't say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def deep() -> None:
    int("x")


@onix.action
def chained() -> None:
    try:
        {}["key"]
    except KeyError as error:
        try:
            deep()
        except ValueError:
            raise LookupError("outer") from error


@onix.action
def noted() -> None:
    try:
        pd.DataFrame({"a": [1]})["b"]
    except KeyError as error:
        error.add_note("in row 3")
        error.add_note("of file x")
        raise


class TestErrors:
    def errors_of(self, *actions: Any) -> pd.DataFrame:
        futures = [action.start() for action in actions]
        onix.wait(futures)
        return onix.runs(futures).errors()

    def test_without_failures_there_are_all_columns(self) -> None:
        """Of texts, and numbers."""
        frame = given_values().errors()
        names = ("run", "name", "type", "message", "where", "notes", "causes", "group", "attempts", "traceback")
        assert tuple(frame.columns) == names
        assert {name: frame[name].dtype for name in names if name not in ("run", "attempts")} == dict.fromkeys(
            (name for name in names if name not in ("run", "attempts")), TEXTS
        )
        assert len(given_values(1).errors()) == 0

    def test_where_is_the_line_of_the_users_own_code(self) -> None:
        """Not that of the library in which it was raised, nor onix's."""
        row = self.errors_of(noted).iloc[0]
        line = noted.__wrapped__.__code__.co_firstlineno + 3
        assert row["where"] == f"test_frames.py:{line}"
        assert "pandas" in row["traceback"]
        row = self.errors_of(chained).iloc[0]
        assert row["where"] == f"test_frames.py:{chained.__wrapped__.__code__.co_firstlineno + 8}"

    @pytest.mark.parametrize(
        ("file", "own"),
        [
            ("/home/me/work.py", True),
            ("<stdin>", True),
            ("<string>", False),
            ("<frozen importlib._bootstrap>", False),
            ("sklearn/metrics/_dist_metrics.pyx", False),
            (threading.__file__, False),
            (pd.__file__, False),
            (onix.__file__, False),
        ],
    )
    def test_whose_code_is_in_a_file(self, file: str, own: bool) -> None:
        """Not the user's: of libraries, of onix, and what compiled libraries call their sources."""
        assert is_own(file) is own

    def test_causes_and_notes(self) -> None:
        """From the nearest to the first."""
        row = self.errors_of(chained).iloc[0]
        assert (row["type"], row["message"], row["causes"]) == ("LookupError", "outer", "KeyError: 'key'")
        assert self.errors_of(noted)["notes"].tolist() == ["in row 3\nof file x"]
        assert "direct cause" in row["traceback"]

    def test_contexts_are_causes_unless_suppressed(self) -> None:
        """As Python prints them; circles end."""
        first, second, third = ValueError("first"), TypeError("second"), KeyError("third")
        second.__context__, third.__context__, first.__context__ = first, second, third
        frame = onix.wait([fail.start(error=third)]).errors()
        assert frame["causes"].tolist() == ["TypeError: second ← ValueError: first"]
        hidden = ValueError("hidden")
        hidden.__context__, hidden.__suppress_context__ = TypeError("x"), True
        assert onix.wait([fail.start(error=hidden)]).errors()["causes"].isna().all()

    def test_a_group_has_a_row_for_each_member(self) -> None:
        """Of groups in it, too; each says what it was in."""
        group = ExceptionGroup("outer", [ValueError("a"), ExceptionGroup("inner", [TypeError("b"), KeyError("c")])])
        frame = onix.wait([fail.start(error=group)]).errors()
        assert frame["type"].tolist() == ["ValueError", "TypeError", "KeyError"]
        assert set(frame["group"]) == {"ExceptionGroup: outer (2 sub-exceptions)"}
        assert frame["run"].nunique() == 1
        assert all("inner" in text for text in frame["traceback"])

    def test_an_exception_that_cannot_say_what_it_is(self) -> None:
        """Is a row, too."""
        row = onix.wait([fail.start(error=Odd())]).errors().iloc[0]
        assert (row["type"], row["message"]) == ("Odd", "<its __str__ raised RuntimeError>")

    def test_arguments_and_attempts_come_along(self) -> None:
        """Ready to be grouped."""
        once = onix.action(lambda x: 1 / x, retry=onix.RetryPolicy(maximum_attempts=2, initial_interval=0.001))
        futures = [once.start(x=x) for x in (0, 1, 0)]
        onix.wait(futures)
        frame = onix.runs(futures).errors()
        assert frame["arg.x"].tolist() == [0, 0]
        assert frame["attempts"].tolist() == [2, 2]
        assert frame.groupby("type").size().to_dict() == {"ZeroDivisionError": 2}

    def test_a_traceback_from_another_process(self, tmp_path: Any) -> None:
        """As pools of processes send it: the line is that of the remote code, and the text is there."""
        remote = 'Traceback (most recent call last):\n  File "/home/me/work.py", line 12, in work\n    1 / 0\n  File "{}", line 3, in library\nZeroDivisionError\n'

        class _RemoteTraceback(Exception):
            def __init__(self, tb: str) -> None:
                self.tb = tb

            def __str__(self) -> str:
                return self.tb

        @onix.action
        def remotely() -> None:
            error = ZeroDivisionError("division by zero")
            error.__cause__ = _RemoteTraceback(remote.format(threading.__file__))
            raise error

        row = self.errors_of(remotely).iloc[0]
        assert "/home/me/work.py" in row["traceback"]
        assert row["where"] in ("work.py:12", f"test_frames.py:{remotely.__wrapped__.__code__.co_firstlineno + 4}")
        assert pd.isna(row["causes"])

    def test_what_was_cancelled_has_not_failed(self) -> None:
        """It is no row."""
        gate = threading.Event()
        with onix.configure(max_workers=1):
            first, second = give.start(value=1), give.start(value=2)
            onix.wait([first])
            second.cancel()
            gate.set()
        assert len(onix.runs([first, second]).errors()) == 0


class TestFilters:
    def test_by_status_name_and_kind(self) -> None:
        """One word, or several."""
        futures = [give.start(value=1), fail.options(name="other").start(error=ValueError())]
        onix.wait(futures)
        assert [run.name for run in onix.runs(futures, status="failed")] == ["other"]
        assert [run.name for run in onix.runs(futures, status=["failed", "succeeded"])] == ["give", "other"]
        assert [run.name for run in onix.runs(futures, name="give")] == ["give"]
        assert len(onix.runs(futures, name={"give", "other"}, kind="action")) == 2
        assert len(onix.runs(futures, kind="flow")) == 0
        assert onix.runs(futures, status="failed").futures == [futures[1]]
        assert len(onix.runs(futures, status="failed").errors()) == 1

    def test_by_parent(self) -> None:
        """A flow's future, its run or its id."""

        @onix.flow
        def flow() -> int:
            return onix.wait([give.start(value=value) for value in range(3)]) and 1

        future = flow.start()
        future.result()
        for parent in (future, future.run, future.run.id):
            assert [run.name for run in onix.runs(parent=parent)] == ["give"] * 3

    def test_by_time(self) -> None:
        """An aware time, a timedelta, or so many seconds ago."""
        old = give.start(value=1)
        onix.wait([old])
        between = datetime.datetime.now(datetime.UTC)
        new = give.start(value=2)
        onix.wait([new])
        assert list(onix.runs([old, new], since=between)) == [new.run]
        for since in (60, 60.0, datetime.timedelta(minutes=1), between - datetime.timedelta(minutes=1)):
            assert len(onix.runs([old, new], since=since)) == 2
        assert len(onix.runs([old, new], since=0)) == 0

    def test_lost_variables_are_found_again(self) -> None:
        """By name; with the future."""
        give.options(name="lost and found").start(value=41)
        (future,) = onix.runs(name="lost and found").futures
        assert future.result() == 41

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"status": "done"}, ValueError),
            ({"status": 3}, TypeError),
            ({"status": ["failed", None]}, TypeError),
            ({"kind": "task"}, ValueError),
            ({"name": 3}, TypeError),
            ({"parent": "flow"}, TypeError),
            ({"parent": True}, TypeError),
            ({"cell": 1.5}, TypeError),
            ({"cell": True}, TypeError),
            ({"since": "yesterday"}, TypeError),
            ({"since": True}, TypeError),
            ({"since": datetime.datetime(2026, 1, 1)}, ValueError),
        ],
        ids=str,
    )
    def test_a_bad_filter_is_refused(self, options: dict[str, Any], error: type[Exception]) -> None:
        """With its name."""
        with pytest.raises(error, match=next(iter(options))):
            onix.runs([], **options)

    def test_a_slice_is_runs_too(self) -> None:
        """With its futures."""
        waited = given_values(1, 2, 3)
        assert waited.runs[1:].results()["result"].tolist() == [2, 3]
        assert waited.runs[0] is waited.runs[:1][0]
