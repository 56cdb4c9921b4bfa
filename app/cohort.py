"""How well a model does on a cohort with ground truth: each case by itself, then mean, spread and median."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine import inference, metrics, nifti, sequences
from engine.errors import UserError
from engine.flow import Models
from engine.metrics import RegionScore
from engine.model_card import REGIONS
from engine.nifti import Convention
from engine.progress import Progress
from engine.sequences import SubjectFiles
from engine.volume import Sequence, joined


@dataclass(frozen=True)
class CaseScore:
    """One patient.

    Attributes:
        name: Of the patient.
        model: Name of the model that was used.
        used: The sequences it looked at.
        scores: By region.
        learnt_from: Whether the model was trained on a patient of this name.
        seconds: The segmentation took.
    """

    name: str
    model: str
    used: tuple[Sequence, ...]
    scores: Mapping[str, RegionScore]
    learnt_from: bool
    seconds: float


@dataclass(frozen=True)
class FailedCase:
    """A patient that could not be scored, and why."""

    name: str
    error: UserError


@dataclass(frozen=True)
class CohortScores:
    """All patients of a cohort.

    Attributes:
        cases: Those that were scored, in the order they were found.
        failed: Those that were not.
    """

    cases: tuple[CaseScore, ...]
    failed: tuple[FailedCase, ...]

    @property
    def learnt_from(self) -> tuple[str, ...]:
        """Patients the model had been trained on; their scores say nothing about new ones."""
        return tuple(case.name for case in self.cases if case.learnt_from)

    def summary(self) -> dict[str, dict[str, float]]:
        """By region: mean, standard deviation (of the sample; 0 for one case) and median of Dice and HD95."""
        table = {}
        for region in REGIONS:
            dice = [case.scores[region].dice for case in self.cases]
            hd95 = [case.scores[region].hd95_mm for case in self.cases]
            table[region] = {**_spread("dice", dice), **_spread("hd95_mm", hd95)}
        return table

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`."""
        return {
            "cases": [
                {
                    "name": case.name,
                    "model": case.model,
                    "sequences": list(case.used),
                    "learnt_from": case.learnt_from,
                    "seconds": round(case.seconds, 3),
                    "regions": {region: vars(score) for region, score in case.scores.items()},
                }
                for case in self.cases
            ],
            "failed": [{"name": case.name, "error": str(case.error)} for case in self.failed],
            "summary": self.summary() if self.cases else {},
            "learnt_from": list(self.learnt_from),
        }

    def to_csv(self) -> str:
        """One line a patient and region, for a spreadsheet or statistics program."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        numbers = ["dice", "hd95_mm", "volume_ml", "truth_ml"]
        writer.writerow(["case", "model", "sequences", "region", *numbers, "learnt_from"])
        for case in self.cases:
            for region, score in case.scores.items():
                row = [f"{getattr(score, number):.6g}" for number in numbers]
                learnt = "yes" if case.learnt_from else "no"
                writer.writerow([case.name, case.model, joined(case.used), region, *row, learnt])
        return text.getvalue()


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {
        f"{name}_mean": statistics.fmean(values),
        f"{name}_sd": statistics.stdev(values) if len(values) > 1 else 0.0,
        f"{name}_median": statistics.median(values),
    }


def evaluate(
    cases: Iterable[SubjectFiles],
    models: Models,
    only: tuple[Sequence, ...] | None,
    convention: Convention | None,
    progress: Progress,
) -> CohortScores:
    """Segment every case as a new patient and compare with its truth.

    Args:
        cases: With a ground truth each.
        models: Chooses the model, by the sequences the patient is allowed to have.
        only: Sequences to pretend are all there is; None takes what each patient has.
        convention: What the truth's labels mean; None tells it from all files together.
        progress: Told of each case and each window in it.

    Raises:
        UserError: The convention cannot be told.
        Cancelled: Asked to stop.
    """
    waiting = list(cases)
    truths = [case.segmentation for case in waiting if case.segmentation is not None]
    meaning = convention or nifti.find_convention(truths)
    done: list[CaseScore] = []
    failed: list[FailedCase] = []
    for number, case in enumerate(waiting):
        part = progress.part(number / len(waiting), (number + 1) / len(waiting))
        try:
            done.append(_score(case, models, only, meaning, part))
        except UserError as error:
            failed.append(FailedCase(case.name, error))
    return CohortScores(tuple(done), tuple(failed))


def _score(
    case: SubjectFiles, models: Models, only: tuple[Sequence, ...] | None, meaning: Convention, progress: Progress
) -> CaseScore:
    lacking = [sequence for sequence in only or () if sequence not in case.files]
    if lacking:
        raise UserError(f"{case.name} has no {lacking[0].title}", "", "Leave the patient or the sequence out.")
    choice = models.choose(only or tuple(case.files))
    card = choice.card
    # Only what the model sees is read: nothing of the other sequences can leak, and their faults do not matter.
    own = {sequence: case.files[sequence] for sequence in choice.used}
    subject = sequences.load(replace(case, files=own), progress=progress.part(0.0, 0.2))
    network = models.network(card)
    found = inference.segment(subject, card, progress.part(0.2, 1.0), network=network, use=choice.used)
    assert case.segmentation is not None
    scores = metrics.score(found.label_map, nifti.read_label_map(case.segmentation, meaning))
    learnt_from = case.name in card.learnt_from
    return CaseScore(case.name, card.name, choice.used, scores, learnt_from, found.seconds)
