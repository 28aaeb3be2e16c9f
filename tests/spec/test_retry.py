"""P9: retries by policy, and the time that one attempt may take."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import onix_nb as onix
from onix_nb.errors import ActionCallError, AttemptTimeoutError, OnixError, RunCancelled

WAIT = 30
HOUR = 3600
QUICK = onix.RetryPolicy(initial_interval=0.001)


class Fails:
    """Raises its errors one after the other, then returns how often it was called."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return self.calls

    async def in_coroutine(self) -> int:
        return self()


WAYS: dict[str, Callable[[Fails, Any], Any]] = {
    "called": lambda fails, retry: onix.action(name="fails", retry=retry)(fails)(),
    "called in a flow": lambda fails, retry: onix.flow(lambda: onix.action(name="fails", retry=retry)(fails)())(),
    "started": lambda fails, retry: onix.action(name="fails", retry=retry)(fails).start().result(WAIT),
    "async, called": lambda fails, retry: onix.action(name="fails", retry=retry)(fails.in_coroutine)(),
    "async, started": lambda fails, retry: (
        onix.action(name="fails", retry=retry)(fails.in_coroutine).start().result(WAIT)
    ),
    "called, with a timeout": lambda fails, retry: onix.action(name="fails", retry=retry, timeout=HOUR)(fails)(),
}
each_way = pytest.mark.parametrize("run", WAYS.values(), ids=WAYS.keys())


# How often


@each_way
def test_without_retry_there_is_one_attempt(run: Callable[[Fails, Any], Any]) -> None:
    """Its exception is the outcome."""
    fails = Fails(ValueError("first"))
    with pytest.raises(ValueError, match="first"):
        run(fails, None)
    assert fails.calls == 1


@each_way
def test_a_policy_tries_three_times_by_default(run: Callable[[Fails, Any], Any]) -> None:
    """Two failures are forgotten."""
    fails = Fails(ValueError("first"), KeyError("second"))
    assert run(fails, QUICK) == 3


@each_way
def test_after_the_last_attempt_its_exception_is_raised(run: Callable[[Fails, Any], Any]) -> None:
    """The last one, as it is: the same object."""
    errors = [ValueError("first"), ValueError("second"), ValueError("third"), ValueError("fourth")]
    fails = Fails(*errors)
    with pytest.raises(ValueError, match="third") as caught:
        run(fails, QUICK)
    assert caught.value is errors[2]
    assert fails.calls == 3


@each_way
@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_maximum_attempts_counts_the_first_too(run: Callable[[Fails, Any], Any], attempts: int) -> None:
    """`maximum_attempts=1` is no retry at all."""
    policy = dataclasses.replace(QUICK, maximum_attempts=attempts)
    enough = Fails(*[ValueError("again")] * (attempts - 1))
    assert run(enough, policy) == attempts
    too_many = Fails(*[ValueError("again") for _ in range(attempts)])
    with pytest.raises(ValueError, match="again"):
        run(too_many, policy)
    assert too_many.calls == attempts


@each_way
def test_zero_maximum_attempts_is_no_limit(run: Callable[[Fails, Any], Any]) -> None:
    """As in Temporal."""
    policy = onix.RetryPolicy(initial_interval=0.0001, backoff_coefficient=1, maximum_attempts=0)
    assert run(Fails(*[ValueError("again")] * 50), policy) == 51


def test_a_number_is_maximum_attempts() -> None:
    """`retry=2` is two attempts in all: called, started and async, with the default interval of a second."""
    fails = [Fails(*[ValueError("again")] * 5) for _ in range(3)]
    once = Fails(ValueError("once"))
    futures = [
        onix.action(name="started", retry=2)(fails[0]).start(),
        onix.action(name="asynchronous", retry=2)(fails[1].in_coroutine).start(),
        onix.flow(lambda: onix.action(name="called", retry=2)(fails[2])()).start(),
    ]
    assert onix.action(name="once", retry=2)(once).start().result(WAIT) == 2
    assert [type(future.exception(WAIT)) for future in futures] == [ValueError] * 3
    assert [one.calls for one in fails] == [2, 2, 2]


def test_one_attempt_as_a_number() -> None:
    """`retry=1` fails at once."""
    fails = Fails(ValueError("first"))
    assert isinstance(onix.action(name="fails", retry=1)(fails).start().exception(WAIT), ValueError)
    assert fails.calls == 1


