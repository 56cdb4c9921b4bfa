"""What the network that finds the brain learns from, and that a training goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage

from trainer import skull
from trainer.heads import Part
from trainer.simulate import Tissue

WINDOW = (48, 64, 48)


@pytest.fixture(scope="module")
def head() -> skull.StoredHead:
    """A brain in fluid, bone and muscle, of 1 mm."""
    x, y, z = np.ogrid[-90:90, -100:100, -90:90]
    away = np.sqrt((x / 65) ** 2 + (y / 80) ** 2 + (z / 60) ** 2)
    part = np.zeros(away.shape, np.uint8)
    for reach, kind in ((1.3, Part.FAT), (1.22, Part.MUSCLE), (1.14, Part.BONE), (1.05, Part.CSF)):
        part[away < reach] = kind
    part[away < 1] = Tissue.CORTEX
    part[away < 0.9] = Tissue.WHITE
    inside = (1 - away) * 66
    return skull.StoredHead(part, np.clip(np.rint(inside * 10), -127, 127).astype(np.int8))


@pytest.fixture(scope="module")
def patient() -> skull.StoredPatient:
    x, y, z = np.ogrid[-45:45, -50:50, -45:45]
    away = np.sqrt((x / 32) ** 2 + (y / 40) ** 2 + (z / 30) ** 2)
    images = np.where(away < 1, 1.0, np.where(away < 1.15, 0.1, np.where(away < 1.3, 1.5, 0.0)))
    inside = np.clip(np.rint((1 - away) * 660), -127, 127)
    return skull.StoredPatient(np.stack([images] * 4).astype(np.float16), inside.astype(np.int8))


def test_examples_are_what_the_network_will_be_given(head: skull.StoredHead, patient: skull.StoredPatient) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        example = skull.from_labels(head, WINDOW, rng) if seed % 2 else skull.from_patient(patient, WINDOW, rng)
        assert example.image.shape == example.distance_mm.shape == example.seen.shape == WINDOW
        assert example.image.dtype == np.float32
        assert np.isfinite(example.image).all()
        assert example.image.min() >= 0
        assert example.image.max() <= 1.5
        assert example.image.std() > 0.02
        assert (example.distance_mm[example.seen] > 0).any()


def test_every_slice_of_a_thick_stack_shows_something() -> None:
    class LateAndThin(np.random.Generator):
        """Draws what puts the last of the thinnest slices as far out as it can be."""

        def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
            return 1.22 if low == 0 else low

    weights = skull._slices(80, 1.25, LateAndThin(np.random.PCG64(0)))
    assert np.isfinite(weights).all()
    # A stack of one brightness stays it.
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)


def test_contrasts_differ_and_distances_are_those_of_the_head(head: skull.StoredHead) -> None:
    whiter, distances = [], []
    for seed in range(16):
        example = skull.from_labels(head, WINDOW, np.random.default_rng(seed))
        deep, rim = example.distance_mm > 12, (example.distance_mm < -9.5) & (example.distance_mm > -12)
        if (deep & example.seen).any() and (rim & example.seen).any():
            brain, muscle = (float(np.median(example.image[where & example.seen])) for where in (deep, rim))
            whiter.append(brain - muscle)
        # A step of one voxel along a line through the middle is 2 mm of distance, whatever turn and stretch.
        steep = np.sqrt(sum(g**2 for g in np.gradient(ndimage.gaussian_filter(example.distance_mm, 1), 2.0)))
        near = np.abs(example.distance_mm) < 5
        distances.append(float(np.median(steep[near])))
    assert min(whiter) < 0 < max(whiter)
    assert np.median(distances) == pytest.approx(1.0, abs=0.2)


def test_the_same_seed_gives_the_same_example(head: skull.StoredHead) -> None:
    one, two = (skull.from_labels(head, WINDOW, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)


def test_a_right_answer_costs_least(head: skull.StoredHead) -> None:
    example = skull.from_labels(head, WINDOW, np.random.default_rng(1))
    distance = torch.from_numpy(example.distance_mm)[None, None]
    seen = torch.ones_like(distance)
    right = skull.loss_of(distance / 2, distance, seen)
    assert right < skull.loss_of(distance / 2 + 1.0, distance, seen)
    assert right < skull.loss_of(-distance / 2, distance, seen)
    # What lies outside the field of view counts for nothing.
    wrong = torch.where(distance > 0, -distance, distance)
    nothing = (distance <= 0).float()
    assert skull.loss_of(wrong / 2, distance, nothing) == skull.loss_of(distance / 2, distance, nothing)


@pytest.fixture
def stored(tmp_path: Path, head: skull.StoredHead, patient: skull.StoredPatient) -> Path:
    for kind in ("heads", "patients"):
        (tmp_path / kind).mkdir()
    np.savez(tmp_path / "heads" / "one.npz", part=head.part, tenths=head.tenths)
    np.savez(tmp_path / "patients" / "anna.npz", images=patient.images, tenths=patient.tenths)
    return tmp_path


def test_a_training_goes_on_as_if_it_had_not_been_stopped(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skull, "WINDOWS", (WINDOW,))
    monkeypatch.setattr(skull, "KEPT_EVERY", 2)
    plan = skull.Plan(("one",), ("anna",), 4, patient_share=0.5)
    skull.train(plan, stored, tmp_path / "whole")
    skull.train(plan, stored, tmp_path / "parts", until=2)
    skull.train(plan, stored, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / skull.AVERAGE) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
