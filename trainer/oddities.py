"""Patients made unusual: what `engine.unusual` must notice, made from any stripped patient.

Each function changes one thing about all sequences of a patient, strongly enough that a radiologist would see it at
once. They are for measuring and testing the warnings, not for training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.preprocessing import background
from engine.unusual import Kind
from engine.volume import FloatArray, Grid, LabelMap, Mask, Sequence, Subject, Volume, bounding_box
from trainer import shift


def ct(subject: Subject) -> Subject:
    """Hounsfield units: brain flat at 35, fluid at 8, a shell of bone at 1000, air at -1000."""
    from scipy import ndimage

    brain = _brain(subject)
    bone = ndimage.binary_dilation(brain, iterations=_voxels(subject.grid, 8)) & ~brain
    rng = np.random.default_rng(0)

    def made(volume: Volume) -> FloatArray:
        unit = volume.data / max(float(np.median(volume.data[brain])), 1e-9)
        values = np.where(brain, 35 + 6 * np.clip(unit - 1, -1, 1), -1000) + 4 * rng.standard_normal(brain.shape)
        values[bone] = 1000
        return values.astype(np.float32)

    return _each(subject, made)


def not_a_head(subject: Subject) -> Subject:
    """A smooth body with two long bones and a few organs, on the patient's grid."""
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in subject.grid.shape)]
    body = np.zeros(subject.grid.shape, np.float32)
    for centre, size, value in (
        ((0.0, 0.0, 0.0), (0.8, 0.5, 3.0), 60.0),
        ((0.4, 0.0, 0.0), (0.12, 0.12, 3.0), 10.0),
        ((-0.4, 0.0, 0.0), (0.12, 0.12, 3.0), 10.0),
        ((0.0, 0.2, 0.1), (0.2, 0.15, 0.4), 100.0),
    ):
        inside = sum(((x - c) / s) ** 2 for x, c, s in zip(axes, centre, size, strict=True)) < 1
        body[inside] = value
    noise = np.random.default_rng(0).standard_normal(body.shape, dtype=np.float32)
    body = np.where(body > 0, body + 2 * noise, 0).astype(np.float32)
    return _each(subject, lambda _: body)


def child(subject: Subject) -> Subject:
    """Everything three quarters as large along each axis: a brain of 0.42 times its volume."""

    def smaller(volume: Volume) -> Volume:
        affine = volume.grid.affine.copy()
        affine[:3] *= 0.75
        return replace(volume, grid=Grid(volume.grid.shape, affine))

    return Subject(subject.name, {sequence: smaller(volume) for sequence, volume in subject.items()})


def moved(subject: Subject) -> Subject:
    """The head moved six times by up to 12 mm and degrees; the air around it is shown, with noise and ghosts."""
    change = shift.Change(moves=6, moved_lines=0.6, shift_mm=12.0, turn_degrees=12.0, noise=0.03)
    return _in_air(subject, change)


def still(subject: Subject) -> Subject:
    """What `moved` makes of a patient who lies still; nothing is unusual about it."""
    return _in_air(subject, shift.Change(noise=0.03))


def _in_air(subject: Subject, change: shift.Change) -> Subject:
    rng = np.random.default_rng(3)
    volumes = {sequence: shift.rescan(volume, change, rng, stripped=False) for sequence, volume in subject.items()}
    return Subject(subject.name, volumes)


def cut_off(subject: Subject) -> Subject:
    """The scan ends a quarter of the brain below its top."""
    brain = _brain(subject)
    axes, signs = subject.grid.nearest_axes()
    axis = axes.index(2)
    box = bounding_box(brain)
    assert box is not None
    quarter = (box[axis].stop - box[axis].start) // 4
    keep = slice(None, box[axis].stop - quarter) if signs[axis] > 0 else slice(box[axis].start + quarter, None)
    place = tuple(keep if a == axis else slice(None) for a in range(3))

    def shorter(volume: Volume) -> Volume:
        data = np.ascontiguousarray(volume.data[place])
        affine = volume.grid.affine.copy()
        affine[:3, 3] = volume.grid.to_world(np.array([[(s.start or 0) for s in place]]))[0]
        return replace(volume, data=data, grid=Grid(data.shape, affine))

    return Subject(subject.name, {sequence: shorter(volume) for sequence, volume in subject.items()})


