"""P5 and P6: `onix.wait`, and what of it is not in Oryonix."""

from __future__ import annotations

import concurrent.futures
import copy
import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import onix_nb as onix

WAIT = 30

WHENS = [onix.ALL_COMPLETED, onix.FIRST_COMPLETED]
each_when = pytest.mark.parametrize("return_when", WHENS)


@onix.action
def double(x: int) -> int:
    return 2 * x


@onix.flow
def triple(x: int) -> int:
    return 3 * x


@onix.flow
def fail(text: str) -> None:
    raise ValueError(text)


class Gates:
    """Flows that end one by one, when each is told to."""

    def __init__(self, number: int) -> None:
        self._gates = [threading.Event() for _ in range(number)]
        self.flow = onix.flow(name="gated")(self._pass)
        self.futures: list[onix.Future[int]] = [self.flow.start(x=x) for x in range(number)]

    def _pass(self, x: int) -> int:
        assert self._gates[x].wait(WAIT), "nobody let it go"
        return x

    def end(self, *numbers: int) -> set[onix.Future[int]]:
        """Lets those flows end, and returns their futures when they have."""
        for number in numbers:
            self._gates[number].set()
        futures = {self.futures[number] for number in numbers}
        assert not concurrent.futures.wait(futures, WAIT).not_done
        return futures

    def end_all(self) -> None:
        self.end(*range(len(self._gates)))


@pytest.fixture
def gates() -> Any:
    """Makes `Gates`, and lets them all end after the test."""
    made: list[Gates] = []

    def make(number: int) -> Gates:
        made.append(Gates(number))
        return made[-1]

    yield make
    for one in made:
        one.end_all()


def first(futures: Iterable[Any], timeout: float = WAIT) -> Any:
    return onix.wait(futures, timeout, onix.FIRST_COMPLETED)


# What it returns


def test_it_returns_a_named_tuple_of_two_sets() -> None:
    """`done` and `not_done`, by name and by position."""
    futures = [double.start(x=x) for x in range(3)]
    result = onix.wait(futures, timeout=WAIT)
    assert type(result.done) is set
    assert isinstance(result.not_done, set)
    assert result._fields == ("done", "not_done")
    done, not_done = result
    assert done is result.done
    assert not_done is result.not_done
    assert done == set(futures)
    assert not_done == set()


def test_all_completed_is_the_default(gates: Any) -> None:
    """It blocks until every future is done."""
    gated, returned = gates(3), []
    thread = threading.Thread(target=lambda: returned.append(onix.wait(gated.futures)))
    thread.start()
    gated.end(0, 1)
    assert not returned
    gated.end(2)
    thread.join(WAIT)
    assert returned[0].done == set(gated.futures)
    assert returned[0].not_done == set()


def test_first_completed_returns_with_the_first(gates: Any) -> None:
    """What ended is in `done`, the others are in `not_done`."""
    gated = gates(3)
    ended = gated.end(1)
    done, not_done = onix.wait(gated.futures, return_when=onix.FIRST_COMPLETED)
    assert done == ended
    assert not_done == set(gated.futures) - ended


def test_first_completed_blocks_until_the_first(gates: Any) -> None:
    """And wakes as soon as it has ended."""
    gated, returned = gates(2), []
    thread = threading.Thread(target=lambda: returned.append(first(gated.futures)))
    thread.start()
    ended = gated.end(1)
    thread.join(WAIT)
    assert not thread.is_alive()
    assert returned[0].done == ended


@pytest.mark.parametrize("number", [1, 2, 7])
def test_every_future_that_is_done_at_that_moment_is_in_done(gates: Any, number: int) -> None:
    """Not only the first."""
    gated = gates(8)
    ended = gated.end(*range(number))
    done, not_done = first(gated.futures)
    assert done == ended
    assert not_done == set(gated.futures) - ended


