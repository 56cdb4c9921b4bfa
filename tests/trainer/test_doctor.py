"""Each defect is found in a cohort that has exactly that one, and nothing is found where nothing is wrong."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import Cancelled
from engine.nifti import Convention
from engine.progress import Progress
from engine.volume import Sequence
from tests.engine import phantoms
from tests.trainer import heads
from trainer import doctor
from trainer.doctor import Finding, Kind, PatientReport, Report, Severity
from trainer.patients import Patients

NAMES = tuple(f"patient-{number}" for number in range(7))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Seven made-up patients with nothing wrong, and what is said about them."""
    folder = tmp_path_factory.mktemp("clean")
    for number, name in enumerate(NAMES):
        heads.write(folder / name, number)
    return folder, doctor.examine(Patients.read(folder), Progress())


@pytest.fixture
def cohort(clean: tuple[Path, Report], tmp_path: Path) -> Path:
    """A copy of them to spoil."""
    return Path(shutil.copytree(clean[0], tmp_path / "cohort"))


def examine(cohort: Path) -> Report:
    return doctor.examine(Patients.read(cohort), Progress())


def path(cohort: Path, name: str, what: str) -> Path:
    return cohort / name / f"{name}_{what}.nii.gz"


def redraw(file: Path, change: Callable[[NDArray[np.float64]], NDArray[np.float64]], dtype: str = "<i2") -> None:
    image = nib.load(file)
    phantoms.write(file, change(np.asarray(image.get_fdata())), image.affine, dtype=dtype)


def only(report: Report, kind: Kind) -> Finding:
    """The one finding there is, of this kind."""
    assert [finding.kind for finding in report.findings] == [kind], [str(f) for f in report.findings]
    return report.findings[0]


def after(cohort: Path, finding: Finding, key: str, before: Report | None = None) -> Report:
    """What is said after a repair, with all files as they were."""
    files = {file: file.read_bytes() for file in cohort.rglob("*.nii.gz")}
    repair = next(repair for repair in finding.repairs if repair.key == key)
    mended = doctor.apply(Patients.read(cohort), finding, repair)
    report = doctor.examine(mended, Progress(), before=before)
    assert {file: file.read_bytes() for file in cohort.rglob("*.nii.gz")} == files
    return report


# --- nothing wrong ----------------------------------------------------------------------------------------------------


def test_nothing_is_found_where_nothing_is_wrong(clean: tuple[Path, Report]) -> None:
    folder, report = clean
    assert report.findings == ()
    assert report.usable == NAMES
    facts = report.of("patient-0").facts
    truth = heads.labels(0, heads.grid())
    assert facts.sequences == tuple(Sequence)
    assert (facts.shape, facts.spacing, facts.orientation) == (heads.SHAPE, heads.SPACING, "LPS")
    assert facts.whole_tumour_ml == pytest.approx(np.count_nonzero(truth) * 0.027, abs=0.01)
    assert facts.core_ml == pytest.approx(np.count_nonzero((truth == 1) | (truth == 4)) * 0.027, abs=0.01)
    assert facts.labels == (1, 2, 4)
    assert len(list(folder.rglob("*"))) == 7 + 35  # nothing was written there


@pytest.mark.slow
def test_no_false_alarm_among_forty_real_patients(shared: Path) -> None:
    begun = time.perf_counter()
    report = examine(shared / "cohort")
    assert [finding.sentence for finding in report.findings] == []
    assert len(report.usable) == 40
    assert time.perf_counter() - begun < 120


def test_patients_are_told_one_after_the_other_while_the_rest_is_still_unread(cohort: Path) -> None:
    told: list[PatientReport] = []
    path(cohort, "patient-1", "seg").unlink()
    shutil.copy(path(cohort, "patient-2", "t1"), path(cohort, "patient-5", "t1"))
    doctor.examine(Patients.read(cohort), Progress(), told.append)
    assert [report.name for report in told[:7]] == list(NAMES)
    assert told[1].findings[0].kind is Kind.NO_TRUTH
    # What only the comparison shows comes once more, in the end.
    assert [report.name for report in told[7:]] == ["patient-5"]


