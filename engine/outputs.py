"""What else is made of a result than its masks: probabilities, a DICOM segmentation, surfaces, tables and pages.

One function for the window and the command line. All are written whole or none is; each is read back, names nobody
(but for the DICOM segmentation, which has to), and replaces only what was made here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cc3d
import numpy as np

from engine import diameters, nifti, provenance, sequences
from engine.errors import CannotWrite, SequenceProblem
from engine.export import Beside, file_name
from engine.figures import Look
from engine.files import Together, unwritten
from engine.findings import UNSURE
from engine.inference import Segmentation
from engine.model_card import REGIONS, RESEARCH_USE, TUMOUR_CORE, WHOLE_TUMOUR
from engine.pipeline import Worked
from engine.progress import Progress
from engine.provenance import MASK_ENDING, Made
from engine.volume import LabelMap, Mask, Sequence, Volume

if TYPE_CHECKING:
    from engine.dicom import Series

WORKING: Literal["working"] = "working"
Place = Sequence | Literal["working"] | None


@dataclass(frozen=True)
class Wanted:
    """What is to be written beside the masks.

    Attributes:
        probabilities: The probability of whole tumour and of core, as NIfTI.
        dicom_seg: A DICOM Segmentation; carries the patient's identity.
        surfaces: Whole tumour and core as STL.
        table: Volumes, diameters, counts and confidence, whole and for each lesion, as CSV and JSON.
        report: A page of pictures, numbers, model and limits, as PDF.
        figure: The largest slice of each plane on every scan, for print, as PNG.
        title: What report and figure are headed with; they name nobody otherwise.
        look: Sides and brightness of their pictures.
        grid: On which grid probabilities lie, and on which series the DICOM segmentation: that of a sequence's own
            file, or the common grid that the model worked on, which also gets a mask then. That of the masks' reference
            where none is named.
    """

    probabilities: bool = False
    dicom_seg: bool = False
    surfaces: bool = False
    table: bool = False
    grid: Place = None
    report: bool = False
    figure: bool = False
    title: str = ""
    look: Look = field(default_factory=Look)

    @property
    def anything(self) -> bool:
        """Whether there is anything to write."""
        files = (self.probabilities, self.dicom_seg, self.surfaces, self.table, self.report, self.figure)
        return any(files) or self.grid == WORKING


def probabilities_on(segmentation: Segmentation, worked: Worked, place: Place = None) -> dict[str, Volume]:
    """The probability of each region on a grid, 0..1.

    On a file's own grid they are interpolated through the matrices of the alignment, averaged where its voxels are
    coarser; on a grid that is the common one they are those of the model to the bit.

    Args:
        segmentation: On the common grid.
        worked: The steps it went through.
        place: See `Wanted.grid`.

    Raises:
        CannotWrite: There are none: the result was kept in a case, which does without.
    """
    if not segmentation.probabilities:
        raise CannotWrite(
            "There are no probabilities to save", "a case keeps the mask alone", "Segment the patient again first."
        )
    if place == WORKING:
        return {region: Volume(segmentation.probabilities[region], worked.grid) for region in REGIONS}
    sequence = place if isinstance(place, Sequence) else worked.reference
    here, own = worked.own_grid(sequence), worked.raw[sequence].grid
    if here.same_as(worked.grid, 1e-3):
        return {region: Volume(segmentation.probabilities[region], own) for region in REGIONS}
    sampled = {}
    for region in REGIONS:
        found = sequences.resample(Volume(segmentation.probabilities[region], worked.grid), here).data
        sampled[region] = Volume(np.clip(found, 0.0, 1.0).astype(np.float32), own)
    return sampled


def measure(segmentation: Segmentation) -> dict[str, Any]:
    """Volumes, diameters, counts and confidence of a result, whole and for each lesion, as plain JSON values.

    Measured on the grid that the model worked on. Diameters are those of `engine.diameters`, on the axial slice, or the
    one nearest to it, where a region is largest. A lesion is a piece of the whole tumour that touches no other, largest
    first. Where a result has no probabilities, neither has its table.
    """
    labels = segmentation.label_map
    whole, core = labels.whole_tumour, labels.tumour_core
    chances = segmentation.probabilities

    def of_region(region: str, mask: Mask) -> dict[str, Any]:
        interval = segmentation.intervals_ml.get(region)
        unsure = None
        if region in chances:
            chance = chances[region]
            unsure = round(labels.ml((chance > UNSURE[0]) & (chance < UNSURE[1])), 3)
        return {
            "volume_ml": round(labels.ml(mask), 3),
            "interval_90_percent_ml": [round(float(ml), 3) for ml in interval] if interval is not None else None,
            "pieces": int(cc3d.connected_components(mask.astype(np.uint8), connectivity=26, return_N=True)[1]),
            **_diameters(mask, labels),
            "mean_probability": _mean(segmentation, region, mask),
            "unsure_ml": unsure,
        }

    pieces, count = cc3d.connected_components(whole.astype(np.uint8), connectivity=26, return_N=True)
    sizes = np.bincount(pieces.reshape(-1, order="A"), minlength=count + 1)
    lesions = []
    for number, piece in enumerate(1 + np.argsort(-sizes[1:], kind="stable"), 1):
        mask = pieces == piece
        middle = labels.grid.to_world(np.argwhere(mask).mean(axis=0, keepdims=True))[0]
        lesions.append(
            {
                "lesion": number,
                "volume_ml": round(labels.ml(mask), 3),
                "core_ml": round(labels.ml(mask & core), 3),
                **_diameters(mask, labels),
                "mean_probability": _mean(segmentation, WHOLE_TUMOUR, mask),
                "centre_mm": [round(float(mm), 1) for mm in middle],
            }
        )
    return {
        "research_use": RESEARCH_USE,
        "space": "RAS+ in mm",
        "edited_by_hand": segmentation.edited_by_hand,
        "regions": {WHOLE_TUMOUR: of_region(WHOLE_TUMOUR, whole), TUMOUR_CORE: of_region(TUMOUR_CORE, core)},
        "lesions": lesions,
    }


COLUMNS = (
    "part", "volume_ml", "low_ml", "high_ml", "core_ml", "pieces", "longest_mm", "across_mm", "product_cm2",
    "mean_probability", "unsure_ml", "x_mm", "y_mm", "z_mm",
)  # fmt: skip


def as_csv(measured: Mapping[str, Any]) -> str:
    """What `measure` found as lines of `COLUMNS`: a line for each region, then one for each lesion.

    An empty cell is a value that does not exist. ``low_ml`` and ``high_ml`` are the ends of the 90 % interval.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for region, values in measured["regions"].items():
        low, high = values["interval_90_percent_ml"] or ("", "")
        core = measured["regions"][TUMOUR_CORE]["volume_ml"] if region == WHOLE_TUMOUR else ""
        table.writerow({**values, "part": region, "low_ml": low, "high_ml": high, "core_ml": core})
    for lesion in measured["lesions"]:
        x, y, z = lesion["centre_mm"]
        table.writerow({**lesion, "part": f"lesion_{lesion['lesion']}", "x_mm": x, "y_mm": y, "z_mm": z})
    return text.getvalue()


