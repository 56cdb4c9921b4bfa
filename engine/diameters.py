"""The two diameters by which a tumour's course is followed: the longest on a slice, and the longest across it.

As the RANO criteria ask for (Wen et al., J Clin Oncol 2010;28:1963-72; 2023;41:5187-99): both on the slice where the
tumour is largest, at right angles, both within the tumour. Holes count as tumour, since necrosis does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from engine.volume import Grid, Mask

Points = NDArray[np.float64]

# Of the smallest voxel side: how finely lines are followed.
_STEP = 0.25
# Lines looked at in one go, longest first; of a tumour without bays the first is the answer.
_BATCH = 512
# Points of a long outline are thinned to about so many.
_MOST_POINTS = 900


@dataclass(frozen=True, eq=False)
class Diameters:
    """Two lines at right angles, each ``(2, D)`` its ends in mm: of a slice (D = 2), or in the patient (D = 3).

    Attributes:
        longest: The longest line within the tumour.
        across: The longest line within the tumour at right angles to it that crosses it.
    """

    longest: Points
    across: Points

    @property
    def longest_mm(self) -> float:
        """Length of the longest line."""
        return float(np.linalg.norm(self.longest[1] - self.longest[0]))

    @property
    def across_mm(self) -> float:
        """Length of the line across."""
        return float(np.linalg.norm(self.across[1] - self.across[0]))

    @property
    def product_cm2(self) -> float:
        """The product that RANO compares between visits."""
        return self.longest_mm * self.across_mm / 100


def measure(region: Mask, spacing: tuple[float, float]) -> Diameters | None:
    """Measure the largest connected piece of a region on one slice.

    Ends lie between a voxel inside and its neighbour outside, so that lengths are neither those from middle to middle
    nor those from rim to rim: on ellipses they are right to about half a voxel.

    Args:
        region: ``(A, B)`` bool.
        spacing: Of rows and columns, in mm.

    Returns:
        Lines in mm from the middle of voxel ``(0, 0)``; None where the region is empty.
    """
    if not region.any():
        return None
    from scipy.ndimage import binary_dilation, binary_fill_holes

    pieces = cc3d.connected_components(np.ascontiguousarray(region).astype(np.uint8), connectivity=8)
    sizes = np.bincount(pieces.reshape(-1, order="A"))
    sizes[0] = 0
    piece = np.pad(binary_fill_holes(pieces == int(sizes.argmax())), 1)
    side = np.array(spacing)
    ends = _outline(piece) * side
    longest = _longest_inside(ends, binary_dilation(piece), side)
    across = _across(longest, piece, side)
    return Diameters(longest - side, across - side)


def measure_largest(region: Mask, grid: Grid, axis: int) -> tuple[int, Diameters] | None:
    """Measure a region on the slice where it is largest.

    Args:
        region: ``(I, J, K)`` bool.
        grid: Its grid.
        axis: The array axis that slices are cut across.

    Returns:
        The slice's index and both lines in the patient, in mm; None where the region is empty.
    """
    others = tuple(other for other in range(3) if other != axis)
    areas = np.count_nonzero(region, axis=others)
    index = int(np.argmax(areas))
    spacing = (grid.spacing[others[0]], grid.spacing[others[1]])
    flat = measure(np.moveaxis(region, axis, 0)[index], spacing)
    if flat is None:
        return None

    def in_patient(line: Points) -> Points:
        voxels = np.empty((2, 3))
        voxels[:, axis] = index
        voxels[:, others] = line / np.array(spacing)
        return grid.to_world(voxels)

    return index, Diameters(in_patient(flat.longest), in_patient(flat.across))


def turned(diameters: Diameters, end: int, to: Points) -> Diameters:
    """The lines after an end of the longest was moved: the line across turns with it and keeps its place and length.

    Args:
        diameters: In the patient or of a slice.
        end: 0 or 1.
        to: ``(D,)`` where that end is now, in the plane of both lines.
    """
    before = diameters.longest
    longest = before.copy()
    longest[end] = to
    along, length = before[1] - before[0], diameters.longest_mm
    now = longest[1] - longest[0]
    if length < 1e-6 or np.linalg.norm(now) < 1e-6:
        return diameters
    unit = along / length
    middle = diameters.across.mean(axis=0)
    share = float(np.clip((middle - before[0]) @ unit / length, 0.0, 1.0))
    # How far the line across reaches to either side, measured along itself.
    crossing = before[0] + share * along
    half = diameters.across[1] - diameters.across[0]
    size = float(np.linalg.norm(half))
    sideways = half / size if size > 1e-6 else _right_angle(unit)
    reach = [float((p - crossing) @ sideways) for p in diameters.across]
    turn = now / np.linalg.norm(now)
    # In the plane of both lines, the direction at right angles to the new one on the side of the old.
    plane = sideways - (sideways @ unit) * unit
    new_sideways = plane * float(turn @ unit) - unit * float(turn @ plane)
    new_crossing = longest[0] + share * now
    return Diameters(longest, np.stack([new_crossing + r * new_sideways for r in reach]))


def stretched(diameters: Diameters, end: int, to: Points) -> Diameters:
    """The lines after an end of the line across was moved: it stays at right angles, and slides along the longest.

    Args:
        diameters: In the patient or of a slice.
        end: 0 or 1.
        to: ``(D,)`` where that end is now, in the plane of both lines.
    """
    start, along, length = diameters.longest[0], diameters.longest[1] - diameters.longest[0], diameters.longest_mm
    half = diameters.across[1] - diameters.across[0]
    size = float(np.linalg.norm(half))
    if length < 1e-6 or size < 1e-6:
        return diameters
    unit, sideways = along / length, half / size
    place = float(np.clip((to - start) @ unit, 0.0, length))
    crossing = start + place * unit
    before = start + float((diameters.across.mean(axis=0) - start) @ unit) * unit
    reach = [float((p - before) @ sideways) for p in diameters.across]
    reach[end] = float((to - crossing) @ sideways)
    return Diameters(diameters.longest, np.stack([crossing + r * sideways for r in reach]))


def _right_angle(unit: Points) -> Points:
    other = np.zeros_like(unit)
    other[int(np.argmin(np.abs(unit)))] = 1.0
    other -= (other @ unit) * unit
    turned_: Points = other / np.linalg.norm(other)
    return turned_


def _outline(piece: Mask) -> Points:
    """``(N, 2)`` the places, in voxels, half way between a voxel inside and its neighbour outside."""
    found = []
    for axis in (0, 1):
        pairs = np.argwhere(np.diff(piece.astype(np.int8), axis=axis) != 0).astype(np.float64)
        pairs[:, axis] += 0.5
        found.append(pairs)
    points: Points = np.concatenate(found)
    return points[:: max(1, len(points) // _MOST_POINTS)] if len(points) > _MOST_POINTS else points


def _longest_inside(ends: Points, allowed: Mask, side: Points) -> Points:
    apart = np.linalg.norm(ends[:, None] - ends[None], axis=2)
    first, second = np.triu_indices(len(ends), 1)
    order = np.argsort(-apart[first, second], kind="stable")
    share = np.linspace(0.02, 0.98, max(8, int(apart.max() / (2 * _STEP * side.min()))))[:, None]
    for begin in range(0, len(order), _BATCH):
        part = order[begin : begin + _BATCH]
        a, b = ends[first[part]], ends[second[part]]
        places = np.rint((a[:, None] + share * (b - a)[:, None]) / side).astype(int)
        inside = allowed[places[..., 0], places[..., 1]].all(axis=1)
        if inside.any():
            found = int(np.argmax(inside))
            line: Points = np.stack([a[found], b[found]])
            return line
    raise AssertionError("two neighbouring points of an outline always see each other")


def _across(longest: Points, piece: Mask, side: Points) -> Points:
    along = longest[1] - longest[0]
    length = float(np.linalg.norm(along))
    unit = along / length
    sideways = np.array([-unit[1], unit[0]])
    step = _STEP * float(side.min())
    places = np.arange(0.0, length + step, step)
    steps = np.arange(1, int(np.ceil(length / step)) + 2) * step
    best, ends = -1.0, np.stack([longest.mean(axis=0)] * 2)
    crossings = longest[0] + places[:, None] * unit
    reaches = []
    for sign in (-1.0, 1.0):
        points = crossings[:, None] + (sign * steps)[None, :, None] * sideways
        voxels = np.rint(points / side).astype(int)
        inside = np.all((voxels >= 0) & (voxels < piece.shape), axis=2)
        voxels = np.clip(voxels, 0, np.array(piece.shape) - 1)
        inside &= piece[voxels[..., 0], voxels[..., 1]]
        # Up to the first step outside; the edge lies half a step further.
        run = np.logical_and.accumulate(inside, axis=1).sum(axis=1)
        reaches.append((run + 0.5) * step * (run > 0))
    total = reaches[0] + reaches[1]
    place = int(np.argmax(total))
    best = float(total[place])
    if best > 0:
        ends = np.stack(
            [crossings[place] - reaches[0][place] * sideways, crossings[place] + reaches[1][place] * sideways]
        )
    return ends
