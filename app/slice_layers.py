"""What is painted on a slice, one class a layer: the scan, a map over it, the masks, and the marks around them.

Each is given a `Frame`, which says what is shown and where, and keeps what it made of it until the frame differs in
something it depends on. None of them knows of pointers, keys or widgets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QImage, QLinearGradient, QPainter, QPen

from app.theme import CHECK, DISAGREEMENT, LABEL_PX, body_font
from app.viewer_model import (
    Check,
    Layer,
    LayerKey,
    Map,
    Mask,
    Overlay,
    Picture,
    Point,
    Ruler,
    Side,
    ViewerModel,
    Way,
    Window,
)
from engine.cut import Cut, scale_bar
from engine.volume import TUMOUR_CORE, FloatArray, Grid, LabelArray, LabelMap, Sequence, Volume

GREYS = [0xFF000000 | level << 16 | level << 8 | level for level in range(256)]
SOFT_WHITE = QColor(255, 255, 255, 179)
HAIRLINE = QColor(226, 232, 240, 153)
# Behind words that lie on the picture.
SHADE = QColor(0, 0, 0, 150)
CROSSHAIR_GAP_PX = 12
OUTLINE_PX = 1.5
GAP_BETWEEN_DASHES = 0xB0000000
# Of a checkerboard, about as wide as a ventricle: a shift of two millimetres breaks the lines that cross its edges.
SQUARE_MM = 24.0
EDGES_FINE = 2
EDGE_SIGMA = 2.2
EDGE_QUANTILE = 0.72


@dataclass(frozen=True, eq=False)
class Frame:
    """One side of a slice as it is to be painted.

    Attributes:
        model: What is on screen.
        side: Which side of a comparison.
        key: Of the scan.
        layer: The scan.
        cut: How it lies on the screen.
        index: The array index of the slice.
        left: The picture's left edge in pixels of the view.
        top: Its top edge.
        px_per_mm: The scale.
        area: What there is to paint on, in pixels of the view.
        ratio: Pixels of the screen in one of the view.
        fade: How much of a new overlay is to be seen yet, 0..1.
    """

    model: ViewerModel
    side: Side
    key: LayerKey
    layer: Layer
    cut: Cut
    index: int
    left: float
    top: float
    px_per_mm: float
    area: QRectF
    ratio: float
    fade: float = 1.0

    @property
    def place(self) -> QRectF:
        """Where the picture lies, in pixels of the view."""
        width, height = self.cut.size_mm
        return QRectF(self.left, self.top, width * self.px_per_mm, height * self.px_per_mm)

    def pixel_of(self, world: Point) -> QPointF:
        """Where a world position ``(3,)`` in mm is drawn."""
        x, y = self.cut.to_screen(world)
        return QPointF(self.left + x * self.px_per_mm, self.top + y * self.px_per_mm)

    def slice_of(self, data: NDArray[np.generic], grid: Grid) -> NDArray[np.generic]:
        """The slice of an array on this or on another grid, ``(rows, columns)``."""
        if grid is self.cut.grid or grid.same_as(self.cut.grid):
            return self.cut.extract(data, self.index)
        return self.cut.sample(data, grid, self.index)


def greys(picture: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    """What a slice looks like through a window: ``(rows, columns)`` uint8, contiguous."""
    # In the order in which the voxels lie in memory, which for a transposed slice is half the time.
    scaled = np.subtract(picture, np.float32(window.low))
    scaled *= np.float32(255.0 / window.width)
    return np.ascontiguousarray(np.clip(scaled, 0, 255, out=scaled).astype(np.uint8))


def coloured(picture: NDArray[np.uint8], colours: list[int]) -> QImage:
    """Bytes ``(rows, columns)``, contiguous, seen through a table of 256 ARGB colours."""
    rows, columns = picture.shape
    image = QImage(picture.data, columns, rows, columns, QImage.Format.Format_Indexed8)
    image.setColorTable(colours)
    # Qt does not keep the array alive; what is returned is a copy of its own.
    return image.convertToFormat(QImage.Format.Format_ARGB32_Premultiplied)


@lru_cache(maxsize=8)
def mask_colours(overlay: Overlay) -> list[int]:
    """The table of 256 ARGB colours that a mask's fill is drawn with."""
    alpha = round(255 * overlay.opacity) if overlay.filled else 0
    table = [0] * 256
    if overlay.whole_tumour_shown:
        table[1:] = [_argb(QColor(overlay.whole_tumour), alpha)] * 255
    if overlay.core_shown:
        table[TUMOUR_CORE] = _argb(QColor(overlay.core), alpha)
    return table


