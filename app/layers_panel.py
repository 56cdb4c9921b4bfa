"""The four sequences: which are here, which is displayed, and what to do where the program is not sure."""

from __future__ import annotations

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

    def __init__(self, theme: Theme, entry: Entry, key: str) -> None:
        super().__init__()
        self.setObjectName("row")
        self.entry = entry
        self.setFixedHeight(ROW_HEIGHT)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setFlat(True)

        row = QHBoxLayout(self)
        row.setContentsMargins(8, 0, 4, 0)
        row.setSpacing(8)
        dot = Dot(theme)
        dot.set_state(entry.presence.value)
        row.addWidget(dot)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.setContentsMargins(0, 0, 0, 0)
        words.addStretch()
        title = entry.sequence.title if entry.sequence is not None else "Which sequence is this?"
        heading = label(title, "" if entry.path is not None else "secondary")
        words.addWidget(heading)
        if entry.path is not None:
            words.addWidget(ElidedLabel(entry.path.name, "small"))
        words.addStretch()
        row.addLayout(words, 1)
        if entry.presence is not Presence.UNKNOWN:
            row.addWidget(label(entry.presence.value, "small"))
        self.menu_button = IconButton(theme, "caret-down", "Say which sequence this is")
        if entry.path is not None:
            self.menu_button.say(f"Say what {entry.path.name} really is")
            self.menu_button.clicked.connect(self._open_menu)
        else:
            # An empty place of the same width keeps the words of all rows in one line.
            place = self.menu_button.sizePolicy()
            place.setRetainSizeWhenHidden(True)
            self.menu_button.setSizePolicy(place)
            self.menu_button.hide()
        row.addWidget(self.menu_button)
        for child in self.findChildren(QWidget):
            if child is not self.menu_button:
                child.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

        spoken = f"{title}, {entry.presence.value}"
        if entry.path is not None:
            self.setCursor(Qt.CursorShape.PointingHandCursor)
            spoken += f", {entry.path.name}"
            tip = f"{entry.path.name}\n{entry.why}".strip()
            self.setToolTip(tip + (f"\nShow it ({key})" if key else "\nShow it"))
        else:
            self.setToolTip(f"{entry.why} Drop one here to add it.")
        self.setAccessibleName(spoken)
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
        self.rows: list[EntryRow] = []
        self.questions: dict[Path, Segments] = {}
        self._list = QVBoxLayout()
        self._list.setSpacing(2)
        self._list.setContentsMargins(-8, 0, -8, 0)
        self.body.addLayout(self._list)
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

    def _rebuild(self) -> None:
        for old in (*self.rows, *self.questions.values()):
            self._list.removeWidget(old)
            old.hide()
            old.deleteLater()
        self.rows, self.questions = [], {}
        for number, entry in enumerate(self._session.entries, start=1):
            row = EntryRow(self._theme, entry, str(number) if entry.sequence is not None else "")
            row.clicked.connect(lambda _=False, row=row: self._show(row))
            row.assigned.connect(self._assign)
            row.left_out.connect(self._leave_out)
            self._list.addWidget(row)
            self.rows.append(row)
            if entry.presence is Presence.UNKNOWN and entry.path is not None:
                self._ask(entry.path)
        words = self._session.advice
        self.advice.setText(words)
        self.advice.setVisible(bool(words))
        self._mark()
        self._update()

    def _ask(self, path: Path) -> None:
        """One click says which sequence an unknown file is."""
        question = Segments(
            tuple((sequence, sequence.title, f"{path.name} is {sequence.title}") for sequence in Sequence),
            "Which sequence",
        )
        question.chosen.connect(lambda sequence: self._session.assign(path, sequence))
        question.setContentsMargins(8, 0, 8, 0)
        self._list.addWidget(question, 0, Qt.AlignmentFlag.AlignHCenter)
        self.questions[path] = question

    def _update(self) -> None:
        # While files are read the list is about to change under the pointer.
        free = self._session.stage not in (Stage.LOADING,)
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

    def _assign(self, path: Path, sequence: Sequence) -> None:
        self._session.assign(path, sequence)

    def _leave_out(self, path: Path) -> None:
        self._session.leave_out(path)
