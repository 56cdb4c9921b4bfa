"""What is done to scans before segmenting, as a person sees it, undoes it and does it otherwise in the window."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QPoint, Qt
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication

from app.application import make_window
from app.correcting import Tool
from app.main_window import MainWindow
from app.preparation_panel import StepRow
from app.series_card import SeriesCard
from app.session import Presence, Stage
from app.slice_layers import edge_lines
from app.viewer_model import Layout, Plane, Version, Way
from engine import alignment, bias, brain, contents, dicom, nifti, sequences, unusual
from engine.alignment import Alignment
from engine.contents import Recognition
from engine.dicom import Series, Study
from engine.pipeline import Step, Switch
from engine.unusual import Doubt, Kind
from engine.volume import Grid, LabelMap, Sequence, Volume
from tests.app.conftest import drop
from tests.engine import phantoms

T1, T1CE, T2, FLAIR = Sequence
LEFT = Qt.MouseButton.LeftButton
CTRL, SHIFT, ALT = (
    Qt.KeyboardModifier.ControlModifier,
    Qt.KeyboardModifier.ShiftModifier,
    Qt.KeyboardModifier.AltModifier,
)
HEAD = (3.0, -5.0, 7.0)
# How far the header of the T2 puts it from the T1, in mm.
AWAY = np.array([3.0, -2.0, 0.0])


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A T1 and a T2 that lie apart, with a skull; what takes real heads answers as it does for those."""
    folder = phantoms.write_subject(tmp_path / "raw", sequences=(T1,))
    on = phantoms.grid("LPS")
    elsewhere = Grid(on.shape, _shift(AWAY) @ on.affine)
    phantoms.write_volume(folder / "raw_t2.nii.gz", Volume(phantoms.head(on, T2).data, elsewhere, T2))

    def align(moving: Volume, reference: Volume, progress=None, start=None) -> Alignment:
        apart = _middle(reference) - _middle(moving)
        return Alignment(_shift(apart), False, float(np.linalg.norm(apart)), 0.0, 0.9, "good", 0.1)

    def find_brain(volumes, progress=None):
        volume = next(iter(volumes))
        inside = np.zeros(volume.data.shape, bool)
        inside[6:-6, 6:-6, 4:-4] = True
        return inside

    monkeypatch.setattr(alignment, "align", align)
    monkeypatch.setattr(alignment, "already_aligned", lambda *_: False)
    monkeypatch.setattr(alignment, "quality", lambda *_: 0.9)
    monkeypatch.setattr(brain, "is_stripped", lambda *_: False)
    monkeypatch.setattr(brain, "find_brain", find_brain)
    monkeypatch.setattr(bias, "correct", lambda volume, *_: replace(volume, data=volume.data * np.float32(1.1)))
    return folder


def _shift(mm: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


def _middle(volume: Volume) -> np.ndarray:
    return volume.grid.to_world((np.array([volume.grid.shape]) - 1) / 2)[0]


@pytest.fixture
def prepared(window: MainWindow, raw: Path, qtbot) -> MainWindow:
    """The window with that patient, prepared."""
    drop(window, [raw])
    _until_ready(window, qtbot)
    return window


def _until_ready(window: MainWindow, qtbot) -> None:
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY and window.session.worked is not None, timeout=60_000)


def _segment(window: MainWindow, qtbot) -> None:
    qtbot.mouseClick(window.segment.button, LEFT)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE or window.session.unread, timeout=60_000)


def _row(window: MainWindow, step: Step) -> StepRow:
    return window.prepared.rows[step.value]


def _picture(window: MainWindow) -> QImage:
    return window.ortho.views[Plane.AXIAL].viewport().grab().toImage()


def _look(window: MainWindow, step: Step, qtbot) -> None:
    qtbot.mouseClick(_row(window, step).look_button, LEFT)
    qtbot.waitUntil(lambda: window.model.check is not None, timeout=20_000)


