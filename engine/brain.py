"""Finding the brain in a head, on any sequence, and removing what lies around it.

A small network that was trained on pictures of no particular contrast (`trainer.skull`) says for each place how far it
is from the surface of the brain, in voxels of 2 mm. Where several sequences lie on one grid, their distances are
averaged: what one does not show, another does. The surface is then put a little outside, because a millimetre of fluid
too much does no harm and a millimetre of tumour too little does.

What counts as brain is what the programs behind public collections leave: the brain with its ventricles, sulci closed,
cerebellum and brainstem, and about a millimetre of the fluid around; not the whole fluid under the dura.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.errors import BadModel
from engine.model_card import NETWORK_XML, WEIGHTS, sha256
from engine.preprocessing import SIZE_STEP, background, resample_axes, resampling_weights, to_canonical
from engine.progress import Progress
from engine.runtime import import_openvino
from engine.volume import LARGEST_BRAIN_ML, FloatArray, Grid, Mask, Volume, bounding_box

MODEL = Path(__file__).resolve().parent.parent / "assets" / "brain"
CARD = "brain.json"
# Between 4 and 20 mm under the surface of stripped brains (28 scans) no shell had less than 0.73 of the brightness
# further in; with the skull on (9 scans) the darkest had 0.01 to 0.68. All of 160 stripped scans are told right.
_DARKEST_SHELL = 0.6
# What the network works with: isotropic spacing, and how far from the brain's surface it tells distances apart.
SPACING_MM = 2.0
NEAR_MM = 10.0
# The window it learnt with most; a larger field of view is looked at as a whole first, and then there again.
WINDOW = (96, 112, 96)
# How far outside the surface that the network tells the mask ends; that surface already errs outwards.
OUTWARD_MM = 0.5
# What hangs on the brain by less than this, such as a nerve or a leak, is cut off; so far from the rest it ends.
_CORE_MM = 3.0
_REACH_MM = 6.0


def find_brain(volumes: Iterable[Volume], progress: Progress = Progress()) -> Mask:
    """Where the brain lies.

    Args:
        volumes: One or several sequences of one patient, all on one grid, with or without the skull.
        progress: Told of each volume; cancelling it stops before the next one.

    Returns:
        ``(I, J, K)`` on the volumes' grid: the brain in one piece without holes, sulci closed, and a millimetre or two
        of the fluid around it, so that a tumour at its surface stays. All False where there is no brain.

    Raises:
        ValueError: There is no volume, or they lie on several grids.
        BadModel: The network's files are missing or changed.
        Cancelled: `progress` was cancelled.
    """
    return surface_distance(volumes, progress) > -OUTWARD_MM


def surface_distance(volumes: Iterable[Volume], progress: Progress = Progress()) -> FloatArray:
    """How far each voxel is from the surface of the brain; see `find_brain`, which puts the mask's edge at -0.5 mm.

    Returns:
        ``(I, J, K)`` float32 in mm, positive in the brain, limited to -10..10; -10 beyond anything that hangs on it.

    Raises:
        ValueError, BadModel, Cancelled: As `find_brain`.
    """
    given = list(volumes)
    if not given:
        raise ValueError("there is no volume to find a brain in")
    grid = given[0].grid
    if any(not volume.grid.same_as(grid) for volume in given):
        raise ValueError("the volumes do not lie on one grid")
    place = _Place(grid)
    total = np.zeros(place.shape, np.float32)
    for number, volume in enumerate(given):
        progress.update(number / len(given), f"looking for the brain on {volume.name}")
        total += place.own_surface(volume) if is_stripped(volume) else _distance(scaled(place.forward(volume.data)))
    progress.update(0.95, "outlining the brain")
    return place.back(_in_one_piece(total / np.float32(len(given))))


def is_stripped(volume: Volume) -> bool:
    """Whether the skull was removed already: no more signal than a brain has, and no dark shell of bone in it.

    A few slices of a head, or a child's, can hold as little signal as a brain; under their surface lies bone.
    """
    outside = background(volume.data)
    signal = volume.data != outside
    ml = np.count_nonzero(signal) * volume.grid.voxel_ml
    if ml == 0 or ml > LARGEST_BRAIN_ML:
        return False
    # Every second millimetre will do: this is asked of every scan, before anything else.
    steps = [max(1, round(SPACING_MM / mm)) for mm in volume.grid.spacing]
    few = tuple(slice(None, None, step) for step in steps)
    sampling = [step * mm for step, mm in zip(steps, volume.grid.spacing, strict=True)]
    picture, shown = volume.data[few], signal[few]
    # Where brightness was centred on zero, what is dark is not zero.
    picture = picture - np.float32(min(outside, float(np.percentile(picture[shown], 0.5))) if shown.any() else outside)
    # Cut ends of the field of view are no surface: what lies beyond them is taken for more of the same.
    rooms = [int(np.ceil(24 / mm)) for mm in sampling]
    held = np.pad(ndimage.binary_fill_holes(shown), [(room, room) for room in rooms], mode="edge")
    depth = ndimage.distance_transform_edt(held, sampling=sampling)[tuple(slice(room, -room) for room in rooms)]
    deep = picture[depth > 24]
    if not deep.size:
        return True
    shells = [picture[(depth > near) & (depth <= near + 2)] for near in range(4, 20, 2)]
    darkest = min((float(np.median(shell)) for shell in shells if shell.size), default=0.0)
    return darkest >= _DARKEST_SHELL * float(np.median(deep))


def strip(volume: Volume, brain: Mask) -> Volume:
    """The volume with its own background outside ``brain`` ``(I, J, K)``, as stripped collections have it.

    Raises:
        ValueError: The mask is not on the volume's grid.
    """
    if brain.shape != volume.grid.shape:
        raise ValueError(f"the mask {brain.shape} does not fit the volume's grid {volume.grid.shape}")
    outside = np.float32(background(volume.data))
    return replace(volume, data=np.where(brain, volume.data, outside).astype(np.float32))


def forget_network() -> None:
    """Give the network's memory back; it is opened again when it is needed."""
    _network.cache_clear()


