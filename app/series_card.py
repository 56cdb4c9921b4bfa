"""Which series of a DICOM study are the four sequences: every series with its picture, and what was taken for what."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QKeyEvent, QPainter, QPaintEvent, QPen, QShowEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from app import tasks
from app.cards import Card
from app.controls import Choice, ElidedLabel, clear, label, push
from app.jobs import Jobs
from app.session import Studies
from app.theme import Theme
from engine.volume import Sequence, in_words

if TYPE_CHECKING:
    from engine.dicom import Series, Study

SLOT_PX = 76
ROW_PX = 56
SURE = 0.9
LIKELY = 0.7
LIST_HEIGHT = 372


class SeriesPicture(QWidget):
    """The middle slice of a series, or the place for it.

    Args:
        theme: The colours.
        side: In pixels.
    """

    def __init__(self, theme: Theme, side: int) -> None:
        super().__init__()
        self._theme = theme
        self._image = QImage()
        self.setFixedSize(side, side)
        theme.changed.connect(self.update)

    def show_picture(self, picture: NDArray[np.uint8] | None) -> None:
        """Show ``(rows, columns)``, or nothing."""
        self._image = QImage()
        if picture is not None and picture.size:
            drawn = np.ascontiguousarray(picture)
            rows, columns = drawn.shape
            # Qt does not keep the array alive; the copy is Qt's own.
            self._image = QImage(drawn.data, columns, rows, columns, QImage.Format.Format_Grayscale8).copy()
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
        box = QRectF(self.rect())
        if self._image.isNull():
            painter.setPen(QPen(QColor(self._theme.colours.hairline), 1, Qt.PenStyle.DashLine))
            painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
            return
        painter.fillRect(box, QColor("black"))
        size = QSize(self._image.size()).scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio)
        place = QRectF(
            (self.width() - size.width()) / 2, (self.height() - size.height()) / 2, size.width(), size.height()
        )
        painter.drawImage(place, self._image)


class Slot(QFrame):
    """One of the four sequences and the series that is taken for it."""

    def __init__(self, theme: Theme, sequence: Sequence) -> None:
        super().__init__()
        self.setObjectName("slot")
        self.sequence = sequence
        row = QHBoxLayout(self)
        row.setContentsMargins(10, 10, 10, 10)
        row.setSpacing(10)
        self.picture = SeriesPicture(theme, SLOT_PX)
        row.addWidget(self.picture)
        words = QVBoxLayout()
        words.setSpacing(1)
        self.name = ElidedLabel("", "secondary")
        self.sure = label("", "small", wrap=True)
        words.addWidget(label(sequence.title))
        words.addWidget(self.name)
        words.addWidget(self.sure)
        words.addStretch()
        row.addLayout(words, 1)

    def show_series(self, series: Series | None, picture: NDArray[np.uint8] | None, by_hand: bool) -> None:
        """Show what is taken, or that nothing is."""
        self.picture.show_picture(picture if series is not None else None)
        self.name.setText(title_of(series) if series is not None else "Absent")
        self.name.setToolTip(series.description if series is not None else "")
        self.sure.setText("" if series is None else "You chose it." if by_hand else sure_in_words(series))
        self.setAccessibleName(f"{self.sequence.title}: {self.name.text()}. {self.sure.text()}")


class SeriesRow(QFrame):
    """One series: its picture, what it is, and what it is taken for.

    Signals:
        taken: For which sequence the user wants it, or None.
    """

    taken = Signal(object)

    def __init__(self, theme: Theme, series: Series) -> None:
        super().__init__()
        self.series = series
        grid = QGridLayout(self)
        grid.setContentsMargins(6, 5, 10, 5)
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(0)
        grid.setColumnStretch(1, 3)
        grid.setColumnStretch(2, 4)
        self.picture = SeriesPicture(theme, ROW_PX)
        grid.addWidget(self.picture, 0, 0, 2, 1)
        name = ElidedLabel(title_of(series))
        name.setToolTip(series.description)
        measures = ElidedLabel(measures_of(series), "small")
        measures.setToolTip(measures.text())
        grid.addWidget(name, 0, 1, Qt.AlignmentFlag.AlignBottom)
        grid.addWidget(measures, 1, 1, Qt.AlignmentFlag.AlignTop)
        why = label(reason_of(series), "small", wrap=True)
        why.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        grid.addWidget(why, 0, 2, 2, 1, Qt.AlignmentFlag.AlignVCenter)
        self.choice = Choice(theme, f"What series {series.number} is taken for")
        self.choice.setFixedWidth(116)
        # Qt makes plain strings of our sequences, so they are told by their place.
        self.choice.addItems(["Not used", *(sequence.title for sequence in Sequence)])
        self.choice.activated.connect(lambda number: self.taken.emit((None, *Sequence)[number]))
        grid.addWidget(self.choice, 0, 3, 2, 1, Qt.AlignmentFlag.AlignVCenter)
        self.setAccessibleName(f"{title_of(series)}, {measures.text()}. {why.text()}")

    def show_taken(self, sequence: Sequence | None) -> None:
        """What it is taken for."""
        self.choice.setCurrentIndex(0 if sequence is None else list(Sequence).index(sequence) + 1)


class SeriesCard(Card):
    """The series of the studies that were dropped; what was recognised is chosen already.

    Args:
        theme: The colours.
        window: What is covered.
        studies: What was found.
        jobs: For the pictures.

    Signals:
        accepted: A study, with the series as the user wants them.
    """

    accepted = Signal(object)

    def __init__(self, theme: Theme, window: QWidget, studies: Studies, jobs: Jobs) -> None:
        super().__init__(theme, window, min(1080, window.width() - 64), "Series of this study")
        self._jobs = jobs
        self._studies = studies
        self._pictures: dict[str, NDArray[np.uint8] | None] = {}
        self._study = studies.taken if studies.taken is not None else studies.all[0]
        self._original = self._study
        self._chosen: dict[Sequence, Series] = dict(self._study.chosen)
        self._by_hand: set[Sequence] = set()
        head = QHBoxLayout()
        head.addWidget(label("Which series?", "title"), 1)
        self.which = Choice(theme, "Study")
        self.which.setMinimumWidth(280)
        for number, study in enumerate(studies.all, start=1):
            self.which.addItem(study.patient or f"Study {number}")
        self.which.setVisible(len(studies.all) > 1)
        self.which.activated.connect(lambda number: self._show_study(studies.all[number]))
        head.addWidget(self.which)
        self.body.addLayout(head)
        self.words = label("", "secondary", wrap=True)
        self.body.addWidget(self.words)
        self.slots: dict[Sequence, Slot] = {sequence: Slot(theme, sequence) for sequence in Sequence}
        slots = QHBoxLayout()
        slots.setSpacing(8)
        for slot in self.slots.values():
            slots.addWidget(slot, 1)
        self.body.addLayout(slots)
        self.rows: list[SeriesRow] = []
        self._list = QVBoxLayout()
        self._list.setContentsMargins(0, 0, 4, 0)
        self._list.setSpacing(0)
        inside = QWidget()
        inside.setObjectName("panelBody")
        inside.setLayout(self._list)
        area = QScrollArea()
        area.setObjectName("series")
        area.setWidget(inside)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        longest = max(len(study.series) for study in studies.all) * (ROW_PX + 12) + 6
        area.setFixedHeight(min(longest, max(180, min(LIST_HEIGHT, window.height() - 430))))
        self.body.addWidget(area)
        foot = QHBoxLayout()
        foot.setSpacing(10)
        foot.addWidget(label("Names stay on this screen: nothing of them is written to any file.", "small"), 1)
        self.close_button.setText("Cancel")
        self.close_button.setObjectName("large")
        self.close_button.setAccessibleName("Cancel")
        self.open_button = push("Open", "primary", "Open these series as one patient (Enter)")
        self.open_button.clicked.connect(self.accept)
        foot.addWidget(self.close_button)
        foot.addWidget(self.open_button)
        self.body.addLayout(foot)
        self._theme = theme
        self._show_study(self._study)

    def accept(self) -> None:
        """Open what is chosen."""
        if not self._chosen:
            return
        untouched = self._chosen == dict(self._original.chosen) and not self._by_hand
        # Whoever pressed Open has looked: what was doubted is no doubt any more.
        study = self._study.choosing(self._chosen)
        if untouched and self._studies.taken is self._original:
            self.leave()
            return
        self.leave()
        self.accepted.emit(study)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.open_button.setFocus(Qt.FocusReason.TabFocusReason)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.accept()
            event.accept()
            return
        super().keyPressEvent(event)

    def leave(self) -> None:
        for series in self._all_series():
            self._jobs.drop(f"thumbnail {series.key}")
        super().leave()

    # Inside

    def _all_series(self) -> list[Series]:
        return [series for study in self._studies.all for series in study.series]

    def _show_study(self, study: Study) -> None:
        self._study = self._original = study
        self._chosen, self._by_hand = dict(study.chosen), set()
        same = [number for number, other in enumerate(self._studies.all) if other.series == study.series]
        self.which.setCurrentIndex(same[0] if same else 0)
        clear(self._list)
        self.rows = []
        # Those that may be taken come first.
        for series in sorted(study.series, key=lambda s: (bool(s.left_out), s.number)):
            row = SeriesRow(self._theme, series)
            row.taken.connect(self._taker(series))
            self._list.addWidget(row)
            self.rows.append(row)
            if series.key in self._pictures:
                row.picture.show_picture(self._pictures[series.key])
            else:
                self._jobs.run(
                    tasks.thumbnail,
                    series,
                    on_finished=self._receiver(series),
                    on_failed=lambda error: None,
                    topic=f"thumbnail {series.key}",
                )
        self._list.addStretch()
        self._update()

    def _taker(self, series: Series) -> Callable[[object], None]:
        def take(sequence: object) -> None:
            for other in [s for s, taken in self._chosen.items() if taken is series]:
                del self._chosen[other]
            if isinstance(sequence, Sequence):
                self._chosen[sequence] = series
                self._by_hand.add(sequence)
            self._update()

        return take

    def _receiver(self, series: Series) -> Callable[[NDArray[np.uint8] | None], None]:
        def receive(picture: NDArray[np.uint8] | None) -> None:
            self._pictures[series.key] = picture
            for row in self.rows:
                if row.series is series:
                    row.picture.show_picture(picture)
            self._update()

        return receive

    def _update(self) -> None:
        taken = {series.key: sequence for sequence, series in self._chosen.items()}
        for row in self.rows:
            row.show_taken(taken.get(row.series.key))
        for sequence, slot in self.slots.items():
            series = self._chosen.get(sequence)
            picture = self._pictures.get(series.key) if series is not None else None
            slot.show_series(series, picture, sequence in self._by_hand)
        count = len(self._study.series)
        found = f"{count} series were found" if count != 1 else "One series was found"
        words = f"{found}; {in_words(self._chosen)} taken." if self._chosen else f"{found}; none is taken yet."
        self.words.setText(" ".join((words, *(self._study.doubts if not self._by_hand else ()))))
        self.open_button.setEnabled(bool(self._chosen))
        self.open_button.setToolTip(
            "Open these series as one patient (Enter)" if self._chosen else "Say of a series what it is first."
        )


def title_of(series: Series) -> str:
    """What a series is called on screen."""
    return f"{series.number}  {series.description or 'no description'}"


def measures_of(series: Series) -> str:
    """Plane, voxels and slices in a line."""
    x, y, z = series.spacing_mm
    slices = series.shape[2]
    return f"{series.plane}   {x:.2g} x {y:.2g} x {z:.2g} mm   {slices} slice{'s' * (slices != 1)}"


def reason_of(series: Series) -> str:
    """What it was recognised as and why, or why it was left out."""
    if series.left_out:
        return f"Left out: {series.left_out}."
    if series.sequence is None:
        return "Not recognised."
    how = sure_in_words(series)
    why = f"{series.why[:1].upper()}{series.why[1:]}." if series.why else ""
    return f"{series.sequence.title}, {how[:1].lower()}{how[1:]} {why}"


def sure_in_words(series: Series) -> str:
    """How sure the recognition is, in words and a share."""
    share = round(100 * series.sure)
    if series.sure >= SURE:
        return f"Sure ({share} %)."
    return f"Likely ({share} %)." if series.sure >= LIKELY else f"Not sure ({share} %): have a look."
