"""Simulate patients for training: many tumours in the heads of a folder of label maps.

    python -m scripts.simulate_cohort LABEL_MAPS --heads 1-15 --count 300 --out RUNS/simulated
    python -m scripts.simulate_cohort LABEL_MAPS --heads 16-20 --first 10000 --count 200 --out RUNS/simulated-test

Patient n lies in head n modulo the number of heads, bent at random, with a tumour and a scanner drawn from seed n.
``--heads`` keeps heads that are for testing, and that of the demo case (20), out of training. What is there already is
not made again; ``--part 0/2`` and ``--part 1/2`` share the work between two processes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine import nifti
from engine.volume import LabelMap
from trainer.dataset import save_simulated
from trainer.simulate import Anatomy, prepare_anatomy, simulate_patient


def main() -> None:
    """Simulate what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("label_maps", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heads", default="", help="first and last label map by name, such as 1-15; all if left out")
    parser.add_argument("--first", type=int, default=0, help="number of the first patient")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--spacing-mm", type=float, default=2.0)
    parser.add_argument("--variation-mm", type=float, default=3.0)
    parser.add_argument("--part", default="0/1")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    maps = sorted(arguments.label_maps.glob("*.nii.gz"))
    if arguments.heads:
        lowest, highest = map(int, arguments.heads.split("-"))
        maps = maps[lowest - 1 : highest]
    for place, path in enumerate(maps):
        if place % parts != part:
            continue
        anatomy: Anatomy | None = None
        start = arguments.first + (place - arguments.first) % len(maps)
        for number in range(start, arguments.first + arguments.count, len(maps)):
            name = f"simulated-{number:05d}"
            if (arguments.out / f"{name}.npy").exists():
                continue
            if anatomy is None:
                volume = nifti.read(path)
                anatomy = prepare_anatomy(LabelMap(volume.data.round().astype("uint8"), volume.grid))
            try:
                patient = simulate_patient(
                    anatomy, number, spacing_mm=arguments.spacing_mm, variation_mm=arguments.variation_mm, name=name
                )
            except ValueError as error:  # no room in this head for the tumour that was drawn
                sys.stderr.write(f"{name}: {error}\n")
                continue
            save_simulated(patient, arguments.spacing_mm, arguments.out)


if __name__ == "__main__":
    main()
