"""DICOM in: which series there are, which of them are the four sequences, and those as NIfTI files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.progress import Progress
from engine.sequences import SubjectFiles
from engine.volume import Sequence
from engine.workshop import Workshop

Plane = Literal["axial", "coronal", "sagittal", "oblique"]


@dataclass(frozen=True, eq=False)
class Series:
    """One stack of slices that can become one volume: a series, or one echo, phase or stack of it.

    Attributes:
        key: Names it, the same at every look at the same files; holds nothing from the header.
        number: Series number, 0 where there is none.
        description: What the scanner calls it. Free text that may hold a name: for the screen alone.
        plane: The plane its slices lie in.
        spacing_mm: Between columns, rows and slices.
        shape: Columns, rows, slices.
        images: How many images (files, or frames of one file) it has.
        sequence: What it was recognised as; also told of series that are left out, where it can be.
        sure: How sure that is, 0..1.
        why: What says so, as a clause: ``"TE 100, TR 9000 and TI 2500 ms, and its description says FLAIR"``.
        left_out: Why it is not taken on its own accord: "a scout", "diffusion", ...; empty where nothing speaks
            against it.
        files: In the order of its slices, foot to head, right to left or back to front.
    """

    key: str
    number: int
    description: str
    plane: Plane
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    images: int
    sequence: Sequence | None
    sure: float
    why: str
    left_out: str
    files: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Study:
    """What was scanned of one patient on one day.

    Attributes:
        series: All of them, by number.
        chosen: The series taken for each sequence, in their fixed order.
        doubts: Sentences about what should be looked at before going on.
        notes: Sentences about what was decided and needs no look.
        patient: Who it is and when, for the screen alone; never in a file, a message of an error or a log.
    """

    series: tuple[Series, ...]
    chosen: Mapping[Sequence, Series]
    doubts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    patient: str = field(default="", repr=False)

    def choosing(self, chosen: Mapping[Sequence, Series]) -> Study:
        """The same with other series, as the user chose them; there is nothing to doubt then."""
        return replace(self, chosen={s: chosen[s] for s in Sequence if s in chosen}, doubts=())


@dataclass(frozen=True)
class Converted:
    """A series as a NIfTI file.

    Attributes:
        path: In the workshop; removed with it.
        series: What it was made from, for an output in DICOM.
        index: Which volume of the file, from 0; None where it holds one.
        note: What was decided on the way, as a sentence; empty where nothing was.
    """

    path: Path
    series: Series
    index: int | None = None
    note: str = ""


def looks_like_dicom(paths: Iterable[Path]) -> bool:
    """Whether dropped files or folders are for `look` rather than for `engine.sequences.find_subjects`."""
    raise NotImplementedError


def look(paths: Iterable[Path], workshop: Workshop, progress: Progress) -> list[Study]:
    """Read the headers of all DICOM files there are.

    Raises:
        UnreadableImage: There is no DICOM image, or an archive cannot be read.
        Cancelled: The user asked to stop.
    """
    raise NotImplementedError


def thumbnail(series: Series, size: int = 96) -> NDArray[np.uint8]:
    """The middle slice, ``(h, w)`` at most ``size`` each way, in true proportions.

    Raises:
        UnreadableImage: It cannot be unpacked.
    """
    raise NotImplementedError


def convert(series: Series, workshop: Workshop, progress: Progress) -> Converted:
    """A series as NIfTI; the second time for the same series and workshop the one that is there already.

    Raises:
        UnreadableImage: It cannot be converted.
        Cancelled: The user asked to stop.
    """
    raise NotImplementedError


def subject_files(study: Study, workshop: Workshop, progress: Progress, name: str = "patient") -> SubjectFiles:
    """The chosen series, converted, under a neutral name.

    Raises:
        SequenceProblem: No series is chosen.
        UnreadableImage: One of them cannot be converted.
        Cancelled: The user asked to stop.
    """
    raise NotImplementedError
