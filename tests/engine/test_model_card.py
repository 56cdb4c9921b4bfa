from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadModel
from engine.model_card import (
    REQUIRED_FILES,
    RESEARCH_USE,
    Architecture,
    Calibration,
    Evaluation,
    ModelCard,
    RegionCalibration,
    RegionScores,
    Role,
)
from engine.volume import Sequence

EVALUATION = Evaluation(
    "5-fold cross-validation by patient",
    cases=12,
    patients=10,
    regions={"whole_tumour": RegionScores(0.75, 0.12, 9.5), "tumour_core": RegionScores(0.52, 0.2)},
    subsets={
        "BraTS 2018": {"whole_tumour": RegionScores(0.7, 0.1), "tumour_core": RegionScores(0.5, 0.2)},
    },
)


PART = RegionCalibration(1.4, 0.05, 0.01, volume_low=0.8, volume_high=1.3, coverage=0.9, patients=40)
CALIBRATION = Calibration({"whole_tumour": PART, "tumour_core": replace(PART, temperature=2.0)})


def make_card(**changes: Any) -> ModelCard:
    card = ModelCard(
        name="t1-flair-student",
        title="T1 + FLAIR student",
        version="1.2",
        role=Role.STUDENT,
        sequences=(Sequence.FLAIR, Sequence.T1),
        spacing_mm=2.0,
        window=(80, 96, 80),
        architecture=Architecture("folded_unet", {"inputs": 2, "filters": [32, 64]}),
        mirror_axes=(0,),
        minimum_ml={"whole_tumour": 0.5, "tumour_core": 0.1},
        evaluation=EVALUATION,
        training={"steps": 2000, "learning_rate": 1e-3},
        data="40 patients, größtenteils präoperativ",
        licence="CC BY 4.0",
        citations=("Rahimpour et al. 2022",),
        made_with={"python": "3.11", "torch": "2.13"},
    )
    return replace(card, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "t1-flair-student"
    folder.mkdir()
    for name in REQUIRED_FILES:
        (folder / name).write_bytes(name.encode())
    return folder


def change(folder: Path, **values: Any) -> None:
    path = folder / "model.json"
    text = json.loads(path.read_text("utf-8"))
    for key, value in values.items():
        if value is ...:
            del text[key]
        else:
            text[key] = value
    path.write_text(json.dumps(text), "utf-8")


def test_what_was_written_is_read_back(folder: Path) -> None:
    written = make_card().write(folder)
    read = ModelCard.read(folder)
    assert read == written
    assert read.folder == folder
    assert read.sequences == (Sequence.FLAIR, Sequence.T1), "channel order is part of the card"
    assert read.evaluation == EVALUATION
    assert read.intended_use == RESEARCH_USE
    assert set(read.files) == set(REQUIRED_FILES)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*REQUIRED_FILES, "model.json"])


def test_the_card_is_plain_json_with_the_agreed_names(folder: Path) -> None:
    make_card().write(folder)
    values = json.loads((folder / "model.json").read_text("utf-8"))
    assert values["format"] == 2
    assert values["role"] == "student"
    assert values["sequences"] == ["flair", "t1"]
    assert values["regions"] == ["whole_tumour", "tumour_core"]
    assert values["normalisation"] == {"kind": "zscore-in-brain", "clip": 5.0}
    assert values["architecture"] == {"name": "folded_unet", "args": {"inputs": 2, "filters": [32, 64]}}
    assert values["evaluation"]["regions"]["whole_tumour"] == {"dice_mean": 0.75, "dice_sd": 0.12, "hd95_mean": 9.5}
    assert "folder" not in values


def test_writing_twice_gives_the_same_bytes(folder: Path) -> None:
    make_card().write(folder)
    first = (folder / "model.json").read_bytes()
    ModelCard.read(folder).write(folder)
    assert (folder / "model.json").read_bytes() == first


def test_an_unmeasured_model_is_allowed_and_has_no_dice(folder: Path) -> None:
    make_card(evaluation=None).write(folder)
    card = ModelCard.read(folder)
    assert card.scores(card.sequences) is None
    assert make_card().scores(card.sequences) == EVALUATION.regions


def test_a_model_for_any_subset_says_how_good_it_is_with_each(folder: Path) -> None:
    by_sequences = {"t1": EVALUATION.subsets["BraTS 2018"]}
    make_card(any_subset=True, evaluation=replace(EVALUATION, by_sequences=by_sequences)).write(folder)
    card = ModelCard.read(folder)
    assert card.any_subset
    assert card.scores([Sequence.T1]) == by_sequences["t1"]
    assert card.scores([Sequence.FLAIR]) is None
    assert card.scores([Sequence.FLAIR, Sequence.T1]) == EVALUATION.regions
    assert card.usable([Sequence.T2, Sequence.FLAIR]) == (Sequence.FLAIR,)
    assert card.usable([Sequence.T2]) == ()
    assert make_card().usable([Sequence.FLAIR]) == ()
    assert make_card().usable(Sequence) == (Sequence.T1, Sequence.FLAIR)


