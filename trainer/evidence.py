"""What the voxels of one patient say about whether images and mask are what they are called.

Everything is measured on images brought to some 3 mm, which is enough to recognise a head, a sequence or a side, and
keeps a patient's evidence to some tens of kilobytes. The limits are `trainer.doctor`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.preprocessing import background, to_canonical
from engine.progress import Progress
from engine.volume import Box, FloatArray, Grid, LabelArray, LabelMap, Mask, Sequence, Subject, bounding_box

COARSE_MM = 3.0
# Of coarse voxels: 54 ml, less than any brain. Below it there is nothing to compare.
FEWEST_VOXELS = 2000
FINGERPRINT = (16, 16, 16)

Pair = tuple[Sequence, Sequence]


@dataclass(frozen=True)
class Greys:
    """The intensities of one image, inside its signal.

    Attributes:
        levels: How many different ones a sample of 20,000 voxels holds.
        hottest: How far the brightest voxel lies above the median, in units of the 99.9th percentile's distance.
        covers: Share of the place that any of the patient's images shows that this one shows too.
    """

    levels: int
    hottest: float
    covers: float


@dataclass(frozen=True, eq=False)
class Looks:
    """How the healthy brain and the tumour look on each sequence, whatever the scanner's scale.

    Attributes:
        alike: Rank correlation of each two sequences in the healthy brain.
        single: Of each sequence, all in spreads of the healthy brain and squeezed by asinh: how far its bright end, its
            dark end and its brightest voxels, the tumour's median and the core's bright end lie from its median.
    """

    alike: Mapping[Pair, float]
    single: Mapping[Sequence, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured on one patient.

    Attributes:
        signal_ml: Volume that holds signal, of the image with the most.
        greys: Intensities of each image.
        outside: Share of the mask that lies where no image shows anything; ``None`` without a mask.
        wrong_side: How much more the mirrored place of the mask stands out on T2 and FLAIR than the mask, in spreads of
            the brain; ``None`` where it cannot be told.
        mirrored: By how much each image fits the others better when it is mirrored (difference of correlations of
            edges).
        same: Pairs of sequences that hold one and the same image.
        fingerprints: A coarse picture of each image, in ranks, that tells heads apart: uint8 ``(4096,)``.
        looks: What tells sequences apart; ``None`` without enough brain or tumour.
    """

    signal_ml: float
    greys: Mapping[Sequence, Greys]
    outside: float | None = None
    wrong_side: float | None = None
    mirrored: Mapping[Sequence, float] = field(default_factory=dict)
    same: tuple[Pair, ...] = ()
    fingerprints: Mapping[Sequence, NDArray[np.uint8]] = field(default_factory=dict)
    looks: Looks | None = None


def gather(subject: Subject, mask: LabelMap | None, largest_brain_ml: float, progress: Progress) -> Evidence:
    """Measure one patient.

    Args:
        subject: The images.
        mask: The truth on their grid, whole tumour and core; ``None`` where there is none.
        largest_brain_ml: With more signal than that the skull is on: air is then what is dark, not what is nought.
        progress: Checked every few tenths of a second.

    Raises:
        Cancelled: Asked to stop.
    """
    floors = {sequence: background(volume.data) for sequence, volume in subject.items()}
    together: Mask = np.zeros(subject.grid.shape, bool, order="F")
    counts = {}
    for sequence, volume in subject.items():
        progress.check()
        shown = volume.data != floors[sequence]
        counts[sequence] = int(np.count_nonzero(shown))
        together |= shown
    signal_ml = max(counts.values()) * subject.grid.voxel_ml
    skull_on = signal_ml > largest_brain_ml
    # From here on only the box of the head is looked at: empty space costs time and must not decide where blocks begin.
    box = bounding_box(together) or (slice(None), slice(None), slice(None))
    whole = max(1, int(np.count_nonzero(together)))
    images: dict[Sequence, FloatArray] = {}
    greys = {}
    for sequence, volume in subject.items():
        progress.check()
        images[sequence] = np.asfortranarray(volume.data[box])
        greys[sequence] = _greys(images[sequence], floors[sequence], counts[sequence] / whole)
    drawn = None if mask is None else LabelMap(np.asfortranarray(mask.data[box]), _cut(mask.grid, box))
    outside = None
    if mask is not None and drawn is not None and mask.data.any():
        seen = _seen(images, floors, drawn.whole_tumour, skull_on)
        outside = 1 - seen / np.count_nonzero(mask.data)
    axes, signs = subject.grid.nearest_axes()
    every = _blocks(subject.grid.spacing)
    coarse: dict[Sequence, FloatArray] = {}
    for sequence, data in images.items():
        progress.check()
        turned = to_canonical(_coarse(data, every), axes, signs)
        coarse[sequence] = np.asarray(turned, np.float32) - np.float32(floors[sequence])
    brain: Mask = np.logical_and.reduce([data != 0 for data in coarse.values()])
    if np.count_nonzero(brain) < FEWEST_VOXELS:
        return Evidence(signal_ml, greys, outside)
    regions: tuple[Mask, Mask] | None = None
    if drawn is not None and drawn.data.any():
        whole_tumour, core = (
            to_canonical(_coarse(region.astype(np.float32), every), axes, signs)
            for region in (drawn.whole_tumour, drawn.tumour_core)
        )
        regions = whole_tumour > 0.5, core > 0.5
    progress.check()
    return Evidence(
        signal_ml,
        greys,
        outside,
        wrong_side=None if regions is None else _wrong_side(coarse, brain, regions[0]),
        mirrored=_mirrored(coarse, brain),
        same=_same(coarse, brain),
        fingerprints={sequence: _fingerprint(data) for sequence, data in coarse.items()},
        looks=None if regions is None or skull_on else _looks(coarse, brain, *regions),
    )


