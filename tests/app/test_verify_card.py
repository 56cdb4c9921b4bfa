"""Verifying a saved result in the window: what is unchanged, changed or missing, and the same segmentation again."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QFileDialog, QLabel

from app.main_window import MainWindow
from app.verify_card import Sign, VerifyCard
from engine import pipeline
from engine.progress import Progress
from tests.app.conftest import drop
from tests.engine import phantoms

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def saved(segmented: MainWindow, qtbot, tmp_path: Path) -> MainWindow:
    """The window with the phantom segmented and saved far from its scans."""
    segmented.session.save(tmp_path / "far" / "away")
    qtbot.waitUntil(lambda: segmented.session.saved is not None, timeout=20_000)
    return segmented


def opened(window: MainWindow, qtbot) -> VerifyCard:
    window.menu_actions["Verify a result"].trigger()
    card = window.card
    assert isinstance(card, VerifyCard)
    return card


def done(card: VerifyCard, qtbot) -> None:
    qtbot.waitUntil(lambda: card.stack.currentIndex() != 1, timeout=30_000)


def lines(card: VerifyCard) -> list[str]:
    return [one.text() for one in card.stack.currentWidget().findChildren(QLabel) if one.text() and one.isVisible()]


def signs(card: VerifyCard) -> set[str]:
    return {sign.accessibleName() for sign in card.findChildren(Sign) if sign.isVisible()}


def test_what_was_just_saved_is_verified_at_once_and_made_again(saved: MainWindow, qtbot) -> None:
    card = opened(saved, qtbot)
    done(card, qtbot)
    assert "Everything that was recorded is unchanged." in lines(card)
    assert "T2 is unchanged: patient_t2.nii.gz." in lines(card)
    assert signs(card) == {"Unchanged"}
    assert not card.scans_button.isVisible()
    qtbot.mouseClick(card.again_button, LEFT)
    done(card, qtbot)
    assert "Everything that was recorded is unchanged. Segmented again, it comes out the same." in lines(card)


def test_a_mask_that_was_changed_is_told_with_its_voxels(saved: MainWindow, qtbot) -> None:
    mask = saved.session.saved.mask
    image = nib.load(mask)
    data = np.asarray(image.dataobj).copy()
    data.flat[:7] = 2
    nib.save(nib.Nifti1Image(data, image.affine, image.header), mask)
    card = opened(saved, qtbot)
    done(card, qtbot)
    assert "patient_seg.nii.gz was changed after Gliascope saved it." in lines(card)
    assert signs(card) == {"Changed", "Unchanged"}
    qtbot.mouseClick(card.again_button, LEFT)
    done(card, qtbot)
    assert any(line.startswith("Segmented again: 7 of ") for line in lines(card))


def test_scans_elsewhere_are_asked_for(saved: MainWindow, qtbot, patient: Path, monkeypatch) -> None:
    card = opened(saved, qtbot)
    done(card, qtbot)
    card.verify(saved.session.saved.sidecar)
    done(card, qtbot)
    assert "T1 was not found near the result." in lines(card)
    assert card.scans_button.isVisible()
    assert not card.again_button.isEnabled()
    assert card.again_button.toolTip() == "Say first where the scans are."
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(patient))
    qtbot.mouseClick(card.scans_button, LEFT)
    done(card, qtbot)
    assert "Everything that was recorded is unchanged." in lines(card)
    assert card.again_button.isEnabled()


def test_a_file_is_chosen_or_dropped(saved: MainWindow, qtbot, patient: Path, tmp_path: Path, monkeypatch) -> None:
    mask = saved.session.saved.mask
    saved.session.close()
    card = opened(saved, qtbot)
    assert card.stack.currentIndex() == 0
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(patient / "patient_t1.nii.gz"), ""))
    qtbot.mouseClick(card.choose_button, LEFT)
    done(card, qtbot)
    assert card.stack.currentIndex() == 0
    assert card.problem.text().startswith("Nothing beside patient_t1.nii.gz says how it came about")
    let_go(card, mask)
    done(card, qtbot)
    assert "patient_seg.nii.gz is unchanged." in lines(card)
    let_go(card, mask.parent)
    done(card, qtbot)
    assert "patient_seg.nii.gz is unchanged." in lines(card)
    # A second result in the folder: nobody is told of one for both.
    for path in (mask, saved_record(mask)):
        path.with_name(path.name.replace("patient", "other")).write_bytes(path.read_bytes())
    let_go(card, mask.parent)
    done(card, qtbot)
    assert "holds 2 results" in card.problem.text()


def saved_record(mask: Path) -> Path:
    return mask.with_name(mask.name.replace(".nii.gz", ".json"))


def let_go(card: VerifyCard, path: Path) -> None:
    """Drop a file in the middle of the card."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    at = QPoint(card.width() // 2, card.height() // 2)
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    target = card.stack.currentWidget() if card.stack.currentIndex() == 0 else card
    QApplication.sendEvent(target, QDragEnterEvent(at, Qt.DropAction.CopyAction, mime, buttons, keys))
    QApplication.sendEvent(target, QDropEvent(QPointF(at), Qt.DropAction.CopyAction, mime, buttons, keys))


def test_a_record_dropped_on_the_window_is_verified(saved: MainWindow, qtbot) -> None:
    drop(saved, [saved.session.saved.sidecar])
    qtbot.waitUntil(lambda: isinstance(saved.card, VerifyCard), timeout=5_000)
    done(saved.card, qtbot)
    assert saved.card.report is not None


def test_segmenting_again_can_be_stopped(saved: MainWindow, qtbot, monkeypatch) -> None:
    card = opened(saved, qtbot)
    done(card, qtbot)
    begun: list[bool] = []

    def slow(name: str, volumes: object, settings: object, progress: Progress) -> None:
        begun.append(True)
        while True:
            progress.check()

    monkeypatch.setattr(pipeline, "work", slow)
    qtbot.mouseClick(card.again_button, LEFT)
    qtbot.waitUntil(lambda: bool(begun), timeout=10_000)
    qtbot.mouseClick(card.cancel_button, LEFT)
    done(card, qtbot)
    assert "Everything that was recorded is unchanged." in lines(card)


def test_closing_the_card_stops_what_it_does(saved: MainWindow, qtbot) -> None:
    card = opened(saved, qtbot)
    qtbot.keyClick(card, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: not saved.jobs.busy, timeout=10_000)
    assert saved.card is None


def test_a_broken_scan_beside_the_result_does_not_end_the_look(saved: MainWindow, qtbot, patient: Path) -> None:
    phantoms.write_volume(patient / "patient_t2.nii.gz", phantoms.head(phantoms.grid("LPS")))
    card = opened(saved, qtbot)
    done(card, qtbot)
    assert "patient_t2.nii.gz is not the T2 that was segmented: its content is another." in lines(card)
    qtbot.mouseClick(card.again_button, LEFT)
    done(card, qtbot)
    assert "It cannot be segmented again: not every scan is there as it was." in lines(card)
