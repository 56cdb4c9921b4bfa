"""A patient's tumour over time: dates aligned onto the latest, volumes and diameters, and where it grew or shrank.

Volumes are those that each date's own mask has on its own grid. What has to be compared place by place is brought onto
the latest date's grid through one rigid motion a date: diameters, so that all are measured in the same plane of the
head, and the map of what changed. A motion does not deform: where treatment or growth has pushed the brain, a rim of
change around the tumour is to be expected, and half a voxel of it anyhow.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import cc3d
import numpy as np
from numpy.typing import NDArray

from engine import alignment, diameters, rano, sequences
from engine.diameters import Diameters
from engine.errors import SequenceProblem
from engine.model_card import REGIONS, TUMOUR_CORE, WHOLE_TUMOUR
from engine.progress import Progress
from engine.rano import Course, Measure
from engine.volume import Affine, Grid, LabelMap, Mask, Sequence, Subject, Volume, in_order, in_words, interval_in_words

if TYPE_CHECKING:
    from engine.inference import Segmentation
    from engine.pipeline import Worked

TITLES = {WHOLE_TUMOUR: "Whole tumour", TUMOUR_CORE: "Core"}

STABLE, GROWN, SHRUNK, NOT_SEEN = 1, 2, 3, 4
"""The labels of a map of change."""

# On which contrast two dates are aligned: the one whose edges are sharpest among those that both have.
_SHARPEST = (Sequence.T1CE, Sequence.T1, Sequence.FLAIR, Sequence.T2)
# A piece of tumour closer than this to what was there before has grown out of it, as far as can be told.
_APART_MM = 3.0
# Smaller ones are what models find by chance.
_NEW_ML = 0.3


@dataclass(frozen=True, eq=False)
class TimePoint:
    """What is known of one date by itself.

    Attributes:
        subject: The scans that models were given, on one grid; what is aligned.
        labels: 1 tumour core, 2 rest of the whole tumour, on that grid.
        volumes_ml: Of whole tumour and core.
        intervals_ml: Where the true volume lies in 90 of 100 patients; None where nobody measured that.
        model: Title and version of the model.
        model_key: Tells models apart: name, version and which sequences they were given.
        used: The sequences that the model looked at.
        label: What the user calls the date; written into outputs.
        when: The day of the scan, for screen and order alone; never in an output.
        shown: The same scans with their skull, for looking at.
        edited_by_hand: How many corrections the mask holds.
        notes: Sentences the user should read.
        provenance: How the mask came about, as plain JSON values.

    Raises:
        ValueError: The labels lie on another grid than the scans.
    """

    subject: Subject
    labels: LabelMap
    volumes_ml: Mapping[str, float]
    intervals_ml: Mapping[str, tuple[float, float] | None]
    model: str
    model_key: str
    used: tuple[Sequence, ...]
    label: str = ""
    when: datetime.date | None = None
    shown: Subject | None = None
    edited_by_hand: int = 0
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.labels.grid.same_as(self.subject.grid):
            raise ValueError("the labels do not lie on the grid of the scans")

    @staticmethod
    def of(
        worked: Worked,
        segmentation: Segmentation,
        label: str = "",
        when: datetime.date | None = None,
        reason: str = "",
    ) -> TimePoint:
        """From what a segmentation made of prepared scans; ``reason`` is why this model was chosen."""
        from engine import provenance

        card = segmentation.card
        return TimePoint(
            subject=worked.subject,
            labels=segmentation.label_map,
            volumes_ml=segmentation.volumes_ml,
            intervals_ml=segmentation.intervals_ml,
            model=f"{card.title} {card.version}",
            model_key=f"{card.name} {card.version} {'+'.join(segmentation.used)}",
            used=segmentation.used,
            label=label,
            when=when,
            shown=worked.shown,
            edited_by_hand=segmentation.edited_by_hand,
            notes=(*segmentation.notes, *worked.doubts),
            provenance=provenance.describe(segmentation, worked.subject, reason, worked=worked),
        )

    @property
    def made_by(self) -> str:
        """Who drew the mask, in a few words: ``"teacher 1.2, T1 and FLAIR, corrected by hand"``."""
        return f"{self.model}, {in_words(self.used)}" + (", corrected by hand" if self.edited_by_hand else "")


@dataclass(frozen=True, eq=False)
class Visit:
    """A date among the others.

    Attributes:
        point: What is known of it by itself.
        matrix: ``(4, 4)`` rigid: world of its scans in mm -> world of the latest date's.
        quality: How well it lies there, 0..1; None for the latest.
        labels: Its mask on the latest date's grid.
        diameters: Of each region on the axial slice of that grid where it is largest; regions that are empty are left
            out.
    """

    point: TimePoint
    matrix: Affine
    quality: float | None
    labels: LabelMap
    diameters: Mapping[str, Diameters]

    def product_cm2(self, region: str) -> float:
        """The product of both diameters; 0 where the region is empty."""
        lines = self.diameters.get(region)
        return lines.product_cm2 if lines is not None else 0.0

    def scan_on(self, sequence: Sequence, grid: Grid) -> Volume:
        """A scan of this date, with its skull where it has one, sampled on a grid of the latest date's."""
        volume = (self.point.shown or self.point.subject)[sequence]
        return alignment.onto(alignment.moved(volume, self.matrix), grid)


