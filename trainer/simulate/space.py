"""Where a simulated patient lies, and smooth fields over it.

A simulated patient lies like a BraTS patient: 240 x 240 x 155 mm, array axes to the left, back and head, the brain
turned so that the anterior and posterior commissure are level. World coordinates are RAS+ in mm with the origin near
the anterior commissure. Work is done in a `Space`: the box around the brain, with array axes along +x, +y, +z.

Whatever varies smoothly is a cubic B-spline: displacements, on knots every 4 mm, and all the noise behind shapes and
textures, whose knots are white noise. A spline is separable, so a field of millions of voxels takes a fraction of a
second, and its scale is a distance in mm, whatever the spacing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.volume import FloatArray, Grid

Matrix = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Box = tuple[slice, slice, slice]
_Kind = TypeVar("_Kind", bound=np.generic)

_SIZE_MM = (240, 240, 155)  # the field of view of BraTS
# Where the anterior commissure lies in it, from the patient's left back bottom corner; brains of BraTS sit so.
_ORIGIN_MM = (121.0, 131.0, 70.0)
_MARGIN_MM = 8.0


def brats_like_grid(spacing_mm: float = 1.0) -> Grid:
    """The grid of simulated patients: 240 x 240 x 155 mm, array axes to the left, back and head."""
    shape = tuple(int(np.ceil(n / spacing_mm)) for n in _SIZE_MM)
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    far = [(n - 1) * spacing_mm - o for n, o in zip(shape, _ORIGIN_MM, strict=True)]
    affine[:3, 3] = [far[0], far[1], -_ORIGIN_MM[2]]
    return Grid((shape[0], shape[1], shape[2]), affine)


@dataclass(frozen=True, eq=False)
class Space:
    """The box that is worked in: array axes along +x, +y, +z of the patient's world, cropped to the brain.

    Attributes:
        shape: Voxels of the box.
        corner: Its first voxel's world position in mm.
        first: Its first voxel within the whole grid (in RAS order).
        spacing: mm.
        knot_world: World x, y, z of the knots of displacements, each broadcastable.
    """

    shape: tuple[int, int, int]
    corner: Matrix
    first: tuple[int, int, int]
    spacing: float
    knot_world: list[FloatArray]

    knot_mm = 4.0

    @classmethod
    def around(cls, points: Matrix, spacing: float) -> Space:
        """The box around points ``(N, 3)`` of the patient's world, with a margin, within the whole grid."""
        grid = brats_like_grid(spacing)
        low = -np.array(_ORIGIN_MM)
        bounds = []
        for axis in range(3):
            start = int(np.floor((points[:, axis].min() - _MARGIN_MM - low[axis]) / spacing))
            stop = int(np.ceil((points[:, axis].max() + _MARGIN_MM - low[axis]) / spacing)) + 1
            bounds.append((max(start, 0), min(stop, grid.shape[axis])))
        (i, i_stop), (j, j_stop), (k, k_stop) = bounds
        shape = (i_stop - i, j_stop - j, k_stop - k)
        corner = low + np.array([i, j, k]) * spacing
        knots = _knots_for(shape, cls.knot_mm / spacing)
        return cls(shape, corner, (i, j, k), spacing, _axes(corner - cls.knot_mm, cls.knot_mm, knots))

    @property
    def world(self) -> list[FloatArray]:
        """World x, y, z in mm, each broadcastable to the box."""
        return _axes(self.corner, self.spacing, self.shape)

    def world_in(self, box: Box) -> list[FloatArray]:
        """World x, y, z in mm, each broadcastable to a box within this one."""
        return [axis[tuple(b if axis.shape[a] > 1 else slice(None) for a, b in enumerate(box))] for axis in self.world]

    @property
    def knot_shape(self) -> tuple[int, int, int]:
        """Knots along each axis."""
        x, y, z = self.knot_world
        return x.shape[0], y.shape[1], z.shape[2]

    def at_voxels(self, knots: FloatArray) -> FloatArray:
        """Values at the knots -> values at the voxels, smoothly."""
        return _spread(knots, self.shape, self.knot_mm / self.spacing)

    def noise(self, scale_mm: float, rng: np.random.Generator, shape: tuple[int, ...] | None = None) -> FloatArray:
        """Smooth noise of about zero mean and unit variance that varies over ``scale_mm``.

        Args:
            scale_mm: Distance of the knots; never less than a voxel.
            rng: Source of chance.
            shape: Of a box within this one; the whole box if ``None``.
        """
        i, j, k = self.shape if shape is None else shape
        return _noise((i, j, k), scale_mm / self.spacing, rng)

    def bend(self, amount_mm: float, rng: np.random.Generator) -> FloatArray:
        """A random smooth displacement at the knots, ``(3, ...)`` in mm, that folds nothing."""
        shape = self.knot_shape
        displacement = np.stack([_noise(shape, 6.0, rng) for _ in range(3)]) * np.float32(amount_mm)
        while amount_mm and float(jacobian(displacement, self.knot_mm).min()) < 0.3:
            displacement *= np.float32(0.8)
        return displacement

    def unfold(self, box: NDArray[_Kind]) -> NDArray[_Kind]:
        """The box in its place on the whole grid, array axes to the left, back and head; zero elsewhere."""
        whole = np.zeros(brats_like_grid(self.spacing).shape, box.dtype)
        place = tuple(slice(f, f + n) for f, n in zip(self.first, self.shape, strict=True))
        whole[place] = box
        return np.ascontiguousarray(whole[::-1, ::-1])


