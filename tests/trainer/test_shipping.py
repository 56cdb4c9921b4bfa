"""A shipped model's card says what networks of its recipe reached on patients they had not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine import registry
from engine.inference import segment
from engine.model_card import REGIONS, WHOLE_TUMOUR
from engine.progress import Progress
from engine.sequences import find_subjects, load
from engine.volume import SUBSETS, Sequence, joined
from scripts import ship_models
from tests.trainer.test_study import fields
from trainer import comparison, publication, study
from trainer.study import Places, Study

NETWORKS = {
    "any": {"role": "student", "sequence_dropout": 0.75, "distillation": {"weight": 0.0, "synthesis": 0.5}},
}
EVERY = ["t1", "t1ce", "t2", "flair"]


@pytest.mark.timeout(400)  # three trainings and two scorings, each a process that imports torch
def test_a_finished_study_becomes_models_whose_figures_are_those_of_the_held_out_patients(
    cohort: Path, tmp_path: Path
) -> None:
    path = tmp_path / "study.json"
    more = {
        "recipes": NETWORKS,
        "cells": [{"recipe": name, "sequences": [EVERY], "folds": [0, 1]} for name in NETWORKS],
        "comparisons": [],
        "shipped": [
            {"name": "student-any", "recipe": "any", "sequences": EVERY},
        ],
    }
    path.write_text(json.dumps({**fields(30), **more}), encoding="utf-8")
    places = Places(cohort, tmp_path / "runs")
    assert study.carry_out(Study.read(path), places, 2, lambda _: None, Progress()) == []

    out, page = tmp_path / "models", tmp_path / "models.md"
    folders = ["--data", str(cohort), "--runs", str(places.runs), "--out", str(out), "--page", str(page)]
    ship_models.main([str(path), *folders])

    listing = registry.list_models([out])
    assert not listing.problems
    (card,) = listing.models
    rows = comparison.read_rows(places.runs.glob(f"*/{study.SCORES}"))
    every = joined(tuple(Sequence))
    assert card.evaluation is not None
    assert card.calibration is not None
    assert card.evaluation.patients == 4
    assert len(card.evaluation.by_sequences) == len(SUBSETS)
    for summary in comparison.summarise([row for row in rows if row.sequences == every]):
        assert card.evaluation.regions[summary.region].dice_mean == round(summary.dice_mean, 4)
    assert card.calibration.regions[WHOLE_TUMOUR].patients == 4
    assert card.calibration.regions[WHOLE_TUMOUR].volume_low is None  # four patients say nothing about one in twenty

    assert page.read_text(encoding="utf-8").count("| student-any |") == len(SUBSETS) + len(REGIONS)

    # The threshold on calibrated probabilities keeps the voxels that the chosen one kept on the network's own.
    pooled = publication.mean_over_subsets(rows, every)
    chosen = {region: comparison.best_threshold(pooled, "any", every, region) for region in REGIONS}
    subject = load(find_subjects([cohort / "anna"])[0])
    found = segment(subject, card, Progress()).label_map
    plain = next(run for run in places.runs.iterdir() if "everyone" in run.name)
    bare = ship_models.checkpoint.export(plain, tmp_path / "bare", "bare", "0", "", "", ())
    expected = segment(subject, replace(bare, threshold=chosen), Progress()).label_map
    assert found.ml(found.data != expected.data) <= 0.002 * max(expected.ml(expected.whole_tumour), 1)
