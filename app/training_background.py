"""A training seen from the main window: its progress in the title and in the tray, and the question when one closes."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject, QRectF, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QIcon, QPainter, QPen, QPixmap
from PySide6.QtWidgets import QSystemTrayIcon, QWidget

from app.cards import Card
from app.controls import label, push
from app.jobs import Jobs, Queue
from app.telling import time_left
from app.theme import DARK, Theme
from app.training_course import Answer
from app.training_watch import TrainingWatch
from app.welcome import draw_emblem
from engine.progress import Progress
from trainer.training import Command, State, Training, trainings

# Whoever closes the window is not kept longer, whatever a training that does not answer is doing.
PATIENCE_MS = 1_500
TITLE = "Gliascope"


class TrainingBackground(QObject):
    """What of a training concerns the main window.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread.
        window: Whose title tells of it.
        surface: What a card covers.
        show_card: Lays a card over the window.

    Attributes:
        watch: Who listens.

    Signals:
        open_wanted: The user wants to see the training.
    """

    open_wanted = Signal()

    def __init__(
        self, theme: Theme, jobs: Jobs, window: QWidget, surface: QWidget, show_card: Callable[[Card], None]
    ) -> None:
        super().__init__(window)
        self._theme, self._jobs, self._show_card = theme, jobs, show_card
        self._window, self._surface = window, surface
        self._decided = False
        self._tray: QSystemTrayIcon | None = None
        self._drawn = -1
        self.watch = TrainingWatch(jobs, self)
        self.watch.changed.connect(self._update)

    def find(self) -> None:
        """Follow a training that goes on from before this window was opened, if there is one."""

        def running(progress: Progress) -> Training | None:
            for training in trainings():
                progress.check()
                if training.running():
                    return training
            return None

        def found(training: Training | None) -> None:
            if training is not None and self.watch.training is None:
                self.watch.follow(training)

        # Nobody asked for it: a folder that cannot be read is told of when the user wants something from it.
        self._jobs.run(running, on_finished=found, on_failed=lambda _: None, queue=Queue.WATCHING)

    def follow(self, training: Training | None) -> None:
        """Follow the training that the wizard shows; without one, what is under way stays in sight."""
        if training is not None:
            self.watch.follow(training)

    @property
    def words(self) -> str:
        """How far it is, such as ``"Student T1 41 %"``; empty where none is under way."""
        standing, course = self.watch.standing, self.watch.course
        if standing is None or course is None or not self.watch.under_way:
            return ""
        run = course.runs.get(standing.run)
        name = run.plan.title if run is not None else standing.title or "Training"
        return f"{name} {'paused at ' if standing.state is State.PAUSED else ''}{100 * standing.done:.0f} %"

    def may_close(self) -> bool:
        """Whether the window may be closed now; asks first where a training is under way."""
        if self._decided or not self.watch.under_way:
            return True
        self._show_card(self._question())
        # It may have been closed with another window in front of it.
        self._window.raise_()
        self._window.activateWindow()
        return False

    def close(self) -> None:
        """The window is closed: nothing of this stays."""
        self.watch.follow(None)
        if self._tray is not None:
            self._tray.hide()
            self._tray.deleteLater()
            self._tray = None

    # The question

    def _question(self) -> Card:
        standing = self.watch.standing
        card = Card(self._theme, self._surface, 560, "A training is under way")
        card.body.addWidget(label("A training is under way", "title"))
        left = ""
        if standing is not None and standing.seconds_low is not None and standing.seconds_high is not None:
            left = f", {time_left(standing.seconds_low, standing.seconds_high)} left"
        card.body.addWidget(label(f"{self.words}{left}. What should become of it?", "secondary", wrap=True))
        card.body.addSpacing(4)
        for title, tip, command in (
            ("Let it go on in the background", "It needs no window. Open Gliascope again to see how far it is.", None),
            ("Pause it", "It computes nothing until it is told to go on, and keeps its memory.", Command.PAUSE),
            ("Stop it", "Everything is saved, and it can go on from there at any time.", Command.STOP),
        ):
            button = push(title, "primary" if command is None else "large", tip)
            button.clicked.connect(lambda _=False, command=command: self._leave(card, command))
            card.body.addWidget(button)
            card.body.addWidget(label(tip, "small", wrap=True))
            card.body.addSpacing(4)
        card.close_button.setText("Stay here")
        card.close_button.setAccessibleName("Stay here")
        card.close_button.setObjectName("")
        card.finish()
        return card

    def _leave(self, card: Card, command: Command | None) -> None:
        self._decided = True
        card.leave()
        if command is None:
            self._window.close()
            return
        waiting = QTimer(self)
        waiting.setSingleShot(True)
        waiting.timeout.connect(self._window.close)
        waiting.start(PATIENCE_MS)

        def heard() -> None:
            course = self.watch.course
            if course is None or course.answers.get(command) is not Answer.ASKED:
                waiting.start(0)

        self.watch.answered.connect(heard)
        self.watch.failed.connect(lambda _: waiting.start(0))
        self.watch.ask(command)

    # What is seen of it

    def _update(self) -> None:
        words, standing = self.words, self.watch.standing
        self._window.setWindowTitle(f"{words} - {TITLE}" if words else TITLE)
        if not words or standing is None:
            if self._tray is not None:
                self._tray.hide()
            self._drawn = -1
            return
        if self._tray is None:
            if not QSystemTrayIcon.isSystemTrayAvailable():
                return
            self._tray = QSystemTrayIcon(self)
            self._tray.activated.connect(lambda _: self.open_wanted.emit())
        percent = round(100 * standing.done)
        if percent != self._drawn:
            self._drawn = percent
            self._tray.setIcon(progress_icon(standing.done, self._theme))
        self._tray.setToolTip(f"{TITLE}: {words}")
        self._tray.show()


def progress_icon(share: float, theme: Theme) -> QIcon:
    """Gliascope's sign in a ring that is closed as far as ``share``, 0..1."""
    icon = QIcon()
    for size in (16, 22, 32, 48, 64):
        picture = QPixmap(size, size)
        picture.fill(Qt.GlobalColor.transparent)
        painter = QPainter(picture)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width = max(2.0, size / 10)
        ring = QRectF(width / 2, width / 2, size - width, size - width)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(DARK.panel))
        painter.drawEllipse(ring)
        inset = size * 0.27
        sign = QRectF(inset * 1.1, inset, size - 2.2 * inset, size - 2 * inset)
        draw_emblem(painter, sign, QColor(DARK.text), QColor(DARK.secondary))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(DARK.hairline), width))
        painter.drawEllipse(ring)
        painter.setPen(QPen(QColor(theme.colours.accent), width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap))
        # Qt counts sixteenths of a degree from three o'clock against the clock.
        painter.drawArc(ring, 90 * 16, -round(360 * 16 * min(1.0, max(0.0, share))))
        painter.end()
        icon.addPixmap(picture)
    return icon
