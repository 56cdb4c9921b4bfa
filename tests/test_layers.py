"""What starting costs: each check runs in a fresh interpreter, where nothing is imported yet."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TORCH = {"torch", "monai"}
QT = {"PySide6", "shiboken6", "pyqtgraph", "qtpy", "superqt", "qtawesome"}
HOSPITAL = {"pydicom", "SimpleITK"}
HEAVY = TORCH | QT | {"numpy", "scipy", "openvino", "rich"}


def imported_by(code: str) -> set[str]:
    """Names of the top-level packages a fresh interpreter has loaded after running ``code``."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def modules_of(package: str) -> list[str]:
    return [f"{package}.{path.stem}" for path in sorted((ROOT / package).glob("[a-z]*.py"))]


def culprits(modules: list[str], forbidden: set[str]) -> list[str]:
    """Those of ``modules`` that load a forbidden package, each as ``module -> package``; one interpreter for all."""
    code = f"""
import importlib, sys
for module in {modules!r}:
    before = set(sys.modules)
    importlib.import_module(module)
    for package in {sorted(forbidden)!r}:
        if package in sys.modules and package not in before:
            print(module, "->", package)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_part_of_the_window_or_the_command_line_imports_torch() -> None:
    assert culprits(modules_of("app"), TORCH) == []


def test_no_part_of_the_engine_imports_torch_or_qt() -> None:
    # The one torch module; engine.networks imports it inside a function.
    cpu_path = [name for name in modules_of("engine") if name != "engine.folded_unet"]
    assert culprits(cpu_path, TORCH | QT) == []


def test_the_engine_is_imported_for_nothing_and_segment_brings_neither_torch_nor_qt() -> None:
    assert not imported_by("import engine") & HEAVY
    assert not imported_by("from engine import segment") & (TORCH | QT | HOSPITAL)


def test_what_reads_dicom_and_registers_waits_until_there_is_something_for_it() -> None:
    assert culprits([*modules_of("engine"), *modules_of("app")], HOSPITAL) == []


def test_no_part_of_the_trainer_imports_qt() -> None:
    assert culprits(modules_of("trainer"), QT) == []


def test_looking_over_a_cohort_imports_neither_torch_nor_qt(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from engine.progress import Progress
from tests.engine import phantoms
from trainer import doctor
from trainer.patients import Patients
phantoms.write_subject(Path({str(tmp_path / "anna")!r}), truth=True)
patients = Patients.read(Path({str(tmp_path)!r}))
assert doctor.examine(patients, Progress()).usable == ("anna",)
doctor.thumbnail(patients.named("anna"), Progress())
"""
    assert not imported_by(code) & (TORCH | QT)


def test_segmenting_a_patient_on_the_cpu_imports_neither_torch_nor_qt(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from app import cli
from engine import registry
from engine.volume import Sequence
from tests.app import threshold_model
from tests.engine import phantoms
folder = Path({str(tmp_path)!r})
registry.SHIPPED = folder / "models"
threshold_model.install(registry.SHIPPED, "student-t2", (Sequence.T2,))
phantoms.write_subject(folder / "anna", sequences=(Sequence.T2,))
assert cli.main(["segment", str(folder / "anna"), "--out", str(folder / "out"), "--device", "cpu"]) == 0
assert (folder / "out" / "anna_seg.nii.gz").exists()
"""
    # nibabel, with which the test writes its patient, imports pydicom by itself.
    assert not imported_by(code) & (TORCH | QT | HOSPITAL - {"pydicom"})


def test_asking_the_command_line_for_help_imports_nothing_heavy() -> None:
    # Help itself is laid out with rich; what is before it decides how quickly any command begins.
    assert not imported_by("import app.cli") & HEAVY
    assert not imported_by("from app import cli; cli.main(['--help'])") & (HEAVY - {"rich"})


def test_start_py_needs_the_standard_library_alone() -> None:
    loaded = imported_by("import start") - set(sys.stdlib_module_names) - {"__main__", "start"}
    # What an environment's own start-up files load is not start.py's doing.
    assert not loaded - imported_by("pass")
    assert importlib.util.find_spec("start") is not None
