"""A patient as another hospital would have scanned him: lower field, thicker slices, another coil, another file.

`shift` changes what differs between scanners and leaves what belongs to the patient: the brain keeps its outline (what
was stripped stays zero) and its place in the world, and so does the truth. It is for judging a model on scans unlike
those it learnt from, and makes no claim to be a scan; `Kind` says what is changed and by how much.

Each sequence changes by itself, as each is acquired by itself; orientation and field of view are those of the whole
subject. Everything follows from the seed and the patient's name, and the changes of one sequence do not depend on which
others are there.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from engine.volume import FloatArray, Grid, LabelMap, Mask, Sequence, Subject, Volume, bounding_box

_Image = TypeVar("_Image", Volume, LabelMap)


class Kind(StrEnum):
    """What can be different elsewhere.

    Where a number is somebody's, he is named; the others are ranges that radiologists would call ordinary to poor.
    """

    LOW_FIELD = "low_field"
    """Voxels of 1.2 to 2 mm with Rician noise (Gudbjartsson and Patz, Magn Reson Med 1995;34:910) of 5 to 14 % of the
    brain's median signal. The ratio of signal to noise grows with the field (Hoult and Lauterbur, J Magn Reson
    1979;34:425), so that a third of the field has three times the 3 to 4 % of a good scan at 1.5 T or 3 T; BrainWeb's
    noisiest simulated scan has 9 % (Kwan et al., IEEE Trans Med Imaging 1999;18:1085)."""
    THICK_SLICES = "thick_slices"
    """Slices of 3 to 6 mm, mostly axial, interpolated onto the voxels that were there."""
    BIAS_FIELD = "bias_field"
    """A smooth factor whose ends differ 1.2- to 1.7-fold: the logarithm is a polynomial of third order, as Van Leemput
    et al. model it (IEEE Trans Med Imaging 1999;18:885). BrainWeb's strongest field, "40 %", runs from 0.8 to 1.2."""
    MOTION = "motion"
    """The head moves one to three times, by up to 4 mm and 4 degrees, while 5 to 20 % of the outer lines of k-space are
    acquired (after Shaw et al., MIDL 2019); the innermost tenth is still, so that the patient stays in his place."""
    CONTRAST = "contrast"
    """A gamma of 0.65 to 1.55, about the 0.7 to 1.5 that nnU-Net trains with (Isensee et al., Nat Methods
    2021;18:203)."""
    INTENSITY = "intensity"
    """Values a thirtieth to thirty times as large, and up to the brain's median added."""
    FIELD_OF_VIEW = "field_of_view"
    """The array ends 0 to 12 mm outside the brain, on each side another."""
    ORIENTATION = "orientation"
    """One of the 48 ways to lay out the array, with the affine to match; truth and all sequences together."""


# How often a scan of another hospital has each of them; files always differ in scale, layout and field of view.
_CHANCE = {
    Kind.LOW_FIELD: 0.5,
    Kind.THICK_SLICES: 0.5,
    Kind.BIAS_FIELD: 0.6,
    Kind.MOTION: 0.25,
    Kind.CONTRAST: 0.6,
    Kind.INTENSITY: 1.0,
    Kind.FIELD_OF_VIEW: 1.0,
    Kind.ORIENTATION: 1.0,
}
_SUBJECT = len(Sequence)  # the stream of chance of what all sequences share
_POLYNOMIAL_ORDER = 3
_STILL_LINES = 0.1
_MARGIN_MM = 12.0
_ROOM = 8  # voxels around the brain that a moved head may need
_DARKEST = 1e-3  # of the brain's median: what is left of the brain is never the zero of what was stripped


@dataclass(frozen=True)
class Change:
    """What happens to one sequence; the defaults change nothing.

    Attributes:
        gamma: Exponent, about the brain's own range.
        bias: Logarithm of the ratio between the largest and the smallest factor of the bias field.
        moves: How often the head moves.
        moved_lines: Share of the phase-encoding lines acquired from a moved head.
        shift_mm: Largest shift along each axis.
        turn_degrees: Largest turn about each axis.
        voxel_mm: Smallest size of an acquired voxel along every axis.
        slice_mm: Smallest size of one across slices.
        slice_world_axis: World axis the slices are stacked along (0 x, 1 y, 2 z).
        noise: Standard deviation of each channel's noise, in units of the brain's median.
        scale: Factor of all values.
        offset: Added before, in units of the brain's median.
    """

    gamma: float = 1.0
    bias: float = 0.0
    moves: int = 0
    moved_lines: float = 0.0
    shift_mm: float = 4.0
    turn_degrees: float = 4.0
    voxel_mm: float = 0.0
    slice_mm: float = 0.0
    slice_world_axis: int = 2
    noise: float = 0.0
    scale: float = 1.0
    offset: float = 0.0


