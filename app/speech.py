"""What a screen reader hears while somebody turns slices."""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer
from PySide6.QtGui import QAccessible, QAccessibleEvent
from PySide6.QtWidgets import QApplication, QWidget

from app.viewer_model import ViewerModel

# Whoever holds a key down wants to hear where it ended, not every slice on the way.
SPEAK_AFTER_MS = 250


class SliceSpeech(QObject):
    """Tells assistive technology that the focused view's description is another one now.

    Views keep their description up to date by themselves; without an event nobody would read it again.

    Args:
        model: What is on screen.
        parent: Who owns this.

    Attributes:
        said: How often something was told, for whoever checks.
    """

    def __init__(self, model: ViewerModel, parent: QObject) -> None:
        super().__init__(parent)
        self.said = 0
        self._last = ""
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(SPEAK_AFTER_MS)
        self._later.timeout.connect(self._speak)
        for signal in (model.crosshair_changed, model.shown_changed, model.labels_changed, model.overlay_changed):
            signal.connect(self._later.start)

    def _speak(self) -> None:
        focus = QApplication.focusWidget()
        if not isinstance(focus, QWidget) or not focus.accessibleDescription():
            return
        words = focus.accessibleDescription()
        if words != self._last:
            self._last = words
            self.said += 1
            QAccessible.updateAccessibility(QAccessibleEvent(focus, QAccessible.Event.DescriptionChanged))
