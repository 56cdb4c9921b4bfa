"""Feed 500 broken DICOM and NIfTI inputs to everything that opens files, and write down what became of them.

    python -m scripts.fuzz_inputs --out docs/results/fuzz.md
    python -m scripts.fuzz_inputs --only 17,402        # these alone, with what went wrong in full

Each input is made from a sound one by a rule and a seed, and goes through `dicom.look`, `thumbnail`, `subject_files` or
`nifti.read`, `read_grid` and `read_label_map`, and then through ``gliascope segment``, in a process that does nothing
else. It counts as a crash when anything but a `UserError` comes out or the process dies, as a hang when that takes more
than ten seconds, and as left behind when a temporary file, a half-written output or a process is there afterwards or
the input has changed. Needs the test packages: sound inputs are written with pydicom and nibabel.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HANG_SECONDS = 10.0
COUNT = 500

Make = Callable[[Path, random.Random], Path]


# --- sound inputs -----------------------------------------------------------------------------------------------------


def _series(folder: Path, slices: int = 10) -> list[Path]:
    from tests.engine import fake_dicom

    made = fake_dicom.Examination(folder)
    return made.series(fake_dicom.T2, 1, fake_dicom.grid(slices=slices))


def _enhanced(folder: Path) -> list[Path]:
    from tests.engine import fake_dicom

    return [fake_dicom.Examination(folder).enhanced(fake_dicom.T2, 1, fake_dicom.grid(slices=10))]


def _packed(folder: Path) -> list[Path]:
    import pydicom

    files = _series(folder)
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(file)
    return files


def _dicom(folder: Path, rng: random.Random) -> list[Path]:
    return rng.choice([_series, _enhanced, _packed])(folder)


def _nifti(folder: Path, rng: random.Random, name: str = "t2.nii") -> Path:
    import nibabel as nib

    folder.mkdir(parents=True, exist_ok=True)
    data = (np.indices((20, 24, 18)).sum(axis=0) % 90 + rng.randrange(1, 5)).astype(np.int16)
    for axis in range(3):  # nothing around the brain, so that it counts as stripped
        data[(slice(None),) * axis + ([0, 1, -2, -1],)] = 0
    path = folder / name
    nib.Nifti1Image(data, np.diag([-3.0, 3.0, 3.0, 1.0])).to_filename(path)
    return path


# --- what goes wrong on every kind of file ----------------------------------------------------------------------------


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip(data: bytes, rng: random.Random, within: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 10, 100])):
        changed[rng.randrange(min(len(changed), within or len(changed)))] = rng.randrange(256)
    return bytes(changed)


def _flip_header(data: bytes, rng: random.Random) -> bytes:
    return _flip(data, rng, 1500)


def _lie_about_a_length(data: bytes, rng: random.Random) -> bytes:
    """Overwrite two or four bytes of the header with a huge number."""
    at = rng.randrange(132, min(len(data) - 4, 1600))
    return (
        data[:at]
        + rng.choice([b"\xff\xff\xff\xff", b"\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f"])
        + data[at + 4 :]
    )


def _drop_a_piece(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 300) :]


def _double_a_piece(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[: at + rng.randrange(1, 300)] + data[at:]


def _noise(data: bytes, rng: random.Random) -> bytes:
    return data[:132] + rng.randbytes(rng.randrange(10, 20_000))


def _nothing(data: bytes, rng: random.Random) -> bytes:
    return b""


def _on_some(change: Callable[[bytes, random.Random], bytes]) -> Make:
    """A change to one or all files of a series."""

    def make(folder: Path, rng: random.Random) -> Path:
        files = _dicom(folder, rng)
        for file in files if rng.random() < 0.5 else [rng.choice(files)]:
            file.write_bytes(change(file.read_bytes(), rng))
        return folder

    return make


# --- DICOM that lies --------------------------------------------------------------------------------------------------


def _lying(**changes: Iterable[Any]) -> Make:
    """One value of one or all slices replaced by one that makes no sense, written past pydicom's own checks."""

    def make(folder: Path, rng: random.Random) -> Path:
        import pydicom

        files = _series(folder)
        name, wrong = rng.choice([(name, value) for name, values in changes.items() for value in values])
        for file in files if rng.random() < 0.6 else files[:3]:
            dataset = pydicom.dcmread(file)
            if wrong is None:
                if name in dataset:
                    del dataset[name]
            elif isinstance(wrong, bytes):
                tag = pydicom.datadict.tag_for_keyword(name)
                assert tag is not None
                kind = pydicom.datadict.dictionary_VR(tag)[:2]
                raw = pydicom.dataelem.RawDataElement(
                    pydicom.tag.Tag(tag), kind, len(wrong), wrong, 0, False, True, True
                )
                dataset._dict[pydicom.tag.Tag(tag)] = raw
            else:
                setattr(dataset, name, wrong)
            dataset.save_as(file)
        return folder

    return make


