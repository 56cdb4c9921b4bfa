"""DICOM out: a result as a DICOM Segmentation, on the slices of the very series that it was drawn on.

The one output that says who the patient is. An archive files a segmentation under the patient and study that its header
names, so these are taken over from the headers of the series, and only when somebody asked for this file.

What else a header says is not passed on. The image that highdicom is given as the source is put together here from
what was read and checked already, so an odd value of a scanner can neither stop the writing nor make the result odd.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine import dicom_files
from engine.dicom import Series
from engine.dicom_files import Image
from engine.errors import CannotWrite, UnreadableImage, UserError
from engine.files import shown, whole_file
from engine.model_card import RESEARCH_USE, TUMOUR_CORE, WHOLE_TUMOUR
from engine.volume import LabelMap, Mask

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from engine.inference import Segmentation

CARRIES_IDENTITY = (
    "A DICOM segmentation carries the patient's name, number and date of birth, so that an archive files it under the "
    "patient."
)

# DICOM's x goes to the left and its y to the back, those of a grid to the right and the front.
_LPS = np.array([-1.0, -1.0, 1.0])
_EXPLICIT = "1.2.840.10008.1.2.1"
_UTF_8 = "ISO_IR 192"
# What files an object under a patient and a study; nothing of how or where the scan was made.
_WHOSE = (
    "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "AccessionNumber",
)  # fmt: skip
_WHOSE_NAME = ("PatientName", "ReferringPhysicianName", "StudyDescription")
_LONGEST = {"LO": 64, "SH": 16, "PN": 194, "CS": 16, "DA": 8, "TM": 14, "UI": 64}
# So high that no series of a scanner has it.
_SERIES_NUMBERS = 9000
# How far from the middle of a voxel, in voxels, the place of a pixel may be to be that voxel.
_SAME_VOXEL = 0.05


@dataclass(frozen=True)
class _Segment:
    region: str
    label: str
    code: str  # of pydicom's dictionary of SNOMED CT
    colour: tuple[int, int, int]


# Oedema is no neoplasm: what holds it too is a lesion.
_SEGMENTS = (
    _Segment(WHOLE_TUMOUR, "Whole tumour", "Lesion", (0x56, 0xB4, 0xE9)),
    _Segment(TUMOUR_CORE, "Tumour core", "Neoplasm", (0xE6, 0x9F, 0x00)),
)


@dataclass(frozen=True)
class Written:
    """A DICOM segmentation.

    Attributes:
        path: The file.
        series: The series whose slices it lies on.
        exact: Whether each of its pixels is a voxel of the mask; otherwise the nearest was taken, because the slices
            had been straightened or filled in for the mask.
        note: That as a sentence; empty where it is exact.
    """

    path: Path
    series: Series
    exact: bool
    note: str = ""


def write(segmentation: Segmentation, mask: LabelMap, series: Series, path: Path) -> Written:
    """Write a result as a DICOM Segmentation with one segment for the whole tumour and one for its core.

    The file is read back, and its pixels are compared, before it gets its name.

    Args:
        segmentation: Which model made it, and whether it was corrected.
        mask: The result on the grid of the NIfTI file that the series was converted to.
        series: The series; its files are read again for the patient and the study.
        path: Where to write; a file of that name is replaced.

    Raises:
        UnreadableImage: The files of the series are not there any more, or changed.
        CannotWrite: Nothing was written, and nothing is left behind.
        UserError: What writes it is not installed.
    """
    slices = series.slices
    if not slices or any(s.position is None or s.directions is None or s.spacing is None for s in slices):
        raise CannotWrite(
            f"No DICOM segmentation of {series.title} can be made", "its header does not say where its slices lie", ""
        )
    labels, exact = on_slices(mask, slices)
    regions = np.stack([labels > 0, labels == 1], axis=-1)
    dataset = _dataset(segmentation, regions, series)

    def same(partial: Path) -> None:
        if not np.array_equal(read(partial, slices), regions):
            raise CannotWrite(
                f"{shown(path)} was not stored as it should be",
                "reading it back gave something else",
                "The disk may be failing; choose another folder.",
            )

    with whole_file(path, check=same) as partial:
        dataset.save_as(partial, enforce_file_format=True)
    note = "" if exact else f"In the DICOM segmentation, pixels of {series.title} have the nearest voxel of the mask."
    return Written(path, series, exact, note)


def on_slices(mask: LabelMap, slices: Iterable[Image]) -> tuple[NDArray[np.uint8], bool]:
    """The labels of a mask at the pixels of slices.

    Args:
        mask: On any grid; RAS+.
        slices: With a place in space; LPS.

    Returns:
        ``(slices, rows, columns)``, and whether every pixel is the middle of a voxel. Pixels outside the grid are 0.
    """
    labels, exact = [], True
    for image in slices:
        position, directions, spacing = image.position, image.directions, image.spacing
        assert position is not None
        assert directions is not None
        assert spacing is not None
        along = np.stack([np.array(directions[:3]) * spacing[0], np.array(directions[3:]) * spacing[1]])
        corners = np.vstack([np.zeros(3), along]) + np.array(position)
        first, *next_ones = mask.grid.to_voxel(corners * _LPS)
        across, down = (one - first for one in next_ones)
        inside: Mask = np.ones((image.rows, image.columns), bool)
        nearest = []
        for axis, size in enumerate(mask.grid.shape):
            voxels = (
                first[axis] + (down[axis] * np.arange(image.rows))[:, None] + across[axis] * np.arange(image.columns)
            )
            whole = np.rint(voxels)
            exact = exact and float(np.abs(voxels - whole).max()) <= _SAME_VOXEL
            inside &= (whole >= 0) & (whole < size)
            nearest.append(np.clip(whole, 0, size - 1).astype(np.intp))
        exact = exact and bool(inside.all())
        labels.append(mask.data[nearest[0], nearest[1], nearest[2]] * inside)
    return np.stack(labels), exact


def read(path: Path, slices: Iterable[Image]) -> Mask:
    """The segments of a DICOM Segmentation at slices, ``(slices, rows, columns, segments)``; empty ones are not stored.

    Decoded here from the bits of the file, not by what wrote them.

    Raises:
        OSError: The file cannot be read.
    """
    from pydicom import dcmread

    dataset = dcmread(path)
    slices = list(slices)
    count = len(dataset.SegmentSequence)
    found = np.zeros((len(slices), dataset.Rows, dataset.Columns, count), bool)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    size = dataset.Rows * dataset.Columns
    places = np.array([image.position for image in slices])
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        place = np.array([float(n) for n in frame.PlanePositionSequence[0].ImagePositionPatient])
        at = int(np.linalg.norm(places - place, axis=1).argmin())
        segment = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber) - 1
        found[at, ..., segment] = bits[number * size : (number + 1) * size].reshape(dataset.Rows, dataset.Columns)
    return found


def _dataset(segmentation: Segmentation, regions: Mask, series: Series) -> Dataset:
    from engine.provenance import version

    with warnings.catch_warnings():
        # highdicom warns of what is usual in names; nobody at a terminal can change it.
        warnings.simplefilter("ignore")
        try:
            import highdicom
        except ImportError as error:  # one of the packages it needs has none ready-made for the newest Pythons
            raise UserError(
                "DICOM segmentations cannot be written with this Python",
                "highdicom is not installed for it",
                "Use Python 3.11 to 3.13.",
            ) from error
        from highdicom.color import CIELabColor
        from highdicom.content import AlgorithmIdentificationSequence
        from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
        from pydicom.sr.codedict import codes
        from pydicom.uid import generate_uid

        card = segmentation.card
        by_hand = segmentation.edited_by_hand > 0
        algorithm = AlgorithmIdentificationSequence(
            name=_text(f"Gliascope {card.name}", "LO"),
            family=codes.DCM.ArtificialIntelligence,
            version=_text(card.version, "LO"),
            source="Gliascope",
            parameters={
                "title": card.title,
                "sha256": card.fingerprint,
                "sequences": "+".join(segmentation.used),
                "corrections by hand": str(segmentation.edited_by_hand),
            },
        )
        descriptions = [
            SegmentDescription(
                segment_number=number,
                segment_label=segment.label,
                segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
                segmented_property_type=getattr(codes.SCT, segment.code),
                algorithm_type=(
                    SegmentAlgorithmTypeValues.SEMIAUTOMATIC if by_hand else SegmentAlgorithmTypeValues.AUTOMATIC
                ),
                algorithm_identification=algorithm,
                anatomic_regions=[codes.SCT.Brain],
                tracking_uid=generate_uid(),
                tracking_id=f"{segment.label} 1",
                display_color=CIELabColor.from_rgb(*segment.colour),
            )
            for number, segment in enumerate(_SEGMENTS, 1)
        ]
        edited = f", {segmentation.edited_words[0].lower()}{segmentation.edited_words[1:]}" if by_hand else ""
        made = highdicom.seg.Segmentation(
            source_images=_sources(series),
            pixel_array=regions,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=_SERIES_NUMBERS + max(0, series.number) % 1_000_000,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="Gliascope",
            manufacturer_model_name="Gliascope",
            software_versions=_text(version(), "LO"),
            # The standard asks for one, and what acts here is a model.
            device_serial_number=card.fingerprint[:16],
            content_label="TUMOUR",
            content_description=_text(f"Tumour outlined by Gliascope{edited}".rstrip("."), "LO"),
            series_description="Gliascope tumour, research use only",
            specific_character_set=_UTF_8,
            omit_empty_frames=bool(regions.any()),
        )
        made.BodyPartExamined = "BRAIN"
        made.SeriesDate, made.SeriesTime = made.ContentDate, made.ContentTime
        made.ImageComments = RESEARCH_USE
        for segment in made.SegmentSequence:
            segment.SegmentDescription = _what(segment.SegmentNumber)
        _name_frames(made, series)
    return made


def _what(number: int) -> str:
    return (
        "All that is tumour or the oedema around it. Research use only."
        if number == 1
        else "What is tumour without the oedema around it. Research use only."
    )


def _sources(series: Series) -> list[Dataset]:
    """The slices of a series as images without pixels, whose headers say what a segmentation takes over."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    first = _header(series.slices[0], series)
    whose = _whose(first)
    frame_of_reference = str(first.get("FrameOfReferenceUID", "") or "")
    if not frame_of_reference:
        # Those who left it out gave each series a space of its own.
        frame_of_reference = str(generate_uid(entropy_srcs=[whose.StudyInstanceUID, series.slices[0].series_uid]))
    uids = _uids(series)

    def made(uid: str) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(_EXPLICIT)
        dataset.update(whose)
        dataset.SOPClassUID, dataset.SOPInstanceUID = first.SOPClassUID, UID(uid)
        dataset.SeriesInstanceUID = series.slices[0].series_uid
        dataset.Modality = "MR"
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame_of_reference, None
        dataset.Rows, dataset.Columns = series.slices[0].rows, series.slices[0].columns
        return dataset

    if series.slices[0].frame is None:
        sources = []
        for image, uid in zip(series.slices, uids, strict=True):
            dataset = made(uid)
            dataset.update(_place(image))
            dataset.update(_directions(series))
            dataset.update(_spacing(series))
            sources.append(dataset)
        return sources
    dataset = made(uids[0])
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [_directions(series)], [_spacing(series)]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for image in series.slices:
        frame = Dataset()
        frame.PlanePositionSequence = [_place(image)]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.NumberOfFrames = len(frames)
    return [dataset]


