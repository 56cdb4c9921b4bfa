"""What a training will take on this machine: time, memory and disk, told before it begins.

Nothing here imports torch but the process that tries some steps, ``python -m trainer.estimate``: a window may ask.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import Cancelled, UserError
from engine.model_card import ModelCard
from engine.preprocessing import SIZE_STEP
from engine.progress import Progress
from engine.volume import SUBSETS, Sequence
from trainer.config import TrainConfig
from trainer.dataset import MARGIN_WINDOW_MM, Case

if TYPE_CHECKING:
    from trainer.patients import Patients
    from trainer.study import Planned
    from trainer.wizard import Plan

SECONDS = 20.0
SCORING_SECONDS = (2.0, 15.0)
"""To segment one patient with one set of sequences and compare at every threshold, on a quick and a slow machine."""
_WORKER_SECONDS = (3.0, 12.0)  # to start a process that trains or scores
_PREPARING_SECONDS = (1.0, 5.0)  # to read a patient for the first time
_VALIDATION_STEPS = 0.35  # a look at a validation case takes so many training steps
_WEIGHTS_MB = 17.0  # of a run's network, in float32
_MARGIN = 1.25  # a machine that somebody works at is slower than it was when measured


@dataclass(frozen=True)
class Device:
    """Something a training can run on.

    Attributes:
        kind: As a `TrainConfig` names it: ``"cpu"`` or ``"cuda"``; ``"mps"`` for Apple's, which cannot be used yet.
        title: For a person: ``"NVIDIA H200"``, ``"Processor, 8 cores"``.
        free_gb: Memory that is free now; ``None`` where it cannot be told.
        usable: Whether a training can run on it.
        why_not: A sentence where it cannot; else empty.
    """

    kind: str
    title: str
    free_gb: float | None
    usable: bool
    why_not: str = ""


@dataclass(frozen=True)
class Pace:
    """What was measured of this machine: seconds of one step, by what is learnt.

    Attributes:
        device: The kind of device it was measured on.
        plain: ``(quick, typical, slow)`` seconds of a step of a teacher or baseline: 10th, 50th and 90th percentile.
        taught: The same for a student that a teacher looks on at.
        memory_mb: The most memory that was in use, of the machine or, on CUDA, of the GPU.
    """

    device: str
    plain: tuple[float, float, float]
    taught: tuple[float, float, float]
    memory_mb: float


@dataclass(frozen=True)
class Estimate:
    """What a plan takes.

    Attributes:
        seconds_low: In this time at the earliest ...
        seconds_high: ... and in this at the latest, if the machine stays as busy as it was when measured.
        memory_mb: Of the device.
        disk_mb: In the training's folder.
    """

    seconds_low: float
    seconds_high: float
    memory_mb: float
    disk_mb: float


# --- devices ----------------------------------------------------------------------------------------------------------


def devices() -> list[Device]:
    """What could be trained on, the best first; the processor is always among them."""
    found = _cuda()
    if sys.platform == "darwin" and platform.machine() == "arm64":
        why = "Training on Apple's graphics is not supported yet; the processor is used."
        found.append(Device("mps", "Apple graphics", None, False, why))
    cores = os.cpu_count() or 1
    title = f"Processor, {cores} {'core' if cores == 1 else 'cores'}"
    return [*found, Device("cpu", title, free_memory_gb(), True)]


def _cuda() -> list[Device]:
    """NVIDIA's cards, as their driver lists them; torch would take seconds to ask."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        said = subprocess.run(
            [program, "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    cards = []
    for line in said.splitlines():
        name, _, free = line.rpartition(",")
        megabytes = float(free) if free.strip().isdigit() else None
        cards.append((name.strip(), None if megabytes is None else megabytes / 1024))
    if not cards:
        return []
    name, free_gb = cards[0]
    title = name if len(cards) == 1 else f"{name}, the first of {len(cards)}"
    why = _why_no_cuda()
    return [Device("cuda", title, free_gb, not why, why)]


def _why_no_cuda() -> str:
    """From the name of the installed torch: builds for the processor alone say so."""
    if find_spec("torch") is None:
        return ""  # it is installed for this card when a training is begun
    from importlib.metadata import version

    return "The torch that is installed here is the one for processors alone." if "+cpu" in version("torch") else ""


def free_memory_gb() -> float | None:
    """Memory that a new process can have without pushing others out; ``None`` where it cannot be told."""
    if sys.platform == "win32":
        return _windows_free_gb()
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024**2
    except (OSError, ValueError):
        pass
    return None


def _windows_free_gb() -> float | None:
    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "pages", "free_pages", "own", "free_own", "x")),
        ]

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - exists on Windows alone
    return float(status.free) / 1024**3 if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None


