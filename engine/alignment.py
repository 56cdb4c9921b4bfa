"""Bringing the sequences of one patient together by rigid motions, without touching a voxel.

A scan that lies elsewhere than the others is moved by multiplying its affine with a rigid matrix (`moved`), so nothing is
interpolated and the way back onto the file's own grid is exact. What the models need, one grid for all sequences, is
made once, afterwards (`working_grid`, `onto`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine.progress import Progress
from engine.volume import Affine, Grid, Sequence, Volume


@dataclass(frozen=True, eq=False)
class Alignment:
    """How a scan has to be moved to lie on another.

    Attributes:
        matrix: ``(4, 4)`` float64, rigid: world of the moving scan in mm -> world of the reference.
        already: Whether it lay right as it was; then ``matrix`` is the identity.
        moved_mm: How far the middle of the moving head moves.
        turned_deg: By how much it turns.
        quality: 0..1, see `quality`.
        quality_words: The same in words: ``"good"``, ``"fair: have a look"``, ``"poor: do not trust it"``.
        seconds: How long it took.
    """

    matrix: Affine
    already: bool
    moved_mm: float
    turned_deg: float
    quality: float
    quality_words: str
    seconds: float


def align(moving: Volume, reference: Volume, progress: Progress = Progress(), start: Affine | None = None) -> Alignment:
    """Find the rigid motion that brings a scan onto another of the same patient.

    Args:
        moving: Any sequence, with or without its skull.
        reference: Another one.
        progress: Told of every stage; cancelling it stops within a second.
        start: ``(4, 4)``; where to begin looking, e.g. what the user did by hand. By default from headers and from
            centres of mass.

    Raises:
        Cancelled: ``progress`` was cancelled.
    """
    raise NotImplementedError


def quality(moving: Volume, reference: Volume) -> float:
    """How well two scans lie on each other: 1 as well as can be told, 0 not at all."""
    raise NotImplementedError


def quality_words(value: float) -> str:
    """`quality` in words."""
    raise NotImplementedError


def already_aligned(volumes: Iterable[Volume]) -> bool:
    """Whether scans share a grid and no small motion of one would make it fit the others better."""
    raise NotImplementedError


def moved(volume: Volume, matrix: Affine) -> Volume:
    """The same voxels at another place.

    Args:
        volume: Stays as it is.
        matrix: ``(4, 4)``, world in mm -> world in mm.
    """
    return replace(volume, grid=Grid(volume.grid.shape, matrix @ volume.grid.affine))


def nudge(
    matrix: Affine,
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0),
    about: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Affine:
    """Move what a matrix has moved a little further.

    Args:
        matrix: ``(4, 4)``, as in `Alignment`.
        shift_mm: To the patient's right, front and head.
        turn_deg: About the axes that point there, in this order; from right to front, front to head, head to right is
            positive.
        about: The point in the reference's world, in mm, that turning leaves where it is.

    Returns:
        ``(4, 4)`` float64, rigid for as long as ``matrix`` is.
    """
    step = np.eye(4)
    step[:3, :3] = _rotation(turn_deg)
    centre = np.asarray(about, np.float64)
    step[:3, 3] = centre - step[:3, :3] @ centre + np.asarray(shift_mm, np.float64)
    further: Affine = step @ matrix
    return further


def reference_of(volumes: Mapping[Sequence, Volume]) -> Sequence:
    """The sequence the others are best moved onto: the finest; among equally fine ones T1ce or T1."""
    raise NotImplementedError


def working_grid(volumes: Mapping[Sequence, Volume], reference: Sequence) -> Grid:
    """One grid for all sequences, after they were moved: along the reference's axes, about 1 mm, cut to the head."""
    raise NotImplementedError


def onto(volume: Volume, grid: Grid) -> Volume:
    """A scan sampled at the voxels of another grid; its background value outside."""
    raise NotImplementedError


def _rotation(degrees: tuple[float, float, float]) -> Affine:
    """A ``(3, 3)`` rotation about x, then y, then z."""
    turned: Affine = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turned = step @ turned
    return turned
