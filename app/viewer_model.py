"""What is on screen. Views read it and write it, and never talk to each other.

The crosshair and the middle of the picture are points in the patient, in mm, so that planes, sequences and even grids
that differ stay linked without knowing of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Signal

from app.theme import CORE, WHOLE_TUMOUR
from engine.brightness import Brightness
from engine.brightness import Window as Window
from engine.cut import Plane as Plane
from engine.cut import Point as Point
from engine.volume import TUMOUR_CORE, Box, FloatArray, LabelMap, Sequence, Volume

if TYPE_CHECKING:
    from engine.diameters import Diameters
    from engine.figures import Look

LayerKey = Sequence | Path

HISTOGRAM_BINS = 128
ZOOM_RANGE = (0.5, 16.0)


# What black and white are, as shares of the way from the black to the white of the window that suits the tissue.
PRESETS = {"Tissue": (0.0, 1.0), "Wide": (-0.1, 1.6), "Bright": (0.4, 1.15), "Dark": (0.0, 0.55)}


class Layout(Enum):
    """What the window's views show together; the value is how it is remembered."""

    PLANES = "planes"
    SURFACE = "surface"
    PLANE = "plane"
    SEQUENCES = "sequences"
    COMPARE = "compare"


class Side(Enum):
    """Of a comparison: what is judged, and what it is compared with."""

    MAIN = 0
    OTHER = 1


class MaskStyle(Enum):
    """How a mask is drawn."""

    BOTH = "both"
    FILL = "fill"
    OUTLINE = "outline"


class Map(Enum):
    """What is painted over the scan besides the masks."""

    NONE = "none"
    WHOLE_TUMOUR = "whole_tumour"
    CORE = "tumour_core"
    UNCERTAINTY = "uncertainty"
    DISAGREEMENT = "disagreement"

    @property
    def title(self) -> str:
        """Its name on screen."""
        return {
            "none": "Masks, no map",
            "whole_tumour": "Probability of whole tumour",
            "tumour_core": "Probability of core",
            "uncertainty": "Uncertainty",
            "disagreement": "Disagreement",
        }[self.value]


@dataclass(frozen=True, eq=False)
class Layer:
    """A volume and what the window needs to know of all its voxels, worked out once and away from the UI thread.

    Attributes:
        volume: The volume.
        default_window: A window that suits the tissue.
        histogram: ``(HISTOGRAM_BINS,)`` share of the tissue's voxels in each bin, the largest 1.
        span: Intensities of the histogram's two ends.
        content_mm: ``(2, 3)`` opposite corners in mm of the box that holds the head.
    """

    volume: Volume
    default_window: Window
    histogram: FloatArray
    span: tuple[float, float]
    content_mm: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume) -> Layer:
        """Look through a volume; takes about 30 ms for 240 x 240 x 155 voxels."""
        look = Brightness.of(volume)
        return cls(
            volume=volume,
            default_window=look.window,
            histogram=_shares(look.tissue, look.span),
            span=look.span,
            content_mm=look.content_mm,
        )


def _shares(values: NDArray[np.float32], span: tuple[float, float]) -> FloatArray:
    """``(HISTOGRAM_BINS,)`` how common each intensity is, the most common 1, none at all where there are no values."""
    counts, _ = np.histogram(values, bins=HISTOGRAM_BINS, range=span)
    # Files of whole numbers leave every other bin empty; a bell a few bins wide closes the gaps.
    bell = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth = np.convolve(np.pad(counts.astype(np.float64), 6, mode="edge"), bell / bell.sum(), mode="valid")
    # The square root keeps small tissues visible beside large ones.
    shares: FloatArray = np.sqrt(smooth / max(smooth.max(), 1e-9)).astype(np.float32)
    return shares


