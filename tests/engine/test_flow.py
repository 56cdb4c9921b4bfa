"""One patient from files to masks in one call, as Python users make it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import engine
from app import cli
from engine import contents, provenance, registry, segment, unusual
from engine.errors import BadModel, SequenceProblem
from engine.model_card import Role
from engine.progress import Progress
from engine.sequences import find_subjects, load
from engine.volume import Sequence
from tests.app import threshold_model
from tests.engine import phantoms

T1, T1CE, T2, FLAIR = Sequence


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A T2 student and a teacher for T2 and FLAIR; phantoms are no heads, which nobody is to remark on."""
    folder = tmp_path / "models"
    threshold_model.install(folder, "student-t2", (T2,), dice=0.7)
    threshold_model.install(folder, "teacher", (T2, FLAIR), Role.TEACHER, dice=0.8)
    monkeypatch.setattr(registry, "folders", lambda: [folder])
    monkeypatch.setattr(unusual, "look", lambda *_: ())
    monkeypatch.setattr(contents, "place", lambda files, *_: contents.Placed(files, {}, ()))
    return folder


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    return phantoms.write_subject(tmp_path / "anna", truth=True)


def test_python_and_the_command_line_write_the_same_bytes(patient: Path, tmp_path: Path) -> None:
    assert cli.main(["segment", str(patient), "--out", str(tmp_path / "by command")]) == 0
    saved = segment(patient).save(tmp_path / "by python")
    assert saved.mask.read_bytes() == (tmp_path / "by command" / "anna_seg.nii.gz").read_bytes()
    records = [json.loads((tmp_path / how / "anna_seg.json").read_text()) for how in ("by command", "by python")]
    for record in records:
        for key in ("seconds", "made_at", provenance.SEAL):
            del record[key]
    assert records[0] == records[1]


def test_a_patient_can_be_given_in_every_form(patient: Path) -> None:
    by_folder = segment(str(patient))
    files = {T2: patient / "anna_t2.nii.gz", "flair": patient / "anna_flair.nii.gz"}
    [found] = find_subjects([patient])
    forms = [segment(files), segment(list(files.values())), segment(load(found))]
    assert by_folder.choice.card.name == "teacher"
    assert by_folder.volumes_ml["whole_tumour"] > 0.2
    for result in forms:
        assert result.segmentation.used == (T2, FLAIR)
        np.testing.assert_array_equal(result.labels.data, by_folder.labels.data)


def test_what_is_to_be_left_out_is_as_if_it_were_not_there(patient: Path, tmp_path: Path) -> None:
    result = segment(patient, sequences=["t2"], name="anna without FLAIR")
    assert result.choice.card.name == "student-t2"
    record = json.loads(result.save(tmp_path).sidecar.read_text())
    assert record["sequences"]["absent"] == ["t1", "t1ce", "flair"]
    assert list(record["inputs"]) == ["t2"]
    [found] = find_subjects([patient])
    again = segment(load(found), sequences=[T2])
    np.testing.assert_array_equal(again.labels.data, result.labels.data)


def test_what_cannot_be_is_one_sentence(patient: Path, tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "cohort" / "boris")
    phantoms.write_subject(tmp_path / "cohort" / "carla")
    (patient / "anna_t1.nii.gz").unlink()
    with pytest.raises(SequenceProblem, match="2 patients are there, and segment takes one at a time"):
        segment(tmp_path / "cohort")
    with pytest.raises(SequenceProblem, match="anna has no T1"):
        segment(patient, sequences=["t1"])
    with pytest.raises(SequenceProblem, match='"t3" is not a sequence'):
        segment(patient, sequences=["t3"])
    with pytest.raises(SequenceProblem, match="One file was named as two sequences"):
        segment({"t1": patient / "anna_t2.nii.gz", "t2": patient / "anna_t2.nii.gz"})
    with pytest.raises(BadModel, match='no model called "none"'):
        segment(patient, model="none")


def test_progress_goes_up_to_the_end(patient: Path) -> None:
    told: list[float] = []
    segment(patient, progress=Progress(lambda fraction, message: told.append(fraction)))
    assert told == sorted(told)
    assert told[-1] > 0.95


def test_the_package_offers_nothing_else_by_accident() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        engine.nonsense  # noqa: B018
