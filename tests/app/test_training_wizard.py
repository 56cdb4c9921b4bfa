"""The training wizard as a person uses it: real clicks and drops on the real window, the real doctor and plan."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QFileDialog, QLabel, QPushButton

from app import installing
from app.main_window import MainWindow, installed_models
from app.patients_page import COLUMNS, Column, PatientsPage, Show
from app.plan_page import SCRATCH, PlanPage
from app.session import Stage
from app.theme import CORE, WHOLE_TUMOUR
from app.training_wizard import TrainingWizard
from engine import nifti, sequences
from engine.errors import UserError
from engine.volume import LabelMap, Sequence, Volume
from tests.app import training_folder
from tests.app.conftest import drop as drop_on_main_window
from tests.app.test_access import unnamed
from tests.engine import phantoms
from trainer import corrected, estimate, wizard
from trainer.estimate import Device, Pace
from trainer.patients import Patients
from trainer.study import Study
from trainer.training import State, Training
from trainer.wizard import Folds, HoldOut, Page, Quality

T1, T1CE, T2, FLAIR = Sequence
LEFT = Qt.MouseButton.LeftButton
PATIENTS = ("anna", "boris", "carla", "dora", "emil")


def write_patient(
    folder: Path, seed: int, sequences: tuple[Sequence, ...] = tuple(Sequence), brats: bool = True
) -> None:
    """A phantom with noise of its own; its labels those of BraTS 2018, or values that nobody knows."""
    grid = phantoms.grid(("RAS", "LPS", "PIL", "SRA", "LAS", "RPI")[seed % 6])
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed)
    for sequence in sequences:
        volume = phantoms.head(grid, sequence)
        data = volume.data + (volume.data != 0) * noise.normal(0, 3, grid.shape)
        nifti.write_volume(Volume(data.astype(np.float32), grid, sequence), folder / f"{folder.name}_{sequence}.nii.gz")
    truth = phantoms.tumour(grid).data
    labels = np.where(truth == 1, 4, truth) if brats else np.where(truth == 1, 1, np.where(truth == 2, 3, 0))
    nifti.write_label_map(LabelMap(labels.astype(np.uint8), grid), folder / f"{folder.name}_seg.nii.gz")


@pytest.fixture(scope="module")
def whole_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "cohort"
    for number, name in enumerate(PATIENTS):
        write_patient(folder / name, number, tuple(Sequence)[: 3 if name == "emil" else 4])
    return folder


@pytest.fixture
def cohort(whole_cohort: Path) -> Path:
    """Five patients with truth, of whom Emil lacks FLAIR."""
    return whole_cohort


@pytest.fixture
def torch_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "torch_is_here", lambda: False)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measuring this machine takes no time here; what was measured is listed."""
    asked: list[str] = []

    def measure(device, plan, progress, models=(), seconds=20.0):
        asked.append(device)
        return Pace("cpu", (0.1, 0.1, 0.2), (0.2, 0.2, 0.3), 700.0)

    monkeypatch.setattr(estimate, "measure", measure)
    monkeypatch.setattr(estimate, "devices", lambda: [Device("cpu", "Processor, 2 cores", 8.0, True)])
    return asked


@pytest.fixture
def training(window: MainWindow, qtbot) -> TrainingWizard:
    """The wizard, opened by the button in the header."""
    qtbot.mouseClick(window.train_button, LEFT)
    assert window.wizard is not None
    qtbot.waitExposed(window.wizard)
    return window.wizard


def patients_page(training: TrainingWizard) -> PatientsPage:
    page = training.page_of[Page.PATIENTS]
    assert isinstance(page, PatientsPage)
    return page


def plan_page(training: TrainingWizard) -> PlanPage:
    page = training.page_of[Page.PLAN]
    assert isinstance(page, PlanPage)
    return page


