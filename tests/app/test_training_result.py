"""The Result page: what stands in the table, what the sentences claim, and what the buttons do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt, Signal
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import QApplication, QFileDialog, QLabel

from app.jobs import Jobs
from app.telling import Teller
from app.theme import Theme
from app.training_outcome import comparison_in_words, headline, look_at_results, mask_of
from app.training_result import ResultPage
from engine import model_file, nifti
from engine.errors import UserError
from engine.model_card import REGIONS, ModelCard
from engine.nifti import Convention
from engine.progress import Progress
from engine.volume import LabelMap, Sequence
from tests.app import threshold_model
from tests.app import training_folder as by_hand
from tests.app.training_folder import BASELINE, NAMES, STEPS, STUDENT, TEACHER, UnderWay
from tests.engine import phantoms
from trainer.comparison import Row, write_rows
from trainer.study import SCORES, mask_path
from trainer.training import About

LEFT = Qt.MouseButton.LeftButton
DONE = {TEACHER: STEPS, BASELINE: STEPS, STUDENT: STEPS}
# Dice of whole tumour of the held-out patients, anna and boris; the core is 0.2 lower.
DICE = {TEACHER: (0.9, 0.8), BASELINE: (0.5, 0.6), STUDENT: (0.7, 0.65)}


class Judged(UnderWay):
    """A finished training whose models are made without a network."""

    models: Path

    def installable(self) -> tuple[str, ...]:
        return tuple(run for run in (TEACHER, STUDENT) if (self.places.runs / run / SCORES).exists())

    def suggested_about(self, run: str) -> About:
        return About(f"glioma-{run.split('-')[0]}", "1.0", "Two patients of ours.", "Research only.", ("Us, 2026",))

    def install(self, run: str, models: Path, about: About, progress: Progress | None = None) -> ModelCard:
        self.asked.append(f"{run} {about.name} {about.data} {about.licence} {about.citations}")
        assert progress is not None
        progress.update(0.4, "checking it on boris")
        if about.name == "taken":
            raise UserError("There is a model taken already", "", "Choose another name.")
        if about.name == "slow":
            while True:
                progress.check()
        return threshold_model.install(models, about.name, (Sequence.T1,))


class Wizard(Teller):
    training_changed = Signal()
    look_wanted = Signal(object)
    models_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.training: Judged | None = None


def write_scores(folder: Path, run: str, dice: tuple[float, ...], sequences: str) -> None:
    rows = [
        Row(
            run.split("-")[0],
            sequences,
            0,
            0,
            "real",
            name,
            region,
            threshold,
            round(value - lower, 3),
            9.0,
            30.0,
            28.0,
        )
        for name, value in zip(NAMES, dice, strict=False)
        for region, lower in zip(REGIONS, (0.0, 0.2), strict=True)
        for threshold in (0.3, 0.5)
    ]
    write_rows(folder / "runs" / run / SCORES, rows)


@pytest.fixture
def training(tmp_path: Path) -> Judged:
    folder = by_hand.write(tmp_path / "glioma", DONE)
    for run, dice in DICE.items():
        write_scores(folder, run, dice, "t1+t1ce+t2+flair" if run == TEACHER else "t1")
    made = Judged(folder)
    made.working = False
    return made


@pytest.fixture
def wizard(qapp, training: Judged) -> Wizard:
    made = Wizard()
    made.training = training
    return made


@pytest.fixture
def page(qtbot, wizard: Wizard, models) -> Iterator[ResultPage]:
    jobs = Jobs()
    made = ResultPage(Theme("dark"), jobs, wizard)  # type: ignore[arg-type]
    qtbot.addWidget(made)
    made.resize(1192, 776)
    made.show()
    qtbot.waitUntil(lambda: made.pages.currentIndex() == 1 and made.name_field.text() != "", timeout=5_000)
    yield made
    jobs.close()


def table(page: ResultPage) -> list[list[str]]:
    rows: dict[int, dict[int, str]] = {}
    for place in range(page._rows.count()):
        widget = page._rows.itemAt(place).widget()
        row, column, _, _ = page._rows.getItemPosition(place)
        if isinstance(widget, QLabel):
            rows.setdefault(row, {})[column] = widget.text()
    return [[text for _, text in sorted(columns.items())] for _, columns in sorted(rows.items())]


def told(wizard: Wizard) -> str:
    return wizard.problem.sentence if wizard.problem is not None else ""


def test_teacher_baseline_and_student_stand_side_by_side(page):
    head, names, *rows = table(page)
    assert head == ["WHOLE TUMOUR", "CORE"]
    assert names == ["Dice", "HD95, mm", "Dice", "HD95, mm", "Patients"]
    assert rows == [
        ["Teacher, four sequences", "0.850 \u00b1 0.07", "9.0", "0.650 \u00b1 0.07", "9.0", "2"],
        ["Baseline, T1", "0.550 \u00b1 0.07", "9.0", "0.350 \u00b1 0.07", "9.0", "2"],
        ["Student, T1", "0.675 \u00b1 0.04", "9.0", "0.475 \u00b1 0.04", "9.0", "2"],
    ]
    assert "Whole tumour: 12.5 points better than the baseline" in page.sentences.text()
    assert "2 of 2 patients better" in page.sentences.text()


def test_two_patients_prove_nothing_and_the_page_says_so(page):
    assert page.title.text() == "No difference from the baseline that 2 patients can show"
    assert "Student, T1 on 2 patients it had not learnt from: Dice 0.68 for whole tumour" in page.where.text()


def test_a_difference_that_is_sure_is_called_one_in_its_direction(training):
    outcome = look_at_results(training, Progress())
    sure = [replace(one, p=0.001, p_holm=0.002) for one in outcome.comparisons]
    better = replace(outcome, comparisons=tuple(sure))
    assert headline(better, "t1")[0] == "The student finds whole tumour and core better than its baseline"
    worse = replace(outcome, comparisons=tuple(replace(one, points=-3.0) for one in sure))
    assert headline(worse, "t1")[0] == "The student finds whole tumour and core worse than its baseline"
    assert "3.0 points worse" in comparison_in_words(worse.compared("t1")[0])
    assert comparison_in_words(replace(better.compared("t1")[0], points=0.01)).startswith("Whole tumour: the same as")
    assert headline(replace(outcome, comparisons=()), "t1")[0].startswith("Student, T1: Dice 0.68")


def test_what_is_still_to_be_measured_is_told_and_comes_by_itself(training, wizard, models, qtbot):
    for run in (TEACHER, STUDENT):
        (training.folder / "runs" / run / SCORES).unlink()
    jobs = Jobs()
    page = ResultPage(Theme("dark"), jobs, wizard)
    qtbot.addWidget(page)
    page._later.setInterval(20)
    page.show()
    qtbot.waitUntil(lambda: page.pages.currentIndex() == 1, timeout=5_000)
    assert "2 networks are still to be measured." in page.where.text()
    assert not page.install_button.isEnabled()
    assert page.install_button.toolTip() == "No network is finished and measured yet."
    write_scores(training.folder, STUDENT, DICE[STUDENT], "t1")
    qtbot.waitUntil(lambda: "One network is still to be measured." in page.where.text(), timeout=5_000)
    qtbot.waitUntil(lambda: page.install_button.isEnabled(), timeout=5_000)
    assert page.run_choice.currentText() == "Student, T1"
    jobs.close()


def test_nothing_measured_and_nothing_trained_have_their_words(training, wizard, qtbot, models):
    for run in DICE:
        (training.folder / "runs" / run / SCORES).unlink()
    jobs = Jobs()
    page = ResultPage(Theme("dark"), jobs, wizard)
    qtbot.addWidget(page)
    page.show()
    qtbot.waitUntil(lambda: page._words.text().startswith("Nothing is measured yet."), timeout=5_000)
    wizard.training = None
    wizard.training_changed.emit()
    assert page._words.text() == "There are no results before something was trained."
    jobs.close()


def test_a_damaged_file_of_scores_is_told(training, wizard, qtbot, models):
    (training.folder / "runs" / STUDENT / SCORES).write_text("nonsense\n1,2\n", encoding="utf-8")
    jobs = Jobs()
    page = ResultPage(Theme("dark"), jobs, wizard)
    qtbot.addWidget(page)
    page.show()
    qtbot.waitUntil(lambda: "scores.csv is no file of scores" in page._words.text(), timeout=5_000)
    assert "scores.csv is no file of scores" in told(wizard)
    jobs.close()


def test_the_plot_names_the_patient_under_the_pointer_in_both_regions(page):
    plot = page.plots["whole_tumour"]
    assert [group.dice for group in plot.groups][2] == {"anna": 0.7, "boris": 0.65}
    place = plot._places()[2]["boris"]
    buttons, keys = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(
        plot, QMouseEvent(QMouseEvent.Type.MouseMove, place, plot.mapToGlobal(place), buttons, buttons, keys)
    )
    for one, words in ((plot, "Student 0.65"), (page.plots["tumour_core"], "Student 0.45")):
        assert one.toolTip().startswith("boris: ")
        assert words in one.toolTip()
    away = QPointF(1, 1)
    QApplication.sendEvent(
        plot, QMouseEvent(QMouseEvent.Type.MouseMove, away, plot.mapToGlobal(away), buttons, buttons, keys)
    )
    assert plot.toolTip() == ""


def test_the_worst_patients_are_opened_with_truth_and_mask(page, training, wizard, qtbot):
    assert [button.text().split()[0] for button in page.worst_buttons] == ["boris", "anna"]
    page._judge(1)
    assert [button.text().split()[0] for button in page.worst_buttons] == ["anna", "boris"]
    grid = phantoms.grid("LPS")
    truth = phantoms.tumour(grid).data
    less = truth.copy()
    less[truth == 1] = 2
    folder = training.folder / "runs" / BASELINE
    (folder / "masks").mkdir()
    # One half is nearest to one half: both thresholds did equally well.
    nifti.write_label_map(LabelMap(truth, grid), mask_path(folder, "anna", 0.5))
    nifti.write_label_map(LabelMap(less, grid), mask_path(folder, "anna", 0.3))
    with qtbot.waitSignal(wizard.look_wanted, timeout=5_000) as wanted:
        qtbot.mouseClick(page.worst_buttons[0], LEFT)
    look = wanted.args[0]
    assert {path.name for path in look.scans} == {f"anna_{sequence}.nii.gz" for sequence in Sequence}
    assert look.truth.name == "anna_seg.nii.gz"
    assert look.title == "Baseline, T1"
    found = nifti.read_label_map(look.mask, Convention.GLIASCOPE)
    assert np.array_equal(found.data, truth)


def test_each_region_is_shown_at_its_own_threshold(training):
    outcome = look_at_results(training, Progress())
    line = outcome.lines[1]
    patient = replace(
        outcome.patients[line.recipe, line.sequences][0], threshold={"whole_tumour": 0.3, "tumour_core": 0.5}
    )
    assert mask_of(training, line, patient, Progress()) is None
    grid = phantoms.grid("RAS")
    truth = phantoms.tumour(grid).data
    large = truth.copy()
    large[:3, :3, :3] = 1
    folder = training.folder / "runs" / BASELINE
    (folder / "masks").mkdir()
    nifti.write_label_map(LabelMap(large, grid), mask_path(folder, patient.name, 0.3))
    nifti.write_label_map(LabelMap(truth, grid), mask_path(folder, patient.name, 0.5))
    found = nifti.read_label_map(mask_of(training, line, patient, Progress()), Convention.GLIASCOPE)
    assert np.array_equal(found.tumour_core, truth == 1)
    assert np.array_equal(found.whole_tumour, large > 0)


def test_the_card_is_reviewed_and_installed(page, training, wizard, models: Path, qtbot):
    assert page.run_choice.currentText() == "Student, T1"
    assert page.name_field.text() == "glioma-student"
    assert not page.export_button.isEnabled()
    assert page.export_button.toolTip() == "Install the model first."
    page.name_field.clear()
    assert page.install_button.toolTip() == "The model needs a name."
    qtbot.keyClicks(page.name_field, "glioma-ours")
    page.data_field.setPlainText("Two patients, seen by us.")
    page.licence_field.setText("Inside our hospital.")
    with qtbot.waitSignal(wizard.models_changed, timeout=5_000):
        qtbot.mouseClick(page.install_button, LEFT)
    assert training.asked == [f"{STUDENT} glioma-ours Two patients, seen by us. Inside our hospital. {('Us, 2026',)}"]
    assert ModelCard.read(models / "glioma-ours").name == "glioma-ours"
    assert "is installed as glioma-ours" in told(wizard)
    assert "wherever it was better on your own patients" in told(wizard)
    assert page.export_button.isEnabled()
    assert not page.progress.isVisible()


def test_installing_can_be_cancelled_where_it_was_begun(page, wizard, models: Path, qtbot):
    page.name_field.setText("slow")
    qtbot.mouseClick(page.install_button, LEFT)
    qtbot.waitUntil(lambda: page.doing.text() == "Checking it on boris", timeout=5_000)
    assert page.progress.isVisible()
    assert page.progress.value() == 40
    assert page.install_button.text() == "Cancel"
    assert not page.name_field.isEnabled()
    qtbot.mouseClick(page.install_button, LEFT)
    qtbot.waitUntil(lambda: page.install_button.text() == "Install into Gliascope", timeout=5_000)
    assert page.install_button.isEnabled()
    assert not (models / "slow").exists()
    assert wizard.problem is None


def test_a_name_that_is_taken_is_told_and_another_can_be_given(page, wizard, qtbot):
    page.name_field.setText("taken")
    qtbot.mouseClick(page.install_button, LEFT)
    qtbot.waitUntil(lambda: told(wizard) == "There is a model taken already. Choose another name.", timeout=5_000)
    assert page.install_button.isEnabled()
    assert page.name_field.isEnabled()


def test_another_network_brings_its_own_card(page, qtbot):
    page.data_field.setPlainText("edited")
    place = page.run_choice.findText("Teacher, four sequences")
    page.run_choice.setCurrentIndex(place)
    page.run_choice.activated.emit(place)
    qtbot.waitUntil(lambda: page.name_field.text() == "glioma-teacher", timeout=5_000)
    assert page.data_field.toPlainText() == "Two patients of ours."


def test_one_file_is_written_and_asks_before_it_replaces(page, wizard, models: Path, tmp_path, qtbot, monkeypatch):
    qtbot.mouseClick(page.install_button, LEFT)
    qtbot.waitUntil(lambda: page.export_button.isEnabled(), timeout=5_000)
    target = tmp_path / "ours.gliamodel"
    written: list[tuple[str, Path]] = []

    def write(card: ModelCard, path: Path, progress: Progress | None = None) -> Path:
        written.append((card.name, path))
        return path

    def read(path: Path, models: Path, replace: bool = False, progress: Progress | None = None) -> ModelCard:
        written.append((f"replace {replace}", path))
        if not replace:
            raise model_file.ModelExists("There is a model glioma-student already", "", "Replace it or keep it.")
        return ModelCard.read(models / "glioma-student")

    monkeypatch.setattr(model_file, "write", write)
    monkeypatch.setattr(model_file, "read", read)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(target), ""))
    qtbot.mouseClick(page.export_button, LEFT)
    qtbot.waitUntil(lambda: "lies in ours.gliamodel" in told(wizard), timeout=5_000)
    qtbot.mouseClick(page.import_button, LEFT)
    qtbot.waitUntil(lambda: "There is a model glioma-student already" in told(wizard), timeout=5_000)
    assert written == [("glioma-student", target), ("replace False", target)]
    with qtbot.waitSignal(wizard.models_changed, timeout=5_000):
        dict(wizard.problem.actions)["Replace it"]()
    assert written[-1] == ("replace True", target)
    assert "was added as glioma-student" in told(wizard)


def test_sets_of_sequences_are_looked_at_one_at_a_time(tmp_path, wizard, models, qtbot):
    students = (("t1",), ("t1", "flair"))
    folder = by_hand.write(tmp_path / "two", DONE, students)
    write_scores(folder, TEACHER, DICE[TEACHER], "t1+t1ce+t2+flair")
    for name, value in (("t1", 0.5), ("t1+flair", 0.8)):
        for recipe in ("baseline", "student"):
            run = f"{recipe}-{name}-without0-seed0"
            (folder / "runs" / run).mkdir(parents=True, exist_ok=True)
            write_scores(folder, run, (value, value), name)
    wizard.training = Judged(folder)
    jobs = Jobs()
    page = ResultPage(Theme("dark"), jobs, wizard)
    qtbot.addWidget(page)
    page.show()
    qtbot.waitUntil(lambda: page.pages.currentIndex() == 1, timeout=5_000)
    assert [row[0] for row in table(page)[2:]] == ["Teacher, four sequences", "Baseline, T1", "Student, T1"]
    qtbot.mouseClick(page.set_choice.button("t1+flair"), LEFT)
    assert [row[0] for row in table(page)[2:]] == ["Teacher, four sequences", "Baseline, T1+FLAIR", "Student, T1+FLAIR"]
    assert table(page)[4][1].startswith("0.800")
    jobs.close()


def test_closing_while_it_installs_ends_it(page, qtbot):
    page.name_field.setText("slow")
    qtbot.mouseClick(page.install_button, LEFT)
    qtbot.waitUntil(lambda: page.progress.value() == 40, timeout=5_000)
    page._jobs.close()
    assert not page._jobs.busy
