"""What in a scan or a result is unlike what the models know, in words: a mask drawn on it would look as sure as any.

Each check is a figure and a limit. The limits were set where patients like those the models learnt from, and scans of
clinics, give next to no alarm (``docs/results/unusual.md`` counts both, and the made-up cases that must give one), so
silence is no proof that a scan is usual. Motion is told by its ghosts in the air around the head, so not where that was
blanked. Figures come from voxels of about 2 mm and take about a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from engine import contents
from engine.contents import Recognition
from engine.inference import Segmentation
from engine.preprocessing import background, to_canonical
from engine.progress import Progress
from engine.volume import LARGEST_BRAIN_ML, FloatArray, Grid, Mask, Sequence, Subject, Volume, bounding_box

_SPACING_MM = 2.0
_FACES = ("left", "right", "back", "front", "bottom", "top")

# Limits. Brains of adults and of the patients the models learnt from have 1000 ml and more.
SMALLEST_BRAIN_ML = 850.0
# Share of the largest section along an axis that lies in the outermost plane of the scan; scans end in the neck anyway.
LARGEST_CUT = {**dict.fromkeys(_FACES, 0.2), "bottom": 0.4}
SMALLEST_COVER = 0.85
LARGEST_GHOST = 0.015
LARGEST_VOID_ML = 3.0
LARGEST_CAVITY_ML = 8.0
LARGEST_SHARE = 0.33
LARGEST_RIM = 0.75
LARGEST_MIRROR = 0.75
LARGEST_FLUID = 0.6
MOST_PIECES = 8
UNSURE = 0.35


class Kind(StrEnum):
    """What can be unusual."""

    NOT_A_HEAD = "not a head"
    CT = "CT"
    SMALL_HEAD = "small head"
    MOTION = "motion"
    CUT_OFF = "cut off"
    METAL = "metal"
    CAVITY = "cavity"
    CONTRAST = "contrast"
    NO_TUMOUR = "no tumour"
    UNLIKELY_PLACE = "unlikely place"


@dataclass(frozen=True)
class Doubt:
    """One reason not to trust a result.

    Attributes:
        kind: What is unusual.
        sentence: For the user: what was seen, and what it means for the mask.
        grave: Whether the mask must not be shown or saved without this sentence being read first.
    """

    kind: Kind
    sentence: str
    grave: bool


@dataclass(frozen=True)
class Figures:
    """What the doubts are made of.

    Attributes:
        looks: What each sequence looks like by its content, alone.
        together: The same, told together.
        ct: The sequences whose values are those of a CT.
        brain_ml: Volume of what the models see.
        cut: For each face of the scan, how much of the brain it cuts, as a share of the brain's largest section there.
        cover: For each sequence, the share of the brain that it shows.
        ghosts: For each sequence with air around the head, how much brighter the air is along one axis than along the
            other, as a share of the head's brightness: ghosts run along the axis of phase encoding.
        void_ml: The largest place inside the brain without signal in any sequence.
        cavity_ml: The largest place filled with fluid at the surface of one side that the other side lacks.
        tumour_ml: Volume of the whole tumour; ``None`` where nobody looked for it.
        share: Of the brain that is whole tumour.
        rim: Share of the whole tumour that lies within 4 mm of the brain's surface.
        mirror: Dice of the whole tumour and its mirror image.
        fluid: Share of the whole tumour that looks like the fluid of the ventricles.
        pieces: Of whole tumour.
    """

    looks: Mapping[Sequence, Recognition] = field(default_factory=dict)
    together: Mapping[Sequence, Recognition] = field(default_factory=dict)
    ct: tuple[Sequence, ...] = ()
    brain_ml: float = 0.0
    cut: Mapping[str, float] = field(default_factory=dict)
    cover: Mapping[Sequence, float] = field(default_factory=dict)
    ghosts: Mapping[Sequence, float] = field(default_factory=dict)
    void_ml: float = 0.0
    cavity_ml: float = 0.0
    tumour_ml: float | None = None
    share: float = 0.0
    rim: float = 0.0
    mirror: float = 0.0
    fluid: float = 0.0
    pieces: int = 0


def look(
    raw: Mapping[Sequence, Volume],
    subject: Subject,
    segmentation: Segmentation | None = None,
    progress: Progress | None = None,
) -> tuple[Doubt, ...]:
    """Look for what is unlike the scans the models know.

    Args:
        raw: The sequences as they were read, each on its own grid.
        subject: As the model sees them: aligned, stripped, on one grid.
        segmentation: What was found; without it, only the scans are looked at.
        progress: Checked between the sequences.

    Returns:
        What is unusual, the gravest first; empty for most patients.

    Raises:
        BadModel: The network that recognises sequences cannot be used.
        Cancelled: ``progress`` was cancelled.
    """
    return doubts(figures(raw, subject, segmentation, progress))


def doubts(found: Figures) -> tuple[Doubt, ...]:
    """The doubts that figures give, the gravest first."""
    said = [*_about_scans(found), *_about_brain(found), *_about_tumour(found)]
    return tuple(sorted(said, key=lambda doubt: not doubt.grave))


def noted(segmentation: Segmentation, said: Iterable[Doubt]) -> Segmentation:
    """The same result with doubts before its other notes, so that every output says them first.

    That nothing was found is among the notes already.
    """
    sentences = [doubt.sentence for doubt in said if doubt.kind is not Kind.NO_TUMOUR]
    return replace(segmentation, notes=(*sentences, *(note for note in segmentation.notes if note not in sentences)))


def figures(
    raw: Mapping[Sequence, Volume],
    subject: Subject,
    segmentation: Segmentation | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Measure what `doubts` judges; see `look`."""
    progress = progress or Progress()
    looks, ghosts = {}, {}
    for sequence, volume in raw.items():
        looks[sequence] = contents.recognise(volume, progress)
        ghost = _ghost(volume)
        if ghost is not None:
            ghosts[sequence] = ghost
    ct = tuple(sequence for sequence, volume in raw.items() if _is_ct(volume))
    together = dict(zip(looks, contents.together(looks.values()), strict=True))
    progress.check()

    coarse = {sequence: _coarse(volume.data, subject.grid) for sequence, volume in subject.items()}
    spacing = _coarse_spacing(subject.grid)
    signals = {sequence: data != background(subject[sequence].data) for sequence, data in coarse.items()}
    brain = np.logical_or.reduce(list(signals.values()))
    voxel_ml = float(np.prod(spacing)) / 1000
    brain_ml = float(np.count_nonzero(brain)) * voxel_ml
    stripped = 0 < brain_ml <= LARGEST_BRAIN_ML
    if not stripped:
        return replace(
            _tumour(segmentation, None, None, spacing),
            looks=looks,
            together=together,
            ct=ct,
            brain_ml=brain_ml,
            ghosts=ghosts,
        )
    units = {sequence: data / _unit(data[brain]) for sequence, data in coarse.items()}
    progress.check()
    hull = _hull(brain, spacing)
    fluid = _fluid(units, hull)
    return replace(
        _tumour(segmentation, hull, fluid, spacing),
        looks=looks,
        together=together,
        ct=ct,
        brain_ml=brain_ml,
        cut=_cuts(brain),
        cover={sequence: float(np.mean(signal[brain])) for sequence, signal in signals.items()},
        ghosts=ghosts,
        void_ml=_void_ml(units, hull, spacing),
        cavity_ml=_cavity_ml(fluid, hull, spacing),
    )


