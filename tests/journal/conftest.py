"""What the tests of the journal's file share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .child import Zygote


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".onix" / "notebook.sqlite"


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    """A process that makes processes."""
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk that can be full, broken, or cut off from its power."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt install gcc libc6-dev")
    library = tmp_path_factory.mktemp("disk") / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library
