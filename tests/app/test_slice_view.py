from __future__ import annotations

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt

from app.slice_view import SliceView
from app.viewer_model import Layer, Mask, MaskStyle, Plane, ViewerModel
from engine.cut import Cut, scale_bar
from engine.volume import LabelMap, Sequence
from tests.engine import phantoms

MARKERS = {
    "left": (phantoms.LEFT_MARKER, phantoms.LEFT_VALUE),
    "front": (phantoms.FRONT_MARKER, phantoms.FRONT_VALUE),
    "top": (phantoms.TOP_MARKER, phantoms.TOP_VALUE),
}
CENTRE = np.array((3.0, -5.0, 7.0))

# For each plane: which edge of the screen each marker it can show lies towards, in the radiological convention.
EDGES = {
    Plane.AXIAL: {"left": "right", "front": "top"},
    Plane.CORONAL: {"left": "right", "top": "top"},
    Plane.SAGITTAL: {"front": "left", "top": "top"},
}
OPPOSITE = {"left": "right", "right": "left"}


def brightest(picture: np.ndarray, value: float) -> tuple[float, float]:
    """Row and column of the middle of the voxels nearest to ``value``, as shares of the picture."""
    rows, columns = np.nonzero(np.abs(picture - value) < 1.0)
    assert rows.size, "the marker is not in this slice"
    return (rows.mean() + 0.5) / picture.shape[0], (columns.mean() + 0.5) / picture.shape[1]


def edge_of(row: float, column: float) -> str:
    """Towards which edge a place of a picture lies."""
    if abs(row - 0.5) > abs(column - 0.5):
        return "top" if row < 0.5 else "bottom"
    return "left" if column < 0.5 else "right"


@pytest.mark.parametrize("radiological", [True, False], ids=["radiological", "neurological"])
@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_every_marker_is_on_its_side_of_the_screen(orientation, radiological):
    grid = phantoms.grid(orientation)
    data = phantoms.head(grid).data
    for plane, edges in EDGES.items():
        cut = Cut(grid, plane, radiological)
        for name, edge in edges.items():
            place, value = MARKERS[name]
            expected = edge if radiological or plane is Plane.SAGITTAL or edge == "top" else OPPOSITE[edge]
            picture = cut.extract(data, cut.index_of(CENTRE + place))
            assert edge_of(*brightest(picture, value)) == expected, f"{name} in the {plane.title} of {orientation}"


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_letters_name_the_sides_of_the_markers(orientation):
    letters_of = {"left": "L", "front": "A", "top": "S"}
    for radiological in (True, False):
        for plane, edges in EDGES.items():
            cut = Cut(phantoms.grid(orientation), plane, radiological)
            sides = dict(zip(("left", "right", "top", "bottom"), cut.letters, strict=True))
            for name, edge in edges.items():
                flipped = not radiological and plane is not Plane.SAGITTAL and edge in OPPOSITE
                assert sides[OPPOSITE[edge] if flipped else edge] == letters_of[name]


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize(
    "grid",
    [
        phantoms.grid("LPS"),
        phantoms.grid("SAR", spacing=(0.5, 2.0, 6.0)),
        phantoms.grid("PIL", spacing=(1.0, 0.7, 3.0), oblique=(20.0, -12.0, 28.0)),
    ],
    ids=["plain", "anisotropic", "oblique"],
)
def test_a_place_on_screen_and_in_the_patient_lead_to_each_other(grid, plane):
    cut = Cut(grid, plane)
    width, height = cut.size_mm
    for x, y in ((0.2, 0.1), (width - 0.3, height / 3), (width / 2, height - 0.1)):
        assert cut.to_screen(cut.to_world(x, y, 3)) == pytest.approx((x, y))


@pytest.mark.parametrize("plane", list(Plane))
def test_a_thick_slice_is_drawn_as_thick_as_it_is(plane):
    grid = phantoms.grid("RAS", shape=(20, 30, 6), spacing=(0.5, 1.0, 6.0))
    expected = {Plane.AXIAL: (10, 30), Plane.CORONAL: (10, 36), Plane.SAGITTAL: (30, 36)}
    assert Cut(grid, plane).size_mm == pytest.approx(expected[plane])


