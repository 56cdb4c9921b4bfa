"""What the pages of the training wizard share: the patients, the plan and the training, with signals around them.

The decisions are those of `trainer.wizard.Wizard`, which knows no Qt; this takes its work to threads and tells the
pages of its changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt, Signal

from app import installing
from app.jobs import Job, Jobs
from app.telling import Problem, Teller
from engine.progress import Progress
from trainer.wizard import Page, Wizard

if TYPE_CHECKING:
    from engine.model_card import ModelCard
    from trainer.doctor import Finding, PatientReport, Repair, Report
    from trainer.patients import Patients
    from trainer.training import Training
    from trainer.wizard import Plan

PAGES = tuple(Page)


@dataclass(frozen=True)
class Decision:
    """Something done about the patients, to be taken back.

    Attributes:
        words: What was done: ``"Patient 7 left out"``.
        patients: All as they were before.
        reports: What was known of them then.
    """

    words: str
    patients: Patients
    reports: dict[str, PatientReport]


def is_training(path: Path) -> bool:
    """Whether a folder is that of a training, such as one that came back from a cluster."""
    return (path / "study.json").is_file() and (path / "patients.json").is_file()


class WizardModel(Teller):
    """One passage through the wizard.

    Args:
        jobs: Everything that runs away from the UI thread.
        models: Gives the installed models; called on a thread.

    Attributes:
        wizard: Where the user is and what was decided.
        fraction: How far the examination is, 0..1.
        doing: What is being looked at.
        reports: What the doctor has said so far, by patient.

    Signals:
        page_changed: Another page is shown, or why one cannot go on is another.
        patients_changed: Other patients, or other decisions about them.
        examined: What the doctor says about one patient: a `trainer.doctor.PatientReport`.
        examining_changed: Patients are being looked for or at, that has come further, or it has ended.
        plan_changed: Another plan, or none.
        training_changed: Another training is looked at, or none.
        busy_changed: A training is being made, or that has ended.
        look_wanted: A `Look` is to be opened in the viewer.
        models_changed: A model was installed, imported or removed.
    """

    page_changed = Signal()
    patients_changed = Signal()
    examined = Signal(object)
    examining_changed = Signal()
    plan_changed = Signal()
    training_changed = Signal()
    busy_changed = Signal()
    look_wanted = Signal(object)
    models_changed = Signal()
    _said = Signal(object, object)

    def __init__(
        self,
        jobs: Jobs,
        models: Callable[[], Iterable[ModelCard]] = lambda: (),
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._jobs, self._models = jobs, models
        self.wizard = Wizard()
        self.fraction, self.doing = 0.0, ""
        self.reports: dict[str, PatientReport] = {}
        self._looked_at: Report | None = None
        self._decisions: list[Decision] = []
        self._job: Job | None = None
        self._busy = ""
        self._said.connect(self._hear, Qt.ConnectionType.QueuedConnection)

    # Pages

    @property
    def page(self) -> Page:
        """The page that is shown."""
        return self.wizard.page

    @property
    def busy(self) -> str:
        """What is being done before one can go on, in words; empty for nothing."""
        return self._busy

    def why_not(self, page: Page) -> str:
        """Why the step list cannot lead to a page now, in a sentence; empty where it can."""
        step = PAGES.index(page) - PAGES.index(self.page)
        if self._busy:
            return f"{self._busy}; this takes a moment."
        if step == 0:
            return ""
        if step < 0:
            return self.wizard.why_not_back()
        if step == 1 and self.page is not Page.PLAN:
            return self.why_not_next
        if page is Page.TRAIN:
            return "Start the training from the plan."
        return f"{PAGES[PAGES.index(page) - 1].value} comes first."

    @property
    def why_not_next(self) -> str:
        """Why one cannot go on from this page, in a sentence; empty where one can."""
        if self.examining and self.page is Page.PATIENTS:
            return "The patients are still being looked at."
        why = self.wizard.why_not_next()
        if not why and self.page is Page.PLAN and not installing.torch_is_here():
            return "Training needs torch, which is not installed yet."
        return why

    def next(self) -> None:
        """Go on to the next page; from the plan this makes the training and starts it."""
        if self.why_not_next or self._busy:
            return
        if self.page is not Page.PLAN:
            self._step(self.wizard.next)
            return
        self._busy = "Making the training"
        self.busy_changed.emit()

        def go_on(progress: Progress) -> Page:
            progress.check()
            return self.wizard.next()

        def made(page: Page) -> None:
            self._end_busy()
            self.training_changed.emit()
            self.page_changed.emit()

        def failed(error: Exception) -> None:
            self._end_busy()
            self.fail(error, "The training was not begun")
            self.page_changed.emit()

        self._jobs.run(go_on, on_finished=made, on_failed=failed, topic="wizard")

    def back(self) -> None:
        """Go back to the page before."""
        if not self.wizard.why_not_back() and not self._busy:
            self._step(self.wizard.back)

    def go_to(self, page: Page) -> None:
        """Show another page, if the step list can lead there."""
        if self.why_not(page):
            return
        while PAGES.index(self.page) > PAGES.index(page) and not self.wizard.why_not_back():
            self._step(self.wizard.back)
        if PAGES.index(self.page) < PAGES.index(page):
            self.next()

    def _step(self, step: Callable[[], Page]) -> None:
        planned = self.wizard.plan
        self.dismiss()
        step()
        if self.wizard.plan is not planned:
            self.plan_changed.emit()
        self.page_changed.emit()

    def _end_busy(self) -> None:
        self._busy = ""
        self.busy_changed.emit()

    # Trainings

    @property
    def training(self) -> Training | None:
        """The training that is looked at."""
        return self.wizard.training

    def begin_anew(self) -> None:
        """Forget patients, plan and training of this passage; what runs goes on."""
        self.stop_looking()
        self._take_over(Wizard(self.wizard.models))

    def look_at(self, training: Training) -> None:
        """Show a training that was begun before."""
        self.stop_looking()
        models = self.wizard.models

        def found(value: tuple[Wizard, tuple[ModelCard, ...]]) -> None:
            wizard, wizard.models = value[0], value[1] or models
            self._take_over(wizard)

        self._jobs.run(
            lambda progress: (Wizard.of(training), tuple(self._models())),
            on_finished=found,
            on_failed=lambda error: self.fail(error, "Opening the training stopped"),
            topic="wizard",
        )

    def open(self, path: Path) -> None:
        """Open what was dropped or chosen: the folder of a training, or patients to begin one with."""
        if not is_training(path):
            self.choose_patients(path)
            return
        from trainer.training import Training

        self._jobs.run(
            lambda progress: Training(path),
            on_finished=self.look_at,
            on_failed=lambda error: self.fail(error, "Opening the training stopped"),
            topic="wizard",
        )

    def _take_over(self, wizard: Wizard) -> None:
        self.wizard = wizard
        self.reports, self._decisions = {}, []
        self.dismiss()
        for signal in (self.patients_changed, self.plan_changed, self.training_changed, self.page_changed):
            signal.emit()

    # Patients

    @property
    def patients(self) -> Patients | None:
        """Those found, with what was decided about them."""
        return self.wizard.patients

    @property
    def report(self) -> Report | None:
        """What the doctor said once all were looked at."""
        return self.wizard.report

    @property
    def examining(self) -> bool:
        """Whether patients are being looked for or at."""
        return self._job is not None

    @property
    def decision(self) -> Decision | None:
        """What was done last about the patients, to be taken back."""
        return self._decisions[-1] if self._decisions else None

    def choose_patients(self, path: Path) -> None:
        """Find the patients in a folder, a table or a manifest, and look at every one of them."""
        from trainer.patients import Patients

        self.stop_looking()
        self.dismiss()

        def find(progress: Progress) -> tuple[Patients, tuple[ModelCard, ...]]:
            progress.update(0.0, f"looking for patients in {path.name or path}")
            return Patients.read(path), tuple(self._models())

        def found(value: tuple[Patients, tuple[ModelCard, ...]]) -> None:
            patients, self.wizard.models = value
            self._job = None
            self.wizard.patients, self.wizard.report, self.wizard.plan = patients, None, None
            self.wizard.training, self.wizard.page = None, Page.PATIENTS
            self.reports, self._decisions = {}, []
            for signal in (self.patients_changed, self.plan_changed, self.training_changed, self.page_changed):
                signal.emit()
            self.examine()

        self.fraction, self.doing = 0.0, f"looking for patients in {path.name or path}"
        self._begin(find, found)

    def examine(self) -> None:
        """Let the doctor look at every patient anew."""
        from trainer import doctor

        patients, before = self.patients, self._looked_at
        if patients is None:
            return
        self.stop_looking()

        def look(progress: Progress) -> Report:
            # Whose files and decisions are as they were is not read again.
            return doctor.examine(patients, progress, lambda report: self._said.emit(patients, report), before)

        def done(report: Report) -> None:
            self._job = None
            self.wizard.report = self._looked_at = report
            self.reports = {patient.name: patient for patient in report.patients}
            self.patients_changed.emit()
            self.examining_changed.emit()
            self.page_changed.emit()

        self.wizard.report = None
        self._begin(look, done)

    def stop_looking(self) -> None:
        """Stop looking for patients or at them; what is known of them so far stays."""
        if self._job is not None:
            self._job = None
            self._jobs.drop("patients")
            self.examining_changed.emit()
            self.page_changed.emit()

    def repair(self, findings: Sequence[Finding], repair: Repair) -> None:
        """Do what these findings offer, with the user's consent; the scans themselves are never touched."""
        from trainer import doctor

        patients = self.patients
        if patients is None or not findings:
            return
        for finding in findings:
            patients = doctor.apply(patients, finding, repair)
        whom = findings[0].patient if len(findings) == 1 else f"{len(findings)} patients"
        self._decide(f"{whom}: {repair.title[:1].lower()}{repair.title[1:]}", patients)

    def include(self, name: str, included: bool) -> None:
        """Learn from a patient, or leave it out."""
        if self.patients is None or self.patients.named(name).included is included:
            return
        patient = replace(self.patients.named(name), included=included)
        words = f"{name} taken in again" if included else f"{name} left out"
        self._decide(words, self.patients.with_patient(patient))

    def take_back(self) -> None:
        """Undo the last decision about the patients."""
        if self._decisions:
            before = self._decisions.pop()
            self._put(before.patients, before.reports)

    def _decide(self, words: str, patients: Patients) -> None:
        assert self.patients is not None
        self._decisions.append(Decision(words, self.patients, dict(self.reports)))
        before = {patient.name: patient for patient in self.patients.patients}
        reports = dict(self.reports)
        anew = []
        for patient in patients.patients:
            known = before.get(patient.name)
            if patient == known:
                continue
            if patient.name in reports:
                reports[patient.name] = replace(reports[patient.name], included=patient.included)
            # Leaving out changes nothing about the files; everything else may.
            if known is None or replace(patient, included=known.included, decisions=known.decisions) != known:
                anew.append(patient.name)
        self._put(patients, reports)
        if anew:
            self.examine()

    def _put(self, patients: Patients, reports: dict[str, PatientReport]) -> None:
        self.wizard.patients, self.reports = patients, reports
        if self.wizard.report is not None:
            self.wizard.report = replace(
                self.wizard.report, patients=tuple(reports[patient.name] for patient in patients.patients)
            )
        self.patients_changed.emit()
        self.page_changed.emit()

    def _begin(self, function: Callable[[Progress], object], on_finished: Callable[..., None]) -> None:
        def failed(error: Exception) -> None:
            self._job = None
            self.examining_changed.emit()
            self.fail(error, "Looking at the patients stopped")
            self.page_changed.emit()

        def report(fraction: float, message: str) -> None:
            self.fraction, self.doing = fraction, message
            self.examining_changed.emit()

        self._job = self._jobs.run(
            function, on_finished=on_finished, on_failed=failed, on_progress=report, topic="patients"
        )
        self.examining_changed.emit()
        self.page_changed.emit()

    def _hear(self, whom: Patients, report: PatientReport) -> None:
        # Of a look that was stopped a word may still be on its way.
        if self._job is not None and whom is self.patients:
            self.reports[report.name] = report
            self.examined.emit(report)

    # The plan

    @property
    def plan(self) -> Plan | None:
        """What is to be trained."""
        return self.wizard.plan

    def set_plan(self, plan: Plan) -> None:
        """Decide on another plan."""
        if plan != self.wizard.plan:
            self.wizard.plan = plan
            self.plan_changed.emit()
            self.page_changed.emit()

    @property
    def usable(self) -> Patients | None:
        """The patients a training can use; ``None`` before all were looked at."""
        return self.wizard.usable

    @property
    def why_not_plan(self) -> str:
        """What keeps the plan from being carried out, in a sentence; empty if nothing does."""
        plan, usable = self.plan, self.usable
        if plan is None or usable is None:
            return "Choose the patients first."
        return plan.why_not(usable, self.wizard.models)

    def write_for_cluster(self, folder: Path, gpus: int, nodes: int) -> None:
        """Write the training's folder with a batch script in it, and start nothing here."""
        plan, usable = self.plan, self.usable
        if plan is None or usable is None or self.why_not_plan:
            return
        volumes, models = self.wizard.volumes_ml, self.wizard.models

        def write(progress: Progress) -> Path:
            progress.check()
            return plan.write_for_a_cluster(folder / plan.name, usable, volumes, models, gpus, nodes).folder

        def written(place: Path) -> None:
            self.tell(
                Problem(f"Everything for the cluster is in {place}; submit the script that lies there.", note=True)
            )

        self._jobs.run(
            write,
            on_finished=written,
            on_failed=lambda error: self.fail(error, "Writing for the cluster stopped"),
            topic="cluster",
        )
