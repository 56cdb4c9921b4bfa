"""Smooth surfaces of masks and heads, placed in the world, and STL files of them.

Surface nets (Gibson, MICCAI 1998) in numpy: one point in each cell of eight voxels that the surface runs through, in
the middle of where it cuts the cell's edges, joined across every edge that is cut. Points are then smoothed after
Taubin (SIGGRAPH 1995), whose second step undoes the shrinking of the first, and at last moved along their normals until
the surface holds exactly the volume of the mask's voxels. What is to be drawn decides how fine the cells are, so that
nothing has to be thinned out afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import CannotWrite
from engine.files import shown, whole_file
from engine.progress import Progress
from engine.volume import LARGEST_BRAIN_ML, FloatArray, Grid, LabelMap, Mask, Sequence, Volume, bounding_box

Points = NDArray[np.float64]
Triangles = NDArray[np.int32]

# Cells no finer than this: below it a screen shows no difference.
FINEST_MM = 1.0
# A ball of any size gets about as many cells from one side to the other.
CELLS_ACROSS = 56
# Slices thicker than this many cells are filled in between by the distance to the outline.
THICK = 1.6
TAUBIN_STEPS = 20
TAUBIN_IN, TAUBIN_OUT = 0.5, -0.53

# Where fluid is dark the folds of the brain are dark too, and can be told from tissue.
DARK_FLUID = (Sequence.T1, Sequence.T1CE, Sequence.FLAIR)
TISSUE_FROM = 0.55

STL_HEADER = b"Gliascope surface, mm, SPACE=RAS, research use only"
STL_CORRECTED = b", corrected by hand"


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed surface.

    Attributes:
        points: ``(N, 3)`` float64, world in mm, RAS+.
        triangles: ``(M, 3)`` int32, rows of ``points``, counter-clockwise seen from outside.
    """

    points: Points
    triangles: Triangles

    @cached_property
    def normals(self) -> Points:
        """``(N, 3)`` outward unit normals at the points, the triangles around each weighted by their area."""
        return _normals(self.points, self.triangles)

    @property
    def ml(self) -> float:
        """The volume inside, in ml (divergence theorem)."""
        return _volume(self.points, self.triangles) / 1000.0

    @property
    def cm2(self) -> float:
        """The area, in square centimetres."""
        return float(np.linalg.norm(_areas(self.points, self.triangles), axis=1).sum()) / 100.0


@dataclass(frozen=True, eq=False)
class Head:
    """What is around the tumour.

    Attributes:
        surface: Of the brain, or of the head where the skull is still on.
        skull_on: Whether the scans show more than a brain.
    """

    surface: Surface
    skull_on: bool


def of_mask(mask: Mask, grid: Grid, progress: Progress | None = None) -> Surface | None:
    """The surface of a mask, holding the volume of its voxels.

    Args:
        mask: ``(I, J, K)`` bool on ``grid``.
        grid: Any grid: oblique, anisotropic, in any order and handedness.
        progress: Checked between the steps.

    Returns:
        The surface, or None where the mask is empty.
    """
    progress = progress or Progress()
    box = bounding_box(mask)
    if box is None:
        return None
    inside = mask[box]
    voxels = int(np.count_nonzero(inside))
    cell = cell_size(voxels * grid.voxel_ml)
    field, scale, offset = _coarser(inside.astype(np.float32), grid.spacing, cell)
    progress.check()
    field = np.pad(field, 1) - np.float32(0.5)
    offset -= scale
    field, scale = _between_slices(field, np.array(grid.spacing), scale, cell)
    progress.check()
    corner = np.array([part.start for part in box]) + offset
    return _closed(field, grid, scale, corner, voxels * grid.voxel_ml, progress)


def of_tumour(labels: LabelMap, progress: Progress | None = None) -> dict[str, Surface]:
    """The surfaces of ``"whole_tumour"`` and ``"tumour_core"``; what is empty is left out."""
    found = {
        "whole_tumour": of_mask(labels.whole_tumour, labels.grid, progress),
        "tumour_core": of_mask(labels.tumour_core, labels.grid, progress),
    }
    return {region: surface for region, surface in found.items() if surface is not None}


