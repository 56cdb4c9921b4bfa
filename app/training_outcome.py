"""What a training amounts to, in rows and sentences: what the Result page shows. No Qt, no torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import nifti
from engine.errors import UserError
from engine.model_card import REGIONS, TUMOUR_CORE, WHOLE_TUMOUR, Role
from engine.progress import Progress
from engine.volume import LabelMap, Sequence
from trainer.comparison import REAL, Comparison, PatientScore, Summary
from trainer.study import mask_path
from trainer.training import Results, Training

REGION_TITLES = {WHOLE_TUMOUR: "Whole tumour", TUMOUR_CORE: "Core"}
WORST = 3
# Below this a difference is taken for one; see `trainer.comparison` for the test.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Line:
    """One network of the table.

    Attributes:
        recipe: As the study calls it.
        role: Teacher, baseline or student.
        sequences: What it read: ``"t1+flair"``.
        title: What it is called: ``"Student, T1"``.
        by_region: How it did.
    """

    recipe: str
    role: Role
    sequences: str
    title: str
    by_region: dict[str, Summary]


@dataclass(frozen=True)
class Patient:
    """How one network did on one patient.

    Attributes:
        name: Of the patient.
        dice: By region, 0..1.
        hd95_mm: By region.
        threshold: Probability from which a voxel belongs to a region.
    """

    name: str
    dice: dict[str, float]
    hd95_mm: dict[str, float]
    threshold: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean Dice of both regions."""
        return statistics.fmean(self.dice.values())


@dataclass(frozen=True)
class Outcome:
    """Everything the page shows of the results.

    Attributes:
        lines: Teacher first, then each set of sequences with baseline and student.
        patients: Of each line's ``(recipe, sequences)``, those it was scored on.
        comparisons: Student against baseline.
        pending: How many runs are not measured yet.
        installable: Runs that can be installed, by name, and what they are called.
    """

    lines: tuple[Line, ...]
    patients: dict[tuple[str, str], tuple[Patient, ...]]
    comparisons: tuple[Comparison, ...]
    pending: int
    installable: dict[str, str]

    def worst(self, line: Line) -> tuple[Patient, ...]:
        """Its worst patients, the worst first."""
        return tuple(sorted(self.patients[line.recipe, line.sequences], key=lambda patient: patient.mean)[:WORST])

    def together(self, sequences: str) -> tuple[Line, ...]:
        """What is looked at side by side: the teachers, and those that read these sequences."""
        return tuple(line for line in self.lines if line.role is Role.TEACHER or line.sequences == sequences)

    @property
    def sets(self) -> tuple[str, ...]:
        """Sets of sequences of students and baselines."""
        found = tuple(dict.fromkeys(line.sequences for line in self.lines if line.role is not Role.TEACHER))
        return found or tuple(dict.fromkeys(line.sequences for line in self.lines))

    def compared(self, sequences: str) -> tuple[Comparison, ...]:
        """The comparisons with these sequences, whole tumour first."""
        own = [one for one in self.comparisons if one.sequences == sequences and one.cohort == REAL]
        return tuple(sorted(own, key=lambda one: REGIONS.index(one.region)))


def look_at_results(training: Training, progress: Progress) -> Outcome:
    """Read what is known of a training's results.

    Raises:
        UserError: A file of scores is damaged.
    """
    progress.check()
    results = training.results()
    progress.check()
    installable = training.installable()
    of_run = {run.config.name: run for run in training.planned}
    names = {}
    for name in installable:
        config = of_run[name].config
        several = config.sequence_dropout > 0
        names[name] = title_of(Role(config.role), "+".join(config.sequences), several)
    return outcome_of(training, results, names)


def outcome_of(training: Training, results: Results, installable: dict[str, str]) -> Outcome:
    """Put results in the order in which they are shown."""
    roles = {run.recipe: Role(run.config.role) for run in training.planned}
    any_subset = {run.recipe for run in training.planned if run.config.sequence_dropout > 0}
    summaries: dict[tuple[str, str], dict[str, Summary]] = {}
    for one in results.summaries:
        if one.cohort == REAL and one.recipe in roles:
            summaries.setdefault((one.recipe, one.sequences), {})[one.region] = one
    lines = [
        Line(recipe, roles[recipe], sequences, title_of(roles[recipe], sequences, recipe in any_subset), by_region)
        for (recipe, sequences), by_region in summaries.items()
        if set(by_region) == set(REGIONS)
    ]
    order = {Role.TEACHER: 0, Role.BASELINE: 1, Role.STUDENT: 2}
    lines.sort(key=lambda line: (line.role is not Role.TEACHER, _place(line.sequences), order[line.role], line.recipe))
    return Outcome(
        tuple(lines), _patients(results.scores), results.comparisons, len(results.pending), installable
    )  # fmt: skip


