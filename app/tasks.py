"""What the session has done away from the UI thread: plain functions, a Progress last, no Qt.

The engine is imported inside, by whoever runs first: a window on its way to the screen needs none of it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.viewer_model import Layer, LayerKey, Mask, Point, Version
from engine.errors import BadModel, ChooseVolume, GridMismatch, SequenceProblem, UnreadableImage, UserError
from engine.progress import Progress
from engine.volume import Affine, Grid, LabelMap, Sequence, Subject, Volume

if TYPE_CHECKING:
    from engine.contents import Recognition
    from engine.diameters import Diameters
    from engine.dicom import Series, Study
    from engine.export import Saved
    from engine.findings import Finding
    from engine.inference import Segmentation
    from engine.nifti import Convention
    from engine.outputs import Wanted
    from engine.pipeline import Settings, Step, Worked
    from engine.registry import Choice, Listing
    from engine.sequences import SubjectFiles
    from engine.unusual import Doubt
    from engine.workshop import Workshop


@dataclass(frozen=True, eq=False)
class Found:
    """What lies in files and folders: patients, or DICOM studies of which series are to be chosen.

    Attributes:
        patients: As files; empty where there are studies.
        studies: One for each patient and day.
        workshop: Where what an archive held lies, and converted series will; None without studies.
    """

    patients: list[SubjectFiles]
    studies: list[Study]
    workshop: Workshop | None


@dataclass(frozen=True, eq=False)
class Opened:
    """What reading a patient gave.

    Attributes:
        files: Which file is which sequence, also those whose names did not say.
        layers: Everything that can be looked at, each on its file's own grid.
        why: For each file, how certain its sequence is and how it was told.
        looks_like: Files whose content says surely something else than their name or header.
        listing: The models there are.
        notes: What was told by contents, as sentences for what is written beside a mask.
        unseen: Why contents could not be looked at, in words; empty when they were.
    """

    files: SubjectFiles
    layers: dict[LayerKey, Layer]
    why: dict[Path, tuple[bool, str]]
    looks_like: dict[Path, Recognition]
    listing: Listing
    notes: tuple[str, ...] = ()
    unseen: str = ""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What preparing a patient gave.

    Attributes:
        worked: What was done, and what the models are given.
        layers: What is looked at from now on: aligned, on one grid, with the skull.
        doubts: What is unlike the scans that models know.
    """

    worked: Worked
    layers: dict[LayerKey, Layer]
    doubts: tuple[Doubt, ...]


class SeveralVolumes(ChooseVolume):
    """A file of a patient holds several volumes; says which file.

    Args:
        path: The file.
        cause: What reading it said.
    """

    def __init__(self, path: Path, cause: ChooseVolume) -> None:
        self.path = path
        super().__init__(cause.what, cause.why, cause.what_to_do, cause.count)


def find(paths: list[Path], progress: Progress) -> Found:
    """The patients in files and folders, or the DICOM studies; at least one."""
    from engine import dicom, sequences

    progress.check()
    if not dicom.looks_like_dicom(paths):
        return Found(sequences.find_subjects(paths), [], None)
    from engine.workshop import Workshop

    workshop = Workshop()
    return Found([], dicom.look(paths, workshop, progress), workshop)


def convert(study: Study, workshop: Workshop, progress: Progress) -> SubjectFiles:
    """The chosen series of a study as files."""
    from engine import dicom

    return dicom.subject_files(study, workshop, progress)


def thumbnail(series: Series, progress: Progress) -> NDArray[np.uint8] | None:
    """The middle slice of a series, ``(rows, columns)``; None where it cannot be shown."""
    from engine import dicom

    progress.check()
    with suppress(UserError):
        return dicom.thumbnail(series)
    return None