# --- the pace ---------------------------------------------------------------------------------------------------------


def measure(
    device: str, plan: Plan, progress: Progress, models: Iterable[ModelCard] | None = None, seconds: float = SECONDS
) -> Pace:
    """Take some real steps on made-up patients, in a process of its own.

    Args:
        device: As a `TrainConfig` names it.
        plan: What is to be trained.
        progress: Told how far it is.
        models: The one the plan begins with is among them; all that are installed when not given.
        seconds: About how long to measure, the start of the process included.

    Raises:
        UserError: The device cannot be used, or torch is not installed.
        Cancelled: Asked to stop.
    """
    if find_spec("torch") is None:
        raise UserError("The time cannot be measured yet", "torch is not installed", "Install it first.")
    configs = _typical_configs(plan, device, models)
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.estimate", str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    answer: list[str] = []
    talking = threading.Thread(target=lambda: answer.extend(process.communicate(json.dumps(configs))))
    talking.start()
    began = time.monotonic()
    try:
        while talking.is_alive():
            talking.join(0.1)
            progress.update(min(0.99, (time.monotonic() - began) / seconds), "measuring how fast this machine is")
    except Cancelled:
        process.kill()
        talking.join()
        raise
    said = json.loads(answer[0].splitlines()[-1]) if process.returncode == 0 and answer[0].strip() else {}
    if "plain" not in said:
        last = [line for line in answer[1].splitlines() if line.strip()]
        why = said.get("why") or (last[-1].strip() if last else f"its process ended with code {process.returncode}")
        raise UserError("The time could not be measured", why, "Choose another device, or begin without an estimate.")
    plain, taught = (_spread(said[name]) for name in ("plain", "taught"))
    return Pace(said["device"], plain, taught, float(said["memory_mb"]))


def _typical_configs(plan: Plan, device: str, models: Iterable[ModelCard] | None) -> dict[str, Any]:
    """Configs of a teacher and of a student of the plan, for made-up patients, beginning with random weights."""
    study = plan.study(_made_up_patients(plan), None, models)
    runs = [run.config for run in study.plan(plan.places())]
    teacher = next(config for config in runs if config.role == "teacher")
    students = [config for config in runs if config.role == "student"]
    chosen = {"teacher": teacher, **({"student": students[-1]} if students else {})}
    configs = {}
    for name, config in chosen.items():
        taught = config.distillation
        alone = None if taught is None else replace(taught, cross_fitted=(), blend=0.0)
        made_up = replace(
            config,
            data="",
            start_from="",
            device=device,
            train_cases=("a", "b"),
            validation_cases=(),
            distillation=alone,
        )
        configs[name] = json.loads(made_up.to_json())
    return configs


def _made_up_patients(plan: Plan) -> Patients:
    from trainer.patients import Patient, Patients
    from trainer.wizard import FEW

    names = [f"p{number:03d}" for number in range(2 * FEW + 100)]
    return Patients(
        tuple(Patient(name, {s: Path(name) for s in plan.teacher}, truth=Path(name)) for name in names), Path()
    )


