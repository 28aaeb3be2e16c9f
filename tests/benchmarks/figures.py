"""The figures that onix_nb has to keep, measured beside the standard library.

Each function measures one of them in rounds that alternate between onix and its peer, in one
process, and takes the median over the rounds: what else the machine does then hits both. A figure
gets a process of its own (see `__main__.py`), so that none sees another's threads or garbage.
The garbage collector stays on: a user has it on, too.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import gc
import itertools
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor
from statistics import median
from typing import Any

WORKERS = 4
MICRO, MILLI = 1e6, 1e3
# More runs than the session remembers, so that what is measured includes forgetting old ones.
OLDER_RUNS = 11_000


@dataclasses.dataclass(frozen=True)
class Measured:
    """A figure and, for people, what it was computed from."""

    value: float
    beside: str


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _alternate(
    rounds: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[Sequence[float], Sequence[float]]:
    """What both measure, round by round; who goes first changes, so that neither always cleans up for the other."""
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second = theirs()
            pairs.append((ours(), second))
        else:
            first = ours()
            pairs.append((first, theirs()))
    mine, peer = zip(*pairs, strict=True)
    return mine, peer


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(mine / peer for mine, peer in zip(ours, theirs, strict=True))


def _echo(x: int) -> int:
    return x


def noop(n: int = 10_000, rounds: int = 15) -> Measured:
    """Time of start, wait and result for each of `n` actions that do nothing, over a thread pool's."""
    import onix_nb as onix

    onix.configure(max_workers=WORKERS)
    action = onix.action(_echo)

    def ours() -> None:
        futures = [action.start(x=x) for x in range(n)]
        onix.wait(futures)
        for future in futures:
            future.result()

    with ThreadPoolExecutor(WORKERS) as pool:

        def theirs() -> None:
            futures = [pool.submit(_echo, x) for x in range(n)]
            concurrent.futures.wait(futures)
            for future in futures:
                future.result()

        ours(), theirs()  # threads are started, and code is specialised
        mine, peer = _alternate(rounds, lambda: _seconds(ours), lambda: _seconds(theirs))
    each = MICRO / n
    return Measured(_ratio(mine, peer), f"{median(mine) * each:.1f} to {median(peer) * each:.1f} µs a task")


def drain(n: int = 10_000, rounds: int = 3, sample: int = 10, by_hand: bool = False) -> Measured:
    """How many times faster `n` futures, released one by one, are drained by `wait(FIRST_COMPLETED)`.

    Args:
        n: How many flows wait, each at a gate of its own; in the peer, as many plain threads.
        rounds: How often both are drained.
        sample: Of the peer's waits every `sample`-th is made and counts that often: all take minutes.
        by_hand: Futures made and settled by hand, without a thread behind each.
    """
    import onix_nb as onix

    def first(wait: Callable[..., Any], futures: Sequence[Any], release: Callable[[int], object]) -> float:
        every = sample if wait is concurrent.futures.wait else 1
        pending, seconds = set(futures), 0.0
        for number, future in enumerate(futures):
            if number % every:
                release(number)
                future.result(timeout=60)
                pending.discard(future)
                continue
            begun = time.perf_counter()
            release(number)
            _, pending = wait(pending, return_when=FIRST_COMPLETED)
            seconds += time.perf_counter() - begun
        assert not pending, f"{len(pending)} futures were not drained"
        return seconds * every

    def of_hand(wait: Callable[..., Any], future: Callable[[], Any]) -> float:
        futures = [future() for _ in range(n)]
        return first(wait, futures, lambda number: futures[number].set_result(number))

    def of_threads(wait: Callable[..., Any], start: Callable[[Callable[[int], int], int], Any]) -> float:
        gates = [threading.Event() for _ in range(n)]
        arrived: queue.SimpleQueue[int] = queue.SimpleQueue()

        def body(x: int) -> int:
            arrived.put(x)
            gates[x].wait()
            return x

        futures = [start(body, number) for number in range(n)]
        for _ in range(n):
            arrived.get(timeout=60)
        return first(wait, futures, lambda number: gates[number].set())

    def ours() -> float:
        if by_hand:
            return of_hand(onix.wait, onix.Future)
        return of_threads(onix.wait, lambda body, x: onix.flow(body).start(x=x))

    def theirs() -> float:
        if by_hand:
            return of_hand(concurrent.futures.wait, concurrent.futures.Future)
        return of_threads(concurrent.futures.wait, _start_thread)

    mine, peer = _alternate(rounds, ours, theirs)
    return Measured(1 / _ratio(mine, peer), f"{median(mine):.2f} to {median(peer):.2f} s")


