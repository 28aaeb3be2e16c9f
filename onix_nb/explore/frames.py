"""What runs were, gave and failed of, as pandas DataFrames: a row for each run, for each result, for each failure.

Columns have the same types on pandas 2 and 3, also when there is no row: categories for the status, UTC times,
`timedelta64`, nullable integers and booleans, floats, strings. A column is of objects only where a value is one.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

import numpy as np
import pandas as pd

from ..model.future import Entry, Future
from ..model.run import EPOCH, Run, Status, Summary, message_of
from . import tracebacks

STATUS: Final = pd.CategoricalDtype(list(get_args(Status)))
TEXT: Final = "str" if int(pd.__version__.partition(".")[0]) >= 3 else "string"

# Stands for what is not there, where None may be a value.
_MISSING: Final = object()
_TIMES: Final = (datetime.datetime, datetime.timedelta, np.datetime64, np.timedelta64)


def to_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """One row for each run; `Runs.to_frame` describes it."""
    runs = [run for run, _ in entries]
    errors = [_error_of(run, future) for run, future in entries]
    started, finished = _moments(run.started for run in runs), _moments(run.finished for run in runs)
    return pd.DataFrame(
        {
            "run": pd.Series([run.id for run in runs], dtype="int64"),
            "name": pd.Series([run.name for run in runs], dtype=TEXT),
            "kind": pd.Series([run.kind for run in runs], dtype=TEXT),
            "status": pd.Series([run.status for run in runs], dtype=STATUS),
            "attempts": pd.Series([0 if run.started is None else run.attempt for run in runs], dtype="int64"),
            "queued": _durations(started - _moments(run.queued for run in runs)),
            "elapsed": _durations(finished - started),
            "started": _clock(started),
            "finished": _clock(finished),
            "cell": pd.Series([run.cell for run in runs], dtype=TEXT),
            "worker": pd.Series([run.worker for run in runs], dtype=TEXT),
            "first_ran": _clock(_moments(None if run.first_ran is None else run.first_ran - EPOCH for run in runs)),
            **_arguments(entries),
            "result": column([_result_of(run, future) for run, future in entries]),
            "error_type": pd.Series([None if error is None else error[0] for error in errors], dtype=TEXT),
            "error": pd.Series([None if error is None else error[1] for error in errors], dtype=TEXT),
        }
    )


def results(entries: Sequence[Entry]) -> pd.DataFrame:
    """What the runs returned, as a tidy frame; `Runs.results` describes it."""
    values = [(entry, _result_of(*entry)) for entry in entries]
    given = [(entry, value) for entry, value in values if value is not _MISSING]
    blocks = [_rows_of(value) for _, value in given]
    rows = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    keys = {"run": pd.Series([run.id for (run, _), _ in given], dtype="int64")}
    keys |= _arguments([entry for entry, _ in given])
    columns = {name: key.iloc[rows].reset_index(drop=True) for name, key in keys.items()}
    for name, series in _stacked(blocks).items():
        columns[f"result.{name}" if name in keys else name] = series
    frame = pd.DataFrame(columns)
    missing = [run.status for (run, _), value in values if value is _MISSING]
    frame.attrs["left_out"] = {status: missing.count(status) for status in STATUS.categories}
    return frame


def errors(entries: Sequence[Entry]) -> pd.DataFrame:
    """The failures, one row each; `Runs.errors` describes it."""
    rows = [(entry, failure) for entry in entries if entry[0].status == "failed" for failure in _failures(*entry)]
    entries, told = [entry for entry, _ in rows], [failure for _, failure in rows]
    texts = {name: pd.Series([row[name] for row in told], dtype=TEXT) for name in _FAILURE}
    traceback = texts.pop("traceback")
    return pd.DataFrame(
        {
            "run": pd.Series([run.id for run, _ in entries], dtype="int64"),
            "name": pd.Series([run.name for run, _ in entries], dtype=TEXT),
            **texts,
            "attempts": pd.Series([run.attempt for run, _ in entries], dtype="int64"),
            **_arguments(entries),
            "traceback": traceback,
        }
    )


# Columns.


def column(values: Sequence[Any]) -> pd.Series[Any]:
    """Values as a column of the narrowest type that keeps each as it is; None is missing, but among objects.

    Integers and booleans become nullable ones; floats `float64`, with integers among them where that holds them;
    texts strings; times of one kind `datetime64` or `timedelta64`.
    """
    plain = [None if value is _MISSING else value for value in values]
    kinds = {type(value) for value in plain} - {type(None)}
    series = _typed(plain, kinds) if kinds else None
    return _objects(values) if series is None else series


def _typed(values: list[Any], kinds: set[type]) -> pd.Series[Any] | None:
    if all(issubclass(kind, (bool, np.bool_)) for kind in kinds):
        return pd.Series(values, dtype="boolean")
    if all(kind in (int, float, str) or issubclass(kind, np.generic) for kind in kinds):
        if all(kind is int or issubclass(kind, np.integer) for kind in kinds):
            fits = all(value is None or -(2**63) <= value < 2**63 for value in values)
            return pd.Series(values, dtype="Int64") if fits else None
        if all(kind in (int, float) or issubclass(kind, (np.integer, np.floating)) for kind in kinds):
            fits = kinds <= {float} or all(value is None or value != value or _is_float(value) for value in values)
            return pd.Series(values, dtype="float64") if fits else None
        if all(kind in (str, np.str_) for kind in kinds):
            return pd.Series(values, dtype=TEXT)
    if all(issubclass(kind, _TIMES) for kind in kinds):
        try:
            times = pd.Series(values)
        except (ValueError, TypeError, OverflowError):  # some with and some without a time zone; out of range
            return None
        return times if times.dtype.kind in "mM" else None
    return None


def _is_float(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) or abs(int(value)) <= 2**53


def _objects(values: Iterable[Any]) -> pd.Series[Any]:
    """Values as they are; what is missing is NA."""
    values = list(values)
    cells = np.empty(len(values), dtype=object)
    for number, value in enumerate(values):
        cells[number] = pd.NA if value is _MISSING else value
    return pd.Series(cells)


def _moments(values: Iterable[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Monotonic seconds; NaN for what has not happened."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _durations(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> pd.Series[Any]:
    return pd.Series(_microseconds(seconds).view("timedelta64[us]"))


def _clock(moments: np.ndarray[Any, np.dtype[np.float64]]) -> pd.Series[Any]:
    return pd.Series(_microseconds(moments + EPOCH).view("datetime64[us]")).dt.tz_localize("UTC")


def _microseconds(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    unknown = np.isnan(seconds)
    whole = np.round(np.where(unknown, 0.0, seconds) * 1e6).astype(np.int64)
    whole[unknown] = np.iinfo(np.int64).min  # as numpy writes "not a time"
    return whole


def _arguments(entries: Sequence[Entry]) -> dict[str, pd.Series[Any]]:
    """A column `arg.<name>` for each argument, in the order in which they first appear."""
    names = dict.fromkeys(name for run, _ in entries for name in run.arguments)
    return {f"arg.{name}": column([_argument(*entry, name) for entry in entries]) for name in names}


def _argument(run: Run, future: Future[Any] | None, name: str) -> Any:
    """The value of an argument; of a big one that only the future had, what the record says of it."""
    value = run.arguments.get(name, _MISSING)
    if type(value) is Summary and future is not None and future.arguments is not None:
        return future.arguments.get(name, value)
    return value


def _result_of(run: Run, future: Future[Any] | None) -> Any:
    return future._result if future is not None and run.status == "succeeded" and future.done() else _MISSING


def _error_of(run: Run, future: Future[Any] | None) -> tuple[str, str] | None:
    """Type and message of a failure."""
    if run.status != "failed":
        return None
    if future is not None and future._exception is not None:
        return type(future._exception).__name__, message_of(future._exception)
    kind, _, message = (run.error or "").partition(": ")
    return kind, message


# Results as rows: records, or a frame.

Records = list[dict[str, Any]]


def _rows_of(value: Any) -> Records | pd.DataFrame:
    """A result as rows."""
    if isinstance(value, pd.DataFrame):
        return _labelled(value)
    if isinstance(value, pd.Series):
        if value.index.is_unique and all(type(label) is str for label in value.index):
            return [{str(label): member for label, member in value.items()}]
        return _labelled(value.to_frame("result" if value.name is None else value.name))
    if isinstance(value, np.ndarray):
        return _of_array(value)
    if (record := _record(value)) is not None:
        return [record]
    if type(value) in (list, tuple) and value:
        records = [_record(member) for member in value]
        if None not in records:
            return [{"item": number, **record} for number, record in enumerate(records) if record is not None]
    return [{"result": value}]


def _record(value: Any) -> dict[str, Any] | None:
    """A mapping, or what has fields, as columns; nested ones get dotted names. None for anything else."""
    fields = _fields(value)
    if fields is None:
        return None
    record: dict[str, Any] = {}
    for key, member in fields.items():
        inner = _record(member)
        named = {str(key): member} if not inner else {f"{key}.{name}": part for name, part in inner.items()}
        if record.keys() & named:
            return None  # two keys with one text: it stays an object
        record |= named
    return record


def _fields(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    if callable(getattr(type(value), "model_dump", None)):
        return dict(value.model_dump())
    return None


def _of_array(value: np.ndarray[Any, Any]) -> Records | pd.DataFrame:
    """One row for each element of the first axis, numbered; more than two axes stay an object."""
    if value.ndim == 0:
        return [{"result": value[()]}]
    if value.ndim > 2:
        return [{"result": value}]
    numbers = {"item": np.arange(len(value))}
    if value.dtype.names:
        return pd.DataFrame({**numbers, **{name: list(value[name]) for name in value.dtype.names}})
    if value.ndim == 1:
        return pd.DataFrame({**numbers, "result": value})
    return pd.DataFrame({**numbers, **{f"result.{n}": value[:, n] for n in range(value.shape[1])}})


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose columns have different texts as names, with an index that says something as columns."""
    index = frame.index
    body = frame.reset_index(drop=True)
    body.columns = pd.Index([_text(label) for label in frame.columns])
    if index.nlevels > 1 or index.name is not None or not pd.api.types.is_integer_dtype(index):
        left = index.to_frame(index=False)
        alone = index.nlevels == 1
        names = ["index" if alone and name is None else name for name in index.names]
        left.columns = pd.Index([f"level_{n}" if name is None else _text(name) for n, name in enumerate(names)])
        body = pd.concat([left, body], axis=1)
    counts: dict[str, int] = {}
    names = []
    for name in body.columns:
        while (n := counts.get(name, 0)) or name in names:
            counts[name] = n + 1
            name = f"{name}.{n}" if n else f"{name}.1"
        names.append(name)
    body.columns = pd.Index(names)
    return body


