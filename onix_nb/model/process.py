"""Whether this process may use onix: a forked child may not."""

from __future__ import annotations

from ..errors import ExecutorError

# Why nothing may start or block in this process; None while all is well.
refusal: str | None = None


def refuse_in_child() -> None:
    """Raises in a forked child, where the threads that would do the work do not exist."""
    if refusal is not None:
        raise ExecutorError(refusal)
