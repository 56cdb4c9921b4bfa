"""Correcting the mask with the pointer and the keys, on a real window."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from PySide6.QtCore import QEvent, QPointF, Qt
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import QApplication, QFileDialog

from app.brush import BrushTool
from app.correct_panel import AS_SEGMENTED
from app.correcting import Corrections, Tool
from app.jobs import Jobs
from app.main_window import MainWindow
from app.picture import words_for
from app.session import Result, Session, Stage
from app.slice_view import SliceView
from app.viewer_model import Layer, Mask, Plane, Version, ViewerModel
from engine import export, nifti
from engine.registry import Choice
from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, LabelMap, Sequence
from tests.app.test_window import choose_folder, wheel
from tests.engine import phantoms
from tests.engine.test_export import a_result

T2 = Sequence.T2

LEFT, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton
NO_KEYS, CTRL, SHIFT = (
    Qt.KeyboardModifier.NoModifier,
    Qt.KeyboardModifier.ControlModifier,
    Qt.KeyboardModifier.ShiftModifier,
)
NO_BUTTON = Qt.MouseButton.NoButton


def mouse(
    view: SliceView,
    kind: QEvent.Type,
    place: QPointF,
    button: Qt.MouseButton,
    held: Qt.MouseButton,
    keys: Qt.KeyboardModifier = NO_KEYS,
) -> None:
    event = QMouseEvent(kind, place, QPointF(view.viewport().mapToGlobal(place.toPoint())), button, held, keys)
    QApplication.sendEvent(view.viewport(), event)


def draw(view: SliceView, places: list[QPointF], keys: Qt.KeyboardModifier = NO_KEYS) -> None:
    """Press at the first place, drag over the others, let go at the last."""
    mouse(view, QEvent.Type.MouseButtonPress, places[0], LEFT, LEFT, keys)
    for place in places[1:]:
        mouse(view, QEvent.Type.MouseMove, place, NO_BUTTON, LEFT, keys)
    mouse(view, QEvent.Type.MouseButtonRelease, places[-1], LEFT, NO_BUTTON, keys)


def axial(window: MainWindow) -> SliceView:
    return window.ortho.views[Plane.AXIAL]


def away_from_the_tumour(view: SliceView) -> list[QPointF]:
    """A way across the patient's left side."""
    ends = [np.add(place, (3.0, -5.0, 0.0)) for place in ((-5.2, 3.1, 0.0), (-2.9, -3.4, 0.0), (-6.1, -5.0, 0.0))]
    ends = [np.array((x, y, view.model.crosshair[2])) for x, y, _ in ends]
    return [view.pixel_of(end) for end in ends]


def near_path(window: MainWindow, places: list[QPointF], radius: float, ball: bool) -> np.ndarray:
    """Which voxels lie within a radius of the pointer's way over the axial view, worked out voxel by voxel."""
    view, grid = axial(window), window.model.labels.grid
    points = grid.to_world(np.indices(grid.shape).reshape(3, -1).T)
    way = [view.world_at(place) for place in places]
    distance = np.full(len(points), np.inf)
    for a, b in zip(way, way[1:] or way, strict=False):
        share = np.clip((points - a) @ (b - a) / max((b - a) @ (b - a), 1e-12), 0, 1)
        distance = np.minimum(distance, np.linalg.norm(points - a - share[:, None] * (b - a), axis=1))
    near = distance <= radius
    if not ball:
        near &= np.abs(points[:, 2] - window.model.crosshair[2]) < 0.5
    return near.reshape(grid.shape)