# --- sentences --------------------------------------------------------------------------------------------------------


def _about_scans(found: Figures) -> list[Doubt]:
    said = []
    for sequence, seen in found.looks.items():
        if sequence in found.ct:
            said.append(
                Doubt(
                    Kind.CT,
                    f"The scan taken for {sequence.title} is a CT by its values. The models know MRI only, so a mask "
                    "drawn on it means nothing.",
                    grave=True,
                )
            )
        elif seen.sequence is None and seen.sure >= contents.SURE:
            said.append(
                Doubt(
                    Kind.NOT_A_HEAD,
                    f"The scan taken for {sequence.title} does not look like T1, T1ce, T2 or FLAIR of a head, so a "
                    "mask drawn on it means nothing.",
                    grave=True,
                )
            )
        elif seen.sequence is not sequence and seen.sure >= contents.SURE:
            said.append(
                Doubt(
                    Kind.CONTRAST,
                    f"The scan taken for {sequence.title} looks like {seen.words}. If it is, the mask is wrong: say "
                    "which sequence it is.",
                    grave=True,
                )
            )
        elif found.together[sequence].probabilities[sequence.value] < UNSURE:
            said.append(
                Doubt(
                    Kind.CONTRAST,
                    f"{sequence.title} has a contrast unlike that of the scans the models learnt from; look at the "
                    "mask with care.",
                    grave=False,
                )
            )
    for sequence, ghost in found.ghosts.items():
        if ghost > LARGEST_GHOST:
            said.append(
                Doubt(
                    Kind.MOTION,
                    f"{sequence.title} shows the stripes of a head that moved; edges of the mask may be wrong.",
                    grave=False,
                )
            )
    return said


