"""No script runs from any value: names, arguments, results, exceptions, tracebacks, output, names of cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from .lab import Lab, Notebook, converted
from .payloads import PAYLOADS, fired
from .server import PATIENCE

LOAD = "%load_ext onix_nb\nimport onix, html, linecache, threading\nfrom onix_nb.engine.session import live"

# Two actions for each payload: the payload is the name of the function, of its parameter and of the cell,
# an argument, what is printed, and the result of the one, or the exception of the other, of which it is
# the class, the text, a note, the file and the source line. Some can't have each letter.
ACTIONS = f"""\
PAYLOADS = {PAYLOADS!a}

def a_name(text, kind):
    try:
        return type(text, (kind,), {{}})
    except (ValueError, UnicodeError):
        return kind

def printable(text):
    return text.encode('utf-8', 'replace').decode()

def start(number, text):
    line = printable(text).replace(chr(0), '').replace('\\r', ' ').replace('\\n', ' ').replace('\\x0c', ' ')
    file = f'<{{number}} {{line}}>'
    source = f'def broken(): raise a_name(text, LookupError)(text)  # {{line}}\\n'
    linecache.cache[file] = len(source), None, [source], file
    names = {{'a_name': a_name, 'text': text}}
    exec(compile(source, file, 'exec'), names)

    def told(**arguments):
        print(f'output-{{number}}:', printable(text))
        return text

    def failed(**arguments):
        print(f'output-{{number}}:', printable(text))
        try:
            names['broken']()
        except LookupError as error:
            error.add_note(text)
            raise

    for action in told, failed:
        live().cell = text
        action.__name__ = action.__qualname__ = text
        yield onix.action(action).start(**{{text: text, 'x': [text, {{text: text}}]}})

gate = threading.Event()

@onix.action
def held():
    gate.wait(600)

def start_all():
    futures = [future for number, text in enumerate(PAYLOADS) for future in start(number, text)]
    onix.wait(futures)
    return [*futures, held.start()]

futures = start_all()
get_ipython().display_pub.clear_output()"""
SHOW = "onix.runs(futures)"
# Jupyter itself can't send a lone surrogate, whoever prints it.
FRAME = """\
import pandas as pd
pd.set_option('display.max_rows', None, 'display.max_columns', None, 'display.max_colwidth', None)
def plain(value):
    return printable(value) if isinstance(value, str) else value
shown = [future.run for future in futures]
display(pd.DataFrame([{plain(name): plain(value) for name, value in run.arguments.items()} for run in shown[:20]]))
pd.DataFrame([[plain(text) for text in (run.name, run.cell, run.error)] for run in shown])"""
UNESCAPED = "html.escape = lambda text, quote=True: text"

# So many of the payloads must run where nothing is escaped, for a test to say anything.
ENOUGH = 20


@pytest.fixture
def notebook(lab: Lab) -> Notebook:
    """A notebook in which all that is hostile has run; cell 2 shows it, cell 3 as frames, cell 4 breaks escaping."""
    expect.set_options(timeout=PATIENCE * 1000)
    notebook = lab.open(LOAD, ACTIONS, SHOW, FRAME, UNESCAPED)
    notebook.run(0, 1)
    return notebook


def live(notebook: Notebook) -> Locator:
    view = notebook.output(2).locator('.onix-runs[data-state="live"]')
    expect(view.locator(".onix-row").first).to_be_visible()
    return view


def end(notebook: Notebook) -> None:
    """Lets the last run end: the view becomes static."""
    notebook.until("(gate.set(), True)[1]")
    expect(notebook.output(2).locator(".onix-runs.onix-static")).to_have_count(1)


def test_there_are_many_payloads(open_file: Callable[[Path], Page], tmp_path: Path) -> None:
    """Control: most of them run a script when they are put on a page, or into an attribute, as they are."""
    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html>")
    page = open_file(empty)
    ran: set[int] = set()
    for number, text in enumerate(PAYLOADS):
        for around in "<p>{}</p>", '<p title="{}">x</p>', "<p title='{}'>x</p>":
            page.set_content("<body>" + around.format(text.encode("utf-8", "replace").decode()) + "</body>")
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            ran |= set(page.evaluate("window.__pwned ?? []"))
            if number in ran:
                break
    assert len(PAYLOADS) >= 100
    assert len(ran) >= 60


def test_in_the_live_view(lab: Lab, notebook: Notebook) -> None:
    """Rows, filters and details of hostile runs run nothing."""
    notebook.run(2)
    view = live(notebook)
    rows, details = view.locator(".onix-row"), view.locator(".onix-details")
    view.locator(".onix-list").focus()
    for number in range(len(PAYLOADS)):
        lab.page.keyboard.press("ArrowDown")
        lab.page.keyboard.press("ArrowDown")
        if number == 0:
            lab.page.keyboard.press("Enter")  # from here on, the details are those of the row that is chosen
            expect(details.locator(".onix-traceback")).to_contain_text("broken")
        expect(details.locator(".onix-output")).to_contain_text(f"output-{number}:")
    view.locator("input.onix-filter").fill(PAYLOADS[7])
    expect(rows).not_to_have_count(0)
    lab.screenshot("hostile")
    assert fired(lab.page) == set()


def test_a_live_view_that_does_not_escape_is_caught(lab: Lab, notebook: Notebook) -> None:
    """Control: the texts are there, and would run if the view took them for HTML."""
    notebook.run(2)
    view = live(notebook)
    seen = "() => [...document.querySelectorAll('.onix-row')].map(row => row.textContent)"
    assert any("<script>" in text for text in lab.page.evaluate(seen))
    view.evaluate("view => view.querySelectorAll('.onix-name').forEach(one => { one.innerHTML = one.textContent })")
    assert len(fired(lab.page)) >= 3
    lab.problems.clear()


def test_in_what_is_saved(lab: Lab, notebook: Notebook, open_file: Callable[[Path], Page], tmp_path: Path) -> None:
    """The static view and frames run nothing in JupyterLab, when reopened, and on nbconvert's page."""
    notebook.run(2)
    live(notebook)
    end(notebook)
    notebook.run(3)
    expect(notebook.output(3).locator("table.dataframe")).not_to_have_count(0)
    assert fired(lab.page) == set()
    saved = notebook.saved()
    notebook.reopen()
    expect(notebook.output(2).locator(".onix-runs.onix-static")).to_have_count(1)
    assert fired(lab.page) == set()
    page = open_file(converted(saved, tmp_path))
    expect(page.locator(".onix-runs.onix-static")).to_have_count(1)
    assert fired(page) == set()


def test_a_static_view_that_does_not_escape_is_caught(
    lab: Lab, notebook: Notebook, open_file: Callable[[Path], Page], tmp_path: Path
) -> None:
    """Control: with an escape that does nothing, the same checks find scripts that ran, in Lab and on nbconvert's page."""
    notebook.run(4)
    notebook.until("(gate.set(), futures[-1].exception() is None)[1]")
    notebook.run(2)
    assert len(fired(lab.page)) >= ENOUGH
    page = open_file(converted(notebook.saved(), tmp_path))
    assert len(fired(page)) >= ENOUGH
    lab.problems.clear()
