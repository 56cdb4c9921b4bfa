"""How often each intensity occurs, and how much tumour lies in each slice: the two hand-drawn diagrams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QKeyEvent, QLinearGradient, QMouseEvent, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from app.theme import LABEL_PX, Theme, blend, body_font
from app.viewer_model import HISTOGRAM_BINS, ViewerModel, Window

HANDLE_REACH_PX = 10


class Histogram(QWidget):
    """How often each intensity occurs; two handles set what is black and what is white."""

    def __init__(self, theme: Theme, model: ViewerModel) -> None:
        super().__init__()
        self._theme, self._model = theme, model
        self._held = ""
        self._last_x = 0.0
        self.setMinimumSize(120, 70)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setMouseTracking(True)
        self.setAccessibleName("Window and level")
        self.setToolTip("Drag the two handles to set black and white; double-click to reset (arrow keys move them)")
        for signal in (model.layers_changed, model.shown_changed, model.window_changed, model.labels_changed,
                       model.overlay_changed, theme.changed):  # fmt: skip
            signal.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(400, 160)

    def _area(self) -> QRectF:
        return QRectF(self.rect()).adjusted(6, 6, -6, -26)

    def _range(self) -> tuple[float, float]:
        layer = self._model.layer
        assert layer is not None
        low, high = layer.span
        room = 0.06 * (high - low)
        return low - room, high + room

    def _x(self, value: float) -> float:
        low, high = self._range()
        area = self._area()
        return area.left() + (value - low) / (high - low) * area.width()

    def _value(self, x: float) -> float:
        low, high = self._range()
        area = self._area()
        return low + (x - area.left()) / max(1.0, area.width()) * (high - low)

    def paintEvent(self, event: QPaintEvent) -> None:
        model, c = self._model, self._theme.colours
        layer, window = model.layer, model.window
        if layer is None or window is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = self._area()
        edges = np.linspace(*layer.span, HISTOGRAM_BINS + 1)
        centres = [self._x(value) for value in (edges[:-1] + edges[1:]) / 2]

        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(blend(c.secondary, c.panel, 0.38)))
        painter.drawPath(_hill(centres, layer.histogram, area, closed=True))
        mask, overlay = model.mask, model.overlay
        if mask is not None and overlay.visible and model.shown in mask.histograms:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            both = mask.histograms[model.shown]
            for heights, name, shown in (
                (both[0], overlay.whole_tumour, overlay.whole_tumour_shown),
                (both[1], overlay.core, overlay.core_shown),
            ):
                if shown and heights.any():
                    painter.setPen(QPen(QColor(name), 1.5))
                    painter.drawPath(_hill(centres, 0.92 * heights, area, closed=False))

        low, high = self._x(window.low), self._x(window.high)
        inside = area.left(), area.right()
        strip = QRectF(area.left(), area.bottom() + 4, area.width(), 5)
        ramp = QLinearGradient(low, 0, high, 0)
        ramp.setColorAt(0, QColor("black"))
        ramp.setColorAt(1, QColor("white"))
        painter.setPen(QPen(QColor(c.hairline), 1))
        painter.setBrush(ramp)
        painter.drawRoundedRect(strip, 2.5, 2.5)
        painter.setFont(body_font(LABEL_PX))
        for x, value in ((low, window.low), (high, window.high)):
            at = min(max(x, inside[0]), inside[1])
            colour = QColor(c.accent if self.hasFocus() or self._held else c.text)
            painter.setPen(QPen(colour, 1))
            painter.drawLine(QPointF(at, area.top()), QPointF(at, strip.bottom()))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            painter.drawEllipse(QPointF(at, strip.center().y()), 5, 5)
            words = figure(value, window.width)
            width = painter.fontMetrics().horizontalAdvance(words)
            left = min(max(at - width / 2, area.left()), area.right() - width)
            painter.setPen(QColor(c.secondary))
            painter.drawText(QPointF(left, self.height() - 3), words)

    def _near(self, x: float) -> str:
        window = self._model.window
        if window is None:
            return ""
        area = self._area()
        places = {name: min(max(self._x(value), area.left()), area.right())
                  for name, value in (("low", window.low), ("high", window.high))}  # fmt: skip
        nearest = min(places, key=lambda name: abs(places[name] - x))
        if abs(places[nearest] - x) <= HANDLE_REACH_PX:
            return nearest
        return "both" if places["low"] < x < places["high"] else ""

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._held = self._near(event.position().x())
        self._last_x = event.position().x()
        self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        x = event.position().x()
        if not self._held:
            shapes = {"": Qt.CursorShape.ArrowCursor, "both": Qt.CursorShape.OpenHandCursor}
            self.setCursor(shapes.get(self._near(x), Qt.CursorShape.SizeHorCursor))
            return
        self._move(self._held, self._value(x) - self._value(self._last_x))
        self._last_x = x

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._held = ""
        self.update()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self._model.reset_window()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        layer = self._model.layer
        step = (layer.span[1] - layer.span[0]) / 50 if layer is not None else 0.0
        moves = {
            Qt.Key.Key_Left: ("both", -step),
            Qt.Key.Key_Right: ("both", step),
            Qt.Key.Key_Up: ("high", -step),
            Qt.Key.Key_Down: ("high", step),
        }
        if event.key() in moves:
            event.accept()
            self._move(*moves[Qt.Key(event.key())])
        else:
            super().keyPressEvent(event)

    def _move(self, handle: str, by: float) -> None:
        window = self._model.window
        if window is None:
            return
        low, high = window.low, window.high
        if handle in ("low", "both"):
            low += by
        if handle in ("high", "both"):
            high += by
        if high > low:
            self._model.set_window(Window(high - low, (high + low) / 2))


class SliceProfile(QWidget):
    """The tumour's area in each slice from feet to head; a click goes there."""

    def __init__(self, theme: Theme, model: ViewerModel) -> None:
        super().__init__()
        self._theme, self._model = theme, model
        self.setMinimumSize(120, 46)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAccessibleName("Tumour by slice")
        self.setToolTip("Area of the tumour in each axial slice, feet to head; click to go there")
        for signal in (model.labels_changed, model.crosshair_changed, model.overlay_changed, theme.changed):
            signal.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(400, 80)

    def _area(self) -> QRectF:
        return QRectF(self.rect()).adjusted(6, 4, -6, -18)

    def _heights(self) -> NDArray[np.float64] | None:
        """Areas from feet to head, whatever the order in the file."""
        mask = self._model.mask
        if mask is None:
            return None
        sign = mask.labels.grid.nearest_axes()[1][mask.axis]
        return mask.areas_mm2 if sign > 0 else mask.areas_mm2[:, ::-1]

    def paintEvent(self, event: QPaintEvent) -> None:
        model, c, heights = self._model, self._theme.colours, self._heights()
        mask = model.mask
        if heights is None or mask is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area, overlay = self._area(), model.overlay
        slices = heights.shape[1]
        xs = [area.left() + (n + 0.5) / slices * area.width() for n in range(slices)]
        top = max(float(heights.max()), 1.0)
        for row, colour, shown in (
            (0, overlay.whole_tumour, overlay.whole_tumour_shown),
            (1, overlay.core, overlay.core_shown),
        ):
            if shown:
                fill = QColor(colour)
                fill.setAlpha(110)
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(fill)
                painter.drawPath(_hill(xs, heights[row] / top, area, closed=True))
                painter.setPen(QPen(QColor(colour), 1.2))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawPath(_hill(xs, heights[row] / top, area, closed=False))
        painter.setPen(QPen(QColor(c.hairline), 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())

        grid = mask.labels.grid
        position = float(grid.to_voxel(model.crosshair[None])[0][mask.axis])
        if grid.nearest_axes()[1][mask.axis] < 0:
            position = slices - 1 - position
        x = area.left() + (min(max(position, 0), slices - 1) + 0.5) / slices * area.width()
        painter.setPen(QPen(QColor(c.text), 1))
        painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        index = int(min(max(round(position), 0), slices - 1))
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(QColor(c.secondary))
        here = heights[:, index] / 100
        painter.drawText(QPointF(area.left(), self.height() - 4), "feet")
        words = "head"
        painter.drawText(
            QPointF(area.right() - painter.fontMetrics().horizontalAdvance(words), self.height() - 4), words
        )
        words = f"this slice {here[0]:.1f} cm², core {here[1]:.1f} cm²"
        middle = area.center().x() - painter.fontMetrics().horizontalAdvance(words) / 2
        painter.drawText(QPointF(middle, self.height() - 4), words)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._go(event.position().x())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go(event.position().x())

    def _go(self, x: float) -> None:
        heights, mask = self._heights(), self._model.mask
        if heights is None or mask is None:
            return
        area, slices = self._area(), heights.shape[1]
        number = int(min(max((x - area.left()) / max(1.0, area.width()) * slices, 0), slices - 1))
        grid = mask.labels.grid
        voxel = grid.to_voxel(self._model.crosshair[None])[0]
        voxel[mask.axis] = number if grid.nearest_axes()[1][mask.axis] > 0 else slices - 1 - number
        self._model.move_crosshair(grid.to_world(voxel[None])[0])


def _hill(xs: list[float], heights: NDArray[np.floating], area: QRectF, closed: bool) -> QPainterPath:
    path = QPainterPath()
    ys = [area.bottom() - float(h) * area.height() for h in heights]
    if closed:
        path.moveTo(xs[0], area.bottom())
        path.lineTo(xs[0], ys[0])
    else:
        path.moveTo(xs[0], ys[0])
    for x, y in zip(xs[1:], ys[1:], strict=True):
        path.lineTo(x, y)
    if closed:
        path.lineTo(xs[-1], area.bottom())
        path.closeSubpath()
    return path


def figure(value: float, scale: float) -> str:
    """A number with as many digits as its scale makes worth reading: 412, 41.2, 0.412."""
    if scale >= 20:
        return f"{value:.0f}"
    return f"{value:.1f}" if scale >= 2 else f"{value:.3g}"
