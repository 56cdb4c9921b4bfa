"""The empty window: the first thing anybody sees."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from app.controls import label, push
from app.theme import CORE, WHOLE_TUMOUR, Theme, blend


def head_outline(box: QRectF) -> QPainterPath:
    """A head seen from above, a little wider at the back."""
    path = QPainterPath()
    x, y, w, h = box.x(), box.y(), box.width(), box.height()
    path.moveTo(x + 0.5 * w, y)
    path.cubicTo(x + 0.80 * w, y, x + 0.95 * w, y + 0.25 * h, x + 0.98 * w, y + 0.54 * h)
    path.cubicTo(x + 1.01 * w, y + 0.84 * h, x + 0.78 * w, y + h, x + 0.5 * w, y + h)
    path.cubicTo(x + 0.22 * w, y + h, x - 0.01 * w, y + 0.84 * h, x + 0.02 * w, y + 0.54 * h)
    path.cubicTo(x + 0.05 * w, y + 0.25 * h, x + 0.20 * w, y, x + 0.5 * w, y)
    return path


def draw_emblem(painter: QPainter, box: QRectF, line: QColor, soft: QColor) -> None:
    """Gliascope's sign: a head from above, the midline, and two outlines one inside the other."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    thick = max(1.2, box.height() / 52)
    painter.setPen(QPen(line, thick))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.drawPath(head_outline(box))
    x, y, w, h = box.x(), box.y(), box.width(), box.height()
    painter.setPen(QPen(soft, thick * 0.8, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
    painter.drawLine(QPointF(x + 0.5 * w, y + 0.07 * h), QPointF(x + 0.5 * w, y + 0.31 * h))
    painter.drawLine(QPointF(x + 0.5 * w, y + 0.72 * h), QPointF(x + 0.5 * w, y + 0.93 * h))
    # In an icon these would be dirt.
    for side in (-1, 1) if h >= 60 else ():
        ventricle = QPainterPath()
        ventricle.moveTo(x + (0.5 + side * 0.05) * w, y + 0.36 * h)
        ventricle.cubicTo(
            x + (0.5 + side * 0.13) * w, y + 0.38 * h, x + (0.5 + side * 0.03) * w, y + 0.52 * h,
            x + (0.5 + side * 0.14) * w, y + 0.66 * h,
        )  # fmt: skip
        painter.drawPath(ventricle)
    middle = QPointF(x + 0.72 * w, y + 0.42 * h)
    whole = QPainterPath()
    whole.moveTo(middle.x() - 0.15 * w, middle.y() - 0.02 * h)
    whole.cubicTo(
        middle.x() - 0.14 * w, middle.y() - 0.16 * h, middle.x() + 0.08 * w, middle.y() - 0.17 * h,
        middle.x() + 0.14 * w, middle.y() - 0.05 * h,
    )  # fmt: skip
    whole.cubicTo(
        middle.x() + 0.19 * w, middle.y() + 0.08 * h, middle.x() + 0.08 * w, middle.y() + 0.15 * h,
        middle.x() - 0.02 * w, middle.y() + 0.13 * h,
    )  # fmt: skip
    whole.cubicTo(
        middle.x() - 0.12 * w, middle.y() + 0.12 * h, middle.x() - 0.16 * w, middle.y() + 0.08 * h,
        middle.x() - 0.15 * w, middle.y() - 0.02 * h,
    )  # fmt: skip
    sky, orange = QColor(WHOLE_TUMOUR), QColor(CORE)
    fill = QColor(sky)
    fill.setAlpha(60)
    painter.setPen(QPen(sky, thick))
    painter.setBrush(fill)
    painter.drawPath(whole)
    fill = QColor(orange)
    fill.setAlpha(90)
    painter.setPen(QPen(orange, thick))
    painter.setBrush(fill)
    painter.drawEllipse(middle, 0.065 * w, 0.058 * h)
    painter.restore()


class Emblem(QWidget):
    """The sign by itself.

    Args:
        theme: Its colours.
        size: Height in pixels.
    """

    def __init__(self, theme: Theme, size: int) -> None:
        super().__init__()
        self._theme = theme
        self.setFixedSize(round(0.86 * size) + 4, size + 4)
        theme.changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        c = self._theme.colours
        painter = QPainter(self)
        box = QRectF(self.rect()).adjusted(2, 2, -2, -2)
        draw_emblem(painter, box, QColor(c.text), QColor(blend(c.secondary, c.background, 0.7)))


class Welcome(QWidget):
    """One drop target, three lines and the demo button.

    Signals:
        browse: Choose files by a dialog.
        browse_folder: Choose a folder by a dialog.
        demo: Try the simulated patient.
    """

    browse = Signal()
    browse_folder = Signal()
    demo = Signal()

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self.setObjectName("surface")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._theme = theme
        self._hot = False
        self.setAccessibleName("Drop MRI scans here")
        theme.changed.connect(self.update)

        column = QVBoxLayout(self)
        column.setContentsMargins(60, 60, 60, 60)
        column.setSpacing(0)
        column.addStretch(5)
        column.addWidget(Emblem(theme, 132), 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(32)
        title = label("Drop a patient's MRI here", "title")
        column.addWidget(title, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(12)
        first = label("T1, T1ce, T2 or FLAIR: one is enough, every further one helps.", "secondary")
        column.addWidget(first, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(4)
        second = label("NIfTI files or a folder. Nothing leaves this computer.", "secondary")
        column.addWidget(second, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(28)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        self.demo_button = push("Try the demo patient", "primary", "A simulated patient with a glioma (Ctrl+D)")
        self.files_button = push("Open files", "large", "Choose files (Ctrl+O)")
        self.folder_button = push("Open a folder", "large", "Choose a folder (Ctrl+Shift+O)")
        self.demo_button.clicked.connect(self.demo)
        self.files_button.clicked.connect(self.browse)
        self.folder_button.clicked.connect(self.browse_folder)
        buttons.addStretch()
        buttons.addWidget(self.demo_button)
        buttons.addWidget(self.files_button)
        buttons.addWidget(self.folder_button)
        buttons.addStretch()
        column.addLayout(buttons)
        column.addStretch(6)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def set_hot(self, hot: bool) -> None:
        """Whether something to drop hangs over the window."""
        if hot != self._hot:
            self._hot = hot
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        c = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QColor(c.background))
        box = QRectF(self.rect()).adjusted(24.5, 24.5, -24.5, -24.5)
        pen = QPen(QColor(c.accent if self._hot else c.hairline), 2 if self._hot else 1.5)
        pen.setDashPattern([5, 5])
        painter.setPen(pen)
        if self._hot:
            painter.setBrush(QColor(blend(c.accent, c.background, 0.08)))
        painter.drawRoundedRect(box, 14, 14)
