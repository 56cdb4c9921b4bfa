"""A follow-up as a page to file: the latest date, the course of the volumes, what changed, and what it means."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import rano, report
from engine.figures import Region, Scene
from engine.follow_up import GROWN, SHRUNK, STABLE, TITLES, FollowUp
from engine.model_card import REGIONS, TUMOUR_CORE, WHOLE_TUMOUR
from engine.rano import Measure, percent
from engine.report import Content, Curve, Plot, Section, Table

# The window's colours of change, and of lines on white paper.
CHANGED = (
    Region("Grown", (213, 94, 0), (GROWN,), fill=0.55),
    Region("Shrunk", (76, 155, 232), (SHRUNK,), fill=0.35),
    Region("Stable", (225, 225, 225), (STABLE,)),
)
LINES = {WHOLE_TUMOUR: (32, 117, 168), TUMOUR_CORE: (176, 106, 0)}


def write(made: FollowUp, path: Path) -> Path:
    """Write the page as PDF.

    Args:
        made: What it tells of.
        path: Where to; replaced whole or not at all.

    Raises:
        CannotWrite: The system refused; nothing was changed.
    """
    return report.write(content(made), path)


def content(made: FollowUp) -> Content:
    """What the page says. Names no day, no file and no person."""
    latest = made.latest.point
    record = dict(latest.provenance)
    notes = [*made.doubts(), *(str(note) for note in _listed(record.get("notes")))]
    return Content(
        scene=Scene(dict(latest.shown or latest.subject), latest.labels),
        measured={"regions": {region: _region(made, region) for region in REGIONS}, "lesions": []},
        record={**record, "notes": notes},
        accuracy=(),
        made=_when(record),
        title=f"{made.titles[-1]}, of {len(made.visits)} dates".capitalize(),
        heading="Follow-up",
        extra=(_course(made), _meaning(made), *_changes(made)),
    )


def _region(made: FollowUp, region: str) -> dict[str, Any]:
    visit = made.latest
    lines, interval = visit.diameters.get(region), visit.point.intervals_ml.get(region)
    return {
        "volume_ml": float(visit.point.volumes_ml[region]),
        "interval_90_percent_ml": None if interval is None else list(interval),
        "longest_mm": lines.longest_mm if lines is not None else 0.0,
        "across_mm": lines.across_mm if lines is not None else 0.0,
    }


def _course(made: FollowUp) -> Section:
    days = made.days
    places = tuple(float(at) for at in (days if days is not None else range(len(made.visits))))
    curves, rows = [], []
    for region, title in TITLES.items():
        volume, product = (made.course(region, measure) for measure in (Measure.VOLUME, Measure.PRODUCT))
        ends = [visit.point.intervals_ml.get(region) for visit in made.visits]
        low, high = (tuple(None if end is None else float(end[which]) for end in ends) for which in (0, 1))
        curves.append(Curve(title, LINES[region], places, volume.values, low, high))
        for date, name in enumerate(made.titles):
            end = ends[date]
            rows.append(
                (
                    f"{title}, {name}",
                    f"{volume.values[date]:.1f}",
                    "" if end is None else f"{end[0]:.0f} to {end[1]:.0f}",
                    percent(volume.against_baseline(date)),
                    percent(volume.against_smallest(date)),
                    f"{product.values[date]:.1f}",
                    percent(product.against_baseline(date)),
                    percent(product.against_smallest(date)),
                )
            )
    columns = (
        "", "Volume ml", "90 % interval", "since baseline", "since smallest", "Product cm²", "since baseline",
        "since smallest",
    )  # fmt: skip
    ticks = tuple(zip(places, made.names, strict=True))
    baseline = f"Baseline is {made.names[made.baseline]}. " if len(made.visits) > 2 else ""
    models = "; ".join(f"{name}: {v.point.made_by}" for name, v in zip(made.names, made.visits, strict=True))
    return Section(
        "Volumes over time",
        (f"{baseline}Masks by {models}.",),
        Table(columns, tuple(rows)),
        Plot(tuple(curves), ticks, "ml"),
    )


def _changes(made: FollowUp) -> list[Section]:
    """The map of each region that changed since the date before the latest."""
    since = len(made.visits) - 2
    latest = made.latest.point
    found = []
    for region, title in TITLES.items():
        change = made.change(region, since)
        if not change.labels.data.any():
            continue
        told = (
            f"Since {made.names[since]}: {change.grown_ml:.1f} ml grown, {change.shrunk_ml:.1f} ml shrunk, "
            f"{change.stable_ml:.1f} ml stable. The earlier date was moved and turned onto the latest, not deformed; a "
            "rim of half a voxel means nothing."
        )
        scene = Scene(dict(latest.shown or latest.subject), change.labels, CHANGED)
        found.append(Section(f"Change of the {title.lower()}", (told,), scene=scene))
    return found


def _meaning(made: FollowUp) -> Section:
    return Section("What it means", (*made.findings(), *rano.NOT_JUDGED, f"Limits after {rano.SOURCE}."))


def _listed(notes: object) -> list[object]:
    return list(notes) if isinstance(notes, (list, tuple)) else []


def _when(record: dict[str, Any]) -> datetime:
    """When the latest mask was made, as reports of single results tell it, or now."""
    try:
        return datetime.fromisoformat(record["made_at"])
    except (KeyError, TypeError, ValueError):
        return datetime.now(UTC)
