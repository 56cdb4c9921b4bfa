"""Try the built program where there is no Python: ``python -m scripts.try_frozen FOLDER --out PAGE``.

Makes a root folder that holds the C library, the few system libraries that every desktop has, the program, and nothing
else, and works in it (chroot, namespaces of its own, no network):

- the program's self-test;
- ``segment`` on the demo patient, compared byte for byte with this checkout's;
- a whole training of a teacher and a student, scored, reported and one of them made a model;
- starts of the window under Xvfb, from the start of the process to its first paint event, the program's files dropped
  from the page cache before each cold one.

Needs Linux, root, Xvfb, and a built program (``python3 start.py build``).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.kill_training import NAMES, make_cohort
from trainer.patients import Patients
from trainer.study import Study
from trainer.training import Training

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "assets" / "demo"
# What the program leaves to the system: the C library, that of C++, zlib, OpenGL and the wire to the screen.
SYSTEM = (
    "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1",
    "libresolv.so.2", "libnss_files.so.2", "libgcc_s.so.1", "libstdc++.so.6", "libGL.so.1", "libEGL.so.1",
    "libxcb.so.1", "libz.so.1",
)  # fmt: skip
INSIDE = Path("/opt/gliascope")
GOAL_SECONDS = 3.0


def main() -> None:
    """Try all of it, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the built program, dist/gliascope")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--without-training", action="store_true", help="leave the whole training out")
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # what runs inside ends too
    program = wanted.folder.resolve()
    page = [HEAD.format(kernel=platform.release(), cores=os.cpu_count(), load=os.getloadavg()[0])]
    with tempfile.TemporaryDirectory(prefix="try-frozen-") as folder:
        clean = Clean(Path(folder) / "root", Path(folder) / "work", program)
        page += told_of(clean)
        page += ["", "## Start", "", *_heard("starts", starts(clean, wanted.starts))]
        page += ["", "## Self-test", "", *_heard("self-test", self_test(clean))]
        page += ["", "## The same masks", "", *_heard("masks", same_masks(clean))]
        if not wanted.without_training:
            page += ["", "## A whole training", "", *_heard("training", whole_training(clean))]
    page += ["", "## Size", "", *sizes(program)]
    text = "\n".join(page) + "\n"
    sys.stdout.write(text)
    if wanted.out is not None:
        wanted.out.write_text(text, encoding="utf-8")


def _heard(what: str, lines: list[str]) -> list[str]:
    sys.stderr.write(f"{what}: done, load {os.getloadavg()[0]:.1f}\n")
    return lines


HEAD = """\
# The built program, where there is no Python

Made by `python -m scripts.try_frozen dist/gliascope` after `python3 start.py build`, on Linux {kernel} with {cores}
cores that were shared with other work (load {load:.1f}).
"""


