"""One JupyterLab and one Chromium for all tests of this folder, and a page of its own for each test.

They belong to the folder, not to the whole test run: while Playwright is up, its event loop counts
as running in the main thread, and tests elsewhere could not run one of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from .lab import Lab
from .server import LabServer

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Nothing of onix runs in this process; the threads of Playwright's event loop end with the browser."""


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab."""
    server = LabServer(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium; where there is none, the tests fail."""
    chromium = shutil.which("chromium")
    assert chromium, "the tests of the browser need `chromium` on the PATH: make chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """What pages share: the cache and the sign-on."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    yield context
    context.close()


@pytest.fixture(scope="package")
def screenshots() -> Path:
    """Where pictures go, for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS


@pytest.fixture
def lab(context: BrowserContext, server: LabServer, screenshots: Path) -> Iterator[Lab]:
    """JupyterLab on a page of the test's own, of which the browser must have nothing to complain."""
    lab = Lab(context.new_page(), server, screenshots)
    yield lab
    lab.close()
    assert lab.problems == []


@pytest.fixture
def open_file(context: BrowserContext) -> Iterator[Callable[[Path], Page]]:
    """Opens a file in the browser, without network: what a page wants to load from elsewhere is not there."""
    pages: list[Page] = []

    def only_files(route: Route) -> None:
        if route.request.url.startswith(("file:", "data:")):
            route.continue_()
        else:
            route.abort()

    def open_file(path: Path) -> Page:
        page = context.new_page()
        pages.append(page)
        page.route("**/*", only_files)
        page.goto(path.as_uri())
        return page

    yield open_file
    for page in pages:
        page.close()