def read(
    files: SubjectFiles,
    indices: dict[Path, int],
    told: dict[Path, tuple[bool, str]],
    settled: frozenset[Path],
    progress: Progress,
) -> Opened:
    """Read a patient, each file as it is, look at what it shows, and look through the voxels.

    Args:
        files: Which file is which sequence.
        indices: Which volume to take, from 0, of files that hold several.
        told: How certain the sequence of a file is and how it was told, where that is known from elsewhere than its
            name.
        settled: Files the user has spoken for: what they show is no question.
        progress: Told of every file.

    Raises:
        SeveralVolumes: A file holds several volumes and ``indices`` does not name one.
        UserError: A file cannot be used.
    """
    from engine import contents, registry, sequences

    unseen = ""
    why_by_content: dict[Path, str] = {}
    notes: tuple[str, ...] = ()
    try:
        placed = contents.place(files, progress.part(0.0, 0.2), indices, settled | set(told))
        files, why_by_content, notes = placed.files, dict(placed.why), placed.notes
    except BadModel as error:
        # Names and headers are left to tell by.
        unseen = str(error)
    volumes: dict[LayerKey, Volume] = {}
    scans: dict[Sequence, Volume] = {}
    if files.files or not files.unknown:
        scans = _read_all(files, indices, progress.part(0.2, 0.6))
    for sequence, volume in scans.items():
        volumes[sequence] = volume
    for path in files.unknown:
        volumes[path] = _read_one(path, None, indices)
        sequences.require_scan(volumes[path], path)
    looks_like: dict[Path, Recognition] = {}
    seen = {s: volume for s, volume in scans.items() if files.files[s] not in settled}
    try:
        for sequence, look in contents.disagreements(seen, progress.part(0.6, 0.7)).items():
            looks_like[files.files[sequence]] = look
    except BadModel as error:
        unseen = str(error)
    layers: dict[LayerKey, Layer] = {}
    why: dict[Path, tuple[bool, str]] = {}
    paths: dict[LayerKey, Path] = {path: path for path in files.unknown}
    for sequence, path in files.files.items():
        paths[sequence] = path
    for number, (key, volume) in enumerate(volumes.items()):
        progress.update(0.7 + 0.3 * number / len(volumes), f"looking through {volume.name}")
        layers[key] = Layer.of(volume)
        path = paths[key]
        detection = sequences.detect(path)
        if path in told:
            why[path] = told[path]
        elif path in why_by_content:
            why[path] = (key not in files.uncertain, why_by_content[path])
        else:
            why[path] = (detection.certain, detection.why)
    return Opened(files, layers, why, looks_like, registry.list_models(), notes, unseen)


def prepare(
    name: str,
    raw: dict[Sequence, Volume],
    settings: Settings,
    earlier: Worked | None,
    known: list[Layer],
    progress: Progress,
) -> Prepared:
    """Take a patient's scans to what models know.

    Args:
        name: Of the patient.
        raw: The scans as they were read.
        settings: What to do.
        earlier: What came of other settings.
        known: What was looked through already.
        progress: Told of every step.

    Raises:
        UserError: The scans cannot be brought together.
    """
    from engine import pipeline, unusual

    worked = pipeline.work(name, raw, settings, progress.part(0.0, 0.9), earlier)
    progress.update(0.9, "looking through the prepared scans")
    layers: dict[LayerKey, Layer] = {}
    for sequence, volume in worked.shown.items():
        same = next((layer for layer in known if layer.volume is volume), None)
        layers[sequence] = same if same is not None else Layer.of(volume)
        progress.check()
    doubts: tuple[Doubt, ...] = ()
    with suppress(BadModel):  # that contents cannot be looked at was told when the scans were opened
        doubts = unusual.look(worked.raw, worked.subject, None, progress)
    return Prepared(worked, layers, doubts)


def look_at(worked: Worked, step: Step, sequence: Sequence, progress: Progress) -> tuple[Volume, Volume]:
    """A sequence before and after a step, as the step itself saw it."""
    progress.check()
    return worked.before(step, sequence), worked.after(step, sequence)


def align_from(worked: Worked, sequence: Sequence, start: Affine, progress: Progress) -> tuple[Affine, str]:
    """Where a scan lies best, looked for from where it was pushed: ``(4, 4)``, and how well it fits there."""
    from engine import alignment

    reference = alignment.moved(worked.raw[worked.reference], worked.matrices[worked.reference])
    found = alignment.align(worked.raw[sequence], reference, progress, start=start)
    return found.matrix, found.quality_words


def fit_of(worked: Worked, sequence: Sequence, matrix: Affine, progress: Progress) -> str:
    """How well a scan fits at a place, in words."""
    from engine import alignment

    progress.check()
    reference = alignment.moved(worked.raw[worked.reference], worked.matrices[worked.reference])
    return alignment.quality_words(alignment.quality(alignment.moved(worked.raw[sequence], matrix), reference))


def _read_all(files: SubjectFiles, indices: dict[Path, int], progress: Progress) -> dict[Sequence, Volume]:
    from engine import sequences

    try:
        return sequences.read(files, progress, indices)
    except ChooseVolume:
        # Which file it was is found by reading them one by one; the last of these raises.
        for sequence, path in files.files.items():
            _read_one(path, sequence, indices)
        raise


def _read_one(path: Path, sequence: Sequence | None, indices: dict[Path, int]) -> Volume:
    from engine import nifti

    try:
        return nifti.read(path, sequence, indices.get(path))
    except ChooseVolume as error:
        raise SeveralVolumes(path, error) from error


