"""Measure alignment and bias correction on real patients who are misplaced, thickened, given a skull or a bias field.

    python scripts/measure_alignment.py ROWS --cohort DIR [--anatomy DIR] --what moved|skull|bias|between|library
    python scripts/measure_alignment.py ROWS --table docs/results/alignment.md

Each patient is one line of JSON in the folder ROWS, so that a measurement can be stopped and gone on with, in several
processes. What is asked: how far voxels of the brain lie from where they should after registration, and what that
costs the mask. The model has learnt from these very patients; what counts is the difference between two of its masks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from engine import alignment, bias, inference, metrics, nifti, registry, sequences
from engine.model_card import WHOLE_TUMOUR
from engine.pipeline import Settings, Switch, work
from engine.runtime import Network, open_network
from engine.volume import Affine, FloatArray, Grid, LabelMap, Mask, Sequence, Subject, Volume, bounding_box
from trainer import heads
from trainer.shift import Kind, shift

MOST_MM, MOST_DEG = 15.0, 15.0
SLICE_MM = 5.0
MODEL = "teacher"
Row = dict[str, Any]


class Patient:
    """A patient of the cohort with his truth, and the model's mask of him as he is."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.name = folder.name
        whole = {s: nifti.read(folder / f"{folder.name}_{s.value}.nii.gz", s) for s in Sequence}
        truth = nifti.read_label_map(folder / f"{folder.name}_seg.nii.gz")
        # The zeros around the brain cost time and mean nothing.
        box = bounding_box(np.logical_or.reduce([volume.data != 0 for volume in whole.values()]))
        assert box is not None
        affine = truth.grid.affine.copy()
        affine[:3, 3] = truth.grid.to_world(np.array([[side.start for side in box]]))[0]
        grid = Grid(truth.data[box].shape, affine)
        self.truth = LabelMap(np.ascontiguousarray(truth.data[box]), grid)
        volumes = {s: Volume(np.ascontiguousarray(v.data[box]), grid, s) for s, v in whole.items()}
        self.subject = Subject(folder.name, volumes)
        self.brain: Mask = np.logical_or.reduce([volume.data != 0 for volume in volumes.values()])
        self.network = network
        self.chance = np.random.default_rng([7, zlib.crc32(folder.name.encode())])

    def dice(self, subject: Subject) -> float:
        """WT Dice in points of the mask of a subject that lies where the patient lies, on any grid."""
        labels = inference.segment(subject, self.network.card, network=self.network).label_map
        here = sequences.resample_label_map(labels, self.truth.grid) if labels.grid is not self.truth.grid else labels
        return 100 * metrics.score(here, LabelMap(self.truth.data, here.grid))[WHOLE_TUMOUR].dice


def motion(chance: np.random.Generator, about: np.ndarray) -> Affine:
    """A shift of up to 15 mm and a turn of up to 15 degrees, in any direction."""
    direction, axis = (v / np.linalg.norm(v) for v in chance.normal(size=(2, 3)))
    angle, length = np.radians(chance.uniform(0, MOST_DEG)), chance.uniform(0, MOST_MM)
    cross = np.cross(np.eye(3), axis)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = about - matrix[:3, :3] @ about + length * direction
    return matrix


