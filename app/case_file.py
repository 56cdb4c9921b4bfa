"""Cases on the disk: the file a user saves, and the corrections that are kept in case the program ends.

Both are JSON. A case (``.gliascope``) names the scans by their path from the case's own folder and by their content,
and holds the result, every correction, and what was on screen: enough to go on where one stopped. Kept corrections
hold a result and its corrections alone and find their scans by content.

What identifies a patient here: the paths that the user chose, in a case that the user saved where the user wanted.
Nothing else: no name, no header text, no date of birth; and kept corrections, which are written without being asked
for, hold not even a path or a file's name.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from app.viewer_model import Layer, LayerKey, Mask
from engine.errors import CannotWrite, UserError
from engine.files import shown, whole_file
from engine.progress import Progress
from engine.volume import Grid, LabelMap, Sequence

if TYPE_CHECKING:
    from app.session import Studies
    from engine.dicom import Series, Study
    from engine.editing import Edit, Editor
    from engine.inference import Segmentation
    from engine.model_card import ModelCard
    from engine.registry import Choice
    from engine.sequences import SubjectFiles

# 2: with the preparation of the scans, and DICOM.
FORMAT = 2
ENDING = ".gliascope"
KEPT_ENDING = ".kept.json"
LARGEST_FILE = 256 * 1024 * 1024
# Files looked at in a folder that the user names as the new place of moved scans.
MOST_LOOKED_AT = 20_000

_writing = threading.Lock()


class UnusableCase(UserError):
    """A case cannot be opened."""


class ScansMoved(UserError):
    """The scans of a case are not where they were; what to do is a question for the folder they are in now."""


@dataclass(frozen=True)
class Scan:
    """A file of a case.

    Attributes:
        path: Where it is.
        sequence: What it was taken for; None where nobody had said.
        volume: Which of its volumes, from 0, where it holds several.
        confirmed: Whether the user said so.
    """

    path: Path
    sequence: Sequence | None
    volume: int | None = None
    confirmed: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """What a case file holds.

    Attributes:
        scans: The files; none where they are series of a DICOM study.
        view: What was on screen, as plain JSON values.
        result: Result and corrections, as `describe_result` made them; None where there was none.
        preparation: What was to be done to the scans, as `engine.pipeline.Settings` writes it; None in cases older
            than that.
        source: The folder or file that holds a DICOM study; None for files of their own.
        series: Key of the series of each sequence.
    """

    scans: tuple[Scan, ...]
    view: Mapping[str, Any]
    result: Mapping[str, Any] | None
    preparation: Mapping[str, Any] | None = None
    source: Path | None = None
    series: Mapping[Sequence, Series] = field(default_factory=dict)

    @property
    def volumes(self) -> dict[Path, int]:
        """Which volume of files that hold several."""
        return {scan.path: scan.volume for scan in self.scans if scan.volume is not None}

    @property
    def confirmed(self) -> set[Path]:
        """Files whose sequence the user said."""
        return {scan.path for scan in self.scans if scan.confirmed}


@dataclass(frozen=True, eq=False)
class Found:
    """A case and its scans, found again.

    Attributes:
        case: With every scan's path as it is now.
        files: The scans as a patient; None where they are series of a DICOM study.
        studies: The studies among which that one is.
        study: It, with the series of the case.
    """

    case: Case
    files: SubjectFiles | None
    studies: Studies | None = None
    study: Study | None = None


@dataclass(frozen=True, eq=False)
class Restored:
    """A result that was kept, as it can be gone on with.

    Attributes:
        segmentation: The result before any correction, without its probabilities.
        choice: The model and why.
        seconds: It took.
        editor: The label map with its corrections, each of which can be taken back.
        mask: What the window needs to know of it.
        written: SHA-256 of the masks that were saved of it.
    """

    segmentation: Segmentation
    choice: Choice
    seconds: float
    editor: Editor
    mask: Mask
    written: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Kept:
    """Corrections that were kept because nobody saved them.

    Attributes:
        path: The file.
        when: Of the last of them.
        count: How many.
        last: The last one's name.
        result: As `describe_result` made it.
    """

    path: Path
    when: datetime
    count: int
    last: str
    result: Mapping[str, Any]


# Results


def describe_result(
    segmentation: Segmentation,
    choice: Choice,
    seconds: float,
    base: LabelMap,
    edits: Iterable[Edit],
    written: Iterable[str],
    preparation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A result and its corrections as plain JSON values.

    Args:
        segmentation: The result; its label map is not looked at.
        choice: The model and why.
        seconds: It took from the click.
        base: The label map before any correction.
        edits: The corrections.
        written: SHA-256 of the masks saved of it.
        preparation: What was to be done to the scans it was found in, where that is not kept beside it.
    """
    from engine import editing

    return {
        **({"preparation": dict(preparation)} if preparation is not None else {}),
        "grid": {"shape": list(base.grid.shape), "affine": base.grid.affine.tolist()},
        "model": _without_patients(segmentation.card),
        "model_sha256": segmentation.card.fingerprint,
        "used": [sequence.value for sequence in segmentation.used],
        "reason": choice.reason,
        "device": segmentation.device,
        "precision": segmentation.precision,
        "seconds": float(segmentation.seconds),
        "seconds_from_click": float(seconds),
        "intervals_ml": {
            region: None if interval is None else list(interval)
            for region, interval in segmentation.intervals_ml.items()
        },
        "notes": list(segmentation.notes),
        "fallbacks": list(segmentation.fallbacks),
        "made_at": segmentation.made_at,
        "written": sorted(written),
        "labels": editing.pack_edits(editing.pack(base), edits),
    }


