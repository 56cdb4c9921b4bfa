"""Simulated patients: a label map of a head in, four MRI sequences and the truth about a tumour out.

The demo patient, the test fixtures and pre-training come from here, so the pictures follow the physics: relaxation
times of each tissue, the signal equations of the sequences, partial volume, coils, noise and slice thickness. The
label maps are FreeSurfer-style whole heads at 1 mm; some of them use labels of the left hemisphere a second time for
bone, marrow and venous sinuses, and `prepare_anatomy` tells them apart.

A simulated patient lies like a BraTS patient: 240 x 240 x 155 mm, array axes to the left, back and head, the brain
turned so that the anterior and posterior commissure are level, everything outside the brain exactly zero. World
coordinates are RAS+ in mm with the origin near the anterior commissure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import cos, exp, log, log1p, radians, sin
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, Grid, LabelMap, Sequence, Subject, Volume

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Box = tuple[slice, slice, slice]
Kind = TypeVar("Kind", bound=np.generic)


class Tissue(IntEnum):
    """What fills a voxel, after the labels of one hemisphere or the other are told apart from bone and sinuses."""

    OUTSIDE = 0
    WHITE = 1
    CORTEX = 2
    CSF = 3
    VENTRICLE = 4
    CEREBELLAR_WHITE = 5
    CEREBELLAR_CORTEX = 6
    THALAMUS = 7
    CAUDATE = 8
    PUTAMEN = 9
    PALLIDUM = 10
    HIPPOCAMPUS = 11
    BRAINSTEM = 12
    WHITE_LESION = 13
    CHOROID_PLEXUS = 14
    VENOUS = 15
    OEDEMA = 20
    NON_ENHANCING = 21
    ENHANCING = 22
    NECROSIS = 23


# FreeSurfer label -> tissue. 72 is the fifth ventricle, 30 and 62 perivascular spaces, 25 and 57 caps and lesions of
# the white matter, 136 and 163 choroid plexus.
_TISSUE_OF_LABEL = {
    **dict.fromkeys((2, 41, 85), Tissue.WHITE),
    **dict.fromkeys((3, 42), Tissue.CORTEX),
    **dict.fromkeys((24, 30, 62), Tissue.CSF),
    **dict.fromkeys((4, 5, 14, 15, 43, 44, 72), Tissue.VENTRICLE),
    **dict.fromkeys((7, 46), Tissue.CEREBELLAR_WHITE),
    **dict.fromkeys((8, 47), Tissue.CEREBELLAR_CORTEX),
    **dict.fromkeys((10, 49), Tissue.THALAMUS),
    **dict.fromkeys((11, 50, 26, 58), Tissue.CAUDATE),
    **dict.fromkeys((12, 51), Tissue.PUTAMEN),
    **dict.fromkeys((13, 52), Tissue.PALLIDUM),
    **dict.fromkeys((17, 18, 53, 54, 137, 164), Tissue.HIPPOCAMPUS),
    **dict.fromkeys((16, 28, 60), Tissue.BRAINSTEM),
    **dict.fromkeys((25, 57), Tissue.WHITE_LESION),
    **dict.fromkeys((136, 163), Tissue.CHOROID_PLEXUS),
}

# Where the centres of structures lie with the commissures level, in mm from the anterior one (right is positive);
# rounded from the published coordinates of the MNI152 space. They only have to be right to a few millimetres.
_LANDMARKS = {
    10: (-11, -18, 7), 49: (11, -18, 7),
    11: (-13, 10, 10), 50: (13, 10, 10),
    12: (-25, 1, 0), 51: (25, 1, 0),
    13: (-19, -4, -1), 52: (19, -4, -1),
    17: (-26, -22, -14), 53: (26, -22, -14),
    26: (-9, 11, -7), 58: (9, 11, -7),
    28: (-11, -15, -9), 60: (11, -15, -9),
    7: (-17, -58, -36), 46: (17, -58, -36),
    8: (-24, -63, -36), 47: (24, -63, -36),
}  # fmt: skip


@dataclass(frozen=True)
class Relaxation:
    """What a tissue brings to the signal equations.

    Attributes:
        t1: Longitudinal relaxation time at 3 T in ms.
        t2: Transverse relaxation time in ms.
        density: Proton density, water = 1.
        uptake: Contrast agent in mM after a usual dose (0.1 mmol/kg), from the blood it holds or from leakage.
        mottle: Standard deviation of its own variation of T1, as a fraction; T2 varies with it.
    """

    t1: float
    t2: float
    density: float
    uptake: float = 0.0
    mottle: float = 0.015


# Times at 3 T. White and grey matter: Wansapura et al., J Magn Reson Imaging 1999;9:531 (832/80 and 1331/110 ms) and
# Stanisz et al., Magn Reson Med 2005;54:507. Deep grey nuclei, shorter in T2 the more iron they hold: Gelman et al.,
# Radiology 1999;210:759. Change with the field, and CSF (about 4.3 s at every field): Rooney et al., Magn Reson Med
# 2007;57:308. Tumour: Badve et al., AJNR 2017;38:492 (solid tumour and oedema by fingerprinting) and Blystad et al.,
# PLoS One 2017;12:e0177135 (oedema). Within the spread of those, values were settled by comparing the ratios of grey
# matter, fluid, oedema and core to white matter with those of public glioma cohorts.
RELAXATION: dict[Tissue, Relaxation] = {
    Tissue.WHITE: Relaxation(840, 73, 0.70, 0.008, 0.012),
    Tissue.CORTEX: Relaxation(1360, 88, 0.82, 0.022, 0.022),
    Tissue.CSF: Relaxation(4300, 1600, 1.0, 0.0, 0.01),
    Tissue.VENTRICLE: Relaxation(4300, 1800, 1.0, 0.0, 0.005),
    Tissue.CEREBELLAR_WHITE: Relaxation(890, 76, 0.71, 0.012, 0.015),
    Tissue.CEREBELLAR_CORTEX: Relaxation(1290, 89, 0.81, 0.022, 0.025),
    Tissue.THALAMUS: Relaxation(1090, 80, 0.77, 0.015, 0.03),
    Tissue.CAUDATE: Relaxation(1290, 85, 0.81, 0.018, 0.02),
    Tissue.PUTAMEN: Relaxation(1190, 78, 0.80, 0.018, 0.02),
    Tissue.PALLIDUM: Relaxation(950, 64, 0.74, 0.015, 0.02),
    Tissue.HIPPOCAMPUS: Relaxation(1380, 97, 0.83, 0.022, 0.025),
    Tissue.BRAINSTEM: Relaxation(960, 80, 0.73, 0.015, 0.03),
    Tissue.WHITE_LESION: Relaxation(1150, 115, 0.77, 0.01, 0.03),
    Tissue.CHOROID_PLEXUS: Relaxation(1900, 180, 0.9, 0.16, 0.12),
    Tissue.VENOUS: Relaxation(1750, 45, 0.75, 0.80, 0.12),
    Tissue.OEDEMA: Relaxation(1380, 185, 0.82, 0.010, 0.06),
    Tissue.NON_ENHANCING: Relaxation(1550, 180, 0.85, 0.02, 0.08),
    Tissue.ENHANCING: Relaxation(1480, 140, 0.83, 0.40, 0.08),
    Tissue.NECROSIS: Relaxation(2100, 230, 0.91, 0.01, 0.10),
}
_RELAXIVITY = (
    4.3  # per mM and second, gadolinium chelates in blood at 1.5-3 T: Rohrer et al., Invest Radiol 2005;40:715
)
_FLOWING = Relaxation(1700, 12, 0.6, 1.1)  # an artery or vein too fast for a spin echo: a dark dot on T2, lit on T1ce

_DURA = Relaxation(1300, 30, 0.6, 0.6)  # the falx: dark on T2, lit by contrast agent


def spoiled_gradient_echo(tissue: Relaxation, tr: float, te: float, flip: float, field_t: float = 3.0) -> float:
    """Steady-state signal of a spoiled gradient echo (FLASH, SPGR); times in ms, flip angle in degrees."""
    e1 = exp(-tr / _t1_at(tissue, field_t))
    angle = radians(flip)
    # T2* is about 0.7 of T2 away from air; it matters little at the echo times used.
    return tissue.density * sin(angle) * (1 - e1) / (1 - cos(angle) * e1) * exp(-te / (0.7 * tissue.t2))


def spin_echo(tissue: Relaxation, tr: float, te: float, field_t: float = 3.0) -> float:
    """Signal of a spin echo; times in ms."""
    return tissue.density * (1 - exp(-tr / _t1_at(tissue, field_t))) * exp(-te / tissue.t2)


def inversion_recovery(tissue: Relaxation, tr: float, te: float, ti: float, field_t: float = 3.0) -> float:
    """Signed signal of an inversion-recovery spin echo (FLAIR with a long inversion time); times in ms."""
    t1 = _t1_at(tissue, field_t)
    return tissue.density * (1 - 2 * exp(-ti / t1) + exp(-tr / t1)) * exp(-te / tissue.t2)


def _t1_at(tissue: Relaxation, field_t: float) -> float:
    # T1 of tissue grows with about the cube root of the field (Rooney 2007: white 656 ms at 1.5 T); fluid stays.
    return float(tissue.t1 * (field_t / 3.0) ** (0.33 if tissue.t1 < 3000 else 0.0))


@dataclass(frozen=True)
class Acquisition:
    """How one sequence is taken.

    Attributes:
        kind: ``"spgr"``, ``"se"`` or ``"ir"``, which of the signal equations.
        tr: Repetition time in ms.
        te: Echo time in ms.
        ti: Inversion time in ms (``"ir"``).
        flip: Flip angle in degrees (``"spgr"``).
        in_plane_mm: Resolution within the slice.
        slice_mm: Resolution across slices.
        slice_axis: Which array axis the slices are stacked along.
        noise: Standard deviation of the noise as a fraction of white matter's signal.
        bias: Spread of the coil's sensitivity over the head (0.2: about 20 % from end to end).
        white: Value white matter gets in the file; scanners differ more than tenfold.
    """

    kind: str
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0
    in_plane_mm: float = 1.0
    slice_mm: float = 1.0
    slice_axis: int = 2
    noise: float = 0.025
    bias: float = 0.15
    white: float = 400.0

    def signal(self, tissue: Relaxation, field_t: float) -> float:
        """Magnitude of a tissue's signal, in units of water's fully relaxed signal."""
        if self.kind == "spgr":
            return abs(spoiled_gradient_echo(tissue, self.tr, self.te, self.flip, field_t))
        if self.kind == "se":
            return abs(spin_echo(tissue, self.tr, self.te, field_t))
        if self.kind == "ir":
            return abs(inversion_recovery(tissue, self.tr, self.te, self.ti, field_t))
        raise ValueError(f"no signal equation called {self.kind}")


def _usual_acquisitions() -> dict[Sequence, Acquisition]:
    return {
        Sequence.T1: Acquisition("spgr", tr=19, te=4, flip=25, noise=0.028, white=300),
        Sequence.T1CE: Acquisition("spgr", tr=19, te=4, flip=23, noise=0.028, white=240),
        Sequence.T2: Acquisition("se", tr=5000, te=98, slice_mm=1.8, noise=0.03, white=120),
        Sequence.FLAIR: Acquisition(
            "ir", tr=9000, te=120, ti=2350, in_plane_mm=1.1, slice_mm=2.0, noise=0.04, white=140
        ),
    }


@dataclass(frozen=True)
class Scanner:
    """A scanner and its protocol.

    Attributes:
        field_t: Field strength in tesla.
        acquisitions: One for each sequence to make.
        contrast: Contrast agent reached, relative to a usual dose and delay.
    """

    field_t: float = 3.0
    acquisitions: dict[Sequence, Acquisition] = field(default_factory=_usual_acquisitions)
    contrast: float = 1.0

    @classmethod
    def random(cls, rng: np.random.Generator) -> Scanner:
        """Draw a scanner from the variety seen in multi-centre collections (1.5 and 3 T, 2-D and 3-D, old and new)."""
        thick = float(rng.choice([1.0, 1.0, 2.0, 3.0, 5.0]))
        axis = int(rng.choice([2, 2, 2, 0, 1]))

        def draw(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        def varied(taken: Acquisition) -> Acquisition:
            return replace(
                taken,
                in_plane_mm=draw(0.9, 1.4),
                noise=taken.noise * float(np.exp(rng.normal(0, 0.45))),
                bias=draw(0.02, 0.35),
                white=float(np.exp(rng.uniform(np.log(60), np.log(1500)))),
            )

        def t1_weighted(slice_mm: float) -> Acquisition:
            if rng.random() < 0.6:
                return varied(Acquisition("spgr", draw(8, 30), draw(2, 6), flip=draw(12, 30), slice_mm=slice_mm))
            return varied(Acquisition("se", draw(400, 750), draw(8, 18), slice_mm=slice_mm))

        t1 = t1_weighted(float(rng.choice([1.0, thick])))
        t1ce = t1_weighted(float(rng.choice([1.0, thick])))
        t2 = Acquisition("se", draw(3000, 7000), draw(80, 120), slice_mm=thick, slice_axis=axis, noise=0.035)
        tr = draw(7000, 11000)
        # Scanners choose the time that nulls fluid; they miss it by a little.
        null = 4300 * (log(2) - log1p(exp(-tr / 4300)))
        flair = Acquisition(
            "ir", tr, draw(90, 140), ti=null * draw(0.88, 1.03), slice_mm=thick, slice_axis=axis, noise=0.045
        )
        t2, flair = varied(t2), varied(flair)
        made = dict(zip(Sequence, (t1, t1ce, t2, flair), strict=True))
        return cls(float(rng.choice([1.5, 3.0])), made, float(np.exp(rng.normal(0, 0.3))))


@dataclass(frozen=True)
class TumourOptions:
    """A tumour's size, kind and place.

    Attributes:
        core_radius_mm: Radius of the core's main lobe.
        lobes: Lobes beside the main one.
        irregularity: How far the outline strays from round, as a fraction of the radius.
        enhancement: Share of the rim that takes up contrast: 1 closed ring, 0.7 with gaps, 0 none (low-grade).
        rim_mm: Mean thickness of the enhancing rim.
        necrosis: Share of the core's radius that is necrotic; 0 none (low-grade or solid).
        oedema_reach_mm: How far oedema runs along white matter from the core.
        mass_effect: How much of the core's room is made by pushing tissue away, 0..0.8; the rest is infiltration.
        centre_mm: Where, world RAS+ mm; ``None`` to draw a place in deep or subcortical white matter.
    """

    core_radius_mm: float = 17.0
    lobes: int = 2
    irregularity: float = 0.2
    enhancement: float = 0.8
    rim_mm: float = 3.5
    necrosis: float = 1.0
    oedema_reach_mm: float = 15.0
    mass_effect: float = 0.55
    centre_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.core_radius_mm <= 0 or self.rim_mm <= 0 or self.oedema_reach_mm < 0 or self.lobes < 0:
            raise ValueError("a tumour needs positive sizes")
        if not 0 <= self.enhancement <= 1 or not 0 <= self.necrosis <= 1 or not 0 <= self.mass_effect <= 0.8:
            raise ValueError("enhancement and necrosis lie in 0..1, mass effect in 0..0.8")

    @classmethod
    def low_grade(cls, rng: np.random.Generator) -> TumourOptions:
        """Draw a tumour that enhances little or not at all and has no necrosis."""
        return cls(
            core_radius_mm=float(rng.uniform(10, 26)),
            lobes=int(rng.integers(0, 4)),
            irregularity=float(rng.uniform(0.15, 0.35)),
            enhancement=0.0 if rng.random() < 0.7 else float(rng.uniform(0.05, 0.25)),
            rim_mm=float(rng.uniform(1.5, 3)),
            necrosis=0.0,
            oedema_reach_mm=float(rng.uniform(3, 14)),
            mass_effect=float(rng.uniform(0.1, 0.45)),
        )

    @classmethod
    def random(cls, rng: np.random.Generator) -> TumourOptions:
        """Draw a tumour; about three in four are high-grade, as in the public collections."""
        if rng.random() < 0.25:
            return cls.low_grade(rng)
        return cls(
            core_radius_mm=float(rng.uniform(7, 24)),
            lobes=int(rng.integers(0, 5)),
            irregularity=float(rng.uniform(0.1, 0.35)),
            enhancement=float(rng.uniform(0.45, 1.0)),
            rim_mm=float(rng.uniform(2, 6)),
            necrosis=float(rng.choice([0.0, rng.uniform(0.5, 1.0), 1.0], p=[0.1, 0.4, 0.5])),
            oedema_reach_mm=float(rng.uniform(6, 36)),
            mass_effect=float(rng.uniform(0.1, 0.65)),
        )


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A head made ready: labels told apart, cropped to the brain, its pose known. Make once, simulate many.

    Attributes:
        tissue: ``(I, J, K)`` uint8 of `Tissue`.
        grid: Where its voxels lie (the label map's own world).
        pose: ``(4, 4)``: world of the simulated patient -> world of the label map; rigid.
        inside_mm: ``(I, J, K)`` distance to the surface of the stripped brain, negative outside, in mm.
        depth_mm: ``(I, J, K)`` distance of a voxel of tissue to the nearest cortex or fluid, in mm.
        sulcus: ``(I, J, K)`` share of fluid in sulci too narrow for the labels to show it.
        from_ventricle_mm: ``(I, J, K)`` distance to the nearest ventricle, in mm.
        fastigium_mm: The middle of the cerebellum's front, where its folia point to, in the patient's world.
    """

    tissue: Labels
    grid: Grid
    pose: Matrix
    inside_mm: Floats
    depth_mm: Floats
    sulcus: Floats
    from_ventricle_mm: Floats
    fastigium_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class SimulatedPatient:
    """A patient and the truth about it.

    Attributes:
        subject: The sequences asked for, all on one grid.
        truth: 1 tumour core, 2 rest of the whole tumour.
        tissue: ``(I, J, K)`` uint8 of `Tissue`, with necrosis, enhancing and non-enhancing tumour and oedema.
        healthy: ``(I, J, K)`` uint8 of `Tissue` before the tumour replaced tissue, but already pushed by it.
        displacement_mm: ``(3, I, J, K)`` float32: where a voxel's tissue came from, minus where it is, along the
            patient's world axes.
    """

    subject: Subject
    truth: LabelMap
    tissue: Labels
    healthy: Labels
    displacement_mm: Floats


