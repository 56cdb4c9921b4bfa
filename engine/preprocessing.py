"""From a subject as it was scanned to the array a network reads, and the exact way back.

Both directions are here, next to each other, because the second is only right for as long as it undoes the first:

    prepare                                      restore
    1. turn the axes to R, A, S                  4. turn the axes back to the file's order
    2. cut to the brain of these sequences       3. put the cut back into its place
    3. normalise inside the brain                   (nothing to undo)
    4. resample to the model's spacing           1. resample to the file's spacing

Resampling keeps the array's own axes, so it is three small matrices, one an axis: quick, and the same weights serve
images, truth and probabilities. Only the sequences handed over are looked at; a crop or a mask made from one that the
model will not have would be a leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.progress import Progress
from engine.volume import FloatArray, Grid, Sequence, Subject, bounding_box

_Scalar = TypeVar("_Scalar", bound=np.generic)

# Every window size must survive the folded U-Net's four halvings.
SIZE_STEP = 16


@dataclass(frozen=True)
class Preparation:
    """What a model expects of its input.

    Attributes:
        sequences: Input sequences in channel order.
        spacing_mm: Isotropic spacing of the prepared array.
        window: Voxels ``(i, j, k)`` of the window the network was trained on; each a multiple of 16.
        clip: Normalised intensities are limited to ``-clip..clip``.
    """

    sequences: tuple[Sequence, ...]
    spacing_mm: float = 2.0
    window: tuple[int, int, int] = (80, 96, 80)
    clip: float = 5.0

    def __post_init__(self) -> None:
        if not self.sequences or len(set(self.sequences)) != len(self.sequences):
            raise ValueError(f"a model reads each of its sequences once, got {self.sequences}")
        if not self.spacing_mm > 0 or not self.clip > 0:
            raise ValueError("spacing and clip are positive")
        if any(n < SIZE_STEP or n % SIZE_STEP for n in self.window):
            raise ValueError(f"window sizes are multiples of {SIZE_STEP}, got {self.window}")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A subject as a network reads it.

    Attributes:
        tensor: ``(C, i, j, k)`` float32; axes to the patient's right, front and head; zero outside the brain.
        grid: The subject's own grid, which `restore` returns to.
        brain: ``(I, J, K)`` bool on that grid: where any of the sequences used holds signal.
        spacing_mm: Spacing of ``tensor``.
    """

    tensor: FloatArray
    grid: Grid
    brain: NDArray[np.bool_]
    spacing_mm: float
    _box: tuple[slice, slice, slice]
    _to_prepared: tuple[FloatArray, FloatArray, FloatArray]
    _to_native: tuple[FloatArray, FloatArray, FloatArray]

    def restore(self, maps: FloatArray) -> FloatArray:
        """Bring probabilities back onto the subject's own grid.

        Args:
            maps: ``(R, i, j, k)`` float32 on the prepared array.

        Returns:
            ``(R, I, J, K)`` float32, zero outside the brain.
        """
        axes, signs = self.grid.nearest_axes()
        native = np.zeros((len(maps), *self.grid.shape), dtype=np.float32)
        for region, field in zip(native, maps, strict=True):
            turned = to_canonical(region, axes, signs)  # a view: writing to it fills `native`
            turned[self._box] = resample_axes(self._to_native, field)
            region[~self.brain] = 0
        return native

    def forward(self, mask: NDArray[np.generic]) -> FloatArray:
        """Put another array of the subject's grid, such as its truth, on the prepared array.

        Args:
            mask: ``(I, J, K)`` on the subject's grid.

        Returns:
            ``(i, j, k)`` float32; for a mask, the fraction of each prepared voxel that it covers.
        """
        turned = to_canonical(np.asarray(mask), *self.grid.nearest_axes())
        return resample_axes(self._to_prepared, turned[self._box].astype(np.float32))


