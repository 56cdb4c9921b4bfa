"""Many patients: found, segmented as `segment` does, stopped and killed at will, none lost and none twice."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import platformdirs
import psutil
import pytest

from app import cli
from engine import batch
from engine.batch import Batch, Done, Event, Failed, Paused, Progressed, Settings, Started, State
from engine.errors import Cancelled, CannotWrite, UnreadableImage
from engine.nifti import Convention
from engine.outputs import Wanted
from engine.progress import Progress
from engine.volume import Sequence
from tests.app import threshold_model
from tests.engine import fake_dicom, phantoms

T1, T1CE, T2, FLAIR = Sequence
ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = "of-the-test"
NAMES = ("anna", "boris", "carla")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for T2 that has learnt from Carla, made once, as the same model made twice has other bytes."""
    folder = tmp_path_factory.mktemp("made")
    threshold_model.install(folder, MODEL, (T2,), dice=0.7, training={"train_cases": ["carla"]})
    return folder


@pytest.fixture
def models(made: Path) -> Path:
    """The model in the user's own folder, where worker processes find it too."""
    return shutil.copytree(made, platformdirs.user_data_path("Gliascope", appauthor=False) / "models")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients with truths, written once, as the same scan written twice has other bytes."""
    folder = tmp_path_factory.mktemp("scanned")
    for name in NAMES:
        phantoms.write_subject(folder / name, sequences=(T2, FLAIR), truth=True)
    return folder


@pytest.fixture
def cohort(scanned: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may do with as it likes."""
    return shutil.copytree(scanned, tmp_path / "cohort")


def begun(cohort: Path, out: Path, **settings: object) -> Batch:
    return Batch.create(batch.plan([cohort], Settings(model=MODEL, device="cpu", **settings)), out)  # type: ignore[arg-type]


def outputs(out: Path) -> dict[str, bytes]:
    """Every file of every patient by its place, without what a clock decides."""
    found = {}
    for path in sorted((out / "patients").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".json":
                content = json.dumps(_timeless(json.loads(content)), sort_keys=True).encode()
            found[path.relative_to(out).as_posix()] = content
    return found


def _timeless(record: object) -> object:
    if isinstance(record, dict):
        return {
            key: _timeless(value)
            for key, value in record.items()
            if key not in ("seconds", "made", "time", "made_at", "sidecar_sha256")
        }
    return [_timeless(value) for value in record] if isinstance(record, list) else record


# --- who is there -----------------------------------------------------------------------------------------------------


def test_patients_of_every_layout_are_found_under_one_folder(tmp_path: Path) -> None:
    root = tmp_path / "all"
    phantoms.write_subject(root / "brats" / "case_10", truth=True)
    phantoms.write_subject(root / "brats" / "case_9", sequences=(T1,))
    bids = root / "bids" / "sub-01" / "anat"
    for sequence, name in ((T1, "T1w"), (FLAIR, "FLAIR")):
        phantoms.write_volume(bids / f"sub-01_{name}.nii.gz", phantoms.head(phantoms.grid("LPS"), sequence))
    fake_dicom.twelve_series(root / "exports" / "volunteer")
    fake_dicom.Examination(root / "bids" / "sourcedata" / "sub-01").series(fake_dicom.T2, 1)
    other = fake_dicom.Examination(root / "exports" / "V2" / "DICOM", "Niemand^Nele", "0815")
    other.series(fake_dicom.T2, 1)
    planned = batch.plan([root])
    found = {patient.name: patient for patient in planned.patients}
    assert list(found) == ["case_9", "case_10", "sub-01", "V2", "volunteer"]
    assert planned.problems == ()
    assert found["case_9"].sequences == (T1,)
    assert found["case_10"].truth == root / "brats" / "case_10" / "case_10_seg.nii.gz"
    assert found["sub-01"].sequences == (T1, FLAIR)
    assert found["volunteer"].sequences == (T1, T1CE, T2, FLAIR)
    assert planned.with_truth == 1
    assert planned.settings.labels is Convention.BRATS_2012_2021


def test_a_dicom_folder_that_is_called_as_the_person_is_gives_no_name_away(tmp_path: Path) -> None:
    fake_dicom.twelve_series(tmp_path / "all" / "MUSTERMANN_E")
    [patient] = batch.plan([tmp_path / "all"]).patients
    assert patient.name == "patient"


def test_one_folder_that_cannot_be_used_does_not_hide_the_others(cohort: Path) -> None:
    twice = phantoms.write_subject(cohort / "twice", sequences=(T1,))
    (twice / "twice_t1.nii.gz").rename(twice / "a_t1.nii.gz")
    phantoms.write_volume(twice / "sub" / "b_t1.nii.gz", phantoms.head(phantoms.grid("LPS"), T1))
    (twice / "sub" / "b_t1.nii.gz").rename(twice / "a_T1w.nii.gz")
    planned = batch.plan([cohort])
    assert {patient.name for patient in planned.patients} >= set(NAMES)
    assert len(planned.problems) == 1
    assert "a_t1.nii.gz" in planned.problems[0]


def test_an_earlier_result_beside_the_scans_is_no_truth(cohort: Path) -> None:
    (cohort / "anna" / "anna_seg.json").write_text(json.dumps({"software": {"name": "Gliascope"}}))
    found = {patient.name: patient.truth for patient in batch.plan([cohort]).patients}
    assert found["anna"] is None
    assert found["boris"] is not None


def test_where_nobody_is_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableImage, match="holds no NIfTI image"):
        batch.plan([tmp_path / "empty"])


