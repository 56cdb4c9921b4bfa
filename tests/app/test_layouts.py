"""Layouts, comparison, maps and measuring as a person uses them: real keys, clicks and drags on a real window."""

from __future__ import annotations

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, QRect, Qt
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication, QFileDialog

from app.application import make_window
from app.layouts import FADE_MS
from app.main_window import MainWindow
from app.picture import words_for
from app.session import Stage
from app.slice_view import SliceView
from app.viewer_model import Layer, Layout, Map, Mask, MaskStyle, Plane, Version, Window
from engine import provenance
from engine.findings import Kind
from engine.metrics import dice
from engine.volume import LabelMap, Sequence
from tests.app.test_window import drag, wheel
from tests.engine import phantoms

T1, T1CE, T2, FLAIR = Sequence
LEFT, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton
CENTRE = np.array((3.0, -5.0, 7.0))
TUMOUR = CENTRE + phantoms.TUMOUR_CENTRE


def press_key(window: MainWindow, qtbot, key: Qt.Key, modifiers: Qt.KeyboardModifier | None = None) -> None:
    qtbot.keyClick(window, key, modifiers or Qt.KeyboardModifier.NoModifier)


def settle(window: MainWindow) -> None:
    """Layout and scale are worked out a turn of the event loop later."""
    for _ in range(3):
        QApplication.processEvents()
    # A new overlay fades in; here it has.
    window.layouts._animation.setCurrentTime(FADE_MS)


def looked(window: MainWindow, qtbot) -> MainWindow:
    qtbot.waitUntil(lambda: window.review.looked is not None, timeout=20_000)
    return window


def colour_at(view: SliceView, world, aside: QPointF | None = None) -> tuple[int, int, int]:
    """The pixel that shows a place, a little beside the crosshair's lines."""
    place = view.pixel_of(np.asarray(world)) + (aside or QPointF(5, 5))
    view.set_fade(1.0)
    colour = view.viewport().grab().toImage().pixelColor(place.toPoint())
    return colour.red(), colour.green(), colour.blue()


def is_orange(colour) -> bool:
    return colour[0] > colour[2] + 40


def is_blue(colour) -> bool:
    return colour[2] > colour[0] + 40


def other_mask(window: MainWindow, change=lambda labels: None, name: str = "The other") -> Version:
    grid = window.model.layer.volume.grid
    labels = phantoms.tumour(grid).data.copy()
    change(labels)
    return Version(name, Mask.of(LabelMap(labels, grid), window.model.layers))


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_every_layout_is_one_key_away(loaded, qtbot):
    layouts, model = loaded.layouts, loaded.model
    for key, layout, count in (
        (Qt.Key.Key_F5, Layout.SEQUENCES, 4),
        (Qt.Key.Key_F4, Layout.PLANE, 1),
        (Qt.Key.Key_F6, Layout.COMPARE, 1),
        (Qt.Key.Key_F2, Layout.PLANES, 3),
    ):
        press_key(loaded, qtbot, key)
        settle(loaded)
        assert model.layout is layout
        assert loaded.layout_choice.button(layout).isChecked()
        assert len(layouts.views) == count
        assert all(view.isVisible() for view in layouts.views)
        assert len([view for view in loaded.findChildren(SliceView) if view.isVisible()]) == count
    press_key(loaded, qtbot, Qt.Key.Key_F3)
    assert model.layout is Layout.SURFACE
    assert loaded.surface.isVisible()
    assert not layouts.ortho.cell.isVisible()


def test_p_goes_through_the_planes(loaded, qtbot):
    press_key(loaded, qtbot, Qt.Key.Key_F5)
    settle(loaded)
    for plane in (Plane.CORONAL, Plane.SAGITTAL, Plane.AXIAL):
        press_key(loaded, qtbot, Qt.Key.Key_P)
        settle(loaded)
        assert {view.plane for view in loaded.layouts.views} == {plane}
        assert loaded.plane_choice.button(plane).isChecked()
    press_key(loaded, qtbot, Qt.Key.Key_F2)
    press_key(loaded, qtbot, Qt.Key.Key_P, Qt.KeyboardModifier.ShiftModifier)
    assert loaded.layouts.active.plane is Plane.SAGITTAL
    before = loaded.model.crosshair
    press_key(loaded, qtbot, Qt.Key.Key_PageUp)
    assert loaded.model.crosshair - before == pytest.approx((1, 0, 0))


