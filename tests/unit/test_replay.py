"""What a flow that runs again takes from its journal, and what it tells: edits as a table, and a model."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from onix_nb.errors import NondeterminismError
from onix_nb.journal import replay
from onix_nb.journal.replay import Decision, Path, Replay, Report, forgotten
from onix_nb.model.digest import of_arguments, of_function


@dataclasses.dataclass(frozen=True)
class Call:
    """A row of the journal, as far as replay looks at it, and its outcome."""

    key: bytes
    code: bytes
    name: str
    label: str
    status: str = "succeeded"
    seq: int = 0
    outcome: Any = None


class Journal:
    """What was recorded, in order; `cut` is what is left of it after a crash."""

    def __init__(self, rows: Iterable[tuple[str, Any]] = ()) -> None:
        self.rows = list(rows)

    def cut(self, length: int | None) -> Journal:
        return Journal(self.rows[:length])

    @property
    def calls(self) -> list[Call]:
        return [row for kind, row in self.rows if kind == "call"]

    @property
    def choices(self) -> dict[bytes, Sequence[bytes]]:
        return {row[0]: row[1] for kind, row in self.rows if kind == "choice"}


class Start(NamedTuple):
    """A future, as the flows of these tests have it."""

    key: bytes
    outcome: Any


class Do:
    """What a flow of these tests is given instead of onix: it calls actions and child flows, and waits."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path

    def start(self, action: Callable[..., Any], **arguments: Any) -> Start:
        digest = of_arguments(arguments)
        key = self._path.call("action", action.__name__, digest)
        label = ", ".join(f"{value!r}" for value in arguments.values())
        return Start(key, self._engine.run(self._path, key, action, label, arguments))

    def call(self, action: Callable[..., Any], **arguments: Any) -> Any:
        outcome = self.start(action, **arguments).outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def child(self, flow: Callable[..., Any], **arguments: Any) -> Any:
        key = self._path.call("flow", flow.__name__, of_arguments(arguments))
        return flow(Do(self._engine, self._path.child(key)), **arguments)

    def wait(self, mode: str, starts: Sequence[Start], count: int = 1) -> list[Start]:
        """The first `count` that are done."""
        by_key = {one.key: one for one in starts}
        key = self._path.choice(mode, by_key)
        winners = self._engine.replay.choice(key, by_key)
        if winners is None:
            winners = tuple(self._engine.shuffled(by_key)[:count])
        else:
            self._engine.chosen += 1
        self._engine.journal.rows.append(("choice", (key, winners)))
        return [by_key[one] for one in winners]


class Engine:
    """Runs a flow over a journal."""

    def __init__(self, before: Journal, *, seed: int = 0, world: int = 0, **options: Any) -> None:
        self.replay = Replay(before.calls, before.choices, **options)
        self.journal = Journal()
        self.decisions: list[tuple[str, Decision[Call]]] = []
        self.chosen = 0
        self._random = random.Random(seed)
        self._world = world

    def shuffled(self, keys: Iterable[bytes]) -> list[bytes]:
        found = list(keys)
        self._random.shuffle(found)
        return found

    def run(self, path: Path, key: bytes, action: Any, label: str, arguments: Mapping[str, Any]) -> Any:
        code = of_function(action)
        decision = self.replay.call(key, action.__name__, code, label, path)
        self.decisions.append((f"{action.__name__}({label})", decision))
        status, outcome = "succeeded", None
        if decision.recorded is not None:
            status, outcome = decision.recorded.status, decision.recorded.outcome
        else:
            try:
                outcome = action(**arguments)
            except LookupError as error:
                status, outcome = "failed", error
        seq = len(self.journal.rows)
        self.journal.rows.append(("call", Call(key, code, action.__name__, label, status, seq, outcome)))
        return outcome

    @property
    def reports(self) -> list[Report[Call]]:
        return [decision.report for _, decision in self.decisions if decision.report]


def define(source: str) -> Any:
    """The flow that a cell defines."""
    found: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "/tmp/ipykernel_1/1.py", "exec"), found)
    return found["flow"]


class Done(NamedTuple):
    """How a flow ended over a journal."""

    result: Any
    engine: Engine
    final: Report[Call] | None


def run(flow: Any, before: Journal | None = None, /, **options: Any) -> Done:
    engine = Engine(before or Journal(), **options)
    result = flow(Do(engine, Path()))
    return Done(result, engine, engine.replay.finish())


