"""The page `/onix`, on a real server: what it lists, who may see it, and that it changes nothing."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.browser.server import PageServer

from .conftest import ask, listed, page
from .journals import Kernels, began, change, failed, newer, succeeded


def test_flows_are_listed_when_no_kernel_runs(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """Status, id, calls, size, times and errors, the last opened journal and the last started flow first."""
    kernels.write(folder / ".onix" / "a.sqlite", lambda j: succeeded(j, "first", calls=12))
    kernels.write(
        folder / ".onix" / "b.sqlite", lambda j: began(j, "second"), lambda j: failed(j, "third", "no & <no>")
    )
    found = listed(server)
    assert list(found) == [f"{folder.name}/.onix/b.sqlite", f"{folder.name}/.onix/a.sqlite"]
    start, end = "2026-01-02 03:04:05", "2026-01-02 03:05:06"
    (third, second), (first,) = found.values()
    assert first == ["✓ succeeded", "first | nightly(n=8)", "12", "177 B", start, end, "1:01", ""]
    assert second == ["◍ interrupted", "second | nightly(n=8)", "3", "48 B", start, "", "", ""]
    assert [third[0], *third[4:]] == ["✗ failed", start, end, "1:01", "ValueError: no & <no>"]


FLOW = """
import os, onix_nb as onix

@onix.action
def fetch(page):
    if page == 2:
        os._exit(1)  # as if the kernel was killed
    return page

@onix.flow(durable=True, flow_id="{name}")
def flow(name, pages):
    return [fetch(page=page) for page in range(pages)]

print(flow(name="whole", pages=2))
flow(name="killed", pages=5)
"""


def test_what_the_engine_records_is_listed(
    server: PageServer, kernels: Kernels, folder: Path, script: Callable[[str], Any]
) -> None:
    """From `@onix.flow(durable=True)` to the page, through a process that has died."""
    env = {"JUPYTER_DATA_DIR": str(kernels.data), "ONIX_JOURNAL": str(folder / ".onix" / "n.sqlite")}
    assert script(FLOW).run(env=env)[:2] == (1, "[0, 1]\n")
    killed, whole = listed(server)[f"{folder.name}/.onix/n.sqlite"]
    assert killed[:3] == ["◍ interrupted", "killed | flow(name='killed', pages=5)", "2"]
    assert whole[:3] == ["✓ succeeded", "whole | flow(name='whole', pages=2)", "2"]


def test_what_runs_is_told_from_what_was_interrupted(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """A flow that has not ended runs only while a kernel has its journal."""
    path = kernels.write(folder / ".onix" / "a.sqlite", lambda j: began(j, "one"))
    with kernels.open(path) as journal:
        began(journal, "two", calls=5)
        rows = listed(server).popitem()[1]
        assert [row[:3] for row in rows] == [
            ["◐ running", "two | nightly(n=8)", "5"],
            ["◐ running", "one | nightly(n=8)", "3"],
        ]
        assert "open in a kernel" in page(server)
    rows = listed(server).popitem()[1]
    assert {row[0] for row in rows} == {"◍ interrupted"}
    assert "open in a kernel" not in page(server)


def test_a_fresh_start_stands_for_the_earlier_ones(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """Of each id the last start is listed, and it says how many are not."""
    kernels.write(folder / ".onix" / "a.sqlite", lambda j: succeeded(j, "x"), lambda j: began(j, "x", calls=1))
    assert [row[:3] for row in listed(server).popitem()[1]] == [["◍ interrupted", "x | nightly(n=8)", "1"]]
    assert "1 earlier start not shown" in page(server)


def test_without_flows_it_says_what_to_do(server: PageServer, kernels: Kernels) -> None:
    """An empty page has a cell to run; the same page with a flow does not."""
    text = page(server)
    assert "@onix.flow(durable=True)" in text
    assert "<table>" not in text
    kernels.write(server.root / "started" / ".onix" / "a.sqlite", lambda j: began(j, "one"))
    assert "@onix.flow(durable=True)" not in page(server)


# Who may see it


@pytest.mark.parametrize("token", ["", "wrong"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"])
def test_without_the_token_it_is_forbidden(
    server: PageServer, kernels: Kernels, folder: Path, method: str, token: str
) -> None:
    """403 whatever is asked, with or without a slash, and nothing of any flow."""
    kernels.write(folder / ".onix" / "a.sqlite", lambda j: began(j, "my-flow"))
    for url in f"{server.url}onix", f"{server.url}onix/", f"{server.url}onix?follow", f"{server.url}onix?token=x":
        answer = ask(url, token, method)
        assert answer.status == 403, url
        assert "my-flow" not in answer.text
    if method == "GET":
        assert "my-flow" in page(server)  # the control
        assert 'href="/login?next=' in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_takes_nothing(server: PageServer, method: str) -> None:
    """Even who may see it can only read."""
    assert ask(f"{server.url}onix", server.token, method).status == 405


def test_head_is_get_without_the_page(server: PageServer, kernels: Kernels) -> None:
    """As HTTP has it."""
    answer = ask(f"{server.url}onix", server.token, "HEAD")
    assert (answer.status, answer.text) == (200, "")


def test_who_may_not_read_is_refused(tmp_path: Path) -> None:
    """The server's authorizer is asked, for a resource of its own."""
    config = tmp_path / "config" / "jupyter_server_config.py"
    config.parent.mkdir()
    config.write_text(
        "from jupyter_server.auth import Authorizer\n"
        "class Picky(Authorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        "        return (action, resource) != ('read', 'onix')\n"
        "c.ServerApp.authorizer_class = Picky\n"
    )
    server = PageServer(tmp_path)
    try:
        assert ask(f"{server.url}onix", server.token).status == 403
        assert ask(f"{server.url}api/contents", server.token).status == 200  # the control
    finally:
        server.stop()


