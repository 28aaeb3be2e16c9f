"""Actions on a real Dask cluster: a scheduler and two workers, processes of their own, which are killed."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import distributed
import pytest

import onix_nb as onix
from onix_nb import errors
from onix_nb.engine import session as engine
from onix_nb.executors import dask as dask_executor

# What is defined here travels by value, as what is defined in a cell does.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

WAIT = 30
# Seconds within which a loss has to be told.
TOLD = 5


class Gate:
    """Holds actions on any worker. Each that begins leaves a mark, so that one which began twice shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        os.mkfifo(folder / "begun")
        os.mkfifo(folder / "go")
        self._begun = os.open(folder / "begun", os.O_RDWR)

    def await_begun(self) -> None:
        """Blocks until one more action has begun."""
        assert select.select([self._begun], [], [], WAIT)[0], "none has begun"
        assert os.read(self._begun, 1) == b"x"

    def let_go(self) -> None:
        """Lets one go."""
        with open(f"{self.folder}/go", "w"):
            pass

    def close(self) -> None:
        os.close(self._begun)

    def times_begun(self, x: int) -> int:
        """How often the action of this number has begun."""
        with contextlib.suppress(FileNotFoundError):
            return Path(self.folder, f"marks-{x}").read_text().count("x")
        return 0


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.close()


def until(ready: Callable[[], object]) -> None:
    """Waits for what no event tells: what another process does."""
    deadline = time.monotonic() + WAIT
    while not ready():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


@pytest.fixture
def on_dask(dask_cluster: Any) -> Iterator[Any]:
    """The cluster, on which actions run."""
    with onix.configure(executor=dask_cluster.executor):
        yield dask_cluster
    session = engine._session
    if session is not None:
        session.close_executors()


def mark(folder: str, x: int) -> None:
    with open(f"{folder}/marks-{x}", "a") as marks:
        marks.write("x")


@onix.action
def double(x: int) -> int:
    return 2 * x


@onix.action
def marked(folder: str, x: int) -> int:
    mark(folder, x)
    return x


@onix.action
def held(folder: str, x: int) -> int:
    mark(folder, x)
    with open(f"{folder}/begun", "w") as begun:
        begun.write("x")
    with open(f"{folder}/go") as go:
        go.read()
    return x


@onix.action
def dies(folder: str, x: int) -> None:
    mark(folder, x)
    os._exit(3)


@onix.action
def pid() -> int:
    return os.getpid()


def on(action: Any, *workers: str) -> Any:
    """The action, on workers of these names only."""
    return action.options(dask={"workers": list(workers)})


def lost(future: Any, began: float) -> errors.ExecutorError:
    """The typed error of a run that was lost, told in time."""
    error = future.exception(timeout=WAIT)
    assert time.monotonic() - began < TOLD
    assert type(error) is errors.ExecutorError
    assert f"action {future.run.name}() (run {future.run.id}, attempt 1)" in str(error)
    return error


# Where actions run.


def test_a_run_says_on_which_worker_it_ran(on_dask: Any) -> None:
    """By its address."""
    for name, address in on_dask.await_workers("a", "b").items():
        future = on(pid, name).start()
        assert future.result() == on_dask.pid(name)
        assert future.run.worker == f"worker {address}"


def test_resources(on_dask: Any) -> None:
    """An action that asks for a resource runs where there is one, one at a time."""
    futures = [pid.options(dask={"resources": {"b": 1}}).start() for _ in range(6)]
    assert {future.result() for future in futures} == {on_dask.pid("b")}


def test_calls_are_never_shared(on_dask: Any, tmp_path: Path) -> None:
    """The same call, twice, runs twice."""
    onix.wait([marked.start(folder=str(tmp_path), x=1) for _ in range(2)])
    assert (tmp_path / "marks-1").read_text() == "xx"


def test_a_client(dask_cluster: Any) -> None:
    """A client of the user's is used, and not closed; a closed one is refused by name."""
    with distributed.Client(dask_cluster.address, set_as_default=False) as client, onix.configure(executor=client):
        assert double.start(x=2).result() == 4
        assert engine._session is not None
        engine._session.close_executors()
        assert client.status == "running"
        assert double.start(x=3).result() == 6
        client.close()
        future = double.start(x=4)
        error = future.exception()
        assert isinstance(error, errors.ExecutorError)
        assert f"double() (run {future.run.id}" in str(error)  # type: ignore[union-attr]
        assert "client is closed" in str(error)
    engine._session.close_executors()


