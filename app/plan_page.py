"""The wizard's second page: what is to be trained, how long, on what and where to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import (
    QAbstractButton,
    QButtonGroup,
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QRadioButton,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app import installing
from app.controls import ElidedLabel, IconButton, MenuButton, Segments, action, clear, label, place_in_words, push
from app.jobs import Job, Jobs, Queue
from app.plan_parts import (
    Fold,
    QualityCard,
    SequenceChoice,
    Summary,
    count_of_patients,
    device_in_words,
)
from app.telling import Problem, time_left
from app.theme import Theme
from app.wizard_model import WizardModel
from engine.progress import Progress
from engine.volume import Sequence
from trainer.wizard import Folds, HoldOut, Page, Plan, Quality

if TYPE_CHECKING:
    from engine.model_card import ModelCard
    from trainer.estimate import Device, Estimate, Pace
    from trainer.patients import Patients
    from trainer.wizard import Split

# Wider lines are harder to read, and what belongs together drifts apart.
COLUMN_WIDTH = 800
# The sums are cheap, but not for each letter of a name.
SUMS_AFTER_MS = 60
QUALITIES = {
    Quality.QUICK: ("Quick", "To see that all works; the models are not good yet."),
    Quality.STANDARD: ("Standard", "What a first serious training should have."),
    Quality.THOROUGH: ("Thorough", "For models that others will use."),
}
SCRATCH = "Random weights"


@dataclass(frozen=True)
class Sums:
    """What a plan comes to.

    Attributes:
        split: Who is measured on; ``None`` where the plan makes no sense yet.
        estimates: By preset; empty before anything was measured.
        disk_free_gb: Where the training's folder would be.
    """

    split: Split | None
    estimates: dict[Quality, Estimate]
    disk_free_gb: float | None


def add_up(
    plan: Plan,
    patients: Patients,
    volumes: dict[str, float],
    models: tuple[ModelCard, ...],
    pace: Pace | None,
    sound: bool,
    progress: Progress,
) -> Sums:
    """What a plan comes to: who is measured on, how long each preset takes, what is free.

    Args:
        plan: What is to be trained.
        patients: On whom.
        volumes: Whole tumours in ml, where known.
        models: Those there are.
        pace: What was measured of this machine.
        sound: Whether the plan can be carried out.
        progress: To be stopped by.
    """
    from trainer.estimate import estimate

    estimates: dict[Quality, Estimate] = {}
    split = None
    if sound:
        split = plan.split_of(patients, volumes)
        for quality in Quality if pace is not None else ():
            progress.check()
            assert pace is not None
            estimates[quality] = estimate(replace(plan, quality=quality), patients, pace, models)
    return Sums(split, estimates, free_gb(plan.folder))


def free_gb(folder: Path) -> float | None:
    """Free space where a folder is or would be made, in GB; ``None`` where it cannot be told."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            try:
                return shutil.disk_usage(place).free / 1e9
            except OSError:
                return None
    return None


def look_for_devices(progress: Progress) -> list[Device]:
    """What could be trained on."""
    from trainer.estimate import devices

    progress.check()
    return devices()