@dataclass(frozen=True, eq=False)
class Mask:
    """A label map and what the window needs to know of all its voxels; worked out away from the UI thread.

    Attributes:
        labels: The label map.
        areas_mm2: ``(2, n)`` area of whole tumour and core in each slice along the axis nearest to head-feet.
        axis: That array axis.
        histograms: Each layer's ``(2, HISTOGRAM_BINS)``, of whole tumour and core, over the layer's own span; the
            largest 1. Layers on another grid have none.
        largest: World position in mm of the middle of the tumour in the slice where it is largest, or None.
        probabilities: Of ``"whole_tumour"`` and ``"tumour_core"``, ``(I, J, K)`` on the labels' grid; empty for a mask
            that nobody gave any, such as a ground truth.
    """

    labels: LabelMap
    areas_mm2: NDArray[np.float64]
    axis: int
    histograms: dict[LayerKey, FloatArray]
    largest: Point | None
    probabilities: Mapping[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        labels: LabelMap,
        layers: dict[LayerKey, Layer],
        probabilities: Mapping[str, FloatArray] | None = None,
    ) -> Mask:
        """Look through a label map; takes about 50 ms for 240 x 240 x 155 voxels and four layers."""
        grid = labels.grid
        axis = grid.nearest_axes()[0].index(2)
        others = tuple(other for other in range(3) if other != axis)
        pixel = grid.spacing[others[0]] * grid.spacing[others[1]]
        counts = np.zeros((2, grid.shape[axis]))
        here = {key: layer for key, layer in layers.items() if layer.volume.grid.same_as(grid)}
        values: dict[LayerKey, tuple[list[FloatArray], list[FloatArray]]] = {key: ([], []) for key in here}
        # Slice by slice: picking voxels holds the interpreter, and for a whole volume the window would stand still.
        slices = np.moveaxis(labels.data, axis, 0)
        stacks = {key: np.moveaxis(layer.volume.data, axis, 0) for key, layer in here.items()}
        for index, labelled in enumerate(slices):
            whole = labelled > 0
            counts[0, index] = np.count_nonzero(whole)
            if not counts[0, index]:
                continue
            core = labelled == TUMOUR_CORE
            counts[1, index] = np.count_nonzero(core)
            for key, stack in stacks.items():
                values[key][0].append(stack[index][whole])
                values[key][1].append(stack[index][core])
        nothing = np.zeros(0, np.float32)
        histograms = {
            key: np.stack([_shares(np.concatenate([nothing, *part]), here[key].span) for part in parts])
            for key, parts in values.items()
        }
        areas = counts * pixel
        largest = None
        if areas[0].any():
            # The widest slice, and the voxel of the tumour in it nearest to its middle: a ring's middle is not tumour.
            index = int(np.argmax(areas[0]))
            inside = np.argwhere(slices[index] > 0)
            nearest = inside[np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1))]
            voxel = np.insert(nearest, axis, index)
            largest = grid.to_world(voxel[None])[0]
        return cls(labels, areas, axis, histograms, largest, dict(probabilities or {}))

    def extent(self, axis: int) -> NDArray[np.bool_]:
        """``(2, n)`` which slices across an array axis hold whole tumour, and which core."""
        return self._extents[axis]

    @cached_property
    def _extents(self) -> list[NDArray[np.bool_]]:
        held = np.flatnonzero(self.areas_mm2[0])
        extents = [np.zeros((2, n), bool) for n in self.labels.data.shape]
        if held.size:
            # The slices without tumour, which are most, are not looked at again.
            part = np.moveaxis(self.labels.data, self.axis, 0)[held[0] : held[-1] + 1]
            others = [axis for axis in range(3) if axis != self.axis]
            for row, inside in enumerate((part > 0, part == TUMOUR_CORE)):
                extents[self.axis][row] = self.areas_mm2[row] > 0
                flat = inside.any(axis=0)
                extents[others[0]][row] = flat.any(axis=1)
                extents[others[1]][row] = flat.any(axis=0)
        return extents


