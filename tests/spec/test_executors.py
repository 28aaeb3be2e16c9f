"""Wherever actions run, a notebook gives the same results, errors, statuses, times and frames."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy
import pandas
import pytest

import onix_nb as onix
from onix_nb import errors
from onix_nb.engine import session as engine
from onix_nb.live.html import Row, details

# What is defined here travels by value, as what is defined in a cell does.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

WAIT = 30

PLACES = ("threads", "processes", "dask", "foreign")


def setting(place: str) -> Any:
    """What `configure(executor=...)` is given for a place."""
    if place == "foreign":
        pool, all_there = concurrent.futures.ThreadPoolExecutor(4), threading.Barrier(4)
        for future in [pool.submit(all_there.wait, WAIT) for _ in range(4)]:
            future.result()
        return pool
    return place


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where actions run, warmed up, for all tests of this file one after the other."""
    if request.param == "dask":
        cluster = request.getfixturevalue("_dask_cluster")
        cluster.start()
        wanted = cluster.executor
    else:
        wanted = setting(request.param)
    with onix.configure(executor=wanted) as settings:
        assert double(x=1) == 2
        assert double.options(executor="processes")(x=1) == 2  # whose threads stay
        yield request.param
        if request.param == "foreign":
            settings.executor.shutdown()
    session = engine._session
    assert session is not None
    session.close_executors()


@pytest.fixture
def elsewhere(place: str) -> str:
    """The places that are other processes."""
    if place in ("threads", "foreign"):
        pytest.skip("objects don't travel")
    return place


class Gate:
    """Holds actions in any process: each tells that it has begun, and goes on when it is let go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("begun", "go"):
            os.mkfifo(folder / name)
        self._begun = os.open(folder / "begun", os.O_RDWR)

    def await_begun(self) -> None:
        """Blocks until one more action has begun."""
        assert select.select([self._begun], [], [], WAIT)[0], "none has begun"
        assert os.read(self._begun, 1) == b"x"

    def let_go(self) -> None:
        """Lets one go."""
        with open(self.folder / "go", "w"):
            pass


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate of the test's own."""
    return Gate(tmp_path)


def until(ready: Callable[[], bool]) -> None:
    """Waits for what no event tells: a status that another process changes."""
    deadline = time.monotonic() + WAIT
    nap = threading.Event()
    while not ready():
        assert time.monotonic() < deadline, "it did not come"
        nap.wait(0.005)


@onix.action
def double(x: Any) -> Any:
    return x + x


@onix.action
def held(folder: str, x: int = 0) -> int:
    with open(f"{folder}/begun", "w") as begun:
        begun.write("x")
    with open(f"{folder}/go") as go:
        go.read()
    return x


@onix.action
def say(text: str) -> None:
    print(text)
    print("and", text, file=sys.stderr)


class OwnError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number

    def __reduce__(self) -> Any:
        return OwnError, (self.number,)


def inner(number: int) -> None:
    try:
        1 // number
    except ZeroDivisionError as error:
        failure = OwnError(7)
        failure.add_note("noted")
        raise failure from error


@onix.action
def fails(number: int) -> None:
    inner(number)


@onix.action
def fails_until(path: str, success: int) -> int:
    attempt = onix.current_run().attempt  # type: ignore[union-attr]
    with open(path, "a") as file:
        file.write(f"{attempt} ")
    if attempt < success:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


@onix.action
def naps(seconds: float) -> float:
    time.sleep(seconds)  # the work under test
    return seconds


@onix.action
def sleeps(folder: str) -> None:
    with open(f"{folder}/begun", "w") as begun:
        begun.write("x")
    try:
        onix.sleep(WAIT)
    finally:
        Path(folder, "stopped").touch()


@onix.action
def spins(folder: str) -> None:
    with open(f"{folder}/begun", "w") as begun:
        begun.write("x")
    try:
        while True:
            pass
    finally:
        Path(folder, "stopped").touch()


