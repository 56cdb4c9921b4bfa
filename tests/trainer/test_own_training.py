"""A training of the user's own: begun, asked, killed, gone on with, looked at."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from engine import metrics, model_file, registry
from engine.errors import Cancelled, UserError
from engine.inference import segment
from engine.progress import Progress
from engine.volume import Sequence
from tests.trainer.conftest import PATIENTS
from trainer import training
from trainer.events import Acknowledged, Failed, Finished, Paused, Resumed, Started, StepEnd, Stopped
from trainer.patients import Patients
from trainer.study import Cell, Study
from trainer.training import Busy, Heard, State, Training

T1 = (Sequence.T1,)
TINY = {
    "spacing_mm": 1.0,
    "window": [32, 32, 32],
    "architecture": {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}},
    "warm_up": 2,
    "learning_rate": 0.01,
    "average": 0.8,
    "threads": 1,
    "device": "cpu",
    "augmentation": {"rotation_degrees": 5, "scaling": 0.05, "shift_mm": 2, "elastic_mm": 1},
}
_LITTLE = threading.Event()  # never set


def small_study(steps: int = 6, **common: object) -> Study:
    return Study(
        title="own",
        folds=(("dora",), PATIENTS[:3]),
        common={**TINY, "steps": steps, "validate_every": 3, **common},
        recipes={
            "teacher": {"role": "teacher"},
            "baseline": {"role": "baseline"},
            "student": {"role": "student", "distillation": {"teacher": "teacher", "weight": 0.1}},
        },
        cells=(
            Cell("teacher", (tuple(Sequence),), (0,), (0,)),
            Cell("baseline", (T1,), (0,), (0,)),
            Cell("student", (T1,), (0,), (0,)),
        ),
        comparisons=(("student", "baseline"),),
        shifted=False,
    )


@pytest.fixture
def patients(cohort: Path) -> Patients:
    return Patients.read(cohort)


@pytest.fixture
def endless(patients: Patients, tmp_path: Path) -> Iterator[Training]:
    """A training that is under way until it is stopped."""
    study = small_study(steps=100_000, validate_every=50, checkpoint_seconds=0.0)
    made = Training.create(tmp_path / "endless", study, patients)
    yield made
    if made.running():
        made.ask("stop")
    wait_until(lambda: ended(made))


def wait_until(true: Callable[[], bool], seconds: float = 900) -> None:
    """For what another process does; fails when it does not come about."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come about"
        _LITTLE.wait(0.02)


def ended(of: Training) -> bool:
    """Whether nobody works on a training any more, and its process is gone."""
    waiting = f"waits for the training {of.name}"
    return not of.running() and all(thread.name != waiting for thread in threading.enumerate())


def heard(of: Training, kind: type, run: str | None = None) -> list[Heard]:
    return [one for one in of.events()[0] if isinstance(one.event, kind) and run in (None, one.run)]


