"""Where DICOM images are and what their headers say: folders, discs with a DICOMDIR, archives, loose files.

Only headers are read, in the order of the disk, a few files at a time. What is no DICOM image is passed by in silence,
what is one and cannot be used is counted. File and folder names mean nothing here and never leave this module.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CannotWrite, UnreadableImage
from engine.files import reachable, shown
from engine.progress import Progress
from engine.workshop import Workshop

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_Point = tuple[float, float, float]

# Headers of classic images end within the first, those of enhanced ones with thousands of frames within the second.
_FIRST_BYTES, _MOST_BYTES = 1 << 18, 1 << 23
_MOST_VALUES = 50_000
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_MOST_FILES = 200_000
_MOST_FRAMES = 5_000
_AT_ONCE = 64

# An archive may hold what a scanner makes in a day, not what fills a disk: images shrink a few times, bombs a thousand.
_MOST_UNPACKED = 32 << 30
_SPARE = 1 << 30
_PIECE = 1 << 20
_SUSPICIOUS_BYTES, _SUSPICIOUS_RATIO = 32 << 20, 200

# Files that are never DICOM whatever they hold; all others are opened.
_OTHER_ENDINGS = (
    ".nii", ".nii.gz", ".gz", ".json", ".txt", ".csv", ".xml", ".html", ".htm", ".pdf", ".jpg", ".jpeg", ".png", ".gif",
    ".bmp", ".tif", ".tiff", ".exe", ".dll", ".so", ".js", ".css", ".py", ".doc", ".docx", ".xls", ".xlsx", ".inf",
    ".ini", ".jar", ".class", ".mp4", ".avi", ".mgz", ".nrrd", ".mha", ".gliascope",
)  # fmt: skip

_DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT, _MR_IMAGE, _GREY = "1.2.840.10008.1.2.1", "1.2.840.10008.5.1.4.1.1.4", "MONOCHROME2"
_IMPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_PLAIN = {_IMPLICIT, _EXPLICIT, _BIG}

_BAD_ARCHIVE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error,
)  # fmt: skip

# What reading bytes that make no sense ends with; pydicom has some of its own, see `_broken`.
_MAKES_NO_SENSE: tuple[type[Exception], ...] = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError, EOFError, AssertionError,
    ArithmeticError, RecursionError, MemoryError, struct.error, zlib.error, OSError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Image:
    """One slice as its header describes it: a file, or a frame of one. Places and directions are DICOM's, LPS in mm.

    Attributes:
        path: The file.
        frame: Which frame of it, from 0; None where the file is one image.
        uid: Names the image.
        series_uid: Of its series.
        study_uid: Of its study.
        patient: ``(identity number, name, date of birth)``. For telling patients apart and for the screen alone.
        date: Of the study, ``"20240131"``.
        syntax: How its pixels are packed.
        number: Of the series.
        instance: Number within the series.
        position: Of the first pixel's middle; None where the header does not say.
        directions: Of a row and of a column, ``(6,)``; None where the header does not say.
        spacing: Between columns and between rows in mm; None where the header does not say.
        thickness: In mm; 0 where unsaid.
        columns: Pixels in a row.
        rows: Pixels in a column.
        samples: 1 for grey, 3 for colour.
        expected: How many images the scanner says its acquisition has; 0 where it does not.
        text: Other values by name, as text.
        values: Other values by name, as numbers.
    """

    path: Path
    frame: int | None
    uid: str
    series_uid: str
    study_uid: str
    patient: tuple[str, str, str] = field(repr=False)
    date: str
    syntax: str
    number: int
    instance: int
    position: _Point | None
    directions: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    thickness: float
    columns: int
    rows: int
    samples: int
    expected: int
    text: dict[str, str] = field(repr=False)
    values: dict[str, float] = field(repr=False)

    def words(self, name: str) -> tuple[str, ...]:
        """A value that is a list of words, ``("ORIGINAL", "PRIMARY")``."""
        return tuple(part.strip() for part in self.text.get(name, "").split("\\") if part.strip())


@dataclass
class Found:
    """What lay among some files.

    Attributes:
        images: All images, sorted by path.
        broken: How many files are DICOM by their first bytes and cannot be read.
        others: How many are DICOM and no images: reports, presentation states, directories.
    """

    images: list[Image] = field(default_factory=list)
    broken: int = 0
    others: int = 0


_TEXT = {
    "modality": 0x00080060, "image_type": 0x00080008, "sop_class": 0x00080016, "protocol": 0x00181030,
    "description": 0x0008103E, "sequence_name": 0x00180024, "pulse_sequence": 0x00189005, "scanning": 0x00180020,
    "variant": 0x00180021, "options": 0x00180022, "agent": 0x00180010, "body_part": 0x00180015, "angio": 0x00180025,
    "contrast": 0x00089209, "component": 0x00089208, "echo_pulse": 0x00189008, "inversion": 0x00189009,
    "photometric": 0x00280004, "maker": 0x00080070, "frame_of_reference": 0x00200052,
}  # fmt: skip
_NUMBERS = {
    "te": 0x00180081, "tr": 0x00180080, "ti": 0x00180082, "flip": 0x00181314, "echo": 0x00180086,
    "acquisition": 0x00200012, "time_position": 0x00200100, "trigger": 0x00181060, "b_value": 0x00189087,
    "slope": 0x00281053, "intercept": 0x00281052, "agent_volume": 0x00181041,
}  # fmt: skip
_TIMES = {
    "began": 0x00080032, "series_began": 0x00080031, "content": 0x00080033, "agent_began": 0x00181042,
    "acquired": 0x0008002A,
}  # fmt: skip
_COUNTS = {
    "rows": 0x00280010, "columns": 0x00280011, "samples": 0x00280002, "bits": 0x00280100, "stored": 0x00280101,
    "signed": 0x00280103,
}  # fmt: skip
# Where makers kept the b-value before there was a place for it.
_PRIVATE_B = {0x0019100C: "SIEMENS", 0x00431039: "GE", 0x20011003: "PHILIPS"}


def is_dicom(beginning: bytes) -> bool:
    """Whether a file is DICOM by its first 132 bytes, early ones without preamble too."""
    if beginning[128:132] == b"DICM":
        return True
    if len(beginning) < 8:
        return False
    group, element = struct.unpack_from("<HH", beginning)
    if group not in (0x0002, 0x0008) or element > 0x0100:
        return False
    # Letters of a type follow the number of the first value, or its length does, which is short.
    return (
        re.fullmatch(rb"[A-Z]{2}", beginning[4:6]) is not None or 0 < struct.unpack_from("<I", beginning, 4)[0] <= 256
    )


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, by its first bytes."""
    return _beginning(path)[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def is_directory_file(path: Path) -> bool:
    """Whether a file is the table of contents of a disc, by its name."""
    return path.name.upper().split(".")[0] == "DICOMDIR"


def any_dicom(path: Path, limit: int = 3000) -> bool:
    """Whether there is a DICOM file in a file, folder or archive, going by the first ``limit`` entries."""
    with suppress(OSError, *_BAD_ARCHIVE):
        if stat.S_ISREG(path.stat().st_mode):
            if is_archive(path):
                with reachable(path).open("rb") as file:
                    return _any_in_archive(file, limit)
            return not _is_other(path.name) and is_dicom(_beginning(path))
        return any(is_dicom(_beginning(file)) for file in islice(_walk(path, Progress()), limit))
    return False


def _any_in_archive(file: IO[bytes], limit: int, depth: int = 2) -> bool:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist()[:limit]:
            if entry.is_dir() or _is_other(entry.filename):
                continue
            if entry.flag_bits & 1:
                return True  # `find` will say that it is locked
            with archive.open(entry) as member:
                beginning = member.read(132)
                if is_dicom(beginning):
                    return True
                if depth > 1 and beginning.startswith(b"PK\x03\x04") and entry.file_size < _SUSPICIOUS_BYTES << 3:
                    member.seek(0)
                    if _any_in_archive(member, limit, depth - 1):
                        return True
    return False


def find(paths: Iterable[Path], workshop: Workshop, progress: Progress) -> Found:
    """Read the headers of all DICOM images among files, folders however deep, discs and archives.

    Args:
        paths: Of files and folders.
        workshop: Gets what is in archives; their images lie in it afterwards.
        progress: Told now and then; stops within a second.

    Raises:
        UnreadableImage: A path is not there, an archive cannot be read, or there are too many files.
        CannotWrite: There is no room for what is in an archive.
        Cancelled: The user asked to stop.
    """
    progress.update(0.0, "looking for DICOM files")
    files: dict[Path, None] = {}
    archives: list[Path] = []
    for path in dict.fromkeys(Path(path) for path in paths):
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            raise UnreadableImage(
                f"{shown(path)} is not there or may not be read", "", "It may have been moved; choose it again."
            ) from error
        if stat.S_ISDIR(mode):
            for file in _walk(path, progress):
                (archives.append(file) if file.name.lower().endswith(".zip") else files.setdefault(file))
                _not_too_many(len(files), path)
        elif not stat.S_ISREG(mode):
            raise UnreadableImage(f"{shown(path)} is not a file", "", "Choose the folder of the scan.")
        elif is_archive(path):
            archives.append(path)
        elif is_directory_file(path):
            files.update(dict.fromkeys(_on_disc(path, progress)))
        else:
            files.setdefault(path)
    for archive in archives:
        files.update(dict.fromkeys(_unpacked(archive, workshop, progress)))
    found = _read_all(list(files), progress)
    found.images.sort(key=lambda image: (image.path, image.frame or 0))
    return found


# --- places -----------------------------------------------------------------------------------------------------------


def _walk(folder: Path, progress: Progress) -> Iterator[Path]:
    """The files below a folder, each folder once, though links lead in circles; what may not be read is passed by."""
    seen: set[tuple[int, int]] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        progress.check()
        with suppress(OSError):
            here = os.stat(where)
            if here.st_ino and (here.st_dev, here.st_ino) in seen:
                folders[:] = []
                continue
            seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and not _is_other(name):
                yield Path(where) / name


def _is_other(name: str) -> bool:
    return name.lower().endswith(_OTHER_ENDINGS) or Path(name).name.startswith("._")


def _not_too_many(count: int, path: Path) -> None:
    if count > _MOST_FILES:
        raise UnreadableImage(
            f"{shown(path)} holds more than {_MOST_FILES:,} files", "", "Choose the folder of one patient."
        )


def _beginning(path: Path, size: int = 132) -> bytes:
    with suppress(OSError, ValueError):
        # A pipe would wait for its other end for ever.
        if stat.S_ISREG(path.stat().st_mode):
            with reachable(path).open("rb") as file:
                return file.read(size)
    return b""


def _on_disc(directory: Path, progress: Progress) -> Iterator[Path]:
    """The files a DICOMDIR lists, or all that lie around it where it lists none that are there."""
    listed: list[Path] = []
    with suppress(*_broken()):
        dataset = _pydicom()(BytesIO(_beginning(directory, _MOST_BYTES)), force=True)
        for record in dataset.get("DirectoryRecordSequence", ()):
            progress.check()
            name = record.get("ReferencedFileID", None)
            parts = [str(part) for part in ([name] if isinstance(name, str) else name or [])]
            # Parts are names of at most eight letters; anything else leads astray, out of the disc perhaps.
            if parts and all(re.fullmatch(r"[A-Za-z0-9_]{1,16}", part) for part in parts):
                spellings = (directory.parent.joinpath(*map(change, parts)) for change in (str, str.lower, str.upper))
                listed += islice((path for path in spellings if path.is_file()), 1)
    yield from listed or _walk(directory.parent, progress)


def _unpacked(archive: Path, workshop: Workshop, progress: Progress, depth: int = 2) -> Iterator[Path]:
    """The DICOM files of an archive, under numbers for names, in a folder of the workshop.

    Names inside an archive are never used, so none can point out of the folder; sizes are counted while inflating, as
    those an archive gives may lie.
    """
    left = min(_MOST_UNPACKED, shutil.disk_usage(workshop.path).free - _SPARE)
    folder = workshop.new_folder()
    try:
        with zipfile.ZipFile(reachable(archive)) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir() and not _is_other(entry.filename)]
            _not_too_many(len(entries), archive)
            for number, entry in enumerate(entries):
                progress.update(0.3 * number / len(entries), f"unpacking {number + 1:,} of {len(entries):,} files")
                if entry.flag_bits & 1:
                    raise UnreadableImage(
                        f"{shown(archive)} is locked with a password", "", "Unpack it with its password first."
                    )
                target = folder / f"{number:06d}"
                with opened.open(entry) as member:
                    beginning = member.read(132)
                    inner = depth > 1 and beginning.startswith(b"PK\x03\x04")
                    if not (is_dicom(beginning) or inner):
                        continue
                    written = _inflate(beginning, member, target, entry, archive, left, progress)
                left -= written
                if inner:
                    yield from _unpacked(target, workshop, progress, depth - 1)
                    target.unlink()
                else:
                    yield target
    except _BAD_ARCHIVE as error:
        raise UnreadableImage(
            f"{shown(archive)} is damaged or packed in an unusual way", "", "Unpack it first, or copy it again."
        ) from error
    except OSError as error:
        raise CannotWrite(
            f"{shown(archive)} cannot be unpacked", (error.strerror or "").lower(), "Free some space, then try again."
        ) from error


