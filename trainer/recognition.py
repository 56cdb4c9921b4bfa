"""Training of the network that tells a sequence from its voxels (`engine.contents`).

What it learns from are descriptions (`engine.contents.describe`) of made-up acquisitions, 2 mm coarse: real and
simulated patients, scanned again as `trainer.shift` does, half of them with a head of a label map around their brain;
and of much that is none of the four sequences. Fat, muscle, bone, marrow and skin have random brightness, within what
their sequence allows, so that the network has to look at the brain as well. Descriptions are made once, in shards that
several trainings share; each knows its patient, so a network of one fold never sees another fold's.

Run by ``scripts/measure_recognition.py``, which cross-validates as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from scipy import ndimage
from torch import Tensor, nn

from engine import contents
from engine.files import whole_file
from engine.model_card import sha256
from engine.preprocessing import background, resample_axes, resampling_weights, to_canonical
from engine.volume import FloatArray, Grid, LabelArray, LabelMap, Mask, Sequence, Volume, bounding_box
from trainer import shift
from trainer.simulate import Tissue, prepare_anatomy

SPACING_MM = 2.0
BRAIN_SHAPE = (96, 112, 96)
# Room for a head with its neck: 208 x 256 x 240 mm.
HEAD_SHAPE = (104, 128, 120)
SHARD = 200
SIMULATED = -1  # in place of a patient's number

# What surrounds a brain, told apart in `Head.tissue`.
_AIR, _BONE, _MARROW, _SOFT, _SKIN, _FLUID, _VEIN, _MUCOSA, _DEEP = range(9)

# Brightness relative to the brain (its third quartile in T1 and T1ce, its median in T2 and FLAIR), lowest and highest.
_AROUND = {
    Sequence.T1: {
        _BONE: (0.02, 0.2), _MARROW: (0.5, 2.2), _SKIN: (0.5, 1.3), _VEIN: (0.3, 1.0), _MUCOSA: (0.3, 1.2),
        _DEEP: (0.2, 1.1), "fat": (1.1, 3.6), "fat_suppressed": (0.2, 0.6), "muscle": (0.5, 0.95), "chance": 0.12,
    },
    Sequence.T1CE: {
        _BONE: (0.02, 0.2), _MARROW: (0.5, 2.2), _SKIN: (0.6, 1.7), _VEIN: (1.1, 2.8), _MUCOSA: (1.0, 2.2),
        _DEEP: (0.2, 1.6), "fat": (1.1, 3.6), "fat_suppressed": (0.2, 0.6), "muscle": (0.55, 1.1), "chance": 0.25,
    },
    Sequence.T2: {
        _BONE: (0.02, 0.2), _MARROW: (0.3, 1.6), _SKIN: (0.4, 1.4), _VEIN: (0.1, 0.6), _MUCOSA: (1.0, 2.4),
        _DEEP: (0.2, 2.4), "fat": (0.6, 2.4), "fat_suppressed": (0.1, 0.5), "muscle": (0.15, 0.5), "chance": 0.3,
    },
    Sequence.FLAIR: {
        _BONE: (0.02, 0.2), _MARROW: (0.2, 1.2), _SKIN: (0.3, 1.2), _VEIN: (0.1, 0.7), _MUCOSA: (0.7, 1.7),
        _DEEP: (0.1, 1.2), "fat": (0.5, 2.0), "fat_suppressed": (0.1, 0.45), "muscle": (0.2, 0.65), "chance": 0.7,
    },
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Brain:
    """A stripped patient at 2 mm, axes to the right, front and head.

    Attributes:
        number: Of the patient; `SIMULATED` for made-up ones.
        images: ``(4, i, j, k)`` float32 in the order of `Sequence`; positive in the brain, zero outside.
    """

    number: int
    images: FloatArray

    def healthy(self) -> Brain:
        """The half with less that is bright in FLAIR on both sides: scans of patients without a large tumour."""
        inside = self.images[0] != 0
        filled = np.flatnonzero(inside.any(axis=(1, 2)))
        if not filled.size:
            return self
        flair = self.images[list(Sequence).index(Sequence.FLAIR)]
        bright = (flair > 1.35 * np.median(flair[inside])).sum(axis=(1, 2))
        places = np.arange(len(bright))
        ends = int(filled[0] + filled[-1])
        left = 2 * places < ends
        worse = left == (bright[left].sum() > bright[~left].sum())
        taken = np.where(worse, np.clip(ends - places, 0, len(places) - 1), places)
        return Brain(self.number, self.images[:, taken])


@dataclass(frozen=True, eq=False)
class Head:
    """A head of a label map at 2 mm, axes to the right, front and head.

    Attributes:
        tissue: ``(i, j, k)`` uint8: what surrounds the brain.
        brain: Where the label map's own brain lies.
    """

    tissue: LabelArray
    brain: Mask

    @classmethod
    def of(cls, labels: LabelMap) -> Head:
        """From a whole-head label map as `trainer.simulate` takes it."""
        anatomy = prepare_anatomy(labels)
        grid = labels.grid
        inside = np.zeros(grid.shape, bool)
        kinds = np.zeros(grid.shape, np.uint8)
        first = np.rint(grid.to_voxel(anatomy.grid.affine[None, :3, 3])[0]).astype(int)
        place = tuple(slice(f, f + n) for f, n in zip(first, anatomy.tissue.shape, strict=True))
        inside[place] = anatomy.inside_mm > 0
        kinds[place] = anatomy.tissue
        lut = np.full(256, _DEEP, np.uint8)
        for label, kind in ((0, _AIR), (3, _BONE), (42, _BONE), (4, _MARROW), (43, _MARROW), (2, _VEIN), (41, _VEIN),
                            (24, _FLUID), (251, _SOFT), (255, _SKIN), (253, _MUCOSA)):  # fmt: skip
            lut[label] = kind
        tissue = lut[labels.data]
        tissue[(kinds != Tissue.OUTSIDE) & (kinds != Tissue.VENOUS)] = _FLUID
        tissue[inside] = _FLUID
        axes, signs = grid.nearest_axes()
        step = tuple(max(1, round(SPACING_MM / grid.spacing[axes.index(world)])) for world in range(3))
        every = tuple(slice(None, None, s) for s in step)
        return cls(
            np.ascontiguousarray(to_canonical(tissue, axes, signs)[every]),
            np.ascontiguousarray(to_canonical(inside, axes, signs)[every]),
        )


def real_brain(number: int, volumes: Iterable[Volume]) -> Brain:
    """A stripped patient, four sequences on one grid in the order of `Sequence`."""
    volumes = list(volumes)
    grid = volumes[0].grid
    axes, signs = grid.nearest_axes()
    turned = [to_canonical(volume.data, axes, signs) for volume in volumes]
    signal = np.logical_or.reduce([data != background(data) for data in turned])
    box = bounding_box(signal) or (slice(0, None),) * 3
    spacing = [grid.spacing[axes.index(world)] for world in range(3)]
    weights = []
    for axis, size in enumerate(BRAIN_SHAPE):
        step = SPACING_MM / spacing[axis]
        centre = (box[axis].start + box[axis].stop - 1) / 2
        weights.append(resampling_weights(centre + (np.arange(size) - (size - 1) / 2) * step, signal.shape[axis], step))
    share = resample_axes(weights, signal.astype(np.float32))
    images = np.stack([resample_axes(weights, data.astype(np.float32)) for data in turned])
    # Only brain is averaged, as at the edge of a brain that was stripped after it was scanned.
    images = np.where(share > 0.5, np.maximum(images / np.maximum(share, 0.5), 1e-3), 0)
    return Brain(number, images.astype(np.float32))


def simulated_brain(prepared: NDArray[np.float16]) -> Brain:
    """From what `trainer.dataset.save_simulated` wrote, ``(6, i, j, k)``, normalised to zero mean inside the brain."""
    images = np.array(prepared[:4], np.float32)
    inside = (images != 0).any(axis=0)
    for image in images:
        darkest = np.percentile(image[inside], 0.2)
        image[inside] = np.maximum(image[inside] - darkest, 0) + 0.02
        image[~inside] = 0
    return Brain(SIMULATED, images)


def example(brain: Brain, kind: str, head: Head | None, rng: np.random.Generator, *, poor: bool = True) -> Volume:
    """A made-up acquisition.

    Args:
        brain: Whose brain.
        kind: One of `engine.contents.CLASSES`.
        head: What to put around it; ``None`` leaves it stripped.
        rng: Decides everything else.
        poor: Whether most are scanned again as another hospital would, and some are cut off.
    """
    if kind == contents.OTHER:
        image, wild = _other(brain, head, rng)
    else:
        sequence = Sequence(kind)
        image = brain.images[list(Sequence).index(sequence)]
        if head is not None:
            image = _with_head(image, _fitted(head, image != 0, rng), _AROUND[sequence], rng)
        wild = False
    if rng.random() < 0.2 and not wild:
        image = _turned(image, rng)
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    volume = Volume(np.ascontiguousarray(image, np.float32), Grid(image.shape, affine))
    if not poor:
        return volume
    if rng.random() < 0.75:
        change = shift.draw(rng)
        if head is not None:
            # Air is not lifted by an offset in most files, and half of all scanners set it to zero.
            volume = shift.rescan(volume, change, rng, stripped=bool(rng.random() < 0.4))
        else:
            volume = shift.rescan(volume, change, rng)
    return _cut(volume, rng, stripped=head is None)


class Bank:
    """Descriptions in shards of `SHARD`, made once and shared by all trainings.

    Args:
        folder: Where the shards lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def fill(
        self,
        shards: Iterable[int],
        brains: Callable[[np.random.Generator], Brain],
        heads: list[Head],
        seed: int,
        told: Callable[[int], None],
        *,
        poor: bool = True,
        headed: float = 0.5,
    ) -> None:
        """Make the shards that are missing.

        Args:
            shards: Their numbers.
            brains: Draws a patient.
            heads: To put around them.
            seed: Together with an example's number decides everything about it.
            told: Called with the number of each shard that is there.
            poor: See `example`.
            headed: Share of the examples that get a head around their brain.
        """
        for shard in shards:
            path = self.folder / f"shard-{shard:04d}.npz"
            if not path.exists():
                described = np.empty((SHARD, 3, *contents.BLOCKS), np.uint8)
                labels = np.empty(SHARD, np.int64)
                patients = np.empty(SHARD, np.int64)
                for place in range(SHARD):
                    rng = np.random.default_rng([seed, shard, place])
                    brain = brains(rng)
                    kind = contents.CLASSES[int(rng.choice(len(contents.CLASSES), p=[0.24, 0.24, 0.16, 0.18, 0.18]))]
                    head = heads[int(rng.integers(len(heads)))] if rng.random() < headed else None
                    volume = example(brain, kind, head, rng, poor=poor)
                    described[place] = np.rint(contents.describe(volume) * 255)
                    labels[place], patients[place] = contents.CLASSES.index(kind), brain.number
                with whole_file(path) as partial, partial.open("wb") as file:
                    np.savez(file, described=described, labels=labels, patients=patients)
            told(shard)

    def shards(self) -> Iterator[Path]:
        """Those that are there, in order."""
        yield from sorted(self.folder.glob("shard-*.npz"))

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Descriptions ``(N, 3, i, j, k)`` in 0..255, numbers of their classes and of their patients ``(N,)``."""
        parts = [np.load(path) for path in self.shards()]
        described, labels, patients = (
            np.concatenate([part[name] for part in parts]) for name in ("described", "labels", "patients")
        )
        return described, labels, patients


# --- heads ------------------------------------------------------------------------------------------------------------


def _fitted(head: Head, brain: Mask, rng: np.random.Generator) -> tuple[LabelArray, tuple[slice, slice, slice]]:
    """The head stretched to a brain, in `HEAD_SHAPE`, and where in it the brain's array goes."""
    own, wanted = bounding_box(head.brain), bounding_box(brain)
    assert own is not None  # a head has a brain, and so has a patient
    assert wanted is not None
    room = rng.uniform(1.0, 1.06)
    lookup, place = [], []
    for axis, size in enumerate(HEAD_SHAPE):
        length = wanted[axis].stop - wanted[axis].start
        start = (size - length) // 2 if axis < 2 else size - 14 - length
        stretch = (own[axis].stop - own[axis].start) / (length * room)
        middle = (own[axis].start + own[axis].stop - 1) / 2
        at = middle + (np.arange(size) - (start + (length - 1) / 2)) * stretch
        index = np.rint(at).astype(int)
        # Beyond the label map lies air.
        lookup.append(np.where((index >= 0) & (index < head.tissue.shape[axis]), index, -1))
        place.append(slice(start, start + length))
    tissue = head.tissue[np.ix_(*(np.maximum(index, 0) for index in lookup))]
    for axis, index in enumerate(lookup):
        tissue[(slice(None),) * axis + (index < 0,)] = _AIR
    return tissue, (place[0], place[1], place[2])