def _text(label: Any) -> str:
    return ".".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _stacked(blocks: Sequence[Records | pd.DataFrame]) -> dict[str, pd.Series[Any]]:
    """The rows of all blocks, below one another, as columns in the order in which they first appear."""
    frames: list[pd.DataFrame] = []
    records: Records = []
    for block in blocks:
        if isinstance(block, pd.DataFrame):
            if records:
                frames.append(_of_records(records))
                records = []
            frames.append(block)
        else:
            records += block
    if records or not frames:
        frames.append(_of_records(records))
    if len(frames) == 1:
        return dict(frames[0].items())  # type: ignore[arg-type]
    names = dict.fromkeys(name for frame in frames for name in frame.columns)
    return {name: _joined([frame.get(name, len(frame)) for frame in frames]) for name in names}


def _of_records(records: Records) -> pd.DataFrame:
    names = dict.fromkeys(name for record in records for name in record) or ["result"]
    return pd.DataFrame({name: column([record.get(name, _MISSING) for record in records]) for name in names})


def _joined(parts: Sequence[pd.Series[Any] | int]) -> pd.Series[Any]:
    """One column below the other; a number stands for so many missing values."""
    there = [part for part in parts if not isinstance(part, int)]
    if len(there) < len(parts) or len({part.dtype for part in there}) > 1:
        # Integers and booleans have no missing values of their own.
        parts = [part if isinstance(part, int) else part.astype(_nullable(part.dtype)) for part in parts]
        there = [part for part in parts if not isinstance(part, int)]
    dtypes = {part.dtype for part in there}
    if len(dtypes) > 1 or object in dtypes:
        cells = ([_MISSING] * part if isinstance(part, int) else part for part in parts)
        return column([_MISSING if cell is pd.NA else cell for part in cells for cell in part])
    (dtype,) = dtypes
    return pd.concat(
        [pd.Series(index=range(part), dtype=dtype) if isinstance(part, int) else part for part in parts],
        ignore_index=True,
    )


