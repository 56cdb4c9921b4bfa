"""Bringing the sequences of one patient together by rigid motions, without touching a voxel.

A scan that lies elsewhere than the others is moved by multiplying its affine with a rigid matrix (`moved`), so nothing
is interpolated and the way back onto the file's own grid is exact. What the models need, one grid for all sequences, is
made once, afterwards (`working_grid`, `onto`).

How well two scans match is their normalised mutual information (Studholme et al., Pattern Recognit 1999;32:71) at some
ten thousand points of the head. The points lie between the voxels of both scans, at places drawn once with a fixed
seed: on the voxels a scan would match best where nothing has to be interpolated, whether it lies right or not (Pluim et
al., Comput Vis Image Underst 2000;77:211), and a comparison of two positions would be one of two sets of points. The
gradient is exact for the interpolated scans, so that a quasi-Newton method climbs in some twenty steps what takes a
gradient descent hundreds; coarse scans first (after Viola and Wells, Int J Comput Vis 1997;24:137).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from engine import sequences
from engine.brain import is_stripped
from engine.preprocessing import background
from engine.progress import Progress
from engine.volume import Affine, FloatArray, Grid, Mask, Sequence, Volume

Points = NDArray[np.float64]
Three = tuple[float, float, float]

GOOD, FAIR = 0.6, 0.4
"""From where on a `quality` is called good, and fair."""

# Points of the head that are compared to begin with, at 4 mm and at 2 mm; 1 mm finds nothing that 2 mm does not.
_POINTS_TO_BEGIN = 4_000
_POINTS_ROUGH = 8_000
_POINTS_FINE = 20_000
_BINS = 32
_SEED = 0
# A turn is counted as the way a point so far from the middle goes, so that all six numbers of a motion are mm.
_ARM_MM = 60.0
# How far each of the six may go from where a search begins.
_REACH_MM = 30.0
# How far around the head or the brain its edge is looked at.
_RIM_MM = 6.0
# A motion that leaves less than this share of the points inside the moving scan is a match of less and less, and its
# figure shrinks with it.
_INSIDE = 0.6
# Turns that are tried where a search begins, about each axis.
_FIRST_TURNS_DEG = (-12.0, 0.0, 12.0)
_WAYS_IMPROVED = 4
_CLEARLY = 1.2
# Motions below this are those of a registration that is repeated; they are not worth a claim that something moved.
_ALREADY_MM = 0.7
_NONE = (0.0, 0.0, 0.0)
# Of cohort patients the least of twelve such nudges costs 0.10 of the match or more where they lie right, 0.04 to 0.17
# where they are 1 mm and 1 degree off, and at most 0.04 where they are 2 mm off or two different patients.
_NUDGE_MM, _NUDGE_DEG = 3.0, 4.0
_USUAL_LOSS = 0.10
# A nudge that costs less than this of the match is a reason to register: 2 mm off it costs 0.04 or less or gains.
_STILL_FITS = 0.97

_PREFERRED = (Sequence.T1CE, Sequence.T1, Sequence.FLAIR, Sequence.T2)
_AS_THIN = 1.25
_WHOLE_HEAD_MM = 110.0
_HEAD_MM = 210.0
_MARGIN_MM = 4.0


@dataclass(frozen=True, eq=False)
class Alignment:
    """How a scan has to be moved to lie on another.

    Attributes:
        matrix: ``(4, 4)`` float64, rigid: world of the moving scan in mm -> world of the reference.
        already: Whether it lay right as it was; then ``matrix`` is the identity.
        moved_mm: How far the middle of the moving head moves.
        turned_deg: By how much it turns.
        quality: 0..1, see `quality`.
        quality_words: The same in words.
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

    Where the scans lie by their headers, on each other's centres of mass and on each other's tops of the head, turned
    a little each way, is compared; the best of each is improved at 4 mm, and the best of those at 2 mm. Where none of
    them fits, every way up is tried. What does not fit better than no motion at all is not moved. The same scans give
    the same matrix, whatever the number of threads.

    Args:
        moving: Any sequence, with or without its skull.
        reference: Another one.
        progress: Told of every stage; cancelling it stops within a second.
        start: ``(4, 4)``; the only place to begin looking, e.g. what the user did by hand.

    Raises:
        Cancelled: ``progress`` was cancelled.
    """
    began = time.perf_counter()
    name = moving.sequence.title if moving.sequence else moving.name
    progress.update(0.0, f"looking at {name}")
    still, other = _Scan(reference), _Scan(moving)
    # Points lie where both scans have something to compare: in the brain, where one of them is stripped.
    turned_round = other.stripped and not still.stripped
    if turned_round:
        still, other = other, still
    begin = None if start is None else (_inverse(start) if turned_round else np.asarray(start, np.float64))
    middle = still.middle

    rough = _Match(still, other, 4.0, _POINTS_ROUGH, progress)
    found = _searched(still, other, rough, progress, name) if begin is None else _climb(rough, begin, middle, _REACH_MM)
    progress.update(0.6, f"aligning {name}, fine")
    fine = _Match(still, other, 2.0, _POINTS_FINE, progress)
    found = _climb(fine, found, middle, _REACH_MM)
    unmoved = np.eye(4)
    found = max((unmoved, *([] if begin is None else [begin]), found), key=fine)
    already = float(np.linalg.norm(_moved(still.places, found) - still.places, axis=1).mean()) < _ALREADY_MM
    if already:
        found = unmoved
    fit = _distinctness(fine, found, middle)
    progress.update(1.0, f"{name} is aligned")

    matrix = _inverse(found) if turned_round else found
    centre = (still if turned_round else other).middle
    return Alignment(
        matrix=matrix,
        already=already,
        moved_mm=float(np.linalg.norm(_moved(centre[None], matrix)[0] - centre)),
        turned_deg=_turned_deg(matrix),
        quality=fit,
        quality_words=quality_words(fit),
        seconds=time.perf_counter() - began,
    )


def quality(moving: Volume, reference: Volume) -> float:
    """How well two scans lie on each other: 1 as well as can be told, 0 not at all.

    Two scans that lie right match worse after any motion, by about the same whatever the sequences; scans that do not,
    or that show different heads, match as well elsewhere.

    Args:
        moving: As it lies now; for one that was moved, what `moved` gives.
        reference: Another one.
    """
    still, other = _Scan(reference), _Scan(moving)
    if other.stripped and not still.stripped:
        still, other = other, still
    return _distinctness(_Match(still, other, 2.0, _POINTS_FINE, Progress()), np.eye(4), still.middle)


def quality_words(value: float) -> str:
    """`quality` in words, for a sentence."""
    if value >= GOOD:
        return "good"
    if value >= FAIR:
        return "fair: have a look"
    return "poor: do not trust it without a look"


def already_aligned(volumes: Iterable[Volume], progress: Progress = Progress()) -> bool:
    """Whether scans share a grid and every small motion of one makes it fit the first worse.

    Args:
        volumes: Of one patient.
        progress: Checked while it looks.
    """
    first, *others = volumes
    if not all(first.grid.same_as(other.grid) for other in others):
        return False
    still = _Scan(first) if others else None
    for volume in others:
        progress.check()
        assert still is not None
        pair = still, _Scan(volume)
        match = _Match(
            *(pair[::-1] if pair[1].stripped and not pair[0].stripped else pair), 2.0, _POINTS_FINE, progress
        )
        here = match(np.eye(4))
        if any(match(there) > _STILL_FITS * here for there in _nudges(np.eye(4), still.middle)):
            return False
    return True


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
        turn_deg: About the axes that point there, in this order; from front to head, from head to right and from right
            to front is positive.
        about: The point in the reference's world, in mm, that turning leaves where it is.

    Returns:
        ``(4, 4)`` float64, rigid for as long as ``matrix`` is.
    """
    further: Affine = _motion(shift_mm, turn_deg, about) @ matrix
    return further


