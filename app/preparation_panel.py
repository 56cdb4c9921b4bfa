"""What was done to the scans, step by step: in the side panel, and above the pictures while a step is looked at."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QApplication,
    QCheckBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from app.controls import Choice, Dot, IconButton, Section, Segments, clear, label, push
from app.correct_panel import SLIDER_STEPS, place_of, radius_at
from app.correcting import Tool
from app.preparing import FINE, STEP_DEG, STEP_MM, Preparation
from app.session import Presence, Session, Stage
from app.theme import GAP, Theme
from app.viewer_model import Way
from engine.volume import Sequence, in_words

if TYPE_CHECKING:
    from engine.pipeline import Step, Worked

WAY_TITLES = {
    Way.ALONE: ("Alone", "The scan alone"),
    Way.CHECKERBOARD: ("Checkerboard", "Both in turn, square by square: lines go on across the squares where they fit"),
    Way.EDGES: ("Edges", "The edges of the scan, drawn on the one it was moved onto"),
    Way.SWIPE: ("Swipe", "One beside the other; draw the line across (, and .)"),
}
AXES = (
    ("Left, right", "to the patient's left", "to the patient's right", "about the left-right axis, nod"),
    ("Back, front", "backwards", "forwards", "about the back-front axis, tilt"),
    ("Down, up", "downwards", "upwards", "about the up-down axis, turn"),
)


class StepRow(QWidget):
    """One step: whether it was done, what it did, how long it took, and a look at it.

    Args:
        title: Its name.
        switched: Whether it can be switched on and off.
        looked: Whether there is something to look at.

    Signals:
        switched: The user wants it done, or undone.
        looked: The user wants to look at it.
    """

    switched = Signal()
    looked = Signal()

    def __init__(self, theme: Theme, title: str, switched: bool, looked: bool) -> None:
        super().__init__()
        self.title = title
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 2, 0, 2)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(1)
        grid.setColumnStretch(1, 1)
        self.switch = QCheckBox()
        self.switch.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.switch.setCursor(Qt.CursorShape.PointingHandCursor)
        self.switch.setAccessibleName(title)
        # What it shows is what was done; the click is a wish.
        self.switch.clicked.connect(self._clicked)
        self.dot = Dot(theme)
        mark = QWidget()
        mark.setFixedSize(20, 22)
        inside = QHBoxLayout(mark)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addWidget(self.switch if switched else self.dot, 0, Qt.AlignmentFlag.AlignCenter)
        (self.dot if switched else self.switch).hide()
        self._was_done = False
        self.name = label(title)
        self.seconds = label("", "small")
        self.words = label("", "small", wrap=True)
        self.words.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.look_button = push("Look", "link", f"{title}: before and after")
        self.look_button.setAccessibleName(f"Look at {title.lower()}")
        self.look_button.setCheckable(True)
        self.look_button.clicked.connect(self._look_clicked)
        grid.addWidget(mark, 0, 0, Qt.AlignmentFlag.AlignVCenter)
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(self.seconds, 0, 2, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        grid.addWidget(self.look_button, 0, 3)
        grid.addWidget(self.words, 1, 1, 1, 3)
        # Not before it has its place: a widget without one is shown as a window of its own.
        self.look_button.setVisible(looked)

    def show_step(
        self,
        done: bool,
        words: str,
        seconds: float | None,
        tip: str = "",
        why_not_looked: str = "",
        sentence: str = "",
    ) -> None:
        """What is known of the step.

        Args:
            done: Whether anything was done.
            words: What, or why nothing.
            seconds: It took; None for not known.
            tip: What switching it does, or why it cannot be switched.
            why_not_looked: Why there is nothing to look at; empty when there is.
            sentence: The same as ``words`` at length.
        """
        self._was_done = done
        self.switch.setChecked(done)
        self.switch.setToolTip(tip)
        self.switch.setAccessibleDescription(words)
        self.dot.set_state(Presence.PRESENT.value if done else Presence.ABSENT.value)
        self.words.setText(words)
        self.words.setToolTip(sentence)
        self.words.setVisible(bool(words))
        self.seconds.setText("" if seconds is None else f"{seconds:.1f} s")
        self.look_button.setEnabled(not why_not_looked)
        self.look_button.setToolTip(why_not_looked or f"{self.title}: before and after")

    def show_looked(self, on: bool) -> None:
        """Whether this is the step that is looked at."""
        self.look_button.setChecked(on)
        self.look_button.setText("Close" if on else "Look")

    def _clicked(self) -> None:
        self.switch.setChecked(self._was_done)
        self.switched.emit()

    def _look_clicked(self) -> None:
        self.look_button.setChecked(False)
        self.looked.emit()


class NudgeBox(QWidget):
    """Pushing and turning by buttons, in mm and degrees, with what comes of it."""

    def __init__(self, theme: Theme, preparation: Preparation) -> None:
        super().__init__()
        self._preparation = preparation
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 2, 0, 6)
        column.setSpacing(4)
        grid = QGridLayout()
        grid.setHorizontalSpacing(0)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(0, 1)
        self.shifts: list[QLabel] = []
        self.turns: list[QLabel] = []
        self.buttons: dict[tuple[str, int, int], IconButton] = {}
        for row, (title, lower, higher, turning) in enumerate(AXES):
            grid.addWidget(label(title, "small"), row + 1, 0)
            for kind, place, values, tips in (
                ("push", 1, self.shifts, (f"Push {lower}", f"Push {higher}")),
                ("turn", 5, self.turns, (f"Turn {turning}", f"Turn {turning}, the other way")),
            ):
                value = label("")
                value.setFixedWidth(40)
                value.setAlignment(Qt.AlignmentFlag.AlignCenter)
                values.append(value)
                for side, icon, tip in ((-1, "caret-left", tips[0]), (1, "caret-right", tips[1])):
                    button = IconButton(theme, icon, f"{tip} (Shift: a fifth)")
                    button.setAutoRepeat(True)
                    button.clicked.connect(lambda _=False, k=kind, a=row, s=side: self._press(k, a, s))
                    self.buttons[kind, row, side] = button
                    grid.addWidget(button, row + 1, place + 1 + side)
                grid.addWidget(value, row + 1, place + 1)
            grid.setColumnMinimumWidth(4, 6)
        for place, words in ((2, "Push, mm"), (6, "Turn, degrees")):
            head = label(words, "small")
            grid.addWidget(head, 0, place - 1, 1, 3, Qt.AlignmentFlag.AlignCenter)
        column.addLayout(grid)
        self.fit = label("", "small", wrap=True)
        column.addWidget(self.fit)
        self.hint = label("Drag in a picture to push, with Ctrl to turn about the crosshair.", "small", wrap=True)
        column.addWidget(self.hint)
        self.use_button = push("Use this position", "primary", "Leave the scan here, and do the later steps again")
        self.again_button = push("Align from here", "", "Look for the best place, beginning where the scan is now")
        self.reset_button = push("Reset", "", "Take the push back")
        self.automatic_button = push("Automatic again", "link", "Let the program find the place again")
        self.use_button.clicked.connect(preparation.use_nudge)
        self.again_button.clicked.connect(preparation.align_from_here)
        self.reset_button.clicked.connect(preparation.reset_nudge)
        self.automatic_button.clicked.connect(preparation.forget_hand_matrix)
        others = QHBoxLayout()
        others.setSpacing(6)
        others.addWidget(self.again_button, 1)
        others.addWidget(self.reset_button)
        column.addLayout(others)
        column.addWidget(self.use_button)
        column.addWidget(self.automatic_button, 0, Qt.AlignmentFlag.AlignLeft)
        preparation.changed.connect(self._update)
        self._update()

    def _press(self, kind: str, axis: int, side: int) -> None:
        fine = bool(QApplication.keyboardModifiers() & Qt.KeyboardModifier.ShiftModifier)
        share = side * (FINE if fine else 1.0)
        if kind == "push":
            self._preparation.push(axis, share * STEP_MM)
        else:
            self._preparation.turn(axis, share * STEP_DEG)

    def _update(self) -> None:
        preparation = self._preparation
        self.setVisible(preparation.nudging)
        if not preparation.nudging:
            return
        nudge = preparation.nudge
        for value, mm in zip(self.shifts, nudge.shift_mm, strict=True):
            value.setText(f"{mm:+.1f}" if mm else "0")
        for value, degrees in zip(self.turns, nudge.turn_deg, strict=True):
            value.setText(f"{degrees:+.1f}" if degrees else "0")
        free = not preparation.aligning
        for button in self.buttons.values():
            button.setEnabled(free)
        self.fit.setText(
            f"The fit here is {preparation.fit}." if preparation.fit else "The fit here is being measured."
        )
        self.fit.setVisible(not nudge.nothing)
        self.hint.setVisible(nudge.nothing)
        self.use_button.setVisible(not nudge.nothing)
        self.use_button.setEnabled(free)
        self.reset_button.setEnabled(free and not nudge.nothing)
        self.reset_button.setToolTip("Take the push back" if not nudge.nothing else "Nothing was pushed.")
        self.again_button.setText("Aligning" if preparation.aligning else "Align from here")
        self.again_button.setEnabled(free)
        self.automatic_button.setVisible(preparation.by_hand and nudge.nothing)


class BrainBox(QWidget):
    """Drawing on the brain's outline."""

    def __init__(self, theme: Theme, preparation: Preparation) -> None:
        super().__init__()
        self._preparation = preparation
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 2, 0, 6)
        column.setSpacing(6)
        head = QHBoxLayout()
        self.volume = label("", "small")
        head.addWidget(self.volume, 1)
        self.undo_button = IconButton(theme, "arrow-u-up-left", "Undo the last stroke (Ctrl+Z)")
        self.undo_button.clicked.connect(preparation.undo)
        head.addWidget(self.undo_button)
        column.addLayout(head)
        tools = QHBoxLayout()
        tools.setSpacing(8)
        self.tools = Segments(
            (
                (Tool.LOOK, "Look", "Look without changing anything (Esc)"),
                (Tool.PAINT, "Add", "Add to the brain with the left button; Ctrl removes (B)"),
                (Tool.ERASE, "Remove", "Remove from the brain with the left button; Ctrl adds (E)"),
            ),
            "Brush of the brain",
        )
        self.tools.chosen.connect(lambda tool: preparation.take(tool=tool))
        tools.addWidget(self.tools)
        tools.addStretch()
        column.addLayout(tools)
        self.options = QWidget()
        row = QHBoxLayout(self.options)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        self.size_slider = QSlider(Qt.Orientation.Horizontal)
        self.size_slider.setRange(0, SLIDER_STEPS)
        self.size_slider.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.size_slider.setAccessibleName("Size of the brush")
        self.size_slider.setToolTip("Diameter of the brush (A and S)")
        self.size_slider.valueChanged.connect(lambda value: preparation.take(radius_mm=radius_at(value)))
        self.size_words = label("", "small")
        self.size_words.setMinimumWidth(40)
        self.extent = Segments(
            ((False, "Slice", "A disc on this slice (D)"), (True, "3-D", "A ball through all slices (D)")), "Extent"
        )
        self.extent.chosen.connect(lambda ball: preparation.take(ball=ball))
        row.addWidget(self.size_slider, 1)
        row.addWidget(self.size_words)
        row.addWidget(self.extent)
        column.addWidget(self.options)
        buttons = QHBoxLayout()
        self.use_button = push("Use this brain", "primary", "Strip with this outline, and do the later steps again")
        self.use_button.clicked.connect(preparation.use_brain)
        self.reset_button = push("Reset", "", "Take all strokes back")
        self.reset_button.clicked.connect(preparation.reset_brain)
        buttons.addWidget(self.use_button, 1)
        buttons.addWidget(self.reset_button)
        column.addLayout(buttons)
        self.automatic_button = push("Automatic again", "link", "Let the program find the brain again")
        self.automatic_button.clicked.connect(preparation.forget_hand_brain)
        column.addWidget(self.automatic_button, 0, Qt.AlignmentFlag.AlignLeft)
        for signal in (preparation.changed, preparation.hand_changed):
            signal.connect(self._update)
        preparation.brain_changed.connect(self._update_volume)
        self._update()

    def _update(self) -> None:
        preparation = self._preparation
        self.setVisible(preparation.drawable)
        if not preparation.drawable:
            return
        hand = preparation.hand
        self.tools.set(hand.tool)
        self.extent.set(hand.ball)
        self.options.setVisible(hand.tool is not Tool.LOOK)
        self.size_slider.blockSignals(True)
        self.size_slider.setValue(place_of(hand.radius_mm))
        self.size_slider.blockSignals(False)
        self.size_words.setText(f"{2 * hand.radius_mm:.0f} mm")
        for part in (self.use_button, self.reset_button):
            part.setVisible(preparation.drawn > 0)
        self.undo_button.setEnabled(preparation.drawn > 0)
        self.automatic_button.setVisible(preparation.brain_by_hand and not preparation.drawn)
        self._update_volume()

    def _update_volume(self) -> None:
        ml = self._preparation.brain_ml
        self.volume.setText("" if ml is None else f"Brain {ml:.0f} ml")


