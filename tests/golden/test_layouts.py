"""Layouts, comparison and maps as a whole, on the phantom: what stands where, and in which colours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QEvent
from PySide6.QtGui import QFont, QFontDatabase
from PySide6.QtWidgets import QApplication

from app import ASSETS
from app.application import make_application
from app.jobs import Jobs
from app.layouts import FADE_MS, Layouts
from app.review import Review
from app.session import Session
from app.theme import Theme
from app.viewer_model import Layer, Layout, Map, Mask, MaskStyle, Plane, Ruler, Version, ViewerModel
from engine.diameters import measure_largest
from engine.volume import FloatArray, Grid, LabelMap, Sequence
from tests.engine import phantoms
from tests.golden.pictures import assert_approved

SIZE = (760, 520)
CENTRE = np.array((3.0, -5.0, 7.0))

pytestmark = pytest.mark.golden


@pytest.fixture(scope="session")
def qapp() -> QApplication:
    return make_application()


@pytest.fixture
def layouts(qapp: QApplication, qtbot) -> Iterator[Layouts]:
    """All layouts in the dark theme, drawn with the font in our assets, whatever the machine has."""
    before, sheet = QApplication.font(), qapp.styleSheet()
    number = QFontDatabase.addApplicationFont(str(ASSETS / "fonts" / "Inter-Regular.otf"))
    theme, model, jobs = Theme("dark"), ViewerModel(), Jobs()
    QApplication.setFont(QFont(QFontDatabase.applicationFontFamilies(number)[0]))
    session = Session(model, jobs)
    review = Review(model, session, jobs)
    # Numbers that arrive a moment later, or not yet, are no part of these pictures.
    model.labels_changed.connect(review._later.stop)
    model.other_changed.connect(review._later.stop)
    made = Layouts(theme, model, review)
    for part in (theme, model, jobs, session):
        part.setParent(made)
    made.resize(*SIZE)
    made.show()
    qtbot.waitExposed(made)
    made.ortho.halve()
    yield made
    jobs.close()
    made.close()
    made.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    QApplication.setFont(before)
    qapp.setStyleSheet(sheet)
    QFontDatabase.removeApplicationFont(number)


def chances(labels: LabelMap) -> dict[str, FloatArray]:
    """Probabilities that fall off with the distance from the phantom's tumour."""
    grid = labels.grid
    world = grid.to_world(np.indices(grid.shape).reshape(3, -1).T) - CENTRE - phantoms.TUMOUR_CENTRE
    away = np.sqrt((world**2).sum(axis=1)).reshape(grid.shape)
    return {
        region: (1 / (1 + np.exp((away - radius) * 1.2))).astype(np.float32)
        for region, radius in (("whole_tumour", 4.0), ("tumour_core", 2.2))
    }


def show(layouts: Layouts, on: Grid | None = None, sequences: tuple[Sequence, ...] = tuple(Sequence)) -> ViewerModel:
    """The phantom with its tumour found, at the tumour."""
    on = on or phantoms.grid("LPS", shape=(25, 29, 21))
    model: ViewerModel = layouts._model
    model.set_layers({sequence: Layer.of(phantoms.head(on, sequence)) for sequence in sequences})
    labels = phantoms.tumour(on)
    model.set_mask(Mask.of(labels, model.layers, chances(labels)))
    model.move_crosshair(CENTRE + phantoms.TUMOUR_CENTRE)
    return model


def smaller(model: ViewerModel) -> Version:
    """Somebody else's idea of the same tumour: shifted by two voxels, its core smaller."""
    grid = model.layer.volume.grid
    labels = np.roll(phantoms.tumour(grid).data, (2, -1), axis=(0, 1))
    core = np.argwhere(labels == 1)
    labels[tuple(core[core[:, 1] > np.median(core[:, 1])].T)] = 2
    return Version("Ground truth", Mask.of(LabelMap(labels, grid), model.layers))


def settle(layouts: Layouts) -> None:
    for _ in range(4):
        QApplication.processEvents()
    layouts._animation.setCurrentTime(FADE_MS)
    focus = QApplication.focusWidget()
    if focus is not None:
        focus.clearFocus()


def approve(layouts: Layouts, name: str, look_for: str, failed: Path) -> None:
    settle(layouts)
    assert_approved(layouts.currentWidget(), name, look_for, failed)


