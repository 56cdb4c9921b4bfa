"""DICOM in: which series there are, which of them are the four sequences, and those as NIfTI files.

`look` reads headers and says what it would take and how sure it is, `thumbnail` shows a series, and `subject_files` has
dcm2niix convert what was taken into a `Workshop`, a private folder that goes away. Who the patient is stays in memory:
no name, number, date or free text of a header gets into a file, the name of a file, or the message of an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from engine import dicom_files, nifti, protocol
from engine.dicom_files import Image
from engine.errors import CannotWrite, SequenceProblem, UnreadableImage, UserError
from engine.files import reachable
from engine.model_card import sha256
from engine.progress import Progress
from engine.protocol import Told
from engine.sequences import SubjectFiles
from engine.volume import Affine, Grid, Sequence, Volume, in_words
from engine.workshop import Workshop

Plane = Literal["axial", "coronal", "sagittal", "oblique"]

_FEWEST_SLICES = 8
# Less than this across is a part of the head: an inner ear, a pituitary gland, a slab.
_SMALLEST_HEAD_MM = 80.0
_SMALLEST_VIEW_MM = 130.0
_OBLIQUE_DEGREES = 35.0
_NOWHERE = "without a place in space"
# Echoes and phases that would make more stacks than this are a measurement over time.
_MOST_STACKS = 4

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_CONVERTER_SECONDS = 300.0
_UNPACKABLE = {
    "1.2.840.10008.1.2.4.100": "as a film (MPEG)", "1.2.840.10008.1.2.4.101": "as a film (MPEG)",
    "1.2.840.10008.1.2.4.102": "as a film (MPEG)", "1.2.840.10008.1.2.4.103": "as a film (MPEG)",
    "1.2.840.10008.1.2.4.201": "with HTJ2K", "1.2.840.10008.1.2.4.202": "with HTJ2K",
    "1.2.840.10008.1.2.4.203": "with HTJ2K", "1.2.840.10008.1.2.4.110": "with JPEG XL",
    "1.2.840.10008.1.2.4.111": "with JPEG XL", "1.2.840.10008.1.2.4.112": "with JPEG XL",
    "1.2.840.10008.1.2.4.92": "with JPEG 2000 of several components",
    "1.2.840.10008.1.2.4.93": "with JPEG 2000 of several components",
}  # fmt: skip
# What the system lets a NIfTI header say besides numbers: offset and length of each text.
_TEXTS = ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16))


@dataclass(frozen=True, eq=False)
class Series:
    """One stack of slices that can become one volume: a series, or one echo, phase or stack of it.

    Attributes:
        key: Names it, the same at every look at the same files; holds nothing that can be read back.
        number: Series number, 0 where there is none.
        description: What the scanner calls it. Free text that may hold a name: for the screen alone.
        plane: The plane its slices lie in.
        spacing_mm: Between columns, rows and slices; 0 where the header does not say.
        shape: Columns, rows, slices.
        images: How many images (files, or frames of one file) it has.
        sequence: What it was recognised as; also told of series that are left out, where it can be.
        sure: How sure that is, 0..1.
        why: What says so, as a clause: ``"TE 100, TR 9000 and TI 2500 ms, and its description says FLAIR"``.
        left_out: Why it is not taken on its own accord: ``"a scout"``, ``"diffusion"``, ...; empty where nothing
            speaks against it.
        files: In the order of its slices: foot to head, back to front, or left to right. Once where one file holds all.
        missing: How many slices are not there between those that are, or that the scanner counted.
        slices: The images behind it, in the order of ``files``; a frame each where one file holds all.
    """

    key: str
    number: int
    description: str = field(repr=False)
    plane: Plane
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    images: int
    sequence: Sequence | None
    sure: float
    why: str
    left_out: str
    files: tuple[Path, ...] = field(repr=False)
    missing: int = 0
    slices: tuple[Image, ...] = field(default=(), repr=False)

    @property
    def title(self) -> str:
        """What to call it in a sentence, without a word of its header: ``"series 5 (axial, 22 slices of 6.0 mm)"``."""
        slices = "1 slice" if self.shape[2] == 1 else f"{self.shape[2]} slices"
        if self.spacing_mm[2]:
            slices += f" of {self.spacing_mm[2]:.1f} mm"
        return f"series {self.number} ({self.plane}, {slices})"


@dataclass(frozen=True, eq=False)
class Study:
    """What was scanned of one patient on one day.

    Attributes:
        series: All of them, by number.
        chosen: The series taken for each sequence, in their fixed order.
        doubts: Sentences about what should be looked at before going on.
        notes: Sentences about what was decided and needs no look.
        patient: Who it is and when, for the screen alone; never in a file, a message of an error or a log.
        confirmed: Whether the user said which series is which.
        day: When it was scanned, ``"2024-05-17"``, or nothing; like ``patient`` for the screen alone.
    """

    series: tuple[Series, ...]
    chosen: Mapping[Sequence, Series]
    doubts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    patient: str = field(default="", repr=False)
    confirmed: bool = False
    day: str = field(default="", repr=False)

    def choosing(self, chosen: Mapping[Sequence, Series]) -> Study:
        """The same with other series, as the user chose them; there is nothing to doubt then."""
        return replace(self, chosen={s: chosen[s] for s in Sequence if s in chosen}, doubts=(), confirmed=True)


@dataclass(frozen=True)
class Converted:
    """A series as a NIfTI file.

    Attributes:
        path: In the workshop; removed with it.
        series: What it was made from, for an output in DICOM.
        index: Which volume of the file, from 0; None where it holds one.
        note: What was decided on the way, as a sentence; empty where nothing was.
        content: SHA-256 of the series' files as they were then; see `content`.
    """

    path: Path
    series: Series
    index: int | None = None
    note: str = ""
    content: str = ""


def looks_like_dicom(paths: Iterable[Path]) -> bool:
    """Whether dropped files or folders are for `look` rather than for `engine.sequences.find_subjects`.

    A folder with NIfTI images is for the latter, whatever else lies in it: what worked before DICOM was read works as
    it did.
    """
    looks = False
    for path in paths:
        if nifti.is_nifti_name(path):
            return False
        if path.is_dir() and _holds_nifti(path):
            return False
        looks = looks or dicom_files.is_directory_file(path) or dicom_files.any_dicom(path)
    return looks


def look(paths: Iterable[Path], workshop: Workshop, progress: Progress) -> list[Study]:
    """Read the headers of all DICOM files there are, and choose the four sequences.

    Args:
        paths: Folders however deep, a DICOMDIR, zip archives, loose files; other files among them are passed by.
        workshop: Gets the contents of archives; has to stay until the series were converted.
        progress: Told now and then; stops within a second.

    Returns:
        A study for each patient and day, those that can be segmented first.

    Raises:
        UnreadableImage: There is no DICOM image, or an archive cannot be read.
        CannotWrite: There is no room for the contents of an archive.
        Cancelled: The user asked to stop.
    """
    found = dicom_files.find(paths, workshop, progress)
    if not found.images:
        if found.broken:
            raise UnreadableImage(
                "The DICOM files there are damaged", f"{found.broken} of them", "Export them again from their source."
            )
        what = "The DICOM files there hold no images" if found.others else "There is no DICOM image"
        raise UnreadableImage(what, "", "Choose the folder, disc or archive of an MRI examination.")
    patients: dict[Hashable, list[Image]] = defaultdict(list)
    for image in found.images:
        patients[_whose(image)].append(image)
    studies = [_study(images, found.broken) for images in patients.values()]
    return sorted(studies, key=lambda study: -len(study.chosen))


def whose(study: Study) -> Hashable:
    """What parts of one study in several folders have in common; for comparing alone, as it tells who it is."""
    return _whose(study.series[0].slices[0])


def thumbnail(series: Series, size: int = 96) -> NDArray[np.uint8]:
    """The middle slice in grey, ``(h, w)``, the longer side ``size``, in true proportions.

    Raises:
        UnreadableImage: Its pixels cannot be read.
    """
    middle = series.slices[len(series.slices) // 2]
    pixels = dicom_files.pixels(middle)
    if pixels is None:
        pixels = _unpacked_slice(series)
    low, high = np.percentile(pixels, (1.0, 99.5))
    grey = np.clip((pixels - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    across, down = series.spacing_mm[:2] if all(series.spacing_mm[:2]) else (1.0, 1.0)
    width, height = pixels.shape[1] * across, pixels.shape[0] * down
    scale = size / max(width, height)
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    return (_averaged(_averaged(grey, shape[0]).T, shape[1]).T * 255).round().astype(np.uint8)


def convert(series: Series, workshop: Workshop, progress: Progress) -> Converted:
    """A series as NIfTI; the second time for the same series and workshop the one that is there already.

    The result is compared with what the headers say of place and with the pixels of the middle slice, and where
    dcm2niix makes several files, the one that agrees is taken.

    Raises:
        UnreadableImage: It cannot be converted.
        CannotWrite: There is no room for it.
        Cancelled: The user asked to stop.
    """
    done = _CONVERTED.setdefault(workshop, {})
    known = (series.key, series.files)
    if known not in done:
        before = content(series, progress)
        done[known] = replace(_convert(series, workshop, progress), content=before)
    return done[known]


def content(series: Series, progress: Progress) -> str:
    """One SHA-256 for all files of a series: that of their hashes, in the order of their slices.

    Raises:
        UnreadableImage: A file is not there any more.
        Cancelled: The user asked to stop.
    """
    together = hashlib.sha256()
    for file in series.files:
        progress.check()
        try:
            together.update(bytes.fromhex(sha256(file)))
        except OSError as error:
            raise UnreadableImage(
                f"A file of {series.title} is not there any more", "", "Choose the folder or disc again."
            ) from error
    return together.hexdigest()


def subject_files(study: Study, workshop: Workshop, progress: Progress, name: str = "patient") -> SubjectFiles:
    """The chosen series, converted, under a neutral name.

    Which sequences were told with a doubt is passed on, so that their content is looked at as well. `convert` gives the
    series behind each file.

    Raises:
        SequenceProblem: No series is chosen.
        UnreadableImage: One of them cannot be converted.
        Cancelled: The user asked to stop.
    """
    if not study.chosen:
        raise SequenceProblem(
            "None of the series was recognised as T1, T1ce, T2 or FLAIR",
            "",
            "Choose by hand which is which.",
        )
    converted: dict[Sequence, Converted] = {}
    for sequence, series in study.chosen.items():
        start = len(converted) / len(study.chosen)
        part = progress.part(start, start + 1 / len(study.chosen))
        part.update(0.0, f"converting {sequence.title}")
        converted[sequence] = convert(series, workshop, part)
    doubtful = {
        sequence
        for sequence, series in study.chosen.items()
        if not study.confirmed and series.sure < protocol.BEYOND_DOUBT
    }
    return SubjectFiles(
        name=name,
        files={sequence: one.path for sequence, one in converted.items()},
        unknown=(),
        segmentation=None,
        folder=workshop.path,
        uncertain=frozenset(doubtful),
        volumes={sequence: one.index for sequence, one in converted.items() if one.index is not None},
    )


def series_behind(path: Path) -> Series | None:
    """The series that a file was converted from; None where it came from elsewhere, or its workshop is gone."""
    found = converted_to(path)
    return found.series if found is not None else None


def converted_to(path: Path) -> Converted | None:
    """How a file was converted; None where it came from elsewhere, or its workshop is gone."""
    for made in _CONVERTED.values():
        for converted in made.values():
            if converted.path == path:
                return converted
    return None


_CONVERTED: WeakKeyDictionary[Workshop, dict[tuple[str, tuple[Path, ...]], Converted]] = WeakKeyDictionary()


def _holds_nifti(folder: Path) -> bool:
    count = 0
    for _, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(nifti.is_nifti_name(Path(name)) for name in names):
            return True
        count += len(names)
        if count > 20_000:
            return False
    return False


# --- studies and stacks -----------------------------------------------------------------------------------------------


def _whose(image: Image) -> Hashable:
    """Whose image it is and of which day; where nothing says so, of which study."""
    number, name, born = image.patient
    if not (number or name):
        return (image.study_uid,)
    return (number or name.casefold(), born, image.date or image.study_uid)


def _study(images: list[Image], broken: int) -> Study:
    by_series: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        by_series[image.series_uid].append(image)
    stacks: list[_Stack] = []
    notes: list[str] = []
    for members in by_series.values():
        distinct = list({(image.uid or str(image.path), image.frame): image for image in members}.values())
        if len(distinct) < len(members):
            notes.append(f"Series {members[0].number} holds {len(members) - len(distinct)} images twice.")
        found = list(_stacks(distinct))
        stacks += [replace(stack, place=place, of=len(found)) for place, stack in enumerate(found)]
    stacks.sort(key=lambda stack: (stack.middle.number, stack.settings.began or 0.0, stack.place))
    settings = [stack.settings for stack in stacks]
    told = protocol.in_order_of_time([protocol.recognise(one) for one in settings], settings)
    series = [stack.series(one) for stack, one in zip(stacks, told, strict=True)]
    chosen, doubts, choices = _choose(series, dict(zip((s.key for s in series), stacks, strict=True)))
    notes += [f"{one.title.capitalize()} holds slices twice; one of each is used." for one in _doubled(series, stacks)]
    if broken:
        doubts.append(f"{broken} DICOM {'file is' if broken == 1 else 'files are'} damaged and left out.")
    identity = images[0]
    day = identity.date
    when = f"{day[:4]}-{day[4:6]}-{day[6:8]}" if len(day) == 8 and day.isdigit() else ""
    who = " ".join(part for part in identity.patient[1].replace("^", " ").split() if part) or identity.patient[0]
    patient = ", ".join(part for part in (who, when) if part)
    return Study(tuple(series), chosen, tuple(doubts), (*notes, *choices), patient, day=when)


def _doubled(series: list[Series], stacks: list[_Stack]) -> list[Series]:
    return [one for one, stack in zip(series, stacks, strict=True) if stack.doubled and not one.left_out]


@dataclass(frozen=True, eq=False)
class _Stack:
    """Images of one series that lie on one grid, in the order of their slices."""

    images: tuple[Image, ...]
    volumes: int = 1  # images of each place in the series it is from
    doubled: int = 0  # places with more than one image, where others have one
    placed: bool = True
    place: int = 0  # among the stacks of its series
    of: int = 1

    @property
    def middle(self) -> Image:
        return self.images[len(self.images) // 2]

    @property
    def settings(self) -> protocol.Settings:
        image = self.middle
        description = image.text["description"]
        # General Electric keeps the name of the whole examination there, "brain with and without contrast".
        if protocol.names_nothing(description) and not image.text["maker"].upper().startswith("GE"):
            description = f"{description} {image.text['protocol']}"
        began = [
            image.values[name] for name in ("began", "acquired", "series_began", "content") if name in image.values
        ]
        return protocol.Settings(
            modality=image.text["modality"],
            description=description,
            sequence_name=image.text["sequence_name"],
            image_type=(*image.words("image_type"), *image.words("component")),
            scanning=frozenset(image.words("scanning")),
            variant=frozenset(image.words("variant")),
            contrast=image.text["contrast"],
            body_part=image.text["body_part"],
            te=image.values.get("te"),
            tr=image.values.get("tr"),
            ti=image.values.get("ti"),
            flip=image.values.get("flip"),
            b_value=image.values.get("b_value"),
            agent=_agent(image, began[0] if began else None),
            angio=image.text["angio"] == "Y",
            volumes=self.volumes,
            began=began[0] if began else None,
            geometry=f"{_plane(image)} {image.columns} x {image.rows} x {len(self.images)}",
        )

    @property
    def affine(self) -> Affine | None:
        """Voxel indices (column, row, slice) -> world, RAS+ in mm, as the headers have it."""
        first, last = self.images[0], self.images[-1]
        if not self.placed or first.position is None or last.position is None or first.directions is None:
            return None
        affine = np.eye(4)
        across, down = first.spacing or (1.0, 1.0)
        affine[:3, 0] = np.array(first.directions[:3]) * across
        affine[:3, 1] = np.array(first.directions[3:]) * down
        affine[:3, 3] = first.position
        if len(self.images) > 1:
            affine[:3, 2] = (np.array(last.position) - np.array(first.position)) / self._steps
        else:
            affine[:3, 2] = _normal(first) * max(first.thickness, 1.0)
        return _TO_RAS @ affine

    @property
    def _depths(self) -> NDArray[np.float64]:
        normal = _normal(self.images[0])
        return np.array([np.array(image.position) @ normal for image in self.images])

    @property
    def _steps(self) -> int:
        """Slices from the first to the last, those that are missing counted."""
        depths = np.abs(np.diff(self._depths))
        usual = float(np.median(depths)) if depths.size else 1.0
        return max(1, round(float(depths.sum()) / usual)) if usual > 0 else max(1, len(self.images) - 1)

    @property
    def missing(self) -> int:
        if not self.placed or len(self.images) < 3:
            return 0
        inside = self._steps - (len(self.images) - 1)
        counted = self.images[0].expected // max(1, self.of * self.volumes) - len(self.images)
        return max(0, inside, counted)

    @property
    def uneven(self) -> bool:
        """Whether the slices do not lie at equal distances."""
        steps = np.abs(np.diff(self._depths)) if self.placed and len(self.images) > 2 else np.zeros(0)
        return bool(steps.size and steps.max() - steps.min() > 0.05 * float(np.median(steps)) + 0.02)

    def series(self, told: Told) -> Series:
        image = self.middle
        affine = self.affine
        shape = (image.columns, image.rows, len(self.images))
        across, down = image.spacing or (0.0, 0.0)
        step = float(np.linalg.norm(affine[:3, 2])) if affine is not None else 0.0
        spacing = (across, down, step)
        left_out = told.left_out
        if not left_out or left_out == protocol.DERIVED:
            left_out = self._too_little(spacing, shape) or left_out
        description = image.text["description"] or image.text["protocol"]
        if self.of > 1:
            description = f"{description} ({self._which()})".strip()
        name = hashlib.sha256(f"{image.series_uid} {image.study_uid} {self.place}".encode()).hexdigest()[:12]
        return Series(
            key=name,
            number=image.number,
            description=" ".join(description.split()),
            plane=_plane(image),
            spacing_mm=spacing,
            shape=shape,
            images=len(self.images),
            sequence=told.sequence,
            sure=told.sure,
            why=told.why,
            left_out=left_out,
            files=tuple(dict.fromkeys(image.path for image in self.images)),
            missing=self.missing,
            slices=self.images,
        )

    def _too_little(self, spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> str:
        if not self.placed:
            return _NOWHERE
        if self.middle.samples > 1:
            return "a screenshot"
        if len(self.images) < _FEWEST_SLICES:
            return f"fewer than {_FEWEST_SLICES} slices"
        extent = [size * step for size, step in zip(shape, spacing, strict=True)]
        if extent[2] < _SMALLEST_HEAD_MM or min(extent[:2]) < _SMALLEST_VIEW_MM:
            return "a part of the head"
        return ""

    def _which(self) -> str:
        echo = self.middle.values.get("te")
        part = f"{self.place + 1} of {self.of}"
        return f"{part}, TE {echo:.0f} ms" if echo else part


def _agent(image: Image, began: float | None) -> bool | None:
    """Whether the header names a contrast agent, and not one that was given later."""
    agent = image.text["agent"].strip(" .-\\").upper()
    if not agent:
        return True if image.values.get("agent_volume", 0.0) > 0 else None
    if agent in {"NONE", "NO", "N", "0", "NO CONTRAST", "WITHOUT", "NIL", "NA", "N/A", "OHNE", "SANS"}:
        return False
    given = image.values.get("agent_began")
    return not (given is not None and given > 0 and began is not None and given > began)


def _normal(image: Image) -> NDArray[np.float64]:
    """Across the slices, towards the head, the front or the right, LPS."""
    row, column = np.array((image.directions or (1, 0, 0, 0, 1, 0))[:3]), np.array((image.directions or (0,) * 6)[3:])
    normal = np.cross(row, column if column.any() else np.array([0.0, 1.0, 0.0]))
    main = int(np.argmax(np.abs(normal)))
    towards = (-1.0, -1.0, 1.0)[main]
    return normal if normal[main] * towards > 0 else -normal


def _plane(image: Image) -> Plane:
    normal = np.abs(_normal(image))
    main = int(np.argmax(normal))
    if normal[main] < np.cos(np.radians(_OBLIQUE_DEGREES)):
        return "oblique"
    planes: tuple[Plane, Plane, Plane] = ("sagittal", "coronal", "axial")
    return planes[main]


def _stacks(images: list[Image]) -> Iterator[_Stack]:
    """The stacks of one series: images of one size, direction, echo and part of the signal, a slice of each place."""
    placed = [i for i in images if i.position is not None and i.directions is not None and i.spacing is not None]
    lost = [i for i in images if i.position is None or i.directions is None or i.spacing is None]
    if lost:
        yield _Stack(tuple(sorted(lost, key=lambda image: image.instance)), placed=False)
    for grid in _apart(placed, _grid_of, most=len(placed)):
        for part in _apart(grid, lambda image: (_part_of_signal(image),), most=_MOST_STACKS):
            for echo in _apart(part, _echo_of, most=_MOST_STACKS):
                yield from _phases(echo)


def _apart(images: list[Image], by: Callable[[Image], Hashable], most: int) -> list[list[Image]]:
    """The images by a property of theirs, or all as one where that would tear them into too many or too small parts."""
    parts: dict[Hashable, list[Image]] = defaultdict(list)
    for image in images:
        parts[by(image)].append(image)
    return list(parts.values()) if len(parts) <= most else [images]


def _grid_of(image: Image) -> Hashable:
    directions = tuple(round(float(n), 2) + 0.0 for n in image.directions or ())
    spacing = tuple(round(float(n), 3) for n in image.spacing or ())
    return (image.rows, image.columns, image.samples, directions, spacing)


def _part_of_signal(image: Image) -> Hashable:
    kinds = {
        "P",
        "PHASE",
        "R",
        "REAL",
        "I",
        "IMAGINARY",
        "W",
        "WATER",
        "F",
        "FAT",
        "IN_PHASE",
        "OUT_PHASE",
        "OPP_PHASE",
    }
    return frozenset(kinds.intersection((*image.words("image_type"), *image.words("component"))))


def _echo_of(image: Image) -> Hashable:
    return round(image.values.get("te", 0.0), 1), round(image.values.get("ti", 0.0), 0)


def _phases(images: list[Image]) -> Iterator[_Stack]:
    """One stack for each time a place was imaged, or one of all where that was often or for some places alone."""
    normal = _normal(images[0])
    depths = {id(image): float(np.array(image.position) @ normal) for image in images}
    ordered = sorted(images, key=lambda image: (depths[id(image)], image.instance, image.uid))
    places: list[list[Image]] = []
    for image in ordered:
        if places and depths[id(image)] - depths[id(places[-1][0])] < 0.05:
            places[-1].append(image)
        else:
            places.append([image])
    counts = Counter(map(len, places))
    usual = counts.most_common(1)[0][0]
    if usual == 1 or len(places) < 3:
        # The later of two: what was repeated was repeated for a reason.
        yield _Stack(tuple(place[-1] for place in places), doubled=sum(len(place) > 1 for place in places))
        return
    if usual > _MOST_STACKS:
        yield _Stack(tuple(place[0] for place in places), volumes=usual)
        return
    for time_point in range(usual):
        chosen = tuple(sorted(place, key=_moment)[time_point] for place in places if len(place) > time_point)
        yield _Stack(chosen, volumes=usual)


def _moment(image: Image) -> tuple[float, ...]:
    return (*(image.values.get(name, 0.0) for name in ("time_position", "acquisition", "trigger")), image.instance)


# --- the choice -------------------------------------------------------------------------------------------------------


def _choose(series: list[Series], stacks: Mapping[str, _Stack]) -> tuple[dict[Sequence, Series], list[str], list[str]]:
    """The best series of each sequence, what is to be doubted about them, and what was decided."""
    chosen: dict[Sequence, Series] = {}
    doubts: list[str] = []
    notes: list[str] = []
    for sequence in Sequence:
        ours = [one for one in series if one.sequence is sequence]
        candidates = [one for one in ours if not one.left_out] or [
            one for one in ours if one.left_out in (protocol.DERIVED, "a part of the head")
        ]
        if not candidates:
            continue
        ranked = sorted(candidates, key=lambda one: _rank(one, stacks[one.key]))
        best = ranked[0]
        chosen[sequence] = best
        if best.left_out:
            what = "computed from another" if best.left_out == protocol.DERIVED else "of a part of the head"
            doubts.append(f"{sequence.title} is {best.title}, which is {what}, as there is no better one.")
        if best.sure < protocol.ENOUGH:
            doubts.append(f"{best.title.capitalize()} is taken for {sequence.title} with a doubt: {best.why}.")
        if best.missing:
            verb = "is" if best.missing == 1 else "are"
            doubts.append(f"{best.missing} of the slices of {best.title} {verb} missing.")
        if len(ranked) > 1:
            others = ", ".join(one.title for one in ranked[1:4])
            notes.append(f"{sequence.title} is {best.title} rather than {others}.")
    if not chosen:
        doubts.append("None of the series was recognised as T1, T1ce, T2 or FLAIR.")
    else:
        absent = [sequence for sequence in Sequence if sequence not in chosen]
        if absent:
            notes.append(f"There is no {in_words(absent).replace(' and ', ' or ')}.")
    return chosen, doubts, notes


def _rank(one: Series, stack: _Stack) -> tuple[float, ...]:
    """What makes a series better than another of its sequence, most important first; smaller is better."""
    kinds = {kind.upper() for kind in stack.middle.words("image_type")}
    return (
        float(bool(one.left_out)),
        float(one.sure < protocol.ENOUGH),
        float(one.missing > 0.05 * one.shape[2]),
        # Thirds of a factor: 1.0 and 1.1 mm are as good as each other, 1 and 5 mm are not.
        float(round(3 * np.log2(max(*one.spacing_mm, 0.8)))),
        float(one.plane != "axial"),
        float("ND" in kinds),  # Siemens' images before their distortion was taken out
        float(round(3 * np.log2(max(one.spacing_mm[0] * one.spacing_mm[1], 0.05)))),
        -round(one.sure, 1),
        # Whoever measures twice had a reason.
        -(stack.settings.began or 0.0),
        float(one.number),
    )


# --- conversion -------------------------------------------------------------------------------------------------------


def _convert(series: Series, workshop: Workshop, progress: Progress) -> Converted:
    title = series.title
    syntax = series.slices[0].syntax if series.slices else ""
    if syntax in _UNPACKABLE:
        raise UnreadableImage(
            f"{title.capitalize()} cannot be opened",
            f"its images are packed {_UNPACKABLE[syntax]}",
            "Export it again without compression.",
        )
    if _lies_nowhere(series):
        raise UnreadableImage(
            f"{title.capitalize()} cannot be used",
            "its header does not say where its slices lie, so left and right are unknown",
            "Export it again from the scanner or the archive.",
        )
    folder = workshop.new_folder()
    source, target = folder / "in", folder / "out"
    source.mkdir()
    target.mkdir()
    try:
        if not _frame_by_frame(series, source, progress):
            for number, file in enumerate(series.files, 1):
                progress.check()
                _lend(file, source / f"{number:06d}.dcm", syntax)
        progress.update(0.1, "converting")
        said = _dcm2niix(source, target, progress)
        progress.update(0.8, "checking")
        made = sorted(target.glob("*.nii"))
        path, index, note = _matching(series, made, said)
        final = folder / f"series-{series.number}.nii"
        os.replace(path, final)
        _scrub(final)
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError | PermissionError):
            raise UnreadableImage(
                f"A file of {title} is not there any more", "", "Choose the folder or disc again."
            ) from error
        raise CannotWrite(
            f"There is no place to convert {title}", (error.strerror or "").lower(), "Free some space, then try again."
        ) from error
    finally:
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
    progress.update(1.0, "converted")
    return Converted(final, series, index, note)


def _lies_nowhere(series: Series) -> bool:
    return any(image.position is None or image.directions is None for image in series.slices)


def _frame_by_frame(series: Series, source: Path, progress: Progress) -> bool:
    """Write the frames of a series that shares its file with others as files; False where that is not needed."""
    if len(series.files) != 1 or not series.slices or series.slices[0].frame is None:
        return False
    if len(series.slices) == series.slices[0].values.get("frames", 1):
        return False
    for number, frame in enumerate(series.slices, 1):
        progress.check()
        if not dicom_files.write_slice(frame, number, source / f"{number:06d}.dcm"):
            shutil.rmtree(source)
            source.mkdir()
            return False
    return True


def _lend(file: Path, to: Path, syntax: str) -> None:
    """Put a file where dcm2niix finds it, under a name that says nothing, without copying where that can be helped."""
    if syntax == dicom_files.DEFLATED:
        dicom_files.inflate(file, to)
        return
    for way in (os.symlink, os.link):
        with suppress(OSError, NotImplementedError):
            way(os.path.abspath(file), to)
            return
    shutil.copyfile(reachable(file), to)


def _dcm2niix(source: Path, target: Path, progress: Progress) -> str:
    """Run the converter until it ends; what it printed."""
    import dcm2niix

    words = [dcm2niix.bin, "-g", "i", "-b", "n", "-z", "n", "-d", "0", "-m", "2", "-p", "y", "-x", "n", "-f", "out_%e"]
    log = target.parent / "said.txt"
    hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    with log.open("wb") as out:
        try:
            running = subprocess.Popen(
                [*words, "-o", str(target), str(source)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                creationflags=hidden,
            )
        except OSError as error:
            raise UserError(
                "The program that converts DICOM cannot be started",
                (error.strerror or "").lower(),
                "Install Gliascope again.",
            ) from error
        until = time.monotonic() + _CONVERTER_SECONDS
        try:
            while running.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    running.wait(0.2)
                progress.check()
                if time.monotonic() > until:
                    raise UnreadableImage(
                        "A series could not be converted",
                        f"it took longer than {_CONVERTER_SECONDS / 60:.0f} minutes",
                        "Leave it out, or export it again.",
                    )
        finally:
            if running.poll() is None:
                running.kill()
                running.wait()
    said = log.read_text("utf-8", "replace")
    log.unlink()
    return said


def _matching(series: Series, made: list[Path], said: str) -> tuple[Path, int | None, str]:
    """Of the files dcm2niix made, the one (and which volume of it) that shows the series at its place."""
    best: tuple[float, Path, int | None] | None = None
    volumes = 0
    for path in made:
        try:
            count = nifti.count_volumes(path)
            grid, _ = nifti.read_grid(path)
        except UnreadableImage:
            continue  # a single slice, a colour picture: nothing to segment
        away = _displacement(series, grid)
        for number in range(min(count, 64)):
            volumes += 1
            score = -away
            if len(made) > 1 or count > 1:
                with suppress(UnreadableImage):
                    score += 100 * _likeness(series, nifti.read(path, index=number))
            if best is None or score > best[0]:
                best = (score, path, number if count > 1 else None)
    if best is None:
        raise UnreadableImage(
            f"{series.title.capitalize()} could not be converted", _reason(said), "Leave it out, or export it again."
        )
    path, index = best[1:]
    grid, _ = nifti.read_grid(path)
    notes = []
    if volumes > 1:
        notes.append(f"{series.title.capitalize()} became {volumes} volumes, of which the one that fits it was taken.")
    if grid.shape[2] != series.shape[2] and series.missing:
        notes.append(f"Missing slices of {series.title} were filled in between their neighbours.")
    away = _displacement(series, grid)
    if away > 2 * max(grid.spacing) and not series.missing:
        raise UnreadableImage(
            f"{series.title.capitalize()} could not be converted",
            "its slices do not make one volume where its header says",
            "Leave it out, or export it again.",
        )
    if away > max(1.0, min(grid.spacing)) and not series.missing:
        notes.append(f"{series.title.capitalize()} lies elsewhere after conversion than its header says.")
    return path, index, " ".join(notes)


def _displacement(series: Series, grid: Grid) -> float:
    """How far the corners of a grid lie from those that the headers give, in mm, whatever the order of its axes."""
    affine = _Stack(series.slices).affine
    if affine is None:
        return 0.0
    try:
        expected = Grid((series.shape[0], series.shape[1], max(2, series.shape[2] + series.missing)), affine)
    except ValueError:
        return 1e6
    theirs, ours = _corners(grid), _corners(expected)
    return float(max(np.linalg.norm(theirs - corner, axis=1).min() for corner in ours))


def _corners(grid: Grid) -> NDArray[np.float64]:
    ends = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(grid.shape) - 1)
    return grid.to_world(ends)


def _likeness(series: Series, volume: Volume) -> float:
    """How much a volume shows the middle slice of a series in its place, as a correlation; 0 where that is unknown."""
    at = len(series.slices) // 2
    stored = dicom_files.pixels(series.slices[at])
    affine = _Stack(series.slices).affine
    if stored is None or affine is None or series.missing:
        return 0.0
    rows, columns = np.mgrid[0 : stored.shape[0] : 3, 0 : stored.shape[1] : 3]
    where = np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, at), np.ones(rows.size)])
    voxels = np.rint(volume.grid.to_voxel((affine @ where)[:3].T)).astype(int)
    if (voxels < 0).any() or (voxels >= volume.grid.shape).any():
        return 0.0
    theirs, ours = volume.data[tuple(voxels.T)], stored[rows.ravel(), columns.ravel()]
    if not (theirs.std() > 0 and ours.std() > 0):
        return 0.0
    return float(np.corrcoef(theirs, ours)[0, 1])


def _reason(said: str) -> str:
    """What dcm2niix complained of, in the user's words; its own may name files."""
    lower = said.lower()
    if "transfer syntax" in lower or "compress" in lower or "jpeg" in lower:
        return "its images are packed in a way that cannot be unpacked, or are damaged"
    if "no valid dicom" in lower:
        return "its files are damaged"
    return "the converter made no image of it"