def test_stopping_takes_less_than_a_second(cohort: Path) -> None:
    progress = Progress()
    stopped = [0.0]

    def stop() -> None:
        stopped[0] = time.perf_counter()
        progress.cancel()

    later = threading.Timer(0.2, stop)
    many = Patients.read(cohort)
    copies = [replace(p, name=f"{p.name}-{n}") for n in range(40) for p in many]
    later.start()
    with pytest.raises(Cancelled):
        doctor.examine(replace(many, patients=tuple(copies)), progress)
    assert time.perf_counter() - stopped[0] < 1
    later.join()


def test_what_has_not_changed_is_not_read_again(clean: tuple[Path, Report]) -> None:
    folder, report = clean
    begun = time.perf_counter()
    assert doctor.examine(Patients.read(folder), Progress(), before=report) == report
    again = time.perf_counter() - begun
    begun = time.perf_counter()
    doctor.examine(Patients.read(folder), Progress())
    assert again < 0.3 * (time.perf_counter() - begun)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_missing_sequence_is_noted_and_no_obstacle(cohort: Path) -> None:
    path(cohort, "patient-3", "t1ce").unlink()
    report = examine(cohort)
    finding = only(report, Kind.MISSING)
    assert (finding.patient, finding.severity) == ("patient-3", Severity.NOTE)
    assert finding.sentence == "patient-3 has no T1ce."
    assert report.usable == NAMES


def test_a_patient_without_truth_can_be_left_out_and_taken_in_again(cohort: Path) -> None:
    path(cohort, "patient-1", "seg").unlink()
    report = examine(cohort)
    finding = only(report, Kind.NO_TRUTH)
    assert finding.severity is Severity.ERROR
    assert "patient-1" not in report.usable
    patients = doctor.apply(Patients.read(cohort), finding, doctor.LEAVE_OUT)
    assert not patients.named("patient-1").included
    assert [patient.name for patient in patients.having(())] == [name for name in NAMES if name != "patient-1"]
    assert patients.named("patient-1").decisions == ("Left out.",)
    again = doctor.take_in(patients, "patient-1")
    assert again == Patients.read(cohort)


def test_a_file_that_stops_in_the_middle_is_named_and_the_rest_goes_on(cohort: Path) -> None:
    file = path(cohort, "patient-2", "flair")
    file.write_bytes(file.read_bytes()[:5000])
    report = examine(cohort)
    finding = only(report, Kind.UNREADABLE)
    assert finding.severity is Severity.ERROR
    assert "patient-2_flair.nii.gz stops in the middle" in finding.sentence
    assert report.of("patient-2").facts.whole_tumour_ml is not None
    assert [f.kind for f in after(cohort, finding, "without:flair").findings] == [Kind.MISSING]


def test_a_file_that_is_gone_is_an_answer_not_a_crash(cohort: Path) -> None:
    patients = Patients.read(cohort)
    path(cohort, "patient-2", "t2").unlink()
    path(cohort, "patient-4", "seg").unlink()
    report = doctor.examine(patients, Progress())
    sentences = [(finding.kind, finding.sentence) for finding in report.findings]
    assert [kind for kind, _ in sentences] == [Kind.UNREADABLE, Kind.UNREADABLE]
    assert all("is not there" in sentence for _, sentence in sentences)


def test_two_files_of_one_sequence_do_not_hide_the_other_patients(cohort: Path) -> None:
    shutil.copy(path(cohort, "patient-2", "t1"), cohort / "patient-2" / "patient-2_t1n.nii.gz")
    report = examine(cohort)
    assert len(report.patients) == 7
    assert [(f.patient, f.kind) for f in report.findings] == [("", Kind.FILES), ("patient-2", Kind.MISSING)]
    assert "both claim to be T1" in report.cohort[0].sentence


# --- labels and masks -------------------------------------------------------------------------------------------------


def test_labels_that_no_convention_has_are_named(cohort: Path) -> None:
    redraw(path(cohort, "patient-1", "seg"), lambda labels: np.where(labels == 4, 7, labels), "u1")
    finding = only(examine(cohort), Kind.LABELS)
    assert finding.severity is Severity.ERROR
    assert finding.sentence == "The mask of patient-1 holds labels that no convention has (7)."


