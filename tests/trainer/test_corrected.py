"""What the window adds to the user's own training set is what a training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import nifti
from engine.errors import UserError
from engine.sequences import find_subjects
from engine.volume import LabelMap, Sequence
from tests.engine import phantoms
from trainer import corrected
from trainer.dataset import CaseStore
from trainer.patients import Patients


def scans(folder: Path, *orientations: str) -> list[LabelMap]:
    masks = []
    for orientation in orientations:
        grid = phantoms.grid(orientation)
        place = folder / orientation / "patient"
        place.mkdir(parents=True)
        for sequence in (Sequence.T1, Sequence.FLAIR):
            nifti.write_volume(phantoms.head(grid, sequence), place / f"patient_{sequence}.nii.gz")
        masks.append(phantoms.tumour(grid))
    return masks


def test_a_training_reads_the_corrected_mask_in_its_own_labels(tmp_path: Path) -> None:
    (mask,) = scans(tmp_path, "PIL")
    (files,) = find_subjects([tmp_path / "PIL" / "patient"])
    patient = corrected.add(files, mask, 3, folder=tmp_path / "set")
    subject = patient.read()
    assert np.array_equal(patient.read_truth(subject).data, mask.data)
    case = CaseStore(corrected.manifest(tmp_path / "set"), 1.0, tmp_path / "prepared").load(patient.name)
    assert case.sequences == (Sequence.T1, Sequence.FLAIR)
    assert case.truth[0].astype(np.float64).sum() == pytest.approx(np.count_nonzero(mask.whole_tumour), rel=0.02)
    assert case.truth[1].astype(np.float64).sum() == pytest.approx(np.count_nonzero(mask.tumour_core), rel=0.02)


def test_another_patient_of_the_same_name_gets_his_own_place(tmp_path: Path) -> None:
    masks = scans(tmp_path, "RAS", "LPS")
    found = [find_subjects([tmp_path / orientation / "patient"])[0] for orientation in ("RAS", "LPS")]
    names = [
        corrected.add(files, mask, 1, folder=tmp_path / "set").name for files, mask in zip(found, masks, strict=True)
    ]
    assert len(set(names)) == 2
    assert corrected.add(found[1], masks[1], 2, folder=tmp_path / "set").name == names[1]
    patients = Patients.read(corrected.manifest(tmp_path / "set")).patients
    assert [patient.name for patient in patients] == sorted(names)
    truths = [nifti.read_label_map(patient.truth, patient.convention) for patient in patients]
    assert {truth.grid.orientation for truth in truths} == {"RAS", "LPS"}


def test_a_damaged_set_is_left_as_it_is(tmp_path: Path) -> None:
    (mask,) = scans(tmp_path, "RAS")
    (files,) = find_subjects([tmp_path / "RAS" / "patient"])
    path = corrected.manifest(tmp_path / "set")
    path.parent.mkdir()
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not a list of patients"):
        corrected.add(files, mask, 1, folder=tmp_path / "set")
    assert path.read_text(encoding="utf-8") == "{"
