"""What a training says while it runs: one JSON object a line."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Started:
    """The run is set up and about to take its first step."""

    name: str
    device: str
    steps: int
    first_step: int
    parameters: int


@dataclass(frozen=True)
class StepEnd:
    """Averages over the steps since the last such event."""

    step: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    seconds_a_step: float
    seconds_left: float


@dataclass(frozen=True)
class Validated:
    """Mean Dice of the validation cases at the network's own spacing, whole volumes."""

    step: int
    dice: dict[str, float]
    cases: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Finished:
    """All steps are done and the weights are in ``path``."""

    step: int
    path: str


@dataclass(frozen=True)
class Stopped:
    """Asked to stop; the checkpoint holds everything needed to go on."""

    step: int


@dataclass(frozen=True)
class Failed:
    """The run could not go on."""

    message: str
    details: dict[str, Any] = field(default_factory=dict)


Event = Started | StepEnd | Validated | Saved | Finished | Stopped | Failed
_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Started, StepEnd, Validated, Saved, Finished, Stopped, Failed)
}


def to_line(event: Event) -> str:
    """One line of JSON, without the line end."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)})


def from_line(line: str) -> Event:
    """Read back what `to_line` wrote.

    Raises:
        ValueError: The line is no event.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("event") not in _KINDS:
        raise ValueError(f"not an event: {line[:80]}")
    kind = _KINDS[fields.pop("event")]
    return kind(**fields)
