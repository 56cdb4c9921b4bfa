"""Count the warnings that usual patients give, and the made-up unusual ones that give none.

    python -m scripts.measure_unusual --shared ../shared --simulated RUNS/simulated-test

Writes ``docs/results/unusual.md``. Masks of usual patients are the experts' own; unusual ones are made from simulated
patients. ``--every 4`` looks at every fourth real patient only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from engine import nifti, registry, unusual
from engine.inference import Segmentation
from engine.nifti import Convention
from engine.unusual import Kind
from engine.volume import Grid, LabelMap, Sequence, Subject, Volume
from trainer import oddities, recognition

_SIMULATED = 12
_MADE_FROM = 3
_MASKS = ("none", "rim", "both", "half")
_REAL = "real patients, stripped, experts' masks"
_MADE_UP = "simulated patients, their true masks"
_RAW = "raw scans with skull, as prepared by the app"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--simulated", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/unusual.md"))
    arguments = parser.parse_args()
    real = sorted(folder for folder in (arguments.shared / "cohort").iterdir() if folder.is_dir())[:: arguments.every]
    simulated = sorted(arguments.simulated.glob("simulated-*.npy"))[:_SIMULATED]
    raw = sorted((arguments.shared / "clinical").glob("raw_with_skull_*"))
    jobs = [
        *((_RAW, path) for path in raw),
        *((_REAL, path) for path in real),
        *((_MADE_UP, path) for path in simulated),
        *((kind, path) for path in simulated[:_MADE_FROM] for kind in (*oddities.MADE, *_MASKS)),
    ]
    found: dict[str, list[set[Kind]]] = {}
    with ProcessPoolExecutor(arguments.workers) as pool:
        for (what, path), kinds in zip(jobs, pool.map(_look, jobs), strict=True):
            found.setdefault(what, []).append(kinds)
            _say(f"{what}, {path.stem}: {', '.join(sorted(kinds)) or 'nothing'}")
    arguments.out.write_text(_table(found), encoding="utf-8")


def _look(job: tuple[str, Path]) -> set[Kind]:
    """The kinds of doubts about one patient."""
    what, path = job
    if what == _RAW:
        raw = {s: nifti.read(p, s) for s in Sequence if (p := path / f"{s.value}.nii.gz").exists()}
        said = unusual.look(raw, _prepared(path.name, raw))
    elif what in (_REAL, _MADE_UP):
        subject, labels = _patient(path) if what == _REAL else _simulated(path)
        said = unusual.look(subject, subject, _segmentation(labels))
    elif what in _MASKS:
        subject, _ = _simulated(path)
        said = unusual.look({}, subject, _segmentation(oddities.unlikely_mask(subject, what)))
    else:
        subject = oddities.MADE[Kind(what)](_simulated(path)[0])
        said = unusual.look(subject, subject)
    return {doubt.kind for doubt in said}


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stdout.flush()


def _patient(folder: Path) -> tuple[Subject, LabelMap]:
    volumes = {s: nifti.read(folder / f"{folder.name}_{s.value}.nii.gz", s) for s in Sequence}
    return Subject(folder.name, volumes), nifti.read_label_map(
        folder / f"{folder.name}_seg.nii.gz", Convention.BRATS_2012_2021
    )


def _simulated(path: Path) -> tuple[Subject, LabelMap]:
    arrays = np.load(path)
    images = recognition.simulated_brain(arrays).images
    grid = Grid(images.shape[1:], np.diag([2.0, 2.0, 2.0, 1.0]))
    subject = Subject(path.stem, {s: Volume(images[n], grid, s) for n, s in enumerate(Sequence)})
    return subject, LabelMap.of_regions(arrays[4] > 0.5, arrays[5] > 0.5, grid)


def _prepared(name: str, raw: dict[Sequence, Volume]) -> Subject:
    from engine import pipeline

    return pipeline.work(name, raw).subject


def _segmentation(labels: LabelMap) -> Segmentation:
    """As if a model had drawn the mask."""
    card = registry.list_models().models[0]
    return Segmentation(labels, {}, {}, card, (), "CPU", "fp32", 0.0)


def _table(found: dict[str, list[set[Kind]]]) -> str:
    lines = [
        "# What is unlike what the models know",
        "",
        "Made by `scripts/measure_unusual.py`. False alarms: patients that got the warning although nothing is unusual",
        "about them.",
        "",
        "| patients | " + " | ".join(Kind) + " |",
        "|---" * (len(Kind) + 1) + "|",
    ]
    for title in (_REAL, _MADE_UP, _RAW):
        alarms = Counter(kind for kinds in found.get(title, []) for kind in kinds)
        counts = " | ".join(str(alarms[kind]) for kind in Kind)
        lines.append(f"| {title} ({len(found.get(title, []))}) | {counts} |")
    lines += [
        "",
        "Made-up unusual cases (`trainer/oddities.py`), from simulated patients: how many were noticed.",
        "",
        "| made unusual | noticed |",
        "|---|---|",
    ]
    for what in (*oddities.MADE, *_MASKS):
        wanted = Kind(what) if what in set(Kind) else Kind.NO_TUMOUR if what == "none" else Kind.UNLIKELY_PLACE
        kinds = found.get(what, [])
        title = f"mask: {what}" if what in _MASKS else what
        lines.append(f"| {title} | {sum(wanted in one for one in kinds)} of {len(kinds)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
