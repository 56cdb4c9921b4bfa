"""The window as a person uses it: real clicks, keys and drops on a real window, the real engine behind it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pypdf import PdfReader
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QMouseEvent, QWheelEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QFileDialog,
    QLabel,
    QWidget,
)

from app.application import _report_to
from app.main_window import MainWindow
from app.save_card import SaveCard
from app.segment_panel import SAFE_COLOURS
from app.session import Presence, Stage
from app.slice_view import SliceView
from app.theme import CORE, DARK, LIGHT, WHOLE_TUMOUR, contrast
from app.viewer_model import MaskStyle, Plane
from engine import nifti, registry
from engine.metrics import dice
from engine.model_card import REGIONS, Calibration, ModelCard, RegionCalibration
from engine.volume import Sequence
from tests.app import threshold_model
from tests.app.conftest import drop, middle
from tests.engine import phantoms

T1, T1CE, T2, FLAIR = Sequence
LEFT, RIGHT, MIDDLE = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton


def choose_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Answer the dialog that asks for a folder."""
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))


def wheel(widget: SliceView, steps: int, keys: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    place = QPointF(middle(widget))
    event = QWheelEvent(
        place,
        QPointF(widget.mapToGlobal(place.toPoint())),
        QPoint(),
        QPoint(0, 120 * steps),
        Qt.MouseButton.NoButton,
        keys,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget.viewport(), event)


def drag(widget: SliceView, button: Qt.MouseButton, by: QPoint) -> None:
    start = QPointF(middle(widget))
    end = start + QPointF(by)
    keys = Qt.KeyboardModifier.NoModifier
    for kind, place, pressed, held in (
        (QEvent.Type.MouseButtonPress, start, button, button),
        (QEvent.Type.MouseMove, end, Qt.MouseButton.NoButton, button),
        (QEvent.Type.MouseButtonRelease, end, button, Qt.MouseButton.NoButton),
    ):
        event = QMouseEvent(kind, place, QPointF(widget.mapToGlobal(place.toPoint())), pressed, held, keys)
        QApplication.sendEvent(widget.viewport(), event)


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_from_drop_to_a_saved_mask_with_one_cancel_on_the_way(window, patient, models, tmp_path, qtbot, monkeypatch):
    # At a quarter of a millimetre the phantom takes a hundred windows: time enough to press Cancel.
    for folder in models.iterdir():
        replace(ModelCard.read(folder), spacing_mm=0.25).write(folder)
    session, button = window.session, window.segment.button
    assert window.welcome.isVisible()

    drop(window, sorted(patient.glob("*.nii.gz")))
    qtbot.waitUntil(lambda: session.stage is Stage.READY, timeout=20_000)
    assert not window.welcome.isVisible()
    assert [entry.presence for entry in session.entries] == [Presence.PRESENT] * 4
    assert "teacher" in window.segment.reason.text()
    assert not window.result.isVisible()

    steps: list[str] = []
    session.progressed.connect(lambda fraction, message, left: steps.append(message))
    qtbot.mouseClick(button, LEFT)
    qtbot.waitUntil(lambda: any("window" in step for step in steps), timeout=20_000)
    assert button.text() == "Cancel"
    assert "window" in window.segment.step.text()
    qtbot.mouseClick(button, LEFT)
    assert button.text() == "Stopping"
    qtbot.waitUntil(lambda: session.stage is Stage.READY, timeout=10_000)
    assert session.result is None
    assert window.model.labels is None

    qtbot.mouseClick(button, LEFT)
    qtbot.waitUntil(lambda: session.stage is Stage.DONE, timeout=60_000)
    assert window.result.isVisible()
    truth = phantoms.tumour(phantoms.grid("LPS"))
    shown = window.result.volumes["whole_tumour"].text()
    assert float(shown.removesuffix(" ml")) == pytest.approx(truth.ml(truth.whole_tumour), abs=0.15)

    out = tmp_path / "output"
    out.mkdir()
    choose_folder(monkeypatch, out)
    qtbot.mouseClick(window.result.save_button, LEFT)
    qtbot.waitUntil(lambda: session.saved is not None, timeout=20_000)
    assert "patient_seg.nii.gz" in window.result.saved.text()
    mask = nifti.read_label_map(out / "patient_seg.nii.gz", nifti.Convention.GLIASCOPE)
    assert np.array_equal(mask.data, window.model.labels.data)
    assert mask.grid.same_as(nifti.read(patient / "patient_t1.nii.gz").grid, tolerance_mm=1e-6)
    assert dice(mask.whole_tumour, truth.whole_tumour) > 0.8
    record = json.loads((out / "patient_seg.json").read_text())
    assert record["model"]["name"] == "teacher"
    assert record["reason"] == session.choice.reason


def test_segmenting_again_and_other_choices_keep_working_after_a_result(segmented, qtbot):
    first = segmented.session.result
    assert segmented.segment.button.text() == "Segment again"
    qtbot.mouseClick(segmented.segment.button, LEFT)
    qtbot.waitUntil(lambda: segmented.session.result is not first, timeout=20_000)
    assert np.array_equal(segmented.session.result.segmentation.label_map.data, first.segmentation.label_map.data)


def test_the_crosshair_goes_to_the_tumour_that_was_found(segmented):
    assert segmented.model.labels.data[segmented.model.voxel()] > 0


def test_a_calibrated_volume_is_shown_with_its_interval(window, models, patient, qtbot):
    part = RegionCalibration(1.0, 0.05, 0.01, volume_low=0.5, volume_high=1.5, coverage=0.9, patients=40)
    shutil.rmtree(models / "teacher")
    sequences = (Sequence.T2, Sequence.T1, Sequence.T1CE, Sequence.FLAIR)
    threshold_model.install(models, "teacher", sequences, calibration=Calibration(dict.fromkeys(REGIONS, part)))
    window.session.open([patient], segment=True)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=20_000)
    assert window.result.volumes["whole_tumour"].text() == "0.3 ml"
    assert window.result.intervals["whole_tumour"].text() == "(90 %: 0.1 to 0.4)"
    assert "90 of 100 patients" in window.result.intervals["core"].toolTip()
    for region, volume in window.result.volumes.items():
        volume.setText("1234.5 ml")
        window.result.intervals[region].setText("(90 %: 1010 to 1530)")
    assert window.result.minimumSizeHint().width() <= window.panel.width(), "nothing is cut off"


