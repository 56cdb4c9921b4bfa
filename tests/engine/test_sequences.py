"""Which sequence a file is, which files are one patient, and those files on one grid."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from engine import nifti, sequences
from engine.errors import Cancelled, GridMismatch, SequenceProblem, UnreadableImage
from engine.files import shown
from engine.progress import Progress
from engine.sequences import SubjectFiles, find_subjects, load
from engine.volume import Grid, Sequence, Volume
from tests.engine import phantoms

T1, T1CE, T2, FLAIR = Sequence


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("Brats18_2013_0_1_t1", T1),
        ("Brats18_2013_0_1_t1ce", T1CE),
        ("BraTS20_Training_001_t2", T2),
        ("BraTS2021_00006_flair", FLAIR),
        ("BraTS-GLI-00000-000-t1n", T1),
        ("BraTS-GLI-00000-000-t1c", T1CE),
        ("BraTS-GLI-00000-000-t2w", T2),
        ("BraTS-GLI-00000-000-t2f", FLAIR),
        ("t1", T1),
        ("FLAIR", FLAIR),
        ("sub-01_T1w", T1),
        ("sub-01_ses-pre_acq-highres_run-1_T1w", T1),
        ("sub-01_ce-GADOLINIUM_T1w", T1CE),
        ("sub-01_ses-02_ce-gd_run-2_T1w", T1CE),
        ("sub-01_ce-none_T1w", T1),
        ("sub-01_T2w", T2),
        ("sub-01_FLAIR", FLAIR),
        ("sub-01_space-T1w_desc-preproc_T2w", T2),
        ("UPENN-GBM-00001_11_T1GD", T1CE),
        ("CT1", T1CE),
        ("T1Gd", T1CE),
        ("T1+C", T1CE),
        ("ax_t1_post_gad", T1CE),
        ("AXT1POST", T1CE),
        ("t1_mprage_sag_p2_iso_km", T1CE),
        ("MPRAGE_KM", T1CE),
        ("SPGR_post", T1CE),
        ("T1W_3D_TFE_CE", T1CE),
        ("ceT1w", T1CE),
        ("t1_se_tra_nativ", T1),
        ("ax_t1_without_contrast", T1),
        ("T1_pre_contrast", T1),
        ("t2_tse_tra_320", T2),
        ("t2_to_t1", T2),
        ("t2_tirm_tra_dark-fluid", FLAIR),
        ("T2-FLAIR", FLAIR),
        ("T2_FLAIR_reg", FLAIR),
        ("sag_cube_flair", FLAIR),
        ("flair_reg_to_T1ce", FLAIR),
        ("flair_in_t1", FLAIR),
        ("T1ce_onto_FLAIR", T1CE),
        ("T2_space-T1", T2),
        ("flair_reg_t1", FLAIR),
        ("T2_2_T1", T2),
        ("visit_2_t1", T1),
        ("P7_reg_t2", T2),
        ("patient1_t2", T2),
        ("visit1_flair", FLAIR),
        # Initials before the sequence are not contrast.
        ("gd_001_t1", T1),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_name_that_says_it(name: str, sequence: Sequence, ending: str) -> None:
    told = sequences.detect(Path("somewhere") / f"{name}{ending}")
    assert (told.sequence, told.certain) == (sequence, True), told.why


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("mprage", T1),
        ("t1_mprage_sag_p2_iso", T1),
        ("T1w_post-op", T1),
        ("t1_pre_op", T1),
        ("sub-01_acq-postgad_T1w", T1CE),
        ("CE-T1", T1CE),
        ("t2_tirm_tra", FLAIR),
    ],
)
def test_a_name_that_leaves_a_doubt(name: str, sequence: Sequence) -> None:
    told = sequences.detect(Path(f"{name}.nii.gz"))
    assert (told.sequence, told.certain) == (sequence, False), told.why


@pytest.mark.parametrize(
    "name", ["scan", "patient1", "visit10", "image_0001", "dwi_b1000", "ADC", "t2star", "sub-01_bold", "series_t12"]
)
def test_a_name_that_says_nothing_or_something_else(name: str) -> None:
    assert sequences.detect(Path(f"{name}.nii.gz")).sequence is None


def test_channel_numbers_mean_nothing_without_their_dataset(tmp_path: Path) -> None:
    image = tmp_path / "imagesTr" / "case_001_0000.nii.gz"
    assert sequences.detect(image).sequence is None
    image.parent.mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "FLAIR", "1": "T1w", "2": "t1gd"}}))
    told = [sequences.detect(image.with_name(f"case_001_000{n}.nii.gz")) for n in range(4)]
    assert [detection.sequence for detection in told] == [FLAIR, T1, T1CE, None]
    assert told[0].certain
    (tmp_path / "dataset.json").write_text("[broken")
    assert sequences.detect(image).sequence is None


def test_the_folder_is_asked_where_the_file_says_nothing() -> None:
    told = sequences.detect(Path("patient/T1_post/0001.nii.gz"))
    assert (told.sequence, told.certain) == (T1CE, False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BraTS2021_00006_seg", True),
        ("BraTS-GLI-00000-000-seg", True),
        ("sub-01_dseg", True),
        ("sub-01_space-T1w_label-tumor_mask", True),
        ("brainmask", True),
        ("tumor", True),
        ("GT", True),
        ("labelsTr/BRATS_001", True),
        ("BraTS2021_00006_t1", False),
        ("tumor_007_t1", False),
        ("t1_masked", False),
        ("imagesTr/BRATS_001_0000", False),
    ],
)
def test_segmentations_by_name(name: str, expected: bool) -> None:
    assert sequences.is_segmentation(Path(f"{name}.nii.gz")) is expected


# --- patients ---------------------------------------------------------------------------------------------------------


def test_a_brats_cohort(tmp_path: Path) -> None:
    for case in ("HGG/B_002", "HGG/A_001", "LGG/C_003"):
        stem = Path(case).name
        touch(tmp_path / case, *(f"{stem}_{s}.nii.gz" for s in ("flair", "t1", "t1ce", "t2", "seg")), "notes.txt")
    found = find_subjects([tmp_path])
    assert [subject.name for subject in found] == ["A_001", "B_002", "C_003"]
    for subject in found:
        assert list(subject.files) == [T1, T1CE, T2, FLAIR]
        assert subject.segmentation is not None
        assert subject.segmentation.name == f"{subject.name}_seg.nii.gz"
        assert not subject.unknown
        assert not subject.uncertain


def test_a_bids_data_set(tmp_path: Path) -> None:
    touch(tmp_path / "sub-01" / "ses-1" / "anat", "sub-01_ses-1_T1w.nii.gz", "sub-01_ses-1_ce-GD_T1w.nii.gz")
    touch(tmp_path / "sub-01" / "ses-2" / "anat", "sub-01_ses-2_T1w.nii.gz")
    touch(tmp_path / "sub-01" / "ses-2" / "func", "sub-01_ses-2_task-rest_bold.nii.gz")
    touch(tmp_path / "sub-02" / "anat", "sub-02_FLAIR.nii.gz", "sub-02_T2w.nii", "sub-02_FLAIR.json")
    touch(tmp_path / "derivatives" / "sub-02" / "anat", "sub-02_dseg.nii.gz")
    found = {subject.name: set(subject.files) for subject in find_subjects([tmp_path])}
    assert found == {"sub-01_ses-1": {T1, T1CE}, "sub-01_ses-2": {T1}, "sub-02": {T2, FLAIR}}


def test_a_flat_folder_of_several_patients(tmp_path: Path) -> None:
    touch(tmp_path, "P1_t1.nii.gz", "P1_flair.nii.gz", "P1_seg.nii.gz", "P2_t1.nii.gz", "P2_seg.nii.gz")
    found = {s.name: (set(s.files), s.segmentation and s.segmentation.name) for s in find_subjects([tmp_path])}
    assert found == {"P1": ({T1, FLAIR}, "P1_seg.nii.gz"), "P2": ({T1}, "P2_seg.nii.gz")}


def test_a_folder_as_scanners_name_it(tmp_path: Path) -> None:
    folder = tmp_path / "Müller 42"
    touch(folder, "t1_mprage_sag_km.nii.gz", "t2_tirm_tra_dark-fluid.nii.gz", "ep2d_diff_ADC.nii.gz", "localizer.nii")
    (subject,) = find_subjects([folder])
    assert subject.name == "Müller 42"
    assert set(subject.files) == {T1CE, FLAIR}
    assert [path.name for path in subject.unknown] == ["ep2d_diff_ADC.nii.gz", "localizer.nii"]


def test_a_folder_for_each_sequence(tmp_path: Path) -> None:
    touch(tmp_path / "patient7", "T1/0001.nii.gz", "T2 FLAIR/0002.nii.gz", "T1 post/0003.nii.gz")
    (subject,) = find_subjects([tmp_path])
    assert subject.name == "patient7"
    assert set(subject.files) == {T1, T1CE, FLAIR}


def test_loose_files_are_one_patient(tmp_path: Path) -> None:
    files = touch(tmp_path / "Jo", "ax_t2.nii.gz", "sag_mprage.nii", "flair.nii.gz")
    (subject,) = find_subjects(files)
    assert subject.name == "Jo"
    assert set(subject.files) == {T1, T2, FLAIR}
    assert subject.uncertain == {T1}


def test_loose_files_of_two_patients_are_not_mixed(tmp_path: Path) -> None:
    files = touch(tmp_path, "anna_t1.nii.gz", "bert_flair.nii.gz")
    assert [(s.name, set(s.files)) for s in find_subjects(files)] == [("anna", {T1}), ("bert", {FLAIR})]


def test_files_and_folders_together_and_the_same_file_twice(tmp_path: Path) -> None:
    (file,) = touch(tmp_path, "x_t1.nii.gz")
    touch(tmp_path / "case", "case_t2.nii.gz")
    found = find_subjects([file, tmp_path / "case", file])
    assert [(s.name, set(s.files)) for s in found] == [("x", {T1}), ("case", {T2})]


def test_patients_of_the_same_name_get_names_of_their_own(tmp_path: Path) -> None:
    for site in ("berlin", "paris", "rome"):
        touch(tmp_path / site / "P1", "t1.nii.gz")
    assert [s.name for s in find_subjects([tmp_path])] == ["P1", "paris_P1", "rome_P1"]


def test_two_files_of_one_sequence_are_both_named(tmp_path: Path) -> None:
    touch(tmp_path, "t1.nii.gz", "mprage.nii.gz")
    with pytest.raises(SequenceProblem) as caught:
        find_subjects([tmp_path])
    assert str(caught.value) == "mprage.nii.gz and t1.nii.gz both claim to be T1. Leave one of them out."


def test_hidden_and_shadow_files_are_not_seen(tmp_path: Path) -> None:
    touch(tmp_path, "._t1.nii.gz", ".hidden_t2.nii.gz", "flair.nii.gz", ".cache/t1.nii.gz")
    (subject,) = find_subjects([tmp_path])
    assert set(subject.files) == {FLAIR}


def test_a_mask_gliascope_made_is_not_taken_for_the_truth(tmp_path: Path) -> None:
    touch(tmp_path, "P1_t1.nii.gz", "P1_seg.nii.gz")
    (tmp_path / "P1_seg.json").write_text(json.dumps({"software": {"name": "Gliascope"}}))
    (subject,) = find_subjects([tmp_path])
    assert subject.segmentation is None
    assert set(subject.files) == {T1}


def test_a_brain_mask_is_not_the_tumour(tmp_path: Path) -> None:
    touch(tmp_path, "x_T1.nii.gz", "x_tumor_segmentation.nii.gz", "x_brain_segmentation.nii.gz")
    (subject,) = find_subjects([tmp_path])
    assert subject.segmentation is not None
    assert subject.segmentation.name == "x_tumor_segmentation.nii.gz"


def test_folders_with_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="holds no NIfTI image"):
        find_subjects([tmp_path])
    touch(tmp_path / "T1", "IM-0001.dcm")
    with pytest.raises(UnreadableImage) as caught:
        find_subjects([tmp_path])
    assert str(caught.value) == (
        f"The folder {shown(tmp_path)} holds no NIfTI image (it holds DICOM files). "
        "Segment them with --dicom, or convert them to .nii.gz."
    )


def test_paths_that_are_not_there_or_not_images(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="gone is not there"):
        find_subjects([tmp_path / "gone"])
    with pytest.raises(UnreadableImage, match="is not there"):
        find_subjects([tmp_path / ("x" * 300)])
    with pytest.raises(UnreadableImage, match=r"notes\.txt is not a NIfTI image by its name"):
        find_subjects(touch(tmp_path, "notes.txt"))


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UnreadableImage) as caught:
        find_subjects([tmp_path])
    assert str(caught.value) == (
        f"The folder {shown(tmp_path)} cannot be read (permission was refused). "
        "Ask its owner, or choose another folder."
    )


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_patient_is_read_in_the_fixed_order_with_progress(tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "P1")
    told: list[tuple[float, str]] = []
    (files,) = find_subjects([tmp_path])
    subject = load(files, progress=Progress(lambda fraction, message: told.append((fraction, message))))
    assert subject.name == "P1"
    assert list(subject) == [T1, T1CE, T2, FLAIR]
    assert [volume.sequence for volume in subject.values()] == list(Sequence)
    assert told[0] == (0.0, "reading T1")
    assert told[-1] == (1.0, "all files read")
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)


def test_loading_can_be_cancelled_and_leaves_no_thread(tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "P1")
    (files,) = find_subjects([tmp_path])
    progress = Progress(lambda _, message: progress.cancel() if message == "reading T1ce" else None)
    before = threading.active_count()
    with pytest.raises(Cancelled):
        load(files, progress=progress)
    assert threading.active_count() == before


@pytest.mark.parametrize("bad", ["t1", "flair"])
def test_a_damaged_file_among_good_ones_is_named(bad: str, tmp_path: Path) -> None:
    folder = phantoms.write_subject(tmp_path / "P1")
    path = folder / f"P1_{bad}.nii.gz"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UnreadableImage, match=rf"P1_{bad}\.nii\.gz stops in the middle"):
        load(find_subjects([tmp_path])[0])


def test_nothing_known_is_said_file_by_file(tmp_path: Path) -> None:
    (unknown,) = find_subjects(touch(tmp_path, "scan.nii.gz"))
    with pytest.raises(SequenceProblem) as caught:
        load(unknown)
    assert str(caught.value) == (
        "It is not known which sequence scan.nii.gz is (its name does not say). "
        "Say whether it is T1, T1ce, T2 or FLAIR, or put that into its name."
    )
    (two,) = find_subjects(touch(tmp_path, "scan.nii.gz", "other.nii.gz"))
    with pytest.raises(SequenceProblem, match=r"which sequences these are: scan\.nii\.gz, other\.nii\.gz"):
        load(two)


def test_a_segmentation_dropped_alone_is_told_by_its_name(tmp_path: Path) -> None:
    folder = phantoms.write_subject(tmp_path / "P1", truth=True)
    with pytest.raises(SequenceProblem, match=r"P1_seg\.nii\.gz is a segmentation, not an MRI scan"):
        load(find_subjects([folder / "P1_seg.nii.gz"])[0])


def test_a_segmentation_under_an_images_name_is_told_by_its_voxels(tmp_path: Path) -> None:
    folder = phantoms.write_subject(tmp_path / "P1", truth=True)
    shutil.copy(folder / "P1_seg.nii.gz", folder / "P1_t2.nii.gz")
    with pytest.raises(SequenceProblem) as caught:
        load(find_subjects([folder])[0])
    assert str(caught.value) == (
        "P1_t2.nii.gz is a segmentation, not an MRI scan (its voxels are a few labels). "
        "Choose the scan it was drawn on."
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 2, 4], True), ([0, 255], True), ([0, 0.5], True), (range(60), False), ([0, 0.2, 0.7], False)],
)
def test_labels_against_intensities(values: list[float], expected: bool) -> None:
    data = np.resize(np.array(values, np.float32), (5, 6, 7))
    assert sequences.looks_like_segmentation(Volume(data, Grid((5, 6, 7), np.eye(4)))) is expected


# --- one grid ---------------------------------------------------------------------------------------------------------

COARSE = phantoms.grid("LPS", shape=(24, 28, 10), spacing=(1.0, 1.0, 2.0))
FINE = phantoms.grid("PIR", shape=(48, 28, 40), spacing=(0.5, 1.0, 0.5), oblique=(4.0, -6.0, 9.0))


def two_grids(folder: Path) -> SubjectFiles:
    phantoms.write_volume(folder / "P1_t1.nii.gz", phantoms.head(COARSE, T1))
    phantoms.write_volume(folder / "P1_flair.nii.gz", phantoms.head(FINE, FLAIR))
    return find_subjects([folder])[0]


def test_sequences_on_different_grids_are_named_and_resampling_is_offered(tmp_path: Path) -> None:
    with pytest.raises(GridMismatch) as caught:
        load(two_grids(tmp_path))
    assert str(caught.value) == (
        "P1_t1.nii.gz does not lie on the grid of P1_flair.nii.gz (24 x 28 x 10 voxels against 28 x 40 x 48). "
        "Resample it onto P1_flair.nii.gz, or leave it out."
    )


def test_shifted_grids_say_by_how_much(tmp_path: Path) -> None:
    phantoms.write_volume(tmp_path / "t1.nii.gz", phantoms.head(phantoms.grid()))
    for name, x in (("t2", 4.5), ("flair", 6.0)):
        phantoms.write_volume(tmp_path / f"{name}.nii.gz", phantoms.head(phantoms.grid(centre=(x, -5.0, 7.0))))
    with pytest.raises(GridMismatch) as caught:
        load(find_subjects([tmp_path])[0])
    assert str(caught.value) == (
        "t2.nii.gz and flair.nii.gz do not lie on the grid of t1.nii.gz (same size, but up to 1.5 mm apart). "
        "Resample them onto t1.nii.gz, or leave them out."
    )


def test_differences_in_the_last_digit_are_no_difference(tmp_path: Path) -> None:
    grid = phantoms.grid("LPS")
    nearly = Grid(grid.shape, grid.affine + 1e-5)
    phantoms.write_volume(tmp_path / "t1.nii.gz", phantoms.head(grid))
    phantoms.write_volume(tmp_path / "t2.nii.gz", phantoms.head(nearly))
    assert len(load(find_subjects([tmp_path])[0])) == 2


def test_resampling_takes_the_finest_grid_and_keeps_every_place(tmp_path: Path) -> None:
    subject = load(two_grids(tmp_path), resample=True)
    assert subject.grid.same_as(FINE)
    moved = subject[T1]
    assert moved.source is not None
    assert moved.source.name == "P1_t1.nii.gz"
    for marker, value in (
        (phantoms.LEFT_MARKER, phantoms.LEFT_VALUE),
        (phantoms.FRONT_MARKER, phantoms.FRONT_VALUE),
        (phantoms.TOP_MARKER, phantoms.TOP_VALUE),
    ):
        assert phantoms.value_at(moved, marker, (3.0, -5.0, 7.0)) == pytest.approx(value, rel=0.35)
    at = np.unravel_index(np.argmax(moved.data), moved.data.shape)
    brightest = moved.grid.to_world(np.array([at]))[0] - (3.0, -5.0, 7.0)
    assert np.linalg.norm(brightest - phantoms.TOP_MARKER) < 2


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_resampling_between_orientations_of_one_grid_changes_no_voxel(orientation: str) -> None:
    here, there = phantoms.grid("RAS"), phantoms.grid(orientation)
    moved = sequences.resample(phantoms.head(there), here)
    np.testing.assert_allclose(moved.data, phantoms.head(here).data, atol=1e-3)
    labels = sequences.resample_label_map(phantoms.tumour(there), here)
    np.testing.assert_array_equal(labels.data, phantoms.tumour(here).data)


def test_resampling_is_linear_inside_and_nothing_outside() -> None:
    ramp = np.broadcast_to(np.arange(10, dtype=np.float32)[:, None, None], (10, 4, 4)).copy()
    volume = Volume(ramp, Grid((10, 4, 4), np.diag([2.0, 1.0, 1.0, 1.0])))
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = -3.0
    moved = sequences.resample(volume, Grid((26, 4, 4), affine)).data[:, 1, 1]
    world = np.arange(26) - 3.0
    inside = (world >= -1.0) & (world <= 19.0)
    np.testing.assert_allclose(moved[inside], np.clip(world[inside] / 2, 0, 9), atol=1e-5)
    assert not moved[~inside].any()


def test_going_coarser_averages_instead_of_skipping() -> None:
    stripes = np.zeros((64, 8, 8), np.float32)
    stripes[::2] = 100
    volume = Volume(stripes, Grid(stripes.shape, np.diag([0.5, 1.0, 1.0, 1.0])))
    moved = sequences.resample(volume, Grid((16, 8, 8), np.diag([2.0, 1.0, 1.0, 1.0])))
    assert moved.data[2:-2] == pytest.approx(50, abs=5)


def test_label_volumes_survive_resampling() -> None:
    truth = phantoms.tumour(FINE)
    moved = sequences.resample_label_map(truth, phantoms.grid("LPS", spacing=(0.7, 0.7, 0.7), shape=(36, 40, 30)))
    assert set(np.unique(moved.data)) == {0, 1, 2}
    assert moved.ml(moved.whole_tumour) == pytest.approx(truth.ml(truth.whole_tumour), rel=0.05)


def test_patients_whose_names_are_not_latin_are_kept_apart(tmp_path: Path) -> None:
    for name in ("患者甲_t1", "患者乙_flair", "Иванов_t1", "Müller_t2"):
        phantoms.write_volume(tmp_path / f"{name}.nii.gz", phantoms.head(phantoms.grid()))
    found = {subject.name: set(subject.files) for subject in find_subjects(sorted(tmp_path.iterdir()))}
    assert found == {"患者甲": {T1}, "患者乙": {FLAIR}, "Иванов": {T1}, "Müller": {T2}}


def test_a_scan_brought_onto_another_belongs_to_the_same_patient(tmp_path: Path) -> None:
    for name in ("P1_t1", "P1_flair_to_t1", "P1_T2_reg_T1"):
        phantoms.write_volume(tmp_path / f"{name}.nii.gz", phantoms.head(phantoms.grid()))
    [found] = find_subjects([tmp_path])
    assert (found.name, set(found.files)) == ("P1", {T1, T2, FLAIR})
    assert found.files[FLAIR].name == "P1_flair_to_t1.nii.gz"


def test_one_volume_of_several_can_be_brought_onto_another_grid(tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid(spacing=(2.0, 2.0, 2.0), shape=(12, 14, 10)), T2)
    series = phantoms.write(
        tmp_path / "t2.nii.gz", np.stack([head.data, head.data * 2], -1), np.array(head.grid.affine)
    )
    phantoms.write_volume(tmp_path / "t1.nii.gz", phantoms.head(phantoms.grid()))
    assert nifti.count_volumes(series) == 2
    subject = load(find_subjects([tmp_path])[0], resample=True, indices={series: 1})
    assert subject[T2].grid.same_as(subject[T1].grid)
    # The brightest spot is small and loses a little by interpolation; the first volume has half of it.
    assert subject[T2].data.max() > 1.5 * head.data.max()


def test_scans_of_different_places_are_not_brought_together(tmp_path: Path) -> None:
    phantoms.write_volume(tmp_path / "t1.nii.gz", phantoms.head(phantoms.grid()))
    far = (300.0, 0.0, 0.0)
    phantoms.write_volume(tmp_path / "t2.nii.gz", phantoms.head(phantoms.grid(centre=far), T2, far))
    with pytest.raises(GridMismatch, match=r"t2\.nii\.gz and t1\.nii\.gz show different places"):
        load(find_subjects([tmp_path])[0], resample=True)


def test_a_scan_without_orientation_is_not_brought_onto_another_grid(tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid(spacing=(2.0, 2.0, 2.0), shape=(12, 14, 10)))
    phantoms.write(tmp_path / "t2.nii.gz", head.data, np.array(head.grid.affine), sform=0, qform=0)
    phantoms.write_volume(tmp_path / "t1.nii.gz", phantoms.head(phantoms.grid()))
    with pytest.raises(GridMismatch, match=r"the header of t2\.nii\.gz does not say how the head lies in it"):
        load(find_subjects([tmp_path])[0], resample=True)


def test_real_patients(shared: Path) -> None:
    found = find_subjects([shared / "cohort"])
    assert len(found) == 40
    assert all(len(subject.files) == 4 and subject.segmentation for subject in found)
    assert not any(subject.unknown or subject.uncertain for subject in found)
    subject = load(found[0])
    assert subject.grid.shape == (240, 240, 155)
    assert subject.grid.orientation == "LPS"


def test_real_scans_with_thick_slices_come_onto_one_grid(shared: Path) -> None:
    (files,) = find_subjects([shared / "clinical" / "raw_with_skull_b"])
    with pytest.raises(GridMismatch, match=r"do not lie on the grid of t2\.nii\.gz"):
        load(files)
    subject = load(files, resample=True)
    assert set(subject) == {T1, T2, FLAIR}
    # The same head at the same place: bright tissue overlaps although no sequence was registered to another.
    heads = [volume.data > np.percentile(volume.data, 60) for volume in subject.values()]
    for other in heads[1:]:
        assert 2 * (heads[0] & other).sum() / (heads[0].sum() + other.sum()) > 0.8


def test_links_that_lead_in_circles_are_not_followed(tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "cohort" / "anna")
    for name in "abcdefgh":
        (tmp_path / "cohort" / name).symlink_to(tmp_path / "cohort")
    (tmp_path / "cohort" / "there").symlink_to(tmp_path / "cohort" / "a" / "b")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "cohort" / "anna")

    assert [files.name for files in sequences.find_subjects([tmp_path / "cohort"])] == ["anna"]
    assert [files.name for files in sequences.find_subjects([tmp_path / "elsewhere"])] == ["anna"]


def test_who_has_scans_of_no_telling_name_is_segmented_with_the_others_and_not_learnt_from(tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "anna")
    phantoms.write_volume(tmp_path / "boris" / "scan.nii.gz", phantoms.head(phantoms.grid("LPS"), T2))

    assert [files.name for files in sequences.find_cohort(tmp_path, [])] == ["anna"]
    everybody = sequences.find_cohort(tmp_path, [], to_segment=True)
    assert [(files.name, len(files.unknown)) for files in everybody] == [("anna", 0), ("boris", 1)]