def test_a_patient_that_models_know_as_it_is_keeps_the_panel_folded(loaded):
    panel = loaded.prepared
    assert panel.isVisible()
    assert not panel.steps.isVisible()
    assert "Nothing had to be done" in panel.summary.text()
    assert loaded.session.worked is not None
    assert not loaded.session.worked.changed


def test_every_step_says_what_it_did_and_the_models_see_what_came_of_it(prepared, qtbot):
    panel, session = prepared.prepared, prepared.session
    assert panel.steps.isVisible()
    assert _row(prepared, Step.ALIGN).switch.isChecked()
    assert "T2 3.6 mm" in _row(prepared, Step.ALIGN).words.text()
    assert "ml of brain are left" in _row(prepared, Step.STRIP).words.text()
    assert not _row(prepared, Step.BIAS).switch.isChecked(), "done only where it is asked for"
    assert all(" s" in _row(prepared, step).seconds.text() for step in (Step.ALIGN, Step.STRIP))
    # What is looked at has its skull, what the model is given has none.
    shown = prepared.model.layers[T1].volume
    assert (shown.data > 0).sum() > (session.subject[T1].data > 0).sum() > 0
    # The moved T2 fits the T1 now.
    assert phantoms.value_at(prepared.model.layers[T2].volume, phantoms.LEFT_MARKER, HEAD) == pytest.approx(200, abs=3)
    _segment(prepared, qtbot)
    assert session.result.segmentation.label_map.grid.same_as(session.worked.grid)
    assert not panel.steps.isVisible(), "a result needs the room"
    assert "skull removed" in panel.summary.text()


def test_a_step_is_looked_at_before_and_after_and_put_away(prepared, qtbot):
    plain = _picture(prepared)
    _look(prepared, Step.STRIP, qtbot)
    bar = prepared.check_bar
    assert bar.isVisible()
    qtbot.waitUntil(lambda: _picture(prepared).size() != plain.size(), timeout=5_000)
    after = _picture(prepared)
    assert after != plain
    qtbot.keyPress(prepared, Qt.Key.Key_X)
    assert prepared.preparation.at_before
    before = _picture(prepared)
    assert before != after
    qtbot.keyRelease(prepared, Qt.Key.Key_X)
    assert _picture(prepared) == after
    qtbot.mouseClick(bar.ways.button(Way.SWIPE), LEFT)
    assert _picture(prepared) not in (before, after)
    qtbot.keyClick(prepared, Qt.Key.Key_Escape)
    assert not bar.isVisible()
    qtbot.waitUntil(lambda: _picture(prepared) == plain, timeout=5_000)


def test_an_alignment_is_judged_by_checkerboard_edges_and_swipe(prepared, qtbot):
    _look(prepared, Step.ALIGN, qtbot)
    bar, preparation = prepared.check_bar, prepared.preparation
    assert preparation.sequence is T2, "the T1 stayed where it was"
    seen = []
    for way in Way:
        qtbot.mouseClick(bar.ways.button(way), LEFT)
        assert prepared.model.check.way is way
        seen.append(_picture(prepared))
    assert all(first != second for n, first in enumerate(seen) for second in seen[:n])
    # Where the header had put it, nothing fits.
    qtbot.mouseClick(bar.times.button(True), LEFT)
    assert np.allclose(prepared.model.check.current.volume.grid.affine, preparation.worked.raw[T2].grid.affine)


def test_layouts_that_have_no_room_for_a_look_come_back_after_it(prepared, qtbot):
    prepared.model.set_layout(Layout.SEQUENCES)
    _look(prepared, Step.STRIP, qtbot)
    assert prepared.model.layout is Layout.PLANES
    qtbot.mouseClick(prepared.check_bar.close_button, LEFT)
    assert prepared.model.layout is Layout.SEQUENCES


