"""The ruler: two lines at right angles on a slice, whose ends can be taken and moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QCursor, QPainter, QPen

from app.slice_layers import shows_ruler
from app.viewer_model import Point, Ruler, ViewerModel

if TYPE_CHECKING:
    from app.slice_view import SliceView, Voxel
    from engine.diameters import Diameters

REACH_PX = 10
# What is shorter than this is a click, not a line.
SHORTEST_PX = 5
# A new line across begins with this share of the longest one's length.
FIRST_ACROSS = 0.5


class RulerTool:
    """Takes the ends of the lines on screen; a drag elsewhere measures anew if ``draws``.

    Attributes:
        draws: Whether a drag away from the ends draws new lines.
    """

    cursor: Qt.CursorShape | QCursor = Qt.CursorShape.CrossCursor

    def __init__(self, model: ViewerModel) -> None:
        self._model = model
        self.draws = False
        self._held: tuple[str, int] | None = None
        self._start: Point | None = None

    def press(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Take the end under the pointer, or begin anew."""
        if buttons != Qt.MouseButton.LeftButton or modifiers & Qt.KeyboardModifier.ShiftModifier:
            return False
        self._held, self._start = self._end_at(view, world), None
        if self._held is None and self.draws:
            self._start = world
        return self._held is not None or self._start is not None

    def move(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Move the end, or the far end of the new line."""
        from engine import diameters

        ruler = self._model.ruler
        if self._start is not None:
            lines = self._new_lines(view, self._start, world)
            if lines is not None:
                self._model.set_ruler(Ruler(view.plane, lines, by_hand=True))
        elif self._held is not None and ruler is not None:
            line, end = self._held
            change = diameters.turned if line == "longest" else diameters.stretched
            self._model.set_ruler(Ruler(ruler.plane, change(ruler.lines, end, world), by_hand=True))
        return True

    def release(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Let go; a click that drew nothing moves the crosshair."""
        if self._start is not None and self._new_lines(view, self._start, world) is None:
            self._model.move_crosshair(world)
        self._held = self._start = None
        return True

    def hover(self, view: SliceView, world: Point | None, voxel: Voxel | None, modifiers: Qt.KeyboardModifier) -> None:
        """Show by the pointer what can be taken."""
        near = world is not None and self._end_at(view, world) is not None
        view.setCursor(Qt.CursorShape.PointingHandCursor if near else self.cursor)

    def paint(self, painter: QPainter, view: SliceView) -> None:
        """The ends that can be taken."""
        painter.setPen(QPen(QColor("black"), 1))
        painter.setBrush(QColor("white"))
        for _, _, place in self._ends(view):
            painter.drawEllipse(place, 3.5, 3.5)

    def _ends(self, view: SliceView) -> list[tuple[str, int, QPointF]]:
        ruler, frame = self._model.ruler, view.frame()
        if ruler is None or frame is None or not shows_ruler(frame, ruler):
            return []
        lines = {"longest": ruler.lines.longest, "across": ruler.lines.across}
        return [(name, end, frame.pixel_of(line[end])) for name, line in lines.items() for end in (0, 1)]

    def _end_at(self, view: SliceView, world: Point) -> tuple[str, int] | None:
        place = view.pixel_of(world)
        if place is None:
            return None
        near = [(_length(place - there), name, end) for name, end, there in self._ends(view)]
        near = [found for found in near if found[0] <= REACH_PX]
        return min(near)[1:] if near else None

    @staticmethod
    def _new_lines(view: SliceView, start: Point, end: Point) -> Diameters | None:
        from engine.diameters import Diameters

        frame = view.frame()
        if frame is None or _length(frame.pixel_of(end) - frame.pixel_of(start)) < SHORTEST_PX:
            return None
        a, b = (np.array(frame.cut.to_screen(place)) for place in (start, end))
        along, middle = b - a, (a + b) / 2
        aside = np.array([-along[1], along[0]]) * FIRST_ACROSS / 2
        ends = (middle - aside, middle + aside)
        across = [frame.cut.to_world(float(x), float(y), frame.index) for x, y in ends]
        return Diameters(np.stack([start, end]), np.stack(across))


def _length(step: QPointF) -> float:
    return float(np.hypot(step.x(), step.y()))
