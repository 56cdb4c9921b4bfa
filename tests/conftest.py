"""What every test is held to: nothing of one test reaches the next, and nothing goes wrong unseen."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before anything imports Qt: tests never open windows on the developer's screen.
os.environ["QT_QPA_PLATFORM"] = "offscreen"

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
ON_CI = os.environ.get("CI", "").lower() in ("1", "true")

# The only reasons for which a test may be skipped on CI, each beginning with its name.
ALLOWED_SKIPS = {
    "no shared folder": "real scans are not part of the repository",
    "needs an NVIDIA GPU": "most machines have none",
    "other system": "a behaviour of Windows, macOS or Linux alone",
    "no OpenGL": "most servers have none, and no Xvfb to lend them one",
    "runs as root": "root may read and write everything, so permissions cannot be tested",
}


@pytest.fixture
def shared() -> Path:
    """The folder of real scans beside the repository; skips where there is none."""
    folder = Path(os.environ.get("GLIASCOPE_SHARED", ROOT.parent / "shared"))
    if not (folder / "cohort").is_dir():
        pytest.skip("no shared folder: GLIASCOPE_SHARED is not set and ../shared does not exist")
    return folder


@pytest.fixture(scope="session")
def screen(qapp: object) -> bool:
    """Whether there is OpenGL to draw with: the machine's own, or Mesa's through a screen in memory.

    Qt looks for it once in a process, so whatever may show the 3-D view asks for this first.
    """
    lent = sys.platform.startswith("linux") and not os.environ.get("DISPLAY") and shutil.which("Xvfb") is not None
    if lent:
        reader, writer = os.pipe()
        # It ends by itself when this process, its only client, does; ended earlier it would take Qt with it.
        words = ["-displayfd", str(writer), "-screen", "0", "1280x1024x24", "-nolisten", "tcp", "-terminate"]
        command = ["sh", "-c", 'exec "$@" 2>/dev/null &', "sh", "Xvfb", *words]
        subprocess.run(command, pass_fds=[writer], stdout=subprocess.DEVNULL, check=True)
        os.close(writer)
        with os.fdopen(reader) as told:
            os.environ["DISPLAY"] = f":{told.readline().strip()}"
    from PySide6.QtGui import QOffscreenSurface, QOpenGLContext

    surface, context = QOffscreenSurface(), QOpenGLContext()
    surface.create()
    there = context.create() and context.makeCurrent(surface)
    if there:
        context.doneCurrent()
    surface.destroy()
    if lent:
        # Qt is connected; programs that tests start have no business there.
        del os.environ["DISPLAY"]
    return there


@pytest.fixture
def opengl(screen: bool) -> None:
    """Skips where there is no OpenGL."""
    if not screen:
        pytest.skip("no OpenGL: this machine has none, and no Xvfb that brings Mesa's")


# --- a home of one's own ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _fresh_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, models and caches of whoever runs the tests are neither read nor written."""
    home = tmp_path_factory.mktemp("home", numbered=True)
    places = {
        "HOME": home,
        "USERPROFILE": home,
        "XDG_CONFIG_HOME": home / "config",
        "XDG_DATA_HOME": home / "data",
        "XDG_STATE_HOME": home / "state",
        "APPDATA": home / "appdata",
        "LOCALAPPDATA": home / "localappdata",
    }
    for name, folder in places.items():
        monkeypatch.setenv(name, str(folder))
    # Fontconfig and shader caches are no state of ours and slow to make: one for the whole run.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in [name for name in os.environ if name.startswith("GLIASCOPE_") and name != "GLIASCOPE_SHARED"]:
        monkeypatch.delenv(name)
    if "PySide6.QtCore" in sys.modules:
        from PySide6.QtCore import QSettings

        # Qt looks the environment up once in a process, so it has to be told.
        for form in (QSettings.Format.IniFormat, QSettings.Format.NativeFormat):
            QSettings.setPath(form, QSettings.Scope.UserScope, str(home / "config"))


# --- nothing survives -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No window, thread or child process outlives its test."""
    windows, threads, processes = set(map(id, _windows())), set(threading.enumerate()), _children()
    yield
    leaked = []
    if any(id(window) not in windows for window in _windows()):
        _let_qt_delete()
        leaked += [f"window {type(window).__name__}" for window in _windows() if id(window) not in windows]
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=2)
        if thread.is_alive():
            leaked.append(f"thread {thread.name}")
    for process in _children() - processes:
        try:
            process.wait(timeout=2)
        except psutil.TimeoutExpired:
            leaked.append(f"process {' '.join(process.cmdline())}")
            process.kill()
            process.wait()
    if leaked:
        pytest.fail(f"{request.node.name} left behind: " + ", ".join(leaked), pytrace=False)


def _windows() -> list[Any]:
    if "PySide6.QtWidgets" not in sys.modules:
        return []
    from PySide6.QtWidgets import QApplication, QDialog, QMainWindow

    if QApplication.instance() is None:
        return []
    # Menus and tooltips wait hidden for their next use; a window or a dialog should be gone, hidden or not.
    return [w for w in QApplication.topLevelWidgets() if w.isVisible() or isinstance(w, (QDialog, QMainWindow))]


def _let_qt_delete() -> None:
    from PySide6.QtCore import QEvent
    from PySide6.QtWidgets import QApplication

    gc.collect()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    gc.collect()


def _children() -> set[psutil.Process]:
    # Asking psutil for children looks at every process of the machine; Linux can be asked for ours alone.
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        numbers: set[int] = set()
        for task in tasks.iterdir():
            try:
                numbers.update(map(int, (task / "children").read_text().split()))
            except OSError:  # the thread has just ended
                continue
        found = [psutil.Process(number) for number in numbers if psutil.pid_exists(number)]
    else:
        found = psutil.Process().children()
    # Python's own bookkeeping process for shared memory lives until the end on purpose.
    return {process for process in found if "resource_tracker" not in " ".join(process.cmdline())}


# --- nothing is said unheard ------------------------------------------------------------------------------------------


# A slow machine on which matplotlib was never used before; whichever test is first to import it hears this.
_HARMLESS = r"matplotlib\.font_manager: Matplotlib is building the font cache"


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def _no_stray_warning(request: pytest.FixtureRequest) -> Iterator[None]:
    """A warning in the log fails the test unless ``@pytest.mark.logs("regular expression")`` expects it."""
    expected = [_HARMLESS, *(str(mark.args[0]) for mark in request.node.iter_markers("logs"))]
    listener = _Listener()
    logging.getLogger().addHandler(listener)
    yield
    logging.getLogger().removeHandler(listener)
    stray = [line for line in listener.heard if not any(re.search(pattern, line) for pattern in expected)]
    if stray:
        pytest.fail("unexpected in the log: " + "; ".join(stray), pytrace=False)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Gliascope makes no network call, ever; neither do its tests."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"a network connection to {address} was tried")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


# --- nothing is skipped unseen ----------------------------------------------------------------------------------------


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """On CI a skip for any but the reasons named above is a failure."""
    outcome = yield
    report = outcome.get_result()
    if not (ON_CI and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(tuple(ALLOWED_SKIPS)):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped on CI for no reason that tests/conftest.py allows: {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for whole files, as `pytest.importorskip` does it."""
    outcome = yield
    report = outcome.get_result()
    if ON_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped as a whole on CI: {report.longrepr}"
