"""How well the brain is found: docs/results/brain.md.

    python -m scripts.measure_brain SHARED --made FOLDER --simulated 4 --patients 8 [--deepbet PYTHON]

On patients simulated in heads that the network has not learnt from (`trainer.simulate` in `trainer.heads`), and on
real patients it has not learnt from put into those heads, the brain is known: Dice, how far the surfaces lie apart, and
above all how much of the tumour is lost. On scans with their own skull nobody knows it, so masks are compared with
those of deepbet, which learnt from other people's T1 images. ``--deepbet`` names the Python of an environment with
deepbet 1.0.2, which runs in a process of its own on one thread.

With ``--rows`` what was measured is kept, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine import brain, nifti
from engine.files import whole_file
from engine.metrics import dice, hd95_mm
from engine.progress import Progress
from engine.volume import Grid, LabelMap, Mask, Sequence, Volume, joined
from trainer import heads, skull
from trainer.simulate import prepare_anatomy, simulate_patient

ROOT = Path(__file__).resolve().parent.parent
HELD_OUT_HEADS = 4
AIM = 0.95
SPACING_MM = 2.0  # of the pictures that are made; finer ones take ten times as long
_OPENED: set[tuple[int, ...]] = set()
_DEEPBET = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(1)
from deepbet import BrainExtraction
finder = BrainExtraction(no_gpu=True)
started = time.process_time()
finder.run(sys.argv[1], mask_path=sys.argv[2])
print(time.process_time() - started)
"""


@dataclass(frozen=True)
class Row:
    """One mask.

    Attributes:
        kind: ``"simulated"``, ``"patient"`` or ``"clinical"``.
        name: Whose, without a name that means anything elsewhere.
        sequences: Looked at together.
        method: ``"gliascope"`` or ``"deepbet"``.
        dice: With the truth; for clinical scans with the other method.
        hd95_mm: Likewise.
        brain_ml: Of the mask.
        brain_lost_ml: Brain outside the mask; ``None`` where nobody knows the brain.
        tumour_lost_ml: Tumour outside the mask.
        tumour_ml: All of it.
        seconds: Of processor time, after opening the network.
        stripped: Whether `brain.is_stripped` says so of the image.
    """

    kind: str
    name: str
    sequences: str
    method: str
    dice: float
    hd95_mm: float
    brain_ml: float
    brain_lost_ml: float | None
    tumour_lost_ml: float | None
    tumour_ml: float | None
    seconds: float
    stripped: bool


def main(words: list[str] | None = None) -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--simulated", type=int, default=4)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--deepbet", type=Path)
    parser.add_argument("--clinical", type=Path, nargs="*", default=[], help="further scans with their skull on")
    parser.add_argument("--made", type=Path, required=True, help="where pictures are kept that take long to make")
    parser.add_argument("--make", action="store_true", help="make the pictures and measure nothing yet")
    parser.add_argument("--rows", type=Path, default=Path("brain_rows.jsonl"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "brain.md")
    arguments = parser.parse_args(words)
    rows = (
        [Row(**json.loads(line)) for line in arguments.rows.read_text().splitlines()] if arguments.rows.exists() else []
    )
    known = {(row.kind, row.name) for row in rows}
    for row in _measured(arguments, known):
        rows.append(row)
        with arguments.rows.open("a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")
        arguments.out.write_text(page(rows), encoding="utf-8")


def _measured(arguments: argparse.Namespace, known: set[tuple[str, str]]) -> Iterator[Row]:
    maps = sorted((arguments.shared / "anatomy").glob("label_map_*.nii.gz"))[-HELD_OUT_HEADS:]
    clinical = sorted((arguments.shared / "clinical").glob("raw_*/*.nii.gz")) + arguments.clinical
    if arguments.make:
        clinical = []
    for number, path in enumerate(clinical):
        name = f"scan {number + 1}"
        if ("clinical", name) not in known:
            yield from _clinical(name, path, arguments.deepbet, arguments.made)
    cases = sorted(path for path in (arguments.shared / "cohort").iterdir() if path.is_dir())
    cases = [case for number, case in enumerate(cases) if skull.held_out(number)][
        :: max(1, 24 // max(1, arguments.patients))
    ]
    for kind, count in (("patient", min(arguments.patients, len(cases))), ("simulated", arguments.simulated)):
        for number, path in enumerate(maps):
            head: heads.WholeHead | None = None
            for case in range(number, count, HELD_OUT_HEADS):
                name = f"{kind} {case + 1}"
                if (kind, name) in known:
                    continue
                stored = arguments.made / f"{name.replace(' ', '-')}.npz"
                if not stored.exists():
                    head = head or heads.read_head(path)
                    _make(kind, case, cases[case] if kind == "patient" else path, head, stored)
                if not arguments.make:
                    yield from _in_a_head(kind, name, stored, arguments.deepbet)


def _make(kind: str, case: int, source: Path, head: heads.WholeHead, stored: Path) -> None:
    """Put a patient into a head and keep the pictures, with what is known of brain and tumour."""
    if kind == "simulated":
        made = simulate_patient(prepare_anatomy(nifti.read_labels(source)[0]), 9000 + case, spacing_mm=SPACING_MM)
        subject, truth = made.subject, made.truth
    else:
        subject = skull.halved(skull.read_case(source))
        whole_tumour = nifti.read_label_map(source / f"{source.name}_seg.nii.gz").whole_tumour
        i, j, k = subject.grid.shape
        share = whole_tumour[: 2 * i, : 2 * j, : 2 * k].reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5))
        truth = LabelMap((share >= 0.5).astype(np.uint8), subject.grid)
    whole = heads.around(subject, head, np.random.default_rng([17, case]), air=case % 2 == 0)
    there = heads.put(LabelMap(heads.brain_of(subject).astype(np.uint8), subject.grid), whole.grid).data > 0
    tumour = heads.put(truth, whole.grid).whole_tumour & there
    stored.parent.mkdir(parents=True, exist_ok=True)
    pictures = {str(sequence): volume.data for sequence, volume in whole.items()}
    with whole_file(stored) as partial, partial.open("wb") as stream:
        np.savez(stream, affine=whole.grid.affine, brain=there, tumour=tumour, **pictures)