def test_doubtful_labels_are_asked_for_with_the_likeliest_answer_first(cohort: Path) -> None:
    redraw(path(cohort, "patient-1", "seg"), lambda labels: np.where(labels == 4, 3, labels), "u1")
    report = examine(cohort)
    finding = only(report, Kind.LABELS)
    assert finding.sentence == (
        "The mask of patient-1 does not say what its labels mean (1, 2, 3). "
        "The others of this cohort are BraTS 2012-2021."
    )
    keys = [repair.key for repair in finding.repairs]
    assert keys == ["labels:brats-2012-2021", "labels:decathlon", "leave out"]
    assert report.of("patient-1").facts.core_ml is None
    whole = np.count_nonzero(heads.labels(1, heads.grid())) * 0.027
    for key, expected in (("labels:brats-2012-2021", 11.9), ("labels:decathlon", None)):
        mended = after(cohort, finding, key, report)
        assert mended.findings == ()
        facts = mended.of("patient-1").facts
        assert facts.whole_tumour_ml == pytest.approx(whole, abs=0.01)
        assert (facts.core_ml == pytest.approx(expected, abs=0.1)) if expected else (facts.core_ml > 30)


def test_where_nobody_says_what_labels_mean_the_one_around_the_others_is_the_oedema(cohort: Path) -> None:
    for name in NAMES:
        redraw(path(cohort, name, "seg"), lambda labels: np.where(labels == 4, 3, labels), "u1")
    for finding in examine(cohort).findings:
        assert finding.sentence.endswith("Label 2 lies around the others here, as oedema does in BraTS 2023.")
        assert finding.repairs[0].key == "labels:brats-2023"
    for name in NAMES:
        redraw(path(cohort, name, "seg"), lambda labels: np.choose(labels.astype(int), (0, 2, 1, 3)), "u1")
    for finding in examine(cohort).findings:
        assert finding.repairs[0].key == "labels:decathlon"


def test_a_convention_that_turns_tumours_inside_out_is_told(cohort: Path) -> None:
    for name in NAMES:
        redraw(path(cohort, name, "seg"), lambda labels: np.where(labels == 4, 3, labels), "u1")
    patients = Patients.read(cohort)
    wrong = tuple(replace(patient, convention=Convention.DECATHLON) for patient in patients)
    finding = only(doctor.examine(replace(patients, patients=wrong), Progress()), Kind.LABELS)
    assert (finding.patient, finding.severity) == ("", Severity.WARNING)
    assert "the core lies around the rest" in finding.sentence


@pytest.mark.parametrize(("keep", "words"), [(0, "is empty"), (3, "is tiny (0.08 ml")])
def test_an_empty_or_tiny_tumour_is_told(cohort: Path, keep: int, words: str) -> None:
    def cut(labels: NDArray[np.float64]) -> NDArray[np.float64]:
        few = np.zeros_like(labels)
        few.flat[np.flatnonzero(labels == 4)[:keep]] = 4
        return few

    redraw(path(cohort, "patient-1", "seg"), cut, "u1")
    patients = Patients.read(cohort)
    # An empty mask names no labels.
    patients = patients.with_patient(replace(patients.named("patient-1"), convention=Convention.BRATS_2012_2021))
    finding = only(doctor.examine(patients, Progress()), Kind.TUMOUR)
    assert finding.severity is Severity.WARNING
    assert words in finding.sentence


def test_a_mask_of_the_brain_is_no_mask_of_a_tumour(cohort: Path) -> None:
    brain = np.asarray(nib.load(path(cohort, "patient-1", "t1")).get_fdata()) > 0
    redraw(path(cohort, "patient-1", "seg"), lambda labels: np.where(labels == 0, 2 * brain, labels), "u1")
    finding = only(examine(cohort), Kind.TUMOUR)
    assert "covers 100 % of what the scans show" in finding.sentence


