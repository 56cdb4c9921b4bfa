"""Three planes in step, and a fourth cell."""

from __future__ import annotations

from PySide6.QtCore import QEasingCurve, Qt, QTimer, QVariantAnimation
from PySide6.QtWidgets import QSplitter, QVBoxLayout, QWidget

from app.overview_cell import OverviewCell
from app.slice_view import SliceView, Tool
from app.theme import Theme
from app.viewer_model import Plane, ViewerModel

FADE_MS = 120


class OrthoView(QWidget):
    """Axial and coronal above, sagittal and the fourth cell below, one scale for all three.

    Attributes:
        views: The three planes.
        active: The plane that the keys for slices move: the last one pointed at.
    """

    def __init__(self, theme: Theme, model: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model = model
        self.views = {plane: SliceView(model, plane) for plane in (Plane.AXIAL, Plane.CORONAL, Plane.SAGITTAL)}
        self.active = self.views[Plane.AXIAL]
        self.cell = OverviewCell(theme, model, self.views[Plane.SAGITTAL])
        self._big: SliceView | None = None
        self._had_mask = False

        self._top = QSplitter(Qt.Orientation.Horizontal)
        self._bottom = QSplitter(Qt.Orientation.Horizontal)
        self._rows = QSplitter(Qt.Orientation.Vertical)
        self._top.addWidget(self.views[Plane.AXIAL])
        self._top.addWidget(self.views[Plane.CORONAL])
        self._bottom.addWidget(self.views[Plane.SAGITTAL])
        self._bottom.addWidget(self.cell)
        for splitter in (self._top, self._bottom, self._rows):
            splitter.setHandleWidth(1)
            splitter.setChildrenCollapsible(False)
        for row in (self._top, self._bottom):
            self._rows.addWidget(row)
            row.setStretchFactor(0, 1)
            row.setStretchFactor(1, 1)
        self._rows.setStretchFactor(0, 1)
        self._rows.setStretchFactor(1, 1)
        # The two rows share one upright line, so that the planes stay in columns.
        self._top.splitterMoved.connect(lambda: self._bottom.setSizes(self._top.sizes()))
        self._bottom.splitterMoved.connect(lambda: self._top.setSizes(self._bottom.sizes()))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._rows)

        # Several views are resized in one turn of the event loop; the shared scale is worked out once, after it.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._share_scale)
        for view in self.views.values():
            view.resized.connect(self._later.start)
            view.enlarged.connect(self._toggle_big)
            view.entered.connect(self._activate)
        model.layers_changed.connect(self._share_scale)
        model.layers_changed.connect(self._fade_in)
        model.shown_changed.connect(self._share_scale)
        model.labels_changed.connect(self._fade_in)

        self._animation = QVariantAnimation(self)
        self._animation.setDuration(FADE_MS)
        self._animation.setStartValue(0.0)
        self._animation.setEndValue(1.0)
        self._animation.setEasingCurve(QEasingCurve.Type.OutCubic)
        self._animation.valueChanged.connect(self._set_fade)

    def set_tool(self, tool: Tool | None) -> None:
        """Put a tool into the hand of every view, or none."""
        for view in self.views.values():
            view.tool = tool

    @property
    def big(self) -> SliceView | None:
        """The plane that fills the view, if one does."""
        return self._big

    def halve(self) -> None:
        """Four cells of one size."""
        self._rows.setSizes([1000, 1000])
        self._top.setSizes([1000, 1000])
        self._bottom.setSizes([1000, 1000])

    def enlarge(self, plane: Plane | None) -> None:
        """One big view, or all four cells."""
        self._big = self.views[plane] if plane is not None else None
        for view in self.views.values():
            view.setVisible(self._big is None or view is self._big)
        self.cell.setVisible(self._big is None)
        top = self._big is None or self._big.plane is not Plane.SAGITTAL
        bottom = self._big is None or self._big.plane is Plane.SAGITTAL
        self._top.setVisible(top)
        self._bottom.setVisible(bottom)
        if self._big is not None:
            self.active = self._big
        self._later.start()

    def _toggle_big(self, view: SliceView) -> None:
        self.enlarge(None if self._big is not None else view.plane)

    def _activate(self, view: SliceView) -> None:
        self.active = view

    def _share_scale(self) -> None:
        shown = [view for view in self.views.values() if self._big is None or view is self._big]
        scale = min(view.fitting_scale() for view in shown)
        for view in shown:
            view.set_scale(scale)

    def _fade_in(self) -> None:
        if self._model.mask is not None and not self._model.mask_is_new:
            return
        self._animation.stop()
        if self._model.mask is not None and self.isVisible():
            self._animation.start()
        else:
            self._set_fade(1.0)

    def _set_fade(self, amount: float) -> None:
        for view in self.views.values():
            view.set_fade(float(amount))
