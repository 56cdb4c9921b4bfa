"""The fourth cell: every sequence side by side, the displayed one's intensities, and the tumour slice by slice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, QTimer
from PySide6.QtGui import (
    QColor,
    QKeyEvent,
    QLinearGradient,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPaintEvent,
    QPen,
)
from PySide6.QtWidgets import QAbstractButton, QFrame, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from app.controls import label
from app.cut import cut_of
from app.slice_layers import Frame, name_of, paint_small
from app.theme import LABEL_PX, Theme, blend, body_font
from app.viewer_model import HISTOGRAM_BINS, LayerKey, Plane, Side, ViewerModel, Window
from engine.volume import Sequence

HANDLE_REACH_PX = 10
REST_MS = 60


class Thumbnail(QAbstractButton):
    """One sequence at the crosshair's axial slice; a click displays it.

    Args:
        theme: The colours.
        model: What is on screen.
        key: Which layer.
    """

    def __init__(self, theme: Theme, model: ViewerModel, key: LayerKey) -> None:
        super().__init__()
        self._theme, self._model, self.key = theme, model, key
        self._name = name_of(key)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAccessibleName(f"Show {self._name}")
        self.setToolTip(f"Show {self._name}")
        self.setMinimumSize(60, 70)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.clicked.connect(lambda: model.show(key))

    def sizeHint(self) -> QSize:
        return QSize(120, 140)

    def paintEvent(self, event: QPaintEvent) -> None:
        model, c = self._model, self._theme.colours
        layer = model.layers.get(self.key)
        if layer is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        shown = model.shown == self.key
        box = QRectF(self.rect()).adjusted(1, 1, -1, -20)
        painter.fillRect(box, QColor("black"))
        cut = cut_of(layer.volume.grid, Plane.AXIAL, model.radiological)
        low, high = model.content_mm
        ends = np.array([cut.to_screen(low), cut.to_screen(high)])
        (left, top), (width, height) = ends.min(axis=0), np.ptp(ends, axis=0)
        scale = min((box.width() - 6) / max(width, 1.0), (box.height() - 6) / max(height, 1.0))
        frame = Frame(
            model=model,
            side=Side.MAIN,
            key=self.key,
            layer=layer,
            cut=cut,
            index=cut.index_of(model.crosshair),
            left=box.center().x() - (left + width / 2) * scale,
            top=box.center().y() - (top + height / 2) * scale,
            px_per_mm=scale,
            area=box,
            ratio=self.devicePixelRatioF(),
        )
        painter.save()
        painter.setClipRect(box)
        paint_small(painter, frame)
        painter.restore()
        edge = QColor(c.accent if shown or self.hasFocus() else c.hairline)
        painter.setPen(QPen(edge, 2 if self.hasFocus() else 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(box)
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(QColor(c.text if shown else c.secondary))
        name = painter.fontMetrics().elidedText(self._name, Qt.TextElideMode.ElideMiddle, self.width())
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignHCenter), name)


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


class OverviewCell(QFrame):
    """Sequences side by side on top, then the histogram, then the tumour's profile once there is one.

    Args:
        theme: The colours.
        model: What is on screen.
        before: The widget that comes before this cell in the tab order.
    """

    def __init__(self, theme: Theme, model: ViewerModel, before: QWidget) -> None:
        super().__init__()
        self.setObjectName("cell")
        self._before = before
        self._theme, self._model = theme, model
        column = QVBoxLayout(self)
        column.setContentsMargins(18, 14, 18, 12)
        column.setSpacing(6)
        self._strip_caption = label("SEQUENCES AT THE CROSSHAIR", "caption")
        column.addWidget(self._strip_caption)
        self._strip_holder = QWidget()
        self._strip = QHBoxLayout(self._strip_holder)
        self._strip.setContentsMargins(0, 0, 0, 0)
        self._strip.setSpacing(8)
        column.addWidget(self._strip_holder)
        self._caption = label("INTENSITIES", "caption")
        column.addWidget(self._caption)
        self.histogram = Histogram(theme, model)
        column.addWidget(self.histogram)
        self._profile_caption = label("TUMOUR BY SLICE", "caption")
        column.addWidget(self._profile_caption)
        self.profile = SliceProfile(theme, model)
        column.addWidget(self.profile)
        # With one sequence and no mask there is less to see; it stays at the top and keeps its size.
        column.addStretch(1)
        for part, weight in ((self._strip_holder, 62), (self.histogram, 40), (self.profile, 34)):
            column.setStretchFactor(part, weight)
        self.histogram.setMaximumHeight(200)
        self.profile.setMaximumHeight(150)
        self.thumbnails: list[Thumbnail] = []
        # While slices fly by, the big views have all the time there is; the small ones follow when it rests.
        self._resting = QTimer(self)
        self._resting.setSingleShot(True)
        self._resting.setInterval(REST_MS)
        self._resting.timeout.connect(self._redraw)
        model.layers_changed.connect(self._rebuild)
        model.shown_changed.connect(self._update)
        model.labels_changed.connect(self._update)
        model.crosshair_changed.connect(self._resting.start)
        for signal in (model.shown_changed, model.window_changed, model.labels_changed,
                       model.overlay_changed, model.convention_changed, theme.changed):  # fmt: skip
            signal.connect(self._redraw)
        self._rebuild()

    def _rebuild(self) -> None:
        for thumbnail in self.thumbnails:
            self._strip.removeWidget(thumbnail)
            thumbnail.hide()
            thumbnail.deleteLater()
        self.thumbnails = []
        # One sequence is on the big views already.
        if len(self._model.layers) > 1:
            self.thumbnails = [Thumbnail(self._theme, self._model, key) for key in self._model.layers]
        for thumbnail in self.thumbnails:
            self._strip.addWidget(thumbnail)
        if self.window() is self._before.window():
            for before, after in pairwise([self._before, *self.thumbnails, self.histogram]):
                QWidget.setTabOrder(before, after)
        self._strip_caption.setVisible(bool(self.thumbnails))
        self._strip_holder.setVisible(bool(self.thumbnails))
        self._update()

    def _redraw(self) -> None:
        for thumbnail in self.thumbnails:
            thumbnail.update()

    def _update(self) -> None:
        shown = self._model.shown
        name = shown.title if isinstance(shown, Sequence) else ""
        self._caption.setText(f"INTENSITIES  {name}".strip() if shown is not None else "")
        found = self._model.mask is not None and self._model.mask.largest is not None
        self._profile_caption.setVisible(found)
        self.profile.setVisible(found)


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
