"""The four sequences: which are here, which is displayed, and what to do where the program is not sure."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QAction, QContextMenuEvent
from PySide6.QtWidgets import QHBoxLayout, QMenu, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app.controls import Dot, ElidedLabel, IconButton, Section, Segments, label, push
from app.session import Entry, Presence, Session, Stage
from app.theme import Theme
from app.viewer_model import LayerKey, ViewerModel
from engine.volume import Sequence

ROW_HEIGHT = 42


class EntryRow(QPushButton):
    """One sequence, or one file nobody has named yet. A click displays it.

    Signals:
        assigned: The user says which sequence the file is.
        left_out: The user goes on without the file.
    """

    assigned = Signal(object, object)
    left_out = Signal(object)

    def __init__(self, theme: Theme, entry: Entry, number: int) -> None:
        super().__init__()
        self.setObjectName("row")
        self.setFixedHeight(ROW_HEIGHT)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setFlat(True)
        self._number = number

        row = QHBoxLayout(self)
        row.setContentsMargins(8, 0, 4, 0)
        row.setSpacing(8)
        self._dot = Dot(theme)
        row.addWidget(self._dot)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.setContentsMargins(0, 0, 0, 0)
        words.addStretch()
        self._title, self._file = label(), ElidedLabel("", "small")
        words.addWidget(self._title)
        words.addWidget(self._file)
        words.addStretch()
        row.addLayout(words, 1)
        self._state = label("", "small")
        row.addWidget(self._state)
        self.menu_button = IconButton(theme, "caret-down", "Say which sequence this is")
        self.menu_button.clicked.connect(self._open_menu)
        # Without a file its place stays empty, so that the words of all rows keep their column.
        place = self.menu_button.sizePolicy()
        place.setRetainSizeWhenHidden(True)
        self.menu_button.setSizePolicy(place)
        row.addWidget(self.menu_button)
        for child in (self._dot, self._title, self._file, self._state):
            child.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.set_entry(entry)

    def set_entry(self, entry: Entry) -> None:
        """Show another state of the sequence."""
        self.entry = entry
        path = entry.path
        title = entry.sequence.title if entry.sequence is not None else "Which sequence is this?"
        self._dot.set_state(entry.presence.value)
        self._title.setText(title)
        self._title.setObjectName("" if path is not None else "secondary")
        self._title.style().unpolish(self._title)
        self._title.style().polish(self._title)
        self._file.setText(entry.name)
        self._file.setVisible(path is not None)
        self._state.setText(entry.presence.value)
        self._state.setVisible(entry.presence is not Presence.UNKNOWN)
        self.menu_button.setVisible(path is not None)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        if path is not None:
            self.menu_button.say(f"Say what {entry.name} really is")
            show = f"Show it ({self._number})" if entry.sequence is not None else "Show it"
            self.setToolTip("\n".join(filter(None, (entry.name, entry.why, show))))
        else:
            self.setToolTip(f"{entry.why} Drop one here, or click to choose a file.")
        self.setAccessibleName(", ".join(filter(None, (title, entry.presence.value, entry.name))))
        self.setAccessibleDescription(entry.why)

    @property
    def key(self) -> LayerKey | None:
        """Which layer it displays."""
        return self.entry.sequence if self.entry.sequence is not None else self.entry.path

    def mark(self, shown: bool) -> None:
        """Whether this is the layer on screen."""
        self.setProperty("shown", "true" if shown else "false")
        self.style().unpolish(self)
        self.style().polish(self)

    def choices(self) -> QMenu:
        """What the user can say about the file."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        path = self.entry.path
        if path is None:
            return menu
        for sequence in Sequence:
            choice = QAction(f"This is {sequence.title}", menu)
            choice.setCheckable(True)
            choice.setChecked(sequence is self.entry.sequence)
            choice.triggered.connect(lambda _=False, s=sequence: self.assigned.emit(path, s))
            menu.addAction(choice)
        menu.addSeparator()
        leave = QAction("Leave it out", menu)
        leave.triggered.connect(lambda: self.left_out.emit(path))
        menu.addAction(leave)
        return menu

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        if self.entry.path is not None:
            self._open_menu()

    def sizeHint(self) -> QSize:
        return QSize(200, ROW_HEIGHT)

    def _open_menu(self) -> None:
        place = self.menu_button.mapToGlobal(self.menu_button.rect().bottomRight())
        menu = self.choices()
        place.setX(place.x() - menu.sizeHint().width())
        menu.popup(place)