def test_it_never_raises_for_a_failed_future(gates: Any) -> None:
    """The exception is raised by result()."""
    futures = [fail.start(text="a"), triple.start(x=1), fail.start(text="b")]
    done, not_done = onix.wait(futures, timeout=WAIT)
    assert done == set(futures)
    assert not_done == set()
    assert sorted(str(future.exception()) for future in done if future.exception()) == ["a", "b"]
    failed = fail.start(text="c")
    assert first([failed]).done == {failed}
    with pytest.raises(ValueError, match="c"):
        failed.result()


def test_a_cancelled_future_is_done(held: Any) -> None:
    """Whether it was cancelled before the wait or during it."""
    future = held.flow.start()
    held.await_begun()
    returned: list[Any] = []
    thread = threading.Thread(target=lambda: returned.append(first([future])))
    thread.start()
    assert future.cancel(interrupt=True)
    thread.join(WAIT)
    assert returned[0].done == {future}
    assert onix.wait([future], timeout=WAIT).done == {future}
    held.let_go()


def test_done_in_the_order_of_starting_can_be_asked_of_the_list(gates: Any) -> None:
    """As the documentation says: sets have no order, the caller's list has."""
    futures = [double.start(x=x) for x in range(10)]
    done, _ = onix.wait(futures, timeout=WAIT)
    assert [future.result() for future in futures if future in done] == [2 * x for x in range(10)]


# What it takes

ITERABLES: dict[str, Callable[[list[Any]], Iterable[Any]]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "generator": lambda futures: (future for future in futures),
    "iterator": iter,
    "dict": dict.fromkeys,
    "values of a dict": lambda futures: dict(enumerate(futures)).values(),
    "chain": itertools.chain,
    "with duplicates": lambda futures: futures * 2,
}


@each_when
@pytest.mark.parametrize("make", ITERABLES.values(), ids=ITERABLES.keys())
def test_it_takes_any_iterable(make: Callable[[list[Any]], Iterable[Any]], return_when: str) -> None:
    """Duplicates count once."""
    futures = [triple.start(x=x) for x in range(3)]
    for future in futures:
        future.result(WAIT)
    done, not_done = onix.wait(make(futures), WAIT, return_when)
    assert done == set(futures)
    assert len(done) == 3
    assert not_done == set()


@each_when
@pytest.mark.parametrize("make", [list, set, tuple])
def test_it_leaves_the_collection_alone(gates: Any, make: Any, return_when: str) -> None:
    """What it returns are sets of its own."""
    gated = gates(3)
    gated.end(0)
    collection = make(gated.futures)
    done, not_done = onix.wait(collection, 0.01, return_when)
    done.clear()
    not_done.clear()
    assert set(collection) == set(gated.futures)
    assert len(collection) == 3


@pytest.mark.parametrize("return_when", [*WHENS, onix.FIRST_EXCEPTION])
@pytest.mark.parametrize("empty", [[], (), set(), {}, iter(())], ids=["list", "tuple", "set", "dict", "iterator"])
def test_an_empty_collection_returns_at_once(empty: Any, return_when: str) -> None:
    """Two empty sets, without and with a timeout."""
    with onix.configure(strict=False):
        for timeout in (None, 0, WAIT):
            assert onix.wait(empty, timeout, return_when) == (set(), set())


@each_when
def test_actions_and_flows_can_be_mixed(return_when: str) -> None:
    """For all of them; for the first of them only when strict is off."""
    futures = [double.start(x=1), triple.start(x=1)]
    for future in futures:
        future.result(WAIT)
    with onix.configure(strict=False):
        assert onix.wait(futures, WAIT, return_when).done == set(futures)


