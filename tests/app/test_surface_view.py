"""The 3-D view as a person uses it, with real events and real OpenGL where a machine has one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, QSize, Qt
from PySide6.QtGui import QImage, QWheelEvent
from PySide6.QtWidgets import QApplication, QFileDialog

from app import surface_render
from app.jobs import Jobs
from app.surface_render import Camera, NoOpenGL, Renderer
from app.surface_view import SurfaceView
from app.theme import Theme
from app.viewer_model import Layer, Mask, ViewerModel
from engine import provenance, surface
from engine.errors import CannotWrite
from engine.volume import LabelMap, Sequence
from tests.app.conftest import middle
from tests.engine import phantoms
from tests.golden.pictures import pixels

CENTRE = np.array((3.0, -5.0, 7.0))
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def jobs(qapp) -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()


@pytest.fixture
def view(qapp, screen, jobs, qtbot) -> SurfaceView:
    made = SurfaceView(Theme("dark"), ViewerModel(), jobs, lambda: lambda: provenance.describe_scans({}))
    made.resize(420, 360)
    qtbot.addWidget(made)
    made.show()
    qtbot.waitExposed(made)
    return made


def show(view: SurfaceView, qtbot, masked: bool = True, orientation: str = "LPS") -> None:
    on = phantoms.grid(orientation, shape=(25, 29, 21))
    layers = {Sequence.T1: Layer.of(phantoms.head(on))}
    view._model.set_layers(layers)
    if masked:
        view._model.set_mask(Mask.of(phantoms.tumour(on), layers))
    view.show_planes(False)
    qtbot.waitUntil(lambda: view.ready, timeout=60_000)


def drag(view: SurfaceView, qtbot, by: QPoint, button: Qt.MouseButton = LEFT) -> None:
    start = middle(view)
    qtbot.mousePress(view, button, pos=start)
    qtbot.mouseMove(view, start + by / 2)
    qtbot.mouseMove(view, start + by)
    qtbot.mouseRelease(view, button, pos=start + by)


def orange(image: QImage) -> np.ndarray:
    """Rows and columns of the core's pixels."""
    shade = pixels(image).astype(int)
    return np.argwhere((shade[..., 0] > 110) & (shade[..., 0] > shade[..., 2] + 50))


# --- working out ------------------------------------------------------------------------------------------------------


def test_an_empty_view_says_what_to_do(view):
    assert "Open a patient" in view.message.text()
    assert view.message.isVisible()
    assert all(button.toolTip() for button in view.buttons if not button.isEnabled())


def test_tumour_core_and_brain_are_worked_out_away_from_the_window(view, qtbot):
    show(view, qtbot)
    assert set(view.surfaces) == {"whole_tumour", "tumour_core", "brain"}
    labels = view._model.labels
    assert view.surfaces["tumour_core"].ml == pytest.approx(labels.ml(labels.tumour_core), rel=1e-3)


def test_a_view_that_nobody_sees_works_nothing_out(view, qtbot):
    view.hide()
    on = phantoms.grid("LPS")
    view._model.set_layers({Sequence.T1: Layer.of(phantoms.head(on))})
    qtbot.wait(200)
    assert view.surfaces == {}
    view.show()
    qtbot.waitUntil(lambda: "brain" in view.surfaces, timeout=60_000)


def test_a_stale_surface_is_dropped(view, jobs, qtbot, monkeypatch):
    show(view, qtbot)
    on = view._model.labels.grid
    slow = surface.of_tumour

    def take_time(labels, progress):
        time.sleep(0.3)
        return slow(labels)

    monkeypatch.setattr(surface, "of_tumour", take_time)
    whole = Mask.of(phantoms.tumour(on), view._model.layers)
    nothing = Mask.of(LabelMap(np.zeros(on.shape, np.uint8), on), view._model.layers)
    view._model.set_mask(whole)
    qtbot.waitUntil(lambda: jobs.busy, timeout=5_000)
    view._model.set_mask(nothing)
    qtbot.waitUntil(lambda: view.ready and not jobs.busy, timeout=60_000)
    assert set(view.surfaces) == {"brain"}, "what was worked out of the older mask never arrives"


def test_another_patient_leaves_nothing_of_the_first(view, qtbot):
    show(view, qtbot)
    view._model.set_layers({})
    assert view.surfaces == {}
    assert "Open a patient" in view.message.text()


