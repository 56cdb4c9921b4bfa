"""What the session has done away from the UI thread: plain functions, a Progress last, no Qt.

The engine is imported inside, by whoever runs first: a window on its way to the screen needs none of it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.viewer_model import Layer, LayerKey, Mask, Point, Version
from engine.errors import ChooseVolume, GridMismatch, SequenceProblem, UnreadableImage, UserError
from engine.progress import Progress
from engine.volume import Grid, LabelMap, Sequence, Subject, Volume

if TYPE_CHECKING:
    from engine.diameters import Diameters
    from engine.export import Saved
    from engine.findings import Finding
    from engine.inference import Segmentation
    from engine.nifti import Convention
    from engine.registry import Choice, Listing
    from engine.sequences import SubjectFiles


@dataclass(frozen=True, eq=False)
class Opened:
    """What reading a patient gave.

    Attributes:
        layers: Everything that can be looked at.
        subject: The sequences that can be segmented together, or None.
        mismatch: Why they cannot, when it is their grids.
        why: For each file, how certain its sequence is and how it was told.
        listing: The models there are.
    """

    layers: dict[LayerKey, Layer]
    subject: Subject | None
    mismatch: GridMismatch | None
    why: dict[Path, tuple[bool, str]]
    listing: Listing


class SeveralVolumes(ChooseVolume):
    """A file of a patient holds several volumes; says which file.

    Args:
        path: The file.
        cause: What reading it said.
    """

    def __init__(self, path: Path, cause: ChooseVolume) -> None:
        self.path = path
        super().__init__(cause.what, cause.why, cause.what_to_do, cause.count)


def find(paths: list[Path], progress: Progress) -> list[SubjectFiles]:
    """The patients in files and folders; at least one."""
    from engine import sequences

    progress.check()
    return sequences.find_subjects(paths)


def read(files: SubjectFiles, indices: dict[Path, int], resample: bool, progress: Progress) -> Opened:
    """Read a patient and look through the voxels.

    Args:
        files: Which file is which sequence.
        indices: Which volume to take, from 0, of files that hold several.
        resample: Bring sequences on other grids onto the finest.
        progress: Told of every file.

    Raises:
        SeveralVolumes: A file holds several volumes and ``indices`` does not name one.
        UserError: A file cannot be used.
    """
    from engine import registry, sequences

    subject, mismatch = None, None
    volumes: dict[LayerKey, Volume] = {}
    reading = progress.part(0.0, 0.8)
    if files.files or not files.unknown:
        try:
            subject = _load_subject(files, indices, resample, reading)
            volumes |= {sequence: subject[sequence] for sequence in subject}
        except GridMismatch as error:
            # They can still be looked at, each on its own grid, while the user decides.
            mismatch = error
            for sequence, path in files.files.items():
                volumes[sequence] = _read_one(path, sequence, indices)
    for path in files.unknown:
        volumes[path] = _read_one(path, None, indices)
        sequences.require_scan(volumes[path], path)
    layers: dict[LayerKey, Layer] = {}
    for number, (key, volume) in enumerate(volumes.items()):
        progress.update(0.8 + 0.2 * number / len(volumes), f"looking through {volume.name}")
        layers[key] = Layer.of(volume)
    why = {}
    for path in (*files.files.values(), *files.unknown):
        detection = sequences.detect(path)
        why[path] = (detection.certain, detection.why)
    return Opened(layers, subject, mismatch, why, registry.list_models())


def _load_subject(files: SubjectFiles, indices: dict[Path, int], resample: bool, progress: Progress) -> Subject:
    from engine import sequences

    try:
        return sequences.load(files, resample=resample, progress=progress, indices=indices)
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
    subject: Subject, choice: Choice, layers: dict[LayerKey, Layer], progress: Progress
) -> tuple[Segmentation, Mask]:
    """Find the tumour, and look through what was found."""
    from engine import inference

    segmentation = inference.segment(subject, choice.card, progress.part(0.0, 0.97), use=choice.used)
    return segmentation, Mask.of(segmentation.label_map, layers, segmentation.probabilities)


def read_mask(
    path: Path, convention: Convention | None, layers: dict[LayerKey, Layer], grid: Grid, progress: Progress
) -> Mask:
    """Somebody else's mask of the scan on the desk.

    Args:
        path: The segmentation.
        convention: What its labels mean; told from the file when not given.
        layers: What is on screen.
        grid: Of the scan.
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
    labels = nifti.read_label_map(path, convention)
    if not labels.grid.same_as(grid):
        raise GridMismatch(
            f"{path.name} does not lie on the grid of the scan", grid.difference(labels.grid),
            "Compare masks that were drawn on this scan.",
        )  # fmt: skip
    return Mask.of(labels, layers)


class UnknownConvention(UserError):
    """The labels of a segmentation do not say what they mean.

    Args:
        path: The segmentation.
        cause: What reading it said.
    """

    def __init__(self, path: Path, cause: UserError) -> None:
        self.path = path
        super().__init__(cause.what, cause.why, cause.what_to_do)


def read_earlier(paths: list[Path], grid: Grid, progress: Progress) -> Version:
    """An earlier scan of the patient on the desk, with the mask that lies beside it, if its labels can be told.

    Raises:
        GridMismatch: It lies on another grid than today's.
        UserError: It cannot be read, or there are several patients.
    """
    from engine import nifti, sequences

    subjects = sequences.find_subjects(paths)
    if len(subjects) > 1:
        raise SequenceProblem(
            "These files belong to several patients",
            ", ".join(files.name for files in subjects[:4]),
            "Choose the files of one earlier scan.",
        )
    files = subjects[0]
    subject = sequences.load(files, progress=progress)
    if not subject.grid.same_as(grid):
        raise GridMismatch(
            f"{files.name} does not lie on the grid of the scan on the desk",
            grid.difference(subject.grid),
            "Register the earlier scan onto this one first.",
        )
    layers: dict[LayerKey, Layer] = {sequence: Layer.of(volume) for sequence, volume in subject.items()}
    mask = None
    if files.segmentation is not None:
        with suppress(UserError):
            convention = nifti.find_convention([files.segmentation])
            labels = nifti.read_label_map(files.segmentation, convention)
            mask = Mask.of(labels, layers) if labels.grid.same_as(grid) else None
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


def read_labels(path: Path, progress: Progress) -> LabelMap:
    """Read a mask, in whatever labels it was drawn, if they can be told."""
    from engine import nifti

    progress.check()
    return nifti.read_label_map(path)


def look_through(labels: LabelMap, layers: dict[LayerKey, Layer], progress: Progress) -> Mask:
    """Look through a label map that was corrected."""
    progress.check()
    return Mask.of(labels, layers)


def save(
    segmentation: Segmentation,
    subject: Subject,
    folder: Path,
    reason: str,
    uncertain: frozenset[Sequence],
    goes_on_from: frozenset[str],
    progress: Progress,
) -> Saved:
    """Write mask and sidecar, and read them back."""
    from engine import export

    progress.check()
    return export.save(segmentation, subject, folder, reason=reason, uncertain=uncertain, goes_on_from=goes_on_from)
