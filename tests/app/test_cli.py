from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
from pypdf import PdfReader

from app import DEMO, cli
from engine import (
    brain,
    contents,
    dicom,
    export,
    inference,
    nifti,
    pipeline,
    provenance,
    registry,
    runtime,
    sequences,
    unusual,
)
from engine.model_card import REGIONS, Calibration, ModelCard, RegionCalibration, Role
from engine.progress import Progress
from engine.volume import Sequence
from tests.app import threshold_model
from tests.engine import fake_dicom, phantoms, stand_ins

T1, T1CE, T2, FLAIR = Sequence
# What tests with phantoms do without: they are no heads.
PLACE, LOOK = contents.place, unusual.look


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict:
        return json.loads(self.out)

    @property
    def sentences(self) -> list[str]:
        return self.err.splitlines()


Run = Callable[..., Ran]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``gliascope WORDS`` in this process."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # main sets its own; put back afterwards

    def run(*words: object) -> Ran:
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a T2 and a FLAIR student and a teacher for both, in place of the shipped models."""
    folder = tmp_path / "models"
    threshold_model.install(folder, "student-t2", (T2,), dice=0.7)
    threshold_model.install(folder, "student-flair", (FLAIR,), dice=0.6)
    threshold_model.install(folder, "teacher", (T2, FLAIR), Role.TEACHER, dice=0.8)
    monkeypatch.setattr(registry, "SHIPPED", folder)
    return folder


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    return phantoms.write_subject(tmp_path / "anna", sequences=(T2,), truth=True)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    for name in ("anna", "boris", "carla"):
        phantoms.write_subject(tmp_path / "cohort" / name, truth=True)
    return tmp_path / "cohort"


def truth_of(folder: Path) -> np.ndarray:
    path = folder / f"{folder.name}_seg.nii.gz"
    return nifti.read_label_map(path, nifti.Convention.BRATS_2012_2021).data


# --- segment ----------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_mask_on_its_own_grid(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    ran = run("segment", patient, "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    assert "anna: whole tumour 0.3 ml, core 0.1 ml" in ran.out
    assert "T2 only: using the student t2. On 10 patients it reached whole tumour 0.70, core 0.70 (Dice)" in ran.out
    assert "Adding FLAIR would raise whole tumour to 0.80 and core to 0.80." in ran.out
    mask = nifti.read_label_map(tmp_path / "out" / "anna_seg.nii.gz", nifti.Convention.GLIASCOPE)
    scan = nifti.read(patient / "anna_t2.nii.gz")
    np.testing.assert_array_equal(mask.grid.affine, scan.grid.affine)
    np.testing.assert_array_equal(mask.data, truth_of(patient))


def test_the_mask_is_the_same_bytes_as_the_windows_save(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    run("segment", patient, "--out", tmp_path / "by command")
    files = sequences.find_subjects([patient])[0]
    choice = registry.choose(files.files, registry.list_models().models)
    worked = pipeline.work(files.name, sequences.read(files))
    found = inference.segment(worked.subject, choice.card)
    saved = export.save(found, worked.subject, tmp_path / "by window", reason=choice.reason, worked=worked)
    assert (tmp_path / "by command" / saved.mask.name).read_bytes() == saved.mask.read_bytes()
    sidecars = [json.loads((tmp_path / how / saved.sidecar.name).read_text()) for how in ("by command", "by window")]
    for sidecar in sidecars:
        for key in ("seconds", "made_at", provenance.SEAL):
            del sidecar[key]
    assert sidecars[0] == sidecars[1]


def test_json_says_what_the_sidecar_says_and_where_things_are(
    run: Run, models: Path, patient: Path, tmp_path: Path
) -> None:
    phantoms.write_volume(patient / "anna_t1.nii.gz", phantoms.head(phantoms.grid("LPS"), T1))
    ran = run("segment", patient, "--out", tmp_path / "out", "--json")
    [subject] = ran.answer["subjects"]
    sidecar = json.loads(Path(subject["sidecar"]).read_text())
    assert subject["advice"].startswith("Adding FLAIR would raise")
    for key in ("model", "reason", "sequences", "volumes_ml", "inputs", "device", "precision", "research_use"):
        assert subject[key] == sidecar[key]
    told = {"used": ["t2"], "not_used": ["t1"], "absent": ["t1ce", "flair"], "uncertain": []}
    assert subject["sequences"] == told
    assert Path(subject["mask"]).is_absolute()
    assert Path(subject["mask"]).exists()
    assert ran.answer["failed"] == []


def test_a_calibrated_model_gives_the_volume_with_its_interval(
    run: Run, models: Path, patient: Path, tmp_path: Path
) -> None:
    part = RegionCalibration(1.0, 0.05, 0.01, volume_low=0.5, volume_high=1.5, coverage=0.9, patients=40)
    threshold_model.install(
        models, "calibrated", (T2,), dice=0.9, calibration=Calibration(dict.fromkeys(REGIONS, part))
    )
    ran = run("segment", patient, "--out", tmp_path / "out")
    assert "anna: whole tumour 0.3 ml (90 %: 0.1 to 0.4), core 0.1 ml (90 %: 0.0 to 0.1) (" in ran.out
    [subject] = run("segment", patient, "--out", tmp_path / "out", "--json").answer["subjects"]
    assert subject["intervals_90_percent_ml"]["whole_tumour"] == [0.14, 0.42]


def test_loose_files_are_one_patient(run: Run, models: Path, cohort: Path, tmp_path: Path) -> None:
    files = [cohort / "anna" / f"anna_{sequence}.nii.gz" for sequence in (T2, FLAIR)]
    ran = run("segment", *files, "--out", tmp_path / "out", "--json")
    [subject] = ran.answer["subjects"]
    assert subject["model"]["name"] == "teacher"


def test_one_failing_patient_does_not_stop_the_others(run: Run, models: Path, cohort: Path, tmp_path: Path) -> None:
    for scan in (cohort / "boris").glob("*.nii.gz"):
        scan.write_bytes(scan.read_bytes()[:300])
    ran = run("segment", cohort, "--out", tmp_path / "out")
    assert ran.code == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        "anna_seg.nii.gz",
        "carla_seg.nii.gz",
    ]
    [sentence] = ran.sentences
    assert sentence.startswith("boris: boris_")
    assert "Copy it again from its source." in sentence


def test_a_patient_with_two_scans_of_one_sequence_does_not_hide_the_others(
    run: Run, models: Path, cohort: Path, tmp_path: Path
) -> None:
    phantoms.write_volume(cohort / "boris" / "boris_t2w.nii.gz", phantoms.head(phantoms.grid("LPS"), T2))
    ran = run("segment", cohort, "--out", tmp_path / "out", "--json")
    assert ran.code == 2
    assert [subject["name"] for subject in ran.answer["subjects"]] == ["anna", "carla"]
    assert "boris_t2" in ran.answer["failed"][0]["error"]


def test_patients_of_one_name_never_overwrite_each_other(run: Run, models: Path, tmp_path: Path) -> None:
    places = [phantoms.write_subject(tmp_path / site / "anna", sequences=(T2,)) for site in ("north", "south")]
    ran = run("segment", *places, "--out", tmp_path / "out", "--json")
    assert len(ran.answer["subjects"]) + len(ran.answer["failed"]) == 2
    masks = [subject["mask"] for subject in ran.answer["subjects"]]
    assert len(set(masks)) == len(masks) == len(list((tmp_path / "out").glob("*.nii.gz")))


def test_a_file_of_unknown_sequence_can_be_named(run: Run, models: Path, tmp_path: Path) -> None:
    scan = phantoms.write_volume(tmp_path / "visit.nii.gz", phantoms.head(phantoms.grid(), T2))
    refused = run("segment", scan, "--out", tmp_path / "out")
    assert refused.code == 2
    assert len(refused.sentences) == 1
    assert "visit.nii.gz" in refused.err
    assert "--t2" in refused.err
    named = run("segment", "--t2", scan, "--out", tmp_path / "out")
    assert (named.code, named.err) == (0, "")
    assert (tmp_path / "out" / "visit_seg.nii.gz").exists()


def test_naming_a_file_corrects_what_its_name_says(run: Run, models: Path, tmp_path: Path) -> None:
    wrong = phantoms.write_volume(tmp_path / "anna_t1.nii.gz", phantoms.head(phantoms.grid(), T2))
    ran = run("segment", wrong, "--t2", wrong, "--out", tmp_path / "out", "--json")
    [subject] = ran.answer["subjects"]
    assert subject["sequences"]["used"] == ["t2"]
    assert subject["sequences"]["not_used"] == []


def test_what_is_left_out_or_guessed_is_said(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    phantoms.write_volume(patient / "localiser.nii.gz", phantoms.head(phantoms.grid("LPS")))
    ran = run("segment", patient, "--out", tmp_path / "out")
    assert "localiser.nii.gz was left out" in ran.out
    (patient / "anna_t2.nii.gz").rename(patient / "t2_tirm_tra.nii.gz")
    threshold_model.install(models, "student-any", (FLAIR,))
    ran = run("segment", patient, "--out", tmp_path / "out", "--json")
    [subject] = ran.answer["subjects"]
    assert any("t2_tirm_tra.nii.gz was taken for FLAIR" in note for note in subject["notes"])
    assert json.loads(Path(subject["sidecar"]).read_text())["sequences"]["uncertain"] == ["flair"]


def test_other_grids_are_brought_together_by_their_headers_alone_when_asked(
    run: Run, models: Path, patient: Path, tmp_path: Path
) -> None:
    coarse = phantoms.grid("LPS", shape=(24, 28, 10), spacing=(1, 1, 2))
    phantoms.write_volume(patient / "anna_flair.nii.gz", phantoms.head(coarse, FLAIR))
    ran = run("segment", patient, "--out", tmp_path / "out", "--resample", "--json")
    [result] = ran.answer["subjects"]
    assert result["sequences"]["used"] == ["t2", "flair"]
    assert [step["did"] for step in result["preparation"]["steps"]] == [False] * 4
    assert result["resampled"] == ["flair"]
    assert "masks_of" not in result
    # What it always gave, byte for byte.
    subject = sequences.load(sequences.find_subjects([patient])[0], resample=True)
    choice = registry.choose(subject, registry.list_models().models)
    plain = export.save(inference.segment(subject, choice.card), subject, tmp_path / "plain", reason=choice.reason)
    assert Path(result["mask"]).read_bytes() == plain.mask.read_bytes()
    assert "FLAIR was resampled from another grid onto that of the mask." in result["notes"]


def test_of_several_volumes_one_can_be_chosen(run: Run, models: Path, tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid(), T2)
    series = np.stack([np.zeros_like(head.data), head.data, head.data * 0], axis=-1).astype(np.int16)
    scan = phantoms.write(tmp_path / "anna_t2.nii.gz", series, np.array(head.grid.affine))
    refused = run("segment", scan, "--out", tmp_path / "out")
    assert refused.code == 2
    assert "--volume 1 to 3" in refused.err
    ran = run("segment", scan, "--volume", 2, "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    assert run("segment", scan, "--volume", 9, "--out", tmp_path / "out").code == 2


def test_a_chosen_volume_on_another_grid_can_be_brought_together(
    run: Run, models: Path, patient: Path, tmp_path: Path
) -> None:
    coarse = phantoms.head(phantoms.grid("LPS", shape=(24, 28, 10), spacing=(1, 1, 2)), FLAIR)
    series = np.stack([coarse.data * 0, coarse.data], axis=-1).astype(np.int16)
    phantoms.write(patient / "anna_flair.nii.gz", series, np.array(coarse.grid.affine))
    assert run("segment", patient, "--volume", 2, "--out", tmp_path / "out", "--resample").code == 0


# Scans as hospitals have them. Registration, brain finding and N4 are stand-ins; the real ones have tests of their own.


HOSPITAL = {
    T2: phantoms.grid("LPS", (72, 72, 18), (0.7, 0.7, 3.0), (3.0, 0.0, 5.0), (9.0, -8.0, 9.0)),
    FLAIR: phantoms.grid("AIL", (60, 20, 60), (0.8, 2.5, 0.8), centre=(-1.0, -5.0, 12.0)),
}


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """T2 and FLAIR of a patient with a skull, each on a grid and at a place of its own."""
    stand_ins.install(monkeypatch)
    folder = tmp_path / "boris"
    folder.mkdir()
    for sequence, grid in HOSPITAL.items():
        phantoms.write_volume(folder / f"boris_{sequence.value}.nii.gz", stand_ins.raw_head(sequence, grid))
    return folder


def test_hospital_scans_become_masks_on_every_files_grid_and_each_step_is_told(
    run: Run, models: Path, hospital: Path, tmp_path: Path
) -> None:
    ran = run("segment", hospital, "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert re.fullmatch(r"boris: whole tumour .* s on CPU, \d+\.\d s in all\)", lines[0])
    for title, words in (
        ("Aligned", "FLAIR was moved"),
        ("One grid", "1 x 1 x 1 mm along T2"),
        ("Stripped", "The skull was removed from T2 and FLAIR"),
        ("Evened out", "Slow changes of brightness"),
    ):
        assert any(re.match(rf"  {title} \(\d+\.\d s\): {words}", line) or words in line for line in lines), title
    assert lines[-1] == f"  Mask on the grid of FLAIR: {(tmp_path / 'out' / 'boris_flair_seg.nii.gz').resolve()}"
    for ending, sequence in (("_seg", T2), ("_flair_seg", FLAIR)):
        mask = nifti.read_label_map(tmp_path / "out" / f"boris{ending}.nii.gz", nifti.Convention.GLIASCOPE)
        scan = nifti.read(hospital / f"boris_{sequence.value}.nii.gz")
        np.testing.assert_array_equal(mask.grid.affine, scan.grid.affine)
        assert mask.data.any()


def test_hospital_scans_give_the_windows_masks_to_the_byte(
    run: Run, models: Path, hospital: Path, tmp_path: Path
) -> None:
    [result] = run("segment", hospital, "--out", tmp_path / "out", "--json").answer["subjects"]
    files = sequences.find_subjects([hospital])[0]
    worked = pipeline.work(files.name, sequences.read(files))
    choice = registry.choose(files.files, registry.list_models().models)
    found = inference.segment(worked.subject, choice.card)
    saved = export.save(found, worked.subject, tmp_path / "by window", reason=choice.reason, worked=worked)
    assert Path(result["mask"]).read_bytes() == saved.mask.read_bytes()
    assert set(result["masks_of"]) == {"flair"}
    assert Path(result["masks_of"]["flair"]).read_bytes() == saved.others[FLAIR].read_bytes()


def test_steps_can_be_left_out(run: Run, models: Path, hospital: Path, tmp_path: Path) -> None:
    words = ("--no-align", "--no-strip", "--no-bias", "--json")
    [result] = run("segment", hospital, "--out", tmp_path / "out", *words).answer["subjects"]
    steps = {step["step"]: step["did"] for step in result["preparation"]["steps"]}
    assert steps == {"align": False, "grid": True, "strip": False, "bias": False}
    assert [result["preparation"]["settings"][step] for step in ("align", "strip", "bias")] == ["off"] * 3
    told = run("segment", hospital, "--out", tmp_path / "told", "--no-align", "--no-bias")
    assert "  Not aligned (" in told.out
    assert "left where its header puts it, as asked" in told.out
    assert "  Stripped (" in told.out


def test_scans_of_different_patients_are_one_sentence(run: Run, models: Path, hospital: Path, tmp_path: Path) -> None:
    head = stand_ins.raw_head(T1, phantoms.grid("RAS", (30, 30, 30)))
    affine = head.grid.affine.copy()
    affine[0, 3] += 900
    phantoms.write(hospital / "boris_t1.nii.gz", head.data, affine)
    ran = run("segment", hospital, "--out", tmp_path / "out", "--no-align")
    assert ran.code == 2
    [sentence] = ran.sentences
    assert "show different places" in sentence
    assert not (tmp_path / "out").exists()


@pytest.fixture
def export_of_two(hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DICOM export of two patients whose conversion is made up: what is read and chosen is tested elsewhere."""
    folder = tmp_path / "MÜLLER^HANS"
    folder.mkdir()
    (folder / "IM0001").write_bytes(b"")
    series = dicom.Series("1", 3, "", "axial", (1, 1, 3), (72, 72, 18), 18, T2, 0.99, "TE 100 ms", "", ())
    studies = [
        dicom.Study((series,), {T2: series}, (f"The {which} is doubted.",), patient="Müller, Hans")
        for which in ("first", "second")
    ]

    def convert(study: dicom.Study, workshop: object, progress: Progress, name: str = "patient") -> object:
        at = studies.index(study)
        place = workshop.new_folder()  # type: ignore[attr-defined]
        path = phantoms.write_volume(place / "0001.nii", stand_ins.raw_head(T2, HOSPITAL[(T2, FLAIR)[at]]))
        return sequences.SubjectFiles(name, {T2: path}, (), None, place)

    monkeypatch.setattr(dicom, "looks_like_dicom", lambda paths: folder in list(paths))
    monkeypatch.setattr(dicom, "look", lambda paths, workshop, progress: studies)
    monkeypatch.setattr(dicom, "subject_files", convert)
    return folder


