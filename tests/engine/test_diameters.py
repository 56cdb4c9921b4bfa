from __future__ import annotations

import numpy as np
import pytest

from engine import diameters
from engine.diameters import Diameters
from engine.volume import Grid
from tests.engine import phantoms


def ellipse(shape, spacing, long, short, degrees, centre=None):
    """A filled ellipse with the given diameters in mm, its long axis turned from the rows' direction."""
    rows, columns = np.indices(shape)
    middle = (np.array(shape) - 1) / 2 if centre is None else np.array(centre)
    y, x = (rows - middle[0]) * spacing[0], (columns - middle[1]) * spacing[1]
    turn = np.radians(degrees)
    along, across = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    return (2 * along / long) ** 2 + (2 * across / short) ** 2 <= 1


@pytest.mark.parametrize("degrees", [0, 20, 45, 77, 90, 130])
@pytest.mark.parametrize(
    ("spacing", "shape"), [((1.0, 1.0), (90, 90)), ((0.5, 1.5), (180, 60)), ((2.0, 0.8), (45, 110))]
)
def test_an_ellipse_has_the_diameters_it_was_drawn_with(spacing, shape, degrees):
    found = diameters.measure(ellipse(shape, spacing, 60.0, 34.0, degrees), spacing)
    voxel = max(spacing)
    assert found.longest_mm == pytest.approx(60.0, abs=voxel)
    assert found.across_mm == pytest.approx(34.0, abs=voxel)
    assert found.product_cm2 == pytest.approx(20.4, rel=0.06)
    along, across = (line[1] - line[0] for line in (found.longest, found.across))
    assert along @ across == pytest.approx(0, abs=1e-6)
    # Long ellipses leave no doubt about their direction.
    expected = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    assert abs(along @ expected) / found.longest_mm > np.cos(np.radians(6 + 4 * voxel))


def test_the_lines_lie_where_the_tumour_lies():
    found = diameters.measure(ellipse((60, 80), (1.0, 1.0), 30.0, 20.0, 0, centre=(22, 50)), (1.0, 1.0))
    assert found.longest.mean(axis=0) == pytest.approx((22, 50), abs=1.5)
    assert found.across.mean(axis=0) == pytest.approx((22, 50), abs=1.5)


def test_the_largest_piece_is_measured_and_its_hole_is_part_of_it():
    whole = ellipse((80, 80), (1.0, 1.0), 40.0, 30.0, 30)
    ring = whole & ~ellipse((80, 80), (1.0, 1.0), 24.0, 16.0, 30)
    ring[2:4, 2:4] = True
    found = diameters.measure(ring, (1.0, 1.0))
    assert found.longest_mm == pytest.approx(40, abs=1)
    assert found.across_mm == pytest.approx(30, abs=1)


def test_lines_do_not_cross_a_bay():
    """A horseshoe: from tip to tip would be longest, but runs outside."""
    rows, columns = np.indices((90, 90))
    away = np.hypot(rows - 45, columns - 45)
    horseshoe = (away < 40) & (away > 28) & (rows < 50)
    found = diameters.measure(horseshoe, (1.0, 1.0))
    steps = np.linspace(0.05, 0.95, 50)[:, None]
    for line in (found.longest, found.across):
        places = line[0] + steps * (line[1] - line[0])
        assert np.hypot(*(places - 45).T).min() > 28 - 1.5, "no more than a voxel's corner outside"
    # The longest chord of a ring touches its inside: twice the root of the difference of the squared radii.
    assert found.longest_mm == pytest.approx(2 * np.sqrt(40**2 - 28**2), abs=3)


def test_one_voxel_has_a_voxel_s_diameters():
    region = np.zeros((9, 9), bool)
    region[4, 4] = True
    found = diameters.measure(region, (1.0, 1.0))
    assert found.longest_mm == pytest.approx(1.0)
    assert 0.4 < found.across_mm <= 1.1
    assert diameters.measure(np.zeros((5, 5), bool), (1.0, 1.0)) is None


@pytest.mark.parametrize("orientation", ["LPS", "SAR", "PIL"])
def test_in_the_patient_the_lines_lie_on_the_largest_slice(orientation):
    grid = phantoms.grid(orientation, shape=(70, 60, 12), spacing=(0.8, 0.8, 5.0), oblique=(10.0, 5.0, 20.0))
    axis = grid.nearest_axes()[0].index(2)
    world = grid.to_world(np.indices(grid.shape).reshape(3, -1).T)
    centre = np.array((3.0, -5.0, 7.0))
    # An ellipsoid along the grid's own axes, its widest slice through the middle of the grid.
    local = (world - centre) @ phantoms.rotation((10.0, 5.0, 20.0))
    region = (((local / (20.0, 12.0, 14.0)) ** 2).sum(axis=1) <= 1).reshape(grid.shape)
    index, found = diameters.measure_largest(region, grid, axis)
    counts = np.count_nonzero(region, axis=tuple(a for a in range(3) if a != axis))
    assert counts[index] == counts.max()
    assert found.longest_mm == pytest.approx(40, abs=1.5)
    assert found.across_mm == pytest.approx(24, abs=1.5)
    assert grid.to_voxel(found.longest)[:, axis] == pytest.approx([index, index])


CROSS = Diameters(np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[4.0, -3.0], [4.0, 2.0]]))


def test_moving_an_end_of_the_longest_line_turns_the_other_with_it():
    now = diameters.turned(CROSS, 1, np.array([0.0, 20.0]))
    assert now.longest == pytest.approx(np.array([[0, 0], [0, 20]]))
    assert now.across_mm == pytest.approx(5.0), "its length is kept"
    assert now.across == pytest.approx(np.array([[3, 8], [-2, 8]])), "and its place: two fifths of the way"


def test_moving_an_end_of_the_line_across_keeps_the_right_angle():
    now = diameters.stretched(CROSS, 1, np.array([6.0, 5.0]))
    assert now.longest is CROSS.longest
    assert now.across == pytest.approx(np.array([[6, -3], [6, 5]]))
    beyond = diameters.stretched(CROSS, 0, np.array([30.0, -1.0]))
    assert beyond.across == pytest.approx(np.array([[10, -1], [10, 2]])), "it never leaves the longest line"


def test_ends_can_be_moved_in_the_patient_too():
    grid = Grid((4, 4, 4), np.diag([1.0, 2.0, 3.0, 1.0]))
    lift = lambda line: np.c_[line, np.full(2, grid.spacing[2])]  # noqa: E731
    solid = Diameters(lift(CROSS.longest), lift(CROSS.across))
    now = diameters.turned(solid, 1, np.array([0.0, 20.0, 3.0]))
    assert now.across == pytest.approx(np.array([[3, 8, 3], [-2, 8, 3]]))
