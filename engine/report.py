"""A result on one page of A4 as PDF, to be filed: pictures, numbers with intervals, the model and why, limits, doubts.

`content` gathers what is to be read from a result, `write` lays it out; whoever has more to say than one result passes
`Section`s. A page has room for what most patients need; what is longer goes on with a second page under the same head.
No name, path or date of birth: pages are told apart by the hash of the mask and by a title, if the user wrote one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.cut import Plane
from engine.diameters import measure_largest
from engine.errors import CannotWrite
from engine.figures import (
    FAINT,
    HAIRLINE,
    INK,
    MM_PER_POINT,
    PRINT_DPI,
    TUMOUR,
    Align,
    Area,
    Canvas,
    Colour,
    Line,
    Scene,
    font,
    legend,
    readable,
    shortened,
    width_of,
    wrapped,
)
from engine.figures import paint as paint_view
from engine.files import shown, whole_file
from engine.model_card import RESEARCH_USE, TUMOUR_CORE, WHOLE_TUMOUR, ModelCard
from engine.volume import Sequence as MriSequence
from engine.volume import in_words

if TYPE_CHECKING:
    from fpdf import FPDF

    from engine.inference import Segmentation
    from engine.pipeline import Worked

# A space at which no line ends.
_HARD = "\u00a0"
_PAGE = (210.0, 297.0)
_LEFT, _RIGHT, _TOP, _BOTTOM = 15.0, 195.0, 13.0, 15.0
_WIDTH = _RIGHT - _LEFT
_GAP = 2.0
# The head of further pages.
_GO_ON = 9.0
_INDENT = 26.0
_TABLE_PT, _SMALL_PT = 7.0, 6.5
# From line to line, in mm for a point.
_LEADING = 0.5


@dataclass(frozen=True)
class _Size:
    """How much room things take.

    Attributes:
        points: Of text.
        pictures: As large as there is room for across the page, times this.
        every: Each plane on every scan, rather than the axial one on every scan and the others on one.
        beside: With that, three pictures side by side are as small as four, and the volumes stand beside them.
    """

    points: float
    pictures: float
    every: bool = False
    beside: bool = False


# The first that leaves everything on one page; the usual one where none does.
_USUAL = _Size(8.0, 1.0)
_SIZES = (
    _Size(8.5, 1.0, True), _Size(8.0, 1.0, True), _Size(8.0, 0.9, True), _Size(7.5, 0.85, True),
    _Size(8.5, 1.0, True, True), _Size(8.0, 1.0, True, True), _Size(7.5, 0.95, True, True),
    _Size(8.5, 1.0), _USUAL, _Size(7.5, 1.0), _Size(7.5, 0.85), _Size(7.5, 0.7),
)  # fmt: skip
_MOST_LESIONS = 8
# Between the columns of a table, in mm; and rows of a table or lines of a paragraph that no page break divides.
_MOST_SPARE = 20.0
_TOGETHER = 12

_TINT: Colour = (236, 241, 247)
_WARM: Colour = (253, 243, 235)
_VERMILION: Colour = (213, 94, 0)

_TITLES = {WHOLE_TUMOUR: "whole tumour", TUMOUR_CORE: "core"}
_NAMED = {
    "used": "Used",
    "not_used": "Here but not used",
    "absent": "Absent",
    "uncertain": "Told from the file's name with a doubt",
}
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

_READING = (
    "Whole tumour is core and everything around it that the model calls tumour. Diameters are the longest line within "
    "the whole tumour or core on the axial slice where it is largest and the longest across it, as RANO measures "
    "(Wen et al., J Clin Oncol 2010;28:1963 and 2023;41:5187), but of a mask and not of enhancement. Unsure is what "
    "has a probability between 0.2 and 0.8. Centres are in mm from the origin of the scan."
)
_INTERVAL = "In 90 of 100 patients the true volume lay within the interval."
_NO_INTERVAL = "No interval is given: none was measured for this result, or nothing was found."
_LIMITS = (
    "The models learnt from adult gliomas before surgery. Children, metastases, meningiomas and cavities after surgery "
    "are outside what they know. Small and faint lesions are missed. Check every mask by eye."
)


@dataclass(frozen=True)
class Table:
    """Numbers in rows.

    Attributes:
        columns: Their heads; the first is set to the left, the others to the right.
        rows: As many cells as there are columns; an empty cell is a value that does not exist.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Curve:
    """Values over dates or numbers.

    Attributes:
        title: For the legend.
        colour: Of line and points.
        x: Where they lie, rising; days, for dates.
        y: The values.
        low: The lower ends of their intervals; ``None`` where there is none, empty where no value has one.
        high: The upper ends.

    Raises:
        ValueError: Some are more than others.
    """

    title: str
    colour: Colour
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.x)
        if len(self.y) != count or {len(self.low), len(self.high)} not in ({0}, {count}):
            raise ValueError("a curve has not as many values as places, or not as many ends of intervals")

    @property
    def intervals(self) -> tuple[tuple[float, float, float], ...]:
        """Where there is an interval: its place, its lower and its upper end."""
        ends = zip(self.x, self.low, self.high, strict=True) if self.low else ()
        return tuple((x, low, high) for x, low, high in ends if low is not None and high is not None)


