"""Taking the slow brightness of the receive coil out of a scan (N4; Tustison et al., IEEE Trans Med Imaging 2010;29:1310)."""

from __future__ import annotations

from engine.progress import Progress
from engine.volume import Mask, Volume


def correct(volume: Volume, brain: Mask, progress: Progress = Progress()) -> Volume:
    """Divide a scan by the smooth field that N4 finds in the brain.

    Args:
        volume: One sequence.
        brain: ``(I, J, K)`` on its grid: where to look for the field.
        progress: Cancelling it stops within a second.

    Raises:
        Cancelled: ``progress`` was cancelled.
    """
    raise NotImplementedError
