from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QMimeData, QPoint, QPointF, QSettings, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QWidget

from app.application import make_application, make_window
from app.main_window import MainWindow
from app.session import Stage
from app.settings import Settings
from engine import contents, registry, unusual
from engine.model_card import Role
from engine.volume import Sequence
from tests.app import threshold_model
from tests.engine import phantoms


@pytest.fixture(scope="session")
def qapp() -> QApplication:
    """pytest-qt's application is ours, with our style and font."""
    return make_application()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models of a kilobyte: a teacher of all four sequences and a T2 student."""
    folder = tmp_path_factory.mktemp("models")
    threshold_model.install(folder, "student-t2", (Sequence.T2,), dice=0.7)
    t2_first = (Sequence.T2, Sequence.T1, Sequence.T1CE, Sequence.FLAIR)
    threshold_model.install(folder, "teacher", t2_first, role=Role.TEACHER, dice=0.8)
    return folder


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only models there are in this test; a copy, to be damaged at will."""
    folder = tmp_path / "models"
    shutil.copytree(tiny_models, folder)
    monkeypatch.setattr(registry, "folders", lambda: [folder])
    return folder


@pytest.fixture(autouse=True)
def _phantoms_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The phantom is no head, and the window would be right to say so in every test."""
    monkeypatch.setattr(unusual, "look", lambda raw, subject, segmentation=None, progress=None: ())
    monkeypatch.setattr(contents, "place", lambda files, *_: contents.Placed(files, {}, ()))
    monkeypatch.setattr(contents, "disagreements", lambda volumes, progress=None: {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(QSettings(str(tmp_path / "settings.ini"), QSettings.Format.IniFormat))


@pytest.fixture
def window(qapp: QApplication, screen: bool, qtbot, models: Path, settings: Settings) -> Iterator[MainWindow]:
    """A real window on the screen, empty."""
    made = make_window(settings)
    made.resize(1280, 800)
    made.show()
    qtbot.waitExposed(made)
    yield made
    made.close()
    made.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """A folder with the phantom's four sequences."""
    return phantoms.write_subject(tmp_path / "patient")


@pytest.fixture
def loaded(window: MainWindow, patient: Path, qtbot) -> MainWindow:
    """The window with the phantom open."""
    window.session.open([patient])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    return window


@pytest.fixture
def segmented(loaded: MainWindow, qtbot) -> MainWindow:
    """The window with the phantom segmented."""
    qtbot.mouseClick(loaded.segment.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: loaded.session.stage is Stage.DONE, timeout=20_000)
    return loaded


def drop(window: MainWindow, paths: list[Path], on: QWidget | None = None) -> None:
    """Drag files over the window and let go, as a file manager does."""
    target = on or window.pages
    place = target.mapTo(window, target.rect().center())
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(window, QDragEnterEvent(place, Qt.DropAction.CopyAction, mime, buttons, keys))
    QApplication.sendEvent(window, QDropEvent(QPointF(place), Qt.DropAction.CopyAction, mime, buttons, keys))


def middle(widget: QWidget) -> QPoint:
    return widget.rect().center()
