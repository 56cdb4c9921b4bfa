"""Real trainings of phantoms: followed and told what to do, and judged, on the real pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, Signal

from app.jobs import Jobs
from app.telling import Teller
from app.theme import Theme
from app.training_course import RunCourse
from app.training_result import ResultPage
from app.training_run import TrainPage
from engine import nifti
from engine.metrics import dice
from engine.nifti import Convention
from engine.progress import Progress
from engine.volume import LabelMap, Sequence, Volume
from tests.engine import phantoms
from trainer.events import Acknowledged
from trainer.patients import Patients
from trainer.study import Cell, Study
from trainer.training import Training, carry_out

LEFT = Qt.MouseButton.LeftButton
T1 = (Sequence.T1,)
NAMES = ("anna", "boris", "carla", "dora")
LONG = 300_000  # milliseconds; other processes may have the machine


class Wizard(Teller):
    """What the pages need of the wizard they stand in."""

    training_changed = Signal()
    look_wanted = Signal(object)
    models_changed = Signal()
    training: Training | None = None


def make(folder: Path, teacher_steps: int) -> Training:
    """Two patients to learn from, two held out; teacher, baseline and student of a few steps each."""
    for number, name in enumerate(NAMES):
        grid = phantoms.grid(("RAS", "LPS", "PIL", "SRA")[number])
        (folder / "cohort" / name).mkdir(parents=True)
        for sequence in Sequence:
            path = folder / "cohort" / name / f"{name}_{sequence}.nii.gz"
            nifti.write_volume(Volume(phantoms.head(grid, sequence).data, grid, sequence), path)
        brats = phantoms.tumour(grid).data
        brats[brats == 1] = 4
        nifti.write_label_map(LabelMap(brats, grid), folder / "cohort" / name / f"{name}_seg.nii.gz")
    study = Study(
        title="live",
        folds=(NAMES[:2], NAMES[2:]),
        common={
            "spacing_mm": 1.0,
            "window": [32, 32, 32],
            "architecture": {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}},
            "steps": 30,
            "warm_up": 2,
            "learning_rate": 0.01,
            "average": 0.8,
            "threads": 1,
            "device": "cpu",
            "validate_every": 10,
        },
        recipes={
            "teacher": {"role": "teacher", "steps": teacher_steps},
            "baseline": {"role": "baseline"},
            "student": {"role": "student", "distillation": {"teacher": "teacher", "weight": 0.1}},
        },
        cells=tuple(
            Cell(recipe, (sequences,), (0,), (0,))
            for recipe, sequences in (("teacher", tuple(Sequence)), ("baseline", T1), ("student", T1))
        ),
        comparisons=(("student", "baseline"),),
        shifted=False,
    )
    return Training.create(folder / "live", study, Patients.read(folder / "cohort"))


@pytest.fixture
def endless(tmp_path: Path, qtbot) -> Iterator[Training]:
    """A training whose teacher is never done."""
    made = make(tmp_path, 100_000)
    yield made
    if made.running():
        made.ask("stop")
    # The lock is let go of a moment before the process ends.
    waiting = [thread for thread in threading.enumerate() if thread.name.startswith("waits for the training")]
    qtbot.waitUntil(lambda: not any(thread.is_alive() for thread in waiting), timeout=LONG)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_is_begun_paused_gone_on_with_and_stopped(endless: Training, qtbot):
    wizard, jobs = Wizard(), Jobs()
    wizard.training = endless
    page = TrainPage(Theme("dark"), jobs, wizard)  # type: ignore[arg-type]
    qtbot.addWidget(page)
    page.resize(1192, 776)
    page.show()

    def teacher() -> RunCourse:
        course = page.watch.course
        assert course is not None
        run = course.leading("Teacher")
        assert run is not None
        return run

    try:
        qtbot.waitUntil(lambda: page.watch.standing is not None, timeout=LONG)
        assert page.title.text() == "Stopped, and everything is saved"
        qtbot.mouseClick(page.go_button, LEFT)
        qtbot.waitUntil(lambda: bool(teacher().scores), timeout=LONG)
        qtbot.waitUntil(lambda: page.previews.cells[0][1].model.mask is not None, timeout=LONG)
        assert page.title.text() == "Teacher is learning"
        assert page.whole_plot.series[0].y.size == len(teacher().scores)

        asked = time.time()
        qtbot.mouseClick(page.pause_button, LEFT)
        assert page.answer.text() == "Asked to pause."
        qtbot.waitUntil(lambda: page.answer.text().startswith("Paused at step"), timeout=LONG)
        answer = next(one for one in endless.events()[0] if one.event == Acknowledged("pause"))
        assert answer.time - asked < 0.2
        steps = teacher().step
        qtbot.wait(300)
        assert teacher().step == steps
        qtbot.mouseClick(page.pause_button, LEFT)
        qtbot.waitUntil(lambda: teacher().step > steps, timeout=LONG)

        qtbot.mouseClick(page.keep_button, LEFT)
        dict(wizard.problem.actions)["End it now"]()
        qtbot.waitUntil(lambda: page.strip.pieces[0].words == "finished", timeout=LONG)
        assert teacher().step < 100_000
        assert "with its best weights" in "".join(words for _, words in page.watch.course.log)
        qtbot.mouseClick(page.cancel_button, LEFT)
        qtbot.waitUntil(lambda: page.go_button.isVisible(), timeout=LONG)
        assert page.title.text() == "Stopped, and everything is saved"
        assert not endless.running()
    finally:
        jobs.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_worst_patient_is_opened_with_the_very_mask_that_was_scored(tmp_path: Path, qtbot):
    training = make(tmp_path, 30)
    assert carry_out(training, Progress()) == []
    wizard, jobs = Wizard(), Jobs()
    wizard.training = training
    results = ResultPage(Theme("dark"), jobs, wizard)  # type: ignore[arg-type]
    qtbot.addWidget(results)
    results.show()
    try:
        qtbot.waitUntil(lambda: len(results.worst_buttons) == 2, timeout=LONG)
        outcome = results._outcome
        assert [line.title for line in outcome.lines] == ["Teacher, four sequences", "Baseline, T1", "Student, T1"]
        for place, line in enumerate(outcome.lines):
            results._judge(place)
            with qtbot.waitSignal(wizard.look_wanted, timeout=LONG) as wanted:
                qtbot.mouseClick(results.worst_buttons[0], LEFT)
            look, worst = wanted.args[0], outcome.worst(line)[0]
            assert {path.parent.name for path in look.scans} == {worst.name}
            found = nifti.read_label_map(look.mask, Convention.GLIASCOPE)
            truth = nifti.read_label_map(look.truth)
            assert dice(found.whole_tumour, truth.whole_tumour) == pytest.approx(worst.dice["whole_tumour"], abs=1e-3)
            assert dice(found.tumour_core, truth.tumour_core) == pytest.approx(worst.dice["tumour_core"], abs=1e-3)
    finally:
        jobs.close()
