"""Where the built program starts: the window, the command line, or one of the app's own worker processes."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys

# What a checkout starts as ``python -m MODULE`` the built program starts as ``gliascope -m MODULE``: its
# `sys.executable` is itself. No other module can be asked for.
WORKERS = (
    "engine.batch_worker",
    "trainer.estimate",
    "trainer.publication",
    "trainer.run",
    "trainer.scoring",
    "trainer.training",
)


def main() -> int:
    """Be what the words on the command line ask for; returns the exit code."""
    multiprocessing.freeze_support()
    # A program without a console, on Windows, has nothing to write to; everything that writes expects something.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the very end
    words = sys.argv[1:]
    if words[:1] == ["-m"]:
        if words[1:2] == [] or words[1] not in WORKERS:
            sys.stderr.write(f"-m is for Gliascope's own processes: {', '.join(WORKERS)}.\n")
            return 2
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return 0
    from app.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
