"""One plane of the patient on screen.

The only place besides the readers where axes are swapped and flipped: `Cut` says which array axis runs along the
screen and in which direction, everything above it speaks of the patient in mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QCursor,
    QEnterEvent,
    QFocusEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPen,
    QResizeEvent,
    QTransform,
    QWheelEvent,
)
from PySide6.QtWidgets import (
    QGraphicsItem,
    QGraphicsPathItem,
    QGraphicsScene,
    QGraphicsView,
    QStyleOptionGraphicsItem,
    QWidget,
)

from app.theme import LABEL_PX, body_font
from app.viewer_model import Layer, LayerKey, Overlay, Plane, Point, ViewerModel, Window
from engine.volume import TUMOUR_CORE, Grid, LabelArray

_Scalar = TypeVar("_Scalar", bound=np.generic)
Voxel = tuple[int, int, int]

# Room for the letters on each side of the head.
MARGIN_PX = 26
LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
GREYS = [0xFF000000 | level << 16 | level << 8 | level for level in range(256)]
SOFT_WHITE = QColor(255, 255, 255, 179)
HAIRLINE = QColor(226, 232, 240, 153)
CROSSHAIR_GAP_PX = 12
WHEEL_STEP = 120


@dataclass(frozen=True)
class Cut:
    """How one plane of a grid lies on the screen.

    Screen coordinates are mm from the picture's top left corner, x to the right and y down. Oblique grids are cut along
    their own axes, named by the anatomical ones they are nearest to.

    Attributes:
        grid: What is cut.
        plane: Along which cut.
        radiological: Whether the patient's left is on the right of the screen (axial and coronal).
        normal: The array axis that the plane cuts through.
        columns: The array axis along the screen's x, and whether it runs against the array.
        rows: The array axis along the screen's y, and whether it runs against the array.
        upwards: Whether slices are stored towards right, front and head.
    """

    grid: Grid
    plane: Plane
    radiological: bool = True

    normal: int = field(init=False)
    columns: tuple[int, bool] = field(init=False)
    rows: tuple[int, bool] = field(init=False)
    upwards: bool = field(init=False)

    def __post_init__(self) -> None:
        axes, signs = self.grid.nearest_axes()
        across = 1 if self.plane is Plane.SAGITTAL else 0
        along = 1 if self.plane is Plane.AXIAL else 2
        column, row, normal = axes.index(across), axes.index(along), axes.index(self.plane.value)
        # The face looks to the left in either convention, as on film.
        towards_left = self.plane is Plane.SAGITTAL or self.radiological
        object.__setattr__(self, "normal", normal)
        object.__setattr__(self, "columns", (column, (signs[column] > 0) == towards_left))
        object.__setattr__(self, "rows", (row, signs[row] > 0))
        object.__setattr__(self, "upwards", signs[normal] > 0)

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the picture."""
        column, row = self.columns[0], self.rows[0]
        return (
            self.grid.shape[column] * self.grid.spacing[column],
            self.grid.shape[row] * self.grid.spacing[row],
        )

    def extract(self, data: NDArray[_Scalar], index: int) -> NDArray[_Scalar]:
        """The slice as a picture ``(rows, columns)``, first row on top; a view of ``data`` ``(I, J, K)``."""
        picture: NDArray[_Scalar] = np.moveaxis(data, self.normal, 0)[index]
        (column, columns_flipped), (row, rows_flipped) = self.columns, self.rows
        if column < row:
            picture = picture.T
        if rows_flipped:
            picture = picture[::-1]
        return picture[:, ::-1] if columns_flipped else picture

    def to_screen(self, world: Point) -> tuple[float, float]:
        """Where a world position ``(3,)`` in mm is drawn."""
        voxel = self.grid.to_voxel(np.asarray(world)[None])[0]
        return self._along(voxel, *self.columns), self._along(voxel, *self.rows)

    def _along(self, voxel: Point, axis: int, flipped: bool) -> float:
        position = self.grid.shape[axis] - 1 - voxel[axis] if flipped else voxel[axis]
        return float((position + 0.5) * self.grid.spacing[axis])

    def to_world(self, x: float, y: float, index: float) -> Point:
        """The world position ``(3,)`` in mm that is drawn at a place of slice ``index``."""
        voxel = np.empty(3)
        voxel[self.normal] = index
        for value, (axis, flipped) in ((x, self.columns), (y, self.rows)):
            position = value / self.grid.spacing[axis] - 0.5
            voxel[axis] = self.grid.shape[axis] - 1 - position if flipped else position
        world: Point = self.grid.to_world(voxel[None])[0]
        return world

    def index_of(self, world: Point) -> int:
        """The slice nearest to a world position."""
        voxel = self.grid.to_voxel(np.asarray(world)[None])[0]
        return int(np.clip(round(voxel[self.normal]), 0, self.grid.shape[self.normal] - 1))

    def number_of(self, index: int) -> int:
        """The slice's number for people: from 1, counted towards right, front and head."""
        return index + 1 if self.upwards else self.grid.shape[self.normal] - index

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """What the left, right, top and bottom edges face."""
        if self.plane is Plane.SAGITTAL:
            left, right = "A", "P"
        else:
            left, right = ("R", "L") if self.radiological else ("L", "R")
        top, bottom = ("A", "P") if self.plane is Plane.AXIAL else ("S", "I")
        return left, right, top, bottom

    def sample(self, data: NDArray[_Scalar], grid: Grid, index: int) -> NDArray[_Scalar]:
        """The slice of ``data`` on another ``grid``, nearest neighbour, zero outside; ``(rows, columns)``."""
        columns = self.grid.shape[self.columns[0]]
        rows = self.grid.shape[self.rows[0]]
        width, height = self.size_mm
        origin = self.to_world(width / columns / 2, height / rows / 2, index)
        right = (self.to_world(width - width / columns / 2, height / rows / 2, index) - origin) / max(1, columns - 1)
        down = (self.to_world(width / columns / 2, height - height / rows / 2, index) - origin) / max(1, rows - 1)
        steps = np.arange(rows)[:, None, None] * down + np.arange(columns)[None, :, None] * right
        voxels = np.rint(grid.to_voxel((origin + steps).reshape(-1, 3))).astype(np.intp)
        inside = np.all((voxels >= 0) & (voxels < np.array(grid.shape)), axis=1)
        picture = np.zeros(rows * columns, dtype=data.dtype)
        picture[inside] = data[tuple(voxels[inside].T)]
        return picture.reshape(rows, columns)