def test_a_success_is_not_tried_again() -> None:
    """Whatever it returns."""
    for value in (None, 0, False, ValueError("returned")):
        calls: list[int] = []
        future = onix.action(retry=QUICK)(lambda value=value, calls=calls: calls.append(1) or value).start()
        assert future.result(WAIT) is value
        assert calls == [1]


def test_arguments_are_the_same_in_each_attempt() -> None:
    """The same objects."""
    seen: list[Any] = []

    @onix.action(retry=QUICK)
    def fails(x: Any) -> None:
        seen.append(x)
        raise ValueError("again")

    value = [1]
    assert isinstance(fails.start(x=value).exception(WAIT), ValueError)
    assert len(seen) == 3
    assert all(one is value for one in seen)


def test_a_flow_has_no_retry() -> None:
    """What fails in it is retried where it fails; the option does not exist."""
    for option in ({"retry": 3}, {"timeout": 1}):
        with pytest.raises(TypeError, match=next(iter(option))):
            onix.flow(**option)


# What is retried


class Rejected(Exception):
    pass


class RejectedTwice(Rejected):
    pass


RETRIED = [
    (ValueError("v"), (), True),
    (OSError("o"), (), True),
    (TimeoutError("t"), (), True),
    (Rejected(), (ValueError,), True),
    (Rejected(), (Rejected,), False),
    (RejectedTwice(), (Rejected,), False),
    (Rejected(), (RejectedTwice,), True),
    (Rejected(), ("Rejected",), False),
    (RejectedTwice(), ("Rejected",), False),
    (Rejected(), ("RejectedTwice", "rejected"), True),
    (KeyError("k"), ("LookupError",), False),
    (KeyError("k"), [ValueError, "LookupError"], False),
    (ConnectionResetError("c"), (ConnectionError,), False),
    (ExceptionGroup("g", [ValueError()]), (ValueError,), True),
    (ExceptionGroup("g", [ValueError()]), (), True),
    (ActionCallError("a"), (), False),
    (KeyboardInterrupt(), (), False),
    (SystemExit(1), (), False),
    (GeneratorExit(), (), False),
]


@pytest.mark.parametrize("way", ["called", "started", "async, started"])
@pytest.mark.parametrize(("error", "non_retryable", "again"), RETRIED, ids=repr)
def test_what_is_retried(error: BaseException, non_retryable: Any, again: bool, way: str) -> None:
    """Every Exception, but for mistakes in the use of onix and what `non_retryable_error_types` names."""
    policy = dataclasses.replace(QUICK, non_retryable_error_types=non_retryable)
    assert policy.again(1, error) is again
    fails = Fails(error)
    if again:
        assert WAYS[way](fails, policy) == 2
    else:
        with pytest.raises(type(error)) as caught:
            WAYS[way](fails, policy)
        assert caught.value is error
        assert fails.calls == 1


def test_a_name_is_that_of_the_class_or_of_a_base() -> None:
    """Without its module, as an exception shows itself."""
    policy = onix.RetryPolicy(non_retryable_error_types=["OSError"])
    assert not policy.again(1, ConnectionResetError())
    assert policy.again(1, ValueError("OSError"))


@pytest.mark.parametrize(
    ("maximum", "attempt", "again"),
    [(3, 1, True), (3, 2, True), (3, 3, False), (3, 4, False), (1, 1, False), (0, 999, True)],
)
def test_the_number_of_attempts_is_limited(maximum: int, attempt: int, again: bool) -> None:
    """The attempt that failed is counted from 1; 0 is no limit."""
    assert onix.RetryPolicy(maximum_attempts=maximum).again(attempt, ValueError()) is again


def test_run_cancelled_is_never_retried() -> None:
    """A cancel is no failure."""
    assert not onix.RetryPolicy().again(1, RunCancelled())


# How fast


