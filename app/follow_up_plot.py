"""Volumes over time with their intervals, as the follow-up window draws them."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetricsF, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.curves import apart, nice_ceiling, nice_step
from app.theme import LABEL_PX, Theme, blend, body_font
from engine.follow_up import TITLES, FollowUp
from engine.follow_up_files import places_of
from engine.model_card import TUMOUR_CORE, WHOLE_TUMOUR
from engine.rano import Measure, percent
from engine.volume import interval_in_words

LEFT_PX, TOP_PX, BOTTOM_PX, RIGHT_PX = 40, 30, 42, 122
DOT_PX, CAP_PX, ASIDE_PX = 4.2, 5.0, 3.5
REACH_PX = 26.0


def region_colour(region: str, dark: bool) -> str:
    """The masks' colours, darkened on light until a line stands out from the panel."""
    if region == WHOLE_TUMOUR:
        return "#56B4E9" if dark else "#1C72AB"
    return "#E69F00" if dark else "#A86400"


class VolumePlot(QWidget):
    """A line a region over the dates; a full dot has its interval, an open one has none.

    Signals:
        pointed: The number of the date under the pointer, or -1.
    """

    pointed = Signal(int)

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._made: FollowUp | None = None
        self._at = -1
        self.setMinimumSize(280, 190)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMouseTracking(True)
        self.setAccessibleName("Volumes over time")
        theme.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(480, 280)

    @property
    def follow_up(self) -> FollowUp | None:
        """What is drawn."""
        return self._made

    def show_follow_up(self, made: FollowUp | None) -> None:
        """Draw these dates."""
        self._made, self._at = made, -1
        self.setAccessibleDescription(self.describe())
        self.update()

    def describe(self) -> str:
        """The dots in words."""
        made = self._made
        if made is None:
            return ""
        return "; ".join(self.words_of(date) for date in range(len(made.visits)))

    def words_of(self, date: int) -> str:
        """One date in words."""
        made = self._made
        assert made is not None
        parts = []
        for region, title in TITLES.items():
            course = made.course(region, Measure.VOLUME)
            interval = made.visits[date].point.intervals_ml.get(region)
            words = f"{title.lower()} {course.values[date]:.1f} ml"
            words += f" ({interval_in_words(interval)})" if interval is not None else ""
            change = percent(course.against_baseline(date))
            parts.append(words + (f", {change} since baseline" if change else ""))
        return f"{made.names_on_screen[date]}: {'; '.join(parts)}"

    # Where things lie

    def _title(self) -> str:
        """As many words as there is room for."""
        full = "Volume in ml, 90 % intervals, and change since baseline"
        known = self._made is None or all(
            interval is not None for visit in self._made.visits for interval in visit.point.intervals_ml.values()
        )
        choices = (full if known else f"{full}. Open dots: no interval was measured", full, "Volume in ml")
        metrics = QFontMetricsF(body_font(LABEL_PX))
        return next((words for words in choices if metrics.horizontalAdvance(words) <= self.width()), choices[-1])

    def _area(self) -> QRectF:
        return QRectF(LEFT_PX, TOP_PX, self.width() - LEFT_PX - RIGHT_PX, self.height() - TOP_PX - BOTTOM_PX)

    def _top(self) -> float:
        made = self._made
        assert made is not None
        ends = [i[1] for v in made.visits for i in v.point.intervals_ml.values() if i is not None]
        values = [ml for visit in made.visits for ml in visit.point.volumes_ml.values()]
        return nice_ceiling(1.04 * max([*ends, *values, 1e-3]))

    def _places(self) -> list[float]:
        made = self._made
        assert made is not None
        area = self._area()
        inset = min(34.0, 0.12 * area.width())
        return [area.left() + inset + place * (area.width() - 2 * inset) for place in places_of(made)]

    # Painting

    def paintEvent(self, event: QPaintEvent) -> None:
        made = self._made
        painter = QPainter(self)
        painter.setFont(body_font(LABEL_PX))
        c = self._theme.colours
        painter.setPen(QColor(c.secondary))
        painter.drawText(QPointF(0, 12), self._title())
        if made is None:
            return
        area, top, places = self._area(), self._top(), self._places()
        self._paint_axes(painter, area, top, places)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        dark = QColor(c.panel).lightness() < 128
        ends = []
        for aside, region in ((-ASIDE_PX, WHOLE_TUMOUR), (ASIDE_PX, TUMOUR_CORE)):
            colour = QColor(region_colour(region, dark))
            values = made.course(region, Measure.VOLUME).values
            points = [
                QPointF(x + aside, area.bottom() - ml / top * area.height())
                for x, ml in zip(places, values, strict=True)
            ]
            painter.setPen(QPen(colour, 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawPolyline(QPolygonF(points))
            for point, visit in zip(points, made.visits, strict=True):
                interval = visit.point.intervals_ml.get(region)
                if interval is not None:
                    low, high = (area.bottom() - end / top * area.height() for end in interval)
                    painter.setPen(QPen(colour, 1.2))
                    painter.drawLine(QPointF(point.x(), low), QPointF(point.x(), high))
                    for y in (low, high):
                        painter.drawLine(QPointF(point.x() - CAP_PX, y), QPointF(point.x() + CAP_PX, y))
                painter.setPen(QPen(colour, 2))
                painter.setBrush(colour if interval is not None else QColor(c.panel))
                painter.drawEllipse(point, DOT_PX, DOT_PX)
            ends.append((points, region, colour))
        self._paint_names(painter, area, ends)

    def _paint_axes(self, painter: QPainter, area: QRectF, top: float, places: list[float]) -> None:
        made = self._made
        assert made is not None
        c = self._theme.colours
        step = nice_step(top, 5 if area.height() > 120 else 3)
        value = 0.0
        align = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        while value <= top * 1.001:
            y = round(area.bottom() - value / top * area.height())
            painter.setPen(QPen(QColor(c.hairline if value == 0 else blend(c.hairline, c.panel, 0.75)), 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(QColor(c.secondary))
            painter.drawText(QRectF(0, y - 8, LEFT_PX - 8, 16), align, f"{value:g}")
            value += step
        if self._at >= 0:
            painter.setPen(QPen(QColor(blend(c.secondary, c.panel, 0.5)), 1))
            painter.drawLine(QPointF(places[self._at], area.top()), QPointF(places[self._at], area.bottom()))
        metrics = painter.fontMetrics()
        taken = -1e9
        for number, (x, name) in enumerate(zip(places, made.names_on_screen, strict=True)):
            neighbours = [abs(x - other) for at, other in enumerate(places) if at != number]
            room = max(56.0, min([160.0, *neighbours]))
            words = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, int(room))
            width = metrics.horizontalAdvance(words)
            left = x - width / 2
            if left > taken + 4:  # of two days that nearly coincide one name is legible
                painter.setPen(QColor(c.text))
                painter.drawText(QPointF(left, area.bottom() + 17), words)
                taken = left + width
            if number == made.baseline:
                painter.setPen(QColor(c.secondary))
                painter.drawText(QPointF(x - metrics.horizontalAdvance("baseline") / 2, area.bottom() + 33), "baseline")

    def _paint_names(self, painter: QPainter, area: QRectF, ends: list[tuple[list[QPointF], str, QColor]]) -> None:
        made = self._made
        assert made is not None
        c = self._theme.colours
        at = self._at if self._at >= 0 else len(made.visits) - 1
        ends = sorted(ends, key=lambda end: end[0][at].y())
        heights = apart([end[0][at].y() for end in ends], 36, area.top() + 8, area.bottom() - 22)
        left = area.right() + 10
        for (_, region, colour), y in zip(ends, heights, strict=True):
            course = made.course(region, Measure.VOLUME)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            painter.drawEllipse(QPointF(left + 3, y - 4), 3.2, 3.2)
            painter.setPen(QColor(c.secondary))
            painter.drawText(QPointF(left + 12, y), TITLES[region])
            change = percent(course.against_baseline(at))
            value = f"{course.values[at]:.1f} ml" + (f"  {change}" if change else "")
            painter.setPen(QColor(c.text))
            painter.drawText(QPointF(left + 12, y + 15), value)

    # Reading

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._made is None:
            return
        away = [abs(x - event.position().x()) for x in self._places()]
        nearest = min(range(len(away)), key=lambda at: away[at])
        self._point(nearest if away[nearest] <= REACH_PX else -1)

    def leaveEvent(self, event: QEvent) -> None:
        self._point(-1)

    def _point(self, date: int) -> None:
        if date != self._at:
            self._at = date
            self.setToolTip(self.words_of(date) if date >= 0 and self._made is not None else "")
            self.pointed.emit(date)
            self.update()
