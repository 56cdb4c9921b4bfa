from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from engine import alignment, sequences
from engine.alignment import align, already_aligned, moved, nudge, onto, quality, reference_of, working_grid
from engine.errors import Cancelled
from engine.progress import Progress
from engine.volume import Affine, FloatArray, Grid, Sequence, Volume

MIDDLE = np.array([4.0, -9.0, 12.0])
# Air, fluid, grey and white matter, scalp; each sequence orders them otherwise.
BRIGHTNESS = {
    Sequence.T1: (0, 40, 110, 160, 220),
    Sequence.T1CE: (0, 45, 120, 165, 210),
    Sequence.T2: (0, 240, 130, 100, 170),
    Sequence.FLAIR: (0, 30, 150, 110, 90),
}


@cache
def tissues(skull: bool) -> tuple[np.ndarray, Grid]:
    """A head of 5 tissues at 2 mm: folded, unlike on both sides, with or without a skull."""
    shape = (88, 104, 92)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = MIDDLE - (np.array(shape) - 1)
    grid = Grid(shape, affine)
    x, y, z = np.moveaxis(grid.to_world(np.indices(shape).reshape(3, -1).T).reshape(*shape, 3) - MIDDLE, -1, 0)
    chance = np.random.default_rng(3)
    folds = ndimage.gaussian_filter(chance.normal(size=shape), 2.5)
    folds /= folds.std()
    depth = np.sqrt((x / 66) ** 2 + (y / 82) ** 2 + ((z - 0.1 * y) / 62) ** 2)
    labels = np.zeros(shape, np.uint8)
    labels[depth < 1] = 1
    labels[(depth < 0.95) & (folds < 1.0)] = 2
    labels[(depth < 0.85) & (folds < 0.2)] = 3
    labels[((x / 12) ** 2 + ((y + 6) / 26) ** 2 + ((z - 6) / 9) ** 2) < 1] = 1
    labels[((x - 34) / 14) ** 2 + ((y - 20) / 12) ** 2 + (z / 15) ** 2 < 1] = 1
    if skull:
        labels[(depth > 1.12) & (depth < 1.22)] = 4
    return labels, grid


def scan(sequence: Sequence, skull: bool = False, slices_mm: float = 2.0, at: Affine | None = None) -> Volume:
    """The head as a sequence shows it, the patient lying elsewhere by ``at``, in slices of some thickness."""
    labels, grid = tissues(skull)
    bright = np.array(BRIGHTNESS[sequence], np.float32)[labels]
    to_file = np.linalg.inv(grid.affine) @ np.linalg.inv(np.eye(4) if at is None else at) @ grid.affine
    lying = ndimage.affine_transform(bright, to_file[:3, :3], to_file[:3, 3], order=1)
    step = round(slices_mm / 2)
    count = grid.shape[2] // step
    thick = lying[:, :, : count * step].reshape(*grid.shape[:2], count, step).mean(axis=3)
    affine = grid.affine.copy()
    affine[2, 2] = slices_mm
    affine[2, 3] += (slices_mm - 2) / 2
    noise = np.random.default_rng(list(Sequence).index(sequence)).normal(0, 4, thick.shape)
    noisy = np.where(thick > 20, thick + noise, 0).astype(np.float32)
    return Volume(noisy, Grid(noisy.shape, affine), sequence)


def lying(shift: tuple[float, float, float], turn: tuple[float, float, float]) -> Affine:
    return nudge(np.eye(4), shift, turn, (float(MIDDLE[0]), float(MIDDLE[1]), float(MIDDLE[2])))


def apart_mm(first: Affine, second: Affine) -> float:
    """How far two motions put the brain's places apart, at most."""
    labels, grid = tissues(False)
    places = grid.to_world(np.argwhere(labels > 0)[::501])
    difference = places @ (first - second)[:3, :3].T + (first - second)[:3, 3]
    return float(np.linalg.norm(difference, axis=1).max())


PATIENT_MOVED = lying((7.0, -9.0, 5.0), (6.0, -8.0, 9.0))


@pytest.mark.parametrize("sequence", [Sequence.T2, Sequence.FLAIR, Sequence.T1])
def test_a_patient_who_moved_between_two_sequences_is_brought_back(sequence: Sequence) -> None:
    found = align(scan(sequence, at=PATIENT_MOVED), scan(Sequence.T1CE))
    assert apart_mm(found.matrix @ PATIENT_MOVED, np.eye(4)) < 1
    assert not found.already
    assert found.quality_words == "good"
    assert found.moved_mm == pytest.approx(np.linalg.norm([7, 9, 5]), abs=1.5)
    assert found.turned_deg == pytest.approx(13.2, abs=1)


def test_thick_slices_with_a_skull_are_brought_back() -> None:
    found = align(scan(Sequence.FLAIR, skull=True, slices_mm=6, at=PATIENT_MOVED), scan(Sequence.T1, skull=True))
    assert apart_mm(found.matrix @ PATIENT_MOVED, np.eye(4)) < 1.5


