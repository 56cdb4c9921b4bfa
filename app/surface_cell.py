"""The place of the 3-D view; what fills it is imported when somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QFocusEvent, QShowEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.jobs import Jobs
from app.theme import Theme
from app.viewer_model import ViewerModel

if TYPE_CHECKING:
    from app.surface_view import Recorder, SurfaceView


class SurfaceCell(QWidget):
    """Holds a `SurfaceView` from the first time it is shown: opening the window waits for no OpenGL.

    Args:
        theme: The colours.
        model: What is on screen.
        jobs: The way off the UI thread.
        recorder: See `SurfaceView`.

    Signals:
        enlarged: A double click asked for one big view, or for the way back.
        failed: What went wrong while doing what, for the window to show.
    """

    enlarged = Signal(object)
    failed = Signal(object, str)

    def __init__(self, theme: Theme, model: ViewerModel, jobs: Jobs, recorder: Recorder) -> None:
        super().__init__()
        self._theme, self._model, self._jobs, self._recorder = theme, model, jobs, recorder
        self._view: SurfaceView | None = None
        self._patient = "patient"
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("3-D view")
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)

    @property
    def view(self) -> SurfaceView:
        """The view; made now if need be."""
        if self._view is None:
            from app.surface_view import SurfaceView

            view = self._view = SurfaceView(self._theme, self._model, self._jobs, self._recorder)
            view.patient = self._patient
            view.enlarged.connect(self.enlarged)
            view.failed.connect(self.failed)
            self._column.addWidget(view)
            # The focus is the view's from here on, and so is its name.
            self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            QWidget.setTabOrder(self, view)
            for before, after in zip((view, *view.buttons), view.buttons, strict=False):
                QWidget.setTabOrder(before, after)
        return self._view

    def set_patient(self, name: str) -> None:
        """What files saved from here are called."""
        self._patient = name
        if self._view is not None:
            self._view.patient = name

    def release(self) -> None:
        """Give the graphics card back, as a window has to before it closes."""
        if self._view is not None:
            self._view.release()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.view.show()

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.view.setFocus(event.reason())
