"""The patients of a batch as rows: model, filter, painter and table; hundreds of them without a widget each."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from functools import cache
from pathlib import Path

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QPointF,
    QRect,
    QRectF,
    QSize,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QImage, QKeyEvent, QPainter, QPen, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
)

from app.batch_model import BatchModel
from app.jobs import Jobs
from app.theme import LABEL_PX, Theme, blend, body_font
from engine.batch import Row, State
from engine.progress import Progress
from engine.volume import Sequence, in_words, interval_in_words

ROW_HEIGHT = 48
PICTURE_PX = 40
# Twice as large as shown, for dense screens; 500 of them take 13 MB.
KEPT_PX = 2 * PICTURE_PX
PICTURES_KEPT = 600
PICTURES_AT_ONCE = 24
Index = QModelIndex | QPersistentModelIndex


class Show(Enum):
    """Which patients the table lists."""

    ALL = "All"
    WAITING = "Waiting"
    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"
    TO_READ = "To read"

    def lists(self, row: Row) -> bool:
        """Whether a patient belongs among these."""
        if self is Show.ALL:
            return True
        if self is Show.TO_READ:
            return bool(row.warnings) or bool(row.error)
        if self is Show.WAITING:
            return row.state in (State.WAITING, State.SKIPPED)
        return row.state is State[self.name]


class Column(Enum):
    """The columns of the table: title and width; a width of 0 takes what is left."""

    PICTURE = ("", 56)
    PATIENT = ("Patient", 148)
    SEQUENCES = ("Sequences", 152)
    STATE = ("State", 120)
    TUMOUR = ("Tumour ml", 84)
    CORE = ("Core ml", 74)
    DICE = ("Dice", 52)
    DICE_CORE = ("Core", 52)
    SECONDS = ("Seconds", 66)
    MODEL = ("Model", 140)
    KNOW = ("What to know", 0)

    @property
    def title(self) -> str:
        """Its head."""
        return self.value[0]

    @property
    def width(self) -> int:
        """In pixels."""
        return self.value[1]

    @property
    def region(self) -> str:
        """Which region it is about; empty for none."""
        if self in (Column.TUMOUR, Column.DICE):
            return "whole_tumour"
        return "tumour_core" if self in (Column.CORE, Column.DICE_CORE) else ""


COLUMNS = tuple(Column)
NUMBERS = (Column.TUMOUR, Column.CORE, Column.DICE, Column.DICE_CORE, Column.SECONDS)
# Where the window is narrow, what the detail beside the table says too makes room, in this order.
DISPENSABLE = (Column.MODEL, Column.SECONDS, Column.DICE_CORE, Column.SEQUENCES, Column.CORE, Column.DICE)
RESULTS = (Column.PICTURE, Column.TUMOUR, Column.CORE, Column.DICE, Column.DICE_CORE, Column.SECONDS)
LEAST_FOR_WORDS = 132
SORT = Qt.ItemDataRole.UserRole
STATES = {
    State.RUNNING: "Running",
    State.FAILED: "Failed",
    State.DONE: "Done",
    State.WAITING: "Waiting",
    State.SKIPPED: "Left out",
}
_CHIPS = {Sequence.T1: 25, Sequence.T1CE: 37, Sequence.T2: 25, Sequence.FLAIR: 43}


class Pictures:
    """Small pictures of results, read when they are first seen, a few at a time and away from the UI thread.

    Args:
        jobs: Reads them.
        arrived: Called when there are more.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.arrived: list[object] = []
        self._kept: OrderedDict[Path, QImage] = OrderedDict()
        self._wanted: OrderedDict[Path, None] = OrderedDict()
        self._reading = False

    def get(self, path: Path, then: object) -> QImage | None:
        """A picture, or None while it is being read; ``then`` is called when some have arrived."""
        known = self._kept.get(path)
        if known is not None:
            self._kept.move_to_end(path)
            return known
        self._wanted[path] = None
        self._wanted.move_to_end(path)
        self._read(then)
        return None

    def _read(self, then: object) -> None:
        if self._reading or not self._wanted:
            return
        self._reading = True
        # What was asked for last is what is looked at now.
        paths = list(reversed(self._wanted))[:PICTURES_AT_ONCE]
        self._wanted.clear()

        def done(read: dict[Path, QImage]) -> None:
            self._reading = False
            self._kept.update(read)
            while len(self._kept) > PICTURES_KEPT:
                self._kept.popitem(last=False)
            assert callable(then)
            then()
            self._read(then)

        def failed(error: Exception) -> None:
            # A picture less is nothing that anybody has to mend.
            done(dict.fromkeys(paths, QImage()))

        self._jobs.run(_read_pictures, paths, on_finished=done, on_failed=failed)


