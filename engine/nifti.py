"""Reading and writing NIfTI: every question of axes, affines, types and odd headers is settled here.

Voxels stay in the file's own order ``(I, J, K)``; the affine says where they lie (RAS+, mm). Compressed files are
inflated once, straight into place, in pieces of a megabyte with the interpreter lock released, so that a window stays
alive while four volumes are read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from engine.errors import CannotWrite, ChooseVolume, NotFinite, UnreadableImage, UserError
from engine.files import reachable, shown, whole_file
from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, Affine, Grid, LabelMap, Origin, Sequence, Volume

_CHUNK_BYTES = 1 << 20
_MOST_VOXELS = 1 << 30
# The format of deflate cannot pack more than this many bytes into one.
_DEFLATE_LIMIT = 1032
_GZIP_MAGIC = b"\x1f\x8b"
# No file name, no time, no system: the same voxels give the same bytes everywhere.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

_STORED = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_NOT_GREY = {32: "complex numbers", 1792: "complex numbers", 128: "colours", 2304: "colours"}

_LAYOUT_1 = {
    "sizeof_hdr": ("i4", 0), "regular": ("S1", 38), "dim": ("8i2", 40), "datatype": ("i2", 70), "bitpix": ("i2", 72),
    "pixdim": ("8f4", 76), "vox_offset": ("f4", 108), "scl_slope": ("f4", 112), "scl_inter": ("f4", 116),
    "xyzt_units": ("u1", 123), "qform_code": ("i2", 252), "sform_code": ("i2", 254), "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268), "srow": ("(3,4)f4", 280), "magic": ("S4", 344),
}  # fmt: skip
_LAYOUT_2 = {
    "sizeof_hdr": ("i4", 0), "magic": ("S8", 4), "datatype": ("i2", 12), "bitpix": ("i2", 14), "dim": ("8i8", 16),
    "pixdim": ("8f8", 104), "vox_offset": ("i8", 168), "scl_slope": ("f8", 176), "scl_inter": ("f8", 184),
    "qform_code": ("i4", 344), "sform_code": ("i4", 348), "quatern": ("3f8", 352), "qoffset": ("3f8", 376),
    "srow": ("(3,4)f8", 400), "xyzt_units": ("i4", 500),
}  # fmt: skip
_SIZE_1, _SIZE_2 = 348, 540

_DAMAGED: tuple[type[Exception], ...] = (BadGzipFile, cast("type[Exception]", isal_zlib.error), zlib.error)

_NO_HEADER = "its header is missing"
_FOREIGN = (
    (b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG picture"), (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"), (b"NRRD", "an NRRD image"), (b"version https://git-lfs", "a Git LFS pointer"),
)  # fmt: skip


class Convention(StrEnum):
    """What the labels of a ground-truth segmentation mean."""

    BRATS_2012_2021 = "brats-2012-2021"
    BRATS_2023 = "brats-2023"
    BRATS_2024 = "brats-2024"
    DECATHLON = "decathlon"
    GLIASCOPE = "gliascope"

    @property
    def title(self) -> str:  # type: ignore[override]
        """The name as the field writes it."""
        return {
            "brats-2012-2021": "BraTS 2012-2021",
            "brats-2023": "BraTS 2023",
            "brats-2024": "BraTS 2024",
            "decathlon": "Decathlon",
            "gliascope": "Gliascope",
        }[self.value]

    @property
    def meaning(self) -> dict[int, int]:
        """Gliascope's label for each label of this convention; 0 is background in all."""
        core, rest = TUMOUR_CORE, REST_OF_WHOLE_TUMOUR
        return {
            # 3 was the non-enhancing core until 2016, then joined 1.
            "brats-2012-2021": {0: 0, 1: core, 2: rest, 3: core, 4: core},
            "brats-2023": {0: 0, 1: core, 2: rest, 3: core},
            # 4 is the resection cavity, which is not tumour.
            "brats-2024": {0: 0, 1: core, 2: rest, 3: core, 4: 0},
            "decathlon": {0: 0, 1: rest, 2: core, 3: core},
            "gliascope": {0: 0, 1: core, 2: rest},
        }[self.value]


