"""Every patient's Dice with each network, a dot a patient, those of one patient joined: what means and spreads hide."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.curves import role_colour
from app.theme import LABEL_PX, Theme, blend, body_font
from engine.model_card import Role

LEFT_PX, TOP_PX, BOTTOM_PX = 34, 26, 36
REACH_PX = 9


@dataclass(frozen=True)
class Group:
    """A network's patients.

    Attributes:
        title: Of the network.
        role: Gives it its colour.
        dice: By patient, 0..1.
    """

    title: str
    role: Role
    dice: dict[str, float]


class PatientPlot(QWidget):
    """Dots of patients, a column a network; a line joins a patient's dots.

    Args:
        theme: The colours.
        title: What is drawn, above it.

    Signals:
        pointed: The patient under the pointer, or an empty name.
    """

    pointed = Signal(str)

    def __init__(self, theme: Theme, title: str) -> None:
        super().__init__()
        self._theme, self._title = theme, title
        self._groups: list[Group] = []
        self._patient = ""
        self.setMinimumSize(200, 170)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMouseTracking(True)
        self.setAccessibleName(title)
        theme.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(320, 240)

    @property
    def groups(self) -> list[Group]:
        """What is drawn."""
        return list(self._groups)

    def show_groups(self, groups: SequenceOf[Group]) -> None:
        """Draw these networks."""
        self._groups = list(groups)
        words = [
            f"{group.title}: mean {np.mean(list(group.dice.values())):.2f}, "
            f"{min(group.dice.values()):.2f} to {max(group.dice.values()):.2f} in {len(group.dice)} patients"
            for group in groups
            if group.dice
        ]
        self.setAccessibleDescription("; ".join(words))
        self.update()

    def point_at(self, patient: str) -> None:
        """Bring out a patient, or none."""
        if patient != self._patient:
            self._patient = patient
            self.setToolTip(self._words(patient))
            self.update()

    def _words(self, patient: str) -> str:
        if not patient:
            return ""
        own = [f"{group.title} {group.dice[patient]:.2f}" for group in self._groups if patient in group.dice]
        return f"{patient}: " + ", ".join(own)

    def _area(self) -> QRectF:
        return QRectF(LEFT_PX, TOP_PX, self.width() - LEFT_PX - 8, self.height() - TOP_PX - BOTTOM_PX)

    def _places(self) -> list[dict[str, QPointF]]:
        area = self._area()
        places = []
        for number, group in enumerate(self._groups):
            middle = area.left() + (number + 0.5) / len(self._groups) * area.width()
            ranked = sorted(group.dice, key=lambda name: (group.dice[name], name))
            room = min(0.16 * area.width() / len(self._groups), 22)
            points = {}
            for rank, name in enumerate(ranked):
                # Neighbours in value are put apart, the same every time: the golden ratio's multiples do both.
                aside = ((rank + 1) * 0.6180339887 % 1 - 0.5) * 2 * room
                points[name] = QPointF(middle + aside, area.bottom() - group.dice[name] * area.height())
            places.append(points)
        return places

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        c, area = self._theme.colours, self._area()
        dark = QColor(c.panel).lightness() < 128
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(QColor(c.secondary))
        painter.drawText(QPointF(0, 12), self._title)
        align = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        for tenth in range(0, 11, 2):
            y = round(area.bottom() - tenth / 10 * area.height())
            painter.setPen(QPen(QColor(c.hairline) if tenth == 0 else QColor(blend(c.hairline, c.panel, 0.75)), 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(QColor(c.secondary))
            painter.drawText(QRectF(0, y - 8, LEFT_PX - 7, 16), align, f"{tenth / 10:.1f}")
        if not self._groups:
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        places = self._places()
        self._paint_lines(painter, places)
        for number, (group, points) in enumerate(zip(self._groups, places, strict=True)):
            colour = QColor(role_colour(group.role, dark))
            painter.setPen(Qt.PenStyle.NoPen)
            for name, point in points.items():
                shade = QColor(colour)
                shade.setAlpha(255 if name == self._patient or not self._patient else 110)
                painter.setBrush(shade)
                radius = 5.0 if name == self._patient else 3.4
                painter.drawEllipse(point, radius, radius)
            middle = area.left() + (number + 0.5) / len(self._groups) * area.width()
            self._paint_mean(painter, group, middle, colour)
            box = QRectF(middle - area.width() / len(self._groups) / 2, area.bottom() + 5, area.width() / len(
                self._groups), 16)  # fmt: skip
            name = painter.fontMetrics().elidedText(group.title, Qt.TextElideMode.ElideRight, int(box.width()) - 4)
            painter.setPen(QColor(c.secondary))
            painter.drawText(box, int(Qt.AlignmentFlag.AlignHCenter), name)

    def _paint_lines(self, painter: QPainter, places: list[dict[str, QPointF]]) -> None:
        c = self._theme.colours
        faint = QColor(c.secondary)
        for left, right in pairwise(places):
            for name, point in left.items():
                if name in right:
                    here = name == self._patient
                    faint.setAlpha(255 if here else 60)
                    painter.setPen(QPen(QColor(c.text) if here else faint, 1.6 if here else 1.0))
                    painter.drawLine(point, right[name])

    def _paint_mean(self, painter: QPainter, group: Group, middle: float, colour: QColor) -> None:
        if not group.dice:
            return
        c, area = self._theme.colours, self._area()
        mean = float(np.mean(list(group.dice.values())))
        y = area.bottom() - mean * area.height()
        half = min(0.24 * area.width() / len(self._groups), 34)
        painter.setPen(QPen(QColor(c.panel), 5))
        painter.drawLine(QPointF(middle - half, y), QPointF(middle + half, y))
        painter.setPen(QPen(colour, 2.5))
        painter.drawLine(QPointF(middle - half, y), QPointF(middle + half, y))
        painter.setPen(QColor(c.text))
        words = f"{mean:.2f}"
        painter.drawText(QPointF(middle + half + 5, y + 4), words)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        nearest, least = "", float(REACH_PX**2)
        for points in self._places():
            for name, point in points.items():
                away = point - event.position()
                distance = away.x() ** 2 + away.y() ** 2
                if distance < least:
                    nearest, least = name, distance
        self.pointed.emit(nearest)

    def leaveEvent(self, event: QEvent) -> None:
        self.pointed.emit("")