def metal(subject: Subject) -> Subject:
    """A clip in the left hemisphere: no signal within 14 mm, too much in a shell around it."""
    away = _distance_mm(subject, _point(subject, 0.3, 0.55, 0.45))

    def spoilt(volume: Volume) -> FloatArray:
        data = np.where(away < 14, 0, volume.data)
        return np.where((away >= 14) & (away < 17), 2.5 * data, data).astype(np.float32)

    return _each(subject, spoilt)


def operated(subject: Subject) -> Subject:
    """A cavity of 18 mm radius at the right convexity, filled with the fluid of the ventricles."""
    brain = _brain(subject)
    cavity = (_distance_mm(subject, _point(subject, 0.82, 0.55, 0.62)) < 18) & brain
    return _each(subject, lambda volume: np.where(cavity, _fluid(volume, brain), volume.data).astype(np.float32))


def other_contrast(subject: Subject) -> Subject:
    """Every sequence under another one's name."""
    sequences = list(subject)
    return Subject(subject.name, {s: subject[sequences[(n + 1) % len(sequences)]] for n, s in enumerate(sequences)})


MADE: dict[Kind, Callable[[Subject], Subject]] = {
    Kind.CT: ct,
    Kind.NOT_A_HEAD: not_a_head,
    Kind.SMALL_HEAD: child,
    Kind.MOTION: moved,
    Kind.CUT_OFF: cut_off,
    Kind.METAL: metal,
    Kind.CAVITY: operated,
    Kind.CONTRAST: other_contrast,
}


def unlikely_mask(subject: Subject, kind: str) -> LabelMap:
    """A mask that no glioma has.

    Args:
        subject: Where it lies.
        kind: ``"rim"`` along the brain's surface, ``"both"`` alike on both sides, ``"half"`` of the brain, ``"none"``.
    """
    from scipy import ndimage

    brain = _brain(subject)
    whole = np.zeros(brain.shape, bool)
    if kind == "rim":
        whole = brain & ~ndimage.binary_erosion(brain, iterations=_voxels(subject.grid, 2))
    elif kind == "both":
        for side in (0.3, 0.7):
            whole |= (_distance_mm(subject, _point(subject, side, 0.5, 0.6)) < 15) & brain
    elif kind == "half":
        axes = np.indices(brain.shape)
        box = bounding_box(brain)
        assert box is not None
        whole = brain & (axes[0] < (box[0].start + box[0].stop) / 2)
    return LabelMap.of_regions(whole, np.zeros_like(whole), subject.grid)


def _each(subject: Subject, made: Callable[[Volume], FloatArray]) -> Subject:
    return Subject(subject.name, {s: replace(v, data=made(v), source=None) for s, v in subject.items()})


def _brain(subject: Subject) -> Mask:
    signals: Mask = np.logical_or.reduce([v.data != background(v.data) for v in subject.values()])
    return signals


def _voxels(grid: Grid, mm: float) -> int:
    return max(1, round(mm / min(grid.spacing)))


def _point(subject: Subject, right: float, front: float, up: float) -> NDArray[np.float64]:
    """A point in the brain's box in world mm; 0 is its left, back and bottom, 1 its right, front and top."""
    where = np.argwhere(_brain(subject)[::3, ::3, ::3]) * 3
    world = subject.grid.to_world(where)
    low, high = world.min(axis=0), world.max(axis=0)
    return np.asarray(low + np.array([right, front, up]) * (high - low), np.float64)


def _distance_mm(subject: Subject, point: NDArray[np.float64]) -> FloatArray:
    grid = subject.grid
    i, j, k = (np.arange(n, dtype=np.float32) for n in grid.shape)
    total = np.zeros(grid.shape, np.float32)
    for row in range(3):
        a, b, c, d = (np.float32(v) for v in grid.affine[row])
        total += (a * i[:, None, None] + b * j[None, :, None] + c * k + d - np.float32(point[row])) ** 2
    return np.sqrt(total)


def _fluid(volume: Volume, brain: Mask) -> float:
    values = volume.data[brain]
    return float(np.percentile(values, 97 if volume.sequence is Sequence.T2 else 2))
