"""Saving a result: masks on the inputs' own grids, and a sidecar that says how they came about.

Scans that share a grid get one mask. Where the steps of `pipeline` brought scans of different grids together, the mask
lies on the grid of the reference's own file, and every file with another grid gets a mask of its own beside it.

One function for the window and the command line, so that both give the same bytes. Neither file names a person, a
path or the free text of a header; the mask's place and voxels are read back before it is called saved.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import nifti, provenance
from engine.errors import CannotWrite, UnreadableImage
from engine.files import Together, shown, unwritten
from engine.model_card import sha256
from engine.provenance import MASK_ENDING, Made
from engine.volume import Grid, LabelMap, Sequence, Subject, in_words

if TYPE_CHECKING:
    from engine.inference import Segmentation
    from engine.pipeline import Worked

SIDECAR_ENDING = "_seg.json"

# Most file systems allow 255 bytes a name.
_LONGEST_NAME = 255 - len("_flair" + MASK_ENDING)
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
        others: ``<subject>_<sequence>_seg.nii.gz`` for each sequence whose file has another grid than the mask.
        record: What the sidecar says.
        more: What was written beside the masks, by what it is.
        notes: Sentences about that.
    """

    mask: Path
    sidecar: Path
    verified: str
    sha256: str
    others: Mapping[Sequence, Path] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    more: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# Makes further outputs among the files of one save, whose names begin as given, of a result with this record: what was
# made, and what to say of it.
Beside = Callable[[Together, str, Mapping[str, Any]], tuple[tuple[Made, ...], tuple[str, ...]]]


def save(
    segmentation: Segmentation,
    subject: Subject,
    folder: Path,
    name: str | None = None,
    reason: str = "",
    uncertain: Iterable[Sequence] = (),
    goes_on_from: Collection[str] = (),
    worked: Worked | None = None,
    beside: Beside | None = None,
) -> Saved:
    """Write masks and sidecar, and what is wanted beside them; all or none.

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
        worked: The steps that ``subject`` comes from, for masks on the files' own grids and for the sidecar.
        beside: Makes further outputs, from `outputs.maker`.

    Raises:
        CannotWrite: Nothing was written, and nothing is left behind.
        ValueError: The segmentation lies on another grid than the subject, or the subject is not what the steps made.
    """
    if not segmentation.label_map.grid.same_as(subject.grid):
        raise ValueError("the segmentation does not lie on the subject's grid")
    if worked is not None and worked.subject is not subject:
        raise ValueError("the subject is not the one that the steps made")
    base = file_name(name or subject.name)
    mask, sidecar = folder / (base + MASK_ENDING), folder / (base + SIDECAR_ENDING)
    likes = _likes(subject, worked)
    targets = {key: mask if key is None else folder / f"{base}_{key.value}{MASK_ENDING}" for key in likes}
    others = {key: target for key, target in targets.items() if key is not None}
    more: tuple[Made, ...] = ()
    said: tuple[str, ...] = ()
    try:
        with Together(folder) as files:
            for target in (*targets.values(), sidecar):
                if target.is_dir():
                    raise FileExistsError(17, "a folder is in the way", str(target))
            outdated = _spare_what_is_not_ours(targets, sidecar, goes_on_from)
            masks, digests = {}, {}
            for key, like in likes.items():
                masks[key] = _on_own_grid(segmentation, key, worked)
                new = files.new(targets[key].name)
                nifti.write_label_map(masks[key], new, like)
                digests[key] = sha256(new)
            record = provenance.describe(segmentation, subject, reason, uncertain, worked)
            record["mask"] = {"sha256": digests[None]}
            if others:
                record["masks"] = {
                    s.value: {"sha256": digests[s], "grid": provenance.described(masks[s].grid)} for s in others
                }
            record["notes"] += _too_small(segmentation, masks, worked)
            record = provenance.sealed(record)
            files.new(sidecar.name, first=True).write_bytes(provenance.as_json(record))
            if beside is not None:
                more, said = beside(files, base, record)
                for made in more:
                    provenance.spare(folder / made.name)
                    provenance.put_beside(files, made, record)
            files.release(outdated)
    except OSError as error:
        raise unwritten(mask, error) from error
    written = {made.what: folder / made.name for made in more}
    return Saved(mask, sidecar, _verified(likes, worked), digests[None], others, record, written, said)


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