@pytest.mark.parametrize("as_set", [onix.wait, onix.as_completed], ids=["wait", "as_completed"])
@pytest.mark.parametrize(
    "things",
    [[3], ["text"], "text", [None], [[]], [{}], [double], [object()]],
    ids=["number", "text", "a text", "None", "unhashable list", "unhashable dict", "the action itself", "object"],
)
def test_what_is_no_future_is_refused(things: Any, as_set: Any) -> None:
    """A TypeError names the function that was called, shows the thing and says what to pass."""
    futures = [triple.start(x=1)]
    futures[0].result(WAIT)
    for collection in (things, [*futures, *things]):
        with pytest.raises(TypeError) as caught:
            as_set(collection)
        message = str(caught.value)
        assert f"{as_set.__name__}()" in message
        assert "futures that .start() returned" in message
        assert repr(things[0]) in message


@pytest.mark.parametrize("function", [onix.wait, onix.as_completed], ids=["wait", "as_completed"])
def test_a_single_future_is_refused(function: Any) -> None:
    """A TypeError names the function that was called, and says to pass a list."""
    future = triple.start(x=1)
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) takes an iterable.*list"):
        function(future)
    future.result(WAIT)


@pytest.mark.parametrize("function", [onix.wait, onix.as_completed], ids=["wait", "as_completed"])
@pytest.mark.parametrize("thing", [None, 3, double], ids=["None", "number", "action"])
def test_what_is_no_iterable_is_refused(function: Any, thing: Any) -> None:
    """The same error."""
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) takes an iterable.*list"):
        function(thing)


@pytest.mark.parametrize("function", [onix.wait, onix.as_completed], ids=["wait", "as_completed"])
def test_futures_of_others_are_refused(function: Any) -> None:
    """A TypeError says that `concurrent.futures` has a function that takes both."""
    foreign: concurrent.futures.Future[None] = concurrent.futures.Future()
    future = triple.start(x=1)
    for collection in ([foreign], [future, foreign], {future, foreign}):
        with pytest.raises(TypeError, match=rf"concurrent\.futures\.{function.__name__}\(\)"):
            function(collection)
    future.result(WAIT)


def test_an_exception_of_the_iterable_passes() -> None:
    """Nothing of it is swallowed."""

    def broken() -> Any:
        yield from ()
        raise KeyError("iterating")

    with pytest.raises(KeyError, match="iterating"):
        onix.wait(broken())


# timeout


@each_when
@pytest.mark.parametrize("timeout", [0, 0.0, 0.01])
def test_after_its_timeout_it_returns_how_things_stand(gates: Any, timeout: float, return_when: str) -> None:
    """What is not done is in `not_done`; nothing is raised, and the work goes on."""
    gated = gates(3)
    done, not_done = onix.wait(gated.futures, timeout, return_when)
    assert done == set()
    assert not_done == set(gated.futures)
    ended = gated.end(0)
    done, not_done = onix.wait(gated.futures, timeout, return_when)
    assert done == ended
    assert not_done == set(gated.futures) - ended
    assert not any(future.cancelled() for future in not_done)


