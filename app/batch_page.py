"""The batch page: a window of its own in which many patients are planned, segmented, looked at and tried again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from PySide6.QtCore import QPoint, QRect, QRectF, Qt, QTimer, QUrl, Signal
from PySide6.QtGui import (
    QAction,
    QCloseEvent,
    QColor,
    QDesktopServices,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDropEvent,
    QImage,
    QPainter,
    QPaintEvent,
    QPen,
)
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMainWindow,
    QMenu,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.batch_model import BatchModel, Stage
from app.batch_table import STATES, BatchTable, Chosen, Pictures, Show, Table
from app.cards import Banner, Card, DropTargets
from app.controls import Choice, ElidedLabel, MenuButton, Segments, action, clear, label, place_in_words, push
from app.jobs import Jobs
from app.shortcuts import bind
from app.theme import DARK, LABEL_PX, Theme, blend, body_font
from app.welcome import Emblem
from engine import batch
from engine.batch import Row, State
from engine.progress import Progress
from engine.volume import Sequence, in_words, ml_in_words

DETAIL_WIDTH = 312
BEST = "Best for each patient"
# What may be written beside masks, sidecar and the table of all patients.
WRITES = {
    "report": ("Report (PDF)", "A page to file: pictures, numbers, model and limits"),
    "figure": ("Figure sheet (PNG)", "The largest slices with outlines, for print"),
    "table": ("Lesions (CSV, JSON)", "Volumes, diameters, lesions and confidence of each patient"),
    "surfaces": ("Surfaces (STL)", "Whole tumour and core as surfaces"),
    "probabilities": ("Probabilities (NIfTI)", "Of whole tumour and core"),
    "dicom_seg": ("DICOM segmentation", "Of patients that came as DICOM; carries the patient's identity"),
}
REGIONS = {"whole_tumour": "Whole tumour", "tumour_core": "Core"}
# The picture beside the table is read when the keys have come to rest on a patient.
PICTURE_AFTER_MS = 80
# What is said of all patients together is summed up no more often than it can be read.
SUMMARY_EVERY_MS = 400


class BatchPage(QMainWindow):
    """From folders of patients to a table of results.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread; of this window alone.
        model: The batch that is shown; outlives this window's being closed.
    """

    def __init__(self, theme: Theme, jobs: Jobs, model: BatchModel) -> None:
        super().__init__()
        self._theme, self._jobs, self.batch = theme, jobs, model
        self._card: Card | None = None
        self.last_folder = str(Path.home())
        self.setWindowTitle("Batch - Gliascope")
        self.setAcceptDrops(True)
        self.resize(1440, 900)
        self.setMinimumSize(1024, 680)

        self.pictures = Pictures(jobs)
        self.table_model = BatchTable(model)
        self.chosen = Chosen(self.table_model)
        self.table = Table(theme, self.table_model, self.chosen, self.pictures)
        self.detail = Detail(theme, jobs, model)
        self.banner = Banner(theme, model)
        self._message = QWidget()
        around = QVBoxLayout(self._message)
        around.setContentsMargins(20, 12, 20, 0)
        around.addWidget(self.banner)

        self.invitation = Invitation(theme)
        self.invitation.browse.connect(self.browse)
        there = QWidget()
        column = QVBoxLayout(there)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        self._setup, self._course = self._make_setup(), self._make_course()
        column.addWidget(self._setup)
        column.addWidget(self._course)
        column.addWidget(self._make_tools())
        middle = QHBoxLayout()
        middle.setContentsMargins(0, 0, 0, 0)
        middle.setSpacing(0)
        self._listed = QStackedWidget()
        self._listed.addWidget(self.table)
        self._nobody = label("Nobody matches.", "secondary")
        self._nobody.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._listed.addWidget(self._nobody)
        middle.addWidget(self._listed, 1)
        middle.addWidget(self.detail)
        column.addLayout(middle, 1)
        self.pages = QStackedWidget()
        self.pages.addWidget(self.invitation)
        self.pages.addWidget(there)

        self._surface = QWidget()
        self._surface.setObjectName("surface")
        self._surface.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        whole = QVBoxLayout(self._surface)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(0)
        whole.addWidget(self._make_header())
        whole.addWidget(self._message)
        whole.addWidget(self.pages, 1)
        self._foot = self._make_foot()
        whole.addWidget(self._foot)
        self.setCentralWidget(self._surface)
        self._targets = DropTargets(theme, self._surface)

        model.stage_changed.connect(self._update)
        model.listed.connect(self._relist)
        model.plan_changed.connect(self._update)
        model.rows_changed.connect(self._rows_changed)
        model.progressed.connect(self._update_course)
        model.problem_changed.connect(self._update_message)
        for signal in (self.chosen.rowsInserted, self.chosen.rowsRemoved, self.chosen.modelReset):
            signal.connect(self._update_listed)
        self.table.selectionModel().selectionChanged.connect(self._chose)
        self.table.opened.connect(model.look)
        self.table.toggled.connect(self.toggle)
        self.detail.look.connect(model.look)
        theme.changed.connect(self._update_icons)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(SUMMARY_EVERY_MS)
        self._later.timeout.connect(self._chose)
        self._bind_keys()
        self._order_tabs()
        self._update_icons()
        self._relist()
        self._update_message()
        # Nothing looks chosen before anything was.
        self._surface.setFocus(Qt.FocusReason.OtherFocusReason)

    # Its parts

    def _make_header(self) -> QWidget:
        header = QFrame()
        header.setObjectName("header")
        header.setFixedHeight(48)
        row = QHBoxLayout(header)
        row.setContentsMargins(14, 0, 12, 0)
        row.setSpacing(8)
        row.addWidget(Emblem(self._theme, 22))
        row.addWidget(label("Batch", "wordmark"))
        row.addSpacing(14)
        self.origin = ElidedLabel("", "secondary")
        row.addWidget(self.origin, 1)
        self.results_button = push("Open the results", "flat", "Show the folder of the results (Ctrl+R)")
        self.results_button.clicked.connect(self.open_results)
        self.other_button = push("Other patients", "flat", "Begin with other patients; results stay where they are")
        self.other_button.clicked.connect(self.batch.begin_anew)
        for button in (self.results_button, self.other_button):
            row.addWidget(button)
        return header

    def _make_setup(self) -> QWidget:
        """What can be decided before the start; the defaults do."""
        bar = QFrame()
        bar.setObjectName("tools")
        row = QHBoxLayout(bar)
        row.setContentsMargins(20, 9, 20, 9)
        row.setSpacing(6)
        row.addWidget(label("Look at", "secondary"))
        row.addSpacing(4)
        self.allowed: dict[Sequence, QPushButton] = {}
        for sequence in Sequence:
            button = _chip(sequence.title, f"Whether {sequence.title} is looked at, where a patient has it")
            button.setAccessibleName(f"Look at {sequence.title}")
            button.clicked.connect(lambda on, sequence=sequence: self.batch.allow(sequence, on))
            self.allowed[sequence] = button
            row.addWidget(button)
        row.addSpacing(18)
        row.addWidget(label("Model", "secondary"))
        row.addSpacing(4)
        self.model_choice = Choice(self._theme, "Model")
        self.model_choice.setMinimumWidth(210)
        self.model_choice.activated.connect(lambda _: self.batch.choose_model(str(self.model_choice.currentData())))
        row.addWidget(self.model_choice)
        row.addSpacing(18)
        row.addWidget(label("Write", "secondary"))
        row.addSpacing(4)
        self.write_button = MenuButton(self._theme, "What is written for each patient")
        self.write_button.setMinimumWidth(160)
        self.write_button.setMaximumWidth(220)
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self.writes: dict[str, QAction] = {}
        for kind, (title, tip) in WRITES.items():
            entry = action(title, self)
            entry.setCheckable(True)
            entry.setToolTip(tip)
            entry.toggled.connect(lambda on, kind=kind: self.batch.write(replace(self.batch.wanted, **{kind: on})))
            menu.addAction(entry)
            self.writes[kind] = entry
        below = self.write_button
        below.clicked.connect(lambda: menu.popup(below.mapToGlobal(below.rect().bottomLeft())))
        row.addWidget(below)
        row.addStretch()
        return bar

    def _make_course(self) -> QWidget:
        """How far a batch has come."""
        bar = QFrame()
        bar.setObjectName("tools")
        column = QVBoxLayout(bar)
        column.setContentsMargins(20, 10, 20, 12)
        column.setSpacing(8)
        self.standing = label("", "")
        self.progress = CourseBar(self._theme, self.batch)
        column.addWidget(self.standing)
        column.addWidget(self.progress)
        return bar

    def _make_tools(self) -> QWidget:
        bar = QFrame()
        bar.setObjectName("bar")
        row = QHBoxLayout(bar)
        row.setContentsMargins(20, 8, 20, 8)
        row.setSpacing(6)
        tips = {
            Show.ALL: "Every patient",
            Show.WAITING: "Patients whose turn has not come, and those left out",
            Show.RUNNING: "Patients who are being segmented",
            Show.DONE: "Patients who are done",
            Show.FAILED: "Patients who could not be segmented",
            Show.TO_READ: "Patients with a warning or a failure to read",
        }
        self.show_choice = Segments(tuple((show, show.value, tips[show]) for show in Show), "Show")
        self.show_choice.set(Show.ALL)
        self.show_choice.chosen.connect(self._narrow)
        row.addWidget(self.show_choice)
        row.addSpacing(10)
        self.having: dict[Sequence, QPushButton] = {}
        row.addWidget(label("with", "secondary"))
        for sequence in Sequence:
            button = _chip(sequence.title, f"Only patients with {sequence.title}")
            button.setAccessibleName(f"Only patients with {sequence.title}")
            button.clicked.connect(lambda _: self._narrow(None))
            self.having[sequence] = button
            row.addWidget(button)
        row.addStretch()
        self.search = QLineEdit()
        self.search.setPlaceholderText("Find a patient, a model, a warning")
        self.search.setAccessibleName("Find a patient, a model, a warning")
        self.search.setMinimumWidth(150)
        self.search.setMaximumWidth(240)
        self.search.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.search.textChanged.connect(lambda words: self.chosen.narrow(words=words))
        self.search.textChanged.connect(self._update_listed)
        row.addWidget(self.search, 1)
        return bar

    def _make_foot(self) -> QWidget:
        foot = QFrame()
        foot.setObjectName("foot")
        foot.setFixedHeight(58)
        row = QHBoxLayout(foot)
        row.setContentsMargins(20, 0, 20, 0)
        row.setSpacing(10)
        row.addWidget(label("Research use only", "small"))
        row.addSpacing(14)
        self.place_words = label("Results go to", "secondary")
        self.place = ElidedLabel("", "")
        self.place_button = push("Change", "", "Choose the folder for the results")
        self.place_button.clicked.connect(self.browse_out)
        row.addWidget(self.place_words)
        row.addWidget(self.place, 1)
        row.addWidget(self.place_button)
        self._room = QWidget()
        row.addWidget(self._room, 1)
        self.again_button = push("", "large", "Let all patients that failed have another turn")
        self.again_button.clicked.connect(lambda: self.batch.retry())
        self.stop_button = push("Stop", "large", "Stop within a second; what is done stays, and it can go on later")
        self.stop_button.clicked.connect(lambda: self.batch.stop())
        self.pause_button = push("Pause", "large", "Hold everything still; nothing is lost (Ctrl+P)")
        self.pause_button.clicked.connect(self.pause_or_go_on)
        self.open_button = push("Open the results", "primary", "Show the folder of the results (Ctrl+R)")
        self.open_button.clicked.connect(self.open_results)
        self.start_button = push("", "primary")
        self.start_button.clicked.connect(self.batch.start)
        for button in (self.again_button, self.stop_button, self.pause_button, self.start_button, self.open_button):
            row.addWidget(button)
        return foot

    def _bind_keys(self) -> None:
        keys_of: tuple[tuple[str, str | tuple[str, ...], Callable[[], object]], ...] = (
            ("Choose a folder", "Ctrl+O", self.browse),
            ("Start or go on", ("Ctrl+Return", "Ctrl+Enter"), self._start),
            ("Pause or go on", "Ctrl+P", self.pause_or_go_on),
            ("Open the results", "Ctrl+R", self.open_results),
            ("Find a patient", "Ctrl+F", self.search.setFocus),
            ("Close this window", "Ctrl+W", self.close),
            ("Dismiss or close", "Esc", self._escape),
        )
        for title, keys, act in keys_of:
            bind(self, "Work", title, keys, partial(self._pressed, act))

    def _order_tabs(self) -> None:
        """Tab goes as one reads."""
        buttons = [self.show_choice.button(show) for show in Show]
        read: list[QWidget] = [self.results_button, self.other_button, *self.allowed.values(), self.model_choice]
        read += [self.write_button, *buttons, *self.having.values(), self.search, self.table]
        read += [self.detail.look_button, self.detail.turn_button, self.place_button, self.again_button]
        read += [self.stop_button, self.pause_button, self.start_button, self.open_button]
        for before, after in pairwise(read):
            self.setTabOrder(before, after)

    def _pressed(self, act: Callable[[], object]) -> None:
        """A key of the window: nothing under a card can be reached, and Esc closes the card."""
        if self._card is None:
            act()
        elif act == self._escape:
            self._card.leave()

    def _escape(self) -> None:
        if self.batch.problem is not None:
            self.batch.dismiss()
        elif self.batch.stage is Stage.LOOKING:
            self.batch.stop_looking()
        elif self.table.selectionModel().hasSelection():
            self.table.clearSelection()
        else:
            self.close()

    def _start(self) -> None:
        if self.start_button.isVisible() and self.start_button.isEnabled():
            self.start_button.click()

    # What can be done

    def browse(self) -> None:
        """Choose a folder of patients, or of a batch that was begun before."""
        name = QFileDialog.getExistingDirectory(self, "Choose a folder of patients, or of an earlier batch",
                                                self.last_folder)  # fmt: skip
        if name:
            self.last_folder = str(Path(name).parent)
            self.batch.open([Path(name)])

    def browse_out(self) -> None:
        """Choose the folder for the results."""
        start = self.batch.out.parent if self.batch.out is not None else Path(self.last_folder)
        name = QFileDialog.getExistingDirectory(self, "Choose the folder for the results", str(start))
        if name:
            self.batch.set_out(Path(name))

    def open_results(self) -> None:
        """Show the folder of the results as the system shows folders."""
        if self.batch.batch is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.batch.batch.out)))

    def pause_or_go_on(self) -> None:
        """Hold still, or go on."""
        if self.batch.paused:
            self.batch.go_on()
        else:
            self.batch.pause()

    def toggle(self) -> None:
        """Leave the chosen patients out, take them in again, or let them have another turn."""
        rows = self.selected()
        by_state = {state: [row.name for row in rows if row.state is state] for state in State}
        for state, act in (
            (State.WAITING, self.batch.leave_out),
            (State.SKIPPED, self.batch.take_in),
            (State.FAILED, self.batch.retry),
        ):
            if by_state[state]:
                act(by_state[state])
                return

    def selected(self) -> list[Row]:
        """The patients chosen in the table."""
        rows = (self.chosen.row_at(index) for index in self.table.selectionModel().selectedRows())
        return [row for row in rows if row is not None]

    # What is shown

    def _relist(self) -> None:
        self.table.clearSelection()
        self._update()
        self._rows_changed(range(len(self.batch.rows)), False)

    def _rows_changed(self, places: object, only_progress: bool) -> None:
        if only_progress:
            return
        rows, count = self.batch.rows, self.batch.count
        counts = {show: count(State[show.name]) for show in (Show.RUNNING, Show.DONE, Show.FAILED)}
        counts[Show.ALL], counts[Show.WAITING] = len(rows), count(State.WAITING) + count(State.SKIPPED)
        counts[Show.TO_READ] = sum(map(Show.TO_READ.lists, rows))
        for show in Show:
            self.show_choice.button(show).setText(f"{show.value}  {counts[show]}")
        if self.table.selectionModel().hasSelection():
            self._chose()
        elif not self._later.isActive():
            self._later.start()
        self._update_course()
        self._update_foot()

    def _chose(self) -> None:
        self.detail.show_rows(self.selected())

    def _narrow(self, show: object) -> None:
        having = frozenset(sequence for sequence, button in self.having.items() if button.isChecked())
        self.chosen.narrow(show if isinstance(show, Show) else None, having=having)
        self._update_listed()

    def _update_listed(self) -> None:
        self._listed.setCurrentIndex(int(self.chosen.rowCount() == 0))

    def _update(self) -> None:
        model = self.batch
        looking = model.stage is Stage.LOOKING
        self.pages.setCurrentIndex(int(bool(model.rows) and not (looking and not model.rows)))
        self.invitation.set_busy(looking)
        planned = model.batch is None
        self._setup.setVisible(planned)
        self._course.setVisible(not planned)
        self.other_button.setVisible(bool(model.rows) and not model.under_way)
        for sequence, button in self.allowed.items():
            button.setChecked(sequence in model.allowed)
        self._update_models()
        for kind, entry in self.writes.items():
            entry.setChecked(getattr(model.wanted, kind))
        beside = [title.split(" (")[0] for kind, (title, _) in WRITES.items() if getattr(model.wanted, kind)]
        beside = [title if title.startswith("DICOM") else title.lower() for title in beside]
        words = ", ".join(["Masks", *beside]) if len(beside) < 3 else f"Masks and {len(beside)} more"
        self.write_button.setText(words)
        self.write_button.setAccessibleName(f"Write {words[:1].lower()}{words[1:]}")
        out = model.out
        for part in (self.place_words, self.place, self.place_button):
            part.setVisible(planned)
        self._room.setVisible(not planned)
        self.place_button.setEnabled(model.stage is Stage.PLANNED)
        self.place.setText(place_in_words(out) if out is not None else "")
        self.place.setToolTip(str(out) if out is not None else "")
        if planned:
            self.origin.setText(", ".join(place_in_words(path) for path in model.paths))
        elif out is not None:
            self.origin.setText(place_in_words(out))
        self._setup.setEnabled(model.stage is Stage.PLANNED)
        self.detail.show_rows(self.selected())
        self._update_course()
        self._update_foot()
        self._update_listed()

    def _update_models(self) -> None:
        there = [("", BEST), *((card.name, card.title) for card in self.batch.models)]
        choice = self.model_choice
        if [(choice.itemData(n), choice.itemText(n)) for n in range(choice.count())] != there:
            choice.clear()
            for name, title in there:
                choice.addItem(title, name)
        choice.setCurrentIndex(max(0, choice.findData(self.batch.model)))

    def _update_course(self) -> None:
        model = self.batch
        self.invitation.say(model.doing)
        words = model.words
        self.standing.setText(words[:1].upper() + words[1:])
        self.progress.update_value()
        title = f"{words.split(', ')[0]} - " if model.under_way else ""
        self.setWindowTitle(f"{title}Batch - Gliascope")

    def _update_foot(self) -> None:
        model = self.batch
        self._foot.setVisible(bool(model.rows))
        waiting, failed = model.count(State.WAITING), model.count(State.FAILED)
        running = model.stage in (Stage.RUNNING, Stage.STOPPING)
        self.stop_button.setVisible(running)
        self.stop_button.setEnabled(model.stage is Stage.RUNNING)
        self.stop_button.setText("Stop" if model.stage is not Stage.STOPPING else "Stopping")
        self.pause_button.setVisible(running)
        self.pause_button.setEnabled(model.stage is Stage.RUNNING)
        words = "Go on" if model.paused else "Pause"
        self.pause_button.setText(words)
        self.pause_button.setAccessibleName(words)
        self.again_button.setVisible(bool(failed) and model.batch is not None and model.stage is not Stage.STOPPING)
        self.again_button.setText(f"Try the {failed} failed again" if failed > 1 else "Try the failed one again")
        self.again_button.setAccessibleName(self.again_button.text())
        over = model.batch is not None and not waiting and not running
        self.start_button.setVisible(not running and not over)
        self.open_button.setVisible(over)
        self.results_button.setVisible(model.batch is not None and not over)
        whom = "1 patient" if waiting == 1 else f"{waiting} patients"
        words = f"Segment {whom}" if model.batch is None else f"Go on with {whom}"
        self.start_button.setText("Starting" if model.stage is Stage.STARTING else words)
        self.start_button.setAccessibleName(self.start_button.text())
        why = model.why_not_start
        self.start_button.setEnabled(not why)
        self.start_button.setToolTip(why or "Begin (Ctrl+Return)")

    def _update_icons(self) -> None:
        self.results_button.setIcon(self._theme.icon("folder-open"))
        self.other_button.setIcon(self._theme.icon("plus"))

    def _update_message(self) -> None:
        self._message.setVisible(self.batch.problem is not None)

    # Drag and drop

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self._card is not None or not any(url.isLocalFile() for url in event.mimeData().urls()):
            return
        event.acceptProposedAction()
        adding = self.batch.stage is Stage.PLANNED
        words = "A batch is running" if self.batch.under_way else "Add these patients" if adding else "Segment these"
        self._targets.show_over(self.pages, 0, "", words)
        self._targets.point(False)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._targets.hide()

    def dropEvent(self, event: QDropEvent) -> None:
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        self._targets.hide()
        event.acceptProposedAction()
        # After the drop is answered, so that the program dragged from is not kept waiting.
        QTimer.singleShot(0, self, lambda: self.batch.open(paths))

    # Closing

    @property
    def card(self) -> Card | None:
        """The question that lies over the window, if one does."""
        return self._card

    def may_close(self, close: Callable[[], object], quitting: bool = False) -> bool:
        """Whether nothing is under way; else asks, and calls ``close`` once that is decided.

        Args:
            close: What to do then.
            quitting: Whether the whole program is to end, and the batch with it.
        """
        if not self.batch.under_way:
            return True
        if self._card is None:
            self._ask(close, quitting)
        return False

    def _ask(self, close: Callable[[], object], quitting: bool) -> None:
        card = Card(self._theme, self._surface, 520, "A batch is running")
        card.body.addWidget(label("A batch is running", "title"))
        words = self.batch.words
        card.body.addWidget(
            label(f"{words[:1].upper() + words[1:]}. What should become of it?", "secondary", wrap=True)
        )
        card.body.addSpacing(4)

        def leave(stop: bool) -> None:
            card.leave()
            if stop and self.batch.under_way:
                self.batch.stop(lambda: QTimer.singleShot(0, self, close))
            else:
                close()

        answers = [
            ("Stop it", "What is done stays. Open its folder here at any time, and it goes on from there.", True)
        ]
        if not quitting:
            beside = "The button in the main window tells how far it is, and leads back here."
            answers.insert(0, ("Let it go on without this window", beside, False))
        self.answers: dict[str, QPushButton] = {}
        for title, tip, stop in answers:
            button = push(title, "primary" if title == answers[0][0] else "large", tip)
            button.clicked.connect(lambda _=False, stop=stop: leave(stop))
            card.body.addWidget(button)
            card.body.addWidget(label(tip, "small", wrap=True))
            card.body.addSpacing(4)
            self.answers[title] = button
        card.close_button.setText("Stay here")
        card.close_button.setAccessibleName("Stay here")
        card.close_button.setObjectName("")
        card.finish()
        card.closed.connect(self._card_closed)
        self._card = card
        card.show()

    def _card_closed(self) -> None:
        self._card = None

    def closeEvent(self, event: QCloseEvent) -> None:
        if not self.may_close(self.hide):
            event.ignore()
            return
        super().closeEvent(event)


def _chip(title: str, tip: str) -> QPushButton:
    button = push(title, "chip", tip)
    button.setCheckable(True)
    return button


class CourseBar(QWidget):
    """One line for everybody: done, under way, failed.

    Args:
        theme: The colours.
        model: Whose course it is.
    """

    def __init__(self, theme: Theme, model: BatchModel) -> None:
        super().__init__()
        self._theme, self._batch = theme, model
        # A progress bar of Qt paints at once whatever waits to be painted, each time that it is told a value.
        self.setFixedHeight(6)
        self.setAccessibleName("How far the batch is")
        theme.changed.connect(self.update)

    def update_value(self) -> None:
        """Show where the batch is now."""
        self.setAccessibleDescription(self._batch.words)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        c, model = self._theme.colours, self._batch
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        whole = QRectF(self.rect())
        painter.setBrush(QColor(c.raised))
        painter.drawRoundedRect(whole, 3, 3)
        rows = max(1, len(model.rows) - model.count(State.SKIPPED))
        failed = model.count(State.FAILED) / rows
        running = sum(row.fraction for row in model.rows if row.state is State.RUNNING) / rows
        left = 0.0
        quiet = c.secondary if model.paused else c.accent
        for share, colour in (
            (model.count(State.DONE) / rows, quiet),
            (failed, c.warning),
            (running, blend(quiet, c.raised, 0.6)),
        ):
            width = whole.width() * share
            if width > 0:
                painter.setBrush(QColor(colour))
                painter.drawRoundedRect(QRectF(left, 0, width, whole.height()), 3, 3)
                left += width + 1.5


class Invitation(QWidget):
    """The page before there are patients: where to drop them, and what is understood.

    Signals:
        browse: Choose a folder by a dialog.
    """

    browse = Signal()

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.setAccessibleName("Drop folders of patients here")
        theme.changed.connect(self.update)
        column = QVBoxLayout(self)
        column.setContentsMargins(60, 40, 60, 40)
        column.setSpacing(0)
        column.addStretch(5)
        column.addWidget(Emblem(theme, 96), 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(28)
        self.title = label("Drop folders of patients here", "title")
        column.addWidget(self.title, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(14)
        self.lines = []
        for words in (
            "Any mixture of sequences, as NIfTI, BIDS or DICOM: every patient gets the model that fits.",
            "Masks, volumes and a table are written to a folder of their own. Scans are not changed.",
            "Drop the folder of an earlier batch to go on where it stopped.",
        ):
            line = label(words, "secondary")
            self.lines.append(line)
            column.addWidget(line, 0, Qt.AlignmentFlag.AlignHCenter)
            column.addSpacing(5)
        self.doing = label("", "secondary")
        column.addWidget(self.doing, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(22)
        row = QHBoxLayout()
        self.folder_button = push("Choose a folder", "primary", "The folder that holds the patients (Ctrl+O)")
        self.folder_button.clicked.connect(self.browse)
        row.addStretch()
        row.addWidget(self.folder_button)
        row.addStretch()
        column.addLayout(row)
        column.addStretch(6)

    def set_busy(self, busy: bool) -> None:
        """Whether patients are being looked for."""
        self.title.setText("Looking for patients" if busy else "Drop folders of patients here")
        for line in self.lines:
            line.setVisible(not busy)
        self.doing.setVisible(busy)
        self.folder_button.setVisible(not busy)

    def say(self, words: str) -> None:
        """What is being looked through."""
        self.doing.setText(words[:1].upper() + words[1:])

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        pen = QPen(QColor(self._theme.colours.hairline), 1.5)
        pen.setDashPattern([5, 5])
        painter.setPen(pen)
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(24.5, 24.5, -24.5, -24.5), 14, 14)


class ResultPicture(QWidget):
    """The picture of a result: its slice with most tumour."""

    def __init__(self) -> None:
        super().__init__()
        self._picture = QImage()
        self.setFixedHeight(DETAIL_WIDTH - 40)
        self.setAccessibleName("Picture of the result")

    def show_picture(self, picture: QImage) -> None:
        """Show another; black for none."""
        self._picture = picture
        self.setAccessibleDescription("Axial slice with most tumour" if not picture.isNull() else "No picture")
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor("black"))
        if self._picture.isNull():
            return
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        size = self._picture.size().scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio)
        box = QRect(QPoint(0, 0), size)
        box.moveCenter(self.rect().center())
        painter.drawImage(box, self._picture)
        painter.setPen(QColor(DARK.secondary))
        painter.setFont(body_font(LABEL_PX))
        inside = self.rect().adjusted(8, 0, -8, 0)
        for words, where in (("R", Qt.AlignmentFlag.AlignLeft), ("L", Qt.AlignmentFlag.AlignRight)):
            painter.drawText(inside, int(where | Qt.AlignmentFlag.AlignVCenter), words)


class Detail(QScrollArea):
    """Right of the table: the chosen patient, or everybody where none is chosen.

    Args:
        theme: The colours.
        jobs: Reads the picture.
        model: The batch.

    Signals:
        look: The patient of this name is to be opened in the viewer.
    """

    look = Signal(str)

    def __init__(self, theme: Theme, jobs: Jobs, model: BatchModel) -> None:
        super().__init__()
        self._theme, self._jobs, self._batch = theme, jobs, model
        self._shown: list[tuple[str, str]] | None = None
        self._picture: Path | None = None
        self.setObjectName("detail")
        self.setFixedWidth(DETAIL_WIDTH)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        inside = QWidget()
        inside.setObjectName("panelBody")
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 16)
        column.setSpacing(0)
        self.setWidget(inside)
        self.picture = ResultPicture()
        column.addWidget(self.picture)
        self._words = QVBoxLayout()
        self._words.setContentsMargins(16, 14, 16, 0)
        self._words.setSpacing(6)
        column.addLayout(self._words)
        row = QHBoxLayout()
        row.setContentsMargins(16, 12, 16, 0)
        row.setSpacing(8)
        self.look_button = push("Open in the viewer", "", "Open the scans, with the mask where there is one (Enter)")
        self.look_button.clicked.connect(lambda: self.look.emit(self._rows[0].name))
        self.turn_button = push("Leave out")
        self.turn_button.clicked.connect(self._turn)
        row.addWidget(self.look_button)
        row.addWidget(self.turn_button)
        row.addStretch()
        column.addLayout(row)
        # Below the buttons, as there may be many of them.
        self._notes = QVBoxLayout()
        self._notes.setContentsMargins(16, 12, 16, 0)
        self._notes.setSpacing(8)
        column.addLayout(self._notes)
        column.addStretch()
        self._rows: list[Row] = []
        self._act: Callable[[list[str]], object] = model.retry
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(PICTURE_AFTER_MS)
        self._later.timeout.connect(self._read)

    @property
    def words(self) -> list[str]:
        """What can be read there."""
        return [words for _, words in self._shown or []]

    def show_rows(self, rows: list[Row]) -> None:
        """Show a patient, several, or with none everybody."""
        self._rows = rows
        one = rows[0] if len(rows) == 1 else None
        said = self._of_one(one) if one is not None else self._of_several(rows) if rows else self._of_all()
        if said != self._shown:
            self._shown = said
            self._write(said)
        self._show_picture(one.thumbnail if one is not None else None)
        self._update_buttons(one)

    def _write(self, said: list[tuple[str, str]]) -> None:
        clear(self._words)
        clear(self._notes)
        for kind, words in said:
            if kind in ("note", "grave"):
                box = QFrame()
                box.setObjectName("note")
                box.setProperty("grave", kind == "grave")
                inside = QVBoxLayout(box)
                inside.setContentsMargins(12, 9, 10, 9)
                inside.addWidget(_selectable(label(words, "", wrap=True)))
                self._notes.addWidget(box)
            elif kind == "gap":
                self._words.addSpacing(6)
            else:
                self._words.addWidget(_selectable(label(words, kind, wrap=True)))

    # The words

    def _of_one(self, row: Row) -> list[tuple[str, str]]:
        model = self._batch
        said = [("wordmark", row.name)]
        state = STATES[row.state]
        if row.state is State.RUNNING:
            state = f"{state}: {row.message}"
        elif row.state is State.DONE:
            state = f"{state} in {row.seconds:.1f} s on {row.device}"
        said.append(("secondary", state))
        for region, title in REGIONS.items():
            if region in row.volumes_ml:
                ml = ml_in_words(row.volumes_ml[region], row.intervals_ml.get(region))
                said.append(("", f"{title} {ml}"))
            score = row.scores.get(region)
            if score is not None:
                said.append(("secondary", f"Dice {score.dice:.2f}, HD95 {score.hd95_mm:.1f} mm, "
                                          f"truth {score.truth_ml:.1f} ml"))  # fmt: skip
        if row.learnt_from and row.scores:
            said.append(("secondary", "The model learnt from this patient, so the Dice says nothing."))
        said.append(("gap", ""))
        held = in_words(row.sequences) or "Sequences are told when the patient is read"
        foreseen = model.foreseen(row)
        if row.state is State.DONE:
            said.append(("secondary", row.reason))
        else:
            said.append(("secondary", held))
            if foreseen.reason and row.state is not State.FAILED:
                kind = "secondary" if foreseen.possible else "grave"
                said.append((kind, foreseen.reason))
        if row.error:
            said.append(("grave", row.error))
        said += [("note", warning) for warning in row.warnings]
        return said

    def _of_several(self, rows: list[Row]) -> list[tuple[str, str]]:
        said = [("wordmark", f"{len(rows)} patients")]
        said += [
            ("secondary", f"{STATES[state]}: {count}")
            for state in STATES
            if (count := sum(row.state is state for row in rows))
        ]
        return said

    def _of_all(self) -> list[tuple[str, str]]:
        model = self._batch
        rows = [row for row in model.rows if row.state is not State.SKIPPED]
        if not rows:
            return []
        counts = Counter(sequence for row in rows for sequence in row.sequences)
        several = "1 patient" if len(rows) == 1 else f"{len(rows)} patients"
        whole = sum(len(row.sequences) == len(Sequence) for row in rows)
        said = [("wordmark", "What is planned" if model.batch is None else "The batch")]
        many = {0: "none of them", len(rows): "all of them"}.get(whole, f"{whole} of them")
        said.append(("secondary", f"{several}, {many} with all four sequences"))
        said.append(("secondary", ", ".join(f"{sequence.title} {counts[sequence]}" for sequence in Sequence)))
        if model.with_truth:
            said.append(("secondary", f"With a ground truth: {model.with_truth}"))
        said.append(("gap", ""))
        said.append(("caption", "MODELS"))
        models = Counter(
            model.title_of(row.model) if row.model else model.foreseen(row).title or "told when read" for row in rows
            if row.model or model.foreseen(row).possible
        )  # fmt: skip
        said += [("secondary", f"{title}: {count}") for title, count in models.most_common()]
        said += self._of_scores(rows)
        impossible = Counter(
            model.foreseen(row).reason
            for row in rows
            if row.state is State.WAITING and not model.foreseen(row).possible
        )
        said += [("grave", f"{count} cannot be segmented. {why}") for why, count in impossible.most_common(3)]
        said += [("note", problem) for problem in model.problems]
        return said

    def _of_scores(self, rows: list[Row]) -> list[tuple[str, str]]:
        found = batch.summary([row for row in rows if row.scores])
        said = []
        for key in ("scores", "scores_of_all"):
            scores = found.get(key)
            if scores is None:
                continue
            every = "all " if key == "scores_of_all" else "new " if "scores_of_all" in found else ""
            said += [("gap", ""), ("caption", f"mean of {every}{scores['patients']} with a truth".upper())]
            for region, title in REGIONS.items():
                of = scores[region]
                said.append(("", f"{title} Dice {of['dice_mean']:.3f}, HD95 {of['hd95_mm_mean']:.1f} mm"))
        learnt = len(found["learnt_from"])
        if learnt:
            were = "1 of them was" if learnt == 1 else f"{learnt} of them were"
            said.append(("secondary", f"{were} in the training of the model, which says nothing about new patients."))
        return said

    # The picture

    def _show_picture(self, path: Path | None) -> None:
        self.picture.setVisible(path is not None)
        if path != self._picture:
            self._picture = path
            self.picture.show_picture(QImage())
            if path is not None:
                self._later.start()

    def _read(self) -> None:
        path = self._picture
        if path is None:
            return

        def read(progress: Progress) -> QImage:
            progress.check()
            return QImage(str(path))

        def there(picture: QImage) -> None:
            if path == self._picture:
                self.picture.show_picture(picture)

        self._jobs.run(read, on_finished=there, on_failed=lambda _: None, topic="picture")

    # The buttons

    def _update_buttons(self, one: Row | None) -> None:
        model = self._batch
        self.look_button.setVisible(one is not None)
        steady = model.stage in (Stage.PLANNED, Stage.RESTING, Stage.RUNNING)
        states = {row.state for row in self._rows}
        offers = (
            (State.WAITING, "Leave out", "Do without whoever is chosen (Space)", model.leave_out),
            (State.SKIPPED, "Take in again", "Segment whoever is chosen after all (Space)", model.take_in),
            (State.FAILED, "Try again", "Let whoever is chosen have another turn (Space)", model.retry),
        )
        offer = next((offer for offer in offers if offer[0] in states), None)
        self.turn_button.setVisible(offer is not None and steady)
        if offer is not None:
            _, title, tip, self._act = offer
            self.turn_button.setText(title)
            self.turn_button.setAccessibleName(title)
            self.turn_button.setToolTip(tip)

    def _turn(self) -> None:
        self._act([row.name for row in self._rows])


def _selectable(words: QLabel) -> QLabel:
    words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    words.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return words