def _inflate(
    beginning: bytes,
    member: IO[bytes],
    target: Path,
    entry: zipfile.ZipInfo,
    archive: Path,
    left: int,
    progress: Progress,
) -> int:
    written = len(beginning)
    with target.open("wb") as file:
        file.write(beginning)
        while piece := member.read(_PIECE):
            progress.check()
            written += len(piece)
            if written > _SUSPICIOUS_BYTES and written > _SUSPICIOUS_RATIO * max(1, entry.compress_size):
                raise UnreadableImage(
                    f"{shown(archive)} was not unpacked", "a file in it would grow without end", "Ask whoever sent it."
                )
            if written > left:
                raise CannotWrite(
                    f"There is no room to unpack {shown(archive)}", "", "Free some space, or unpack it elsewhere first."
                )
            file.write(piece)
    return written


# --- headers ----------------------------------------------------------------------------------------------------------


def _pydicom() -> Callable[..., Dataset]:
    """The reader of pydicom, quiet: what is odd in a file is no news for whoever reads the terminal."""
    import pydicom  # 0.4 s, and those who open NIfTI need none of it
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    return pydicom.dcmread


def _broken() -> tuple[type[Exception], ...]:
    """What pydicom raises on files that are cut off, changed, or no DICOM at all."""
    from pydicom import errors

    return (*_MAKES_NO_SENSE, errors.InvalidDicomError, errors.BytesLengthException)


