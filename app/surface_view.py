"""The tumour in the head, from any side.

Surfaces are worked out in jobs when the view is to be seen, and drawn by `app.surface_render`. Where there is no OpenGL
one sentence says so, and surfaces can still be saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QAccessible,
    QAccessibleAnnouncementEvent,
    QAction,
    QCloseEvent,
    QColor,
    QEnterEvent,
    QFocusEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QShowEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QMenu, QToolButton, QVBoxLayout, QWidget

from app.controls import IconButton, label
from app.jobs import Jobs
from app.picture import write as write_picture
from app.slice_layers import greys
from app.surface_render import Camera, NoOpenGL, Part, Renderer, Scene, Sheet
from app.theme import LABEL_PX, Theme, body_font
from app.viewer_model import Plane, Point, ViewerModel
from engine import surface
from engine.cut import cut_of
from engine.progress import Progress
from engine.surface import Head, Surface
from engine.volume import LabelMap, Volume

VIEWS = (
    ("Front", Camera(0, 0)),
    ("Behind", Camera(180, 0)),
    ("Left", Camera(90, 0)),
    ("Right", Camera(-90, 0)),
    ("Above", Camera(180, 90)),
    ("Below", Camera(0, -90)),
)
LETTERS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
TITLES = {"whole_tumour": "Whole tumour", "tumour_core": "Core"}
# The overlay calls the core by the shorter of its names.
OVERLAY_NAMES = {"whole_tumour": "whole_tumour", "tumour_core": "core"}

TURN_PER_PX = 0.45
TURN_BY_KEY = 15.0
ZOOM_RANGE = (0.5, 12.0)
# A picture slower than this is drawn plainer while the head is being turned.
SMOOTH_WITHIN_S = 0.03
STILL_AFTER_MS = 180
# A stroke of the brush changes the mask many times over.
SETTLED_AFTER_MS = 120
SAY_FOR_MS = 8000
CLICK_PX = 4
# Greys up to this are taken for air where a scan is shown on the planes.
AIR = 10
EMPTY = "Open a patient to see the head in 3-D."
RESEARCH_USE = "Research use only"

Recorder = Callable[[], Callable[[], Mapping[str, Any]]]


def work_out_tumour(labels: LabelMap, progress: Progress) -> dict[str, Surface]:
    """A job: the surfaces of a mask."""
    return surface.of_tumour(labels, progress)


def work_out_head(volumes: list[Volume], progress: Progress) -> Head | None:
    """A job: the surface of the brain."""
    return surface.of_head(volumes, progress)


def write_surfaces(
    surfaces: dict[str, Surface],
    folder: Path,
    name: str,
    corrected: bool,
    describe: Callable[[], Mapping[str, Any]],
    progress: Progress,
) -> list[Path]:
    """A job: one STL file a surface with its record; all or none.

    Args:
        surfaces: Ending of the file's name and surface.
        folder: Where to.
        name: What the files' names begin with.
        corrected: Whether the mask was corrected by hand.
        describe: Tells how the surfaces came about.
        progress: Checked before each file.

    Raises:
        CannotWrite: Something else of one of the names is there already, or the system refused.
    """
    from engine import provenance
    from engine.export import file_name
    from engine.files import Together, unwritten

    progress.check()
    record = describe()
    names = [f"{file_name(name)}_{ending}.stl" for ending in surfaces]
    try:
        with Together(folder) as files:
            for one, (ending, shape) in zip(names, surfaces.items(), strict=True):
                progress.check()
                provenance.spare(folder / one)
                surface.write_stl(shape, files.new(one), corrected and ending in OVERLAY_NAMES)
                provenance.put_beside(files, provenance.Made(ending, one, f"surface of {ending}"), record)
            files.release()
    except OSError as error:
        raise unwritten(folder / names[0], error) from error
    return [folder / one for one in names]


class SurfaceView(QWidget):
    """Whole tumour and core inside a brain of glass.

    Left drag turns, middle or Shift drag moves, the wheel zooms, a click on the tumour puts the crosshair there.

    Args:
        theme: The colours.
        model: What is on screen.
        jobs: The way off the UI thread.
        recorder: Gives what tells how that which is on screen now came about, for the records of what is saved.

    Attributes:
        patient: What saved files are called.

    Signals:
        enlarged: A double click asked for one big view, or for the way back.
        entered: The pointer or the focus came here.
        failed: What went wrong while doing what, for the window to show.
    """

    enlarged = Signal(object)
    entered = Signal(object)
    failed = Signal(object, str)

    def __init__(
        self, theme: Theme, model: ViewerModel, jobs: Jobs, recorder: Recorder, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.patient = "patient"
        self._theme, self._model, self._jobs, self._recorder = theme, model, jobs, recorder
        self._renderer: Renderer | None = None
        self._refused: NoOpenGL | None = None
        self._tumour: dict[str, Surface] = {}
        self._head: Head | None = None
        self._tumour_stale = self._head_stale = True
        self._working: set[str] = set()
        self._camera = self._first_camera()
        self._turned = False
        self._brain_shown = True
        self._planes_shown = True
        self._slices_shown = False
        self._picture: tuple[object, QImage] | None = None
        self._last_s = 0.0
        self._moving = False
        self._by_key = False
        self._held = Qt.MouseButton.NoButton
        self._pressed_at = self._last = QPointF()
        self._wheel = 0.0
        self._said = ""

        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(160, 140)
        self.setCursor(Qt.CursorShape.OpenHandCursor)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        self.setAccessibleName("3-D view")
        self.setToolTip("")

        self._make_buttons()
        self._settled = _timer(self, SETTLED_AFTER_MS, self._work_out)
        self._still = _timer(self, STILL_AFTER_MS, self._come_to_rest)
        self._silence = _timer(self, SAY_FOR_MS, lambda: self._say(""))
        model.layers_changed.connect(self._new_layers)
        model.labels_changed.connect(self._new_labels)
        model.convention_changed.connect(self._new_convention)
        for signal in (model.crosshair_changed, model.overlay_changed, model.shown_changed, model.window_changed,
                       theme.changed):  # fmt: skip
            signal.connect(self._redraw)
        self._redraw()

    # Buttons

    def _make_buttons(self) -> None:
        self.brain_button = IconButton(self._theme, "brain", "Hide the brain")
        self.planes_button = IconButton(self._theme, "crosshair", "Crosshair planes")
        self.slices_button = IconButton(self._theme, "image", "Scans on the planes")
        self.views_button = IconButton(self._theme, "compass", "Look from")
        self.save_button = IconButton(self._theme, "download-simple", "Save picture or surfaces")
        for button, shown_now, act in (
            (self.brain_button, self._brain_shown, self.show_brain),
            (self.planes_button, self._planes_shown, self.show_planes),
            (self.slices_button, self._slices_shown, self.show_slices),
        ):
            button.setCheckable(True)
            button.setChecked(shown_now)
            button.clicked.connect(act)
        self.view_actions = {}
        views = QMenu(self)
        for name, camera in VIEWS:
            entry = QAction(name, self)
            entry.triggered.connect(partial(self._look_from, camera))
            views.addAction(entry)
            self.view_actions[name] = entry
        views.addSeparator()
        whole = QAction("Whole head again", self)
        whole.triggered.connect(self.reset)
        views.addAction(whole)
        self.views_button.setMenu(views)
        saves = QMenu(self)
        self.picture_action = QAction("Save picture...", self)
        self.picture_action.triggered.connect(self.save_picture)
        self.surfaces_action = QAction("Save surfaces as STL...", self)
        self.surfaces_action.triggered.connect(self.save_surfaces)
        saves.setToolTipsVisible(True)
        saves.addActions([self.picture_action, self.surfaces_action])
        self.save_button.setMenu(saves)
        for button in (self.views_button, self.save_button):
            button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)

        column = QVBoxLayout(self)
        column.setContentsMargins(10, 6, 6, 10)
        row = QHBoxLayout()
        row.setSpacing(2)
        row.addStretch()
        self.buttons = (self.brain_button, self.planes_button, self.slices_button, self.views_button, self.save_button)
        for button in self.buttons:
            row.addWidget(button)
        column.addLayout(row)
        column.addStretch()
        self.message = label("", "secondary", wrap=True)
        self.message.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.message.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        column.addWidget(self.message)
        column.addStretch()

    # What is seen

    @property
    def camera(self) -> Camera:
        """From where the head is looked at."""
        return self._camera

    @property
    def surfaces(self) -> dict[str, Surface]:
        """What there is to see, by name: ``"whole_tumour"``, ``"tumour_core"`` and ``"brain"`` or ``"head"``."""
        found = dict(self._tumour)
        if self._head is not None:
            found["head" if self._head.skull_on else "brain"] = self._head.surface
        return found

    @property
    def ready(self) -> bool:
        """Whether everything that is to be seen has been worked out."""
        return not (self._working or self._tumour_stale or self._head_stale)

    @property
    def refused(self) -> NoOpenGL | None:
        """Why nothing can be drawn, if so."""
        return self._refused

    def show_brain(self, shown_now: bool) -> None:
        """Draw the brain, or the tumour alone."""
        self._brain_shown = shown_now
        self.brain_button.setChecked(shown_now)
        self.brain_button.say("Hide the brain" if shown_now else "Show the brain")
        self._redraw()

    def show_planes(self, shown_now: bool) -> None:
        """Draw the planes of the crosshair."""
        self._planes_shown = shown_now
        self.planes_button.setChecked(shown_now)
        if not shown_now:
            self._slices_shown = False
            self.slices_button.setChecked(False)
        self._redraw()

    def show_slices(self, shown_now: bool) -> None:
        """Draw the scan on the planes."""
        self._slices_shown = shown_now
        self.slices_button.setChecked(shown_now)
        if shown_now:
            self.show_planes(True)
        self._redraw()

    def reset(self) -> None:
        """The whole head again, from where it was first seen."""
        self._turned = False
        self._look(self._first_camera())

    def _look_from(self, camera: Camera) -> None:
        self._turned = True
        self._look(replace(camera, zoom=self._camera.zoom, shift=self._camera.shift))

    def _look(self, camera: Camera) -> None:
        elevation = float(np.clip(camera.elevation, -90, 90))
        azimuth = (camera.azimuth + 180) % 360 - 180
        zoom = float(np.clip(camera.zoom, *ZOOM_RANGE))
        self._camera = replace(camera, azimuth=azimuth, elevation=elevation, zoom=zoom)
        self._redraw()

    def _first_camera(self) -> Camera:
        # As the planes show it: facing the patient, whose left is then on the right, or standing behind.
        return Camera(-28, 16) if self._model.radiological else Camera(208, 16)

    def _new_convention(self) -> None:
        if not self._turned:
            self._camera = self._first_camera()
        self._redraw()

    # Working out

    def _new_layers(self) -> None:
        self._head, self._tumour = None, {}
        self._head_stale = self._tumour_stale = True
        self._say("")
        for what in ("head", "tumour"):
            self._drop(what)
        self._later()

    def _new_labels(self) -> None:
        self._tumour_stale = True
        self._drop("tumour")
        if self._model.labels is None:
            self._tumour = {}
        self._later()

    def _later(self) -> None:
        self._redraw()
        if self.isVisible():
            self._settled.start()

    def _drop(self, what: str) -> None:
        self._jobs.drop(self._topic(what))
        self._working.discard(what)

    def _topic(self, what: str) -> str:
        return f"3-D {what} {id(self)}"

    def _work_out(self) -> None:
        """Start what is missing; a view that nobody sees costs nothing."""
        if not self.isVisible():
            return
        labels, volumes = self._model.labels, [layer.volume for layer in self._model.layers.values()]
        if self._tumour_stale:
            self._tumour_stale = False
            if labels is None:
                self._tumour = {}
            else:
                self._start("tumour", work_out_tumour, labels, self._have_tumour)
        if self._head_stale:
            self._head_stale = False
            if volumes:
                self._start("head", work_out_head, volumes, self._have_head)
        self._redraw()

    def _start(self, what: str, function: Callable[..., object], of: object, then: Callable[..., None]) -> None:
        self._working.add(what)

        def finished(value: object) -> None:
            self._working.discard(what)
            then(value)

        def failed(error: Exception) -> None:
            self._working.discard(what)
            self._redraw()
            self.failed.emit(error, "Working out the surfaces stopped")

        self._jobs.run(function, of, on_finished=finished, on_failed=failed, topic=self._topic(what))

    def _have_tumour(self, surfaces: dict[str, Surface]) -> None:
        self._tumour = surfaces
        self._redraw()

    def _have_head(self, head: Head | None) -> None:
        self._head = head
        self._redraw()

    # Drawing

    def _redraw(self) -> None:
        words = self._message()
        self.message.setText(words)
        self.message.setVisible(bool(words))
        drawable = self._refused is None and bool(self._model.layers)
        why = str(self._refused) if self._refused is not None else EMPTY
        for button, tip in (
            (self.brain_button, "Hide the brain" if self._brain_shown else "Show the brain"),
            (self.planes_button, "Crosshair planes"),
            (self.slices_button, "Scans on the planes"),
            (self.views_button, "Look from"),
        ):
            button.setEnabled(drawable)
            button.say(tip)
            if not drawable:
                button.setToolTip(why)
        self.save_button.setEnabled(bool(self.surfaces))
        self.save_button.setToolTip("Save picture or surfaces" if self.surfaces else why)
        self.picture_action.setEnabled(drawable)
        self.picture_action.setToolTip("" if drawable else why)
        self._describe()
        self.update()

    def _message(self) -> str:
        if not self._model.layers:
            return EMPTY
        if self._refused is not None:
            return str(self._refused)
        if not self.surfaces and self._working:
            return "Working out the surfaces"
        if not self.surfaces and self.ready:
            return "There is nothing in these scans to draw in 3-D."
        return ""

    def _describe(self) -> None:
        if self._message():
            words = self._message()
        else:
            names = [TITLES.get(name, name).lower() for name in self._seen()]
            what = ", ".join(names) if names else "nothing"
            words = f"{what}, seen from {self._camera.words}"
            if self._model.labels is None:
                words += "; segment to see the tumour inside"
        if words != self.accessibleDescription():
            self.setAccessibleDescription(words)

    def _seen(self) -> list[str]:
        overlay = self._model.overlay
        names = [name for name in self._tumour if overlay.visible and getattr(overlay, f"{OVERLAY_NAMES[name]}_shown")]
        if self._head is not None and self._brain_shown:
            names.append("head" if self._head.skull_on else "brain")
        return names

    def scene(self) -> Scene:
        """What is drawn now."""
        overlay, dark = self._model.overlay, self._dark
        seen, parts = self._seen(), []
        if "tumour_core" in seen:
            parts.append(Part(self._tumour["tumour_core"], overlay.core))
        if "whole_tumour" in seen:
            # Alone it is solid; around a core it is glass, as thick as the fill is in the planes.
            opacity = 0.06 + 0.24 * overlay.opacity if "tumour_core" in seen else 1.0
            parts.append(Part(self._tumour["whole_tumour"], overlay.whole_tumour, opacity, 0.55, 0.12))
        if self._head is not None and self._brain_shown:
            glass = (0.15, 0.62, 0.16) if dark else (0.05, 0.75, 0.05)
            parts.append(Part(self._head.surface, "#D3DCE8" if dark else "#5B6675", *glass))
        low, high = self._model.content_mm
        # A head is rounder than its box.
        centre, radius = (low + high) / 2, float((high - low).max()) / 2
        return Scene(tuple(parts), tuple(self._sheets(dark)), self._background, centre, max(radius, 1.0) * 1.1)

    def _sheets(self, dark: bool) -> list[Sheet]:
        layer, key = self._model.layer, self._model.shown
        if not self._planes_shown or layer is None or key is None:
            return []
        grid = layer.volume.grid
        low, high = self._model.content_mm
        corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
        voxels = grid.to_voxel(corners)
        first = np.clip(voxels.min(axis=0), -0.5, np.array(grid.shape) - 0.5)
        last = np.clip(voxels.max(axis=0), -0.5, np.array(grid.shape) - 0.5)
        here = grid.to_voxel(self._model.crosshair[None])[0]
        sheets = []
        for plane in Plane:
            # Always the radiological cut: it only decides in which order the corners go around.
            cut = cut_of(grid, plane, True)
            (column, flipped_columns), (row, flipped_rows) = cut.columns, cut.rows
            around, places = [], []
            for right, down in ((0, 0), (1, 0), (1, 1), (0, 1)):
                voxel = here.copy()
                voxel[column] = (first if bool(right) == flipped_columns else last)[column]
                voxel[row] = (first if bool(down) == flipped_rows else last)[row]
                around.append(voxel)
                x, y = (voxel[column] + 0.5) / grid.shape[column], (voxel[row] + 0.5) / grid.shape[row]
                places.append((1 - x if flipped_columns else x, 1 - y if flipped_rows else y))
            picture = None
            if self._slices_shown:
                drawn = cut.extract(layer.volume.data, cut.index_of(self._model.crosshair))
                picture = _without_air(greys(drawn, self._model.window_of(key)))
            edge = "#FFFFFF" if dark else "#1B2430"
            sheets.append(Sheet(grid.to_world(np.array(around)), edge, 0.34, picture, np.array(places)))
        return sheets

    def _drawn(self, size: QSize, smooth: bool) -> QImage | None:
        """The surfaces as a picture of this size, or None where nothing can be drawn."""
        if self._refused is not None:
            return None
        try:
            if self._renderer is None:
                self._renderer = Renderer()
            return self._renderer.draw(self.scene(), self._camera, size, smooth)
        except NoOpenGL as refusal:
            # Without its traceback, which would keep everything alive that was being drawn.
            self._refused = refusal.with_traceback(None)
            self.release()
            # Not while painting: the sentence is a label of its own.
            QTimer.singleShot(0, self, self._redraw)
            return None

    def paintEvent(self, event: QPaintEvent) -> None:
        # The surfaces first: a painter that is open when something fails takes the window down with it.
        drawn = self._next_picture() if self._model.layers and self.surfaces else None
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(self._background))
        if drawn is not None:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            painter.drawImage(QRectF(self.rect()), drawn, QRectF(drawn.rect()))
            self._annotate(painter, QRectF(self.rect()))
        if self._by_key and self.hasFocus():
            painter.setPen(QPen(self.palette().highlight().color(), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def _next_picture(self) -> QImage | None:
        """The surfaces at the view's size; plainer while the head is turned where the machine is slow."""
        ratio = self.devicePixelRatioF()
        plain = self._moving and self._last_s > SMOOTH_WITHIN_S
        size = QSize(max(1, round(self.width() * ratio)), max(1, round(self.height() * ratio)))
        if plain and self._last_s > 3 * SMOOTH_WITHIN_S:
            size /= 2
        started = time.perf_counter()
        drawn = self._drawn(size, smooth=not plain)
        if not plain:
            self._last_s = time.perf_counter() - started
        return drawn

    @property
    def _dark(self) -> bool:
        return QColor(self._theme.colours.background).lightness() < 128

    @property
    def _background(self) -> str:
        # Black as the planes in the dark; in the light a head of glass is better seen against light.
        return "#000000" if self._dark else self._theme.colours.background

    def _annotate(self, painter: QPainter, area: QRectF) -> None:
        ink = QColor("white" if self._dark else self._theme.colours.text)
        scene = self.scene()
        self._draw_letters(painter, area, scene, ink)
        soft = QColor(ink)
        soft.setAlphaF(0.7)
        painter.setPen(soft)
        painter.setFont(body_font(LABEL_PX))
        words = self._said or f"3-D   from {self._camera.words}"
        room = area.width() - 30 - sum(button.width() + 2 for button in self.buttons)
        words = painter.fontMetrics().elidedText(words, Qt.TextElideMode.ElideRight, int(max(60, room)))
        painter.drawText(
            area.adjusted(10, 12, -10, -8), int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop), words
        )
        if self._model.labels is None and self.ready:
            painter.drawText(
                area.adjusted(10, 8, -10, -10),
                int(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignBottom),
                "Segment to see the tumour inside.",
            )

    def _draw_letters(self, painter: QPainter, area: QRectF, scene: Scene, ink: QColor) -> None:
        low, high = self._model.content_mm
        layer = self._model.layer
        mark = "" if layer is None or layer.volume.oriented else "?"
        reach = (high - low) / 2 + 9
        directions = np.array(list(LETTERS.values()), np.float64)
        places, _ = self._camera.project(
            scene.centre + directions * reach, scene.centre, scene.radius, area.width(), area.height()
        )
        facing = directions @ self._camera.towards
        painter.setFont(body_font(12, medium=True))
        for name, place, turned in zip(LETTERS, places, facing, strict=True):
            # A letter over or behind the middle of the head would only cover it.
            strength = float(np.clip((0.93 - abs(turned)) / 0.35, 0, 1)) * (0.75 if turned >= -0.2 else 0.5)
            if strength <= 0.02:
                continue
            colour = QColor(ink)
            colour.setAlphaF(strength)
            painter.setPen(colour)
            box = QRectF(place[0] - 12, place[1] - 10, 24, 20)
            painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), name + mark)

    # Saving

    def picture(self, size: QSize) -> QImage | None:
        """The view as it is saved: with what the colours are, and that it is for research use only.

        Args:
            size: In pixels.
        """
        from engine.provenance import version

        drawn = self._drawn(size, smooth=True)
        if drawn is None:
            return None
        scale = size.height() / 700
        painter = QPainter(drawn)
        painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.TextAntialiasing)
        painter.scale(scale, scale)
        area = QRectF(0, 0, size.width() / scale, size.height() / scale)
        ink = QColor("white" if self._dark else self._theme.colours.text)
        self._draw_letters(painter, area, self.scene(), ink)
        ink.setAlphaF(0.75)
        painter.setFont(body_font(13))
        painter.setPen(ink)
        box = area.adjusted(18, 16, -18, -16)
        top, bottom = Qt.AlignmentFlag.AlignTop, Qt.AlignmentFlag.AlignBottom
        left, right = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight
        painter.drawText(box, int(left | top), f"3-D   from {self._camera.words}")
        parts = (self._model.corrections_in_words.capitalize(), f"Gliascope {version()}", RESEARCH_USE)
        painter.drawText(box, int(right | bottom), "  \u00b7  ".join(filter(None, parts)))
        x = box.left()
        for name in (name for name in self._seen() if name in TITLES):
            overlay, words = self._model.overlay, f"{TITLES[name]} {self._tumour[name].ml:.1f} ml"
            painter.fillRect(QRectF(x, box.bottom() - 13, 11, 11), QColor(getattr(overlay, OVERLAY_NAMES[name])))
            painter.drawText(QRectF(x + 18, box.top(), 400, box.height()), int(left | bottom), words)
            x += 18 + painter.fontMetrics().horizontalAdvance(words) + 22
        painter.end()
        return drawn

    def save_picture(self) -> None:
        """Ask where to, and save the view as PNG, at least 1600 pixels wide."""
        from engine.export import file_name

        proposed = Path.home() / f"{file_name(self.patient)}_3d.png"
        name, _ = QFileDialog.getSaveFileName(self, "Save the picture", str(proposed), "Picture (*.png)")
        if not name:
            return
        path = Path(name) if name.lower().endswith(".png") else Path(name + ".png")
        width = max(1600, round(self.width() * self.devicePixelRatioF()))
        picture = self.picture(QSize(width, round(width * self.height() / max(1, self.width()))))
        if picture is None:
            return
        self._jobs.run(
            write_picture,
            picture,
            path,
            "picture in 3-D",
            self._recorder(),
            on_finished=lambda _: self._say(f"Saved {path.name}"),
            on_failed=lambda error: self.failed.emit(error, "Saving the picture stopped"),
        )

    def save_surfaces(self) -> None:
        """Ask where to, and save every surface as STL."""
        name = QFileDialog.getExistingDirectory(self, "Save the surfaces in a folder", str(Path.home()))
        if not name:
            return
        self._jobs.run(
            write_surfaces,
            self.surfaces,
            Path(name),
            self.patient,
            bool(self._model.corrections),
            self._recorder(),
            on_finished=lambda paths: self._say("Saved " + ", ".join(path.name for path in paths)),
            on_failed=lambda error: self.failed.emit(error, "Saving the surfaces stopped"),
        )

    def _say(self, words: str) -> None:
        self._said = words
        if words:
            self._silence.start()
            QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(self, words))
        self.update()

    def release(self) -> None:
        """Give the graphics card back; drawing again takes it anew."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    # Pointer and keys

    def _stir(self) -> None:
        self._moving = True
        self._still.start()

    def _come_to_rest(self) -> None:
        self._moving = False
        self.update()

    def _turn(self, across: float, down: float) -> None:
        self._turned = True
        self._stir()
        self._look(
            replace(self._camera, azimuth=self._camera.azimuth + across, elevation=self._camera.elevation + down)
        )

    def _move(self, right: float, up: float) -> None:
        x, y = self._camera.shift
        self._stir()
        self._look(replace(self._camera, shift=(float(np.clip(x + right, -2, 2)), float(np.clip(y + up, -2, 2)))))

    def _zoom(self, factor: float) -> None:
        self._stir()
        self._look(replace(self._camera, zoom=self._camera.zoom * factor))

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.accept()
        self._zoom(1.0015 ** (event.angleDelta().y() or event.angleDelta().x()))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        event.accept()
        self._by_key = False
        self._pressed_at = self._last = event.position()
        self._held = event.button()
        if self._held == Qt.MouseButton.LeftButton and event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self._held = Qt.MouseButton.MiddleButton
        self.setCursor(Qt.CursorShape.ClosedHandCursor)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        event.accept()
        moved = event.position() - self._last
        self._last = event.position()
        height = max(1, self.height())
        if self._held == Qt.MouseButton.LeftButton:
            if (event.position() - self._pressed_at).manhattanLength() > CLICK_PX:
                self._turn(-moved.x() * TURN_PER_PX, moved.y() * TURN_PER_PX)
        elif self._held == Qt.MouseButton.MiddleButton:
            self._move(moved.x() / height, -moved.y() / height)
        elif self._held == Qt.MouseButton.RightButton:
            self._zoom(1.006 ** -moved.y())

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        event.accept()
        clicked = (event.position() - self._pressed_at).manhattanLength() <= CLICK_PX
        if self._held == Qt.MouseButton.LeftButton and clicked:
            place = self.place_at(event.position())
            if place is not None:
                self._model.move_crosshair(place)
        self._held = Qt.MouseButton.NoButton
        self.setCursor(Qt.CursorShape.OpenHandCursor)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        event.accept()
        if event.button() == Qt.MouseButton.LeftButton:
            self.enlarged.emit(self)
        elif event.button() == Qt.MouseButton.MiddleButton:
            self.reset()

    def place_at(self, position: QPointF) -> Point | None:
        """The place in mm on the tumour that is seen at a pixel; None where there is none."""
        scene = self.scene()
        best, depth = None, 1.0
        for name in self._seen():
            if name not in self._tumour:
                continue
            points = self._tumour[name].points
            places, depths = self._camera.project(points, scene.centre, scene.radius, self.width(), self.height())
            near = np.flatnonzero(((places - (position.x(), position.y())) ** 2).sum(axis=1) < 6.0**2)
            if near.size and depths[near].min() < depth:
                chosen = near[np.argmin(depths[near])]
                best, depth = points[chosen], float(depths[chosen])
        return best

    def event(self, event: QEvent) -> bool:
        # Keys that mean something here as well as in the window are ours while the focus is.
        if event.type() is QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent) and self._act_of(event):
            event.accept()
            return True
        return super().event(event)

    def _act_of(self, event: QKeyEvent) -> Callable[[], None] | None:
        key, shift = event.key(), bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if event.modifiers() & (Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier):
            return None
        step = TURN_BY_KEY / 3 if shift else TURN_BY_KEY
        plain: dict[int, Callable[[], None]] = {
            Qt.Key.Key_Left: lambda: self._turn(step, 0),
            Qt.Key.Key_Right: lambda: self._turn(-step, 0),
            Qt.Key.Key_Up: lambda: self._turn(0, -step),
            Qt.Key.Key_Down: lambda: self._turn(0, step),
            Qt.Key.Key_Plus: lambda: self._zoom(1.2),
            Qt.Key.Key_Equal: lambda: self._zoom(1.2),
            Qt.Key.Key_Minus: lambda: self._zoom(1 / 1.2),
            Qt.Key.Key_0: self.reset,
        }
        return plain.get(key)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        act = self._act_of(event)
        if act is None or self._refused is not None:
            super().keyPressEvent(event)
            return
        event.accept()
        act()

    # Coming and going

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._work_out()

    def closeEvent(self, event: QCloseEvent) -> None:
        self.release()
        super().closeEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.update()

    def enterEvent(self, event: QEnterEvent) -> None:
        self.entered.emit(self)
        super().enterEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        self._by_key = event.reason() in (
            Qt.FocusReason.TabFocusReason,
            Qt.FocusReason.BacktabFocusReason,
            Qt.FocusReason.ShortcutFocusReason,
        )
        self.entered.emit(self)
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(480, 400)


def _without_air(grey: NDArray[np.uint8]) -> QImage:
    """A slice ``(rows, columns)``, clear where it is as dark as air."""
    rows, columns = grey.shape
    solid = grey > AIR
    pixels = np.zeros((rows, columns, 4), np.uint8)
    pixels[..., :3] = np.where(solid, grey, 0)[..., None]
    pixels[..., 3] = np.where(solid, 255, 0)
    # Qt does not keep the array alive; what is returned is a copy of its own.
    return QImage(pixels.data, columns, rows, 4 * columns, QImage.Format.Format_RGBA8888).copy()


def _timer(owner: QWidget, milliseconds: int, act: Callable[[], object]) -> QTimer:
    timer = QTimer(owner)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(act)
    return timer
