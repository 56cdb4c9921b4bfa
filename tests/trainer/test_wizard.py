"""From patients to a plan and a study, page by page, without a window."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine import registry
from engine.errors import UserError
from engine.model_card import ModelCard
from engine.progress import Progress
from engine.volume import Sequence
from trainer import estimate
from trainer.doctor import Facts, PatientReport, Report
from trainer.patients import Patient, Patients
from trainer.study import Study
from trainer.wizard import Folds, HoldOut, Page, Plan, Quality, Wizard

EVERY = tuple(Sequence)
T1 = (Sequence.T1,)
FLAIR = (Sequence.FLAIR,)


def patient(name: str, sequences: tuple[Sequence, ...] = EVERY, source: str = "", truth: bool = True) -> Patient:
    files = {sequence: Path(f"{name}_{sequence}.nii.gz") for sequence in sequences}
    return Patient(name, files, Path(f"{name}_seg.nii.gz") if truth else None, source=source)


def cohort(count: int = 20, *more: Patient) -> Patients:
    return Patients((*(patient(f"p{number:02d}", source="ab"[number % 2]) for number in range(count)), *more), Path())


def examined(patients: Patients) -> Report:
    return Report(
        tuple(
            PatientReport(p.name, Facts(p.sequences, whole_tumour_ml=10.0 * number, source=p.source))
            for number, p in enumerate(patients.patients)
        )
    )


@pytest.fixture(scope="module")
def models() -> tuple[ModelCard, ...]:
    return registry.list_models([registry.SHIPPED]).models


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return replace(Plan.suggested(cohort()), folder=tmp_path, device="cpu")


# --- the pages --------------------------------------------------------------------------------------------------------


def test_each_page_says_what_it_still_needs() -> None:
    wizard = Wizard()
    assert wizard.why_not_next() == "Choose a folder of patients first."
    assert wizard.why_not_back() == "This is the first page."
    wizard.patients = cohort()
    assert wizard.why_not_next() == "The patients are still being looked at."
    with pytest.raises(UserError, match="still being looked at"):
        wizard.next()
    wizard.report = examined(wizard.patients)
    assert wizard.why_not_next() == ""
    assert wizard.next() is Page.PLAN
    assert wizard.plan is not None
    assert wizard.plan.teacher == EVERY
    assert wizard.plan.students == (T1,)
    assert wizard.why_not_next() == ""
    wizard.plan = replace(wizard.plan, students=(EVERY,))
    assert "A student sees fewer sequences than its teacher" in wizard.why_not_next()
    decided = wizard.plan
    assert wizard.back() is Page.PATIENTS
    assert wizard.next() is Page.PLAN
    assert wizard.plan is decided


def test_a_plan_becomes_a_training_that_is_started_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer import training

    started: list[Path] = []
    monkeypatch.setattr(training.Training, "start", lambda self: started.append(self.folder))
    wizard = Wizard()
    wizard.patients = cohort()
    wizard.report = examined(wizard.patients)
    wizard.next()
    wizard.plan = plan
    assert wizard.next() is Page.TRAIN
    assert started == [plan.folder / plan.name]
    assert wizard.training is not None
    assert wizard.training.study == plan.study(wizard.patients, wizard.volumes_ml)
    assert [p.name for p in wizard.training.patients.patients] == [p.name for p in wizard.patients.patients]
    assert wizard.why_not_next() == "There are results once the first network is trained and measured."
    assert "planned when it began" in wizard.why_not_back()
    again = Wizard.of(training.Training(plan.folder / plan.name))
    assert again.page is Page.TRAIN


def test_patients_that_cannot_be_learnt_from_are_told_at_once() -> None:
    wizard = Wizard()
    wizard.patients = cohort(0, *(patient(f"p{number}", truth=False) for number in range(3)))
    wizard.report = examined(wizard.patients)
    assert "None of these patients has a ground truth" in wizard.why_not_next()
    wizard.patients = cohort(1)
    wizard.report = examined(wizard.patients)
    assert wizard.why_not_next().startswith("One patient is too few")


# --- plans that cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"teacher": ()}, "Choose at least one sequence for the teacher."),
        ({"teacher": T1, "students": (FLAIR,)}, "The teacher does not see FLAIR, so it cannot teach"),
        ({"students": (T1, T1)}, "Two students see the same sequences."),
        ({"teacher": T1, "students": (), "any_student": True}, "needs a teacher who sees at least two"),
        ({"split": HoldOut(20)}, "Of 20 patients at least one and at most 19 can be kept apart."),
        ({"split": Folds(1)}, "20 patients can be split into 2 to 20 groups."),
        ({"start_from": "nobody"}, "There is no model called nobody to begin with."),
        ({"start_from": "student-t1"}, "never saw T1ce, T2 and FLAIR, so it is no beginning."),
        ({"name": "Mein Training"}, "A name is made of a-z"),
        ({"name": ".."}, "A name is made of a-z"),
    ],
)
def test_a_plan_that_makes_no_sense_says_why(
    plan: Plan, models: tuple[ModelCard, ...], change: dict[str, object], sentence: str
) -> None:
    assert plan.why_not(cohort(), models) == ""
    assert sentence in replace(plan, **change).why_not(cohort(), models)  # type: ignore[arg-type]


def test_patients_and_places_that_do_not_suffice_are_named(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Patients((patient("one", T1), patient("two", FLAIR)), Path())
    assert "No patient with a ground truth has T1, T1ce, T2 and FLAIR" in plan.why_not(lacking)
    (plan.folder / plan.name).mkdir()
    (plan.folder / plan.name / "something").write_text("")
    assert f"There is something called {plan.name} in that folder already" in plan.why_not(cohort())
    blocked = plan.folder / plan.name / "something"
    assert "cannot be written to" in replace(plan, folder=blocked).why_not(cohort())
    import shutil

    full = shutil._ntuple_diskusage(100, 99, 100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert "There is too little room on the disk: 0.1 GB are free" in replace(plan, name="other").why_not(cohort())


def test_what_is_worth_knowing_is_said(plan: Plan, models: tuple[ModelCard, ...]) -> None:
    teacher = next(card for card in models if card.name == "teacher")
    known = sorted(teacher.learnt_from)[0]
    patients = cohort(7, patient(known), patient("lacks", T1))
    notes = replace(plan, start_from="teacher").worth_knowing(patients, models)
    assert notes[0] == f"The {teacher.title} has learnt from {known}: what is measured on them flatters."
    assert "1 patient has not all of the teacher's sequences" in notes[1]
    assert "8 patients are few" in notes[2]
    assert replace(plan, start_from="teacher").worth_knowing(cohort(), models) == ()


# --- who is measured on -----------------------------------------------------------------------------------------------


def test_who_is_kept_apart_is_alike_in_source_and_size_and_has_every_sequence(plan: Plan) -> None:
    patients = cohort(20, patient("lacks", T1))
    volumes = {f"p{number:02d}": float(number) for number in range(20)}
    split = replace(plan, split=HoldOut(4)).split_of(patients, volumes)
    (held,) = split.held_out
    assert len(held) == 4
    assert "lacks" in split.learnt_from
    assert sorted((*held, *split.learnt_from)) == sorted(p.name for p in patients.patients)
    sources = [patients.named(name).source for name in held]
    assert sorted(sources) == ["a", "a", "b", "b"]
    sizes = sorted(volumes[name] for name in held)
    assert sizes[1] < 10 <= sizes[2]
    assert replace(plan, split=HoldOut(4)).split_of(patients, volumes) == split


def test_with_folds_everybody_is_kept_apart_once(plan: Plan) -> None:
    patients = cohort(20, patient("lacks", T1))
    split = replace(plan, split=Folds(5)).split_of(patients)
    assert sorted(name for fold in split.held_out for name in fold) == sorted(p.name for p in patients.patients)
    assert split.learnt_from == ()


# --- the study --------------------------------------------------------------------------------------------------------


def test_a_held_out_patient_is_never_learnt_from_and_lacking_ones_only_by_who_can(plan: Plan, tmp_path: Path) -> None:
    patients = cohort(20, patient("only-t1", T1), patient("only-flair", FLAIR), patient("only-t2", EVERY[2:3]))
    wanted = replace(plan, students=(T1, FLAIR), any_student=True, split=HoldOut(4))
    study = wanted.study(patients)
    study.write(tmp_path / "study.json")
    assert Study.read(tmp_path / "study.json") == study
    held = set(study.folds[0])
    runs = {run.config.name: run for run in study.plan(wanted.places())}
    assert all(not held & set(run.config.train_cases) for run in runs.values())
    assert all(set(run.config.validation_cases) == held for run in runs.values() if run.scored)
    of_t1 = runs["student-t1-without0-seed0"].config
    assert "only-t1" in of_t1.train_cases
    assert "only-flair" not in of_t1.train_cases
    assert set(runs["teacher-all-without0-seed0"].config.train_cases) == {
        p.name for p in cohort().patients if p.name not in held
    }
    of_any = runs["any-student-all-without0-seed0"].config
    assert {"only-t1", "only-flair", "only-t2"} <= set(of_any.train_cases)
    # Of each patient that is learnt from some teacher never saw him.
    assert of_t1.distillation is not None
    inner = [runs[name].config for name in of_t1.distillation.cross_fitted]
    assert len(inner) == 2
    for name in of_t1.train_cases:
        assert any(name not in teacher.train_cases for teacher in inner)
    assert {run.recipe for run in runs.values()} == {
        "teacher", "inner-teacher", "baseline", "student", "any-baseline", "any-student"
    }  # fmt: skip
    # A baseline learns the same as its student, but for the teacher.
    baseline = runs["baseline-t1-without0-seed0"].config
    same = {"name": "", "role": "teacher", "distillation": None}
    assert replace(baseline, **same) == replace(of_t1, **same)
    assert study.comparisons == (("student", "baseline"), ("any-student", "any-baseline"))


def test_few_or_incomplete_patients_still_make_a_study(plan: Plan) -> None:
    two = replace(plan, split=HoldOut(1))
    runs = two.study(cohort(2)).plan(two.places())
    assert [len(run.config.train_cases) for run in runs] == [1, 1, 1]
    # Names that come first are those of patients the teacher cannot see.
    patients = cohort(10, *(patient(f"a{number}", T1) for number in range(8)))
    for split in (HoldOut(2), Folds(2), Folds(3), Folds(10)):
        wanted = replace(plan, split=split, any_student=True)
        assert wanted.why_not(patients) == ""
        for run in wanted.study(patients).plan(wanted.places()):
            assert run.config.train_cases
            assert run.config.validation_cases or not run.scored


def test_quick_is_three_networks_and_folds_end_with_one_on_everybody(plan: Plan) -> None:
    quick = replace(plan, quality=Quality.QUICK)
    runs = quick.study(cohort()).plan(quick.places())
    assert [run.recipe for run in runs] == ["teacher", "baseline", "student"]
    folds = replace(quick, split=Folds(3), baseline=False)
    runs = folds.study(cohort()).plan(folds.places())
    assert [run.config.name for run in runs if not run.held_out] == [
        "teacher-all-everyone-seed0",
        "student-t1-everyone-seed0",
    ]
    assert len(runs) == 2 * 3 + 2


def test_a_training_begins_with_the_weights_of_a_model_of_its_own(plan: Plan, models: tuple[ModelCard, ...]) -> None:
    from trainer.training import Training

    wizard = Wizard(models)
    wizard.patients = cohort()
    begun = replace(plan, start_from="teacher", name="begun")
    made = begun.write_for_a_cluster(plan.folder / "begun", wizard.patients, None, models, gpus=2, nodes=2)
    config = made.planned[0].config
    assert Path(config.start_from) == made.folder / "start" / "teacher"
    assert (made.folder / "start" / "teacher" / "model.json").is_file()
    script = (made.folder / "train.slurm").read_text(encoding="utf-8")
    assert "--gpus-per-node=2" in script
    assert all(run.config.batch == 4 for run in made.planned)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    # Elsewhere, as on a cluster, it begins with what lies there.
    elsewhere = made.folder.rename(plan.folder / "elsewhere")
    assert Path(Training(elsewhere).planned[0].config.start_from) == elsewhere / "start" / "teacher"


def test_a_model_that_knows_none_of_the_patients_is_suggested_to_begin_with(models: tuple[ModelCard, ...]) -> None:
    assert Plan.suggested(cohort(), models).start_from == "teacher"
    known = sorted(next(card for card in models if card.name == "teacher").learnt_from)
    assert Plan.suggested(cohort(10, patient(known[0])), models).start_from == ""


def test_the_teacher_sees_what_most_patients_have() -> None:
    three = EVERY[:3]
    patients = Patients(tuple(patient(f"p{n}", three if n else EVERY) for n in range(9)), Path())
    plan = Plan.suggested(patients)
    assert plan.teacher == three
    assert plan.split == HoldOut(1)


# --- what it takes ----------------------------------------------------------------------------------------------------


def test_the_estimate_grows_with_what_is_trained(plan: Plan) -> None:
    pace = estimate.Pace("cpu", (0.2, 0.25, 0.3), (0.3, 0.35, 0.5), 900.0)
    quick, standard, folds = (
        estimate.estimate(changed, cohort(), pace)
        for changed in (replace(plan, quality=Quality.QUICK), plan, replace(plan, split=Folds(5)))
    )
    assert quick.seconds_low < quick.seconds_high < standard.seconds_high < folds.seconds_high
    assert quick.disk_mb < standard.disk_mb < folds.disk_mb
    # Teacher and baseline at 0.2 s a step, the student at 0.3: the least it can take.
    runs = replace(plan, quality=Quality.QUICK).study(cohort()).plan(plan.places())
    steps = {run.recipe: run.config.steps for run in runs}
    least = 0.2 * (steps["teacher"] + steps["baseline"]) + 0.3 * steps["student"]
    assert least < quick.seconds_low < 2 * least + 60


def test_the_processor_can_always_be_trained_on() -> None:
    processor = estimate.devices()[-1]
    assert processor.kind == "cpu"
    assert processor.usable
    assert processor.free_gb is None or processor.free_gb > 0.1


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_pace_is_measured_in_a_process_of_its_own(plan: Plan, tmp_path: Path) -> None:
    # The window asks, so asking must not load torch.
    script = f"""
import json, sys
from dataclasses import asdict
from pathlib import Path
from engine.progress import Progress
from trainer import estimate
from trainer.wizard import HoldOut, Plan, Quality
from engine.volume import Sequence
place = Path({str(tmp_path)!r})
plan = Plan("x", tuple(Sequence), ((Sequence.T1,),), False, True, "", HoldOut(2), Quality.QUICK, "cpu", place)
told = []
pace = estimate.measure("cpu", plan, Progress(lambda fraction, words: told.append(fraction)), seconds=1.0)
print(json.dumps([asdict(pace), max(told), "torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pace, furthest, torch_there = json.loads(done.stdout)
    assert not torch_there
    assert 0 < furthest < 1
    assert 0.01 < pace["plain"][0] <= pace["plain"][1] <= pace["plain"][2]
    assert pace["taught"][1] > 0.01
    assert pace["memory_mb"] > 100


def test_a_device_that_is_not_there_is_said_so(plan: Plan) -> None:
    with pytest.raises(UserError, match=r"The time could not be measured \(there is no CUDA device"):
        estimate.measure("cuda", plan, Progress(), seconds=1.0)