@onix.action
def calls_an_action() -> int:
    return double(x=1)  # type: ignore[no-any-return]


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize("value", [1, "a", [1, 2], (3,), 2.5, None], ids=repr)
def test_results(place: str, value: Any) -> None:
    """A result is what the function returned."""

    @onix.action
    def same(value: Any) -> Any:
        return value

    assert same.start(value=value).result() == value
    assert same(value=value) == value


def test_classes_of_cells(place: str) -> None:
    """An instance of a class that a cell defined is one of that class when it is back."""

    @onix.action
    def move(point: Point) -> Point:
        return Point(point.x + 1)

    moved = move.start(point=Point(1)).result()
    assert type(moved) is Point
    assert moved == Point(2)


def test_closures(place: str) -> None:
    """A function takes with it what it closes over."""
    factor = 3

    def times(x: int) -> int:
        return factor * x

    assert onix.action(lambda x: times(x))(x=5) == 15


def test_frames_and_arrays(place: str) -> None:
    """Pandas and numpy values arrive and come back as they are; changing an argument is allowed."""

    @onix.action
    def change(array: Any) -> Any:
        array[0] = 7
        return pandas.DataFrame({"a": array})

    frame = change.start(array=numpy.arange(3)).result()
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame({"a": [7, 1, 2]}))


def test_big_arrays(place: str) -> None:
    """Big arrays arrive as they are at each start, also when they changed in between."""

    @onix.action
    def total(array: Any) -> Any:
        array[0] += 1
        return array.sum(), array

    array = numpy.ones(400_000)
    futures = [total.start(array=array.copy() if place in ("threads", "foreign") else array) for _ in range(3)]
    assert [future.result()[0] for future in futures] == [400_001] * 3
    array[:] = 2
    result, back = total.start(array=array).result()
    assert result == back.sum() == 800_001
    back[0] = 5  # a result is one's own


def test_errors(place: str) -> None:
    """An exception comes back as it was: its class, its attributes, its notes, its cause."""
    error = fails.start(number=0).exception()
    assert type(error) is OwnError
    assert error.number == 7
    assert error.__notes__ == ["noted"]
    assert type(error.__cause__) is ZeroDivisionError
    with pytest.raises(OwnError, match="number 7"):
        fails(number=0)


def test_tracebacks(place: str) -> None:
    """A traceback has the user's frames, with their lines, and none of those that led to them."""
    error = fails.start(number=0).exception()
    assert error is not None
    frames = traceback.extract_tb(error.__traceback__)
    assert [frame.name for frame in frames] == ["fails", "inner"]
    assert frames[-1].line == "raise failure from error"
    assert {frame.filename for frame in frames} == {__file__}
    assert error.__cause__ is not None
    assert [frame.line for frame in traceback.extract_tb(error.__cause__.__traceback__)] == ["1 // number"]
    shown = "".join(traceback.format_exception(error))
    assert "~~^^~~~~~~" in shown


def test_exception_groups(place: str) -> None:
    """The parts of a group keep their tracebacks."""

    @onix.action
    def group() -> None:
        try:
            inner(0)
        except OwnError as error:
            raise ExceptionGroup("two", [error, ValueError("b")]) from None

    error = group.start().exception()
    assert isinstance(error, ExceptionGroup)
    assert [type(one) for one in error.exceptions] == [OwnError, ValueError]
    assert [f.name for f in traceback.extract_tb(error.exceptions[0].__traceback__)] == ["group", "inner"]
    assert error.__suppress_context__


def test_statuses(place: str, gate: Gate) -> None:
    """A run is pending, then running, then succeeded; its worker is known where it isn't the kernel."""
    future = held.start(folder=str(gate.folder), x=3)
    assert future.run is not None
    gate.await_begun()
    until(future.running)
    assert (future.run.status, future.done()) == ("running", False)
    gate.let_go()
    assert future.result() == 3
    assert future.run.status == "succeeded"
    assert (future.run.worker is None) == (place == "threads")
    assert fails.start(number=0).exception() is not None


