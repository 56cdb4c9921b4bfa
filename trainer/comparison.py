"""From the scores of a study, a row a patient and threshold, to means and paired comparisons.

How each figure is made, the same for every recipe:

- **Threshold.** A patient is scored at the threshold that is best, by mean Dice, on the *other real* patients of the
  same recipe, sequences and region. Shifted and simulated patients have no say at all, so one that was shifted from a
  real patient is scored at that patient's own threshold.
- **Patient.** Where several networks of a recipe scored one patient (seeds; folds too for simulated patients), his
  score is their mean. Patients, not networks, are what is drawn at random: spreads, intervals and tests are over them.
- **Comparison.** Two recipes are compared on the patients, folds and seeds both have. The mean difference has a
  bias-corrected and accelerated bootstrap interval (Efron, J Am Stat Assoc 1987;82:171) and a Wilcoxon signed-rank
  test, two-sided. Patients without a difference are left out of the test, as Wilcoxon did, and counted. Its p is exact
  up to 50 patients and, where differences are tied, up to 13; otherwise it is the normal approximation, corrected for
  ties and continuity. Holm's correction (Scand J Stat 1979;6:65) is made over all comparisons of one cohort.

Dice is a coefficient from 0 to 1, as in `engine.metrics`; differences are in points, 100 to the coefficient.
`engine.metrics` has the rule for empty regions, so no score is ever missing.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from engine.errors import UserError
from engine.files import whole_file
from engine.model_card import REGIONS, WHOLE_TUMOUR
from engine.volume import Sequence

# Real patients; the same as another hospital would have scanned them; simulated ones. In the order of a report.
COHORTS = REAL, SHIFTED, SIMULATED = "real", "shifted", "simulated"
DEFAULT_THRESHOLD = 0.5
RESAMPLES = 10_000
CONFIDENCE = 0.95
_EXACT_UP_TO = 50  # patients; the normal approximation is as good from there on
_EXACT_WITH_TIES_UP_TO = 13  # all 2^n signs are gone through
_BOOTSTRAP_SEED = 20261123


@dataclass(frozen=True)
class Row:
    """The score of one held-out case in one region with one network at one threshold.

    Attributes:
        recipe: How the network was trained.
        sequences: What it read: ``"t1"``, ``"t1+flair"``, in the order of `engine.volume.Sequence`.
        fold: Number of the fold the network did not learn from.
        seed: Of its training.
        cohort: ``"real"``, ``"shifted"`` or ``"simulated"``.
        case: Name of the patient.
        region: ``"whole_tumour"`` or ``"tumour_core"``.
        threshold: Probability from which a voxel belongs to the region.
        dice: 0..1.
        hd95_mm: 95th percentile Hausdorff distance in mm.
        truth_ml: Volume of the truth.
        found_ml: Volume of the mask.
    """

    recipe: str
    sequences: str
    fold: int
    seed: int
    cohort: str
    case: str
    region: str
    threshold: float
    dice: float
    hd95_mm: float
    truth_ml: float
    found_ml: float

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise ValueError(f"a region is one of {', '.join(REGIONS)}, got {self.region}")
        if not 0 <= self.dice <= 1:
            raise ValueError(f"a Dice coefficient lies between 0 and 1, got {self.dice}")
        for name in ("hd95_mm", "truth_ml", "found_ml"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is finite and not negative, got {value}")

    @property
    def _where(self) -> tuple[str, str, str, str, int, int, str, float]:
        """What tells it from every other row."""
        return (
            self.recipe, self.sequences, self.cohort, self.case, self.fold, self.seed, self.region, self.threshold
        )  # fmt: skip


COLUMNS = tuple(column.name for column in fields(Row))


@dataclass(frozen=True)
class PatientScore:
    """One patient's score in one region at the threshold the others chose, mean over the networks that scored him.

    Attributes:
        recipe: As in `Row`.
        sequences: As in `Row`.
        cohort: As in `Row`.
        region: As in `Row`.
        case: As in `Row`.
        threshold: The one chosen.
        dice: 0..1.
        hd95_mm: In mm.
        truth_ml: Volume of the truth.
        found_ml: Volume of the mask.
        missed: Share of the networks that found nothing at all.
        dice_of_run: Dice by fold and seed.
    """

    recipe: str
    sequences: str
    cohort: str
    region: str
    case: str
    threshold: float
    dice: float
    hd95_mm: float
    truth_ml: float
    found_ml: float
    missed: float
    dice_of_run: dict[tuple[int, int], float]


@dataclass(frozen=True)
class Summary:
    """How one recipe did in one region of one cohort with one set of sequences.

    Attributes:
        recipe: As in `Row`.
        sequences: As in `Row`.
        cohort: As in `Row`.
        region: As in `Row`.
        patients: How many were scored.
        folds: How many folds they come from.
        seeds_least: Networks a fold, where it has the fewest.
        seeds_most: Networks a fold, where it has the most.
        dice_mean: Mean over patients, 0..1.
        dice_sd: Standard deviation over patients; none for fewer than two.
        dice_sd_seeds: Standard deviation, over the seeds, of the mean over the patients that every seed scored; none
            for fewer than two seeds, or where no patient has all.
        dice_median: Over patients.
        hd95_mean: In mm.
        hd95_median: In mm.
        empty_truth: Patients without this region; they have Dice 1 where nothing was found, else 0.
        empty_mask: Patients who have it and in whom at least one network found nothing.
    """

    recipe: str
    sequences: str
    cohort: str
    region: str
    patients: int
    folds: int
    seeds_least: int
    seeds_most: int
    dice_mean: float
    dice_sd: float | None
    dice_sd_seeds: float | None
    dice_median: float
    hd95_mean: float
    hd95_median: float
    empty_truth: int
    empty_mask: int


@dataclass(frozen=True)
class Comparison:
    """Two recipes on the same patients; differences are recipe minus reference.

    Attributes:
        recipe: The one of interest.
        reference: What it is compared with.
        sequences: What both read.
        cohort: As in `Row`.
        region: As in `Row`.
        patients: How many both scored.
        folds: Folds they come from.
        seeds_least: Networks a fold of each recipe, where it has the fewest.
        seeds_most: Networks a fold of each recipe, where it has the most.
        points: Mean difference in Dice points.
        points_low: Lower end of its 95 % interval; none for fewer than two patients.
        points_high: Upper end.
        points_median: Median difference in Dice points.
        better: Patients with a higher Dice.
        worse: Patients with a lower Dice.
        equal: Patients without a difference; left out of the test.
        p: Of the Wilcoxon signed-rank test, two-sided; 1 where nobody differs.
        p_method: ``"exact"`` or ``"asymptotic"``.
        p_holm: Corrected for the family it was reported with; none before `holm`.
    """

    recipe: str
    reference: str
    sequences: str
    cohort: str
    region: str
    patients: int
    folds: int
    seeds_least: int
    seeds_most: int
    points: float
    points_low: float | None
    points_high: float | None
    points_median: float
    better: int
    worse: int
    equal: int
    p: float
    p_method: str
    p_holm: float | None = None


# --- rows on disk -----------------------------------------------------------------------------------------------------


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """Read and pool score files; a row that is in several of them, and the same in all, counts once.

    Raises:
        UserError: A file is missing or is no score file, or two rows contradict each other.
    """
    rows: dict[tuple[object, ...], Row] = {}
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise UserError(f"{path.name} is no file of scores", f"it has no column {missing[0]}", "")
                for line in reader:
                    row = _row(line, path, reader.line_num)
                    if rows.setdefault(row._where, row) != row:
                        what = f"{path.name} scores {row.case} another time with another result"
                        why = f"line {reader.line_num}: recipe {row.recipe}, fold {row.fold}, seed {row.seed}"
                        raise UserError(what, why, "Remove the older of the two runs.")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path.name} cannot be read", str(error), "Check the path.") from error
    return list(rows.values())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV in a fixed order, so that the same rows make the same file.

    Raises:
        CannotWrite: The system refused.
    """
    ordered: list[Row] = sorted(rows, key=lambda row: row._where)
    write_table(path, Row, ordered)


