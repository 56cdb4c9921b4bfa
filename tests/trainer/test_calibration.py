"""Simulated networks of known over-confidence, and patients whose volumes are found with a known error."""

from __future__ import annotations

import numpy as np
import pytest

from trainer import calibration

EDGES = np.linspace(-12, 12, 97)


def voxels(true_temperature: float, patients: int = 1, seed: int = 0, count: int = 40_000) -> np.ndarray:
    """``(P, 2, B)`` counts of a network whose logits are ``true_temperature`` times what they should be."""
    chance = np.random.default_rng(seed)
    counts = np.zeros((patients, 2, len(EDGES) - 1))
    for own in counts:
        honest = chance.normal(-0.5, 2.0, count)
        tumour = chance.random(count) < 1 / (1 + np.exp(-honest))
        said = np.clip(honest * true_temperature, EDGES[0], EDGES[-1])
        own[0] = np.histogram(said, EDGES)[0]
        own[1] = np.histogram(said[tumour], EDGES)[0]
    return counts


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_is_how_much_too_sure_the_network_is(temperature: float) -> None:
    assert calibration.fit(EDGES, voxels(temperature)[0]) == pytest.approx(temperature, rel=0.05)


def test_open_ends_and_bins_without_voxels_change_nothing() -> None:
    counts = voxels(2.0)[0]
    open_edges = np.concatenate([[-np.inf], EDGES[1:-1], [np.inf]])
    assert calibration.fit(open_edges, counts) == pytest.approx(calibration.fit(EDGES, counts), rel=0.02)


def test_a_threshold_keeps_its_voxels_when_probabilities_are_calibrated() -> None:
    logits = np.linspace(-6, 6, 1001)
    before, after = (1 / (1 + np.exp(-logits / temperature)) for temperature in (1.0, 2.5))
    for threshold in (0.2, 0.3, 0.5):
        moved = calibration.moved_threshold(threshold, 2.5)
        assert np.array_equal(before >= threshold, after >= moved - 1e-12)
    assert calibration.moved_threshold(0.3, 2.5) == pytest.approx(0.416, abs=1e-3)


def test_a_sea_of_background_does_not_make_a_network_look_calibrated() -> None:
    counts = voxels(3.0)
    alone = calibration.calibration_error(EDGES, counts, [1.0])
    assert alone > 0.05
    counts[0, 0, 0] += 1_400_000  # the rest of the brain, at a logit of -12
    assert calibration.calibration_error(EDGES, counts, [1.0]) == alone
    assert calibration.fit(EDGES, counts[0]) == calibration.fit(EDGES, voxels(3.0)[0])


