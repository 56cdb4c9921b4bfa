from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import inference, networks, runtime, sequences
from engine.errors import BadModel, Cancelled, MissingSequence, OutOfMemory, UnreadableImage
from engine.metrics import dice, score
from engine.model_card import Calibration, ModelCard, RegionCalibration
from engine.progress import Progress
from engine.registry import SHIPPED, find, list_models
from engine.volume import FloatArray, Grid, LabelMap, Sequence, Subject, Volume
from tests.engine import phantoms, tiny_models

T1, T1CE, T2, FLAIR = Sequence


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """A model that finds the phantom's tumour on FLAIR."""
    return tiny_models.bright_spot(tmp_path_factory.mktemp("models") / "flair", (FLAIR,))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """The same with a window smaller than the head, run mirrored too."""
    folder = tmp_path_factory.mktemp("models") / "windowed"
    return tiny_models.bright_spot(folder, (FLAIR,), window=(16, 16, 16), mirror_axes=(0,))


def listening() -> tuple[Progress, list[tuple[float, str]]]:
    heard: list[tuple[float, str]] = []
    return Progress(lambda fraction, message: heard.append((fraction, message))), heard


# Windows


@pytest.mark.parametrize(
    ("shape", "window"),
    [((20, 20, 20), (20, 20, 20)), ((48, 33, 20), (16, 32, 20)), ((81, 96, 80), (80, 96, 80)), ((7, 5, 9), (1, 5, 2))],
)
def test_windows_cover_everything_and_overlap_enough(shape: tuple[int, int, int], window: tuple[int, int, int]) -> None:
    covered = np.zeros(shape, dtype=int)
    places = inference.window_places(shape, window)
    for place in places:
        covered[place] += 1
        assert tuple(s.stop - s.start for s in place) == window
    assert covered.min() >= 1
    for axis, extent in enumerate(window):
        starts = sorted({place[axis].start for place in places})
        assert starts[0] == 0
        assert starts[-1] == shape[axis] - extent
        assert all(b - a <= max(1, extent / 2) for a, b in pairwise(starts))


def test_an_array_of_one_window_is_one_window() -> None:
    assert len(inference.window_places((80, 96, 80), (80, 96, 80))) == 1


def test_an_array_smaller_than_a_window_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="smaller than a window"):
        inference.window_places((10, 20, 20), (16, 16, 16))


@pytest.mark.parametrize("mirror_axes", [(), (0,), (0, 1, 2)])
@pytest.mark.parametrize(("shape", "window"), [((24, 20, 18), (24, 20, 18)), ((40, 31, 25), (16, 16, 25))])
def test_a_network_that_changes_nothing_gives_back_its_input(
    shape: tuple[int, int, int], window: tuple[int, int, int], mirror_axes: tuple[int, ...]
) -> None:
    tensor = np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)
    blended = inference.blend(tensor, window, lambda x: x, mirror_axes)
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended, tensor, atol=1e-5)


def test_mirrored_passes_are_turned_back_before_they_are_averaged() -> None:
    # This network sees brightness only from the left; the mean of both passes sees it from both sides.
    tensor = np.random.default_rng(2).standard_normal((1, 16, 12, 10)).astype(np.float32)

    def from_the_left(window: FloatArray) -> FloatArray:
        return np.roll(window, 1, axis=1)

    blended = inference.blend(tensor, (16, 12, 10), from_the_left, (0,))
    np.testing.assert_allclose(blended, (np.roll(tensor, 1, axis=1) + np.roll(tensor, -1, axis=1)) / 2, atol=1e-6)


def test_the_middle_of_a_window_counts_more_than_its_edge() -> None:
    # Two windows along the first axis that disagree: the blend goes over smoothly from one to the other.
    calls = iter((np.zeros((1, 16, 8, 8), np.float32), np.ones((1, 16, 8, 8), np.float32)))
    line = inference.blend(np.zeros((1, 24, 8, 8), np.float32), (16, 8, 8), lambda x: next(calls))[0, :, 4, 4]
    np.testing.assert_allclose(line[:8], 0, atol=1e-6)
    np.testing.assert_allclose(line[16:], 1, atol=1e-6)
    assert (np.diff(line) >= 0).all()
    assert line[11] + line[12] == pytest.approx(1.0)
    assert line[8] < 0.1


