"""Whether a batch of many needs more memory than one of few: ``python -m scripts.batch_memory --patients 500``.

Simulated patients: the demo case of `trainer.simulate` at every second voxel, written once and linked under as many
names, with its sequences in every mixture. Each is read, prepared, segmented with the shipped models, compared with its
truth and written as any other. The memory of the program and of each worker is looked at after every patient.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks import batch_page
from engine import batch, nifti
from engine.batch import Batch, Event, Failed, Finished, Settings
from engine.nifti import Convention
from engine.volume import SUBSETS, Grid, LabelMap, Sequence, Volume

_LEFT_ASIDE = 20  # patients in which every worker has met everything once


def main() -> None:
    """Carry the batch out, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--demo", type=Path, default=Path("assets/demo"), help="a simulated patient")
    parser.add_argument("--page", type=Path, help="page of results whose part on memory is replaced")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gliascope-memory-") as scratch:
        place = Path(scratch)
        _patients(arguments.demo, arguments.patients, place / "cohort")
        going = Batch.create(batch.plan([place / "cohort"], Settings(labels=Convention.GLIASCOPE)), place / "out")
        held: list[tuple[float, float]] = []
        began = time.monotonic()

        def hear(event: Event) -> None:
            if isinstance(event, Finished | Failed):
                me = psutil.Process()
                workers = [one.memory_info().rss / 2**20 for one in me.children()]
                held.append((me.memory_info().rss / 2**20, max(workers, default=0.0)))
                if len(held) % 50 == 0:
                    sys.stdout.write(
                        f"{len(held)} patients: program {held[-1][0]:.0f} MB, worker {held[-1][1]:.0f} MB\n"
                    )

        going.run(hear, jobs=arguments.jobs)
        seconds = time.monotonic() - began
        done = going.count(batch.State.DONE)
    table = _table(held, done, seconds, arguments.jobs)
    sys.stdout.write(f"{table}\n")
    if arguments.page is not None:
        batch_page.put(arguments.page, "memory", table)


def _patients(demo: Path, count: int, into: Path) -> None:
    """The demo patient at every second voxel, with its sequences in every mixture, under so many names."""
    made = into.parent / "made"
    made.mkdir(parents=True)
    files = {}
    for sequence in Sequence:
        volume = nifti.read(demo / f"demo_{sequence}.nii.gz")
        files[sequence.value] = made / f"{sequence}.nii.gz"
        coarse = Volume(np.asfortranarray(volume.data[::2, ::2, ::2]), _coarse(volume.grid))
        nifti.write_volume(coarse, files[sequence.value])
    truth = nifti.read_label_map(demo / "demo_seg.nii.gz", Convention.GLIASCOPE)
    files["seg"] = made / "seg.nii.gz"
    drawn = np.asfortranarray(truth.data[::2, ::2, ::2])
    nifti.write_label_map(LabelMap(drawn, _coarse(truth.grid)), files["seg"])
    for number in range(count):
        folder = into / f"simulated_{number:03d}"
        folder.mkdir(parents=True)
        for what in (*(s.value for s in SUBSETS[number % len(SUBSETS)]), "seg"):
            os.symlink(files[what], folder / f"{folder.name}_{what}.nii.gz")


def _coarse(grid: Grid) -> Grid:
    """The grid of every second voxel."""
    i, j, k = (-(-n // 2) for n in grid.shape)
    affine = grid.affine.copy()
    affine[:3, :3] *= 2
    return Grid((i, j, k), affine)


def _table(held: list[tuple[float, float]], done: int, seconds: float, jobs: int) -> str:
    lines = [
        f"{len(held)} simulated patients of 2 mm voxels in all 15 mixtures of sequences, {done} of them done, "
        f"{jobs} workers, {seconds:.0f} s, {batch_page.machine()}:",
        "",
        "| patients done | program, MB | larger worker, MB |",
        "|---|---|---|",
    ]
    edges = sorted({min(len(held), edge) for edge in (_LEFT_ASIDE, 50, 100, 200, 300, 400, 500, len(held))})
    first = _LEFT_ASIDE
    for edge in edges[1:]:
        part = held[first:edge]
        program, worker = (max(one[place] for one in part) for place in (0, 1))
        lines.append(f"| {first + 1} to {edge} | {program:.0f} | {worker:.0f} |")
        first = edge
    third = max(1, (len(held) - _LEFT_ASIDE) // 3)
    early, late = (statistics.median(one[1] for one in part) for part in (held[_LEFT_ASIDE:][:third], held[-third:]))
    lines += [
        "",
        f"Largest in each part. Median of a worker in the first third {early:.0f} MB, in the last {late:.0f} MB.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