def drop(training: TrainingWizard, *paths: Path) -> None:
    place = training.rect().center()
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    keys = Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(training, QDragEnterEvent(place, Qt.DropAction.CopyAction, mime, LEFT, keys))
    QApplication.sendEvent(training, QDropEvent(QPointF(place), Qt.DropAction.CopyAction, mime, LEFT, keys))


def looked(training: TrainingWizard, qtbot) -> None:
    """Wait until every patient was looked at."""
    qtbot.waitUntil(lambda: training.wizard.report is not None and not training.wizard.examining, timeout=60_000)


@pytest.fixture
def with_patients(training: TrainingWizard, cohort: Path, qtbot) -> TrainingWizard:
    drop(training, cohort)
    looked(training, qtbot)
    return training


@pytest.fixture
def planning(with_patients: TrainingWizard, measured: list[str], qtbot) -> TrainingWizard:
    """On the second page, all sums done."""
    qtbot.mouseClick(with_patients.next_button, LEFT)
    qtbot.waitUntil(lambda: bool(plan_page(with_patients).sums.estimates), timeout=30_000)
    return with_patients


def words(widget) -> str:
    """Everything that can be read there."""
    return " | ".join(one.text() for one in widget.findChildren(QLabel) if one.isVisibleTo(widget)) + " | ".join(
        one.text() for one in widget.findChildren(QPushButton) if one.isVisibleTo(widget)
    )


def cell(page: PatientsPage, name: str, column: Column) -> str:
    row = next(n for n in range(page.chosen.rowCount()) if page.chosen.patient_at(page.chosen.index(n, 0)).name == name)
    return str(page.chosen.index(row, COLUMNS.index(column)).data() or "")


def tick(page: PatientsPage, name: str, qtbot) -> None:
    """Click into a patient's first cell."""
    row = next(n for n in range(page.chosen.rowCount()) if page.chosen.patient_at(page.chosen.index(n, 0)).name == name)
    place = page.table.visualRect(page.chosen.index(row, 0)).center()
    qtbot.mouseClick(page.table.viewport(), LEFT, pos=place)


# --- the window -------------------------------------------------------------------------------------------------------


def test_the_wizard_opens_by_button_menu_and_key_and_is_one_window(window, training, qtbot):
    assert training.wizard.page is Page.PATIENTS
    training.close()
    window.menu_actions["Train your own"].trigger()
    assert window.wizard is training
    assert training.isVisible()
    assert window.menu_actions["Train your own"].shortcut().toString() == "Ctrl+T"


def test_an_empty_wizard_says_what_comes_first_and_leads_nowhere(training, qtbot):
    assert not training.next_button.isEnabled()
    assert "Choose a folder of patients first." in training.why.text()
    for page in (Page.PLAN, Page.TRAIN, Page.RESULT):
        assert not training.rail.steps[page].isEnabled()
        assert training.rail.steps[page].toolTip()
    assert not training.back_button.isVisible()


def test_closing_the_wizard_keeps_what_was_decided(window, with_patients, qtbot):
    with_patients.close()
    again = window.show_wizard()
    assert again is with_patients
    assert again.wizard.patients is not None
    assert again.next_button.isEnabled()


def test_nothing_in_the_wizard_is_without_a_name(planning, qtbot):
    page = plan_page(planning)
    for fold in (page.split_fold, page.start_fold, page.device_fold, page.place_fold, page.cluster_fold):
        qtbot.mouseClick(fold.head, LEFT)
    assert unnamed(planning) == []


# --- patients ---------------------------------------------------------------------------------------------------------


def test_a_dropped_folder_becomes_a_table_of_patients(with_patients):
    page = patients_page(with_patients)
    assert [p.name for p in page.table_model.patients] == list(PATIENTS)
    grid = phantoms.grid("LPS")
    truth = phantoms.tumour(grid)
    assert float(cell(page, "anna", Column.TUMOUR)) == pytest.approx(truth.ml(truth.whole_tumour), abs=0.06)
    emil = page.chosen.index(4, COLUMNS.index(Column.FLAIR))
    assert emil.data(Qt.ItemDataRole.ToolTipRole) == "No FLAIR"
    assert with_patients.next_button.isEnabled()
    assert with_patients.rail.steps[Page.PATIENTS].words == "5 found, 5 used"


