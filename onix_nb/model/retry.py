"""When a failed attempt is followed by another, and after how long."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ..errors import AttemptTimeoutError, ExecutorError, OnixError, TransferError


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how fast, a failing action is tried again. Not in Oryonix.

    The fields are those of Temporal's retry policy; intervals are in seconds.

    Attributes:
        initial_interval: Seconds before the second attempt.
        backoff_coefficient: The factor from each interval to the next.
        maximum_interval: The longest interval; None for 100 times the initial one.
        maximum_attempts: Attempts in all, the first included; 0 for no limit.
        non_retryable_error_types: Exception classes, or their names, that end the run at once.

    Raises:
        TypeError: A field of the wrong type.
        ValueError: A field out of range.

    Example:
        >>> import onix_nb as onix
        >>> policy = onix.RetryPolicy(initial_interval=0.5, maximum_attempts=4)
        >>> [policy.delay(attempt) for attempt in (1, 2, 3)]
        [0.5, 1.0, 2.0]
    """

    initial_interval: float = 1.0
    backoff_coefficient: float = 2.0
    maximum_interval: float | None = None
    maximum_attempts: int = 3
    non_retryable_error_types: Collection[str | type[BaseException]] = ()

    def __post_init__(self) -> None:
        for name, least in (("initial_interval", 0), ("backoff_coefficient", 1), ("maximum_interval", 0)):
            value = getattr(self, name)
            if name == "maximum_interval" and value is None:
                continue
            if not _is_number(value):
                raise TypeError(f"RetryPolicy({name}=...) takes a number, not {value!r}")
            if not value >= least:
                raise ValueError(f"RetryPolicy({name}=...) must be at least {least}, not {value!r}")
        attempts = self.maximum_attempts
        if isinstance(attempts, bool) or not isinstance(attempts, int):
            raise TypeError(f"RetryPolicy(maximum_attempts=...) takes a whole number, not {attempts!r}")
        if attempts < 0:
            raise ValueError(f"RetryPolicy(maximum_attempts=...) must be 0 (no limit) or more, not {attempts}")
        types = self.non_retryable_error_types
        if (
            isinstance(types, (str, type))
            or not isinstance(types, Collection)
            or not all(
                isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, BaseException)) for kind in types
            )
        ):
            raise TypeError(
                f"RetryPolicy(non_retryable_error_types=...) takes exception classes or their names, not {types!r}"
            )

    @classmethod
    def of(cls, retry: int | RetryPolicy | None) -> RetryPolicy | None:
        """The policy that the option `retry=` asks for; a number is `maximum_attempts`."""
        if retry is None or isinstance(retry, RetryPolicy):
            return retry
        if isinstance(retry, int) and not isinstance(retry, bool) and retry > 0:
            return cls(maximum_attempts=retry)
        raise TypeError(f"retry= takes a number of attempts from 1 or a RetryPolicy, not {retry!r}")

    def delay(self, attempt: int) -> float:
        """Seconds between the failure of attempt number `attempt` (from 1) and the next.

        Example:
            >>> import onix_nb as onix
            >>> onix.RetryPolicy(initial_interval=1, backoff_coefficient=3, maximum_interval=5).delay(2)
            3.0
        """
        longest = 100 * self.initial_interval if self.maximum_interval is None else self.maximum_interval
        try:
            return float(min(longest, self.initial_interval * self.backoff_coefficient ** (attempt - 1)))
        except OverflowError:
            return float(longest)

    def again(self, attempt: int, error: BaseException) -> bool:
        """Whether attempt number `attempt`, which raised `error`, is followed by another.

        Example:
            >>> import onix_nb as onix
            >>> policy = onix.RetryPolicy(maximum_attempts=3, non_retryable_error_types=[LookupError])
            >>> policy.again(1, OSError()), policy.again(3, OSError()), policy.again(1, KeyError())
            (True, False, False)
        """
        if not isinstance(error, Exception):
            return False
        if isinstance(error, TransferError) or (
            isinstance(error, OnixError) and not isinstance(error, (AttemptTimeoutError, ExecutorError))
        ):
            return False  # a mistake in the program: it would fail the same way again
        if self.maximum_attempts and attempt >= self.maximum_attempts:
            return False
        names = {kind.__name__ for kind in type(error).__mro__}
        return not any(
            kind in names if isinstance(kind, str) else isinstance(error, kind)
            for kind in self.non_retryable_error_types
        )


RetryPolicy.__module__ = "onix_nb"
