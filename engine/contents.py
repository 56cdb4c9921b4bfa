"""Which sequence a volume is, told from its voxels alone: when names and headers say nothing, or say something wrong.

A volume is described by what a radiologist sees from across the room: 192 x 224 x 192 mm around the head in blocks of
4 mm, each with its mean, its darkest and its brightest voxel of 2 mm. Vessels that shine with contrast agent are
thinner than a block and show in its brightest voxel. From that come some thousand features (how bright what share of
the head is, at which depth below its surface, how much sticks out of its surroundings, a coarse map), and a few small
networks, trained by `trainer.recognition`, tell T1, T1ce, T2, FLAIR and anything else apart. They are so small that
numpy runs them. How well they do is in ``docs/results/recognition.md``.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from engine import nifti
from engine.errors import BadModel, UserError
from engine.files import shown
from engine.model_card import sha256
from engine.preprocessing import background, resample_axes, resampling_weights, to_canonical
from engine.progress import Progress
from engine.sequences import SubjectFiles, detect, looks_like_segmentation
from engine.volume import FloatArray, Sequence, Volume

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "recognition"
CARD, WEIGHTS = "recognition.json", "weights.safetensors"

OTHER = "other"
CLASSES: tuple[str, ...] = (*(sequence.value for sequence in Sequence), OTHER)
SURE = 0.95
# Beyond so many spreads from what was learnt, a feature says no more than that it is far away.
LARGEST_FEATURE = 4.0

# Blocks along each axis, and voxels of a block along each axis.
BLOCKS = (48, 56, 48)
_VOXEL_MM = 2.0
_ABOVE_MM = 16.0  # between the top of the head and that of the box


@dataclass(frozen=True)
class Recognition:
    """What a volume looks like.

    Attributes:
        probabilities: For ``"t1"``, ``"t1ce"``, ``"t2"``, ``"flair"`` and ``"other"``; they sum to one.
        sequence: The most probable sequence; ``None`` where it is none of the four.
        sure: Probability of what ``sequence`` says.
    """

    probabilities: Mapping[str, float]
    sequence: Sequence | None
    sure: float

    @property
    def words(self) -> str:
        """What it looks like, as the end of a sentence: ``"FLAIR"``, ``"none of T1, T1ce, T2 and FLAIR"``."""
        return self.sequence.title if self.sequence else "none of T1, T1ce, T2 and FLAIR"


# A volume never changes, and several look at the same one: each answer lives as long as its volume.
_RECOGNISED: WeakKeyDictionary[Volume, Recognition] = WeakKeyDictionary()


@lru_cache(maxsize=2)
def open_network(folder: Path = SHIPPED) -> Network:
    """Check a network's files and make it ready to run; the second time it is there already.

    Raises:
        BadModel: A file is missing, changed or cannot be used.
    """
    return Network(folder)


def recognise(volume: Volume, progress: Progress | None = None) -> Recognition:
    """Tell a volume's sequence from its voxels; its name, its ``sequence`` and its scale do not matter.

    Args:
        volume: Skull on or stripped, any orientation, spacing and field of view.
        progress: Checked between the steps.

    Raises:
        BadModel: The network's files are missing, changed or cannot be used.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    progress.check()
    known = _RECOGNISED.get(volume)
    if known is not None:
        return known
    described = describe(volume)
    progress.check()
    found = recognition_of(open_network().run(features(described)))
    _RECOGNISED[volume] = found
    return found


def recognition_of(shares: NDArray[np.floating[Any]]) -> Recognition:
    """What probabilities ``(5,)`` of `CLASSES` say."""
    best = int(np.argmax(shares))
    return Recognition(
        {name: float(share) for name, share in zip(CLASSES, shares, strict=True)},
        None if CLASSES[best] == OTHER else Sequence(CLASSES[best]),
        float(shares[best]),
    )


def together(looks: Iterable[Recognition], taken: Container[Sequence] = ()) -> list[Recognition]:
    """What volumes of one patient are when no two of them are the same sequence.

    Whether contrast was given is easier to tell where the scan without it is there as well: of two that both look like
    T1, the one that looks less like it is the T1ce. Every way to call the volumes that gives each sequence once at most
    counts with the product of its probabilities; something else may be there more than once.

    Args:
        looks: Of each volume alone; of more than six, the others come back as they are.
        taken: Sequences that other files of the patient are known to be.
    """
    looks = list(looks)
    free = [name == OTHER or Sequence(name) not in taken for name in CLASSES]
    alone = np.array([[look.probabilities[name] for name in CLASSES] for look in looks[:6]]).reshape(-1, len(CLASSES))
    alone = np.maximum(alone, 1e-6) * free
    totals = np.zeros_like(alone)
    for called in product(range(len(CLASSES)), repeat=len(alone)):
        sequences = [place for place in called if CLASSES[place] != OTHER]
        if len(set(sequences)) == len(sequences):
            totals[range(len(called)), called] += np.prod(alone[range(len(called)), called])
    found = [recognition_of(shares / shares.sum()) for shares in totals]
    return [*found, *looks[6:]]


