"""By keyboard alone, by ear, and for the first time: what people need who cannot or do not use the mouse."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QPoint, QRect, Qt
from PySide6.QtGui import QAccessible, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QMenu,
    QScrollBar,
    QWidget,
)

from app import DEMO
from app.cards import Card
from app.main_window import MainWindow
from app.session import Stage
from app.shortcuts import sheet
from app.tour import Tour
from app.viewer_model import Layout
from engine import nifti
from engine.volume import Sequence
from tests.app.conftest import drop
from tests.engine import phantoms
from tests.golden.pictures import pixels

CONTROLS = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)


def controls(root: QWidget) -> list[QWidget]:
    """Everything in a window that can be operated or takes the focus; what Qt makes inside its own controls is Qt's."""
    return [
        widget
        for widget in root.findChildren(QWidget)
        if (isinstance(widget, CONTROLS) or widget.focusPolicy() != Qt.FocusPolicy.NoFocus)
        and not isinstance(widget, (QScrollBar, QMenu))
        and not widget.objectName().startswith("qt_")
        and not isinstance(widget.parent(), (QAbstractSpinBox, QComboBox))
        and not widget.parent().inherits("QComboBoxPrivateContainer")
    ]


def unnamed(root: QWidget) -> list[str]:
    nameless = []
    for widget in controls(root):
        spoken = QAccessible.queryAccessibleInterface(widget)
        name = widget.accessibleName() or (spoken.text(QAccessible.Text.Name) if spoken is not None else "")
        if not name.strip() and widget is not root.findChild(QWidget, "surface"):
            nameless.append(f"{type(widget).__name__} {widget.objectName()} in {type(widget.parent()).__name__}")
    return nameless


# --- names ------------------------------------------------------------------------------------------------------------


def test_nothing_in_the_empty_window_is_without_a_name(window):
    assert unnamed(window) == []


@pytest.mark.parametrize("layout", Layout)
def test_nothing_in_any_layout_is_without_a_name(segmented, layout):
    segmented.model.set_layout(layout)
    QApplication.processEvents()
    assert unnamed(segmented) == []


@pytest.mark.parametrize("show", ["show_notice", "show_about", "show_shortcuts", "show_tour"])
def test_nothing_on_any_card_is_without_a_name(segmented, show):
    getattr(segmented, show)()
    assert segmented.card is not None
    assert segmented.card.accessibleName()
    assert unnamed(segmented.card) == []


def test_nothing_in_messages_and_questions_is_without_a_name(window, tmp_path, qtbot):
    path = phantoms.write_volume(tmp_path / "scan.nii.gz", phantoms.head(phantoms.grid("LPS"), Sequence.T2))
    drop(window, [path])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=60_000)
    window.session.fail(ZeroDivisionError("x"), "Something stopped")
    assert unnamed(window) == []


def test_menus_have_words_on_every_line(segmented):
    menus = [*segmented.findChildren(QMenu), segmented.result.colour_menu("core"), segmented.layers.rows[0].choices()]
    assert menus
    for menu in menus:
        assert all(action.text() or action.isSeparator() for action in menu.actions())


# --- focus ------------------------------------------------------------------------------------------------------------


def reached_by_tab(window: MainWindow) -> list[QWidget]:
    """Where the focus goes, once around."""
    found: list[QWidget] = []
    for _ in range(120):
        window.focusNextChild()
        focus = QApplication.focusWidget()
        if focus is None or focus in found:
            break
        found.append(focus)
    return found


def place(widget: QWidget, window: QWidget) -> QRect:
    return QRect(widget.mapTo(window, QPoint(0, 0)), widget.size())


def test_tab_goes_through_the_window_as_it_is_read(segmented):
    segmented.activateWindow()
    segmented._surface.setFocus()
    found = reached_by_tab(segmented)
    areas = {"header": segmented._header, "panel": segmented.panel, "pictures": segmented.layouts}
    where = [next(n for n, area in areas.items() if area.isAncestorOf(w)) for w in found]
    assert list(dict.fromkeys(where)) == ["header", "panel", "pictures"]
    assert where == sorted(where, key=list(areas).index), "no area is left and entered again"
    for area in ("header", "panel"):
        boxes = [place(w, segmented) for w, here in zip(found, where, strict=True) if here == area]
        for before, after in pairwise(boxes):
            # Below, or further right on the same line; a control inside another comes after it.
            lower = after.top() > before.top() + 8
            right = after.left() > before.left() and after.bottom() > before.top()
            assert lower or right, f"{before} is followed by {after} in the {area}"