def reference_of(volumes: Mapping[Sequence, Volume]) -> Sequence:
    """The sequence the others are best moved onto.

    The one with the thinnest slices among those that show the whole head; where several are about as thin, T1ce before
    T1, FLAIR and T2, as its anatomy and the tumour's edge are sharpest.

    Args:
        volumes: At least one.

    Raises:
        ValueError: There is none.
    """
    if not volumes:
        raise ValueError("there is nothing to choose from")
    grids = {sequence: volume.grid for sequence, volume in volumes.items()}
    whole = {s: g for s, g in grids.items() if min(np.multiply(g.shape, g.spacing)) >= _WHOLE_HEAD_MM} or grids
    thinnest = min(max(grid.spacing) for grid in whole.values())
    return next(s for s in _PREFERRED if s in whole and max(whole[s].spacing) <= _AS_THIN * thinnest)


def working_grid(volumes: Mapping[Sequence, Volume], reference: Sequence) -> Grid:
    """One grid for all sequences: along the reference's axes, about 1 mm, cut to the head.

    Voxels of the reference between 0.8 and 1.2 mm are kept where they are, so that it is cut and not interpolated;
    thicker slices are divided into a whole number of voxels of about 1 mm, so that each lies on one of them. A neck is
    cut off 210 mm below the top of the head.

    Args:
        volumes: Where they lie after alignment.
        reference: One of them.
    """
    grid = volumes[reference].grid
    u, _, v = np.linalg.svd(grid.affine[:3, :3] / np.array(grid.spacing))
    step = np.array([_fine_step(side) for side in grid.spacing])
    lattice = np.eye(4)
    lattice[:3, :3] = (u @ v) * step
    lattice[:3, 3] = grid.affine[:3, 3]
    axes = Grid((1, 1, 1), lattice)
    found = []
    for volume in volumes.values():
        scan = _Scan(volume)
        places = np.argwhere(scan.signal)[::3]
        found.append(np.stack([end(axes.to_voxel(scan.grid.to_world(places)), axis=0) for end in (np.min, np.max)]))
    margin = _MARGIN_MM / step
    low = np.floor(np.min([ends[0] for ends in found], axis=0) - margin)
    high = np.ceil(np.max([ends[1] for ends in found], axis=0) + margin)
    if all(volume.oriented for volume in volumes.values()):
        world, signs = axes.nearest_axes()
        along = world.index(2)
        longest = round(_HEAD_MM / step[along])
        if signs[along] > 0:
            low[along] = max(low[along], high[along] - longest)
        else:
            high[along] = min(high[along], low[along] + longest)
    affine = lattice.copy()
    affine[:3, 3] = axes.to_world(low[None])[0]
    i, j, k = (int(n) for n in high - low + 1)
    return Grid((i, j, k), affine)


