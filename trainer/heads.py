"""Whole heads: what lies around the brain in a label map, and a made-up skull around a patient who was stripped.

The label maps of `trainer.simulate` are whole heads, of which simulated patients use the brain alone. Here the rest is
told apart as well: bone and its marrow, venous sinuses, muscle, fat, skin, eyes, mucosa, arteries, the spinal cord.
(The maps' labels above 255 were cut to eight bits: 514, 515 and 516 of sinus, bone and marrow read as 2, 3 and 4, and
512 of the cord as 0, which is why each has to be found by where it lies.)

`around` puts such a head around a patient of a public collection, so that what aligns, strips and recognises scans can
be measured on real tumours whose truth is known. The head is laid onto the patient's brain in three steps: the
commissures' level, the brain's extent along each axis, then a smooth displacement that joins the two surfaces.
Not a value inside the patient's brain changes. It makes no claim to be a scan: what lies around is as bright as it
usually is next to brain, give or take a sixth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine import nifti
from engine.preprocessing import background, resample_axes
from engine.volume import (
    LARGEST_BRAIN_ML,
    FloatArray,
    Grid,
    LabelArray,
    LabelMap,
    Mask,
    Sequence,
    Subject,
    Volume,
    bounding_box,
)
from trainer.simulate import Tissue, prepare_anatomy

_Points = NDArray[np.float64]


class Part(IntEnum):
    """What a voxel of a head is; below 20 these are `simulate.Tissue`'s."""

    AIR = 0
    CSF = Tissue.CSF
    VENOUS = Tissue.VENOUS
    CORD = 30
    BONE = 31
    MARROW = 32
    MUSCLE = 33
    FAT = 34
    SKIN = 35
    EYE = 36
    LENS = 37
    MUCOSA = 38
    ARTERY = 39
    DURA = 40


# Labels outside the brain as they read after being cut to eight bits.
_PART_OF_LABEL = {
    2: Part.VENOUS, 3: Part.BONE, 4: Part.MARROW, 24: Part.CSF, 246: Part.ARTERY, 250: Part.EYE, 251: Part.MUSCLE,
    252: Part.LENS, 253: Part.MUCOSA, 255: Part.FAT,
}  # fmt: skip
_SKIN_MM = 2.0
_ORBIT_MM = 13.0
_FAR_MM = 60.0  # beyond this from the brain's surface distances are not told apart


@dataclass(frozen=True, eq=False)
class WholeHead:
    """A label map made ready. Make once with `prepare_head`, use often.

    Attributes:
        part: ``(I, J, K)`` uint8 of `Part` and, in the brain, `simulate.Tissue`.
        grid: Where its voxels lie.
        pose: ``(4, 4)`` rigid: world with level commissures (see `simulate`) -> world of the label map.
        inside_mm: ``(I, J, K)`` float32: distance to the surface of the stripped brain in mm, negative outside. Sulci
            are closed and about 1.4 mm of fluid belongs to the brain, as stripping programs leave it.
    """

    part: LabelArray
    grid: Grid
    pose: NDArray[np.float64]
    inside_mm: FloatArray


def read_head(path: Path) -> WholeHead:
    """`prepare_head` of a label map's file.

    Raises:
        UnreadableImage: The file is no label map.
        ValueError: It holds no brain.
    """
    return prepare_head(nifti.read_labels(path)[0])


def prepare_head(labels: LabelMap) -> WholeHead:
    """Tell the parts of a head apart.

    Args:
        labels: FreeSurfer-style labels of a whole head, about 1 mm, any orientation.

    Raises:
        ValueError: The label map has no white matter.
    """
    anatomy = prepare_anatomy(labels)
    spacing = labels.grid.spacing
    lut = np.full(256, Part.MUSCLE, np.uint8)  # crumbs of the brain's labels in the neck
    lut[0] = Part.AIR
    for label, kind in _PART_OF_LABEL.items():
        lut[label] = kind
    part: LabelArray = lut[labels.data]
    start = np.rint(labels.grid.to_voxel(anatomy.grid.affine[None, :3, 3])[0]).astype(int)
    box = tuple(slice(int(first), int(first) + n) for first, n in zip(start, anatomy.grid.shape, strict=True))
    # `prepare_anatomy` also puts right what lies enclosed in the brain, so its word counts inside.
    part[box] = np.where(anatomy.tissue > 0, anatomy.tissue, part[box])
    inside = np.full(labels.grid.shape, -_FAR_MM, np.float32)
    # `prepare_anatomy` measures to the nearest voxel of the other side; the surface lies half a voxel before it.
    inside[box] = np.maximum(anatomy.inside_mm - np.sign(anatomy.inside_mm) * min(spacing) / 2, -_FAR_MM)
    part[_cord(labels)] = Part.CORD
    _skin_and_fat(part, spacing)
    _dura(part, inside, spacing)
    return WholeHead(part, labels.grid, anatomy.pose, _beyond(inside, box, spacing))


