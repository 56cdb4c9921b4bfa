"""Which sequence a file is, which files belong to one patient, and those files as one subject on one grid."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine import nifti
from engine.errors import GridMismatch, SequenceProblem, UnreadableImage, UserError
from engine.files import shown
from engine.progress import Progress
from engine.volume import Grid, LabelMap, Sequence, Subject, Volume

_Voxel = TypeVar("_Voxel", bound=np.generic)

_DEPTH = 6
_SLAB = 8

# The last word of the name in BraTS 2012-2024 and the cohorts that follow it.
_LAST_WORD = {
    "t1": Sequence.T1, "t1n": Sequence.T1, "t1w": Sequence.T1,
    "t1ce": Sequence.T1CE, "t1c": Sequence.T1CE, "t1gd": Sequence.T1CE, "ct1": Sequence.T1CE,
    "t2": Sequence.T2, "t2w": Sequence.T2,
    "flair": Sequence.FLAIR, "t2f": Sequence.FLAIR, "fla": Sequence.FLAIR,
}  # fmt: skip

_PLANE = r"(?:ax|axial|tra|sag|cor|3d|2d|se|ir)*"
_T1_WORD = re.compile(rf"{_PLANE}(ce|c|gd|post|pre)?t1(?!\d)(?:w|wi|n)?(.*)")
_T2_WORD = re.compile(rf"{_PLANE}t2(?!\d)(?:w|wi)?(.*)")
# Sequences that are T1-weighted without saying so.
_T1_KINDS = {"mprage", "mpr", "mp2rage", "spgr", "fspgr", "bravo", "tfe", "vibe", "irspgr"}
_CONTRAST = {
    "c", "ce", "gd", "gad", "gado", "gadolinium", "gadovist", "gadobutrol", "dotarem", "magnevist", "contrast", "post",
    "postcontrast", "postgad", "postgd", "km", "kontrast", "kontrastmittel", "enhanced", "enh", "cm", "inj", "+c", "c+",
    "+", "+gd", "+gad", "+ce", "+km", "+contrast",
}  # fmt: skip
_NATIVE = {"pre", "precontrast", "native", "nativ", "noncontrast", "nocontrast", "unenhanced", "plain", "n"}
_WITHOUT = {"no", "non", "not", "without", "wo", "ohne", "sans"}
# "post" and "pre" of an operation, a treatment or a computation say nothing about contrast.
_NOT_CONTRAST = {"op", "operative", "surgery", "surgical", "rt", "treatment", "therapy", "processed", "proc"}
# The word after these names another image: t2_to_t1 is a T2.
_ONTO = {"to", "onto", "in", "on", "reg2", "space"}
# These too, but only directly after a sequence: flair_reg_t1 is a FLAIR, visit_2_t1 and sub7_reg_t1 are T1.
_MAYBE_ONTO = {"2", "reg", "coreg", "registered", "aligned"}
_OTHER = {
    "dwi", "adc", "swi", "bold", "asl", "pwi", "dti", "tof", "mra", "cbf", "cbv", "dsc", "dce", "pet", "ct", "pd",
    "pdw", "t2star", "t2s", "t2*", "t1map", "t2map", "qsm",
}  # fmt: skip

_LABEL_WORDS = {"seg", "segm", "segmentation", "mask", "masks", "label", "labels", "dseg", "aparc", "tissues"}
_WEAK_LABEL_WORDS = {"gt", "groundtruth", "truth", "tumor", "tumour", "lesion", "lesions", "roi", "annotation"}
_LABEL_FOLDERS = {"labelstr", "labelsts", "labels", "masks", "segmentations"}
_NOT_TUMOUR = {
    "brain", "brainmask", "parenchyma", "tissue", "tissues", "aseg", "aparc", "wm", "gm", "csf", "skull", "bet",
    "face", "probseg", "ventricles", "hippocampus",
}  # fmt: skip
# Words before the sequence that describe the scan, not the patient.
_SCAN_WORDS = {
    "ax", "axial", "tra", "sag", "sagittal", "cor", "coronal", "3d", "2d", "brain", "head", "mr", "mri", "scan",
    "image", "img", "reg", "n4", "orig", "raw", "pre", "post", "se", "tse", "tumor", "tumour", "whole",
}  # fmt: skip
# Folders of a BIDS subject that hold no anatomy.
_NO_ANATOMY = {"func", "dwi", "fmap", "perf", "eeg", "meg", "ieeg", "pet", "beh"}


@dataclass(frozen=True)
class Detection:
    """Which sequence a file's name says it is.

    Attributes:
        sequence: None where the name does not say.
        certain: Whether the name leaves no doubt; if not, the user should be asked to look.
        why: What in the name says so, as a clause: ``'its name ends in "t1ce"'``.
    """

    sequence: Sequence | None
    certain: bool
    why: str


@dataclass(frozen=True)
class SubjectFiles:
    """The files of one patient, not read yet.

    Attributes:
        name: What to call the patient in outputs.
        files: The file of each sequence that was told.
        unknown: Images whose sequence could not be told; the user may assign them.
        segmentation: A ground truth that lies beside them.
        folder: Where they lie.
        uncertain: The sequences in ``files`` that were told with a doubt.
        volumes: Which volume of its file a sequence is, from 0, where one file holds several sequences.
    """

    name: str
    files: Mapping[Sequence, Path]
    unknown: tuple[Path, ...]
    segmentation: Path | None
    folder: Path
    uncertain: frozenset[Sequence] = frozenset()
    volumes: Mapping[Sequence, int] = field(default_factory=dict)


def detect(path: Path) -> Detection:
    """Tell a file's sequence from its name (BraTS 2012-2024, BIDS, nnU-Net with its dataset.json, clinical names).

    The file itself is not opened and need not exist.
    """
    name = nifti.stem(path)
    words = _words(name)
    if _is_bids(name):
        told = _bids(name)
        if told is not None:
            return told
    numbered = re.search(r"_(\d{4})$", name)
    if numbered is not None:
        told = _channel(path, int(numbered[1]))
        if told is not None:
            return told
    if words and words[-1] in _LAST_WORD and not _names_a_target(words, len(words) - 1):
        sequence = _LAST_WORD[words[-1]]
        if (
            sequence is Sequence.T1
            and len(words) > 1
            and words[-2] in _CONTRAST
            and not _negated(words, len(words) - 2)
        ):
            return Detection(Sequence.T1CE, False, f'its name holds "{words[-2]}" before "{words[-1]}"')
        return Detection(sequence, True, f'its name ends in "{words[-1]}"')
    told = _clinical(words)
    if told is not None:
        return told
    if numbered is not None:
        return Detection(None, False, f"the number {numbered[1]} means a sequence only with its dataset.json")
    folder = _clinical(_words(path.parent.name))
    if folder is not None and folder.sequence is not None:
        return Detection(folder.sequence, False, f"its name does not say, but its folder is {path.parent.name}")
    return Detection(None, False, "its name does not say")


def said_by(text: str) -> Detection | None:
    """Tell a sequence from free words, such as a scanner's description of a series; None where they name none."""
    return _clinical(_words(text))