@dataclass(frozen=True)
class Plot:
    """Curves with points and intervals, drawn as lines.

    Attributes:
        curves: In the order of the legend.
        ticks: Places along x and what is written under them.
        unit: Of y, such as ``"ml"``; y begins at 0.
        height_mm: Of the plot on the paper.
    """

    curves: tuple[Curve, ...]
    ticks: tuple[tuple[float, str], ...]
    unit: str
    height_mm: float = 45.0


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the report of its own, below the numbers of the result.

    Attributes:
        title: Its head.
        paragraphs: Sentences.
        table: Below them.
        plot: Below that.
        scene: The largest slice of each plane, below that.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    table: Table | None = None
    plot: Plot | None = None
    scene: Scene | None = None


@dataclass(frozen=True, eq=False)
class Content:
    """What a report says.

    Attributes:
        scene: The pictures.
        measured: See `engine.outputs.measure`.
        record: How the result came about, as its sidecar says.
        accuracy: What the model was measured to reach, in sentences; empty where nobody measured it.
        made: The date on it, with its time zone.
        title: What the user calls it; empty for nothing.
        heading: What kind of page it is.
        extra: Further parts.

    Raises:
        ValueError: The date has no time zone.
    """

    scene: Scene
    measured: Mapping[str, Any]
    record: Mapping[str, Any]
    accuracy: tuple[str, ...]
    made: datetime
    title: str = ""
    heading: str = "Tumour segmentation"
    extra: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        if self.made.tzinfo is None:
            raise ValueError("the date of a report needs its time zone")

    @property
    def about(self) -> str:
        """The model and hand behind the outlines, as sentences for a caption."""
        model = self.record["model"]
        return " ".join(filter(None, (f"Model: {model['title']} {model['version']}.", self.corrected)))

    @property
    def corrected(self) -> str:
        """What every output of a corrected mask says; empty where nobody corrected it."""
        count = int(self.record["edited_by_hand"])
        return f"Corrected by hand ({count} correction{'s' * (count > 1)})." if count else ""


def content(
    segmentation: Segmentation,
    worked: Worked,
    record: Mapping[str, Any],
    made: datetime | None = None,
    title: str = "",
    scene: Scene | None = None,
    extra: tuple[Section, ...] = (),
) -> Content:
    """Gather what a report of one result says.

    Args:
        segmentation: The result, on the common grid.
        worked: The steps it went through.
        record: What the sidecar of the masks says, from `engine.export.save`, or `engine.provenance.describe` of a
            result that was not saved.
        made: When, with its time zone; by default when the model ran, so that one result has one report.
        title: What the user calls it; nothing of the patient is written otherwise.
        scene: Pictures with the brightness and sides of the window; by default those that suit the scans.
        extra: Further parts.
    """
    from engine.outputs import measure

    return Content(
        scene=scene or Scene(dict(worked.shown), segmentation.label_map),
        measured=measure(segmentation),
        record=record,
        accuracy=accuracy(segmentation.card, segmentation.used),
        made=made or _made(record),
        title=title,
        extra=extra,
    )


def write(wanted: Content, path: Path) -> Path:
    """Write a report as PDF and read it back.

    Args:
        wanted: What it says. Equal content gives equal bytes.
        path: Where to; replaced whole or not at all.

    Raises:
        CannotWrite: The system refused; nothing was changed.
    """
    data = _pdf(wanted)

    def check(partial: Path) -> None:
        if partial.read_bytes() != data:
            raise CannotWrite(
                f"{shown(path)} cannot be written", "what was read back differs", "Choose another folder."
            )

    with whole_file(path, check) as partial:
        partial.write_bytes(data)
    return path


# --- what is said -----------------------------------------------------------------------------------------------------