def shift(subject: Subject, truth: LabelMap, seed: int, kind: Kind | None = None) -> tuple[Subject, LabelMap]:
    """Scan a patient again somewhere else.

    Args:
        subject: Any sequences; zero outside the brain.
        truth: On the same grid.
        seed: Decides everything, together with the patient's name.
        kind: The one thing to change; by default a random mixture, as in a hospital.

    Returns:
        The patient and his truth, on one grid, perhaps another than before. Voxels lie where they lay, and the truth's
        hold what they held.

    Raises:
        ValueError: The truth lies on another grid.
    """
    if not truth.grid.same_as(subject.grid):
        raise ValueError(f"the truth does not lie on the grid of {subject.name}")
    volumes = {}
    for sequence, volume in subject.items():
        rng = _chance(subject.name, seed, list(Sequence).index(sequence))
        volumes[sequence] = rescan(volume, draw(rng, kind), rng)
    rng = _chance(subject.name, seed, _SUBJECT)
    labels = LabelMap(truth.data, subject.grid)
    if kind in (None, Kind.FIELD_OF_VIEW):
        brain = np.logical_or.reduce([volume.data != 0 for volume in volumes.values()]) | (truth.data != 0)
        box = _field_of_view(brain, subject.grid, rng)
        volumes = {sequence: _cut(volume, box) for sequence, volume in volumes.items()}
        labels = _cut(labels, box)
    if kind in (None, Kind.ORIENTATION):
        axes, backwards = rng.permutation(3), rng.random(3) < 0.5
        volumes = {sequence: _laid_out(volume, axes, backwards) for sequence, volume in volumes.items()}
        labels = _laid_out(labels, axes, backwards)
    return Subject(subject.name, volumes), labels


def draw(rng: np.random.Generator, kind: Kind | None = None) -> Change:
    """Draw what happens to one sequence.

    Args:
        rng: Source of chance; as much of it is used whatever ``kind`` is.
        kind: The one thing to change; by default each with its own probability.
    """
    drawn: dict[Kind, dict[str, Any]] = {
        Kind.LOW_FIELD: {"voxel_mm": float(rng.uniform(1.2, 2.0)), "noise": float(rng.uniform(0.05, 0.14))},
        Kind.THICK_SLICES: {
            "slice_mm": float(rng.uniform(3.0, 6.0)),
            "slice_world_axis": int(rng.choice(3, p=[0.15, 0.15, 0.7])),
        },
        Kind.BIAS_FIELD: {"bias": float(rng.uniform(np.log(1.2), np.log(1.7)))},
        Kind.MOTION: {"moves": int(rng.integers(1, 4)), "moved_lines": float(rng.uniform(0.05, 0.2))},
        Kind.CONTRAST: {"gamma": float(np.exp(rng.uniform(np.log(0.65), np.log(1.55))))},
        Kind.INTENSITY: {
            "scale": float(np.exp(rng.uniform(-np.log(30), np.log(30)))),
            "offset": float(rng.uniform(0, 1)),
        },
    }
    chances = rng.random(len(drawn))
    change = Change()
    for chance, (one, fields) in zip(chances, drawn.items(), strict=True):
        if kind == one or (kind is None and chance < _CHANCE[one]):
            change = replace(change, **fields)
    return change


