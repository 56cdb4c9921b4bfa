"""Pictures of a result for paper and screen: one plane, or a sheet of the largest slices, as PNG or on a page.

Everything is laid out in mm of the paper and put on a `Canvas`, of which there are two: the one here makes pixels, that
of `engine.report` a PDF with outlines as lines. Scans are interpolated cubically to the pixels of the print, each axis
by its own spacing; outlines run through the middles of the voxel sides that part inside from outside, so that every
corner of them lies on the mask's border. No crosshair, no name, no path.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.brightness import Brightness, Window
from engine.cut import Cut, Plane, scale_bar
from engine.errors import CannotWrite
from engine.files import shown, whole_file
from engine.model_card import RESEARCH_USE
from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, LabelMap, Mask, Sequence, Volume, bounding_box, in_order

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Colour = tuple[int, int, int]
Line = NDArray[np.float64]
Align = Literal["left", "centre", "right"]
Area = tuple[float, float, float, float]

PRINT_DPI = 300.0
# Two columns of most journals.
SHEET_MM = 180.0
MM_PER_INCH = 25.4
MM_PER_POINT = MM_PER_INCH / 72
FONTS = Path(__file__).resolve().parent.parent / "assets" / "fonts"

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
INK: Colour = (27, 36, 48)
FAINT: Colour = (91, 102, 117)
HAIRLINE: Colour = (213, 219, 227)
MARK: Colour = (205, 210, 217)
# Okabe and Ito's, as in the window.
SKY: Colour = (86, 180, 233)
ORANGE: Colour = (230, 159, 0)

# Around the head, so that letters lie beside it, in mm of the patient.
_MARGIN_MM = 11.0
# A neck below the head is no part of the picture: no more height than this many times its length.
_TALLEST = 1.0
_OUTLINE_PT = 0.75
_MARK_PT = 5.5
_HEAD_PT = 7.0
_CAPTION_PT = 6.5
_GAP_MM = 1.2
# Lines are drawn with so many pixels in one.
_FINER = 4
_ORDER = (Plane.AXIAL, Plane.CORONAL, Plane.SAGITTAL)


@dataclass(frozen=True)
class Region:
    """What is drawn of a label map.

    Attributes:
        title: For the legend.
        colour: Red, green and blue, 0..255.
        labels: The values that belong to it.
        fill: How much of the scan its fill covers, 0..1; 0 draws the outline alone.
    """

    title: str
    colour: Colour
    labels: tuple[int, ...]
    fill: float = 0.0

    def mask(self, data: NDArray[np.uint8]) -> Mask:
        """Where an array holds the region."""
        inside: Mask = np.isin(data, self.labels)
        return inside


TUMOUR = (
    Region("Whole tumour", SKY, (TUMOUR_CORE, REST_OF_WHOLE_TUMOUR)),
    Region("Core", ORANGE, (TUMOUR_CORE,)),
)


@dataclass(frozen=True)
class Look:
    """Sides and brightness of pictures.

    Attributes:
        radiological: Whether the patient's left is on the right of axial and coronal pictures.
        nose_left: Whether the face looks to the left of sagittal pictures.
        windows: Brightness of each scan; one that suits the tissue where none is given.
    """

    radiological: bool = True
    nose_left: bool = True
    windows: Mapping[Sequence, Window] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class View:
    """One slice and the part of it that is shown.

    Attributes:
        cut: How it lies on the paper.
        index: Which slice, along the array's axis.
        box: Left, top, width and height of what is shown, in mm of the slice from its top left corner; may reach
            beyond the slice.
    """

    cut: Cut
    index: int
    box: Area

    def filling(self, width: float, height: float) -> View:
        """The same slice with more or less around it, so many mm wide and high, its middle in the middle."""
        left, top, was_wide, was_high = self.box
        return View(self.cut, self.index, (left + (was_wide - width) / 2, top + (was_high - height) / 2, width, height))

    @property
    def words(self) -> str:
        """``"Axial 82 of 155"``."""
        return f"{self.cut.plane.title} {self.cut.number_of(self.index)} of {self.cut.grid.shape[self.cut.normal]}"


@dataclass(frozen=True, eq=False)
class Scene:
    """What pictures are made of.

    Attributes:
        scans: On the grid of the labels.
        labels: Gliascope's, or any that ``regions`` speak of.
        regions: What is outlined, the later ones on top.
        look: Sides and brightness.

    Raises:
        ValueError: There is no scan, or one lies on another grid.
    """

    scans: Mapping[Sequence, Volume]
    labels: LabelMap
    regions: tuple[Region, ...] = TUMOUR
    look: Look = field(default_factory=Look)

    def __post_init__(self) -> None:
        if not self.scans:
            raise ValueError("a picture needs a scan")
        if not all(scan.grid.same_as(self.labels.grid) for scan in self.scans.values()):
            raise ValueError("a scan does not lie on the grid of the labels")

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """The scans there are, in their fixed order."""
        return in_order(self.scans)

    @property
    def main(self) -> Sequence:
        """The scan on which a tumour is seen best: FLAIR, then T1ce, T2, T1."""
        return next(s for s in (Sequence.FLAIR, Sequence.T1CE, Sequence.T2, Sequence.T1) if s in self.scans)

    @cached_property
    def shown(self) -> Mapping[Sequence, Window]:
        """The brightness of each scan."""
        return {s: self.look.windows.get(s) or self._brightness[s].window for s in self.sequences}

    @cached_property
    def _brightness(self) -> Mapping[Sequence, Brightness]:
        return {sequence: Brightness.of(self.scans[sequence]) for sequence in self.sequences}

    @cached_property
    def empty(self) -> bool:
        """Whether there is nothing to outline."""
        return not any(region.mask(self.labels.data).any() for region in self.regions)

    @property
    def about(self) -> str:
        """Which slices are shown, as a sentence."""
        if self.empty:
            return "Nothing is outlined; slices through the middle of the head."
        whole = self.regions[0].title.lower() if self.regions is TUMOUR else "outlined regions"
        return f"In each plane the slice with most of the {whole}."

    @cached_property
    def views(self) -> Mapping[Plane, View]:
        """For each plane the slice with most of the regions on it, or the middle of the head where there are none."""
        return {plane: self.view(plane) for plane in _ORDER}

    def view(self, plane: Plane, index: int | None = None) -> View:
        """The head on a slice: the given one, or that with most of the regions on it."""
        cut = Cut(self.labels.grid, plane, self.look.radiological, self.look.nose_left)
        corners = self._box_mm
        if index is None:
            areas = self._areas[cut.normal]
            index = int(areas.argmax()) if areas.any() else cut.index_of(corners.mean(axis=0))
        every = np.array([[x, y, z] for x in corners[:, 0] for y in corners[:, 1] for z in corners[:, 2]])
        places = np.array([cut.to_screen(corner) for corner in every])
        (left, top), (right, bottom) = places.min(axis=0), places.max(axis=0)
        return View(cut, index, (float(left), float(top), float(right - left), float(bottom - top)))

    @cached_property
    def _areas(self) -> tuple[NDArray[np.intp], ...]:
        """Of all regions, voxels on each slice, along each array axis."""
        inside = np.logical_or.reduce([region.mask(self.labels.data) for region in self.regions])
        return tuple(np.count_nonzero(inside, axis=tuple({0, 1, 2} - {axis})) for axis in range(3))

    @cached_property
    def _box_mm(self) -> NDArray[np.float64]:
        """``(2, 3)``: opposite corners in the world of what every picture shows."""
        boxes = np.stack([b.content_mm for b in self._brightness.values()])
        low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
        low[2] = max(low[2], high[2] - _TALLEST * max(high[1] - low[1], high[0] - low[0]))
        found = bounding_box(np.logical_or.reduce([region.mask(self.labels.data) for region in self.regions]))
        if found is not None:
            ends = np.array([[part.start - 0.5, part.stop - 0.5] for part in found])
            corners = np.array([[i, j, k] for i in ends[0] for j in ends[1] for k in ends[2]])
            world = self.labels.grid.to_world(corners)
            low, high = np.minimum(low, world.min(axis=0)), np.maximum(high, world.max(axis=0))
        return np.stack([low - _MARGIN_MM, high + _MARGIN_MM])

    def sides(self, planes: tuple[Plane, ...] = tuple(Plane)) -> str:
        """On which side is what, as a sentence."""
        said = []
        if set(planes) - {Plane.SAGITTAL}:
            said.append(
                "Radiological: the patient's left is on the right"
                if self.look.radiological
                else "Neurological: the patient's left is on the left"
            )
        if Plane.SAGITTAL in planes:
            said.append("sagittal: nose to the " + ("left" if self.look.nose_left else "right"))
        words = "; ".join(said)
        return f"{words[:1].upper()}{words[1:]}."

    def picture(self, sequence: Sequence, view: View, pixels: tuple[int, int]) -> NDArray[np.uint8]:
        """The part of a slice that a view shows, with fills, without lines.

        Args:
            sequence: Which scan.
            view: Which part of which slice.
            pixels: Width and height to interpolate to.

        Returns:
            ``(height, width)`` uint8, or ``(height, width, 3)`` where a region is filled.
        """
        from PIL import Image

        scan, window = self.scans[sequence], self.shown[sequence]
        values = view.cut.extract(scan.data, view.index)
        levels = (values - np.float32(window.low)) * np.float32(255.0 / window.width)
        greys = _part_of(np.asarray(levels, np.float32), view, pixels, Image.Resampling.BICUBIC)
        picture = np.clip(np.rint(greys), 0, 255).astype(np.uint8)
        filled = [region for region in self.regions if region.fill > 0]
        if not filled:
            return picture
        coloured = np.repeat(picture[..., None].astype(np.float32), 3, axis=2)
        labels = view.cut.extract(self.labels.data, view.index)
        for region in filled:
            inside = np.asarray(region.mask(labels), np.float32)
            cover = _part_of(inside, view, pixels, Image.Resampling.BOX)[..., None] * region.fill
            coloured = coloured * (1 - cover) + np.array(region.colour, np.float32) * cover
        return np.clip(np.rint(coloured), 0, 255).astype(np.uint8)

    def outlines(self, region: Region, view: View) -> tuple[Line, ...]:
        """The outline of a region, closed lines ``(N, 2)`` in mm of the slice from its top left corner."""
        grid, cut = self.labels.grid, view.cut
        steps = np.array([grid.spacing[cut.columns[0]], grid.spacing[cut.rows[0]]])
        return tuple(line * steps for line in trace(region.mask(cut.extract(self.labels.data, view.index))))


class Canvas(Protocol):
    """What pictures, lines and words are put on, in mm from the top left corner of the paper.

    Attributes:
        dpi: How finely pictures are interpolated for it.
    """

    dpi: float

    def image(self, picture: NDArray[np.uint8], area: Area, words: str) -> None:
        """Put pixels ``(H, W)`` or ``(H, W, 3)`` over an area, with words for whoever cannot see them."""

    def fill(self, area: Area, colour: Colour) -> None:
        """Fill an area."""

    def lines(
        self, lines: tuple[Line, ...], colour: Colour, points: float, closed: bool = False, within: Area | None = None
    ) -> None:
        """Draw lines ``(N, 2)`` of a width in points, with round corners, cut off at an area."""

    def words(
        self,
        x: float,
        y: float,
        text: str,
        points: float,
        colour: Colour,
        align: Align = "left",
        medium: bool = False,
        halo: Colour | None = None,
    ) -> None:
        """Write one line; ``y`` is its baseline, ``halo`` a rim for words that lie on a picture."""

    def width_of(self, text: str, points: float, medium: bool = False) -> float:
        """How wide a line of words is."""


def plane_png(
    scene: Scene,
    plane: Plane,
    path: Path,
    sequence: Sequence | None = None,
    index: int | None = None,
    width_mm: float = 85.0,
    dpi: float = PRINT_DPI,
    marks: bool = True,
) -> Path:
    """Write one slice as PNG.

    Args:
        scene: What is to be seen.
        plane: Of which plane.
        path: Where to; replaced whole or not at all.
        sequence: On which scan; the one on which a tumour is seen best by default.
        index: Which slice of the array; that with most tumour on it by default.
        width_mm: Of the print.
        dpi: Pixels an inch, also said in the file.
        marks: Letters, scale bar and the slice's number; a thumbnail has no room for them.

    Raises:
        CannotWrite: The system refused; nothing was changed.
    """
    view = scene.view(plane, index)
    scale = width_mm / view.box[2]
    canvas = Raster(width_mm, view.box[3] * scale, dpi)
    area = (0.0, 0.0, width_mm, view.box[3] * scale)
    paint(
        canvas,
        scene,
        sequence or scene.main,
        view,
        area,
        scale,
        marks,
        view.box[2] if marks else None,
        view.words if marks else "",
    )
    return canvas.save(path)


def sheet(
    scene: Scene, path: Path, caption: str = "", width_mm: float = SHEET_MM, dpi: float = PRINT_DPI, title: str = ""
) -> Path:
    """Write the largest slice of each plane on every scan as PNG, all at one scale, with legend and caption.

    Args:
        scene: What is to be seen.
        path: Where to; replaced whole or not at all.
        caption: Sentences below, such as the model's name. On which side is what and the line on research use are
            added.
        width_mm: Of the print.
        dpi: Pixels an inch, also said in the file.
        title: Above everything; for names that the user has typed, since pictures name nobody.

    Raises:
        CannotWrite: The system refused; nothing was changed.
    """
    across = _columns(scene)
    columns = [(None, scene.views[plane]) for plane in _ORDER] if across else [(s, None) for s in scene.sequences]
    rows = [(s, None) for s in scene.sequences] if across else [(None, scene.views[plane]) for plane in _ORDER]
    boxes = [view.box for view in scene.views.values()]
    gaps = _GAP_MM * (len(columns) - 1)
    widest = max(box[2] for box in boxes)
    scale = (width_mm - gaps) / (sum(box[2] for box in boxes) if across else widest * len(columns))
    widths = [scale * (view.box[2] if view is not None else widest) for _, view in columns]
    heights = [scale * (view.box[3] if view is not None else max(box[3] for box in boxes)) for _, view in rows]

    said = " ".join(filter(None, (scene.about, caption, scene.sides(), "All pictures at one scale.", RESEARCH_USE)))
    below = wrapped(said, _CAPTION_PT, width_mm)
    line = _CAPTION_PT * MM_PER_POINT * 1.45
    above = 6.0 if title else 0.0
    top = above + 4.6
    pictures = sum(heights) + _GAP_MM * (len(heights) - 1)
    canvas = Raster(width_mm, top + pictures + 6.6 + line * len(below) + 0.6, dpi)
    if title:
        canvas.words(0.0, 3.8, shortened(title, 9.0, width_mm, medium=True), 9.0, INK, medium=True)
    y = top
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        x = 0.0
        for column, width in zip(columns, widths, strict=True):
            sequence, view = column[0] or row[0], column[1] or row[1]
            assert sequence is not None
            assert view is not None
            names = (view.words, sequence.title) if across else (sequence.title, view.words)
            if not number:
                canvas.words(x, above + 3.1, names[0], _HEAD_PT, INK)
            words, last = names[1] if column is columns[0] else "", column is columns[-1]
            paint(canvas, scene, sequence, view, (x, y, width, height), scale, True, widest if last else None, words)
            x += width + _GAP_MM
        y += height + _GAP_MM
    legend(canvas, scene, 0.0, y - _GAP_MM + 4.0)
    for number, text in enumerate(below):
        canvas.words(0.0, y - _GAP_MM + 6.6 + line * (number + 0.75), text, _CAPTION_PT, FAINT)
    return canvas.save(path)


def _columns(scene: Scene) -> bool:
    """Whether planes lie side by side: with one or two scans pictures would be too tall otherwise."""
    return len(scene.sequences) < 3


def paint(
    canvas: Canvas,
    scene: Scene,
    sequence: Sequence,
    view: View,
    area: Area,
    scale: float,
    letters: bool = True,
    bar_of: float | None = None,
    words: str = "",
    rulers: tuple[Line, ...] = (),
) -> None:
    """Put one picture on a canvas.

    Args:
        canvas: The paper.
        scene: What is to be seen.
        sequence: On which scan.
        view: Which slice; its middle comes to lie in the middle of the area.
        area: Left, top, width and height on the paper in mm; black where there is no scan.
        scale: mm of paper for a mm of the patient.
        letters: Whether to say which way the edges face.
        bar_of: Draw the scale bar that suits a picture of so many mm of the patient; none by default.
        words: In the top left corner.
        rulers: Lines to draw, ``(2, 3)`` their ends in the world in mm.
    """
    left, top, width, height = area
    view = view.filling(width / scale, height / scale)
    pixels = (max(1, round(width / MM_PER_INCH * canvas.dpi)), max(1, round(height / MM_PER_INCH * canvas.dpi)))
    canvas.image(scene.picture(sequence, view, pixels), area, f"{sequence.title}, {view.words.lower()}")
    corner = np.array([left - view.box[0] * scale, top - view.box[1] * scale])
    for region in scene.regions:
        lines = tuple(line * scale + corner for line in scene.outlines(region, view))
        if lines:
            canvas.lines(lines, region.colour, _OUTLINE_PT, closed=True, within=area)
    if rulers:
        lines = tuple(np.array([view.cut.to_screen(end) for end in ruler]) * scale + corner for ruler in rulers)
        canvas.lines(lines, BLACK, 1.5, within=area)
        canvas.lines(lines, WHITE, 0.8, within=area)
    rise = _MARK_PT * MM_PER_POINT * 0.73  # of capitals
    inset = 0.9
    if letters:
        names = view.cut.letters
        if not scene.scans[sequence].oriented:
            # The file does not say how the patient lay: a letter without its question mark would be a claim.
            names = (f"{names[0]}?", f"{names[1]}?", f"{names[2]}?", f"{names[3]}?")
        middle = top + height / 2 + rise / 2
        canvas.words(left + inset, middle, names[0], _MARK_PT, MARK, halo=BLACK)
        canvas.words(left + width - inset, middle, names[1], _MARK_PT, MARK, "right", halo=BLACK)
        canvas.words(left + width / 2, top + inset + rise, names[2], _MARK_PT, MARK, "centre", halo=BLACK)
        canvas.words(left + width / 2, top + height - inset, names[3], _MARK_PT, MARK, "centre", halo=BLACK)
    # Half the picture, less the letter in the middle of its edge.
    room = width / 2 - inset - 1.6
    for fewer in (words, words.split(" of ")[0], words.split(" ")[0]):
        if canvas.width_of(fewer, _MARK_PT) <= room:
            canvas.words(left + inset, top + inset + rise, fewer, _MARK_PT, MARK, halo=BLACK)
            break
    if bar_of is not None:
        length, name = next(
            (length, name)
            for length, name in (scale_bar(bar_of / share) for share in (1, 2, 4, 8, 1e9))
            if length * scale + canvas.width_of(name, _MARK_PT) + 2.0 <= room or length <= 1
        )
        right, base = left + width - 1.2, top + height - 1.2
        ends = np.array([[right - length * scale, base], [right, base]])
        ticks = tuple(np.array([[end, base - 0.45], [end, base + 0.45]]) for end in ends[:, 0])
        canvas.lines((ends, *ticks), MARK, 0.6)
        canvas.words(float(ends[0, 0]) - 0.7, top + height - inset, name, _MARK_PT, MARK, "right", halo=BLACK)


def legend(canvas: Canvas, scene: Scene, x: float, y: float, rulers: bool = False) -> float:
    """Say what the colours are, in one line on the paper.

    Args:
        canvas: The paper.
        scene: Whose regions.
        x: Where the line begins.
        y: Its baseline.
        rulers: Whether diameters are drawn too.

    Returns:
        Where the line ends.
    """
    for region in scene.regions:
        if region.fill > 0:
            canvas.fill((x, y - 1.9, 4.0, 2.1), region.colour)
        else:
            canvas.lines((np.array([[x, y - 0.85], [x + 4.0, y - 0.85]]),), region.colour, 1.6)
        there = region.mask(scene.labels.data).any()
        words = region.title if there else f"{region.title} (none)"
        canvas.words(x + 5.2, y, words, _HEAD_PT, INK)
        x += 5.2 + canvas.width_of(words, _HEAD_PT) + 5.0
    if rulers:
        line = np.array([[x, y - 0.85], [x + 4.0, y - 0.85]])
        canvas.lines((line,), BLACK, 1.5)
        canvas.lines((line,), WHITE, 0.8)
        canvas.words(x + 5.2, y, "Diameters", _HEAD_PT, INK)
        x += 5.2 + canvas.width_of("Diameters", _HEAD_PT) + 5.0
    return x


def trace(mask: Mask) -> tuple[Line, ...]:
    """The outline of a mask ``(rows, columns)`` as closed lines, x and y, a voxel's corners on whole numbers.

    Every corner lies in the middle of a side that parts inside from outside, so no line is further than 0.36 of a voxel
    from the border. Inside is on the right of a line; voxels that touch at a corner belong together.
    """
    padded = np.pad(mask, 1)
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # For the side that faces up, right, down, left: the neighbour, and the line's way from corner to corner.
    for (down, right), (start, end) in (
        ((-1, 0), ((0, 0), (0, 1))),
        ((0, 1), ((0, 1), (1, 1))),
        ((1, 0), ((1, 1), (1, 0))),
        ((0, -1), ((1, 0), (0, 0))),
    ):
        outer = padded & ~np.roll(padded, (-down, -right), axis=(0, 1))
        for row, column in np.argwhere(outer) - 1:
            here = (int(row) + start[0], int(column) + start[1])
            after.setdefault(here, []).append((int(row) + end[0], int(column) + end[1]))
    lines = []
    while after:
        start_at = next(iter(after))
        corners = [start_at]
        here, way = start_at, (0, 0)
        while True:
            nexts = after[here]
            # To the left where two lines meet, which joins the voxels.
            chosen = min(nexts, key=lambda to: _turn(way, (to[0] - here[0], to[1] - here[1])))
            nexts.remove(chosen)
            if not nexts:
                del after[here]
            way = (chosen[0] - here[0], chosen[1] - here[1])
            here = chosen
            if here == start_at and (here not in after or len(corners) > 1):
                break
            corners.append(here)
        points = np.array(corners, np.float64)[:, ::-1]
        middles = (points + np.roll(points, -1, axis=0)) / 2
        before, behind = middles - np.roll(middles, 1, axis=0), np.roll(middles, -1, axis=0) - middles
        bends = np.abs(before[:, 0] * behind[:, 1] - before[:, 1] * behind[:, 0]) > 1e-9
        lines.append(middles[bends])
    return tuple(lines)


def _turn(way: tuple[int, int], to: tuple[int, int]) -> int:
    """-1 to the left, 0 straight on, 1 to the right; rows count downwards."""
    return way[1] * to[0] - way[0] * to[1]


def _part_of(
    values: NDArray[np.float32], view: View, pixels: tuple[int, int], resampling: Image.Resampling
) -> NDArray[np.float32]:
    """The part of a slice ``(rows, columns)`` that a view shows, in other pixels; 0 beyond the slice."""
    from PIL import Image

    grid, cut = view.cut.grid, view.cut
    across, down = grid.spacing[cut.columns[0]], grid.spacing[cut.rows[0]]
    left, top, width, height = view.box
    ends = np.array([left / across, top / down, (left + width) / across, (top + height) / down])
    rows, columns = values.shape
    more = int(np.ceil(max(0.0, *(-ends[:2]), ends[2] - columns, ends[3] - rows))) + 3
    padded = np.ascontiguousarray(np.pad(values, more))
    box = tuple(float(end) + more for end in ends)
    part = Image.fromarray(padded).resize(pixels, resampling, box=(box[0], box[1], box[2], box[3]))
    return np.asarray(part, np.float32)


# --- words ------------------------------------------------------------------------------------------------------------


def font(medium: bool = False) -> Path:
    """The app's font for paper, made by ``scripts/print_fonts.py``: all digits have one width, so columns line up."""
    return FONTS / f"Inter-{'Medium' if medium else 'Regular'}-Print.ttf"


