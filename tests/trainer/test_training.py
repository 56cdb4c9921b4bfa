"""From a folder of patients to finished weights, stopped and resumed on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors import SafetensorError

from engine import networks, nifti, registry, sequences
from engine.errors import Cancelled, CannotWrite, UserError
from engine.files import locked
from engine.inference import segment
from engine.metrics import dice
from engine.model_card import WEIGHTS
from engine.progress import Progress
from engine.volume import LabelMap, Sequence, Subject, Volume
from tests.engine import phantoms
from trainer import checkpoint, dataset, loop, run
from trainer.checkpoint import Footing
from trainer.config import Augmentation, Distillation, TrainConfig
from trainer.distillation import SegmentationTask, outline
from trainer.events import (
    Acknowledged,
    Command,
    Event,
    FellBack,
    Finished,
    Orders,
    Paused,
    Previewed,
    Resumed,
    Saved,
    Started,
    StepEnd,
    Stopped,
    Validated,
    from_line,
)
from trainer.simulate import SimulatedPatient
from trainer.team import Team

CASES = ("anna", "boris", "carla", "dora")
TINY = {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}}


@pytest.fixture(scope="module", autouse=True)
def _small_heads() -> Iterator[None]:
    """Phantoms are no larger than this, and an eightieth of the voxels is prepared in an eightieth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "MARGIN_WINDOW_MM", (48, 48, 48))
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantom patients, each laid out differently, with truth in BraTS labels."""
    folder = tmp_path_factory.mktemp("cohort")
    for number, (name, orientation) in enumerate(zip(CASES, ("RAS", "LPS", "PIL", "SRA"), strict=True)):
        grid = phantoms.grid(orientation)
        (folder / name).mkdir()
        for sequence in Sequence:
            volume = phantoms.head(grid, sequence)
            noisy = volume.data + (volume.data != 0) * np.random.default_rng(number).normal(0, 3, grid.shape)
            nifti.write_volume(
                Volume(noisy.astype(np.float32), grid, sequence), folder / name / f"{name}_{sequence}.nii.gz"
            )
        truth = phantoms.tumour(grid).data
        brats = np.where(truth == 1, 4, truth).astype(np.uint8)
        nifti.write_label_map(LabelMap(brats, grid), folder / name / f"{name}_seg.nii.gz")
    return folder


def config(cohort: Path, name: str = "teacher", **fields: object) -> TrainConfig:
    plain = TrainConfig(
        name=name,
        role="teacher",
        sequences=tuple(Sequence),
        data=str(cohort),
        train_cases=CASES[:3],
        validation_cases=CASES[3:],
        architecture=TINY,
        spacing_mm=1.0,
        window=(32, 32, 32),
        augmentation=Augmentation(rotation_degrees=5, scaling=0.05, shift_mm=2, elastic_mm=1),
        steps=30,
        warm_up=3,
        learning_rate=0.01,
        average=0.8,
        threads=1,
        device="cpu",
        validate_every=15,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def train(wanted: TrainConfig, folder: Path, stop_after: int | None = None) -> list[Event]:
    events: list[Event] = []
    progress = Progress()

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepEnd) and stop_after is not None and event.step >= stop_after:
            progress.cancel()

    run.train(wanted, folder, emit, progress)
    return events


def train_until(wanted: TrainConfig, folder: Path, command: Command, moment: Callable[[Event], bool]) -> list[Event]:
    """Train, and give a command when an event is as wanted; a stopped training ends with `Stopped`."""
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if moment(event):
            orders.give(command)

    orders = Orders(emit)
    try:
        run.train(wanted, folder, emit, orders)
    except Cancelled:
        assert isinstance(events[-1], Stopped)
    return events


def curve(events: list[Event]) -> dict[tuple[str, int], dict[str, float]]:
    """What a plot of a training shows: the later of what was told twice."""
    shown: dict[tuple[str, int], dict[str, float]] = {}
    for event in events:
        if isinstance(event, StepEnd):
            shown["loss", event.step] = {"loss": event.loss, **event.terms}
        elif isinstance(event, Validated):
            shown["dice", event.step] = event.dice
    return shown


def same_curve(one: list[Event], other: list[Event]) -> bool:
    first, second = curve(one), curve(other)
    return first.keys() == second.keys() and all(first[at] == pytest.approx(second[at], abs=2e-3) for at in first)


def same_weights(one: Path, other: Path, tolerance: float = 1e-5) -> bool:
    first, second = (checkpoint.load_network(folder)[0].state_dict() for folder in (one, other))
    return all(torch.allclose(first[name], second[name], atol=tolerance, rtol=1e-4) for name in first)


def test_a_teacher_learns_and_a_student_learns_from_it(cohort: Path, tmp_path: Path) -> None:
    events = train(config(cohort), tmp_path / "teacher")
    losses = [event.loss for event in events if isinstance(event, StepEnd)]
    scores = [event for event in events if isinstance(event, Validated)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert losses[-1] < 0.8 * losses[0]
    assert [score.step for score in scores] == [15, 30]
    assert scores[-1].cases == 1
    assert [event.step for event in events if isinstance(event, Previewed)] == [15, 30]
    last = next(event for event in reversed(events) if isinstance(event, StepEnd))
    assert last.examples_a_second == pytest.approx(1 / last.seconds_a_step)
    assert 50 < last.memory_mb < 20_000
    assert (last.device_memory_mb, last.seconds_left) == (None, 0)

    student = config(
        cohort,
        "student",
        role="student",
        sequences=(Sequence.FLAIR,),
        start_from="teacher",
        distillation=Distillation("teacher", 5.0, 0.1),
        steps=10,
    )
    events = train(student, tmp_path / "student")
    terms = next(event.terms for event in events if isinstance(event, StepEnd))
    assert set(terms) == {"hard", "logits"}
    network, stored = checkpoint.load_network(tmp_path / "student")
    assert stored == student
    assert network.stem.weight.shape[1] == 8
    assert not (tmp_path / "student" / checkpoint.STATE).exists()


def test_one_example_a_step_is_plain_training_to_the_last_bit(cohort: Path, tmp_path: Path) -> None:
    # Written down once more, without anything that the loop adds: no pieces, scores, previews or checkpoints.
    wanted = config(cohort, steps=12, validate_every=5, checkpoint_seconds=0.0)
    train(wanted, tmp_path / "run")
    torch.manual_seed(wanted.seed)
    network = networks.build(*wanted.network())
    task = SegmentationTask(network)
    store = dataset.CaseStore(cohort, wanted.spacing_mm, tmp_path / "prepared")
    examples = dataset.Examples(wanted, store, torch.device("cpu"), Progress())
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=wanted.weight_decay, fused=True)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(wanted.steps):
        optimiser.param_groups[0]["lr"] = loop.learning_rate(wanted, step)
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = task(examples[step])["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), loop.GRADIENT_LIMIT)
        optimiser.step()
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - min(wanted.average, (1 + step) / (10 + step)))
    for name, value in checkpoint.load_network(tmp_path / "run")[0].state_dict().items():
        assert torch.equal(value, average[name]), name


class Seen:
    """Examples and a task of one weight, which say what they were asked for."""

    window = (16, 16, 16)

    def __init__(self, unlike: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.network = torch.nn.Linear(1, 1)
        self.unlike = unlike
        self.batches: list[tuple[list[float], bool]] = []

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        example = {"images": torch.full((1, 1), float(number))}
        return example | ({} if number in self.unlike else {"teacher_images": torch.zeros(1, 1)})

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images = batch["images"]
        self.batches.append((images[:, 0].tolist(), "teacher_images" in batch))
        return {"loss": images.mean() * self.network.weight.sum()}

    def train(self, mode: bool = True) -> object:
        return self.network.train(mode)

    def parameters(self) -> object:
        return self.network.parameters()


def test_examples_that_carry_different_things_share_no_piece_but_one_step(cohort: Path) -> None:
    seen = Seen(unlike={5})
    learner = loop.Learner(config(cohort, batch=4), seen, seen, Team(torch.device("cpu")))  # type: ignore[arg-type]
    weight = float(learner.average["weight"].clone())
    means = learner.step(1, Footing(4, 1, (16, 16, 16)))
    assert seen.batches == [([4.0, 6.0, 7.0], True), ([5.0], False)]
    assert float(means["loss"]) == pytest.approx(5.5 * weight, rel=1e-2)


def test_a_batch_in_pieces_is_the_same_step(cohort: Path, tmp_path: Path) -> None:
    weights = []
    for accumulate in (1, 2, 3, 4):
        torch.manual_seed(0)
        seen = Seen()
        learner = loop.Learner(config(cohort, batch=4), seen, seen, Team(torch.device("cpu")))  # type: ignore[arg-type]
        for step in range(3):
            learner.step(step, Footing(4, accumulate, (16, 16, 16)))
        assert len(seen.batches) == 3 * {1: 1, 2: 2, 3: 2, 4: 4}[accumulate]
        weights.append(float(learner.average["weight"]))
    assert weights == pytest.approx([weights[0]] * 4, rel=1e-3)
    # And with a real network.
    wanted = config(cohort, steps=6, batch=3, validate_every=0)
    whole, pieces = (
        next(event for event in train(one, tmp_path / str(one.accumulate)) if isinstance(event, StepEnd))
        for one in (wanted, replace(wanted, accumulate=3))
    )
    assert whole.loss == pytest.approx(pieces.loss, rel=0.01)
    assert whole.examples_a_second == pytest.approx(3 / whole.seconds_a_step)


def test_a_run_that_was_stopped_ends_with_the_same_weights_and_curve(cohort: Path, tmp_path: Path) -> None:
    # The layout in memory of the network's convolutions is part of what has to be restored; with dropout chance is too.
    dropout = {"name": "folded_unet", "args": {**TINY["args"], "dropout": 0.2}}  # type: ignore[dict-item]
    wanted = config(cohort, steps=28, validate_every=25, architecture=dropout, checkpoint_seconds=0.0)
    whole = train(wanted, tmp_path / "whole")
    # At step 7 the mean that is told at step 25 is half made; at 25 it is told, but the score is not made yet.
    parts = train_until(wanted, tmp_path / "parts", Command.STOP, lambda e: isinstance(e, Saved) and e.step == 7)
    assert (tmp_path / "parts" / checkpoint.STATE).exists()
    second = train_until(wanted, tmp_path / "parts", Command.STOP, lambda e: isinstance(e, StepEnd) and e.step == 25)
    third = train(wanted, tmp_path / "parts")
    assert isinstance(second[0], Started)
    assert isinstance(third[0], Started)
    assert (second[0].first_step, third[0].first_step) == (7, 25)
    assert same_curve(whole, parts + second + third)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    kept = checkpoint.load_best(tmp_path / "parts")[1]
    assert kept == checkpoint.load_best(tmp_path / "whole")[1]
    assert not (tmp_path / "parts" / checkpoint.STATE).exists()
    assert not (tmp_path / "parts" / checkpoint.PREVIOUS).exists()


def test_told_to_keep_the_best_a_run_ends_with_the_best_weights_so_far(cohort: Path, tmp_path: Path) -> None:
    # A rate that ruins what was learnt as soon as the warm-up is over, so that the best is not the last.
    wanted = config(cohort, steps=500, warm_up=60, learning_rate=0.5, validate_every=5, weight_decay=0.0)
    events = train_until(
        wanted, tmp_path / "run", Command.KEEP, lambda event: isinstance(event, Validated) and event.step == 40
    )
    scores = {event.step: event for event in events if isinstance(event, Validated)}
    means = {step: sum(score.dice.values()) / 2 for step, score in scores.items()}
    best = max(means, key=means.__getitem__)
    assert best == max(step for step, score in scores.items() if score.best)
    assert best < 40
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.step, end.kept, end.kept_step) == (40, "best", best)
    # They are the very weights that were scored then.
    weights = checkpoint.load_network(tmp_path / "run")[0].state_dict()
    shorter = train_until(
        wanted, tmp_path / "again", Command.STOP, lambda event: isinstance(event, Validated) and event.step == best
    )
    assert isinstance(shorter[-1], Stopped)
    for name, value in checkpoint.load_best(tmp_path / "again")[0].items():
        assert torch.equal(value, weights[name])
    assert not (tmp_path / "run" / checkpoint.STATE).exists()
    assert train(wanted, tmp_path / "run") == []
    card = checkpoint.export(tmp_path / "run", tmp_path / "model", "mine", "1.0", "phantoms", "free", ())
    assert card.training["kept"]["which"] == "best"
    assert (card.training["kept"]["step"], card.training["kept"]["steps"]) == (best, 500)
    assert card.training["kept"]["dice"] == pytest.approx(scores[best].dice)


def test_what_is_kept_before_the_first_score_is_scored_and_nothing_is_not_kept(cohort: Path, tmp_path: Path) -> None:
    wanted = config(cohort, steps=100, validate_every=50)
    events = train_until(
        wanted, tmp_path / "run", Command.KEEP, lambda event: isinstance(event, StepEnd) and event.step == 25
    )
    assert [event.step for event in events if isinstance(event, Validated)] == [25]
    assert events[-1] == Finished(25, str(tmp_path / "run" / WEIGHTS), "best", 25)

    unscored = replace(wanted, validate_every=0)
    events = train_until(
        unscored, tmp_path / "unscored", Command.KEEP, lambda event: isinstance(event, StepEnd) and event.step == 25
    )
    assert events[-1] == Finished(25, str(tmp_path / "unscored" / WEIGHTS), "last", 25)

    events = train_until(wanted, tmp_path / "early", Command.KEEP, lambda event: isinstance(event, Started))
    assert FellBack("Nothing was learnt yet, so there is nothing to keep.") in events
    assert isinstance(events[-1], Stopped)
    assert not (tmp_path / "early" / WEIGHTS).exists()


def test_memory_gives_way_in_pieces_first_and_then_in_voxels() -> None:
    steps = [Footing(6, 1, (80, 96, 80))]
    while (smaller := steps[-1].smaller()) is not None:
        steps.append(smaller)
    assert [(footing.batch, footing.accumulate) for footing in steps[:4]] == [(6, 1), (6, 2), (6, 4), (6, 6)]
    assert [footing.window for footing in steps[3:6]] == [(80, 96, 80), (80, 80, 80), (64, 80, 80)]
    assert steps[-1].window == (48, 48, 48)
    assert len(steps) == 4 + 2 + 2 + 3


def limited(monkeypatch: pytest.MonkeyPatch, voxels: int, error: Exception) -> None:
    """A machine that cannot hold more than so many voxels of a piece."""
    plain = SegmentationTask.forward

    def forward(self: SegmentationTask, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if batch["truth"][:, 0].numel() > voxels:
            torch.rand(3)  # what was drawn for the step is drawn again when it is repeated
            raise error
        return plain(self, batch)

    monkeypatch.setattr(SegmentationTask, "forward", forward)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "error",
    [OUT_OF_MEMORY, MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")],
)
def test_a_batch_that_does_not_fit_is_taken_in_pieces_and_nothing_is_lost(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    dropout = {"name": "folded_unet", "args": {**TINY["args"], "dropout": 0.2}}  # type: ignore[dict-item]
    wanted = config(cohort, steps=5, batch=4, validate_every=0, architecture=dropout, checkpoint_seconds=0.0)
    limited(monkeypatch, 32**3, error)
    events = train_until(wanted, tmp_path / "run", Command.STOP, lambda e: isinstance(e, Saved) and e.step == 3)
    told = [event.what for event in events if isinstance(event, FellBack)]
    assert told == [
        "Memory ran out at step 1: each batch is now taken in 2 pieces; what is learnt stays the same.",
        "Memory ran out at step 1: each batch is now taken in 4 pieces; what is learnt stays the same.",
    ]
    # It is not tried again when the run goes on.
    assert not [event for event in train(wanted, tmp_path / "run") if isinstance(event, FellBack)]
    train(replace(wanted, accumulate=4), tmp_path / "planned")
    assert same_weights(tmp_path / "run", tmp_path / "planned")


def test_an_example_that_does_not_fit_becomes_smaller_and_the_card_says_so(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(cohort, steps=4, window=(64, 48, 48), validate_every=0)
    limited(monkeypatch, 48**3, OUT_OF_MEMORY)
    events = train(wanted, tmp_path / "run")
    assert [event.what for event in events if isinstance(event, FellBack)] == [
        "Memory ran out at step 1: examples are now 48 x 48 x 48 voxels large; the model may become a little worse."
    ]
    card = checkpoint.export(tmp_path / "run", tmp_path / "model", "mine", "1.0", "phantoms", "free", ())
    assert list(card.training["kept"]["window"]) == [48, 48, 48]
    limited(monkeypatch, 100, OUT_OF_MEMORY)
    with pytest.raises(UserError, match="too little memory for this training"):
        train(replace(wanted, seed=1), tmp_path / "none")


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(config(cohort), tmp_path / "run")
    limited(monkeypatch, 0, torch.AcceleratorError("CUDA error: unspecified launch failure"))
    with pytest.raises(UserError, match="graphics card stopped answering"):
        train(config(cohort), tmp_path / "run")


def test_a_finished_run_becomes_a_model_that_segments(cohort: Path, tmp_path: Path) -> None:
    train(config(cohort, steps=60, validate_every=0), tmp_path / "teacher")
    card = checkpoint.export(
        tmp_path / "teacher", tmp_path / "models" / "mine", "mine", "1.0", "phantoms", "free", ("nobody, 2026",)
    )
    assert card.title == "four-sequence teacher"
    assert card.training["train_cases"] == list(CASES[:3])
    assert str(cohort) not in (tmp_path / "models" / "mine" / "model.json").read_text()
    registry.verify(card)
    unseen = sequences.load(sequences.with_truth([cohort / "dora"])[0])
    found = segment(unseen, replace(card, minimum_ml=dict.fromkeys(card.minimum_ml, 0.0)), device="cpu")
    truth = phantoms.tumour(unseen.grid)
    assert dice(found.label_map.whole_tumour, truth.whole_tumour) > 0.6
    again = checkpoint.export(
        tmp_path / "teacher", tmp_path / "models" / "mine", "mine", "1.0", "phantoms", "free", ("nobody, 2026",)
    )
    assert again.files["weights.safetensors"] == card.files["weights.safetensors"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]


def test_starting_from_more_sequences_keeps_what_the_network_computed(cohort: Path, tmp_path: Path) -> None:
    train(config(cohort, steps=5, validate_every=0), tmp_path / "teacher")
    source, _ = checkpoint.load_network(tmp_path / "teacher")
    pair = config(cohort, sequences=(Sequence.FLAIR, Sequence.T1))
    started = networks.build(*pair.network()).eval()
    checkpoint.start_from(started, pair, tmp_path / "teacher")
    images = torch.randn(1, 2, 32, 32, 32)
    four = torch.zeros(1, 4, 32, 32, 32)
    four[:, 3], four[:, 0] = images[:, 0], images[:, 1]
    with torch.no_grad():
        torch.testing.assert_close(started(images), source(four), atol=1e-4, rtol=1e-4)


def test_a_run_may_start_from_a_model_folder(cohort: Path, tmp_path: Path) -> None:
    train(config(cohort, steps=5, validate_every=0), tmp_path / "teacher")
    checkpoint.export(tmp_path / "teacher", tmp_path / "models" / "mine", "mine", "1.0", "phantoms", "free", ())
    wanted = config(
        cohort, "t1", role="baseline", sequences=(Sequence.T1,), start_from=str(tmp_path / "models" / "mine"), steps=4
    )
    of_run, of_model = (networks.build(*wanted.network()).eval() for _ in range(2))
    checkpoint.start_from(of_run, wanted, tmp_path / "teacher")
    checkpoint.start_from(of_model, wanted, tmp_path / "models" / "mine")
    for name, value in of_run.state_dict().items():
        torch.testing.assert_close(of_model.state_dict()[name], value, atol=1e-3, rtol=1e-3)  # half precision
    assert isinstance(train(wanted, tmp_path / "runs" / "t1")[-1], Finished)
    # Where the model lay is nobody's business.
    card = checkpoint.export(tmp_path / "runs" / "t1", tmp_path / "models" / "t1", "t1", "1.0", "phantoms", "free", ())
    assert card.training["start_from"] == "mine"
    assert str(tmp_path) not in (tmp_path / "models" / "t1" / "model.json").read_text()

    other = replace(wanted, architecture={"name": "folded_unet", "args": {**TINY["args"], "blocks": [1, 2]}})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="another architecture"):
        checkpoint.start_from(of_model, other, tmp_path / "models" / "mine")
    fewer = replace(wanted, sequences=(Sequence.T1, Sequence.FLAIR))
    with pytest.raises(UserError, match="it never saw FLAIR"):
        checkpoint.start_from(of_model, fewer, tmp_path / "models" / "t1")
    with (tmp_path / "models" / "mine" / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="is not the file the model was published with"):
        checkpoint.start_from(of_model, wanted, tmp_path / "models" / "mine")


class Worker:
    """A worker process and what it says."""

    def __init__(self, wanted: TrainConfig, folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(wanted.to_json(), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer.run", str(path), str(folder / wanted.name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        """The next event that is as wanted."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = from_line(line)
            if wanted(event):
                return event
        pytest.fail("the worker ended without saying so")

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


