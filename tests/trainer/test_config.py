"""A config says everything, survives the way through a file, and refuses contradictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.volume import Sequence
from trainer.config import Augmentation, Distillation, TrainConfig

STUDENT = TrainConfig(
    name="t1",
    role="student",
    sequences=(Sequence.T1,),
    data="cohort",
    train_cases=("a", "b"),
    validation_cases=("c",),
    distillation=Distillation("teacher", 5.0, 0.1),
    augmentation=Augmentation(noise=0.5),
)


def test_a_config_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(STUDENT.to_json(), encoding="utf-8")
    assert TrainConfig.read(tmp_path / "config.json") == STUDENT


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": "professor"}, "role"),
        ({"train_cases": []}, "at least one case"),
        ({"validation_cases": ["a"]}, "both learnt from and scored"),
        ({"distillation": None}, "learns from a teacher"),
        ({"role": "teacher"}, "has no teacher"),
        ({"distillation": {"temperature": 0}}, "temperature"),
        ({"distillation": {"weight": -1}}, "weight"),
        ({"steps": 50}, "warm-up"),
        ({"batch": 0}, "at least one example"),
        ({"batch": 2, "accumulate": 3}, "so many pieces"),
        ({"previews": -1}, "preview"),
        ({"window": [80, 96, 70]}, "multiples of 16"),
        ({"window": [80, 96]}, "three sizes"),
        ({"format": "new"}, "no number"),
        ({"sequences": ["t1", "t1"]}, "once"),
        ({"sequences": ["pet"]}, "pet"),
        ({"colour": "blue"}, "colour"),
        ({"format": 99}, "newer Gliascope"),
    ],
)
def test_contradictions_are_named(change: dict[str, object], words: str) -> None:
    fields = {**json.loads(STUDENT.to_json()), **change}
    with pytest.raises(UserError, match=words):
        TrainConfig.from_json(json.dumps(fields), "mine.json")


def test_a_file_that_is_no_json_is_named_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"name": \n nothing}', encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.json is not a training config \(no JSON at line 2"):
        TrainConfig.read(tmp_path / "mine.json")
    with pytest.raises(UserError, match=r"absent\.json cannot be read"):
        TrainConfig.read(tmp_path / "absent.json")


def test_what_a_run_learns_is_told_from_how_and_where() -> None:
    older = json.loads(STUDENT.to_json())
    for field in ("batch", "accumulate", "previews"):
        del older[field]
    assert TrainConfig.from_json(json.dumps(older)) == STUDENT
    elsewhere = replace(STUDENT, previews=5, data="/elsewhere", threads=3, checkpoint_seconds=1.0)
    assert elsewhere.learns_as(STUDENT)
    assert not replace(STUDENT, batch=2).learns_as(STUDENT)
    assert replace(STUDENT, batch=4, accumulate=4).learns_as(replace(STUDENT, batch=4))
    here, there = replace(STUDENT, start_from="/here/models/any"), replace(STUDENT, start_from="/there/any")
    assert here.learns_as(there)
    assert not here.learns_as(replace(STUDENT, start_from="/here/models/other"))
