"""Count the warnings that usual patients give, and the made-up unusual ones that give none.

    python -m scripts.measure_unusual --shared ../shared --simulated RUNS/simulated-test

Writes ``docs/results/unusual.md``. Masks of usual patients are the experts' own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from engine import nifti, registry, unusual
from engine.inference import Segmentation
from engine.nifti import Convention
from engine.unusual import Figures, Kind
from engine.volume import Grid, LabelMap, Sequence, Subject, Volume
from trainer import oddities, recognition

_MADE_FROM = 4  # every tenth patient


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--simulated", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results/unusual.md"))
    parser.add_argument("--figures", type=Path, help="where to write every patient's figures, for choosing limits")
    arguments = parser.parse_args()
    record: dict[str, object] = {}
    folders = sorted(folder for folder in (arguments.shared / "cohort").iterdir() if folder.is_dir())
    usual: list[tuple[str, Counter[Kind], int]] = []

    alarms: Counter[Kind] = Counter()
    for folder in folders:
        subject, labels = _patient(folder)
        found = unusual.figures(dict(subject), subject, _segmentation(labels))
        _keep(record, f"usual/{folder.name}", found)
        alarms.update({doubt.kind for doubt in unusual.doubts(found)})
    usual.append(("real patients, stripped, experts' masks", alarms, len(folders)))

    if arguments.simulated is not None:
        alarms, count = Counter(), 0
        for path in sorted(arguments.simulated.glob("simulated-*.npy"))[:40]:
            subject, labels = _simulated(path)
            found = unusual.figures(dict(subject), subject, _segmentation(labels))
            _keep(record, f"simulated/{path.stem}", found)
            alarms.update({doubt.kind for doubt in unusual.doubts(found)})
            count += 1
        usual.append(("simulated patients, their true masks", alarms, count))

    alarms, count = Counter(), 0
    for folder in sorted((arguments.shared / "clinical").glob("raw_with_skull_*")):
        raw = {
            s: nifti.read(folder / f"{s.value}.nii.gz", s) for s in Sequence if (folder / f"{s.value}.nii.gz").exists()
        }
        subject = _prepared(folder.name, raw)
        found = unusual.figures(raw, subject)
        _keep(record, f"clinical/{folder.name}", found)
        alarms.update({doubt.kind for doubt in unusual.doubts(found)})
        count += 1
    usual.append(("raw scans with skull, as prepared by the app", alarms, count))

    noticed: Counter[str] = Counter()
    chosen = folders[:: max(1, len(folders) // _MADE_FROM)][:_MADE_FROM]
    for folder in chosen:
        subject, labels = _patient(folder)
        for kind, make in oddities.MADE.items():
            made = make(subject)
            found = unusual.figures(dict(made), made)
            _keep(record, f"{kind}/{folder.name}", found)
            noticed[kind] += kind in {doubt.kind for doubt in unusual.doubts(found)}
        for shape in ("none", "rim", "both", "half"):
            found = unusual.figures({}, subject, _segmentation(oddities.unlikely_mask(subject, shape)))
            _keep(record, f"mask {shape}/{folder.name}", found)
            kind = Kind.NO_TUMOUR if shape == "none" else Kind.UNLIKELY_PLACE
            noticed[f"mask: {shape}"] += kind in {doubt.kind for doubt in unusual.doubts(found)}
        _say(f"{folder.name}: {dict(noticed)}")
    arguments.out.write_text(_table(usual, noticed, len(chosen)), encoding="utf-8")
    if arguments.figures is not None:
        arguments.figures.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stdout.flush()


def _keep(record: dict[str, object], name: str, found: Figures) -> None:
    record[name] = asdict(found)
    _say(f"{name}: {', '.join(doubt.kind for doubt in unusual.doubts(found)) or 'nothing'}")


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


def _table(usual: list[tuple[str, Counter[Kind], int]], noticed: Counter[str], count: int) -> str:
    lines = [
        "# What is unlike what the models know",
        "",
        "Made by `scripts/measure_unusual.py`. False alarms: patients that got the warning although nothing is unusual",
        "about them.",
        "",
        "| patients | " + " | ".join(Kind) + " |",
        "|---" * (len(Kind) + 1) + "|",
    ]
    for title, alarms, patients in usual:
        lines.append(f"| {title} ({patients}) | " + " | ".join(str(alarms[kind]) for kind in Kind) + " |")
    lines += [
        "",
        f"Made-up unusual cases (`trainer/oddities.py`), each from {count} real patients: how many were noticed.",
        "",
        "| made unusual | noticed |",
        "|---|---|",
        *(f"| {name} | {number} of {count} |" for name, number in noticed.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
