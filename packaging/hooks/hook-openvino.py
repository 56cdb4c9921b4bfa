"""OpenVINO for a CPU: what runs a network in its own format, and what makes one of a network of torch's."""

import re
from pathlib import Path

from PyInstaller.utils.hooks import collect_submodules, get_module_file_attribute

PACKAGE = Path(get_module_file_attribute("openvino")).parent

# Graphics cards and neural processors are not used, nor other formats; the cache is one of the graphics plugin's.
LEFT_OUT = re.compile(
    r"intel_gpu|intel_npu|(onnx|tensorflow|tensorflow_lite|paddle|gguf|jax)_frontend|openvino_c\b|tbbmalloc_proxy|^cache\.json$"
)
_libraries = [
    file for file in (PACKAGE / "libs").iterdir() if file.is_file() and re.search(r"\.(so|dll|dylib)", file.name)
]

binaries = [(str(file), "openvino/libs") for file in _libraries if not LEFT_OUT.search(file.name)]
datas = [(str(file), "openvino/libs") for file in (PACKAGE / "libs").glob("*.xml")]
hiddenimports = collect_submodules(
    "openvino",
    filter=lambda name: (
        not re.match(r"openvino\.(torch|tools\.benchmark|frontend\.(jax|onnx|paddle|tensorflow))", name)
    ),
    on_error="ignore",
)
# Reports its own import to its makers; Gliascope has it stand aside in a checkout too.
excludedimports = ["openvino_telemetry"]
