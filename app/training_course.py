"""How a training has gone so far, as its events tell it: what the Train page draws. No Qt, no torch."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from pathlib import Path

from engine.model_card import REGIONS, Role
from engine.volume import Sequence
from trainer.events import (
    Acknowledged,
    Event,
    Failed,
    FellBack,
    Finished,
    Paused,
    Preparing,
    Previewed,
    Resumed,
    Saved,
    Started,
    StepEnd,
    Stopped,
    Validated,
)
from trainer.training import Heard

WHOLE, CORE = REGIONS
_LOG_LINES = 400


class Stage(Enum):
    """Where a run is; the value is how it is called."""

    WAITING = "waiting"
    WORKING = "learning"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


class Answer(Enum):
    """What became of a wish of the user's."""

    ASKED = auto()
    HEARD = auto()
    DONE = auto()


@dataclass(frozen=True)
class Plan:
    """One run as the study plans it.

    Attributes:
        name: Of the run and of its folder.
        role: Teacher, baseline or student.
        sequences: What it sees.
        steps: How many it takes.
        held_out: Folds it does not learn from.
        folds: How many folds the study has.
        scored: Whether it is measured on its held-out patients; others are a means to train those.
    """

    name: str
    role: Role
    sequences: tuple[Sequence, ...]
    steps: int
    held_out: tuple[int, ...] = ()
    folds: int = 2
    scored: bool = True

    @property
    def kind(self) -> str:
        """What it is, whichever fold it leaves out: ``"Student T1"``."""
        if self.role is Role.TEACHER:
            return "Teacher"
        what = "four sequences" if len(self.sequences) == len(Sequence) else "+".join(s.title for s in self.sequences)
        return f"{self.role.value.capitalize()} {what}"

    @property
    def title(self) -> str:
        """What it is called on screen."""
        if len(self.held_out) > 1:
            return f"{self.kind} for folds {' and '.join(str(fold + 1) for fold in self.held_out)}"
        several = self.folds > 2 and bool(self.held_out)
        return f"{self.kind}, fold {self.held_out[0] + 1}" if several else self.kind


@dataclass(frozen=True)
class Report:
    """Averages over the steps since the last such report.

    Attributes:
        step: After which step.
        hard: Loss against the truth.
        distillation: What the terms of distillation add to it; ``None`` where nothing is distilled.
        learning_rate: At that step.
        examples_a_second: Examples learnt from in a second.
        memory_mb: Of the worker; ``None`` where unknown.
        temperature_c: Of the processor; ``None`` where unknown.
    """

    step: int
    hard: float
    distillation: float | None
    learning_rate: float
    examples_a_second: float
    memory_mb: float | None
    temperature_c: float | None


@dataclass(frozen=True)
class Score:
    """Mean Dice of full validation images, 0..1, by region, and whether it was the best until then."""

    step: int
    dice: Mapping[str, float]
    cases: int
    best: bool

    @property
    def mean(self) -> float:
        """Of both regions."""
        return statistics.fmean(self.dice.values())


@dataclass
class RunCourse:
    """One run so far.

    Attributes:
        plan: What it is.
        stage: Where it is.
        step: Steps done.
        reports: In the order of their steps.
        scores: The same.
        previews: Where the masks of the validation cases lie, by step.
        device: What it is trained on, as the worker said it.
        preparing: What is done before the first step, or while it is measured, in words; empty while it learns.
    """

    plan: Plan
    stage: Stage = Stage.WAITING
    step: int = 0
    reports: list[Report] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    previews: dict[int, Path] = field(default_factory=dict)
    device: str = ""
    preparing: str = ""

    @property
    def share(self) -> float:
        """How much of it is done, 0..1."""
        if self.stage is Stage.FINISHED:
            return 1.0  # fewer steps than planned, where its best weights were kept
        return min(1.0, self.step / self.plan.steps) if self.plan.steps else 0.0

    @property
    def best(self) -> Score | None:
        """The best validation so far."""
        return max(self.scores, key=lambda score: score.mean, default=None)

    def forget_after(self, step: int) -> None:
        """A run that goes on from an earlier state takes its later steps once more."""
        self.step = step
        self.reports = [report for report in self.reports if report.step <= step]
        self.scores = [score for score in self.scores if score.step <= step]
        self.previews = {at: path for at, path in self.previews.items() if at <= step}