def test_enter_and_double_click_lead_back_to_where_they_came_from(loaded, qtbot):
    press_key(loaded, qtbot, Qt.Key.Key_F5)
    settle(loaded)
    view = loaded.layouts.views[2]
    qtbot.mouseDClick(view.viewport(), LEFT, pos=view.viewport().rect().center())
    assert loaded.model.layout is Layout.PLANE
    press_key(loaded, qtbot, Qt.Key.Key_Return)
    assert loaded.model.layout is Layout.SEQUENCES


def test_layout_plane_sides_and_splitters_are_remembered(loaded, settings, qtbot):
    ortho = loaded.ortho
    ortho._rows.setSizes([300, 500])
    ortho._top.setSizes([450, 350])
    ortho._top.splitterMoved.emit(450, 1)
    rows, columns = ortho._rows.sizes(), ortho._top.sizes()
    for key in (Qt.Key.Key_F5, Qt.Key.Key_P, Qt.Key.Key_I):
        press_key(loaded, qtbot, key)
    press_key(loaded, qtbot, Qt.Key.Key_R, Qt.KeyboardModifier.ShiftModifier)
    assert (loaded.model.nose_left, loaded.model.interpolated) == (False, False)
    loaded.close()
    again = make_window(settings)
    again.resize(loaded.size())
    again.show()
    model = again.model
    remembered = (model.layout, model.plane, model.nose_left, model.interpolated)
    again.model.set_layout(Layout.PLANES)
    settle(again)
    sizes = again.ortho._rows.sizes(), again.ortho._top.sizes(), again.ortho._bottom.sizes()
    again.close()
    again.deleteLater()
    assert remembered == (Layout.SEQUENCES, Plane.CORONAL, False, False)
    for now, before in zip(sizes, (rows, columns, columns), strict=True):
        assert now[0] / sum(now) == pytest.approx(before[0] / sum(before), abs=0.02)


def test_full_screen_is_pictures_alone_and_escape_leads_back(loaded, qtbot):
    press_key(loaded, qtbot, Qt.Key.Key_F11)
    assert loaded.isFullScreen()
    assert not loaded.panel.isVisible()
    assert not loaded.layout_choice.isVisible()
    assert loaded.readout.isVisible()
    press_key(loaded, qtbot, Qt.Key.Key_Escape)
    assert not loaded.isFullScreen()
    assert loaded.panel.isVisible()
    assert loaded.layout_choice.isVisible()


def test_sequences_side_by_side_share_place_zoom_and_slice_but_not_the_window(loaded, qtbot):
    press_key(loaded, qtbot, Qt.Key.Key_F5)
    settle(loaded)
    views, model = loaded.layouts.views, loaded.model
    assert [view.key for view in views] == [T1, T1CE, T2, FLAIR]
    assert len({view.px_per_mm for view in views}) == 1
    target = model.crosshair + np.array((4.0, -3.0, 0.0))
    qtbot.mouseClick(views[2].viewport(), LEFT, pos=views[2].pixel_of(target).toPoint())
    assert model.crosshair == pytest.approx(target, abs=0.51)
    assert model.shown is T2, "the diagrams speak of the one that was pressed"
    wheel(views[1], 2)
    wheel(views[3], 1, Qt.KeyboardModifier.ControlModifier)
    assert len({view.index for view in views}) == 1
    assert len({view.px_per_mm for view in views}) == 1
    places = np.array([view.pixel_of(target).toTuple() for view in views])
    assert np.ptp(places, axis=0).max() <= 1, "at the same place, but for a pixel that does not divide evenly"
    before = {key: model.window_of(key) for key in Sequence}
    drag(views[3], RIGHT, QPoint(40, 20))
    changed = [key for key in Sequence if model.window_of(key) != before[key]]
    assert changed == [FLAIR]


def test_the_grid_follows_sequences_that_come_and_go(loaded, patient, qtbot):
    press_key(loaded, qtbot, Qt.Key.Key_F5)
    loaded.session.leave_out(patient / "patient_t2.nii.gz")
    qtbot.waitUntil(lambda: len(loaded.layouts.views) == 3, timeout=20_000)
    assert [view.key for view in loaded.layouts.views] == [T1, T1CE, FLAIR]
    assert all(view.isVisible() for view in loaded.layouts.views)