def _about_brain(found: Figures) -> list[Doubt]:
    said = []
    cut = {face: share for face, share in found.cut.items() if share > LARGEST_CUT[face]}
    if cut:
        where = " and ".join(cut)
        said.append(
            Doubt(
                Kind.CUT_OFF,
                f"The scan ends inside the brain ({where}). What lies beyond is not in the mask, and volumes are too "
                "small if the tumour goes on there.",
                grave=False,
            )
        )
    for sequence, share in found.cover.items():
        if share < SMALLEST_COVER:
            said.append(
                Doubt(
                    Kind.CUT_OFF,
                    f"{sequence.title} shows only {100 * share:.0f} % of the brain that the other sequences show; the "
                    "mask is less sure where it is missing.",
                    grave=False,
                )
            )
    if 0 < found.brain_ml < SMALLEST_BRAIN_ML and not cut:
        grave = found.brain_ml < SMALLEST_BRAIN_ML / 2
        said.append(
            Doubt(
                Kind.SMALL_HEAD,
                f"The brain has {found.brain_ml:.0f} ml, less than that of any adult the models learnt from. They know "
                "no children and no parts of heads.",
                grave=grave,
            )
        )
    if found.void_ml > LARGEST_VOID_ML:
        said.append(
            Doubt(
                Kind.METAL,
                f"A place of {found.void_ml:.0f} ml inside the head gives no signal, as around metal or an implant. "
                "What lies there cannot be seen, and what is beside it may be distorted.",
                grave=False,
            )
        )
    if found.cavity_ml > LARGEST_CAVITY_ML:
        said.append(
            Doubt(
                Kind.CAVITY,
                f"A place of {found.cavity_ml:.0f} ml on one side is filled with fluid, as a cavity after an operation "
                "or a cyst. The models know no operated patients; check whether the mask takes the cavity for tumour.",
                grave=False,
            )
        )
    return said


def _about_tumour(found: Figures) -> list[Doubt]:
    if found.tumour_ml is None:
        return []
    if found.tumour_ml == 0:
        return [
            Doubt(
                Kind.NO_TUMOUR,
                "No tumour was found. That is no proof that there is none: small and faint ones are missed.",
                grave=False,
            )
        ]
    places = []
    if found.share > LARGEST_SHARE:
        places.append(f"takes up {100 * found.share:.0f} % of the brain")
    if found.rim > LARGEST_RIM:
        places.append("lies along the surface of the brain")
    if found.mirror > LARGEST_MIRROR:
        places.append("lies on both sides alike")
    if found.fluid > LARGEST_FLUID:
        places.append("consists of fluid")
    if found.pieces > MOST_PIECES:
        places.append(f"has {found.pieces} pieces")
    if not places:
        return []
    words = places[0] if len(places) == 1 else f"{', '.join(places[:-1])} and {places[-1]}"
    return [
        Doubt(
            Kind.UNLIKELY_PLACE,
            f"What was outlined {words}, which is unlike a glioma; do not trust it without looking.",
            grave=True,
        )
    ]