def restore_result(
    values: Mapping[str, Any], grid: Grid, layers: dict[LayerKey, Layer], progress: Progress
) -> Restored:
    """Bring back what `describe_result` described.

    Args:
        values: What it made.
        grid: Of the scans as they are now.
        layers: The scans.
        progress: To be stopped by.

    Raises:
        UserError: It is damaged, or was made on another grid.
    """
    from engine import editing
    from engine.inference import Segmentation
    from engine.registry import Choice

    progress.check()
    try:
        there = Grid(tuple(values["grid"]["shape"]), np.array(values["grid"]["affine"], np.float64))
        if not there.same_as(grid):
            raise UnusableCase(
                "The result that was kept does not lie on the grid of the scans",
                there.difference(grid),
                "Segment again.",
            )
        editor = editing.unpack_edits(values["labels"], grid)
        card = _remembered(values["model"], str(values["model_sha256"]))
        used = tuple(Sequence(name) for name in values["used"])
        intervals = {
            str(region): None if interval is None else (float(interval[0]), float(interval[1]))
            for region, interval in values["intervals_ml"].items()
        }
        before = editing.Editor(editor.base)
        segmentation = Segmentation(
            label_map=editor.base,
            probabilities={},
            volumes_ml=before.volumes_ml,
            intervals_ml={region: intervals.get(region) for region in before.volumes_ml},
            card=card,
            used=used,
            device=str(values["device"]),
            precision=str(values["precision"]),
            seconds=float(values["seconds"]),
            notes=tuple(str(note) for note in values["notes"]),
            fallbacks=tuple(str(note) for note in values.get("fallbacks", ())),
            made_at=str(values.get("made_at", "")),
        )
        choice = Choice(card, used, str(values["reason"]))
        seconds, written = float(values["seconds_from_click"]), tuple(str(digest) for digest in values["written"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UnusableCase("The result that was kept cannot be used", "it is damaged", "Segment again.") from error
    progress.check()
    return Restored(
        segmentation, choice, seconds, editor, Mask.of(editor.labels, layers, segmentation.probabilities), written
    )


def _without_patients(card: ModelCard) -> dict[str, Any]:
    """A card's text without what tells whom it was trained on: a case is about its own patient alone."""
    return {key: value for key, value in card.to_json().items() if key not in ("training", "data", "sha256")}


def _remembered(values: Mapping[str, Any], fingerprint: str) -> ModelCard:
    """The card of the model that made the result, whether it is installed here or not."""
    from engine.model_card import ModelCard

    @dataclass(frozen=True)
    class RememberedCard(ModelCard):
        sha256: str = ""

        @property
        def fingerprint(self) -> str:
            """Of the model itself, not of what a case says of it."""
            return self.sha256

        __hash__ = ModelCard.__hash__

    card = ModelCard.from_json(values, Path())
    return RememberedCard(**{part.name: getattr(card, part.name) for part in fields(ModelCard)}, sha256=fingerprint)


# Cases


def write_case(path: Path, case: Case, progress: Progress) -> Path:
    """Write a case; a file of that name is replaced only if it is a case itself.

    Returns:
        Where it lies; the ending is added where it is missing.

    Raises:
        CannotWrite: Nothing was written.
        UserError: A scan cannot be read any more.
    """
    path = with_ending(path)
    if path.exists() and not _is_case(path):
        raise CannotWrite(
            f"{shown(path)} is there already and is not replaced", "it is not a case", "Choose another name."
        )
    scans = []
    for scan in case.scans:
        progress.check()
        scans.append(
            {
                "path": _relative(scan.path, path.parent),
                "sha256": _content(scan.path),
                "sequence": scan.sequence.value if scan.sequence is not None else None,
                "volume": scan.volume,
                "confirmed": scan.confirmed,
            }
        )
    document: dict[str, Any] = {
        "gliascope_case": FORMAT,
        "scans": scans,
        "view": dict(case.view),
        "result": case.result,
        "preparation": case.preparation,
    }
    if case.source is not None:
        from engine import dicom

        # Neither what a series is called nor anything else of its header: its place among the files, and its content.
        document["dicom"] = {
            "path": _relative(case.source, path.parent),
            "series": {
                sequence.value: {"key": series.key, "sha256": dicom.content(series, progress)}
                for sequence, series in case.series.items()
            },
        }
    _write(path, document)
    return path


def _find_study(
    path: Path, folder: Path | None, told: Mapping[str, Any], progress: Progress
) -> tuple[Path, Studies, Study]:
    """The DICOM study of a case, where it is now.

    Raises:
        ScansMoved: It is not there, or not with the same content.
    """
    from app.session import Studies
    from engine import dicom
    from engine.workshop import Workshop

    wanted = {Sequence(name): (str(one["key"]), str(one["sha256"])) for name, one in told["series"].items()}
    source = folder if folder is not None else Path(os.path.normpath(path.parent / str(told["path"])))
    why = "it is missing"
    if source.exists():
        workshop = Workshop()
        studies = dicom.look([source], workshop, progress)
        contents: dict[str, str] = {}
        for study in studies:
            there = {series.key: series for series in study.series}
            digests = {digest for _, digest in wanted.values()}
            by_content: dict[str, Series] = {}
            for series in (there[key] for key, _ in wanted.values() if key in there):
                contents[series.key] = contents.get(series.key) or dicom.content(series, progress)
                by_content[contents[series.key]] = series
            if digests <= set(by_content):
                chosen = study.choosing({s: by_content[digest] for s, (_, digest) in wanted.items()})
                return source, Studies(tuple(studies), workshop, (source,)), chosen
        workshop.close()
        why = "its series are others"
    raise ScansMoved(f"The DICOM study of {shown(path)} is not where it was", why, "Where is it now?")


def open_case(path: Path, folder: Path | None, progress: Progress) -> Found:
    """Read a case and find its scans.

    Args:
        path: The case.
        folder: Where the user says the scans are now; None to look where they were, and beside the case.
        progress: Told how far it is.

    Raises:
        ScansMoved: They are not there, or not with the same content; ask for the folder and try again.
        UnusableCase: It is no case, damaged, or newer than this program.
    """
    document = _read(path, "gliascope_case")
    try:
        entries = [
            (
                str(entry["path"]),
                str(entry["sha256"]),
                Scan(
                    Path(),
                    Sequence(entry["sequence"]) if entry["sequence"] is not None else None,
                    int(entry["volume"]) if entry["volume"] is not None else None,
                    bool(entry["confirmed"]),
                ),
            )
            for entry in document["scans"]
        ]
        view, result, preparation = dict(document["view"]), document["result"], document.get("preparation")
        told = document.get("dicom")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if any(not (part is None or isinstance(part, dict)) for part in (result, preparation, told)):
        raise _damaged(path)
    if told is not None:
        try:
            source, studies, study = _find_study(path, folder, told, progress)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path) from error
        return Found(Case((), view, result, preparation, source, study.chosen), None, studies, study)
    if not entries:
        raise _damaged(path)
    scans = []
    for number, (written, digest, scan) in enumerate(entries):
        progress.update(number / len(entries), f"looking for {PurePosixPath(written).name}")
        scans.append(replace(scan, path=_find(written, digest, path, folder, progress)))
    case = Case(tuple(scans), view, result, preparation)
    return Found(case, _as_patient(case, path))


def with_ending(path: Path) -> Path:
    """The path with the ending of a case."""
    return path if path.name.lower().endswith(ENDING) else path.with_name(path.name + ENDING)


def is_case(path: Path) -> bool:
    """Whether a path names a case, by its ending."""
    return path.name.lower().endswith(ENDING)


def _as_patient(case: Case, path: Path) -> SubjectFiles:
    from engine import sequences
    from engine.sequences import SubjectFiles

    files = {scan.sequence: scan.path for scan in case.scans if scan.sequence is not None}
    unknown = tuple(scan.path for scan in case.scans if scan.sequence is None)
    name, truth, folder = path.name[: -len(ENDING)], None, case.scans[0].path.parent
    with suppress(UserError):
        # The patient is called what it would be called had its files been dropped.
        found = sequences.find_subjects([scan.path for scan in case.scans])
        if len(found) == 1:
            name, truth, folder = found[0].name, found[0].segmentation, found[0].folder
    return SubjectFiles(
        name=name,
        files={sequence: files[sequence] for sequence in Sequence if sequence in files},
        unknown=unknown,
        segmentation=truth,
        folder=folder,
    )


def _find(written: str, digest: str, case: Path, folder: Path | None, progress: Progress) -> Path:
    """Where a scan is now: a file of the right content."""
    name = PurePosixPath(written.replace("\\", "/")).name
    there = Path(os.path.normpath(case.parent / written))
    changed = None
    for candidate in _candidates(there, name, case, folder):
        progress.check()
        if not candidate.is_file():
            continue
        if _content(candidate) == digest:
            return candidate
        changed = changed or candidate
    if folder is not None:
        # Renamed, perhaps: any scan of the same content will do.
        for candidate in _below(folder):
            progress.check()
            if candidate.name != name and _content(candidate) == digest:
                return candidate
    if changed is not None:
        raise ScansMoved(
            f"{shown(changed)} is not the scan that {shown(case)} was made of",
            "its content is another",
            "Where is the scan as it was?",
        )
    raise ScansMoved(
        f"The scans of {shown(case)} are not {'in ' + folder.name if folder is not None else 'where they were'}",
        f"{name} is missing",
        "Where are they now?",
    )


def _candidates(there: Path, name: str, case: Path, folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder / name
        yield from (path for path in _below(folder) if path.name == name)
    yield there
    yield case.parent / name


def _below(folder: Path) -> Iterator[Path]:
    from engine import nifti

    looked_at = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            looked_at += 1
            if looked_at > MOST_LOOKED_AT:
                return
            if nifti.is_nifti_name(Path(name)):
                yield Path(place) / name


def _relative(path: Path, folder: Path) -> str:
    """A scan's path from the case's folder; from the root where they lie on different drives."""
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return path.absolute().as_posix()


def _is_case(path: Path) -> bool:
    with suppress(UserError):
        return "gliascope_case" in _read(path, "gliascope_case")
    return False


# Kept corrections


def kept_folder() -> Path:
    """Where corrections are kept: among the user's own data, on this computer alone."""
    import platformdirs

    return platformdirs.user_data_path("Gliascope", appauthor=False) / "corrections"


def new_kept_path(inputs: Iterable[str]) -> Path:
    """A file for the corrections of one sitting; two windows never write to one."""
    return kept_folder() / f"{sorted(inputs)[0][:16]}-{secrets.token_hex(6)}{KEPT_ENDING}"


def identify(sources: list[tuple[Path, int | None]], progress: Progress) -> tuple[str, ...]:
    """What the scans are by their content, whatever they are called."""
    inputs = []
    for path, volume in sources:
        progress.check()
        inputs.append(_content(path) + (f"#{volume}" if volume is not None else ""))
    return tuple(sorted(inputs))


def keep(path: Path, inputs: Iterable[str], result: Mapping[str, Any], progress: Progress) -> None:
    """Write down a result whose corrections nobody has saved yet; holds no path and no name.

    Raises:
        CannotWrite: They could not be written.
        Cancelled: Newer ones are about to be written, or these were saved.
    """
    with _writing:
        # Whoever was overtaken must not replace what is newer.
        progress.check()
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        _write(path, {"gliascope_corrections": FORMAT, "when": when, "inputs": sorted(inputs), "result": dict(result)})


def forget(path: Path) -> None:
    """Remove kept corrections, if they are there."""
    with _writing, suppress(OSError):
        path.unlink(missing_ok=True)


def kept_for(inputs: Iterable[str], progress: Progress) -> list[Kept]:
    """The corrections that were kept for scans of this content, the newest first; damaged ones are passed over."""
    here, found = set(inputs), []
    with suppress(OSError):
        for path in sorted(kept_folder().glob(f"*{KEPT_ENDING}")):
            progress.check()
            with suppress(UserError, ValueError, KeyError, TypeError):
                document = _read(path, "gliascope_corrections")
                edits = document["result"]["labels"]["edits"]
                if edits and set(document["inputs"]) <= here:
                    when = datetime.fromisoformat(document["when"])
                    found.append(Kept(path, when, len(edits), str(edits[-1]["name"]), document["result"]))
    return sorted(found, key=lambda kept: kept.when, reverse=True)


# Files


def _content(path: Path) -> str:
    from engine.model_card import sha256

    try:
        return sha256(path)
    except OSError as error:
        raise UnusableCase(
            f"{shown(path)} cannot be read", (error.strerror or "").lower(), "Check that it is still there."
        ) from error


def _write(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"
    with whole_file(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", newline="\n")


def _read(path: Path, kind: str) -> dict[str, Any]:
    """A document of ours.

    Raises:
        UnusableCase: It cannot be read, is something else, or was written by a newer program.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE)  # a longer one ends in the middle and is no JSON
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise UnusableCase(
            f"{shown(path)} {'is not there any more' if missing else 'cannot be read'}",
            "" if missing else (error.strerror or "").lower(),
            "Choose it again where it is now." if missing else "Check that you may read it.",
        ) from error
    try:
        document = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(document, dict) or not isinstance(document.get(kind), int):
        raise _damaged(path)
    if document[kind] > FORMAT:
        raise UnusableCase(
            f"{shown(path)} was saved by a newer Gliascope",
            f"it has format {document[kind]}, this program reads up to {FORMAT}",
            "Update Gliascope.",
        )
    return document


def _damaged(path: Path) -> UnusableCase:
    return UnusableCase(f"{shown(path)} is not a case that can be opened", "it is damaged or something else", "")
