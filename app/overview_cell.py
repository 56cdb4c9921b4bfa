"""The fourth cell: the scan's sequences and intensities, or what there is to know of the tumour."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QRectF, QSize, Qt, QTimer
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QAbstractButton,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.controls import Segments, label, push
from app.diagrams import Histogram, SliceProfile
from app.review import Review
from app.slice_layers import Frame, name_of, paint_small
from app.theme import LABEL_PX, Theme, body_font
from app.viewer_model import PRESETS, LayerKey, Plane, Side, ViewerModel
from engine.cut import cut_of

if TYPE_CHECKING:
    from engine.findings import Finding

REST_MS = 60


class Thumbnail(QAbstractButton):
    """One sequence at the crosshair's axial slice; a click displays it.

    Args:
        theme: The colours.
        model: What is on screen.
        key: Which layer.
    """

    def __init__(self, theme: Theme, model: ViewerModel, key: LayerKey) -> None:
        super().__init__()
        self._theme, self._model, self.key = theme, model, key
        self._name = name_of(key)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAccessibleName(f"Show {self._name}")
        self.setToolTip(f"Show {self._name}")
        self.setMinimumSize(60, 70)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.clicked.connect(lambda: model.show(key))

    def sizeHint(self) -> QSize:
        return QSize(120, 140)

    def paintEvent(self, event: QPaintEvent) -> None:
        model, c = self._model, self._theme.colours
        layer = model.layers.get(self.key)
        if layer is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        shown = model.shown == self.key
        box = QRectF(self.rect()).adjusted(1, 1, -1, -20)
        painter.fillRect(box, QColor("black"))
        cut = cut_of(layer.volume.grid, Plane.AXIAL, model.radiological)
        low, high = model.content_mm
        ends = np.array([cut.to_screen(low), cut.to_screen(high)])
        (left, top), (width, height) = ends.min(axis=0), np.ptp(ends, axis=0)
        scale = min((box.width() - 6) / max(width, 1.0), (box.height() - 6) / max(height, 1.0))
        frame = Frame(
            model=model,
            side=Side.MAIN,
            key=self.key,
            layer=layer,
            cut=cut,
            index=cut.index_of(model.crosshair),
            left=box.center().x() - (left + width / 2) * scale,
            top=box.center().y() - (top + height / 2) * scale,
            px_per_mm=scale,
            area=box,
            ratio=self.devicePixelRatioF(),
        )
        painter.save()
        painter.setClipRect(box)
        paint_small(painter, frame)
        painter.restore()
        edge = QColor(c.accent if shown or self.hasFocus() else c.hairline)
        painter.setPen(QPen(edge, 2 if self.hasFocus() else 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(box)
        painter.setFont(body_font(LABEL_PX))
        painter.setPen(QColor(c.text if shown else c.secondary))
        name = painter.fontMetrics().elidedText(self._name, Qt.TextElideMode.ElideMiddle, self.width())
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignHCenter), name)


class ScanPage(QWidget):
    """Every sequence at the crosshair, and the displayed one's intensities with its window.

    Args:
        theme: The colours.
        model: What is on screen.
        before: The widget that comes before this page in the tab order.
    """

    def __init__(self, theme: Theme, model: ViewerModel, before: QWidget) -> None:
        super().__init__()
        self._theme, self._model, self._before = theme, model, before
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self._strip_holder = QWidget()
        self._strip = QHBoxLayout(self._strip_holder)
        self._strip.setContentsMargins(0, 0, 0, 0)
        self._strip.setSpacing(8)
        column.addWidget(self._strip_holder, 62)
        head = QHBoxLayout()
        self._caption = label("", "caption")
        self.presets = Segments(
            tuple((name, name, f"{words} (W)") for name, words in zip(PRESETS, PRESET_WORDS, strict=True)), "Window"
        )
        self.presets.chosen.connect(lambda name: model.set_preset(str(name)))
        head.addWidget(self._caption)
        head.addStretch()
        head.addWidget(self.presets)
        column.addLayout(head)
        self.histogram = Histogram(theme, model)
        self.histogram.setMaximumHeight(220)
        column.addWidget(self.histogram, 44)
        # With one sequence there is less to see; it stays at the top and keeps its size.
        column.addStretch(1)
        self.thumbnails: list[Thumbnail] = []
        # While slices fly by, the big views have all the time there is; the small ones follow when it rests.
        self._resting = QTimer(self)
        self._resting.setSingleShot(True)
        self._resting.setInterval(REST_MS)
        self._resting.timeout.connect(self._redraw)
        model.layers_changed.connect(self._rebuild)
        model.crosshair_changed.connect(self._resting.start)
        for signal in (model.shown_changed, model.window_changed, model.labels_changed,
                       model.overlay_changed, model.convention_changed, theme.changed):  # fmt: skip
            signal.connect(self._redraw)
        for signal in (model.shown_changed, model.window_changed):
            signal.connect(self._update)
        self._rebuild()

    def _rebuild(self) -> None:
        for thumbnail in self.thumbnails:
            self._strip.removeWidget(thumbnail)
            thumbnail.hide()
            thumbnail.deleteLater()
        self.thumbnails = []
        # One sequence is on the big views already.
        if len(self._model.layers) > 1:
            self.thumbnails = [Thumbnail(self._theme, self._model, key) for key in self._model.layers]
        for thumbnail in self.thumbnails:
            self._strip.addWidget(thumbnail)
        if self.window() is self._before.window():
            for before, after in pairwise([self._before, *self.thumbnails, self.presets.button("Tissue")]):
                QWidget.setTabOrder(before, after)
        self._strip_holder.setVisible(bool(self.thumbnails))
        self._update()

    def _redraw(self) -> None:
        for thumbnail in self.thumbnails:
            thumbnail.update()

    def _update(self) -> None:
        shown = self._model.shown
        self._caption.setText(f"INTENSITIES  {name_of(shown)}" if shown is not None else "")
        self.presets.set(self._model.preset)


PRESET_WORDS = (
    "The window that suits the tissue",
    "Everything, the brightest included",
    "Differences among what is bright",
    "Differences among what is dark",
)


class TumourPage(QWidget):
    """What there is to know of the tumour: its diameters, its area slice by slice, and what is worth a look."""

    def __init__(self, theme: Theme, model: ViewerModel, review: Review) -> None:
        super().__init__()
        self._model, self._review = model, review
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(label("LARGEST DIAMETERS, AXIAL", "caption"))
        grid = QGridLayout()
        grid.setHorizontalSpacing(18)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(2, 1)
        self.diameters = {}
        self.measure_buttons: dict[str, QPushButton] = {}
        for row, (region, title) in enumerate((("whole_tumour", "Whole tumour"), ("core", "Core"))):
            value = label("")
            value.setAccessibleName(f"Largest diameters of the {title.lower()}")
            button = push("Show", "link", f"Go there and show the lines of the {title.lower()} (M); ends can be moved")
            button.setAccessibleName(f"Show the diameters of the {title.lower()}")
            button.clicked.connect(lambda _=False, region=region: review.show_diameters(region))
            grid.addWidget(label(title, "secondary"), row, 0)
            grid.addWidget(value, row, 1)
            grid.addWidget(button, row, 2, Qt.AlignmentFlag.AlignLeft)
            self.diameters[region], self.measure_buttons[region] = value, button
        column.addLayout(grid)
        column.addSpacing(2)
        column.addWidget(label("TUMOUR BY SLICE", "caption"))
        self.profile = SliceProfile(theme, model)
        self.profile.setMaximumHeight(110)
        column.addWidget(self.profile, 3)
        self._caption = label("", "caption")
        column.addWidget(self._caption)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        inside = QWidget()
        inside.setObjectName("cell")
        self._list = QVBoxLayout(inside)
        self._list.setContentsMargins(0, 0, 0, 0)
        self._list.setSpacing(0)
        self._list.addStretch()
        self._scroll.setWidget(inside)
        column.addWidget(self._scroll, 4)
        self.rows: list[QPushButton] = []
        review.changed.connect(self._update)
        self._update()

    def _update(self) -> None:
        review = self._review
        looked, findings = review.looked, review.findings
        for region, value in self.diameters.items():
            lines = looked.diameters.get(region) if looked is not None else None
            value.setText(
                f"{lines.longest_mm:.0f} x {lines.across_mm:.0f} mm   {lines.product_cm2:.1f} cm\u00b2"
                if lines is not None
                else "none"
                if looked is not None
                else ""
            )
            self.measure_buttons[region].setVisible(lines is not None)
        for row in self.rows[len(findings) :]:
            self._list.removeWidget(row)
            row.hide()
            row.deleteLater()
        del self.rows[len(findings) :]
        while len(self.rows) < len(findings):
            number = len(self.rows)
            row = push("", "finding")
            row.clicked.connect(lambda _=False, number=number: review.go_to_finding(number))
            self._list.insertWidget(number, row)
            self.rows.append(row)
        for number, (row, finding) in enumerate(zip(self.rows, findings, strict=True)):
            words = finding.words[:1].upper() + finding.words[1:]
            place = self._slice(finding)
            row.setText(f"{words}, {place}")
            row.setAccessibleName(f"{words}, {place}")
            row.setToolTip("Go there (N and Shift+N)")
            here = number == review.at
            if row.property("here") != here:
                row.setProperty("here", here)
                row.style().unpolish(row)
                row.style().polish(row)
            if here:
                self._scroll.ensureWidgetVisible(row)
        if self._model.mask is None:
            self._caption.setText("")
        elif looked is None:
            self._caption.setText("LOOKING THROUGH THE MASK")
        else:
            self._caption.setText(f"WORTH A LOOK  {len(findings)}" if findings else "NOTHING STANDS OUT")

    def _slice(self, finding: Finding) -> str:
        layer = self._model.layer
        if layer is None:
            return ""
        cut = cut_of(layer.volume.grid, Plane.AXIAL, self._model.radiological, self._model.nose_left)
        return f"{Plane.AXIAL.title.lower()} {cut.number_of(cut.index_of(finding.place))}"


class OverviewCell(QFrame):
    """Two pages: the scan, and once there is a mask, the tumour.

    Args:
        theme: The colours.
        model: What is on screen.
        review: What is known of the mask.
        before: The widget that comes before this cell in the tab order.
    """

    def __init__(self, theme: Theme, model: ViewerModel, review: Review, before: QWidget) -> None:
        super().__init__()
        self.setObjectName("cell")
        self._model = model
        self._had_mask = False
        column = QVBoxLayout(self)
        column.setContentsMargins(18, 10, 18, 10)
        column.setSpacing(8)
        self.pages_choice = Segments(
            (
                ("scan", "Scan", "Sequences and intensities"),
                ("tumour", "Tumour", "Diameters, area by slice, and what is worth a look"),
            ),
            "Overview",
        )
        self.scan = ScanPage(theme, model, self.pages_choice.button("tumour"))
        self.tumour = TumourPage(theme, model, review)
        column.addWidget(self.pages_choice)
        self._pages = QStackedWidget()
        self._pages.addWidget(self.scan)
        self._pages.addWidget(self.tumour)
        column.addWidget(self._pages, 1)
        self.pages_choice.chosen.connect(self._turn)
        model.labels_changed.connect(self._follow)
        model.layers_changed.connect(self._follow)
        self._follow()

    @property
    def thumbnails(self) -> list[Thumbnail]:
        """The sequences side by side."""
        return self.scan.thumbnails

    @property
    def histogram(self) -> Histogram:
        """The displayed layer's intensities."""
        return self.scan.histogram

    def _turn(self, page: object) -> None:
        self._pages.setCurrentWidget(self.tumour if page == "tumour" else self.scan)
        self.pages_choice.set(page)

    def _follow(self) -> None:
        """To the tumour when there is a first mask, back to the scan when there is none any more."""
        has_mask = self._model.mask is not None
        self.pages_choice.setVisible(has_mask)
        if has_mask != self._had_mask or not has_mask:
            self._turn("tumour" if has_mask else "scan")
        self._had_mask = has_mask
