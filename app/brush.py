"""The brush in a slice view: the pointer's way becomes strokes, and its outline is drawn where it would paint."""

from __future__ import annotations

import math
from weakref import WeakSet

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QCursor, QPainter, QPen

from app.correcting import Corrections, Tool
from app.slice_view import SliceView, Voxel
from app.viewer_model import Point, Side, ViewerModel

HALO = QColor(0, 0, 0, 170)


class BrushTool:
    """Paints, erases or removes islands with the left button; Ctrl turns painting into erasing and back.

    The other buttons, Shift and the wheel stay the view's: window and level, pan, slices.

    Args:
        corrections: What is in hand and what it changes.
        model: Colours of the regions.
    """

    cursor: Qt.CursorShape | QCursor = Qt.CursorShape.CrossCursor

    def __init__(self, corrections: Corrections, model: ViewerModel) -> None:
        self._corrections, self._model = corrections, model
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
        if self._corrections.hand.tool is Tool.ISLAND:
            self._corrections.remove_island(world, view.plane)
        else:
            self._corrections.begin_stroke(world, view.plane, self._inverse)
        return True

    def move(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Draw on."""
        self._world = world
        self._corrections.go_on(world, view.plane)
        self._repaint()
        return True

    def release(
        self, view: SliceView, world: Point, voxel: Voxel, buttons: Qt.MouseButton, modifiers: Qt.KeyboardModifier
    ) -> bool:
        """Lift the brush."""
        self._corrections.end_stroke()
        self._follow(world, modifiers)
        return True

    def hover(self, view: SliceView, world: Point | None, voxel: Voxel | None, modifiers: Qt.KeyboardModifier) -> None:
        """Show where it would paint."""
        self._follow(world, modifiers)

    def paint(self, painter: QPainter, view: SliceView) -> None:
        """Its outline: whole round where it paints, dashed where it erases."""
        self._views.add(view)
        hand, world = self._corrections.hand, self._world
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
        overlay = self._model.overlay
        colour = QColor(overlay.core if hand.core else overlay.whole_tumour)
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
