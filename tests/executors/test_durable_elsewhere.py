"""Durable flows whose actions run in other processes: the journal stays in the kernel, and a kill loses nothing."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

# A kernel's life. Its flow joins three calls, starts two more, and is killed by one of those unless it may end.
LIFE = """
import concurrent.futures, os, signal, sys
import onix_nb as onix

class Refused(Exception):
    pass

@onix.action
def work(x, folder):
    with open(f"{{folder}}/ran", "a") as log:
        log.write(f"{{x}} ")
    if x == 2:
        raise Refused(x)
    if x == 4 and not os.path.exists(f"{{folder}}/may end"):
        os.kill(int(open(f"{{folder}}/kernel").read()), signal.SIGKILL)
    return x, "kernel" if os.getpid() == int(open(f"{{folder}}/kernel").read()) else "elsewhere"

@onix.flow(durable=True)
def flow(folder):
    futures = [work.start(x=x, folder=folder) for x in range(3)]
    found = [futures[0].result(), futures[1].result(), str(futures[2].exception()), work(x=3, folder=folder)]
    futures = [work.start(x=x, folder=folder) for x in (4, 5)]
    return found + [future.result() for future in futures]

if __name__ == "__main__":
    folder = sys.argv[1]
    open(f"{{folder}}/kernel", "w").write(str(os.getpid()))
    pool = {pool}
    onix.configure(journal=f"{{folder}}/flows.sqlite", executor=pool, max_workers=2)
    print(flow(folder=folder))
    if not isinstance(pool, str):
        pool.shutdown()
"""
POOLS = {
    "processes": ('"processes"', "elsewhere"),
    "threads": ("concurrent.futures.ThreadPoolExecutor(2)", "kernel"),
}


@pytest.mark.parametrize(("pool", "where"), POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("kills", [1, 2])
def test_a_kill_in_the_middle_loses_nothing(script: Any, tmp_path: Path, pool: str, where: str, kills: int) -> None:
    """What was recorded does not run again, a failure and a direct call included; what was in flight does."""
    life = script(LIFE.format(pool=pool))
    for _ in range(kills):
        assert life.run(str(tmp_path))[0] == -signal.SIGKILL
    (tmp_path / "may end").touch()
    code, out, err = life.run(str(tmp_path))
    assert code == 0, err
    expected = [(0, where), (1, where), "2", (3, where), (4, where), (5, where)]
    assert out.splitlines()[-1] == repr(expected)
    ran = Counter(map(int, (tmp_path / "ran").read_text().split()))
    assert [ran[x] for x in range(4)] == [1, 1, 1, 1]
    assert ran[4] == kills + 1
    assert 1 <= ran[5] <= kills + 1


def test_without_a_journal_everything_runs_again(script: Any, tmp_path: Path) -> None:
    """Control: so the test above sees what runs again."""
    life = script(LIFE.replace("durable=True", "").format(pool='"processes"'))
    assert life.run(str(tmp_path))[0] == -signal.SIGKILL
    (tmp_path / "may end").touch()
    assert life.run(str(tmp_path))[0] == 0
    ran = Counter(map(int, (tmp_path / "ran").read_text().split()))
    assert [ran[x] for x in range(5)] == [2, 2, 2, 2, 2]