def test_a_table_and_a_manifest_are_taken_as_well(training, cohort, tmp_path, qtbot):
    lines = ["patient,t1,flair,label,source"]
    lines += [
        f"{name},{cohort}/{name}/{name}_t1.nii.gz,{cohort}/{name}/{name}_flair.nii.gz,{cohort}/{name}/{name}_seg.nii.gz,x"
        for name in PATIENTS[:3]
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    drop(training, tmp_path / "list.csv")
    looked(training, qtbot)
    assert [p.sequences for p in training.wizard.patients.patients] == [(T1, FLAIR)] * 3
    training.wizard.patients.write(tmp_path / "patients.json")
    drop(training, tmp_path / "patients.json")
    qtbot.waitUntil(lambda: training.wizard.patients.origin.name == "patients.json", timeout=10_000)
    looked(training, qtbot)
    assert cell(patients_page(training), "anna", Column.SOURCE) == "x"


def test_corrected_patients_are_offered_once_there_are_some(training, cohort, qtbot):
    invitation = patients_page(training).invitation
    assert not invitation.corrected_button.isVisible()
    for name in PATIENTS[:2]:
        [files] = sequences.find_subjects([cohort / name])
        corrected.add(files, nifti.read_label_map(cohort / name / f"{name}_seg.nii.gz"), 3)
    training.close()
    training.show()
    qtbot.mouseClick(invitation.corrected_button, LEFT)
    looked(training, qtbot)
    assert [patient.name for patient in training.wizard.patients.patients] == ["anna", "boris"]
    assert cell(patients_page(training), "anna", Column.SOURCE) == "corrected"


def test_a_folder_with_nobody_in_it_is_one_sentence(training, tmp_path, qtbot):
    (tmp_path / "empty").mkdir()
    drop(training, tmp_path / "empty")
    qtbot.waitUntil(lambda: training.wizard.problem is not None, timeout=10_000)
    assert not training.wizard.problem.details, "it is the user's to mend"
    assert training.banner.isVisible()
    qtbot.keyClick(training, Qt.Key.Key_Escape)
    assert training.wizard.problem is None
    assert training.isVisible(), "Esc closes the message first"


def test_leaving_out_and_taking_back(with_patients, qtbot):
    page = patients_page(with_patients)
    tick(page, "boris", qtbot)
    assert [p.name for p in with_patients.wizard.usable.patients] == ["anna", "carla", "dora", "emil"]
    assert "boris left out" in page.decided.text()
    assert with_patients.rail.steps[Page.PATIENTS].words == "5 found, 4 used"
    qtbot.mouseClick(page.show_choice.button(Show.LEFT_OUT), LEFT)
    assert page.chosen.rowCount() == 1
    assert page.show_choice.button(Show.LEFT_OUT).text().endswith("1")
    qtbot.mouseClick(page.undo_button, LEFT)
    assert len(with_patients.wizard.usable) == 5
    assert page.chosen.rowCount() == 0


def test_space_leaves_out_too(with_patients, qtbot):
    page = patients_page(with_patients)
    page.choose("dora")
    page.table.setFocus()
    qtbot.keyClick(page.table, Qt.Key.Key_Space)
    assert not with_patients.wizard.patients.named("dora").included
    qtbot.mouseClick(page.detail.buttons["include"], LEFT)
    assert with_patients.wizard.patients.named("dora").included


def test_sorting_and_finding(with_patients, qtbot):
    page = patients_page(with_patients)
    page.table.sortByColumn(COLUMNS.index(Column.FLAIR), Qt.SortOrder.AscendingOrder)
    assert page.chosen.patient_at(page.chosen.index(0, 0)).name == "emil"
    qtbot.keyClicks(page.search, "car")
    assert [page.chosen.patient_at(page.chosen.index(n, 0)).name for n in range(page.chosen.rowCount())] == ["carla"]
    page.search.clear()
    qtbot.keyClicks(page.search, "nobody")
    assert page.chosen.rowCount() == 0
    assert "No patient matches." in words(page)


def test_a_chosen_patient_is_shown_with_the_outline_of_its_tumour(with_patients, qtbot):
    page = patients_page(with_patients)
    page.choose("carla")
    qtbot.waitUntil(lambda: page.detail.picture.thumbnail is not None, timeout=10_000)
    assert page.detail.picture.thumbnail.sequences == tuple(Sequence)
    picture = page.detail.picture.grab().toImage()
    colours = {picture.pixelColor(x, y).name().upper() for x in range(picture.width()) for y in range(picture.height())}
    assert {WHOLE_TUMOUR, CORE} <= colours
    qtbot.waitUntil(lambda: "carla" in words(page.detail), timeout=5_000)
    page.choose("emil")
    qtbot.waitUntil(
        lambda: page.detail.picture.thumbnail is not None and len(page.detail.picture.thumbnail.sequences) == 3,
        timeout=10_000,
    )
    qtbot.waitUntil(lambda: "emil has no FLAIR." in words(page.detail), timeout=5_000)


def test_a_repair_is_made_only_when_asked_for_and_touches_no_scan(training, cohort, tmp_path, qtbot):
    folder = tmp_path / "mixed"
    for number, name in enumerate(("gina", "hans", "ida")):
        write_patient(folder / name, number, brats=False)
    before = {path: path.read_bytes() for path in folder.rglob("*.gz")}
    drop(training, folder)
    looked(training, qtbot)
    page = patients_page(training)
    page.choose("gina")
    offered = [key for key in page.detail.buttons if key.startswith("labels:")]
    assert offered, words(page.detail)
    assert training.wizard.patients.named("gina").convention is None, "nothing is decided by itself"
    qtbot.mouseClick(page.detail.buttons[f"all {offered[0]}"], LEFT)
    looked(training, qtbot)
    assert all(patient.convention is not None for patient in training.wizard.patients.patients)
    qtbot.waitUntil(lambda: "Decided:" in words(page.detail), timeout=5_000)
    assert {path: path.read_bytes() for path in folder.rglob("*.gz")} == before
    qtbot.mouseClick(page.undo_button, LEFT)
    assert training.wizard.patients.named("hans").convention is None


def test_looking_can_be_stopped_and_gone_on_with(training, cohort, qtbot, monkeypatch):
    from trainer import doctor

    real = doctor.examine
    calls: list[int] = []

    def slow(patients, progress, on_patient, before):
        calls.append(1)
        if len(calls) == 1:
            on_patient(real(Patients(patients.patients[:1], patients.origin), progress).patients[0])
            while True:
                progress.check()
        return real(patients, progress, on_patient, before)

    monkeypatch.setattr(doctor, "examine", slow)
    drop(training, cohort)
    page = patients_page(training)
    qtbot.waitUntil(lambda: len(training.wizard.reports) == 1, timeout=10_000)
    assert "1 of 5 looked at" in page.doing.text()
    assert training.why.text() == "The patients are still being looked at."
    qtbot.mouseClick(page.stop_button, LEFT)
    assert not training.wizard.examining
    assert not training.next_button.isEnabled()
    qtbot.mouseClick(page.again_button, LEFT)
    looked(training, qtbot)
    assert training.next_button.isEnabled()


def test_a_patient_opens_in_the_viewer_with_its_truth(window, with_patients, qtbot):
    page = patients_page(with_patients)
    page.choose("dora")
    qtbot.mouseClick(page.detail.buttons["look"], LEFT)
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY and window.model.labels is not None, timeout=20_000)
    assert window.session.name == "dora"
    truth = phantoms.tumour(phantoms.grid("SRA"))
    assert np.array_equal(window.model.labels.data, truth.data)
    assert window.review.name == "Ground truth"


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_is_suggested_and_says_what_it_takes(planning, measured):
    page = plan_page(planning)
    plan = planning.wizard.plan
    assert plan.students == ((T1,),)
    assert measured == ["cpu"], "this machine was measured once"
    quick, standard, thorough = (page.qualities[quality].time for quality in Quality)
    assert quick
    assert len({quick, standard, thorough}) == 3
    assert page.summary.time.text() == standard
    assert "Memory: " in words(page.summary)
    assert "GB free" in page.device_fold.head.words
    assert planning.next_button.text() == "Start training"
    assert planning.next_button.isEnabled()


