"""Dates of a patient from files, and a follow-up as files.

A day is told from names of files and folders or from DICOM's headers; it orders the dates on screen and stays in
memory. Outputs speak of date 1, date 2 and the days between, or of what the user called them.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import export, figures, flow, nifti, pipeline, provenance, rano, sequences
from engine.errors import UserError
from engine.files import Together, shown, unwritten
from engine.follow_up import GROWN, NOT_SEEN, SHRUNK, STABLE, TITLES, FollowUp, TimePoint
from engine.model_card import REGIONS, RESEARCH_USE, TUMOUR_CORE, WHOLE_TUMOUR, sha256
from engine.nifti import Convention
from engine.progress import Progress
from engine.provenance import Made
from engine.rano import Measure, percent
from engine.volume import Grid, LabelMap, Sequence, in_order

if TYPE_CHECKING:
    from engine.pipeline import Worked
    from engine.workshop import Workshop

_ISO = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
_DAY_FIRST = re.compile(r"(?<!\d)(0[1-9]|[12]\d|3[01])([-_.])(0[1-9]|1[0-2])\2((?:19|20)\d\d)(?!\d)")

LABELS_OF_CHANGE = {STABLE: "stable", GROWN: "grown", SHRUNK: "shrunk", NOT_SEEN: "not seen then"}

# How lines stand in pictures of print: the window's colours, dark enough for white paper.
_COLOURS = {WHOLE_TUMOUR: (32, 117, 168), TUMOUR_CORE: (176, 106, 0)}


@dataclass(frozen=True, eq=False)
class Date:
    """A date that was found and not read yet.

    Attributes:
        patient: Its scans.
        results: Sidecars of results that may be of these scans.
        when: The day of the scan, where it is known.
    """

    patient: flow.Patient
    results: tuple[Path, ...] = ()
    when: datetime.date | None = None


def day_in(text: str) -> datetime.date | None:
    """The one day that a name tells of: ``2024-05-17``, ``20240517``, ``17.05.2024``; None for none or several."""
    found = set()
    for match in _ISO.finditer(text):
        found.add((match[1], match[3], match[4]))
    for match in _DAY_FIRST.finditer(text):
        found.add((match[4], match[3], match[1]))
    if len(found) != 1:
        return None
    year, month, day = (int(part) for part in found.pop())
    with suppress(ValueError):  # the 31st of a month that has none
        return datetime.date(year, month, day)
    return None


def day_of(patient: flow.Patient) -> datetime.date | None:
    """When a patient was scanned: by DICOM's headers, else by the names of files, folder and the folder above."""
    if patient.study is not None:
        return day_in(patient.study.day)
    if patient.files is None:
        return None
    paths = (*patient.files.files.values(), *patient.files.unknown)
    told = {day_in(nifti.stem(path)) for path in paths} - {None}
    if len(told) == 1:
        return told.pop()
    folder = patient.files.folder.absolute()
    return next((day for part in (folder, *folder.parents[:2]) if (day := day_in(part.name)) is not None), None)


def find(
    paths: Iterable[Path], workshop: Callable[[], Workshop], progress: Progress | None = None
) -> tuple[list[Date], list[UserError]]:
    """The dates in files and folders, in order of their days, and what is wrong with some of them.

    Each patient that is found there is taken for a date. Results of Gliascope lie beside the scans, or are given too,
    as sidecar or folder: the mask of one that was made from these very scans is used instead of a new one.

    Args:
        paths: Of any kind.
        workshop: See `flow.find`.
        progress: Told while headers are read.

    Raises:
        UserError: Nothing at all can be used.
    """
    scans: list[Path] = []
    results: list[Path] = []
    for path in paths:
        if path.name.endswith(export.SIDECAR_ENDING):
            results.append(path)
        elif path.name.endswith(provenance.MASK_ENDING) and _sidecar_of(path).is_file():
            results.append(_sidecar_of(path))
        elif path.is_dir() and (own := _only_results(path)):
            results += own
        else:
            scans.append(path)
    if not scans:
        raise UserError(
            "There are results, and no scans they were made from" if results else "There is no scan",
            "dates are aligned by their scans" if results else "",
            "Add the scans of each date.",
        )
    found, problems = flow.find(scans, workshop, progress=progress)
    dates = [Date(patient, (*results, *_beside(patient)), day_of(patient)) for patient in found]
    if all(one.when is not None for one in dates):
        dates.sort(key=lambda one: one.when or datetime.date.min)
    return dates, problems