def scanned(volume: Volume, lies: Affine, slice_mm: float, phase: float, stripped: bool) -> Volume:
    """The patient, lying elsewhere, in axial slices of 1 x 1 mm and some thickness.

    Args:
        volume: The patient as he is.
        lies: ``(4, 4)``: where he lay -> where he lies.
        slice_mm: A whole number.
        phase: Where the first slice begins, in mm.
        stripped: Whether the skull is removed after scanning: the brain's edge is not averaged with what was removed.
    """
    box = bounding_box(volume.data != 0) if stripped else tuple(slice(0, n) for n in volume.grid.shape)
    assert box is not None
    corners = np.array([[side.start for side in box], [side.stop for side in box]])
    grid, step = volume.grid, int(slice_mm)
    ends = grid.to_world(np.array([[corners[i, 0], corners[j, 1], corners[k, 2]] for i, j, k in np.ndindex(2, 2, 2)]))
    ends = ends @ lies[:3, :3].T + lies[:3, 3]
    low = np.floor(ends.min(axis=0)) - 4
    low[2] += phase
    shape = [int(n) for n in np.ceil(ends.max(axis=0) + 4 - low)]
    shape[2] = -(-shape[2] // step) * step
    fine = np.eye(4)
    fine[:3, 3] = low
    to_voxel = np.linalg.inv(lies @ grid.affine) @ fine

    def averaged(data: FloatArray) -> FloatArray:
        found = ndimage.affine_transform(data, to_voxel[:3, :3], to_voxel[:3, 3], tuple(shape), order=1)
        return found.reshape(*shape[:2], -1, step).mean(axis=3, dtype=np.float32)

    data = averaged(volume.data)
    if stripped:
        share = averaged((volume.data != 0).astype(np.float32))
        data = np.where(share > 0.5, data / np.maximum(share, 0.5), 0).astype(np.float32)
    affine = fine @ np.diag([1.0, 1.0, slice_mm, 1.0])
    affine[2, 3] += (slice_mm - 1) / 2
    return Volume(data, Grid(data.shape, affine), volume.sequence)


def error_mm(patient: Patient, lies: Affine, matrix: Affine) -> np.ndarray:
    """How far voxels of the brain lie from where they should, some thousands of them."""
    places = patient.truth.grid.to_world(np.argwhere(patient.brain)[::499])
    off = matrix @ lies - np.eye(4)
    return np.linalg.norm(places @ off[:3, :3].T + off[:3, 3], axis=1)


def moved(patient: Patient, head: heads.WholeHead | None, controls: bool) -> Row:
    """T1ce stays where it is at 1 mm; the others were scanned elsewhere, in slices of 5 mm."""
    row: Row = {"case": patient.name, "as_it_is": patient.dice(patient.subject)}
    subject = patient.subject if head is None else heads.around(patient.subject, head, patient.chance)
    middle = patient.truth.grid.to_world(np.argwhere(patient.brain)[::499]).mean(axis=0)
    lies = {s: motion(patient.chance, middle) for s in Sequence if s is not Sequence.T1CE}
    raw, still = {Sequence.T1CE: subject[Sequence.T1CE]}, {Sequence.T1CE: subject[Sequence.T1CE]}
    for sequence, motion_of in lies.items():
        phase = patient.chance.uniform(0, SLICE_MM)
        raw[sequence] = scanned(subject[sequence], motion_of, SLICE_MM, phase, head is None)
        if controls:
            still[sequence] = scanned(subject[sequence], np.eye(4), SLICE_MM, phase, True)
    began = time.process_time()
    worked = work(patient.name, raw, Settings(reference=Sequence.T1CE, bias=Switch.OFF))
    row["cpu_s"] = time.process_time() - began
    row["after"] = patient.dice(worked.subject)
    if controls:
        grid = worked.subject.grid
        row["thick_in_place"] = patient.dice(
            Subject(patient.name, {s: alignment.onto(v, grid) for s, v in still.items()})
        )
        unmoved = work(patient.name, raw, Settings(Switch.OFF, Switch.OFF, Switch.OFF, Sequence.T1CE))
        row["not_aligned"] = patient.dice(unmoved.subject)
    row["errors"] = {}
    for sequence, motion_of in lies.items():
        before, after = (error_mm(patient, motion_of, m) for m in (np.eye(4), worked.matrices[sequence]))
        row["errors"][sequence.value] = {
            "before": float(np.median(before)),
            "median": float(np.median(after)),
            "p95": float(np.percentile(after, 95)),
        }
    return row


def bias_field(patient: Patient) -> Row:
    """With and without a bias field, with and without N4."""
    row: Row = {"case": patient.name}
    spoilt, _ = shift(patient.subject, patient.truth, seed=11, kind=Kind.BIAS_FIELD)
    for name, subject in (("plain", patient.subject), ("field", spoilt)):
        row[name] = patient.dice(subject)
        began = time.process_time()
        corrected = {s: bias.correct(volume, patient.brain & (volume.data != 0)) for s, volume in subject.items()}
        row["cpu_s"] = (time.process_time() - began) / len(corrected)
        row[f"{name}_n4"] = patient.dice(Subject(patient.name, corrected))
    return row


def between(patient: Patient) -> Row:
    """All four in slices of 5 mm, in place: linear or cubic between the slices."""
    row: Row = {"case": patient.name, "as_it_is": patient.dice(patient.subject)}
    phase = patient.chance.uniform(0, SLICE_MM)
    thick = {s: scanned(v, np.eye(4), SLICE_MM, phase, True) for s, v in patient.subject.items()}
    grid = alignment.working_grid(thick, Sequence.T1CE)
    row["linear"] = patient.dice(Subject(patient.name, {s: alignment.onto(v, grid) for s, v in thick.items()}))
    cubic = {}
    for sequence, volume in thick.items():
        edge = alignment.onto(volume, grid).data != 0
        to_voxel = np.linalg.inv(volume.grid.affine) @ grid.affine
        # Beyond the brain's edge there is nothing to swing about: each line goes on with its nearest brain.
        where = ndimage.distance_transform_edt(volume.data == 0, volume.grid.spacing, False, True)
        whole = volume.data[tuple(where)]
        data = ndimage.affine_transform(whole, to_voxel[:3, :3], to_voxel[:3, 3], grid.shape, order=3, mode="nearest")
        cubic[sequence] = Volume(np.where(edge, np.maximum(data, 1e-3), 0).astype(np.float32), grid, sequence)
    row["cubic"] = patient.dice(Subject(patient.name, cubic))
    return row


def library(patient: Patient) -> Row:
    """FLAIR onto T1ce, in place of our own search by SimpleITK's: Mattes' information, gradient descent, 4 and 2 mm."""
    import SimpleITK

    still = patient.subject[Sequence.T1CE]
    middle = patient.truth.grid.to_world(np.argwhere(patient.brain)[::499]).mean(axis=0)
    lies = motion(patient.chance, middle)
    other = scanned(patient.subject[Sequence.FLAIR], lies, SLICE_MM, 0.0, True)
    row: Row = {"case": patient.name, "before": float(np.median(error_mm(patient, lies, np.eye(4))))}
    began = time.process_time()
    row["ours"] = float(np.median(error_mm(patient, lies, alignment.align(other, still).matrix)))
    row["ours_cpu_s"] = time.process_time() - began

    def image(volume: Volume) -> Any:
        # Axes as they lie, so that world is world; the library's own is another, which a rigid motion does not mind.
        made = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.data.transpose(2, 1, 0)))
        made.SetSpacing(volume.grid.spacing)
        made.SetOrigin(volume.grid.affine[:3, 3].tolist())
        made.SetDirection((volume.grid.affine[:3, :3] / np.array(volume.grid.spacing)).ravel().tolist())
        return made

    began = time.process_time()
    search = SimpleITK.ImageRegistrationMethod()
    search.SetNumberOfThreads(1)
    search.SetMetricAsMattesMutualInformation(32)
    search.SetMetricSamplingStrategy(search.RANDOM)
    search.SetMetricSamplingPercentagePerLevel([0.2, 0.05], 1)
    search.SetShrinkFactorsPerLevel([4, 2])
    search.SetSmoothingSigmasPerLevel([2, 1])
    search.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    search.SetInterpolator(SimpleITK.sitkLinear)
    search.SetOptimizerAsRegularStepGradientDescent(4.0, 0.01, 100, 0.7)
    search.SetOptimizerScalesFromPhysicalShift()
    start = SimpleITK.Euler3DTransform()
    start.SetCenter(middle.tolist())
    search.SetInitialTransform(start, inPlace=True)
    search.Execute(image(still), image(other))
    there = np.eye(4)
    there[:3, :3] = np.array(start.GetMatrix()).reshape(3, 3)
    centre = np.array(start.GetCenter())
    there[:3, 3] = centre - there[:3, :3] @ centre + np.array(start.GetTranslation())
    row["library_cpu_s"] = time.process_time() - began
    row["library"] = float(np.median(error_mm(patient, lies, np.linalg.inv(there))))
    return row


