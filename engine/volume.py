"""Arrays with their place in space: a volume never travels without its grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import GridMismatch

FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]
Affine = NDArray[np.float64]

TUMOUR_CORE = 1
REST_OF_WHOLE_TUMOUR = 2
# No brain is as large; a head with its skull is, and with the noise of the air around it far more.
LARGEST_BRAIN_ML = 2200.0


class Sequence(StrEnum):
    """The four MRI sequences Gliascope knows, in the order they are listed everywhere."""

    T1 = "t1"
    T1CE = "t1ce"
    T2 = "t2"
    FLAIR = "flair"

    @property
    def title(self) -> str:  # type: ignore[override]  # a name to show; nobody title-cases a sequence
        """The name as the field writes it: T1, T1ce, T2, FLAIR."""
        return {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}[self.value]


# All that a patient can have: the fifteen subsets of the four sequences, small ones first.
SUBSETS: tuple[tuple[Sequence, ...], ...] = tuple(
    subset for count in range(1, len(Sequence) + 1) for subset in combinations(Sequence, count)
)


def in_order(sequences: Iterable[Sequence]) -> tuple[Sequence, ...]:
    """Each of the sequences once, in their fixed order."""
    present = set(sequences)
    return tuple(sequence for sequence in Sequence if sequence in present)


def joined(sequences: Iterable[Sequence]) -> str:
    """What a set of sequences is called in cards and tables: ``"t1"``, ``"t1+flair"``."""
    return "+".join(in_order(sequences))


def in_words(sequences: Iterable[Sequence]) -> str:
    """Name sequences in their fixed order: ``"T1"``, ``"T1 and FLAIR"``, ``"T1, T2 and FLAIR"``."""
    titles = [sequence.title for sequence in in_order(sequences)]
    if len(titles) < 2:
        return "".join(titles)
    return ", ".join(titles[:-1]) + " and " + titles[-1]


def ml_in_words(ml: float, interval: tuple[float, float] | list[float] | None = None) -> str:
    """A volume and, where it is known, the interval it lies in 90 of 100 times: ``"42.3 ml (90 %: 36 to 51)"``."""
    return f"{ml:.1f} ml" + ("" if interval is None else f" ({interval_in_words(interval)})")


def interval_in_words(interval: tuple[float, float] | list[float]) -> str:
    """The interval a volume in ml lies in 90 of 100 times: ``"90 %: 36 to 51"``."""
    digits = 0 if interval[1] >= 10 else 1
    low, high = (f"{end:.{digits}f}" for end in interval)
    return f"90 %: {low} to {high}"


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array ``(I, J, K)`` lie.

    Attributes:
        shape: Number of voxels along each axis, ``(I, J, K)``.
        affine: ``(4, 4)`` float64, voxel indices -> world in mm, RAS+ (x to the patient's right, y to the front,
            z to the head).

    Raises:
        ValueError: The shape is not three positive numbers, or the affine is singular or not finite.
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid needs three positive sizes, got {self.shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"an affine is (4, 4), got {affine.shape}")
        if not np.isfinite(affine).all():
            raise ValueError("the affine holds values that are not finite")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        # Compare with the product of spacings: a determinant alone is small for small voxels, not only singular ones.
        if spacing.min() <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-4 * spacing.prod():
            raise ValueError("the affine is singular")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    # A grid never changes, and while painting it is asked thousands of times a second.
    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each array axis, in mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @cached_property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml; exact for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def orientation(self) -> str:
        """The anatomical direction each array axis points to, e.g. ``"LPS"`` (nearest, for oblique grids)."""
        axes, signs = self.nearest_axes()
        return "".join(("RAS" if sign > 0 else "LPI")[axis] for axis, sign in zip(axes, signs, strict=True))

    def nearest_axes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """For each array axis, the world axis it is nearest to (0 x, 1 y, 2 z; each used once) and its sign."""
        direction = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        # The rotation nearest to the directions decides ties of oblique and sheared grids as nibabel does.
        u, _, v = np.linalg.svd(direction)
        nearest = u @ v
        strength = np.abs(nearest)
        axes = [-1, -1, -1]
        for _ in range(3):
            world, array = np.unravel_index(np.argmax(strength), (3, 3))
            axes[int(array)] = int(world)
            strength[world, :] = -1
            strength[:, array] = -1
        signs = tuple(1 if nearest[axes[a], a] > 0 else -1 for a in range(3))
        return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])

    def same_as(self, other: Grid, tolerance_mm: float = 0.1) -> bool:
        """Whether both grids put every voxel at the same place, within ``tolerance_mm`` at the corners."""
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(self.shape) - 1)
        return float(np.abs(self.to_world(corners) - other.to_world(corners)).max()) <= tolerance_mm

    def difference(self, other: Grid) -> str:
        """How ``other`` differs from this grid, in a few words for a sentence about both."""
        if self.shape != other.shape:
            return " x ".join(map(str, other.shape)) + " voxels against " + " x ".join(map(str, self.shape))
        corners = np.array([[0, 0, 0], np.array(self.shape) - 1])
        apart = np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max()
        return f"same size, but up to {apart:.1f} mm apart"

    def to_world(self, voxels: NDArray[np.generic]) -> NDArray[np.float64]:
        """World positions ``(N, 3)`` in mm of voxel indices ``(N, 3)`` (fractions allowed)."""
        points = np.asarray(voxels, dtype=np.float64)
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxel(self, world: NDArray[np.generic]) -> NDArray[np.float64]:
        """Voxel indices ``(N, 3)`` (with fractions) of world positions ``(N, 3)`` in mm."""
        points = np.asarray(world, dtype=np.float64)
        return (points - self.affine[:3, 3]) @ self._inverse.T

    @cached_property
    def _inverse(self) -> Affine:
        inverse: Affine = np.linalg.inv(self.affine[:3, :3]).astype(np.float64, copy=False)
        return inverse


@dataclass(frozen=True, eq=False)
class Origin:
    """The file a volume was read from, as it was then; goes along with everything that is made of the volume.

    Attributes:
        sha256: Of the whole file.
        grid: Of the file.
        index: Which of the file's volumes it is, from 0; ``None`` where the file holds one.
    """

    sha256: str
    grid: Grid
    index: int | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """One MRI volume.

    Attributes:
        data: ``(I, J, K)`` float32, finite, in the file's own voxel order.
        grid: Where the voxels lie.
        sequence: Which sequence it is; ``None`` while unknown.
        source: The file it came from, for messages and provenance; ``None`` for made volumes.
        oriented: False when the file said nothing about orientation and the affine is a guess.
        origin: What the file was when it was read, for provenance; ``None`` for made volumes.
    """

    data: FloatArray
    grid: Grid
    sequence: Sequence | None = None
    source: Path | None = None
    oriented: bool = True
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise ValueError(f"data {self.data.shape} does not fit its grid {self.grid.shape}")

    @property
    def name(self) -> str:
        """The file's name, or the sequence's, for messages."""
        if self.source is not None:
            return self.source.name
        return self.sequence.title if self.sequence else "volume"


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A segmentation: one small integer a voxel.

    Attributes:
        data: ``(I, J, K)`` uint8. Gliascope's own: 0 nothing, 1 tumour core, 2 rest of the whole tumour.
        grid: Where the voxels lie.
        source: The file it came from, if any.
    """

    data: LabelArray
    grid: Grid
    source: Path | None = None

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise ValueError(f"data {self.data.shape} does not fit its grid {self.grid.shape}")
        if self.data.dtype != np.uint8:
            raise ValueError(f"a label map is uint8, got {self.data.dtype}")

    @staticmethod
    def of_regions(whole_tumour: Mask, tumour_core: Mask, grid: Grid) -> LabelMap:
        """From two masks ``(I, J, K)``, the core winning where it lies outside the whole tumour."""
        labels = np.zeros(grid.shape, np.uint8)
        labels[whole_tumour] = REST_OF_WHOLE_TUMOUR
        labels[tumour_core] = TUMOUR_CORE
        return LabelMap(labels, grid)

    @property
    def whole_tumour(self) -> Mask:
        """``(I, J, K)`` bool: any label."""
        tumour: Mask = self.data > 0
        return tumour

    @property
    def tumour_core(self) -> Mask:
        """``(I, J, K)`` bool: label 1."""
        core: Mask = self.data == TUMOUR_CORE
        return core

    def ml(self, mask: Mask) -> float:
        """Volume in ml of the voxels in ``mask``."""
        return float(np.count_nonzero(mask)) * self.grid.voxel_ml