def test_a_mask_on_another_grid_is_drawn_where_it_lies():
    fine, coarse = phantoms.grid("LPS"), phantoms.grid("RSA", spacing=(2.0, 2.0, 2.0), shape=(12, 14, 10))
    truth = phantoms.tumour(coarse).data
    cut = Cut(fine, Plane.AXIAL)
    index = cut.index_of(CENTRE + phantoms.TUMOUR_CENTRE)
    found, expected = cut.sample(truth, coarse, index), cut.extract(phantoms.tumour(fine).data, index)
    overlap = (
        2 * np.count_nonzero((found > 0) & (expected > 0)) / (np.count_nonzero(found) + np.count_nonzero(expected))
    )
    assert overlap > 0.7
    assert set(np.unique(found)) <= {0, 1, 2}, "labels are picked, never mixed"


def test_an_outline_runs_along_the_sides_of_voxels(view):
    show(view)
    grid = view.layer.volume.grid
    labels = np.zeros(grid.shape, np.uint8)
    i, j, k = view.model.voxel()
    labels[i - 2 : i + 2, j - 3 : j + 2, k] = 2
    view.model.set_mask(Mask.of(LabelMap(labels, grid), view.model.layers))
    view.model.set_overlay(style=MaskStyle.OUTLINE)
    corners = [view.pixel_of(grid.to_world(np.array([place]))[0])
               for place in ((i - 2.5, j - 3.5, k), (i + 1.5, j + 1.5, k))]  # fmt: skip
    (left, right), (top, bottom) = (sorted(ends) for ends in zip(*((p.x(), p.y()) for p in corners), strict=True))
    image = view.viewport().grab().toImage()
    blue = [
        (x, y)
        for x in range(image.width())
        for y in range(image.height())
        if image.pixelColor(x, y).blue() > image.pixelColor(x, y).red() + 60
    ]
    xs, ys = zip(*blue, strict=True)
    assert (min(xs), max(xs) + 1, min(ys), max(ys) + 1) == pytest.approx((left, right, top, bottom), abs=1.0)
    # Two pixels within each side, and nothing in the middle.
    assert len(blue) == pytest.approx(2 * 2 * (right - left + bottom - top), rel=0.15)


@pytest.mark.parametrize(("width", "words"), [(500.0, "10 cm"), (240.0, "5 cm"), (30.0, "5 mm"), (2.0, "1 mm")])
def test_the_scale_bar_has_a_round_length(width, words):
    assert scale_bar(width)[1] == words


@pytest.fixture
def view(qapp, qtbot) -> SliceView:
    model = ViewerModel()
    made = SliceView(model, Plane.AXIAL)
    made.resize(400, 300)
    qtbot.addWidget(made)
    made.show()
    qtbot.waitExposed(made)
    return made


def show(view: SliceView, orientation: str = "LPS", **grid: object) -> None:
    on = phantoms.grid(orientation, **grid)
    view.model.set_layers({Sequence.T1: Layer.of(phantoms.head(on))})
    view.set_scale(view.fitting_scale())


@pytest.mark.parametrize("radiological", [True, False])
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SPR", "IAL"])
def test_the_pixels_drawn_show_the_left_marker_on_its_side(view, orientation, radiological):
    show(view, orientation)
    view.model.set_radiological(radiological)
    view.model.move_crosshair(CENTRE)
    marker = view.pixel_of(CENTRE + phantoms.LEFT_MARKER)
    mirrored = view.pixel_of(CENTRE - phantoms.LEFT_MARKER)
    assert (marker.x() > view.width() / 2) == radiological
    # A little above the crosshair's line.
    pixels, above = view.grab().toImage(), QPointF(0, -4)
    here, there = (pixels.pixelColor((point + above).toPoint()).lightness() for point in (marker, mirrored))
    assert here > there + 40


def test_the_mask_is_drawn_over_the_tumour(view):
    show(view)
    labels = phantoms.tumour(view.layer.volume.grid)
    place = CENTRE + phantoms.TUMOUR_CENTRE
    view.model.move_crosshair(place)
    point = view.pixel_of(place) + QPointF(5, 5)
    before = view.grab().toImage().pixelColor(point.toPoint())
    assert before.saturation() == 0
    view.model.set_mask(Mask.of(labels, view.model.layers))
    core = view.grab().toImage().pixelColor(point.toPoint())
    assert core.red() > core.blue() + 40, "the core is orange"
    view.model.set_overlay(visible=False)
    assert view.grab().toImage().pixelColor(point.toPoint()).saturation() == 0


