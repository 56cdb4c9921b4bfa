"""Correcting the mask by hand: which tool is in hand, what it does to the label map, and the way back.

The voxels are `engine.editing`'s business. Here a change becomes visible: the views are told which voxels changed, the
session gets the corrected result, so that everything that saves or shows it says so, and what is known of the whole
mask (areas, histograms, the largest slice) is worked out again away from the UI thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QObject, QTimer, Signal

from app import tasks
from app.jobs import Jobs
from app.session import Result, Session, Stage
from app.viewer_model import LayerKey, Mask, Plane, Point, ViewerModel
from engine.errors import UserError
from engine.volume import LabelMap, Sequence

if TYPE_CHECKING:
    # Read with the first correction: a window on its way to the screen needs none of it.
    from engine.editing import Edit, Editor, Limit, Region, Slice, Stroke

RADIUS_RANGE_MM = (0.5, 30.0)
RADIUS_STEP = 1.25
GROWTH_RANGE_MM = (0.5, 10.0)
# After the last of several quick changes, so that the mask is looked through once and not ten times.
LOOK_THROUGH_AFTER_MS = 150

NO_RESULT = "There is no mask yet. Segment first."


class Tool(Enum):
    """What the left button does in a picture."""

    LOOK = "look"
    PAINT = "paint"
    ERASE = "erase"
    ISLAND = "island"

    @property
    def draws(self) -> bool:
        """Whether it has a brush."""
        return self in (Tool.PAINT, Tool.ERASE)


@dataclass(frozen=True)
class Hand:
    """What is in hand.

    Attributes:
        tool: The tool.
        core: Whether the core is corrected, or the whole tumour.
        ball: Whether the brush is a ball through all slices and the other tools work in 3-D, or all stay on one slice.
        radius_mm: Of the brush.
        growth_mm: By how much a region is grown or shrunk.
        limited: Whether the brush leaves intensities outside a range alone.
    """

    tool: Tool = Tool.LOOK
    core: bool = False
    ball: bool = False
    radius_mm: float = 5.0
    growth_mm: float = 1.0
    limited: bool = False


class Corrections(QObject):
    """The corrections of the result on the desk.

    Signals:
        hand_changed: Another tool, region, brush or limit.
        changed: A change was made, taken back or brought again; or there is another result, or none.
        said: Why the last wish changed nothing, in words; empty when it did.
        volumes_changed: Volumes by region in ml, during a stroke.
    """

    hand_changed = Signal()
    changed = Signal()
    said = Signal(str)
    volumes_changed = Signal(object)

    def __init__(self, model: ViewerModel, session: Session, jobs: Jobs, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._model, self._session, self._jobs = model, session, jobs
        self._hand = Hand()
        self._ranges: dict[LayerKey, tuple[float, float]] = {}
        self._editor: Editor | None = None
        self._result: Result | None = None
        self._stroke: Stroke | None = None
        self._original: Result | None = None
        self._given_out = False
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(LOOK_THROUGH_AFTER_MS)
        self._later.timeout.connect(self._look_through)
        session.result_changed.connect(self._follow)
        model.layers_changed.connect(self._ranges.clear)
        for signal in (model.layers_changed, model.shown_changed):
            signal.connect(self.hand_changed)
        self._follow()

    # What is there

    @property
    def why_not(self) -> str:
        """Why nothing can be corrected, in words; empty when it can."""
        if self._result is None:
            return NO_RESULT
        return "" if self._session.stage is Stage.DONE else "Wait until the work under way is done."

    @property
    def editor(self) -> Editor | None:
        """The label map being corrected and its history; None before the first correction."""
        return self._editor

    @property
    def original(self) -> Result | None:
        """The result without corrections, as the model or a case gave it."""
        return self._original

    @property
    def drawing(self) -> bool:
        """Whether a stroke is under way."""
        return self._stroke is not None

    @property
    def applied(self) -> tuple[Edit, ...]:
        """The changes in the mask, first to last."""
        return self._editor.applied if self._editor is not None else ()

    @property
    def undone(self) -> tuple[Edit, ...]:
        """The changes that can be brought again, next to last."""
        return self._editor.undone if self._editor is not None else ()

    # The hand

    @property
    def hand(self) -> Hand:
        """What is in hand."""
        return self._hand

    @property
    def colour(self) -> str:
        """Of the region in hand."""
        overlay = self._model.overlay
        return overlay.core if self._hand.core else overlay.whole_tumour

    def take(self, **changes: object) -> None:
        """Change some of `Hand`: ``take(tool=Tool.PAINT)``. Without a result there is nothing but to look."""
        if "radius_mm" in changes:
            changes["radius_mm"] = min(max(float(str(changes["radius_mm"])), RADIUS_RANGE_MM[0]), RADIUS_RANGE_MM[1])
        hand = replace(self._hand, **changes)  # type: ignore[arg-type]
        if self._result is None:
            hand = replace(hand, tool=Tool.LOOK)
        if hand != self._hand:
            self.end_stroke()
            self._hand = hand
            self.hand_changed.emit()

    @property
    def limit_why_not(self) -> str:
        """Why the brush cannot be limited to intensities of the scan on screen; empty when it can."""
        layer, result = self._model.layer, self._result
        if layer is None or result is None:
            return NO_RESULT
        if layer.volume.grid.shape != result.segmentation.label_map.grid.shape or not layer.volume.grid.same_as(
            result.segmentation.label_map.grid
        ):
            return f"{self.layer_name} lies on another grid than the mask."
        return ""

    @property
    def layer_name(self) -> str:
        """What the scan on screen is called."""
        shown = self._model.shown
        return shown.title if isinstance(shown, Sequence) else "This scan"

    @property
    def intensities(self) -> tuple[float, float]:
        """The range of the scan on screen that a limited brush works in: at first most of the tumour's own."""
        shown, layer = self._model.shown, self._model.layer
        if shown is None or layer is None:
            return 0.0, 1.0
        if shown not in self._ranges:
            low, high = layer.span
            labels = self._model.labels
            if labels is not None and not self.limit_why_not:
                inside = layer.volume.data[labels.data > 0]
                if inside.size:
                    low, high = (float(value) for value in np.percentile(inside, (5, 95)))
            self._ranges[shown] = (low, high)
        return self._ranges[shown]

    def set_intensities(self, low: float, high: float) -> None:
        """Another range for the scan on screen."""
        shown = self._model.shown
        if shown is not None:
            self._ranges[shown] = (low, max(low, high))
            self.hand_changed.emit()

    # Strokes

    def begin_stroke(self, world: Point, plane: Plane, inverse: bool = False) -> None:
        """Put the brush down at a point in mm of a plane; with ``inverse`` painting erases and erasing paints."""
        from engine.editing import Brush

        editor = self._open()
        if editor is None or self._stroke is not None:
            return
        hand = self._hand
        erase = (hand.tool is Tool.ERASE) != inverse
        self._stroke = editor.stroke(Brush(hand.radius_mm, hand.ball), self._region(), erase, self._limit())
        self.go_on(world, plane)

    def go_on(self, world: Point, plane: Plane) -> None:
        """Draw to another point."""
        if self._stroke is not None and self._editor is not None:
            box = self._stroke.reach(world, self._at(plane, world))
            if box is not None:
                self._model.edit_labels(box)
                self.volumes_changed.emit(self._editor.volumes_ml)

    def end_stroke(self) -> None:
        """Lift the brush: what was drawn is one change."""
        stroke, self._stroke = self._stroke, None
        if stroke is not None:
            self._made(stroke.end())

    def cancel_stroke(self) -> None:
        """Lift the brush and take back what was drawn."""
        stroke, self._stroke = self._stroke, None
        if stroke is not None:
            box = stroke.cancel()
            if box is not None:
                self._model.edit_labels(box)
            if self._editor is not None:
                self.volumes_changed.emit(self._editor.volumes_ml)

    # Everything else that changes the mask

    def use_at(self, world: Point, plane: Plane) -> None:
        """Use the tool in hand once at a point: a dab, or the island there."""
        if self._hand.tool.draws:
            self.begin_stroke(world, plane)
            self.end_stroke()
        elif self._hand.tool is Tool.ISLAND:
            self.remove_island(world, plane)

    def remove_island(self, world: Point, plane: Plane) -> None:
        """Take away the connected piece at a point."""
        self._do(
            lambda editor: editor.remove_island(self._region(), world, self._extent(plane)),
            f"There is no {self._region().words} at this place.",
        )

    def fill_holes(self, plane: Plane) -> None:
        """Fill what the region encloses."""
        where = "" if self._hand.ball else " on this slice"
        self._do(
            lambda editor: editor.fill_holes(self._region(), self._extent(plane)),
            f"The {self._region().words} has no holes{where}.",
        )

    def grow(self, plane: Plane, sign: int) -> None:
        """Move the region's surface by the growth in hand: outwards, or inwards with a negative sign."""
        self._do(
            lambda editor: editor.grow(self._region(), math.copysign(self._hand.growth_mm, sign), self._extent(plane)),
            f"The {self._region().words} did not change: there is none here, or it has no room.",
        )

    def gap(self, plane: Plane) -> tuple[Slice, Slice] | None:
        """The two slices drawn by hand around the crosshair, with others between them."""
        from engine.editing import Slice

        if self._editor is None:
            return None
        at = self._at(plane, self._model.crosshair)
        ends = self._editor.gap(at)
        return (Slice(at.axis, ends[0]), Slice(at.axis, ends[1])) if ends is not None else None

    def interpolate(self, plane: Plane) -> None:
        """Replace the region between the two slices drawn by hand around the crosshair."""
        ends = self.gap(plane)
        if ends is None:
            self.said.emit("Draw on two slices of this plane first, with others between them, and go between the two.")
            return
        self._do(
            lambda editor: editor.interpolate(self._region(), ends[0].axis, ends[0].index, ends[1].index),
            "The slices between are as they should be already.",
        )

    def copy_from(self, other: LabelMap, source: str, everything: bool) -> None:
        """Take the region in hand, or everything, as another result on the same grid has it."""
        region = None if everything else self._region()
        self._do(lambda editor: editor.copy_from(other, source, region), f"{source} is the same there.")

    def copy_from_file(self, path: Path, everything: bool) -> None:
        """Take the region in hand, or everything, from a mask in a file."""
        worked = self._session.worked
        if worked is None:
            return

        def read(labels: LabelMap) -> None:
            self.copy_from(labels, path.name, everything)

        self._jobs.run(
            tasks.read_labels,
            path,
            worked,
            on_finished=read,
            on_failed=lambda error: self._session.fail(error, "Copying stopped"),
            topic="copy",
        )

    # Taking back

    def undo(self, count: int = 1) -> None:
        """Take back the last change, or the last few."""
        self._step(lambda editor: editor.undo(), count)

    def redo(self, count: int = 1) -> None:
        """Bring back what was taken back."""
        self._step(lambda editor: editor.redo(), count)

    def _step(self, turn: Callable[[Editor], Edit | None], count: int) -> None:
        if self._editor is None or self._stroke is not None:
            return
        editor = self._open()
        if editor is None:
            return
        boxes = [edit.box for edit in (turn(editor) for _ in range(count)) if edit is not None]
        for box in boxes:
            self._model.edit_labels(box)
        if boxes:
            self._publish()

    def adopt(self, editor: Editor, original: Result, written: Iterable[str]) -> None:
        """Go on from a result and its corrections that were kept; they take the place of what is on the desk.

        Args:
            editor: The corrections.
            original: The result without them, but for the mask, which is known with them.
            written: SHA-256 of the masks that were saved of it.
        """
        self.end_stroke()
        self._editor, self._original, self._result = editor, original, original
        self._publish(replace(original.mask, labels=editor.labels), written)

    # Inside

    def _follow(self) -> None:
        """There is another result on the desk, or none, or the one that was put there from here."""
        result = self._session.result
        if result is self._result and result is not None:
            return
        self._result, self._editor, self._stroke = result, None, None
        self._original = result
        self._later.stop()
        self._jobs.drop("look through")
        if result is None and self._hand.tool is not Tool.LOOK:
            self._hand = replace(self._hand, tool=Tool.LOOK)
        self.hand_changed.emit()
        self.changed.emit()

    def _open(self) -> Editor | None:
        """The editor, ready for a change; None where nothing can be corrected."""
        result = self._result
        if self.why_not or result is None:
            return None
        if self._editor is None:
            from engine.editing import Editor

            self._editor = Editor(result.segmentation.label_map)
        elif self._given_out:
            # Somebody may be saving or measuring what was given out; that stays as it is.
            self._editor.detach()
        else:
            return self._editor
        self._given_out = False
        self._model.swap_labels(self._editor.labels)
        return self._editor

    def _do(self, act: Callable[[Editor], Edit | None], unchanged: str) -> None:
        editor = self._open()
        if editor is None or self._stroke is not None:
            return
        try:
            edit = act(editor)
        except UserError as error:
            self._session.fail(error, "Correcting stopped")
            return
        if edit is None:
            self.said.emit(unchanged)
        self._made(edit)

    def _made(self, edit: Edit | None) -> None:
        if edit is not None:
            self.said.emit("")
            self._model.edit_labels(edit.box)
            self._publish()

    def _publish(self, mask: Mask | None = None, written: Iterable[str] = ()) -> None:
        """Put the corrected result on the desk."""
        editor, result, original = self._editor, self._result, self._original
        if editor is None or result is None or original is None:
            return
        segmentation = replace(
            result.segmentation,
            label_map=editor.labels,
            volumes_ml=editor.volumes_ml,
            # The interval was measured on what the model finds, not on what somebody made of it.
            intervals_ml=dict.fromkeys(editor.volumes_ml) if editor.applied else original.segmentation.intervals_ml,
            edited_by_hand=len(editor.applied),
        )
        self._result = replace(result, segmentation=segmentation, mask=mask or result.mask)
        if mask is not None:
            self._model.set_mask(mask)
        self._given_out = True
        self._model.count_corrections(len(editor.applied))
        self._session.put_result(self._result, written)
        self._later.start()
        self.changed.emit()

    def _look_through(self) -> None:
        editor, result = self._editor, self._result
        if editor is None or result is None:
            return

        def looked(mask: Mask) -> None:
            if self._editor is editor and self._result is not None:
                mask = replace(mask, labels=editor.labels, probabilities=self._result.mask.probabilities)
                self._result = replace(self._result, mask=mask)
                self._model.correct_mask(mask)
                self._session.put_result(self._result)
                if self._stroke is not None:
                    # The next stroke has begun meanwhile, and the volumes are its own.
                    self.volumes_changed.emit(editor.volumes_ml)

        self._jobs.run(
            tasks.look_through,
            editor.labels,
            self._model.layers,
            on_finished=looked,
            on_failed=lambda error: self._session.fail(error, "Looking through the mask stopped"),
            topic="look through",
        )

    def _region(self) -> Region:
        from engine.editing import Region

        return Region.CORE if self._hand.core else Region.WHOLE_TUMOUR

    def _at(self, plane: Plane, world: Point) -> Slice:
        from engine.editing import Slice

        assert self._editor is not None
        return Slice.at(self._editor.grid, plane.value, world)

    def _extent(self, plane: Plane) -> Slice | None:
        """In 3-D, or on the slice that is looked at."""
        return None if self._hand.ball else self._at(plane, self._model.crosshair)

    def _limit(self) -> Limit | None:
        from engine.editing import Limit

        layer = self._model.layer
        if not self._hand.limited or self.limit_why_not or layer is None:
            return None
        return Limit(layer.volume.data, *self.intensities)
