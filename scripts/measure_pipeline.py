"""From scans as hospitals have them to masks on their own grids: each step, its seconds, and what it does to Dice.

    python -m scripts.measure_pipeline SHARED [--out docs/results/pipeline.md] [--patients 3]

Every patient goes through ``gliascope segment`` in a process of its own, as a user would start it: the raw patients and
the DICOM study of ``SHARED/clinical``, and patients of ``SHARED/cohort`` that are made raw again: a simulated skull is
put around them, each sequence is moved by up to 15 mm and 15 degrees and sampled in slices of 5 mm in a plane of its
own. Those have a truth, so whole tumour is scored before (as the collection has them) and after, on every file's grid.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import inference, metrics, nifti, registry, sequences
from engine.volume import Affine, Grid, LabelMap, Sequence, Volume, in_order
from trainer import heads

STEPS = ("align", "grid", "strip", "bias")
THICK_MM = 5.0
# Every sequence of a made patient in another plane, as protocols have them: the axis along which slices are thick.
PLANES = {Sequence.T1: 2, Sequence.T1CE: 0, Sequence.T2: 2, Sequence.FLAIR: 1}


@dataclass(frozen=True)
class Row:
    """What came of one patient.

    Attributes:
        name: For the table.
        what: Sequences and slices, in words.
        answer: What the command line said, in JSON.
        seconds: From start to end of the process.
        processor_seconds: Spent by all its threads, whatever else the machine did meanwhile.
        dice: Whole tumour on each file's own grid, for patients with a truth; the aligned original under None.
    """

    name: str
    what: str
    answer: dict[str, Any]
    seconds: float
    processor_seconds: float
    dice: dict[Sequence | None, float]


def main() -> int:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--patients", type=int, default=3, help="of the cohort")
    parser.add_argument("--seed", type=int, default=6)
    arguments = parser.parse_args()
    clinical = arguments.shared / "clinical"
    rows = [
        _segmented("raw, skull on, A", clinical / "raw_with_skull_a"),
        _segmented("raw, skull on, B", clinical / "raw_with_skull_b"),
        _segmented("DICOM study", clinical / "dicom_three_sequences", "--dicom"),
    ]
    cases = sorted(path for path in (arguments.shared / "cohort").iterdir() if path.is_dir())
    maps = sorted((arguments.shared / "anatomy").glob("label_map_*.nii.gz"))
    for number in range(arguments.patients):
        case = cases[(number * 13 + 5) % len(cases)]
        rows.append(_made_raw(number, case, maps[number * 5 % len(maps)], arguments.seed + number))
        sys.stderr.write(_line(rows[-1]) + "\n")
    text = _page(rows)
    sys.stdout.write(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    return 0


def _segmented(name: str, path: Path, *words: str) -> Row:
    with tempfile.TemporaryDirectory() as out:
        answer, seconds, processor = _gliascope(*words, str(path), "--out", out)
    grids = {sequence: _slices(path / f"{sequence.value}.nii.gz") for sequence in Sequence}
    known = [f"{sequence.title} {grid}" for sequence, grid in grids.items() if grid]
    return Row(name, ", ".join(known) or "T1, T2, FLAIR, slices of 6 mm", answer, seconds, processor, {})


def _slices(path: Path) -> str:
    if not path.exists():
        return ""
    return " x ".join(f"{mm:.2g}" for mm in sorted(nifti.read_grid(path)[0].spacing))


def _made_raw(number: int, case: Path, head: Path, seed: int) -> Row:
    """A patient of the cohort as a scanner might have left it, segmented, and scored against the truth."""
    rng = np.random.default_rng(seed)
    [files] = sequences.find_subjects([case])
    subject = sequences.load(files)
    assert files.segmentation is not None
    truth = nifti.read_label_map(files.segmentation, nifti.Convention.BRATS_2012_2021)
    choice = registry.choose(subject, registry.list_models().models)
    before = inference.segment(subject, choice.card, use=choice.used)
    dice: dict[Sequence | None, float] = {None: metrics.dice(before.label_map.whole_tumour, truth.whole_tumour)}
    whole = heads.around(subject, head, rng)
    truth = heads.put(truth, whole.grid)
    with tempfile.TemporaryDirectory() as folder:
        scans, out = Path(folder) / "scans", Path(folder) / "out"
        scans.mkdir()
        truths = {}
        for sequence in in_order(whole):
            astray = np.eye(4) if sequence is Sequence.T1CE else _astray(rng, whole.grid)
            volume, truths[sequence] = _scanned(whole[sequence], truth, astray, PLANES[sequence])
            nifti.write_volume(volume, scans / f"patient_{sequence.value}.nii.gz")
        answer, seconds, processor = _gliascope(str(scans), "--out", str(out))
        [result] = answer["subjects"]
        paths = {Sequence(s): Path(path) for s, path in result.get("masks_of", {}).items()}
        paths[Sequence(result["preparation"]["reference"])] = Path(result["mask"])
        for sequence, path in paths.items():
            mask = nifti.read_label_map(path, nifti.Convention.GLIASCOPE)
            dice[sequence] = metrics.dice(mask.whole_tumour, truths[sequence].whole_tumour)
    what = "four sequences in slices of 5 mm in three planes, up to 15 mm and 15 degrees astray, skull simulated"
    return Row(f"cohort patient {number + 1}, made raw", what, answer, seconds, processor, dice)


def _astray(rng: np.random.Generator, grid: Grid) -> Affine:
    """A rigid motion about the middle of the head of at most 15 mm and 15 degrees."""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    angle = np.radians(rng.uniform(5, 15))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    shift = rng.normal(size=3)
    shift *= rng.uniform(5, 15) / np.linalg.norm(shift)
    middle = grid.to_world((np.array([grid.shape]) - 1) / 2)[0]
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = middle - turn @ middle + shift
    return matrix


def _scanned(volume: Volume, truth: LabelMap, astray: Affine, thick: int) -> tuple[Volume, LabelMap]:
    """A scan of a head that lies elsewhere, in thick slices, with a header that knows nothing of it."""
    axes, _ = volume.grid.nearest_axes()
    step = np.ones(3)
    step[axes.index(thick)] = THICK_MM / volume.grid.spacing[axes.index(thick)]
    shape = tuple(int(n / s) for n, s in zip(volume.grid.shape, step, strict=True))
    affine = volume.grid.affine @ np.diag([*step, 1.0])
    affine[:3, 3] = volume.grid.to_world(np.array([(step - 1) / 2]))[0]
    said = Grid((shape[0], shape[1], shape[2]), affine)
    # Where the header says a voxel lies, the head's own point is what `astray` takes there.
    really = Grid(said.shape, np.linalg.inv(astray) @ affine)
    scan = sequences.resample(volume, really)
    whole = sequences.resample(Volume((truth.data > 0).astype(np.float32), truth.grid), really).data >= 0.5
    return Volume(scan.data, said, volume.sequence), LabelMap(whole.astype(np.uint8) * 2, said)


def _gliascope(*words: str) -> tuple[dict[str, Any], float, float]:
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "app", "segment", *words, "--json"], capture_output=True, text=True, check=False
    )
    after = os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    return json.loads(done.stdout), time.perf_counter() - started, processor


def _line(row: Row) -> str:
    [result] = row.answer["subjects"]
    steps = {step["step"]: step["seconds"] for step in result["preparation"]["steps"]}
    told = [f"{steps[step]:.1f}" for step in STEPS]
    used = ", ".join(Sequence(s).title for s in result["sequences"]["used"])
    numbers = [*told, f"{result['seconds']:.1f}", f"{row.seconds:.1f}", f"{row.processor_seconds:.1f}"]
    return f"| {row.name} | {' | '.join(numbers)} | {used} |"


def _page(rows: list[Row]) -> str:
    load = os.getloadavg()[0]
    lines = [
        "# From raw scans to masks on their own grids",
        "",
        "Made by `python -m scripts.measure_pipeline SHARED --out docs/results/pipeline.md`: every patient through",
        "`gliascope segment` in a process of its own. Seconds; *whole* is from the start of the process to its end,",
        "with reading and saving; *processor* is what all its threads used together.",
        f"{os.cpu_count()} processor cores, shared with other work (load {load:.0f} at the end): seconds are upper",
        "bounds, and processor seconds hardly depend on what else was going on.",
        "",
        "| patient | aligned | one grid | stripped | evened out | segmented | whole | processor | sequences used |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
        "",
        "## What the steps did",
        "",
    ]
    for row in rows:
        [result] = row.answer["subjects"]
        lines += [f"**{row.name}**: {row.what}."]
        lines += [f"- {step['sentence']}" for step in result["preparation"]["steps"]]
        lines += [f"- {doubt}" for doubt in result["preparation"]["doubts"]]
        lines += [f"- Masks: {1 + len(result.get('masks_of', {}))}, each on its file's own grid.", ""]
    scored = [row for row in rows if row.dice]
    if scored:
        lines += [
            "## Whole tumour, Dice",
            "",
            "With the model that is picked for four sequences, which has learnt from these patients: what counts is",
            "the difference. *Original*: as the collection has the patient, aligned at 1 mm without skull. Behind it:",
            "after the steps, on the grid of each raw file, against the truth on that grid.",
            "",
            "| patient | original | " + " | ".join(sequence.title for sequence in Sequence) + " |",
            "|---|---|---|---|---|---|",
        ]
        for row in scored:
            values = [row.dice[None], *(row.dice.get(sequence, float("nan")) for sequence in Sequence)]
            lines.append(f"| {row.name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
