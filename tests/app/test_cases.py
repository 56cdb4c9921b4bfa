"""Cases and kept corrections: what was done is there again, wherever the files went and however the program ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QEvent, Qt
from PySide6.QtWidgets import QApplication, QFileDialog

from app import case_file
from app.application import make_window
from app.correcting import Tool
from app.main_window import MainWindow
from app.session import Stage
from app.viewer_model import Layout, Map, MaskStyle, Plane, Window
from engine.progress import Progress
from engine.volume import Sequence
from tests.app.conftest import drop
from tests.app.test_correcting import away_from_the_tumour, axial, draw
from tests.engine import phantoms
from trainer import corrected
from trainer.patients import Patients

ROOT = Path(__file__).resolve().parents[2]
CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
LEFT = Qt.MouseButton.LeftButton
T1, T1CE, T2, FLAIR = Sequence


@pytest.fixture
def again(window: MainWindow, qtbot):
    """Close the window, and open another as after a new start of the program."""
    made: list[MainWindow] = []

    def start() -> MainWindow:
        (made[-1] if made else window).close()
        made.append(make_window(window.settings))
        made[-1].resize(1280, 800)
        made[-1].show()
        qtbot.waitExposed(made[-1])
        return made[-1]

    yield start
    for other in made:
        other.close()
        other.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


def correct(window: MainWindow) -> np.ndarray:
    """Paint and erase a little; the labels afterwards."""
    window.corrections.take(tool=Tool.PAINT, radius_mm=2.0)
    draw(axial(window), away_from_the_tumour(axial(window)))
    window.corrections.take(tool=Tool.ERASE, core=True, ball=True)
    draw(axial(window), [axial(window).pixel_of(window.model.crosshair)])
    window.corrections.take(tool=Tool.LOOK)
    assert len(window.corrections.applied) == 2
    return window.model.labels.data.copy()


def kept() -> list[Path]:
    return sorted(case_file.kept_folder().glob("*"))


def save_case(window: MainWindow, path: Path, qtbot, monkeypatch) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    qtbot.keyClick(window, Qt.Key.Key_S, CTRL | SHIFT)
    qtbot.waitUntil(lambda: window.session.problem is not None, timeout=10_000)
    assert window.session.problem.sentence == f"Saved as {case_file.with_ending(path).name}."
    window.session.dismiss()


def press(window: MainWindow, title: str, qtbot) -> None:
    """A button of the question on top."""
    button = next(button for button in window.banner.buttons if button.text() == title)
    qtbot.mouseClick(button, LEFT)


def answer(window: MainWindow, qtbot) -> str:
    """What is asked, once it is."""
    qtbot.waitUntil(lambda: window.session.problem is not None, timeout=20_000)
    return window.session.problem.sentence


# --- cases ------------------------------------------------------------------------------------------------------------


def test_a_case_brings_back_result_corrections_and_what_was_on_screen(
    segmented, patient, again, qtbot, monkeypatch, tmp_path
):
    corrected = correct(segmented)
    model = segmented.model
    model.show(FLAIR)
    model.set_window(Window(77.0, 50.0))
    model.move_crosshair(np.array((1.0, -3.0, 9.0)))
    model.set_view(2.5, model.centre)
    model.set_layout(Layout.PLANE, Plane.CORONAL)
    model.set_overlay(style=MaskStyle.OUTLINE, core="#009E73", map=Map.WHOLE_TUMOUR)
    fingerprint = segmented.session.result.choice.card.fingerprint
    place, volumes = model.crosshair, segmented.session.result.segmentation.volumes_ml
    status = segmented.status.text()
    case = tmp_path / "patient" / "my case"
    save_case(segmented, case, qtbot, monkeypatch)
    case = case.with_name("my case.gliascope")
    assert case.stat().st_size < 20_000
    assert kept() == [], "what lies in a case is not kept a second time"

    other = again()
    drop(other, [case])
    qtbot.waitUntil(lambda: other.session.stage is Stage.DONE, timeout=20_000)
    assert other.session.name == "patient"
    assert np.array_equal(other.model.labels.data, corrected)
    assert [edit.name for edit in other.corrections.applied][1].startswith("erase core with the ball")
    assert other.session.result.segmentation.volumes_ml == pytest.approx(volumes)
    assert other.session.result.segmentation.edited_by_hand == 2
    assert other.status.text() == status
    assert other.model.shown is FLAIR
    assert other.model.window == Window(77.0, 50.0)
    assert other.model.crosshair == pytest.approx(place)
    assert other.model.zoom == pytest.approx(2.5)
    assert (other.model.layout, other.model.plane) == (Layout.PLANE, Plane.CORONAL)
    assert other.model.overlay.style is MaskStyle.OUTLINE
    assert other.model.overlay.core == "#009E73"
    assert other.model.overlay.map is Map.NONE, "probabilities are not kept"
    qtbot.keyClick(other, Qt.Key.Key_V)
    assert other.session.problem is None
    for _ in range(2):
        qtbot.keyClick(other, Qt.Key.Key_Z, CTRL)
    assert np.array_equal(other.model.labels.data, other.corrections.editor.base.data)
    assert other.session.result.segmentation.edited_by_hand == 0
    out = tmp_path / "out"
    other.session.save(out)
    qtbot.waitUntil(lambda: other.session.saved is not None, timeout=10_000)
    model = json.loads(other.session.saved.sidecar.read_text())["model"]
    assert model["name"] == "teacher"
    assert model["sha256"] == fingerprint


def test_a_case_without_a_result_brings_back_the_scans(loaded, again, qtbot, monkeypatch, tmp_path):
    loaded.session.leave_out(next(e.path for e in loaded.session.entries if e.sequence is T1))
    qtbot.waitUntil(lambda: T1 not in loaded.model.layers and loaded.session.stage is Stage.READY, timeout=20_000)
    case = tmp_path / "three.gliascope"
    save_case(loaded, case, qtbot, monkeypatch)
    other = again()
    other.open([case])
    qtbot.waitUntil(lambda: other.session.stage is Stage.READY, timeout=20_000)
    assert set(other.model.layers) == {T1CE, T2, FLAIR}
    assert other.session.result is None


def test_a_case_names_no_more_than_the_paths_and_only_from_its_own_folder(
    segmented, patient, qtbot, monkeypatch, tmp_path
):
    correct(segmented)
    case = tmp_path / "cases" / "a.gliascope"
    case.parent.mkdir()
    save_case(segmented, case, qtbot, monkeypatch)
    text = case.read_text()
    document = json.loads(text)
    assert [scan["path"] for scan in document["scans"]] == [f"../patient/patient_{s}.nii.gz" for s in Sequence]
    assert str(tmp_path) not in text
    assert text.count("/patient") == 8, "four paths, each with the folder and the file"
    assert "training" not in document["result"]["model"], "nor whom the model was trained on"


def test_case_and_scans_moved_together_open_without_a_question(segmented, again, qtbot, monkeypatch, tmp_path):
    corrected = correct(segmented)
    save_case(segmented, tmp_path / "patient" / "a.gliascope", qtbot, monkeypatch)
    other = again()
    shutil.move(tmp_path / "patient", tmp_path / "elsewhere")
    other.open([tmp_path / "elsewhere" / "a.gliascope"])
    qtbot.waitUntil(lambda: other.session.stage is Stage.DONE, timeout=20_000)
    assert np.array_equal(other.model.labels.data, corrected)


@pytest.mark.parametrize("renamed", [False, True])
def test_moved_scans_are_asked_for_once_and_found_by_content(segmented, again, qtbot, monkeypatch, tmp_path, renamed):
    corrected = correct(segmented)
    case = tmp_path / "a.gliascope"
    save_case(segmented, case, qtbot, monkeypatch)
    other = again()
    there = tmp_path / "archive" / "2026"
    there.parent.mkdir()
    shutil.move(tmp_path / "patient", there)
    if renamed:
        for path in list(there.glob("*.nii.gz")):
            path.rename(path.with_name(path.name.replace("patient", "P0001")))
    other.open([case])
    assert answer(other, qtbot) == (
        "The scans of a.gliascope are not where they were (patient_t1.nii.gz is missing). Where are they now?"
    )
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "archive"))
    press(other, "Choose the folder", qtbot)
    qtbot.waitUntil(lambda: other.session.stage is Stage.DONE, timeout=20_000)
    assert np.array_equal(other.model.labels.data, corrected)


def test_a_scan_that_changed_is_not_taken_for_the_one_that_was_corrected(
    segmented, patient, again, qtbot, monkeypatch, tmp_path
):
    correct(segmented)
    case = tmp_path / "a.gliascope"
    save_case(segmented, case, qtbot, monkeypatch)
    other = again()
    phantoms.write_volume(patient / "patient_t2.nii.gz", phantoms.head(phantoms.grid("RAS"), T2))
    other.open([case])
    assert "patient_t2.nii.gz is not the scan that a.gliascope was made of" in answer(other, qtbot)
    assert other.session.stage is Stage.EMPTY


def test_saving_a_case_replaces_no_file_that_is_not_one(segmented, patient, qtbot, monkeypatch, tmp_path):
    foreign = tmp_path / "notes.gliascope"
    foreign.write_text("dear diary")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(foreign), ""))
    qtbot.keyClick(segmented, Qt.Key.Key_S, CTRL | SHIFT)
    assert answer(segmented, qtbot) == (
        "notes.gliascope is there already and is not replaced (it is not a case). Choose another name."
    )
    assert foreign.read_text() == "dear diary"
    segmented.session.dismiss()
    case = tmp_path / "mine.gliascope"
    save_case(segmented, case, qtbot, monkeypatch)
    first = case.read_bytes()
    correct(segmented)
    save_case(segmented, case, qtbot, monkeypatch)
    assert case.read_bytes() != first


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("not json", "is not a case that can be opened"),
        ("[]", "is not a case that can be opened"),
        ('{"gliascope_case": 1}', "is not a case that can be opened"),
        ('{"gliascope_case": 1, "scans": [], "view": {}, "result": null, "resample": false}', "is not a case"),
        ('{"gliascope_case": 99}', "was saved by a newer Gliascope"),
    ],
)
def test_what_is_no_case_is_refused_in_words(window, qtbot, tmp_path, content, sentence):
    case = tmp_path / "odd.gliascope"
    case.write_text(content)
    window.open([case])
    assert sentence in answer(window, qtbot)
    assert window.session.stage is Stage.EMPTY


def test_a_damaged_result_leaves_the_scans_and_says_so(segmented, again, qtbot, monkeypatch, tmp_path):
    correct(segmented)
    case = tmp_path / "a.gliascope"
    save_case(segmented, case, qtbot, monkeypatch)
    document = json.loads(case.read_text())
    document["result"]["labels"]["edits"].pop()
    case.write_text(json.dumps(document))
    other = again()
    other.open([case])
    assert "cannot be used" in answer(other, qtbot)
    assert other.session.stage is Stage.READY
    assert set(other.model.layers) == set(Sequence)


# --- recent cases -----------------------------------------------------------------------------------------------------


def titles(window: MainWindow) -> list[str]:
    return [entry.text() for entry in window.recent_menu.actions() if not entry.isSeparator()]


def test_recent_cases_are_listed_opened_cleared_and_switched_off(segmented, again, qtbot, monkeypatch, tmp_path):
    assert titles(segmented)[0] == "Cases you save are listed here"
    for name in ("a", "b", "a"):
        save_case(segmented, tmp_path / f"{name}.gliascope", qtbot, monkeypatch)
    other = again()
    assert titles(other) == ["a.gliascope", "b.gliascope", "Clear this list", "Remember recent cases"]
    other.recent_menu.actions()[1].trigger()
    qtbot.waitUntil(lambda: other.session.stage is Stage.DONE, timeout=20_000)
    assert other.cases.path == tmp_path / "b.gliascope"
    (tmp_path / "a.gliascope").unlink()
    other.recent_menu.actions()[1].trigger()
    assert answer(other, qtbot).startswith("a.gliascope is not there any more")
    assert titles(other)[0] == "b.gliascope"
    next(entry for entry in other.recent_menu.actions() if entry.text() == "Remember recent cases").trigger()
    assert titles(other)[0] == "Cases are not remembered"
    other.session.dismiss()
    save_case(other, tmp_path / "c.gliascope", qtbot, monkeypatch)
    assert titles(other)[0] == "Cases are not remembered"
    assert 'gliascope"' not in Path(other.settings._store.fileName()).read_text()


# --- corrections nobody saved -----------------------------------------------------------------------------------------


def test_corrections_that_were_not_saved_are_offered_when_the_patient_comes_again(
    segmented, patient, again, qtbot, tmp_path
):
    corrected = correct(segmented)
    other = again()
    other.cases.tell_of_kept()
    assert "Open that patient again" in other.session.problem.sentence
    moved = tmp_path / "renamed"
    shutil.move(patient, moved)
    other.open([moved])
    qtbot.waitUntil(
        lambda: other.session.problem is not None and "never saved" in other.session.problem.sentence, timeout=20_000
    )
    sentence = other.session.problem.sentence
    assert sentence.startswith("2 corrections of this patient were never saved (the last: erase core with the ball at")
    assert "today at" in sentence
    press(other, "Restore", qtbot)
    qtbot.waitUntil(lambda: other.session.stage is Stage.DONE, timeout=20_000)
    assert np.array_equal(other.model.labels.data, corrected)
    assert other.session.problem is None
    qtbot.keyClick(other, Qt.Key.Key_Z, CTRL)
    assert len(other.corrections.applied) == 1

    third = again()
    third.open([moved])
    qtbot.waitUntil(lambda: third.session.problem is not None, timeout=20_000)
    assert third.session.problem.sentence.startswith("1 correction of this patient was never saved")
    press(third, "Discard", qtbot)
    assert kept() == []
    assert third.session.stage is Stage.READY


def test_a_question_closed_without_an_answer_comes_again_with_the_patient(segmented, patient, again, qtbot):
    correct(segmented)
    other = again()
    other.open([patient])
    answer(other, qtbot)
    qtbot.mouseClick(other.banner.close_button, LEFT)
    assert other.session.problem is None
    assert len(kept()) == 1
    # New corrections of the same patient do not take the place of those.
    other.session.segment()
    qtbot.waitUntil(lambda: other.session.stage is Stage.DONE, timeout=20_000)
    correct(other)
    third = again()
    assert len(kept()) == 2
    third.open([patient])
    assert "2 corrections" in answer(third, qtbot)


@pytest.mark.parametrize("how", ["mask", "undo"])
def test_what_is_saved_or_taken_back_is_not_kept(segmented, qtbot, tmp_path, how):
    correct(segmented)
    qtbot.waitUntil(lambda: len(kept()) == 1, timeout=10_000)
    if how == "mask":
        segmented.session.save(tmp_path / "out")
    else:
        segmented.corrections.undo(2)
    qtbot.waitUntil(lambda: kept() == [], timeout=10_000)


def test_kept_corrections_hold_neither_path_nor_name(segmented, patient, qtbot, tmp_path):
    correct(segmented)
    qtbot.waitUntil(lambda: len(kept()) == 1, timeout=10_000)
    text = kept()[0].read_text()
    assert "/patient" not in text
    assert "patient_" not in text
    assert ".nii" not in text
    assert str(tmp_path) not in text
    assert not any(part in kept()[0].name for part in ("patient", "phantom"))


def test_another_patient_is_not_offered_these_corrections(segmented, again, qtbot, tmp_path):
    correct(segmented)
    other = again()
    stranger = phantoms.write_subject(tmp_path / "stranger", phantoms.grid("RAS"))
    other.open([stranger])
    qtbot.waitUntil(lambda: other.cases._inputs != (), timeout=20_000)
    assert other.session.problem is None
    assert len(kept()) == 1


CHILD = """
    import sys
    from pathlib import Path
    from PySide6.QtCore import QSettings, QTimer
    from app.application import make_application, make_window
    from app.correcting import Tool
    from app.session import Stage
    from app.settings import Settings
    from app.viewer_model import Plane
    from engine import registry, unusual
    from tests.app.test_correcting import away_from_the_tumour, axial, draw

    unusual.look = lambda *_, **__: ()  # the phantom is no head
    registry.folders = lambda: [Path(sys.argv[2])]
    application = make_application()
    window = make_window(Settings(QSettings(sys.argv[3], QSettings.Format.IniFormat)))
    window.resize(1280, 800)
    window.show()

    def paint():
        if window.session.stage is not Stage.DONE:
            return
        timer.stop()
        window.corrections.take(tool=Tool.PAINT, radius_mm=2.5)
        for _ in range(3):
            draw(axial(window), away_from_the_tumour(axial(window)))
            window.corrections.take(radius_mm=window.corrections.hand.radius_mm + 0.7)
        window.model.labels.data.tofile(sys.argv[4])
        print("painted", flush=True)

    timer = QTimer()
    timer.timeout.connect(paint)
    timer.start(20)
    window.session.open([Path(sys.argv[1])], segment=True)
    application.exec()