@pytest.mark.parametrize(("mirror_axes", "passes"), [((), 8), ((0,), 16), ((0, 1), 32)])
def test_every_window_pass_is_reported_once(mirror_axes: tuple[int, ...], passes: int) -> None:
    progress, heard = listening()
    runs: list[int] = []

    def run(window: FloatArray) -> FloatArray:
        runs.append(1)
        return window

    inference.blend(np.zeros((1, 20, 20, 20), np.float32), (16, 16, 16), run, mirror_axes, progress)
    assert len(runs) == len(heard) == passes
    assert [message for _, message in heard] == [f"window {n} of {passes}" for n in range(1, passes + 1)]
    fractions = [fraction for fraction, _ in heard]
    assert fractions == sorted(fractions)


def test_cancel_stops_before_the_next_window() -> None:
    progress, _ = listening()
    runs: list[int] = []

    def run(window: FloatArray) -> FloatArray:
        runs.append(1)
        if len(runs) == 3:
            progress.cancel()
        return window

    with pytest.raises(Cancelled):
        inference.blend(np.zeros((1, 20, 20, 20), np.float32), (16, 16, 16), run, (), progress)
    assert len(runs) == 3


# Whole subjects


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SPL", "ILA"])
def test_the_tumour_is_found_where_it_is_in_every_layout(finder: ModelCard, orientation: str) -> None:
    grid = phantoms.grid(orientation)
    found = inference.segment(phantoms.subject(grid), finder, device="cpu")
    truth = phantoms.tumour(grid)
    assert found.label_map.grid is grid or found.label_map.grid.same_as(grid)
    np.testing.assert_array_equal(found.label_map.data, truth.data)
    assert found.volumes_ml == {
        "whole_tumour": pytest.approx(truth.ml(truth.whole_tumour)),
        "tumour_core": pytest.approx(truth.ml(truth.tumour_core)),
    }
    assert set(found.probabilities) == {"whole_tumour", "tumour_core"}
    for probability in found.probabilities.values():
        assert probability.shape == grid.shape
        assert probability.dtype == np.float32
        assert 0 <= probability.min() <= probability.max() <= 1
    assert (found.device, found.notes) == ("CPU", ())
    assert found.precision in ("bf16", "fp32")
    assert found.seconds > 0
    assert found.card == finder


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.8, 0.9, 1.5)])
def test_finer_and_uneven_voxels_get_masks_of_their_own(finder: ModelCard, spacing: tuple[float, float, float]) -> None:
    shape = tuple(round(n / s) for n, s in zip(phantoms.SHAPE, spacing, strict=True))
    grid = phantoms.grid("LPS", (shape[0], shape[1], shape[2]), spacing, oblique=(5, -3, 8))
    found = inference.segment(phantoms.subject(grid), finder, device="cpu")
    assert found.label_map.grid is grid
    assert score(found.label_map, phantoms.tumour(grid))["whole_tumour"].dice > 0.85


def test_windows_smaller_than_the_head_find_the_same(finder: ModelCard, windowed: ModelCard) -> None:
    subject = phantoms.subject()
    progress, heard = listening()
    found = inference.segment(subject, windowed, progress, device="cpu")
    np.testing.assert_array_equal(found.label_map.data, phantoms.tumour(subject.grid).data)
    windows = [message for _, message in heard if message.startswith("window")]
    assert windows[-1] == f"window {len(windows)} of {len(windows)}"
    assert len(windows) > 8


def test_progress_only_goes_forward_and_ends_at_the_end(windowed: ModelCard) -> None:
    progress, heard = listening()
    inference.segment(phantoms.subject(), windowed, progress, device="cpu")
    fractions = [fraction for fraction, _ in heard]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert heard[0][1] == "opening the model"
    assert heard[-1][1] == "done"