def test_students_teacher_and_quality_are_what_was_clicked(planning, qtbot):
    page = plan_page(planning)
    qtbot.mouseClick(page.student_rows[0].buttons[T2], LEFT)
    assert planning.wizard.plan.students == ((T1, T2),)
    qtbot.mouseClick(page.add_button, LEFT)
    assert planning.wizard.plan.students == ((T1, T2), (T1,))
    qtbot.mouseClick(page.remove_buttons[0], LEFT)
    assert planning.wizard.plan.students == ((T1,),)
    assert not page.student_rows[0].buttons[T1].isEnabled(), "a student sees at least one sequence"
    qtbot.mouseClick(page.qualities[Quality.QUICK], LEFT)
    assert planning.wizard.plan.quality is Quality.QUICK
    page.baseline_box.click()
    assert not planning.wizard.plan.baseline
    qtbot.waitUntil(lambda: "Student" in words(page.summary), timeout=5_000)
    assert "Baseline" not in words(page.summary)
    page.any_box.click()
    assert planning.wizard.plan.any_student
    qtbot.waitUntil(lambda: "any subset" in words(page.summary), timeout=5_000)


def test_a_student_that_sees_more_than_its_teacher_is_refused_in_words(planning, qtbot):
    page = plan_page(planning)
    qtbot.mouseClick(page.teacher.buttons[T1], LEFT)
    assert not planning.next_button.isEnabled()
    assert planning.why.text() == "The teacher does not see T1, so it cannot teach a student that does."
    qtbot.mouseClick(page.teacher.buttons[T1], LEFT)
    assert planning.next_button.isEnabled()