def _read_header(stream: IO[bytes]) -> Dataset:
    """All values in front of the pixels; the stream stands at these afterwards, or at its end.

    Raises:
        ValueError: There are more values than any header has; a file of them would take minutes.
    """
    from pydicom.filereader import read_partial

    count = 0

    def at_pixels(tag: int, kind: str | None, length: int) -> bool:
        nonlocal count
        count += 1
        if count > _MOST_VALUES:
            raise ValueError("the header has no end")
        return tag in _PIXELS

    return read_partial(stream, stop_when=at_pixels, force=True)  # type: ignore[arg-type]


def _read_all(files: list[Path], progress: Progress) -> Found:
    found = Found()
    _pydicom()
    pool = ThreadPoolExecutor(min(8, 2 + (os.cpu_count() or 1)), thread_name_prefix="dicom-headers")
    waiting: set[Future[Found]] = set()
    left, done = iter(files), 0
    try:
        while True:
            # A few at a time, so that stopping never waits for many.
            waiting |= {pool.submit(_images, path) for path in islice(left, _AT_ONCE - len(waiting))}
            if not waiting:
                break
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for job in finished:
                done += 1
                one = job.result()
                found.images += one.images
                found.broken += one.broken
                found.others += one.others
            progress.update(0.3 + 0.7 * done / len(files), f"reading {done:,} of {len(files):,} files")
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _images(path: Path) -> Found:
    """What one file holds; nothing at all where it is no DICOM."""
    if not is_dicom(_beginning(path)):
        return Found()
    try:
        dataset = _header(path)
        if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
            return Found(others=1)
        images = list(_described(path, dataset))
    except _broken():
        return Found(broken=1)
    if images:
        return Found(images)
    # What says of which kind it is, and has no rows of pixels, is a report or the like.
    return Found(others=1) if _text(dataset, _TEXT["sop_class"]) else Found(broken=1)