@dataclass(frozen=True)
class Placed:
    """A patient's files after their contents were looked at where names do not say enough.

    Attributes:
        files: Which file is which sequence now.
        why: For each file that was told by its content, how, as a clause: ``"it looks like FLAIR (99 %)"``.
        notes: The same as sentences, for what is written beside a mask.
    """

    files: SubjectFiles
    why: Mapping[Path, str]
    notes: tuple[str, ...]


def place(
    files: SubjectFiles,
    progress: Progress | None = None,
    indices: Mapping[Path, int] | None = None,
    confirmed: Container[Path] = (),
) -> Placed:
    """Tell the files of a patient whose names do not say which sequence they are, or leave a doubt.

    Only those files are read, and they are told together, as no two of them are the same sequence. One that surely
    looks like a sequence becomes it, one that probably does becomes it with a doubt that the user is asked about, and
    one that looks like a sequence whose file's name leaves no doubt stays as it was.

    Args:
        files: As `sequences.find_subjects` found them.
        progress: Told of every file.
        indices: Which volume to take, from 0, of files that hold several.
        confirmed: Files the user has spoken for; they are left alone.

    Raises:
        BadModel: The network's files are missing, changed or cannot be used.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    by_name = {path: sequence for sequence, path in files.files.items() if sequence in files.uncertain}
    open_questions = [
        path
        for path in (*by_name, *files.unknown)
        # A name may also say surely that it is something Gliascope does not use.
        if path not in confirmed and path not in _shared(files) and not (path in files.unknown and detect(path).certain)
    ]
    looks: dict[Path, Recognition] = {}
    for number, path in enumerate(open_questions):
        progress.update(number / len(open_questions), f"looking at {path.name}")
        with suppress(UserError):  # what cannot be read is told when its turn comes
            volume = nifti.read(path, None, (indices or {}).get(path))
            if not looks_like_segmentation(volume):
                looks[path] = recognise(volume, progress)
    taken = {s: p for s, p in files.files.items() if p not in looks}
    looks = dict(zip(looks, together(looks.values(), taken), strict=True))
    why: dict[Path, str] = {}
    notes: list[str] = []
    uncertain = {s for s in files.uncertain if s in taken}
    # The surest first, so that of two that look alike the better one is taken.
    for path, look in sorted(looks.items(), key=lambda item: -item[1].sure):
        named = by_name.get(path)
        agrees = look.sequence is not None and look.sequence is named
        if look.sequence is None or look.sequence in taken or (named is not None and not agrees and look.sure < SURE):
            continue
        taken[look.sequence] = path
        why[path] = f"it looks like {look.words} ({_percent(look.sure)})"
        notes.append(f"{shown(path)} was taken for {look.sequence.title}: {why[path]}.")
        if look.sure < SURE:
            uncertain.add(look.sequence)
    # What its content did not settle keeps the place its name gave it, if that is still free.
    for path, named in by_name.items():
        if path not in taken.values() and named not in taken:
            taken[named] = path
            uncertain.add(named)
    known = set(taken.values())
    unknown = [path for path in (*files.unknown, *by_name) if path not in known]
    ordered = {s: taken[s] for s in Sequence if s in taken}
    return Placed(
        replace(files, files=ordered, unknown=tuple(unknown), uncertain=frozenset(uncertain)), why, tuple(notes)
    )


def disagreements(volumes: Mapping[Sequence, Volume], progress: Progress | None = None) -> dict[Sequence, Recognition]:
    """Volumes that surely look like another sequence than they are taken for; nothing is changed.

    What looks like none of the four is for `engine.unusual` to tell.

    Args:
        volumes: By what they are taken for.
        progress: Told of every volume.

    Raises:
        BadModel: The network's files are missing, changed or cannot be used.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    found = {}
    for number, (sequence, volume) in enumerate(volumes.items()):
        progress.update(number / len(volumes), f"looking at {volume.name}")
        look = recognise(volume, progress)
        if look.sequence not in (sequence, None) and look.sure >= SURE:
            found[sequence] = look
    return found


def disagreement_words(volume: Volume, sequence: Sequence, look: Recognition) -> str:
    """A sentence for the user: ``"t2.nii.gz looks like FLAIR (99 %), but was taken for T2."``."""
    return f"{volume.name} looks like {look.words} ({_percent(look.sure)}), but was taken for {sequence.title}."


def _percent(share: float) -> str:
    return f"{min(99, int(100 * share))} %"