def write_table(
    path: Path, kind: type[Row | Summary | Comparison], records: Iterable[Row | Summary | Comparison]
) -> None:
    """Write records of one kind as CSV, a column a field; an empty field where there is no value.

    Raises:
        CannotWrite: The system refused.
    """
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.name for column in fields(kind))
        # Ten figures keep every score as it was read, and hide in which order a machine adds up.
        writer.writerows(
            [f"{value:.10g}" if isinstance(value, float) else value for value in astuple(record)] for record in records
        )


def _row(line: dict[str, str], path: Path, number: int) -> Row:
    try:
        return Row(
            recipe=line["recipe"],
            sequences=line["sequences"],
            fold=int(line["fold"]),
            seed=int(line["seed"]),
            cohort=line["cohort"],
            case=line["case"],
            region=line["region"],
            threshold=float(line["threshold"]),
            dice=float(line["dice"]),
            hd95_mm=float(line["hd95_mm"]),
            truth_ml=float(line["truth_ml"]),
            found_ml=float(line["found_ml"]),
        )
    except (TypeError, ValueError) as error:
        what = f"{path.name} has a score that cannot be used"
        raise UserError(what, f"line {number}: {error}", "Make the file again, or remove it.") from error


# --- thresholds -------------------------------------------------------------------------------------------------------

