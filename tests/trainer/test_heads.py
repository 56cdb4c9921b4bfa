"""A head that is put around a stripped patient fits, hides nothing of the patient, and looks like a head."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from engine.brain import is_stripped
from engine.volume import Grid, LabelMap, Sequence, Subject, Volume
from trainer.heads import Part, WholeHead, around, brain_of, prepare_head, put, signed_distance

SPACING = 3.0


def ball(grid: Grid, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> NDArray[np.bool_]:
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    inside: NDArray[np.bool_] = np.sum(((grid.to_world(indices) - centre) / radii) ** 2, axis=1) <= 1
    return inside.reshape(grid.shape)


def grid_of(axes: str, spacing: float, reach: float) -> Grid:
    count = int(2 * reach / spacing) + 1
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, letter in enumerate(axes):
        row = "RLAPSI".index(letter) // 2
        sign = 1 if letter in "RAS" else -1
        affine[row, column], affine[row, 3] = spacing * sign, -sign * reach
    return Grid((count, count, count), affine)


@pytest.fixture(scope="module")
def labels() -> LabelMap:
    """A brain with cortex in fluid, bone that reuses label 3, marrow as 4, muscle, scalp, eyes; a cord that reads 0."""
    grid = grid_of("LIA", 2.0, 116.0)
    data = np.zeros(grid.shape, np.uint8)
    data[ball(grid, (0, 0, -60), (50, 55, 90))] = 251
    data[ball(grid, (0, 0, 0), (92, 100, 88))] = 255
    data[ball(grid, (0, 0, 0), (86, 94, 82))] = 251
    data[ball(grid, (0, 0, 0), (80, 88, 76))] = 3
    data[ball(grid, (0, 0, 74), (30, 40, 1.5))] = 4
    data[ball(grid, (0, 0, 0), (72, 80, 68))] = 24
    for side in (-1, 1):
        data[ball(grid, (side * 32, 88, -30), (12, 12, 12))] = 250
    data[ball(grid, (0, -15, -80), (12, 12, 40))] = 24
    data[ball(grid, (0, -15, -90), (6, 6, 22))] = 0
    right = ball(grid, (500.0, 0, 0), (500.0, 500.0, 500.0))
    cortex, white = ball(grid, (0, 0, 0), (67, 75, 63)), ball(grid, (0, 0, 0), (62, 70, 58))
    data[cortex] = np.where(right, 42, 3)[cortex]
    data[white] = np.where(right, 41, 2)[white]
    for side, ventricle, thalamus in ((-1, 4, 10), (1, 43, 49)):
        data[ball(grid, (side * 11.0, 5, 8), (5, 26, 8))] = ventricle
        data[ball(grid, (side * 12.0, -8, -8), (9, 14, 8))] = thalamus
    return LabelMap(data, grid)


@pytest.fixture(scope="module")
def head(labels: LabelMap) -> WholeHead:
    return prepare_head(labels)


@pytest.fixture(scope="module")
def patient() -> Subject:
    """A stripped brain of another size, elsewhere in the world, on a grid that barely holds it."""
    grid = grid_of("LPS", SPACING, 84.0)
    inside = ball(grid, (4, -6, 3), (58, 72, 54))
    rng = np.random.default_rng(0)
    volumes = {}
    for sequence, unit in zip(Sequence, (300, 800, 150, 60), strict=True):
        values = unit * (1 + 0.1 * rng.standard_normal(grid.shape))
        volumes[sequence] = Volume(np.where(inside, values, 0).astype(np.float32), grid, sequence)
    return Subject("made up", volumes)


@pytest.fixture(scope="module")
def whole(patient: Subject, head: WholeHead) -> Subject:
    return around(patient, head, np.random.default_rng(5))


def test_reused_labels_are_told_apart(head: WholeHead, labels: LabelMap) -> None:
    def at(x: float, y: float, z: float) -> Part | int:
        return int(head.part[tuple(np.rint(labels.grid.to_voxel(np.array([[x, y, z]]))[0]).astype(int))])

    assert at(-76, 0, 0) == Part.BONE  # label 3, as the left cortex
    assert at(0, 0, 74) == Part.MARROW  # label 4, as the left ventricle
    assert at(0, -15, -92) == Part.CORD  # label 0, as air
    assert at(32, 88, -30) == Part.EYE
    assert at(91, 0, 0) == Part.SKIN
    assert at(110, 110, 110) == Part.AIR
    assert at(-40, 0, 20) < 20
    assert at(-40, 0, 20) > 0


def test_the_brain_of_the_label_map_is_measured_from_its_surface(head: WholeHead, labels: LabelMap) -> None:
    volume = np.count_nonzero(head.inside_mm > 0) * labels.grid.voxel_ml
    assert volume == pytest.approx(4 / 3 * np.pi * 6.8 * 7.6 * 6.4, rel=0.06)  # the cortex and about a millimetre
    corner = labels.grid.to_voxel(np.array([[114.0, 0, 0]]))[0].round().astype(int)
    assert head.inside_mm[tuple(corner)] == pytest.approx(-46, abs=4)


def test_not_a_value_of_the_brain_changes(patient: Subject, whole: Subject) -> None:
    for sequence in Sequence:
        before, after = patient[sequence], whole[sequence]
        start = after.grid.to_voxel(before.grid.to_world(np.zeros((1, 3))))[0].round().astype(int)
        place = tuple(slice(a, a + n) for a, n in zip(start, before.grid.shape, strict=True))
        there = before.data != 0
        np.testing.assert_array_equal(after.data[place][there], before.data[there])


def test_skull_and_scalp_lie_right_around_the_brain(patient: Subject, whole: Subject) -> None:
    brain = put(LabelMap(brain_of(patient).astype(np.uint8), patient.grid), whole.grid).data > 0
    away = -signed_distance(brain, whole.grid.spacing)
    picture = whole[Sequence.T1].data / np.median(patient[Sequence.T1].data[patient[Sequence.T1].data > 0])
    above = ball(whole.grid, (4, -6, 80), (200, 200, 70))  # off face and neck
    shell = {far: float(np.median(picture[above & (away > far - 2) & (away <= far)])) for far in (9, 17, 40)}
    assert shell[9] < 0.4  # bone
    assert shell[17] > 0.5  # muscle and fat
    assert shell[40] < 0.1  # air
    assert ndimage.label(picture > 0.4)[1] >= 1


def test_the_picture_is_no_longer_stripped(patient: Subject, whole: Subject) -> None:
    for sequence in Sequence:
        assert is_stripped(patient[sequence])
        assert not is_stripped(whole[sequence])


def test_the_same_chance_gives_the_same_head(patient: Subject, whole: Subject, head: WholeHead) -> None:
    again = around(patient, head, np.random.default_rng(5))
    np.testing.assert_array_equal(again[Sequence.T2].data, whole[Sequence.T2].data)
    other = around(patient, head, np.random.default_rng(6), air=False)
    assert (other[Sequence.T2].data != whole[Sequence.T2].data).any()
    assert (other[Sequence.T2].data == 0).mean() > 0.2  # clean air


def test_the_truth_follows_onto_the_larger_grid(patient: Subject, whole: Subject) -> None:
    data = np.zeros(patient.grid.shape, np.uint8)
    data[20, 30, 25] = 1
    moved = put(LabelMap(data, patient.grid), whole.grid)
    (here,) = np.argwhere(moved.data)
    np.testing.assert_allclose(whole.grid.to_world(here[None]), patient.grid.to_world(np.array([[20, 30, 25]])))
    with pytest.raises(ValueError, match="no place"):
        put(LabelMap(np.zeros(whole.grid.shape, np.uint8), whole.grid), patient.grid)


def test_a_patient_with_a_skull_is_refused(whole: Subject, head: WholeHead) -> None:
    with pytest.raises(ValueError, match="not zero around a brain"):
        around(
            Subject("x", {s: Volume(v.data + 1, v.grid, s) for s, v in whole.items()}), head, np.random.default_rng(0)
        )