class Course:
    """Everything a training has said, put in order.

    Args:
        plans: The runs, in the order in which they are trained.

    Attributes:
        runs: Every run by name, in that order.
        log: What happened of late, in sentences, the newest last: when, and what.
        said: How many sentences there were in all.
        answers: The last wish of the user's and what became of it.
        problem: Why it could not go on; empty otherwise.
    """

    def __init__(self, plans: Iterable[Plan]) -> None:
        self.runs = {plan.name: RunCourse(plan) for plan in plans}
        self.log: deque[tuple[float, str]] = deque(maxlen=_LOG_LINES)
        self.said = 0
        self.answers: dict[str, Answer] = {}
        self.problem = ""
        self._current = next(iter(self.runs), "")

    @property
    def current(self) -> RunCourse | None:
        """The run that something was last heard of; the first before anything was."""
        return self.runs.get(self._current)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is trained, whichever folds: ``("Teacher", "Baseline T1", "Student T1")``."""
        return tuple(dict.fromkeys(run.plan.kind for run in self.runs.values()))

    def of_kind(self, kind: str) -> list[RunCourse]:
        """The runs of a kind, one a fold."""
        return [run for run in self.runs.values() if run.plan.kind == kind]

    def leading(self, kind: str) -> RunCourse | None:
        """Of a kind the run to look at: the one at work, else the last begun, else the first."""
        runs = self.of_kind(kind)
        begun = [run for run in runs if run.stage is not Stage.WAITING]
        at_work = [run for run in begun if run.stage in (Stage.WORKING, Stage.PAUSED)]
        if at_work or begun:
            return (at_work or begun)[-1]
        return runs[0] if runs else None

    def beside(self, kind: str, run: RunCourse | None) -> RunCourse | None:
        """Of a kind the run that is measured on the same patients as another; ``None`` where there is none."""
        own = [one for one in self.of_kind(kind) if run is not None and one.plan.held_out == run.plan.held_out]
        return own[0] if own else None

    def ask(self, command: str) -> None:
        """Note that the user wishes something; the training has not answered yet."""
        self.answers = {command: Answer.ASKED}

    def take(self, heard: Iterable[Heard]) -> None:
        """Hear what was said, in the order in which it was."""
        for one in heard:
            run = self.runs.get(one.run)
            if run is not None:
                self._current = one.run
                self._hear_of_run(run, one.event, one.time)
            else:
                self._hear(one.event, one.time)

    def _hear(self, event: Event, time: float) -> None:
        """What concerns no run in particular, or the user's wishes, which every worker answers."""
        match event:
            case Acknowledged(command):
                self.answers = {command: Answer.HEARD}
            case Paused():
                self.answers = {"pause": Answer.DONE}
            case Resumed() | Started() | Finished():
                self.answers = {}
            case Stopped():
                self.answers = {"stop": Answer.DONE}
            case FellBack(what):
                self._say(time, what)
            case Failed(message):
                self.problem = message
                self._say(time, message)

    def _hear_of_run(self, run: RunCourse, event: Event, time: float) -> None:
        title = run.plan.title
        match event:
            case Started():
                run.forget_after(event.first_step)
                run.stage, run.device, run.preparing = Stage.WORKING, event.device, ""
                run.plan = replace(run.plan, steps=event.steps)
                self.problem = ""
                begun = f"goes on from step {run.step:,}" if run.step else "begins"
                size = event.parameters / 1e6
                self._say(time, f"{title} {begun}: {event.steps:,} steps, {size:.1f} million weights.")
            case Preparing():
                run.preparing = event.what
            case StepEnd():
                self._hear_steps(run, event)
            case Validated():
                self._hear_score(run, event, time)
            case Previewed():
                run.previews[event.step] = Path(event.path)
            case Saved():
                self._say(time, f"{title}: everything is saved up to step {event.step:,}.")
            case Paused():
                run.stage = Stage.PAUSED
                self._say(time, f"{title} pauses at step {event.step:,}.")
            case Resumed():
                run.stage = Stage.WORKING
                self._say(time, f"{title} goes on.")
            case Stopped():
                run.stage, run.step = Stage.STOPPED, event.step
                self._say(time, f"{title} stopped at step {event.step:,}; all is saved.")
            case Finished():
                run.stage, run.step, run.preparing = Stage.FINISHED, event.step, ""
                early = f", with its best weights, of step {event.kept_step:,}" if event.kept == "best" else ""
                self._say(time, f"{title} is trained{early}.")
            case Failed():
                run.stage = Stage.FAILED
        self._hear(event, time)

    @staticmethod
    def _hear_steps(run: RunCourse, event: StepEnd) -> None:
        run.step = event.step
        hard = event.terms.get("hard", event.loss)
        run.reports.append(
            Report(
                step=event.step,
                hard=hard,
                distillation=event.loss - hard if len(event.terms) > 1 else None,
                learning_rate=event.learning_rate,
                examples_a_second=event.examples_a_second or 1 / max(event.seconds_a_step, 1e-9),
                memory_mb=event.device_memory_mb or event.memory_mb or None,
                temperature_c=event.temperature_c,
            )
        )

    def _hear_score(self, run: RunCourse, event: Validated, time: float) -> None:
        run.scores.append(Score(event.step, event.dice, event.cases, event.best))
        words = f"whole tumour {event.dice[WHOLE]:.2f}, core {event.dice[CORE]:.2f}"
        so_far = ", the best so far" if event.best else ""
        what = f"{run.plan.title}, step {event.step:,}: Dice {words} on {_patients(event.cases)}{so_far}."
        self._say(time, what)

    def _say(self, time: float, words: str) -> None:
        if words:
            self.log.append((time, words))
            self.said += 1


def log_line(when: float, words: str) -> str:
    """A line of the log: ``"14:02:31  Teacher begins ..."``."""
    return f"{datetime.fromtimestamp(when):%H:%M:%S}  {words}" if when else words


def _patients(count: int) -> str:
    return "one patient" if count == 1 else f"{count} patients"