def onto(volume: Volume, grid: Grid) -> Volume:
    """A scan sampled at the voxels of another grid.

    Linear between slices, and an average where the grid is coarser than the scan; where its voxels are the grid's, the
    very same values. A stripped brain keeps its edge: what lies beyond it is not mixed in. Where the scan has no
    voxels, its own background.

    Args:
        volume: Anywhere.
        grid: E.g. the `working_grid`.
    """
    air = np.float32(background(volume.data))
    first = volume.grid.to_voxel(grid.affine[None, :3, 3])[0]
    start = np.rint(first).astype(int)
    same_axes = np.allclose(volume.grid.affine[:3, :3], grid.affine[:3, :3], atol=1e-5)
    if same_axes and np.abs(first - start).max() < 1e-3:
        data = np.full(grid.shape, air, np.float32)
        ends = zip(start, grid.shape, volume.grid.shape, strict=True)
        there = tuple(slice(max(0, -at), max(0, min(wide, count - at))) for at, wide, count in ends)
        here = tuple(slice(side.start + at, side.stop + at) for side, at in zip(there, start, strict=True))
        data[there] = volume.data[here]
        return replace(volume, data=data, grid=grid)
    sampled = sequences.resample(replace(volume, data=volume.data - air), grid)
    if is_stripped(volume):
        brain = replace(volume, data=(volume.data != air).astype(np.float32))
        share = sequences.resample(brain, grid).data
        inside = share > 0.5
        return replace(sampled, data=np.where(inside, sampled.data / np.where(inside, share, 1), 0) + air)
    return replace(sampled, data=sampled.data + air)


