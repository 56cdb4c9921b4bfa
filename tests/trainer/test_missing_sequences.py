"""Patients that lack sequences teach what they can: their own truth to students, nothing through a teacher."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import networks
from engine.errors import UserError
from engine.progress import Progress
from engine.volume import Sequence
from trainer import run
from trainer.config import Augmentation, Distillation, TrainConfig
from trainer.dataset import CaseStore, Examples
from trainer.distillation import DistillationTask
from trainer.events import Event, Finished, StepEnd

TINY = {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}}
CPU = torch.device("cpu")
EVERY = tuple(Sequence)


@pytest.fixture
def incomplete(cohort: Path, tmp_path: Path) -> Path:
    """Anna has all four sequences, Boris no T2, Carla T1 alone."""
    folder = tmp_path / "incomplete"
    for name in ("anna", "boris", "carla"):
        shutil.copytree(cohort / name, folder / name)
    for gone in ("boris/boris_t2", "carla/carla_t2", "carla/carla_t1ce", "carla/carla_flair"):
        (folder / f"{gone}.nii.gz").unlink()
    return folder


def config(data: Path, name: str, **fields: object) -> TrainConfig:
    plain = TrainConfig(
        name=name,
        role="baseline",
        sequences=(Sequence.T1,),
        data=str(data),
        train_cases=("anna", "boris", "carla"),
        architecture=TINY,
        spacing_mm=2.0,
        window=(32, 32, 32),
        augmentation=Augmentation(rotation_degrees=5, scaling=0.05, shift_mm=2, elastic_mm=1),
        steps=6,
        warm_up=1,
        threads=1,
        device="cpu",
        validate_every=0,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def train(wanted: TrainConfig, folder: Path) -> list[Event]:
    events: list[Event] = []
    run.train(wanted, folder, events.append, Progress())
    return events


def test_a_teacher_looks_on_where_it_has_all_its_sequences(incomplete: Path, tmp_path: Path) -> None:
    wanted = config(incomplete, "student", role="student", distillation=Distillation("teacher", weight=0.5))
    examples = Examples(wanted, CaseStore(incomplete, 2.0, tmp_path / "prepared"), CPU, Progress(), EVERY)
    task = DistillationTask(
        networks.build(*wanted.network()), networks.build("folded_unet", {"inputs": 4, **TINY["args"]}),
        Distillation("teacher", weight=0.5),
    )  # fmt: skip
    seen = 0
    for number in range(3):
        example = examples[number]
        terms = task(example)
        assert example["images"].any()
        if "teacher_images" in example:
            seen += 1
            assert float(terms["loss"].detach()) == pytest.approx(
                float(terms["hard"] + 0.5 * terms["logits"]), rel=1e-5
            )
        else:
            assert set(terms) == {"loss", "hard"}
            assert float(terms["loss"].detach()) == pytest.approx(float(terms["hard"]))
    assert seen == 1


def test_sequences_are_painted_where_all_of_them_are_there(incomplete: Path, tmp_path: Path) -> None:
    wanted = config(incomplete, "student", role="student", distillation=Distillation(weight=0.0, synthesis=0.5))
    store = CaseStore(incomplete, 2.0, tmp_path / "prepared")
    absent = (Sequence.T1CE, Sequence.FLAIR)
    examples = [Examples(wanted, store, CPU, Progress(), (), absent)[number] for number in range(3)]
    assert sum("absent" in example for example in examples) == 2  # Anna and Boris
    task = DistillationTask(networks.build(*wanted.network()), None, Distillation(weight=0.0, synthesis=0.5), 2)
    assert sum("synthesis" in task(example) for example in examples) == 2


def test_teachers_are_not_asked_about_patients_they_cannot_see(incomplete: Path, tmp_path: Path) -> None:
    train(config(incomplete, "whole", sequences=EVERY, train_cases=("anna",)), tmp_path / "whole")
    pair = (Sequence.T1, Sequence.FLAIR)
    train(config(incomplete, "pair", sequences=pair, train_cases=("anna",)), tmp_path / "pair")
    wanted = config(
        incomplete,
        "student",
        role="student",
        train_cases=("boris", "carla"),
        distillation=Distillation(weight=0.0, cross_fitted=("whole", "pair"), blend=0.5),
    )
    store = CaseStore(incomplete, 2.0, tmp_path / "prepared")
    said = run.opinions(wanted, store, tmp_path, CPU, Progress())
    assert set(said) == {"boris"}  # by the pair alone; of Carla, who has T1 alone, nobody says anything
    alone = replace(wanted, distillation=Distillation(weight=0.0, cross_fitted=("pair",), blend=0.5))
    torch.testing.assert_close(run.opinions(alone, store, tmp_path, CPU, Progress())["boris"], said["boris"])
    examples = Examples(wanted, store, CPU, Progress(), opinions=said)
    assert sum("target" in examples[number] for number in range(2)) == 1
    assert isinstance(train(wanted, tmp_path / "student")[-1], Finished)


def test_a_student_trains_on_patients_its_teacher_cannot_see(incomplete: Path, tmp_path: Path) -> None:
    train(config(incomplete, "teacher", role="teacher", sequences=EVERY, train_cases=("anna",)), tmp_path / "teacher")
    wanted = config(
        incomplete, "student", role="student", distillation=Distillation("teacher", weight=0.5), batch=3, steps=4
    )
    events = train(wanted, tmp_path / "student")
    assert isinstance(events[-1], Finished)
    report = next(event for event in events if isinstance(event, StepEnd))
    assert report.loss == pytest.approx(report.terms["hard"] + 0.5 * report.terms["logits"], rel=1e-4)
    assert report.terms["logits"] > 0


def test_a_network_for_any_subset_learns_from_whoever_has_one_of_its_sequences(
    incomplete: Path, tmp_path: Path
) -> None:
    store = CaseStore(incomplete, 2.0, tmp_path / "prepared")
    wanted = config(incomplete, "any", sequences=EVERY, sequence_dropout=0.75)
    examples = Examples(wanted, store, CPU, Progress())
    shown = [[bool(channel.any()) for channel in examples[number]["images"][0]] for number in range(48)]
    assert all(any(channels) for channels in shown)
    assert sum(channels == [True, False, False, False] for channels in shown) >= 16  # Carla every time
    assert sum(all(channels) for channels in shown) >= 1  # Anna, now and then
    with pytest.raises(UserError, match="boris has no T2"):
        Examples(replace(wanted, sequence_dropout=0.0), store, CPU, Progress())
    with pytest.raises(UserError, match="carla has no T2"):
        Examples(config(incomplete, "other", sequences=(Sequence.T2, Sequence.FLAIR), sequence_dropout=0.5,
                        train_cases=("anna", "carla")), store, CPU, Progress())  # fmt: skip