def test_one_sequence_is_enough_and_the_others_are_said_to_be_absent(window, patient, qtbot):
    drop(window, [patient / "patient_t2.nii.gz"])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    states = {entry.sequence: entry.presence for entry in window.session.entries}
    assert states == {T1: Presence.ABSENT, T1CE: Presence.ABSENT, T2: Presence.PRESENT, FLAIR: Presence.ABSENT}
    assert window.segment.title.text() == "Student t2"
    assert "0.80" in window.layers.advice.text(), "what adding the others would bring"


def test_a_sequence_dropped_on_the_panel_joins_the_patient(window, patient, qtbot):
    window.session.open([patient / "patient_t2.nii.gz"])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    place = window.model.crosshair
    drop(window, [patient / "patient_t1.nii.gz"], on=window.panel)
    qtbot.waitUntil(lambda: T1 in window.model.layers, timeout=20_000)
    assert set(window.model.layers) == {T1, T2}
    assert np.allclose(window.model.crosshair, place)


def test_files_dropped_on_the_pictures_open_a_new_patient(loaded, tmp_path, qtbot):
    other = phantoms.write_subject(tmp_path / "other", sequences=(FLAIR,))
    drop(loaded, [other], on=loaded.ortho)
    qtbot.waitUntil(lambda: loaded.session.name == "other", timeout=20_000)
    assert set(loaded.model.layers) == {FLAIR}


def test_nothing_in_the_window_swallows_a_drop(segmented):
    assert [widget for widget in segmented.findChildren(QWidget) if widget.acceptDrops()] == []
    assert segmented.acceptDrops()


def test_a_folder_of_patients_offers_each_of_them(window, tmp_path, qtbot):
    for name in ("anna", "bert"):
        phantoms.write_subject(tmp_path / "cohort" / name, sequences=(T2,))
    drop(window, [tmp_path / "cohort"])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    assert window.session.patients == ("anna", "bert")
    assert window.patient_button.isVisible()
    window.session.choose_patient(1)
    qtbot.waitUntil(lambda: window.session.name == "bert", timeout=20_000)


# --- which file is which ----------------------------------------------------------------------------------------------


def test_an_unknown_file_is_shown_and_asked_for(window, tmp_path, qtbot):
    path = phantoms.write_volume(tmp_path / "scan.nii.gz", phantoms.head(phantoms.grid("LPS"), T2))
    drop(window, [path])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    assert window.model.shown == path, "it can be looked at before anybody has named it"
    assert not window.segment.button.isEnabled()
    assert "which sequence" in window.segment.reason.text()
    qtbot.mouseClick(window.layers.questions[path].button(T2), LEFT)
    qtbot.waitUntil(lambda: window.segment.button.isEnabled(), timeout=20_000)
    assert window.session.entries[2].presence is Presence.PRESENT