def test_who_is_measured_on_is_shown_patient_by_patient(planning, qtbot):
    page = plan_page(planning)
    qtbot.mouseClick(page.split_fold.head, LEFT)
    split = planning.wizard.plan.split_of(planning.wizard.usable, planning.wizard.wizard.volumes_ml)
    shown = words(page.split_fold)
    assert all(name in shown for name in PATIENTS)
    assert "KEPT APART: one patient" in shown
    assert "emil" in split.learnt_from, "who lacks a sequence of the teacher's is not measured on"
    qtbot.mouseClick(page.more, LEFT)
    assert planning.wizard.plan.split == HoldOut(2)
    qtbot.mouseClick(page.split_choice.button(Folds), LEFT)
    assert isinstance(planning.wizard.plan.split, Folds)
    qtbot.waitUntil(lambda: "FOLD 1" in words(page.split_fold), timeout=10_000)


def test_a_name_that_is_taken_is_refused_in_words(planning, tmp_path, qtbot, monkeypatch):
    page = plan_page(planning)
    (tmp_path / "space" / "mine").mkdir(parents=True)
    (tmp_path / "space" / "mine" / "file").touch()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "space"))
    qtbot.mouseClick(page.place_fold.head, LEFT)
    qtbot.mouseClick(page.folder_button, LEFT)
    assert planning.wizard.plan.folder == tmp_path / "space"
    page.name.selectAll()
    qtbot.keyClicks(page.name, "mine")
    assert not planning.next_button.isEnabled()
    assert "mine" in planning.why.text()
    qtbot.keyClicks(page.name, "-too")
    assert planning.next_button.isEnabled()