def test_every_control_that_can_have_the_focus_shows_it(segmented, qtbot):
    segmented.activateWindow()
    segmented._surface.setFocus()
    qtbot.wait(200)
    hidden = []
    for widget in reached_by_tab(segmented):
        segmented._surface.setFocus()
        # As Tab does by itself for what has scrolled out of sight.
        if segmented.panel.isAncestorOf(widget):
            segmented.panel.ensureWidgetVisible(widget)
        around = place(widget, segmented).adjusted(-3, -3, 3, 3)
        before = pixels(segmented.grab(around).toImage()).astype(int)
        widget.setFocus(Qt.FocusReason.TabFocusReason)
        after = pixels(segmented.grab(around).toImage()).astype(int)
        if np.count_nonzero(np.abs(after - before).max(axis=2) > 25) < 8:
            hidden.append(f"{type(widget).__name__} {widget.accessibleName()}")
    assert hidden == []


def test_tab_stays_on_a_card_and_the_focus_returns_to_the_pictures(segmented):
    segmented.activateWindow()
    segmented.show_tour()
    card = segmented.card
    for _ in range(7):
        QApplication.focusWidget().focusNextChild()
        assert card.isAncestorOf(QApplication.focusWidget())
    card.leave()
    assert QApplication.focusWidget() is segmented.layouts.active


# --- keys -------------------------------------------------------------------------------------------------------------


def press(qtbot, key: Qt.Key | str, keys: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    """To wherever the focus is, as a keyboard does."""
    focus = QApplication.focusWidget() or QApplication.activeWindow()
    qtbot.keyClick(focus, key, keys)


def test_a_whole_case_by_keyboard_alone(window, patient, tmp_path, qtbot, monkeypatch):
    control, shift = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
    files = [str(path) for path in sorted(patient.glob("*.nii.gz"))]
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: (files, ""))
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(out))
    window.activateWindow()
    session, model = window.session, window.model

    press(qtbot, Qt.Key.Key_O, control)
    qtbot.waitUntil(lambda: session.stage is Stage.READY, timeout=60_000)

    # Segment is reached by Tab and pressed by Space.
    for _ in range(60):
        if QApplication.focusWidget() is window.segment.button:
            break
        press(qtbot, Qt.Key.Key_Tab)
    assert QApplication.focusWidget() is window.segment.button
    press(qtbot, Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: session.stage is Stage.DONE, timeout=60_000)

    # Look: slices, crosshair, sequence, opacity, 3-D and back.
    for plane in ("p", "p"):
        press(qtbot, plane)
        before, axis = model.crosshair, window.layouts.active.plane.value
        press(qtbot, Qt.Key.Key_PageUp)
        assert np.flatnonzero(model.crosshair - before).tolist() == [axis]
        press(qtbot, Qt.Key.Key_Up, shift)
        assert np.count_nonzero(model.crosshair - before) == 2
    press(qtbot, "2")
    assert model.shown is Sequence.T1CE
    press(qtbot, "[")
    assert model.overlay.opacity < 0.45
    press(qtbot, Qt.Key.Key_F3)
    assert model.layout is Layout.SURFACE
    assert window.surface.isVisible()
    press(qtbot, Qt.Key.Key_F2)
    press(qtbot, "g")
    assert model.labels.data[model.voxel()] > 0

    press(qtbot, Qt.Key.Key_S, control)
    qtbot.waitUntil(lambda: session.saved is not None, timeout=60_000)
    mask = nifti.read_label_map(out / "patient_seg.nii.gz", nifti.Convention.GLIASCOPE)
    assert np.array_equal(mask.data, model.labels.data)


def test_every_key_is_an_action_with_a_name_and_no_key_does_two_things(segmented):
    assert segmented.findChildren(QShortcut) == [], "a shortcut without a name would be missing on the sheet"
    taken: dict[str, str] = {}
    for action in segmented.actions():
        for key in action.shortcuts():
            assert action.text(), key.toString()
            assert key.toString() not in taken, f"{key.toString()}: {taken.get(key.toString())} and {action.text()}"
            taken[key.toString()] = action.text()


def test_the_sheet_shows_every_action_that_has_a_key(segmented, qtbot):
    press(qtbot, "?")
    assert isinstance(segmented.card, Card)
    words = {label.text() for label in segmented.card.findChildren(QLabel)}
    for action in segmented.actions():
        if action.shortcuts():
            assert action.text().rstrip(".") in words, action.text()
    key = QKeySequence("Ctrl+Shift+O")
    assert any(key in action.shortcuts() for action in segmented.actions())
    assert "Ctrl Shift O" in words
    press(qtbot, Qt.Key.Key_Escape)
    assert segmented.card is None


