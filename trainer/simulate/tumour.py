"""The tumour: where it lies, how it pushes, what it is made of.

A glioma is modelled after what its images show, in four steps:

1. Place: a point in the white matter of a hemisphere, and around it lobes that melt into one core (`Lobes`).
2. Mass effect: the core makes room for itself. `push` moves tissue outwards from each lobe, by a distance that falls
   with the square of the distance, as it would in an incompressible medium. The skull holds still, the falx keeps most
   of it from the other side, and a ventricle nearby gives way first.
3. Core: the lobes with an irregular surface, cut off by ventricles, fluid and falx and reluctant to cross cortex.
   Within it a rim that takes up contrast agent, of uneven thickness and with gaps, around necrosis crossed by strands.
4. Oedema: water runs from the core along the cheapest way through tissue, far in white matter, hardly through cortex,
   and each tissue soaks it up in its own measure.

These are rules of shape, fitted to the look and the volumes of public collections, not a model of growth. What comes
out, `Growth`, holds shares of each voxel for the pictures and, derived from the same shares, the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, FloatArray, LabelArray
from trainer.simulate.anatomy import Anatomy, Head, Tissue
from trainer.simulate.space import BoolArray, Box, Matrix, Space, jacobian, ramp


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


# --- place ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lobes:
    """The core's lobes: centres ``(N, 3)`` in world mm and radii ``(N,)`` in mm."""

    centres: Matrix
    radii: Matrix

    @classmethod
    def draw(cls, centre: Matrix, options: TumourOptions, rng: np.random.Generator) -> Lobes:
        """Draw lobes around a centre, world mm."""
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

    @property
    def side(self) -> float:
        """1 in the right hemisphere, -1 in the left."""
        side: float = np.sign(self.centres[0][0]) or 1.0
        return side

    def level(self, world: list[FloatArray]) -> FloatArray:
        """Below 1 within the lobes; grows with the distance in units of a lobe's radius. Lobes melt together."""
        total = np.zeros(1, np.float32)
        for centre, radius in zip(self.centres, self.radii, strict=True):
            away = sum((axis - np.float32(c)) ** 2 for axis, c in zip(world, centre, strict=True))
            total = total + np.exp(-4.0 * np.sqrt(np.asarray(away, np.float32)) / np.float32(radius))
        return np.asarray(-np.log(np.maximum(total, 1e-30)) / 4.0, np.float32)


def place(anatomy: Anatomy, space: Space, bend: FloatArray, options: TumourOptions, rng: np.random.Generator) -> Lobes:
    """Choose where the tumour grows: in white matter of the hemispheres, off the midline, clear of fluid.

    Args:
        anatomy: The head.
        space: The patient's box.
        bend: Displacement of the anatomy at the knots, in mm.
        options: Size, and perhaps the place.
        rng: Source of chance.

    Raises:
        ValueError: There is no such place.
    """
    if options.centre_mm is not None:
        return Lobes.draw(np.array(options.centre_mm), options, rng)
    depth = anatomy.at_knots(space, anatomy.depth_mm, bend, outside=0.0)
    ventricle = anatomy.at_knots(space, anatomy.from_ventricle_mm, bend, outside=0.0)
    tissue = anatomy.tissue_at_knots(space, bend)
    x, _, z = space.knot_world
    white = (tissue == Tissue.WHITE) & (np.abs(x) > 12) & (z > -25) & (ventricle > 4)
    # As deep as there is room for; a large core in a small head has to make do with less.
    for wanted in (0.45, 0.3, 0.15, 0.0):
        spots = np.argwhere(white & (depth >= wanted * options.core_radius_mm))
        if len(spots):
            break
    else:
        raise ValueError("the label map has no place for a tumour")
    spot = spots[rng.integers(len(spots))] + rng.uniform(-0.4, 0.4, 3)
    centre = space.corner - space.knot_mm + spot * space.knot_mm
    return Lobes.draw(centre, options, rng)


# --- mass effect ------------------------------------------------------------------------------------------------------


def push(lobes: Lobes, amount: float, anatomy: Anatomy, space: Space, bend: FloatArray) -> FloatArray:
    """Displacement at the knots ``(3, ...)`` in mm from where tissue is to where it was, for a growing core.

    Far away it falls with the square of the distance, as in an incompressible medium; it dies out at the skull, and
    the falx holds most of it back on the other side. Fluid gives way first: a ventricle nearby is squeezed beyond what
    the push alone does. If any place would be folded, the whole is made gentler.

    Args:
        lobes: The core.
        amount: Share of each lobe's radius that is made room for, 0..0.8.
        anatomy: The head.
        space: The patient's box.
        bend: Displacement of the anatomy at the knots before the tumour came, in mm.
    """
    total = _outwards(lobes, amount, space) + _squeeze(lobes, amount, anatomy, space, bend)
    inside = anatomy.at_knots(space, anatomy.inside_mm, np.zeros_like(bend), outside=-20.0)
    skull = 1 - np.exp(-((np.clip(inside, 0, None) / 9.0) ** 2))
    beyond = np.clip(-lobes.side * space.knot_world[0], 0, None)  # mm past the midline
    total *= skull * (0.35 + 0.65 * np.exp(-((beyond / 14.0) ** 2)))
    while (smallest := float(jacobian(total, space.knot_mm).min())) < 0.05:
        total *= 0.85 if smallest > 0 else 0.6
    return total