# --- figures of scans -------------------------------------------------------------------------------------------------


def _is_ct(volume: Volume) -> bool:
    """Whether values are Hounsfield units: air at -1000, much soft tissue between -20 and 90, some bone."""
    values = volume.data.ravel(order="K")
    values = values[:: max(1, values.size // 200_000)]
    if values.min() > -700:
        return False
    body = values[values > -300]
    if body.size < 100:
        return False
    soft = float(np.mean((body > -20) & (body < 90)))
    return soft > 0.3 and float(np.percentile(values, 99.5)) > 250


def _ghost(volume: Volume) -> float | None:
    """See `Figures.ghosts`; ``None`` where the air around the head is blank or there is too little of it."""
    axes, signs = volume.grid.nearest_axes()
    data = to_canonical(volume.data, axes, signs)
    step = tuple(max(1, round(_SPACING_MM / volume.grid.spacing[axes.index(world)])) for world in range(3))
    data = np.asarray(data[tuple(slice(None, None, s) for s in step)], np.float32)
    low, high = (float(v) for v in np.percentile(data, (1.0, 98.0)))
    if float(np.mean(data == background(volume.data))) > 0.2:
        return None
    # The upper half of the head, where nothing but air lies beside it; strong ghosts must not pass for head.
    half = data[:, :, data.shape[2] // 2 :] - low
    bright = half > 0.35 * (high - low)
    if not bright.any():
        return None
    box = []
    for axis in (0, 1):
        reach = np.cumsum(bright.sum(axis=tuple({0, 1, 2} - {axis})))
        first, last = (int(np.searchsorted(reach, share * reach[-1])) for share in (0.01, 0.99))
        box.append(slice(max(0, first - 4), last + 5))
    beside = [half[: box[0].start, box[1]], half[box[0].stop :, box[1]]]
    before = [half[box[0], : box[1].start], half[box[0], box[1].stop :]]
    means = []
    for strips in (beside, before):
        values = np.concatenate([strip.ravel() for strip in strips])
        if values.size < 2000:
            return None
        means.append(float(values.mean()))
    return abs(means[0] - means[1]) / max(float(np.median(half[bright])), 1e-9)


# --- figures of the brain ---------------------------------------------------------------------------------------------


def _coarse(data: NDArray[np.generic], grid: Grid) -> FloatArray:
    """Every n-th voxel, about 2 mm apart, axes to the right, front and head."""
    axes, signs = grid.nearest_axes()
    strides = _strides(grid)
    every = tuple(slice(None, None, stride) for stride in strides)
    return np.asarray(to_canonical(data, axes, signs)[every], np.float32)


def _strides(grid: Grid) -> list[int]:
    axes, _ = grid.nearest_axes()
    return [max(1, round(_SPACING_MM / grid.spacing[axes.index(world)])) for world in range(3)]


def _coarse_spacing(grid: Grid) -> tuple[float, float, float]:
    axes, _ = grid.nearest_axes()
    x, y, z = (grid.spacing[axes.index(world)] * stride for world, stride in enumerate(_strides(grid)))
    return x, y, z


def _unit(values: FloatArray) -> float:
    return max(float(np.median(values)), 1e-9) if values.size else 1.0


def _cuts(brain: Mask) -> dict[str, float]:
    shares = {}
    for axis in range(3):
        sections = brain.sum(axis=tuple({0, 1, 2} - {axis}))
        largest = max(int(sections.max()), 1)
        shares[_FACES[2 * axis]] = float(sections[0]) / largest
        shares[_FACES[2 * axis + 1]] = float(sections[-1]) / largest
    return shares


def _hull(brain: Mask, spacing: tuple[float, float, float]) -> Mask:
    """The brain with what it encloses, notches of a centimetre included."""
    from scipy import ndimage

    room = 6
    padded = np.pad(brain, room)
    near = ndimage.distance_transform_edt(~padded, sampling=spacing) <= 8.0
    closed = ndimage.distance_transform_edt(near, sampling=spacing) > 8.0
    filled = ndimage.binary_fill_holes(closed | padded)
    inner: Mask = filled[(slice(room, -room),) * 3]
    return inner


def _fluid(units: Mapping[Sequence, FloatArray], hull: Mask) -> Mask | None:
    """Where every sequence that can tell shows fluid; ``None`` where one alone would have to."""
    tells = []
    for sequence, data in units.items():
        if sequence is Sequence.T2:
            tells.append(data > 1.5)
        elif sequence is Sequence.FLAIR:
            tells.append(data < 0.55)
        else:
            tells.append(data < 0.6)
    if len(tells) < 2:
        return None
    fluid: Mask = np.logical_and.reduce(tells) & hull
    return fluid


def _void_ml(units: Mapping[Sequence, FloatArray], hull: Mask, spacing: tuple[float, float, float]) -> float:
    from scipy import ndimage

    if set(units) <= {Sequence.FLAIR}:  # fluid may be as dark there
        return 0.0
    dark = np.logical_and.reduce([data < 0.08 for data in units.values()]) & hull
    # Clefts between brain and bone are thinner than this.
    core = ndimage.distance_transform_edt(dark, sampling=spacing) > 4.0
    return _largest_ml(ndimage.binary_dilation(core, iterations=2) & dark, spacing)


def _cavity_ml(fluid: Mask | None, hull: Mask, spacing: tuple[float, float, float]) -> float:
    from scipy import ndimage

    box = bounding_box(hull)
    if fluid is None or box is None:
        return 0.0
    core = ndimage.distance_transform_edt(fluid, sampling=spacing) > 4.0
    grown = ndimage.binary_dilation(core, iterations=2) & fluid
    pieces, count = ndimage.label(grown)
    depth = ndimage.distance_transform_edt(hull, sampling=spacing)
    middle = (box[0].start + box[0].stop - 1) / 2
    voxel_ml = float(np.prod(spacing)) / 1000
    largest = 0.0
    for number in range(1, count + 1):
        where = np.argwhere(pieces == number)
        ml = len(where) * voxel_ml
        if ml <= largest or float(depth[tuple(where.T)].min()) > 8.0:
            continue
        mirrored = where.copy()
        mirrored[:, 0] = np.clip(np.rint(2 * middle - where[:, 0]), 0, hull.shape[0] - 1)
        beside_middle = abs(float(where[:, 0].mean()) - middle) * spacing[0] < 12
        if not beside_middle and float(np.mean(fluid[tuple(mirrored.T)])) < 0.25:
            largest = ml
    return largest


def _largest_ml(mask: Mask, spacing: tuple[float, float, float]) -> float:
    from scipy import ndimage

    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())[1:] if count else np.zeros(1)
    return float(sizes.max()) * float(np.prod(spacing)) / 1000


# --- figures of the mask ----------------------------------------------------------------------------------------------


def _tumour(
    segmentation: Segmentation | None, hull: Mask | None, fluid: Mask | None, spacing: tuple[float, float, float]
) -> Figures:
    """The figures of what was found, and no others."""
    if segmentation is None:
        return Figures()
    labels = segmentation.label_map
    ml = labels.ml(labels.whole_tumour)
    if hull is None or ml == 0:
        return Figures(tumour_ml=ml)
    from scipy import ndimage

    mask = _coarse(labels.whole_tumour, labels.grid) > 0
    count = int(np.count_nonzero(mask))
    box = bounding_box(hull)
    if count == 0 or box is None:
        return Figures(tumour_ml=ml)
    depth = ndimage.distance_transform_edt(np.pad(hull, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    mirrored = np.argwhere(mask)
    mirrored[:, 0] = np.clip(box[0].start + box[0].stop - 1 - mirrored[:, 0], 0, mask.shape[0] - 1)
    _, pieces = ndimage.label(mask, np.ones((3, 3, 3)))
    return Figures(
        tumour_ml=ml,
        share=count / max(int(np.count_nonzero(hull)), 1),
        rim=float(np.mean(depth[mask] <= 4.0)),
        mirror=float(np.mean(mask[tuple(mirrored.T)])),
        fluid=0.0 if fluid is None else float(np.mean(fluid[mask])),
        pieces=int(pieces),
    )
