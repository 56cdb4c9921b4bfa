"""The folder of a training as its process would have left it, written by hand: small, and the same every time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from engine.volume import Sequence
from tests.engine import phantoms
from trainer.events import Event, Finished, Previewed, Started, StepEnd, Validated
from trainer.patients import Patient, Patients
from trainer.training import EVENTS, PATIENTS, RUNS, STUDY, Command, Training

NAMES = ("anna", "boris", "carla", "dora")
ALL = [str(sequence) for sequence in Sequence]
STEPS = 400
EVERY = 100
TEACHER, BASELINE, STUDENT = (f"{name}-without0-seed0" for name in ("teacher-all", "baseline-t1", "student-t1"))
# How well each does in the end, whole tumour and core.
REACHED = {TEACHER: (0.9, 0.8), BASELINE: (0.6, 0.4), STUDENT: (0.7, 0.5)}


def write(
    folder: Path,
    done: dict[str, int],
    students: tuple[tuple[str, ...], ...] = (("t1",),),
    folds: tuple[int, ...] = (0,),
) -> Path:
    """Write a training of four patients, two of them held out.

    Args:
        folder: Made.
        done: Steps taken, by run; a run that is not named has not begun.
        students: What each student and its baseline see.
        folds: Which folds are held out in turn.
    """
    folder.mkdir(parents=True)
    study = {
        "title": "By hand",
        "folds": [list(NAMES[:2]), list(NAMES[2:])],
        "common": {"steps": STEPS, "validate_every": EVERY, "device": "cpu", "window": [32, 32, 32]},
        "recipes": {
            "teacher": {"role": "teacher"},
            "baseline": {"role": "baseline"},
            "student": {"role": "student", "distillation": {"teacher": "teacher", "weight": 0.1}},
        },
        "cells": [
            {"recipe": "teacher", "sequences": [ALL], "folds": list(folds)},
            {"recipe": "baseline", "sequences": [list(one) for one in students], "folds": list(folds)},
            {"recipe": "student", "sequences": [list(one) for one in students], "folds": list(folds)},
        ],
        "comparisons": [["student", "baseline"]],
        "shifted": False,
    }
    (folder / STUDY).write_text(json.dumps(study), encoding="utf-8")
    Patients(tuple(_patient(folder, name) for name in NAMES), folder).write(folder / PATIENTS)
    for name, steps in done.items():
        learn(folder, name, 0, steps)
    return folder


def learn(folder: Path, run: str, first: int, last: int) -> None:
    """Let a run take the steps from ``first`` to ``last``: events, and a look at two patients at each validation."""
    tell(folder, run, Started(run, "cpu", STEPS, first, 4_200_000))
    taught = run.startswith("student")
    best = 0.0
    for step in range(first + 25, last + 1, 25):
        hard = 0.2 + 0.6 * np.exp(-step / 100)
        terms = {"hard": hard, "logits": 0.5} if taught else {"hard": hard}
        tell(folder, run, StepEnd(step, sum(terms.values()), terms, 1e-3, 0.5, 0.5 * (STEPS - step), 2.0, 900.0))
        if step % EVERY:
            continue
        share = min(1.0, step / 300)
        # The last of all is worse than the one before: the best is not always the newest.
        dice = [reached * share - (0.1 if step == STEPS else 0) for reached in REACHED.get(run, (0.5, 0.5))]
        mean = sum(dice) / 2
        tell(
            folder, run, Validated(step, dict(zip(("whole_tumour", "tumour_core"), dice, strict=True)), 2, mean > best)
        )
        best = max(best, mean)
        tell(folder, run, Previewed(step, str(_preview(folder, run, step))))
    if last == STEPS:
        (folder / RUNS / run).mkdir(parents=True, exist_ok=True)
        (folder / RUNS / run / "weights.safetensors").write_bytes(b"")
        tell(folder, run, Finished(STEPS, "weights.safetensors", "last", STEPS))


def tell(folder: Path, run: str, event: Event, time: float = 1.0) -> None:
    """Append an event."""
    line = {"run": run, "time": time, "event": type(event).__name__, **asdict(event)}
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class UnderWay(Training):
    """A training that believes that somebody works on it, and notes what it is asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []
        self.working = True

    def running(self) -> bool:
        return self.working

    def ask(self, command: Command | str) -> None:
        self.asked.append(str(command))

    def start(self) -> None:
        self.asked.append("start")
        self.working = True


def _preview(folder: Path, run: str, step: int) -> Path:
    """Two phantoms and what is found of their tumour: ever more of it, from the feet upwards."""
    place = folder / RUNS / run / "previews"
    place.mkdir(parents=True, exist_ok=True)
    grid = phantoms.grid("RAS")
    truth = np.stack([phantoms.tumour(grid).data] * 2)
    if not (place / "cases.npz").exists():
        images = np.stack([phantoms.head(grid, sequence).data for sequence in Sequence])
        inside = images != 0
        images = np.where(inside, (images - images[inside].mean()) / images[inside].std(), 0).astype(np.float16)
        np.savez_compressed(
            place / "cases.npz",
            names=np.array(NAMES[:2]),
            sequences=np.array(ALL),
            images=np.stack([images] * 2),
            truth=truth,
            spacing_mm=np.array(1.0),
        )
    labels = truth.copy()
    labels[..., round(truth.shape[-1] * min(1.0, step / STEPS)) :] = 0
    path = place / f"{step:06d}.npz"
    np.savez_compressed(path, labels=labels, dice=np.zeros((2, 2)))
    return path


def _patient(folder: Path, name: str) -> Patient:
    files = {sequence: folder / name / f"{name}_{sequence}.nii.gz" for sequence in Sequence}
    return Patient(name, files, folder / name / f"{name}_seg.nii.gz")
