"""`make bench`: the figures that onix_nb has to keep, as a table.

    python -m tests.benchmarks                  all of them
    python -m tests.benchmarks noop imports     some
    python -m tests.benchmarks --guard drain    as the tests measure it: smaller, in less time
    python -m tests.benchmarks --json noop      one, in this process, for a program to read

Without `--json` each figure is measured in a process of its own. A figure that is missed is
marked, and does not fail the command: absolute times are the machine's. What fails is `test_guards.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Sequence

from .figures import FIGURES, Figure, Measured


def measured(name: str, *, guard: bool = False) -> Measured:
    """The figure `name`, measured in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks", "--json", *(["--guard"] if guard else []), name]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(child.stdout)
    return Measured(answer["value"], answer["beside"])


def _table(names: Sequence[str], *, guard: bool) -> None:
    layout = "{:<74}{:>10}{:>11}  {:<32}{}"
    print(layout.format("figure", "asked", "measured", "onix to its peer", "command"))
    for name in names:
        figure = FIGURES[name]
        found = measured(name, guard=guard)
        mark = "" if figure.keeps(found.value, figure.asked) or math.isnan(found.value) else "  MISSED"
        asked = f"{'≥' if figure.least else '≤'} {figure.text(figure.asked)}"
        command = f"python -m tests.benchmarks {name}"
        row = layout.format(figure.title, asked, figure.text(found.value), found.beside + mark, command)
        print(row, flush=True)


def _json(figure: Figure, *, guard: bool) -> str:
    """The figure, measured here, and whether it keeps the bound of its guard."""
    found = figure.measure(**(figure.guard if guard else {}))
    return json.dumps(
        {**dataclasses.asdict(found), "bound": figure.bound, "kept": figure.keeps(found.value, figure.bound)}
    )


def main() -> None:
    """Measures what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("figure", nargs="*", help=f"{', '.join(FIGURES)}; all by default")
    parser.add_argument("--guard", action="store_true", help="measure as the guards do: smaller, in less time")
    parser.add_argument("--json", action="store_true", help="one figure, in this process, as JSON")
    parser.add_argument("--list", action="store_true", help="their names only")
    options = parser.parse_args()
    names = options.figure or list(FIGURES)
    if unknown := [name for name in names if name not in FIGURES]:
        parser.error(f"no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    if options.list:
        print(*names, sep="\n")
    elif options.json:
        if len(names) != 1:
            parser.error("--json measures one figure")
        print(_json(FIGURES[names[0]], guard=options.guard))
    else:
        _table(names, guard=options.guard)


if __name__ == "__main__":
    main()