def _same_everything(folder: Path, rng: random.Random) -> Path:
    """All slices are one: the same place, or the same name."""
    import pydicom

    files = _series(folder)
    first = pydicom.dcmread(files[0])
    for file in files:
        dataset = pydicom.dcmread(file)
        if rng.random() < 0.7:
            dataset.ImagePositionPatient = first.ImagePositionPatient
        if rng.random() < 0.5:
            dataset.SOPInstanceUID = first.SOPInstanceUID
        dataset.save_as(file)
    return folder


def _unlike_slices(folder: Path, rng: random.Random) -> Path:
    """Slices of other sizes, directions, series or distances among the others."""
    import pydicom

    for file in _series(folder):
        if rng.random() < 0.5:
            dataset = pydicom.dcmread(file)
            for change in rng.sample(range(4), 2):
                if change == 0:
                    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows
                elif change == 1:
                    dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
                elif change == 2:
                    dataset.SeriesInstanceUID = f"1.2.{rng.randrange(3)}"
                else:
                    dataset.ImagePositionPatient = [rng.uniform(-200, 200) for _ in range(3)]
            dataset.save_as(file)
    return folder


def _unpackable(folder: Path, rng: random.Random) -> Path:
    """Pixels that are not what the header says they are packed with."""
    import pydicom
    from pydicom.encaps import encapsulate

    syntaxes = ["1.2.840.10008.1.2.4." + end for end in ("50", "51", "57", "70", "80", "90", "91", "201")]
    syntax = rng.choice([*syntaxes, "1.2.840.10008.1.2.5", "1.2.3.4", "1.2.840.10008.1.2.1.99"])
    magic = {"50": b"\xff\xd8\xff\xdb", "70": b"\xff\xd8\xff\xc3", "90": b"\xff\x4f\xff\x51"}.get(syntax[-2:], b"")
    for file in _series(folder):
        dataset = pydicom.dcmread(file)
        dataset.PixelData = encapsulate([magic + rng.randbytes(rng.randrange(2, 400))])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.90")
        stream = io.BytesIO()
        dataset.save_as(stream)
        written = stream.getvalue().replace(b"1.2.840.10008.1.2.4.90", syntax.encode().ljust(22, b"\0"), 1)
        file.write_bytes(written)
    return folder


