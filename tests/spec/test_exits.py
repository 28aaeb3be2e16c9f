"""E7: however the process ends, it ends within five seconds, whatever runs, and in silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

LIMIT = 5.0  # seconds that the design allows
WAIT = 60

# What may run when the process ends. Each calls `begun` when it does.
WORK = {
    "a sleeping action": """
        @onix.action
        def work():
            begun()
            time.sleep(3600)
        work.start()
    """,
    "a spinning action": """
        @onix.action
        def work():
            begun()
            while True:
                pass
        work.start()
    """,
    "a printing action": """
        @onix.action
        def work():
            begun()
            while True:
                print("printing")
        work.start()
    """,
    "a logging action": """
        @onix.action
        def work():
            logging.basicConfig(stream=open(os.devnull, "w"))
            begun()
            while True:
                logging.warning("logging")
        for _ in range(4):
            work.start()
    """,
    "a thread of an async action": """
        @onix.action
        async def work():
            begun()
            await asyncio.to_thread(time.sleep, 3600)
        work.start()
    """,
    "a flow that waits": """
        @onix.action
        def sleep():
            begun()
            time.sleep(3600)

        @onix.flow
        def work():
            onix.wait([sleep.start()])
        work.start()
    """,
    "an async flow": """
        @onix.flow
        async def work():
            begun()
            await asyncio.sleep(3600)
        work.start()
    """,
    "an action that retries": """
        @onix.action(retry=onix.RetryPolicy(initial_interval=3600), timeout=3600)
        def work():
            begun()
            raise ValueError
        work.start().detach()
    """,
    "an action that no cancel stops": """
        @onix.action
        def work():
            begun()
            while True:
                try:
                    time.sleep(0.001)
                except BaseException:
                    pass
        work.start()
    """,
    "pending actions": """
        @onix.action
        def work():
            begun()
            onix.sleep(3600)
        onix.configure(max_workers=1)
        kept = [work.start() for _ in range(100)]
    """,
}

ENDS = {
    "the end of the script": ("pass", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an uncaught error": ("raise ValueError('uncaught')", 1),
    "SIGTERM": ("time.sleep(3600)", -signal.SIGTERM),
}

HEAD = """
import asyncio, logging, os, signal, sys, threading, time
import onix_nb as onix

_begun = threading.Event()

def begun():
    _begun.set()
"""

TAIL = """
assert _begun.wait(30)
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
os.write(int(sys.argv[1]), b"ready")
"""


class Ending:
    """A process that has begun its work and is about to end; several of them end at the same time."""

    def __init__(self, script: Any, work: str, end: str) -> None:
        code, self.expected = ENDS[end]
        self._name = f"{work}, {end}"
        path = script.path.with_name(f"{end.replace(' ', '_')}.py")
        body = "\n".join(line[8:] for line in WORK[work].splitlines())
        path.write_text(HEAD + body + TAIL + code + "\n", encoding="utf-8")
        self._errors = path.with_suffix(".err")
        reading, writing = os.pipe()
        # What it prints goes to a file: a full pipe would hold it up.
        with self._errors.open("w") as errors, path.with_suffix(".out").open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(path), str(writing)],
                env=script.environment({}),
                cwd=path.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                pass_fds=[writing],
            )
        os.close(writing)
        with os.fdopen(reading, "rb") as ready:
            said = ready.read(5)
        assert said == b"ready", self._errors.read_text()
        self._seconds = 0.0
        self._watch = threading.Thread(target=self._wait, args=(time.monotonic(),), daemon=True)
        if end == "SIGTERM":
            self._process.send_signal(signal.SIGTERM)
        self._watch.start()

    def _wait(self, since: float) -> None:
        self._process.wait()
        self._seconds = time.monotonic() - since

    def check(self) -> None:
        """It ends in time, with its own exit code, and stderr has the user's error only."""
        self._watch.join(WAIT)
        if self._watch.is_alive():
            self._process.kill()
            pytest.fail(f"{self._name}: the process did not end")
        text = self._errors.read_text().strip()
        said = text.splitlines()
        assert self._process.returncode == self.expected, f"{self._name}: {text}"
        if self.expected == 1:
            assert text.startswith("Traceback"), f"{self._name}: {text}"
            assert said[-1] == "ValueError: uncaught", f"{self._name}: {text}"
            assert text.count("Traceback") == 1, f"{self._name}: {text}"
        else:
            assert text == "", f"{self._name}: {text}"
        assert self._seconds < LIMIT, f"{self._name}: it took {self._seconds:.1f} s"


def check_every_end(script: Any, work: str) -> None:
    endings = [Ending(script, work, end) for end in ENDS]
    for ending in endings:
        ending.check()


@pytest.mark.parametrize("work", WORK)
def test_a_process_ends(script: Callable[[str], Any], work: str) -> None:
    """At the end of the script, by sys.exit, an uncaught error and SIGTERM: in time, with its exit code, in silence."""
    check_every_end(script(""), work)


def test_printing_while_the_interpreter_ends_never_aborts_it(script: Callable[[str], Any]) -> None:
    """A crash there would be a matter of chance, so it is tried several times."""
    for _ in range(5):
        check_every_end(script(""), "a printing action")


@pytest.mark.deep
def test_printing_while_the_interpreter_ends_never_aborts_it_in_20_tries(script: Callable[..., Any]) -> None:
    """The same, more often."""
    for _ in range(20):
        check_every_end(script(""), "a printing action")