def _outwards(lobes: Lobes, amount: float, space: Space) -> FloatArray:
    """Away from the centre of each lobe, in proportion to its volume."""
    total = np.zeros((3, *space.knot_shape), np.float32)
    share = lobes.radii**3 / np.sum(lobes.radii**3)
    for centre, radius, part in zip(lobes.centres, lobes.radii, share, strict=True):
        offset = [axis - np.float32(c) for axis, c in zip(space.knot_world, centre, strict=True)]
        distance = np.sqrt(sum(o**2 for o in offset))
        reach = 1.45 * float(np.sum(lobes.radii**3)) ** (1 / 3) * (0.6 + 0.4 * radius / lobes.radii.max())
        strength = -amount * part / (1 + (distance / reach) ** 3)
        for axis in range(3):
            total[axis] += strength * offset[axis]
    return total


def _squeeze(lobes: Lobes, amount: float, anatomy: Anatomy, space: Space, bend: FloatArray) -> FloatArray:
    """Onto the ventricle from its wall outwards, in the tumour's neighbourhood."""
    from_ventricle = anatomy.at_knots(space, anatomy.from_ventricle_mm, bend, outside=99.0)
    wall = ndimage.gaussian_filter(np.minimum(from_ventricle, 20.0), 0.8)
    slope = np.stack(np.gradient(wall, space.knot_mm)).astype(np.float32)
    size = float(np.sum(lobes.radii**3)) ** (1 / 3)
    apart = np.sqrt(
        sum((axis - np.float32(c)) ** 2 for axis, c in zip(space.knot_world, lobes.centres[0], strict=True))
    )
    near = np.exp(-((np.clip(apart - size, 0, None) / 25.0) ** 2))
    strength = near * np.exp(-from_ventricle / 12.0) * np.float32(min(10 * amount, 0.35 * size))
    return np.asarray(slope * strength, np.float32)


# --- growth -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Growth:
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
    oedema: FloatArray
    core: FloatArray
    enhancing: FloatArray
    necrosis: FloatArray
    truth: LabelArray
    tissue: LabelArray


def grow(head: Head, space: Space, lobes: Lobes, options: TumourOptions, rng: np.random.Generator) -> Growth:
    """Let core and oedema fill the room they have in a head that has been pushed already.

    Args:
        head: The patient's head.
        space: Its box.
        lobes: The core's place.
        options: What it is made of.
        rng: Source of chance.

    Raises:
        ValueError: The place given is not in tissue.
    """
    box = _box(lobes, options, space)
    own_side_mm = np.asarray(lobes.side * head.midline_mm[box], np.float32)
    local = _Surroundings(head.tissue[box], head.brain[box], own_side_mm, space)
    depth_mm = _depth(lobes, options, space, box, rng)
    barred = local.barred(depth_mm, options)
    core = _core(depth_mm, local, barred, options)
    solid = core > 0.5
    enhancing, necrosis = _within_core(solid, space, options, rng)
    oedema = _oedema(local, barred, solid, options, rng)
    wet = (oedema > 0.4) & ~solid
    wet = _without_specks(wet | solid, 40 / space.spacing**3) & ~solid

    truth = np.zeros(space.shape, np.uint8)
    truth[box][wet] = REST_OF_WHOLE_TUMOUR
    truth[box][solid] = TUMOUR_CORE
    tissue = np.where(head.brain, head.tissue, np.uint8(0))
    inner = np.where(enhancing > 0.35, Tissue.ENHANCING, Tissue.NON_ENHANCING)
    inner = np.where(necrosis > 0.5, Tissue.NECROSIS, inner)
    tissue[box][wet] = Tissue.OEDEMA
    tissue[box][solid] = inner[solid]
    return Growth(box, oedema, core, enhancing, necrosis, truth, tissue)


class _Permeability(NamedTuple):
    """What a millimetre of a tissue costs oedema, and how much water the tissue takes up once reached."""

    hindrance: float
    uptake: float