def test_two_unknown_files_named_quickly_are_both_named(window, tmp_path, qtbot):
    places = [tmp_path / "odd" / name for name in ("first.nii.gz", "second.nii.gz")]
    for path, sequence in zip(places, (T1, T2), strict=True):
        phantoms.write_volume(path, phantoms.head(phantoms.grid("LPS"), sequence))
    drop(window, [tmp_path / "odd"])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    window.session.assign(places[0], T1)
    window.session.assign(places[1], T2)
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    assert set(window.model.layers) == {T1, T2}
    assert window.session.choice is not None


def test_a_wish_about_a_file_does_not_stop_another_patient_on_the_way(loaded, patient, tmp_path, qtbot):
    other = phantoms.write_subject(tmp_path / "other", sequences=(T2,))
    loaded.session.open([other])
    loaded.session.assign(patient / "patient_t1.nii.gz", FLAIR)
    loaded.session.leave_out(patient / "patient_t1.nii.gz")
    qtbot.waitUntil(lambda: loaded.session.stage is Stage.READY, timeout=20_000)
    assert loaded.session.name == "other"


def test_two_files_can_change_places(loaded, qtbot):
    before = {entry.sequence: entry.path for entry in loaded.session.entries}
    loaded.layers.row(T1).assigned.emit(before[T1], T1CE)
    qtbot.waitUntil(lambda: loaded.session.entries[0].path == before[T1CE], timeout=20_000)
    assert loaded.session.entries[1].path == before[T1]
    assert loaded.model.layers[T1CE].volume.source == before[T1]


def test_a_file_can_be_left_out(loaded, qtbot):
    row = loaded.layers.row(FLAIR)
    titles = [action.text() for action in row.choices().actions()]
    assert titles == ["This is T1", "This is T1ce", "This is T2", "This is FLAIR", "", "Leave it out"]
    row.left_out.emit(row.entry.path)
    qtbot.waitUntil(lambda: FLAIR not in loaded.model.layers, timeout=20_000)
    assert loaded.session.entries[3].presence is Presence.ABSENT


# --- pointer and keys -------------------------------------------------------------------------------------------------


def test_the_wheel_turns_slices_and_with_ctrl_zooms(loaded):
    axial, model = loaded.ortho.views[Plane.AXIAL], loaded.model
    before = model.crosshair
    wheel(axial, 2)
    assert model.crosshair - before == pytest.approx((0, 0, 2))
    wheel(axial, 1, Qt.KeyboardModifier.ControlModifier)
    assert model.zoom == pytest.approx(1.2)
    assert model.crosshair - before == pytest.approx((0, 0, 2))


def test_zoom_keeps_what_is_under_the_pointer(loaded):
    axial = loaded.ortho.views[Plane.AXIAL]
    place = QPointF(middle(axial)) + QPointF(30, -20)
    before = axial.world_at(place)
    axial._zoom(1.5, place)
    assert axial.world_at(place) == pytest.approx(before, abs=0.05)


def test_a_click_moves_the_crosshair_in_all_planes(loaded, qtbot):
    views, model = loaded.ortho.views, loaded.model
    coronal = views[Plane.CORONAL]
    target = model.crosshair + np.array((4.0, 0.0, -3.0))
    qtbot.mouseClick(coronal.viewport(), LEFT, pos=coronal.pixel_of(target).toPoint())
    assert model.crosshair == pytest.approx(target, abs=0.51)
    drawn = views[Plane.AXIAL]
    assert drawn.cut.index_of(model.crosshair) == drawn.index


def test_right_drag_changes_window_and_level_of_this_sequence_alone(loaded):
    axial, model = loaded.ortho.views[Plane.AXIAL], loaded.model
    model.show(T1)
    before, other = model.window, model.window_of(T2)
    drag(axial, RIGHT, QPoint(40, 30))
    assert model.window.width > before.width
    assert model.window.level > before.level
    assert model.window_of(T2) == other
    model.reset_window()
    assert model.window == before


def test_middle_drag_moves_the_picture(loaded):
    axial, model = loaded.ortho.views[Plane.AXIAL], loaded.model
    model.set_view(3.0, model.centre)
    place = QPointF(middle(axial))
    before = axial.world_at(place)
    drag(axial, MIDDLE, QPoint(25, 10))
    assert axial.pixel_of(before) == place + QPointF(25, 10)