def _start_thread(body: Callable[[int], int], x: int) -> concurrent.futures.Future[int]:
    """What a pool's thread does, without a pool: thousands of idle threads at one queue slow it down."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    threading.Thread(target=lambda: future.set_result(body(x)), daemon=True).start()
    return future


def direct(n: int = 5_000, rounds: int = 15) -> Measured:
    """Microseconds that a direct call of an action in a flow takes more than the plain function."""
    import onix_nb as onix

    action = onix.action(_echo)

    def calls(function: Callable[..., int]) -> float:
        def work() -> None:
            for x in range(n):
                function(x=x)

        return _seconds(work) * MICRO / n

    @onix.flow
    def measuring() -> tuple[Sequence[float], Sequence[float]]:
        calls(action), calls(_echo)
        return _alternate(rounds, lambda: calls(action), lambda: calls(_echo))

    mine, peer = measuring()
    over = median(mine_ - peer_ for mine_, peer_ in zip(mine, peer, strict=True))
    return Measured(over, f"{median(mine):.2f} to {median(peer):.2f} µs a call")


def memory(n: int = 10_000, rounds: int = 3) -> Measured:
    """Kilobytes (of 1,000) that each finished future with a small result occupies, with its run."""
    import onix_nb as onix

    onix.configure(max_workers=WORKERS)
    action = onix.action(_echo)

    def kept(start: Callable[[int], Any], wait: Callable[..., Any]) -> float:
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        futures = [start(x) for x in range(n)]
        wait(futures)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return (after - before) / n / 1000

    with ThreadPoolExecutor(WORKERS) as pool:
        onix.wait([action.start(x=x) for x in range(OLDER_RUNS)])
        mine, peer = _alternate(
            rounds,
            lambda: kept(lambda x: action.start(x=x), onix.wait),
            lambda: kept(lambda x: pool.submit(_echo, x), concurrent.futures.wait),
        )
    return Measured(median(mine), f"{median(mine):.2f} to {median(peer):.2f} KB")


def _in_a_child(code: str) -> float:
    """Milliseconds that `code` printed in an interpreter of its own, with a home of its own for IPython."""
    with tempfile.TemporaryDirectory() as home:
        child = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "IPYTHONDIR": home},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    if child.returncode:
        raise RuntimeError(f"the measured process failed:\n{child.stderr}")
    return float(child.stdout.split()[-1])


_IMPORT = """
import time
begun = time.perf_counter()
import {modules}
print((time.perf_counter() - begun) * 1000)
"""

_LOAD = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
begun = time.perf_counter()
shell.run_line_magic("load_ext", "{extension}")
took = (time.perf_counter() - begun) * 1000
assert any(name.endswith("{extension}") for name in shell.extension_manager.loaded)
print(took)
"""


def imports(rounds: int = 11) -> Measured:
    """Milliseconds that `import onix_nb` takes more than the modules of the standard library it stands on."""
    return _in_children(
        rounds, _IMPORT.format(modules="onix_nb"), _IMPORT.format(modules="concurrent.futures, asyncio")
    )


def load(rounds: int = 11) -> Measured:
    """Milliseconds that `%load_ext onix_nb` takes more than `%load_ext` for an extension of IPython's own."""
    return _in_children(rounds, _LOAD.format(extension="onix_nb"), _LOAD.format(extension="autoreload"))


def _in_children(rounds: int, ours: str, theirs: str) -> Measured:
    _in_a_child(ours), _in_a_child(theirs)  # files are compiled, and in the system's cache
    mine, peer = _alternate(rounds, lambda: _in_a_child(ours), lambda: _in_a_child(theirs))
    over = median(mine_ - peer_ for mine_, peer_ in zip(mine, peer, strict=True))
    return Measured(over, f"{median(mine):.0f} to {median(peer):.0f} ms")


def _finished(n: int) -> Any:
    """`n` finished runs, one in 50 of which has failed, as `onix.runs()` gives them."""
    import onix_nb as onix

    @onix.action
    def work(x: int, kind: str) -> int:
        if x % 50 == 7:
            raise LookupError(f"nothing at {x}")
        return x

    futures = [work.start(x=x, kind="work") for x in range(n)]
    for future in futures:
        future.exception()
    return onix.runs(futures)