def test_nothing_on_the_sheet_is_cut_off_in_the_smallest_window(segmented, qtbot):
    segmented.resize(segmented.minimumSize())
    segmented.show_shortcuts()
    qtbot.wait(100)
    assert sheet(segmented)
    inside = segmented._surface.rect()
    for label in segmented.card.findChildren(QLabel):
        assert inside.contains(place(label, segmented._surface)), label.text()
        assert label.width() >= label.minimumSizeHint().width(), label.text()
    assert inside.contains(place(segmented.card.close_button, segmented._surface))


def test_a_key_in_a_tooltip_is_the_key_that_does_it(segmented):
    keys = {key.toString(QKeySequence.SequenceFormat.NativeText) for a in segmented.actions() for key in a.shortcuts()}
    for button, key in (
        (segmented.panel_button, "F9"),
        (segmented.help_button, "?"),
        (segmented.result.save_button, "Ctrl+S"),
        (segmented.result.go_button, "G"),
    ):
        assert f"({key})" in button.toolTip()
        assert key in keys


# --- by ear -----------------------------------------------------------------------------------------------------------


def test_a_view_says_anew_where_it_is_when_slices_are_turned(segmented, qtbot):
    segmented.activateWindow()
    view = segmented.layouts.active
    view.setFocus()
    qtbot.waitUntil(lambda: not segmented._speech._later.isActive(), timeout=5_000)
    words, said = view.accessibleDescription(), segmented._speech.said
    for _ in range(3):
        press(qtbot, Qt.Key.Key_PageUp)
    qtbot.waitUntil(lambda: segmented._speech.said > said, timeout=5_000)
    assert view.accessibleDescription() != words
    assert "slice" in view.accessibleDescription()
    assert segmented._speech.said == said + 1, "where it ended, not every slice on the way"
    spoken = QAccessible.queryAccessibleInterface(view)
    assert spoken.text(QAccessible.Text.Description) == view.accessibleDescription()


# --- for the first time -----------------------------------------------------------------------------------------------


def test_after_the_notice_the_tour_leads_around_the_demo_patient_once(window, settings, qtbot):
    window.show_notice()
    window.card.close_button.click()
    qtbot.waitUntil(lambda: isinstance(window.card, Tour), timeout=10_000)
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=60_000)
    assert window.session.folder == DEMO
    tour, titles = window.card, []
    for number in range(1, 6):
        assert tour.number == number
        titles.append(tour.accessibleName())
        assert tour.accessibleDescription()
        light = tour._light
        assert not light.isEmpty()
        assert tour.rect().contains(tour.card.geometry()), "the bubble is in the window"
        press(qtbot, Qt.Key.Key_Right)
        if number == 2:
            qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=60_000)
    assert len(set(titles)) == 5
    assert window.card is None
    assert settings.tour_taken
    window._offer_tour()
    assert window.card is None, "once"


@pytest.mark.parametrize("step", range(5))
def test_the_tour_can_be_left_at_any_step_and_taken_back(segmented, settings, qtbot, step):
    segmented.show_tour()
    tour = segmented.card
    for _ in range(step):
        tour.go_on()
    if step:
        press(qtbot, Qt.Key.Key_Left)
        assert tour.number == step
    press(qtbot, Qt.Key.Key_Escape)
    assert segmented.card is None
    assert settings.tour_taken


def test_scans_that_are_dropped_on_the_tour_end_it(segmented, qtbot, patient):
    segmented.show_tour()
    segmented.card.go_on()
    drop(segmented, list(patient.glob("*_t1.nii.gz")))
    qtbot.waitUntil(lambda: set(segmented.model.layers) == {Sequence.T1}, timeout=20_000)
    assert segmented.card is None


def test_scans_that_are_dropped_on_the_research_use_notice_wait_for_it_to_be_read(segmented, qtbot, patient):
    before = segmented.session.result
    segmented.show_notice()
    drop(segmented, list(patient.glob("*_t1.nii.gz")))
    assert segmented.card is not None
    assert segmented.session.result is before


def test_whoever_opens_own_scans_first_is_not_led_around(loaded, settings, qtbot):
    loaded.show_notice()
    loaded.card.close_button.click()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    qtbot.wait(50)
    assert loaded.card is None
    assert not settings.tour_taken


def test_every_empty_place_says_what_to_do(window, patient, qtbot):
    assert "Drop" in window.welcome.title.text()
    window.session.open([patient / "patient_t2.nii.gz"])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=60_000)
    absent = window.layers.row(Sequence.T1)
    assert "click to choose a file" in absent.toolTip()
    window.model.set_layout(Layout.SURFACE)
    view = window.surface.view
    qtbot.waitUntil(lambda: view.ready, timeout=60_000)
    assert view.refused is not None or "segment to see the tumour" in view.accessibleDescription()
    window.session.close()
    assert Path(DEMO).is_dir()
    assert window.welcome.isVisible()