class LayersPanel(Section):
    """The list of sequences, and what another one would bring.

    Signals:
        browse: The user wants to add files by a dialog.
    """

    browse = Signal()

    def __init__(self, theme: Theme, model: ViewerModel, session: Session) -> None:
        super().__init__("SEQUENCES")
        self._theme, self._model, self._session = theme, model, session
        self.questions: dict[Path, Segments] = {}
        self._list = QVBoxLayout()
        self._list.setSpacing(2)
        self._list.setContentsMargins(-8, 0, -8, 0)
        self.body.addLayout(self._list)
        self.rows = [self._row(entry, number) for number, entry in enumerate(session.entries, start=1)]
        self.advice = label("", "small", wrap=True)
        self.body.addWidget(self.advice)
        self.add_button = push("Add a sequence", "link", "Choose files of the same patient (or drop them here)")
        self.add_button.clicked.connect(self.browse)
        self.body.addWidget(self.add_button, 0, Qt.AlignmentFlag.AlignLeft)

        session.patient_changed.connect(self._rebuild)
        session.stage_changed.connect(self._update)
        model.shown_changed.connect(self._mark)
        model.layers_changed.connect(self._mark)
        self._rebuild()

    def row(self, key: LayerKey) -> EntryRow | None:
        """The row of a sequence or of a file."""
        return next((row for row in self.rows if key in (row.entry.sequence, row.entry.path)), None)

    def _row(self, entry: Entry, number: int) -> EntryRow:
        row = EntryRow(self._theme, entry, number)
        row.clicked.connect(lambda: self._show(row))
        row.assigned.connect(self._session.assign)
        row.left_out.connect(self._session.leave_out)
        self._list.addWidget(row)
        return row

    def _rebuild(self) -> None:
        for old in (*self.rows[len(Sequence) :], *self.questions.values()):
            self._list.removeWidget(old)
            old.hide()
            old.deleteLater()
        del self.rows[len(Sequence) :]
        self.questions = {}
        for number, entry in enumerate(self._session.entries, start=1):
            if number <= len(self.rows):
                self.rows[number - 1].set_entry(entry)
                continue
            last: QWidget = self.rows[-1].menu_button
            row = self._row(entry, number)
            self.rows.append(row)
            order = [last, row, row.menu_button]
            if entry.path is not None:
                order += self._ask(entry.path).findChildren(QPushButton)
            # New widgets come last in the tab order; these belong where they are read.
            for before, after in pairwise(order):
                QWidget.setTabOrder(before, after)
        words = self._session.advice
        self.advice.setText(words)
        self.advice.setVisible(bool(words))
        self._mark()
        self._update()

    def _ask(self, path: Path) -> Segments:
        """One click says which sequence an unknown file is."""
        question = Segments(
            tuple((sequence, sequence.title, f"{path.name} is {sequence.title}") for sequence in Sequence),
            "Which sequence",
        )
        question.chosen.connect(lambda sequence: self._session.assign(path, sequence))
        question.setContentsMargins(8, 0, 8, 0)
        self._list.addWidget(question, 0, Qt.AlignmentFlag.AlignHCenter)
        self.questions[path] = question
        return question

    def _update(self) -> None:
        # While files are read the list is about to change under the pointer.
        free = self._session.stage not in (Stage.LOADING, Stage.PREPARING)
        self.add_button.setEnabled(free)
        full = all(entry.path is not None for entry in self._session.entries[:4])
        self.add_button.setVisible(not full)

    def _mark(self) -> None:
        for row in self.rows:
            row.mark(row.key == self._model.shown and row.entry.path is not None)

    def _show(self, row: EntryRow) -> None:
        if row.entry.path is not None and row.key is not None:
            self._model.show(row.key)
        elif row.entry.path is None:
            self.browse.emit()