def test_only_the_models_sequences_are_looked_at(finder: ModelCard) -> None:
    subject = phantoms.subject()
    strange = Volume(np.random.default_rng(0).uniform(0, 9, subject.grid.shape).astype(np.float32), subject.grid, T1)
    with_strange = Subject("x", {**subject.volumes, T1: strange})
    alone = inference.segment(subject.only((FLAIR,)), finder, device="cpu")
    among = inference.segment(with_strange, finder, device="cpu")
    np.testing.assert_array_equal(among.probabilities["whole_tumour"], alone.probabilities["whole_tumour"])


def test_channels_are_in_the_cards_order(tmp_path: Path) -> None:
    # Looks at the last channel: T2 here, which is not where T2 comes in the fixed order.
    card = tiny_models.bright_spot(tmp_path / "m", (FLAIR, T2))
    subject = phantoms.subject()
    flat = Volume(phantoms.head(subject.grid, None).data, subject.grid, FLAIR)
    found = inference.segment(Subject("x", {**subject.volumes, FLAIR: flat}), card, device="cpu")
    np.testing.assert_array_equal(found.label_map.data, phantoms.tumour(subject.grid).data)


def test_regions_may_come_in_either_order(tmp_path: Path) -> None:
    def core_first(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images - 3.0, images - 1.0], dim=1)

    card = tiny_models.make_card((FLAIR,), regions=("tumour_core", "whole_tumour"))
    found = inference.segment(phantoms.subject(), tiny_models.arithmetic(tmp_path / "m", core_first, card))
    assert found.volumes_ml["whole_tumour"] > found.volumes_ml["tumour_core"] > 0