def accuracy(card: ModelCard, used: tuple[MriSequence, ...]) -> tuple[str, ...]:
    """What a model was measured to reach with these sequences, in sentences; empty where nobody measured it."""
    scores, evaluation, calibration = card.scores(used), card.evaluation, card.calibrated(used)
    said = []
    if scores is not None and evaluation is not None:
        found = []
        for region, title in _TITLES.items():
            one = scores[region]
            away = "" if one.hd95_mean is None else f" and HD95{_HARD}{one.hd95_mean:.1f}{_HARD}mm"
            found.append(f"{title} Dice{_HARD}{one.dice_mean:.2f}{_HARD}\u00b1{_HARD}{one.dice_sd:.2f}{away}")
        said.append(
            f"Measured on {evaluation.patients} patients ({evaluation.how}), mean \u00b1 standard deviation: "
            f"{', '.join(found)}."
        )
    if calibration is not None:
        held = [
            f"{calibration[region].coverage or 0.0:.0%} of the {title} volumes".replace("%", " %")
            for region, title in _TITLES.items()
            if calibration[region].coverage is not None and calibration[region].volume_low is not None
        ]
        if held:
            patients = calibration[WHOLE_TUMOUR].patients
            said.append(f"On {patients} patients the 90 % interval held {' and '.join(held)}.")
    return tuple(said)


def _made(record: Mapping[str, Any]) -> datetime:
    """When the model ran, or now where nobody knows."""
    with suppress(KeyError, TypeError, ValueError):
        return datetime.fromisoformat(record["made_at"])
    return datetime.now(UTC)


def _date(made: datetime) -> str:
    """In one language and one time zone on every machine."""
    there = made.astimezone(UTC)
    return f"{there.day} {_MONTHS[there.month - 1]} {there.year}, {there:%H:%M} UTC"


def _interval(ends: list[float] | None) -> str:
    if ends is None:
        return ""
    digits = 0 if ends[1] >= 10 else 1
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _place(centre: list[float]) -> str:
    """A position in the words of a reader: ``"R 32  A 11  S 40"``."""
    return "  ".join(
        f"{pair[0 if mm >= 0 else 1]} {abs(mm):.0f}" for pair, mm in zip(("RL", "AP", "SI"), centre, strict=True)
    )


def _numbers(measured: Mapping[str, Any]) -> Table | None:
    """Both regions, and each lesion where there are several; ``None`` where nothing was found."""
    regions, lesions = measured["regions"], measured["lesions"]
    if not lesions:
        return None
    columns = (
        "", "Volume ml", "90 % interval ml", "Core ml", "Longest mm", "Across mm", "Product cm\u00b2", "Unsure ml",
        "Mean probability", "Centre mm",
    )  # fmt: skip
    rows = []
    for region, title in _TITLES.items():
        one = regions[region]
        if region == TUMOUR_CORE and not one["volume_ml"]:
            continue
        place = _place(lesions[0]["centre_mm"]) if region == WHOLE_TUMOUR and len(lesions) == 1 else ""
        core = regions[TUMOUR_CORE]["volume_ml"] if region == WHOLE_TUMOUR else None
        rows.append((title.capitalize(), *_cells(one, core), place))
    if len(lesions) > 1:
        for lesion in lesions[:_MOST_LESIONS]:
            rows.append((f"Lesion {lesion['lesion']}", *_cells(lesion, lesion["core_ml"]), _place(lesion["centre_mm"])))
    if len(lesions) > _MOST_LESIONS:
        rest = lesions[_MOST_LESIONS:]
        volume, core = (_number(sum(lesion[key] for lesion in rest), 1) for key in ("volume_ml", "core_ml"))
        rows.append((f"{len(rest)} smaller", volume, "", core, *[""] * 6))
    # A model without intervals leaves their column empty, a case without probabilities two.
    kept = [number for number in range(len(columns)) if not number or any(row[number] for row in rows)]
    return Table(tuple(columns[n] for n in kept), tuple(tuple(row[n] for n in kept) for row in rows))


def _cells(one: Mapping[str, Any], core: float | None) -> tuple[str, ...]:
    return (
        _number(one["volume_ml"], 1),
        _interval(one.get("interval_90_percent_ml")),
        _number(core, 1),
        _number(one["longest_mm"], 1),
        _number(one["across_mm"], 1),
        _number(one["product_cm2"], 1),
        _number(one.get("unsure_ml"), 1),
        _number(one["mean_probability"], 2),
    )


