"""What several tests of trainings share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import nifti
from engine.volume import LabelMap, Sequence, Volume
from tests.engine import phantoms

PATIENTS = ("anna", "boris", "carla", "dora")


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantom patients with truth in BraTS labels."""
    folder = tmp_path_factory.mktemp("cohort")
    for number, name in enumerate(PATIENTS):
        grid = phantoms.grid(("RAS", "LPS", "PIL", "SRA")[number])
        (folder / name).mkdir()
        for sequence in Sequence:
            volume = phantoms.head(grid, sequence)
            noisy = volume.data + (volume.data != 0) * np.random.default_rng(number).normal(0, 3, grid.shape)
            path = folder / name / f"{name}_{sequence}.nii.gz"
            nifti.write_volume(Volume(noisy.astype(np.float32), grid, sequence), path)
        truth = phantoms.tumour(grid).data
        brats = np.where(truth == 1, 4, truth).astype(np.uint8)
        nifti.write_label_map(LabelMap(brats, grid), folder / name / f"{name}_seg.nii.gz")
    return folder