def read(
    date: Date, models: flow.Models, progress: Progress | None = None, only: Iterable[Sequence] | None = None
) -> TimePoint:
    """Read the scans of a date, and find the tumour unless a mask of these very scans is there.

    Args:
        date: From `find`.
        models: Shared by all dates.
        progress: Told of every step; cancelling it stops within a second.
        only: The sequences to take, so that every date is segmented alike; all that are there, or a saved mask, when
            not given.

    Raises:
        UserError: See `flow.read` and `flow.compute`.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    scans = flow.read(date.patient, progress.part(0.0, 0.15), only=only)
    notes: tuple[str, ...] = ()
    for sidecar in dict.fromkeys(date.results if only is None else ()):
        record = _record(sidecar)
        if record is None or not _made_from(record, scans):
            continue
        mask = sidecar.with_name(sidecar.name.removesuffix(export.SIDECAR_ENDING) + provenance.MASK_ENDING)
        if not mask.is_file() or sha256(mask) != record["mask"]["sha256"]:
            notes += (f"{shown(mask)} was changed since it was saved, so it is not used.",)
            continue
        worked = pipeline.work(scans.name, scans.volumes, progress=progress.part(0.15, 0.95))
        labels = _brought(nifti.read_label_map(mask, Convention.GLIASCOPE), worked)
        if labels is None:
            notes += (f"{shown(mask)} does not lie on the grid of its scans, so it is not used.",)
            continue
        kept = f"The mask is that of {shown(mask)}."
        return _kept(record, labels, worked, date.when, (*scans.notes, *notes, kept, *worked.doubts))
    result = flow.compute(scans, models, progress=progress.part(0.15, 1.0))
    point = TimePoint.of(result.worked, result.segmentation, when=date.when, reason=result.choice.reason)
    return replace(point, notes=(*scans.notes, *notes, *point.notes))


# --- results that were saved ------------------------------------------------------------------------------------------


def _sidecar_of(mask: Path) -> Path:
    return mask.with_name(mask.name.removesuffix(provenance.MASK_ENDING) + export.SIDECAR_ENDING)


def _only_results(folder: Path) -> list[Path]:
    """The sidecars of a folder that holds results of Gliascope and no scan."""
    with suppress(OSError):
        names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        images = [path for path in names if nifti.is_nifti_name(path) and not sequences.is_segmentation(path)]
        if not images and not any(path.is_dir() for path in names):
            return [path for path in names if path.name.endswith(export.SIDECAR_ENDING)]
    return []


def _beside(patient: flow.Patient) -> list[Path]:
    if patient.files is None:
        return []
    with suppress(OSError):
        return sorted(patient.files.folder.glob(f"*{export.SIDECAR_ENDING}"))
    return []


def _record(sidecar: Path) -> dict[str, Any] | None:
    """What a sidecar of Gliascope's says; None for any other file."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        record = json.loads(sidecar.read_text(encoding="utf-8"))
        named = record["software"]["name"] == "Gliascope" and isinstance(record["mask"]["sha256"], str)
        whole = set(record["volumes_ml"]) == set(REGIONS) and record["sequences"]["used"] and record["model"]["name"]
        return record if named and whole and isinstance(record["inputs"], dict) else None
    return None


def _made_from(record: Mapping[str, Any], scans: flow.Scans) -> bool:
    """Whether a result was made from these very files, told by their content."""
    with suppress(KeyError, TypeError, ValueError, OSError):
        used = [Sequence(name) for name in record["sequences"]["used"]]
        here = {s: volume.origin.sha256 for s, volume in scans.volumes.items() if volume.origin is not None}
        return all(s in here and record["inputs"][s.value]["sha256"] == here[s] for s in used)
    return False


def _brought(labels: LabelMap, worked: Worked) -> LabelMap | None:
    """A saved mask on the grid that the models work on; None where it was drawn on none of the scans."""
    order = sorted(worked.raw, key=lambda s: s is not worked.reference)
    drawn_on = next((s for s in order if labels.grid.same_as(worked.raw[s].grid)), None)
    if drawn_on is None:
        return None
    grid = worked.own_grid(drawn_on)
    if grid.same_as(worked.grid, 1e-3):
        return LabelMap(labels.data, worked.grid)
    return sequences.resample_label_map(LabelMap(labels.data, Grid(grid.shape, grid.affine)), worked.grid)


