"""Text and HTML of runs: the one place that makes markup, escaped and bounded.

No code of a user runs here: values are shown by their own text only if they are plain numbers,
texts or small containers of such; everything else by its type.
"""

from __future__ import annotations

import dataclasses
import html
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..model.future import Future
from ..model.run import Run, Status, Summary, clock_time, is_kept

# Rows shown, characters of one value, members of one container.
MOST_ROWS: Final = 100
LONGEST_VALUE: Final = 120
MOST_MEMBERS: Final = 6

GLYPHS: Final[Mapping[Status, str]] = {
    "pending": "○",
    "running": "◐",
    "succeeded": "✓",
    "failed": "✗",
    "cancelled": "⊘",
}

# Jupyter's variables, with a fallback for pages that do not have them, so that dark themes work.
# `!important` where JupyterLab's own rules for tables in outputs would win.
_STYLE: Final = """<style>
.onix-view{font-family:var(--jp-code-font-family,monospace);font-size:12px;line-height:1.5;max-width:100%;
 color:var(--jp-content-font-color1,inherit)}
.onix-view table{border-collapse:collapse;width:100%!important;table-layout:fixed!important;margin:2px 0!important;
 border:0!important;font-size:12px!important}
.onix-view tr,.onix-view tr:nth-child(even){background:none!important}
.onix-view tr:hover{background:var(--jp-layout-color2,rgba(128,128,128,.12))!important}
.onix-view td{border:0!important;padding:1px 10px 1px 0!important;text-align:left!important;vertical-align:middle;
 white-space:nowrap!important;overflow:hidden;text-overflow:ellipsis;max-width:none!important}
.onix-view td.status{width:106px}.onix-view td.bar{width:130px}
.onix-view td.time{width:60px;text-align:right!important}.onix-view td.value{width:30%}
.onix-view .dim{color:var(--jp-content-font-color2,#6b6b6b)}
.onix-view .track{position:relative;display:block;height:8px;border-radius:2px;
 background:var(--jp-layout-color2,rgba(128,128,128,.18))}
.onix-view .track span{position:absolute;top:0;height:8px;min-width:2px;border-radius:2px}
.onix-view .track .queued{opacity:.35}
.onix-view td.pending,.onix-view td.cancelled{color:var(--jp-content-font-color2,#6b6b6b)}
.onix-view td.running{color:var(--jp-content-link-color,#0072b2)}
.onix-view td.succeeded{color:var(--jp-success-color1,#007a5a)}
.onix-view td.failed,.onix-view td.error{color:var(--jp-error-color1,#c03221)}
.onix-view span.pending{background:#8c8c8c}.onix-view span.running{background:#0072b2}
.onix-view span.succeeded{background:#009e73}.onix-view span.failed{background:#d55e00}
.onix-view span.cancelled{background:#cc79a7}
</style>"""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of a view, as plain values: what is to be shown of a run, and how deep it is nested."""

    run_id: int
    depth: int
    status: Status
    word: str
    name: str
    arguments: str
    queued: float
    started: float | None
    finished: float | None
    value: str


def visible(text: str) -> str:
    """`text` without anything that moves, hides or reorders what is around it."""
    return "".join(c if unicodedata.category(c)[0] != "C" else f"\\u{ord(c):04x}" for c in text.replace("\n", " ⏎ "))


def preview(value: object, most: int = LONGEST_VALUE) -> str:
    """A short text for a value, without running code of its class."""
    text = visible(_text(value, 2))
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(value: object, depth: int) -> str:
    if is_kept(value):
        return repr(value)
    if isinstance(value, Summary) or type(value).__module__.startswith("onix_nb."):
        return repr(value)
    if type(value) is str:
        return repr(value[:LONGEST_VALUE])
    if depth and type(value) in (list, tuple, set, frozenset):
        parts = [_text(member, depth - 1) for member in _first(value)]  # type: ignore[arg-type]
        inner = ", ".join(parts) + ", …" * (len(value) > MOST_MEMBERS)  # type: ignore[arg-type]
        left, right = {list: "[]", tuple: "()"}.get(type(value), "{}")  # type: ignore[call-overload]
        return f"{left}{inner}{right}"
    if depth and type(value) is dict:
        parts = [f"{_text(key, 0)}: {_text(member, depth - 1)}" for key, member in _first(value.items())]
        return "{" + ", ".join(parts) + ", …" * (len(value) > MOST_MEMBERS) + "}"
    return repr(Summary(value))


def _first(members: Iterable[Any]) -> list[Any]:
    return [member for _, member in zip(range(MOST_MEMBERS), members, strict=False)]


def row_of(run: Run, future: Future[Any] | None, depth: int) -> Row:
    """What a view shows of a run; of its future the result, if it has one."""
    value = ""
    if run.error:
        value = preview_text(run.error)
    elif future is not None and run.status == "succeeded":
        value = preview(future._result)
    word: str = "still stopping" if run.stopping else run.status
    if run.leaked:
        word += ", leaked"
    if run.attempt > 1:
        word += f", attempt {run.attempt}"
    arguments = ", ".join(f"{visible(name)}={preview(value, 40)}" for name, value in run.arguments.items())
    return Row(
        run.id,
        depth,
        run.status,
        word,
        visible(run.name)[:LONGEST_VALUE],
        arguments[: 2 * LONGEST_VALUE],
        run.queued,
        run.started,
        run.finished,
        value,
    )


def preview_text(text: str) -> str:
    """A text that is shown as it is, on one line of bounded length."""
    text = visible(text)
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
    return "" if row.started is None else seconds((now if row.finished is None else row.finished) - row.started)


def summary(rows: Sequence[Row], now: float) -> str:
    """The counts by status, and the time from the first start to the last end."""
    counts = {status: sum(row.status == status for row in rows) for status in GLYPHS}
    text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    begun = min((row.queued for row in rows), default=now)
    ended = max((now if row.finished is None else row.finished for row in rows), default=now)
    return f"{len(rows)} run{'s' * (len(rows) != 1)}: {text}; {seconds(ended - begun)}" if rows else "no runs"


def as_text(rows: Sequence[Row], now: float | None = None) -> str:
    """The view for a terminal, complete but for very many rows."""
    now = time.monotonic() if now is None else now
    lines = [summary(rows, now)] if len(rows) != 1 else []
    for row in rows[:MOST_ROWS]:
        call = f"{'  ' * row.depth}{row.name}({row.arguments})"
        tail = f"  {row.value}" if row.value else ""
        lines.append(f"{GLYPHS[row.status]} {row.word:<10} {elapsed(row, now):>7}  {call}{tail}")
    if len(rows) > MOST_ROWS:
        lines.append(f"… and {len(rows) - MOST_ROWS} more")
    return "\n".join(lines)


def as_html(rows: Sequence[Row], note: str = "", now: float | None = None) -> str:
    """The view as static HTML, without a script."""
    now = time.monotonic() if now is None else now
    begun = min((row.queued for row in rows), default=now)
    ended = max((now if row.finished is None else row.finished for row in rows), default=now)
    span = max(ended - begun, 1e-3)
    head = html.escape(summary(rows, now) + (f". {note}" if note else ""))
    parts = [_STYLE, '<div class="onix-view">']
    if len(rows) != 1 or note:
        parts.append(f'<div class="dim">{head}</div>')
    parts.append("<table>")
    parts += [_row_html(row, begun, span, now) for row in rows[:MOST_ROWS]]
    parts.append("</table>")
    if len(rows) > MOST_ROWS:
        parts.append(f'<div class="dim">… and {len(rows) - MOST_ROWS} more</div>')
    parts.append("</div>")
    return "".join(parts)


def _row_html(row: Row, begun: float, span: float, now: float) -> str:
    began = clock_time(row.queued if row.started is None else row.started)
    hint = f"run {row.run_id}: {row.name}({row.arguments})"
    title = f"{hint}, {'started' if row.started else 'queued'} {began:%H:%M:%S} UTC"
    return (
        f'<tr title="{html.escape(title)}">'
        f'<td class="status {row.status}">{GLYPHS[row.status]} {html.escape(row.word)}</td>'
        f'<td class="call">{"&nbsp;" * 2 * min(row.depth, 12)}<b>{html.escape(row.name)}</b>'
        f'<span class="dim">({html.escape(row.arguments)})</span></td>'
        f'<td class="bar"><span class="track">{_bars(row, begun, span, now)}</span></td>'
        f'<td class="time">{elapsed(row, now)}</td>'
        f'<td class="value {"error" if row.status == "failed" else ""}">{html.escape(row.value)}</td></tr>'
    )


def _bars(row: Row, begun: float, span: float, now: float) -> str:
    ended = now if row.finished is None else row.finished
    ran_from = ended if row.started is None else row.started
    bars = _bar(row.queued, ran_from, begun, span, f"{row.status} queued")
    return bars if row.started is None else bars + _bar(row.started, ended, begun, span, row.status)


def _bar(left: float, right: float, begun: float, span: float, kind: str) -> str:
    width = 100 * (right - left) / span
    if width < 0.5 and "queued" in kind:
        return ""
    return f'<span class="{kind}" style="left:{100 * (left - begun) / span:.1f}%;width:{width:.1f}%"></span>'
