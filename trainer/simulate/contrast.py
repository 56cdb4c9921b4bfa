"""The signal of every place of a patient, sequence by sequence, before a scanner takes a picture of it.

Each tissue has its share of each voxel and its own signal, varied around the tissue's mean to first order: by a mottle
that T1 and T2 share, by myelin (deep white matter is shorter in both), by a halo around the ventricles. What labels of
1 mm cannot hold is drawn in: fluid between the banks of narrow sulci and between the folia of the cerebellum, the falx,
vessels, and scraps of dura that stripping leaves on the surface. The tumour's shares are laid over that, oedema first,
then the core with necrosis and a rim whose signal is read off the curve of the agent's concentration.

All of it is drawn once for a patient, so the four sequences show the same head. The layers and their strengths were
chosen after the look of public images; only the signals themselves follow from the physics in `scanner`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from engine.volume import FloatArray, LabelArray, Sequence
from trainer.simulate.anatomy import Head, Tissue
from trainer.simulate.scanner import DURA, FLOWING_BLOOD, RELAXATION, Acquisition, Relaxation, Scanner
from trainer.simulate.space import Box, Space, ramp
from trainer.simulate.tumour import Growth


class Contrast:
    """Signals of one patient in one scanner.

    Args:
        head: The patient's head.
        growth: Its tumour.
        space: Where both lie.
        scanner: Whose acquisitions the signals are for.
        rng: Source of chance for the textures.
    """

    def __init__(self, head: Head, growth: Growth, space: Space, scanner: Scanner, rng: np.random.Generator) -> None:
        self._shape = space.shape
        self._growth = growth
        self._scanner = scanner
        self._shares = _soft_shares(head.tissue, space.spacing)
        s = space.spacing
        fine = ndimage.gaussian_filter(rng.standard_normal(space.shape, dtype=np.float32), 0.9 / s)
        fine = fine * np.float32(4.0 / s)
        # Texture that T1 and T2 share, in units of each tissue's mottle.
        self._mottle = 0.55 * fine + 0.6 * space.noise(4.0, rng) + 0.55 * space.noise(11.0, rng)
        # Deep white matter is more myelinated: shorter T1 and T2; the rim under the cortex the reverse.
        self._myelin = np.clip((head.depth_mm - 4.0) / 9.0, -0.45, 1.0) + 0.25 * space.noise(14.0, rng)
        # A thin bright line on FLAIR around the ventricles, thicker at the horns.
        self._halo = np.exp(-head.from_ventricle_mm / 1.6) * np.clip(1 + 0.7 * space.noise(16.0, rng), 0, None)
        self._vessels = _vessels(space, rng)
        self._folia = _folia(head, space, rng)
        # Scraps of dura and veins that stripping leaves on the surface.
        scraps = ramp(0.8 * space.noise(9.0, rng) + 0.7 * space.noise(3.0, rng), -0.9, 0.5)
        self._surface = 0.9 * np.exp(-np.clip(head.inside_mm, 0, None) / 0.8) * (0.25 + 0.75 * scraps)
        self._falx = _falx(head, space)
        self._sulcus = 0.62 * head.sulcus * np.clip(1 + 0.35 * space.noise(7.0, rng), 0, 1.5)

        def within(scale_mm: float) -> FloatArray:
            return space.noise(scale_mm, rng, growth.core.shape)

        self._tumour_mottle = 0.5 * within(2.2) + 0.7 * within(5.0) + 0.9 * within(12.0)
        self._tumour_t2 = 0.8 * within(4.0) + 0.8 * within(10.0)
        self._thick_fluid = np.clip(0.5 + 0.35 * within(9.0), 0, 1)

    def signal(self, sequence: Sequence) -> FloatArray:
        """``(I, J, K)`` in units of water's fully relaxed signal, over the whole head."""
        signals = _Signals(self._scanner, self._scanner.acquisitions[sequence], sequence is Sequence.T1CE)
        flow = _flow(sequence, signals.of(FLOWING_BLOOD))
        picture = np.zeros(self._shape, np.float32)
        for tissue, box, share in self._shares:
            picture[box] += share * self._healthy(tissue, box, signals, flow)
        if sequence is Sequence.T1CE:
            picture += self._surface * np.clip(flow - picture, 0, None)
        self._add_tumour(picture, signals)
        return picture

    def _healthy(self, tissue: Tissue, box: Box, signals: _Signals, flow: float) -> FloatArray:
        """A tissue's own signal in its box, with what is drawn into it."""
        fluid = signals.of(RELAXATION[Tissue.CSF])
        value, by_t1, by_t2 = signals.around(RELAXATION[tissue], 0.02)
        local: FloatArray = value + self._mottle[box] * np.float32(RELAXATION[tissue].mottle * (by_t1 + 0.8 * by_t2))
        if tissue in (Tissue.WHITE, Tissue.BRAINSTEM, Tissue.CEREBELLAR_WHITE):
            local -= self._myelin[box] * np.float32(0.05 * by_t1 + 0.05 * by_t2)
            local += self._halo[box] * np.float32(0.20 * by_t1 + 0.38 * by_t2)
        elif tissue is Tissue.CEREBELLAR_CORTEX:
            folia = self._folia[box]
            local += np.clip(folia, 0, 1) * (fluid - local)
            local += np.clip(-folia, 0, 1) * (signals.of(RELAXATION[Tissue.CEREBELLAR_WHITE]) - local)
        elif tissue is Tissue.CSF:
            local += self._vessels[box] * (flow - local)
            local += self._falx[box] * (signals.of(DURA) - local)
        elif tissue is Tissue.CORTEX:
            local += self._sulcus[box] * (fluid - local)
            if signals.with_agent:
                local += 0.6 * self._vessels[box] * (flow - local)
        return local

    def _add_tumour(self, picture: FloatArray, signals: _Signals) -> None:
        g = self._growth
        view = picture[g.box]
        view += g.oedema * (self._uneven(Tissue.OEDEMA, signals, 0.6) - view)
        core = self._uneven(Tissue.NON_ENHANCING, signals)
        # Uptake varies within the rim; the signal is not linear in it, so it is read off a curve.
        levels = np.linspace(0, 2.5, 11)
        kind = RELAXATION[Tissue.ENHANCING]
        curve = np.array([signals.of(kind, uptake=kind.uptake * float(v)) for v in levels])
        rim = np.interp(g.enhancing, levels, curve).astype(np.float32)
        rim += self._tumour_mottle * np.float32(0.02) * rim
        lit = np.clip(g.enhancing * 2.5, 0, 1)
        core += lit * (rim - core)
        dead = self._uneven(Tissue.NECROSIS, signals)
        # Some of the fluid is thick with protein: FLAIR does not null it.
        core += g.necrosis * ((0.8 * dead + 0.2 * self._thick_fluid * core) / (0.8 + 0.2 * self._thick_fluid) - core)
        view += g.core * (core - view)

    def _uneven(self, tissue: Tissue, signals: _Signals, amount: float = 1.0) -> FloatArray:
        """A tumour tissue's signal in the tumour's box, whose T2 varies partly on its own."""
        kind = RELAXATION[tissue]
        value, by_t1, by_t2 = signals.around(kind, 0.05)
        mottle = self._tumour_mottle
        varied = mottle * by_t1 + (0.4 * mottle + 1.1 * self._tumour_t2) * by_t2
        return np.asarray(value + amount * np.float32(kind.mottle) * varied, np.float32)