# --- the head ---------------------------------------------------------------------------------------------------------


def prepare_anatomy(labels: LabelMap) -> Anatomy:
    """Tell brain from the rest of the head, find the pose, and measure the distances texture and tumour need.

    Args:
        labels: FreeSurfer-style labels of a head or a brain, about 1 mm, any orientation.

    Raises:
        ValueError: The label map has no white matter.
    """
    labels, white = _crop(labels)
    grid, spacing = labels.grid, labels.grid.spacing
    tissue = _tell_apart(labels, white)
    pose = _pose(labels, tissue)
    inside = _strip(tissue, labels)
    _correct_septum(tissue, grid, pose)
    solid = np.isin(tissue, (Tissue.WHITE, Tissue.WHITE_LESION, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM))
    deep = solid | np.isin(tissue, (Tissue.THALAMUS, Tissue.CAUDATE, Tissue.PUTAMEN, Tissue.PALLIDUM))
    depth = np.asarray(ndimage.distance_transform_edt(deep, sampling=spacing), np.float32)
    from_ventricle = _distance_to(tissue == Tissue.VENTRICLE, spacing)
    behind = np.isin(tissue, (Tissue.CEREBELLAR_WHITE, Tissue.CEREBELLAR_CORTEX))
    fastigium = (0.0, -45.0, -30.0)
    if behind.any():
        x, y, z = np.linalg.inv(pose)[:3, :3] @ (_centre(behind, grid) - pose[:3, 3])
        fastigium = (float(x), float(y) + 12.0, float(z) + 4.0)
    return Anatomy(tissue, grid, pose, inside, depth, _sulci(tissue, spacing), from_ventricle, fastigium)