class ScanLayer:
    """The slice in greys."""

    def __init__(self) -> None:
        self._image = QImage()
        self._made_of: tuple[object, ...] = ()

    def paint(self, painter: QPainter, frame: Frame) -> None:
        """Draw the slice over its place."""
        window = frame.model.window_of(frame.key)
        made_of = (frame.layer, frame.cut, frame.index, window)
        if made_of != self._made_of:
            self._made_of = made_of
            self._image = coloured(greys(frame.cut.extract(frame.layer.volume.data, frame.index), window), GREYS)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, frame.model.interpolated)
        painter.drawImage(frame.place, self._image)


class MapLayer:
    """A probability or the uncertainty, stronger where it is larger."""

    def __init__(self) -> None:
        self._image = QImage()
        self._made_of: tuple[object, ...] = ()

    def paint(self, painter: QPainter, frame: Frame) -> None:
        """Draw the map over the slice, if one is asked for and the mask has what it takes."""
        overlay, mask = frame.model.overlay, frame.model.mask_of(frame.side)
        if not overlay.visible or mask is None or not mask.probabilities or overlay.map not in RAMPS:
            return
        made_of = (mask, frame.cut, frame.index, overlay.map)
        if made_of != self._made_of:
            self._made_of = made_of
            level = np.clip(self._values(frame, mask, overlay.map) * 255.0, 0, 255).astype(np.uint8)
            self._image = coloured(np.ascontiguousarray(level), ramp())
        painter.setOpacity(frame.fade)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, frame.model.interpolated)
        painter.drawImage(frame.place, self._image)
        painter.setOpacity(1.0)

    @staticmethod
    def _values(frame: Frame, mask: Mask, kind: Map) -> FloatArray:
        grid = mask.labels.grid
        if kind is not Map.UNCERTAINTY:
            values: FloatArray = frame.slice_of(mask.probabilities[kind.value], grid)  # type: ignore[assignment]
            return values
        # 1 at a coin's throw, 0 where the network is sure; of both regions the less sure one.
        sure = [np.abs(2 * frame.slice_of(p, grid) - 1) for p in mask.probabilities.values()]
        uncertain: FloatArray = 1 - np.minimum.reduce(sure)
        return uncertain


RAMPS = (Map.WHOLE_TUMOUR, Map.CORE, Map.UNCERTAINTY)


# From nothing over violet and red to light yellow: it grows lighter all the way, so no colour has to be told apart.
_STOPS = (
    (0.0, (30, 10, 70), 0.0),
    (0.25, (92, 24, 132), 0.62),
    (0.5, (196, 52, 112), 0.8),
    (0.75, (242, 134, 62), 0.88),
    (1.0, (252, 240, 140), 0.94),
)


@lru_cache(maxsize=1)
def ramp() -> list[int]:
    """256 ARGB colours for values from 0 to 1."""
    places = [place for place, _, _ in _STOPS]
    levels = np.arange(256) / 255
    channels = [np.interp(levels, places, [colour[c] for _, colour, _ in _STOPS]) for c in range(3)]
    alpha = np.interp(levels, places, [a for _, _, a in _STOPS]) * 255
    return [_argb(QColor(round(r), round(g), round(b)), round(a)) for r, g, b, a in zip(*channels, alpha, strict=True)]