def test_times(place: str) -> None:
    """A run's times are those of its function: the wait in the queue is not in them."""
    began = time.monotonic()
    future = naps.start(seconds=0.2)
    future.result()
    ended = time.monotonic()
    run = future.run
    assert run is not None
    assert run.started is not None
    assert run.finished is not None
    assert began <= run.queued <= run.started <= run.finished <= ended
    assert 0.19 <= run.elapsed < 1.2  # type: ignore[operator]


def test_cancel_of_what_has_not_begun(place: str, gate: Gate, request: pytest.FixtureRequest) -> None:
    """What was cancelled in the queue never begins."""
    with onix.configure(max_workers=1):
        limited = held.options(dask={"workers": ["a"]})
        if place == "foreign":
            pool = concurrent.futures.ThreadPoolExecutor(1)
            request.addfinalizer(pool.shutdown)
            limited = held.options(executor=pool)
        elif place == "dask":
            cluster = request.getfixturevalue("_dask_cluster")
        first = limited.start(folder=str(gate.folder), x=1)
        gate.await_begun()
        until(first.running)  # the worker's word of it may come later than that of the gate
        queued = [limited.start(folder=str(gate.folder), x=2) for _ in range(6)]
        assert all(future.cancel() for future in queued)
        assert not first.cancel()
        if place == "dask":
            until(lambda: cluster.tasks_of("a") == 1)  # it has heard of that
        gate.let_go()
        assert first.result() == 1
        last = limited.start(folder=str(gate.folder), x=3)  # one of those would begin before it
        gate.await_begun()
        gate.let_go()
        assert last.result() == 3
        assert {future.run.status for future in queued if future.run} == {"cancelled"}


def test_cancel_of_what_runs(place: str, gate: Gate) -> None:
    """A run that is interrupted gets `RunCancelled` at its next call into onix."""
    future = sleeps.start(folder=str(gate.folder))
    gate.await_begun()
    assert future.cancel(interrupt=True)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    until(lambda: (gate.folder / "stopped").exists())
    until(lambda: future.run is not None and not future.run.stopping)


def test_cancel_of_what_spins(place: str, gate: Gate) -> None:
    """Code that never calls into onix is made to stop after a second."""
    if place == "foreign":
        pytest.skip("the threads are not ours to interrupt")
    future = spins.start(folder=str(gate.folder))
    gate.await_begun()
    assert future.cancel(interrupt=True)
    until(lambda: (gate.folder / "stopped").exists())
    assert double.start(x=2).result() == 4


def test_retries(place: str, tmp_path: Path) -> None:
    """A failed attempt is followed by another; each is recorded."""
    policy = onix.RetryPolicy(initial_interval=0.01, maximum_attempts=4)
    future = fails_until.options(retry=policy).start(path=str(tmp_path / "log"), success=3)
    assert future.result() == 3
    assert future.run is not None
    assert [span.attempt for span in future.run.spans or ()] == [1, 2]
    assert [span.error for span in future.run.spans or ()] == [f"ConnectionError: attempt {n}" for n in (1, 2)]
    assert (tmp_path / "log").read_text() == "1 2 3 "
    assert fails_until.options(retry=policy)(path=str(tmp_path / "other"), success=2) == 2


def test_timeouts(place: str, gate: Gate) -> None:
    """An attempt that takes too long fails, and is made to stop."""
    future = sleeps.options(timeout=0.3).start(folder=str(gate.folder))
    error = future.exception()
    assert isinstance(error, errors.AttemptTimeoutError)
    until(lambda: (gate.folder / "stopped").exists())


def test_an_action_calls_no_action(place: str) -> None:
    """Also not in a worker."""
    error = calls_an_action.start().exception()
    assert isinstance(error, errors.ActionCallError)
    assert "calls_an_action" in str(error)