def measure(arguments: argparse.Namespace) -> None:
    """One line for each patient that has none yet, spread over the cohort."""
    card = registry.find(MODEL)
    network = open_network(card, "cpu")
    rows = arguments.rows / f"{arguments.what}.jsonl"
    done = {row["case"] for row in read_rows(rows)}
    names = sorted(path.name for path in arguments.cohort.iterdir() if path.is_dir())
    chosen = names[1 :: len(names) // arguments.patients][: arguments.patients]
    maps = sorted(arguments.anatomy.glob("label_map_*.nii.gz")) if arguments.what == "skull" else []
    skulls = [heads.read_head(path) for path in maps[3::9][:2]]
    ways: dict[str, Callable[[Patient], Row]] = {
        "moved": lambda patient: moved(patient, None, arguments.controls),
        "skull": lambda patient: moved(patient, skulls[zlib.crc32(patient.name.encode()) % len(skulls)], False),
        "bias": bias_field,
        "between": between,
        "library": library,
    }
    number, parts = (int(n) for n in arguments.part.split("/"))
    for name in chosen[number - 1 :: parts]:
        if name not in done:
            row = ways[arguments.what](Patient(arguments.cohort / name, network))
            with rows.open("a") as file:
                file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[Row]:
    """The patients measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(folder: Path) -> str:
    """The results as Markdown; patients are numbered, not named."""
    parts = [
        "# Alignment, thick slices and bias fields",
        "Generated by `python scripts/measure_alignment.py ROWS --table docs/results/alignment.md`; do not edit by "
        "hand.",
        f"Real patients of the cohort, evenly spread over it. Masks by the shipped model `{MODEL}`, which has learnt "
        "from these patients: look at differences, not at the height. Dice of the whole tumour in points against the "
        "expert's truth at 1 mm. Errors are distances in mm between where voxels of the brain lie and where they "
        "should; the cohort's own residual misregistration of some tenths of a mm counts against us. Times are "
        "processor seconds.",
    ]
    for what, title, text in (
        (
            "moved",
            "Sequences that were moved and thickened",
            f"T1ce stays as it is; T1, T2 and FLAIR are each shifted by up to {MOST_MM:.0f} mm, turned by up to "
            f"{MOST_DEG:.0f} degrees, and scanned in axial slices of 1 x 1 x {SLICE_MM:.0f} mm. After the whole "
            "pipeline; beside it the same thick slices without any motion, and with the motion left in. Pass marks: 1 "
            "mm in the median, and 2 points of Dice.",
        ),
        (
            "skull",
            "The same with a skull around the brain",
            "A simulated head of one of two label maps is put around the patient before he is moved and scanned; the "
            "pipeline aligns, finds the brain and strips. Pass marks: 1 mm in the median, and 3 points of Dice.",
        ),
    ):
        rows = read_rows(folder / f"{what}.jsonl")
        if rows:
            parts += [f"## {title}", text, _moved_table(rows)]
    rows = read_rows(folder / "bias.jsonl")
    if rows:
        parts += [
            "## Bias correction",
            _BIAS_TEXT,
            _plain_table(rows, ("plain", "plain_n4", "field", "field_n4", "cpu_s")),
        ]
    rows = read_rows(folder / "bias_fine.jsonl")
    if rows:
        parts += [_BIAS_FINE_TEXT, _plain_table(rows, ("plain", "plain_n4", "field", "field_n4", "cpu_s"))]
    rows = read_rows(folder / "between.jsonl")
    if rows:
        parts += ["## Between thick slices", _BETWEEN_TEXT, _plain_table(rows, ("as_it_is", "linear", "cubic"))]
    rows = read_rows(folder / "library.jsonl")
    if rows:
        columns = ("before", "ours", "ours_cpu_s", "library", "library_cpu_s")
        parts += ["## Beside SimpleITK's registration", _LIBRARY_TEXT, _plain_table(rows, columns, digits=2)]
    return "\n\n".join(parts) + "\n"


_BIAS_TEXT = (
    "All four sequences aligned at 1 mm, as they are (plain) and each with a field whose ends differ 1.2- to 1.7-fold "
    "(`trainer.shift`), without and with N4. Time is for one sequence."
)
_BIAS_FINE_TEXT = (
    "The same with the field that N4 is mostly used with, two levels of 25 rounds, control points some 80 and 40 mm "
    "apart; kept here because it is why the shipped one is smoother and off unless asked for. One patient's oedema is "
    "taken for a bright corner of the coil:"
)
_BETWEEN_TEXT = (
    f"All four sequences in the same axial slices of {SLICE_MM:.0f} mm, not moved, brought onto 1 mm linearly or by "
    "cubic splines."
)
_LIBRARY_TEXT = (
    "FLAIR in thick slices onto T1ce, from the headers. SimpleITK 2.5.7: Mattes' mutual information, regular step "
    "gradient descent at 4 and 2 mm, one thread. Median error in mm, processor seconds."
)


def _moved_table(rows: list[Row]) -> str:
    names = {
        "as_it_is": "as it is",
        "thick_in_place": "thick, in place",
        "not_aligned": "not aligned",
        "after": "after",
    }
    shown = {key: name for key, name in names.items() if any(key in row for row in rows)}
    lines = ["| patient | before mm | median mm | 95 % mm | " + " | ".join(shown.values()) + " | seconds |"]
    lines.append("|---|" + "---:|" * (len(shown) + 4))
    every = [error for row in rows for error in row["errors"].values()]
    for number, row in enumerate(rows, 1):
        errors = list(row["errors"].values())
        cells = [f"{np.mean([error['before'] for error in errors]):.1f}"]
        cells += [f"{np.mean([error[key] for error in errors]):.2f}" for key in ("median", "p95")]
        cells += [f"{row[key]:.1f}" if key in row else "" for key in shown] + [f"{row['cpu_s']:.1f}"]
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    means = [f"{np.mean([row[key] for row in rows]):.1f}" if all(key in row for row in rows) else "" for key in shown]
    before, median, p95 = (np.median([error[key] for error in every]) for key in ("before", "median", "p95"))
    worst = max(error["p95"] for error in every)
    lines.append(
        f"| **all {len(every)} pairs, {len(rows)} patients** | {before:.1f} | **{median:.2f}** | {p95:.2f} (worst "
        f"{worst:.2f}) | " + " | ".join(means) + f" | {np.mean([row['cpu_s'] for row in rows]):.1f} |"
    )
    change = np.array([row["after"] - row["as_it_is"] for row in rows])
    lines.append(f"\nAfter against as it is: {change.mean():+.1f} points in the mean, {change.min():+.1f} at worst.")
    return "\n".join(lines)


def _plain_table(rows: list[Row], columns: tuple[str, ...], digits: int = 1) -> str:
    lines = ["| patient | " + " | ".join(name.replace("_", " ") for name in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for number, row in enumerate(rows, 1):
        lines.append(f"| {number} | " + " | ".join(f"{row[name]:.{digits}f}" for name in columns) + " |")
    means = [f"{np.mean([row[name] for row in rows]):.{digits}f}" for name in columns]
    lines.append("| **mean** | " + " | ".join(means) + " |")
    return "\n".join(lines)


def main() -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("--cohort", type=Path)
    parser.add_argument("--anatomy", type=Path)
    parser.add_argument("--what", choices=("moved", "skull", "bias", "between", "library"))
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--part", default="1/1", help="1/3, 2/3, 3/3 for three processes that share the patients")
    parser.add_argument("--controls", action="store_true", help="with moved: thick slices in place, and not aligned")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    arguments.rows.mkdir(parents=True, exist_ok=True)
    if arguments.what is not None:
        measure(arguments)
    if arguments.table is not None:
        arguments.table.parent.mkdir(parents=True, exist_ok=True)
        arguments.table.write_text(table(arguments.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