def _scrub(path: Path) -> None:
    """Empty the texts of a NIfTI header, where dcm2niix writes times and descriptions."""
    with path.open("r+b") as file:
        for offset, length in _TEXTS:
            file.seek(offset)
            file.write(bytes(length))


def _unpacked_slice(series: Series) -> NDArray[np.float32]:
    """The middle slice of a series whose pixels are packed, ``(rows, columns)``, by way of the converter."""
    at = len(series.files) // 2
    near = series.files[max(0, at - 1) : at + 2]
    with Workshop() as workshop:
        few = replace(series, files=near, slices=series.slices[max(0, at - 1) : at + 2], missing=0)
        few = replace(few, shape=(*series.shape[:2], len(near)))
        if len(series.files) == 1:
            few = series
        elif len(near) < 2:
            raise UnreadableImage("The series is a single slice", "", "")
        done = _convert(few, workshop, Progress())
        volume = nifti.read(done.path, index=done.index)
    # dcm2niix turns rows round, so that they go from back to front.
    return volume.data[:, ::-1, volume.data.shape[2] // 2].T


def _averaged(picture: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """A picture with another number of rows, each the mean of those it covers."""
    edges = np.linspace(0, picture.shape[0], rows + 1)
    total = np.vstack([np.zeros((1, picture.shape[1])), np.cumsum(picture, axis=0)])
    low = np.floor(edges).astype(int)
    upto = total[low] + (edges - low)[:, None] * picture[np.minimum(low, picture.shape[0] - 1)]
    averaged: NDArray[np.float64] = (upto[1:] - upto[:-1]) / np.diff(edges)[:, None]
    return averaged
