"""The Train page as somebody sees it who waits for a training: curves, patients, words and buttons."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QPushButton

from app.curves import CurvePlot, apart, nice_ceiling, role_colour, smoothed, thinned
from app.jobs import Jobs
from app.telling import Teller, time_left
from app.theme import DARK, LIGHT, Theme, contrast
from app.training_course import Course, Stage
from app.training_run import TrainPage
from app.training_watch import plans_of
from app.viewer_model import Mask
from engine.model_card import Role
from engine.volume import Sequence
from tests.app import training_folder as by_hand
from tests.app.training_folder import BASELINE, STEPS, STUDENT, TEACHER, UnderWay
from tests.engine import phantoms
from trainer.events import Acknowledged, Failed, FellBack, Finished, Paused, Resumed, StepEnd, Stopped
from trainer.training import Heard, State, Training

LEFT = Qt.MouseButton.LeftButton
HALF = {TEACHER: STEPS, BASELINE: STEPS, STUDENT: 225}


class Wizard(Teller):
    """What the page needs of the wizard it stands in."""

    training_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.training: Training | None = None

    def look_at(self, training: Training | None) -> None:
        self.training = training
        self.training_changed.emit()


@pytest.fixture
def wizard(qapp) -> Wizard:
    return Wizard()


@pytest.fixture
def page(qtbot, wizard: Wizard) -> Iterator[TrainPage]:
    jobs = Jobs()
    made = TrainPage(Theme("dark"), jobs, wizard)  # type: ignore[arg-type]
    qtbot.addWidget(made)
    made.resize(1192, 776)
    made.show()
    qtbot.waitExposed(made)
    yield made
    jobs.close()


@pytest.fixture
def follow(page: TrainPage, wizard: Wizard, tmp_path: Path, qtbot) -> Callable[..., UnderWay]:
    """Follow a training written by hand that has come so far, and wait until everything of it is on the page."""

    def follow(done: dict[str, int], working: bool = True, **more: object) -> UnderWay:
        training = UnderWay(by_hand.write(tmp_path / "glioma", done, **more))
        training.working = working
        wizard.look_at(training)
        qtbot.waitUntil(lambda: page.watch.standing is not None, timeout=5_000)
        if any(steps >= by_hand.EVERY for steps in done.values()):
            qtbot.waitUntil(lambda: shown(page, 0) is not None, timeout=5_000)
        return training

    return follow


def shown(page: TrainPage, column: int, row: int = 0) -> Mask | None:
    """The mask of a column (0 truth, 1 teacher, 2 watched)."""
    return page.previews.cells[row][column].model.mask


def slices_found(page: TrainPage, column: int) -> int:
    mask = shown(page, column)
    return 0 if mask is None else int(np.count_nonzero(mask.labels.data.any(axis=(0, 1))))


def buttons(page: TrainPage) -> list[str]:
    made = (page.pause_button, page.keep_button, page.cancel_button, page.go_button)
    return [button.text() for button in made if button.isVisible()]


def click(qtbot, button: QPushButton) -> None:
    qtbot.mouseClick(button, LEFT)


def action_of(wizard: Wizard, title: str) -> Callable[[], None]:
    assert wizard.problem is not None
    return dict(wizard.problem.actions)[title]


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_curves_of_teacher_baseline_and_student_side_by_side(page, follow):
    follow(HALF)
    for plot in (page.whole_plot, page.core_plot):
        assert "Dice on full validation images" in plot.accessibleName()
        assert {one.name for one in plot.series} == {"Teacher", "Baseline", "Student"}
    whole = {one.name: one for one in page.whole_plot.series}
    assert whole["Teacher"].x.tolist() == [100, 200, 300, 400]
    assert whole["Teacher"].y[2] == pytest.approx(0.9)
    # The best is not the newest: step 400 was worse.
    assert whole["Teacher"].best == 2
    assert "best 0.90 at step 300" in page.whole_plot.accessibleDescription()
    # Hard loss for everybody, distillation for who is taught.
    assert {one.name for one in page.hard_plot.series} == {"Teacher", "Baseline", "Student"}
    assert [one.name for one in page.distillation_plot.series] == ["Student"]
    assert page.distillation_plot.series[0].y[-1] == pytest.approx(0.5)
    assert page.hard_plot.series[0].raw[-1] < 0.35


def test_every_role_has_its_own_colour_that_stands_out(qapp):
    for look, dark in ((DARK, True), (LIGHT, False)):
        colours = [role_colour(role, dark) for role in Role]
        assert all(contrast(colour, look.panel) >= 3 for colour in colours)
    painted = {}
    for role in Role:
        theme = Theme("dark")
        plot = CurvePlot(theme, "Dice", 1.0)
        plot.resize(400, 200)
        from app.curves import Series

        plot.show_series([Series("one", role, np.array([0.0, 100.0]), np.array([0.5, 0.5]))], 100)
        painted[role] = plot.grab().toImage()
    pairs = itertools.combinations(painted.values(), 2)
    assert all(one != other for one, other in pairs)


def test_words_above_say_what_learns_how_far_and_how_long(page, follow):
    follow(HALF)
    assert page.title.text() == "Student T1 is learning"
    words = page.left.text()
    assert f"step 225 of {STEPS}" in words
    assert "run 3 of 3" in words
    assert "left" in words
    pieces = page.strip.pieces
    assert [piece.title for piece in pieces] == ["Teacher", "Baseline T1", "Student T1"]
    assert [round(piece.share, 2) for piece in pieces] == [1, 1, 0.56]
    assert page.tiles["pace"].figure.value == "2.00"
    assert page.tiles["memory"].figure.value == "900 MB"
    assert page.tiles["heat"].figure.value == "not told here"


def test_a_plot_is_read_with_the_keyboard(page, follow, qtbot):
    follow(HALF)
    page.whole_plot.setFocus()
    qtbot.keyClick(page.whole_plot, Qt.Key.Key_Left)
    assert page.whole_plot.reading().startswith("step 300: ")
    assert "Teacher 0.90" in page.whole_plot.reading()
    qtbot.keyClick(page.whole_plot, Qt.Key.Key_Left)
    assert "Student 0.47" in page.whole_plot.reading()
    assert page.whole_plot.accessibleDescription() == page.whole_plot.reading()


# --- two patients over time -------------------------------------------------------------------------------------------


def test_the_slider_goes_back_through_what_was_found(page, follow, qtbot):
    follow(HALF)
    qtbot.waitUntil(lambda: shown(page, 2) is not None, timeout=5_000)
    assert [title.text() for title in page.previews.titles] == [
        "Truth, dashed in the others",
        "Teacher, step 400",
        "Student T1, step 200",
    ]
    now = slices_found(page, 2)
    page.previews.slider.setFocus()
    qtbot.keyClick(page.previews.slider, Qt.Key.Key_Left)
    qtbot.waitUntil(lambda: slices_found(page, 2) < now, timeout=5_000)
    assert page.previews.when.text() == "step 100"
    assert page.previews.titles[2].text() == "Student T1, step 100"
    # The teacher stays as good as it became.
    assert slices_found(page, 1) == slices_found(page, 0)


def test_who_went_back_stays_there_when_something_new_comes(page, follow, qtbot):
    training = follow(HALF)
    page.previews.slider.setValue(0)
    by_hand.learn(training.folder, STUDENT, 225, 300)
    qtbot.waitUntil(lambda: page.previews.slider.maximum() == 2, timeout=5_000)
    assert page.previews.step == 100
    page.previews.slider.setValue(2)
    by_hand.learn(training.folder, STUDENT, 300, 400)
    qtbot.waitUntil(lambda: page.previews.step == 400, timeout=5_000)
    assert page.previews.when.text() == "step 400"


def test_playing_begins_at_the_first_look_and_ends_at_the_last(page, follow, qtbot):
    follow(HALF)
    page.previews._playing.setInterval(5)
    seen = []
    page.previews.slider.valueChanged.connect(seen.append)
    click(qtbot, page.previews.play_button)
    assert page.previews.play_button.toolTip() == "Stop here"
    qtbot.waitUntil(lambda: page.previews.play_button.toolTip() == "Watch it learn", timeout=5_000)
    assert seen == [0, 1]


def test_left_is_left_and_the_tumour_lies_where_it_is(page, follow, qtbot):
    follow(HALF)
    cell = page.previews.cells[0][0]
    view = cell.view
    letters = view.cut.letters
    assert letters[:2] == ("R", "L")
    # The phantom's tumour is on the patient's right, so on the left of the screen.
    grid = phantoms.grid("RAS")
    middle = grid.to_voxel(np.array([[3.0, -5.0, 7.0]]))[0]
    tumour = view.pixel_of(middle + phantoms.TUMOUR_CENTRE)
    centre = view.pixel_of(middle)
    assert tumour.x() < centre.x() - 5
    picture = view.viewport().grab().toImage()
    at_tumour = picture.pixelColor(round(tumour.x()), round(tumour.y()))
    assert at_tumour.red() > at_tumour.blue() + 40  # the core's orange
    outside = picture.pixelColor(5, view.height() // 2 + 40)
    assert max(outside.red(), outside.green(), outside.blue()) < 30


def test_slices_and_sequences_of_a_patient_go_together(page, follow, qtbot):
    follow(HALF)
    row, other = page.previews.cells
    before = row[1].model.crosshair[2]
    apart_before = other[1].model.crosshair[2]
    qtbot.keyClick(row[0].view, Qt.Key.Key_PageUp)
    row[0].model.step(row[0].view.plane, 2)
    assert row[1].model.crosshair[2] == row[2].model.crosshair[2] == row[0].model.crosshair[2] != before
    assert other[1].model.crosshair[2] == apart_before
    click(qtbot, page.previews.sequence_choice.button(Sequence.FLAIR))
    assert {cell.model.shown for line in page.previews.cells for cell in line} == {Sequence.FLAIR}


def test_a_run_that_has_not_begun_says_so(page, follow, qtbot):
    follow({TEACHER: 200})
    assert page.previews.cells[0][2].view.words == "Student T1 has not begun yet."
    assert page.title.text() == "Teacher is learning"
    qtbot.waitUntil(lambda: shown(page, 1) is not None, timeout=5_000)
    click(qtbot, page.previews.kind_choice.button("Student T1"))
    assert page.previews.titles[1].text() == "Teacher, step 200"
    assert not page.previews.slider.isEnabled()
    assert "second look" in page.previews.play_button.toolTip()


def test_a_damaged_look_is_told_in_its_place(page, follow, qtbot):
    training = follow({TEACHER: 200})
    qtbot.waitUntil(lambda: shown(page, 1) is not None, timeout=5_000)
    (training.folder / "runs" / TEACHER / "previews" / "000100.npz").write_bytes(b"nonsense")
    page.previews.slider.setValue(0)
    qtbot.waitUntil(lambda: "cannot be read" in page.previews.cells[0][1].view.words, timeout=5_000)
    page.previews.slider.setValue(1)
    assert page.previews.cells[0][1].view.words == ""


def test_many_students_are_chosen_from_a_menu(page, follow):
    sets = tuple((name,) for name in ("t1", "t1ce", "t2", "flair"))
    follow({TEACHER: STEPS, "student-t2-without0-seed0": 200}, students=sets)
    assert page.previews.kind_choice.text() == "Student T2"
    names = [one.name for one in page.whole_plot.series if one.strong]
    assert names == ["Teacher", "Student T2"]


def test_runs_of_different_folds_are_never_laid_over_each_other(page, wizard, tmp_path, qtbot):
    folder = by_hand.write(tmp_path / "folds", {TEACHER: STEPS}, folds=(0, 1))
    other = "teacher-all-without1-seed0"
    by_hand.learn(folder, other, 0, STEPS)
    by_hand.learn(folder, "student-t1-without1-seed0", 0, 200)
    wizard.look_at(UnderWay(folder))
    qtbot.waitUntil(lambda: shown(page, 2) is not None, timeout=5_000)
    assert page.previews.titles[2].text() == "Student T1, step 200"
    teacher, student = page.previews._columns
    assert teacher.plan.held_out == student.plan.held_out == (1,)
    assert page.previews._base == other
    strong = next(one for one in page.whole_plot.series if one.strong and one.name == "Teacher")
    assert strong.y[2] == pytest.approx(0.5)  # of that fold, not of the other one's


# --- what it is told --------------------------------------------------------------------------------------------------


def test_pause_is_answered_in_words_from_the_click_on(page, follow, qtbot):
    training = follow(HALF)
    assert buttons(page) == ["Pause", "Stop and keep best", "Cancel"]
    click(qtbot, page.pause_button)
    assert page.answer.text() == "Asked to pause."
    assert not page.pause_button.isEnabled()
    qtbot.waitUntil(lambda: training.asked == ["pause"], timeout=2_000)
    by_hand.tell(training.folder, "", Acknowledged("pause"))
    qtbot.waitUntil(lambda: page.answer.text() == "Heard: it pauses after the step it is in.", timeout=1_000)
    by_hand.tell(training.folder, STUDENT, Paused(226))
    qtbot.waitUntil(lambda: page.answer.text().startswith("Paused at step"), timeout=1_000)
    assert page.title.text() == "Student T1 is paused"
    assert buttons(page) == ["Go on", "Stop and keep best", "Cancel"]
    click(qtbot, page.pause_button)
    qtbot.waitUntil(lambda: training.asked == ["pause", "resume"], timeout=2_000)
    by_hand.tell(training.folder, "", Acknowledged("resume"))
    by_hand.tell(training.folder, STUDENT, Resumed(226))
    qtbot.waitUntil(lambda: page.title.text() == "Student T1 is learning", timeout=1_000)
    assert not page.answer.isVisible()


def test_keeping_the_best_is_asked_about_and_can_be_declined(page, wizard, follow, qtbot):
    training = follow(HALF)
    click(qtbot, page.keep_button)
    assert "Student T1 will take no further steps" in wizard.problem.sentence
    assert "weights of step 200 (Dice 0.47 and 0.33)" in wizard.problem.sentence
    action_of(wizard, "Let it go on")()
    assert wizard.problem is None
    assert training.asked == []
    click(qtbot, page.keep_button)
    action_of(wizard, "End it now")()
    qtbot.waitUntil(lambda: training.asked == ["keep"], timeout=2_000)
    by_hand.tell(training.folder, "", Acknowledged("keep"))
    by_hand.tell(training.folder, STUDENT, Finished(225, "best", "best", 200))
    qtbot.waitUntil(lambda: "with its best weights, of step 200" in page.last.text(), timeout=1_000)


def test_there_is_no_best_to_keep_before_a_validation(page, follow):
    follow({TEACHER: 75})
    assert not page.keep_button.isEnabled()
    assert page.keep_button.toolTip() == "There is no best yet: it takes a first validation."
    assert page.pause_button.isEnabled()


def test_cancel_saves_everything_and_it_can_go_on(page, follow, qtbot):
    training = follow(HALF)
    click(qtbot, page.cancel_button)
    qtbot.waitUntil(lambda: training.asked == ["stop"], timeout=2_000)
    by_hand.tell(training.folder, "", Acknowledged("stop"))
    by_hand.tell(training.folder, STUDENT, Stopped(226))
    training.working = False
    qtbot.waitUntil(lambda: page.title.text() == "Stopped, and everything is saved", timeout=5_000)
    assert page.answer.text() == "Stopped; everything is saved."
    assert buttons(page) == ["Go on"]
    click(qtbot, page.go_button)
    qtbot.waitUntil(lambda: training.asked == ["stop", "start"], timeout=2_000)
    by_hand.learn(training.folder, STUDENT, 226, 300)
    qtbot.waitUntil(lambda: page.title.text() == "Student T1 is learning", timeout=5_000)
    # What was taken twice is drawn once.
    steps = next(one for one in page.hard_plot.series if one.name == "Student").x
    assert (np.diff(steps) > 0).all()


def test_a_failure_is_told_and_can_be_tried_again(page, follow, qtbot):
    training = follow(HALF)
    by_hand.tell(training.folder, STUDENT, Failed("anna_t1.nii.gz is gone. Put it back."))
    training.working = False
    qtbot.waitUntil(lambda: page.title.text() == "The training could not go on", timeout=5_000)
    assert "anna_t1.nii.gz is gone. Put it back." in page.left.text()
    assert buttons(page) == ["Try again"]


def test_a_folder_that_is_unplugged_is_told_once(page, wizard, follow, qtbot, monkeypatch):
    training = follow(HALF)
    told = []
    wizard.problem_changed.connect(lambda: told.append(wizard.problem))

    def gone(after: int = 0) -> tuple[list[Heard], int]:
        from engine.errors import UserError

        raise UserError("The folder glioma is gone", "", "Plug the disk in again.")

    monkeypatch.setattr(training, "events", gone)
    page.watch._again.setInterval(10)
    qtbot.waitUntil(lambda: bool(told), timeout=5_000)
    assert told[0].sentence == "The folder glioma is gone. Plug the disk in again."
    qtbot.wait(100)
    assert len(told) == 1
    monkeypatch.undo()
    by_hand.tell(training.folder, "", FellBack("The disk is back."))
    qtbot.waitUntil(lambda: page.last.text() == "The disk is back.", timeout=5_000)


def test_the_log_is_folded_away_and_complete(page, follow, qtbot):
    training = follow(HALF)
    assert not page.log.isVisible()
    by_hand.tell(training.folder, STUDENT, FellBack("Memory ran out; the batch is taken in two pieces."))
    qtbot.waitUntil(lambda: page.last.text().startswith("Memory ran out"), timeout=5_000)
    click(qtbot, page.log_button)
    assert page.log.isVisible()
    lines = page.log.toPlainText().splitlines()
    assert sum("is trained" in line for line in lines) == 2
    assert lines[-1].endswith("Memory ran out; the batch is taken in two pieces.")
    click(qtbot, page.log_button)
    assert not page.log.isVisible()


def test_without_a_training_the_page_says_what_comes(page):
    assert page.title.text() == "No training yet"
    assert buttons(page) == []


def test_a_training_that_is_done_shows_how_it_went(page, follow):
    follow({TEACHER: STEPS, BASELINE: STEPS, STUDENT: STEPS}, working=False)
    assert page.strip.pieces[2].words == "finished"
    assert page.watch.standing.state is not State.RUNNING


# --- how it is put in order -------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_forgets_the_steps_it_takes_again(tmp_path):
    training = Training(by_hand.write(tmp_path / "glioma", {TEACHER: 225}))
    course = Course(plans_of(training))
    course.take(training.events()[0])
    run = course.runs[TEACHER]
    assert (run.step, len(run.reports), list(run.previews)) == (225, 9, [100, 200])
    from trainer.events import Started

    course.take([Heard(TEACHER, 2.0, Started(TEACHER, "cpu", STEPS, 150, 1))])
    assert (run.step, len(run.reports), list(run.previews)) == (150, 6, [100])
    assert run.stage is Stage.WORKING
    course.take([Heard(TEACHER, 2.0, StepEnd(175, 1.0, {"hard": 1.0}, 1e-3, 0.5, 10.0))])
    assert [report.step for report in run.reports][-2:] == [150, 175]
    assert run.reports[-1].examples_a_second == pytest.approx(2.0)


def test_seconds_are_told_as_people_tell_them():
    assert time_left(10, 50) == "less than a minute"
    assert time_left(35 * 60, 48 * 60) == "35 to 48 min"
    assert time_left(60 * 60, 61 * 60) == "60 to 61 min"
    assert time_left(2.1 * 3600, 3.4 * 3600) == "2.1 to 3.4 h"
    assert time_left(20 * 3600, 30 * 3600) == "20 to 30 h"
    assert time_left(20, 80) == "1 min"
    assert time_left(60 * 3600, 100 * 3600) == "2.5 to 4.2 days"


def test_names_at_the_ends_of_curves_do_not_overlap():
    assert apart([10, 12, 13], 15, 0, 100) == [10, 25, 40]
    assert apart([95, 96], 15, 0, 100) == [85, 100]
    assert nice_ceiling(0.83) == pytest.approx(1.0)
    assert smoothed(np.array([1.0, 1.0, 1.0])) == pytest.approx([1, 1, 1])


def test_a_long_training_is_drawn_with_no_more_points_than_a_screen_has():
    x = np.arange(1.0, 10_001)
    thin_x, thin_y = thinned(x, 2 * x)
    assert thin_x.size <= 300
    assert thin_x[-1] == 10_000
    assert thin_y[0] == pytest.approx(2 * x[:34].mean())
    assert thinned(x[:50], x[:50])[0].size == 50


def test_a_training_is_looked_at_without_torch(tmp_path):
    import subprocess
    import sys

    by_hand.write(tmp_path / "glioma", HALF)
    code = (
        "import sys; from pathlib import Path; from trainer.training import Training; "
        "from app.training_watch import plans_of; import app.training_run, app.training_result; "
        "training = Training(Path(sys.argv[1])); training.standing(); plans_of(training); "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "glioma")], check=False).returncode == 0


def test_a_folder_that_is_deleted_does_no_harm(page, follow, qtbot):
    training = follow(HALF)
    shutil.rmtree(training.folder)
    page.previews.slider.setValue(0)
    qtbot.wait(50)
    assert page.title.text()
