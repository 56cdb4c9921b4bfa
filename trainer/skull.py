"""Training the network that finds the brain in a head, on pictures of no particular contrast.

After SynthStrip (Hoopes et al., NeuroImage 2022;260:119474) and SynthSeg before it (Billot et al., Medical Image
Analysis 2023;86:102789): a network that has seen label maps in every contrast, wrong ones included, looks for shape
instead. Each example is one of the whole heads of `trainer.heads`, turned, stretched and bent, in one of two looks:

- any: each part gets a random brightness and grain;
- likely: the signal equations of `trainer.simulate` for a random scanner's T1, T1ce, T2 or FLAIR, and what usually lies
  around, give or take a sixth;

often with something growing in it, most often near the surface: core, rim, oedema, or a cavity, of any brightness. Then
come coil, slices of up to 7 mm, blur, noise, a gamma, a field of view that cuts the head, a face that was removed, air
with and without noise. One example in four shows a real patient's brain, tumour included, in such a head
(`heads.around`).

What is learnt is the distance to the surface of the brain, as in SynthStrip, so that a mask can lie where one wants.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from engine import networks, nifti, runtime
from engine.brain import CARD, NEAR_MM, SPACING_MM, WINDOW, scaled
from engine.files import whole_file
from engine.model_card import NETWORK_XML, WEIGHTS, sha256
from engine.preprocessing import resample_axes, to_canonical
from engine.volume import FloatArray, LabelArray, Sequence, Subject, Volume, bounding_box
from trainer import heads
from trainer.heads import Part
from trainer.simulate import RELAXATION, Scanner, Tissue

STATE, AVERAGE = "state.safetensors", "average.safetensors"
KEPT_EVERY = 250  # steps
ARCHITECTURE = {"inputs": 1, "regions": 1, "filters": [16, 32, 64, 96], "blocks": [1, 1, 1, 1]}
# Most often as large as a head; other sizes, since fields of view differ and normalisation looks at the whole.
WINDOWS = ((80, 96, 80), (80, 96, 80), (80, 96, 80), (96, 112, 96), (96, 112, 96), (96, 128, 112))
_TENTHS = 10  # distances are stored in tenths of a millimetre
_CORE, _RIM, _OEDEMA, _CAVITY = 50, 51, 52, 53
_BRAIN = tuple(kind for kind in Tissue if 0 < kind < 20)


@dataclass(frozen=True, eq=False)
class StoredHead:
    """A head on the disk, with axes to the right, front and head.

    Attributes:
        part: ``(x, y, z)`` uint8 of `heads.Part` at 1 mm.
        tenths: ``(x, y, z)`` int8: signed distance to the brain's surface in tenths of a millimetre.
    """

    part: LabelArray
    tenths: NDArray[np.int8]

    @classmethod
    def read(cls, path: Path) -> StoredHead:
        """What `store_heads` wrote."""
        with np.load(path) as stored:
            return cls(stored["part"], stored["tenths"])


@dataclass(frozen=True, eq=False)
class StoredPatient:
    """A real brain in a simulated head, at the network's spacing.

    Attributes:
        images: ``(S, x, y, z)`` float16: each sequence, divided by its brain's median.
        tenths: ``(x, y, z)`` int8: as in `StoredHead`.
    """

    images: NDArray[np.float16]
    tenths: NDArray[np.int8]

    @classmethod
    def read(cls, path: Path) -> StoredPatient:
        """What `store_patients` wrote."""
        with np.load(path) as stored:
            return cls(stored["images"], stored["tenths"])


@dataclass(frozen=True, eq=False)
class Example:
    """What one step learns from.

    Attributes:
        image: ``(x, y, z)`` float32 as `engine.brain` would hand it to the network.
        distance_mm: ``(x, y, z)`` float32, positive in the brain, limited to a few millimetres beyond `NEAR_MM`.
        seen: ``(x, y, z)`` bool: the field of view.
    """

    image: FloatArray
    distance_mm: FloatArray
    seen: NDArray[np.bool_]


def held_out(number: int) -> bool:
    """Whether the patient with this number, by name, is measured on and not learnt from."""
    return number % 5 >= 2


# --- what is stored ---------------------------------------------------------------------------------------------------


def store_heads(label_maps: Iterable[Path], folder: Path) -> None:
    """Prepare what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in label_maps:
        target = folder / f"{nifti.stem(path)}.npz"
        if target.exists():
            continue
        head = heads.read_head(path)
        axes, signs = head.grid.nearest_axes()
        part, inside = to_canonical(head.part, axes, signs), to_canonical(head.inside_mm, axes, signs)
        box = bounding_box(part > 0)
        assert box is not None
        room = tuple(slice(max(0, side.start - 6), side.stop + 6) for side in box)
        with whole_file(target) as partial, partial.open("wb") as stream:
            np.savez(stream, part=part[room], tenths=_in_tenths(inside[room]))