def jacobian(displacement_mm: FloatArray, step_mm: float) -> FloatArray:
    """Determinant ``(I, J, K)`` of the map voxel -> voxel + displacement, axes along +x, +y, +z; below 0 it folds.

    Args:
        displacement_mm: ``(3, I, J, K)``, component ``a`` along array axis ``a``.
        step_mm: Distance between neighbouring voxels.
    """
    rows = [np.gradient(component, step_mm) for component in displacement_mm]
    matrix = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2) + np.eye(3, dtype=np.float32)
    return np.asarray(np.linalg.det(matrix), np.float32)


def ramp(values: FloatArray, middle: float, width: float) -> FloatArray:
    """1 well below ``middle``, 0 well above, over about ``width``."""
    return np.asarray(1 / (1 + np.exp(np.clip((values - middle) * (4 / width), -30, 30))), np.float32)


def _axes(corner: Matrix, step: float, shape: tuple[int, int, int]) -> list[FloatArray]:
    lines = [(corner[a] + step * np.arange(shape[a])).astype(np.float32) for a in range(3)]
    return [lines[0][:, None, None], lines[1][None, :, None], lines[2][None, None, :]]


def _noise(shape: tuple[int, int, int], scale: float, rng: np.random.Generator) -> FloatArray:
    scale = max(scale, 1.0)
    knots = rng.standard_normal(_knots_for(shape, scale), dtype=np.float32)
    # The variance of a cubic spline of white knots is (151/315)^3 on average.
    return _spread(knots, shape, scale) * np.float32((315 / 151) ** 1.5)


def _knots_for(shape: tuple[int, int, int], scale: float) -> tuple[int, int, int]:
    i, j, k = (int(np.ceil((n - 1) / scale)) + 3 for n in shape)
    return i, j, k


def _spread(knots: FloatArray, shape: tuple[int, int, int], scale: float) -> FloatArray:
    """Evaluate a cubic B-spline with ``knots`` every ``scale`` voxels on ``shape``; separable, so it is quick."""
    a, b, c = (_spline_matrix(n, 1.0 / scale, k) for n, k in zip(shape, knots.shape, strict=True))
    first = np.tensordot(a, knots, axes=(1, 0))
    second = np.einsum("jb,ibc->ijc", b, first, optimize=True)
    return np.asarray(second @ c.T, np.float32)


def _spline_matrix(length: int, step: float, knots: int) -> FloatArray:
    """``(length, knots)`` cubic B-spline weights of samples at ``step * n`` in units of the knots' distance."""
    position = step * np.arange(length)
    distance = np.abs(position[:, None] - (np.arange(knots)[None, :] - 1.0))
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, inner, outer).astype(np.float32)