class MaskLayer:
    """The masks' fill and outline, the outline of what is compared with, and where both differ.

    Everything is worked out for the screen's own pixels with numpy: the time does not grow with a mask's raggedness,
    and edges lie on whole pixels.
    """

    def __init__(self) -> None:
        self._slices: dict[str, tuple[tuple[object, ...], LabelArray]] = {}

    def paint(self, painter: QPainter, frame: Frame) -> None:
        """Draw what the overlay asks for."""
        model, overlay = frame.model, frame.model.overlay
        mask = model.mask_of(frame.side)
        other = model.mask_of(Side.OTHER) if frame.side is Side.MAIN else None
        if model.other is not None and model.other.layers:
            other = None  # an earlier scan's tumour on today's scan would be taken for today's
        if not overlay.visible:
            return
        own = self._slice("own", frame, mask.labels if mask is not None else None)
        compared = self._slice("other", frame, other.labels if other is not None else None)
        differing = overlay.map is Map.DISAGREEMENT and own is not None and compared is not None
        outlined = compared is not None and (differing or (overlay.other_shown and overlay.map is Map.NONE))
        used = [picture for picture in (own, compared if outlined else None) if picture is not None]
        box = _box(used)
        if box is None:
            return
        pixels = _Pixels.of(frame, used[0].shape, box)
        if pixels is None:
            return
        painted = np.zeros(pixels.shape, np.uint32)
        if own is not None:
            labels = pixels.of_picture(own)
            if overlay.filled and overlay.map is Map.NONE:
                painted = _mask_values(overlay)[labels]
            if differing and compared is not None:
                painted = _difference(labels, pixels.of_picture(compared), pixels)
            if overlay.outlined or overlay.map is not Map.NONE:
                width = max(1, round(OUTLINE_PX * frame.ratio))
                for shown, inside, colour in (
                    (overlay.whole_tumour_shown, labels > 0, overlay.whole_tumour),
                    (overlay.core_shown, labels == TUMOUR_CORE, overlay.core),
                ):
                    if shown:
                        painted[edge(inside, width)] = _argb(QColor(colour), 255)
        if outlined and compared is not None:
            labels = pixels.of_picture(compared)
            for shown, inside in (
                (overlay.whole_tumour_shown, labels > 0),
                (overlay.core_shown, labels == TUMOUR_CORE),
            ):
                if shown:
                    rim = edge(inside, max(1, round(frame.ratio)))
                    # Dark between the dashes: white alone is lost on a bright scan.
                    painted[rim] = GAP_BETWEEN_DASHES
                    painted[rim & pixels.dashes] = 0xFFFFFFFF
        painter.setOpacity(frame.fade)
        pixels.draw(painter, painted, frame.ratio)
        painter.setOpacity(1.0)

    def _slice(self, name: str, frame: Frame, labels: LabelMap | None) -> LabelArray | None:
        if labels is None:
            return None
        made_of = (labels, frame.cut, frame.index)
        known = self._slices.get(name)
        if known is None or known[0] != made_of:
            picture: LabelArray = np.ascontiguousarray(frame.slice_of(labels.data, labels.grid))
            self._slices[name] = known = (made_of, picture)
        return known[1]

    def forget(self) -> None:
        """Look at the label maps again: somebody painted in them."""
        self._slices.clear()


