"""A study in pieces gives what a study in one go gives, and its runs are those that its config says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app import cli
from engine.errors import Cancelled, UserError
from engine.model_card import WEIGHTS
from engine.progress import Progress
from trainer import checkpoint, comparison, study
from trainer.study import Places, Standing, Study


def fields(steps: int = 12) -> dict[str, object]:
    return {
        "title": "A small study",
        "folds": [["anna", "boris"], ["carla", "dora"]],
        "common": {
            "spacing_mm": 1.0,
            "window": [32, 32, 32],
            "architecture": {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}},
            "steps": steps,
            "warm_up": 2,
            "learning_rate": 0.01,
            "average": 0.8,
            "threads": 1,
            "device": "cpu",
            "validate_every": 0,
            "checkpoint_seconds": 0.0,
            "augmentation": {"rotation_degrees": 5, "scaling": 0.05, "shift_mm": 2, "elastic_mm": 1},
        },
        "recipes": {
            "teacher": {"role": "teacher"},
            "baseline": {"role": "baseline"},
            "logits": {"role": "student", "distillation": {"teacher": "teacher", "temperature": 5.0, "weight": 0.1}},
        },
        "cells": [
            {"recipe": "baseline", "sequences": [["flair"]], "folds": [0]},
            {"recipe": "logits", "sequences": [["flair"]], "folds": [0]},
        ],
        "comparisons": [["logits", "baseline"]],
        "shifted": False,
    }


def read(folder: Path, **more: object) -> Study:
    path = folder / "study.json"
    path.write_text(json.dumps({**fields(), **more}), encoding="utf-8")
    return Study.read(path)


def told(_: Standing) -> None:
    """Nobody listens."""


def scores(runs: Path) -> list[comparison.Row]:
    return comparison.read_rows(sorted(runs.glob(f"*/{study.SCORES}")))


@pytest.mark.timeout(400)  # a dozen worker processes, each of which imports torch
def test_a_study_that_was_killed_and_resumed_gives_the_same_table(cohort: Path, tmp_path: Path) -> None:
    wanted = read(tmp_path)
    whole = Places(cohort, tmp_path / "whole")
    folders = ["--data", str(cohort), "--runs", str(whole.runs), "--out", str(tmp_path / "report-whole")]
    assert cli.main(["study", str(tmp_path / "study.json"), *folders]) == 0

    # Stopped while both first runs are under way, with some steps on disk, and begun again.
    pieces = Places(cohort, tmp_path / "pieces")
    progress = Progress()

    def stop_soon(standing: Standing) -> None:
        if standing.working:
            progress.cancel()

    with pytest.raises(Cancelled):
        study.carry_out(wanted, pieces, 2, stop_soon, progress)
    assert not list(pieces.runs.glob(f"*/{study.SCORES}"))
    # One is killed outright in the middle of a training: what is left is a state, and perhaps a file without a name.
    victim = next(run for run in wanted.plan(pieces) if run.recipe == "baseline")
    worker = study.begin(victim, wanted, pieces)
    state = pieces.runs / victim.config.name / checkpoint.STATE
    while not state.exists() and worker.poll() is None:
        assert worker.stdout is not None
        worker.stdout.readline()
    worker.kill()
    worker.communicate()
    standings: list[Standing] = []
    assert study.carry_out(wanted, pieces, 2, standings.append, Progress()) == []
    assert (standings[-1].done, standings[-1].total, standings[-1].working) == (3, 3, ())

    assert scores(pieces.runs) == scores(whole.runs)
    recipes = {row.recipe for row in scores(whole.runs)}
    assert recipes == {"baseline", "logits"}
    study.report(wanted, pieces, tmp_path / "report-pieces", "gliascope study study.json")
    for one in (tmp_path / "report-whole").rglob("*.*"):
        other = tmp_path / "report-pieces" / one.relative_to(tmp_path / "report-whole")
        # The page names the command that made it, with the folders it was given.
        assert one.name == "README.md" or one.read_bytes() == other.read_bytes()
    page = (tmp_path / "report-whole" / "README.md").read_text(encoding="utf-8")
    assert "logits" in page
    assert "baseline" in page
    assert "Not finished" not in page


def test_a_weight_of_zero_is_the_baseline_to_the_last_bit(cohort: Path, tmp_path: Path) -> None:
    recipes = dict(fields()["recipes"])  # type: ignore[call-overload]
    recipes["control"] = {"role": "student", "distillation": {"teacher": "teacher", "weight": 0.0}}
    cells = [{"recipe": recipe, "sequences": [["t1"]], "folds": [1]} for recipe in ("baseline", "control")]
    wanted = read(tmp_path, recipes=recipes, cells=cells, comparisons=[])
    places = Places(cohort, tmp_path / "runs")
    assert study.carry_out(wanted, places, 2, told, Progress()) == []
    one, other = (
        (places.runs / f"{recipe}-t1-without1-seed0" / WEIGHTS).read_bytes() for recipe in ("baseline", "control")
    )
    assert one == other


def test_no_teacher_has_seen_whom_it_gives_targets_for_or_whom_its_student_is_scored_on(tmp_path: Path) -> None:
    folds = [[f"p{fold}{n}" for n in range(3)] for fold in range(5)]
    recipes = {
        "teacher": {"role": "teacher"},
        "ours": {"role": "student", "distillation": {"weight": 0.0, "cross_fitted": "teacher", "blend": 0.5}},
    }
    cells = [{"recipe": "ours", "sequences": [["t1"], ["t1ce", "flair"]], "folds": [0, 1, 2, 3, 4], "seeds": [0, 1]}]
    shipped = [{"name": "student-t1", "recipe": "ours", "sequences": ["t1"]}]
    wanted = read(tmp_path, folds=folds, recipes=recipes, cells=cells, shipped=shipped, comparisons=[])
    planned = wanted.plan(Places(tmp_path / "cohort", tmp_path / "runs", tmp_path / "simulated"))
    by_name = {run.config.name: run for run in planned}
    everyone = {patient for fold in folds for patient in fold}
    students = [run for run in planned if run.recipe == "ours"]
    # Two sets of sequences, five folds, two seeds, and one that ships; a teacher for each pair of folds and each fold.
    assert len(students) == 21
    assert len(planned) == 21 + 10 + 5
    order = [run.config.name for run in planned]
    for run in students:
        left_out = everyone - set(run.config.train_cases)
        assert left_out == {patient for fold in run.held_out for patient in folds[fold]}
        assert run.scored == bool(run.held_out)
        assert run.config.distillation is not None
        for patient in run.config.train_cases:
            strangers = [
                name for name in run.config.distillation.cross_fitted if patient not in by_name[name].config.train_cases
            ]
            assert len(strangers) == 1
        for name in run.needs:
            assert not left_out & set(by_name[name].config.train_cases)
            assert order.index(name) < order.index(run.config.name)


def test_a_run_that_fails_is_named_and_what_does_not_need_it_goes_on(cohort: Path, tmp_path: Path) -> None:
    wanted = read(tmp_path)
    places = Places(cohort, tmp_path / "runs")
    teacher = places.runs / "teacher-all-without0-seed0"
    teacher.mkdir(parents=True)
    (teacher / checkpoint.CONFIG).write_text("{}", encoding="utf-8")
    problems = study.carry_out(wanted, places, 2, told, Progress())
    assert len(problems) == 2
    assert problems[0].startswith("teacher-all-without0-seed0: config.json is not a training config")
    assert problems[1] == "logits-flair-without0-seed0 waits for a run that failed."
    assert {row.recipe for row in scores(places.runs)} == {"baseline"}


def test_a_config_that_makes_no_sense_is_said_so_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(json.dumps({key: value for key, value in fields().items() if key != "folds"}))
    with pytest.raises(UserError, match=r"study\.json is not a study.*'folds' is missing"):
        Study.read(path)
    with pytest.raises(UserError, match='there is no recipe "ours"'):
        read(tmp_path, cells=[{"recipe": "ours", "sequences": [["t1"]], "folds": [0]}])
    with pytest.raises(UserError, match="each patient is in exactly one"):
        read(tmp_path, folds=[["anna"], ["anna"]])
    unknown = replace(read(tmp_path), recipes={**read(tmp_path).recipes, "baseline": {"role": "wizard"}})
    with pytest.raises(UserError, match="a role is one of"):
        unknown.plan(Places(tmp_path, tmp_path))
