"""A picture of the views to save: what is on screen, and below it what a reader has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PySide6.QtCore import QByteArray, QRect, Qt
from PySide6.QtGui import QColor, QImage, QImageWriter, QPainter
from PySide6.QtWidgets import QWidget

from app.theme import CORE, DARK, LABEL_PX, WHOLE_TUMOUR, body_font
from app.viewer_model import Map, Plane, ViewerModel
from engine.errors import CannotWrite
from engine.files import shown
from engine.progress import Progress
from engine.volume import Sequence

STRIP_PX = 46


def words_for(model: ViewerModel, planes: set[Plane]) -> tuple[str, str]:
    """What is to be read under a picture: on which side is what, and what is seen. Never a name or a path."""
    sides = []
    if planes - {Plane.SAGITTAL}:
        sides.append(
            "Radiological: the patient's left is on the right"
            if model.radiological
            else "Neurological: the patient's left is on the left"
        )
    if Plane.SAGITTAL in planes:
        sides.append("sagittal: nose to the " + ("left" if model.nose_left else "right"))
    window, shown = model.window, model.shown
    seen = []
    if window is not None and shown is not None:
        # A file that nobody has named yet may bear the patient's name.
        title = shown.title if isinstance(shown, Sequence) else "Scan"
        seen.append(f"{title}, window {window.width:.0f}, level {window.level:.0f}")
    if not model.interpolated:
        seen.append("not interpolated")
    if model.mask is not None and model.overlay.visible:
        usual = (model.overlay.whole_tumour, model.overlay.core) == (WHOLE_TUMOUR, CORE)
        seen.append("blue: whole tumour, orange: core" if usual else "with masks")
        if model.corrections:
            seen.append(model.corrections_in_words)
        if model.overlay.map is not Map.NONE:
            seen.append(model.overlay.map.title.lower())
    seen.append("Gliascope, research use only")
    return ".  ".join(side[:1].upper() + side[1:] for side in sides) + ".", ".  ".join(
        part[:1].upper() + part[1:] for part in seen
    ) + "."


def write(
    picture: QImage, path: Path, kind: str, describe: Callable[[], Mapping[str, Any]], progress: Progress
) -> None:
    """A job: a PNG file with its record, whole or not at all; replaces what the user agreed to replace.

    Args:
        picture: What to write.
        path: Ends in ``.png``.
        kind: What it shows, for the record.
        describe: Tells how what it shows came about.
        progress: Checked before.

    Raises:
        CannotWrite: Nothing was written, and nothing is left behind.
    """
    from engine import provenance

    progress.check()
    size = {"pixels": [picture.width(), picture.height()]}
    with provenance.recorded(path, describe(), kind, size, replace=True) as partial:
        if not QImageWriter(str(partial), QByteArray(b"PNG")).write(picture):
            raise CannotWrite(f"{shown(path)} could not be written", "", "Check that you may write there.")


def compose(views: QWidget, words: tuple[str, str]) -> QImage:
    """The views with two lines of words below, at the resolution of the screen."""
    drawn = views.grab().toImage()
    ratio = drawn.devicePixelRatio()
    strip = round(STRIP_PX * ratio)
    made = QImage(drawn.width(), drawn.height() + strip, QImage.Format.Format_RGB32)
    made.setDevicePixelRatio(ratio)
    made.fill(QColor(DARK.background))
    painter = QPainter(made)
    painter.drawImage(0, 0, drawn)
    width, top = round(drawn.width() / ratio), round(drawn.height() / ratio)
    painter.setRenderHint(QPainter.RenderHint.TextAntialiasing)
    painter.setFont(body_font(LABEL_PX + 1))
    for number, (line, colour) in enumerate(zip(words, (DARK.text, DARK.secondary), strict=True)):
        painter.setPen(QColor(colour))
        place = QRect(14, top + 6 + 18 * number, width - 28, 18)
        painter.drawText(place, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), line)
    painter.end()
    return made
