"""Remake the demo patient in assets/demo from a label map of a head.

    python scripts/make_demo.py label_map_20.nii.gz

The label map comes from BBillot/SynthSeg (Apache-2.0), folder data/training_label_maps; which one, and the settings
below, are written in assets/demo/README.md. On one machine the same label map gives the same files.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import nibabel
import numpy as np

from engine.volume import Grid, LabelMap
from trainer.simulate import Scanner, SimulatedPatient, TumourOptions, simulate_patient

SEED = 3
TUMOUR = TumourOptions(
    core_radius_mm=17.0, oedema_reach_mm=13.0, enhancement=0.85, mass_effect=0.5, centre_mm=(31.0, -4.0, 20.0)
)
DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"


def make(label_map: Path) -> SimulatedPatient:
    """Simulate the demo patient from a label map's file."""
    image = nibabel.load(label_map)
    labels = LabelMap(np.asarray(image.dataobj).astype(np.uint8), Grid(image.shape, image.affine), label_map)
    return simulate_patient(labels, SEED, TUMOUR, Scanner(), name="demo")


def write(data: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a NIfTI file whose bytes depend on its contents alone."""
    image = nibabel.Nifti1Image(data, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), 9, mtime=0))


def main() -> None:
    """Write the five files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_map", type=Path, help="a whole-head label map of BBillot/SynthSeg")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder to write to (default: assets/demo)")
    arguments = parser.parse_args()
    patient = make(arguments.label_map)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for sequence, volume in patient.subject.items():
        rounded = np.maximum(np.rint(volume.data), volume.data > 0).astype(np.int16)
        write(rounded, volume.grid.affine, arguments.out / f"demo_{sequence.value}.nii.gz")
    write(patient.truth.data, patient.truth.grid.affine, arguments.out / "demo_seg.nii.gz")


if __name__ == "__main__":
    main()
