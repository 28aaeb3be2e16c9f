"""The page of durable flows in a browser: no script of anybody's runs on it, and it is fit to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.server.journals import Kernels, began, failed

from .payloads import PAYLOADS, fired
from .server import PATIENCE, PageServer

# Names of files have no slash and no NUL, and 255 bytes at most.
MOST_BYTES = 200


def printable(text: str) -> str:
    """As the journal takes it."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_file(number: int, text: str) -> str:
    """The text as the name of a folder."""
    return f"{number} " + printable(text).replace("/", "\u2215").replace("\0", "").encode()[:MOST_BYTES].decode(
        errors="ignore"
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server whose every journal, flow, error and path is hostile; of each fourth the journal is damaged."""
    folder = tmp_path_factory.mktemp("<img src=x onerror=(window.__pwned??=[]).push(-1)>")
    kernels = Kernels(folder / "data")
    for number, text in enumerate(PAYLOADS):
        said = printable(text)[:500]
        path = folder / "notebooks" / as_file(number, text) / ".onix" / "a.sqlite"
        kernels.write(
            path,
            lambda j, s=said: failed(j, s, s, s[:100], calls=0),
            lambda j, s=said, n=number: began(j, f"{n} {s}", f"{s}\n{s}", calls=0),
        )
        if number % 4 == 3:
            path.write_bytes(b"damaged")
    server = PageServer(folder)
    yield server
    server.stop()


class Opened(NamedTuple):
    """A page in the browser, and what that complained of."""

    page: Page
    problems: list[str]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Opens the page of a server, signed on; in a browser of its own, so that its colours can be chosen."""
    contexts = []

    def opened(server: PageServer, colours: Literal["light", "dark"] = "light", token: str | None = None) -> Opened:
        context = browser.new_context(color_scheme=colours, viewport={"width": 1300, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        problems: list[str] = []

        def on_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                problems.append(message.text)

        page.on("console", on_console)
        token = server.token if token is None else token
        page.goto(f"{server.url}onix" + f"?token={token}" * bool(token))
        return Opened(page, problems)

    yield opened
    for context in contexts:
        context.close()


def test_no_script_runs(hostile: PageServer, opened: Callable[..., Opened]) -> None:
    """Hostile ids, names, errors, paths and folders, of journals that can be read and that can't: all are only text."""
    page, problems = opened(hostile)
    assert len(PAYLOADS) >= 60
    expect(page.locator("tbody")).to_have_count(len(PAYLOADS))
    expect(page.locator(".onix-problem")).to_have_count(len(PAYLOADS) // 4)
    for summary in page.locator("summary").all():
        summary.click()
    assert fired(page) == set()
    # The check itself loads an image, which the policy forbids.
    assert [told for told in problems if "data:image/png,none" not in told] == []
    shown = page.locator("main").inner_text()
    assert shown.count("<img") > 100
    assert page.locator("main :is(img, script, iframe, svg, object, embed, video, audio, input, form)").count() == 0


def test_what_is_not_escaped_is_caught(
    hostile: PageServer, opened: Callable[..., Opened], open_file: Callable[[Path], Page], tmp_path: Path
) -> None:
    """Control: the same texts taken for HTML run scripts where there is no policy, and the same check finds them."""
    copy = tmp_path / "copy.html"
    copy.write_text(
        f"<!doctype html><body>{opened(hostile).page.locator('table').evaluate('e => e.outerHTML')}", "utf-8"
    )
    page = open_file(copy)
    assert fired(page) == set()
    page.evaluate(UNESCAPE)
    assert len(fired(page)) >= 40


def test_the_policy_stops_what_escaping_would_not(hostile: PageServer, opened: Callable[..., Opened]) -> None:
    """On the page itself they don't even run when they are taken for HTML."""
    page, problems = opened(hostile)
    page.evaluate(UNESCAPE)
    assert fired(page) == set()
    assert len(problems) >= 40


UNESCAPE = "document.querySelectorAll('td, th').forEach(one => { one.innerHTML = one.textContent })"


def test_the_token_leaves_the_address(hostile: PageServer, opened: Callable[..., Opened]) -> None:
    """Jupyter's own script runs, the only one, and takes the token from what is bookmarked and sent on."""
    page = opened(hostile).page
    assert page.url == f"{hostile.url}onix"
    assert hostile.token not in page.content()


def test_who_is_not_signed_on_is_led_to_it(hostile: PageServer, opened: Callable[..., Opened]) -> None:
    """What is forbidden has a link to Jupyter's log-in, which leads back."""
    page = opened(hostile, token="").page
    expect(page.get_by_role("heading", name="403")).to_be_visible()
    page.get_by_role("link", name="Log in").click()
    page.locator("#password_input").fill(hostile.token)
    page.locator("#login_submit").click()
    expect(page.get_by_role("heading", name="Durable flows")).to_be_visible()
    assert page.url == f"{hostile.url}onix"


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_can_be_read(
    hostile: PageServer, opened: Callable[..., Opened], screenshots: Path, colours: Literal["light", "dark"]
) -> None:
    """In both schemes every text has a contrast of 4.5 to what is behind it, and nothing is wider than the window."""
    page = opened(hostile, colours).page
    assert page.evaluate(CONTRASTS) == []
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") is (
        colours == "light"
    )
    for width in 1300, 700, 360:
        page.set_viewport_size({"width": width, "height": 900})
        page.screenshot(path=screenshots / f"flows-{colours}-{width}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


# The texts of the page whose contrast is below 4.5 (WCAG 2.2, 1.4.3), each once.
CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colour) => colour.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const poor = {};
  for (const element of document.querySelectorAll('main *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.offsetParent) continue;
    const behind = [];
    for (let one = element; one; one = one.parentElement) behind.unshift(getComputedStyle(one).backgroundColor);
    const [ink, paper] = [rgb([...behind, getComputedStyle(element).color]), rgb(behind)].map(light);
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) poor[`${element.tagName}.${element.className} ${contrast.toFixed(2)}`] = 1;
  }
  return Object.keys(poor);
}"""


def test_it_follows_what_runs(opened: Callable[..., Opened], tmp_path: Path) -> None:
    """A click has the browser reload the page, another one ends that."""
    kernels = Kernels(tmp_path / "data")
    server = PageServer(tmp_path)
    try:
        with kernels.open(server.root / ".onix" / "a.sqlite") as journal:
            kernels.note(journal.path)
            began(journal, "one")
            page = opened(server).page
            expect(page.get_by_role("row", name="one")).to_contain_text("running")
            page.get_by_role("link", name="Reload every 10 s").click()
            expect(page.get_by_text("Reloads every 10 s")).to_be_visible()
            began(journal, "two")
            page.get_by_role("link", name="Stop").click()
            expect(page.get_by_role("row", name="two")).to_contain_text("running")
            assert page.locator("meta[http-equiv=refresh]").count() == 0
    finally:
        server.stop()