@pytest.mark.parametrize(
    ("key", "moved"),
    [
        (Qt.Key.Key_Up, (0, 1, 0)),
        (Qt.Key.Key_Down, (0, -1, 0)),
        (Qt.Key.Key_Left, (1, 0, 0)),
        (Qt.Key.Key_Right, (-1, 0, 0)),
        (Qt.Key.Key_PageUp, (0, 0, 1)),
        (Qt.Key.Key_PageDown, (0, 0, -1)),
    ],
)
def test_arrows_and_page_keys_move_the_crosshair(loaded, qtbot, key, moved):
    axial, model = loaded.ortho.views[Plane.AXIAL], loaded.model
    axial.setFocus()
    before = model.crosshair
    qtbot.keyClick(axial, key)
    assert model.crosshair - before == pytest.approx(moved)


def test_keys_work_wherever_the_focus_is(segmented, qtbot):
    model, overlay = segmented.model, segmented.model.overlay
    segmented.layers.rows[0].setFocus()
    for key, expected in (
        ("[", lambda: model.overlay.opacity == pytest.approx(overlay.opacity - 0.1)),
        ("]", lambda: model.overlay.opacity == pytest.approx(overlay.opacity)),
        ("o", lambda: model.overlay.style is MaskStyle.FILL),
        ("r", lambda: not model.radiological),
        ("3", lambda: model.shown is T2),
        ("1", lambda: model.shown is T1),
    ):
        qtbot.keyClicks(segmented, key)
        assert expected(), key
    qtbot.keyClick(segmented, Qt.Key.Key_F9)
    assert not segmented.panel.isVisible()
    qtbot.keyClick(segmented, Qt.Key.Key_F9)
    assert segmented.panel.isVisible()


def test_space_switches_the_masks_and_still_presses_a_button_reached_by_tab(segmented, qtbot):
    axial = segmented.ortho.views[Plane.AXIAL]
    axial.setFocus()
    qtbot.keyClick(axial, Qt.Key.Key_Space)
    assert not segmented.model.overlay.visible
    eye = segmented.result.eyes["core"]
    eye.setFocus(Qt.FocusReason.TabFocusReason)
    qtbot.keyClick(eye, Qt.Key.Key_Space)
    assert not segmented.model.overlay.core_shown
    assert not segmented.model.overlay.visible


def test_a_double_click_makes_one_big_view_and_back(loaded, qtbot):
    sagittal = loaded.ortho.views[Plane.SAGITTAL]
    qtbot.mouseDClick(sagittal.viewport(), LEFT, pos=middle(sagittal))
    assert sagittal.isVisible()
    assert not loaded.ortho.views[Plane.AXIAL].isVisible()
    assert not loaded.ortho.cell.isVisible()
    qtbot.mouseDClick(sagittal.viewport(), LEFT, pos=middle(sagittal))
    assert all(view.isVisible() for view in loaded.ortho.views.values())


def test_planes_side_by_side_share_one_scale(loaded, qtbot):
    qtbot.waitUntil(lambda: len({view.px_per_mm for view in loaded.ortho.views.values()}) == 1, timeout=20_000)


def test_the_side_is_radiological_until_switched_and_remembered(window, settings):
    assert window.model.radiological
    window.side_choice.button(False).click()
    assert not window.model.radiological
    assert not settings.radiological


def test_opacity_style_colour_and_eyes_reach_the_pictures(segmented, qtbot):
    result, model = segmented.result, segmented.model
    result.opacity.setValue(80)
    assert model.overlay.opacity == pytest.approx(0.8)
    qtbot.mouseClick(result.style_choice.button(MaskStyle.OUTLINE), LEFT)
    assert not model.overlay.filled
    assert not result.opacity.isEnabled()
    qtbot.mouseClick(result.eyes["whole_tumour"], LEFT)
    assert not model.overlay.whole_tumour_shown
    model.set_overlay(core="#CC79A7")
    assert result.swatches["core"].colour == "#CC79A7"


def test_colours_to_choose_from_are_safe_for_everybody(segmented):
    menu = segmented.result.colour_menu("core")
    names = [action.text() for action in menu.actions()]
    assert names == [*SAFE_COLOURS, "", "Another colour..."]
    next(action for action in menu.actions() if action.text() == "Purple").trigger()
    assert segmented.model.overlay.core == "#CC79A7"
    menu.close()


def test_the_histogram_s_handles_set_the_window(loaded, qtbot):
    histogram, model = loaded.ortho.cell.histogram, loaded.model
    before = model.window
    histogram.setFocus()
    qtbot.keyClick(histogram, Qt.Key.Key_Up)
    assert model.window.high < before.high
    assert model.window.low == pytest.approx(before.low)


