"""Correcting by hand: the right voxels, nothing else, and always a way back."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.editing import (
    Brush,
    Edit,
    Editor,
    Limit,
    Region,
    Slice,
    dab,
    fingerprint,
    pack,
    pack_edits,
    unpack,
    unpack_edits,
)
from engine.errors import GridMismatch, UnreadableImage, UserError
from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, Grid, LabelMap
from tests.engine import phantoms

WHOLE, CORE = Region.WHOLE_TUMOUR, Region.CORE
AXIAL, CORONAL, SAGITTAL = 2, 1, 0


def empty(grid: Grid) -> LabelMap:
    return LabelMap(np.zeros(grid.shape, np.uint8), grid)


def middle(grid: Grid) -> np.ndarray:
    return grid.to_world((np.array([grid.shape]) - 1) / 2)[0]


def millimetres(grid: Grid) -> np.ndarray:
    """World position of every voxel, ``(*shape, 3)``."""
    return grid.to_world(np.indices(grid.shape).reshape(3, -1).T).reshape(*grid.shape, 3)


@st.composite
def grids(draw: st.DrawFn, largest: int = 10, sheared: bool = True) -> Grid:
    """Anisotropic, oblique, mirrored and, where wished for, sheared grids."""
    shape = draw(st.tuples(*[st.integers(2, largest)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.4, 5.0)] * 3))
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    shear = np.eye(3)
    if sheared:
        shear[0, 1], shear[1, 2] = draw(st.floats(-0.4, 0.4)), draw(st.floats(-0.4, 0.4))
    affine = np.eye(4)
    affine[:3, :3] = phantoms.rotation(angles) @ shear @ np.diag(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-50, 50)] * 3))
    return Grid(shape, affine)


@st.composite
def label_maps(draw: st.DrawFn, sheared: bool = True) -> LabelMap:
    grid = draw(grids(sheared=sheared))
    seed, share = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from((0.05, 0.4, 0.8)))
    random = np.random.default_rng(seed)
    labels = random.integers(1, 3, grid.shape).astype(np.uint8) * (random.random(grid.shape) < share)
    return LabelMap(labels.astype(np.uint8), grid)


# --- brushes ----------------------------------------------------------------------------------------------------------


def _distance_to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    way = end - start
    length = float(way @ way)
    share = np.clip((points - start) @ way / length, 0, 1) if length > 1e-12 else np.zeros(points.shape[:-1])
    return np.linalg.norm(points - start - share[..., None] * way, axis=-1)


@settings(max_examples=120, deadline=None)
@given(grid=grids(), radius=st.floats(0.2, 12), places=st.tuples(*[st.floats(-3, 12)] * 6))
def test_a_ball_covers_what_lies_near_its_path_in_mm(grid: Grid, radius: float, places: tuple[float, ...]) -> None:
    start, end = np.array(places[:3]), np.array(places[3:])
    covered = np.zeros(grid.shape, bool)
    found = dab(grid, Brush(radius, ball=True), start, end, None)
    if found is not None:
        covered[found[0]] = found[1]
    distance = _distance_to_segment(millimetres(grid), *grid.to_world(np.stack([start, end])))
    expected = distance <= radius
    for point in (start, end):
        nearest = tuple(np.rint(point).astype(int))
        if all(0 <= n < size for n, size in zip(nearest, grid.shape, strict=True)):
            expected[nearest] = True
    doubtful = np.abs(distance - radius) < 1e-5
    assert np.array_equal(covered[~doubtful], expected[~doubtful])


@settings(max_examples=120, deadline=None)
@given(
    grid=grids(),
    radius=st.floats(0.2, 12),
    places=st.tuples(*[st.floats(-3, 12)] * 6),
    axis=st.integers(0, 2),
    index=st.integers(0, 9),
)
def test_a_disc_covers_what_lies_near_its_path_on_its_slice_alone(
    grid: Grid, radius: float, places: tuple[float, ...], axis: int, index: int
) -> None:
    index = min(index, grid.shape[axis] - 1)
    start, end = np.array(places[:3]), np.array(places[3:])
    start[axis] = end[axis] = index
    covered = np.zeros(grid.shape, bool)
    found = dab(grid, Brush(radius), start, end, Slice(axis, index))
    if found is not None:
        covered[found[0]] = found[1]
    distance = _distance_to_segment(millimetres(grid), *grid.to_world(np.stack([start, end])))
    on_slice = np.zeros(grid.shape, bool)
    np.moveaxis(on_slice, axis, 0)[index] = True
    expected = (distance <= radius) & on_slice
    for point in (start, end):
        nearest = tuple(np.rint(point).astype(int))
        if all(0 <= n < size for n, size in zip(nearest, grid.shape, strict=True)):
            expected[nearest] = True
    doubtful = np.abs(distance - radius) < 1e-5
    assert np.array_equal(covered[~doubtful], expected[~doubtful])


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_in_all_orientations_the_side_that_is_pointed_at_is_painted(orientation: str) -> None:
    grid = phantoms.grid(orientation, spacing=(1.0, 1.3, 2.1), oblique=(11, -7, 5))
    reference = phantoms.grid("RAS", spacing=(1.0, 1.3, 2.1), oblique=(11, -7, 5))
    for marker in (phantoms.LEFT_MARKER, phantoms.FRONT_MARKER, phantoms.TOP_MARKER):
        world = np.add(marker, (3.0, -5.0, 7.0))
        for ball in (True, False):
            painted = []
            for on in (grid, reference):
                editor = Editor(empty(on))
                stroke = editor.stroke(Brush(3.0, ball), CORE)
                stroke.reach(world, Slice.at(on, AXIAL, world))
                edit = stroke.end()
                assert edit is not None
                painted.append(on.to_world(np.argwhere(editor.labels.data == TUMOUR_CORE)))
                assert np.linalg.norm(painted[-1] - world, axis=1).max() <= 3.0 + 1.1
            here, there = (points[np.lexsort(np.round(points, 3).T)] for points in painted)
            assert here == pytest.approx(there, abs=1e-6)
            assert "axial" in edit.name


def test_a_stroke_leaves_no_gap_however_fast_the_pointer_was() -> None:
    grid = phantoms.grid(shape=(80, 80, 4))
    editor = Editor(empty(grid))
    stroke = editor.stroke(Brush(1.0), WHOLE)
    at = Slice(2, 1)
    for corner in ((5, 5), (70, 60)):
        stroke.reach(grid.to_world(np.array([[*corner, 1]]))[0], at)
    stroke.end()
    _, pieces = ndimage.label(editor.labels.data[..., 1], structure=np.ones((3, 3)))
    assert pieces == 1
    assert editor.labels.data[5, 5, 1]
    assert editor.labels.data[70, 60, 1]
    assert not editor.labels.data[..., [0, 2, 3]].any()


def test_painting_core_makes_whole_tumour_and_painting_whole_tumour_leaves_the_core() -> None:
    grid = phantoms.grid(shape=(9, 9, 9))
    editor = Editor(empty(grid))
    at = Slice(2, 4)

    def draw(region: Region, radius: float, erase: bool = False) -> np.ndarray:
        stroke = editor.stroke(Brush(radius), region, erase)
        stroke.reach(middle(grid), at)
        stroke.end()
        return editor.labels.data[..., 4]

    assert set(np.unique(draw(CORE, 2.0))) == {0, TUMOUR_CORE}
    after = draw(WHOLE, 3.5)
    assert after[4, 4] == TUMOUR_CORE
    assert after[4, 1] == REST_OF_WHOLE_TUMOUR
    after = draw(CORE, 1.2, erase=True)
    assert after[4, 4] == REST_OF_WHOLE_TUMOUR
    assert after[4, 6] == TUMOUR_CORE
    assert not draw(WHOLE, 9.0, erase=True).any()


def test_a_brush_with_limits_leaves_other_intensities_alone() -> None:
    grid = phantoms.grid(shape=(9, 9, 3))
    values = np.arange(grid.shape[0], dtype=np.float32)[:, None, None] * np.ones(grid.shape, np.float32)
    for erase in (False, True):
        labels = np.full(grid.shape, REST_OF_WHOLE_TUMOUR if erase else 0, np.uint8)
        editor = Editor(LabelMap(labels, grid))
        stroke = editor.stroke(Brush(20, ball=True), WHOLE, erase, Limit(values, 3, 5))
        stroke.reach(middle(grid), Slice(2, 1))
        stroke.end()
        changed = editor.labels.data != labels
        assert np.array_equal(np.flatnonzero(changed.all(axis=(1, 2))), [3, 4, 5])
        assert changed.sum() == 3 * 9 * 3


def test_a_stroke_over_several_slices_is_one_change_named_after_all_of_them() -> None:
    grid = phantoms.grid("LPS", shape=(20, 20, 10))
    editor = Editor(empty(grid))
    stroke = editor.stroke(Brush(2), WHOLE)
    for index in (3, 4, 5):
        stroke.reach(grid.to_world(np.array([[10, 10, index]]))[0], Slice(2, index))
    edit = stroke.end()
    assert edit is not None
    assert edit.name == "paint on axial 4 to 6"
    assert editor.drawn(2) == [3, 4, 5]
    assert len(editor.applied) == 1
    assert np.count_nonzero(editor.labels.data[..., 3]) == np.count_nonzero(editor.labels.data[..., 5]) == 13


def test_a_stroke_that_is_cancelled_never_was() -> None:
    truth = phantoms.tumour(phantoms.grid("LPS"))
    editor = Editor(truth)
    stroke = editor.stroke(Brush(3, ball=True), CORE)
    stroke.reach(middle(truth.grid), Slice(2, 10))
    assert not np.array_equal(editor.labels.data, truth.data)
    with pytest.raises(ValueError, match="under way"):
        editor.undo()
    stroke.cancel()
    assert np.array_equal(editor.labels.data, truth.data)
    assert editor.applied == ()
    assert editor.undo() is None


def test_slices_are_counted_as_people_count_them() -> None:
    up, down = phantoms.grid("LPS", shape=(4, 5, 6)), phantoms.grid("LPI", shape=(4, 5, 6))
    assert Slice(2, 0).words(up) == "axial 1"
    assert Slice(2, 0).words(down) == "axial 6"
    assert Slice(0, 0).words(up) == "sagittal 4"
    assert Slice(1, 4).words(up) == "coronal 1"


# --- operations against second implementations ------------------------------------------------------------------------


def _of(labels: np.ndarray, region: Region) -> np.ndarray:
    return labels == TUMOUR_CORE if region is CORE else labels > 0


@settings(max_examples=80, deadline=None)
@given(
    labels=label_maps(sheared=False),
    region=st.sampled_from(Region),
    mm=st.floats(0.3, 9),
    outwards=st.booleans(),
    axis=st.sampled_from((None, 0, 1, 2)),
)
def test_growing_and_shrinking_agree_with_distance_maps(
    labels: LabelMap, region: Region, mm: float, outwards: bool, axis: int | None
) -> None:
    editor = Editor(labels)
    at = Slice(axis, labels.grid.shape[axis] // 2) if axis is not None else None
    editor.grow(region, mm if outwards else -mm, at)
    mask = _of(labels.data, region)
    spacing = list(labels.grid.spacing)
    if axis is not None:
        spacing[axis] = 1e9
    seed = mask if outwards else ~mask
    distance = ndimage.distance_transform_edt(~seed, sampling=spacing) if seed.any() else np.full(mask.shape, np.inf)
    reached = distance <= mm
    if at is not None:
        on_slice = np.zeros(mask.shape, bool)
        np.moveaxis(on_slice, at.axis, 0)[at.index] = True
        reached &= on_slice
    expected = labels.data.copy()
    if outwards and region is WHOLE:
        expected[reached & ~mask] = REST_OF_WHOLE_TUMOUR
    elif outwards:
        expected[reached & (labels.data > 0)] = TUMOUR_CORE
    else:
        expected[reached & mask] = 0 if region is WHOLE else REST_OF_WHOLE_TUMOUR
    doubtful = np.abs(distance - mm) < 1e-5
    assert np.array_equal(editor.labels.data[~doubtful], expected[~doubtful])


@settings(max_examples=40, deadline=None)
@given(labels=label_maps(), mm=st.floats(0.3, 9))
def test_growing_is_exact_on_sheared_grids(labels: LabelMap, mm: float) -> None:
    editor = Editor(labels)
    editor.grow(WHOLE, mm)
    places = millimetres(labels.grid)
    inside = places[labels.data > 0]
    if not len(inside):
        assert editor.applied == ()
        return
    distance = np.linalg.norm(places[..., None, :] - inside, axis=-1).min(axis=-1)
    doubtful = np.abs(distance - mm) < 1e-5
    assert np.array_equal((editor.labels.data > 0)[~doubtful], (distance <= mm)[~doubtful])


@settings(max_examples=60, deadline=None)
@given(labels=label_maps(), region=st.sampled_from(Region), axis=st.sampled_from((None, 0, 1, 2)))
def test_holes_are_what_scipy_fills(labels: LabelMap, region: Region, axis: int | None) -> None:
    editor = Editor(labels)
    mask = _of(labels.data, region)
    if axis is None:
        editor.fill_holes(region)
        filled = ndimage.binary_fill_holes(mask)
    else:
        at = Slice(axis, labels.grid.shape[axis] // 2)
        editor.fill_holes(region, at)
        filled = mask.copy()
        flat = np.moveaxis(filled, axis, 0)
        flat[at.index] = ndimage.binary_fill_holes(flat[at.index])
    assert np.array_equal(_of(editor.labels.data, region), filled)
    assert np.array_equal(editor.labels.data[~(filled & ~mask)], labels.data[~(filled & ~mask)])


@settings(max_examples=60, deadline=None)
@given(
    labels=label_maps(),
    region=st.sampled_from(Region),
    pick=st.tuples(*[st.floats(0, 0.999)] * 3),
    axis=st.sampled_from((None, 0, 1, 2)),
)
def test_the_island_that_goes_is_the_one_pointed_at(
    labels: LabelMap, region: Region, pick: tuple[float, ...], axis: int | None
) -> None:
    editor, grid = Editor(labels), labels.grid
    voxel = tuple(int(share * size) for share, size in zip(pick, grid.shape, strict=True))
    at = Slice(axis, voxel[axis]) if axis is not None else None
    edit = editor.remove_island(region, grid.to_world(np.array([voxel]))[0], at)
    mask = _of(labels.data, region)
    if at is not None:
        on_slice = np.zeros(mask.shape, bool)
        np.moveaxis(on_slice, at.axis, 0)[at.index] = True
        mask = mask & on_slice
    pieces, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    assert (edit is not None) == bool(mask[voxel])
    gone = (pieces == pieces[voxel]) & mask[voxel]
    expected = labels.data.copy()
    expected[gone] = 0 if region is WHOLE else REST_OF_WHOLE_TUMOUR
    assert np.array_equal(editor.labels.data, expected)


def test_between_a_large_and_a_small_disc_the_shape_shrinks_evenly() -> None:
    grid = phantoms.grid(shape=(41, 41, 11), spacing=(1.0, 1.0, 3.0))
    editor = Editor(empty(grid))
    for index, radius in ((1, 15.0), (9, 5.0)):
        stroke = editor.stroke(Brush(radius), CORE)
        stroke.reach(grid.to_world(np.array([[20, 20, index]]))[0], Slice(2, index))
        stroke.end()
    assert editor.gap(Slice(2, 4)) == (1, 9)
    before = editor.labels.data.copy()
    edit = editor.interpolate(CORE, 2, *editor.gap(Slice(2, 4)))
    assert edit is not None
    assert edit.name == "interpolate core from axial 2 to 10"
    for index in range(1, 10):
        radius = np.sqrt(np.count_nonzero(editor.labels.data[..., index] == TUMOUR_CORE) / np.pi)
        assert radius == pytest.approx(15 - 10 * (index - 1) / 8, abs=0.7)
    assert np.array_equal(editor.labels.data[..., [0, 1, 9, 10]], before[..., [0, 1, 9, 10]])


def test_interpolating_replaces_what_was_between_and_leaves_the_other_region() -> None:
    grid = phantoms.grid(shape=(21, 21, 5))
    labels = np.zeros(grid.shape, np.uint8)
    labels[5:16, 5:16, [0, 4]] = REST_OF_WHOLE_TUMOUR
    labels[8:10, 8:10, 2] = TUMOUR_CORE  # inside what comes
    labels[0:2, 0:2, 2] = TUMOUR_CORE  # and outside it
    editor = Editor(LabelMap(labels, grid))
    editor.interpolate(WHOLE, 2, 4, 0)
    between = editor.labels.data[..., 2]
    assert np.array_equal(between > 0, labels[..., 0] > 0)
    assert (between[8:10, 8:10] == TUMOUR_CORE).all()


def test_interpolating_from_an_empty_slice_is_refused_in_words() -> None:
    grid = phantoms.grid("RAS", shape=(9, 9, 9))
    labels = np.zeros(grid.shape, np.uint8)
    labels[3:6, 3:6, 2] = REST_OF_WHOLE_TUMOUR
    editor = Editor(LabelMap(labels, grid))
    with pytest.raises(UserError, match="no whole tumour on axial 7 to start from"):
        editor.interpolate(WHOLE, 2, 2, 6)
    assert np.array_equal(editor.labels.data, labels)


def test_the_gap_is_the_one_around_the_slice_and_towards_where_one_comes_from() -> None:
    grid = phantoms.grid(shape=(9, 9, 30))
    editor = Editor(empty(grid))

    def draw(index: int) -> None:
        stroke = editor.stroke(Brush(2), WHOLE)
        stroke.reach(grid.to_world(np.array([[4, 4, index]]))[0], Slice(2, index))
        stroke.end()

    draw(5)
    assert editor.gap(Slice(2, 5)) is None
    draw(20)
    draw(12)
    assert editor.gap(Slice(2, 12)) == (12, 20)
    assert editor.gap(Slice(2, 8)) == (5, 12)
    assert editor.gap(Slice(2, 25)) is None
    assert editor.gap(Slice(1, 4)) is None
    editor.undo()
    assert editor.gap(Slice(2, 8)) == (5, 20)


@pytest.mark.parametrize("region", [None, WHOLE, CORE])
def test_copying_takes_the_region_as_the_other_has_it(region: Region | None) -> None:
    random = np.random.default_rng(3)
    grid = phantoms.grid(shape=(6, 7, 8))
    mine, theirs = (random.integers(0, 3, grid.shape).astype(np.uint8) for _ in range(2))
    editor = Editor(LabelMap(mine, grid))
    editor.copy_from(LabelMap(theirs, grid), "Teacher", region)
    now = editor.labels.data
    if region is None:
        assert np.array_equal(now, theirs)
    else:
        assert np.array_equal(_of(now, region), _of(theirs, region))
    if region is WHOLE:
        assert np.array_equal((now == TUMOUR_CORE), (mine == TUMOUR_CORE) & (theirs > 0))
    if region is CORE:
        assert np.array_equal(now > 0, (mine > 0) | (theirs == TUMOUR_CORE))
    assert editor.applied[-1].name.endswith("from Teacher")
    assert editor.copy_from(LabelMap(now.copy(), grid), "Teacher", region) is None


def test_copying_from_another_grid_is_refused_in_words() -> None:
    editor = Editor(empty(phantoms.grid()))
    with pytest.raises(GridMismatch, match="the student's mask does not lie on the grid"):
        editor.copy_from(empty(phantoms.grid(spacing=(1, 1, 2))), "the student's mask")


# --- undo and redo ----------------------------------------------------------------------------------------------------


def _do(editor: Editor, random: np.random.Generator, other: LabelMap) -> Edit | None:
    """Any one thing a user can do."""
    grid = editor.grid
    region = (WHOLE, CORE)[random.integers(2)]
    voxel = random.random(3) * grid.shape
    world = grid.to_world(voxel[None])[0]
    axis = int(random.integers(3))
    at = Slice(axis, int(voxel[axis]))
    what = random.integers(7)
    if what < 2:
        limit = Limit(random.normal(size=grid.shape).astype(np.float32), -1.0, 1.0) if random.random() < 0.5 else None
        radius = float(random.uniform(0.3, 6))
        stroke = editor.stroke(Brush(radius, bool(random.integers(2))), region, bool(what), limit)
        for _ in range(random.integers(1, 4)):
            stroke.reach(grid.to_world(random.random((1, 3)) * grid.shape)[0], at)
        return stroke.end()
    if what == 2:
        return editor.fill_holes(region, at if random.random() < 0.5 else None)
    if what == 3:
        return editor.remove_island(region, world, at if random.random() < 0.5 else None)
    if what == 4:
        return editor.grow(region, float(random.uniform(-4, 4)), at if random.random() < 0.5 else None)
    if what == 5:
        return editor.copy_from(other, "another", (None, WHOLE, CORE)[random.integers(3)])
    last = grid.shape[axis] - 1
    ends = (region_on(editor, region, axis, 0), region_on(editor, region, axis, last))
    return editor.interpolate(region, axis, 0, last) if all(ends) else None


def region_on(editor: Editor, region: Region, axis: int, index: int) -> bool:
    return bool(_of(np.moveaxis(editor.labels.data, axis, 0)[index], region).any())


@settings(max_examples=60, deadline=None)
@given(labels=label_maps(), seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12))
def test_undo_restores_every_byte_and_redo_brings_it_back_in_order(labels: LabelMap, seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    other = LabelMap(random.integers(0, 3, labels.grid.shape).astype(np.uint8), labels.grid)
    original = labels.data.copy()
    editor = Editor(labels)
    states, names = [original], []
    for _ in range(count):
        edit = _do(editor, random, other)
        if edit is None:
            assert np.array_equal(editor.labels.data, states[-1]), "what reports no change made none"
            continue
        assert not np.array_equal(editor.labels.data, states[-1])
        outside = np.ones(labels.grid.shape, bool)
        outside[edit.box] = False
        assert np.array_equal(editor.labels.data[outside], states[-1][outside])
        states.append(editor.labels.data.copy())
        names.append(edit.name)
        whole, core = (float(np.count_nonzero(_of(states[-1], r))) * labels.grid.voxel_ml for r in (WHOLE, CORE))
        assert editor.volumes_ml == pytest.approx({"whole_tumour": whole, "tumour_core": core})
        assert set(np.unique(states[-1])) <= {0, 1, 2}
    assert np.array_equal(labels.data, original), "the result that was given is left alone"
    assert [edit.name for edit in editor.applied] == names

    for state, name in zip(reversed(states[:-1]), reversed(names), strict=True):
        undone = editor.undo()
        assert undone is not None
        assert undone.name == name
        assert np.array_equal(editor.labels.data, state)
    assert editor.undo() is None
    assert [edit.name for edit in editor.undone] == names
    for state, name in zip(states[1:], names, strict=True):
        redone = editor.redo()
        assert redone is not None
        assert redone.name == name
        assert np.array_equal(editor.labels.data, state)
    assert editor.redo() is None

    document = json.loads(json.dumps(pack_edits(pack(editor.base), editor.applied)))
    again = unpack_edits(document, labels.grid)
    assert np.array_equal(again.base.data, original)
    assert np.array_equal(again.labels.data, states[-1])
    assert [edit.name for edit in again.applied] == names
    for state in reversed(states[:-1]):
        again.undo()
        assert np.array_equal(again.labels.data, state)


def test_a_new_change_ends_what_could_be_brought_back() -> None:
    truth = phantoms.tumour(phantoms.grid("LPS"))
    editor = Editor(truth)
    editor.grow(WHOLE, 1.0)
    editor.undo()
    assert editor.undone
    editor.grow(WHOLE, 2.0)
    assert editor.undone == ()
    assert editor.redo() is None


def test_a_thousand_strokes_are_kept_in_little_memory() -> None:
    grid = phantoms.grid(shape=(120, 120, 60))
    editor, random = Editor(empty(grid)), np.random.default_rng(0)
    for _ in range(1000):
        stroke = editor.stroke(Brush(4), WHOLE, bool(random.integers(2)))
        stroke.reach(grid.to_world(random.random((1, 3)) * grid.shape)[0], Slice(2, int(random.integers(60))))
        stroke.end()
    assert len(editor.applied) > 400
    assert editor.memory < 200 * len(editor.applied)
    while editor.undo():
        pass
    assert not editor.labels.data.any()


# --- on paper ---------------------------------------------------------------------------------------------------------


def test_a_label_map_packs_into_little_and_comes_back() -> None:
    truth = phantoms.tumour(phantoms.grid("PIR", oblique=(5, 6, 7)))
    document = json.dumps(pack(truth))
    assert len(document) < 1500
    assert np.array_equal(unpack(json.loads(document), truth.grid).data, truth.data)
    in_other_order = LabelMap(np.asfortranarray(truth.data), truth.grid)
    assert fingerprint(in_other_order) == fingerprint(truth)
    nothing = empty(truth.grid)
    assert not unpack(pack(nothing), truth.grid).data.any()


def _damage(document: dict[str, Any], how: str) -> None:
    first = document["edits"][0]
    if how == "another voxel":
        document["base"]["labels"][0]["start"][0] += 1
    elif how == "cut short":
        first["change"] = first["change"][: len(first["change"]) // 2]
    elif how == "outside":
        first["start"] = [1000, 0, 0]
    elif how == "larger than it says":
        first["shape"] = [1, 1, 1]
    elif how == "no text":
        first["change"] = 7
    elif how == "missing":
        del document["sha256"]
    elif how == "one lost":
        document["edits"].pop()


@pytest.mark.parametrize(
    "how", ["another voxel", "cut short", "outside", "larger than it says", "no text", "missing", "one lost"]
)
def test_damaged_corrections_are_refused_in_words(how: str) -> None:
    truth = phantoms.tumour(phantoms.grid("LPS"))
    editor = Editor(truth)
    editor.grow(WHOLE, 1.0)
    editor.grow(CORE, 1.0)
    document = pack_edits(pack(truth), editor.applied)
    _damage(document, how)
    with pytest.raises(UnreadableImage, match="cannot be used"):
        unpack_edits(document, truth.grid)


# --- speed ------------------------------------------------------------------------------------------------------------


def test_a_large_ball_follows_the_hand_and_undo_is_at_once() -> None:
    """Against the 30 ms and 50 ms asked for; the median, since other programs use the machine too."""
    grid = phantoms.grid("LPS", shape=(240, 240, 155))
    editor = Editor(empty(grid))
    reaches, undos = [], []
    for turn in range(5):
        stroke = editor.stroke(Brush(20, ball=True), CORE)
        for step in range(6):
            world = grid.to_world(np.array([[60 + 20 * turn + step, 100 + step, 70]]))[0]
            began = time.perf_counter()
            stroke.reach(world, Slice(2, 70))
            reaches.append(time.perf_counter() - began)
        stroke.end()
    while editor.applied:
        began = time.perf_counter()
        editor.undo()
        undos.append(time.perf_counter() - began)
    assert np.median(reaches) < 0.030
    assert np.median(undos) < 0.050
