"""Curves over steps, and the strip of runs above them: what the Train page draws by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme import LABEL_PX, Theme, blend, body_font
from engine.model_card import Role

LEFT_PX, TOP_PX, BOTTOM_PX = 34, 26, 20
LABEL_GAP_PX = 15
BEST_RADIUS_PX = 4.5
NAME_PX = 90
MOST_POINTS = 300
_NOTHING = np.zeros(0)


def role_colour(role: Role, dark: bool) -> str:
    """The colour of a role in every curve and table: teacher green, baseline grey, student purple.

    After Okabe and Ito, lightened on dark and darkened on light until a line stands out from the panel; the baseline,
    which others are held against, has no colour of its own and dashes.
    """
    return {
        Role.TEACHER: "#2FBF93" if dark else "#00805C",
        Role.BASELINE: "#A3ADBB" if dark else "#6B7584",
        Role.STUDENT: "#E78FC3" if dark else "#B0467F",
    }[role]


@dataclass(frozen=True, eq=False)
class Series:
    """One curve.

    Attributes:
        name: What stands at its end.
        role: Gives it its colour and dashes.
        x: ``(n,)`` ascending.
        y: ``(n,)``.
        raw: ``(n,)`` the same before it was smoothed, drawn faintly; empty for none.
        best: Index of the point that is marked; ``None`` for none.
        strong: Whether it is one of those to look at; others are thin and bear no name.
        words: How a value of it is written.
    """

    name: str
    role: Role
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    raw: NDArray[np.float64] = field(default_factory=lambda: _NOTHING)
    best: int | None = None
    strong: bool = True
    words: str = "{:.2f}"

    def at(self, x: float) -> int | None:
        """The point last reached at ``x``; ``None`` before the first."""
        place = int(np.searchsorted(self.x, x, side="right")) - 1
        return place if place >= 0 else None


def smoothed(y: NDArray[np.float64], memory: float = 0.8) -> NDArray[np.float64]:
    """An exponential moving average without the bias of its beginning, ``(n,)``."""
    result = np.empty_like(y)
    total = weight = 0.0
    for place, value in enumerate(y):
        total, weight = memory * total + (1 - memory) * value, memory * weight + (1 - memory)
        result[place] = total / weight
    return result


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = MOST_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most so many points, each the mean of its neighbours at the last one's place: no screen shows more."""
    if x.size <= most:
        return x, y
    each = -(-x.size // most)
    starts = np.arange(0, x.size, each)
    counts = np.diff(np.append(starts, x.size))
    return x[starts + counts - 1], np.add.reduceat(y, starts) / counts


class CurvePlot(QWidget):
    """Curves over steps with their names at their ends; the pointer, or the arrow keys, read them at any step.

    Args:
        theme: The colours.
        title: What is drawn, above it.
        top: Where the axis ends; worked out from the curves when not given.
        empty: What stands there while there is no curve.
    """

    def __init__(self, theme: Theme, title: str, top: float | None = None, empty: str = "") -> None:
        super().__init__()
        self._theme, self._title, self._fixed_top, self._empty = theme, title, top, empty
        self._series: list[Series] = []
        self._end = 1.0
        self._read_at: float | None = None
        self.setMinimumSize(220, 120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAccessibleName(title)
        theme.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(320, 180)

    @property
    def series(self) -> list[Series]:
        """What is drawn."""
        return list(self._series)

    def show_series(self, series: SequenceOf[Series], end: float) -> None:
        """Draw these curves, the strong ones on top, over steps from 0 to ``end``."""
        self._series = sorted(series, key=lambda one: one.strong)
        self._end = max(1.0, end)
        self.setAccessibleDescription(self.describe())
        self.update()

    def describe(self) -> str:
        """The curves in words."""
        parts = []
        for one in self._series:
            if one.strong and one.y.size:
                words = f"{one.name} {one.words.format(one.y[-1])} at step {one.x[-1]:,.0f}"
                if one.best is not None:
                    words += f", best {one.words.format(one.y[one.best])} at step {one.x[one.best]:,.0f}"
                parts.append(words)
        return "; ".join(parts) or self._empty

    # Where things lie

    def _area(self) -> QRectF:
        names = [one.name for one in self._series if one.strong and one.y.size]
        metrics = self.fontMetrics()
        room = max((metrics.horizontalAdvance(name) for name in names), default=0)
        # Eleven pixels instead of the widget's thirteen, the dot before it and the figure after it.
        right = min(room * LABEL_PX / 13 + 74, 0.5 * self.width()) if names else 8
        return QRectF(LEFT_PX, TOP_PX, max(20.0, self.width() - LEFT_PX - right), self.height() - TOP_PX - BOTTOM_PX)

    @property
    def top(self) -> float:
        """Where the axis ends."""
        if self._fixed_top is not None:
            return self._fixed_top
        values = [one.y[np.isfinite(one.y)] for one in self._series]
        everything = np.concatenate([_NOTHING, *values])
        if not everything.size:
            return 1.0
        # The first steps of a network that knows nothing would flatten all that follows.
        settled = [part[part.size // 8 :] for part in values if part.size]
        highest = max(float(np.percentile(everything, 90)), max(float(part.max()) for part in settled))
        return nice_ceiling(highest * 1.05)

    def _pixel(self, area: QRectF, top: float, x: float, y: float) -> QPointF:
        return QPointF(
            area.left() + x / self._end * area.width(),
            area.bottom() - min(max(y / top, 0.0), 1.03) * area.height(),
        )

    # Painting

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        c = self._theme.colours
        area, top = self._area(), self.top
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(QColor(c.secondary))
        painter.drawText(QPointF(0, 12), self._title)
        if self.hasFocus():
            painter.setPen(QPen(QColor(c.accent), 1))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        self._paint_axes(painter, area, top)
        if not any(one.y.size for one in self._series):
            painter.setPen(QColor(c.secondary))
            painter.drawText(area, int(Qt.AlignmentFlag.AlignCenter) | int(Qt.TextFlag.TextWordWrap), self._empty)
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.save()
        painter.setClipRect(area.adjusted(-8, -8, 8, 8))
        for one in self._series:
            self._paint_curve(painter, area, top, one)
        painter.restore()
        if self._read_at is not None:
            x = self._pixel(area, top, self._read_at, 0).x()
            painter.setPen(QPen(QColor(c.secondary), 1))
            painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        self._paint_names(painter, area, top)

    def _paint_axes(self, painter: QPainter, area: QRectF, top: float) -> None:
        c = self._theme.colours
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        rows = 5 if area.height() > 110 else 2
        step = nice_step(top, rows)
        line = QColor(blend(c.hairline, c.panel, 0.75))
        align = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        value = 0.0
        while value <= top * 1.001:
            y = round(self._pixel(area, top, 0, value).y())
            painter.setPen(QPen(QColor(c.hairline) if value == 0 else line, 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(QColor(c.secondary))
            painter.drawText(QRectF(0, y - 8, LEFT_PX - 7, 16), align, f"{value:.{_digits(step)}f}")
            value += step
        across = nice_step(self._end, max(2, int(area.width() / 90)))
        at = 0.0
        # Between the last round number and the end there has to be room for both.
        while at <= self._end * 1.001:
            x = self._pixel(area, top, at, 0).x()
            words = "0" if at == 0 else f"{at:,.0f}"
            painter.setPen(QColor(c.secondary))
            painter.drawText(QRectF(x - 40, area.bottom() + 3, 80, 16), int(Qt.AlignmentFlag.AlignHCenter), words)
            at += across
        if self._read_at is not None:
            painter.setPen(QColor(c.text))
            words = f"step {self._read_at:,.0f}"
            right = int(Qt.AlignmentFlag.AlignRight)
            painter.drawText(QRectF(area.left(), 2, area.width(), 16), right, words)

    def _paint_curve(self, painter: QPainter, area: QRectF, top: float, one: Series) -> None:
        if not one.y.size:
            return
        c = self._theme.colours
        colour = QColor(role_colour(one.role, self._dark))
        faint = QColor(colour)
        faint.setAlpha(70)
        if one.raw.size:
            painter.setPen(QPen(faint, 1))
            painter.drawPolyline(self._line(area, top, one.x, one.raw))
        pen = QPen(colour if one.strong else faint, 2.0 if one.strong else 1.2)
        pen.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
        if one.role is Role.BASELINE:
            pen.setDashPattern([4, 2.5])
        painter.setPen(pen)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPolyline(self._line(area, top, one.x, one.y))
        if not one.strong:
            return
        if not one.raw.size and one.x.size <= 40:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            for x, y in zip(one.x, one.y, strict=True):
                painter.drawEllipse(self._pixel(area, top, x, y), 2.4, 2.4)
        if one.best is not None:
            # A ring around the point: seen without its colour too.
            painter.setBrush(QColor(c.panel))
            painter.setPen(QPen(colour, 2))
            middle = self._pixel(area, top, one.x[one.best], one.y[one.best])
            painter.drawEllipse(middle, BEST_RADIUS_PX, BEST_RADIUS_PX)

    def _line(self, area: QRectF, top: float, x: NDArray[np.float64], y: NDArray[np.float64]) -> QPolygonF:
        return QPolygonF([self._pixel(area, top, a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)])

    def _paint_names(self, painter: QPainter, area: QRectF, top: float) -> None:
        c = self._theme.colours
        labels = []
        for one in self._series:
            place = (one.at(self._read_at) if self._read_at is not None else one.y.size - 1) if one.strong else None
            if place is not None and one.y.size:
                labels.append((self._pixel(area, top, one.x[place], one.y[place]), one, one.y[place]))
        labels.sort(key=lambda label: label[0].y())
        heights = apart([label[0].y() for label in labels], LABEL_GAP_PX, area.top() + 4, area.bottom() - 4)
        left = area.right() + 10
        metrics = painter.fontMetrics()
        for (point, one, value), y in zip(labels, heights, strict=True):
            colour = QColor(role_colour(one.role, self._dark))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            if self._read_at is not None:
                painter.drawEllipse(point, 3.5, 3.5)
            painter.drawEllipse(QPointF(left + 3, y), 3, 3)
            figure = one.words.format(value)
            width = metrics.horizontalAdvance(figure)
            room = self.width() - left - 12 - width - 8
            name = metrics.elidedText(one.name, Qt.TextElideMode.ElideRight, int(max(0, room)))
            painter.setPen(QColor(c.secondary))
            painter.drawText(QPointF(left + 12, y + 4), name)
            painter.setPen(QColor(c.text))
            painter.drawText(QPointF(self.width() - width - 2, y + 4), figure)

    @property
    def _dark(self) -> bool:
        return QColor(self._theme.colours.panel).lightness() < 128

    # Reading

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        area = self._area()
        x = (event.position().x() - area.left()) / max(1.0, area.width()) * self._end
        self._read(x if 0 <= x <= self._end else None)

    def leaveEvent(self, event: QEvent) -> None:
        self._read(None)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        steps = sorted({float(x) for one in self._series if one.strong for x in one.x})
        if event.key() not in (Qt.Key.Key_Left, Qt.Key.Key_Right) or not steps:
            super().keyPressEvent(event)
            return
        at = steps[-1] if self._read_at is None else self._read_at
        ahead = event.key() == Qt.Key.Key_Right
        beyond = [x for x in steps if (x > at if ahead else x < at)]
        self._read((beyond[0] if ahead else beyond[-1]) if beyond else at)
        self.setAccessibleDescription(self.reading() or self.describe())

    def reading(self) -> str:
        """What is read at the step pointed at; empty where none is."""
        if self._read_at is None:
            return ""
        found = [(one, one.at(self._read_at)) for one in self._series if one.strong]
        words = [f"{one.name} {one.words.format(one.y[place])}" for one, place in found if place is not None]
        return f"step {self._read_at:,.0f}: " + ", ".join(words)

    def _read(self, at: float | None) -> None:
        if at != self._read_at:
            self._read_at = at
            self.update()


@dataclass(frozen=True)
class Figure:
    """A number that changes while one watches, and how it went.

    Attributes:
        title: What it is.
        value: As it is now, in words.
        history: ``(n,)`` of late.
        tip: What it means.
    """

    title: str
    value: str
    history: NDArray[np.float64]
    tip: str = ""


class FigureTile(QWidget):
    """A figure with its course as a thin line below."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._figure = Figure("", "", _NOTHING)
        self.setFixedHeight(56)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)

    @property
    def figure(self) -> Figure:
        """What is shown."""
        return self._figure

    def show_figure(self, figure: Figure) -> None:
        """Show another figure."""
        self._figure = figure
        self.setToolTip(figure.tip)
        self.setAccessibleName(f"{figure.title}: {figure.value}")
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        c, figure = self._theme.colours, self._figure
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(QColor(c.secondary))
        painter.drawText(QPointF(0, 12), figure.title)
        painter.setFont(body_font())
        painter.setPen(QColor(c.text))
        painter.drawText(QPointF(0, 31), figure.value)
        history = figure.history[np.isfinite(figure.history)]
        if history.size < 2:
            return
        low, high = float(history.min()), float(history.max())
        area = QRectF(0, 38, self.width() - 16, 14)
        span = max(high - low, 1e-12)
        flat = high - low < 1e-9 * max(1.0, abs(high))
        points = QPolygonF(
            [
                QPointF(
                    area.left() + place / (history.size - 1) * area.width(),
                    area.center().y() if flat else area.bottom() - (value - low) / span * area.height(),
                )
                for place, value in enumerate(history.tolist())
            ]
        )
        painter.setPen(QPen(QColor(blend(c.secondary, c.panel, 0.8)), 1.2))
        painter.drawPolyline(points)


@dataclass(frozen=True)
class Piece:
    """A run in the strip of runs.

    Attributes:
        title: What it is called.
        role: Gives it its colour.
        weight: How long it is, in steps.
        share: How much of it is done, 0..1.
        words: Where it is.
        shown: Whether its curves are those to look at.
        group: What it and its neighbours of other folds are called together.
    """

    title: str
    role: Role
    weight: float
    share: float
    words: str
    shown: bool = False
    group: str = ""


class RunStrip(QWidget):
    """Every run of a training as a piece of one bar, as long as it takes, filled as far as it is done."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._pieces: list[Piece] = []
        self.setFixedHeight(30)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Runs of the training")
        theme.changed.connect(self.update)

    @property
    def pieces(self) -> list[Piece]:
        """What is shown."""
        return list(self._pieces)

    def show_pieces(self, pieces: SequenceOf[Piece]) -> None:
        """Show these runs."""
        self._pieces = list(pieces)
        words = "; ".join(f"{piece.title}: {piece.words}" for piece in pieces)
        self.setAccessibleDescription(words)
        self.setToolTip("\n".join(f"{piece.title}: {piece.words}" for piece in pieces))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self._pieces:
            return
        c = self._theme.colours
        dark = QColor(c.panel).lightness() < 128
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(body_font(LABEL_PX))
        metrics = painter.fontMetrics()
        gap = 3 if len(self._pieces) < 30 else 1
        room = self.width() - gap * (len(self._pieces) - 1)
        total = sum(piece.weight for piece in self._pieces) or 1.0
        left, named_until, group = 0.0, -1.0, ""
        # Pieces too short for names of their own bear the one they share.
        together = room / len(self._pieces) < NAME_PX
        for piece in self._pieces:
            width = room * piece.weight / total
            bar = QRectF(left, 0, width, 8)
            colour = QColor(role_colour(piece.role, dark))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.raised if dark else c.hairline))
            painter.drawRoundedRect(bar, 3, 3)
            if piece.share > 0:
                painter.save()
                painter.setClipRect(QRectF(left, 0, width * piece.share, 8))
                painter.setBrush(colour)
                painter.drawRoundedRect(bar, 3, 3)
                painter.restore()
            words = f"{piece.title}  {piece.words}"
            fitting = next((w for w in (words, piece.title) if metrics.horizontalAdvance(w) <= width - 4), "")
            if together:
                fitting, group = ("" if piece.group == group else piece.group), piece.group
            if fitting and left > named_until:
                painter.setPen(QColor(c.text if piece.shown else c.secondary))
                painter.drawText(QPointF(left, 25), fitting)
                named_until = left + metrics.horizontalAdvance(fitting)
            left += width + gap


def apart(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places moved as little as it takes to be ``gap`` apart and between ``low`` and ``high``."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, low, moved[-1] + gap if moved else low))
    ceiling = high
    for number in reversed(range(len(moved))):
        moved[number] = min(moved[number], ceiling)
        ceiling = moved[number] - gap
    return moved


def nice_step(span: float, count: int) -> float:
    """A round distance between lines of which about ``count`` fit into ``span``."""
    rough = span / max(1, count)
    size = 10.0 ** math.floor(math.log10(max(rough, 1e-12)))
    return next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)


def nice_ceiling(value: float) -> float:
    """The next round number above a positive value."""
    step = nice_step(max(value, 1e-9), 5)
    return math.ceil(value / step - 1e-9) * step


def _digits(step: float) -> int:
    if step >= 1 and abs(step - round(step)) < 1e-9:
        return 0
    digits = max(0, -math.floor(math.log10(step)))
    return digits + int(abs(step * 10**digits - round(step * 10**digits)) > 1e-9)