def test_edges_are_lines_one_pixel_wide_where_the_slope_is_steepest():
    picture = np.zeros((40, 40), np.float32)
    picture[:, 20:] = 100.0
    lines = edge_lines(picture)
    assert set(np.flatnonzero(lines[20])) <= {19, 20}
    assert lines[20].sum() == 1
    assert not edge_lines(np.zeros((8, 8), np.float32)).any()


def test_a_scan_is_pushed_by_buttons_and_lies_there_once_that_is_used(prepared, qtbot):
    _look(prepared, Step.ALIGN, qtbot)
    before = _picture(prepared)
    nudge, worked = prepared.prepared.nudge, prepared.session.worked
    qtbot.mouseClick(nudge.buttons["push", 0, 1], LEFT)
    qtbot.mouseClick(nudge.buttons["push", 0, 1], LEFT)
    assert nudge.shifts[0].text() == "+2.0"
    assert _picture(prepared) != before, "the picture follows at once"
    qtbot.mouseClick(nudge.reset_button, LEFT)
    assert _picture(prepared) == before
    qtbot.mouseClick(nudge.buttons["push", 1, -1], LEFT)
    qtbot.waitUntil(lambda: "fit here is" in nudge.fit.text() and "measured" not in nudge.fit.text(), timeout=20_000)
    qtbot.mouseClick(nudge.use_button, LEFT)
    qtbot.waitUntil(lambda: prepared.session.worked is not worked, timeout=60_000)
    _until_ready(prepared, qtbot)
    assert np.allclose(prepared.session.worked.matrices[T2][:3, 3], -AWAY + [0, -1, 0], atol=1e-6)
    # And back to what the program finds.
    _look(prepared, Step.ALIGN, qtbot)
    qtbot.mouseClick(nudge.automatic_button, LEFT)
    qtbot.waitUntil(lambda: not prepared.session.settings.matrices, timeout=60_000)
    _until_ready(prepared, qtbot)
    assert np.allclose(prepared.session.worked.matrices[T2][:3, 3], -AWAY, atol=1e-6)


def test_a_scan_is_pushed_and_turned_with_the_pointer_and_by_keys(prepared, qtbot):
    _look(prepared, Step.ALIGN, qtbot)
    view, preparation = prepared.ortho.views[Plane.AXIAL], prepared.preparation
    start = view.pixel_of(prepared.model.crosshair).toPoint()
    by = QPoint(round(4 * view.px_per_mm), 0)
    qtbot.mousePress(view.viewport(), LEFT, pos=start)
    qtbot.mouseMove(view.viewport(), start + by)
    qtbot.mouseRelease(view.viewport(), LEFT, pos=start + by)
    # Radiological: to the right of the screen is to the patient's left.
    assert preparation.nudge.shift_mm[0] == pytest.approx(-4, abs=0.2)
    assert preparation.nudge.shift_mm[1:] == pytest.approx((0, 0), abs=0.2)
    preparation.reset_nudge()
    prepared.layouts.activate(Plane.AXIAL)
    qtbot.keyClick(prepared, Qt.Key.Key_Right, ALT)
    assert preparation.nudge.shift_mm == (-1.0, 0.0, 0.0)
    qtbot.keyClick(prepared, Qt.Key.Key_Up, ALT | SHIFT)
    assert preparation.nudge.shift_mm == pytest.approx((-1.0, 0.2, 0.0))
    preparation.reset_nudge()
    qtbot.keyClick(prepared, Qt.Key.Key_Period, ALT)
    degrees = preparation.nudge.turn_deg[2]
    assert abs(degrees) == 1.0
    # With the clock on the screen: what was above the crosshair goes to the right.
    about = np.array(preparation.nudge.about)
    turned = alignment.nudge(np.eye(4), turn_deg=preparation.nudge.turn_deg, about=preparation.nudge.about)
    above = about + [0, 10, 0]
    assert view.pixel_of((turned @ [*above, 1])[:3]).x() > view.pixel_of(above).x()