@pytest.mark.parametrize("ball", [False, True])
@pytest.mark.parametrize("core", [False, True])
def test_a_stroke_changes_exactly_the_voxels_under_the_brush_and_undo_brings_back_every_byte(
    segmented, qtbot, ball, core
):
    before = segmented.model.labels.data.copy()
    qtbot.keyClick(segmented, Qt.Key.Key_B)
    if ball:
        qtbot.keyClick(segmented, Qt.Key.Key_D)
    if core:
        qtbot.keyClick(segmented, Qt.Key.Key_C)
    segmented.corrections.take(radius_mm=2.3)
    places = away_from_the_tumour(axial(segmented))
    near = near_path(segmented, places, 2.3, ball)
    draw(axial(segmented), places)
    expected = before.copy()
    expected[near & ((before == 0) | core)] = TUMOUR_CORE if core else REST_OF_WHOLE_TUMOUR
    assert (expected != before).sum() > 20
    now = segmented.model.labels.data
    assert np.array_equal(now, expected)
    assert segmented.session.result.segmentation.edited_by_hand == 1

    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL)
    assert np.array_equal(segmented.model.labels.data, before)
    assert segmented.session.result.segmentation.edited_by_hand == 0
    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL | SHIFT)
    assert np.array_equal(segmented.model.labels.data, expected)
    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL)
    qtbot.keyClick(segmented, Qt.Key.Key_Y, CTRL)
    assert np.array_equal(segmented.model.labels.data, expected)


def test_a_result_that_was_given_out_does_not_change_under_whoever_works_with_it(segmented, qtbot):
    places = away_from_the_tumour(axial(segmented))
    segmented.corrections.take(tool=Tool.PAINT, radius_mm=2.0)
    draw(axial(segmented), places)
    held = segmented.session.result.segmentation.label_map
    painted = held.data.copy()
    mouse(axial(segmented), QEvent.Type.MouseButtonPress, places[0], LEFT, LEFT, CTRL)
    assert not np.array_equal(segmented.model.labels.data, painted), "the views show what is erased"
    assert np.array_equal(held.data, painted)
    mouse(axial(segmented), QEvent.Type.MouseButtonRelease, places[0], LEFT, NO_BUTTON, CTRL)
    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL)
    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL)
    assert np.array_equal(held.data, painted)


def test_what_is_known_of_the_whole_mask_follows_a_correction(segmented, qtbot):
    before = segmented.model.mask.areas_mm2.copy()
    segmented.corrections.take(tool=Tool.PAINT, radius_mm=3.0)
    draw(axial(segmented), away_from_the_tumour(axial(segmented)))
    qtbot.waitUntil(lambda: not np.array_equal(segmented.model.mask.areas_mm2, before), timeout=10_000)
    labels = segmented.model.labels
    assert segmented.model.mask.areas_mm2[0].sum() == pytest.approx(np.count_nonzero(labels.data))
    assert segmented.session.result.segmentation.edited_by_hand == 1


def test_erasing_and_ctrl_turn_each_other_around(segmented, qtbot):
    places = away_from_the_tumour(axial(segmented))
    before = segmented.model.labels.data.copy()
    segmented.corrections.take(tool=Tool.ERASE, radius_mm=2.0)
    draw(axial(segmented), places, CTRL)
    painted = np.count_nonzero(segmented.model.labels.data)
    assert painted > np.count_nonzero(before)
    draw(axial(segmented), places)
    assert np.array_equal(segmented.model.labels.data, np.where(near_path(segmented, places, 2.0, False), 0, before))


def test_volumes_follow_the_brush_before_it_is_lifted(segmented, qtbot):
    view, shown = axial(segmented), segmented.result.volumes["whole_tumour"]
    segmented.corrections.take(tool=Tool.PAINT, radius_mm=4.0, ball=True)
    before = float(shown.text().split()[0])
    place = away_from_the_tumour(view)[0]
    mouse(view, QEvent.Type.MouseButtonPress, place, LEFT, LEFT)
    labels = segmented.model.labels
    assert float(shown.text().split()[0]) > before
    assert float(shown.text().split()[0]) == pytest.approx(labels.ml(labels.whole_tumour), abs=0.051)
    mouse(view, QEvent.Type.MouseButtonRelease, place, LEFT, NO_BUTTON)
    # What is looked through after this stroke comes while the next one is drawn.
    areas = segmented.model.mask.areas_mm2
    mouse(view, QEvent.Type.MouseButtonPress, place, LEFT, LEFT, CTRL)
    qtbot.waitUntil(lambda: segmented.model.mask.areas_mm2 is not areas, timeout=10_000)
    labels = segmented.model.labels
    assert float(shown.text().split()[0]) == pytest.approx(labels.ml(labels.whole_tumour), abs=0.051)
    mouse(view, QEvent.Type.MouseButtonRelease, place, LEFT, NO_BUTTON, CTRL)