@lru_cache(maxsize=32)
def cut_of(grid: Grid, plane: Plane, radiological: bool) -> Cut:
    """The `Cut`, worked out once for each grid on screen: it is asked for at every move of the pointer."""
    return Cut(grid, plane, radiological)


def greys(picture: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    """What a slice looks like through a window: ``(rows, columns)`` uint8, contiguous."""
    scaled = (picture - np.float32(window.low)) * np.float32(255.0 / window.width)
    return np.ascontiguousarray(np.clip(scaled, 0, 255).astype(np.uint8))


def outline(mask: NDArray[np.bool_], width: float, height: float) -> QPainterPath:
    """The edges between a mask and what is not mask, along the voxels' sides.

    Args:
        mask: ``(rows, columns)``.
        width: Of one column, in mm.
        height: Of one row, in mm.
    """
    path = QPainterPath()
    padded = np.pad(mask, 1)
    rows, columns = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    for column, start, stop in _runs(columns, rows):
        path.moveTo(column * width, start * height)
        path.lineTo(column * width, stop * height)
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    for row, start, stop in _runs(rows, columns):
        path.moveTo(start * width, row * height)
        path.lineTo(stop * width, row * height)
    return path


def _runs(lines: NDArray[np.intp], places: NDArray[np.intp]) -> list[tuple[int, int, int]]:
    """Neighbouring places on one line joined to ``(line, first, one after the last)``."""
    if lines.size == 0:
        return []
    order = np.lexsort((places, lines))
    lines, places = lines[order], places[order]
    breaks = np.flatnonzero((np.diff(lines) != 0) | (np.diff(places) != 1)) + 1
    first, last = np.r_[0, breaks], np.r_[breaks, lines.size] - 1
    return list(zip(lines[first].tolist(), places[first].tolist(), (places[last] + 1).tolist(), strict=True))


def coloured(picture: NDArray[np.uint8], colours: list[int]) -> QImage:
    """Bytes ``(rows, columns)``, contiguous, seen through a table of 256 ARGB colours."""
    rows, columns = picture.shape
    image = QImage(picture.data, columns, rows, columns, QImage.Format.Format_Indexed8)
    image.setColorTable(colours)
    # Qt does not keep the array alive; what is returned is a copy of its own.
    return image.convertToFormat(QImage.Format.Format_ARGB32_Premultiplied)


def mask_colours(overlay: Overlay) -> list[int]:
    """The table of 256 ARGB colours that a mask's fill is drawn with."""
    alpha = round(255 * overlay.opacity) if overlay.filled else 0
    table = [0] * 256
    if overlay.whole_tumour_shown:
        table[1:] = [_argb(QColor(overlay.whole_tumour), alpha)] * 255
    if overlay.core_shown:
        table[TUMOUR_CORE] = _argb(QColor(overlay.core), alpha)
    return table


class _Picture(QGraphicsItem):
    """A slice of bytes shown through a table of 256 colours; smoothed, or, for masks, never.

    Args:
        smooth: Whether pixels are interpolated.
    """

    def __init__(self, smooth: bool) -> None:
        super().__init__()
        self._smooth = smooth
        self._image = QImage()
        self._place = QRectF()

    def show_bytes(self, picture: NDArray[np.uint8], colours: list[int], place: QRectF) -> None:
        """Draw ``picture`` ``(rows, columns)``, contiguous, over ``place``; ``colours`` are 256 ARGB values."""
        self._image = coloured(picture, colours)
        if place != self._place:
            self.prepareGeometryChange()
            self._place = place
        self.update()

    def clear(self) -> None:
        """Draw nothing."""
        self._image = QImage()
        self.update()

    def boundingRect(self) -> QRectF:
        return self._place

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        if not self._image.isNull():
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self._smooth)
            painter.drawImage(self._place, self._image)


