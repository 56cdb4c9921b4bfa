"""Puts the parts together and starts them."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from PySide6.QtCore import QEvent, QEventLoop, QObject, QSettings, Qt, QTimer
from PySide6.QtGui import QColor, QFileOpenEvent, QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QApplication

from app import desktop
from app.jobs import Jobs
from app.main_window import MainWindow
from app.session import Session, Stage
from app.settings import Settings
from app.theme import DARK, Theme, blend
from app.viewer_model import ViewerModel
from app.welcome import draw_emblem
from engine.errors import Cancelled, CannotWrite, UserError

# How long Ctrl-C in the terminal may go unheard.
HEARTBEAT_MS = 200
# Names a file that is told when the window was painted first, in seconds since 1970; the window then closes. For
# measuring how long a start takes, from outside.
PAINTED = "GLIASCOPE_PAINTED"


def run(paths: SequenceOf[Path], segment: bool = False) -> int:
    """Open the window and stay until it is closed.

    Args:
        paths: Files or folders to open at once; none for the empty window.
        segment: Start segmenting when they are read.

    Returns:
        The exit code: 130 when Ctrl-C in the terminal closed it, as its own button would have.
    """
    application = make_application()
    window = make_window(Settings())
    previous = sys.excepthook
    sys.excepthook = _report_to(window)
    heartbeat = QTimer()
    heartbeat.timeout.connect(lambda: None)
    heartbeat.start(HEARTBEAT_MS)
    opener = _Opener(window.open)
    application.installEventFilter(opener)
    if PAINTED in os.environ:
        _tell_when_painted(window, Path(os.environ[PAINTED]))
    window.show()
    if not window.settings.notice_read:
        window.show_notice()
    QTimer.singleShot(0, window, window.find_training)
    if paths:
        # After the first picture of the window, which should not wait for a file.
        QTimer.singleShot(0, window, lambda: window.open(list(paths), segment))
    else:
        QTimer.singleShot(0, window, window.cases.tell_of_kept)

    def leave() -> None:
        window.close()
        application.quit()  # a dialog may still be open

    try:
        with _interrupts(leave) as interrupts:
            code = application.exec()
        return 130 if interrupts else code
    finally:
        heartbeat.stop()
        application.removeEventFilter(opener)
        sys.excepthook = previous
        window.jobs.close()


@dataclass(frozen=True)
class Rendered:
    """What a machine without a display made.

    Attributes:
        picture: The window with the result, as PNG.
        mask: The mask.
        sidecar: How it was made, as JSON.
        verified: The sentence of `engine.export.Saved`.
    """

    picture: Path
    mask: Path
    sidecar: Path
    verified: str


def render_demo(
    paths: SequenceOf[Path],
    out: Path,
    size: tuple[int, int] = (1440, 900),
    appearance: str = "dark",
    reached: Callable[[str], None] = lambda what: None,
    on_screen: bool = False,
) -> Rendered:
    """Open a patient in the window, segment, save, and take a picture of it; without a display unless told otherwise.

    Args:
        paths: Files or folders of one patient.
        out: The folder for picture, mask and sidecar; made if need be.
        size: Of the picture in pixels.
        appearance: ``"dark"`` or ``"light"``.
        reached: Told of ``"painted"``, ``"read"``, ``"segmented"`` and ``"saved"``, each once it is done.
        on_screen: Show the window on the display there is.

    Raises:
        UserError: Anything on the way that the user can mend.
        Cancelled: Ctrl-C was pressed.
    """
    if QApplication.instance() is None and not on_screen:
        # Whatever display there may be, this draws none of its windows on it.
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    make_application()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(QSettings(str(Path(folder) / "settings.ini"), QSettings.Format.IniFormat))
        settings.appearance = appearance
        window = make_window(settings)
        window.resize(*size)
        painted: list[float] = []
        watcher = _FirstPicture(window, lambda: painted.append(time.time()))
        window.show()
        session = window.session
        try:
            with _interrupts() as interrupts:
                _wait_for(session, lambda: bool(painted), interrupts)
                reached("painted")
                session.open(paths, segment=True)
                _wait_for(
                    session, lambda: session.stage not in (Stage.EMPTY, Stage.LOADING, Stage.PREPARING), interrupts
                )
                reached("read")
                _wait_for(session, lambda: session.stage is Stage.DONE, interrupts)
                reached("segmented")
                session.save(out)
                _wait_for(session, lambda: session.saved is not None, interrupts)
                reached("saved")
            # The last of layout, painting and the overlay's fade is a moment behind.
            loop = QEventLoop()
            QTimer.singleShot(400, loop.quit)
            loop.exec()
            saved = session.saved
            assert saved is not None
            picture = saved.sidecar.with_suffix(".png")
            if not window.grab().save(str(picture)):
                raise CannotWrite(f"{picture.name} could not be written", "", "Check that you may write there.")
            return Rendered(picture, saved.mask, saved.sidecar, saved.verified)
        finally:
            watcher.deleteLater()
            window.close()
            window.deleteLater()
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


def make_application() -> QApplication:
    """The one Qt application of this process."""
    existing = QApplication.instance()
    if isinstance(existing, QApplication):
        return existing
    # A job in Python gives the interpreter up only when asked for this long; Qt asks at every call it makes while
    # painting, and five milliseconds each, as by default, add up to a pause that is seen.
    sys.setswitchinterval(0.0005)
    QApplication.setHighDpiScaleFactorRoundingPolicy(Qt.HighDpiScaleFactorRoundingPolicy.PassThrough)
    application = QApplication([sys.argv[0] if sys.argv else "gliascope"])
    application.setApplicationName("Gliascope")
    application.setApplicationDisplayName("Gliascope")
    application.setStyle("Fusion")
    application.setWindowIcon(_window_icon())
    if sys.platform.startswith("linux") and desktop.entry().exists():
        # What Wayland finds a window's icon by; without an entry of that name it would only complain.
        application.setDesktopFileName(desktop.NAME)
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


class _Opener(QObject):
    """Opens what is double-clicked on macOS, which tells a program of it in an event rather than a word.

    Args:
        act: Called with the file, as a list of one.
    """

    def __init__(self, act: Callable[[list[Path]], object]) -> None:
        super().__init__()
        self._act = act

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if isinstance(event, QFileOpenEvent) and event.file():
            self._act([Path(event.file())])
            return True
        return False


class _FirstPicture(QObject):
    """Calls somebody when a window's picture is drawn for the first time.

    Args:
        window: The window.
        act: What to call, once.
    """

    def __init__(self, window: MainWindow, act: Callable[[], object]) -> None:
        super().__init__()
        self._act: Callable[[], object] | None = act
        # It covers the window at the start; what lies behind it is painted no sooner.
        window.welcome.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is QEvent.Type.Paint and self._act is not None:
            act, self._act = self._act, None
            act()
        return False


def _tell_when_painted(window: MainWindow, file: Path) -> None:
    def tell() -> None:
        with suppress(OSError):
            file.write_text(f"{time.time():.3f}", encoding="ascii")
        # Once this picture is on the screen.
        QTimer.singleShot(0, window, window.close)

    watcher = _FirstPicture(window, tell)
    watcher.setParent(window)


@contextmanager
def _interrupts(act: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """Collect Ctrl-C while this lasts, calling ``act`` at the first; a second one ends the program at once.

    Python hears of a signal only when it runs: somebody has to let Qt call it now and then.
    """
    heard: list[int] = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        heard.append(number)
        act()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_for(session: Session, there: Callable[[], bool], interrupts: list[int]) -> None:
    """Let events happen until the session is there; a problem on the way is raised.

    Raises:
        UserError: What the window would have shown.
        Cancelled: Something was added to ``interrupts``.
    """
    loop = QEventLoop()
    heartbeat = QTimer()
    heartbeat.timeout.connect(loop.quit)
    heartbeat.start(HEARTBEAT_MS)
    signals = (session.stage_changed, session.problem_changed, session.saved_changed, session.patient_changed)
    for signal_ in signals:
        signal_.connect(loop.quit)
    while not there():
        if interrupts:
            raise Cancelled
        if session.problem is not None:
            raise UserError(session.problem.sentence)
        if session.stage is Stage.READY and session.why_not:
            raise UserError(session.why_not)
        loop.exec()
    for signal_ in signals:
        signal_.disconnect(loop.quit)


def _report_to(window: MainWindow) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """An excepthook that shows a calm line in the window, which stays open."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        if isinstance(error, Exception):
            window.session.fail(error, "Something stopped")

    return report


def _window_icon() -> QIcon:
    icon = QIcon()
    for size in (16, 24, 32, 48, 64, 128, 256):
        icon.addPixmap(draw_mark(size))
    return icon


def draw_mark(size: int) -> QPixmap:
    """The app's own mark, a square with so many pixels a side."""
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
    return picture