def test_what_was_decided_survives_going_back(planning, qtbot):
    page = plan_page(planning)
    qtbot.mouseClick(page.student_rows[0].buttons[T2], LEFT)
    qtbot.mouseClick(planning.back_button, LEFT)
    assert planning.wizard.page is Page.PATIENTS
    qtbot.mouseClick(planning.rail.steps[Page.PLAN], LEFT)
    assert planning.wizard.page is Page.PLAN
    assert planning.wizard.plan.students == ((T1, T2),)


def test_everything_for_a_cluster_is_written_and_can_be_read(planning, tmp_path, qtbot, monkeypatch):
    page = plan_page(planning)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    qtbot.mouseClick(page.cluster_fold.head, LEFT)
    page.cluster_counts["nodes"].setValue(2)
    qtbot.mouseClick(page.cluster_button, LEFT)
    qtbot.waitUntil(lambda: planning.wizard.problem is not None, timeout=10_000)
    assert planning.wizard.problem.note, planning.wizard.problem.sentence
    place = tmp_path / planning.wizard.plan.name
    assert "--nodes=2" in next(place.glob("*.s*")).read_text()
    assert Study.read(place / "study.json").teacher == tuple(Sequence)
    assert len(Patients.read(place / "patients.json")) == 5
    assert planning.wizard.page is Page.PLAN, "nothing was begun here"


def test_measuring_can_be_skipped_and_done_later(with_patients, measured, qtbot, monkeypatch):
    quick = estimate.measure

    def endless(device, plan, progress, models=(), seconds=20.0):
        while True:
            progress.check()

    monkeypatch.setattr(estimate, "measure", endless)
    qtbot.mouseClick(with_patients.next_button, LEFT)
    page = plan_page(with_patients)
    qtbot.waitUntil(lambda: page.measuring, timeout=10_000)
    assert page.summary.time.text() == "Measuring"
    qtbot.mouseClick(page.summary.measure_button, LEFT)
    qtbot.waitUntil(lambda: not page.measuring, timeout=10_000)
    assert page.summary.time.text() == "Not measured yet"
    assert with_patients.next_button.isEnabled(), "an estimate is no condition"
    monkeypatch.setattr(estimate, "measure", quick)
    qtbot.mouseClick(page.summary.measure_button, LEFT)
    qtbot.waitUntil(lambda: bool(page.qualities[Quality.QUICK].time), timeout=10_000)


# --- torch ------------------------------------------------------------------------------------------------------------


def test_without_torch_the_plan_says_so_and_starts_nothing(torch_missing, with_patients, measured, qtbot):
    qtbot.mouseClick(with_patients.next_button, LEFT)
    page = plan_page(with_patients)
    assert "torch" in page.summary.torch_words.text()
    assert page.summary.torch.isVisible()
    assert not with_patients.next_button.isEnabled()
    assert "torch" in with_patients.why.text()
    assert measured == []