def test_looking_for_the_place_from_where_a_scan_was_pushed_proposes_one(prepared, qtbot):
    _look(prepared, Step.ALIGN, qtbot)
    preparation = prepared.preparation
    preparation.push(2, 5.0)
    qtbot.mouseClick(prepared.prepared.nudge.again_button, LEFT)
    qtbot.waitUntil(lambda: preparation.nudge.start is not None, timeout=20_000)
    assert np.allclose(preparation.matrix[:3, 3], -AWAY, atol=1e-6)
    assert preparation.fit == "good"
    assert prepared.prepared.nudge.use_button.isVisible(), "nothing is used before the user says so"


def test_a_step_is_undone_and_done_again_by_its_box(prepared, qtbot):
    session = prepared.session
    stripped = session.subject[T1]
    qtbot.mouseClick(_row(prepared, Step.STRIP).switch, LEFT)
    qtbot.waitUntil(lambda: session.settings.strip is Switch.OFF, timeout=60_000)
    _until_ready(prepared, qtbot)
    assert not _row(prepared, Step.STRIP).switch.isChecked()
    assert (session.subject[T1].data > 0).sum() > (stripped.data > 0).sum()
    qtbot.mouseClick(_row(prepared, Step.STRIP).switch, LEFT)
    qtbot.waitUntil(lambda: session.settings.strip is Switch.AUTO, timeout=60_000)
    _until_ready(prepared, qtbot)
    assert _row(prepared, Step.STRIP).switch.isChecked()
    assert np.array_equal(session.subject[T1].data > 0, stripped.data > 0)


def test_doing_a_step_otherwise_asks_before_it_drops_a_corrected_mask(prepared, qtbot):
    _segment(prepared, qtbot)
    hands = prepared.corrections
    hands.take(tool=Tool.PAINT, radius_mm=2.0)
    hands.use_at(prepared.model.crosshair + [0, 6.0, 0], Plane.AXIAL)
    hands.take(tool=Tool.LOOK)
    assert len(hands.applied) == 1
    prepared.preparation.switch(Step.BIAS)
    assert "removes the mask with your correction" in prepared.banner.words.text()
    assert prepared.session.result is not None
    qtbot.mouseClick(prepared.banner.buttons[0], LEFT)
    qtbot.waitUntil(lambda: prepared.session.settings.bias is Switch.ON, timeout=60_000)
    assert prepared.session.result is None


def test_the_brain_is_drawn_on_and_used(prepared, qtbot):
    _look(prepared, Step.STRIP, qtbot)
    preparation, session = prepared.preparation, prepared.session
    ml = preparation.brain_ml
    qtbot.keyClick(prepared, Qt.Key.Key_E)
    assert preparation.hand.tool is Tool.ERASE
    assert preparation.at_before, "what lies outside is seen while drawing"
    preparation.take(radius_mm=3.0)
    view = prepared.ortho.views[Plane.AXIAL]
    qtbot.mouseClick(view.viewport(), LEFT, pos=view.pixel_of(prepared.model.crosshair).toPoint())
    assert preparation.drawn == 1
    assert preparation.brain_ml < ml
    assert f"{preparation.brain_ml:.0f} ml" in prepared.prepared.brain.volume.text()
    qtbot.keyClick(prepared, Qt.Key.Key_Z, CTRL)
    assert preparation.brain_ml == pytest.approx(ml)
    qtbot.keyClick(prepared, Qt.Key.Key_Z, CTRL | SHIFT)
    hole = tuple(int(n) for n in prepared.model.voxel())
    qtbot.mouseClick(prepared.prepared.brain.use_button, LEFT)
    qtbot.waitUntil(lambda: session.settings.brain is not None, timeout=60_000)
    _until_ready(prepared, qtbot)
    assert session.subject[T1].data[hole] == 0
    assert session.worked.shown[T1].data[hole] > 0


