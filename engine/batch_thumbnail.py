"""A small picture of a result, for a table of many: the axial slice with most tumour, outlined."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from engine.brightness import Brightness
from engine.cut import Plane, cut_of
from engine.files import whole_file
from engine.volume import LabelMap, Mask, Sequence, Subject

SIZE = 160
# The colours of the window's overlays: sky for the whole tumour, orange for the core.
_WHOLE, _CORE = (0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00)
# Where a tumour shows best, the best first.
_SHOWN = (Sequence.FLAIR, Sequence.T1CE, Sequence.T2, Sequence.T1)


def draw(subject: Subject, labels: LabelMap, used: Iterable[Sequence], path: Path, size: int = SIZE) -> None:
    """Write a picture as PNG, ``size`` by ``size`` pixels, black around; the same bytes for the same result.

    Args:
        subject: What a viewer shows, on the grid of the labels.
        labels: Whose outlines are drawn, in the colours of the window; in the middle slice where there is no tumour.
        used: The sequences that the model looked at; one of them is shown.
        path: Where to write.
        size: Pixels along each side.

    Raises:
        CannotWrite: The system refused.
    """
    from PIL import Image

    sequences = set(used) & set(subject) or set(subject)
    sequence = next(one for one in _SHOWN if one in sequences)
    volume = subject[sequence]
    cut = cut_of(volume.grid, Plane.AXIAL, True)
    others = tuple(axis for axis in range(3) if axis != cut.normal)
    area = np.count_nonzero(labels.data, axis=others)
    index = int(area.argmax()) if area.any() else volume.grid.shape[cut.normal] // 2
    window = Brightness.of(volume).window
    width_mm, height_mm = cut.size_mm
    scale = size / max(width_mm, height_mm)
    shape = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    grey = np.clip((cut.extract(volume.data, index) - window.low) / window.width, 0.0, 1.0)
    picture = Image.fromarray((grey * 255).astype(np.uint8)).resize(shape, Image.Resampling.BILINEAR)
    pixels = np.repeat(np.asarray(picture)[..., None], 3, axis=2).copy()
    for mask, colour in ((labels.whole_tumour, _WHOLE), (labels.tumour_core, _CORE)):
        drawn = Image.fromarray(np.ascontiguousarray(cut.extract(mask, index))).convert("L")
        pixels[_edge(np.asarray(drawn.resize(shape, Image.Resampling.BILINEAR)) >= 128)] = colour
    frame = np.zeros((size, size, 3), np.uint8)
    left, top = (size - shape[0]) // 2, (size - shape[1]) // 2
    frame[top : top + shape[1], left : left + shape[0]] = pixels
    with whole_file(path) as partial:
        Image.fromarray(frame).save(partial, "PNG")


def _edge(mask: Mask) -> Mask:
    """The pixels of a mask that have a neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: Mask = mask & ~inside
    return edge