def segment(
    worked: Worked, choice: Choice, layers: dict[LayerKey, Layer], told: tuple[str, ...], progress: Progress
) -> tuple[Segmentation, Mask, tuple[Doubt, ...]]:
    """Find the tumour, look through what was found, and say what speaks against trusting it.

    Args:
        worked: The scans.
        choice: The model.
        layers: What is on screen.
        told: What was decided when the scans were read, for what is written beside the mask.
        progress: Told of every stage and every window.
    """
    from engine import flow

    segmentation, doubts = flow.outline(worked, choice, told, progress)
    return segmentation, Mask.of(segmentation.label_map, layers, segmentation.probabilities), doubts


def segment_alone(
    subject: Subject, choice: Choice, layers: dict[LayerKey, Layer], progress: Progress
) -> tuple[Segmentation, Mask]:
    """Find the tumour with another model, to compare with."""
    from engine import inference

    segmentation = inference.segment(subject, choice.card, progress.part(0.0, 0.97), use=choice.used)
    return segmentation, Mask.of(segmentation.label_map, layers, segmentation.probabilities)


def read_mask(
    path: Path,
    convention: Convention | None,
    layers: dict[LayerKey, Layer],
    worked: Worked,
    progress: Progress,
) -> tuple[Mask, str]:
    """Somebody else's mask of the patient on the desk, and what was done to bring it there, as a sentence or nothing.

    Args:
        path: The segmentation.
        convention: What its labels mean; told from the file when not given.
        layers: What is on screen.
        worked: Where the scans lie now, and where their files put them.
        progress: To be stopped by.

    Raises:
        UnknownConvention: The labels do not say what they mean.
        GridMismatch: It was drawn on another scan.
        UserError: It cannot be read.
    """
    from engine import nifti

    progress.check()
    if convention is None:
        try:
            convention = nifti.find_convention([path])
        except UnreadableImage:
            raise
        except UserError as error:
            raise UnknownConvention(path, error) from error
    labels, note = _to_the_scans(nifti.read_label_map(path, convention), worked, path.name)
    return Mask.of(labels, layers), note


def _to_the_scans(labels: LabelMap, worked: Worked, name: str) -> tuple[LabelMap, str]:
    """A label map on the grid the scans share, moved with the scan on which it was drawn, and a sentence about it.

    Raises:
        GridMismatch: It lies nowhere near the scans.
    """
    from engine import sequences

    if labels.grid.same_as(worked.grid):
        return labels, ""
    # Of scans that share a grid the one that stayed where it was is the likelier.
    order = sorted(worked.raw, key=lambda s: s is not worked.reference)
    drawn_on = next((s for s in order if labels.grid.same_as(worked.raw[s].grid)), None)
    matrix = worked.matrices[drawn_on if drawn_on is not None else worked.reference]
    moved = LabelMap(labels.data, Grid(labels.grid.shape, matrix @ labels.grid.affine), labels.source)
    brought = sequences.resample_label_map(moved, worked.grid)
    before, after = labels.ml(labels.data > 0), brought.ml(brought.data > 0)
    if before > 0 and after < 0.5 * before:
        raise GridMismatch(
            f"{name} does not lie where the scans lie", worked.grid.difference(labels.grid),
            "Use a mask that was drawn on one of these scans.",
        )  # fmt: skip
    if drawn_on is not None:
        return brought, ""
    return brought, f"{name} lies on a grid of its own; it was put where its header says."


class UnknownConvention(UserError):
    """The labels of a segmentation do not say what they mean.

    Args:
        path: The segmentation.
        cause: What reading it said.
    """

    def __init__(self, path: Path, cause: UserError) -> None:
        self.path = path
        super().__init__(cause.what, cause.why, cause.what_to_do)


