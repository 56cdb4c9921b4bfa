"""The Result page: teacher, baseline and student side by side, the worst patients, and the model to install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.controls import label
from app.jobs import Jobs
from app.theme import Theme

if TYPE_CHECKING:
    from app.wizard_model import WizardModel


class ResultPage(QWidget):
    """What a training amounts to.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread.
        wizard: Whose training it is.
    """

    def __init__(self, theme: Theme, jobs: Jobs, wizard: WizardModel) -> None:
        super().__init__()
        self._theme, self._jobs, self._wizard = theme, jobs, wizard
        column = QVBoxLayout(self)
        column.addWidget(label("Results", "title"))
        column.addStretch()
