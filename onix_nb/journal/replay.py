"""What a durable flow that runs again takes from its journal, and what it runs.

A flow re-executes. Each call of an action has a key, which says where in the flow it is and with which arguments:
`Path` makes them. `Replay` has what was recorded, and answers each call with what is recorded under its key, or with
why it has to run. What differs becomes a `Report`, or an error.

Pure: no files, threads or clocks. A `Replay` that several threads ask needs a lock around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from ..errors import NondeterminismError

OnChange = Literal["report", "error"]

# Why a call runs: nothing is recorded for it (`new`), or only with other arguments; it was recorded with other code; it
# was in flight when the kernel died, or had not begun; its failure is what a failed flow is resumed from; its
# outcome could not be recorded.
Reason = Literal["new", "arguments", "code", "in flight", "forgotten", "unpicklable"]

# Reasons that are changes of the flow.
_CHANGES: Final = ("new", "arguments", "code")

# The path of a root flow.
ROOT: Final = bytes(32)

# Calls that a line of a report names.
MOST_NAMED: Final = 5


class RecordedCall(Protocol):
    """A call of an action that ended and was recorded.

    Attributes:
        key: Where in the flow it was, as `Path.call` said.
        code: The digest of the action's code.
        name: The name of the action.
        label: Its arguments, as text.
        status: `"succeeded"` or `"failed"`; a call with any other one runs again.
        seq: Its place in the order of recording.
    """

    @property
    def key(self) -> bytes: ...  # noqa: D102
    @property
    def code(self) -> bytes: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def seq(self) -> int: ...  # noqa: D102


C = TypeVar("C", bound=RecordedCall)


class Path:
    """Where a run of a flow is; gives the keys of what it does, which count what came before.

    Only the flow's own thread may ask it, in the order in which the flow calls.

    Attributes:
        key: The flow's own key.
        above: The path of the flow that called it; None for a root flow.
    """

    __slots__ = ("_counts", "above", "key")

    def __init__(self, key: bytes = ROOT, above: Path | None = None) -> None:
        self.key = key
        self.above = above
        self._counts: dict[bytes, int] = {}

    def call(self, kind: str, name: str, arguments: bytes) -> bytes:
        """The key of the next call: of an action, or of a child flow, whose path is then `child(key)`."""
        return self._next(kind.encode(), name.encode("utf-8", "surrogatepass"), arguments)

    def choice(self, mode: str, members: Iterable[bytes]) -> bytes:
        """The key of the next wait in this mode for these members, in whichever order."""
        return self._next(b"choice", mode.encode(), *sorted(members))

    def child(self, key: bytes) -> Path:
        """The path of a child flow."""
        return Path(key, self)

    def _next(self, *parts: bytes) -> bytes:
        what = blake2b(self.key, digest_size=32)
        for part in parts:
            what.update(len(part).to_bytes(8, "big") + part)
        same = what.digest()
        count = self._counts[same] = self._counts.get(same, -1) + 1
        what.update(count.to_bytes(8, "big"))
        return what.digest()


class Ran(NamedTuple):
    """A call that runs, and why.

    Attributes:
        key: Its key.
        name: The name of the action.
        label: Its arguments, as text.
        reason: Why it runs.
        instead: The arguments that are recorded, where it has others, as far as that can be said.
    """

    key: bytes
    name: str
    label: str
    reason: Reason
    instead: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Report(Generic[C]):
    """What is replayed and what is not; as text, for people.

    Attributes:
        flow: The name of the flow.
        changed: Whether its code has changed.
        final: Whether the flow has ended. Before, it says what is known so far.
        replayed: The calls that were replayed.
        kept: Those of them that older code made, as `keep` allows.
        runs: The calls that run.
        outdated: Recorded calls that will run if they are asked for, since their code has changed.
        left: Other recorded calls that have not been asked for.
    """

    flow: str
    changed: bool
    final: bool
    replayed: tuple[C, ...]
    kept: tuple[C, ...]
    runs: tuple[Ran, ...]
    outdated: tuple[C, ...]
    left: tuple[C, ...]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.changed:
            yield f"{self.flow}() has changed since its calls were recorded:"
        else:
            yield f"{self.flow}() does not ask for what was recorded, though its code is the same:"
        yield f"  replayed: {_listed(self.replayed)}"
        if self.kept:
            yield f"  of these made by older code: {_listed(self.kept)}"
        for reason in dict.fromkeys(one.reason for one in self.runs):
            yield f"  {'ran' if self.final else 'runs'}, {_WHY[reason]}: " + _listed(
                [one for one in self.runs if one.reason == reason]
            )
        if self.outdated:
            yield f"  will run when asked for, {_WHY['code']}: {_listed(self.outdated)}"
        if self.left:
            yield f"  recorded and not asked for{'' if self.final else ' so far'}: {_listed(self.left)}"


_WHY: Final[Mapping[Reason, str]] = {
    "new": "since nothing is recorded for it",
    "arguments": "since other arguments are recorded",
    "code": "since its code has changed",
    "in flight": "since it had not ended",
    "forgotten": "since it had failed",
    "unpicklable": "since its outcome could not be recorded",
}


class Decision(NamedTuple, Generic[C]):
    """The answer to a call.

    Attributes:
        recorded: What is recorded for it; None if it has to run.
        kept: Whether that was made by older code.
        reason: Why it has to run; None if it is recorded.
        report: What is to be told before it runs, once in a replay.
    """

    recorded: C | None
    kept: bool = False
    reason: Reason | None = None
    report: Report[C] | None = None


def forgotten(calls: Iterable[RecordedCall], chain: Collection[bytes], ended: int) -> frozenset[bytes]:
    """What a failed flow forgets when it is resumed: the recorded failures among the runs that its exception is from.

    Args:
        calls: What is recorded.
        chain: The keys of the runs that raised the flow's exception, its causes and contexts.
        ended: The place of that end in the order of recording. What came after it is of a flow that was resumed
            since, and stays.
    """
    latest = {call.key: call for call in sorted(calls, key=lambda call: call.seq)}
    failed = (key for key in chain if key in latest and latest[key].status == "failed")
    return frozenset(key for key in failed if latest[key].seq < ended)


class Replay(Generic[C]):
    """What was recorded of a flow, and what it has asked for in this run.

    Args:
        calls: What was recorded; of two with one key the later one counts.
        choices: The winners of waits, by the key of the wait, in order.
        ends: When sleeps end, in seconds since the epoch, by the key of the sleep.
        flow: The name of the flow, for reports.
        changed: Whether the code of the flow has changed since. If it has not, no difference is expected, and a call
            that is not recorded was in flight, or had not begun.
        codes: The code digests of actions, by name, as far as they are known before they are called.
        begun: The keys of calls that are known to have begun and not ended.
        forget: The keys of failures that run again, as `forgotten` says.
        keep: The names of actions whose outcomes count, although older code made them.
        on_change: `"error"` raises at the first difference.
    """

    def __init__(
        self,
        calls: Iterable[C],
        choices: Mapping[bytes, Sequence[bytes]] | None = None,
        *,
        ends: Mapping[bytes, float] | None = None,
        flow: str = "the flow",
        changed: bool = False,
        codes: Mapping[str, bytes] | None = None,
        begun: Collection[bytes] = (),
        forget: Collection[bytes] = (),
        keep: Collection[str] = (),
        on_change: OnChange = "report",
    ) -> None:
        self._calls = {call.key: call for call in sorted(calls, key=lambda call: call.seq)}
        self._choices = choices or {}
        self._ends = ends or {}
        self._flow = flow
        self._changed = changed
        self._codes = dict(codes or {})
        self._begun = begun
        self._forget = frozenset(forget)
        self._keep = frozenset(keep)
        self._strict = on_change == "error"
        # What has not been asked for, by name and in the order of recording.
        self._left: dict[str, dict[bytes, C]] = {}
        for call in sorted(self._calls.values(), key=lambda call: call.seq):
            self._left.setdefault(call.name, {})[call.key] = call
        self._replayed: list[C] = []
        self._kept: list[C] = []
        self._runs: list[Ran] = []
        # Keys of what is not as it was recorded: calls that run, and the flows around them.
        self._fresh: set[bytes] = set(self._forget)
        self._told = False

    def call(self, key: bytes, name: str, code: bytes, label: str, path: Path | None = None) -> Decision[C]:
        """What becomes of the next call of an action.

        Args:
            key: Its key, as `path.call` said.
            name: The name of the action.
            code: The digest of its code.
            label: Its arguments, as text.
            path: The flow that calls it. If it runs, waits that the flow won, or one above, are open again.

        Raises:
            NondeterminismError: It is a difference, under `on_change="error"`.
        """
        self._codes[name] = code
        recorded = self._calls.get(key)
        if recorded is not None:
            self._ask(recorded)
        reason = self._reason(key, name, code, recorded)
        if reason is None and recorded is not None:
            self._replayed.append(recorded)
            if recorded.code != code:
                self._kept.append(recorded)
            return Decision(recorded, recorded.code != code)
        assert reason is not None
        one = self._note(Ran(key, name, label, reason), path)
        if self._strict:
            self._refuse(one)
        due = self._changed and not self._told
        self._told = self._told or due
        return Decision(None, False, reason, self._report(final=False) if due else None)

    def choice(self, key: bytes, members: Collection[bytes]) -> tuple[bytes, ...] | None:
        """The recorded winners of a wait, in order; None: whoever is done.

        They are given only if all of them are members, and as they were then: a call that runs again may end otherwise.
        """
        winners = self._choices.get(key)
        if winners is None or not self._fresh.isdisjoint(winners) or not set(winners) <= set(members):
            return None
        return tuple(winners)

    def end_of_sleep(self, key: bytes) -> float | None:
        """When a sleep ends, in seconds since the epoch; None if it begins now."""
        return self._ends.get(key)

    def finish(self, failed: bool = False) -> Report[C] | None:
        """What is to be told at the end of the flow; None if nothing has changed.

        Args:
            failed: It failed or was cancelled, so that it may not have come to what it did then.

        Raises:
            NondeterminismError: It has not asked for everything that was recorded, under `on_change="error"`.
        """
        report = self._report(final=True)
        left = () if failed else self._unexplained(report.left)
        if left and self._strict:
            raise self._error(f"{_shown(left[0])} was recorded and not asked for")
        if left or (self._changed and report.left) or report.kept or any(one.reason in _CHANGES for one in report.runs):
            return report
        return None

    def _reason(self, key: bytes, name: str, code: bytes, recorded: C | None) -> Reason | None:
        if recorded is None:
            if key in self._begun or not self._changed:
                return "in flight"
            return "arguments" if self._left.get(name) else "new"
        if key in self._forget:
            return "forgotten"
        if recorded.code != code and name not in self._keep:
            return "code"
        return None if recorded.status in ("succeeded", "failed") else "unpicklable"

    def _ask(self, recorded: C) -> None:
        left = self._left.get(recorded.name, {})
        left.pop(recorded.key, None)
        if not left:
            self._left.pop(recorded.name, None)

    def _note(self, one: Ran, path: Path | None) -> Ran:
        self._runs.append(one)
        self._changed = self._changed or one.reason == "code"
        self._fresh.add(one.key)
        while path is not None:
            self._fresh.add(path.key)
            path = path.above
        return one

    def _refuse(self, one: Ran) -> None:
        """Raises if a call is a difference; one after all that was recorded goes on from there."""
        if one.reason == "code":
            raise self._error(f"the code of {_shown(one)} has changed")
        left = self._unexplained(self._in_order())
        if one.reason in ("new", "arguments") and left:
            raise self._error(f"{_shown(one)} is not recorded, while {_shown(left[0])} is and was not asked for so far")

    def _error(self, difference: str) -> NondeterminismError:
        return NondeterminismError(
            f"{self._flow}() differs from its journal: {difference}. Undo the change, or resume with "
            'on_change="report", with keep= for results of older code, or with fresh=True'
        )

    def _in_order(self) -> list[C]:
        """What has not been asked for, in the order of recording."""
        return sorted((call for calls in self._left.values() for call in calls.values()), key=lambda call: call.seq)

    def _unexplained(self, left: Sequence[C]) -> Sequence[C]:
        """What is left and was recorded before a failure that is forgotten: after it, the flow may take another way."""
        first = min((call.seq for key in self._forget if (call := self._calls.get(key))), default=None)
        return left if first is None else [call for call in left if call.seq < first]

    def _report(self, final: bool) -> Report[C]:
        left = self._in_order()
        outdated = [call for call in left if not final and self._is_outdated(call)]
        keys = {call.key for call in outdated}
        return Report(
            flow=self._flow,
            changed=self._changed,
            final=final,
            replayed=tuple(self._replayed),
            kept=tuple(self._kept),
            runs=tuple(self._explained(left) if final else self._runs),
            outdated=tuple(outdated),
            left=tuple(call for call in left if call.key not in keys),
        )

    def _is_outdated(self, call: C) -> bool:
        return call.name not in self._keep and self._codes.get(call.name, call.code) != call.code

    def _explained(self, left: Sequence[C]) -> Iterator[Ran]:
        """The calls that ran, when it is known what was not asked for: those of one name had other arguments."""
        others: dict[str, list[str]] = {}
        for call in reversed(left):
            others.setdefault(call.name, []).append(call.label)
        for one in self._runs:
            if one.reason not in ("new", "arguments", "in flight") or one.key in self._begun:
                yield one
            elif others.get(one.name):
                yield one._replace(reason="arguments", instead=others[one.name].pop())
            else:
                yield one._replace(reason="new" if self._changed else "in flight")


def _shown(call: RecordedCall | Ran) -> str:
    instead = call.instead if isinstance(call, Ran) else None
    return f"{call.name}({call.label})" + ("" if instead is None else f" instead of {call.name}({instead})")


def _listed(calls: Sequence[RecordedCall] | Sequence[Ran]) -> str:
    if not calls:
        return "nothing"
    more = len(calls) - MOST_NAMED
    return ", ".join(map(_shown, calls[:MOST_NAMED])) + (f" and {more:,} more" if more > 0 else "")
