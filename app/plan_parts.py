"""The parts that the wizard's plan is made of: switches, presets, folds, and what it all comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QAbstractButton,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QProgressBar,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from app import installing
from app.controls import clear, label, push
from app.telling import time_left
from app.theme import LABEL_PX, RADIUS, Theme, blend, body_font
from engine.volume import Sequence
from trainer.wizard import HoldOut

if TYPE_CHECKING:
    from trainer.estimate import Device, Estimate
    from trainer.wizard import Plan

SUMMARY_WIDTH = 324


def named(sequences: Iterable[Sequence]) -> str:
    """``"T1+FLAIR"``."""
    return "+".join(sequence.title for sequence in Sequence if sequence in set(sequences))


class SequenceChoice(QWidget):
    """Four switches, one a sequence.

    Args:
        words: Whose sequences these are, for screen readers.
        chosen: Those that are on.
        change: Called with others when the user switches.
    """

    def __init__(
        self, words: str, chosen: tuple[Sequence, ...], change: Callable[[tuple[Sequence, ...]], object]
    ) -> None:
        super().__init__()
        self._change = change
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        self.buttons: dict[Sequence, QAbstractButton] = {}
        for sequence in Sequence:
            button = push(sequence.title, "chip")
            button.setCheckable(True)
            button.setAccessibleName(f"{words}: {sequence.title}")
            button.clicked.connect(self._clicked)
            self.buttons[sequence] = button
            row.addWidget(button)
        self.set(chosen)

    def set(self, chosen: tuple[Sequence, ...]) -> None:
        """Show what is on, without telling."""
        for sequence, button in self.buttons.items():
            on = sequence in chosen
            button.setChecked(on)
            last = on and len(chosen) == 1
            button.setEnabled(not last)
            button.setToolTip("At least one sequence is needed; switch another on first." if last else "")

    def _clicked(self) -> None:
        self._change(tuple(sequence for sequence, button in self.buttons.items() if button.isChecked()))


class QualityCard(QAbstractButton):
    """One of the presets: its name, what it is for, and how long it takes here.

    Args:
        theme: The colours.
        title: Its name.
        words: What it is for.
    """

    def __init__(self, theme: Theme, title: str, words: str) -> None:
        super().__init__()
        self._theme, self._words, self.time = theme, words, ""
        self.setText(title)
        self.setCheckable(True)
        self.setFixedHeight(98)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        self.show_time("")
        theme.changed.connect(self.update)

    def show_time(self, time: str) -> None:
        """How long it would take; empty where nobody knows yet."""
        self.time = time
        self.setAccessibleName(f"{self.text()}: {self._words} {time}".strip())
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(220, 98)

    def paintEvent(self, event: QPaintEvent) -> None:
        c = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        on = self.isChecked()
        box = QRectF(self.rect()).adjusted(1, 1, -1, -1)
        painter.setBrush(QColor(blend(c.accent, c.panel, 0.12) if on else c.raised if self.underMouse() else c.panel))
        edge = c.accent if on or self.hasFocus() else c.hairline
        painter.setPen(QPen(QColor(edge), 2 if self.hasFocus() else 1.2))
        painter.drawRoundedRect(box, RADIUS + 2, RADIUS + 2)
        inside = box.adjusted(14, 11, -14, -10)
        painter.setFont(body_font(14, medium=True))
        painter.setPen(QColor(c.text))
        painter.drawText(inside, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop), self.text())
        painter.setFont(body_font(LABEL_PX + 1))
        painter.setPen(QColor(c.secondary))
        flags = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop) | int(Qt.TextFlag.TextWordWrap)
        painter.drawText(inside.adjusted(0, 21, 0, 0), flags, self._words)
        painter.setFont(body_font())
        painter.setPen(QColor(c.text if self.time else c.secondary))
        time = self.time or "not measured yet"
        painter.drawText(inside, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignBottom), time)


class Fold(QWidget):
    """A line that says what was decided and opens to where it is decided.

    Args:
        theme: The colours.
        title: What is decided.
    """

    def __init__(self, theme: Theme, title: str) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        self.head = FoldHead(theme, title)
        self.head.toggled.connect(self._open)
        self.inside = QWidget()
        self.body = QVBoxLayout(self.inside)
        self.body.setContentsMargins(24, 4, 0, 16)
        self.body.setSpacing(8)
        self.inside.hide()
        column.addWidget(self.head)
        column.addWidget(self.inside)

    def _open(self, on: bool) -> None:
        self.inside.setVisible(on)

    def say(self, words: str) -> None:
        """What is decided now."""
        self.head.say(words)


class FoldHead(QAbstractButton):
    """The line of a `Fold`: a caret, what is decided, and how."""

    def __init__(self, theme: Theme, title: str) -> None:
        super().__init__()
        self._theme, self._words = theme, ""
        self.setText(title)
        self.setCheckable(True)
        self.setFixedHeight(42)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        theme.changed.connect(self.update)
        self.say("")

    def say(self, words: str) -> None:
        """What is decided now."""
        self._words = words
        self.setAccessibleName(f"{self.text()}: {words}")
        self.update()

    @property
    def words(self) -> str:
        """What it says."""
        return self._words

    def sizeHint(self) -> QSize:
        return QSize(400, 42)

    def paintEvent(self, event: QPaintEvent) -> None:
        c = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(0, 0, self.width(), 1, QColor(c.hairline))
        if self.hasFocus():
            painter.setPen(QPen(QColor(c.accent), 1))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 2.5, -0.5, -2.5), RADIUS, RADIUS)
        colour = c.text if self.underMouse() or self.isChecked() else c.secondary
        caret = self._theme.icon("caret-down" if self.isChecked() else "caret-right", colour)
        caret.paint(painter, 4, (self.height() - 12) // 2, 12, 12)
        painter.setFont(body_font())
        painter.setPen(QColor(c.text))
        inside = self.rect().adjusted(24, 0, -6, 0)
        painter.drawText(inside, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), self.text())
        left = painter.fontMetrics().horizontalAdvance(self.text()) + 24
        painter.setPen(QColor(c.secondary))
        words = painter.fontMetrics().elidedText(self._words, Qt.TextElideMode.ElideMiddle, inside.width() - left)
        painter.drawText(inside, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), words)


def count_of_patients(count: int) -> str:
    """``"one patient"``, ``"12 patients"``."""
    return "one patient" if count == 1 else f"{count} patients"


def device_in_words(device: Device) -> str:
    """``"Processor, 8 cores: 12 GB free"``."""
    free = f": {device.free_gb:.0f} GB free" if device.free_gb is not None and device.usable else ""
    return f"{device.title}{free}" if device.usable else f"{device.title}: {device.why_not}"


class Summary(QFrame):
    """Right of the questions: what will happen, how long it takes, and what has to be there for it.

    Signals:
        measure: Measure this machine.
        stop_measuring: Go on without.
        install: Install torch; the user agrees.
        stop_installing: Do not install it after all.
    """

    measure = Signal()
    stop_measuring = Signal()
    install = Signal()
    stop_installing = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._measuring = self._installing = False
        self._known: tuple[Estimate | None, float | None, Device | None] = (None, None, None)
        self.setObjectName("detail")
        self.setFixedWidth(SUMMARY_WIDTH)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 22, 20, 20)
        column.setSpacing(4)
        column.addWidget(label("WHAT WILL HAPPEN", "caption"))
        self._runs = QVBoxLayout()
        self._runs.setSpacing(10)
        column.addSpacing(4)
        column.addLayout(self._runs)
        column.addSpacing(18)
        column.addWidget(label("HOW LONG", "caption"))
        self.time = label("", "figure")
        column.addWidget(self.time)
        self.on_what = label("", "secondary", wrap=True)
        column.addWidget(self.on_what)
        column.addSpacing(4)
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setTextVisible(False)
        self.progress.setAccessibleName("Measuring this machine")
        column.addWidget(self.progress)
        line = QHBoxLayout()
        self.measure_button = push("Measure again", "link")
        self.measure_button.clicked.connect(self._measure_or_stop)
        line.addWidget(self.measure_button)
        line.addStretch()
        column.addLayout(line)
        column.addSpacing(14)
        column.addWidget(label("WHAT IT NEEDS", "caption"))
        self.needs = [label("", "secondary", wrap=True) for _ in range(2)]
        for words in self.needs:
            column.addWidget(words)
        column.addStretch()
        column.addWidget(self._make_torch())
        self.show_measuring(None)
        self.show_installing("")

    def _make_torch(self) -> QFrame:
        self.torch = QFrame()
        self.torch.setObjectName("note")
        self.torch.setProperty("grave", True)
        column = QVBoxLayout(self.torch)
        column.setContentsMargins(14, 12, 12, 12)
        column.setSpacing(8)
        self.torch_words = label("", "", wrap=True)
        column.addWidget(self.torch_words)
        self.torch_doing = label("", "secondary", wrap=True)
        column.addWidget(self.torch_doing)
        self.torch_progress = QProgressBar()
        self.torch_progress.setRange(0, 0)
        self.torch_progress.setTextVisible(False)
        self.torch_progress.setAccessibleName("Installing torch")
        column.addWidget(self.torch_progress)
        self.torch_button = push("Install torch", "primary")
        self.torch_button.clicked.connect(self._install_or_stop)
        column.addWidget(self.torch_button)
        return self.torch

    def show_plan(self, plan: Plan, notes: Iterable[str]) -> None:
        """What is trained, in its order, and what is worth knowing of it."""
        clear(self._runs)
        held = ""
        if isinstance(plan.split, HoldOut):
            held = f"Every model is measured on the {count_of_patients(plan.split.patients)} kept apart."
        else:
            held = f"Each is trained {plan.split.count} times, and once more on everybody for the app."
        lines = [("Teacher", named(plan.teacher))]
        for student in plan.students:
            lines += [("Baseline", named(student))] if plan.baseline else []
            lines.append(("Student", named(student)))
        if plan.any_student:
            lines += [("Baseline", "any subset")] if plan.baseline else []
            lines.append(("Student", "any subset"))
        grid = QGridLayout()
        grid.setHorizontalSpacing(10)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(2, 1)
        for row, (role, sees) in enumerate(lines):
            grid.addWidget(label(str(row + 1), "secondary"), row, 0)
            grid.addWidget(label(role), row, 1)
            grid.addWidget(label(sees, "secondary"), row, 2)
        self._runs.addLayout(grid)
        for words in (held, *notes):
            self._runs.addWidget(label(words, "secondary", wrap=True))
        self._update_torch()

    def show_sums(self, found: Estimate | None, disk_free_gb: float | None, device: Device | None) -> None:
        """How long, how much memory and how much disk; what is not known is not said."""
        self._known = (found, disk_free_gb, device)
        if self._measuring:
            return
        self.time.setText(time_left(found.seconds_low, found.seconds_high) if found is not None else "Not measured yet")
        self.on_what.setText(device.title if device is not None else "")
        memory = disk = ""
        if found is not None:
            free = f" of {device.free_gb:.0f} GB free" if device is not None and device.free_gb is not None else ""
            memory = f"Memory: {found.memory_mb / 1000:.1f} GB{free}"
            room = f" of {disk_free_gb:.0f} GB free" if disk_free_gb is not None else ""
            disk = f"Disk: {max(0.1, found.disk_mb / 1000):.1f} GB{room}"
        elif disk_free_gb is not None:
            disk = f"Disk: {disk_free_gb:.0f} GB free"
        self.needs[0].setText(memory)
        self.needs[1].setText(disk)

    def show_measuring(self, fraction: float | None) -> None:
        """How far the measurement of this machine is; ``None`` for none under way."""
        self._measuring = fraction is not None
        self.progress.setVisible(self._measuring)
        self.progress.setValue(round(1000 * (fraction or 0)))
        if self._measuring:
            self.time.setText("Measuring")
            self.on_what.setText("Some real steps on made-up patients, for about 20 seconds.")
        else:
            self.show_sums(*self._known)
        words = "Skip" if self._measuring else "Measure again"
        self.measure_button.setText(words)
        self.measure_button.setAccessibleName(f"{words}: how long this machine takes")

    def _measure_or_stop(self) -> None:
        (self.stop_measuring if self._measuring else self.measure).emit()

    # torch

    def _update_torch(self) -> None:
        here = installing.torch_is_here()
        self.torch.setVisible(not here or self._installing)
        self.measure_button.setVisible(here)
        if here:
            return
        why = installing.why_not_install()
        words = "Training needs torch, which is not installed yet"
        self.torch_words.setText(f"{words}. {why}" if why else f"{words}: {installing.room_in_words()}.")
        self.torch_button.setVisible(not why)

    def show_installing(self, words: str) -> None:
        """What the installation is at; empty when there is none."""
        under_way = self._installing = bool(words)
        self.torch_doing.setVisible(under_way)
        self.torch_progress.setVisible(under_way)
        self.torch_doing.setText(words)
        self.torch_button.setText("Stop" if under_way else "Install torch")
        unpacking = words.startswith(installing.UNPACKING)
        stopping = words == "Stopping"
        self.torch_button.setEnabled(not unpacking and not stopping)
        self.torch_button.setToolTip(
            "Packages are being unpacked; stopping now would leave half of them." if unpacking else ""
        )
        self._update_torch()

    def _install_or_stop(self) -> None:
        (self.stop_installing if self._installing else self.install).emit()
