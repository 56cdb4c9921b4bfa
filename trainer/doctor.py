"""The data doctor: what is wrong with the patients of a training, and what may be done about it by consent.

Nothing here changes a scan. A repair gives another list of patients, which the manifest keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import sequences
from engine.errors import UserError
from engine.preprocessing import to_canonical
from engine.progress import Progress
from engine.volume import FloatArray, Sequence, in_words
from trainer.patients import Patient, Patients


class Kind(StrEnum):
    """What a finding is about."""

    FILES = "files"
    MISSING = "missing sequences"
    NO_TRUTH = "no truth"
    LABELS = "labels"
    TUMOUR = "tumour"
    OUTSIDE = "mask outside the brain"
    SEQUENCES = "sequences"
    GRIDS = "grids"
    SIDES = "sides"
    TWICE = "twice"
    SKULL = "skull"
    INTENSITIES = "intensities"
    UNREADABLE = "unreadable"

    @property
    def title(self) -> str:  # type: ignore[override]
        """What a table calls it."""
        return {
            Kind.FILES: "Files",
            Kind.MISSING: "Missing sequences",
            Kind.NO_TRUTH: "No ground truth",
            Kind.LABELS: "Labels",
            Kind.TUMOUR: "Tumour",
            Kind.OUTSIDE: "Mask outside the brain",
            Kind.SEQUENCES: "Sequences mixed up",
            Kind.GRIDS: "Grids differ",
            Kind.SIDES: "Left and right",
            Kind.TWICE: "Same patient twice",
            Kind.SKULL: "Skull still on",
            Kind.INTENSITIES: "Intensities",
            Kind.UNREADABLE: "Cannot be read",
        }[self]


class Severity(IntEnum):
    """How much a finding matters."""

    NOTE = 0
    """Good to know; training copes with it."""
    WARNING = 1
    """Should be looked at: training would take it as it is."""
    ERROR = 2
    """Training cannot use the patient until this is decided."""

    @property
    def title(self) -> str:
        """What a table calls it."""
        return self.name.capitalize()


@dataclass(frozen=True)
class Repair:
    """Something that may be done about a finding.

    Attributes:
        key: What `apply` goes by, such as ``"leave out"`` or ``"labels:brats-2023"``; the same for all patients, so
            that a choice may be made for all findings of a kind at once.
        title: The words on the button.
    """

    key: str
    title: str


@dataclass(frozen=True)
class Finding:
    """Something about a patient that a person should know.

    Attributes:
        patient: Whose; empty where it is about the cohort.
        kind: What it is about.
        severity: How much it matters.
        sentence: In words.
        repairs: What may be done, the likeliest first; may be empty.
    """

    patient: str
    kind: Kind
    severity: Severity
    sentence: str
    repairs: tuple[Repair, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a patient's files hold.

    Attributes:
        sequences: Those there are.
        shape: Voxels ``(I, J, K)`` of the images; ``None`` where they cannot be read.
        spacing: Of the images, in mm.
        orientation: Where the array's axes point to, such as ``"LPS"``.
        whole_tumour_ml: In the ground truth; ``None`` where it cannot be told.
        core_ml: The same for the tumour core.
        labels: Values in the file of the truth, background left out.
        source: Where the patient comes from.
    """

    sequences: tuple[Sequence, ...]
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    orientation: str = ""
    whole_tumour_ml: float | None = None
    core_ml: float | None = None
    labels: tuple[int, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class PatientReport:
    """What was found about one patient.

    Attributes:
        name: The patient's.
        facts: What the files hold.
        findings: The gravest first.
        included: Whether the patient is to be used.
    """

    name: str
    facts: Facts
    findings: tuple[Finding, ...] = ()
    included: bool = True

    @property
    def severity(self) -> Severity | None:
        """Of the gravest finding; ``None`` without one."""
        return max((finding.severity for finding in self.findings), default=None)

    @property
    def usable(self) -> bool:
        """Whether a training can learn from this patient as things are."""
        return self.included and self.severity is not Severity.ERROR


@dataclass(frozen=True)
class Report:
    """What was found about a cohort.

    Attributes:
        patients: One for each patient, in the order of their names.
        cohort: What concerns no single patient.
    """

    patients: tuple[PatientReport, ...]
    cohort: tuple[Finding, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them: the cohort's, then each patient's."""
        return (*self.cohort, *(finding for patient in self.patients for finding in patient.findings))

    @property
    def usable(self) -> tuple[str, ...]:
        """Names of the patients that a training can learn from as things are."""
        return tuple(patient.name for patient in self.patients if patient.usable)

    def of(self, name: str) -> PatientReport:
        """What was found about one patient.

        Raises:
            KeyError: There is none of that name.
        """
        return {patient.name: patient for patient in self.patients}[name]

    def to_json(self) -> dict[str, Any]:
        """For scripts: numbers and sentences."""
        return {
            "patients": [
                {
                    "name": patient.name,
                    "included": patient.included,
                    "usable": patient.usable,
                    "sequences": [sequence.value for sequence in patient.facts.sequences],
                    "shape": patient.facts.shape,
                    "spacing_mm": patient.facts.spacing,
                    "orientation": patient.facts.orientation,
                    "whole_tumour_ml": patient.facts.whole_tumour_ml,
                    "core_ml": patient.facts.core_ml,
                    "labels": list(patient.facts.labels),
                    "source": patient.facts.source,
                    "findings": [_finding_record(finding) for finding in patient.findings],
                }
                for patient in self.patients
            ],
            "cohort": [_finding_record(finding) for finding in self.cohort],
        }


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """One axial slice of a patient, to look at.

    Attributes:
        sequences: What ``images`` holds, in order.
        images: ``(S, h, w)`` uint8, black to white within the brain; rows from front to back, columns from the
            patient's right to the left (radiological), square pixels.
        mask: ``(h, w)`` uint8: 0 nothing, 1 tumour core, 2 rest of the whole tumour; all 0 without a truth.
    """

    sequences: tuple[Sequence, ...]
    images: NDArray[np.uint8]
    mask: NDArray[np.uint8]


LEAVE_OUT = Repair("leave out", "Leave this patient out")


def examine(
    patients: Patients, progress: Progress, on_patient: Callable[[PatientReport], None] = lambda report: None
) -> Report:
    """Look at every patient.

    Args:
        patients: Whom to look at, left-out ones too.
        progress: Checked several times a patient, so that a request to stop is followed within a second.
        on_patient: Called on the calling thread for each patient, in the order of their names, as soon as it is looked
            at; and once more in the end for those about whom the comparison with the others told something.

    Raises:
        Cancelled: Asked to stop.
    """
    everywhere = {sequence for patient in patients.patients for sequence in patient.files}
    reports = []
    for number, patient in enumerate(patients.patients):
        progress.update(number / len(patients), f"looking at {patient.name}")
        findings = tuple(_about_files(patient, everywhere))
        reports.append(
            PatientReport(
                patient.name, Facts(patient.sequences, source=patient.source), findings, included=patient.included
            )
        )
        on_patient(reports[-1])
    return Report(tuple(reports))


def apply(patients: Patients, finding: Finding, repair: Repair) -> Patients:
    """The patients after a repair; the files stay as they are.

    Args:
        patients: Before it.
        finding: What is to be mended.
        repair: One of its repairs.

    Raises:
        ValueError: The finding does not offer this repair.
    """
    if repair not in finding.repairs:
        raise ValueError(f"{finding.kind.title} of {finding.patient} offers no {repair.key}")
    patient = patients.named(finding.patient)
    return patients.with_patient(_repaired(patient, repair))


def thumbnail(patient: Patient, progress: Progress) -> Thumbnail:
    """The axial slice on which the tumour is largest; the middle one where no truth can be read.

    Images on different grids are brought together for the picture alone.

    Raises:
        UserError: The images cannot be read.
        Cancelled: Asked to stop.
    """
    subject = sequences.load(patient.subject_files, resample=True, progress=progress.part(0.0, 0.8))
    grid = subject.grid
    labels = np.zeros(grid.shape, np.uint8)
    # A truth that cannot be read is a finding of its own; the images are worth looking at all the same.
    with suppress(UserError):
        labels = replace(patient, onto_first=True).read_truth(subject).data
    progress.update(0.9, f"drawing {patient.name}")
    axes, signs = grid.nearest_axes()
    turned = to_canonical(labels, axes, signs)
    areas = np.count_nonzero(turned, axis=(0, 1))
    at = int(areas.argmax()) if areas.any() else turned.shape[2] // 2
    sizes = [grid.spacing[axes.index(world)] for world in (0, 1)]

    def seen(data: NDArray[Any]) -> NDArray[Any]:
        # Columns from the patient's right, rows from the front; the nearest voxel of each square pixel.
        picture = to_canonical(data, axes, signs)[::-1, ::-1, at].T
        step = min(sizes)
        across, down = (
            np.minimum((np.arange(round(n * size / step)) * step / size).astype(int), n - 1)
            for n, size in zip(picture.shape[::-1], sizes, strict=True)
        )
        return np.ascontiguousarray(picture[np.ix_(down, across)])

    images = []
    for volume in subject.values():
        low, high = _window(volume.data)
        grey = np.clip((seen(volume.data) - low) / (high - low), 0, 1) * 255
        images.append(np.rint(grey).astype(np.uint8))
    return Thumbnail(tuple(subject), np.stack(images), seen(labels))


def _window(data: FloatArray) -> tuple[float, float]:
    """What is shown black and white: the darkest voxel, and the 99.5th percentile of what is brighter."""
    sample = data[::3, ::3, ::3]
    darkest = float(sample.min())
    brighter = sample[sample > darkest]
    white = float(np.percentile(brighter, 99.5)) if brighter.size else darkest + 1
    return darkest, max(white, darkest + 1e-6)


def _repaired(patient: Patient, repair: Repair) -> Patient:
    if repair == LEAVE_OUT:
        return replace(patient, included=False, decisions=(*patient.decisions, "Left out."))
    raise ValueError(f"there is no repair {repair.key}")


def _about_files(patient: Patient, everywhere: Iterable[Sequence]) -> list[Finding]:
    findings = []
    missing = [sequence for sequence in everywhere if sequence not in patient.files]
    if missing:
        sentence = f"{patient.name} has no {in_words(missing)}."
        findings.append(Finding(patient.name, Kind.MISSING, Severity.NOTE, sentence, (LEAVE_OUT,)))
    if patient.truth is None:
        sentence = f"{patient.name} has no ground truth."
        findings.append(Finding(patient.name, Kind.NO_TRUTH, Severity.ERROR, sentence, (LEAVE_OUT,)))
    return sorted(findings, key=lambda finding: -finding.severity)


def _finding_record(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "severity": finding.severity.name.lower(),
        "sentence": finding.sentence,
        "repairs": [{"key": repair.key, "title": repair.title} for repair in finding.repairs],
    }
