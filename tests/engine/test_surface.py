"""Surfaces against bodies whose volume, area and place are known."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest

from engine import surface
from engine.errors import Cancelled, CannotWrite
from engine.progress import Progress
from engine.surface import Surface
from engine.volume import Grid, LabelMap, Sequence, Volume
from tests.engine import phantoms

CENTRE = np.array((3.0, -5.0, 7.0))


def ellipsoid(on: Grid, radii: tuple[float, float, float], centre: np.ndarray = CENTRE) -> np.ndarray:
    """Voxels whose middle lies inside an ellipsoid that stands upright in the world."""
    world = on.to_world(np.indices(on.shape).reshape(3, -1).T)
    return (((world - centre) / radii) ** 2).sum(axis=1).reshape(on.shape) < 1


def ml_of(radii: tuple[float, float, float]) -> float:
    return 4 / 3 * np.pi * float(np.prod(radii)) / 1000


def distance_from(made: Surface, radii: tuple[float, float, float]) -> np.ndarray:
    """How far in mm, about, each point lies outside an ellipsoid."""
    unit = (made.points - CENTRE) / radii
    length = np.linalg.norm(unit, axis=1)
    gradient = np.linalg.norm(unit / radii, axis=1) / length
    return (length - 1) / gradient


def edges_are_shared_evenly(made: Surface) -> bool:
    """Closed and consistently turned: each edge is walked as often in one direction as in the other."""
    t = made.triangles.astype(np.int64)
    walked = np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]])
    there, back = (np.sort(walked[:, a] * len(made.points) + walked[:, b]) for a, b in ((0, 1), (1, 0)))
    return bool(np.array_equal(there, back))


GRIDS = {
    "1 mm": {},
    "0.7 mm": {"shape": (90, 90, 90), "spacing": (0.7, 0.7, 0.7)},
    "thick slices": {"shape": (60, 60, 13), "spacing": (1.0, 1.0, 5.0)},
    "thick oblique slices": {"shape": (70, 70, 16), "spacing": (0.9, 0.9, 4.0), "oblique": (12.0, -20.0, 33.0)},
    "oblique": {"shape": (64, 64, 64), "oblique": (25.0, 10.0, -40.0)},
}


@pytest.mark.parametrize("laid_out", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("radii", [(20.0, 20.0, 20.0), (12.0, 20.0, 16.0)], ids=["sphere", "ellipsoid"])
def test_volume_area_and_place_are_those_of_the_body(laid_out, radii):
    on = phantoms.grid("LPS", **{"shape": (60, 60, 60), **laid_out})
    mask = ellipsoid(on, radii)
    made = surface.of_mask(mask, on)
    assert made.ml == pytest.approx(np.count_nonzero(mask) * on.voxel_ml, rel=1e-3), "the mask's own volume"
    assert made.ml == pytest.approx(ml_of(radii), rel=0.02)
    thick = max(on.spacing)
    assert np.abs(made.points.mean(axis=0) - CENTRE).max() < 0.25 * thick
    off = distance_from(made, radii)
    assert np.abs(np.percentile(off, (2, 98))).max() < 0.35 * thick, "steps of the voxels are gone"
    # A body of equal volume cannot have less area than the smooth one; steps would give it up to half as much again.
    true_area = (
        4 * np.pi * ((sum((radii[a] * radii[b]) ** 1.6075 for a, b in ((0, 1), (0, 2), (1, 2)))) / 3) ** (1 / 1.6075)
    )
    assert 100 * made.cm2 == pytest.approx(true_area, rel=0.06)


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_a_surface_does_not_depend_on_the_order_in_the_file(orientation):
    on = phantoms.grid(orientation, shape=(25, 29, 21), spacing=(1.0, 1.2, 1.5))
    labels = phantoms.tumour(on)
    made = surface.of_tumour(labels)
    assert made["whole_tumour"].ml == pytest.approx(labels.ml(labels.whole_tumour), rel=1e-3)
    assert made["tumour_core"].ml == pytest.approx(labels.ml(labels.tumour_core), rel=1e-3)
    place = CENTRE + phantoms.TUMOUR_CENTRE
    for part in made.values():
        assert np.abs((part.points.min(axis=0) + part.points.max(axis=0)) / 2 - place).max() < 0.8
        assert edges_are_shared_evenly(part)
        outwards = ((part.points - part.points.mean(axis=0)) * part.normals).sum(axis=1)
        assert np.mean(outwards > 0) > 0.98, "normals point out, whatever the handedness of the grid"


def test_several_pieces_a_hole_and_a_single_voxel_are_all_drawn_and_closed():
    on = phantoms.grid("LPS", shape=(40, 40, 40))
    mask = ellipsoid(on, (9.0, 9.0, 9.0))
    mask[18:22, 18:22, 18:22] = False
    mask[3, 3, 3] = True
    mask[33:37, 4:8, 4:9] = True
    mask[0:3, 20:24, 20:24] = True  # touches the edge of the scan
    made = surface.of_mask(mask, on)
    assert edges_are_shared_evenly(made)
    assert made.ml == pytest.approx(np.count_nonzero(mask) * on.voxel_ml, rel=1e-3)
    single = on.to_world(np.array([[3, 3, 3]]))[0]
    assert np.linalg.norm(made.points - single, axis=1).min() < 1.0


def test_voxels_that_touch_by_an_edge_or_a_corner_alone_stay_closed():
    on = phantoms.grid("LPS", shape=(9, 9, 9))
    mask = np.zeros(on.shape, bool)
    for place in ((3, 3, 3), (4, 4, 3), (5, 5, 4), (3, 4, 5)):
        mask[place] = True
    made = surface.of_mask(mask, on)
    assert edges_are_shared_evenly(made)
    assert made.ml == pytest.approx(4 * on.voxel_ml, rel=0.05)


def test_an_empty_mask_has_no_surface():
    on = phantoms.grid("LPS")
    assert surface.of_mask(np.zeros(on.shape, bool), on) is None
    assert surface.of_tumour(LabelMap(np.zeros(on.shape, np.uint8), on)) == {}
    assert surface.of_head([]) is None
    assert surface.of_head([Volume(np.zeros(on.shape, np.float32), on)]) is None


def test_large_bodies_get_no_more_triangles_than_a_screen_can_show():
    on = phantoms.grid("LPS", shape=(110, 110, 110), spacing=(0.5, 0.5, 0.5))
    made = surface.of_mask(ellipsoid(on, (26.0, 26.0, 26.0)), on)
    assert len(made.triangles) < 30_000, "at half a millimetre there would be four times as many"
    assert made.ml == pytest.approx(ml_of((26.0, 26.0, 26.0)), rel=0.005)
    assert np.abs(np.linalg.norm(made.points - CENTRE, axis=1) - 26).max() < 0.5


def head_with_folds(on: Grid, sequence: Sequence) -> Volume:
    """A ball of tissue of 60 mm with fluid in a cut from the top and in a hole inside; a speck apart from it."""
    world = on.to_world(np.indices(on.shape).reshape(3, -1).T) - CENTRE
    radius = np.linalg.norm(world, axis=1)
    fluid = 500.0 if sequence is Sequence.T2 else 25.0
    values = np.where(radius < 60, 100.0, 0.0)
    values[(radius < 60) & (np.abs(world[:, 0]) < 4) & (world[:, 2] > 20)] = fluid
    values[radius < 12] = fluid
    values[np.linalg.norm(world - (0, 0, -75), axis=1) < 3] = 100.0
    return Volume(values.reshape(on.shape).astype(np.float32), on, sequence)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPL", "AIR"])
def test_the_brain_has_its_folds_no_holes_inside_and_no_specks(orientation):
    on = phantoms.grid(orientation, shape=(80, 80, 84), spacing=(2.0, 2.0, 2.0))
    head = surface.of_head([head_with_folds(on, Sequence.T2), head_with_folds(on, Sequence.T1)])
    assert not head.skull_on
    points = head.surface.points - CENTRE
    radii = np.linalg.norm(points, axis=1)
    assert np.percentile(radii, 90) == pytest.approx(60, abs=2)
    assert radii.min() > 18, "the hole inside is filled"
    assert points[:, 2].min() > -64, "the speck is left out"
    top = points[(np.abs(points[:, 0]) < 2) & (np.abs(points[:, 1]) < 10) & (points[:, 2] > 0)]
    assert top[:, 2].max() < 50, "the cut from the top is open"
    assert edges_are_shared_evenly(head.surface)


def test_with_t2_alone_the_brain_is_its_hull():
    on = phantoms.grid("LPS", shape=(80, 80, 84), spacing=(2.0, 2.0, 2.0))
    head = surface.of_head([head_with_folds(on, Sequence.T2)])
    top = head.surface.points - CENTRE
    assert top[:, 2].max() == pytest.approx(60, abs=2)


def test_more_than_a_brain_is_called_a_head():
    on = phantoms.grid("LPS", shape=(90, 90, 90), spacing=(2.5, 2.5, 2.5))
    values = 20 * np.random.default_rng(1).random(on.shape).astype(np.float32) * 0.3
    values[ellipsoid(on, (95.0, 95.0, 95.0))] = 100.0
    head = surface.of_head([Volume(values, on, Sequence.T1)])
    assert head.skull_on
    assert np.median(np.linalg.norm(head.surface.points - CENTRE, axis=1)) == pytest.approx(95, abs=2)


def test_working_out_stops_when_asked_to():
    on = phantoms.grid("LPS")
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        surface.of_mask(phantoms.tumour(on).whole_tumour, on, progress)
    with pytest.raises(Cancelled):
        surface.of_head([phantoms.head(on)], progress)


# --- STL --------------------------------------------------------------------------------------------------------------


def read_stl(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Corners ``(M, 3, 3)`` and normals ``(M, 3)``, by the format's description."""
    assert not content.startswith(b"solid"), "that would be taken for text"
    (count,) = struct.unpack_from("<I", content, 80)
    assert len(content) == 84 + 50 * count
    rows = np.array([struct.unpack_from("<12fH", content, 84 + 50 * n) for n in range(count)])
    return rows[:, 3:12].reshape(-1, 3, 3), rows[:, :3]