@dataclass(frozen=True, eq=False)
class _Pixels:
    """The screen's pixels that a part of a slice covers, and which voxel lies under each."""

    x: int
    y: int
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    @classmethod
    def of(cls, frame: Frame, shape: tuple[int, ...], box: tuple[int, int, int, int]) -> _Pixels | None:
        """Pixels for a box ``(first row, after the last, first column, after the last)``; None for none on screen."""
        place, ratio = frame.place, frame.ratio
        step_y, step_x = place.height() / shape[0] * ratio, place.width() / shape[1] * ratio
        top, left = place.top() * ratio, place.left() * ratio
        ends_y = np.array(box[:2]) * step_y + top
        ends_x = np.array(box[2:]) * step_x + left
        y0, y1 = max(math.floor(ends_y[0]), 0), min(math.ceil(ends_y[1]), round(frame.area.bottom() * ratio))
        x0, x1 = max(math.floor(ends_x[0]), 0), min(math.ceil(ends_x[1]), round(frame.area.right() * ratio))
        if y1 <= y0 or x1 <= x0:
            return None
        rows = np.floor((np.arange(y0, y1) + 0.5 - top) / step_y).astype(np.intp)
        columns = np.floor((np.arange(x0, x1) + 0.5 - left) / step_x).astype(np.intp)
        return cls(x0, y0, np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return self.rows.size, self.columns.size

    @property
    def dashes(self) -> NDArray[np.bool_]:
        """Where a dashed line is ink: uneven steps along x and y, so that no direction is all ink or all gap."""
        y, x = np.arange(self.rows.size)[:, None], np.arange(self.columns.size)[None]
        inked: NDArray[np.bool_] = (2 * (x + self.x) + y + self.y) % 14 < 8
        return inked

    @property
    def hatching(self) -> NDArray[np.bool_]:
        """Slanted stripes."""
        y, x = np.arange(self.rows.size)[:, None], np.arange(self.columns.size)[None]
        inked: NDArray[np.bool_] = (x + self.x + y + self.y) % 6 < 3
        return inked

    def of_picture(self, picture: LabelArray) -> LabelArray:
        """The voxel of each pixel."""
        taken: LabelArray = picture[self.rows[:, None], self.columns[None]]
        return taken

    def draw(self, painter: QPainter, painted: NDArray[np.uint32], ratio: float) -> None:
        """Put premultiplied ARGB values on the screen."""
        painted = np.ascontiguousarray(painted)
        height, width = painted.shape
        image = QImage(painted.data, width, height, 4 * width, QImage.Format.Format_ARGB32_Premultiplied)
        image.setDevicePixelRatio(ratio)
        painter.drawImage(QPointF(self.x / ratio, self.y / ratio), image)


def _box(pictures: list[LabelArray]) -> tuple[int, int, int, int] | None:
    """The rows and columns that hold any label, and one more on each side."""
    found = None
    for picture in pictures:
        rows = np.flatnonzero(picture.any(axis=1))
        if not rows.size:
            continue
        columns = np.flatnonzero(picture.any(axis=0))
        here = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
        if found is None:
            found = here
        found = (
            min(found[0], here[0]), max(found[1], here[1]), min(found[2], here[2]), max(found[3], here[3]),
        )  # fmt: skip
    if found is None:
        return None
    rows_in_all, columns_in_all = pictures[0].shape
    return max(found[0] - 1, 0), min(found[1] + 1, rows_in_all), max(found[2] - 1, 0), min(found[3] + 1, columns_in_all)


def edge(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a shape that lie within ``width`` of its outside, straight up, down, left or right."""
    deep = inside.copy()
    for step in range(1, width + 1):
        deep[step:] &= inside[:-step]
        deep[:-step] &= inside[step:]
        deep[:, step:] &= inside[:, :-step]
        deep[:, :-step] &= inside[:, step:]
    rim: NDArray[np.bool_] = inside & ~deep
    return rim


def _difference(own: LabelArray, other: LabelArray, pixels: _Pixels) -> NDArray[np.uint32]:
    """Full where only the first has tumour or core, hatched where only the other has."""
    ranks = np.array([0, 2] + [1] * 254, np.int8)  # nothing, core, rest of the whole tumour
    more, less = ranks[own] > ranks[other], ranks[own] < ranks[other]
    painted = np.zeros(own.shape, np.uint32)
    strong, weak = _premultiplied([_argb(QColor(DISAGREEMENT), 190), _argb(QColor(DISAGREEMENT), 70)])
    painted[more] = strong
    painted[less] = weak
    painted[less & pixels.hatching] = strong
    return painted


class ChangeLayer:
    """Where a region grew, shrank or stayed since an earlier date: solid, hatched, and an outline.

    Attributes:
        change: The map that is drawn; None for nothing.
        colours: Of each of its labels; those left out are not drawn.
        hatched: Labels drawn as stripes, so that colour is not the only cue.
        outlined: Labels of which the outline alone is drawn.
    """

    def __init__(self) -> None:
        self.change: LabelMap | None = None
        self.colours: dict[int, str] = {}
        self.hatched: frozenset[int] = frozenset()
        self.outlined: frozenset[int] = frozenset()

    def paint(self, painter: QPainter, frame: Frame) -> None:
        """Draw the map over the slice."""
        if self.change is None or not frame.model.overlay.visible:
            return
        picture: LabelArray = np.ascontiguousarray(frame.slice_of(self.change.data, self.change.grid))
        box = _box([picture])
        pixels = _Pixels.of(frame, picture.shape, box) if box is not None else None
        if pixels is None:
            return
        labels = pixels.of_picture(picture)
        painted = np.zeros(labels.shape, np.uint32)
        strength = round(255 * min(1.0, frame.model.overlay.opacity + 0.3))
        rim = max(1, round(OUTLINE_PX * frame.ratio))
        for label, colour in self.colours.items():
            inside = labels == label
            full, faint, line = _premultiplied([_argb(QColor(colour), alpha) for alpha in (strength, 70, 255)])
            if label not in self.outlined:
                painted[inside] = faint if label in self.hatched else full
                if label in self.hatched:
                    painted[inside & pixels.hatching] = full
            painted[edge(inside, rim)] = line
        pixels.draw(painter, painted, frame.ratio)


class MarksLayer:
    """The crosshair, letters, the line of text, the scale bar, and a map's key."""

    def paint(self, painter: QPainter, frame: Frame, words: str) -> None:
        """Draw the marks; ``words`` is the one line of text."""
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        self._draw_crosshair(painter, frame)
        painter.setRenderHint(QPainter.RenderHint.TextAntialiasing, True)
        self._draw_letters(painter, frame)
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(SOFT_WHITE)
        box = frame.area.adjusted(10, 8, -10, -8)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop), words)
        self._draw_scale_bar(painter, frame)
        self._draw_key(painter, frame)

    @staticmethod
    def _draw_crosshair(painter: QPainter, frame: Frame) -> None:
        point, area = frame.pixel_of(frame.model.crosshair), frame.area
        column, row, gap = math.floor(point.x()), math.floor(point.y()), CROSSHAIR_GAP_PX
        # Filled, not drawn: a line of a translucent pen takes Qt a hundred times as long.
        for a, b in ((area.left(), column - gap), (column + gap, area.right())):
            if b > a:
                painter.fillRect(QRectF(a, row, b - a, 1), HAIRLINE)
        for a, b in ((area.top(), row - gap), (row + gap, area.bottom())):
            if b > a:
                painter.fillRect(QRectF(column, a, 1, b - a), HAIRLINE)

    @staticmethod
    def _draw_letters(painter: QPainter, frame: Frame) -> None:
        letters = frame.cut.letters
        if not frame.layer.volume.oriented:
            # The file does not say how the patient lay: a letter without its question mark would be a claim.
            letters = tuple(letter + "?" for letter in letters)  # type: ignore[assignment]
        painter.setFont(body_font(12, medium=True))
        box = frame.area.adjusted(7, 4, -7, -4)
        sides = (
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignHCenter,
            Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignHCenter,
        )
        for text, where in zip(letters, sides, strict=True):
            bounds = painter.boundingRect(box, int(where), text)
            # The crosshair may run through a letter; black behind it keeps it readable.
            painter.fillRect(bounds.adjusted(-2, 0, 2, 0), SHADE)
            painter.setPen(SOFT_WHITE)
            painter.drawText(bounds, int(where), text)

    @staticmethod
    def _draw_scale_bar(painter: QPainter, frame: Frame) -> None:
        area = frame.area
        length, words = scale_bar(area.width() / frame.px_per_mm)
        pixels = length * frame.px_per_mm
        y, right = area.bottom() - 12, area.right() - 12
        painter.setPen(QPen(SOFT_WHITE, 1))
        painter.drawLine(QPointF(right - pixels, y), QPointF(right, y))
        for x in (right - pixels, right):
            painter.drawLine(QPointF(x, y - 3), QPointF(x, y + 3))
        painter.setFont(body_font(LABEL_PX))
        box = QRectF(right - pixels - 60, y - 10, 52, 20)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), words)

    @staticmethod
    def _draw_key(painter: QPainter, frame: Frame) -> None:
        """What a map's shades mean, where there is a map."""
        overlay, mask = frame.model.overlay, frame.model.mask_of(frame.side)
        if overlay.map not in RAMPS or mask is None or not mask.probabilities or not overlay.visible:
            return
        strip = QRectF(frame.area.left() + 10, frame.area.bottom() - 16, 72, 6)
        shades = QLinearGradient(strip.topLeft(), strip.topRight())
        for level in range(0, 256, 51):
            shades.setColorAt(level / 255, QColor.fromRgba(ramp()[level]))
        painter.setPen(QPen(SOFT_WHITE, 1))
        painter.setBrush(QColor("black"))
        painter.drawRect(strip)
        painter.fillRect(strip, shades)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(strip)
        painter.setFont(body_font(LABEL_PX))
        title = "0 to 1" if overlay.map is not Map.UNCERTAINTY else "sure to unsure"
        painter.drawText(QPointF(strip.right() + 8, strip.bottom() + 2), title)