class Clean:
    """A root folder without Python.

    Args:
        root: Made.
        work: Made; seen inside under the same path.
        program: The built program; seen inside, unchangeable, as ``/opt/gliascope``.
    """

    def __init__(self, root: Path, work: Path, program: Path) -> None:
        self.root, self.work, self.program = root, work, program
        work.mkdir(parents=True)
        for place in ("proc", "dev", "home", "tmp/.X11-unix", "lib64", "usr/lib", str(INSIDE)[1:], str(work)[1:]):
            (root / place).mkdir(parents=True, exist_ok=True)
        self.libraries = sorted(_with_what_they_need(SYSTEM))
        for library in self.libraries:
            home = "lib64" if library.name.startswith("ld-linux") else "usr/lib"
            shutil.copy(library.resolve(), root / home / library.name)
        if found := [path for path in root.rglob("*") if re.search(r"python|\.pyc?$", path.name, re.IGNORECASE)]:
            raise SystemExit(f"there is Python in the clean root: {found}")

    def run(
        self, words: Sequence[object], *, given: str | None = None, screen: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``gliascope WORDS`` inside, and wait for its end."""
        mounts = [
            f"mount --bind {self.program} {self.root}{INSIDE}",
            f"mount -o remount,ro,bind {self.root}{INSIDE}",
            f"mount --bind {self.work} {self.root}{self.work}",
            f"mount -t proc proc {self.root}/proc",
            f"mount -t tmpfs -o mode=755 dev {self.root}/dev",
            f"mkdir {self.root}/dev/shm",
            *(f"touch {self.root}/dev/{name}" for name in ("null", "urandom", "zero")),
            *(f"mount --bind /dev/{name} {self.root}/dev/{name}" for name in ("null", "urandom", "zero")),
        ]
        if screen:
            mounts.append(f"mount --bind /tmp/.X11-unix {self.root}/tmp/.X11-unix")
        # No search path, as there is nothing to find; no network, as none is needed.
        told = {"HOME": "/home", "LANG": "C.UTF-8", **environment}
        told |= {"DISPLAY": screen} if screen else {}
        inside = ["/usr/sbin/chroot", str(self.root), f"{INSIDE}/gliascope", *map(str, words)]
        # Python's own place for the start's moment is the shell's last act before it becomes the program.
        shell = " && ".join([*mounts, 'date +%s.%N > "$0" && exec env -i "$@"'])
        begun = self.work / "begun"
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--net", "--kill-child", "sh", "-c", shell, str(begun)]
            + [f"{name}={value}" for name, value in told.items()]
            + inside,
            input=given,
            stdin=None if given is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def begun(self) -> float:
        """When the program that ran last began, in seconds since 1970."""
        return float((self.work / "begun").read_text())


def _with_what_they_need(names: Sequence[str]) -> set[Path]:
    """Libraries of this machine, with all they are linked to."""
    said = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    known = dict(reversed(re.findall(r"^\s+(\S+) \(libc6,x86-64.*\) => (\S+)$", said, re.MULTILINE)))
    found = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in known or Path(known[name]) in found:
            continue
        path = Path(known[name])
        found.add(path)
        linked = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
        waiting += re.findall(r"\(NEEDED\).*\[(.+)\]", linked)
    return found


def must(done: subprocess.CompletedProcess[str]) -> str:
    """What a run said.

    Raises:
        SystemExit: It failed.
    """
    if done.returncode:
        raise SystemExit(f"{done.args[-3:]} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def told_of(clean: Clean) -> list[str]:
    """What is in the root beside the program."""
    names = ", ".join(f"`{library.name}`" for library in clean.libraries)
    return [
        f"The root folder holds {len(clean.libraries)} libraries of the system and no other file: {names}. No Python, "
        "no shell, no `/etc`, an empty home, no network. "
        "Outside the program no file's name has `python` in it or ends in `.py`."
    ]


def self_test(clean: Clean) -> list[str]:
    """The program's own."""
    began = time.monotonic()
    said = must(clean.run(["--self-test"]))
    lines = re.findall(r"^(passed|failed) +([\d.]+) s  (.*)$", said, re.MULTILINE)
    if not lines or any(outcome != "passed" for outcome, _, _ in lines):
        raise SystemExit(said)
    return [
        "`gliascope --self-test`, off screen:",
        "",
        "| step | outcome | s |",
        "|---|---|---|",
        *(f"| {what} | {outcome} | {seconds} |" for outcome, seconds, what in lines),
        f"| in all, exit code 0 | | {time.monotonic() - began:.1f} |",
    ]


def same_masks(clean: Clean) -> list[str]:
    """The demo patient segmented by the program and by this checkout."""
    demo = clean.work / "demo"
    shutil.copytree(DEMO, demo)
    must(clean.run(["segment", demo, "--out", clean.work / "there", "--device", "cpu"]))
    here = [sys.executable, "-m", "app", "segment", str(demo), "--out", str(clean.work / "here"), "--device", "cpu"]
    must(subprocess.run(here, cwd=ROOT, capture_output=True, text=True, check=False))
    lines = ["| file | SHA-256 | the same |", "|---|---|---|"]
    for mine in sorted((clean.work / "here").glob("*.nii.gz")):
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (mine, clean.work / "there" / mine.name)]
        lines.append(f"| `{mine.name}` | `{digests[0][:16]}` | {'yes' if len(set(digests)) == 1 else 'no'} |")
    again = clean.run(["verify", clean.work / "there", "--inputs", demo, "--again"])
    return [*lines, "", f"`gliascope verify --again` inside: {' '.join(must(again).split())}"]