def refuse_what_cannot_be(wanted: Wanted, worked: Worked) -> None:
    """Say before anything is computed what cannot be written of it.

    Raises:
        SequenceProblem: The sequence whose grid was named is not there.
        CannotWrite: A DICOM segmentation is asked for, and the scan was no DICOM.
    """
    if isinstance(wanted.grid, Sequence) and wanted.grid not in worked.raw:
        raise SequenceProblem(
            f"Nothing can be written on the grid of {wanted.grid.title}", "it is not there", "Name another sequence."
        )
    if wanted.dicom_seg:
        series_of(wanted, worked)


def series_of(wanted: Wanted, worked: Worked) -> tuple[Sequence, Series]:
    """The series that a DICOM segmentation is written on, and which sequence it shows.

    Raises:
        CannotWrite: The scan was no DICOM.
    """
    from engine import dicom

    sequence = wanted.grid if isinstance(wanted.grid, Sequence) else worked.reference
    source = worked.raw[sequence].source
    series = dicom.series_behind(source) if source is not None else None
    if series is None:
        raise CannotWrite(
            "There can be no DICOM segmentation",
            f"{sequence.title} was not read from DICOM",
            "Open the DICOM files of the patient.",
        )
    return sequence, series


def maker(
    wanted: Wanted, segmentation: Segmentation, worked: Worked, progress: Progress | None = None
) -> Beside | None:
    """What `export.save` makes beside the masks; None where nothing is wanted.

    Args:
        wanted: What.
        segmentation: The result, on the common grid.
        worked: The steps it went through.
        progress: Checked between the outputs.

    Raises:
        CannotWrite: See `refuse_what_cannot_be`.
        SequenceProblem: The same.
    """
    if not wanted.anything:
        return None
    refuse_what_cannot_be(wanted, worked)

    def make(files: Together, base: str, record: Mapping[str, Any]) -> tuple[tuple[Made, ...], tuple[str, ...]]:
        notes: list[str] = []
        made = tuple(_make(wanted, segmentation, worked, files, base, record, progress or Progress(), notes))
        return made, tuple(notes)

    return make