@dataclass(frozen=True, eq=False)
class Version:
    """Something to compare what is judged with: another result, a ground truth, an earlier scan.

    Attributes:
        name: What it is called on screen.
        mask: Its mask, if it has one.
        layers: Its own scans; empty where it belongs to the scan that is judged.
    """

    name: str
    mask: Mask | None = None
    layers: Mapping[LayerKey, Layer] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ruler:
    """Two diameters on a slice.

    Attributes:
        plane: The plane they were measured in.
        lines: In the patient, in mm.
        by_hand: Whether somebody moved an end.
    """

    plane: Plane
    lines: Diameters
    by_hand: bool = False


class Way(Enum):
    """How two pictures of one place are held against each other."""

    ALONE = "alone"
    CHECKERBOARD = "checkerboard"
    EDGES = "edges"
    SWIPE = "swipe"


@dataclass(frozen=True, eq=False)
class Picture:
    """A scan that is looked at to see what was done to it; it may lie on any grid.

    Attributes:
        volume: The scan, where it lies now.
        key: The layer whose window it is seen through.
        name: What it is called on screen.
    """

    volume: Volume
    key: LayerKey
    name: str


@dataclass(frozen=True, eq=False)
class Check:
    """A look at what a step of the preparation did, in every view in place of scan and masks.

    Attributes:
        before: The scan before the step.
        after: The scan after it.
        reference: What it was brought onto; None where a step moves nothing.
        way: How they are held against each other.
        at_before: Whether the scan is seen as it was before.
        brain: The brain to outline, label 0 outside.
    """

    before: Picture
    after: Picture
    reference: Picture | None = None
    way: Way = Way.ALONE
    at_before: bool = False
    brain: LabelMap | None = None

    @property
    def current(self) -> Picture:
        """What is judged."""
        return self.before if self.at_before else self.after

    @property
    def other(self) -> Picture | None:
        """What it is held against; None where it is seen alone."""
        if self.way is Way.ALONE:
            return None
        return self.reference if self.reference is not None else self.before

    @property
    def title(self) -> str:
        """What is seen, in a few words for the line in each view."""
        other = self.other
        if other is None:
            return self.current.name
        if self.way is Way.SWIPE:
            return f"{other.name} | {self.right.name}"
        return f"{self.current.name} {'edges on' if self.way is Way.EDGES else 'and'} {other.name}"

    @property
    def right(self) -> Picture:
        """What lies right of a swipe's line; without a reference before and after are swiped, whichever is on."""
        return self.current if self.reference is not None else self.after


@dataclass(frozen=True)
class Overlay:
    """How the masks are drawn.

    Attributes:
        visible: Whether they are drawn at all.
        opacity: Of the fill, 0..1.
        style: Fill, outline, or both.
        map: What is painted besides.
        other_shown: Whether the outline of what is compared with is drawn too.
        whole_tumour: Its colour.
        core: Its colour.
        whole_tumour_shown: Whether its eye is open.
        core_shown: Whether its eye is open; with it closed the core is drawn as the whole tumour it belongs to.
    """

    visible: bool = True
    opacity: float = 0.45
    style: MaskStyle = MaskStyle.BOTH
    map: Map = Map.NONE
    other_shown: bool = True
    whole_tumour: str = WHOLE_TUMOUR
    core: str = CORE
    whole_tumour_shown: bool = True
    core_shown: bool = True

    @property
    def filled(self) -> bool:
        """Whether the masks have a fill."""
        return self.style is not MaskStyle.OUTLINE

    @property
    def outlined(self) -> bool:
        """Whether the masks have an outline."""
        return self.style is not MaskStyle.FILL