class PreparationPanel(Section):
    """The steps between the files and the model: what each did, how long it took, on and off, and a look at it.

    Folded up where nothing had to be done.

    Signals:
        series: The user wants to see which series there are.
    """

    series = Signal()

    def __init__(self, theme: Theme, session: Session, preparation: Preparation) -> None:
        super().__init__("PREPARATION")
        self._session, self._preparation = session, preparation
        self._unfolded: bool | None = None
        self._patient: object = None
        self.total = label("", "small")
        self.head.addWidget(self.total)
        self.fold_button = IconButton(theme, "caret-down", "Show the steps")
        self.fold_button.clicked.connect(self._fold)
        self.head.addWidget(self.fold_button)
        self.summary = label("", "small", wrap=True)
        self.body.addWidget(self.summary)
        self.steps = QWidget()
        column = QVBoxLayout(self.steps)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.rows: dict[str, StepRow] = {}
        self.nudge = NudgeBox(theme, preparation)
        self.brain = BrainBox(theme, preparation)
        self.reference = Choice(theme, "Which sequence the others are aligned onto")
        self.reference.activated.connect(self._choose_reference)
        self.reference_row = QWidget()
        onto = QHBoxLayout(self.reference_row)
        onto.setContentsMargins(0, 0, 0, 0)
        onto.addWidget(label("Aligned onto", "small"))
        onto.addWidget(self.reference, 1)
        for key, title, switched, looked in (
            ("found", "Found", False, False),
            ("align", "Aligned", True, True),
            ("grid", "One grid", False, False),
            ("strip", "Skull removed", True, True),
            ("bias", "Brightness evened", True, True),
            ("segmented", "Segmented", False, False),
        ):
            row = StepRow(theme, title, switched, looked)
            self.rows[key] = row
            column.addWidget(row)
            row.switched.connect(lambda key=key: self._switch(key))
            row.looked.connect(lambda key=key: preparation.look(_step(key)))
            if key == "found":
                self.series_button = push("Series", "link", "Which series there are, and which were taken")
                self.series_button.clicked.connect(self.series)
                layout = row.layout()
                assert isinstance(layout, QGridLayout)
                layout.addWidget(self.series_button, 0, 3)
            elif key == "align":
                column.addWidget(self.reference_row)
                column.addWidget(self.nudge)
            elif key == "strip":
                column.addWidget(self.brain)
        self.again_button = push("Prepare the scans", "large", "Do the steps that were stopped")
        self.again_button.clicked.connect(preparation.again)
        column.addWidget(self.again_button)
        self.body.addWidget(self.steps)
        self.doubts = label("", "doubt", wrap=True)
        self.body.addWidget(self.doubts)
        for signal in (preparation.changed, session.result_changed, session.patient_changed):
            signal.connect(self._update)
        self._update()

    @property
    def unfolded(self) -> bool:
        """Whether the steps are shown: as the user left it, else where something was done or is being done."""
        if self._preparation.step is not None:
            return True
        if self._unfolded is not None:
            return self._unfolded
        worked = self._session.worked
        # With a result, or something to read before it, there is something else to look at.
        return self._session.result is None and not self._session.unread and (worked is None or worked.changed)

    def _fold(self) -> None:
        if self.unfolded:
            self._preparation.stop_looking()
        self._unfolded = not self.unfolded
        self._update()

    def _switch(self, key: str) -> None:
        self._preparation.switch(_step(key))

    def _choose_reference(self, number: int) -> None:
        worked = self._session.worked
        if worked is not None:
            self._preparation.set_reference((None, *worked.shown)[number])

    def _update(self) -> None:
        session = self._session
        if session.files is not self._patient:
            self._patient, self._unfolded = session.files, None
        # With no sequence known there is nothing to prepare.
        self.setVisible(session.files is not None and bool(session.files.files))
        if session.files is None:
            # An empty window has nothing to load the steps for.
            return
        worked = session.worked
        unfolded = self.unfolded
        self.steps.setVisible(unfolded)
        # Folded it is a line among others, and what follows needs the room.
        top, bottom = (14, 2 * GAP) if unfolded else (8, 8)
        self.body.setContentsMargins(2 * GAP, top, 2 * GAP, bottom)
        self.body.setSpacing(GAP if unfolded else 0)
        self.fold_button.draw("caret-up" if unfolded else "caret-down")
        self.fold_button.say("Hide the steps" if unfolded else "Show the steps")
        self.summary.setVisible(not unfolded)
        seconds = sum(done.seconds for done in worked.done) if worked is not None else 0.0
        self.total.setText(f"{seconds:.1f} s" if worked is not None and worked.changed else "")
        self.summary.setText(self._summary())
        self._update_found()
        for key in ("align", "grid", "strip", "bias"):
            self._update_step(key)
        self._update_segmented()
        self._update_reference()
        doubts = list(worked.doubts) if worked is not None else []
        if session.result is None and not session.unread:
            # With a mask they stand above it.
            doubts += [doubt.sentence for doubt in session.doubts]
        self.doubts.setText("\n".join(doubts))
        self.doubts.setVisible(bool(doubts))
        self.again_button.setVisible(worked is None and session.stage is Stage.READY)

    def _summary(self) -> str:
        worked = self._session.worked
        if worked is None:
            return "Not done yet."
        if not worked.changed:
            return "Nothing had to be done: the scans are as models know them."
        names = {"align": "aligned", "grid": "on one grid", "strip": "skull removed", "bias": "brightness evened"}
        told = [done.step.value for done in worked.done if done.did]
        words = ", ".join(names[step] for step in told if step != "grid" or len(told) == 1)
        return f"{words[:1].upper()}{words[1:]}."

    def _update_found(self) -> None:
        session, row = self._session, self.rows["found"]
        files, studies = session.files, session.studies
        if files is None:
            return
        words = in_words(files.files)
        if studies is not None and studies.taken is not None:
            words += f", of {len(studies.taken.series)} series."
            words = " ".join((words, *studies.taken.notes))
        else:
            words += "."
        row.show_step(True, f"{words} {session.unseen}".strip(), None)
        self.series_button.setVisible(studies is not None)
        self.series_button.setEnabled(not self._preparation.why_not)
        self.series_button.setToolTip(self._preparation.why_not or "Which series there are, and which were taken")

    def _update_step(self, key: str) -> None:
        session, preparation, row = self._session, self._preparation, self.rows[key]
        worked = session.worked
        step = _step(key)
        why_not = preparation.why_not
        if worked is None:
            row.show_step(False, "", None, why_not or "Prepare the scans first.", "This was not done yet.")
            row.switch.setEnabled(False)
        else:
            done = worked.of(step)
            if key == "grid":
                row.setVisible(done.did)
                row.show_step(done.did, facts(worked, step), done.seconds, sentence=done.sentence)
                return
            off = preparation.switch_of(step).value == "off"
            tip = "Undo this step" if done.did else "Do this step where it is needed" if off else "Do this step anyway"
            row.show_step(
                done.did,
                done.sentence if preparation.step is step or not done.did else facts(worked, step),
                done.seconds if done.did or done.seconds >= 0.05 else None,
                why_not or tip,
                preparation.why_not_looked_at(step),
                done.sentence,
            )
            row.switch.setEnabled(not why_not)
        row.show_looked(preparation.step is step)

    def _update_segmented(self) -> None:
        session, row = self._session, self.rows["segmented"]
        result = session.result
        if result is not None:
            card = result.segmentation.card
            words = f"With the {card.title} on {result.segmentation.device}."
            row.show_step(True, words, result.segmentation.seconds)
        else:
            row.show_step(False, "", None)

    def _update_reference(self) -> None:
        worked, preparation = self._session.worked, self._preparation
        from engine.pipeline import Step

        shown = worked is not None and preparation.step is Step.ALIGN
        self.reference_row.setVisible(shown)
        if worked is None or not shown:
            return
        chosen = self._session.settings.reference
        self.reference.blockSignals(True)
        self.reference.clear()
        self.reference.addItem(f"{worked.reference.title}, chosen for you" if chosen is None else "Choose for me")
        self.reference.addItems([sequence.title for sequence in worked.shown])
        self.reference.setCurrentIndex(0 if chosen is None else list(worked.shown).index(chosen) + 1)
        self.reference.setEnabled(not preparation.why_not)
        self.reference.blockSignals(False)