def test_a_result_shows_a_sequence_it_was_made_from(window, tmp_path, qtbot):
    window.session.open([phantoms.write_subject(tmp_path / "two", sequences=(T1, T2))])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=20_000)
    assert window.model.shown is T1
    qtbot.mouseClick(window.segment.button, LEFT)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=20_000)
    assert window.session.result.segmentation.used == (T2,)
    assert window.model.shown is T2


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_slider_goes_to_a_slice_and_marks_those_with_tumour(segmented, qtbot):
    axial, model = segmented.ortho.views[Plane.AXIAL], segmented.model
    slider = axial.slider
    for number in (3, 15):
        qtbot.mouseClick(slider, LEFT, pos=QPoint(slider.width() // 2, round(slider._y(number))))
        assert axial.cut.number_of(axial.index) == number
        assert slider.value() == number
    image = slider.grab().toImage()
    middle = image.width() // 2 - 2
    held = np.flatnonzero(model.mask.extent(axial.cut.normal)[0])
    for index in range(model.layer.volume.grid.shape[axial.cut.normal]):
        number = axial.cut.number_of(index)
        if number == slider.value():
            continue
        colour = image.pixelColor(middle, round(slider._y(number)))
        assert (colour.saturation() > 100) == (index in held), f"slice {number}"


def test_the_read_out_follows_the_pointer_and_falls_back_to_the_crosshair(segmented, qtbot):
    axial, readout, model = segmented.ortho.views[Plane.AXIAL], segmented.readout, segmented.model
    model.move_crosshair(TUMOUR)
    at_crosshair = readout.place.text(), readout.voxel.text()
    voxel = tuple(np.add(model.voxel(), (4, 2, 0)))
    there = axial.cut.grid.to_world(np.array([voxel]))[0]
    qtbot.mouseMove(axial.viewport(), axial.pixel_of(there).toPoint())
    assert readout.voxel.text() == "voxel " + " ".join(map(str, voxel))
    expected = model.layers[T1].volume.data[voxel]
    assert f"T1 {expected:.0f}" in readout.values.text()
    assert "whole" in readout.region.text()
    qtbot.mouseMove(axial.viewport(), QPoint(2, 2))
    assert (readout.place.text(), readout.voxel.text()) == at_crosshair, "beside the scan there is nothing to read"


def test_window_presets_by_key_and_button_and_the_window_of_a_sequence_is_remembered(loaded, tmp_path, qtbot):
    model = loaded.model
    model.show(T2)
    default = model.layer.default_window
    assert model.preset == "Tissue"
    press_key(loaded, qtbot, Qt.Key.Key_W)
    assert model.preset == "Wide"
    assert model.window.width > default.width
    presets = loaded.ortho.cell.scan.presets
    qtbot.mouseClick(presets.button("Bright"), LEFT)
    assert model.window.low > default.low + 0.3 * default.width
    model.set_window(Window(model.window.width * 0.9, model.window.level))
    assert model.preset is None
    shares = (model.window.low - default.low) / default.width, (model.window.high - default.low) / default.width
    loaded.session.open([phantoms.write_subject(tmp_path / "next")])
    qtbot.waitUntil(lambda: loaded.session.name == "next", timeout=20_000)
    now, usual = model.window_of(T2), model.layers[T2].default_window
    assert ((now.low - usual.low) / usual.width, (now.high - usual.low) / usual.width) == pytest.approx(shares)
    assert model.window_of(T1) == model.layers[T1].default_window
    model.reset_window(T2)
    assert model.window_of(T2) == usual


def test_interpolation_smooths_the_scan_and_never_the_mask(segmented, qtbot):
    axial, model = segmented.ortho.views[Plane.AXIAL], segmented.model
    model.set_overlay(visible=False)
    smooth = axial.viewport().grab().toImage()
    press_key(segmented, qtbot, Qt.Key.Key_I)
    raw = axial.viewport().grab().toImage()

    def levels(image: QImage) -> int:
        return len({image.pixel(x, y) for x in range(0, image.width(), 2) for y in range(0, image.height(), 2)})

    assert levels(raw) < levels(smooth)
    assert "Voxels" in axial.line_of_text(axial.frame())


def test_l_leads_through_the_lesions_from_large_to_small(loaded, qtbot):
    model = loaded.model
    grid = model.layer.volume.grid
    labels = phantoms.tumour(grid).data.copy()
    i, j, k = (int(n) for n in np.rint(grid.to_voxel((CENTRE + (6, 4, 0))[None])[0]))
    labels[i : i + 2, j : j + 2, k] = 2
    model.set_mask(Mask.of(LabelMap(labels, grid), model.layers))
    looked(loaded, qtbot)
    press_key(loaded, qtbot, Qt.Key.Key_L)
    assert model.crosshair == pytest.approx(TUMOUR, abs=1)
    press_key(loaded, qtbot, Qt.Key.Key_L)
    assert model.voxel()[2] == k
    assert labels[model.voxel()] == 2
    assert np.linalg.norm(model.crosshair - TUMOUR) > 5
    press_key(loaded, qtbot, Qt.Key.Key_L, Qt.KeyboardModifier.ShiftModifier)
    assert model.crosshair == pytest.approx(TUMOUR, abs=1)


def test_n_leads_through_what_is_worth_a_look_and_the_list_says_it_in_words(loaded, qtbot):
    model = loaded.model
    grid = model.layer.volume.grid
    labels = phantoms.tumour(grid).data.copy()
    islands = [CENTRE + step for step in ((-5, 4, 0), (-4, -6, 2))]
    for size, place in zip((3, 2), islands, strict=True):
        i, j, k = (int(n) for n in np.rint(grid.to_voxel(place[None])[0]))
        labels[i : i + size, j : j + size, k] = 2
    model.set_mask(Mask.of(LabelMap(labels, grid), model.layers))
    looked(loaded, qtbot)
    assert [f.kind for f in loaded.review.findings].count(Kind.ISLAND) == 2
    page = loaded.ortho.cell.tumour
    assert page.isVisible(), "with a mask the fourth cell turns to the tumour"
    assert len(page.rows) == len(loaded.review.findings)
    assert "An island of" in page.rows[0].text()
    press_key(loaded, qtbot, Qt.Key.Key_N)
    first = model.crosshair
    assert labels[model.voxel()] == 2
    press_key(loaded, qtbot, Qt.Key.Key_N)
    assert not np.allclose(model.crosshair, first)
    press_key(loaded, qtbot, Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier)
    assert model.crosshair == pytest.approx(first)
    qtbot.mouseClick(page.rows[1], LEFT)
    assert not np.allclose(model.crosshair, first)
    assert page.rows[1].property("here")


# --- measuring --------------------------------------------------------------------------------------------------------


def test_m_measures_the_core_on_its_largest_slice_and_an_end_can_be_moved(segmented, qtbot):
    looked(segmented, qtbot)
    model, axial = segmented.model, segmented.ortho.views[Plane.AXIAL]
    assert " x " in segmented.ortho.cell.tumour.diameters["core"].text().replace("\u00d7", "x")
    press_key(segmented, qtbot, Qt.Key.Key_M)
    ruler = model.ruler
    assert ruler is not None
    counts = np.count_nonzero(model.labels.tumour_core, axis=(0, 1))
    assert counts[axial.index] == counts.max()
    settle(segmented)
    start = axial.pixel_of(ruler.lines.longest[1]).toPoint()
    qtbot.mousePress(axial.viewport(), LEFT, pos=start)
    qtbot.mouseMove(axial.viewport(), start + QPoint(25, 10))
    qtbot.mouseRelease(axial.viewport(), LEFT, pos=start + QPoint(25, 10))
    moved = model.ruler
    assert moved.by_hand
    assert moved.lines.longest[0] == pytest.approx(ruler.lines.longest[0])
    assert moved.lines.longest_mm != pytest.approx(ruler.lines.longest_mm, abs=0.3)
    along, across = (line[1] - line[0] for line in (moved.lines.longest, moved.lines.across))
    assert along @ across == pytest.approx(0, abs=1e-6)
    press_key(segmented, qtbot, Qt.Key.Key_Escape)
    assert model.ruler is None
    before = model.crosshair
    qtbot.mouseClick(axial.viewport(), LEFT, pos=start)
    assert not np.allclose(model.crosshair, before), "the pointer moves the crosshair again"


def test_m_pressed_before_the_mask_is_looked_through_measures_when_it_is(loaded, qtbot):
    loaded.model.set_mask(other_mask(loaded).mask)
    assert loaded.review.looked is None
    press_key(loaded, qtbot, Qt.Key.Key_M)
    qtbot.waitUntil(lambda: loaded.model.ruler is not None, timeout=20_000)
    lines = loaded.model.ruler
    loaded.review.compare(other_mask(loaded))
    assert loaded.model.ruler is lines, "another comparison leaves the measurement alone"
    loaded.model.set_mask(other_mask(loaded).mask)
    press_key(loaded, qtbot, Qt.Key.Key_M)
    press_key(loaded, qtbot, Qt.Key.Key_M)
    press_key(loaded, qtbot, Qt.Key.Key_M)
    looked(loaded, qtbot)
    assert loaded.model.ruler is None, "put away before it came"


def test_without_a_tumour_the_ruler_is_drawn_by_hand(loaded, qtbot):
    model, coronal = loaded.model, loaded.ortho.views[Plane.CORONAL]
    press_key(loaded, qtbot, Qt.Key.Key_M)
    ends = [model.crosshair + np.array(step) for step in ((-5.0, 0.0, 2.0), (5.0, 0.0, 2.0))]
    first, last = (coronal.pixel_of(end).toPoint() for end in ends)
    qtbot.mousePress(coronal.viewport(), LEFT, pos=first)
    qtbot.mouseMove(coronal.viewport(), last)
    qtbot.mouseRelease(coronal.viewport(), LEFT, pos=last)
    assert model.ruler.plane is Plane.CORONAL
    assert model.ruler.lines.longest_mm == pytest.approx(10, abs=0.3)
    assert model.ruler.lines.across_mm == pytest.approx(5, abs=0.3)
    before = model.crosshair
    model.move_crosshair(before + np.array((0.0, 3.0, 0.0)))
    assert model.ruler is not None
    white = coronal.viewport().grab().toImage()
    model.move_crosshair(before)
    assert coronal.viewport().grab().toImage() != white, "lines are drawn on their own slice alone"


def test_a_measurement_of_a_mask_that_is_no_more_goes_with_it(segmented, qtbot):
    looked(segmented, qtbot)
    assert segmented.review.show_diameters("whole_tumour")
    segmented.model.set_mask(None)
    assert segmented.model.ruler is None


# --- masks and maps ---------------------------------------------------------------------------------------------------


def test_o_goes_through_fill_outline_and_both(segmented, qtbot):
    axial, model = segmented.ortho.views[Plane.AXIAL], segmented.model
    model.move_crosshair(TUMOUR)
    seen = {}
    for _ in MaskStyle:
        seen[model.overlay.style] = is_orange(colour_at(axial, TUMOUR))
        press_key(segmented, qtbot, Qt.Key.Key_O)
    assert seen == {MaskStyle.BOTH: True, MaskStyle.FILL: True, MaskStyle.OUTLINE: False}


def test_v_paints_probabilities_where_there_are_any(segmented, qtbot):
    axial, model = segmented.ortho.views[Plane.AXIAL], segmented.model
    model.move_crosshair(TUMOUR)
    outside = CENTRE + np.array((-6.0, 5.0, phantoms.TUMOUR_CENTRE[2]))
    seen = []
    for _ in range(4):
        seen.append(model.overlay.map)
        if model.overlay.map is Map.WHOLE_TUMOUR:
            inside = colour_at(axial, TUMOUR)
            assert max(inside) - min(inside) > 40, "the map has colour where the probability is high"
            beside = colour_at(axial, outside, QPointF(5, 8))
            assert max(beside) - min(beside) < 25, "and none where it is low"
        press_key(segmented, qtbot, Qt.Key.Key_V)
    assert seen == [Map.NONE, Map.WHOLE_TUMOUR, Map.CORE, Map.UNCERTAINTY]
    menu = segmented.result.map_menu()
    possible = {action.text(): action.isEnabled() for action in menu.actions()}
    assert possible[Map.UNCERTAINTY.title]
    assert not possible[Map.DISAGREEMENT.title]
    assert "compare" in next(a for a in menu.actions() if a.text() == Map.DISAGREEMENT.title).toolTip()
    menu.close()


# --- comparison -------------------------------------------------------------------------------------------------------


def test_compared_with_the_ground_truth_beside_the_scans(window, tmp_path, qtbot):
    window.session.open([phantoms.write_subject(tmp_path / "case", truth=True)], segment=True)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=20_000)
    press_key(window, qtbot, Qt.Key.Key_F6)
    compare = window.layouts.compare
    assert compare.empty_button.isVisible()
    menu = compare.menu()
    titles = [action.text() for action in menu.actions()]
    assert titles[0] == "Ground truth"
    assert "Student t2" in titles
    menu.actions()[0].trigger()
    menu.close()
    qtbot.waitUntil(lambda: window.model.other is not None, timeout=20_000)
    looked(window, qtbot)
    settle(window)
    truth = phantoms.tumour(phantoms.grid("LPS"))
    assert np.array_equal(window.model.other.mask.labels.data, truth.data)
    assert [view.title for view in window.layouts.views] == ["Teacher", "Ground truth"]
    found = window.model.labels
    apart = found.ml(found.whole_tumour != truth.whole_tumour)
    assert f"differ by {apart:.1f} ml" in compare.difference.text()
    assert f"Dice {dice(found.whole_tumour, truth.whole_tumour):.2f}" in compare.difference.text()


def test_side_by_side_each_side_shows_its_own_mask(loaded, qtbot):
    model = loaded.model
    model.set_mask(other_mask(loaded).mask)

    def all_core(labels: np.ndarray) -> None:
        labels[labels > 0] = 1

    loaded.review.compare(other_mask(loaded, all_core))
    model.set_layout(Layout.COMPARE)
    model.set_overlay(other_shown=False)
    model.move_crosshair(TUMOUR)
    settle(loaded)
    left, right = loaded.layouts.views
    rim = TUMOUR + np.array((3.0, 0.0, 0.0))
    assert is_blue(colour_at(left, rim))
    assert is_orange(colour_at(right, rim))
    model.set_layout(swiped=True)
    settle(loaded)
    (view,) = loaded.layouts.views
    seen = []
    for share in (1.0, 0.0):
        model.set_layout(swipe=share)
        seen.append((is_blue(colour_at(view, rim)), is_orange(colour_at(view, rim))))
    assert seen == [(True, False), (False, True)]


def test_the_line_of_a_swipe_is_drawn_by_pointer_and_keys_and_leaves_the_crosshair_alone(loaded, qtbot):
    model = loaded.model
    model.set_mask(other_mask(loaded).mask)
    loaded.review.compare(other_mask(loaded))
    model.set_layout(Layout.COMPARE, swiped=True)
    settle(loaded)
    (view,) = loaded.layouts.views
    before, width = model.crosshair, view.viewport().width()
    start = QPoint(round(model.swipe * width), 30)
    qtbot.mousePress(view.viewport(), LEFT, pos=start)
    qtbot.mouseMove(view.viewport(), QPoint(round(0.3 * width), 30))
    qtbot.mouseRelease(view.viewport(), LEFT, pos=QPoint(round(0.3 * width), 30))
    assert model.swipe == pytest.approx(0.3, abs=0.01)
    assert model.crosshair == pytest.approx(before)
    qtbot.keyClicks(loaded, ".")
    assert model.swipe == pytest.approx(0.32, abs=0.01)
    qtbot.mouseClick(view.viewport(), LEFT, pos=QPoint(round(0.6 * width), view.height() // 2))
    assert not np.allclose(model.crosshair, before), "away from the line a click is a click"


def test_the_disagreement_map_is_purple_where_both_differ_and_nowhere_else(loaded, qtbot):
    model = loaded.model
    model.set_mask(other_mask(loaded).mask)

    def without_core(labels: np.ndarray) -> None:
        labels[labels == 1] = 2

    loaded.review.compare(other_mask(loaded, without_core, "No core"))
    looked(loaded, qtbot)
    model.set_overlay(map=Map.DISAGREEMENT)
    model.move_crosshair(TUMOUR)
    axial = loaded.ortho.views[Plane.AXIAL]
    red, green, blue = colour_at(axial, TUMOUR)
    assert red > green + 30
    assert blue > green + 20
    rim = colour_at(axial, TUMOUR + np.array((3.0, 0.0, 0.0)))
    assert max(rim) - min(rim) < 25, "both call it whole tumour"
    expected = model.labels.ml(model.labels.tumour_core)
    assert loaded.review.looked.disagreement["tumour_core"] == pytest.approx(expected)
    assert loaded.review.looked.disagreement["whole_tumour"] == 0
    loaded.review.compare(None)
    assert model.overlay.map is Map.NONE, "a map of what is no more is not painted"


def test_another_model_s_result_can_be_compared_with(segmented, qtbot):
    offer = next(offer for offer in segmented.review.offers() if offer.title == "Student t2")
    offer.act()
    assert segmented.model.layout is Layout.COMPARE
    assert "Student t2" in segmented.layouts.compare.why_empty.text()
    qtbot.waitUntil(lambda: segmented.model.other is not None, timeout=30_000)
    assert segmented.model.other.name == "Student t2"
    assert segmented.model.other.mask.probabilities
    assert segmented.session.result.segmentation.card.name == "teacher", "the result on the desk stays"


def test_labels_that_do_not_say_what_they_mean_are_asked_about(loaded, tmp_path, qtbot, monkeypatch):
    grid = loaded.model.layer.volume.grid
    path = phantoms.write(tmp_path / "drawn.nii.gz", phantoms.tumour(grid).data, np.array(grid.affine))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    loaded.browse_mask()
    qtbot.waitUntil(lambda: loaded.session.problem is not None, timeout=20_000)
    names = [button.text() for button in loaded.banner.buttons]
    assert "Which labels" in loaded.banner.words.text()
    assert len(names) > 2
    qtbot.mouseClick(loaded.banner.buttons[0], LEFT)
    qtbot.waitUntil(lambda: loaded.model.other is not None, timeout=20_000)
    assert loaded.model.other.name == "drawn.nii.gz"
    assert loaded.session.problem is None


def test_a_mask_of_another_scan_is_refused_in_a_sentence(loaded, tmp_path, qtbot):
    grid = phantoms.grid("LPS", shape=(12, 14, 10), spacing=(2.0, 2.0, 2.0), centre=(203.0, -5.0, 7.0))
    labels = phantoms.tumour(grid, centre=(203.0, -5.0, 7.0)).data.copy()
    labels[labels == 1] = 4
    path = phantoms.write(tmp_path / "far_seg.nii.gz", labels, np.array(grid.affine))
    loaded.review.compare_file(path)
    qtbot.waitUntil(lambda: loaded.session.problem is not None, timeout=20_000)
    assert "far_seg.nii.gz does not lie where the scans lie" in loaded.session.problem.sentence
    assert loaded.model.other is None
    assert loaded.review.coming == ""


def test_a_mask_on_a_grid_of_its_own_is_put_where_its_header_says_and_that_is_said(loaded, tmp_path, qtbot):
    grid = phantoms.grid("LPS", shape=(12, 14, 10), spacing=(2.0, 2.0, 2.0))
    labels = phantoms.tumour(grid).data.copy()
    labels[labels == 1] = 4
    path = phantoms.write(tmp_path / "coarse_seg.nii.gz", labels, np.array(grid.affine))
    loaded.review.compare_file(path)
    qtbot.waitUntil(lambda: loaded.model.other is not None, timeout=20_000)
    assert "was put where its header says" in loaded.session.problem.sentence
    assert loaded.model.other.mask.labels.grid.same_as(loaded.session.worked.grid)


def test_today_is_compared_with_an_earlier_scan_on_the_same_grid(segmented, tmp_path, qtbot):
    earlier = phantoms.write_subject(tmp_path / "march", sequences=(T1, T2), truth=True)
    grid = phantoms.grid("LPS")
    data = phantoms.head(grid, T1).data
    phantoms.write(earlier / "march_t1.nii.gz", np.where(data > 0, data + 40, 0), np.array(grid.affine), dtype="<i2")
    segmented.review.compare_earlier([earlier])
    qtbot.waitUntil(lambda: segmented.model.other is not None, timeout=20_000)
    model = segmented.model
    settle(segmented)
    left, right = segmented.layouts.views
    assert right.title == "march"
    model.move_crosshair(CENTRE + np.array((4.0, 5.0, 0.0)))
    model.set_overlay(visible=False)
    assert colour_at(right, model.crosshair)[0] > colour_at(left, model.crosshair)[0] + 10, "its own scan"
    assert right.layer is not left.layer
    assert Map.DISAGREEMENT not in model.maps, "two times that differ are no disagreement"
    model.show(FLAIR)
    settle(segmented)
    assert "lacks the sequence" in segmented.layouts.compare.why_empty.text()


def test_nothing_to_compare_with_survives_the_patient(segmented, tmp_path, qtbot):
    segmented.review.compare(other_mask(segmented, name="drawn"))
    other = phantoms.write_subject(tmp_path / "next", sequences=(T2,))
    segmented.session.open([other])
    qtbot.waitUntil(lambda: segmented.session.name == "next", timeout=20_000)
    assert segmented.model.other is None
    assert "drawn" not in [offer.title for offer in segmented.review.offers()]
    assert segmented.review.looked is None
    assert segmented.ortho.cell.scan.isVisible()


# --- conventions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SPR", "PIL"])
@pytest.mark.parametrize("layout", [Layout.PLANES, Layout.SEQUENCES, Layout.COMPARE])
def test_the_left_marker_is_on_its_side_in_every_layout(window, qtbot, orientation, layout):
    on = phantoms.grid(orientation)
    window.model.set_layers({s: Layer.of(phantoms.head(on, s)) for s in (T1, T2)})
    window.pages.setCurrentIndex(1)
    window.model.set_layout(layout)
    window.model.move_crosshair(CENTRE)
    settle(window)
    for radiological in (True, False):
        window.model.set_radiological(radiological)
        settle(window)
        for view in window.layouts.views:
            if view.plane is Plane.SAGITTAL:
                continue
            here, there = (colour_at(view, CENTRE + sign * np.array(phantoms.LEFT_MARKER), QPointF(0, -4))[0]
                           for sign in (1, -1))  # fmt: skip
            assert here > there + 40
            x = view.pixel_of(CENTRE + phantoms.LEFT_MARKER).x()
            assert (x > view.viewport().width() / 2) == radiological


def test_the_nose_looks_to_either_side(loaded, qtbot):
    sagittal = loaded.ortho.views[Plane.SAGITTAL]
    loaded.model.move_crosshair(CENTRE)
    front = CENTRE + np.array(phantoms.FRONT_MARKER)
    assert sagittal.pixel_of(front).x() < sagittal.pixel_of(CENTRE).x()
    assert sagittal.cut.letters[:2] == ("A", "P")
    assert "Nose left" in sagittal.line_of_text(sagittal.frame())
    press_key(loaded, qtbot, Qt.Key.Key_R, Qt.KeyboardModifier.ShiftModifier)
    assert sagittal.pixel_of(front).x() > sagittal.pixel_of(CENTRE).x()
    assert sagittal.cut.letters[:2] == ("P", "A")
    assert "Nose right" in sagittal.line_of_text(sagittal.frame())


def test_a_saved_picture_says_on_which_side_is_what_and_names_nobody(segmented, tmp_path, qtbot, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "figure"), ""))
    segmented.menu_actions["Save a picture"].trigger()
    qtbot.waitUntil(lambda: (tmp_path / "figure.png").exists(), timeout=20_000)
    record = provenance.read(tmp_path / "figure.png.json")
    assert record is not None
    assert record["output"]["kind"] == "picture"
    assert record["model"]["name"] == "teacher"
    picture = QImage(str(tmp_path / "figure.png"))
    views = segmented.layouts
    assert picture.width() == views.width() * segmented.devicePixelRatio()
    assert picture.height() > views.height()
    strip = picture.copy(QRect(0, views.height(), picture.width(), picture.height() - views.height()))
    shades = {strip.pixel(x, y) for x in range(600) for y in range(strip.height())}
    assert len(shades) > 8, "there are words below"
    planes = {view.plane for view in segmented.layouts.views}
    side, seen = words_for(segmented.model, planes)
    assert side == "Radiological: the patient's left is on the right.  Sagittal: nose to the left."
    assert "research use only" in seen
    segmented.model.set_radiological(False)
    assert words_for(segmented.model, {Plane.AXIAL})[0] == "Neurological: the patient's left is on the left."
    assert str(tmp_path) not in " ".join((side, seen))


def test_a_picture_that_cannot_be_written_is_told(segmented, tmp_path, qtbot, monkeypatch):
    nowhere = tmp_path / "gone" / "figure.png"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(nowhere), ""))
    nowhere.parent.write_bytes(b"a file where the folder should be")
    segmented.save_picture()
    qtbot.waitUntil(lambda: segmented.session.problem is not None, timeout=20_000)
    assert "There is no folder gone to write to" in segmented.banner.words.text()


def test_without_anything_at_hand_files_can_be_compared_with(loaded):
    menu = loaded.layouts.compare.menu()
    assert [a.text() for a in menu.actions() if a.text()][-2:] == ["A mask from a file...", "An earlier scan..."]
    menu.close()
