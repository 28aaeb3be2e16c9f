"""Text and HTML of runs: the one place that makes markup, escaped and bounded.

No code of a user runs here: values are shown by their own text only if they are plain numbers,
texts or small containers of such; everything else by its type.
"""

from __future__ import annotations

import datetime
import functools
import html
import itertools
import pathlib
import re
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..explore.tracebacks import stack_of
from ..model.future import Future
from ..model.run import Run, Status, Summary, clock_time, is_kept, plain

# Rows shown, characters of one value, members of one container.
MOST_ROWS: Final = 100
LONGEST_VALUE: Final = 120
MOST_MEMBERS: Final = 6
# Characters of a value, and of a traceback, in the details of a run; tracebacks in a static view.
LONGEST_DETAIL: Final = 4_000
LONGEST_TRACEBACK: Final = 8_000
MOST_TRACEBACKS: Final = 5

# What moves the cursor or changes colours in a terminal.
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")

GLYPHS: Final[Mapping[Status, str]] = {
    "pending": "○",
    "running": "◐",
    "succeeded": "✓",
    "failed": "✗",
    "cancelled": "⊘",
}

STATIC: Final = pathlib.Path(__file__).parent / "static"


@functools.cache
def style() -> str:
    """The style sheet of all views, without comments and line breaks; read once, when something is shown."""
    sheet = re.sub(r"/\*.*?\*/", "", (STATIC / "runs.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", sheet).strip()


class Row:
    """One line of a view: a run, and what is to be shown of it.

    Attributes:
        run: Its record.
        future: Its future until it has ended; None for an inline call.
        parent: The number of the row above it in the tree, or -1.
        depth: How deep it is nested, from 0.
        name: The function's name, and `arguments` what it was called with, as text.
        value: The result or the error, as text; empty until it has ended.
        traceback: Where it failed, as text.
        ended: Whether these are final.
    """

    __slots__ = ("arguments", "depth", "ended", "future", "name", "parent", "run", "traceback", "value")

    def __init__(self, run: Run, future: Future[Any] | None, parent: int = -1, depth: int = 0) -> None:
        self.run = run
        self.future = future
        self.parent = parent
        self.depth = depth
        self.name = preview_text(run.name)
        arguments = itertools.islice(run.arguments.items(), LONGEST_VALUE)
        text = ", ".join(f"{preview_text(name)}={preview(value, 40)}" for name, value in arguments)
        self.arguments = text[: 2 * LONGEST_VALUE]
        self.value = ""
        self.traceback: str | None = None
        self.ended = False

    def end(self, *, keep_traceback: bool = True) -> None:
        """Takes what is shown of the outcome, and lets the future go."""
        future, self.future = self.future, None
        if self.run.error:
            self.value = preview_text(self.run.error)
        elif future is not None and self.run.status == "succeeded":
            self.value = preview(future._result)
        if keep_traceback and future is not None and future._exception is not None:
            self.traceback = traceback_text(future._exception, self.run.error or "")
        self.ended = True

    @property
    def word(self) -> str:
        """The status, and what else is to be said of it."""
        run = self.run
        word = "still stopping" if run.stopping else str(run.status)
        if run.first_ran is not None:
            word = "replayed" if run.status == "succeeded" else f"{word}, replayed"
        return word + ", leaked" * run.leaked + f" ({run.attempt})" * (run.attempt > 1)


def traceback_text(error: BaseException, message: str) -> str:
    """The stack of an exception and its message, without running code of its class; the last 8 KB."""
    return multiline((stack_of(error) + message)[-LONGEST_TRACEBACK:])


def details(row: Row) -> dict[str, str]:
    """What a view tells of one run on demand: texts by the names that the page knows."""
    run = row.run
    # The status that the rest is of, read first: the page asks again when it knows of a later one.
    final = row.ended or run.stopping
    status = run.status if final or run.finished is None else "running"
    began = clock_time(run.queued if run.started is None else run.started)
    said = [f"{run.kind} {row.name}, run {run.id}", row.word, f"started at {preview_text(run.where)}"]
    if run.started is not None:
        said += [f"{began:%Y-%m-%d %H:%M:%S} UTC", f"queued {seconds(run.started - run.queued)}"]
        said.append(f"ran {seconds(run.elapsed or 0.0)}" + (f" on {preview_text(run.worker)}" if run.worker else ""))
    if run.first_ran is not None:
        first = datetime.datetime.fromtimestamp(run.first_ran, datetime.UTC)
        said.append(f"replayed from the journal, first ran {first:%Y-%m-%d %H:%M:%S} UTC")
    for span in run.spans or ():
        said.append(f"attempt {span.attempt}: {preview_text(span.error or '')}")
    members = itertools.islice(run.arguments.items(), LONGEST_DETAIL)
    arguments = (f"{preview_text(name)} = {preview(value, LONGEST_DETAIL)}" for name, value in members)
    return {
        "status": status,
        "summary": " · ".join(said),
        "arguments": "\n".join(arguments)[:LONGEST_DETAIL],
        "result": row.value if run.status == "succeeded" else "",
        "traceback": row.traceback or (row.value if run.status == "failed" else ""),
        "output": "" if run.output is None else multiline(run.output.text),
    }


def visible(text: str) -> str:
    """`text` without anything that moves, hides or reorders what is around it."""
    return "".join(c if unicodedata.category(c)[0] != "C" else f"\\u{ord(c):04x}" for c in text.replace("\n", " ⏎ "))


def multiline(text: str) -> str:
    """`text` with its lines, and without anything else that moves or hides what is around it."""
    plain = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else f"\\u{ord(c):04x}" for c in plain)


