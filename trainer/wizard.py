"""The wizard's steps without a window: from patients to a plan, a training and its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from engine.model_card import ModelCard
from engine.volume import Sequence
from trainer.study import Study

if TYPE_CHECKING:
    from trainer.doctor import Report
    from trainer.patients import Patients
    from trainer.training import Training


class Page(Enum):
    """The pages, in their order."""

    PATIENTS = "Patients"
    PLAN = "Plan"
    TRAIN = "Train"
    RESULT = "Result"


class Quality(StrEnum):
    """How long to learn; what it means in steps is in ``configs/training.json``."""

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"


@dataclass(frozen=True)
class HoldOut:
    """So many patients are kept apart to measure on; everybody else is learnt from."""

    patients: int


@dataclass(frozen=True)
class Folds:
    """Everybody is kept apart once: so many trainings of each kind, and one more on everybody, which is installed."""

    count: int


@dataclass(frozen=True)
class Split:
    """Who is measured on.

    Attributes:
        held_out: For each training of a kind the patients it is measured on: one group with `HoldOut`, several with
            `Folds`; sorted by name.
        learnt_from: Everybody else who is learnt from in all of them; empty with `Folds`.
    """

    held_out: tuple[tuple[str, ...], ...]
    learnt_from: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Attributes:
        name: Of the training and its folder, and the first part of its models' names: a-z, digits, ``.``, ``_``, ``-``.
        teacher: Sequences of the teacher.
        students: Sequences of each student.
        any_student: Whether one more student learns to work with any of the teacher's sequences.
        baseline: Whether each student is compared with a network that learnt the same without a teacher.
        start_from: Name of the model whose weights to begin with; empty for random ones.
        split: Who is measured on.
        quality: How long to learn.
        device: As a `TrainConfig` names it.
        folder: Where the training's own folder is made.
    """

    name: str
    teacher: tuple[Sequence, ...]
    students: tuple[tuple[Sequence, ...], ...]
    any_student: bool
    baseline: bool
    start_from: str
    split: HoldOut | Folds
    quality: Quality
    device: str
    folder: Path

    @classmethod
    def suggested(cls, patients: Patients, models: Iterable[ModelCard]) -> Plan:
        """A plan that makes sense for these patients."""
        raise NotImplementedError

    def why_not(self, patients: Patients, models: Iterable[ModelCard]) -> str:
        """What keeps this plan from being carried out, in a sentence; empty if nothing does."""
        raise NotImplementedError

    def split_of(self, patients: Patients, volumes_ml: Mapping[str, float] | None = None) -> Split:
        """Who is measured on, alike in source and, where known, whole-tumour volume; the same on every machine."""
        raise NotImplementedError

    def study(self, patients: Patients, volumes_ml: Mapping[str, float] | None = None) -> Study:
        """The study that carries it out."""
        raise NotImplementedError

    def slurm_script(self, gpus: int = 1, nodes: int = 1, hours: int = 24) -> str:
        """A batch script that carries the training's folder out on a cluster."""
        raise NotImplementedError


class Wizard:
    """Where the user is, what was decided, and what may come next.

    Args:
        models: Those that are installed, to start from and to compare with.

    Attributes:
        page: Where the user is.
        patients: From the first page; ``None`` before any were chosen.
        report: What the doctor found; ``None`` before the examination is done.
        plan: From the second page; suggested when it is first reached.
        training: ``None`` before it was begun.
    """

    def __init__(self, models: Iterable[ModelCard] = ()) -> None:
        self.page = Page.PATIENTS
        self.models = tuple(models)
        self.patients: Patients | None = None
        self.report: Report | None = None
        self.plan: Plan | None = None
        self.training: Training | None = None

    @classmethod
    def of(cls, training: Training, models: Iterable[ModelCard] = ()) -> Wizard:
        """On a training that was begun before: on its Train page, or on Result once it is done."""
        raise NotImplementedError

    def why_not_next(self) -> str:
        """Why the next page cannot be reached yet, in a sentence; empty if it can."""
        raise NotImplementedError

    def next(self) -> Page:
        """Go on; from the plan this creates the training and starts it.

        Raises:
            UserError: `why_not_next` has the same sentence, or the training cannot be made or started.
        """
        raise NotImplementedError

    def why_not_back(self) -> str:
        """Why the page before cannot be reached, in a sentence; empty if it can."""
        raise NotImplementedError

    def back(self) -> Page:
        """Go back; what was decided stays."""
        raise NotImplementedError