class ViewerModel(QObject):
    """The state of the picture.

    Signals:
        layers_changed: There are other layers now, and with them everything below may have changed.
        shown_changed: Another layer is displayed.
        crosshair_changed: The crosshair moved.
        window_changed: Window or level of the displayed layer changed.
        view_changed: Zoom or pan changed.
        overlay_changed: The masks' look changed.
        labels_changed: There is another mask, or none.
        labels_edited: Voxels of the mask's label map changed in place, in this box of its grid.
        other_changed: There is something else to compare with, or nothing.
        convention_changed: Slices lie otherwise on the screen: left and right, the nose, or interpolation.
        layout_changed: Other views, another plane of the one that is big, or another way to compare.
        ruler_changed: Something else is measured, or nothing.
        pointer_changed: The pointer is over another place of the patient, or over none.
        check_changed: A step of the preparation is looked at, in another way, or none is.
    """

    layers_changed = Signal()
    shown_changed = Signal()
    crosshair_changed = Signal()
    window_changed = Signal()
    view_changed = Signal()
    overlay_changed = Signal()
    labels_changed = Signal()
    labels_edited = Signal(object)
    other_changed = Signal()
    convention_changed = Signal()
    layout_changed = Signal()
    ruler_changed = Signal()
    pointer_changed = Signal()
    check_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._layers: dict[LayerKey, Layer] = {}
        self._windows: dict[LayerKey, Window] = {}
        self._habits: dict[str, tuple[float, float]] = {}
        self._ruler: Ruler | None = None
        self._shown: LayerKey | None = None
        self._crosshair: Point = np.zeros(3)
        self._centre: Point = np.zeros(3)
        self._zoom = 1.0
        self._mask: Mask | None = None
        self._mask_is_new = True
        self._corrections = 0
        self._overlay = Overlay()
        self._radiological = True
        self._nose_left = True
        self._interpolated = True
        self._layout = Layout.PLANES
        self._plane = Plane.AXIAL
        self._swiped = False
        self._swipe = 0.5
        self._other: Version | None = None
        self._pointer: Point | None = None
        self._check: Check | None = None

    # Layers

    @property
    def layers(self) -> dict[LayerKey, Layer]:
        """Everything loaded, sequences first, in their fixed order."""
        return dict(self._layers)

    @property
    def shown(self) -> LayerKey | None:
        """Which layer is displayed."""
        return self._shown

    @property
    def layer(self) -> Layer | None:
        """The displayed layer."""
        return self._layers[self._shown] if self._shown is not None else None

    def set_layers(self, layers: dict[LayerKey, Layer], keep_place: bool = False) -> None:
        """Show these layers and no others.

        Args:
            layers: What is loaded now.
            keep_place: Stay where crosshair, zoom, pan and windows are; for the same patient with a file more.
        """
        self._layers = dict(layers)
        old_windows = self._windows if keep_place else {}
        self._windows = {key: old_windows.get(key, self._usual_window(key, layer)) for key, layer in layers.items()}
        if self._shown not in self._layers:
            self._shown = next(iter(self._layers), None)
        self._mask = self._other = self._pointer = self._ruler = None
        self._corrections = 0
        if self._check is not None:
            self.set_check(None)
        if not keep_place and self._layers:
            self._centre = self.content_mm.mean(axis=0)
            self._crosshair = self._snapped(self._centre)
            self._zoom = 1.0
        self.layers_changed.emit()

    def _usual_window(self, key: LayerKey, layer: Layer) -> Window:
        habit = self._habits.get(key.value) if isinstance(key, Sequence) else None
        return layer.default_window if habit is None else _window_of(layer, habit)

    def show(self, key: LayerKey) -> None:
        """Display this layer, if it is there."""
        if key in self._layers and key != self._shown:
            self._shown = key
            self.shown_changed.emit()
            self.window_changed.emit()

    @property
    def content_mm(self) -> NDArray[np.float64]:
        """``(2, 3)`` corners in mm of the box that holds the head in every layer."""
        boxes = np.stack([layer.content_mm for layer in self._layers.values()])
        return np.stack([boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)])

    def layer_of(self, side: Side, key: LayerKey | None) -> Layer | None:
        """The scan that a side of a comparison shows for a layer; None where that side lacks it."""
        if key is None:
            return None
        if side is Side.OTHER and self._other is not None and self._other.layers:
            return self._other.layers.get(key)
        return self._layers.get(key)

    # Crosshair

    @property
    def crosshair(self) -> Point:
        """World position in mm, ``(3,)``, RAS+."""
        return self._crosshair.copy()

    def move_crosshair(self, world: Point) -> None:
        """Put the crosshair at a world position, held inside the displayed grid and on the middle of a voxel."""
        snapped = self._snapped(world)
        if not np.allclose(snapped, self._crosshair, atol=1e-9):
            self._crosshair = snapped
            self.crosshair_changed.emit()

    def _snapped(self, world: Point) -> Point:
        layer = self.layer
        if layer is None:
            return self._crosshair
        grid = layer.volume.grid
        voxel = np.clip(np.rint(grid.to_voxel(np.asarray(world)[None])[0]), 0, np.array(grid.shape) - 1)
        snapped: Point = grid.to_world(voxel[None])[0]
        return snapped

    def step(self, plane: Plane, slices: int) -> None:
        """Move the crosshair by whole slices through a plane; positive is towards right, front and head."""
        layer = self.layer
        if layer is None:
            return
        grid = layer.volume.grid
        axes, signs = grid.nearest_axes()
        array_axis = axes.index(plane.value)
        voxel = np.rint(grid.to_voxel(self._crosshair[None])[0])
        voxel[array_axis] = np.clip(voxel[array_axis] + slices * signs[array_axis], 0, grid.shape[array_axis] - 1)
        self.move_crosshair(grid.to_world(voxel[None])[0])

    @property
    def pointer(self) -> Point | None:
        """The world position ``(3,)`` in mm under the pointer, or None where it is over no picture."""
        return self._pointer

    def point_at(self, world: Point | None) -> None:
        """Say where the pointer is."""
        self._pointer = world
        self.pointer_changed.emit()

    def voxel(self) -> tuple[int, int, int] | None:
        """The displayed grid's voxel under the crosshair."""
        layer = self.layer
        if layer is None:
            return None
        grid = layer.volume.grid
        nearest = np.rint(grid.to_voxel(self._crosshair[None])[0])
        i, j, k = np.clip(nearest, 0, np.array(grid.shape) - 1).astype(int)
        return int(i), int(j), int(k)

    # Window and level

    @property
    def window(self) -> Window | None:
        """Window and level of the displayed layer."""
        return self._windows[self._shown] if self._shown is not None else None

    def window_of(self, key: LayerKey) -> Window:
        """Window and level of any layer."""
        return self._windows[key]

    @property
    def look(self) -> Look:
        """Sides and brightness of the views, for pictures that look as they do."""
        from engine.figures import Look

        windows = {key: window for key, window in self._windows.items() if isinstance(key, Sequence)}
        return Look(self.radiological, self.nose_left, windows)

    def set_window(self, window: Window, key: LayerKey | None = None) -> None:
        """Change window and level of a layer; of the displayed one when none is named."""
        key = self._shown if key is None else key
        layer = self._layers.get(key) if key is not None else None
        if layer is None or key is None:
            return
        smallest = (layer.span[1] - layer.span[0]) / 500
        window = Window(max(window.width, smallest), window.level)
        if window != self._windows[key]:
            self._windows[key] = window
            if isinstance(key, Sequence):
                self._habits[key.value] = _shares_of(layer, window)
            self.window_changed.emit()

    def set_preset(self, name: str, key: LayerKey | None = None) -> None:
        """One of `PRESETS` for a layer; for the displayed one when none is named."""
        key = self._shown if key is None else key
        if key is not None and key in self._layers:
            self.set_window(_window_of(self._layers[key], PRESETS[name]), key)

    @property
    def preset(self) -> str | None:
        """Which of `PRESETS` the displayed layer has."""
        layer, window = self.layer, self.window
        if layer is None or window is None:
            return None
        shares = _shares_of(layer, window)
        return next((name for name, preset in PRESETS.items() if np.allclose(shares, preset, atol=5e-3)), None)

    @property
    def habits(self) -> dict[str, tuple[float, float]]:
        """For each sequence how its window was last set, in shares as in `PRESETS`; for the patients to come."""
        return dict(self._habits)

    def set_habits(self, habits: Mapping[str, tuple[float, float]]) -> None:
        """Begin with these windows."""
        self._habits = dict(habits)

    def reset_window(self, key: LayerKey | None = None) -> None:
        """Back to the window that suits the tissue."""
        key = self._shown if key is None else key
        if key is not None and key in self._layers:
            self.set_window(self._layers[key].default_window, key)

    # Zoom and pan

    @property
    def zoom(self) -> float:
        """1 shows the whole head."""
        return self._zoom

    @property
    def centre(self) -> Point:
        """The world position in mm in the middle of every view."""
        return self._centre.copy()

    def set_view(self, zoom: float, centre: Point) -> None:
        """Change zoom and pan of all planes at once; the middle stays within the head."""
        if not self._layers:
            return
        low, high = self.content_mm
        self._zoom = float(np.clip(zoom, *ZOOM_RANGE))
        self._centre = np.clip(np.asarray(centre, dtype=np.float64), low, high)
        self.view_changed.emit()

    def fit(self) -> None:
        """Show the whole head again."""
        if self._layers:
            self.set_view(1.0, self.content_mm.mean(axis=0))

    # Masks

    @property
    def mask(self) -> Mask | None:
        """The mask, if there is one."""
        return self._mask

    @property
    def labels(self) -> LabelMap | None:
        """The mask's label map, if there is one."""
        return self._mask.labels if self._mask is not None else None

    def set_mask(self, mask: Mask | None) -> None:
        """Show a mask, or none."""
        self._mask, self._mask_is_new, self._corrections = mask, True, 0
        self.labels_changed.emit()
        self._drop_map()

    def mask_of(self, side: Side) -> Mask | None:
        """The mask of a side of a comparison."""
        if side is Side.MAIN:
            return self._mask
        return self._other.mask if self._other is not None else None

    @property
    def maps(self) -> tuple[Map, ...]:
        """What can be painted over the scan now."""
        chances = self._mask is not None and bool(self._mask.probabilities)
        apart = self._mask is not None and self._other is not None and self._other.mask is not None
        apart = apart and self._other is not None and not self._other.layers
        return tuple(
            kind for kind in Map
            if kind is Map.NONE or (apart if kind is Map.DISAGREEMENT else chances)
        )  # fmt: skip

    @property
    def other(self) -> Version | None:
        """What is compared with."""
        return self._other

    def set_other(self, other: Version | None) -> None:
        """Compare with this, or with nothing."""
        self._other = other
        self.other_changed.emit()
        self._drop_map()

    def _drop_map(self) -> None:
        """A map of what is no more is not painted, and not chosen either."""
        if self._overlay.map not in self.maps:
            self.set_overlay(map=Map.NONE)

    def correct_mask(self, mask: Mask) -> None:
        """Show what is known now of a mask that was corrected."""
        self._mask, self._mask_is_new = mask, False
        self.labels_changed.emit()

    def swap_labels(self, labels: LabelMap) -> None:
        """Show a copy of the mask's label map, equal voxel by voxel, which is about to be corrected in its place."""
        if self._mask is not None:
            self._mask = replace(self._mask, labels=labels)

    @property
    def corrections(self) -> int:
        """How many corrections by hand the mask holds; what every picture of it has to say."""
        return self._corrections

    @property
    def corrections_in_words(self) -> str:
        """The same for a line of text; empty for a mask as the model gave it."""
        return f"corrected by hand ({self._corrections})" if self._corrections else ""

    def count_corrections(self, count: int) -> None:
        """Say how many corrections by hand the mask holds."""
        self._corrections = count

    def edit_labels(self, box: Box) -> None:
        """Say that voxels of the mask's label map changed in place, in a box of its grid."""
        self.labels_edited.emit(box)

    @property
    def mask_is_new(self) -> bool:
        """Whether the mask is another one, rather than the one before with corrections."""
        return self._mask_is_new

    @property
    def overlay(self) -> Overlay:
        """How the masks are drawn."""
        return self._overlay

    def set_overlay(self, **changes: bool | float | str | MaskStyle | Map) -> None:
        """Change some of `Overlay`: ``set_overlay(opacity=0.3)``."""
        if "opacity" in changes:
            changes["opacity"] = min(1.0, max(0.0, float(changes["opacity"])))  # type: ignore[arg-type]
        overlay = replace(self._overlay, **changes)  # type: ignore[arg-type]
        if overlay != self._overlay:
            self._overlay = overlay
            self.overlay_changed.emit()

    # Ruler

    @property
    def ruler(self) -> Ruler | None:
        """What is measured on screen."""
        return self._ruler

    def set_ruler(self, ruler: Ruler | None) -> None:
        """Show a measurement, or none."""
        self._ruler = ruler
        self.ruler_changed.emit()

    # Looking at the preparation

    @property
    def check(self) -> Check | None:
        """The step of the preparation that is looked at."""
        return self._check

    def set_check(self, check: Check | None) -> None:
        """Look at a step of the preparation, or at scan and masks again."""
        self._check = check
        self.check_changed.emit()

    # Convention

    @property
    def radiological(self) -> bool:
        """Whether the patient's left is on the right of the screen."""
        return self._radiological

    def set_radiological(self, radiological: bool) -> None:
        """Switch the side on which the patient's left is drawn; never touches data."""
        if radiological != self._radiological:
            self._radiological = radiological
            self.convention_changed.emit()

    @property
    def nose_left(self) -> bool:
        """Whether sagittal slices look to the left of the screen."""
        return self._nose_left

    def set_nose_left(self, nose_left: bool) -> None:
        """Switch the side to which sagittal slices look; never touches data."""
        if nose_left != self._nose_left:
            self._nose_left = nose_left
            self.convention_changed.emit()

    @property
    def interpolated(self) -> bool:
        """Whether scans are smoothed between voxels; masks never are."""
        return self._interpolated

    def set_interpolated(self, interpolated: bool) -> None:
        """Smooth scans between voxels, or show the voxels as they are."""
        if interpolated != self._interpolated:
            self._interpolated = interpolated
            self.convention_changed.emit()

    # Layout

    @property
    def layout(self) -> Layout:
        """Which views are on screen."""
        return self._layout

    @property
    def plane(self) -> Plane:
        """The plane of the layouts that show one."""
        return self._plane

    @property
    def swiped(self) -> bool:
        """Whether a comparison shows one view with a line to draw across it, instead of two side by side."""
        return self._swiped

    @property
    def swipe(self) -> float:
        """Where that line is, 0 (all of it the other) to 1."""
        return self._swipe

    def set_layout(
        self,
        layout: Layout | None = None,
        plane: Plane | None = None,
        swiped: bool | None = None,
        swipe: float | None = None,
    ) -> None:
        """Change what is given of layout, plane and way to compare."""
        before = (self._layout, self._plane, self._swiped, self._swipe)
        self._layout = self._layout if layout is None else layout
        self._plane = self._plane if plane is None else plane
        self._swiped = self._swiped if swiped is None else swiped
        self._swipe = self._swipe if swipe is None else min(1.0, max(0.0, swipe))
        if before != (self._layout, self._plane, self._swiped, self._swipe):
            self.layout_changed.emit()


def _window_of(layer: Layer, shares: tuple[float, float]) -> Window:
    usual = layer.default_window
    low, high = (usual.low + share * usual.width for share in shares)
    return Window(high - low, (high + low) / 2)


def _shares_of(layer: Layer, window: Window) -> tuple[float, float]:
    usual = layer.default_window
    return (window.low - usual.low) / usual.width, (window.high - usual.low) / usual.width