def around(
    subject: Subject, head: WholeHead | Path, rng: np.random.Generator, below_mm: float = 40.0, air: bool = True
) -> Subject:
    """A patient who was stripped, with a head around the brain again.

    Args:
        subject: Any sequences; zero outside the brain, positive inside, as public collections have them.
        head: Whose skull it becomes; reading a label map's file takes longer than all the rest.
        rng: Source of chance: how bright the parts are, fat suppression, noise.
        below_mm: How far below the lowest brain the picture goes on.
        air: Whether the air holds noise; without it, zeros.

    Returns:
        The same values in the brain; around it whole voxels are added on each side, so that the head fits. The truth
        follows with `put`.

    Raises:
        ValueError: A sequence is not zero outside the brain and mostly positive in it.
    """
    head = read_head(head) if isinstance(head, Path) else head
    brain = brain_of(subject)
    grid, box = _room(subject.grid, brain, below_mm)
    whole = np.zeros(grid.shape, bool)
    whole[box] = brain
    part = _fitted(head, whole, grid)
    volumes = {
        sequence: _surrounded(volume, whole, part, grid, box, rng, air=air) for sequence, volume in subject.items()
    }
    return Subject(subject.name, volumes)


def put(labels: LabelMap, grid: Grid) -> LabelMap:
    """A label map on a larger grid with the same voxels, e.g. the truth on that of `around`.

    Raises:
        ValueError: The voxels of the two grids do not lie on each other, or some have no place.
    """
    start = grid.to_voxel(labels.grid.to_world(np.zeros((1, 3))))[0]
    first = np.rint(start).astype(int)
    ends = first + labels.grid.shape
    same_axes = np.allclose(grid.affine[:3, :3], labels.grid.affine[:3, :3], atol=1e-4)
    if not same_axes or np.abs(start - first).max() > 0.01 or first.min() < 0 or (ends > grid.shape).any():
        raise ValueError("the label map has no place on that grid")
    data = np.zeros(grid.shape, np.uint8)
    data[tuple(slice(a, b) for a, b in zip(first, ends, strict=True))] = labels.data
    return LabelMap(data, grid)


def brain_of(subject: Subject) -> Mask:
    """``(I, J, K)``: where a stripped patient holds anything, holes filled.

    Raises:
        ValueError: A sequence is not zero outside the brain and mostly positive in it.
    """
    brain = np.zeros(subject.grid.shape, bool)
    for volume in subject.values():
        signal = volume.data != 0
        ml = np.count_nonzero(signal) * volume.grid.voxel_ml
        if background(volume.data) != 0 or not 0 < ml <= LARGEST_BRAIN_ML or np.median(volume.data[signal]) <= 0:
            raise ValueError(f"{volume.name} is not zero around a brain that is mostly positive")
        brain |= signal
    box = bounding_box(brain)
    assert box is not None
    brain[box] = ndimage.binary_fill_holes(brain[box])
    return brain


def signed_distance(mask: Mask, spacing: tuple[float, float, float]) -> FloatArray:
    """Distance to a mask's surface in mm, positive inside; the surface lies between voxels."""
    within = ndimage.distance_transform_edt(mask, sampling=spacing)
    beyond = ndimage.distance_transform_edt(~mask, sampling=spacing)
    half = np.float32(min(spacing) / 2)
    return np.asarray(np.where(mask, within - half, half - beyond), np.float32)


# --- telling the parts apart ------------------------------------------------------------------------------------------


