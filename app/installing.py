"""Adding torch to an app that was installed without it, by the program that installed the app."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

from engine.errors import UserError
from engine.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
STARTER = ROOT / "start.py"
CHECK_SECONDS = 0.1
UNPACKING = "Installing"


def torch_is_here() -> bool:
    """Whether trainings can run; torch itself is not loaded."""
    return importlib.util.find_spec("torch") is not None


def why_not_install() -> str:
    """Why torch cannot be added from the window, in a sentence; empty where it can."""
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve() or not STARTER.exists():
        return (
            "This Python was not set up by Gliascope's start.py, so Gliascope adds nothing to it. "
            f"Install torch into it yourself, in the release that {ROOT / 'constraints.txt'} names."
        )
    return ""


def room_in_words() -> str:
    """What it takes, before anybody agrees to it."""
    # Wheels with CUDA are what the package index serves on Linux, whether or not there is a GPU.
    return "3 GB to download and 9 GB of disk" if sys.platform.startswith("linux") else "about 300 MB to download"


def install_torch(progress: Progress) -> None:
    """Let start.py add what training needs; the only thing in Gliascope that uses a network, and only when asked.

    Args:
        progress: Told what is being done; when cancelled the app stays as it was, unless packages are being unpacked
            already, which then goes on to its end.

    Raises:
        UserError: start.py said why it could not.
        Cancelled: Asked to stop.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", str(STARTER), "--install", "torch"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    said: list[str] = []
    ended = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.strip())
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    assert process.stdin is not None
    stopping = False
    while not ended.wait(CHECK_SECONDS):
        now = said[-1] if said else "Asking which packages are needed"
        if not progress.cancelled:
            progress.update(0.0, now)
        elif not stopping and not now.startswith(UNPACKING):
            stopping = True
            # start.py ends pip in an orderly way; killing it would leave pip behind.
            process.stdin.close()
    code = process.wait()
    progress.check()
    if code:
        raise UserError(said[-1] if said else f"The installation stopped with exit code {code}")
    importlib.invalidate_caches()
    if not torch_is_here():
        raise UserError("torch was installed and cannot be found yet", "", "Start Gliascope again.")
