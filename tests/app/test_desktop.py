"""Gliascope in the menu of a Linux desktop, and as what opens a file."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PySide6.QtGui import QFileOpenEvent, QImage
from PySide6.QtWidgets import QApplication

from app import cli, desktop
from app.application import _Opener

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other system: menus of Linux desktops")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder, with somebody else's entry in it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "applications").mkdir()
    (tmp_path / "applications" / "another.desktop").touch()
    return tmp_path


def read(entry: Path) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(entry, encoding="utf-8")
    return parser["Desktop Entry"]


def test_the_menu_gets_an_entry_with_an_icon_that_opens_scans_and_cases(home, qapp):
    entry = read(desktop.install())
    assert entry["Name"] == "Gliascope"
    for size in desktop.ICON_SIZES:
        icon = QImage(str(home / f"icons/hicolor/{size}x{size}/apps/{entry['Icon']}.png"))
        assert (icon.width(), icon.height()) == (size, size)
    types = ElementTree.parse(home / "mime/packages/gliascope.xml").getroot()
    name = "{http://www.freedesktop.org/standards/shared-mime-info}"
    patterns = {kind.get("type"): kind.find(f"{name}glob").get("pattern") for kind in types}
    assert set(patterns.values()) == {"*.nii", "*.nii.gz", "*.gliascope"}
    assert set(entry["MimeType"].strip(";").split(";")) == set(patterns)


def test_the_entry_starts_the_built_program_wherever_it_lies(home, qapp, monkeypatch, tmp_path):
    program = tmp_path / 'My "tools", 100 % free $HOME' / "gliascope"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(program))
    command = read(desktop.install())["Exec"]
    # As a desktop reads it: the file's own escapes, quotes as a shell has them, then what begins with a percent sign.
    unescaped = command.replace("\\\\", "\\")
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {unescaped}"], capture_output=True, text=True, check=True)
    assert [word.replace("%%", "%") for word in words.stdout.splitlines()] == [str(program), "%F"]


def test_it_is_taken_away_without_a_trace(home, qapp, capsys):
    assert cli.main(["desktop"]) == 0
    assert cli.main(["desktop", "--remove"]) == 0
    # What a desktop's own programs summarise is not ours to delete.
    left = {path.relative_to(home) for path in home.rglob("*") if path.is_file() and "gliascope" in path.name}
    assert left == set()
    assert (home / "applications" / "another.desktop").exists()
    assert cli.main(["desktop", "--remove"]) == 0
    assert "was not in the menu" in capsys.readouterr().out


def test_a_double_click_that_arrives_as_an_event_opens_the_file(qapp, tmp_path):
    opened: list[Path] = []
    opener = _Opener(opened.extend)
    qapp.installEventFilter(opener)
    QApplication.sendEvent(qapp, QFileOpenEvent(str(tmp_path / "scan.nii")))
    qapp.removeEventFilter(opener)
    assert opened == [tmp_path / "scan.nii"]
