"""Go through the training wizard by clicks alone, from a folder of patients to a student that the window picks.

    python -m scripts.walk_wizard COHORT [--steps 200] [--pictures FOLDER] [--size 1440x900] [--light]

The real window, the real data doctor and real trainings in processes of their own; only the number of steps is cut, so
the models are no good, but everything on the way to them is. Works under a real display or off screen, in a home of its
own. Prints what happened as a Markdown table, with how long the window ever stood still, and ends with 1 where the
student was not picked for a patient who has T1 alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def main() -> int:
    """Walk, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--size", default="1440x900")
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--alone", action="store_true", help="without the models that came with Gliascope")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="gliascope-walk-"))
    # Before anything looks for a home.
    for kind in ("DATA", "CONFIG", "CACHE", "STATE"):
        os.environ[f"XDG_{kind}_HOME"] = str(home / kind.lower())
    try:
        return Walk(arguments, home).go()
    finally:
        shutil.rmtree(home, ignore_errors=True)


class Walk:
    """One walk; see the module.

    Args:
        arguments: Of the command line.
        home: Where everything of this walk lies.
    """

    def __init__(self, arguments: argparse.Namespace, home: Path) -> None:
        from PySide6.QtCore import QTimer
        from PySide6.QtWidgets import QApplication

        from app.application import make_window
        from app.settings import Settings
        from engine import registry
        from trainer import wizard

        self.arguments, self.home = arguments, home
        self.app = QApplication([])
        presets = json.loads(wizard.DEFAULTS.read_text(encoding="utf-8"))
        quick = presets["qualities"]["quick"]
        quick["steps"] = dict.fromkeys(quick["steps"], arguments.steps)
        quick["warm_up"] = max(1, arguments.steps // 10)
        presets["from_scratch"]["steps"] = 1.0
        path = home / "training.json"
        path.write_text(json.dumps(presets), encoding="utf-8")
        wizard.DEFAULTS = path
        if arguments.alone:
            # So few steps make no student that is better than the shipped one, which would rightly be kept.
            registry.SHIPPED = home / "none"

        settings = Settings()
        settings.appearance = "light" if arguments.light else "dark"
        settings.notice_read = settings.tour_taken = True
        self.window = make_window(settings)
        self.width, self.height = map(int, arguments.size.split("x"))
        self.window.resize(self.width, self.height)
        self.window.show()
        self.gaps: list[float] = []
        self._beat = time.perf_counter()
        heart = QTimer(self.window)
        heart.setInterval(5)
        heart.timeout.connect(self._beats)
        heart.start()

    def _beats(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._beat)
        self._beat = now

    def until(self, reached: Callable[[], bool], what: str, seconds: float) -> float:
        """Let the window live until something is so; how long it took."""
        from PySide6.QtTest import QTest

        start = time.monotonic()
        while not reached():
            if time.monotonic() - start > seconds:
                raise SystemExit(f"After {seconds:.0f} s still not so: {what}")
            QTest.qWait(50)
        return time.monotonic() - start

    def picture(self, name: str, of: object) -> None:
        """Keep a picture of a window, if asked to."""
        from PySide6.QtTest import QTest
        from PySide6.QtWidgets import QWidget

        assert isinstance(of, QWidget)
        if self.arguments.pictures is not None:
            QTest.qWait(400)
            self.arguments.pictures.mkdir(parents=True, exist_ok=True)
            of.grab().save(str(self.arguments.pictures / f"{name}.png"))
            self._beat = time.perf_counter()  # taking a picture is not what a user waits for

    def drop(self, on: object, *paths: Path) -> None:
        """Drop files on a window."""
        from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
        from PySide6.QtGui import QDragEnterEvent, QDropEvent
        from PySide6.QtWidgets import QApplication, QWidget

        assert isinstance(on, QWidget)
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        place, copy = on.rect().center(), Qt.DropAction.CopyAction
        held = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(on, QDragEnterEvent(place, copy, mime, *held))
        QApplication.sendEvent(on, QDropEvent(QPointF(place), copy, mime, *held))

    def go(self) -> int:
        """From the folder to the student."""
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        from app.main_window import installed_models
        from app.session import Stage
        from engine.volume import Sequence
        from trainer.training import State
        from trainer.wizard import Page, Quality

        def click(widget: object) -> None:
            QTest.mouseClick(widget, Qt.MouseButton.LeftButton)

        rows: list[tuple[str, str]] = []
        window = self.window
        click(window.train_button)
        training = window.wizard
        assert training is not None
        training.resize(self.width, self.height)
        self.drop(training, self.arguments.cohort)
        model = training.wizard
        took = self.until(lambda: model.report is not None and not model.examining, "the doctor is done", 900)
        rows.append((f"{len(model.patients.patients)} patients looked at", f"{took:.0f} s"))
        self.picture("patients", training)

        click(training.next_button)
        plan = training.page_of[Page.PLAN]
        took = self.until(lambda: bool(plan.sums.estimates), "the machine is measured", 180)
        rows.append(("this machine measured", f"{took:.0f} s"))
        click(plan.qualities[Quality.QUICK])
        self.picture("plan", training)
        click(training.next_button)
        self.until(lambda: model.page is Page.TRAIN, "the training began", 60)

        own = model.training
        watch = training.page_of[Page.TRAIN].watch

        def student_is_learning() -> bool:
            run = None if watch.course is None else watch.course.current
            if run is None or not run.plan.name.startswith("student"):
                return not own.running()
            return max(run.previews, default=0) >= self.arguments.steps * 0.6

        begun = time.monotonic()
        self.until(student_is_learning, "the student learns", 7200)
        self.picture("train", training)
        self.until(lambda: own.standing().state is State.DONE and not own.running(), "all is trained", 7200)
        rows.append((f"trained and scored: {own.standing().runs} networks", f"{time.monotonic() - begun:.0f} s"))
        self.until(lambda: training.next_button.isEnabled(), "there are results", 60)
        if model.page is Page.TRAIN:
            click(training.next_button)
        result = training.page_of[Page.RESULT]
        button = result.install_button
        self.until(lambda: button.isVisible() and button.isEnabled(), "the results are read", 60)
        self.picture("result", training)
        for summary in own.results().summaries:
            if summary.cohort == "real":
                what = f"Dice of the {summary.recipe} on {summary.sequences}, {summary.region.replace('_', ' ')}"
                rows.append((what, f"{summary.dice_mean:.2f} on {summary.patients} patients"))

        before = {card.name for card in installed_models()}
        took = time.monotonic()
        click(button)
        self.until(lambda: model.problem is not None, "the model is installed", 600)
        rows.append((model.problem.sentence, f"{time.monotonic() - took:.0f} s"))
        made = {card.name for card in installed_models()} - before

        held_out = own.study.folds[0][0]
        t1 = own.patients.named(held_out).files[Sequence.T1]
        self.drop(window, t1)
        self.until(lambda: window.session.stage is Stage.READY, "the T1 is read", 60)
        choice = window.session.choice
        click(window.segment.button)
        self.until(lambda: window.session.stage is Stage.DONE, "it is segmented", 120)
        self.picture("picked", window)
        rows.append(("picked for T1 alone", f"{choice.card.name}: {choice.sentence}"))
        gaps = sorted(self.gaps)
        rows.append(("longest standstill of the window", f"{gaps[-1] * 1000:.0f} ms"))
        rows.append(("standstill, 99.9th percentile", f"{gaps[int(len(gaps) * 0.999)] * 1000:.0f} ms"))
        sys.stdout.write("| step | result |\n|---|---|\n" + "".join(f"| {a} | {b} |\n" for a, b in rows))
        window.close()
        return 0 if choice.card.name in made else 1


if __name__ == "__main__":
    sys.exit(main())
