"""Builds the program to double-click; ``python3 start.py build`` runs this in an environment of its own.

Makes ``dist/gliascope``, a folder that runs where there is no Python; on macOS ``dist/Gliascope.app`` too. Prints what
its parts weigh. ``--archive`` packs it for others.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import sys
import tarfile
import time
from pathlib import Path

from PyInstaller.__main__ import run

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "packaging"))

from weights import weights  # noqa: E402 - beside this file

BESIDE = ("LICENSE", "THIRD-PARTY.txt")


def main() -> int:
    """Build; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3 start.py build", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the program goes")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "work", help="where intermediate files go")
    parser.add_argument("--archive", action="store_true", help="also pack it, for others")
    wanted = parser.parse_args()
    began = time.monotonic()
    folder = wanted.out / "gliascope"
    run(
        [
            "--noconfirm",
            "--log-level=WARN",
            f"--distpath={wanted.out}",
            f"--workpath={wanted.work}",
            str(ROOT / "packaging" / "gliascope.spec"),
        ]
    )
    for name in BESIDE:
        shutil.copy(folder / "_internal" / name, folder / name)
    for name, megabytes in weights(folder):
        sys.stdout.write(f"{megabytes:8.1f} MB  {name}\n")
    sys.stdout.write(f"{folder}: built in {time.monotonic() - began:.0f} s\n")
    if wanted.archive:
        sys.stdout.write(f"{pack(folder)}\n")
    return 0


def pack(folder: Path) -> Path:
    """One file to hand on; Windows and macOS get an installer and a disk image instead, see packaging/README.md."""
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    name = f"gliascope-{version.group(1)}-{platform.system().lower()}-{platform.machine()}"
    if sys.platform == "win32":
        return Path(shutil.make_archive(str(folder.parent / name), "zip", folder.parent, folder.name))
    archive = folder.parent / f"{name}.tar.xz"
    with tarfile.open(archive, "w:xz", preset=3) as packed:
        packed.add(folder, folder.name)
    return archive


if __name__ == "__main__":
    sys.exit(main())
