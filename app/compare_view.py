"""Two results of one patient, side by side or one behind the other with a line to draw across."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QMenu,
    QSizePolicy,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.controls import ElidedLabel, MenuButton, Segments, action, label
from app.review import Review
from app.slice_view import SliceView
from app.theme import Theme
from app.viewer_model import Side, ViewerModel


class CompareView(QWidget):
    """What is judged on the left, what it is compared with on the right, and how much they differ above.

    Attributes:
        views: Both views.

    Signals:
        browse_mask: The user wants to choose a mask to compare with.
        browse_earlier: The user wants to choose an earlier scan.
    """

    browse_mask = Signal()
    browse_earlier = Signal()

    def __init__(self, theme: Theme, model: ViewerModel, review: Review) -> None:
        super().__init__()
        self._model, self._review = model, review
        self.views = tuple(SliceView(model, model.plane, side=side) for side in Side)
        bar = QFrame()
        bar.setObjectName("bar")
        bar.setFixedHeight(40)
        row = QHBoxLayout(bar)
        row.setContentsMargins(14, 0, 10, 0)
        row.setSpacing(12)
        self.names = ElidedLabel("", "secondary")
        self.difference = label("")
        self.way = Segments(
            (
                (False, "Side by side", "Both at once"),
                (True, "Swipe", "One behind the other; draw the line across (, and .)"),
            ),
            "How to compare",
        )
        self.way.chosen.connect(lambda swiped: model.set_layout(swiped=bool(swiped)))
        self.choose_button = MenuButton(theme, "Choose what to compare with")
        self.choose_button.setText("Compare with")
        self.choose_button.setAccessibleName("Compare with")
        self.choose_button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.choose_button.clicked.connect(lambda: self._offer(self.choose_button))
        row.addWidget(self.names, 1)
        row.addWidget(self.difference)
        row.addWidget(self.way)
        row.addWidget(self.choose_button)

        self._empty = QWidget()
        self._empty.setObjectName("black")
        self._empty.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        column = QVBoxLayout(self._empty)
        column.setSpacing(14)
        column.addStretch()
        self.why_empty = label("", "onBlack", wrap=True)
        self.why_empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        # Between margins, not in the middle by itself: a label that is aligned is not given the height its lines need.
        column.setContentsMargins(32, 0, 32, 0)
        column.addWidget(self.why_empty)
        self.empty_button = MenuButton(theme, "Choose what to compare with")
        self.empty_button.setText("Compare with")
        self.empty_button.setAccessibleName("Compare with")
        self.empty_button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.empty_button.clicked.connect(lambda: self._offer(self.empty_button))
        column.addWidget(self.empty_button, 0, Qt.AlignmentFlag.AlignCenter)
        column.addStretch()

        self._right = QStackedWidget()
        self._right.addWidget(self.views[1])
        self._right.addWidget(self._empty)
        self._halves = QSplitter(Qt.Orientation.Horizontal)
        self._halves.setHandleWidth(1)
        self._halves.setChildrenCollapsible(False)
        self._halves.addWidget(self.views[0])
        self._halves.addWidget(self._right)
        self._halves.setSizes([1000, 1000])
        everything = QVBoxLayout(self)
        everything.setContentsMargins(0, 0, 0, 0)
        everything.setSpacing(0)
        everything.addWidget(bar)
        everything.addWidget(self._halves, 1)
        review.changed.connect(self.arrange)
        model.other_changed.connect(self.arrange)
        model.shown_changed.connect(self.arrange)
        self.arrange()

    @property
    def shown(self) -> list[SliceView]:
        """The views on screen."""
        return [self.views[0]] if self._swiping or self._right.currentWidget() is self._empty else list(self.views)

    @property
    def _swiping(self) -> bool:
        return self._model.swiped and self._model.other is not None

    def arrange(self) -> None:
        """Show what the model and the review say."""
        model, review = self._model, self._review
        other, plane = model.other, model.plane
        names = (review.name, other.name if other is not None else "")
        swiping = self._swiping
        both = f"{names[0]}  |  {names[1]}" if swiping else names[0]
        self.views[0].show_plane(plane, Side.MAIN, both, swiping)
        self.views[1].show_plane(plane, Side.OTHER, names[1])
        lacking = other is not None and model.layer_of(Side.OTHER, model.shown) is None
        self._right.setCurrentWidget(self._empty if other is None or lacking else self.views[1])
        self._right.setVisible(not swiping)
        if lacking and other is not None:
            self.why_empty.setText(f"{other.name} lacks the sequence that is shown. Show another one.")
        elif review.coming:
            self.why_empty.setText(f"{review.coming} is on its way.")
        else:
            self.why_empty.setText(
                "Compare with the ground truth, with another model, with a mask from a file, or with an earlier scan."
            )
        self.empty_button.setVisible(not review.coming)
        self.names.setText(f"{names[0]}  against  {names[1]}" if other is not None else names[0])
        self.difference.setText(review.difference if other is not None else "")
        self.choose_button.setEnabled(not review.coming)
        self.choose_button.setToolTip(
            f"{review.coming} is on its way." if review.coming else "Choose what to compare with"
        )
        self.way.set(model.swiped)

    def menu(self) -> QMenu:
        """Everything there is to compare with."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for offer in self._review.offers():
            entry = action(offer.title, self)
            entry.setParent(menu)
            entry.setCheckable(offer.chosen)
            entry.setChecked(offer.chosen)
            entry.triggered.connect(lambda _=False, act=offer.act: act())
            menu.addAction(entry)
        menu.addSeparator()
        for title, signal in (("A mask from a file...", self.browse_mask), ("An earlier scan...", self.browse_earlier)):
            entry = action(title, self)
            entry.setParent(menu)
            entry.triggered.connect(signal)
            menu.addAction(entry)
        if self._model.other is not None:
            menu.addSeparator()
            entry = action("Nothing", self)
            entry.setParent(menu)
            entry.triggered.connect(lambda: self._review.compare(None))
            menu.addAction(entry)
        return menu

    def _offer(self, button: QWidget) -> None:
        self.menu().popup(button.mapToGlobal(button.rect().bottomLeft()))
