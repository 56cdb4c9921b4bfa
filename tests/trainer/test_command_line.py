"""On the command line: a training of the window's carried out, and models handed on as one file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from app import cli
from engine import registry
from engine.model_card import ModelCard
from engine.volume import Sequence
from tests.trainer.test_own_training import small_study
from trainer.patients import Patients
from trainer.study import Cell
from trainer.training import State, Training


@pytest.fixture
def mine() -> ModelCard:
    """A model of the user's: the shipped one for T1 under another name."""
    folder = registry.folders()[-1] / "mine"
    shutil.copytree(registry.SHIPPED / "student-t1", folder)
    return replace(ModelCard.read(folder), name="mine").write(folder)


def test_a_model_is_handed_on_and_taken_in(mine: ModelCard, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "given.gliamodel"
    assert cli.main(["models", "--export", "mine", "--out", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    assert cli.main(["models", "--import", str(file)]) == 2
    said = capsys.readouterr().err
    assert said == ("There is a model called mine already. Take it in with --replace to replace that one.\n")
    assert cli.main(["models", "--import", str(file), "--replace"]) == 0
    shutil.rmtree(mine.folder)
    assert cli.main(["models", "--import", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"mine, the T1 student: {mine.folder}"
    assert registry.find("mine").files == mine.files
    file.write_bytes(file.read_bytes()[:5000])
    assert cli.main(["models", "--import", str(file)]) == 2
    assert "given.gliamodel is not a model that can be used" in capsys.readouterr().err
    assert cli.main(["models", "--export", "nobody"]) == 2
    assert 'There is no model called "nobody"' in capsys.readouterr().err


@pytest.mark.timeout(400)  # a training and a scoring, each a process that imports torch
def test_the_folder_of_a_training_is_carried_out(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = replace(small_study(), cells=(Cell("baseline", ((Sequence.T1,),), (0,), (0,)),), comparisons=())
    made = Training.create(tmp_path / "own", study, Patients.read(cohort))
    assert cli.main(["train", str(made.folder), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"run": "", "event": "Finished"}.items() <= lines[-1].items()
    assert [line["event"] for line in lines if line["run"]].count("Started") == 1
    assert made.standing().state is State.DONE
    # There is nothing left to do.
    assert cli.main(["train", str(made.folder)]) == 0
    assert capsys.readouterr().out == f"Results: {made.folder / 'report' / 'README.md'}\n"


def test_a_folder_that_is_no_training_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.main(["train", str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err == (
        "empty is not the folder of a training (it has no study.json). Choose another.\n"
    )
