"""The Result page: teacher, baseline and student side by side, the worst patients, and the model to install."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QShowEvent
from PySide6.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLayout,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.controls import Choice, Segments, label, push
from app.curves import role_colour
from app.jobs import Job, Jobs, Queue
from app.patient_plot import Group, PatientPlot
from app.telling import Problem
from app.theme import GAP, Theme
from app.training_outcome import (
    REGION_TITLES,
    Line,
    Outcome,
    Patient,
    comparison_in_words,
    headline,
    look_at_results,
    mask_of,
)
from engine import model_file, registry
from engine.model_card import REGIONS, ModelCard, Role
from engine.progress import Progress
from trainer.training import About, Training

if TYPE_CHECKING:
    from app.wizard_model import WizardModel

MODEL_FILES = f"Models (*{model_file.SUFFIX})"
SIDE_PX = 372
# Results are written once, minutes apart: a run that is measured meanwhile is found at the next look.
AGAIN_MS = 5_000


class ResultPage(QWidget):
    """What a training amounts to, and what becomes of it.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread.
        wizard: Whose training it is.
    """

    def __init__(self, theme: Theme, jobs: Jobs, wizard: WizardModel) -> None:
        super().__init__()
        self._theme, self._jobs, self._wizard = theme, jobs, wizard
        self._training: Training | None = None
        self._outcome: Outcome | None = None
        self._sequences = ""
        self._judged: Line | None = None
        self._installing: Job | None = None
        self._installed: dict[str, ModelCard] = {}
        self._citations: tuple[str, ...] = ()
        self.setObjectName("cell")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.pages = QStackedWidget()
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(self.pages)
        self._words = label("", "secondary", wrap=True)
        self._words.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.pages.addWidget(self._words)
        self.pages.addWidget(self._make_page())
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(AGAIN_MS)
        self._later.timeout.connect(self.read)
        self.setAccessibleName("Results")
        wizard.training_changed.connect(self._follow)
        theme.changed.connect(self._show)
        self._follow()

    # Its parts

    def _make_page(self) -> QWidget:
        page = QWidget()
        row = QHBoxLayout(page)
        row.setContentsMargins(3 * GAP, 2 * GAP, 0, 0)
        row.setSpacing(3 * GAP)
        left = QVBoxLayout()
        left.setSpacing(12)
        head = QHBoxLayout()
        words = QVBoxLayout()
        words.setSpacing(3)
        self.title = label("", "title", wrap=True)
        self.where = label("", "secondary", wrap=True)
        words.addWidget(self.title)
        words.addWidget(self.where)
        head.addLayout(words, 1)
        self._set_place = QHBoxLayout()
        head.addLayout(self._set_place)
        left.addLayout(head)
        self.table = QFrame()
        self.table.setObjectName("card")
        self.table.setAccessibleName("Teacher, baseline and student")
        self._rows = QGridLayout(self.table)
        self._rows.setContentsMargins(18, 12, 18, 14)
        self._rows.setHorizontalSpacing(20)
        self._rows.setVerticalSpacing(7)
        left.addWidget(self.table)
        self.sentences = label("", "", wrap=True)
        self.sentences.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.sentences.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        left.addWidget(self.sentences)
        plots = QHBoxLayout()
        plots.setSpacing(2 * GAP)
        self.plots = {
            region: PatientPlot(self._theme, f"{REGION_TITLES[region]}, Dice of every patient") for region in REGIONS
        }
        for plot in self.plots.values():
            plot.pointed.connect(self._point)
            plots.addWidget(plot)
        left.addLayout(plots, 1)
        row.addLayout(left, 1)
        row.addWidget(self._make_side())
        return page

    def _make_side(self) -> QWidget:
        side = QScrollArea()
        side.setWidgetResizable(True)
        side.setFixedWidth(SIDE_PX)
        side.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        side.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        inside = QWidget()
        inside.setObjectName("cell")
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 2, 3 * GAP, 2 * GAP)
        column.setSpacing(GAP)
        head = QHBoxLayout()
        head.addWidget(label("WORST PATIENTS", "caption"), 1)
        column.addLayout(head)
        self.judged = Choice(self._theme, "Whose worst patients")
        self.judged.activated.connect(self._judge)
        column.addWidget(self.judged)
        self._worst = QVBoxLayout()
        self._worst.setSpacing(2)
        column.addLayout(self._worst)
        self.worst_buttons: list[QWidget] = []
        column.addSpacing(2 * GAP)

        column.addWidget(label("MODEL CARD", "caption"))
        self.run_choice = Choice(self._theme, "Which network becomes a model")
        self.run_choice.activated.connect(self._suggest)
        column.addWidget(self.run_choice)
        form = QFormLayout()
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapAllRows)
        form.setVerticalSpacing(4)
        self.name_field = QLineEdit()
        self.version_field = QLineEdit()
        self.data_field = QPlainTextEdit()
        self.data_field.setFixedHeight(92)
        self.data_field.setTabChangesFocus(True)
        self.licence_field = QLineEdit()
        for title, field in (
            ("Name: a-z, digits, dots and hyphens", self.name_field),
            ("Version", self.version_field),
            ("What it was trained on", self.data_field),
            ("Licence", self.licence_field),
        ):
            field.setAccessibleName(title.split(":")[0])
            form.addRow(label(title, "small"), field)
        self.name_field.textChanged.connect(self._update_buttons)
        column.addLayout(form)
        self.progress = QProgressBar()
        self.progress.setAccessibleName("Installing")
        self.doing = label("", "small", wrap=True)
        column.addWidget(self.progress)
        column.addWidget(self.doing)
        self.install_button = push("Install into Gliascope", "primary")
        self.install_button.clicked.connect(self._install)
        self.export_button = push("Save as one file", "", "")
        self.export_button.clicked.connect(self._export)
        self.import_button = push("Add a model from a file", "", "Checks its hashes and puts it among your models.")
        self.import_button.clicked.connect(self._import)
        column.addWidget(self.install_button)
        both = QHBoxLayout()
        both.addWidget(self.export_button)
        both.addWidget(self.import_button)
        column.addLayout(both)
        column.addStretch()
        side.setWidget(inside)
        return side

    # Reading

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.read()

    def _follow(self) -> None:
        if self._wizard.training is self._training and self._training is not None:
            return
        self._training = self._wizard.training
        self._outcome, self._judged, self._sequences = None, None, ""
        self._installed = {}
        self.read()

    def read(self) -> None:
        """Look at the results, now and again while something is still to be measured and somebody looks."""
        self._later.stop()
        if not self.isVisible():
            return
        training = self._training
        if training is None:
            self._jobs.drop(f"results {id(self)}")
            self._say("There are no results before something was trained.")
            return
        if self._outcome is None:
            self._say("Reading the results")
        self._jobs.run(
            look_at_results,
            training,
            on_finished=partial(self._take, training),
            on_failed=self._fail,
            queue=Queue.WATCHING,
            topic=f"results {id(self)}",
        )

    def _take(self, training: Training, outcome: Outcome) -> None:
        if training is not self._training:
            return
        before = self._outcome
        self._outcome = outcome
        if outcome.pending and self.isVisible():
            self._later.start()
        if not outcome.lines:
            self._say("Nothing is measured yet. Each network is measured on its held-out patients when it is trained.")
            return
        if self._sequences not in outcome.sets:
            self._sequences = outcome.sets[0]
        if before is None or (before.installable, before.sets) != (outcome.installable, outcome.sets):
            self._offer()
        self.pages.setCurrentIndex(1)
        self._show()

    def _fail(self, error: Exception) -> None:
        self._say(f"The results cannot be shown. {error}" if str(error) else "The results cannot be shown.")
        self._wizard.fail(error, "Reading the results stopped")

    def _say(self, words: str) -> None:
        self._words.setText(words)
        self.pages.setCurrentIndex(0)

    # Showing

    def _offer(self) -> None:
        """What can be chosen: sets of sequences, whose patients, which run."""
        outcome = self._outcome
        assert outcome is not None
        _empty(self._set_place)
        if len(outcome.sets) > 1:
            titles = {name: name.replace("+", " + ").upper().replace("T1CE", "T1ce") for name in outcome.sets}
            self.set_choice = Segments(
                tuple((name, titles[name], f"Networks that read {titles[name]}") for name in outcome.sets), "Sequences"
            )
            self.set_choice.set(self._sequences)
            self.set_choice.chosen.connect(self._choose_set)
            self._set_place.addWidget(self.set_choice, 0, Qt.AlignmentFlag.AlignTop)
        chosen = self.run_choice.currentData()
        # What the user wrote on the card of a run stays, whatever else was measured meanwhile.
        kept = chosen in outcome.installable
        self.run_choice.clear()
        for run, title in outcome.installable.items():
            self.run_choice.addItem(title, run)
        # The student is what all this was for.
        wanted = next((run for run, title in outcome.installable.items() if title.startswith("Student")), None)
        place = self.run_choice.findData(chosen if kept else wanted)
        self.run_choice.setCurrentIndex(max(0, place))
        if not kept:
            self._suggest()

    def _choose_set(self, name: object) -> None:
        self._sequences, self._judged = str(name), None
        self.set_choice.set(name)
        self._show()

    def _show(self) -> None:
        outcome = self._outcome
        if outcome is None or not outcome.lines:
            return
        lines = outcome.together(self._sequences)
        title, where = headline(outcome, self._sequences)
        if outcome.pending:
            one = outcome.pending == 1
            still = f"{'One network is' if one else f'{outcome.pending} networks are'} still to be measured."
            where = f"{where} {still}"
        self.title.setText(title)
        self.where.setText(where)
        self._fill_table(lines)
        words = [comparison_in_words(one) + "." for one in outcome.compared(self._sequences)]
        self.sentences.setText("\n".join(words))
        self.sentences.setVisible(bool(words))
        for region, plot in self.plots.items():
            plot.show_groups(
                [
                    Group(
                        line.role.value.capitalize(),
                        line.role,
                        {p.name: p.dice[region] for p in outcome.patients[line.recipe, line.sequences]},
                    )
                    for line in lines
                ]
            )
        if self._judged not in lines:
            self._judged = next((line for line in lines if line.role is Role.STUDENT), lines[-1])
        self.judged.clear()
        for line in lines:
            self.judged.addItem(line.title)
        self.judged.setCurrentIndex(lines.index(self._judged))
        self._show_worst()
        self._update_buttons()

    def _fill_table(self, lines: tuple[Line, ...]) -> None:
        _empty(self._rows)
        right = Qt.AlignmentFlag.AlignRight
        for place, region in enumerate(REGIONS):
            self._rows.addWidget(label(REGION_TITLES[region].upper(), "caption"), 0, 2 + 2 * place, 1, 2, right)
            for offset, name in enumerate(("Dice", "HD95, mm")):
                self._rows.addWidget(label(name, "small"), 1, 2 + 2 * place + offset, right)
        self._rows.addWidget(label("Patients", "small"), 1, 6, right)
        self._rows.setColumnStretch(1, 1)
        best = {region: max(line.by_region[region].dice_mean for line in lines) for region in REGIONS}
        for number, line in enumerate(lines, start=2):
            self._rows.addWidget(_Dot(self._theme, line.role), number, 0)
            self._rows.addWidget(label(line.title), number, 1)
            for place, region in enumerate(REGIONS):
                one = line.by_region[region]
                spread = f" \u00b1 {one.dice_sd:.2f}" if one.dice_sd is not None else ""
                dice = label(f"{one.dice_mean:.3f}{spread}", "" if one.dice_mean == best[region] else "secondary")
                dice.setAccessibleName(f"{line.title}, {REGION_TITLES[region]}, Dice")
                distance = label(f"{one.hd95_mean:.1f}", "secondary")
                distance.setAccessibleName(f"{line.title}, {REGION_TITLES[region]}, HD95 in mm")
                self._rows.addWidget(dice, number, 2 + 2 * place, right)
                self._rows.addWidget(distance, number, 3 + 2 * place, right)
            self._rows.addWidget(label(str(line.by_region[REGIONS[0]].patients), "secondary"), number, 6, right)

    def _judge(self, place: int) -> None:
        if self._outcome is not None:
            self._judged = self._outcome.together(self._sequences)[place]
            self._show_worst()

    def _show_worst(self) -> None:
        _empty(self._worst)
        self.worst_buttons = []
        if self._outcome is None or self._judged is None:
            return
        line = self._judged
        for patient in self._outcome.worst(line):
            whole, core = (patient.dice[region] for region in REGIONS)
            words = f"{patient.name}   whole tumour {whole:.2f}, core {core:.2f}"
            button = push(words, "finding", "Open in the viewer, with the truth and what this network found")
            button.clicked.connect(partial(self._open, line, patient))
            self._worst.addWidget(button)
            self.worst_buttons.append(button)

    def _point(self, patient: str) -> None:
        for plot in self.plots.values():
            plot.point_at(patient)

    # Opening

    def _open(self, line: Line, patient: Patient) -> None:
        training = self._training
        if training is None:
            return
        from app.review import Look

        def find(progress: Progress) -> Look:
            known = training.patients.named(patient.name)
            mask = mask_of(training, line, patient, progress)
            return Look(tuple(known.files.values()), known.truth, mask, line.title)

        def found(look: Look) -> None:
            self._wizard.look_wanted.emit(look)

        self._jobs.run(
            find, on_finished=found, on_failed=lambda error: self._wizard.fail(error, "Opening the patient stopped"),
            topic="look",
        )  # fmt: skip

    # Installing

    def _suggest(self) -> None:
        training, run = self._training, self.run_choice.currentData()
        if training is None or run is None:
            self._update_buttons()
            return

        def suggest(progress: Progress) -> About:
            progress.check()
            return training.suggested_about(run)

        def suggested(about: About) -> None:
            self.name_field.setText(about.name)
            self.version_field.setText(about.version)
            self.data_field.setPlainText(about.data)
            self.licence_field.setText(about.licence)
            self.licence_field.setCursorPosition(0)  # a long sentence is read from its beginning
            self._citations = about.citations
            self._update_buttons()

        self._jobs.run(
            suggest, on_finished=suggested, on_failed=lambda e: self._wizard.fail(e, "Writing the card stopped"),
            queue=Queue.WATCHING, topic=f"about {id(self)}",
        )  # fmt: skip

    def _install(self) -> None:
        if self._installing is not None:
            self._installing.cancel()
            self.install_button.setEnabled(False)
            self.install_button.setToolTip("It stops at the next step.")
            return
        training, run = self._training, str(self.run_choice.currentData())
        if training is None:
            return
        about = About(
            self.name_field.text().strip(),
            self.version_field.text().strip(),
            self.data_field.toPlainText().strip(),
            self.licence_field.text().strip(),
            self._citations,
        )
        models = registry.folders()[-1]

        def install(progress: Progress) -> ModelCard:
            return training.install(run, models, about, progress)

        def installed(card: ModelCard) -> None:
            self._end_installing()
            self._installed[run] = card
            self._wizard.models_changed.emit()
            named = ", ".join(sequence.title for sequence in card.sequences)
            self._wizard.tell(
                Problem(
                    f"{card.title} is installed as {card.name}. Patients with {named} are segmented with it wherever "
                    "it was better on your own patients.",
                    note=True,
                )
            )
            self._update_buttons()

        def failed(error: Exception) -> None:
            self._end_installing()
            self._wizard.fail(error, "Installing stopped")

        self._installing = self._jobs.run(
            install, on_finished=installed, on_failed=failed, on_cancelled=self._end_installing,
            on_progress=self._show_progress, queue=Queue.COMPUTING, topic="install",
        )  # fmt: skip
        self._show_progress(0.0, "beginning")
        self._update_buttons()

    def _show_progress(self, fraction: float, words: str) -> None:
        self.progress.setValue(round(100 * fraction))
        self.doing.setText(words[:1].upper() + words[1:])

    def _end_installing(self) -> None:
        self._installing = None
        self.doing.setText("")
        self._update_buttons()

    def _export(self) -> None:
        card = self._installed.get(str(self.run_choice.currentData()))
        if card is None:
            return
        start = str(Path.home() / f"{card.name}{model_file.SUFFIX}")
        name, _ = QFileDialog.getSaveFileName(self, "Save the model as one file", start, MODEL_FILES)
        if not name:
            return

        def write(progress: Progress) -> Path:
            return model_file.write(card, Path(name), progress)

        def written(path: Path) -> None:
            self._wizard.tell(Problem(f"{card.title} lies in {path.name}, with the hashes of its files.", note=True))

        self._jobs.run(
            write, on_finished=written, on_failed=lambda error: self._wizard.fail(error, "Saving the model stopped")
        )

    def _import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Add a model from a file", str(Path.home()), MODEL_FILES)
        if name:
            self.add_model(Path(name))

    def add_model(self, path: Path, replace: bool = False) -> None:
        """Check a model file and put the model among the user's; asks before one of the same name is replaced."""

        def read(progress: Progress) -> ModelCard:
            return model_file.read(path, registry.folders()[-1], replace, progress)

        def added(card: ModelCard) -> None:
            self._wizard.models_changed.emit()
            self._wizard.tell(Problem(f"{card.title} was added as {card.name}.", note=True))

        def failed(error: Exception) -> None:
            if not isinstance(error, model_file.ModelExists):
                self._wizard.fail(error, "Adding the model stopped")
                return

            def agreed() -> None:
                self._wizard.dismiss()
                self.add_model(path, replace=True)

            self._wizard.tell(
                Problem(str(error), (("Replace it", agreed), ("Keep what is there", self._wizard.dismiss)))
            )

        self._jobs.run(read, on_finished=added, on_failed=failed)

    def _update_buttons(self) -> None:
        busy = self._installing is not None
        run = self.run_choice.currentData()
        self.progress.setVisible(busy)
        self.doing.setVisible(busy)
        why = ""
        if run is None:
            why = "No network is finished and measured yet."
        elif not self.name_field.text().strip():
            why = "The model needs a name."
        self.install_button.setText("Cancel" if busy else "Install into Gliascope")
        self.install_button.setAccessibleName(self.install_button.text())
        self.install_button.setEnabled(busy or not why)
        tip = "Exports it, checks it on a patient it has not seen, and puts it among your models."
        self.install_button.setToolTip("" if busy else why or tip)
        for field in (self.run_choice, self.name_field, self.version_field, self.data_field, self.licence_field):
            field.setEnabled(not busy and run is not None)
        exportable = run in self._installed and not busy
        self.export_button.setEnabled(exportable)
        self.export_button.setToolTip(
            "The model with the hashes of its files, to hand on." if exportable else "Install the model first."
        )


def _empty(layout: QLayout) -> None:
    """Take everything out of a layout."""
    while (item := layout.takeAt(0)) is not None:
        widget = item.widget()
        if widget is not None:
            widget.hide()
            widget.deleteLater()


class _Dot(QWidget):
    """The colour of a role."""

    def __init__(self, theme: Theme, role: Role) -> None:
        super().__init__()
        self._theme, self._role = theme, role
        self.setFixedSize(10, 18)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        dark = QColor(self._theme.colours.panel).lightness() < 128
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(role_colour(self._role, dark)))
        painter.drawEllipse(1, 5, 8, 8)