def _read_pictures(paths: list[Path], progress: Progress) -> dict[Path, QImage]:
    read = {}
    for path in paths:
        progress.check()
        picture = QImage(str(path))
        if not picture.isNull():
            size = QSize(KEPT_PX, KEPT_PX)
            how = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            picture = picture.scaled(size, *how).convertToFormat(QImage.Format.Format_RGB32)
        read[path] = picture
    return read


class BatchTable(QAbstractTableModel):
    """The patients as rows, kept up to date while they are worked on.

    Args:
        model: Whose rows they are.
    """

    def __init__(self, model: BatchModel) -> None:
        super().__init__(model)
        self.batch = model
        self._rows = 0
        # Sorting asks for each of them a dozen times.
        self._keys: dict[Column, list[object]] = {}
        model.listed.connect(self._reset)
        model.rows_changed.connect(self._changed)
        self._reset()

    def _reset(self) -> None:
        self.beginResetModel()
        self._keys.clear()
        self._rows = len(self.batch.rows)
        self.endResetModel()

    def _changed(self, places: object, only_progress: bool) -> None:
        assert isinstance(places, list | range)
        if not places:
            return
        if not only_progress:
            self._keys.clear()
        # A patient that has come further moves no row; every further column would be sorted and filtered anew.
        first, last = (COLUMNS.index(Column.STATE),) * 2 if only_progress else (0, len(COLUMNS) - 1)
        begin = before = places[0]
        for place in (*places[1:], -1):
            if place != before + 1:
                self.dataChanged.emit(self.index(begin, first), self.index(before, last))
                begin = place
            before = place

    def rowCount(self, parent: Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else self._rows

    def columnCount(self, parent: Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        if orientation is not Qt.Orientation.Horizontal:
            return None
        column = COLUMNS[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.title
        if role == Qt.ItemDataRole.ToolTipRole:
            return {
                Column.TUMOUR: "Whole tumour in ml; in 90 of 100 patients the truth lies between the two ends below",
                Column.CORE: "Tumour core in ml; in 90 of 100 patients the truth lies between the two ends below",
                Column.DICE: "Agreement with the ground truth, whole tumour; 1 is the same",
                Column.DICE_CORE: "Agreement with the ground truth, core; 1 is the same",
                Column.SECONDS: "From reading to the last output",
            }.get(column)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if column in NUMBERS else Qt.AlignmentFlag.AlignLeft
            return int(side | Qt.AlignmentFlag.AlignVCenter)
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        return Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        if role == SORT:
            return self._key(index.row(), COLUMNS[index.column()])
        row, column = self.batch.rows[index.row()], COLUMNS[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self.words(row, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._told(row, column)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            said = self._told(row, column) or self.words(row, column) or "nothing"
            return f"{column.title or 'Picture'}: {said}"
        return None

    def words(self, row: Row, column: Column) -> str:
        """What a cell says."""
        if column is Column.PATIENT:
            return row.name
        if column is Column.SEQUENCES:
            return ", ".join(sequence.title for sequence in row.sequences)
        if column is Column.STATE:
            return STATES[row.state]
        if column is Column.MODEL:
            return self.batch.title_of(row.model) if row.model else self.batch.foreseen(row).title
        if column is Column.KNOW:
            return know(row, self.batch)
        if column is Column.SECONDS:
            return f"{row.seconds:.1f}" if row.state is State.DONE else ""
        if column in (Column.DICE, Column.DICE_CORE):
            score = row.scores.get(column.region)
            return f"{score.dice:.2f}" if score is not None else ""
        if column in (Column.TUMOUR, Column.CORE):
            volume = row.volumes_ml.get(column.region)
            return f"{volume:.1f}" if volume is not None else ""
        return ""

    def interval(self, row: Row, column: Column) -> str:
        """The ends that a volume lies between, below it; empty where they are not known."""
        interval = row.intervals_ml.get(column.region) if column in (Column.TUMOUR, Column.CORE) else None
        return interval_in_words(interval).removeprefix("90 %: ") if interval is not None else ""

    def _key(self, place: int, column: Column) -> object:
        keys = self._keys.get(column)
        if keys is None:
            keys = self._keys[column] = [self._sorted_by(row, column) for row in self.batch.rows]
        return keys[place]

    def _sorted_by(self, row: Row, column: Column) -> object:
        """A number or text; of one kind within a column."""
        if column in (Column.PICTURE, Column.TUMOUR, Column.CORE):
            return float(row.volumes_ml.get(column.region or "whole_tumour", -1.0))
        if column in (Column.DICE, Column.DICE_CORE):
            score = row.scores.get(column.region)
            return -1.0 if score is None else float(score.dice)
        if column is Column.SECONDS:
            return float(row.seconds)
        if column is Column.SEQUENCES:
            # Who has more comes first, then those who have the same beside each other.
            return sum(16 + 2**place for place, one in enumerate(reversed(Sequence)) if one in row.sequences)
        if column is Column.STATE:
            return list(STATES).index(row.state)
        if column is Column.KNOW:
            return 1000 * bool(row.error) + len(row.warnings)
        return natural(self.words(row, column))

    def _told(self, row: Row, column: Column) -> str:
        """A tooltip, which a screen reader says too."""
        if column is Column.SEQUENCES:
            held = in_words(row.sequences) or "told when the patient is read"
            used = f"; {in_words(row.used)} looked at" if row.used and row.used != row.sequences else ""
            return held + used
        if column is Column.STATE and row.state is State.RUNNING:
            return f"{STATES[row.state]}, {100 * row.fraction:.0f} %: {row.message}"
        if column in (Column.TUMOUR, Column.CORE) and row.volumes_ml:
            interval = row.intervals_ml.get(column.region)
            return f"{self.words(row, column)} ml" + (f", {interval_in_words(interval)}" if interval else "")
        if column in (Column.DICE, Column.DICE_CORE) and row.scores:
            score = row.scores[column.region]
            learnt = "; the model learnt from this patient, so this says nothing" if row.learnt_from else ""
            return f"Dice {score.dice:.3f}, HD95 {score.hd95_mm:.1f} mm, truth {score.truth_ml:.1f} ml{learnt}"
        if column is Column.MODEL:
            return row.reason or self.batch.foreseen(row).reason
        if column is Column.KNOW:
            return "\n".join(filter(None, (row.error, *row.warnings))) or know(row, self.batch)
        return ""


def know(row: Row, model: BatchModel) -> str:
    """The first thing that a person should read of a patient, and how many more there are."""
    foreseen = model.foreseen(row) if row.state is State.WAITING else None
    said = [row.error] if row.error else []
    said += [foreseen.reason] if foreseen is not None and not (foreseen.possible and foreseen.title) else []
    said += row.warnings
    said = [sentence for sentence in said if sentence]
    more = f"  +{len(said) - 1}" if len(said) > 1 else ""
    return said[0] + more if said else ""


@cache
def natural(words: str) -> str:
    """So that patient 2 comes before patient 10: numbers are as long as each other."""
    out, digits = [], ""
    for sign in words.casefold() + " ":
        if sign.isdecimal():
            digits += sign
            continue
        out += [digits.zfill(12)] if digits else []
        digits = ""
        out.append(sign)
    return "".join(out)


class Chosen(QSortFilterProxyModel):
    """Those patients that are listed, sorted."""

    def __init__(self, table: BatchTable) -> None:
        super().__init__(table)
        self._table = table
        self.show, self.words, self.having = Show.ALL, "", frozenset[Sequence]()
        self.setSourceModel(table)
        self.setSortRole(SORT)
        self.setDynamicSortFilter(True)

    def narrow(
        self, show: Show | None = None, words: str | None = None, having: frozenset[Sequence] | None = None
    ) -> None:
        """List others: in one state, who have all of these sequences, whose name or sentences hold the words."""
        self.beginFilterChange()
        self.show = show or self.show
        self.words = self.words if words is None else words.casefold().strip()
        self.having = self.having if having is None else having
        self.endFilterChange(QSortFilterProxyModel.Direction.Rows)

    def filterAcceptsRow(self, place: int, parent: Index) -> bool:
        row = self._table.batch.rows[place]
        if not self.show.lists(row) or not self.having <= set(row.sequences):
            return False
        if not self.words:
            return True
        model = self._table.words(row, Column.MODEL)
        return self.words in f"{row.name} {model} {row.error} {' '.join(row.warnings)}".casefold()

    def row_at(self, index: Index) -> Row | None:
        """Whose row that is."""
        return self._table.batch.rows[self.mapToSource(index).row()] if index.isValid() else None


class RowPainter(QStyledItemDelegate):
    """Draws the table's cells.

    Args:
        theme: The colours.
        table: Whose cells.
        pictures: The small pictures.
    """

    def __init__(self, theme: Theme, table: Table, pictures: Pictures) -> None:
        super().__init__(table)
        self._theme, self._view, self._pictures = theme, table, pictures
        # A font made anew for each of two hundred cells is a third of the time that they take.
        self._body, self._small, self._struck = body_font(), body_font(LABEL_PX), body_font()
        self._struck.setStrikeOut(True)

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(40, ROW_HEIGHT)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        c = self._theme.colours
        column, row = COLUMNS[index.column()], self._view.row_of(index)
        rect: QRect = option.rect
        state: QStyle.StateFlag = option.state
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if state & QStyle.StateFlag.State_Selected:
            painter.fillRect(rect, QColor(blend(c.accent, c.panel, 0.16)))
        painter.fillRect(QRect(rect.left(), rect.bottom(), rect.width(), 1), QColor(c.hairline))
        inside = rect.adjusted(8, 0, -10, -1)
        if column is Column.PICTURE:
            self._paint_picture(painter, rect, row)
        elif column is Column.SEQUENCES:
            self._paint_chips(painter, inside, row)
        elif column is Column.STATE:
            self._paint_state(painter, inside, row)
        elif column in NUMBERS:
            self._paint_number(painter, inside, row, column)
        else:
            self._paint_words(painter, inside, row, column)
        if state & QStyle.StateFlag.State_HasFocus and self._view.hasFocus() and column is self._view.first:
            painter.setPen(QPen(QColor(c.accent), 2))
            painter.drawLine(rect.topLeft() + QPoint(1, 1), rect.bottomLeft() + QPoint(1, -2))
        painter.restore()

    def _paint_picture(self, painter: QPainter, rect: QRect, row: Row) -> None:
        c = self._theme.colours
        box = QRectF(0, 0, PICTURE_PX, PICTURE_PX)
        box.moveCenter(QPointF(rect.center()) + QPointF(1.5, 0))
        picture = self._pictures.get(row.thumbnail, self._view.viewport().update) if row.thumbnail else None
        if picture is not None and not picture.isNull():
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            painter.fillRect(box, QColor("black"))
            size = picture.size().toSizeF().scaled(box.size(), Qt.AspectRatioMode.KeepAspectRatio)
            middle = box.center()
            place = QPointF(middle.x() - size.width() / 2, middle.y() - size.height() / 2)
            painter.drawImage(QRectF(place, size), picture)
            return
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("black" if row.thumbnail else c.raised))
        painter.drawRoundedRect(box, 3, 3)

    def _paint_chips(self, painter: QPainter, inside: QRect, row: Row) -> None:
        """A place for each sequence, always the same one: full where it was looked at, a ring where it is there."""
        c = self._theme.colours
        painter.setFont(self._small)
        left = float(inside.left()) + 0.5
        allowed = self._view.batch.allowed
        for sequence, width in _CHIPS.items():
            box = QRectF(left, inside.center().y() - 8.5, width - 3, 18)
            left += width
            there = sequence in row.sequences
            used = there and (sequence in row.used if row.used else sequence in allowed)
            if not there:
                painter.setPen(QPen(QColor(c.hairline), 1.6, c=Qt.PenCapStyle.RoundCap))
                painter.drawLine(box.center() - QPointF(3, 0), box.center() + QPointF(3, 0))
                continue
            tint = blend(c.accent, c.panel, 0.22)
            painter.setPen(QPen(QColor(blend(c.accent, c.panel, 0.45) if used else c.hairline), 1))
            painter.setBrush(QColor(tint) if used else Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(box, 4, 4)
            painter.setPen(QColor(c.text if used else c.secondary))
            painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), sequence.title)

    def _paint_state(self, painter: QPainter, inside: QRect, row: Row) -> None:
        c = self._theme.colours
        middle = inside.center().y() + 0.5
        if row.state is State.RUNNING:
            painter.setFont(self._small)
            painter.setPen(QColor(c.text))
            above = QRect(inside.left(), inside.top() + 7, inside.width(), 18)
            words = painter.fontMetrics().elidedText(
                row.message[:1].upper() + row.message[1:], Qt.TextElideMode.ElideRight, inside.width()
            )
            painter.drawText(above, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), words)
            groove = QRectF(inside.left(), inside.top() + 29, inside.width(), 4)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(c.hairline))
            painter.drawRoundedRect(groove, 2, 2)
            painter.setBrush(QColor(c.secondary if self._view.batch.paused else c.accent))
            painter.drawRoundedRect(QRectF(groove.topLeft(), QSize(1, 4).toSizeF()).adjusted(
                0, 0, max(0.0, groove.width() * row.fraction - 1), 0), 2, 2)  # fmt: skip
            return
        # A shape as well as a colour.
        sign = {State.DONE: "check", State.FAILED: "warning", State.SKIPPED: "minus"}.get(row.state)
        colour = c.warning if row.state is State.FAILED else c.accent if row.state is State.DONE else c.secondary
        place = QPointF(inside.left() + 7, middle)
        if sign is not None:
            self._theme.icon(sign, colour).paint(painter, round(place.x()) - 8, round(place.y()) - 8, 16, 16)
        else:
            painter.setPen(QPen(QColor(blend(c.secondary, c.panel, 0.7)), 1.5))
            painter.drawEllipse(place, 4, 4)
        strong = row.state in (State.DONE, State.FAILED)
        painter.setPen(QColor(c.text if strong else c.secondary))
        painter.setFont(self._body)
        beside = inside.adjusted(22, 0, 0, 0)
        painter.drawText(beside, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), STATES[row.state])

    def _paint_number(self, painter: QPainter, inside: QRect, row: Row, column: Column) -> None:
        c = self._theme.colours
        words = self._view.table.words(row, column)
        if not words:
            return
        quiet = column is Column.SECONDS or (column in (Column.DICE, Column.DICE_CORE) and row.learnt_from)
        painter.setPen(QColor(c.secondary if quiet else c.text))
        painter.setFont(self._body)
        below = self._view.table.interval(row, column)
        flags = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if not below:
            painter.drawText(inside, flags, words)
            return
        half = inside.height() // 2
        painter.drawText(QRect(inside.left(), inside.top() + 5, inside.width(), half - 3), flags, words)
        painter.setPen(QColor(c.secondary))
        painter.setFont(self._small)
        painter.drawText(QRect(inside.left(), inside.top() + half, inside.width(), half - 4), flags, below)

    def _paint_words(self, painter: QPainter, inside: QRect, row: Row, column: Column) -> None:
        c = self._theme.colours
        words = self._view.table.words(row, column)
        if not words:
            return
        font = self._struck if column is Column.PATIENT and row.state is State.SKIPPED else self._body
        # Beside results there is little room, and names of different sizes below each other look like a mistake.
        painter.setFont(self._small if column is Column.MODEL and self._view.batch.batch is not None else font)
        strong = (column is Column.PATIENT and row.state is not State.SKIPPED) or (
            column is Column.KNOW and bool(row.error)
        )
        painter.setPen(QColor(c.text if strong else c.secondary))
        elide = Qt.TextElideMode.ElideMiddle if column is Column.PATIENT else Qt.TextElideMode.ElideRight
        metrics = painter.fontMetrics()
        left = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        if column is Column.PATIENT or metrics.horizontalAdvance(words) <= inside.width():
            painter.drawText(inside, left, metrics.elidedText(words, elide, inside.width()))
            return
        # Two lines, as a sentence that explains a failure is worth more than a word of it.
        painter.setFont(self._small)
        metrics = painter.fontMetrics()
        first, rest = _first_line(words, metrics, inside.width())
        if not rest:
            painter.drawText(inside, left, first)
            return
        half = inside.height() // 2
        painter.drawText(QRect(inside.left(), inside.top() + 5, inside.width(), half - 4), left, first)
        painter.drawText(
            QRect(inside.left(), inside.top() + half - 1, inside.width(), half - 4),
            left,
            metrics.elidedText(rest, elide, inside.width()),
        )