def _in_a_head(kind: str, name: str, stored: Path, deepbet: Path | None) -> Iterator[Row]:
    """Each sequence by itself, all together, and deepbet on T1."""
    with np.load(stored) as made:
        brain_there, tumour = made["brain"], made["tumour"]
        grid = Grid(brain_there.shape, made["affine"])
        whole = {sequence: Volume(made[str(sequence)], grid, sequence) for sequence in Sequence}
    for volumes in [*((volume,) for volume in whole.values()), tuple(whole.values())]:
        mask, seconds = _ours(volumes)
        yield _row(kind, name, volumes, "gliascope", mask, seconds, brain_there, tumour, grid)
    if deepbet is not None:
        mask, seconds = _theirs(whole[Sequence.T1], deepbet, stored.parent)
        yield _row(kind, name, (whole[Sequence.T1],), "deepbet", mask, seconds, brain_there, tumour, grid)


def _row(
    kind: str,
    name: str,
    volumes: tuple[Volume, ...],
    method: str,
    mask: Mask,
    seconds: float,
    brain_there: Mask,
    tumour: Mask,
    grid: Grid,
) -> Row:
    ml = grid.voxel_ml
    return Row(
        kind,
        name,
        joined(volume.sequence for volume in volumes if volume.sequence is not None),
        method,
        dice(mask, brain_there),
        hd95_mm(mask, brain_there, grid.spacing),
        float(mask.sum() * ml),
        float((brain_there & ~mask).sum() * ml),
        float((tumour & ~mask).sum() * ml),
        float(tumour.sum() * ml),
        seconds,
        brain.is_stripped(volumes[0]),
    )


def _clinical(name: str, path: Path, deepbet: Path | None, kept: Path) -> Iterator[Row]:
    volume = nifti.read(path)
    label = path.name.split(".")[0].lower()
    masks = {"gliascope": _ours((volume,))}
    if deepbet is not None:
        masks["deepbet"] = _theirs(volume, deepbet, kept)
    for method, (mask, seconds) in masks.items():
        other = next((found for known, (found, _) in masks.items() if known != method), mask)
        yield Row(
            "clinical",
            name,
            label,
            method,
            dice(mask, other),
            hd95_mm(mask, other, volume.grid.spacing),
            float(mask.sum() * volume.grid.voxel_ml),
            None,
            None,
            None,
            seconds,
            brain.is_stripped(volume),
        )


def _ours(volumes: tuple[Volume, ...]) -> tuple[Mask, float]:
    if volumes[0].grid.shape not in _OPENED:
        _OPENED.add(volumes[0].grid.shape)
        brain.find_brain(volumes[:1], Progress())  # opens the network for this size
    started = time.process_time()
    mask = brain.find_brain(volumes, Progress())
    return mask, time.process_time() - started


def _theirs(volume: Volume, python: Path, kept: Path) -> tuple[Mask, float]:
    """What deepbet says, and its seconds; what it said once is kept."""
    target = kept / f"deepbet-{hashlib.sha256(volume.data.tobytes()).hexdigest()[:16]}.npz"
    if not target.exists():
        mask, seconds = _asked(volume, python)
        kept.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target, mask=mask, seconds=seconds)
    with np.load(target) as said:
        return said["mask"], float(said["seconds"])