def test_the_error_is_the_one_made_voxel_by_voxel() -> None:
    """Against a plain loop over voxels that all lie in the middle of a bin of logits."""
    chance = np.random.default_rng(3)
    middles = (EDGES[:-1] + EDGES[1:]) / 2
    said = chance.choice(middles[(middles > -3) & (middles < 6)], 3000)
    tumour = chance.random(3000) < 0.3
    counts = np.array([[np.histogram(said, EDGES)[0], np.histogram(said[tumour], EDGES)[0]]])
    probability = 1 / (1 + np.exp(-said / 1.7))
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (probability >= low) & (probability < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(probability[inside].mean() - tumour[inside].mean())
    assert calibration.calibration_error(EDGES, counts, [1.7]) == pytest.approx(expected, abs=1e-9)


def test_calibration_takes_the_error_away_on_patients_who_did_not_choose_it() -> None:
    counts = voxels(2.5, patients=10, count=5000)
    fitted = calibration.calibrate(EDGES, counts, np.arange(10) % 5, np.full(10, 20.0), np.full(10, 20.0))
    assert fitted.temperature == pytest.approx(2.5, rel=0.05)
    assert fitted.ece_before > 0.08
    assert fitted.ece_after < 0.02


def test_a_patient_has_no_say_in_the_temperature_he_is_judged_at() -> None:
    """Nine honest patients and an over-confident one: he is judged at theirs, so his error stays."""
    counts = np.concatenate([voxels(1.0, patients=9, count=2000), voxels(6.0, count=2000)])
    ones, ratio = np.ones(10), np.full(10, 1.0)
    fitted = calibration.calibrate(EDGES, counts, np.arange(10), ones, ratio)
    theirs = calibration.fit(EDGES, counts[:9].sum(axis=0))
    others = [calibration.fit(EDGES, counts.sum(axis=0) - own) for own in counts]
    assert others[-1] == pytest.approx(theirs)
    assert fitted.ece_after == pytest.approx(calibration.calibration_error(EDGES, counts, others))
    assert fitted.ece_after > calibration.calibration_error(EDGES, counts, [fitted.temperature] * 10)


def test_the_interval_is_the_second_smallest_and_second_largest_ratio_of_forty() -> None:
    ratios = np.linspace(0.5, 1.5, 40)
    assert calibration.volume_factors(ratios[::-1]) == (ratios[1], ratios[-2])
    assert calibration.volume_factors(ratios[:19]) == (ratios[0], ratios[18])
    assert calibration.volume_factors(ratios[:18]) == (None, None)


def test_nine_new_patients_in_ten_have_a_volume_in_the_interval() -> None:
    """Over many studies of 40 patients, with skewed errors: never less than promised, nor much more."""
    chance = np.random.default_rng(11)
    inside = []
    for _ in range(2000):
        ratios = np.exp(chance.gamma(2.0, 0.3, 41) - 0.4)
        low, high = calibration.volume_factors(ratios[:40])
        assert low is not None
        assert high is not None
        inside.append(low <= ratios[40] <= high)
    # Exactly 37 / 41 = 0.902 is expected; the standard error of 2000 studies is 0.7 %.
    assert np.mean(inside) == pytest.approx(37 / 41, abs=0.02)


def test_coverage_comes_from_factors_of_the_other_folds() -> None:
    """One fold's volumes are found tenfold too large: its patients are not covered by what the others say."""
    folds = np.repeat(np.arange(5), 8)
    truth = np.tile(np.linspace(8, 12, 8), 5)
    found = np.where(folds == 0, 100.0, 10.0)
    fitted = calibration.calibrate(EDGES, voxels(1.0, 40, count=200), folds, found, truth)
    # The other folds see the small ratios too, and their interval reaches down to them.
    assert fitted.coverage == pytest.approx(32 / 40)
    assert fitted.volume_low == pytest.approx(truth[1] / 100)


def test_patients_without_the_region_and_masks_without_it_are_counted_and_do_no_harm() -> None:
    found = np.full(40, 10.0)
    truth = np.linspace(8, 12, 40)
    truth[[3, 4]] = 0  # nothing there, something found: ratio nought
    found[[7, 8, 9]] = 0  # something there, nothing found: no interval
    fitted = calibration.calibrate(EDGES, voxels(1.0, 40, count=200), np.arange(40) % 5, found, truth)
    assert (fitted.patients, fitted.not_found) == (40, 3)
    assert fitted.volume_low == 0
    assert fitted.volume_high is not None
    assert 1.1 < fitted.volume_high <= 1.2
    assert fitted.coverage is not None
    assert 0.85 < fitted.coverage <= 1


def test_nothing_at_all_is_no_error() -> None:
    fitted = calibration.calibrate(EDGES, np.zeros((4, 2, 96)), [0, 0, 1, 1], np.zeros(4), np.zeros(4))
    assert fitted == calibration.CalibrationFit(1.0, 0.0, 0.0, None, None, None, 4, 4)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="counts are"):
        calibration.calibrate(EDGES, np.zeros((4, 2, 95)), [0] * 4, np.zeros(4), np.zeros(4))
    with pytest.raises(ValueError, match="one fold"):
        calibration.calibrate(EDGES, np.zeros((4, 2, 96)), [0] * 3, np.zeros(4), np.zeros(4))
