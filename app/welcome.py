"""The empty window: the first thing anybody sees."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from app.controls import label, push
from app.theme import CORE, WHOLE_TUMOUR, Theme, blend


def draw_emblem(painter: QPainter, box: QRectF, line: QColor, soft: QColor) -> None:
    """Gliascope's sign: a brain from above, and in it two outlines one inside the other."""
    w, h = box.width(), box.height()

    def at(x: float, y: float) -> QPointF:
        return QPointF(box.x() + x * w, box.y() + y * h)

    def curve(start: tuple[float, float], *bends: tuple[float, ...]) -> QPainterPath:
        path = QPainterPath(at(*start))
        for a, b, c, d, e, f in bends:
            path.cubicTo(at(a, b), at(c, d), at(e, f))
        return path

    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    thick = max(1.2, h / 54)
    cap, join = Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin
    painter.setBrush(Qt.BrushStyle.NoBrush)
    for side in (-1, 1):

        def mirrored(x: float, y: float, side: int = side) -> tuple[float, float]:
            return 0.5 + side * x, y

        def bend(*values: float, side: int = side) -> tuple[float, ...]:
            return tuple(0.5 + side * v if n % 2 == 0 else v for n, v in enumerate(values))

        hemisphere = curve(
            mirrored(0.03, 0.04),
            bend(0.10, -0.02, 0.26, 0.02, 0.34, 0.13),
            bend(0.44, 0.25, 0.50, 0.42, 0.49, 0.58),
            bend(0.48, 0.78, 0.36, 0.93, 0.20, 0.98),
            bend(0.12, 1.00, 0.06, 0.99, 0.03, 0.95),
        )
        hemisphere.closeSubpath()
        painter.setPen(QPen(line, thick, Qt.PenStyle.SolidLine, cap, join))
        painter.drawPath(hemisphere)
        # In an icon these would be dirt.
        if h < 60:
            continue
        painter.setPen(QPen(soft, thick * 0.8, Qt.PenStyle.SolidLine, cap, join))
        folds = [
            curve(mirrored(0.03, 0.62), bend(0.14, 0.60, 0.16, 0.74, 0.28, 0.72)),
            curve(mirrored(0.20, 0.86), bend(0.24, 0.82, 0.32, 0.84, 0.36, 0.78)),
            curve(mirrored(0.03, 0.80), bend(0.09, 0.80, 0.11, 0.86, 0.10, 0.90)),
        ]
        if side < 0:
            folds += [
                curve(mirrored(0.03, 0.24), bend(0.12, 0.24, 0.12, 0.14, 0.22, 0.15)),
                curve(mirrored(0.16, 0.34), bend(0.22, 0.26, 0.30, 0.34, 0.37, 0.27)),
                curve(mirrored(0.03, 0.44), bend(0.14, 0.42, 0.20, 0.52, 0.34, 0.46)),
            ]
        else:
            folds.append(curve(mirrored(0.03, 0.16), bend(0.08, 0.17, 0.10, 0.12, 0.17, 0.12)))
        for fold in folds:
            painter.drawPath(fold)

    whole = curve(
        (0.59, 0.39),
        (0.58, 0.26, 0.72, 0.20, 0.81, 0.26),
        (0.91, 0.32, 0.90, 0.45, 0.84, 0.50),
        (0.78, 0.56, 0.68, 0.55, 0.64, 0.51),
        (0.60, 0.48, 0.59, 0.44, 0.59, 0.39),
    )
    sky, orange = QColor(WHOLE_TUMOUR), QColor(CORE)
    for colour, alpha in ((sky, 70), (orange, 110)):
        fill = QColor(colour)
        fill.setAlpha(alpha)
        painter.setPen(QPen(colour, thick))
        painter.setBrush(fill)
        if colour is sky:
            painter.drawPath(whole)
        else:
            painter.drawEllipse(at(0.755, 0.375), 0.072 * w, 0.062 * h)
    painter.restore()


INVITATION = "Drop a patient's MRI here"


class Emblem(QWidget):
    """The sign by itself.

    Args:
        theme: Its colours.
        size: Height in pixels.
    """

    def __init__(self, theme: Theme, size: int) -> None:
        super().__init__()
        self._theme = theme
        self.setFixedSize(round(0.84 * size) + 4, size + 4)
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
        self.title = label(INVITATION, "title")
        column.addWidget(self.title, 0, Qt.AlignmentFlag.AlignHCenter)
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
        self._tips = {b: b.toolTip() for b in (self.demo_button, self.files_button, self.folder_button)}
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

    def set_busy(self, busy: bool) -> None:
        """Whether files are being read."""
        self.title.setText("Reading the scans" if busy else INVITATION)
        for button in (self.demo_button, self.files_button, self.folder_button):
            button.setEnabled(not busy)
            button.setToolTip("The scans are being read; Esc stops." if busy else self._tips[button])

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
