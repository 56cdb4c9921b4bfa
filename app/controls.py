"""The small parts that panels are made of."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QAction, QColor, QPainter, QPaintEvent, QPen, QWheelEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QButtonGroup,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.theme import GAP, Theme, body_font


def label(text: str = "", name: str = "", wrap: bool = False) -> QLabel:
    """A label; ``name`` is the style's: ``"caption"``, ``"secondary"``, ``"small"``, ``"title"``."""
    made = QLabel(text)
    made.setObjectName(name)
    made.setWordWrap(wrap)
    made.setTextFormat(Qt.TextFormat.PlainText)
    if name in ("caption", "title"):
        # Room left over belongs to what a caption stands above.
        made.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
    return made


class ElidedLabel(QLabel):
    """A label that shortens a long name in its middle instead of widening the panel."""

    def __init__(self, text: str = "", name: str = "") -> None:
        super().__init__(text)
        self.setObjectName(name)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        words = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, self.width())
        painter.drawText(self.rect(), int(self.alignment() | Qt.AlignmentFlag.AlignVCenter), words)

    def minimumSizeHint(self) -> QSize:
        return QSize(20, super().minimumSizeHint().height())


class IconButton(QToolButton):
    """A quiet button with an icon, a tooltip and a name for screen readers.

    Args:
        theme: Where the icon comes from.
        icon: Its name in the icon family.
        words: What it does; tooltip and accessible name.
    """

    def __init__(self, theme: Theme, icon: str, words: str) -> None:
        super().__init__()
        self._theme, self._icon_name, self._colour = theme, icon, ""
        self.setObjectName("icon")
        self.setIconSize(QSize(16, 16))
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.say(words)
        theme.changed.connect(self._paint)
        self._paint()

    def say(self, words: str) -> None:
        """Another tooltip and accessible name."""
        self.setToolTip(words)
        self.setAccessibleName(words.split(" (")[0])

    def draw(self, icon: str) -> None:
        """Another icon."""
        self._icon_name = icon
        self._paint()

    def _paint(self) -> None:
        self.setIcon(self._theme.icon(self._icon_name))


class MenuButton(QPushButton):
    """A button that opens a menu: what is chosen on the left, the sign of a menu on the right.

    Args:
        theme: Where the sign comes from.
        tip: What the menu is for.
    """

    def __init__(self, theme: Theme, tip: str) -> None:
        super().__init__()
        self._theme = theme
        self.setObjectName("menu")
        self.setToolTip(tip)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        side = 12
        self._theme.icon("caret-down").paint(painter, self.width() - side - 10, (self.height() - side) // 2, side, side)


class Choice(QComboBox):
    """One of several things to choose, with the same sign on the right as a button that opens a menu.

    Args:
        theme: Where the sign comes from.
        words: What is chosen, for screen readers.
    """

    def __init__(self, theme: Theme, words: str) -> None:
        super().__init__()
        self._theme = theme
        self.setAccessibleName(words)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        theme.changed.connect(self.update)

    def wheelEvent(self, event: QWheelEvent) -> None:
        # A wheel that turns the page must not change what was chosen on it.
        event.ignore()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        side = 12
        self._theme.icon("caret-down").paint(painter, self.width() - side - 10, (self.height() - side) // 2, side, side)


class IconLabel(QLabel):
    """An icon that says something and does nothing, in the accent's colour.

    Args:
        theme: Where the icon comes from.
        icon: Its name in the icon family.
    """

    def __init__(self, theme: Theme, icon: str) -> None:
        super().__init__()
        self._theme, self._name = theme, icon
        theme.changed.connect(self._paint)
        self._paint()

    def _paint(self) -> None:
        self.setPixmap(self._theme.icon(self._name, self._theme.colours.accent).pixmap(QSize(16, 16)))


class Segments(QFrame):
    """A few choices next to each other, one of them on.

    Args:
        choices: Value and title of each.
        words: What is chosen, for screen readers.

    Signals:
        chosen: The value that the user picked.
    """

    chosen = Signal(object)

    def __init__(self, choices: tuple[tuple[object, str, str], ...], words: str) -> None:
        super().__init__()
        self.setObjectName("segments")
        self.setAccessibleName(words)
        row = QHBoxLayout(self)
        row.setContentsMargins(2, 2, 2, 2)
        row.setSpacing(2)
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        self._buttons: dict[object, QPushButton] = {}
        for value, title, tip in choices:
            button = QPushButton(title)
            button.setObjectName("segment")
            button.setCheckable(True)
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.setCursor(Qt.CursorShape.PointingHandCursor)
            button.setToolTip(tip)
            button.setAccessibleName(f"{words}: {tip.split(' (')[0]}")
            # The default argument keeps this turn's value; a closure over the loop would keep the last.
            button.clicked.connect(lambda _=False, value=value: self.chosen.emit(value))
            self._group.addButton(button)
            self._buttons[value] = button
            row.addWidget(button)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)

    def set(self, value: object) -> None:
        """Show which choice is on, without `chosen`; none of them for a value that is none of them."""
        if value in self._buttons:
            self._buttons[value].setChecked(True)
            return
        # A group of which one is always on lets go of it only for this moment.
        self._group.setExclusive(False)
        for button in self._buttons.values():
            button.setChecked(False)
        self._group.setExclusive(True)

    def button(self, value: object) -> QPushButton:
        """The button of a choice."""
        return self._buttons[value]


class Swatch(QAbstractButton):
    """A patch of colour; a click asks for another.

    Args:
        colour: ``#RRGGBB``.
        words: Whose colour it is.
    """

    def __init__(self, colour: str, words: str) -> None:
        super().__init__()
        self._colour = colour
        self.setFixedSize(22, 22)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setToolTip(f"Colour of the {words}")
        self.setAccessibleName(f"Colour of the {words}")

    @property
    def colour(self) -> str:
        """``#RRGGBB``."""
        return self._colour

    def set_colour(self, colour: str) -> None:
        """Show another colour."""
        self._colour = colour
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(self.palette().highlight().color(), 1.5) if self.hasFocus() else Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._colour))
        side = 14
        corner = (self.width() - side) / 2
        painter.drawRoundedRect(QRectF(corner, corner, side, side), 4, 4)