def test_a_worker_pauses_goes_on_and_keeps_when_told(cohort: Path, tmp_path: Path) -> None:
    worker = Worker(config(cohort, steps=5000, warm_up=10, spacing_mm=4.0, validate_every=30), tmp_path)
    worker.until(lambda event: isinstance(event, StepEnd))
    asked = time.monotonic()
    worker.tell("pause")
    assert worker.until(lambda event: isinstance(event, Acknowledged)) == Acknowledged("pause")
    # 200 ms on a machine that has its processor to itself.
    assert time.monotonic() - asked < 2
    paused = worker.until(lambda event: isinstance(event, Paused))
    assert isinstance(paused, Paused)
    assert (tmp_path / "teacher" / checkpoint.STATE).exists()
    process = psutil.Process(worker.process.pid)
    before = process.cpu_times()
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(0.7)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.05
    worker.tell("whistle")
    worker.tell("resume")
    assert worker.until(lambda event: isinstance(event, Acknowledged)) == Acknowledged("resume")
    assert worker.until(lambda event: isinstance(event, Resumed)) == Resumed(paused.step)
    worker.until(lambda event: isinstance(event, Validated))
    worker.tell("pause")
    worker.until(lambda event: isinstance(event, Paused))
    worker.tell("keep")
    end = worker.until(lambda event: isinstance(event, Finished))
    assert isinstance(end, Finished)
    assert (end.kept, end.kept_step % 30) == ("best", 0)
    assert worker.end() == 0
    assert checkpoint.load_network(tmp_path / "teacher")[1].name == "teacher"


