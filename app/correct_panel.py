"""The tools that correct a mask: what is in hand, how large, where it may work, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QMenu,
    QPushButton,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from app.controls import IconButton, Section, Segments, label, push
from app.correcting import GROWTH_RANGE_MM, RADIUS_RANGE_MM, Corrections, Tool
from app.diagrams import figure
from app.session import Session
from app.theme import Theme
from app.viewer_model import Plane, ViewerModel

SLIDER_STEPS = 200
MOST_IN_HISTORY = 30
AS_SEGMENTED = "As segmented"


class CorrectPanel(Section):
    """Which tool, its region, size and limits, and what was done.

    Only the line of tools is there while one is looking; the rest comes with the first tool taken.

    Args:
        theme: Icons.
        model: What is on screen.
        session: The patient.
        corrections: What is in hand and what was done.
        plane: Says which plane is looked at.

    Signals:
        browse: The user wants to copy from a mask in a file; True for everything, False for the region in hand.
    """

    browse = Signal(bool)

    def __init__(
        self,
        theme: Theme,
        model: ViewerModel,
        session: Session,
        corrections: Corrections,
        plane: Callable[[], Plane],
    ) -> None:
        super().__init__("CORRECT")
        self._model, self._session, self._corrections, self._plane = model, session, corrections, plane
        self.undo_button = IconButton(theme, "arrow-u-up-left", "Undo")
        self.redo_button = IconButton(theme, "arrow-u-up-right", "Redo")
        self.history_button = IconButton(theme, "clock-counter-clockwise", "What was corrected")
        self.undo_button.clicked.connect(lambda: corrections.undo())
        self.redo_button.clicked.connect(lambda: corrections.redo())
        self.history_button.clicked.connect(self._open_history)
        for button in (self.undo_button, self.redo_button, self.history_button):
            self.head.addWidget(button)

        self.tools = Segments(
            (
                (Tool.LOOK, "Look", "Look without changing anything (Esc)"),
                (Tool.PAINT, "Paint", "Paint with the left button; Ctrl erases (B)"),
                (Tool.ERASE, "Erase", "Erase with the left button; Ctrl paints (E)"),
                (Tool.ISLAND, "Island", "Remove the piece that is clicked (K)"),
            ),
            "Tool",
        )
        self.tools.chosen.connect(lambda tool: corrections.take(tool=tool))
        self.body.addWidget(self.tools)

        self.options = QWidget()
        column = QVBoxLayout(self.options)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        choices = QHBoxLayout()
        choices.setSpacing(8)
        self.region = Segments(
            (
                (False, "Whole", "Correct the whole tumour (C)"),
                (True, "Core", "Correct the core, which is part of the whole tumour (C)"),
            ),
            "Region",
        )
        self.region.chosen.connect(lambda core: corrections.take(core=core))
        self.extent = Segments(
            (
                (False, "This slice", "A disc on this slice (D)"),
                (True, "3-D", "A ball through all slices (D)"),
            ),
            "Extent",
        )
        self.extent.chosen.connect(lambda ball: corrections.take(ball=ball))
        choices.addWidget(self.region)
        choices.addStretch()
        choices.addWidget(self.extent)
        column.addLayout(choices)
        column.addWidget(self._make_size())
        column.addWidget(self._make_limit())
        column.addLayout(self._make_actions())
        self.body.addWidget(self.options)
        self.note = label("", "small", wrap=True)
        self.note.hide()
        self.body.addWidget(self.note)

        corrections.hand_changed.connect(self._update)
        corrections.hand_changed.connect(lambda: self._say(""))
        corrections.said.connect(self._say)
        corrections.changed.connect(self._update)
        session.stage_changed.connect(self._update)
        model.crosshair_changed.connect(self._update_gap)
        self._update()

    # Parts

    def _make_size(self) -> QWidget:
        self.size_row = QWidget()
        row = QHBoxLayout(self.size_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        name = label("Size", "secondary")
        self.size_slider = QSlider(Qt.Orientation.Horizontal)
        self.size_slider.setRange(0, SLIDER_STEPS)
        self.size_slider.setPageStep(SLIDER_STEPS // 10)
        self.size_slider.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.size_slider.setAccessibleName("Size of the brush")
        self.size_slider.setToolTip("Diameter of the brush (A and S)")
        self.size_slider.valueChanged.connect(lambda value: self._corrections.take(radius_mm=radius_at(value)))
        name.setBuddy(self.size_slider)
        self.size_words = label("")
        self.size_words.setMinimumWidth(52)
        self.size_words.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(name)
        row.addWidget(self.size_slider, 1)
        row.addWidget(self.size_words)
        return self.size_row

    def _make_limit(self) -> QWidget:
        self.limit_row = QWidget()
        row = QHBoxLayout(self.limit_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        self.limit = QCheckBox("Only")
        self.limit.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.limit.setCursor(Qt.CursorShape.PointingHandCursor)
        self.limit.toggled.connect(lambda on: self._corrections.take(limited=on))
        self.low, self.high = QDoubleSpinBox(), QDoubleSpinBox()
        row.addWidget(self.limit)
        row.addStretch()
        for spin, words, between in ((self.low, "Least intensity", "to"), (self.high, "Greatest intensity", "")):
            spin.setAccessibleName(words)
            spin.setToolTip(f"{words} that the brush changes")
            spin.setAlignment(Qt.AlignmentFlag.AlignRight)
            spin.setFixedWidth(74)
            spin.setKeyboardTracking(False)
            spin.lineEdit().setAcceptDrops(False)
            spin.valueChanged.connect(self._set_intensities)
            row.addWidget(spin)
            if between:
                row.addWidget(label(between, "secondary"))
        return self.limit_row

    def _make_actions(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setSpacing(6)
        self.grow_button = push("Grow")
        self.shrink_button = push("Shrink")
        self.growth = QDoubleSpinBox()
        self.growth.setRange(*GROWTH_RANGE_MM)
        self.growth.setDecimals(1)
        self.growth.setSingleStep(0.5)
        self.growth.setSuffix(" mm")
        self.growth.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.growth.setAccessibleName("By how much to grow or shrink")
        self.growth.setToolTip("By how much to grow or shrink")
        self.growth.lineEdit().setAcceptDrops(False)
        self.growth.valueChanged.connect(lambda mm: self._corrections.take(growth_mm=mm))
        self.fill_button = push("Fill holes")
        self.gap_button = push("Interpolate")
        self.copy_button = push("Copy from")
        corrections = self._corrections
        self.grow_button.clicked.connect(lambda: corrections.grow(self._plane(), 1))
        self.shrink_button.clicked.connect(lambda: corrections.grow(self._plane(), -1))
        self.fill_button.clicked.connect(lambda: corrections.fill_holes(self._plane()))
        self.gap_button.clicked.connect(lambda: corrections.interpolate(self._plane()))
        self.copy_button.clicked.connect(self._open_sources)
        for number, part in enumerate(
            (self.grow_button, self.shrink_button, self.growth, self.fill_button, self.gap_button, self.copy_button)
        ):
            part.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            part.setMinimumWidth(40)
            grid.addWidget(part, number // 3, number % 3)
            grid.setColumnStretch(number % 3, 1)
            if isinstance(part, QPushButton):
                part.setObjectName("compact")
        return grid

    # What it shows

    def _update(self) -> None:
        corrections = self._corrections
        hand, why_not = corrections.hand, corrections.why_not
        self.setVisible(self._session.result is not None)
        if self._session.result is None:
            return
        self.tools.set(hand.tool)
        self.tools.setEnabled(not why_not)
        self.options.setVisible(hand.tool is not Tool.LOOK)
        self.options.setEnabled(not why_not)
        self.options.setToolTip(why_not)
        self.region.set(hand.core)
        self.extent.set(hand.ball)
        self.size_row.setVisible(hand.tool.draws)
        self.limit_row.setVisible(hand.tool.draws)
        self.size_slider.blockSignals(True)
        self.size_slider.setValue(place_of(hand.radius_mm))
        self.size_slider.blockSignals(False)
        diameter = 2 * hand.radius_mm
        self.size_words.setText(f"{diameter:.1f} mm" if diameter < 10 else f"{diameter:.0f} mm")
        self._update_limit()
        self._update_actions()
        self._update_history()

    def _say(self, words: str) -> None:
        self.note.setText(words)
        self.note.setVisible(bool(words))

    def _update_limit(self) -> None:
        corrections = self._corrections
        why_not = corrections.limit_why_not
        self.limit.blockSignals(True)
        self.limit.setChecked(corrections.hand.limited and not why_not)
        self.limit.blockSignals(False)
        self.limit.setText(f"Only {corrections.layer_name}")
        self.limit.setAccessibleName(f"Change only voxels of some intensities in {corrections.layer_name}")
        self.limit.setEnabled(not why_not)
        self.limit.setToolTip(why_not or f"The brush leaves other intensities of {corrections.layer_name} alone")
        on = self.limit.isChecked()
        layer = self._model.layer
        for spin in (self.low, self.high):
            spin.setEnabled(on)
            spin.setToolTip(why_not or "Tick the box first.")
        if why_not or layer is None or not corrections.hand.tool.draws:
            return
        scale = layer.span[1] - layer.span[0]
        shown = figure(scale, scale)
        digits = len(shown.partition(".")[2])
        for spin, value, words in zip(
            (self.low, self.high), corrections.intensities, ("Least", "Greatest"), strict=True
        ):
            spin.blockSignals(True)
            spin.setDecimals(digits)
            spin.setRange(-1e7, 1e7)
            spin.setSingleStep(scale / 100)
            spin.setValue(value)
            spin.blockSignals(False)
            if on:
                spin.setToolTip(f"{words} intensity that the brush changes")

    def _update_actions(self) -> None:
        hand = self._corrections.hand
        what = "core" if hand.core else "whole tumour"
        where = "" if hand.ball else " on this slice"
        self.growth.blockSignals(True)
        self.growth.setValue(hand.growth_mm)
        self.growth.blockSignals(False)
        inside = ", inside the whole tumour" if hand.core else ""
        self.grow_button.setToolTip(f"Move the surface of the {what} outwards{where}{inside}")
        self.shrink_button.setToolTip(f"Move the surface of the {what} inwards{where}")
        self.fill_button.setToolTip(f"Fill what the {what} encloses{where} (H)")
        self.copy_button.setToolTip("Take a region from another mask of the same scan")
        self._update_gap()

    def _update_gap(self) -> None:
        if self.options.isHidden():
            return
        gap = self._corrections.gap(self._plane())
        # It changes with every slice, so it stays pressable and says in words what is missing.
        if gap is not None and self._corrections.editor is not None:
            grid = self._corrections.editor.grid
            first, last = (end.words(grid) for end in gap)
            self.gap_button.setToolTip(f"Fill in the slices between {first} and {last.split()[1]} (J)")
        else:
            self.gap_button.setToolTip("Fill in the slices between two that were drawn on (J)")

    def _update_history(self) -> None:
        corrections = self._corrections
        applied, undone = corrections.applied, corrections.undone
        for button, edits, verb, keys in (
            (self.undo_button, applied[-1:], "Undo", "Ctrl+Z"),
            (self.redo_button, undone[:1], "Redo", "Ctrl+Shift+Z"),
        ):
            button.setEnabled(bool(edits))
            button.say(f"{verb} {edits[0].name} ({keys})" if edits else f"Nothing to {verb.lower()}")
        self.history_button.setEnabled(bool(applied or undone))
        count = len(applied)
        words = {0: "Nothing was corrected", 1: "1 correction"}.get(count, f"{count} corrections")
        self.history_button.say(f"{words}; choose one to go back to" if applied or undone else words)

    # Menus

    def history(self) -> QMenu:
        """Every state of the mask, the last on top; choosing one goes there."""
        corrections = self._corrections
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        now = len(corrections.applied)
        names = [AS_SEGMENTED, *(edit.name.capitalize() for edit in (*corrections.applied, *corrections.undone))]
        nearest = range(max(1, now + MOST_IN_HISTORY // 2 - MOST_IN_HISTORY), len(names))[:MOST_IN_HISTORY]
        for state in (*reversed(nearest), 0):
            entry = QAction(names[state], menu)
            entry.setCheckable(True)
            entry.setChecked(state == now)
            entry.triggered.connect(lambda _=False, state=state: self._go_to(state))
            menu.addAction(entry)
        return menu

    def sources(self) -> QMenu:
        """The masks that can be copied from."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        what = "Core" if self._corrections.hand.core else "Whole tumour"
        other = self._model.other
        # An earlier scan's tumour is that of another day.
        if other is not None and other.mask is not None and not other.layers:
            labels, name = other.mask.labels, other.name
            for everything, words in ((False, f"{what} of {name}"), (True, f"Everything of {name}")):
                entry = QAction(words, menu)
                entry.triggered.connect(
                    lambda _=False, everything=everything: self._corrections.copy_from(labels, name, everything)
                )
                menu.addAction(entry)
            menu.addSeparator()
        for everything, words in ((False, f"{what} of a mask file..."), (True, "Everything of a mask file...")):
            entry = QAction(words, menu)
            entry.triggered.connect(lambda _=False, everything=everything: self.browse.emit(everything))
            menu.addAction(entry)
        return menu

    def _open_history(self) -> None:
        self.history().popup(self.history_button.mapToGlobal(self.history_button.rect().bottomLeft()))

    def _open_sources(self) -> None:
        self.sources().popup(self.copy_button.mapToGlobal(self.copy_button.rect().bottomLeft()))

    def _go_to(self, state: int) -> None:
        now = len(self._corrections.applied)
        if state < now:
            self._corrections.undo(now - state)
        else:
            self._corrections.redo(state - now)

    def _set_intensities(self) -> None:
        self._corrections.set_intensities(self.low.value(), self.high.value())


def radius_at(place: int) -> float:
    """The radius in mm at a place of the slider, whose steps are ratios."""
    low, high = RADIUS_RANGE_MM
    return low * float((high / low) ** (place / SLIDER_STEPS))


def place_of(radius_mm: float) -> int:
    """The place of the slider for a radius in mm."""
    low, high = RADIUS_RANGE_MM
    return round(SLIDER_STEPS * math.log(radius_mm / low) / math.log(high / low))