def test_a_stopped_preparation_leaves_the_scans_on_screen_and_is_done_when_asked(window, raw, qtbot):
    stages = []
    session = window.session
    session.stage_changed.connect(lambda: stages.append(session.stage))
    session.stage_changed.connect(lambda: session.stage is Stage.PREPARING and len(stages) < 3 and session.cancel())
    drop(window, [raw])
    qtbot.waitUntil(lambda: session.stage is Stage.READY, timeout=60_000)
    assert set(window.model.layers) == {T1, T2}
    assert session.worked is None
    assert not window.segment.button.isEnabled()
    assert "not prepared yet" in window.segment.reason.text()
    qtbot.mouseClick(window.prepared.again_button, LEFT)
    _until_ready(window, qtbot)
    assert window.segment.button.isEnabled()


def test_another_sequence_can_be_the_one_that_stays(prepared, qtbot):
    _look(prepared, Step.ALIGN, qtbot)
    choice = prepared.prepared.reference
    assert choice.currentText() == "T1, chosen for you"
    choice.activated.emit(2)
    qtbot.waitUntil(lambda: prepared.session.settings.reference is T2, timeout=60_000)
    _until_ready(prepared, qtbot)
    assert prepared.session.worked.reference is T2
    assert np.allclose(prepared.session.worked.matrices[T2], np.eye(4))


def test_what_speaks_gravely_against_a_mask_is_read_before_the_mask_is_seen(prepared, qtbot, monkeypatch, tmp_path):
    doubts = (Doubt(Kind.CAVITY, "There is a cavity as after an operation.", True),)
    monkeypatch.setattr(unusual, "look", lambda raw, subject, found=None, progress=None: doubts if found else ())
    _segment(prepared, qtbot)
    assert prepared.result.isVisible()
    assert [note.text() for note in prepared.result.doubts] == [doubts[0].sentence]
    assert prepared.model.mask is None
    assert prepared.session.result is None
    assert not prepared.result.save_button.isVisible()
    button = prepared.result.read_button
    # In sight, however long the panel above it is.
    qtbot.waitUntil(lambda: button.visibleRegion().boundingRect().height() == button.height(), timeout=5_000)
    qtbot.mouseClick(prepared.result.read_button, LEFT)
    assert prepared.model.mask is not None
    assert prepared.result.save_button.isVisible()
    qtbot.waitUntil(lambda: prepared.result.doubts[0].isVisible(), timeout=5_000)
    prepared.session.save(tmp_path / "out")
    qtbot.waitUntil(lambda: prepared.session.saved is not None, timeout=20_000)
    assert doubts[0].sentence in json.loads(prepared.session.saved.sidecar.read_text())["notes"]


def test_masks_are_saved_on_the_grid_of_every_file(prepared, qtbot, tmp_path):
    _segment(prepared, qtbot)
    prepared.session.save(tmp_path / "out")
    qtbot.waitUntil(lambda: prepared.session.saved is not None, timeout=20_000)
    saved = prepared.session.saved
    assert set(saved.others) == {T2}
    labels = nifti.read_label_map(saved.others[T2], nifti.Convention.GLIASCOPE)
    assert labels.grid.same_as(prepared.session.worked.raw[T2].grid)
    record = json.loads(saved.sidecar.read_text())
    assert "align" in json.dumps(record)
    assert "T2" in prepared.result.saved.text()


def test_a_name_and_a_content_that_disagree_are_asked_about(window, patient, qtbot, monkeypatch):
    looks = Recognition({"flair": 0.99, "t2": 0.01}, FLAIR, 0.99)
    monkeypatch.setattr(contents, "disagreements", lambda volumes, progress=None: {T2: looks} if T2 in volumes else {})
    (patient / "patient_flair.nii.gz").unlink()
    drop(window, [patient])
    qtbot.waitUntil(lambda: window.session.problem is not None, timeout=30_000)
    assert "patient_t2.nii.gz looks like FLAIR (99 %)" in window.banner.words.text()
    assert [button.text() for button in window.banner.buttons] == ["It is FLAIR", "It is T2"]
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=30_000)
    qtbot.mouseClick(window.banner.buttons[0], LEFT)
    qtbot.waitUntil(lambda: FLAIR in window.model.layers and T2 not in window.model.layers, timeout=30_000)
    assert window.session.entries[3].presence is Presence.PRESENT