def _with_head(
    image: FloatArray,
    fitted: tuple[LabelArray, tuple[slice, slice, slice]],
    around: dict[object, object],
    rng: np.random.Generator,
    fluid: float | None = None,
) -> FloatArray:
    """A stripped brain with bone, marrow, fat, muscle and skin around it, ``HEAD_SHAPE``."""
    tissue, place = fitted
    box = bounding_box(image != 0)
    assert box is not None
    brain = image[box]
    values = brain[brain != 0]
    t1_weighted = around is _AROUND[Sequence.T1] or around is _AROUND[Sequence.T1CE]
    unit = float(np.percentile(values, 75 if t1_weighted else 50))
    if fluid is None:
        bright = around is _AROUND[Sequence.T2]
        fluid = float(np.percentile(values, 96 if bright else 2)) * rng.uniform(0.8, 1.1)
    level = np.zeros(16, np.float32)
    for kind in (_BONE, _MARROW, _SKIN, _VEIN, _MUCOSA, _DEEP):
        level[kind] = unit * rng.uniform(*around[kind])  # type: ignore[misc]
    level[_FLUID] = fluid
    suppressed = rng.random() < around["chance"]  # type: ignore[operator]
    fat = unit * rng.uniform(*around["fat_suppressed" if suppressed else "fat"])  # type: ignore[misc]
    if suppressed:
        level[_MARROW] = fat * rng.uniform(0.6, 1.2)
    muscle = unit * rng.uniform(*around["muscle"])  # type: ignore[misc]
    built = level[tissue]
    soft = tissue == _SOFT
    blobs = _blobs(tissue.shape, 8, rng)
    # Over the skull it is fat, below it mostly muscle.
    height = (np.arange(tissue.shape[2]) - place[2].start) / 20.0
    share = 1 / (1 + np.exp(-4 * (0.6 * blobs + np.clip(height, -0.6, 1.5)[None, None])))
    built = np.where(soft, muscle + (fat - muscle) * share, built)
    built *= 1 + 0.15 * blobs + 0.1 * rng.standard_normal(built.shape, dtype=np.float32)
    built = ndimage.gaussian_filter(built, 0.55)
    part = built[place]
    part[brain != 0] = brain[brain != 0]
    whole: FloatArray = np.maximum(built, 0).astype(np.float32)
    return whole