def title_of(role: Role, sequences: str, any_subset: bool = False) -> str:
    """What a network is called: ``"Student, T1+FLAIR"``."""
    named = [Sequence(name) for name in sequences.split("+")]
    what = "four sequences" if len(named) == len(Sequence) else "+".join(s.title for s in named)
    given = f"any sequences, given {what}" if any_subset else what
    return f"{role.value.capitalize()}, {given}"


def headline(outcome: Outcome, sequences: str) -> tuple[str, str]:
    """What these networks show, in a few words, and on whom that was measured."""
    lines = [line for line in outcome.together(sequences) if line.role is Role.STUDENT] or list(outcome.lines)
    if not lines:
        return "Nothing is measured yet", "The networks are measured when they are trained."
    line = lines[0]
    whole, core = (line.by_region[region] for region in REGIONS)
    count = "one patient" if whole.patients == 1 else f"{whole.patients} patients"
    where = f"{line.title} on {count} it had not learnt from"
    found = f"Dice {whole.dice_mean:.2f} for whole tumour and {core.dice_mean:.2f} for the core"
    compared = outcome.compared(sequences)
    if not compared:
        return f"{line.title}: {found}", f"Measured on {count} it had not learnt from."
    better = [one for one in compared if _sure(one) and one.points > 0]
    worse = [one for one in compared if _sure(one) and one.points < 0]
    parts = " and ".join(REGION_TITLES[one.region].lower() for one in better or worse)
    if better:
        return f"The student finds {parts} better than its baseline", f"{where}: {found}."
    if worse:
        return f"The student finds {parts} worse than its baseline", f"{where}: {found}."
    shown = f"No difference from the baseline that {count} can show"
    return shown, f"{where}: {found}."


def comparison_in_words(one: Comparison) -> str:
    """``"Whole tumour: 3.1 points better than the baseline (-0.2 to 6.0), 6 of 8 patients better, p = 0.06"``."""
    # Rounded first: "0.0 points worse" is nobody's finding.
    points = round(one.points, 1)
    how = f"{abs(points):.1f} points {'better' if points > 0 else 'worse'} than" if points else "the same as"
    words = f"{REGION_TITLES[one.region]}: {how} the {one.reference}"
    if one.points_low is not None and one.points_high is not None:
        words += f" (95 % from {one.points_low:+.1f} to {one.points_high:+.1f})"
    p = one.p_holm if one.p_holm is not None else one.p
    words += f", {one.better} of {one.patients} patients better"
    return words + (", p < 0.001" if p < 0.001 else f", p = {p:.2g}" if p < 0.1 else f", p = {p:.2f}")


def mask_of(training: Training, line: Line, patient: Patient, progress: Progress) -> Path | None:
    """What a network made of a patient, at its thresholds, as a file; made from what its scoring kept.

    Returns:
        The mask; ``None`` where none was kept, as by an earlier version.

    Raises:
        UserError: It cannot be read or written.
    """
    for run in training.planned:
        config = run.config
        own = run.recipe == line.recipe and patient.name in config.validation_cases and run.scored
        if not own or "+".join(config.sequences) != line.sequences:
            continue
        folder = training.places.runs / config.name
        paths = {region: mask_path(folder, patient.name, patient.threshold[region]) for region in REGIONS}
        if not all(path.exists() for path in paths.values()):
            continue
        progress.check()
        whole = nifti.read_label_map(paths[WHOLE_TUMOUR], nifti.Convention.GLIASCOPE)
        core = nifti.read_label_map(paths[TUMOUR_CORE], nifti.Convention.GLIASCOPE)
        labels = LabelMap.of_regions(whole.whole_tumour, np.asarray(core.tumour_core), whole.grid)
        path = folder / "looks" / f"{patient.name}.nii.gz"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError("The mask cannot be put together", str(error), "Check the training's folder.") from error
        nifti.write_label_map(labels, path)
        return path
    return None


def _patients(scores: Iterable[PatientScore]) -> dict[tuple[str, str], tuple[Patient, ...]]:
    found: dict[tuple[str, str], dict[str, dict[str, PatientScore]]] = {}
    for score in scores:
        if score.cohort == REAL:
            of_line = found.setdefault((score.recipe, score.sequences), {})
            of_line.setdefault(score.case, {})[score.region] = score
    return {
        line: tuple(
            Patient(
                name,
                {region: own[region].dice for region in REGIONS},
                {region: own[region].hd95_mm for region in REGIONS},
                {region: own[region].threshold for region in REGIONS},
            )
            for name, own in sorted(of_line.items())
            if set(own) == set(REGIONS)
        )
        for line, of_line in found.items()
    }


def _sure(one: Comparison) -> bool:
    p = one.p_holm if one.p_holm is not None else one.p
    return p < SIGNIFICANT


def _place(sequences: str) -> tuple[int, tuple[int, ...]]:
    order = list(Sequence)
    named = tuple(order.index(Sequence(name)) for name in sequences.split("+"))
    return len(named), named
