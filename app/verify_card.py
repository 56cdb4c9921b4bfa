"""Whether a saved result, its scans and its model are as they were recorded: on one card, in words."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QAccessible,
    QAccessibleAnnouncementEvent,
    QColor,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDropEvent,
    QKeyEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QShowEvent,
)
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QScrollArea,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.cards import Card
from app.controls import ElidedLabel, clear, label, push
from app.jobs import Job, Jobs, Queue
from app.theme import Theme, blend
from engine import provenance
from engine.errors import UserError
from engine.progress import Progress
from engine.provenance import NoRecord, Report, State

STAGE_HEIGHT = 312
OUTPUTS = "Results (*.nii *.nii.gz *.json *.stl *.csv *.pdf *.png *.dcm);;All files (*)"
ICONS = {
    State.UNCHANGED: "check-circle",
    State.CHANGED: "warning-circle",
    State.MISSING: "question",
    State.NOT_RECORDED: "minus-circle",
}


class DropArea(QFrame):
    """Where a file is let go.

    Signals:
        dropped: A file or folder.
    """

    dropped = Signal(object)

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme, self._hot = theme, False
        self.setAcceptDrops(True)
        self.setAccessibleName("Drop a result here")
        theme.changed.connect(self.update)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if _dropped(event) is not None:
            event.acceptProposedAction()
            self._set_hot(True)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._set_hot(False)

    def dropEvent(self, event: QDropEvent) -> None:
        path = _dropped(event)
        self._set_hot(False)
        if path is not None:
            event.acceptProposedAction()
            self.dropped.emit(path)

    def _set_hot(self, hot: bool) -> None:
        self._hot = hot
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        c = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        pen = QPen(QColor(c.accent if self._hot else c.hairline), 2 if self._hot else 1.5)
        pen.setDashPattern([5, 5])
        painter.setPen(pen)
        painter.setBrush(QColor(blend(c.accent, c.panel, 0.08)) if self._hot else Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 10, 10)


class Sign(QLabel):
    """The state of one line, as a shape and a colour."""

    def __init__(self, theme: Theme, state: State, size: int = 16) -> None:
        super().__init__()
        c = theme.colours
        colour = {State.UNCHANGED: c.accent, State.NOT_RECORDED: c.secondary}.get(state, c.warning)
        self.setPixmap(theme.icon(ICONS[state], colour).pixmap(QSize(size, size)))
        self.setFixedSize(size + 4, size + 2)
        self.setAccessibleName(state.value.capitalize())


class VerifyCard(Card):
    """Choose or drop an output or its record; see what is unchanged, changed or missing; segment again and compare.

    Args:
        theme: The colours.
        window: What is covered.
        jobs: The way off the UI thread.
        start: The folder that the file dialog begins in.

    Signals:
        failed: Something the program was not made for; the card is closed then.
    """

    failed = Signal(Exception)

    def __init__(self, theme: Theme, window: QWidget, jobs: Jobs, start: Path) -> None:
        super().__init__(theme, window, min(680, window.width() - 64), "Verify a result")
        self._jobs, self._start = jobs, start
        self._job: Job | None = None
        self._places: list[Path] = []
        self._path: Path | None = None
        self._again = False
        self.report: Report | None = None
        self.setAcceptDrops(True)
        self.body.addWidget(label("Verify a result", "title"))
        about = "Files, scans and model are hashed again and compared with the record that lies beside every result."
        self.body.addWidget(label(about, "secondary", wrap=True))
        self.stack = QStackedWidget()
        self.stack.setFixedHeight(max(180, min(STAGE_HEIGHT, window.height() - 300)))
        for page in (self._make_empty(), self._make_working(), self._make_result()):
            self.stack.addWidget(page)
        self.body.addSpacing(4)
        self.body.addWidget(self.stack)
        foot = QHBoxLayout()
        foot.setSpacing(10)
        self.again_button = push(
            "Segment again and compare", "large", "The same scans, model and steps once more, compared voxel by voxel"
        )
        self.again_button.clicked.connect(lambda: self._run(again=True))
        self.scans_button = push("Where the scans are...", "large", "Choose the folder in which the scans lie now")
        self.scans_button.clicked.connect(self.browse_scans)
        self.another_button = push("Another file...", "large", "Verify another result")
        self.another_button.clicked.connect(self.browse)
        self.close_button.setObjectName("large")
        for button in (self.scans_button, self.again_button, self.another_button):
            foot.addWidget(button)
        foot.addStretch()
        foot.addWidget(self.close_button)
        self.body.addSpacing(4)
        self.body.addLayout(foot)
        theme.changed.connect(self._show_report)
        self._update()

    # What can be done

    def verify(self, path: Path, places: list[Path] | None = None) -> None:
        """Compare an output, or what a folder holds, with its record.

        Args:
            path: An output, a record, or a folder with one result.
            places: Where the scans are known to lie.
        """
        self._places = list(places or [])
        self._path = path
        self._run(again=False)

    def browse(self) -> None:
        """Choose an output or its record."""
        name, _ = QFileDialog.getOpenFileName(self, "Verify a result", str(self._start), OUTPUTS)
        if name:
            self._start = Path(name).parent
            self.verify(Path(name))

    def browse_scans(self) -> None:
        """Choose the folder in which the scans lie now."""
        name = QFileDialog.getExistingDirectory(self, "Where are the scans?", str(self._start))
        if name:
            self._places = [*self._places, Path(name)]
            self._run(self._again)

    def leave(self) -> None:
        self._jobs.drop("verify")
        super().leave()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self.stack.currentIndex() == 0:
            self.choose_button.setFocus(Qt.FocusReason.TabFocusReason)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        focus = QApplication.focusWidget()
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and isinstance(focus, QAbstractButton):
            focus.click()
            event.accept()
            return
        super().keyPressEvent(event)

    # A file may be let go anywhere on the card.

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if _dropped(event) is not None and self._job is None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        path = _dropped(event)
        if path is not None and self._job is None:
            event.acceptProposedAction()
            self.verify(path)

    # Inside

    def _make_empty(self) -> QWidget:
        page = DropArea(self._theme)
        page.dropped.connect(self.verify)
        column = QVBoxLayout(page)
        column.setContentsMargins(40, 24, 40, 24)
        column.setSpacing(10)
        column.addStretch()
        words = label("Drop a mask, page, table or surface here, or the .json file beside it")
        column.addWidget(words, 0, Qt.AlignmentFlag.AlignHCenter)
        self.choose_button = push("Choose a file", "primary")
        self.choose_button.clicked.connect(self.browse)
        column.addWidget(self.choose_button, 0, Qt.AlignmentFlag.AlignHCenter)
        self.problem = label("", "doubt", wrap=True)
        self.problem.hide()
        column.addSpacing(4)
        column.addWidget(self.problem)
        column.addStretch()
        return page

    def _make_working(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(40, 24, 40, 24)
        column.setSpacing(10)
        column.addStretch()
        self.doing = ElidedLabel("", "secondary")
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Progress of verifying")
        self.cancel_button = push("Cancel")
        self.cancel_button.clicked.connect(self._cancel)
        column.addWidget(self.doing)
        column.addWidget(self.bar)
        column.addSpacing(4)
        column.addWidget(self.cancel_button, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addStretch()
        return page

    def _make_result(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self._head = QHBoxLayout()
        self._head.setSpacing(6)
        column.addLayout(self._head)
        inside = QWidget()
        inside.setObjectName("panelBody")
        self._list = QVBoxLayout(inside)
        self._list.setContentsMargins(4, 4, 10, 4)
        self._list.setSpacing(9)
        area = QScrollArea()
        area.setWidget(inside)
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        area.setAccessibleName("What was looked at")
        column.addWidget(area, 1)
        return page

    def _run(self, again: bool) -> None:
        if self._path is None:
            return
        self._again = again
        self.problem.hide()
        self.bar.setValue(0)
        self.doing.setText("Reading the record")
        self._job = self._jobs.run(
            _verify,
            self._path,
            list(self._places),
            again,
            on_finished=self._finished,
            on_failed=self._failed,
            on_cancelled=self._back,
            on_progress=self._report,
            queue=Queue.COMPUTING,
            topic="verify",
        )
        self._update()
        self.cancel_button.setFocus(Qt.FocusReason.OtherFocusReason)

    def _cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()
            self.doing.setText("Stopping")

    def _report(self, fraction: float, message: str) -> None:
        self.bar.setValue(round(1000 * fraction))
        self.doing.setText(message[:1].upper() + message[1:])

    def _finished(self, report: Report) -> None:
        self.report = report
        self._show_report()
        self._back()
        QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(self, report.sentence))

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, UserError):
            self.leave()
            self.failed.emit(error)
            return
        self.report = None
        self.problem.setText(str(error))
        self.problem.setAccessibleName(str(error))
        self.problem.show()
        self._back()

    def _back(self) -> None:
        self._job = None
        self._update()
        first = self.choose_button
        if self.report is not None:
            first = self.scans_button if self.report.lacks_scans else self.close_button
        first.setFocus(Qt.FocusReason.OtherFocusReason)

    def _update(self) -> None:
        working, report = self._job is not None, self.report
        self.stack.setCurrentIndex(1 if working else 0 if report is None else 2)
        done = report is not None and not working
        self.again_button.setVisible(done)
        self.another_button.setVisible(done)
        self.scans_button.setVisible(done and report is not None and report.lacks_scans)
        lacking = report is not None and report.lacks_scans
        self.again_button.setEnabled(not lacking)
        self.again_button.setToolTip(
            "Say first where the scans are."
            if lacking
            else "The same scans, model and steps once more, compared voxel by voxel"
        )

    def _show_report(self) -> None:
        """The list, anew: its signs have the colours of the theme."""
        report = self.report
        clear(self._head)
        clear(self._list)
        if report is None:
            return
        self._head.addWidget(
            Sign(self._theme, State.UNCHANGED if report.ok else State.CHANGED, 22), 0, Qt.AlignmentFlag.AlignTop
        )
        words = QVBoxLayout()
        words.setSpacing(1)
        words.addWidget(label(report.sentence, wrap=True))
        name = ElidedLabel(report.path.name, "small")
        name.setToolTip(str(report.path))
        words.addWidget(name)
        self._head.addLayout(words, 1)
        for item in report.items:
            self._add(Sign(self._theme, item.state), label(item.sentence, wrap=True))
        where = ("Say in which folder the scans lie, and they are compared too.",) if report.lacks_scans else ()
        for note in (*where, *report.notes):
            self._add(None, label(note, "secondary", wrap=True))
        self._list.addStretch()

    def _add(self, sign: Sign | None, words: QLabel) -> None:
        row = QHBoxLayout()
        row.setSpacing(8)
        if sign is not None:
            row.addWidget(sign, 0, Qt.AlignmentFlag.AlignTop)
            words.setAccessibleName(f"{sign.accessibleName()}. {words.text()}")
        else:
            row.addSpacing(28)
        row.addWidget(words, 1)
        self._list.addLayout(row)


def _verify(path: Path, places: list[Path], again: bool, progress: Progress) -> Report:
    """A job: verify a file, or in a folder the one result that lies there.

    Raises:
        NoRecord: There is nothing to verify, or more than one result.
    """
    found = provenance.find_records(path)
    if len(found) > 1:
        found = [one for one in found if "mask" in (provenance.read(one) or {})] or found
    if len(found) > 1:
        raise NoRecord(
            f"The folder {path.name} holds {len(found)} results",
            "",
            "Choose one of them; gliascope verify looks at a whole folder on the command line.",
        )
    return provenance.verify(found[0], places, again, progress)


def _dropped(event: QDropEvent) -> Path | None:
    """The first local file or folder of a drop."""
    return next((Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()), None)