@cache
def _sized(pixels: float, medium: bool) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(font(medium), pixels, layout_engine=ImageFont.Layout.BASIC)


@cache
def _letters() -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(font(), lazy=True) as found:
        return frozenset(found.getBestCmap())


def readable(text: str) -> str:
    """The text in letters that the font has; others, such as those of other scripts, become question marks."""
    return "".join(letter if ord(letter) in _letters() else "?" for letter in unicodedata.normalize("NFC", text))


def width_of(text: str, points: float, medium: bool = False) -> float:
    """How wide a line of words is, in mm."""
    return float(_sized(200.0, medium).getlength(readable(text))) / 200.0 * points * MM_PER_POINT


def wrapped(text: str, points: float, width_mm: float, medium: bool = False) -> list[str]:
    """A paragraph as lines that fit into a width; a word that does not fit alone is divided.

    No line ends at a hard space (U+00A0).
    """
    lines: list[str] = []
    here = ""
    for word in filter(None, re.split(r"[ \t\r\n]", text)):
        longer = f"{here} {word}" if here else word
        if width_of(longer, points, medium) <= width_mm:
            here = longer
            continue
        if here:
            lines.append(here)
        here = word
        while width_of(here, points, medium) > width_mm and len(here) > 1:
            fits = next(
                n for n in range(len(here) - 1, 0, -1) if n == 1 or width_of(here[:n], points, medium) <= width_mm
            )
            lines.append(here[:fits])
            here = here[fits:]
    return [*lines, here] if here else lines