_Cell = tuple[str, str, str]  # recipe, sequences, region


def best_threshold(rows: Iterable[Row], recipe: str, sequences: str, region: str, without: str | None = None) -> float:
    """The threshold with the highest Dice, mean over the real patients of a recipe, each the mean of his networks.

    Args:
        rows: Of any recipes and cohorts.
        recipe: Whose networks.
        sequences: What they read.
        region: Which region.
        without: A patient who has no say; by default all have, as for a model that ships.

    Returns:
        One of the thresholds at which every network of the recipe scored every patient; of several equally good ones,
        and without any patient, the one nearest to one half.

    Raises:
        UserError: The networks were scored at different thresholds.
    """
    return _Choice([row for row in rows if _cell(row) == (recipe, sequences, region)]).threshold(without)


class _Choice:
    """Which threshold is best for one recipe, sequences and region, with any one patient left out."""

    def __init__(self, rows: list[Row]) -> None:
        own = [row for row in rows if row.cohort == REAL] or rows
        by_run: dict[tuple[str, int, int], dict[float, float]] = defaultdict(dict)
        for row in own:
            by_run[row.case, row.fold, row.seed][row.threshold] = row.dice
        shared = set.intersection(*(set(run) for run in by_run.values())) if by_run else {DEFAULT_THRESHOLD}
        if not shared:
            raise UserError(
                f"The networks of {rows[0].recipe} were scored at different thresholds", "", "Score them again."
            )
        self._thresholds = np.array(sorted(shared))
        self._of_case: dict[str, NDArray[np.float64]] = {}
        if own and own[0].cohort == REAL:
            runs: dict[str, list[list[float]]] = defaultdict(list)
            for (case, _, _), dice in by_run.items():
                runs[case].append([dice[threshold] for threshold in self._thresholds])
            self._of_case = {case: np.mean(scores, axis=0) for case, scores in runs.items()}
        self._sum = np.sum(list(self._of_case.values()), axis=0)

    def threshold(self, without: str | None) -> float:
        total, count = self._sum, len(self._of_case)
        if without in self._of_case:
            total, count = total - self._of_case[without], count - 1
        candidates = self._thresholds
        if count:
            # Means that differ by rounding alone are equally good.
            candidates = candidates[np.asarray(total) / count > np.max(total) / count - 1e-9]
        return float(min(candidates, key=lambda threshold: (abs(threshold - DEFAULT_THRESHOLD), -threshold)))


def score_patients(rows: Iterable[Row]) -> list[PatientScore]:
    """Every patient of every recipe, sequences, cohort and region, at the threshold that the others chose.

    Raises:
        UserError: A real patient was held out in two folds of one recipe, or a network was not scored at the
            threshold chosen.
    """
    cells: dict[_Cell, list[Row]] = defaultdict(list)
    for row in rows:
        cells[_cell(row)].append(row)
    scores: list[PatientScore] = []
    for (recipe, sequences, region), own in cells.items():
        choice = _Choice(own)
        patients: dict[tuple[str, str], dict[tuple[int, int], dict[float, Row]]] = {}
        for row in own:
            runs = patients.setdefault((row.cohort, row.case), {})
            runs.setdefault((row.fold, row.seed), {})[row.threshold] = row
        for (cohort, case), runs in patients.items():
            if cohort == REAL and len({fold for fold, _ in runs}) > 1:
                what = f"The patient {case} is held out in two folds of {recipe}"
                raise UserError(what, "so one of the two networks has learnt from him", "Score that recipe again.")
            threshold = choice.threshold(without=case)
            if any(threshold not in run for run in runs.values()):
                what = f"{case} was not scored at the threshold {threshold:g} with every network of {recipe}"
                raise UserError(what, "which is the best on the other patients", "Score that recipe again.")
            chosen = {run: runs[run][threshold] for run in sorted(runs)}
            scores.append(_patient(recipe, sequences, cohort, region, case, threshold, chosen))
    return scores


