"""Exceptions in other threads."""

from __future__ import annotations

import sys
from typing import Any

import pytest

# Something is sent to a thread that is blocked, and is taken back; then a traced function calls another one.
PROGRAM = """
import faulthandler, sys, threading
from onix_nb.model import interrupting

blocked, go = threading.Event(), threading.Event()

def sent_to():
    blocked.set()
    go.wait()
    {at_the_end}

thread = threading.Thread(target=sent_to)
thread.start()
blocked.wait()
interrupting._set(thread.ident, KeyError)
interrupting._set(thread.ident, None)
go.set()
thread.join()
faulthandler.dump_traceback_later(5, exit=True)

def inner():
    return "went on"

def traced():
    print(inner())

sys.settrace(lambda *_: lambda *_: None)
traced()
"""


def test_what_was_taken_back_hangs_no_traced_thread(script: Any) -> None:
    """A debugger, or a measurement of coverage, goes on after a cancel that came too late."""
    assert script(PROGRAM.format(at_the_end="interrupting.take_back()")).passes() == "went on\n"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later Pythons clear the mark themselves")
def test_without_more_ado_it_does(script: Any) -> None:
    """Control: the mark that Python 3.11 leaves is one that hangs a traced thread."""
    code, out, err = script(PROGRAM.format(at_the_end="pass")).run()
    assert (code, out) == (1, "")
    assert "in traced" in err