def write(
    wanted: Wanted,
    segmentation: Segmentation,
    worked: Worked,
    folder: Path,
    record: Mapping[str, Any],
    name: str | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Write what is wanted without the masks, each with a record of how it came about; all or none.

    Args:
        wanted: What.
        segmentation: The result, on the common grid.
        worked: The steps it went through.
        folder: Where to.
        record: What the sidecar of the masks says, from `export.save` or `provenance.describe`.
        name: What to call the outputs; the patient's name by default.
        progress: Checked between them.

    Returns:
        What was written, by what it is, and sentences the user should read.

    Raises:
        CannotWrite: Something of one of the names is there that is not Gliascope's, or the system refused.
        SequenceProblem: See `refuse_what_cannot_be`.
        UnreadableImage: The DICOM files are not there any more.
    """
    make = maker(wanted, segmentation, worked, progress)
    if make is None:
        return {}, ()
    base = file_name(name or worked.name)
    try:
        with Together(folder) as files:
            made, notes = make(files, base, record)
            for one in made:
                provenance.spare(folder / one.name)
                provenance.put_beside(files, one, record)
            files.release()
    except OSError as error:
        raise unwritten(folder / base, error) from error
    return {one.what: folder / one.name for one in made}, notes


def _make(
    wanted: Wanted,
    segmentation: Segmentation,
    worked: Worked,
    files: Together,
    base: str,
    record: Mapping[str, Any],
    progress: Progress,
    notes: list[str],
) -> Iterator[Made]:
    """Write the files; each is told of once it is there."""
    if wanted.grid == WORKING:
        progress.check()
        name = f"{base}_working{MASK_ENDING}"
        nifti.write_label_map(segmentation.label_map, files.new(name))
        yield Made("working_mask", name, "mask on the common grid")
    if wanted.probabilities:
        place = wanted.grid or worked.reference
        for region, volume in probabilities_on(segmentation, worked, wanted.grid).items():
            progress.check()
            name = f"{base}_{region}_probseg.nii.gz"
            nifti.write_volume(volume, files.new(name))
            yield Made(f"probability_{region}", name, f"probability of {region}", {"grid": str(place)})
    if wanted.surfaces:
        from engine import surface

        shapes = surface.of_tumour(segmentation.label_map, progress)
        for region, shape in shapes.items():
            name = f"{base}_{region}.stl"
            surface.write_stl(shape, files.new(name), segmentation.edited_by_hand > 0)
            yield Made(f"surface_{region}", name, f"surface of {region}")
        if not shapes:
            notes.append("There is no tumour, and so no surface to save.")
    if wanted.table:
        progress.check()
        measured = measure(segmentation)
        texts = {
            "csv": as_csv(measured),
            "json": json.dumps(measured, sort_keys=True, indent=2, allow_nan=False) + "\n",
        }
        for ending, text in texts.items():
            name = f"{base}_table.{ending}"
            files.new(name).write_text(text, encoding="utf-8", newline="")
            yield Made(f"table_{ending}", name, "table")
    if wanted.report or wanted.figure:
        # Drawing takes its libraries, which whoever saves masks alone does without.
        from engine import figures, report

        scene = figures.Scene(dict(worked.shown), segmentation.label_map, look=wanted.look)
        page = report.content(segmentation, worked, record, title=wanted.title, scene=scene)
        sides = {"radiological": wanted.look.radiological, "nose_left": wanted.look.nose_left}
    if wanted.figure:
        progress.update(0.0, "drawing the figure sheet")
        name = f"{base}_figure.png"
        figures.sheet(scene, files.new(name), page.about, title=wanted.title)
        size = {"width_mm": figures.SHEET_MM, "dpi": figures.PRINT_DPI}
        yield Made("figure", name, "figure sheet", {**size, **sides})
    if wanted.report:
        progress.update(0.5, "writing the report")
        name = f"{base}_report.pdf"
        report.write(page, files.new(name))
        yield Made("report", name, "report", sides)
    if wanted.dicom_seg:
        from engine import dicom_seg

        progress.check()
        sequence, series = series_of(wanted, worked)
        name = f"{base}_seg.dcm"
        written = dicom_seg.write(segmentation, worked.native(segmentation, sequence), series, files.new(name))
        if written.note:
            notes.append(written.note)
        yield Made("dicom_seg", name, "DICOM segmentation", {"grid": sequence.value})


def _diameters(mask: Mask, labels: LabelMap) -> dict[str, Any]:
    axial = labels.grid.nearest_axes()[0].index(2)
    found = diameters.measure_largest(mask, labels.grid, axial)
    if found is None:
        return {"longest_mm": None, "across_mm": None, "product_cm2": None}
    lines = found[1]
    return {
        "longest_mm": round(lines.longest_mm, 1),
        "across_mm": round(lines.across_mm, 1),
        "product_cm2": round(lines.product_cm2, 2),
    }


def _mean(segmentation: Segmentation, region: str, mask: Mask) -> float | None:
    if region not in segmentation.probabilities or not mask.any():
        return None
    return round(float(segmentation.probabilities[region][mask].mean(dtype=np.float64)), 4)
