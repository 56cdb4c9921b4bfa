"""The window: header, side panel, pictures, readout, footer, and every key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import platformdirs
from PySide6.QtCore import QByteArray, QMimeData, QPoint, Qt, QTimer
from PySide6.QtGui import (
    QAction,
    QActionGroup,
    QCloseEvent,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDragMoveEvent,
    QDropEvent,
    QImage,
    QKeyEvent,
    QKeySequence,
)
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QMainWindow,
    QMenu,
    QScrollArea,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app import DEMO, picture
from app.brush import BrushTool
from app.cards import Banner, Card, DropTargets, about_card, first_run_card, shortcut_card
from app.case_file import ENDING, is_case
from app.cases import Cases
from app.controls import ElidedLabel, IconButton, Segments, action, label, push
from app.correct_panel import CorrectPanel
from app.correcting import RADIUS_STEP, Corrections, Tool
from app.jobs import Jobs
from app.layers_panel import LayersPanel
from app.layouts import Layouts
from app.nudging import NudgeTool, screen_step
from app.preparation_panel import CheckBar, PreparationPanel
from app.preparing import FINE, STEP_DEG, STEP_MM, Preparation
from app.readout import Readout
from app.review import TRUTH, Look, Review
from app.ruler import RulerTool
from app.segment_panel import ResultPanel, SegmentPanel
from app.series_card import SeriesCard
from app.session import Session, Stage, Studies
from app.settings import Settings
from app.shortcuts import bind, in_group, sheet
from app.slice_view import Tool as SliceTool
from app.speech import SliceSpeech
from app.surface_cell import SurfaceCell
from app.telling import Problem
from app.theme import Theme
from app.tour import Step, Tour
from app.viewer_model import PRESETS, Layout, Plane, ViewerModel
from app.welcome import Emblem, Welcome
from engine.volume import Sequence

if TYPE_CHECKING:
    from app.batch_page import BatchPage
    from app.follow_up import FollowUpWindow
    from app.training_background import TrainingBackground
    from app.training_wizard import TrainingWizard
    from engine.model_card import ModelCard
    from engine.outputs import Wanted

Choice = TypeVar("Choice", bound=Enum)

PANEL_WIDTH = 304
SWIPE_STEP = 0.02
TRAIN_YOUR_OWN = "Train your own"
BATCH = "Batch"
# That of `engine.batch.JOB`, told without loading what a batch needs.
BATCH_FILE = "batch.json"
# From so many patients on, one after the other is more than anybody wants to click through.
MANY = 4
SCANS = "MRI scans (*.nii *.nii.gz)"
SCANS_AND_CASES = f"MRI scans and cases (*.nii *.nii.gz *{ENDING})"
CASES = f"Cases (*{ENDING})"


class MainWindow(QMainWindow):
    """Gliascope's window.

    Args:
        settings: What is remembered from one start to the next.
        theme: The colours.
        model: What is on screen.
        session: The patient.
        jobs: Everything that runs away from the UI thread.
    """

    def __init__(self, settings: Settings, theme: Theme, model: ViewerModel, session: Session, jobs: Jobs) -> None:
        super().__init__()
        self.settings, self.theme, self.model, self.session, self.jobs = settings, theme, model, session, jobs
        self._card: Card | None = None
        self._before_full = False
        self.setWindowTitle("Gliascope")
        self.setAcceptDrops(True)
        self.resize(1440, 900)
        self.setMinimumSize(1024, 680)

        self.review = Review(model, session, jobs, self)
        self.surface = SurfaceCell(theme, model, jobs, session.recorder)
        self.layouts = Layouts(theme, model, self.review, self.surface)
        self.ortho = self.layouts.ortho
        self._ruler = RulerTool(model)
        self.welcome = Welcome(theme)
        self.layers = LayersPanel(theme, model, session)
        self.segment = SegmentPanel(theme, session)
        self.result = ResultPanel(theme, model, session)
        self.corrections = Corrections(model, session, jobs, self)
        self.correct = CorrectPanel(theme, model, session, self.corrections, lambda: self.layouts.active.plane)
        self._brush = BrushTool(self.corrections)
        self.preparation = Preparation(model, session, jobs, self)
        self.prepared = PreparationPanel(theme, session, self.preparation)
        self.check_bar = CheckBar(theme, self.preparation)
        self._brain_brush = BrushTool(self.preparation)
        self._nudge = NudgeTool(self.preparation, model)
        self.cases = Cases(model, session, jobs, self.corrections, settings, self)
        self.wizard: TrainingWizard | None = None
        self.follow_up: FollowUpWindow | None = None
        self.batch: BatchPage | None = None
        self._source: list[Path] = []
        self._background: TrainingBackground | None = None
        self._wanted: Look | None = None
        self.banner = Banner(theme, session)
        self.banner.volume_chosen.connect(session.choose_volume)
        self.readout = Readout(model)

        self.panel = QScrollArea()
        self.panel.setObjectName("panel")
        self.panel.setFixedWidth(PANEL_WIDTH)
        self.panel.setWidgetResizable(True)
        self.panel.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.panel.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        inside = QWidget()
        inside.setObjectName("panelBody")
        stack = QVBoxLayout(inside)
        stack.setContentsMargins(0, 0, 0, 0)
        stack.setSpacing(0)
        for section in (self.layers, self.prepared, self.segment, self.result, self.correct):
            stack.addWidget(section)
        stack.addStretch()
        self.panel.setWidget(inside)

        pictures = QWidget()
        column = QVBoxLayout(pictures)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.check_bar)
        column.addWidget(self.layouts, 1)
        column.addWidget(self.readout)
        desk = QWidget()
        row = QHBoxLayout(desk)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        row.addWidget(self.panel)
        row.addWidget(pictures, 1)
        self.pages = QStackedWidget()
        self.pages.addWidget(self.welcome)
        self.pages.addWidget(desk)

        self._message = QWidget()
        self._message.setObjectName("surface")
        self._message.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        around = QVBoxLayout(self._message)
        around.setContentsMargins(10, 10, 10, 10)
        around.addWidget(self.banner)

        self._surface = QWidget()
        self._surface.setObjectName("surface")
        everything = QVBoxLayout(self._surface)
        everything.setContentsMargins(0, 0, 0, 0)
        everything.setSpacing(0)
        self._header, self._footer = self._make_header(), self._make_footer()
        everything.addWidget(self._header)
        everything.addWidget(self._message)
        everything.addWidget(self.pages, 1)
        everything.addWidget(self._footer)
        self.setCentralWidget(self._surface)
        self._targets = DropTargets(theme, self._surface)

        self.welcome.browse.connect(self.browse_files)
        self.welcome.browse_folder.connect(self.browse_folder)
        self.welcome.demo.connect(lambda: session.open_demo())
        self.layers.browse.connect(self.browse_more)
        self.result.save.connect(lambda: self.save())
        self.result.report.connect(self.save_report)
        self.surface.failed.connect(session.fail)
        session.patient_changed.connect(self._update)
        session.stage_changed.connect(self._update)
        session.patient_changed.connect(self._look)
        session.patient_changed.connect(self._offer_batch)
        session.result_changed.connect(self._update)
        session.result_changed.connect(self._show_doubts)
        session.problem_changed.connect(self._update_message)
        self.correct.browse.connect(self.copy_from_file)
        self.cases.folder_wanted.connect(self.find_scans)
        self.cases.recent_changed.connect(self._update_recent)
        self._update_recent()
        self.corrections.hand_changed.connect(self._update_tool)
        self.preparation.changed.connect(self._update_looking)
        self.preparation.hand_changed.connect(self._update_tool)
        self.preparation.hand_changed.connect(self._update_corrections)
        self.prepared.series.connect(session.choose_series)
        session.series_wanted.connect(self.show_series)
        self.panel.verticalScrollBar().rangeChanged.connect(self._show_tools)
        self.corrections.changed.connect(self._update_corrections)
        self.corrections.volumes_changed.connect(self.result.show_volumes)
        model.convention_changed.connect(self._update_convention)
        model.layout_changed.connect(self._update_layout)
        model.ruler_changed.connect(self._update_ruler)
        self.layouts.compare.browse_mask.connect(self.browse_mask)
        self.layouts.compare.browse_earlier.connect(self.browse_earlier)
        theme.changed.connect(self._update)
        self._speech = SliceSpeech(model, self)
        self._bind_keys()
        self._update()
        self._update_message()
        self._update_convention()
        self._update_corrections()
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        application.focusChanged.connect(self._focus_moved)
        self._restore()
        # Nothing looks chosen before anything was: the first Tab goes to the first control.
        self._surface.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self._surface.setFocus(Qt.FocusReason.OtherFocusReason)

    # Header and footer

    def _make_header(self) -> QWidget:
        header = QFrame()
        header.setObjectName("header")
        header.setFixedHeight(48)
        row = QHBoxLayout(header)
        row.setContentsMargins(14, 0, 10, 0)
        row.setSpacing(8)
        row.addWidget(Emblem(self.theme, 22))
        row.addWidget(label("Gliascope", "wordmark"))
        row.addSpacing(18)
        self.patient_button = QToolButton()
        self.patient_button.setObjectName("flat")
        self.patient_button.setLayoutDirection(Qt.LayoutDirection.RightToLeft)
        self.patient_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.patient_button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.patient_button.clicked.connect(self._choose_patient)
        self.patient_name = ElidedLabel("", "secondary")
        row.addWidget(self.patient_button)
        row.addWidget(self.patient_name, 1)
        row.addStretch()
        layouts = {
            Layout.PLANES: ("3 planes", "Three planes (F2)"),
            Layout.SURFACE: ("3-D", "Three planes and the surface (F3)"),
            Layout.PLANE: ("One", "One big plane (F4, or double-click it)"),
            Layout.SEQUENCES: ("Sequences", "Every sequence side by side (F5)"),
            Layout.COMPARE: ("Compare", "Two results side by side or swiped (F6)"),
        }
        self.layout_choice = Segments(
            tuple((layout, *layouts[layout]) for layout in layouts if layout in self.layouts.offered), "Layout"
        )
        self.layout_choice.chosen.connect(lambda layout: self._lay_out(layout=layout))
        self.plane_choice = Segments(
            tuple((plane, plane.title[0], f"{plane.title} (P for the next)") for plane in reversed(Plane)), "Plane"
        )
        self.plane_choice.chosen.connect(lambda plane: self._lay_out(plane=plane))
        self.side_choice = Segments(
            (
                (True, "R | L", "Radiological: the patient's left on the right of the screen (R)"),
                (False, "L | R", "Neurological: the patient's left on the left of the screen (R)"),
            ),
            "Side",
        )
        self.side_choice.chosen.connect(lambda radiological: self.model.set_radiological(bool(radiological)))
        row.addWidget(self.plane_choice)
        row.addSpacing(4)
        row.addWidget(self.layout_choice)
        row.addSpacing(4)
        row.addWidget(self.side_choice)
        row.addSpacing(4)
        self.batch_button = push(BATCH, "flat", "Segment many patients at once (Ctrl+B)")
        self.batch_button.clicked.connect(lambda: self.show_batch())
        row.addWidget(self.batch_button)
        self.train_button = push(TRAIN_YOUR_OWN, "flat", "Train models on patients of your own (Ctrl+T)")
        self.train_button.clicked.connect(lambda: self.show_training())
        row.addWidget(self.train_button)
        self.panel_button = IconButton(self.theme, "layout", "Side panel (F9)")
        self.panel_button.clicked.connect(self.toggle_panel)
        self.help_button = IconButton(self.theme, "question", "Keys and mouse (?)")
        self.help_button.clicked.connect(self.show_shortcuts)
        self.more_button = IconButton(self.theme, "dots-three-vertical", "More")
        self.more_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.more_button.setMenu(self._make_menu())
        for button in (self.panel_button, self.help_button, self.more_button):
            row.addWidget(button)
        return header

    def _make_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self.menu_actions: dict[str, QAction] = {}
        for text, keys, act in (
            ("Open files...", "Ctrl+O", self.browse_files),
            ("Open a folder...", "Ctrl+Shift+O", self.browse_folder),
            ("Demo patient", "Ctrl+D", lambda: self.session.open_demo()),
            ("Save...", "Ctrl+S", self.save),
            ("Save more than the masks...", "Ctrl+Alt+S", self.save_more),
            ("Report and figure sheet...", "Ctrl+R", self.save_report),
            ("Save the case...", "Ctrl+Shift+S", self.save_case),
            ("Save a picture...", "Ctrl+P", self.save_picture),
            ("Verify a result...", "Ctrl+Shift+V", self.verify),
            ("Close the patient", "Ctrl+W", self.session.close),
            ("Follow-up...", "Ctrl+F", self.show_follow_up),
            (f"{BATCH}...", "Ctrl+B", self.show_batch),
            (f"{TRAIN_YOUR_OWN}...", "Ctrl+T", self.show_training),
            ("Add to the training set", "", self.cases.learn_from),
        ):
            entry = action(text, self, keys)
            entry.triggered.connect(lambda _=False, act=act: act())
            if act == self.show_follow_up:
                menu.addSeparator()
            menu.addAction(entry)
            self.menu_actions[text.rstrip(".")] = entry
            if act == self.browse_folder:
                self.recent_menu = menu.addMenu("Recent cases")
                self.recent_menu.setToolTipsVisible(True)
            # Menus give their shortcuts to the window only through the window's own list.
            self.addAction(entry)
        menu.addSeparator()
        for name, both, act in (
            ("Undo", ("Ctrl+Z",), lambda: self._drawn.undo()),
            ("Redo", ("Ctrl+Shift+Z", "Ctrl+Y"), lambda: self._drawn.redo()),
        ):
            entry = in_group(action(name, self), "Correct")
            entry.setShortcuts([QKeySequence(key) for key in both])
            entry.triggered.connect(lambda _=False, act=act: act())
            menu.addAction(entry)
            self.menu_actions[name] = entry
            self.addAction(entry)
        menu.addSeparator()
        for text, keys, act in (
            ("Measure", "M", self.measure),
            ("Show voxels as they are", "I", lambda: self.model.set_interpolated(not self.model.interpolated)),
            ("Sagittal nose to the right", "Shift+R", lambda: self.model.set_nose_left(not self.model.nose_left)),
            ("Full screen", "F11", self.toggle_full_screen),
        ):
            entry = action(text, self, keys)
            entry.setCheckable(text != "Measure")
            entry.triggered.connect(lambda _=False, act=act: self._pressed(act))
            menu.addAction(entry)
            self.menu_actions[text] = entry
            in_group(entry, {"Measure": "Tumour", "Full screen": "Layouts"}.get(text, "Look"))
            self.addAction(entry)
        menu.addSeparator()
        looks = menu.addMenu("Appearance")
        group = QActionGroup(self)
        for value, title in (("system", "Like the system"), ("dark", "Dark"), ("light", "Light")):
            entry = action(title, self)
            entry.setCheckable(True)
            entry.setChecked(self.theme.appearance == value)
            entry.triggered.connect(lambda _=False, value=value: self._choose_appearance(value))
            group.addAction(entry)
            looks.addAction(entry)
        menu.addSeparator()
        tour = action("Take the tour", self)
        tour.triggered.connect(self.show_tour)
        menu.addAction(tour)
        about = action("About Gliascope", self)
        about.triggered.connect(self.show_about)
        leave = action("Quit", self, "Ctrl+Q")
        leave.triggered.connect(self.close)
        menu.addActions([about, leave])
        self.addAction(leave)
        return menu

    def _make_footer(self) -> QWidget:
        footer = QFrame()
        footer.setObjectName("footer")
        footer.setFixedHeight(27)
        row = QHBoxLayout(footer)
        row.setContentsMargins(14, 0, 14, 0)
        self.status = label()
        row.addWidget(self.status)
        row.addStretch()
        row.addWidget(label("Research use only"))
        return footer

    # Keys

    def _bind_keys(self) -> None:
        model, session = self.model, self.session
        look, layouts, tumour, correct = "Look", "Layouts", "Tumour", "Correct"
        prepare, work = "Prepare", "Work"
        hands, prepared = self.corrections, self.preparation

        def drawn() -> Corrections | Preparation:
            return prepared if prepared.drawable else hands

        titles = {
            Layout.PLANES: "Three planes",
            Layout.SURFACE: "Three planes and 3-D",
            Layout.PLANE: "One big plane",
            Layout.SEQUENCES: "Every sequence side by side",
            Layout.COMPARE: "Compare two results",
        }
        keys: list[tuple[str, str, str | tuple[str, ...], Callable[[], object]]] = [
            (look, "Next slice", "PgUp", lambda: model.step(self.layouts.active.plane, 1)),
            (look, "Slice before", "PgDown", lambda: model.step(self.layouts.active.plane, -1)),
            (look, "Zoom in", ("+", "="), lambda: model.set_view(model.zoom * 1.2, model.centre)),
            (look, "Zoom out", "-", lambda: model.set_view(model.zoom / 1.2, model.centre)),
            (look, "Whole head again", "0", model.fit),
            (look, "Window for tissue, wide, bright, dark", "W", self._next_preset),
            *(
                (look, f"Show {sequence.title}", str(number), partial(model.show, sequence))
                for number, sequence in enumerate(Sequence, start=1)
            ),
            (look, "Change sides", "R", lambda: model.set_radiological(not model.radiological)),
            *(
                (layouts, titles[layout], f"F{number}", partial(self._lay_out, layout=layout))
                for number, layout in enumerate(Layout, start=2)
            ),
            (layouts, "Next plane", "P", lambda: self._activate(_after(self.layouts.active.plane, -1))),
            (layouts, "Plane before", "Shift+P", lambda: self._activate(_after(self.layouts.active.plane))),
            (layouts, "Line of a swipe to the left", ",", lambda: model.set_layout(swipe=model.swipe - SWIPE_STEP)),
            (layouts, "Line of a swipe to the right", ".", lambda: model.set_layout(swipe=model.swipe + SWIPE_STEP)),
            (layouts, "Side panel", "F9", self.toggle_panel),
            (tumour, "Masks on and off", "Space", lambda: model.set_overlay(visible=not model.overlay.visible)),
            (tumour, "Less opacity", "[", lambda: model.set_overlay(opacity=model.overlay.opacity - 0.1)),
            (tumour, "More opacity", "]", lambda: model.set_overlay(opacity=model.overlay.opacity + 0.1)),
            (tumour, "Fill, outline or both", "O", lambda: model.set_overlay(style=_after(model.overlay.style))),
            (tumour, "Probability, uncertainty, disagreement", "V", self._next_map),
            (
                tumour,
                "Outline of what is compared with",
                "T",
                lambda: model.set_overlay(other_shown=not model.overlay.other_shown),
            ),
            (tumour, "Largest slice", "G", session.go_to_largest),
            (tumour, "Next lesion", "L", lambda: self.review.next_lesion(1)),
            (tumour, "Lesion before", "Shift+L", lambda: self.review.next_lesion(-1)),
            (tumour, "Next place worth a look", "N", lambda: self.review.next_finding(1)),
            (tumour, "Place before", "Shift+N", lambda: self.review.next_finding(-1)),
            (correct, "Paint", "B", lambda: self._take(Tool.PAINT)),
            (correct, "Erase", "E", lambda: self._take(Tool.ERASE)),
            (correct, "Remove an island", "K", lambda: self._take(Tool.ISLAND)),
            (correct, "Whole tumour or core", "C", lambda: hands.take(core=not hands.hand.core)),
            (correct, "This slice or 3-D", "D", lambda: drawn().take(ball=not drawn().hand.ball)),
            (correct, "Smaller brush", "A", lambda: drawn().take(radius_mm=drawn().hand.radius_mm / RADIUS_STEP)),
            (correct, "Larger brush", "S", lambda: drawn().take(radius_mm=drawn().hand.radius_mm * RADIUS_STEP)),
            (
                correct,
                "Use the tool at the crosshair",
                "F",
                lambda: hands.use_at(model.crosshair, self.layouts.active.plane),
            ),
            (correct, "Fill holes", "H", lambda: hands.fill_holes(self.layouts.active.plane)),
            (correct, "Interpolate between slices", "J", lambda: hands.interpolate(self.layouts.active.plane)),
            *(
                (prepare, f"Push the scan {words}", f"Alt+{key}", partial(self._push, *towards))
                for key, words, towards in (
                    ("Left", "left", (-1, 0)),
                    ("Right", "right", (1, 0)),
                    ("Up", "up", (0, -1)),
                    ("Down", "down", (0, 1)),
                )
            ),
            *(
                (prepare, f"Push it a little {words}", f"Alt+Shift+{key}", partial(self._push, *towards, FINE))
                for key, words, towards in (
                    ("Left", "left", (-1, 0)),
                    ("Right", "right", (1, 0)),
                    ("Up", "up", (0, -1)),
                    ("Down", "down", (0, 1)),
                )
            ),
            (prepare, "Turn it against the clock", "Alt+,", lambda: self._turn(-1)),
            (prepare, "Turn it with the clock", "Alt+.", lambda: self._turn(1)),
            (prepare, "Next way to look at a step", "Y", self._next_way),
            (work, "Segment", ("Ctrl+Return", "Ctrl+Enter"), self._segment),
            (work, "Cancel or close", "Esc", self._escape),
            (work, "This sheet", ("?", "F1"), self.show_shortcuts),
        ]
        for group, title, key, act in keys:
            bound = bind(self, group, title, key, partial(self._pressed, act))
            if key == "Space":
                self._space = bound

    def _pressed(self, act: Callable[[], object]) -> None:
        """A key of the window: nothing under a card can be reached, and Esc closes the card."""
        if self._card is None:
            act()
        elif act == self._escape:
            self._card.leave()

    def _focus_moved(self, before: QWidget | None, now: QWidget | None) -> None:
        # Space presses the button that was reached by Tab; anywhere else it switches the masks.
        self._space.setEnabled(not isinstance(now, QAbstractButton))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        arrows = (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down)
        if self._card is None and event.key() in arrows and self.model.layer is not None:
            # Whatever has the focus did not want the arrow; the plane last pointed at does.
            self.layouts.active.keyPressEvent(event)
            return
        focus = QApplication.focusWidget()
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._card is None:
            if isinstance(focus, QAbstractButton):
                focus.click()
            elif self.model.layer is not None:
                self.layouts.toggle_big()
                self._focus_pictures()
            return
        if event.key() == Qt.Key.Key_X and self._card is None and not event.isAutoRepeat():
            self.preparation.set_before(True)
            return
        super().keyPressEvent(event)

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_X and not event.isAutoRepeat():
            self.preparation.set_before(False)
            return
        super().keyReleaseEvent(event)

    @property
    def _drawn(self) -> Corrections | Preparation:
        """What brushes draw on: the brain's outline while that is looked at, else the mask."""
        return self.preparation if self.preparation.drawable else self.corrections

    def _take(self, tool: Tool) -> None:
        """A tool, or none where it was in hand already."""
        drawn = self._drawn
        if drawn is self.preparation and not tool.draws:
            return
        drawn.take(tool=Tool.LOOK if drawn.hand.tool is tool else tool)

    def _push(self, across: int, down: int, share: float = 1.0) -> None:
        """Push the scan that is looked at along an edge of the plane that the keys move."""
        cut = self.layouts.active.cut
        if cut is not None and self.preparation.nudging:
            axis, sign = screen_step(cut, across, down)
            self.preparation.push(axis, sign * share * STEP_MM)

    def _turn(self, sign: int) -> None:
        """Turn the scan that is looked at in the plane that the keys move, with the clock where positive."""
        view = self.layouts.active
        cut = view.cut
        if cut is not None and self.preparation.nudging:
            right, down = screen_step(cut, 1, 0), screen_step(cut, 0, 1)
            # Turning the screen's right to its bottom is with the clock; in the patient that is one axis to another.
            first = (view.plane.value + 1) % 3
            forwards = right[1] * down[1] * (1 if right[0] == first else -1)
            self.preparation.turn(view.plane.value, sign * forwards * STEP_DEG)

    def _next_way(self) -> None:
        ways = self.preparation.ways
        if self.preparation.step is not None:
            self.preparation.set_way(ways[(ways.index(self.preparation.way) + 1) % len(ways)])

    def _update_looking(self) -> None:
        """What a press in a picture does, and what stands beside it, while a step is looked at."""
        if self.preparation.step is not None:
            self.corrections.take(tool=Tool.LOOK)
        self._update_tool()
        self._update_corrections()

    def _escape(self) -> None:
        if self.corrections.drawing:
            self.corrections.cancel_stroke()
        elif self.preparation.drawing:
            self.preparation.cancel_stroke()
        elif self.session.stage in (Stage.SEGMENTING, Stage.PREPARING, Stage.LOADING):
            self.session.cancel()
        elif self.session.problem is not None:
            self.session.dismiss()
        elif self.preparation.hand.tool is not Tool.LOOK:
            self.preparation.take(tool=Tool.LOOK)
        elif self.preparation.step is not None:
            self.preparation.stop_looking()
        elif self.corrections.hand.tool is not Tool.LOOK:
            self.corrections.take(tool=Tool.LOOK)
        elif self._measuring:
            self._put_ruler_away()
        elif self.isFullScreen():
            self.toggle_full_screen()
        elif self.ortho.big is not None:
            self.layouts.enlarge(None)
            self._focus_pictures()

    def _segment(self) -> None:
        if self.segment.button.isEnabled() and self.session.stage in (Stage.READY, Stage.DONE):
            self.session.segment()

    # Opening and saving

    def browse_files(self) -> None:
        """Choose files of a new patient."""
        names, _ = QFileDialog.getOpenFileNames(self, "Open MRI scans or a case", self._last_folder(), SCANS_AND_CASES)
        self._opened([Path(name) for name in names], self.open)

    def open(self, paths: list[Path], segment: bool = False) -> None:
        """Open a case, or a new patient from files or folders.

        Args:
            paths: A case, files of one patient, folders, or a folder of patients.
            segment: Start segmenting as soon as it is read; a case is shown as it was left.
        """
        cases = [path for path in paths if is_case(path)]
        records = [path for path in paths if path.suffix == ".json" and path.is_file()]
        if cases:
            self.cases.open(cases[0])
        elif records and len(records) == len(paths):
            self.verify(records[0])
        elif len(paths) == 1 and (paths[0] / BATCH_FILE).is_file():
            self.show_batch(paths)
        else:
            self._source = paths
            self.session.open(paths, segment)

    def browse_folder(self) -> None:
        """Choose a folder with one patient or several."""
        name = QFileDialog.getExistingDirectory(self, "Open a folder", self._last_folder())
        self._opened([Path(name)] if name else [], self.open)

    def browse_more(self) -> None:
        """Choose further files of this patient."""
        names, _ = QFileDialog.getOpenFileNames(self, f"Add to {self.session.name}", self._last_folder(), SCANS)
        self._opened([Path(name) for name in names], self.session.add)

    def save(self, wanted: Wanted | None = None) -> None:
        """Choose where to, then write the mask and its record, and what else is wanted."""
        if self.session.result is None:
            return
        folder = self.session.folder
        # The demo lies inside the program; what is made of it belongs to the user.
        start = str(folder) if folder is not None and DEMO not in (folder, *folder.parents) else self._last_folder()
        name = QFileDialog.getExistingDirectory(self, "Save the mask in a folder", start)
        if name:
            self.session.save(Path(name), wanted)

    def save_report(self) -> None:
        """Choose a heading of report and figure sheet, then where to save them with the masks."""
        self.save_more(report=True)

    def save_more(self, report: bool = False) -> None:
        """Choose what to save beside the masks, then where to."""
        session = self.session
        if session.result is None or session.worked is None or session.stage is not Stage.DONE:
            return
        from app.save_card import SaveCard  # with what it writes to files; a window on its way up needs none of that

        segmentation = session.result.segmentation
        has_probabilities = bool(segmentation.probabilities)
        card = SaveCard(self.theme, self._surface, session.worked, has_probabilities, self.model.look, report)
        card.accepted.connect(self.save)
        self._show(card)

    def verify(self, path: Path | None = None) -> None:
        """Compare a saved result with its record: the one on the desk, if it was saved, or another.

        Args:
            path: An output or its record.
        """
        from app.verify_card import VerifyCard  # with what reads files; a window on its way up needs none of that

        session = self.session
        card = VerifyCard(self.theme, self._surface, self.jobs, Path(self._last_folder()))
        card.failed.connect(lambda error: session.fail(error, "Verifying stopped"))
        self._show(card)
        if path is not None:
            card.verify(path)
        elif session.saved is not None and session.saved.mask.is_file():
            source = session.studies.source if session.studies is not None else ()
            card.verify(session.saved.mask, [*source, *([session.folder] if session.folder is not None else [])])

    def save_case(self) -> None:
        """Choose where to, then write everything that is needed to go on later."""
        if self.cases.why_not:
            return
        from engine.export import file_name

        place = self.cases.path
        if place is None:
            folder = self.session.folder
            inside = folder is not None and DEMO not in (folder, *folder.parents)
            start = folder if folder is not None and inside else Path(self._last_folder())
            place = start / f"{file_name(self.session.name)}{ENDING}"
        name, _ = QFileDialog.getSaveFileName(self, "Save the case", str(place), CASES)
        if name:
            self.settings.last_folder = str(Path(name).parent)
            self.cases.save(Path(name))

    def find_scans(self, case: Path) -> None:
        """Choose the folder that the scans of a case are in now."""
        name = QFileDialog.getExistingDirectory(self, f"Where are the scans of {case.name} now?", str(case.parent))
        if name:
            self.cases.open(case, Path(name))

    def copy_from_file(self, everything: bool) -> None:
        """Choose a mask of the same scan, and take a region or everything from it."""
        name, _ = QFileDialog.getOpenFileName(self, "Copy from a mask", self._last_folder(), SCANS)
        if name:
            self.settings.last_folder = str(Path(name).parent)
            self.corrections.copy_from_file(Path(name), everything)

    def save_picture(self) -> None:
        """Choose where to, then write what the views show, with a line that says on which side is what."""
        if self.model.layer is None:
            return
        name, _ = QFileDialog.getSaveFileName(
            self, "Save a picture", str(Path(self._last_folder()) / "gliascope.png"), "PNG (*.png)"
        )
        if not name:
            return
        self.jobs.run(
            picture.write,
            self.picture(),
            Path(name).with_suffix(".png"),
            "picture",
            self.session.recorder(),
            on_finished=lambda _: None,
            on_failed=lambda error: self.session.fail(error, "Saving the picture stopped"),
        )

    def picture(self) -> QImage:
        """What the views show, with what a reader has to know of it."""
        return picture.compose(self.layouts, picture.words_for(self.model, {view.plane for view in self.layouts.views}))

    def browse_mask(self) -> None:
        """Choose a mask to compare with."""
        name, _ = QFileDialog.getOpenFileName(self, "Compare with a mask", self._last_folder(), SCANS)
        self._opened([Path(name)] if name else [], lambda paths: self.review.compare_file(paths[0]))

    def browse_earlier(self) -> None:
        """Choose an earlier scan of the same patient."""
        names, _ = QFileDialog.getOpenFileNames(self, "Compare with an earlier scan", self._last_folder(), SCANS)
        self._opened([Path(name) for name in names], self.review.compare_earlier)

    def _opened(self, paths: list[Path], use: Callable[[list[Path]], None]) -> None:
        if paths:
            self.settings.last_folder = str(paths[0].parent)
            use(paths)

    def _last_folder(self) -> str:
        folder = self.settings.last_folder
        return folder if folder and Path(folder).is_dir() else str(Path.home())

    # Follow-up

    def show_follow_up(self, paths: Iterable[Path] = ()) -> None:
        """Open the follow-up, with the patient on the desk as one of the dates.

        Args:
            paths: The scans of other dates.
        """
        from app.follow_up import FollowUpWindow

        if self.follow_up is None:
            self.follow_up = FollowUpWindow(self.theme, self.jobs, self._last_folder())
        self.follow_up.take(self.session)
        self.follow_up.model.add(paths)
        self.follow_up.show()
        self.follow_up.raise_()
        self.follow_up.activateWindow()

    # Training

    def show_wizard(self) -> TrainingWizard:
        """Open the training wizard, or bring it to the front as it was left."""
        if self.wizard is None:
            # Whoever segments alone waits for none of this.
            from app.training_wizard import TrainingWizard
            from app.wizard_model import WizardModel

            # Threads of its own: looking at a cohort must not keep a patient waiting who is opened here.
            self._training_jobs = Jobs(self)
            model = WizardModel(self._training_jobs, installed_models, self)
            model.look_wanted.connect(self.look)
            model.training_changed.connect(lambda: self.background.follow(model.training))
            self.wizard = TrainingWizard(self.theme, self._training_jobs, model)
        if self.wizard.isMinimized():
            self.wizard.showNormal()
        self.wizard.show()
        self.wizard.raise_()
        self.wizard.activateWindow()
        return self.wizard

    @property
    def background(self) -> TrainingBackground:
        """A training seen from here: made when there may be one, as it brings all of the trainer with it."""
        if self._background is None:
            from app.training_background import TrainingBackground

            self._background = TrainingBackground(self.theme, self.jobs, self, self._surface, self._show)
            self._background.open_wanted.connect(self.show_training)
            self._background.watch.changed.connect(self._update_training)
        return self._background

    def _update_training(self) -> None:
        """How far a training is stands where one would look for it: on the button that leads there."""
        words = self.background.words
        self.train_button.setText(words or TRAIN_YOUR_OWN)
        self.train_button.setAccessibleName(words or TRAIN_YOUR_OWN)

    def find_training(self) -> None:
        """Follow a training that goes on from before this window was opened."""
        if trainings_folder().is_dir():
            self.background.find()

    def show_training(self) -> None:
        """Open the wizard, on the training that is under way if there is one and no other is shown."""
        watch = self._background.watch if self._background is not None else None
        model = self.show_wizard().wizard
        if watch is not None and watch.training is not None and watch.under_way and model.training is None:
            model.look_at(watch.training)

    # Batches

    def show_batch(self, paths: SequenceOf[Path] = ()) -> BatchPage:
        """Open the batch page, or bring it to the front as it was left.

        Args:
            paths: Folders of patients to plan for.
        """
        if self.batch is None:
            # Whoever segments alone waits for none of this.
            from app.batch_model import BatchModel
            from app.batch_page import BatchPage

            # Threads of its own: a batch must not keep a patient waiting who is opened here.
            self._batch_jobs = Jobs(self)
            model = BatchModel(self._batch_jobs, self)
            model.look_wanted.connect(self.look)
            for signal in (model.progressed, model.stage_changed):
                signal.connect(self._update_batch)
            self.batch = BatchPage(self.theme, self._batch_jobs, model)
        if self.batch.isMinimized():
            self.batch.showNormal()
        self.batch.show()
        self.batch.raise_()
        self.batch.activateWindow()
        if paths:
            self.batch.batch.open(list(paths))
        return self.batch

    def _update_batch(self) -> None:
        """How far a batch is stands on the button that leads there."""
        assert self.batch is not None
        model = self.batch.batch
        words = f"{BATCH} {round(100 * model.fraction)} %" if model.under_way else BATCH
        if words != self.batch_button.text():
            self.batch_button.setText(words)
            self.batch_button.setAccessibleName(words)

    def _offer_batch(self) -> None:
        """Once the first of many patients is on screen."""
        many = len(self.session.patients)
        if self._source and self.session.stage is not Stage.LOADING:
            source, self._source = self._source, []
            if many >= MANY and self.session.problem is None:
                self._tell_batch(many, source)

    def _tell_batch(self, many: int, source: list[Path]) -> None:
        def take() -> None:
            self.session.dismiss()
            self.show_batch(source)

        words = f"There are {many} patients here. A batch segments them all."
        self.session.tell(Problem(words, (("Segment them all", take),), note=True))

    def look(self, wanted: Look) -> None:
        """Open a patient of a training or a batch, with what a network made of it beside its truth."""
        self._wanted = wanted
        self.session.open(wanted.scans)
        self.raise_()
        self.activateWindow()

    def _look(self) -> None:
        """Once the patient is read."""
        wanted, session = self._wanted, self.session
        if wanted is None or session.stage in (Stage.EMPTY, Stage.LOADING, Stage.PREPARING):
            return
        self._wanted = None
        # Somebody may have opened another patient meanwhile.
        if not _is_of(session, wanted.scans):
            return
        if wanted.mask is not None:
            from engine.nifti import Convention

            self.review.show_file(wanted.mask, wanted.title, Convention.GLIASCOPE, wanted.truth, wanted.convention)
        elif wanted.truth is not None:
            self.review.show_file(wanted.truth, TRUTH, wanted.convention)

    # Drag and drop

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if not dropped_paths(event.mimeData()):
            return
        if isinstance(self._card, Tour):
            # Who brings scans has seen enough of the tour, which asks nothing; other cards want an answer first.
            self._card.leave()
        if self._card is not None:
            return
        event.acceptProposedAction()
        if self.session.stage is Stage.EMPTY:
            self.welcome.set_hot(True)
        else:
            split = self.panel.width() if self.panel.isVisible() else 0
            name = self.session.name
            date = f"Another date of {name}: follow-up" if name else ""
            self._targets.show_over(self.pages, split, name, date=date)
            self._point_at_target(event.position().toPoint())

    def dragMoveEvent(self, event: QDragMoveEvent) -> None:
        event.acceptProposedAction()
        self._point_at_target(event.position().toPoint())

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._end_drag()

    def dropEvent(self, event: QDropEvent) -> None:
        paths = dropped_paths(event.mimeData())
        place = event.position().toPoint()
        on_panel, on_date = self._on_panel(place), self._on_date(place)
        self._end_drag()
        if not paths or self._card is not None:
            return
        event.acceptProposedAction()
        case = any(map(is_case, paths))
        adding = on_panel and self.session.stage is not Stage.EMPTY and not case
        use = self.session.add if adding else self.show_follow_up if on_date and not case else self.open
        # Reading starts after the drop is answered, so that the program dragged from is not kept waiting.
        QTimer.singleShot(0, self, lambda: use(paths))

    def _end_drag(self) -> None:
        self.welcome.set_hot(False)
        self._targets.hide()

    def _point_at_target(self, place: QPoint) -> None:
        self._targets.point(self._on_panel(place), self._on_date(place))

    def _on_date(self, place: QPoint) -> bool:
        """Whether a place is where other dates of the patient on the desk are dropped: the lowest third, as shown."""
        if not self.session.name or self._on_panel(place):
            return False
        return self.pages.mapFrom(self, place).y() > 2 * self.pages.height() / 3

    def _on_panel(self, place: QPoint) -> bool:
        return self.panel.isVisible() and self.panel.rect().contains(self.panel.mapFrom(self, place))

    # Cards

    def show_notice(self) -> None:
        """The research-use notice of the first start."""
        card = first_run_card(self.theme, self._surface)
        card.closed.connect(self._noticed)
        self._show(card)

    def show_about(self) -> None:
        """What the program is."""
        self._show(about_card(self.theme, self._surface))

    def show_shortcuts(self) -> None:
        """Every key."""
        self._show(shortcut_card(self.theme, self._surface, sheet(self)))

    def show_series(self, studies: Studies) -> None:
        """Which series of a DICOM study are to be opened."""
        if len(studies.all) >= MANY:
            self._tell_batch(len(studies.all), list(studies.source))
        card = SeriesCard(self.theme, self._surface, studies, self.jobs)
        card.accepted.connect(lambda study: self.session.open_study(studies, study))
        self._show(card)

    def show_tour(self) -> None:
        """Five steps around the window, on the demo patient where no other is open."""
        if not self.session.name:
            self.session.open_demo()
        self.settings.tour_taken = True

        def segment() -> None:
            if self.session.result is None:
                self._segment()

        steps = (
            Step(
                lambda: self.layers if self.layers.isVisible() else self.pages,
                "Any sequences you have",
                "T1, T1ce, T2, FLAIR: one is enough, every further one helps. Drop files or a folder anywhere on the "
                "window. A wrong name is put right with the arrow in its row. This is a simulated patient.",
            ),
            Step(
                lambda: self.segment if self.segment.isVisible() else self.pages,
                "The model is chosen for you",
                "Gliascope takes the model made for exactly these sequences, and says why and how good it was on "
                "patients it had not seen.",
                "Segment",
                segment,
            ),
            Step(
                lambda: self.layouts if self.layouts.isVisible() else self.pages,
                "Look from all sides",
                "The wheel turns slices, the left button moves the crosshair, the right one changes window and level. "
                "F2 to F6 switch between planes, 3-D, sequences and comparison.",
            ),
            Step(
                lambda: self.result if self.result.isVisible() else self.segment,
                "The result is yours to judge",
                "Volumes in ml, colours, and what is shown how. Press N for places worth a second look. Save writes "
                "the mask on the scan's own grid, with a record of how it was made.",
            ),
            Step(
                lambda: self.help_button,
                "Every key on one sheet",
                "Press the question mark at any time. Everything works without a mouse. Gliascope is for research use "
                "only: check every mask by eye.",
                "Done",
            ),
        )
        self._show(Tour(self.theme, self._surface, steps))

    @property
    def card(self) -> Card | None:
        """The card that lies over the window, if one does."""
        return self._card

    def _noticed(self) -> None:
        self.settings.notice_read = True
        # After this card has gone.
        QTimer.singleShot(0, self, self._offer_tour)

    def _offer_tour(self) -> None:
        session = self.session
        if self.settings.tour_taken or self._card is not None:
            return
        if session.stage in (Stage.LOADING, Stage.PREPARING):
            session.stage_changed.connect(self._offer_tour, Qt.ConnectionType.SingleShotConnection)
            return
        # Whoever came with scans of their own is not led around the demo patient.
        if session.folder is None or DEMO in (session.folder, *session.folder.parents):
            self.show_tour()

    def _show(self, card: Card) -> None:
        if self._card is not None:
            self._card.leave()
        self._card = card
        card.closed.connect(self._card_closed)
        card.show()

    def _card_closed(self) -> None:
        self._card = None
        self._focus_pictures()

    # State

    def toggle_panel(self) -> None:
        """Hide or show the side panel."""
        self.panel.setVisible(not self.panel.isVisible())
        self.settings.panel_shown = self.panel.isVisible()

    def toggle_full_screen(self) -> None:
        """The pictures alone on the whole screen, or the window as it was."""
        full = not self.isFullScreen()
        if full:
            self._before_full = self.isMaximized()
            self.showFullScreen()
        elif self._before_full:
            self.showMaximized()
        else:
            self.showNormal()
        for part in (self._header, self._footer):
            part.setVisible(not full)
        self.panel.setVisible(not full and self.settings.panel_shown)
        self.menu_actions["Full screen"].setChecked(full)
        self._focus_pictures()

    def measure(self) -> None:
        """The two diameters of the tumour, or with no tumour a ruler to draw with; once more, and it is put away."""
        if self._ruler.draws:
            self._put_ruler_away()
            return
        self._ruler.draws = True
        self.corrections.take(tool=Tool.LOOK)
        self.layouts.set_tool(self._ruler)
        if self.model.ruler is None:
            self.review.show_diameters()

    def _put_ruler_away(self) -> None:
        self._ruler.draws = False
        self.review.put_diameters_away()
        if self.layouts.tool is self._ruler:
            self.layouts.set_tool(None)

    @property
    def _measuring(self) -> bool:
        return self._ruler.draws or self.model.ruler is not None

    def _update_ruler(self) -> None:
        # The ends of lines on screen can be taken; a brush in hand is left there.
        if self.model.ruler is not None and self.layouts.tool is None:
            self.layouts.set_tool(self._ruler)
        elif not self._measuring and self.layouts.tool is self._ruler:
            self.layouts.set_tool(None)

    def _next_map(self) -> None:
        possible = self.model.maps
        now = self.model.overlay.map
        # The map of before may be one that this result has not, such as one of a case, which keeps no probabilities.
        after = possible[(possible.index(now) + 1) % len(possible)] if now in possible else possible[0]
        self.model.set_overlay(map=after, visible=True)

    def _next_preset(self) -> None:
        names, now = list(PRESETS), self.model.preset
        self.model.set_preset(names[(names.index(now) + 1) % len(names)] if now is not None else names[0])

    def _lay_out(self, layout: object = None, plane: object = None) -> None:
        if self.model.layer is None or layout not in (None, *self.layouts.offered):
            return
        self.model.set_layout(
            layout if isinstance(layout, Layout) else None, plane if isinstance(plane, Plane) else None
        )
        self._focus_pictures()

    def _activate(self, plane: Plane) -> None:
        self.layouts.activate(plane)
        self._focus_pictures()

    def _focus_pictures(self) -> None:
        # A card that lies on top keeps the focus.
        if self.pages.currentIndex() == 1 and self._card is None:
            self.layouts.active.setFocus(Qt.FocusReason.OtherFocusReason)

    def _update_layout(self) -> None:
        model = self.model
        self.layout_choice.set(model.layout)
        self.plane_choice.set(model.plane)
        one_plane = model.layout in (Layout.PLANE, Layout.SEQUENCES, Layout.COMPARE)
        self.plane_choice.setVisible(one_plane and self.pages.currentIndex() == 1)

    def _choose_appearance(self, value: str) -> None:
        self.theme.choose(value)
        self.settings.appearance = value

    def _choose_patient(self) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for number, name in enumerate(self.session.patients):
            entry = action(name, self)
            entry.setParent(menu)
            entry.setCheckable(True)
            entry.setChecked(name == self.session.name)
            entry.triggered.connect(lambda _=False, number=number: self.session.choose_patient(number))
            menu.addAction(entry)
        menu.popup(self.patient_button.mapToGlobal(self.patient_button.rect().bottomLeft()))

    def _update(self) -> None:
        session = self.session
        empty = session.stage is Stage.EMPTY or (session.stage is Stage.LOADING and not self.model.layers)
        page = 0 if empty and not session.name else 1
        if page != self.pages.currentIndex():
            self.pages.setCurrentIndex(page)
            self._focus_pictures()
        several = len(session.patients) > 1
        self.patient_button.setVisible(several and bool(session.name))
        self.patient_name.setVisible(not several and bool(session.name))
        self.patient_button.setText(session.name)
        self.patient_button.setIcon(self.theme.icon("caret-down"))
        self.patient_button.setToolTip("Choose another patient of this folder")
        self.patient_button.setAccessibleName(f"Patient {session.name}, choose another")
        self.patient_name.setText(session.name)
        self.surface.set_patient(session.name or "patient")
        for part in (self.layout_choice, self.side_choice, self.panel_button):
            part.setVisible(page == 1)
        self.welcome.set_busy(session.stage is Stage.LOADING)
        for name, possible, why in (
            ("Save", session.stage is Stage.DONE, "There is no mask yet. Segment first."),
            ("Save more than the masks", session.stage is Stage.DONE, "There is no mask yet. Segment first."),
            ("Report and figure sheet", session.stage is Stage.DONE, "There is no mask yet. Segment first."),
            ("Save the case", not self.cases.why_not, self.cases.why_not),
            ("Save a picture", bool(session.name), "No patient is open."),
            ("Close the patient", bool(session.name), "No patient is open."),
            ("Add to the training set", not self.cases.why_not_learnt_from, self.cases.why_not_learnt_from),
        ):
            self.menu_actions[name].setEnabled(possible)
            self.menu_actions[name].setToolTip("" if possible else why)
        self._update_layout()
        self.status.setText(self._status())

    def _status(self) -> str:
        session = self.session
        if session.stage is Stage.LOADING:
            return "Reading"
        if session.stage is Stage.PREPARING:
            return "Preparing"
        if session.stage is Stage.SEGMENTING:
            return "Segmenting"
        if session.stage is Stage.STOPPING:
            return "Stopping"
        result = session.result
        if result is not None:
            made = result.segmentation
            card = made.card
            parts = (f"{result.seconds:.1f} s on {made.device} ({made.precision})", f"{card.title} {card.version}",
                     made.edited_words.rstrip("."))  # fmt: skip
            return "  \u00b7  ".join(filter(None, parts))
        layer = self.model.layer
        if layer is None:
            return "Ready"
        grid = layer.volume.grid
        shape = " x ".join(map(str, grid.shape))
        spacing = " x ".join(f"{s:.3g}" for s in grid.spacing)
        return f"{shape} voxels of {spacing} mm  \u00b7  {grid.orientation}"

    def _update_tool(self) -> None:
        looking = self.corrections.hand.tool is Tool.LOOK
        tool: SliceTool | None = self._brush if not looking else self._ruler if self._measuring else None
        if self.preparation.step is not None:
            drawing = self.preparation.hand.tool is not Tool.LOOK
            tool = self._nudge if self.preparation.nudging else self._brain_brush if drawing else None
        if tool is not self.layouts.tool:
            self.layouts.set_tool(tool)
        self._show_tools()

    def _show_tools(self) -> None:
        """With a tool in hand its options stay in sight, below the panel's edge as they may come to lie."""
        if self.corrections.hand.tool is not Tool.LOOK:
            QTimer.singleShot(0, self.correct, lambda: self.panel.ensureWidgetVisible(self.correct, 0, 0))

    def _show_doubts(self) -> None:
        """What is to be read before a mask is shown must be in sight."""
        if self.session.unread:
            read = self.result.read_button
            QTimer.singleShot(0, read, lambda: self.panel.ensureWidgetVisible(read, 0, 24))

    def _update_recent(self) -> None:
        self.recent_menu.clear()
        for path in self.cases.recent:
            entry = action(path.name, self)
            entry.setParent(self.recent_menu)
            entry.setToolTip(str(path))
            entry.triggered.connect(lambda _=False, path=path: self.cases.open(path))
            self.recent_menu.addAction(entry)
        if not self.cases.recent:
            words = "Cases you save are listed here" if self.cases.remembers else "Cases are not remembered"
            empty = action(words, self)
            empty.setParent(self.recent_menu)
            empty.setEnabled(False)
            self.recent_menu.addAction(empty)
        self.recent_menu.addSeparator()
        clear = action("Clear this list", self)
        clear.setParent(self.recent_menu)
        clear.setEnabled(bool(self.cases.recent))
        clear.triggered.connect(lambda: self.cases.clear_recent())
        remember = action("Remember recent cases", self)
        remember.setParent(self.recent_menu)
        remember.setCheckable(True)
        remember.setChecked(self.cases.remembers)
        remember.toggled.connect(self.cases.set_remembers)
        self.recent_menu.addActions([clear, remember])

    def _update_corrections(self) -> None:
        drawn = self._drawn
        for name, edits in (("Undo", drawn.applied[-1:]), ("Redo", drawn.undone[:1])):
            entry = self.menu_actions[name]
            entry.setEnabled(bool(edits))
            entry.setText(f"{name} {edits[0].name}" if edits else name)
            entry.setToolTip("" if edits else f"There is no correction to {name.lower()}.")

    def _update_message(self) -> None:
        self._message.setVisible(self.session.problem is not None)

    def _update_convention(self) -> None:
        model = self.model
        self.side_choice.set(model.radiological)
        self.menu_actions["Show voxels as they are"].setChecked(not model.interpolated)
        self.menu_actions["Sagittal nose to the right"].setChecked(not model.nose_left)

    def _remember(self) -> None:
        model, settings = self.model, self.settings
        if model.layout is not Layout.COMPARE:
            # A comparison begins with something to compare with, and that is not remembered.
            settings.layout = model.layout
        settings.plane, settings.swiped = model.plane, model.swiped
        settings.radiological, settings.nose_left = model.radiological, model.nose_left
        settings.interpolated = model.interpolated

    def _restore(self) -> None:
        settings, model = self.settings, self.model
        model.set_radiological(settings.radiological)
        model.set_nose_left(settings.nose_left)
        model.set_interpolated(settings.interpolated)
        model.set_layout(settings.layout, settings.plane, settings.swiped)
        model.set_habits(settings.windows)
        model.layout_changed.connect(self._remember)
        model.convention_changed.connect(self._remember)
        self.panel.setVisible(self.settings.panel_shown)
        geometry = self.settings.geometry
        if geometry is not None:
            self.restoreGeometry(geometry)
        self.ortho.split(settings.splits or QByteArray())

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._background is not None and not self._background.may_close():
            event.ignore()
            return
        if self.batch is not None and not self.batch.may_close(self.close, quitting=True):
            # The question lies over the other window.
            self.show_batch()
            event.ignore()
            return
        if self.isFullScreen():
            self.toggle_full_screen()
        self.settings.geometry = self.saveGeometry()
        self.corrections.end_stroke()
        self.cases.close()
        self.settings.windows = self.model.habits
        splits = self.ortho.splits()
        if not splits.isEmpty():
            self.settings.splits = splits
        self.surface.release()
        if self.wizard is not None:
            self.wizard.close()
            self.wizard.deleteLater()
            self._training_jobs.close()
        if self.batch is not None:
            self.batch.close()
            self.batch.deleteLater()
            self._batch_jobs.close()
        if self._background is not None:
            self._background.close()
        if self.follow_up is not None:
            self.follow_up.model.close()
            self.follow_up.close()
            self.follow_up.deleteLater()
        self.session.close()
        self.jobs.close()
        super().closeEvent(event)


def installed_models() -> tuple[ModelCard, ...]:
    """The models there are, to begin a training with and to compare it with."""
    from engine import registry

    return registry.list_models().models


def trainings_folder() -> Path:
    """That of `trainer.training.home`, told without the second it takes to load what a training needs."""
    return platformdirs.user_data_path("Gliascope", appauthor=False) / "trainings"


def dropped_paths(mime: QMimeData) -> list[Path]:
    """The local files and folders of a drop."""
    return [Path(url.toLocalFile()) for url in mime.urls() if url.isLocalFile()]


def _is_of(session: Session, scans: tuple[Path, ...]) -> bool:
    """Whether the patient on the desk was opened from these files, or from these DICOM exports."""
    if session.studies is not None:
        return set(session.studies.source) == set(scans)
    files = session.files
    return files is not None and {*files.files.values(), *files.unknown} == set(scans)


def _after(choice: Choice, step: int = 1) -> Choice:
    """The next of an enumeration's members, the first after the last."""
    members = list(type(choice))
    return members[(members.index(choice) + step) % len(members)]
