"""Made-up DICOM: an examination of a head that nobody has, written as scanners write it.

The head is that of `tests.engine.phantoms`, ten times as large, so a voxel has a known value at a known place of the
world whichever way the slices lie. Names are those of nobody and stand wherever a name can stand, so that tests can
look for them in what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from engine.volume import Grid
from tests.engine import phantoms

NAME, IDENTITY, INSTITUTION = "Mustermann^Erika", "PID-4711-SECRET", "Klinikum Nirgendwo"
SECRETS = ("Mustermann", "Erika", "4711", "Nirgendwo", "19560312")

MR, ENHANCED_MR, SECONDARY, REPORT = (
    "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.88.11",
)  # fmt: skip

_AXES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIR"}
_SCALE = 8.0


@dataclass
class Kind:
    """The settings of a series as a protocol has them."""

    description: str
    te: float | None = 10.0
    tr: float | None = 500.0
    ti: float | None = None
    flip: float | None = 90.0
    scanning: str = "SE"
    variant: str = "SK"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND")
    agent: str | None = None
    modality: str = "MR"
    b_value: float | None = None
    body_part: str = "HEAD"
    sop_class: str = MR


T1 = Kind("t1_se_tra", 9, 500)
T1_3D = Kind("t1_mprage_sag_p2_iso", 2.9, 2300, 900, 9, "GR\\IR", "SP\\MP")
T1CE_3D = Kind("t1_mprage_sag_p2_iso_KM", 2.9, 2300, 900, 9, "GR\\IR", "SP\\MP", agent="Gadovist")
T2 = Kind("t2_tse_tra_512", 95, 4500, None, 150)
FLAIR = Kind("t2_tirm_tra_dark-fluid", 90, 9000, 2500, 150, "SE\\IR")
SCOUT = Kind("localizer", 5, 20, None, 40, "GR", "SP", ("ORIGINAL", "PRIMARY", "M", "LOCALIZER"))
DWI = Kind(
    "ep2d_diff_3scan_trace", 90, 5000, None, 90, "EP", "SK", ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"), b_value=1000
)
ADC = Kind("ep2d_diff_3scan_trace_ADC", 90, 5000, None, 90, "EP", "SK", ("DERIVED", "PRIMARY", "DIFFUSION", "ADC"))
SWI = Kind("SWI_Images", 20, 27, None, 15, "GR", "SP")
TOF = Kind("TOF_3D_multi-slab", 3.6, 21, None, 18, "GR", "SP")
PERFUSION = Kind("ep2d_perf_DSC", 30, 1500, None, 90, "EP", "SK", agent="Gadovist")
MPR = Kind("t1_mprage KM MPR tra", 2.9, 2300, 900, 9, "GR\\IR", "SP\\MP", ("DERIVED", "SECONDARY", "MPR"), "Gadovist")


def grid(
    plane: str = "axial",
    spacing: tuple[float, float, float] = (8.0, 8.0, 8.0),
    oblique: tuple[float, float, float] = (0.0, 0.0, 0.0),
    slices: int | None = None,
) -> Grid:
    """A grid around the head: columns, rows and slices as a scanner lays them, affine in RAS+ and mm."""
    letters = _AXES[plane]
    # Right, front and up, as phantoms.grid takes them.
    size = {"R": 192.0, "A": 224.0, "S": 160.0}
    along = {
        {"L": "R", "P": "A", "I": "S"}.get(letter, letter): step for letter, step in zip(letters, spacing, strict=True)
    }
    shape = tuple(max(2, round(size[axis] / along[axis])) for axis in "RAS")
    made = phantoms.grid(letters, shape, (along["R"], along["A"], along["S"]), oblique)  # type: ignore[arg-type]
    if slices is None:
        return made
    affine = made.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (made.shape[2] - slices) / 2
    return Grid((made.shape[0], made.shape[1], slices), affine)


def voxels(on: Grid) -> NDArray[np.uint16]:
    """The head on a grid, ``(columns, rows, slices)``."""
    middle = np.array((3.0, -5.0, 7.0))
    shrink = np.diag([1 / _SCALE, 1 / _SCALE, 1 / _SCALE, 1.0])
    shrink[:3, 3] = middle - middle / _SCALE
    small = phantoms.head(Grid(on.shape, shrink @ on.affine), None)
    return np.clip(small.data, 0, 4000).astype(np.uint16)


@dataclass
class Examination:
    """Where series are written to, all of one study.

    Attributes:
        folder: Gets the files.
        flat: Whether all files lie in one folder, under numbers alone.
    """

    folder: Path
    name: str = NAME
    identity: str = IDENTITY
    date: str = "20240131"
    flat: bool = False

    def __post_init__(self) -> None:
        self.study = generate_uid(entropy_srcs=[self.identity, self.date])
        self.frame_of_reference = generate_uid(entropy_srcs=[self.identity, "frame"])
        self.files = 0

    def series(
        self,
        kind: Kind,
        number: int,
        on: Grid | None = None,
        minute: int | None = None,
        echoes: Ordered[float] = (),
        times: int = 1,
        without: Ordered[int] = (),
        implicit: bool = False,
        bare: bool = False,
        **more: Any,
    ) -> list[Path]:
        """Write a series of one image a file.

        Args:
            kind: Its settings.
            number: Of the series.
            on: Where its slices lie.
            minute: When it was measured, after 10 o'clock; its number when not given.
            echoes: Echo times, where each slice was measured at several.
            times: How often each slice was measured.
            without: Slices that are not written.
            implicit: Whether types are left out of the file.
            bare: Whether the preamble is left out, as early scanners did.
            more: Values by name, in place of those made here.
        """
        on = on or grid()
        data = voxels(on)
        uid = more.pop("SeriesInstanceUID", f"{self.study[:40]}.{number}")
        written = []
        for time_point in range(times):
            for echo_number, te in enumerate(echoes or (kind.te,), 1):
                began = 60 * (number if minute is None else minute) + time_point
                dataset = self._dataset(kind, number, uid, began)
                dataset.AcquisitionNumber = time_point + 1
                if times > 1:
                    dataset.TemporalPositionIdentifier = time_point + 1
                if te is not None:
                    dataset.EchoTime, dataset.EchoNumbers = te, echo_number
                for name, value in more.items():
                    setattr(dataset, name, value)
                for at in range(on.shape[2]):
                    if at in without:
                        continue
                    dataset.SOPInstanceUID = f"{uid}.{time_point}.{echo_number}.{at}"
                    dataset.InstanceNumber = at + 1 + on.shape[2] * (echo_number - 1 + time_point * max(1, len(echoes)))
                    _place(dataset, on, at)
                    _pixels(dataset, (data[:, :, at] // echo_number + time_point).T)
                    written.append(self._write(dataset, number, implicit, bare))
        return written

    def enhanced(self, kind: Kind, number: int, on: Grid | None = None, echoes: Ordered[float] = ()) -> Path:
        """Write a series as one file with a frame for each slice."""
        on = on or grid()
        data = voxels(on)
        dataset = self._dataset(kind, number, generate_uid(entropy_srcs=[self.study, str(number)]), 60 * number)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ENHANCED_MR
        for name in ("EchoTime", "RepetitionTime", "FlipAngle", "InversionTime", "ScanningSequence", "SequenceVariant"):
            if name in dataset:
                del dataset[name]
        dataset.EchoPulseSequence = "GRADIENT" if "GR" in kind.scanning else "SPIN"
        dataset.InversionRecovery = "YES" if kind.ti else "NO"
        dataset.InstanceNumber = 1
        if "ContrastBolusAgent" in dataset:
            del dataset.ContrastBolusAgent
            dataset.ContrastBolusAgentSequence = Items([_of(ContrastBolusAgentNumber=1)])
        first = Dataset()
        _place(first, on, 0)
        common = Dataset()
        common.PlaneOrientationSequence = Items([_of(ImageOrientationPatient=first.ImageOrientationPatient)])
        common.PixelMeasuresSequence = Items(
            [_of(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)]
        )
        common.MRTimingAndRelatedParametersSequence = Items([_of(RepetitionTime=kind.tr, FlipAngle=kind.flip)])
        if kind.ti:
            common.MRModifierSequence = Items([_of(InversionTimes=[kind.ti])])
        common.MRImageFrameTypeSequence = Items(
            [_of(FrameType=list(kind.image_type), ComplexImageComponent="MAGNITUDE")]
        )
        dataset.SharedFunctionalGroupsSequence = Items([common])
        frames, pictures = [], []
        for number_of_echo, te in enumerate(echoes or (kind.te,), 1):
            for at in range(on.shape[2]):
                frame, place = Dataset(), Dataset()
                _place(place, on, at)
                frame.PlanePositionSequence = Items([_of(ImagePositionPatient=place.ImagePositionPatient)])
                frame.MREchoSequence = Items([_of(EffectiveEchoTime=te)])
                frame.FrameContentSequence = Items(
                    [_of(StackID="1", InStackPositionNumber=at + 1, DimensionIndexValues=[1, at + 1, number_of_echo])]
                )
                frames.append(frame)
                pictures.append((data[:, :, at] // number_of_echo).T)
        dataset.PerFrameFunctionalGroupsSequence = Items(frames)
        dataset.NumberOfFrames = len(frames)
        _pixels(dataset, np.stack(pictures))
        return self._write(dataset, number, False, False)

    def other(self, number: int, sop_class: str = REPORT) -> Path:
        """Write a file that is DICOM and no image."""
        dataset = self._dataset(Kind("report", modality="SR", sop_class=sop_class), number, generate_uid(), 0)
        return self._write(dataset, number, False, False)

    def _dataset(self, kind: Kind, number: int, uid: str, second: int) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = kind.sop_class
        dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        dataset.SOPClassUID, dataset.SOPInstanceUID = kind.sop_class, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study, uid
        dataset.FrameOfReferenceUID = self.frame_of_reference
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = self.name, self.identity, "19560312"
        dataset.InstitutionName, dataset.StudyID = INSTITUTION, "1"
        dataset.ReferringPhysicianName = self.name
        dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = self.date
        time = f"10{second // 60 % 60:02d}{second % 60:02d}"
        dataset.StudyTime, dataset.AcquisitionTime, dataset.SeriesTime, dataset.ContentTime = "100000", time, time, time
        dataset.Modality, dataset.Manufacturer = kind.modality, "SIEMENS"
        dataset.SeriesNumber, dataset.SeriesDescription, dataset.ProtocolName = (
            number,
            kind.description,
            kind.description,
        )
        dataset.ImageType = list(kind.image_type)
        dataset.BodyPartExamined, dataset.PatientPosition = kind.body_part, "HFS"
        if kind.modality == "MR":
            dataset.ScanningSequence, dataset.SequenceVariant = kind.scanning.split("\\"), kind.variant.split("\\")
            dataset.ScanOptions, dataset.MRAcquisitionType = "", "2D"
        values = {
            "RepetitionTime": kind.tr,
            "InversionTime": kind.ti,
            "FlipAngle": kind.flip,
            "DiffusionBValue": kind.b_value,
            "ContrastBolusAgent": kind.agent,
        }
        for name, value in values.items():
            if value is not None:
                setattr(dataset, name, value)
        return dataset

    def _write(self, dataset: FileDataset, number: int, implicit: bool, bare: bool) -> Path:
        self.files += 1
        folder = self.folder if self.flat else self.folder / f"{self.name.split('^')[0]}" / f"{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (f"{self.files:05d}" if self.flat else f"IM{self.files:05d}.dcm")
        meta = dataset.file_meta
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit or bare else ExplicitVRLittleEndian
        if bare:
            dataset.file_meta, dataset.preamble = FileMetaDataset(), None
            dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
            dataset.file_meta, dataset.preamble = meta, bytes(128)
        else:
            dataset.save_as(path, enforce_file_format=True)
        return path


def twelve_series(folder: Path, flat: bool = False) -> Examination:
    """A whole examination of a tumour: the four sequences among what else is measured."""
    made = Examination(folder, flat=flat)
    thick = grid(spacing=(8, 8, 8))
    sagittal = grid("sagittal", (8, 8, 6))
    made.series(SCOUT, 1, grid(slices=3))
    made.series(T1_3D, 2, sagittal)
    made.series(T2, 3, thick)
    made.series(FLAIR, 4, thick)
    made.series(DWI, 5, thick)
    made.series(ADC, 6, thick)
    made.series(SWI, 7, grid(spacing=(8, 8, 5)))
    made.series(TOF, 8, grid(spacing=(8, 8, 5), slices=24))
    made.series(PERFUSION, 9, thick, times=5)
    made.series(Kind("t2_tse_cor", 100, 5000, None, 150), 10, grid("coronal", (8, 8, 8)), ContrastBolusAgent="Gadovist")
    made.series(T1CE_3D, 11, sagittal)
    made.series(MPR, 12, grid(spacing=(8, 8, 5)))
    return made


def _of(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _place(dataset: Dataset, on: Grid, at: int) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ on.affine  # DICOM's x goes to the left, its y to the back
    across, down, step = on.spacing
    dataset.ImageOrientationPatient = [round(float(n), 9) for n in (*affine[:3, 0] / across, *affine[:3, 1] / down)]
    dataset.ImagePositionPatient = [round(float(n), 6) for n in (affine @ (0, 0, at, 1))[:3]]
    dataset.PixelSpacing = [round(down, 6), round(across, 6)]
    dataset.SliceThickness = round(step, 6)


def _pixels(dataset: Dataset, picture: NDArray[np.uint16]) -> None:
    dataset.Rows, dataset.Columns = picture.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = np.ascontiguousarray(picture, "<u2").tobytes()
