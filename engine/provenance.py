"""How a result came about: the record beside every output, and whether all of it still holds.

A record, or sidecar, is JSON in sorted order. Beside a mask ``NAME_seg.nii.gz`` it is ``NAME_seg.json``, and tells of
the masks on other grids too; beside any other output, a picture or a page, it is the output's whole name with ``.json``
after it. It names no person, no path and no file, and holds no free text of a header: files are known by their hashes,
so what was moved or renamed is found again.

`recorded` writes an output with its record, `verify` compares a record with what is there now.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import nifti
from engine.errors import CannotWrite
from engine.files import Together, shown, unwritten
from engine.model_card import RESEARCH_USE, sha256
from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, Grid, LabelMap, Sequence, Subject, Volume, in_words
from engine.workshop import inside_one

if TYPE_CHECKING:
    from engine.inference import Segmentation
    from engine.pipeline import Worked

SIDECAR_FORMAT = 2
MASK_ENDING = "_seg.nii.gz"
ENDING = ".json"
SEAL = "sidecar_sha256"


@dataclass(frozen=True)
class Made:
    """An output that lies in the workshop of a save and gets its name with all others.

    Attributes:
        what: What it is, for programs: ``"table_csv"``.
        name: Of the file.
        kind: What it is, for readers: ``"table"``.
        parameters: What it was made with, as plain JSON values.
    """

    what: str
    name: str
    kind: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


# --- making records ---------------------------------------------------------------------------------------------------


@contextmanager
def recorded(
    path: Path,
    record: Mapping[str, Any],
    kind: str,
    parameters: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Iterator[Path]:
    """Write an output with its record beside it; both appear once both are whole and on the disk, or neither does.

        with provenance.recorded(folder / "anna_report.pdf", record, "report") as partial:
            page.write(partial)

    Args:
        path: The output; its folder is made if it is not there.
        record: How the result came about, from `describe`, or ``Saved.record`` of `export.save`.
        kind: What the output is, in a word or two: ``"report"``, ``"surface of the core"``.
        parameters: What the output was made with, as plain JSON values, such as the width of a picture in mm.
        replace: Whether the user agreed to replace whatever is there. Otherwise only what an untouched record proves
            to be Gliascope's own is replaced.

    Yields:
        Where to write, in a folder of its own, under the very name.

    Raises:
        CannotWrite: Nothing was written, and nothing is left behind.
    """
    try:
        with Together(path.parent) as files:
            if not replace:
                spare(path)
            made = Made(kind, path.name, kind, parameters or {})
            yield files.new(path.name)
            put_beside(files, made, record)
            files.release()
    except OSError as error:
        raise unwritten(path, error) from error


def sidecar_of(output: Path) -> Path:
    """Where the record of an output lies: ``anna_report.pdf.json``; of a mask ``anna_seg.nii.gz`` ``anna_seg.json``."""
    return output.with_name((nifti.stem(output) if output.name.endswith(MASK_ENDING) else output.name) + ENDING)


def put_beside(files: Together, made: Made, record: Mapping[str, Any]) -> None:
    """Write the record of an output that is made already, among the files of a save."""
    told = {key: value for key, value in record.items() if key not in ("mask", "masks", "output", SEAL)}
    told["output"] = {
        "kind": made.kind,
        "sha256": sha256(files.place / made.name),
        **({"made_with": dict(made.parameters)} if made.parameters else {}),
    }
    files.new(sidecar_of(Path(made.name)).name).write_bytes(as_json(sealed(told)))


def spare(path: Path) -> None:
    """Refuse to replace anything but an untouched output of Gliascope's.

    Raises:
        CannotWrite: Something else of that name, or of its record's name, is there.
    """
    sidecar = sidecar_of(path)
    record = read(sidecar)
    for there in (path, sidecar):
        if not there.exists():
            continue
        why = "it was not made by Gliascope"
        if record is not None and not there.is_dir():
            expected = _expected(record.get("output"))
            if expected is not None and (not path.exists() or sha256(path) == expected):
                continue
            why = "it was changed after Gliascope made it"
        raise CannotWrite(
            f"{shown(there)} is there already and is not replaced",
            why,
            "Choose another folder, or move that file away first.",
        )


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with a hash of itself, so that a number changed by hand is noticed.

    It finds damage and slips; it proves nothing against somebody who means to deceive, as anybody can make a new one.
    """
    made = {key: value for key, value in record.items() if key != SEAL}
    return {**made, SEAL: hashlib.sha256(as_json(made)).hexdigest()}