def whole_training(clean: Clean) -> list[str]:
    """A teacher and a T1 student, supervised as in the window."""
    make_cohort(clean.work / "cohort")
    network = {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1], "dropout": 0.1}}
    common = {"architecture": network, "spacing_mm": 3.0, "window": [32, 32, 32], "steps": 60, "warm_up": 5}
    common |= {"learning_rate": 0.01, "average": 0.9, "device": "cpu", "validate_every": 30}
    study = {
        "title": "Tried",
        "folds": [[NAMES[0]], list(NAMES[1:])],
        "common": common,
        "recipes": {
            "teacher": {"role": "teacher"},
            "baseline": {"role": "baseline"},
            "student": {"role": "student", "distillation": {"teacher": "teacher", "weight": 0.1}},
        },
        "cells": [
            {"recipe": recipe, "sequences": [["t1"]], "folds": [0], "seeds": [0]} for recipe in ("baseline", "student")
        ],
        "comparisons": [["student", "baseline"]],
        "shifted": False,
    }
    plan = clean.work / "study.json"
    plan.write_text(json.dumps(study), encoding="utf-8")
    training = Training.create(clean.work / "training", Study.read(plan), Patients.read(clean.work / "cohort"))
    began = time.monotonic()
    must(clean.run(["-m", "trainer.training", training.folder]))
    seconds = time.monotonic() - began
    standing = training.standing()
    if standing.done < 1 or standing.problem:
        raise SystemExit(f"the training is not done: {standing}")
    run = next(name for name in training.installable() if "student" in name)
    about = vars(training.suggested_about(run)) | {"name": "tried"}
    models = clean.work / "models"
    request = {"training": str(training.folder), "run": run, "models": str(models), "replace": False, "about": about}
    must(clean.run(["-m", "trainer.publication"], given=json.dumps(request)))
    card = json.loads((models / "tried" / "model.json").read_text(encoding="utf-8"))
    plots = len(list((training.folder / "report").rglob("*.png"))) + len(
        list((training.folder / "report").rglob("*.svg"))
    )
    return [
        "`gliascope -m trainer.training`, as the window starts it: teacher, baseline and T1 student of "
        f"{common['steps']} steps each, with their workers trained, scored and reported ({plots} plots) "
        f"in {seconds:.0f} s. `gliascope -m trainer.publication` then made a model of the student: {card['role']}, "
        f"inputs {', '.join(card['sequences'])}."
    ]


def starts(clean: Clean, count: int) -> list[str]:
    """How long the window takes, from the process' beginning to its first paint event."""
    painted = clean.work / "painted"
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    computing: dict[str, list[float]] = {"cold": [], "warm": []}
    with _screen() as screen:
        for kind in [*["cold"] * count, *["warm"] * count]:
            if kind == "cold":
                _forget(clean.program)
            before = _computed()
            must(clean.run([], screen=screen, GLIASCOPE_PAINTED=str(painted)))
            times[kind].append(float(painted.read_text()) - clean.begun())
            computing[kind].append(_computed() - before)
    rows = [
        f"| {kind} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} "
        f"| {statistics.median(computing[kind]):.2f} |"
        for kind, seconds in times.items()
    ]
    met = statistics.median(times["cold"]) < GOAL_SECONDS
    return [
        f"The window under Xvfb in the clean root, {count} times each, load {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores. Cold: every file of the program was dropped from the page cache before "
        "(`posix_fadvise`); the system's libraries and the disk's own cache stay as they are. "
        f"Goal: under {GOAL_SECONDS:.0f} s cold, {'reached' if met else 'not reached'}. What it computed in "
        "that time, ending included, tells how much of it was waiting for a core.",
        "",
        "| start | median s | best | worst | computing, median s |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _computed() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _forget(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _screen() -> Iterator[str]:
    reader, writer = os.pipe()
    words = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"]
    server = subprocess.Popen(words, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader) as told:
            yield f":{told.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


def sizes(program: Path) -> list[str]:
    """What the program's parts weigh."""
    import runpy

    weights = runpy.run_path(str(ROOT / "packaging" / "weights.py"))["weights"]
    return ["| part | MB |", "|---|---|", *(f"| {name} | {megabytes:.1f} |" for name, megabytes in weights(program))]


if __name__ == "__main__":
    main()