def prepare(subject: Subject, preparation: Preparation, progress: Progress | None = None) -> Prepared:
    """Make the array a network reads.

    Args:
        subject: Must hold every sequence of ``preparation``; others are not looked at.
        preparation: What the model expects.
        progress: Checked between the sequences.

    Returns:
        The prepared array, at least as large as the model's window and large enough for the whole brain.

    Raises:
        KeyError: The subject lacks one of the sequences.
    """
    progress = progress or Progress()
    volumes = [subject[sequence] for sequence in preparation.sequences]
    grid = volumes[0].grid
    axes, signs = grid.nearest_axes()

    brain = np.zeros(grid.shape, dtype=bool)
    signals = []
    for volume in volumes:
        progress.check()
        signal = volume.data != background(volume.data)
        signals.append(signal)
        brain |= signal

    turned_brain = to_canonical(brain, axes, signs)
    i, j, k = (slice(0, n) for n in turned_brain.shape)
    box = bounding_box(turned_brain) or (i, j, k)
    native_spacing = [grid.spacing[axes.index(world)] for world in range(3)]
    forward, backward = [], []
    for axis in range(3):
        start, stop = box[axis].start, box[axis].stop
        ratio = preparation.spacing_mm / native_spacing[axis]
        needed = int(np.ceil((stop - start) / ratio / SIZE_STEP)) * SIZE_STEP
        size = max(preparation.window[axis], needed)
        # Prepared voxel o lies at native position centre + (o - middle) * ratio, both counted inside the box.
        centre, middle = (stop - start - 1) / 2, (size - 1) / 2
        forward.append(resampling_weights(centre + (np.arange(size) - middle) * ratio, stop - start, ratio))
        backward.append(resampling_weights(middle + (np.arange(stop - start) - centre) / ratio, size, 1 / ratio))

    channels = []
    for volume, signal in zip(volumes, signals, strict=True):
        progress.check()
        data = to_canonical(volume.data, axes, signs)[box]
        inside = to_canonical(signal, axes, signs)[box]
        channels.append(resample_axes(forward, _normalise(data, inside, preparation.clip)))
    return Prepared(
        tensor=np.stack(channels),
        grid=grid,
        brain=brain,
        spacing_mm=preparation.spacing_mm,
        _box=box,
        _to_prepared=(forward[0], forward[1], forward[2]),
        _to_native=(backward[0], backward[1], backward[2]),
    )


def to_canonical(data: NDArray[_Scalar], axes: tuple[int, int, int], signs: tuple[int, int, int]) -> NDArray[_Scalar]:
    """A view ``(x, y, z)`` of ``data`` ``(I, J, K)`` with axes to the patient's right, front and head.

    Args:
        data: In the file's own order.
        axes: For each array axis, its world axis, from `Grid.nearest_axes`.
        signs: For each array axis, whether it runs with (1) or against (-1) that world axis.
    """
    turned = data[tuple(slice(None, None, sign) for sign in signs)]
    return turned.transpose([axes.index(world) for world in range(3)])


def background(data: FloatArray) -> float:
    """The value outside the head: what all eight corners share, or zero where they differ."""
    corners = data[:: max(1, data.shape[0] - 1), :: max(1, data.shape[1] - 1), :: max(1, data.shape[2] - 1)]
    first = float(corners.flat[0])
    return first if bool((corners == first).all()) else 0.0


def _normalise(data: FloatArray, inside: NDArray[np.bool_], clip: float) -> FloatArray:
    """Zero mean and unit spread inside the brain, zero outside; ``(x, y, z)`` float32.

    Mean and spread come from the voxels between the 0.1st and 99.9th percentile, so that a few hot voxels of a vessel
    or an artefact do not set the scale of everything else.
    """
    values = data[inside]
    if values.size == 0:
        return np.zeros(data.shape, dtype=np.float32)
    low, high = np.percentile(values[:: max(1, values.size // 250_000)], (0.1, 99.9))
    np.clip(values, low, high, out=values)
    mean, spread = float(values.mean()), float(values.std())
    normalised = np.zeros(data.shape, dtype=np.float32)
    normalised[inside] = np.clip((values - mean) / max(spread, 1e-6), -clip, clip)
    return normalised


def resampling_weights(positions: NDArray[np.float64], size: int, ratio: float) -> FloatArray:
    """Interpolation weights ``(len(positions), size)`` float32, along one axis.

    A triangle of half-width ``max(1, ratio)`` voxels: linear interpolation when going finer, and a proper average
    instead of picking every n-th voxel when going coarser. Positions outside the input see zeros there.

    Args:
        positions: Where values are wanted, in voxels of the input.
        size: Voxels of the input along this axis.
        ratio: Spacing of the output in voxels of the input.
    """
    width = max(1.0, ratio)
    reach = int(np.ceil(width)) + 1
    indices = np.arange(-reach, size + reach)
    triangle = np.clip(1 - np.abs(positions[:, None] - indices) / width, 0, None)
    total = triangle.sum(axis=1, keepdims=True)
    weights = np.divide(triangle, total, out=np.zeros_like(triangle), where=total > 0)
    inside: FloatArray = weights[:, reach : reach + size].astype(np.float32)
    return inside


def resample_axes(weights: tuple[FloatArray, ...] | list[FloatArray], data: FloatArray) -> FloatArray:
    """Multiply ``data`` ``(x, y, z)`` by one matrix of `resampling_weights` an axis."""
    for axis, matrix in enumerate(weights):
        data = np.moveaxis(np.tensordot(matrix, data, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(data)