def _searched(still: _Scan, other: _Scan, match: _Match, progress: Progress, name: str) -> Affine:
    """The best rough motion: from the headers and from both centres, or from every way up where none of those fits."""
    few = _Match(still, other, 4.0, _POINTS_TO_BEGIN, progress)
    middle = still.middle
    centres = [_shifted(still.middle - other.middle), _shifted(still.top - other.top)]
    found = []
    for number, base in enumerate((np.eye(4), *centres)):
        progress.update(0.1 + 0.1 * number, f"aligning {name}, roughly")
        turned = (_motion(_NONE, np.array(turn), middle) @ base for turn in product(_FIRST_TURNS_DEG, repeat=3))
        found.append(_climb(match, max(turned, key=few), middle, _REACH_MM))
    best = max(found, key=match)
    if _distinctness(match, best, middle, times=2) >= FAIR:
        return best
    ways_up = [_turned_about(turn, middle) @ base for turn in _ways_up() for base in centres]
    for number, base in enumerate(sorted(ways_up, key=few)[-_WAYS_IMPROVED:]):
        progress.update(0.4 + 0.2 * number / _WAYS_IMPROVED, f"aligning {name}, any way up")
        found.append(_climb(match, base, middle, _REACH_MM))
    # A head turned by a quarter or more is believed only where it fits clearly better.
    other_way = max(found[3:], key=match)
    return other_way if match(other_way) > _CLEARLY * match(best) else best


def _nudges(matrix: Affine, about: Points, times: float = 1.0) -> Iterator[Affine]:
    """What lies a little beside a motion: ``times`` 3 mm along and 4 degrees about each axis, both ways."""
    for axis, sign in product(range(3), (1, -1)):
        one = sign * times * np.eye(3)[axis]
        yield _motion(_NUDGE_MM * one, _NONE, about) @ matrix
        yield _motion(_NONE, _NUDGE_DEG * one, about) @ matrix


def _distinctness(match: _Match, matrix: Affine, about: Points, times: float = 1.0) -> float:
    """0..1: by how much of the match every nudge makes it worse, the least of them; see `quality`."""
    here = match(matrix)
    if here <= 0:
        return 0.0
    nearly = max(match(there) for there in _nudges(matrix, about, times)) / here
    return float(np.clip((1 - nearly) / _USUAL_LOSS, 0, 1))