def header(path: Path) -> Dataset:
    """All values of a file that come before its pixels.

    Raises:
        UnreadableImage: It is not there any more, or damaged.
    """
    _pydicom()
    try:
        return _header(path)
    except _broken() as error:
        raise UnreadableImage("A DICOM file cannot be read", "", "Copy it again from its source.") from error


def _header(path: Path) -> Dataset:
    size = path.stat().st_size
    with reachable(path).open("rb") as file:
        start = file.read(_FIRST_BYTES)
        dataset = _parsed(start)
        if dataset is None and size > len(start):
            dataset = _parsed(start + file.read(_MOST_BYTES - len(start)))
    if dataset is None:
        if size > _MOST_BYTES:
            raise ValueError("the header has no end")
        raise EOFError("the file ends in its header")
    return dataset


def _parsed(start: bytes) -> Dataset | None:
    """The header in the first bytes of a file, or None where it goes on after them."""
    stream = BytesIO(start)
    try:
        dataset = _read_header(stream)
    except EOFError:
        return None
    if str(dataset.file_meta.get("TransferSyntaxUID", "")) == DEFLATED:
        return dataset
    # pydicom stops in front of the pixels; at the end of what it was given, it may have been in the middle of a value.
    return dataset if stream.tell() < len(start) or len(start) < _FIRST_BYTES else None