def contrast_in(text: str) -> bool | None:
    """Whether free words say that contrast was given; None where they do not say."""
    words = _words(text)
    for at, word in enumerate(words):
        if words[at + 1 : at + 2] and words[at + 1] in _NOT_CONTRAST:
            continue
        if word in _CONTRAST or word in _NATIVE - {"n"}:
            return word in _CONTRAST and not _negated(words, at)
    return None


def is_segmentation(path: Path) -> bool:
    """Whether a file is a segmentation rather than an image, by its name or its folder's."""
    words = _words(nifti.stem(path))
    if any(word in _LABEL_WORDS or word.endswith(("seg", "mask")) for word in words):
        return True
    if path.parent.name.lower() in _LABEL_FOLDERS:
        return True
    return any(word in _WEAK_LABEL_WORDS for word in words) and detect(path).sequence is None


def looks_like_segmentation(volume: Volume) -> bool:
    """Whether the voxels are labels rather than an image: two values in all, or whole numbers up to 10."""
    values = volume.data.ravel(order="K")
    # Settles all but a few images in a millisecond.
    if len(np.unique(values[:: max(1, values.size // 5000)])) > 11:
        return False
    lowest, highest = values.min(), values.max()
    if np.count_nonzero(values == lowest) + np.count_nonzero(values == highest) == values.size:
        return True
    return bool(lowest >= 0 and highest <= 10 and np.array_equal(values, np.rint(values)))


def require_scan(volume: Volume, path: Path) -> None:
    """Make sure that a file holds an image, not labels.

    Raises:
        SequenceProblem: Its voxels are labels.
    """
    if looks_like_segmentation(volume):
        raise _not_a_scan(path, "its voxels are a few labels")


def find_subjects(paths: Iterable[Path]) -> list[SubjectFiles]:
    """Group files and folders into patients.

    Loose files are one patient, unless their names say that they belong to several. A folder is one patient, a flat
    folder of several, or a cohort of such folders however deep (BIDS with or without sessions, BraTS, nnU-Net).

    Returns:
        The patients in order of appearance, folders sorted by name, each with a name of its own.

    Raises:
        SequenceProblem: Two files of one patient claim the same sequence; both are named.
        UnreadableImage: A path is not there, may not be read, or holds no NIfTI image.
    """
    loose: list[Path] = []
    found: list[SubjectFiles] = []
    for path in dict.fromkeys(Path(path) for path in paths):
        if _is_folder(path):
            inside = list(_search(path, _DEPTH))
            if not inside:
                raise _nothing_in(path)
            known = [subject for subject in inside if subject.files]
            found += known or inside
        elif nifti.is_nifti_name(path):
            loose.append(path)
        else:
            raise UnreadableImage(
                f"{shown(path)} is not a NIfTI image by its name", "", "Choose .nii or .nii.gz files."
            )
    return _named_apart([*_group(loose, None), *found])


def find_cohort(folder: Path, problems: list[UserError], to_segment: bool = False) -> list[SubjectFiles]:
    """Find the patients of a cohort with their ground truths.

    What `find_subjects` finds, and the layouts that only cohorts have: truths in a folder of their own (``labelsTr`` of
    nnU-Net and the Decathlon, ``derivatives`` of BIDS), and files that hold all sequences of a patient (the Decathlon,
    with its dataset.json). What is wrong with one patient does not hide the others.

    Args:
        folder: Of the cohort.
        problems: Gets what was found and cannot be used.
        to_segment: Whether those are patients too of whom nothing can be learnt: the images of a challenge's test,
            whose truth was never given out, and files whose names tell no sequence, while their contents may.

    Returns:
        The patients in order of their names, each with a name of its own.

    Raises:
        UnreadableImage: The folder is not there, may not be read, or holds no NIfTI image.
    """
    if not _is_folder(folder):
        raise UnreadableImage(f"{shown(folder)} is not a folder", "", "Choose the folder above the patients'.")
    inside = list(_search(folder, _DEPTH, problems, to_segment))
    if not inside:
        raise _nothing_in(folder)
    found = _named_apart([subject for subject in inside if subject.files or to_segment] or inside)
    return _with_truths_elsewhere(found, folder, problems)


def with_truth(paths: Iterable[Path]) -> list[SubjectFiles]:
    """The patients of cohorts that have a ground truth, each with a name of its own.

    Raises:
        UserError: None has, or something is wrong with one of them.
    """
    found = list(paths)
    problems: list[UserError] = []
    everyone = [subject for folder in found for subject in find_cohort(folder, problems)]
    for problem in problems:
        if isinstance(problem, SequenceProblem | UnreadableImage):  # what is left out on purpose is none
            raise problem
    cases = [subject for subject in _named_apart(everyone) if subject.segmentation is not None]
    if not cases:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{names} holds no patient with a ground truth", "", "Choose the folder above the patients'.")
    return cases


def load(
    files: SubjectFiles,
    resample: bool = False,
    progress: Progress | None = None,
    indices: Mapping[Path, int] | None = None,
) -> Subject:
    """Read a patient's files.

    Args:
        files: Which file is which sequence.
        resample: Whether sequences on other grids are brought onto the finest one instead of refused.
        progress: Told after each file.
        indices: Which volume to take, from 0, of files that hold several.

    Raises:
        SequenceProblem: No file's sequence is known, or a file is a segmentation.
        GridMismatch: The files lie on different grids and ``resample`` is False, or they cannot be brought together.
        UnreadableImage: A file cannot be read.
        Cancelled: The user asked to stop.
    """
    progress = progress or Progress()
    if not files.files:
        raise nothing_known(files)
    grids = {sequence: nifti.read_grid(path)[0] for sequence, path in files.files.items()}
    # Of equally fine grids the first in the fixed order, so that the choice does not depend on how files were found.
    reference = min((s for s in Sequence if s in grids), key=lambda s: round(grids[s].voxel_ml, 9))
    others = [s for s in Sequence if s in grids and not grids[s].same_as(grids[reference])]
    if others and not resample:
        raise _different_grids(files, grids, reference, others)
    reading = len(files.files) / (len(files.files) + len(others))
    volumes = read(files, progress.part(0.0, reading), indices)
    for done, sequence in enumerate(others):
        progress.update(
            reading + (1 - reading) * done / len(others),
            f"bringing {sequence.title} onto the grid of {reference.title}",
        )
        volumes[sequence] = _onto(volumes[sequence], volumes[reference])
    progress.update(1.0, "all files read")
    return Subject(files.name, volumes)


def read(
    files: SubjectFiles, progress: Progress | None = None, indices: Mapping[Path, int] | None = None
) -> dict[Sequence, Volume]:
    """Read a patient's files as they are, each on its own grid: what `pipeline.work` starts from.

    Args:
        files: Which file is which sequence.
        progress: Told before each file.
        indices: Which volume to take, from 0, of files that hold several.

    Raises:
        SequenceProblem: No file's sequence is known, or a file is a segmentation.
        UnreadableImage: A file cannot be read.
        Cancelled: The user asked to stop.
    """
    progress = progress or Progress()
    indices = indices or {}
    if not files.files:
        raise nothing_known(files)
    volumes: dict[Sequence, Volume] = {}
    pool = ThreadPoolExecutor(min(len(files.files), os.cpu_count() or 1))
    try:
        which = {s: files.volumes.get(s, indices.get(path)) for s, path in files.files.items()}
        jobs = {s: pool.submit(nifti.read, path, s, which[s]) for s, path in files.files.items()}
        for sequence, job in jobs.items():
            progress.update(len(volumes) / len(jobs), f"reading {sequence.title}")
            volumes[sequence] = job.result()
    finally:
        pool.shutdown(cancel_futures=True)
    for sequence, volume in volumes.items():
        require_scan(volume, files.files[sequence])
    return volumes


def resample(volume: Volume, grid: Grid) -> Volume:
    """Bring a volume onto another grid by linear interpolation; 0 where it has no voxels.

    Along axes that become coarser it is smoothed first, so that no slice is skipped.
    """
    data = _sample(volume.data, volume.grid, grid, order=1)
    return Volume(data, grid, volume.sequence, volume.source, volume.oriented, volume.origin)


def resample_label_map(label_map: LabelMap, grid: Grid) -> LabelMap:
    """Bring a label map onto another grid; each voxel takes the nearest label, 0 where there is none."""
    return LabelMap(_sample(label_map.data, label_map.grid, grid, order=0), grid, label_map.source)


def require_orientation(volumes: Iterable[Volume]) -> None:
    """Make sure that sides are known, not guessed: a mask on the wrong side of the head looks as good as a right one.

    Raises:
        UnreadableImage: The header of one of them does not say how the head lies in it.
    """
    guessed = next((volume for volume in volumes if not volume.oriented), None)
    if guessed is not None:
        raise UnreadableImage(
            f"{guessed.name} cannot be segmented",
            "its header does not say which way the head lies in it, so left and right are unknown",
            "Export it again with its orientation, or set it in a program that can.",
        )


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9+*]+", name.lower()) if word]


def _is_bids(name: str) -> bool:
    return re.match(r"sub-[A-Za-z0-9]+_", name) is not None


def _bids(name: str) -> Detection | None:
    suffix = name.rsplit("_", 1)[-1].lower()
    agent = re.search(r"_ce-([A-Za-z0-9]+)", name)
    if suffix == "t1w" and agent is not None and agent[1].lower() not in {*_NATIVE, *_WITHOUT, "none"}:
        return Detection(Sequence.T1CE, True, f"its BIDS name says T1w with {agent[1]}")
    if suffix == "t1w" and agent is None and _clinical(_words(name)) == _clinical(["t1w", "post"]):
        return Detection(Sequence.T1CE, False, "its BIDS name says T1w and hints at contrast")
    named = {"t1w": Sequence.T1, "t2w": Sequence.T2, "flair": Sequence.FLAIR}.get(suffix)
    return Detection(named, True, f"its BIDS name ends in {name.rsplit('_', 1)[-1]}") if named else None


def _channel(path: Path, number: int) -> Detection | None:
    """What nnU-Net's dataset.json beside or above the folder calls this channel."""
    title = _channels(path).get(str(number), "")
    told = _clinical(_words(title))
    if told and told.sequence:
        return Detection(told.sequence, True, f"dataset.json calls channel {number} {title}")
    return None


def _channels(path: Path) -> dict[str, str]:
    """Number and title of each channel, from the dataset.json beside or above a file's folder; empty without one."""
    for folder in (path.parent, path.parent.parent):
        with suppress(OSError, ValueError, AttributeError):
            described = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
            named = described.get("channel_names") or described.get("modality") or {}
            if named:
                return {str(number): str(title) for number, title in named.items()}
    return {}


def _clinical(words: list[str]) -> Detection | None:
    """What free words say: a scanner's or a radiologist's way of naming a series."""
    kept = [word for at, word in enumerate(words) if not _names_a_target(words, at)]
    for at, word in enumerate(kept):
        if "flair" in word or word == "darkfluid" or (word == "dark" and kept[at + 1 : at + 2] == ["fluid"]):
            return Detection(Sequence.FLAIR, True, f'its name holds "{word}"')
    for word in kept:
        if word.startswith("tirm") or word.endswith("tirm"):
            return Detection(Sequence.FLAIR, False, f'its name holds "{word}"')
    other = next((word for word in kept if word in _OTHER), None)
    if other is not None:
        return Detection(None, True, f'its name holds "{other}", which Gliascope does not use')
    weighted = [(at, word) for at, word in enumerate(kept) if _T1_WORD.fullmatch(word) or _T2_WORD.fullmatch(word)]
    if not weighted:
        weighted = [(at, word) for at, word in enumerate(kept) if word in _T1_KINDS]
    if not weighted:
        return None
    at, word = weighted[0]
    if _T2_WORD.fullmatch(word):
        return Detection(Sequence.T2, len(weighted) == 1, f'its name holds "{word}"')
    given = _contrast(kept, at)
    if given is None:
        return Detection(Sequence.T1, False, f'its name holds "{word}" but does not say whether contrast was given')
    certain = all(not _T2_WORD.fullmatch(w) for _, w in weighted)
    if given:
        return Detection(Sequence.T1CE, certain, f'its name holds "{word}" and says that contrast was given')
    return Detection(Sequence.T1, certain, f'its name holds "{word}" and says that no contrast was given')


def _names_a_target(words: list[str], at: int) -> bool:
    """Whether a word names the image that the file was brought onto, not the file's own sequence."""
    before = words[at - 1] if at else ""
    if before in _ONTO:
        return True
    return before in _MAYBE_ONTO and at > 1 and (words[at - 2] in _LAST_WORD or "flair" in words[at - 2])


def _contrast(words: list[str], at: int) -> bool | None:
    """Whether contrast was given, told from the T1 word itself, the one before, and all after; None if unsaid."""
    match = _T1_WORD.fullmatch(words[at])
    if match is not None:
        around = {match[1], match[2]}
        if around & _NATIVE:
            return False
        if around & _CONTRAST:
            return True
    for near in (*range(at + 1, len(words)), *([at - 1] if at else [])):
        if words[near + 1 : near + 2] and words[near + 1] in _NOT_CONTRAST:
            continue
        if words[near] in _NATIVE - {"n"}:
            return False
        if words[near] in _CONTRAST:
            return not _negated(words, near)
    return None


def _negated(words: list[str], at: int) -> bool:
    return at > 0 and words[at - 1] in _WITHOUT


def _patient_key(path: Path) -> tuple[str, str]:
    """What in the name says whose file it is: ``(key to compare, name as written)``, both empty if nothing does."""
    name = nifti.stem(path)
    bids = re.match(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?", name)
    if bids is not None:
        return bids[0].lower(), bids[0]
    numbered = re.fullmatch(r"(.+)_\d{4}", name)
    if numbered is not None and _channel(path, int(name[-4:])) is not None:
        return numbered[1].lower(), numbered[1]
    # Letters of any alphabet: a name that fell out would make two patients one.
    parts = re.split(r"((?:[^\w+*]|_)+)", name)
    words = [word.lower() for word in parts[::2]]
    end = len(words) - 1
    if words[end] not in _LAST_WORD and words[end] not in _LABEL_WORDS:
        return "", ""
    if _names_a_target(words, end):
        # The patient's name ends before the sequence itself: P1_flair_to_t1 belongs to P1.
        end = next((at for at in range(end - 1, 0, -1) if words[at] in _LAST_WORD), 0)
    key = "_".join(word for word in words[:end] if word and word not in _SCAN_WORDS)
    return (key, "".join(parts[: 2 * end - 1])) if key else ("", "")


def _search(
    folder: Path, depth: int, problems: list[UserError] | None = None, with_tests: bool = False
) -> Iterator[SubjectFiles]:
    """The patients in a folder: of its own files if any of them is an image that is known, else of what lies below.

    With ``problems``, in which they are put, it is the folder of a cohort: see `find_cohort`.
    """
    try:
        files, folders = _listing(folder)
    except UnreadableImage as error:
        if problems is None or depth == _DEPTH:
            raise
        problems.append(error)
        return
    here = [] if problems is None else _stacked(files)
    here = here or _group(files, folder, problems)
    if any(subject.files for subject in here) or depth == 0:
        yield from here
        return
    by_sequence = _folder_a_sequence(folder, folders)
    if by_sequence is not None:
        yield by_sequence
        return
    # What was computed from the scans shows the same patients once more.
    scans: list[Path] = []
    computed: list[Path] = []
    for child in folders:
        (computed if child.name.lower() == "derivatives" else scans).append(child)
    if problems is not None and not with_tests:
        scans = _without_tests(scans, problems)
    for children in (scans, computed):
        parts = [_search(child, depth - 1, problems, with_tests) for child in children if _may_hold_anatomy(child)]
        below = [subject for part in parts for subject in part]
        # A segmentation alone, as in a derivatives folder, is nobody's scan.
        below = [subject for subject in below if subject.files or subject.unknown]
        if below:
            yield from below
            return
    yield from here


def _without_tests(folders: list[Path], problems: list[UserError]) -> list[Path]:
    """Without the images of a challenge's test, whose truth was never given out."""
    names = {folder.name.lower() for folder in folders}
    if "imagestr" not in names or "labelsts" in names:
        return folders
    tests = [folder for folder in folders if folder.name.lower() == "imagests"]
    problems.extend(UserError(f"{shown(test)} was left out", "its patients have no ground truth") for test in tests)
    return [folder for folder in folders if folder not in tests]


def _stacked(files: list[Path]) -> list[SubjectFiles]:
    """Patients whose sequences all lie in one file, as dataset.json beside or above the folder says (Decathlon)."""
    images = [file for file in files if not is_segmentation(file)]
    channels = _channels(images[0]) if images else {}
    named = [(int(number), _clinical(_words(title))) for number, title in channels.items() if number.isdigit()]
    # The Decathlon calls its T1 without contrast T1w, which leaves no doubt where a T1 with contrast is named too.
    volumes = {told.sequence: number for number, told in named if told is not None and told.sequence is not None}
    if not volumes or any(re.search(r"_\d{4}$", nifti.stem(image)) for image in images):
        return []
    patients = []
    for image in images:
        with suppress(UserError):  # what cannot be read is told when its turn comes
            if nifti.count_volumes(image) != len(channels):
                return []
        held = {sequence: image for sequence in Sequence if sequence in volumes}
        patients.append(
            SubjectFiles(nifti.stem(image), held, (), None, image.parent, volumes={s: volumes[s] for s in held})
        )
    return patients


def _with_truths_elsewhere(subjects: list[SubjectFiles], folder: Path, problems: list[UserError]) -> list[SubjectFiles]:
    """The patients, each with the truth that lies in a folder for truths, where none lies beside the scans."""
    if all(subject.segmentation is not None for subject in subjects):
        return subjects
    drawn: dict[str, list[Path]] = {}
    for path in _truth_files(folder):
        for key in {nifti.stem(path).lower(), _patient_key(path)[0]} - {""}:
            drawn.setdefault(key, []).append(path)
    found = []
    for subject in subjects:
        images = list(subject.files.values())
        keys = {subject.name.lower(), *(nifti.stem(path).lower() for path in images[:1])}
        keys |= {_patient_key(path)[0] for path in images[:1]}
        candidates = list(dict.fromkeys(path for key in keys - {""} for path in drawn.get(key, ())))
        if subject.segmentation is not None or not candidates:
            found.append(subject)
            continue
        truth = _truth(candidates)
        if truth is None and len(candidates) > 1:
            several = " and ".join(shown(path) for path in candidates[:2])
            problems.append(
                SequenceProblem(
                    f"Which mask of {subject.name} is the ground truth is not clear",
                    several,
                    "Leave one there, or name it in a table.",
                )
            )
        found.append(replace(subject, segmentation=truth))
    return found


def _truth_files(folder: Path) -> Iterator[Path]:
    """Segmentations in folders that hold nothing else, below a cohort's folder or beside that of its images."""
    beside = [folder.parent] if folder.name.lower().startswith("images") else []
    for root in (folder, *beside):
        for where, folders, names in os.walk(root):
            inside = Path(where).relative_to(root).parts
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if len(inside) < _DEPTH else []
            if any(part.lower() in {*_LABEL_FOLDERS, "derivatives"} for part in inside):
                paths = (Path(where) / name for name in sorted(names) if not name.startswith("."))
                yield from (path for path in paths if nifti.is_nifti_name(path) and is_segmentation(path))


def _folder_a_sequence(folder: Path, folders: list[Path]) -> SubjectFiles | None:
    """One patient whose sequences each lie in a folder of their own: ``patient/T1/scan.nii.gz``."""
    images: list[Path] = []
    for child in folders:
        told = _clinical(_words(nifti.stem(child)))
        if told is not None and told.sequence is not None:
            images += [file for file in _listing(child)[0] if not is_segmentation(file)]
    sequences = {detect(image).sequence for image in images} - {None}
    return _subject(folder.name, images, folder) if len(sequences) > 1 else None


def _may_hold_anatomy(folder: Path) -> bool:
    in_bids = folder.parent.name.startswith(("sub-", "ses-"))
    return not (in_bids and folder.name in _NO_ANATOMY)


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """NIfTI files and subfolders, sorted, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
            files = [Path(e.path) for e in visible if e.is_file() and nifti.is_nifti_name(Path(e.path))]
            return files, [Path(e.path) for e in visible if e.is_dir() and not (e.is_symlink() and _leads_back(e.path))]
    except OSError as error:
        reason = "permission was refused" if isinstance(error, PermissionError) else (error.strerror or "").lower()
        raise UnreadableImage(
            f"The folder {shown(folder)} cannot be read", reason, "Ask its owner, or choose another folder."
        ) from error


def _leads_back(link: str) -> bool:
    """Whether a link leads to a folder that it lies in, however high up: there is nothing new behind it."""
    target = os.path.realpath(link)
    here = os.path.realpath(os.path.dirname(link))
    return os.path.join(here, "").startswith(os.path.join(target, ""))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError as error:
        raise UnreadableImage(
            f"{shown(path)} may not be opened", "", "Ask its owner for permission to read it."
        ) from error
    except OSError as error:  # a name longer than the system allows cannot exist either
        raise UnreadableImage(f"{shown(path)} is not there", "", "It may have been moved; choose it again.") from error


def _group(files: list[Path], folder: Path | None, problems: list[UserError] | None = None) -> list[SubjectFiles]:
    """The patients among files that lie, or were chosen, together."""
    groups: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    unclaimed: list[Path] = []
    for file in files:
        key, written = _patient_key(file)
        # A segmentation alone does not make a patient; it follows its images.
        if key and not is_segmentation(file):
            groups.setdefault(key, []).append(file)
            names.setdefault(key, written)
        else:
            unclaimed.append(file)
    for file in unclaimed:
        key = _patient_key(file)[0]
        if key in groups:
            groups[key].append(file)
        elif not groups or len(groups) == 1 or not is_segmentation(file):
            groups.setdefault(next(iter(groups), ""), []).append(file)
    return [_subject(names.get(key, ""), members, folder, problems) for key, members in groups.items()]


def _subject(
    name: str, members: list[Path], folder: Path | None, problems: list[UserError] | None = None
) -> SubjectFiles:
    folder = folder or members[0].parent
    files: dict[Sequence, Path] = {}
    uncertain: set[Sequence] = set()
    unclear: set[Sequence] = set()
    unknown: list[Path] = []
    for file in members:
        if is_segmentation(file):
            continue
        told = detect(file)
        if told.sequence is None:
            unknown.append(file)
        elif told.sequence in files:
            clash = SequenceProblem(
                f"{shown(files[told.sequence])} and {shown(file)} both claim to be {told.sequence.title}",
                _apart(files[told.sequence].parent, file.parent),
                "Leave one of them out.",
            )
            if problems is None:
                raise clash
            problems.append(clash)
            unclear.add(told.sequence)
        else:
            files[told.sequence] = file
            if not told.certain:
                uncertain.add(told.sequence)
    return SubjectFiles(
        name=name or _folder_name(folder),
        files={sequence: files[sequence] for sequence in Sequence if sequence in files and sequence not in unclear},
        unknown=tuple(unknown),
        segmentation=_truth(members),
        folder=folder,
        uncertain=frozenset(uncertain),
    )


def _apart(first: Path, second: Path) -> str:
    return "" if first == second else f"in {first.name} and {second.name}"


def _folder_name(folder: Path) -> str:
    folder = folder.absolute()
    return (folder.parent.name if folder.name.lower() in {"anat", "nifti", "nii"} else folder.name) or "patient"


def _truth(members: list[Path]) -> Path | None:
    """The one tumour segmentation among the files, if there is exactly one; never one that Gliascope made."""
    drawn = [file for file in members if is_segmentation(file) and not nifti.made_by_gliascope(file)]
    drawn = [file for file in drawn if not _NOT_TUMOUR.intersection(_words(nifti.stem(file)))]
    plain = [file for file in drawn if _words(nifti.stem(file))[-1] == "seg"]
    for candidates in (plain, drawn):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _named_apart(subjects: list[SubjectFiles]) -> list[SubjectFiles]:
    """No two patients under one name: their outputs would overwrite each other."""
    taken: set[str] = set()
    apart: list[SubjectFiles] = []
    for subject in subjects:
        name, number = subject.name, 2
        if name.lower() in taken:
            name = f"{subject.folder.absolute().parent.name}_{name}"
        stem = name
        while name.lower() in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.lower())
        apart.append(replace(subject, name=name))
    return apart


def _nothing_in(folder: Path) -> UnreadableImage:
    what = f"The folder {shown(folder)} holds no NIfTI image"
    names = (name for _, _, files in os.walk(folder) for name in files)
    if any(name.lower().endswith((".dcm", ".ima")) for name in islice(names, 10_000)):
        return UnreadableImage(what, "it holds DICOM files", "Segment them with --dicom, or convert them to .nii.gz.")
    return UnreadableImage(what, "", "Choose a folder with .nii or .nii.gz files.")


def nothing_known(files: SubjectFiles) -> SequenceProblem:
    """Why there is nothing to segment among files of which none is known to be one of the four sequences."""
    if files.segmentation is not None and not files.unknown:
        return _not_a_scan(files.segmentation, "by its name")
    if len(files.unknown) == 1:
        told = detect(files.unknown[0])
        return SequenceProblem(
            f"It is not known which sequence {shown(files.unknown[0])} is",
            told.why,
            "Say whether it is T1, T1ce, T2 or FLAIR, or put that into its name.",
        )
    listed = ", ".join(shown(path) for path in files.unknown[:4]) or files.name
    return SequenceProblem(
        f"It is not known which sequences these are: {listed}",
        "their names do not say",
        "Say which is T1, T1ce, T2 or FLAIR, or put that into their names.",
    )


def _not_a_scan(path: Path, why: str) -> SequenceProblem:
    return SequenceProblem(f"{shown(path)} is a segmentation, not an MRI scan", why, "Choose the scan it was drawn on.")


def _different_grids(
    files: SubjectFiles, grids: Mapping[Sequence, Grid], reference: Sequence, others: list[Sequence]
) -> GridMismatch:
    base = shown(files.files[reference])
    names = [shown(files.files[sequence]) for sequence in others]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    does, it = ("does", "it") if len(names) == 1 else ("do", "them")
    return GridMismatch(
        f"{listed} {does} not lie on the grid of {base}",
        grids[reference].difference(grids[others[0]]),
        f"Resample {it} onto {base}, or leave {it} out.",
    )


def _onto(volume: Volume, reference: Volume) -> Volume:
    guessed = next((v for v in (volume, reference) if not v.oriented), None)
    if guessed is not None:
        raise GridMismatch(
            f"{volume.name} cannot be brought onto the grid of {reference.name}",
            f"the header of {guessed.name} does not say how the head lies in it",
            "Leave one of them out.",
        )
    moved = resample(volume, reference.grid)
    if not moved.data.any():
        raise GridMismatch(
            f"{volume.name} and {reference.name} show different places",
            "their scans do not overlap in space",
            "Check that both are of the same patient and the same visit.",
        )
    return moved


def _sample(data: NDArray[_Voxel], source: Grid, target: Grid, order: int) -> NDArray[_Voxel]:
    """Values of ``data`` at the voxels of another grid: order 1 linear, 0 nearest; 0 outside.

    A few slices at a time, so that memory stays near that of the result and the interpreter lock is never held long.
    """
    from scipy import ndimage  # 0.2 s, and most patients need no resampling

    step = np.linalg.inv(source.affine) @ target.affine
    matrix, offset = step[:3, :3], step[:3, 3]
    if order:
        for axis, stride in enumerate(np.abs(matrix).max(axis=1)):
            if stride > 1.2:
                # A blur as wide as the new voxel, less the one the old voxel has of itself.
                data = ndimage.gaussian_filter1d(data, 0.42 * np.sqrt(stride**2 - 1), axis=axis, mode="nearest")
    i, j, k = (np.arange(n, dtype=np.float64) for n in target.shape)
    result = np.zeros(target.shape, data.dtype, order="F")
    for first in range(0, target.shape[2], _SLAB):
        slab = result[:, :, first : first + _SLAB]
        at = offset + matrix[:, 2] * first
        ndimage.affine_transform(data, matrix, at, slab.shape, slab, order=order, mode="nearest")
        for axis, size in enumerate(source.shape):
            across = matrix[axis, 0] * i[:, None] + matrix[axis, 1] * j + at[axis]
            along = matrix[axis, 2] * k[: slab.shape[2]]
            # Half a voxel beyond the outermost centres still belongs to them; a rounding error must not cost a face.
            where = across[:, :, None] + along
            slab[(where < -0.5 - 1e-6) | (where > size - 0.5 + 1e-6)] = 0
    return result
