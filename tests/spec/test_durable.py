"""Durable flows: what is recorded never runs again, and a flow goes on where its process left off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onix_nb as onix

# Each script is a kernel's life; `ran` says what has really run in it, `dies` ends it at once.
HEAD = """
import atexit, os, sys, warnings
import onix_nb as onix

ran = []
onix.configure(journal="journal/flows.sqlite")

def dies():
    if "DIES" in os.environ:
        print(*ran)
        sys.stdout.flush()
        os._exit(9)

@onix.action
def add(x: int, y: int = 0):
    ran.append(f"add{x}+{y}")
    return x + y

@onix.action
async def later(x: int):
    ran.append(f"later{x}")
    return 10 * x

@onix.action
def fails(x: int):
    ran.append(f"fails{x}")
    raise KeyError(x)
"""
# Before `HEAD`: the world has been put right.
GOOD = 'import os; os.environ["GOOD"] = ""\n'
TAIL = """
print(*ran)
"""
GREETING = "onix_nb: unfinished in the journal:"


class Lives:
    """Runs scripts one after the other in the same folder."""

    def __init__(self, script: Callable[[str], Any]) -> None:
        self._script = script
        self.head = HEAD
        self.greeting: list[str] = []

    def __call__(self, source: str, *, dies: bool = False, code: int = 0, err: str = "") -> list[str]:
        """The lines that the script printed, without the greeting; the last one says what has run."""
        ended, out, stderr = self._script(self.head + source + TAIL).run(env={"DIES": "1"} if dies else {})
        assert ended == (9 if dies else code), stderr
        assert err in stderr if err else not stderr, stderr
        self.greeting = [line for line in out.split("\n") if line.startswith(GREETING)]
        return [line for line in out.split("\n") if line and not line.startswith(GREETING)]

    def runs(self, source: str, **options: Any) -> list[str]:
        """What really ran."""
        lines = self(source, **options)
        return lines[-1].split() if lines else []


@pytest.fixture
def live(script: Callable[[str], Any]) -> Lives:
    """Lives in one folder."""
    return Lives(script)


TOTAL = """
@onix.flow
def child(n: int):
    return add(x=n, y=1) + add(x=n, y=1)

@onix.flow(durable=True)
def total(n: int = 3):
    futures = [add.start(x=x) for x in range(n)]
    done = sum(future.result() for future in futures) + later(x=1) + child(n=7)
    try:
        fails(x=1)
    except KeyError as error:
        done += error.args[0]
    dies()
    return done
"""
WHOLE = ["add0+0", "add1+0", "add2+0", "later1", "add7+1", "add7+1", "fails1"]


class TestResuming:
    def test_what_is_recorded_does_not_run_again(self, live: Lives) -> None:
        """Started and inline, async, in a child flow, the n-th of equal calls, and failures."""
        assert sorted(live.runs(TOTAL + "total()", dies=True)) == sorted(WHOLE)
        assert live(TOTAL + "print(total())") == ["30"]

    def test_the_clock_may_be_set_back_meanwhile(self, live: Lives) -> None:
        """What is recorded is in an order, which no clock gives."""
        assert sorted(live.runs(TOTAL + "total()", dies=True)) == sorted(WHOLE)
        live.head = "import time; now = time.time; time.time = lambda: now() - 3600\n" + HEAD
        assert live(TOTAL + "print(total())") == ["30"]
        ended = live(TOTAL + "print(total())")
        assert ended[0].startswith("onix_nb: durable flow 'total' ended on ")
        assert ended[1:] == ["30"]

    def test_control_without_durable_everything_runs_again(self, live: Lives) -> None:
        """So the test above is not blind."""
        source = TOTAL.replace("durable=True", "")
        assert sorted(live.runs(source + "total()", dies=True)) == sorted(WHOLE)
        assert sorted(live.runs(source + "total()")) == sorted(WHOLE)

    def test_only_what_was_in_flight_runs_again(self, live: Lives) -> None:
        """The first of two is recorded, the second is not."""
        source = """
@onix.action
def deadly(x: int):
    if x == 2:
        dies()
    ran.append(f"deadly{x}")
    return x

@onix.flow(durable=True)
def flow():
    return [add(x=5), deadly(x=1), deadly(x=2)]

print(flow.start().result())
"""
        assert live.runs(source, dies=True) == ["add5+0", "deadly1"]
        lines = live(source)
        assert "[5, 1, 2]" in lines
        assert lines[-1] == "deadly2"

    def test_a_cancelled_flow_goes_on(self, live: Lives) -> None:
        """And so does one that ran when the process ended in good order."""
        source = """