def preview(value: object, most: int = LONGEST_VALUE) -> str:
    """A short text for a value, without running code of its class; with all digits where there is room."""
    text = visible(_text(value, 2, exact=most > LONGEST_VALUE))
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(value: object, depth: int, *, exact: bool) -> str:
    value = plain(value)
    if type(value) is float and not exact:
        return min(repr(value), f"{value:.6g}", key=len)
    if is_kept(value) or isinstance(value, Summary) or type(value).__module__.startswith("onix_nb."):
        return repr(value)
    if type(value) is str:
        return repr(value[:LONGEST_VALUE])
    if depth and type(value) in (list, tuple, set, frozenset):
        parts = [_text(member, depth - 1, exact=exact) for member in _first(value)]  # type: ignore[arg-type]
        inner = ", ".join(parts) + ", …" * (len(value) > MOST_MEMBERS)  # type: ignore[arg-type]
        left, right = {list: "[]", tuple: "()"}.get(type(value), "{}")  # type: ignore[call-overload]
        return f"{left}{inner}{right}"
    if depth and type(value) is dict:
        parts = [
            f"{_text(key, 0, exact=exact)}: {_text(member, depth - 1, exact=exact)}"
            for key, member in _first(value.items())
        ]
        return "{" + ", ".join(parts) + ", …" * (len(value) > MOST_MEMBERS) + "}"
    return repr(Summary(value))


def _first(members: Iterable[Any]) -> list[Any]:
    return [member for _, member in zip(range(MOST_MEMBERS), members, strict=False)]