# --- what else happens to a scan --------------------------------------------------------------------------------------


def _turned(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Turned by up to 15 degrees about each axis and stretched by up to 12 %."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(rng.uniform(-15, 15, 3) * rng.uniform(0, 1))):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    matrix = matrix * rng.uniform(0.88, 1.12)
    centre = (np.array(image.shape) - 1) / 2
    return np.asarray(ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=1), np.float32)


def _cut(volume: Volume, rng: np.random.Generator, *, stripped: bool) -> Volume:
    """A smaller field of view in some; a header that lies about the axes in a few."""
    data = volume.data
    if rng.random() < (0.2 if stripped else 0.45):
        bottom, top = rng.uniform(0, 60 if not stripped else 35), rng.uniform(0, 30)
        low, high = int(bottom / SPACING_MM), data.shape[2] - int(top / SPACING_MM)
        if stripped:
            filled = np.flatnonzero(data.any(axis=(0, 1)))
            low, high = (low + int(filled[0]), high - (data.shape[2] - 1 - int(filled[-1]))) if filled.size else (0, 96)
        data = data[:, :, max(0, low) : max(low + 20, high)]
    if rng.random() < 0.12:
        side = int(rng.integers(2))
        cut = int(rng.uniform(0, 25 if stripped else 45) / SPACING_MM)
        data = data[(slice(None),) * side + (slice(cut, data.shape[side] - cut),)]
    if rng.random() < 0.06:
        data = data.transpose(rng.permutation(3))
    for axis in range(3):
        if rng.random() < 0.03:
            data = np.flip(data, axis)
    return Volume(np.ascontiguousarray(data), Grid(data.shape, volume.grid.affine))