@pytest.mark.parametrize(
    ("voxels", "severity"), [(14, Severity.WARNING), (30, Severity.ERROR)], ids=["partly", "mostly"]
)
def test_a_mask_outside_the_brain_is_told(cohort: Path, voxels: int, severity: Severity) -> None:
    # Along the head, where a shifted mask stays on its side.
    redraw(path(cohort, "patient-1", "seg"), lambda labels: np.roll(labels, voxels, axis=1), "u1")
    found = [finding for finding in examine(cohort).findings if finding.kind is Kind.OUTSIDE]
    assert [finding.severity for finding in found] == [severity]
    assert "of the mask of patient-1 lie outside the brain" in found[0].sentence


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [("t1", "t2"), ("t1ce", "flair"), ("t2", "flair"), ("t1", "t1ce")])
def test_exchanged_sequences_are_told_and_put_right_by_consent(cohort: Path, one: str, other: str) -> None:
    first, second = path(cohort, "patient-3", one), path(cohort, "patient-3", other)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    report = examine(cohort)
    finding = only(report, Kind.SEQUENCES)
    titles = f"{Sequence(one).title} and {Sequence(other).title}"
    assert finding.sentence == f"In patient-3 {titles} look exchanged."
    assert finding.repairs[0].title == f"Exchange {titles}"
    mended = after(cohort, finding, finding.repairs[0].key, report)
    assert mended.findings == ()
    patients = doctor.apply(Patients.read(cohort), finding, finding.repairs[0])
    assert patients.named("patient-3").files[Sequence(one)] == second


def test_one_image_under_two_names_is_told(cohort: Path) -> None:
    redraw(path(cohort, "patient-3", "t1"), lambda data: 3.0 * data)
    shutil.copy(path(cohort, "patient-3", "t1"), path(cohort, "patient-3", "t2"))
    redraw(path(cohort, "patient-3", "t2"), lambda data: data / 3 + 5 * (data > 0), "f4")
    report = examine(cohort)
    finding = only(report, Kind.SEQUENCES)
    assert finding.severity is Severity.ERROR
    assert finding.sentence == "T1 and T2 of patient-3 hold the same image."
    assert [f.kind for f in after(cohort, finding, "without:t2", report).findings] == [Kind.MISSING]


def test_labels_in_the_place_of_an_image_are_told(cohort: Path) -> None:
    shutil.copy(path(cohort, "patient-3", "seg"), path(cohort, "patient-3", "t2"))
    finding = only(examine(cohort), Kind.SEQUENCES)
    assert "is a segmentation, not an MRI scan" in finding.sentence


def test_images_on_another_grid_are_brought_onto_the_finest_by_consent(cohort: Path) -> None:
    thick = phantoms.grid("LPS", (60, 72, 36), (3.0, 3.0, 5.0))
    phantoms.write_volume(path(cohort, "patient-4", "t2"), heads.image(4, Sequence.T2, thick))
    report = examine(cohort)
    finding = only(report, Kind.GRIDS)
    assert finding.severity is Severity.ERROR
    assert "T2 of patient-4 does not lie on the grid of T1 (60 x 72 x 36 voxels" in finding.sentence
    mended = after(cohort, finding, "onto first", report)
    assert mended.findings == ()
    assert mended.of("patient-4").facts.shape == heads.SHAPE


def test_a_mask_on_another_grid_is_brought_onto_the_images_by_consent(cohort: Path) -> None:
    cut = phantoms.grid("LPS", (56, 70, 58), heads.SPACING)
    phantoms.write(path(cohort, "patient-4", "seg"), heads.labels(4, cut), np.array(cut.affine))
    report = examine(cohort)
    finding = only(report, Kind.GRIDS)
    assert "The mask of patient-4 does not lie on the grid of its images" in finding.sentence
    mended = after(cohort, finding, "onto first", report)
    assert mended.findings == ()
    patient = doctor.apply(Patients.read(cohort), finding, doctor.ONTO_FIRST).named("patient-4")
    subject = patient.read()
    theirs = patient.read_truth(subject)
    assert theirs.grid.same_as(subject.grid)
    assert theirs.ml(theirs.whole_tumour) == pytest.approx(report.of("patient-4").facts.whole_tumour_ml, rel=0.02)


def test_scans_of_two_places_cannot_be_brought_together(cohort: Path) -> None:
    image = nib.load(path(cohort, "patient-4", "t2"))
    far = image.affine.copy()
    far[:3, 3] += 900
    phantoms.write(path(cohort, "patient-4", "t2"), np.asarray(image.get_fdata()), far, dtype="<i2")
    finding = only(examine(cohort), Kind.GRIDS)
    assert "show different places" in finding.sentence


# --- left and right ---------------------------------------------------------------------------------------------------


def test_a_mask_on_the_other_side_is_told_and_never_turned(cohort: Path) -> None:
    redraw(path(cohort, "patient-2", "seg"), lambda labels: labels[::-1], "u1")
    finding = only(examine(cohort), Kind.SIDES)
    assert "mirrored it would lie where they do not" in finding.sentence
    assert [repair.key for repair in finding.repairs] == ["leave out"]