def test_a_client_that_is_closed_while_it_has_runs(dask_cluster: Any, gate: Gate) -> None:
    """They fail, with an error that names them."""
    client = distributed.Client(dask_cluster.address, set_as_default=False)
    future = held.options(executor=client).start(folder=gate.folder, x=1)
    gate.await_begun()
    began = time.monotonic()
    client.close()
    lost(future, began)
    assert engine._session is not None
    engine._session.close_executors()
    gate.let_go()


def test_big_arguments_come_without_advice(on_dask: Any, recwarn: pytest.WarningsRecorder) -> None:
    """Dask's warning of large graphs is for people who write graphs."""
    big = bytearray(20_000_000)
    view: Any = __import__("numpy").frombuffer(big, dtype="u1")
    assert onix.action(lambda x: x.nbytes, name="size").start(x=view).result() == 20_000_000  # type: ignore[call-overload]
    assert [str(warning.message) for warning in recwarn] == []


# Workers that are lost.


def test_a_worker_is_killed(on_dask: Any, gate: Gate) -> None:
    """What it had begun fails at once; what waited behind that runs elsewhere, once; the others go on."""
    address = on_dask.await_workers("a", "b")["a"]
    victim, other = (on(held, name).start(folder=gate.folder, x=x) for x, name in enumerate("ab"))
    gate.await_begun()
    gate.await_begun()
    until(victim.running)
    until(other.running)
    behind = [
        marked.options(dask={"workers": ["a"], "allow_other_workers": True}).start(folder=gate.folder, x=x)
        for x in range(10, 16)
    ]
    began = time.monotonic()
    on_dask.kill("a")
    assert f"worker {address} died" in str(lost(victim, began))
    assert not other.done()
    gate.let_go()
    assert other.result(WAIT) == 1
    assert [future.result(WAIT) for future in behind] == [10, 11, 12, 13, 14, 15]
    assert [gate.times_begun(x) for x in (0, 1, *range(10, 16))] == [1] * 8
    assert double.start(x=4).result(WAIT) == 8


def test_an_action_that_kills_its_worker_begins_once(on_dask: Any, gate: Gate) -> None:
    """Dask would try it on one worker after the other; the second one stays."""
    began = time.monotonic()
    future = dies.start(folder=gate.folder, x=1)
    assert "died" in str(lost(future, began))
    assert double.start(x=4).result(WAIT) == 8
    assert gate.times_begun(1) == 1