def shows_ruler(frame: Frame, ruler: Ruler) -> bool:
    """Whether a measurement lies on the slice of a frame."""
    middle = ruler.lines.longest.mean(axis=0)
    return ruler.plane is frame.cut.plane and frame.cut.index_of(middle) == frame.index


def paint_ruler(painter: QPainter, frame: Frame, ruler: Ruler) -> None:
    """Draw both diameters and their lengths."""
    if not shows_ruler(frame, ruler):
        return
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    lines = [[frame.pixel_of(end) for end in line] for line in (ruler.lines.longest, ruler.lines.across)]
    for colour, width in ((QColor(0, 0, 0, 170), 3.5), (QColor("white"), 1.5)):
        painter.setPen(QPen(colour, width))
        for first, last in lines:
            painter.drawLine(first, last)
    words = f"{ruler.lines.longest_mm:.1f} x {ruler.lines.across_mm:.1f} mm" + ("  by hand" if ruler.by_hand else "")
    painter.setFont(body_font(LABEL_PX))
    rightmost = max((end for line in lines for end in line), key=lambda end: end.x())
    size = painter.fontMetrics().boundingRect(words)
    x = min(rightmost.x() + 10, frame.area.right() - size.width() - 10)
    box = QRectF(x - 4, rightmost.y() - size.height() - 8, size.width() + 8, size.height() + 4)
    painter.fillRect(box, SHADE)
    painter.setPen(QColor("white"))
    painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), words)