def frame(n: int = 100_000, rounds: int = 5) -> Measured:
    """Seconds that `to_frame()` of `n` finished runs takes, pandas imported before."""
    runs = _finished(n)
    runs[:100].to_frame()
    return _best(rounds, runs.to_frame)


def small_frame(n: int = 100, rounds: int = 100) -> Measured:
    """Milliseconds that `to_frame()` of `n` finished runs takes."""
    best = frame(n, rounds)
    return Measured(best.value * MILLI, f"best of {rounds}")


def chart(n: int = 5_000, rounds: int = 3) -> Measured:
    """Seconds until a new timeline of `n` finished runs is drawn, matplotlib imported before."""
    import matplotlib as mpl
    from matplotlib import pyplot

    import onix_nb as onix

    mpl.use("Agg")

    def draw() -> None:
        axes = onix.timeline(runs)
        axes.figure.canvas.draw()
        pyplot.close(axes.figure)

    runs = _finished(10)
    draw()
    runs = _finished(n)
    return _best(rounds, draw)


def big_chart(n: int = 100_000, rounds: int = 3) -> Measured:
    """The same of very many."""
    return chart(n, rounds)


def _bare_commits(folder: str) -> Callable[[], None]:
    """Commits a row of the journal's size by SQLite itself, with the journal's settings."""
    import sqlite3

    from onix_nb.journal import schema

    connection = sqlite3.connect(os.path.join(folder, "bare.sqlite"), isolation_level=None, check_same_thread=False)
    for pragma in (
        "PRAGMA journal_mode = WAL",
        *schema.PRAGMAS,
        *schema.WRITER_PRAGMAS,
        "PRAGMA wal_autocheckpoint = 1000",
    ):
        connection.execute(pragma)
    connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, data BLOB NOT NULL)")

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO rows (data) VALUES (?)", (b"x" * 300,))
        connection.execute("COMMIT")

    return commit


@contextlib.contextmanager
def _journal() -> Iterator[str]:
    """A folder that durable flows are recorded in, on the disk of the repository: /tmp may be memory."""
    import onix_nb as onix
    from onix_nb.journal import codec

    codec.user_key = lambda: bytes(32)  # no key is left behind
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=os.getcwd()) as folder:
        onix.configure(journal=os.path.join(folder, "journal.sqlite"), max_workers=8)
        yield folder


def recorded(n: int = 3_000, warm: int = 300) -> Measured:
    """Time of a recorded action that does nothing, over what is allowed: two commits of SQLite's, or one and 150 µs.

    Medians of `n` of each, which alternate: what the disk does changes from second to second.
    """
    import onix_nb as onix

    action = onix.action(_echo)

    with _journal() as folder:
        commit = _bare_commits(folder)

        @onix.flow(durable=True)
        def measuring() -> list[tuple[float, float]]:
            return [(_seconds(lambda x=x: action(x=x)), _seconds(commit)) for x in range(n + warm)]

        mine, peer = (median(found) * MICRO for found in zip(*measuring()[warm:], strict=True))
    return Measured(mine / max(2 * peer, peer + 150), f"{mine:.0f} to {peer:.0f} µs a commit")


def recorded_together(n: int = 400, rounds: int = 11) -> Measured:
    """The time of each of `n` recorded actions, eight at a time, over that of one which is alone."""
    import onix_nb as onix

    action = onix.action(_echo)

    @onix.flow(durable=True)
    def measuring() -> tuple[Sequence[float], Sequence[float]]:
        def together() -> None:
            onix.wait([action.start(x=x) for x in range(n)])

        def alone() -> float:
            return median(_seconds(lambda x=x: action(x=x)) for x in range(n))

        return _alternate(rounds, lambda: _seconds(together) / n, alone)

    with _journal():
        mine, peer = measuring()
    return Measured(_ratio(mine, peer), f"{median(mine) * MICRO:.0f} to {median(peer) * MICRO:.0f} µs an action")