@dataclass(frozen=True, eq=False)
class Change:
    """Where a region changed from one date to the latest.

    Attributes:
        region: Which.
        since: The earlier date's number.
        labels: On the latest date's grid: 0 nothing, `STABLE`, `GROWN`, `SHRUNK`, and `NOT_SEEN` for what is tumour now
            and lay outside the earlier scan.
    """

    region: str
    since: int
    labels: LabelMap

    def ml(self, label: int) -> float:
        """Volume of one of its labels."""
        return self.labels.ml(self.labels.data == label)

    @cached_property
    def grown_ml(self) -> float:
        """What is tumour now and was not."""
        return self.ml(GROWN)

    @cached_property
    def shrunk_ml(self) -> float:
        """What was tumour and is not."""
        return self.ml(SHRUNK)

    @cached_property
    def stable_ml(self) -> float:
        """What is and was tumour."""
        return self.ml(STABLE)

    def largest_place(self) -> NDArray[np.float64] | None:
        """World position ``(3,)`` in mm where most changed on a slice across the head; None where nothing did."""
        changed = (self.labels.data == GROWN) | (self.labels.data == SHRUNK)
        axis = self.labels.grid.nearest_axes()[0].index(2)
        slices = np.moveaxis(changed, axis, 0)
        counts = np.count_nonzero(slices, axis=(1, 2))
        if not counts.any():
            return None
        index = int(np.argmax(counts))
        inside = np.argwhere(slices[index])
        nearest = inside[np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1))]
        place: NDArray[np.float64] = self.labels.grid.to_world(np.insert(nearest, axis, index)[None])[0]
        return place