DELAYS: list[tuple[dict[str, Any], list[float]]] = [
    ({}, [1, 2, 4, 8, 16, 32, 64, 100, 100]),
    ({"initial_interval": 0.5}, [0.5, 1, 2, 4, 8, 16, 32, 50, 50]),
    ({"backoff_coefficient": 1}, [1, 1, 1, 1]),
    ({"backoff_coefficient": 3, "maximum_interval": 10}, [1, 3, 9, 10, 10]),
    ({"maximum_interval": 0.5}, [0.5, 0.5]),
    ({"initial_interval": 0}, [0, 0, 0]),
    ({"initial_interval": 2, "backoff_coefficient": 1.5, "maximum_interval": None}, [2, 3, 4.5]),
]


@pytest.mark.parametrize(("fields", "delays"), DELAYS, ids=[repr(fields) for fields, _ in DELAYS])
def test_the_interval_grows_up_to_the_maximum(fields: dict[str, Any], delays: list[float]) -> None:
    """Each is the one before times the coefficient; the maximum is 100 times the first by default, as in Temporal."""
    policy = onix.RetryPolicy(**fields)
    assert [policy.delay(attempt) for attempt in range(1, len(delays) + 1)] == delays


def test_a_huge_attempt_has_the_maximum_interval() -> None:
    """No attempt is so late that its interval can't be computed."""
    assert onix.RetryPolicy().delay(10**6) == 100
    assert onix.RetryPolicy(maximum_interval=5).delay(10**9) == 5


@each_way
def test_attempts_do_not_begin_early(run: Callable[[Fails, Any], Any]) -> None:
    """The interval is waited for."""
    times: list[float] = []

    class Timed(Fails):
        def __call__(self) -> int:
            current = onix.current_run()
            assert current is not None
            times.append(current.run.elapsed or 0.0)
            return super().__call__()

    run(Timed(ValueError("1"), ValueError("2")), onix.RetryPolicy(initial_interval=0.05, backoff_coefficient=2))
    assert times[1] - times[0] >= 0.05
    assert times[2] - times[1] >= 0.1


def test_a_run_between_two_attempts_takes_no_worker() -> None:
    """Another action has the place meanwhile."""
    failed = threading.Event()

    @onix.action(retry=onix.RetryPolicy(initial_interval=HOUR, maximum_interval=HOUR))
    def fails() -> None:
        failed.set()
        raise ValueError("again")

    with onix.configure(max_workers=1):
        future = fails.start()
        assert failed.wait(WAIT)
        assert onix.action(lambda: "mine").start().result(WAIT) == "mine"
        assert future.running()
        assert future.cancel(interrupt=True)


# The policy itself


def test_its_fields_are_those_of_temporal() -> None:
    """With their defaults; by keyword only."""
    fields = {field.name: field.default for field in dataclasses.fields(onix.RetryPolicy)}
    assert fields == {
        "initial_interval": 1.0,
        "backoff_coefficient": 2.0,
        "maximum_interval": None,
        "maximum_attempts": 3,
        "non_retryable_error_types": (),
    }
    parameters = inspect.signature(onix.RetryPolicy).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


def test_a_policy_is_a_value() -> None:
    """Equal to another with the same fields, and frozen, so that it can be shared."""
    assert onix.RetryPolicy(maximum_attempts=4) == onix.RetryPolicy(maximum_attempts=4)
    assert onix.RetryPolicy(maximum_attempts=4) != onix.RetryPolicy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        onix.RetryPolicy().maximum_attempts = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("initial_interval", -1, ValueError),
        ("initial_interval", float("nan"), ValueError),
        ("initial_interval", "1", TypeError),
        ("initial_interval", None, TypeError),
        ("initial_interval", True, TypeError),
        ("backoff_coefficient", 0.5, ValueError),
        ("backoff_coefficient", float("nan"), ValueError),
        ("backoff_coefficient", "2", TypeError),
        ("maximum_interval", -1, ValueError),
        ("maximum_interval", "1", TypeError),
        ("maximum_attempts", -1, ValueError),
        ("maximum_attempts", 1.5, TypeError),
        ("maximum_attempts", None, TypeError),
        ("maximum_attempts", True, TypeError),
        ("maximum_attempts", "3", TypeError),
        ("non_retryable_error_types", "ValueError", TypeError),
        ("non_retryable_error_types", [int], TypeError),
        ("non_retryable_error_types", [ValueError()], TypeError),
        ("non_retryable_error_types", [None], TypeError),
        ("non_retryable_error_types", ValueError, TypeError),
        ("non_retryable_error_types", None, TypeError),
    ],
    ids=repr,
)
def test_a_bad_field_is_refused_by_name(field: str, value: Any, error: type[Exception]) -> None:
    """The message names the field and shows the value."""
    with pytest.raises(error) as caught:
        onix.RetryPolicy(**{field: value})
    assert f"RetryPolicy({field}=...)" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_an_unknown_field_is_refused() -> None:
    """A TypeError that names it."""
    with pytest.raises(TypeError, match="max_attempts"):
        onix.RetryPolicy(max_attempts=3)  # type: ignore[call-arg]


