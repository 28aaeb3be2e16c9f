"""Whose the journal is: files that only this user can write, and a lock that only one kernel has."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import stat
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import JournalBusyError, JournalRefusedError
from ..model.run import clock_seconds
from . import codec
from .schema import failed


def refuse_unsafe(path: Path, read_only: bool = False) -> None:
    """Raises unless the folder and each file in it that SQLite will open are safely ours."""
    try:
        _refuse(path.parent, stat.S_ISDIR, "a folder", read_only)
        for suffix in ("", "-journal", "-wal", "-shm", ".lock"):
            with contextlib.suppress(FileNotFoundError):
                _refuse(path.with_name(path.name + suffix), stat.S_ISREG, "a file", read_only)
    except OSError as error:
        raise failed(path, error, "opened") from error


def _refuse(path: Path, is_kind: Callable[[int], bool], kind: str, read_only: bool) -> None:
    found = os.stat(path, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        why = "is a symbolic link"
    elif not is_kind(found.st_mode):
        why = f"is not {kind}"
    elif found.st_uid != os.geteuid():
        why = "belongs to another user"
    elif found.st_mode & stat.S_IWOTH:
        why = "can be written by everyone"
    elif not read_only and not found.st_mode & stat.S_IWUSR:
        why = "is read-only"
    else:
        return
    raise JournalRefusedError(f"{path} {why}, so the journal is not used.")


def is_owned(journal: Path) -> bool | None:
    """Whether a kernel owns the journal now; None where that can't be asked.

    Asked, not tried: a lock that is taken for a moment would turn away the kernel that comes in that moment.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None  # the layout of `struct flock` is not known
    lock = journal.with_name(journal.name + ".lock")
    with _owning:
        try:
            if _owned.get(inode(lock)) == os.getpid():
                return True
            file = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return None
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found: int = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))[0]
        except OSError:  # a file system without locks
            return None
        finally:
            os.close(file)
    return found != fcntl.F_UNLCK


def create(path: Path) -> None:
    """An empty file that only this user can use, and whose name a power cut doesn't take."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise failed(path, error, "made") from error
    with contextlib.suppress(OSError):
        codec.sync_folder(path.parent)


def inode(path: str | Path) -> tuple[int, int]:
    """Which file has this name now."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


# l_type, l_whence, l_start, l_len, l_pid of `struct flock` on 64-bit Linux, with its alignment.
_FLOCK: Final = "hhqqi0q"

# Guards `_owned`, which says what this process owns: opening a lock file a second time, and closing
# it, would give up the lock. Held while a lock is taken or asked for. The value is the process: a forked child has
# what its parent owns in its copy, and owns nothing.
_owning = threading.Lock()
_owned: dict[tuple[int, int], int] = {}


class Owner:
    """The lock that says whose the journal is, on a file of its own.

    A record lock (`lockf`): it ends with its process, however that ends, and forked children don't have it.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(journal.name + ".lock")
        self._pid = os.getpid()
        self._make_folder(journal.parent)
        refuse_unsafe(journal)
        with _owning:
            self._take(journal)

    def release(self) -> None:
        """Gives the journal up. In a forked child it isn't ours to give."""
        if os.getpid() != self._pid:
            return
        with _owning:
            if _owned.pop(self._inode, None) is not None:
                os.close(self._file)

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            return
        except OSError as error:
            raise failed(folder, error, "made") from error
        with contextlib.suppress(OSError):
            codec.sync_folder(folder.parent)

    def _take(self, journal: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if _owned.get(inode(self.path)) == self._pid:
                raise JournalBusyError(f"the journal {journal} is open in this process.")
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise failed(self.path, error, "opened") from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sign()
            self._inode = inode(self.path)
            found = os.fstat(self._file)
            if (found.st_dev, found.st_ino) != self._inode:
                raise JournalBusyError(f"the journal {journal} was replaced at this moment. Try again.")
        except (BlockingIOError, PermissionError) as error:
            busy = JournalBusyError(f"the journal {journal} belongs to {self._who()}. Shut that kernel down first.")
            os.close(self._file)
            raise busy from error
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, OSError):
                raise failed(self.path, error, "locked") from error
            raise
        _owned[self._inode] = self._pid

    def _sign(self) -> None:
        """Says who owns the journal, for those who come too late."""
        owner = {"pid": os.getpid(), "host": os.uname().nodename, "uid": os.geteuid(), "since": clock_seconds()}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(owner).encode(), 0)

    def _who(self) -> str:
        try:
            owner = json.loads(os.pread(self._file, 4096, 0))
            since = datetime.datetime.fromtimestamp(owner["since"], datetime.UTC)
            who = f"process {owner['pid']:d} of user {owner['uid']:d} on {owner['host']!s:.100}"
            return f"{who}, since {since:%Y-%m-%d %H:%M:%S} UTC"
        except (OSError, ValueError, KeyError, TypeError, OverflowError):  # it is just being written
            return "another process"