def _kept(
    record: Mapping[str, Any], labels: LabelMap, worked: Worked, when: datetime.date | None, notes: tuple[str, ...]
) -> TimePoint:
    model, edited = record["model"], int(record.get("edited_by_hand") or 0)
    known: Mapping[str, Any] = {} if edited else record.get("intervals_90_percent_ml") or {}
    used = in_order(Sequence(name) for name in record["sequences"]["used"])
    intervals = {r: (float(known[r][0]), float(known[r][1])) if r in known else None for r in REGIONS}
    return TimePoint(
        subject=worked.subject,
        labels=labels,
        volumes_ml={region: float(record["volumes_ml"][region]) for region in REGIONS},
        intervals_ml=intervals,
        model=f"{model.get('title', model['name'])} {model.get('version', '')}".strip(),
        model_key=f"{model['name']} {model.get('version', '')} {'+'.join(used)}",
        used=used,
        when=when,
        shown=worked.shown,
        edited_by_hand=edited,
        notes=notes,
        provenance={key: value for key, value in record.items() if key != "masks"},
    )


# --- a follow-up as files ---------------------------------------------------------------------------------------------


def as_json(made: FollowUp) -> dict[str, Any]:
    """All numbers and sentences, as plain JSON values. Names no file, no day and no person."""
    days, names = made.days, made.names

    def numbers(date: int) -> dict[str, Any]:
        visit = made.visits[date]
        regions: dict[str, Any] = {}
        for region in REGIONS:
            interval = visit.point.intervals_ml.get(region)
            lines = visit.diameters.get(region)
            regions[region] = {
                "volume_ml": round(float(visit.point.volumes_ml[region]), 3),
                "interval_90_percent_ml": None if interval is None else [round(float(ml), 3) for ml in interval],
                "longest_mm": None if lines is None else round(lines.longest_mm, 1),
                "across_mm": None if lines is None else round(lines.across_mm, 1),
                "product_cm2": None if lines is None else round(lines.product_cm2, 2),
                **{measure.value: _course(made, region, measure, date) for measure in Measure},
            }
        return {
            "date": names[date],
            "day": None if days is None else days[date],
            "model": visit.point.model,
            "sequences": [s.value for s in visit.point.used],
            "edited_by_hand": visit.point.edited_by_hand,
            "alignment": {
                "matrix": np.round(visit.matrix, 6).tolist(),
                "quality": None if visit.quality is None else round(visit.quality, 3),
            },
            "regions": regions,
            "notes": _notes(visit.point),
        }

    changes = [
        {
            "region": change.region,
            "since": names[change.since],
            "grown_ml": round(change.grown_ml, 3),
            "shrunk_ml": round(change.shrunk_ml, 3),
            "stable_ml": round(change.stable_ml, 3),
            "not_seen_ml": round(change.ml(NOT_SEEN), 3),
        }
        for change in made.changes
    ]
    return {
        "research_use": RESEARCH_USE,
        "criteria": rano.SOURCE,
        "baseline": names[made.baseline],
        "dates": [numbers(date) for date in range(len(made.visits))],
        "changes": changes,
        "new_pieces": [
            {"volume_ml": round(one.ml, 3), "centre_mm": [round(float(mm), 1) for mm in one.place]} for one in made.new
        ],
        "findings": list(made.findings()),
        "doubts": list(made.doubts()),
        "not_judged": list(rano.NOT_JUDGED),
    }


def _notes(point: TimePoint) -> list[str]:
    """What is said in the sidecar of its mask; what is said on screen besides may name files."""
    notes = point.provenance.get("notes", ())
    return [str(note) for note in notes] if isinstance(notes, (list, tuple)) else []


def _course(made: FollowUp, region: str, measure: Measure, date: int) -> dict[str, Any]:
    course = made.course(region, measure)
    found = course.range_at(date, minor=region == WHOLE_TUMOUR)
    changes = {
        "since_baseline_percent": course.against_baseline(date),
        "since_smallest_percent": course.against_smallest(date),
    }
    return {
        **{key: None if change is None else round(100 * change, 1) for key, change in changes.items()},
        "range": None if found is None else found.value,
    }


COLUMNS = (
    "date", "day", "model", "sequences", "edited_by_hand", "region", "volume_ml", "low_ml", "high_ml", "longest_mm",
    "across_mm", "product_cm2", "volume_since_baseline_percent", "volume_since_smallest_percent", "volume_range",
    "product_since_baseline_percent", "product_since_smallest_percent", "product_range", "grown_to_latest_ml",
    "shrunk_to_latest_ml", "stable_to_latest_ml",
)  # fmt: skip