@pytest.mark.parametrize("stripped_one", [Sequence.T1, Sequence.T2])
def test_one_scan_may_be_stripped_and_the_other_not(stripped_one: Sequence) -> None:
    still = scan(Sequence.T1, skull=stripped_one is not Sequence.T1)
    other = scan(Sequence.T2, skull=stripped_one is not Sequence.T2, at=PATIENT_MOVED)
    assert apart_mm(align(other, still).matrix @ PATIENT_MOVED, np.eye(4)) < 1.5


def test_a_header_that_lies_by_ten_centimetres_does_no_harm() -> None:
    elsewhere = lying((70.0, -60.0, 50.0), (10.0, 0.0, -10.0))
    found = align(moved(scan(Sequence.T2), elsewhere), scan(Sequence.T1))
    assert apart_mm(found.matrix @ elsewhere, np.eye(4)) < 1


def test_a_header_that_takes_the_front_for_the_top_does_no_harm() -> None:
    on_its_back = lying((0.0, 0.0, 0.0), (90.0, 0.0, 0.0))
    found = align(moved(scan(Sequence.T2), on_its_back), scan(Sequence.T1))
    assert apart_mm(found.matrix @ on_its_back, np.eye(4)) < 1


def test_what_lies_right_stays_exactly_where_it_is() -> None:
    found = align(scan(Sequence.T2, slices_mm=4), scan(Sequence.T1))
    assert found.already
    assert np.array_equal(found.matrix, np.eye(4))
    assert (found.moved_mm, found.turned_deg) == (0, 0)


def test_aligning_again_goes_on_from_where_the_user_put_it() -> None:
    other = scan(Sequence.T2, at=PATIENT_MOVED)
    by_hand = nudge(np.linalg.inv(PATIENT_MOVED), (3.0, -2.0, 2.0))
    again = align(other, scan(Sequence.T1), start=by_hand)
    assert apart_mm(again.matrix @ PATIENT_MOVED, np.eye(4)) < 1


def test_the_same_scans_give_the_same_matrix() -> None:
    other, still = scan(Sequence.FLAIR, at=PATIENT_MOVED), scan(Sequence.T1)
    assert np.array_equal(align(other, still).matrix, align(other, still).matrix)


def test_the_matrix_is_rigid() -> None:
    turn = align(scan(Sequence.T2, at=PATIENT_MOVED), scan(Sequence.T1)).matrix[:3, :3]
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1)


def test_quality_falls_as_scans_move_apart_and_is_poor_for_two_heads() -> None:
    still, other = scan(Sequence.T1), scan(Sequence.T2)
    by_distance = [quality(moved(other, lying((mm, 0, 0), (0, 0, 0))), still) for mm in (0.0, 1.5, 4.0)]
    assert by_distance == sorted(by_distance, reverse=True)
    assert alignment.quality_words(by_distance[0]) == "good"
    assert alignment.quality_words(by_distance[2]).startswith("poor")
    grain = np.random.default_rng(5).uniform(50, 150, still.data.shape)
    no_head = replace(other, data=ndimage.gaussian_filter(grain, 2).astype(np.float32))
    assert quality(no_head, still) < alignment.FAIR


def test_scans_on_one_grid_that_fit_are_aligned_and_one_that_was_shifted_is_told() -> None:
    volumes = [scan(sequence) for sequence in Sequence]
    assert already_aligned(volumes)
    assert already_aligned(volumes[:1])
    slid = replace(volumes[2], data=np.roll(volumes[2].data, 2, axis=1))
    assert not already_aligned([*volumes[:2], slid])
    assert not already_aligned([volumes[0], moved(volumes[1], lying((0.0, 0.0, 4.0), (0.0, 0.0, 0.0)))])


def test_moving_a_scan_touches_no_voxel_and_can_be_undone() -> None:
    volume = scan(Sequence.T1)
    there = moved(volume, PATIENT_MOVED)
    assert there.data is volume.data
    assert moved(there, np.linalg.inv(PATIENT_MOVED)).grid.same_as(volume.grid, 1e-6)


def test_a_nudge_goes_where_its_axis_points_and_turns_about_its_point() -> None:
    assert np.allclose(nudge(np.eye(4), (2.0, 0.0, 0.0)) @ [0, 0, 0, 1], [2, 0, 0, 1])
    quarter = nudge(np.eye(4), turn_deg=(0.0, 0.0, 90.0), about=(10.0, 0.0, 0.0))
    assert np.allclose(quarter @ [10, 0, 0, 1], [10, 0, 0, 1])
    assert np.allclose(quarter @ [11, 0, 0, 1], [10, 1, 0, 1])  # what lay to the right lies in front


def test_stopping_ends_it_at_the_next_step() -> None:
    heard: list[float] = []

    def listener(fraction: float, _: str) -> None:
        heard.append(fraction)
        if fraction > 0:
            progress.cancel()

    progress = Progress(listener)
    with pytest.raises(Cancelled):
        align(scan(Sequence.T2, at=PATIENT_MOVED), scan(Sequence.T1), progress)
    assert len(heard) == 2