def of_head(volumes: Iterable[Volume], progress: Progress | None = None) -> Head | None:
    """The surface of the brain, with its folds where a sequence shows them, or of the head.

    The folds come from the first sequence in which fluid is dark; with T2 alone the hull of the signal has to do.

    Args:
        volumes: The sequences there are.
        progress: Checked between the steps.

    Returns:
        The surface, or None where no volume holds anything to see.
    """
    progress = progress or Progress()
    order = [*DARK_FLUID, Sequence.T2]
    known = sorted(volumes, key=lambda v: order.index(v.sequence) if v.sequence in order else len(order))
    if not known:
        return None
    volume = known[0]
    data, grid = volume.data, volume.grid
    cell = cell_size(1400.0)
    darkest = float(data.min())
    small, scale, offset = _coarser(data, grid.spacing, cell)
    progress.check()
    # Air around a head with its skull on is noise, not zero.
    tissue = small[small > darkest + 0.12 * (float(np.percentile(small, 99.5)) - darkest)]
    if tissue.size < 64:
        return None
    from scipy import ndimage

    typical = float(np.median(tissue)) - darkest
    voxel_ml = grid.voxel_ml * float(np.prod(scale))
    skull_on = float(np.count_nonzero(small > darkest + 0.15 * typical)) * voxel_ml > LARGEST_BRAIN_ML
    share = TISSUE_FROM if volume.sequence in DARK_FLUID and not skull_on else 0.25
    spread = 0.35 * cell / (np.array(grid.spacing) * scale)
    smooth = ndimage.gaussian_filter(np.pad(small, 2, constant_values=darkest) - darkest, spread)
    offset -= 2 * scale
    progress.check()
    field = smooth - np.float32(share * typical)
    solid = field > 0
    pieces, count = ndimage.label(solid)
    if count == 0:
        return None
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    # What lies apart (an eye, a speck) and what lies inside (ventricles, a dark core) is no part of the outside.
    field[solid & ~largest] = -np.abs(field[solid & ~largest])
    hollow = ndimage.binary_fill_holes(largest) & ~largest
    field[hollow] = np.abs(field[hollow]) + np.float32(1e-3 * typical)
    progress.check()
    surface = _closed(field, grid, scale, offset, None, progress)
    return Head(surface, skull_on) if surface is not None else None


def cell_size(ml: float) -> float:
    """How large cells are in mm for something of this volume."""
    across = 2 * float(np.cbrt(750.0 * ml / np.pi))
    return max(FINEST_MM, across / CELLS_ACROSS)


def write_stl(surface: Surface, path: Path, corrected: bool = False) -> None:
    """Write a surface as binary STL, in mm, RAS+ as its header says; equal surfaces give equal bytes.

    Args:
        surface: The surface.
        path: The file.
        corrected: Whether its mask was corrected by hand, which the header then says.

    Raises:
        CannotWrite: Nothing was written, and nothing is left behind.
    """
    content = stl_bytes(surface, corrected)

    def same(partial: Path) -> None:
        if partial.read_bytes() != content:
            raise CannotWrite(
                f"{shown(path)} was not stored as it should be",
                "reading it back gave something else",
                "The disk may be failing; choose another folder.",
            )

    with whole_file(path, check=same) as partial:
        partial.write_bytes(content)


def stl_bytes(surface: Surface, corrected: bool = False) -> bytes:
    """A surface as binary STL: 80 bytes of header, the number of triangles, 50 bytes for each."""
    facets = np.zeros(
        len(surface.triangles), np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("n", "<u2")])
    )
    directions = _areas(surface.points, surface.triangles)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    facets["normal"] = np.divide(directions, lengths, out=np.zeros_like(directions), where=lengths > 0)
    facets["corners"] = surface.points[surface.triangles]
    header = STL_HEADER + STL_CORRECTED if corrected else STL_HEADER
    return header.ljust(80) + struct.pack("<I", len(facets)) + facets.tobytes()


