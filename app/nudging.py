"""Pushing a scan into place with the pointer: the picture follows at once."""

from __future__ import annotations

import math

from PySide6.QtCore import Qt
from PySide6.QtGui import QCursor, QPainter

from app.preparing import Preparation
from app.slice_view import SliceView, Voxel
from app.viewer_model import Point, ViewerModel
from engine.cut import Cut


class NudgeTool:
    """Moves the scan with the left button, and turns it about the crosshair with Ctrl and the left button.

    The other buttons, Shift and the wheel stay the view's.

    Args:
        preparation: What is pushed.
        model: Where the crosshair is.
    """

    cursor: Qt.CursorShape | QCursor = Qt.CursorShape.SizeAllCursor

    def __init__(self, preparation: Preparation, model: ViewerModel) -> None:
        self._preparation, self._model = preparation, model
        self._last: Point | None = None
        self._turning = False

    def press(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Take hold of the scan."""
        if buttons != Qt.MouseButton.LeftButton or modifiers & Qt.KeyboardModifier.ShiftModifier:
            return False
        self._last = world
        self._turning = bool(modifiers & Qt.KeyboardModifier.ControlModifier)
        return True

    def move(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Push or turn it further."""
        last, cut = self._last, view.cut
        if last is None or cut is None:
            return True
        if self._turning:
            degrees = _turned(last, world, self._model.crosshair, view.plane.value)
            self._preparation.turn(view.plane.value, degrees)
        else:
            self._preparation.push_by(world - last)
        self._last = world
        return True

    def release(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Let go."""
        self._last = None
        return True

    def hover(self, view: SliceView, world: Point | None, voxel: Voxel | None, modifiers: Qt.KeyboardModifier) -> None:
        """Nothing to show: the pointer's shape says what it does."""

    def paint(self, painter: QPainter, view: SliceView) -> None:
        """Nothing to draw: the scan itself follows."""


def _turned(before: Point, after: Point, about: Point, axis: int) -> float:
    """The angle in degrees from one point to another about an axis of the patient through a third."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    angles = [math.atan2(p[second] - about[second], p[first] - about[first]) for p in (before, after)]
    return math.degrees((angles[1] - angles[0] + math.pi) % (2 * math.pi) - math.pi)


def screen_step(cut: Cut, across: int, down: int) -> tuple[int, float]:
    """The axis of the patient nearest to a direction on the screen, and which way along it: ``(axis, +1 or -1)``."""
    x, y = cut.size_mm
    middle = cut.to_world(x / 2, y / 2, 0)
    step = cut.to_world(x / 2 + across, y / 2 + down, 0) - middle
    axis = max(range(3), key=lambda a: abs(float(step[a])))
    return axis, math.copysign(1.0, float(step[axis]))
