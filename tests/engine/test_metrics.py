from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance

from engine import metrics
from engine.errors import GridMismatch
from engine.volume import Grid, LabelMap

SHAPE = (12, 14, 10)


def box(*bounds: tuple[int, int], shape: tuple[int, int, int] = SHAPE) -> metrics.Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*b) for b in bounds)] = True
    return mask


def blob(seed: int, shape: tuple[int, int, int] = (40, 36, 30)) -> metrics.Mask:
    rng = np.random.default_rng(seed)
    places = np.indices(shape).reshape(3, -1).T
    mask = np.zeros(len(places), dtype=bool)
    for _ in range(3):
        centre = rng.uniform(8, 26, 3)
        mask |= ((places - centre) ** 2).sum(axis=1) < rng.uniform(4, 9) ** 2
    return mask.reshape(shape)


EMPTY = np.zeros(SHAPE, dtype=bool)
CUBE = box((2, 4), (2, 4), (2, 4))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (CUBE, CUBE, 1.0),
        (CUBE, box((3, 5), (2, 4), (2, 4)), 0.5),
        (CUBE, box((2, 4), (2, 4), (2, 3)), 2 * 4 / 12),
        (CUBE, box((6, 8), (2, 4), (2, 4)), 0.0),
        (EMPTY, EMPTY, 1.0),
        (EMPTY, CUBE, 0.0),
        (CUBE, EMPTY, 0.0),
    ],
)
def test_dice_by_hand(a: metrics.Mask, b: metrics.Mask, expected: float) -> None:
    assert metrics.dice(a, b) == pytest.approx(expected)


DIAGONAL = math.sqrt(12**2 + 14**2 + 10**2)
VOXEL = box((2, 3), (2, 3), (2, 3))


@pytest.mark.parametrize(
    ("a", "b", "spacing", "expected"),
    [
        (CUBE, CUBE, (1, 1, 1), 0.0),
        (VOXEL, box((5, 6), (2, 3), (2, 3)), (1, 1, 1), 3.0),
        (VOXEL, box((5, 6), (2, 3), (2, 3)), (2, 1, 1), 6.0),
        (VOXEL, box((2, 3), (2, 3), (6, 7)), (1, 1, 5), 20.0),
        (VOXEL, box((5, 6), (6, 7), (2, 3)), (1, 1, 1), 5.0),
        (box((0, 12), (0, 14), (0, 10)), box((0, 12), (0, 14), (0, 10)), (1, 1, 1), 0.0),
        (EMPTY, EMPTY, (1, 1, 1), 0.0),
        (EMPTY, CUBE, (1, 1, 1), DIAGONAL),
        (CUBE, EMPTY, (2, 2, 2), 2 * DIAGONAL),
    ],
)
def test_hd95_by_hand(a: metrics.Mask, b: metrics.Mask, spacing: tuple[float, float, float], expected: float) -> None:
    assert metrics.hd95_mm(a, b, spacing) == pytest.approx(expected)
    assert metrics.hd95_mm(b, a, spacing) == pytest.approx(expected)


def test_the_penalty_for_an_empty_region_is_that_of_brats() -> None:
    shape = (240, 240, 155)
    one = np.zeros(shape, dtype=bool)
    one[100, 100, 100] = True
    assert metrics.hd95_mm(one, np.zeros_like(one), (1, 1, 1)) == pytest.approx(373.1287, abs=1e-3)


def test_one_stray_voxel_does_not_decide_hd95() -> None:
    large = box((2, 8), (2, 8), (2, 8))
    stray = large.copy()
    stray[11, 13, 9] = True
    assert metrics.hd95_mm(large, stray, (1, 1, 1)) == 0.0


# MONAI 1.6 warns about a call inside itself.
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0)])
def test_monai_agrees(seed: int, spacing: tuple[float, float, float]) -> None:
    a, b = blob(seed), blob(seed + 100)
    first, second = (torch.from_numpy(m)[None, None].float() for m in (a, b))
    assert metrics.dice(a, b) == pytest.approx(compute_dice(first, second).item(), abs=1e-6)
    theirs = compute_hausdorff_distance(first, second, include_background=True, percentile=95, spacing=spacing).item()
    assert metrics.hd95_mm(a, b, spacing) == pytest.approx(theirs, abs=1e-4)