def _parts(wanted: Content) -> list[tuple[str, list[str]]]:
    """What stands below the numbers: heads and their paragraphs."""
    record = wanted.record
    model, named, grid = record["model"], record["sequences"], record["grid"]
    sequences = [
        f"{words}: {in_words(MriSequence(value) for value in named[key])}."
        for key, words in _NAMED.items()
        if named[key]
    ]
    steps = record.get("preparation", {}).get("steps", [])
    # Where there was no need of one grid, nobody could have asked for it.
    done = [step["sentence"] for step in steps if step["did"] or step["step"] != "grid"]
    shape, spacing = (" \u00d7 ".join(f"{n:.4g}" for n in grid[key]) for key in ("shape", "spacing_mm"))
    scans = [
        f"{MriSequence(s).title}{_HARD}{one['sha256'][:16]}" for s, one in record["inputs"].items() if one["sha256"]
    ]
    alone = "These figures are those of the model alone, before anything was corrected." if wanted.corrected else ""
    said = (
        ("Model", f"{_capital(model['title'])} {model['version']}. {record['reason']}", *wanted.accuracy, alone),
        ("Sequences", " ".join(sequences)),
        ("Preparation", " ".join(done) or "The model was given the scans as they are."),
        ("How to read", _READING, _INTERVAL if "intervals_90_percent_ml" in record else _NO_INTERVAL),
        ("Limits", _LIMITS),
        (
            "Record",
            f"Segmented in {record['seconds']:.1f} s on {record['device']} ({record['precision']}). "
            f"Mask of {shape} voxels of {spacing} mm.",
            f"SHA-256 of the mask {record['mask']['sha256']}" if "mask" in record else "",
            f"SHA-256 of the model {model['sha256']}",
            f"SHA-256 of the scans, first 16 digits: {', '.join(scans)}" if scans else "",
        ),
    )
    return [(title, [text for text in texts if text]) for title, *texts in said]


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


# --- where it stands --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Block:
    """What stays together.

    Attributes:
        height: In mm.
        paint: Puts it on a canvas, given the upper edge.
        joined: Whether what comes next has to follow on the same page.
    """

    height: float
    paint: Callable[[Canvas, float], None]
    joined: bool = False


def _blocks(wanted: Content, size: _Size) -> list[_Block]:
    """All that stands on the pages."""
    points = size.points
    blocks = [_head(wanted)]
    warnings = list(dict.fromkeys(filter(None, (wanted.corrected, *wanted.record["notes"]))))
    if warnings:
        blocks.append(_box(warnings, points))
    blocks += _pictures(wanted, size)
    numbers = _numbers(wanted.measured)
    if numbers is not None:
        blocks += [_space(2.5), *_table(numbers)]
    blocks.append(_space(2.5))
    for section in wanted.extra:
        blocks += _section(section, points)
    for title, texts in _parts(wanted):
        blocks += _paragraphs(title, texts, points)
    return blocks


def _space(height: float) -> _Block:
    return _Block(height, lambda canvas, y: None)


def _head(wanted: Content) -> _Block:
    title = shortened(wanted.title, 10.0, _WIDTH, medium=False) if wanted.title else ""
    height = 17.5 + (5.5 if title else 0.0)

    def paint(canvas: Canvas, y: float) -> None:
        canvas.words(_LEFT, y + 5.2, wanted.heading, 16.0, INK, medium=True)
        canvas.words(_RIGHT, y + 2.2, _date(wanted.made), 8.0, INK, "right")
        canvas.words(_RIGHT, y + 5.9, _maker(wanted), 8.0, FAINT, "right")
        if title:
            canvas.words(_LEFT, y + 10.8, title, 10.0, INK)
        canvas.fill((_LEFT, y + height - 9.0, _WIDTH, 5.6), _TINT)
        canvas.words(_LEFT + 2.2, y + height - 5.2, RESEARCH_USE, 7.5, INK, medium=True)

    return _Block(height, paint)


def _maker(wanted: Content) -> str:
    return f"Gliascope {wanted.record['software']['version']}"


def _box(sentences: list[str], points: float) -> _Block:
    """Sentences to be read before anything else."""
    step = points * _LEADING
    lines: list[tuple[str, bool]] = []
    for sentence in sentences:
        lines += [(line, not number) for number, line in enumerate(wrapped(sentence, points, _WIDTH - 9.0))]
    height = 2.4 + step * (len(lines) + 1)

    def paint(canvas: Canvas, y: float) -> None:
        canvas.fill((_LEFT, y, _WIDTH, height), _WARM)
        canvas.fill((_LEFT, y, 1.0, height), _VERMILION)
        canvas.words(_LEFT + 4.0, y + step, "Read this first", points, INK, medium=True)
        for number, (line, first) in enumerate(lines):
            base = y + step * (number + 2)
            if first:
                canvas.fill((_LEFT + 4.0, base - 0.16 * points, 0.7, 0.7), _VERMILION)
            canvas.words(_LEFT + 6.0, base, line, points, INK)

    return _Block(height + 3.4, paint)


