"""The 3-D view, drawn by whatever OpenGL there is: shapes and places agree between machines, shades nearly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PySide6.QtGui import QFont, QFontDatabase
from PySide6.QtWidgets import QApplication

from app import ASSETS
from app.application import make_application
from app.jobs import Jobs
from app.surface_render import Camera
from app.surface_view import SurfaceView
from app.theme import Theme
from app.viewer_model import Layer, Mask, ViewerModel
from engine import provenance
from engine.volume import Grid, Sequence
from tests.engine import phantoms
from tests.golden.pictures import assert_approved

CENTRE = np.array((3.0, -5.0, 7.0))

pytestmark = [pytest.mark.golden, pytest.mark.usefixtures("opengl")]


@pytest.fixture(scope="session")
def qapp() -> QApplication:
    return make_application()


@pytest.fixture
def view(qapp: QApplication, screen: bool, qtbot) -> Iterator[SurfaceView]:
    """Drawn with the font in our assets, whatever the machine has."""
    before = QApplication.font()
    number = QFontDatabase.addApplicationFont(str(ASSETS / "fonts" / "Inter-Regular.otf"))
    jobs = Jobs()
    made = SurfaceView(Theme("dark"), ViewerModel(), jobs, lambda: lambda: provenance.describe_scans({}))
    QApplication.setFont(QFont(QFontDatabase.applicationFontFamilies(number)[0]))
    made.resize(400, 320)
    qtbot.addWidget(made)
    made.show()
    qtbot.waitExposed(made)
    yield made
    jobs.close()
    QApplication.setFont(before)
    QFontDatabase.removeApplicationFont(number)


def draw(view: SurfaceView, qtbot, on: Grid, camera: Camera) -> None:
    layers = {Sequence.T1: Layer.of(phantoms.head(on))}
    view._model.set_layers(layers)
    view._model.set_mask(Mask.of(phantoms.tumour(on), layers))
    view._model.move_crosshair(CENTRE + phantoms.TUMOUR_CENTRE)
    view._look_from(camera)
    qtbot.waitUntil(lambda: view.ready, timeout=60_000)


def test_from_the_front_left(view, qtbot, tmp_path):
    draw(view, qtbot, phantoms.grid("LPS", shape=(25, 29, 21)), Camera(30, 15))
    look_for = (
        "a head of dark glass, brighter at its rim; in it an orange ball inside a blue one, left of the middle (the "
        "patient's right); three thin frames that cross in the balls; R and, below it, A on the left, P on the right"
    )
    assert_approved(view, "surface_front_left", look_for, tmp_path)


def test_scans_on_the_planes_in_the_light(view, qtbot, tmp_path):
    view._theme.choose("light")
    view.show_slices(True)
    draw(view, qtbot, phantoms.grid("PIR", shape=(25, 29, 21), oblique=(0.0, 14.0, 0.0)), Camera(-40, 25))
    look_for = "light background; three tilted grey slices that cross in the orange ball; P on the left, L on the right"
    assert_approved(view, "surface_slices_light", look_for, tmp_path)
