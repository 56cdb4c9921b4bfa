"""The steps with stand-ins for registration, brain finding and N4, whose own tests are elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import alignment, inference, pipeline, sequences
from engine.errors import Cancelled, GridMismatch
from engine.inference import Segmentation
from engine.model_card import REGIONS
from engine.pipeline import Settings, Step, Switch
from engine.progress import Progress
from engine.volume import LabelMap, Mask, Sequence, Volume
from tests.app import threshold_model
from tests.engine import phantoms, stand_ins
from tests.engine.stand_ins import ASTRAY, SKULL, Called, raw_head, rigid, truth

T1, T1CE, T2, FLAIR = Sequence


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    return stand_ins.install(monkeypatch)


GRIDS = {
    T1: phantoms.grid("RAS", (44, 44, 44)),
    T2: phantoms.grid("LPS", (72, 72, 18), (0.7, 0.7, 3.0), (3.0, 0.0, 5.0), (9.0, -8.0, 9.0)),
    FLAIR: phantoms.grid("AIL", (60, 20, 60), (0.8, 2.5, 0.8), centre=(-1.0, -5.0, 12.0)),
}


@pytest.fixture
def hospital(called: Called) -> dict[Sequence, Volume]:
    """Three sequences with a skull, each on a grid and at a place of its own."""
    return {sequence: raw_head(sequence, grid) for sequence, grid in GRIDS.items()}


def dice(a: Mask, b: Mask) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def a_segmentation(labels: LabelMap, tmp_path_factory: pytest.TempPathFactory) -> Segmentation:
    """A model's answer of blurred probabilities whose thresholds give the labels."""
    card = threshold_model.install(tmp_path_factory.mktemp("models"), "student-t1", (T1,))
    from scipy import ndimage

    probabilities = {
        region: ndimage.gaussian_filter(mask.astype(np.float32), 1.0)
        for region, mask in zip(REGIONS, (labels.whole_tumour, labels.tumour_core), strict=True)
    }
    mask = inference.to_label_map(probabilities, card, labels.grid)
    return Segmentation(mask, probabilities, {}, card, (T1,), "CPU", "fp32", 1.0)


# --- what needs nothing -----------------------------------------------------------------------------------------------


def test_scans_that_models_know_come_out_as_they_went_in(called: Called) -> None:
    scans = dict(phantoms.subject(sequences=(T1, T2, FLAIR)))
    worked = pipeline.work("anna", scans)
    assert not worked.changed
    assert all(worked.subject[s] is scans[s] for s in scans)
    assert all(worked.shown[s] is scans[s] for s in scans)
    assert worked.brain is None
    assert not worked.doubts
    assert not called  # nothing was measured on them either
    labels = phantoms.tumour(worked.grid)
    assert worked.native(labels, T2).data is labels.data


def test_one_scan_with_its_skull_is_stripped_on_its_own_grid(called: Called) -> None:
    scan = raw_head(T1, phantoms.grid("LPS", (44, 40, 30), (1.0, 1.0, 1.4)))
    worked = pipeline.work("anna", {T1: scan})
    assert [done.did for done in worked.done] == [False, False, True, True]
    assert worked.grid is scan.grid
    assert worked.shown[T1] is scan
    assert worked.subject[T1].data.max() < SKULL
    assert worked.of(Step.ALIGN).sentence == "T1 is the only sequence, so there is nothing to align."
    assert "ml of brain are left" in worked.of(Step.STRIP).sentence


def test_scans_of_one_grid_that_lie_on_each_other_are_not_moved(called: Called) -> None:
    grid = phantoms.grid("RAS", (44, 44, 44))
    scans = {s: raw_head(s, grid) for s in (T1, T1CE)}
    worked = pipeline.work("anna", scans)
    assert not worked.of(Step.ALIGN).did
    assert not worked.of(Step.GRID).did
    assert worked.of(Step.ALIGN).sentence == "The sequences lie on each other already."
    assert called["already"] == 1
    assert not any(call.startswith(("align ", "onto")) for call in called)


def test_a_scan_without_known_sides_is_left_alone(called: Called) -> None:
    scan = replace(raw_head(T1, GRIDS[T1]), oriented=False)
    worked = pipeline.work("anna", {T1: scan})
    assert not worked.changed
    assert "which way the head lies" in worked.of(Step.STRIP).sentence
    with pytest.raises(GridMismatch, match="does not say how the head lies"):
        pipeline.work("anna", {T1: scan, T2: raw_head(T2, GRIDS[T2])})