def _pictures(wanted: Content, size: _Size) -> list[_Block]:
    """The slices, the legend, and the volumes beside or below."""
    scene = wanted.scene
    if size.every and len(scene.sequences) == 2:
        rows = [[(sequence, plane) for plane in scene.views] for sequence in scene.sequences]
    elif size.every:
        rows = [[(sequence, plane) for sequence in scene.sequences] for plane in scene.views]
    else:
        cells = [(sequence, Plane.AXIAL) for sequence in scene.sequences]
        cells += [(scene.main, plane) for plane in scene.views if plane is not Plane.AXIAL]
        most = 3 if len(cells) == 3 else 4
        rows = [cells[start : start + most] for start in range(0, len(cells), most)]
    across = 4 if size.beside else len(rows[0])
    width = (_WIDTH - _GAP * (across - 1)) / across
    boxes = {plane: view.box for plane, view in scene.views.items()}
    widest = max(box[2] for box in boxes.values())
    scale = width * size.pictures / widest
    used = wanted.record["sequences"]["used"]
    diameters = _diameters(scene)

    def row_of(row: list[tuple[MriSequence, Plane]], beside: bool) -> _Block:
        height = scale * max(boxes[plane][3] for _, plane in row)
        # Columns that go on below need no other name.
        above = 3.8 if row is rows[0] or [s for s, _ in row] != [s for s, _ in rows[0]] else 0.0

        def paint(canvas: Canvas, y: float) -> None:
            for number, (sequence, plane) in enumerate(row):
                x = _LEFT + number * (width + _GAP)
                name = sequence.title if sequence.value in used else f"{sequence.title} (not used)"
                if above:
                    canvas.words(x, y + 2.6, name, _TABLE_PT, INK)
                view, area = scene.views[plane], (x, y + above, width, height)
                lines = diameters if (sequence, plane) == (scene.main, Plane.AXIAL) else ()
                bar = widest if number == len(row) - 1 else None
                paint_view(canvas, scene, sequence, view, area, scale, True, bar, view.words, lines)
            if beside:
                start = _LEFT + len(row) * (width + _GAP) + 2.0
                _volumes(canvas, wanted, start, y + above, _RIGHT - start, size.beside)

        return _Block(height + above + _GAP, paint, joined=True)

    beside = len(rows[-1]) < across
    blocks = [row_of(row, beside and row is rows[0 if size.beside else -1]) for row in rows]
    said = " ".join((scene.about, scene.sides(), "All pictures at one scale."))
    lines = wrapped(said, _SMALL_PT, _WIDTH)

    def caption(canvas: Canvas, y: float) -> None:
        legend(canvas, scene, _LEFT, y + 2.8, bool(diameters))
        for number, line in enumerate(lines):
            canvas.words(_LEFT, y + 6.8 + 3.2 * number, line, _SMALL_PT, FAINT)

    blocks.append(_Block(5.0 + 3.2 * len(lines), caption, joined=not beside))
    if not beside:
        blocks.append(_Block(26.0, lambda canvas, y: _volumes(canvas, wanted, _LEFT, y + 4.0, _WIDTH)))
    return blocks


def _diameters(scene: Scene) -> tuple[Line, ...]:
    """Both diameters of the whole tumour on the axial slice that is shown, their ends in the patient in mm."""
    view = scene.views[Plane.AXIAL]
    found = measure_largest(scene.labels.whole_tumour, scene.labels.grid, view.cut.normal)
    if scene.regions is not TUMOUR or found is None or found[0] != view.index:
        return ()
    return found[1].longest, found[1].across