@each_when
@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (-0.001, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_a_bad_timeout_is_refused(timeout: Any, error: type[Exception], return_when: str) -> None:
    """The message names the parameter and shows the value, whether the futures are done or not, or none."""
    future = triple.start(x=1)
    future.result(WAIT)
    for futures in ([future], []):
        with pytest.raises(error, match=f"timeout.*{timeout!r}"):
            onix.wait(futures, timeout, return_when)
        with pytest.raises(error, match=f"timeout.*{timeout!r}"):
            onix.as_completed(futures, timeout)


@each_when
def test_an_infinite_timeout_is_no_timeout(return_when: str) -> None:
    """`float("inf")` is a number of seconds, too."""
    future = triple.start(x=1)
    assert onix.wait([future], float("inf"), return_when).done == {future}


# Strict


def test_strict_first_completed_refuses_actions(held: Any) -> None:
    """NotImplementedError names the action, says to make it a flow, and names the switch; at once."""
    futures = [held.flow.start(), held.action.start()]
    for collection in (futures, futures[::-1], set(futures), futures[1:], (future for future in futures)):
        with pytest.raises(NotImplementedError) as caught:
            onix.wait(collection, return_when=onix.FIRST_COMPLETED)
        message = str(caught.value)
        assert "FIRST_COMPLETED" in message
        assert "'held_action'" in message
        assert "make it a flow" in message
        assert "onix.configure(strict=False)" in message
    held.let_go()
    for future in futures:
        future.result(WAIT)


def test_strict_first_completed_refuses_actions_that_are_done() -> None:
    """It does not depend on how quick they are."""
    future = double.start(x=1)
    future.result(WAIT)
    with pytest.raises(NotImplementedError, match="double"):
        onix.wait([future], return_when=onix.FIRST_COMPLETED)


def test_strict_first_exception_is_refused() -> None:
    """NotImplementedError says how to do it instead, and names the switch."""
    for futures in ([triple.start(x=1)], [double.start(x=1)], []):
        for future in futures:
            future.result(WAIT)
        with pytest.raises(NotImplementedError) as caught:
            onix.wait(futures, return_when=onix.FIRST_EXCEPTION)
        message = str(caught.value)
        assert "FIRST_EXCEPTION" in message
        assert "wait for FIRST_COMPLETED and look for exceptions in `done`" in message
        assert "onix.configure(strict=False)" in message


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("return_when", ["", "FIRST", "all_completed", None, 1, [], "ANY_COMPLETED"])
def test_an_unknown_return_when_is_refused(strict: bool, return_when: Any) -> None:
    """A ValueError names the parameter, the value and what there is; also for an empty collection."""
    future = triple.start(x=1)
    future.result(WAIT)
    with onix.configure(strict=strict):
        for futures in ([future], []):
            with pytest.raises(ValueError, match="return_when") as caught:
                onix.wait(futures, return_when=return_when)
            message = str(caught.value)
            assert repr(return_when) in message
            assert "ALL_COMPLETED" in message
            assert "FIRST_COMPLETED" in message


def test_an_unknown_return_when_is_refused_for_not_done_too(gates: Any) -> None:
    """The set that a wait returned is a collection like any other."""
    gated = gates(2)
    gated.end(0)
    with pytest.raises(ValueError, match="return_when"):
        onix.wait(first(gated.futures).not_done, return_when="LAST_COMPLETED")


def test_the_constants_are_those_of_the_stdlib() -> None:
    """So that code for `concurrent.futures.wait` moves over as it is."""
    for name in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"):
        assert getattr(onix, name) == getattr(concurrent.futures, name) == name


# strict=False


def test_without_strict_first_completed_takes_actions(held: Any) -> None:
    """It returns with the first action that has ended."""
    with onix.configure(strict=False):
        slow, quick = held.action.start(), double.start(x=1)
        done, not_done = first([slow, quick])
        assert (done, not_done) == ({quick}, {slow})
        held.let_go()
        assert first(not_done) == ({slow}, set())


def test_without_strict_first_exception_returns_at_the_first_failure(gates: Any) -> None:
    """What has ended is in `done`, the others are in `not_done`."""
    gated = gates(2)
    failed = fail.start(text="now")
    with onix.configure(strict=False):
        done, not_done = onix.wait([*gated.futures, failed], WAIT, onix.FIRST_EXCEPTION)
    assert done == {failed}
    assert not_done == set(gated.futures)
    assert isinstance(failed.exception(), ValueError)


def test_without_strict_first_exception_goes_on_after_a_success(gates: Any) -> None:
    """Only a failure, or the end of all, ends it."""
    gated, returned = gates(3), []

    def wait() -> None:
        returned.append(onix.wait(gated.futures, WAIT, onix.FIRST_EXCEPTION))

    with onix.configure(strict=False):
        thread = threading.Thread(target=wait)
        thread.start()
        gated.end(0, 1)
        assert not returned
        gated.end(2)
        thread.join(WAIT)
    assert returned[0].done == set(gated.futures)


def test_without_strict_first_exception_has_a_timeout(gates: Any) -> None:
    """After it, `done` has what has ended."""
    gated = gates(2)
    ended = gated.end(0)
    with onix.configure(strict=False):
        done, not_done = onix.wait(gated.futures, 0.01, onix.FIRST_EXCEPTION)
    assert done == ended
    assert not_done == set(gated.futures) - ended


# FIRST_COMPLETED again and again


def test_a_loop_over_the_first_drains_every_future() -> None:
    """The documented pattern: each future is in `done` once, until `not_done` is empty."""
    futures = {triple.start(x=x) for x in range(200)}
    seen: list[Any] = []
    not_done = futures
    while not_done:
        done, not_done = first(not_done)
        assert done, "it returned with nothing"
        seen += done
    assert len(seen) == 200
    assert set(seen) == futures
    assert sorted(future.result() for future in seen) == [3 * x for x in range(200)]


def test_each_round_has_what_ended_since_the_last(gates: Any) -> None:
    """One, then several at once, then the rest."""
    gated = gates(6)
    rest = set(gated.futures)
    not_done = rest
    for numbers in ((3,), (0, 5), (1, 2, 4)):
        ended = gated.end(*numbers)
        done, not_done = first(not_done)
        rest -= ended
        assert done == ended
        assert not_done == rest


def test_a_round_blocks_until_the_next_one_ends(gates: Any) -> None:
    """Also in the second round and later."""
    gated = gates(3)
    gated.end(0)
    not_done = first(gated.futures).not_done
    for number in (1, 2):
        returned: list[Any] = []
        thread = threading.Thread(target=lambda left=not_done, out=returned: out.append(first(left)))
        thread.start()
        ended = gated.end(number)
        thread.join(WAIT)
        assert returned[0].done == ended
        not_done = returned[0].not_done
    assert not_done == set()


def test_a_round_that_times_out_loses_nothing(gates: Any) -> None:
    """The next round finds what has ended since."""
    gated = gates(3)
    gated.end(0)
    not_done = first(gated.futures).not_done
    for _ in range(3):
        done, not_done = first(not_done, timeout=0.001)
        assert (done, not_done) == (set(), set(gated.futures[1:]))
    ended = gated.end(2)
    assert first(not_done).done == ended


@pytest.fixture(params=["the first round", "the second round", "a round that blocked", "a round that timed out"])
def left(request: pytest.FixtureRequest, gates: Any) -> Callable[[int], tuple[Gates, set[Any]]]:
    """Makes flows that run, and the `not_done` of them that a wait for the first returned."""

    def make(number: int) -> tuple[Gates, set[Any]]:
        gated, ended = gates(number), gates(2)
        if request.param != "a round that blocked":
            ended.end(0)
        opener = threading.Timer(0.01, ended.end, [0])
        opener.start()
        not_done = first([*gated.futures, *ended.futures]).not_done
        opener.join(WAIT)
        ended.end(1)
        if request.param == "the first round":
            return gated, first([*gated.futures, *ended.futures]).not_done
        not_done = first(not_done).not_done
        if request.param == "a round that timed out":
            not_done = first(not_done, timeout=0.001).not_done
        return gated, not_done

    return make


def test_not_done_is_a_set(left: Any) -> None:
    """It has all that a set has; what one makes of it are plain sets, and it does not change by itself."""
    gated, not_done = left(2)
    rest = set(gated.futures)
    assert isinstance(not_done, set)
    assert not_done == rest
    assert repr(not_done).startswith("{<Future gated")
    copies = [not_done | set(), not_done & rest, not_done - set(), not_done ^ set(), not_done.copy()]
    for made in (*copies, copy.copy(not_done)):
        assert made == rest
        assert first(made, timeout=0.001).not_done == rest
    gated.end(1)
    assert not_done == rest, "a set that was returned stays as it is"


MUTATIONS: dict[str, Callable[[set[Any], Any], Any]] = {
    "add": lambda futures, new: futures.add(new),
    "update": lambda futures, new: futures.update([new]),
    "|=": lambda futures, new: futures.__ior__({new}),
    "^=": lambda futures, new: futures.__ixor__({new}),
    "symmetric_difference_update": lambda futures, new: futures.symmetric_difference_update({new}),
}


@pytest.mark.parametrize("put_in", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_strict_refuses_an_action_put_into_not_done(left: Any, put_in: Callable[[set[Any], Any], Any]) -> None:
    """However it got in."""
    _, not_done = left(2)
    action = double.start(x=1)
    action.result(WAIT)
    put_in(not_done, action)
    assert action in not_done
    with pytest.raises(NotImplementedError, match="double"):
        first(not_done)


@pytest.mark.parametrize("when", ["done already", "ends later"])
@pytest.mark.parametrize("put_in", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_future_put_into_not_done_is_found(left: Any, gates: Any, put_in: Any, when: str) -> None:
    """However it was put in, whether it has ended before or ends later."""
    (gated, not_done), others = left(2), gates(1)
    if when == "done already":
        others.end(0)
    put_in(not_done, others.futures[0])
    others.end(0)
    done, not_done = first(not_done, timeout=5)
    assert done == set(others.futures)
    assert not_done == set(gated.futures)
    ended = gated.end(1)
    assert first(not_done, timeout=5).done == ended


def test_augmented_assignment_keeps_the_pattern(left: Any, gates: Any) -> None:
    """`not_done |= more`, `-=`, `&=` and `^=`, as one writes them in a loop."""
    (gated, not_done), more = left(3), gates(1)
    not_done |= set(more.futures)
    more.end(0)
    done, not_done = first(not_done, timeout=5)
    assert done == set(more.futures)
    not_done -= {gated.futures[0]}
    not_done &= {gated.futures[1], gated.futures[0]}
    gated.end(0, 2)
    done, not_done = first(not_done, timeout=0.01)
    assert (done, not_done) == (set(), {gated.futures[1]})
    not_done ^= {gated.futures[1], gated.futures[2]}
    assert first(not_done, timeout=5).done == {gated.futures[2]}


@pytest.mark.parametrize("take_out", ["remove", "discard", "difference_update", "pop"])
def test_a_future_taken_out_of_not_done_is_not_waited_for(left: Any, take_out: str) -> None:
    """Whether it ends or not."""
    gated, not_done = left(3)
    if take_out == "pop":
        out = not_done.pop()
    else:
        out = gated.futures[1]
        getattr(not_done, take_out)({out} if take_out == "difference_update" else out)
    number = gated.futures.index(out)
    gated.end(number)
    done, not_done = first(not_done, timeout=0.01)
    assert done == set()
    assert out not in not_done
    ended = gated.end(*({0, 1, 2} - {number}))
    assert first(not_done, timeout=5).done == ended


def test_a_future_taken_out_may_come_back(left: Any) -> None:
    """Having ended in between."""
    gated, not_done = left(2)
    not_done.remove(gated.futures[0])
    ended = gated.end(0)
    _, not_done = first(not_done, timeout=0.01)
    assert not_done == {gated.futures[1]}
    not_done.add(gated.futures[0])
    assert first(not_done, timeout=5).done == ended


def test_the_same_old_set_can_be_waited_for_twice(left: Any) -> None:
    """Each wait finds everything in it that is done, also what an earlier wait had in its `done`."""
    gated, old = left(2)
    ended = gated.end(0)
    for _ in range(3):
        done, not_done = first(old, timeout=5)
        assert done == ended
        assert not_done == {gated.futures[1]}
    assert old == set(gated.futures)


def test_an_old_set_still_finds_what_ends_later(left: Any) -> None:
    """A second wait on it, after some that timed out, blocks until one of it ends."""
    gated, old = left(2)
    assert first(old, timeout=0.01).done == set()
    assert first(old, timeout=0.01).done == set()
    ended = gated.end(1)
    assert first(old, timeout=5).done == ended


def test_an_old_set_can_be_waited_for_by_two_threads_at_once(left: Any) -> None:
    """Both wake."""
    gated, old = left(2)
    meeting, returned = threading.Barrier(3), []

    def wait() -> None:
        meeting.wait(WAIT)
        returned.append(first(old).done)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    meeting.wait(WAIT)
    ended = gated.end(0)
    for thread in threads:
        thread.join(WAIT)
    assert returned == [ended, ended]


def test_not_done_can_be_waited_for_all(left: Any) -> None:
    """The documented end of a race: `wait(not_done)` before the flow returns."""
    gated, not_done = left(3)
    gated.end_all()
    assert onix.wait(not_done, timeout=WAIT) == (set(gated.futures), set())


def test_a_wait_for_all_takes_nothing_from_the_waits_for_the_first(left: Any) -> None:
    """When it times out in between, the next round has what ended."""
    gated, not_done = left(2)
    ended = gated.end(0)
    assert onix.wait(not_done, timeout=0.01).done == ended
    assert first(not_done, timeout=5).done == ended
    assert first(onix.wait(not_done, timeout=0.01).not_done, timeout=0.01).done == set()


def test_a_drain_hears_of_cancels(left: Any) -> None:
    """A future that is cancelled between two rounds is in the `done` of the next."""
    gated, not_done = left(20)
    assert gated.futures[2].cancel(interrupt=True)
    assert first(not_done, timeout=5).done == {gated.futures[2]}


def test_flows_that_end_all_the_time_are_drained_without_a_loss(gates: Any) -> None:
    """Some end while a round looks, some while it blocks: each is in one `done`, and none is missed."""
    go = threading.Event()

    @onix.flow
    def ends(x: int) -> int:
        assert go.wait(WAIT)
        return x

    for _ in range(5):
        go.clear()
        futures = [ends.start(x=x) for x in range(100)]
        seen: list[int] = []
        not_done = set(futures)
        go.set()
        while not_done:
            done, not_done = first(not_done)
            assert done, "it timed out although flows had ended"
            seen += [future.result() for future in done]
        assert sorted(seen) == list(range(100))


# as_completed


def test_as_completed_yields_each_once_as_it_ends(gates: Any) -> None:
    """Those that have ended first; duplicates count once."""
    gated = gates(3)
    gated.end(2)
    iterator = onix.as_completed([*gated.futures, *gated.futures], timeout=WAIT)
    order = [next(iterator)]
    for number in (0, 1):
        gated.end(number)
        order.append(next(iterator))
    assert order == [gated.futures[2], gated.futures[0], gated.futures[1]]
    assert list(iterator) == []


def test_as_completed_takes_actions_when_strict() -> None:
    """It is ours, so nothing of Oryonix forbids it."""
    futures = [double.start(x=x) for x in range(5)]
    assert sorted(future.result() for future in onix.as_completed(futures, WAIT)) == [0, 2, 4, 6, 8]
    assert list(onix.as_completed([])) == []


def test_as_completed_raises_after_its_timeout(gates: Any) -> None:
    """TimeoutError says how many have not ended."""
    gated = gates(3)
    gated.end(1)
    iterator = onix.as_completed(gated.futures, timeout=0.01)
    assert next(iterator) is gated.futures[1]
    with pytest.raises(TimeoutError, match=r"2 \(of 3\) futures unfinished"):
        next(iterator)


def test_as_completed_never_raises_for_a_failed_future() -> None:
    """The exception is raised by result()."""
    future = fail.start(text="late")
    (yielded,) = onix.as_completed([future], WAIT)
    with pytest.raises(ValueError, match="late"):
        yielded.result()
