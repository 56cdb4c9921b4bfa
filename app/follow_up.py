"""The follow-up window: the dates of a patient, their volumes over time, and where the tumour grew or shrank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from PySide6.QtCore import QRectF, Qt, QTimer, Signal
from PySide6.QtGui import (
    QCloseEvent,
    QColor,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDropEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMainWindow,
    QMenu,
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.cards import RESEARCH_USE, Banner, DropTargets
from app.controls import Choice, ElidedLabel, IconButton, Segments, action, clear, label, push
from app.follow_up_model import Entry, FollowUpModel, State
from app.follow_up_plot import VolumePlot, region_colour
from app.jobs import Jobs
from app.session import Session
from app.shortcuts import bind
from app.slice_layers import ChangeLayer, Frame, SliceLayers
from app.slice_view import SliceView
from app.telling import Problem
from app.theme import Theme, blend
from app.viewer_model import MaskStyle, Plane, Side, ViewerModel
from app.welcome import Emblem
from engine.follow_up import GROWN, NOT_SEEN, SHRUNK, STABLE, TITLES, FollowUp
from engine.model_card import WHOLE_TUMOUR
from engine.rano import NOT_JUDGED, SOURCE, Measure, percent
from engine.volume import Sequence, in_words, interval_in_words

RAIL_WIDTH = 304
EXPORTS = "Save a report (PDF), numbers (CSV, JSON), the plot (PNG) and maps of change (NIfTI) in a folder (Ctrl+S)"
SCANS = "MRI scans and results (*.nii *.nii.gz *_seg.json)"

# After Okabe and Ito, the blue lightened until it shows on a dark scan; stripes and outline say the same again.
COLOURS = {GROWN: "#D55E00", SHRUNK: "#4C9BE8", STABLE: "#E2E8F0", NOT_SEEN: "#CC79A7"}
WORDS = {GROWN: "grown", SHRUNK: "shrunk", STABLE: "stable", NOT_SEEN: "not seen then"}


class FollowUpWindow(QMainWindow):
    """Two and more dates of a patient.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread.
        last_folder: Where choosing files begins.
    """

    def __init__(self, theme: Theme, jobs: Jobs, last_folder: str = "") -> None:
        super().__init__()
        self._theme = theme
        self._last_folder = last_folder
        self.model = FollowUpModel(jobs, self)
        self.setWindowTitle("Follow-up - Gliascope")
        self.setAcceptDrops(True)
        self.resize(1440, 900)
        # Narrower, the table of numbers would be cut off.
        self.setMinimumSize(1260, 700)

        self.banner = Banner(theme, self.model)
        self._message = QWidget()
        around = QVBoxLayout(self._message)
        around.setContentsMargins(10, 10, 10, 10)
        around.addWidget(self.banner)
        self.rail = DatesRail(theme, self.model)
        self.rail.browse_files.connect(self.browse_files)
        self.rail.browse_folder.connect(self.browse_folder)
        self.rail.export.connect(self.export)
        self.invitation = Invitation(theme, self.model)
        self.invitation.browse_folder.connect(self.browse_folder)
        self.views = ChangeViews(theme, self.model)
        self.plot = VolumePlot(theme)
        self.numbers = Numbers(theme, self.model)
        plotted = QFrame()
        plotted.setObjectName("cell")
        inset = QVBoxLayout(plotted)
        inset.setContentsMargins(16, 14, 12, 6)
        inset.addWidget(self.plot)
        below = QSplitter(Qt.Orientation.Horizontal)
        below.addWidget(plotted)
        below.addWidget(self.numbers)
        below.setSizes([520, 620])
        self._halves = QSplitter(Qt.Orientation.Vertical)
        self._halves.addWidget(self.views)
        self._halves.addWidget(below)
        self._halves.setSizes([470, 370])
        for splitter in (below, self._halves):
            splitter.setHandleWidth(1)
            splitter.setChildrenCollapsible(False)
        self.pages = QStackedWidget()
        self.pages.addWidget(self.invitation)
        self.pages.addWidget(self._halves)

        self._surface = QWidget()
        self._surface.setObjectName("surface")
        self._surface.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        whole = QVBoxLayout(self._surface)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(0)
        whole.addWidget(self._message)
        row = QHBoxLayout()
        row.setSpacing(0)
        row.addWidget(self.rail)
        row.addWidget(self.pages, 1)
        whole.addLayout(row, 1)
        whole.addWidget(self._make_footer())
        self.setCentralWidget(self._surface)
        self._targets = DropTargets(theme, self._surface)

        model = self.model
        model.problem_changed.connect(self._update_message)
        model.compared.connect(self._update)
        model.dates_changed.connect(self._update)
        for title, keys, act in (
            ("Close this window", ("Esc", "Ctrl+W"), self._escape),
            ("Export", ("Ctrl+S",), self.export),
            ("Add a folder", ("Ctrl+Shift+O",), self.browse_folder),
            ("Add files", ("Ctrl+O",), self.browse_files),
        ):
            bind(self, "Work", title, keys, act)
        self.views.bind_keys(self)
        self._update()
        self._update_message()
        self._surface.setFocus(Qt.FocusReason.OtherFocusReason)

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

    # Dates in, files out

    def take(self, session: Session) -> None:
        """Take the patient on the desk for one of the dates: with its mask, corrections and all, where it has one.

        Where there are dates of somebody who may be another, the user is asked.
        """
        files = session.files
        if files is None or session.worked is None:
            return
        paths = [path.resolve() for path in files.files.values()]
        if not self.model.entries or self.model.knows(paths):
            self._take(session)
            return

        def add() -> None:
            self.model.dismiss()
            self._take(session)

        def anew() -> None:
            self.model.dismiss()
            self.model.clear()
            self._take(session)

        words = f"{files.name} is open in the viewer. Is it another date of this patient?"
        self.model.tell(Problem(words, (("Add it", add), ("Begin anew with it", anew)), note=True))

    def _take(self, session: Session) -> None:
        files, worked, result, studies = session.files, session.worked, session.result, session.studies
        if files is None or worked is None:
            return
        paths = [path.resolve() for path in files.files.values()]
        if result is None:
            # Series that were converted are gone with the patient; what was dropped is found again.
            self.model.add(paths if studies is None else studies.source)
            return
        from engine.flow import Patient
        from engine.follow_up import TimePoint
        from engine.follow_up_files import day_in, day_of

        taken = studies.taken if studies is not None else None
        when = day_in(taken.day) if taken is not None else day_of(Patient(files.name, files))
        point = TimePoint.of(worked, result.segmentation, when=when, reason=result.choice.reason)
        doubts = [doubt.sentence for doubt in session.doubts if doubt.sentence not in point.notes]
        self.model.add_point(replace(point, notes=(*doubts, *point.notes)), files.name, paths)

    def browse_files(self) -> None:
        """Choose files of one or more dates."""
        names, _ = QFileDialog.getOpenFileNames(self, "Add dates", self._last_folder or str(Path.home()), SCANS)
        self._add([Path(name) for name in names])

    def browse_folder(self) -> None:
        """Choose a folder with one date, or with a folder for each."""
        name = QFileDialog.getExistingDirectory(self, "Add a folder", self._last_folder or str(Path.home()))
        self._add([Path(name)] if name else [])

    def _add(self, paths: list[Path]) -> None:
        if paths:
            self._last_folder = str(paths[0].parent)
            self.model.add(paths)

    def export(self) -> None:
        """Choose where to, then write numbers, plot and maps of change."""
        if self.model.follow_up is None:
            return
        name = QFileDialog.getExistingDirectory(
            self, "Save the follow-up in a folder", self._last_folder or str(Path.home())
        )
        if name:
            self.model.export(Path(name))

    # State

    def _escape(self) -> None:
        if self.model.busy:
            self.model.cancel()
        elif self.model.problem is not None:
            self.model.dismiss()
        else:
            self.close()

    def _update(self) -> None:
        made = self.model.follow_up
        self.pages.setCurrentIndex(0 if made is None else 1)
        self.plot.show_follow_up(made)
        self.numbers.show_follow_up(made)
        self.status.setText(_standing(self.model))

    def _update_message(self) -> None:
        self._message.setVisible(self.model.problem is not None)

    def closeEvent(self, event: QCloseEvent) -> None:
        self.model.cancel()
        super().closeEvent(event)

    # Drag and drop

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()
            self._targets.show_over(self.pages, 0, "", "Add these dates")
            self._targets.point(False)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._targets.hide()

    def dropEvent(self, event: QDropEvent) -> None:
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        self._targets.hide()
        if paths:
            event.acceptProposedAction()
            # After the drop is answered, so that the program dragged from is not kept waiting.
            QTimer.singleShot(0, self, lambda: self._add(paths))


def _standing(model: FollowUpModel) -> str:
    if model.finding:
        return "Looking for dates"
    if model.comparing:
        return "Comparing the dates"
    if model.busy:
        return "Segmenting"
    count = len(model.entries)
    if model.follow_up is not None:
        return f"{count} dates, aligned onto the latest"
    return f"{count} date{'s' * (count != 1)}"


# --- the list of dates ------------------------------------------------------------------------------------------------


class DatesRail(QFrame):
    """Left: every date with its state, and what can be done with all of them.

    Signals:
        browse_files: The user wants to choose files.
        browse_folder: The user wants to choose a folder.
        export: The user wants the numbers as files.
    """

    browse_files = Signal()
    browse_folder = Signal()
    export = Signal()

    def __init__(self, theme: Theme, model: FollowUpModel) -> None:
        super().__init__()
        self._theme, self._model = theme, model
        self.setObjectName("rail")
        self.setFixedWidth(RAIL_WIDTH)
        column = QVBoxLayout(self)
        column.setContentsMargins(14, 16, 14, 14)
        column.setSpacing(8)
        head = QHBoxLayout()
        head.setContentsMargins(2, 0, 0, 0)
        head.setSpacing(10)
        head.addWidget(Emblem(theme, 22))
        head.addWidget(label("Follow-up", "wordmark"), 1)
        column.addLayout(head)
        column.addSpacing(8)
        caption = label("DATES", "caption")
        caption.setContentsMargins(4, 0, 0, 0)
        column.addWidget(caption)
        inside = QWidget()
        inside.setObjectName("panelBody")
        self._list = QVBoxLayout(inside)
        self._list.setContentsMargins(0, 0, 0, 0)
        self._list.setSpacing(8)
        self._rows = QVBoxLayout()
        self._rows.setSpacing(8)
        self._list.addLayout(self._rows)
        self._list.addStretch()
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inside)
        column.addWidget(area, 1)
        self.hint = label("", "small", wrap=True)
        column.addWidget(self.hint)
        self.add_button = push("Add dates", "large", "Choose the scans of other dates, or drop them on the window")
        menu = QMenu(self.add_button)
        for title, signal in (("A folder...", self.browse_folder), ("Files...", self.browse_files)):
            entry = action(title, self)
            entry.setParent(menu)
            entry.triggered.connect(signal)
            menu.addAction(entry)
        self.add_button.setMenu(menu)
        self.cancel_button = push("Cancel", "large", "Stop (Esc)")
        self.cancel_button.clicked.connect(model.cancel)
        self.go_on_button = push("Go on", "large", "Segment the dates that wait, and compare")
        self.go_on_button.clicked.connect(model.go_on)
        self.export_button = push(
            "Export",
            "primary",
            "Save numbers (CSV, JSON), the plot (PNG) and maps of change (NIfTI) in a folder (Ctrl+S)",
        )
        self.export_button.clicked.connect(self.export)
        for button in (self.add_button, self.cancel_button, self.go_on_button, self.export_button):
            button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            column.addWidget(button)
        self.rows: list[DateRow] = []
        model.dates_changed.connect(self._update)
        model.progressed.connect(self._progress)
        self._update()

    def _update(self) -> None:
        model = self._model
        if [row.entry for row in self.rows] != model.in_order:
            clear(self._rows)
            self.rows = [DateRow(self._theme, model, entry) for entry in model.in_order]
            for row in self.rows:
                self._rows.addWidget(row)
        for row in self.rows:
            row.refresh()
        self.cancel_button.setVisible(model.busy)
        failed = any(entry.state is State.FAILED for entry in model.entries)
        self.go_on_button.setVisible(not model.busy and (model.stopped or failed))
        self.go_on_button.setText("Try again" if failed and not model.stopped else "Go on")
        self.export_button.setEnabled(model.follow_up is not None)
        nothing = "There is nothing to save before two dates are compared."
        self.export_button.setToolTip(EXPORTS if model.follow_up is not None else nothing)
        self.hint.setText(
            "Type a name, or a day such as 2024-05-17. Names are written into exports; days and file names are not."
            if model.entries
            else ""
        )
        self.hint.setVisible(bool(model.entries))

    def _progress(self, entry: Entry | None) -> None:
        for row in self.rows:
            if row.entry is entry:
                row.show_progress()


class DateRow(QFrame):
    """One date: its name, its model, how far it is, or its volumes."""

    def __init__(self, theme: Theme, model: FollowUpModel, entry: Entry) -> None:
        super().__init__()
        self._theme, self._model, self.entry = theme, model, entry
        self.setObjectName("slot")
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 8, 8, 10)
        column.setSpacing(6)
        head = QHBoxLayout()
        head.setSpacing(2)
        self.name = QLineEdit()
        self.name.setAccessibleName("Name of the date")
        self.name.setAcceptDrops(False)
        self.name.setToolTip("A name for this date, or its day such as 2024-05-17")
        self.name.editingFinished.connect(self._renamed)
        head.addWidget(self.name, 1)
        head.addSpacing(4)
        self.up_button = IconButton(theme, "arrow-up", "This date was before the one above")
        self.up_button.clicked.connect(lambda: model.move_up(entry))
        self.remove_button = IconButton(theme, "x", "Leave this date out")
        self.remove_button.clicked.connect(lambda: model.remove(entry))
        head.addWidget(self.up_button)
        head.addWidget(self.remove_button)
        column.addLayout(head)
        self.made_by = label("", "small", wrap=True)
        column.addWidget(self.made_by)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress of this date")
        column.addWidget(self.bar)
        self.state = label("", "small", wrap=True)
        column.addWidget(self.state)
        self.volumes = QWidget()
        grid = QGridLayout(self.volumes)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(7)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(2, 1)
        self._values: dict[str, QLabel] = {}
        for at, (region, title) in enumerate(TITLES.items()):
            grid.addWidget(Patch(theme, region), at, 0)
            grid.addWidget(label(title, "small"), at, 1)
            value = label("")
            value.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            grid.addWidget(value, at, 2)
            self._values[region] = value
        column.addWidget(self.volumes)
        self.note = label("", "small", wrap=True)
        column.addWidget(self.note)
        foot = QHBoxLayout()
        self.baseline_button = push("Baseline", "chip", "Tell changes from this date")
        self.baseline_button.setCheckable(True)
        self.baseline_button.clicked.connect(self._choose_baseline)
        foot.addWidget(self.baseline_button)
        foot.addStretch()
        column.addLayout(foot)

    def _choose_baseline(self) -> None:
        self._model.set_baseline(self.entry)
        self.refresh()

    def _renamed(self) -> None:
        self._model.rename(self.entry, self.name.text())

    def refresh(self) -> None:
        """Show what is known now."""
        entry, model = self.entry, self._model
        if not self.name.hasFocus() or not self.name.isModified():
            self.name.setText(entry.title)
        place = model.in_order.index(entry) if entry in model.entries else 0
        self.up_button.setVisible(not model.all_days_known and place > 0)
        point = entry.point
        said = []
        if entry.label and entry.when is not None:
            said.append(entry.when.isoformat())
        if point is not None:
            said.append(point.made_by)
        self.made_by.setText("\n".join(said))
        self.made_by.setVisible(bool(said))
        self.bar.setVisible(entry.state is State.WORKING)
        self.show_progress()
        self.volumes.setVisible(point is not None)
        self.baseline_button.setVisible(point is not None)
        self.baseline_button.setChecked(entry is model.baseline)
        if point is not None:
            for region, value in self._values.items():
                value.setText(f"{point.volumes_ml[region]:.1f} ml")
                interval = point.intervals_ml.get(region)
                value.setToolTip(interval_in_words(interval) if interval is not None else "No interval was measured.")
            self.note.setText("\n".join(point.notes[:3]))
        self.note.setVisible(point is not None and bool(self.note.text()))

    def show_progress(self) -> None:
        """Show how far the work on it is."""
        entry = self.entry
        self.bar.setValue(round(1000 * entry.fraction))
        words = {
            State.WAITING: "waits" if not self._model.stopped else "stopped",
            State.WORKING: entry.message,
            State.FAILED: entry.message,
            State.DONE: "",
        }[entry.state]
        left = self._model.seconds_left if entry.state is State.WORKING else None
        self.state.setText(words + (f", {max(1, round(left))} s left" if left is not None else ""))
        self.state.setVisible(bool(words))


class Patch(QWidget):
    """A region's colour."""

    def __init__(self, theme: Theme, region: str) -> None:
        super().__init__()
        self._theme, self._region = theme, region
        self.setFixedSize(10, 10)
        theme.changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        dark = QColor(self._theme.colours.panel).lightness() < 128
        painter.setBrush(QColor(region_colour(self._region, dark)))
        painter.drawRoundedRect(QRectF(self.rect()), 3, 3)