def _crop(labels: LabelMap) -> tuple[LabelMap, Bools]:
    """The part around the brain, and the white matter in it that is the brain's own."""
    white = np.isin(labels.data, (2, 41))
    if not white.any():
        raise ValueError("the label map has no white matter (labels 2 and 41)")
    step = max(1, round(1.0 / min(labels.grid.spacing)))
    # Erosion cuts the threads by which the falx hangs on the corpus callosum; the large pieces are the brain's.
    pieces, _ = ndimage.label(ndimage.binary_erosion(white, iterations=step))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    seed = np.isin(pieces, np.flatnonzero(sizes >= 0.1 * sizes.max())) if sizes.max() else white
    # Cerebellum and brainstem reach below it; their labels are used once.
    sure = seed | np.isin(labels.data, (7, 8, 16, 46, 47))
    margin = 14 * step
    bounds = []
    for axis, n in enumerate(sure.shape):
        occupied = np.flatnonzero(sure.any(axis=tuple({0, 1, 2} - {axis})))
        bounds.append((max(int(occupied[0]) - margin, 0), min(int(occupied[-1]) + margin + 1, n)))
    box = (slice(*bounds[0]), slice(*bounds[1]), slice(*bounds[2]))
    shift = np.eye(4)
    shift[:3, 3] = [start for start, _ in bounds]
    data = np.ascontiguousarray(labels.data[box])
    cropped = LabelMap(data, Grid(data.shape, labels.grid.affine @ shift), labels.source)
    return cropped, ndimage.binary_dilation(seed[box], iterations=6 * step, mask=white[box])


def _strip(tissue: Labels, labels: LabelMap) -> Floats:
    """Distance to the surface of the stripped brain, negative outside; puts right what lies enclosed in it.

    Sulci are closed and about a millimetre of fluid stays outside the gyri, as stripping programs leave it.
    """
    spacing = labels.grid.spacing
    parenchyma = (tissue > 0) & (tissue != Tissue.CSF) & (tissue != Tissue.VENOUS)
    near = ndimage.distance_transform_edt(~parenchyma, sampling=spacing) <= 9.0
    brain = ndimage.distance_transform_edt(near, sampling=spacing) > 7.6
    # Bone within the closed hull stays out; what is enclosed by brain cannot be bone.
    unknown, _ = ndimage.label(tissue == Tissue.OUTSIDE)
    bone = np.isin(unknown, np.unique(unknown[~brain])) & (unknown > 0)
    enclosed = (unknown > 0) & ~bone
    tissue[enclosed] = np.where(labels.data[enclosed] == 3, np.uint8(Tissue.CORTEX), np.uint8(Tissue.CSF))
    brain = ndimage.gaussian_filter((brain & ~bone).astype(np.float32), [1.0 / mm for mm in spacing]) > 0.5
    # Stubs of nerves and vessels that hang on by a thread are cut off.
    pieces, count = ndimage.label(ndimage.binary_erosion(brain, iterations=2) if brain.size > 1e6 else brain)
    if count > 1:
        kept = pieces == np.bincount(pieces[pieces > 0]).argmax()
        brain &= ndimage.binary_dilation(kept, iterations=4)
    within = ndimage.distance_transform_edt(brain, sampling=spacing)
    return np.asarray(within - ndimage.distance_transform_edt(~brain, sampling=spacing), np.float32)


def _correct_septum(tissue: Labels, grid: Grid, pose: Matrix) -> None:
    """In front of the foramina what the maps call choroid plexus is septum and fornix: white, not enhancing."""
    spots = np.argwhere(tissue == Tissue.CHOROID_PLEXUS)
    patient = (grid.to_world(spots) - pose[:3, 3]) @ pose[:3, :3]
    septum = spots[(np.abs(patient[:, 0]) < 6) & (patient[:, 1] > -12)]
    tissue[septum[:, 0], septum[:, 1], septum[:, 2]] = Tissue.WHITE


def _sulci(tissue: Labels, spacing: tuple[float, float, float]) -> Floats:
    """Where the cortex of two banks touches: the ridge of the distance from white matter is fluid in truth."""
    white = np.isin(tissue, (Tissue.WHITE, Tissue.WHITE_LESION))
    away = np.asarray(ndimage.distance_transform_edt(~white, sampling=spacing), np.float32)
    smooth = ndimage.gaussian_filter(away, 0.5)
    steep = np.sqrt(sum(g**2 for g in np.gradient(smooth, *spacing)))
    ridge = np.clip((0.8 - steep) / 0.45, 0, 1) * np.clip((away - 1.2) / 1.2, 0, 1)
    return np.asarray(np.where(tissue == Tissue.CORTEX, ridge, 0), np.float32)


def _distance_to(mask: Bools, spacing: tuple[float, float, float]) -> Floats:
    if not mask.any():
        return np.full(mask.shape, 99.0, np.float32)
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing), np.float32)


def _centre(mask: Bools, grid: Grid) -> Matrix:
    middle = [
        float(np.average(np.arange(n), weights=mask.sum(axis=tuple({0, 1, 2} - {a})))) for a, n in enumerate(mask.shape)
    ]
    return np.asarray(grid.to_world(np.array([middle]))[0])


def _tell_apart(labels: LabelMap, true_white: Bools) -> Labels:
    """``(I, J, K)`` uint8 of `Tissue`; bone and marrow that carry labels of the left hemisphere become OUTSIDE."""
    data = labels.data
    lut = np.zeros(256, np.uint8)
    for label, kind in _TISSUE_OF_LABEL.items():
        lut[label] = kind
    tissue: Labels = lut[data]
    step = max(1, round(1.0 / min(labels.grid.spacing)))
    # Cortex is what can be reached from white matter in a cortex's thickness; the skull lies behind fluid.
    reach = true_white | (data == 3)
    true_cortex = ndimage.binary_dilation(true_white, iterations=5 * step, mask=reach) & (data == 3)
    others = (tissue > 0) & ~np.isin(data, (2, 3, 4, 24))
    brain = true_white | true_cortex | others
    pieces, count = ndimage.label(data == 4)
    touching = np.zeros(count + 1, bool)
    touching[np.unique(pieces[ndimage.binary_dilation(brain & ~true_cortex)])] = True
    touching[0] = False
    true_ventricle = touching[pieces]
    venous = (data == 2) & ~true_white
    tissue[(data == 2) & ~true_white] = Tissue.OUTSIDE
    tissue[(data == 3) & ~true_cortex] = Tissue.OUTSIDE
    tissue[(data == 4) & ~true_ventricle] = Tissue.OUTSIDE
    # What is left of the reused labels lies far from any brain: keep the piece around the white matter only.
    pieces, _ = ndimage.label(tissue > 0)
    tissue[pieces != np.bincount(pieces[true_white]).argmax()] = Tissue.OUTSIDE
    beside = ndimage.binary_dilation(tissue > 0, iterations=4 * step)
    tissue[venous & beside] = Tissue.VENOUS
    return tissue


