"""Whether this installation works: models intact, the demo patient's tumour found, the saved mask readable."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import export, inference, metrics, nifti, registry, runtime, sequences
from engine.errors import BadModel, UserError
from engine.model_card import ModelCard, Role
from engine.nifti import Convention
from engine.progress import Progress
from engine.volume import LabelMap, Subject

# What a working installation reaches on the simulated patient, far below what it should: this finds broken
# installations, not weak models.
TEACHER_DICE = 0.75
STUDENT_DICE = 0.4


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: In words.
        passed: Whether it is as it should be.
        problem: A sentence when it is not.
        whole_tumour: Dice on the demo patient, where one was measured.
        core: The same for the tumour core.
        seconds: It took.
    """

    what: str
    passed: bool
    problem: str = ""
    whole_tumour: float | None = None
    core: float | None = None
    seconds: float = 0.0


def run(demo: Path, progress: Progress) -> list[Check]:
    """Check everything.

    Args:
        demo: Folder of a patient with a ground truth in Gliascope's labels.
        progress: Told of each check.

    Raises:
        UserError: The demo patient cannot be read.
        Cancelled: Asked to stop.
    """
    listing = registry.list_models()
    cards = [card for card in listing.models if card.role is not Role.BASELINE]
    checks = [Check("Model folder", False, str(problem)) for problem in listing.problems]
    if not cards:
        problem = BadModel("There is no model to segment with", "", "Install Gliascope again.")
        checks.append(Check("Models", False, str(problem)))
    files = sequences.find_subjects([demo])[0]
    if files.segmentation is None:
        raise UserError(f"{demo} holds no ground truth", "", "Install Gliascope again.")
    subject = sequences.load(files, progress=progress.part(0.0, 0.1))
    truth = nifti.read_label_map(files.segmentation, Convention.GLIASCOPE)
    for number, card in enumerate(cards):
        start = 0.1 + 0.9 * number / len(cards)
        part = progress.part(start, start + 0.9 / len(cards))
        part.update(0.0, card.title)
        checks.append(_try(card.title, lambda card=card, part=part: _segment(card, subject, truth, part)))  # type: ignore[misc]
    return checks


def _try(what: str, check: Callable[[], Check]) -> Check:
    began = time.monotonic()
    try:
        return check()
    except UserError as error:
        return Check(what, False, str(error), seconds=time.monotonic() - began)


def _segment(card: ModelCard, subject: Subject, truth: LabelMap, progress: Progress) -> Check:
    began = time.monotonic()
    if not card.usable(subject):
        return Check(card.title, True, seconds=0.0)
    found = inference.segment(subject, card, progress, network=runtime.open_network(card, "auto"))
    with tempfile.TemporaryDirectory(prefix="gliascope-self-test-") as folder:
        saved = export.save(found, subject, Path(folder))
        again = nifti.read_label_map(saved.mask, Convention.GLIASCOPE)
    scores = metrics.score(found.label_map, truth)
    whole, core = scores["whole_tumour"].dice, scores["tumour_core"].dice
    limit = TEACHER_DICE if card.role is Role.TEACHER else STUDENT_DICE
    problem = ""
    if not (np.array_equal(again.data, found.label_map.data) and again.grid.same_as(found.label_map.grid)):
        problem = f"The mask of the {card.title} reads back different from what was saved."
    elif whole < limit:
        expected = f"Dice {whole:.2f}, at least {limit:.2f} expected"
        problem = f"The {card.title} does not find the demo patient's tumour ({expected})."
    return Check(card.title, not problem, problem, whole, core, time.monotonic() - began)
