"""The wizard's first page: whom to learn from, what the doctor found, and what is decided about it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import (
    QAbstractTableModel,
    QEvent,
    QItemSelectionModel,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QPointF,
    QRect,
    QRectF,
    QSize,
    QSortFilterProxyModel,
    Qt,
    QTimer,
    Signal,
)
from PySide6.QtGui import QColor, QImage, QKeyEvent, QPainter, QPaintEvent, QPen, QResizeEvent, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from app.controls import ElidedLabel, Segments, clear, label, place_in_words, push
from app.jobs import Jobs
from app.review import Look
from app.slice_layers import edge
from app.theme import CORE, DARK, LABEL_PX, WHOLE_TUMOUR, Theme, blend, body_font
from app.wizard_model import WizardModel
from engine.volume import Sequence
from trainer import corrected

if TYPE_CHECKING:
    from trainer.doctor import Finding, PatientReport, Repair, Thumbnail
    from trainer.patients import Patient

DETAIL_WIDTH = 324
ROW_HEIGHT = 32
# A person who runs through the list with the arrow keys does not wait for each picture.
THUMBNAIL_AFTER_MS = 120
THUMBNAILS_KEPT = 48
TABLES = "Patients (*.csv *.json)"
Index = QModelIndex | QPersistentModelIndex


class Show(Enum):
    """Which patients the table lists."""

    ALL = "All"
    FINDINGS = "To look at"
    LEFT_OUT = "Left out"


class Column(Enum):
    """The columns of the table: title and width; a width of 0 takes what is left."""

    INCLUDED = ("", 36)
    PATIENT = ("Patient", 176)
    T1 = ("T1", 40)
    T1CE = ("T1ce", 48)
    T2 = ("T2", 40)
    FLAIR = ("FLAIR", 54)
    TRUTH = ("Truth", 54)
    TUMOUR = ("Tumour ml", 86)
    CORE = ("Core ml", 72)
    SOURCE = ("Source", 116)
    FINDING = ("What to know", 0)

    @property
    def title(self) -> str:
        """Its head."""
        return self.value[0]

    @property
    def width(self) -> int:
        """In pixels."""
        return self.value[1]

    @property
    def sequence(self) -> Sequence | None:
        """Which sequence it is about."""
        return Sequence[self.name] if self.name in Sequence.__members__ else None


COLUMNS = tuple(Column)
# Where the window is narrow, what the detail beside the table says too makes room for the findings, in this order.
DISPENSABLE = (Column.CORE, Column.SOURCE, Column.TUMOUR)
LEAST_FOR_FINDINGS = 200
SORT = Qt.ItemDataRole.UserRole
MARK = Qt.ItemDataRole.UserRole + 1


class CohortTable(QAbstractTableModel):
    """The patients as rows, kept up to date while they are looked at."""

    def __init__(self, wizard: WizardModel) -> None:
        super().__init__(wizard)
        self._wizard = wizard
        self.patients: tuple[Patient, ...] = ()
        self._rows: dict[str, int] = {}
        wizard.patients_changed.connect(self._update)
        wizard.examined.connect(self._examined)
        self._update()

    def _update(self) -> None:
        patients = self._wizard.patients.patients if self._wizard.patients is not None else ()
        names = [patient.name for patient in patients]
        if names == list(self._rows):
            # Decisions alone: the selection and the scroll bar stay where they are.
            self.patients = patients
            if patients:
                self.dataChanged.emit(self.index(0, 0), self.index(len(patients) - 1, len(COLUMNS) - 1))
            return
        self.beginResetModel()
        self.patients = patients
        self._rows = {name: row for row, name in enumerate(names)}
        self.endResetModel()

    def _examined(self, report: PatientReport) -> None:
        row = self._rows.get(report.name)
        if row is not None:
            self.dataChanged.emit(self.index(row, 0), self.index(row, len(COLUMNS) - 1))

    def report_of(self, row: int) -> PatientReport | None:
        """What the doctor said of the patient in a row, if anything yet."""
        return self._wizard.reports.get(self.patients[row].name)

    def rowCount(self, parent: Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.patients)

    def columnCount(self, parent: Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        if orientation is not Qt.Orientation.Horizontal:
            return None
        column = COLUMNS[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.title
        if role == Qt.ItemDataRole.ToolTipRole and column is Column.INCLUDED:
            return "Whether the training uses the patient"
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if column in (Column.TUMOUR, Column.CORE) else Qt.AlignmentFlag.AlignLeft
            middle = column.sequence is not None or column is Column.TRUTH
            return int((Qt.AlignmentFlag.AlignHCenter if middle else side) | Qt.AlignmentFlag.AlignVCenter)
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        return flags | Qt.ItemFlag.ItemIsUserCheckable if COLUMNS[index.column()] is Column.INCLUDED else flags

    def setData(self, index: Index, value: object, role: int = Qt.ItemDataRole.EditRole) -> bool:
        if role == Qt.ItemDataRole.CheckStateRole and COLUMNS[index.column()] is Column.INCLUDED:
            self._wizard.include(self.patients[index.row()].name, Qt.CheckState(value) is Qt.CheckState.Checked)
            return True
        return False

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        patient, column = self.patients[index.row()], COLUMNS[index.column()]
        report = self._wizard.reports.get(patient.name)
        if role == Qt.ItemDataRole.CheckStateRole and column is Column.INCLUDED:
            return Qt.CheckState.Checked if patient.included else Qt.CheckState.Unchecked
        if role == Qt.ItemDataRole.DisplayRole:
            return _shown(patient, report, column)
        if role == SORT:
            return _sorted_by(patient, report, column)
        if role == MARK:
            return _mark(patient, report, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return _told(patient, report, column)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{column.title or 'Used'}: {_told(patient, report, column) or _shown(patient, report, column)}"
        return None


def _shown(patient: Patient, report: PatientReport | None, column: Column) -> str:
    if column is Column.PATIENT:
        return patient.name
    if column is Column.SOURCE:
        return patient.source
    if report is None:
        return ""
    if column in (Column.TUMOUR, Column.CORE):
        volume = report.facts.whole_tumour_ml if column is Column.TUMOUR else report.facts.core_ml
        return "" if volume is None else f"{volume:.1f}"
    if column is Column.FINDING and report.findings:
        more = len(report.findings) - 1
        return report.findings[0].sentence + (f"  +{more}" if more else "")
    return ""


def _sorted_by(patient: Patient, report: PatientReport | None, column: Column) -> object:
    """A number or text; of one kind within a column."""
    if column is Column.INCLUDED:
        return int(patient.included)
    if column.sequence is not None:
        return int(column.sequence in patient.files)
    if column is Column.TRUTH:
        return int(patient.truth is not None)
    if column in (Column.TUMOUR, Column.CORE):
        facts = report.facts if report is not None else None
        volume = None if facts is None else facts.whole_tumour_ml if column is Column.TUMOUR else facts.core_ml
        return -1.0 if volume is None else float(volume)
    if column is Column.FINDING:
        severity = report.severity if report is not None else None
        return -1 if severity is None else int(severity)
    return _shown(patient, report, column).casefold()


def _mark(patient: Patient, report: PatientReport | None, column: Column) -> str:
    """What is drawn beside or instead of words."""
    if column is Column.INCLUDED:
        return "blocked" if patient.included and report is not None and not report.usable else ""
    if column.sequence is not None:
        return "present" if column.sequence in patient.files else "absent"
    if column is Column.TRUTH:
        return "present" if patient.truth is not None else "absent"
    if column is Column.FINDING and report is not None and report.severity is not None:
        return report.severity.name
    return ""


def _told(patient: Patient, report: PatientReport | None, column: Column) -> str:
    """A tooltip, which a screen reader says too."""
    if column is Column.INCLUDED:
        if _mark(patient, report, column):
            return "Not used as things are: see what was found"
        return "The training uses this patient" if patient.included else "Left out of the training"
    if column.sequence is not None:
        there = patient.files.get(column.sequence)
        return there.name if there is not None else f"No {column.sequence.title}"
    if column is Column.TRUTH:
        return patient.truth.name if patient.truth is not None else "No ground truth"
    if column is Column.FINDING and report is not None:
        return "\n".join(finding.sentence for finding in report.findings)
    return ""


class Chosen(QSortFilterProxyModel):
    """Those patients that are listed, sorted."""

    def __init__(self, table: CohortTable) -> None:
        super().__init__(table)
        self._table = table
        self._show, self._words = Show.ALL, ""
        self.setSourceModel(table)
        self.setSortRole(SORT)
        self.setDynamicSortFilter(True)

    def narrow(self, show: Show | None = None, words: str | None = None) -> None:
        """List others: of one kind, or whose name, source or findings hold the words."""
        self.beginFilterChange()
        self._show = show or self._show
        self._words = self._words if words is None else words.casefold().strip()
        self.endFilterChange(QSortFilterProxyModel.Direction.Rows)

    def filterAcceptsRow(self, row: int, parent: Index) -> bool:
        patient, report = self._table.patients[row], self._table.report_of(row)
        if not listed(self._show, patient, report):
            return False
        if not self._words:
            return True
        findings = " ".join(finding.sentence for finding in report.findings) if report is not None else ""
        return self._words in f"{patient.name} {patient.source} {findings}".casefold()

    def patient_at(self, index: Index) -> Patient | None:
        """Whose row that is."""
        return self._table.patients[self.mapToSource(index).row()] if index.isValid() else None


def listed(show: Show, patient: Patient, report: PatientReport | None) -> bool:
    """Whether a patient belongs among these."""
    if show is Show.LEFT_OUT:
        return not patient.included
    if show is Show.FINDINGS:
        # What is merely good to know asks nobody to look.
        return patient.included and report is not None and report.severity is not None and report.severity > 0
    return True


class RowPainter(QStyledItemDelegate):
    """Draws the table's cells: quiet, with marks instead of words where a mark will do."""

    def __init__(self, theme: Theme, table: QTableView) -> None:
        super().__init__(table)
        self._theme, self._view = theme, table

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(40, ROW_HEIGHT)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        c = self._theme.colours
        column = COLUMNS[index.column()]
        rect: QRect = option.rect
        state: QStyle.StateFlag = option.state
        used = index.sibling(index.row(), 0).data(Qt.ItemDataRole.CheckStateRole) is Qt.CheckState.Checked
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if state & QStyle.StateFlag.State_Selected:
            painter.fillRect(rect, QColor(blend(c.accent, c.panel, 0.16)))
        painter.fillRect(QRect(rect.left(), rect.bottom(), rect.width(), 1), QColor(c.hairline))
        mark = str(index.data(MARK))
        middle = QPointF(rect.center()) + QPointF(0.5, 0.5)
        if column is Column.INCLUDED:
            self._paint_tick(painter, middle, used, mark == "blocked")
        elif column.sequence is not None or column is Column.TRUTH:
            self._paint_dot(painter, middle, mark, used)
        else:
            inside = rect.adjusted(8, 0, -8, 0)
            if mark:
                self._paint_severity(painter, QPointF(inside.left() + 6, middle.y()), mark, used)
                inside.adjust(18, 0, 0, 0)
            strong = column is Column.PATIENT and used
            quiet = column in (Column.SOURCE, Column.FINDING) or not used
            painter.setPen(QColor(c.secondary if quiet and not strong else c.text))
            font = body_font()
            font.setStrikeOut(column is Column.PATIENT and not used)
            painter.setFont(font)
            right = column in (Column.TUMOUR, Column.CORE)
            side = Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft
            elide = Qt.TextElideMode.ElideMiddle if column is Column.PATIENT else Qt.TextElideMode.ElideRight
            words = painter.fontMetrics().elidedText(str(index.data() or ""), elide, inside.width())
            painter.drawText(inside, int(side | Qt.AlignmentFlag.AlignVCenter), words)
        if state & QStyle.StateFlag.State_HasFocus and self._view.hasFocus() and column is Column.INCLUDED:
            painter.setPen(QPen(QColor(c.accent), 2))
            painter.drawLine(rect.topLeft() + QPoint(1, 1), rect.bottomLeft() + QPoint(1, -1))
        painter.restore()

    def _paint_tick(self, painter: QPainter, middle: QPointF, used: bool, blocked: bool) -> None:
        """A tick, none, or a dash where a patient is wanted and cannot be used as things are."""
        c = self._theme.colours
        box = QRectF(middle.x() - 7, middle.y() - 7, 14, 14)
        if blocked:
            painter.setPen(QPen(QColor(c.warning), 1))
            painter.drawRoundedRect(box, 3, 3)
            painter.setPen(QPen(QColor(c.warning), 1.6))
            painter.drawLine(middle + QPointF(-3.5, 0), middle + QPointF(3.5, 0))
            return
        painter.setPen(QPen(QColor(c.accent if used else c.secondary), 1))
        painter.setBrush(QColor(c.accent) if used else Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(box, 3, 3)
        if used:
            pen = QPen(QColor(c.on_accent), 1.6, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap)
            painter.setPen(pen)
            steps = [QPointF(-3.4, 0.2), QPointF(-1.0, 2.6), QPointF(3.4, -2.4)]
            painter.drawPolyline([middle + step for step in steps])

    def _paint_dot(self, painter: QPainter, middle: QPointF, mark: str, used: bool) -> None:
        c = self._theme.colours
        if mark == "present":
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.accent if used else c.secondary))
            painter.drawEllipse(middle, 4, 4)
        else:
            painter.setPen(QPen(QColor(blend(c.secondary, c.panel, 0.7)), 1.5))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawEllipse(middle, 4, 4)

    def _paint_severity(self, painter: QPainter, middle: QPointF, mark: str, used: bool) -> None:
        """A shape as well as a colour: dot, ring with a mark, full disc with a mark."""
        c = self._theme.colours
        if mark == "NOTE" or not used:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.secondary))
            painter.drawEllipse(middle, 2.5, 2.5)
            return
        grave = mark == "ERROR"
        painter.setPen(QPen(QColor(c.warning), 1.5))
        painter.setBrush(QColor(c.warning) if grave else Qt.BrushStyle.NoBrush)
        painter.drawEllipse(middle, 6, 6)
        painter.setPen(QPen(QColor(c.panel if grave else c.warning), 1.6, c=Qt.PenCapStyle.RoundCap))
        painter.drawLine(middle + QPointF(0, -3), middle + QPointF(0, 0.6))
        painter.drawPoint(middle + QPointF(0, 3))

    def editorEvent(self, event: QEvent, model: object, option: QStyleOptionViewItem, index: Index) -> bool:
        # A tick is set by a click anywhere in its cell; by key it is the row's, see `PatientsTable`.
        if event.type() is QEvent.Type.MouseButtonRelease and COLUMNS[index.column()] is Column.INCLUDED:
            return toggle(index)
        return False