"""


def test_a_killed_program_loses_no_correction(window, patient, models, qtbot, tmp_path):
    painted = tmp_path / "painted.bin"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(CHILD),
            str(patient),
            str(models),
            str(tmp_path / "child.ini"),
            str(painted),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "painted"
    qtbot.waitUntil(lambda: len(list(case_file.kept_folder().glob("*.json"))) == 1, timeout=20_000)
    child.kill()
    child.wait()
    child.stdout.close()

    window.open([patient])
    assert answer(window, qtbot).startswith("3 corrections of this patient were never saved (the last: paint on axial")
    press(window, "Restore", qtbot)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=20_000)
    there = np.fromfile(painted, np.uint8).reshape(window.model.labels.data.shape)
    assert np.array_equal(window.model.labels.data, there)
    assert window.session.result.segmentation.edited_by_hand == 3


def test_a_writer_that_was_overtaken_changes_nothing(tmp_path):
    from engine.errors import Cancelled

    path = case_file.new_kept_path(["a" * 64])
    case_file.keep(path, ["a" * 64], {"labels": {"edits": [{"name": "new"}]}}, Progress())
    before = path.read_bytes()
    overtaken = Progress()
    overtaken.cancel()
    with pytest.raises(Cancelled):
        case_file.keep(path, ["a" * 64], {"labels": {"edits": [{"name": "old"}]}}, overtaken)
    assert path.read_bytes() == before
    assert [kept.last for kept in case_file.kept_for(["a" * 64, "b" * 64], Progress())] == ["new"]
    assert case_file.kept_for(["b" * 64], Progress()) == []


def test_a_corrected_patient_becomes_one_to_learn_from(segmented: MainWindow, qtbot) -> None:
    entry = segmented.menu_actions["Add to the training set"]
    assert not entry.isEnabled()
    assert "Correct the mask first" in entry.toolTip()
    labels = correct(segmented)
    assert entry.isEnabled()
    entry.trigger()
    qtbot.waitUntil(lambda: segmented.session.problem is not None, timeout=10_000)
    assert "is in your training set" in segmented.session.problem.sentence

    (patient,) = Patients.read(corrected.manifest()).patients
    assert patient.sequences == tuple(segmented.session.subject)
    subject = patient.read()
    assert np.array_equal(patient.read_truth(subject).data, labels)
    assert "2 changes" in patient.decisions[0]

    # Corrected further and added again: the same patient, with the newer mask.
    segmented.session.dismiss()
    qtbot.keyClick(segmented, Qt.Key.Key_Z, CTRL)
    entry.trigger()
    qtbot.waitUntil(lambda: segmented.session.problem is not None, timeout=10_000)
    (patient,) = Patients.read(corrected.manifest()).patients
    assert np.array_equal(patient.read_truth(subject).data, segmented.model.labels.data)
    assert not np.array_equal(segmented.model.labels.data, labels)