def replayed(n: int = 10_000) -> Measured:
    """Seconds until a flow that is started again has the results of `n` recorded actions."""
    import onix_nb as onix
    from onix_nb.engine import durable

    ran: list[int] = []

    @onix.action
    def work(x: int) -> dict[str, Any]:
        ran.append(x)
        return {"x": x, "found": [1, 2, 3]}

    @onix.flow(durable=True)
    def measuring() -> int:
        futures = [work.start(x=x) for x in range(n)]
        onix.wait(futures)
        if len(ran) == n:
            raise LookupError("what it ends with the first time, so that it goes on")
        return sum(future.result()["x"] for future in futures)

    with _journal():
        with contextlib.suppress(LookupError):
            measuring()
        durable.close_journals()
        ran.clear()
        with contextlib.redirect_stdout(sys.stderr):
            seconds = _seconds(measuring)
        assert not ran, f"{len(ran)} ran again"
    return Measured(seconds, f"{seconds / n * MICRO:.0f} µs an action")


def recorded_to_dbos(n: int = 200, rounds: int = 7) -> Measured:
    """The time of a recorded action that does nothing, over that of a DBOS step that does nothing, on SQLite, too."""
    import logging

    import onix_nb as onix

    try:
        from dbos import DBOS
    except ImportError:
        return Measured(math.nan, "not measured: pip install 'onix_nb[bench]'")
    logging.disable(logging.WARNING)
    action = onix.action(_echo)
    with _journal() as folder, contextlib.redirect_stdout(sys.stderr):
        DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.sqlite"})
        step = DBOS.step()(_echo)

        @onix.flow(durable=True)
        def ours(turn: int) -> float:
            return median(_seconds(lambda x=x: action(x=x)) for x in range(n))

        @DBOS.workflow()
        def theirs(turn: int) -> float:
            return median(_seconds(lambda x=x: step(x)) for x in range(n))

        DBOS.launch()
        turns = itertools.count()
        mine, peer = _alternate(rounds, lambda: ours(turn=next(turns)), lambda: theirs(next(turns)))
        DBOS.destroy()
    return Measured(_ratio(mine, peer), f"{median(mine) * MICRO:.0f} to {median(peer) * MICRO:.0f} µs a step")


# Beyond the kernel's process.


def _burn(n: int) -> int:
    total = 0
    for i in range(n):
        total += i * i
    return total


def _on_processes(workers: int) -> Any:
    """Sends actions to processes; gives loky's own reusable executor, with as many workers."""
    import loky

    import onix_nb as onix

    onix.configure(executor="processes", max_workers=workers)
    return loky.get_reusable_executor(workers)


def cores(n: int = 2_000_000, tasks: int = 16, rounds: int = 7) -> Measured:
    """The speed-up of CPU-bound actions on all cores, over that of the same calls by loky itself."""
    import onix_nb as onix

    pool = _on_processes(2)
    action = onix.action(_burn)

    def ours() -> None:
        futures = [action.start(n=n) for _ in range(tasks)]
        onix.wait(futures)

    def theirs() -> None:
        concurrent.futures.wait([pool.submit(_burn, n) for _ in range(tasks)])

    ours(), theirs()
    mine, peer = _alternate(rounds, lambda: _seconds(ours), lambda: _seconds(theirs))
    alone = median(_seconds(lambda: _burn(n)) for _ in range(rounds)) * tasks
    pool.shutdown()
    return Measured(1 / _ratio(mine, peer), f"{alone / median(mine):.2f} to {alone / median(peer):.2f} times one core")


def processes_noop(n: int = 2_000, rounds: int = 25) -> Measured:
    """Time of start, wait and result of each of `n` actions that do nothing on processes, over loky's own."""
    import onix_nb as onix

    pool = _on_processes(2)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def echo(x):\n    return x", names)  # as a cell does: it travels by value
    echo = names["echo"]
    action = onix.action(echo)

    def ours() -> None:
        futures = [action.start(x=x) for x in range(n)]
        onix.wait(futures)
        for future in futures:
            future.result()

    def theirs() -> None:
        futures = [pool.submit(echo, x) for x in range(n)]
        concurrent.futures.wait(futures)
        for future in futures:
            future.result()

    ours(), theirs()
    mine, peer = _alternate(rounds, lambda: _seconds(ours), lambda: _seconds(theirs))
    pool.shutdown()
    return Measured(_ratio(mine, peer), f"{median(mine) * MICRO / n:.0f} to {median(peer) * MICRO / n:.0f} µs a task")


def _sum(array: Any) -> float:
    return float(array.sum())


