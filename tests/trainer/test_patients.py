"""Cohorts in every layout become the same list of patients, and training reads what the list says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import sequences
from engine.errors import GridMismatch, UnreadableImage, UserError
from engine.nifti import Convention
from engine.volume import Sequence
from tests.engine import phantoms
from trainer.dataset import CaseStore
from trainer.patients import Patient, Patients

T1, T1CE, T2, FLAIR = Sequence


def brats(folder: Path, *names: str) -> Path:
    for name in names:
        phantoms.write_subject(folder / name, truth=True)
    return folder


def test_a_folder_of_brats_becomes_patients(tmp_path: Path) -> None:
    patients = Patients.read(brats(tmp_path / "cohort", "boris", "anna"))
    assert [patient.name for patient in patients] == ["anna", "boris"]
    anna = patients.named("anna")
    assert anna.files[T1CE] == tmp_path / "cohort" / "anna" / "anna_t1ce.nii.gz"
    assert anna.truth == tmp_path / "cohort" / "anna" / "anna_seg.nii.gz"
    assert anna.sequences == tuple(Sequence)
    assert (anna.included, anna.convention, anna.volumes, anna.decisions) == (True, None, {}, ())
    with pytest.raises(UserError, match="There is no patient zora in cohort"):
        patients.named("zora")


@pytest.mark.parametrize(
    ("folders", "sources"),
    [
        (("Brats18_CBICA_AAB_1", "Brats18_2013_11_1", "Brats18_TCIA01_201_1"),
         {"Brats18_CBICA", "Brats18_2013", "Brats18_TCIA01"}),
        (("BraTS2021_00006", "BraTS2021_00410"), {"BraTS2021"}),
        (("BraTS-GLI-00005-000", "BraTS-GLI-00006-101"), {"BraTS-GLI"}),
        (("site A/anna", "site B/boris"), {"site A", "site B"}),
        (("UCSF-PDGM-0004_nifti", "UCSF-PDGM-0005_nifti"), {"UCSF-PDGM"}),
        (("anna", "raw_with_skull_b", "sub-01"), {""}),
    ],
)  # fmt: skip
def test_where_patients_come_from_is_told_from_folders_and_names(
    tmp_path: Path, folders: tuple[str, ...], sources: set[str]
) -> None:
    brats(tmp_path, *folders)
    assert {patient.source for patient in Patients.read(tmp_path)} == sources


def test_a_flat_folder_holds_several_patients(tmp_path: Path) -> None:
    brats(tmp_path, "anna", "boris")
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in tmp_path.glob("*/*.nii.gz"):
        file.rename(flat / file.name)
    patients = Patients.read(flat)
    assert [patient.name for patient in patients] == ["anna", "boris"]
    assert patients.named("boris").truth == flat / "boris_seg.nii.gz"


def test_truths_of_bids_lie_among_the_derivatives(tmp_path: Path) -> None:
    for name in ("sub-01", "sub-02"):
        anatomy = tmp_path / name / "anat"
        phantoms.write_subject(tmp_path / "raw", truth=True)
        anatomy.mkdir(parents=True)
        (tmp_path / "raw" / "raw_t1.nii.gz").rename(anatomy / f"{name}_T1w.nii.gz")
        (tmp_path / "raw" / "raw_t1ce.nii.gz").rename(anatomy / f"{name}_ce-gadolinium_T1w.nii.gz")
        drawn = tmp_path / "derivatives" / "manual" / name / "anat"
        drawn.mkdir(parents=True)
        shutil.copy(anatomy / f"{name}_T1w.nii.gz", drawn / f"{name}_desc-preproc_T1w.nii.gz")
        shutil.copy(tmp_path / "raw" / "raw_seg.nii.gz", drawn / f"{name}_desc-brain_mask.nii.gz")
        (tmp_path / "raw" / "raw_seg.nii.gz").rename(drawn / f"{name}_label-tumor_dseg.nii.gz")
        shutil.rmtree(tmp_path / "raw")
    patients = Patients.read(tmp_path)
    assert [(patient.name, patient.sequences) for patient in patients] == [
        ("sub-01", (T1, T1CE)),
        ("sub-02", (T1, T1CE)),
    ]
    for patient in patients:
        assert patient.truth is not None
        assert patient.truth.name == f"{patient.name}_label-tumor_dseg.nii.gz"
        assert patient.truth.is_relative_to(tmp_path / "derivatives" / "manual" / patient.name)


def test_two_masks_of_one_patient_are_asked_about_not_chosen_from(tmp_path: Path) -> None:
    brats(tmp_path, "sub-01")
    (tmp_path / "sub-01" / "sub-01_seg.nii.gz").unlink()
    for reader in ("one", "two"):
        folder = tmp_path / "derivatives" / reader
        phantoms.write(folder / f"sub-01_{reader}_dseg.nii.gz", np.ones((4, 4, 4), np.uint8), np.eye(4))
    patients = Patients.read(tmp_path)
    assert patients.named("sub-01").truth is None
    assert len(patients.problems) == 1
    assert "Which mask of sub-01 is the ground truth is not clear" in patients.problems[0]


def decathlon(folder: Path, *names: str) -> Path:
    """The layout of Task01_BrainTumour: FLAIR, T1w, t1gd and T2w in one file."""
    (folder / "imagesTr").mkdir(parents=True)
    channels = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    described = {"modality": channels, "labels": {"0": "background", "1": "edema"}}
    (folder / "dataset.json").write_text(json.dumps(described))
    on = phantoms.grid("LPS")
    stack = np.stack([np.rint(phantoms.head(on, sequence).data) for sequence in (FLAIR, T1, T1CE, T2)], axis=-1)
    labels = np.choose(phantoms.tumour(on).data, (0, 3, 1)).astype(np.uint8)
    for name in names:
        phantoms.write(folder / "imagesTr" / f"{name}.nii.gz", stack, np.array(on.affine), dtype="<f4")
        phantoms.write(folder / "labelsTr" / f"{name}.nii.gz", labels, np.array(on.affine))
    phantoms.write(folder / "imagesTs" / "BRATS_900.nii.gz", stack, np.array(on.affine), dtype="<f4")
    return folder


@pytest.mark.parametrize("opened", ["", "imagesTr"])
def test_stacks_of_the_decathlon_are_read_by_what_its_dataset_json_says(tmp_path: Path, opened: str) -> None:
    folder = decathlon(tmp_path / "Task01_BrainTumour", "BRATS_001", "BRATS_002")
    patients = Patients.read(folder / opened)
    assert [patient.name for patient in patients] == ["BRATS_001", "BRATS_002"]
    first = patients.named("BRATS_001")
    assert first.volumes == {T1: 1, T1CE: 2, T2: 3, FLAIR: 0}
    assert first.truth == folder / "labelsTr" / "BRATS_001.nii.gz"
    subject = first.read()
    expected = phantoms.subject(phantoms.grid("LPS"))
    for sequence in Sequence:
        assert np.array_equal(subject[sequence].data, np.rint(expected[sequence].data)), sequence
    truth = first.read_truth(subject)
    assert np.array_equal(truth.data, phantoms.tumour(subject.grid).data)
    if not opened:
        assert patients.problems == ("imagesTs was left out (its patients have no ground truth).",)
    assert [files.name for files in sequences.with_truth([folder / opened])] == ["BRATS_001", "BRATS_002"]
    patients.write(tmp_path / "patients.json")
    assert Patients.read(tmp_path / "patients.json").patients == patients.patients


def test_truths_of_nnunet_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    brats(tmp_path / "raw", "anna", "boris")
    folder = tmp_path / "Dataset001"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T2w", "1": "FLAIR"}}))
    for name in ("anna", "boris"):
        for number, sequence in enumerate((T2, FLAIR)):
            shutil.copy(
                tmp_path / "raw" / name / f"{name}_{sequence}.nii.gz",
                folder / "imagesTr" / f"{name}_{number:04d}.nii.gz",
            )
        shutil.copy(tmp_path / "raw" / name / f"{name}_seg.nii.gz", folder / "labelsTr" / f"{name}.nii.gz")
    patients = Patients.read(folder)
    assert [(patient.name, patient.sequences) for patient in patients] == [
        ("anna", (T2, FLAIR)),
        ("boris", (T2, FLAIR)),
    ]
    assert patients.named("boris").truth == folder / "labelsTr" / "boris.nii.gz"
    # What is measured on a cohort sees the same patients.
    assert [files.segmentation for files in sequences.with_truth([folder])] == [patient.truth for patient in patients]


def test_what_is_wrong_with_one_patient_does_not_hide_the_others(tmp_path: Path) -> None:
    brats(tmp_path, "anna", "boris")
    shutil.copy(tmp_path / "anna" / "anna_t1.nii.gz", tmp_path / "anna" / "anna_t1n.nii.gz")
    patients = Patients.read(tmp_path)
    assert patients.named("anna").sequences == (T1CE, T2, FLAIR)
    assert len(patients) == 2
    assert "both claim to be T1" in patients.problems[0]


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [",", ";"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "as Excel saves it"])
def test_a_table_names_files_where_they_lie(tmp_path: Path, between: str, mark: str) -> None:
    brats(tmp_path / "scans", "anna", "boris")
    lines = [
        ("Patient", "T1", "FLAIR", "label", "source"),
        ("A 1", "scans/anna/anna_t1.nii.gz", "scans/anna/anna_flair.nii.gz", "scans/anna/anna_seg.nii.gz", "Basel"),
        ("B 2", str(tmp_path / "scans/boris/boris_t1.nii.gz"), "", "", ""),
        ("", "", "", "", ""),
    ]
    table = tmp_path / "cohort.csv"
    table.write_text(mark + "\r\n".join(between.join(line) for line in lines), encoding="utf-8", newline="")
    first, second = Patients.read(table)
    assert (first.name, first.sequences, first.source) == ("A 1", (T1, FLAIR), "Basel")
    assert first.read_truth(first.read()).data.any()
    assert (second.name, second.sequences, second.truth) == ("B 2", (T1,), None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no column patient"),
        ("name,age\nanna,50\n", "names none of the sequences"),
        ("t1,flair\na.nii,b.nii\n", "names no column patient"),
        ("patient,t1\nanna,a.nii\nanna,b.nii\n", "names anna twice (again in line 3)"),
        ("patient,t1\n,a.nii\n", "Line 2 of cohort.csv names no patient"),
        ("patient,t1\nanna,\n", "names no scan of anna (line 2)"),
        ("patient,t1\n", "cohort.csv names no patient"),
    ],
)
def test_a_table_that_makes_no_sense_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "cohort.csv").write_text(text)
    with pytest.raises(UserError) as told:
        Patients.read(tmp_path / "cohort.csv")
    assert sentence in str(told.value)


def test_a_table_in_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_bytes("patient,t1\nMüller,a.nii\n".encode("utf-16"))
    with pytest.raises(UserError, match="is not text in UTF-8"):
        Patients.read(tmp_path / "cohort.csv")
    with pytest.raises(UserError, match="cannot be read"):
        Patients.read(tmp_path / "nowhere.csv")


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_decisions_survive_in_the_manifest_and_a_moved_cohort_takes_one_line(tmp_path: Path) -> None:
    patients = Patients.read(brats(tmp_path / "cohort", "anna", "boris"))
    decided = replace(
        patients.named("boris"),
        convention=Convention.BRATS_2023,
        included=False,
        onto_first=True,
        source="Zürich",
        decisions=("Left out.",),
    )
    changed = patients.with_patient(decided)
    manifest = tmp_path / "training" / "patients.json"
    changed.write(manifest)
    assert Patients.read(manifest).patients == changed.patients
    (tmp_path / "cohort").rename(tmp_path / "elsewhere")
    fields = json.loads(manifest.read_text(encoding="utf-8"))
    fields["folder"] = "../elsewhere"
    manifest.write_text(json.dumps(fields), encoding="utf-8")
    moved = Patients.read(manifest).named("boris")
    assert replace(moved, files=decided.files, truth=decided.truth) == decided
    assert all(path.exists() for path in moved.files.values())


def test_a_manifest_beside_the_scans_moves_with_them(tmp_path: Path) -> None:
    cohort = brats(tmp_path / "cohort", "anna", "boris")
    Patients.read(cohort).write(cohort / "patients.json")
    cohort.rename(tmp_path / "moved")
    anna = Patients.read(tmp_path / "moved" / "patients.json").named("anna")
    assert anna.files[T1].is_file()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "no JSON at line 1, column 2"),
        ("[]", "is not a list of patients"),
        ('{"format": 2, "patients": []}', "comes from a newer Gliascope"),
        ('{"format": 1}', "'patients' is missing"),
        ('{"patients": []}', "names no patient"),
        ('{"patients": [{"name": "a", "files": {"t9": "x"}}]}', "'t9' is not a valid Sequence"),
        ('{"patients": [{"name": "a", "files": {}}, {"name": "a", "files": {}}]}', "two patients are called a"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "patients.json").write_text(text)
    with pytest.raises(UserError) as told:
        Patients.read(tmp_path / "patients.json")
    assert sentence in str(told.value)


def test_a_place_that_holds_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="holds no NIfTI image"):
        Patients.read(tmp_path)
    with pytest.raises(UnreadableImage, match="is not there"):
        Patients.read(tmp_path / "nowhere")
    phantoms.write_subject(tmp_path / "anna", sequences=(T1,))
    with pytest.raises(UnreadableImage, match="is not a folder"):
        Patients.read(tmp_path / "anna" / "anna_t1.nii.gz")


# --- what training reads ----------------------------------------------------------------------------------------------


def test_those_who_have_what_a_network_needs(tmp_path: Path) -> None:
    brats(tmp_path, "anna", "boris", "carla", "dora")
    (tmp_path / "boris" / "boris_t1ce.nii.gz").unlink()
    (tmp_path / "carla" / "carla_seg.nii.gz").unlink()
    patients = Patients.read(tmp_path)
    patients = patients.with_patient(replace(patients.named("dora"), included=False))
    assert [patient.name for patient in patients.having(Sequence)] == ["anna"]
    assert [patient.name for patient in patients.having((T1,))] == ["anna", "boris"]


def test_training_cases_follow_the_manifest(tmp_path: Path) -> None:
    """A patient's missing sequences, labels, exchanged names and grids are as the list says; a change is noticed."""
    brats(tmp_path / "cohort", "anna", "boris", "carla")
    (tmp_path / "cohort" / "anna" / "anna_t1ce.nii.gz").unlink()
    patients = Patients.read(tmp_path / "cohort")
    manifest = tmp_path / "patients.json"
    patients.with_patient(replace(patients.named("carla"), included=False)).write(manifest)
    store = CaseStore(manifest, 1.0, tmp_path / "prepared")
    assert store.names() == ["anna", "boris"]
    assert store.load("anna").sequences == (T1, T2, FLAIR)
    with pytest.raises(UserError, match="anna has no T1ce"):
        store.load("anna").channels((T1CE,))
    with pytest.raises(UserError, match="carla was left out"):
        store.load("carla")
    with pytest.raises(UserError, match="no patient zora"):
        store.load("zora")
    before = store.load("boris")
    boris = patients.named("boris")
    exchanged = replace(boris, files={**boris.files, T1: boris.files[T2], T2: boris.files[T1]})
    patients.with_patient(exchanged).write(manifest)
    after = CaseStore(manifest, 1.0, tmp_path / "prepared").load("boris")
    assert np.array_equal(after.images[0], before.images[2])
    assert np.array_equal(after.images[2], before.images[0])
    patients.with_patient(replace(boris, convention=Convention.BRATS_2024)).write(manifest)
    assert not np.array_equal(CaseStore(manifest, 1.0, tmp_path / "prepared").load("boris").truth, before.truth)