def _described(path: Path, dataset: Dataset) -> Iterator[Image]:
    text = {name: _text(dataset, tag) for name, tag in _TEXT.items()}
    values = {name: number for name, tag in _NUMBERS.items() if (number := _number(dataset, tag)) is not None}
    values |= {name: seconds for name, tag in _TIMES.items() if (seconds := _time(_text(dataset, tag))) is not None}
    counts = {name: _count(dataset, tag) for name, tag in _COUNTS.items()}
    values |= {name: float(number) for name, number in counts.items()}
    if not (counts["rows"] and counts["columns"]):
        return
    values |= _private_b(dataset, text.get("maker", ""))
    for name in ("description", "protocol"):
        text[name] = _decoded(dataset, _TEXT[name])
    study_uid, series_uid = _text(dataset, 0x0020000D), _text(dataset, 0x0020000E)
    shared_by_frames: dict[str, Any] = {
        "path": path,
        "uid": _text(dataset, 0x00080018),
        "series_uid": series_uid or study_uid,
        "study_uid": study_uid or series_uid,
        "patient": (_text(dataset, 0x00100020), _decoded(dataset, 0x00100010), _text(dataset, 0x00100030)),
        "date": _text(dataset, 0x00080020) or _text(dataset, 0x00080021) or _text(dataset, 0x00080022),
        "syntax": str(dataset.file_meta.get("TransferSyntaxUID", "")) or _IMPLICIT,
        "number": int(_number(dataset, 0x00200011) or 0),
        "thickness": _number(dataset, 0x00180050) or 0.0,
        "columns": counts["columns"],
        "rows": counts["rows"],
        "samples": counts["samples"] or 1,
        "expected": int(_number(dataset, 0x00201002) or 0),
    }
    frames = int(_number(dataset, 0x00280008) or 1)
    values["frames"] = float(frames)
    if 0x52009230 in dataset and frames <= _MOST_FRAMES:
        yield from _frames(dataset, shared_by_frames, text, values)
        return
    if frames > 1 or 0x52009230 in dataset:  # colour loops, dynamic series by the thousand: nothing with a place
        yield Image(
            **shared_by_frames,
            frame=0,
            instance=0,
            position=None,
            directions=None,
            spacing=None,
            text=text,
            values=values,
        )
        return
    yield Image(
        **shared_by_frames,
        frame=None,
        instance=int(_number(dataset, 0x00200013) or 0),
        position=_point(_numbers(dataset, 0x00200032)),
        directions=_directions(_numbers(dataset, 0x00200037)),
        spacing=_spacing(_numbers(dataset, 0x00280030)),
        text=text,
        values=values,
    )


