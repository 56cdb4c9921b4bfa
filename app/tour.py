"""Five steps around the window on the demo patient, which can be left at any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QObject, QPoint, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QKeyEvent, QPainter, QPainterPath, QPaintEvent, QPen, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QWidget

from app.cards import Card
from app.controls import label, push
from app.theme import RADIUS, Theme

WIDTH = 340
MARGIN = 16


@dataclass(frozen=True)
class Step:
    """One stop of the tour.

    Attributes:
        target: What it is about; asked for when the step is shown, as it may not be there before.
        title: Its name.
        words: A few sentences.
        onwards: What the button for the next step says.
        act: What is done on the way to the next step.
    """

    target: Callable[[], QWidget]
    title: str
    words: str
    onwards: str = "Next"
    act: Callable[[], object] = lambda: None


class Tour(Card):
    """A bubble beside each part of the window in turn; the rest is dimmed.

    Args:
        theme: The colours.
        window: What is covered.
        steps: Where to stop.
    """

    def __init__(self, theme: Theme, window: QWidget, steps: tuple[Step, ...]) -> None:
        super().__init__(theme, window, WIDTH, "Tour")
        self._steps, self._number = steps, 0
        self._light = QRect()
        layout = self.layout()
        assert layout is not None
        # The bubble stands beside what it speaks of, not in the middle.
        layout.removeWidget(self.card)
        self.card.setParent(self)
        self.body.setContentsMargins(22, 18, 22, 18)
        self.body.setSpacing(8)
        self._count = label("", "caption")
        self._title = label("", "wordmark")
        self._words = label("", "secondary", wrap=True)
        self._words.setFixedWidth(WIDTH - 44)
        for part in (self._count, self._title, self._words):
            self.body.addWidget(part)
        self.body.addSpacing(6)
        self.close_button.setText("Leave the tour")
        self.close_button.setAccessibleName("Leave the tour")
        self.close_button.setToolTip("It can be taken again from the menu (Esc)")
        self.close_button.setObjectName("flat")
        self.back_button = push("Back", "", "The step before (Left arrow)")
        self.next_button = push("Next", "primary", "The next step (Right arrow)")
        self.back_button.clicked.connect(self.back)
        self.next_button.clicked.connect(self.go_on)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.close_button)
        row.addStretch()
        row.addWidget(self.back_button)
        row.addWidget(self.next_button)
        self.body.addLayout(row)
        for before, after in ((self.close_button, self.back_button), (self.back_button, self.next_button)):
            QWidget.setTabOrder(before, after)
        for button in (self.close_button, self.back_button, self.next_button):
            # Arrows would move between buttons; here they move between steps.
            button.installEventFilter(self)
        self._show_step()

    @property
    def number(self) -> int:
        """At which step it is, from 1."""
        return self._number + 1

    @property
    def step(self) -> Step:
        """The step on screen."""
        return self._steps[self._number]

    def go_on(self) -> None:
        """Do what this step offers and show the next one; after the last, leave."""
        self.step.act()
        if self._number + 1 == len(self._steps):
            self.leave()
            return
        self._number += 1
        self._show_step()

    def back(self) -> None:
        """Show the step before."""
        if self._number:
            self._number -= 1
            self._show_step()

    def _show_step(self) -> None:
        step = self.step
        self._count.setText(f"TOUR  {self.number} OF {len(self._steps)}")
        self._title.setText(step.title)
        self._words.setText(step.words)
        self.next_button.setText(step.onwards)
        self.next_button.setAccessibleName(f"{step.onwards}, step {self.number} of {len(self._steps)}")
        self.setAccessibleName(f"Tour, step {self.number} of {len(self._steps)}: {step.title}")
        self.setAccessibleDescription(step.words)
        self.back_button.setEnabled(self._number > 0)
        self.back_button.setToolTip("The step before (Left arrow)" if self._number else "This is the first step.")
        self._place()
        self.next_button.setFocus(Qt.FocusReason.TabFocusReason)

    def _place(self) -> None:
        target = self.step.target()
        corner = self.mapFromGlobal(target.mapToGlobal(QPoint(0, 0)))
        self._light = (
            QRect(corner, target.size()).adjusted(-4, -4, 4, 4).intersected(self.rect().adjusted(3, 3, -3, -3))
        )
        self._words.setFixedHeight(self._words.heightForWidth(WIDTH - 44))
        self.card.adjustSize()
        size, light = self.card.size(), self._light
        # Beside it where there is room, else below, else over its corner.
        if light.right() + MARGIN + size.width() < self.width():
            place = QPoint(light.right() + MARGIN, light.top())
        elif light.left() - MARGIN - size.width() > 0 and light.width() < self.width() // 2:
            place = QPoint(light.left() - MARGIN - size.width(), light.top())
        elif light.bottom() + MARGIN + size.height() < self.height():
            place = QPoint(light.right() - size.width(), light.bottom() + MARGIN)
        else:
            place = light.center() - QPoint(size.width() // 2, size.height() // 2)
        place.setX(max(MARGIN, min(place.x(), self.width() - size.width() - MARGIN)))
        place.setY(max(MARGIN, min(place.y(), self.height() - size.height() - MARGIN)))
        self.card.move(place)
        self.update()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._place()
        self.next_button.setFocus(Qt.FocusReason.TabFocusReason)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        # Parts of the window come, go and grow while the demo patient is read and segmented.
        if event.type() is QEvent.Type.LayoutRequest and self.isVisible():
            self._place()
        arrows = (Qt.Key.Key_Left, Qt.Key.Key_Right)
        if event.type() is QEvent.Type.KeyPress and isinstance(event, QKeyEvent) and event.key() in arrows:
            self.keyPressEvent(event)
            return True
        return super().eventFilter(watched, event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        event.accept()
        if event.key() == Qt.Key.Key_Escape:
            self.leave()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Right):
            self.go_on()
        elif event.key() == Qt.Key.Key_Left:
            self.back()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        shade = QPainterPath()
        shade.addRect(QRectF(self.rect()))
        hole = QPainterPath()
        hole.addRoundedRect(QRectF(self._light), RADIUS, RADIUS)
        dark = QColor("black")
        dark.setAlpha(150)
        painter.fillPath(shade - hole, dark)
        painter.setPen(QPen(QColor(self._theme.colours.accent), 2))
        painter.drawPath(hole)
        painter.end()