def _first_line(words: str, metrics: object, width: int) -> tuple[str, str]:
    """As many words as fit into a line, and the rest."""
    first, rest = "", words.split(" ")
    advance = metrics.horizontalAdvance  # type: ignore[attr-defined]
    while rest and advance(f"{first} {rest[0]}".strip()) <= width:
        first = f"{first} {rest.pop(0)}".strip()
    return (first, " ".join(rest)) if first else (words, "")


class Table(QTableView):
    """The table itself.

    Args:
        theme: The colours.
        chosen: What is listed.
        pictures: The small pictures.

    Signals:
        opened: A patient is to be opened, by Enter or a double click.
        toggled: Space was pressed on the chosen patients.
    """

    opened = Signal(str)
    toggled = Signal()

    def __init__(self, theme: Theme, table: BatchTable, chosen: Chosen, pictures: Pictures) -> None:
        super().__init__()
        self.table, self.batch, self._chosen = table, table.batch, chosen
        self._nothing_yet = False
        self.setObjectName("table")
        self.setAccessibleName("Patients of the batch")
        self.setModel(chosen)
        self.setItemDelegate(RowPainter(theme, self, pictures))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
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
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        columns.setMinimumSectionSize(30)
        columns.setFixedHeight(32)
        columns.setHighlightSections(False)
        columns.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        columns.setTextElideMode(Qt.TextElideMode.ElideRight)
        for number, column in enumerate(COLUMNS):
            if column.width:
                columns.setSectionResizeMode(number, QHeaderView.ResizeMode.Fixed)
                self.setColumnWidth(number, column.width)
            else:
                columns.setSectionResizeMode(number, QHeaderView.ResizeMode.Stretch)
        for column in (Column.PATIENT, Column.MODEL):
            columns.setSectionResizeMode(COLUMNS.index(column), QHeaderView.ResizeMode.Interactive)
        columns.setSortIndicator(COLUMNS.index(Column.PATIENT), Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(True)
        self.doubleClicked.connect(self._open)
        theme.changed.connect(self.viewport().update)
        self.batch.stage_changed.connect(self.viewport().update)
        self.batch.plan_changed.connect(self.viewport().update)
        self.batch.stage_changed.connect(self._make_room)
        self.batch.listed.connect(self._make_room)

    @property
    def first(self) -> Column:
        """The leftmost column in sight, where the focus is shown."""
        return Column.PATIENT if self.isColumnHidden(COLUMNS.index(Column.PICTURE)) else Column.PICTURE

    def row_of(self, index: Index) -> Row:
        """Whose row it is."""
        return self.batch.rows[self._chosen.mapToSource(index).row()]

    def _open(self, index: QModelIndex) -> None:
        row = self._chosen.row_at(index)
        if row is not None:
            self.opened.emit(row.name)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._make_room()

    def _make_room(self) -> None:
        nothing_yet = self.batch.batch is None
        shown = [
            column
            for column in COLUMNS
            if not (nothing_yet and column in RESULTS)
            and (column not in (Column.DICE, Column.DICE_CORE) or self.batch.with_truth)
        ]
        if nothing_yet is not self._nothing_yet:
            # Before the start there is room for a model's whole name.
            self._nothing_yet = nothing_yet
            self.setColumnWidth(COLUMNS.index(Column.MODEL), Column.MODEL.width + (60 if nothing_yet else 0))
        room = self.viewport().width() - sum(column.width for column in shown) - LEAST_FOR_WORDS
        for column in (*DISPENSABLE, *(column for column in COLUMNS if column not in DISPENSABLE)):
            hidden = column not in shown or (room < 0 and column in DISPENSABLE)
            self.setColumnHidden(COLUMNS.index(column), hidden)
            room += column.width if hidden and column in shown else 0

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.currentIndex().isValid():
            self._open(self.currentIndex())
            return
        if event.key() == Qt.Key.Key_Space:
            self.toggled.emit()
            return
        super().keyPressEvent(event)