# --- without OpenGL ---------------------------------------------------------------------------------------------------


def test_without_opengl_one_sentence_says_so_and_surfaces_can_still_be_saved(view, qtbot, monkeypatch, tmp_path):
    monkeypatch.setenv(surface_render.OFF, "1")
    show(view, qtbot)
    view.repaint()
    qtbot.waitUntil(lambda: view.refused is not None and view.message.isVisible(), timeout=5_000)
    assert view.message.text().startswith("3-D cannot be drawn here")
    assert view.message.text().count(". ") == 1
    assert not view.brain_button.isEnabled()
    assert view.brain_button.toolTip() == view.message.text()
    assert view.picture(QSize(300, 200)) is None
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    view.patient = "anna"
    view.surfaces_action.trigger()
    qtbot.waitUntil(lambda: len(list(tmp_path.glob("*.stl"))) == 3, timeout=60_000)
    for key in (Qt.Key.Key_Left, Qt.Key.Key_Plus):
        qtbot.keyClick(view, key)


def test_a_machine_without_any_opengl_raises_nothing_but_that(tmp_path):
    # A fresh process with no screen at all, whatever this one has.
    code = """
from PySide6.QtWidgets import QApplication
application = QApplication([])
from app.surface_render import NoOpenGL, Renderer
try:
    Renderer()
except NoOpenGL as refusal:
    print(refusal)
"""
    import os

    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "QT_QPA_PLATFORM": "minimal", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3-D cannot be drawn here (there is no OpenGL"), done.stdout


# --- the picture ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("opengl")
def test_the_tumour_is_seen_inside_the_brain_on_its_side(view, qtbot):
    show(view, qtbot)
    view._look_from(Camera(0, 0))
    from_front = orange(view.grab().toImage())
    assert len(from_front) > 100, "the core is seen through whole tumour and brain"
    assert from_front[:, 1].mean() < view.width() / 2 - 10, "the patient's right is on the left, seen from the front"
    view._look_from(Camera(180, 0))
    from_behind = orange(view.grab().toImage())
    assert from_behind[:, 1].mean() > view.width() / 2 + 10
    view._look_from(Camera(-90, 0))
    from_right = orange(view.grab().toImage())
    assert from_right[:, 1].mean() < view.width() / 2 - 5, "the face looks to the right; the tumour lies in the back"


@pytest.mark.usefixtures("opengl")
@pytest.mark.parametrize("orientation", ["RAS", "PIR", "SLA", "IAL"])
def test_the_order_in_the_file_does_not_show(view, qtbot, orientation):
    show(view, qtbot)
    first = pixels(view.grab().toImage()).astype(int)
    show(view, qtbot, orientation=orientation)
    second = pixels(view.grab().toImage()).astype(int)
    assert np.mean(np.abs(first - second).max(axis=2) > 40) < 0.01


@pytest.mark.usefixtures("opengl")
def test_colours_and_eyes_of_the_panel_reach_the_surfaces(view, qtbot):
    show(view, qtbot)
    assert len(orange(view.grab().toImage())) > 100
    view._model.set_overlay(core="#009E73")
    assert len(orange(view.grab().toImage())) == 0
    view._model.set_overlay(core="#E69F00", core_shown=False)
    assert len(orange(view.grab().toImage())) == 0
    view._model.set_overlay(core_shown=True, visible=False)
    assert len(orange(view.grab().toImage())) == 0


@pytest.mark.usefixtures("opengl")
def test_the_planes_of_the_crosshair_move_with_it(view, qtbot):
    show(view, qtbot)
    view.show_brain(False)
    view._model.set_overlay(visible=False)
    view._look_from(Camera(0, 0))
    view.show_planes(True)

    def rows() -> float:
        # Seen from the front the axial plane is a level line; it is the only thing on these columns.
        shade = pixels(view.grab().toImage())[60:-60, 150:200].astype(int).sum(axis=(1, 2))
        return float(60 + np.argmax(shade))

    view._model.move_crosshair(CENTRE + (5, 0, 5))
    high = rows()
    view._model.move_crosshair(CENTRE + (5, 0, -5))
    assert rows() > high + 20, "a lower slice is drawn lower"


@pytest.mark.usefixtures("opengl")
def test_scans_on_the_planes_show_the_marker_on_its_side(view, qtbot):
    show(view, qtbot, masked=False)
    view._model.move_crosshair(CENTRE)
    view.show_slices(True)
    view.show_brain(False)
    view._look_from(Camera(0, 0))
    scene = view.scene()
    picture = view.grab().toImage()

    def brightness(millimetres: tuple[float, float, float]) -> int:
        place, _ = view.camera.project(
            np.array([CENTRE + millimetres]), scene.centre, scene.radius, view.width(), view.height()
        )
        return picture.pixelColor(round(place[0, 0]), round(place[0, 1])).lightness()

    x, y, z = phantoms.LEFT_MARKER
    assert brightness((x, y, z + 0.6)) > brightness((-x, y, z + 0.6)) + 30


@pytest.mark.usefixtures("opengl")
def test_both_themes_have_a_background_of_their_own(view, qtbot):
    show(view, qtbot)
    assert view.grab().toImage().pixelColor(5, 200).lightness() < 20
    view._theme.choose("light")
    assert view.grab().toImage().pixelColor(5, 200).lightness() > 230


@pytest.mark.usefixtures("opengl")
def test_ten_pictures_are_drawn_and_the_graphics_card_given_back(qapp, qtbot, view):
    show(view, qtbot)
    for turn in range(10):
        view._look_from(Camera(36 * turn, 10))
        view.repaint()
    view.release()
    view.repaint()
    assert view.refused is None, "drawing takes the graphics card anew"


@pytest.mark.usefixtures("opengl")
def test_the_renderer_says_what_it_draws_with(qapp):
    renderer = Renderer()
    assert renderer.version
    renderer.close()


# --- pointer and keys -------------------------------------------------------------------------------------------------


def test_dragging_turns_the_head_with_the_hand_and_stops_at_the_poles(view, qtbot):
    show(view, qtbot)
    view._look_from(Camera(0, 0))
    drag(view, qtbot, QPoint(60, 0))
    assert view.camera.azimuth < -10, "the near side goes with the hand to the right, so the viewer goes to the left"
    assert view.camera.elevation == 0
    drag(view, qtbot, QPoint(0, 2000))
    assert view.camera.elevation == 90


def test_wheel_zooms_middle_drag_moves_and_middle_double_click_resets(view, qtbot):
    show(view, qtbot)
    place = QPointF(middle(view))
    wheel = QWheelEvent(
        place,
        QPointF(view.mapToGlobal(place.toPoint())),
        QPoint(),
        QPoint(0, 240),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(view, wheel)
    assert view.camera.zoom > 1.2
    drag(view, qtbot, QPoint(36, -36), Qt.MouseButton.MiddleButton)
    assert view.camera.shift == pytest.approx((0.1, 0.1))
    qtbot.mouseDClick(view, Qt.MouseButton.MiddleButton, pos=middle(view))
    assert (view.camera.zoom, view.camera.shift) == (1.0, (0.0, 0.0))


@pytest.mark.usefixtures("opengl")
@pytest.mark.parametrize(
    ("key", "changed"),
    [
        (Qt.Key.Key_Left, lambda before, now: now.azimuth > before.azimuth),
        (Qt.Key.Key_Right, lambda before, now: now.azimuth < before.azimuth),
        (Qt.Key.Key_Up, lambda before, now: now.elevation < before.elevation),
        (Qt.Key.Key_Down, lambda before, now: now.elevation > before.elevation),
        (Qt.Key.Key_Plus, lambda before, now: now.zoom > before.zoom),
        (Qt.Key.Key_Minus, lambda before, now: now.zoom < before.zoom),
    ],
)
def test_everything_the_mouse_does_is_done_by_keys(view, qtbot, key, changed):
    show(view, qtbot)
    before = view.camera
    view.setFocus()
    qtbot.keyClick(view, key)
    assert changed(before, view.camera)
    qtbot.keyClick(view, Qt.Key.Key_0)
    assert view.camera == before


def test_a_click_on_the_tumour_puts_the_crosshair_there_and_beside_it_does_nothing(view, qtbot):
    show(view, qtbot)
    view._look_from(Camera(0, 0))
    view._model.move_crosshair(CENTRE - (8, 0, 0))
    scene = view.scene()
    place, _ = view.camera.project(
        np.array([CENTRE + phantoms.TUMOUR_CENTRE]), scene.centre, scene.radius, view.width(), view.height()
    )
    qtbot.mouseClick(view, LEFT, pos=QPoint(round(place[0, 0]), round(place[0, 1])))
    assert np.linalg.norm(view._model.crosshair - CENTRE - phantoms.TUMOUR_CENTRE) < 5.5
    there = view._model.crosshair
    qtbot.mouseClick(view, LEFT, pos=QPoint(5, 300))
    assert np.array_equal(view._model.crosshair, there)


def test_the_first_look_follows_the_convention_until_the_head_is_turned(view, qtbot):
    show(view, qtbot)
    assert view.camera.towards[1] > 0, "radiological: facing the patient, whose left is on the right"
    view._model.set_radiological(False)
    assert view.camera.towards[1] < 0, "neurological: from behind"
    view._look_from(Camera(90, 0))
    view._model.set_radiological(True)
    assert view.camera.azimuth == 90


@pytest.mark.usefixtures("opengl")
def test_the_view_speaks_of_what_is_seen_and_from_where(view, qtbot):
    show(view, qtbot)
    view._look_from(Camera(90, 30))
    assert view.accessibleDescription() == "whole tumour, core, brain, seen from left above"
    view.show_brain(False)
    assert "brain" not in view.accessibleDescription()


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        (Camera(0, 0), "front"),
        (Camera(180, 0), "behind"),
        (Camera(90, 0), "left"),
        (Camera(-90, 10), "right"),
        (Camera(45, 30), "front left above"),
        (Camera(0, 90), "above"),
        (Camera(180, -90), "below"),
    ],
)
def test_where_the_viewer_stands_has_a_name(camera, words):
    assert camera.words == words