# --- what is none of the four -----------------------------------------------------------------------------------------


def _other(brain: Brain, head: Head | None, rng: np.random.Generator) -> tuple[FloatArray, bool]:
    """Something else, and whether it has no head at all."""
    kind = str(rng.choice([
        "diffusion", "diffusion", "diffusion_map", "diffusion_map", "ct", "ct", "susceptibility", "density",
        "angiography", "edges", "difference", "perfusion", "inverted", "labels", "probability", "noise", "phantom",
        "phantom",
    ]))  # fmt: skip
    if kind == "phantom":
        return _phantom(rng), True
    images = brain.images
    inside = images[0] != 0
    t1, t1ce, t2, flair = (image / max(float(np.percentile(image[inside], 97)), 1e-6) for image in images)
    fluid = np.clip(2.5 * (t2 - t1) - 0.6, 0, 1)
    noise = rng.standard_normal(t1.shape).astype(np.float32)

    def blurred(field: FloatArray, voxels: float) -> FloatArray:
        smooth: FloatArray = ndimage.gaussian_filter(field, voxels)
        return smooth / max(float(smooth.std()), 1e-9)

    surround = _AROUND[list(Sequence)[int(rng.integers(4))]]
    fluid_level: float | None = None
    if kind == "diffusion":
        made = (0.75 + 0.25 * t2) * np.exp(-rng.uniform(1.5, 3.0) * fluid) * (1 + 0.15 * blurred(noise, 2.0))
        made = ndimage.gaussian_filter(made * inside, rng.uniform(0.5, 1.0)) + rng.uniform(0.05, 0.2) * np.abs(noise)
        surround, fluid_level = {**_AROUND[Sequence.FLAIR], "chance": 1.0}, 0.05
    elif kind == "diffusion_map":
        made = 0.28 + 0.7 * fluid + 0.08 * (flair - 0.6) + rng.uniform(0.02, 0.06) * noise
        surround, fluid_level = {**_AROUND[Sequence.FLAIR], "chance": 1.0}, 1.0
    elif kind == "ct":
        made = 0.55 + 0.03 * (flair - t1) - 0.06 * fluid + rng.uniform(0.01, 0.04) * noise
        surround = dict(_AROUND[Sequence.T1])
        surround |= {_BONE: (1.5, 2.6), _MARROW: (1.2, 2.0), _SKIN: (0.95, 1.1), _VEIN: (0.95, 1.2),
                     "fat": (0.8, 0.9), "muscle": (0.98, 1.06), "chance": 0.0}  # fmt: skip
        fluid_level = 0.5
    elif kind == "susceptibility":
        veins = np.clip(4 * (t1ce - t1), 0, 1) + np.clip(blurred(noise, 1.0) - 2, 0, 1)
        made = (0.65 + 0.1 * t2 - 0.08 * t1) * np.exp(-1.5 * veins)
    elif kind == "density":
        made = 0.9 - 0.25 * t1 + 0.15 * t2 + 0.02 * noise
    elif kind == "angiography":
        vessels = np.clip(blurred(noise, 1.2) - 2.2, 0, 1) + np.clip(3 * (t1ce - t1), 0, 1)
        made = 0.2 * t1 + rng.uniform(0.8, 2.0) * vessels
        surround = {**_AROUND[Sequence.T1], "chance": 1.0}
    elif kind == "edges":
        made = ndimage.gaussian_gradient_magnitude(images[int(rng.integers(4))], rng.uniform(0.5, 1.0))
        made = made / max(float(np.percentile(made[inside], 97)), 1e-6) + 0.001
    elif kind == "difference":
        made = np.clip(t1ce - t1, 0, None) + 0.03 * np.abs(noise)
    elif kind == "perfusion":
        made = np.clip(0.35 * flair + 1.2 * np.clip(t1ce - t1, 0, 1) + 0.25 * blurred(noise, 2.0), 0.01, None)
    elif kind == "inverted":
        made = 1.2 - np.clip((t1, t1ce, t2, flair)[int(rng.integers(4))], 0, 1.15)
    elif kind == "labels":
        source = (t1, t1ce, t2, flair)[int(rng.integers(4))]
        edges = np.sort(rng.uniform(0.2, 1.0, int(rng.integers(1, 5))))
        made = rng.permutation(len(edges) + 1).astype(np.float32)[np.digitize(source, edges)] + 1
    elif kind == "probability":
        source = ndimage.gaussian_filter((t1, t2, flair)[int(rng.integers(3))], 1.0)
        made = 1 / (1 + np.exp(-rng.choice([-1, 1]) * 12 * (source - rng.uniform(0.4, 0.9)))) + 0.001
    else:
        made = np.abs(blurred(noise, float(rng.uniform(0.1, 6.0)))) + 0.01
        if rng.random() < 0.5:
            return np.asarray(made, np.float32), True
    image = np.where(inside, np.maximum(made, 1e-3), 0).astype(np.float32)
    if head is None or kind in {"labels", "probability", "noise", "edges", "difference"}:
        return image, False
    return _with_head(image, _fitted(head, inside, rng), surround, rng, fluid_level), False