def test_thumbnails_display_their_sequence(loaded, qtbot):
    thumbnail = next(t for t in loaded.ortho.cell.thumbnails if t.key is FLAIR)
    qtbot.mouseClick(thumbnail, LEFT)
    assert loaded.model.shown is FLAIR


# --- what goes wrong --------------------------------------------------------------------------------------------------


def spoiled(tmp_path: Path, what: str) -> list[Path]:
    grid = phantoms.grid("LPS")
    data, affine = phantoms.head(grid).data, np.array(grid.affine)
    path = tmp_path / "scan_t1.nii.gz"
    if what == "cut off":
        phantoms.write(path, data, affine)
        path.write_bytes(path.read_bytes()[:3000])
    elif what == "text":
        path.write_bytes(b"this is no image")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "not numbers":
        data = data.copy()
        data[3, 3, 3] = np.nan
        phantoms.write(path, data, affine)
    elif what == "a segmentation":
        path = phantoms.write(tmp_path / "scan.nii.gz", phantoms.tumour(grid).data, affine)
    elif what == "no scan":
        path = tmp_path / "letter.txt"
        path.write_text("Dear colleague")
    elif what == "gone":
        path = tmp_path / "gone.nii.gz"
    elif what == "two of a kind":
        phantoms.write(path, data, affine)
        return [path, phantoms.write(tmp_path / "scan_T1w.nii.gz", data, affine)]
    return [path]


@pytest.mark.parametrize(
    "what", ["cut off", "text", "empty", "not numbers", "a segmentation", "no scan", "gone", "two of a kind"]
)
def test_a_bad_file_gives_one_calm_sentence_and_the_patient_stays(loaded, tmp_path, qtbot, what):
    layers = loaded.model.layers
    drop(loaded, spoiled(tmp_path, what), on=loaded.ortho)
    qtbot.waitUntil(lambda: loaded.session.problem is not None, timeout=20_000)
    problem = loaded.session.problem
    assert loaded.banner.isVisible()
    assert loaded.banner.words.text() == problem.sentence
    assert problem.details == "", "the user can mend it, so nobody needs a report"
    assert problem.sentence.endswith(".")
    assert "!" not in problem.sentence
    assert loaded.model.layers == layers
    assert loaded.segment.button.isEnabled()
    qtbot.keyClick(loaded, Qt.Key.Key_Escape)
    assert not loaded.banner.isVisible()


@pytest.mark.parametrize("where", ["the empty window", "the pictures", "the panel"])
def test_a_segmentation_alone_is_called_one(window, patient, tmp_path, qtbot, where):
    grid = phantoms.grid("LPS")
    drawn = phantoms.write(tmp_path / "scan_seg.nii.gz", phantoms.tumour(grid).data, np.array(grid.affine))
    if where != "the empty window":
        drop(window, [patient])
        qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    before = window.session.stage, window.model.layers
    drop(window, [drawn], on=window.panel if where == "the panel" else None)
    qtbot.waitUntil(lambda: window.session.problem is not None, timeout=20_000)
    assert "scan_seg.nii.gz is a segmentation, not an MRI scan" in window.banner.words.text()
    assert (window.session.stage, window.model.layers) == before


def test_a_doubt_about_a_sequence_is_saved_until_somebody_clears_it(window, tmp_path, qtbot):
    scan = phantoms.write_volume(tmp_path / "P1" / "t2_t1_mix.nii.gz", phantoms.head(phantoms.grid("LPS"), T2))
    session = window.session

    def doubts(place: str) -> list[str]:
        session.segment()
        qtbot.waitUntil(lambda: session.stage is Stage.DONE, timeout=20_000)
        session.save(tmp_path / place)
        qtbot.waitUntil(lambda: session.saved is not None, timeout=20_000)
        return json.loads(session.saved.sidecar.read_text())["sequences"]["uncertain"]

    drop(window, [scan])
    qtbot.waitUntil(lambda: session.stage is Stage.READY, timeout=20_000)
    assert doubts("doubted") == ["t2"]
    session.assign(scan, T2)
    assert doubts("cleared") == []


def test_a_scan_without_orientation_is_shown_with_a_warning_and_not_segmented(window, tmp_path, qtbot):
    head = phantoms.head(phantoms.grid("LPS"), T2)
    scan = phantoms.write(tmp_path / "scan_t2.nii.gz", head.data, np.array(head.grid.affine), sform=0, qform=0)
    drop(window, [scan])
    qtbot.waitUntil(lambda: window.session.problem is not None, timeout=20_000)
    assert set(window.model.layers) == {T2}
    assert "left and right are unknown" in window.banner.words.text()
    # The warning comes as soon as the header is read, the reason once it is clear that there is nothing to prepare.
    qtbot.waitUntil(lambda: "left and right are unknown" in window.segment.reason.text(), timeout=20_000)
    assert not window.segment.button.isEnabled()