class Dot(QWidget):
    """The state of one line, as a shape and not only a colour: full, ring, or ring with a mark."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme, self._state = theme, "absent"
        self.setFixedSize(14, 14)
        theme.changed.connect(self.update)

    def set_state(self, state: str) -> None:
        """``"present"``, ``"absent"``, ``"uncertain"`` or ``"which sequence?"``."""
        self._state = state
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        c = self._theme.colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        middle = QPointF(self.width() / 2, self.height() / 2)
        if self._state == "present":
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.accent))
            painter.drawEllipse(middle, 4, 4)
        elif self._state == "absent":
            painter.setPen(QPen(QColor(c.hairline), 1.5))
            painter.drawEllipse(middle, 4, 4)
        else:
            painter.setPen(QPen(QColor(c.warning), 1.5))
            painter.drawEllipse(middle, 5.5, 5.5)
            painter.setFont(body_font(9, medium=True))
            painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignCenter), "?")


class Section(QFrame):
    """A part of the side panel: a caption and what is under it.

    Args:
        caption: Its name, in capitals.
    """

    def __init__(self, caption: str) -> None:
        super().__init__()
        self.setObjectName("section")
        self.setAccessibleName(caption.capitalize())
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(2 * GAP, 14, 2 * GAP, 2 * GAP)
        self.body.setSpacing(GAP)
        self.head = QHBoxLayout()
        self.head.setSpacing(4)
        self.head.addWidget(label(caption, "caption"))
        self.head.addStretch()
        self.body.addLayout(self.head)


def push(text: str, name: str = "", tip: str = "") -> QPushButton:
    """A push button; ``name`` is the style's: ``"primary"``, ``"link"``, ``"flat"`` or none."""
    button = QPushButton(text)
    button.setObjectName(name)
    button.setToolTip(tip)
    button.setAccessibleName(text)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    button.setCursor(Qt.CursorShape.PointingHandCursor)
    return button


def action(text: str, owner: QWidget, shortcut: str = "") -> QAction:
    """An action of a menu, with its shortcut shown and working window-wide."""
    made = QAction(text, owner)
    if shortcut:
        made.setShortcut(shortcut)
        made.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
    return made


def clear(layout: QLayout) -> None:
    """Empty a layout; what was in it goes."""
    while (item := layout.takeAt(0)) is not None:
        widget, inner = item.widget(), item.layout()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
        elif inner is not None:
            clear(inner)


def place_in_words(path: Path) -> str:
    """A path as people write it: ``~/cohort`` for what lies in the user's own folder."""
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path != home and path.is_relative_to(home) else str(path)