def rerun(first: str, second: str, cut: int | None = None, seed: int = 0, **options: Any) -> Done:
    """The flow of `second` over what the one of `first` recorded."""
    old, new = define(first), define(second)
    journal = run(old).engine.journal.cut(cut)
    return run(new, journal, changed=of_function(old) != of_function(new), seed=seed, flow="flow", **options)


ACTIONS = """
SIZE = 10
def helper(x):
    return x + SIZE
def fetch(x, y=1):
    return x * 100 + y
def parse(x):
    return helper(x) * 2
def save(x):
    return -x
def child(do, x):
    return do.call(save, x=do.call(parse, x=x))
"""
BASE = (
    ACTIONS
    + """
def flow(do):
    a = do.call(fetch, x=1)
    b = do.call(fetch, x=2)
    c = [do.call(parse, x=n) for n in range(3)]
    d = do.child(child, x=7)
    e = do.call(fetch, x=1)
    return [a, b, c, d, e]
"""
)
ALL = ["fetch(1)", "fetch(2)", "parse(0)", "parse(1)", "parse(2)", "parse(7)", "save(-34)", "fetch(1)"]
ALL[6] = "save(34)"
WAITS = (
    ACTIONS
    + """
def flow(do):
    starts = [do.start(fetch, x=n) for n in range(6)]
    done = do.wait("FIRST_COMPLETED", starts, 2)
    return [do.call(save, x=one.outcome) for one in done]
"""
)


class Edit(NamedTuple):
    """An edit of a flow, and what is then to be told: calls that run with their reason, and what is left."""

    old: str
    new: str
    runs: dict[str, str]
    left: list[str]
    base: str = BASE


PARSED = {"parse(0)": "code", "parse(1)": "code", "parse(2)": "code", "parse(7)": "code"}
EDITS = {
    "nothing": Edit("def flow", "def flow", {}, []),
    "comment and lines": Edit("def flow", "\n\n# a comment\ndef flow", {}, []),
    "said in another way": Edit("return [a, b, c, d, e]", "return list((a, b, c, d, e))", {}, []),
    "action renamed": Edit("save", "store", {"store(34)": "new"}, ["save(34)"]),
    "child renamed": Edit(
        "child, x=7", "kid, x=7", {"parse(7)": "arguments", "save(34)": "arguments"}, ["parse(7)", "save(34)"]
    ),
    "statements reordered": Edit(
        "    a = do.call(fetch, x=1)\n    b = do.call(fetch, x=2)\n",
        "    b = do.call(fetch, x=2)\n    a = do.call(fetch, x=1)\n",
        {},
        [],
    ),
    "inserted": Edit("    d = ", "    do.call(save, x=0)\n    d = ", {"save(0)": "new"}, []),
    "inserted before all, same action": Edit("    a = ", "    do.call(fetch, x=0)\n    a = ", {"fetch(0)": "new"}, []),
    "inserted, same call": Edit("    d = ", "    do.call(fetch, x=1)\n    d = ", {"fetch(1)": "new"}, []),
    "deleted": Edit("do.call(fetch, x=2)", "None", {}, ["fetch(2)"]),
    "deleted, same call": Edit("a = do.call(fetch, x=1)", "a = None", {}, ["fetch(1)"]),
    "argument": Edit("fetch, x=2", "fetch, x=3", {"fetch(3)": "arguments"}, ["fetch(2)"]),
    "type of an argument": Edit("fetch, x=2", "fetch, x=2.0", {"fetch(2.0)": "arguments"}, ["fetch(2)"]),
    "argument given by name": Edit("fetch, x=2", "fetch, x=2, y=1", {"fetch(2, 1)": "arguments"}, ["fetch(2)"]),
    "default": Edit("y=1):", "y=2):", {"fetch(1)": "code", "fetch(2)": "code"}, []),
    "body": Edit("return -x", "return +x", {"save(34)": "code"}, []),
    "body, another result": Edit("* 2", "* 3", {**PARSED, "save(51)": "arguments"}, ["save(34)"]),
    "helper": Edit("x + SIZE", "SIZE + x", PARSED, []),
    "global of a helper": Edit("SIZE = 10", "SIZE = 11", {**PARSED, "save(36)": "arguments"}, ["save(34)"]),
    "longer loop": Edit("range(3)", "range(5)", {"parse(3)": "new", "parse(4)": "new"}, []),
    "shorter loop": Edit("range(3)", "range(1)", {}, ["parse(1)", "parse(2)"]),
    "loop in the other order": Edit("range(3)", "reversed(range(3))", {}, []),
    "nested flow edited": Edit(
        "return do.call(save, x=do.call(parse, x=x))",
        "do.call(fetch, x=x)\n    return do.call(save, x=do.call(parse, x=x))",
        {"fetch(7)": "new"},
        [],
    ),
    "argument of a nested flow": Edit(
        "child, x=7",
        "child, x=8",
        {"parse(8)": "arguments", "save(36)": "arguments"},
        ["parse(7)", "save(34)"],
    ),
    "nested flow inlined": Edit(
        "do.child(child, x=7)", "do.call(parse, x=7)", {"parse(7)": "arguments"}, ["parse(7)", "save(34)"]
    ),
    "action called by a flow in between": Edit(
        "    a = do.call(fetch, x=1)",
        "    a = do.child(between)",
        {"fetch(1)": "arguments"},
        ["fetch(1)"],
    ),
    "wait": Edit("return [do", "return [0 or do", {}, [], WAITS),
    "wait mode": Edit('"FIRST_COMPLETED"', '"FIRST_EXCEPTION"', {}, [], WAITS),
    "as_completed": Edit('"FIRST_COMPLETED"', '"as_completed"', {}, [], WAITS),
    "members of a wait": Edit("range(6)", "range(7)", {"fetch(6)": "new"}, [], WAITS),
    "order of the members": Edit("range(6)", "reversed(range(6))", {}, [], WAITS),
}
KEEPS_ITS_WINNERS = {"wait": True, "wait mode": False, "as_completed": False, "members of a wait": False}
KEEPS_ITS_WINNERS["order of the members"] = True