def _arrays(tasks: int) -> tuple[Callable[[Any], object], Callable[[Any], object]] | None:
    """Passes an array to actions on processes, and to the same calls by joblib; None where there is no joblib."""
    import onix_nb as onix

    try:
        import joblib
    except ImportError:
        return None
    onix.configure(executor="processes", max_workers=2)
    action = onix.action(_sum)
    parallel = joblib.Parallel(n_jobs=2, backend="loky")

    def ours(array: Any) -> None:
        futures = [action.start(array=array) for _ in range(tasks)]
        assert len({future.result() for future in futures}) == 1

    def theirs(array: Any) -> None:
        assert len(set(parallel(joblib.delayed(_sum)(array) for _ in range(tasks)))) == 1

    return ours, theirs


def array(megabytes: int = 100, tasks: int = 8, rounds: int = 9) -> Measured:
    """The time of passing one new array to `tasks` actions on processes, over that of joblib's loky backend."""
    import numpy

    both = _arrays(tasks)
    if both is None:
        return Measured(math.nan, "not measured: pip install 'onix_nb[bench]'")

    def passing(to: Callable[[Any], object]) -> float:
        new = numpy.random.default_rng().random(megabytes * 125_000)
        return _seconds(lambda: to(new))

    ours, theirs = both
    passing(ours), passing(theirs)
    mine, peer = _alternate(rounds, lambda: passing(ours), lambda: passing(theirs))
    return Measured(_ratio(mine, peer), f"{median(mine) * MILLI:.0f} to {median(peer) * MILLI:.0f} ms")


def array_memory(megabytes: int = 100, tasks: int = 8, rounds: int = 5) -> Measured:
    """The most memory that it takes, with all processes, over that of joblib's loky backend."""
    import numpy

    both = _arrays(tasks)
    if both is None:
        return Measured(math.nan, "not measured: pip install 'onix_nb[bench]'")

    def most(to: Callable[[Any], object]) -> float:
        new = numpy.random.default_rng().random(megabytes * 125_000)
        seen, ended = [0.0], threading.Event()

        def look() -> None:
            while not ended.wait(0.002):
                seen.append(_megabytes())

        before = _megabytes()
        looking = threading.Thread(target=look)
        looking.start()
        to(new)
        ended.set()
        looking.join()
        return max(seen) - before

    ours, theirs = both
    most(ours), most(theirs)
    mine, peer = _alternate(rounds, lambda: most(ours), lambda: most(theirs))
    return Measured(_ratio(mine, peer), f"{median(mine):.0f} to {median(peer):.0f} MB")


def _megabytes() -> float:
    """The memory of this process and of those it has started, what they share once, and of the files in memory."""
    import psutil

    kilobytes = _numbers("/proc/meminfo")["Shmem"]
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(OSError):  # it has ended
            numbers = _numbers(f"/proc/{process.pid}/smaps_rollup")
            kilobytes += numbers["Pss_Anon"] + numbers["Pss_File"]
    return kilobytes * 1024 / 1e6


def _numbers(path: str) -> dict[str, int]:
    with open(path, encoding="ascii") as file:
        lines = [line.partition(":") for line in file if line.endswith(" kB\n")]
    return {name: int(rest.split()[0]) for name, _, rest in lines}


def async_sleeps(n: int = 10_000) -> Measured:
    """Seconds that `n` concurrent async actions take which sleep for one second each."""
    import asyncio

    import onix_nb as onix

    @onix.action
    async def nap(x: int) -> int:
        await asyncio.sleep(1)
        return x

    def ours() -> None:
        futures = [nap.start(x=x) for x in range(n)]
        onix.wait(futures)
        assert sum(future.result() for future in futures) == n * (n - 1) // 2

    onix.wait([nap.start(x=0)])

    async def gathered() -> None:
        async def nap(x: int) -> int:
            await asyncio.sleep(1)
            return x

        await asyncio.gather(*(nap(x) for x in range(n)))

    return Measured(_seconds(ours), f"{_seconds(lambda: asyncio.run(gathered())):.2f} s by asyncio.gather")


# On a Dask cluster.


