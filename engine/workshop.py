"""A private folder for files that must not outlive their use: the contents of archives, converted scans."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from engine.errors import CannotWrite
from engine.files import Locked, locked

_PREFIX = "gliascope-workshop-"
_LOCK = ".lock"


class Workshop:
    """A folder only its owner may look into, which is removed when closed, and at the latest when the program ends.

        with Workshop() as workshop:
            folder = workshop.new_folder()

    A process that is killed cannot tidy up, so each workshop removes what dead processes left: a folder whose lock
    nobody holds any more, as the system takes a lock back however its holder dies.

    Args:
        where: The folder to make it in; that of the system for temporary files when not given.

    Attributes:
        path: The folder, ``0700``. Its name says nothing about whose scans lie inside.

    Raises:
        CannotWrite: There is no place for temporary files, or no room in it.
    """

    def __init__(self, where: Path | None = None) -> None:
        where = where or Path(tempfile.gettempdir())
        _remove_leftovers(where)
        try:
            self.path, lock = _locked_folder(where)
        except OSError as error:
            raise _no_room(error) from error
        self._removal = weakref.finalize(self, _remove, self.path, lock, os.getpid())
        self._count = 0

    def new_folder(self) -> Path:
        """An empty folder inside, named by a number.

        Raises:
            CannotWrite: The workshop was closed, or the disk is full.
        """
        self._count += 1
        folder = self.path / f"{self._count:04d}"
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise _no_room(error) from error
        return folder

    def close(self) -> None:
        """Remove the folder and all that is in it; closing twice does no harm."""
        self._removal()

    @property
    def closed(self) -> bool:
        """Whether the folder was removed."""
        return not self._removal.alive

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def inside_one(path: Path) -> bool:
    """Whether a file lies in a workshop, anybody's: it is nobody's own, and will not be there for long."""
    return any(parent.name.startswith(_PREFIX) for parent in path.parents)


def _no_room(error: OSError) -> CannotWrite:
    return CannotWrite(
        "There is no place for temporary files",
        (error.strerror or "the system gave no reason").lower(),
        "Free some space on the disk, then try again.",
    )


def _locked_folder(where: Path) -> tuple[Path, ExitStack]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
        lock = ExitStack()
        try:
            lock.enter_context(locked(path / _LOCK, 1.0))
        except (FileNotFoundError, Locked):
            continue
        # Another process may have taken it for a leftover in the moment before it was locked.
        if (path / _LOCK).exists():
            return path, lock
        lock.close()


def _remove(path: Path, lock: ExitStack, owner: int) -> None:
    if os.getpid() != owner:  # a forked child ends without taking its parent's files along
        return
    # Windows removes no file that is open, so the lock goes first.
    lock.close()
    _remove_tree(path)


def _remove_tree(path: Path) -> None:
    """Remove the lock's file last, so that what an interruption leaves is found as a leftover."""
    with suppress(OSError):
        for inside in path.iterdir():
            if inside.is_dir() and not inside.is_symlink():
                shutil.rmtree(inside, ignore_errors=True)
            elif inside.name != _LOCK:
                inside.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _remove_leftovers(where: Path) -> None:
    """Remove the workshops of processes that died, and nothing that anybody else made under such a name."""
    for path in where.glob(f"{_PREFIX}*"):
        try:
            found = path.lstat()
            ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
            if not (ours and stat.S_ISDIR(found.st_mode)):
                continue
            # What has no lock is just being made; if its maker died in that moment, it is empty.
            if not (path / _LOCK).is_file():
                continue
            with locked(path / _LOCK, 0.0):
                pass
        except (OSError, Locked):
            continue
        _remove_tree(path)