def test_control_without_the_plugin_it_begins_twice(
    dask_cluster: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test before: Dask by itself runs it again."""

    async def nothing(self: Any, client: Any) -> None: ...

    monkeypatch.setattr(dask_executor.Cluster, "_register", nothing)
    dask_cluster.kill("scheduler")
    dask_cluster.start()
    with onix.configure(executor=dask_cluster.executor):
        future = dies.start(folder=gate.folder, x=1)
        until(lambda: gate.times_begun(1) > 1)
        future.cancel(interrupt=True)
    engine._session.close_executors()  # type: ignore[union-attr]
    dask_cluster.kill("scheduler")  # the next one has a scheduler without our task


def test_a_lost_attempt_is_tried_again(on_dask: Any, tmp_path: Path) -> None:
    """By the policy of the action, as after any exception."""

    @onix.action(retry=onix.RetryPolicy(initial_interval=0.01, maximum_attempts=2))
    def dies_first(folder: str) -> int:
        mark(folder, 1)
        attempt = onix.current_run().attempt  # type: ignore[union-attr]
        if attempt == 1:
            os._exit(3)
        return attempt

    future = dies_first.start(folder=str(tmp_path))
    assert future.result(WAIT) == 2
    assert "was lost" in future.run.spans[0].error  # type: ignore[union-attr, index]


def test_a_worker_that_is_retired(on_dask: Any, gate: Gate) -> None:
    """What it runs then is lost like that of a killed one, and does not begin again elsewhere."""
    address = on_dask.await_workers("a", "b")["a"]
    future = held.options(dask={"workers": ["a"], "allow_other_workers": True}).start(folder=gate.folder, x=1)
    gate.await_begun()
    until(future.running)
    began = time.monotonic()
    with distributed.Client(on_dask.address, set_as_default=False) as client:
        client.retire_workers([address])
    assert "left the cluster" in str(lost(future, began))
    assert double.start(x=4).result(WAIT) == 8
    assert gate.times_begun(1) == 1
    on_dask.kill("a")


# Schedulers that are lost.


def test_a_scheduler_that_is_back(on_dask: Any, gate: Gate) -> None:
    """What had begun fails at once; what had not runs when the scheduler and workers are back."""
    begun = [on(held, name).start(folder=gate.folder, x=x) for x, name in enumerate("ab")]
    gate.await_begun()
    gate.await_begun()
    for future in begun:
        until(future.running)
    waiting = [marked.start(folder=gate.folder, x=x) for x in range(10, 16)]
    assert not any(future.running() for future in waiting)
    began = time.monotonic()
    on_dask.kill("scheduler", "a", "b")
    for future in begun:
        assert "scheduler was lost" in str(lost(future, began))
    on_dask.start()
    assert [future.result(WAIT) for future in waiting] == [10, 11, 12, 13, 14, 15]
    assert [gate.times_begun(x) for x in (0, 1, *range(10, 16))] == [1] * 8
    assert double.start(x=4).result(WAIT) == 8


def test_a_scheduler_that_stays_away(on_dask: Any, gate: Gate) -> None:
    """Everything fails in time, also what is started then; when there is one again, the next run works."""
    begun = held.start(folder=gate.folder, x=1)
    gate.await_begun()
    until(begun.running)
    waiting = [double.start(x=x) for x in range(3)]
    on_dask.kill("b", "a")
    began = time.monotonic()
    on_dask.kill("scheduler")
    late = double.start(x=5)
    for future in (begun, *waiting, late):
        lost(future, began)
    began = time.monotonic()
    lost(double.start(x=6), began)
    on_dask.start()
    assert double.start(x=7).result(WAIT) == 14


@pytest.mark.parametrize("listens", [False, True], ids=["nothing", "silence"])
def test_an_address_that_is_none(listens: bool) -> None:
    """Where nothing listens, or something that is no scheduler: the error says what was tried."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if listens:
            sock.listen()
        address = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(errors.ExecutorError, match=address):
            double.options(executor=f"dask:{address}").start(x=1)
        assert time.monotonic() - began < 10


# Workers of another version.


def test_a_worker_of_another_version(on_dask: Any, tmp_path: Path) -> None:
    """Code objects of one Python crash another one: the run fails before anything is read, and others run."""
    preload = tmp_path / "older.py"
    preload.write_text("from onix_nb.executors import dask\ndask.VERSIONS = ('3.7', '0.0.1')\n")
    on_dask.start_worker("old", "--preload", str(preload))
    on_dask.await_workers("a", "b", "old")
    began = time.monotonic()
    error = lost(on(marked, "old").start(folder=str(tmp_path), x=1), began)
    assert "has Python 3.7 and onix_nb 0.0.1" in str(error)
    assert not (tmp_path / "marks-1").exists()
    assert on(double, "a").start(x=1).result() == 2
    on_dask.kill("old")


# Durable flows.


def test_a_durable_flow_whose_kernel_is_killed(dask_cluster: Any, script: Any, tmp_path: Path) -> None:
    """The journal is the kernel's: what was recorded does not run again on the cluster."""
    source = f"""
        import os, signal, sys
        import onix_nb as onix

        @onix.action
        def step(x):
            with open({str(tmp_path / "log")!r}, "a") as log:
                log.write(f"{{x}} ")
            return x * 10

        @onix.flow(durable=True)
        def steps(n):
            total = step(x=0) + step(x=1)
            if not os.path.exists("killed"):
                open("killed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return total + step(x=2)

        onix.configure(journal="journal.sqlite", executor={dask_cluster.executor!r})
        print(steps(n=1))
    """
    program = script(source)
    code, _, err = program.run()
    assert code == -9, err
    assert program.passes() == "30\n"
    assert (tmp_path / "log").read_text() == "0 1 2 "


# A cluster of one's own.


def test_a_local_cluster(script: Any) -> None:
    """`"dask"` has as many workers as actions may run at once; they end with the kernel, however that ends."""
    source = """
        import os, signal, sys
        import onix_nb as onix

        @onix.action
        def pid():
            return os.getpid()

        if __name__ == "__main__":
            onix.configure(executor="dask", max_workers=2)
            print(*{pid.options(dask={"workers": [n]}).start().result() for n in (0, 1)}, flush=True)
            if len(sys.argv) > 1:
                os.kill(os.getpid(), signal.SIGKILL)
    """
    for killed in (False, True):
        program = script(source)
        out = program.run("kill")[1] if killed else program.passes()
        pids = out.split()
        assert len(pids) == 2
        until(lambda pids=pids: not any(Path(f"/proc/{pid}").exists() for pid in pids))
