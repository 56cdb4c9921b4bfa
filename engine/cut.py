"""How a plane of the patient lies on the screen or on paper.

The only place besides the readers where axes are swapped and flipped: `Cut` says which array axis runs along the
screen and in which direction, everything above it speaks of the patient in mm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.volume import FloatArray, Grid

Point = NDArray[np.float64]
_Scalar = TypeVar("_Scalar", bound=np.generic)

# A direction this far off an axis of the body is named by two letters: the sine of 15 degrees.
SLANTED = 0.26


class Plane(Enum):
    """The three cuts; the value is the world axis each looks along (0 x, 1 y, 2 z)."""

    SAGITTAL = 0
    CORONAL = 1
    AXIAL = 2

    @property
    def title(self) -> str:
        """Its name on screen."""
        return self.name.capitalize()


@dataclass(frozen=True)
class Cut:
    """How one plane of a grid lies on the screen.

    Screen coordinates are mm from the picture's top left corner, x to the right and y down. Oblique grids are cut along
    their own axes, named by the anatomical ones they are nearest to.

    Attributes:
        grid: What is cut.
        plane: Along which cut.
        radiological: Whether the patient's left is on the right of the screen (axial and coronal).
        nose_left: Whether the face looks to the left of the screen (sagittal).
        normal: The array axis that the plane cuts through.
        columns: The array axis along the screen's x, and whether it runs against the array.
        rows: The array axis along the screen's y, and whether it runs against the array.
        upwards: Whether slices are stored towards right, front and head.
    """

    grid: Grid
    plane: Plane
    radiological: bool = True
    nose_left: bool = True

    normal: int = field(init=False)
    columns: tuple[int, bool] = field(init=False)
    rows: tuple[int, bool] = field(init=False)
    upwards: bool = field(init=False)

    def __post_init__(self) -> None:
        axes, signs = self.grid.nearest_axes()
        across = 1 if self.plane is Plane.SAGITTAL else 0
        along = 1 if self.plane is Plane.AXIAL else 2
        column, row, normal = axes.index(across), axes.index(along), axes.index(self.plane.value)
        towards_left = self.nose_left if self.plane is Plane.SAGITTAL else self.radiological
        object.__setattr__(self, "normal", normal)
        object.__setattr__(self, "columns", (column, (signs[column] > 0) == towards_left))
        object.__setattr__(self, "rows", (row, signs[row] > 0))
        object.__setattr__(self, "upwards", signs[normal] > 0)

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the picture."""
        column, row = self.columns[0], self.rows[0]
        return (
            self.grid.shape[column] * self.grid.spacing[column],
            self.grid.shape[row] * self.grid.spacing[row],
        )

    def extract(self, data: NDArray[_Scalar], index: int) -> NDArray[_Scalar]:
        """The slice as a picture ``(rows, columns)``, first row on top; a view of ``data`` ``(I, J, K)``."""
        picture: NDArray[_Scalar] = np.moveaxis(data, self.normal, 0)[index]
        (column, columns_flipped), (row, rows_flipped) = self.columns, self.rows
        if column < row:
            picture = picture.T
        if rows_flipped:
            picture = picture[::-1]
        return picture[:, ::-1] if columns_flipped else picture

    def to_screen(self, world: Point) -> tuple[float, float]:
        """Where a world position ``(3,)`` in mm is drawn."""
        voxel = self.grid.to_voxel(np.asarray(world)[None])[0]
        return self._along(voxel, *self.columns), self._along(voxel, *self.rows)

    def _along(self, voxel: Point, axis: int, flipped: bool) -> float:
        position = self.grid.shape[axis] - 1 - voxel[axis] if flipped else voxel[axis]
        return float((position + 0.5) * self.grid.spacing[axis])

    def to_world(self, x: float, y: float, index: float) -> Point:
        """The world position ``(3,)`` in mm that is drawn at a place of slice ``index``."""
        voxel = np.empty(3)
        voxel[self.normal] = index
        for value, (axis, flipped) in ((x, self.columns), (y, self.rows)):
            position = value / self.grid.spacing[axis] - 0.5
            voxel[axis] = self.grid.shape[axis] - 1 - position if flipped else position
        world: Point = self.grid.to_world(voxel[None])[0]
        return world

    def index_of(self, world: Point) -> int:
        """The slice nearest to a world position."""
        voxel = self.grid.to_voxel(np.asarray(world)[None])[0]
        return int(np.clip(round(voxel[self.normal]), 0, self.grid.shape[self.normal] - 1))

    def number_of(self, index: int) -> int:
        """The slice's number for people: from 1, counted towards right, front and head."""
        return index + 1 if self.upwards else self.grid.shape[self.normal] - index

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """What the left, right, top and bottom edges face; two letters where a grid lies aslant."""
        right = self._direction(*self.columns)
        bottom = self._direction(*self.rows)
        return _facing(-right), _facing(right), _facing(-bottom), _facing(bottom)

    def _direction(self, axis: int, flipped: bool) -> Point:
        along: Point = self.grid.affine[:3, axis] / self.grid.spacing[axis]
        return -along if flipped else along

    def sample(self, data: NDArray[_Scalar], grid: Grid, index: int) -> NDArray[_Scalar]:
        """The slice of ``data`` on another ``grid``, nearest neighbour, zero outside; ``(rows, columns)``."""
        places, shape = self._places(grid, index)
        voxels = np.rint(places).astype(np.intp)
        inside = np.all((voxels >= 0) & (voxels < np.array(grid.shape)), axis=1)
        picture = np.zeros(len(voxels), dtype=data.dtype)
        picture[inside] = data[tuple(voxels[inside].T)]
        return picture.reshape(shape)

    def interpolate(self, data: FloatArray, grid: Grid, index: int, fine: int = 1) -> FloatArray:
        """The slice of a scan on another ``grid``, linearly, zero outside; ``(fine * rows, fine * columns)``."""
        # Only who looks at the preparation of a scan needs it.
        from scipy import ndimage

        places, shape = self._places(grid, index, fine)
        # Half a voxel beyond the outermost slices still belongs to them.
        limits = np.array(grid.shape) - 1
        held = np.clip(places, 0, limits)
        held[np.abs(held - places).max(axis=1) > 0.5] = -1e6
        picture: FloatArray = ndimage.map_coordinates(data, held.T, order=1, mode="constant", cval=0.0)
        return picture.reshape(shape)

    def _places(self, grid: Grid, index: int, fine: int = 1) -> tuple[NDArray[np.float64], tuple[int, int]]:
        """Where on another grid the slice's voxels lie, ``(N, 3)`` row by row, and the shape of the picture."""
        columns = self.grid.shape[self.columns[0]] * fine
        rows = self.grid.shape[self.rows[0]] * fine
        width, height = self.size_mm
        left, top = width / columns / 2, height / rows / 2
        origin = self.to_world(left, top, index)
        right = (self.to_world(width - left, top, index) - origin) / max(1, columns - 1)
        down = (self.to_world(left, height - top, index) - origin) / max(1, rows - 1)
        origin, right, down = grid.to_voxel(np.stack([origin, origin + right, origin + down]))
        steps = np.arange(rows)[:, None, None] * (down - origin) + np.arange(columns)[None, :, None] * (right - origin)
        return (origin + steps).reshape(-1, 3), (rows, columns)


@lru_cache(maxsize=32)
def cut_of(grid: Grid, plane: Plane, radiological: bool, nose_left: bool = True) -> Cut:
    """The `Cut`, worked out once for each grid on screen: it is asked for at every move of the pointer."""
    return Cut(grid, plane, radiological, nose_left)


def scale_bar(width_mm: float) -> tuple[float, str]:
    """A round length in mm of at most a quarter of the width, and its name."""
    for length in (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0):
        if length <= width_mm / 4:
            return length, f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"
    return 1.0, "1 mm"


def _facing(direction: Point) -> str:
    """The letters of a direction ``(3,)``, nearest first: ``"R"``, ``"RA"``."""
    order = np.argsort(-np.abs(direction), kind="stable")
    pairs = ("RL", "AP", "SI")
    letters = [pairs[axis][int(direction[axis] < 0)] for axis in order]
    return letters[0] + (letters[1] if abs(direction[order[1]]) > SLANTED else "")
