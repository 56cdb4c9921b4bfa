"""How long the hand waits for the brush: from a pointer event to every view painted, and for undo.

    QT_QPA_PLATFORM=offscreen python -m benchmarks.correct [--shape 240 240 155] [--radius 20]

A made-up head with four sequences on a full-screen window of three planes. The brush is a ball that is drawn through
the tumour; each move is followed by painting all three views. Undo and redo are the keys of the window, painting
included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QSettings, Qt
from PySide6.QtGui import QMouseEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from app.application import make_application, make_window
from app.correcting import Tool
from app.main_window import MainWindow
from app.session import Result
from app.settings import Settings
from app.slice_view import SliceView
from app.viewer_model import Layer, Mask, Plane
from engine.inference import Segmentation
from engine.model_card import Architecture, ModelCard, Role
from engine.registry import Choice
from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, Grid, LabelMap, Sequence, Volume

MOVES = 120
UNDOS = 20
LEFT, NO_BUTTON, NO_KEYS = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(240, 240, 155))
    parser.add_argument("--radius", type=float, default=20.0, help="of the ball, in voxels of 1 mm")
    arguments = parser.parse_args()
    application = make_application()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(QSettings(str(Path(folder) / "settings.ini"), QSettings.Format.IniFormat))
        window = make_window(settings)
        window.resize(1920, 1080)
        window.show()
        QTest.qWaitForWindowExposed(window)
        _put_a_result(window, tuple(arguments.shape))
        application.processEvents()
        strokes, undos = _measure(window, application, arguments.radius)
        window.corrections.undo(len(window.corrections.applied))
        window.close()
    print(f"{' x '.join(map(str, arguments.shape))} voxels, ball of radius {arguments.radius:g}, 1920 x 1080")
    for name, times in (("brush, event to painted", strokes), ("undo and redo, key to painted", undos)):
        median, slow = np.percentile(times, (50, 95)) * 1000
        print(f"{name:32} median {median:5.1f} ms   95th percentile {slow:5.1f} ms   n {len(times)}")


def _put_a_result(window: MainWindow, shape: tuple[int, ...]) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    head = sum((axis / 0.85) ** 2 for axis in axes) < 1
    tumour = sum(((axis - 0.2) / 0.3) ** 2 for axis in axes)
    random = np.random.default_rng(0)
    layers = {}
    for number, sequence in enumerate(Sequence):
        values = random.normal(100 + 10 * number, 8, shape).astype(np.float32) * head
        layers[sequence] = Layer.of(Volume(np.asfortranarray(values), grid, sequence))
    labels = np.zeros(shape, np.uint8)
    labels[tumour < 1] = REST_OF_WHOLE_TUMOUR
    labels[tumour < 0.3] = TUMOUR_CORE
    found = LabelMap(labels, grid)
    card = ModelCard(
        "made-up", "made-up model", "0", Role.TEACHER, tuple(Sequence), 1.0, (96, 96, 96), Architecture("-")
    )
    volumes = {"whole_tumour": found.ml(found.whole_tumour), "tumour_core": found.ml(found.tumour_core)}
    segmentation = Segmentation(found, {}, volumes, card, tuple(Sequence), "CPU", "fp32", 0.0)
    window.model.set_layers(dict(layers))
    mask = Mask.of(found, window.model.layers)
    window.session.put_result(Result(segmentation, mask, Choice(card, tuple(Sequence), ""), 0.0))
    window.model.set_mask(mask)
    assert mask.largest is not None
    window.model.move_crosshair(mask.largest)


def _measure(window: MainWindow, application: QApplication, radius: float) -> tuple[list[float], list[float]]:
    view = next(view for view in window.findChildren(SliceView) if view.plane is Plane.AXIAL and view.isVisible())
    window.corrections.take(tool=Tool.PAINT, ball=True, core=True, radius_mm=radius)
    application.processEvents()
    middle = view.pixel_of(window.model.crosshair)
    strokes, undos = [], []
    for turn in range(UNDOS // 2):
        kind, button = QEvent.Type.MouseButtonPress, LEFT
        for step in range(MOVES * 2 // UNDOS):
            place = middle + QPointF(4 * step - 40, 10 * turn - 50)
            began = time.perf_counter()
            event = QMouseEvent(
                kind, place, QPointF(view.viewport().mapToGlobal(place.toPoint())), button, LEFT, NO_KEYS
            )
            QApplication.sendEvent(view.viewport(), event)
            application.processEvents()
            strokes.append(time.perf_counter() - began)
            kind, button = QEvent.Type.MouseMove, NO_BUTTON
        end = QMouseEvent(QEvent.Type.MouseButtonRelease, place, place, LEFT, NO_BUTTON, NO_KEYS)
        QApplication.sendEvent(view.viewport(), end)
        # What is looked through after a change runs beside the next stroke, as it does under a hand.
        QTest.qWait(200)
    for keys in (
        Qt.KeyboardModifier.ControlModifier,
        Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier,
    ):
        for _ in range(UNDOS // 2):
            began = time.perf_counter()
            QTest.keyClick(window, Qt.Key.Key_Z, keys)
            application.processEvents()
            undos.append(time.perf_counter() - began)
    return strokes, undos


if __name__ == "__main__":
    main()