def test_images_and_truth_on_other_grids_are_brought_together_only_where_that_was_decided(tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "anna", truth=True)
    thick = phantoms.grid("LPS", (24, 28, 10), (1.0, 1.0, 2.0))
    phantoms.write_volume(tmp_path / "anna" / "anna_t2.nii.gz", phantoms.head(thick, T2))
    wide = phantoms.grid("LPS", (28, 30, 22))
    labels = phantoms.tumour(wide).data
    phantoms.write(tmp_path / "anna" / "anna_seg.nii.gz", np.where(labels == 1, 4, labels), np.array(wide.affine))
    anna = Patients.read(tmp_path).named("anna")
    with pytest.raises(GridMismatch, match="anna_t2"):
        anna.read()
    with pytest.raises(GridMismatch, match="anna_seg"):
        anna.read_truth(phantoms.subject(phantoms.grid("LPS")))
    together = replace(anna, onto_first=True)
    subject = together.read()
    assert subject.grid.shape == phantoms.SHAPE
    truth = together.read_truth(subject)
    assert np.array_equal(truth.data, phantoms.tumour(subject.grid).data)


def test_scans_that_went_away_are_told_in_a_sentence(tmp_path: Path) -> None:
    brats(tmp_path / "disk", "anna")
    store = CaseStore(tmp_path / "disk", 1.0, tmp_path / "prepared")
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    with pytest.raises(UserError, match="The files of anna cannot be reached"):
        store.load("anna")


def test_no_two_patients_share_a_name(tmp_path: Path) -> None:
    one = Patient("anna", {T1: tmp_path / "a.nii"})
    with pytest.raises(ValueError, match="two patients are called anna"):
        Patients((one, replace(one, source="b")), tmp_path)