# From voxels to a field on cells of the right size


def _coarser(data: FloatArray, spacing: tuple[float, float, float], cell: float) -> tuple[FloatArray, Points, Points]:
    """Average whole blocks of voxels into cells of about ``cell`` mm.

    Returns:
        The averages, how many voxels a cell is wide along each axis, and at which voxel the first cell's middle lies.
    """
    factors = [max(1, round(cell / mm)) for mm in spacing]
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        # What is over at the end counts as if the last voxel went on: an edge of its own would be drawn otherwise.
        missing = -data.shape[axis] % factor
        if missing:
            widths = [(0, missing if other == axis else 0) for other in range(3)]
            data = np.pad(data, widths)
        shape = list(data.shape)
        shape[axis : axis + 1] = [data.shape[axis] // factor, factor]
        data = data.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    scale = np.array(factors, np.float64)
    return np.ascontiguousarray(data, np.float32), scale, (scale - 1) / 2


def _between_slices(field: FloatArray, spacing: Points, scale: Points, cell: float) -> tuple[FloatArray, Points]:
    """Fill in between thick slices by the signed distance to the outline, so that there are slopes and no terraces."""
    steps = np.maximum(1, np.round(spacing * scale / cell)).astype(int)
    steps[spacing * scale < THICK * cell] = 1
    if steps.max() == 1:
        return field, scale
    from scipy import ndimage

    inside, sampling = field > 0, tuple(spacing * scale)
    distance = ndimage.distance_transform_edt(inside, sampling) - ndimage.distance_transform_edt(~inside, sampling)
    for axis, count in enumerate(steps):
        if count == 1:
            continue
        size = distance.shape[axis]
        places = np.arange((size - 1) * count + 1) / count
        lower = np.minimum(places.astype(int), size - 2)
        share = (places - lower).reshape([-1 if other == axis else 1 for other in range(3)])
        distance = distance.take(lower, axis) * (1 - share) + distance.take(lower + 1, axis) * share
    return np.ascontiguousarray(distance, np.float32), scale / steps


# From a field to a surface


def _closed(
    field: FloatArray, grid: Grid, scale: Points, offset: Points, ml: float | None, progress: Progress
) -> Surface | None:
    """The smooth surface where ``field`` is zero, in the world, holding ``ml`` where that is known."""
    points, quads = _net(field)
    if not len(quads):
        return None
    progress.check()
    points = grid.to_world(points * scale + offset)
    if np.linalg.det(grid.affine[:3, :3]) < 0:
        quads = quads[:, ::-1]
    points = _smoothed(points, quads)
    progress.check()
    triangles = _halved(points, quads)
    if ml is not None:
        points = _with_volume(points, triangles, 1000.0 * ml)
    return Surface(points, triangles)


def _net(field: FloatArray) -> tuple[Points, NDArray[np.int32]]:
    """Surface nets: points ``(N, 3)`` in cells of the array and the quads ``(M, 4)`` that join them.

    Args:
        field: Positive inside, negative outside and all along the array's edges.
    """
    inside = field > 0
    some, every = inside, inside
    for axis in range(3):
        here = tuple(slice(None, -1) if other == axis else slice(None) for other in range(3))
        there = tuple(slice(1, None) if other == axis else slice(None) for other in range(3))
        some, every = some[here] | some[there], every[here] & every[there]
    cells = np.argwhere(some & ~every)
    number = np.full(some.shape, -1, np.int32)
    number[tuple(cells.T)] = np.arange(len(cells), dtype=np.int32)

    corners = {
        (i, j, k): field[cells[:, 0] + i, cells[:, 1] + j, cells[:, 2] + k].astype(np.float64)
        for i in (0, 1)
        for j in (0, 1)
        for k in (0, 1)
    }
    total, cut = np.zeros((len(cells), 3)), np.zeros(len(cells))
    for corner, value in corners.items():
        for axis in range(3):
            if corner[axis]:
                continue
            i, j, k = (1 if other == axis else place for other, place in enumerate(corner))
            other_end = corners[i, j, k]
            crossed = (value > 0) != (other_end > 0)
            # Where both ends are alike the quotient means nothing and is left out.
            along = np.divide(value, value - other_end, out=np.zeros_like(value), where=crossed)
            place = np.tile(np.array(corner, np.float64), (len(cells), 1))
            place[:, axis] = along
            total += place * crossed[:, None]
            cut += crossed
    points = cells + total / np.maximum(cut, 1)[:, None]

    quads = []
    for axis in range(3):
        after, last = (axis + 1) % 3, (axis + 2) % 3
        here = tuple(slice(None, -1) if other == axis else slice(None) for other in range(3))
        there = tuple(slice(1, None) if other == axis else slice(None) for other in range(3))
        edges = np.argwhere(inside[here] != inside[there])
        leaving = inside[tuple(edges.T)]
        around = []
        for b, c in ((-1, -1), (0, -1), (0, 0), (-1, 0)):
            cell = edges.copy()
            cell[:, after] += b
            cell[:, last] += c
            around.append(number[tuple(cell.T)])
        quad = np.stack(around, axis=1)
        quad[~leaving] = quad[~leaving][:, ::-1]
        quads.append(quad)
    return points, np.concatenate(quads)


def _smoothed(points: Points, quads: NDArray[np.int32]) -> Points:
    """Taubin's smoothing: towards the middle of the neighbours, and a little further back."""
    from scipy import sparse

    edges = np.concatenate([quads[:, [side, (side + 1) % 4]] for side in range(4)])
    ends = np.concatenate([edges, edges[:, ::-1]])
    count = len(points)
    near = sparse.csr_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    near.data[:] = 1.0  # an edge counts once, however many quads share it
    degree = np.maximum(np.asarray(near.sum(axis=1)).ravel(), 1.0)
    mean = sparse.diags(1.0 / degree) @ near
    for step in range(2 * TAUBIN_STEPS):
        points = points + (TAUBIN_IN if step % 2 == 0 else TAUBIN_OUT) * (mean @ points - points)
    return points


def _halved(points: Points, quads: NDArray[np.int32]) -> Triangles:
    """Two triangles a quad, cut along its shorter diagonal."""
    a, b, c, d = (points[quads[:, n]] for n in range(4))
    first = ((a - c) ** 2).sum(axis=1) <= ((b - d) ** 2).sum(axis=1)
    along = np.where(first[:, None], quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 1, 2, 3]])
    triangles: Triangles = np.ascontiguousarray(along.reshape(-1, 3), np.int32)
    return triangles


def _with_volume(points: Points, triangles: Triangles, mm3: float) -> Points:
    """Moved along the normals until the surface holds ``mm3``."""
    for _ in range(12):
        area = float(np.linalg.norm(_areas(points, triangles), axis=1).sum())
        by = (mm3 - _volume(points, triangles)) / max(area, 1e-9)
        points = points + np.clip(by, -FINEST_MM, FINEST_MM) * _normals(points, triangles)
        if abs(by) < 1e-5:
            break
    return points


def _areas(points: Points, triangles: Triangles) -> Points:
    """``(M, 3)`` outward, as long as each triangle's area in mm2."""
    a, b, c = (points[triangles[:, n]] for n in range(3))
    areas: Points = np.cross(b - a, c - a) / 2
    return areas


def _volume(points: Points, triangles: Triangles) -> float:
    """In mm3; measured from the middle, as far from the origin the sum would lose digits."""
    a, b, c = (points[triangles[:, n]] - points.mean(axis=0) for n in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def _normals(points: Points, triangles: Triangles) -> Points:
    areas = _areas(points, triangles)
    normals = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(areas[:, axis], 3), minlength=len(points)) for axis in range(3)],
        axis=1,
    )
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    units: Points = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    return units