def test_a_mask_drawn_on_one_of_the_scans_moves_with_it(prepared, qtbot, tmp_path):
    worked = prepared.session.worked
    there = worked.raw[T2].grid
    drawn = LabelMap(phantoms.tumour(phantoms.grid("LPS")).data, there)
    path = tmp_path / "drawn_seg.nii.gz"
    nifti.write_label_map(drawn, path)
    prepared.review.compare_file(path, "drawn", nifti.Convention.GLIASCOPE)
    qtbot.waitUntil(lambda: prepared.model.other is not None, timeout=30_000)
    version: Version = prepared.model.other
    moved = version.mask.labels
    assert moved.grid.same_as(worked.grid)
    middle = moved.grid.to_world(np.argwhere(moved.data > 0)).mean(axis=0)
    assert np.allclose(middle, np.add(HEAD, phantoms.TUMOUR_CENTRE), atol=0.3)


def test_an_earlier_scan_that_lies_elsewhere_is_aligned(prepared, qtbot, tmp_path):
    on = phantoms.grid("LPS")
    elsewhere = Grid(on.shape, _shift(np.array([-6.0, 4.0, 2.0])) @ on.affine)
    folder = tmp_path / "earlier"
    phantoms.write_volume(folder / "earlier_t1.nii.gz", Volume(phantoms.head(on, T1).data, elsewhere, T1))
    prepared.review.compare_earlier([folder])
    qtbot.waitUntil(lambda: prepared.model.other is not None, timeout=30_000)
    there = prepared.model.other.layers[T1].volume
    assert there.grid.same_as(prepared.session.worked.grid)
    assert phantoms.value_at(there, phantoms.LEFT_MARKER, HEAD) == pytest.approx(200, abs=3)


@pytest.fixture
def again(window: MainWindow, qtbot) -> Iterator[MainWindow]:
    """Another window, as after a new start."""
    other = make_window(window.settings)
    other.resize(1280, 800)
    other.show()
    qtbot.waitExposed(other)
    yield other
    other.close()
    other.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


def test_a_case_keeps_how_its_scans_were_prepared(prepared, again, qtbot, tmp_path):
    _look(prepared, Step.ALIGN, qtbot)
    prepared.preparation.push(0, 1.0)
    prepared.preparation.use_nudge()
    qtbot.waitUntil(lambda: T2 in prepared.session.settings.matrices, timeout=60_000)
    _until_ready(prepared, qtbot)
    _segment(prepared, qtbot)
    path = tmp_path / "raw.gliascope"
    prepared.cases.save(path)
    qtbot.waitUntil(path.exists, timeout=20_000)
    before = prepared.session.result.segmentation.label_map
    again.open([path])
    qtbot.waitUntil(lambda: again.session.result is not None, timeout=60_000)
    assert again.session.settings.to_json() == prepared.session.settings.to_json()
    assert np.array_equal(again.session.result.segmentation.label_map.data, before.data)
    assert np.allclose(again.session.worked.matrices[T2], prepared.session.worked.matrices[T2])


# DICOM


