"""A training seen from the main window: title, tray, and what closing the window asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton, QSystemTrayIcon

from app import training_background
from app.main_window import MainWindow
from app.theme import Theme
from app.training_background import progress_icon
from tests.app import training_folder as by_hand
from tests.app.training_folder import BASELINE, STEPS, STUDENT, TEACHER, UnderWay
from trainer.events import Acknowledged, StepEnd, Stopped

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def training(tmp_path: Path) -> UnderWay:
    return UnderWay(by_hand.write(tmp_path / "glioma", {TEACHER: STEPS, BASELINE: STEPS, STUDENT: 200}))


@pytest.fixture
def followed(window: MainWindow, training: UnderWay, qtbot) -> Iterator[MainWindow]:
    """The main window while a training is under way."""
    window.background.follow(training)
    qtbot.waitUntil(lambda: window.background.words != "", timeout=5_000)
    yield window
    window.background._decided = True  # whoever stayed is not asked again at the end of the test


def press(window: MainWindow, title: str, qtbot) -> None:
    assert window.card is not None
    button = next(one for one in window.card.findChildren(QPushButton) if one.text() == title)
    qtbot.mouseClick(button, LEFT)


def test_the_title_tells_how_far_it_is(followed, training, qtbot):
    assert followed.windowTitle().startswith("Student T1 ")
    assert followed.windowTitle().endswith(" % - Gliascope")
    before = followed.windowTitle()
    by_hand.tell(training.folder, STUDENT, StepEnd(350, 0.5, {"hard": 0.5}, 1e-3, 0.5, 20.0))
    qtbot.waitUntil(lambda: followed.windowTitle() != before, timeout=5_000)
    training.working = False
    qtbot.waitUntil(lambda: followed.windowTitle() == "Gliascope", timeout=5_000)


def test_closing_asks_and_staying_changes_nothing(followed, training, qtbot):
    assert not followed.close()
    assert followed.isVisible()
    words = [one.text() for one in followed.card.findChildren(QPushButton)]
    assert words == ["Let it go on in the background", "Pause it", "Stop it", "Stay here"]
    press(followed, "Stay here", qtbot)
    assert followed.card is None
    assert followed.isVisible()
    assert training.asked == []
    assert not followed.close()
    qtbot.keyClick(followed.card, Qt.Key.Key_Escape)
    assert followed.isVisible()


def test_it_goes_on_in_the_background(followed, training, qtbot):
    followed.close()
    press(followed, "Let it go on in the background", qtbot)
    assert not followed.isVisible()
    assert training.asked == []


@pytest.mark.parametrize(("title", "command"), [("Pause it", "pause"), ("Stop it", "stop")])
def test_it_is_told_before_the_window_goes(followed, training, qtbot, title, command):
    followed.close()
    press(followed, title, qtbot)
    qtbot.waitUntil(lambda: training.asked == [command], timeout=5_000)
    by_hand.tell(training.folder, "", Acknowledged(command))
    qtbot.waitUntil(lambda: not followed.isVisible(), timeout=1_000)


def test_a_training_that_does_not_answer_keeps_nobody(followed, training, qtbot, monkeypatch):
    monkeypatch.setattr(training_background, "PATIENCE_MS", 60)
    followed.close()
    press(followed, "Stop it", qtbot)
    qtbot.waitUntil(lambda: not followed.isVisible(), timeout=5_000)


def test_without_a_training_the_window_closes_as_ever(window):
    assert window.close()


def test_a_training_that_has_ended_is_not_asked_about(followed, training, qtbot):
    by_hand.tell(training.folder, STUDENT, Stopped(200))
    training.working = False
    qtbot.waitUntil(lambda: not followed.background.words, timeout=5_000)
    assert followed.close()


def test_a_tray_icon_says_how_far_it_is_and_opens_the_training(followed, training, qtbot, monkeypatch):
    tray = []

    class Tray(QSystemTrayIcon):
        def __init__(self, parent) -> None:
            super().__init__(parent)
            tray.append(self)

        def show(self) -> None:  # there is none on this screen
            pass

    monkeypatch.setattr(training_background, "QSystemTrayIcon", Tray)
    monkeypatch.setattr(Tray, "isSystemTrayAvailable", staticmethod(lambda: True))
    by_hand.tell(training.folder, STUDENT, StepEnd(225, 0.5, {"hard": 0.5}, 1e-3, 0.5, 20.0))
    qtbot.waitUntil(lambda: bool(tray), timeout=5_000)
    assert tray[0].toolTip().startswith("Gliascope: Student T1 ")
    assert not tray[0].icon().isNull()
    shown: list[bool] = []
    followed.background.open_wanted.disconnect()
    followed.background.open_wanted.connect(lambda: shown.append(True))
    tray[0].activated.emit(QSystemTrayIcon.ActivationReason.Trigger)
    assert shown == [True]
    followed.background._decided = True
    followed.close()
    assert followed.background._tray is None


def test_the_ring_of_the_icon_closes(qapp):
    theme = Theme("dark")

    def blue(share: float) -> int:
        picture = progress_icon(share, theme).pixmap(64, 64).toImage()
        accent = 0
        for x in range(picture.width()):
            for y in range(picture.height()):
                colour = picture.pixelColor(x, y)
                accent += colour.alpha() > 200 and colour.blue() > 220 and colour.red() < 110
        return accent

    counts = [blue(share) for share in (0.0, 0.25, 0.5, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2] < counts[3]