class CheckBar(QFrame):
    """Above the pictures while a step is looked at: on which sequence, in which way, before or after."""

    def __init__(self, theme: Theme, preparation: Preparation) -> None:
        super().__init__()
        self.setObjectName("bar")
        self.setFixedHeight(44)
        self._preparation = preparation
        row = QHBoxLayout(self)
        row.setContentsMargins(14, 0, 8, 0)
        row.setSpacing(12)
        self.title = label("")
        row.addWidget(self.title)
        self._sequences = QHBoxLayout()
        row.addLayout(self._sequences)
        self.sequences: Segments | None = None
        self._offered: tuple[object, ...] = ()
        self._ways = QHBoxLayout()
        row.addLayout(self._ways)
        self.ways: Segments | None = None
        self.times = Segments(
            ((True, "Before", "Before the step (hold X)"), (False, "After", "After the step (hold X for before)")),
            "Time",
        )
        self.times.chosen.connect(lambda before: preparation.set_before(bool(before)))
        row.addWidget(self.times)
        self.hint = label("", "small")
        row.addWidget(self.hint)
        row.addStretch()
        self.close_button = push("Done", "", "Back to the scan (Esc)")
        self.close_button.clicked.connect(preparation.stop_looking)
        row.addWidget(self.close_button)
        preparation.changed.connect(self._update)
        self._update()

    def _update(self) -> None:
        preparation = self._preparation
        step = preparation.step
        self.setVisible(step is not None)
        if step is None:
            return
        from engine.pipeline import Step

        worked = preparation.worked
        onto = worked.reference.title if worked is not None else ""
        self.title.setText(
            {Step.ALIGN: f"Aligned onto {onto}", Step.STRIP: "Skull removed", Step.BIAS: "Brightness evened"}[step]
        )
        offered = (step, preparation.sequences)
        if offered != self._offered:
            self._offered = offered
            self._rebuild(preparation.sequences)
        assert self.sequences is not None
        assert self.ways is not None
        self.sequences.set(preparation.sequence)
        for sequence in preparation.sequences:
            button = self.sequences.button(sequence)
            busy = preparation.unused and sequence is not preparation.sequence and step is Step.ALIGN
            button.setEnabled(not busy)
            button.setToolTip("Use or reset what was pushed first." if busy else f"Look at {sequence.title}")
        self.ways.set(preparation.way)
        swiped = step is not Step.ALIGN and preparation.way is Way.SWIPE
        self.times.setVisible(not swiped)
        self.times.set(preparation.at_before)
        self.hint.setText("Before on the left, after on the right" if swiped else "")
        self.hint.setVisible(swiped)
        self.close_button.setText("Cancel" if preparation.unused else "Done")

    def _rebuild(self, sequences: tuple[Sequence, ...]) -> None:
        for layout in (self._sequences, self._ways):
            clear(layout)
        self.sequences = Segments(
            tuple((s, s.title, f"Look at {s.title}") for s in sequences), "Sequence that is looked at"
        )
        self.sequences.chosen.connect(self._chosen(self._preparation.look_on))
        self._sequences.addWidget(self.sequences)
        ways = self._preparation.ways
        self.ways = Segments(tuple((way, *WAY_TITLES[way]) for way in ways), "Way to look")
        self.ways.chosen.connect(self._chosen(self._preparation.set_way))
        self._ways.addWidget(self.ways)
        order: list[QPushButton] = [
            *self.sequences.findChildren(QPushButton), *self.ways.findChildren(QPushButton),
            *self.times.findChildren(QPushButton), self.close_button,
        ]  # fmt: skip
        # New widgets come last in the tab order; these belong where they are read.
        for before, after in pairwise(order):
            QWidget.setTabOrder(before, after)

    def _chosen(self, use: Callable[..., None]) -> Callable[[object], None]:
        def chosen(value: object) -> None:
            use(value)
            # A segment that was pressed stays on until what is looked at says otherwise.
            self._update()

        return chosen


def facts(worked: Worked, step: Step) -> str:
    """What a step did in figures, short enough for a line."""
    from engine.pipeline import Step, motion

    if step is Step.ALIGN:
        told = []
        for sequence, volume in worked.raw.items():
            mm, degrees = motion(worked.matrices[sequence], volume.grid)
            if sequence is not worked.reference:
                told.append(
                    f"{sequence.title} {mm:.1f} mm, {degrees:.1f}\u00b0"
                    if mm + degrees
                    else f"{sequence.title} lay right"
                )
        return "; ".join(told)
    if step is Step.GRID:
        shape, spacing = worked.grid.shape, worked.grid.spacing
        return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{mm:.3g}' for mm in spacing)} mm"
    if step is Step.STRIP and worked.brain is not None:
        return f"{worked.brain.ml(worked.brain.data > 0):,.0f} ml of brain are left"
    changes = worked.of(step).details.get("largest_change", {})
    return ", ".join(f"{Sequence(name).title} by {100 * share:.0f} %" for name, share in changes.items())


def _step(key: str) -> Step:
    from engine.pipeline import Step

    return Step(key)
