"""What the live view is told: a page that takes the messages shows what is true, and each message is small."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onix_nb as onix
from onix_nb.live import feed as feed_module
from onix_nb.live import html
from onix_nb.live.feed import (
    CANCELLABLE,
    DELTA_BYTES,
    LEAKED,
    MOST_NAMES,
    MOST_ROWS,
    RECORD,
    SNAPSHOT_BYTES,
    STATUSES,
    STOPPING,
    Feed,
    Message,
)
from onix_nb.model.future import Future
from onix_nb.model.run import Run, Span

# A page must have caught up within five seconds: ten messages a second.
MOST_DELTAS = 50
BEGUN = 1_000.0


def new_run(name: str = "work", parent: Run | None = None, **arguments: Any) -> Run:
    run = Run(name, "action", parent, arguments, "In [1]", None, 0)
    run.queued = BEGUN
    return run


class Page:
    """What `static/runs.js` does with messages, as far as it keeps something."""

    def __init__(self, first: Message) -> None:
        self.seq = -1
        self.names: list[str] = []
        self.rows: dict[int, dict[str, Any]] = {}
        self.take(first)

    def take(self, message: Message) -> None:
        head = json.loads(json.dumps(message.head))
        assert head["whole"] or head["seq"] == self.seq + 1
        self.seq = head["seq"]
        for number, name in enumerate(head["names"], head["first"]):
            assert number <= len(self.names), "a name was left out"
            self.names[number : number + 1] = [name]
        for at in range(0, len(message.records), RECORD.size):
            self._record(*RECORD.unpack_from(message.records, at))
        for number, arguments, value, spans in head["texts"]:
            self.rows[number].update(arguments=arguments, value=value, spans=spans)  # fails for a row unknown here

    def _record(self, row: int, run: int, parent: int, name: int, status: int, flags: int, *times: int) -> None:
        assert parent == 0 or parent - 1 in self.rows, "a child came before its parent"
        queued, started, finished, attempt, _ = times
        texts = self.rows.get(row, {"arguments": "", "value": "", "spans": None})
        self.rows[row] = {
            **texts,
            "run": run,
            "parent": parent - 1,
            "name": self.names[name],
            "status": STATUSES[status],
            "flags": flags,
            "queued": queued,
            "started": started - 1,
            "finished": finished - 1,
            "attempt": attempt,
        }


def deltas(feed: Feed) -> list[Message]:
    """All that is to be told, one message after the other."""
    messages = []
    while (message := feed.delta(time.monotonic())) is not None:
        messages.append(message)
    return messages


def caught_up(page: Page, feed: Feed) -> Page:
    for message in deltas(feed):
        page.take(message)
    return page


def opened(runs: Iterable[Run] = (), futures: dict[Run, Future[Any]] | None = None) -> tuple[Feed, Page]:
    """A feed with runs, and a page that was there from its beginning."""
    feed = Feed(BEGUN)
    for run in runs:
        feed.add(run, (futures or {}).get(run))
    feed.look()
    return feed, Page(feed.opening(BEGUN))


def test_a_row_has_what_a_run_has() -> None:
    """Times are milliseconds since the begin; a parent is named by its row."""
    flow, work = new_run("flow"), new_run("work", None, x=3)
    work.parent = flow
    flow.queued, flow.started = BEGUN + 0.25, BEGUN + 1.5
    feed, page = opened([flow, work])
    assert page.rows[0] == {
        "run": flow.id,
        "parent": -1,
        "name": "flow",
        "status": "running",
        "flags": 0,
        "queued": 250,
        "started": 1500,
        "finished": -1,
        "attempt": 1,
        "arguments": "",
        "value": "",
        "spans": None,
    }
    assert (page.rows[1]["parent"], page.rows[1]["arguments"], page.rows[1]["started"]) == (0, "x=3", -1)
    work.started = BEGUN + 2
    work.end("failed", BEGUN + 3, "LookupError: nothing")
    work.leaked = True
    assert feed.look()
    caught_up(page, feed)
    row = page.rows[1]
    assert (row["status"], row["finished"], row["value"], row["flags"]) == (
        "failed",
        3000,
        "LookupError: nothing",
        LEAKED,
    )


def test_what_has_not_changed_is_not_told() -> None:
    """Neither by looking again, nor after all of it was told."""
    feed, page = opened([new_run()])
    assert not feed.look()
    assert deltas(feed) == []
    assert page.seq == 0


def test_a_run_can_be_cancelled_until_it_has_ended() -> None:
    """Inline calls, which have no future, can't; and one that is still stopping is unfinished."""
    run, inline = new_run(), new_run()
    future: Future[Any] = Future(run, {}, None, None)  # type: ignore[arg-type]
    feed, page = opened([run, inline], {run: future})
    assert (page.rows[0]["flags"], page.rows[1]["flags"]) == (CANCELLABLE, 0)
    inline.end("succeeded", BEGUN)
    run.stopping = True
    run.end("cancelled", BEGUN)
    feed.look()
    assert feed.unfinished
    assert caught_up(page, feed).rows[0]["flags"] == STOPPING | CANCELLABLE
    run.stopping = False
    feed.look()
    assert not feed.unfinished
    assert caught_up(page, feed).rows[0]["flags"] == 0


