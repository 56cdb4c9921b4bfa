"""The scanner: tissue parameters, signal equations, and what taking a picture does to a signal.

A tissue is its two relaxation times, its proton density and the contrast agent it takes up. The steady-state signal
equations of a spoiled gradient echo, a spin echo and an inversion-recovery spin echo turn these into brightness; the
agent shortens T1 by its relaxivity. `Scanner.acquire` then does what coil, resolution and electronics do: a smooth
sensitivity, blurring along and across slices, complex Gaussian noise of which only the magnitude is kept (so it is
Rician where there is no signal), and an arbitrary scale of values.

Relaxation times at 3 T come from these measurements:

- White and grey matter: Wansapura et al., J Magn Reson Imaging 1999;9:531 (T1 832 and 1331 ms, T2 79 and 110 ms).
  Others find longer T1, as 1084 and 1820 ms in bovine tissue (Stanisz et al., Magn Reson Med 2005;54:507), and 838 and
  1607 ms, with 1395 ms in the caudate and 1332 ms in the putamen (Wright et al., MAGMA 2008;21:121).
- Deep grey nuclei have a shorter T2 the more iron they hold, the pallidum the shortest: Gelman et al., Radiology
  1999;210:759. The order is theirs; their T2 are shorter throughout.
- T1 of tissue grows with a power of the field: 0.38 in white matter and putamen (Rooney et al., Magn Reson Med
  2007;57:308), 0.30 to 0.43 from putamen to cortex between 1.5 and 3 T (Wright et al.). Here it is 0.33 everywhere.
- Fluid: T1 3.8 s, probably too low and about 4.3 s in truth (Lu et al., J Magn Reson Imaging 2005;22:13).
- T1 and T2 of brain tumours by fingerprinting: Badve et al., AJNR Am J Neuroradiol 2017;38:492.
- Contrast agent raises 1/T1 by 0.047 per second beside a glioma and by 0.032 in normal white matter (Blystad et al.,
  doi 10.1038/s41598-020-75105-6). Its relaxivity: Rohrer et al., Invest Radiol 2005;40:715.

Within the spread of such values, and where there are none, they were settled by comparing the ratios of grey matter,
fluid, oedema and core to white matter with those of public glioma cohorts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import cos, exp, log, log1p, radians, sin

import numpy as np
from scipy import ndimage

from engine.volume import FloatArray, Sequence
from trainer.simulate.anatomy import Tissue
from trainer.simulate.space import BoolArray, Space


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

    def t1_at(self, field_t: float) -> float:
        """T1 in ms at another field."""
        return float(self.t1 * (field_t / 3.0) ** _field_exponent(self.t1))


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
# Thinner than any label: an artery or vein too fast for a spin echo is a dark dot on T2, lit on T1ce; so is the falx.
FLOWING_BLOOD = Relaxation(1700, 12, 0.6, 1.1)
DURA = Relaxation(1300, 30, 0.6, 0.6)

# Per mM and second. Chelates of gadolinium that bind to no protein have 3.5 to 5.2 in plasma at 1.5 and 3 T (Rohrer).
_RELAXIVITY = 4.3


def spoiled_gradient_echo(tissue: Relaxation, tr: float, te: float, flip: float, field_t: float = 3.0) -> float:
    """Steady-state signal of a spoiled gradient echo (FLASH, SPGR); times in ms, flip angle in degrees."""
    e1 = exp(-tr / tissue.t1_at(field_t))
    angle = radians(flip)
    # T2* is 0.7 to 0.8 of T2 away from air (Gelman); it matters little at the echo times used.
    return tissue.density * sin(angle) * (1 - e1) / (1 - cos(angle) * e1) * exp(-te / (0.7 * tissue.t2))


def spin_echo(tissue: Relaxation, tr: float, te: float, field_t: float = 3.0) -> float:
    """Signal of a spin echo; times in ms."""
    return tissue.density * (1 - exp(-tr / tissue.t1_at(field_t))) * exp(-te / tissue.t2)


def inversion_recovery(tissue: Relaxation, tr: float, te: float, ti: float, field_t: float = 3.0) -> float:
    """Signed signal of an inversion-recovery spin echo (FLAIR with a long inversion time); times in ms."""
    t1 = tissue.t1_at(field_t)
    return tissue.density * (1 - 2 * exp(-ti / t1) + exp(-tr / t1)) * exp(-te / tissue.t2)


def _field_exponent(t1: float) -> float:
    return 0.33 if t1 < 3000 else 0.0  # longer is fluid


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

    def signal(self, taken: Acquisition, tissue: Relaxation, uptake: float = 0.0) -> float:
        """Magnitude of a tissue's signal with contrast agent in it.

        Args:
            taken: One of the acquisitions.
            tissue: Its parameters without the agent.
            uptake: Agent in mM after a usual dose; scaled by what was reached here.
        """
        if uptake > 0:
            shorter = 1000 / (1000 / tissue.t1_at(self.field_t) + _RELAXIVITY * uptake * self.contrast)
            # Already at the scanner's field: scale back so that `Relaxation.t1_at` gives this value again.
            scale = (3.0 / self.field_t) ** _field_exponent(shorter * 1.3)
            tissue = replace(tissue, t1=shorter * scale)
        return taken.signal(tissue, self.field_t)

    def acquire(
        self, signal: FloatArray, taken: Acquisition, brain: BoolArray, space: Space, rng: np.random.Generator
    ) -> FloatArray:
        """Take a picture of a signal: positive inside the stripped brain, zero outside, in values of a file.

        Args:
            signal: ``(I, J, K)`` in units of water's fully relaxed signal.
            taken: One of the acquisitions.
            brain: ``(I, J, K)``; the rest is cut away after the picture is taken.
            space: Where the voxels lie.
            rng: Source of chance.
        """
        s = space.spacing
        white = taken.signal(RELAXATION[Tissue.WHITE], self.field_t)
        coil = np.exp(np.float32(taken.bias) * 0.5 * space.noise(90.0, rng))
        signal = signal * coil
        # What is blurred is the whole head: noise is then made in the same resolution and given its own strength.
        sigma = [_sigma(taken.slice_mm if a == taken.slice_axis else taken.in_plane_mm, s) for a in range(3)]
        signal = ndimage.gaussian_filter(signal, sigma, truncate=3.0)
        spread = np.float32(taken.noise * white)
        real, imaginary = (_grain(space.shape, sigma, spread, rng) for _ in range(2))
        magnitude = np.hypot(signal + real, imaginary) / np.float32(white / taken.white)
        return np.where(brain, np.maximum(magnitude, np.float32(taken.white * 0.004)), np.float32(0))


def _sigma(resolution_mm: float, spacing: float) -> float:
    """Width in voxels that turns voxels of ``spacing`` into ``resolution_mm`` (and a little for resampling)."""
    return (
        float(np.sqrt(max((resolution_mm / 2.355) ** 2 - (spacing / 3.46) ** 2, 0.0) + (0.2 * spacing) ** 2)) / spacing
    )


def _grain(shape: tuple[int, int, int], sigma: list[float], spread: np.float32, rng: np.random.Generator) -> FloatArray:
    """Noise as sharp as the picture, with standard deviation ``spread``."""
    grain = rng.standard_normal(shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, [max(v * 0.9, 0.45) for v in sigma], truncate=3.0)
    return np.asarray(grain * (spread / grain[::3, ::3, ::3].std()), np.float32)
