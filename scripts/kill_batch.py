"""Kill a batch again and again and see what is lost: ``python -m scripts.kill_batch COHORT --kills 30``.

The command ``gliascope batch`` works on patients of a cohort. At random moments the program, one of its worker
processes, or all of them are killed (SIGKILL); after each kill everything that can be seen in the results is compared
with those of a batch that nobody disturbed, and the batch is gone on with, from its beginning again whenever it came to
its end. Needs a system that has SIGKILL.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import batch_page
from engine import sequences
from engine.batch import JOURNAL, PATIENTS, Batch, Journal, State

KINDS = ("program", "a worker", "all")
# What a clock decides, and with it the seal over the rest of a record.
CLOCKED = {"seconds", "made_at", "sidecar_sha256"}
ORPHANS_SECONDS = 5.0

Seen = dict[str, str]


@dataclass
class Found:
    """What the kills came to."""

    kills: Counter[str] = field(default_factory=Counter)
    at_work: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    ended: int = 0
    torn: int = 0
    patients: int = 0
    lost_seconds: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)


def main() -> None:
    """Kill as often as asked, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whose", default="patients of the cohort", help="what the table calls them")
    parser.add_argument("--page", type=Path, help="page of results whose part on kills is replaced")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="gliascope-kills-") as scratch:
        place = Path(scratch)
        cohort = place / "cohort"
        cohort.mkdir()
        for one in sequences.find_subjects([arguments.cohort])[: arguments.patients]:
            os.symlink(one.folder.resolve(), cohort / one.folder.name)
        began = time.monotonic()
        _begin(cohort, place / "undisturbed", arguments.jobs).wait()
        seconds = time.monotonic() - began
        truth = _seen(place / "undisturbed")
        _say(f"undisturbed: {len(truth)} files in {seconds:.0f} s")
        found = Found(patients=len(Batch.open(place / "undisturbed").rows))
        _disturb(cohort, place / "killed", truth, seconds, arguments.kills, arguments.jobs, chance, found)
    table = _table(found, seconds, arguments.whose)
    _say(table)
    if arguments.page is not None:
        batch_page.put(arguments.page, "kills", table)
    sys.exit(1 if found.problems else 0)


def _disturb(
    cohort: Path, out: Path, truth: Seen, seconds: float, kills: int, jobs: int, chance: random.Random, found: Found
) -> None:
    """Kill, look, go on; a batch that came to its end is compared and begun again."""
    while sum(found.kills.values()) < kills:
        began = time.monotonic()
        process = _begin(cohort, out, jobs)
        try:
            # Some die before their first patient, most somewhere within the next ones.
            process.wait(chance.uniform(0.05, 0.5) * seconds)
        except subprocess.TimeoutExpired:
            kind = chance.choice(KINDS)
            _kill(process, kind, out, chance, found)
            if kind == "a worker":
                process.wait()
                _compare_all(out, truth, found)
            else:
                _compare_visible(out, truth, found)
        if process.returncode == 0:
            found.ended += 1
            _compare_all(out, truth, found)
            shutil.rmtree(out)
        found.resumed.append(time.monotonic() - began)
        _say(f"{sum(found.kills.values())} kills, {len(found.problems)} problems")
    if out.exists():
        process = _begin(cohort, out, jobs)
        if process.wait():
            found.problems.append(f"gone on with, it ended with code {process.returncode}")
        found.ended += 1
        _compare_all(out, truth, found)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _begin(cohort: Path, out: Path, jobs: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "app", "batch", str(cohort), "--out", str(out), "--jobs", str(jobs)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill(process: subprocess.Popen[bytes], kind: str, out: Path, chance: random.Random, found: Found) -> None:
    program = psutil.Process(process.pid)
    workers = program.children(recursive=True)
    parts = list((out / PATIENTS).glob(".*")) if (out / PATIENTS).is_dir() else []
    found.kills[kind] += 1
    found.at_work["with patients half done" if parts else "with nobody at work"] += 1
    if kind == "a worker":
        if workers:
            chance.choice(workers).kill()
        return
    process.kill()
    for worker in workers if kind == "all" else ():
        worker.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=ORPHANS_SECONDS)
    if alive:
        found.problems.append(f"{len(alive)} workers lived on after their program")
        for worker in alive:
            worker.kill()
    content = (out / JOURNAL).read_bytes() if (out / JOURNAL).exists() else b"\n"
    found.torn += not content.endswith(b"\n")