@pytest.mark.parametrize("camera", [Camera(30, 20), Camera(0, 90), Camera(180, 90), Camera(77, -90), Camera(-120, -60)])
def test_the_camera_never_mirrors(camera):
    axes = np.vstack([np.zeros(3), np.eye(3)])
    places, depths = camera.project(axes, np.zeros(3), 10.0, 400, 400)
    right, up, away = places[1:, 0] - places[0, 0], places[0, 1] - places[1:, 1], (depths[1:] - depths[0]) * 1000
    assert np.linalg.det(np.stack([right, up, -away])) > 0


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("opengl")
def test_a_saved_picture_is_large_and_says_what_it_shows(view, qtbot, monkeypatch, tmp_path):
    show(view, qtbot)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "anna"), ""))
    view.picture_action.trigger()
    qtbot.waitUntil(lambda: (tmp_path / "anna.png").exists(), timeout=60_000)
    saved = QImage(str(tmp_path / "anna.png"))
    assert saved.width() >= 1600
    assert len(orange(saved)) > 1000
    band = pixels(saved)[-60:].astype(int)
    assert (band[:, : band.shape[1] // 2].max(axis=2) > 150).any(), "what the colours are"
    assert (band[:, band.shape[1] // 2 :].max(axis=2) > 150).any(), "research use only"


def test_surfaces_are_saved_by_name_and_nothing_of_others_is_replaced(view, jobs, qtbot, monkeypatch, tmp_path):
    show(view, qtbot)
    view.patient = "anna/b"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    names = {f"anna_b_{what}.stl" for what in ("whole_tumour", "tumour_core", "brain")}
    names |= {f"{name}.json" for name in names}
    for _ in range(2):  # our own are replaced
        view.surfaces_action.trigger()
        qtbot.waitUntil(lambda: {path.name for path in tmp_path.iterdir()} == names and not jobs.busy, timeout=60_000)
    assert all(provenance.verify(tmp_path / name).ok for name in names)
    theirs = tmp_path / "anna_b_brain.stl"
    theirs.write_bytes(b"solid of somebody else")
    errors: list[Exception] = []
    view.failed.connect(lambda error, doing: errors.append(error))
    view.surfaces_action.trigger()
    qtbot.waitUntil(lambda: bool(errors), timeout=60_000)
    assert isinstance(errors[0], CannotWrite)
    assert "anna_b_brain.stl" in str(errors[0])
    assert theirs.read_bytes() == b"solid of somebody else"


def test_no_opengl_is_a_sentence_for_the_user():
    words = str(NoOpenGL("there is no OpenGL on this computer"))
    assert words == (
        "3-D cannot be drawn here (there is no OpenGL on this computer). The planes show the same mask, and surfaces "
        "can still be saved as STL."
    )
