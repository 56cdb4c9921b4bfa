"""Warnings about scans and masks that are unlike what the models know, each from a patient made unusual."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from engine import nifti, registry, unusual
from engine.inference import Segmentation
from engine.nifti import Convention
from engine.unusual import Doubt, Kind
from engine.volume import Grid, LabelMap, Sequence, Subject, Volume
from trainer import oddities

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


@lru_cache
def demo() -> Subject:
    """The simulated patient in voxels of 2 mm, which is all the checks look at."""
    volumes = {}
    for sequence in Sequence:
        volume = nifti.read(DEMO / f"demo_{sequence.value}.nii.gz", sequence)
        volumes[sequence] = Volume(_halved(volume.data), _coarser(volume.grid), sequence)
    return Subject("demo", volumes)


@lru_cache
def truth() -> LabelMap:
    labels = nifti.read_label_map(DEMO / "demo_seg.nii.gz", Convention.GLIASCOPE)
    return LabelMap(np.ascontiguousarray(labels.data[::2, ::2, :154:2]), _coarser(labels.grid))


def _halved(data: np.ndarray) -> np.ndarray:
    brain = data[:, :, :154] != 0
    means = data[:, :, :154].reshape(120, 2, 120, 2, 77, 2).mean(axis=(1, 3, 5))
    return np.where(brain.reshape(120, 2, 120, 2, 77, 2).mean(axis=(1, 3, 5)) > 0.5, means, 0).astype(np.float32)


def _coarser(grid: Grid) -> Grid:
    affine = grid.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = grid.to_world(np.array([[0.5, 0.5, 0.5]]))[0]
    return Grid((120, 120, 77), affine)


def drawn(labels: LabelMap) -> Segmentation:
    """As if a model had drawn the mask."""
    return Segmentation(labels, {}, {}, registry.list_models().models[0], (), "CPU", "fp32", 0.0)


def kinds(said: tuple[Doubt, ...]) -> set[Kind]:
    return {doubt.kind for doubt in said}


def test_a_usual_patient_gives_no_warning() -> None:
    assert unusual.look(demo(), demo(), drawn(truth())) == ()


@pytest.mark.parametrize("kind", oddities.MADE)
def test_what_was_made_unusual_is_noticed(kind: Kind) -> None:
    made = oddities.MADE[kind](demo())
    said = unusual.look(made, made)
    assert kind in kinds(said)
    for doubt in said:
        assert doubt.sentence.endswith(".")


def test_a_patient_who_lies_still_in_noisy_air_is_not_taken_for_one_who_moves() -> None:
    made = oddities.still(demo())
    assert Kind.MOTION not in kinds(unusual.look(made, made))


def test_a_ct_is_said_first_and_gravely() -> None:
    made = oddities.ct(demo())
    first, *_ = unusual.look(made, made)
    assert first.kind is Kind.CT
    assert first.grave
    assert "The models know MRI only" in first.sentence


def test_a_sequence_under_anothers_name_is_named() -> None:
    exchanged = Subject("demo", {Sequence.T2: demo()[Sequence.FLAIR]})
    (doubt,) = unusual.look(exchanged, exchanged)
    assert doubt.grave
    assert doubt.sentence.startswith("The scan taken for T2 looks like FLAIR.")


def test_a_sequence_that_shows_half_of_the_brain_is_named() -> None:
    flair = demo()[Sequence.FLAIR]
    half = flair.data.copy()
    half[:, :, 38:] = 0
    subject = Subject("demo", {**demo(), Sequence.FLAIR: Volume(half, flair.grid, Sequence.FLAIR)})
    said = [doubt.sentence for doubt in unusual.look({}, subject) if doubt.kind is Kind.CUT_OFF]
    assert len(said) == 1
    assert said[0].startswith("FLAIR shows only ")


@pytest.mark.parametrize(
    ("shape", "words"),
    [("rim", "along the surface"), ("both", "on both sides alike"), ("half", "% of the brain")],
)
def test_a_mask_that_no_glioma_has_is_not_silently_shown(shape: str, words: str) -> None:
    said = unusual.look({}, demo(), drawn(oddities.unlikely_mask(demo(), shape)))
    (doubt,) = (doubt for doubt in said if doubt.kind is Kind.UNLIKELY_PLACE)
    assert doubt.grave
    assert words in doubt.sentence


def test_nothing_found_is_said() -> None:
    (doubt,) = unusual.look({}, demo(), drawn(oddities.unlikely_mask(demo(), "none")))
    assert doubt.kind is Kind.NO_TUMOUR
    assert not doubt.grave