def store_patients(patients: Iterable[Path], label_maps: list[Path], folder: Path) -> None:
    """Put each patient of a cohort into a head, in turn, unless it was done before."""
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[Path, heads.WholeHead] = {}
    for number, case in enumerate(patients):
        target = folder / f"{case.name}.npz"
        if target.exists():
            continue
        path = label_maps[number % len(label_maps)]
        head = known.get(path) or known.setdefault(path, heads.read_head(path))
        whole = heads.around(halved(read_case(case)), head, np.random.default_rng([3, number]), below_mm=60)
        axes, signs = whole.grid.nearest_axes()
        images = []
        for volume in whole.values():
            picture = to_canonical(volume.data, axes, signs)
            images.append((picture / np.median(picture[picture > picture.mean()])).astype(np.float16))
        brain = np.zeros(whole.grid.shape, bool)
        brain[_place(case, whole)] = heads.brain_of(halved(read_case(case)))
        inside = heads.signed_distance(to_canonical(brain, axes, signs), (SPACING_MM,) * 3)
        with whole_file(target) as partial, partial.open("wb") as stream:
            np.savez(stream, images=np.stack(images), tenths=_in_tenths(inside))


def _in_tenths(inside_mm: FloatArray) -> NDArray[np.int8]:
    return np.ascontiguousarray(np.clip(np.rint(inside_mm * _TENTHS), -127, 127).astype(np.int8))


def read_case(case: Path) -> Subject:
    """A patient's folder in the layout of BraTS."""
    return Subject(case.name, {s: nifti.read(case / f"{case.name}_{s}.nii.gz", s) for s in Sequence})