def _flow(sequence: Sequence, resting: float) -> float:
    """Signal of flowing blood: the long echoes of T2 and FLAIR lose what moves on."""
    if sequence is Sequence.T1:
        return 0.9 * resting * 0.75
    return (0.9 if sequence is Sequence.T1CE else 0.15) * resting


class _Signals(NamedTuple):
    """The signals of tissues in one sequence, with contrast agent if it was given before."""

    scanner: Scanner
    taken: Acquisition
    with_agent: bool

    def of(self, kind: Relaxation, uptake: float | None = None, t1: float = 1.0, t2: float = 1.0) -> float:
        """Signal of a tissue, its usual uptake or its times changed."""
        amount = (kind.uptake if uptake is None else uptake) if self.with_agent else 0.0
        return self.scanner.signal(self.taken, Relaxation(kind.t1 * t1, kind.t2 * t2, kind.density), amount)

    def around(self, kind: Relaxation, step: float) -> tuple[float, float, float]:
        """Signal, and its slopes by relative changes of T1 and of T2: cheap, and right for a few percent."""
        value = self.of(kind)
        return value, (self.of(kind, t1=1 + step) - value) / step, (self.of(kind, t2=1 + step) - value) / step


def _soft_shares(tissue: LabelArray, spacing: float) -> list[tuple[Tissue, Box, FloatArray]]:
    """Each tissue's share of each voxel: blurred labels, sharpened again, so edges are smooth but not wide."""
    sigma = 0.7 / spacing
    total = np.full(tissue.shape, 1e-6, np.float32)
    found: list[tuple[Tissue, Box, FloatArray]] = []
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


