"""torch for training on a CPU: without its tests, headers and, where it can do without, the source beside the code."""

import re
from pathlib import Path

from PyInstaller.utils.hooks import (
    PY_DYLIB_PATTERNS,
    collect_dynamic_libs,
    collect_submodules,
    get_module_file_attribute,
)

PACKAGE = Path(get_module_file_attribute("torch")).parent

# Some modules read their own source when they are imported: settings with comments that mean something, and functions
# that TorchScript compiles.
READS_ITSELF = re.compile(r"install_config_module\(|@torch\.jit\.script\b|torch\.jit\.script\(|_overload(_method)?\b")


def _reads_itself(file: Path) -> bool:
    return READS_ITSELF.search(file.read_text(encoding="utf-8")) is not None


def _name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


module_collection_mode = {"torch": "pyz"} | {
    _name(file): "pyz+py" for file in PACKAGE.rglob("*.py") if file.name != "__init__.py" and _reads_itself(file)
}
# Much of it is imported by name alone.
hiddenimports = collect_submodules("torch", filter=lambda name: not name.startswith("torch.testing._internal"))
excludedimports = ["torch.utils.tensorboard"]
# torch looks for its libraries beside the one that was loaded, and takes a link's folder for theirs.
bindepend_symlink_suppression = ["**/torch/lib/*.so*"]
binaries = [
    (source, target)
    for source, target in collect_dynamic_libs("torch", search_patterns=[*PY_DYLIB_PATTERNS, "*.so.*"])
    if not re.search(r"(_test|backend_with_compiler|aoti_custom_ops|_example)\.", Path(source).name)
]
# Looked for at import, although only several processes that share tensors would start it.
binaries += [(str(file), "torch/bin") for file in PACKAGE.glob("bin/torch_shm_manager")]
datas = []
warn_on_missing_hiddenimports = False
