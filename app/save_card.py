"""What to save beside the masks: ticked on one card, each with what it is for."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from app.cards import Card
from app.controls import Choice, label, push
from app.theme import Theme
from engine.dicom_seg import CARRIES_IDENTITY
from engine.errors import UserError
from engine.figures import Look
from engine.outputs import WORKING, Place, Wanted, refuse_what_cannot_be
from engine.pipeline import Worked


class SaveCard(Card):
    """Choices of `engine.outputs.Wanted`.

    Args:
        theme: The colours.
        window: What is covered.
        worked: The steps the scans went through.
        has_probabilities: Whether the result has any.
        look: Sides and brightness of the views, for pictures.
        report: Tick report and figure sheet.

    Signals:
        accepted: A `Wanted`, once the user goes on to choose a folder.
    """

    accepted = Signal(object)

    def __init__(
        self,
        theme: Theme,
        window: QWidget,
        worked: Worked,
        has_probabilities: bool,
        look: Look | None = None,
        report: bool = False,
    ) -> None:
        super().__init__(theme, window, 520, "What to save")
        self._look = look or Look()
        self._about: dict[QCheckBox, tuple[QLabel, str]] = {}
        self.body.addWidget(label("What to save", "title"))
        self.body.addWidget(label("The masks and the record of how they were made, and beside them:", "secondary"))
        self.report = self._box("Report", "A page to file: pictures, numbers, model and limits, as PDF")
        self.figure = self._box("Figure sheet", "The largest slices with outlines, for print, as PNG")
        self.title = QLineEdit()
        self.title.setPlaceholderText("Heading of both, if you want one; they name nobody otherwise")
        self.title.setAccessibleName("Heading of report and figure sheet")
        self.title.setMaxLength(120)
        indented = QHBoxLayout()
        indented.setContentsMargins(22, 0, 0, 0)
        indented.addWidget(self.title)
        self.body.addLayout(indented)
        for box in (self.report, self.figure):
            box.setChecked(report)
            box.toggled.connect(self._update_title)
        self.table = self._box("Table", "Volumes, diameters, lesions and confidence, as CSV and JSON")
        self.surfaces = self._box("Surfaces", "Whole tumour and core as STL")
        self.probabilities = self._box("Probabilities", "Of whole tumour and core, as NIfTI")
        if not has_probabilities:
            self._cannot(self.probabilities, "A case keeps the mask alone. Segment the patient again first.")
        self.dicom_seg = self._box("DICOM segmentation", CARRIES_IDENTITY)
        self._worked = worked
        self._places: list[Place] = [None, *worked.raw, WORKING]
        self.grid = Choice(theme, "The grid of probabilities and the series of the DICOM segmentation")
        self.grid.addItem(f"{worked.reference.title}, as the mask")
        self.grid.addItems([sequence.title for sequence in worked.raw])
        self.grid.addItem("The common grid")
        row = QHBoxLayout()
        row.addWidget(label("On the grid of", "secondary"))
        row.addWidget(self.grid, 1)
        self.body.addLayout(row)
        self.grid.currentIndexChanged.connect(self._update)
        self.go_on = push("Choose a folder", "primary")
        self.go_on.clicked.connect(self._accept)
        self.close_button.setText("Cancel")
        self.close_button.setObjectName("")
        self.close_button.setAccessibleName("Cancel")
        self.finish()
        last = self.body.itemAt(self.body.count() - 1)
        buttons = last.layout() if last is not None else None
        assert isinstance(buttons, QHBoxLayout)
        buttons.addWidget(self.go_on)
        self._update()
        self._update_title()

    @property
    def wanted(self) -> Wanted:
        """What is ticked."""
        return Wanted(
            probabilities=self.probabilities.isChecked(),
            dicom_seg=self.dicom_seg.isChecked(),
            surfaces=self.surfaces.isChecked(),
            table=self.table.isChecked(),
            grid=self._places[self.grid.currentIndex()],
            report=self.report.isChecked(),
            figure=self.figure.isChecked(),
            title=self.title.text().strip(),
            look=self._look,
        )

    def _box(self, title: str, words: str) -> QCheckBox:
        box = QCheckBox(title)
        box.setAccessibleName(title)
        box.setAccessibleDescription(words)
        box.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        about = label(words, "small", wrap=True)
        self._about[box] = about, words
        both = QVBoxLayout()
        both.setSpacing(0)
        both.addWidget(box)
        indented = QHBoxLayout()
        indented.setContentsMargins(22, 0, 0, 0)
        indented.addWidget(about)
        both.addLayout(indented)
        self.body.addLayout(both)
        return box

    def _update(self) -> None:
        """Whether the series of this grid can hold a DICOM segmentation."""
        try:
            refuse_what_cannot_be(Wanted(dicom_seg=True, grid=self._places[self.grid.currentIndex()]), self._worked)
        except UserError as error:
            self._cannot(self.dicom_seg, str(error))
        else:
            self.dicom_seg.setEnabled(True)
            self.dicom_seg.setToolTip("")
            about, words = self._about[self.dicom_seg]
            about.setText(words)

    def _update_title(self) -> None:
        """A heading is for what is ticked."""
        needed = self.report.isChecked() or self.figure.isChecked()
        self.title.setEnabled(needed)
        self.title.setToolTip("" if needed else "Tick Report or Figure sheet first.")

    def _cannot(self, box: QCheckBox, why: str) -> None:
        """Say why a box cannot be ticked in the place of what it is for."""
        self._about[box][0].setText(why)
        box.setChecked(False)
        box.setEnabled(False)
        box.setToolTip(why)

    def _accept(self) -> None:
        wanted = self.wanted
        self.leave()
        self.accepted.emit(wanted)