def _endless_header(folder: Path, rng: random.Random) -> Path:
    """Millions of tiny values, values inside values, or a value without end in front of the pixels."""
    folder.mkdir(parents=True)
    start = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 26)
    start += struct.pack("<HH2sH", 2, 0x10, b"UI", 18) + b"1.2.840.10008.1.2\0"
    kind = rng.randrange(3)
    if kind == 0:
        body = b"".join(struct.pack("<HHI", 0x0009, n & 0xFFFF, 0) for n in range(3_000_000))
    elif kind == 1:
        body = struct.pack("<HHI", 0x0008, 0x1140, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        body = body * rng.choice([200, 5_000, 100_000])
    else:
        body = struct.pack("<HHI", 0x0008, 0x1140, 0xFFFFFFF0) + bytes(1000)
    (folder / "scan").write_bytes(start + body)
    return folder


def _strange_places(folder: Path, rng: random.Random) -> Path:
    """Links in circles, links to nothing, pipes, odd names, deep folders, thousands of other files."""
    _series(folder)
    for kind in rng.sample(range(6), 3):
        if kind == 0:
            (folder / "round").symlink_to(folder)
            (folder / "and").symlink_to(folder / "round" / "round")
        elif kind == 1:
            (folder / "nowhere.dcm").symlink_to(folder / "absent")
            (folder / "self.dcm").symlink_to(folder / "self.dcm")
        elif kind == 2 and hasattr(os, "mkfifo"):
            os.mkfifo(folder / "pipe.dcm")
        elif kind == 3:
            (folder / "a\nb\x01 \udcff.dcm").write_bytes(bytes(128) + b"DICM")
        elif kind == 4:
            deep = folder
            for _ in range(60):
                deep = deep / "deeper"
            deep.mkdir(parents=True)
            (deep / "scan").write_bytes(bytes(200))
        else:
            for number in range(2000):
                (folder / f"{number}.bin").write_bytes(b"x" * (number % 300))
    return folder


def _archive(folder: Path, rng: random.Random) -> Path:
    """Zip archives that are cut, locked, lie, lead out of the folder, or grow without end."""
    folder.mkdir(parents=True)
    path = folder / "export.zip"
    kind = rng.randrange(8)
    inside = folder / "inside"
    files = _series(inside)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, file in enumerate(files):
            archive.write(file, f"{'../' * 8 if kind == 0 else ''}scan/{number}")
        if kind == 1:
            with archive.open("bomb", "w") as member:
                member.write(bytes(128) + b"DICM")
                for _ in range(60):
                    member.write(bytes(1 << 20))
        if kind == 2:
            for _ in range(2):
                archive.write(path, "again") if path.stat().st_size else None
    shutil.rmtree(inside)
    data = bytearray(path.read_bytes())
    if kind == 3:
        data = data[: rng.randrange(len(data))]
    elif kind == 4:
        for _ in range(20):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 5:
        for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = data.find(signature)
            while at >= 0:
                data[at + place] |= 1
                at = data.find(signature, at + 4)
    elif kind == 6:
        at = data.find(b"PK\x01\x02")
        data[at + 20 : at + 28] = b"\xff" * 8
    elif kind == 7:
        at = data.rfind(b"PK\x05\x06")
        data[at + 8 : at + 20] = rng.randbytes(12)
    path.write_bytes(bytes(data))
    return path


def _directory(folder: Path, rng: random.Random) -> Path:
    """A DICOMDIR that lists what is not there, itself, or a way out of the disc, or is broken."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    _series(folder)
    path = folder / "DICOMDIR"
    table = FileDataset(str(path), {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    table.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    table.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    table.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    records = []
    for parts in (["DICOMDIR"], ["..", "..", "etc", "passwd"], ["/etc", "passwd"], ["GONE", "IM1"], [""], ["a" * 16]):
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", parts
        records.append(record)
    table.DirectoryRecordSequence = rng.sample(records, 4)
    table.save_as(path, enforce_file_format=True)
    if rng.random() < 0.5:
        path.write_bytes(rng.choice([_cut, _flip, _noise])(path.read_bytes(), rng))
    return path


def _wrong_ending(folder: Path, rng: random.Random) -> Path:
    """NIfTI under the name of DICOM and the other way round."""
    if rng.random() < 0.5:
        scan = _nifti(folder, rng)
        return scan.rename(folder / rng.choice(["scan.dcm", "IM0001", "scan.zip", "DICOMDIR"]))
    file = _series(folder / "in")[0]
    return file.rename(folder / rng.choice(["t2.nii", "t2.nii.gz", "scan.zip", "DICOMDIR"]))


# --- NIfTI ------------------------------------------------------------------------------------------------------------


def _nifti_bytes(change: Callable[[bytes, random.Random], bytes], within_header: bool = False) -> Make:
    def make(folder: Path, rng: random.Random) -> Path:
        path = _nifti(folder, rng, rng.choice(["t2.nii", "t2.nii.gz"]))
        data = path.read_bytes()
        packed = path.suffix == ".gz"
        # Half of the packed ones are damaged before they were packed, so that the damage gets past the checksum.
        if packed and rng.random() < 0.5:
            path.write_bytes(gzip.compress(change(gzip.decompress(data), rng)))
        elif within_header and not packed:
            path.write_bytes(change(data[:352], rng) + data[352:])
        else:
            path.write_bytes(change(data, rng))
        return path

    return make


def _nifti_fields(*fields: tuple[int, str, Iterable[Any]]) -> Make:
    """One field of the header, given by its offset and type, replaced by a value that makes no sense."""

    def make(folder: Path, rng: random.Random) -> Path:
        path = _nifti(folder, rng, rng.choice(["t2.nii", "t2.nii.gz"]))
        packed = path.suffix == ".gz"
        data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        offset, kind, values = rng.choice(fields)
        new = struct.pack(kind, *np.atleast_1d(rng.choice(list(values))).tolist())
        data[offset : offset + len(new)] = new
        path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
        return path

    return make


def _nifti_bomb(folder: Path, rng: random.Random) -> Path:
    """A small file that says it is, or really unpacks to, gigabytes."""
    path = _nifti(folder, rng)
    data = bytearray(path.read_bytes()[:352])
    side = rng.choice([600, 1000, 20_000])
    struct.pack_into("<4h", data, 40, 3, side, side, min(side, 900))
    body = bytes(rng.choice([1000, 64 << 20]))
    path.unlink()
    packed = folder / "t2.nii.gz"
    packed.write_bytes(gzip.compress(bytes(data) + body, 9))
    return packed


def _nifti_place(folder: Path, rng: random.Random) -> Path:
    """A link in a circle, a folder named like a scan, a pipe, a folder of links."""
    folder.mkdir(parents=True)
    path = folder / "t2.nii.gz"
    kind = rng.randrange(3)
    if kind == 0:
        path.symlink_to(path)
    elif kind == 1:
        path.mkdir()
    else:
        (folder / "round").symlink_to(folder)
        path.write_bytes(rng.randbytes(rng.randrange(400)))
        return folder
    return path


_INF, _NAN = float("inf"), float("nan")

KINDS: dict[str, tuple[str, Make]] = {
    "DICOM cut short": ("dicom", _on_some(_cut)),
    "DICOM with flipped bytes": ("dicom", _on_some(_flip)),
    "DICOM with flipped bytes in its header": ("dicom", _on_some(_flip_header)),
    "DICOM with a lying length": ("dicom", _on_some(_lie_about_a_length)),
    "DICOM with a piece missing": ("dicom", _on_some(_drop_a_piece)),
    "DICOM with a piece twice": ("dicom", _on_some(_double_a_piece)),
    "DICOM that goes on with noise": ("dicom", _on_some(_noise)),
    "DICOM files without content": ("dicom", _on_some(_nothing)),
    "DICOM sizes that lie": ("dicom", _lying(
        Rows=[0, 1, 65535, None], Columns=[0, 65535, None], BitsAllocated=[0, 1, 12, 64, None],
        SamplesPerPixel=[0, 3, 9],
        NumberOfFrames=[b"0 ", b"-1", b"99999999", b"x "], PixelData=[b"", b"\0\0"],
        PhotometricInterpretation=["RGB", None],
    )),
    "DICOM places that make no sense": ("dicom", _lying(
        ImagePositionPatient=[b"nan\\nan\\nan ", b"inf\\0\\0 ", b"1e400\\0\\0", b"x\\y\\z ", b"1\\2 ", None],
        ImageOrientationPatient=[b"0\\0\\0\\0\\0\\0 ", b"1\\0\\0\\1\\0\\0 ", b"nan\\0\\0\\0\\1\\0",
                                 b"9\\9\\9\\9\\9\\9 ", None],
        PixelSpacing=[b"0\\0 ", b"nan\\1 ", b"-1\\-1 ", b"1e9\\1 ", b"1 ", None], SliceThickness=[b"nan ", b"-5"],
    )),
    "DICOM words and numbers that make no sense": ("dicom", _lying(
        EchoTime=[b"nan ", b"1e99", b"-1", b"ten "], RepetitionTime=[b"", b"inf "],
        InstanceNumber=[b"1e9 ", b"x ", None],
        SeriesNumber=[b"99999999999999999999", b"x "], AcquisitionTime=[b"256199", b"noon"],
        StudyDate=[b"00000000", b"x "],
        SeriesDescription=[bytes(range(1, 64)), b"\xff\xfe\xfd\xfc", b"A" * 5000], SpecificCharacterSet=["ISO_IR 999"],
        SeriesInstanceUID=[b"", b"../../etc", None], StudyInstanceUID=[None], SOPInstanceUID=[b"", None],
        Modality=[b"", b"\0\0", None], PatientName=[b"\x1b$B\x1b(B^^^==="],
    )),
    "DICOM slices that are all one": ("dicom", _same_everything),
    "DICOM slices that do not belong together": ("dicom", _unlike_slices),
    "DICOM pixels that cannot be unpacked": ("dicom", _unpackable),
    "DICOM headers without end": ("dicom", _endless_header),
    "links in circles, pipes, odd names": ("dicom", _strange_places),
    "zip archives": ("dicom", _archive),
    "DICOMDIR": ("dicom", _directory),
    "wrong endings": ("either", _wrong_ending),
    "NIfTI cut short": ("nifti", _nifti_bytes(_cut)),
    "NIfTI with flipped bytes": ("nifti", _nifti_bytes(_flip)),
    "NIfTI with flipped bytes in its header": ("nifti", _nifti_bytes(lambda d, r: _flip(d, r, 348), True)),
    "NIfTI with a piece missing or twice": ("nifti", _nifti_bytes(_drop_a_piece)),
    "NIfTI without content": ("nifti", _nifti_bytes(_nothing)),
    "NIfTI sizes that lie": ("nifti", _nifti_fields(
        (40, "<h", [-1, 0, 1, 2, 4, 5, 7, 8, 32767]), (42, "<h", [-5, 0, 1, 32767]), (46, "<h", [0, 1, 32767, -32768]),
        (48, "<h", [0, 3, 32767, -1]),
        (40, "<5h", [(5, 20, 24, 18, 7), (2, 20, 24, 1, 1), (4, 32767, 32767, 32767, 2)]),
        (0, "<i", [0, 540, 349, -1]), (108, "<f", [-1.0, 1e30, _NAN, 3.5, 1e6]),
    )),
    "NIfTI places that make no sense": ("nifti", _nifti_fields(
        (280, "<4f", [(_NAN,) * 4, (_INF, 0, 0, 0), (0.0,) * 4]),
        (76, "<4f", [(_NAN,) * 4, (0.0,) * 4, (-1.0, 0, -5, 1e30)]),
        (252, "<2h", [(0, 0), (9, 0), (-1, -1)]), (256, "<3f", [(_NAN,) * 3, (9.0, 9, 9), (_INF, 0, 0)]),
    )),
    "NIfTI types and scales that make no sense": ("nifti", _nifti_fields(
        (70, "<h", [0, 1, 128, 32, 1536, 2304, 999, -4, 16, 64]), (72, "<h", [0, 1, 999]),
        (112, "<2f", [(_NAN, 0), (0, 0), (_INF, 1), (1e38, 1e38), (1, _NAN)]), (123, "<B", [255, 0]),
        (344, "<4s", [b"ni1\0", b"abcd", b"n+2\0", b"\0\0\0\0"]),
    )),
    "NIfTI bombs": ("nifti", _nifti_bomb),
    "NIfTI in strange places": ("nifti", _nifti_place),
}  # fmt: skip


def _make(number: int, folder: Path) -> tuple[str, str, Path]:
    names = list(KINDS)
    name = names[number % len(names)]
    kind, make = KINDS[name]
    return name, kind, make(folder, random.Random(f"{name} {number}"))


# --- one input --------------------------------------------------------------------------------------------------------


def open_dicom(path: Path) -> str:
    """Look at what lies there and convert it; the last sentence that was told, or "opened"."""
    from engine import dicom, nifti
    from engine.errors import UserError
    from engine.progress import Progress
    from engine.volume import Sequence
    from engine.workshop import Workshop

    told = "opened"
    dicom.looks_like_dicom([path])
    with Workshop() as workshop:
        try:
            studies = dicom.look([path], workshop, Progress())
        except UserError as error:
            return str(error)
        for study in studies:
            for series in study.series:
                with contextlib.suppress(UserError):
                    dicom.thumbnail(series)
            # Whatever was found is converted, also what nobody would choose.
            for series in study.series[:4]:
                try:
                    files = dicom.subject_files(study.choosing({Sequence.T2: series}), workshop, Progress())
                    for sequence, converted in files.files.items():
                        nifti.read(converted, index=files.volumes.get(sequence))
                except UserError as error:
                    told = str(error)
    return told


def _open_nifti(path: Path) -> str:
    from engine import nifti
    from engine.errors import UserError

    told = "opened"
    for read in (nifti.read_grid, nifti.count_volumes, nifti.read, nifti.read_label_map):
        try:
            read(path)
        except UserError as error:
            if read is nifti.read:
                told = str(error)
    return told


# Steps that look at images rather than at files, and take seconds each.
_AS_IT_IS = ("--no-align", "--no-strip", "--no-bias")


def _segment(path: Path, out: Path) -> str:
    from app import cli

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(["segment", str(path), "--out", str(out), "--device", "cpu", *_AS_IT_IS])
    if code not in (0, 2):
        raise RuntimeError(f"the command line ended with {code}")
    if "Traceback" in said.getvalue():
        raise RuntimeError("the command line showed a traceback")
    return "segmented" if code == 0 else said.getvalue().strip().splitlines()[-1]


def _listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.is_dir() else []


def _content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {os.fsencode(file).decode("latin-1"): file.read_bytes()[:4096] for file in files if file.is_file()}


def _one(number: int, case: Path) -> dict[str, Any]:
    """Make an input and open it in every way; what came of it."""
    from engine.errors import UserError

    name, kind, path = _make(number, case / "in")
    temporary, out = Path(tempfile.gettempdir()), case / "out"
    before, content = _listed(temporary), _content(case / "in")
    result: dict[str, Any] = {"number": number, "name": name, "crash": "", "told": []}
    began = time.monotonic()
    opened = {"dicom": [open_dicom], "nifti": [_open_nifti], "either": [open_dicom, _open_nifti]}[kind]
    for way in (*opened, lambda path: _segment(path, out)):
        start = time.monotonic()
        try:
            result["told"].append(way(path))
        except UserError as error:
            result["told"].append(str(error))
        except BaseException as error:  # noqa: BLE001  a crash is what is looked for
            result["crash"] += f"{type(error).__name__}: {error}\n{traceback.format_exc()}\n"
        result["slowest"] = max(result.get("slowest", 0.0), time.monotonic() - start)
    result["seconds"] = time.monotonic() - began
    left = sorted(set(_listed(temporary)) - set(before))
    left += [written for written in _listed(out) if not written.endswith(("_seg.nii.gz", "_seg.json"))]
    masks = [written for written in _listed(out) if written.endswith("_seg.nii.gz")]
    left += [mask for mask in masks if not (out / mask.replace(".nii.gz", ".json")).exists()]
    left += ["a changed input"] if _content(case / "in") != content else []
    result["left"] = left
    return result


def _work(folder: Path) -> None:
    """Open what standard input names, one number a line, and print what came of it, one line each."""
    from engine import registry
    from engine.volume import Sequence
    from tests.app import threshold_model

    answers = os.fdopen(os.dup(1), "w")
    # What a library prints must not be taken for an answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    registry.SHIPPED = folder / f"models-{os.getpid()}"
    card = threshold_model.install(registry.SHIPPED, "student-t2", (Sequence.T2,))
    # Coarse, so that what is measured is the opening of files.
    replace(card, spacing_mm=4.0).write(registry.SHIPPED / "student-t2")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        case = folder / f"{int(line):04d}"
        case.mkdir()
        answers.write(json.dumps(_one(int(line), case)) + "\n")
        answers.flush()
        shutil.rmtree(case, ignore_errors=True)


# --- all of them ------------------------------------------------------------------------------------------------------


class _Worker:
    def __init__(self, folder: Path) -> None:
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "scripts.fuzz_inputs", "--work", str(folder)]
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr.txt").open("ab"),
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        self._line()

    def _line(self, seconds: float = 120.0) -> str:
        import select

        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline().decode() if ready else "hang"

    def open(self, number: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n".encode())
        self.process.stdin.flush()
        # An input is opened in up to three ways, each of which may take ten seconds; making it takes time as well.
        line = self._line(6 * HANG_SECONDS)
        if line in ("", "hang"):
            self.process.kill()
            ended = self.process.wait()
            name = list(KINDS)[number % len(KINDS)]
            died = "" if line else f"the process died with {ended}"
            slow = 6 * HANG_SECONDS if line else 0.0
            return {
                "number": number,
                "name": name,
                "crash": died,
                "told": [],
                "left": [],
                "slowest": slow,
                "seconds": slow,
            }
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def _all(numbers: Iterable[int]) -> list[dict[str, Any]]:
    results = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        worker = _Worker(Path(name))
        for number in numbers:
            result = worker.open(number)
            results.append(result)
            if result["crash"] or result["left"] or result["slowest"] > HANG_SECONDS:
                sys.stderr.write(
                    f"{number} {result['name']}: {result['slowest']:.1f} s {result['left']}\n{result['crash']}\n"
                )
            if worker.process.poll() is not None:
                worker = _Worker(Path(name))
        worker.end()
        children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, check=False).stdout.split()
        # pgrep lists itself no more, so whatever is there was left.
        if len(children) > 1:
            sys.stderr.write("a process was left behind\n")
    return results


def _table(results: list[dict[str, Any]]) -> str:
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_name[result["name"]].append(result)
    rows = []
    for name in KINDS:
        ours = by_name.get(name, [])
        if not ours:
            continue
        opened = sum("opened" in result["told"] or "segmented" in result["told"] for result in ours)
        crashes = sum(bool(result["crash"]) for result in ours)
        hangs = sum(result["slowest"] > HANG_SECONDS for result in ours)
        left = sum(bool(result["left"]) for result in ours)
        slowest = max(result["slowest"] for result in ours)
        rows.append((name, len(ours), opened, len(ours) - opened - crashes, crashes, hangs, left, f"{slowest:.1f}"))
    sums = [sum(int(row[column]) for row in rows) for column in range(1, 7)]
    rows.append(("**all**", *sums, f"{max(result['slowest'] for result in results):.1f}"))
    head = (
        "input",
        "inputs",
        "opened",
        "refused in a sentence",
        "crashes",
        "hangs over 10 s",
        "left behind",
        "slowest, s",
    )
    lines = [" | ".join(("", *map(str, row), "")).strip() for row in (head, ("---", *["---:"] * 7), *rows)]
    return "\n".join(lines)


def main() -> None:
    """Open them all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--only", default="", help="numbers of inputs, with commas between")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        _work(arguments.work)
        return
    numbers = [int(number) for number in arguments.only.split(",") if number] or list(range(arguments.count))
    results = _all(numbers)
    table = _table(results)
    sys.stdout.write(table + "\n")
    if arguments.only:
        for result in results:
            sys.stdout.write(json.dumps(result["told"], indent=1) + "\n")
    if arguments.out:
        text = (
            "# Broken inputs\n\n"
            f"{len(results)} inputs made from sound ones by `python -m scripts.fuzz_inputs --out FILE`,\n"
            "each opened by the engine and by `gliascope segment`. Opened means that a volume came out: a flipped\n"
            "byte in a pixel is no damage that anybody could see. Everything else was refused with one sentence.\n\n"
        )
        arguments.out.write_text(f"{text}{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