def test_a_calibrated_model_says_how_far_it_can_be_believed(folder: Path) -> None:
    make_card(calibration=CALIBRATION).write(folder)
    card = ModelCard.read(folder)
    assert card.calibration == CALIBRATION
    assert card.calibrated(card.sequences) == CALIBRATION.regions
    assert make_card().calibrated(card.sequences) is None
    values = json.loads((folder / "model.json").read_text("utf-8"))["calibration"]
    assert list(values) == ["regions"]
    assert values["regions"]["tumour_core"]["temperature"] == 2.0
    alone = {"flair": dict.fromkeys(CALIBRATION.regions, replace(PART, volume_high=2.0))}
    few = replace(PART, volume_low=None, volume_high=None, coverage=None)
    make_card(calibration=Calibration(dict.fromkeys(CALIBRATION.regions, few))).write(folder)
    assert ModelCard.read(folder).calibration == Calibration(dict.fromkeys(CALIBRATION.regions, few))
    assert (few.interval_ml(10.0), PART.interval_ml(0.0)) == (None, None)
    assert PART.interval_ml(10.0) == pytest.approx((8.0, 13.0))
    make_card(any_subset=True, calibration=replace(CALIBRATION, by_sequences=alone)).write(folder)
    card = ModelCard.read(folder)
    assert card.calibrated([Sequence.FLAIR]) == alone["flair"]
    assert card.calibrated([Sequence.T1]) == CALIBRATION.regions


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"ece_after": -0.1}, "not between 0 and 1"),
        ({"coverage": 1.1}, "not between 0 and 1"),
        ({"volume_low": 1.4}, "interval"),
        ({"volume_low": -0.1}, "interval"),
        ({"volume_low": None}, "one end alone"),
        ({"volume_high": float("inf")}, "interval"),
        ({"patients": 0}, "how many patients"),
    ],
)
def test_an_impossible_calibration_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(PART, **change)


def test_a_calibration_covers_both_regions_and_only_what_the_model_takes() -> None:
    with pytest.raises(ValueError, match="whole_tumour and tumour_core"):
        Calibration({"whole_tumour": PART})
    with pytest.raises(ValueError, match="names no sequences"):
        replace(CALIBRATION, by_sequences={"T1": CALIBRATION.regions})
    with pytest.raises(ValueError, match="needs all of them"):
        make_card(calibration=replace(CALIBRATION, by_sequences={"t1": CALIBRATION.regions}))


def test_entries_of_a_later_writer_do_not_matter(folder: Path) -> None:
    make_card().write(folder)
    change(folder, colour="blue")
    assert ModelCard.read(folder).name == "t1-flair-student"


def test_the_fingerprint_changes_with_weights_and_with_thresholds(folder: Path) -> None:
    first = make_card().write(folder)
    assert ModelCard.read(folder).fingerprint == first.fingerprint
    assert replace(first, threshold={"whole_tumour": 0.4, "tumour_core": 0.5}).fingerprint != first.fingerprint
    (folder / "weights.safetensors").write_bytes(b"other")
    assert make_card().write(folder).fingerprint != first.fingerprint


def test_a_moved_model_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    written = make_card().write(folder)
    moved = Path(shutil.copytree(folder, tmp_path / "Größe 脳" / "moved"))
    assert ModelCard.read(moved) == written


def test_export_without_weights_is_refused(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(BadModel, match=r"weights\.safetensors is missing"):
        make_card().write(folder)
    assert not (folder / "model.json").exists()


def test_a_folder_without_card_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"is not a model \(it has no model\.json\)"):
        ModelCard.read(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"weights", b"[1, 2]", b'"card"', b"null", b"[" * 100_000])
def test_a_card_that_is_not_a_table_is_one_plain_sentence(folder: Path, text: bytes) -> None:
    (folder / "model.json").write_bytes(text)
    with pytest.raises(BadModel, match="The card of the model in t1-flair-student makes no sense"):
        ModelCard.read(folder)


def test_a_newer_format_asks_for_a_newer_program(folder: Path) -> None:
    make_card().write(folder)
    change(folder, format=3)
    with pytest.raises(BadModel, match=r"made for a newer Gliascope.*format 3.*Update Gliascope"):
        ModelCard.read(folder)