import threading
begun = threading.Event()

@onix.flow(durable=True)
def flow():
    first = add(x=1)
    begun.set()
    if "DIES" not in os.environ:
        onix.sleep(0 if "GOOD" in os.environ else 3600)
    return first + add(x=2)

future = flow.start()
begun.wait(30)
"""
        assert live.runs(source + "future.cancel(interrupt=True)") == ["add1+0"]
        assert live(source) == []
        live.head = GOOD + HEAD
        assert live(source + "print(future.result())") == ["3", "add2+0"]

    def test_a_flow_that_killed_its_kernel_five_times_is_refused(self, live: Lives) -> None:
        """Until it starts anew."""
        source = "@onix.flow(durable=True)\ndef flow():\n    dies()\n"
        for _ in range(5):
            live(source + "flow()", dies=True)
        live(source + "flow()", code=1, err="was running each of the last 5 times")
        live(source + "flow.options(fresh=True)()")

    def test_ends_in_good_order_are_no_deaths(self, live: Lives) -> None:
        """A kernel that is shut down was not killed by its flow."""
        source = "@onix.flow(durable=True)\ndef flow():\n    onix.sleep(3600)\nfuture = flow.start()\n"
        for _ in range(6):
            live(source)
        live(source.replace("3600", "0") + "future.result()")


class TestEnded:
    def test_a_finished_flow_gives_its_result_at_once(self, live: Lives) -> None:
        """And says from when; the run is marked."""
        source = "@onix.flow(durable=True)\ndef flow(x: int):\n    return {'got': add(x=x)}\n"
        assert live.runs(source + "flow(x=4)") == ["add4+0"]
        lines = live(source + "future = flow.start(x=4)\nprint(future.result(), future.run.first_ran is not None)")
        assert "ended on" in lines[0]
        assert lines[1:] == ["{'got': 4} True"]

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_what_a_failed_flow_has_left_running_is_recorded_once(self, live: Lives, when: str) -> None:
        """By the flow that has left it, unless that was started again before; then by the next one."""
        source = """
import threading, types
from onix_nb.engine import durable
warnings.simplefilter("ignore")
state = types.ModuleType("state")  # what is in a module is no code of the flow
state.gates, state.left, state.begun = [threading.Event(), threading.Event()], [], threading.Semaphore(0)
state.ran = ran

@onix.action
def slow():
    gate = state.gates[len(state.ran)]
    state.ran.append("slow")
    state.begun.release()
    assert gate.wait(30)

@onix.flow(durable=True)
def whole():
    state.left.append(slow.start())
    if len(state.left) == 1:
        assert state.begun.acquire(timeout=30)
        raise ZeroDivisionError
    state.left[1].result()

try:
    whole()
except ZeroDivisionError:
    pass
"""
        ends = "state.gates[0].set(); state.left[0].result()\n"
        again = "state.gates[1].set(); whole()\n"
        then = ends + again if when == "before" else again + ends
        ran = ["slow"] if when == "before" else ["slow", "slow"]
        assert live(source + then + "print([one.calls for one in durable.held()])") == ["[1]", " ".join(ran)]

    def test_fresh_starts_anew(self, live: Lives) -> None:
        """Everything runs again, and is what the next one finds."""
        source = "@onix.flow(durable=True)\ndef flow():\n    return add(x=4)\n"
        for _ in range(2):
            assert live.runs(source + "flow.options(fresh=True)()") == ["add4+0"]
        assert "ended on" in live(source + "flow()")[0]

    def test_other_arguments_are_another_flow(self, live: Lives) -> None:
        """Unless the template says otherwise."""
        source = "@onix.flow(durable=True)\ndef flow(day: str, shown: bool = False):\n    return add(x=len(day))\n"
        assert live.runs(source + "flow(day='mon'), flow(day='thursday')") == ["add3+0", "add8+0"]
        source = source.replace("durable=True", "durable=True, flow_id='nightly:{day}'")
        assert live.runs(source + "flow(day='fri')") == ["add3+0"]
        assert "ended on" in live(source + "flow(day='fri', shown=True)")[0]

    def test_a_changed_flow_runs_with_what_is_recorded(self, live: Lives) -> None:
        """It says what is replayed, and what runs."""
        source = "@onix.flow(durable=True)\ndef flow():\n    return add(x=1){more}\nprint(flow())\n"
        live(source.format(more=""))
        lines = live(source.format(more=" + add(x=2)"))
        assert "has changed" in lines[0]
        assert [line.strip() for line in lines if "replayed" in line] == ["replayed: add(x=1, y=0)"] or any(
            "replayed: add(x=1)" in line for line in lines
        )
        assert lines[-2:] == ["3", "add2+0"]

    def test_a_failed_flow_forgets_what_it_failed_of(self, live: Lives) -> None:
        """The action that raised runs again; what else is recorded does not, other failures included."""
        source = """