def _seen(out: Path) -> Seen:
    """What somebody sees who looks at the results: a digest of every file of every patient, without what clocks say."""
    seen = {}
    for path in sorted((out / PATIENTS).rglob("*")):
        within = path.relative_to(out / PATIENTS)
        if path.is_file() and not within.parts[0].startswith("."):
            content = path.read_bytes()
            if path.suffix == ".json":
                content = json.dumps(_clockless(json.loads(content)), sort_keys=True).encode()
            seen[within.as_posix()] = hashlib.sha256(content).hexdigest()
    return seen


def _clockless(record: object) -> object:
    if isinstance(record, dict):
        return {key: _clockless(value) for key, value in record.items() if key not in CLOCKED}
    return [_clockless(value) for value in record] if isinstance(record, list) else record


def _compare_visible(out: Path, truth: Seen, found: Found) -> None:
    """Whoever looks between a kill and the next run sees patients whole or not at all."""
    if not (out / PATIENTS).is_dir():
        return
    try:
        seen = _seen(out)
    except ValueError as error:
        found.problems.append(f"a record is no JSON: {error}")
        return
    there = {name.split("/")[0] for name in seen}
    expected = {name: digest for name, digest in truth.items() if name.split("/")[0] in there}
    if seen != expected:
        odd = sorted({name for name in seen.keys() | expected.keys() if seen.get(name) != expected.get(name)})
        found.problems.append(f"{len(odd)} files are not as they should be, such as {odd[0]}")
    told = {str(entry["name"]) for entry in Journal(out / JOURNAL).read() if entry["event"] == "done"}
    folders = {path.name for path in (out / PATIENTS).iterdir()}
    if not told <= folders:
        found.problems.append(f"{len(told - folders)} patients that were told to be done are not there")


def _compare_all(out: Path, truth: Seen, found: Found) -> None:
    """At its end a disturbed batch is what an undisturbed one is."""
    _compare_visible(out, truth, found)
    rows = Batch.open(out).rows
    lost = [row.name for row in rows if row.state is not State.DONE]
    if lost or _seen(out) != truth:
        found.problems.append(f"the end differs; {len(lost)} patients are not done")
    if list((out / PATIENTS).glob(".*")):
        found.problems.append("something half done was left behind")


def _table(found: Found, seconds: float, whose: str) -> str:
    kills = ", ".join(f"{count} x {kind}" for kind, count in sorted(found.kills.items()))
    moments = ", ".join(f"{count} {when}" for when, count in sorted(found.at_work.items()))
    lines = [
        f"{found.patients} {whose}, {batch_page.machine()}:",
        "",
        "| | |",
        "|---|---|",
        f"| undisturbed, s | {seconds:.0f} |",
        f"| kills | {sum(found.kills.values())} ({kills}) |",
        f"| moments | {moments} |",
        f"| journals with a torn last line | {found.torn} |",
        f"| lives, median s | {statistics.median(found.resumed):.0f} |",
        f"| batches brought to their end and compared | {found.ended} |",
        f"| half files seen, patients lost or different, processes left | **{len(found.problems)}** |",
        "",
        "Compared is every file of every patient to the byte; in records all but seconds, the time of making and the "
        "seal over them.",
    ]
    return "\n".join([*lines, *(f"- {problem}" for problem in found.problems)])


if __name__ == "__main__":
    main()
