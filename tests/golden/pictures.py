"""Compare what a widget draws with an approved picture.

To approve: ``AUDIT=1 python -m pytest tests/golden``, then look at each picture written to ``tests/golden`` and check
what its test says to look for. A comparison that fails leaves what was drawn, and the difference, in the folder named.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QWidget

APPROVED = Path(__file__).parent

# Fonts and curves are drawn a shade differently by different systems; shapes and places are not.
SHADE = 40
SHARE_OF_PIXELS = 0.004


def pixels(image: QImage) -> NDArray[np.uint8]:
    """Red, green and blue, ``(rows, columns, 3)``."""
    plain = image.convertToFormat(QImage.Format.Format_RGB888)
    rows = np.frombuffer(plain.constBits(), np.uint8).reshape(plain.height(), plain.bytesPerLine())
    return rows[:, : 3 * plain.width()].reshape(plain.height(), plain.width(), 3).copy()


def share_that_differs(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Share of pixels that differ by more than a shade in any colour, brighter or darker; 1 for another size."""
    if first.shape != second.shape:
        return 1.0
    difference = np.abs(first.astype(np.int16) - second.astype(np.int16)).max(axis=2)
    return float(np.count_nonzero(difference > SHADE)) / difference.size


def assert_approved(widget: QWidget, name: str, look_for: str, failed: Path) -> None:
    """The widget looks as it did when somebody last approved it.

    Args:
        widget: What to draw.
        name: Of the approved picture.
        look_for: What a person who approves it has to see in it.
        failed: Folder for what was drawn instead.
    """
    drawn = widget.grab().toImage()
    path = APPROVED / f"{name}.png"
    if os.environ.get("AUDIT") == "1":
        assert drawn.save(str(path))
        return
    assert path.is_file(), f"{name} was never approved: {look_for}"
    now, approved = pixels(drawn), pixels(QImage(str(path)))
    share = share_that_differs(now, approved)
    if share > SHARE_OF_PIXELS:
        drawn.save(str(failed / f"{name}-drawn.png"))
        if now.shape == approved.shape:
            difference = np.ascontiguousarray(np.abs(now.astype(np.int16) - approved.astype(np.int16)).astype(np.uint8))
            rows, columns, _ = difference.shape
            QImage(difference.data, columns, rows, 3 * columns, QImage.Format.Format_RGB888).save(
                str(failed / f"{name}-difference.png")
            )
    assert share <= SHARE_OF_PIXELS, f"{100 * share:.2f} % of {name} changed (see {failed}). Look for: {look_for}"