@onix.action
def unsure(x: int):
    ran.append(f"unsure{x}")
    if GOOD or x == 2:
        return x
    raise ValueError(x)

@onix.flow(durable=True)
def flow():
    first = add(x=1)
    try:
        fails(x=3)
    except KeyError:
        pass
    return first + unsure(x=5)

flow.options(keep=[unsure])()
"""
        assert live.runs("GOOD = False\n" + source, code=1, err="ValueError: 5") == []
        assert live.runs("GOOD = True\n" + source) == ["unsure5"]

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_failures_that_it_has_not_looked_at_are_forgotten_too(self, live: Lives, when: str) -> None:
        """The network was down: one start is enough when it is back, and not one for each call."""
        source = """
import threading
ended = threading.Event()
warnings.simplefilter("ignore")

@onix.action
def unsure(x: int):
    if x > 1 and "GOOD" not in os.environ:
        WAITS
    ran.append(f"unsure{x}")
    if x and "GOOD" not in os.environ:
        raise ValueError(x)
    return x

@onix.flow
def some(n: int):
    futures = [unsure.start(x=x) for x in range(n)]
    return [future.result() for future in futures]

@onix.flow(durable=True)
def flow():
    groups = [some.start(n=4)]
    if WAITED:
        onix.wait(groups)
    return [group.result() for group in groups]

try:
    print(flow())
except ValueError as error:
    print("failed", error)
ended.set()
onix.wait(onix.runs(name="unsure").futures)
"""
        waits, waited = ("pass", "True") if when == "before" else ("ended.wait(30)", "False")
        source = source.replace("WAITS", waits).replace("WAITED", waited)
        lines = live(source)
        assert lines[0] == "failed 1"
        assert sorted(lines[1].split()) == ["unsure0", "unsure1", "unsure2", "unsure3"]
        live.head = GOOD + HEAD
        lines = live(source)
        assert lines[0] == "[[0, 1, 2, 3]]"
        assert sorted(lines[1].split()) == ["unsure1", "unsure2", "unsure3"]

    def test_what_a_resumed_flow_did_is_not_forgotten_again(self, live: Lives) -> None:
        """It failed, went on, and its kernel died: what it failed of at first has gone well since."""
        source = """
@onix.action
def unsure(x: int):
    ran.append(f"unsure{x}")
    if "GOOD" not in os.environ:
        raise ValueError(x)
    return x

@onix.flow(durable=True)
def flow():
    found = unsure(x=1)
    dies()
    return found

try:
    print(flow())
except ValueError:
    print("failed")
"""
        assert live(source) == ["failed", "unsure1"]
        live.head = GOOD + HEAD
        assert live.runs(source, dies=True) == ["unsure1"]
        assert live(source) == ["1"]


class TestSleeping:
    SOURCE = """
import time
from onix_nb.journal import store

@onix.flow
def rests(seconds: float):
    begun = time.monotonic()
    onix.sleep(seconds)
    return time.monotonic() - begun

@onix.flow(durable=True)
def flow():
    return rests(seconds=SECONDS) + rests(seconds=0.0)

left = [2]  # the begin of the flow, and the sleep

def at(point):
    left[0] -= point == "acknowledged"
    if left[0] == 0 and "DIES" in os.environ:
        os._exit(9)

store.at = at
print(flow() < 1)
"""

    def test_what_is_left_of_a_sleep_is_slept(self, live: Lives) -> None:
        """An hour, of which the kernel was dead for most; the control is the same flow without a journal of before."""
        source = self.SOURCE.replace("SECONDS", "3600.0")
        live(source, dies=True)
        live.head = "import time; now = time.time; time.time = lambda: now() + 3600\n" + HEAD
        assert live(source) == ["True"]
        assert live(self.SOURCE.replace("SECONDS", "1.5")) == ["False"]

    def test_a_clock_that_was_set_back_makes_it_no_longer(self, live: Lives) -> None:
        """Than it was to be at first."""
        source = self.SOURCE.replace("SECONDS", "1.5")
        live(source, dies=True)
        live.head = "import time; now = time.time; time.time = lambda: now() - 3600\n" + HEAD
        assert live(source) == ["False"]


class TestChoices:
    def test_a_wait_that_a_failed_child_won_is_open_again(self, live: Lives) -> None:
        """When the flow is resumed from that failure: the child runs on, and may be the last."""
        source = """
