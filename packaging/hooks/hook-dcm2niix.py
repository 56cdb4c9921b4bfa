"""The converter of DICOM is a program of its own inside its package."""

from pathlib import Path

from PyInstaller.utils.hooks import get_module_file_attribute

_package = Path(get_module_file_attribute("dcm2niix")).parent
binaries = [(str(file), "dcm2niix") for file in _package.glob("dcm2niix*") if file.suffix in ("", ".exe")]