class Invitation(QWidget):
    """What stands there before two dates are compared.

    Signals:
        browse_folder: The user wants to choose a folder.
    """

    browse_folder = Signal()

    def __init__(self, theme: Theme, model: FollowUpModel) -> None:
        super().__init__()
        self._theme, self._model = theme, model
        column = QVBoxLayout(self)
        column.setContentsMargins(48, 48, 48, 48)
        column.setSpacing(10)
        column.addStretch()
        self.title = label("", "title")
        self.title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.words = label("", "secondary", wrap=True)
        self.words.setAlignment(Qt.AlignmentFlag.AlignCenter)
        # Between stretches, not in the middle by itself: an aligned label is not given the height its lines need.
        self.words.setFixedWidth(620)
        self.words.setMinimumHeight(2 * self.words.fontMetrics().lineSpacing() + 4)
        column.addWidget(self.title)
        between = QHBoxLayout()
        between.addStretch()
        between.addWidget(self.words)
        between.addStretch()
        column.addLayout(between)
        column.addSpacing(10)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress of all dates")
        self.bar.setFixedWidth(360)
        column.addWidget(self.bar, 0, Qt.AlignmentFlag.AlignCenter)
        self.button = push("Choose a folder", "primary", "One date, or a folder for each date")
        self.button.clicked.connect(self.browse_folder)
        column.addWidget(self.button, 0, Qt.AlignmentFlag.AlignCenter)
        column.addStretch()
        model.dates_changed.connect(self._update)
        model.progressed.connect(self._update)
        theme.changed.connect(self.update)
        self._update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._model.busy or self._model.finding:
            return
        # Where things may be dropped, as the empty window of the viewer shows it.
        c = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        pen = QPen(QColor(c.hairline), 1.5)
        pen.setDashPattern([5, 5])
        painter.setPen(pen)
        painter.setBrush(QColor(blend(c.panel, c.background, 0.6)))
        middle, width, height = QRectF(self.rect()).center(), min(760.0, self.width() - 64.0), 300.0
        painter.drawRoundedRect(QRectF(middle.x() - width / 2, middle.y() - height / 2, width, height), 12, 12)

    def _update(self, _: object = None) -> None:
        self.update()
        model = self._model
        count, done = len(model.entries), sum(entry.point is not None for entry in model.entries)
        working = next((entry for entry in model.entries if entry.state is State.WORKING), None)
        busy = model.busy or model.finding
        if model.comparing:
            title, words = "Comparing the dates", f"{model.comparing[:1].upper()}{model.comparing[1:]}."
        elif working is not None:
            title, words = f"Segmenting {working.title}", f"Date {done + 1} of {count}: {working.message}."
        elif model.finding:
            title, words = "Looking for dates", "Reading names and headers."
        elif model.stopped:
            title, words = "Stopped", "What was segmented is kept. Go on when you like."
        elif count == 1:
            title = "One date is here"
            words = "Drop the scans of another date of this patient, earlier or later. Any sequences will do."
        elif count:
            title, words = "Fewer than two dates could be read", "See on the left why, or add another date."
        else:
            title = "Drop the scans of two or more dates"
            words = (
                "A folder for each date, or files named by date; NIfTI or DICOM, any sequences. Each date is segmented "
                "with the model that fits it, then aligned onto the latest."
            )
        self.title.setText(title)
        self.words.setText(words)
        self.bar.setVisible(busy)
        part = working.fraction if working is not None else 1.0 if model.comparing else 0.0
        self.bar.setValue(round(1000 * (done + part) / (count + 1)) if count else 0)
        self.button.setVisible(not busy and not model.stopped)