def test_while_painting_wheel_right_and_shift_do_what_they_always_do(segmented):
    view, model = axial(segmented), segmented.model
    segmented.corrections.take(tool=Tool.PAINT)
    labels, place = model.labels.data.copy(), QPointF(view.viewport().rect().center())
    crosshair, window, centre = model.crosshair, model.window, model.centre
    wheel(view, 1)
    assert model.crosshair[2] == pytest.approx(crosshair[2] + 1)
    for button, keys in ((RIGHT, NO_KEYS), (LEFT, SHIFT)):
        mouse(view, QEvent.Type.MouseButtonPress, place, button, button, keys)
        mouse(view, QEvent.Type.MouseMove, place + QPointF(20, 15), NO_BUTTON, button, keys)
        mouse(view, QEvent.Type.MouseButtonRelease, place + QPointF(20, 15), button, NO_BUTTON, keys)
    assert model.window != window
    assert not np.allclose(model.centre, centre)
    assert np.array_equal(model.labels.data, labels)
    assert segmented.corrections.applied == ()


def test_escape_takes_back_the_stroke_then_lays_down_the_tool(segmented, qtbot):
    view = axial(segmented)
    qtbot.keyClick(segmented, Qt.Key.Key_B)
    before = segmented.model.labels.data.copy()
    places = away_from_the_tumour(view)
    mouse(view, QEvent.Type.MouseButtonPress, places[0], LEFT, LEFT)
    assert not np.array_equal(segmented.model.labels.data, before)
    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL)
    assert not np.array_equal(segmented.model.labels.data, before), "undo waits for the stroke to end"
    qtbot.keyClick(segmented, Qt.Key.Key_Escape)
    assert np.array_equal(segmented.model.labels.data, before)
    mouse(view, QEvent.Type.MouseMove, places[1], NO_BUTTON, LEFT)
    mouse(view, QEvent.Type.MouseButtonRelease, places[1], LEFT, NO_BUTTON)
    assert np.array_equal(segmented.model.labels.data, before)
    assert segmented.corrections.applied == ()
    qtbot.keyClick(segmented, Qt.Key.Key_Escape)
    assert segmented.corrections.hand.tool is Tool.LOOK
    qtbot.mouseClick(view.viewport(), LEFT, pos=places[2].toPoint())
    assert np.array_equal(segmented.model.labels.data, before)


def test_everything_can_be_done_by_key_at_the_crosshair(segmented, qtbot):
    model, corrections = segmented.model, segmented.corrections
    grid = model.labels.grid
    model.move_crosshair(np.array((-2.0, -5.0, 7.0)))
    here = model.voxel()
    for key in (Qt.Key.Key_B, Qt.Key.Key_F):
        qtbot.keyClick(segmented, key)
    assert model.labels.data[here] == REST_OF_WHOLE_TUMOUR
    radius = corrections.hand.radius_mm
    qtbot.keyClicks(segmented, "aas")
    assert corrections.hand.radius_mm == pytest.approx(radius / 1.25)
    for key in (Qt.Key.Key_E, Qt.Key.Key_F):
        qtbot.keyClick(segmented, key)
    assert model.labels.data[here] == 0
    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL)
    for key in (Qt.Key.Key_K, Qt.Key.Key_D, Qt.Key.Key_F):
        qtbot.keyClick(segmented, key)
    assert not (model.labels.data > 0)[tuple(np.moveaxis(np.indices(grid.shape), 0, -1)[here])]
    assert [edit.name.split(" of")[0] for edit in corrections.applied] == ["paint on axial 11", "remove island"]


