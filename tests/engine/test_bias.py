from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from engine import bias
from engine.errors import Cancelled
from engine.progress import Progress
from engine.volume import FloatArray, Grid, Mask, Sequence, Volume

SHAPE = (70, 80, 60)
GRID = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0]))


def tissue() -> tuple[FloatArray, Mask]:
    """Two tissues in a ball, as patches of a few voxels."""
    i, j, k = np.indices(SHAPE)
    brain = ((i - 35) / 32) ** 2 + ((j - 40) / 37) ** 2 + ((k - 30) / 27) ** 2 < 1
    folds = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 2)
    noise = np.random.default_rng(2).normal(0, 2, SHAPE)
    values = np.where(folds > 0, 100, 160) + noise
    return np.where(brain, values, 0).astype(np.float32), brain


def field() -> FloatArray:
    i, j, k = (np.linspace(-1, 1, n) for n in SHAPE)
    log = 0.25 * i[:, None, None] - 0.15 * j[:, None] ** 2 + 0.1 * k
    return np.exp(log).astype(np.float32)


def unevenness(data: FloatArray, truth: FloatArray, brain: Mask) -> float:
    """Spread of the ratio between a scan and what it should be, over the brain."""
    ratio = data[brain] / truth[brain]
    return float(ratio.std() / ratio.mean())


def test_a_slow_field_is_taken_out() -> None:
    truth, brain = tissue()
    spoilt = Volume(truth * field(), GRID, Sequence.T1)
    corrected = bias.correct(spoilt, brain)
    assert unevenness(corrected.data, truth, brain) < 0.3 * unevenness(spoilt.data, truth, brain)
    assert corrected.data[brain].mean() == pytest.approx(spoilt.data[brain].mean(), rel=0.05)


def test_a_scan_without_a_field_stays_nearly_as_it_is() -> None:
    truth, brain = tissue()
    assert unevenness(bias.correct(Volume(truth, GRID), brain).data, truth, brain) < 0.01


def test_what_was_stripped_stays_stripped_whatever_its_value() -> None:
    truth, brain = tissue()
    plain = bias.correct(Volume(truth * field(), GRID), brain)
    assert not plain.data[~brain].any()
    below = np.where(brain, truth * field(), 0) - 500
    shifted = bias.correct(Volume(below.astype(np.float32), GRID), brain)
    assert np.array_equal(shifted.data == -500, ~brain)
    assert np.allclose(shifted.data[brain] + 500, plain.data[brain], rtol=1e-2)


def test_nothing_to_look_at_changes_nothing() -> None:
    empty = Volume(np.zeros(SHAPE, np.float32), GRID)
    assert bias.correct(empty, np.zeros(SHAPE, bool)) is empty
    assert bias.correct(empty, np.ones(SHAPE, bool)) is empty


def test_stopping_stops() -> None:
    truth, brain = tissue()
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        bias.correct(Volume(truth * field(), GRID), brain, progress)


def test_stopping_within_the_search_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, brain = tissue()
    progress = Progress()
    monkeypatch.setattr(bias, "_image", lambda data, grid, made=bias._image: (progress.cancel(), made(data, grid))[1])
    with pytest.raises(Cancelled):
        bias.correct(Volume(truth * field(), GRID), brain, progress)


def test_a_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        bias.correct(Volume(np.zeros(SHAPE, np.float32), GRID), np.ones((3, 3, 3), bool))
