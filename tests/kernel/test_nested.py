"""`onix.configure(nested_asyncio=True)` in a kernel: a user's own `asyncio.run()`, and the cells that are queued behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

NAP = "import asyncio\nasync def nap(n):\n    await asyncio.sleep(0.3)\n    return n\nran = []"
# Run All: all of them are sent before the first has run.
CELLS = [
    "ran.append(1)",
    "ran.append(asyncio.run(nap(2)))",
    "ran.append(3)",
    "ran.append(asyncio.get_event_loop().run_until_complete(nap(4)))",
    "ran.append(await nap(5))",
    "ran.append(asyncio.run(nap(6)))",
    "ran.append(7)",
]


@pytest.fixture
def napping(notebook: Any) -> Iterator[Any]:
    """The loaded kernel, in which the setting is off again afterwards."""
    notebook.ok(NAP)
    yield notebook
    notebook.ok("onix.configure(nested_asyncio=False)\nNone")


def run_all(notebook: Any, sources: list[str]) -> tuple[list[bool], str]:
    """Sends cells at once; whether each was answered, and which ran, in order.

    The second one runs a nested loop, and the others come while it does.
    """
    cells = [notebook.start(source) for source in sources]
    notebook.end(cells[1])
    # A cell that is sent now is answered after those before it; those that are not by then will never be.
    last = notebook.ok("ran")
    return [bool(cell.reply) for cell in cells], last.value


def test_queued_cells_all_run_in_order(napping: Any) -> None:
    """Those behind a nested loop too, whichever way it was started."""
    napping.ok("onix.configure(nested_asyncio=True)\nNone")
    assert run_all(napping, CELLS) == ([True] * len(CELLS), "[1, 2, 3, 4, 5, 6, 7]")


def test_control_a_lost_cell_is_seen(new_notebook: Any) -> None:
    """With what nest-asyncio2 did before 1.7.3, a cell that is queued behind a nested loop is lost for ever."""
    notebook = new_notebook()
    notebook.ok("%load_ext onix_nb\nimport onix\n" + NAP)
    notebook.ok("import nest_asyncio2\nnest_asyncio2._context_entered = lambda context: False")
    notebook.ok("onix.configure(nested_asyncio=True)\nNone")
    assert run_all(notebook, CELLS[:3]) == ([True, True, False], "[1, 2]")


def test_without_it_asyncio_refuses(napping: Any) -> None:
    """As ever: the setting is off by default, and off again after its block."""
    refused = napping.run("coroutine = nap(1)\ntry:\n    asyncio.run(coroutine)\nfinally:\n    coroutine.close()")
    assert refused.error == "RuntimeError"
    assert napping.ok("with onix.configure(nested_asyncio=True):\n    value = asyncio.run(nap(2))\nvalue").value == "2"
    assert napping.run(refused.source).error == "RuntimeError"
    # The cells that follow run as before, those that await too.
    assert napping.ok("await nap(3)").value == "3"


def test_futures_are_awaited_in_a_nested_loop(napping: Any) -> None:
    """`asyncio.run` of a user's own function that awaits onix futures."""
    napping.ok(
        "@onix.action\nasync def double(x: int):\n    await asyncio.sleep(0.01)\n    return 2 * x\n"
        "async def both():\n    return await asyncio.gather(double.start(x=1), double.start(x=2))"
    )
    assert napping.ok("with onix.configure(nested_asyncio=True):\n    value = asyncio.run(both())\nvalue").value == (
        "[2, 4]"
    )