def test_an_image_mirrored_against_the_others_is_told(cohort: Path) -> None:
    redraw(path(cohort, "patient-2", "t1"), lambda data: data[::-1])
    found = [f for f in examine(cohort).findings if f.patient == "patient-2"]
    assert found[0].sentence == "T1 of patient-2 fits T1ce, T2 and FLAIR better when left and right are exchanged."
    assert {f.kind for f in found} <= {Kind.SIDES, Kind.SEQUENCES}


def test_a_patient_laid_out_the_other_way_round_stands_out(cohort: Path) -> None:
    shutil.rmtree(cohort / "patient-6")
    heads.write(cohort / "patient-6", 6, heads.grid("RPS"))
    finding = only(examine(cohort), Kind.SIDES)
    assert "The arrays of patient-6 run to the right and those of the 6 others the other way" in finding.sentence


def test_cohorts_of_many_layouts_are_nothing_odd(cohort: Path) -> None:
    for number, orientation in enumerate(("RAS", "LAS", "RPS", "LPI", "PIL", "SRA", "ASR")):
        shutil.rmtree(cohort / NAMES[number])
        heads.write(cohort / NAMES[number], number, heads.grid(orientation))
    assert examine(cohort).findings == ()


def test_headers_without_orientation_are_told(cohort: Path) -> None:
    for what in (*Sequence, "seg"):
        file = path(cohort, "patient-2", what)
        image = nib.load(file)
        phantoms.write(file, np.asarray(image.dataobj), image.affine, sform=0, qform=0)
    finding = only(examine(cohort), Kind.SIDES)
    assert "do not say which way the head lies" in finding.sentence


# --- the same patient twice -------------------------------------------------------------------------------------------


def test_the_same_patient_resaved_under_another_name_is_told(cohort: Path) -> None:
    """In another type, on another scale, turned, cut and unpacked."""
    shutil.rmtree(cohort / "patient-6")
    wide = phantoms.grid("RAS", (64, 75, 62), heads.SPACING)
    for sequence in Sequence:
        data = 0.01 * heads.image(2, sequence, wide).data ** 1.1
        phantoms.write(cohort / "patient-6" / f"patient-6_{sequence}.nii", data, np.array(wide.affine), dtype=">f8")
    phantoms.write(cohort / "patient-6" / "patient-6_seg.nii", heads.labels(2, wide), np.array(wide.affine))
    report = examine(cohort)
    finding = [f for f in report.findings if f.kind is Kind.TWICE]
    assert [f.sentence for f in finding] == ["patient-6 shows the same patient as patient-2: use one of the two."]
    assert [f.patient for f in report.findings if f.kind is not Kind.SIDES] == ["patient-6"]
    patients = doctor.apply(Patients.read(cohort), finding[0], doctor.LEAVE_OUT)
    assert not any(f.kind is Kind.TWICE for f in doctor.examine(patients, Progress(), before=report).findings)


def test_one_image_of_another_patient_is_told(cohort: Path) -> None:
    shutil.copy(path(cohort, "patient-2", "t1"), path(cohort, "patient-5", "t1"))
    finding = [f for f in examine(cohort).findings if f.kind is Kind.TWICE]
    assert [f.sentence for f in finding] == ["T1 of patient-5 shows the patient patient-2."]
    assert finding[0].repairs[0].key == "without:t1"


# --- intensities ------------------------------------------------------------------------------------------------------


def test_a_skull_that_is_still_on_is_told(cohort: Path) -> None:
    distance = np.linalg.norm((np.indices(heads.SHAPE).T - (np.array(heads.SHAPE) - 1) / 2) / (29, 35, 29), axis=-1).T
    for sequence in Sequence:
        around = 60.0 * (distance < 1)
        redraw(path(cohort, "patient-1", sequence), lambda data, around=around: np.where(data > 0, data, around))
    finding = only(examine(cohort), Kind.SKULL)
    assert finding.severity is Severity.WARNING
    assert "ml hold signal, a brain has up to 2,200" in finding.sentence


