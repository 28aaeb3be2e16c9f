"""What type checkers must see in the public API. Checked by mypy, never run."""

from __future__ import annotations

from typing import assert_type

import onix_nb as onix


@onix.action
def fetch(user_id: str, *, pages: int = 1) -> dict[str, str]:
    return {"user_id": user_id * pages}


@onix.action(retry=3, timeout=2.5)
async def fetch_later(user_id: str) -> list[int]:
    return [len(user_id)]


@onix.flow
def total(n: int) -> int:
    return n


@onix.flow(name="other")
async def total_later(n: int) -> int:
    return n


# A direct call gives the result, `start` a future of it; also for coroutines.
assert_type(fetch(user_id="u"), dict[str, str])
assert_type(fetch.start(user_id="u", pages=2), onix.Future[dict[str, str]])
assert_type(fetch.start(user_id="u").result(), dict[str, str])
assert_type(fetch_later(user_id="u"), list[int])
assert_type(fetch_later.start(user_id="u"), onix.Future[list[int]])
assert_type(total.start(n=1), onix.Future[int])
assert_type(total_later(n=1), int)

# Options give the same function again.
assert_type(fetch.options(retry=2).start(user_id="u").result(1.5), dict[str, str])
assert_type(total.options(name="sum")(n=1), int)

# What waits give keeps the type of the results.
done, not_done = onix.wait([total.start(n=1), total.start(n=2)], timeout=1)
assert_type(done, set[onix.Future[int]])
assert_type(not_done, set[onix.Future[int]])
for future in onix.as_completed([total.start(n=1)]):
    assert_type(future.result(), int)


async def await_it() -> None:
    assert_type(await total.start(n=1), int)


# Wrong calls are errors before anything runs.
fetch.start(user="u")  # type: ignore[call-arg]
fetch(user_id=3)  # type: ignore[arg-type]
fetch.options(retries=3)  # type: ignore[call-arg]
onix.action(retry="three")  # type: ignore[call-overload]
onix.configure(leaks="shout")  # type: ignore[arg-type]
onix.configure(speed=3)  # type: ignore[call-arg]
