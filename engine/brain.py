"""Finding the brain in a head, on any sequence, and removing what lies around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from engine.preprocessing import background
from engine.progress import Progress
from engine.volume import Mask, Volume

# No brain is as large; a head with its skull is, and with the noise of the air around it far more.
LARGEST_BRAIN_ML = 2200


def find_brain(volumes: Iterable[Volume], progress: Progress = Progress()) -> Mask:
    """Where the brain lies.

    Args:
        volumes: One or several sequences of one patient, all on one grid, with or without the skull.
        progress: Told of each volume; cancelling it stops before the next one.

    Returns:
        ``(I, J, K)`` on the volumes' grid: the brain in one piece without holes, sulci closed, and a millimetre or two
        of the fluid around it, so that a tumour at its surface stays.

    Raises:
        ValueError: There is no volume, or they lie on several grids.
        Cancelled: `progress` was cancelled.
    """
    raise NotImplementedError


def is_stripped(volume: Volume) -> bool:
    """Whether the skull was removed already."""
    signal = np.count_nonzero(volume.data != background(volume.data))
    return bool(signal * volume.grid.voxel_ml <= LARGEST_BRAIN_ML)


def strip(volume: Volume, brain: Mask) -> Volume:
    """The volume with its own background outside ``brain`` ``(I, J, K)``, as stripped collections have it.

    Raises:
        ValueError: The mask is not on the volume's grid.
    """
    if brain.shape != volume.grid.shape:
        raise ValueError(f"the mask {brain.shape} does not fit the volume's grid {volume.grid.shape}")
    outside = np.float32(background(volume.data))
    return replace(volume, data=np.where(brain, volume.data, outside).astype(np.float32))