def _header(image: Image, series: Series) -> Dataset:
    try:
        header = dicom_files.header(image.path)
    except UnreadableImage as error:
        raise UnreadableImage(
            f"The DICOM files of {series.title} cannot be read any more", "", "Open the examination again."
        ) from error
    if str(header.get("SOPInstanceUID", "")) != image.uid or not str(header.get("SOPClassUID", "")):
        raise UnreadableImage(
            f"The DICOM files of {series.title} are not what they were", "", "Open the examination again."
        )
    return header


def _uids(series: Series) -> list[str]:
    uids = [image.uid for image in series.slices]
    if (series.slices[0].frame is None and len(set(uids)) < len(uids)) or not all(uids):
        raise CannotWrite(
            f"No DICOM segmentation of {series.title} can be made",
            "its images do not have numbers of their own that it could refer to",
            "Export the series again from its source.",
        )
    return uids


def _whose(header: Dataset) -> Dataset:
    """Patient and study of a header, with what is no valid value left empty, as the standard allows."""
    from pydicom.datadict import dictionary_VR
    from pydicom.dataset import Dataset

    whose = Dataset()
    # The rest of a header is converted by its own character set, so text has to be taken as text.
    for keyword in (*_WHOSE, *_WHOSE_NAME):
        kind = dictionary_VR(keyword)
        value: Any = header.get(keyword, "")
        text = "" if value is None else str(value)
        if keyword == "PatientSex" and text not in ("M", "F", "O"):
            text = ""
        if kind == "DA" and not (len(text) == 8 and text.isdigit()):
            text = ""
        if kind == "TM" and not text.replace(".", "", 1).isdigit():
            text = ""
        setattr(whose, keyword, _text(text, kind))
    for keyword in ("IssuerOfPatientID", "StudyDescription"):
        if not getattr(whose, keyword):
            delattr(whose, keyword)
    return whose


