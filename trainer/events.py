"""What a training says while it runs, one JSON object a line, and what it can be told, one word a line."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from engine.progress import Progress


@dataclass(frozen=True)
class Started:
    """The run is set up and about to take its first step."""

    name: str
    device: str
    steps: int
    first_step: int
    parameters: int


@dataclass(frozen=True)
class Preparing:
    """How far what comes before the first step has come, such as reading the cases; or the scoring of a finished run.

    Attributes:
        fraction: 0..1.
        what: In words: ``"reading anna"``.
    """

    fraction: float
    what: str


@dataclass(frozen=True)
class StepEnd:
    """Averages over the steps since the last such event.

    A run that goes on from its last state tells steps again that it had told before it was interrupted; they say the
    same, and who draws a curve keeps the later one.

    Attributes:
        step: Steps done.
        loss: Mean loss.
        terms: Mean of each of its terms, by name; see `trainer.distillation`.
        learning_rate: Of the last step.
        seconds_a_step: Mean time of a step, validation and checkpoints not counted.
        seconds_left: Estimate for the remaining steps from that, and for the scores between them.
        examples_a_second: Training examples learnt from in a second of step time.
        memory_mb: Memory the worker holds now; on macOS the most it has held.
        device_memory_mb: The most that was taken of the graphics card's memory; ``None`` on a CPU.
        temperature_c: Of what computes; ``None`` where it cannot be known.
    """

    step: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    seconds_a_step: float
    seconds_left: float
    examples_a_second: float = 0.0
    memory_mb: float = 0.0
    device_memory_mb: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True)
class Validated:
    """Mean Dice of the averaged weights on the validation cases: full images at the network's own spacing.

    Attributes:
        step: Steps done.
        dice: By region.
        cases: How many cases were scored.
        best: Whether the mean of the regions is the highest so far; these weights are kept in ``best.safetensors``.
    """

    step: int
    dice: dict[str, float]
    cases: int
    best: bool = False


@dataclass(frozen=True)
class Previewed:
    """What the averaged weights make of the preview cases is on disk.

    Attributes:
        step: Steps done.
        path: ``labels`` uint8 ``(P, i, j, k)`` of the cases in ``cases.npz`` beside it; see `trainer.validation`.
    """

    step: int
    path: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: str


@dataclass(frozen=True)
class FellBack:
    """Something did not go as planned, and the training goes on in another way: what happened and what is done now.

    ``what`` is one or two sentences for the user.
    """

    what: str


@dataclass(frozen=True)
class Acknowledged:
    """A command was heard; it takes effect when the step that is under way is done."""

    command: str


@dataclass(frozen=True)
class Paused:
    """Nothing is computed until the command to resume. A training has its state on disk by then."""

    step: int


@dataclass(frozen=True)
class Resumed:
    """The pause is over."""

    step: int


@dataclass(frozen=True)
class Finished:
    """The weights are in ``path``.

    Attributes:
        step: Steps done: all, unless told to keep the best.
        path: The weights.
        kept: ``"last"``, the average at the end, or ``"best"``, that with the best validation score.
        kept_step: The step that they are from; 0 in what an older version said.
    """

    step: int
    path: str
    kept: str = "last"
    kept_step: int = 0


@dataclass(frozen=True)
class Stopped:
    """Asked to stop; the checkpoint holds everything needed to go on."""

    step: int


@dataclass(frozen=True)
class Failed:
    """The run could not go on."""

    message: str
    details: dict[str, Any] = field(default_factory=dict)


Event = (
    Started
    | Preparing
    | StepEnd
    | Validated
    | Previewed
    | Saved
    | FellBack
    | Acknowledged
    | Paused
    | Resumed
    | Finished
    | Stopped
    | Failed
)
_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Started,
        Preparing,
        StepEnd,
        Validated,
        Previewed,
        Saved,
        FellBack,
        Acknowledged,
        Paused,
        Resumed,
        Finished,
        Stopped,
        Failed,
    )
}


def to_line(event: Event) -> str:
    """One line of JSON, without the line end."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)})


def from_line(line: str) -> Event:
    """Read back what `to_line` wrote; fields that a newer version added are left out.

    Raises:
        ValueError: The line is no event.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("event") not in _KINDS:
        raise ValueError(f"not an event: {line[:80]}")
    kind = _KINDS[fields.pop("event")]
    known = {one.name for one in dataclasses.fields(kind)}
    try:
        return kind(**{name: value for name, value in fields.items() if name in known})
    except TypeError as error:
        raise ValueError(f"not an event: {line[:80]}") from error


class Command(StrEnum):
    """What a worker can be told, a word a line on its standard input."""

    PAUSE = "pause"
    """Save the state after this step and wait."""
    RESUME = "resume"
    """Go on after a pause."""
    STOP = "stop"
    """Save the state after this step and end; started again, the run goes on."""
    KEEP = "keep"
    """End after this step with the best weights so far; the run is then finished."""


class Orders(Progress):
    """The commands a training was given; a training checks it between steps, and waits there while it is paused.

    Thread-safe: `give` may be called from any thread while another works.

    Args:
        emit: Told when a pause begins and ends.
        listener: See `Progress`.

    Attributes:
        step: Steps done, for the events; set by the training.
        before_pause: Called before a pause begins; set by the training, which saves its state then.
    """

    def __init__(self, emit: Callable[[Event], None], listener: Callable[[float, str], None] | None = None) -> None:
        super().__init__(listener)
        self._emit = emit
        self._going = threading.Event()
        self._going.set()
        self._keep = threading.Event()
        self.step = 0
        self.before_pause: Callable[[], None] = lambda: None

    @staticmethod
    def of(progress: Progress, emit: Callable[[Event], None]) -> Orders:
        """The orders that a progress is, or, for one that can only be cancelled, such as it."""
        if isinstance(progress, Orders):
            return progress
        orders = Orders(emit, progress.update)
        orders._stop = progress._stop
        return orders

    def part(self, start: float, stop: float) -> Orders:
        """As of `Progress`; the part obeys the same commands."""
        child = copy.copy(self)
        low, high = self._span
        child._span = (low + (high - low) * start, low + (high - low) * stop)
        return child

    def give(self, command: Command) -> None:
        """Obey a command at the next check."""
        if command is Command.PAUSE:
            self._going.clear()
            return
        if command is Command.STOP:
            self.cancel()
        elif command is Command.KEEP:
            self._keep.set()
        self._going.set()

    def cancel(self) -> None:
        """Ask the work to stop at its next check; a pause ends."""
        super().cancel()
        self._going.set()

    @property
    def keep(self) -> bool:
        """Whether to finish now with the best weights so far."""
        return self._keep.is_set()

    @property
    def paused(self) -> bool:
        """Whether the next check will wait."""
        return not self._going.is_set()

    def check(self) -> None:
        """Wait as long as there is a pause, without using the processor.

        Raises:
            Cancelled: Asked to stop.
        """
        super().check()
        if not self.paused:
            return
        self.before_pause()
        self._emit(Paused(self.step))
        self._going.wait()
        super().check()
        if not self.keep:
            self._emit(Resumed(self.step))