def test_control_a_thread_of_the_stdlibs_executor_holds_the_process_up(script: Callable[[str], Any]) -> None:
    """The check above sees a process that does not end."""
    work = "import concurrent.futures\nconcurrent.futures.ThreadPoolExecutor().submit(lambda: (begun(), time.sleep(7)))"
    ending = script("")
    WORK["a control"] = "\n".join(" " * 8 + line for line in work.splitlines()) + "\n"
    try:
        with pytest.raises(AssertionError, match="it took"):
            Ending(ending, "a control", "the end of the script").check()
    finally:
        del WORK["a control"]


def test_an_idle_process_ends_at_once(script: Callable[..., Any]) -> None:
    """Threads that wait for work cost no time."""
    script("""
    import time
    import onix_nb as onix

    @onix.action
    def double(x):
        return 2 * x

    @onix.action
    async def later(x):
        return x

    @onix.flow
    def flow():
        return double.start(x=1).result() + later.start(x=1).result()

    assert flow() == 3
    """).passes(timeout=LIMIT)


def test_nothing_starts_while_the_interpreter_exits(script: Callable[..., Any]) -> None:
    """A call from an exit hook that runs after onix has gone is refused, and does not hang."""
    out = script("""
    import atexit

    def late():
        for call in (double.start, double, onix.runs):
            try:
                call(x=1) if call is not onix.runs else call()
            except onix.errors.ExecutorError as error:
                print("refused")

    atexit.register(late)
    import onix_nb as onix  # its hook runs before ours, the last registered first

    @onix.action
    def double(x):
        return 2 * x

    double.start(x=1).result()
    """).passes()
    assert out == "refused\n" * 3


def test_a_failure_that_nobody_saw_is_reported_at_the_end(script: Callable[..., Any]) -> None:
    """Once, and by name."""
    code, _, err = script("""
    import onix_nb as onix

    @onix.action
    def fails():
        raise ValueError("unseen")

    future = fails.start()
    onix.wait([future])
    """).run()
    assert code == 0
    assert err.count("ValueError: unseen") == 1
    assert "UnseenFailureWarning" in err


def test_an_action_cleans_up_at_the_end(script: Callable[..., Any]) -> None:
    """What stops in time gets RunCancelled, and may use its `finally`."""
    out = script("""
    import threading
    import onix_nb as onix

    begun = threading.Event()

    @onix.action
    def work():
        try:
            begun.set()
            onix.sleep(3600)
        finally:
            print("cleaned up", flush=True)

    work.start()
    begun.wait()
    """).passes()
    assert out == "cleaned up\n"


# Kernels


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[tuple[KernelManager, Any, Path]]:
    """A real kernel, its client, and the file of its stderr."""
    manager = KernelManager(kernel_name="python3")
    manager.shutdown_wait_time = WAIT  # it has to end by itself: the manager would kill it after this
    errors = tmp_path / "kernel.err"
    with errors.open("w") as stderr, (tmp_path / "kernel.out").open("w") as stdout:
        manager.start_kernel(cwd=str(tmp_path), stderr=stderr, stdout=stdout)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=WAIT)
            yield manager, client, errors
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def run_cell(client: Any, code: str) -> None:
    reply = client.execute(code, reply=True, timeout=WAIT)  # without its output, which may come late or be lost
    assert reply["content"]["status"] == "ok", reply["content"]


def kernel_pid(client: Any) -> int:
    """The process of the kernel itself."""
    reply = client.execute("", user_expressions={"pid": "os.getpid()"}, reply=True, timeout=WAIT)
    return int(reply["content"]["user_expressions"]["pid"]["data"]["text/plain"])


def start_all_work(client: Any, *, but: tuple[str, ...]) -> None:
    """Everything above at once, each in a cell."""
    run_cell(client, HEAD + "%load_ext onix_nb\nonix.configure(max_workers=100)")
    for name, code in WORK.items():
        if name not in but:
            run_cell(client, "_begun.clear()\n" + "\n".join(line[8:] for line in code.splitlines()))
            run_cell(client, "assert _begun.wait(30)")
    run_cell(client, "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL")


def complaints(errors: Path, words: tuple[str, ...]) -> str:
    """The kernel's stderr, if one of `words` is in it."""
    text = errors.read_text()
    return text if any(word in text for word in words) else ""


def test_a_kernel_shuts_down(kernel: tuple[KernelManager, Any, Path]) -> None:
    """Within five seconds, by itself, with all of that running."""
    manager, client, errors = kernel
    start_all_work(client, but=("pending actions",))
    since = time.monotonic()
    manager.shutdown_kernel(now=False)
    assert time.monotonic() - since < LIMIT
    # No "Traceback" here: ipykernel's own thread may leave one when something prints up to the end.
    assert complaints(errors, ("Fatal", "onix_nb")) == ""


def restart(manager: KernelManager, client: Any) -> None:
    """The old process ends within five seconds, by itself, and there is a new one."""
    pid = kernel_pid(client)
    since = time.monotonic()
    manager.restart_kernel(now=False)
    assert time.monotonic() - since < LIMIT
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert manager.is_alive()


def test_a_kernel_restarts(kernel: tuple[KernelManager, Any, Path]) -> None:
    """In time, and in silence."""
    manager, client, errors = kernel
    start_all_work(client, but=("pending actions", "a printing action"))
    restart(manager, client)
    assert complaints(errors, ("Fatal", "onix_nb", "Traceback", "Exception", "Error")) == ""


def test_a_kernel_restarts_while_something_prints(kernel: tuple[KernelManager, Any, Path]) -> None:
    """In time, too; ipykernel's own thread may then leave a traceback."""
    manager, client, errors = kernel
    start_all_work(client, but=("pending actions",))
    restart(manager, client)
    assert complaints(errors, ("Fatal", "onix_nb")) == ""
