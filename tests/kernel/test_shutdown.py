"""The kernel is shut down while work goes on: it is gone at once, and says nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

SLEEPS = """
%load_ext onix_nb
import asyncio, threading, time
import onix
begun = threading.Semaphore(0)

@onix.action
def blocks():
    begun.release()
    time.sleep(3600)

@onix.action
def sleeps():
    begun.release()
    onix.sleep(3600)

@onix.action
async def awaits():
    begun.release()
    await asyncio.sleep(3600)

@onix.flow
def joins():
    onix.wait([blocks.start(), sleeps.start(), awaits.start()])

flow = joins.start()
for _ in range(3):
    begun.acquire()
flow
"""


def exit_of(kind: Callable[[KernelManager], Any], folder: Path, source: str) -> tuple[int | None, str]:
    """The exit code of a kernel that has run `source` and is asked to end, and what it then says on stderr.

    The code is below 0 when it had to be killed, within the five seconds that Jupyter gives it.
    """
    manager = KernelManager(kernel_name="python3")
    assert manager.shutdown_wait_time == 5.0
    said = folder / "stderr"
    with said.open("w") as stderr:
        manager.start_kernel(stderr=stderr, cwd=str(folder))
        with contextlib.closing(kind(manager)) as notebook:
            notebook.ok(source)
            before = said.stat().st_size
            process = manager.provisioner.process  # type: ignore[union-attr]
            manager.shutdown_kernel(now=False)
    return process.poll(), said.read_text()[before:]


def test_work_that_would_take_an_hour_holds_nothing_up(new_notebook: Callable[[], Any], tmp_path: Path) -> None:
    """On threads, on the loop, and in a flow that waits for them."""
    assert exit_of(type(new_notebook()), tmp_path, SLEEPS) == (0, "")


def test_control_a_kernel_that_is_held_up_is_seen(new_notebook: Callable[[], Any], tmp_path: Path) -> None:
    """Python waits for threads that are no daemons."""
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()"
    code, _ = exit_of(type(new_notebook()), tmp_path, source)
    assert code is not None
    assert code < 0


def test_control_a_word_on_stderr_is_seen(new_notebook: Callable[[], Any], tmp_path: Path) -> None:
    """Written past ipykernel."""
    source = "import atexit\natexit.register(lambda: open('stderr', 'a').write('something'))"
    assert exit_of(type(new_notebook()), tmp_path, source) == (0, "something")