import threading
gate = threading.Event()

@onix.action
def unsure(x: int):
    if "GOOD" not in os.environ:
        raise ValueError(x)
    return x

@onix.action
def held(x: int):
    if "GOOD" not in os.environ:
        gate.wait(30)
    return x

@onix.flow
def child(x: int):
    if x == 2:
        return held(x=x)
    if "GOOD" in os.environ:
        gate.wait(30)
    return unsure(x=x)

@onix.flow(durable=True)
def flow():
    futures = [child.start(x=x) for x in (1, 2)]
    done, left = onix.wait(futures, return_when=onix.FIRST_COMPLETED)
    gate.set()
    onix.wait(left)
    dies()
    return [future.result() for future in done]

try:
    print(flow())
except ValueError as error:
    print("failed", error)
"""
        assert live(source) == ["failed 1"]
        live.head = GOOD + HEAD
        live(source, dies=True)
        # And after a crash its winner is the one of the resumed flow.
        assert live(source + "\ngate.set()") == ["[2]"]

    def test_the_order_of_as_completed_is_repeated(self, live: Lives) -> None:
        """Though all have ended when it is asked for again."""
        source = """
import threading
gates = [threading.Event() for _ in range(4)]

@onix.action
def held(x: int):
    gates[x].wait(30)
    return x

@onix.flow(durable=True)
def flow():
    futures = [held.start(x=x) for x in range(4)]
    order = []
    gates[2].set()
    for future in onix.as_completed(futures):
        order.append(future.result())
        gates[(order[-1] + 3) % 4].set()
    dies()
    return order
"""
        live(source + "flow()", dies=True)
        assert live(source + "print(flow())")[-1] == "[2, 1, 0, 3]"

    @pytest.mark.parametrize("timed", [False, True])
    def test_the_winner_of_a_wait_is_repeated(self, live: Lives, timed: bool) -> None:
        """FIRST_COMPLETED of several, and what a timeout left over."""
        source = """
import threading
gates = [threading.Event() for _ in range(3)]
onix.configure(strict=False)

@onix.action
def held(x: int):
    gates[x].wait(30)
    return x

@onix.flow(durable=True)
def flow():
    futures = [held.start(x=x) for x in range(3)]
    gates[1].set()
    futures[1].result()
    done, not_done = onix.wait(futures, HOW)
    for gate in gates:
        gate.set()
    onix.wait(futures)
    dies()
    return sorted(future.result() for future in done), len(not_done)
"""
        source = source.replace("HOW", "timeout=0" if timed else "return_when=onix.FIRST_COMPLETED")
        live(source + "flow()", dies=True)
        assert live(source + "print(flow())")[-1] == "([1], 2)"


class TestChanges:
    def test_an_action_with_new_code_runs_again(self, live: Lives) -> None:
        """Unless it is kept; the others are replayed."""
        source = """
@onix.action
def scaled(x: int):
    ran.append("scaled")
    return x * {factor}

@onix.flow(durable=True)
def flow():
    return add(x=1) + scaled(x=10)