def test_undo_says_what_it_takes_back_in_menu_button_and_history(segmented, qtbot):
    panel, entries = segmented.correct, segmented.menu_actions
    assert not panel.undo_button.isEnabled()
    assert not entries["Undo"].isEnabled()
    segmented.corrections.take(tool=Tool.ERASE, core=True)
    draw(axial(segmented), [axial(segmented).pixel_of(segmented.model.crosshair)])
    number = axial(segmented).cut.number_of(axial(segmented).index)
    assert entries["Undo"].text() == f"Undo erase core on axial {number}"
    assert panel.undo_button.accessibleName() == f"Undo erase core on axial {number}"
    segmented.corrections.take(core=False, ball=True)
    qtbot.mouseClick(panel.grow_button, LEFT)
    assert entries["Undo"].text() == "Undo grow whole tumour by 1 mm"
    after = segmented.model.labels.data.copy()
    menu = panel.history()
    titles = [entry.text() for entry in menu.actions()]
    assert titles == ["Grow whole tumour by 1 mm", f"Erase core on axial {number}", AS_SEGMENTED]
    menu.actions()[-1].trigger()
    menu.close()
    assert entries["Redo"].text() == f"Redo erase core on axial {number}"
    assert np.array_equal(segmented.model.labels.data, segmented.corrections.editor.base.data)
    menu = panel.history()
    assert [entry.isChecked() for entry in menu.actions()] == [False, False, True]
    menu.actions()[0].trigger()
    menu.close()
    assert np.array_equal(segmented.model.labels.data, after)


def test_a_limited_brush_leaves_other_intensities_alone(segmented, qtbot):
    panel, corrections = segmented.correct, segmented.corrections
    corrections.take(tool=Tool.PAINT, radius_mm=15.0, ball=True)
    panel.limit.click()
    assert corrections.hand.limited
    assert panel.low.isEnabled()
    panel.low.setValue(80)
    panel.high.setValue(95)
    values = segmented.model.layer.volume.data
    before = segmented.model.labels.data.copy()
    draw(axial(segmented), [axial(segmented).pixel_of(segmented.model.crosshair)])
    changed = segmented.model.labels.data != before
    assert changed.any()
    assert values[changed].min() >= 80
    assert values[changed].max() <= 95
    untouched = (
        (before == 0)
        & ~changed
        & near_path(segmented, [axial(segmented).pixel_of(segmented.model.crosshair)] * 2, 14.9, True)
    )
    assert not ((values[untouched] >= 80) & (values[untouched] <= 95)).any()


def test_what_changes_nothing_says_why(segmented, qtbot):
    segmented.corrections.take(tool=Tool.PAINT)
    qtbot.keyClick(segmented, Qt.Key.Key_H)
    assert segmented.correct.note.text() == "The whole tumour has no holes on this slice."
    qtbot.keyClick(segmented, Qt.Key.Key_J)
    assert "Draw on two slices" in segmented.correct.note.text()
    assert segmented.session.problem is None, "the pictures do not jump for it"


def test_between_two_slices_drawn_the_rest_is_filled_in(segmented, qtbot):
    view, model = axial(segmented), segmented.model
    segmented.corrections.take(tool=Tool.PAINT, radius_mm=2.0)
    places = away_from_the_tumour(view)[:1]
    world = view.world_at(places[0])
    draw(view, places)
    wheel(view, 4)
    draw(view, places)
    wheel(view, -2)
    middle = view.cut.grid.to_voxel(np.array([[world[0], world[1], model.crosshair[2]]]))[0]
    voxel = tuple(np.rint(middle).astype(int))
    assert model.labels.data[voxel] == 0
    qtbot.keyClick(segmented, Qt.Key.Key_J)
    assert model.labels.data[voxel] == REST_OF_WHOLE_TUMOUR
    assert segmented.menu_actions["Undo"].text().startswith("Undo interpolate whole tumour from axial")