def edited(edit: Edit) -> str:
    assert edit.old in edit.base
    source = edit.base.replace(edit.old, edit.new)
    if "kid" in edit.new:
        source = source.replace(
            "def flow", "def kid(do, x):\n    return do.call(save, x=do.call(parse, x=x))\ndef flow"
        )
    return source.replace("def flow", "def between(do):\n    return do.call(fetch, x=1)\ndef flow")


def shown(calls: Collection[Any]) -> list[str]:
    return [f"{call.name}({call.label})" for call in calls]


@pytest.mark.parametrize("name", [name for name, edit in EDITS.items() if edit.base is BASE])
def test_what_an_edit_runs_and_tells(name: str) -> None:
    """Row by row: what has changed runs, and nothing else; the result is that of the new code."""
    edit = EDITS[name]
    first, second = edited(edit._replace(new=edit.old)), edited(edit)
    result, engine, final = rerun(first, second)
    assert result == run(define(second)).result
    ran = [(what, decision.reason) for what, decision in engine.decisions if decision.recorded is None]
    assert sorted({what for what, _ in ran}) == sorted(edit.runs)
    assert {f"{one.name}({one.label})": one.reason for one in (final.runs if final else ())} == edit.runs
    assert shown(final.left if final else ()) == edit.left
    # Told in time: before the first call that runs, and once.
    assert [bool(d.report) for _, d in engine.decisions if d.recorded is None] == [n == 0 for n in range(len(ran))]
    assert (final is None) == (not edit.runs and not edit.left)
    replayed = shown(final.replayed) if final else ALL
    assert len(replayed) + len(ran) == len(engine.decisions)


@pytest.mark.parametrize("name", KEEPS_ITS_WINNERS)
def test_what_an_edit_does_to_a_wait(name: str) -> None:
    """The winners are those of then, if it is the same wait for the same members."""
    edit = EDITS[name]
    was = run(define(WAITS)).result
    results = [rerun(WAITS, edited(edit), seed=seed) for seed in range(1, 30)]
    assert {done.engine.chosen for done in results} == {int(KEEPS_ITS_WINNERS[name])}
    assert all(done.result == was for done in results) == KEEPS_ITS_WINNERS[name]
    assert len({tuple(run(define(WAITS), seed=seed).result) for seed in range(30)}) > 5, "control: it is a race"


def test_the_table_is_long() -> None:
    """Enough rows to say what an edit does."""
    assert len(EDITS) >= 16