def _shared(files: SubjectFiles) -> set[Path]:
    """Files that hold several sequences, each in a volume of its own; their table of contents says which."""
    return {files.files[sequence] for sequence in files.volumes}


def describe(volume: Volume) -> FloatArray:
    """What the network sees of a volume.

    Returns:
        ``(3, 48, 56, 48)`` float32 in 0..1: mean, minimum and maximum of blocks of 4 mm, axes to the patient's right,
        front and head, the top of the head 16 mm below the top. Square roots of intensities, since fat may be
        four times as bright as brain: 0 is the darkest of the head and all around it, 0.9 its 99.5th percentile.
    """
    axes, signs = volume.grid.nearest_axes()
    data = to_canonical(volume.data, axes, signs)
    spacing = np.array([volume.grid.spacing[axes.index(world)] for world in range(3)])
    # Every voxel of 0.5 mm is more than a block of 4 mm needs.
    strides = np.maximum(1, np.floor(1.0 / spacing)).astype(int)
    data = data[tuple(slice(None, None, int(stride)) for stride in strides)]
    spacing = spacing * strides

    coarse_strides = np.maximum(1, np.round(3.0 / spacing)).astype(int)
    coarse = np.asarray(data[tuple(slice(None, None, int(stride)) for stride in coarse_strides)], np.float32)
    head, air = _head(coarse)
    low, high = (float(v) for v in np.percentile(coarse[head], (1.0, 99.5))) if head.any() else (0.0, 1.0)
    first_mm = _box(head, spacing * coarse_strides)

    weights = []
    window = []
    for axis, blocks in enumerate(BLOCKS):
        step = _VOXEL_MM / spacing[axis]
        positions = (first_mm[axis] + _VOXEL_MM * np.arange(2 * blocks)) / spacing[axis]
        matrix = resampling_weights(positions, data.shape[axis], step)
        used = np.flatnonzero(matrix.any(axis=0))
        place = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1)
        weights.append(np.ascontiguousarray(matrix[:, place]))
        window.append(place)
    # Outside of the volume lies air too, which need not be zero (CT).
    fine = resample_axes(weights, np.asarray(data[tuple(window)], np.float32) - np.float32(air)) + np.float32(air)
    scale = np.float32(0.8 / max(high - low, 1e-12))
    np.clip((fine - np.float32(low)) * scale, 0, 1, out=fine)
    np.sqrt(fine, out=fine)
    i, j, k = BLOCKS
    parts = fine.reshape(i, 2, j, 2, k, 2)
    return np.stack([parts.mean(axis=(1, 3, 5)), parts.min(axis=(1, 3, 5)), parts.max(axis=(1, 3, 5))])


