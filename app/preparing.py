"""Looking at what was done to the scans before segmenting, and doing it otherwise.

The steps are `engine.pipeline`'s and the session runs them. Here is what a person does with them: look at a step before
and after, hold a scan against the one it was moved onto, push it into place by hand, draw on the brain's outline, and
have the steps done again. Nothing of that changes the patient until it is used; `ViewerModel.check` shows it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QObject, QTimer, Signal

from app import tasks
from app.correcting import RADIUS_RANGE_MM, Hand, Tool
from app.jobs import Jobs, Queue
from app.session import Session, Stage
from app.theme import CHECK
from app.viewer_model import Check, Layout, Picture, Plane, Point, ViewerModel, Way
from engine.volume import Affine, LabelMap, Sequence, Volume

if TYPE_CHECKING:
    from engine.editing import Edit, Editor, Stroke
    from engine.pipeline import Step, Switch, Worked

# After the last of several small pushes, so that the fit is measured once and not ten times.
MEASURE_AFTER_MS = 200
STEP_MM = 1.0
STEP_DEG = 1.0
FINE = 0.2
FURTHEST_MM = 200.0

Vector = tuple[float, float, float]
NOTHING: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Nudge:
    """By how much a scan was pushed by hand.

    Attributes:
        shift_mm: To the patient's right, front and head.
        turn_deg: About the axes that point there.
        about: The point in mm that turning leaves where it is: where the crosshair was when turning began.
        start: What `engine.alignment.align` found from here, to begin with instead of what it found before; None for
            that.
    """

    shift_mm: Vector = NOTHING
    turn_deg: Vector = NOTHING
    about: Vector = NOTHING
    start: tuple[tuple[float, ...], ...] | None = None

    @property
    def nothing(self) -> bool:
        """Whether the scan lies where it was put."""
        return self.shift_mm == NOTHING and self.turn_deg == NOTHING and self.start is None


class Preparation(QObject):
    """What the user does with the steps.

    Signals:
        changed: Another step is looked at or in another way; a scan was pushed; the steps are others.
        hand_changed: Another brush is in hand for the brain, or none.
        brain_changed: The outline of the brain was drawn on.
    """

    changed = Signal()
    hand_changed = Signal()
    brain_changed = Signal()

    def __init__(self, model: ViewerModel, session: Session, jobs: Jobs, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._model, self._session, self._jobs = model, session, jobs
        self._step: Step | None = None
        self._sequence: Sequence | None = None
        self._way = Way.ALONE
        self._at_before = False
        self._pair: tuple[Volume, Volume] | None = None
        self._nudge = Nudge()
        self._fit = ""
        self._aligning = False
        self._editor: Editor | None = None
        self._stroke: Stroke | None = None
        self._hand = Hand(ball=True)
        self._layout_before: Layout | None = None
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(MEASURE_AFTER_MS)
        self._later.timeout.connect(self._measure)
        session.prepared_changed.connect(self._follow)
        session.patient_changed.connect(self._follow)
        session.stage_changed.connect(self.changed)

    # What is there

    @property
    def worked(self) -> Worked | None:
        """What was done to the scans."""
        return self._session.worked

    @property
    def step(self) -> Step | None:
        """The step that is looked at."""
        return self._step

    @property
    def sequence(self) -> Sequence | None:
        """The sequence that it is looked at on."""
        return self._sequence

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """The sequences that the step can be looked at on: for the alignment all that were to be moved."""
        from engine.pipeline import Step

        worked = self.worked
        if worked is None or self._step is None:
            return ()
        moving = self._step is Step.ALIGN
        return tuple(s for s in worked.shown if not moving or s is not worked.reference)

    @property
    def ways(self) -> tuple[Way, ...]:
        """In which ways the step can be looked at."""
        from engine.pipeline import Step

        return tuple(Way) if self._step is Step.ALIGN else (Way.ALONE, Way.SWIPE)

    @property
    def way(self) -> Way:
        """How the two pictures are held against each other."""
        return self._way

    @property
    def at_before(self) -> bool:
        """Whether the scan is seen as it was before the step."""
        return self._at_before

    @property
    def why_not(self) -> str:
        """Why nothing can be done again, in words; empty when it can."""
        if self._session.stage not in (Stage.READY, Stage.DONE):
            return "Wait until the work under way is done."
        return "" if self._session.files is not None else "Open a patient first."

    def why_not_looked_at(self, step: Step) -> str:
        """Why there is nothing to look at in a step, in words; empty when there is."""
        from engine.pipeline import Step

        worked = self.worked
        if worked is None:
            return "This was not done yet."
        if step is Step.ALIGN:
            return "" if len(worked.shown) > 1 else "There is one sequence: nothing to align it with."
        return "" if worked.of(step).did else "Nothing was changed in this step."

    # Looking

    def look(self, step: Step) -> None:
        """Look at a step; once more, and it is put away."""
        if self._step is step:
            self.stop_looking()
            return
        if self.why_not_looked_at(step):
            return
        self.stop_looking()
        from engine.pipeline import Step

        self._step = step
        shown = self._model.shown
        possible = self.sequences
        worked = self.worked
        if shown in possible:
            self._sequence = shown
        elif worked is not None and step is Step.ALIGN:
            # Where most was moved there is most to see.
            self._sequence = max(possible, key=lambda s: float(np.abs(worked.matrices[s] - np.eye(4)).sum()))
        else:
            self._sequence = possible[0]
        self._way = Way.CHECKERBOARD if step is Step.ALIGN else Way.ALONE
        if self._model.layout in (Layout.SEQUENCES, Layout.COMPARE):
            self._layout_before = self._model.layout
            self._model.set_layout(Layout.PLANES)
        self._load()

    def stop_looking(self) -> None:
        """Look at scan and masks again; what was pushed or drawn and not used is given up."""
        if self._step is None:
            return
        self._step = self._sequence = self._pair = None
        self._forget_hands()
        self._at_before = False
        self._model.set_check(None)
        before, self._layout_before = self._layout_before, None
        if before is not None:
            self._model.set_layout(before)
        self.changed.emit()
        self.hand_changed.emit()

    def look_on(self, sequence: Sequence) -> None:
        """Look at the step on another sequence."""
        if sequence in self.sequences and sequence is not self._sequence and not self.unused:
            self._sequence = sequence
            self._nudge, self._fit = Nudge(), ""
            self._load()

    def set_way(self, way: Way) -> None:
        """Hold the two pictures against each other in another way."""
        if way in self.ways:
            self._way = way
            if way is Way.SWIPE and self._step is not None:
                self._at_before = False
            self._show()

    def set_before(self, before: bool) -> None:
        """See the scan as it was before the step, or after it."""
        if self._step is not None and before != self._at_before:
            self._at_before = before
            self._show()

    def _load(self) -> None:
        """Get both pictures: the scan itself for the alignment, which moves no voxel; else what the step kept."""
        from engine.pipeline import Step

        worked, step, sequence = self.worked, self._step, self._sequence
        if worked is None or step is None or sequence is None:
            return
        if step is Step.ALIGN:
            self._pair = (worked.raw[sequence], worked.raw[sequence])
            self._show()
            return

        def there(pair: tuple[Volume, Volume]) -> None:
            if (self.worked, self._step, self._sequence) == (worked, step, sequence):
                self._pair = pair
                self._show()

        self._pair = None
        self._show()
        self._jobs.run(
            tasks.look_at,
            worked,
            step,
            sequence,
            on_finished=there,
            on_failed=lambda error: self._session.fail(error, "Looking at the step stopped"),
            topic="look at step",
        )

    def _show(self) -> None:
        """Put what is looked at on the screen."""
        from engine.alignment import moved
        from engine.pipeline import Step

        worked, step, sequence, pair = self.worked, self._step, self._sequence, self._pair
        if worked is None or step is None or sequence is None or pair is None:
            self._model.set_check(None)
            self.changed.emit()
            return
        before, after = pair
        reference = None
        if step is Step.ALIGN:
            after = moved(after, self.matrix)
            reference = Picture(worked.shown[worked.reference], worked.reference, worked.reference.title)
        self._model.set_check(
            Check(
                before=Picture(before, sequence, f"{sequence.title} before"),
                after=Picture(after, sequence, sequence.title if reference is not None else f"{sequence.title} after"),
                reference=reference,
                way=self._way,
                at_before=self._at_before,
                brain=self.brain if step is Step.STRIP else None,
            )
        )
        self.changed.emit()

    # Doing it otherwise

    def switch(self, step: Step) -> None:
        """Undo a step that was done, or do one that was not: where it is needed first, and asked again in any case."""
        from engine.pipeline import Step, Switch

        worked = self.worked
        settings = self._session.settings
        if worked is not None and worked.of(step).did:
            after = Switch.OFF
        else:
            after = Switch.AUTO if self.switch_of(step) is Switch.OFF else Switch.ON
        self.stop_looking()
        if step is Step.ALIGN:
            # Undone is where the headers put the scans, also for those put elsewhere by hand.
            settings = replace(settings, align=after, matrices={})
        elif step is Step.STRIP:
            settings = replace(settings, strip=after)
        elif step is Step.BIAS:
            settings = replace(settings, bias=after)
        self._session.prepare(settings)

    def switch_of(self, step: Step) -> Switch:
        """What was asked for of a step."""
        switch: Switch = getattr(self._session.settings, step.value)
        return switch

    def set_reference(self, sequence: Sequence | None) -> None:
        """Move all others onto this sequence; onto the one that suits best for None."""
        settings = self._session.settings
        if sequence is not settings.reference:
            self.stop_looking()
            # What was done by hand led to another place.
            self._session.prepare(replace(settings, reference=sequence, matrices={}, brain=None))

    def again(self) -> None:
        """Do the steps that were stopped."""
        self._session.prepare(self._session.settings)

    # Pushing a scan into place

    @property
    def nudge(self) -> Nudge:
        """By how much the scan that is looked at was pushed."""
        return self._nudge

    @property
    def matrix(self) -> Affine:
        """``(4, 4)``: where the scan that is looked at lies with the push, from the world of its file."""
        from engine import alignment

        worked, nudge = self.worked, self._nudge
        if worked is None or self._sequence is None:
            return np.eye(4)
        start = worked.matrices[self._sequence] if nudge.start is None else np.array(nudge.start, np.float64)
        return alignment.nudge(start, nudge.shift_mm, nudge.turn_deg, nudge.about)

    @property
    def nudging(self) -> bool:
        """Whether a scan can be pushed now."""
        if self._step is None:
            return False
        from engine.pipeline import Step

        return self._step is Step.ALIGN and self._pair is not None

    @property
    def by_hand(self) -> bool:
        """Whether the scan that is looked at lies where it was put by hand."""
        return self._sequence in self._session.settings.matrices

    @property
    def brain_by_hand(self) -> bool:
        """Whether the brain is outlined as it was drawn by hand."""
        return self._session.settings.brain is not None

    @property
    def fit(self) -> str:
        """How well the pushed scan fits, in words; empty while that is not known."""
        return self._fit

    @property
    def aligning(self) -> bool:
        """Whether the place of the scan is being looked for from where it was pushed."""
        return self._aligning

    def push(self, axis: int, mm: float) -> None:
        """Push the scan along an axis of the patient: 0 right, 1 front, 2 head."""
        shift = list(self._nudge.shift_mm)
        shift[axis] = float(np.clip(shift[axis] + mm, -FURTHEST_MM, FURTHEST_MM))
        self._set_nudge(replace(self._nudge, shift_mm=(shift[0], shift[1], shift[2])))

    def push_by(self, mm: Point) -> None:
        """Push the scan along all axes at once, as the pointer does."""
        x, y, z = np.clip(np.array(self._nudge.shift_mm) + mm, -FURTHEST_MM, FURTHEST_MM)
        self._set_nudge(replace(self._nudge, shift_mm=(float(x), float(y), float(z))))

    def turn(self, axis: int, degrees: float) -> None:
        """Turn the scan about an axis of the patient through the crosshair."""
        nudge = self._nudge
        turned = list(nudge.turn_deg)
        turned[axis] = float((turned[axis] + degrees + 180.0) % 360.0 - 180.0)
        about = nudge.about
        if nudge.turn_deg == NOTHING:
            x, y, z = self._model.crosshair
            about = (float(x), float(y), float(z))
        self._set_nudge(replace(nudge, turn_deg=(turned[0], turned[1], turned[2]), about=about))

    def reset_nudge(self) -> None:
        """Take the push back."""
        self._set_nudge(Nudge())

    def use_nudge(self) -> None:
        """Leave the scan where it was pushed to, and do the steps after it again."""
        sequence = self._sequence
        if sequence is None or not self.nudging or self._nudge.nothing:
            return
        settings = self._session.settings
        matrices = {**settings.matrices, sequence: self.matrix}
        self._redo_after_look(replace(settings, matrices=matrices, reference=self._reference(), brain=None))

    def forget_hand_matrix(self) -> None:
        """Let the program find the place of the scan again."""
        settings = self._session.settings
        matrices = {s: matrix for s, matrix in settings.matrices.items() if s is not self._sequence}
        self._redo_after_look(replace(settings, matrices=matrices))

    def _redo_after_look(self, settings: object) -> None:
        self.stop_looking()
        self._session.prepare(settings)  # type: ignore[arg-type]

    def _reference(self) -> Sequence | None:
        # A place found by hand is one relative to this reference, whatever would be chosen next time.
        return self.worked.reference if self.worked is not None else None

    def align_from_here(self) -> None:
        """Look for the scan's place beginning from where it was pushed; it is shown, and used when the user says so."""
        worked, sequence = self.worked, self._sequence
        if worked is None or sequence is None or not self.nudging or self._aligning:
            return
        self._aligning = True
        self._jobs.run(
            tasks.align_from,
            worked,
            sequence,
            self.matrix,
            on_finished=lambda found: self._aligned(worked, sequence, *found),
            on_failed=self._not_aligned,
            on_cancelled=lambda: self._not_aligned(None),
            queue=Queue.COMPUTING,
            topic="align from here",
        )
        self.changed.emit()

    def _aligned(self, worked: Worked, sequence: Sequence, matrix: Affine, words: str) -> None:
        self._aligning = False
        if self.worked is worked and self._sequence is sequence and self.nudging:
            self._nudge = Nudge(start=tuple(tuple(float(v) for v in row) for row in matrix))
            self._fit = words
            self._show()
        self.changed.emit()

    def _not_aligned(self, error: Exception | None) -> None:
        self._aligning = False
        self.changed.emit()
        if error is not None:
            self._session.fail(error, "Aligning stopped")

    def _set_nudge(self, nudge: Nudge) -> None:
        if not self.nudging or self._aligning or nudge == self._nudge:
            return
        self._nudge = nudge
        # Who pushes wants to see where to.
        self._at_before = False
        self._fit = ""
        self._show()
        self._later.start()

    def _measure(self) -> None:
        worked, sequence, nudge = self.worked, self._sequence, self._nudge
        if worked is None or sequence is None or not self.nudging:
            return

        def measured(words: str) -> None:
            if self._nudge == nudge and self._sequence is sequence:
                self._fit = words
                self.changed.emit()

        self._jobs.run(
            tasks.fit_of,
            worked,
            sequence,
            self.matrix,
            on_finished=measured,
            on_failed=lambda error: self._session.fail(error, "Measuring the fit stopped"),
            topic="fit",
        )

    # Drawing on the brain's outline; a brush asks for what `Corrections` has too

    @property
    def brain(self) -> LabelMap | None:
        """The brain as it is outlined now."""
        if self._editor is not None:
            return self._editor.labels
        return self.worked.brain if self.worked is not None else None

    @property
    def drawable(self) -> bool:
        """Whether the brain can be drawn on now."""
        if self._step is None:
            return False
        from engine.pipeline import Step

        return self._step is Step.STRIP and self.brain is not None

    @property
    def hand(self) -> Hand:
        """The brush in hand for the brain."""
        return self._hand

    @property
    def colour(self) -> str:
        """Of the brush."""
        return CHECK

    @property
    def applied(self) -> tuple[Edit, ...]:
        """The strokes, first to last."""
        return self._editor.applied if self._editor is not None else ()

    @property
    def undone(self) -> tuple[Edit, ...]:
        """The strokes that can be brought again, next to last."""
        return self._editor.undone if self._editor is not None else ()

    @property
    def drawn(self) -> int:
        """How many strokes there are."""
        return len(self.applied)

    @property
    def unused(self) -> bool:
        """Whether something was pushed or drawn that is not used yet."""
        return not self._nudge.nothing or self.drawn > 0

    @property
    def brain_ml(self) -> float | None:
        """The volume of the brain as it is outlined now."""
        if self._editor is not None:
            return self._editor.volumes_ml["whole_tumour"]
        brain = self.brain
        return brain.ml(brain.data > 0) if brain is not None else None

    def take(self, **changes: object) -> None:
        """Change some of `Hand`: ``take(tool=Tool.PAINT)``."""
        if "radius_mm" in changes:
            changes["radius_mm"] = float(np.clip(float(str(changes["radius_mm"])), *RADIUS_RANGE_MM))
        hand = replace(self._hand, **changes)  # type: ignore[arg-type]
        if not self.drawable:
            hand = replace(hand, tool=Tool.LOOK)
        if hand != self._hand:
            self.end_stroke()
            self._hand = hand
            if hand.tool is not Tool.LOOK and not self._at_before:
                # The outline is judged on what lies outside it too.
                self.set_before(True)
            self.hand_changed.emit()

    def begin_stroke(self, world: Point, plane: Plane, inverse: bool = False) -> None:
        """Put the brush down at a point in mm of a plane; with ``inverse`` painting erases and erasing paints."""
        from engine.editing import Brush, Editor, Region
        from engine.volume import REST_OF_WHOLE_TUMOUR

        brain = self.brain
        if not self.drawable or brain is None or self._stroke is not None or self._hand.tool is Tool.LOOK:
            return
        if self._editor is None:
            # For the editor the brain is a region like any other: the one that holds no other.
            inside = np.where(brain.data > 0, np.uint8(REST_OF_WHOLE_TUMOUR), np.uint8(0))
            self._editor = Editor(LabelMap(inside, brain.grid))
            self._show()
        erase = (self._hand.tool is Tool.ERASE) != inverse
        self._stroke = self._editor.stroke(Brush(self._hand.radius_mm, self._hand.ball), Region.WHOLE_TUMOUR, erase)
        self.go_on(world, plane)

    def go_on(self, world: Point, plane: Plane) -> None:
        """Draw to another point."""
        from engine.editing import Slice

        if self._stroke is not None and self._editor is not None:
            box = self._stroke.reach(world, Slice.at(self._editor.grid, plane.value, world))
            if box is not None:
                self._model.check_changed.emit()
                self.brain_changed.emit()

    def end_stroke(self) -> None:
        """Lift the brush: what was drawn is one change."""
        stroke, self._stroke = self._stroke, None
        if stroke is not None:
            stroke.end()
            self._drawn()

    @property
    def drawing(self) -> bool:
        """Whether a stroke is under way."""
        return self._stroke is not None

    def cancel_stroke(self) -> None:
        """Lift the brush and take back what was drawn."""
        stroke, self._stroke = self._stroke, None
        if stroke is not None:
            stroke.cancel()
            self._drawn()

    def remove_island(self, world: Point, plane: Plane) -> None:
        """Take away the connected piece at a point; the brain is one piece, so there is nothing to do."""

    def undo(self) -> None:
        """Take the last stroke back."""
        self._turn(lambda editor: editor.undo())

    def redo(self) -> None:
        """Bring a stroke back."""
        self._turn(lambda editor: editor.redo())

    def _turn(self, act: Callable[[Editor], object]) -> None:
        if self._editor is not None and self._stroke is None:
            act(self._editor)
            self._drawn()

    def _drawn(self) -> None:
        self._show()
        self.brain_changed.emit()
        self.hand_changed.emit()

    def reset_brain(self) -> None:
        """Take all strokes back."""
        self.end_stroke()
        self._editor = None
        self._drawn()

    def use_brain(self) -> None:
        """Strip with the brain as it was drawn, and do the steps after it again."""
        editor = self._editor
        if editor is None or not self.drawn:
            return
        brain = LabelMap((editor.labels.data > 0).astype(np.uint8), editor.grid)
        self._redo_after_look(replace(self._session.settings, brain=brain))

    def forget_hand_brain(self) -> None:
        """Let the program find the brain again."""
        self._redo_after_look(replace(self._session.settings, brain=None))

    # Inside

    def _forget_hands(self) -> None:
        self._nudge, self._fit, self._aligning = Nudge(), "", False
        self._later.stop()
        for topic in ("fit", "align from here", "look at step"):
            self._jobs.drop(topic)
        self._stroke = self._editor = None
        self._hand = replace(self._hand, tool=Tool.LOOK)

    def _follow(self) -> None:
        """There are other steps, or another patient: what was looked at is no more."""
        if self._step is not None and self._model.check is None and self._pair is not None:
            self._step = self._sequence = self._pair = None
            self._forget_hands()
            self.hand_changed.emit()
        self.changed.emit()