def test_torch_is_installed_when_agreed_to_and_can_be_stopped(
    torch_missing, with_patients, measured, qtbot, monkeypatch
):
    steps: list[str] = []

    def install(progress):
        while not steps:
            progress.update(0.0, "Fetching torch; 12 MB in all so far")
        if steps == ["fail"]:
            raise UserError("The package index could not be reached", "", "Check the network.")
        monkeypatch.setattr(installing, "torch_is_here", lambda: True)

    monkeypatch.setattr(installing, "install_torch", install)
    monkeypatch.setattr(installing, "why_not_install", lambda: "")
    qtbot.mouseClick(with_patients.next_button, LEFT)
    summary = plan_page(with_patients).summary
    qtbot.mouseClick(summary.torch_button, LEFT)
    qtbot.waitUntil(lambda: "12 MB" in summary.torch_doing.text(), timeout=10_000)
    assert summary.torch_button.text() == "Stop"
    qtbot.mouseClick(summary.torch_button, LEFT)
    qtbot.waitUntil(lambda: summary.torch_button.text() == "Install torch", timeout=10_000)
    assert with_patients.wizard.problem is None, "stopping is no failure"

    steps[:] = ["fail"]
    qtbot.mouseClick(summary.torch_button, LEFT)
    qtbot.waitUntil(lambda: with_patients.wizard.problem is not None, timeout=10_000)
    assert "could not be reached" in with_patients.wizard.problem.sentence

    steps[:] = ["go on"]
    qtbot.mouseClick(summary.torch_button, LEFT)
    qtbot.waitUntil(lambda: with_patients.next_button.isEnabled(), timeout=10_000)
    assert not summary.torch.isVisible()
    qtbot.waitUntil(lambda: bool(plan_page(with_patients).sums.estimates), timeout=10_000)


def test_a_python_that_start_py_did_not_make_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert "start.py" in installing.why_not_install()


# --- starting ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Trainings are made and not worked on; their folders are listed."""
    folders: list[Path] = []
    monkeypatch.setattr(Training, "start", lambda self: folders.append(self.folder))
    return folders


def test_start_makes_the_training_that_was_planned(planning, begun, qtbot):
    page = plan_page(planning)
    qtbot.mouseClick(page.qualities[Quality.QUICK], LEFT)
    plan = planning.wizard.plan
    qtbot.mouseClick(planning.next_button, LEFT)
    qtbot.waitUntil(lambda: planning.wizard.page is Page.TRAIN, timeout=10_000)
    assert begun == [plan.folder / plan.name]
    study = json.loads((begun[0] / "study.json").read_text())
    assert {cell["recipe"] for cell in study["cells"]} == {"teacher", "baseline", "student"}
    assert not planning.back_button.isEnabled()
    assert planning.back_button.toolTip()
    qtbot.waitUntil(lambda: [row.text() for row in planning.rail.rows] == [plan.name], timeout=10_000)
    assert planning.rail.rows[0].here


def test_a_training_that_cannot_be_made_leaves_the_plan(planning, begun, qtbot, monkeypatch):
    def refuse(*_: object, **__: object) -> Training:
        raise UserError("The disk is full", "", "Make room.")

    monkeypatch.setattr(Training, "create", refuse)
    qtbot.mouseClick(planning.next_button, LEFT)
    qtbot.waitUntil(lambda: planning.wizard.problem is not None, timeout=10_000)
    assert planning.wizard.problem.sentence == "The disk is full. Make room."
    assert planning.wizard.page is Page.PLAN
    assert planning.next_button.isEnabled()


def test_another_training_begins_beside_one_that_was_begun(planning, begun, cohort, qtbot):
    qtbot.mouseClick(planning.next_button, LEFT)
    qtbot.waitUntil(lambda: planning.wizard.page is Page.TRAIN, timeout=10_000)
    first = planning.wizard.training
    qtbot.mouseClick(planning.rail.new_button, LEFT)
    assert planning.wizard.page is Page.PATIENTS
    assert planning.wizard.patients is None
    assert not patients_page(planning).table.isVisible()
    qtbot.waitUntil(lambda: len(planning.rail.rows) == 1, timeout=10_000)
    qtbot.mouseClick(planning.rail.rows[0], LEFT)
    qtbot.waitUntil(lambda: planning.wizard.training is not None, timeout=10_000)
    assert planning.wizard.training.folder == first.folder
    assert planning.wizard.page is Page.TRAIN


