"""A training of the user's own: a folder with everything about it, and the process that carries it out.

    study.json      what is trained, see `trainer.study`
    patients.json   on whom, see `trainer.patients`
    start/          the model whose weights it begins with, where there is one
    runs/           the run folders
    events.jsonl    what happened: ``{"run": name, "time": unix seconds, **event}`` a line
    report/         tables and plots of the results, see `trainer.report`
    command         what was asked last
    lock            held while a process works on the folder

``python -m trainer.training FOLDER`` is that process. It survives the window that began it; killed at any moment, it
goes on where it was when it is begun again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from engine.model_card import ModelCard
from engine.progress import Progress
from trainer.comparison import Comparison, PatientScore, Summary
from trainer.events import Event
from trainer.patients import Patients
from trainer.study import Study

STUDY, PATIENTS, RUNS, EVENTS, REPORT = "study.json", "patients.json", "runs", "events.jsonl", "report"


class Command(StrEnum):
    """What a training that is under way can be asked."""

    PAUSE = "pause"
    """Compute nothing until asked to resume."""
    RESUME = "resume"
    """Go on after a pause."""
    STOP = "stop"
    """Save the state and end; `Training.start` goes on from there."""
    KEEP = "keep"
    """What is being trained ends now with its best weights so far; the study goes on with what comes next."""


class State(StrEnum):
    """How a training stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    """Begun or not, and no process works on it; it can be started."""
    FAILED = "failed"
    """The same, and a run failed; starting it tries again."""
    DONE = "done"


@dataclass(frozen=True)
class Heard:
    """One line of ``events.jsonl``.

    Attributes:
        run: Which run it is about; empty for the training as a whole.
        time: In seconds since 1970.
        event: What happened.
    """

    run: str
    time: float
    event: Event


@dataclass(frozen=True)
class Standing:
    """How far a training has come.

    Attributes:
        state: Whether somebody works on it.
        run: Name of the run that is being trained or scored; empty where none is.
        title: The same for a person: ``"T1 student"``.
        number: Which one it is, from 1; 0 where none is.
        runs: How many there are.
        done: How much of all is done, 0..1, by time.
        seconds_low: What is left takes at least so long ...
        seconds_high: ... and at most so long; both ``None`` before the first steps.
        problem: What went wrong, in a sentence; empty if nothing did.
    """

    state: State
    run: str
    title: str
    number: int
    runs: int
    done: float
    seconds_low: float | None
    seconds_high: float | None
    problem: str = ""


@dataclass(frozen=True)
class Results:
    """What the finished runs of a training amount to, all on patients they had not learnt from.

    Attributes:
        scores: Of each patient, recipe, set of sequences and region.
        summaries: Means over patients of the same.
        comparisons: Students with their baselines.
        pending: Runs that are not scored yet.
    """

    scores: tuple[PatientScore, ...]
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    pending: tuple[str, ...]


@dataclass(frozen=True)
class About:
    """What the user says of a model that is to be installed.

    Attributes:
        name: The model's; not that of a model which came with Gliascope.
        version: Its version.
        data: What it was trained on, in words.
        licence: Under which terms it may be used, in words.
        citations: What to cite.
    """

    name: str
    version: str
    data: str
    licence: str
    citations: tuple[str, ...] = ()


class Training:
    """A training's folder; cheap to make, and safe to use from several threads.

    Args:
        folder: As `create` made it.

    Raises:
        UserError: It is no training's folder, or comes from a newer Gliascope.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study = Study.read(folder / STUDY)
        self.patients = Patients.read(folder / PATIENTS)

    @classmethod
    def create(cls, folder: Path, study: Study, patients: Patients, start_from: ModelCard | None = None) -> Training:
        """Make the folder of a new training.

        Args:
            folder: Must not hold a training yet.
            study: What to train.
            patients: On whom.
            start_from: The model that recipes begin with; it is copied, so that the training depends on nothing else.

        Raises:
            UserError: The folder is taken or cannot be written to.
        """
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What it is called."""
        return self.folder.name

    def start(self) -> None:
        """Begin, or go on: a process that outlives this one.

        Raises:
            UserError: Another process works on the folder already, torch is not installed, or a file is gone.
        """
        raise NotImplementedError

    def running(self) -> bool:
        """Whether a process works on it, on this machine."""
        raise NotImplementedError

    def ask(self, command: Command | str) -> None:
        """Ask the process for something; it answers with an event `Acknowledged` within 200 ms.

        Raises:
            UserError: Nobody works on it.
        """
        raise NotImplementedError

    def events(self, after: int = 0) -> tuple[list[Heard], int]:
        """What happened since, and where to go on reading: pass it as ``after`` the next time. Begins with 0."""
        raise NotImplementedError

    def standing(self) -> Standing:
        """How far it has come; reads only what happened since it was last asked."""
        raise NotImplementedError

    def results(self) -> Results:
        """What is known so far.

        Raises:
            UserError: A file of scores is damaged.
        """
        raise NotImplementedError

    def installable(self) -> tuple[str, ...]:
        """Names of the finished runs that can become models of the app."""
        raise NotImplementedError

    def suggested_about(self, run: str) -> About:
        """What to say of the model of a run, for the user to review."""
        raise NotImplementedError

    def install(self, run: str, models: Path, about: About, progress: Progress | None = None) -> ModelCard:
        """Make a model of a finished run: export, measure, check on a patient it has not seen, then move it in.

        Takes a minute or so and works in a process of its own.

        Args:
            run: One of `installable`.
            models: Folder of the user's models.
            about: What the user says of it.
            progress: Told how far it is, and asked whether to stop.

        Raises:
            UserError: The name is taken, or the model does not find what it found when it was scored.
            Cancelled: Asked to stop; nothing was installed.
        """
        raise NotImplementedError


def home() -> Path:
    """Where trainings are kept unless the user chose another folder."""
    raise NotImplementedError


def trainings(folders: Iterable[Path] | None = None) -> list[Training]:
    """Every training of the user's, the newest first; in `home` when no folders are given."""
    raise NotImplementedError