def as_csv(made: FollowUp) -> str:
    """One line a date and region; an empty cell is a value that does not exist."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    values = as_json(made)
    for number, one in enumerate(values["dates"]):
        for region in REGIONS:
            cells = one["regions"][region]
            low, high = cells["interval_90_percent_ml"] or ("", "")
            row = {**one, **cells, "region": region, "low_ml": low, "high_ml": high}
            row["sequences"] = "+".join(one["sequences"])
            for measure in Measure:
                row |= {f"{measure.value}_{key}": value for key, value in cells[measure.value].items()}
            if number < len(made.visits) - 1:
                change = made.change(region, number)
                row |= {
                    "grown_to_latest_ml": round(change.grown_ml, 3),
                    "shrunk_to_latest_ml": round(change.shrunk_ml, 3),
                    "stable_to_latest_ml": round(change.stable_ml, 3),
                }
            table.writerow(row)
    return text.getvalue()


def write(made: FollowUp, folder: Path, name: str = "follow-up", progress: Progress | None = None) -> dict[str, Path]:
    """Write numbers, plot and maps of change, each with a record of how it came about.

    Args:
        made: What to write.
        folder: Where to; made if it is not there.
        name: What the files are called.
        progress: Checked between them.

    Returns:
        What was written, by what it is.

    Raises:
        CannotWrite: Something of one of the names is there that is not Gliascope's, or the system refused.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    base = export.file_name(name)
    try:
        with Together(folder) as files:
            made_files = tuple(_make(made, files, base, progress))
            for one in made_files:
                provenance.spare(folder / one.name)
                provenance.put_beside(files, one, _provenance(made))
            files.release()
    except OSError as error:
        raise unwritten(folder / base, error) from error
    progress.update(1.0, "written")
    return {one.what: folder / one.name for one in made_files}