def test_stopping_is_heard_within_a_stage_too() -> None:
    progress = Progress(lambda fraction, _: timer.start() if fraction == pytest.approx(0.1) else None)
    timer = threading.Timer(0.0, progress.cancel)
    with pytest.raises(Cancelled):
        align(scan(Sequence.T2, at=PATIENT_MOVED), scan(Sequence.T1), progress)
    timer.join()


def test_the_reference_is_the_finest_and_among_equals_the_one_with_contrast() -> None:
    thin, thick = scan(Sequence.T2), scan(Sequence.T1CE, slices_mm=4)
    assert reference_of({Sequence.T1CE: thick, Sequence.T2: thin}) is Sequence.T2
    assert reference_of({s: scan(s) for s in Sequence}) is Sequence.T1CE
    few_slices = Volume(thin.data[:, :, 40:55], Grid((88, 104, 15), thin.grid.affine), Sequence.T2)
    assert reference_of({Sequence.T1CE: thick, Sequence.T2: few_slices}) is Sequence.T1CE


def fine(volume: Volume, spacing: tuple[float, float, float]) -> Volume:
    """A volume of zeros with a box of ones, on a grid of some spacing around the head's middle."""
    shape = tuple(int(170 / side) for side in spacing)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = MIDDLE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return sequences.resample(volume, Grid((shape[0], shape[1], shape[2]), affine))


def test_the_working_grid_keeps_the_voxels_of_a_fine_reference_and_cuts_to_the_head() -> None:
    reference = fine(scan(Sequence.T1), (0.9, 1.0, 1.1))
    grid = working_grid({Sequence.T1: reference}, Sequence.T1)
    offset = reference.grid.to_voxel(grid.affine[None, :3, 3])[0]
    first = np.rint(offset).astype(int)
    assert np.allclose(offset, first, atol=1e-6)
    assert grid.spacing == pytest.approx((0.9, 1.0, 1.1))
    kept = onto(reference, grid).data
    i, j, k = (slice(max(0, f), max(0, f) + 40) for f in first)
    shift = [max(0, f) - f for f in first]
    same: FloatArray = kept[shift[0] : shift[0] + 40, shift[1] : shift[1] + 40, shift[2] : shift[2] + 40]
    assert np.array_equal(same, reference.data[i, j, k])
    assert np.count_nonzero(kept) == np.count_nonzero(reference.data)
    assert np.prod(grid.shape) < 0.9 * reference.data.size


def test_thick_slices_are_divided_so_that_each_lies_on_a_voxel_of_the_working_grid() -> None:
    reference = fine(scan(Sequence.T1), (0.5, 0.5, 6.6))
    grid = working_grid({Sequence.T1: reference}, Sequence.T1)
    assert grid.spacing == pytest.approx((1.0, 1.0, 6.6 / 7))
    slices = grid.to_voxel(reference.grid.to_world(np.array([[0, 0, 0], [0, 0, 1]])))[:, 2]
    assert np.diff(slices) == pytest.approx(7)
    assert np.allclose(slices, np.rint(slices), atol=1e-6)


def test_the_working_grid_holds_all_of_every_sequence_where_it_lies_after_alignment() -> None:
    t1 = scan(Sequence.T1)
    t2 = moved(scan(Sequence.T2), lying((0.0, 25.0, 0.0), (0.0, 0.0, 20.0)))
    grid = working_grid({Sequence.T1: t1, Sequence.T2: t2}, Sequence.T1)
    for volume in (t1, t2):
        places = grid.to_voxel(volume.grid.to_world(np.argwhere(volume.data > 0)))
        assert places.min() > -0.5
        assert np.all(places < np.array(grid.shape) - 0.5)


def test_a_stripped_brain_keeps_its_edge_between_other_voxels() -> None:
    data = np.zeros((20, 20, 20), np.float32)
    data[5:15, 5:15, 5:15] = 100
    between = np.eye(4)
    between[:3, 3] = 0.4
    sampled = onto(Volume(data, Grid((20, 20, 20), np.eye(4))), Grid((19, 19, 19), between)).data
    assert set(np.unique(sampled.round(3))) == {0, 100}
    assert 900 < np.count_nonzero(sampled) <= 1000


def test_where_a_scan_has_no_voxels_it_goes_on_with_its_own_background() -> None:
    data = np.full((10, 10, 10), -1000.0, np.float32)
    data[3:7, 3:7, 3:7] = 40
    volume = Volume(data, Grid((10, 10, 10), np.eye(4)))
    wider = np.eye(4)
    wider[:3, 3] = -5
    sampled = onto(volume, Grid((20, 20, 20), wider)).data
    assert sampled.min() == -1000
    assert sampled[0, 0, 0] == -1000
    assert sampled[9, 9, 9] == 40
