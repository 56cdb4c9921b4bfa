"""The window: header, side panel, pictures, readout, footer, and every key."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TypeVar

from PySide6.QtCore import QMimeData, QPoint, Qt, QTimer
from PySide6.QtGui import (
    QAction,
    QActionGroup,
    QCloseEvent,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDragMoveEvent,
    QDropEvent,
    QKeyEvent,
    QKeySequence,
    QShortcut,
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

from app import DEMO
from app.brush import BrushTool
from app.cards import Banner, Card, DropTargets, about_card, first_run_card, shortcut_card
from app.case_file import ENDING, is_case
from app.cases import Cases
from app.controls import ElidedLabel, IconButton, Segments, action, label
from app.correct_panel import CorrectPanel
from app.correcting import RADIUS_STEP, Corrections, Tool
from app.jobs import Jobs
from app.layers_panel import LayersPanel
from app.ortho_view import OrthoView
from app.readout import Readout
from app.segment_panel import ResultPanel, SegmentPanel
from app.session import Session, Stage
from app.settings import Settings
from app.theme import Theme
from app.viewer_model import Plane, ViewerModel
from app.welcome import Emblem, Welcome
from engine.volume import Sequence

Choice = TypeVar("Choice", bound=Enum)

PANEL_WIDTH = 304
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
        self._was_correcting = False
        self.setWindowTitle("Gliascope")
        self.setAcceptDrops(True)
        self.resize(1440, 900)
        self.setMinimumSize(1024, 680)

        self.ortho = OrthoView(theme, model)
        self.welcome = Welcome(theme)
        self.layers = LayersPanel(theme, model, session)
        self.segment = SegmentPanel(theme, session)
        self.result = ResultPanel(theme, model, session)
        self.corrections = Corrections(model, session, jobs, self)
        self.correct = CorrectPanel(theme, model, session, self.corrections, lambda: self.ortho.active.plane)
        self._brush = BrushTool(self.corrections, model)
        self.cases = Cases(model, session, jobs, self.corrections, settings, self)
        self.banner = Banner(theme, session)
        self.readout = Readout(model, session)

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
        for section in (self.layers, self.segment, self.result, self.correct):
            stack.addWidget(section)
        stack.addStretch()
        self.panel.setWidget(inside)

        pictures = QWidget()
        column = QVBoxLayout(pictures)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.ortho, 1)
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
        everything.addWidget(self._make_header())
        everything.addWidget(self._message)
        everything.addWidget(self.pages, 1)
        everything.addWidget(self._make_footer())
        self.setCentralWidget(self._surface)
        self._targets = DropTargets(theme, self._surface)

        self.welcome.browse.connect(self.browse_files)
        self.welcome.browse_folder.connect(self.browse_folder)
        self.welcome.demo.connect(lambda: session.open_demo())
        self.layers.browse.connect(self.browse_more)
        self.result.save.connect(self.save)
        session.patient_changed.connect(self._update)
        session.stage_changed.connect(self._update)
        session.result_changed.connect(self._update)
        session.problem_changed.connect(self._update_message)
        self.correct.browse.connect(self.copy_from_file)
        self.cases.folder_wanted.connect(self.find_scans)
        self.cases.recent_changed.connect(self._update_recent)
        self._update_recent()
        self.corrections.hand_changed.connect(self._update_tool)
        self.corrections.changed.connect(self._update_corrections)
        self.corrections.volumes_changed.connect(self.result.show_volumes)
        model.convention_changed.connect(self._update_convention)
        theme.changed.connect(self._update)
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
        self.layout_choice = Segments(
            (
                (None, "3 planes", "All three planes (Enter)"),
                (Plane.AXIAL, "Axial", "One big axial view (double-click it)"),
                (Plane.CORONAL, "Coronal", "One big coronal view (double-click it)"),
                (Plane.SAGITTAL, "Sagittal", "One big sagittal view (double-click it)"),
            ),
            "Layout",
        )
        self.layout_choice.chosen.connect(self._enlarge)
        self.side_choice = Segments(
            (
                (True, "R | L", "Radiological: the patient's left on the right of the screen (R)"),
                (False, "L | R", "Neurological: the patient's left on the left of the screen (R)"),
            ),
            "Side",
        )
        self.side_choice.chosen.connect(lambda radiological: self.model.set_radiological(bool(radiological)))
        for view in self.ortho.views.values():
            view.enlarged.connect(lambda _: self._update_layout())
        row.addWidget(self.layout_choice)
        row.addSpacing(4)
        row.addWidget(self.side_choice)
        row.addSpacing(4)
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
            ("Save the case...", "Ctrl+Shift+S", self.save_case),
            ("Close the patient", "Ctrl+W", self.session.close),
        ):
            entry = action(text, self, keys)
            entry.triggered.connect(lambda _=False, act=act: act())
            menu.addAction(entry)
            self.menu_actions[text.rstrip(".")] = entry
            if act == self.browse_folder:
                self.recent_menu = menu.addMenu("Recent cases")
                self.recent_menu.setToolTipsVisible(True)
            # Menus give their shortcuts to the window only through the window's own list.
            self.addAction(entry)
        menu.addSeparator()
        for name, keys, act in (
            ("Undo", "Ctrl+Z", lambda: self.corrections.undo()),
            ("Redo", "Ctrl+Shift+Z", lambda: self.corrections.redo()),
        ):
            entry = action(name, self, keys)
            entry.triggered.connect(lambda _=False, act=act: act())
            menu.addAction(entry)
            self.menu_actions[name] = entry
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
        keys: list[tuple[str | Qt.Key, Callable[[], object]]] = [
            ("Space", lambda: model.set_overlay(visible=not model.overlay.visible)),
            ("[", lambda: model.set_overlay(opacity=model.overlay.opacity - 0.1)),
            ("]", lambda: model.set_overlay(opacity=model.overlay.opacity + 0.1)),
            ("O", lambda: model.set_overlay(style=_after(model.overlay.style))),
            ("G", session.go_to_largest),
            ("R", lambda: model.set_radiological(not model.radiological)),
            ("PgUp", lambda: model.step(self.ortho.active.plane, 1)),
            ("PgDown", lambda: model.step(self.ortho.active.plane, -1)),
            ("+", lambda: model.set_view(model.zoom * 1.2, model.centre)),
            ("=", lambda: model.set_view(model.zoom * 1.2, model.centre)),
            ("-", lambda: model.set_view(model.zoom / 1.2, model.centre)),
            ("0", model.fit),
            ("B", lambda: self._take(Tool.PAINT)),
            ("E", lambda: self._take(Tool.ERASE)),
            ("K", lambda: self._take(Tool.ISLAND)),
            ("C", lambda: self.corrections.take(core=not self.corrections.hand.core)),
            ("D", lambda: self.corrections.take(ball=not self.corrections.hand.ball)),
            ("A", lambda: self.corrections.take(radius_mm=self.corrections.hand.radius_mm / RADIUS_STEP)),
            ("S", lambda: self.corrections.take(radius_mm=self.corrections.hand.radius_mm * RADIUS_STEP)),
            ("F", lambda: self.corrections.use_at(model.crosshair, self.ortho.active.plane)),
            ("H", lambda: self.corrections.fill_holes(self.ortho.active.plane)),
            ("J", lambda: self.corrections.interpolate(self.ortho.active.plane)),
            ("Ctrl+Y", lambda: self.corrections.redo()),
            ("F9", self.toggle_panel),
            ("?", self.show_shortcuts),
            ("F1", self.show_shortcuts),
            ("Esc", self._escape),
            ("Ctrl+Return", self._segment),
            ("Ctrl+Enter", self._segment),
        ]
        keys += [(str(number), partial(model.show, sequence)) for number, sequence in enumerate(Sequence, start=1)]
        for key, act in keys:
            shortcut = QShortcut(QKeySequence(key), self)
            shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
            if key == "Space":
                self._space = shortcut
            shortcut.activated.connect(lambda act=act: self._pressed(act))

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
            self.ortho.active.keyPressEvent(event)
            return
        focus = QApplication.focusWidget()
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._card is None:
            if isinstance(focus, QAbstractButton):
                focus.click()
            elif self.model.layer is not None:
                self._enlarge(None if self.ortho.big is not None else self.ortho.active.plane)
            return
        super().keyPressEvent(event)

    def _take(self, tool: Tool) -> None:
        """A tool, or none where it was in hand already."""
        self.corrections.take(tool=Tool.LOOK if self.corrections.hand.tool is tool else tool)

    def _escape(self) -> None:
        if self.corrections.drawing:
            self.corrections.cancel_stroke()
        elif self.session.stage in (Stage.SEGMENTING, Stage.LOADING):
            self.session.cancel()
        elif self.session.problem is not None:
            self.session.dismiss()
        elif self.corrections.hand.tool is not Tool.LOOK:
            self.corrections.take(tool=Tool.LOOK)
        elif self.ortho.big is not None:
            self._enlarge(None)

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
        if cases:
            self.cases.open(cases[0])
        else:
            self.session.open(paths, segment)

    def browse_folder(self) -> None:
        """Choose a folder with one patient or several."""
        name = QFileDialog.getExistingDirectory(self, "Open a folder", self._last_folder())
        self._opened([Path(name)] if name else [], self.session.open)

    def browse_more(self) -> None:
        """Choose further files of this patient."""
        names, _ = QFileDialog.getOpenFileNames(self, f"Add to {self.session.name}", self._last_folder(), SCANS)
        self._opened([Path(name) for name in names], self.session.add)

    def save(self) -> None:
        """Choose where to, then write the mask and its record."""
        if self.session.result is None:
            return
        folder = self.session.folder
        # The demo lies inside the program; what is made of it belongs to the user.
        start = str(folder) if folder is not None and DEMO not in (folder, *folder.parents) else self._last_folder()
        name = QFileDialog.getExistingDirectory(self, "Save the mask in a folder", start)
        if name:
            self.session.save(Path(name))

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

    def _opened(self, paths: list[Path], use: Callable[[list[Path]], None]) -> None:
        if paths:
            self.settings.last_folder = str(paths[0].parent)
            use(paths)

    def _last_folder(self) -> str:
        folder = self.settings.last_folder
        return folder if folder and Path(folder).is_dir() else str(Path.home())

    # Drag and drop

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if not dropped_paths(event.mimeData()) or self._card is not None:
            return
        event.acceptProposedAction()
        if self.session.stage is Stage.EMPTY:
            self.welcome.set_hot(True)
        else:
            split = self.panel.width() if self.panel.isVisible() else 0
            self._targets.show_over(self.pages, split, self.session.name)
            self._targets.point(self._on_panel(event.position().toPoint()))

    def dragMoveEvent(self, event: QDragMoveEvent) -> None:
        event.acceptProposedAction()
        self._targets.point(self._on_panel(event.position().toPoint()))

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._end_drag()

    def dropEvent(self, event: QDropEvent) -> None:
        paths = dropped_paths(event.mimeData())
        on_panel = self._on_panel(event.position().toPoint())
        self._end_drag()
        if not paths or self._card is not None:
            return
        event.acceptProposedAction()
        adding = on_panel and self.session.stage is not Stage.EMPTY and not any(map(is_case, paths))
        use = self.session.add if adding else self.open
        # Reading starts after the drop is answered, so that the program dragged from is not kept waiting.
        QTimer.singleShot(0, self, lambda: use(paths))

    def _end_drag(self) -> None:
        self.welcome.set_hot(False)
        self._targets.hide()

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
        self._show(shortcut_card(self.theme, self._surface))

    @property
    def card(self) -> Card | None:
        """The card that lies over the window, if one does."""
        return self._card

    def _noticed(self) -> None:
        self.settings.notice_read = True

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

    def _enlarge(self, plane: object) -> None:
        self.ortho.enlarge(plane if isinstance(plane, Plane) else None)
        self._update_layout()
        self._focus_pictures()

    def _focus_pictures(self) -> None:
        if self.pages.currentIndex() == 1:
            self.ortho.active.setFocus(Qt.FocusReason.OtherFocusReason)

    def _update_layout(self) -> None:
        self.layout_choice.set(self.ortho.big.plane if self.ortho.big is not None else None)

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
        for part in (self.layout_choice, self.side_choice, self.panel_button):
            part.setVisible(page == 1)
        self.welcome.set_busy(session.stage is Stage.LOADING)
        for name, possible, why in (
            ("Save", session.stage is Stage.DONE, "There is no mask yet. Segment first."),
            ("Save the case", not self.cases.why_not, self.cases.why_not),
            ("Close the patient", bool(session.name), "No patient is open."),
        ):
            self.menu_actions[name].setEnabled(possible)
            self.menu_actions[name].setToolTip("" if possible else why)
        self._update_layout()
        self.status.setText(self._status())

    def _status(self) -> str:
        session = self.session
        if session.stage is Stage.LOADING:
            return "Reading"
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
        self.ortho.set_tool(None if looking else self._brush)
        if not looking and not self._was_correcting:
            # The first tool brings more of the section with it, which may lie below the window's edge.
            self.panel.verticalScrollBar().rangeChanged.connect(
                lambda: QTimer.singleShot(0, self.correct, lambda: self.panel.ensureWidgetVisible(self.correct, 0, 0)),
                Qt.ConnectionType.SingleShotConnection,
            )
        self._was_correcting = not looking

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
        for name, edits in (("Undo", self.corrections.applied[-1:]), ("Redo", self.corrections.undone[:1])):
            entry = self.menu_actions[name]
            entry.setEnabled(bool(edits))
            entry.setText(f"{name} {edits[0].name}" if edits else name)
            entry.setToolTip("" if edits else f"There is no correction to {name.lower()}.")

    def _update_message(self) -> None:
        self._message.setVisible(self.session.problem is not None)

    def _update_convention(self) -> None:
        self.side_choice.set(self.model.radiological)
        self.settings.radiological = self.model.radiological

    def _restore(self) -> None:
        self.model.set_radiological(self.settings.radiological)
        self.panel.setVisible(self.settings.panel_shown)
        geometry = self.settings.geometry
        if geometry is not None:
            self.restoreGeometry(geometry)
        self.ortho.halve()

    def closeEvent(self, event: QCloseEvent) -> None:
        self.settings.geometry = self.saveGeometry()
        self.corrections.end_stroke()
        self.cases.close()
        self.session.close()
        self.jobs.close()
        super().closeEvent(event)


def dropped_paths(mime: QMimeData) -> list[Path]:
    """The local files and folders of a drop."""
    return [Path(url.toLocalFile()) for url in mime.urls() if url.isLocalFile()]


def _after(choice: Choice) -> Choice:
    """The next of an enumeration's members, the first after the last."""
    members = list(type(choice))
    return members[(members.index(choice) + 1) % len(members)]
