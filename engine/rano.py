"""How much larger or smaller something is than it was, and in which range of RANO 2.0 that lies.

After Wen et al., J Clin Oncol 2023;41:5187-99, which takes the volumetric limits of Ellingson et al., Neurotherapeutics
2017;14:307-20: a sphere whose product of diameters grows by 25 % grows by 40 % in volume, one whose product halves
loses 65 % of it.

                    product of diameters    volume     against
    progression     +25 % or more           +40 %      the smallest so far
    partial         -50 % or more           -65 %      baseline
    minor           -25 % or more           -40 %      baseline; for tumour that does not enhance

A range is no response category. That needs more than a mask can tell: see `NOT_JUDGED`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from enum import Enum

SOURCE = "RANO 2.0 (Wen et al., J Clin Oncol 2023;41:5187-99)"

NOT_JUDGED = (
    "These are ranges of single measures, not a response category. RANO 2.0 also asks for the dose of steroids, the "
    "patient's clinical state, new lesions, and a second scan that confirms, and after radiotherapy for another "
    "baseline.",
    "It measures enhancing tumour, and where nothing enhances what T2 and FLAIR show. The masks cannot tell enhancing "
    "tumour: the core here holds necrosis and parts that do not enhance as well, the whole tumour holds oedema.",
    "The product is that of the largest piece on the axial slice where the region is largest, not the sum over "
    "several lesions.",
)

# Both diameters of what RANO calls measurable.
MEASURABLE_MM = 10.0


class Measure(Enum):
    """What is compared between dates."""

    VOLUME = "volume"
    PRODUCT = "product"

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        return {"volume": "volume", "product": "product of diameters"}[self.value]

    @property
    def unit(self) -> str:
        """Of its values."""
        return {"volume": "ml", "product": "cm²"}[self.value]


@dataclass(frozen=True)
class Limits:
    """From which change on a range begins, as fractions.

    Attributes:
        progression: Above the smallest so far.
        partial: Below baseline.
        minor: Below baseline.
    """

    progression: float
    partial: float
    minor: float


LIMITS = {
    Measure.VOLUME: Limits(progression=0.40, partial=0.65, minor=0.40),
    Measure.PRODUCT: Limits(progression=0.25, partial=0.50, minor=0.25),
}


class Range(Enum):
    """Where a change lies; the value is how outputs call it."""

    NOTHING = "nothing at either date"
    APPEARED = "appeared"
    GONE = "disappeared"
    PROGRESSION = "progression"
    PARTIAL = "partial response"
    MINOR = "minor response"
    STABLE = "stable"


@dataclass(frozen=True)
class Course:
    """One measure of one region over the dates.

    Attributes:
        measure: Volume in ml, or product of diameters in cm².
        values: One for each date, in order; 0 where the region is empty.
        baseline: Which date the rest is compared with; dates before it play no part.
    """

    measure: Measure
    values: tuple[float, ...]
    baseline: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.baseline < len(self.values):
            raise ValueError("the baseline is none of the dates")

    def smallest_before(self, date: int) -> int | None:
        """Which of the dates from baseline on and before ``date`` is smallest; the last of several alike."""
        before = range(self.baseline, date)
        return min(before, key=lambda at: (self.values[at], -at)) if before else None

    def against(self, date: int, other: int | None) -> float | None:
        """The change from ``other`` to ``date`` as a fraction: 0.5 is half as much again; None from nothing."""
        if other is None or self.values[other] <= 0:
            return None
        return self.values[date] / self.values[other] - 1

    def against_baseline(self, date: int) -> float | None:
        """The change since baseline; None at baseline, before it, and from nothing."""
        return self.against(date, self.baseline) if date > self.baseline else None

    def against_smallest(self, date: int) -> float | None:
        """The change since the smallest of the dates before; None where there is none, and from nothing."""
        return self.against(date, self.smallest_before(date))

    def range_at(self, date: int, minor: bool = False) -> Range | None:
        """In which range a date lies; None at baseline and before it.

        Growth over the smallest so far counts before what was lost since baseline.

        Args:
            date: Which.
            minor: Whether a minor response is told, as of tumour that does not enhance.
        """
        smallest = self.smallest_before(date)
        if smallest is None:
            return None
        limits, now, least, first = (
            LIMITS[self.measure], self.values[date], self.values[smallest], self.values[self.baseline],
        )  # fmt: skip
        if now <= 0:
            return Range.GONE if first > 0 else Range.NOTHING
        if least <= 0:
            return Range.APPEARED
        # A rounding error must not decide on which side of a limit 1.4 times as much lies.
        if _reaches(now / least - 1, limits.progression):
            return Range.PROGRESSION
        lost = 1 - now / first
        if _reaches(lost, limits.partial):
            return Range.PARTIAL
        return Range.MINOR if minor and _reaches(lost, limits.minor) else Range.STABLE


def _reaches(change: float, limit: float) -> bool:
    return change >= limit or math.isclose(change, limit, rel_tol=1e-9)


def percent(change: float | None) -> str:
    """``"+61 %"``, ``"-12 %"``, ``"0 %"``; nothing for None."""
    if change is None:
        return ""
    whole = round(100 * change)
    return f"{whole:+d} %" if whole else "0 %"


def sentences(region: str, course: Course, names: SequenceOf[str], minor: bool = False) -> list[str]:
    """The last date against baseline and the smallest so far, and in which range that lies.

    Args:
        region: What is measured: ``"Whole tumour"``.
        course: Of it.
        names: What each date is called.
        minor: See `Course.range_at`.
    """
    last = len(course.values) - 1
    found, least = course.range_at(last, minor), course.smallest_before(last)
    if found is None or least is None:
        return []
    measure, limits = course.measure, LIMITS[course.measure]
    what = f"{region}, {measure.words}"
    now = _valued(course, last)
    if found is Range.NOTHING:
        return [f"{what}: nothing was found at baseline, nor is anything now."]
    if found is Range.GONE:
        return [f"{what}: nothing is found any more; {_valued(course, course.baseline)} at baseline."]
    if found is Range.APPEARED:
        return [f"{what}: {now}, where on {names[least]} nothing was found."]
    compared = [f"{_more(course.against_baseline(last))} baseline ({_valued(course, course.baseline)})"]
    if least != course.baseline:
        compared.append(
            f"{_more(course.against_smallest(last))} the smallest ({_valued(course, least)}, {names[least]})"
        )
    told = f"{what}: {now}, {' and '.join(compared)}."
    unit = "in volume" if measure is Measure.VOLUME else "of the product"
    ranges = {
        Range.PROGRESSION: f"In the range of progression: {limits.progression:.0%} or more {unit} above the smallest.",
        Range.PARTIAL: f"In the range of partial response: {limits.partial:.0%} or more {unit} below baseline.",
        Range.MINOR: f"In the range of minor response: {limits.minor:.0%} or more {unit} below baseline.",
        Range.STABLE: f"In the range of stable: less than {limits.progression:.0%} {unit} above the smallest, and less "
        f"than {limits.minor if minor else limits.partial:.0%} below baseline.",
    }
    return [told, ranges[found].replace("%", " %")]


def _valued(course: Course, date: int) -> str:
    return f"{course.values[date]:.1f} {course.measure.unit}"


def _more(change: float | None) -> str:
    if change is None:
        return "against nothing at"
    whole = round(100 * change)
    if not whole:
        return "as much as at"
    return f"{abs(whole)} % {'more' if whole > 0 else 'less'} than at"