@pytest.mark.parametrize("token", [True, False])
def test_the_policy_allows_no_script_but_jupyters(server: PageServer, kernels: Kernels, token: bool) -> None:
    """The server's own policy stays in force, and a stricter one beside it; also for what is refused."""
    answer = ask(f"{server.url}onix", server.token if token else "")
    theirs, ours = answer.headers["Content-Security-Policy"].split(", ")
    others = ask(f"{server.url}login").headers["Content-Security-Policy"]
    assert theirs == others
    assert "frame-ancestors 'self'" in theirs
    policy = dict(part.strip().split(" ", 1) for part in ours.split(";"))
    assert policy["default-src"] == policy["form-action"] == policy["base-uri"] == "'none'"
    allowed = policy["script-src"].split()
    assert allowed
    assert all(one.startswith("'sha256-") for one in allowed)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if token:
        assert answer.headers["Cache-Control"] == "no-store"
        assert server.token not in answer.text


def test_it_reloads_itself_only_when_asked(server: PageServer, kernels: Kernels) -> None:
    """By the browser, without a script."""
    assert 'http-equiv="refresh"' not in page(server)
    assert 'http-equiv="refresh" content="10"' in page(server, "?follow")


def test_behind_another_base_and_a_root_that_is_a_link(tmp_path: Path) -> None:
    """Links lead to where the page is; journals below what the root links to are listed, those beside it aren't."""
    (tmp_path / "real").mkdir()
    (tmp_path / "notebooks").symlink_to(tmp_path / "real")
    kernels = Kernels(tmp_path / "data")
    kernels.write(tmp_path / "real" / ".onix" / "real.sqlite", lambda j: succeeded(j, "one"))
    kernels.write(tmp_path / "notebooks" / "sub" / ".onix" / "link.sqlite", lambda j: succeeded(j, "two"))
    kernels.write(tmp_path / "real-not" / ".onix" / "other.sqlite", lambda j: succeeded(j, "other"))
    server = PageServer(tmp_path, "--ServerApp.base_url=/user/me")
    try:
        assert server.url.endswith("/user/me/")
        text = page(server)
        assert list(listed(server)) == ["sub/.onix/link.sqlite", ".onix/real.sqlite"]
        assert 'href="/user/me/onix?follow"' in text
        assert ask(server.url.replace("/user/me/", "/onix"), server.token).status == 404
        assert 'href="/user/me/login?next=%2F' in ask(f"{server.url}onix").text.replace("next=/", "next=%2F")
    finally:
        server.stop()


# It only reads


def content(folder: Path) -> dict[str, tuple[int, int, str]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.iterdir()
        if not path.name.endswith("-shm")  # where SQLite notes who reads
    }


