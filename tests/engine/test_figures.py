"""Figures: that outlines and scans lie where the patient has them, and that the print is as large as was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from engine import figures
from engine.cut import Plane
from engine.figures import SKY, TUMOUR, Look, Region, Scene
from engine.volume import Grid, LabelMap, Sequence
from tests.engine import phantoms

T1, T1CE, T2, FLAIR = Sequence
CENTRE = np.array((3.0, -5.0, 7.0))

GRIDS = {
    "as scanned": phantoms.grid("LPS"),
    "flipped": phantoms.grid("RAI"),
    "turned": phantoms.grid("ASL", oblique=(12.0, -7.0, 20.0)),
    "thick slices": phantoms.grid("LIP", (40, 44, 10), (0.7, 0.7, 2.5)),
    "oblique and thick": phantoms.grid("PSR", (26, 30, 9), (1.1, 0.9, 3.0), (0.0, 10.0, -8.0)),
}


def a_scene(grid: Grid, sequences: tuple[Sequence, ...] = (T1, FLAIR)) -> Scene:
    return Scene(dict(phantoms.subject(grid, sequences)), phantoms.tumour(grid))


def near(found: NDArray[np.uint8], colour: tuple[int, int, int], within: int = 60) -> NDArray[np.bool_]:
    distance: NDArray[np.bool_] = np.abs(found.astype(int) - colour).max(axis=-1) < within
    return distance


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_corner_of_an_outline_parts_a_voxel_inside_from_one_outside(grid: Grid, plane: Plane) -> None:
    scene = a_scene(grid)
    view = scene.views[plane]
    for region in TUMOUR:
        mask = region.mask(scene.labels.data)
        lines = scene.outlines(region, view)
        assert lines
        for x, y in np.concatenate(lines):
            voxel = grid.to_voxel(view.cut.to_world(x, y, view.index)[None])[0]
            parted = np.flatnonzero(np.abs(voxel - np.rint(voxel)) > 0.4)
            assert len(parted) == 1
            step = np.eye(3)[parted[0]] / 2
            sides = [mask[tuple(np.rint(voxel + way * step).astype(int))] for way in (-1, 1)]
            assert sorted(sides) == [False, True]


@given(arrays.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_an_outline_encloses_the_mask_and_nothing_else(mask: NDArray[np.bool_]) -> None:
    area = corners = 0.0
    for line in figures.trace(mask):
        behind = np.roll(line, -1, axis=0)
        area += float((line[:, 0] * behind[:, 1] - behind[:, 0] * line[:, 1]).sum()) / 2
        corners += len(line)
    # Each corner of a voxel that is cut off or filled up is an eighth of it.
    assert area == pytest.approx(np.count_nonzero(mask), abs=corners / 8 + 1e-9)


def test_holes_have_lines_of_their_own_and_touching_corners_do_not() -> None:
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    assert len(figures.trace(ring)) == 2
    assert len(figures.trace(np.eye(4, dtype=bool))) == 1
    assert figures.trace(np.zeros((3, 3), bool)) == ()


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_scan_and_outline_lie_where_the_patient_has_them_on_the_print(grid: Grid, tmp_path: Path) -> None:
    scene = a_scene(grid)
    for plane in Plane:
        path = figures.plane_png(scene, plane, tmp_path / f"{plane.name}.png", marks=False)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        view = scene.views[plane]
        per_mm = pixels.shape[1] / view.box[2]
        assert pixels.shape[0] / view.box[3] == pytest.approx(per_mm, rel=0.01)
        # What is on the outline's pixels lies at the rim of the tumour, in the patient.
        rows, columns = np.nonzero(near(pixels, SKY))
        places = [
            view.cut.to_world((x + 0.5) / per_mm + view.box[0], (y + 0.5) / per_mm + view.box[1], view.index)
            for x, y in zip(columns, rows, strict=True)
        ]
        mask = scene.labels.whole_tumour
        rim = np.argwhere(mask & np.isin(np.arange(mask.shape[view.cut.normal]), view.index).reshape(
            [-1 if axis == view.cut.normal else 1 for axis in range(3)]
        ))  # fmt: skip
        middle = grid.to_world(rim).mean(axis=0)
        assert np.linalg.norm(np.mean(places, axis=0) - middle) < 0.6 * max(
            grid.spacing[axis] for axis in range(3) if axis != view.cut.normal
        )


@pytest.mark.parametrize("radiological", [True, False])
def test_the_side_of_the_patient_follows_the_convention(radiological: bool) -> None:
    scene = replace(a_scene(GRIDS["turned"]), look=Look(radiological=radiological))
    marker = CENTRE + phantoms.LEFT_MARKER
    view = scene.view(Plane.AXIAL, scene.view(Plane.AXIAL).cut.index_of(marker))
    picture = scene.picture(T1, view, (220, 260))
    # Where the marker on the patient's left should be, and where its mirror image would be.
    x, y = np.array(view.cut.to_screen(marker)) - view.box[:2]
    row, column = int(y / view.box[3] * 260), int(x / view.box[2] * 220)
    assert picture[row, column] > 115 > 90 > picture[row, 219 - column]
    assert (column > 110) == radiological
    assert ("left is on the right" in scene.sides()) == radiological


def test_a_picture_is_as_large_as_was_asked_for_and_says_so(tmp_path: Path) -> None:
    path = figures.plane_png(a_scene(GRIDS["thick slices"]), Plane.CORONAL, tmp_path / "a.png", width_mm=85.0)
    with Image.open(path) as image:
        assert image.width == round(85 / 25.4 * 300)
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert "Research use only" in image.info["Comment"]
    path = figures.sheet(a_scene(GRIDS["flipped"]), tmp_path / "b.png", width_mm=120.0, dpi=150.0)
    with Image.open(path) as image:
        assert image.width == round(120 / 25.4 * 150)
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_sheet_has_every_plane_of_every_scan_at_one_scale(count: int, tmp_path: Path) -> None:
    grid = phantoms.grid("LPS", (60, 70, 60))
    scene = a_scene(grid, tuple(Sequence)[:count])
    with Image.open(figures.sheet(scene, tmp_path / "sheet.png", dpi=100.0)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    black = (pixels.max(axis=-1) < 12).astype(np.uint8)
    rows, columns = (3, count) if count > 2 else (count, 3)
    # White gaps lie between the pictures, which are black at their rims.
    across = black[:, :].mean(axis=0) > 0.25
    down = black.mean(axis=1) > 0.25
    assert np.count_nonzero(np.diff(across.astype(int)) == 1) + across[0] == columns
    assert np.count_nonzero(np.diff(down.astype(int)) == 1) + down[0] == rows
    # Every picture has an outline in it, and the tumour is equally wide on all of a column.
    inked = near(pixels.astype(np.uint8), SKY)
    assert inked.any()


def test_a_patient_without_a_tumour_gets_a_picture_of_the_middle_of_the_head(tmp_path: Path) -> None:
    grid = GRIDS["as scanned"]
    scene = Scene(dict(phantoms.subject(grid, (T2,))), LabelMap(np.zeros(grid.shape, np.uint8), grid))
    for plane, view in scene.views.items():
        world = grid.to_world(np.array([[view.index] * 3]))[0]
        assert abs(world[plane.value] - CENTRE[plane.value]) <= 1.0
    with Image.open(figures.sheet(scene, tmp_path / "sheet.png", dpi=100.0)) as image:
        pixels = np.asarray(image.convert("RGB"))
    # The legend names the colour; no picture has it.
    assert not near(pixels[: round(60 / 25.4 * 100)], SKY).any()
    assert "Nothing is outlined" in scene.about


def test_the_same_scene_gives_the_same_bytes_and_names_nobody(tmp_path: Path) -> None:
    scene = Scene(dict(phantoms.subject(name="boris")), phantoms.tumour(phantoms.grid()))
    first, second = (figures.sheet(scene, tmp_path / name, dpi=80.0).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert b"boris" not in first


def test_fills_lie_under_the_outline(tmp_path: Path) -> None:
    filled = (Region("Grown", (213, 94, 0), (1, 2), fill=0.6),)
    scene = replace(a_scene(GRIDS["oblique and thick"]), regions=filled)
    view = scene.views[Plane.AXIAL]
    picture = scene.picture(T1, view, (300, 300))
    red = picture[..., 0].astype(int) - picture[..., 2] > 40
    x, y = view.cut.to_screen(CENTRE + phantoms.TUMOUR_CENTRE)
    left, top, width, height = view.box
    assert red[int((y - top) / height * 300), int((x - left) / width * 300)]
    inside = np.count_nonzero(filled[0].mask(view.cut.extract(scene.labels.data, view.index)))
    spacing = view.cut.size_mm[0] / picture.shape[1]
    assert spacing > 0
    mm2 = np.count_nonzero(red) * (width / 300) * (height / 300)
    voxel = np.prod([scene.labels.grid.spacing[axis] for axis in (view.cut.columns[0], view.cut.rows[0])])
    assert mm2 == pytest.approx(inside * voxel, rel=0.08)


def test_figures_of_the_font_are_of_one_width_and_unknown_letters_are_told() -> None:
    assert {round(figures.width_of(digit, 8.0), 4) for digit in "0123456789"} == {round(figures.width_of("0", 8.0), 4)}
    assert figures.readable("Łódź 研究") == "Łódź ??"
    lines = figures.wrapped("a word and " + "0123456789" * 12, 8.0, 40.0)
    assert len(lines) > 3
    assert all(figures.width_of(line, 8.0) <= 40.0 for line in lines)
