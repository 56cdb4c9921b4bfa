"""The model and why, the one button, and the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QAction, QColor, QIcon, QPixmap
from PySide6.QtWidgets import (
    QColorDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from app.controls import IconButton, IconLabel, MenuButton, Section, Segments, Swatch, label, push
from app.session import Session, Stage
from app.theme import Theme
from app.viewer_model import Map, MaskStyle, ViewerModel
from engine.volume import in_words, interval_in_words, ml_in_words

if TYPE_CHECKING:
    from engine.export import Saved

# Okabe and Ito's, without black and grey.
SAFE_COLOURS = {
    "Sky blue": "#56B4E9",
    "Orange": "#E69F00",
    "Green": "#009E73",
    "Yellow": "#F0E442",
    "Blue": "#0072B2",
    "Vermilion": "#D55E00",
    "Purple": "#CC79A7",
}


class SegmentPanel(Section):
    """Which model, why, how good, and Segment, which is Cancel while it works.

    Nothing moves when the work begins or ends: the line under the button is always there.
    """

    def __init__(self, theme: Theme, session: Session) -> None:
        super().__init__("MODEL")
        self._session = session
        self.title = label("", wrap=True)
        self.reason = label("", "secondary", wrap=True)
        self.body.addWidget(self.title)
        self.body.addWidget(self.reason)
        self.body.addSpacing(2)

        self.button = push("Segment", "primary")
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.button.clicked.connect(self._pressed)
        self.body.addWidget(self.button)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress")
        keep = self.bar.sizePolicy()
        keep.setRetainSizeWhenHidden(True)
        self.bar.setSizePolicy(keep)
        self.body.addWidget(self.bar)
        line = QHBoxLayout()
        self.step = label("", "small")
        self.left = label("", "small")
        line.addWidget(self.step, 1)
        line.addWidget(self.left)
        self.body.addLayout(line)

        session.patient_changed.connect(self._update)
        session.stage_changed.connect(self._update)
        session.result_changed.connect(self._update)
        session.progressed.connect(self._progress)
        self._update()

    def _pressed(self) -> None:
        if self._session.stage in (Stage.SEGMENTING, Stage.PREPARING):
            self._session.cancel()
        else:
            self._session.segment()

    def _update(self) -> None:
        session = self._session
        choice, stage = session.choice, session.stage
        working = stage in (Stage.SEGMENTING, Stage.PREPARING, Stage.STOPPING)
        if choice is not None:
            title = choice.card.title
            self.title.setText(title[:1].upper() + title[1:])
            self.reason.setText(choice.reason)
        else:
            self.title.setText("")
            doing = {Stage.LOADING: "Reading the scans.", Stage.PREPARING: "Preparing the scans."}
            self.reason.setText(doing.get(stage, session.why_not))
        self.title.setVisible(choice is not None)
        self.reason.setVisible(bool(self.reason.text()))

        names = {
            Stage.SEGMENTING: "Cancel",
            Stage.PREPARING: "Cancel",
            Stage.STOPPING: "Stopping",
            Stage.DONE: "Segment again",
        }
        words = names.get(stage, "Segment")
        self.button.setText(words)
        self.button.setAccessibleName(words)
        # One button at a time is the one to press: Segment, and once there is a result, Save.
        name = "large" if working or stage is Stage.DONE else "primary"
        if self.button.objectName() != name:
            self.button.setObjectName(name)
            self.button.style().unpolish(self.button)
            self.button.style().polish(self.button)
        able = stage in (Stage.SEGMENTING, Stage.PREPARING) or (
            choice is not None and stage in (Stage.READY, Stage.DONE)
        )
        self.button.setEnabled(able)
        if stage is Stage.STOPPING:
            self.button.setToolTip("It stops at the end of the step under way.")
        elif able:
            self.button.setToolTip("Stop (Esc)" if working else "Outline the tumour (Ctrl+Return)")
        else:
            self.button.setToolTip(session.why_not or "The scans are being read.")

        busy = working or stage is Stage.LOADING
        self.bar.setVisible(busy)
        if not busy:
            self.bar.setValue(0)
            self.left.setText("")
            self.step.setText("")
        elif stage is Stage.STOPPING:
            self.step.setText("stopping after this step")
            self.left.setText("")
        elif self.bar.value() == 0:
            self.step.setText("starting" if working else "reading")

    def _progress(self, fraction: float, message: str, left: float | None) -> None:
        if self._session.stage is Stage.STOPPING:
            return
        self.bar.setValue(round(1000 * fraction))
        self.step.setText(message)
        self.left.setText("" if left is None else f"{max(1, round(left))} s left")


class ResultPanel(Section):
    """Volumes, how the masks are drawn, and Save.

    Signals:
        save: The user wants to save.
        report: The user wants a report.
    """

    save = Signal()
    report = Signal()

    def __init__(self, theme: Theme, model: ViewerModel, session: Session) -> None:
        super().__init__("RESULT")
        self.setProperty("last", "true")
        self._theme, self._model, self._session = theme, model, session
        self.go_button = IconButton(theme, "crosshair-simple", "Go to the largest slice (G)")
        self.go_button.clicked.connect(session.go_to_largest)
        self.head.addWidget(self.go_button)

        self.doubts: list[QLabel] = []
        self._doubts = QVBoxLayout()
        self._doubts.setSpacing(6)
        self.body.addLayout(self._doubts)
        self.read_button = push("Show the mask", "primary", "The mask, now that this was read")
        self.read_button.clicked.connect(session.read_doubts)
        self.body.addWidget(self.read_button)
        self._rest = QWidget()
        rest = QVBoxLayout(self._rest)
        rest.setContentsMargins(0, 0, 0, 0)
        rest.setSpacing(self.body.spacing())
        self.body.addWidget(self._rest)

        grid = QGridLayout()
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        self.swatches: dict[str, Swatch] = {}
        self.eyes: dict[str, IconButton] = {}
        self.volumes: dict[str, QWidget] = {}
        self.intervals: dict[str, QLabel] = {}
        self._values = {}
        for row, (region, title) in enumerate((("whole_tumour", "Whole tumour"), ("core", "Core"))):
            swatch = Swatch(getattr(model.overlay, region), title.lower())
            swatch.clicked.connect(lambda _=False, r=region: self._recolour(r))
            eye = IconButton(theme, "eye", f"Hide the {title.lower()}")
            eye.clicked.connect(lambda _=False, r=region: self._toggle(r))
            value = label("")
            value.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            value.setAccessibleName(f"Volume of the {title.lower()}")
            # On a line of its own: beside the volume it would not fit into the panel.
            interval = label("", "small")
            interval.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignTop)
            interval.setAccessibleName(f"90 % interval of the {title.lower()}")
            interval.setToolTip("In 90 of 100 patients the true volume, in ml, lies between these.")
            grid.addWidget(swatch, 2 * row, 0)
            grid.addWidget(label(title), 2 * row, 1)
            grid.addWidget(value, 2 * row, 2)
            grid.addWidget(eye, 2 * row, 3)
            grid.addWidget(interval, 2 * row + 1, 1, 1, 2)
            self.intervals[region] = interval
            self.swatches[region], self.eyes[region], self._values[region] = swatch, eye, value
        self.volumes = dict(self._values)
        rest.addLayout(grid)

        look = QHBoxLayout()
        look.setSpacing(10)
        name = label("Opacity", "secondary")
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setPageStep(10)
        self.opacity.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.opacity.setAccessibleName("Opacity of the fill")
        self.opacity.setToolTip("Opacity of the fill ([ and ])")
        self.opacity.valueChanged.connect(lambda value: model.set_overlay(opacity=value / 100))
        name.setBuddy(self.opacity)
        self.style_choice = Segments(
            (
                (MaskStyle.BOTH, "Both", "Fill and outline (O)"),
                (MaskStyle.FILL, "Fill", "Fill alone (O)"),
                (MaskStyle.OUTLINE, "Line", "Outline alone (O)"),
            ),
            "How masks are drawn",
        )
        self.style_choice.chosen.connect(lambda style: model.set_overlay(style=style))
        look.addWidget(name)
        look.addWidget(self.opacity, 1)
        look.addWidget(self.style_choice)
        rest.addLayout(look)
        self.map_button = MenuButton(theme, "What is painted over the scan (V)")
        self.map_button.clicked.connect(self._choose_map)
        rest.addWidget(self.map_button)

        self.save_button = push("Save", "primary", "Save the mask and a record of how it was made (Ctrl+S)")
        self.save_button.clicked.connect(self.save)
        self.save_button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.report_button = push(
            "Report", "", "A page of pictures and numbers to file, and a figure for print (Ctrl+R)"
        )
        self.report_button.clicked.connect(self.report)
        self.report_button.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Ignored)  # as high as Save
        buttons = QHBoxLayout()
        buttons.addWidget(self.save_button, 1)
        buttons.addWidget(self.report_button)
        rest.addLayout(buttons)
        self._tick = IconLabel(theme, "check-circle")
        self.saved = label("", "small", wrap=True)
        done = QHBoxLayout()
        done.setSpacing(8)
        done.addWidget(self._tick, 0, Qt.AlignmentFlag.AlignTop)
        done.addWidget(self.saved, 1)
        rest.addLayout(done)
        self.notes = label("", "small", wrap=True)
        rest.addWidget(self.notes)

        session.result_changed.connect(self._update)
        session.saved_changed.connect(self._update)
        session.saving_changed.connect(self._update)
        session.stage_changed.connect(self._update)
        model.overlay_changed.connect(self._update_look)
        self._update()
        self._update_look()

    def _update(self) -> None:
        result, saved = self._session.result, self._session.saved
        self._show_doubts()
        self.setVisible(result is not None or self._session.unread)
        self._rest.setVisible(result is not None)
        self.go_button.setVisible(result is not None)
        self.read_button.setVisible(self._session.unread)
        if result is None:
            return
        self.show_volumes(result.segmentation.volumes_ml, result.segmentation.intervals_ml)
        self.go_button.setEnabled(result.mask.largest is not None)
        for button in (self.save_button, self.report_button):
            button.setEnabled(self._session.stage is Stage.DONE)
        lines = []
        if saved is not None:
            beside = ", ".join(path.name for path in saved.more.values())
            lines = [
                _files_in_words(saved),
                saved.verified,
                *([f"Beside it: {beside}."] if beside else []),
                *saved.notes,
            ]
        saving = self._session.saving
        self.saved.setText(saving or "\n".join(lines))
        self.saved.setToolTip(str(saved.mask) if saved is not None and not saving else "")
        self._tick.setVisible(saved is not None and not saving)
        self.saved.setVisible(bool(self.saved.text()))
        above = {doubt.sentence for doubt in self._session.doubts}
        notes = [note for note in result.segmentation.notes if note not in above]
        self.notes.setText(" ".join(filter(None, (result.segmentation.edited_words, *notes))))
        self.notes.setVisible(bool(self.notes.text()))

    def _show_doubts(self) -> None:
        """What speaks against the mask, before the mask itself."""
        for old in self.doubts:
            self._doubts.removeWidget(old)
            old.hide()
            old.deleteLater()
        self.doubts = []
        for doubt in self._session.doubts:
            note = label(doubt.sentence, "doubt", wrap=True)
            note.setAccessibleName(doubt.sentence)
            self._doubts.addWidget(note)
            self.doubts.append(note)

    def show_volumes(
        self, volumes_ml: dict[str, float], intervals_ml: dict[str, tuple[float, float] | None] | None = None
    ) -> None:
        """Show volumes in ml; while the mask is corrected they follow the brush, and no interval was measured."""
        for region, key in (("whole_tumour", "whole_tumour"), ("core", "tumour_core")):
            interval = intervals_ml[key] if intervals_ml is not None else None
            self._values[region].setText(ml_in_words(volumes_ml[key]))
            self.intervals[region].setText("" if interval is None else f"({interval_in_words(interval)})")
            self.intervals[region].setVisible(interval is not None)

    def _update_look(self) -> None:
        overlay = self._model.overlay
        self.opacity.blockSignals(True)
        self.opacity.setValue(round(100 * overlay.opacity))
        self.opacity.blockSignals(False)
        self.opacity.setEnabled(overlay.filled)
        self.opacity.setToolTip(
            "Opacity of the fill ([ and ])" if overlay.filled else "The outline alone has no fill; choose Fill first."
        )
        self.style_choice.set(overlay.style)
        self.map_button.setText(overlay.map.title)
        self.map_button.setAccessibleName(f"Painted over the scan: {overlay.map.title}")
        for region, shown in (("whole_tumour", overlay.whole_tumour_shown), ("core", overlay.core_shown)):
            title = region.replace("_", " ")
            self.eyes[region].draw("eye" if shown else "eye-slash")
            self.eyes[region].say(f"Hide the {title}" if shown else f"Show the {title}")
            self.swatches[region].set_colour(getattr(overlay, region))

    def map_menu(self) -> QMenu:
        """What can be painted over the scan; what cannot says why."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.setToolTipsVisible(True)
        possible = self._model.maps
        for kind in Map:
            choice = QAction(kind.title, menu)
            choice.setCheckable(True)
            choice.setChecked(self._model.overlay.map is kind)
            choice.setEnabled(kind in possible)
            choice.setToolTip("" if kind in possible else
                              "Choose something to compare with first." if kind is Map.DISAGREEMENT else
                              "This mask has no probabilities.")  # fmt: skip
            choice.triggered.connect(lambda _=False, kind=kind: self._model.set_overlay(map=kind))
            menu.addAction(choice)
        return menu

    def _choose_map(self) -> None:
        self.map_menu().popup(self.map_button.mapToGlobal(self.map_button.rect().bottomLeft()))

    def _toggle(self, region: str) -> None:
        now = getattr(self._model.overlay, f"{region}_shown")
        self._model.set_overlay(**{f"{region}_shown": not now})

    def colour_menu(self, region: str) -> QMenu:
        """Colours that people who see red and green alike can tell apart, and any other."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for name, colour in SAFE_COLOURS.items():
            patch = QPixmap(14, 14)
            patch.fill(QColor(colour))
            choice = QAction(QIcon(patch), name, menu)
            choice.setCheckable(True)
            choice.setChecked(self.swatches[region].colour == colour)
            choice.triggered.connect(lambda _=False, colour=colour: self._model.set_overlay(**{region: colour}))
            menu.addAction(choice)
        menu.addSeparator()
        other = QAction("Another colour...", menu)
        other.triggered.connect(lambda: self._any_colour(region))
        menu.addAction(other)
        return menu

    def _recolour(self, region: str) -> None:
        swatch = self.swatches[region]
        self.colour_menu(region).popup(swatch.mapToGlobal(swatch.rect().bottomLeft()))

    def _any_colour(self, region: str) -> None:
        before = QColor(self.swatches[region].colour)
        dialog = QColorDialog(before, self)
        dialog.setOption(QColorDialog.ColorDialogOption.DontUseNativeDialog)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setWindowTitle(f"Colour of the {region.replace('_', ' ')}")
        # The picture follows while choosing; leaving without choosing brings the old colour back.
        dialog.currentColorChanged.connect(lambda colour: self._model.set_overlay(**{region: colour.name().upper()}))
        dialog.rejected.connect(lambda: self._model.set_overlay(**{region: before.name().upper()}))
        dialog.open()


def _files_in_words(saved: Saved) -> str:
    """The masks that were written."""
    if not saved.others:
        return saved.mask.name
    return f"{saved.mask.name}, and on the grids of their own files those of {in_words(saved.others)}"
