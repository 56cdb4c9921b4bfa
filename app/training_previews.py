"""The validation patients of a training over time: scan, truth, the teacher's mask and the one being learnt."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PySide6.QtCore import QRectF, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QSizePolicy, QSlider, QVBoxLayout, QWidget

from app.controls import IconButton, MenuButton, Segments, action, label
from app.curves import role_colour
from app.jobs import Jobs
from app.slice_layers import SOFT_WHITE, Frame, MarksLayer
from app.slice_view import GAP_IN_WORDS, SliceView
from app.theme import GAP, LABEL_PX, Theme, body_font
from app.training_course import Course, RunCourse, Stage
from app.viewer_model import Layer, LayerKey, Mask, Plane, Version, ViewerModel
from engine.errors import UserError
from engine.progress import Progress
from engine.volume import Grid, LabelMap, Sequence, Volume

CASES = "cases.npz"
FRAME_MS = 450
KEPT = 96
OPACITY = 0.35
SEGMENTS_UP_TO = 4


@dataclass(frozen=True, eq=False)
class PreviewCase:
    """A validation patient as the network sees it.

    Attributes:
        name: Of the patient.
        layers: The scans, as long as they are normalised.
        truth: The ground truth.
    """

    name: str
    layers: dict[LayerKey, Layer]
    truth: Mask


def read_cases(path: Path, progress: Progress) -> tuple[PreviewCase, ...]:
    """The patients a run shows while it learns.

    Args:
        path: ``cases.npz`` as `trainer.validation` writes it.
        progress: Checked at each patient.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = [str(name) for name in stored["names"]]
            sequences = [Sequence(str(name)) for name in stored["sequences"]]
            images, truth = stored["images"], stored["truth"]
            spacing = float(stored["spacing_mm"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError("The patients to watch cannot be read", f"{path.name}: {error}", "") from error
    cases = []
    for place, name in enumerate(names):
        progress.check()
        # Prepared arrays run to the patient's right, front and head; where the head lay in the scanner is of no matter.
        grid = Grid(truth[place].shape, np.diag([spacing, spacing, spacing, 1.0]))
        seen = images[place].astype(np.float32)
        # Normalised scans have their mean at nought, and nought around the head: that would be a grey room.
        outside = ~seen.any(axis=0)
        for channel in seen:
            channel[outside] = channel.min()
        layers: dict[LayerKey, Layer] = {
            sequence: Layer.of(Volume(channel, grid, sequence))
            for sequence, channel in zip(sequences, seen, strict=True)
        }
        cases.append(PreviewCase(name, layers, Mask.of(LabelMap(truth[place], grid), {})))
    return tuple(cases)


def read_masks(path: Path, cases: tuple[PreviewCase, ...], progress: Progress) -> tuple[Mask, ...]:
    """What a run made of its patients at one step.

    Args:
        path: ``labels (P, i, j, k)`` uint8.
        cases: The patients of that very run.
        progress: Checked at each patient.

    Raises:
        UserError: It cannot be read, or does not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels = stored["labels"]
        masks = []
        for case, own in zip(cases, labels, strict=True):
            progress.check()
            masks.append(Mask.of(LabelMap(own, case.truth.labels.grid), {}))
    except (OSError, ValueError, KeyError) as error:
        raise UserError("A look at the validation patients cannot be read", f"{path.name}: {error}", "") from error
    return tuple(masks)


def _read(
    path: Path, known: tuple[PreviewCase, ...] | None, progress: Progress
) -> tuple[tuple[PreviewCase, ...], tuple[Mask, ...]]:
    """The masks of a step, and the run's patients where they are not known yet."""
    cases = known if known is not None else read_cases(path.parent / CASES, progress)
    return cases, read_masks(path, cases, progress)


class _QuietMarks(MarksLayer):
    """Letters and one line of words: a small picture has no room for more, and nothing to point at."""

    def paint(self, painter: QPainter, frame: Frame, words: str) -> None:
        painter.setRenderHint(QPainter.RenderHint.TextAntialiasing, True)
        self._draw_letters(painter, frame)
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(SOFT_WHITE)
        box = frame.area.adjusted(8, 5, -8, -5)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop), words)