def _frames(
    dataset: Dataset, shared_by_frames: dict[str, Any], text: dict[str, str], values: dict[str, float]
) -> Iterator[Image]:
    """The frames of an enhanced image: what all have in common, and what each has for itself."""
    common = _group(dataset, 0x52009229)
    text = {**text, **_scanning(text)}
    if not text["agent"] and 0x00180012 in dataset and dataset[0x00180012].value:
        text["agent"] = "given"  # which one is said in codes
    for number, own in enumerate(dataset[0x52009230].value):
        groups = [own, *([common] if common is not None else [])]

        def said(functional_group: int, tag: int, groups: list[Dataset] = groups) -> list[float]:
            for group in groups:
                inside = _group(group, functional_group)
                numbers = _numbers(inside, tag) if inside is not None else []
                if numbers:
                    return numbers
            return []

        own_values, own_text = dict(values), dict(text)
        for name, functional_group, tag in (
            ("te", 0x00189114, 0x00189082), ("tr", 0x00189112, 0x00180080), ("flip", 0x00189112, 0x00181314),
            ("ti", 0x00189115, 0x00189079), ("b_value", 0x00189117, 0x00189087),
            ("slope", 0x00289145, 0x00281053), ("intercept", 0x00289145, 0x00281052),
            ("time_position", 0x00209111, 0x00209128), ("trigger", 0x00189118, 0x00209153),
        ):  # fmt: skip
            numbers = said(functional_group, tag)
            if numbers:
                own_values[name] = numbers[0]
        for group in reversed(groups):
            usage = _group(group, 0x00189341)
            if usage is not None and _text(usage, 0x00189342) == "NO":
                own_text["agent"] = "NO"
        for group in groups:
            kind = _group(group, 0x00189226)
            if kind is not None:
                own_text["image_type"] = _text(kind, 0x00089007) or own_text["image_type"]
                own_text["component"] = _text(kind, 0x00089208) or own_text["component"]
                own_text["contrast"] = _text(kind, 0x00089209) or own_text["contrast"]
                break
        thickness = said(0x00289110, 0x00180050)
        yield Image(
            **{**shared_by_frames, "thickness": thickness[0] if thickness else 0.0},
            frame=number,
            instance=number,
            position=_point(said(0x00209113, 0x00200032)),
            directions=_directions(said(0x00209116, 0x00200037)),
            spacing=_spacing(said(0x00289110, 0x00280030)),
            text=own_text,
            values=own_values,
        )


def _scanning(text: dict[str, str]) -> dict[str, str]:
    """What an enhanced header says in other words than a classic one."""
    kinds = [{"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE\\GR"}.get(text["echo_pulse"], "")]
    kinds += ["IR"] if text["inversion"] == "YES" else []
    scanning = "\\".join(kind for kind in kinds if kind)
    return {"scanning": text["scanning"] or scanning, "sequence_name": text["sequence_name"] or text["pulse_sequence"]}


