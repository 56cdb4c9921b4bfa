"""A real training of phantoms, followed, told what to do and judged on the real pages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, Signal

from app.jobs import Jobs
from app.telling import Teller
from app.theme import Theme
from app.training_result import ResultPage
from app.training_run import TrainPage
from engine import nifti
from engine.metrics import dice
from engine.nifti import Convention
from engine.volume import LabelMap, Sequence, Volume
from tests.engine import phantoms
from trainer.events import Acknowledged
from trainer.patients import Patients
from trainer.study import Cell, Study
from trainer.training import State, Training
from trainer.wizard import Page

LEFT = Qt.MouseButton.LeftButton
T1 = (Sequence.T1,)
NAMES = ("anna", "boris", "carla", "dora")
LONG = 300_000  # milliseconds; other processes may have the machine


class Wizard(Teller):
    """What the pages need of the wizard they stand in."""

    training_changed = Signal()
    page_changed = Signal()
    look_wanted = Signal(object)
    models_changed = Signal()
    training: Training | None = None

    def go_to(self, page: Page) -> None:
        raise AssertionError("nobody asked for another page")


@pytest.fixture
def training(tmp_path: Path, qtbot) -> Iterator[Training]:
    """Two patients to learn from, two held out; teacher, baseline and student of a few steps each."""
    for number, name in enumerate(NAMES):
        grid = phantoms.grid(("RAS", "LPS", "PIL", "SRA")[number])
        (tmp_path / "cohort" / name).mkdir(parents=True)
        for sequence in Sequence:
            path = tmp_path / "cohort" / name / f"{name}_{sequence}.nii.gz"
            nifti.write_volume(Volume(phantoms.head(grid, sequence).data, grid, sequence), path)
        truth = phantoms.tumour(grid).data
        brats = truth.copy()
        brats[truth == 1] = 4
        nifti.write_label_map(LabelMap(brats, grid), tmp_path / "cohort" / name / f"{name}_seg.nii.gz")
    study = Study(
        title="live",
        folds=(NAMES[:2], NAMES[2:]),
        common={
            "spacing_mm": 1.0,
            "window": [32, 32, 32],
            "architecture": {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}},
            "steps": 60,
            "warm_up": 2,
            "learning_rate": 0.01,
            "average": 0.8,
            "threads": 1,
            "device": "cpu",
            "validate_every": 20,
        },
        recipes={
            "teacher": {"role": "teacher", "steps": 100_000},
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
    made = Training.create(tmp_path / "live", study, Patients.read(tmp_path / "cohort"))
    yield made
    if made.running():
        made.ask("stop")
        qtbot.waitUntil(lambda: not made.running(), timeout=LONG)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_training_is_begun_paused_cut_short_finished_and_judged(training: Training, qtbot):
    wizard, jobs, theme = Wizard(), Jobs(), Theme("dark")
    wizard.training = training
    page = TrainPage(theme, jobs, wizard)  # type: ignore[arg-type]
    results = ResultPage(theme, jobs, wizard)  # type: ignore[arg-type]
    for one in (page, results):
        qtbot.addWidget(one)
        one.resize(1192, 776)
        one.show()
    try:
        qtbot.waitUntil(lambda: page.watch.standing is not None, timeout=LONG)
        assert page.title.text() == "Stopped, and everything is saved"
        assert results.pages.currentIndex() == 0
        qtbot.mouseClick(page.go_button, LEFT)
        teacher = lambda: page.watch.course.leading("Teacher")  # noqa: E731
        qtbot.waitUntil(lambda: bool(teacher().scores), timeout=LONG)
        qtbot.waitUntil(lambda: page.previews.cells[0][1].model.mask is not None, timeout=LONG)
        assert page.title.text() == "Teacher is learning"
        assert page.whole_plot.series[0].y.size == len(teacher().scores)

        asked = time.time()
        qtbot.mouseClick(page.pause_button, LEFT)
        assert page.answer.text() == "Asked to pause."
        qtbot.waitUntil(lambda: page.answer.text().startswith("Paused at step"), timeout=LONG)
        answer = next(one for one in training.events()[0] if one.event == Acknowledged("pause"))
        assert answer.time - asked < 0.2
        steps = teacher().step
        qtbot.wait(300)
        assert teacher().step == steps
        assert page.watch.standing.state is State.PAUSED
        qtbot.mouseClick(page.pause_button, LEFT)
        qtbot.waitUntil(lambda: teacher().step > steps, timeout=LONG)

        qtbot.mouseClick(page.keep_button, LEFT)
        dict(wizard.problem.actions)["End it now"]()
        qtbot.waitUntil(lambda: page.watch.standing.state is State.DONE, timeout=LONG)
        assert teacher().step < 100_000
        assert [piece.words for piece in page.strip.pieces] == ["finished"] * 3
        assert page.distillation_plot.series

        results.read()
        qtbot.waitUntil(lambda: results.pages.currentIndex() == 1 and len(results.worst_buttons) == 2, timeout=LONG)
        outcome = results._outcome
        assert [line.title for line in outcome.lines] == ["Teacher, four sequences", "Baseline, T1", "Student, T1"]
        with qtbot.waitSignal(wizard.look_wanted, timeout=LONG) as wanted:
            qtbot.mouseClick(results.worst_buttons[0], LEFT)
        look = wanted.args[0]
        worst = outcome.worst(outcome.lines[2])[0]
        assert {path.parent.name for path in look.scans} == {worst.name}
        # What is opened is what was scored.
        found = nifti.read_label_map(look.mask, Convention.GLIASCOPE)
        truth = nifti.read_label_map(look.truth)
        assert dice(found.whole_tumour, truth.whole_tumour) == pytest.approx(worst.dice["whole_tumour"], abs=1e-3)
        assert dice(found.tumour_core, truth.tumour_core) == pytest.approx(worst.dice["tumour_core"], abs=1e-3)
    finally:
        jobs.close()
