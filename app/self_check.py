"""Whether this installation works: the window opens, the models find the demo patient's tumour, training trains.

The window reads the demo patient, segments it and saves it as it would for a user, and what was saved is verified.
Then each model is tried by itself, and two steps of training are taken by the process that takes them all.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from engine import export, inference, metrics, nifti, provenance, registry, runtime, sequences
from engine.errors import BadModel, UserError
from engine.model_card import WEIGHTS, ModelCard, Role
from engine.nifti import Convention
from engine.progress import Progress
from engine.volume import LabelMap, Sequence, Subject

# What a working installation reaches on the simulated patient, far below what it should: this finds broken
# installations, not weak models.
TEACHER_DICE = 0.75
STUDENT_DICE = 0.4

TRAINING_STEPS = 2
# Enough for every layer of the network to have something to learn from, and quick on any machine.
TRAINING_WINDOW = (32, 32, 32)
AGAIN = "Install Gliascope again."


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


def run(
    demo: Path,
    progress: Progress,
    tell: Callable[[Check], None] = lambda check: None,
    window: bool = True,
    training: bool = True,
    on_screen: bool = False,
) -> list[Check]:
    """Check everything.

    Args:
        demo: Folder of a patient with a ground truth in Gliascope's labels.
        progress: Told of each check.
        tell: Told what came of each, as soon as it is known.
        window: Whether to try the window; a machine without Qt's system libraries can do without one.
        training: Whether to try that, which takes longest.
        on_screen: Whether the window may use the display.

    Raises:
        UserError: The demo patient cannot be read.
        Cancelled: Asked to stop.
    """
    checks: list[Check] = []

    def found(check: Check) -> None:
        checks.append(check)
        tell(check)

    if window:
        progress.update(0.0, "the window")
        _try_window(demo, on_screen, found)
    listing = registry.list_models()
    cards = [card for card in listing.models if card.role is not Role.BASELINE]
    for problem in listing.problems:
        found(Check("Model folder", False, str(problem)))
    if not cards:
        found(Check("Models", False, str(BadModel("There is no model to segment with", "", AGAIN))))
    files = sequences.find_subjects([demo])[0]
    if files.segmentation is None:
        raise UserError(f"{demo} holds no ground truth", "", AGAIN)
    subject = sequences.load(files, progress=progress.part(0.3, 0.35))
    truth = nifti.read_label_map(files.segmentation, Convention.GLIASCOPE)
    for number, card in enumerate(cards):
        start = 0.35 + 0.5 * number / len(cards)
        part = progress.part(start, start + 0.5 / len(cards))
        part.update(0.0, card.title)
        found(_try(card.title, lambda card=card, part=part: _segment(card, subject, truth, part)))  # type: ignore[misc]
    if not training:
        return checks
    title = f"{TRAINING_STEPS} steps of training"
    if find_spec("torch") is None and not getattr(sys, "frozen", False):
        found(Check("Training was not tried, as torch is not installed", True))
    else:
        found(_try(title, lambda: _train(title, files, progress.part(0.85, 1.0))))
    return checks


def _try_window(demo: Path, on_screen: bool, found: Callable[[Check], None]) -> None:
    """Do in the window what a user would, a check a step; the first that fails is the last."""
    titles = {
        "painted": "Window opened and painted",
        "read": "Demo patient read into the window",
        "segmented": "Segmented in the window",
        "saved": "Saved from the window",
    }
    began = time.monotonic()

    def reached(what: str) -> None:
        nonlocal began
        title = titles.pop(what)
        found(Check(title, True, seconds=time.monotonic() - began))
        began = time.monotonic()

    def failed(problem: str) -> None:
        found(Check(next(iter(titles.values())), False, problem, seconds=time.monotonic() - began))

    with tempfile.TemporaryDirectory(prefix="gliascope-self-test-") as folder:
        try:
            from app import application

            rendered = application.render_demo([demo], Path(folder), reached=reached, on_screen=on_screen)
        except ImportError as error:
            failed(
                f"The window cannot be opened: {error}. Install what is missing, or check the rest with --no-window."
            )
        except UserError as error:
            failed(str(error))
        else:
            found(_try("Verified what was saved", lambda: _verify(rendered.mask, demo)))


def _verify(mask: Path, scans: Path) -> Check:
    began = time.monotonic()
    report = provenance.verify(mask, scans)
    problem = "" if report.ok else report.sentence
    return Check("Verified what was saved", not problem, problem, seconds=time.monotonic() - began)


def _train(title: str, files: sequences.SubjectFiles, progress: Progress) -> Check:
    """Take a few steps in a process of its own, as every training does."""
    from trainer.config import TrainConfig
    from trainer.events import Failed, Finished, StepEnd, from_line
    from trainer.patients import Patient, Patients

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gliascope-self-test-") as folder:
        place = Path(folder)
        patient = Patient("demo", dict(files.files), files.segmentation, Convention.GLIASCOPE)
        Patients((patient,), place).write(place / "patients.json")
        config = TrainConfig(
            "self-test",
            "baseline",
            tuple(sequence for sequence in Sequence if sequence in files.files),
            str(place / "patients.json"),
            ("demo",),
            steps=TRAINING_STEPS,
            warm_up=1,
            window=TRAINING_WINDOW,
            validate_every=0,
            device="cpu",
        )
        (place / "config.json").write_text(config.to_json(), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.run", str(place / "config.json"), str(place / "run")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )
        out, err = _outcome(process, progress)
        events = [from_line(line) for line in out.splitlines() if line.startswith("{")]
        losses = [event.loss for event in events if isinstance(event, StepEnd)]
        steps = max((event.step for event in events if isinstance(event, Finished)), default=0)
        problem = next((event.message for event in events if isinstance(event, Failed)), "")
        if process.returncode and not problem:
            last = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), "it said nothing")
            problem = f"Training ended with code {process.returncode} ({last})."
        elif not problem and steps != TRAINING_STEPS:
            problem = f"Training took {steps} steps in place of {TRAINING_STEPS}."
        elif not problem and not (losses and all(map(math.isfinite, losses))):
            problem = "Training found no loss to learn from."
        elif not problem and not (place / "run" / WEIGHTS).is_file():
            problem = "Training ended and left no weights."
    return Check(title, not problem, problem, seconds=time.monotonic() - began)


def _outcome(process: subprocess.Popen[str], progress: Progress) -> tuple[str, str]:
    """What a process said until its end; it does not outlive a request to stop."""
    began = time.monotonic()
    try:
        while True:
            progress.update(min(0.9, (time.monotonic() - began) / 20), "two steps of training")
            with suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=0.2)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


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