def _series(number: int, description: str, sequence: Sequence | None, sure: float, left_out: str = "") -> Series:
    return Series(
        key=f"s{number}",
        number=number,
        description=description,
        plane="axial",
        spacing_mm=(0.5, 0.5, 5.5),
        shape=(512, 512, 24),
        images=24,
        sequence=sequence,
        sure=sure,
        why="TE 90 and TR 4000 ms",
        left_out=left_out,
        files=(),
    )


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, patient: Path) -> Study:
    """A study of four series, of which one leaves a doubt; what reads files answers with the phantom's."""
    series = (
        _series(1, "localizer", None, 0.0, "a scout"),
        _series(2, "t1 se", T1, 0.97),
        _series(3, "t2 tse", T2, 0.96),
        _series(4, "tirm dark", FLAIR, 0.6),
    )
    made = Study(series, {T1: series[1], T2: series[2], FLAIR: series[3]}, ("Series 4 may be something else.",))
    files = {"s2": "t1", "s3": "t2", "s4": "flair"}

    def subject_files(chosen: Study, workshop, progress=None, name="patient") -> sequences.SubjectFiles:
        paths = {s: patient / f"patient_{files[one.key]}.nii.gz" for s, one in chosen.chosen.items()}
        return sequences.SubjectFiles("patient", paths, (), None, patient)

    monkeypatch.setattr(dicom, "looks_like_dicom", lambda paths: True)
    monkeypatch.setattr(dicom, "look", lambda paths, workshop, progress: [made])
    monkeypatch.setattr(dicom, "subject_files", subject_files)
    monkeypatch.setattr(dicom, "thumbnail", lambda series, size=96: np.full((40, 60), 7 * series.number, np.uint8))
    return made


def test_series_that_leave_a_doubt_are_shown_to_choose_from(window, study, tmp_path, qtbot):
    folder = tmp_path / "study"
    folder.mkdir()
    drop(window, [folder])
    qtbot.waitUntil(lambda: isinstance(window.card, SeriesCard), timeout=20_000)
    card = window.card
    assert window.session.stage is Stage.EMPTY
    assert [row.series.number for row in card.rows] == [2, 3, 4, 1], "what may be taken comes first"
    assert study.doubts[0] in card.words.text()
    assert card.slots[T1CE].name.text() == "Absent"
    assert "Not sure (60 %)" in card.slots[FLAIR].sure.text()
    qtbot.waitUntil(lambda: all(not row.picture._image.isNull() for row in card.rows), timeout=20_000)
    # The doubtful one is left out.
    choice = card.rows[2].choice
    choice.setCurrentIndex(0)
    choice.activated.emit(0)
    assert card.slots[FLAIR].name.text() == "Absent"
    qtbot.mouseClick(card.open_button, LEFT)
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY and window.session.worked is not None, timeout=60_000)
    assert set(window.model.layers) == {T1, T2}
    assert window.session.folder == folder
    # And again from the panel, where the choice can be changed.
    window.prepared.series_button.setVisible(True)
    window.session.choose_series()
    assert isinstance(window.card, SeriesCard)
    card = window.card
    card.rows[2].choice.setCurrentIndex(4)
    card.rows[2].choice.activated.emit(4)
    qtbot.keyClick(card, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: FLAIR in window.model.layers and window.session.stage is Stage.READY, timeout=60_000)


def test_series_that_leave_no_doubt_are_opened_at_once(window, study, monkeypatch, tmp_path, qtbot):
    sure = replace(study, doubts=())
    monkeypatch.setattr(dicom, "look", lambda paths, workshop, progress: [sure])
    drop(window, [tmp_path])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY and window.session.worked is not None, timeout=60_000)
    assert window.card is None
    assert set(window.model.layers) == {T1, T2, FLAIR}
    workshop = window.session.studies.workshop
    assert workshop.path.is_dir()
    window.session.close()
    qtbot.waitUntil(lambda: not workshop.path.exists() or workshop.closed, timeout=5_000)


def test_nothing_is_opened_when_the_choice_of_series_is_cancelled(window, study, tmp_path, qtbot):
    drop(window, [tmp_path])
    qtbot.waitUntil(lambda: isinstance(window.card, SeriesCard), timeout=20_000)
    qtbot.keyClick(window.card, Qt.Key.Key_Escape)
    assert window.card is None
    assert window.session.stage is Stage.EMPTY
    assert not window.model.layers