def is_nifti_name(path: Path) -> bool:
    """Whether a file is NIfTI by its name: ``.nii`` or ``.nii.gz``, and not one of macOS' ``._`` shadows."""
    name = path.name.lower()
    return name.endswith((".nii", ".nii.gz")) and not name.startswith("._")


def stem(path: Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def read(path: Path, sequence: Sequence | None = None, index: int | None = None) -> Volume:
    """Read one MRI volume.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        sequence: Which sequence it is, if known.
        index: Which volume of a file that holds several, from 0.

    Returns:
        The volume: float32 ``(I, J, K)`` in the file's voxel order and in its memory order (first axis fastest),
        scaling applied. ``oriented`` is False where the header says nothing about orientation; the affine is then
        the guess most programs make (first axis to the patient's left, second to the front, third to the head).

    Raises:
        ChooseVolume: The file holds several volumes and ``index`` is None.
        NotFinite: It holds voxels that are not numbers.
        UnreadableImage: Anything else that keeps it from being one volume of finite numbers with a place in space.
    """
    with _opened(path, hashed=True) as (stream, header):
        chosen = _choose(header, index)
        values = np.empty(int(np.prod(header.shape)), np.float32)
        not_finite, lowest, highest = 0, np.inf, -np.inf
        for first, stored in _chunks(stream, header, chosen):
            part = values[first : first + len(stored)]
            _scale(stored, header, part)
            if header.may_be_not_finite:
                not_finite += len(part) - int(np.count_nonzero(np.isfinite(part)))
            if not not_finite:
                lowest, highest = min(lowest, float(part.min())), max(highest, float(part.max()))
    if not_finite:
        raise NotFinite(
            f"{shown(path)} holds voxels that are not numbers",
            f"NaN or infinite in {not_finite:,} of {len(values):,}",
            "Replace them, by 0 for instance, in the program that made the file.",
        )
    if lowest == highest:
        raise UnreadableImage(
            f"{shown(path)} is empty: every voxel is {lowest:g}", "", "Export it again from the program that made it."
        )
    origin = Origin(header.sha256, header.grid, chosen if header.count > 1 else None)
    return Volume(values.reshape(header.shape, order="F"), header.grid, sequence, path, header.oriented, origin)


def read_grid(path: Path) -> tuple[Grid, bool]:
    """Where a file's voxels lie, from its header alone, and whether the header says so or it is a guess.

    Raises:
        UnreadableImage: See `read`.
    """
    with _opened(path) as (_, header):
        return header.grid, header.oriented


def count_volumes(path: Path) -> int:
    """How many volumes a file holds, from its header alone.

    Raises:
        UnreadableImage: See `read`.
    """
    with _opened(path) as (_, header):
        return header.count


def read_label_map(path: Path, convention: Convention | None = None) -> LabelMap:
    """Read a ground-truth segmentation into Gliascope's labels (1 tumour core, 2 rest of the whole tumour).

    Args:
        path: A ``.nii`` or ``.nii.gz`` file of whole numbers; they may be stored as floats.
        convention: What its labels mean; detected where that is beyond doubt, see `find_convention`.

    Raises:
        UnreadableImage: The file cannot be read, is not a segmentation, or holds labels the convention lacks.
        UserError: The convention is not given and cannot be told.
    """
    drawn, present = read_labels(path)
    return in_our_labels(drawn, present, convention or tell_convention(present, [path]))


def read_labels(path: Path) -> tuple[LabelMap, set[int]]:
    """Read a segmentation with the file's own labels, and which there are, background (0) left out.

    Raises:
        UnreadableImage: See `read_label_map`.
    """
    labels, grid, present = _read_labels(path)
    return LabelMap(labels, grid, path), present


def in_our_labels(drawn: LabelMap, present: set[int], convention: Convention) -> LabelMap:
    """Labels of a convention in Gliascope's.

    Args:
        drawn: As `read_labels` gives it.
        present: The same.
        convention: What the labels mean.

    Raises:
        UnreadableImage: There are labels that the convention lacks.
    """
    unknown = present - convention.meaning.keys()
    if unknown:
        name = "The segmentation" if drawn.source is None else shown(drawn.source)
        raise UnreadableImage(
            f"{name} holds labels that {convention.title} does not have",
            _listed(unknown),
            "Name the convention it was drawn in.",
        )
    table = np.zeros(256, np.uint8)
    for theirs, ours in convention.meaning.items():
        table[theirs] = ours
    return LabelMap(table[drawn.data], drawn.grid, drawn.source)


def label_values(path: Path) -> set[int]:
    """The labels a segmentation holds, background (0) left out.

    Raises:
        UnreadableImage: See `read_label_map`.
    """
    return _read_labels(path)[2]


def find_convention(paths: Iterable[Path]) -> Convention:
    """What the labels of a cohort's segmentations mean, told from all of them together.

    Names of published cohorts and Gliascope's own sidecar count as evidence; so does a label 4 without any 3, which
    only BraTS 2012-2021 has.

    Raises:
        UnreadableImage: A file cannot be read or is not a segmentation.
        UserError: The files do not settle it; the sentence lists the conventions to choose from.
    """
    files = list(paths)
    present: set[int] = set()
    for path in files:
        present |= label_values(path)
    return tell_convention(present, files)


def made_by_gliascope(path: Path) -> bool:
    """Whether the sidecar beside a segmentation says that Gliascope made it.

    A mask on the grid of one sequence alone (``anna_t2_seg``) is told of in the patient's sidecar (``anna_seg``).
    """
    name = stem(path)
    with suppress(OSError, ValueError, AttributeError):
        sidecar = json.loads((path.parent / f"{name}.json").read_text(encoding="utf-8"))
        return bool(sidecar.get("software", {}).get("name") == "Gliascope")
    of_sequence = re.fullmatch(r"(.+)_([^_]+)_seg", name)
    if of_sequence is None:
        return False
    with suppress(OSError, ValueError, AttributeError):
        sidecar = json.loads((path.parent / f"{of_sequence[1]}_seg.json").read_text(encoding="utf-8"))
        return sidecar.get("software", {}).get("name") == "Gliascope" and of_sequence[2] in sidecar.get("masks", {})
    return False


def write_label_map(label_map: LabelMap, path: Path, like: Path | None = None) -> None:
    """Write a label map as uint8 NIfTI, read it back, and only then give it its name.

    The same labels give the same bytes, whatever the machine and the time. No text of any header is carried over.

    Args:
        label_map: What to write.
        path: Ends in ``.nii`` or ``.nii.gz``; a file of that name is replaced.
        like: The image the labels were drawn on; its sform, qform, codes and voxel sizes are copied to the bit, so
            that every program puts both at the same place, whichever form it believes.

    Raises:
        CannotWrite: Nothing was written, and nothing is left behind.
        UnreadableImage: ``like`` cannot be read.
        ValueError: ``like`` lies on another grid.
    """
    _write(path, label_map.data, label_map.grid, like)


def write_volume(volume: Volume, path: Path, like: Path | None = None) -> None:
    """Write a volume as float32 NIfTI; everything else as `write_label_map`."""
    _write(path, volume.data, volume.grid, like)


@dataclass(frozen=True)
class _Header:
    path: Path
    fields: NDArray[np.void]  # one record, in this machine's byte order
    shape: tuple[int, int, int]
    count: int  # volumes in the file
    stored: np.dtype[np.generic]
    start: int  # bytes before the first voxel
    slope: float
    inter: float
    grid: Grid
    oriented: bool
    sha256: str = ""  # of the file, where it was asked for

    @property
    def volume_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.stored.itemsize

    @property
    def scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def may_be_not_finite(self) -> bool:
        return self.scaled or self.stored.kind == "f"


@contextmanager
def _opened(path: Path, packed: bool | None = None, hashed: bool = False) -> Iterator[tuple[IO[bytes], _Header]]:
    """The stream behind the header, and the header; whatever goes wrong inside is told in the user's words."""
    try:
        if path.is_dir():
            raise UnreadableImage(f"{shown(path)} is a folder, not an image", "", "Choose the files inside it.")
        size = reachable(path).stat().st_size
        if size == 0:
            raise UnreadableImage(f"{shown(path)} is empty", "0 bytes", "Copy it again from its source.")
        with reachable(path).open("rb") as raw:
            if packed is None:
                packed = _packed(path, raw.read(_SIZE_1))
                raw.seek(0)
            # Hashed through the handle that is read from: another file that takes its name meanwhile is not this one.
            digest = hashlib.file_digest(raw, "sha256").hexdigest() if hashed else ""
            raw.seek(0)
            stream = igzip.GzipFile(fileobj=raw, mode="rb") if packed else raw
            header = replace(_read_header(path, stream), sha256=digest)
            needed = header.start + header.volume_bytes * header.count
            if needed > (size * _DEFLATE_LIMIT if packed else size):
                raise _stops_early(path, needed, None if packed else size)
            yield stream, header
    except _DAMAGED as error:
        raise UnreadableImage(
            f"{shown(path)} is damaged", "its compressed content does not add up", "Copy it again from its source."
        ) from error
    except EOFError as error:
        raise UnreadableImage(
            f"{shown(path)} stops in the middle", "its compressed content has no end", "Copy it again from its source."
        ) from error
    except OSError as error:
        raise _unopened(path, error) from error


def _packed(path: Path, beginning: bytes) -> bool:
    """Whether to inflate, after making sure that name and content agree."""
    named_packed = path.name.lower().endswith(".gz")
    is_packed = beginning.startswith(_GZIP_MAGIC)
    if named_packed == is_packed:
        return is_packed
    if is_packed:
        raise UnreadableImage(
            f"{shown(path)} is compressed although its name does not say so", "", f"Rename it to {shown(path)}.gz."
        )
    plain = beginning[:4] in {np.int32(_SIZE_1).tobytes(), np.int32(_SIZE_1).byteswap().tobytes()}
    todo = f"Rename it to {shown(path)[:-3]}." if plain else "Copy it again from its source."
    # Downloads often leave a page of text or a pointer under the name of the scan.
    what = "" if plain or (told := _what_it_is(beginning)) == _NO_HEADER else told
    raise UnreadableImage(f"{shown(path)} is not compressed although its name ends in .gz", what, todo)


def _read_header(path: Path, stream: IO[bytes]) -> _Header:
    beginning = stream.read(_SIZE_2)
    fields = _parse(path, beginning)
    dims = [int(n) for n in fields["dim"]]
    if not 1 <= dims[0] <= 7 or min(dims[1 : min(dims[0], 3) + 1]) < 1:
        raise UnreadableImage(
            f"The header of {shown(path)} is damaged",
            f"it gives the image sizes {_listed(dims[1 : 1 + max(1, min(7, dims[0]))], ' x ')}",
            "Export it again from the program that made it.",
        )
    sizes = [*dims[1 : dims[0] + 1], 1, 1][: max(3, dims[0])]
    shape, count = (sizes[0], sizes[1], sizes[2]), int(np.prod([max(1, n) for n in sizes[3:]]))
    if min(shape) == 1:
        raise UnreadableImage(
            f"{shown(path)} is a single slice, not a volume",
            " x ".join(map(str, shape)),
            "Choose the file that holds all slices of the scan.",
        )
    if np.prod(shape, dtype=np.float64) > _MOST_VOXELS:
        raise UnreadableImage(
            f"{shown(path)} is too large to open",
            " x ".join(map(str, shape)) + " voxels",
            "Resample it to about 1 mm first.",
        )
    code = int(fields["datatype"])
    if code not in _STORED:
        raise UnreadableImage(
            f"{shown(path)} is not a grey-scale image",
            f"its voxels are {_NOT_GREY.get(code, f'of an unusual type, number {code}')}",
            "Export it again as 16-bit or floating-point grey values.",
        )
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        slope, inter = 1.0, 0.0  # the format's way of saying "not scaled"
    offset = float(fields["vox_offset"])
    least = int(fields["sizeof_hdr"]) + 4
    grid, oriented = _place(path, fields, shape)
    return _Header(
        path=path,
        fields=fields,
        shape=shape,
        count=count,
        stored=np.dtype(_STORED[code]).newbyteorder(_byte_order(beginning)),
        # Some programs leave the offset at 0 and mean "directly after the header".
        start=int(offset) if np.isfinite(offset) and offset >= least else least,
        slope=slope,
        inter=inter if np.isfinite(inter) else 0.0,
        grid=grid,
        oriented=oriented,
    )


def _byte_order(beginning: bytes) -> Literal["<", ">"]:
    return "<" if int.from_bytes(beginning[:4], "little") in (_SIZE_1, _SIZE_2) else ">"


def _record(size: int, order: Literal["<", ">", "="]) -> np.dtype[np.void]:
    return _RECORDS[size].newbyteorder(order)


def _laid_out(layout: dict[str, tuple[str, int]], size: int) -> np.dtype[np.void]:
    kinds, offsets = zip(*layout.values(), strict=True)
    dtype: np.dtype[np.void] = np.dtype(
        {"names": list(layout), "formats": list(kinds), "offsets": list(offsets), "itemsize": size}
    )
    return dtype


# Made once, here: numpy asks Python's compiler what "8f4" means, and that of Python 3.11 fails now and then when two
# threads ask at once, as they do when several files are opened.
_RECORDS = {_SIZE_1: _laid_out(_LAYOUT_1, _SIZE_1), _SIZE_2: _laid_out(_LAYOUT_2, _SIZE_2)}


def _parse(path: Path, beginning: bytes) -> NDArray[np.void]:
    """The header's fields, in this machine's byte order."""
    order = _byte_order(beginning)
    size = int.from_bytes(beginning[:4], "little" if order == "<" else "big")
    if size not in (_SIZE_1, _SIZE_2):
        raise UnreadableImage(
            f"{shown(path)} is not a NIfTI image", _what_it_is(beginning), "Choose a .nii or .nii.gz file."
        )
    if len(beginning) < size:
        raise _stops_early(path, size, len(beginning))
    fields = np.frombuffer(beginning[:size], _record(size, order))[0]
    magic = bytes(fields["magic"])[:3]
    if magic in (b"ni1", b"ni2", b""):
        raise UnreadableImage(
            f"{shown(path)} is not a whole NIfTI image",
            "it is the header of an older pair of files, .hdr and .img",
            "Convert the pair to a single .nii.gz file first.",
        )
    if magic not in (b"n+1", b"n+2"):
        raise UnreadableImage(
            f"{shown(path)} is not a NIfTI image", _what_it_is(beginning), "Choose a .nii or .nii.gz file."
        )
    native: NDArray[np.void] = np.zeros((), _record(size, "="))
    for name in native.dtype.names or ():
        native[name] = fields[name]
    return native


def _what_it_is(beginning: bytes) -> str:
    for magic, kind in _FOREIGN:
        if beginning.startswith(magic):
            return f"it is {kind}"
    if beginning[128:132] == b"DICM":
        return "it is a DICOM file"
    sample = beginning[:256]
    if sample and all(byte >= 32 or byte in b"\t\r\n\f" for byte in sample):
        return "it is a text file"
    return _NO_HEADER


def _place(path: Path, fields: NDArray[np.void], shape: tuple[int, int, int]) -> tuple[Grid, bool]:
    """The grid, and whether the header says where it lies: the sform, else the qform, else a guess."""
    said = []
    if int(fields["sform_code"]) > 0:
        said.append(np.vstack([np.asarray(fields["srow"], np.float64), [0, 0, 0, 1]]))
    if int(fields["qform_code"]) > 0:
        said.append(_qform(fields))
    for affine in said:
        with suppress(ValueError):
            return Grid(shape, affine), True
    if said:
        raise UnreadableImage(
            f"The header of {shown(path)} does not place its voxels in space",
            "its orientation matrix is singular or not finite",
            "Export it again from the program that made it.",
        )
    spacing = np.abs(np.asarray(fields["pixdim"], np.float64)[1:4])
    guess = np.diag([*(spacing * (-1, 1, 1)), 1.0])
    guess[:3, 3] = -guess[:3, :3] @ ((np.array(shape) - 1) / 2)
    with suppress(ValueError):
        return Grid(shape, guess), False
    raise UnreadableImage(
        f"The header of {shown(path)} gives neither orientation nor voxel size",
        "",
        "Export it again from the program that made it.",
    )


def _qform(fields: NDArray[np.void]) -> Affine:
    spacing = np.asarray(fields["pixdim"], np.float64)
    b, c, d = (float(x) for x in fields["quatern"])
    squared = b * b + c * c + d * d
    if 1 - squared < 1e-7:
        # A half turn, or one rounded past it: the first part is 0 and the rest is brought back to length 1.
        b, c, d = (x / np.sqrt(squared) for x in (b, c, d))
        squared = 1.0
    a = np.sqrt(max(0.0, 1 - squared))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    # The sign of the third axis hides in pixdim[0]; 0 there means +1.
    affine[:3, :3] = rotation * np.abs(spacing[1:4]) * (1, 1, -1 if spacing[0] < 0 else 1)
    affine[:3, 3] = fields["qoffset"]
    return affine


def _choose(header: _Header, index: int | None) -> int:
    if index is None:
        if header.count > 1:
            raise ChooseVolume(
                f"{shown(header.path)} holds {header.count} volumes, not one",
                " x ".join(map(str, (*header.shape, header.count))),
                "Choose one of them.",
                count=header.count,
            )
        return 0
    if not 0 <= index < header.count:
        raise ChooseVolume(
            f"{shown(header.path)} has no volume {index + 1}",
            f"it holds {header.count}",
            "Choose one of them.",
            count=header.count,
        )
    return index


def _chunks(stream: IO[bytes], header: _Header, index: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """The voxels of one volume as stored, a piece at a time: ``(flat index of the first, values)``.

    The values are overwritten by the next piece. After the last volume the stream is read to its end, so that a
    checksum that does not fit, or a missing end, is noticed.
    """
    stream.seek(header.start + index * header.volume_bytes)
    voxels = header.volume_bytes // header.stored.itemsize
    buffer = np.empty(_CHUNK_BYTES // header.stored.itemsize, header.stored)
    done = 0
    while done < voxels:
        piece = buffer[: min(len(buffer), voxels - done)]
        filled = _fill(stream, memoryview(piece.view(np.uint8)))  # type: ignore[arg-type]
        if filled < piece.nbytes:
            needed = header.start + header.count * header.volume_bytes
            found = header.start + index * header.volume_bytes + done * header.stored.itemsize + filled
            raise _stops_early(header.path, needed, found)
        yield done, piece
        done += len(piece)
    if index == header.count - 1:
        while stream.read(_CHUNK_BYTES):
            pass


def _fill(stream: IO[bytes], buffer: memoryview) -> int:
    """Read until the buffer is full or the stream is at its end, proper or not; the number of bytes read."""
    filled = 0
    with suppress(EOFError):
        while filled < len(buffer) and (got := stream.readinto(buffer[filled:])):  # type: ignore[attr-defined]
            filled += got
    return filled


def _scale(stored: NDArray[np.generic], header: _Header, into: NDArray[np.float32]) -> None:
    # A float64 beyond the range of float32 becomes infinite, and is then reported as not a number.
    with np.errstate(over="ignore", invalid="ignore"):
        if header.scaled:
            into[...] = stored.astype(np.float64) * header.slope + header.inter
        else:
            into[...] = stored


def _read_labels(path: Path) -> tuple[NDArray[np.uint8], Grid, set[int]]:
    with _opened(path) as (stream, header):
        chosen = _choose(header, None)
        labels = np.empty(int(np.prod(header.shape)), np.uint8)
        counts = np.zeros(256, np.int64)
        for first, stored in _chunks(stream, header, chosen):
            part = labels[first : first + len(stored)]
            part[...] = _whole_numbers(stored, header)
            counts += np.bincount(part, minlength=256)
    return labels.reshape(header.shape, order="F"), header.grid, {int(n) for n in np.flatnonzero(counts) if n}


def _whole_numbers(stored: NDArray[Any], header: _Header) -> NDArray[Any]:
    """The labels in a piece of a segmentation, all between 0 and 255."""
    if not header.may_be_not_finite:
        whole, odd = stored, stored[(stored < 0) | (stored > 255)]
    else:
        values = np.empty(len(stored), np.float32)
        _scale(stored, header, values)
        whole = np.rint(values)
        # Scaled integers come back as 0.9999; anything further off is an image.
        odd = values[~((np.abs(values - whole) <= 1e-3) & (whole >= 0) & (whole <= 255))]
    if odd.size:
        raise UnreadableImage(
            f"{shown(header.path)} is not a segmentation",
            f"a voxel holds {float(odd[0]):g}, where labels are whole numbers from 0 to 255",
            "Choose the file with the labels.",
        )
    return whole


def tell_convention(present: set[int], paths: list[Path]) -> Convention:
    """What the labels of segmentations mean, from the labels that are there and the files' names.

    Args:
        present: Labels in all of them together, background left out.
        paths: The files.

    Raises:
        UserError: They do not settle it; the sentence lists the conventions to choose from.
    """
    named = {_named_convention(path) for path in paths}
    if len(named) == 1 and (known := named.pop()) is not None and present <= known.meaning.keys():
        return known
    if 4 in present and present <= {1, 2, 4}:
        return Convention.BRATS_2012_2021
    fitting = [convention for convention in Convention if present <= convention.meaning.keys()]
    readings = {tuple(convention.meaning[label] for label in sorted(present)) for convention in fitting}
    if len(readings) == 1:
        return fitting[0]
    which = f"{shown(paths[0])} does not say" if len(paths) == 1 else "The segmentations do not say"
    raise UserError(
        f"{which} what the labels mean",
        f"they are {_listed(present)}",
        "Name the convention: " + ", ".join(convention.title for convention in Convention) + ".",
    )


def _named_convention(path: Path) -> Convention | None:
    if made_by_gliascope(path):
        return Convention.GLIASCOPE
    for name in (stem(path), path.parent.name):
        if re.search(r"brats-(gli|met|ssa)-", name, re.IGNORECASE):
            return Convention.BRATS_2024  # reads files of 2023 alike: they have no label 4
        if re.search(r"brats(20)?(1[2-9]|2[01])(?!\d)", name, re.IGNORECASE):
            return Convention.BRATS_2012_2021
        if re.fullmatch(r"BRATS_\d{3}", name):
            return Convention.DECATHLON
    return None


def _write(path: Path, data: NDArray[np.generic], grid: Grid, like: Path | None) -> None:
    head = _header_bytes(data, grid, like)
    voxels = data.ravel(order="F")
    packed = path.name.lower().endswith(".gz")

    def same(partial: Path) -> None:
        if not _same_on_disk(partial, packed, voxels, grid):
            raise CannotWrite(
                f"{shown(path)} was not stored as it should be",
                "reading it back gave something else",
                "The disk may be failing; choose another folder.",
            )

    with whole_file(path, check=same) as partial, partial.open("xb") as stream:
        (_pack if packed else _copy)(stream, head, voxels)


def _header_bytes(data: NDArray[np.generic], grid: Grid, like: Path | None) -> bytes:
    fields: NDArray[np.void] = np.zeros((), _record(_SIZE_1, "<"))
    fields["sizeof_hdr"] = _SIZE_1
    fields["regular"] = b"r"
    fields["dim"] = [3, *data.shape, 1, 1, 1, 1]
    fields["datatype"], fields["bitpix"] = {"uint8": (2, 8), "float32": (16, 32)}[str(data.dtype)]
    fields["vox_offset"] = _SIZE_1 + 4
    fields["scl_slope"] = 1
    fields["magic"] = b"n+1"
    if like is None:
        fields["pixdim"] = [1, *grid.spacing, 0, 0, 0, 0]
        fields["sform_code"] = 1
        fields["srow"] = grid.affine[:3]
        fields["xyzt_units"] = 2  # mm
    else:
        with _opened(like) as (_, theirs):
            if not theirs.grid.same_as(grid, tolerance_mm=1e-3):
                raise ValueError(f"{like} lies on another grid than what is to be written")
            for name in ("qform_code", "sform_code", "quatern", "qoffset", "srow"):
                fields[name] = theirs.fields[name]
            fields["pixdim"][:4] = theirs.fields["pixdim"][:4]
            fields["xyzt_units"] = int(theirs.fields["xyzt_units"]) & 0x07  # the unit of space, not of time
    # Four zeros: no extensions follow.
    return fields.tobytes() + bytes(4)


def _copy(stream: IO[bytes], head: bytes, voxels: NDArray[np.generic]) -> None:
    stream.write(head)
    for piece in _pieces(voxels):
        stream.write(piece)


def _pack(stream: IO[bytes], head: bytes, voxels: NDArray[np.generic]) -> None:
    # zlib rather than isal, whose output depends on the processor it runs on.
    deflate = zlib.compressobj(level=4, wbits=-15)
    checksum, length = 0, 0
    stream.write(_GZIP_HEADER)
    for piece in (memoryview(head), *_pieces(voxels)):
        stream.write(deflate.compress(piece))
        checksum, length = zlib.crc32(piece, checksum), length + len(piece)
    stream.write(deflate.flush())
    stream.write(checksum.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little"))


def _pieces(voxels: NDArray[np.generic]) -> Iterator[memoryview]:
    stored = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    for first in range(0, len(stored), _CHUNK_BYTES):
        yield memoryview(stored[first : first + _CHUNK_BYTES].view(np.uint8))  # type: ignore[arg-type]


def _same_on_disk(path: Path, packed: bool, voxels: NDArray[np.generic], grid: Grid) -> bool:
    with suppress(UnreadableImage), _opened(path, packed) as (stream, header):
        pieces = _chunks(stream, header, 0)
        same = all(np.array_equal(voxels[first : first + len(piece)], piece) for first, piece in pieces)
        return same and header.grid.same_as(grid, tolerance_mm=1e-3)
    return False


def _unopened(path: Path, error: OSError) -> UnreadableImage:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnreadableImage(f"{shown(path)} is not there", "", "It may have been moved; choose it again.")
    if isinstance(error, PermissionError):
        return UnreadableImage(f"{shown(path)} may not be opened", "", "Ask its owner for permission to read it.")
    if error.errno == errno.ENAMETOOLONG:
        return UnreadableImage(f"The path to {shown(path)} is too long", "", "Move it to a folder nearer the top.")
    reason = (error.strerror or "the system gave no reason").lower()
    return UnreadableImage(f"{shown(path)} cannot be read", reason, "Copy it again from its source.")


def _stops_early(path: Path, expected: int, found: int | None) -> UnreadableImage:
    why = f"expected {_size(expected)}, found {'far less' if found is None else _size(found)}"
    return UnreadableImage(f"{shown(path)} stops in the middle", why, "Copy it again from its source.")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _listed(numbers: Iterable[int], between: str = ", ") -> str:
    return between.join(map(str, sorted(numbers) if between == ", " else numbers))