def test_flows(place: str) -> None:
    """A flow in the kernel joins actions wherever they run."""

    @onix.flow
    def total(n: int) -> int:
        done, not_done = onix.wait([double.start(x=x) for x in range(n)])
        assert not not_done
        return sum(future.result() for future in done)

    assert total(n=10) == 90


def test_callbacks_may_start_and_wait(place: str) -> None:
    """A callback runs where it holds nobody up."""
    results = concurrent.futures.Future[int]()
    future = naps.start(seconds=0.05)
    future.add_done_callback(lambda _: results.set_result(double.start(x=4).result()))
    assert results.result(WAIT) == 8


def test_output(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What an action prints comes out here, before its result."""
    say.start(text="hello").result()
    captured = capsys.readouterr()
    assert captured.out == "hello\n"
    assert captured.err == "and hello\n"


def test_output_in_order(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Many lines come in their order, and all of them before the result."""

    @onix.action
    def count(n: int) -> None:
        for i in range(n):
            print(i)
        print("end", end="")

    count.start(n=200).result()
    assert capsys.readouterr().out == "".join(f"{i}\n" for i in range(200)) + "end"


def test_frames(place: str) -> None:
    """The same frame comes of the same runs."""
    futures = [double.start(x=1), fails.start(number=0), double.start(x=3)]
    onix.wait(futures)
    frame = onix.runs(futures).to_frame()
    assert list(frame["status"]) == ["succeeded", "failed", "succeeded"]
    assert list(frame["name"]) == ["double", "fails", "double"]
    assert list(frame["result"])[::2] == [2, 6]
    assert list(frame["error_type"])[1] == "OwnError"
    assert frame["elapsed"].notna().all()
    assert list(onix.runs(futures).errors()["type"]) == ["OwnError"]
    workers = [run.worker for run in onix.runs(futures)]
    assert list(frame["worker"].astype(object).where(frame["worker"].notna(), None)) == workers
    assert [worker is None for worker in workers] == [place == "threads"] * 3
    assert all(f" on {run.worker}" in details(Row(run, None))["summary"] for run in onix.runs(futures) if run.worker)


def test_what_runs_stays_where_it_is(place: str, gate: Gate) -> None:
    """Another executor is for what starts from then on."""
    future = held.start(folder=str(gate.folder), x=1)
    gate.await_begun()
    with onix.configure(executor="threads"):
        there = double.start(x=2)
        assert there.result() == 4
        assert there.run is not None
        assert there.run.worker is None
        gate.let_go()
        assert future.result() == 1


def test_options_of_one_action(place: str) -> None:
    """An action may run elsewhere than the others."""
    here = onix.action(executor="threads")(os.getpid)
    assert here.start().result() == os.getpid()
    there = onix.action(os.getpid).options(executor="processes")
    assert there() != os.getpid()


# What can't travel.


def test_what_cannot_travel_is_named(elsewhere: str, tmp_path: Path) -> None:
    """A function that closes over something that can't be sent fails, and the error names the variable."""
    lock, numbers = threading.Lock(), (n for n in range(3))
    with socket.socket() as sock:
        for variable, function in {
            "lock": lambda: lock.locked(),
            "numbers": lambda: next(numbers),
            "sock": lambda: sock.fileno(),
        }.items():
            error = onix.action(function, name="closes").options(retry=3).start().exception()  # type: ignore[call-overload]
            assert isinstance(error, errors.TransferError), variable
            assert f"variable {variable!r}" in str(error)
            assert "closes" in str(error)
    error = double.start(x=lock).exception()
    assert isinstance(error, errors.TransferError)
    assert "argument 'x'" in str(error)


def test_results_that_cannot_travel(elsewhere: str) -> None:
    """A result that can't come back is an error that says of what type it was."""
    future = onix.action(lambda: threading.Lock(), name="lock").start()  # type: ignore[call-overload]
    assert isinstance(future.exception(), errors.TransferError)
    assert "returned a lock" in str(future.exception())


def test_exceptions_that_cannot_be_read(elsewhere: str) -> None:
    """An exception that pickles and can't be read is an error that has its text and its traceback."""

    class Unreadable(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a} and {b}")

    @onix.action
    def raises() -> None:
        raise Unreadable(1, 2)

    error = raises.start().exception()
    assert isinstance(error, errors.TransferError)
    assert "Unreadable: 1 and 2" in str(error)
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["raises"]
    assert double.start(x=2).result() == 4


# Choosing one.


@pytest.mark.parametrize("wrong", ["cores", "dask:", "", "THREADS"])
def test_wrong_names(wrong: str) -> None:
    """A text that names no executor is refused."""
    with pytest.raises(ValueError, match="executor"):
        onix.configure(executor=wrong)


def test_wrong_objects() -> None:
    """So is an object that is none, and an executor for an async action."""
    with pytest.raises(TypeError, match="executor"):
        onix.configure(executor=3)  # type: ignore[arg-type]

    async def nothing() -> None: ...

    with pytest.raises(TypeError, match="event loop"):
        onix.action(executor="processes")(nothing)
    with pytest.raises(TypeError, match="dask="):
        onix.action(dask={"speed": 3})(print)


def test_a_process_pool_of_the_standard_library(capsys: pytest.CaptureFixture[str]) -> None:
    """An executor whose calls are pickled: what can't travel is named, what is printed comes with the result."""
    lock = threading.Lock()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        future = onix.action(os.getpid, name="pid").options(executor=pool).start()
        assert future.result(timeout=WAIT) != os.getpid()
        assert future.run is not None
        assert future.run.worker == f"pid {future.result()} on {socket.gethostname()}"
        say.options(executor=pool).start(text="hello").result()
        assert capsys.readouterr().out == "hello\n"
        error = fails.options(executor=pool).start(number=0).exception()
        assert error is not None
        assert [type(error), [frame.name for frame in traceback.extract_tb(error.__traceback__)]] == [
            OwnError,
            ["fails", "inner"],
        ]
        error = double.options(executor=pool).start(x=lock).exception()
        assert isinstance(error, errors.TransferError)
        assert "argument 'x' is a lock" in str(error)
        error = onix.action(lambda: os._exit(3), name="dies").options(executor=pool).start().exception()  # type: ignore[call-overload]
        assert isinstance(error, errors.ExecutorError)
        assert "action dies()" in str(error)


@pytest.mark.parametrize("executor", ["processes", "threads"])
def test_the_environment_chooses(script: Any, executor: str) -> None:
    """`ONIX_EXECUTOR`, before the import; an action that says so runs elsewhere."""
    source = """
        import os
        import onix_nb as onix
        @onix.action
        def where(): return os.getpid() == kernel
        @onix.action(executor="threads")
        def here(): return os.getpid() == kernel
        kernel = os.getpid()
        print(where.start().result(), where(), here(), where.options(executor="processes")())
    """
    there = executor == "threads"
    assert script(source).passes(env={"ONIX_EXECUTOR": executor}) == f"{there} {there} True False\n"


def test_an_executor_that_is_shut_down() -> None:
    """The run fails with an error that says so."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    future = double.options(executor=pool).start(x=1)
    assert isinstance(future.exception(), errors.ExecutorError)
    assert "shutdown" in str(future.exception())


@pytest.mark.parametrize(("executor", "package"), [("processes", "loky"), ("dask", "distributed")])
def test_what_is_not_installed(script: Any, executor: str, package: str) -> None:
    """The error says which extra to install; also when the environment asked for it."""
    source = f"""
        import sys
        sys.modules[{package!r}] = None
        import onix_nb as onix
        @onix.action
        def one(): return 1
        try:
            one.start()
        except onix.errors.ExecutorError as error:
            print(error)
    """
    assert f"onix_nb[{executor}]" in script(source).passes(env={"ONIX_EXECUTOR": executor})