def dask_task(n: int = 500, rounds: int = 15) -> Measured:
    """Time of start, wait and result for each of `n` actions on a Dask cluster, over `Client.submit` and `gather`."""
    import distributed

    import onix_nb as onix

    action = onix.action(_echo)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        onix.configure(executor=client),
    ):

        def ours() -> None:
            futures = [action.start(x=x) for x in range(n)]
            onix.wait(futures)
            assert [future.result() for future in futures] == list(range(n))

        def theirs() -> None:
            futures = [client.submit(_echo, x, pure=False) for x in range(n)]
            assert client.gather(futures) == list(range(n))

        ours(), theirs()
        mine, peer = _alternate(rounds, lambda: _seconds(ours), lambda: _seconds(theirs))
    each = MICRO / n
    return Measured(_ratio(mine, peer), f"{median(mine) * each:.0f} to {median(peer) * each:.0f} µs a task")


def _best(rounds: int, work: Callable[[], object]) -> Measured:
    return Measured(min(_seconds(work) for _ in range(rounds)), f"best of {rounds}")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure, and what is asked of it.

    Attributes:
        title: What it is, for the table.
        asked: The most that it may be; the least, when `least`.
        bound: The same for the guard in the tests: generous, because machines differ.
        unit: Follows the number.
        measure: Measures it; its name is the figure's.
        guard: Arguments with which the guard measures, in less time.
        least: Whether more is better.
    """

    title: str
    asked: float
    bound: float
    unit: str
    measure: Callable[..., Measured]
    guard: dict[str, Any]
    least: bool = False

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return self.measure.__name__

    def keeps(self, value: float, limit: float) -> bool:
        """Whether `value` keeps `limit`."""
        return value >= limit if self.least else value <= limit

    def text(self, value: float) -> str:
        """A value with its unit, as the table shows it."""
        digits = 2 if abs(value) < 10 else 0
        return f"{value:.{digits}f}{self.unit}"


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("start, wait, result of a no-op action, over a thread pool's", 0.6, 0.85, "×", noop, {"rounds": 9}),
        Figure(
            "drain of 10,000 flows by wait(FIRST_COMPLETED), faster than the stdlib's",
            20,
            8,
            "×",
            drain,
            {"n": 2_000, "sample": 1, "by_hand": True},
            least=True,
        ),
        Figure("direct call of an action in a flow, over the plain call", 4, 12, " µs", direct, {}),
        Figure("memory of a finished future with its run", 1.5, 1.5, " KB", memory, {"rounds": 1}),
        Figure("import onix_nb, over concurrent.futures and asyncio", 60, 150, " ms", imports, {"rounds": 9}),
        Figure("%load_ext onix_nb, over one of IPython's own", 150, 375, " ms", load, {"rounds": 9}),
        Figure("recorded no-op action, over 2 SQLite commits or 1 and 150 µs", 1, 2, "×", recorded, {"n": 1_000}),
        Figure(
            "each of recorded actions, eight at a time, over one alone", 0.5, 1, "×", recorded_together, {"rounds": 5}
        ),
        Figure("replay of 10,000 recorded actions", 2, 8, " s", replayed, {}),
        Figure("recorded no-op action, over a step of DBOS on SQLite", 0.2, 0.4, "×", recorded_to_dbos, {"rounds": 3}),
        Figure(
            "speed-up of 16 CPU-bound actions on processes, over loky's",
            0.95,
            0.8,
            "×",
            cores,
            {"rounds": 3},
            least=True,
        ),
        Figure(
            "no-op action on processes, over loky's own task", 1.15, 2.5, "×", processes_noop, {"n": 1_000, "rounds": 3}
        ),
        Figure("100 MB array to 8 actions on processes, over joblib's loky backend", 1, 2, "×", array, {"rounds": 3}),
        Figure("the memory for that, over joblib's loky backend", 1.01, 1.5, "×", array_memory, {"rounds": 1}),
        Figure("10,000 concurrent async actions of a second", 3, 10, " s", async_sleeps, {}),
        Figure(
            "start, wait, result of a no-op action on Dask, over Client.submit's",
            1.15,
            1.6,
            "×",
            dask_task,
            {"n": 200, "rounds": 7},
        ),
        Figure("to_frame() of 100,000 runs", 1.5, 6, " s", frame, {"rounds": 2}),
        Figure("to_frame() of 100 runs", 10, 1_000, " ms", small_frame, {}),
        Figure("timeline of 5,000 runs", 2, 8, " s", chart, {"rounds": 2}),
        Figure("timeline of 100,000 runs", 6, 24, " s", big_chart, {"rounds": 1}),
    )
}