def test_a_closed_eye_of_the_core_leaves_the_whole_tumour(view):
    show(view)
    view.model.set_mask(Mask.of(phantoms.tumour(view.layer.volume.grid), view.model.layers))
    view.model.move_crosshair(CENTRE + phantoms.TUMOUR_CENTRE)
    view.model.set_overlay(core_shown=False)
    point = view.pixel_of(CENTRE + phantoms.TUMOUR_CENTRE) + QPointF(5, 5)
    colour = view.grab().toImage().pixelColor(point.toPoint())
    assert colour.blue() > colour.red() + 40


def test_letters_of_a_file_without_orientation_are_questioned(view):
    show(view)
    certain = view.grab().toImage()
    volume = phantoms.head(phantoms.grid("LPS"))
    guessed = type(volume)(volume.data, volume.grid, volume.sequence, oriented=False)
    view.model.set_layers({Sequence.T1: Layer.of(guessed)})
    assert view.grab().toImage() != certain


def test_the_view_speaks_of_where_it_is(view):
    show(view)
    view.model.set_mask(Mask.of(phantoms.tumour(view.layer.volume.grid), view.model.layers))
    view.model.move_crosshair(CENTRE + phantoms.TUMOUR_CENTRE)
    words = view.accessibleDescription()
    assert words.startswith("Axial slice ")
    assert words.endswith("in the tumour core")


def test_an_empty_mask_draws_nothing_and_has_no_largest_slice(view):
    show(view)
    grid = view.layer.volume.grid
    before = view.grab().toImage()
    mask = Mask.of(LabelMap(np.zeros(grid.shape, np.uint8), grid), view.model.layers)
    view.model.set_mask(mask)
    assert mask.largest is None
    assert view.grab().toImage() == before


class Recorder:
    """A tool that takes the left button and writes down what it is told."""

    cursor = Qt.CursorShape.PointingHandCursor

    def __init__(self) -> None:
        self.said: list[tuple[str, tuple[int, int, int] | None]] = []
        self.painted = 0

    def press(self, view, world, voxel, buttons, modifiers) -> bool:
        self.said.append(("press", voxel))
        return buttons == Qt.MouseButton.LeftButton

    def move(self, view, world, voxel, buttons, modifiers) -> bool:
        self.said.append(("move", voxel))
        return True

    def release(self, view, world, voxel, buttons, modifiers) -> bool:
        self.said.append(("release", voxel))
        return True

    def hover(self, view, world, voxel, modifiers) -> None:
        self.said.append(("hover", voxel))

    def paint(self, painter, view) -> None:
        self.painted += 1


def test_a_tool_takes_the_button_it_wants_and_leaves_the_others(view, qtbot):
    show(view)
    model, tool = view.model, Recorder()
    view.tool = tool
    depth = view.model.voxel()[2]
    voxels = [(15, 12, depth), (8, 14, depth)]
    places = view.cut.grid.to_world(np.array(voxels))
    before, window = model.crosshair, model.window
    start, end = (view.pixel_of(place).toPoint() for place in places)
    qtbot.mouseMove(view.viewport(), start)
    qtbot.mousePress(view.viewport(), Qt.MouseButton.LeftButton, pos=start)
    qtbot.mouseMove(view.viewport(), end)
    qtbot.mouseRelease(view.viewport(), Qt.MouseButton.LeftButton, pos=end)
    done = [what for what in tool.said if what[0] != "hover"]
    assert done == [("press", voxels[0]), ("move", voxels[1]), ("release", voxels[1])]
    assert model.crosshair == pytest.approx(before), "the pointer was the tool's"
    view.grab()
    assert tool.painted

    tool.said.clear()
    qtbot.mousePress(view.viewport(), Qt.MouseButton.RightButton, pos=start)
    qtbot.mouseMove(view.viewport(), end + QPoint(20, 20))
    qtbot.mouseRelease(view.viewport(), Qt.MouseButton.RightButton, pos=end)
    assert [what for what, _ in tool.said] == ["press"]
    assert model.window != window, "what the tool left alone is window and level as always"
    view.tool = None
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=end)
    assert model.crosshair == pytest.approx(places[1], abs=0.51)