def _blobs(shape: tuple[int, ...], size: int, rng: np.random.Generator) -> FloatArray:
    """A smooth random field with knots every ``size`` voxels; about unit spread."""
    knots = rng.standard_normal(tuple(n // size + 2 for n in shape)).astype(np.float32)
    weights = [resampling_weights(np.arange(n) / size, count, 1.0) for n, count in zip(shape, knots.shape, strict=True)]
    return resample_axes(weights, knots)


def _phantom(rng: np.random.Generator) -> FloatArray:
    """Other parts of the body, bottles and nothing: a few ellipsoids with ellipsoids in them."""
    shape = tuple(int(n) for n in rng.integers(60, 120, 3))
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    image = np.zeros(shape, np.float32)
    for number in range(int(rng.integers(1, 14))):
        # The first is the largest: the body the others lie in.
        size = rng.uniform(0.5, 1.0, 3) if number == 0 else rng.uniform(0.06, 0.5, 3)
        centre = rng.uniform(-0.15, 0.15, 3) if number == 0 else rng.uniform(-0.6, 0.6, 3)
        power = rng.choice([2, 2, 4, 8])
        reach = sum(np.abs((x - c) / s) ** power for x, c, s in zip(axes, centre, size, strict=True))
        image[reach < 1] = rng.uniform(0.05, 1.0)
    image *= np.exp(rng.uniform(0.05, 0.5) * _blobs(shape, 10, rng))
    image += rng.uniform(0.0, 0.08) * np.abs(rng.standard_normal(shape, dtype=np.float32))
    return np.asarray(ndimage.gaussian_filter(image, rng.uniform(0.3, 1.2)), np.float32)


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitting:
    """How networks are trained.

    Attributes:
        members: How many are trained from different beginnings; their probabilities are averaged.
        passes: How often each example is seen.
        batch: Examples a step.
        rate: Highest learning rate; rises at first and falls to nothing along a cosine.
        decay: Weight decay; strong, as there are about as many features as examples.
        width: Of both hidden layers.
        noise: Added to features, in units of their spread.
        smoothing: Of the labels, so that a few wrong ones among thousands are not learnt by heart.
    """

    members: int = 2
    passes: int = 35
    batch: int = 128
    rate: float = 3e-3
    decay: float = 0.3
    width: int = 96
    noise: float = 0.1
    smoothing: float = 0.03


def fit(
    features: FloatArray, labels: NDArray[np.int64], weights: FloatArray, fitting: Fitting, seed: int
) -> dict[str, FloatArray]:
    """Train networks.

    Args:
        features: ``(N, F)``, from `engine.contents.features`.
        labels: ``(N,)``, places in `engine.contents.CLASSES`.
        weights: ``(N,)``: how much each example counts.
        fitting: See `Fitting`.
        seed: Decides everything.

    Returns:
        What `engine.contents.Network` reads, by name.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    limit = contents.LARGEST_FEATURE
    known = torch.from_numpy(np.clip((features - mean) / spread, -limit, limit).astype(np.float32))
    wanted, counts = torch.from_numpy(labels), torch.from_numpy(weights.astype(np.float32))
    found: list[list[Tensor]] = []
    for member in range(fitting.members):
        torch.manual_seed(seed * 100 + member)
        width = fitting.width
        layers = [nn.Linear(features.shape[1], width), nn.Linear(width, width), nn.Linear(width, len(contents.CLASSES))]
        network = nn.Sequential(
            nn.Dropout(0.1), layers[0], nn.ReLU(), nn.Dropout(0.4), layers[1], nn.ReLU(), nn.Dropout(0.4), layers[2]
        )
        optimiser = torch.optim.AdamW(network.parameters(), fitting.rate, weight_decay=fitting.decay)
        batches = max(1, len(labels) // fitting.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, fitting.rate, total_steps=batches * fitting.passes + 1
        )
        for _ in range(fitting.passes):
            order = torch.randperm(len(labels))
            for batch in range(batches):
                taken = order[batch * fitting.batch : (batch + 1) * fitting.batch]
                shown = known[taken]
                logits = network(shown + fitting.noise * torch.randn_like(shown))
                costs = nn.functional.cross_entropy(
                    logits, wanted[taken], label_smoothing=fitting.smoothing, reduction="none"
                )
                optimiser.zero_grad()
                (costs * counts[taken]).mean().backward()
                optimiser.step()
                schedule.step()
        found.append([parameter.detach() for layer in layers for parameter in (layer.weight, layer.bias)])
    stacked = {"mean": mean.astype(np.float32), "spread": spread.astype(np.float32)}
    for number in range(3):
        stacked[f"weight.{number}"] = torch.stack([one[2 * number] for one in found]).numpy()
        stacked[f"bias.{number}"] = torch.stack([one[2 * number + 1] for one in found]).numpy()
    return stacked


def best_temperature(logits: FloatArray, labels: NDArray[np.int64]) -> float:
    """The temperature that makes probabilities as right as they say, on examples the networks never saw.

    Args:
        logits: ``(N, M, 5)``.
        labels: ``(N,)``.
    """
    candidates = np.exp(np.linspace(np.log(0.3), np.log(4), 60))
    costs = [
        -np.log(np.maximum(contents.probabilities(logits, float(t))[np.arange(len(labels)), labels], 1e-9)).mean()
        for t in candidates
    ]
    return float(candidates[int(np.argmin(costs))])


def publish(weights: dict[str, FloatArray], temperature: float, told: dict[str, object], folder: Path) -> None:
    """Write networks where `engine.contents` finds them, in half precision.

    Args:
        weights: From `fit`.
        temperature: From `best_temperature`.
        told: What else the card says: what they learnt from, how they were measured, terms.
        folder: Made where absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: np.ascontiguousarray(value if name in ("mean", "spread") else value.astype(np.float16))
        for name, value in weights.items()
    }
    with whole_file(folder / contents.WEIGHTS) as partial:
        partial.write_bytes(save(stored))
    card = {
        "classes": list(contents.CLASSES),
        "temperature": round(temperature, 4),
        **told,
        "files": {contents.WEIGHTS: sha256(folder / contents.WEIGHTS)},
    }
    with whole_file(folder / contents.CARD) as partial:
        partial.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


class Augmentation:
    """Other contrast, coil, noise, place and side for a description, cheaply.

    Args:
        rng: Source of chance.

    Contrast is one table lookup an example, the coil a product of three curves, and noise is cut from a long piece that
    was drawn once.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._noise = rng.standard_normal(1 << 22, dtype=np.float32)

    def __call__(self, described: NDArray[np.uint8]) -> FloatArray:
        """From ``(3, i, j, k)`` in 0..255 to float32 in 0..1."""
        rng = self._rng
        levels = np.linspace(0, 1, 256, dtype=np.float32) ** rng.uniform(0.75, 1.33) * rng.uniform(0.85, 1.1)
        image = levels.astype(np.float32)[described]
        if rng.random() < 0.7:
            for axis, count in enumerate(contents.BLOCKS):
                slope, bend = rng.normal(0, 0.08, 2)
                along = np.linspace(-1, 1, count)
                curve = np.exp(slope * along + bend * along**2).astype(np.float32)
                image *= curve.reshape([-1 if a == axis else 1 for a in range(3)])
        if rng.random() < 0.6:
            # Noise moves the mean of a block little, and its extremes apart.
            strength = float(rng.uniform(0, 0.06))
            there = described != 0
            for channel, (spread, away) in enumerate(((0.3, 0.0), (1.0, -1.2), (1.0, 1.2))):
                start = int(rng.integers(len(self._noise) - image[channel].size))
                noise = self._noise[start : start + image[channel].size].reshape(image[channel].shape)
                image[channel] += (
                    np.float32(strength) * (np.float32(spread) * noise + np.float32(away)) * there[channel]
                )
        if rng.random() < 0.5:
            image = image[:, ::-1]
        image = np.roll(image, rng.integers(-2, 3, 3), (1, 2, 3))
        if rng.random() < 0.25:
            # A part that is missing: one that was cut off, or a void of metal.
            size = [int(n) for n in rng.integers(4, 16, 3)]
            firsts = [int(rng.integers(n - s)) for n, s in zip(contents.BLOCKS, size, strict=True)]
            image[(slice(None), *(slice(a, a + s) for a, s in zip(firsts, size, strict=True)))] = 0
        return np.clip(image, 0, 1, out=image)
