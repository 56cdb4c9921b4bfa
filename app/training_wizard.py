"""The training wizard: a window of its own with four steps, and the user's trainings at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QColor,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDropEvent,
    QHideEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QShowEvent,
)
from PySide6.QtWidgets import (
    QAbstractButton,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QMainWindow,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.cards import Banner, DropTargets
from app.controls import clear, label, push
from app.jobs import Jobs
from app.patients_page import PatientsPage
from app.plan_page import PlanPage
from app.shortcuts import bind
from app.telling import Problem
from app.theme import LABEL_PX, RADIUS, Theme, blend, body_font
from app.training_result import ResultPage
from app.training_run import TrainPage
from app.trainings import how_trainings_stand, standing_in_words
from app.welcome import Emblem
from app.wizard_model import PAGES, WizardModel, is_training
from trainer.wizard import Page

if TYPE_CHECKING:
    from trainer.training import Standing, Training

RAIL_WIDTH = 248
REFRESH_MS = 3000
NEXT = {
    Page.PATIENTS: "Plan the training",
    Page.PLAN: "Start training",
    Page.TRAIN: "See the result",
    Page.RESULT: "Train another",
}


class TrainingWizard(QMainWindow):
    """From a folder of patients to a better student.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread.
        wizard: The passage that is shown; outlives this window's being closed.
    """

    def __init__(self, theme: Theme, jobs: Jobs, wizard: WizardModel) -> None:
        super().__init__()
        self._theme, self._jobs, self.wizard = theme, jobs, wizard
        self.setWindowTitle("Train your own - Gliascope")
        self.setAcceptDrops(True)
        self.resize(1440, 900)
        self.setMinimumSize(1024, 680)
        self.rail = Rail(theme, jobs, wizard)
        self.banner = Banner(theme, wizard)
        self._message = QWidget()
        around = QVBoxLayout(self._message)
        around.setContentsMargins(20, 14, 20, 0)
        around.addWidget(self.banner)
        self.pages = QStackedWidget()
        self.page_of = {page: self._make_page(page) for page in PAGES}
        for widget in self.page_of.values():
            self.pages.addWidget(widget)

        self._surface = QWidget()
        self._surface.setObjectName("surface")
        self._surface.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        whole = QHBoxLayout(self._surface)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(0)
        whole.addWidget(self.rail)
        column = QVBoxLayout()
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self._message)
        column.addWidget(self.pages, 1)
        column.addWidget(self._make_foot())
        whole.addLayout(column, 1)
        self.setCentralWidget(self._surface)
        self._targets = DropTargets(theme, self._surface)

        wizard.page_changed.connect(self._update)
        # A training that has come further may have results.
        self.rail.refreshed.connect(self._update)
        wizard.busy_changed.connect(self._update)
        wizard.problem_changed.connect(self._update_message)
        bind(self, "Work", "Close this window", ("Ctrl+W", "Esc"), self._escape)
        self._update()
        self._update_message()
        # Nothing looks chosen before anything was.
        self._surface.setFocus(Qt.FocusReason.OtherFocusReason)

    def _make_page(self, page: Page) -> QWidget:
        if page is Page.PATIENTS:
            return PatientsPage(self._theme, self._jobs, self.wizard)
        if page is Page.PLAN:
            return PlanPage(self._theme, self._jobs, self.wizard)
        if page is Page.TRAIN:
            return TrainPage(self._theme, self._jobs, self.wizard)
        return ResultPage(self._theme, self._jobs, self.wizard)

    def _make_foot(self) -> QWidget:
        foot = QFrame()
        foot.setObjectName("foot")
        foot.setFixedHeight(62)
        row = QHBoxLayout(foot)
        row.setContentsMargins(24, 0, 24, 0)
        row.setSpacing(12)
        self.back_button = push("Back", "large")
        self.back_button.clicked.connect(self.wizard.back)
        self.why = label("", "secondary", wrap=True)
        self.why.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.next_button = push("", "primary")
        self.next_button.clicked.connect(self._next)
        row.addWidget(self.back_button)
        row.addWidget(self.why, 1)
        row.addWidget(self.next_button)
        return foot

    def _next(self) -> None:
        if self.wizard.page is Page.RESULT:
            self.wizard.begin_anew()
        else:
            self.wizard.next()

    def _escape(self) -> None:
        if self.wizard.problem is not None:
            self.wizard.dismiss()
        else:
            self.close()

    def _update(self) -> None:
        wizard = self.wizard
        self.pages.setCurrentWidget(self.page_of[wizard.page])
        last = wizard.page is Page.RESULT
        why = "" if last else wizard.busy or wizard.why_not_next
        words = wizard.busy or NEXT[wizard.page]
        self.next_button.setText(words)
        self.next_button.setAccessibleName(words)
        self.next_button.setEnabled(not why)
        self.next_button.setToolTip("" if words == why else why)
        self.why.setText("" if words == why else why)
        why_not_back = wizard.wizard.why_not_back()
        self.back_button.setVisible(wizard.page is not PAGES[0])
        self.back_button.setEnabled(not why_not_back and not wizard.busy)
        self.back_button.setToolTip(why_not_back or "The step before; what was decided stays")

    def _update_message(self) -> None:
        self._message.setVisible(self.wizard.problem is not None)

    # Drag and drop

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self._dropped(event) is None:
            return
        event.acceptProposedAction()
        self._targets.show_over(self.pages, 0, "", "Train on these patients")
        self._targets.point(False)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._targets.hide()

    def dropEvent(self, event: QDropEvent) -> None:
        path = self._dropped(event)
        self._targets.hide()
        if path is not None:
            event.acceptProposedAction()
            # After the drop is answered, so that the program dragged from is not kept waiting.
            QTimer.singleShot(0, self, lambda: self.wizard.open(path))

    @staticmethod
    def _dropped(event: QDropEvent) -> Path | None:
        """The folder, table or manifest that hangs over the window; of several things there is none to choose."""
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        usable = [path for path in paths if path.is_dir() or path.suffix.lower() in (".csv", ".json")]
        return usable[0] if len(paths) == 1 and usable else None


class Rail(QFrame):
    """Left of the pages: the four steps, and every training of the user's.

    Args:
        theme: The colours.
        jobs: Asks how the trainings stand.
        wizard: What is shown.

    Signals:
        refreshed: How the trainings stand was asked anew.
    """

    refreshed = Signal()

    def __init__(self, theme: Theme, jobs: Jobs, wizard: WizardModel) -> None:
        super().__init__()
        self._theme, self._jobs, self._wizard = theme, jobs, wizard
        self.setObjectName("rail")
        self.setFixedWidth(RAIL_WIDTH)
        column = QVBoxLayout(self)
        column.setContentsMargins(14, 16, 14, 14)
        column.setSpacing(2)
        head = QHBoxLayout()
        head.setContentsMargins(6, 0, 0, 0)
        head.setSpacing(10)
        head.addWidget(Emblem(theme, 22))
        head.addWidget(label("Train your own", "wordmark"), 1)
        column.addLayout(head)
        column.addSpacing(16)
        self.steps = {page: StepButton(theme, number, page.value) for number, page in enumerate(PAGES, 1)}
        for page, step in self.steps.items():
            step.clicked.connect(lambda _=False, page=page: wizard.go_to(page))
            column.addWidget(step)
        column.addSpacing(20)
        self._caption = label("TRAININGS", "caption")
        self._caption.setContentsMargins(8, 0, 0, 4)
        column.addWidget(self._caption)
        self._list = QVBoxLayout()
        self._list.setContentsMargins(0, 0, 0, 0)
        self._list.setSpacing(2)
        inside = QWidget()
        inside.setObjectName("panelBody")
        inside.setLayout(self._list)
        self.area = QScrollArea()
        self.area.setWidgetResizable(True)
        self.area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.area.setWidget(inside)
        column.addWidget(self.area, 1)
        self.open_button = push("Open a training", "flat", "Choose the folder of one, such as one from a cluster")
        self.open_button.clicked.connect(self.browse)
        column.addWidget(self.open_button)
        self.new_button = push("New training", "flat", "Begin with other patients; what runs goes on")
        self.new_button.clicked.connect(wizard.begin_anew)
        column.addWidget(self.new_button)
        self.rows: list[TrainingRow] = []
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self.refresh)
        theme.changed.connect(self._update_icon)
        self._update_icon()
        for signal in (wizard.page_changed, wizard.patients_changed, wizard.examining_changed, wizard.plan_changed,
                       wizard.busy_changed):  # fmt: skip
            signal.connect(self._update)
        wizard.training_changed.connect(self.refresh)
        self._update()
        self._show_trainings([])

    def browse(self) -> None:
        """Choose the folder of a training."""
        name = QFileDialog.getExistingDirectory(self, "Open a training", str(Path.home()))
        if not name:
            return
        if is_training(Path(name)):
            self._wizard.open(Path(name))
        else:
            words = (
                f"{Path(name).name} is not the folder of a training: study.json and patients.json lie in such a one."
            )
            self._wizard.tell(Problem(words))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.refresh()
        self._timer.start()

    def hideEvent(self, event: QHideEvent) -> None:
        self._timer.stop()
        super().hideEvent(event)

    def refresh(self) -> None:
        """Ask how the trainings stand; the answer comes a moment later."""
        self._update()
        if self.isVisible():
            self._jobs.run(
                how_trainings_stand,
                on_finished=self._show_trainings,
                on_failed=lambda error: self._wizard.fail(error, "Looking for trainings stopped"),
                topic="trainings",
            )

    def _update(self) -> None:
        wizard = self._wizard
        here = PAGES.index(wizard.page)
        for number, (page, step) in enumerate(self.steps.items()):
            why = wizard.why_not(page)
            step.setEnabled(not why)
            step.setToolTip(why or ("" if number == here else f"Go to {page.value}"))
            step.show_state(here=number == here, done=number < here, words=self._words(page))
        self.new_button.setVisible(wizard.training is not None or wizard.patients is not None)

    def _update_icon(self) -> None:
        self.new_button.setIcon(self._theme.icon("plus"))
        self.open_button.setIcon(self._theme.icon("folder-open"))

    def _words(self, page: Page) -> str:
        """What was decided on a page, in a few words."""
        wizard = self._wizard
        if page is Page.PATIENTS:
            if wizard.patients is None:
                return "Choose whom to learn from"
            if wizard.examining:
                return f"Looking at {len(wizard.patients)}"
            usable = wizard.usable
            found = f"{len(wizard.patients)} found"
            return f"{found}, {len(usable)} used" if usable is not None else found
        if page is Page.PLAN:
            plan = wizard.plan
            if plan is None:
                return "What to train, how long"
            names = ["+".join(s.title for s in student) for student in plan.students]
            names += ["any subset"] if plan.any_student else []
            return "Students: " + ", ".join(names) if names else "A teacher"
        if page is Page.TRAIN:
            return wizard.training.name if wizard.training is not None else "Watch it learn"
        return "Compare and install"

    def _show_trainings(self, found: list[tuple[Training, Standing]]) -> None:
        # The same rows stay, so that the one in focus keeps it.
        if [row.training.folder for row in self.rows] != [training.folder for training, _ in found]:
            clear(self._list)
            self.rows = [TrainingRow(self._theme, training) for training, _ in found]
            for row in self.rows:
                row.clicked.connect(lambda _=False, training=row.training: self._wizard.look_at(training))
                self._list.addWidget(row)
            self._list.addStretch()
        shown = self._wizard.training
        for row, (training, standing) in zip(self.rows, found, strict=True):
            row.show_standing(standing, shown is not None and shown.folder == training.folder)
        self._caption.setVisible(bool(found))
        self._update()
        self.refreshed.emit()


class RailRow(QAbstractButton):
    """A line of the rail: a disc, a title and a few words below it.

    Args:
        theme: The colours.
    """

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.words = ""
        self.here = False
        self.setFixedHeight(48)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        theme.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(RAIL_WIDTH - 28, 48)

    def paintEvent(self, event: QPaintEvent) -> None:
        c = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
        fill = blend(c.accent, c.panel, 0.16) if self.here else c.raised if self.underMouse() else ""
        painter.setPen(QPen(QColor(c.accent), 1) if self.hasFocus() else Qt.PenStyle.NoPen)
        painter.setBrush(QColor(fill) if fill and (self.isEnabled() or self.here) else Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(box, RADIUS, RADIUS)
        self.paint_disc(painter, QRectF(10, (self.height() - 24) / 2, 24, 24))
        left, width = 44, self.width() - 52
        reachable = self.isEnabled() or self.here
        painter.setFont(body_font())
        painter.setPen(QColor(c.text if reachable else c.secondary))
        title = painter.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, width)
        painter.drawText(QRectF(left, 7, width, 17), int(Qt.AlignmentFlag.AlignVCenter), title)
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(QColor(c.secondary))
        words = painter.fontMetrics().elidedText(self.words, Qt.TextElideMode.ElideRight, width)
        painter.drawText(QRectF(left, 25, width, 15), int(Qt.AlignmentFlag.AlignVCenter), words)

    def paint_disc(self, painter: QPainter, box: QRectF) -> None:
        """Draw what stands on the left."""
        raise NotImplementedError


class StepButton(RailRow):
    """One of the four steps: a number, or a tick where it is behind us.

    Args:
        theme: The colours.
        number: Which one it is, from 1.
        title: Its name.
    """

    def __init__(self, theme: Theme, number: int, title: str) -> None:
        super().__init__(theme)
        self._number, self._done = number, False
        self.setText(title)

    def show_state(self, here: bool, done: bool, words: str) -> None:
        """Where the user is seen from this step, and what was decided on it."""
        self.here, self._done, self.words = here, done, words
        where = "here" if here else "done" if done else "to come"
        self.setAccessibleName(f"Step {self._number}, {self.text()}, {where}: {words}")
        self.setCursor(Qt.CursorShape.PointingHandCursor if self.isEnabled() else Qt.CursorShape.ArrowCursor)
        self.update()

    def paint_disc(self, painter: QPainter, box: QRectF) -> None:
        c = self._theme.colours
        painter.setPen(QPen(QColor(c.accent if self.here or self._done else c.hairline), 1.5))
        painter.setBrush(QColor(c.accent) if self.here else Qt.BrushStyle.NoBrush)
        painter.drawEllipse(box.adjusted(1, 1, -1, -1))
        if self._done:
            side, corner = 12, box.center().toPoint()
            self._theme.icon("check", c.accent).paint(
                painter, corner.x() - side // 2, corner.y() - side // 2, side, side
            )
            return
        painter.setFont(body_font(LABEL_PX + 1, medium=True))
        painter.setPen(QColor(c.on_accent if self.here else c.secondary))
        painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), str(self._number))


class TrainingRow(RailRow):
    """One training in the list: its name, and how far it is in words and as a ring.

    Args:
        theme: The colours.
        training: Which one.
    """

    def __init__(self, theme: Theme, training: Training) -> None:
        super().__init__(theme)
        self.training, self._done = training, 0.0
        self.setText(training.name)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def show_standing(self, standing: Standing, here: bool) -> None:
        """How far it is, and whether the pages show it."""
        self._done, self.here, self.words = standing.done, here, standing_in_words(standing)
        self.setAccessibleName(f"Training {self.text()}, {self.words}")
        self.setToolTip(standing.problem or f"Show {self.text()}")
        self.update()

    def paint_disc(self, painter: QPainter, box: QRectF) -> None:
        c = self._theme.colours
        ring = box.adjusted(3, 3, -3, -3)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(c.hairline), 2.5))
        painter.drawEllipse(ring)
        painter.setPen(QPen(QColor(c.accent), 2.5, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap))
        painter.drawArc(ring, 90 * 16, round(-360 * 16 * self._done))