def _cord(labels: LabelMap) -> Mask:
    """The spinal cord: what is 0 and lies in fluid within an axial slice, below the brainstem."""
    axes, _ = labels.grid.nearest_axes()
    up = axes.index(2)
    flat = np.ones((3, 3, 3), bool)
    flat[tuple(slice(None) if a != up else [0, 2] for a in range(3))] = False
    empty: Mask = labels.data == 0
    pieces, count = ndimage.label(empty, structure=flat & ndimage.generate_binary_structure(3, 1))
    if not count:
        return empty
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    # Share of a piece's rim, within its slice, that is fluid, cord or brainstem.
    rim = ndimage.grey_dilation(pieces, footprint=flat & ndimage.generate_binary_structure(3, 1)) * ~empty
    around_it = np.bincount(rim.ravel(), minlength=count + 1)
    wet = np.bincount(rim.ravel(), weights=np.isin(labels.data, (16, 24)).ravel(), minlength=count + 1)
    cord = (sizes >= 8) & (sizes <= 500) & (wet > 0.6 * np.maximum(around_it, 1))
    cord[0] = False
    found: Mask = cord[pieces]
    return found


def _skin_and_fat(part: LabelArray, spacing: tuple[float, float, float]) -> None:
    """The label of the scalp is skin over fat; what the map calls soft tissue is fat behind the eyes."""
    outside, _ = ndimage.label(part == Part.AIR)
    open_air = outside == np.bincount(outside[outside > 0]).argmax() if outside.any() else outside > 0
    scalp = part == Part.FAT
    close = ndimage.binary_dilation(open_air, iterations=max(1, round(_SKIN_MM / min(spacing))))
    part[scalp & close] = Part.SKIN
    eyes = np.isin(part, (Part.EYE, Part.LENS))
    box = bounding_box(eyes)
    if box is None:
        return
    room = tuple(
        slice(max(0, side.start - 20), min(n, side.stop + 20)) for side, n in zip(box, part.shape, strict=True)
    )
    near = ndimage.distance_transform_edt(~eyes[room], sampling=spacing) < _ORBIT_MM
    view = part[room]
    view[near & (view == Part.MUSCLE)] = Part.FAT


def _dura(part: LabelArray, inside_mm: FloatArray, spacing: tuple[float, float, float]) -> None:
    """The outermost millimetre of the fluid, outside the stripped brain."""
    bone = np.isin(part, (Part.BONE, Part.MARROW))
    beside = ndimage.binary_dilation(bone, iterations=max(1, round(1.0 / min(spacing))))
    part[beside & (part == Part.CSF) & (inside_mm < 0)] = Part.DURA


def _beyond(inside: FloatArray, box: tuple[slice, ...], spacing: tuple[float, float, float]) -> FloatArray:
    """Distances outside the box that they were measured in: those at its edge, and the way there."""
    clamped = [np.clip(np.arange(n), side.start, side.stop - 1) for n, side in zip(inside.shape, box, strict=True)]
    away = [(np.arange(n) - c) * mm for n, c, mm in zip(inside.shape, clamped, spacing, strict=True)]
    distance = np.sqrt(sum(a**2 for a in np.meshgrid(*away, indexing="ij", sparse=True))).astype(np.float32)
    # The straight line through the nearest edge voxel is a little long; nobody needs these to the millimetre.
    beyond: FloatArray = np.maximum(inside[np.ix_(*clamped)] - distance, np.float32(-_FAR_MM))
    return beyond


# --- laying a head onto a brain ---------------------------------------------------------------------------------------

_STEP_MM = 4.0  # of the lattice that displacements are found on
_ROUNDS = 28
_MARGIN_MM = 30.0


