"""Kill a training again and again, and see what is lost: ``python -m scripts.kill_training --out PAGE``.

Small made-up patients, a teacher and a student, trained as the window does it: `trainer.training` supervises one worker
process after the other. At random moments the worker, its supervisor, or both are killed (SIGKILL), or the disk, a
small file system in memory, is filled until a checkpoint fails, and both are killed then. Each time the training is
begun again. In the end its weights and curves are compared with those of the same training that nobody disturbed.

Needs Linux and the right to mount a file system.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from engine import nifti
from engine.errors import UserError
from engine.volume import Grid, LabelMap, Sequence, Volume
from trainer import checkpoint
from trainer.events import Acknowledged, Command, FellBack, Paused, Preparing, Saved, Started, StepEnd, Validated
from trainer.patients import Patients
from trainer.study import Study
from trainer.training import Heard, Standing, State, Training

KINDS = ("worker", "supervisor", "both", "full disk")
ROOM = "160m"
LEFT_ON_FULL_DISK = 64 * 1024
# A life ends after so many events at most, and a moment more.
LONGEST_LIFE = 24
NAMES = ("anna", "boris", "carla", "dora")


@dataclass
class Tally:
    """What happened to one kind of kill."""

    kills: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    steps_again: list[int] = field(default_factory=list)
    failed_checkpoints: int = 0


@dataclass
class Found:
    """What was found in all."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {kind: Tally() for kind in KINDS})
    problems: list[str] = field(default_factory=list)
    weights: float = 0.0
    loss: float = 0.0
    dice: float = 0.0
    rounds: int = 0
    acknowledged: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)


