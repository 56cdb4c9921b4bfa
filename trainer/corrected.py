"""The user's own training set: patients whose masks were corrected by hand in the window.

    patients.json   the manifest, see `trainer.patients`
    labels/         the corrected label maps, in Gliascope's own labels

The scans stay where they are; only the label maps are written here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from engine import nifti
from engine.nifti import Convention
from engine.sequences import SubjectFiles
from engine.volume import LabelMap, Sequence
from trainer.patients import MANIFEST, Patient, Patients

SOURCE = "corrected"


def home() -> Path:
    """The folder of the training set."""
    return platformdirs.user_data_path("Gliascope", appauthor=False) / "corrected"


def manifest(folder: Path | None = None) -> Path:
    """What to give as the patients of a training; not there before the first was added."""
    return (home() if folder is None else folder) / MANIFEST


def add(
    files: SubjectFiles,
    labels: LabelMap,
    corrections: int,
    volumes: Mapping[Sequence, int] | None = None,
    onto_first: bool = False,
    folder: Path | None = None,
) -> Patient:
    """Add a patient, or replace what was learnt from the same scans before.

    Args:
        files: The scans.
        labels: The corrected mask, on the grid of the images.
        corrections: How many changes were made by hand.
        volumes: Which volume of a file a sequence is, where it holds several.
        onto_first: Whether the scans lie on several grids and the user agreed to bring them onto one.
        folder: Of the training set; `home` when not given.

    Returns:
        The patient; another patient's name that is taken gets a number.

    Raises:
        CannotWrite: The system refused; the set is as it was.
        UserError: The manifest that is there cannot be read.
    """
    folder = home() if folder is None else folder
    path = manifest(folder)
    known = Patients.read(path) if path.exists() else Patients((), path)
    scans = {sequence: _place(file) for sequence, file in files.files.items()}
    taken = {patient.name: patient for patient in known.patients}
    name, number = files.name, 1
    while name in taken and not set(map(_place, taken[name].files.values())) & set(scans.values()):
        number += 1
        name = f"{files.name}-{number}"
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    truth = folder / "labels" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}_seg.nii.gz"
    nifti.write_label_map(labels, truth)
    changes = "change" if corrections == 1 else "changes"
    patient = Patient(
        name,
        scans,
        truth,
        convention=Convention.GLIASCOPE,
        source=SOURCE,
        onto_first=onto_first,
        volumes=dict(volumes or {}),
        decisions=(f"Its truth is a mask of Gliascope's, corrected by hand in {corrections} {changes}.",),
    )
    known.with_patient(patient).write(path)
    return patient


def _place(path: Path) -> Path:
    # Not resolved: a link is what the user chose, and what it points to may move.
    return Path(os.path.abspath(path))
