"""``gliascope batch``: what it says, and that a second call goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import platformdirs
import pytest

from app import cli
from engine.volume import Sequence
from tests.app import threshold_model
from tests.engine import phantoms

T1, T1CE, T2, FLAIR = Sequence


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A patient with a truth and one whom no model knows, and a model for T2."""
    models = platformdirs.user_data_path("Gliascope", appauthor=False) / "models"
    threshold_model.install(models, "of-the-test", (T2,))
    phantoms.write_subject(tmp_path / "cohort" / "anna", sequences=(T2,), truth=True)
    phantoms.write_subject(tmp_path / "cohort" / "boris", sequences=(T1,))
    return tmp_path / "cohort"


def test_it_tells_of_everybody_and_goes_on(
    cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    out = tmp_path / "out"

    def run(*words: str) -> tuple[int, str, list[str]]:
        code = cli.main(["batch", *words, "--out", str(out), "--device", "cpu", "--jobs", "1"])
        said = capfd.readouterr()
        return code, said.out, said.err.splitlines()

    code, _, sentences = run()
    assert code == 2
    assert sentences == ["There is no batch in out to go on with. Name a folder of patients."]

    code, table, sentences = run(str(cohort), "--model", "of-the-test")
    assert code == 2
    assert [line.split()[:2] for line in table.splitlines() if line.strip().startswith(("anna", "boris"))] == [
        ["anna", "done"],
        ["boris", "failed"],
    ]
    assert table.splitlines()[-1] == f"Table: {out / 'summary.csv'}"
    assert sentences[0].startswith("1 of 2  anna: whole tumour 0.3 ml, core 0.1 ml, Dice ")
    assert sentences[1].startswith("2 of 2  boris: The of the test needs T2, which is not here.")
    assert sentences[-1].startswith("Mean of 1 patient that the model had not learnt from: whole tumour Dice 1.000")

    # Gone on with: anna is not done again, and boris only when asked for.
    made = (out / "patients" / "anna" / "anna_seg.json").read_bytes()
    (cohort / "boris" / "boris_t1.nii.gz").rename(cohort / "boris" / "boris_t1_.nii.gz")
    code, _, sentences = run("--model", "of-the-test")
    assert code == 2
    assert not any(sentence.startswith("2 of 2") for sentence in sentences)
    code, answer, _ = run("--retry", "--json", "--model", "of-the-test")
    told = json.loads(answer)
    assert code == 2
    assert (out / "patients" / "anna" / "anna_seg.json").read_bytes() == made
    assert [row["state"] for row in told["rows"]] == ["done", "failed"]
    assert "boris_t1.nii.gz" in told["failed"][0]["error"], "another turn, another reason"

    assert cli.main(["batch", "--out", str(out)]) == 2
    assert "other settings" not in capfd.readouterr().err
    code, _, sentences = run(str(cohort), "--model", "of-the-test", "--table")
    assert code == 2
    assert sentences == [
        "The batch in out was begun with other settings (other wanted). Give the same as then, or another folder with "
        "--out."
    ]
    (tmp_path / "others").mkdir()
    code, _, sentences = run(str(tmp_path / "others"), "--model", "of-the-test")
    assert code == 2
    assert sentences[0].startswith("The batch in out is not of the patients in others.")