# --- pictures ---------------------------------------------------------------------------------------------------------


class _ChangeLayers(SliceLayers):
    """The scan and what changed on it, in place of scan and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.change = ChangeLayer()
        self.change.colours = dict(COLOURS)
        self.change.hatched = frozenset({SHRUNK})
        self.change.outlined = frozenset({STABLE})

    def paint(self, painter: QPainter, frame: Frame) -> None:
        self.scan.paint(painter, frame)
        self.change.paint(painter, frame)


class ChangeView(SliceView):
    """A slice of the latest date with what changed since another."""

    def __init__(self, model: ViewerModel, plane: Plane) -> None:
        super().__init__(model, plane)
        self.changed = _ChangeLayers()
        self._layers = {Side.MAIN: self.changed, Side.OTHER: SliceLayers()}


class ChangeViews(QWidget):
    """The earlier date, the latest and the map of change, one plane, one crosshair."""

    def __init__(self, theme: Theme, model: FollowUpModel) -> None:
        super().__init__()
        self._theme, self._model = theme, model
        self.viewer = ViewerModel(self)
        self.region = WHOLE_TUMOUR
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self._make_bar())
        rows = QWidget()
        rows.setObjectName("lines")
        rows.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        grid = QGridLayout(rows)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(1)
        viewer = self.viewer
        self.earlier = SliceView(viewer, Plane.AXIAL, side=Side.OTHER)
        self.latest = SliceView(viewer, Plane.AXIAL, side=Side.MAIN)
        self.change = ChangeView(viewer, Plane.AXIAL)
        self.views = (self.earlier, self.latest, self.change)
        self.titles: list[ElidedLabel] = []
        for at, view in enumerate(self.views):
            title = ElidedLabel("")
            title.setAlignment(Qt.AlignmentFlag.AlignCenter)
            strip = QFrame()
            strip.setObjectName("cell")
            strip.setFixedHeight(28)
            around = QHBoxLayout(strip)
            around.setContentsMargins(10, 0, 10, 0)
            around.addWidget(title)
            self.titles.append(title)
            grid.addWidget(strip, 0, at)
            grid.addWidget(view, 1, at)
            grid.setColumnStretch(at, 1)
            view.resized.connect(self._scale_later)
            view.entered.connect(self._enter)
        self.active: SliceView = self.change
        grid.setRowStretch(1, 1)
        column.addWidget(rows, 1)
        column.addWidget(self._make_foot())
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._share_scale)
        model.shown_changed.connect(self._show)
        model.compared.connect(self._update)
        viewer.shown_changed.connect(self._update)
        viewer.shown_changed.connect(self._bring)
        viewer.layout_changed.connect(self._update)
        for signal in (viewer.layers_changed, viewer.shown_changed, viewer.convention_changed, viewer.layout_changed):
            signal.connect(self._scale_later)

    def _make_bar(self) -> QWidget:
        bar = QFrame()
        bar.setObjectName("bar")
        bar.setFixedHeight(48)
        row = QHBoxLayout(bar)
        row.setContentsMargins(14, 0, 10, 0)
        row.setSpacing(10)
        self.region_choice = Segments(
            tuple((region, title, f"What changed of the {title.lower()}") for region, title in TITLES.items()), "Region"
        )
        self.region_choice.chosen.connect(self._choose_region)
        self.since = Choice(self._theme, "The earlier date")
        self.since.setMinimumWidth(132)
        self.since.activated.connect(lambda at: self._bring(at))
        self.plane_choice = Segments(
            tuple((plane, plane.title[0], f"{plane.title} (P for the next)") for plane in reversed(Plane)), "Plane"
        )
        self.plane_choice.chosen.connect(lambda plane: self.viewer.set_layout(plane=plane))
        self.sequence_choice = QHBoxLayout()
        self._sequences: Segments | None = None
        row.addWidget(self.region_choice)
        row.addWidget(label("since", "secondary"))
        row.addWidget(self.since)
        row.addWidget(self.plane_choice)
        row.addLayout(self.sequence_choice)
        row.addStretch()
        return bar

    def _make_foot(self) -> QWidget:
        foot = QFrame()
        foot.setObjectName("foot")
        foot.setFixedHeight(34)
        row = QHBoxLayout(foot)
        row.setContentsMargins(14, 0, 10, 0)
        row.setSpacing(14)
        self.about = ElidedLabel("", "secondary")
        self.legend = Legend()
        row.addWidget(self.about, 1)
        row.addWidget(self.legend)
        return foot

    def bind_keys(self, window: QWidget) -> None:
        """Keys of the window that move the views."""
        viewer = self.viewer
        look: tuple[tuple[str, str | tuple[str, ...], Callable[[], object]], ...] = (
            ("Next slice", "PgUp", lambda: viewer.step(self.active.plane, 1)),
            ("Slice before", "PgDown", lambda: viewer.step(self.active.plane, -1)),
            ("Zoom in", ("+", "="), lambda: viewer.set_view(viewer.zoom * 1.2, viewer.centre)),
            ("Zoom out", "-", lambda: viewer.set_view(viewer.zoom / 1.2, viewer.centre)),
            ("Whole head again", "0", viewer.fit),
            ("Change sides", "R", lambda: viewer.set_radiological(not viewer.radiological)),
            ("Next plane", "P", self._next_plane),
            *((f"Show {s.title}", str(n), partial(viewer.show, s)) for n, s in enumerate(Sequence, 1)),
        )
        tumour: tuple[tuple[str, str | tuple[str, ...], Callable[[], object]], ...] = (
            ("Masks and change on and off", "M", lambda: viewer.set_overlay(visible=not viewer.overlay.visible)),
            ("Less opacity", "[", lambda: viewer.set_overlay(opacity=viewer.overlay.opacity - 0.1)),
            ("More opacity", "]", lambda: viewer.set_overlay(opacity=viewer.overlay.opacity + 0.1)),
            ("Where most changed", "G", self.go_to_change),
        )
        for group, those in (("Look", look), ("Tumour", tumour)):
            for title, keys, act in those:
                bind(window, group, title, keys, act)

    def _next_plane(self) -> None:
        planes = list(Plane)
        self.viewer.set_layout(plane=planes[(planes.index(self.viewer.plane) - 1) % len(planes)])

    def _choose_region(self, region: object) -> None:
        self.region = str(region)
        self._update()
        self.go_to_change()

    def go_to_change(self) -> None:
        """Put the crosshair where most grew or shrank on a slice, or into the tumour where nothing did."""
        shown = self._model.shown
        if shown is None:
            return
        change = shown.follow_up.change(self.region, shown.since)
        place = change.largest_place()
        if place is None:
            place = shown.mask.largest
        if place is not None:
            self.viewer.move_crosshair(place)

    def _bring(self, since: int | None = None) -> None:
        """Have the sequence that is shown brought along from the earlier date."""
        shown, key = self._model.shown, self.viewer.shown
        if shown is not None and isinstance(key, Sequence):
            self._model.look_since(shown.since if since is None else since, key)

    def _enter(self, view: SliceView) -> None:
        self.active = view

    def _show(self) -> None:
        shown, viewer = self._model.shown, self.viewer
        if shown is None:
            viewer.set_other(None)
            viewer.set_layers({})
            return
        same = bool(viewer.layers) and all(viewer.layers.get(key) is layer for key, layer in shown.layers.items())
        if not same:
            viewer.set_layers(shown.layers)
            viewer.show(shown.sequence)
            viewer.set_overlay(other_shown=False, opacity=0.3, style=MaskStyle.OUTLINE)
        viewer.set_mask(shown.mask)
        viewer.set_other(shown.earlier)
        self._update()
        if not same:
            self.go_to_change()

    def _update(self) -> None:
        made, shown, viewer = self._model.follow_up, self._model.shown, self.viewer
        if made is None or shown is None:
            self.change.changed.change.change = None
            return
        names = made.names_on_screen
        self.since.blockSignals(True)
        self.since.clear()
        self.since.addItems(list(names[:-1]))
        self.since.setCurrentIndex(shown.since)
        self.since.blockSignals(False)
        change = made.change(self.region, shown.since)
        self.change.changed.change.change = change.labels
        self.legend.show_amounts({one: change.ml(one) for one in (GROWN, SHRUNK, STABLE, NOT_SEEN)})
        self.region_choice.set(self.region)
        self.plane_choice.set(viewer.plane)
        self._show_sequences()
        key = viewer.shown
        source = shown.instead.get(key, key) if isinstance(key, Sequence) else None
        then = names[shown.since]
        lacks = (
            f"  ({source.title} instead of {key.title})"
            if isinstance(key, Sequence) and source is not None and source is not key
            else ""
        )
        for title, words in zip(self.titles, (then + lacks, names[-1], f"Change since {then}"), strict=True):
            title.setText(words)
            title.setToolTip(words)
        self.about.setText(f"{TITLES[self.region]} on {names[-1]}, against {then}")
        for view, side in zip(self.views, (Side.OTHER, Side.MAIN, Side.MAIN), strict=True):
            view.show_plane(viewer.plane, side)
            view.setAccessibleName(f"{self.titles[self.views.index(view)].text()}, {viewer.plane.title} view")

    def _show_sequences(self) -> None:
        there = tuple(key for key in self.viewer.layers if isinstance(key, Sequence))
        if self._sequences is None or self._sequences.property("there") != "+".join(there):
            clear(self.sequence_choice)
            self._sequences = Segments(
                tuple((s, s.title, f"Show {s.title} ({list(Sequence).index(s) + 1})") for s in there), "Sequence"
            )
            self._sequences.setProperty("there", "+".join(there))
            self._sequences.chosen.connect(lambda s: self.viewer.show(s))
            self.sequence_choice.addWidget(self._sequences)
        self._sequences.set(self.viewer.shown)

    def _scale_later(self) -> None:
        self._later.start()

    def _share_scale(self) -> None:
        if self.viewer.layers:
            scale = min(view.fitting_scale() for view in self.views)
            for view in self.views:
                view.set_scale(scale)


class Legend(QWidget):
    """What the colours of the map mean, and how many ml each is."""

    def __init__(self) -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 4, 0)
        row.setSpacing(6)
        self.amounts: dict[int, QLabel] = {}
        self._marks: dict[int, LegendMark] = {}
        for which, words in WORDS.items():
            mark, amount = LegendMark(which), label("")
            amount.setAccessibleName(words)
            row.addWidget(mark)
            row.addWidget(amount)
            row.addSpacing(6)
            self.amounts[which], self._marks[which] = amount, mark

    def show_amounts(self, ml: dict[int, float]) -> None:
        """Show these volumes."""
        for which, amount in self.amounts.items():
            amount.setText(f"{WORDS[which]} {ml[which]:.1f} ml")
            shown = which != NOT_SEEN or ml[which] > 0.05
            amount.setVisible(shown)
            self._marks[which].setVisible(shown)


class LegendMark(QWidget):
    """A patch drawn as the map draws it: solid, striped or an outline."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self._which = which
        self.setFixedSize(14, 14)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = QRectF(self.rect()).adjusted(1, 1, -1, -1)
        colour = QColor(COLOURS[self._which])
        painter.fillRect(box, QColor("#20262E"))
        if self._which == STABLE:
            box = box.adjusted(2, 2, -2, -2)
        painter.setClipRect(box)
        if self._which == SHRUNK:
            painter.setPen(QPen(colour, 2))
            for shift in range(-14, 15, 5):
                painter.drawLine(shift, 14, shift + 14, 0)
        elif self._which != STABLE:
            painter.fillRect(box, colour)
        painter.setClipping(False)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(colour, 1.5))
        painter.drawRect(box)