class CheckLayer:
    """What a step of the preparation did: two pictures of one place in one, and the brain's outline."""

    def __init__(self) -> None:
        self._slices: dict[tuple[Volume, int], tuple[tuple[object, ...], FloatArray]] = {}
        self._image = QImage()
        self._edges = QImage()
        self._made_of: tuple[object, ...] = ()

    def paint(self, painter: QPainter, frame: Frame, check: Check) -> None:
        """Draw the pictures as they are held against each other; a swipe's halves one after the other."""
        if check.way is Way.SWIPE and check.other is not None:
            line = float(round(frame.model.swipe * frame.area.width()))
            halves = (
                (check.other, QRectF(0, 0, line, frame.area.height())),
                (check.right, frame.area.adjusted(line, 0, 0, 0)),
            )
            for picture, half in halves:
                painter.save()
                painter.setClipRect(half)
                self._draw(painter, frame, coloured(self._greys(frame, picture), GREYS))
                painter.restore()
        else:
            self._paint_mixed(painter, frame, check)
        if check.brain is not None:
            self._paint_brain(painter, frame, check.brain)

    def _paint_mixed(self, painter: QPainter, frame: Frame, check: Check) -> None:
        model = frame.model
        pictures = [picture for picture in (check.current, check.other) if picture is not None]
        windows = tuple(model.window_of(picture.key) for picture in pictures)
        made_of = (check.current.volume, check.other and check.other.volume, check.way, windows, frame.cut, frame.index)
        if made_of != self._made_of:
            self._made_of = made_of
            self._edges = QImage()
            levels = self._greys(frame, check.current)
            if check.other is not None and check.way is Way.CHECKERBOARD:
                levels = np.where(_squares(frame), levels, self._greys(frame, check.other))
            elif check.other is not None and check.way is Way.EDGES:
                levels = self._greys(frame, check.other)
                lines = edge_lines(self._slice(frame, check.current.volume, fine=EDGES_FINE))
                self._edges = coloured(np.ascontiguousarray(lines.astype(np.uint8)), _EDGE_COLOURS)
            self._image = coloured(np.ascontiguousarray(levels), GREYS)
        self._draw(painter, frame, self._image)
        if not self._edges.isNull():
            self._draw(painter, frame, self._edges)

    @staticmethod
    def _draw(painter: QPainter, frame: Frame, image: QImage) -> None:
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, frame.model.interpolated)
        painter.drawImage(frame.place, image)

    @staticmethod
    def _paint_brain(painter: QPainter, frame: Frame, brain: LabelMap) -> None:
        # Looked at anew each time: somebody may be painting in it.
        labels: LabelArray = np.ascontiguousarray(frame.slice_of(brain.data, brain.grid))
        box = _box([labels])
        pixels = _Pixels.of(frame, labels.shape, box) if box is not None else None
        if pixels is not None:
            rim = edge(pixels.of_picture(labels) > 0, max(1, round(OUTLINE_PX * frame.ratio)))
            pixels.draw(painter, np.where(rim, np.uint32(_argb(QColor(CHECK), 255)), np.uint32(0)), frame.ratio)

    def _greys(self, frame: Frame, picture: Picture) -> NDArray[np.uint8]:
        return greys(self._slice(frame, picture.volume), frame.model.window_of(picture.key))

    def _slice(self, frame: Frame, volume: Volume, fine: int = 1) -> FloatArray:
        """The slice of a scan, wherever it lies; kept, since half of two pictures rarely changes."""
        made_of = (frame.cut, frame.index)
        known = self._slices.get((volume, fine))
        if known is None or known[0] != made_of:
            if fine == 1 and volume.grid.same_as(frame.cut.grid, tolerance_mm=1e-3):
                picture: FloatArray = frame.cut.extract(volume.data, frame.index)
            else:
                picture = frame.cut.interpolate(volume.data, volume.grid, frame.index, fine)
            if len(self._slices) >= 4:
                del self._slices[next(iter(self._slices))]
            self._slices[volume, fine] = known = (made_of, picture)
        return known[1]


