"""Saving a result: the mask on the input's own grid, and a sidecar that says how it came about.

One function for the window and the command line, so that both give the same bytes. Neither file names a person, a
path or the free text of a header; the mask's place and voxels are read back before it is called saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tomllib
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import nifti
from engine.errors import CannotWrite, UnreadableImage
from engine.files import shown, unwritten
from engine.model_card import RESEARCH_USE, sha256
from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, Sequence, Subject, in_words

if TYPE_CHECKING:
    from engine.inference import Segmentation

SIDECAR_FORMAT = 1
MASK_ENDING = "_seg.nii.gz"
SIDECAR_ENDING = "_seg.json"

# Most file systems allow 255 bytes a name.
_LONGEST_NAME = 255 - len(MASK_ENDING)
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]+')
_WINDOWS_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


@dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
        mask: ``<subject>_seg.nii.gz``.
        sidecar: ``<subject>_seg.json``.
        verified: A sentence that says on whose grid the mask lies and that it was read back.
        sha256: Of the mask.
    """

    mask: Path
    sidecar: Path
    verified: str
    sha256: str


def save(
    segmentation: Segmentation,
    subject: Subject,
    folder: Path,
    name: str | None = None,
    reason: str = "",
    uncertain: Iterable[Sequence] = (),
    goes_on_from: Collection[str] = (),
) -> Saved:
    """Write mask and sidecar; both or neither.

    Args:
        segmentation: The result, on the subject's grid.
        subject: What was segmented; its files are hashed, never named.
        folder: Where to write; made if it is not there. An earlier result of the same name is replaced; anything else
            of that name, such as a ground truth or a mask corrected by hand, is not.
        name: What to call the outputs; the subject's name by default. What no file name can hold is left out.
        reason: Why this model was chosen, from `registry.choose`.
        uncertain: Sequences told from a file's name with a doubt that nobody has cleared.
        goes_on_from: SHA-256 of masks corrected by hand that hold nothing this one was not made from: those may be
            replaced.

    Raises:
        CannotWrite: Nothing was written, and nothing is left behind.
        ValueError: The segmentation lies on another grid than the subject.
    """
    if not segmentation.label_map.grid.same_as(subject.grid):
        raise ValueError("the segmentation does not lie on the subject's grid")
    base = file_name(name or subject.name)
    mask, sidecar = folder / (base + MASK_ENDING), folder / (base + SIDECAR_ENDING)
    reference, verified = _reference(subject)
    # Both files are finished in a folder of their own and then moved, so that a full disk leaves neither.
    workshop = folder / f".gliascope-{secrets.token_hex(6)}"
    new = [workshop / mask.name, workshop / sidecar.name]
    made = _missing_folders(folder)
    try:
        workshop.mkdir(parents=True)
        for target in (mask, sidecar):
            if target.is_dir():
                raise FileExistsError(17, "a folder is in the way", str(target))
        _spare_what_is_not_ours(mask, sidecar, goes_on_from)
        nifti.write_label_map(segmentation.label_map, new[0], reference)
        record = provenance(segmentation, subject, reason, uncertain)
        digest = sha256(new[0])
        record["mask"] = {"sha256": digest}
        with new[1].open("wb") as stream:
            stream.write(as_json(record))
            stream.flush()
            os.fsync(stream.fileno())
        _move_both(new, [mask, sidecar])
        made = []
    except OSError as error:
        raise unwritten(mask, error) from error
    finally:
        _clear(new, [workshop, *made])
    return Saved(mask, sidecar, verified, digest)


def provenance(
    segmentation: Segmentation, subject: Subject, reason: str = "", uncertain: Iterable[Sequence] = ()
) -> dict[str, Any]:
    """How a result came about, as plain JSON values: what the sidecar and the command line's ``--json`` say.

    Args:
        segmentation: The result.
        subject: What was segmented.
        reason: See `save`.
        uncertain: See `save`.
    """
    card = segmentation.card
    used, doubted = set(segmentation.used), set(uncertain)
    known = {region: interval for region, interval in segmentation.intervals_ml.items() if interval is not None}
    intervals = {region: [round(float(ml), 3) for ml in interval] for region, interval in known.items()}
    return {
        "format": SIDECAR_FORMAT,
        "software": {"name": "Gliascope", "version": version()},
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
        "inputs": {s.value: {"sha256": _source_sha256(volume.source)} for s, volume in subject.items()},
        "labels": {
            "0": "background",
            str(TUMOUR_CORE): "tumour core",
            str(REST_OF_WHOLE_TUMOUR): "rest of the whole tumour",
        },
        "volumes_ml": {region: round(float(ml), 3) for region, ml in segmentation.volumes_ml.items()},
        **({"intervals_90_percent_ml": intervals} if intervals else {}),
        "grid": {
            "shape": list(subject.grid.shape),
            "spacing_mm": [round(mm, 4) for mm in subject.grid.spacing],
            "orientation": subject.grid.orientation,
            "oriented": all(volume.oriented for volume in subject.values()),
        },
        "edited_by_hand": segmentation.edited_by_hand,
        "device": segmentation.device,
        "precision": segmentation.precision,
        "seconds": round(float(segmentation.seconds), 2),
        "notes": [*segmentation.notes, *_resampled(subject)],
    }


