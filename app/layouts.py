"""Which views are on screen together, and what they have in common: scale, fade, tool, and the one the keys move."""

from __future__ import annotations

import math

from PySide6.QtCore import QByteArray, QEasingCurve, Qt, QTimer, QVariantAnimation, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QSplitter, QStackedWidget, QVBoxLayout, QWidget

from app.compare_view import CompareView
from app.overview_cell import OverviewCell
from app.review import Review
from app.slice_layers import name_of
from app.slice_view import SliceView, Tool
from app.theme import Theme
from app.viewer_model import Layout, Plane, ViewerModel

FADE_MS = 120


class OrthoView(QWidget):
    """Axial and coronal above, sagittal and the fourth cell below; or one of the planes alone.

    Attributes:
        views: The three planes.
        cell: What the fourth cell holds unless it holds the surface.
    """

    def __init__(self, theme: Theme, model: ViewerModel, review: Review, surface: QWidget | None) -> None:
        super().__init__()
        self._model = model
        self.views = {plane: SliceView(model, plane) for plane in (Plane.AXIAL, Plane.CORONAL, Plane.SAGITTAL)}
        self.cell = OverviewCell(theme, model, review, self.views[Plane.SAGITTAL])
        self._surface = surface
        self._top = QSplitter(Qt.Orientation.Horizontal)
        self._bottom = QSplitter(Qt.Orientation.Horizontal)
        self._rows = QSplitter(Qt.Orientation.Vertical)
        self._top.addWidget(self.views[Plane.AXIAL])
        self._top.addWidget(self.views[Plane.CORONAL])
        self._bottom.addWidget(self.views[Plane.SAGITTAL])
        self._fourth = QStackedWidget()
        self._fourth.addWidget(self.cell)
        if surface is not None:
            self._fourth.addWidget(surface)
        self._bottom.addWidget(self._fourth)
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
        self._top.splitterMoved.connect(lambda: self._align(self._top, self._bottom))
        self._bottom.splitterMoved.connect(lambda: self._align(self._bottom, self._top))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._rows)

    @staticmethod
    def _align(moved: QSplitter, other: QSplitter) -> None:
        other.setSizes(moved.sizes())
        # The other row's cells may not be so narrow.
        moved.setSizes(other.sizes())

    @property
    def big(self) -> SliceView | None:
        """The plane that fills the view, if one does."""
        return self.views[self._model.plane] if self._model.layout is Layout.PLANE else None

    def halve(self) -> None:
        """Four cells of one size."""
        for splitter in (self._rows, self._top, self._bottom):
            splitter.setSizes([1000, 1000])

    def arrange(self) -> None:
        """Show what the model's layout asks for."""
        big = self.big
        for view in self.views.values():
            view.setVisible(big is None or view is big)
        self._fourth.setVisible(big is None)
        if self._surface is not None:
            self._fourth.setCurrentWidget(self._surface if self._model.layout is Layout.SURFACE else self.cell)
        self._top.setVisible(big is None or big.plane is not Plane.SAGITTAL)
        self._bottom.setVisible(big is None or big.plane is Plane.SAGITTAL)

    def splits(self) -> QByteArray:
        """Where the splitters are, to be remembered."""
        return QByteArray(
            b";".join(",".join(map(str, s.sizes())).encode() for s in (self._rows, self._top) if sum(s.sizes()))
        )

    def split(self, remembered: QByteArray) -> None:
        """Put the splitters where they were; four cells of one size when that cannot be read."""
        self.halve()
        parts = [part.split(b",") for part in bytes(remembered.data()).split(b";")]
        if len(parts) == 2 and all(len(p) == 2 and all(n.isdigit() and int(n) for n in p) for p in parts):
            rows, columns = ([int(n) for n in part] for part in parts)
            self._rows.setSizes(rows)
            self._top.setSizes(columns)
            self._bottom.setSizes(columns)