def test_a_plan_outlasts_its_process(cohort: Path, tmp_path: Path) -> None:
    settings = {"sequences": (T2,), "wanted": Wanted(table=True, report=True, grid=FLAIR)}
    made = begun(cohort, tmp_path / "out", **settings)
    read = Batch.open(tmp_path / "out")
    assert read.patients == made.patients
    assert read.settings.to_json() == made.settings.to_json()
    assert read.settings.wanted == Wanted(table=True, report=True, grid=FLAIR)


# --- the same as one by one -------------------------------------------------------------------------------------------


def test_a_batch_writes_what_segment_writes(models: Path, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (cohort / "boris" / "boris_t2.nii.gz").write_bytes(b"not an image at all")
    going = begun(cohort, out, wanted=Wanted(table=True, report=True))
    told: list[Event] = []
    going.run(told.append, jobs=2)
    words = ["--model", MODEL, "--device", "cpu", "--table"]
    assert cli.main(["segment", str(cohort), "--out", str(tmp_path / "one by one"), *words]) == 2
    singly = {path.name: path for path in (tmp_path / "one by one").iterdir()}
    assert len(singly) == 2 * 6
    for name, path in singly.items():
        theirs = out / "patients" / name.split("_")[0] / name
        if path.suffix == ".json":
            assert _timeless(json.loads(theirs.read_bytes())) == _timeless(json.loads(path.read_bytes()))
        else:
            assert theirs.read_bytes() == path.read_bytes()

    anna, boris, carla = going.rows
    assert (anna.state, boris.state, carla.state) == (State.DONE, State.FAILED, State.DONE)
    assert "boris_t2.nii.gz" in boris.error
    assert anna.thumbnail is not None
    assert anna.thumbnail.read_bytes().startswith(b"\x89PNG")
    assert anna.outputs["report"].read_bytes().startswith(b"%PDF")
    assert anna.used == (T2,)
    assert anna.sequences == (T2, FLAIR)
    assert anna.scores["whole_tumour"].dice > 0.8
    assert not anna.learnt_from
    assert carla.learnt_from
    ended = {type(event): event for event in told if isinstance(event, Failed)}[Failed]
    assert ended.row == boris
    assert isinstance(told[-1], Done)
    assert {event.name for event in told if isinstance(event, Started)} == set(NAMES)

    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["patient"] for line in lines] == list(NAMES)
    assert [line["state"] for line in lines] == ["done", "failed", "done"]
    assert (out / lines[0]["mask"]).is_file()
    assert float(lines[0]["whole_tumour_ml"]) == anna.volumes_ml["whole_tumour"]
    assert lines[2]["learnt_from"] == "yes"
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["states"] == {"waiting": 0, "running": 0, "done": 2, "failed": 1, "skipped": 0}
    assert summary["learnt_from"] == ["carla"]
    assert summary["scores"]["patients"] == 1
    assert summary["scores_of_all"]["patients"] == 2