@pytest.mark.parametrize("cut", range(9))
def test_after_a_crash_nothing_is_told(cut: int) -> None:
    """Of an unchanged flow what was recorded is replayed, and the rest runs."""
    done = rerun(BASE, BASE, cut=cut, on_change="error")
    assert [decision.recorded is not None for _, decision in done.engine.decisions] == [n < cut for n in range(8)]
    assert {decision.reason for _, decision in done.engine.decisions} <= {None, "in flight"}
    assert (done.engine.reports, done.final) == ([], None)
    assert done.result == run(define(BASE)).result


def test_the_report_says_what_is_known() -> None:
    """Before the first call that runs, and at the end."""
    source = BASE.replace("* 2", "* 3").replace("fetch, x=2", "fetch, x=3")
    done = rerun(BASE, source)
    (report,) = done.engine.reports
    assert str(report).splitlines() == [
        "flow() has changed since its calls were recorded:",
        "  replayed: fetch(1)",
        "  runs, since other arguments are recorded: fetch(3)",
        "  recorded and not asked for so far: fetch(2), parse(0), parse(1), parse(2), parse(7) and 2 more",
    ]
    assert str(done.final).splitlines() == [
        "flow() has changed since its calls were recorded:",
        "  replayed: fetch(1), fetch(1)",
        "  ran, since other arguments are recorded: fetch(3) instead of fetch(2), save(51) instead of save(34)",
        "  ran, since its code has changed: parse(0), parse(1), parse(2), parse(7)",
        "  recorded and not asked for: fetch(2), save(34)",
    ]


def test_codes_that_are_known_before_tell_what_will_run() -> None:
    """Of the actions that a flow uses."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(BASE.replace("* 2", "* 3"), names)
    codes = {"parse": of_function(names["parse"])}
    (report,) = rerun(BASE, BASE.replace("* 2", "* 3"), codes=codes).engine.reports
    assert shown(report.outdated) == ["parse(1)", "parse(2)", "parse(7)"]
    assert "  will run when asked for, since its code has changed: parse(1), parse(2), parse(7)" in str(report)


def test_keep_reuses_what_older_code_returned() -> None:
    """Marked, and told."""
    done = rerun(BASE, BASE.replace("* 2", "* 3"), keep=["parse"], on_change="error")
    assert done.result == run(define(BASE)).result
    assert [what for what, decision in done.engine.decisions if decision.kept] == list(PARSED)
    assert all(decision.recorded for _, decision in done.engine.decisions)
    assert done.final is not None
    assert "of these made by older code: parse(0), parse(1), parse(2), parse(7)" in str(done.final)


FIRST_DIFFERENCES = {
    "argument": r"fetch\(3\) is not recorded, while fetch\(2\) is and was not asked for so far",
    "body": r"the code of save\(34\) has changed",
    "helper": r"the code of parse\(0\) has changed",
    "deleted": r"fetch\(2\) was recorded and not asked for",
    "inserted before all, same action": r"fetch\(0\) is not recorded, while fetch\(1\) is",
}


@pytest.mark.parametrize(("name", "message"), FIRST_DIFFERENCES.items(), ids=FIRST_DIFFERENCES.keys())
def test_an_error_names_the_first_difference(name: str, message: str) -> None:
    """Under `on_change="error"`."""
    with pytest.raises(NondeterminismError, match=message):
        rerun(BASE, edited(EDITS[name]), on_change="error")


def test_going_on_after_what_is_recorded_is_no_difference() -> None:
    """A step that is appended runs, also under `on_change="error"`."""
    done = rerun(BASE, BASE.replace("return [a", "do.call(save, x=5)\n    return [a"), on_change="error")
    assert [what for what, decision in done.engine.decisions if decision.recorded is None] == ["save(5)"]


def test_a_call_that_was_in_flight_is_no_difference() -> None:
    """If it is known to have begun."""
    flow = define(BASE)
    journal = run(flow).engine.journal
    key = journal.calls[1].key
    rows = Journal(row for row in journal.rows if row[1].key != key)
    done = run(flow, rows, changed=True, begun=[key], on_change="error")
    assert [decision.reason for _, decision in done.engine.decisions if decision.reason] == ["in flight"]


def test_a_flow_that_is_not_deterministic_is_told_so() -> None:
    """Its code is the same, and it asks for something else."""
    clock = itertools.count()
    flow = define(ACTIONS + "def flow(do):\n    return do.call(fetch, x=now())")
    flow.__globals__["now"] = lambda: next(clock)
    journal = run(flow).engine.journal
    done = run(flow, journal, flow="flow")
    assert str(done.final).startswith("flow() does not ask for what was recorded, though its code is the same:")
    assert "ran, since other arguments are recorded: fetch(1) instead of fetch(0)" in str(done.final)
    with pytest.raises(NondeterminismError, match=r"fetch\(0\) was recorded and not asked for"):
        run(flow, journal, on_change="error")


FAILING = """
import threading
repaired = threading.Event()
def work(x):
    raise LookupError(x)