def _room(grid: Grid, brain: Mask, below_mm: float) -> tuple[Grid, tuple[slice, slice, slice]]:
    """The grid with whole voxels added, and where the old one lies in it."""
    box = bounding_box(brain)
    assert box is not None
    axes, signs = grid.nearest_axes()
    low, high = [0, 0, 0], [0, 0, 0]
    for axis, (world, sign, mm) in enumerate(zip(axes, signs, grid.spacing, strict=True)):
        # Face, scalp and, at the lower end, neck.
        needed = {0: (28.0, 28.0), 1: (28.0, 40.0), 2: (below_mm, 24.0)}[world]
        first, last = needed if sign > 0 else needed[::-1]
        low[axis] = max(0, int(np.ceil(first / mm)) - box[axis].start)
        high[axis] = max(0, int(np.ceil(last / mm)) - (grid.shape[axis] - box[axis].stop))
    shape = tuple(n + a + b for n, a, b in zip(grid.shape, low, high, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(-np.array([low], float))[0]
    place = tuple(slice(a, a + n) for a, n in zip(low, grid.shape, strict=True))
    return Grid((shape[0], shape[1], shape[2]), affine), (place[0], place[1], place[2])


def _fitted(head: WholeHead, brain: Mask, grid: Grid) -> LabelArray:
    """`Part` on ``grid``, the head's brain brought onto ``brain``; no brain tissue is left outside it."""
    lattice, target = _lattice(brain, grid)
    offset, scale = _extent_fit(head, brain, grid)
    base = np.moveaxis(np.stack(np.meshgrid(*lattice, indexing="ij")), 0, -1)

    def to_head(points: _Points) -> _Points:
        """World of the patient -> voxels of the head."""
        posed = (points - offset[0]) * scale + offset[1]
        return head.grid.to_voxel(posed @ head.pose[:3, :3].T + head.pose[:3, 3])

    moved = np.zeros_like(base)
    at = to_head(base.reshape(-1, 3)).T.reshape(3, *target.shape)
    # The head's own distances on the lattice, in the patient's millimetres.
    own = ndimage.map_coordinates(head.inside_mm, at, order=1, mode="nearest") / float(scale.mean())
    slope = np.stack(np.gradient(ndimage.gaussian_filter(own, 0.7), _STEP_MM), axis=-1)
    steep = np.maximum((slope**2).sum(axis=-1), 0.2)
    first = np.array([line[0] for line in lattice])
    for number in range(_ROUNDS):
        here = np.moveaxis((base + moved - first) / _STEP_MM, -1, 0)
        there = ndimage.map_coordinates(own, here, order=1, mode="nearest")
        error = np.clip(target - there, -6, 6) / steep * (np.abs(target) < 9)
        pull = error[..., None] * np.stack(
            [ndimage.map_coordinates(slope[..., a], here, order=1, mode="nearest") for a in range(3)], axis=-1
        )
        # Coarse first, so that the skull follows as a whole; finer when what is left is local.
        width = (8.0 if number < _ROUNDS // 2 else 4.5) / _STEP_MM
        share = ndimage.gaussian_filter((np.abs(target) < 9).astype(np.float64), width, mode="nearest") + 0.05
        for a in range(3):
            moved[..., a] += 0.8 * ndimage.gaussian_filter(pull[..., a], width, mode="nearest") / share
    part = _look_up(head, grid, to_head, moved, first)
    tissue = (part > 0) & (part < 20) & (part != Part.VENOUS)
    part[tissue & ~brain] = Part.CSF
    # Bone does not touch a brain; where the surfaces did not quite meet, there is fluid between them.
    box = bounding_box(brain)
    assert box is not None
    room = tuple(slice(max(0, s.start - 4), min(n, s.stop + 4)) for s, n in zip(box, brain.shape, strict=True))
    rim = ndimage.binary_dilation(brain[room], iterations=max(1, round(1.0 / min(grid.spacing)))) & ~brain[room]
    part[room][rim & (part[room] != Part.VENOUS)] = Part.CSF
    return part


def _lattice(brain: Mask, grid: Grid) -> tuple[list[_Points], FloatArray]:
    """Lines of world x, y, z around the brain, and the signed distance to its surface there (positive inside)."""
    corners = grid.to_world(np.argwhere(brain[::2, ::2, ::2]) * 2.0)
    low, high = corners.min(axis=0) - _MARGIN_MM, corners.max(axis=0) + _MARGIN_MM
    lines = [np.arange(a, b, _STEP_MM) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    at = grid.to_voxel(points.reshape(-1, 3)).T.reshape(3, *points.shape[:3])
    soft = ndimage.gaussian_filter(brain.astype(np.float32), [0.4 * _STEP_MM / mm for mm in grid.spacing])
    share = ndimage.map_coordinates(soft, at, order=1, mode="constant")
    within = share > 0.5
    rough = ndimage.distance_transform_edt(within, sampling=_STEP_MM) - ndimage.distance_transform_edt(
        ~within, sampling=_STEP_MM
    )
    rough -= np.sign(rough) * _STEP_MM / 2
    # Next to the surface the share itself says where it lies within a step.
    return lines, np.asarray(ndimage.gaussian_filter(rough, 0.6), np.float32)


def _extent_fit(head: WholeHead, brain: Mask, grid: Grid) -> tuple[tuple[_Points, _Points], _Points]:
    """Middles ``(patient, head)`` in mm and the head's mm to a patient's mm along x, y, z, from the brains' extents."""
    spots = head.grid.to_world(np.argwhere(head.inside_mm[::3, ::3, ::3] > 0) * 3.0)
    posed = (spots - head.pose[:3, 3]) @ head.pose[:3, :3]
    patient = grid.to_world(np.argwhere(brain[::2, ::2, ::2]) * 2.0)
    ends = [(np.percentile(cloud, 0.3, axis=0), np.percentile(cloud, 99.7, axis=0)) for cloud in (patient, posed)]
    (a, b), (c, d) = ends
    scale = np.clip((d - c) / np.maximum(b - a, 1.0), 0.75, 1.35)
    return ((a + b) / 2, (c + d) / 2), scale


def _look_up(
    head: WholeHead, grid: Grid, to_head: Callable[[_Points], _Points], moved: _Points, first: _Points
) -> LabelArray:
    """The nearest label for each voxel of the grid; where to look is worked out every few voxels, linear between."""
    knots = [
        np.append(np.arange(0, n - 1, max(1, round(_STEP_MM / mm))), n - 1)
        for n, mm in zip(grid.shape, grid.spacing, strict=True)
    ]
    world = grid.to_world(np.stack(np.meshgrid(*knots, indexing="ij"), axis=-1).reshape(-1, 3))
    at = ((world - first) / _STEP_MM).T
    shift = [ndimage.map_coordinates(moved[..., a], at, order=1, mode="nearest") for a in range(3)]
    places = to_head(world + np.stack(shift, axis=-1)).T.reshape(3, *(len(line) for line in knots))
    ways = [_between(n, line) for n, line in zip(grid.shape, knots, strict=True)]
    found = np.zeros(grid.shape, np.int32)
    inside = np.ones(grid.shape, bool)
    for place, count in zip(places, head.part.shape, strict=True):
        nearest = np.rint(resample_axes(ways, place.astype(np.float32))).astype(np.int32)
        inside &= (nearest >= 0) & (nearest < count)
        found = found * count + np.clip(nearest, 0, count - 1, out=nearest)
    return np.where(inside, head.part.reshape(-1)[found], np.uint8(Part.AIR))


def _between(count: int, knots: NDArray[Any]) -> FloatArray:
    """``(count, len(knots))``: linear interpolation at 0, 1, 2 ... from values at ``knots``, which begin and end so."""
    at = np.arange(count)
    low = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, max(len(knots) - 2, 0))
    high = np.minimum(low + 1, len(knots) - 1)
    share = (at - knots[low]) / np.maximum(knots[high] - knots[low], 1e-9)
    weights = np.zeros((count, len(knots)), np.float32)
    weights[at, low] += 1 - share
    weights[at, high] += share * (high > low)
    return weights


# --- how bright it is -------------------------------------------------------------------------------------------------

# Relative to the brain's median of the same sequence, as scans at 1.5 T and 3 T usually show it; fluid is from the
# patient's own picture. Bone has no signal; what it shows is its surroundings.
BRIGHT: Mapping[Sequence, Mapping[Part, float]] = MappingProxyType(
    {
        Sequence.T1: {
            Part.VENOUS: 0.6, Part.CORD: 1.0, Part.BONE: 0.12, Part.MARROW: 1.3, Part.MUSCLE: 0.75, Part.FAT: 1.8,
            Part.SKIN: 0.9, Part.EYE: 0.4, Part.LENS: 0.8, Part.MUCOSA: 0.9, Part.ARTERY: 0.5, Part.DURA: 0.8,
        },
        Sequence.T1CE: {
            Part.VENOUS: 1.9, Part.CORD: 1.0, Part.BONE: 0.12, Part.MARROW: 1.35, Part.MUSCLE: 0.9, Part.FAT: 1.8,
            Part.SKIN: 1.1, Part.EYE: 0.4, Part.LENS: 0.8, Part.MUCOSA: 1.8, Part.ARTERY: 1.5, Part.DURA: 1.4,
        },
        Sequence.T2: {
            Part.VENOUS: 0.35, Part.CORD: 0.9, Part.BONE: 0.12, Part.MARROW: 0.9, Part.MUSCLE: 0.45, Part.FAT: 1.5,
            Part.SKIN: 0.7, Part.EYE: 2.6, Part.LENS: 0.4, Part.MUCOSA: 1.8, Part.ARTERY: 0.2, Part.DURA: 0.35,
        },
        Sequence.FLAIR: {
            Part.VENOUS: 0.3, Part.CORD: 0.95, Part.BONE: 0.12, Part.MARROW: 0.9, Part.MUSCLE: 0.7, Part.FAT: 1.3,
            Part.SKIN: 0.8, Part.EYE: 0.25, Part.LENS: 0.6, Part.MUCOSA: 1.5, Part.ARTERY: 0.2, Part.DURA: 0.5,
        },
    }
)  # fmt: skip
_SUPPRESSED = {Sequence.T1: 0.1, Sequence.T1CE: 0.25, Sequence.T2: 0.3, Sequence.FLAIR: 0.4}  # chance that fat is dark
_FLUID_PERCENTILE = {Sequence.T1: 2.0, Sequence.T1CE: 2.0, Sequence.T2: 97.5, Sequence.FLAIR: 2.0}


def _surrounded(
    volume: Volume,
    brain: Mask,
    part: LabelArray,
    grid: Grid,
    box: tuple[slice, slice, slice],
    rng: np.random.Generator,
    air: bool,
) -> Volume:
    """One sequence with the head around it."""
    sequence = volume.sequence or Sequence.T1
    inside = volume.data[volume.data != 0]
    median = float(np.median(inside))
    lut = np.zeros(256, np.float32)
    for kind, bright in BRIGHT[sequence].items():
        lut[kind] = bright * rng.lognormal(0.0, 0.16)
    if rng.random() < _SUPPRESSED[sequence]:
        lut[[Part.FAT, Part.MARROW]] *= rng.uniform(0.15, 0.4)
    lut[Part.CSF] = float(np.percentile(inside, _FLUID_PERCENTILE[sequence])) / median
    lut[1 : Part.CSF] = 1.0  # brain of the label map is left nowhere outside the patient's
    picture = lut[part]
    # Marrow lies within thick bone in spots; muscle holds strands of fat; all of it varies.
    patchy = _noise(grid, 7.0, rng)
    picture[(part == Part.BONE) & (patchy > 1.2)] = lut[Part.MARROW] * 0.6
    picture[(part == Part.MUSCLE) & (patchy > 1.5)] = lut[Part.FAT]
    picture *= 1 + np.float32(0.08) * patchy
    picture *= np.exp(np.float32(0.12) * _noise(grid, 60.0, rng))
    # Partial volume outside the brain alone: the brain is not smeared into what lies around it, or the other way.
    outside = (~brain).astype(np.float32)
    width = [0.55 / mm for mm in grid.spacing]
    share = ndimage.gaussian_filter(outside, width, truncate=3)
    picture = ndimage.gaussian_filter(picture * outside, width, truncate=3) / np.maximum(share, 1e-3)
    strength = rng.uniform(0.01, 0.04)
    if air:
        real, imaginary = (rng.standard_normal(grid.shape, np.float32) * np.float32(strength) for _ in range(2))
        picture = np.hypot(picture + real, imaginary)
    else:
        picture += rng.standard_normal(grid.shape, np.float32) * np.float32(strength)
        picture = np.where(part == Part.AIR, 0, np.maximum(picture, 0.01))
    picture *= np.float32(median)
    data = np.zeros(grid.shape, np.float32)
    data[box] = volume.data
    # Holes of the mask, such as fluid that was cut away, are no air.
    enclosed = brain & (data == 0)
    picture[enclosed] = lut[Part.CSF] * np.float32(median)
    return replace(volume, data=np.where(data != 0, data, picture).astype(np.float32), grid=grid, source=None)


def _noise(grid: Grid, scale_mm: float, rng: np.random.Generator) -> FloatArray:
    """Smooth noise of about zero mean and unit spread over the grid, varying over ``scale_mm``."""
    ways = [
        _between(n, np.linspace(0, n - 1, max(4, int(np.ceil(n * mm / scale_mm)) + 1)))
        for n, mm in zip(grid.shape, grid.spacing, strict=True)
    ]
    field = resample_axes(ways, rng.standard_normal(tuple(way.shape[1] for way in ways), np.float32))
    return field / np.float32(max(float(field[::3, ::3, ::3].std()), 1e-3))
