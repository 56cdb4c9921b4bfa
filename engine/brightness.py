"""Which intensities of a scan are shown from black to white, and where in it the head lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.volume import FloatArray, Volume


@dataclass(frozen=True)
class Window:
    """Which intensities are shown from black to white.

    Attributes:
        width: From black to white, in the file's own intensities; positive.
        level: The middle.
    """

    width: float
    level: float

    @property
    def low(self) -> float:
        """What is black."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """What is white."""
        return self.level + self.width / 2


@dataclass(frozen=True, eq=False)
class Brightness:
    """What a scan's intensities say of how to show it.

    Attributes:
        window: One that suits the tissue.
        span: The 0.5th and 99.7th percentile of the tissue.
        tissue: The intensities that are not the darkest, of a sample of the voxels.
        content_mm: ``(2, 3)`` opposite corners in mm of the box that holds the head.
    """

    window: Window
    span: tuple[float, float]
    tissue: FloatArray
    content_mm: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume) -> Brightness:
        """Look through a sample of a volume; takes about 20 ms whatever its size."""
        step = max(1, round((volume.data.size / 600_000) ** (1 / 3)))
        sample = volume.data[::step, ::step, ::step]
        darkest = float(sample.min())
        tissue = sample[sample > darkest]
        if tissue.size < 16:
            tissue = sample.ravel()
        low, high = (float(value) for value in np.percentile(tissue, (0.5, 99.7)))
        if high <= low:
            low, high = low - 0.5, low + 0.5
        # Air around a head with its skull on is noise, not zero; a tenth of the brightest tissue is above it.
        floor = darkest
        solid = sample > floor + 0.08 * (high - floor)
        # Fat under the skin outshines the brain; the middle of the head has none, and has the tumour.
        bounds = [_filled(solid, axis) for axis in range(3)]
        middle = tuple(slice(round(a + 0.18 * (b - a)), round(b - 0.18 * (b - a)) + 1) for a, b in bounds)
        inside = sample[middle][solid[middle]]
        white = float(np.percentile(inside, 99.7)) if inside.size else high
        black = low if low > floor + 0.25 * (high - floor) else floor
        if white <= black:
            black, white = low, high
        window = Window(white - black, (white + black) / 2)
        return cls(window, (low, high), tissue, _content_box(volume, solid, step))


def _filled(solid: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """First and last slice along an axis that hold more than a speck."""
    others = tuple(other for other in range(3) if other != axis)
    # One bright voxel in a corner is no head: ask for a handful of them in a slice.
    filled = np.flatnonzero(np.count_nonzero(solid, axis=others) > 0.002 * solid.size / solid.shape[axis])
    return (int(filled[0]), int(filled[-1])) if filled.size else (0, solid.shape[axis] - 1)


def _content_box(volume: Volume, solid: NDArray[np.bool_], step: int) -> NDArray[np.float64]:
    bounds = []
    for axis in range(3):
        first, last = _filled(solid, axis)
        bounds.append((max(0, (first - 1) * step), min(volume.grid.shape[axis] - 1, (last + 1) * step)))
    corners = np.array([[a, b, c] for a in bounds[0] for b in bounds[1] for c in bounds[2]])
    world = volume.grid.to_world(corners)
    return np.stack([world.min(axis=0), world.max(axis=0)])
