"""One plane of the patient on screen: what it shows, and what the pointer and the keys do in it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QCursor,
    QEnterEvent,
    QFocusEvent,
    QFontMetricsF,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QWidget

from app.slice_layers import SOFT_WHITE, Frame, MarksLayer, SliceLayers, paint_ruler
from app.slice_slider import SliceSlider
from app.theme import LABEL_PX, body_font
from app.viewer_model import Layer, LayerKey, Plane, Point, Side, ViewerModel, Way, Window
from engine.cut import Cut, cut_of
from engine.volume import TUMOUR_CORE, Box

Voxel = tuple[int, int, int]

# Room for the letters on each side of the head.
MARGIN_PX = 26
WHEEL_STEP = 120
GAP_IN_WORDS = "   "
# How near to the line of a swipe a press takes hold of it.
SWIPE_REACH_PX = 9


class Tool(Protocol):
    """What a pointer does in a view instead of moving the crosshair: a brush, a ruler.

    Places are in the patient: ``world`` is ``(3,)`` in mm on the slice drawn, ``voxel`` the displayed grid's voxel
    there, which lies outside the grid when the pointer does. A press that is consumed makes the tool the owner of the
    pointer: moves go to it until the release. What it leaves alone the view handles as if there were no tool.

    Attributes:
        cursor: The pointer's shape over a view.
    """

    cursor: Qt.CursorShape | QCursor

    def press(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """A button went down (``buttons`` is that one; a double click is a second press): True if it is the tool's."""

    def move(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """The pointer moved with the tool's button down (``buttons`` are all that are)."""

    def release(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """The tool's button came up (``buttons`` is that one)."""

    def hover(self, view: SliceView, world: Point | None, voxel: Voxel | None, modifiers: Qt.KeyboardModifier) -> None:
        """The pointer moved with no button down, or left (None, None); call ``view.repaint_tool()`` to be painted."""

    def paint(self, painter: QPainter, view: SliceView) -> None:
        """Draw over the picture, in the view's pixels; `SliceView.pixel_of` says where a place is."""


class SliceView(QAbstractScrollArea):
    """One plane, drawn from a `ViewerModel` and writing the pointer's and the keys' wishes into it.

    Args:
        model: What is on screen.
        plane: Which plane.
        key: The layer shown here; the displayed one when not given.
        side: Which side of a comparison is shown.
        title: What stands before the slice's number; nothing when not given.

    Signals:
        resized: It has another size, so the scale all planes share is worked out anew.
        enlarged: A double click asked for one big view, or for the way back.
        entered: The pointer or the focus came here.
    """

    resized = Signal()
    enlarged = Signal(object)
    entered = Signal(object)

    def __init__(
        self,
        model: ViewerModel,
        plane: Plane,
        key: LayerKey | None = None,
        side: Side = Side.MAIN,
        title: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.model = model
        self._plane, self._key, self._side, self.title = plane, key, side, title
        self._swiping = False
        self._swipe_held = False
        self._px_per_mm = 1.0
        self._wheel = 0
        self._held = Qt.MouseButton.NoButton
        self._last = QPointF()
        self._by_key = False
        self._fade = 1.0
        self._tool: Tool | None = None
        self._tool_holds = False
        self._tool_button = Qt.MouseButton.NoButton
        self._layers = {Side.MAIN: SliceLayers(), Side.OTHER: SliceLayers()}
        self._marks = MarksLayer()

        self.setFrameShape(QAbstractScrollArea.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.viewport().setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setMinimumSize(120, 120)
        # The window takes what is dropped, wherever it falls.
        self.setAcceptDrops(False)
        self.viewport().setAcceptDrops(False)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        self.setAccessibleName(f"{self.title} {plane.title} view".strip())
        self.slider = SliceSlider(self)
        self.slider.chosen.connect(self._go_to_number)
        self.setViewportMargins(0, 0, self.slider.width(), 0)

        for signal in (
            model.layers_changed,
            model.shown_changed,
            model.convention_changed,
            model.crosshair_changed,
        ):
            signal.connect(self._update)
        for signal in (
            model.window_changed,
            model.view_changed,
            model.ruler_changed,
            model.layout_changed,
            model.check_changed,
        ):
            signal.connect(self.viewport().update)
        model.overlay_changed.connect(self._update)
        for signal in (model.labels_changed, model.other_changed):
            signal.connect(self._forget_masks)
        model.labels_edited.connect(self._see_edit)
        self._update()

    # The tool in hand

    @property
    def tool(self) -> Tool | None:
        """What a press does here; None for crosshair, window and pan alone."""
        return self._tool

    @tool.setter
    def tool(self, tool: Tool | None) -> None:
        self._tool, self._tool_holds = tool, False
        self.setCursor(self._usual_cursor())
        self.repaint_tool()

    def repaint_tool(self) -> None:
        """Have the tool paint again."""
        self.viewport().update()

    def _place_at(self, position: QPointF) -> tuple[Point, Voxel] | None:
        """The world position and the displayed grid's voxel under a pixel; None without a picture."""
        cut, world = self.cut, self.world_at(position)
        if cut is None or world is None:
            return None
        i, j, k = np.rint(cut.grid.to_voxel(world[None])[0]).astype(int)
        return world, (int(i), int(j), int(k))

    def _press_tool(self, event: QMouseEvent) -> bool:
        place = self._place_at(event.position())
        self._tool_holds = (
            self._tool is not None
            and place is not None
            and self._tool.press(self, *place, event.button(), event.modifiers())
        )
        self._tool_button = event.button()
        return self._tool_holds

    # What is drawn

    @property
    def plane(self) -> Plane:
        """Which plane is cut."""
        return self._plane

    @property
    def side(self) -> Side:
        """Which side of a comparison is shown."""
        return self._side

    def show_plane(self, plane: Plane, side: Side = Side.MAIN, title: str = "", swiping: bool = False) -> None:
        """Cut another plane, or show the other side of a comparison, or both with a line to draw across."""
        self._plane, self._side, self.title, self._swiping = plane, side, title, swiping
        self._update()

    @property
    def key(self) -> LayerKey | None:
        """The layer drawn here."""
        return self._key if self._key is not None else self.model.shown

    @property
    def layer(self) -> Layer | None:
        """The layer drawn here."""
        return self.model.layer_of(self._side, self.key)

    @property
    def cut(self) -> Cut | None:
        """How the displayed grid lies on this view."""
        return self._cut_of(self.layer)

    def _cut_of(self, layer: Layer | None) -> Cut | None:
        model = self.model
        return cut_of(layer.volume.grid, self._plane, model.radiological, model.nose_left) if layer else None

    @property
    def index(self) -> int | None:
        """The array index of the slice drawn."""
        cut = self.cut
        return cut.index_of(self.model.crosshair) if cut is not None else None

    def fitting_scale(self) -> float:
        """Pixels per mm at which the whole head just fits."""
        cut = self.cut
        if cut is None:
            return 1.0
        low, high = self.model.content_mm
        corners = [cut.to_screen(np.array([x, y, z])) for x in (low[0], high[0]) for y in (low[1], high[1])
                   for z in (low[2], high[2])]  # fmt: skip
        width, height = np.ptp(np.array(corners), axis=0)
        room_x = max(40, self.viewport().width() - 2 * MARGIN_PX)
        room_y = max(40, self.viewport().height() - 2 * MARGIN_PX)
        return float(min(room_x / max(width, 1e-6), room_y / max(height, 1e-6)))

    def set_scale(self, px_per_mm: float) -> None:
        """The scale at zoom 1, which planes side by side share."""
        self._px_per_mm = px_per_mm
        self.viewport().update()

    def set_fade(self, amount: float) -> None:
        """How much of a new overlay is to be seen yet, 0..1."""
        self._fade = amount
        self.viewport().update()

    @property
    def px_per_mm(self) -> float:
        """The scale as drawn."""
        return self._px_per_mm * self.model.zoom

    def frame(self, side: Side | None = None) -> Frame | None:
        """What is to be painted, of this view's side or of another; None where there is nothing."""
        side = self._side if side is None else side
        key, layer = self.key, self.model.layer_of(side, self.key)
        cut = self._cut_of(layer)
        if key is None or layer is None or cut is None:
            return None
        scale = self.px_per_mm
        x, y = cut.to_screen(self.model.centre)
        area = QRectF(self.viewport().rect())
        middle = self.viewport().rect().center()
        return Frame(
            model=self.model,
            side=side,
            key=key,
            layer=layer,
            cut=cut,
            index=cut.index_of(self.model.crosshair),
            left=middle.x() + 0.5 - x * scale,
            top=middle.y() + 0.5 - y * scale,
            px_per_mm=scale,
            area=area,
            ratio=self.devicePixelRatioF(),
            fade=self._fade,
        )

    def _forget_masks(self) -> None:
        for layers in self._layers.values():
            layers.masks.forget()
        self._update()

    def _see_edit(self, box: Box) -> None:
        """The label map changed in place: only views whose slice lies in the box look again."""
        cut, index, labels = self.cut, self.index, self.model.labels
        if cut is None or index is None or labels is None:
            return
        if labels.grid.same_as(cut.grid) and not box[cut.normal].start <= index < box[cut.normal].stop:
            return
        for layers in self._layers.values():
            layers.masks.forget()
        self.viewport().update()

    def _update(self) -> None:
        cut, index = self.cut, self.index
        self.slider.setVisible(cut is not None)
        if cut is not None and index is not None:
            self.slider.show_slices(cut, index, self.model.mask_of(self._side), self.model.overlay)
            self._describe(cut, index)
        self.viewport().update()

    def _describe(self, cut: Cut, index: int) -> None:
        self.setAccessibleName(f"{self.title} {self._plane.title} view".strip())
        x, y, z = self.model.crosshair
        words = (
            f"{self._plane.title} slice {cut.number_of(index)} of {cut.grid.shape[cut.normal]}, crosshair at "
            f"{abs(x):.0f} mm {'right' if x >= 0 else 'left'}, {abs(y):.0f} mm {'front' if y >= 0 else 'back'}, "
            f"{abs(z):.0f} mm {'up' if z >= 0 else 'down'}"
        )
        voxel, mask, layer = self.model.voxel(), self.model.mask_of(self._side), self.layer
        if mask is not None and voxel is not None and layer is not None:
            labels = mask.labels
            if labels.grid.same_as(layer.volume.grid):
                label = int(labels.data[voxel])
                words += ", in the tumour core" if label == TUMOUR_CORE else ", in the whole tumour" if label else ""
        self.setAccessibleDescription(words)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        # Black, not the panel's colour: the picture is the brightest thing on the screen.
        painter.fillRect(self.viewport().rect(), QColor("black"))
        frame = self.frame()
        if frame is not None:
            if self._swiping and self.model.check is None:
                self._paint_swiped(painter)
            else:
                self._layers[self._side].paint(painter, frame)
                if self._has_swipe:
                    self._paint_swipe_line(painter)
            self._marks.paint(painter, frame, self.line_of_text(frame))
            if self.model.ruler is not None:
                paint_ruler(painter, frame, self.model.ruler)
            if self._tool is not None:
                painter.save()
                painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
                self._tool.paint(painter, self)
                painter.restore()
        if self._by_key and self.hasFocus():
            painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
            painter.setPen(QPen(self.palette().highlight().color(), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(self.viewport().rect().adjusted(0, 0, -1, -1))

    def _paint_swiped(self, painter: QPainter) -> None:
        """The main side left of the line, the other right of it."""
        area, x = QRectF(self.viewport().rect()), self._swipe_x()
        halves = {Side.MAIN: QRectF(0, 0, x, area.height()), Side.OTHER: area.adjusted(x, 0, 0, 0)}
        for side, half in halves.items():
            frame = self.frame(side)
            if frame is not None:
                painter.save()
                painter.setClipRect(half)
                self._layers[side].paint(painter, frame)
                painter.restore()
        self._paint_swipe_line(painter)

    @property
    def _has_swipe(self) -> bool:
        """Whether there is a line to draw across the picture: between two results, or two pictures of a scan."""
        check = self.model.check
        return self._swiping if check is None else check.way is Way.SWIPE

    def _paint_swipe_line(self, painter: QPainter) -> None:
        area, x = QRectF(self.viewport().rect()), self._swipe_x()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        painter.setPen(QPen(SOFT_WHITE, 1.5))
        painter.drawLine(QPointF(x, 0), QPointF(x, area.height()))
        painter.setBrush(QColor("black"))
        handle = QPointF(x, area.height() * 0.75)
        painter.drawEllipse(handle, 9, 9)
        for turn in (-1, 1):
            painter.drawPolyline([handle + QPointF(turn * 2.5, -3), handle + QPointF(turn * 5.5, 0),
                                  handle + QPointF(turn * 2.5, 3)])  # fmt: skip

    def _swipe_x(self) -> float:
        return float(round(self.model.swipe * self.viewport().width()))

    def line_of_text(self, frame: Frame) -> str:
        """Slice and state, in as many words as there is room for left of the letter on top."""
        cut, model = frame.cut, self.model
        title = model.check.title if model.check is not None else self.title
        number = f"{cut.number_of(frame.index)} / {cut.grid.shape[cut.normal]}"
        if self._plane is Plane.SAGITTAL:
            state = short = "Nose left" if model.nose_left else "Nose right"
        else:
            state, short = ("Radiological", "R | L") if model.radiological else ("Neurological", "L | R")
        raw = [] if model.interpolated else ["Voxels"]
        metrics = QFontMetricsF(body_font(LABEL_PX))
        room = frame.area.width() / 2 - 24
        choices = (
            [title, f"{self._plane.title}  {number}", state, *raw],
            [title, f"{self._plane.title}  {number}", short, *raw],
            [title, number, short, *raw],
        )
        words = [GAP_IN_WORDS.join(part for part in choice if part) for choice in choices]
        fitting = next((w for w in words if metrics.horizontalAdvance(w) <= room), None)
        if fitting is not None or not title:
            return fitting or words[-1]
        # The number and the side are never left out; a long name is.
        rest = GAP_IN_WORDS + GAP_IN_WORDS.join((number, short, *raw))
        name = metrics.elidedText(title, Qt.TextElideMode.ElideRight, room - metrics.horizontalAdvance(rest))
        return (name + rest).strip()

    # Pointer and keys

    def world_at(self, position: QPointF) -> Point | None:
        """The world position in mm under a pixel of this view, on the slice drawn."""
        frame = self.frame()
        if frame is None:
            return None
        x, y = (position.x() - frame.left) / frame.px_per_mm, (position.y() - frame.top) / frame.px_per_mm
        return frame.cut.to_world(x, y, frame.index)

    def pixel_of(self, world: Point) -> QPointF | None:
        """Where a world position in mm is drawn."""
        frame = self.frame()
        return frame.pixel_of(world) if frame is not None else None

    def _go_to_number(self, number: int) -> None:
        cut, index = self.cut, self.index
        if cut is not None and index is not None:
            self.model.step(self._plane, number - cut.number_of(index))

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.accept()
        self._wheel += event.angleDelta().y() or event.angleDelta().x()
        steps = int(self._wheel / WHEEL_STEP)
        self._wheel -= steps * WHEEL_STEP
        if steps and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self._zoom(1.2**steps, event.position())
        elif steps:
            self.model.step(self._plane, steps)

    def _zoom(self, factor: float, position: QPointF) -> None:
        fixed = self.world_at(position)
        if fixed is None:
            return
        before, centre = self.model.zoom, self.model.centre
        self.model.set_view(before * factor, centre)
        # What was under the pointer stays under it.
        self.model.set_view(self.model.zoom, fixed + (centre - fixed) * (before / self.model.zoom))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        event.accept()
        self._by_key = False
        self._last = event.position()
        if self._near_swipe(event.position()) and event.button() == Qt.MouseButton.LeftButton:
            self._swipe_held = True
            return
        if self._tool_holds or self._press_tool(event):
            return
        self._held = event.button()
        if self._key is not None:
            # The diagrams and the read-out speak of the sequence that was pressed.
            self.model.show(self._key)
        if self._held == Qt.MouseButton.LeftButton and event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            # Trackpads have no middle button.
            self._held = Qt.MouseButton.MiddleButton
        if self._held == Qt.MouseButton.LeftButton:
            self._point_at(event.position())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        event.accept()
        self.model.point_at(self.world_at(event.position()))
        if self._swipe_held:
            self.model.set_layout(swipe=event.position().x() / max(1, self.viewport().width()))
            return
        if self._has_swipe and not event.buttons():
            near = self._near_swipe(event.position())
            self.setCursor(Qt.CursorShape.SplitHCursor if near else self._usual_cursor())
        if self._tool is not None and (self._tool_holds or not event.buttons()):
            place = self._place_at(event.position())
            if place is not None and self._tool_holds:
                self._tool.move(self, *place, event.buttons(), event.modifiers())
            elif place is not None:
                self._tool.hover(self, *place, event.modifiers())
            return
        moved = event.position() - self._last
        if self._held == Qt.MouseButton.LeftButton:
            self._point_at(event.position())
        elif self._held == Qt.MouseButton.RightButton:
            self._change_window(moved)
        elif self._held == Qt.MouseButton.MiddleButton:
            here, before = self.world_at(event.position()), self.world_at(self._last)
            if here is not None and before is not None:
                self.model.set_view(self.model.zoom, self.model.centre - (here - before))
        self._last = event.position()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        event.accept()
        self._held = Qt.MouseButton.NoButton
        self._swipe_held = False
        place = self._place_at(event.position())
        if self._tool is not None and self._tool_holds and place is not None:
            # Another button that goes down and up meanwhile is not the tool's.
            self._tool_holds = bool(event.buttons() & self._tool_button)
            if not self._tool_holds:
                self._tool.release(self, *place, event.button(), event.modifiers())

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        event.accept()
        if self._tool_holds or self._press_tool(event):
            return
        if event.button() == Qt.MouseButton.LeftButton:
            self.enlarged.emit(self)
        elif event.button() == Qt.MouseButton.RightButton:
            self.model.reset_window(self.key)
        elif event.button() == Qt.MouseButton.MiddleButton:
            self.model.fit()

    def _near_swipe(self, position: QPointF) -> bool:
        return self._has_swipe and abs(position.x() - self._swipe_x()) <= SWIPE_REACH_PX

    def _usual_cursor(self) -> Qt.CursorShape | QCursor:
        return self._tool.cursor if self._tool is not None else Qt.CursorShape.CrossCursor

    def _point_at(self, position: QPointF) -> None:
        world = self.world_at(position)
        if world is not None:
            self.model.move_crosshair(world)

    def _change_window(self, moved: QPointF) -> None:
        layer, key = self.layer, self.key
        if layer is None or key is None:
            return
        window = self.model.window_of(key)
        per_pixel = (layer.span[1] - layer.span[0]) / 400
        # As in the viewers of radiology: to the right is wider, upwards is brighter.
        wider = Window(window.width + moved.x() * per_pixel, window.level + moved.y() * per_pixel)
        self.model.set_window(wider, key)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        cut, index = self.cut, self.index
        key = event.key()
        arrows = {Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1)}
        if cut is None or index is None or key not in arrows:
            super().keyPressEvent(event)
            return
        event.accept()
        by = 10 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1
        across, down = arrows[Qt.Key(key)]
        spacing = cut.grid.spacing
        x, y = cut.to_screen(self.model.crosshair)
        x += across * by * spacing[cut.columns[0]]
        y += down * by * spacing[cut.rows[0]]
        self.model.move_crosshair(cut.to_world(x, y, index))

    def enterEvent(self, event: QEnterEvent) -> None:
        self.entered.emit(self)
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        self.model.point_at(None)
        if self._tool is not None:
            self._tool.hover(self, None, None, Qt.KeyboardModifier.NoModifier)
        super().leaveEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        self._by_key = event.reason() in (
            Qt.FocusReason.TabFocusReason,
            Qt.FocusReason.BacktabFocusReason,
            Qt.FocusReason.ShortcutFocusReason,
        )
        self.entered.emit(self)
        super().focusInEvent(event)
        self.viewport().update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.slider.setGeometry(self.width() - self.slider.width(), 0, self.slider.width(), self.height())
        self.resized.emit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.FontChange):
            self.viewport().update()