def _pose(labels: LabelMap, tissue: Labels) -> Matrix:
    """World of the simulated patient -> world of the label map: rigid, by least squares over known structures."""
    here, there = [], []
    counts = np.bincount(labels.data.ravel(), minlength=256)
    for label, place in _LANDMARKS.items():
        if counts[label] >= 50:
            here.append(_centre(labels.data == label, labels.grid))
            there.append(np.array(place, float))
    pose = np.eye(4)
    if len(here) >= 8:
        a, b = np.array(there), np.array(here)
        u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
        turn = vt.T @ np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
        pose[:3, :3] = turn
        pose[:3, 3] = b.mean(0) - turn @ a.mean(0)
        return pose
    pose[:3, 3] = _centre(tissue > 0, labels.grid) - np.array([0.0, -18.0, 5.0])
    return pose


# --- smooth fields ----------------------------------------------------------------------------------------------------


def _spline_matrix(length: int, start: float, step: float, knots: int) -> Floats:
    """``(length, knots)`` cubic B-spline weights of samples at ``start + step * n`` in units of the knots' distance."""
    position = start + step * np.arange(length)
    distance = np.abs(position[:, None] - (np.arange(knots)[None, :] - 1.0))
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, inner, outer).astype(np.float32)


def _spread(knots: Floats, shape: tuple[int, int, int], scale: float) -> Floats:
    """Evaluate a cubic B-spline with ``knots`` every ``scale`` voxels on ``shape``; separable, so it is quick."""
    a, b, c = (_spline_matrix(n, 0.0, 1.0 / scale, k) for n, k in zip(shape, knots.shape, strict=True))
    first = np.tensordot(a, knots, axes=(1, 0))
    second = np.einsum("jb,ibc->ijc", b, first, optimize=True)
    return np.asarray(second @ c.T, np.float32)


def _knots_for(shape: tuple[int, int, int], scale: float) -> tuple[int, int, int]:
    i, j, k = (int(np.ceil((n - 1) / scale)) + 3 for n in shape)
    return i, j, k


def _noise(shape: tuple[int, int, int], scale: float, rng: np.random.Generator) -> Floats:
    """Smooth noise of about zero mean and unit variance that varies over ``scale`` voxels."""
    scale = max(scale, 1.0)
    knots = rng.standard_normal(_knots_for(shape, scale), dtype=np.float32)
    # The variance of a cubic spline of white knots is (151/315)^3 on average.
    return _spread(knots, shape, scale) * np.float32((315 / 151) ** 1.5)


# --- mass effect ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lobes:
    """The core's lobes: centres ``(N, 3)`` in world mm and radii ``(N,)`` in mm."""

    centres: Matrix
    radii: Matrix

    @classmethod
    def draw(cls, centre: Matrix, options: TumourOptions, rng: np.random.Generator) -> _Lobes:
        radius = options.core_radius_mm
        centres, radii = [np.zeros(3)], [radius]
        for _ in range(options.lobes):
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            size = radius * rng.uniform(0.4, 0.75)
            centres.append(direction * (radius * rng.uniform(0.65, 1.05)))
            radii.append(size)
        spots = np.array(centres)
        return cls(centre + spots - spots.mean(axis=0) * 0.5, np.array(radii))

    def level(self, world: list[Floats]) -> Floats:
        """Below 1 within the lobes; grows with the distance in units of a lobe's radius. Lobes melt together."""
        total = np.zeros(1, np.float32)
        for centre, radius in zip(self.centres, self.radii, strict=True):
            away = sum((axis - np.float32(c)) ** 2 for axis, c in zip(world, centre, strict=True))
            total = total + np.exp(-4.0 * np.sqrt(np.asarray(away, np.float32)) / np.float32(radius))
        return np.asarray(-np.log(np.maximum(total, 1e-30)) / 4.0, np.float32)


def push(
    lobes: _Lobes,
    amount: float,
    world: list[Floats],
    inside_mm: Floats,
    from_ventricle_mm: Floats,
    step_mm: float,
) -> Floats:
    """Displacement ``(3, I, J, K)`` in mm from where tissue is to where it was, for a growing core.

    Far away it falls with the square of the distance, as in an incompressible medium; it dies out at the skull, and
    the falx holds most of it back on the other side. Fluid gives way first: a ventricle nearby is squeezed beyond what
    the push alone does. If any place would be folded, the whole is made gentler.

    Args:
        lobes: The core.
        amount: Share of each lobe's radius that is made room for, 0..0.8.
        world: Three arrays that broadcast to ``(I, J, K)``: world x, y, z in mm.
        inside_mm: ``(I, J, K)`` distance to the brain's surface.
        from_ventricle_mm: ``(I, J, K)`` distance to the nearest ventricle, 0 inside.
        step_mm: Distance between neighbouring samples.
    """
    total = np.zeros((3, *inside_mm.shape), np.float32)
    share = lobes.radii**3 / np.sum(lobes.radii**3)
    for centre, radius, part in zip(lobes.centres, lobes.radii, share, strict=True):
        offset = [axis - np.float32(c) for axis, c in zip(world, centre, strict=True)]
        distance = np.sqrt(sum(o**2 for o in offset))
        reach = 1.45 * float(np.sum(lobes.radii**3)) ** (1 / 3) * (0.6 + 0.4 * radius / lobes.radii.max())
        strength = -amount * part / (1 + (distance / reach) ** 3)
        for axis in range(3):
            total[axis] += strength * offset[axis]
    # From the ventricle's wall outwards, in the tumour's neighbourhood.
    wall = ndimage.gaussian_filter(np.minimum(from_ventricle_mm, 20.0), 0.8)
    slope = np.stack(np.gradient(wall, step_mm)).astype(np.float32)
    size = float(np.sum(lobes.radii**3)) ** (1 / 3)
    apart = np.sqrt(sum((axis - np.float32(c)) ** 2 for axis, c in zip(world, lobes.centres[0], strict=True)))
    near = np.exp(-((np.clip(apart - size, 0, None) / 25.0) ** 2))
    squeeze = slope * (near * np.exp(-from_ventricle_mm / 12.0) * np.float32(min(10 * amount, 0.35 * size)))
    skull = 1 - np.exp(-((np.clip(inside_mm, 0, None) / 9.0) ** 2))
    side = np.sign(lobes.centres[0][0]) or 1.0
    beyond = np.clip(-side * world[0], 0, None)  # mm past the midline
    total += squeeze
    total *= skull * (0.35 + 0.65 * np.exp(-((beyond / 14.0) ** 2)))
    while (smallest := float(jacobian(total, step_mm).min())) < 0.05:
        total *= 0.85 if smallest > 0 else 0.6
    return total


def jacobian(displacement_mm: Floats, step_mm: float) -> Floats:
    """Determinant ``(I, J, K)`` of the map voxel -> voxel + displacement, axes along +x, +y, +z; below 0 it folds.

    Args:
        displacement_mm: ``(3, I, J, K)``, component ``a`` along array axis ``a``.
        step_mm: Distance between neighbouring voxels.
    """
    rows = [np.gradient(component, step_mm) for component in displacement_mm]
    matrix = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2) + np.eye(3, dtype=np.float32)
    return np.asarray(np.linalg.det(matrix), np.float32)


# --- the patient ------------------------------------------------------------------------------------------------------

_SIZE_MM = (240, 240, 155)  # the field of view of BraTS
# Where the anterior commissure lies in it, from the patient's left back bottom corner; brains of BraTS sit so.
_ORIGIN_MM = (121.0, 131.0, 70.0)


def brats_like_grid(spacing_mm: float = 1.0) -> Grid:
    """The grid of simulated patients: 240 x 240 x 155 mm, array axes to the left, back and head."""
    shape = tuple(int(np.ceil(n / spacing_mm)) for n in _SIZE_MM)
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    far = [(n - 1) * spacing_mm - o for n, o in zip(shape, _ORIGIN_MM, strict=True)]
    affine[:3, 3] = [far[0], far[1], -_ORIGIN_MM[2]]
    return Grid((shape[0], shape[1], shape[2]), affine)