def test_the_folder_of_a_training_is_opened_as_one(training, planning, begun, tmp_path, qtbot):
    qtbot.mouseClick(planning.next_button, LEFT)
    qtbot.waitUntil(lambda: planning.wizard.page is Page.TRAIN, timeout=10_000)
    moved = tmp_path / "from the cluster"
    planning.wizard.training.folder.rename(moved)
    planning.wizard.begin_anew()
    drop(training, moved)
    qtbot.waitUntil(lambda: training.wizard.training is not None, timeout=10_000)
    assert training.wizard.training.folder == moved
    assert training.wizard.page is Page.TRAIN


# --- the whole way ----------------------------------------------------------------------------------------------------

LITTLE = {
    "spacing_mm": 1.0,
    "window": [32, 32, 32],
    "architecture": {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}},
    "average": 0.8,
    "threads": 1,
}


@pytest.fixture
def little_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks and trainings of seconds in the place of the presets."""
    presets = json.loads(wizard.DEFAULTS.read_text())
    presets["common"] |= LITTLE
    presets["from_scratch"] = {"learning_rate": 0.02, "steps": 1.0}
    steps = {"teacher": 30, "baseline": 30, "student": 30}
    presets["qualities"] = {q.value: {"groups": 0, "warm_up": 2, "steps": steps} for q in Quality}
    path = tmp_path / "training.json"
    path.write_text(json.dumps(presets))
    monkeypatch.setattr(wizard, "DEFAULTS", path)
    wizard._defaults.cache_clear()  # what was read before ...
    yield
    wizard._defaults.cache_clear()  # ... and what this test read


@pytest.mark.slow
@pytest.mark.timeout(1200)  # five processes that load torch, on a machine that others may use
def test_clicks_alone_lead_from_a_folder_to_a_student_that_is_picked_for_t1(
    window, little_presets, planning, tmp_path, qtbot
):
    page = plan_page(planning)
    qtbot.mouseClick(page.start_fold.head, LEFT)
    next(entry for entry in page.start_menu().actions() if entry.text() == SCRATCH).trigger()
    qtbot.mouseClick(page.qualities[Quality.QUICK], LEFT)
    page.baseline_box.click()
    qtbot.mouseClick(planning.next_button, LEFT)
    qtbot.waitUntil(lambda: planning.wizard.page is Page.TRAIN, timeout=20_000)
    training = planning.wizard.training
    qtbot.waitUntil(lambda: training.standing().state is State.DONE and not training.running(), timeout=900_000)
    qtbot.waitUntil(lambda: planning.next_button.isEnabled(), timeout=20_000)
    qtbot.mouseClick(planning.next_button, LEFT)
    assert planning.wizard.page is Page.RESULT
    result = planning.page_of[Page.RESULT]
    button = result.install_button
    qtbot.waitUntil(lambda: button.isVisible() and button.isEnabled(), timeout=20_000)
    before = {card.name for card in installed_models()}
    qtbot.mouseClick(result.install_button, LEFT)
    qtbot.waitUntil(lambda: planning.wizard.problem is not None, timeout=120_000)
    assert planning.wizard.problem.note, planning.wizard.problem.sentence
    [made] = {card.name for card in installed_models()} - before

    alone = phantoms.write_subject(tmp_path / "later", sequences=(T1,))
    drop_on_main_window(window, [alone])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    assert window.session.choice.card.name == made
    qtbot.mouseClick(window.segment.button, LEFT)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=60_000)


def test_a_training_that_was_moved_shows_its_patients_where_they_lie_now(training, tmp_path, qtbot):
    folder = training_folder.write(tmp_path / "was here", {"teacher-all-without0-seed0": 100})
    moved = folder.rename(tmp_path / "is here")
    drop(training, moved)
    qtbot.waitUntil(lambda: training.wizard.training is not None, timeout=10_000)
    watch = training.page_of[Page.TRAIN].watch
    qtbot.waitUntil(lambda: watch.course is not None and bool(watch.course.current.previews), timeout=10_000)
    assert all(path.is_relative_to(moved) and path.exists() for path in watch.course.current.previews.values())