def test_an_older_format_asks_for_another_export(folder: Path) -> None:
    make_card().write(folder)
    change(folder, format=1)
    with pytest.raises(BadModel, match=r"made for an older Gliascope.*format 1.*Export it again"):
        ModelCard.read(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../network.xml",
        "..",
        "sub/network.xml",
        "sub\\network.xml",
        "/etc/passwd",
        "C:network.xml",
        "\\\\host\\share",
        ".hidden",
        "a\u0000b",
        "",
    ],
)
def test_a_card_cannot_name_files_outside_its_folder(folder: Path, name: str) -> None:
    card = make_card().write(folder)
    change(folder, files={**card.files, name: "0" * 64})
    with pytest.raises(BadModel, match="is not the name of a file in the model folder"):
        ModelCard.read(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": ...}, "does not say which format"),
        ({"format": True}, "does not say which format"),
        ({"name": ...}, "name is missing"),
        ({"name": "../x"}, "is not made of"),
        ({"name": 3}, "is not what was expected"),
        ({"title": " "}, "title or the version is empty"),
        ({"role": "oracle"}, "oracle"),
        ({"sequences": []}, "empty or named twice"),
        ({"sequences": ["t1", "t1"]}, "empty or named twice"),
        ({"sequences": ["t1", "dwi"]}, "dwi"),
        ({"sequences": "t1"}, "is not what was expected"),
        ({"regions": ["whole_tumour"]}, "regions"),
        ({"regions": ["whole_tumour", "oedema"]}, "regions"),
        ({"spacing_mm": 0}, "spacing"),
        ({"spacing_mm": float("nan")}, "spacing"),
        ({"window": [80, 96]}, "window"),
        ({"window": [80, 96, 81]}, "multiples of 16"),
        ({"window": [80, 96, True]}, "is not what was expected"),
        ({"normalisation": {"kind": "histogram", "clip": 5}}, "histogram"),
        ({"normalisation": {"kind": "zscore-in-brain", "clip": -1}}, "clip"),
        ({"architecture": {"args": {}}}, "name is missing"),
        ({"architecture": "folded_unet"}, "architecture is not a table"),
        ({"mirror_axes": [3]}, "mirror axes"),
        ({"threshold": {"whole_tumour": 0.5}}, "thresholds"),
        ({"threshold": {"whole_tumour": 0.5, "tumour_core": 1.5}}, "thresholds"),
        ({"minimum_ml": {"whole_tumour": -1, "tumour_core": 0}}, "smallest volumes"),
        ({"files": {"network.xml": "0" * 64}}, "no SHA-256 for weights.safetensors"),
        ({"files": dict.fromkeys(REQUIRED_FILES, "abc")}, "SHA-256 of network.xml is not one"),
        ({"evaluation": {"how": "?", "cases": 0, "patients": 0, "regions": {}}}, "evaluation"),
        ({"evaluation": 3}, "is not what was expected"),
        ({"any_subset": 1}, "is neither true nor false"),
        ({"calibration": {"regions": {"whole_tumour": {}}}}, "temperature is missing"),
        ({"calibration": {}}, "regions is missing"),
        ({"data": 4}, "is not what was expected"),
    ],
)
def test_a_broken_card_says_what_is_wrong(folder: Path, changes: dict[str, Any], reason: str) -> None:
    make_card().write(folder)
    change(folder, **changes)
    with pytest.raises(BadModel) as caught:
        ModelCard.read(folder)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("The card of the model in t1-flair-student makes no sense (")
    assert caught.value.what_to_do


@pytest.mark.parametrize("scores", [(1.2, 0.1, None), (0.5, -0.1, None), (0.5, 0.1, float("inf"))])
def test_impossible_scores_are_refused(scores: tuple[float, float, float | None]) -> None:
    with pytest.raises(ValueError, match=r"Dice|HD95"):
        RegionScores(*scores)


def test_figures_by_sequences_belong_to_models_that_take_any() -> None:
    measured = replace(EVALUATION, by_sequences={"t1": EVALUATION.regions})
    assert make_card(any_subset=True, evaluation=measured).any_subset
    with pytest.raises(ValueError, match="needs all of them"):
        make_card(evaluation=measured)
    with pytest.raises(ValueError, match="names no sequences"):
        replace(EVALUATION, by_sequences={"flair+t1": EVALUATION.regions})
    with pytest.raises(ValueError, match="whole_tumour and tumour_core"):
        replace(EVALUATION, by_sequences={"t1": {}})


def test_more_patients_than_cases_is_impossible() -> None:
    with pytest.raises(ValueError, match="how many patients"):
        replace(EVALUATION, patients=13)


def test_the_preparation_is_the_one_of_the_card() -> None:
    preparation = make_card().preparation
    assert preparation.sequences == (Sequence.FLAIR, Sequence.T1)
    assert (preparation.spacing_mm, preparation.window, preparation.clip) == (2.0, (80, 96, 80), 5.0)
