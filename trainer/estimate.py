"""What a training will take on this machine: time, memory and disk, told before it begins.

Nothing here imports torch: what has to be tried is tried in a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.progress import Progress

if TYPE_CHECKING:
    from trainer.patients import Patients
    from trainer.wizard import Plan


@dataclass(frozen=True)
class Device:
    """Something a training can run on.

    Attributes:
        kind: As a `TrainConfig` names it: ``"cpu"``, ``"cuda"`` or ``"mps"``.
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


def devices() -> list[Device]:
    """What could be trained on, the best first; the processor is always among them."""
    raise NotImplementedError


def measure(device: str, plan: Plan, progress: Progress) -> Pace:
    """Take some real steps on made-up patients, in a process of its own, for about twenty seconds.

    Raises:
        UserError: The device cannot be used, or torch is not installed.
        Cancelled: Asked to stop.
    """
    raise NotImplementedError


def estimate(plan: Plan, patients: Patients, pace: Pace) -> Estimate:
    """What the plan takes at this pace."""
    raise NotImplementedError
