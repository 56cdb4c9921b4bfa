"""Files appear whole or not at all, and what keeps one from appearing is told in the user's words."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import CannotWrite

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int, shared: bool) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int, shared: bool) -> None:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


_LOOK_SECONDS = 0.05


@contextmanager
def whole_file(path: Path, check: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Write a file under another name in the same folder; it gets its own name once it is whole and on the disk.

        with whole_file(folder / "model.json") as partial:
            partial.write_text(text, encoding="utf-8")

    An interruption at any moment leaves the file that was there before, or none.

    Args:
        path: The file; one of that name is replaced. Its folder may still be made inside.
        check: Looks at the finished file before it gets its name, and raises where something is wrong with it.

    Yields:
        Where to write. The name is short, as the target's may be as long as the system allows already, and has no
        ending, so that nobody takes it for a file of its kind.

    Raises:
        CannotWrite: The system refused; nothing was changed, and nothing is left behind.
    """
    partial = reachable(path.parent / f".gliascope-{secrets.token_hex(6)}.part")
    try:
        yield partial
        with partial.open("r+b") as file:  # Windows flushes only what may be written to
            os.fsync(file.fileno())
        if check is not None:
            check(partial)
        os.replace(partial, reachable(path))
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


class Together:
    """Files of one folder that get their names together, once all are whole and on the disk, or not at all.

        with Together(folder) as files:
            files.new("anna_seg.nii.gz").write_bytes(mask)
            files.new("anna_seg.json").write_bytes(sidecar)
            files.release()

    Without `release`, and after anything that goes wrong, the folder is as it was. A process that is killed between two
    names leaves some of them new: that moment is as short as it can be made.

    Args:
        folder: Where the files are to be; made if it is not there.

    Raises:
        OSError: Whatever the system says; `unwritten` puts it into words.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workshop = folder / f".gliascope-{secrets.token_hex(6)}"
        self._names: list[str] = []
        self._first: list[str] = []
        self._made: list[Path] = []

    def __enter__(self) -> Together:
        self._made = _missing_folders(self._folder)
        try:
            reachable(self._workshop).mkdir(parents=True)
        except OSError:
            self._clear()
            raise
        return self

    def __exit__(self, kind: object, error: object, at: object) -> None:
        self._clear()

    @property
    def place(self) -> Path:
        """The folder in which the files are made."""
        return reachable(self._workshop)

    def new(self, name: str, first: bool = False) -> Path:
        """Where to write the file that is to be called so.

        Args:
            name: Files get theirs in the order of asking.
            first: Before all others, such as a record: what nobody vouches for is never seen, and replaced by nobody.
        """
        (self._first if first else self._names).append(name)
        return reachable(self._workshop / name)

    def release(self, outdated: Iterable[Path] = ()) -> None:
        """Give all files their names.

        If one cannot be moved (open elsewhere, on Windows), what was done before is taken back.

        Args:
            outdated: Files that are to go at the same time.
        """
        names = [*self._first, *self._names]
        for name in names:
            with reachable(self._workshop / name).open("r+b") as file:  # Windows flushes only what may be written to
                os.fsync(file.fileno())
        before: list[tuple[Path, bytes | None]] = []
        try:
            for path in outdated:
                held = path.read_bytes()
                path.unlink()
                before.append((path, held))
            for name in names:
                target = reachable(self._folder / name)
                was = target.read_bytes() if target.exists() else None
                reachable(self._workshop / name).replace(target)
                before.append((target, was))
        except OSError:
            for path, content in reversed(before):
                if content is None:
                    path.unlink()
                else:
                    path.write_bytes(content)
            raise
        self._made = []

    def _clear(self) -> None:
        """Remove what did not get its name, and the folders that would then stand there for nothing."""
        with suppress(OSError):
            for path in list(reachable(self._workshop).iterdir()):
                with suppress(OSError):
                    path.unlink()
        for folder in (self._workshop, *self._made):
            with suppress(OSError):
                folder.rmdir()


def _missing_folders(folder: Path) -> list[Path]:
    """Those of the folder and its parents that are not there yet, innermost first."""
    missing = []
    with suppress(OSError):
        for place in (folder, *folder.parents):
            if place.exists():
                break
            missing.append(place)
    return missing


class Locked(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, wait_seconds: float, shared: bool = False) -> Iterator[None]:
    """Hold a lock that the system takes back when its holder dies, however it dies.

    Args:
        path: The file to lock; made where absent, and left there.
        wait_seconds: How long to try.
        shared: Whether others may hold it in the same way: for looking whether it is free.

    Raises:
        Locked: Somebody else holds it.
        OSError: The file cannot be made.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + wait_seconds
        while True:
            try:
                _lock(file, shared)
                break
            except OSError as error:
                if time.monotonic() >= until:
                    raise Locked(path.name) from error
            time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(file)


def unwritten(path: Path, error: OSError) -> CannotWrite:
    """What keeps a file from being written, in the user's words."""
    folder = shown(path.parent)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CannotWrite(f"There is no room on the disk for {shown(path)}", "", "Free some space, then try again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CannotWrite(f"The folder {folder} cannot be written to", "", "Choose another folder.")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return CannotWrite(f"There is no folder {folder} to write to", "", "Choose another folder.")
    if error.errno == errno.EEXIST or isinstance(error, IsADirectoryError):
        # A folder on the way may be what could not be made.
        other = Path(error.filename) if error.errno == errno.EEXIST and isinstance(error.filename, str) else path
        return CannotWrite(f"Something else is named {shown(other)} already", "", "Move it, or choose another folder.")
    if error.errno == errno.ENAMETOOLONG:
        return CannotWrite(f"The path to {shown(path)} is too long", "", "Choose a shorter name or another folder.")
    reason = (error.strerror or "the system gave no reason").lower()
    return CannotWrite(f"{shown(path)} cannot be written", reason, "Choose another folder.")


def shown(path: Path) -> str:
    """The file's name as a sentence can hold it: printable, and shortened in the middle when very long."""
    name = path.name.encode("utf-8", "replace").decode("utf-8") or str(path)
    return name if len(name) <= 80 else f"{name[:40]}...{name[-32:]}"


def reachable(path: Path) -> Path:
    """The path in the form that has no length limit on Windows; elsewhere the path itself."""
    if os.name == "nt" and len(str(path)) > 200 and not str(path).startswith("\\\\"):
        return Path("\\\\?\\" + str(path.absolute()))
    return path
