"""What lies over the window for a moment: cards, the two drop targets, and the line that says what went wrong."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QRectF, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QGuiApplication, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QShowEvent
from PySide6.QtWidgets import (
    QApplication,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.controls import IconButton, label, push
from app.telling import Problem, Teller
from app.theme import Theme, blend, body_font
from app.welcome import Emblem

RESEARCH_USE = "Research use only. Not a medical device; not for diagnosis or treatment decisions."


class Card(QWidget):
    """A card in the middle of a dimmed window; the window below cannot be reached until it is closed.

    Signals:
        closed: It was closed.
    """

    closed = Signal()

    def __init__(self, theme: Theme, window: QWidget, width: int, words: str) -> None:
        super().__init__(window)
        self._theme = theme
        self.setAccessibleName(words)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(24, 24, 24, 24)
        self.card = QFrame()
        self.card.setObjectName("card")
        self.card.setFixedWidth(width)
        self.body = QVBoxLayout(self.card)
        self.body.setContentsMargins(32, 28, 32, 28)
        self.body.setSpacing(12)
        outer.addWidget(self.card, 0, Qt.AlignmentFlag.AlignCenter)
        self.close_button = push("Close", "primary")
        self.close_button.clicked.connect(self.leave)
        window.installEventFilter(self)
        self.setGeometry(window.rect())

    def finish(self) -> None:
        """Add the button; called when everything else is in."""
        row = QHBoxLayout()
        row.addStretch()
        row.addWidget(self.close_button)
        self.body.addSpacing(8)
        self.body.addLayout(row)

    def leave(self) -> None:
        """Close it."""
        self.hide()
        self.closed.emit()
        self.deleteLater()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.raise_()
        self.close_button.setFocus(Qt.FocusReason.TabFocusReason)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is QEvent.Type.Resize and isinstance(watched, QWidget) and watched is self.parent():
            self.setGeometry(watched.rect())
        return False

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Escape, Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.leave()
        event.accept()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        event.accept()

    def focusNextPrevChild(self, forward: bool) -> bool:
        # Tab goes around in the card: what it covers is not to be reached.
        stops = [w for w in self.findChildren(QWidget) if w.focusPolicy() & Qt.FocusPolicy.TabFocus and w.isVisible()]
        stops = [stop for stop in stops if stop.isEnabled()]
        if not stops:
            return True
        focus = QApplication.focusWidget()
        here = stops.index(focus) if focus in stops else -1
        reason = Qt.FocusReason.TabFocusReason if forward else Qt.FocusReason.BacktabFocusReason
        stops[(here + (1 if forward else -1)) % len(stops)].setFocus(reason)
        return True

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        shade = QColor(blend(self._theme.colours.background, "#000000", 0.35))
        shade.setAlpha(190)
        painter.fillRect(self.rect(), shade)


def first_run_card(theme: Theme, window: QWidget) -> Card:
    """What everybody reads once."""
    card = Card(theme, window, 520, "Research use only")
    card.body.addWidget(label("Research use only", "title"))
    for words in (
        "Gliascope outlines brain tumours for research. It is not a medical device, and no authority has reviewed it. "
        "Do not use it for diagnosis or treatment decisions.",
        "Its models learned from adult gliomas before surgery. Children, metastases, meningiomas and cavities after "
        "surgery are outside what they know.",
        "Check every mask by eye. Nothing you open leaves this computer.",
    ):
        card.body.addWidget(label(words, "secondary", wrap=True))
    card.close_button.setText("I understand")
    card.close_button.setAccessibleName("I understand")
    card.finish()
    return card


def about_card(theme: Theme, window: QWidget) -> Card:
    """What the program is."""
    from engine.provenance import version  # with what it writes to files; a window on its way up needs none of that

    card = Card(theme, window, 480, "About Gliascope")
    head = QHBoxLayout()
    head.setSpacing(18)
    head.addWidget(Emblem(theme, 56))
    words = QVBoxLayout()
    words.setSpacing(2)
    words.addWidget(label("Gliascope", "title"))
    words.addWidget(label(f"Version {version()}", "secondary"))
    head.addLayout(words, 1)
    card.body.addLayout(head)
    card.body.addSpacing(4)
    for text in (
        "Outlines a brain tumour on whatever MRI sequences a patient has, with a model made for exactly those.",
        RESEARCH_USE,
        "After Rahimpour et al., Cross-Modal Distillation to Improve MRI-Based Brain Tumor Segmentation With Missing "
        "MRI Sequences, IEEE Trans Biomed Eng 2022;69(7):2153-2164. The models' cards name the data they learned from.",
        "No network connection is ever made.",
    ):
        card.body.addWidget(label(text, "secondary", wrap=True))
    card.finish()
    return card


def shortcut_card(theme: Theme, window: QWidget, groups: list[tuple[str, list[tuple[str, str]]]]) -> Card:
    """Every key and what it does.

    Args:
        theme: The colours.
        window: What is covered.
        groups: What `app.shortcuts.sheet` made of the window's actions.
    """
    card = Card(theme, window, min(1060, window.width() - 64), "Keys and mouse")
    card.body.addWidget(label("Keys and mouse", "title"))
    # In as many columns as there is room for, of about the same height.
    length = sum(len(lines) + 2 for _, lines in groups)
    columns, sides = QHBoxLayout(), [QVBoxLayout() for _ in range(3)]
    columns.setSpacing(24)
    filled = 0
    for name, lines in groups:
        side = sides[min(2, 3 * (filled + len(lines) // 2) // length)]
        filled += len(lines) + 2
        side.setSpacing(6)
        side.addWidget(label(name.upper(), "caption"))
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(1, 1)
        for row, (keys, meaning) in enumerate(lines):
            key = label(keys, "key")
            key.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
            grid.addWidget(key, row, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(label(meaning, "secondary", wrap=True), row, 1)
        side.addLayout(grid)
        side.addSpacing(8)
    for side in sides:
        side.addStretch()
        columns.addLayout(side, 1)
    card.body.addLayout(columns)
    card.finish()
    return card


class Banner(QFrame):
    """One calm line above everything else: what happened, why, and what can be done about it.

    Args:
        theme: The colours.
        teller: Who has something to tell.

    Signals:
        volume_chosen: A file and which volume of it, from 0, the user wants to open.
    """

    volume_chosen = Signal(object, int)

    def __init__(self, theme: Theme, teller: Teller) -> None:
        super().__init__()
        self.setObjectName("banner")
        self._teller = teller
        row = QHBoxLayout(self)
        row.setContentsMargins(16, 10, 8, 10)
        row.setSpacing(10)
        self.words = label("", "", wrap=True)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.words.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        row.addWidget(self.words, 1)
        self.volume = QSpinBox()
        self.volume.setAccessibleName("Number of the volume")
        self.volume.setMinimumWidth(96)
        self.volume.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.volume.lineEdit().setAcceptDrops(False)
        self.earlier = IconButton(theme, "caret-left", "The volume before")
        self.later = IconButton(theme, "caret-right", "The next volume")
        self.earlier.clicked.connect(self.volume.stepDown)
        self.later.clicked.connect(self.volume.stepUp)
        choice = QHBoxLayout()
        choice.setSpacing(2)
        for part in (self.earlier, self.volume, self.later):
            choice.addWidget(part)
        row.addLayout(choice)
        self.open_volume = push("Open it")
        self.open_volume.clicked.connect(self._open_volume)
        row.addWidget(self.open_volume)
        self._actions = QHBoxLayout()
        self._actions.setSpacing(8)
        row.addLayout(self._actions)
        self.copy = push("Copy details", "", "Copy a report for whoever looks after the program; no patient data in it")
        self.copy.clicked.connect(self._copy)
        row.addWidget(self.copy)
        self.close_button = IconButton(theme, "x", "Close this message (Esc)")
        self.close_button.clicked.connect(teller.dismiss)
        row.addWidget(self.close_button, 0, Qt.AlignmentFlag.AlignTop)
        self.buttons: list[QPushButton] = []
        teller.problem_changed.connect(self._update)
        self._update()

    def _update(self) -> None:
        problem = self._teller.problem
        for button in self.buttons:
            self._actions.removeWidget(button)
            button.hide()
            button.deleteLater()
        self.buttons = []
        self.setVisible(problem is not None)
        if problem is None:
            return
        self.words.setText(problem.sentence)
        self.setAccessibleName(problem.sentence)
        self.setProperty("kind", "note" if problem.note else "problem")
        self.style().unpolish(self)
        self.style().polish(self)
        for title, act in problem.actions:
            button = push(title)
            button.clicked.connect(act)
            self._actions.addWidget(button)
            self.buttons.append(button)
        self._offer_volumes(problem)
        self.copy.setVisible(bool(problem.details))

    def _offer_volumes(self, problem: Problem) -> None:
        for part in (self.earlier, self.volume, self.later, self.open_volume):
            part.setVisible(problem.volumes is not None)
        if problem.volumes is not None:
            count = problem.volumes[1]
            self.volume.setRange(1, count)
            self.volume.setSuffix(f" of {count}")

    def _open_volume(self) -> None:
        problem = self._teller.problem
        if problem is not None and problem.volumes is not None:
            self.volume_chosen.emit(problem.volumes[0], self.volume.value() - 1)

    def _copy(self) -> None:
        problem = self._teller.problem
        if problem is not None:
            from engine.provenance import version

            QGuiApplication.clipboard().setText(f"Gliascope {version()}\n{problem.details}")
            self.copy.setText("Copied")
            QTimer.singleShot(1500, self.copy, lambda: self.copy.setText("Copy details"))


class DropTargets(QWidget):
    """While files hang over a window with a patient: where to drop them for what."""

    def __init__(self, theme: Theme, window: QWidget) -> None:
        super().__init__(window)
        self._theme = theme
        self._split = 0
        self._on_panel = self._on_date = False
        self._name = self._new = self._date = ""
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.hide()

    def show_over(
        self, area: QWidget, split: int, name: str, new: str = "Open as a new patient", date: str = ""
    ) -> None:
        """Cover ``area``; left of ``split`` pixels files are added to ``name``, right of it ``new`` happens.

        With ``date``, that happens in the lowest third of the right side.
        """
        self.setGeometry(area.geometry())
        self._split, self._name, self._new, self._date = split, name, new, date
        self.show()
        self.raise_()

    def point(self, on_panel: bool, on_date: bool = False) -> None:
        """Over which of them the pointer is."""
        self._on_panel, self._on_date = on_panel, on_date
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        c = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        areas = []
        if self._split > 0:
            areas.append((QRectF(0, 0, self._split, self.height()), f"Add to {self._name}", self._on_panel))
        rest = QRectF(self._split, 0, self.width() - self._split, self.height())
        on_rest = not self._on_panel or self._split == 0
        if self._date:
            third = rest.height() / 3
            areas.append((rest.adjusted(0, 2 * third, 0, 0), self._date, on_rest and self._on_date))
            rest = rest.adjusted(0, 0, 0, -third)
        areas.append((rest, self._new, on_rest and not self._on_date))
        for area, words, hot in areas:
            shade = QColor(c.background)
            shade.setAlpha(240)
            painter.fillRect(area, shade)
            pen = QPen(QColor(c.accent if hot else c.hairline), 2 if hot else 1.5)
            pen.setDashPattern([5, 5])
            painter.setPen(pen)
            painter.setBrush(QColor(blend(c.accent, c.background, 0.08)) if hot else Qt.BrushStyle.NoBrush)
            box = area.adjusted(14, 14, -14, -14)
            painter.drawRoundedRect(box, 12, 12)
            painter.setPen(QColor(c.text if hot else c.secondary))
            painter.setFont(body_font(18))
            flags = int(Qt.AlignmentFlag.AlignCenter) | int(Qt.TextFlag.TextWordWrap)
            painter.drawText(box.adjusted(12, 12, -12, -12), flags, words)
