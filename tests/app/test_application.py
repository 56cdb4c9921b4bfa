"""Starting, not freezing, and ending: what a person notices before anything else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QImage

from app import DEMO
from app.application import render_demo
from app.session import Stage
from engine import nifti, registry
from engine.errors import UserError
from tests.engine import phantoms

ROOT = Path(__file__).resolve().parents[2]

PAINTED_S = 1.5
LONGEST_GAP_S = 0.1

# Other programs share the machine; what they take is not ours to answer for. The best of a few runs is.
TRIES = 5

START = """
import sys, time
started = float(sys.argv[1])
from app.application import make_application, make_window
from app.settings import Settings
from PySide6.QtCore import QEvent, QObject, QSettings, QTimer

class FirstPicture(QObject):
    def eventFilter(self, watched, event):
        if event.type() is QEvent.Type.Paint:
            window.removeEventFilter(self)
            heavy = {"torch", "openvino", "monai", "scipy"} & set(sys.modules)
            print(time.time() - started, *sorted(heavy))
            # Once this picture is on the screen.
            QTimer.singleShot(0, window.close)
        return False

application = make_application()
window = make_window(Settings(QSettings(sys.argv[2], QSettings.Format.IniFormat)))
watcher = FirstPicture()
window.welcome.installEventFilter(watcher)
window.show()
application.exec()
"""


def test_the_window_is_painted_soon_without_heavy_libraries_and_ends_cleanly(tmp_path):
    times = []
    for _ in range(TRIES):
        done = subprocess.run(
            [sys.executable, "-c", START, str(time.time()), str(tmp_path / "settings.ini")],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        seconds, *heavy = done.stdout.split()
        assert heavy == []
        times.append(float(seconds))
        if times[-1] < PAINTED_S:
            break
    assert min(times) < PAINTED_S


class Pulse:
    """A clock of 10 ms in the window's own event loop; its longest pause is what a person feels as a freeze."""

    def __init__(self) -> None:
        self.ticks: list[float] = []
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(lambda: self.ticks.append(time.perf_counter()))
        self._timer.start(10)

    def longest_gap(self) -> float:
        """Stop, and give the longest pause in seconds."""
        self._timer.stop()
        return float(np.diff(self.ticks).max())


def test_the_window_never_stands_still_while_a_patient_is_read_and_segmented(window, monkeypatch, tiny_models, qtbot):
    # The models that ship are as heavy as real ones are.
    shipped = registry.list_models([registry.SHIPPED]).models
    monkeypatch.setattr(registry, "folders", lambda: [registry.SHIPPED if shipped else tiny_models])
    session, gaps = window.session, []
    for _ in range(TRIES):
        session.close()
        qtbot.wait(100)
        pulse = Pulse()
        session.open([DEMO], segment=True)
        qtbot.waitUntil(lambda: session.stage is Stage.DONE or session.problem is not None, timeout=120_000)
        # Drawing the result and fading it in belong to it.
        qtbot.wait(300)
        gaps.append(pulse.longest_gap())
        assert session.problem is None
        if gaps[-1] < LONGEST_GAP_S:
            break
    assert min(gaps) < LONGEST_GAP_S, [round(gap, 3) for gap in gaps]


def test_turning_slices_keeps_pace_with_the_wheel(window, qtbot):
    window.session.open([DEMO])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    times = []
    for step in [1] * 20 + [-1] * 20:
        started = time.perf_counter()
        window.model.step(window.layouts.active.plane, step)
        for view in window.layouts.views:
            view.viewport().repaint()
        times.append(time.perf_counter() - started)
    assert np.median(times) < 1 / 30, "thirty pictures a second"


def test_without_a_display_picture_mask_and_record_are_made(models, qapp, tmp_path):
    patient = phantoms.write_subject(tmp_path / "patient")
    made = render_demo([patient], tmp_path / "out", size=(1200, 760))
    picture = QImage(str(made.picture))
    assert (picture.width(), picture.height()) == (1200, 760)
    orange = sum(
        picture.pixelColor(x, y).red() > picture.pixelColor(x, y).blue() + 60
        for x in range(320, 1200, 4)
        for y in range(60, 700, 4)
    )
    assert orange > 50, "the core is to be seen"
    assert nifti.label_values(made.mask) == {1, 2}
    assert made.sidecar.is_file()


def test_without_a_display_a_problem_is_raised_as_it_would_be_shown(models, qapp, tmp_path):
    path = tmp_path / "scan_t1.nii.gz"
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"scan_t1\.nii\.gz"):
        render_demo([path], tmp_path / "out")