def describe(
    segmentation: Segmentation,
    subject: Subject,
    reason: str = "",
    uncertain: Iterable[Sequence] = (),
    worked: Worked | None = None,
) -> dict[str, Any]:
    """How a result came about, as plain JSON values: what the record and the command line's ``--json`` say.

    Volumes are those on the grid that the model worked on; ``grid`` is that of the mask.

    Args:
        segmentation: The result.
        subject: What was segmented.
        reason: See `export.save`.
        uncertain: See `export.save`.
        worked: See `export.save`. Scans that went through untouched, with nothing asked for, leave no word of it.
    """
    grid = worked.raw[worked.reference].grid if worked is not None else subject.grid
    card = segmentation.card
    read_as: Mapping[Sequence, Volume] = worked.raw if worked is not None else subject
    used, doubted = set(segmentation.used), set(uncertain)
    known = {region: interval for region, interval in segmentation.intervals_ml.items() if interval is not None}
    intervals = {region: [round(float(ml), 3) for ml in interval] for region, interval in known.items()}
    resampled = _resampled(read_as)
    return {
        "format": SIDECAR_FORMAT,
        "software": {"name": "Gliascope", "version": version()},
        "environment": dict(_environment()),
        "research_use": RESEARCH_USE,
        "model": {
            "name": card.name,
            "title": card.title,
            "version": card.version,
            "sha256": card.fingerprint,
            "files": dict(card.files),
        },
        "reason": reason,
        "sequences": {
            "used": [s.value for s in Sequence if s in used],
            "not_used": [s.value for s in subject if s not in used],
            "absent": [s.value for s in Sequence if s not in subject],
            "uncertain": [s.value for s in subject if s in doubted],
        },
        "inputs": {s.value: _input(volume) for s, volume in read_as.items()},
        "labels": {
            "0": "background",
            str(TUMOUR_CORE): "tumour core",
            str(REST_OF_WHOLE_TUMOUR): "rest of the whole tumour",
        },
        "labels_sha256": labels_sha256(segmentation.label_map),
        "volumes_ml": {region: round(float(ml), 3) for region, ml in segmentation.volumes_ml.items()},
        **({"intervals_90_percent_ml": intervals} if intervals else {}),
        "grid": {**described(grid), "oriented": all(volume.oriented for volume in subject.values())},
        "edited_by_hand": segmentation.edited_by_hand,
        "device": segmentation.device,
        "precision": segmentation.precision,
        "fallbacks": list(segmentation.fallbacks),
        "made_at": segmentation.made_at,
        "seconds": round(float(segmentation.seconds), 2),
        **({"resampled": [s.value for s in resampled]} if resampled else {}),
        **({"preparation": worked.recipe()} if worked is not None and _worth_telling(worked) else {}),
        "inference": _inference(segmentation),
        "notes": [
            *segmentation.notes,
            *(worked.doubts if worked is not None else ()),
            *_resampled_in_words(resampled),
        ],
    }


def labels_sha256(label_map: LabelMap) -> str:
    """Of the labels as they are, whatever file they are written to: shape, then a byte a voxel, first axis fastest."""
    digest = hashlib.sha256(" ".join(map(str, label_map.grid.shape)).encode())
    digest.update(np.asfortranarray(label_map.data).T.data)
    return digest.hexdigest()


def as_json(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record: sorted, indented, UTF-8, one newline at the end; equal records give equal bytes."""
    return (json.dumps(dict(record), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read(sidecar: Path) -> dict[str, Any] | None:
    """What a record that Gliascope wrote says; None where there is none, or somebody else's."""
    with suppress(OSError, ValueError):
        record = json.loads(sidecar.read_text(encoding="utf-8"))
        if isinstance(record, dict) and isinstance(record.get("software"), dict):
            return record if record["software"].get("name") == "Gliascope" else None
    return None


@cache
def version() -> str:
    """Gliascope's version, from its own project file in a checkout, else from the installed package."""
    with suppress(OSError, tomllib.TOMLDecodeError, KeyError):
        project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("gliascope")
    return "unknown"


def described(grid: Grid) -> dict[str, Any]:
    """Shape, spacing and orientation of a grid, as plain JSON values."""
    return {
        "shape": list(grid.shape),
        "spacing_mm": [round(mm, 4) for mm in grid.spacing],
        "orientation": grid.orientation,
    }


@cache
def _environment() -> Mapping[str, str]:
    """What else decides what numbers come out: another release may round otherwise."""
    told = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in ("numpy", "openvino", "scipy", "SimpleITK"):
        with suppress(metadata.PackageNotFoundError):
            told[package.lower()] = metadata.version(package)
    return told


def _input(volume: Volume) -> dict[str, Any]:
    """What a scan was when it was read; all None for one that never was a file."""
    origin = volume.origin
    told: dict[str, Any] = {"sha256": origin.sha256 if origin is not None else None}
    if origin is not None and origin.index is not None:
        told["volume"] = origin.index + 1
    if volume.source is not None and inside_one(volume.source):
        from engine import dicom

        converted = dicom.converted_to(volume.source)
        if converted is not None:
            series = converted.series
            told["dicom"] = {"key": series.key, "files": len(series.files), "sha256": converted.content}
    return told


def _worth_telling(worked: Worked) -> bool:
    from engine.pipeline import Settings

    return worked.changed or bool(worked.doubts) or worked.settings.to_json() != Settings().to_json()


def _inference(segmentation: Segmentation) -> dict[str, Any]:
    """What the model was run with."""
    from engine.inference import OVERLAP

    card = segmentation.card
    calibration = card.calibrated(segmentation.used)
    return {
        "normalisation": {"kind": card.normalisation.kind, "clip": card.normalisation.clip},
        "spacing_mm": card.spacing_mm,
        "window": list(card.window),
        "overlap": OVERLAP,
        "mirror_axes": list(card.mirror_axes),
        "threshold": dict(card.threshold),
        "minimum_ml": dict(card.minimum_ml),
        **({"temperature": {r: one.temperature for r, one in calibration.items()}} if calibration is not None else {}),
    }


def _resampled(volumes: Mapping[Sequence, Volume]) -> list[Sequence]:
    """The sequences that came on another grid than their file's before any step was done."""
    return [s for s, v in volumes.items() if v.origin is not None and not v.origin.grid.same_as(v.grid)]


def _resampled_in_words(moved: list[Sequence]) -> list[str]:
    if not moved:
        return []
    was = "was" if len(moved) == 1 else "were"
    return [f"{in_words(moved)} {was} resampled from another grid onto that of the mask."]


def _expected(told: object) -> str | None:
    """The hash that a record gives of one of its outputs."""
    digest = told.get("sha256") if isinstance(told, Mapping) else None
    return digest if isinstance(digest, str) else None