def _patient(
    recipe: str, sequences: str, cohort: str, region: str, case: str, threshold: float,
    runs: dict[tuple[int, int], Row],
) -> PatientScore:  # fmt: skip
    rows = list(runs.values())
    return PatientScore(
        recipe,
        sequences,
        cohort,
        region,
        case,
        threshold,
        dice=statistics.fmean(row.dice for row in rows),
        hd95_mm=statistics.fmean(row.hd95_mm for row in rows),
        truth_ml=statistics.fmean(row.truth_ml for row in rows),
        found_ml=statistics.fmean(row.found_ml for row in rows),
        missed=statistics.fmean(row.found_ml == 0 for row in rows),
        dice_of_run={run: row.dice for run, row in runs.items()},
    )


def _cell(row: Row) -> _Cell:
    return row.recipe, row.sequences, row.region


# --- summaries --------------------------------------------------------------------------------------------------------


def summarise(rows: Iterable[Row]) -> list[Summary]:
    """One summary a recipe, sequences, cohort and region, in the order in which they first appear.

    Raises:
        UserError: See `score_patients`.
    """
    return summarise_patients(score_patients(rows))


def summarise_patients(scores: Iterable[PatientScore]) -> list[Summary]:
    """What `summarise` makes of rows, of patients scored already."""
    cells: dict[tuple[str, str, str, str], list[PatientScore]] = defaultdict(list)
    for score in scores:
        cells[score.recipe, score.sequences, score.cohort, score.region].append(score)
    summaries = []
    for (recipe, sequences, cohort, region), own in cells.items():
        dice = [score.dice for score in own]
        distance = [score.hd95_mm for score in own]
        folds, least, most = _networks(run for score in own for run in score.dice_of_run)
        summaries.append(
            Summary(
                recipe,
                sequences,
                cohort,
                region,
                patients=len(own),
                folds=folds,
                seeds_least=least,
                seeds_most=most,
                dice_mean=statistics.fmean(dice),
                dice_sd=statistics.stdev(dice) if len(dice) > 1 else None,
                dice_sd_seeds=_spread_over_seeds(own),
                dice_median=statistics.median(dice),
                hd95_mean=statistics.fmean(distance),
                hd95_median=statistics.median(distance),
                empty_truth=sum(score.truth_ml == 0 for score in own),
                empty_mask=sum(score.truth_ml > 0 and score.missed > 0 for score in own),
            )
        )
    return summaries


def _networks(runs: Iterable[tuple[int, int]]) -> tuple[int, int, int]:
    """Number of folds, and the fewest and most seeds one of them has."""
    seeds: dict[int, set[int]] = defaultdict(set)
    for fold, seed in runs:
        seeds[fold].add(seed)
    counts = [len(own) for own in seeds.values()]
    return len(counts), min(counts), max(counts)


def _spread_over_seeds(scores: list[PatientScore]) -> float | None:
    """Over the patients that every seed scored: with others in it, a seed's mean would tell of its patients."""
    of_seed: list[dict[int, float]] = []
    for score in scores:
        dice: dict[int, list[float]] = defaultdict(list)
        for (_, seed), value in score.dice_of_run.items():
            dice[seed].append(value)
        of_seed.append({seed: statistics.fmean(values) for seed, values in dice.items()})
    seeds = sorted(set().union(*of_seed))
    complete = [dice for dice in of_seed if len(dice) == len(seeds)]
    if len(seeds) < 2 or not complete:
        return None
    return statistics.stdev(statistics.fmean(dice[seed] for dice in complete) for seed in seeds)


# --- comparisons ------------------------------------------------------------------------------------------------------


def compare(
    rows: Iterable[Row],
    recipe: str,
    reference: str,
    sequences: str,
    region: str = WHOLE_TUMOUR,
    cohort: str = REAL,
) -> Comparison:
    """Compare two recipes on the patients, folds and seeds that both have, each at its own fair thresholds.

    Args:
        rows: Of any recipes; thresholds come from all real patients of each, not only from those in common.
        recipe: The one of interest.
        reference: What to compare it with.
        sequences: What both read.
        region: Which region.
        cohort: Which patients.

    Raises:
        UserError: The two have no network of the same fold and seed that scored the same patient; see also
            `score_patients`.
    """
    wanted = {(recipe, sequences, region), (reference, sequences, region)}
    scores = score_patients(row for row in rows if _cell(row) in wanted)
    found = _compare(scores, recipe, reference, sequences, region, cohort)
    if found is None:
        what = f"{recipe} and {reference} cannot be compared on {sequences_in_words(sequences)}"
        raise UserError(what, f"no {cohort} patient was scored by both with the same fold and seed", "Train both.")
    return found