class _Scan:
    """A volume as it is compared: coarser, intensities from 0 to 1, with the places that hold signal."""

    def __init__(self, volume: Volume) -> None:
        self.stripped = is_stripped(volume)
        self._raw = volume
        data, self.grid = coarser(volume.data, volume.grid, 2.0)
        air = background(volume.data)
        if self.stripped:
            signal: Mask = data != air
        else:
            from scipy import ndimage

            low, high = np.percentile(data[::2, ::2, ::2], (2, 98))
            smooth = ndimage.gaussian_filter(data, [2.0 / side for side in self.grid.spacing])
            signal = smooth > low + 0.12 * (high - low)
        self.signal = signal if signal.any() else np.ones_like(signal)
        inside = data[self.signal]
        low, high = np.percentile(inside, (0.5, 99.0))
        self._range = min(float(low), air) if self.stripped else float(low), float(high)
        self._levels: dict[float, tuple[FloatArray, Grid]] = {2.0: (self._scaled(data), self.grid)}

    def at(self, mm: float) -> tuple[FloatArray, Grid]:
        """``(i, j, k)`` float32 of 0..1 with voxels of about ``mm`` (larger where the scan's own are), and its grid."""
        if mm not in self._levels:
            if mm > 2:
                from scipy import ndimage

                data, grid = coarser(*self._levels[2.0], mm)
                data = ndimage.gaussian_filter(data, [0.7 * mm / side for side in grid.spacing])
                self._levels[mm] = data, grid
            else:
                data, grid = coarser(self._raw.data, self._raw.grid, mm)
                self._levels[mm] = self._scaled(data), grid
        return self._levels[mm]

    def _scaled(self, data: FloatArray) -> FloatArray:
        low, high = self._range
        scaled: FloatArray = np.clip((data - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
        return scaled

    @cached_property
    def places(self) -> Points:
        """``(N, 3)`` world positions in mm of voxels with signal, some thousands."""
        found = np.argwhere(self.signal)
        return self.grid.to_world(found[:: max(1, len(found) // 5_000)])

    @cached_property
    def middle(self) -> Points:
        """The centre of mass of what holds signal, in mm."""
        middle: Points = self.places.mean(axis=0)
        return middle

    @cached_property
    def top(self) -> Points:
        """The middle of the topmost 60 mm of signal: another centre, that a neck does not pull down."""
        height = self.places[:, 2]
        middle: Points = self.places[height > np.percentile(height, 99) - 60].mean(axis=0)
        return middle


class _Match:
    """How well a moving scan matches points of a reference, by normalised mutual information.

    Args:
        reference: Where the points lie.
        moving: What is moved under them.
        mm: Spacing of both.
        count: Number of points.
        progress: Checked whenever the match is worked out.
    """

    def __init__(self, reference: _Scan, moving: _Scan, mm: float, count: int, progress: Progress) -> None:
        self._progress = progress
        region = reference.signal
        if reference.stripped == moving.stripped:
            region = _grown(region, reference.grid, _RIM_MM)
        chance = np.random.default_rng(_SEED)
        voxels = np.argwhere(region)
        voxels = voxels[chance.integers(len(voxels), size=count)]
        self.points = reference.grid.to_world(voxels + chance.uniform(-0.5, 0.5, (count, 3)))
        data, grid = reference.at(mm)
        values, _ = _read(data, grid.to_voxel(self.points), slopes=False)
        self._rows = np.minimum((values * _BINS).astype(np.intp), _BINS - 1) * _BINS
        self._data, self._grid = moving.at(mm)
        whole = np.count_nonzero(region) * reference.grid.voxel_ml
        self._enough = _INSIDE * min(1.0, float(np.prod(self._grid.shape)) * self._grid.voxel_ml / whole)

    def __call__(self, matrix: Affine) -> float:
        """The match where the moving scan is moved by ``matrix`` ``(4, 4)``: 0 none, 1 each tells all of the other."""
        return self._measure(self.points, matrix, slopes=False)[0]

    def slope(self, step: Points, matrix: Affine, about: Points) -> tuple[float, Points]:
        """The match after a small motion of the points, and how it changes with that.

        Args:
            step: ``(6,)`` shift in mm, then turns about x, y and z in mm at the end of an arm of 60 mm.
            matrix: Where the moving scan lies before.
            about: The point that turning leaves where it is.

        Returns:
            The match and its gradient ``(6,)`` in 1/mm.
        """
        turns = step[3:] / _ARM_MM
        arms = self.points - about
        turned = arms @ _rotation(np.degrees(turns)).T
        value, where, slopes = self._measure(turned + about + step[:3], matrix, slopes=True)
        gradient = np.zeros(6)
        gradient[:3] = slopes.sum(axis=0)
        for axis in range(3):
            gradient[3 + axis] = np.sum(slopes * (arms[where] @ _rotation_slope(turns, axis).T)) / _ARM_MM
        return value, gradient

    def _measure(self, points: Points, matrix: Affine, slopes: bool) -> tuple[float, NDArray[np.intp], Points]:
        """The match with the moving scan read at ``points``; which of them lie in it, and its slope at each of those.

        A point counts in the two bins next to its value, which makes the match smooth in the motion: with ``h`` the
        joint histogram and ``w`` the weight of the upper bin, ``dw / dvalue`` is the number of bins.
        """
        self._progress.check()
        voxels = Grid(self._grid.shape, matrix @ self._grid.affine).to_voxel(points)
        size = np.array(self._grid.shape)
        where = np.flatnonzero(np.all((voxels > -0.5) & (voxels < size - 0.5), axis=1))
        nothing = np.zeros((len(where), 3))
        if len(where) < 0.05 * len(points):
            return 0.0, where, nothing
        values, along = _read(self._data, voxels[where], slopes)
        scaled = values * (_BINS - 1)
        lower = np.minimum(scaled.astype(np.intp), _BINS - 2)
        upper_weight = scaled - lower
        cells = self._rows[where] + lower
        counted = np.bincount(cells, 1 - upper_weight, _BINS * _BINS)
        counted += np.bincount(cells + 1, upper_weight, _BINS * _BINS)
        joint: Points = counted.reshape(_BINS, _BINS) / len(where)
        of_moving, of_still = joint.sum(axis=0), joint.sum(axis=1)
        log_joint, log_moving = _log(joint), _log(of_moving)
        of_both = -float(np.sum(joint * log_joint))
        of_each = -float(np.sum(of_moving * log_moving)) - float(np.sum(of_still * _log(of_still)))
        if of_both <= 0:
            return 0.0, where, nothing
        counts = min(1.0, len(where) / len(points) / self._enough)
        value = counts * (of_each / of_both - 1)
        if not slopes:
            return value, where, nothing
        steepness = np.diff(log_joint, axis=1) * (of_each / of_both**2) - np.diff(log_moving) / of_both
        by_value = steepness[self._rows[where] // _BINS, lower] * (counts * (_BINS - 1) / len(where))
        inverse = np.linalg.inv((matrix @ self._grid.affine)[:3, :3])
        return value, where, (by_value[:, None] * along) @ inverse


def _climb(match: _Match, matrix: Affine, about: Points, reach_mm: float) -> Affine:
    """The motion near ``matrix`` that matches best, by a quasi-Newton method within ``reach_mm`` along each number."""
    from scipy import optimize  # 0.2 s

    def against(step: Points) -> tuple[float, Points]:
        value, gradient = match.slope(step, matrix, about)
        return -100 * value, -100 * gradient

    found = optimize.minimize(
        against,
        np.zeros(6),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-reach_mm, reach_mm)] * 6,
        options={"maxiter": 40, "maxfun": 60, "ftol": 1e-6, "gtol": 1e-4},
    )
    step: Points = found.x
    better: Affine = _inverse(_motion(step[:3], np.degrees(step[3:] / _ARM_MM), about)) @ matrix
    return better


def _motion(shift_mm: Points | Three, turn_deg: Points | Three, about: Points | Three) -> Affine:
    """``(4, 4)``: turned about a point, then shifted."""
    step = np.eye(4)
    step[:3, :3] = _rotation(turn_deg)
    centre = np.asarray(about, np.float64)
    step[:3, 3] = centre - step[:3, :3] @ centre + np.asarray(shift_mm, np.float64)
    return step


def _rotation(degrees: Points | Three) -> Affine:
    """A ``(3, 3)`` rotation about x, then y, then z."""
    x, y, z = (_about(axis, angle) for axis, angle in enumerate(np.radians(degrees)))
    turned: Affine = z @ y @ x
    return turned


def _rotation_slope(radians: Points, axis: int) -> Affine:
    """How `_rotation` ``(3, 3)`` changes with the angle about one axis."""
    parts = [_about(each, angle) for each, angle in enumerate(radians)]
    quarter = _about(axis, radians[axis] + np.pi / 2)
    quarter[axis, axis] = 0  # the slope of cos and sin; the axis itself stays
    parts[axis] = quarter
    slope: Affine = parts[2] @ parts[1] @ parts[0]
    return slope


def _about(axis: int, radians: float) -> Affine:
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turned = np.eye(3)
    turned[a, a] = turned[b, b] = np.cos(radians)
    turned[a, b], turned[b, a] = -np.sin(radians), np.sin(radians)
    return turned


def coarser(data: FloatArray, grid: Grid, mm: float) -> tuple[FloatArray, Grid]:
    """Means of blocks of voxels, as many along each axis as bring the spacing nearest to ``mm``."""
    steps = [max(1, min(round(mm / side), count)) for side, count in zip(grid.spacing, grid.shape, strict=True)]
    for axis, step in enumerate(steps):
        if step > 1:
            whole = data.shape[axis] // step * step
            parts = []
            for first in range(step):
                taken = [slice(None)] * 3
                taken[axis] = slice(first, whole, step)
                parts.append(data[tuple(taken)])
            total = parts[0].astype(np.float32)
            for part in parts[1:]:
                total += part
            data = total / np.float32(step)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world((np.array([steps]) - 1) / 2)[0]
    affine[:3, :3] *= steps
    return np.ascontiguousarray(data, np.float32), Grid(data.shape, affine)


def _grown(mask: Mask, grid: Grid, mm: float) -> Mask:
    from scipy import ndimage

    size = [1 + 2 * round(mm / side) for side in grid.spacing]
    grown: Mask = ndimage.maximum_filter(mask, size)
    return grown


def _log(shares: Points) -> Points:
    # Empty cells weigh nothing in an entropy; in its slope they are as rare as can be.
    logarithms: Points = np.log(np.maximum(shares, 1e-9))
    return logarithms


def _read(data: FloatArray, voxels: Points, slopes: bool) -> tuple[Points, Points]:
    """Trilinear values ``(N,)`` at ``voxels`` ``(N, 3)``, and their slopes ``(N, 3)`` a voxel where asked for."""
    last = np.array(data.shape) - 1
    inside = np.clip(voxels, 0, last)
    low = np.minimum(inside.astype(np.intp), np.maximum(last - 1, 0))
    part = inside - low
    strides = np.array([data.shape[1] * data.shape[2], data.shape[2], 1])
    flat, base = data.reshape(-1), low @ strides
    up = np.where(last > 0, strides, 0)
    i, j, k = part.T
    corners = [flat[base + (a * up[0] + b * up[1] + c * up[2])] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    # Along k, then j, then i; each pair of neighbours gives a value and a slope.
    edges = [low_end + k * (high_end - low_end) for low_end, high_end in zip(corners[::2], corners[1::2], strict=True)]
    faces = [edges[0] + j * (edges[1] - edges[0]), edges[2] + j * (edges[3] - edges[2])]
    values = faces[0] + i * (faces[1] - faces[0])
    if not slopes:
        return values, np.zeros((0, 3))
    rises = [high_end - low_end for low_end, high_end in zip(corners[::2], corners[1::2], strict=True)]
    along_k = (1 - i) * (rises[0] + j * (rises[1] - rises[0])) + i * (rises[2] + j * (rises[3] - rises[2]))
    along_j = (1 - i) * (edges[1] - edges[0]) + i * (edges[3] - edges[2])
    return values, np.stack([faces[1] - faces[0], along_j, along_k], axis=1)


def _ways_up() -> Iterator[Affine]:
    """The 24 rotations ``(3, 3)`` of a cube: every way a header can have exchanged axes."""
    for axes in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), axes] = signs
            if np.linalg.det(turn) > 0:
                yield turn


def _turned_about(turn: Affine, about: Points) -> Affine:
    step: Affine = np.eye(4)
    step[:3, :3] = turn
    centre: Points = about - turn @ about
    step[:3, 3] = centre
    return step


def _inverse(matrix: Affine) -> Affine:
    back: Affine = np.linalg.inv(matrix).astype(np.float64, copy=False)
    return back


def _shifted(by_mm: Points) -> Affine:
    step = np.eye(4)
    step[:3, 3] = by_mm
    return step


def _moved(points: Points, matrix: Affine) -> Points:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _turned_deg(matrix: Affine) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))


def _fine_step(spacing: float) -> float:
    """A step of about 1 mm that divides a spacing, or 1 mm where that is too far from it."""
    step = spacing / max(1, round(spacing))
    return step if 0.8 <= step <= 1.2 else 1.0