print(flow{options}())
"""
        assert live(source.format(factor=1, options=""))[0] == "11"
        kept = live(source.format(factor=3, options=".options(keep=[scaled])"))
        assert "11" in kept
        assert any("older code: scaled(x=10)" in line for line in kept)
        assert live(source.format(factor=2, options=""))[-2:] == ["21", "scaled"]

    def test_a_name_to_keep_that_nothing_is_recorded_of_is_told(self, live: Lives) -> None:
        """It may be a slip, for which hours of work would run again."""
        source = "@onix.flow(durable=True)\ndef flow():\n    add(x=1)\n    dies()\n"
        live(source + "flow()", dies=True)
        told = live(source + "flow.options(keep=['ad', add])()")
        assert told == ["onix_nb: keep= names 'ad', of which flow() has recorded nothing"]

    def test_on_change_error_refuses_the_first_difference(self, live: Lives) -> None:
        """Nothing runs."""
        source = "@onix.flow(durable=True)\ndef flow():\n    return add(x={x}) + add(x=5)\n"
        live(source.format(x=1) + "flow()")
        refused = source.format(x=2) + "flow.options(on_change='error')()"
        assert live.runs(refused, code=1, err="NondeterminismError: flow() differs") == []

    def test_a_refused_flow_stays_as_it_was(self, live: Lives) -> None:
        """Refused again, and when the change is undone its result is there at once."""
        source = "@onix.flow(durable=True)\ndef flow():\n    return add(x={x}) + add(x=5)\n"
        start = (
            "\ntry:\n    print(flow.options(on_change='error')())\nexcept Exception as error:\n    print(type(error))"
        )
        live(source.format(x=1) + start)
        for _ in range(2):
            assert live(source.format(x=2) + start) == ["<class 'onix_nb.errors.NondeterminismError'>"]
        assert live(source.format(x=1) + start)[-1] == "6"
        assert live.greeting == []

    def test_a_change_that_is_undone_was_none(self, live: Lives) -> None:
        """Though the kernel died while the changed flow ran: it is not unfinished, and its result is there."""
        source = "@onix.flow(durable=True)\ndef flow():\n    return add(x={x}) + add(x=5){dies}\nprint(flow())"
        live(source.format(x=1, dies=""))
        assert live.runs(source.format(x=2, dies=" + (dies() or 0)"), dies=True) == ["add2+0"]
        assert live(source.format(x=1, dies=""))[-1] == "6"
        assert live(source.format(x=1, dies=""))[-1] == "6"
        assert live.greeting == []

    def test_a_flow_that_catches_everything_is_refused_all_the_same(self, live: Lives) -> None:
        """It must not go on from a difference that it took for a failure."""
        source = """
@onix.flow(durable=True)
def flow():
    try:
        add(x={x})
    except Exception:
        pass
    return add(x=5)

try:
    print(flow.options(on_change="error")())
except onix.errors.NondeterminismError:
    print("refused")
"""
        assert live(source.format(x=1)) == ["5", "add1+0 add5+0"]
        assert live(source.format(x=2)) == ["refused"]

    def test_a_failed_flow_that_was_refused_still_forgets_what_it_failed_of(self, live: Lives) -> None:
        """When the change is undone."""
        source = """
@onix.action
def unsure(x: int):
    ran.append(f"unsure{{x}}")
    if "GOOD" not in os.environ:
        raise ValueError(x)
    return x

@onix.flow(durable=True)
def flow():
    return add(x={x}) + unsure(x=1)

try:
    print(flow.options(on_change="error")())
except (onix.errors.NondeterminismError, ValueError) as error:
    print(type(error).__name__)
"""
        assert live(source.format(x=1)) == ["ValueError", "add1+0 unsure1"]
        live.head = GOOD + HEAD
        assert live(source.format(x=2)) == ["NondeterminismError"]
        assert live(source.format(x=1)) == ["2", "unsure1"]


class TestOutcomes:
    def test_a_result_that_cannot_be_pickled_runs_again(self, live: Lives) -> None:
        """It is there in memory; a warning says so."""
        source = """
import threading
warnings.simplefilter("WARN")

@onix.action
def lock():
    ran.append("lock")
    return threading.Lock()

@onix.flow(durable=True)
def flow():
    lock()
    dies()

flow()
"""
        live(source.replace("WARN", "always"), dies=True, err="LostOutcomeWarning")
        assert live.runs(source.replace("WARN", "ignore")) == ["lock"]

    def test_an_outcome_that_cannot_be_read_any_more_runs_again(self, live: Lives) -> None:
        """The action's and the flow's own, which is then resumed: when the kernel dies, it goes on once more."""
        source = """
import os
warnings.simplefilter("ignore")

class Odd:
    def __reduce__(self):
        return restored, ()

def restored():
    if "LATER" in globals():
        raise TypeError("gone")
    return Odd()

@onix.action
def odd():
    ran.append("odd")
    return Odd()

@onix.flow(durable=True)
def flow():
    add(x=1)
    found = odd()
    dies()
    return found

"""
        live(source + "flow()")
        later = "LATER = True\n" + source
        assert live.runs(later + "flow()", dies=True) == ["odd"]
        assert live.runs(later + "flow()") == ["odd"]
        assert live.greeting[0].startswith(f"{GREETING} flow (3 calls recorded). ")

    def test_an_error_that_cannot_be_pickled_is_told(self, live: Lives) -> None:
        """As a RecordedError with its type and text."""
        source = """
import threading
warnings.simplefilter("ignore")

class Odd(Exception):
    def __reduce__(self):
        raise TypeError("no")