def rescan(volume: Volume, change: Change, rng: np.random.Generator, *, stripped: bool = True) -> Volume:
    """Scan one sequence again, in the order of a scanner: tissue's contrast, coil, motion, voxels, noise, file.

    Args:
        volume: Zero where there is nothing.
        change: What happens to it.
        rng: Source of chance of the fields and the noise.
        stripped: Whether what is zero stays zero. Otherwise the air around a head gets its noise, its ghosts and what
            thick slices smear into it, as in a scan as it was acquired.
    """
    inside = volume.data != 0
    box = bounding_box(inside)
    made = replace(volume, source=None)
    if box is None or change == Change():
        return made
    room = tuple(
        slice(max(0, side.start - _ROOM), min(n, side.stop + _ROOM)) if stripped else slice(None)
        for side, n in zip(box, volume.grid.shape, strict=True)
    )
    inside = inside[room]
    image = np.asarray(volume.data[room], np.float32)
    axes, _ = volume.grid.nearest_axes()
    median = float(np.median(image[inside]))
    image = _contrast(image, inside, change.gamma)
    image = image * _bias(inside, change.bias, rng)
    image = _motion(image, volume.grid.spacing, axes, change, rng)
    sizes = [
        max(change.voxel_mm, change.slice_mm if world == change.slice_world_axis else 0.0, spacing)
        for world, spacing in zip(axes, volume.grid.spacing, strict=True)
    ]
    seen = inside if stripped else np.ones_like(inside)
    image = _acquired(image, seen, volume.grid.spacing, sizes, change.noise * median, rng)
    image = np.maximum(image, np.float32(_DARKEST * abs(median))) + np.float32(change.offset * median)
    data = np.zeros(volume.grid.shape, np.float32)
    data[room] = np.where(seen, image * change.scale, 0)
    return replace(made, data=data)


def _contrast(image: FloatArray, inside: Mask, gamma: float) -> FloatArray:
    if gamma == 1:
        return image
    low, high = np.percentile(image[inside], (0.5, 99.5))
    unit = (image - low) / max(float(high - low), 1e-6)
    # Beyond the range it goes on as it was: a gamma is not made for what is below nought.
    bent = np.clip(unit, 0, 1) ** gamma + (unit - np.clip(unit, 0, 1))
    return np.where(inside, low + bent * (high - low), 0).astype(np.float32)


def _bias(inside: Mask, strength: float, rng: np.random.Generator) -> FloatArray:
    """A smooth positive factor ``(i, j, k)`` whose logarithm runs over ``strength`` in the brain."""
    if strength == 0:
        return np.ones((1, 1, 1), np.float32)
    orders = range(_POLYNOMIAL_ORDER + 1)
    weights = rng.standard_normal((len(orders),) * 3).astype(np.float32)
    weights[np.sum(np.indices(weights.shape), axis=0) > _POLYNOMIAL_ORDER] = 0
    log: FloatArray = weights
    for axis, count in enumerate(inside.shape):
        powers = np.linspace(-1, 1, count, dtype=np.float32)[:, None] ** np.array(orders, np.float32)
        log = _along(axis, powers, log)
    values = log[inside]
    reach = max(float(np.ptp(values)), 1e-6)
    field: FloatArray = np.exp((log - np.float32(values.mean())) * np.float32(strength / reach))
    return field


def _motion(
    image: FloatArray,
    spacing: tuple[float, float, float],
    axes: tuple[int, int, int],
    change: Change,
    rng: np.random.Generator,
) -> FloatArray:
    """Replace some lines of k-space by those of a moved head; ghosts run along the phase-encoding axis."""
    if change.moves == 0:
        return image
    phase = axes.index(int(rng.integers(2)))  # left to right or front to back, as for most heads
    count = image.shape[phase]
    lines = fft.fft(image, axis=phase)
    # As `fft` orders them: the slow ones first, then the fast ones, then the slow ones of the other sign.
    still = max(1, round(_STILL_LINES * count / 2))
    free = np.arange(still, count - still + 1)
    length = max(1, round(change.moved_lines * count / change.moves))
    for _ in range(change.moves):
        moved = fft.fft(_moved(image, spacing, change, rng), axis=phase)
        start = int(rng.integers(max(1, len(free) - length)))
        taken = [slice(None)] * 3
        taken[phase] = slice(int(free[start]), int(free[start]) + length)
        lines[tuple(taken)] = moved[tuple(taken)]
    magnitude: FloatArray = np.abs(fft.ifft(lines, axis=phase)).astype(np.float32)
    return magnitude


def _moved(
    image: FloatArray, spacing: tuple[float, float, float], change: Change, rng: np.random.Generator
) -> FloatArray:
    turns = np.radians(rng.uniform(-change.turn_degrees, change.turn_degrees, 3))
    offset = rng.uniform(-change.shift_mm, change.shift_mm, 3)
    rotation = np.eye(3)
    for axis, angle in enumerate(turns):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        rotation = step @ rotation
    size = np.array(spacing)
    matrix = rotation * size[None, :] / size[:, None]  # the same turn, counted in voxels
    centre = (np.array(image.shape) - 1) / 2
    return np.asarray(
        ndimage.affine_transform(image, matrix, centre - matrix @ centre + offset / size, order=1), np.float32
    )


