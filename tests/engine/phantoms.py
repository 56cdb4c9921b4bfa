"""A small head that looks different from every side, laid out in every way a file can lay it out.

It carries one marker each on the patient's **left**, **front** and **top**, so that a flip or a swap of axes is
always visible. Everything is defined in world millimetres (RAS+) and sampled on a grid; reorienting moves the array
and the affine together, so the same point of the world keeps its value.
"""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from engine.volume import REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, Grid, LabelMap, Sequence, Subject, Volume

SHAPE = (24, 28, 20)

# Where the markers are, in mm from the middle of the head.
LEFT_MARKER = (-7.0, 0.0, 0.0)
FRONT_MARKER = (0.0, 8.0, 0.0)
TOP_MARKER = (0.0, 0.0, 6.0)
TUMOUR_CENTRE = (4.0, -3.0, 1.0)

LEFT_VALUE, FRONT_VALUE, TOP_VALUE = 200.0, 300.0, 400.0

_BRIGHTNESS = {Sequence.T1: 100.0, Sequence.T1CE: 110.0, Sequence.T2: 80.0, Sequence.FLAIR: 90.0}
_TUMOUR_CONTRAST = {Sequence.T1: -30.0, Sequence.T1CE: 60.0, Sequence.T2: 70.0, Sequence.FLAIR: 50.0}

ORIENTATIONS: tuple[str, ...] = tuple(
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)
)
"""All 48 ways to lay out an array: the direction each axis points to, as in ``"LPS"``."""


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """A ``(3, 3)`` rotation about x, then y, then z."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turned = step @ turned
    return turned


def grid(
    orientation: str = "RAS",
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    oblique: tuple[float, float, float] = (0.0, 0.0, 0.0),
    centre: tuple[float, float, float] = (3.0, -5.0, 7.0),
) -> Grid:
    """A grid whose middle is the middle of the head.

    Args:
        orientation: One of `ORIENTATIONS`.
        shape: Voxels to the right, to the front and to the head, before the axes are laid out.
        spacing: In mm, in the same order as ``shape``.
        oblique: Degrees the head's grid is turned about x, y and z.
        centre: World position in mm of the middle of the grid; also where the head is.
    """
    columns = np.zeros((3, 3))
    laid_out = [0, 0, 0]
    for axis, letter in enumerate(orientation):
        world = next(w for w, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        columns[world, axis] = spacing[world] * (1 if letter in "RAS" else -1)
        laid_out[axis] = shape[world]
    affine = np.eye(4)
    affine[:3, :3] = rotation(oblique) @ columns
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(laid_out) - 1) / 2)
    return Grid((laid_out[0], laid_out[1], laid_out[2]), affine)


def head(
    on: Grid, sequence: Sequence | None = Sequence.T1, centre: tuple[float, float, float] = (3.0, -5.0, 7.0)
) -> Volume:
    """The head sampled on a grid: zero outside, a slow gradient inside, three markers and a tumour.

    Args:
        on: Any grid.
        sequence: Decides brightness and how the tumour shows.
        centre: World position in mm of the middle of the head.
    """
    x, y, z = _millimetres(on, centre)
    inside = (x / 10.5) ** 2 + (y / 12.5) ** 2 + (z / 8.5) ** 2 < 1
    known = sequence or Sequence.T1
    values = np.where(inside, _BRIGHTNESS[known] + x + 0.5 * y + 0.25 * z, 0.0)
    labels = tumour(on, centre).data
    values[labels > 0] += _TUMOUR_CONTRAST[known]
    values[labels == TUMOUR_CORE] += 20.0
    for place, value in ((LEFT_MARKER, LEFT_VALUE), (FRONT_MARKER, FRONT_VALUE), (TOP_MARKER, TOP_VALUE)):
        values[_ball((x, y, z), place, 1.6)] = value
    return Volume(values.astype(np.float32), on, sequence)


def tumour(on: Grid, centre: tuple[float, float, float] = (3.0, -5.0, 7.0)) -> LabelMap:
    """The truth of `head`'s tumour, on the patient's right, in Gliascope's labels."""
    millimetres = _millimetres(on, centre)
    labels = np.zeros(on.shape, np.uint8)
    labels[_ball(millimetres, TUMOUR_CENTRE, 4.0)] = REST_OF_WHOLE_TUMOUR
    labels[_ball(millimetres, TUMOUR_CENTRE, 2.2)] = TUMOUR_CORE
    return LabelMap(labels, on)


