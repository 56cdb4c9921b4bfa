"""Gliascope in the desktop's menu, and as the program that opens scans and cases: for one user, on Linux.

Three kinds of file in the user's own data folder, as the XDG specifications have them: an entry of the menu, what the
types of file are, and the icons. Windows has its installer for this and macOS its application bundle.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engine.errors import UserError
from engine.files import unwritten, whole_file

NAME = "gliascope"
ICON_SIZES = (16, 24, 32, 48, 64, 128, 256, 512)
SECONDS_TO_REFRESH = 30.0

ENTRY = """\
[Desktop Entry]
Type=Application
Version=1.0
Name=Gliascope
GenericName=Brain tumour outlines
Comment=Outlines a brain tumour on whatever MRI sequences a patient has. Research use only.
Exec={command} %F
Icon=gliascope
Terminal=false
StartupNotify=true
StartupWMClass=Gliascope
Categories=Science;MedicalSoftware;Education;
Keywords=MRI;NIfTI;DICOM;brain;tumour;segmentation;
MimeType=application/x-gliascope;application/x-nifti;application/x-nifti-compressed;
"""

# A longer pattern wins over a shorter one: scan.nii.gz is a scan rather than any compressed file.
TYPES = """\
<?xml version="1.0" encoding="UTF-8"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="application/x-gliascope">
    <comment>Gliascope case</comment>
    <sub-class-of type="application/json"/>
    <generic-icon name="image-x-generic"/>
    <glob pattern="*.gliascope" weight="60"/>
  </mime-type>
  <mime-type type="application/x-nifti">
    <comment>NIfTI image</comment>
    <generic-icon name="image-x-generic"/>
    <glob pattern="*.nii" weight="60"/>
  </mime-type>
  <mime-type type="application/x-nifti-compressed">
    <comment>Compressed NIfTI image</comment>
    <sub-class-of type="application/gzip"/>
    <generic-icon name="image-x-generic"/>
    <glob pattern="*.nii.gz" weight="60"/>
  </mime-type>
</mime-info>
"""


def data_home() -> Path:
    """Where the desktop looks for what belongs to this user."""
    named = os.environ.get("XDG_DATA_HOME", "")
    # The specification has relative paths ignored.
    return Path(named) if os.path.isabs(named) else Path.home() / ".local" / "share"


def entry() -> Path:
    """The entry of the menu, there or not."""
    return data_home() / "applications" / f"{NAME}.desktop"


def install() -> Path:
    """Write entry, types and icons; what was there before is replaced.

    Returns:
        The entry.

    Raises:
        UserError: This is no Linux, or the data folder cannot be written.
    """
    _require_linux()
    from app.application import draw_mark, make_application

    if not os.environ.get("QT_QPA_PLATFORM"):
        os.environ["QT_QPA_PLATFORM"] = "offscreen"  # icons are drawn, not shown
    make_application()
    for size, file in _icons():
        with whole_file(file) as partial:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not draw_mark(size).save(str(partial), "PNG"):
                raise OSError(0, "it could not be drawn", str(file))
    texts = {_types(): TYPES, entry(): ENTRY.format(command=" ".join(map(_quoted, _command())))}
    for file, text in texts.items():
        with whole_file(file) as partial:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
    _refresh()
    return entry()


def remove() -> bool:
    """Take away all that `install` wrote, and nothing else.

    Returns:
        Whether there was any of it.

    Raises:
        UserError: This is no Linux, or a file cannot be removed.
    """
    _require_linux()
    there = False
    for file in (entry(), _types(), *(file for _, file in _icons())):
        try:
            file.unlink()
            there = True
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unwritten(file, error) from error
    if there:
        _refresh()
    return there


def _require_linux() -> None:
    if not sys.platform.startswith("linux"):
        where = "by dragging Gliascope into Applications" if sys.platform == "darwin" else "by its installer"
        raise UserError("This is for Linux desktops", "", f"Here Gliascope gets its icon and its files {where}.")


def _command() -> list[str]:
    """What starts this very Gliascope."""
    if getattr(sys, "frozen", False):
        return [os.path.realpath(sys.executable)]
    # A checkout brings its environment up to date by itself, when it is started this way.
    starter = Path(__file__).resolve().parent.parent / "start.py"
    return ["python3", str(starter), "open"] if starter.exists() else [sys.executable, "-m", "app"]


def _quoted(word: str) -> str:
    """A word of a command as an entry has it, where a percent sign begins what the desktop fills in."""
    for special in '\\"`$':
        word = word.replace(special, "\\" + special)
    # Read twice, as a string of the file and as a command.
    return '"' + word.replace("\\", "\\\\").replace("%", "%%") + '"'


def _types() -> Path:
    return data_home() / "mime" / "packages" / f"{NAME}.xml"


def _icons() -> list[tuple[int, Path]]:
    theme = data_home() / "icons" / "hicolor"
    return [(size, theme / f"{size}x{size}" / "apps" / f"{NAME}.png") for size in ICON_SIZES]


def _refresh() -> None:
    """Let the desktop read anew what it keeps a summary of; one that keeps none has no program for it."""
    home = data_home()
    commands: Sequence[list[str]] = (
        ["update-mime-database", str(home / "mime")],
        ["update-desktop-database", str(home / "applications")],
        ["gtk-update-icon-cache", "--ignore-theme-index", "--quiet", str(home / "icons" / "hicolor")],
    )
    for command in commands:
        if shutil.which(command[0]):
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(command, capture_output=True, timeout=SECONDS_TO_REFRESH, check=False)