def _make(made: FollowUp, files: Together, base: str, progress: Progress) -> Iterator[Made]:
    """Write the files; each is told of once it is there."""
    texts = {
        "csv": as_csv(made),
        "json": json.dumps(as_json(made), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for ending, text in texts.items():
        progress.update(0.0, "writing numbers")
        name = f"{base}.{ending}"
        files.new(name).write_text(text, encoding="utf-8", newline="")
        yield Made(ending, name, "follow-up")
    progress.update(0.2, "drawing the plot")
    name = f"{base}_plot.png"
    plot_png(made, files.new(name))
    yield Made("plot", name, "plot of a follow-up")
    if made.latest.point.provenance:
        from engine import follow_up_report

        progress.update(0.3, "writing the report")
        name = f"{base}.pdf"
        follow_up_report.write(made, files.new(name))
        yield Made("report", name, "report of a follow-up")
    since = len(made.visits) - 2
    for number, region in enumerate(REGIONS):
        progress.update(0.4 + 0.3 * number, "writing maps of change")
        name = f"{base}_{region}_change.nii.gz"
        nifti.write_label_map(made.change(region, since).labels, files.new(name))
        labels = {str(value): words for value, words in LABELS_OF_CHANGE.items()}
        yield Made(f"change_{region}", name, f"change of {region}", {"since": made.names[since], "labels": labels})


def _provenance(made: FollowUp) -> dict[str, Any]:
    return {
        "format": provenance.SIDECAR_FORMAT,
        "software": {"name": "Gliascope", "version": provenance.version()},
        "research_use": RESEARCH_USE,
        "criteria": rano.SOURCE,
        "baseline": made.names[made.baseline],
        "dates": [
            {"date": name, "matrix": np.round(visit.matrix, 6).tolist(), **visit.point.provenance}
            for name, visit in zip(made.names, made.visits, strict=True)
        ],
    }


# --- the plot ---------------------------------------------------------------------------------------------------------

_TOP_MM, _LEFT_MM, _BELOW_MM = 8.0, 12.0, 10.5


def plot_png(made: FollowUp, path: Path, width_mm: float = 160.0, height_mm: float = 80.0, dpi: float = 300.0) -> Path:
    """Write volumes over time with their intervals as PNG for print.

    Raises:
        CannotWrite: The system refused; nothing was changed.
    """
    canvas = figures.Raster(width_mm, height_mm + 4.0, dpi)
    draw_plot(canvas, made, (0.0, 0.0, width_mm, height_mm))
    canvas.words(0.0, height_mm + 2.6, RESEARCH_USE, 6.0, figures.FAINT)
    return canvas.save(path)


def draw_plot(canvas: figures.Canvas, made: FollowUp, area: figures.Area) -> None:
    """Draw volumes over time onto paper.

    Args:
        canvas: What is drawn on.
        made: Whose volumes.
        area: Left, top, width and height in mm.
    """
    left, top, width, height = area
    x0, y0, x1, y1 = left + _LEFT_MM, top + _TOP_MM, left + width - 36.0, top + height - _BELOW_MM
    places = places_of(made)
    highest = _nice(max(_highest(made), 1e-6))
    steps = 4

    def at(place: float, ml: float) -> tuple[float, float]:
        return x0 + 4.0 + place * (x1 - x0 - 8.0), y1 - ml / highest * (y1 - y0)

    canvas.words(left, top + 3.2, "Volume in ml, with the interval it lies in 90 of 100 times", 7.5, figures.INK)
    for number in range(steps + 1):
        y = y1 - number / steps * (y1 - y0)
        canvas.lines((np.array([[x0, y], [x1, y]]),), figures.HAIRLINE, 0.5)
        canvas.words(x0 - 1.5, y + 0.9, f"{highest * number / steps:g}", 6.5, figures.FAINT, "right")
    room = (x1 - x0) / max(1, len(places))
    for number, (place, name) in enumerate(zip(places, made.titles, strict=True)):
        x = at(place, 0)[0]
        words = figures.shortened(name, 6.5, max(room, 20.0))
        canvas.words(x, y1 + 3.4, words, 6.5, figures.INK, "centre")
        if number == made.baseline:
            canvas.words(x, y1 + 6.6, "baseline", 6.0, figures.FAINT, "centre")
    ends = []
    for shift, region in ((-0.5, WHOLE_TUMOUR), (0.5, TUMOUR_CORE)):
        colour = _COLOURS[region]
        course = made.course(region, Measure.VOLUME)
        line = np.array([at(place, ml) for place, ml in zip(places, course.values, strict=True)]) + (shift, 0.0)
        canvas.lines((line,), colour, 1.2)
        for (x, y), visit in zip(line, made.visits, strict=True):
            interval = visit.point.intervals_ml.get(region)
            if interval is not None:
                low, high = (at(0, ml)[1] for ml in interval)
                caps = [np.array([[x - 0.9, end], [x + 0.9, end]]) for end in (low, high)]
                canvas.lines((np.array([[x, low], [x, high]]), *caps), colour, 0.6)
            turns = np.linspace(0, 2 * np.pi, 25)[:-1]
            dot = np.stack([x + 0.45 * np.cos(turns), y + 0.45 * np.sin(turns)], axis=1)
            canvas.lines((dot,), colour, 2.4, closed=True)
        ends.append((float(line[-1][1]), region, course))
    ends.sort()
    if abs(ends[1][0] - ends[0][0]) < 7.5:
        middle = min((ends[0][0] + ends[1][0]) / 2, y1 - 4.0)
        ends = [(middle - 3.75, *ends[0][1:]), (middle + 3.75, *ends[1][1:])]
    for y, region, course in ends:
        last = len(course.values) - 1
        canvas.words(x1 + 2.0, y + 0.6, f"{TITLES[region]} {course.values[last]:.1f} ml", 7.0, _COLOURS[region])
        change = percent(course.against_baseline(last))
        if change:
            canvas.words(x1 + 2.0, y + 3.6, f"{change} since baseline", 6.0, figures.FAINT)


def places_of(made: FollowUp) -> list[float]:
    """Where each date lies between the first (0) and the last (1): by days where they are known, else evenly."""
    days = made.days
    if days is None or days[-1] == days[0]:
        return [number / (len(made.visits) - 1) for number in range(len(made.visits))]
    return [day / days[-1] for day in days]


def _highest(made: FollowUp) -> float:
    ends = [interval[1] for v in made.visits for interval in v.point.intervals_ml.values() if interval is not None]
    return max([*ends, *(float(ml) for visit in made.visits for ml in visit.point.volumes_ml.values())])


def _nice(value: float) -> float:
    """The next number above that divides into four round steps."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(power * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if power * step >= value * 1.02)
                 if value < power * 9.8 else power * 12)  # fmt: skip