def _spread(seconds: list[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(seconds, (10, 50, 90))
    return float(low), float(middle), float(high)


class _MadeUp:
    """A store of patients that are noise in an ellipsoid of a brain's size, of the shape that real ones have."""

    def __init__(self, spacing_mm: float) -> None:
        shape = tuple(int(np.ceil(mm / spacing_mm / SIZE_STEP)) * SIZE_STEP for mm in MARGIN_WINDOW_MM)
        axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij", sparse=True)
        radius = np.sqrt(sum((axis / extent) ** 2 for axis, extent in zip(axes, (0.75, 0.8, 0.7), strict=True)))
        chance = np.random.default_rng(0)
        noise = chance.normal(size=(len(Sequence), *shape)).astype(np.float32)
        self._images = np.where(radius < 1, noise, 0).astype(np.float16)
        self._truth = np.stack([radius < 0.4, radius < 0.2]).astype(np.float16)

    def load(self, name: str, progress: Progress | None = None) -> Case:
        return Case(name, tuple(Sequence), self._images, self._truth)


def _try(configs: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What `measure` asks its process for: seconds of each step, and the most memory in use."""
    import torch

    from engine import networks
    from trainer.checkpoint import Footing
    from trainer.dataset import Examples
    from trainer.distillation import DistillationTask, SegmentationTask
    from trainer.loop import Learner
    from trainer.machine import memory_mb
    from trainer.team import Team

    wanted = configs["teacher"]["device"]
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    if kind == "cuda" and not torch.cuda.is_available():
        return {"why": "there is no CUDA device that torch can use"}
    device = torch.device(kind)
    taken: dict[str, list[float]] = {}
    each = max(1.0, (seconds - 5) / len(configs))  # five for the start of the process
    teacher = TrainConfig.from_json(json.dumps(configs["teacher"]))
    store: Any = _MadeUp(teacher.spacing_mm)
    for name, fields in configs.items():
        config = TrainConfig.from_json(json.dumps(fields))
        network = networks.build(*config.network()).to(device)
        task: Any
        if config.distillation is None:
            task = SegmentationTask(network).to(device)
            examples = Examples(config, store, device, Progress())
        else:
            looks_on = networks.build(*teacher.network()).to(device).eval()
            task = DistillationTask(network, looks_on, config.distillation).to(device)
            examples = Examples(config, store, device, Progress(), teacher.sequences)
        learner = Learner(config, task, examples, Team(device))
        footing = Footing(config.batch, config.accumulate, config.window)
        spent: list[float] = []
        began = time.monotonic()
        step = 0
        while time.monotonic() - began < each or not spent:
            before = time.monotonic()
            terms = learner.step(step, footing)
            float(terms["loss"])  # a graphics card has done it once it can be read
            step += 1
            if step > 1:  # the first one sets things up
                spent.append(time.monotonic() - before)
        taken[name] = spent
    memory = torch.cuda.max_memory_allocated() / 1024**2 if kind == "cuda" else memory_mb()
    plain = taken["teacher"]
    return {"device": kind, "plain": plain, "taught": taken.get("student", plain), "memory_mb": memory}


# --- the estimate -----------------------------------------------------------------------------------------------------


def estimate(plan: Plan, patients: Patients, pace: Pace, models: Iterable[ModelCard] | None = None) -> Estimate:
    """What the plan takes at this pace.

    Args:
        plan: What is to be trained.
        patients: The usable ones.
        pace: As `measure` found it.
        models: The one the plan begins with is among them; all that are installed when not given.

    Raises:
        UserError: The model to begin with is not there.
    """
    study = plan.study(patients, None, models)
    planned = study.plan(plan.places())
    low = high = 0.0
    for run in planned:
        config = run.config
        quick, typical, slow = pace.plain if config.distillation is None else pace.taught
        looks = config.steps // config.validate_every if config.validate_every else 0
        steps = config.steps + looks * len(config.validation_cases) * _VALIDATION_STEPS
        segmented = segmentations(run)
        workers = 1 + bool(segmented)
        # Thousands of steps are neither all quick nor all slow.
        low += steps * (quick + typical) / 2 + segmented * SCORING_SECONDS[0] + workers * _WORKER_SECONDS[0]
        high += steps * (typical + slow) / 2 * _MARGIN + segmented * SCORING_SECONDS[1] + workers * _WORKER_SECONDS[1]
    cases = len({name for fold in study.folds for name in fold})
    low += cases * _PREPARING_SECONDS[0]
    high += cases * _PREPARING_SECONDS[1]
    held_mb = cases * _case_mb(planned[0].config.spacing_mm)
    return Estimate(low, high, pace.memory_mb + held_mb, _disk_mb(planned, cases))


def disk_mb(plan: Plan, patients: Patients, models: Iterable[ModelCard] | None = None) -> float:
    """What the training's folder will hold at its largest.

    Raises:
        UserError: The model to begin with is not there.
    """
    study = plan.study(patients, None, models)
    return _disk_mb(study.plan(plan.places()), len({name for fold in study.folds for name in fold}))


def _disk_mb(planned: list[Planned], cases: int) -> float:
    prepared = cases * _case_mb(planned[0].config.spacing_mm)
    # One run at a time has states: weights, average and two moments, of this checkpoint, the last and the next.
    states = 3 * 4 * _WEIGHTS_MB
    finished = sum((2 + bool(run.config.previews)) * _WEIGHTS_MB for run in planned)
    return prepared + states + finished + 50


def _case_mb(spacing_mm: float) -> float:
    """Four sequences and two regions in float16, as they are kept."""
    voxels = float(np.prod([np.ceil(mm / spacing_mm / SIZE_STEP) * SIZE_STEP for mm in MARGIN_WINDOW_MM]))
    return (len(Sequence) + 2) * 2 * voxels / 1e6


def segmentations(run: Planned) -> int:
    """How many segmentations the scoring of a run is."""
    if not run.scored:
        return 0
    sets = sum(set(subset) <= set(run.config.sequences) for subset in SUBSETS) if run.config.sequence_dropout else 1
    return sets * len(run.config.validation_cases)


def main(arguments: list[str]) -> int:
    """Measure in a process of its own: configs in on standard input, one JSON object out."""
    said = _try(json.load(sys.stdin), float(arguments[0]))
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