def test_lesions_that_touch_at_a_corner_are_one() -> None:
    assert metrics.lesion_count(EMPTY) == 0
    assert metrics.lesion_count(CUBE) == 1
    assert metrics.lesion_count(CUBE | box((4, 6), (4, 6), (4, 6))) == 1
    assert metrics.lesion_count(CUBE | box((5, 6), (5, 6), (5, 6))) == 2


def test_small_pieces_are_removed_and_the_input_is_left_alone() -> None:
    mask = CUBE | box((8, 9), (8, 9), (8, 9)) | box((8, 10), (2, 3), (2, 3))
    before = mask.copy()
    cleaned = metrics.without_small_pieces(mask, voxel_ml=0.001, minimum_ml=0.002)
    np.testing.assert_array_equal(cleaned, CUBE | box((8, 10), (2, 3), (2, 3)))
    np.testing.assert_array_equal(mask, before)
    assert not metrics.without_small_pieces(mask, 0.001, 1.0).any()
    assert metrics.without_small_pieces(mask, 0.001, 0.0) is mask
    assert metrics.without_small_pieces(EMPTY, 0.001, 1.0) is EMPTY


@pytest.mark.parametrize("order", ["C", "F"])
def test_small_pieces_do_not_depend_on_memory_order(order: str) -> None:
    mask = np.array(blob(3), order=order)  # type: ignore[call-overload]
    mask[0, 0, 0] = True
    cleaned = metrics.without_small_pieces(mask, 0.001, 0.01)
    assert not cleaned[0, 0, 0]
    assert cleaned.sum() == mask.sum() - 1


def test_the_bounding_box_is_tight() -> None:
    assert metrics.bounding_box(box((2, 4), (5, 6), (0, 9))) == (slice(2, 4), slice(5, 6), slice(0, 9))
    assert metrics.bounding_box(EMPTY) is None


def label_map(core: metrics.Mask, whole: metrics.Mask, grid: Grid | None = None, source: str = "") -> LabelMap:
    data = np.where(core, 1, np.where(whole, 2, 0)).astype(np.uint8)
    grid = grid or Grid(data.shape, np.diag([1.0, 1.0, 2.0, 1.0]))
    return LabelMap(data, grid, Path(source) if source else None)


def test_score_covers_both_regions_with_volumes() -> None:
    whole, core = box((2, 8), (2, 8), (2, 8)), CUBE
    scores = metrics.score(label_map(core, whole), label_map(core, whole))
    assert set(scores) == {"whole_tumour", "tumour_core"}
    for region, ml in (("whole_tumour", 0.432), ("tumour_core", 0.016)):
        found = scores[region]
        assert (found.dice, found.hd95_mm) == (1.0, 0.0)
        assert found.volume_ml == found.truth_ml == pytest.approx(ml)
    missed = metrics.score(label_map(EMPTY, whole), label_map(core, whole))["tumour_core"]
    assert missed.dice == 0.0
    assert missed.hd95_mm == pytest.approx(math.sqrt(12**2 + 14**2 + 20**2))
    assert missed.volume_ml == 0.0
    assert missed.truth_ml == pytest.approx(0.016)


def test_score_refuses_masks_of_different_scans() -> None:
    grid = Grid(SHAPE, np.diag([1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(GridMismatch, match=r"mine\.nii does not lie on the grid of truth\.nii"):
        metrics.score(label_map(CUBE, CUBE, source="a/mine.nii"), label_map(CUBE, CUBE, grid, "b/truth.nii"))


def test_a_full_size_case_is_scored_quickly() -> None:
    shape = (240, 240, 155)
    whole = np.zeros(shape, dtype=bool)
    whole[60:120, 60:130, 40:100] = True
    core = np.zeros(shape, dtype=bool)
    core[70:100, 70:100, 50:80] = True
    grid = Grid(shape, np.eye(4))
    truth, found = label_map(core, whole, grid), label_map(np.roll(core, 2), np.roll(whole, 3, axis=1), grid)
    start = time.perf_counter()
    metrics.score(found, truth)
    assert time.perf_counter() - start < 3


def test_pieces_of_a_mask_one_voxel_thick_are_told_apart():
    for axis in range(3):
        mask = np.zeros((9, 9, 9), bool)
        line = np.moveaxis(mask, axis, 0)[:, 4, 4]
        line[[1, 3, 6]] = line[7] = True
        kept = metrics.without_small_pieces(mask, 0.001, 0.002)
        assert np.argwhere(kept)[:, axis].tolist() == [6, 7]