def main() -> None:
    """Kill as often as asked, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    found = Found()
    began = time.monotonic()
    with small_disk() as disk:
        make_cohort(disk / "cohort")
        while sum(tally.kills for tally in found.tallies.values()) < arguments.kills:
            one_round(disk, found, chance, arguments.kills)
    text = table(found, time.monotonic() - began, arguments.seed)
    sys.stdout.write(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    if found.problems:
        raise SystemExit(1)


def one_round(disk: Path, found: Found, chance: random.Random, kills: int) -> None:
    """One training that is killed until it is done, and its undisturbed twin."""
    found.rounds += 1
    seed = chance.randrange(1000)
    training = make_training(disk / f"killed-{found.rounds}", disk / "cohort", seed)
    training.start()
    measure_commands(training, found, chance)
    while not is_done(training):
        tally = sum(one.kills for one in found.tallies.values())
        if tally >= kills:
            wait(training)
            if not training.running() and not is_done(training):
                training.start()
            continue
        # The rarer kinds first, so that all are seen equally often.
        kind = min(KINDS, key=lambda name: (found.tallies[name].kills, chance.random()))
        kill(training, kind, found, chance)
        sys.stderr.write(", ".join(f"{name} {one.kills}" for name, one in found.tallies.items()) + "\n")
    twin = make_training(disk / f"undisturbed-{found.rounds}", disk / "cohort", seed)
    twin.start()
    wait(twin)
    compare(training, twin, found)
    for one in (training, twin):
        subprocess.run(["rm", "-r", str(one.folder)], check=True)


def kill(training: Training, kind: str, found: Found, chance: random.Random) -> None:
    """Let it live for a moment, kill it, look at what is left, and begin it again."""
    before = training.events()[1]
    events = chance.randrange(LONGEST_LIFE)
    while len(training.events(before)[0]) < events and training.running():
        time.sleep(0.05)
    time.sleep(chance.uniform(0.0, 1.0))
    ballast = training.folder.parent / "ballast"
    if kind == "full disk":
        started = wait_for(training, before, Saved, 60)
        before = training.events()[1]
        fill(ballast)
        if not started or not wait_for(training, before, FellBack, 30):
            ballast.unlink()
            return
    supervisor, worker = processes(training)
    if supervisor is None or (worker is None and kind == "worker"):
        ballast.unlink(missing_ok=True)
        if not training.running() and not is_done(training):
            training.start()
        return
    tally = found.tallies[kind]
    heard, _ = training.events()
    tally.kills += 1
    tally.moments[moment(heard)] += 1
    for process in (worker, supervisor):
        if process is not None and (
            kind in ("both", "full disk") or process is {"worker": worker}.get(kind, supervisor)
        ):
            process.kill()
    if kind == "full disk":
        tally.failed_checkpoints += sum(isinstance(one.event, FellBack) for one in training.events(before)[0])
    ballast.unlink(missing_ok=True)
    if kind != "supervisor":  # whose worker may still be saving when the next one begins
        wait_until_gone(training)
    else:
        supervisor.wait()
    heard, after = training.events()
    look(training, heard, found)
    last = {one.run: one.event.step for one in heard if isinstance(one.event, (Saved, StepEnd))}
    saved = {one.run: one.event.step for one in heard if isinstance(one.event, Saved)}
    if is_done(training):
        tally.resumes += 1
        return
    training.start()
    tally.resumes += 1
    wait_for(training, after, Started, 60)
    for one in training.events(after)[0]:
        if isinstance(one.event, Started) and one.run in saved:
            if one.event.first_step < saved[one.run]:
                found.problems.append(f"{one.run} went on from {one.event.first_step}, saved at {saved[one.run]}")
            tally.steps_again.append(max(0, last[one.run] - one.event.first_step))
            break


def look(training: Training, heard: list[Heard], found: Found) -> None:
    """Whether states and best weights are whole, and no worse than what was told."""
    best: dict[str, float] = {}
    for one in heard:
        if isinstance(one.event, Validated) and one.event.best:
            best[one.run] = max(best.get(one.run, 0.0), sum(one.event.dice.values()) / len(one.event.dice))
    for run, score in best.items():
        folder = training.places.runs / run
        try:
            kept = checkpoint.load_best(folder)[1]
        except UserError as error:
            found.problems.append(f"best weights of {run}: {error}")
            continue
        if kept.score() < score - 1e-9:
            found.problems.append(f"best weights of {run} score {kept.score()}, told were {score}")


def measure_commands(training: Training, found: Found, chance: random.Random) -> None:
    """Pause and resume while it trains, and see how long that takes."""
    wait_for(training, 0, StepEnd, 120)
    for _ in range(5):
        time.sleep(chance.uniform(0.1, 0.6))
        after = training.events()[1]
        asked = time.time()
        training.ask(Command.PAUSE)
        if not wait_for(training, after, Paused, 30):
            return
        for one in training.events(after)[0]:
            if isinstance(one.event, Acknowledged):
                found.acknowledged.append(one.time - asked)
            elif isinstance(one.event, Paused):
                found.done.append(one.time - asked)
        after = training.events()[1]
        asked = time.time()
        training.ask(Command.RESUME)
        wait_for(training, after, Acknowledged, 30)
        found.acknowledged += [
            one.time - asked for one in training.events(after)[0] if isinstance(one.event, Acknowledged)
        ]


def compare(training: Training, twin: Training, found: Found) -> None:
    """Weights, curves and best of a killed training and its twin."""
    for planned in training.planned:
        run = planned.config.name
        one, other = (checkpoint.load_network(each.places.runs / run)[0].state_dict() for each in (training, twin))
        found.weights = max(found.weights, *(float((one[name] - other[name]).abs().max()) for name in one))
        first, second = curve(training, run), curve(twin, run)
        if first.keys() != second.keys():
            found.problems.append(f"the curve of {run} has other steps: {sorted(first.keys() ^ second.keys())[:5]}")
        for at in first.keys() & second.keys():
            difference = max(abs(a - b) for a, b in zip(first[at], second[at], strict=True))
            if at[0] == "loss":
                found.loss = max(found.loss, difference)
            else:
                found.dice = max(found.dice, difference)
        kept = [checkpoint.load_best(each.places.runs / run)[1] for each in (training, twin)]
        if kept[0].step != kept[1].step:
            found.problems.append(f"the best of {run} is from step {kept[0].step} instead of {kept[1].step}")


def curve(training: Training, run: str) -> dict[tuple[str, int], list[float]]:
    """What a plot shows: of what was told twice, the later."""
    shown = {}
    for one in training.events()[0]:
        if one.run == run and isinstance(one.event, StepEnd):
            shown["loss", one.event.step] = [one.event.loss]
        elif one.run == run and isinstance(one.event, Validated):
            shown["dice", one.event.step] = list(one.event.dice.values())
    return shown


def moment(heard: list[Heard]) -> str:
    """What the training was about when it was killed, from its last words."""
    last = next((one.event for one in reversed(heard) if one.run), None)
    if last is None:
        return "starting"
    if isinstance(last, Preparing):
        return "reading or scoring"
    return (
        "training"
        if isinstance(last, (Started, StepEnd, Saved, Validated, FellBack))
        else "just scored or between runs"
    )


def is_done(training: Training) -> bool:
    """Whether everything is trained and scored."""
    standing: Standing = training.standing()
    return standing.state is State.DONE


def wait(training: Training) -> None:
    """Until nobody works on it any more."""
    while training.running():
        time.sleep(0.2)


def wait_for(training: Training, after: int, kind: type, seconds: float) -> bool:
    """Until it says something of a kind; false if it ends or the time is over before."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if any(isinstance(one.event, kind) for one in training.events(after)[0]):
            return True
        if not training.running():
            return False
        time.sleep(0.02)
    return False