def _likes(subject: Subject, worked: Worked | None) -> dict[Sequence | None, Path | None]:
    """For the mask (None) and for each sequence that needs one of its own, the file whose header it takes over."""
    if worked is None or worked.grid.same_as(worked.own_grid(worked.reference)):
        likes: dict[Sequence | None, Path | None] = {None: _reference(subject)}
    else:
        likes = {None: _header_of(worked.raw[worked.reference].source, worked.raw[worked.reference].grid)}
    if worked is not None:
        for sequence, volume in worked.raw.items():
            if not worked.shares_grid(sequence, worked.reference):
                likes[sequence] = _header_of(volume.source, volume.grid)
    return likes


def _on_own_grid(segmentation: Segmentation, sequence: Sequence | None, worked: Worked | None) -> LabelMap:
    if worked is None:
        return segmentation.label_map
    return worked.native(segmentation, sequence or worked.reference)


def _verified(likes: Mapping[Sequence | None, Path | None], worked: Worked | None) -> str:
    like, others = likes[None], len(likes) - 1
    whose = shown(like) if like is not None else "the scans"
    if worked is not None and others:
        whose = worked.reference.title
        return f"Saved on the grid of {whose} and on {others} of other scans, read back and found equal."
    return f"Saved on the grid of {whose}, read back and found equal."


def _too_small(
    segmentation: Segmentation, masks: Mapping[Sequence | None, LabelMap], worked: Worked | None
) -> list[str]:
    """A sentence for the masks that are empty although something was found."""
    if worked is None or not segmentation.label_map.data.any():
        return []
    empty = [key or worked.reference for key, mask in masks.items() if not mask.data.any()]
    if not empty:
        return []
    return [
        f"What was found is too small for the voxels of {in_words(empty)}, or lies outside: the mask there is empty."
    ]


def _spare_what_is_not_ours(
    targets: Mapping[Sequence | None, Path], sidecar: Path, goes_on_from: Collection[str] = ()
) -> list[Path]:
    """Refuse to replace anything but an untouched earlier result, or a corrected one that this goes on from.

    Cohorts call an expert's segmentation ``<subject>_seg.nii.gz`` too, and saving beside the scans is what people do.

    Args:
        targets: The masks to be written: the main one under None.
        sidecar: To be written.
        goes_on_from: See `save`.

    Returns:
        Masks of an earlier result that this one has no more, to be removed.

    Raises:
        CannotWrite: Something lies under one of the names that was not made by Gliascope, or was changed or corrected.
    """
    record = provenance.read(sidecar)
    expected = _digests(record)
    for key, target in targets.items():
        there = target
        if not target.exists():
            if key is not None or not sidecar.exists():
                continue
            there = sidecar
        why = "it was not made by Gliascope"
        if record is not None and (key in expected or there is sidecar):
            digest = sha256(target) if target.exists() else None
            untouched = digest is None or digest == expected[key]
            corrected = bool(record.get("edited_by_hand")) and digest is not None
            if untouched and (not corrected or expected.get(None) in goes_on_from):
                continue
            why = "it was corrected by hand" if untouched else "it was changed after Gliascope made it"
        raise CannotWrite(
            f"{shown(there)} is there already and is not replaced",
            why,
            "Choose another folder, or move that file away first.",
        )
    outdated = []
    for key, digest in expected.items():
        if key is not None and key not in targets:
            path = sidecar.with_name(sidecar.name.removesuffix(SIDECAR_ENDING) + f"_{key.value}{MASK_ENDING}")
            if path.is_file() and sha256(path) == digest:
                outdated.append(path)
    return outdated


def _digests(record: Mapping[str, Any] | None) -> dict[Sequence | None, str]:
    """SHA-256 of the masks that a sidecar tells of; the main one under None."""
    found: dict[Sequence | None, str] = {}
    if record is not None:
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            found[None] = str(record["mask"]["sha256"])
            found |= {Sequence(key): str(other["sha256"]) for key, other in record.get("masks", {}).items()}
    return found


def _header_of(source: Path | None, grid: Grid) -> Path | None:
    """The file itself where it is still there and lies on the grid; None otherwise, and the grid itself is written."""
    with suppress(UnreadableImage):
        if source is not None and nifti.read_grid(source)[0].same_as(grid, tolerance_mm=1e-3):
            return source
    return None


def _reference(subject: Subject) -> Path | None:
    """The input file whose header the mask takes over.

    A sequence that was resampled lies on another grid than its file; a file may be gone by now. Then the next one is
    asked, and at last the grid itself is written.
    """
    files = (_header_of(volume.source, subject.grid) for volume in subject.values())
    return next((file for file in files if file is not None), None)