def test_a_dicom_export_is_segmented_under_neutral_names(
    run: Run, models: Path, export_of_two: Path, tmp_path: Path
) -> None:
    for number, words in enumerate((("segment", export_of_two), ("segment", "--dicom", export_of_two))):
        out = tmp_path / f"out {number}"
        ran = run(*words, "--out", out)
        assert (ran.code, ran.err) == (0, "")
        assert sorted(path.name for path in out.iterdir()) == [
            "patient_2_seg.json",
            "patient_2_seg.nii.gz",
            "patient_seg.json",
            "patient_seg.nii.gz",
        ]
        assert "T2 is series 3 of 18 images (TE 100 ms)." in ran.out
        assert "The second is doubted." in ran.out
        # Neither header nor folder name reaches an output.
        assert not any(
            "LLER" in text.upper() for text in (ran.out.replace(str(tmp_path), ""), *map(str, out.iterdir()))
        )
        assert all(b"LLER" not in path.read_bytes().upper() for path in out.glob("*.json"))


def test_a_second_dicom_patient_does_not_take_the_place_of_the_first(
    run: Run, models: Path, export_of_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    both = dicom.look([], None, Progress())  # type: ignore[arg-type]
    monkeypatch.setattr(dicom, "look", lambda *_: both[:1])
    assert run("segment", export_of_two, "--out", out).code == 0
    assert run("segment", export_of_two, "--out", out).code == 0  # the same one again
    before = (out / "patient_seg.nii.gz").read_bytes()
    monkeypatch.setattr(dicom, "look", lambda *_: both[1:])
    refused = run("segment", export_of_two, "--out", out)
    assert refused.code == 2
    assert "made from other scans" in refused.err
    assert (out / "patient_seg.nii.gz").read_bytes() == before
    assert run("segment", export_of_two, "--out", out, "--name", "number 2").code == 0
    assert (out / "number 2_seg.nii.gz").exists()


def test_one_name_is_for_one_patient(run: Run, models: Path, cohort: Path, tmp_path: Path) -> None:
    ran = run("segment", cohort, "--out", tmp_path / "out", "--name", "all")
    assert ran.code == 2
    assert "3 patients cannot all be called all" in ran.err


def test_a_scan_without_orientation_is_refused_for_its_sides_are_unknown(
    run: Run, models: Path, tmp_path: Path
) -> None:
    head = phantoms.head(phantoms.grid("LPS"), T2)
    scan = phantoms.write(tmp_path / "anna_t2.nii.gz", head.data, np.array(head.grid.affine), sform=0, qform=0)
    ran = run("segment", scan, "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (2, "")
    assert ran.sentences == [
        "anna_t2.nii.gz cannot be segmented (its header does not say which way the head lies in it, so left and right "
        "are unknown). Export it again with its orientation, or set it in a program that can."
    ]
    assert not (tmp_path / "out").exists()


def test_a_segmentation_alone_is_called_one(run: Run, models: Path, cohort: Path, tmp_path: Path) -> None:
    ran = run("segment", cohort / "anna" / "anna_seg.nii.gz", "--out", tmp_path / "out")
    assert ran.code == 2
    [sentence] = ran.sentences
    assert sentence.startswith("anna_seg.nii.gz is a segmentation, not an MRI scan")


def test_the_truth_beside_the_scans_is_not_replaced(run: Run, models: Path, patient: Path) -> None:
    before = (patient / "anna_seg.nii.gz").read_bytes()
    ran = run("segment", patient, "--out", patient)
    assert ran.code == 2
    assert "is not replaced" in ran.err
    assert (patient / "anna_seg.nii.gz").read_bytes() == before
    assert sorted(path.name for path in patient.iterdir()) == ["anna_seg.nii.gz", "anna_t2.nii.gz"]


def test_names_longer_than_the_system_allows_are_one_sentence(run: Run, models: Path, tmp_path: Path) -> None:
    for words in (("segment", tmp_path / ("n" * 300), "--out", tmp_path / "out"), (tmp_path / ("n" * 300),)):
        ran = run(*words)
        assert (ran.code, len(ran.sentences)) == (2, 1), ran.err


def test_a_folder_that_may_not_be_read_is_one_sentence(
    run: Run, models: Path, patient: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: object = ".") -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    with monkeypatch.context() as patch:
        for name in ("scandir", "listdir"):
            patch.setattr(os, name, refuse)
        ran = run("segment", patient, "--out", tmp_path / "out")
    assert ran.code == 2
    assert ran.sentences == [
        "The folder anna cannot be read (permission was refused). Ask its owner, or choose another folder."
    ]


def test_a_name_that_is_no_text_is_answered_in_json_all_the_same(models: Path, patient: Path, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("other system: file names are always text there")
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/p\xe9ter"))
    patient.rename(folder)
    code = "import sys; from pathlib import Path; from app import cli; from engine import registry; "
    code += "registry.SHIPPED = Path(sys.argv[1]); sys.exit(cli.main(sys.argv[2:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, models, "segment", folder, "--out", tmp_path / "out", "--json"],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    [subject] = json.loads(done.stdout)["subjects"]
    assert Path(subject["mask"]).exists()


def test_a_model_asked_for_by_name_is_used_or_refused(run: Run, models: Path, cohort: Path, tmp_path: Path) -> None:
    ran = run("segment", cohort / "anna", "--model", "student-flair", "--out", tmp_path / "out", "--json")
    assert ran.answer["subjects"][0]["model"]["name"] == "student-flair"
    refused = run("segment", cohort / "anna" / "anna_t2.nii.gz", "--model", "teacher", "--out", tmp_path / "out")
    assert refused.code == 2
    assert "FLAIR" in refused.err
    (models / "student-flair" / "weights.safetensors").unlink()
    broken = run("segment", cohort / "anna", "--model", "student-flair", "--out", tmp_path / "out")
    assert broken.code == 2
    assert "weights.safetensors is missing" in broken.err
    unknown = run("segment", cohort / "anna", "--model", "nobody", "--out", tmp_path / "out")
    assert unknown.code == 2
    assert "student-t2" in unknown.err


def test_a_changed_model_is_named_and_refused(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    with (models / "student-t2" / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    ran = run("segment", patient, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "weights.safetensors" in ran.err
    assert len(ran.sentences) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_one_sentence(
    run: Run, models: Path, patient: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    ran = run("segment", patient, "--out", tmp_path / "out" / "deep")
    assert ran.code == 2
    assert len(ran.sentences) == 1
    assert (tmp_path / "out").read_text() == "a file is in the way"


INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
from app import DEMO, cli
from engine import inference, registry
registry.SHIPPED = Path(sys.argv[1])
really = inference.segment
times = int(sys.argv[2])

def interrupted(*arguments, **options):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)  # a signal is heard between two instructions
    print("not stopped by the second", flush=True)
    return really(*arguments, **options)

inference.segment = interrupted
sys.exit(cli.main(["segment", sys.argv[3], "--out", sys.argv[4]]))
"""


@pytest.mark.parametrize("times", [1, 2])
def test_interrupting_leaves_nothing_and_says_so(models: Path, patient: Path, tmp_path: Path, times: int) -> None:
    # In a process of its own: where faulthandler is on, as under pytest, its signal stack is too small for the
    # registers of a chip with AMX, and Linux ends the process.
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(models), str(times), str(patient), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["Stopped. Nothing half-written was left behind."]
    assert ("not stopped by the second" in done.stdout) == (times == 1)
    assert not (tmp_path / "out").exists()


WINDOW_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from PySide6.QtCore import QTimer
from app import application, cli, tasks
from app.settings import Settings
from engine import contents, registry
registry.SHIPPED = Path(sys.argv[1])
contents.disagreements = lambda volumes, progress=None: {}
cli.has_screen = lambda: sys.argv[2] == "open"
cli.DEMO = Path(sys.argv[3])
Settings.notice_read = True

def stop_while_it_works(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        arguments[-1].check()

tasks.segment = stop_while_it_works
made = application.make_application()
if sys.argv[2] == "open":
    QTimer.singleShot(300, lambda: os.kill(os.getpid(), signal.SIGINT))
words = [sys.argv[3]] if sys.argv[2] == "open" else ["demo", "--headless", "--out", sys.argv[4]]
sys.exit(cli.main(words))
"""


@pytest.mark.parametrize("what", ["open", "demo"])
def test_ctrl_c_ends_the_window_with_130(models: Path, patient: Path, tmp_path: Path, what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WINDOW_INTERRUPTED, str(models), what, str(patient), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "Stopped. Nothing half-written was left behind."
    assert not list(tmp_path.glob("out/*"))


# --- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["segment", "--out", "x"], "nothing to segment"),
        (["segment", "nowhere", "--out", "x"], "nowhere"),
        (["segment", "--device", "tpu", "x", "--out", "x"], "--device"),
        (["segment", "x"], "--out"),
        (["segment", "x", "--frobnicate"], "--frobnicate"),
        (["evaluate"], "DIR"),
        (["segmnt"], "Did you mean gliascope segment?"),
        (["no/such/scan.nii.gz"], "neither a command of gliascope nor a file"),
        (["--frobnicate"], "--frobnicate"),
        (["train", "nowhere.json"], "nowhere.json"),
        (["study", "nowhere.json", "--data", "."], "nowhere.json"),
        (["evaluate", ".", "--sequences", "t3"], "t3"),
        (["evaluate", ".", "--labels", "mine"], "brats-2023"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_exit_code_2(
    run: Run, models: Path, words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert expected in ran.err
    assert len(ran.sentences) == 1
    assert "Traceback" not in ran.err


def test_a_fault_of_the_program_is_a_sentence_and_a_report(tmp_path: Path) -> None:
    code = "import sys; from app import cli; cli.list_models = 1; cli._names = None; sys.exit(cli.main(['models']))"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "TMPDIR": str(tmp_path)}
    environment.pop("TEMP", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    report = re.search(r"written in (\S+\.txt)\.", done.stderr)
    assert report is not None
    assert "TypeError" in Path(report[1]).read_text(encoding="utf-8")


# --- verify -----------------------------------------------------------------------------------------------------------


def test_a_result_is_verified_and_made_again(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    run("segment", patient, "--out", tmp_path / "out", "--table")
    ran = run("verify", tmp_path / "out" / "anna_seg.nii.gz", "--again")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == (
        "anna_seg.nii.gz: Everything that was recorded is unchanged. Segmented again, it comes out the same."
    )
    assert "  Unchanged     T2 is unchanged: anna_t2.nii.gz." in lines
    everything = run("verify", tmp_path / "out", "--json")
    assert everything.code == 0
    names = [Path(one["path"]).name for one in everything.answer["verified"]]
    assert names == ["anna_seg.json", "anna_table.csv.json", "anna_table.json.json"]


def test_a_changed_scan_and_a_missing_one_end_with_2(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    run("segment", patient, "--out", tmp_path / "out")
    mask, scan = tmp_path / "out" / "anna_seg.nii.gz", patient / "anna_t2.nii.gz"
    away = tmp_path / "far" / "away"
    away.mkdir(parents=True)
    scan.rename(away / scan.name)
    ran = run("verify", mask)
    assert ran.code == 2
    assert "  Missing       T2 was not found near the result." in ran.out.splitlines()
    assert ran.sentences == ["Say where the scans are with --inputs and their folder."]
    assert run("verify", mask, "--inputs", tmp_path / "far").code == 0
    phantoms.write_volume(away / scan.name, phantoms.head(phantoms.grid("LPS"), FLAIR))
    ran = run("verify", mask, "--inputs", tmp_path / "far", "--again", "--json")
    assert ran.code == 2
    [report] = ran.answer["verified"]
    assert report["ok"] is False
    assert {item["what"]: item["state"] for item in report["items"]}["t2"] == "changed"


def test_what_cannot_be_verified_is_one_sentence(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    ran = run("verify", patient / "anna_t2.nii.gz")
    assert ran.code == 2
    [sentence] = ran.sentences
    assert sentence.startswith("Nothing beside anna_t2.nii.gz says how it came about")
    assert run("verify", tmp_path / "nothing").code == 2
    assert run("verify", patient, "--inputs", tmp_path / "nothing").code == 2


def test_models_are_listed_with_what_was_measured(run: Run, models: Path) -> None:
    ran = run("models")
    assert (ran.code, ran.err) == (0, "")
    row = next(line for line in ran.out.splitlines() if "student-t2" in line)
    assert row.split() == ["student-t2", "T2", "student", "0.70", "0.70", "10", "1.0"]
    uses = [line.split("  ") for line in ran.out.splitlines()]
    uses = [[cell.strip() for cell in cells if cell.strip()] for cells in uses]
    assert ["T1 T2", "T2", "student-t2", "0.70", "0.70", "8.0", "8.0", "10"] in uses
    assert ["T1", "no model works with these"] in uses
    listed = run("models", "--json").answer
    assert len(listed["by_sequences"]) == 15
    four = listed["by_sequences"][-1]
    assert (four["present"], four["used"]) == (["t1", "t1ce", "t2", "flair"], ["t2", "flair"])
    assert (four["model"], four["patients"]) == ("teacher", 10)
    assert four["regions"]["whole_tumour"] == {"dice_mean": 0.8, "dice_sd": 0.1, "hd95_mean": 8.0}
    assert listed["by_sequences"][0] == {"present": ["t1"], "model": None}
    assert [card["name"] for card in listed["models"]] == ["student-flair", "student-t2", "teacher"]
    assert listed["models"][0]["evaluation"]["patients"] == 10


def test_a_model_for_any_subset_is_given_what_it_was_best_with_and_says_so(
    run: Run, models: Path, cohort: Path, tmp_path: Path
) -> None:
    measured = {"t2": 0.9, "t1+t2": 0.85, "t1": 0.2}
    threshold_model.install(models, "any", (T2, T1), by_sequences=measured)
    ran = run("segment", cohort / "anna", "--out", tmp_path / "out", "--json")
    [subject] = ran.answer["subjects"]
    assert (subject["model"]["name"], subject["sequences"]["used"]) == ("any", ["t2"])
    assert "T1, T1ce and FLAIR are not used" in subject["reason"]
    named = run("evaluate", cohort, "--model", "any", "--json", "--csv", tmp_path / "scores.csv").answer
    assert [case["sequences"] for case in named["cases"]] == [["t1", "t2"]] * 3, "asked for by name it takes all it can"
    assert "anna,any,t1+t2,whole_tumour,1,0," in (tmp_path / "scores.csv").read_text()
    alone = run("evaluate", cohort, "--model", "any", "--sequences", "t2")
    assert re.search(r"anna +any +T2 +1\.000", alone.out)
    listed = run("models")
    assert re.search(r"T1 T2 +T2 +any +0\.90 +0\.90", listed.out)
    assert re.search(r"any +any of T2 T1 +student", listed.out)


def test_a_broken_model_folder_is_listed_as_a_problem(run: Run, models: Path) -> None:
    (models / "teacher" / "weights.safetensors").unlink()
    ran = run("models")
    assert ran.code == 2
    assert "student-t2" in ran.out
    assert "weights.safetensors is missing" in ran.err


def test_help_and_version(run: Run) -> None:
    for words in (["--help"], ["segment", "--help"]):
        ran = run(*words)
        assert ran.code == 0
        assert "Usage: gliascope" in ran.out
    assert re.fullmatch(r"gliascope \d+\.\d+\.\d+\n", run("--version").out)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate_gives_each_case_and_mean_spread_and_median(
    run: Run, models: Path, cohort: Path, tmp_path: Path
) -> None:
    ran = run("evaluate", cohort, "--json", "--csv", tmp_path / "scores.csv")
    assert (ran.code, ran.err) == (0, "")
    cases = ran.answer["cases"]
    assert [(case["name"], case["model"]) for case in cases] == [(n, "teacher") for n in ("anna", "boris", "carla")]
    assert cases[0]["regions"]["whole_tumour"]["dice"] == 1.0
    assert cases[0]["regions"]["tumour_core"]["hd95_mm"] == 0.0
    summary = ran.answer["summary"]["whole_tumour"]
    assert (summary["dice_mean"], summary["dice_sd"], summary["dice_median"]) == (1.0, 0.0, 1.0)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[1]["region"] == "tumour_core"
    assert float(rows[1]["dice"]) == 1.0


def test_scores_are_told_even_when_their_table_cannot_be_written(
    run: Run, models: Path, cohort: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ran = run("evaluate", cohort, "--json", "--csv", tmp_path / "file" / "scores.csv")
    assert ran.code == 2
    assert ran.sentences == ["Something else is named file already. Move it, or choose another folder."]
    assert len(ran.answer["cases"]) == 3


def test_too_little_memory_is_one_sentence(
    run: Run, models: Path, patient: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sequences, "read", exhausted)
    ran = run("segment", patient, "--out", tmp_path / "out")
    assert (ran.code, len(ran.sentences)) == (2, 1)
    assert "too little memory" in ran.err


def test_evaluate_can_pretend_that_sequences_are_missing(run: Run, models: Path, cohort: Path) -> None:
    # A fault in a sequence that is pretended away does not matter.
    (cohort / "anna" / "anna_t1.nii.gz").write_bytes(b"not an image")
    ran = run("evaluate", cohort, "--sequences", "flair", "--json")
    assert ran.code == 0
    assert {case["model"] for case in ran.answer["cases"]} == {"student-flair"}


def test_evaluate_prints_a_table_and_what_failed(run: Run, models: Path, cohort: Path) -> None:
    (cohort / "boris" / "boris_flair.nii.gz").unlink()
    ran = run("evaluate", cohort, "--model", "student-flair")
    assert ran.code == 2
    assert ran.sentences == [
        "boris: The student flair needs FLAIR, which is not here. "
        "Add the sequence, or leave the choice of the model to Gliascope."
    ]
    assert re.search(r"^ *Mean +2 patients +1\.000 +1\.000 +0\.0 +0\.0", ran.out, re.MULTILINE)
    assert "Median" in ran.out


def test_evaluate_warns_of_patients_the_model_was_trained_on(
    run: Run, models: Path, cohort: Path, tmp_path: Path
) -> None:
    training = {"train_cases": ["anna", "zoe"], "validation_cases": ["boris"]}
    threshold_model.install(models, "seen-t1ce", (T1CE,), training=training)
    ran = run("evaluate", cohort, "--model", "seen-t1ce", "--csv", tmp_path / "scores.csv")
    assert ran.code == 0
    assert ran.sentences == [
        "1 of these 3 patients was in the training set of the model; its scores say nothing about new patients."
    ]
    assert "in the training set" in next(line for line in ran.out.splitlines() if "anna" in line)
    assert (tmp_path / "scores.csv").read_text().count(",yes\n") == 2


def test_a_patients_name_is_not_taken_for_markup(run: Run, models: Path, tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "cohort" / "[bold]7", truth=True)
    assert "[bold]7" in run("evaluate", tmp_path / "cohort").out


def test_evaluate_needs_a_truth(run: Run, models: Path, tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "cohort" / "anna")
    ran = run("evaluate", tmp_path / "cohort")
    assert ran.code == 2
    assert "no patient with a ground truth" in ran.err


# --- demo, self-test, train -------------------------------------------------------------------------------------------


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = phantoms.write_subject(tmp_path / "demo")
    truth = phantoms.tumour(phantoms.grid("LPS"))
    nifti.write_label_map(truth, folder / "demo_seg.nii.gz")
    monkeypatch.setattr(cli, "DEMO", folder)
    return folder


def test_self_test_passes_on_models_that_find_the_tumour(run: Run, models: Path, demo: Path) -> None:
    ran = run("self-test", "--no-window", "--no-training")
    assert (ran.code, ran.err) == (0, "")
    assert len(re.findall(r"passed +\d+\.\d s  .* \(Dice 1\.00 and Dice 1\.00\)", ran.out)) == 3


@pytest.mark.slow
def test_a_program_that_is_asked_for_a_self_test_tries_the_window_and_two_steps_of_training(
    run: Run, models: Path, demo: Path, qapp: object
) -> None:
    ran = run("--self-test")
    assert (ran.code, ran.err) == (0, "")
    said = re.findall(r"^passed +\d+\.\d s  (.*)$", ran.out, re.MULTILINE)
    assert said[:5] == [
        "Window opened and painted",
        "Demo patient read into the window",
        "Segmented in the window",
        "Saved from the window",
        "Verified what was saved",
    ]
    assert said[-1] == "2 steps of training"


def test_self_test_says_what_training_died_of(
    run: Run, models: Path, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.config import TrainConfig

    monkeypatch.setattr(TrainConfig, "to_json", lambda config: "{}")
    ran = run("self-test", "--no-window")
    assert ran.code == 2
    assert "config.json is not a training config" in ran.err


def test_self_test_names_a_changed_file_and_a_model_that_finds_nothing(run: Run, models: Path, demo: Path) -> None:
    with (models / "teacher" / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    for scan in demo.glob("*_flair.nii.gz"):
        phantoms.write_volume(scan, phantoms.head(phantoms.grid("LPS"), T1))
    ran = run("self-test", "--no-window", "--no-training", "--json")
    assert ran.code == 2
    assert [check["passed"] for check in ran.answer["checks"]] == [False, True, False]
    assert "student flair does not find the demo patient's tumour" in ran.err
    assert "weights.safetensors of the teacher" in ran.err


def test_training_goes_on_to_the_end_and_shows_what_happens(
    run: Run, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import run as trainer_run
    from trainer.config import TrainConfig
    from trainer.events import Finished, StepEnd, Validated

    config = TrainConfig("tiny", "teacher", (T2,), str(cohort), ("anna",), ("boris",), steps=2, warm_up=1)
    (tmp_path / "tiny.json").write_text(config.to_json())
    asked = []

    def train(config: TrainConfig, folder: Path, emit: Callable[[object], None], progress: Progress) -> None:
        asked.append((config, folder))
        emit(StepEnd(1, 0.5, {}, 1e-3, 0.1, 0.1))
        emit(Validated(2, {"whole_tumour": 0.8, "tumour_core": 0.6}, 1))
        emit(Finished(2, "weights"))

    monkeypatch.setattr(trainer_run, "train", train)
    ran = run("train", tmp_path / "tiny.json", "--out", tmp_path / "runs")
    assert ran.code == 0
    assert "Step 2: Dice Whole tumour 0.80, Core 0.60 on 1 patients" in ran.out
    assert asked == [(config, tmp_path / "runs" / "tiny")]
    events = run("train", tmp_path / "tiny.json", "--json").out.splitlines()
    assert [json.loads(line)["event"] for line in events] == ["StepEnd", "Validated", "Finished"]


# --- the screen -------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)


linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other system: X11 and Wayland are Linux'")


@linux_only
@pytest.mark.parametrize("display", ["", ":", ":x", ":9876", "127.0.0.1:3210", "nonsense"])
def test_a_display_that_does_not_answer_is_no_screen(
    no_screen: None, monkeypatch: pytest.MonkeyPatch, display: str
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    assert not cli.has_screen()


@linux_only
def test_a_display_that_answers_is_a_screen(no_screen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":9875.0")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0/tmp/.X11-unix/X9875")
        server.listen()
        assert cli.has_screen()
        monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
        assert not cli.has_screen()


@linux_only
def test_opening_without_a_screen_says_how_to_segment_without_one(
    no_screen: None, run: Run, models: Path, patient: Path
) -> None:
    ran = run(patient)
    assert ran.code == 2
    assert ran.sentences == [
        f"There is no screen here to open the window on. Without a window: gliascope segment {patient} --out DIR"
    ]


def test_models_are_opened_once_for_a_whole_cohort(
    run: Run, models: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    really = runtime.open_network

    def counted(card: ModelCard, device: runtime.Device) -> object:
        opened.append(card.name)
        return really(card, device)

    monkeypatch.setattr(runtime, "open_network", counted)
    assert run("segment", cohort, "--out", tmp_path / "out").code == 0
    assert opened == ["teacher"]


def test_the_demo_off_screen_says_where_picture_and_mask_are(
    run: Run, models: Path, demo: Path, tmp_path: Path, no_screen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    ran = run("demo", "--out", tmp_path / "made")
    assert ran.code == 0
    assert ran.sentences == ["Segmenting the demo patient off screen, as there is no screen here."]
    assert "Demo patient: whole tumour 0.3 ml, core 0.1 ml" in ran.out
    said = dict(re.findall(r"^  (Mask|Picture): (.+)$", ran.out, re.MULTILINE))
    assert nifti.label_values(Path(said["Mask"])) == {1, 2}
    assert Path(said["Picture"]).read_bytes().startswith(b"\x89PNG")
    assert Path(said["Picture"]).parent == tmp_path / "made"


def test_a_demo_folder_that_cannot_be_made_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = run("demo", "--headless", "--out", tmp_path / "file" / "made")
    assert ran.code == 2
    assert "could not be made" in ran.sentences[-1]


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_says_what_is_wrong_and_who_can_be_learnt_from(run: Run, tmp_path: Path) -> None:
    for name in ("anna", "boris", "carla"):
        phantoms.write_subject(tmp_path / "cohort" / name, truth=True)
    (tmp_path / "cohort" / "boris" / "boris_seg.nii.gz").unlink()
    (tmp_path / "cohort" / "carla" / "carla_flair.nii.gz").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")}
    ran = run("check", tmp_path / "cohort")
    assert ran.code == 2
    assert "Error: boris has no ground truth." in ran.out
    assert "Note: carla has no FLAIR." in ran.out
    assert "2 of 3 patients can be learnt from as they are." in ran.out
    manifest = tmp_path / "out" / "patients.json"
    ran = run("check", tmp_path / "cohort", "--usable-only", "--out", manifest, "--json")
    assert ran.code == 0
    assert [patient["included"] for patient in ran.answer["patients"]] == [True, False, True]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")} == before
    ran = run("check", manifest)
    assert ran.code == 0
    assert "2 of 2 patients can be learnt from as they are." in ran.out
    assert "boris has no ground truth" not in ran.out


def test_check_takes_the_answer_about_labels_and_keeps_it(run: Run, tmp_path: Path) -> None:
    for name in ("anna", "boris"):
        folder = phantoms.write_subject(tmp_path / "cohort" / name)
        on = phantoms.grid("LPS")
        phantoms.write(folder / f"{name}_seg.nii.gz", phantoms.tumour(on).data, np.array(on.affine))
    ran = run("check", tmp_path / "cohort")
    assert ran.code == 2
    assert "does not say what its labels mean (1, 2)" in ran.out
    assert run("check", tmp_path / "cohort", "--labels", "brats-2023", "--out", tmp_path / "patients.json").code == 0
    record = json.loads((tmp_path / "patients.json").read_text())
    assert {patient["convention"] for patient in record["patients"]} == {"brats-2023"}
    assert run("check", tmp_path / "patients.json").code == 0


def test_check_tells_what_is_no_cohort_in_one_sentence(run: Run, tmp_path: Path) -> None:
    ran = run("check", tmp_path / "nowhere")
    assert (ran.code, len(ran.sentences)) == (2, 1)
    assert "is not there" in ran.err
    (tmp_path / "cohort.csv").write_text("age\n5\n")
    assert "is not a table of patients" in run("check", tmp_path / "cohort.csv").err


def test_files_without_names_are_told_by_what_they_show_and_what_is_unusual_is_said_first(
    run: Run, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "place", PLACE)
    monkeypatch.setattr(unusual, "look", LOOK)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "101.nii.gz").write_bytes((DEMO / "demo_flair.nii.gz").read_bytes())
    ran = run("segment", tmp_path / "scans", "--out", tmp_path / "one", "--json")
    assert ran.code == 0, ran.err
    (result,) = ran.answer["subjects"]
    assert result["sequences"]["used"] == ["flair"]
    assert any(note.startswith("101.nii.gz was taken for FLAIR: it looks like FLAIR (") for note in result["notes"])

    (tmp_path / "scans" / "101.nii.gz").rename(tmp_path / "scans" / "p_t2.nii.gz")
    ran = run("segment", tmp_path / "scans", "--out", tmp_path / "two", "--json")
    (result,) = ran.answer["subjects"]
    assert result["sequences"]["used"] == ["t2"]
    sidecar = json.loads(Path(result["sidecar"]).read_text())
    assert sidecar["notes"][0].startswith("The scan taken for T2 looks like FLAIR.")


def test_more_than_masks_is_written_when_asked_for(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--probabilities", "--table", "--stl", "--report", "--figure", "--title", "Study 0417")
    [result] = run("segment", patient, "--out", out, *words, "--json").answer["subjects"]
    assert {Path(path).name for path in result["outputs"].values()} == {
        "anna_whole_tumour_probseg.nii.gz",
        "anna_tumour_core_probseg.nii.gz",
        "anna_whole_tumour.stl",
        "anna_tumour_core.stl",
        "anna_table.csv",
        "anna_table.json",
        "anna_report.pdf",
        "anna_figure.png",
    }
    [page] = PdfReader(result["outputs"]["report"]).pages
    words_of_it = " ".join(page.extract_text().split())
    assert "Study 0417" in words_of_it
    assert f"{result['volumes_ml']['whole_tumour']:.1f} ml" in words_of_it
    assert "anna" not in words_of_it
    assert run("verify", result["outputs"]["report"], "--inputs", patient).code == 0
    plain = tmp_path / "plain"
    assert run("segment", patient, "--out", plain).code == 0
    assert (plain / "anna_seg.nii.gz").read_bytes() == (out / "anna_seg.nii.gz").read_bytes()
    assert sorted(path.name for path in plain.iterdir()) == ["anna_seg.json", "anna_seg.nii.gz"]
    told = run("segment", patient, "--out", out, "--table")
    assert f"  Table: {(out / 'anna_table.csv').resolve()}" in told.out.splitlines()


def test_a_dicom_segmentation_needs_dicom(run: Run, models: Path, patient: Path, tmp_path: Path) -> None:
    ran = run("segment", patient, "--out", tmp_path / "out", "--dicom-seg")
    assert ran.code == 2
    assert "T2 was not read from DICOM" in ran.sentences[0]
    assert not (tmp_path / "out").exists()


def test_a_dicom_examination_becomes_a_dicom_segmentation(
    run: Run, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brain, "is_stripped", lambda volume: True)
    fake_dicom.Examination(tmp_path / "in").series(fake_dicom.T2, 3)
    out = tmp_path / "out"
    ran = run("segment", "--dicom", tmp_path / "in", "--out", out, "--dicom-seg")
    assert (ran.code, ran.err) == (0, "")
    assert "DICOM segmentation, with the patient's name and number: " in ran.out
    made = pydicom.dcmread(out / "patient_seg.dcm")
    assert made.PatientID == fake_dicom.IDENTITY
    mask = nifti.read_label_map(out / "patient_seg.nii.gz", nifti.Convention.GLIASCOPE)
    assert len(made.SegmentSequence) == 2
    pixels = {1: 0, 2: 0}
    for frame, picture in zip(made.PerFrameFunctionalGroupsSequence, np.atleast_3d(made.pixel_array), strict=True):
        pixels[int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)] += int(picture.sum())
    assert pixels == {1: int(mask.whole_tumour.sum()), 2: int(mask.tumour_core.sum())}
    # Nobody's name is anywhere else.
    for path in out.iterdir():
        if path.suffix != ".dcm":
            assert not any(secret.encode() in path.read_bytes() for secret in fake_dicom.SECRETS)