class SequenceGrid(QWidget):
    """The same plane of every sequence, side by side or in rows, whichever shows them larger."""

    def __init__(self, model: ViewerModel) -> None:
        super().__init__()
        self.setObjectName("lines")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._model = model
        self.views: list[SliceView] = []
        self._cells = QGridLayout(self)
        self._cells.setContentsMargins(0, 0, 0, 0)
        # The background shows through as a hairline.
        self._cells.setSpacing(1)

    def arrange(self) -> list[SliceView]:
        """One view for each layer, each of the model's plane; returns those that are new."""
        keys, new = list(self._model.layers), []
        if [view.key for view in self.views] != keys:
            for old in self.views:
                self._cells.removeWidget(old)
                old.hide()
                old.deleteLater()
            self.views = new = [SliceView(self._model, self._model.plane, key=key, title=name_of(key)) for key in keys]
            # In their order of reading, which is what the Tab key follows.
            for number, view in enumerate(self.views):
                self._cells.addWidget(view, number, 0)
        for view in self.views:
            view.show_plane(self._model.plane, title=view.title)
        self._lay_out()
        return new

    def _lay_out(self) -> None:
        if not self.views:
            return
        cut = self.views[0].cut
        wide, high = cut.size_mm if cut is not None else (1.0, 1.0)
        count = len(self.views)

        def scale(columns: int) -> float:
            rows = math.ceil(count / columns)
            return min(self.width() / columns / wide, self.height() / rows / high)

        columns = max(range(1, count + 1), key=lambda n: (scale(n), n))
        for number, view in enumerate(self.views):
            self._cells.addWidget(view, number // columns, number % columns)
        for row in range(max(self._cells.rowCount(), count)):
            self._cells.setRowStretch(row, 1 if row < math.ceil(count / columns) else 0)
        for column in range(max(self._cells.columnCount(), count)):
            self._cells.setColumnStretch(column, 1 if column < columns else 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._lay_out()


class Layouts(QStackedWidget):
    """All layouts, of which the model's is shown.

    Args:
        theme: The colours.
        model: What is on screen.
        review: What there is to compare with and to look at again.
        surface: What fills the fourth cell of `Layout.SURFACE`; without it that layout is not offered.

    Attributes:
        ortho: The three planes, or one of them.
        grid: The sequences side by side.
        compare: Two results side by side or swiped.

    Signals:
        rearranged: Other views are on screen.
    """

    rearranged = Signal()

    def __init__(self, theme: Theme, model: ViewerModel, review: Review, surface: QWidget | None = None) -> None:
        super().__init__()
        self._model = model
        self._tool: Tool | None = None
        self.ortho = OrthoView(theme, model, review, surface)
        self.grid = SequenceGrid(model)
        self.compare = CompareView(theme, model, review)
        for page in (self.ortho, self.grid, self.compare):
            self.addWidget(page)
        self.offered = tuple(layout for layout in Layout if layout is not Layout.SURFACE or surface is not None)
        self._active = self.ortho.views[Plane.AXIAL]
        self._before_big = Layout.PLANES
        self._arranged: tuple[object, ...] = ()

        # Several views are resized in one turn of the event loop; the shared scale is worked out once, after it.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._share_scale)
        self._animation = QVariantAnimation(self)
        self._animation.setDuration(FADE_MS)
        self._animation.setStartValue(0.0)
        self._animation.setEndValue(1.0)
        self._animation.setEasingCurve(QEasingCurve.Type.OutCubic)
        self._animation.valueChanged.connect(self._set_fade)
        for view in (*self.ortho.views.values(), *self.compare.views):
            self._adopt(view)
        model.layout_changed.connect(self._arrange)
        model.layers_changed.connect(self._arrange)
        model.layers_changed.connect(self._share_scale)
        model.shown_changed.connect(self._share_scale)
        model.convention_changed.connect(self._share_scale)
        model.labels_changed.connect(self._fade_in)
        self._arrange()

    # Views

    @property
    def views(self) -> list[SliceView]:
        """The views on screen."""
        if self._model.layout is Layout.SEQUENCES:
            return self.grid.views
        if self._model.layout is Layout.COMPARE:
            return self.compare.shown
        big = self.ortho.big
        return [big] if big is not None else list(self.ortho.views.values())

    @property
    def active(self) -> SliceView:
        """The view that the keys for slices move: the last one pointed at."""
        views = self.views
        return self._active if self._active in views or not views else views[0]

    def activate(self, plane: Plane) -> None:
        """Make a plane the one that the keys move, and in layouts of one plane the one that is shown."""
        self._model.set_layout(plane=plane)
        if self._model.layout in (Layout.PLANES, Layout.SURFACE):
            self._active = self.ortho.views[plane]

    @property
    def tool(self) -> Tool | None:
        """The tool in the hand of every view."""
        return self._tool

    def set_tool(self, tool: Tool | None) -> None:
        """Put a tool into the hand of every view, those to come included, or none."""
        self._tool = tool
        for view in (*self.ortho.views.values(), *self.grid.views, *self.compare.views):
            view.tool = tool

    def enlarge(self, plane: Plane | None) -> None:
        """One big view, or what there was before it."""
        if plane is None:
            self._model.set_layout(self._before_big)
        else:
            self._model.set_layout(Layout.PLANE, plane)

    def toggle_big(self, view: SliceView | None = None) -> None:
        """One big view of a plane (of the active view's when none is given), or the way back."""
        big = self._model.layout is Layout.PLANE
        self.enlarge(None if big else (view or self.active).plane)

    def _adopt(self, view: SliceView) -> None:
        view.tool = self._tool
        view.resized.connect(self._later.start)
        view.enlarged.connect(self.toggle_big)
        view.entered.connect(self._enter)

    def _enter(self, view: SliceView) -> None:
        self._active = view

    def _arrange(self) -> None:
        model = self._model
        if model.layout not in self.offered:
            model.set_layout(Layout.PLANES)
            return
        # The line of a swipe moves without anything else being different.
        arranged = (model.layout, model.plane, model.swiped, tuple(model.layers))
        if arranged == self._arranged:
            return
        self._arranged = arranged
        if model.layout is not Layout.PLANE:
            self._before_big = model.layout
        if model.layout is Layout.SEQUENCES:
            self.setCurrentWidget(self.grid)
            for view in self.grid.arrange():
                self._adopt(view)
        elif model.layout is Layout.COMPARE:
            self.setCurrentWidget(self.compare)
            self.compare.arrange()
        else:
            self.setCurrentWidget(self.ortho)
            self.ortho.arrange()
        self._later.start()
        self.rearranged.emit()

    def _share_scale(self) -> None:
        views = self.views
        if not views:
            return
        scale = min(view.fitting_scale() for view in views)
        for view in views:
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
        for view in self.views:
            view.set_fade(float(amount))