def _nullable(dtype: Any) -> Any:
    return {"i": "Int64", "u": "UInt64", "b": "boolean"}.get(getattr(dtype, "kind", ""), dtype)


# Failures.

_FAILURE: Final = ("type", "message", "where", "notes", "causes", "group", "traceback")


def _failures(run: Run, future: Future[Any] | None) -> list[dict[str, str | None]]:
    """What the rows of a failed run say: one, or one for each member of a group."""
    error = None if future is None else future._exception
    if error is None:  # it has been forgotten
        kind, message = _error_of(run, None) or ("", "")
        return [{**dict.fromkeys(_FAILURE), "type": kind, "message": message}]
    return [_failure(run, error, leaf) for leaf in tracebacks.leaves_of(error)]


def _failure(run: Run, error: BaseException, leaf: BaseException) -> dict[str, str | None]:
    notes = getattr(leaf, "__notes__", None)
    causes = [cause for cause in tracebacks.causes_of(leaf) if not tracebacks.is_remote(cause)]
    return {
        "type": type(leaf).__name__,
        "message": message_of(leaf),
        "where": tracebacks.where(leaf, run),
        "notes": "\n".join(map(str, notes)) if notes else None,
        "causes": " ← ".join(map(_said, causes)) or None,
        "group": None if leaf is error else _said(error),
        "traceback": tracebacks.text_of(error),
    }


def _said(error: BaseException) -> str:
    message = message_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
