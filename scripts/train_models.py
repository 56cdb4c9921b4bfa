"""Train one fold of the shipped models, in order, each going on from where it was stopped.

    python -m scripts.train_models configs/first_generation.json --data COHORT --runs RUNS --fold 0

Stages: a pre-training on random subsets of the four sequences; from it the teacher that teaches; taught by it, on real
and simulated patients, one student a sequence; on the same patients, the four-sequence teacher that is shipped; and on
real patients alone, the T1 baseline. The simulated patients lie in
RUNS/simulated, made by ``python -m scripts.simulate_cohort``. Runs that do not wait for each other go side by side, one
CPU thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from engine import sequences
from engine.volume import Sequence
from trainer.config import TrainConfig


@dataclass(frozen=True)
class Job:
    """One run and the runs whose weights it needs."""

    config: TrainConfig
    needs: tuple[str, ...] = ()


def jobs(recipe: dict, data: Path, fold: int, names: list[str], simulated: Path) -> list[Job]:
    """The runs of one fold, in an order that respects what they need.

    Args:
        recipe: As in the recipe file.
        data: Cohort folder.
        fold: Which patients are held out; -1 holds out none.
        names: All patients.
        simulated: Folder of the simulated patients.
    """
    held_out = tuple(recipe["folds"][fold]) if fold >= 0 else ()
    prefix = f"fold{fold}" if fold >= 0 else "all"
    common = {
        "data": str(data),
        "train_cases": tuple(name for name in names if name not in held_out),
        "validation_cases": held_out,
        **recipe["common"],
    }
    steps = recipe["steps"]
    every = tuple(Sequence)

    def config(name: str, role: str, sequences: tuple[Sequence, ...], **more: object) -> TrainConfig:
        return TrainConfig.from_json(
            json.dumps({"name": f"{prefix}-{name}", "role": role, "sequences": sequences, **common, **more})
        )

    pretraining = config(
        "pretraining", "pretraining", every, steps=steps["pretraining"], sequence_dropout=recipe["sequence_dropout"]
    )
    teacher = config("teacher", "teacher", every, steps=steps["teacher"], start_from=pretraining.name)
    wanted = [Job(pretraining), Job(teacher, (pretraining.name,))]
    if "baseline" in recipe["roles"]:
        wanted.insert(1, Job(config("baseline-t1", "baseline", (Sequence.T1,), steps=steps["baseline"])))
    for sequence in every:
        student = config(
            f"student-{sequence}",
            "student",
            (sequence,),
            steps=steps["student"][sequence],
            simulated=str(simulated),
            simulated_share=recipe["simulated"]["share"],
            distillation={"teacher": teacher.name, **recipe["distillation"]},
        )
        wanted.append(Job(student, (teacher.name,)))
    shipped = config(
        "teacher-shipped",
        "teacher",
        every,
        steps=steps["teacher-shipped"],
        simulated=str(simulated),
        simulated_share=recipe["simulated"]["share"],
    )
    return [*wanted, Job(shipped)]


def main() -> int:
    """Run what is not finished; returns 0 when everything is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--side-by-side", type=int, default=2)
    arguments = parser.parse_args()
    recipe = json.loads(arguments.recipe.read_text(encoding="utf-8"))
    simulated = arguments.runs.resolve() / "simulated"
    names = sorted(files.name for files in sequences.with_truth([arguments.data]))
    waiting = jobs(recipe, arguments.data.resolve(), arguments.fold, names, simulated)
    finished: set[str] = set()
    running: dict[str, subprocess.Popen[bytes]] = {}
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    while waiting or running:
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                if process.returncode:
                    sys.stderr.write(f"{name} ended with {process.returncode}; see {arguments.runs / name}/run.jsonl\n")
                    return 1
                finished.add(name)
        for job in list(waiting):
            if len(running) < arguments.side_by_side and all(need in finished for need in job.needs):
                waiting.remove(job)
                folder = arguments.runs / job.config.name
                if (folder / "weights.safetensors").exists():
                    finished.add(job.config.name)
                    continue
                folder.mkdir(parents=True, exist_ok=True)
                config = folder.with_suffix(".json")
                config.write_text(job.config.to_json(), encoding="utf-8")
                with (folder / "run.jsonl").open("ab") as log:
                    running[job.config.name] = subprocess.Popen(
                        [sys.executable, "-m", "trainer.run", str(config), str(folder)],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                    )
        time.sleep(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