def subject(
    on: Grid | None = None, sequences: tuple[Sequence, ...] = tuple(Sequence), name: str = "phantom"
) -> Subject:
    """The head in several sequences on one grid."""
    on = on or grid()
    return Subject(name, {sequence: head(on, sequence) for sequence in sequences})


def write(
    path: Path,
    data: NDArray[np.generic],
    affine: NDArray[np.float64],
    sform: int = 1,
    qform: int = 1,
    dtype: str | None = None,
    **fields: object,
) -> Path:
    """Write a NIfTI file with nibabel, so that what Gliascope reads was not written by Gliascope.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        data: Voxels; 3-D or more.
        affine: ``(4, 4)`` for both forms.
        sform: Code of the sform; 0 leaves it out.
        qform: Code of the qform; 0 leaves it out.
        dtype: Type and byte order on disk, such as ``">i2"``; by default that of ``data``.
        **fields: Header fields set last, whatever they say.
    """
    kind = np.dtype(dtype) if dtype else data.dtype
    image = nib.Nifti1Image(data.astype(kind.newbyteorder("=")), None, dtype=kind.newbyteorder("="))
    if kind.byteorder == ">":
        image = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header.as_byteswapped(">"))
    image.header.set_data_dtype(kind)
    image.set_sform(affine, code=sform)
    image.set_qform(affine, code=qform)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    # nibabel mends a header while saving, so what is meant to be odd goes in afterwards.
    _patch(path, {"sform_code": sform, "qform_code": qform, **fields})
    return path


def write_volume(path: Path, volume: Volume, dtype: str = "<i2") -> Path:
    """Write a volume with nibabel, rounded to ``dtype``."""
    return write(path, np.rint(volume.data), np.array(volume.grid.affine), dtype=dtype)


def write_subject(
    folder: Path, on: Grid | None = None, sequences: tuple[Sequence, ...] = tuple(Sequence), truth: bool = False
) -> Path:
    """Write the head in the BraTS layout: ``<folder>/<folder>_t1.nii.gz`` and so on.

    Args:
        folder: Made if it is not there; its name becomes the case's name.
        on: The grid of every file.
        sequences: Which files are written.
        truth: Whether ``_seg`` is written too, in the labels of BraTS 2018 (1 core, 2 oedema, 4 enhancing).
    """
    on = on or grid("LPS")
    for sequence in sequences:
        write_volume(folder / f"{folder.name}_{sequence}.nii.gz", head(on, sequence))
    if truth:
        labels = tumour(on).data.copy()
        core = np.flatnonzero(labels == TUMOUR_CORE)
        labels.flat[core[::2]] = 4
        write(folder / f"{folder.name}_seg.nii.gz", labels, np.array(on.affine))
    return folder


def value_at(volume: Volume, millimetres: tuple[float, float, float], centre: tuple[float, float, float]) -> float:
    """The voxel of ``volume`` nearest to a place given in mm from the middle of the head."""
    i, j, k = np.rint(volume.grid.to_voxel(np.array([np.add(millimetres, centre)])))[0].astype(int)
    return float(volume.data[i, j, k])


def _patch(path: Path, fields: dict[str, object]) -> None:
    packed = path.name.endswith(".gz")
    raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    header = nib.Nifti1Header(raw[:348], check=False)
    for field, value in fields.items():
        header[field] = value
    raw = header.structarr.tobytes() + raw[348:]
    path.write_bytes(gzip.compress(raw, compresslevel=1, mtime=0) if packed else raw)


def _millimetres(
    on: Grid, centre: tuple[float, float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    world = on.to_world(np.indices(on.shape).reshape(3, -1).T) - np.array(centre)
    x, y, z = world.T.reshape(3, *on.shape)
    return x, y, z


def _ball(
    millimetres: tuple[NDArray[np.float64], ...], place: tuple[float, float, float], radius: float
) -> NDArray[np.bool_]:
    squared = sum((axis - at) ** 2 for axis, at in zip(millimetres, place, strict=True))
    return np.asarray(squared < radius**2)