class PlanPage(QWidget):
    """What is to be trained.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread.
        wizard: What is known and decided.
    """

    def __init__(self, theme: Theme, jobs: Jobs, wizard: WizardModel) -> None:
        super().__init__()
        self._theme, self._jobs, self.wizard = theme, jobs, wizard
        self.devices: list[Device] = []
        self.paces: dict[str, Pace] = {}
        self.sums = Sums(None, {}, None)
        self._measuring: Job | None = None
        self._installing: Job | None = None
        self._asked_devices = False
        self._tried: set[str] = set()

        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        inside = QWidget()
        inside.setObjectName("surface")
        around = QHBoxLayout(inside)
        around.setContentsMargins(24, 18, 24, 24)
        held = QWidget()
        held.setMaximumWidth(COLUMN_WIDTH)
        column = QVBoxLayout(held)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        around.addStretch(1)
        around.addWidget(held, 30)
        around.addStretch(1)
        area.setWidget(inside)
        self.area = area
        row.addWidget(area, 1)
        self.summary = Summary()
        for signal, act in (
            (self.summary.measure, self.measure),
            (self.summary.stop_measuring, self.stop_measuring),
            (self.summary.install, self.install_torch),
            (self.summary.stop_installing, self.stop_installing),
        ):
            signal.connect(act)
        row.addWidget(self.summary)

        column.addWidget(label("Plan", "title"))
        self._add_students(column)
        self._add_teacher(column)
        self._add_quality(column)
        column.addSpacing(14)
        self._add_folds(column)
        column.addStretch()

        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(SUMS_AFTER_MS)
        self._later.timeout.connect(self._add_up)
        wizard.plan_changed.connect(self._update)
        wizard.patients_changed.connect(self._update)
        wizard.page_changed.connect(self._page_changed)
        self._update()

    # Its parts

    def _question(self, column: QVBoxLayout, title: str, words: str) -> None:
        column.addSpacing(12)
        column.addWidget(label(title, "wordmark"))
        column.addWidget(label(words, "secondary", wrap=True))
        column.addSpacing(2)

    def _add_students(self, column: QVBoxLayout) -> None:
        self._question(
            column,
            "What will the students see?",
            "The sequences that the patients to come will have. Each line becomes a model of its own.",
        )
        self._students = QVBoxLayout()
        self._students.setSpacing(6)
        column.addLayout(self._students)
        self.student_rows: list[SequenceChoice] = []
        self._student_words: list[QLabel] = []
        self.remove_buttons: list[IconButton] = []
        self.add_button = push("Add a student", "link")
        self.add_button.clicked.connect(self._add_student)
        line = QHBoxLayout()
        line.addWidget(self.add_button)
        line.addStretch()
        column.addLayout(line)
        self.any_box = QCheckBox("One more that takes any of the teacher's sequences")
        self.any_box.toggled.connect(lambda on: self._change(any_student=on))
        self.baseline_box = QCheckBox("A baseline beside each student, to see what the teacher adds")
        self.baseline_box.toggled.connect(lambda on: self._change(baseline=on))
        for box in (self.any_box, self.baseline_box):
            box.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            column.addWidget(box)

    def _add_teacher(self, column: QVBoxLayout) -> None:
        self._question(
            column,
            "What does the teacher see?",
            "Students learn from a network that sees more than they will. It learns from the patients who have it all.",
        )
        self.teacher = SequenceChoice("Teacher", tuple(Sequence), lambda chosen: self._change(teacher=chosen))
        self.teacher_words = label("", "secondary")
        line = QHBoxLayout()
        line.setSpacing(14)
        line.addWidget(self.teacher)
        line.addWidget(self.teacher_words)
        line.addStretch()
        column.addLayout(line)

    def _add_quality(self, column: QVBoxLayout) -> None:
        self._question(column, "How long may it take?", "All models together, on this machine, as it is now.")
        line = QHBoxLayout()
        line.setSpacing(10)
        group = QButtonGroup(self)
        self.qualities = {quality: QualityCard(self._theme, *QUALITIES[quality]) for quality in Quality}
        for quality, card in self.qualities.items():
            card.clicked.connect(lambda _=False, quality=quality: self._change(quality=quality))
            group.addButton(card)
            line.addWidget(card)
        column.addLayout(line)

    def _add_folds(self, column: QVBoxLayout) -> None:
        theme = self._theme
        self.split_fold = Fold(theme, "Who is measured on")
        self.start_fold = Fold(theme, "Where learning begins")
        self.device_fold = Fold(theme, "What it runs on")
        self.place_fold = Fold(theme, "Name and folder")
        self.cluster_fold = Fold(theme, "Run it on a cluster instead")
        for fold in (self.split_fold, self.start_fold, self.device_fold, self.place_fold, self.cluster_fold):
            column.addWidget(fold)
        column.setSpacing(6)

        body = self.split_fold.body
        body.addWidget(
            label("Nobody is ever measured on a patient it has learnt from. Splits are by patient.", "secondary", True)
        )
        line = QHBoxLayout()
        line.setSpacing(8)
        self.split_choice = Segments(
            (
                (HoldOut, "Keep some apart", "Some patients are kept apart; everybody else is learnt from"),
                (Folds, "Everybody once", "Folds: everybody is measured on once, which takes so many times as long"),
            ),
            "Who is measured on",
        )
        self.split_choice.chosen.connect(self._choose_split)
        self.split_count = QSpinBox()
        self.split_count.setAccessibleName("How many")
        self.split_count.setMinimumWidth(64)
        self.split_count.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.split_count.valueChanged.connect(self._count_split)
        self.fewer = IconButton(theme, "minus", "One fewer")
        self.more = IconButton(theme, "plus", "One more")
        self.fewer.clicked.connect(self.split_count.stepDown)
        self.more.clicked.connect(self.split_count.stepUp)
        self.split_words = label("", "secondary")
        for part in (self.split_choice, self.fewer, self.split_count, self.more, self.split_words):
            line.addWidget(part)
        line.addStretch()
        body.addLayout(line)
        self.split_table = QGridLayout()
        self.split_table.setHorizontalSpacing(18)
        self.split_table.setVerticalSpacing(3)
        body.addLayout(self.split_table)

        body = self.start_fold.body
        body.addWidget(
            label(
                "Beginning with a model that has seen brains takes fewer patients. It must never have seen those that "
                "are measured on: a model's card names whom it learned from.",
                "secondary",
                wrap=True,
            )
        )
        self.start_button = MenuButton(theme, "Weights to begin with")
        self.start_button.setMaximumWidth(320)
        self.start_button.clicked.connect(self._offer_starts)
        body.addWidget(self.start_button)

        self._device_rows = QVBoxLayout()
        self._device_rows.setSpacing(4)
        self.device_fold.body.addLayout(self._device_rows)
        self.device_buttons: dict[str, QAbstractButton] = {}

        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(8)
        self.name = QLineEdit()
        self.name.setAccessibleName("Name of the training")
        self.name.setMaximumWidth(320)
        self.name.textEdited.connect(lambda text: self._change(name=text.strip()))
        self.folder = ElidedLabel("", "secondary")
        self.folder.setMinimumWidth(200)
        self.folder_button = push("Choose", "", "Another folder for the training and its models")
        self.folder_button.clicked.connect(self.browse_folder)
        grid.addWidget(label("Name", "secondary"), 0, 0)
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(label("Folder", "secondary"), 1, 0)
        place = QHBoxLayout()
        place.setSpacing(8)
        place.addWidget(self.folder, 1)
        place.addWidget(self.folder_button)
        grid.addLayout(place, 1, 1)
        grid.setColumnStretch(1, 1)
        self.place_fold.body.addLayout(grid)

        body = self.cluster_fold.body
        body.addWidget(
            label(
                "Writes the study, the list of patients and a Slurm script into a folder. Copy it and the scans to the "
                "cluster, submit the script, and open the folder here again when it is done.",
                "secondary",
                wrap=True,
            )
        )
        line = QHBoxLayout()
        line.setSpacing(8)
        self.cluster_counts: dict[str, QSpinBox] = {}
        for name, words, value, most in (
            ("gpus", "GPUs a node", 1, 16),
            ("nodes", "Nodes", 1, 64),
        ):
            line.addWidget(label(words, "secondary"))
            box = QSpinBox()
            box.setRange(1, most)
            box.setValue(value)
            box.setAccessibleName(words)
            box.setMinimumWidth(52)
            box.setAlignment(Qt.AlignmentFlag.AlignCenter)
            self.cluster_counts[name] = box
            line.addWidget(box)
            line.addSpacing(6)
        self.cluster_button = push("Write the files", "", "Choose where to; nothing is sent anywhere")
        self.cluster_button.clicked.connect(self.write_for_cluster)
        line.addWidget(self.cluster_button)
        line.addStretch()
        body.addLayout(line)

    # Changes

    def _change(self, **fields: Any) -> None:
        plan = self.wizard.plan
        if plan is not None:
            self.wizard.set_plan(replace(plan, **fields))

    def _change_student(self, number: int, chosen: tuple[Sequence, ...]) -> None:
        plan = self.wizard.plan
        if plan is not None:
            students = list(plan.students)
            students[number] = chosen
            self._change(students=tuple(students))

    def _add_student(self) -> None:
        plan = self.wizard.plan
        if plan is None:
            return
        # The next that is not there yet: one sequence, then pairs.
        pairs = [(a, b) for a in Sequence for b in Sequence if list(Sequence).index(a) < list(Sequence).index(b)]
        offers = [*((sequence,) for sequence in Sequence), *pairs]
        new = next((offer for offer in offers if set(offer) <= set(plan.teacher) and offer not in plan.students), None)
        if new is not None:
            self._change(students=(*plan.students, new))

    def _remove_student(self, number: int) -> None:
        plan = self.wizard.plan
        if plan is not None:
            self._change(students=(*plan.students[:number], *plan.students[number + 1 :]))

    def _choose_split(self, kind: object) -> None:
        count = self._usable_count()
        if kind is Folds:
            self._change(split=Folds(min(5, max(2, count))))
        elif kind is HoldOut:
            self._change(split=HoldOut(max(1, round(count / 5))))

    def _count_split(self, count: int) -> None:
        plan = self.wizard.plan
        if plan is not None:
            self._change(split=Folds(count) if isinstance(plan.split, Folds) else HoldOut(count))

    def _usable_count(self) -> int:
        """How many may be measured on: all that the teacher could see."""
        plan, patients = self.wizard.plan, self.wizard.usable
        return len(patients.having(plan.teacher)) if plan is not None and patients is not None else 0

    def browse_folder(self) -> None:
        """Choose where the training's folder is made."""
        plan = self.wizard.plan
        if plan is None:
            return
        name = QFileDialog.getExistingDirectory(self, "Where to put the training", str(plan.folder))
        if name:
            self._change(folder=Path(name))

    def write_for_cluster(self) -> None:
        """Choose where to, then write everything a cluster needs."""
        plan = self.wizard.plan
        if plan is None:
            return
        name = QFileDialog.getExistingDirectory(self, "Write the files for a cluster", str(Path.home()))
        if not name:
            return
        counts = {key: box.value() for key, box in self.cluster_counts.items()}
        self.wizard.write_for_cluster(Path(name), **counts)

    # What is shown

    def _page_changed(self) -> None:
        if self.wizard.page is Page.PLAN:
            self._ask_devices()
            self._update()

    def _update(self) -> None:
        plan, patients = self.wizard.plan, self.wizard.usable
        if plan is None or patients is None:
            return
        self._update_students(plan, patients)
        self.teacher.set(plan.teacher)
        count = len(patients.having(plan.teacher))
        self.teacher_words.setText(f"{count_of_patients(count)} have all of these")
        for box, on in ((self.any_box, plan.any_student), (self.baseline_box, plan.baseline)):
            box.blockSignals(True)
            box.setChecked(on)
            box.blockSignals(False)
        self.qualities[plan.quality].setChecked(True)
        self._update_split(plan)
        self._update_start(plan)
        self._update_devices()
        if self.name.text().strip() != plan.name:
            self.name.setText(plan.name)
        self.folder.setText(place_in_words(plan.folder))
        self.folder.setToolTip(str(plan.folder))
        self.place_fold.say(plan.name)
        why = self.wizard.why_not_plan
        self.cluster_button.setEnabled(not why)
        self.cluster_button.setToolTip(why or "Choose where to; nothing is sent anywhere")
        self.summary.show_plan(plan, plan.worth_knowing(patients, self.wizard.wizard.models))
        self._later.start()

    def _update_students(self, plan: Plan, patients: Patients) -> None:
        if len(self.student_rows) != len(plan.students):
            clear(self._students)
            self.student_rows, self.remove_buttons, self._student_words = [], [], []
            for number, student in enumerate(plan.students):
                line = QHBoxLayout()
                line.setSpacing(14)
                choice = SequenceChoice(f"Student {number + 1}", student, partial(self._change_student, number))
                words = label("", "secondary")
                remove = IconButton(self._theme, "x", "Train no such student")
                remove.clicked.connect(lambda _=False, number=number: self._remove_student(number))
                line.addWidget(choice)
                line.addWidget(words)
                line.addStretch()
                line.addWidget(remove)
                self._students.addLayout(line)
                self.student_rows.append(choice)
                self.remove_buttons.append(remove)
                self._student_words.append(words)
        for number, student in enumerate(plan.students):
            self.student_rows[number].set(student)
            count = len(patients.having(student))
            self._student_words[number].setText(f"{count_of_patients(count)} with these")

    def _update_split(self, plan: Plan) -> None:
        count = self._usable_count()
        folds = isinstance(plan.split, Folds)
        self.split_choice.set(Folds if folds else HoldOut)
        value = plan.split.count if isinstance(plan.split, Folds) else plan.split.patients
        self.split_count.blockSignals(True)
        self.split_count.setRange(2 if folds else 1, max(2, min(10, count)) if folds else max(1, count - 1))
        self.split_count.setValue(value)
        self.split_count.blockSignals(False)
        self.split_words.setText("folds" if folds else f"of {count_of_patients(count)}")
        if isinstance(plan.split, Folds):
            self.split_fold.say(f"Everybody once, in {plan.split.count} folds")
        else:
            self.split_fold.say(f"{value} of {count_of_patients(count)} kept apart")

    def _update_start(self, plan: Plan) -> None:
        chosen = self._starts().get(plan.start_from, plan.start_from)
        self.start_button.setText(chosen)
        self.start_button.setAccessibleName(f"Weights to begin with: {chosen}")
        self.start_fold.say(chosen)

    def start_menu(self) -> QMenu:
        """The models one can begin with."""
        plan = self.wizard.plan
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for name, title in self._starts().items():
            entry = action(title, self)
            entry.setParent(menu)
            entry.setCheckable(True)
            entry.setChecked(plan is not None and name == plan.start_from)
            entry.triggered.connect(lambda _=False, name=name: self._change(start_from=name))
            menu.addAction(entry)
        return menu

    def _offer_starts(self) -> None:
        self.start_menu().popup(self.start_button.mapToGlobal(self.start_button.rect().bottomLeft()))

    def _starts(self) -> dict[str, str]:
        plan = self.wizard.plan
        fitting = plan.starting_points(self.wizard.wizard.models) if plan is not None else []
        return {"": SCRATCH} | {card.name: f"{card.title} {card.version}" for card in fitting}

    # Devices

    def _ask_devices(self) -> None:
        if self._asked_devices:
            return
        self._asked_devices = True

        def found(devices: list[Device]) -> None:
            self.devices = devices
            clear(self._device_rows)
            self.device_buttons = {}
            group = QButtonGroup(self)
            for device in devices:
                button = QRadioButton(device_in_words(device))
                button.setEnabled(device.usable)
                button.setToolTip(device.why_not)
                button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
                button.clicked.connect(lambda _=False, kind=device.kind: self._change(device=kind))
                group.addButton(button)
                self._device_rows.addWidget(button)
                self.device_buttons[device.kind] = button
            self._update()
            self._measure_if_wise()

        def failed(error: Exception) -> None:
            self._asked_devices = False
            self.wizard.fail(error, "Looking for what to train on stopped")

        self._jobs.run(look_for_devices, on_finished=found, on_failed=failed, topic="devices")

    def _update_devices(self) -> None:
        device = self.device
        self.device_fold.say(device_in_words(device) if device is not None else "Looking")
        if device is not None:
            self.device_buttons[device.kind].setChecked(True)

    @property
    def device(self) -> Device | None:
        """What the plan runs on, once it is known what there is; the best where the plan leaves it open."""
        plan = self.wizard.plan
        usable = [device for device in self.devices if device.usable]
        if plan is None or not usable:
            return None
        return next((device for device in usable if device.kind == plan.device), usable[0])

    @property
    def kind(self) -> str:
        """The same as a config names it; empty while it is unknown."""
        return self.device.kind if self.device is not None else ""

    # Measuring

    @property
    def measuring(self) -> bool:
        """Whether this machine is being measured."""
        return self._measuring is not None

    def _measure_if_wise(self) -> None:
        """Twenty seconds of work nobody asked for are given once for a device, where training is possible at all."""
        wanted = self.wizard.page is Page.PLAN and self.wizard.training is None and not self.wizard.why_not_plan
        if wanted and self.kind and self.kind not in self._tried:
            self.measure()

    def measure(self) -> None:
        """Try on this machine how long a step takes."""
        from trainer.estimate import measure

        plan, kind, models = self.wizard.plan, self.kind, self.wizard.wizard.models
        if plan is None or not kind or self._measuring is not None or not installing.torch_is_here():
            return
        self._tried.add(kind)

        def done(pace: Pace) -> None:
            self._measuring = None
            self.paces[pace.device] = pace
            self.summary.show_measuring(None)
            self._add_up()

        def failed(error: Exception) -> None:
            self._measuring = None
            self.summary.show_measuring(None)
            self.wizard.fail(error, "Measuring stopped")

        def cancelled() -> None:
            self._measuring = None
            self.summary.show_measuring(None)

        self.summary.show_measuring(0.0)
        self._measuring = self._jobs.run(
            lambda progress: measure(kind, plan, progress, models),
            on_finished=done,
            on_failed=failed,
            on_cancelled=cancelled,
            on_progress=lambda fraction, _: self.summary.show_measuring(fraction),
            queue=Queue.COMPUTING,
        )

    def stop_measuring(self) -> None:
        """Go on without knowing how long it takes."""
        if self._measuring is not None:
            self._measuring.cancel()

    def _add_up(self) -> None:
        plan, patients = self.wizard.plan, self.wizard.usable
        if plan is None or patients is None:
            return
        self._measure_if_wise()

        def done(sums: Sums) -> None:
            self.sums = sums
            self._show_sums()

        self._jobs.run(
            add_up,
            plan,
            patients,
            self.wizard.wizard.volumes_ml,
            self.wizard.wizard.models,
            self.paces.get(self.kind),
            not self.wizard.why_not_plan,
            on_finished=done,
            on_failed=lambda error: self.wizard.fail(error, "Adding up stopped"),
            topic="sums",
        )

    def _show_sums(self) -> None:
        plan, sums = self.wizard.plan, self.sums
        if plan is None:
            return
        for quality, card in self.qualities.items():
            found = sums.estimates.get(quality)
            card.show_time(time_left(found.seconds_low, found.seconds_high) if found is not None else "")
        self.summary.show_sums(sums.estimates.get(plan.quality), sums.disk_free_gb, self.device)
        self._show_split(sums.split)

    def _show_split(self, split: Split | None) -> None:
        clear(self.split_table)
        if split is None:
            return
        volumes = self.wizard.wizard.volumes_ml
        groups = [(f"Fold {number}", names) for number, names in enumerate(split.held_out, 1)]
        if len(groups) == 1:
            groups = [("Kept apart", split.held_out[0])]
        if split.learnt_from:
            groups.append(("Learnt from", split.learnt_from))
        row = 0
        for title, names in groups:
            sizes = sorted(volumes[name] for name in names if name in volumes)
            middle = f", median tumour {sizes[len(sizes) // 2]:.0f} ml" if sizes else ""
            self.split_table.addWidget(
                label(f"{title.upper()}: {count_of_patients(len(names))}{middle}", "caption"), row, 0, 1, 3
            )
            row += 1
            # Down the columns, as lists of names are read.
            deep = -(-len(names) // 3)
            for number, name in enumerate(names):
                size = f"  {volumes[name]:.0f} ml" if name in volumes else ""
                self.split_table.addWidget(label(f"{name}{size}", "secondary"), row + number % deep, number // deep)
            row += deep
            self.split_table.setRowMinimumHeight(row, 6)
            row += 1

    # torch

    @property
    def installing(self) -> bool:
        """Whether torch is being installed."""
        return self._installing is not None

    def install_torch(self) -> None:
        """Add what training needs; the user has just agreed to it."""
        if self._installing is not None:
            return

        def ended() -> None:
            self._installing = None
            self.summary.show_installing("")

        def done(_: None) -> None:
            ended()
            self._asked_devices = False
            self.wizard.tell(Problem("Everything that training needs is installed.", note=True))
            self._ask_devices()
            self.wizard.page_changed.emit()

        def failed(error: Exception) -> None:
            ended()
            self.wizard.fail(error, "The installation stopped")

        self.summary.show_installing("Asking which packages are needed")
        self._installing = self._jobs.run(
            installing.install_torch,
            on_finished=done,
            on_failed=failed,
            on_cancelled=ended,
            on_progress=lambda _, words: self.summary.show_installing(words),
            queue=Queue.COMPUTING,
        )

    def stop_installing(self) -> None:
        """Install nothing after all."""
        if self._installing is not None:
            self.summary.show_installing("Stopping")
            self._installing.cancel()
