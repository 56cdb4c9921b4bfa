"""The wizard's steps without a window: from patients to a plan, a training and its results.

A `Plan` is what a person decides; the `Study` it makes is what is carried out. What a quality means in steps, and how
teachers and students learn, is data: ``configs/training.json``.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import registry
from engine.errors import UserError
from engine.files import unwritten, whole_file
from engine.model_card import ModelCard, Role
from engine.volume import Sequence, in_order, in_words, joined
from trainer.patients import Patient, Patients
from trainer.study import MODEL, Cell, Places, Shipped, Study
from trainer.training import PATIENTS, RUNS, State, Training, home

if TYPE_CHECKING:
    from trainer.doctor import Report

DEFAULTS = Path(__file__).resolve().parent.parent / "configs" / "training.json"
SLURM = "train.slurm"
FEW = 6  # with fewer patients to learn from, teachers that leave some of them out would learn too little
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "teacher", in_order(self.teacher))
        object.__setattr__(self, "students", tuple(in_order(student) for student in self.students))

    @classmethod
    def suggested(cls, patients: Patients, models: Iterable[ModelCard] = ()) -> Plan:
        """A plan that makes sense for these patients.

        The teacher sees the sequences that most of the patients have; the student sees T1 alone where the teacher sees
        more than that. One patient in five is kept apart. A model to begin with is taken where it knows none of the
        patients, as nothing could be measured on those it knows.
        """
        teacher = _teacher_for(patients)
        students = ((Sequence.T1,),) if Sequence.T1 in teacher else (teacher[:1],)
        able = len(patients.having(teacher))
        taken = {path.name for path in home().iterdir()} if home().is_dir() else set()
        name = next(name for number in range(1, 1000) if (name := f"training-{number}") not in taken)
        plan = cls(
            name=name,
            teacher=teacher,
            students=students if len(teacher) > 1 else (),
            any_student=False,
            baseline=True,
            start_from="",
            split=HoldOut(max(1, min(20, able // 5))),
            quality=Quality.STANDARD,
            device="auto",
            folder=home(),
        )
        known = {patient.name for patient in patients.patients}
        strangers = [card for card in plan.starting_points(models) if not known & card.learnt_from]
        return replace(plan, start_from=strangers[0].name) if strangers else plan

    def starting_points(self, models: Iterable[ModelCard]) -> list[ModelCard]:
        """The models that all of its networks can begin with: those that see what the teacher sees; the best first."""
        fitting = [card for card in models if set(self.teacher) <= card.inputs and card.role is not Role.BASELINE]
        return sorted(fitting, key=lambda card: (card.any_subset, len(card.sequences), card.role, card.name))

    def why_not(self, patients: Patients, models: Iterable[ModelCard] = ()) -> str:
        """What keeps this plan from being carried out, in a sentence; empty if nothing does."""
        return (
            self._why_not_these(patients)
            or self._why_not_students()
            or self._why_not_start(models)
            or self._why_not_there(patients, models)
        )

    def _why_not_these(self, patients: Patients) -> str:
        if not self.teacher:
            return "Choose at least one sequence for the teacher."
        able = len(patients.having(self.teacher))
        if not able:
            return f"No patient with a ground truth has {in_words(self.teacher)}. Choose fewer sequences."
        if able == 1:
            return "One patient is too few: at least one to learn from and another to measure on are needed."
        if isinstance(self.split, HoldOut) and not 1 <= self.split.patients < able:
            return f"Of {able} patients at least one and at most {able - 1} can be kept apart."
        if isinstance(self.split, Folds) and not 2 <= self.split.count <= able:
            return f"{able} patients can be split into 2 to {able} groups."
        return ""

    def _why_not_students(self) -> str:
        for student in self.students:
            extra = set(student) - set(self.teacher)
            if not student:
                return "A student sees at least one sequence."
            if extra:
                return f"The teacher does not see {in_words(extra)}, so it cannot teach a student that does."
            if set(student) == set(self.teacher):
                return f"A student sees fewer sequences than its teacher, who sees {in_words(self.teacher)}."
        if len(set(self.students)) < len(self.students):
            return "Two students see the same sequences."
        if self.any_student and len(self.teacher) < 2:
            return "A student for any of the sequences needs a teacher who sees at least two."
        return ""

    def _why_not_start(self, models: Iterable[ModelCard]) -> str:
        if not self.start_from:
            return ""
        card = next((card for card in models if card.name == self.start_from), None)
        if card is None:
            return f"There is no model called {self.start_from} to begin with."
        missing = set(self.teacher) - card.inputs
        return f"The {card.title} never saw {in_words(missing)}, so it is no beginning." if missing else ""

    def _why_not_there(self, patients: Patients, models: Iterable[ModelCard]) -> str:
        from trainer.estimate import disk_mb

        if not _NAME.fullmatch(self.name):
            return "A name is made of a-z, 0-9, dots, dashes and underscores, 40 letters at most."
        place = self.folder / self.name
        if place.is_dir() and any(place.iterdir()):
            return f"There is something called {self.name} in that folder already. Choose another name."
        there = next((folder for folder in (place, *place.parents) if folder.exists()), place)
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            return f"The folder {there.name or there} cannot be written to. Choose another one."
        try:
            needed, free = disk_mb(self, patients, models), shutil.disk_usage(there).free / 1e6
        except UserError as error:
            return str(error)
        if free < needed:
            return (
                f"There is too little room on the disk: {free / 1000:.1f} GB are free, {needed / 1000:.1f} are needed."
            )
        return ""

    def worth_knowing(self, patients: Patients, models: Iterable[ModelCard] = ()) -> tuple[str, ...]:
        """What is no obstacle, a sentence each."""
        notes = []
        card = next((card for card in models if card.name == self.start_from), None)
        known = sorted({p.name for p in patients.having(self.teacher).patients} & (card.learnt_from if card else set()))
        if card is not None and known:
            whom = known[0] if len(known) == 1 else f"{len(known)} of these patients, {known[0]} among them"
            notes.append(f"The {card.title} has learnt from {whom}: what is measured on them flatters.")
        able = len(patients.having(self.teacher))
        some = sum(p.included and p.truth is not None for p in patients.patients) - able
        if some:
            who = "1 patient has" if some == 1 else f"{some} patients have"
            notes.append(f"{who} not all of the teacher's sequences: students learn from them, the teacher does not.")
        if able < 10:
            notes.append(f"{able} patients are few: what is measured on some of them says little about others.")
        return tuple(notes)

    def split_of(self, patients: Patients, volumes_ml: Mapping[str, float] | None = None) -> Split:
        """Who is measured on, alike in source and, where known, whole-tumour volume; the same on every machine.

        Whoever is measured on has all sequences of the teacher, so that all are measured on the same patients; with
        `Folds` patients who lack some go along, and are measured on by those who can.

        Args:
            patients: The usable ones are split.
            volumes_ml: Whole-tumour volume by patient, of those where it is known.
        """
        sizes = {patient.name: 0.0 for patient in self._learnt_from(patients)} | dict(volumes_ml or {})
        complete = [p for p in self._learnt_from(patients) if p.has(self.teacher)]
        ranked = sorted(complete, key=lambda p: (p.source, sizes[p.name], p.name))
        others = sorted(p.name for p in self._learnt_from(patients) if not p.has(self.teacher))
        if isinstance(self.split, HoldOut):
            held = _spread(ranked, min(self.split.patients, len(ranked)))
            rest = sorted({p.name for p in complete} - set(held)) + others
            return Split((held,), tuple(sorted(rest)))
        from trainer.dataset import folds

        names = [p.name for p in ranked] + others
        source = {p.name: f"{int(not p.has(self.teacher))}{p.source}" for p in self._learnt_from(patients)}
        dealt = folds({name: sizes[name] for name in names}, source, self.split.count)
        return Split(tuple(dealt), ())

    def _learnt_from(self, patients: Patients) -> list[Patient]:
        wanted = [self.teacher, *self.students, *((one,) for one in self.teacher if self.any_student)]
        return [
            p for p in patients.patients if p.included and p.truth is not None and any(p.has(some) for some in wanted)
        ]

    def study(
        self,
        patients: Patients,
        volumes_ml: Mapping[str, float] | None = None,
        models: Iterable[ModelCard] | None = None,
    ) -> Study:
        """The study that carries it out.

        Args:
            patients: The usable ones take part.
            volumes_ml: As for `split_of`.
            models: The one to begin with is among them; all that are installed when not given.

        Raises:
            UserError: The model to begin with is not there.
        """
        defaults = _defaults()
        quality = defaults["qualities"][self.quality.value]
        begin = defaults["from_a_model" if self.start_from else "from_scratch"]
        common = {**defaults["common"], "learning_rate": begin["learning_rate"], "device": self.device}
        common["warm_up"] = quality["warm_up"]
        if self.start_from:
            common |= _as_it_was(self.start_from, models)
        split = self.split_of(patients, volumes_ml)
        groups = self._groups(patients, split, quality["groups"])
        recipes = {}
        for name, fields in defaults["recipes"].items():
            steps = math.ceil(quality["steps"].get(name, 0) * begin["steps"])
            if steps:
                every = max(25, math.ceil(steps / defaults["validations"]))
                recipes[name] = {**fields, "steps": steps, "validate_every": every}
                if len(split.held_out) + len(groups) > 2 and quality["groups"] and "distillation" in fields:
                    recipes[name]["distillation"] = {**fields["distillation"], **defaults["cross_fitted"]}
        measured = tuple(range(len(split.held_out)))
        students = self.students
        cells = [Cell("teacher", (self.teacher,), measured, (0,))]
        if self.baseline and students:
            cells.append(Cell("baseline", students, measured, (0,)))
        if students:
            cells.append(Cell("student", students, measured, (0,)))
        if self.baseline and self.any_student:
            cells.append(Cell("any-baseline", (self.teacher,), measured, (0,)))
        if self.any_student:
            cells.append(Cell("any-student", (self.teacher,), measured, (0,)))
        used = {cell.recipe for cell in cells}
        pairs = [("student", "baseline"), ("any-student", "any-baseline")]
        shipped = [
            Shipped(f"{cell.recipe}-{joined(sequences).replace('+', '-')}", cell.recipe, sequences)
            for cell in cells
            for sequences in cell.sequences
            if len(measured) > 1 and "baseline" not in cell.recipe
        ]
        held = {p.name: p.sequences for p in self._learnt_from(patients) if not p.has(Sequence)}
        return Study(
            title=self.name,
            folds=(*split.held_out, *groups),
            common=common,
            recipes={name: fields for name, fields in recipes.items() if name in used or name == "inner-teacher"},
            cells=tuple(cells),
            comparisons=tuple(pair for pair in pairs if set(pair) <= used),
            shipped=tuple(shipped),
            shifted=False,
            notes=(self._in_words(split),),
            teacher=self.teacher,
            held=held,
        )

    def _groups(self, patients: Patients, split: Split, wanted: int) -> list[tuple[str, ...]]:
        """Those that are learnt from, in as many groups as there are to be teachers that leave one out."""
        complete = [name for name in split.learnt_from if patients.named(name).has(self.teacher)]
        others = [name for name in split.learnt_from if name not in complete]
        count = max(1, wanted) if len(complete) >= FEW else 1
        dealt = [complete[start::count] + others[start::count] for start in range(count)]
        return [tuple(sorted(group)) for group in dealt if group]

    def _in_words(self, split: Split) -> str:
        if len(split.held_out) > 1:
            return f"Every patient was kept apart once, in {len(split.held_out)} groups; quality: {self.quality}."
        count = len(split.held_out[0])
        apart = "1 patient was" if count == 1 else f"{count} patients were"
        return f"{apart} kept apart to measure on, {len(split.learnt_from)} learnt from; quality: {self.quality}."

    def slurm_script(self, gpus: int = 1, nodes: int = 1, hours: int = 24, script: str = SLURM) -> str:
        """A batch script for a cluster, to lie in the training's folder beside its study and its patients.

        Args:
            gpus: Of each node.
            nodes: How many.
            hours: After which the cluster may end it; submitted again, it goes on.
            script: What the file is called.
        """
        return f"""#!/bin/bash