def _vessels(space: Space, rng: np.random.Generator) -> FloatArray:
    """Share of flowing blood: winding threads (where two smooth fields vanish at once), larger ones fewer."""
    total = np.zeros(space.shape, np.float32)
    for scale, width, weight in ((13.0, 0.75, 1.0), (8.0, 0.5, 0.8)):
        one, two = space.noise(scale, rng), space.noise(scale, rng)
        # The fields' slope is about 1.1 / scale a millimetre.
        distance = (one**2 + two**2) * np.float32((scale / 1.1) ** 2)
        np.maximum(total, weight * np.exp(-distance / (2 * width**2)), out=total)
    return total


def _folia(head: Head, space: Space, rng: np.random.Generator) -> FloatArray:
    """Fluid between the folia of the cerebellum, and (negative) the white matter within: a fan from its front."""
    found = ndimage.find_objects((head.tissue == Tissue.CEREBELLAR_CORTEX).astype(np.uint8))
    total = np.zeros(space.shape, np.float32)
    if not found or found[0] is None:
        return total
    box: Box = found[0]
    shape = total[box].shape

    def noise(scale_mm: float) -> FloatArray:
        return space.noise(scale_mm, rng, shape)

    x, y, z = space.world_in(box)
    _, front, middle = head.fastigium_mm
    angle = np.arctan2(z - middle, -(y - front))
    away = np.sqrt((y - front) ** 2 + (z - middle) ** 2)
    warp = noise(12.0)
    bent = 1.1 * noise(22.0) + 0.02 * np.abs(x) * np.sign(z - middle)
    curl = (away - 25) / 11
    leaf = np.cos(angle * 52 + 2.6 * warp + 5 * bent + 1.2 * noise(6.0) + 1.5 * curl**2)
    fissure = np.cos(angle * 13 + 1.2 * warp + 1.2 * bent + 0.5 * curl**2)
    outer = np.clip((away - 18) / 16, 0, 1)
    fluid = (
        0.22 * np.clip(leaf, 0, 1) ** 2 * outer * np.clip(1 + 0.5 * noise(8.0), 0, 2)
        + 0.45 * np.clip((fissure - 0.85) / 0.15, 0, 1) * outer
    )
    # White matter branches into the lobules, halfway between fissures: negative shares.
    twig = 0.75 * np.clip((-fissure - 0.75) / 0.25, 0, 1) * np.clip((40 - away) / 14, 0, 1)
    total[box] = np.where(twig > fluid, -twig, fluid)
    return total


def _falx(head: Head, space: Space) -> FloatArray:
    """Share of the falx in the fluid between the hemispheres: shallow in front, down to the splenium behind."""
    _, y, z = space.world
    deep = np.clip(14 + 26 * (30 - y) / 90, 10, 40)
    reach = 1 / (1 + np.exp(np.clip((head.inside_mm - deep) / 1.5, -30, 30)))
    above = 1 / (1 + np.exp(np.clip(-(z - 2) / 1.5, -30, 30)))
    return np.asarray(0.8 * np.exp(-((head.midline_mm / 0.75) ** 2)) * reach * above, np.float32)