# --- numbers and words ------------------------------------------------------------------------------------------------


class Numbers(QScrollArea):
    """The table of all dates, and what it means."""

    def __init__(self, theme: Theme, model: FollowUpModel) -> None:
        super().__init__()
        self._theme, self._model = theme, model
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAccessibleName("Numbers and what they mean")
        inside = QWidget()
        inside.setObjectName("panelBody")
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(18, 14, 18, 14)
        self._column.setSpacing(8)
        self.setWidget(inside)
        self.texts: list[QLabel] = []

    def show_follow_up(self, made: FollowUp | None) -> None:
        """Show these dates."""
        clear(self._column)
        self.texts = []
        if made is None:
            return
        for doubt in made.doubts(on_screen=True):
            self._say(doubt, "doubt")
        self.alike_button = push("", "large")
        common = self._model.could_be_alike
        if common or self._model.made_alike:
            alone = " alone" if len(common) == 1 else ""
            words = (
                f"Segment every date with {in_words(common)}{alone}" if common else "Segment each date with all it has"
            )
            self.alike_button.setText(words)
            self.alike_button.setAccessibleName(words)
            self.alike_button.setToolTip(
                "What every date has; one model then makes all masks, so that volumes can be compared"
                if common
                else "Masks by the best model for each date; volumes may differ for that"
            )
            self.alike_button.clicked.connect(lambda: self._model.segment_alike(bool(common)))
            row = QHBoxLayout()
            row.addWidget(self.alike_button)
            row.addStretch()
            self._column.addLayout(row)
        table = self._table(made)
        self._column.addWidget(table)
        self.setMinimumWidth(table.minimumSizeHint().width() + 56)
        self._column.addSpacing(6)
        self._column.addWidget(label("WHAT IT MEANS", "caption"))
        for sentence in made.findings(on_screen=True):
            self._say(sentence)
        self._column.addSpacing(4)
        self._column.addWidget(label("WHAT IT DOES NOT SAY", "caption"))
        for sentence in NOT_JUDGED:
            self._say(sentence, "secondary")
        self._say(f"Limits after {SOURCE}. {RESEARCH_USE}", "small")
        self._column.addStretch()

    def _say(self, words: str, name: str = "") -> None:
        text = label(words, name, wrap=True)
        text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._column.addWidget(text)
        self.texts.append(text)

    @staticmethod
    def _table(made: FollowUp) -> QWidget:
        table = QWidget()
        grid = QGridLayout(table)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(5)
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        heads = ("", "Volume", "90 % interval", "Baseline", "Smallest", "Product", "Baseline", "Smallest")
        tips = (
            "",
            "In ml, of each date's own mask",
            "In ml; in 90 of 100 patients the true volume lies between these",
            "Change of the volume since baseline",
            "Change of the volume since the smallest date so far",
            "Of both diameters in cm², on the axial slice where the region is largest",
            "Change of the product since baseline",
            "Change of the product since the smallest date so far",
        )
        line = 0
        for region, title in TITLES.items():
            for column, (words, tip) in enumerate(zip((title, *heads[1:]), tips, strict=True)):
                head = label(words, "" if column == 0 else "small")
                head.setToolTip(tip)
                if column:
                    head.setAlignment(right)
                grid.addWidget(head, line, column)
            line += 1
            volume, product = (made.course(region, measure) for measure in (Measure.VOLUME, Measure.PRODUCT))
            for date, name in enumerate(made.names_on_screen):
                interval = made.visits[date].point.intervals_ml.get(region)
                ends = interval_in_words(interval).partition(": ")[2] if interval is not None else "not measured"
                cells = (
                    f"{volume.values[date]:.1f} ml",
                    ends,
                    percent(volume.against_baseline(date)),
                    percent(volume.against_smallest(date)),
                    f"{product.values[date]:.1f} cm²",
                    percent(product.against_baseline(date)),
                    percent(product.against_smallest(date)),
                )
                who = ElidedLabel(name, "secondary")
                who.setToolTip(name)
                who.setMinimumWidth(min(150, max(76, who.fontMetrics().horizontalAdvance(name) + 2)))
                grid.addWidget(who, line, 0)
                for column, words in enumerate(cells, start=1):
                    cell = label(words, "small" if column == 2 else "")
                    cell.setAlignment(right)
                    grid.addWidget(cell, line, column)
                line += 1
            grid.setRowMinimumHeight(line, 6)
            line += 1
        grid.setColumnStretch(len(heads), 1)
        return table