def test_a_worker_saves_its_state_when_nobody_hears_it_any_more(cohort: Path, tmp_path: Path) -> None:
    worker = Worker(config(cohort, steps=5000, warm_up=10, spacing_mm=4.0, validate_every=0), tmp_path)
    worker.until(lambda event: isinstance(event, StepEnd))
    assert not (tmp_path / "teacher" / checkpoint.STATE).exists()
    assert worker.process.stdout is not None
    worker.process.stdout.close()
    assert worker.process.wait() == 130
    assert (tmp_path / "teacher" / checkpoint.STATE).exists()
    assert worker.process.stdin is not None
    worker.process.stdin.close()


def test_a_worker_that_is_paused_stops_when_its_supervisor_is_gone(cohort: Path, tmp_path: Path) -> None:
    worker = Worker(config(cohort, steps=5000, warm_up=10, spacing_mm=4.0, validate_every=0), tmp_path)
    worker.until(lambda event: isinstance(event, Started))
    worker.tell("pause")
    worker.until(lambda event: isinstance(event, Paused))
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    worker.until(lambda event: isinstance(event, Stopped))
    assert worker.process.wait() == 130
    assert worker.process.stdout is not None
    worker.process.stdout.close()


def test_the_worker_process_speaks_events_and_stops_when_told(cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(config(cohort, steps=5000, warm_up=10, spacing_mm=4.0).to_json(), encoding="utf-8")
    worker = subprocess.Popen(
        [sys.executable, "-m", "trainer.run", str(path), str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert worker.stdout is not None
    assert worker.stdin is not None
    events = []
    for line in worker.stdout:
        events.append(from_line(line))
        if isinstance(events[-1], StepEnd) and not worker.stdin.closed:
            worker.stdin.write("stop\n")
            worker.stdin.close()
    assert worker.wait() == 130
    assert isinstance(events[-1], Stopped)
    assert events[-1].step < 5000
    worker.stdout.close()


def test_the_worker_says_in_one_sentence_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    worker = subprocess.run(
        [sys.executable, "-m", "trainer.run", str(tmp_path / "config.json"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert worker.returncode == 2
    assert json.loads(worker.stdout)["message"].startswith("config.json is not a training config")


def test_a_folder_of_another_run_is_left_alone(cohort: Path, tmp_path: Path) -> None:
    train(config(cohort, steps=4, validate_every=0), tmp_path / "run")
    weights = (tmp_path / "run" / WEIGHTS).read_bytes()
    with pytest.raises(UserError, match="belongs to another training"):
        train(config(cohort, steps=5, validate_every=0), tmp_path / "run")
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == weights
    # On another machine the same run may lie elsewhere and use another device.
    moved = config(cohort, steps=4, validate_every=0, data="elsewhere", device="auto", threads=2)
    assert train(moved, tmp_path / "run") == []


def test_a_run_goes_on_although_the_config_has_new_fields_since(cohort: Path, tmp_path: Path) -> None:
    wanted = config(cohort, steps=4, validate_every=0)
    train(wanted, tmp_path / "run")
    older = json.loads((tmp_path / "run" / checkpoint.CONFIG).read_text())
    del older["simulated"]
    (tmp_path / "run" / checkpoint.CONFIG).write_text(json.dumps(older))
    assert train(wanted, tmp_path / "run") == []


@pytest.mark.skipif(os.name == "nt", reason="other system: errors have other numbers on Windows")
def test_a_full_disk_leaves_the_state_before(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = config(cohort, steps=60, validate_every=0)
    with pytest.raises(Cancelled):
        train(wanted, tmp_path / "run", stop_after=25)
    before = (tmp_path / "run" / checkpoint.STATE).read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CannotWrite, match="no room on the disk"):
        train(wanted, tmp_path / "run", stop_after=50)
    assert (tmp_path / "run" / checkpoint.STATE).read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))


def full(*_: object) -> None:
    # What it says where the system said ENOSPC.
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.skipif(os.name == "nt", reason="other system: errors have other numbers on Windows")
def test_a_training_outlives_a_disk_that_is_full_for_a_while(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(cohort, steps=8, validate_every=4, checkpoint_seconds=0.0)
    train(wanted, tmp_path / "whole")
    write = checkpoint.save_file
    calls = []

    def full_for_a_while(*arguments: object) -> None:
        calls.append(arguments)
        # Of the states of steps 1 to 3, the best weights of step 4, and the states from then on.
        (full if len(calls) in (2, 3, 4) else write)(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", full_for_a_while)
    events = train(wanted, tmp_path / "run")
    told = [event.what for event in events if isinstance(event, FellBack)]
    assert told == [
        "There is no room on the disk for state.safetensors. Free some space, then try again. "
        "The training goes on meanwhile."
    ] * 2 + [
        "There is no room on the disk for best.safetensors. Free some space, then try again. "
        "The training goes on meanwhile."
    ]
    assert [event.step for event in events if isinstance(event, Saved)] == [1, 4, 5, 6, 7]
    # What is not on disk is not called the best.
    assert [event.best for event in events if isinstance(event, Validated)] == [False, True]
    assert same_weights(tmp_path / "run", tmp_path / "whole", 0.0)


def test_a_damaged_state_falls_back_on_the_one_before(cohort: Path, tmp_path: Path) -> None:
    wanted = config(cohort, steps=30, validate_every=0, checkpoint_seconds=0.0)
    train(wanted, tmp_path / "whole")
    train_until(wanted, tmp_path / "run", Command.STOP, lambda event: isinstance(event, Saved) and event.step == 9)
    state, previous = tmp_path / "run" / checkpoint.STATE, tmp_path / "run" / checkpoint.PREVIOUS
    assert previous.exists()
    # One bit somewhere in the weights: the file still opens.
    content = bytearray(state.read_bytes())
    content[-1000] ^= 4
    state.write_bytes(content)
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    events = train(wanted, tmp_path / "run")
    before = next(event for event in events if isinstance(event, Started)).first_step
    assert before < 9
    assert events[0] == FellBack(
        f"state.safetensors is damaged; the training goes on from the state before it, step {before}."
    )
    assert same_weights(tmp_path / "run", tmp_path / "whole")
    # Killed between the two renames there is no state by that name, but the one before it.
    (tmp_path / "cut" / checkpoint.STATE).unlink()
    events = train(wanted, tmp_path / "cut")
    assert isinstance(events[0], Started)
    assert events[0].first_step == before


def test_a_damaged_state_is_named_where_there_is_no_other(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        train(config(cohort, steps=60, validate_every=0), tmp_path / "run", stop_after=25)
    state = tmp_path / "run" / checkpoint.STATE
    state.write_bytes(state.read_bytes()[:1000])
    (tmp_path / "run" / checkpoint.PREVIOUS).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"state\.safetensors is damaged"):
        train(config(cohort, steps=60, validate_every=0), tmp_path / "run")


def test_a_damaged_best_is_named_and_made_again(cohort: Path, tmp_path: Path) -> None:
    wanted = config(cohort, steps=30, validate_every=10)
    train_until(wanted, tmp_path / "run", Command.STOP, lambda event: isinstance(event, Validated))
    best = tmp_path / "run" / checkpoint.BEST_WEIGHTS
    best.write_bytes(best.read_bytes()[:-1])
    events = train(wanted, tmp_path / "run")
    assert isinstance(events[0], FellBack)
    assert events[0].what.startswith("best.safetensors is damaged")
    assert next(event for event in events if isinstance(event, Validated)).best
    assert checkpoint.load_best(tmp_path / "run")[1].step in (20, 30)


def test_a_state_of_an_older_version_goes_on(cohort: Path, tmp_path: Path) -> None:
    wanted = config(cohort, steps=30, validate_every=0)
    with pytest.raises(Cancelled):
        train(wanted, tmp_path / "run", stop_after=25)
    train(wanted, tmp_path / "whole")
    tensors, _ = checkpoint._read(tmp_path / "run" / checkpoint.STATE)
    del tensors["random.cpu"]
    checkpoint.save_file(tensors, tmp_path / "run" / checkpoint.STATE, {"step": "25"})
    events = train(wanted, tmp_path / "run")
    assert isinstance(events[0], Started)
    assert events[0].first_step == 25
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_data_that_vanish_midway_are_named_and_the_state_is_kept(cohort: Path, tmp_path: Path) -> None:
    grid = phantoms.grid()
    nothing = np.zeros(grid.shape, np.uint8)
    patient = SimulatedPatient(
        phantoms.subject(grid), phantoms.tumour(grid), nothing, nothing, np.zeros((3, *grid.shape))
    )
    stick = tmp_path / "stick"
    dataset.save_simulated(patient, 1.0, stick)
    wanted = config(cohort, train_cases=(), simulated=str(stick), simulated_share=1.0, steps=60, validate_every=0)
    events: list[Event] = []

    def unplug(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepEnd):
            stick.rename(tmp_path / "unplugged")

    with pytest.raises(UserError, match=r"can no longer be read .* goes on from step 25"):
        run.train(wanted, tmp_path / "run", unplug, Progress())
    (tmp_path / "unplugged").rename(stick)
    rest = train(wanted, tmp_path / "run")
    assert isinstance(rest[0], Started)
    assert rest[0].first_step == 25


def test_two_processes_do_not_train_in_one_folder(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SECONDS_TO_SAVE", 0.1)
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / "lock", 0), pytest.raises(UserError, match="Another process is training in"):
        train(config(cohort), tmp_path / "run")
    assert isinstance(train(config(cohort, steps=4), tmp_path / "run")[-1], Finished)


def test_checkpoints_are_taken_by_the_clock(cohort: Path, tmp_path: Path) -> None:
    events = train(config(cohort, steps=5, validate_every=0, checkpoint_seconds=0.0), tmp_path / "run")
    assert [event.step for event in events if isinstance(event, Saved)] == [1, 2, 3, 4]


def test_every_patient_is_in_one_fold_and_folds_resemble_each_other() -> None:
    random = np.random.default_rng(0)
    sizes = {f"p{n:02d}": float(random.lognormal(4, 1)) for n in range(41)}
    sources = {name: ("a", "b", "b")[n % 3] for n, name in enumerate(sizes)}
    split = dataset.folds(sizes, sources, 5)
    assert sorted(name for fold in split for name in fold) == sorted(sizes)
    assert {len(fold) for fold in split} == {8, 9}
    assert split == dataset.folds(dict(reversed(sizes.items())), sources, 5)
    largest = set(sorted(sizes, key=sizes.__getitem__)[-10:])
    assert all(1 <= len(largest & set(fold)) <= 4 for fold in split)


def test_a_case_is_read_once_and_lies_where_inference_would_put_it(cohort: Path, tmp_path: Path) -> None:
    store = dataset.CaseStore(cohort, 1.0, tmp_path)
    assert store.names() == list(CASES)
    first = store.load("boris")
    assert len(list(tmp_path.iterdir())) == 1
    again = store.load("boris")
    assert np.array_equal(first.images, again.images)
    assert first.sequences == again.sequences == tuple(Sequence)
    assert first.channels((Sequence.FLAIR, Sequence.T1)) == [3, 0]
    core, whole = first.truth[1].astype(float).sum(), first.truth[0].astype(float).sum()
    expected = phantoms.tumour(phantoms.grid("LPS"))
    assert whole == pytest.approx(np.count_nonzero(expected.whole_tumour), rel=0.02)
    assert core == pytest.approx(np.count_nonzero(expected.tumour_core), rel=0.02)
    with pytest.raises(UserError, match="no patient zora"):
        store.load("zora")


def test_examples_come_from_simulated_patients_as_often_as_asked(cohort: Path, tmp_path: Path) -> None:
    grid = phantoms.grid()
    bright = {s: Volume(np.where(v.data != 0, 500 - v.data, 0), grid, s) for s, v in phantoms.subject(grid).items()}
    nothing = np.zeros(grid.shape, np.uint8)
    patient = SimulatedPatient(
        Subject("simulated-1", bright), LabelMap(nothing, grid), nothing, nothing, np.zeros((3, *grid.shape))
    )
    dataset.save_simulated(patient, 1.0, tmp_path / "simulated")
    store = dataset.CaseStore(cohort, 1.0, tmp_path / "prepared")

    def with_tumour(share: float) -> list[bool]:
        wanted = config(
            cohort,
            sequences=(Sequence.FLAIR,),
            simulated=str(tmp_path / "simulated"),
            simulated_share=share,
            augmentation=Augmentation(shift_mm=2, scaling=0.05, elastic_mm=0),
        )
        examples = dataset.Examples(wanted, store, torch.device("cpu"), Progress(), (Sequence.T1, Sequence.FLAIR))
        first = examples[0]
        assert first["images"].shape == (1, 1, 32, 32, 32)
        assert first["teacher_images"].shape == (1, 2, 32, 32, 32)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(first["images"], examples[0]["images"])
        return [bool(examples[number]["truth"].sum() > 1) for number in range(16)]

    assert all(with_tumour(0.0))
    assert not any(with_tumour(1.0))
    assert 3 < sum(with_tumour(0.5)) < 13
    with_none = config(cohort, sequences=(Sequence.T1,), simulated=str(tmp_path / "empty"))
    with pytest.raises(UserError, match="holds no simulated patient"):
        dataset.Examples(with_none, store, torch.device("cpu"), Progress())


def test_targets_are_the_truth_mixed_with_teachers_that_never_saw_the_patient(cohort: Path, tmp_path: Path) -> None:
    thirds = {name: [case for case in CASES[:3] if case != name] for name in CASES[:3]}
    for name, others in thirds.items():
        train(config(cohort, name, train_cases=tuple(others), validation_cases=(), steps=4), tmp_path / name)
    wanted = config(
        cohort,
        "student",
        role="student",
        sequences=(Sequence.T1,),
        distillation=Distillation(weight=0.0, cross_fitted=tuple(thirds), blend=0.25),
        augmentation=Augmentation(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        steps=4,
        validate_every=0,
    )
    store = dataset.CaseStore(cohort, 1.0, tmp_path / "prepared")
    opinions = run.opinions(wanted, store, tmp_path, torch.device("cpu"), Progress())
    for name in CASES[:3]:
        network, _ = checkpoint.load_network(tmp_path / name)
        expected = outline(network, store.load(name).images, torch.device("cpu"))
        np.testing.assert_allclose(opinions[name], expected, atol=1e-6)
    given = dataset.Examples(wanted, store, torch.device("cpu"), Progress(), opinions=opinions)[0]
    assert not torch.equal(given["target"], given["truth"])
    assert float((given["target"] - given["truth"]).abs().max()) <= 0.25
    train(wanted, tmp_path / "student")

    seen_by_all = replace(wanted, train_cases=CASES, validation_cases=())
    train(config(cohort, "all", train_cases=CASES, validation_cases=(), steps=4), tmp_path / "all")
    known = replace(seen_by_all, distillation=Distillation(weight=0.0, cross_fitted=("all",), blend=0.25))
    with pytest.raises(UserError, match="Every cross-fitted teacher of student was trained on anna"):
        run.opinions(known, store, tmp_path, torch.device("cpu"), Progress())


def test_simulated_patients_alone_are_enough_to_learn_from(cohort: Path, tmp_path: Path) -> None:
    grid = phantoms.grid()
    nothing = np.zeros(grid.shape, np.uint8)
    patient = SimulatedPatient(
        phantoms.subject(grid), phantoms.tumour(grid), nothing, nothing, np.zeros((3, *grid.shape))
    )
    dataset.save_simulated(patient, 1.0, tmp_path / "simulated")
    alone = config(
        cohort, role="baseline", train_cases=(), simulated=str(tmp_path / "simulated"), simulated_share=1.0, steps=4
    )
    events = train(alone, tmp_path / "run")
    assert isinstance(events[-1], Finished)
    with pytest.raises(ValueError, match="at least one case"):
        replace(alone, simulated_share=0.5)


def test_a_folder_without_truth_is_no_training_set(tmp_path: Path) -> None:
    (tmp_path / "eve").mkdir()
    subject: Subject = phantoms.subject()
    nifti.write_volume(subject[Sequence.T1], tmp_path / "eve" / "eve_t1.nii.gz")
    with pytest.raises(UserError, match="no patient with a ground truth"):
        sequences.with_truth([tmp_path])
