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

import base64
import hashlib
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np

from engine import sequences
from engine.errors import GridMismatch
from engine.inference import Segmentation
from engine.model_card import TUMOUR_CORE, WHOLE_TUMOUR
from engine.preprocessing import background
from engine.progress import Progress
from engine.volume import (
    Affine,
    FloatArray,
    Grid,
    LabelMap,
    Mask,
    Sequence,
    Subject,
    Volume,
    bounding_box,
    in_order,
    in_words,
)

# Grids that differ by less put every voxel at the same place as far as a mask can tell.
_SAME_MM = 1e-3
# Probabilities this far on either side of the threshold are as good as certain where an outline is drawn: at the
# slope of the models' probabilities, about 0.2 a mm, that makes the edge a voxel of 1 mm wide.
_EDGE = 0.1
# A packed brain mask larger than this was not made here.
_MOST_VOXELS = 1 << 29

# Whether N4 makes masks of scans with a skull better; measured in docs/results/alignment.md.
BIAS_HELPS = False
_NO_BRAIN = "No brain was found in the scans, so nothing was removed."

_IDENTITY: Final[Affine] = np.eye(4)
_IDENTITY.setflags(write=False)


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
        bias: Whether slow changes of brightness are divided out. ON also corrects scans that came stripped.
        reference: Which sequence stays where it is; ``None`` lets `alignment.reference_of` choose.
        matrices: By hand: for a sequence, the rigid ``(4, 4)`` that takes the world of its file to that of the
            reference, in mm, RAS+. Used whatever ``align`` says. The identity leaves a sequence where its header puts
            it.
        brain: By hand: label 1 where the brain is, on the common grid of an earlier run. Used unless ``strip`` is OFF.

    Raises:
        ValueError: A matrix by hand is not a rigid motion.
    """

    align: Switch = Switch.AUTO
    strip: Switch = Switch.AUTO
    bias: Switch = Switch.AUTO
    reference: Sequence | None = None
    matrices: Mapping[Sequence, Affine] = field(default_factory=dict)
    brain: LabelMap | None = None

    def __post_init__(self) -> None:
        kept = {}
        for sequence in in_order(self.matrices):
            matrix = np.array(self.matrices[sequence], np.float64)
            if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
                raise ValueError(f"the matrix of {sequence.title} is not four rows of four numbers")
            turn = matrix[:3, :3]
            if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0:
                raise ValueError(f"the matrix of {sequence.title} does more than move and turn")
            matrix.setflags(write=False)
            kept[sequence] = matrix
        object.__setattr__(self, "matrices", kept)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that `from_json` makes the same settings of; the brain packed to some kilobytes."""
        return {
            "align": self.align.value,
            "strip": self.strip.value,
            "bias": self.bias.value,
            "reference": self.reference.value if self.reference is not None else None,
            "matrices": {s.value: matrix.tolist() for s, matrix in self.matrices.items()},
            "brain": _packed(self.brain) if self.brain is not None else None,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Settings:
        """Settings from what `to_json` gave.

        Raises:
            ValueError: The record was not made by `to_json`.
        """
        try:
            brain, reference = record["brain"], record["reference"]
            return Settings(
                align=Switch(record["align"]),
                strip=Switch(record["strip"]),
                bias=Switch(record["bias"]),
                reference=Sequence(reference) if reference is not None else None,
                matrices={Sequence(s): np.array(rows, np.float64) for s, rows in record["matrices"].items()},
                brain=_unpacked(brain) if brain is not None else None,
            )
        except (KeyError, TypeError, AttributeError, zlib.error) as error:
            raise ValueError(f"these are no settings of the steps: {error}") from error


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

    def to_json(self) -> dict[str, Any]:
        """For a sidecar."""
        return {
            "step": self.step.value,
            "did": self.did,
            "sentence": self.sentence,
            "seconds": round(self.seconds, 2),
            **({"details": dict(self.details)} if self.details else {}),
        }


@dataclass(frozen=True, eq=False)
class _Found:
    """How one sequence came to lie where it lies; kept, so that it need not be found again.

    Attributes:
        matrix: World of its file -> world of the reference.
        onto: The volume it was registered onto; None where it was not registered.
        moving: The volume that was registered.
        by_hand: Whether the matrix comes from the settings.
        already: Whether the registration found that it lay right.
        quality: Of the registration, 0..1.
        words: The same in words.
    """

    matrix: Affine
    onto: Volume | None = None
    moving: Volume | None = None
    by_hand: bool = False
    already: bool = False
    quality: float | None = None
    words: str = ""

    @property
    def moves(self) -> bool:
        return not np.array_equal(self.matrix, _IDENTITY)


_Volumes = Mapping[Sequence, Volume]


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
        came_stripped: The sequences whose files show nothing but brain.
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
    came_stripped: frozenset[Sequence] = frozenset()
    _registered: Mapping[Sequence, _Found] = field(default_factory=dict, repr=False)
    # The last run in which a step was done, for steps that this one leaves out: switched on again they cost nothing.
    _last: Mapping[Step, Worked] = field(default_factory=dict, repr=False)
    _stripped: _Volumes = field(default_factory=dict, repr=False)
    _together: bool | None = field(default=None, repr=False)
    _unmoved: dict[Sequence, Volume] = field(default_factory=dict, repr=False)

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
        puts it. It is sampled when it is first asked for, which takes up to a second.
        """
        if step is Step.BIAS:
            return self._stripped[sequence]
        if step is Step.STRIP or np.array_equal(self.matrices[sequence], _IDENTITY):
            return self.shown[sequence]
        if sequence not in self._unmoved:
            from engine import alignment

            self._unmoved[sequence] = alignment.onto(self.raw[sequence], self.grid)
        return self._unmoved[sequence]

    def after(self, step: Step, sequence: Sequence) -> Volume:
        """The sequence as a step left it, on the common grid."""
        if step is Step.BIAS:
            return self.subject[sequence]
        return self._stripped[sequence] if step is Step.STRIP else self.shown[sequence]

    def own_grid(self, sequence: Sequence) -> Grid:
        """The grid of the sequence's file, moved to where the alignment put the scan."""
        return _moved_grid(self.raw[sequence], self.matrices[sequence])

    def shares_grid(self, sequence: Sequence, with_other: Sequence) -> bool:
        """Whether two sequences have one grid in their files and were moved alike, so that one mask fits both."""
        return self.own_grid(sequence).same_as(self.own_grid(with_other), _SAME_MM) and self.raw[sequence].grid.same_as(
            self.raw[with_other].grid, _SAME_MM
        )

    def native(self, mask: LabelMap | Segmentation, sequence: Sequence) -> LabelMap:
        """A mask on the grid of a sequence's own file, as that file's header gives it.

        A voxel of the file belongs to a region where at least half of it does. Where the file's grid is the common one,
        the labels are those that went in.

        Args:
            mask: On the common grid. Of a segmentation the probabilities are sampled, so that outlines are as smooth as
                the file's voxels allow; corrections by hand and removed pieces are kept as they are.
            sequence: Which file.

        Raises:
            ValueError: The mask lies on another grid.
        """
        labels = mask if isinstance(mask, LabelMap) else mask.label_map
        if not labels.grid.same_as(self.grid):
            raise ValueError("the mask does not lie on the common grid")
        here, file_grid = self.own_grid(sequence), self.raw[sequence].grid
        if here.same_as(self.grid, _SAME_MM):
            return LabelMap(labels.data, file_grid)
        whole, core = (
            _sampled(_edges(inside, region, mask), self.grid, here, labels.whole_tumour)
            for region, inside in ((WHOLE_TUMOUR, labels.whole_tumour), (TUMOUR_CORE, labels.tumour_core))
        )
        return LabelMap.of_regions(whole, core & whole, file_grid)

    def recipe(self) -> dict[str, Any]:
        """Plain JSON values for a sidecar: steps, parameters, seconds. Names no file and no person."""
        settings = self.settings.to_json()
        if self.settings.brain is not None:
            settings["brain"] = {"sha256": hashlib.sha256(self.settings.brain.data.tobytes()).hexdigest()}
        return {
            "settings": settings,
            "reference": self.reference.value,
            "steps": [done.to_json() for done in self.done],
            "doubts": list(self.doubts),
        }


def work(
    name: str,
    volumes: Mapping[Sequence, Volume],
    settings: Settings | None = None,
    progress: Progress | None = None,
    earlier: Worked | None = None,
) -> Worked:
    """Take a patient's scans through the steps.

    Scans that share a grid and show nothing but brain were prepared by somebody: unless a step is ON or set by hand,
    they come out as they went in, and nothing is measured on them.

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
    settings, progress = settings or Settings(), progress or Progress()
    raw = {s: volumes[s] for s in Sequence if s in volumes}
    if not raw:
        raise ValueError("there is no volume to work on")
    if settings.reference is not None and settings.reference not in raw:
        raise ValueError(f"{settings.reference.title} is to be the reference, but is not there")
    works = _Works(raw, settings, earlier)
    found, together, aligned = works.align(progress.part(0.0, 0.55))
    shown, gridded = works.grid(found, progress.part(0.55, 0.65))
    stripped, brain, strip = works.strip(shown, progress.part(0.65, 0.75))
    corrected, bias = works.correct(stripped, brain, progress.part(0.75, 1.0))
    progress.update(1.0, "the scans are ready")
    return Worked(
        name=name,
        raw=raw,
        settings=settings,
        reference=works.reference,
        matrices={s: one.matrix for s, one in found.items()},
        shown=Subject(name, shown),
        subject=Subject(name, corrected),
        brain=brain,
        done=(aligned, gridded, strip, bias),
        doubts=tuple(works.doubts),
        came_stripped=works.stripped,
        _registered=works.registered,
        _last=works.last,
        _stripped=stripped,
        _together=together,
    )


class _Works:
    """The steps of one run. What an earlier run found is taken over where it was found from the same."""

    def __init__(self, raw: _Volumes, settings: Settings, earlier: Worked | None) -> None:
        self.raw = raw
        self.settings = settings
        self.earlier = earlier
        self.doubts: list[str] = []
        self.found: Mapping[Sequence, _Found] = {}
        self.registered = dict(earlier._registered) if earlier is not None else {}
        self.last: dict[Step, Worked] = {}
        if earlier is not None:
            # Without what those remember in turn, or every run would keep all before it.
            self.last = {
                **earlier._last,
                **{done.step: replace(earlier, _last={}) for done in earlier.done if done.did},
            }
        grids = [volume.grid for volume in raw.values()]
        self.one_grid = all(grid.same_as(grids[0]) for grid in grids)
        self.same_scans = (
            earlier is not None and earlier.raw.keys() == raw.keys() and all(earlier.raw[s] is raw[s] for s in raw)
        )
        self.guessed = next((volume for volume in raw.values() if not volume.oriented), None)
        if self.guessed is not None and not self.one_grid:
            raise GridMismatch(
                "The scans cannot be brought together",
                f"the header of {self.guessed.name} does not say how the head lies in it",
                f"Leave {self.guessed.name} out.",
            )
        # Without their sides known scans are not segmented, so nothing is prepared either.
        self.stripped = frozenset(
            s for s, volume in raw.items() if self.guessed is not None or self._is_stripped(s, volume)
        )
        self.reference = self._reference()

    def _is_stripped(self, sequence: Sequence, volume: Volume) -> bool:
        if self.earlier is not None and self.earlier.raw.get(sequence) is volume:
            return sequence in self.earlier.came_stripped
        from engine import brain

        return brain.is_stripped(volume)

    @property
    def prepared(self) -> bool:
        """Whether the scans came as models know them: on one grid, and nothing but brain."""
        return self.one_grid and len(self.stripped) == len(self.raw)

    def _reference(self) -> Sequence:
        if self.settings.reference is not None:
            return self.settings.reference
        if len(self.raw) == 1 or (self.prepared and self.settings.align is not Switch.ON):
            return next(iter(self.raw))
        if self.same_scans and self.earlier is not None and self.earlier.settings.reference is None:
            return self.earlier.reference
        from engine import alignment

        return alignment.reference_of(self.raw)

    # ALIGN

    def align(self, progress: Progress) -> tuple[dict[Sequence, _Found], bool | None, Done]:
        started = time.perf_counter()
        hand, switch = self.settings.matrices, self.settings.align
        together = self._lie_together(progress) if switch is Switch.AUTO else None
        wanted = switch is Switch.ON or (switch is Switch.AUTO and together is False)
        others = [s for s in self.raw if s is not self.reference]
        found = {self.reference: _Found(_IDENTITY)}
        waiting = [s for s in others if s not in hand] if wanted and self.guessed is None else []
        for sequence in others:
            if sequence in hand:
                found[sequence] = _Found(hand[sequence], by_hand=True)
            elif sequence in waiting:
                at = waiting.index(sequence)
                part = progress.part(at / len(waiting), (at + 1) / len(waiting))
                found[sequence] = self._registered(sequence, part)
            else:
                found[sequence] = _Found(_IDENTITY)
        found = self.found = {s: found[s] for s in self.raw}
        did = any(one.moves for one in found.values())
        details = {"reference": self.reference.value, "sequences": {s.value: self._told(s, found[s]) for s in others}}
        done = Done(
            Step.ALIGN,
            did,
            self._align_sentence(found, others),
            time.perf_counter() - started,
            details if did or waiting else {},
        )
        return found, together, done

    def _lie_together(self, progress: Progress) -> bool | None:
        """Whether the sequences lie on each other as they are; None where that need not be known."""
        if len(self.raw) == 1 or self.prepared or self.guessed is not None:
            return None
        if self.same_scans and self.earlier is not None and self.earlier._together is not None:
            return self.earlier._together
        if not self.one_grid:
            return False
        from engine import alignment

        progress.update(0.0, "looking whether the sequences lie on each other")
        return alignment.already_aligned(self.raw.values())

    def _registered(self, sequence: Sequence, progress: Progress) -> _Found:
        from engine import alignment

        moving, reference = self.raw[sequence], self.raw[self.reference]
        before = self.registered.get(sequence)
        if before is not None and before.onto is reference and before.moving is moving:
            found = before
        else:
            progress.update(0.0, f"aligning {sequence.title} with {self.reference.title}")
            told = alignment.align(moving, reference, progress)
            found = _Found(
                matrix=_IDENTITY if told.already else told.matrix,
                onto=reference,
                moving=moving,
                already=told.already,
                quality=told.quality,
                words=told.quality_words,
            )
            self.registered[sequence] = found
        if found.words != "good":
            self.doubts.append(f"How {sequence.title} lies on {self.reference.title} is {found.words}.")
        return found

    def _told(self, sequence: Sequence, found: _Found) -> dict[str, Any]:
        moved, turned = motion(found.matrix, self.raw[sequence].grid)
        told: dict[str, Any] = {
            "matrix": [[round(float(value), 6) for value in row] for row in found.matrix],
            "moved_mm": round(moved, 2),
            "turned_deg": round(turned, 2),
            "by_hand": found.by_hand,
        }
        if found.quality is not None:
            told |= {"already": found.already, "quality": round(found.quality, 3), "quality_words": found.words}
        return told

    def _align_sentence(self, found: Mapping[Sequence, _Found], others: list[Sequence]) -> str:
        if not others:
            return f"{self.reference.title} is the only sequence, so there is nothing to align."
        told = []
        for sequence in others:
            if found[sequence].moves:
                moved, turned = motion(found[sequence].matrix, self.raw[sequence].grid)
                how = "by hand " if found[sequence].by_hand else ""
                told.append(
                    f"{sequence.title} was moved {how}{moved:.1f} mm and turned {turned:.1f} degrees "
                    f"onto {self.reference.title}"
                )
        lay = [s for s in others if not found[s].moves and found[s].onto is not None]
        by_header = [s for s in others if not found[s].moves and found[s].onto is None]
        if lay:
            told.append(f"{in_words(lay)} lay right on {self.reference.title} already")
        if by_header and (told or self.settings.align is Switch.OFF):
            was = "was" if len(by_header) == 1 else "were"
            its = "its header puts it" if len(by_header) == 1 else "their headers put them"
            told.append(f"{in_words(by_header)} {was} left where {its}, as asked")
        return "; ".join(told) + "." if told else "The sequences lie on each other already."

    # GRID

    def grid(self, found: Mapping[Sequence, _Found], progress: Progress) -> tuple[dict[Sequence, Volume], Done]:
        started = time.perf_counter()
        if self.one_grid and not any(one.moves for one in found.values()):
            sentence = "The sequences share a grid." if len(self.raw) > 1 else "There is one sequence, on one grid."
            return dict(self.raw), Done(Step.GRID, False, sentence, time.perf_counter() - started)
        from engine import alignment

        before = self.earlier
        same = {s: self._sampled_before(s, found[s]) for s in self.raw}
        moved = {s: alignment.moved(volume, found[s].matrix) for s, volume in self.raw.items()}
        if (
            before is not None
            and all(same.values())
            and before.reference is self.reference
            and before.of(Step.GRID).did
        ):
            return {s: before.shown[s] for s in self.raw}, before.of(Step.GRID)
        progress.update(0.0, "finding a grid for all sequences")
        grid = alignment.working_grid(moved, self.reference)
        if before is not None and grid.same_as(before.grid, _SAME_MM) and before.of(Step.GRID).did:
            grid = before.grid
        shown = {}
        for number, sequence in enumerate(self.raw):
            progress.update((number + 1) / (len(self.raw) + 1), f"bringing {sequence.title} onto the common grid")
            if before is not None and same[sequence] and grid is before.grid:
                shown[sequence] = before.shown[sequence]
                continue
            shown[sequence] = self._onto(sequence, moved[sequence], grid)
        size = " x ".join(f"{mm:.2g}" for mm in grid.spacing)
        sentence = f"All sequences were brought onto one grid of {size} mm along {self.reference.title}."
        if len(self.raw) == 1:
            sentence = f"{self.reference.title} was brought onto a grid of {size} mm."
        details = {
            "shape": list(grid.shape),
            "spacing_mm": [round(mm, 4) for mm in grid.spacing],
            "affine": [[round(float(value), 5) for value in row] for row in grid.affine],
        }
        return shown, Done(Step.GRID, True, sentence, time.perf_counter() - started, details)

    def _sampled_before(self, sequence: Sequence, found: _Found) -> bool:
        before = self.earlier
        return (
            before is not None
            and before.raw.get(sequence) is self.raw[sequence]
            and np.array_equal(before.matrices[sequence], found.matrix)
        )

    def _onto(self, sequence: Sequence, moved: Volume, grid: Grid) -> Volume:
        from engine import alignment

        sampled = alignment.onto(moved, grid)
        empty = background(moved.data)
        if not (sampled.data != background(sampled.data)).any():
            raise GridMismatch(
                f"{moved.name} and {self.raw[self.reference].name} show different places",
                "their scans do not overlap in space",
                "Check that both are of the same patient and the same visit.",
            )
        if sequence in self.stripped:
            # What interpolation spills over the edge of a brain that was cut out would count as brain.
            signal = Volume((moved.data != empty).astype(np.float32), moved.grid)
            sampled.data[sequences.resample(signal, grid).data < 0.5] = empty
        return sampled

    # STRIP

    def strip(
        self, shown: dict[Sequence, Volume], progress: Progress
    ) -> tuple[dict[Sequence, Volume], LabelMap | None, Done]:
        started = time.perf_counter()
        switch, before = self.settings.strip, self.last.get(Step.STRIP)
        skulls = [s for s in shown if s not in self.stripped]
        wanted = list(shown) if switch is Switch.ON or self.settings.brain is not None else skulls
        if switch is Switch.OFF or not wanted or self.guessed is not None:
            sentence = "The scans show nothing but brain, so there is no skull to remove."
            if self.guessed is not None:
                sentence = f"{self.guessed.name} does not say which way the head lies in it, so nothing was removed."
            elif skulls:
                sentence = "The skull was left on, as asked."
            return shown, None, Done(Step.STRIP, False, sentence, time.perf_counter() - started)
        if (
            before is not None
            and before.settings.strip is switch
            and before.settings.brain is self.settings.brain
            and before.shown.volumes.keys() == shown.keys()
            and all(before.shown[s] is shown[s] for s in shown)
        ):
            return dict(before._stripped), before.brain, before.of(Step.STRIP)
        from engine import brain as stripping

        progress.update(0.0, "looking for the brain")
        grid = next(iter(shown.values())).grid
        by_hand = self.settings.brain is not None
        mask = self._brain_by_hand(grid) if by_hand else self._brain(shown, skulls or list(shown), progress)
        if not mask.any():
            self.doubts.append(_NO_BRAIN)
            return shown, None, Done(Step.STRIP, False, _NO_BRAIN, time.perf_counter() - started)
        stripped = dict(shown)
        for number, sequence in enumerate(wanted):
            progress.update(0.8 + 0.2 * number / len(wanted), f"removing the skull from {sequence.title}")
            stripped[sequence] = stripping.strip(shown[sequence], mask)
        brain = LabelMap(mask.astype(np.uint8), grid)
        ml = brain.ml(mask)
        sentence = f"The skull was removed from {in_words(wanted)}; {ml:,.0f} ml of brain are left."
        details = {
            "brain_ml": round(ml, 1),
            "sequences": [s.value for s in wanted],
            "by_hand": by_hand,
            "brain_of": [s.value for s in self.stripped] if self.stripped and not by_hand else [],
        }
        if by_hand:
            sentence = f"What lies outside the brain as drawn was removed; {ml:,.0f} ml are left."
        elif self.stripped and skulls:
            sentence = (
                f"{in_words(skulls)} {'was' if len(skulls) == 1 else 'were'} cut to the brain that "
                f"{in_words(self.stripped)} {'shows' if len(self.stripped) == 1 else 'show'}, {ml:,.0f} ml."
            )
        return stripped, brain, Done(Step.STRIP, True, sentence, time.perf_counter() - started, details)

    def _brain(self, shown: _Volumes, skulls: list[Sequence], progress: Progress) -> Mask:
        """From the network; where a sequence came stripped, whoever stripped it knew better."""
        from engine import brain as stripping

        part = progress.part(0.0, 0.8)
        found: Mask = stripping.find_brain([shown[s] for s in skulls], part)
        cut = {s: shown[s] for s in shown if s in self.stripped and s not in skulls}
        if not cut:
            return found
        from scipy import ndimage

        signal = np.zeros(found.shape, bool)
        seen = np.zeros(found.shape, bool)
        for sequence, volume in cut.items():
            progress.check()
            signal |= volume.data != background(volume.data)
            scanned = np.ones(self.raw[sequence].data.shape, np.float32)
            moved = _moved_grid(self.raw[sequence], self.found[sequence].matrix)
            seen |= sequences.resample(Volume(scanned, moved), volume.grid).data >= 0.5
        whole: Mask = ndimage.binary_fill_holes(signal)
        return whole | (found & ~seen)

    def _brain_by_hand(self, grid: Grid) -> Mask:
        drawn = self.settings.brain
        assert drawn is not None
        inside: Mask = (drawn if drawn.grid.same_as(grid) else sequences.resample_label_map(drawn, grid)).data > 0
        return inside

    # BIAS

    def correct(
        self, stripped: dict[Sequence, Volume], brain: LabelMap | None, progress: Progress
    ) -> tuple[dict[Sequence, Volume], Done]:
        started = time.perf_counter()
        switch, before = self.settings.bias, self.last.get(Step.BIAS)
        if switch is Switch.OFF or self.guessed is not None:
            asked = "The brightness was left as it is, as asked."
            return stripped, Done(Step.BIAS, False, asked, time.perf_counter() - started)
        if switch is Switch.AUTO and not (BIAS_HELPS and brain is not None):
            why = "The brightness was left as it is" + ("; correcting it made no masks better." if brain else ".")
            return stripped, Done(Step.BIAS, False, why, time.perf_counter() - started)
        kept = {
            s: before.subject[s]
            for s, volume in stripped.items()
            if before is not None and before._stripped.get(s) is volume
        }
        if before is not None and len(kept) == len(stripped) == len(before.raw):
            return kept, before.of(Step.BIAS)
        from engine import bias

        inside = brain.data > 0 if brain is not None else np.zeros(next(iter(stripped.values())).data.shape, bool)
        for volume in stripped.values() if brain is None else ():
            inside |= volume.data != background(volume.data)
        corrected, changes = dict(stripped), {}
        for number, (sequence, volume) in enumerate(stripped.items()):
            part = progress.part(number / len(stripped), (number + 1) / len(stripped))
            part.update(0.0, f"evening out the brightness of {sequence.title}")
            corrected[sequence] = kept[sequence] if sequence in kept else bias.correct(volume, inside, part)
            changes[sequence] = _change(volume, corrected[sequence], inside)
        told = [f"{s.title} by up to {100 * changes[s]:.0f} %" for s in changes]
        sentence = f"Slow changes of brightness were divided out of {', '.join(told)}."
        details = {"largest_change": {s.value: round(change, 3) for s, change in changes.items()}}
        return corrected, Done(Step.BIAS, True, sentence, time.perf_counter() - started, details)


def motion(matrix: Affine, grid: Grid) -> tuple[float, float]:
    """How far a rigid matrix moves the middle of a grid, in mm, and by how many degrees it turns."""
    middle = grid.to_world((np.array([grid.shape]) - 1) / 2)[0]
    moved = float(np.linalg.norm(matrix[:3, :3] @ middle + matrix[:3, 3] - middle))
    turn = matrix[:3, :3]
    # Half the length of the difference of both diagonals: exact for small angles, where the arc cosine is not.
    twist = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return moved, float(np.degrees(np.arctan2(np.linalg.norm(twist), np.trace(turn) - 1)))


def _moved_grid(volume: Volume, matrix: Affine) -> Grid:
    return Grid(volume.grid.shape, matrix @ volume.grid.affine)


def _change(before: Volume, after: Volume, inside: Mask) -> float:
    """By what share of the brightness a correction changed the brain, at most of 98 voxels in 100."""
    old, new = before.data[inside][::17], after.data[inside][::17]
    lit = old > 0
    if not lit.any():
        return 0.0
    ratio = new[lit] / old[lit]
    # A factor for the whole image changes nothing.
    return float(np.percentile(np.abs(ratio / np.median(ratio) - 1), 98))


def _edges(inside: Mask, region: str, mask: LabelMap | Segmentation) -> FloatArray:
    """A field ``(I, J, K)`` that is 0.5 on the outline of a region, 1 inside and 0 outside.

    Between voxels on either side of the outline it says how near to it they are, from the probabilities where there are
    some; a voxel that was painted, erased or removed is certain.
    """
    field: FloatArray = inside.astype(np.float32)
    # A result that was kept in a case has lost its probabilities.
    if isinstance(mask, LabelMap) or region not in mask.probabilities:
        return field
    margin = mask.probabilities[region] - np.float32(mask.card.threshold[region])
    as_found = (margin >= 0) == inside
    near = as_found & (np.abs(margin) < _EDGE)
    field[near] = 0.5 + margin[near] / (2 * _EDGE)
    return field


def _sampled(field: FloatArray, source: Grid, target: Grid, around: Mask) -> Mask:
    """Where a field of `_edges` is at least one half at the voxels of another grid; only the part around a mask."""
    here = bounding_box(around)
    inside = np.zeros(target.shape, bool)
    if here is None:
        return inside
    # As far as linear interpolation and the blur for coarser voxels can reach.
    reach = np.ceil(2 + 2 * max(target.spacing) / np.array(source.spacing)).astype(int)
    low = np.maximum([axis.start for axis in here] - reach, 0)
    high = np.minimum([axis.stop for axis in here] + reach, source.shape)
    corners = np.array([[(low, high - 1)[n][axis] for axis, n in enumerate(which)] for which in np.ndindex(2, 2, 2)])
    there = target.to_voxel(source.to_world(corners))
    first = np.maximum(np.floor(there.min(axis=0)).astype(int), 0)
    last = np.minimum(np.ceil(there.max(axis=0)).astype(int) + 1, target.shape)
    if (first >= last).any():
        return inside
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    cut = field[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
    sampled = sequences.resample(Volume(cut, _cut(source, low, high)), _cut(target, first, last))
    inside[box] = sampled.data >= 0.5
    return inside


def _cut(grid: Grid, first: Any, last: Any) -> Grid:
    """The part of a grid from the voxel ``first`` to before ``last``."""
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(np.array([first]))[0]
    i, j, k = (int(n) for n in np.asarray(last) - np.asarray(first))
    return Grid((i, j, k), affine)


def _packed(brain: LabelMap) -> dict[str, Any]:
    voxels = np.packbits(brain.data.ravel(order="F") > 0)
    packed = base64.b64encode(zlib.compress(voxels.tobytes(), 9)).decode("ascii")
    return {"shape": list(brain.grid.shape), "affine": brain.grid.affine.tolist(), "voxels": packed}


def _unpacked(record: Mapping[str, Any]) -> LabelMap:
    i, j, k = (int(n) for n in record["shape"])
    grid = Grid((i, j, k), np.array(record["affine"], np.float64))
    count = i * j * k
    if count > _MOST_VOXELS:
        raise ValueError("the brain mask is larger than any scan")
    inflate = zlib.decompressobj()
    # Never more than the shape needs: a few bytes can unpack to gigabytes.
    bits = inflate.decompress(base64.b64decode(record["voxels"], validate=True), (count + 7) // 8 + 1)
    if len(bits) != (count + 7) // 8:
        raise ValueError("the brain mask does not have as many voxels as it says")
    voxels = np.unpackbits(np.frombuffer(bits, np.uint8), count=count)
    return LabelMap(voxels.reshape(grid.shape, order="F"), grid)
