"""The wizard's second page: what is to be trained, how long, on what and where to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QAbstractButton,
    QButtonGroup,
    QCheckBox,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app import installing
from app.controls import ElidedLabel, IconButton, MenuButton, Segments, action, label, push
from app.jobs import Job, Jobs, Queue
from app.layouting import clear
from app.telling import Problem
from app.theme import LABEL_PX, RADIUS, Theme, blend, body_font
from app.training_course import time_left
from app.wizard_model import WizardModel
from engine.volume import Sequence
from trainer.wizard import Folds, HoldOut, Page, Quality

if TYPE_CHECKING:
    from engine.progress import Progress
    from trainer.estimate import Device, Estimate, Pace
    from trainer.patients import Patients
    from trainer.wizard import Plan, Split

SUMMARY_WIDTH = 324
COLUMN_WIDTH = 760
# The sums are cheap, but not for each of the letters of a name.
SUMS_AFTER_MS = 60
QUALITIES = {
    Quality.QUICK: ("Quick", "To see that everything works. The models are not good yet."),
    Quality.STANDARD: ("Standard", "As long as the models that came with Gliascope."),
    Quality.THOROUGH: ("Thorough", "Until longer learning no longer helps."),
}
SCRATCH = "Random weights"
SCRIPT = "train.sbatch"
