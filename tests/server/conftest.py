"""One Jupyter Server with the page of durable flows for the tests of this folder, and what they see of it."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.browser.server import PATIENCE, PageServer

from .journals import Kernels


class Answer(NamedTuple):
    """What a server has said."""

    status: int
    text: str
    headers: Message


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer, not a way."""

    def redirect_request(self, *_: object) -> None:
        return None


def ask(url: str, token: str = "", method: str = "GET") -> Answer:
    """Asks a server, with a token if there is one; neither cookies nor redirects."""
    headers = {"Authorization": f"token {token}"} if token else {}
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=PATIENCE) as answer:
            return Answer(answer.status, answer.read().decode(), answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode(), error.headers)


class Table(HTMLParser):
    """The table of a page: the journals, each with the texts of its rows' cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.journals: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._cell: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self._row: list[str] = []
        if tag in ("td", "th"):
            self._cell = []
            self._heading = ("scope", "rowgroup") in attrs
        if tag in ("small", "span") and self._cell:
            self._cell.append(" | ")

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self._row.append("".join(self._cell).strip())
            self._cell = None
        elif tag == "tr" and self._heading:
            self._rows = self.journals.setdefault(self._row[0], [])
        elif tag == "tr":
            self._rows.append(self._row)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server with the page."""
    server = PageServer(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def _kernels(server: PageServer) -> Kernels:
    return Kernels(server.folder / "data")


@pytest.fixture
def kernels(_kernels: Kernels) -> Iterator[Kernels]:
    """Kernels on that server, which have noted nothing yet."""
    yield _kernels
    for note in _kernels.notes.iterdir():
        note.unlink()


@pytest.fixture
def folder(server: PageServer, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own below the root."""
    folder = server.root / request.node.name
    folder.mkdir()
    return folder


def page(server: PageServer, query: str = "") -> str:
    """What the page shows to those who may see it."""
    answer = ask(f"{server.url}onix{query}", server.token)
    assert answer.status == 200, answer.text
    return answer.text


def listed(server: PageServer) -> dict[str, list[list[str]]]:
    """The rows of the page's journals, by their paths."""
    found = Table(page(server)).journals
    return {heading.partition(" | ")[0]: rows for heading, rows in found.items()}