def _text(value: str, kind: str) -> str:
    """What a value of a kind can hold: one value, no control characters, no longer than allowed."""
    plain = "".join(" " if ord(c) < 32 or c == "\\" else c for c in value).strip()
    return plain[: _LONGEST[kind]].strip()


def _number(value: float) -> str:
    """As a decimal string, which has room for 16 characters."""
    for digits in range(15, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return "0"


def _place(image: Image) -> Dataset:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.ImagePositionPatient = [_number(n) for n in image.position or ()]
    return dataset


def _directions(series: Series) -> Dataset:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.ImageOrientationPatient = [_number(n) for n in series.slices[0].directions or ()]
    return dataset


def _spacing(series: Series) -> Dataset:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    across, down = series.slices[0].spacing or (1.0, 1.0)
    dataset.PixelSpacing = [_number(down), _number(across)]
    dataset.SliceThickness = _number(series.slices[0].thickness or series.spacing_mm[2] or 1.0)
    return dataset


def _name_frames(made: Dataset, series: Series) -> None:
    """Refer to the frames of the file itself: what was given as the source holds those of the series alone."""
    if series.slices[0].frame is None:
        return
    # Frames of both segments may share what they refer to, which must be renamed once.
    references = {
        id(source): source
        for frame in made.PerFrameFunctionalGroupsSequence
        for derivation in frame.get("DerivationImageSequence", ())
        for source in derivation.SourceImageSequence
    }
    for source in references.values():
        place = series.slices[int(source.ReferencedFrameNumber) - 1].frame
        assert place is not None
        source.ReferencedFrameNumber = place + 1