def toggle(index: Index) -> bool:
    """Leave the patient of a row out, or take it in again."""
    cell = index.sibling(index.row(), COLUMNS.index(Column.INCLUDED))
    used = cell.data(Qt.ItemDataRole.CheckStateRole) is Qt.CheckState.Checked
    model = cell.model()
    wanted = Qt.CheckState.Unchecked if used else Qt.CheckState.Checked
    return bool(model.setData(cell, wanted, Qt.ItemDataRole.CheckStateRole))


class PatientsTable(QTableView):
    """The table itself; Space leaves the chosen patient out or takes it in."""

    def __init__(self, theme: Theme, chosen: Chosen) -> None:
        super().__init__()
        self.setObjectName("table")
        self.setAccessibleName("Patients")
        self.setModel(chosen)
        self.setItemDelegate(RowPainter(theme, self))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setTabKeyNavigation(False)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWordWrap(False)
        rows, columns = self.verticalHeader(), self.horizontalHeader()
        rows.hide()
        rows.setDefaultSectionSize(ROW_HEIGHT)
        rows.setMinimumSectionSize(ROW_HEIGHT)
        columns.setMinimumSectionSize(30)
        columns.setFixedHeight(30)
        columns.setHighlightSections(False)
        columns.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        columns.setTextElideMode(Qt.TextElideMode.ElideRight)
        for number, column in enumerate(COLUMNS):
            if column.width:
                columns.setSectionResizeMode(number, QHeaderView.ResizeMode.Fixed)
                self.setColumnWidth(number, column.width)
            else:
                columns.setSectionResizeMode(number, QHeaderView.ResizeMode.Stretch)
        columns.setSectionResizeMode(COLUMNS.index(Column.PATIENT), QHeaderView.ResizeMode.Interactive)
        columns.setSortIndicator(COLUMNS.index(Column.PATIENT), Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(True)
        theme.changed.connect(self.viewport().update)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        room = self.viewport().width() - sum(column.width for column in COLUMNS) - LEAST_FOR_FINDINGS
        for column in DISPENSABLE:
            hidden = room < 0
            self.setColumnHidden(COLUMNS.index(column), hidden)
            room += column.width if hidden else 0

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Space and self.currentIndex().isValid():
            toggle(self.currentIndex())
            return
        super().keyPressEvent(event)


class Picture(QWidget):
    """A patient's thumbnail: an axial slice of each sequence, with the tumour's outline.

    Args:
        theme: The colours of the words.
    """

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._thumbnail: Thumbnail | None = None
        self._words = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(300)
        self.setAccessibleName("Picture of the patient")
        theme.changed.connect(self.update)

    def show_words(self, words: str) -> None:
        """Say something instead of a picture: that it is coming, or why there is none."""
        self._thumbnail, self._words = None, words
        self.setAccessibleDescription(words)
        self.update()

    def show_thumbnail(self, thumbnail: Thumbnail) -> None:
        """Show a picture."""
        self._thumbnail, self._words = thumbnail, ""
        titles = ", ".join(sequence.title for sequence in thumbnail.sequences)
        self.setAccessibleDescription(f"Axial slice of {titles}, the patient's left on the right")
        self.update()

    @property
    def thumbnail(self) -> Thumbnail | None:
        """What is shown."""
        return self._thumbnail

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.fillRect(self.rect(), QColor("black"))
        painter.setFont(body_font(LABEL_PX))
        thumbnail = self._thumbnail
        if thumbnail is None:
            painter.setPen(QColor(DARK.secondary))
            flags = int(Qt.AlignmentFlag.AlignCenter) | int(Qt.TextFlag.TextWordWrap)
            painter.drawText(self.rect().adjusted(20, 20, -20, -20), flags, self._words)
            return
        across = 1 if len(thumbnail.sequences) == 1 else 2
        down = -(-len(thumbnail.sequences) // across)
        cell = QRectF(0, 0, self.width() / across, self.height() / down)
        rows, columns = _filled(thumbnail)
        for number, sequence in enumerate(thumbnail.sequences):
            box = cell.translated(number % across * cell.width(), number // across * cell.height())
            self._paint_slice(painter, box, thumbnail.images[number, rows, columns], thumbnail.mask[rows, columns])
            painter.setPen(QColor(DARK.text))
            painter.drawText(box.adjusted(7, 5, -7, -5), int(Qt.AlignmentFlag.AlignLeft), sequence.title)
        painter.setPen(QColor(DARK.secondary))
        sides = QRectF(0, 0, self.width(), cell.height()).adjusted(7, 0, -7, 0)
        for words, side in (("R", Qt.AlignmentFlag.AlignLeft), ("L", Qt.AlignmentFlag.AlignRight)):
            painter.drawText(sides, int(Qt.AlignmentFlag.AlignVCenter | side), words)

    def _paint_slice(self, painter: QPainter, box: QRectF, grey: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        height, width = grey.shape
        scale = min((box.width() - 6) / width, (box.height() - 6) / height)
        size = QSize(max(1, round(width * scale)), max(1, round(height * scale)))
        place = QPointF(box.center().x() - size.width() / 2, box.center().y() - size.height() / 2)
        image = QImage(np.ascontiguousarray(grey).tobytes(), width, height, width, QImage.Format.Format_Grayscale8)
        painter.drawImage(QRectF(place, size.toSizeF()), image)
        if not mask.any():
            return
        # Looked up for the screen's pixels, so that the line is as thin as one of them.
        ratio = self.devicePixelRatioF()
        rows, columns = round(size.height() * ratio), round(size.width() * ratio)
        seen = mask[np.ix_(np.arange(rows) * height // rows, np.arange(columns) * width // columns)]
        lines = np.zeros(seen.shape, np.uint32)
        thick = max(1, round(1.3 * ratio))
        lines[edge(seen > 0, thick)] = QColor(WHOLE_TUMOUR).rgba()
        lines[edge(seen == 1, thick)] = QColor(CORE).rgba()
        drawn = QImage(lines.tobytes(), columns, rows, 4 * columns, QImage.Format.Format_ARGB32)
        painter.drawImage(QRectF(place, size.toSizeF()), drawn)


def _filled(thumbnail: Thumbnail) -> tuple[slice, slice]:
    """Rows and columns that hold anything, with a little room around it: a head at the edge would look cut off."""
    there = (thumbnail.images > 10).any(axis=0) | (thumbnail.mask > 0)
    if not there.any():
        return slice(None), slice(None)
    ends = []
    for axis in (1, 0):
        inside = np.flatnonzero(there.any(axis=axis))
        ends.append(slice(max(0, int(inside[0]) - 6), int(inside[-1]) + 7))
    return ends[0], ends[1]


class Detail(QScrollArea):
    """Right of the table: the chosen patient, or the cohort where none is chosen.

    Args:
        theme: The colours.
        jobs: Draw the picture.
        wizard: What is known.
    """

    def __init__(self, theme: Theme, jobs: Jobs, wizard: WizardModel) -> None:
        super().__init__()
        self._theme, self._jobs, self._wizard = theme, jobs, wizard
        self._name = ""
        self._asked: Patient | None = None
        self._kept: OrderedDict[tuple[object, ...], Thumbnail] = OrderedDict()
        self.setObjectName("detail")
        self.setFixedWidth(DETAIL_WIDTH)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        inside = QWidget()
        inside.setObjectName("panelBody")
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(0, 0, 0, 16)
        self._column.setSpacing(0)
        self.setWidget(inside)
        self.picture = Picture(theme)
        self._column.addWidget(self.picture)
        self._words = QVBoxLayout()
        self._words.setContentsMargins(16, 14, 16, 0)
        self._words.setSpacing(6)
        self._column.addLayout(self._words)
        self._column.addStretch()
        self.buttons: dict[str, QPushButton] = {}
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(THUMBNAIL_AFTER_MS)
        self._later.timeout.connect(self._draw)
        wizard.patients_changed.connect(self._update)
        wizard.examined.connect(self._examined)
        wizard.examining_changed.connect(self._update_cohort)
        self._update()

    def show_patient(self, name: str) -> None:
        """Show a patient; an empty name shows the cohort."""
        if name != self._name:
            self._name = name
            self._update()

    def _examined(self, report: PatientReport) -> None:
        if report.name == self._name:
            self._update()

    def _update_cohort(self) -> None:
        if not self._name and not self._wizard.examining:
            self._update()

    def _update(self) -> None:
        clear(self._words)
        self.buttons = {}
        patients = self._wizard.patients
        patient = next((p for p in patients.patients if p.name == self._name), None) if patients is not None else None
        self.picture.setVisible(patient is not None)
        if patient is None:
            self._name = ""
            self._later.stop()
            self._show_cohort()
        else:
            self._show_patient(patient)

    # One patient

    def _show_patient(self, patient: Patient) -> None:
        report = self._wizard.reports.get(patient.name)
        # What was decided changes no voxel, unless it changed which file is what.
        if self._asked is None or _pictured(patient) != _pictured(self._asked):
            self._asked = patient
            known = self._kept.get(_pictured(patient))
            if known is not None:
                self._later.stop()
                self.picture.show_thumbnail(known)
            else:
                self.picture.show_words("Reading the scans")
                self._later.start()
        name = label(patient.name, "wordmark", wrap=True)
        name.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        name.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._words.addWidget(name)
        for words in _facts(patient, report):
            self._words.addWidget(label(words, "secondary", wrap=True))
        if report is None:
            waiting = "Not looked at yet." if not self._wizard.examining else "Waiting to be looked at."
            self._words.addWidget(label(waiting, "secondary"))
        for sentence in patient.decisions:
            self._words.addWidget(label(f"Decided: {sentence}", "secondary", wrap=True))
        if report is not None and patient.included and not report.usable:
            self._words.addWidget(label("Not used as things are.", "secondary", wrap=True))
        for finding in report.findings if report is not None else ():
            self._add_finding(finding)
        self._words.addSpacing(8)
        row = QHBoxLayout()
        row.setSpacing(8)
        if patient.included:
            button = push("Leave out", "", "The training does not use this patient; its files stay as they are (Space)")
        else:
            button = push("Take in again", "", "The training uses this patient (Space)")
        button.clicked.connect(lambda: self._wizard.include(patient.name, not patient.included))
        self.buttons["include"] = button
        look = push("Open in the viewer", "", "Look at the scans and compare with the ground truth")
        scans = tuple(patient.files.values())
        wanted = Look(scans, patient.truth, convention=patient.convention)
        look.clicked.connect(lambda: self._wizard.look_wanted.emit(wanted))
        self.buttons["look"] = look
        row.addWidget(button)
        row.addWidget(look)
        row.addStretch()
        self._words.addLayout(row)

    def _add_finding(self, finding: Finding) -> None:
        box = QFrame()
        box.setObjectName("note")
        box.setProperty("grave", bool(finding.severity))
        column = QVBoxLayout(box)
        column.setContentsMargins(12, 10, 10, 10)
        column.setSpacing(6)
        column.addWidget(label(finding.kind.title.upper(), "caption"))
        column.addWidget(label(finding.sentence, "", wrap=True))
        for repair in finding.repairs:
            if repair.key == "leave out":
                continue  # the button for that is below, for every patient
            others = self._same(finding, repair)
            button = push(repair.title, "", "The scans stay as they are; only the list of patients says so")
            button.clicked.connect(lambda _=False, repair=repair: self._wizard.repair([finding], repair))
            self.buttons[repair.key] = button
            column.addWidget(button)
            if len(others) > 1:
                every = push(f"Do so for all {len(others)} patients with this", "link")
                every.clicked.connect(lambda _=False, repair=repair, others=others: self._wizard.repair(others, repair))
                self.buttons[f"all {repair.key}"] = every
                column.addWidget(every)
        self._words.addSpacing(4)
        self._words.addWidget(box)

    def _same(self, finding: Finding, repair: Repair) -> list[Finding]:
        return [
            other
            for report in self._wizard.reports.values()
            if report.included
            for other in report.findings
            if other.kind is finding.kind and repair in other.repairs
        ]

    def _draw(self) -> None:
        from trainer import doctor

        patient = self._asked
        if patient is None or self._name != patient.name:
            return

        def drawn(thumbnail: Thumbnail) -> None:
            self._kept[_pictured(patient)] = thumbnail
            while len(self._kept) > THUMBNAILS_KEPT:
                self._kept.popitem(last=False)
            self.picture.show_thumbnail(thumbnail)

        self._jobs.run(
            doctor.thumbnail,
            patient,
            on_finished=drawn,
            on_failed=lambda error: self.picture.show_words(f"There is no picture. {error}"),
            topic="thumbnail",
        )

    # The cohort

    def _show_cohort(self) -> None:
        self._asked = None
        wizard = self._wizard
        patients = wizard.patients
        if patients is None:
            return
        whom = wizard.usable or patients
        used = [patient for patient in whom.patients if patient.included]
        self._words.addWidget(label("The patients", "wordmark"))
        for words in cohort_in_words(used):
            self._words.addWidget(label(words, "secondary", wrap=True))
        for finding in wizard.report.cohort if wizard.report is not None else ():
            self._add_finding(finding)
        for problem in patients.problems:
            self._words.addWidget(label(problem, "secondary", wrap=True))
        self._words.addSpacing(8)
        self._words.addWidget(label("Choose a patient to see the scans and what was found.", "secondary", wrap=True))


def _pictured(patient: Patient) -> tuple[object, ...]:
    """What a patient's picture is made of."""
    files, volumes = tuple(patient.files.items()), tuple(patient.volumes.items())
    return patient.name, files, patient.truth, patient.convention, volumes


def _facts(patient: Patient, report: PatientReport | None) -> list[str]:
    facts = report.facts if report is not None else None
    lines = []
    titles = ", ".join(sequence.title for sequence in patient.sequences)
    lines.append(titles + (f"; from {patient.source}" if patient.source else ""))
    if facts is not None and facts.shape is not None and facts.spacing is not None:
        voxels, spacing = " x ".join(map(str, facts.shape)), " x ".join(f"{s:.3g}" for s in facts.spacing)
        lines.append(f"{voxels} voxels of {spacing} mm")
    if facts is not None and facts.whole_tumour_ml is not None and facts.core_ml is not None:
        lines.append(f"Whole tumour {facts.whole_tumour_ml:.1f} ml, core {facts.core_ml:.1f} ml")
    return lines


def cohort_in_words(patients: list[Patient]) -> list[str]:
    """What there is to learn from: how many have which sequences and a truth, and where they come from."""
    counts = Counter(sequence for patient in patients for sequence in patient.files)
    whole = sum(len(patient.files) == len(Sequence) for patient in patients)
    used = "1 patient is used" if len(patients) == 1 else f"{len(patients)} patients are used"
    lines = [f"{used}; {whole} with all four sequences."]
    lines.append(", ".join(f"{sequence.title} {counts[sequence]}" for sequence in Sequence))
    lines.append(f"With a ground truth: {sum(patient.truth is not None for patient in patients)}")
    sources = Counter(patient.source for patient in patients if patient.source)
    if len(sources) > 1:
        named = ", ".join(f"{source} {count}" for source, count in sources.most_common(6))
        more = f" and {len(sources) - 6} more" if len(sources) > 6 else ""
        lines.append(f"Sources: {named}{more}")
    return lines


class Invitation(QWidget):
    """The page before there are patients: where to drop them, and what is understood.

    Signals:
        browse_folder: Choose a folder by a dialog.
        browse_table: Choose a table by a dialog.
        corrected: Take the patients whose masks the user corrected.
    """

    browse_folder = Signal()
    browse_table = Signal()
    corrected = Signal()

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.setAccessibleName("Drop a folder of patients here")
        theme.changed.connect(self.update)
        column = QVBoxLayout(self)
        column.setContentsMargins(60, 40, 60, 40)
        column.setSpacing(0)
        column.addStretch(5)
        self.title = label("Drop a folder of patients here", "title")
        column.addWidget(self.title, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(14)
        for words in (
            "Scans with the tumour outlined: BraTS 2018 to 2024, BIDS, Decathlon, a folder for each patient,",
            "or a table with the columns patient, t1, t1ce, t2, flair, label.",
            "Patients may lack sequences. Nothing is changed, and nothing leaves this computer.",
        ):
            column.addWidget(label(words, "secondary"), 0, Qt.AlignmentFlag.AlignHCenter)
            column.addSpacing(5)
        column.addSpacing(22)
        row = QHBoxLayout()
        row.setSpacing(8)
        self.folder_button = push("Choose a folder", "primary", "The folder that holds the patients")
        self.table_button = push("Choose a table", "large", "A CSV file, or a patients.json of an earlier training")
        self.folder_button.clicked.connect(self.browse_folder)
        self.table_button.clicked.connect(self.browse_table)
        self.corrected_button = push(
            "Corrected patients", "large", 'Those added with "Add to the training set" in the main window'
        )
        self.corrected_button.clicked.connect(self.corrected)
        row.addStretch()
        for button in (self.folder_button, self.table_button, self.corrected_button):
            row.addWidget(button)
        row.addStretch()
        column.addLayout(row)
        column.addStretch(6)

    def set_busy(self, words: str) -> None:
        """What is being done, or nothing."""
        self.title.setText(words or "Drop a folder of patients here")
        for button in (self.folder_button, self.table_button, self.corrected_button):
            button.setEnabled(not words)

    def showEvent(self, event: QShowEvent) -> None:
        # Patients may have been corrected since the page was last seen.
        self.corrected_button.setVisible(corrected.manifest().exists())
        super().showEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        pen = QPen(QColor(self._theme.colours.hairline), 1.5)
        pen.setDashPattern([5, 5])
        painter.setPen(pen)
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(24.5, 24.5, -24.5, -24.5), 14, 14)


class PatientsPage(QStackedWidget):
    """Whom to learn from.

    Args:
        theme: The colours.
        jobs: Everything that runs away from the UI thread.
        wizard: What is known and decided.
    """

    def __init__(self, theme: Theme, jobs: Jobs, wizard: WizardModel) -> None:
        super().__init__()
        self._theme, self.wizard = theme, wizard
        self.last_folder = str(Path.home())
        self.invitation = Invitation(theme)
        self.invitation.browse_folder.connect(self.browse_folder)
        self.invitation.browse_table.connect(self.browse_table)
        self.invitation.corrected.connect(lambda: wizard.choose_patients(corrected.manifest()))
        self.addWidget(self.invitation)
        self.table_model = CohortTable(wizard)
        self.chosen = Chosen(self.table_model)
        self.table = PatientsTable(theme, self.chosen)
        self.detail = Detail(theme, jobs, wizard)

        there = QWidget()
        column = QVBoxLayout(there)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addLayout(self._make_head())
        column.addWidget(self._make_bar())
        middle = QHBoxLayout()
        middle.setContentsMargins(0, 0, 0, 0)
        middle.setSpacing(0)
        self._listed = QStackedWidget()
        self._listed.addWidget(self.table)
        self._nobody = label("", "secondary")
        self._nobody.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._listed.addWidget(self._nobody)
        middle.addWidget(self._listed, 1)
        middle.addWidget(self.detail)
        column.addLayout(middle, 1)
        self.addWidget(there)

        self.table.selectionModel().currentRowChanged.connect(self._chose)
        for signal in (self.chosen.rowsInserted, self.chosen.rowsRemoved, self.chosen.modelReset):
            signal.connect(self._update_listed)
        wizard.patients_changed.connect(self._update)
        wizard.examined.connect(self._examined)
        wizard.examining_changed.connect(self._update_progress)
        self._update()

    # Its parts

    def _make_head(self) -> QVBoxLayout:
        head = QVBoxLayout()
        head.setContentsMargins(24, 18, 20, 12)
        head.setSpacing(3)
        first = QHBoxLayout()
        first.setSpacing(8)
        first.addWidget(label("Patients", "title"))
        first.addStretch()
        self.again_button = push("Look again", "", "Let every patient be looked at once more")
        self.again_button.clicked.connect(self.wizard.examine)
        self.other_button = push("Other patients", "", "Choose another folder or table")
        self.other_button.clicked.connect(self.browse_folder)
        first.addWidget(self.again_button)
        first.addWidget(self.other_button)
        head.addLayout(first)
        self.origin = ElidedLabel("", "secondary")
        head.addWidget(self.origin)
        return head

    def _make_bar(self) -> QWidget:
        bar = QFrame()
        bar.setObjectName("tools")
        row = QHBoxLayout(bar)
        row.setContentsMargins(20, 8, 20, 8)
        row.setSpacing(10)
        tips = {
            Show.ALL: "Every patient that was found",
            Show.FINDINGS: "Patients with something to look at before training",
            Show.LEFT_OUT: "Patients the training does not use",
        }
        self.show_choice = Segments(tuple((show, show.value, tips[show]) for show in Show), "Show")
        self.show_choice.set(Show.ALL)
        self.show_choice.chosen.connect(self._narrow)
        row.addWidget(self.show_choice)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Find a patient, a source, a finding")
        self.search.setAccessibleName("Find a patient, a source, a finding")
        self.search.setClearButtonEnabled(False)
        self.search.setFixedWidth(240)
        self.search.textChanged.connect(lambda words: self.chosen.narrow(words=words))
        self.search.textChanged.connect(self._update_listed)
        row.addWidget(self.search)
        row.addStretch()
        self.decided = ElidedLabel("", "secondary")
        self.decided.setAlignment(Qt.AlignmentFlag.AlignRight)
        row.addWidget(self.decided, 2)
        self.undo_button = push("Undo", "", "Take the last decision back")
        self.undo_button.clicked.connect(self.wizard.take_back)
        row.addWidget(self.undo_button)
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setFixedWidth(140)
        self.progress.setTextVisible(False)
        self.progress.setAccessibleName("How many patients were looked at")
        self.doing = label("", "secondary")
        self.stop_button = push("Stop", "", "Stop looking; what was found so far stays")
        self.stop_button.clicked.connect(self.wizard.stop_looking)
        for part in (self.doing, self.progress, self.stop_button):
            row.addWidget(part)
        return bar

    # Choosing

    def browse_folder(self) -> None:
        """Choose the folder that holds the patients."""
        name = QFileDialog.getExistingDirectory(self, "Choose a folder of patients", self.last_folder)
        self._chosen_path(name)

    def browse_table(self) -> None:
        """Choose a table of patients."""
        name, _ = QFileDialog.getOpenFileName(self, "Choose a table of patients", self.last_folder, TABLES)
        self._chosen_path(name)

    def _chosen_path(self, name: str) -> None:
        if name:
            self.last_folder = str(Path(name).parent)
            self.wizard.choose_patients(Path(name))

    # What is shown

    def _chose(self, now: QModelIndex, before: QModelIndex) -> None:
        patient = self.chosen.patient_at(now)
        self.detail.show_patient(patient.name if patient is not None else "")

    def choose(self, name: str) -> None:
        """Choose a patient in the table."""
        for row in range(self.chosen.rowCount()):
            index = self.chosen.index(row, 0)
            patient = self.chosen.patient_at(index)
            if patient is not None and patient.name == name:
                how = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
                self.table.selectionModel().setCurrentIndex(index, how)
                self.table.scrollTo(index)

    def _narrow(self, show: object) -> None:
        if isinstance(show, Show):
            self.chosen.narrow(show=show)
            self._update_listed()

    def _update(self) -> None:
        wizard = self.wizard
        patients = wizard.patients
        self.setCurrentIndex(0 if patients is None else 1)
        if patients is not None:
            self.origin.setText(place_in_words(patients.origin))
            self.origin.setToolTip(str(patients.origin))
        self._count()
        self.chosen.narrow()
        self._update_progress()
        self._update_listed()

    def _examined(self) -> None:
        self._count()
        self._update_progress()

    def _count(self) -> None:
        """How many each choice would list."""
        for show in Show:
            count = sum(
                listed(show, patient, self.wizard.reports.get(patient.name)) for patient in self.table_model.patients
            )
            self.show_choice.button(show).setText(f"{show.value}  {count}")

    def _update_listed(self) -> None:
        empty = self.chosen.rowCount() == 0
        self._nobody.setText("No patient matches." if self.search.text().strip() else "There is nobody here.")
        self._listed.setCurrentIndex(int(empty))

    def _update_progress(self) -> None:
        wizard = self.wizard
        looking = wizard.examining
        self.invitation.set_busy("Looking for patients" if looking and wizard.patients is None else "")
        for part in (self.doing, self.progress, self.stop_button):
            part.setVisible(looking)
        self.progress.setValue(round(1000 * wizard.fraction))
        count = len(wizard.patients) if wizard.patients is not None else 0
        self.doing.setText(f"{len(wizard.reports)} of {count} looked at" if looking else "")
        decision = wizard.decision
        self.undo_button.setVisible(decision is not None and not looking)
        self.decided.setText(decision.words if decision is not None and not looking else "")
        self.again_button.setVisible(not looking and wizard.patients is not None and wizard.report is None)
        self.other_button.setEnabled(not looking)
        self.other_button.setToolTip("Stop looking at these first." if looking else "Choose another folder or table")