def _squares(frame: Frame) -> NDArray[np.bool_]:
    """The white squares of a checkerboard over the slice's voxels, of one size in mm whatever the voxels are."""
    rows, columns = (frame.cut.grid.shape[axis] for axis, _ in (frame.cut.rows, frame.cut.columns))
    width, height = frame.cut.size_mm
    down = np.arange(rows) * height / rows // SQUARE_MM
    along = np.arange(columns) * width / columns // SQUARE_MM
    white: NDArray[np.bool_] = (down[:, None] + along[None]) % 2 == 0
    return white


def edge_lines(picture: FloatArray) -> NDArray[np.bool_]:
    """The edges of a slice ``(rows, columns)`` as lines one pixel wide: where its slope is steepest.

    Smoothed slopes that are largest in their own direction and among the steepest of the slice (Canny 1986, without
    its second threshold).
    """
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(picture, EDGE_SIGMA)
    down, along = np.gradient(smooth)
    slope = np.hypot(down, along)
    signal = slope[slope > 0.02 * slope.max()] if slope.any() else slope[:0]
    if not signal.size:
        return np.zeros(picture.shape, bool)
    least = np.quantile(signal, EDGE_QUANTILE)
    # Eight directions are four that are looked along both ways.
    direction = np.round(np.arctan2(down, along) / (np.pi / 4)).astype(int) % 4
    padded = np.pad(slope, 1)
    rows, columns = picture.shape
    steepest = np.zeros(picture.shape, bool)
    for number, (y, x) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + y : 1 + y + rows, 1 + x : 1 + x + columns]
        behind = padded[1 - y : 1 - y + rows, 1 - x : 1 - x + columns]
        steepest |= (direction == number) & (slope >= ahead) & (slope > behind)
    lines: NDArray[np.bool_] = steepest & (slope >= least)
    return lines