def test_attempts_are_told_with_the_pauses_between_them() -> None:
    """Each attempt that another followed: begin, end, and when the next began."""
    run = new_run()
    run.started, run.attempt = BEGUN, 2
    run.spans = [Span(1, BEGUN, BEGUN + 1, "LookupError")]
    feed, page = opened([run])
    assert page.rows[0]["spans"] == [[0, 1000, -1]]  # the second has not begun
    run.begun = BEGUN + 5
    feed.look()
    assert caught_up(page, feed).rows[0]["spans"] == [[0, 1000, 5000]]


def test_a_view_of_very_many_runs_says_how_many_more() -> None:
    """Rows are bounded; what is not listed is counted."""
    feed, _ = opened(new_run() for _ in range(MOST_ROWS + 7))
    assert (len(feed.rows), feed.more) == (MOST_ROWS, 7)


@pytest.mark.parametrize(
    ("name", "number"),
    [("work", 10_000), ("work", MOST_ROWS), ("\U0001f40d" * 10_000, 10_000), ('"' * 10_000, 10_000)],
    ids=["short", "most", "wide", "quotes"],
)
def test_ten_thousand_ends_are_told_within_five_seconds(name: str, number: int) -> None:
    """Ten messages a second, of at most 64 KB each, whatever the texts are; and a late page gets 2 MB at most."""
    feed, page = opened()
    runs = [new_run(name if n % 2 else f"{n}{name}", None, x=name[:200]) for n in range(number)]
    for run in runs:
        feed.add(run, None)
    feed.look()
    for run in runs:
        run.started = BEGUN
        run.end("failed", BEGUN + 1, f"LookupError: {name[:200]}")
    feed.look()
    told = deltas(feed)
    assert max(message.size for message in told) <= DELTA_BYTES
    for message in told:
        page.take(message)
    whole = feed.snapshot(BEGUN)
    assert whole.size <= SNAPSHOT_BYTES
    late = Page(whole)
    for rows in (page.rows, late.rows):
        assert len(rows) == number
        assert {row["status"] for row in rows.values()} == {"failed"}
    records = [message for message in told if message.records]
    assert len(records) <= MOST_DELTAS
    assert len(page.names) <= MOST_NAMES + 1
    if (name, number) == ("work", 10_000):
        assert len(told) <= MOST_DELTAS  # with all texts


def test_control_a_message_without_a_bound_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would see it."""
    monkeypatch.setattr(feed_module, "DELTA_BYTES", 10**9)
    feed, _ = opened()
    for _ in range(10_000):
        feed.add(new_run(), None)
    feed.look()
    (message,) = deltas(feed)
    assert message.size > DELTA_BYTES


# What may happen, in any order: a run starts (below which one), begins, ends, a page is told, a page comes.
STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "begin", "end", "retry", "look", "tell", "come"]), st.integers(0, 7)),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_every_page_ends_with_the_same(steps: list[tuple[str, int]]) -> None:
    """Who was there from the beginning, and who came at any time, have what the runs are."""
    feed, page = opened()
    pages, runs = [page], [new_run("first")]
    feed.add(runs[0], None)
    moment = BEGUN
    for step, which in steps:
        moment += 0.5
        run = runs[which % len(runs)]
        if step == "start":
            runs.append(new_run(f"work {which}", run, x=which))
            feed.add(runs[-1], None)
        elif step == "begin" and run.started is None and run.finished is None:
            run.started = moment
        elif step == "retry" and run.started is not None and run.finished is None:
            run.spans = [*(run.spans or []), Span(run.attempt, run.begun or run.started, moment, "Error")]
            run.attempt += 1
            run.begun = moment
        elif step == "end" and run.finished is None:
            run.end("failed", moment, f"Error: {which}")
        elif step == "look":
            feed.look()
        elif step == "tell":
            if (message := feed.delta(moment)) is not None:
                for page in pages:
                    page.take(message)
        elif step == "come":
            pages.append(Page(feed.snapshot(moment)))
    feed.look()
    for message in deltas(feed):
        for page in pages:
            page.take(message)
    whole = Page(feed.snapshot(moment))
    for page in pages:
        assert page.rows == whole.rows
    for number, run in enumerate(runs):
        row = whole.rows[number]
        assert (row["run"], row["status"], row["attempt"]) == (run.id, run.status, run.attempt)
        assert row["name"] == run.name


def test_details_say_of_which_status_they_are() -> None:
    """When the view has not yet the outcome of a run that has ended, they are of one that runs: the page asks again."""

    @onix.action
    def fail() -> None:
        raise LookupError("nothing")

    future = fail.start()
    assert future.exception() is not None
    assert future.run is not None
    row = html.Row(future.run, future)
    early = html.details(row)
    assert (early["status"], early["traceback"]) == ("running", "")
    row.end()
    told = html.details(row)
    assert told["status"] == "failed"
    assert 'raise LookupError("nothing")' in told["traceback"]