def flaky(x):
    if not repaired.is_set():
        raise LookupError(x)
    return x
def clean(x):
    return x
def flow(do):
    found = []
    try:
        do.call(work, x=1)
    except LookupError:
        found.append(do.call(clean, x="after work"))
    try:
        found.append(do.call(flaky, x=2))
    except LookupError:
        do.call(clean, x="after flaky")
        raise
    return found
"""


def test_resuming_a_failed_flow_forgets_only_what_it_failed_from() -> None:
    """A failure that the flow caught is replayed; the one that it raised runs again, and what it led to is no change."""
    flow = define(FAILING)
    engine = Engine(Journal())
    with pytest.raises(LookupError):
        flow(Do(engine, Path()))
    calls = engine.journal.calls
    assert [call.status for call in calls] == ["failed", "succeeded", "failed", "succeeded"]
    chain = {calls[2].key, calls[3].key, b"a child flow"}
    forget = forgotten(calls, chain, ended=len(calls))
    assert forget == {calls[2].key}
    # What the flow did after it was resumed stays, whether it went well or not.
    for status in ("succeeded", "failed"):
        since = dataclasses.replace(calls[2], status=status, seq=len(calls) + 1)
        assert forgotten([since, *calls], chain, ended=len(calls)) == set()
    flow.__globals__["repaired"].set()
    done = run(flow, engine.journal, forget=forget, on_change="error")
    assert done.result == ["after work", 2]
    assert [decision.reason for _, decision in done.engine.decisions] == [None, None, "forgotten"]
    assert (done.engine.reports, done.final) == ([], None)
    # Nor is it a change that the action was repaired in its code.
    repaired = define(FAILING.replace("if not repaired.is_set()", "if x > 5"))
    done = run(repaired, engine.journal, forget=forget, changed=True, on_change="error")
    assert done.result == ["after work", 2]
    assert [shown(report.runs) for report in done.engine.reports] == [["flaky(2)"]]
    assert done.final is not None
    assert shown(done.final.left) == ["clean('after flaky')"]
    # After a crash, nothing is forgotten.
    with pytest.raises(LookupError):
        run(flow, engine.journal)


def test_a_wait_that_a_forgotten_failure_won_is_open_again() -> None:
    """And one that was won by what runs again, or by a flow in which something does."""
    path = Path()
    child = path.child(path.call("flow", "child", b""))
    keys = [path.call("action", "a", b"1"), child.key, child.call("action", "b", b"2")]
    calls = [Call(keys[0], b"c", "a", "1", "failed"), Call(keys[2], b"c", "b", "2")]

    def replay_with(**options: Any) -> Replay[Call]:
        return Replay(calls, {b"w": [keys[0]], b"v": [keys[1]]}, **options)

    assert replay_with().choice(b"w", keys) == (keys[0],)
    assert replay_with().choice(b"w", keys[1:]) is None
    assert replay_with().choice(b"u", keys) is None
    assert replay_with(forget=[keys[0]]).choice(b"w", keys) is None
    edited = replay_with()
    assert edited.choice(b"v", keys) == (child.key,)
    assert edited.call(keys[2], "b", b"new code", "2", child).reason == "code"
    assert edited.choice(b"v", keys) is None
    assert edited.choice(b"w", keys) == (keys[0],)


def test_what_could_not_be_recorded_runs_again() -> None:
    """That is no change."""
    again = Replay([Call(b"k", b"c", "a", "1", "unpicklable")], on_change="error")
    assert again.call(b"k", "a", b"c", "1").reason == "unpicklable"
    assert again.finish() is None


def test_of_two_outcomes_the_later_one_counts() -> None:
    """As after an edit and an edit back."""
    calls = [Call(b"k", b"c", "a", "1", seq=2, outcome="new"), Call(b"k", b"b", "a", "1", seq=1, outcome="old")]
    recorded = Replay(calls).call(b"k", "a", b"c", "1").recorded
    assert recorded is not None
    assert recorded.outcome == "new"


def test_a_failed_flow_need_not_come_to_all_that_was_recorded() -> None:
    """It is no difference then."""
    assert Replay([Call(b"k", b"c", "a", "1")], on_change="error").finish(failed=True) is None
    with pytest.raises(NondeterminismError):
        Replay([Call(b"k", b"c", "a", "1")], on_change="error").finish()


def test_keys_tell_all_parts_apart() -> None:
    """Kind, name, arguments, occurrence, the flow, and waits."""
    path = Path()
    keys = [
        path.call("action", "a", b"1"),
        path.call("action", "a", b"1"),
        path.call("flow", "a", b"1"),
        path.call("action", "b", b"1"),
        path.call("action", "a", b"2"),
        path.call("action", "a1", b""),
        path.child(b"k").call("action", "a", b"1"),
        path.choice("m", [b"1"]),
        path.choice("m", [b"1"]),
        path.choice("n", [b"1"]),
        path.choice("m", [b"1", b"2"]),
        path.choice("m", [b"12"]),
    ]
    assert len(set(keys)) == len(keys)
    assert Path().choice("m", [b"2", b"1"]) == Path().choice("m", [b"1", b"2"])


# The model: a program is a tree of calls; each execution of an action returns something that never was before.


class Step(NamedTuple):
    """A call of an action; or, with steps, of a child flow. `uses`: the result before is its argument."""

    name: str
    argument: int
    uses: bool = False
    steps: tuple[Any, ...] | None = None


CALLS = st.builds(Step, st.sampled_from("abc"), st.integers(0, 1), st.booleans(), st.none())
PROGRAMS = st.recursive(
    st.lists(CALLS, max_size=5).map(tuple),
    lambda inner: st.lists(
        CALLS | st.builds(Step, st.sampled_from("xy"), st.integers(0, 1), st.just(False), inner), max_size=5
    ).map(tuple),
    max_leaves=4,
)


class Machine:
    """Runs programs, with keys by `path_of` and answers by `replay_of`; beside it the model, by names in the clear."""

    def __init__(self, path_of: Callable[[], Any], replay_of: Callable[..., Any]) -> None:
        self.path_of, self.replay_of = path_of, replay_of
        self.ticks = itertools.count()

    def run(
        self,
        program: tuple[Step, ...],
        versions: Mapping[str, int],
        before: list[tuple[Any, Call]],
        order: Any,
        **options: Any,
    ) -> list[tuple[Any, Call]]:
        """What is recorded; checks each answer against the model."""
        again = self.replay_of([call for _, call in before], **options)
        model = dict(before)
        asked: set[Any] = set()
        rows: list[tuple[Any, Call]] = []
        flows: deque[tuple[Any, Any, tuple[Step, ...]]] = deque([(self.path_of(), (), program)])
        active: list[Any] = []
        while flows or active:
            while flows:
                active.append(self._flow(*flows.popleft(), versions, model, asked, again, rows, flows))
            turn = active[order.randrange(len(active))]
            if next(turn, self) is self:
                active.remove(turn)
        left = model.keys() - asked
        final = again.finish()
        assert {call.key for call in (final.left if final else ())} == {model[place].key for place in left}
        return rows

    def _flow(
        self,
        path: Any,
        place: Any,
        steps: Any,
        versions: Any,
        model: Any,
        asked: Any,
        again: Any,
        rows: Any,
        flows: Any,
    ) -> Any:
        counts: dict[Any, int] = {}
        last = 0
        for step in steps:
            yield
            argument = (step.argument, last if step.uses else 0)
            kind = "action" if step.steps is None else "flow"
            what = (kind, step.name, argument)
            here = (*place, (*what, counts.setdefault(what, 0)))
            counts[what] += 1
            key = path.call(kind, step.name, of_arguments({"x": argument}))
            if step.steps is not None:
                flows.append((path.child(key), here, step.steps))
                continue
            code = bytes([versions[step.name]])
            decision = again.call(key, step.name, code, str(argument), path)
            asked.add(here)
            expected = model.get(here)
            if expected is None or expected.code != code:
                assert decision.recorded is None, "a stale result"
                last = next(self.ticks)
            else:
                assert decision.recorded is not None, "an unneeded run"
                last = decision.recorded.outcome
                assert last == expected.outcome, "a wrong result"
            rows.append((here, Call(key, code, step.name, str(argument), "succeeded", len(rows), last)))


@st.composite
def edits(draw: Any, program: tuple[Step, ...]) -> tuple[Step, ...]:
    """The program with a step inserted, deleted, changed or moved, here or in a child flow."""
    steps = list(program)
    where = draw(st.integers(0, len(steps)))
    kind = draw(st.sampled_from(["insert", "delete", "change", "move", "inside"]))
    if kind == "insert" or where == len(steps):
        return (*steps[:where], draw(CALLS), *steps[where:])
    step = steps.pop(where)
    if kind == "inside" and step.steps is not None:
        steps.insert(where, step._replace(steps=draw(edits(step.steps))))
    elif kind == "change":
        steps.insert(where, step._replace(argument=1 - step.argument))
    elif kind == "move":
        steps.insert(draw(st.integers(0, len(steps))), step)
    return tuple(steps)


def check(path_of: Callable[[], Any], replay_of: Callable[..., Any], examples: int, phases: Any) -> None:
    """Runs, cuts, edits or not, and replays, twice; against the model."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def runs(data: st.DataObject) -> None:
        machine = Machine(path_of, replay_of)
        program, versions = data.draw(PROGRAMS), dict.fromkeys("abc", 1)
        rows = machine.run(program, versions, [], random.Random(data.draw(st.integers(0, 9))))
        for _ in range(2):
            cut = rows[: data.draw(st.integers(0, len(rows)))] if data.draw(st.booleans()) else rows
            same, old = program, dict(versions)
            if data.draw(st.booleans()):
                program = data.draw(edits(program))
            if data.draw(st.booleans()):
                versions[data.draw(st.sampled_from("abc"))] += 1
            changed = program != same or versions != old
            rows = machine.run(program, versions, cut, random.Random(data.draw(st.integers(0, 9))), changed=changed)

    runs()