# The record


@each_way
def test_attempts_are_recorded(run: Callable[[Fails, Any], Any]) -> None:
    """Each that another followed has a span: its number, its times in order, and its error."""
    fails = Fails(ValueError("first"), KeyError("second"))
    before = {run.id for run in onix.runs()}
    assert run(fails, QUICK) == 3
    (record,) = [run for run in onix.runs() if run.id not in before and run.kind == "action"]
    assert record.attempt == 3
    assert record.status == "succeeded"
    assert record.error is None
    spans = record.spans
    assert spans is not None
    assert [(span.attempt, span.error) for span in spans[:2]] == [(1, "ValueError: first"), (2, "KeyError: 'second'")]
    times = [record.started, spans[0].started, spans[0].finished, spans[1].started, spans[1].finished, record.finished]
    assert times == sorted(times)  # type: ignore[type-var]


def test_a_run_that_failed_for_good_is_recorded_with_its_last_error() -> None:
    """And with the number of its attempts."""
    future = onix.action(name="fails", retry=QUICK)(Fails(*[ValueError(f"{n}") for n in "123"])).start()
    assert isinstance(future.exception(WAIT), ValueError)
    assert future.run is not None
    assert (future.run.status, future.run.attempt, future.run.error) == ("failed", 3, "ValueError: 3")


def test_without_retries_there_are_no_spans() -> None:
    """The run itself has the times of its only attempt."""
    future = onix.action(retry=QUICK)(lambda: 1).start()
    assert future.result(WAIT) == 1
    assert future.run is not None
    assert (future.run.attempt, future.run.spans) == (1, None)


def test_between_two_attempts_a_run_is_running() -> None:
    """It has begun and not ended."""
    failed = threading.Event()

    @onix.action(retry=onix.RetryPolicy(initial_interval=HOUR, maximum_interval=HOUR))
    def fails() -> None:
        failed.set()
        raise ValueError("again")

    future = fails.start()
    assert failed.wait(WAIT)
    assert future.running()
    assert future.run is not None
    assert future.run.status == "running"
    assert future.cancel(interrupt=True)


# timeout=


class Slow:
    """An action whose first attempts, so many, take too long; it tells what stopped them."""

    def __init__(self, slow_attempts: int) -> None:
        self._slow = slow_attempts
        self.attempts: list[int] = []
        self.stopped: list[BaseException] = []
        self.left = threading.Semaphore(0)

    def __call__(self) -> str:
        run = onix.current_run()
        assert run is not None
        self.attempts.append(run.attempt)
        try:
            if run.attempt <= self._slow:
                onix.sleep(HOUR)
        except BaseException as error:
            self.stopped.append(error)
            raise
        finally:
            self.left.release()
        return f"attempt {run.attempt}"


async def slow_async() -> None:
    await asyncio.sleep(HOUR)


@pytest.mark.parametrize("way", ["called", "started"])
def test_an_attempt_that_takes_too_long_fails(way: str) -> None:
    """With AttemptTimeoutError, which names the action, the attempt and the seconds; its code is made to stop."""
    slow = Slow(1)
    action = onix.action(name="slow", timeout=0.05)(slow)
    with pytest.raises(AttemptTimeoutError, match=r"action slow .* longer than 0\.05 s in attempt 1"):
        action() if way == "called" else action.start().result(WAIT)
    assert slow.left.acquire(timeout=WAIT)
    assert [type(error) for error in slow.stopped] == [RunCancelled]


def test_an_async_attempt_that_takes_too_long_fails() -> None:
    """On the shared event loop as on a thread."""
    future = onix.action(timeout=0.05)(slow_async).start()
    assert isinstance(future.exception(WAIT), AttemptTimeoutError)
    assert future.run is not None
    assert future.run.status == "failed"
    assert "AttemptTimeoutError" in str(future.run.error)


