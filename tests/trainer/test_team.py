"""Two processes learn what one does with the whole batch, stopped and resumed on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from engine.progress import Progress
from engine.volume import Sequence
from trainer import checkpoint, loop, run
from trainer.config import Augmentation, TrainConfig
from trainer.events import Event, Finished, Orders, Started, StepEnd, Stopped, Validated, from_line
from trainer.study import Cell, Places, Study
from trainer.team import Team

ROOT = Path(__file__).resolve().parents[2]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def config(cohort: Path, name: str, **fields: object) -> TrainConfig:
    plain = TrainConfig(
        name=name,
        role="teacher",
        sequences=tuple(Sequence),
        data=str(cohort),
        train_cases=("anna", "boris", "carla"),
        validation_cases=("dora",),
        architecture={"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}},
        window=(32, 32, 32),
        augmentation=Augmentation(rotation_degrees=5, scaling=0.05, shift_mm=2, elastic_mm=1),
        steps=50,
        warm_up=3,
        learning_rate=0.003,
        average=0.8,
        batch=4,
        accumulate=4,
        threads=1,
        device="cpu",
        validate_every=50,
        previews=0,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def alone(wanted: TrainConfig, folder: Path) -> list[Event]:
    events: list[Event] = []
    run.train(wanted, folder, events.append, Progress())
    return events


def shared(wanted: TrainConfig, folder: Path, stop_at: int | None = None) -> list[Event]:
    """Train in two processes; tell the first, through the launcher, to stop after some step."""
    path = folder.parent / f"{folder.name}.json"
    path.write_text(wanted.to_json(), encoding="utf-8")
    words = [*TWO, "-m", "trainer.run", str(path), str(folder)]
    launcher = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    events: list[Event] = []
    for line in launcher.stdout:
        events.append(from_line(line))  # whatever else were printed there would be no event
        if stop_at is not None and isinstance(events[-1], StepEnd) and events[-1].step >= stop_at:
            launcher.stdin.write("stop\n")
            launcher.stdin.flush()
            stop_at = None
    launcher.stdin.close()
    launcher.stdout.close()
    launcher.wait()
    return events


def losses(events: list[Event]) -> dict[int, float]:
    return {event.step: event.loss for event in events if isinstance(event, StepEnd)}


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_the_whole_batch(cohort: Path, tmp_path: Path) -> None:
    whole = alone(config(cohort, "teacher"), tmp_path / "teacher")
    begun = shared(config(cohort, "teacher"), tmp_path / "two", stop_at=25)
    stopped = next(event for event in begun if isinstance(event, Stopped))
    assert 25 <= stopped.step < 50
    gone_on = shared(config(cohort, "teacher"), tmp_path / "two")
    assert isinstance(gone_on[-1], Finished)
    assert next(event for event in gone_on if isinstance(event, Started)).first_step == stopped.step
    curve, expected = losses(begun) | losses(gone_on), losses(whole)
    assert set(curve) == {25, 50}
    # The sums of two processes are rounded otherwise, and what bfloat16 makes of that grows from step to step: by the
    # end to as much as the same examples make in another order.
    assert curve[25] == pytest.approx(expected[25], rel=1e-3)
    assert curve[50] == pytest.approx(expected[50], rel=3e-2)
    dice = [event.dice for event in whole + gone_on if isinstance(event, Validated)]
    assert dice[1] == pytest.approx(dice[0], abs=0.03)
    assert not (tmp_path / "two" / checkpoint.STATE).exists()


@pytest.mark.slow
def test_processes_agree_on_each_step(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*TWO, "tests/trainer/team_member.py", str(tmp_path)], check=True, cwd=ROOT, env=environment)
    lead, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (lead["share"], other["share"]) == ([10, 12, 14], [11, 13])
    for said in (lead, other):
        assert said["size"] == 2
        assert said["terms"] == {"loss": 3.0, "logits": 7.0}
        assert said["gradients"] == [[3.0] * 6, [5.0] * 6, None]
        assert said["decided"] == [True, False]
        assert said["ended"]
        # Who has memory left takes the smaller footing along.
        assert said["memory"][0] == "MemoryError"
    assert other["disk"][0] == "OSError"
    assert lead["disk"][0] == "UserError"
    assert lead["disk"][1].startswith("Another process of this training failed")
    assert "Input/output error" in lead["disk"][1]


def test_a_training_on_a_cluster_has_an_example_a_step_for_each_process(tmp_path: Path) -> None:
    cell = Cell("baseline", ((Sequence.T1,),), (0,), (0,))
    study = Study("test", (("anna",), ("boris",)), {"validate_every": 0}, {"baseline": {"role": "baseline"}}, (cell,))
    places = Places(tmp_path, tmp_path)
    assert [run.config.batch for run in study.plan(places)] == [1]
    assert [run.config.batch for run in study.plan(replace(places, gpus=2, nodes=3))] == [6]
    larger = replace(study, common={"batch": 8})
    assert [run.config.batch for run in larger.plan(replace(places, gpus=2, nodes=3))] == [8]


def test_a_batch_too_small_to_share_is_refused(cohort: Path, tmp_path: Path) -> None:
    crowd = Team(torch.device("cpu"), size=2)
    with pytest.raises(UserError, match="A batch of 1 cannot be shared by 2 processes"):
        loop.fit(
            config(cohort, "teacher", batch=1, accumulate=1),
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,
            tmp_path,
            crowd,
            print,
            Orders(print),
        )