# Fluid and dura, which are not listed, stop it.
_PERMEABILITY = {
    Tissue.WHITE: _Permeability(1.0, 1.0),
    Tissue.WHITE_LESION: _Permeability(1.0, 1.0),
    Tissue.THALAMUS: _Permeability(3.0, 0.6),
    Tissue.CAUDATE: _Permeability(4.0, 0.35),
    Tissue.PUTAMEN: _Permeability(4.0, 0.35),
    Tissue.PALLIDUM: _Permeability(3.0, 0.5),
    Tissue.HIPPOCAMPUS: _Permeability(5.0, 0.4),
    Tissue.BRAINSTEM: _Permeability(2.0, 0.7),
    Tissue.CEREBELLAR_WHITE: _Permeability(1.5, 0.9),
    Tissue.CEREBELLAR_CORTEX: _Permeability(6.0, 0.2),
    Tissue.CORTEX: _Permeability(6.0, 0.22),
}
_CHEAPEST = 0.7  # no way is cheaper, so the box around the tumour is large enough


def _box(lobes: Lobes, options: TumourOptions, space: Space) -> Box:
    """As far as core and oedema can reach."""
    s = space.spacing
    margin = options.oedema_reach_mm / _CHEAPEST + 8
    low, high = lobes.centres - lobes.radii[:, None], lobes.centres + lobes.radii[:, None]
    bounds = []
    for axis in range(3):
        first = int((low[:, axis].min() - margin - space.corner[axis]) / s)
        last = int((high[:, axis].max() + margin - space.corner[axis]) / s) + 1
        first = min(max(first, 0), space.shape[axis] - 8)
        bounds.append(slice(first, max(min(last, space.shape[axis]), first + 8)))
    return bounds[0], bounds[1], bounds[2]


class _Surroundings(NamedTuple):
    """What the tumour finds in its box.

    Attributes:
        tissue: `Tissue` of each voxel.
        brain: The stripped brain.
        own_side_mm: Distance from the midline, negative in the other hemisphere.
        space: The patient's box, for spacing and noise.
    """

    tissue: LabelArray
    brain: BoolArray
    own_side_mm: FloatArray
    space: Space

    def barred(self, depth_mm: FloatArray, options: TumourOptions) -> BoolArray:
        """Where no tumour grows."""
        tissue = self.tissue
        closed = (Tissue.VENTRICLE, Tissue.OUTSIDE, Tissue.VENOUS, Tissue.CHOROID_PLEXUS)
        barred = np.isin(tissue, closed) | ~self.brain
        # Fluid of sulci is barred too, but a pocket that a growing core has closed in is not.
        fluid = tissue == Tissue.CSF
        closed_in = fluid & (depth_mm > 0.18 * options.core_radius_mm)
        barred |= fluid & ~closed_in
        # The falx: what is beyond the midline belongs to the other side, except where white matter bridges it.
        barred |= (-self.own_side_mm > 1.0) & (tissue != Tissue.WHITE)
        return np.asarray(barred)


def _depth(lobes: Lobes, options: TumourOptions, space: Space, box: Box, rng: np.random.Generator) -> FloatArray:
    """About the distance in mm below the surface that the core would have if nothing were in its way."""
    radius = options.core_radius_mm
    level = lobes.level(space.world_in(box))
    level += options.irregularity * (
        space.noise(0.55 * radius, rng, level.shape) * 0.6
        + space.noise(0.28 * radius, rng, level.shape) * 0.35
        + space.noise(3.5, rng, level.shape) * 0.2
    )
    return np.asarray((1 - level) * radius, np.float32)


def _core(depth_mm: FloatArray, local: _Surroundings, barred: BoolArray, options: TumourOptions) -> FloatArray:
    """Share of the core in each voxel, in one piece."""
    s = local.space.spacing
    clear = np.asarray(ndimage.gaussian_filter((~barred).astype(np.float32), 0.6 / s), np.float32) * ~barred
    # The core would rather stop at cortex than cross it.
    reluctant = np.where(local.tissue == Tissue.CORTEX, np.float32(0.12 * options.core_radius_mm), np.float32(0))
    reluctant = ndimage.gaussian_filter(reluctant, 0.8 / s)
    core = ramp(-(depth_mm - reluctant), 0.0, 1.3) * np.minimum(clear * 1.25, 1)
    pieces, count = ndimage.label(core > 0.5)
    if not count:
        raise ValueError("the label map has no place for a tumour there")
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        core *= ndimage.binary_dilation(pieces == sizes.argmax(), iterations=2)
    return np.asarray(core, np.float32)