def _acquired(
    image: FloatArray,
    inside: Mask,
    spacing: tuple[float, float, float],
    sizes: list[float],
    noise: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Average over the voxels that are acquired, add their noise, and interpolate onto the voxels that were there.

    Only what is inside the brain is averaged: heads are stripped after they are scanned.
    """
    ways = [
        _to_and_from(n, step, size, rng) if size > step * 1.001 else None
        for n, step, size in zip(image.shape, spacing, sizes, strict=True)
    ]
    share = inside.astype(np.float32)
    total = image * share
    for axis, way in enumerate(ways):
        if way is not None:
            total, share = (_along(axis, way[0], array) for array in (total, share))
    image = np.divide(total, share, out=np.zeros_like(total), where=share > 1e-6)
    if noise > 0:
        real, imaginary = (rng.standard_normal(image.shape, dtype=np.float32) * np.float32(noise) for _ in range(2))
        image = np.hypot(image + real, imaginary)
    there = (share > 1e-6).astype(np.float32)
    image = image * there
    for axis, way in enumerate(ways):
        if way is not None:
            image, there = (_along(axis, way[1], array) for array in (image, there))
    return np.divide(image, there, out=np.zeros_like(image), where=there > 1e-6)


def _to_and_from(count: int, step: float, size: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Matrices ``(slices, count)`` and ``(count, slices)``: average into slices of ``size`` mm, and back."""
    first = -float(rng.uniform(0, size))  # where the first slice begins, in mm from the first voxel's edge
    slices = int(np.ceil((count * step - first) / size))
    edges = first + size * np.arange(slices + 1)
    voxels = step * np.arange(count + 1)
    overlap = np.minimum(edges[1:, None], voxels[None, 1:]) - np.maximum(edges[:-1, None], voxels[None, :-1])
    averaging = np.clip(overlap, 0, None) / size
    centres, wanted = (edges[:-1] + edges[1:]) / 2, (voxels[:-1] + voxels[1:]) / 2
    interpolation = np.clip(1 - np.abs(wanted[:, None] - centres[None, :]) / size, 0, None)
    return averaging.astype(np.float32), interpolation.astype(np.float32)


def _along(axis: int, matrix: FloatArray, array: FloatArray) -> FloatArray:
    return np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)


def _field_of_view(brain: Mask, grid: Grid, rng: np.random.Generator) -> tuple[slice, slice, slice]:
    margins = rng.uniform(0, _MARGIN_MM, (3, 2)) / np.array(grid.spacing)[:, None]
    box = bounding_box(brain) or (slice(0, None),) * 3
    i, j, k = (
        slice(max(0, side.start - round(before)), None if side.stop is None else side.stop + round(after))
        for side, (before, after) in zip(box, margins.tolist(), strict=True)
    )
    return i, j, k


def _cut(image: _Image, box: tuple[slice, slice, slice]) -> _Image:
    data = np.ascontiguousarray(image.data[box])
    affine = image.grid.affine.copy()
    affine[:3, 3] = image.grid.to_world(np.array([[side.start for side in box]]))[0]
    return replace(image, data=data, grid=Grid(data.shape, affine))


def _laid_out(image: _Image, axes: NDArray[np.int64], backwards: NDArray[np.bool_]) -> _Image:
    """The same voxels in another order: new axis a is old axis ``axes[a]``, perhaps ``backwards``."""
    data = image.data.transpose(axes)
    old_from_new = np.zeros((4, 4))
    old_from_new[3, 3] = 1
    for new, old in enumerate(axes):
        old_from_new[old, new] = -1 if backwards[new] else 1
        old_from_new[old, 3] = data.shape[new] - 1 if backwards[new] else 0
    data = np.ascontiguousarray(data[tuple(slice(None, None, -1 if back else 1) for back in backwards)])
    return replace(image, data=data, grid=Grid(data.shape, image.grid.affine @ old_from_new))


def _chance(name: str, seed: int, stream: int) -> np.random.Generator:
    """Belongs to these three alone, on every machine."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), stream])
