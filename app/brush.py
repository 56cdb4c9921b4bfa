"""The brush in a slice view: the pointer's way becomes strokes, and its outline is drawn where it would paint."""

from __future__ import annotations

import math
from typing import Protocol
from weakref import WeakSet

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QCursor, QPainter, QPen

from app.correcting import Hand, Tool
from app.slice_view import SliceView, Voxel
from app.viewer_model import Plane, Point, Side

HALO = QColor(0, 0, 0, 170)


class Drawn(Protocol):
    """What a brush draws on: the mask that is corrected, or the outline of the brain."""

    @property
    def hand(self) -> Hand:
        """What is in hand."""

    @property
    def colour(self) -> str:
        """Of what is drawn, ``#RRGGBB``."""

    def begin_stroke(self, world: Point, plane: Plane, inverse: bool = False) -> None:
        """Put the brush down."""

    def go_on(self, world: Point, plane: Plane) -> None:
        """Draw to another point."""

    def end_stroke(self) -> None:
        """Lift the brush."""

    def remove_island(self, world: Point, plane: Plane) -> None:
        """Take away the connected piece at a point."""


class BrushTool:
    """Paints, erases or removes islands with the left button; Ctrl turns painting into erasing and back.

    The other buttons, Shift and the wheel stay the view's: window and level, pan, slices.

    Args:
        drawn: What is in hand and what it changes.
    """

    cursor: Qt.CursorShape | QCursor = Qt.CursorShape.CrossCursor

    def __init__(self, drawn: Drawn) -> None:
        self._drawn = drawn
        self._views: WeakSet[SliceView] = WeakSet()
        self._world: Point | None = None
        self._inverse = False

    def press(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Put the brush down, or take the island."""
        if buttons != Qt.MouseButton.LeftButton or modifiers & Qt.KeyboardModifier.ShiftModifier:
            return False
        if view.side is not Side.MAIN:
            return False  # what is compared with is not corrected
        self._follow(world, modifiers)
        if self._drawn.hand.tool is Tool.ISLAND:
            self._drawn.remove_island(world, view.plane)
        else:
            self._drawn.begin_stroke(world, view.plane, self._inverse)
        return True

    def move(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Draw on."""
        self._world = world
        self._drawn.go_on(world, view.plane)
        self._repaint()
        return True

    def release(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Lift the brush."""
        self._drawn.end_stroke()
        self._follow(world, modifiers)
        return True

    def hover(self, view: SliceView, world: Point | None, voxel: Voxel | None, modifiers: Qt.KeyboardModifier) -> None:
        """Show where it would paint."""
        self._follow(world, modifiers)

    def paint(self, painter: QPainter, view: SliceView) -> None:
        """Its outline: whole round where it paints, dashed where it erases."""
        self._views.add(view)
        hand, world = self._drawn.hand, self._world
        cut, index = view.cut, view.index
        if world is None or cut is None or index is None or not hand.tool.draws:
            return
        away = abs(float(cut.grid.to_voxel(world[None])[0][cut.normal]) - index) * cut.grid.spacing[cut.normal]
        # In the planes beside it a disc is no more than a line, a ball a smaller circle.
        if away >= hand.radius_mm or (not hand.ball and away > 0.5 * cut.grid.spacing[cut.normal]):
            return
        middle = view.pixel_of(world)
        if middle is None:
            return
        radius = math.sqrt(hand.radius_mm**2 - away**2) * view.px_per_mm
        colour = QColor(self._drawn.colour)
        erasing = (hand.tool is Tool.ERASE) != self._inverse
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(HALO, 3.5))
        painter.drawEllipse(middle, radius, radius)
        pen = QPen(QColor("white") if erasing else colour, 1.5)
        if erasing:
            pen.setDashPattern([3, 3])
        painter.setPen(pen)
        painter.drawEllipse(middle, radius, radius)

    def _follow(self, world: Point | None, modifiers: Qt.KeyboardModifier) -> None:
        self._world = world
        self._inverse = bool(modifiers & Qt.KeyboardModifier.ControlModifier)
        self._repaint()

    def _repaint(self) -> None:
        for view in list(self._views):
            view.repaint_tool()