def simulate_patient(
    labels: LabelMap | Anatomy,
    seed: int,
    tumour: TumourOptions | None = None,
    scanner: Scanner | None = None,
    spacing_mm: float = 1.0,
    variation_mm: float = 0.0,
    name: str = "simulated",
) -> SimulatedPatient:
    """Make a patient with a tumour; on one machine the same arguments give the same patient to the last bit.

    Args:
        labels: FreeSurfer-style labels of a head, or what `prepare_anatomy` made of them (quicker for many patients).
        seed: Decides everything that is drawn.
        tumour: The tumour; drawn by `TumourOptions.random` if ``None``.
        scanner: The scanner and which sequences it takes; drawn by `Scanner.random` if ``None``.
        spacing_mm: Spacing of the output; 2 is much quicker.
        variation_mm: How far the anatomy is bent at random (standard deviation), for more heads than label maps.
        name: What to call the patient.

    Raises:
        ValueError: The label map has no white matter, or no place for the tumour.
    """
    anatomy = labels if isinstance(labels, Anatomy) else prepare_anatomy(labels)
    # One stream a purpose, so that another scanner leaves the anatomy and the tumour as they are.
    draw_kind, draw_place, draw_shape, draw_texture, draw_scan = np.random.default_rng(seed).spawn(5)
    tumour = TumourOptions.random(draw_kind) if tumour is None else tumour
    scanner = Scanner.random(draw_scan) if scanner is None else scanner

    space = _Space.around(anatomy, spacing_mm)
    bend = space.bend(variation_mm, draw_place)
    lobes = _place(anatomy, space, bend, tumour, draw_place)
    ventricle = _fetch(anatomy, anatomy.from_ventricle_mm, space.coarse_world, bend, 99.0)
    coarse = bend + push(
        lobes, tumour.mass_effect, space.coarse_world, space.coarse_inside(anatomy), ventricle, space.knot_mm
    )
    displacement = np.stack([space.refine(component) for component in coarse])
    head = _Head.sample(anatomy, space, displacement)
    growth = _grow(head, space, lobes, tumour, draw_shape)
    painter = _Painter(head, growth, space, scanner, draw_texture)
    volumes = {s: painter.paint(s, a, draw_scan) for s, a in scanner.acquisitions.items()}

    grid = brats_like_grid(spacing_mm)
    subject = Subject(name, {s: Volume(space.unfold(data), grid, s) for s, data in volumes.items()})
    return SimulatedPatient(
        subject,
        LabelMap(space.unfold(growth.truth), grid),
        space.unfold(growth.tissue),
        space.unfold(np.where(head.brain, head.tissue, np.uint8(0))),
        np.stack([space.unfold(component) for component in displacement]),
    )


@dataclass(frozen=True, eq=False)
class _Space:
    """The box that is worked in: array axes along +x, +y, +z of the patient's world, cropped to the brain.

    Attributes:
        shape: Voxels of the box.
        corner: Its first voxel's world position in mm.
        first: Its first voxel within the whole grid (in RAS order).
        spacing: mm.
        coarse_world: World x, y, z of the knots of the displacement, each broadcastable.
    """

    shape: tuple[int, int, int]
    corner: Matrix
    first: tuple[int, int, int]
    spacing: float
    coarse_world: list[Floats]

    knot_mm = 4.0

    @classmethod
    def around(cls, anatomy: Anatomy, spacing: float) -> _Space:
        grid = brats_like_grid(spacing)
        inside = np.argwhere(anatomy.inside_mm[::4, ::4, ::4] > 0) * 4.0
        world = anatomy.grid.to_world(inside)
        patient = (world - anatomy.pose[:3, 3]) @ anatomy.pose[:3, :3]
        low = -np.array(_ORIGIN_MM)
        bounds = []
        for axis in range(3):
            start = int(np.floor((patient[:, axis].min() - 8 - low[axis]) / spacing))
            stop = int(np.ceil((patient[:, axis].max() + 8 - low[axis]) / spacing)) + 1
            bounds.append((max(start, 0), min(stop, grid.shape[axis])))
        (i, i_stop), (j, j_stop), (k, k_stop) = bounds
        shape = (i_stop - i, j_stop - j, k_stop - k)
        corner = low + np.array([i, j, k]) * spacing
        knots = _knots_for(shape, cls.knot_mm / spacing)
        return cls(shape, corner, (i, j, k), spacing, _axes(corner - cls.knot_mm, cls.knot_mm, knots))

    @property
    def world(self) -> list[Floats]:
        """World x, y, z in mm, each broadcastable to the box."""
        return _axes(self.corner, self.spacing, self.shape)

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        x, y, z = self.coarse_world
        return x.shape[0], y.shape[1], z.shape[2]

    def refine(self, knots: Floats) -> Floats:
        """Values at the knots -> values at the voxels, smoothly."""
        return _spread(knots, self.shape, self.knot_mm / self.spacing)

    def coarse_inside(self, anatomy: Anatomy) -> Floats:
        """Distance to the brain's surface at the knots, in mm."""
        still = np.zeros((3, *self.coarse_shape), np.float32)
        return _fetch(anatomy, anatomy.inside_mm, self.coarse_world, still, outside=-20.0)

    def bend(self, amount_mm: float, rng: np.random.Generator) -> Floats:
        """A random smooth displacement at the knots, ``(3, ...)`` in mm, that folds nothing."""
        shape = self.coarse_shape
        field_ = np.stack([_noise(shape, 6.0, rng) for _ in range(3)]) * np.float32(amount_mm)
        while amount_mm and float(jacobian(field_, self.knot_mm).min()) < 0.3:
            field_ *= np.float32(0.8)
        return field_

    def unfold(self, box: NDArray[Kind]) -> NDArray[Kind]:
        """The box in its place on the whole grid, array axes to the left, back and head; zero elsewhere."""
        whole = np.zeros(brats_like_grid(self.spacing).shape, box.dtype)
        place = tuple(slice(f, f + n) for f, n in zip(self.first, self.shape, strict=True))
        whole[place] = box
        return np.ascontiguousarray(whole[::-1, ::-1])


def _axes(corner: Matrix, step: float, shape: tuple[int, int, int]) -> list[Floats]:
    lines = [(corner[a] + step * np.arange(shape[a])).astype(np.float32) for a in range(3)]
    return [lines[0][:, None, None], lines[1][None, :, None], lines[2][None, None, :]]


def _coordinates(anatomy: Anatomy, world: list[Floats], displacement: Floats) -> Floats:
    """Voxel coordinates ``(3, ...)`` in the anatomy of displaced world positions."""
    matrix = np.linalg.inv(anatomy.grid.affine) @ anatomy.pose
    moved = [axis + component for axis, component in zip(world, displacement, strict=True)]
    out = np.empty((3, *moved[0].shape), np.float32)
    for row in range(3):
        a, b, c, d = (np.float32(v) for v in matrix[row])
        out[row] = a * moved[0] + b * moved[1] + c * moved[2] + d
    return out


def _fetch(anatomy: Anatomy, values: Floats, world: list[Floats], displacement: Floats, outside: float) -> Floats:
    where = _coordinates(anatomy, world, displacement)
    return np.asarray(ndimage.map_coordinates(values, where, order=1, mode="constant", cval=outside), np.float32)


@dataclass(frozen=True, eq=False)
class _Head:
    """The head in the patient's place and shape, before the tumour takes its room.

    Attributes:
        tissue: `Tissue` of each voxel, beyond the stripped brain too.
        brain: The stripped brain.
        inside_mm: See `Anatomy`.
        depth_mm: See `Anatomy`.
        sulcus: See `Anatomy`.
        from_ventricle_mm: See `Anatomy`.
        midline_mm: Distance to the right of the middle of the head, shifted as the tissue is.
        fastigium_mm: See `Anatomy`.
    """

    tissue: Labels
    brain: Bools
    inside_mm: Floats
    depth_mm: Floats
    sulcus: Floats
    from_ventricle_mm: Floats
    midline_mm: Floats
    fastigium_mm: tuple[float, float, float]

    @classmethod
    def sample(cls, anatomy: Anatomy, space: _Space, displacement: Floats) -> _Head:
        where = _coordinates(anatomy, space.world, displacement)
        tissue = _nearest(anatomy.tissue, where)

        def fetch(values: Floats, outside: float) -> Floats:
            found = ndimage.map_coordinates(values, where, order=1, mode="constant", cval=outside)
            return np.asarray(found, np.float32)

        inside = fetch(anatomy.inside_mm, -20.0)
        return cls(
            tissue,
            inside > 0,
            inside,
            fetch(anatomy.depth_mm, 0.0),
            fetch(anatomy.sulcus, 0.0),
            fetch(anatomy.from_ventricle_mm, 99.0),
            space.world[0] + displacement[0],
            anatomy.fastigium_mm,
        )


def _nearest(tissue: Labels, where: Floats) -> Labels:
    nearest = np.rint(where).astype(np.int32)
    within = np.ones(where.shape[1:], bool)
    for axis, n in enumerate(tissue.shape):
        within &= (nearest[axis] >= 0) & (nearest[axis] < n)
        np.clip(nearest[axis], 0, n - 1, out=nearest[axis])
    return np.where(within, tissue[nearest[0], nearest[1], nearest[2]], np.uint8(0))


def _place(anatomy: Anatomy, space: _Space, bend: Floats, options: TumourOptions, rng: np.random.Generator) -> _Lobes:
    """Choose where the tumour grows: in white matter of the hemispheres, off the midline, clear of fluid."""
    if options.centre_mm is not None:
        return _Lobes.draw(np.array(options.centre_mm), options, rng)
    depth = _fetch(anatomy, anatomy.depth_mm, space.coarse_world, bend, 0.0)
    where = _coordinates(anatomy, space.coarse_world, bend)
    tissue = ndimage.map_coordinates(anatomy.tissue, where, order=0, mode="constant", cval=0)
    x, _, z = space.coarse_world
    ventricle = _fetch(anatomy, anatomy.from_ventricle_mm, space.coarse_world, bend, 0.0)
    white = (tissue == Tissue.WHITE) & (np.abs(x) > 12) & (z > -25) & (ventricle > 4)
    for wanted in (0.45, 0.3, 0.15, 0.0):
        spots = np.argwhere(white & (depth >= wanted * options.core_radius_mm))
        if len(spots):
            break
    else:
        raise ValueError("the label map has no place for a tumour")
    spot = spots[rng.integers(len(spots))] + rng.uniform(-0.4, 0.4, 3)
    centre = space.corner - space.knot_mm + spot * space.knot_mm
    return _Lobes.draw(centre, options, rng)