def _group(dataset: Dataset, tag: int) -> Dataset | None:
    items = dataset[tag].value if tag in dataset else None
    return items[0] if items else None


def _raw(dataset: Dataset, tag: int) -> tuple[Any, bool]:
    """A value as it lies in the file where nothing has read it yet, and whether its bytes go from low to high."""
    element: Any = dataset.get_item(tag)
    return (None, True) if element is None else (element.value, getattr(element, "is_little_endian", True))


def _text(dataset: Dataset, tag: int) -> str:
    value = _raw(dataset, tag)[0]
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1").strip(" \0\t\r\n")
    return "\\".join(map(str, value)) if isinstance(value, list | tuple) else str(value).strip()


def _decoded(dataset: Dataset, tag: int) -> str:
    """A text that may be in any alphabet."""
    with suppress(*_broken()):
        return str(dataset[tag].value or "").strip() if tag in dataset else ""
    return _text(dataset, tag)


def _numbers(dataset: Dataset, tag: int) -> list[float]:
    value, low_first = _raw(dataset, tag)
    numbers: list[float] = []
    if isinstance(value, bytes):
        if tag in _BINARY:
            kind = np.dtype(_BINARY[tag]).newbyteorder("<" if low_first else ">")
            numbers = [float(n) for n in np.frombuffer(value[: len(value) // kind.itemsize * kind.itemsize], kind)]
        else:
            for part in value.decode("latin-1").split("\\"):
                with suppress(ValueError):
                    numbers.append(float(part.strip(" \0")))
    elif isinstance(value, list | tuple) or (hasattr(value, "__iter__") and not isinstance(value, str)):
        with suppress(ValueError, TypeError):
            numbers = [float(part) for part in value]
    elif value is not None:
        with suppress(ValueError, TypeError):
            numbers = [float(value)]
    return numbers if all(np.isfinite(numbers)) else []


# Values that are stored as numbers, not as text.
_BINARY = {0x00189087: "f8", 0x00189082: "f8", 0x00189079: "f8", 0x00209153: "f8", 0x00209128: "u4"}


def _number(dataset: Dataset, tag: int) -> float | None:
    numbers = _numbers(dataset, tag)
    return numbers[0] if numbers and abs(numbers[0]) < 1e9 else None


def _count(dataset: Dataset, tag: int) -> int:
    value, low_first = _raw(dataset, tag)
    if isinstance(value, bytes):
        return int.from_bytes(value[:2], "little" if low_first else "big")
    return int(value) if isinstance(value, int) else 0


def _private_b(dataset: Dataset, maker: str) -> dict[str, float]:
    for tag, name in _PRIVATE_B.items():
        if name not in maker.upper() or tag not in dataset:
            continue
        value = _raw(dataset, tag)[0]
        if name == "PHILIPS" and isinstance(value, bytes) and len(value) == 4:
            number = float(np.frombuffer(value, "<f4")[0])
        else:
            numbers = _numbers(dataset, tag)
            number = numbers[0] % 100_000 if numbers else 0.0
        if np.isfinite(number) and 0 < number < 20_000:
            return {"b_value": number}
    return {}


def _time(text: str) -> float | None:
    """Seconds of the day from ``143334.390`` or ``20240131143334.390``."""
    match = re.fullmatch(r"(?:\d{8})?(\d{2}):?(\d{2})(?::?(\d{2}(?:\.\d+)?))?[+\-\d]*", text.split("\\")[0].strip())
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3] or 0) if match else None


def _point(numbers: list[float]) -> _Point | None:
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 and max(map(abs, numbers)) < 1e5 else None


def _directions(numbers: list[float]) -> tuple[float, ...] | None:
    """Of a row and of a column, where they are two directions at a right angle."""
    if len(numbers) != 6:
        return None
    row, column = np.array(numbers[:3]), np.array(numbers[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.02:
        return None
    return tuple(float(n) for n in (*(row / lengths[0]), *(column / lengths[1])))


def _spacing(numbers: list[float]) -> tuple[float, float] | None:
    """Between columns and between rows; DICOM says it the other way round."""
    if len(numbers) != 2 or not 0.01 <= min(numbers) <= max(numbers) <= 50:
        return None
    return numbers[1], numbers[0]


# --- pixels -----------------------------------------------------------------------------------------------------------


def pixels(image: Image) -> NDArray[np.float32] | None:
    """The pixels of one image, ``(rows, columns)``, as stored; None where they are packed.

    Raises:
        UnreadableImage: The file ends before them.
    """
    if image.syntax not in _PLAIN or image.samples != 1:
        return None
    bits, signed = int(image.values.get("bits", 0)), bool(image.values.get("signed", 0))
    if bits not in (8, 16, 32):
        return None
    kind = np.dtype(f"{'i' if signed else 'u'}{bits // 8}").newbyteorder(">" if image.syntax == _BIG else "<")
    size = image.rows * image.columns * kind.itemsize
    try:
        _pydicom()
        with reachable(image.path).open("rb") as file:
            _read_header(file)
            start = file.read(12)
            implicit = not re.fullmatch(rb"O[BW]", start[4:6])
            file.seek((8 if implicit else 12) - len(start) + size * (image.frame or 0), os.SEEK_CUR)
            stored = file.read(size)
    except _broken():
        stored = b""
    if len(stored) < size:
        raise UnreadableImage("A slice of the series stops in the middle", "", "Copy the series again from its source.")
    values = np.frombuffer(stored, kind).reshape(image.rows, image.columns).astype(np.float32)
    return -values if image.text.get("photometric") == "MONOCHROME1" else values


def inflate(file: Path, to: Path) -> None:
    """Write a deflated file without compression, which dcm2niix cannot undo.

    Raises:
        UnreadableImage: It is damaged.
    """
    try:
        dataset = _pydicom()(reachable(file), force=True)
        dataset.file_meta[0x00020010].value = _EXPLICIT
        dataset.save_as(to, enforce_file_format=True)
    except _broken() as error:
        raise UnreadableImage("A slice of the series is damaged", "", "Export the series again.") from error


def write_slice(image: Image, number: int, to: Path) -> bool:
    """Write a frame of a file as a file of its own that names nobody; False where its pixels are packed.

    Raises:
        UnreadableImage: The file ends before them.
    """
    values = pixels(image)
    if values is None or image.position is None or image.directions is None or image.spacing is None:
        return False
    from pydicom.dataset import FileDataset, FileMetaDataset

    signed = bool(image.values.get("signed", 0))
    meta = FileMetaDataset()
    for tag, uid in ((0x00020002, _MR_IMAGE), (0x00020003, f"2.25.1.{number}"), (0x00020010, _EXPLICIT)):
        meta.add_new(tag, "UI", uid)
    made = FileDataset(to, {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = _MR_IMAGE, f"2.25.1.{number}", "MR"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = "2.25.1", "2.25.1.1", "2.25.1.2"
    made.SeriesNumber, made.InstanceNumber, made.ImageType = 1, number, ["ORIGINAL", "PRIMARY", "M"]
    made.ImagePositionPatient = [f"{n:.10g}" for n in image.position]
    made.ImageOrientationPatient = [f"{n:.10g}" for n in image.directions]
    made.PixelSpacing = [f"{image.spacing[1]:.10g}", f"{image.spacing[0]:.10g}"]
    if image.thickness > 0:
        made.SliceThickness = f"{image.thickness:.10g}"
    made.RescaleSlope = f"{image.values.get('slope', 1.0):.10g}"
    made.RescaleIntercept = f"{image.values.get('intercept', 0.0):.10g}"
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = image.rows, image.columns, 1, _GREY
    bits = 32 if image.values.get("bits") == 32 else 16
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits, bits - 1, int(signed)
    stored = -values if image.text.get("photometric") == "MONOCHROME1" else values
    made.PixelData = stored.astype(f"<{'i' if signed else 'u'}{bits // 8}").tobytes()
    made.save_as(to, enforce_file_format=True)
    return True