@dataclass(frozen=True, eq=False)
class New:
    """A piece of tumour at the latest date that touches nothing of what was there before.

    Attributes:
        ml: Its volume.
        place: World position ``(3,)`` in mm, in the latest scan.
    """

    ml: float
    place: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FollowUp:
    """All dates of a patient, the earliest first, on the latest one's grid.

    Attributes:
        visits: One for each date, in order.
        changes: For each earlier date and each region, what changed from then to the latest.
        new: Pieces that are new since the date before the latest, the largest first.
        baseline: Which date changes are told from.
    """

    visits: tuple[Visit, ...]
    changes: tuple[Change, ...]
    new: tuple[New, ...]
    baseline: int = 0

    @property
    def latest(self) -> Visit:
        """The date onto which the others are aligned."""
        return self.visits[-1]

    @property
    def grid(self) -> Grid:
        """The latest date's grid, of all masks and maps here."""
        return self.latest.labels.grid

    def change(self, region: str, since: int) -> Change:
        """What changed of a region from an earlier date to the latest.

        Raises:
            KeyError: There is no such date or region.
        """
        for one in self.changes:
            if (one.region, one.since) == (region, since):
                return one
        raise KeyError(f"{region} since {since}")

    def with_baseline(self, date: int) -> FollowUp:
        """The same dates told from another one."""
        return replace(self, baseline=min(max(date, 0), len(self.visits) - 1))

    def renamed(self, labels: SequenceOf[str]) -> FollowUp:
        """The same dates with other names for outputs, in order."""
        visits = zip(self.visits, labels, strict=True)
        return replace(self, visits=tuple(replace(v, point=replace(v.point, label=label)) for v, label in visits))

    @property
    def alike(self) -> bool:
        """Whether one model with the same sequences made all masks."""
        return len({visit.point.model_key for visit in self.visits}) == 1

    @property
    def common(self) -> tuple[Sequence, ...]:
        """The sequences that every date has."""
        return in_order(s for s in Sequence if all(s in visit.point.subject for visit in self.visits))

    @property
    def days(self) -> tuple[int, ...] | None:
        """Days from the first date to each; None where the day of one of them is not known."""
        when = [visit.point.when for visit in self.visits]
        first = when[0]
        if first is None:
            return None
        known = [(day - first).days for day in when if day is not None]
        return tuple(known) if len(known) == len(when) else None

    @property
    def names(self) -> tuple[str, ...]:
        """What each date is called in outputs: what the user typed, else its number."""
        return tuple(visit.point.label or f"date {at + 1}" for at, visit in enumerate(self.visits))

    @property
    def titles(self) -> tuple[str, ...]:
        """The same with the days since the first date, where they are known: ``"date 2, day 98"``."""
        days = self.days
        return self.names if days is None else tuple(f"{n}, day {d}" for n, d in zip(self.names, days, strict=True))

    @property
    def names_on_screen(self) -> tuple[str, ...]:
        """What each date is called where nothing leaves the room: what the user typed, else the day."""
        return tuple(
            visit.point.label or (visit.point.when.isoformat() if visit.point.when is not None else f"date {at + 1}")
            for at, visit in enumerate(self.visits)
        )

    def course(self, region: str, measure: Measure) -> Course:
        """One measure of one region over the dates."""
        values = [
            visit.point.volumes_ml[region] if measure is Measure.VOLUME else visit.product_cm2(region)
            for visit in self.visits
        ]
        return Course(measure, tuple(float(value) for value in values), self.baseline)

    def findings(self, on_screen: bool = False) -> tuple[str, ...]:
        """What the numbers say of the latest date, measure by measure, in ranges and not in categories."""
        names = self.names_on_screen if on_screen else self.names
        told = []
        for region, title in TITLES.items():
            for measure in Measure:
                course = self.course(region, measure)
                small = self._too_small(region, course) if measure is Measure.PRODUCT else ""
                said = [small] if small else rano.sentences(title, course, names, minor=region == WHOLE_TUMOUR)
                if measure is Measure.VOLUME and said:
                    said += self._overlap(region, course, names)
                if said:
                    told.append(" ".join(said))
        before = names[-2] if len(names) > 1 else ""
        told += [
            f"A piece of {one.ml:.1f} ml touches nothing of the tumour on {before}: it may be a new lesion, which RANO "
            f"2.0 counts by itself."
            for one in self.new[:3]
        ]
        return tuple(told)

    def doubts(self, on_screen: bool = False) -> tuple[str, ...]:
        """What speaks against comparing the dates, the gravest first."""
        names = self.names_on_screen if on_screen else self.names
        said = []
        for visit, name in zip(self.visits, names, strict=True):
            if visit.quality is not None and visit.quality < alignment.FAIR:
                said.append(
                    f"{name[:1].upper()}{name[1:]} does not lie well on the latest date: the map of changes since then "
                    "is not to be trusted, and it may be another patient."
                )
        if not self.alike:
            by: dict[str, list[str]] = {}
            for name, visit in zip(names, self.visits, strict=True):
                by.setdefault(f"{visit.point.model} with {in_words(visit.point.used)}", []).append(name)
            each = "; ".join(f"{' and '.join(those)}: {model}" for model, those in by.items())
            said.append(
                f"The dates were not segmented alike ({each}). Two models, or one with other sequences, give the "
                "same tumour different volumes, so part of the change may be theirs."
            )
        elif len({bool(visit.point.edited_by_hand) for visit in self.visits}) > 1:
            said.append("Some masks were corrected by hand and others were not, so part of the change may be that.")
        return tuple(said)

    def _too_small(self, region: str, course: Course) -> str:
        """Why the product of a region is not judged; empty where it is."""
        last, least = len(course.values) - 1, course.smallest_before(len(course.values) - 1)
        if least is None or not any(course.values[at] for at in (course.baseline, last)):
            return ""
        compared = [self.visits[at].diameters.get(region) for at in (course.baseline, last)]
        if any(lines is not None and lines.across_mm >= rano.MEASURABLE_MM for lines in compared):
            return ""
        return (
            f"{TITLES[region]}, product of diameters: too small to be measured, as both diameters have to reach "
            f"{rano.MEASURABLE_MM:.0f} mm."
        )

    def _overlap(self, region: str, course: Course, names: SequenceOf[str]) -> list[str]:
        last = len(course.values) - 1
        said = []
        for other in dict.fromkeys((course.baseline, course.smallest_before(last))):
            now = self.visits[last].point.intervals_ml.get(region)
            then = self.visits[other].point.intervals_ml.get(region) if other is not None else None
            if other is not None and now is not None and then is not None and now[0] <= then[1] and then[0] <= now[1]:
                said.append(
                    f"The 90 % intervals of now ({interval_in_words(now).partition(': ')[2]} ml) and of {names[other]} "
                    f"({interval_in_words(then).partition(': ')[2]} ml) overlap."
                )
        return said


