"""The live view in JupyterLab: what it shows while work goes on, what can be done with it, and what stays of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbconvert
import pytest
from playwright.sync_api import Locator, Page, expect

from .lab import Lab, Notebook, converted
from .server import PATIENCE

LOAD = "%load_ext onix_nb\nimport onix, threading, time"
ACTIONS = """\
gate = threading.Event()

@onix.action
def long(x: int = 1):
    onix.sleep(600)

@onix.action
def held(x: int = 1):
    print(f'output of {x}')
    gate.wait(600)
    return 7 * x

@onix.action
def fail(x: int = 1):
    raise LookupError(f'nothing at {x}')
"""
SHOWN = "future = long.start()\nfuture"
BLOCK = "print('blocked', flush=True)\nthreading.Event().wait(600)"

# Milliseconds from a click to the exception in the cell that waits.
CLICK_BOUND = 1000

LIVE = '.onix-runs[data-state="live"]'


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=PATIENCE * 1000)


def opened(lab: Lab, *sources: str) -> Notebook:
    """A notebook whose cells 0 and 1, the extension and the actions, have run; `sources` are the next."""
    notebook = lab.open(LOAD, ACTIONS, *sources)
    notebook.run(0, 1)
    return notebook


def live(notebook: Notebook, cell: int) -> Locator:
    """The view below a cell, which must be live."""
    view = notebook.output(cell).locator(LIVE)
    expect(view).to_have_count(1)
    return view


def static(notebook: Notebook, cell: int) -> Locator:
    """The view below a cell, which must become the static one."""
    view = notebook.output(cell).locator(".onix-runs.onix-static")
    expect(view).to_have_count(1)
    return view


def row(view: Locator, text: str) -> Locator:
    """The first row with a text."""
    return view.locator(".onix-row", has_text=text).first


def cancel(row: Locator) -> None:
    """Clicks Cancel of a row as a user does: the mouse goes there first."""
    row.hover()
    row.locator("button.onix-cancel").click()


def ticks(view: Locator, times: int = 2) -> None:
    """Waits until the time of a run has changed `times` times."""
    clock = view.locator(".onix-row[data-status=running] .onix-time").first
    for _ in range(times):
        shown = clock.inner_text()
        assert any(letter.isdigit() for letter in shown), shown
        expect(clock).not_to_have_text(shown)


def blocked(notebook: Notebook, cell: int) -> str:
    """Starts a cell that blocks the kernel; returns when it does."""
    ticket = notebook.start(cell)
    notebook.expect_output(cell, "blocked")
    return ticket


class TestWhileBlocked:
    def test_the_time_ticks(self, lab: Lab) -> None:
        """The time of a run goes on while a cell blocks the kernel."""
        notebook = opened(lab, SHOWN, BLOCK)
        notebook.run(2)
        view = live(notebook, 2)
        ticket = blocked(notebook, 3)
        ticks(view)
        expect(row(view, "long")).to_have_attribute("data-status", "running")
        lab.screenshot("live")
        notebook.interrupt()
        notebook.end(ticket)

    @pytest.mark.parametrize("comms", ["perCommTarget", "disabled"])
    def test_cancel_arrives_at_once(self, lab: Lab, comms: str) -> None:
        """With either setting of Lab, Cancel ends the `result()` on which a cell blocks; its figure is not lost."""
        lab.set_comms_over_subshells(comms)
        notebook = opened(
            lab,
            SHOWN,
            "%matplotlib inline\n"
            "import matplotlib.pyplot as plt\n"
            "plt.plot([1, 3, 2])\n"
            "print('blocked', flush=True)\n"
            "try:\n"
            "    future.result()\n"
            "except BaseException as error:\n"
            "    raised = time.time()\n"
            "    print(type(error).__name__)",
        )
        notebook.run(2)
        view = live(notebook, 2)
        ticket = blocked(notebook, 3)
        lab.page.evaluate("document.addEventListener('click', () => { window.clicked = Date.now() }, true)")
        cancel(row(view, "long"))
        notebook.end(ticket)
        took = notebook.evaluate("raised * 1000") - lab.page.evaluate("window.clicked")
        print(f"from the click to the exception, {comms}: {took:.0f} ms")
        notebook.expect_output(3, "CancelledError")
        assert took < CLICK_BOUND
        expect(notebook.output(3).locator("img")).to_have_count(1)
        expect(static(notebook, 2)).to_contain_text("cancelled")

    def test_cancel_all(self, lab: Lab) -> None:
        """One button cancels everything in the view that is unfinished, and nothing else."""
        notebook = opened(
            lab,
            "other = long.start(x=99)\nfutures = [long.start(x=x) for x in range(5)]\nonix.runs(futures)",
            "print('blocked', flush=True)\nonix.wait(futures)\nother.done()",
        )
        notebook.run(2)
        view = live(notebook, 2)
        ticket = blocked(notebook, 3)
        view.locator("button.onix-cancel-all").click()
        notebook.end(ticket)
        notebook.expect_output(3, "False")
        expect(static(notebook, 2)).to_contain_text("5 cancelled")


LATE = """\
from onix_nb.live import html
late, details = threading.Event(), html.details