def test_a_file_of_several_volumes_offers_one_of_them(window, tmp_path, qtbot):
    grid = phantoms.grid("LPS")
    one = phantoms.head(grid, T2).data
    series = np.stack([one, one + 7, one + 14], axis=-1)
    drop(window, [phantoms.write(tmp_path / "scan_t2.nii.gz", series, np.array(grid.affine))])
    qtbot.waitUntil(lambda: window.session.problem is not None, timeout=20_000)
    assert window.banner.volume.isVisible()
    assert window.banner.volume.maximum() == 3
    window.banner.volume.setValue(2)
    qtbot.mouseClick(window.banner.open_volume, LEFT)
    qtbot.waitUntil(lambda: T2 in window.model.layers, timeout=20_000)
    assert window.model.layers[T2].volume.data.max() == pytest.approx(one.max() + 7)
    assert not window.banner.isVisible()


def test_sequences_on_different_grids_are_brought_together_and_it_says_so(window, tmp_path, qtbot):
    folder = phantoms.write_subject(tmp_path / "mixed", sequences=(T1,))
    coarse = phantoms.grid("LPS", shape=(12, 14, 10), spacing=(2.0, 2.0, 2.0))
    phantoms.write_volume(folder / "mixed_t2.nii.gz", phantoms.head(coarse, T2))
    drop(window, [folder])
    qtbot.waitUntil(lambda: window.segment.button.isEnabled() and window.session.stage is Stage.READY, timeout=60_000)
    grids = [layer.volume.grid for layer in window.model.layers.values()]
    assert grids[0].same_as(grids[1])
    assert window.prepared.rows["grid"].isVisible()
    assert "voxels of 1 x 1 x 1 mm" in window.prepared.rows["grid"].words.text()


