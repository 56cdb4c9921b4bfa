from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtGui import QFont, QFontDatabase
from PySide6.QtWidgets import QApplication

from app import ASSETS
from app.application import make_application
from app.slice_view import SliceView
from app.viewer_model import Layer, Mask, MaskStyle, Plane, ViewerModel
from engine.volume import Grid, Sequence
from tests.engine import phantoms
from tests.golden.pictures import SHARE_OF_PIXELS, assert_approved, pixels, share_that_differs

SIZE = (360, 300)
CENTRE = np.array((3.0, -5.0, 7.0))

pytestmark = pytest.mark.golden


@pytest.fixture(scope="session")
def qapp() -> QApplication:
    return make_application()


@pytest.fixture
def model(qapp: QApplication) -> Iterator[ViewerModel]:
    """Drawn with the font in our assets, whatever the machine has."""
    before = QApplication.font()
    number = QFontDatabase.addApplicationFont(str(ASSETS / "fonts" / "Inter-Regular.otf"))
    QApplication.setFont(QFont(QFontDatabase.applicationFontFamilies(number)[0]))
    yield ViewerModel()
    QApplication.setFont(before)
    QFontDatabase.removeApplicationFont(number)


def grid(orientation: str = "LPS", **changes: object) -> Grid:
    """The phantom's grid with a voxel in its very middle: halfway between two, rounding would tell orders apart."""
    return phantoms.grid(orientation, **{"shape": (25, 29, 21), **changes})


def draw(model: ViewerModel, plane: Plane, qtbot, on: Grid | None = None, masked: bool = True) -> SliceView:
    on = on or grid()
    model.set_layers({Sequence.T1: Layer.of(phantoms.head(on))})
    model.move_crosshair(CENTRE + phantoms.TUMOUR_CENTRE)
    if masked:
        model.set_mask(Mask.of(phantoms.tumour(on), model.layers))
    view = SliceView(model, plane)
    view.resize(*SIZE)
    qtbot.addWidget(view)
    view.show()
    qtbot.waitExposed(view)
    view.set_scale(view.fitting_scale())
    return view


def test_axial_without_a_mask(model, qtbot, tmp_path):
    view = draw(model, Plane.AXIAL, qtbot, masked=False)
    look_for = (
        "grey head; A on top, R on the left, L on the right; a bright cross on top and a fainter one on the right (L)"
    )
    assert_approved(view, "axial", look_for, tmp_path)


def test_axial_with_a_mask(model, qtbot, tmp_path):
    view = draw(model, Plane.AXIAL, qtbot)
    look_for = "the crosshair's gap in an orange patch inside a blue one, left of the middle (R), both with an outline"
    assert_approved(view, "axial_mask", look_for, tmp_path)


def test_coronal_outline_alone(model, qtbot, tmp_path):
    model.set_overlay(style=MaskStyle.OUTLINE)
    view = draw(model, Plane.CORONAL, qtbot)
    assert_approved(view, "coronal_outline", "S on top; two rings along voxel sides, nothing filled", tmp_path)


def test_sagittal(model, qtbot, tmp_path):
    view = draw(model, Plane.SAGITTAL, qtbot)
    assert_approved(view, "sagittal", "A on the left and P on the right; patches right of the middle", tmp_path)


def test_neurological_side(model, qtbot, tmp_path):
    model.set_radiological(False)
    view = draw(model, Plane.AXIAL, qtbot)
    look_for = "L on the left, R on the right, the word Neurological; the patches on the right (R)"
    assert_approved(view, "axial_neurological", look_for, tmp_path)


def test_thick_oblique_slices(model, qtbot, tmp_path):
    thick = grid("PIR", shape=(31, 35, 7), spacing=(0.8, 0.8, 3.0), oblique=(0.0, 14.0, 0.0))
    view = draw(model, Plane.CORONAL, qtbot, thick)
    look_for = "a tilted head in its true proportions although its slices are thick; orange inside blue, in voxel steps"
    assert_approved(view, "coronal_thick_oblique", look_for, tmp_path)


@pytest.mark.parametrize("orientation", ["RAS", "SAL", "PIR"])
def test_the_order_in_the_file_does_not_show(model, qtbot, orientation):
    shown = pixels(draw(model, Plane.AXIAL, qtbot).grab().toImage())
    other = pixels(draw(model, Plane.AXIAL, qtbot, grid(orientation)).grab().toImage())
    assert share_that_differs(shown, other) <= SHARE_OF_PIXELS


def test_the_comparison_sees_darker_as_well_as_brighter_pixels(tmp_path: Path):
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert share_that_differs(black, white) == 1.0
    assert share_that_differs(white, black) == 1.0
    assert share_that_differs(black, black) == 0.0
    assert share_that_differs(black, np.zeros((4, 5, 3), np.uint8)) == 1.0