def test_no_file_changes(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """Neither of a journal that nobody has, nor of one that a kernel writes; no log is made, none is checkpointed."""
    closed = kernels.write(folder / ".onix" / "closed.sqlite", lambda j: succeeded(j, "one"))
    before = content(closed.parent)
    assert set(before) == {"closed.sqlite", "closed.sqlite.lock"}
    path = folder / "open" / ".onix" / "open.sqlite"
    with kernels.open(path) as journal:
        kernels.note(path)
        began(journal, "two", calls=50)
        written = content(path.parent)
        assert written["open.sqlite-wal"]
        assert len(listed(server)) == 2
        assert content(path.parent) == written
        assert content(closed.parent) == before
        assert set(os.listdir(closed.parent)) == set(before)
        with closing(sqlite3.connect(path)) as careless:  # the control: what a reader must not do
            careless.execute("PRAGMA wal_checkpoint")
        assert content(path.parent) != written


def test_a_journal_that_is_written_is_read_meanwhile(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """Each page shows what was recorded when it was asked for."""
    path = folder / ".onix" / "a.sqlite"
    with kernels.open(path) as journal:
        kernels.note(path)
        for number in range(1, 6):
            began(journal, f"flow {number}", calls=number)
            assert listed(server).popitem()[1][0][1:3] == [f"flow {number} | nightly(n=8)", f"{number}"]


# What can't be read is a row that says why


def test_bad_journals_are_listed_as_such(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """Damaged, forged, empty, newer, locked, unsafe, another user's key, gone: each says so, and the good one is there."""

    def made(name: str) -> Path:
        return kernels.write(folder / name / ".onix" / "j.sqlite", lambda j: failed(j, "bad-one"))

    kernels.write(folder / "good" / ".onix" / "j.sqlite", lambda j: succeeded(j, "good"))
    made("no database").write_bytes(b"nothing of the sort" * 1000)
    whole = made("cut short")
    whole.write_bytes(whole.read_bytes()[:5000])
    change(made("forged status"), "UPDATE flows SET status = 'succeeded'")
    change(made("forged error"), "UPDATE events SET error = 'other' WHERE kind = 'end'")
    change(made("cut off"), "DELETE FROM events WHERE kind = 'end'")
    change(made("other database"), "PRAGMA application_id = 7")
    change(made("huge text"), "UPDATE flows SET id = replace(hex(zeroblob(5000000)), '00', 'x')")
    change(made("other key"), "UPDATE journal SET id = x'00'")
    newer(made("newer"))
    made("empty").write_bytes(b"")
    made("being made").with_name("j.sqlite-journal").touch()
    made("everyone's").chmod(0o666)
    path = folder / "a folder" / ".onix" / "j.sqlite"
    path.mkdir(parents=True)
    kernels.note(path)
    path = folder / "a pipe" / ".onix" / "j.sqlite"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    kernels.note(path)
    kernels.note(folder / "gone" / ".onix" / "j.sqlite")
    with closing(sqlite3.connect(made("locked"), isolation_level=None)) as locker:
        locker.execute("PRAGMA journal_mode = DELETE")
        locker.execute("BEGIN EXCLUSIVE")
        (folder / "locked" / ".onix" / "j.sqlite-wal").touch()
        (folder / "locked" / ".onix" / "j.sqlite-journal").unlink(missing_ok=True)
        found = {Path(name).parts[1]: rows for name, rows in listed(server).items()}
        assert "<b>16</b> journals not read" in page(server)
    assert found.pop("good")[0][1] == "good | nightly(n=8)"
    why = {name: " ".join(" ".join(row) for row in rows) for name, rows in found.items()}
    said = {
        "no database": "file is not a database",
        "cut short": "database disk image is malformed",
        "forged status": "row 1 of flows is not what was written",
        "forged error": "row (1, 4) of events is not what was written",
        "cut off": "row (1, 4) of events is not what was written",
        "other database": "is a database, and no journal of onix",
        "huge text": "string or blob too big",
        "other key": "sealed with another key than yours",
        "newer": "has version 2, and this onix_nb knows 1",
        "empty": "has nothing in it yet",
        "being made": "has nothing in it yet",
        "everyone's": "can be written by everyone",
        "a folder": "is not a file",
        "a pipe": "is not a file",
        "gone": "there is no journal",
        "locked": "database is locked",
    }
    assert set(why) == set(said)
    assert {name: text for name, text in why.items() if said[name] not in text} == {}
    assert not any("bad-one" in text for text in why.values())
    assert not any(str(server.root) in text for text in why.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_journal_without_permission_is_listed_as_such(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """What may not be opened says so."""
    kernels.write(folder / ".onix" / "a.sqlite", lambda j: began(j, "one")).chmod(0)
    assert "could not be opened" in listed(server).popitem()[1][0][0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_journal_of_another_user_is_listed_as_such(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """Whose it is decides, not whether it can be read."""
    os.chown(kernels.write(folder / ".onix" / "a.sqlite", lambda j: began(j, "one")), 12345, -1)
    assert "belongs to another user" in listed(server).popitem()[1][0][0]


def test_without_a_key_every_journal_says_so(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """A key that others may read proves nothing."""
    kernels.write(folder / ".onix" / "a.sqlite", lambda j: began(j, "one"))
    key = kernels.data / "onix_nb" / "journal.key"
    key.chmod(0o644)
    try:
        assert "others may use the key" in listed(server).popitem()[1][0][0]
    finally:
        key.chmod(0o600)
    assert "interrupted" in listed(server).popitem()[1][0][0]


def test_a_thousand_journals_are_listed_within_two_seconds(server: PageServer, kernels: Kernels, folder: Path) -> None:
    """Of the server's processor time, from request to answer: the clock also counts what else the machine does."""
    flows = [lambda j: succeeded(j, "a"), lambda j: failed(j, "b"), lambda j: began(j, "c")]
    first = kernels.write(folder / ".onix" / "first.sqlite", *flows)
    kernels.copies(first, [folder / f"{n // 10}" / ".onix" / f"{n}.sqlite" for n in range(999)])
    before, begun = server.worked(), time.monotonic()
    found = listed(server)
    worked, took = server.worked() - before, time.monotonic() - begun
    print(f"1,000 journals of 3 flows: {worked:.2f} s of processor time, {took:.2f} s on the clock")
    assert len(found) == 1000
    assert all(len(rows) == 3 for rows in found.values())
    assert worked < 2