def _volumes(canvas: Canvas, wanted: Content, x: float, y: float, width: float, stacked: bool = False) -> None:
    """Both volumes, large, side by side or one above the other."""
    measured = wanted.measured["regions"]
    for number, (region, title) in enumerate(_TITLES.items()):
        one, left = measured[region], x + (0.0 if stacked else number * (width / 2 + 1.0))
        y += number * 27.0 if stacked else 0.0
        canvas.fill((left, y, 1.0, 21.0), TUMOUR[number].colour)
        canvas.words(left + 3.4, y + 2.8, title.capitalize(), 8.0, INK)
        canvas.words(left + 3.4, y + 10.2, f"{one['volume_ml']:.1f} ml", 17.0, INK, medium=True)
        interval = _interval(one["interval_90_percent_ml"])
        if one["volume_ml"]:
            words = f"90 %: {interval} ml" if interval else "No interval"
            size = f"{one['longest_mm']:.1f} \u00d7 {one['across_mm']:.1f} mm"
        else:
            words, size = "None was found", ""
        canvas.words(left + 3.4, y + 15.2, words, 8.0, INK if interval else FAINT)
        canvas.words(left + 3.4, y + 19.6, size, 8.0, INK)


def _table(table: Table) -> list[_Block]:
    """A table over the whole width, a block a line, columns as wide as they have to be."""
    widths = []
    for number in range(len(table.columns)):
        cells = [table.columns[number], *(row[number] for row in table.rows)]
        widths.append(max(width_of(cell, _TABLE_PT) for cell in cells))
    spare = min(_MOST_SPARE, (_WIDTH - sum(widths)) / max(1, len(widths) - 1))
    ends = np.cumsum([width + spare for width in widths]) - spare + _LEFT
    right = float(ends[-1])

    def line(cells: tuple[str, ...], colour: Colour, joined: bool, rule: Colour) -> _Block:
        def paint(canvas: Canvas, y: float) -> None:
            for number, cell in enumerate(cells):
                if number:
                    canvas.words(float(ends[number]), y + 3.3, cell, _TABLE_PT, colour, "right")
                else:
                    canvas.words(_LEFT, y + 3.3, cell, _TABLE_PT, colour)
            canvas.lines((np.array([[_LEFT, y + 4.7], [right, y + 4.7]]),), rule, 0.5)

        return _Block(4.9, paint, joined)

    blocks = [line(table.columns, FAINT, True, FAINT)]
    together = len(table.rows) <= _TOGETHER
    blocks += [line(row, INK, together and row is not table.rows[-1], HAIRLINE) for row in table.rows]
    return blocks


def _paragraphs(title: str, texts: list[str], points: float) -> list[_Block]:
    """A head on the left and its paragraphs beside it, a block a line."""
    lines = [line for text in texts for line in wrapped(text, points, _WIDTH - _INDENT)]
    blocks = [_line(words, points, _LEFT + _INDENT, "" if number else title) for number, words in enumerate(lines)]
    return [*_together(blocks), _space(1.5)]


def _together(blocks: list[_Block]) -> list[_Block]:
    """The lines of a paragraph as one where it is short; a long one may be divided, but not after its first line."""
    kept = len(blocks) - 1 if len(blocks) <= _TOGETHER else 1
    return [replace(block, joined=number < kept) for number, block in enumerate(blocks)]


def _line(words: str, points: float, x: float = _LEFT, title: str = "") -> _Block:
    def paint(canvas: Canvas, y: float) -> None:
        if title:
            canvas.words(_LEFT, y + 0.39 * points, title, points, INK, medium=True)
        canvas.words(x, y + 0.39 * points, words, points, INK)

    return _Block(_LEADING * points, paint)


def _section(section: Section, points: float) -> list[_Block]:
    blocks = [_Block(6.0, lambda canvas, y: canvas.words(_LEFT, y + 4.0, section.title, 10.0, INK, medium=True), True)]
    for text in section.paragraphs:
        blocks += _together([_line(words, points) for words in wrapped(text, points, _WIDTH)])
        blocks.append(_space(1.0))
    if section.table is not None:
        blocks += [_space(1.0), *_table(section.table), _space(1.5)]
    if section.plot is not None:
        plot = section.plot
        blocks.append(_Block(plot.height_mm + 3.0, lambda canvas, y: _plot(canvas, plot, y)))
    if section.scene is not None:
        blocks += [_space(1.0), _planes(section.scene)]
    return [*blocks, _space(2.0)]


def _planes(scene: Scene) -> _Block:
    """The largest slice of each plane side by side, with the legend below."""
    views = list(scene.views.values())
    scale = (_WIDTH - 2 * _GAP) / sum(view.box[2] for view in views)
    height = scale * max(view.box[3] for view in views)

    def paint(canvas: Canvas, y: float) -> None:
        x = _LEFT
        for view in views:
            width = view.box[2] * scale
            bar = view.box[2] if view is views[-1] else None
            paint_view(canvas, scene, scene.main, view, (x, y, width, height), scale, True, bar, view.words)
            x += width + _GAP
        end = legend(canvas, scene, _LEFT, y + height + 4.0)
        canvas.words(end, y + height + 4.0, scene.sides(), _SMALL_PT, FAINT)

    return _Block(height + 6.0, paint)