def test_a_region_can_be_copied_from_a_mask_file(segmented, tmp_path, qtbot, monkeypatch):
    grid, corrections = segmented.model.labels.grid, segmented.corrections
    theirs = np.roll(phantoms.tumour(grid).data, 2, axis=0)
    # In the labels of BraTS 2018, as an expert's file has them.
    path = phantoms.write(tmp_path / "expert_seg.nii.gz", np.where(theirs == 1, 4, theirs), grid.affine)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    corrections.take(tool=Tool.PAINT, core=True)
    for number, title in enumerate(("Core of a mask file...", "Everything of a mask file..."), start=1):
        entries = {entry.text(): entry for entry in segmented.correct.sources().actions()}
        entries[title].trigger()
        qtbot.waitUntil(lambda number=number: len(corrections.applied) == number, timeout=10_000)
        assert np.array_equal(segmented.model.labels.tumour_core, theirs == TUMOUR_CORE)
    assert np.array_equal(segmented.model.labels.data, theirs)
    names = [edit.name for edit in corrections.applied]
    assert names == ["copy core from expert_seg.nii.gz", "copy everything from expert_seg.nii.gz"]


def test_a_region_can_be_copied_from_what_is_compared_with(segmented):
    grid, model = segmented.model.labels.grid, segmented.model
    theirs = LabelMap(np.roll(phantoms.tumour(grid).data, 3, axis=1), grid)
    model.set_other(Version("Student", Mask.of(theirs, model.layers)))
    before = model.labels.data.copy()
    entries = {entry.text(): entry for entry in segmented.correct.sources().actions()}
    entries["Whole tumour of Student"].trigger()
    assert np.array_equal(model.labels.whole_tumour, theirs.whole_tumour)
    assert np.array_equal(model.labels.tumour_core, (before == TUMOUR_CORE) & theirs.whole_tumour)
    assert segmented.corrections.applied[-1].name == "copy whole tumour from Student"
    entries["Everything of Student"].trigger()
    assert np.array_equal(model.labels.data, theirs.data)


def test_a_corrected_mask_says_so_in_every_output_and_is_not_replaced_by_a_new_result(
    segmented, tmp_path, qtbot, monkeypatch
):
    out, session = tmp_path / "out", segmented.session
    segmented.corrections.take(tool=Tool.PAINT, ball=True)
    draw(axial(segmented), away_from_the_tumour(axial(segmented)))
    assert "Corrected by hand (1 correction)" in segmented.result.notes.text()
    assert "Corrected by hand (1 correction)" in segmented.status.text()
    assert "Corrected by hand (1)" in words_for(segmented.model, {Plane.AXIAL})[1], "under pictures"
    choose_folder(monkeypatch, out)
    qtbot.mouseClick(segmented.result.save_button, LEFT)
    qtbot.waitUntil(lambda: session.saved is not None, timeout=10_000)
    record = json.loads(session.saved.sidecar.read_text())
    assert record["edited_by_hand"] == 1
    saved = nifti.read_label_map(session.saved.mask, nifti.Convention.GLIASCOPE)
    assert np.array_equal(saved.data, segmented.model.labels.data)
    assert record["volumes_ml"]["whole_tumour"] == pytest.approx(saved.ml(saved.whole_tumour), abs=0.001)

    # Corrected further, the same sitting replaces what it wrote.
    draw(axial(segmented), away_from_the_tumour(axial(segmented)), CTRL)
    assert session.saved is None
    qtbot.mouseClick(segmented.result.save_button, LEFT)
    qtbot.waitUntil(lambda: session.saved is not None, timeout=10_000)
    corrected = session.saved.mask.read_bytes()
    assert json.loads(session.saved.sidecar.read_text())["edited_by_hand"] == 2

    # A new result does not.
    session.segment(replace_corrections=True)
    qtbot.waitUntil(lambda: session.stage is Stage.DONE, timeout=20_000)
    session.save(out)
    qtbot.waitUntil(lambda: session.problem is not None, timeout=10_000)
    assert "corrected by hand" in session.problem.sentence
    assert (out / "patient_seg.nii.gz").read_bytes() == corrected


def test_taking_everything_back_leaves_an_untouched_result(segmented, tmp_path, qtbot):
    segmented.corrections.take(tool=Tool.PAINT)
    draw(axial(segmented), away_from_the_tumour(axial(segmented)))
    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL)
    segmented.session.save(tmp_path)
    qtbot.waitUntil(lambda: segmented.session.saved is not None, timeout=10_000)
    assert json.loads(segmented.session.saved.sidecar.read_text())["edited_by_hand"] == 0
    assert "Corrected" not in segmented.status.text()


