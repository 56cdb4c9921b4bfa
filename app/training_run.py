"""The Train page: curves, two patients whose masks one watches grow, and what the training can be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from app.controls import label, push
from app.curves import CurvePlot, Figure, FigureTile, Piece, RunStrip, Series, smoothed, thinned
from app.jobs import Jobs
from app.telling import Problem, time_left
from app.theme import GAP, Theme
from app.training_course import CORE, WHOLE, Answer, Course, RunCourse, Score, Stage, log_line
from app.training_previews import Previews
from app.training_watch import TrainingWatch
from trainer.training import Command, Standing, State

if TYPE_CHECKING:
    from app.wizard_model import WizardModel

# What a figure's line below it goes back to.
HISTORY = 120
LOG_HEIGHT_PX = 132


class TrainPage(QWidget):
    """A training that is under way, was stopped, or is done.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread.
        wizard: Whose training it is.

    Attributes:
        watch: Who listens to it.
    """

    def __init__(self, theme: Theme, jobs: Jobs, wizard: WizardModel) -> None:
        super().__init__()
        self._theme, self._wizard = theme, wizard
        self.watch = TrainingWatch(jobs, self)
        self._kind = ""
        self._chosen = False
        self._logged = 0
        self.setObjectName("cell")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)

        column = QVBoxLayout(self)
        column.setContentsMargins(3 * GAP, 2 * GAP, 3 * GAP, 2 * GAP)
        column.setSpacing(12)
        column.addLayout(self._make_head())
        self.strip = RunStrip(theme)
        column.addWidget(self.strip)
        self.previews = Previews(theme, jobs)
        self.previews.watched.connect(self.watch_kind)
        self.previews.failed.connect(lambda error: wizard.fail(error, "Showing the patients stopped"))
        halves = QSplitter(Qt.Orientation.Horizontal)
        halves.setHandleWidth(1)
        halves.setChildrenCollapsible(False)
        left, right = QWidget(), QWidget()
        left.setLayout(self._make_curves())
        around = QVBoxLayout(right)
        around.setContentsMargins(2 * GAP, 0, 0, 0)
        around.addWidget(self.previews)
        halves.addWidget(left)
        halves.addWidget(right)
        halves.setStretchFactor(0, 46)
        halves.setStretchFactor(1, 54)
        halves.setSizes([460, 540])
        column.addWidget(halves, 1)
        column.addLayout(self._make_foot())
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setFixedHeight(LOG_HEIGHT_PX)
        self.log.setAccessibleName("Log of the training")
        self.log.setVisible(False)
        column.addWidget(self.log)

        self.watch.followed.connect(self._followed)
        self.watch.changed.connect(self._update)
        self.watch.answered.connect(self._update)
        self.watch.failed.connect(lambda error: wizard.fail(error, "Training stopped"))
        wizard.training_changed.connect(self._follow)
        theme.changed.connect(self._update)
        self._follow()
        self._update()

    # Its parts

    def _make_head(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(GAP)
        words = QVBoxLayout()
        words.setSpacing(3)
        self.title = label("", "title")
        self.left = label("", "secondary")
        # What changes every second must not move what stands beside it.
        for one in (self.title, self.left):
            one.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        words.addWidget(self.title)
        words.addWidget(self.left)
        row.addLayout(words, 1)
        self.pause_button = push("Pause")
        self.keep_button = push("Stop and keep best")
        self.cancel_button = push("Cancel")
        self.go_button = push("Go on", "primary")
        for button, act in (
            (self.pause_button, self._pause),
            (self.keep_button, self._keep),
            (self.cancel_button, self._cancel),
            (self.go_button, self._go),
        ):
            button.clicked.connect(act)
            row.addWidget(button, 0, Qt.AlignmentFlag.AlignTop)
        return row

    def _make_curves(self) -> QVBoxLayout:
        theme = self._theme
        unseen = "Comes with the first validation."
        self.whole_plot = CurvePlot(theme, "Whole tumour, Dice on full validation images", 1.0, unseen)
        self.core_plot = CurvePlot(theme, "Core, Dice on full validation images", 1.0, unseen)
        self.hard_plot = CurvePlot(theme, "Hard loss, against the truth", None, "Comes with the first steps.")
        self.distillation_plot = CurvePlot(
            theme, "Distillation loss, against the teacher", None, "Comes when a student learns from its teacher."
        )
        column = QVBoxLayout()
        column.setContentsMargins(0, 0, 2 * GAP, 0)
        column.setSpacing(12)
        for plot, stretch in ((self.whole_plot, 5), (self.core_plot, 5)):
            column.addWidget(plot, stretch)
        losses = QHBoxLayout()
        losses.setSpacing(12)
        losses.addWidget(self.hard_plot)
        losses.addWidget(self.distillation_plot)
        column.addLayout(losses, 4)
        line = QFrame()
        line.setObjectName("lines")
        line.setFixedHeight(1)
        column.addWidget(line)
        tiles = QGridLayout()
        tiles.setSpacing(12)
        self.tiles = {name: FigureTile(theme) for name in ("rate", "pace", "memory", "heat")}
        for place, tile in enumerate(self.tiles.values()):
            tiles.addWidget(tile, 0, place)
        column.addLayout(tiles)
        return column

    def _make_foot(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(GAP)
        self.answer = label("", "")
        self.answer.setAccessibleName("What becomes of your wish")
        self.last = label("", "secondary")
        self.last.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.log_button = push("Show the log", "link")
        self.log_button.clicked.connect(self._toggle_log)
        row.addWidget(self.answer)
        row.addWidget(self.last, 1)
        row.addWidget(self.log_button)
        return row

    # What the training is told

    def _pause(self) -> None:
        paused = self._stands(State.PAUSED)
        self.watch.ask(Command.RESUME if paused else Command.PAUSE)

    def _cancel(self) -> None:
        self.watch.ask(Command.STOP)

    def _keep(self) -> None:
        run = self._at_work()
        best = run.best if run is not None else None
        if run is None or best is None:
            return
        # The one wish that cannot be taken back.
        question = (
            f"{run.plan.title} will take no further steps: it ends now, with its weights of step {best.step:,} "
            f"(Dice {best.dice[WHOLE]:.2f} and {best.dice[CORE]:.2f}). What comes after it is trained as planned."
        )

        def end() -> None:
            self._wizard.dismiss()
            self.watch.ask(Command.KEEP)

        self._wizard.tell(Problem(question, (("End it now", end), ("Let it go on", self._wizard.dismiss)), note=True))

    def _go(self) -> None:
        self.watch.start()

    # What is shown

    def watch_kind(self, kind: object) -> None:
        """Look at another kind of run, and stay with it."""
        self._kind, self._chosen = str(kind), True
        self._update()

    def _follow(self) -> None:
        self.watch.follow(self._wizard.training)

    def _followed(self) -> None:
        self._kind, self._chosen, self._logged = "", False, 0
        self.log.clear()

    def _stands(self, state: State) -> bool:
        return self.watch.standing is not None and self.watch.standing.state is state

    def _at_work(self) -> RunCourse | None:
        """The run that is being trained now."""
        course, standing = self.watch.course, self.watch.standing
        if course is None or standing is None or standing.state not in (State.RUNNING, State.PAUSED):
            return None
        run = course.runs.get(standing.run) or course.current
        return run if run is not None and run.stage in (Stage.WORKING, Stage.PAUSED) else None

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._update()

    def _update(self) -> None:
        if not self.isVisible():
            return  # drawn when it is looked at
        course, standing = self.watch.course, self.watch.standing
        if course is not None and not self._chosen:
            at_work = self._at_work() or course.current
            self._kind = at_work.plan.kind if at_work is not None else ""
        self._update_words(course, standing)
        self._update_buttons(course, standing)
        self._update_curves(course)
        self._update_tiles(course)
        self.strip.show_pieces(self._pieces(course))
        self.previews.show_course(course, self._kind)
        self._update_log(course)

    def _update_words(self, course: Course | None, standing: Standing | None) -> None:
        if course is None:
            self.title.setText("No training yet")
            self.left.setText("Choose patients and a plan first; this page then shows how the networks learn.")
            return
        if standing is None:
            self.title.setText("Reading the training")
            self.left.setText("")
            return
        run = course.runs.get(standing.run)
        what = run.plan.title if run is not None else standing.title
        self.title.setText(
            {
                State.RUNNING: f"{what} {_doing(run)}" if what else "The training begins",
                State.PAUSED: f"{what} is paused" if what else "Paused",
                State.STOPPED: "Stopped, and everything is saved",
                State.FAILED: "The training could not go on",
                State.DONE: "The training is done",
            }[standing.state]
        )
        words = []
        if standing.state is State.FAILED:
            words.append(standing.problem or course.problem)
        if standing.state is not State.DONE and run is not None:
            reached = f"step {run.step:,} of {run.plan.steps:,}"
            words.append(run.preparing if run.preparing and standing.state is State.RUNNING else reached)
        if standing.runs > 1 and standing.number:
            words.append(f"run {standing.number} of {standing.runs}")
        if standing.state is State.RUNNING and standing.seconds_low is not None and standing.seconds_high is not None:
            words.append(f"{time_left(standing.seconds_low, standing.seconds_high)} left")
        elif standing.state is State.RUNNING:
            words.append("how long it takes is known after the first steps")
        if run is not None and run.device:
            words.append("on the graphics card" if run.device != "cpu" else "on the processor")
        if standing.state is State.DONE:
            best = [f"{kind} {score.mean:.2f}" for kind in course.kinds if (score := _last(course.leading(kind)))]
            words = ["Mean Dice on full validation images: " + ", ".join(best)] if best else []
        joined = "   ".join(word for word in words if word)
        self.left.setText(joined)
        self.left.setToolTip(joined)

    def _update_buttons(self, course: Course | None, standing: Standing | None) -> None:
        going = standing is not None and standing.state in (State.RUNNING, State.PAUSED)
        paused = self._stands(State.PAUSED)
        for button in (self.pause_button, self.keep_button, self.cancel_button):
            button.setVisible(going)
        done = self._stands(State.DONE)
        self.go_button.setVisible(standing is not None and not going and not done)
        self.pause_button.setText("Go on" if paused else "Pause")
        self.pause_button.setAccessibleName(self.pause_button.text())
        asked = dict(course.answers) if course is not None else {}
        open_wish = next((name for name, answer in asked.items() if answer is not Answer.DONE), "")
        run = self._at_work()
        best = run.best if run is not None else None
        waiting = "Your last wish is being carried out." if open_wish else ""
        why_not_keep = waiting or ("" if best is not None else self._why_no_best(run))
        _set(self.pause_button, waiting, "Goes on with the next step." if paused else
             "Nothing is computed until you go on. Takes effect within one step.")  # fmt: skip
        _set(self.keep_button, why_not_keep, "Ends this run with its best weights so far; the next one begins.")
        _set(self.cancel_button, waiting if open_wish == "stop" else "",
             "Ends the training with everything saved; it can go on from here later.")  # fmt: skip
        title = "Try again" if self._stands(State.FAILED) else "Go on"
        self.go_button.setText(title)
        self.go_button.setAccessibleName(title)
        self.go_button.setToolTip("Goes on from the last state that was saved.")
        self.answer.setText(_answer(asked, run))
        self.answer.setVisible(bool(self.answer.text()))

    @staticmethod
    def _why_no_best(run: RunCourse | None) -> str:
        if run is None:
            return "Nothing is being trained at the moment."
        return "There is no best yet: it takes a first validation."

    def _update_curves(self, course: Course | None) -> None:
        runs = list(course.runs.values()) if course is not None else []
        end = max((run.plan.steps for run in runs), default=1)
        watched = self._kind
        leading = set()
        if course is not None:
            own = course.leading(watched) if watched else None
            # Of several folds those are compared that are measured on the same patients.
            leading = {id(course.beside(kind, own) or course.leading(kind)) for kind in course.kinds}
        # Of many students the one that is watched has its name on the curve; teacher and baseline always have.
        pupils = sum(kind.startswith("Student") for kind in course.kinds) if course is not None else 0

        def name(run: RunCourse) -> str:
            return run.plan.kind if pupils > 1 else run.plan.role.value.capitalize()

        def strong(run: RunCourse) -> bool:
            return id(run) in leading and (not pupils > 2 or run.plan.kind in (watched, "Teacher"))

        for plot, region in ((self.whole_plot, WHOLE), (self.core_plot, CORE)):
            plot.show_series([_scores(run, name(run), region, strong(run)) for run in runs if run.scores], end)
        terms: tuple[tuple[CurvePlot, Callable[[RunCourse], Series]], ...] = (
            (self.hard_plot, lambda run: _loss(run, name(run), "hard", strong(run))),
            (self.distillation_plot, lambda run: _loss(run, name(run), "distillation", strong(run))),
        )
        for plot, series in terms:
            plot.show_series([made for run in runs if (made := series(run)).y.size], end)

    def _update_tiles(self, course: Course | None) -> None:
        run = course.leading(self._kind) if course is not None and self._kind else None
        reports = run.reports[-HISTORY:] if run is not None else []
        last = reports[-1] if reports else None

        def history(values: list[float | None]) -> np.ndarray:
            return np.array([np.nan if value is None else value for value in values], float)

        figures = {
            "rate": Figure(
                "Learning rate",
                f"{last.learning_rate:.1e}".replace("e-0", "e-") if last is not None else "not yet",
                history([report.learning_rate for report in reports]),
                "How far a step moves the weights; it falls to zero towards the end.",
            ),
            "pace": Figure(
                "Examples a second",
                f"{last.examples_a_second:.2f}" if last is not None else "not yet",
                history([report.examples_a_second for report in reports]),
                "How many whole brains are learnt from in a second.",
            ),
            "memory": Figure(
                "Memory",
                "not yet" if last is None else _gigabytes(last.memory_mb),
                history([report.memory_mb for report in reports]),
                "What the training takes of this computer's memory, or of the graphics card's.",
            ),
            "heat": Figure(
                "Temperature",
                "not yet" if last is None else f"{last.temperature_c:.0f} \u00b0C" if last.temperature_c is not None
                else "not told here",
                history([report.temperature_c for report in reports]),
                "Of what computes, where the system tells it.",
            ),
        }  # fmt: skip
        for name, tile in self.tiles.items():
            tile.show_figure(figures[name])

    def _pieces(self, course: Course | None) -> list[Piece]:
        if course is None:
            return []
        return [
            Piece(
                run.plan.title,
                run.plan.role,
                float(run.plan.steps),
                run.share,
                f"{100 * run.share:.0f} %" if run.stage in (Stage.WORKING, Stage.PAUSED) else run.stage.value,
                run.plan.kind == self._kind,
                run.plan.kind,
            )
            for run in course.runs.values()
        ]

    def _update_log(self, course: Course | None) -> None:
        log = list(course.log) if course is not None else []
        self.last.setText(log[-1][1] if log and not self.log.isVisible() else "")
        total = course.said if course is not None else 0
        fresh = total - self._logged
        if fresh <= 0:
            return
        self._logged = total
        for when, words in log[-fresh:]:
            self.log.appendPlainText(log_line(when, words))

    def _toggle_log(self) -> None:
        shown = not self.log.isVisible()
        self.log.setVisible(shown)
        self.log_button.setText("Hide the log" if shown else "Show the log")
        self.log_button.setAccessibleName(self.log_button.text())
        self._update_log(self.watch.course)


def _set(button: QPushButton, why_not: str, tip: str) -> None:
    """Off with the reason, or on with what it does."""
    button.setEnabled(not why_not)
    button.setToolTip(why_not or tip)


def _doing(run: RunCourse | None) -> str:
    if run is not None and run.stage is Stage.FINISHED:
        return "is being measured"
    return "begins" if run is not None and run.stage is Stage.WAITING else "is learning"


def _answer(answers: dict[str, Answer], run: RunCourse | None) -> str:
    """What becomes of the last wish, in words; empty without one."""
    for command, answer in answers.items():
        now = answer is Answer.ASKED
        at = f" at step {run.step:,}" if run is not None else ""
        words = {
            "pause": f"Paused{at}; nothing is lost." if answer is Answer.DONE else
            "Asked to pause." if now else "Heard: it pauses after the step it is in.",
            "resume": "Asked to go on." if now else "Heard: it goes on.",
            "stop": "Stopped; everything is saved." if answer is Answer.DONE else
            "Asked to stop." if now else "Heard: it saves everything and stops after the step it is in.",
            "keep": "Asked to keep the best." if now else "Heard: this run ends with its best weights.",
        }  # fmt: skip
        return words.get(command, "")
    return ""


def _last(run: RunCourse | None) -> Score | None:
    return run.best if run is not None else None


def _gigabytes(memory_mb: float | None) -> str:
    if memory_mb is None:
        return "not told here"
    return f"{memory_mb:.0f} MB" if memory_mb < 1000 else f"{memory_mb / 1024:.1f} GB"


def _scores(run: RunCourse, name: str, region: str, strong: bool) -> Series:
    values = np.array([score.dice[region] for score in run.scores], float)
    best = run.best
    place = run.scores.index(best) if best is not None and strong else None
    steps = np.array([score.step for score in run.scores], float)
    return Series(name, run.plan.role, steps, values, best=place, strong=strong)


def _loss(run: RunCourse, name: str, term: str, strong: bool) -> Series:
    pairs = [(report.step, getattr(report, term)) for report in run.reports]
    known = [(step, value) for step, value in pairs if value is not None]
    steps, raw = thinned(np.array([step for step, _ in known], float), np.array([value for _, value in known], float))
    return Series(
        name, run.plan.role, steps, smoothed(raw), raw=raw if strong else np.zeros(0), strong=strong,
        words="{:.3f}",
    )  # fmt: skip
