"""Puts the parts together and starts them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from PySide6.QtCore import QEventLoop, QSettings, Qt, QTimer
from PySide6.QtGui import QColor, QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QApplication

from app.jobs import Jobs
from app.main_window import MainWindow
from app.session import Session, Stage
from app.settings import Settings
from app.theme import DARK, Theme, blend
from app.viewer_model import ViewerModel
from app.welcome import draw_emblem
from engine.errors import UserError


@dataclass(frozen=True)
class Rendered:
    """What a machine without a display made.

    Attributes:
        picture: The window with the result, as PNG.
        mask: The mask.
        sidecar: How it was made, as JSON.
    """

    picture: Path
    mask: Path
    sidecar: Path


def run(paths: SequenceOf[Path], segment: bool = False) -> int:
    """Open the window and stay until it is closed.

    Args:
        paths: Files or folders to open at once; none for the empty window.
        segment: Start segmenting when they are read.

    Returns:
        The exit code.
    """
    application = make_application()
    window = make_window(Settings())
    previous = sys.excepthook
    sys.excepthook = _reporting(window)
    # Ctrl+C in the terminal closes the window as its own button would.
    signal.signal(signal.SIGINT, lambda *_: window.close())
    heartbeat = QTimer()
    heartbeat.timeout.connect(lambda: None)
    heartbeat.start(200)
    window.show()
    if not window.settings.notice_read:
        window.show_notice()
    if paths:
        # After the first picture of the window, which should not wait for a file.
        QTimer.singleShot(0, window, lambda: window.session.open(paths, segment))
    try:
        return application.exec()
    finally:
        heartbeat.stop()
        sys.excepthook = previous
        window.jobs.close()


def render_demo(paths: Iterable[Path], out: Path, size: tuple[int, int] = (1440, 900)) -> Rendered:
    """Without a display: open patients' files, segment, and save a picture of the window and the mask.

    Args:
        paths: Files or folders of one patient.
        out: The folder for picture, mask and sidecar; made if need be.
        size: Of the picture in pixels.

    Raises:
        UserError: Anything on the way that the user can mend.
    """
    if "QT_QPA_PLATFORM" not in os.environ and QApplication.instance() is None:
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    out.mkdir(parents=True, exist_ok=True)
    make_application()
    settings = Settings(QSettings(str(out / ".settings.ini"), QSettings.Format.IniFormat))
    window = make_window(settings)
    try:
        window.resize(*size)
        window.show()
        session = window.session
        session.open(list(paths), segment=True)
        _until(session, {Stage.DONE})
        session.save(out)
        loop = QEventLoop()
        session.saved_changed.connect(loop.quit)
        session.problem_changed.connect(loop.quit)
        if session.saved is None and session.problem is None:
            loop.exec()
        if session.saved is None:
            raise UserError(session.problem.sentence if session.problem is not None else "The mask was not saved")
        # Layout and the overlay's fade are done a moment later.
        QTimer.singleShot(400, loop.quit)
        loop.exec()
        picture = out / "gliascope.png"
        if not window.grab().save(str(picture)):
            raise UserError(f"{picture.name} could not be written", "", "Check the free space of the folder.")
        return Rendered(picture, session.saved.mask, session.saved.sidecar)
    finally:
        window.close()
        window.deleteLater()
        QApplication.processEvents()
        (out / ".settings.ini").unlink(missing_ok=True)


def make_application() -> QApplication:
    """The one Qt application of this process."""
    existing = QApplication.instance()
    if isinstance(existing, QApplication):
        return existing
    QApplication.setHighDpiScaleFactorRoundingPolicy(Qt.HighDpiScaleFactorRoundingPolicy.PassThrough)
    application = QApplication([sys.argv[0] if sys.argv else "gliascope"])
    application.setApplicationName("Gliascope")
    application.setApplicationDisplayName("Gliascope")
    application.setStyle("Fusion")
    application.setWindowIcon(_window_icon())
    return application


def make_window(settings: Settings) -> MainWindow:
    """A window with everything behind it."""
    theme = Theme(settings.appearance)
    model, jobs = ViewerModel(), Jobs()
    session = Session(model, jobs)
    window = MainWindow(settings, theme, model, session, jobs)
    for part in (theme, model, jobs, session):
        part.setParent(window)
    return window


def _until(session: Session, stages: set[Stage]) -> None:
    """Let events happen until the session is there; a problem on the way is raised."""
    loop = QEventLoop()
    session.stage_changed.connect(loop.quit)
    session.problem_changed.connect(loop.quit)
    while session.stage not in stages:
        if session.problem is not None and not session.problem.note:
            raise UserError(session.problem.sentence)
        if session.stage is Stage.READY and session.why_not:
            raise UserError(session.why_not)
        loop.exec()
    session.stage_changed.disconnect(loop.quit)
    session.problem_changed.disconnect(loop.quit)


def _reporting(window: MainWindow):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """An excepthook that shows a calm line instead of closing the window."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        if issubclass(kind, Exception):
            window.session.fail(error, "Something stopped")

    return report


def _window_icon() -> QIcon:
    icon = QIcon()
    for size in (16, 24, 32, 48, 64, 128, 256):
        picture = QPixmap(size, size)
        picture.fill(Qt.GlobalColor.transparent)
        painter = QPainter(picture)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(DARK.panel))
        painter.drawRoundedRect(0, 0, size, size, size * 0.22, size * 0.22)
        inset = size * 0.16
        box = picture.rect().toRectF().adjusted(inset * 1.25, inset, -inset * 1.25, -inset)
        draw_emblem(painter, box, QColor(DARK.text), QColor(blend(DARK.secondary, DARK.panel, 0.7)))
        painter.end()
        icon.addPixmap(picture)
    return icon
