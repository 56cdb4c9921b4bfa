"""A result on one page of A4 as PDF, to be filed: pictures, numbers with intervals, the model and why, limits, doubts.

`content` gathers what is to be read from a result, `write` lays it out; whoever has more to say than one result passes
`Section`s. A page has room for what most patients need; what is longer goes on with a second page under the same head.
No name, path or date of birth: pages are told apart by the hash of the mask and by a title, if the user wrote one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.figures import Colour, Scene

if TYPE_CHECKING:
    from engine.inference import Segmentation
    from engine.pipeline import Worked


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
        low: The lower ends of their intervals; ``None`` where there is none.
        high: The upper ends.
    """

    title: str
    colour: Colour
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


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
        model: The model in words, such as ``"FLAIR student 1.0"``.
        measured_dice: What it was measured to reach, in words; empty where nobody measured it.
        steps: What was done to the scans, a sentence each.
        grave: Sentences that must be read before the mask is believed.
        notes: Other sentences about this result.
        made: When the report was made.
        title: What the user calls it; empty for nothing.
        heading: What kind of page it is.
        extra: Further parts.
    """

    scene: Scene
    measured: Mapping[str, Any]
    record: Mapping[str, Any]
    model: str
    measured_dice: str
    made: datetime
    steps: tuple[str, ...] = ()
    grave: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = ""
    heading: str = "Tumour segmentation"
    extra: tuple[Section, ...] = field(default=())


def content(
    segmentation: Segmentation,
    worked: Worked,
    record: Mapping[str, Any],
    made: datetime | None = None,
    title: str = "",
    grave: Sequence[str] = (),
    scene: Scene | None = None,
    extra: Sequence[Section] = (),
) -> Content:
    """Gather what a report of one result says.

    Args:
        segmentation: The result, on the common grid.
        worked: The steps it went through.
        record: What the sidecar of the masks says, from `engine.export.save`, or `engine.provenance.describe` of a
            result that was not saved.
        made: When; now by default.
        title: What the user calls it; nothing of the patient is written otherwise.
        grave: Those of the result's notes that must be read first.
        scene: Pictures with the brightness and sides of the window; by default those that suit the scans.
        extra: Further parts.
    """
    raise NotImplementedError


def write(wanted: Content, path: Path) -> Path:
    """Write a report as PDF and read it back.

    Args:
        wanted: What it says. Equal content gives equal bytes.
        path: Where to; replaced whole or not at all.

    Raises:
        CannotWrite: The system refused; nothing was changed.
    """
    raise NotImplementedError