def test_segmenting_again_asks_before_it_gives_up_corrections(segmented, qtbot):
    segmented.corrections.take(tool=Tool.PAINT)
    draw(axial(segmented), away_from_the_tumour(axial(segmented)))
    corrected = segmented.model.labels.data.copy()
    qtbot.mouseClick(segmented.segment.button, LEFT)
    assert segmented.session.stage is Stage.DONE
    assert segmented.banner.words.text() == "Segmenting again replaces your correction."
    keep = next(button for button in segmented.banner.buttons if button.text() == "Keep")
    qtbot.mouseClick(keep, LEFT)
    assert np.array_equal(segmented.model.labels.data, corrected)
    qtbot.mouseClick(segmented.segment.button, LEFT)
    again = next(button for button in segmented.banner.buttons if button.text() == "Segment again")
    qtbot.mouseClick(again, LEFT)
    qtbot.waitUntil(lambda: segmented.session.stage is Stage.DONE and not segmented.corrections.applied, timeout=20_000)
    assert not np.array_equal(segmented.model.labels.data, corrected)


def test_without_a_result_there_is_nothing_to_correct(loaded, qtbot):
    qtbot.keyClick(loaded, Qt.Key.Key_B)
    assert loaded.corrections.hand.tool is Tool.LOOK
    assert not loaded.correct.isVisible()


def test_another_result_lays_the_tool_down_and_forgets_the_history(segmented, tmp_path, qtbot):
    segmented.corrections.take(tool=Tool.PAINT)
    draw(axial(segmented), away_from_the_tumour(axial(segmented)))
    segmented.session.open([phantoms.write_subject(tmp_path / "other")])
    qtbot.waitUntil(lambda: segmented.session.name == "other", timeout=20_000)
    assert segmented.corrections.applied == ()
    assert segmented.corrections.hand.tool is Tool.LOOK
    assert axial(segmented).tool is None


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_in_all_orientations_what_is_painted_on_the_left_is_saved_on_the_left(qapp, qtbot, tmp_path, orientation):
    subject = phantoms.subject(phantoms.grid(orientation, spacing=(1.0, 1.2, 1.7), oblique=(4, -6, 3)), (T2,))
    marker, centre = np.add(phantoms.LEFT_MARKER, (3.0, -5.0, 7.0)), np.array((3.0, -5.0, 7.0))
    model, jobs = ViewerModel(), Jobs()
    session = Session(model, jobs)
    model.set_layers({T2: Layer.of(subject[T2])})
    found = a_result(subject)
    session.put_result(Result(found, Mask.of(found.label_map, model.layers), Choice(found.card, "", (T2,)), 1.0))
    model.set_mask(session.result.mask)
    corrections = Corrections(model, session, jobs)
    corrections.take(tool=Tool.PAINT, radius_mm=1.6, core=True)
    view = SliceView(model, Plane.AXIAL)
    qtbot.addWidget(view)
    view.resize(400, 400)
    view.show()
    view.set_scale(view.fitting_scale())
    view.tool = BrushTool(corrections)
    model.move_crosshair(marker)
    assert view.pixel_of(marker).x() > view.pixel_of(centre).x() + 20, "the patient's left is on the right"
    draw(view, [view.pixel_of(marker)])
    jobs.close()

    corrected = session.result.segmentation
    saved = export.save(corrected, subject, tmp_path)
    image = nib.load(saved.mask)
    added = np.argwhere((np.asarray(image.dataobj) == TUMOUR_CORE) & ~found.label_map.tumour_core)
    assert len(added) >= 3
    world = nib.affines.apply_affine(image.affine, added)
    assert np.linalg.norm(world - marker, axis=1).max() <= 1.6 + 1.1
    assert (world[:, 0] < centre[0] - 4).all()
    assert corrections.applied[-1].name.startswith("paint core on axial")