@dataclass(frozen=True, eq=False)
class Subject(Mapping[Sequence, Volume]):
    """The sequences of one patient, all on one grid.

    Attributes:
        name: What to call the patient in outputs.
        volumes: One volume a sequence.

    Raises:
        ValueError: There is no volume at all.
        GridMismatch: A volume lies on another grid than the first; both files are named.
    """

    name: str
    volumes: Mapping[Sequence, Volume] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.volumes:
            raise ValueError("a subject needs at least one volume")
        object.__setattr__(self, "volumes", {s: self.volumes[s] for s in Sequence if s in self.volumes})
        reference, *others = self.volumes.values()
        for other in others:
            if not reference.grid.same_as(other.grid):
                raise GridMismatch(
                    f"{other.name} does not lie on the grid of {reference.name}",
                    reference.grid.difference(other.grid),
                    f"Resample it onto {reference.name}, or leave it out.",
                )

    def __getitem__(self, sequence: Sequence) -> Volume:
        return self.volumes[sequence]

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self.volumes)

    def __len__(self) -> int:
        return len(self.volumes)

    @property
    def grid(self) -> Grid:
        """The grid all volumes share."""
        return next(iter(self.volumes.values())).grid

    def only(self, sequences: tuple[Sequence, ...]) -> Subject:
        """The same patient with these sequences and no others, so that nothing of the rest can leak."""
        return Subject(self.name, {s: self.volumes[s] for s in sequences})


def bounding_box(mask: Mask) -> Box | None:
    """The smallest box around a mask ``(I, J, K)``, or ``None`` where it is empty."""
    flat = np.any(mask, axis=2)
    found = [np.flatnonzero(np.any(flat, axis=1)), np.flatnonzero(np.any(flat, axis=0))]
    if not found[0].size:
        return None
    i, j = (slice(int(where[0]), int(where[-1]) + 1) for where in found)
    where = np.flatnonzero(np.any(mask[i, j], axis=(0, 1)))
    return (i, j, slice(int(where[0]), int(where[-1]) + 1))