def shortened(text: str, points: float, width_mm: float, medium: bool = False) -> str:
    """One line of words that fits into a width, with dots for what does not."""
    if width_of(text, points, medium) <= width_mm:
        return text
    while text and width_of(f"{text}...", points, medium) > width_mm:
        text = text[:-1].rstrip()
    return f"{text}..."


# --- pixels -----------------------------------------------------------------------------------------------------------


class Raster:
    """A canvas of pixels, white at first.

    Args:
        width_mm: Of the print.
        height_mm: Of the print.
        dpi: Pixels an inch.
    """

    def __init__(self, width_mm: float, height_mm: float, dpi: float) -> None:
        from PIL import Image

        self.dpi = dpi
        self._per_mm = dpi / MM_PER_INCH
        self._image = Image.new("RGB", (round(width_mm * self._per_mm), round(height_mm * self._per_mm)), WHITE)

    def _pixels(self, area: Area) -> tuple[int, int, int, int]:
        left, top, width, height = (value * self._per_mm for value in area)
        return round(left), round(top), round(left + width), round(top + height)

    def image(self, picture: NDArray[np.uint8], area: Area, words: str) -> None:
        """See `Canvas`; pixels have no place for words."""
        from PIL import Image

        left, top, right, bottom = self._pixels(area)
        made = Image.fromarray(picture)
        if made.size != (right - left, bottom - top):
            # Where the area's ends fall on other pixels than its size says: a pixel at most.
            made = made.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC)
        self._image.paste(made, (left, top))

    def fill(self, area: Area, colour: Colour) -> None:
        """See `Canvas`."""
        self._image.paste(colour, self._pixels(area))

    def lines(
        self, lines: tuple[Line, ...], colour: Colour, points: float, closed: bool = False, within: Area | None = None
    ) -> None:
        """See `Canvas`."""
        from PIL import Image, ImageDraw

        width = max(1.0, points * MM_PER_POINT * self._per_mm)
        ends = np.concatenate(lines) * self._per_mm
        left, top = np.floor(ends.min(axis=0) - width).astype(int)
        right, bottom = np.ceil(ends.max(axis=0) + width).astype(int)
        frame = self._pixels(within) if within is not None else (0, 0, *self._image.size)
        left, top, right, bottom = max(left, frame[0]), max(top, frame[1]), min(right, frame[2]), min(bottom, frame[3])
        if right <= left or bottom <= top:
            return
        ink = Image.new("L", ((right - left) * _FINER, (bottom - top) * _FINER))
        draw = ImageDraw.Draw(ink)
        for line in lines:
            # Pillow's pixels have their middles on whole numbers.
            places = (line * self._per_mm - (left, top)) * _FINER - 0.5
            ring = np.concatenate([places, places[:2]]) if closed else places
            draw.line([(float(x), float(y)) for x, y in ring], fill=255, width=round(width * _FINER), joint="curve")
        self._image.paste(colour, (left, top), ink.reduce(_FINER))

    def words(
        self,
        x: float,
        y: float,
        text: str,
        points: float,
        colour: Colour,
        align: Align = "left",
        medium: bool = False,
        halo: Colour | None = None,
    ) -> None:
        """See `Canvas`."""
        from PIL import Image, ImageDraw

        text = readable(text)
        size = points * MM_PER_POINT * self._per_mm
        letters = _sized(size * _FINER, medium)
        width = letters.getlength(text) / _FINER
        start = x * self._per_mm - {"left": 0.0, "centre": width / 2, "right": width}[align]
        base = y * self._per_mm
        # Drawn large and made smaller: letters of a few pixels would stand on whole ones, at other distances.
        left, top = int(np.floor(start - size)), int(np.floor(base - 1.3 * size))
        room = (int(np.ceil(width + 2 * size)) + 1, int(np.ceil(1.8 * size)) + 1)
        place = ((start - left) * _FINER, (base - top) * _FINER)
        rims = [(halo, round(0.14 * size * _FINER))] if halo is not None else []
        for ink, rim in (*rims, (colour, 0)):
            drawn = Image.new("L", (room[0] * _FINER, room[1] * _FINER))
            ImageDraw.Draw(drawn).text(place, text, fill=255, font=letters, anchor="ls", stroke_width=rim)
            self._image.paste(ink, (left, top), drawn.reduce(_FINER))

    def width_of(self, text: str, points: float, medium: bool = False) -> float:
        """See `Canvas`."""
        return width_of(text, points, medium)

    def save(self, path: Path) -> Path:
        """Write the pixels as PNG and read them back.

        Raises:
            CannotWrite: The system refused, or what was read is not what was written; nothing was changed.
        """
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        from engine.provenance import version

        about = PngInfo()
        about.add_text("Software", f"Gliascope {version()}")
        about.add_text("Comment", RESEARCH_USE)

        def check(partial: Path) -> None:
            with Image.open(partial) as found:
                if found.size != self._image.size or found.tobytes() != self._image.tobytes():
                    raise CannotWrite(
                        f"{shown(path)} cannot be written", "what was read back differs", "Choose another folder."
                    )

        with whole_file(path, check) as partial, partial.open("wb") as file:
            self._image.save(file, "PNG", dpi=(self.dpi, self.dpi), pnginfo=about, optimize=False, compress_level=6)
        return path