def compare(points: SequenceOf[TimePoint], progress: Progress | None = None, baseline: int = 0) -> FollowUp:
    """Bring the dates of one patient together.

    Args:
        points: At least two, by day where all days are known, else in the order given, the latest last.
        progress: Told of every date; cancelling it stops within a second.
        baseline: Which of the dates, in order, changes are told from.

    Raises:
        SequenceProblem: There is only one date.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    if len(points) < 2:
        raise SequenceProblem("There is nothing to compare with", "only one date is there", "Add another date.")
    order = in_order_of_time(points)
    latest, earlier = order[-1], order[:-1]
    visits = []
    for number, point in enumerate(earlier):
        part = progress.part(number / len(order), (number + 0.85) / len(order))
        visits.append(_brought(point, latest, part))
    visits.append(Visit(latest, np.eye(4), None, latest.labels, _measured(latest.labels)))
    changes = []
    for number, visit in enumerate(visits[:-1]):
        progress.update((len(earlier) + (number + 1) / len(order)) / len(order), "comparing masks")
        seen = _seen(visit, latest.labels.grid)
        for region in REGIONS:
            changes.append(Change(region, number, change_map(visit.labels, latest.labels, region, seen)))
    progress.update(1.0, "the dates are compared")
    made = FollowUp(tuple(visits), tuple(changes), _new(visits[-2].labels, latest.labels))
    return made.with_baseline(baseline)


def in_order_of_time(points: SequenceOf[TimePoint]) -> tuple[TimePoint, ...]:
    """By day where all days are known, else as they are."""
    days = [point.when for point in points]
    if any(day is None for day in days):
        return tuple(points)
    return tuple(sorted(points, key=lambda point: point.when or datetime.date.min))


def change_map(then: LabelMap, now: LabelMap, region: str, seen: Mask | None = None) -> LabelMap:
    """Where a region is stable, grown or shrunk.

    Args:
        then: The earlier mask.
        now: The latest, on the same grid.
        region: ``"whole_tumour"`` or ``"tumour_core"``.
        seen: ``(I, J, K)`` what the earlier scan shows; everything by default.

    Raises:
        ValueError: The masks lie on different grids.
    """
    if not then.grid.same_as(now.grid):
        raise ValueError("the masks do not lie on one grid")
    before, after = (m.whole_tumour if region == WHOLE_TUMOUR else m.tumour_core for m in (then, now))
    changed = np.zeros(now.data.shape, np.uint8)
    changed[before & after] = STABLE
    changed[after & ~before] = GROWN
    changed[before & ~after] = SHRUNK
    if seen is not None:
        changed[after & ~seen] = NOT_SEEN
    return LabelMap(changed, now.grid)


def _brought(point: TimePoint, latest: TimePoint, progress: Progress) -> Visit:
    """A date aligned onto the latest, with its mask there."""
    both = [s for s in _SHARPEST if s in point.subject and s in latest.subject]
    if both:
        moving, fixed = both[0], both[0]
    else:
        moving, fixed = (alignment.reference_of(one.subject.volumes) for one in (point, latest))
    found = alignment.align(point.subject[moving], latest.subject[fixed], progress.part(0.0, 0.9))
    grid = point.labels.grid
    there = Grid(grid.shape, found.matrix @ grid.affine)
    whole, core = (_onto(mask, there, latest.labels.grid) for mask in (point.labels.whole_tumour,
                                                                       point.labels.tumour_core))  # fmt: skip
    labels = LabelMap.of_regions(whole, core & whole, latest.labels.grid)
    progress.update(1.0, "bringing the mask along")
    return Visit(point, found.matrix, found.quality, labels, _measured(labels))


def _onto(mask: Mask, grid: Grid, target: Grid) -> Mask:
    """A mask at the voxels of another grid, those that it covers by half or more."""
    if grid.same_as(target, 1e-3):
        return mask
    covered: Mask = sequences.resample(Volume(mask.astype(np.float32), grid), target).data >= 0.5
    return covered


def _seen(visit: Visit, target: Grid) -> Mask:
    """Which voxels of the latest grid lie within what the earlier scans show."""
    grid = visit.point.labels.grid
    return _onto(np.ones(grid.shape, bool), Grid(grid.shape, visit.matrix @ grid.affine), target)


def _measured(labels: LabelMap) -> dict[str, Diameters]:
    axial = labels.grid.nearest_axes()[0].index(2)
    found = {}
    for region, mask in ((WHOLE_TUMOUR, labels.whole_tumour), (TUMOUR_CORE, labels.tumour_core)):
        lines = diameters.measure_largest(mask, labels.grid, axial)
        if lines is not None:
            found[region] = lines[1]
    return found


def _new(before: LabelMap, now: LabelMap) -> tuple[New, ...]:
    if not before.data.any() or not now.data.any():
        return ()
    pieces, count = cc3d.connected_components(now.whole_tumour.astype(np.uint8), connectivity=26, return_N=True)
    if count < 2:
        return ()
    from scipy.ndimage import distance_transform_edt

    near = distance_transform_edt(~before.whole_tumour, sampling=now.grid.spacing) <= _APART_MM
    touching = np.zeros(count + 1, bool)
    touching[np.unique(pieces[near])] = True
    sizes = np.bincount(pieces.reshape(-1, order="A"), minlength=count + 1) * now.grid.voxel_ml
    found = []
    for number in range(1, count + 1):
        if not touching[number] and sizes[number] >= _NEW_ML:
            voxels = np.argwhere(pieces == number)
            middle = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
            found.append(New(float(sizes[number]), now.grid.to_world(middle[None])[0]))
    return tuple(sorted(found, key=lambda one: -one.ml))