def test_a_replay_agrees_with_the_model() -> None:
    """Never a wrong or stale result, never an unneeded run, and what is left is told."""
    check(Path, Replay, 300, [Phase.generate])


class WithoutCount(Path):
    """Broken: it forgets which occurrence a call is."""

    def _next(self, *parts: bytes) -> bytes:
        self._counts.clear()
        return super()._next(*parts)

    def child(self, key: bytes) -> Path:
        return WithoutCount(key, self)


class WithoutPath(Path):
    """Broken: all flows are one."""

    def child(self, key: bytes) -> Path:
        return self


class WithoutCode(Replay[Call]):
    """Broken: it takes what older code returned."""

    def call(self, key: bytes, name: str, code: bytes, label: str, path: Path | None = None) -> Decision[Call]:
        recorded = self._calls.get(key)
        return super().call(key, name, code if recorded is None else recorded.code, label, path)


class WithoutOrder(Replay[Call]):
    """Broken: of two outcomes of one key it takes any."""

    def _reason(self, *parts: Any) -> Any:
        return "new" if len(self._replayed) == 1 else super()._reason(*parts)


@pytest.mark.parametrize(
    ("path_of", "replay_of"),
    [(WithoutCount, Replay), (WithoutPath, Replay), (Path, WithoutCode), (Path, WithoutOrder)],
    ids=["without count", "without path", "without code", "an unneeded run"],
)
def test_a_broken_replay_is_caught(path_of: Any, replay_of: Any) -> None:
    """Control: the model is not blind."""
    with pytest.raises(AssertionError):
        check(path_of, replay_of, 300, [Phase.generate])


def test_the_table_catches_a_replay_that_ignores_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: no edit of an action's code goes unseen."""
    monkeypatch.setattr(replay.Replay, "_reason", lambda self, key, name, code, recorded: None if recorded else "new")
    caught = []
    for name, edit in EDITS.items():
        if "code" in edit.runs.values():
            try:
                test_what_an_edit_runs_and_tells(name)
            except AssertionError:
                caught.append(name)
    assert caught == [name for name, edit in EDITS.items() if "code" in edit.runs.values()]
    assert len(caught) >= 5