# --- the tumour -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Growth:
    """The tumour as shares of a voxel within a box, and as labels on the whole space.

    Attributes:
        box: Where the shares lie.
        oedema: Share of oedema, 0..1; graded, strongest near the core.
        core: Share of the core.
        enhancing: Share of the core that takes up contrast, and how much (up to about 2).
        necrosis: Share of the core that is necrotic.
        truth: Gliascope's labels.
        tissue: Labels of `Tissue`.
    """

    box: Box
    oedema: Floats
    core: Floats
    enhancing: Floats
    necrosis: Floats
    truth: Labels
    tissue: Labels


# Cost of a millimetre for oedema; fluid and dura stop it.
_HINDRANCE = {
    Tissue.WHITE: 1.0,
    Tissue.WHITE_LESION: 1.0,
    Tissue.THALAMUS: 3.0,
    Tissue.CAUDATE: 4.0,
    Tissue.PUTAMEN: 4.0,
    Tissue.PALLIDUM: 3.0,
    Tissue.HIPPOCAMPUS: 5.0,
    Tissue.BRAINSTEM: 2.0,
    Tissue.CEREBELLAR_WHITE: 1.5,
    Tissue.CEREBELLAR_CORTEX: 6.0,
    Tissue.CORTEX: 6.0,
}
_CHEAPEST = 0.7  # no way is cheaper, so the box around the tumour is large enough
# How much water each takes up once reached.
_SPONGE = {
    Tissue.WHITE: 1.0,
    Tissue.WHITE_LESION: 1.0,
    Tissue.THALAMUS: 0.6,
    Tissue.CAUDATE: 0.35,
    Tissue.PUTAMEN: 0.35,
    Tissue.PALLIDUM: 0.5,
    Tissue.HIPPOCAMPUS: 0.4,
    Tissue.BRAINSTEM: 0.7,
    Tissue.CEREBELLAR_WHITE: 0.9,
    Tissue.CEREBELLAR_CORTEX: 0.2,
    Tissue.CORTEX: 0.22,
}


def _ramp(values: Floats, middle: float, width: float) -> Floats:
    """1 well below ``middle``, 0 well above, over about ``width``."""
    return np.asarray(1 / (1 + np.exp(np.clip((values - middle) * (4 / width), -30, 30))), np.float32)


def _grow(head: _Head, space: _Space, lobes: _Lobes, options: TumourOptions, rng: np.random.Generator) -> _Growth:
    s = space.spacing
    margin = options.oedema_reach_mm / _CHEAPEST + 8
    low, high = lobes.centres - lobes.radii[:, None], lobes.centres + lobes.radii[:, None]
    bounds = []
    for axis in range(3):
        first = int((low[:, axis].min() - margin - space.corner[axis]) / s)
        last = int((high[:, axis].max() + margin - space.corner[axis]) / s) + 1
        first = min(max(first, 0), space.shape[axis] - 8)
        bounds.append(slice(first, max(min(last, space.shape[axis]), first + 8)))
    box: Box = (bounds[0], bounds[1], bounds[2])
    tissue = head.tissue[box]
    shape = (tissue.shape[0], tissue.shape[1], tissue.shape[2])
    world = [axis[tuple(b if axis.shape[a] > 1 else slice(None) for a, b in enumerate(box))] for axis in space.world]

    radius = options.core_radius_mm
    level = lobes.level(world)
    level += options.irregularity * (
        _noise(shape, 0.55 * radius / s, rng) * 0.6
        + _noise(shape, 0.28 * radius / s, rng) * 0.35
        + _noise(shape, 3.5 / s, rng) * 0.2
    )
    depth_mm = (1 - level) * radius  # about the distance below the core's surface
    ventricle = tissue == Tissue.VENTRICLE
    barred = ventricle | np.isin(tissue, (Tissue.OUTSIDE, Tissue.VENOUS, Tissue.CHOROID_PLEXUS)) | ~head.brain[box]
    # Fluid of sulci is barred too, but a pocket that a growing core has closed in is not.
    fluid = tissue == Tissue.CSF
    closed_in = fluid & (depth_mm > 0.18 * radius)
    barred |= fluid & ~closed_in
    # The falx: what is beyond the midline belongs to the other side, except where white matter bridges it.
    side = np.sign(lobes.centres[0][0]) or 1.0
    midline = head.midline_mm[box]
    barred |= (-side * midline > 1.0) & (tissue != Tissue.WHITE)
    open_ = np.asarray(ndimage.gaussian_filter((~barred).astype(np.float32), 0.6 / s), np.float32) * ~barred
    # The core would rather stop at cortex than cross it.
    reluctant = np.where(tissue == Tissue.CORTEX, np.float32(0.12 * radius), np.float32(0))
    reluctant = ndimage.gaussian_filter(reluctant, 0.8 / s)
    core = _ramp(-(depth_mm - reluctant), 0.0, 1.3) * np.minimum(open_ * 1.25, 1)
    pieces, count = ndimage.label(core > 0.5)
    if not count:
        raise ValueError("the label map has no place for a tumour there")
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        near = ndimage.binary_dilation(pieces == sizes.argmax(), iterations=2)
        core *= near
    solid = core > 0.5

    # How deep below the *actual* surface, for the rim to follow it where fluid or cortex cut the core.
    below = np.asarray(ndimage.distance_transform_edt(solid, sampling=s), np.float32)
    below = np.asarray(ndimage.gaussian_filter(below, 0.7 / s), np.float32) - 0.5
    thickness = options.rim_mm * np.exp(0.45 * _noise(shape, 0.5 * radius / s, rng) + 0.3 * _noise(shape, 4.0 / s, rng))
    wanted = (1 - options.necrosis) * radius
    thickness = np.asarray(thickness + wanted + 0.5 * _noise(shape, 2.2 / s, rng), np.float32)
    patchy = 0.7 * _noise(shape, 0.55 * radius / s, rng) + 0.5 * _noise(shape, 5.0 / s, rng)
    threshold = _quantile_of_normal(options.enhancement) * 0.86
    present = _ramp(patchy, threshold, 0.6) if options.enhancement > 0 else np.zeros(shape, np.float32)
    necrosis = np.zeros(shape, np.float32)
    if options.necrosis > 0:
        necrosis = _ramp(np.asarray(thickness - below, np.float32), 0.0, 1.6)
    # Strands of living tumour cross the necrosis.
    strand = np.abs(_noise(shape, 9.0 / s, rng)) + 0.05 * np.clip(below - thickness, 0, None)
    necrosis *= 1 - 0.6 * _ramp(np.asarray(strand, np.float32), 0.12, 0.3)
    uneven = np.exp(0.4 * _noise(shape, 3.0 / s, rng) + 0.4 * _noise(shape, 8.0 / s, rng) - 0.15)
    enhancing = (1 - necrosis) * present * uneven * (0.55 + 0.45 * _ramp(below, 0.7 * options.rim_mm, 3.0))
    # Little oedema crosses the corpus callosum.
    crossing = np.where(-side * midline > -4.0, np.float32(3.0), np.float32(1.0))
    oedema = _oedema(tissue, barred, solid, crossing, space, options, rng)
    oedema *= ~barred

    truth = np.zeros(space.shape, np.uint8)
    fine = np.where(head.brain, head.tissue, np.uint8(0))
    wet = (oedema > 0.4) & ~solid
    wet = _without_specks(wet | solid, 40 / s**3) & ~solid
    local = np.zeros(shape, np.uint8)
    local[wet] = REST_OF_WHOLE_TUMOUR
    local[solid] = TUMOUR_CORE
    truth[box] = local
    inner = np.where(enhancing > 0.35, Tissue.ENHANCING, Tissue.NON_ENHANCING)
    inner = np.where(necrosis > 0.5, Tissue.NECROSIS, inner)
    patch = fine[box]
    patch[wet] = Tissue.OEDEMA
    patch[solid] = inner[solid]
    return _Growth(box, oedema, core, enhancing.astype(np.float32), necrosis, truth, fine)


def _quantile_of_normal(share: float) -> float:
    return float(np.clip(special.ndtri(share), -3, 3))


def _without_specks(mask: Bools, smallest: float) -> Bools:
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    keep = sizes >= smallest
    keep[0] = False
    keep[sizes[1:].argmax() + 1 if len(sizes) > 1 else 0] = len(sizes) > 1
    return np.asarray(keep[pieces])


