"""Draws the program's icons of the app's own mark: ``python packaging/icons.py``, after the mark has changed.

Writes ``packaging/icons``: a PNG a size for Linux, one ``.ico`` for Windows and one ``.icns`` for macOS.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from PIL import Image
from PySide6.QtCore import QBuffer, QIODevice

ROOT = Path(__file__).resolve().parent.parent
ICONS = ROOT / "packaging" / "icons"
PNG = (16, 24, 32, 48, 64, 128, 256, 512)
ICO = (16, 20, 24, 32, 40, 48, 64, 128, 256)
ICNS = (16, 32, 64, 128, 256, 512, 1024)


def main() -> None:
    """Draw all of them."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    sys.path.insert(0, str(ROOT))
    from app.application import draw_mark, make_application

    make_application()

    def drawn(size: int) -> Image.Image:
        buffer = QBuffer()
        buffer.open(QIODevice.OpenModeFlag.WriteOnly)
        draw_mark(size).save(buffer, "PNG")
        return Image.open(io.BytesIO(buffer.data().data())).convert("RGBA")

    ICONS.mkdir(exist_ok=True)
    for size in PNG:
        drawn(size).save(ICONS / f"gliascope-{size}.png", optimize=True)
    # Each size drawn for itself: scaled down, thin lines turn to mud.
    largest = drawn(max(ICO))
    sizes = [(size, size) for size in ICO]
    largest.save(ICONS / "gliascope.ico", sizes=sizes, append_images=[drawn(size) for size in ICO[:-1]])
    drawn(max(ICNS)).save(ICONS / "gliascope.icns", append_images=[drawn(size) for size in ICNS[:-1]])


if __name__ == "__main__":
    main()