def slow(row):
    told = details(row)
    late.wait(600)
    return told

html.details = slow
"""


def test_details_that_come_late_are_not_the_last_word(lab: Lab) -> None:
    """They were told while the run went on, and come when it has ended: the page asks again."""
    notebook = opened(lab, LATE, "future, other = long.start(), held.start()\nonix.runs()")
    notebook.run(2, 3)
    view = live(notebook, 3)
    row(view, "long").click()
    notebook.until("future.cancel(interrupt=True) or future.done()")
    expect(row(view, "long")).to_have_attribute("data-status", "cancelled")
    assert notebook.evaluate("late.set()") is None
    expect(view.locator(".onix-details")).to_contain_text("cancelled")
    assert notebook.evaluate("gate.set()") is None


class TestPage:
    @pytest.mark.parametrize("busy", [False, True], ids=["idle", "blocked"])
    def test_a_reload_shows_the_view_again(self, lab: Lab, busy: bool) -> None:
        """After a reload of the page the view is live again, and Cancel works, also while a cell blocks."""
        notebook = opened(lab, SHOWN, "print('blocked', flush=True)\nonix.wait([future])")
        notebook.run(2)
        live(notebook, 2)
        if busy:
            blocked(notebook, 3)
        notebook.saved()
        notebook.reload()
        view = live(notebook, 2)
        ticks(view)
        cancel(row(view, "long"))
        # Lab no longer finds the display to replace it: the view stays as it has ended.
        expect(view.locator(".onix-row[data-status=cancelled]")).to_have_count(1)
        notebook.until_kernel("idle")
        assert notebook.evaluate("future.cancelled()") is True
        notebook.reload()
        expect(live(notebook, 2).locator(".onix-row[data-status=cancelled]")).to_have_count(1)
        notebook.run(2)
        expect(live(notebook, 2).locator(".onix-row[data-status=running]")).to_have_count(1)
        widgets = "[type(one).__name__ for one in __import__('ipywidgets').widgets.widget._instances.values()]"
        assert notebook.evaluate(widgets).count("RunsWidget") == 1

    @pytest.mark.parametrize("source", ["%onix_runs --unfinished", SHOWN], ids=["the magic", "the cell again"])
    def test_a_page_that_was_lost_shows_the_runs_again(self, lab: Lab, source: str) -> None:
        """The tab is closed and opened again: the magic, or running the cell again, shows what goes on, live."""
        notebook = opened(lab, SHOWN, "%onix_runs --unfinished")
        notebook.run(2)
        live(notebook, 2)
        notebook.saved()
        lab.page.goto("about:blank")  # nobody sits there any more
        notebook.reload()
        notebook.until_restored()
        number = 2 if source == SHOWN else 3
        notebook.run(number)
        view = live(notebook, number)
        ticks(view)
        assert notebook.evaluate("len(onix.runs(status='running', name='long'))") == 1
        cancel(row(view, "long"))
        expect(static(notebook, number)).to_contain_text("cancelled")

    def test_a_rerun_closes_the_old_view(self, lab: Lab) -> None:
        """Running a cell again leaves one view, and in the kernel no widget of the old one."""
        notebook = opened(lab, SHOWN)
        widgets = "len(__import__('ipywidgets').widgets.widget._instances)"
        notebook.run(2)
        live(notebook, 2)
        before = notebook.evaluate(widgets)
        assert before > 0
        for _ in range(3):
            notebook.run(2)
            live(notebook, 2)
        notebook.until(f"{widgets} <= {before}")
        expect(lab.page.locator(".onix-runs")).to_have_count(1)

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_text_can_be_read(self, lab: Lab, theme: str) -> None:
        """In light and in dark, texts stand out from what is behind them, live and static."""
        lab.set_theme(theme)
        notebook = opened(
            lab,
            "@onix.flow\ndef report():\n"
            "    parts = [held.start(x=x) for x in range(3)] + [fail.start(x=x) for x in range(2)]\n"
            "    return [part.exception() is None for part in parts]",
            "future = report.start()\nfuture",
        )
        notebook.run(2, 3)
        view = live(notebook, 3)
        expect(view.locator(".onix-row[data-status=failed]")).to_have_count(2)
        row(view, "fail").click()
        lab.screenshot(f"live-{theme}")
        assert hard_to_read(view) == []
        notebook.until("(gate.set(), True)[1]")
        final = static(notebook, 3)
        lab.screenshot(f"static-{theme}")
        assert hard_to_read(final) == []

    def test_motion_is_reduced_where_it_is_asked_for(self, lab: Lab) -> None:
        """With `prefers-reduced-motion` nothing in the view moves by itself."""
        lab.page.emulate_media(reduced_motion="reduce")
        notebook = opened(lab, SHOWN)
        notebook.run(2)
        view = live(notebook, 2)
        moving = "view => view.getAnimations({subtree: true}).filter(one => one.playState === 'running').length"
        assert view.evaluate(moving) == 0


# WCAG's least contrast for text.
READABLE = 4.5

# The contrast of each text of the view with what is behind it, as WCAG counts it, for those below the bound.
CONTRAST = """(view, bound) => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const layer = rgba(getComputedStyle(at).backgroundColor);
      layers.unshift(layer);
      if (layer[3] === 255) break;
    }
    return layers.reduce((under, over) => over.map((c, i) => c * over[3] / 255 + under[i] * (1 - over[3] / 255)),
                         [255, 255, 255, 255]);
  };
  const hard = [];
  const walk = document.createTreeWalker(view, NodeFilter.SHOW_TEXT);
  for (let node; node = walk.nextNode();) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest('style') || !element.checkVisibility({visibilityProperty: true})) continue;
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < bound) hard.push(`${contrast.toFixed(1)}: ${node.data} (${element.className})`);
  }
  return hard;
}"""


def hard_to_read(view: Locator) -> list[str]:
    """The texts of the view whose contrast is too low, with their contrast."""
    return list(view.evaluate(CONTRAST, READABLE))


class TestSaved:
    @pytest.fixture
    def finished(self, lab: Lab) -> Notebook:
        """A notebook with a view that was live, and has ended, in cell 2."""
        notebook = opened(lab, "futures = [held.start(x=3), fail.start()]\nonix.runs(futures)", "gate.set()")
        notebook.run(2)
        live(notebook, 2)
        notebook.run(3)
        static(notebook, 2)
        return notebook

    def test_the_file_has_the_final_state_only(self, finished: Notebook) -> None:
        """What is saved is HTML without script, and text: no widget."""
        (output,) = [output for output in finished.saved().cells[2].outputs if output.output_type == "display_data"]
        assert set(output.data) == {"text/html", "text/plain"}
        assert "<script" not in output.data["text/html"]
        for text in ("held", "21", "LookupError: nothing at 1"):
            assert text in output.data["text/html"]
            assert text in output.data["text/plain"]

    def test_reopened_with_a_fresh_kernel(self, lab: Lab, finished: Notebook) -> None:
        """A notebook that is opened again shows what it showed, and no missing model."""
        finished.saved()
        finished.reopen()
        view = static(finished, 2)
        expect(view).to_contain_text("nothing at 1")
        expect(view).to_contain_text("21")
        expect(lab.page.get_by_text("model not found")).to_have_count(0)
        lab.screenshot("reopened")

    def test_converted_to_html(
        self, finished: Notebook, open_file: Callable[[Path], Page], tmp_path: Path, screenshots: Path
    ) -> None:
        """`nbconvert --to html` shows the final state, on a page without JupyterLab's style sheets."""
        page = open_file(converted(finished.saved(), tmp_path))
        view = page.locator(".onix-runs.onix-static")
        expect(view).to_be_visible()
        expect(view).to_contain_text("nothing at 1")
        expect(view).to_contain_text("21")
        page.screenshot(path=screenshots / "nbconvert.png")

    def test_converted_to_markdown(self, finished: Notebook) -> None:
        """`nbconvert --to markdown` has the final state."""
        text, _ = nbconvert.MarkdownExporter().from_notebook_node(finished.saved())
        assert "nothing at 1" in text
        assert "<script" not in text