def _plot(canvas: Canvas, plot: Plot, y: float) -> None:
    """Curves over an axis, y from 0."""
    tops = [value for curve in plot.curves for value in (*curve.y, *curve.high) if value is not None]
    xs = [value for curve in plot.curves for value in curve.x] + [x for x, _ in plot.ticks]
    step = _round_step(max(tops, default=1.0) / 4)
    top = step * max(1, int(np.ceil(max(tops, default=1.0) / step)))
    first, last = min(xs, default=0.0), max(xs, default=1.0)
    left, right, upper, lower = _LEFT + 14.0, _RIGHT - 4.0, y + 7.5, y + plot.height_mm - 6.0
    across, down = (right - left - 8.0) / ((last - first) or 1.0), (lower - upper) / top

    def at(x: float, value: float) -> tuple[float, float]:
        return left + 4.0 + (x - first) * across, lower - value * down

    x = left
    for curve in plot.curves:
        canvas.lines((np.array([[x, y + 2.2], [x + 5.0, y + 2.2]]),), curve.colour, 1.4)
        canvas.words(x + 6.4, y + 3.0, curve.title, _TABLE_PT, INK)
        x += 6.4 + width_of(curve.title, _TABLE_PT) + 6.0
    for number in range(round(top / step) + 1):
        level = lower - number * step * down
        canvas.lines((np.array([[left, level], [right, level]]),), HAIRLINE if number else FAINT, 0.5)
        canvas.words(left - 2.0, level + 0.9, f"{number * step:g}", _TABLE_PT, FAINT, "right")
    canvas.words(_LEFT, upper - 2.4, plot.unit, _TABLE_PT, FAINT)
    for place, words in plot.ticks:
        here = at(place, 0.0)[0]
        canvas.lines((np.array([[here, lower], [here, lower + 1.0]]),), FAINT, 0.5)
        canvas.words(here, lower + 4.4, words, _TABLE_PT, INK, "centre")
    for curve in plot.curves:
        for value, low, high in curve.intervals:
            bottom, above = at(value, low), at(value, high)
            caps = [np.array([[end[0] - 0.9, end[1]], [end[0] + 0.9, end[1]]]) for end in (bottom, above)]
            canvas.lines((np.array([bottom, above]), *caps), curve.colour, 0.7)
        points = np.array([at(value, amount) for value, amount in zip(curve.x, curve.y, strict=True)])
        if len(points) > 1:
            canvas.lines((points,), curve.colour, 1.3)
        turns = np.linspace(0, 2 * np.pi, 25)
        rings = tuple(point + 0.45 * np.stack([np.cos(turns), np.sin(turns)], axis=1) for point in points)
        canvas.lines(rings, curve.colour, 2.6)


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, at least as large."""
    if least <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(times * power for times in (1.0, 2.0, 5.0, 10.0) if times * power >= least * 0.999))


def _pages(blocks: list[_Block], room: float) -> list[list[_Block]]:
    """The blocks page by page; joined ones go together."""
    pages: list[list[_Block]] = [[]]
    full = 0.0
    start = 0
    while start < len(blocks):
        stop = start + 1
        while blocks[stop - 1].joined and stop < len(blocks):
            stop += 1
        group = blocks[start:stop]
        height = sum(block.height for block in group)
        if pages[-1] and full + height > room:
            pages.append([])
            full = _GO_ON
        pages[-1] += group
        full += height
        start = stop
    return pages


# --- PDF --------------------------------------------------------------------------------------------------------------


def _pdf(wanted: Content) -> bytes:
    from fpdf import FPDF, ViewerPreferences
    from fpdf.fonts import TTFFont

    room = _PAGE[1] - _TOP - _BOTTOM
    # One page where smaller letters and pictures make it one; else the fewest pages, with the largest that make as few.
    sizes = list(_sizes(len(wanted.scene.scans)))
    pages = next((pages for size in sizes if len(pages := _pages(_blocks(wanted, size), room)) == 1), None)
    if pages is None:
        fewer = [_USUAL, *(size for size in sizes if not size.every and size.points < _USUAL.points)]
        pages = min((_pages(_blocks(wanted, size), room) for size in fewer), key=len)
    pdf = FPDF(orientation="portrait", unit="mm", format="A4")
    pdf.set_auto_page_break(False)
    pdf.set_margin(0)
    pdf.set_creation_date(wanted.made.astimezone(UTC))
    pdf.set_title(" ".join(filter(None, (wanted.heading, wanted.title))))
    pdf.set_subject(RESEARCH_USE)
    pdf.set_creator(_maker(wanted))
    pdf.set_lang("en-GB")
    pdf.viewer_preferences = ViewerPreferences(display_doc_title=True)
    try:
        for style, medium in (("", False), ("B", True)):
            pdf.add_font("Inter", style, font(medium))
        page = _Page(pdf)
        for number, blocks in enumerate(pages, 1):
            pdf.add_page()
            y = _TOP
            if number > 1:
                _go_on(page, wanted)
                y += _GO_ON
            for block in blocks:
                block.paint(page, y)
                y += block.height
            _foot(page, wanted, number, len(pages))
        return bytes(pdf.output())
    finally:
        for embedded in pdf.fonts.values():
            if isinstance(embedded, TTFFont):
                embedded.close()


def _go_on(canvas: Canvas, wanted: Content) -> None:
    """The head of every page but the first."""
    words = " ".join(filter(None, (f"{wanted.heading},", _date(wanted.made))))
    canvas.words(_LEFT, _TOP + 3.0, words, 8.0, INK, medium=True)
    if wanted.title:
        room = _WIDTH - 8.0 - canvas.width_of(words, 8.0, medium=True)
        canvas.words(_RIGHT, _TOP + 3.0, shortened(wanted.title, 8.0, room), 8.0, INK, "right")
    canvas.lines((np.array([[_LEFT, _TOP + 5.2], [_RIGHT, _TOP + 5.2]]),), HAIRLINE, 0.5)


def _sizes(scans: int) -> Iterator[_Size]:
    """Those that make sense for so many scans."""
    for size in _SIZES:
        if not (size.every and scans == 1) and not (size.beside and scans > 3):
            yield size


def _foot(canvas: Canvas, wanted: Content, number: int, count: int) -> None:
    y = _PAGE[1] - _BOTTOM + 5.0
    mask = wanted.record.get("mask")
    parts = [_maker(wanted), "Research use only", f"Mask {mask['sha256'][:16]}" if mask else ""]
    canvas.lines((np.array([[_LEFT, y - 3.6], [_RIGHT, y - 3.6]]),), HAIRLINE, 0.5)
    canvas.words(_LEFT, y, "   \u00b7   ".join(filter(None, parts)), _SMALL_PT, FAINT)
    canvas.words(_RIGHT, y, f"Page {number} of {count}", _SMALL_PT, FAINT, "right")


class _Page:
    """A canvas that is a page of a PDF."""

    dpi = PRINT_DPI

    def __init__(self, pdf: FPDF) -> None:
        self._pdf = pdf

    def image(self, picture: NDArray[np.uint8], area: Area, words: str) -> None:
        """See `Canvas`."""
        from PIL import Image

        left, top, width, height = area
        self._pdf.image(Image.fromarray(picture), left, top, width, height, alt_text=words)

    def fill(self, area: Area, colour: Colour) -> None:
        """See `Canvas`."""
        self._pdf.set_fill_color(*colour)
        self._pdf.rect(*area, style="F")

    def lines(
        self, lines: tuple[Line, ...], colour: Colour, points: float, closed: bool = False, within: Area | None = None
    ) -> None:
        """See `Canvas`."""
        pdf = self._pdf
        with ExitStack() as stack:
            if within is not None:
                stack.enter_context(pdf.rect_clip(*within))
            stack.enter_context(
                pdf.local_context(stroke_join_style="round", stroke_cap_style="round" if closed else "butt")
            )
            pdf.set_draw_color(*colour)
            pdf.set_line_width(points * MM_PER_POINT)
            for line in lines:
                pdf.polyline([(float(x), float(y)) for x, y in line], polygon=closed)

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
        pdf = self._pdf
        text = readable(text)
        if not text:
            return
        pdf.set_font("Inter", "B" if medium else "", points)
        x -= {"left": 0.0, "centre": 0.5, "right": 1.0}[align] * pdf.get_string_width(text)
        if halo is not None:
            with pdf.local_context(text_mode="STROKE", stroke_join_style="round"):
                pdf.set_draw_color(*halo)
                pdf.set_line_width(0.1 * points)
                pdf.text(x, y, text)
        pdf.set_text_color(*colour)
        pdf.text(x, y, text)

    def width_of(self, text: str, points: float, medium: bool = False) -> float:
        """See `Canvas`."""
        return width_of(text, points, medium)