@pytest.fixture(scope="module")
def taking_any(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """A model for any of T2, T1 and FLAIR, in this order, that looks at FLAIR."""
    folder = tmp_path_factory.mktemp("models") / "any"
    return tiny_models.bright_spot(folder, (T2, T1, FLAIR), any_subset=True)


def test_a_model_for_any_subset_sees_nothing_of_what_it_is_not_given(taking_any: ModelCard) -> None:
    # What is left out fills the whole grid, so that any trace of it in crop, mask or scale would show.
    subject = phantoms.subject()
    loud = np.random.default_rng(0).uniform(1, 9, subject.grid.shape).astype(np.float32)
    among = Subject("x", {**subject.volumes, T1: Volume(loud, subject.grid, T1)})
    alone = inference.segment(subject.only((FLAIR,)), taking_any, device="cpu")
    found = inference.segment(among, taking_any, device="cpu", use=(FLAIR,))
    assert found.used == alone.used == (FLAIR,)
    for region, probability in alone.probabilities.items():
        np.testing.assert_array_equal(found.probabilities[region], probability)
    np.testing.assert_array_equal(alone.label_map.data, phantoms.tumour(subject.grid).data)
    with_both = inference.segment(among, taking_any, device="cpu", use=(T1, FLAIR))
    assert with_both.probabilities["whole_tumour"][0, 0, 0] > 0, "the brain of these two is everything"


def test_absent_sequences_are_zero_in_their_own_channels(tmp_path: Path) -> None:
    seen: list[FloatArray] = []

    class Recording(runtime.Network):
        def run(self, window: FloatArray) -> FloatArray:
            seen.append(window.copy())
            return super().run(window)

    card = tiny_models.make_card((FLAIR, T2, T1), any_subset=True)
    card = tiny_models.arithmetic(tmp_path / "m", lambda x: x[:, :2], card)
    network = Recording(card, runtime.open_network(card, "cpu")._rungs)
    subject = phantoms.subject()
    inference.segment(subject, card, network=network)
    inference.segment(subject, card, network=network, use=[T1, T2])
    all_three, two = seen
    assert all(channel.any() for channel in all_three)
    assert not two[0].any()
    np.testing.assert_array_equal(two[1:], all_three[1:])


def test_a_model_for_any_subset_takes_what_is_there_and_needs_something(taking_any: ModelCard) -> None:
    assert inference.segment(phantoms.subject(sequences=(T1CE, FLAIR)), taking_any).used == (FLAIR,)
    assert inference.segment(phantoms.subject(), taking_any).used == (T1, T2, FLAIR)
    with pytest.raises(MissingSequence, match=r"\(it needs one of T1, T2 and FLAIR\)"):
        inference.segment(phantoms.subject(sequences=(T1CE,)), taking_any)
    with pytest.raises(MissingSequence, match=r"\(it needs T2 too\)"):
        inference.segment(phantoms.subject(sequences=(FLAIR,)), taking_any, use=(T2, FLAIR))


@pytest.mark.parametrize("use", [(), (T1CE,), (T1CE, FLAIR)])
def test_sequences_a_model_does_not_know_are_a_mistake(taking_any: ModelCard, use: tuple[Sequence, ...]) -> None:
    with pytest.raises(ValueError, match="does not work with"):
        inference.segment(phantoms.subject(), taking_any, use=use)


def test_a_model_for_all_its_sequences_cannot_be_given_fewer(windowed: ModelCard) -> None:
    card = replace(windowed, sequences=(T1, FLAIR))
    with pytest.raises(ValueError, match="does not work with FLAIR"):
        inference.segment(phantoms.subject(), card, use=(FLAIR,))


def test_a_missing_sequence_is_named(finder: ModelCard) -> None:
    with pytest.raises(MissingSequence) as caught:
        inference.segment(phantoms.subject(sequences=(T1,), name="anna"), finder)
    assert str(caught.value) == (
        "The FLAIR student cannot segment anna (it needs FLAIR too). Add it, or use another model."
    )


def test_a_scan_whose_sides_are_a_guess_is_refused(finder: ModelCard) -> None:
    whole = phantoms.subject()
    guessed = {s: replace(volume, oriented=s not in finder.sequences) for s, volume in whole.items()}
    with pytest.raises(UnreadableImage, match="left and right are unknown"):
        inference.segment(Subject("phantom", guessed), finder)
    # One that the model does not look at is nobody's concern.
    others = {s: replace(volume, oriented=s in finder.sequences) for s, volume in whole.items()}
    assert inference.segment(Subject("phantom", others), finder).volumes_ml["whole_tumour"] > 0


def test_a_changed_model_is_refused_before_anything_runs(tmp_path: Path) -> None:
    card = tiny_models.arithmetic(tmp_path / "m", lambda x: x.repeat(1, 2, 1, 1, 1), tiny_models.make_card((FLAIR,)))
    (card.folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(BadModel, match=r"weights\.safetensors"):
        inference.segment(phantoms.subject(), card)


@pytest.mark.parametrize(("scale", "warned"), [(7.0, False), (8.0, True)])
def test_a_head_with_its_skull_is_said_to_be_more_than_a_brain(finder: ModelCard, scale: float, warned: bool) -> None:
    # The phantom's head has 4.7 ml; eight times as wide it is as large as a head with everything on it.
    small = phantoms.subject()
    wide = Grid(small.grid.shape, np.diag([scale, scale, scale, 1.0]) @ small.grid.affine)
    subject = Subject("x", {s: replace(volume, grid=wide) for s, volume in small.items()})
    found = inference.segment(subject, replace(finder, spacing_mm=scale))
    assert [("more than a brain" in note) for note in found.notes] == ([True] if warned else [])


def test_nothing_found_is_said(tmp_path: Path) -> None:
    card = tiny_models.make_card((FLAIR,))
    card = tiny_models.arithmetic(tmp_path / "m", lambda x: x.repeat(1, 2, 1, 1, 1) * 0 - 9, card)
    found = inference.segment(phantoms.subject(), card)
    assert found.volumes_ml == {"whole_tumour": 0.0, "tumour_core": 0.0}
    assert found.notes == ("No tumour was found.",)


def test_an_empty_image_is_segmented_as_nothing(finder: ModelCard) -> None:
    grid = Grid((20, 22, 18), np.eye(4))
    found = inference.segment(Subject("x", {FLAIR: Volume(np.zeros(grid.shape, np.float32), grid, FLAIR)}), finder)
    assert not found.label_map.data.any()


def test_very_sure_logits_do_not_overflow(tmp_path: Path) -> None:
    card = tiny_models.make_card((FLAIR,))
    card = tiny_models.arithmetic(tmp_path / "m", lambda x: (x - 1).repeat(1, 2, 1, 1, 1) * 1e5, card)
    found = inference.segment(phantoms.subject(), card)
    assert np.isfinite(found.probabilities["whole_tumour"]).all()
    assert found.probabilities["whole_tumour"].max() == 1.0


# Calibration


def calibration(temperature: float, low: float = 0.8, high: float = 1.3) -> Calibration:
    part = RegionCalibration(temperature, 0.05, 0.01, low, high, coverage=0.9, patients=40)
    return Calibration({"whole_tumour": part, "tumour_core": replace(part, temperature=2 * temperature)})


def test_logits_are_divided_by_the_temperature_of_their_region(tmp_path: Path) -> None:
    def core_first(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images * 0 + 3.0, images * 0 + 3.0], dim=1)

    card = tiny_models.make_card((FLAIR,), regions=("tumour_core", "whole_tumour"), calibration=calibration(1.5))
    card = tiny_models.arithmetic(tmp_path / "m", core_first, card)
    found = inference.segment(phantoms.subject(), card, device="cpu").probabilities
    assert found["whole_tumour"].max() == pytest.approx(1 / (1 + np.exp(-2.0)), abs=2e-3)
    assert found["tumour_core"].max() == pytest.approx(1 / (1 + np.exp(-1.0)), abs=2e-3)


def test_thresholds_refer_to_calibrated_probabilities(finder: ModelCard) -> None:
    # One half stays one half, whatever the temperature; anything else moves with it.
    subject = phantoms.subject()
    plain = inference.segment(subject, finder, device="cpu")
    same = inference.segment(subject, replace(finder, calibration=calibration(3.0)), device="cpu")
    np.testing.assert_array_equal(same.label_map.data, plain.label_map.data)
    unsure = replace(finder, calibration=calibration(50.0), threshold=dict.fromkeys(finder.threshold, 0.9))
    assert inference.segment(subject, unsure, device="cpu").volumes_ml["whole_tumour"] == 0


def test_the_volume_comes_with_its_interval_where_that_was_measured(finder: ModelCard) -> None:
    subject = phantoms.subject()
    assert inference.segment(subject, finder).intervals_ml == {"whole_tumour": None, "tumour_core": None}
    found = inference.segment(subject, replace(finder, calibration=calibration(1.0, 0.5, 2.0)))
    for region, ml in found.volumes_ml.items():
        assert found.intervals_ml[region] == pytest.approx((0.5 * ml, 2.0 * ml))
    above = replace(finder, calibration=calibration(1.0), threshold=dict.fromkeys(finder.threshold, 0.99999))
    nothing = inference.segment(Subject("x", {FLAIR: replace(subject[FLAIR], data=subject[FLAIR].data * 0)}), above)
    assert nothing.intervals_ml == {"whole_tumour": None, "tumour_core": None}, "nothing times a factor says nothing"


# Masks from probabilities


def masks(whole: FloatArray, core: FloatArray, **changes: object) -> LabelMap:
    card = tiny_models.make_card((FLAIR,), **{"minimum_ml": {"whole_tumour": 0.0, "tumour_core": 0.0}, **changes})
    grid = Grid(whole.shape, np.eye(4))
    subject = Subject("x", {FLAIR: Volume(np.zeros(grid.shape, np.float32), grid, FLAIR)})
    return inference.to_label_map({"whole_tumour": whole, "tumour_core": core}, card, subject.grid)


def test_the_core_lies_inside_the_whole_tumour() -> None:
    whole, core = np.zeros((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32)
    whole[2:5] = 0.9
    core[4:7] = 0.9
    found = masks(whole, core)
    assert (found.whole_tumour[2:5].all(), found.whole_tumour.sum()) == (True, 3 * 64)
    assert (found.tumour_core[4].all(), found.tumour_core.sum()) == (True, 64)


def test_the_cards_thresholds_decide() -> None:
    whole = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    found = masks(whole, whole, threshold={"whole_tumour": 0.3, "tumour_core": 0.8})
    np.testing.assert_array_equal(found.whole_tumour, whole >= 0.3)
    np.testing.assert_array_equal(found.tumour_core, whole >= 0.8)


def test_a_core_in_a_removed_piece_goes_with_it() -> None:
    whole = np.zeros((12, 12, 12), np.float32)
    whole[1:6, 1:6, 1:6] = 1
    whole[9:11, 9:11, 9:11] = 1
    found = masks(whole, whole, minimum_ml={"whole_tumour": 0.1, "tumour_core": 0.0})
    assert not found.data[8:].any()
    assert found.tumour_core.sum() == 125


# Cancel, memory, devices


@pytest.mark.parametrize(
    "stage",
    [
        "opening the model",
        "preparing the images",
        "window 1 of 18",
        "window 18 of 18",
        "bringing the result onto the scan's grid",
        "outlining",
    ],
)
def test_cancel_at_any_stage_stops_right_there(windowed: ModelCard, stage: str) -> None:
    heard: list[str] = []

    def listen(fraction: float, message: str) -> None:
        heard.append(message)
        if message == stage:
            progress.cancel()

    progress = Progress(listen)
    with pytest.raises(Cancelled):
        inference.segment(phantoms.subject(), windowed, progress, device="cpu")
    assert heard[-1] == stage


def test_a_cancelled_run_can_be_started_again(windowed: ModelCard) -> None:
    stopped = Progress()
    stopped.cancel()
    with pytest.raises(Cancelled):
        inference.segment(phantoms.subject(), windowed, stopped, device="cpu")
    assert inference.segment(phantoms.subject(), windowed, device="cpu").volumes_ml["whole_tumour"] > 0


def test_an_open_network_is_used_again(finder: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    network = runtime.open_network(finder, "cpu")
    monkeypatch.setattr(inference, "open_network", None)
    found = inference.segment(phantoms.subject(), finder, network=network)
    assert found.volumes_ml["whole_tumour"] > 0
    with pytest.raises(ValueError, match="the open network is"):
        inference.segment(phantoms.subject(), replace(finder, name="other"), network=network)


def test_short_memory_gives_the_same_masks_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tiny_models.bright_spot(tmp_path / "m", (FLAIR,), window=(64, 64, 64))
    run = runtime.OpenVinoBackend.run

    def cramped(backend: runtime.OpenVinoBackend, window: FloatArray) -> FloatArray:
        if window[0].size > 32**3:
            raise MemoryError
        return run(backend, window)

    monkeypatch.setattr(runtime.OpenVinoBackend, "run", cramped)
    grid = phantoms.grid()
    found = inference.segment(phantoms.subject(grid), card, device="cpu")
    np.testing.assert_array_equal(found.label_map.data, phantoms.tumour(grid).data)
    assert found.notes == ("Memory ran short on the CPU, so smaller windows (32 x 32 x 32 voxels) were used.",)


def test_no_memory_at_all_is_one_plain_sentence(finder: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(backend: runtime.OpenVinoBackend, window: FloatArray) -> FloatArray:
        raise MemoryError

    monkeypatch.setattr(runtime.OpenVinoBackend, "run", full)
    with pytest.raises(OutOfMemory, match="There is too little memory to run the FLAIR student"):
        inference.segment(phantoms.subject(), finder, device="cpu")


@pytest.fixture
def torch_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way a GPU takes, walked on the CPU."""
    backend = runtime.TorchBackend
    monkeypatch.setattr(networks, "build", tiny_models.build)
    monkeypatch.setattr(runtime, "gpu_obstacle", lambda: None)
    monkeypatch.setattr(runtime, "TorchBackend", lambda card, place: backend(card, "cpu"))


@pytest.mark.usefixtures("torch_on_the_cpu")
def test_torch_and_openvino_give_the_same_masks(windowed: ModelCard) -> None:
    subject = phantoms.subject(phantoms.grid("LPS"))
    ours = inference.segment(subject, windowed, device="cpu")
    theirs = inference.segment(subject, windowed, device="cuda")
    assert theirs.precision == "fp32"
    for mask in ("whole_tumour", "tumour_core"):
        assert getattr(theirs.label_map, mask).any()
        assert dice(getattr(ours.label_map, mask), getattr(theirs.label_map, mask)) >= 0.995


@pytest.mark.parametrize("name", [card.name for card in list_models([SHIPPED]).models] or ["none"])
def test_shipped_models_give_the_same_masks_in_torch_and_in_openvino(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "none":
        pytest.skip("no model is shipped yet")
    card = find(name, list_models([SHIPPED]).models)
    demo = sequences.load(sequences.find_subjects([SHIPPED.parent / "demo"])[0])
    backend = runtime.TorchBackend
    monkeypatch.setattr(runtime, "gpu_obstacle", lambda: None)
    monkeypatch.setattr(runtime, "TorchBackend", lambda card, place: backend(card, "cpu"))
    ours, theirs = (inference.segment(demo, card, device=device).label_map for device in ("cpu", "cuda"))
    assert dice(ours.whole_tumour, theirs.whole_tumour) >= 0.995
    assert dice(ours.tumour_core, theirs.tumour_core) >= 0.995


@pytest.mark.gpu
def test_a_gpu_gives_the_same_masks(windowed: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    obstacle = runtime.gpu_obstacle()
    if obstacle is not None:
        pytest.skip(f"needs an NVIDIA GPU: {obstacle}")
    monkeypatch.setattr(networks, "build", tiny_models.build)
    subject = phantoms.subject()
    ours = inference.segment(subject, windowed, device="cpu")
    theirs = inference.segment(subject, windowed, device="cuda")
    assert theirs.device == "CUDA"
    for mask in ("whole_tumour", "tumour_core"):
        assert dice(getattr(ours.label_map, mask), getattr(theirs.label_map, mask)) >= 0.995


def test_segmenting_on_the_cpu_needs_neither_torch_nor_the_network(finder: ModelCard, tmp_path: Path) -> None:
    phantoms.write_subject(tmp_path / "case", sequences=(FLAIR,))
    code = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
from pathlib import Path
from engine import inference, sequences
from engine.model_card import ModelCard
subject = sequences.load(sequences.find_subjects([Path(sys.argv[1])])[0])
found = inference.segment(subject, ModelCard.read(Path(sys.argv[2])))
heavy = {"torch", "monai", "scipy", "PySide6", "openvino_telemetry.main"} & set(sys.modules)
print(round(found.volumes_ml["whole_tumour"], 3), opened, sorted(heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "case"), str(finder.folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "0.28 [] []"


def test_other_threads_keep_running_while_a_full_size_scan_is_segmented(tmp_path: Path) -> None:
    # A window is painted by such a thread. 240 x 240 x 155 voxels, as in BraTS, and a window of 80 x 96 x 80 at 2 mm.
    card = tiny_models.make_card((T1, FLAIR), spacing_mm=2.0, window=(80, 96, 80), mirror_axes=(0,))
    card = tiny_models.arithmetic(tmp_path / "m", lambda x: x * 4 - 4, card)
    places = np.indices((240, 240, 155), dtype=np.float32) - np.array([120, 120, 77], np.float32)[:, None, None, None]
    distance = np.sqrt((places**2).sum(axis=0))
    grid = Grid((240, 240, 155), np.eye(4))
    image = np.where(distance < 72, 100 + 20 * np.sin(places.sum(axis=0) / 9), 0).astype(np.float32)
    image[distance < 30] += 80
    subject = Subject("x", {s: Volume(np.asfortranarray(image), grid, s) for s in (T1, FLAIR)})
    done: list[inference.Segmentation] = []
    worker = threading.Thread(target=lambda: done.append(inference.segment(subject, card, device="cpu")))
    longest = longest_wait(worker)
    assert done[0].volumes_ml["whole_tumour"] > 50
    assert longest < 0.15, f"another thread waited {longest * 1000:.0f} ms"


def longest_wait(worker: threading.Thread) -> float:
    """Run a thread; the longest this one waited between two looks at the clock, in seconds."""
    longest, last = 0.0, time.perf_counter()
    worker.start()
    while worker.is_alive():
        worker.join(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest
