"""Which journals there are: each kernel notes the one that it opens, so that a page of the server can list them.

A note is a small file of its own in Jupyter's data folder; nothing in it is trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Final

from ..model.run import clock_seconds
from . import codec

# Characters; a path has 4,096 bytes at most, of which JSON makes six characters each.
LONGEST_NOTE: Final = 32_768


def register(journal: Path) -> None:
    """Notes where a journal is. Where that can't be written nothing is lost but its line in the list."""
    with contextlib.suppress(OSError):
        folder = codec.data_folder() / "journals"
        folder.mkdir(mode=0o700, exist_ok=True)
        note = folder / f"{hashlib.sha256(os.fsencode(journal)).hexdigest()[:32]}.json"
        new = note.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({"path": os.fspath(journal), "opened": clock_seconds()}))
        os.replace(new, note)


def registered() -> list[Path]:
    """The journals that were noted, the last opened first, whether or not they are still there."""
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for note in (codec.data_folder() / "journals").glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                with note.open() as file:
                    told = json.loads(file.read(LONGEST_NOTE))
                found.append((float(told["opened"]), Path(told["path"])))
    return [path for _, path in sorted(found, reverse=True)]