def test_its_error_is_a_timeout_error() -> None:
    """And an OnixError; so either can be caught."""
    assert issubclass(AttemptTimeoutError, TimeoutError)
    assert issubclass(AttemptTimeoutError, OnixError)


def test_it_is_told_from_the_end_of_a_wait(held: Any) -> None:
    """`result(timeout)` raises a plain TimeoutError, and the run goes on; `timeout=` ends the attempt."""
    future = held.action.options(timeout=HOUR).start(x=1)
    held.await_begun()
    with pytest.raises(TimeoutError) as caught:
        future.result(timeout=0.01)
    assert not isinstance(caught.value, AttemptTimeoutError)
    assert future.running()
    held.let_go()
    assert future.result(WAIT) == 1
    late = onix.action(name="slow", timeout=0.05)(Slow(1)).start()
    with pytest.raises(AttemptTimeoutError):
        late.result(timeout=WAIT)
    assert late.done()


def test_the_time_is_per_attempt() -> None:
    """Each attempt has it anew, and a timeout is a failure that the policy may retry."""
    slow = Slow(2)
    future = onix.action(name="slow", timeout=0.5, retry=QUICK)(slow).start()
    assert future.result(WAIT) == "attempt 3"
    assert slow.attempts == [1, 2, 3]
    assert future.run is not None
    assert future.run.attempt == 3
    spans = future.run.spans
    assert spans is not None
    assert ["AttemptTimeoutError" in str(span.error) for span in spans[:2]] == [True, True]


@pytest.mark.parametrize("kind", [AttemptTimeoutError, TimeoutError, "AttemptTimeoutError", "TimeoutError"], ids=repr)
def test_a_timeout_can_be_made_final(kind: Any) -> None:
    """By `non_retryable_error_types`, as any error."""
    slow = Slow(9)
    policy = dataclasses.replace(QUICK, non_retryable_error_types=[kind])
    future = onix.action(name="slow", timeout=0.05, retry=policy)(slow).start()
    assert isinstance(future.exception(WAIT), AttemptTimeoutError)
    assert slow.attempts == [1]


def test_the_last_timeout_is_the_outcome() -> None:
    """It names the last attempt."""
    future = onix.action(name="slow", timeout=0.02, retry=QUICK)(Slow(9)).start()
    with pytest.raises(AttemptTimeoutError, match="in attempt 3"):
        future.result(WAIT)


def test_an_attempt_that_timed_out_may_overlap_the_next(held: Any) -> None:
    """Code that can't be stopped goes on beside it, on another thread, and its late result is dropped."""
    go, attempts, left = threading.Event(), [], threading.Event()

    @onix.action(timeout=0.5, retry=QUICK)
    def stuck_once() -> str:
        run = onix.current_run()
        assert run is not None
        attempts.append(run.attempt)
        if run.attempt == 1:
            assert go.wait(WAIT)
            left.set()
            return "late"
        return "in time"

    with onix.configure(max_workers=1):
        future = stuck_once.start()
        assert future.result(WAIT) == "in time"
        assert not left.is_set()
        assert attempts == [1, 2]
        go.set()
        assert left.wait(WAIT)
        assert future.result() == "in time"


def test_time_in_the_queue_does_not_count(held: Any) -> None:
    """The time begins with the attempt."""
    with onix.configure(max_workers=1):
        blocker = held.action.start()
        held.await_begun()
        future = onix.action(timeout=0.5)(lambda: "in time").start()
        with pytest.raises(TimeoutError):
            future.result(0.6)
        held.let_go()
        assert future.result(WAIT) == "in time"
        blocker.result(WAIT)


def test_an_attempt_that_ends_in_time_is_left_alone() -> None:
    """When its time is up, and a second later, nothing hits what its thread does then."""

    @onix.action(timeout=0.1)
    def quick() -> int:
        return threading.get_ident()

    @onix.action
    def next_on_the_thread() -> int:
        end = time.monotonic() + 1.3
        while time.monotonic() < end:
            time.sleep(0.01)
        assert onix.current_run() is not None
        return threading.get_ident()

    with onix.configure(max_workers=1):
        first = quick.start()
        second = next_on_the_thread.start()
        assert first.result(WAIT) == second.result(WAIT)