def test_three_planes(layouts, tmp_path):
    model = show(layouts)
    layouts.ortho.cell._turn("scan")
    model.set_overlay(style=MaskStyle.BOTH)
    look_for = (
        "axial, coronal, sagittal and a cell with four small heads and a histogram, in four equal parts; the same "
        "orange in blue on the left (R) of axial and coronal, right of the middle (P) in sagittal; blue and orange "
        "beside each slider, its thumb in the middle of the orange"
    )
    approve(layouts, "layout_planes", look_for, tmp_path)


def test_one_plane_without_interpolation_and_nose_to_the_right(layouts, tmp_path):
    model = show(layouts)
    model.set_layout(Layout.PLANE, Plane.SAGITTAL)
    model.set_nose_left(False)
    model.set_interpolated(False)
    look_for = (
        "one big sagittal head in hard-edged voxels; P on the left and A on the right, the words Nose right and "
        "Voxels; a bright cross on the right (front); orange in blue left of the middle"
    )
    approve(layouts, "layout_plane_nose_right", look_for, tmp_path)


def test_the_sequence_grid_in_the_neurological_convention(layouts, tmp_path):
    model = show(layouts)
    model.set_radiological(False)
    model.set_layout(Layout.SEQUENCES, Plane.CORONAL)
    look_for = (
        "four coronal heads named T1, T1ce, T2 and FLAIR in reading order, L on the left and R on the right of each; "
        "crosshair and tumour at the same place right of the middle (R) in all four"
    )
    approve(layouts, "layout_sequences_neurological", look_for, tmp_path)


def test_a_comparison_side_by_side(layouts, tmp_path):
    model = show(layouts)
    layouts.compare._review.compare(smaller(model))
    model.set_layout(Layout.COMPARE)
    look_for = (
        "two equal heads under a bar that names both; the right one's tumour lies higher and further right, and is "
        "drawn on the left one as a dashed white outline"
    )
    approve(layouts, "layout_compare", look_for, tmp_path)


def test_a_swiped_comparison_with_the_disagreement(layouts, tmp_path):
    model = show(layouts)
    layouts.compare._review.compare(smaller(model))
    model.set_layout(Layout.COMPARE, swiped=True, swipe=0.62)
    model.set_overlay(map=Map.DISAGREEMENT)
    look_for = (
        "one head with an upright line and a round handle on it right of the middle; left of the line purple where "
        "only the solid outline holds tumour, and hatched purple where only the dashed one does"
    )
    approve(layouts, "layout_swipe_disagreement", look_for, tmp_path)


@pytest.mark.parametrize("kind", [Map.WHOLE_TUMOUR, Map.UNCERTAINTY])
def test_maps(layouts, tmp_path, kind):
    model = show(layouts)
    model.set_layout(Layout.PLANE, Plane.AXIAL)
    model.set_overlay(map=kind)
    look_for = {
        Map.WHOLE_TUMOUR: "a light yellow middle that falls off over red and violet across the blue outline; both "
        "outlines and no fill; a strip of the same shades below on the left, from 0 to 1",
        Map.UNCERTAINTY: "two rings, yellow on the blue and on the orange outline, dark between and inside them; a "
        "strip of the same shades from sure to unsure",
    }[kind]
    approve(layouts, f"map_{kind.value}", look_for, tmp_path)


def test_the_ruler_on_an_oblique_anisotropic_grid(layouts, tmp_path):
    grid = phantoms.grid("PIR", shape=(31, 35, 9), spacing=(0.8, 0.8, 2.6), oblique=(0.0, 22.0, 20.0))
    model = show(layouts, grid, (Sequence.T1,))
    axis = grid.nearest_axes()[0].index(2)
    index, lines = measure_largest(model.labels.whole_tumour, grid, axis)
    model.set_layout(Layout.PLANE, Plane.AXIAL)
    model.move_crosshair(lines.longest.mean(axis=0))
    model.set_ruler(Ruler(Plane.AXIAL, lines))
    assert index == layouts.views[0].index
    look_for = (
        "a round head although slices are thick; two letters on each edge, as RP, for the grid lies aslant; two white "
        "lines at right angles that end on the blue outline, and about 8 x 8 mm beside them"
    )
    approve(layouts, "ruler_oblique", look_for, tmp_path)