def compare_all(rows: Iterable[Row], pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    """Every comparison that the rows allow of these pairs of recipe and reference: cohorts, sequences and regions.

    Raises:
        UserError: See `score_patients`.
    """
    cells: dict[tuple[str, str, str], list[PatientScore]] = defaultdict(list)
    for score in score_patients(rows):
        cells[score.cohort, score.sequences, score.region].append(score)
    found = [
        _compare(own, recipe, reference, sequences, region, cohort)
        for recipe, reference in pairs
        for (cohort, sequences, region), own in cells.items()
    ]
    return [comparison for comparison in found if comparison is not None]


def _compare(
    scores: list[PatientScore], recipe: str, reference: str, sequences: str, region: str, cohort: str
) -> Comparison | None:
    """`compare` of patients scored already; none where nothing is shared."""
    gains, runs = differences(scores, recipe, reference, sequences, region, cohort)
    if not gains:
        return None
    points = np.array(list(gains.values()))
    folds, least, most = _networks(runs)
    low, high = bootstrap_interval(points) if len(points) > 1 else (None, None)
    p, method = signed_rank(points)
    return Comparison(
        recipe,
        reference,
        sequences,
        cohort,
        region,
        patients=len(points),
        folds=folds,
        seeds_least=least,
        seeds_most=most,
        points=float(points.mean()),
        points_low=low,
        points_high=high,
        points_median=float(np.median(points)),
        better=int((points > 0).sum()),
        worse=int((points < 0).sum()),
        equal=int((points == 0).sum()),
        p=p,
        p_method=method,
    )


def differences(
    scores: Iterable[PatientScore], recipe: str, reference: str, sequences: str, region: str, cohort: str
) -> tuple[dict[str, float], set[tuple[int, int]]]:
    """Difference in Dice points of each patient, and the networks behind it."""
    of_recipe: dict[str, dict[str, PatientScore]] = {recipe: {}, reference: {}}
    for score in scores:
        if (score.sequences, score.region, score.cohort) == (sequences, region, cohort) and score.recipe in of_recipe:
            of_recipe[score.recipe][score.case] = score
    differences: dict[str, float] = {}
    runs: set[tuple[int, int]] = set()
    for case, ours in of_recipe[recipe].items():
        theirs = of_recipe[reference].get(case)
        shared = [run for run in ours.dice_of_run if theirs is not None and run in theirs.dice_of_run]
        if theirs is None or not shared:
            continue
        gains = [ours.dice_of_run[run] - theirs.dice_of_run[run] for run in shared]
        # Scores come with four decimals: what is left at the tenth is rounding, and would hide ties.
        differences[case] = round(100 * statistics.fmean(gains), 8) + 0.0
        runs.update(shared)
    return differences, runs


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean of ``(n,)`` values, n at least 2: BCa bootstrap, 10,000 resamples, fixed seed."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])  # nothing to resample
    done = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(_BOOTSTRAP_SEED),
    )
    return float(done.confidence_interval.low), float(done.confidence_interval.high)


def signed_rank(differences: NDArray[np.float64]) -> tuple[float, str]:
    """Two-sided p of Wilcoxon's signed-rank test without the zeros, and whether it is exact; see the module."""
    values = differences[differences != 0]
    if values.size == 0:
        return 1.0, "exact"
    tied = len(np.unique(np.abs(values))) < len(values)
    if tied and len(values) <= _EXACT_WITH_TIES_UP_TO:
        method, name = stats.PermutationMethod(n_resamples=2 ** len(values)), "exact"
    elif not tied and len(values) <= _EXACT_UP_TO:
        method, name = "exact", "exact"
    else:
        method, name = "asymptotic", "asymptotic"
    return min(1.0, float(stats.wilcoxon(values, method=method, correction=True).pvalue)), name


def holm(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The same comparisons with ``p_holm``: corrected for all those given of the same cohort."""
    comparisons = list(comparisons)
    corrected: dict[int, float] = {}
    for cohort in {comparison.cohort for comparison in comparisons}:
        family = [place for place, comparison in enumerate(comparisons) if comparison.cohort == cohort]
        largest = 0.0
        for rank, place in enumerate(sorted(family, key=lambda place: comparisons[place].p)):
            largest = max(largest, min(1.0, (len(family) - rank) * comparisons[place].p))
            corrected[place] = largest
    return [replace(comparison, p_holm=corrected[place]) for place, comparison in enumerate(comparisons)]


def sequences_in_words(sequences: str) -> str:
    """``"t1+flair"`` as the field writes it: ``"T1+FLAIR"``."""
    return "+".join(Sequence(sequence).title for sequence in sequences.split("+"))