# Gliascope, training {self.name}. Submit it in its folder: sbatch {script}
# Ended early, it goes on where it was when it is submitted again.
#SBATCH --job-name=gliascope-{self.name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={4 * max(1, gpus)}
#SBATCH --time={hours}:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append

# Where Gliascope is installed on the cluster, and where the scans are if not where {PATIENTS} says.
GLIASCOPE=${{GLIASCOPE:-$HOME/gliascope}}

cd "$SLURM_SUBMIT_DIR"
# The signal before the end goes to this script alone, and from here to the training, which saves its state.
"$GLIASCOPE/.venv/bin/python" -m app train . --gpus {gpus} --nodes {nodes} &
training=$!
trap 'kill -TERM "$training"' TERM
wait "$training"
wait "$training"
"""

    def write_for_a_cluster(
        self,
        folder: Path,
        patients: Patients,
        volumes_ml: Mapping[str, float] | None = None,
        models: Iterable[ModelCard] | None = None,
        gpus: int = 1,
        nodes: int = 1,
        hours: int = 24,
        script: str = SLURM,
    ) -> Training:
        """Write the training's folder with a batch script in it, instead of training here.

        Each step learns from an example a GPU there.

        Args:
            folder: Must not hold anything yet.
            patients: Who takes part.
            volumes_ml: As for `split_of`.
            models: As for `study`.
            gpus: Of each node.
            nodes: How many.
            hours: After which the cluster may end it; submitted again, it goes on.
            script: What the batch script is called.

        Raises:
            UserError: The folder is taken or cannot be written to.
        """
        plan = replace(self, device="cuda")
        study = plan.study(patients, volumes_ml, models)
        study = replace(study, common={**study.common, "batch": gpus * nodes})
        made = Training.create(folder, study, patients, _named(self.start_from, models))
        with whole_file(folder / script) as partial:
            partial.write_text(plan.slurm_script(gpus, nodes, hours, script), encoding="utf-8", newline="\n")
        return made

    def places(self) -> Places:
        """Where its study will find and put things."""
        folder = self.folder / self.name
        return Places(folder / PATIENTS, folder / RUNS, models=folder / "start")


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
        wizard = cls(models)
        wizard.training, wizard.patients = training, training.patients
        done = training.standing().state is State.DONE
        wizard.page = Page.RESULT if done else Page.TRAIN
        return wizard

    @property
    def usable(self) -> Patients | None:
        """The patients a training can use: included, and without an error that was not decided on."""
        if self.patients is None or self.report is None:
            return None
        good = set(self.report.usable)
        return replace(self.patients, patients=tuple(p for p in self.patients.patients if p.name in good))

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Whole-tumour volume of those patients where the doctor could tell it."""
        found = () if self.report is None else self.report.patients
        return {one.name: one.facts.whole_tumour_ml for one in found if one.facts.whole_tumour_ml is not None}

    def why_not_next(self) -> str:
        """Why the next page cannot be reached yet, in a sentence; empty if it can."""
        if self.page is Page.PATIENTS:
            return self._why_not_plan()
        if self.page is Page.PLAN:
            usable = self.usable
            if self.training is not None:
                return ""
            if usable is None or self.plan is None:
                return "Choose patients first."
            return self.plan.why_not(usable, self.models)
        if self.page is Page.TRAIN:
            if self.training is None:
                return "No training was begun yet."
            standing = self.training.standing()
            if standing.state is not State.DONE and not self.training.scored():
                return "There are results once the first network is trained and measured."
            return ""
        return "This is the last page."

    def _why_not_plan(self) -> str:
        if self.patients is None:
            return "Choose a folder of patients first."
        if self.report is None:
            return "The patients are still being looked at."
        usable = self.usable
        assert usable is not None
        if not any(p.truth is not None for p in self.patients.patients):
            return "None of these patients has a ground truth to learn from. Add the masks, or choose another folder."
        count = sum(p.truth is not None for p in usable.patients)
        if not count:
            return "None of these patients can be used as things are. Look at what was found about them."
        if count == 1:
            return "One patient is too few: at least one to learn from and another to measure on are needed."
        return ""

    def next(self) -> Page:
        """Go on; from the plan this makes the training's folder and starts it, which takes some seconds.

        Raises:
            UserError: `why_not_next` has the same sentence, or the training cannot be made or started.
        """
        reason = self.why_not_next()
        if reason:
            raise UserError(reason)
        if self.page is Page.PATIENTS and self.plan is None and self.usable is not None:
            self.plan = Plan.suggested(self.usable, self.models)
        if self.page is Page.PLAN:
            self._begin()
        pages = list(Page)
        self.page = pages[pages.index(self.page) + 1]
        return self.page

    def _begin(self) -> None:
        if self.training is None:
            plan, usable = self.plan, self.usable
            assert plan is not None
            assert usable is not None
            study = plan.study(usable, self.volumes_ml, self.models)
            self.training = Training.create(
                plan.folder / plan.name, study, usable, _named(plan.start_from, self.models)
            )
        if not self.training.running() and self.training.standing().state is not State.DONE:
            self.training.start()

    def why_not_back(self) -> str:
        """Why the page before cannot be reached, in a sentence; empty if it can."""
        if self.page is Page.PATIENTS:
            return "This is the first page."
        if self.page is Page.TRAIN:
            return "What is being trained was planned when it began. Make another training to plan anew."
        return ""

    def back(self) -> Page:
        """Go back; what was decided stays.

        Raises:
            UserError: `why_not_back` has the same sentence.
        """
        reason = self.why_not_back()
        if reason:
            raise UserError(reason)
        pages = list(Page)
        self.page = pages[pages.index(self.page) - 1]
        return self.page