class TestList:
    """Finding one's way in a view with a tree of runs."""

    @pytest.fixture
    def view(self, lab: Lab) -> Locator:
        notebook = opened(
            lab,
            "@onix.flow\ndef report():\n"
            "    parts = [held.start(x=x) for x in range(3)] + [fail.start(x=9)]\n"
            "    return [part.exception() is None for part in parts]",
            "future = report.start()\nfuture",
        )
        notebook.run(2, 3)
        view = live(notebook, 3)
        expect(view.locator(".onix-row")).to_have_count(5)
        expect(view.locator(".onix-row[data-status=failed]")).to_have_count(1)
        return view

    def test_it_says_what_it_is(self, view: Locator) -> None:
        """The parts have the roles that a screen reader needs: a tree of rows with levels, and a progress bar."""
        expect(view.get_by_role("treegrid")).to_have_count(1)
        expect(view.get_by_role("row")).to_have_count(5)
        assert view.locator(".onix-row").evaluate_all("rows => rows.map(row => row.ariaLevel)") == ["1", *"2222"]
        expect(view.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "1")
        for button in view.get_by_role("button").all():
            assert button.get_attribute("aria-label") or button.inner_text().strip()

    def test_filter_by_status(self, view: Locator) -> None:
        """A press on a count shows the runs that it counts, another one all of them."""
        count = view.locator("button.onix-count[data-status=failed]")
        expect(count).to_contain_text("1")
        expect(count).to_have_attribute("aria-pressed", "false")
        count.click()
        expect(count).to_have_attribute("aria-pressed", "true")
        expect(row(view, "fail")).to_be_visible()
        expect(view.locator(".onix-row", has_text="held")).to_have_count(0)
        count.click()
        expect(view.locator(".onix-row")).to_have_count(5)

    def test_filter_by_text(self, view: Locator) -> None:
        """Typing shows the runs whose name, arguments or value has the text."""
        view.locator("input.onix-filter").fill("nothing at")
        expect(view.locator(".onix-row", has_text="held")).to_have_count(0)
        expect(row(view, "fail")).to_be_visible()
        view.locator("input.onix-filter").fill("")
        expect(view.locator(".onix-row")).to_have_count(5)

    def test_collapse(self, view: Locator) -> None:
        """A flow, or all of them, can be collapsed and expanded."""
        row(view, "report").locator(".onix-toggle").click()
        expect(view.locator(".onix-row")).to_have_count(1)
        row(view, "report").locator(".onix-toggle").click()
        expect(view.locator(".onix-row")).to_have_count(5)
        view.locator("button.onix-collapse").click()
        expect(view.locator(".onix-row")).to_have_count(1)

    def test_keyboard(self, view: Locator) -> None:
        """Arrows move, collapse and expand; Enter opens the details; Delete cancels."""
        rows, press = view.locator(".onix-row"), view.page.keyboard.press
        view.locator(".onix-list").focus()
        press("ArrowDown")
        press("ArrowLeft")
        expect(rows).to_have_count(1)
        press("ArrowRight")
        expect(rows).to_have_count(5)
        press("ArrowDown")
        press("ArrowDown")
        press("Enter")
        expect(view.locator(".onix-details .onix-output")).to_contain_text("output of 1")
        press("Delete")
        expect(view.locator(".onix-row[data-status=cancelled]")).to_contain_text("x=1")
        # None of the keys reached the notebook behind: Enter would have opened a cell for editing.
        expect(view.page.locator(".jp-Notebook.jp-mod-editMode")).to_have_count(0)

    def test_details(self, view: Locator) -> None:
        """Details have the traceback with its source lines, the arguments in full, and what was printed."""
        row(view, "fail").click()
        details = view.locator(".onix-details")
        expect(details.locator(".onix-traceback")).to_contain_text("raise LookupError(f'nothing at {x}')")
        expect(details.locator(".onix-arguments")).to_contain_text("9")
        row(view, "x=2").click()
        expect(details.locator(".onix-output")).to_contain_text("output of 2")