class PreviewView(SliceView):
    """One small axial picture; says why where there is nothing to see yet."""

    def __init__(self, model: ViewerModel) -> None:
        super().__init__(model, Plane.AXIAL)
        self._marks = _QuietMarks()
        self._words = ""
        self.setMinimumSize(110, 110)
        self.resized.connect(self.fit)

    def say(self, words: str) -> None:
        """Words over the picture; none when empty."""
        if words != self._words:
            self._words = words
            self.viewport().update()

    @property
    def words(self) -> str:
        """What is said instead of a mask."""
        return self._words

    def fit(self) -> None:
        """The whole head into the view."""
        self.set_scale(self.fitting_scale())

    def line_of_text(self, frame: Frame) -> str:
        number = f"{frame.cut.number_of(frame.index)}/{frame.cut.grid.shape[frame.cut.normal]}"
        return number + GAP_IN_WORDS + ("R | L" if self.model.radiological else "L | R")

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.fit()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if not self._words:
            return
        painter = QPainter(self.viewport())
        area = QRectF(self.viewport().rect())
        painter.fillRect(area, QColor(0, 0, 0, 165))
        painter.setFont(body_font(LABEL_PX + 1))
        painter.setPen(QColor(255, 255, 255, 220))
        flags = int(Qt.AlignmentFlag.AlignCenter) | int(Qt.TextFlag.TextWordWrap)
        painter.drawText(area.adjusted(14, 14, -14, -14), flags, self._words)


class TimeSlider(QSlider):
    """The looks a run took at its patients, in order; the best is ringed.

    Args:
        theme: The colours.
    """

    def __init__(self, theme: Theme) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self._theme = theme
        self._best: int | None = None
        self._colour = ""
        self.setPageStep(1)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAccessibleName("Time of the training")
        self.setToolTip("Draw it to watch the network learn (arrow keys go from one look to the next)")
        self.setMinimumHeight(26)
        theme.changed.connect(self.update)

    def mark(self, best: int | None, colour: str) -> None:
        """Ring a place, in a colour."""
        self._best, self._colour = best, colour
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if self._best is None or self.maximum() <= self.minimum():
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        share = (self._best - self.minimum()) / (self.maximum() - self.minimum())
        # The handle of the style sheet is 14 pixels wide, so its middle goes from 7 to 7 before the end.
        x = 7 + share * (self.width() - 14)
        painter.setPen(QPen(QColor(self._colour), 2))
        painter.setBrush(QColor(self._theme.colours.panel) if self._best != self.value() else Qt.BrushStyle.NoBrush)
        radius = 4.5 if self._best != self.value() else 9
        painter.drawEllipse(QRectF(x - radius, self.height() / 2 - radius, 2 * radius, 2 * radius))


@dataclass(eq=False)
class _Cell:
    model: ViewerModel
    view: PreviewView