def preview_text(text: str) -> str:
    """A text that is shown as it is, on one line of bounded length."""
    text = visible(text[: LONGEST_VALUE + 1])
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def seconds(value: float) -> str:
    """A duration as people read it: `0.3 s`, `12 s`, `3:07`."""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    minutes, rest = divmod(int(value), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def elapsed(row: Row, now: float) -> str:
    """How long a run ran, or has been running."""
    run = row.run
    return "" if run.started is None else seconds((now if run.finished is None else run.finished) - run.started)


def _times(rows: Sequence[Row], now: float) -> tuple[float, float]:
    """From the first start to the last end."""
    begun = min((row.run.queued for row in rows), default=now)
    return begun, max((now if row.run.finished is None else row.run.finished for row in rows), default=now)


def _counts(rows: Sequence[Row]) -> dict[Status, int]:
    counts = dict.fromkeys(GLYPHS, 0)
    for row in rows:
        counts[row.run.status] += 1
    return {status: count for status, count in counts.items() if count}


def summary(rows: Sequence[Row], now: float) -> str:
    """The counts by status, and the time from the first start to the last end."""
    if not rows:
        return "no runs"
    text = ", ".join(f"{count} {status}" for status, count in _counts(rows).items())
    begun, ended = _times(rows, now)
    return f"{len(rows)} run{'s' * (len(rows) != 1)}: {text}; {seconds(ended - begun)}"


def as_of(rows: Sequence[Row], now: float) -> str:
    """Says when something in the view had not ended yet: it may be saved like that, and is not updated then."""
    unfinished = any(row.run.finished is None for row in rows)
    return f"as of {clock_time(now):%H:%M:%S} UTC, not the end" if unfinished else ""


def as_text(rows: Sequence[Row], now: float | None = None) -> str:
    """The view for a terminal, complete but for very many rows."""
    now = time.monotonic() if now is None else now
    lines = [summary(rows, now)] if len(rows) != 1 else []
    for row in rows[:MOST_ROWS]:
        call = f"{'  ' * row.depth}{row.name}({row.arguments})"
        tail = f"  {row.value}" if row.value else ""
        lines.append(f"{GLYPHS[row.run.status]} {row.word:<10} {elapsed(row, now):>7}  {call}{tail}")
    if len(rows) > MOST_ROWS:
        lines.append(f"… and {len(rows) - MOST_ROWS} more")
    if note := as_of(rows, now):
        lines.append(note)
    return "\n".join(lines)


def as_html(rows: Sequence[Row], note: str = "", now: float | None = None) -> str:
    """The view as static HTML, without a script."""
    now = time.monotonic() if now is None else now
    begun, ended = _times(rows, now)
    span = max(ended - begun, 1e-3)
    parts = [f"<style>{style()}</style>", '<div class="onix-runs onix-static">']
    if len(rows) != 1 or note:
        parts.append(_head_html(rows, note, ended - begun))
    parts.append('<table class="onix-table">')
    parts += [_row_html(row, begun, span, now) for row in rows[:MOST_ROWS]]
    parts.append("</table>")
    if len(rows) > MOST_ROWS:
        parts.append(f'<div class="onix-note">… and {len(rows) - MOST_ROWS} more</div>')
    if since := as_of(rows, now):
        parts.append(f'<div class="onix-note">{since}</div>')
    parts += [_failure_html(row) for row in [row for row in rows if row.traceback][:MOST_TRACEBACKS]]
    parts.append("</div>")
    return "".join(parts)


def _head_html(rows: Sequence[Row], note: str, took: float) -> str:
    if not rows:
        return f'<div class="onix-head onix-note">no runs{html.escape(f". {note}" if note else "")}</div>'
    counts = _counts(rows)
    total = f"<span>{len(rows)} run{'s' * (len(rows) != 1)}:</span> "
    words = " ".join(f'<span class="onix-count onix-{word}"><b>{n}</b> {word}</span>' for word, n in counts.items())
    shares = "".join(
        f'<span class="onix-{word}" style="width:{100 * counts.get(word, 0) / len(rows):.2f}%"></span>'
        for word in ("succeeded", "failed", "cancelled", "running")
    )
    return (
        f'<div class="onix-head">{total}{words} <span class="onix-progress">{shares}</span> '
        f'<span class="onix-elapsed">{seconds(took)}</span> <span class="onix-note">{html.escape(note)}</span></div>'
    )


def _row_html(row: Row, begun: float, span: float, now: float) -> str:
    run = row.run
    began = clock_time(run.queued if run.started is None else run.started)
    call = f"{row.name}({row.arguments})"
    title = f"run {run.id}, {'started' if run.started else 'queued'} {began:%H:%M:%S} UTC"
    return (
        f'<tr class="onix-row onix-{run.status}" title="{title}">'
        f'<td class="onix-status">{GLYPHS[run.status]} {html.escape(row.word)}</td>'
        f'<td class="onix-call" title="{html.escape(call)}">{"&nbsp;" * 2 * min(row.depth, 12)}'
        f'<span class="onix-name">{html.escape(row.name)}</span>'
        f'<span class="onix-args">({html.escape(row.arguments)})</span></td>'
        f'<td class="onix-bar"><span class="onix-track">{_bars(row, begun, span, now)}</span></td>'
        f'<td class="onix-time">{elapsed(row, now)}</td>'
        f'<td class="onix-value" title="{html.escape(row.value)}">{html.escape(row.value)}</td></tr>'
    )


def _failure_html(row: Row) -> str:
    return (
        f'<details class="onix-failures"><summary>traceback of {html.escape(row.name)}, run {row.run.id}</summary>'
        f"<pre>{html.escape(row.traceback or '')}</pre></details>"
    )


def _bars(row: Row, begun: float, span: float, now: float) -> str:
    run = row.run
    ended = now if run.finished is None else run.finished
    ran_from = ended if run.started is None else run.started
    bars = []
    if (ran_from - run.queued) / span > 0.005:
        bars.append(_bar(run.queued, ran_from, begun, span, "onix-queued"))
    last = run.started
    if run.spans:
        bars += [_bar(attempt.started, attempt.finished, begun, span, "onix-retried") for attempt in run.spans]
        last = run.begun if run.begun is not None and run.begun >= run.spans[-1].finished else None
    if last is not None:
        bars.append(_bar(last, ended, begun, span, ""))
    return "".join(bars)


def _bar(left: float, right: float, begun: float, span: float, kind: str) -> str:
    named = f' class="{kind}"' if kind else ""
    return (
        f'<span{named} style="left:{100 * (left - begun) / span:.1f}%;width:{100 * (right - left) / span:.1f}%"></span>'
    )
