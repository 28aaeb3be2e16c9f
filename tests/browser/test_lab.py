"""The bed itself: a notebook runs in JupyterLab, in the browser, and shows what ran."""

from __future__ import annotations

from playwright.sync_api import expect

from .lab import Lab

LOAD = "%load_ext onix_nb\nimport onix, threading"
DOUBLE = "@onix.action\ndef double(x: int):\n    return 2 * x"


def test_an_action_is_shown_as_it_ended(lab: Lab) -> None:
    """`%load_ext onix_nb`, an action, its future as the last expression: the page shows the call and its result."""
    notebook = lab.open(LOAD, DOUBLE, "double.start(x=21)")
    notebook.run_all()
    output = notebook.output(2)
    expect(output).to_contain_text("double")
    expect(output).to_contain_text("succeeded")
    expect(output).to_contain_text("42")
    lab.screenshot("first")


def test_a_reload_a_restart_and_an_interrupt(lab: Lab) -> None:
    """Control: the page comes back with its kernel, another kernel knows nothing, and a blocked cell can be stopped."""
    notebook = lab.open("x = 1", "print('blocked', flush=True)\nthreading.Event().wait()", "import threading")
    notebook.run(0, 2)
    assert notebook.evaluate("x") == 1
    notebook.reload()
    assert notebook.evaluate("x") == 1
    ticket = notebook.start(1)
    notebook.expect_output(1, "blocked")
    notebook.interrupt()
    notebook.end(ticket)
    notebook.expect_output(1, "KeyboardInterrupt")
    notebook.restart()
    assert notebook.evaluate("'x' in globals()") is False
    assert "KeyboardInterrupt" in str(notebook.saved().cells[1].outputs)


def test_complaints_of_the_browser_are_collected(lab: Lab) -> None:
    """Control: a console error, an uncaught error and a dialog are each told."""
    lab.page.evaluate("console.error('one'); setTimeout(() => { throw new Error('two') }); alert('three')")
    lab.page.wait_for_function("new Promise(done => setTimeout(() => done(true), 0))")
    assert sorted(text.partition(" (")[0] for text in lab.problems) == ["alert: three", "console: one", "uncaught: two"]
    lab.problems.clear()