# --- what hospitals have ----------------------------------------------------------------------------------------------


def test_hospital_scans_become_one_subject_without_skull(hospital: dict[Sequence, Volume]) -> None:
    worked = pipeline.work("anna", hospital)
    assert [done.did for done in worked.done] == [True] * 4
    assert worked.reference is T1
    where = phantoms.tumour(worked.grid).whole_tumour
    brain = worked.brain
    assert brain is not None
    for sequence in hospital:
        np.testing.assert_allclose(worked.matrices[sequence], np.linalg.inv(ASTRAY.get(sequence, np.eye(4))), atol=1e-9)
        assert worked.subject[sequence].grid is worked.grid
        assert worked.shown[sequence].data.max() > SKULL / 2  # the skull is still to be seen
        assert not worked.subject[sequence].data[brain.data == 0].any()
        # The tumour is where it is in every sequence once they lie on each other.
        values = worked.shown[sequence].data
        assert abs(values[where].mean() - values[(brain.data > 0) & ~where].mean()) > 10
    sentence = worked.of(Step.ALIGN).sentence
    assert "T2 was moved" in sentence
    assert "FLAIR was moved" in sentence
    assert "onto T1" in sentence


def test_a_mask_goes_back_onto_every_files_own_grid(
    hospital: dict[Sequence, Volume], tmp_path_factory: pytest.TempPathFactory
) -> None:
    worked = pipeline.work("anna", hospital)
    labels = phantoms.tumour(worked.grid)
    found = a_segmentation(labels, tmp_path_factory)
    for sequence, scan in hospital.items():
        expected = truth(sequence, scan.grid)
        for mask in (labels, found):
            native = worked.native(mask, sequence)
            assert native.grid is scan.grid
            assert dice(native.whole_tumour, expected.whole_tumour) > 0.85
            whole = labels if mask is labels else found.label_map
            assert native.ml(native.whole_tumour) == pytest.approx(whole.ml(whole.whole_tumour), rel=0.08)
            assert not (native.tumour_core & ~native.whole_tumour).any()


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_a_mask_returns_onto_files_in_every_orientation(orientation: str, called: Called) -> None:
    scans = {T1: raw_head(T1, GRIDS[T1]), FLAIR: raw_head(FLAIR, phantoms.grid(orientation, (40, 44, 36), (1, 1.2, 1)))}
    worked = pipeline.work("anna", scans)
    native = worked.native(phantoms.tumour(worked.grid), FLAIR)
    assert dice(native.whole_tumour, truth(FLAIR, scans[FLAIR].grid).whole_tumour) > 0.9


def test_strokes_and_removed_pieces_survive_the_way_back(
    hospital: dict[Sequence, Volume], tmp_path_factory: pytest.TempPathFactory
) -> None:
    worked = pipeline.work("anna", hospital)
    found = a_segmentation(phantoms.tumour(worked.grid), tmp_path_factory)
    ball = np.array([-4.0, 5.0, 1.0]) + (3.0, -5.0, 7.0)
    world = worked.grid.to_world(np.indices(worked.grid.shape).reshape(3, -1).T).reshape(*worked.grid.shape, 3)
    painted = np.linalg.norm(world - ball, axis=-1) < 3
    edited = np.where(painted, np.uint8(2), 0).astype(np.uint8)  # painted where nothing was found; the tumour erased
    corrected = replace(found, label_map=LabelMap(edited, worked.grid), edited_by_hand=2)
    native = worked.native(corrected, T2)
    assert native.ml(native.whole_tumour) == pytest.approx(corrected.label_map.ml(painted), rel=0.15)
    assert not (native.whole_tumour & truth(T2, GRIDS[T2]).whole_tumour).any()


def test_a_tumour_outside_a_files_field_of_view_leaves_its_mask_empty(called: Called) -> None:
    scans = {T1: raw_head(T1, GRIDS[T1]), T1CE: raw_head(T1CE, phantoms.grid("RAS", (10, 30, 30), centre=(-10, -5, 7)))}
    worked = pipeline.work("anna", scans)
    assert not worked.native(phantoms.tumour(worked.grid), T1CE).data.any()


