"""The slim slider beside a view: which slice is shown, and which slices hold tumour."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QAbstractSlider, QWidget

from app.viewer_model import Mask, Overlay
from engine.cut import Cut

WIDTH_PX = 14
TRACK = QColor(255, 255, 255, 46)
THUMB = QColor(255, 255, 255, 190)
END_PX = 8


class SliceSlider(QAbstractSlider):
    """Slices from 1, towards right, front and head upwards; the tumour's are marked beside the track.

    Signals:
        chosen: The number of the slice that the user went to, from 1.
    """

    chosen = Signal(int)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setOrientation(Qt.Orientation.Vertical)
        self.setFixedWidth(WIDTH_PX)
        # PgUp and PgDn do the same from anywhere; three more stops would only lengthen the way of the Tab key.
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setCursor(Qt.CursorShape.ArrowCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setAccessibleName("Slice")
        self.setToolTip("Slices; those with tumour are marked (PgUp and PgDn)")
        self._shown: tuple[object, ...] = ()
        self._marks: list[tuple[np.ndarray, str]] = []

    def show_slices(self, cut: Cut, index: int, mask: Mask | None, overlay: Overlay) -> None:
        """Show where a view is.

        Args:
            cut: The view's.
            index: Its slice.
            mask: Whose slices are marked; None for none.
            overlay: In which colours.
        """
        self.setRange(1, cut.grid.shape[cut.normal])
        self.setValue(cut.number_of(index))
        shown = (cut, mask, overlay)
        if shown != self._shown:
            self._shown = shown
            self._marks = []
            if mask is not None and overlay.visible and mask.labels.grid.same_as(cut.grid):
                whole, core = mask.extent(cut.normal)
                marks = ((whole, overlay.whole_tumour, overlay.whole_tumour_shown),
                         (core, overlay.core, overlay.core_shown))  # fmt: skip
                self._marks = [
                    (here if cut.upwards else here[::-1], colour) for here, colour, wanted in marks if wanted
                ]
            self.update()

    def sliderChange(self, change: QAbstractSlider.SliderChange) -> None:
        self.update()

    def _y(self, number: float) -> float:
        room = self.height() - 2 * END_PX
        return self.height() - END_PX - (number - 0.5) / max(1, self.maximum()) * room

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor("black"))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        middle = self.width() / 2
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(TRACK)
        painter.drawRoundedRect(QRectF(middle - 1, END_PX, 2, self.height() - 2 * END_PX), 1, 1)
        for here, colour in self._marks:
            painter.setBrush(QColor(colour))
            ends = np.flatnonzero(np.diff(np.r_[False, here, False].astype(np.int8)))
            for first, last in ends.reshape(-1, 2).tolist():
                top, bottom = self._y(last + 0.5), self._y(first + 0.5)
                painter.drawRoundedRect(QRectF(middle - 2, top, 4, max(2.0, bottom - top)), 1, 1)
        painter.setBrush(THUMB)
        painter.drawRoundedRect(QRectF(middle - 5, self._y(self.value()) - 2, 10, 4), 2, 2)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._go(event.position())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go(event.position())

    def _go(self, place: QPointF) -> None:
        room = max(1, self.height() - 2 * END_PX)
        number = round((self.height() - END_PX - place.y()) / room * self.maximum() + 0.5)
        self.chosen.emit(min(max(number, self.minimum()), self.maximum()))