def processes(training: Training) -> tuple[psutil.Process | None, psutil.Process | None]:
    """Supervisor and worker of a training, of nobody else's."""
    for process in psutil.Process().children():
        if process.status() != psutil.STATUS_ZOMBIE and process.cmdline()[-1:] == [str(training.folder)]:
            return process, next(iter(process.children()), None)
    return None, None


def wait_until_gone(training: Training) -> None:
    """A worker that was killed is gone once its supervisor has taken note, or is gone too."""
    while training.running():
        time.sleep(0.05)


def fill(ballast: Path) -> None:
    """Leave next to nothing of the disk, whatever the training is writing meanwhile."""
    block = b"\0" * LEFT_ON_FULL_DISK
    with ballast.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(block)
        file.truncate(max(0, file.tell() - LEFT_ON_FULL_DISK))


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system in memory with little room."""
    folder = Path(tempfile.mkdtemp(prefix="gliascope-kill-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "gliascope-kill", str(folder)], check=True)
    try:
        yield folder
    finally:
        for process in psutil.Process().children(recursive=True):
            process.kill()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def make_cohort(folder: Path) -> None:
    """Heads of 96 x 96 x 96 mm with a tumour each, in all four sequences."""
    shape = (32, 32, 32)
    grid = Grid(shape, np.diag([3.0, 3.0, 3.0, 1.0]))
    place = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    for number, name in enumerate(NAMES):
        chance = np.random.default_rng(number)
        brain = sum(((place[axis] - n / 2) / (0.45 * n)) ** 2 for axis, n in enumerate(shape)) < 1
        centre = np.array(shape) / 2 + chance.uniform(-6, 6, 3)
        distance = np.sqrt(sum((place[axis] - centre[axis]) ** 2 for axis in range(3)))
        labels = np.where(distance < 3, 4, np.where(distance < 6, 2, 0)).astype(np.uint8) * brain
        (folder / name).mkdir(parents=True)
        for sequence, (rest, core) in zip(Sequence, ((80, 70), (90, 200), (220, 180), (240, 160)), strict=True):
            signal = np.where(labels == 4, core, np.where(labels == 2, rest, 120)) + chance.normal(0, 8, shape)
            volume = Volume((signal * brain).astype(np.float32), grid, sequence)
            nifti.write_volume(volume, folder / name / f"{name}_{sequence}.nii.gz")
        nifti.write_label_map(LabelMap(labels.astype(np.uint8), grid), folder / name / f"{name}_seg.nii.gz")


def make_training(folder: Path, cohort: Path, seed: int) -> Training:
    """A teacher and its T1 student, which are as small as they can be and checkpoint all the time."""
    path = folder.with_suffix(".json")
    network = {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1], "dropout": 0.1}}
    common = {"architecture": network, "spacing_mm": 3.0, "window": [32, 32, 32], "steps": 1500, "warm_up": 20}
    common |= {"learning_rate": 0.01, "average": 0.9, "threads": 1, "device": "cpu", "validate_every": 60}
    common |= {"checkpoint_seconds": 1.0}
    study = {
        "title": "Killed",
        "folds": [[NAMES[0]], list(NAMES[1:])],
        "common": common,
        "recipes": {
            "teacher": {"role": "teacher"},
            "student": {"role": "student", "distillation": {"teacher": "teacher", "weight": 0.1}},
        },
        "cells": [{"recipe": "student", "sequences": [["t1"]], "folds": [0], "seeds": [seed]}],
        "shifted": False,
    }
    path.write_text(json.dumps(study), encoding="utf-8")
    training = Training.create(folder, Study.read(path), Patients.read(cohort))
    path.unlink()
    return training


def table(found: Found, seconds: float, seed: int) -> str:
    """The page."""
    total = sum(tally.kills for tally in found.tallies.values())
    resumes = sum(tally.resumes for tally in found.tallies.values())
    lines = [
        "# A training that is killed",
        "",
        f"`python -m scripts.kill_training --kills {total} --seed {seed}`: small made-up patients, a teacher and a",
        f"student, supervised by `trainer.training` as in the window. {total} kills at random moments and {resumes}",
        f"resumes over {found.rounds} trainings took {seconds / 60:.0f} min on {os.cpu_count()} cores, shared with",
        f"other work (load {os.getloadavg()[2]:.1f}). Python {platform.python_version()}, torch {version('torch')}.",
        "",
        "| killed | kills | resumes | while | steps taken again, median (most) | checkpoints that failed |",
        "|---|---|---|---|---|---|",
    ]
    for kind, tally in found.tallies.items():
        moments = ", ".join(f"{name} {count}" for name, count in tally.moments.most_common())
        again = f"{statistics.median(tally.steps_again):.0f} ({max(tally.steps_again)})" if tally.steps_again else "-"
        lines.append(f"| {kind} | {tally.kills} | {tally.resumes} | {moments} | {again} | {tally.failed_checkpoints} |")
    lines += [
        "",
        "| compared with the same trainings undisturbed | largest difference |",
        "|---|---|",
        f"| final weights | {found.weights:.1e} |",
        f"| loss, means of 25 steps | {found.loss:.1e} |",
        f"| Dice of the validation case | {found.dice:.1e} |",
        "",
        "Best weights lost or worse than told, going on from before a checkpoint that was told, other steps of the",
        f"curve, another best step: {len(found.problems) or 'none'}.",
        *[f"- {problem}" for problem in found.problems],
        "",
    ]
    if found.acknowledged and found.done:
        lines += [
            "| commands while training | times | median | longest |",
            "|---|---|---|---|",
            _times("acknowledged", found.acknowledged),
            _times("paused, the state on disk", found.done),
            "",
        ]
    return "\n".join(lines)


def _times(what: str, seconds: list[float]) -> str:
    return f"| {what} | {len(seconds)} | {statistics.median(seconds) * 1000:.0f} ms | {max(seconds) * 1000:.0f} ms |"


if __name__ == "__main__":
    main()