class Previews(QWidget):
    """Two patients, one a row: truth, teacher, and the run that is watched; a slider goes through its past.

    Args:
        theme: The colours.
        jobs: Reads files away from the UI thread.

    Signals:
        watched: The user wants to look at another kind of run.
        failed: Something went wrong that nobody can mend here: what was raised.
    """

    watched = Signal(object)
    failed = Signal(object)

    def __init__(self, theme: Theme, jobs: Jobs) -> None:
        super().__init__()
        self._theme, self._jobs = theme, jobs
        self._course: Course | None = None
        self._kind = ""
        self._cases: dict[str, tuple[PreviewCase, ...]] = {}
        self._masks: OrderedDict[Path, tuple[Mask, ...]] = OrderedDict()
        self._reading: set[Path] = set()
        self._failed: dict[Path, str] = {}
        self._base = ""
        self._steps: list[int] = []
        self._follow = True
        self._linking = False
        self.cells: list[list[_Cell]] = []

        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GAP)
        head = QHBoxLayout()
        head.setSpacing(GAP)
        head.addWidget(label("VALIDATION PATIENTS", "caption"))
        head.addStretch()
        self._sequence_place, self._kind_place = QHBoxLayout(), QHBoxLayout()
        head.addLayout(self._sequence_place)
        head.addSpacing(4)
        head.addLayout(self._kind_place)
        self.sequence_choice: Segments | None = None
        self.kind_choice: Segments | MenuButton | None = None
        column.addLayout(head)

        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(2)
        self.titles = [label("", "small") for _ in range(3)]
        for place, title in enumerate(self.titles):
            title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            self._grid.addWidget(title, 0, place)
            self._grid.setColumnStretch(place, 1)
        column.addLayout(self._grid, 1)

        row = QHBoxLayout()
        row.setSpacing(GAP)
        self.play_button = IconButton(theme, "play", "Watch it learn")
        self.play_button.clicked.connect(self.play)
        self.slider = TimeSlider(theme)
        self.slider.valueChanged.connect(self._scrubbed)
        self.when = label("", "secondary")
        self.when.setMinimumWidth(150)
        self.when.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(self.play_button)
        row.addWidget(self.slider, 1)
        row.addWidget(self.when)
        column.addLayout(row)
        self._playing = QTimer(self)
        self._playing.setInterval(FRAME_MS)
        self._playing.timeout.connect(self._next_frame)
        theme.changed.connect(self._update)
        self._make_rows(2)
        self._update()

    # What is shown

    def show_course(self, course: Course | None, kind: str) -> None:
        """Show what a training has to show of itself.

        Args:
            course: The training; ``None`` for none.
            kind: Which of its kinds of run the slider goes through.
        """
        if course is not self._course:
            self._course = course
            self._cases, self._masks, self._failed, self._base = {}, OrderedDict(), {}, ""
            self._follow = True
            for row in self.cells:
                for cell in row:
                    cell.model.set_layers({})
            self._offer_kinds()
        if kind != self._kind:
            self._kind, self._follow = kind, True
            if isinstance(self.kind_choice, Segments):
                self.kind_choice.set(kind)
            elif self.kind_choice is not None:
                self.kind_choice.setText(kind)
        self._update()

    @property
    def step(self) -> int | None:
        """The step whose masks are looked at; ``None`` before the first look."""
        return self._steps[self.slider.value()] if self._steps else None

    @property
    def _watched(self) -> RunCourse | None:
        return self._course.leading(self._kind) if self._course is not None else None

    @property
    def _columns(self) -> tuple[RunCourse | None, RunCourse | None]:
        """The runs of the second and of the third column."""
        course, watched = self._course, self._watched
        if course is None:
            return None, None
        teacher = course.beside("Teacher", watched)
        if watched is not teacher or teacher is None:
            return teacher, watched
        others = [kind for kind in course.kinds if kind != "Teacher"]
        pupils = [kind for kind in others if kind.startswith("Student")] or others
        return teacher, course.beside(pupils[0], watched) if pupils else None

    def _offer_kinds(self) -> None:
        if self.kind_choice is not None:
            self._kind_place.removeWidget(self.kind_choice)
            self.kind_choice.deleteLater()
            self.kind_choice = None
        kinds = self._course.kinds if self._course is not None else ()
        if 1 < len(kinds) <= SEGMENTS_UP_TO:
            choice = Segments(tuple((kind, kind, f"Watch {kind}") for kind in kinds), "Watch")
            choice.chosen.connect(self.watched)
            self.kind_choice = choice
        elif kinds[1:]:
            button = MenuButton(self._theme, "Choose which run to watch")
            button.setAccessibleName("Watch")
            button.setMinimumWidth(150)
            button.clicked.connect(self._open_kinds)
            self.kind_choice = button
        if self.kind_choice is not None:
            self._kind_place.addWidget(self.kind_choice)

    def _open_kinds(self) -> None:
        from PySide6.QtWidgets import QMenu

        button = self.kind_choice
        if button is None or self._course is None:
            return
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for kind in self._course.kinds:
            entry = action(kind, self)
            entry.setParent(menu)
            entry.triggered.connect(partial(self.watched.emit, kind))
            menu.addAction(entry)
        menu.popup(button.mapToGlobal(button.rect().bottomLeft()))

    def _make_rows(self, count: int) -> None:
        while len(self.cells) > count:
            for cell in self.cells.pop():
                self._grid.removeWidget(cell.view)
                cell.view.hide()
                cell.view.deleteLater()
                cell.model.deleteLater()
        while len(self.cells) < count:
            number = len(self.cells)
            row = []
            for place in range(3):
                model = ViewerModel(self)
                model.set_overlay(opacity=OPACITY)
                view = PreviewView(model)
                self._grid.addWidget(view, number + 1, place)
                row.append(_Cell(model, view))
                model.crosshair_changed.connect(partial(self._link, number, place))
                model.window_changed.connect(partial(self._link_windows, number, place))
                model.view_changed.connect(partial(self._link_views, number, place))
            self._grid.setRowStretch(number + 1, 1)
            self.cells.append(row)

    def _others(self, row: int, place: int) -> list[ViewerModel]:
        if self._linking or row >= len(self.cells):
            return []
        return [cell.model for number, cell in enumerate(self.cells[row]) if number != place and cell.model.layers]

    def _link(self, row: int, place: int) -> None:
        others = self._others(row, place)
        self._linking = True
        for model in others:
            model.move_crosshair(self.cells[row][place].model.crosshair)
        self._linking = self._linking and not others

    def _link_windows(self, row: int, place: int) -> None:
        others, own = self._others(row, place), self.cells[row][place].model
        self._linking = True
        for model in others:
            if own.window is not None and model.shown == own.shown:
                model.set_window(own.window)
        self._linking = self._linking and not others

    def _link_views(self, row: int, place: int) -> None:
        others, own = self._others(row, place), self.cells[row][place].model
        self._linking = True
        for model in others:
            model.set_view(own.zoom, own.centre)
        self._linking = self._linking and not others

    # Bringing it up to date

    def _update(self) -> None:
        watched = self._watched
        steps = sorted(watched.previews) if watched is not None else []
        at_end = self._follow or not self._steps
        before = self.step
        self._steps = steps
        self.slider.blockSignals(True)
        self.slider.setRange(0, max(0, len(steps) - 1))
        if steps:
            reached = bisect_right(steps, before or 0) - 1
            self.slider.setValue(len(steps) - 1 if at_end else max(0, reached))
        self.slider.blockSignals(False)
        several = len(steps) > 1
        why = "" if several else "There is nothing to go through before the second look at these patients."
        self.slider.setEnabled(several)
        self.play_button.setEnabled(several)
        self.play_button.setToolTip(why or "Watch it learn")
        self._show()

    def _scrubbed(self) -> None:
        self._follow = self.slider.value() == self.slider.maximum()
        self._show()

    def play(self) -> None:
        """Go through all looks from the first, or stop where it is."""
        if self._playing.isActive():
            self._stop_playing()
            return
        self.slider.setValue(0)
        self.play_button.draw("pause")
        self.play_button.say("Stop here")
        self._playing.start()

    def _stop_playing(self) -> None:
        self._playing.stop()
        self.play_button.draw("play")
        self.play_button.say("Watch it learn")

    def _next_frame(self) -> None:
        if self.slider.value() >= self.slider.maximum():
            self._stop_playing()
        else:
            self.slider.setValue(self.slider.value() + 1)

    def _show(self) -> None:
        """Everything at the step of the slider; what is not in memory is read and shown when it is there."""
        course, watched = self._course, self._watched
        runs = self._columns
        dark = QColor(self._theme.colours.panel).lightness() < 128
        self._choose_base(runs)
        self.titles[0].setText("Truth, dashed in the others")
        for place, run in enumerate(runs, start=1):
            cells = [row[place] for row in self.cells]
            if run is None:
                self.titles[place].setText("")
                words = "" if course is None else "Nothing is trained here."
                self._put(cells, None, words)
                continue
            steps = sorted(run.previews)
            at = (self.step if run is watched else steps[-1]) if steps else None
            title = run.plan.title + (f", step {at:,}" if at is not None else "")
            self.titles[place].setText(title)
            if at is None:
                self._put(cells, None, _why_nothing(run))
                continue
            path = run.previews[at]
            masks = self._masks.get(path)
            if masks is None:
                self._read(path, run)
                # The masks of before stay until these are there: a blink would be all one sees.
                if path in self._failed:
                    self._put(cells, None, self._failed[path])
                elif run.plan.name not in self._cases:
                    self._put(cells, None, "")  # what is there may be of other patients
            else:
                self._masks.move_to_end(path)
                self._put(cells, masks, "")
        best = watched.best if watched is not None else None
        ring = self._steps.index(best.step) if best is not None and best.step in self._steps else None
        self.slider.mark(ring, role_colour(watched.plan.role, dark) if watched is not None else "#808080")
        self.when.setText(self._when(watched))
        self.slider.setAccessibleDescription(self.when.text())

    def _when(self, watched: RunCourse | None) -> str:
        step = self.step
        if watched is None or step is None:
            return ""
        best = watched.best
        return f"step {step:,}" + (", best so far" if best is not None and best.step == step else "")

    def _choose_base(self, runs: tuple[RunCourse | None, RunCourse | None]) -> None:
        """Scans and truth come from the first run that has shown something of these patients; all have the same."""
        every, watched = (self._course.runs.values() if self._course is not None else ()), self._watched
        same = [run for run in every if watched is not None and run.plan.held_out == watched.plan.held_out]
        first = next((run for run in same if run.previews), None)
        if first is None:
            for row in self.cells:
                row[0].view.say("" if self._course is None else "Shown with the first look at these patients.")
            return
        name = first.plan.name
        if name not in self._cases:
            self._read(first.previews[max(first.previews)], first)
        elif self._base != name:
            self._base = name
            self._lay_out(self._cases[name], runs)

    def _lay_out(self, cases: tuple[PreviewCase, ...], runs: tuple[RunCourse | None, RunCourse | None]) -> None:
        self._make_rows(max(1, len(cases)))
        watched = self._watched
        sequences = [key for key in (cases[0].layers if cases else {}) if isinstance(key, Sequence)]
        # What the student sees is what one wants to see it work on.
        pupil = next((run for run in (*reversed(runs), watched) if run is not None), None)
        first = next((s for s in (pupil.plan.sequences if pupil is not None else ()) if s in sequences), None)
        for case, row in zip(cases, self.cells, strict=False):
            for place, cell in enumerate(row):
                self._linking = True
                cell.model.set_layers(case.layers)
                if first is not None:
                    cell.model.show(first)
                if case.truth.largest is not None:
                    cell.model.move_crosshair(case.truth.largest)
                self._linking = False
                if place == 0:
                    cell.model.set_mask(case.truth)
                else:
                    cell.model.set_other(Version("Truth", case.truth))
                cell.view.title = ""
                cell.view.setAccessibleName(f"{case.name}, {('truth', 'teacher', 'watched run')[place]}")
                cell.view.say("")
                cell.view.fit()
        self._offer_sequences(sequences, first)

    def _offer_sequences(self, sequences: list[Sequence], first: Sequence | None) -> None:
        if self.sequence_choice is not None:
            self._sequence_place.removeWidget(self.sequence_choice)
            self.sequence_choice.deleteLater()
            self.sequence_choice = None
        if len(sequences) > 1:
            choice = Segments(tuple((s, s.title, f"Show {s.title}") for s in sequences), "Sequence shown")
            choice.set(first if first is not None else sequences[0])
            choice.chosen.connect(self._show_sequence)
            self._sequence_place.addWidget(choice)
            self.sequence_choice = choice

    def _show_sequence(self, sequence: object) -> None:
        if not isinstance(sequence, Sequence):
            return
        for row in self.cells:
            for cell in row:
                cell.model.show(sequence)
        if self.sequence_choice is not None:
            self.sequence_choice.set(sequence)

    @staticmethod
    def _put(cells: list[_Cell], masks: tuple[Mask, ...] | None, words: str) -> None:
        for number, cell in enumerate(cells):
            mask = masks[number] if masks is not None and number < len(masks) else None
            if cell.model.layers and mask is not cell.model.mask:
                cell.model.set_mask(mask)
            cell.view.say(words)

    def _read(self, path: Path, run: RunCourse) -> None:
        if path in self._reading or path in self._failed:
            return
        self._reading.add(path)
        name = run.plan.name
        course = self._course

        def arrived(read: tuple[tuple[PreviewCase, ...], tuple[Mask, ...]]) -> None:
            self._reading.discard(path)
            if course is not self._course:
                return
            self._cases[name], self._masks[path] = read
            while len(self._masks) > KEPT:
                self._masks.popitem(last=False)
            self._show()

        def failed(error: Exception) -> None:
            self._reading.discard(path)
            # A mistake of ours says nothing to the user; the picture's place says that there is none.
            self._failed[path] = str(error) if isinstance(error, UserError) else "This look cannot be shown."
            if not isinstance(error, UserError):
                self.failed.emit(error)
            self._show()

        self._jobs.run(_read, path, self._cases.get(name), on_finished=arrived, on_failed=failed)


def _why_nothing(run: RunCourse) -> str:
    """Why a run has no mask to show yet."""
    if not run.plan.held_out:
        return f"{run.plan.kind} learns from every patient, so nobody is left to look at."
    if run.stage is Stage.WAITING:
        return f"{run.plan.kind} has not begun yet."
    if run.stage in (Stage.FAILED, Stage.STOPPED):
        return f"{run.plan.kind} {run.stage.value} before its first look at these patients."
    return f"{run.plan.kind} looks at these patients when it is validated."