def likeness(prints: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How alike heads are: the correlation of their fingerprints' ranks where both hold something.

    The shape of a head says little: where one of two has nothing, they are not compared.

    Args:
        prints: ``(N, 4096)``, the fingerprints of one sequence.

    Returns:
        ``(N, N)``: 1 for one and the same image, about 0.5 for two patients; 0 where there is nothing to compare.
    """
    held = (prints > 0).astype(np.float64)
    # All pairs at once, by products of matrices: sums over the voxels that both hold.
    ranks = (prints.astype(np.float64) - 150) * held
    both = held @ held.T
    sums, squares = ranks @ held.T, (ranks**2) @ held.T
    shared = both * (ranks @ ranks.T) - sums * sums.T
    spread = np.sqrt(np.maximum(both * squares - sums**2, 0))
    scale = spread * spread.T
    alike: NDArray[np.float64] = np.divide(shared, scale, out=np.zeros_like(shared), where=scale > 0)
    return alike


def outer_faces(labels: LabelArray) -> dict[int, int]:
    """How many faces of each label's voxels look out of the mask: oedema lies around the core, not inside it.

    Args:
        labels: ``(I, J, K)``, 0 outside.

    Returns:
        The number of faces by label, labels without any left out.
    """
    box = bounding_box(labels > 0)
    if box is None:
        return {}
    part = np.pad(labels[box], 1)
    counts = np.zeros(256, np.int64)
    for axis in range(3):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        for here, there in ((ahead, behind), (behind, ahead)):
            counts += np.bincount(part[here][part[there] == 0], minlength=256)
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}


# --- what there is ----------------------------------------------------------------------------------------------------


def _cut(grid: Grid, box: Box) -> Grid:
    """The part of a grid in a box."""
    first = np.array([[part.start or 0 for part in box]])
    affine = np.array(grid.affine)
    affine[:3, 3] = grid.to_world(first)[0]
    i, j, k = (len(range(*part.indices(size))) for part, size in zip(box, grid.shape, strict=True))
    return Grid((i, j, k), affine)


def _greys(data: FloatArray, floor: float, covers: float) -> Greys:
    flat = data.ravel(order="K")
    values = flat[flat != floor]
    if not values.size:
        return Greys(0, 1.0, covers)
    sample = values[:: max(1, values.size // 20_000)]
    median, high = (float(value) for value in np.percentile(sample, (50, 99.9)))
    return Greys(
        levels=len(np.unique(sample)),
        hottest=(float(values.max()) - median) / max(high - median, 1e-9),
        covers=covers,
    )


def _seen(images: Mapping[Sequence, FloatArray], floors: Mapping[Sequence, float], mask: Mask, skull_on: bool) -> int:
    """How many voxels of a mask lie where any image shows something."""
    seen = np.zeros(int(np.count_nonzero(mask)), bool)
    for sequence, data in images.items():
        floor, values = floors[sequence], data.T[mask.T]  # both lie with the first axis fastest
        # With the skull on air is noise: dark, but seldom nought.
        bright = float(np.percentile(data[::4, ::4, ::4], 98))
        seen |= values > floor + 0.05 * (bright - floor) if skull_on else values != floor
    return int(np.count_nonzero(seen))


def _blocks(spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    i, j, k = (max(1, round(COARSE_MM / mm)) for mm in spacing)
    return i, j, k


def _coarse(data: FloatArray, every: tuple[int, int, int]) -> FloatArray:
    """Means of blocks of voxels, an incomplete last block of an axis left out; ``(i, j, k)``."""
    for axis, step in enumerate(every):
        size = data.shape[axis] // step * step
        starts = np.arange(0, size, step)
        cut = data[tuple(slice(0, size) if a == axis else slice(None) for a in range(3))]
        data = np.asarray(np.add.reduceat(cut, starts, axis=axis) / np.float32(step), np.float32) if size else cut
    return data


# --- what it shows ----------------------------------------------------------------------------------------------------


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 0 to 1, whatever the scale; ``values`` flat."""
    ranks = np.empty(values.size, np.float64)
    ranks[np.argsort(values, kind="stable")] = np.linspace(0, 1, values.size)
    return ranks


def _same(coarse: Mapping[Sequence, FloatArray], brain: Mask) -> tuple[Pair, ...]:
    ranks = {sequence: _ranks(data[brain]) for sequence, data in coarse.items()}
    return tuple(
        (one, other) for one, other in combinations(ranks, 2) if np.corrcoef(ranks[one], ranks[other])[0, 1] > 0.99
    )


def _fingerprint(data: FloatArray) -> NDArray[np.uint8]:
    """The head cut to its own box, on a grid of fixed size, in ranks from 1 to 255; 0 outside."""
    from scipy import ndimage

    inside = data > 0.3 * np.median(data[data > 0]) if (data > 0).any() else data != 0
    box = bounding_box(inside)
    cut = data if box is None else data[box]
    factors = [want / size for want, size in zip(FINGERPRINT, cut.shape, strict=True)]
    small = ndimage.zoom(cut, factors, order=1, mode="nearest", grid_mode=True)
    prints = np.zeros(FINGERPRINT, np.uint8)
    held = small > 0
    prints[held] = np.rint(50 + 205 * _ranks(small[held]))
    return prints.ravel()


def _mirrored(coarse: Mapping[Sequence, FloatArray], brain: Mask) -> dict[Sequence, float]:
    """By how much each image fits the others better mirrored than as it is."""
    from scipy import ndimage

    box = bounding_box(brain)
    if len(coarse) < 2 or box is None:
        return {}
    both = brain[box] & brain[box][::-1]
    if np.count_nonzero(both) < FEWEST_VOXELS // 2:
        return {}
    edges = {sequence: ndimage.gaussian_gradient_magnitude(data[box], 1) for sequence, data in coarse.items()}
    gains = {}
    for sequence, own in edges.items():
        others = [edges[other][both] for other in edges if other != sequence]
        plain, turned = own[both], own[::-1][both]
        gains[sequence] = float(
            np.mean([np.corrcoef(turned, other)[0, 1] - np.corrcoef(plain, other)[0, 1] for other in others])
        )
    return gains


def _wrong_side(coarse: Mapping[Sequence, FloatArray], brain: Mask, tumour: Mask) -> float | None:
    """How much more the mirrored place of the mask stands out than the mask; see `Evidence`."""
    bright = [coarse[sequence] for sequence in (Sequence.T2, Sequence.FLAIR) if sequence in coarse]
    box = bounding_box(brain)
    if not bright or box is None:
        return None
    inside, mask = brain[box], tumour[box]
    mirrored = mask[::-1]
    here, there = mask & ~mirrored & inside, mirrored & ~mask & inside
    # A tumour across the midline is its own mirror image.
    if min(np.count_nonzero(here), np.count_nonzero(there)) < max(20, 0.1 * np.count_nonzero(mask)):
        return None
    healthy = inside & ~mask & ~mirrored
    if np.count_nonzero(healthy) < FEWEST_VOXELS // 2:
        return None
    differences = []
    for data in bright:
        cut = data[box]
        low, high = np.percentile(cut[healthy], (16, 84))
        differences.append((np.median(cut[there]) - np.median(cut[here])) / max(high - low, 1e-9))
    return float(np.mean(differences))


def _looks(coarse: Mapping[Sequence, FloatArray], brain: Mask, tumour: Mask, core: Mask) -> Looks | None:
    from scipy import ndimage

    inner = ndimage.binary_erosion(brain)
    healthy = inner & ~ndimage.binary_dilation(tumour, iterations=2)
    if np.count_nonzero(healthy) < FEWEST_VOXELS or np.count_nonzero(tumour) < 20:
        return None
    ranks = {sequence: _ranks(data[healthy]) for sequence, data in coarse.items()}
    alike = {(one, other): float(np.corrcoef(ranks[one], ranks[other])[0, 1]) for one, other in combinations(ranks, 2)}
    heart = core if core.any() else tumour
    single = {}
    for sequence, data in coarse.items():
        dark, low, median, high, bright, brightest = np.percentile(data[healthy], (5, 16, 50, 84, 95, 99))
        spread = max((high - low) / 2, 1e-9)
        places = (bright, dark, brightest, np.median(data[tumour]), np.percentile(data[heart], 90))
        single[sequence] = np.arcsinh((np.array(places) - median) / spread)
    return Looks(alike, single)
