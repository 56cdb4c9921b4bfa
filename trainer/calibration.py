"""How far a network's probabilities and volumes can be trusted, measured on patients it did not learn from.

**Probabilities.** Logits are divided by a temperature before the sigmoid (Guo et al., ICML 2017). One number a region
is fitted by least negative log-likelihood, from counts of voxels by predicted logit. Only voxels given at least 2 %
count, for the fit and for the expected calibration error alike: nearly all of a brain is called healthy with certainty
and rightly so, and with it any network would look calibrated to a fraction of a per cent. The same voxels, chosen
before the temperature is applied, count before and after. Tumour missed below 2 % no temperature could mend; it is in
the Dice and in the volume's interval.

**Volumes.** The true volume of 90 % of patients lies within ``found * low .. found * high``: split conformal prediction
(Vovk et al., Algorithmic Learning in a Random World, 2005) with the ratio of true to found volume as score, each end
with its own 5 %, so that it holds for new patients like these however the ratios are distributed. A patient in whom
nothing was found has no ratio and gets no interval; one without the region in truth has the ratio nought.

What is reported was measured fairly: each patient's error after calibration at the temperature fitted on all others,
coverage with the factors of the other folds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from engine.model_card import RegionCalibration

LEAST_PROBABILITY = 0.02
BINS = 15
LEVEL = 0.9
_COLDEST, _HOTTEST = 0.05, 20.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationFit(RegionCalibration):
    """Calibration of one region, and in whom it says nothing.

    Temperature and factors were fitted on all patients; the error after calibration is at the temperature that the
    other patients chose, the coverage with the factors of the other folds.

    Attributes:
        not_found: Patients with an empty mask, so that there is no interval; not in the coverage.
    """

    not_found: int = 0

    def card(self) -> RegionCalibration:
        """What a model card says of it, in as many figures as count."""
        return RegionCalibration(
            temperature=round(self.temperature, 4),
            ece_before=round(self.ece_before, 4),
            ece_after=round(self.ece_after, 4),
            volume_low=None if self.volume_low is None else round(self.volume_low, 3),
            volume_high=None if self.volume_high is None else round(self.volume_high, 3),
            coverage=None if self.coverage is None else round(self.coverage, 3),
            patients=self.patients,
        )


def calibrate(
    edges: ArrayLike, counts: ArrayLike, folds: ArrayLike, found_ml: ArrayLike, truth_ml: ArrayLike
) -> CalibrationFit:
    """Calibrate one region of one recipe with one set of sequences.

    Args:
        edges: ``(B + 1,)`` logits between which voxels were counted, ascending; the ends may be infinite.
        counts: ``(P, 2, B)``: of each patient, voxels in the brain by logit, and those of them in the truth.
        folds: ``(P,)`` number of the fold each patient was held out in.
        found_ml: ``(P,)`` volume of each patient's mask.
        truth_ml: ``(P,)`` volume of his truth.

    Raises:
        ValueError: The arrays do not belong together, or there is no patient.
    """
    edges, counts, folds = np.asarray(edges, float), np.asarray(counts, float), np.asarray(folds)
    found_ml, truth_ml = np.asarray(found_ml, float), np.asarray(truth_ml, float)
    patients = len(counts)
    if patients == 0 or counts.shape != (patients, 2, len(edges) - 1):
        raise ValueError(f"counts are (patients, 2, {len(edges) - 1}), got {counts.shape}")
    if not folds.shape == found_ml.shape == truth_ml.shape == (patients,):
        raise ValueError("each patient has one fold, one found and one true volume")
    total = counts.sum(axis=0)
    others = [fit(edges, total - own) if patients > 1 else 1.0 for own in counts]
    ratios = np.divide(truth_ml, found_ml, out=np.full(patients, np.nan), where=found_ml > 0)
    measured = ~np.isnan(ratios)
    low, high = volume_factors(ratios[measured])
    return CalibrationFit(
        temperature=fit(edges, total),
        ece_before=calibration_error(edges, counts, np.ones(patients)),
        ece_after=calibration_error(edges, counts, np.array(others)),
        volume_low=low,
        volume_high=high,
        coverage=_coverage(ratios[measured], folds[measured]),
        patients=patients,
        not_found=int((~measured).sum()),
    )


def fit(edges: ArrayLike, counts: ArrayLike) -> float:
    """The temperature with the least negative log-likelihood of the voxels given at least 2 %.

    Args:
        edges: ``(B + 1,)``, as in `calibrate`.
        counts: ``(2, B)``: voxels by logit, and those of them in the truth.

    Returns:
        0.05..20; 1 where there is no such voxel. Voxels count at the middle of their bin.
    """
    logits, counted = _visible(np.asarray(edges, float))
    voxels, tumour = np.asarray(counts, float)[:, counted]
    if voxels.sum() == 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits * math.exp(-log_temperature)
        # -log sigmoid(z) = log(1 + exp(-z)), without overflow.
        terms = tumour * np.logaddexp(0, -scaled) + (voxels - tumour) * np.logaddexp(0, scaled)
        return float(terms.sum() / voxels.sum())

    # Convex in 1 / T, so there is one lowest point in log T too.
    limits = (math.log(_COLDEST), math.log(_HOTTEST))
    return math.exp(optimize.minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6}).x)


def moved_threshold(threshold: float, temperature: float) -> float:
    """The threshold on calibrated probabilities that keeps the voxels which ``threshold`` kept before; both in 0..1."""
    return float(special.expit(special.logit(threshold) / temperature))


def calibration_error(edges: ArrayLike, counts: ArrayLike, temperatures: ArrayLike) -> float:
    """Expected calibration error, pooled over the voxels of all patients that were given at least 2 %.

    The mean distance between the probability that voxels were given and the share of them that is tumour, over 15 bins
    of equal width in probability, weighted by their voxels (Naeini et al., AAAI 2015).

    Args:
        edges: ``(B + 1,)``, as in `calibrate`.
        counts: ``(P, 2, B)``, as in `calibrate`.
        temperatures: ``(P,)``, one a patient.

    Returns:
        0..1; 0 where there is no such voxel.
    """
    logits, counted = _visible(np.asarray(edges, float))
    held = np.asarray(counts, float)[:, :, counted]
    probability = special.expit(logits / np.asarray(temperatures, float)[:, None])
    places = np.minimum((probability * BINS).astype(int), BINS - 1).ravel()
    voxels, tumour = held[:, 0].ravel(), held[:, 1].ravel()
    if voxels.sum() == 0:
        return 0.0
    given = np.bincount(places, voxels * probability.ravel(), BINS)
    true = np.bincount(places, tumour, BINS)
    return float(np.abs(given - true).sum() / voxels.sum())


def volume_factors(ratios: ArrayLike, level: float = LEVEL) -> tuple[float | None, float | None]:
    """Factors between which the ratio of true to found volume lies for a share ``level`` of new patients.

    Args:
        ratios: ``(n,)``, true by found volume; not negative.
        level: 0..1.

    Returns:
        The ``floor((n + 1) * a)``-th smallest and the ``ceil((n + 1) * (1 - a))``-th smallest ratio with
        ``a = (1 - level) / 2``, so that a new patient's falls outside either with a probability of at most a. Both none
        where there are too few patients for that.
    """
    ordered = np.sort(np.asarray(ratios, float))
    count, tail = len(ordered), (1 - level) / 2
    rank = math.floor((count + 1) * tail + 1e-9)  # 20 * 0.05 is 1, whatever binary fractions make of it
    if rank < 1:
        return None, None
    return float(ordered[rank - 1]), float(ordered[count - rank])


def _coverage(ratios: Floats, folds: NDArray[np.generic]) -> float | None:
    covered: list[bool] = []
    for fold in np.unique(folds):
        own = folds == fold
        low, high = volume_factors(ratios[~own])
        if low is None or high is None:
            return None
        covered += [bool(low <= ratio <= high) for ratio in ratios[own]]
    return sum(covered) / len(covered) if covered else None


def _visible(edges: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The logits in the middle of the bins that count, and which bins these are."""
    if not (edges.ndim == 1 and len(edges) > 1 and (np.diff(edges) > 0).all()):
        raise ValueError("edges are ascending logits, at least two")
    lower, upper = edges[:-1].copy(), edges[1:].copy()
    # An open bin is represented by the edge it has.
    lower[0] = lower[0] if np.isfinite(lower[0]) else upper[0]
    upper[-1] = upper[-1] if np.isfinite(upper[-1]) else lower[-1]
    middle = (lower + upper) / 2
    counted = middle >= special.logit(LEAST_PROBABILITY)
    return middle[counted], counted
