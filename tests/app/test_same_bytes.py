"""Window, command line, Python, batch and Dask give the same mask of the demo patient, byte for byte.

With the models that are shipped, on three of its sequences, through the programs that people start.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog

from app import DEMO
from app.application import make_window
from app.session import Stage
from app.settings import Settings
from tests.app.conftest import drop

ROOT = Path(__file__).resolve().parents[2]
MASK = "anna_seg.nii.gz"
IN_PYTHON = "import sys; from engine import segment; segment(sys.argv[1]).save(sys.argv[2])"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A cohort of one patient, whose T1ce was not made."""
    folder = tmp_path / "cohort" / "anna"
    folder.mkdir(parents=True)
    for sequence in ("t1", "t2", "flair"):
        shutil.copy(DEMO / f"demo_{sequence}.nii.gz", folder / f"anna_{sequence}.nii.gz")
    return folder


def python(*words: str | Path) -> None:
    """Start Python as a user does."""
    ran = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.timeout(300)  # five programs, each of which imports and compiles what it needs
def test_every_way_to_a_mask_gives_the_same_bytes(
    qapp, screen, qtbot, settings: Settings, scans: Path, tmp_path: Path, monkeypatch
) -> None:
    window = make_window(settings)
    qtbot.addWidget(window)
    window.show()
    drop(window, [scans])
    qtbot.waitUntil(lambda: window.session.stage is Stage.READY, timeout=60_000)
    qtbot.mouseClick(window.segment.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=60_000)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, **__: str(tmp_path / "window"))
    (tmp_path / "window").mkdir()
    qtbot.mouseClick(window.result.save_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: window.session.saved is not None, timeout=60_000)

    cohort = scans.parent
    python("-m", "app", "segment", scans, "--out", tmp_path / "command")
    python("-c", IN_PYTHON, scans, tmp_path / "python")
    python("-m", "app", "batch", cohort, "--out", tmp_path / "batch")
    python("-m", "tests.engine.on_a_cluster", tmp_path / "dask", cohort)

    ways = {"window": "", "command": "", "python": "", "batch": "patients/anna", "dask": "patients/anna"}
    masks = {way: (tmp_path / way / inside / MASK).read_bytes() for way, inside in ways.items()}
    assert [way for way, mask in masks.items() if mask != masks["command"]] == []
    assert window.session.result is not None
    assert window.session.result.segmentation.volumes_ml["whole_tumour"] > 1
