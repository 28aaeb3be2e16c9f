"""No figure may slip far from what is asked of it: ratios within one process, with generous bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def of_the_benchmarks(*arguments: str) -> str:
    """What `python -m tests.benchmarks` prints: each figure has a process of its own, as in `make bench`."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


def guard(name: str) -> None:
    """Fails when the figure is beyond its bound, twice: once may be the machine's fault."""
    found = []
    for _ in range(2):
        answer = json.loads(of_the_benchmarks("--json", "--guard", name))
        if answer["kept"]:
            return
        found.append(f"{answer['value']:.2f} ({answer['beside']})")
    pytest.fail(f"{name} is beyond its bound of {answer['bound']}: {' and '.join(found)}", pytrace=False)


def test_a_no_op_action_costs_less_than_a_task_of_a_thread_pool() -> None:
    """Start, wait and result take at most 0.85 of the time that a `ThreadPoolExecutor` takes (asked: 0.6)."""
    guard("noop")


def test_draining_by_first_completed_is_many_times_faster_than_the_stdlibs() -> None:
    """2,000 futures, one at a time: at least 8 times faster than `concurrent.futures.wait` (asked: 20 of 10,000)."""
    guard("drain")


def test_a_direct_call_in_a_flow_costs_microseconds() -> None:
    """An action called in a flow takes at most 12 µs more than the plain function (asked: 4)."""
    guard("direct")


def test_a_finished_future_is_small() -> None:
    """With its run and a small result, 1.5 KB at most."""
    guard("memory")


def test_importing_adds_little_to_asyncio() -> None:
    """`import onix_nb` takes at most 150 ms more than the modules that it stands on (asked: 60)."""
    guard("imports")


def test_loading_the_extension_is_quick() -> None:
    """`%load_ext onix_nb` takes at most 375 ms more than an extension that does next to nothing (asked: 150)."""
    guard("load")


def test_a_frame_of_very_many_runs_is_a_matter_of_seconds() -> None:
    """100,000 rows in at most 6 s (asked: 1.5)."""
    guard("frame")


def test_a_small_frame_is_there_at_once() -> None:
    """100 rows in at most a second (asked: 10 ms)."""
    guard("small_frame")


def test_a_timeline_of_many_runs_is_a_matter_of_seconds() -> None:
    """5,000 runs in at most 8 s (asked: 2)."""
    guard("chart")


def test_a_timeline_of_very_many_runs_is_a_matter_of_seconds() -> None:
    """100,000 runs in at most 24 s (asked: 6)."""
    guard("big_chart")


def test_an_action_on_dask_costs_little_more_than_a_task_of_its_client() -> None:
    """Start, wait and result take at most 1.6 times what `Client.submit` and `gather` take (asked: 1.15)."""
    guard("dask_task")


def test_a_recorded_action_costs_little_more_than_a_commit() -> None:
    """One that does nothing: at most four bare commits of SQLite, or two and 300 µs (asked: half of it)."""
    guard("recorded")


def test_recorded_actions_that_end_together_share_commits() -> None:
    """Of eight at a time each takes no longer than one alone (asked: 0.5 of it)."""
    guard("recorded_together")


def test_a_replay_of_many_actions_is_a_matter_of_seconds() -> None:
    """10,000 in at most 8 s (asked: 2)."""
    guard("replayed")


def test_a_recorded_action_costs_a_fraction_of_a_step_of_dbos() -> None:
    """Both do nothing, on SQLite: at most 0.4 (asked: 0.2)."""
    pytest.importorskip("dbos", reason="pip install 'onix_nb[bench]'")
    guard("recorded_to_dbos")


def test_processes_use_all_cores() -> None:
    """16 CPU-bound actions are at least 0.8 as fast as by loky itself (asked: 0.95)."""
    guard("cores")


def test_an_action_on_processes_costs_little_more_than_a_task_of_loky() -> None:
    """One that does nothing takes at most 2.5 times as long (asked: 1.15)."""
    guard("processes_noop")


def test_a_big_array_goes_to_processes_as_fast_as_by_joblib() -> None:
    """100 MB to 8 actions: at most twice the time of joblib's loky backend (asked: no more)."""
    pytest.importorskip("joblib", reason="pip install 'onix_nb[bench]'")
    guard("array")


def test_a_big_array_is_in_memory_once() -> None:
    """The most memory that this takes is at most 1.5 times that of joblib's loky backend (asked: no more)."""
    pytest.importorskip("joblib", reason="pip install 'onix_nb[bench]'")
    guard("array_memory")


def test_very_many_async_actions_sleep_at_once() -> None:
    """10,000 of a second each take at most 10 s (asked: 3)."""
    guard("async_sleeps")


@pytest.mark.parametrize(("value", "kept"), [(0.3, True), (0.85, True), (0.86, False), (3.0, False)])
def test_a_figure_beyond_its_bound_is_told(value: float, kept: bool) -> None:
    """The control: the guards tell a slow figure from one that keeps its bound."""
    code = f"from tests.benchmarks.figures import FIGURES as f; print(f['noop'].keeps({value}, f['noop'].bound))"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert child.stdout.strip() == str(kept), child.stderr


def test_every_figure_has_a_guard() -> None:
    """A figure that is added to the table is added here, too."""
    listed = of_the_benchmarks("--list").split()
    guards = Path(__file__).read_text(encoding="utf-8")
    assert listed
    assert not [name for name in listed if f'guard("{name}")' not in guards]