def test_an_stl_file_holds_the_surface_in_mm_and_says_which_way_is_right(tmp_path):
    on = phantoms.grid("LPS")
    made = surface.of_tumour(phantoms.tumour(on))["whole_tumour"]
    surface.write_stl(made, tmp_path / "tumour.stl")
    content = (tmp_path / "tumour.stl").read_bytes()
    assert b"SPACE=RAS" in content[:80]
    corners, normals = read_stl(content)
    assert np.allclose(corners, made.points[made.triangles], atol=1e-3)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    assert float((a * np.cross(b, c)).sum() / 6) / 1000 == pytest.approx(made.ml, rel=1e-3)
    outward = np.cross(b - a, c - a)
    assert ((outward * normals).sum(axis=1) > 0).all()
    assert [path.name for path in tmp_path.iterdir()] == ["tumour.stl"]


def test_an_stl_file_of_a_mask_corrected_by_hand_says_so():
    made = surface.of_tumour(phantoms.tumour(phantoms.grid("LPS")))["whole_tumour"]
    plain, corrected = surface.stl_bytes(made), surface.stl_bytes(made, corrected=True)
    assert b"corrected by hand" in corrected[:80]
    assert b"corrected" not in plain
    assert plain[80:] == corrected[80:]
    assert corrected.startswith(surface.STL_HEADER), "so that it is known as ours"


def test_equal_masks_give_equal_files():
    on = phantoms.grid("LPS")
    first, second = (surface.stl_bytes(surface.of_tumour(phantoms.tumour(on))["tumour_core"]) for _ in range(2))
    assert first == second


def test_an_stl_file_that_cannot_be_written_leaves_what_was_there(tmp_path):
    made = surface.of_tumour(phantoms.tumour(phantoms.grid("LPS")))["tumour_core"]
    (tmp_path / "a folder.stl").mkdir()
    with pytest.raises(CannotWrite, match="a folder"):
        surface.write_stl(made, tmp_path / "a folder.stl")
    with pytest.raises(CannotWrite, match="no folder"):
        surface.write_stl(made, tmp_path / "nowhere" / "core.stl")
    assert [path.name for path in tmp_path.iterdir()] == ["a folder.stl"]


def test_cells_grow_with_what_is_drawn():
    sizes = [surface.cell_size(ml) for ml in (0.1, 40, 200, 1400, 4000)]
    assert sizes[0] == 1.0
    assert all(a <= b for a, b in pairwise(sizes))
    assert 2 < sizes[3] < 3