def processes(of: Training) -> list[psutil.Process]:
    """The process that works on a training, and its workers."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(of.folder) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def finished(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training that a process of its own carried out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("home")))
        made = Training.create(tmp_path_factory.mktemp("trainings") / "own", small_study(), Patients.read(cohort))
        made.start()
        assert made.running()
        with pytest.raises(Busy, match="Another process works on own already"):
            made.start()
        wait_until(lambda: ended(made))
    return made


@pytest.mark.timeout(1200)
def test_a_training_is_done_scored_and_reported_without_its_window(finished: Training) -> None:
    standing = Training(finished.folder).standing()
    assert (standing.state, standing.done, standing.problem) == (State.DONE, 1.0, "")
    order = [one.run for one in heard(finished, Started)]
    assert order == ["teacher-all-without0-seed0", "baseline-t1-without0-seed0", "student-t1-without0-seed0"]
    times = [one.time for one in finished.events()[0]]
    assert times == sorted(times)
    assert heard(finished, Finished, "")[0].event.path == str(finished.folder / "report")
    assert "own" in (finished.folder / "report" / "README.md").read_text(encoding="utf-8")

    results = finished.results()
    assert not results.pending
    assert {(score.recipe, score.case) for score in results.scores} == {
        ("teacher", "dora"),
        ("baseline", "dora"),
        ("student", "dora"),
    }
    compared = results.comparisons[0]
    assert (compared.recipe, compared.reference, compared.patients) == ("student", "baseline", 1)
    # Begun again there is nothing left to do.
    finished.start()
    wait_until(lambda: ended(finished))
    assert len(heard(finished, Started)) == 3


@pytest.mark.timeout(1200)
def test_a_finished_run_becomes_a_model_with_figures_beside_those_of_the_shipped_one(
    finished: Training, tmp_path: Path
) -> None:
    run = "student-t1-without0-seed0"
    assert set(finished.installable()) == {
        "teacher-all-without0-seed0",
        "baseline-t1-without0-seed0",
        run,
    }
    about = finished.suggested_about(run)
    assert about.name == "own-student-t1"
    assert about.data == "3 patients, with masks drawn by experts."
    told: list[tuple[float, str]] = []
    card = finished.install(run, tmp_path, about, Progress(lambda fraction, words: told.append((fraction, words))))
    assert any("comparing with" in words for _, words in told)
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)
    assert [found.name for found in tmp_path.iterdir()] == ["own-student-t1"]
    registry.verify(card)
    assert card.title == "T1 student of own"
    assert card.evaluation is not None
    assert card.evaluation.how == "1 patient of own, kept apart from the 3 it learnt from"
    assert card.learnt_from == set(PATIENTS) - {"dora"}

    # Its figures are those of the scores, and the shipped model was measured on the same patient by the same engine.
    scores = {score.region: score for score in finished.results().scores if score.recipe == "student"}
    (beside,) = card.beside
    shipped = registry.find(beside.model, registry.list_models([registry.SHIPPED]).models)
    dora = finished.patients.named("dora")
    subject = dora.read()
    expected = metrics.score(segment(subject, shipped, use=T1).label_map, dora.read_truth(subject))
    for region, score in scores.items():
        assert card.evaluation.regions[region].dice_mean == pytest.approx(score.dice, abs=1e-4)
        assert beside.own[region].dice_mean == pytest.approx(score.dice, abs=1e-4)
        assert beside.other[region].dice_mean == pytest.approx(expected[region].dice, abs=1e-3)
    assert (beside.sequences, beside.patients) == ("t1", 1)

    # The name is taken now, and that of a shipped model cannot be had.
    with pytest.raises(model_file.ModelExists, match="There is a model called own-student-t1 already"):
        finished.install(run, tmp_path, about)
    with pytest.raises(UserError, match="A model that came with Gliascope is called student-t1"):
        finished.install(run, tmp_path, replace(about, name="student-t1"))
    again = finished.install(run, tmp_path, replace(about, version="1.1"), replace=True)
    assert again.version == "1.1"
    assert [found.name for found in tmp_path.iterdir()] == ["own-student-t1"]


@pytest.mark.timeout(1200)
def test_what_is_stopped_or_fails_while_installing_leaves_nothing(finished: Training, tmp_path: Path) -> None:
    run = "student-t1-without0-seed0"
    about = finished.suggested_about(run)
    progress = Progress(lambda fraction, words: progress.cancel())
    with pytest.raises(Cancelled):
        finished.install(run, tmp_path, about, progress)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="nobody cannot be installed yet"):
        finished.install("nobody", tmp_path, about)


@pytest.mark.timeout(1200)
def test_what_is_asked_is_answered_at_once_and_done_within_a_step(endless: Training) -> None:
    endless.start()
    wait_until(lambda: bool(heard(endless, StepEnd)))
    asked: dict[str, float] = {}

    def ask(command: str, sign: type) -> None:
        asked[command] = time.time()
        endless.ask(command)
        wait_until(lambda: bool(heard(endless, sign)))

    ask("pause", Paused)
    assert endless.standing().state is State.PAUSED
    before = len(heard(endless, StepEnd))
    ask("resume", Resumed)
    assert endless.standing().state is State.RUNNING
    wait_until(lambda: len(heard(endless, StepEnd)) > before)
    ask("stop", Stopped)
    for command, at in asked.items():
        answer = next(one for one in heard(endless, Acknowledged, "") if one.event.command == command)
        assert answer.time - at < 0.2
    wait_until(lambda: ended(endless))
    standing = endless.standing()
    assert standing.state is State.STOPPED
    assert 0 < standing.done < 1
    assert standing.seconds_low < standing.seconds_high
    assert standing.title == "Four-sequence teacher"
    with pytest.raises(UserError, match="Nobody works on endless just now"):
        endless.ask("pause")


@pytest.mark.timeout(1200)
def test_killed_with_its_worker_or_alone_it_goes_on_where_it_was(endless: Training) -> None:
    endless.start()
    wait_until(lambda: bool(heard(endless, StepEnd)))
    for process in processes(endless):
        process.kill()
    wait_until(lambda: ended(endless))
    with (endless.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"run": "teacher-all-wit')  # as a power cut leaves it
    endless.start()
    wait_until(lambda: len(heard(endless, Started)) == 2)
    assert heard(endless, Started)[-1].event.first_step > 0
    supervisor = min(processes(endless), key=lambda process: process.create_time())
    workers = supervisor.children()
    os.kill(supervisor.pid, signal.SIGKILL)
    # Workers of a process that is gone end by themselves, with their state saved.
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert len(gone) == 1
    assert not alive
    endless.start()
    wait_until(lambda: len(heard(endless, Started)) == 3)
    assert heard(endless, Started)[-1].event.first_step >= heard(endless, Started)[-2].event.first_step


@pytest.mark.timeout(1200)
def test_keeping_the_best_ends_what_is_trained_and_goes_on_with_the_next(endless: Training) -> None:
    endless.start()
    wait_until(lambda: bool(heard(endless, StepEnd)))
    endless.ask("keep")
    wait_until(lambda: len(heard(endless, Started)) == 2)
    done = heard(endless, Finished)[0]
    assert done.run == "teacher-all-without0-seed0"
    assert done.event.step < 100_000
    assert heard(endless, Started)[1].run == "baseline-t1-without0-seed0"


@pytest.mark.timeout(1200)
def test_what_fails_is_told_and_tried_again_at_the_next_start(cohort: Path, tmp_path: Path) -> None:
    scans = Path(shutil.copytree(cohort, tmp_path / "scans"))
    study = small_study(steps=4, validate_every=0)
    study = replace(study, cells=study.cells[:1] + study.cells[2:], comparisons=())
    made = Training.create(tmp_path / "own", study, Patients.read(scans))
    (scans / "anna").rename(scans / "away")
    made.start()
    wait_until(lambda: ended(made))
    standing = made.standing()
    assert standing.state is State.FAILED
    assert standing.problem.startswith("Four-sequence teacher: ")
    assert "anna" in standing.problem
    assert standing.problem.endswith("T1 student waits for a run that failed.")
    assert len(heard(made, Failed, "teacher-all-without0-seed0")) == 1
    (scans / "away").rename(scans / "anna")
    made.start()
    wait_until(lambda: ended(made))
    assert made.standing().state is State.DONE
    assert made.standing().problem == ""


def test_a_training_needs_a_folder_of_its_own(patients: Patients, tmp_path: Path) -> None:
    made = Training.create(tmp_path / "own", small_study(), patients)
    with pytest.raises(UserError, match="The folder own holds something already"):
        Training.create(tmp_path / "own", small_study(), patients)
    assert Training(tmp_path / "own").study == made.study
    with pytest.raises(UserError, match=r"cohort.* is not the folder of a training"):
        Training(patients.origin)
    assert [found.folder for found in training.trainings()] == [made.folder]
    at_home = Training.create(training.home() / "second", small_study(), patients)
    assert {found.folder for found in training.trainings()} == {made.folder, at_home.folder}
    (tmp_path / "own" / "study.json").write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(UserError, match="comes from a newer Gliascope"):
        Training(tmp_path / "own")
    assert [found.folder for found in training.trainings()] == [at_home.folder]