class SliceLayers:
    """All that is painted on one side of a slice, from the scan upwards."""

    def __init__(self) -> None:
        self.scan = ScanLayer()
        self.map = MapLayer()
        self.masks = MaskLayer()
        self.check = CheckLayer()

    def paint(self, painter: QPainter, frame: Frame) -> None:
        """Draw scan, map and masks, or in their place the step of the preparation that is looked at."""
        if frame.model.check is not None:
            self.check.paint(painter, frame, frame.model.check)
            return
        for layer in (self.scan, self.map, self.masks):
            layer.paint(painter, frame)


def paint_small(painter: QPainter, frame: Frame) -> None:
    """Draw a slice so small that the masks' fill is all that can be seen of them, whatever the big views do."""
    SliceLayers().scan.paint(painter, frame)
    overlay, mask = frame.model.overlay, frame.model.mask_of(frame.side)
    if mask is None or not overlay.visible or not mask.labels.grid.same_as(frame.cut.grid):
        return
    labels: LabelArray = np.ascontiguousarray(frame.cut.extract(mask.labels.data, frame.index))
    colours = mask_colours(replace(overlay, style=type(overlay.style).FILL))
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
    painter.drawImage(frame.place, coloured(labels, colours))


def name_of(key: LayerKey) -> str:
    """What a layer is called on screen."""
    return key.title if isinstance(key, Sequence) else key.name


def _argb(colour: QColor, alpha: int) -> int:
    return alpha << 24 | colour.red() << 16 | colour.green() << 8 | colour.blue()


# Nothing, and the line.
_EDGE_COLOURS = [0, _argb(QColor(CHECK), 255)] + [0] * 254


@lru_cache(maxsize=8)
def _mask_values(overlay: Overlay) -> NDArray[np.uint32]:
    """`mask_colours` as values that can be put on the screen."""
    return np.array(_premultiplied(mask_colours(overlay)), np.uint32)


def _premultiplied(colours: list[int]) -> list[int]:
    made = []
    for colour in colours:
        alpha = colour >> 24
        parts = [round((colour >> shift & 255) * alpha / 255) for shift in (16, 8, 0)]
        made.append(alpha << 24 | parts[0] << 16 | parts[1] << 8 | parts[2])
    return made
