"""Prepared and restored: the same head from every layout, and the mask back where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from engine.preprocessing import Preparation, prepare
from engine.volume import Sequence, Subject, Volume
from tests.engine import phantoms

FINE = Preparation((Sequence.T1, Sequence.FLAIR), spacing_mm=1.0, window=(32, 32, 32))
ONE = Preparation((Sequence.T1,), spacing_mm=1.0, window=(32, 32, 32))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_every_layout_of_the_same_head_gives_the_same_array(orientation: str) -> None:
    expected = prepare(phantoms.subject(phantoms.grid("RAS")), FINE).tensor
    found = prepare(phantoms.subject(phantoms.grid(orientation)), FINE).tensor
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_a_mask_comes_back_exactly_where_it_was(orientation: str) -> None:
    grid = phantoms.grid(orientation)
    prepared = prepare(phantoms.subject(grid), FINE)
    truth = phantoms.tumour(grid)
    masks = np.stack([prepared.forward(truth.whole_tumour), prepared.forward(truth.tumour_core)])
    # The head is an odd or even number of voxels wide; at half a voxel's offset linear weights need not be exact.
    restored = prepared.restore(masks) > 0.5
    assert restored.shape == (2, *grid.shape)
    assert dice(restored[0], truth.whole_tumour) > 0.9
    centre = np.round(grid.to_voxel(np.array([phantoms.TUMOUR_CENTRE]) + (3.0, -5.0, 7.0))[0]).astype(int)
    assert restored[0][tuple(centre)]
    assert restored[1][tuple(centre)]


def test_axes_of_the_array_point_right_front_and_up() -> None:
    head = phantoms.head(phantoms.grid("PIL"))
    unclipped = Preparation((Sequence.T1,), spacing_mm=1.0, window=(32, 32, 32), clip=50.0)
    image = prepare(Subject("head", {Sequence.T1: head}), unclipped).tensor[0]
    # Markers: top brightest, then front, then left; each the brightest thing at its own end of the head.
    brain = np.argwhere(image != 0)
    (left, back, bottom), (right, front, top) = brain.min(axis=0), brain.max(axis=0)
    assert image[:, :, top - 4 :].max() > image[:, front - 6 :].max() > image[: left + 6].max() > 3
    assert image[right - 3 :].max() < 3
    assert image[:, : back + 4].max() < 3
    assert image[:, :, : bottom + 3].max() < 3


@pytest.mark.parametrize(
    ("spacing", "oblique"), [((1.0, 1.0, 1.0), (0, 0, 0)), ((0.5, 0.5, 3.0), (0, 0, 0)), ((1, 1, 1), (25, 10, -15))]
)
def test_resampling_keeps_the_volume_of_a_mask(
    spacing: tuple[float, float, float], oblique: tuple[float, float, float]
) -> None:
    shape = tuple(int(n / s) for n, s in zip((96, 112, 80), spacing, strict=True))
    grid = phantoms.grid("LPS", shape, spacing, oblique, centre=(0.0, 0.0, 0.0))
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    world = grid.to_world(voxels.reshape(-1, 3)).reshape(voxels.shape)
    brain = np.linalg.norm(world / (40, 48, 34), axis=-1) < 1
    tumour = np.linalg.norm(world - (15, 10, 5), axis=-1) < 14
    subject = Subject("ball", {Sequence.T1: Volume((brain * 100.0 + tumour * 20).astype(np.float32), grid)})
    prepared = prepare(subject, Preparation((Sequence.T1,), 2.0, (48, 48, 48)))
    assert prepared.forward(tumour).sum() * 8 == pytest.approx(
        np.count_nonzero(tumour) * grid.voxel_ml * 1000, rel=0.01
    )
    restored = prepared.restore(prepared.forward(tumour)[None])[0] > 0.5
    assert dice(restored, tumour) > 0.97
    assert not restored[~brain].any()


def test_intensity_scale_offset_and_hot_voxels_do_not_matter() -> None:
    grid = phantoms.grid()
    head = phantoms.head(grid)
    inside = head.data != 0
    scaled = np.where(inside, head.data * 37 + 500, 0).astype(np.float32)
    plain = prepare(Subject("a", {Sequence.T1: head}), ONE).tensor
    other = prepare(Subject("b", {Sequence.T1: Volume(scaled, grid)}), ONE).tensor
    np.testing.assert_allclose(other, plain, atol=1e-3)

    hot = head.data.copy()
    hot[tuple(np.argwhere(inside)[3])] = 1e7
    spoilt = prepare(Subject("c", {Sequence.T1: Volume(hot, grid)}), ONE).tensor
    assert np.abs(np.median(spoilt[spoilt != 0]) - np.median(plain[plain != 0])) < 0.2


def test_inside_the_brain_the_mean_is_zero_and_the_spread_one() -> None:
    random = np.random.default_rng(3)
    data = np.zeros((40, 44, 36), np.float32)
    data[4:36, 4:40, 4:32] = random.normal(700, 90, (32, 36, 28))
    subject = Subject("noise", {Sequence.T1: Volume(data, phantoms.grid("RAS", data.shape))})
    inside = prepare(subject, Preparation((Sequence.T1,), 1.0, (32, 48, 32))).tensor[0]
    values = inside[inside != 0]
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert 0.9 < values.std() < 1.02


def test_a_background_that_is_not_zero_is_still_background() -> None:
    grid = phantoms.grid()
    head = phantoms.head(grid)
    shifted = np.where(head.data != 0, head.data, -1000).astype(np.float32)
    plain = prepare(Subject("a", {Sequence.T1: head}), ONE)
    other = prepare(Subject("b", {Sequence.T1: Volume(shifted, grid)}), ONE)
    np.testing.assert_allclose(other.tensor, plain.tensor, atol=1e-5)
    assert np.array_equal(other.brain, plain.brain)


def test_sequences_the_model_does_not_read_change_nothing() -> None:
    grid = phantoms.grid()
    subject = phantoms.subject(grid)
    ramp = np.broadcast_to(np.arange(1, grid.shape[0] + 1, dtype=np.float32)[:, None, None], grid.shape)
    spoilt = Subject("x", {**subject.volumes, Sequence.T2: Volume(ramp.copy(), grid)})
    a, b = prepare(subject, FINE), prepare(spoilt, FINE)
    assert np.array_equal(a.tensor, b.tensor)
    assert np.array_equal(a.brain, b.brain)


def test_a_brain_larger_than_the_window_is_kept_whole() -> None:
    data = np.ones((70, 50, 40), np.float32)
    data[0, 0, 0] = 0
    subject = Subject("large", {Sequence.T1: Volume(data, phantoms.grid("RAS", data.shape))})
    assert prepare(subject, ONE).tensor.shape == (1, 80, 64, 48)


def test_an_empty_volume_gives_an_empty_array() -> None:
    grid = phantoms.grid()
    prepared = prepare(Subject("empty", {Sequence.T1: Volume(np.zeros(grid.shape, np.float32), grid)}), ONE)
    assert not prepared.tensor.any()
    assert not prepared.restore(np.ones((1, *prepared.tensor.shape[1:]), np.float32)).any()


@pytest.mark.parametrize("change", [{"sequences": ()}, {"window": (30, 32, 32)}, {"spacing_mm": 0.0}, {"clip": -1.0}])
def test_what_no_network_could_read_is_refused(change: dict[str, object]) -> None:
    fields = {"sequences": (Sequence.T1,), "spacing_mm": 1.0, "window": (32, 32, 32), "clip": 5.0}
    with pytest.raises(ValueError, match=r".+"):
        Preparation(**{**fields, **change})  # type: ignore[arg-type]