def features(described: FloatArray) -> FloatArray:
    """What the networks are asked about a description, ``(1241,)`` float32; intensities in units of their median.

    Args:
        described: ``(3, 48, 56, 48)``, from `describe`.
    """
    from scipy import ndimage

    mean, lowest, highest = described
    head = mean > 0.12
    if np.count_nonzero(head) < 200:
        head = mean >= np.percentile(mean, 90)
    unit = np.median(mean[head]) + 1e-3
    shares = np.percentile(mean[head], (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.8))
    mean, lowest, highest = mean / unit, lowest / unit, highest / unit
    count = np.count_nonzero(head)
    inside, low, high = mean[head], lowest[head], highest[head]
    parts: list[Any] = [
        shares,
        np.percentile(high, (5, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9)),
        np.percentile(low, (1, 5, 10, 25, 50, 75, 95)),
        np.histogram(np.clip(inside, 0, 2.5), 24, (0, 2.5))[0] / count,
    ]
    # How uneven a block is that is so bright: vessels are thin.
    spread = np.clip(high - low, 0, 1.19)
    together = np.histogram2d(np.clip(inside, 0, 2.39), spread, (12, 8), ((0, 2.4), (0, 1.2)))[0]
    parts.append(np.sqrt(together.ravel() / count))
    above, below = (field - ndimage.uniform_filter(field, 5) for field in (highest, lowest))
    parts.append(np.percentile(above[head], (50, 75, 90, 95, 98, 99, 99.5, 99.9)))
    parts.append(np.percentile(below[head], (0.1, 0.5, 1, 2, 5, 10, 25)))
    parts.append([head.mean()])
    depth = ndimage.distance_transform_edt(head)
    for shallow, deep in ((0, 1.5), (1.5, 3), (3, 5), (5, 8), (8, 12), (12, 40)):
        shell = head & (depth > shallow) & (depth <= deep)
        if np.count_nonzero(shell) < 30:
            parts.append(np.zeros(9))
            continue
        parts.append(np.percentile(mean[shell], (5, 25, 50, 75, 95)))
        parts.append(np.percentile(highest[shell], (90, 99)))
        parts.append(np.percentile(lowest[shell], (1, 10)))
    i, j, k = BLOCKS
    coarse = (8, i // 8, 8, j // 8, 8, k // 8)
    parts.append(np.sqrt(np.maximum(mean.reshape(coarse).mean(axis=(1, 3, 5)), 0)).ravel())
    parts.append(highest.reshape(coarse).max(axis=(1, 3, 5)).ravel())
    return np.concatenate(parts).astype(np.float32)


def _head(coarse: FloatArray) -> tuple[NDArray[np.bool_], float]:
    """Where there is more than air, ``(i, j, k)`` bool, and what air is."""
    outside = background(coarse)
    if float(np.mean(coarse == outside)) > 0.3:
        # Stripped, or masked by the scanner: everything but one value.
        head: NDArray[np.bool_] = coarse > outside
        if not head.any():
            head = coarse != outside
        if outside != 0 or coarse.min() >= 0:
            bright = float(np.percentile(coarse[head], 98)) if head.any() else 1.0
            # A masked scan may keep noise around the head.
            solid = coarse > outside + 0.12 * (bright - outside)
            return (solid if solid.mean() > 0.02 else head), outside
        return head, outside
    low, high = (float(v) for v in np.percentile(coarse, (1.0, 98.0)))
    return coarse > low + 0.12 * (high - low), low


def _box(head: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the first voxel of the box around the head lies, in mm from the volume's first voxel."""
    middles = (np.array(head.shape) - 1) / 2 * spacing
    sizes = 2 * _VOXEL_MM * np.array(BLOCKS)
    if not head.any():
        return np.asarray(middles - sizes / 2, np.float64)
    # A few voxels of noise above the head do not make its top.
    layer = head.sum(axis=(0, 1))
    tall = np.flatnonzero(layer > 0.05 * layer.max())
    top = (float(tall[-1]) + 0.5) * spacing[2]
    below = max(0, int((top - 150.0) / spacing[2]))
    upper = head[:, :, below:]
    first = np.empty(3)
    for axis in (0, 1):
        profile = upper.sum(axis=tuple({0, 1, 2} - {axis}))
        ends = np.flatnonzero(profile > 0.05 * profile.max())
        first[axis] = (float(ends[0]) + float(ends[-1])) / 2 * spacing[axis] - sizes[axis] / 2
    first[2] = top + _ABOVE_MM - sizes[2]
    return first + _VOXEL_MM / 2


class Network:
    """Small networks that tell sequences apart, and whose probabilities are averaged.

    Args:
        folder: With their card and weights.

    Attributes:
        temperature: Divides what they say before it becomes probabilities.

    Raises:
        BadModel: A file is missing, changed or cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        card = _card(folder)
        try:
            stored = load_file(folder / WEIGHTS)
            self._mean, self._spread = (stored[name].astype(np.float32) for name in ("mean", "spread"))
            self._layers = [
                (stored[f"weight.{n}"].astype(np.float32), stored[f"bias.{n}"].astype(np.float32)) for n in range(3)
            ]
            self.temperature = float(card["temperature"])
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise _unusable(f"{WEIGHTS} does not hold the networks") from error

    def logits(self, features: FloatArray) -> FloatArray:
        """What each network says, ``(M, 5)``, of `features`, before temperature."""
        known = np.clip((features - self._mean) / self._spread, -LARGEST_FEATURE, LARGEST_FEATURE)
        values: FloatArray = np.repeat(known[None], len(self._layers[0][0]), axis=0)
        for number, (weight, bias) in enumerate(self._layers):
            values = np.einsum("moi,mi->mo", weight, values) + bias
            if number < len(self._layers) - 1:
                np.maximum(values, 0, out=values)
        return values

    def run(self, features: FloatArray) -> FloatArray:
        """Probabilities ``(5,)`` of `CLASSES`."""
        shares: FloatArray = probabilities(self.logits(features)[None], self.temperature)[0]
        return shares


def probabilities(logits: FloatArray, temperature: float) -> FloatArray:
    """Mean probabilities ``(N, 5)`` of what several networks say, ``(N, M, 5)``."""
    raised = np.exp((logits - logits.max(axis=2, keepdims=True)) / temperature)
    shares: FloatArray = (raised / raised.sum(axis=2, keepdims=True)).mean(axis=1)
    return shares


def _card(folder: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if tuple(card["classes"]) != CLASSES:
            raise _unusable(f"{CARD} lists other classes")
        for name, expected in card["files"].items():
            if sha256(folder / name) != expected:
                raise _unusable(f"{name} is not the file it was published with")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable("its files are not complete") from error
    return card


def _unusable(reason: str) -> BadModel:
    return BadModel("Sequences cannot be recognised by their content", reason, "Install Gliascope again.")
