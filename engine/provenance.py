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
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import nifti
from engine.errors import BadModel, CannotWrite, UnreadableImage, UserError
from engine.files import Together, shown, unwritten
from engine.model_card import RESEARCH_USE, sha256
from engine.progress import Progress
from engine.volume import (
    REST_OF_WHOLE_TUMOUR,
    TUMOUR_CORE,
    Grid,
    LabelMap,
    Sequence,
    Subject,
    Volume,
    in_order,
    in_words,
)
from engine.workshop import Workshop, inside_one

if TYPE_CHECKING:
    from engine.inference import Segmentation
    from engine.model_card import ModelCard
    from engine.pipeline import Settings, Worked

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
    files.new(sidecar_of(Path(made.name)).name, first=True).write_bytes(as_json(sealed(told)))


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
    scans = describe_scans(read_as, worked)
    used, doubted = set(segmentation.used), set(uncertain)
    known = {region: interval for region, interval in segmentation.intervals_ml.items() if interval is not None}
    intervals = {region: [round(float(ml), 3) for ml in interval] for region, interval in known.items()}
    return {
        **scans,
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
        "inference": _inference(segmentation),
        "notes": [*segmentation.notes, *scans["notes"]],
    }


def describe_scans(volumes: Mapping[Sequence, Volume], worked: Worked | None = None) -> dict[str, Any]:
    """The same of scans in which no tumour was looked for, for a picture of them.

    Args:
        volumes: As they were read.
        worked: The steps they went through.
    """
    resampled = _resampled(volumes)
    return {
        "format": SIDECAR_FORMAT,
        "software": {"name": "Gliascope", "version": version()},
        "environment": dict(_environment()),
        "research_use": RESEARCH_USE,
        "sequences": {
            "used": [],
            "not_used": [s.value for s in Sequence if s in volumes],
            "absent": [s.value for s in Sequence if s not in volumes],
            "uncertain": [],
        },
        "inputs": {s.value: _input(volumes[s]) for s in Sequence if s in volumes},
        **({"resampled": [s.value for s in resampled]} if resampled else {}),
        **({"preparation": worked.recipe()} if worked is not None and _worth_telling(worked) else {}),
        "notes": [*(worked.doubts if worked is not None else ()), *_resampled_in_words(resampled)],
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


def _part(record: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A table inside a record; empty where there is none, or something else in its place."""
    part: object = record
    for key in keys:
        part = part.get(key) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}


# --- looking whether records hold -------------------------------------------------------------------------------------


class State(StrEnum):
    """What became of something that a record tells of."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    MISSING = "missing"
    NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at.

    Attributes:
        what: ``"record"``, ``"output"``, ``"model"``, ``"again"``, or of a scan the sequence, such as ``"t1ce"``.
        state: What became of it.
        sentence: The same for the user.
    """

    what: str
    state: State
    sentence: str


@dataclass(frozen=True)
class Report:
    """What verifying one output, and all that its record tells of, gave.

    Attributes:
        path: What was to be verified.
        record: Its record.
        items: In the order of looking.
        notes: Sentences that say neither that all is well nor that it is not.
    """

    path: Path
    record: Path
    items: tuple[Checked, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing that was recorded was changed or is missing."""
        return not any(item.state in (State.CHANGED, State.MISSING) for item in self.items)

    @property
    def lacks_scans(self) -> bool:
        """Whether a scan was not found, so that it would help to say where they lie."""
        return any(item.state is State.MISSING and item.what in tuple(Sequence) for item in self.items)

    @property
    def sentence(self) -> str:
        """All of it in one or two."""
        known = [item for item in self.items if item.what != "again"]
        counts = {state: sum(item.state is state for item in known) for state in State}
        wrong = [
            f"{_things(counts[state])} {word}"
            for state, word in ((State.CHANGED, "changed"), (State.MISSING, "not found"))
            if counts[state]
        ]
        told = f"Not everything is as it was: {' and '.join(wrong)}." if wrong else ""
        if not wrong:
            told = "Everything that was recorded is unchanged."
            if unknown := counts[State.NOT_RECORDED]:
                thing = _things(unknown)
                told += f" {thing[0].upper()}{thing[1:]} not recorded and could not be compared."
        tried = {item.state for item in self.items if item.what == "again"}
        for state, words in _TRIED.items():
            if state in tried:
                return f"{told} {words}"
        return told

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "path": str(self.path),
            "record": str(self.record),
            "ok": self.ok,
            "sentence": self.sentence,
            "items": [vars(item) | {"state": item.state.value} for item in self.items],
            "notes": list(self.notes),
        }


# What segmenting again gave, the gravest first.
_TRIED = {
    State.CHANGED: "Segmented again, it comes out otherwise.",
    State.MISSING: "It could not be segmented again.",
    State.NOT_RECORDED: "It cannot be made again from the scans alone.",
    State.UNCHANGED: "Segmented again, it comes out the same.",
}


@dataclass
class Repeated:
    """The last segmentation that was made again: the records of several outputs of one result share it."""

    key: str = ""
    made: tuple[Worked, Segmentation] | None = None


class NoRecord(UserError):
    """Nothing beside an output says how it came about."""


# So many files are looked at around a result when nobody said where its scans are.
_NEAR = 500


def find_records(path: Path) -> list[Path]:
    """What `verify` is to be asked about: a file itself, or in a folder every record that Gliascope wrote.

    Raises:
        NoRecord: The folder holds none.
        UnreadableImage: There is no such file or folder.
    """
    if not path.is_dir():
        if not path.exists():
            raise UnreadableImage(f"{shown(path)} is not there", "", "It may have been moved; choose it again.")
        return [path]
    found = [one for one in sorted(path.rglob(f"*{ENDING}")) if _told_outputs(one, read(one) or {})]
    if not found:
        raise NoRecord(
            f"The folder {shown(path)} holds no record of a result", "", "Choose the folder that results were saved in."
        )
    return found


def verify(
    path: Path,
    inputs: Path | Iterable[Path] | None = None,
    again: bool = False,
    progress: Progress | None = None,
    repeated: Repeated | None = None,
) -> Report:
    """Compare an output and everything it was made from with its record.

    Files are known by their hashes: what was renamed or moved with its folder is found again. A record holds no path,
    so scans that lie elsewhere than beside the result are found only where somebody says.

    Args:
        path: An output, or a record.
        inputs: Folders or files in which the scans are looked for, however deep; DICOM too. By default around the
            result.
        again: Segment once more from the same scans with the same model and steps, and compare every voxel.
        progress: Told of every file; cancelling stops within a second.
        repeated: Shared by calls for several outputs, so that one result is segmented again only once.

    Raises:
        NoRecord: Nothing beside it says how it came about.
        UnreadableImage: It is not there.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    progress.update(0.0, "reading the record")
    record_path, record = _record_of(path)
    items = [_sealed_still(record_path, record)]
    outputs = _Outputs(record_path, record)
    items += outputs.check(progress.part(0.0, 0.05))
    places = [inputs] if isinstance(inputs, Path) else list(inputs or ())
    results = _results(record)
    with Workshop() as workshop:
        for number, (date, result) in enumerate(results):
            part = progress.part(0.05 + 0.95 * number / len(results), 0.05 + 0.95 * (number + 1) / len(results))
            scans = _Scans(record_path.parent, places, result, workshop)
            found = scans.check(part.part(0.0, 0.25 if again else 0.8))
            part.update(0.25 if again else 0.8, "looking at the model")
            model, card = _model_still(result)
            found += [model] if model is not None else []
            if again and model is not None:
                found += _Again(result, outputs, scans, card, repeated or Repeated()).check(part.part(0.3, 1.0))
            items += [replace(one, sentence=f"{date}: {one.sentence}") for one in found] if date else found
    progress.update(1.0, "done")
    return Report(path, record_path, tuple(items), tuple(_notes(record, again)))


def _results(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The results that a record tells of: one without a name, or of a follow-up one for each date."""
    dates = record.get("dates")
    if isinstance(dates, list) and dates and all(isinstance(one, Mapping) for one in dates):
        return [(str(one.get("date", "")), one) for one in dates]
    return [("", record)]


def _record_of(path: Path) -> tuple[Path, dict[str, Any]]:
    """The record of an output, or the record itself that was named."""
    if not path.is_file():
        raise UnreadableImage(f"{shown(path)} is not there", "", "It may have been moved; choose it again.")
    if path.name.endswith(ENDING) and (record := read(path)) is not None and ("inputs" in record or "dates" in record):
        return path, record
    candidates = [sidecar_of(path)]
    if path.name.endswith(MASK_ENDING):
        whole = path.name.removesuffix(MASK_ENDING)
        candidates += [path.with_name(f"{whole.removesuffix(f'_{s.value}')}_seg{ENDING}") for s in Sequence]
    for candidate in candidates:
        if (record := read(candidate)) is not None:
            return candidate, record
    # Renamed, perhaps: a record that knows this very content will do.
    digest = sha256(path)
    for candidate in sorted(path.parent.glob(f"*{ENDING}")):
        record = read(candidate)
        if record is not None and digest in _told_outputs(candidate, record).values():
            return candidate, record
    raise NoRecord(
        f"Nothing beside {shown(path)} says how it came about",
        "Gliascope writes a .json file beside everything it saves",
        "Choose a file that was saved by Gliascope, with its .json file beside it.",
    )


def _told_outputs(sidecar: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Names and hashes of the outputs that a record tells of, the name being the one they were saved under."""
    told: dict[str, str] = {}
    base = sidecar.name.removesuffix(f"_seg{ENDING}")
    if digest := _expected(record.get("mask")):
        told[base + MASK_ENDING] = digest
    for key, other in _part(record, "masks").items():
        if digest := _expected(other):
            told[f"{base}_{key}{MASK_ENDING}"] = digest
    if digest := _expected(record.get("output")):
        name = sidecar.name.removesuffix(ENDING)
        told[f"{name}.nii.gz" if name.endswith("_seg") else name] = digest
    return told


def _sealed_still(sidecar: Path, record: Mapping[str, Any]) -> Checked:
    name = shown(sidecar)
    if SEAL not in record:
        return Checked("record", State.NOT_RECORDED, f"{name} was written before records had a hash of themselves.")
    still = ""
    with suppress(ValueError):  # a number or a letter that we would never have written
        still = sealed(record)[SEAL]
    if still != record[SEAL]:
        return Checked("record", State.CHANGED, f"{name}, the record itself, was changed after it was written.")
    return Checked("record", State.UNCHANGED, f"{name}, the record itself, is unchanged.")


class _Outputs:
    """The files that a record tells of."""

    def __init__(self, sidecar: Path, record: Mapping[str, Any]) -> None:
        self.record = record
        self.folder = sidecar.parent
        self.base = sidecar.name.removesuffix(f"_seg{ENDING}")
        self.expected = _told_outputs(sidecar, record)
        self.there: dict[str, Path] = {}  # by the name they were saved under

    def check(self, progress: Progress) -> list[Checked]:
        if not self.expected:
            return [Checked("output", State.NOT_RECORDED, "The record does not say which file it belongs to.")]
        items = []
        for number, (name, digest) in enumerate(self.expected.items()):
            progress.update(number / len(self.expected), f"looking at {name}")
            items.append(self._look(name, digest))
        return items

    def _look(self, name: str, expected: str) -> Checked:
        path = self.folder / name
        if path.is_file():
            self.there[name] = path
            if sha256(path) == expected:
                return Checked("output", State.UNCHANGED, f"{shown(path)} is unchanged.")
            return Checked("output", State.CHANGED, f"{shown(path)} was changed after Gliascope saved it.")
        ending = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
        for other in sorted(self.folder.glob(f"*{ending}")):
            if other.is_file() and sha256(other) == expected:
                self.there[name] = other
                return Checked("output", State.UNCHANGED, f"{name} is unchanged; it is called {shown(other)} now.")
        return Checked("output", State.MISSING, f"{name} is not there any more.")

    def masks(self) -> dict[Sequence | None, Path]:
        """The masks that are there; on the grid of the reference under None."""
        if _expected(self.record.get("mask")) is None:
            return {}
        names: dict[Sequence | None, str] = {None: self.base + MASK_ENDING}
        names |= {s: f"{self.base}_{s.value}{MASK_ENDING}" for s in Sequence if s.value in _part(self.record, "masks")}
        return {key: self.there[name] for key, name in names.items() if name in self.there}


class _Scans:
    """The scans that a record tells of, wherever they are now."""

    def __init__(self, beside: Path, places: list[Path], record: Mapping[str, Any], workshop: Workshop) -> None:
        self.beside = beside
        self.places = places
        self.workshop = workshop
        told = _part(record, "inputs")
        self.told: dict[Sequence, Mapping[str, Any]] = {
            s: told[s.value] for s in Sequence if isinstance(told.get(s.value), Mapping)
        }
        self.files: dict[Sequence, Path] = {}
        self.series: dict[Sequence, Any] = {}

    @property
    def complete(self) -> bool:
        """Whether every scan was found as it was."""
        return bool(self.told) and all(s in self.files or s in self.series for s in self.told)

    def check(self, progress: Progress) -> list[Checked]:
        if not self.told:
            return [Checked("scans", State.NOT_RECORDED, "The record does not say which scans it was made from.")]
        dicom = {s: one["dicom"] for s, one in self.told.items() if isinstance(one.get("dicom"), Mapping)}
        wanted = {s: digest for s, one in self.told.items() if s not in dicom and (digest := _expected(one))}
        seen = self._find(wanted, progress.part(0.0, 0.5 if dicom else 1.0))
        said = self._find_series(dicom, progress.part(0.5, 1.0)) if dicom else {}
        items = []
        for sequence in self.told:
            if sequence in said:
                items.append(said[sequence])
            elif sequence not in wanted:
                sentence = f"{sequence.title} was made in memory, so there is no file to compare."
                items.append(Checked(sequence.value, State.NOT_RECORDED, sentence))
            elif sequence in self.files:
                sentence = f"{sequence.title} is unchanged: {shown(self.files[sequence])}."
                items.append(Checked(sequence.value, State.UNCHANGED, sentence))
            else:
                items.append(self._not_found(sequence, seen))
        return items

    def _find(self, wanted: Mapping[Sequence, str], progress: Progress) -> list[Path]:
        """Look for scans by content; returns the files that were looked at."""
        by_digest: dict[str, list[Sequence]] = {}
        for sequence, digest in wanted.items():
            by_digest.setdefault(digest, []).append(sequence)
        seen: list[Path] = []
        for path in self._candidates() if wanted else ():
            progress.update(min(0.99, len(self.files) / len(wanted)), f"looking at {shown(path)}")
            seen.append(path)
            with suppress(OSError):
                for sequence in by_digest.get(sha256(path), ()):
                    self.files.setdefault(sequence, path)
            if len(self.files) == len(wanted):
                break
        return seen

    def _candidates(self) -> Iterator[Path]:
        """Scans that may be those, the likelier first."""
        for place in self.places:
            if place.is_file():
                yield place
            else:
                yield from (p for p in sorted(place.rglob("*")) if nifti.is_nifti_name(p) and p.is_file())
        if self.places:
            return
        count = 0
        # The result's own folder, what lies in it, and what lies beside it.
        for folder, pattern in (
            (self.beside, "*"),
            (self.beside, "*/*"),
            (self.beside.parent, "*"),
            (self.beside.parent, "*/*"),
        ):
            for path in sorted(folder.glob(pattern)):
                if nifti.is_nifti_name(path) and path.is_file() and not nifti.made_by_gliascope(path):
                    yield path
                    count += 1
                    if count >= _NEAR:
                        return

    def _not_found(self, sequence: Sequence, seen: list[Path]) -> Checked:
        """Whether another file stands in a scan's place, or there is none."""
        from engine import sequences

        alike = [p for p in seen if not sequences.is_segmentation(p) and sequences.detect(p).sequence is sequence]
        homes = {path.parent for path in self.files.values()}
        in_place = [path for path in alike if path.parent in homes] or (alike if not homes else [])
        if len(in_place) == 1:
            sentence = f"{shown(in_place[0])} is not the {sequence.title} that was segmented: its content is another."
            return Checked(sequence.value, State.CHANGED, sentence)
        where = "in the folder that was named" if self.places else "near the result"
        return Checked(sequence.value, State.MISSING, f"{sequence.title} was not found {where}.")

    def _find_series(self, told: Mapping[Sequence, Mapping[str, Any]], progress: Progress) -> dict[Sequence, Checked]:
        from engine import dicom

        places = self.places or [self.beside]
        by_key: dict[str, Any] = {}
        if dicom.looks_like_dicom(places):
            with suppress(UnreadableImage):
                for study in dicom.look(places, self.workshop, progress.part(0.0, 0.5)):
                    by_key |= {series.key: series for series in study.series}
        said: dict[Sequence, Checked] = {}
        for number, (sequence, one) in enumerate(told.items()):
            progress.update(0.5 + 0.5 * number / len(told), f"looking at the images of {sequence.title}")
            series = by_key.get(str(one.get("key")))
            if series is None:
                where = "in the folder that was named" if self.places else "near the result"
                sentence = f"The DICOM series of {sequence.title} was not found {where}."
                said[sequence] = Checked(sequence.value, State.MISSING, sentence)
                continue
            now, then = len(series.files), one.get("files")
            if dicom.content(series, progress) == one.get("sha256"):
                self.series[sequence] = series
                sentence = f"The DICOM series of {sequence.title} is unchanged: {now} files."
                said[sequence] = Checked(sequence.value, State.UNCHANGED, sentence)
            else:
                how = f"{now} files now, {then} then" if now != then else f"{now} files, and not all are as they were"
                sentence = f"The DICOM series of {sequence.title} was changed: {how}."
                said[sequence] = Checked(sequence.value, State.CHANGED, sentence)
        return said

    def read(self, record: Mapping[str, Any], progress: Progress) -> Mapping[Sequence, Volume]:
        """The volumes as they were read then."""
        from engine import dicom, sequences
        from engine.sequences import SubjectFiles

        files, indices = dict(self.files), {}
        for sequence, one in self.told.items():
            if sequence in self.series:
                converted = dicom.convert(self.series[sequence], self.workshop, progress)
                files[sequence] = converted.path
                if converted.index is not None:
                    indices[sequence] = converted.index
            elif isinstance(one.get("volume"), int):
                indices[sequence] = one["volume"] - 1
        ordered = {s: files[s] for s in Sequence if s in files}
        subject = SubjectFiles("again", ordered, (), None, self.beside, volumes=indices)
        if record.get("resampled"):
            return dict(sequences.load(subject, resample=True, progress=progress))
        return sequences.read(subject, progress)


class _Again:
    """The same segmentation once more."""

    def __init__(
        self,
        record: Mapping[str, Any],
        outputs: _Outputs,
        scans: _Scans,
        card: ModelCard | None,
        repeated: Repeated,
    ) -> None:
        self.record = record
        self.outputs = outputs
        self.scans = scans
        self.card = card
        self.repeated = repeated

    def check(self, progress: Progress) -> list[Checked]:
        why, state = self._why_not()
        if why:
            return [Checked("again", state, f"It cannot be segmented again: {why}.")]
        try:
            return self._compare(progress)
        except UserError as error:
            return [Checked("again", State.MISSING, f"It could not be segmented again. {error}")]

    def _why_not(self) -> tuple[str, State]:
        if not self.scans.told or any(_expected(one) is None for one in self.scans.told.values()):
            return "the record does not say from which files", State.NOT_RECORDED
        if not self.scans.complete:
            return "not every scan is there as it was", State.MISSING
        if self.card is None:
            return "the model is not here as it was", State.MISSING
        if _part(self.record, "preparation", "settings").get("brain") is not None:
            return "the brain was drawn by hand, and the record does not hold what was drawn", State.NOT_RECORDED
        return "", State.UNCHANGED

    def _settings(self) -> Settings:
        from engine.pipeline import Settings

        if "preparation" not in self.record:
            return Settings()
        return Settings.from_json(_part(self.record, "preparation", "settings"))

    def _compare(self, progress: Progress) -> list[Checked]:
        assert self.card is not None
        try:
            settings = self._settings()
            used = in_order(Sequence(s) for s in _part(self.record, "sequences")["used"])
        except (ValueError, KeyError, TypeError):
            used = ()
        if not used or self.card.usable(used) != used or not set(used) <= set(self.scans.told):
            return [Checked("again", State.NOT_RECORDED, "The record does not say how it was segmented.")]
        told = ("inputs", "model", "sequences", "preparation", "resampled", "device")
        # Seconds differ from run to run, and are no reason to run again.
        preparation = {**_part(self.record, "preparation"), "steps": None}
        key = as_json({**{name: self.record.get(name) for name in told}, "preparation": preparation}).decode()
        if self.repeated.made is None or self.repeated.key != key:
            self.repeated.made = None
            self.repeated.made = self._segment(settings, used, progress)
            self.repeated.key = key
        worked, found = self.repeated.made
        progress.update(0.95, "comparing every voxel")
        other = self._otherwise(found)
        masks = self.outputs.masks()
        if not masks:
            return [self._by_hash(found, other)]
        return [
            self._by_voxel(key, path, worked.native(found, key or worked.reference), other)
            for key, path in masks.items()
        ]

    def _segment(
        self, settings: Settings, used: tuple[Sequence, ...], progress: Progress
    ) -> tuple[Worked, Segmentation]:
        from engine import inference, pipeline, runtime

        assert self.card is not None
        volumes = self.scans.read(self.record, progress.part(0.0, 0.1))
        worked = pipeline.work("again", volumes, settings, progress.part(0.1, 0.5))
        on_gpu = str(self.record.get("device", "")).upper() == "CUDA"
        try:
            network = runtime.open_network(self.card, "cuda" if on_gpu else "cpu")
        except UserError:
            if not on_gpu:
                raise
            network = runtime.open_network(self.card, "cpu")
        part = progress.part(0.5, 0.95)
        return worked, inference.segment(worked.subject, self.card, part, network=network, use=used)

    def _otherwise(self, found: Segmentation) -> str:
        """In what this run differs from that one, as a sentence; empty where in nothing that is known."""
        then = {
            "Gliascope": _part(self.record, "software").get("version"),
            "device": self.record.get("device"),
            "precision": self.record.get("precision"),
            "openvino": _part(self.record, "environment").get("openvino"),
        }
        now = {
            "Gliascope": version(),
            "device": found.device,
            "precision": found.precision,
            "openvino": _environment().get("openvino"),
        }
        told = [
            f"{name} {now[name]} now, {before} then" if name != "device" else f"on {now[name]} now, on {before} then"
            for name, before in then.items()
            if before is not None and before != now[name]
        ]
        return f" It ran otherwise than then ({'; '.join(told)})." if told else ""

    @property
    def _by_hand(self) -> int:
        made = self.record.get("edited_by_hand")
        return made if isinstance(made, int) else 0

    def _by_hash(self, found: Segmentation, other: str) -> Checked:
        expected = self.record.get("labels_sha256")
        if expected is None:
            return Checked("again", State.NOT_RECORDED, "The record does not say what mask it was made from.")
        if expected == labels_sha256(found.label_map):
            return Checked("again", State.UNCHANGED, "Segmented again: the mask it was made from is the same.")
        if self._by_hand:
            return Checked("again", State.NOT_RECORDED, _cannot_correct_again(self._by_hand))
        return Checked("again", State.CHANGED, f"Segmented again: the mask it was made from is another now.{other}")

    def _by_voxel(self, key: Sequence | None, path: Path, now: LabelMap, other: str) -> Checked:
        name = shown(path)
        try:
            then = nifti.read_label_map(path, nifti.Convention.GLIASCOPE)
        except UserError as error:
            return Checked("again", State.CHANGED, f"{name} cannot be compared. {error}")
        if not then.grid.same_as(now.grid, 1e-2):
            return Checked("again", State.CHANGED, f"{name} lies on another grid than the scan it was drawn on.")
        differing = int(np.count_nonzero(then.data != now.data))
        if not differing:
            sentence = f"Segmented again: all {now.data.size:,} voxels of {name} come out the same."
            return Checked("again", State.UNCHANGED, sentence)
        was, are = then.ml(then.whole_tumour), now.ml(now.whole_tumour)
        how = (
            f"{differing:,} of {now.data.size:,} voxels of {name} come out otherwise "
            f"(whole tumour {are:.2f} ml now, {was:.2f} ml in the file)"
        )
        if self._by_hand:
            return Checked(
                "again", State.NOT_RECORDED, f"{_cannot_correct_again(self._by_hand)} {how[0].upper()}{how[1:]}."
            )
        return Checked("again", State.CHANGED, f"Segmented again: {how}.{other}")


def _cannot_correct_again(made: int) -> str:
    corrections = "1 correction" if made == 1 else f"{made} corrections"
    return f"The mask holds {corrections} by hand, which cannot be made again."


def _model_still(record: Mapping[str, Any]) -> tuple[Checked | None, ModelCard | None]:
    """Whether the model is here as it was, and if it can be used to segment again, its card; None where none was used.

    A picture of scans alone, or a mask that somebody else drew, has no model.
    """
    from engine import registry

    told = record.get("model")
    if told is None and not _part(record, "sequences").get("used"):
        return None, None
    name = told.get("name") if isinstance(told, Mapping) else None
    if not isinstance(told, Mapping) or not isinstance(name, str):
        return Checked("model", State.NOT_RECORDED, "The record does not say which model was used."), None
    title = f"The model {told.get('title') or name} {told.get('version') or ''}".rstrip()
    try:
        card = registry.find(name)
    except BadModel:
        return Checked("model", State.MISSING, f"{title} is not here any more."), None
    try:
        registry.verify(card)
    except BadModel as error:
        return Checked("model", State.CHANGED, str(error)), None
    if card.fingerprint == told.get("sha256"):
        return Checked("model", State.UNCHANGED, f"{title} is here, and every file of it is as it was."), card
    if dict(card.files) == told.get("files"):
        sentence = f"{title} has the same weights here, but its card says something else than then."
        return Checked("model", State.CHANGED, sentence), card
    return Checked("model", State.CHANGED, f"{title} is not here: another model has its name now."), None


def _notes(record: Mapping[str, Any], again: bool) -> Iterator[str]:
    made = record.get("edited_by_hand")
    if isinstance(made, int) and made:
        corrections = "1 correction" if made == 1 else f"{made} corrections"
        yield f"The record says that the mask holds {corrections} by hand."
    then = record["software"].get("version")
    if then != version():
        yield f"It was made by Gliascope {then}; this is {version()}."
    if not again:
        yield "Whether the same mask comes out again was not tried."


def _things(count: int) -> str:
    return "one thing was" if count == 1 else f"{count} things were"
