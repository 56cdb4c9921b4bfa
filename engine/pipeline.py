"""From scans as hospitals have them to what models know: aligned, on one grid, without the skull, evenly bright.

Four steps, each a pure function of what went in and of the settings, so that each can be looked at, switched off, done
again with other settings, and undone:

    ALIGN   multiplies affines by rigid matrices; no voxel is touched
    GRID    one common grid, made once, where the scans do not share one already
    STRIP   what lies outside the brain becomes background
    BIAS    slow changes of brightness are divided out

What needs nothing goes through untouched: scans that share a grid and show nothing but brain come out as the very
volumes that went in. The way back, from a mask on the common grid onto each file's own, runs through the same matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from engine.inference import Segmentation
from engine.progress import Progress
from engine.volume import Affine, Grid, LabelMap, Sequence, Subject, Volume


class Step(StrEnum):
    """The steps, in the order they are done."""

    ALIGN = "align"
    GRID = "grid"
    STRIP = "strip"
    BIAS = "bias"


class Switch(StrEnum):
    """Whether a step is done: where it is needed, in any case, or not at all."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, eq=False)
class Settings:
    """What the user wants done.

    Attributes:
        align: Whether the sequences are registered. ON also registers those that lie on each other already.
        strip: Whether the skull is removed. ON also strips scans that show nothing but brain.
        bias: Whether slow changes of brightness are divided out.
        reference: Which sequence stays where it is; ``None`` lets `alignment.reference_of` choose.
        matrices: By hand: for a sequence, the rigid ``(4, 4)`` that takes the world of its file to that of the
            reference, in mm, RAS+. Used whatever ``align`` says. The identity leaves a sequence where its header puts
            it.
        brain: By hand: label 1 where the brain is, on the common grid of an earlier run. Used unless ``strip`` is OFF.
    """

    align: Switch = Switch.AUTO
    strip: Switch = Switch.AUTO
    bias: Switch = Switch.AUTO
    reference: Sequence | None = None
    matrices: Mapping[Sequence, Affine] = field(default_factory=dict)
    brain: LabelMap | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that `from_json` makes the same settings of; the brain packed to some kilobytes."""
        raise NotImplementedError

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Settings:
        """Settings from what `to_json` gave.

        Raises:
            ValueError: The record was not made by `to_json`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Done:
    """What came of one step.

    Attributes:
        step: Which.
        did: Whether any scan was changed.
        sentence: What was done, or why nothing: ``"T2 was moved 4.2 mm and turned 3.0 degrees onto T1."``
        seconds: It took.
        details: Plain JSON values: matrices, qualities, volumes.
    """

    step: Step
    did: bool
    sentence: str
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Worked:
    """A patient after the steps, with everything needed to look at them and to go back.

    Attributes:
        name: What to call the patient in outputs.
        raw: The volumes as their files hold them.
        settings: What was asked for.
        reference: The sequence that stayed where it was.
        matrices: For every sequence, what takes the world of its file to that of the reference; the identity where
            nothing was moved.
        shown: Aligned, on the common grid, with skull: what a viewer shows.
        subject: What models are given.
        brain: Label 1 where the brain is, on the common grid; ``None`` where nothing was stripped.
        done: One entry a step, in order.
        doubts: Sentences about what may have gone wrong, such as an alignment that does not fit.
    """

    name: str
    raw: Mapping[Sequence, Volume]
    settings: Settings
    reference: Sequence
    matrices: Mapping[Sequence, Affine]
    shown: Subject
    subject: Subject
    brain: LabelMap | None
    done: tuple[Done, ...]
    doubts: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """The common grid, of `shown`, `subject`, `brain` and every mask."""
        return self.subject.grid

    @property
    def changed(self) -> bool:
        """Whether any step did anything: False for scans that models know as they are."""
        return any(done.did for done in self.done)

    def of(self, step: Step) -> Done:
        """What came of a step."""
        return next(done for done in self.done if done.step is step)

    def before(self, step: Step, sequence: Sequence) -> Volume:
        """The sequence as it was before a step, on the common grid, so that a view can flip between before and after.

        Before ALIGN (and before GRID, which changes nothing that can be seen) that is the scan where its own header
        puts it.
        """
        raise NotImplementedError

    def after(self, step: Step, sequence: Sequence) -> Volume:
        """The sequence as a step left it, on the common grid."""
        raise NotImplementedError

    def own_grid(self, sequence: Sequence) -> Grid:
        """The grid of the sequence's file, moved to where the alignment put the scan."""
        raise NotImplementedError

    def native(self, mask: LabelMap | Segmentation, sequence: Sequence) -> LabelMap:
        """A mask on the grid of a sequence's own file, as that file's header gives it.

        Args:
            mask: On the common grid. Of a segmentation the probabilities are sampled, so that outlines are as smooth as
                the file's voxels allow; corrections by hand and removed pieces are kept as they are.
            sequence: Which file.
        """
        raise NotImplementedError

    def recipe(self) -> dict[str, Any]:
        """Plain JSON values for a sidecar: steps, parameters, seconds. Names no file and no person."""
        raise NotImplementedError


def work(
    name: str,
    volumes: Mapping[Sequence, Volume],
    settings: Settings | None = None,
    progress: Progress | None = None,
    earlier: Worked | None = None,
) -> Worked:
    """Take a patient's scans through the steps.

    Args:
        name: What to call the patient in outputs.
        volumes: As `sequences.read` gives them, each on its file's own grid.
        settings: What to do; by default whatever is needed.
        progress: Told of every step; cancelling stops within a second.
        earlier: What came of the same volumes with other settings; steps for which nothing changed are taken from it.

    Raises:
        GridMismatch: The scans cannot be brought together: a header does not say how the head lies in it, or the
            places they show do not overlap.
        Cancelled: The user asked to stop.
        ValueError: There is no volume, or the settings name a sequence that is not there.
    """
    raise NotImplementedError
