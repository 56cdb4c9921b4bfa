"""What the documents show in Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine import contents, nifti, provenance, registry, unusual
from engine.model_card import Role
from engine.volume import Sequence
from tests.app import threshold_model
from tests.engine import phantoms

ROOT = Path(__file__).resolve().parent.parent
LONGEST_EXAMPLE = 10


def examples(name: str) -> list[str]:
    """The Python blocks of a document, in order."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``scans/patient_7`` and ``scans/patient_8``, and models that find the phantom's tumour."""
    threshold_model.install(tmp_path / "models", "student-t2", (Sequence.T2,), dice=0.7)
    threshold_model.install(tmp_path / "models", "teacher", (Sequence.T2, Sequence.FLAIR), Role.TEACHER, dice=0.8)
    monkeypatch.setattr(registry, "folders", lambda: [tmp_path / "models"])
    # The phantom is no head, and anybody would be right to say so.
    monkeypatch.setattr(unusual, "look", lambda *_: ())
    monkeypatch.setattr(contents, "place", lambda files, *_: contents.Placed(files, {}, ()))
    monkeypatch.chdir(tmp_path)
    for name in ("patient_7", "patient_8"):
        phantoms.write_subject(tmp_path / "scans" / name)
    return tmp_path / "scans"


def test_the_python_examples_run_one_after_the_other(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, cohort, verify = examples("docs/python.md")
    exec(compile(first, "docs/python.md", "exec"), {})
    told = capsys.readouterr().out
    assert "using the teacher" in told
    assert "whole_tumour 0.3 ml" in told
    mask = nifti.read_label_map(Path("results/patient_7_seg.nii.gz"), nifti.Convention.GLIASCOPE)
    assert mask.whole_tumour.any()
    exec(compile(cohort, "docs/python.md", "exec"), {})
    assert "patient_8_table.csv" in capsys.readouterr().out
    exec(compile(verify, "docs/python.md", "exec"), {})
    assert capsys.readouterr().out.startswith("True Everything that was recorded is unchanged.")
    assert provenance.verify(Path("results/patient_8_seg.nii.gz"), Path("scans")).ok


def test_the_first_example_has_ten_lines() -> None:
    lines = [line for line in examples("docs/python.md")[0].splitlines() if line.strip()]
    assert len(lines) <= LONGEST_EXAMPLE


def test_the_readme_shows_python_that_runs(scans: Path) -> None:
    for example in examples("README.md"):
        exec(compile(example, "README.md", "exec"), {})
