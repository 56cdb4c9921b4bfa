"""From a folder of patients to finished weights, stopped and resumed on the way."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import networks, nifti, registry, sequences
from engine.errors import Cancelled, CannotWrite, UserError
from engine.inference import segment
from engine.metrics import dice
from engine.progress import Progress
from engine.volume import LabelMap, Sequence, Subject, Volume
from tests.engine import phantoms
from trainer import checkpoint, dataset, run
from trainer.config import Augmentation, Distillation, TrainConfig
from trainer.distillation import outline
from trainer.events import Event, Finished, Saved, Started, StepEnd, Stopped, Validated, from_line
from trainer.simulate import SimulatedPatient

CASES = ("anna", "boris", "carla", "dora")
TINY = {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}}


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


def test_a_teacher_learns_and_a_student_learns_from_it(cohort: Path, tmp_path: Path) -> None:
    events = train(config(cohort), tmp_path / "teacher")
    losses = [event.loss for event in events if isinstance(event, StepEnd)]
    scores = [event for event in events if isinstance(event, Validated)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert losses[-1] < 0.8 * losses[0]
    assert [score.step for score in scores] == [15, 30]
    assert scores[-1].cases == 1

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


def test_a_run_that_was_stopped_ends_with_the_same_weights(cohort: Path, tmp_path: Path) -> None:
    # The layout in memory of the network's convolutions is part of what has to be restored.
    wanted = config(cohort, steps=28, validate_every=0)
    whole = train(wanted, tmp_path / "whole")
    with pytest.raises(Cancelled):
        train(wanted, tmp_path / "parts", stop_after=25)
    assert (tmp_path / "parts" / checkpoint.STATE).exists()
    rest = train(wanted, tmp_path / "parts")
    assert isinstance(rest[0], Started)
    assert rest[0].first_step == 25
    for name, value in checkpoint.load_network(tmp_path / "whole")[0].state_dict().items():
        torch.testing.assert_close(
            checkpoint.load_network(tmp_path / "parts")[0].state_dict()[name], value, atol=1e-5, rtol=1e-4
        )
    last = [event.loss for event in whole if isinstance(event, StepEnd)][-1]
    assert isinstance(rest[-2], StepEnd)
    assert rest[-2].step == 28
    assert last > 0


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


def test_the_worker_process_speaks_events_and_stops_when_told(cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(config(cohort, steps=5000, warm_up=10).to_json(), encoding="utf-8")
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
    weights = (tmp_path / "run" / checkpoint.WEIGHTS).read_bytes()
    with pytest.raises(UserError, match="belongs to another training"):
        train(config(cohort, steps=5, validate_every=0), tmp_path / "run")
    assert (tmp_path / "run" / checkpoint.WEIGHTS).read_bytes() == weights
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


def test_a_full_disk_leaves_the_state_before(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = config(cohort, steps=60, validate_every=0)
    with pytest.raises(Cancelled):
        train(wanted, tmp_path / "run", stop_after=25)
    before = (tmp_path / "run" / checkpoint.STATE).read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CannotWrite, match="no room on the disk"):
        train(wanted, tmp_path / "run", stop_after=50)
    assert (tmp_path / "run" / checkpoint.STATE).read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))


def test_a_damaged_state_is_named(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        train(config(cohort, steps=60, validate_every=0), tmp_path / "run", stop_after=25)
    state = tmp_path / "run" / checkpoint.STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"state\.safetensors is damaged"):
        train(config(cohort, steps=60, validate_every=0), tmp_path / "run")


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