def test_scans_that_came_stripped_lend_their_brain_to_the_others(called: Called) -> None:
    scans = {T1: raw_head(T1, GRIDS[T1], skull=False), T2: raw_head(T2, GRIDS[T2])}
    worked = pipeline.work("anna", scans)
    strip = worked.of(Step.STRIP)
    assert strip.sentence.startswith("T2 was cut to the brain that T1 shows")
    assert strip.details["brain_of"] == ["t1"]
    lit = phantoms.head(worked.grid, T1).data > 0
    assert worked.brain is not None
    assert not worked.subject[T2].data[worked.brain.data == 0].any()
    assert dice(worked.brain.data > 0, lit) > 0.97


def test_a_brain_that_came_stripped_has_no_haze_around_it(called: Called) -> None:
    scans = {T1: raw_head(T1, GRIDS[T1], skull=False), T2: raw_head(T2, GRIDS[T2], skull=False)}
    worked = pipeline.work("anna", scans)
    assert not worked.of(Step.STRIP).did
    haze = (worked.subject[T2].data != 0) & (phantoms.head(worked.grid, T1).data == 0)
    assert np.count_nonzero(haze) < 0.12 * np.count_nonzero(phantoms.head(worked.grid, T1).data)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_every_step_can_be_switched_off(hospital: dict[Sequence, Volume], called: Called) -> None:
    off = Settings(align=Switch.OFF, strip=Switch.OFF, bias=Switch.OFF)
    worked = pipeline.work("anna", hospital, off)
    assert [done.did for done in worked.done] == [False, True, False, False]  # a common grid there has to be
    assert set(called) == {"grid", "onto t1", "onto t2", "onto flair"}
    assert worked.of(Step.ALIGN).sentence == "T2 and FLAIR were left where their headers put them, as asked."
    assert worked.of(Step.STRIP).sentence == "The skull was left on, as asked."
    assert worked.subject[T1].data.max() == SKULL


def test_on_does_what_is_not_needed(called: Called) -> None:
    scans = dict(phantoms.subject(phantoms.grid("RAS", (40, 40, 40)), sequences=(T1, T1CE)))
    worked = pipeline.work("anna", scans, Settings(align=Switch.ON, strip=Switch.ON, bias=Switch.ON))
    assert called["align t1ce"] == 1
    assert worked.of(Step.STRIP).did
    assert worked.of(Step.BIAS).did
    assert worked.of(Step.ALIGN).sentence == "T1ce lay right on T1 already."


def test_what_was_moved_by_hand_stays_there(hospital: dict[Sequence, Volume], called: Called) -> None:
    here = rigid((0.0, 0.0, 2.0), (1.0, 0.0, 0.0))
    worked = pipeline.work("anna", hospital, Settings(matrices={T2: here}))
    np.testing.assert_array_equal(worked.matrices[T2], here)
    assert not called["align t2"]
    assert "T2 was moved by hand" in worked.of(Step.ALIGN).sentence
    assert worked.of(Step.ALIGN).details["sequences"]["t2"]["by_hand"] is True


def test_a_brain_drawn_by_hand_is_the_one_used(hospital: dict[Sequence, Volume], called: Called) -> None:
    first = pipeline.work("anna", hospital)
    assert first.brain is not None
    drawn = first.brain.data.copy()
    drawn[:20] = 0
    worked = pipeline.work("anna", hospital, Settings(brain=LabelMap(drawn, first.grid)), earlier=first)
    assert called["brain"] == 1
    assert worked.brain is not None
    np.testing.assert_array_equal(worked.brain.data, drawn)
    assert not worked.subject[T1].data[:20].any()
    assert "as drawn" in worked.of(Step.STRIP).sentence


def test_another_reference_can_be_asked_for(hospital: dict[Sequence, Volume]) -> None:
    worked = pipeline.work("anna", hospital, Settings(reference=FLAIR))
    assert worked.reference is FLAIR
    assert np.array_equal(worked.matrices[FLAIR], np.eye(4))
    with pytest.raises(ValueError, match="T1ce is to be the reference"):
        pipeline.work("anna", hospital, Settings(reference=T1CE))