def scaled(picture: FloatArray) -> FloatArray:
    """Intensities as the network takes them: about 0 in air and 1 where a head is bright, whatever the file's unit.

    Args:
        picture: ``(x, y, z)`` float32 at the network's spacing.

    Returns:
        The same shape, within 0..1.5.
    """
    few = picture[::2, ::2, ::2]
    low = float(np.percentile(few, 1))
    high = few[few > few.mean()]
    top = float(np.percentile(high, 98)) if high.size else low
    out: FloatArray = np.clip((picture - np.float32(low)) / np.float32(max(top - low, 1e-6)), 0, 1.5)
    return out


class _Place:
    """A grid's field of view in the network's voxels, axes to the right, front and head, and the way back.

    Args:
        grid: Of the volumes.

    Attributes:
        shape: Voxels ``(x, y, z)`` of the field of view at `SPACING_MM`.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._axes, self._signs = grid.nearest_axes()
        self._forward: list[FloatArray] = []
        self._backward: list[FloatArray] = []
        shape = []
        for world in range(3):
            axis = self._axes.index(world)
            count, ratio = grid.shape[axis], SPACING_MM / grid.spacing[axis]
            size = max(1, round(count / ratio))
            middle, centre = (size - 1) / 2, (count - 1) / 2
            there = np.arange(size, dtype=np.float64)
            self._forward.append(resampling_weights(centre + (there - middle) * ratio, count, ratio))
            # Voxels beyond the last of the network's own take its value, not half of it.
            at: NDArray[np.float64] = np.clip(middle + (np.arange(count) - centre) / ratio, 0, size - 1)
            self._backward.append(resampling_weights(at, size, 1.0))
            shape.append(size)
        self.shape = (shape[0], shape[1], shape[2])

    def forward(self, data: FloatArray) -> FloatArray:
        """``(I, J, K)`` to ``(x, y, z)``."""
        # Averaging along the finest axis first would copy the least; heads are small enough not to care.
        return resample_axes(self._forward, to_canonical(data, self._axes, self._signs))

    def own_surface(self, volume: Volume) -> FloatArray:
        """``(x, y, z)`` distances to the surface of what a stripped volume shows: somebody decided that before."""
        share = self.forward((volume.data != background(volume.data)).astype(np.float32))
        held = ndimage.binary_fill_holes(share > 0.5)
        within = ndimage.distance_transform_edt(held, sampling=SPACING_MM)
        beyond = ndimage.distance_transform_edt(~held, sampling=SPACING_MM)
        signed = np.where(held, within - SPACING_MM / 2, SPACING_MM / 2 - beyond)
        return np.asarray(np.clip(signed, -NEAR_MM, NEAR_MM), np.float32)

    def back(self, field: FloatArray) -> FloatArray:
        """``(x, y, z)`` distances to ``(I, J, K)``; only what is near the brain is worked out."""
        native = np.full(self._grid.shape, -NEAR_MM, np.float32)
        box = bounding_box(field > -NEAR_MM)
        if box is None:
            return native
        ways, places = [], []
        for side, matrix in zip(box, self._backward, strict=True):
            rows = np.flatnonzero(matrix[:, side].any(axis=1))
            places.append(slice(int(rows[0]), int(rows[-1]) + 1))
            ways.append(matrix[places[-1]])
        turned = to_canonical(native, self._axes, self._signs)  # a view: writing to it fills `native`
        turned[tuple(places)] = resample_axes(ways, field)
        return native


def _distance(picture: FloatArray) -> FloatArray:
    """``(x, y, z)`` in mm, as the network tells it of a picture from `scaled`."""
    if not picture.any():
        return np.full(picture.shape, -NEAR_MM, np.float32)
    whole = _run(picture)
    if all(n <= side for n, side in zip(picture.shape, WINDOW, strict=True)):
        return whole
    # Normalisation looks at all there is, and much of a large field of view is air or neck.
    box = bounding_box(_core(whole))
    if box is None:
        return whole
    sides = []
    for side, room, n in zip(box, WINDOW, picture.shape, strict=True):
        size = min(n, max(room, side.stop - side.start + 8))
        start = min(max(0, (side.start + side.stop - size) // 2), n - size)
        sides.append(slice(start, start + size))
    closer = tuple(sides)
    whole = np.full(picture.shape, -NEAR_MM, np.float32)
    whole[closer] = _run(scaled(picture[closer]))
    return whole


def _run(picture: FloatArray) -> FloatArray:
    """Distances in mm, limited to `NEAR_MM`; the field of view is filled up to what the network can take."""
    size = tuple(-(-n // SIZE_STEP) * SIZE_STEP for n in picture.shape)
    start = [(a - b) // 2 for a, b in zip(size, picture.shape, strict=True)]
    inner = tuple(slice(s, s + n) for s, n in zip(start, picture.shape, strict=True))
    tensor = np.zeros((1, 1, *size), np.float32)
    tensor[0, 0][inner] = picture
    said = _network(size)(tensor)
    distance: FloatArray = np.clip(said[inner] * np.float32(SPACING_MM), -NEAR_MM, NEAR_MM)
    return distance


@lru_cache(maxsize=4)
def _network(size: tuple[int, ...]) -> Any:
    """A function from ``(1, 1, x, y, z)`` to ``(x, y, z)``, compiled for one size.

    Raises:
        BadModel: A file is missing or not what was shipped.
    """
    try:
        card = json.loads((MODEL / CARD).read_text(encoding="utf-8"))
        for name, known in card["sha256"].items():
            if sha256(MODEL / name) != known:
                raise BadModel(
                    f"{name} of the network that finds the brain has changed", "", "Install Gliascope again."
                )
    except (OSError, ValueError, KeyError) as error:
        raise BadModel(
            "The network that finds the brain cannot be read", str(error), "Install Gliascope again."
        ) from error
    core = import_openvino().Core()
    bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    model = core.read_model(MODEL / NETWORK_XML, MODEL / WEIGHTS)
    model.reshape([1, 1, *size])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "CACHE_DIR": "",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda tensor: np.array(request.infer({0: tensor})[0][0, 0], dtype=np.float32)


def _core(distance: FloatArray) -> Mask:
    """The largest piece of what is well inside."""
    pieces, count = ndimage.label(distance > _CORE_MM)
    if not count:
        return np.zeros(distance.shape, bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    core: Mask = pieces == sizes.argmax()
    return core


def _in_one_piece(distance: FloatArray) -> FloatArray:
    """Distances of the brain alone: no second piece, no hole, nothing that leaks out by a thread."""
    core = _core(distance)
    if not core.any():
        return np.full(distance.shape, -NEAR_MM, np.float32)
    near = ndimage.distance_transform_edt(~core, sampling=SPACING_MM) <= _CORE_MM + _REACH_MM
    kept = np.where(near, ndimage.gaussian_filter(distance, 0.4), np.float32(-NEAR_MM))
    brain = kept > -OUTWARD_MM
    holes = ndimage.binary_fill_holes(brain) & ~brain
    kept[holes] = np.maximum(kept[holes], 1.0)
    return np.asarray(kept, np.float32)