@cache
def _defaults() -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(DEFAULTS.read_text(encoding="utf-8"))
    except OSError as error:
        raise unwritten(DEFAULTS, error) from error
    return values


def _teacher_for(patients: Patients) -> tuple[Sequence, ...]:
    """The largest set of sequences that at least half of the patients with a truth have."""
    having = [p for p in patients.patients if p.included and p.truth is not None]
    wanted = tuple(Sequence)
    while len(wanted) > 1 and 2 * sum(p.has(wanted) for p in having) < max(1, len(having)):
        rarest = min(wanted, key=lambda s: sum(s in p.files for p in having))
        wanted = tuple(s for s in wanted if s is not rarest)
    return wanted


def _spread(ranked: list[Patient], count: int) -> tuple[str, ...]:
    """So many of the ranked patients, one at random from each of as many equal stretches; the same every time."""
    chance = np.random.default_rng(0)
    stretches = np.array_split(np.arange(len(ranked)), count)
    return tuple(sorted(ranked[int(chance.choice(stretch))].name for stretch in stretches))


def _named(name: str, models: Iterable[ModelCard] | None) -> ModelCard | None:
    if not name:
        return None
    known = registry.list_models().models if models is None else models
    card = next((card for card in known if card.name == name), None)
    if card is None:
        raise UserError(f"There is no model called {name} to begin with", "", "Choose another, or none.")
    return card


def _as_it_was(name: str, models: Iterable[ModelCard] | None) -> dict[str, Any]:
    """Fields of a config that must be those of the model one begins with."""
    card = _named(name, models)
    assert card is not None
    arguments = {key: value for key, value in card.architecture.args.items() if key != "inputs"}
    return {
        "start_from": f"{MODEL}{card.name}",
        "architecture": {"name": card.architecture.name, "args": arguments},
        "spacing_mm": card.spacing_mm,
        "window": list(card.window),
    }