def _asked(volume: Volume, python: Path) -> tuple[Mask, float]:
    with tempfile.TemporaryDirectory() as folder:
        image, target = Path(folder) / "image.nii.gz", Path(folder) / "mask.nii.gz"
        nifti.write_volume(volume, image)
        done = subprocess.run(
            [str(python), "-c", _DEEPBET, str(image), str(target)], capture_output=True, text=True, check=True
        )
        return nifti.read(target).data > 0.5, float(done.stdout.split()[-1])


# --- the page ---------------------------------------------------------------------------------------------------------


def page(rows: list[Row]) -> str:
    """docs/results/brain.md."""
    card = json.loads((brain.MODEL / brain.CARD).read_text(encoding="utf-8"))
    learnt = card["training"]
    lines = [
        "# How well the brain is found",
        "",
        "Generated by `python -m scripts.measure_brain`; do not edit by hand.",
        "",
        f"The network learnt from {learnt['heads']} whole-head label maps in random contrasts and from "
        f"{learnt['patients']} real patients put into simulated heads, in {learnt['steps']} steps of one example. What "
        f"is measured here, {HELD_OUT_HEADS} other heads and other patients, it has not seen. Masks end "
        f"{brain.OUTWARD_MM:g} mm outside the surface that it tells, so that what is at the rim stays.",
        "",
        "deepbet 1.0.2 (made for T1) was run beside it. HD-BET was not: its package holds no weights and fetches them "
        "when it is first used.",
        "",
    ]
    for kind, title, text in (
        (
            "simulated",
            "Simulated patients in heads that were not learnt from",
            f"Tumour, brain and head are simulated, in voxels of {SPACING_MM:g} mm.",
        ),
        (
            "patient",
            "Real patients that were not learnt from, in such heads",
            f"The brain is what their collection left of it, holes filled; the tumour is the expert's. In voxels of "
            f"{SPACING_MM:g} mm.",
        ),
    ):
        found = [row for row in rows if row.kind == kind]
        lines += [f"## {title}", "", text, "", *_table(found), "", *_short_of_the_aim(found), ""]
    clinical = [row for row in rows if row.kind == "clinical"]
    lines += [
        "## Scans with their own skull",
        "",
        "Thick slices, multiple sclerosis and a tumour; nobody has drawn the brain. Dice and surface distance are "
        "between the two methods.",
        "",
        "| scan | looked at | ours ml | deepbet ml | Dice | HD95 mm | taken for stripped | ours s | deepbet s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in clinical:
        if row.method != "gliascope":
            continue
        other = next((r for r in clinical if r.name == row.name and r.method == "deepbet"), None)
        theirs = ("-", "-", "-", "-") if other is None else (
            f"{other.brain_ml:.0f}", f"{row.dice:.3f}", f"{row.hd95_mm:.1f}", f"{other.seconds:.1f}"
        )  # fmt: skip
        lines.append(
            f"| {row.name} | {row.sequences} | {row.brain_ml:.0f} | {theirs[0]} | {theirs[1]} | {theirs[2]} | "
            f"{'yes' if row.stripped else 'no'} | {row.seconds:.1f} | {theirs[3]} |"
        )
    return "\n".join(lines) + "\n"


def _short_of_the_aim(rows: list[Row]) -> list[str]:
    """What did not reach a mean Dice of 0.95, in a sentence."""
    ours: dict[str, list[float]] = {}
    for row in rows:
        if row.method == "gliascope":
            ours.setdefault(row.sequences, []).append(row.dice)
    short = [f"{name} ({np.mean(dice):.3f})" for name, dice in ours.items() if np.mean(dice) < AIM]
    return [f"Short of the aim of {AIM}: {', '.join(short) or 'none'}."]


def _table(rows: list[Row]) -> list[str]:
    lines = [
        "| looked at | method | images | Dice (lowest) | HD95 mm | brain lost ml | tumour lost ml (most) | of ml "
        "| with tumour lost | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.sequences), []).append(row)
    for (method, sequences), found in groups.items():
        lost = [row.tumour_lost_ml or 0.0 for row in found]
        lines.append(
            f"| {sequences} | {method} | {len(found)} | {np.mean([r.dice for r in found]):.3f} "
            f"({min(r.dice for r in found):.3f}) | {np.mean([r.hd95_mm for r in found]):.1f} | "
            f"{np.mean([r.brain_lost_ml or 0 for r in found]):.1f} | {np.mean(lost):.2f} ({max(lost):.2f}) | "
            f"{np.mean([r.tumour_ml or 0 for r in found]):.1f} | {sum(ml > 0.05 for ml in lost)} | "
            f"{np.mean([r.seconds for r in found]):.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