def _within_core(
    solid: BoolArray, space: Space, options: TumourOptions, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Shares of the core that take up contrast agent and that are necrotic; see `Growth`."""
    s, radius = space.spacing, options.core_radius_mm

    def noise(scale_mm: float) -> FloatArray:
        return space.noise(scale_mm, rng, solid.shape)

    # How deep below the *actual* surface, for the rim to follow it where fluid or cortex cut the core.
    below = np.asarray(ndimage.distance_transform_edt(solid, sampling=s), np.float32)
    below = np.asarray(ndimage.gaussian_filter(below, 0.7 / s), np.float32) - 0.5
    thickness = options.rim_mm * np.exp(0.45 * noise(0.5 * radius) + 0.3 * noise(4.0))
    thickness = np.asarray(thickness + (1 - options.necrosis) * radius + 0.5 * noise(2.2), np.float32)
    patchy = 0.7 * noise(0.55 * radius) + 0.5 * noise(5.0)
    present = np.zeros(solid.shape, np.float32)
    if options.enhancement > 0:
        # Patches above this threshold are gaps; the sum of the two noises has a standard deviation of 0.86.
        present = ramp(patchy, 0.86 * float(np.clip(special.ndtri(options.enhancement), -3, 3)), 0.6)
    necrosis = np.zeros(solid.shape, np.float32)
    if options.necrosis > 0:
        necrosis = ramp(np.asarray(thickness - below, np.float32), 0.0, 1.6)
    # Strands of living tumour cross the necrosis.
    strand = np.abs(noise(9.0)) + 0.05 * np.clip(below - thickness, 0, None)
    necrosis *= 1 - 0.6 * ramp(np.asarray(strand, np.float32), 0.12, 0.3)
    uneven = np.exp(0.4 * noise(3.0) + 0.4 * noise(8.0) - 0.15)
    enhancing = (1 - necrosis) * present * uneven * (0.55 + 0.45 * ramp(below, 0.7 * options.rim_mm, 3.0))
    return enhancing.astype(np.float32), necrosis


def _without_specks(mask: BoolArray, smallest: float) -> BoolArray:
    """The largest piece, and the others of at least ``smallest`` voxels."""
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    keep = sizes >= smallest
    keep[0] = False
    keep[sizes[1:].argmax() + 1 if len(sizes) > 1 else 0] = len(sizes) > 1
    return np.asarray(keep[pieces])


# --- oedema -----------------------------------------------------------------------------------------------------------


def _oedema(
    local: _Surroundings, barred: BoolArray, core: BoolArray, options: TumourOptions, rng: np.random.Generator
) -> FloatArray:
    """Share of oedema in each voxel: what water reaches from the core within its reach, along white matter first."""
    space, tissue = local.space, local.tissue
    s = space.spacing
    shape = (tissue.shape[0], tissue.shape[1], tissue.shape[2])
    if options.oedema_reach_mm < 1:
        return np.zeros(shape, np.float32)
    every = max(1, round(2.0 / s))
    hindrance = np.full(256, np.inf, np.float32)
    sponge = np.zeros(256, np.float32)
    for kind, permeability in _PERMEABILITY.items():
        hindrance[kind] = permeability.hindrance
        sponge[kind] = permeability.uptake
    # Little oedema crosses the corpus callosum.
    crossing = np.where(-local.own_side_mm > -4.0, np.float32(3.0), np.float32(1.0))
    cost = np.where(barred, np.float32(np.inf), hindrance[tissue]) * crossing
    uneven = np.exp(0.8 * space.noise(11.0, rng, shape) + 0.5 * space.noise(4.0, rng, shape))
    cost = cost * np.clip(uneven, _CHEAPEST, 5.0)
    # The cheapest voxel of each 2 mm block: thin bridges of white matter must stay open.
    small = _block_minimum(cost.astype(np.float32), every)
    start = _block_minimum(np.where(core, np.float32(0), np.float32(np.inf)), every)
    arrival = _arrival(small, start, every * s, options.oedema_reach_mm * 1.5)
    arrival = np.minimum(arrival, np.float32(options.oedema_reach_mm * 1.5))
    smooth = _stretch(arrival, every, shape)
    reached = ramp(smooth, options.oedema_reach_mm, 0.16 * options.oedema_reach_mm + 1.5)
    soaked = ndimage.gaussian_filter(sponge[tissue], 0.6 / s)
    grade = 0.62 + 0.38 * np.exp(-smooth / (0.45 * options.oedema_reach_mm)) + 0.07 * space.noise(7.0, rng, shape)
    return np.asarray(np.clip(reached * soaked * grade, 0, 1), np.float32) * ~barred


def _block_minimum(values: FloatArray, every: int) -> FloatArray:
    if every == 1:
        return values
    pad = [(0, -n % every) for n in values.shape]
    padded = np.pad(values, pad, constant_values=np.inf)
    i, j, k = (n // every for n in padded.shape)
    return np.asarray(padded.reshape(i, every, j, every, k, every).min(axis=(1, 3, 5)), np.float32)


def _stretch(values: FloatArray, every: int, shape: tuple[int, int, int]) -> FloatArray:
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


def _arrival(cost: FloatArray, start: FloatArray, step_mm: float, until: float) -> FloatArray:
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