def as_json(record: dict[str, Any]) -> bytes:
    """The bytes of a sidecar: sorted, indented, UTF-8, one newline at the end; equal records give equal bytes."""
    return (json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def file_name(name: str) -> str:
    """A name that Windows, macOS and Linux all take, with room for the endings; different names stay different."""
    readable = name.encode("utf-8", "replace").decode("utf-8")
    kept = _NOT_IN_NAMES.sub("_", readable).strip(" .") or "patient"
    if _WINDOWS_DEVICES.fullmatch(kept):
        kept = f"_{kept}"
    if len(kept.encode()) > _LONGEST_NAME:
        ending = "-" + hashlib.sha256(readable.encode()).hexdigest()[:8]
        kept = kept.encode()[: _LONGEST_NAME - len(ending)].decode("utf-8", "ignore") + ending
    return kept


@cache
def version() -> str:
    """Gliascope's version, from its own project file in a checkout, else from the installed package."""
    with suppress(OSError, tomllib.TOMLDecodeError, KeyError):
        project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("gliascope")
    return "unknown"


def _spare_what_is_not_ours(mask: Path, sidecar: Path, goes_on_from: Collection[str] = ()) -> None:
    """Refuse to replace anything but an untouched earlier result, or a corrected one that this goes on from.

    Cohorts call an expert's segmentation ``<subject>_seg.nii.gz`` too, and saving beside the scans is what people do.

    Raises:
        CannotWrite: Something lies under one of the names that was not made by Gliascope, or was changed or corrected.
    """
    if not mask.exists() and not sidecar.exists():
        return
    there, why = (mask if mask.exists() else sidecar), "it was not made by Gliascope"
    if nifti.made_by_gliascope(mask):
        record = json.loads(sidecar.read_text(encoding="utf-8"))
        digest = sha256(mask) if mask.exists() else None
        untouched = digest is None or record.get("mask") == {"sha256": digest}
        if untouched and (not record.get("edited_by_hand") or digest is None or digest in goes_on_from):
            return
        why = "it was corrected by hand" if untouched else "it was changed after Gliascope made it"
    raise CannotWrite(
        f"{shown(there)} is there already and is not replaced",
        why,
        "Choose another folder, or move that file away first.",
    )


def _move_both(new: list[Path], targets: list[Path]) -> None:
    """Give both files their names; if the second cannot be (open elsewhere, on Windows), the first is taken back."""
    before = targets[0].read_bytes() if targets[0].exists() else None
    new[0].replace(targets[0])
    try:
        new[1].replace(targets[1])
    except OSError:
        if before is None:
            targets[0].unlink()
        else:
            targets[0].write_bytes(before)
        raise


def _reference(subject: Subject) -> tuple[Path | None, str]:
    """The input file whose header the mask takes over, and the sentence about it.

    A sequence that was resampled lies on another grid than its file; a file may be gone by now. Then the next one is
    asked, and at last the grid itself is written.
    """
    for volume in subject.values():
        if volume.source is None:
            continue
        with suppress(UnreadableImage):
            if nifti.read_grid(volume.source)[0].same_as(subject.grid, tolerance_mm=1e-3):
                return volume.source, f"Saved on the grid of {shown(volume.source)}, read back and found equal."
    return None, "Saved on the grid of the scans, read back and found equal."


def _resampled(subject: Subject) -> list[str]:
    """A sentence about the sequences that lay on another grid in their files; empty where none did."""
    moved = []
    for sequence, volume in subject.items():
        with suppress(UnreadableImage):
            if volume.source is not None and not nifti.read_grid(volume.source)[0].same_as(subject.grid):
                moved.append(sequence)
    if not moved:
        return []
    was = "was" if len(moved) == 1 else "were"
    return [f"{in_words(moved)} {was} resampled from another grid onto that of the mask."]


def _source_sha256(source: Path | None) -> str | None:
    """Of the file as it is now; None for made volumes and for files that are gone."""
    if source is None:
        return None
    with suppress(OSError):
        return sha256(source)
    return None


def _missing_folders(folder: Path) -> list[Path]:
    """Those of the folder and its parents that are not there yet, innermost first."""
    missing = []
    with suppress(OSError):
        for place in (folder, *folder.parents):
            if place.exists():
                break
            missing.append(place)
    return missing


def _clear(files: list[Path], folders: list[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