@onix.action
def odd():
    ran.append("odd")
    raise Odd("so odd")

@onix.flow(durable=True)
def flow():
    try:
        odd()
    except Exception as error:
        print(type(error).__name__, str(error))
    dies()

flow()
"""
        assert live(source, dies=True)[0] == "Odd so odd"
        assert live(source) == ["RecordedError Odd: so odd"]

    def test_an_exception_is_the_same_with_its_cause(self, live: Lives) -> None:
        """Type, arguments and cause come back."""
        source = """
@onix.action
def raises():
    ran.append("raises")
    try:
        {}["x"]
    except KeyError as error:
        raise OSError(5, "broken") from error

@onix.flow(durable=True)
def flow():
    try:
        raises()
    except OSError as error:
        print(error.errno, repr(error.__cause__))
    dies()

flow()
"""
        assert live(source, dies=True) == ["5 KeyError('x')", "raises"]
        assert live(source) == ["5 KeyError('x')"]


class TestOneKernel:
    def test_starting_an_id_that_runs_gives_its_future(self, live: Lives) -> None:
        """Whoever starts it."""
        source = """
import threading
gate = threading.Event()

@onix.flow(durable=True)
def flow():
    gate.wait(30)
    return add(x=1)

first, second = flow.start(), flow.start()
print(first is second)
gate.set()
first.result()
"""
        assert live(source) == ["True", "add1+0"]

    def test_a_second_kernel_is_told_who_has_the_journal(self, live: Lives) -> None:
        """And nothing runs there."""
        source = """
import subprocess

@onix.flow(durable=True)
def flow():
    return add(x=1)

if len(sys.argv) == 1:
    flow()
    other = subprocess.run([sys.executable, __file__, "other"], capture_output=True, text=True)
    print("JournalBusyError" in other.stderr, str(os.getpid()) in other.stderr, "add" in other.stdout)
else:
    flow.options(fresh=True)()
"""
        assert live(source) == ["True True False", "add1+0"]

    def test_the_first_durable_flow_tells_what_is_unfinished(self, live: Lives) -> None:
        """Once, with the way to go on."""
        source = "@onix.flow(durable=True)\ndef flow():\n    add(x=1)\n    dies()\n"
        live(source + "flow()", dies=True)
        assert live(source + "flow.options(fresh=True)") == []
        assert len(live.greeting) == 1
        assert live.greeting[0].startswith(f"{GREETING} flow (1 call recorded). Started again")

    def test_without_a_durable_flow_sqlite_is_not_imported(self, live: Lives) -> None:
        """Nor is anything of the journal."""
        source = (
            "@onix.flow\ndef flow():\n    return add(x=1)\nflow()\nprint([m for m in sys.modules if 'sqlite' in m])"
        )
        assert live(source) == ["[]", "add1+0"]


class TestOptions:
    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (lambda f: onix.flow(durable=1)(f), TypeError, "durable="),
            (lambda f: onix.flow(flow_id="x")(f), TypeError, "durable=True"),
            (lambda f: onix.flow(durable=True, flow_id="{y}")(f), ValueError, "'y'"),
            (lambda f: onix.flow(durable=True, flow_id="{x")(f), ValueError, "template"),
            (lambda f: onix.flow(durable=True, flow_id=3)(f), TypeError, "flow_id="),
            (lambda f: onix.flow(f).options(fresh=True), TypeError, "durable=True"),
            (lambda f: onix.flow(f).options(durable=True, fresh=1), TypeError, "fresh="),
            (lambda f: onix.flow(f).options(durable=True, keep="fetch"), TypeError, "keep="),
            (lambda f: onix.flow(f).options(durable=True, keep=[3]), TypeError, "keep="),
            (lambda f: onix.flow(f).options(durable=True, on_change="shrug"), ValueError, "on_change="),
        ],
    )
    def test_what_is_wrong_is_said_at_once(
        self, make: Callable[[Any], Any], error: type[Exception], match: str, tmp_path: Path
    ) -> None:
        """By the name of the option."""

        def function(x: int) -> int:
            return x

        with onix.configure(journal=tmp_path / "none.sqlite"), pytest.raises(error, match=match):
            make(function)

    def test_async_flows_are_refused(self, tmp_path: Path) -> None:
        """What they await has no order to repeat."""

        async def function() -> None:
            """Nothing."""

        with onix.configure(journal=tmp_path / "none.sqlite"), pytest.raises(TypeError, match="can't be durable"):
            onix.flow(durable=True)(function)
