"""The pictures of the README, taken anew: `build/screenshots/readme-*.png` replace those in `.github/images`."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from .lab import Lab
from .server import PATIENCE

LOAD = "%load_ext onix_nb\nimport onix, threading"
# Its end is in our hands, so that the picture is taken in the middle.
ACTIONS = """\
middle, end = threading.Event(), threading.Event()
onix.configure(max_workers=6)

@onix.action(retry=onix.RetryPolicy(initial_interval=0.4))
def fetch(page: int):
    onix.sleep(0.2 + 0.1 * page)
    if page == 3 and onix.current_run().attempt < 3:
        raise ConnectionError("reset by peer")
    print(f"page {page}: {100 + 7 * page} rows")
    return {"page": page, "rows": 100 + 7 * page}

@onix.action
def clean(page: int, rows: int):
    if page == 2:
        raise ValueError("column 'price' is not a number: '12,50 €'")
    (end if page > 3 else middle).wait(60)
    return rows - page

@onix.flow
def report(pages: int):
    futures = [clean.start(**fetched.result()) for fetched in onix.as_completed([fetch.start(page=page) for page in range(pages)])]
    return sum(future.result() for future in futures if future.exception() is None)"""
SHOW = "report.start(pages=6)"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_flow_in_the_middle(lab: Lab, screenshots: Path, theme: str) -> None:
    """Runs that succeeded, failed, were tried again and go on, in one picture, with the details of one."""
    expect.set_options(timeout=PATIENCE * 1000)
    lab.set_theme(theme)
    notebook = lab.open(LOAD, ACTIONS, SHOW)
    notebook.run(0, 1, 2)
    view = notebook.output(2).locator('.onix-runs[data-state="live"]')
    expect(view.locator(".onix-row", has_text="clean")).to_have_count(6)
    notebook.until("(middle.set(), True)[1]")
    for status, number in {"succeeded": 9, "running": 3, "failed": 1}.items():
        expect(view.locator(f".onix-row[data-status={status}]")).to_have_count(number)
    if theme == "dark":
        view.locator(".onix-row[data-status=failed]").click()
        expect(view.locator(".onix-details .onix-traceback")).to_contain_text("price")
    lab.page.mouse.move(0, 0)
    view.scroll_into_view_if_needed()
    notebook.cell(2).screenshot(path=screenshots / f"readme-{theme}.png")
    notebook.until("(end.set(), True)[1]")
    expect(notebook.output(2).locator(".onix-runs.onix-static")).to_contain_text("12 succeeded")