def test_sequences_that_are_not_to_be_looked_at_are_as_if_absent(models: Path, cohort: Path, tmp_path: Path) -> None:
    phantoms.write_subject(cohort / "dora", sequences=(FLAIR,))
    going = begun(cohort, tmp_path / "out", sequences=(T2,))
    going.run(jobs=1)
    record = json.loads((tmp_path / "out" / "patients" / "anna" / "anna_seg.json").read_text())
    assert record["sequences"]["absent"] == ["t1", "t1ce", "flair"]
    assert going.row("dora").state is State.FAILED
    assert "dora has no T2" in going.row("dora").error


# --- stopped and gone on with -----------------------------------------------------------------------------------------


_WHOLE: dict[str, bytes] = {}


@pytest.fixture
def whole(models: Path, cohort: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a batch that nobody disturbs writes; computed once, as the same patients give the same bytes."""
    if not _WHOLE:
        begun(cohort, tmp_path / "whole").run(jobs=2)
        _WHOLE.update(outputs(tmp_path / "whole"))
    return _WHOLE


def test_killed_at_the_first_patient_and_gone_on_with_it_is_the_same(
    whole: dict[str, bytes], cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    words = [sys.executable, "-m", "app", "batch", str(cohort), "--out", str(out), "--model", MODEL, "--jobs", "1"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        workers: list[psutil.Process] = []
        for line in process.stderr:
            if line.startswith("1 of 3"):
                workers = psutil.Process(process.pid).children()
                process.kill()
    assert workers, "a patient was done and its worker went on to the next"
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive, "workers end by themselves when nobody is left to work for"
    visible = [path.name for path in (out / "patients").iterdir() if not path.name.startswith(".")]
    assert visible, "what was told to be done is on the disk"
    half = {key: content for key, content in outputs(out).items() if "/." not in key}
    assert half == {key: content for key, content in whole.items() if key.split("/")[1] in visible}
    Batch.open(out).run(jobs=2)
    assert outputs(out) == whole
    assert not list((out / "patients").glob(".*"))


def test_cancelled_it_ends_within_a_second_and_goes_on_later(
    whole: dict[str, bytes], cohort: Path, tmp_path: Path
) -> None:
    going, progress = begun(cohort, tmp_path / "out"), Progress()
    asked = 0.0

    def stop(event: Event) -> None:
        nonlocal asked
        if isinstance(event, Progressed) and not asked:
            asked = time.monotonic()
            progress.cancel()

    told: list[Event] = []
    with pytest.raises(Cancelled):
        going.run(lambda event: (told.append(event), stop(event))[0], progress, jobs=2)
    assert time.monotonic() - asked < 3.0  # 0.8 on a machine that does nothing else
    assert isinstance(told[-1], Done)
    assert told[-1].stopped
    assert not list((tmp_path / "out" / "patients").glob(".*"))
    assert State.RUNNING not in {row.state for row in going.rows}
    going.run(jobs=2)
    assert outputs(tmp_path / "out") == whole


def test_paused_nothing_is_done_until_it_goes_on(whole: dict[str, bytes], cohort: Path, tmp_path: Path) -> None:
    going = begun(cohort, tmp_path / "out")
    told: list[Event] = []
    used: list[float] = []

    def hear(event: Event) -> None:
        told.append(event)
        if isinstance(event, Progressed) and not going.paused and not used:
            going.pause()
        elif isinstance(event, Paused) and event.paused:
            [worker] = psutil.Process().children()
            before = after = -1.0
            # The end of what it was just doing; on a busy machine it may have to wait for a processor core in between.
            while before != after or before < 0 or worker.status() != psutil.STATUS_SLEEPING:
                before = after
                after = sum(worker.cpu_times()[:2])
                psutil.wait_procs([worker], timeout=0.3)
            psutil.wait_procs([worker], timeout=0.5)
            used.append(sum(worker.cpu_times()[:2]) - after)
            going.go_on()

    going.run(hear, jobs=1)
    assert used == [0.0]
    assert [event.paused for event in told if isinstance(event, Paused)] == [True, False]
    assert outputs(tmp_path / "out") == whole


def test_a_worker_that_dies_loses_nobody(whole: dict[str, bytes], cohort: Path, tmp_path: Path) -> None:
    going = begun(cohort, tmp_path / "out")
    killed: list[str] = []

    def kill(event: Event) -> None:
        if isinstance(event, Progressed) and not killed:
            killed.append(event.name)
            for worker in psutil.Process().children():
                worker.kill()

    going.run(kill, jobs=1)
    assert killed
    assert going.count(State.DONE) == 3
    assert outputs(tmp_path / "out") == whole
    assert [entry["event"] for entry in batch.Journal(tmp_path / "out" / batch.JOURNAL).read()].count("lost") == 1


def test_who_failed_and_was_mended_gets_another_turn(
    whole: dict[str, bytes], models: Path, cohort: Path, tmp_path: Path
) -> None:
    broken = cohort / "boris" / "boris_t2.nii.gz"
    scan = broken.read_bytes()
    broken.write_bytes(scan[:200])
    going = begun(cohort, tmp_path / "out")
    assert going.skip(["anna"]) == 1
    going.run(jobs=1)
    assert [row.state for row in going.rows] == [State.SKIPPED, State.FAILED, State.DONE]
    broken.write_bytes(scan)
    again = Batch.open(tmp_path / "out")
    assert [row.state for row in again.rows] == [State.SKIPPED, State.FAILED, State.DONE]
    assert again.row("boris").error == going.row("boris").error
    assert again.retry() == 1
    assert again.retry(["anna", "carla"]) == 1
    again.run(jobs=1)
    assert outputs(tmp_path / "out") == whole


def test_two_cannot_work_on_one_batch(models: Path, cohort: Path, tmp_path: Path) -> None:
    going = begun(cohort, tmp_path / "out")
    refused: list[str] = []

    def begin_too(event: Event) -> None:
        if isinstance(event, Started) and not refused:
            with pytest.raises(CannotWrite, match="Somebody works on the batch in out already") as caught:
                Batch.open(tmp_path / "out").run()
            refused.append(str(caught.value))

    going.run(begin_too, jobs=1)
    assert refused
    with pytest.raises(CannotWrite, match="holds a batch already"):
        begun(cohort, tmp_path / "out")


def test_a_folder_of_somebody_else_is_not_replaced(models: Path, cohort: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "patients" / "anna" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    going = begun(cohort, tmp_path / "out")
    going.run(jobs=1)
    assert mine.read_text() == "mine"
    assert [row.state for row in going.rows] == [State.FAILED, State.DONE, State.DONE]


def test_a_line_that_was_not_written_to_its_end_is_passed_over(tmp_path: Path) -> None:
    journal = batch.Journal(tmp_path / "journal.jsonl")
    journal.write({"event": "failed", "name": "änne"})
    journal.write({"event": "again", "name": "änne"})
    whole = (tmp_path / "journal.jsonl").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "journal.jsonl").write_bytes(whole[:length])
        kept = whole[:length].count(b"\n")
        assert len(batch.Journal(tmp_path / "journal.jsonl").read()) == kept
        batch.Journal(tmp_path / "journal.jsonl").write({"event": "done", "name": "x"})
        read = batch.Journal(tmp_path / "journal.jsonl").read()
        assert [entry["event"] for entry in read] == ["failed", "again"][:kept] + ["done"]


# --- on a cluster -----------------------------------------------------------------------------------------------------


def test_on_a_cluster_a_worker_that_dies_loses_nobody_and_the_bytes_are_the_same(
    whole: dict[str, bytes], cohort: Path, tmp_path: Path
) -> None:
    begun(cohort, tmp_path / "out")
    words = [sys.executable, "-m", "tests.engine.on_a_cluster", str(tmp_path / "out")]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["killed"]
    assert answer["states"] == ["done"] * 3
    assert outputs(tmp_path / "out") == whole


def test_without_a_scheduler_that_is_said_and_nothing_is_lost(models: Path, cohort: Path, tmp_path: Path) -> None:
    words = ["batch", str(cohort), "--out", str(tmp_path / "out"), "--model", MODEL, "--scheduler", "tcp://127.0.0.1:9"]
    ran = subprocess.run([sys.executable, "-m", "app", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith("No Dask scheduler answers at tcp://127.0.0.1:9.")
    assert [row.state for row in Batch.open(tmp_path / "out").rows] == [State.WAITING] * 3
