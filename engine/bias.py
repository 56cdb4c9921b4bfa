"""Taking the slow brightness of the receive coil out of a scan.

N4 (Tustison et al., IEEE Trans Med Imaging 2010;29:1310) looks for the smooth field that makes the histogram of the
brain sharpest. A field that smooth is seen as well at 4 mm, where it takes a second; only the field comes back to the
scan's own voxels, so nothing of the scan is blurred.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engine.alignment import coarser
from engine.errors import Cancelled
from engine.preprocessing import background
from engine.progress import Progress
from engine.volume import FloatArray, Grid, Mask, Volume

if TYPE_CHECKING:
    import SimpleITK

_SHRUNK_MM = 4.0
# One cubic piece along each axis: as smooth as the field of a coil is. With pieces of half that size N4 takes a large
# oedema for a bright corner of the coil (docs/results/alignment.md).
_PIECES = 1
_ROUNDS = 40
_UNTIL = 1e-6  # the change at which to stop; of the usual thousandth, a field this smooth stops before it has begun
# One voxel of the shrunk scan counts as brain from here on.
_MOSTLY = 0.5
# What is much too dark has no logarithm to speak of.
_DARKEST = 0.02


def correct(volume: Volume, brain: Mask, progress: Progress = Progress()) -> Volume:
    """Divide a scan by the smooth field that N4 finds in the brain.

    The brain keeps its mean brightness. What holds the scan's background keeps it, so a stripped scan stays stripped.

    Args:
        volume: One sequence.
        brain: ``(I, J, K)`` bool on its grid: where to look for the field.
        progress: Cancelling it stops within a second.

    Returns:
        The same voxels, corrected; the volume itself where there is no brain to look at.

    Raises:
        Cancelled: ``progress`` was cancelled.
        ValueError: The mask does not fit the volume.
    """
    if brain.shape != volume.grid.shape:
        raise ValueError(f"the mask {brain.shape} does not fit the volume's grid {volume.grid.shape}")
    name = volume.sequence.title if volume.sequence else volume.name
    progress.update(0.0, f"looking for the bias field of {name}")
    air = np.float32(background(volume.data))
    shrunk, grid = coarser(volume.data - air, volume.grid, _SHRUNK_MM)
    share, _ = coarser(brain.astype(np.float32), volume.grid, _SHRUNK_MM)
    inside = share > _MOSTLY
    # Means over voxels of which a part was stripped are too dark; the rest of the voxel is what counts.
    inside &= shrunk > _DARKEST * float(np.median(shrunk[inside])) if inside.any() else False
    if np.count_nonzero(inside) < 100:
        return volume
    log_field = _log_field(shrunk, inside, grid, progress)
    log_field -= np.float32(log_field[inside].mean())
    progress.update(0.9, f"correcting {name}")
    field = np.exp(_spread(log_field, volume.grid))
    corrected = np.where(volume.data == air, air, (volume.data - air) / field + air).astype(np.float32)
    progress.update(1.0, f"{name} is corrected")
    return replace(volume, data=corrected)


def _log_field(shrunk: FloatArray, inside: Mask, grid: Grid, progress: Progress) -> FloatArray:
    """The logarithm of the field at the shrunk scan's voxels, ``(i, j, k)`` float32."""
    import SimpleITK  # 0.9 s

    image, mask = _image(shrunk, grid), _image(inside.astype(np.uint8), grid)
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations((_ROUNDS,))
    n4.SetConvergenceThreshold(_UNTIL)
    n4.SetNumberOfControlPoints((3 + _PIECES,) * 3)
    n4.SetNumberOfThreads(1)  # the same field on every machine

    def told() -> None:
        if progress.cancelled:
            n4.Abort()

    n4.AddCommand(SimpleITK.sitkIterationEvent, told)
    try:
        n4.Execute(image, mask)
    except RuntimeError:
        if progress.cancelled:
            raise Cancelled from None
        raise
    progress.check()
    found = SimpleITK.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).transpose(2, 1, 0)
    return np.ascontiguousarray(found, np.float32)


def _image(data: FloatArray | np.ndarray, grid: Grid) -> SimpleITK.Image:
    """As SimpleITK takes it; where it lies in the world does not matter to a field."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    image.SetSpacing(grid.spacing)
    return image


def _spread(coarse: FloatArray, grid: Grid) -> FloatArray:
    """A smooth ``(i, j, k)`` of `coarser` at the voxels of the grid it was made of, linearly."""
    spread = coarse
    for axis, (few, many) in enumerate(zip(coarse.shape, grid.shape, strict=True)):
        step = max(1, min(round(_SHRUNK_MM / grid.spacing[axis]), many))
        at = np.clip((np.arange(many) - (step - 1) / 2) / step, 0, few - 1)
        low = np.minimum(at.astype(np.intp), max(few - 2, 0))
        weights = np.zeros((many, few), np.float32)
        weights[np.arange(many), low] = 1 - (at - low)
        weights[np.arange(many), np.minimum(low + 1, few - 1)] += (at - low).astype(np.float32)
        spread = np.moveaxis(np.tensordot(weights, spread, axes=(1, axis)), 0, axis)
    return spread