class _Sheet(QGraphicsItem):
    """Holds the pictures; its transform takes mm to pixels."""

    def boundingRect(self) -> QRectF:
        return QRectF()

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        """Nothing of its own."""


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


class SliceView(QGraphicsView):
    """One plane, drawn from a `ViewerModel` and writing the pointer's and the keys' wishes into it.

    Signals:
        resized: It has another size, so the scale all planes share is worked out anew.
        enlarged: A double click asked for one big view, or for the way back.
        entered: The pointer or the focus came here.
    """

    resized = Signal()
    enlarged = Signal(object)
    entered = Signal(object)

    def __init__(self, model: ViewerModel, plane: Plane, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model = model
        self.plane = plane
        self._px_per_mm = 1.0
        self._wheel = 0
        self._held = Qt.MouseButton.NoButton
        self._last = QPointF()
        self._drawn: tuple[object, ...] = ()
        self._by_key = False
        self._fade = 1.0
        self._tool: Tool | None = None
        self._tool_holds = False
        self._tool_button = Qt.MouseButton.NoButton

        self._scene = QGraphicsScene(self)
        self.setScene(self._scene)
        self.setFrameShape(QGraphicsView.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.setViewportUpdateMode(QGraphicsView.ViewportUpdateMode.FullViewportUpdate)
        self.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        # Black, not the panel's colour: the picture is the brightest thing on the screen.
        self.setBackgroundBrush(QColor("black"))
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setMinimumSize(120, 120)
        # The window takes what is dropped, wherever it falls.
        self.setAcceptDrops(False)
        self.viewport().setAcceptDrops(False)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        self.setAccessibleName(f"{plane.title} view")

        self._sheet = _Sheet()
        self._image = _Picture(smooth=True)
        self._mask = _Picture(smooth=False)
        self._outlines = {"whole_tumour": QGraphicsPathItem(), "core": QGraphicsPathItem()}
        self._scene.addItem(self._sheet)
        for item in (self._image, self._mask, *self._outlines.values()):
            item.setParentItem(self._sheet)
            # Events are the view's business; items that took them would swallow the wheel.
            item.setAcceptedMouseButtons(Qt.MouseButton.NoButton)
            item.setAcceptHoverEvents(False)
        for mask_outline in self._outlines.values():
            mask_outline.setBrush(Qt.BrushStyle.NoBrush)

        model.layers_changed.connect(self._redraw)
        model.shown_changed.connect(self._redraw)
        model.window_changed.connect(self._redraw)
        model.labels_changed.connect(self._redraw)
        model.overlay_changed.connect(self._redraw)
        model.convention_changed.connect(self._redraw)
        model.crosshair_changed.connect(self._redraw)
        model.view_changed.connect(self._place)
        self._redraw()

    # The tool in hand

    @property
    def tool(self) -> Tool | None:
        """What a press does here; None for crosshair, window and pan alone."""
        return self._tool

    @tool.setter
    def tool(self, tool: Tool | None) -> None:
        self._tool, self._tool_holds = tool, False
        self.setCursor(tool.cursor if tool is not None else Qt.CursorShape.CrossCursor)
        self.viewport().setMouseTracking(tool is not None)
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
    def key(self) -> LayerKey | None:
        """The layer drawn here."""
        return self.model.shown

    @property
    def layer(self) -> Layer | None:
        """The layer drawn here."""
        return self.model.layer

    @property
    def cut(self) -> Cut | None:
        """How the displayed grid lies on this view."""
        layer = self.layer
        return cut_of(layer.volume.grid, self.plane, self.model.radiological) if layer is not None else None

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
        self._place()

    def set_fade(self, amount: float) -> None:
        """How much of a new overlay is to be seen yet, 0..1."""
        self._fade = amount
        self._mask.setOpacity(amount)
        for item in self._outlines.values():
            item.setOpacity(amount)

    @property
    def px_per_mm(self) -> float:
        """The scale as drawn."""
        return self._px_per_mm * self.model.zoom

    def _redraw(self) -> None:
        cut, layer, key, index = self.cut, self.layer, self.key, self.index
        if cut is None or layer is None or key is None or index is None:
            self._drawn = ()
            self._image.clear()
            self._draw_mask(None, None)
            self.viewport().update()
            return
        window = self.model.window_of(key)
        labels = self.model.labels
        drawn = (layer, index, window, labels, self.model.overlay, self.model.radiological)
        if drawn != self._drawn:
            image_changed = drawn[:3] != self._drawn[:3] or drawn[5:] != self._drawn[5:]
            self._drawn = drawn
            width, height = cut.size_mm
            if image_changed:
                picture = greys(cut.extract(layer.volume.data, index), window)
                self._image.show_bytes(picture, GREYS, QRectF(0, 0, width, height))
            self._draw_mask(cut, index)
        self._place()
        self._describe(cut, index)

    def _draw_mask(self, cut: Cut | None, index: int | None) -> None:
        labels, overlay = self.model.labels, self.model.overlay
        if labels is None or cut is None or index is None or not overlay.visible:
            self._mask.clear()
            for item in self._outlines.values():
                item.setPath(QPainterPath())
            return
        if labels.grid.same_as(cut.grid):
            picture: LabelArray = np.ascontiguousarray(cut.extract(labels.data, index))
        else:
            picture = cut.sample(labels.data, labels.grid, index)
        width, height = cut.size_mm
        columns, rows = width / picture.shape[1], height / picture.shape[0]
        whole, core = QColor(overlay.whole_tumour), QColor(overlay.core)
        if overlay.filled and picture.any():
            self._mask.show_bytes(picture, mask_colours(overlay), QRectF(0, 0, width, height))
        else:
            self._mask.clear()
        edges = {
            "whole_tumour": (overlay.whole_tumour_shown, picture > 0, whole),
            "core": (overlay.core_shown, picture == TUMOUR_CORE, core),
        }
        for name, (shown, mask, colour) in edges.items():
            # With the fill at nothing the outline stays: opacity is about seeing the scan through the mask.
            path = outline(mask, columns, rows) if shown else QPainterPath()
            pen = QPen(colour, 1.5)
            pen.setCosmetic(True)
            self._outlines[name].setPen(pen)
            self._outlines[name].setPath(path)
        self.set_fade(self._fade)

    def _place(self) -> None:
        cut = self.cut
        if cut is not None:
            scale = self.px_per_mm
            x, y = cut.to_screen(self.model.centre)
            middle = self.viewport().rect().center()
            self._sheet.setTransform(
                QTransform(scale, 0, 0, scale, middle.x() + 0.5 - x * scale, middle.y() + 0.5 - y * scale)
            )
        self.viewport().update()

    def _describe(self, cut: Cut, index: int) -> None:
        x, y, z = self.model.crosshair
        words = (
            f"{self.plane.title} slice {cut.number_of(index)} of {cut.grid.shape[cut.normal]}, crosshair at "
            f"{abs(x):.0f} mm {'right' if x >= 0 else 'left'}, {abs(y):.0f} mm {'front' if y >= 0 else 'back'}, "
            f"{abs(z):.0f} mm {'up' if z >= 0 else 'down'}"
        )
        voxel, labels, layer = self.model.voxel(), self.model.labels, self.layer
        if labels is not None and voxel is not None and layer is not None and labels.grid.same_as(layer.volume.grid):
            label = int(labels.data[voxel])
            words += ", in the tumour core" if label == TUMOUR_CORE else ", in the whole tumour" if label else ""
        self.setAccessibleDescription(words)

    # Letters, crosshair, scale bar

    def drawForeground(self, painter: QPainter, rect: QRectF | object) -> None:
        cut, index = self.cut, self.index
        if cut is None or index is None:
            return
        area = QRectF(self.viewport().rect())
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        self._draw_crosshair(painter, cut, area)
        painter.setRenderHint(QPainter.RenderHint.TextAntialiasing, True)
        self._draw_letters(painter, cut, area)
        self._draw_line_of_text(painter, cut, index, area)
        self._draw_scale_bar(painter, area)
        if self._tool is not None:
            painter.save()
            painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
            self._tool.paint(painter, self)
            painter.restore()
        if self._by_key and self.hasFocus():
            painter.setPen(QPen(self.palette().highlight().color(), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(area.adjusted(0, 0, -1, -1))
        painter.restore()

    def _draw_crosshair(self, painter: QPainter, cut: Cut, area: QRectF) -> None:
        x, y = cut.to_screen(self.model.crosshair)
        point = self._sheet.transform().map(QPointF(x, y))
        column, row, gap = math.floor(point.x()), math.floor(point.y()), CROSSHAIR_GAP_PX
        painter.setPen(QPen(HAIRLINE, 1))
        for a, b in ((area.left(), column - gap), (column + gap, area.right())):
            if b > a:
                painter.drawLine(QPointF(a, row), QPointF(b, row))
        for a, b in ((area.top(), row - gap), (row + gap, area.bottom())):
            if b > a:
                painter.drawLine(QPointF(column, a), QPointF(column, b))

    def _draw_letters(self, painter: QPainter, cut: Cut, area: QRectF) -> None:
        left, right, top, bottom = cut.letters
        layer = self.layer
        if layer is not None and not layer.volume.oriented:
            # The file does not say how the patient lay: a letter without its question mark would be a claim.
            left, right, top, bottom = left + "?", right + "?", top + "?", bottom + "?"
        painter.setFont(body_font(12, medium=True))
        box = area.adjusted(7, 4, -7, -4)
        for text, where in (
            (left, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter),
            (right, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter),
            (top, Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignHCenter),
            (bottom, Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignHCenter),
        ):
            bounds = painter.boundingRect(box, int(where), text)
            # The crosshair may run through a letter; black behind it keeps it readable.
            painter.fillRect(bounds.adjusted(-2, 0, 2, 0), QColor(0, 0, 0, 150))
            painter.setPen(SOFT_WHITE)
            painter.drawText(bounds, int(where), text)

    def _draw_line_of_text(self, painter: QPainter, cut: Cut, index: int, area: QRectF) -> None:
        words = f"{self.plane.title}  {cut.number_of(index)} / {cut.grid.shape[cut.normal]}"
        side = "Radiological" if self.model.radiological else "Neurological"
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(SOFT_WHITE)
        # In a narrow view the long word would run into the letter on top.
        room = area.width() / 2 - 24
        if painter.fontMetrics().horizontalAdvance(f"{words}   {side}") > room:
            side = "R | L" if self.model.radiological else "L | R"
        box = area.adjusted(10, 8, -10, -8)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop), f"{words}   {side}")

    def _draw_scale_bar(self, painter: QPainter, area: QRectF) -> None:
        length, words = scale_bar(area.width() / self.px_per_mm)
        pixels = length * self.px_per_mm
        y, right = area.bottom() - 12, area.right() - 12
        painter.setPen(QPen(SOFT_WHITE, 1))
        painter.drawLine(QPointF(right - pixels, y), QPointF(right, y))
        for x in (right - pixels, right):
            painter.drawLine(QPointF(x, y - 3), QPointF(x, y + 3))
        painter.setFont(body_font(LABEL_PX))
        box = QRectF(right - pixels - 60, y - 10, 52, 20)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), words)

    # Pointer and keys

    def world_at(self, position: QPointF) -> Point | None:
        """The world position in mm under a pixel of this view, on the slice drawn."""
        cut, index = self.cut, self.index
        inverse, invertible = self._sheet.transform().inverted()
        if cut is None or index is None or not invertible:
            return None
        point = inverse.map(position)
        return cut.to_world(point.x(), point.y(), index)

    def pixel_of(self, world: Point) -> QPointF | None:
        """Where a world position in mm is drawn."""
        cut = self.cut
        return self._sheet.transform().map(QPointF(*cut.to_screen(world))) if cut is not None else None

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.accept()
        self._wheel += event.angleDelta().y() or event.angleDelta().x()
        steps = int(self._wheel / WHEEL_STEP)
        self._wheel -= steps * WHEEL_STEP
        if steps and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self._zoom(1.2**steps, event.position())
        elif steps:
            self.model.step(self.plane, steps)

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
        if self._tool_holds or self._press_tool(event):
            return
        self._held = event.button()
        if self._held == Qt.MouseButton.LeftButton and event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            # Trackpads have no middle button.
            self._held = Qt.MouseButton.MiddleButton
        if self._held == Qt.MouseButton.LeftButton:
            self._point_at(event.position())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        event.accept()
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
            self.model.reset_window()
        elif event.button() == Qt.MouseButton.MiddleButton:
            self.model.fit()

    def _point_at(self, position: QPointF) -> None:
        world = self.world_at(position)
        if world is not None:
            self.model.move_crosshair(world)

    def _change_window(self, moved: QPointF) -> None:
        layer, window = self.layer, self.model.window
        if layer is None or window is None:
            return
        per_pixel = (layer.span[1] - layer.span[0]) / 400
        # As in the viewers of radiology: to the right is wider, upwards is brighter.
        self.model.set_window(Window(window.width + moved.x() * per_pixel, window.level + moved.y() * per_pixel))

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
        spacing = self.model.layer.volume.grid.spacing if self.model.layer else (1.0, 1.0, 1.0)
        x, y = cut.to_screen(self.model.crosshair)
        x += across * by * spacing[cut.columns[0]]
        y += down * by * spacing[cut.rows[0]]
        self.model.move_crosshair(cut.to_world(x, y, index))

    def enterEvent(self, event: QEnterEvent) -> None:
        self.entered.emit(self)
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
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
        self._scene.setSceneRect(QRectF(self.viewport().rect()))
        self._place()
        self.resized.emit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.FontChange):
            self.viewport().update()


def _argb(colour: QColor, alpha: int) -> int:
    return alpha << 24 | colour.red() << 16 | colour.green() << 8 | colour.blue()


def scale_bar(width_mm: float) -> tuple[float, str]:
    """A round length in mm of at most a quarter of the width, and its name."""
    for length in (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0):
        if length <= width_mm / 4:
            return length, f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"
    return 1.0, "1 mm"