def _oedema(
    tissue: Labels,
    barred: Bools,
    core: Bools,
    away: Floats,
    space: _Space,
    options: TumourOptions,
    rng: np.random.Generator,
) -> Floats:
    """Share of oedema in each voxel: what water reaches from the core within its reach, along white matter first."""
    s = space.spacing
    shape = (tissue.shape[0], tissue.shape[1], tissue.shape[2])
    if options.oedema_reach_mm < 1:
        return np.zeros(shape, np.float32)
    every = max(1, round(2.0 / s))
    hindrance = np.full(256, np.inf, np.float32)
    sponge = np.zeros(256, np.float32)
    for kind, value in _HINDRANCE.items():
        hindrance[kind] = value
        sponge[kind] = _SPONGE[kind]
    cost = np.where(barred, np.float32(np.inf), hindrance[tissue]) * away
    uneven = np.exp(0.8 * _noise(shape, 11.0 / s, rng) + 0.5 * _noise(shape, 4.0 / s, rng))
    cost = cost * np.clip(uneven, _CHEAPEST, 5.0)
    # The cheapest voxel of each 2 mm block: thin bridges of white matter must stay open.
    small = _block_minimum(cost.astype(np.float32), every)
    start = _block_minimum(np.where(core, np.float32(0), np.float32(np.inf)), every)
    arrival = _arrival(small, start, every * s, options.oedema_reach_mm * 1.5)
    arrival = np.minimum(arrival, np.float32(options.oedema_reach_mm * 1.5))
    smooth = _stretch(arrival, every, shape)
    reached = _ramp(smooth, options.oedema_reach_mm, 0.16 * options.oedema_reach_mm + 1.5)
    soaked = ndimage.gaussian_filter(sponge[tissue], 0.6 / s)
    grade = 0.62 + 0.38 * np.exp(-smooth / (0.45 * options.oedema_reach_mm)) + 0.07 * _noise(shape, 7.0 / s, rng)
    return np.asarray(np.clip(reached * soaked * grade, 0, 1), np.float32)


def _block_minimum(values: Floats, every: int) -> Floats:
    if every == 1:
        return values
    pad = [(0, -n % every) for n in values.shape]
    padded = np.pad(values, pad, constant_values=np.inf)
    i, j, k = (n // every for n in padded.shape)
    return np.asarray(padded.reshape(i, every, j, every, k, every).min(axis=(1, 3, 5)), np.float32)


def _stretch(values: Floats, every: int, shape: tuple[int, int, int]) -> Floats:
    """Linear interpolation of block centres back to voxels."""
    if every == 1:
        return values
    out = values
    for axis, n in enumerate(shape):
        position = np.clip((np.arange(n) - (every - 1) / 2) / every, 0, values.shape[axis] - 1)
        low = np.minimum(position.astype(int), max(values.shape[axis] - 2, 0))
        weight = (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, values.shape[axis] - 1)
        out = out.take(low, axis) * (1 - weight) + out.take(high, axis) * weight
    return np.asarray(out, np.float32)


_STEPS = [
    (a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1) if (a, b, c) > (0, 0, 0)
]  # half of the 26 neighbours; the other half are their opposites


def _arrival(cost: Floats, start: Floats, step_mm: float, until: float) -> Floats:
    """Cheapest way from ``start`` through ``cost`` a millimetre, by repeated relaxation over the 26 neighbours."""
    time = np.pad(start, 1, constant_values=np.inf)
    price = np.pad(cost, 1, constant_values=np.inf)
    rounds = int(until / step_mm * 1.5) + 2
    for _ in range(rounds):
        before = float(np.where(np.isfinite(time), time, 0).sum()), int(np.isfinite(time).sum())
        for move in _STEPS:
            length = step_mm * float(np.linalg.norm(move))
            to = tuple(slice(1 + max(m, 0), n - 1 + min(m, 0)) for m, n in zip(move, time.shape, strict=True))
            off = tuple(slice(t.start - m, t.stop - m) for t, m in zip(to, move, strict=True))
            for here, there in ((to, off), (off, to)):
                between = (price[here] + price[there]) * np.float32(0.5 * length)
                # Leaving the core costs only what is entered; the core's own price does not count.
                between = np.where(time[there] == 0, price[here] * np.float32(length), between)
                np.minimum(time[here], time[there] + between, out=time[here])
        after = float(np.where(np.isfinite(time), time, 0).sum()), int(np.isfinite(time).sum())
        if before == after:
            break
    return np.asarray(time[1:-1, 1:-1, 1:-1])


# --- the pictures -----------------------------------------------------------------------------------------------------


class _Painter:
    """Paints one sequence after another of the same patient."""

    def __init__(self, head: _Head, growth: _Growth, space: _Space, scanner: Scanner, rng: np.random.Generator) -> None:
        self._space = space
        self._growth = growth
        self._scanner = scanner
        self._brain = head.brain
        shape, s = space.shape, space.spacing
        self._shares = _soft_shares(head.tissue, s)
        fine = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.9 / s) * np.float32(4.0 / s)
        # Texture that T1 and T2 share, in units of each tissue's mottle.
        self._mottle = 0.55 * fine + 0.6 * _noise(shape, 4.0 / s, rng) + 0.55 * _noise(shape, 11.0 / s, rng)
        # Deep white matter is more myelinated: shorter T1 and T2; the rim under the cortex the reverse.
        self._myelin = np.clip((head.depth_mm - 4.0) / 9.0, -0.45, 1.0) + 0.25 * _noise(shape, 14.0 / s, rng)
        # A thin bright line on FLAIR around the ventricles, thicker at the horns.
        self._halo = np.exp(-head.from_ventricle_mm / 1.6) * np.clip(1 + 0.7 * _noise(shape, 16.0 / s, rng), 0, None)
        self._vessels = self._draw_vessels(shape, s, rng)
        self._folia = self._draw_folia(head, rng)
        # Scraps of dura and veins that stripping leaves on the surface.
        scraps = _ramp(0.8 * _noise(shape, 9.0 / s, rng) + 0.7 * _noise(shape, 3.0 / s, rng), -0.9, 0.5)
        self._surface = 0.9 * np.exp(-np.clip(head.inside_mm, 0, None) / 0.8) * (0.25 + 0.75 * scraps)
        self._falx = _falx(head, space)
        self._sulcus = 0.62 * head.sulcus * np.clip(1 + 0.35 * _noise(shape, 7.0 / s, rng), 0, 1.5)
        g = growth
        b = (g.core.shape[0], g.core.shape[1], g.core.shape[2])
        self._tumour_mottle = (
            0.5 * _noise(b, 2.2 / s, rng) + 0.7 * _noise(b, 5.0 / s, rng) + 0.9 * _noise(b, 12.0 / s, rng)
        )
        self._tumour_t2 = 0.8 * _noise(b, 4.0 / s, rng) + 0.8 * _noise(b, 10.0 / s, rng)
        self._thick_fluid = np.clip(0.5 + 0.35 * _noise(b, 9.0 / s, rng), 0, 1)

    def _draw_vessels(self, shape: tuple[int, int, int], s: float, rng: np.random.Generator) -> Floats:
        """Share of flowing blood: winding threads (where two smooth fields vanish at once), larger ones fewer."""
        total = np.zeros(shape, np.float32)
        for scale, width, weight in ((13.0, 0.75, 1.0), (8.0, 0.5, 0.8)):
            one, two = _noise(shape, scale / s, rng), _noise(shape, scale / s, rng)
            # The fields' slope is about 1.1 / scale a millimetre.
            distance = (one**2 + two**2) * np.float32((scale / 1.1) ** 2)
            np.maximum(total, weight * np.exp(-distance / (2 * width**2)), out=total)
        return total

    def _draw_folia(self, head: _Head, rng: np.random.Generator) -> Floats:
        """Fluid between the folia of the cerebellum, and (negative) the white matter within: a fan from its front."""
        s = self._space.spacing
        found = ndimage.find_objects((head.tissue == Tissue.CEREBELLAR_CORTEX).astype(np.uint8))
        total = np.zeros(self._space.shape, np.float32)
        if not found or found[0] is None:
            return total
        box = found[0]
        shape = tuple(b.stop - b.start for b in box)
        x, y, z = (
            axis[tuple(b if axis.shape[a] > 1 else slice(None) for a, b in enumerate(box))]
            for a_, axis in enumerate(self._space.world)
        )
        _, front, middle = head.fastigium_mm
        angle = np.arctan2(z - middle, -(y - front))
        away = np.sqrt((y - front) ** 2 + (z - middle) ** 2)
        warp = _noise(shape, 12.0 / s, rng)
        bent = 1.1 * _noise(shape, 22.0 / s, rng) + 0.02 * np.abs(x) * np.sign(z - middle)
        curl = (away - 25) / 11
        leaf = np.cos(angle * 52 + 2.6 * warp + 5 * bent + 1.2 * _noise(shape, 6.0 / s, rng) + 1.5 * curl**2)
        fissure = np.cos(angle * 13 + 1.2 * warp + 1.2 * bent + 0.5 * curl**2)
        outer = np.clip((away - 18) / 16, 0, 1)
        fluid = (
            0.22 * np.clip(leaf, 0, 1) ** 2 * outer * np.clip(1 + 0.5 * _noise(shape, 8.0 / s, rng), 0, 2)
            + 0.45 * np.clip((fissure - 0.85) / 0.15, 0, 1) * outer
        )
        # White matter branches into the lobules, halfway between fissures: negative shares.
        twig = 0.75 * np.clip((-fissure - 0.75) / 0.25, 0, 1) * np.clip((40 - away) / 14, 0, 1)
        total[box] = np.where(twig > fluid, -twig, fluid)
        return total

    def paint(self, sequence: Sequence, taken: Acquisition, rng: np.random.Generator) -> Floats:
        """One sequence as a file would hold it: positive inside the stripped brain, zero outside."""
        signal = self._signal(sequence, taken)
        return self._acquire(signal, taken, rng)

    def _tissue(self, kind: Relaxation, uptake: float) -> Relaxation:
        if uptake <= 0:
            return kind
        t1 = _t1_at(kind, self._scanner.field_t)
        shorter = 1000 / (1000 / t1 + _RELAXIVITY * uptake * self._scanner.contrast)
        # Already at the scanner's field: scale back so that `_t1_at` gives this value again.
        scale = (3.0 / self._scanner.field_t) ** (0.33 if shorter * 1.3 < 3000 else 0.0)
        return Relaxation(shorter * scale, kind.t2, kind.density, kind.uptake, kind.mottle)

    def _signal(self, sequence: Sequence, taken: Acquisition) -> Floats:
        dose = 1.0 if sequence is Sequence.T1CE else 0.0
        field_t = self._scanner.field_t

        def of(kind: Relaxation, uptake: float | None = None, t1: float = 1.0, t2: float = 1.0) -> float:
            amount = dose * (kind.uptake if uptake is None else uptake)
            made = self._tissue(Relaxation(kind.t1 * t1, kind.t2 * t2, kind.density), amount)
            return taken.signal(made, field_t)

        picture = np.zeros(self._space.shape, np.float32)
        fluid = of(RELAXATION[Tissue.CSF])
        flow = 0.9 * of(_FLOWING) if sequence in (Sequence.T1, Sequence.T1CE) else 0.15 * of(_FLOWING)
        if sequence is Sequence.T1:
            flow *= 0.75
        membrane = of(_DURA)
        for tissue, box, share in self._shares:
            kind = RELAXATION[tissue]
            value = of(kind)
            # First order of the signal equation around the tissue's mean: cheap, and right for a few percent.
            by_t1 = (of(kind, t1=1.02) - value) / 0.02
            by_t2 = (of(kind, t2=1.02) - value) / 0.02
            mottle = self._mottle[box] * np.float32(kind.mottle * (by_t1 + 0.8 * by_t2))
            local = value + mottle
            if tissue in (Tissue.WHITE, Tissue.BRAINSTEM, Tissue.CEREBELLAR_WHITE):
                local -= self._myelin[box] * np.float32(0.05 * by_t1 + 0.05 * by_t2)
                local += self._halo[box] * np.float32(0.20 * by_t1 + 0.38 * by_t2)
            if tissue is Tissue.CEREBELLAR_CORTEX:
                folia = self._folia[box]
                local += np.clip(folia, 0, 1) * (fluid - local)
                local += np.clip(-folia, 0, 1) * (of(RELAXATION[Tissue.CEREBELLAR_WHITE]) - local)
            if tissue is Tissue.CSF:
                local += self._vessels[box] * (flow - local)
            if tissue is Tissue.CSF:
                local += self._falx[box] * (membrane - local)
            if tissue is Tissue.CORTEX:
                local += self._sulcus[box] * (fluid - local)
            if tissue is Tissue.CORTEX and sequence is Sequence.T1CE:
                local += 0.6 * self._vessels[box] * (flow - local)
            picture[box] += share * local
        if sequence is Sequence.T1CE:
            picture += self._surface * np.clip(flow - picture, 0, None)
        self._add_tumour(picture, of, fluid)
        return picture

    def _add_tumour(self, picture: Floats, of: Callable[..., float], fluid: float) -> None:
        g = self._growth
        view = picture[g.box]
        mottle = self._tumour_mottle

        def made(tissue: Tissue, amount: Floats | float = 1.0) -> Floats:
            kind = RELAXATION[tissue]
            value = of(kind)
            by_t1 = (of(kind, t1=1.05) - value) / 0.05
            by_t2 = (of(kind, t2=1.05) - value) / 0.05
            return np.asarray(
                value
                + amount * np.float32(kind.mottle) * (mottle * by_t1 + (0.4 * mottle + 1.1 * self._tumour_t2) * by_t2),
                np.float32,
            )

        view += g.oedema * (made(Tissue.OEDEMA, 0.6) - view)
        core = made(Tissue.NON_ENHANCING)
        # Uptake varies within the rim; the signal is not linear in it, so it is read off a curve.
        levels = np.linspace(0, 2.5, 11)
        kind = RELAXATION[Tissue.ENHANCING]
        curve = np.array([of(kind, uptake=kind.uptake * float(v)) for v in levels])
        rim = np.interp(g.enhancing, levels, curve).astype(np.float32)
        rim += mottle * np.float32(0.02) * rim
        lit = np.clip(g.enhancing * 2.5, 0, 1)
        core += lit * (rim - core)
        dead = made(Tissue.NECROSIS)
        # Some of the fluid is thick with protein: FLAIR does not null it.
        core += g.necrosis * ((0.8 * dead + 0.2 * self._thick_fluid * core) / (0.8 + 0.2 * self._thick_fluid) - core)
        view += g.core * (core - view)

    def _acquire(self, signal: Floats, taken: Acquisition, rng: np.random.Generator) -> Floats:
        """Coil, resolution, noise and the magnitude that makes it Rician; then the values of a file."""
        s, shape = self._space.spacing, self._space.shape
        white = taken.signal(RELAXATION[Tissue.WHITE], self._scanner.field_t)
        coil = np.exp(np.float32(taken.bias) * 0.5 * _noise(shape, 90.0 / s, rng))
        signal = signal * coil
        # What is blurred is the whole head: noise is then made in the same resolution and given its own strength.
        sigma = [_sigma(taken.slice_mm if a == taken.slice_axis else taken.in_plane_mm, s) for a in range(3)]
        signal = ndimage.gaussian_filter(signal, sigma, truncate=3.0)
        spread = np.float32(taken.noise * white)
        real, imaginary = (self._grain(sigma, spread, rng) for _ in range(2))
        magnitude = np.hypot(signal + real, imaginary) / np.float32(white / taken.white)
        return np.where(self._brain, np.maximum(magnitude, np.float32(taken.white * 0.004)), np.float32(0))

    def _grain(self, sigma: list[float], spread: np.float32, rng: np.random.Generator) -> Floats:
        grain = rng.standard_normal(self._space.shape, dtype=np.float32)
        grain = ndimage.gaussian_filter(grain, [max(v * 0.9, 0.45) for v in sigma], truncate=3.0)
        return np.asarray(grain * (spread / grain[::3, ::3, ::3].std()), np.float32)