def halved(subject: Subject) -> Subject:
    """At twice the spacing: averages of the brain's voxels in blocks of eight."""
    volumes = {}
    for sequence, volume in subject.items():
        cut = volume.data[tuple(slice(0, n - n % 2) for n in volume.grid.shape)]
        blocks = cut.reshape(cut.shape[0] // 2, 2, cut.shape[1] // 2, 2, cut.shape[2] // 2, 2)
        held = (blocks != 0).sum(axis=(1, 3, 5))
        data = np.where(held >= 4, blocks.sum(axis=(1, 3, 5)) / np.maximum(held, 1), 0).astype(np.float32)
        affine = volume.grid.affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
        volumes[sequence] = Volume(data, type(volume.grid)(data.shape, affine), sequence)
    return Subject(subject.name, volumes)


def _place(case: Path, whole: Subject) -> tuple[slice, slice, slice]:
    """Where the patient's own grid, halved, lies in that of the whole head."""
    grid = halved(read_case(case)).grid
    start = np.rint(whole.grid.to_voxel(grid.affine[None, :3, 3])[0]).astype(int)
    i, j, k = (slice(int(a), int(a) + n) for a, n in zip(start, grid.shape, strict=True))
    return i, j, k


# --- one example ------------------------------------------------------------------------------------------------------


def from_labels(head: StoredHead, window: tuple[int, int, int], rng: np.random.Generator) -> Example:
    """A picture of a head in no particular contrast."""
    index, scale = _positions(head.part.shape, window, _brain_centre(head.tenths, 4), 1.0, rng)
    part, tenths = _nearest(head.part, index), _nearest(head.tenths, index, outside=-127)
    distance = tenths.astype(np.float32) * np.float32(scale / _TENTHS)
    if rng.random() < 0.5:
        _grow(part, distance, rng)
    picture = _bright(part, rng)
    return _scanned(picture, distance, part == Part.AIR, rng)


def from_patient(patient: StoredPatient, window: tuple[int, int, int], rng: np.random.Generator) -> Example:
    """A picture of a real brain in a simulated head, changed as another scanner would."""
    centre = _brain_centre(patient.tenths, 2)
    index, scale = _positions(patient.tenths.shape, window, centre, SPACING_MM, rng)
    image = patient.images[int(rng.integers(len(patient.images)))]
    picture = _linear(image, index)
    tenths = _nearest(patient.tenths, index, outside=-127)
    distance = tenths.astype(np.float32) * np.float32(scale / _TENTHS)
    picture = np.maximum(picture, 0) ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.15:  # an inverted contrast is still a head
        picture = np.where(picture > 0.08, np.float32(np.percentile(picture, 99)) - picture, picture)
    return _scanned(picture, distance, picture < 0.06, rng)


def _brain_centre(tenths: NDArray[np.int8], every: int) -> NDArray[np.float64]:
    centre: NDArray[np.float64] = np.argwhere(tenths[::every, ::every, ::every] > 0).mean(axis=0) * every
    return centre


def _positions(
    shape: tuple[int, ...],
    window: tuple[int, int, int],
    centre: NDArray[np.float64],
    voxel_mm: float,
    rng: np.random.Generator,
) -> tuple[FloatArray, float]:
    """Voxel coordinates ``(3, *window)`` in a stored array, and the size of a head relative to the stored one."""
    turn = _rotation(np.radians(rng.normal(0, [9, 7, 9])))
    scale = float(np.exp(rng.normal(0, 0.09)))
    stretch = scale * np.exp(rng.normal(0, 0.04, 3))
    matrix = turn @ np.diag(SPACING_MM / (voxel_mm * stretch))
    if rng.random() < 0.5:
        matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
    middle = centre.copy()
    if rng.random() < 0.85:
        middle += rng.uniform(-1, 1, 3) * np.array([18, 22, 30]) / voxel_mm
    else:
        middle += rng.uniform(-1, 1, 3) * np.array([70, 80, 110]) / voxel_mm
    bend = rng.normal(0, 1, (3, 6, 7, 6)) * rng.uniform(0, 5) / voxel_mm
    axes = [np.arange(n) - (n - 1) / 2 for n in window]
    lines = [[(matrix[row, a] * axes[a]).astype(np.float32) for a in range(3)] for row in range(3)]
    index = np.empty((3, *window), np.float32)
    for row in range(3):
        x, y, z = lines[row]
        index[row] = _stretched(bend[row].astype(np.float32), window)
        index[row] += x[:, None, None] + np.float32(middle[row])
        index[row] += y[None, :, None] + z[None, None, :]
    return index, scale


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn


def _stretched(knots: FloatArray, window: tuple[int, ...]) -> FloatArray:
    """Values at ``knots`` brought smoothly to every voxel (cubic, then linear along each axis)."""
    ways = []
    for n, count in zip(window, knots.shape, strict=True):
        at = np.linspace(0, count - 1, n)
        # Smoother than linear, and still one small matrix an axis.
        away = np.abs(at[:, None] - np.arange(count))
        weights = np.where(away < 1, 1 - away**2 * (2.5 - 1.5 * away), 0) + np.where(
            (away >= 1) & (away < 2), -0.5 * (away - 1) * (2 - away) ** 2, 0
        )
        ways.append((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
    return resample_axes(ways, knots)


def _smooth(window: tuple[int, ...], scale_mm: float, rng: np.random.Generator) -> FloatArray:
    """Noise of zero mean and unit spread that varies over ``scale_mm``."""
    knots = tuple(max(4, int(np.ceil(n * SPACING_MM / scale_mm)) + 1) for n in window)
    field = _stretched(rng.standard_normal(knots, np.float32), window)
    return field / np.float32(field[::4, ::4, ::4].std() + 1e-6)


def _nearest(array: NDArray[Any], index: FloatArray, outside: int = 0) -> NDArray[Any]:
    whole = np.rint(index).astype(np.int32)
    inside = np.ones(index.shape[1:], bool)
    for axis, n in enumerate(array.shape):
        inside &= (whole[axis] >= 0) & (whole[axis] < n)
        np.clip(whole[axis], 0, n - 1, out=whole[axis])
    flat = (whole[0] * array.shape[1] + whole[1]) * array.shape[2] + whole[2]
    found: NDArray[Any] = array.reshape(-1)[flat]
    found[~inside] = outside
    return found


def _linear(array: NDArray[Any], index: FloatArray) -> FloatArray:
    return np.asarray(
        ndimage.map_coordinates(array.astype(np.float32), index, order=1, mode="constant", cval=0), np.float32
    )


def _grow(part: LabelArray, distance: FloatArray, rng: np.random.Generator) -> None:
    """Let something grow, or be cut out, in the brain; half of the time at its surface."""
    for _ in range(int(rng.integers(1, 3))):
        depth = 9.0 if rng.random() < 0.6 else 40.0
        spots = np.argwhere((distance[::3, ::3, ::3] > -1) & (distance[::3, ::3, ::3] < depth)) * 3
        if not len(spots):
            return
        centre = spots[rng.integers(len(spots))]
        radius = rng.uniform(5, 28) / SPACING_MM
        reach = int(np.ceil(2.2 * radius)) + 2
        box = tuple(slice(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip(centre, part.shape, strict=True))
        grid = np.meshgrid(*(np.arange(s.start, s.stop) - c for s, c in zip(box, centre, strict=True)), indexing="ij")
        stretch = np.exp(rng.normal(0, 0.2, 3))
        away = np.sqrt(sum((g / s) ** 2 for g, s in zip(grid, stretch, strict=True))).astype(np.float32) / radius
        away += np.float32(0.25) * _smooth(away.shape, 0.8 * radius * SPACING_MM, rng)
        rough = away + np.float32(0.15) * _smooth(away.shape, 0.3 * radius * SPACING_MM + 4, rng)
        tissue = (distance[box] > -1.2) & (part[box] < 20) & (part[box] > 0)
        here = part[box]
        here[tissue & (rough < rng.uniform(1.2, 2.0))] = _OEDEMA
        here[tissue & (away < 1)] = _RIM
        here[tissue & (away < rng.uniform(0.6, 0.9))] = _CAVITY if rng.random() < 0.25 else _CORE


def _bright(part: LabelArray, rng: np.random.Generator) -> FloatArray:
    """Brightness of every voxel before the scanner takes a picture of it."""
    likely = rng.random() < 0.55
    mean = _likely_means(rng) if likely else _any_means(rng)
    grain = np.where(
        np.arange(64) == Part.AIR, 0, mean * rng.uniform(0.0, 0.1, 64) + rng.uniform(0, 0.04 if likely else 0.1, 64)
    )
    patchy = _smooth(part.shape, 8.0, rng)
    mottle = rng.standard_normal(part.shape, np.float32)
    mottle += patchy * np.float32(rng.uniform(0, 1.2))
    picture = mean.astype(np.float32)[part] + grain.astype(np.float32)[part] * mottle
    # Marrow within bone and fat between muscles come in patches; so do vessels and fluid in narrow sulci.
    bone, muscle = part == Part.BONE, part == Part.MUSCLE
    picture[bone & (patchy > rng.uniform(0.3, 2.5))] = mean[Part.MARROW] * rng.uniform(0.4, 1)
    picture[muscle & (patchy > rng.uniform(0.8, 2.5))] = mean[Part.FAT]
    vessels = np.abs(_smooth(part.shape, 14.0, rng)) + np.abs(patchy)
    fluid = np.isin(part, (Part.CSF, Part.DURA)) & (vessels < rng.uniform(0, 0.25))
    picture[fluid] = mean[Part.ARTERY]
    return np.maximum(picture, 0)


def _any_means(rng: np.random.Generator) -> NDArray[np.float64]:
    mean = rng.uniform(0.05, 1, 64)
    # Tissues that are alike in every scan stay alike in most of these.
    for kinds in (
        (Tissue.WHITE, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM, Part.CORD),
        (Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX, Tissue.HIPPOCAMPUS, Tissue.CAUDATE, Tissue.PUTAMEN),
        (Tissue.CSF, Tissue.VENTRICLE),
        (Part.FAT, Part.MARROW),
    ):
        if rng.random() < 0.85:
            mean[list(kinds)] = mean[kinds[0]] * np.exp(rng.normal(0, 0.06, len(kinds)))
    if rng.random() < 0.75:
        mean[Part.BONE] = rng.uniform(0, 0.2)
    mean[Part.AIR] = 0 if rng.random() < 0.8 else rng.uniform(0, 0.15)
    return mean


def _likely_means(rng: np.random.Generator) -> NDArray[np.float64]:
    scanner = Scanner.random(rng)
    sequence = list(Sequence)[int(rng.integers(4))]
    taken = scanner.acquisitions[sequence]
    agent = sequence is Sequence.T1CE
    mean = np.zeros(64)
    for kind in (*_BRAIN, Tissue.OEDEMA, Tissue.NON_ENHANCING, Tissue.ENHANCING, Tissue.NECROSIS):
        relaxation = RELAXATION[kind]
        mean[kind] = scanner.signal(taken, relaxation, relaxation.uptake if agent else 0.0)
    unit = 0.5 * (mean[Tissue.WHITE] + mean[Tissue.CORTEX])
    mean /= unit
    growing = {
        _CORE: Tissue.NECROSIS, _RIM: Tissue.ENHANCING, _OEDEMA: Tissue.OEDEMA, _CAVITY: Tissue.VENTRICLE
    }  # fmt: skip
    for label, kind in growing.items():
        mean[label] = mean[kind]
    for part, bright in heads.BRIGHT[sequence].items():
        mean[part] = bright
    mean *= rng.lognormal(0, 0.12, 64)
    if rng.random() < 0.3:
        mean[[Part.FAT, Part.MARROW]] *= rng.uniform(0.1, 0.5)
    if rng.random() < 0.2:
        mean[Part.FAT] *= rng.uniform(1.2, 2.0)
    return mean


def _scanned(picture: FloatArray, distance: FloatArray, air: NDArray[np.bool_], rng: np.random.Generator) -> Example:
    """Coil, resolution, noise, field of view, and what people do to scans before they hand them on."""
    window = picture.shape
    picture = picture * np.exp(np.float32(rng.uniform(0, 0.45)) * _smooth(window, rng.uniform(70, 160), rng))
    thick = rng.choice(3, p=[0.15, 0.15, 0.7]) if rng.random() < 0.55 else None
    ways = []
    for axis, n in enumerate(window):
        if axis == thick:
            ways.append(_slices(n, rng.uniform(2.5, 7.0) / SPACING_MM, rng))
        else:
            ways.append(_blur(n, rng.uniform(0.25, 0.8)))
    picture = resample_axes(ways, picture)
    noise = np.float32(rng.uniform(0, 0.08) ** 1.0 * rng.random() * np.percentile(picture[::3, ::3, ::3], 95))
    one = rng.standard_normal(window, np.float32) * noise
    picture = np.abs(picture + one) if rng.random() < 0.7 else picture + one
    seen = np.ones(window, bool)
    if rng.random() < 0.35:
        for axis in range(3):
            for end in (0, 1):
                if rng.random() < (0.4 if axis == 2 else 0.15):
                    cut = int(rng.integers(1, window[axis] // 3))
                    side = [slice(None)] * 3
                    side[axis] = slice(0, cut) if end == 0 else slice(window[axis] - cut, None)
                    seen[tuple(side)] = False
    gone = ~seen
    if rng.random() < 0.35:
        gone |= air
    kind = rng.random()
    if kind < 0.05:  # stripped already
        gone |= distance < -rng.uniform(0, 4)
    elif kind < 0.15:  # the face removed, as shared scans have it
        gone |= (distance < -10) & _before_a_plane(window, distance, rng)
    picture[gone] = 0
    return Example(scaled(picture), distance, seen)


def _before_a_plane(window: tuple[int, ...], distance: FloatArray, rng: np.random.Generator) -> NDArray[np.bool_]:
    """In front of and below an oblique plane through the front of the head."""
    brain = np.argwhere(distance[::4, ::4, ::4] > 0) * 4
    if not len(brain):
        return np.zeros(window, bool)
    front, low = brain[:, 1].max() - rng.uniform(0, 20), brain[:, 2].min() + rng.uniform(-10, 25)
    y, z = np.arange(window[1])[:, None] - front, np.arange(window[2])[None, :] - low
    return np.broadcast_to((y - rng.uniform(0.3, 1.2) * z > 0)[None], window)


def _blur(n: int, sigma: float) -> FloatArray:
    away = np.arange(n)[:, None] - np.arange(n)
    weights = np.exp(-0.5 * (away / sigma) ** 2)
    blur: FloatArray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return blur


def _slices(n: int, step: float, rng: np.random.Generator) -> FloatArray:
    """``(n, n)``: averaged into slices ``step`` voxels apart, somewhat thinner or thicker, and interpolated back."""
    # A slice whose middle lies further out would hold no voxel at all.
    centres = np.arange(rng.uniform(0, step), n - 0.5, step)
    width = step * rng.uniform(0.7, 1.1)
    away = np.abs(centres[:, None] - np.arange(n))
    average = np.clip((width + 1) / 2 - away, 0, min(1.0, width))
    average /= average.sum(axis=1, keepdims=True)
    back = np.clip(1 - np.abs(np.arange(n)[:, None] - centres) / step, 0, None)
    back /= np.maximum(back.sum(axis=1, keepdims=True), 1e-6)
    both: FloatArray = (back @ average).astype(np.float32)
    return both


# --- the loop ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        heads: Names of the stored heads to learn from.
        patients: Names of the stored patients to learn from.
        steps: Of one example each.
        rate: Largest learning rate; it falls to nothing along a cosine.
        patient_share: How many examples in one show a real brain.
        average: How slowly the kept weights follow.
    """

    heads: tuple[str, ...]
    patients: tuple[str, ...]
    steps: int
    rate: float = 2e-3
    patient_share: float = 0.25
    average: float = 0.998


def loss_of(logits: Tensor, distance_mm: Tensor, seen: Tensor) -> Tensor:
    """How wrong distances ``(1, 1, x, y, z)`` in units of the spacing are: by size near the surface, and by side."""
    near = NEAR_MM / SPACING_MM
    target = (distance_mm / SPACING_MM).clamp(-near, near)
    said = torch.where((logits.detach().abs() > near) & (logits.detach() * target >= near**2), target, logits)
    weight = (0.25 + torch.exp(-target.abs() / 2)) * seen
    by_size = (functional.smooth_l1_loss(said, target, reduction="none") * weight).sum() / weight.sum().clamp(min=1)
    by_side = functional.binary_cross_entropy_with_logits(
        logits.clamp(-8, 8) * 1.5, (target > 0).float(), reduction="none"
    )
    return by_size + 0.5 * (by_side * weight).sum() / weight.sum().clamp(min=1)


def train(plan: Plan, stored: Path, run: Path, start: Path | None = None, until: int | None = None) -> None:
    """Train, going on where an earlier call was stopped; writes ``average.safetensors``, the weights to keep.

    Args:
        plan: What to do.
        stored: Holds ``heads`` and ``patients``.
        run: Folder of this training.
        start: Weights to begin with; random ones if ``None``.
        until: The step to stop at for now; the plan's last if ``None``.
    """
    run.mkdir(parents=True, exist_ok=True)
    (run / "plan.json").write_text(json.dumps(asdict(plan), indent=2))
    known_heads = [StoredHead.read(stored / "heads" / f"{name}.npz") for name in plan.heads]
    known_patients = [StoredPatient.read(stored / "patients" / f"{name}.npz") for name in plan.patients]
    torch.manual_seed(0)
    network = networks.build("folded_unet", ARCHITECTURE)
    if start is not None:
        network.load_state_dict(load_file(start))
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=1e-4)
    first = _resume(run, network, optimiser, average)
    network.train()
    begun, total, made = time.perf_counter(), 0.0, 0.0
    last = plan.steps if until is None else min(until, plan.steps)
    for step in range(first, last):
        rng = np.random.default_rng([11, step])
        before = time.perf_counter()
        window = WINDOWS[int(rng.integers(len(WINDOWS)))]
        if known_patients and rng.random() < plan.patient_share:
            example = from_patient(known_patients[int(rng.integers(len(known_patients)))], window, rng)
        else:
            example = from_labels(known_heads[int(rng.integers(len(known_heads)))], window, rng)
        made += time.perf_counter() - before
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 100)
            group["lr"] = float(plan.rate * warm * 0.5 * (1 + np.cos(np.pi * step / plan.steps)))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.from_numpy(example.image)[None, None])
        loss = loss_of(
            logits.float(),
            torch.from_numpy(example.distance_mm)[None, None],
            torch.from_numpy(example.seen)[None, None].float(),
        )
        optimiser.zero_grad()
        loss.backward()
        length = torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        # One step that is no number would make all weights such for good.
        if torch.isfinite(length):
            optimiser.step()
        slow = min(plan.average, (step + 1) / (step + 10))
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - slow)
        total += float(loss.detach())
        if (step + 1) % 50 == 0:
            seconds = time.perf_counter() - begun
            line = {"step": step + 1, "loss": round(total / 50, 4), "seconds": round(seconds), "making": round(made)}
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            total = 0.0
        if (step + 1) % KEPT_EVERY == 0 or step + 1 == last:
            _keep(run, step + 1, network, optimiser, average)


def _keep(
    run: Path, step: int, network: nn.Module, optimiser: torch.optim.Optimizer, average: dict[str, Tensor]
) -> None:
    """Write what `_resume` goes on from, and the weights to keep."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"moments.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    with whole_file(run / STATE) as partial:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, {"step": str(step)})
    with whole_file(run / AVERAGE) as partial:
        save_file({name: value.contiguous() for name, value in average.items()}, partial)


def _resume(run: Path, network: nn.Module, optimiser: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    """Take up what `_keep` wrote, if it did: the number of the next step."""
    if not (run / STATE).exists():
        return 0
    with safe_open(run / STATE, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no dict)
        step = int(stored.metadata()["step"])
    network.load_state_dict({name: tensors[f"network.{name}"] for name in average})
    for name in average:
        average[name].copy_(tensors[f"average.{name}"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("moments."):
            _, number, kind = name.split(".")
            moments.setdefault(int(number), {})[kind] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return step


def export(run: Path, folder: Path) -> None:
    """Write the network for `engine.brain`: OpenVINO's file, the weights, and a card with how it was trained.

    Args:
        run: Of a training.
        folder: Usually ``assets/brain``; what is there is replaced.
    """
    network = networks.build("folded_unet", ARCHITECTURE)
    network.load_state_dict(load_file(run / AVERAGE))
    folder.mkdir(parents=True, exist_ok=True)
    runtime.export(network, 1, WINDOW, folder)
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    with safe_open(run / STATE, "pt") as stored:
        steps = int(stored.metadata()["step"])
    card = {
        "title": "Finds the brain in a head, on any MRI sequence",
        "architecture": {"name": "folded_unet", "args": ARCHITECTURE},
        "spacing_mm": SPACING_MM,
        "training": {
            "heads": len(plan["heads"]),
            "patients": len(plan["patients"]),
            "steps": steps,
            "data": "Label maps of SynthSeg (Billot et al., Medical Image Analysis 2023;86:102789; Apache-2.0) in "
            "random contrasts, and brains of BraTS 2018 and 2021 (Menze 2015; Bakas 2017, 2018; Baid 2021) in "
            "simulated heads. No image of a patient is part of it.",
        },
        "licence": "For research use; trained on BraTS data among others.",
        "sha256": {name: sha256(folder / name) for name in (NETWORK_XML, WEIGHTS)},
    }
    with whole_file(folder / CARD) as partial:
        partial.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def main(words: list[str] | None = None) -> None:
    """Prepare and train; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--stored", type=Path, required=True, help="where heads and patients are kept prepared")
    parser.add_argument("--label-maps", type=Path, required=True)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--held-out", type=int, default=4, help="how many heads, from the last, are not learnt from")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="weights to begin with")
    parser.add_argument("--export", type=Path, help="folder for the network, such as assets/brain")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    maps = sorted(arguments.label_maps.glob("label_map_*.nii.gz"))
    learnt = maps[: len(maps) - arguments.held_out]
    cases = sorted(path for path in arguments.cohort.iterdir() if path.is_dir())
    patients = [case for number, case in enumerate(cases) if not held_out(number)]
    store_heads(learnt, arguments.stored / "heads")
    # Few heads serve: what differs is the patients, and preparing a head takes longer than using it.
    store_patients(patients, learnt[::4], arguments.stored / "patients")
    names = tuple(nifti.stem(path) for path in learnt), tuple(case.name for case in patients)
    plan = Plan(*names, arguments.steps, arguments.rate)
    train(plan, arguments.stored, arguments.run, arguments.start)
    if arguments.export is not None:
        export(arguments.run, arguments.export)
    sys.stdout.write(f"{arguments.run}\n")


if __name__ == "__main__":
    main()