def read_earlier(paths: list[Path], worked: Worked, progress: Progress) -> Version:
    """An earlier scan of the patient on the desk, with the mask that lies beside it, if its labels can be told.

    Where it does not lie on today's grid, it is aligned onto today's scan.

    Raises:
        UserError: It cannot be read, or there are several patients.
    """
    from engine import alignment, nifti, pipeline, sequences

    subjects = sequences.find_subjects(paths)
    if len(subjects) > 1:
        raise SequenceProblem(
            "These files belong to several patients",
            ", ".join(files.name for files in subjects[:4]),
            "Choose the files of one earlier scan.",
        )
    files, grid = subjects[0], worked.grid
    raw = sequences.read(files, progress.part(0.0, 0.2))
    # What was prepared together with today's scans, as cohorts are, lies where it is meant to lie.
    together = all(volume.grid.same_as(grid) for volume in raw.values())
    volumes, place = dict(raw), {sequence: np.eye(4) for sequence in raw}
    if not together:
        only = pipeline.Settings(strip=pipeline.Switch.OFF, bias=pipeline.Switch.OFF)
        then = pipeline.work(files.name, raw, only, progress.part(0.2, 0.6))
        # The same contrast shows best whether two days fit.
        both = [sequence for sequence in then.shown if sequence in worked.shown]
        fixed, moving = (both[0], both[0]) if both else (worked.reference, then.reference)
        found = alignment.align(then.shown[moving], worked.shown[fixed], progress.part(0.6, 0.9))
        place = {sequence: found.matrix @ then.matrices[sequence] for sequence in raw}
        volumes = {s: alignment.onto(alignment.moved(raw[s], place[s]), grid) for s in raw}
    layers: dict[LayerKey, Layer] = {sequence: Layer.of(volume) for sequence, volume in volumes.items()}
    mask = None
    if files.segmentation is not None:
        with suppress(UserError):
            convention = nifti.find_convention([files.segmentation])
            labels = nifti.read_label_map(files.segmentation, convention)
            on = next((s for s, volume in raw.items() if labels.grid.same_as(volume.grid)), None)
            if on is not None:
                moved = LabelMap(labels.data, Grid(labels.grid.shape, place[on] @ labels.grid.affine))
                mask = Mask.of(labels if together else sequences.resample_label_map(moved, grid), layers)
    return Version(files.name, mask, layers)


@dataclass(frozen=True, eq=False)
class Looked:
    """What a second look at a mask gave.

    Attributes:
        findings: Places worth a look.
        lesions: The connected pieces of the whole tumour, the largest first: ml, and a place within.
        diameters: Of ``"core"`` and ``"whole_tumour"`` on the axial slice where each is largest, in the patient;
            regions that are empty are left out.
        disagreement: How many ml the other result calls differently, by region; None without another.
        dice: How well both agree, by region; None without another.
    """

    findings: tuple[Finding, ...]
    lesions: tuple[tuple[float, Point], ...]
    diameters: dict[str, Diameters]
    disagreement: dict[str, float] | None
    dice: dict[str, float] | None


def look_again(
    mask: Mask, volumes: dict[LayerKey, Volume], other: Mask | None, names: tuple[str, str], progress: Progress
) -> Looked:
    """Measure a mask and list what is worth a look."""
    from engine import diameters, findings, metrics

    labels = mask.labels
    compared = other.labels if other is not None and other.labels.grid.same_as(labels.grid) else None
    found = findings.find(labels, mask.probabilities, volumes.values(), compared, names)
    progress.check()
    measured = {}
    for region, inside in (("core", labels.tumour_core), ("whole_tumour", labels.whole_tumour)):
        largest = diameters.measure_largest(inside, labels.grid, mask.axis)
        if largest is not None:
            measured[region] = largest[1]
        progress.check()
    return Looked(
        findings=found,
        lesions=tuple(metrics.lesions(labels)),
        diameters=measured,
        disagreement=findings.disagreement_ml(labels, compared) if compared is not None else None,
        dice={
            "whole_tumour": metrics.dice(labels.whole_tumour, compared.whole_tumour),
            "tumour_core": metrics.dice(labels.tumour_core, compared.tumour_core),
        }
        if compared is not None
        else None,
    )


def read_labels(path: Path, worked: Worked, progress: Progress) -> LabelMap:
    """Read a mask of the patient on the desk, in whatever labels it was drawn, if they can be told."""
    from engine import nifti

    progress.check()
    return _to_the_scans(nifti.read_label_map(path), worked, path.name)[0]


def look_through(labels: LabelMap, layers: dict[LayerKey, Layer], progress: Progress) -> Mask:
    """Look through a label map that was corrected."""
    progress.check()
    return Mask.of(labels, layers)


def save(
    segmentation: Segmentation,
    worked: Worked,
    folder: Path,
    reason: str,
    uncertain: frozenset[Sequence],
    goes_on_from: frozenset[str],
    wanted: Wanted | None,
    progress: Progress,
) -> Saved:
    """Write the masks, one for each grid that the files have, the sidecar and what else is wanted."""
    from engine import export, outputs

    progress.check()
    return export.save(
        segmentation,
        worked.subject,
        folder,
        reason=reason,
        uncertain=uncertain,
        goes_on_from=goes_on_from,
        worked=worked,
        beside=outputs.maker(wanted, segmentation, worked, progress) if wanted is not None else None,
    )