def test_settings_survive_a_file() -> None:
    grid = phantoms.grid("LPI", oblique=(3.0, 4.0, 5.0))
    brain = LabelMap((phantoms.head(grid).data > 0).astype(np.uint8), grid)
    matrix = rigid((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    settings = Settings(Switch.OFF, Switch.ON, Switch.AUTO, FLAIR, {T2: matrix}, brain)
    read = Settings.from_json(json.loads(json.dumps(settings.to_json())))
    assert (read.align, read.strip, read.bias, read.reference) == (Switch.OFF, Switch.ON, Switch.AUTO, FLAIR)
    np.testing.assert_array_equal(read.matrices[T2], matrix)
    assert read.brain is not None
    np.testing.assert_array_equal(read.brain.data, brain.data)
    np.testing.assert_array_equal(read.brain.grid.affine, grid.affine)
    assert Settings.from_json(json.loads(json.dumps(Settings().to_json()))).brain is None


_VOXELS = {"shape": [2, 2, 2], "affine": np.eye(4).tolist()}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"align": "perhaps"}, "perhaps"),
        ({"reference": "t3"}, "t3"),
        ({"matrices": {"t1": [[1, 2], [3, 4]]}}, "four rows of four numbers"),
        ({"matrices": {"t1": np.diag([2.0, 1.0, 1.0, 1.0]).tolist()}}, "more than move and turn"),
        ({"matrices": []}, "no settings"),
        ({"brain": {**_VOXELS, "voxels": "!!"}}, "base64"),
        ({"brain": {**_VOXELS, "voxels": "AAAA"}}, "no settings"),
        ({"brain": {**_VOXELS, "shape": [99999, 99999, 99999], "voxels": ""}}, "larger than any scan"),
        ({"brain": {**_VOXELS, "shape": [64, 64, 64], "voxels": "eJxjAAAAAQAB"}}, "as many voxels"),
    ],
)
def test_settings_that_were_changed_are_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Settings.from_json({**Settings().to_json(), **change})


# --- doing it again ---------------------------------------------------------------------------------------------------


def test_only_what_changed_is_done_again(hospital: dict[Sequence, Volume], called: Called) -> None:
    first = pipeline.work("anna", hospital)
    called.clear()
    again = pipeline.work("anna", hospital, earlier=first)
    assert not called
    assert all(again.subject[s] is first.subject[s] for s in hospital)
    assert again.done[1:] == first.done[1:]

    unbiased = pipeline.work("anna", hospital, Settings(bias=Switch.OFF), earlier=again)
    assert not called
    assert not unbiased.of(Step.BIAS).did
    assert unbiased.brain is first.brain

    nudged = pipeline.work(
        "anna", hospital, Settings(matrices={T2: alignment.nudge(first.matrices[T2], (1.0, 0.0, 0.0))}), earlier=first
    )
    assert set(called) == {"grid", "onto t2", "brain", "bias t1", "bias t2", "bias flair"}
    assert nudged.shown[FLAIR] is first.shown[FLAIR]

    called.clear()
    back = pipeline.work("anna", hospital, earlier=nudged)
    assert not called["align t2"]  # what was found is remembered behind what was done by hand
    np.testing.assert_array_equal(back.matrices[T2], first.matrices[T2])


def test_steps_that_are_switched_off_and_on_again_cost_nothing(
    hospital: dict[Sequence, Volume], called: Called
) -> None:
    first = pipeline.work("anna", hospital)
    off = pipeline.work("anna", hospital, Settings(strip=Switch.OFF, bias=Switch.OFF), earlier=first)
    assert off.subject[T2] is first.shown[T2]
    called.clear()
    on = pipeline.work("anna", hospital, earlier=pipeline.work("anna", hospital, off.settings, earlier=off))
    assert not called
    assert all(on.subject[s] is first.subject[s] for s in hospital)
    assert on.brain is first.brain


def test_a_sequence_that_is_added_leaves_the_others_where_they_are(
    hospital: dict[Sequence, Volume], called: Called
) -> None:
    first = pipeline.work("anna", {s: hospital[s] for s in (T1, T2)})
    called.clear()
    both = pipeline.work("anna", hospital, earlier=first)
    assert not called["align t2"]
    assert not called["onto t2"]
    assert called["align flair"] == 1
    assert both.shown[T2] is first.shown[T2]


# --- looking, telling, stopping ---------------------------------------------------------------------------------------


def test_each_step_can_be_looked_at_before_and_after(hospital: dict[Sequence, Volume]) -> None:
    worked = pipeline.work("anna", hospital)
    for step in Step:
        for sequence in hospital:
            assert worked.before(step, sequence).grid.same_as(worked.grid)
            assert worked.after(step, sequence).grid.same_as(worked.grid)
    assert worked.before(Step.ALIGN, T1) is worked.shown[T1]
    # As its header puts it, T2 lies elsewhere.
    there = sequences.resample(hospital[T2], worked.grid).data
    np.testing.assert_array_equal(worked.before(Step.ALIGN, T2).data, there)
    assert worked.before(Step.ALIGN, T2) is worked.before(Step.ALIGN, T2)
    assert worked.after(Step.ALIGN, T2) is worked.before(Step.STRIP, T2)
    assert worked.after(Step.STRIP, T2) is worked.before(Step.BIAS, T2)
    assert worked.after(Step.BIAS, T2) is worked.subject[T2]


