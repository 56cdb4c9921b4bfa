"""Throughput of a batch against a plain loop over `segment` in one process, on the same patients.

    python -m benchmarks.batch_speed COHORT [--patients 40] [--jobs 0] [--repeats 1] [--page docs/results/batch.md]

The loop is ``gliascope segment``: one process that reads, computes and writes one patient after the other and opens
each network once. The batch does the same and draws a thumbnail of each. Both begin with a fresh process, get the four
scans of each patient and no ground truth, and write to an empty folder; their masks are compared in the end. Quote the
ratio: the seconds belong to this computer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import batch_page
from engine import sequences

WAYS = ("loop", "batch")
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Run:
    """What one way took: seconds, seconds of processor time, and the most memory its processes held together in MB."""

    seconds: float
    processor: float
    peak_mb: float


def main() -> None:
    """Run both ways, compare the masks, print the table and, where asked, put it on a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="folder of patients")
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=0, help="processes of the batch; as many as cores if left out")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--page", type=Path, help="page of results whose part on throughput is replaced")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gliascope-benchmark-") as scratch:
        place = Path(scratch)
        names = _scans_alone(arguments.cohort, arguments.patients, place / "cohort")
        runs: dict[str, list[Run]] = {way: [] for way in WAYS}
        different = 0
        for _ in range(arguments.repeats):
            for way in WAYS:
                shutil.rmtree(place / way, ignore_errors=True)
                runs[way].append(_run(way, place, arguments.jobs))
                print(f"{way}: {runs[way][-1].seconds:.1f} s", flush=True)
            different += sum(not _same(place, name) for name in names)
    table = _table(runs, len(names), different, arguments.repeats)
    print(table)
    if arguments.page is not None:
        batch_page.put(arguments.page, "throughput", table)


def _scans_alone(cohort: Path, count: int, into: Path) -> list[str]:
    """Links to the scans of as many patients, those with all four sequences; their names."""
    found = [one for one in sequences.find_subjects([cohort]) if len(one.files) == len(sequences.Sequence)]
    for one in found[:count]:
        folder = into / one.name
        folder.mkdir(parents=True)
        for path in one.files.values():
            os.symlink(path.resolve(), folder / path.name)
    return [one.name for one in found[:count]]


def _run(way: str, place: Path, jobs: int) -> Run:
    words = ["segment"] if way == "loop" else ["batch", "--jobs", str(jobs)]
    command = [sys.executable, "-m", "app", *words, str(place / "cohort"), "--out", str(place / way)]
    began = time.perf_counter()
    before = os.times()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        peak = [0.0]
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, ended))
        watcher.start()
        code = process.wait()
        ended.set()
        watcher.join()
    seconds = time.perf_counter() - began
    if code:
        sys.exit(f"{' '.join(command)} ended with code {code}")
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds, processor, peak[0])


def _watch(number: int, peak: list[float], ended: threading.Event) -> None:
    """The most that a process and its children held; pages that they share are counted once for each."""
    while not ended.wait(_LOOK_SECONDS):
        held = 0
        try:
            process = psutil.Process(number)
            for one in (process, *process.children(recursive=True)):
                held += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        peak[0] = max(peak[0], held / 2**20)


def _same(place: Path, name: str) -> bool:
    file = f"{name}_seg.nii.gz"
    return (place / "loop" / file).read_bytes() == (place / "batch" / "patients" / name / file).read_bytes()


def _table(runs: dict[str, list[Run]], patients: int, different: int, repeats: int) -> str:
    def middle(way: str, what: str) -> float:
        return statistics.median(getattr(run, what) for run in runs[way])

    loop, batch = (middle(way, "seconds") for way in WAYS)
    lines = [
        f"{patients} patients with four sequences, {batch_page.machine()}"
        + (f", median of {repeats} runs each:" if repeats > 1 else ", one run each:"),
        "",
        "| | `segment`, one process | `batch` | ratio |",
        "|---|---|---|---|",
        f"| all patients, s | {loop:.1f} | {batch:.1f} | **{loop / batch:.2f}** |",
        f"| a patient, s | {loop / patients:.2f} | {batch / patients:.2f} | |",
        f"| processor time, s | {middle('loop', 'processor'):.1f} | {middle('batch', 'processor'):.1f} | |",
        f"| most memory, MB | {middle('loop', 'peak_mb'):.0f} | {middle('batch', 'peak_mb'):.0f} | |",
        "",
        f"Masks that are not the same to the byte: {different} of {patients * repeats}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
