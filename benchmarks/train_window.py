"""How long the window stands still while a training runs: gaps of the event loop, with and without other work.

    QT_QPA_PLATFORM=offscreen python -m benchmarks.train_window [--seconds 40] [--looks 3] [--no-training]

A real training of the usual network at 2 mm in a process of its own, which takes every core; the main window at 1440 x
900 with the demo patient of 240 x 240 x 155 voxels and four sequences, and the training's page at the same size, both
on screen. A timer is due every 5 ms; how much later than that it comes is the gap, in which nothing would have been
painted and no click heard. Measured in turn: the page alone, going back through the patients' past, turning slices of
the demo patient, and segmenting it with the four-sequence model; ``--no-training`` measures the last two without one.

The demo patient under eight names stands for a cohort: what is learnt does not matter here.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PySide6.QtCore import QEventLoop, QSettings, Qt, QTimer
from PySide6.QtTest import QTest

from app import DEMO
from app.application import make_application, make_window
from app.jobs import Jobs
from app.main_window import MainWindow
from app.session import Stage
from app.settings import Settings
from app.training_course import Stage as RunStage
from app.training_run import TrainPage
from app.training_watch import TrainingWatch
from app.viewer_model import Plane
from app.wizard_model import WizardModel
from engine.nifti import Convention
from engine.volume import Sequence
from trainer.patients import Patient, Patients
from trainer.study import Cell, Study
from trainer.training import State, Training

BEAT_MS = 5
STEP_MS = 30
SIZE = (1440, 900)


class Heart:
    """Notes how late a timer of five milliseconds comes."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self._last = 0.0
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)

    def measure(
        self, seconds: float, act: Callable[[], None] | None = None, until: Callable[[], bool] | None = None
    ) -> None:
        """Let events happen for so long, or until something is so, acting every now and then."""
        self.gaps = []
        loop = QEventLoop()
        end, steps = QTimer(), QTimer()
        end.setSingleShot(True)
        end.timeout.connect(loop.quit)
        if act is not None:
            steps.timeout.connect(act)
            steps.start(STEP_MS)
        if until is not None:
            check = QTimer()
            check.timeout.connect(lambda: loop.quit() if until() else None)
            check.start(50)
        end.start(round(1000 * seconds))
        self._last = time.perf_counter()
        self._timer.start()
        loop.exec()
        self._timer.stop()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.gaps.append(1000 * (now - self._last) - BEAT_MS)
        self._last = now


def make_training(folder: Path) -> Training:
    """A training that goes on for ever, of the demo patient under eight names."""
    files = {sequence: DEMO / f"demo_{sequence}.nii.gz" for sequence in Sequence}
    names = [f"demo-{number}" for number in range(8)]
    patients = Patients(
        tuple(Patient(name, files, DEMO / "demo_seg.nii.gz", Convention.GLIASCOPE) for name in names), DEMO
    )
    study = Study(
        title="benchmark",
        folds=(tuple(names[:2]), tuple(names[2:])),
        common={
            "spacing_mm": 2.0,
            "window": [80, 96, 80],
            "steps": 1_000_000,
            "device": "cpu",
            "validate_every": 50,
            "threads": os.cpu_count() or 1,
        },
        recipes={"teacher": {"role": "teacher"}},
        cells=(Cell("teacher", (tuple(Sequence),), (0,), (0,)),),
        shifted=False,
    )
    return Training.create(folder / "benchmark", study, patients)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each part")
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument(
        "--looks", type=int, default=3, help="begin once the training has looked at its patients so often"
    )
    arguments = parser.parse_args()
    make_application()
    rows: list[tuple[str, list[float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(QSettings(str(Path(folder) / "settings.ini"), QSettings.Format.IniFormat))
        settings.notice_read = True
        window = make_window(settings)
        window.resize(*SIZE)
        window.show()
        QTest.qWaitForWindowExposed(window)
        window.session.open([DEMO])
        _wait(lambda: window.session.stage is Stage.READY)
        jobs = Jobs()
        model = WizardModel(jobs, lambda: (), window)
        page = TrainPage(window.theme, jobs, model)
        page.resize(*SIZE)
        page.show()
        training = make_training(Path(folder))
        try:
            if not arguments.no_training:
                model.look_at(training)
                training.start()
                _wait(lambda: _looks(page.watch) >= arguments.looks and page.watch.under_way, 1800)
                print(_told(page.watch))
                rows += _parts(window, page, arguments.seconds)
            else:
                rows += _parts(window, None, arguments.seconds)
        finally:
            if training.running():
                training.ask("stop")
                _wait(lambda: not training.running(), 120)
            jobs.close()
            window.background._decided = True
            window.close()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"{os.cpu_count()} cores, load at the end {load:.1f}\n")
    print("| gap of the event loop, ms | median | 95th percentile | worst | over |")
    print("|---|---|---|---|---|")
    for name, gaps in rows:
        median, slow = np.percentile(gaps, (50, 95))
        lasted = (sum(gaps) + BEAT_MS * len(gaps)) / 1000
        print(f"| {name} | {median:.1f} | {slow:.1f} | {max(gaps):.0f} | {lasted:.0f} s |")


def _parts(window: MainWindow, page: TrainPage | None, seconds: float) -> list[tuple[str, list[float]]]:
    heart = Heart()
    rows = []
    if page is not None:
        heart.measure(seconds)
        rows.append(("the page of the training, looked at", heart.gaps))
        slider = page.previews.slider
        way = [1]

        def scrub() -> None:
            if slider.value() in (slider.minimum(), slider.maximum()):
                way[0] = 1 if slider.value() == slider.minimum() else -1
            slider.setValue(slider.value() + way[0])

        if slider.isEnabled():
            heart.measure(seconds / 2, scrub)
            rows.append(("going through the patients' past", heart.gaps))
    turned = [1, 0]

    def turn() -> None:
        turned[1] += 1
        if turned[1] % 40 == 0:
            turned[0] = -turned[0]
        window.model.step(Plane.AXIAL, turned[0])

    heart.measure(seconds, turn)
    rows.append(("turning slices of 240 x 240 x 155 voxels", heart.gaps))
    window.session.segment()
    heart.measure(300, until=lambda: window.session.stage is Stage.DONE)
    rows.append(("segmenting them", heart.gaps))
    return rows


def _looks(watch: TrainingWatch) -> int:
    course = watch.course
    if watch.standing is not None and watch.standing.state is State.FAILED:
        raise RuntimeError(watch.standing.problem)
    if course is None or course.current is None or course.current.stage is RunStage.WAITING:
        return -1
    return len(course.current.previews)


def _told(watch: TrainingWatch) -> str:
    run = watch.course.current if watch.course is not None else None
    rate = run.reports[-1].examples_a_second if run is not None and run.reports else 0.0
    return f"the training takes {rate:.2f} examples a second"


def _wait(there: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not there():
        if time.monotonic() > until:
            raise TimeoutError("it did not come about")
        loop = QEventLoop()
        QTimer.singleShot(50, loop.quit)
        loop.exec()


if __name__ == "__main__":
    main()