def test_a_changed_model_is_named_and_refused(loaded, models, qtbot):
    with (models / "teacher" / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    qtbot.mouseClick(loaded.segment.button, LEFT)
    qtbot.waitUntil(lambda: loaded.session.problem is not None, timeout=20_000)
    assert "weights.safetensors" in loaded.banner.words.text()
    assert loaded.session.stage is Stage.READY


def test_without_models_the_button_says_why_it_is_off(window, patient, qtbot, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "folders", lambda: [tmp_path / "nothing"])
    drop(window, [patient])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    assert not window.segment.button.isEnabled()
    assert "no model" in window.segment.reason.text()
    assert window.segment.button.toolTip() == window.session.why_not


def test_a_folder_that_cannot_be_written_loses_nothing(segmented, tmp_path, qtbot, monkeypatch):
    place = tmp_path / "file"
    place.write_text("not a folder")
    choose_folder(monkeypatch, place)
    qtbot.mouseClick(segmented.result.save_button, LEFT)
    qtbot.waitUntil(lambda: segmented.session.problem is not None, timeout=20_000)
    assert segmented.session.saved is None
    assert segmented.session.result is not None
    assert place.read_text() == "not a folder"


def test_a_mistake_in_the_program_is_told_calmly_with_details_to_copy(loaded, qtbot, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the middle of it")

    monkeypatch.setattr("engine.inference.segment", broken)
    qtbot.mouseClick(loaded.segment.button, LEFT)
    qtbot.waitUntil(lambda: loaded.session.problem is not None, timeout=20_000)
    assert "ZeroDivisionError" in loaded.session.problem.sentence
    assert "in the middle of it" not in loaded.banner.words.text()
    qtbot.mouseClick(loaded.banner.copy, LEFT)
    assert "in the middle of it" in QApplication.clipboard().text()
    assert loaded.segment.button.isEnabled()


def test_too_little_memory_is_no_mistake_of_the_program(loaded, qtbot, monkeypatch):
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("engine.inference.segment", exhausted)
    qtbot.mouseClick(loaded.segment.button, LEFT)
    qtbot.waitUntil(lambda: loaded.session.problem is not None, timeout=20_000)
    assert loaded.session.problem.sentence.startswith("Segmenting stopped for lack of memory")
    assert loaded.session.problem.details == ""


def test_after_a_cancelled_opening_nothing_is_segmented_unasked(loaded, patient, qtbot):
    loaded.session.open([patient], segment=True)
    loaded.session.cancel()
    qtbot.waitUntil(lambda: loaded.session.stage is Stage.READY, timeout=20_000)
    stages: list[Stage] = []
    loaded.session.stage_changed.connect(lambda: stages.append(loaded.session.stage))
    loaded.session.leave_out(patient / "patient_t1.nii.gz")
    qtbot.waitUntil(lambda: Stage.READY in stages, timeout=20_000)
    assert T1 not in loaded.model.layers
    assert stages == [Stage.LOADING, Stage.PREPARING, Stage.READY]


def test_an_error_nobody_caught_is_shown_and_the_window_stays(loaded, capfd):
    error = ZeroDivisionError("somewhere in a click")
    _report_to(loaded)(ZeroDivisionError, error, None)
    assert loaded.banner.isVisible()
    assert "somewhere in a click" in loaded.session.problem.details
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_another_patient_opened_while_segmenting_gets_no_mask_of_the_first(loaded, models, tmp_path, qtbot):
    replace(ModelCard.read(models / "teacher"), spacing_mm=0.25).write(models / "teacher")
    other = phantoms.write_subject(tmp_path / "other", sequences=(T2,))
    qtbot.mouseClick(loaded.segment.button, LEFT)
    drop(loaded, [other], on=loaded.ortho)
    qtbot.waitUntil(lambda: loaded.session.name == "other", timeout=20_000)
    qtbot.waitUntil(lambda: not loaded.jobs.busy, timeout=20_000)
    assert loaded.model.labels is None
    assert loaded.session.result is None
    assert loaded.session.stage is Stage.READY


def test_closing_while_segmenting_ends_cleanly(loaded, models, qtbot):
    replace(ModelCard.read(models / "teacher"), spacing_mm=0.25).write(models / "teacher")
    qtbot.mouseClick(loaded.segment.button, LEFT)
    loaded.close()
    assert not loaded.jobs.busy


# --- cards ------------------------------------------------------------------------------------------------------------


def test_the_research_use_notice_is_shown_once_and_stays_until_read(window, settings, qtbot):
    window.show_notice()
    qtbot.keyClicks(window, "r")
    assert window.model.radiological, "nothing below can be reached"
    assert not settings.notice_read
    qtbot.mouseClick(window.card.close_button, LEFT)
    assert settings.notice_read
    assert window.card is None


def test_research_use_is_always_to_be_read(window):
    assert any(
        w.text() == "Research use only" and w.isVisible() for w in window.findChildren(QWidget) if hasattr(w, "text")
    )


# --- looks and access -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [DARK, LIGHT], ids=["dark", "light"])
def test_text_has_contrast(colours):
    for ground in (colours.background, colours.panel, colours.raised):
        assert contrast(colours.text, ground) >= 4.5
        assert contrast(colours.secondary, ground) >= 4.5
    assert contrast(colours.on_accent, colours.accent) >= 4.5
    assert contrast(colours.accent, colours.panel) >= 4.5, "links"


def test_masks_stand_out_from_the_scan_and_from_each_other():
    assert contrast(WHOLE_TUMOUR, "#000000") > 4.5
    assert contrast(CORE, "#000000") > 4.5
    assert (WHOLE_TUMOUR, CORE) == ("#56B4E9", "#E69F00"), "Okabe and Ito"


def test_whatever_is_off_says_why(loaded, window):
    silent = [
        widget.accessibleName()
        for widget in loaded.findChildren(QAbstractButton)
        if widget.isVisible() and not widget.isEnabled() and not widget.toolTip()
    ]
    assert silent == []


def test_tab_reaches_the_controls_in_reading_order(segmented, qtbot):
    segmented.activateWindow()
    reached: list[QWidget] = []
    segmented.patient_button.setFocus()
    for _ in range(60):
        segmented.focusNextChild()
        focus = QApplication.focusWidget()
        if focus in reached:
            break
        reached.append(focus)
    expected = [
        segmented.layers.rows[0],
        segmented.layers.rows[3],
        segmented.segment.button,
        segmented.result.eyes["whole_tumour"],
        segmented.result.eyes["core"],
        segmented.result.opacity,
        segmented.result.save_button,
        segmented.ortho.views[Plane.AXIAL],
        segmented.ortho.views[Plane.CORONAL],
        segmented.ortho.views[Plane.SAGITTAL],
    ]
    places = [reached.index(widget) for widget in expected]
    assert places == sorted(places)


def test_no_words_are_cut_off(segmented: MainWindow, qtbot):
    qtbot.wait(50)
    cut = [
        label.text()
        for label in segmented.findChildren(QLabel)
        if label.isVisible()
        and type(label) is QLabel
        and label.text()
        and not label.wordWrap()
        and label.width() < label.sizeHint().width()
    ]
    assert cut == []


def test_the_appearance_follows_the_system(window):
    hints = QApplication.styleHints()
    try:
        for scheme, colours in ((Qt.ColorScheme.Light, LIGHT), (Qt.ColorScheme.Dark, DARK)):
            hints.colorScheme = lambda scheme=scheme: scheme
            hints.colorSchemeChanged.emit(scheme)
            assert window.theme.colours is colours
    finally:
        del hints.colorScheme


def test_the_appearance_can_be_chosen_and_is_remembered(window, settings):
    window._choose_appearance("light")
    assert window.theme.colours is LIGHT
    assert settings.appearance == "light"
    window._choose_appearance("dark")
    assert window.theme.colours is DARK


def test_more_than_the_masks_is_saved_when_it_is_ticked(segmented, qtbot, tmp_path, monkeypatch):
    out = tmp_path / "everything"
    out.mkdir()
    choose_folder(monkeypatch, out)
    segmented.menu_actions["Save more than the masks"].trigger()
    card = segmented.findChild(SaveCard)
    assert card.isVisible()
    # The scans are no DICOM: the box says why it cannot be ticked.
    assert not card.dicom_seg.isEnabled()
    assert "was not read from DICOM" in card.dicom_seg.toolTip()
    for box in (card.table, card.surfaces, card.probabilities):
        qtbot.mouseClick(box, LEFT, pos=QPoint(8, box.height() // 2))
    qtbot.mouseClick(card.go_on, LEFT)
    qtbot.waitUntil(lambda: "_table.csv" in segmented.result.saved.text(), timeout=60_000)
    names = {path.name.removeprefix("patient_") for path in out.iterdir() if path.suffix != ".json"}
    probabilities = {"whole_tumour_probseg.nii.gz", "tumour_core_probseg.nii.gz"}
    assert names == {"seg.nii.gz", "table.csv", "whole_tumour.stl", "tumour_core.stl", *probabilities}

    # What is in the way is told, and nothing is replaced.
    (out / "patient_table.csv").write_text("mine")
    segmented.menu_actions["Save more than the masks"].trigger()
    [card] = [card for card in segmented.findChildren(SaveCard) if card.isVisible()]
    qtbot.mouseClick(card.table, LEFT, pos=QPoint(8, card.table.height() // 2))
    qtbot.mouseClick(card.go_on, LEFT)
    qtbot.waitUntil(lambda: segmented.session.problem is not None, timeout=60_000)
    assert "patient_table.csv is there already" in str(segmented.session.problem)
    assert (out / "patient_table.csv").read_text() == "mine"


def test_a_report_with_a_heading_looks_as_the_views_do(segmented, qtbot, tmp_path, monkeypatch):
    out = tmp_path / "filed"
    out.mkdir()
    choose_folder(monkeypatch, out)
    segmented.model.set_radiological(False)
    qtbot.mouseClick(segmented.result.report_button, LEFT)
    card = segmented.findChild(SaveCard)
    assert card.report.isChecked()
    assert card.figure.isChecked()
    qtbot.keyClicks(card.title, "Study 0417")
    told = []
    segmented.session.saving_changed.connect(lambda: told.append(segmented.result.saved.text()))
    qtbot.mouseClick(card.go_on, LEFT)
    qtbot.waitUntil(lambda: "patient_report.pdf" in segmented.result.saved.text(), timeout=60_000)
    assert told[0] == "Saving: the masks"
    assert "Saving: writing the report" in told
    names = {path.name for path in out.iterdir() if path.suffix != ".json"}
    assert names == {"patient_seg.nii.gz", "patient_report.pdf", "patient_figure.png"}
    [page] = PdfReader(out / "patient_report.pdf").pages
    words = page.extract_text()
    assert "Study 0417" in words
    assert "Neurological: the patient's left is on the left" in words
    assert "Saving" not in segmented.result.saved.text()


def test_a_heading_needs_something_to_stand_on(segmented, qtbot):
    segmented.menu_actions["Save more than the masks"].trigger()
    card = segmented.findChild(SaveCard)
    assert not card.report.isChecked()
    assert not card.title.isEnabled()
    assert card.title.toolTip() == "Tick Report or Figure sheet first."
    qtbot.mouseClick(card.report, LEFT, pos=QPoint(8, card.report.height() // 2))
    assert card.title.isEnabled()