def _falx(head: _Head, space: _Space) -> Floats:
    """Share of the falx in the fluid between the hemispheres: shallow in front, down to the splenium behind."""
    _, y, z = space.world
    deep = np.clip(14 + 26 * (30 - y) / 90, 10, 40)
    reach = 1 / (1 + np.exp(np.clip((head.inside_mm - deep) / 1.5, -30, 30)))
    above = 1 / (1 + np.exp(np.clip(-(z - 2) / 1.5, -30, 30)))
    return np.asarray(0.8 * np.exp(-((head.midline_mm / 0.75) ** 2)) * reach * above, np.float32)


def _sigma(resolution_mm: float, spacing: float) -> float:
    """Width in voxels that turns voxels of ``spacing`` into ``resolution_mm`` (and a little for resampling)."""
    return (
        float(np.sqrt(max((resolution_mm / 2.355) ** 2 - (spacing / 3.46) ** 2, 0.0) + (0.2 * spacing) ** 2)) / spacing
    )


def _soft_shares(tissue: Labels, spacing: float) -> list[tuple[Tissue, Box, Floats]]:
    """Each tissue's share of each voxel: blurred labels, sharpened again, so edges are smooth but not wide."""
    sigma = 0.7 / spacing
    total = np.full(tissue.shape, 1e-6, np.float32)
    found: list[tuple[Tissue, Box, Floats]] = []
    for index, place in enumerate(ndimage.find_objects(tissue.astype(np.int32) + 1)):
        if place is None:
            continue
        box = tuple(slice(max(p.start - 3, 0), p.stop + 3) for p in place)
        share = ndimage.gaussian_filter((tissue[box] == index).astype(np.float32), sigma, truncate=2.5)
        share **= 1.6
        total[box] += share
        found.append((Tissue(index), (box[0], box[1], box[2]), share))
    for _, where, share in found:
        share /= total[where]
    return [(kind, where, share) for kind, where, share in found if kind is not Tissue.OUTSIDE]
