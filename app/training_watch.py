"""Who listens to a training for the window: one job at a time reads what was said, and whoever shows it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from PySide6.QtCore import QObject, QTimer, Signal

from app.jobs import Job, Jobs, Queue
from app.training_course import Course, Plan
from engine.model_card import Role
from engine.progress import Progress
from trainer.events import Previewed
from trainer.training import Command, Heard, Standing, State, Training

# How often the file is looked at: an answer to a button is waited for, the next report is not.
SOON_S, USUALLY_S, IDLE_S = 0.05, 0.25, 1.0
# A look without news ends after so long, so that how things stand is known even if nothing is said.
LOOK_S = 2.0
# So many events at a time keep the window's turn short when a long training is opened.
AT_A_TIME = 1500
AGAIN_MS = 5_000


# The folder within a run's, as trainer.validation names it; that module needs torch.
PREVIEWS = "previews"


@dataclass(frozen=True, eq=False)
class _Look:
    heard: list[Heard]
    next: int
    standing: Standing


def plans_of(training: Training) -> list[Plan]:
    """The runs of a training as the window names them, in their order."""
    places = training.places
    return [
        Plan(
            name=run.config.name,
            role=Role(run.config.role),
            sequences=run.config.sequences,
            steps=run.config.steps,
            held_out=run.held_out,
            folds=len(training.study.folds),
            scored=run.scored,
        )
        for run in training.study.plan(places)
    ]


def look(training: Training, after: int, patience_s: float, every_s: float, progress: Progress) -> _Look:
    """Wait for something new, not for long, and read it.

    Args:
        training: Whom to listen to.
        after: Where to go on reading.
        patience_s: When to come back without news.
        every_s: How often the file is looked at.
        progress: To be stopped by; it is asked ten times a second at least.

    Raises:
        UserError: The folder is gone or cannot be read.
    """
    until = time.monotonic() + patience_s
    while True:
        progress.check()
        heard, following = training.events(after)
        if heard or time.monotonic() >= until:
            return _Look([_placed(training, one) for one in heard], following, training.standing())
        pause = time.monotonic() + every_s
        while (left := pause - time.monotonic()) > 0:
            progress.check()
            time.sleep(min(left, 0.1))


def _placed(training: Training, heard: Heard) -> Heard:
    """A preview where it lies now: a training that ran on a cluster, or was moved, wrote down where it lay then."""
    if not isinstance(heard.event, Previewed):
        return heard
    name = heard.event.path.replace("\\", "/").rpartition("/")[2]
    path = training.places.runs / heard.run / PREVIEWS / name
    return replace(heard, event=replace(heard.event, path=str(path)))


class TrainingWatch(QObject):
    """What is known of a training, kept up to date while it is followed; the window reads, jobs write.

    Args:
        jobs: Everything that runs away from the UI thread.

    Signals:
        followed: Another training is followed, or none.
        changed: Something was heard, or it stands otherwise.
        answered: A wish was heard or done.
        failed: A wish could not be met, or the folder cannot be read any more: what was raised.
    """

    followed = Signal()
    changed = Signal()
    answered = Signal()
    failed = Signal(object)

    def __init__(self, jobs: Jobs, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._training: Training | None = None
        self._course: Course | None = None
        self._standing: Standing | None = None
        self._after = 0
        self._job: Job | None = None
        self._pending: list[Heard] = []
        self._told = False
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(AGAIN_MS)
        self._again.timeout.connect(lambda: self._look(0.0))

    @property
    def training(self) -> Training | None:
        """Whom it listens to."""
        return self._training

    @property
    def course(self) -> Course | None:
        """What was said, put in order; ``None`` for nobody."""
        return self._course

    @property
    def standing(self) -> Standing | None:
        """How it stands; ``None`` before that is known."""
        return self._standing

    @property
    def under_way(self) -> bool:
        """Whether a process works on it, as far as is known."""
        return self._standing is not None and self._standing.state in (State.RUNNING, State.PAUSED)

    def follow(self, training: Training | None) -> None:
        """Listen to a training from its beginning, or to none."""
        if training is self._training:
            return
        self._stop()
        self._training, self._standing, self._after, self._pending = training, None, 0, []
        self._course = Course(plans_of(training)) if training is not None else None
        self.followed.emit()
        self.changed.emit()
        self._look(0.0)

    def start(self) -> None:
        """Begin, or go on where it was."""
        self._do(lambda training: training.start(), "")

    def ask(self, command: Command) -> None:
        """Ask for something: `answered` follows at once, and again when it was heard and done."""
        if self._course is None:
            return
        self._course.ask(command)
        self.answered.emit()
        self._do(lambda training: training.ask(command), command)

    def _do(self, act: Callable[[Training], None], command: str) -> None:
        training = self._training
        if training is None:
            return

        def work(progress: Progress) -> None:
            progress.check()
            act(training)

        def done(_: None) -> None:
            # Whoever pressed a button waits for the answer: read more often, and now.
            self._stop()
            self._look(0.0)

        def failed(error: Exception) -> None:
            if self._course is not None:
                self._course.answers.pop(command, None)
            self.failed.emit(error)
            done(None)

        self._jobs.run(work, on_finished=done, on_failed=failed, queue=Queue.WATCHING)

    def _stop(self) -> None:
        self._again.stop()
        if self._job is not None:
            self._jobs.drop(self._job.topic)
            self._job = None

    def _look(self, patience_s: float) -> None:
        training = self._training
        if training is None:
            return
        waiting = self._course is not None and bool(self._course.answers)
        every = SOON_S if waiting else USUALLY_S if self.under_way or self._standing is None else IDLE_S
        self._job = self._jobs.run(
            look,
            training,
            self._after,
            patience_s,
            every,
            on_finished=self._take,
            on_failed=self._lose,
            queue=Queue.WATCHING,
            topic=f"watching {id(self)}",
        )

    def _take(self, seen: _Look) -> None:
        assert self._course is not None
        before = self._standing
        answers = dict(self._course.answers)
        self._pending += seen.heard
        now, self._pending = self._pending[:AT_A_TIME], self._pending[AT_A_TIME:]
        self._after, self._standing, self._told = seen.next, seen.standing, False
        self._course.take(now)
        if now or before != seen.standing:
            self.changed.emit()
        if answers != self._course.answers:
            self.answered.emit()
        self._look(0.0 if self._pending else LOOK_S)

    def _lose(self, error: Exception) -> None:
        """A disk that is unplugged comes back; until then it is told once and tried again."""
        self._job = None
        if not self._told:
            self._told = True
            self.failed.emit(error)
        self._again.start()
