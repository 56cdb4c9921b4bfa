"""What the session has done away from the UI thread: plain functions, a Progress last, no Qt.

The engine is imported inside, by whoever runs first: a window on its way to the screen needs none of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.viewer_model import Layer, LayerKey, Mask
from engine.errors import ChooseVolume, GridMismatch
from engine.progress import Progress
from engine.volume import LabelMap, Sequence, Subject, Volume

if TYPE_CHECKING:
    from engine.export import Saved
    from engine.inference import Segmentation
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
    return segmentation, Mask.of(segmentation.label_map, layers)


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