def test_the_recipe_is_json_that_names_nobody(hospital: dict[Sequence, Volume]) -> None:
    first = pipeline.work("anna", hospital)
    worked = pipeline.work("anna", hospital, Settings(brain=first.brain), earlier=first)
    text = json.dumps(worked.recipe(), allow_nan=False)
    assert "anna" not in text
    recipe = json.loads(text)
    assert [step["step"] for step in recipe["steps"]] == ["align", "grid", "strip", "bias"]
    assert recipe["reference"] == "t1"
    assert set(recipe["settings"]["brain"]) == {"sha256"}
    assert all(step["seconds"] >= 0 for step in recipe["steps"])


def test_a_poor_alignment_is_doubted_aloud(called: Called) -> None:
    scans = {T1: raw_head(T1, GRIDS[T1]), T1CE: raw_head(T1CE, phantoms.grid("LPS", (44, 44, 20), (1, 1, 2)))}
    worked = pipeline.work("anna", scans)
    assert worked.doubts == ("How T1ce lies on T1 is poor: do not trust it.",)
    assert pipeline.work("anna", scans, earlier=worked).doubts == worked.doubts


def test_scans_of_different_places_are_refused(called: Called) -> None:
    far = raw_head(T1CE, phantoms.grid("RAS", (20, 20, 20), centre=(500.0, 0.0, 0.0)))
    with pytest.raises(GridMismatch, match="do not overlap"):
        pipeline.work("anna", {T1: raw_head(T1, GRIDS[T1]), T1CE: far})


def test_it_stops_when_asked(hospital: dict[Sequence, Volume]) -> None:
    heard: list[str] = []

    def listen(fraction: float, message: str) -> None:
        heard.append(message)
        if "removing the skull" in message:
            progress.cancel()

    progress = Progress(listen)
    with pytest.raises(Cancelled):
        pipeline.work("anna", hospital, progress=progress)
    assert heard[0] == "aligning T2 with T1"
    assert not any("brightness" in message for message in heard)


def test_a_real_raw_patient_goes_all_the_way_with_nothing_stood_in(shared: Path) -> None:
    folder = shared / "clinical" / "raw_with_skull_a"
    volumes = sequences.read(sequences.find_subjects([folder])[0])
    worked = pipeline.work("patient", volumes)
    assert all(worked.of(step).did for step in (Step.ALIGN, Step.GRID, Step.STRIP))
    assert not worked.doubts
    for sequence in volumes:  # scanned in one session, so their headers nearly tell
        moved, turned = pipeline.motion(worked.matrices[sequence], volumes[sequence].grid)
        assert moved < 4
        assert turned < 3
    brain = worked.brain
    assert brain is not None
    assert 1100 < brain.ml(brain.data > 0) < 1700
    assert 0.8 < min(worked.grid.spacing) <= max(worked.grid.spacing) < 1.1
    # A ball drawn in the brain comes back as a ball of the same size on every file's grid, at the same place.
    middle = worked.grid.to_world(np.argwhere(brain.data > 0).mean(axis=0, keepdims=True))[0]
    world = worked.grid.to_world(np.indices(worked.grid.shape).reshape(3, -1).T)
    ball = (np.linalg.norm(world - middle, axis=1) < 15).reshape(worked.grid.shape)
    drawn = LabelMap(ball.astype(np.uint8), worked.grid)
    for sequence, volume in volumes.items():
        native = worked.native(drawn, sequence)
        assert native.grid is volume.grid
        assert native.ml(native.whole_tumour) == pytest.approx(drawn.ml(ball), rel=0.03)
        there = worked.own_grid(sequence).to_world(np.argwhere(native.whole_tumour).mean(axis=0, keepdims=True))[0]
        assert np.linalg.norm(there - middle) < 0.5


@pytest.mark.parametrize("degrees", [0.001, 3.0, 90.0, 179.0])
def test_motion_is_told_in_mm_and_degrees(degrees: float) -> None:
    grid = phantoms.grid(centre=(0.0, 0.0, 0.0))
    moved, turned = pipeline.motion(rigid((0.0, 0.0, degrees), (3.0, 4.0, 0.0)), grid)
    assert moved == pytest.approx(5.0)
    assert turned == pytest.approx(degrees, rel=1e-6)