def test_voxels_that_are_not_numbers_are_told(cohort: Path) -> None:
    def hole(data: NDArray[np.float64]) -> NDArray[np.float64]:
        data[30, 30, 30] = np.nan
        return data

    redraw(path(cohort, "patient-1", "t2"), hole, "f4")
    finding = only(examine(cohort), Kind.INTENSITIES)
    assert finding.severity is Severity.ERROR
    assert "NaN or infinite in 1 of" in finding.sentence


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        (lambda d: np.where(d > 0, 10 + 12 * np.rint(d / 30), 0), Severity.WARNING, "different intensities"),
        (lambda d: np.where((np.indices(d.shape).sum(0) == 90) & (d > 0), 30000, d)[:], Severity.NOTE, "as bright as"),
        (lambda d: np.where(np.indices(d.shape)[2] > 32, 0, d), Severity.WARNING, "of what the other images show"),
    ],
    ids=["few greys", "hot voxels", "half the head"],
)
def test_odd_intensities_are_told(
    cohort: Path, change: Callable[[NDArray[np.float64]], NDArray[np.float64]], severity: Severity, words: str
) -> None:
    def only_few(data: NDArray[np.float64]) -> NDArray[np.float64]:
        changed = change(data)
        hot = np.flatnonzero(changed == 30000)
        changed.flat[hot[5:]] = data.flat[hot[5:]]
        return changed

    redraw(path(cohort, "patient-1", "t1"), only_few)
    found = [f for f in examine(cohort).findings if f.kind is Kind.INTENSITIES]
    assert [f.severity for f in found] == [severity]
    assert words in found[0].sentence


# --- thumbnails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_a_thumbnail_shows_the_largest_slice_as_a_radiologist_sees_it(tmp_path: Path, orientation: str) -> None:
    on = heads.grid(orientation)
    heads.write(tmp_path / "anna", 0, on)  # the tumour is on the patient's right
    seen = doctor.thumbnail(Patients.read(tmp_path).named("anna"), Progress())
    assert seen.sequences == tuple(Sequence)
    assert seen.images.shape == (4, *seen.mask.shape)
    assert seen.images.dtype == seen.mask.dtype == np.uint8
    truth = heads.labels(0, heads.grid("RAS")) > 0
    assert np.count_nonzero(seen.mask) == np.count_nonzero(truth, axis=(0, 1)).max()
    height, width = seen.mask.shape
    assert height > width  # the head is longer than wide, and fills the picture
    assert np.flatnonzero((seen.images[0] > 0).any(axis=0)).size > 0.85 * width
    rows, columns = np.nonzero(seen.mask)
    assert columns.mean() < width / 2
    front = np.nonzero(truth)[1].mean() > (heads.SHAPE[1] - 1) / 2
    assert (rows.mean() < height / 2) == front
    assert set(np.unique(seen.mask)) == {0, 1, 2}
    assert np.median(seen.images[1][seen.mask == 1]) > np.median(seen.images[1][seen.mask == 2])


def test_a_patient_without_truth_has_a_thumbnail_too(cohort: Path) -> None:
    path(cohort, "patient-1", "seg").unlink()
    path(cohort, "patient-1", "t2").unlink()
    seen = doctor.thumbnail(Patients.read(cohort).named("patient-1"), Progress())
    assert seen.sequences == (Sequence.T1, Sequence.T1CE, Sequence.FLAIR)
    assert not seen.mask.any()
    assert seen.images.max() == 255


def test_pixels_of_a_thumbnail_are_square(tmp_path: Path) -> None:
    on = phantoms.grid("LPS", (60, 36, 60), (3.0, 6.0, 3.0))
    heads.write(tmp_path / "anna", 0, on)
    square = doctor.thumbnail(Patients.read(tmp_path).named("anna"), Progress())
    height, width = square.mask.shape
    assert height / width == pytest.approx(168 / 132, rel=0.08)


def test_a_report_says_the_same_to_scripts(cohort: Path) -> None:
    path(cohort, "patient-1", "seg").unlink()
    told = examine(cohort).to_json()
    assert len(told["patients"]) == 7
    patient = told["patients"][1]
    assert (patient["usable"], patient["whole_tumour_ml"]) == (False, None)
    assert patient["findings"][0]["kind"] == "no truth"
    assert patient["findings"][0]["repairs"] == [{"key": "leave out", "title": "Leave this patient out"}]
