"""The data doctor: what is wrong with the patients of a training, and what may be done about it by consent.

Nothing here changes a scan. A repair gives another list of patients, which the manifest keeps.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from itertools import islice, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import nifti, sequences
from engine.errors import NotFinite, SequenceProblem, UserError
from engine.nifti import Convention
from engine.preprocessing import background, to_canonical
from engine.progress import Progress
from engine.volume import (
    LARGEST_BRAIN_ML,
    REST_OF_WHOLE_TUMOUR,
    TUMOUR_CORE,
    FloatArray,
    LabelMap,
    Sequence,
    Subject,
    bounding_box,
    in_order,
    in_words,
)
from trainer.evidence import Evidence, Greys, Looks, gather, likeness, outer_faces
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
    _looked: Mapping[str, _Looked] = field(default_factory=dict, repr=False, compare=False)

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
ONTO_FIRST = Repair("onto first", "Bring all onto the grid of the finest image")

# Pieces under 1 ml are removed from every result, so a tumour of less could never be found.
TINY_ML = 1.0
# A glioma of half the brain is a mask of something else.
MOST_OF_BRAIN = 0.5
# In 40 patients of BraTS 2018 and 2021 the most was 0.0001.
OUTSIDE, FAR_OUTSIDE = 0.02, 0.5
# Mean likeness over the sequences that two share: at most 0.66 between two of these 40, at least 0.87 between a
# patient and itself shifted, blurred, resampled, rescaled or brightened on one side. Of one sequence alone: at most
# 0.79, and at least 0.80. Heads with their skulls on resemble each other more: up to 0.93 of two FLAIR scans with thick
# slices.
SAME_PATIENT, SAME_PATIENT_BY_ONE, SAME_WITH_SKULL = 0.78, 0.84, 0.97
# A copy has 1.
SAME_IMAGE = 0.99
# In spreads of the brain: the mirrored place stood out less by 0.34 or more in every one of these 40.
WRONG_SIDE = 0.25
# Difference of correlations: at most -0.05 there.
MIRRORED = 0.03
# Logarithm of how many times likelier another order of the sequences is: below 0 in every one of these 40; above 6 in
# 39 or all 40 when T1, T2 and FLAIR were exchanged, in 29 when T1 and T1ce were: the others took little contrast up.
MIXED_UP = 6.0
FEWEST_LEVELS = 12
HOTTEST = 30.0
LEAST_COVERED = 0.7
# Fewer others tell nothing about what is usual.
FEWEST_OTHERS = 5

# Mean and spread over these 40 patients of what `evidence.Looks` measures.
_ALIKE = {
    (Sequence.T1, Sequence.T1CE): (0.74, 0.12),
    (Sequence.T1, Sequence.T2): (-0.47, 0.31),
    (Sequence.T1, Sequence.FLAIR): (0.17, 0.28),
    (Sequence.T1CE, Sequence.T2): (-0.37, 0.27),
    (Sequence.T1CE, Sequence.FLAIR): (0.07, 0.29),
    (Sequence.T2, Sequence.FLAIR): (0.24, 0.20),
}
_SINGLE = {
    Sequence.T1: ((1.08, 0.13), (-1.49, 0.16), (1.30, 0.18), (-0.22, 0.44), (0.17, 0.63)),
    Sequence.T1CE: ((1.18, 0.13), (-1.50, 0.17), (1.88, 0.47), (-0.09, 0.66), (1.84, 0.96)),
    Sequence.T2: ((1.75, 0.19), (-0.97, 0.23), (2.39, 0.28), (1.46, 0.51), (2.11, 0.46)),
    Sequence.FLAIR: ((1.25, 0.15), (-1.62, 0.23), (1.62, 0.23), (2.07, 0.49), (2.54, 0.51)),
}
# No single measure decides, however odd it is.
_ODDEST = 25.0

Order = tuple[tuple[Sequence, Sequence], ...]
"""Which sequence each file is called and which it may be instead, where the two differ."""


def examine(
    patients: Patients,
    progress: Progress,
    on_patient: Callable[[PatientReport], None] = lambda report: None,
    before: Report | None = None,
) -> Report:
    """Look at every patient.

    Some are read at a time, so memory does not grow with the cohort but by what is kept for comparing patients, 16 kB
    each.

    Args:
        patients: Whom to look at, left-out ones too.
        progress: Checked several times a second.
        on_patient: Called on the calling thread for each patient, in the order of their names, as soon as it is looked
            at; and once more in the end for those about whom the comparison with the others told something.
        before: An earlier report; patients whose files and decisions are as they were are not read again.

    Raises:
        Cancelled: Asked to stop.
    """
    everywhere = frozenset(sequence for patient in patients for sequence in patient.files)
    known = {} if before is None else before._looked
    looked: dict[str, _Looked] = {}
    at_once = min(4, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(at_once)
    try:
        waiting: deque[tuple[Patient, Future[_Looked]]] = deque()
        rest = iter(patients)
        while True:
            # No more than are worked on: what was found early must not pile up behind a patient that takes long.
            for patient in islice(rest, 2 * at_once - len(waiting)):
                waiting.append((patient, pool.submit(_look, patient, known.get(patient.name), _Watched(progress))))
            if not waiting:
                break
            patient, job = waiting.popleft()
            progress.update(len(looked) / len(patients), f"looking at {patient.name}")
            looked[patient.name] = job.result()
            on_patient(_report(patient, looked[patient.name], everywhere, ()))
    finally:
        pool.shutdown(cancel_futures=True)
    progress.check()
    compared, cohort = _compare(patients, looked)
    reports = []
    for patient in patients:
        reports.append(_report(patient, looked[patient.name], everywhere, compared.get(patient.name, ())))
        if patient.name in compared:
            on_patient(reports[-1])
    problems = [Finding("", Kind.FILES, Severity.NOTE, sentence) for sentence in patients.problems]
    return Report(tuple(reports), (*problems, *cohort), looked)


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


def leave_out(patients: Patients, name: str) -> Patients:
    """The patients with one left out, whatever was found about them."""
    return patients.with_patient(_repaired(patients.named(name), LEAVE_OUT))


def take_in(patients: Patients, name: str) -> Patients:
    """The patients with one that was left out taken in again."""
    patient = patients.named(name)
    decisions = tuple(sentence for sentence in patient.decisions if sentence != _LEFT_OUT)
    return patients.with_patient(replace(patient, included=True, decisions=decisions))


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

    shown = np.logical_or.reduce([volume.data != background(volume.data) for volume in subject.values()])
    box = bounding_box(to_canonical(shown, axes, signs)[:, :, at][:, :, None])
    # With a little room around the head; to the end of the array where all of it holds signal.
    frame = [slice(None), slice(None)] if box is None else [_roomy(part) for part in box[:2]]

    def seen(data: NDArray[Any]) -> NDArray[Any]:
        # Columns from the patient's right, rows from the front; the nearest voxel of each square pixel.
        picture = to_canonical(data, axes, signs)[:, :, at][tuple(frame)][::-1, ::-1].T
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


def _roomy(part: slice) -> slice:
    room = round(0.03 * (part.stop - part.start))
    return slice(max(0, part.start - room), part.stop + room)


def _window(data: FloatArray) -> tuple[float, float]:
    """What is shown black and white: the darkest voxel, and the 99.5th percentile of what is brighter."""
    sample = data[::3, ::3, ::3]
    darkest = float(sample.min())
    brighter = sample[sample > darkest]
    white = float(np.percentile(brighter, 99.5)) if brighter.size else darkest + 1
    return darkest, max(white, darkest + 1e-6)


# --- repairs ----------------------------------------------------------------------------------------------------------

_LEFT_OUT = "Left out."


def _without(sequence: Sequence) -> Repair:
    return Repair(f"without:{sequence.value}", f"Go without {sequence.title} of this patient")


def _reads(convention: Convention) -> Repair:
    return Repair(f"labels:{convention.value}", f"Read the labels as {convention.title}")


def _ordered(order: Order) -> Repair:
    key = "order:" + ",".join(f"{named.value}>{shown.value}" for named, shown in order)
    if len(order) == 2:
        return Repair(key, f"Exchange {in_words(named for named, _ in order)}")
    return Repair(key, "Read " + ", ".join(f"{named.title} as {shown.title}" for named, shown in order))


def _repaired(patient: Patient, repair: Repair) -> Patient:
    what, _, how = repair.key.partition(":")
    if repair == LEAVE_OUT:
        return replace(patient, included=False, decisions=(*patient.decisions, _LEFT_OUT))
    decisions = (*patient.decisions, f"{repair.title}.")
    if repair == ONTO_FIRST:
        return replace(patient, onto_first=True, decisions=decisions)
    if what == "labels":
        return replace(patient, convention=Convention(how), decisions=decisions)
    if what == "without":
        files = {sequence: path for sequence, path in patient.files.items() if sequence != how}
        volumes = {sequence: number for sequence, number in patient.volumes.items() if sequence != how}
        return replace(patient, files=files, volumes=volumes, decisions=decisions)
    if what == "order":
        names = dict(pair.split(">") for pair in how.split(","))
        moved = {sequence: Sequence(names.get(sequence.value, sequence.value)) for sequence in patient.files}
        files = {moved[sequence]: path for sequence, path in patient.files.items()}
        volumes = {moved[sequence]: number for sequence, number in patient.volumes.items()}
        return replace(patient, files=files, volumes=volumes, decisions=decisions)
    raise ValueError(f"there is no repair {repair.key}")


# --- one patient ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Looked:
    """All that is kept of a patient who was looked at.

    Attributes:
        stamp: Of the files and decisions that it belongs to.
        facts: See `Facts`.
        findings: From this patient alone.
        evidence: What the voxels say; ``None`` where no image can be read.
        oriented: Whether the headers say how the head lies in the images.
        doubtful: Whether the labels' meaning could not be told.
        faces: See `evidence.outer_faces`, of the file's own labels.
        convention: What the labels mean, where it is known.
    """

    stamp: str
    facts: Facts
    findings: tuple[Finding, ...]
    evidence: Evidence | None = None
    oriented: bool = True
    doubtful: bool = False
    faces: Mapping[int, int] = field(default_factory=dict)
    convention: Convention | None = None


class _Watched(Progress):
    """Stops with another progress and tells it nothing: several patients are worked on at a time."""

    def __init__(self, other: Progress) -> None:
        super().__init__()
        self._other = other

    def check(self) -> None:
        self._other.check()

    def part(self, start: float, stop: float) -> Progress:
        return self


class _Patient:
    """A patient while it is looked at: facts and findings as they come."""

    def __init__(self, patient: Patient, progress: Progress) -> None:
        self._patient, self._progress = patient, progress
        self.findings: list[Finding] = []
        self.facts = Facts(patient.sequences, source=patient.source)
        self.oriented = True
        self.doubtful = False
        self.faces: Mapping[int, int] = {}
        self.convention: Convention | None = None

    def add(self, kind: Kind, severity: Severity, sentence: str, *repairs: Repair) -> None:
        self.findings.append(Finding(self._patient.name, kind, severity, sentence, (*repairs, LEAVE_OUT)))

    def images(self) -> Subject | None:
        """All images that can be read, on one grid."""
        patient, good = self._patient, dict(self._patient.files)
        try:
            return self._at_home(sequences.load(patient.subject_files, resample=True, progress=self._progress))
        except UserError:
            pass  # which of them it was is found by reading them one by one
        for sequence, path in patient.files.items():
            try:
                volume = nifti.read(path, sequence, patient.volumes.get(sequence))
                sequences.require_scan(volume, path)
            except UserError as error:
                kind = Kind.UNREADABLE
                if isinstance(error, NotFinite):
                    kind = Kind.INTENSITIES
                elif isinstance(error, SequenceProblem):
                    kind = Kind.SEQUENCES
                del good[sequence]
                repairs = [_without(sequence)] if len(patient.files) > 1 else []
                self.add(kind, Severity.ERROR, str(error), *repairs)
            self._progress.check()
        if not good:
            return None
        files = replace(patient.subject_files, files=good)
        try:
            return self._at_home(sequences.load(files, resample=True, progress=self._progress))
        except UserError as error:  # each can be read, but they cannot be brought together
            self.add(Kind.GRIDS, Severity.ERROR, str(error), *(_without(sequence) for sequence in good))
            return None

    def _at_home(self, subject: Subject) -> Subject:
        """The images, after a look at the grids of their files."""
        paths = {sequence: self._patient.files[sequence] for sequence in subject}
        grids = {sequence: nifti.read_grid(path) for sequence, path in paths.items()}
        self.oriented = all(oriented for _, oriented in grids.values())
        apart = [sequence for sequence, (grid, _) in grids.items() if not grid.same_as(subject.grid)]
        i, j, k = subject.grid.spacing
        spacing = (round(i, 3), round(j, 3), round(k, 3))
        orientation = subject.grid.orientation if self.oriented else ""
        self.facts = replace(self.facts, shape=subject.grid.shape, spacing=spacing, orientation=orientation)
        if apart and not self._patient.onto_first:
            finest = next(sequence for sequence in subject if sequence not in apart)
            difference = subject.grid.difference(grids[apart[0]][0])
            does = "does" if len(apart) == 1 else "do"
            self.add(
                Kind.GRIDS,
                Severity.ERROR,
                f"{in_words(apart)} of {self._patient.name} {does} not lie on the grid of {finest.title} "
                f"({difference}).",
                ONTO_FIRST,
                *(_without(sequence) for sequence in apart),
            )
        return subject

    def truth(self, subject: Subject | None) -> LabelMap | None:
        """The truth in Gliascope's labels on the grid of the images; ``None`` where there is none to go by."""
        patient = self._patient
        if patient.truth is None:
            self.add(Kind.NO_TRUTH, Severity.ERROR, f"{patient.name} has no ground truth.")
            return None
        try:
            drawn, present = nifti.read_labels(patient.truth)
        except UserError as error:
            self.add(Kind.UNREADABLE, Severity.ERROR, str(error))
            return None
        self._progress.check()
        self.facts = replace(self.facts, labels=tuple(sorted(present)))
        self.faces = outer_faces(drawn.data)
        ours = self._understood(drawn, present)
        if ours is None:
            return None
        whole, core = ours.ml(ours.whole_tumour), ours.ml(ours.tumour_core)
        self.facts = replace(self.facts, whole_tumour_ml=round(whole, 2), core_ml=round(core, 2))
        self._about_size(whole, core)
        if subject is None or ours.grid.same_as(subject.grid):
            return ours
        if not patient.onto_first:
            difference = subject.grid.difference(ours.grid)
            sentence = f"The mask of {patient.name} does not lie on the grid of its images ({difference})."
            self.add(Kind.GRIDS, Severity.ERROR, sentence, ONTO_FIRST)
        return sequences.resample_label_map(ours, subject.grid)

    def _understood(self, drawn: LabelMap, present: set[int]) -> LabelMap | None:
        name, convention = self._patient.name, self._patient.convention
        fitting = [known for known in Convention if present <= known.meaning.keys()]
        told = ", ".join(map(str, sorted(present)))
        if not fitting:
            known = sorted(present & set().union(*(convention.meaning for convention in Convention)))
            odd = ", ".join(str(label) for label in sorted(present) if label not in known)
            self.add(Kind.LABELS, Severity.ERROR, f"The mask of {name} holds labels that no convention has ({odd}).")
            return None
        if convention is None and self._patient.truth is not None:
            try:
                convention = nifti.tell_convention(present, [self._patient.truth])
            except UserError:
                self.doubtful = True  # the others may tell; see `_compare`
                return None
        assert convention is not None
        self.convention = convention
        if convention not in fitting:
            sentence = f"The mask of {name} holds labels ({told}) that {convention.title} does not have."
            self.add(Kind.LABELS, Severity.ERROR, sentence, *map(_reads, _one_a_reading(present, fitting)))
            return None
        return nifti.in_our_labels(drawn, present, convention)

    def _about_size(self, whole: float, core: float) -> None:
        name = self._patient.name
        if not whole:
            self.add(Kind.TUMOUR, Severity.WARNING, f"The mask of {name} is empty.")
        elif whole < TINY_ML:
            words = f"{whole:.2f} ml, where Gliascope finds tumours from {TINY_ML:.0f} ml"
            self.add(Kind.TUMOUR, Severity.WARNING, f"The tumour of {name} is tiny ({words}).")
        elif not core:
            self.add(Kind.TUMOUR, Severity.NOTE, f"The mask of {name} has no core, only what surrounds it.")

    def judge(self, evidence: Evidence) -> None:
        """What the voxels of this patient alone give away."""
        name, held = self._patient.name, self._patient.files
        if not self.oriented:
            sentence = f"The headers of {name} do not say which way the head lies, so left and right are unknown."
            self.add(Kind.SIDES, Severity.WARNING, sentence)
        if evidence.signal_ml > LARGEST_BRAIN_ML:
            words = f"{evidence.signal_ml:,.0f} ml hold signal, a brain has up to {LARGEST_BRAIN_ML:,.0f}"
            self.add(Kind.SKULL, Severity.WARNING, f"The scans of {name} seem to have their skull on ({words}).")
        whole = self.facts.whole_tumour_ml
        if whole is not None and whole > MOST_OF_BRAIN * evidence.signal_ml > 0:
            share = f"{100 * min(1.0, whole / evidence.signal_ml):.0f} %"
            sentence = f"The mask of {name} covers {share} of what the scans show; it may be one of the brain."
            self.add(Kind.TUMOUR, Severity.WARNING, sentence)
        if evidence.outside is not None and evidence.outside > OUTSIDE:
            severity = Severity.ERROR if evidence.outside > FAR_OUTSIDE else Severity.WARNING
            share = f"{100 * evidence.outside:.0f} %"
            self.add(Kind.OUTSIDE, severity, f"{share} of the mask of {name} lie outside the brain.")
        if evidence.wrong_side is not None and evidence.wrong_side > WRONG_SIDE:
            sentence = (
                f"The mask of {name} lies where the scans look healthy, and mirrored it would lie where they do not: "
                "left and right of mask or scans may be exchanged."
            )
            self.add(Kind.SIDES, Severity.WARNING, sentence)
        odd = max(evidence.mirrored, key=evidence.mirrored.__getitem__, default=None)
        if odd is not None and evidence.mirrored[odd] > MIRRORED:
            others = in_words(sequence for sequence in held if sequence != odd)
            sentence = f"{odd.title} of {name} fits {others} better when left and right are exchanged."
            self.add(Kind.SIDES, Severity.WARNING, sentence, _without(odd))
        for one, other in evidence.same:
            sentence = f"{one.title} and {other.title} of {name} hold the same image."
            self.add(Kind.SEQUENCES, Severity.ERROR, sentence, _without(other), _without(one))
        for sequence, greys in evidence.greys.items():
            self._about_greys(sequence, greys, [_without(sequence)] if len(held) > 1 else [])

    def _about_greys(self, sequence: Sequence, greys: Greys, repairs: list[Repair]) -> None:
        scan = f"{sequence.title} of {self._patient.name}"
        if greys.levels < FEWEST_LEVELS:
            sentence = f"{scan} has only {greys.levels} different intensities."
            self.add(Kind.INTENSITIES, Severity.WARNING, sentence, *repairs)
        if greys.hottest > HOTTEST:
            sentence = f"A few voxels of {scan} are {greys.hottest:.0f} times as bright as the rest; they are clipped."
            self.add(Kind.INTENSITIES, Severity.NOTE, sentence, *repairs)
        if greys.covers < LEAST_COVERED:
            share = f"{100 * greys.covers:.0f} %"
            sentence = f"{scan} shows only {share} of what the other images show."
            self.add(Kind.INTENSITIES, Severity.WARNING, sentence, *repairs)


def _look(patient: Patient, known: _Looked | None, progress: Progress) -> _Looked:
    """Read and measure one patient, unless that was done before."""
    progress.check()
    stamp = _stamp(patient)
    if known is not None and known.stamp == stamp:
        return known
    at = _Patient(patient, progress)
    subject = at.images()
    truth = at.truth(subject)
    evidence = None
    if subject is not None:
        evidence = gather(subject, truth, LARGEST_BRAIN_ML, progress)
        at.judge(evidence)
    return _Looked(stamp, at.facts, tuple(at.findings), evidence, at.oriented, at.doubtful, at.faces, at.convention)


def _stamp(patient: Patient) -> str:
    """Changes with the files and with what was decided about them, not with being left out."""
    stats = []
    for path in (*patient.files.values(), *([patient.truth] if patient.truth else [])):
        with suppress(OSError):
            found = path.stat()
            stats.append((str(path), found.st_size, found.st_mtime_ns))
    return repr((replace(patient, included=True, decisions=()), stats))


def _report(
    patient: Patient, looked: _Looked, everywhere: frozenset[Sequence], compared: tuple[Finding, ...]
) -> PatientReport:
    findings = [*looked.findings, *compared]
    missing = [sequence for sequence in everywhere if sequence not in patient.files]
    if missing:
        sentence = f"{patient.name} has no {in_words(missing)}."
        findings.append(Finding(patient.name, Kind.MISSING, Severity.NOTE, sentence, (LEAVE_OUT,)))
    ordered = tuple(sorted(findings, key=lambda finding: -finding.severity))
    return PatientReport(patient.name, looked.facts, ordered, patient.included)


# --- among the others -------------------------------------------------------------------------------------------------


def _compare(patients: Patients, looked: Mapping[str, _Looked]) -> tuple[dict[str, tuple[Finding, ...]], list[Finding]]:
    """What only the others give away: by patient, and about the cohort."""
    here = {patient.name: looked[patient.name] for patient in patients if patient.included}
    by_patient: dict[str, list[Finding]] = {}
    cohort: list[Finding] = []
    # A patient left out gets an answer about the labels all the same, to be taken in again.
    doubted = {patient.name: looked[patient.name] for patient in patients if looked[patient.name].doubtful}
    known = [seen for seen in looked.values() if not seen.doubtful]
    mixed, all_mixed = _mixed_up(here)
    for finding in (*_doubtful(patients, doubted, known), *mixed, *_turned(here), *_twice(here)):
        by_patient.setdefault(finding.patient, []).append(finding)
    cohort += all_mixed
    cohort += _inside_out(here)
    return {name: tuple(findings) for name, findings in by_patient.items()}, cohort


def _one_a_reading(present: set[int], fitting: list[Convention]) -> list[Convention]:
    """Of conventions that read these labels alike, the first."""
    readings: dict[tuple[int, ...], Convention] = {}
    for convention in fitting:
        readings.setdefault(tuple(convention.meaning[label] for label in sorted(present)), convention)
    return list(readings.values())


def _doubtful(patients: Patients, doubted: Mapping[str, _Looked], known: list[_Looked]) -> list[Finding]:
    """Labels whose meaning a file does not tell by itself: asked for, with what speaks for which answer."""
    faces: dict[int, int] = {}
    for seen in doubted.values():
        for label, count in seen.faces.items():
            faces[label] = faces.get(label, 0) + count
    others = {seen.convention for seen in known if seen.convention is not None}
    present = {label for seen in doubted.values() for label in seen.facts.labels}
    paths = [path for name in doubted if (path := patients.named(name).truth) is not None]
    together: Convention | None = None
    with suppress(UserError):
        together = nifti.tell_convention(present, paths) if paths else None
    findings = []
    for name, seen in doubted.items():
        labels = set(seen.facts.labels)
        fitting = _one_a_reading(labels, [c for c in Convention if labels <= c.meaning.keys()])
        sentence = f"The mask of {name} does not say what its labels mean ({', '.join(map(str, sorted(labels)))})."
        likely: Convention | None = None
        if len(others) == 1 and (only := next(iter(others))) in Convention and labels <= only.meaning.keys():
            likely, why = only, f"The others of this cohort are {only.title}."
        elif together is not None:
            likely, why = together, f"All masks of this cohort together are {together.title}."
        elif faces.get(1, 0) != faces.get(2, 0):
            outer = 1 if faces.get(1, 0) > faces.get(2, 0) else 2
            likely = Convention.DECATHLON if outer == 1 else Convention.BRATS_2023
            why = f"Label {outer} lies around the others here, as oedema does in {likely.title}."
        if likely is not None and labels <= likely.meaning.keys():
            sentence = f"{sentence} {why}"
            alike = [c for c in fitting if all(c.meaning[n] == likely.meaning[n] for n in labels)]
            fitting = [likely, *(c for c in fitting if c not in alike)]
        repairs = (*map(_reads, fitting), LEAVE_OUT)
        findings.append(Finding(name, Kind.LABELS, Severity.ERROR, sentence, repairs))
    return findings


def _inside_out(here: Mapping[str, _Looked]) -> list[Finding]:
    """Whether the core lies around the rest of the tumour in most masks: the convention is then another."""
    inner, outer, counted = 0, 0, 0
    for seen in here.values():
        if seen.convention is None or not seen.facts.core_ml or seen.facts.core_ml == seen.facts.whole_tumour_ml:
            continue
        counted += 1
        for label, count in seen.faces.items():
            ours = seen.convention.meaning.get(label, 0)
            inner += count if ours == TUMOUR_CORE else 0
            outer += count if ours == REST_OF_WHOLE_TUMOUR else 0
    if counted < FEWEST_OTHERS or inner < 2 * outer:
        return []
    sentence = (
        f"In the {counted} masks with both, the core lies around the rest of the tumour: "
        "the labels may be of another convention."
    )
    return [Finding("", Kind.LABELS, Severity.WARNING, sentence)]


def _mixed_up(here: Mapping[str, _Looked]) -> tuple[list[Finding], list[Finding]]:
    """Patients whose images look as if they were named in another order, and the cohort if most do."""
    margins = {
        name: _margins(seen.evidence.looks)
        for name, seen in here.items()
        if seen.evidence is not None and seen.evidence.looks is not None and not seen.evidence.same
    }
    usual: dict[Order, float] = {}
    if len(margins) > FEWEST_OTHERS:
        for order in {order for margin in margins.values() for order in margin}:
            values = [margin[order] for margin in margins.values() if order in margin]
            usual[order] = float(np.median(values)) if len(values) > FEWEST_OTHERS else 0.0
    cohort = []
    found = max(usual, key=usual.__getitem__, default=None)
    if found is not None and usual[found] > MIXED_UP:
        sentence = f"In most patients {_in_order(found)}: look at some before training."
        cohort.append(Finding("", Kind.SEQUENCES, Severity.WARNING, sentence))
    findings = []
    for name, margin in margins.items():
        # What another scanner or protocol does to all of a cohort says nothing about one of them.
        fair = {order: value - max(0.0, usual.get(order, 0.0)) for order, value in margin.items()}
        best = max(fair, key=fair.__getitem__, default=None)
        if best is not None and fair[best] > MIXED_UP:
            sentence = f"In {name} {_in_order(best)}."
            repairs = (_ordered(best), LEAVE_OUT)
            findings.append(Finding(name, Kind.SEQUENCES, Severity.WARNING, sentence, repairs))
    return findings, cohort


def _in_order(order: Order) -> str:
    if len(order) == 2:
        return f"{in_words(named for named, _ in order)} look exchanged"
    return "the sequences look mixed up (" + ", ".join(f"{a.title} shows {b.title}" for a, b in order) + ")"


def _margins(looks: Looks) -> dict[Order, float]:
    """How much likelier the images are, in logarithms, when they are named in each other order."""
    held = list(looks.single)
    likely = {names: _likelihood(looks, dict(zip(held, names, strict=True))) for names in permutations(held)}
    plain = likely.pop(tuple(held))
    return {
        tuple((a, b) for a, b in zip(held, names, strict=True) if a is not b): value - plain
        for names, value in likely.items()
    }


def _likelihood(looks: Looks, names: Mapping[Sequence, Sequence]) -> float:
    """Of the images, up to a constant, if each were the sequence that ``names`` gives it."""
    odd = 0.0
    for (one, other), value in looks.alike.items():
        pair = in_order((names[one], names[other]))
        mean, spread = _ALIKE[pair[0], pair[1]]
        odd += min(_ODDEST, ((value - mean) / spread) ** 2)
    for sequence, values in looks.single.items():
        for value, (mean, spread) in zip(values, _SINGLE[names[sequence]], strict=True):
            odd += min(_ODDEST, ((float(value) - mean) / spread) ** 2)
    return -odd / 2


def _turned(here: Mapping[str, _Looked]) -> list[Finding]:
    """Patients whose arrays run from left to right where those of nearly all others run from right to left."""
    orientations = Counter(seen.facts.orientation for seen in here.values() if seen.facts.orientation)
    if not orientations:
        return []
    usual, count = orientations.most_common(1)[0]
    rest = sum(orientations.values()) - count
    if count < FEWEST_OTHERS or rest > max(1, 0.1 * count):
        return []
    findings = []
    for name, seen in here.items():
        own = seen.facts.orientation
        sides = {(mine, theirs) for mine, theirs in zip(own, usual, strict=True) if mine != theirs} if own else set()
        if sides and all({mine, theirs} == {"L", "R"} for mine, theirs in sides):
            sentence = (
                f"The arrays of {name} run to the {'left' if 'L' in own else 'right'} and those of the {count} others "
                "the other way: if its header is wrong, left and right are exchanged."
            )
            findings.append(Finding(name, Kind.SIDES, Severity.WARNING, sentence, (LEAVE_OUT,)))
    return findings


def _twice(here: Mapping[str, _Looked]) -> list[Finding]:
    """Patients who show what another before them shows: in two folds they would let a network recall its answers."""
    measured = {name: seen.evidence for name, seen in here.items() if seen.evidence is not None}
    names = [name for name, evidence in measured.items() if evidence.fingerprints]
    if len(names) < 2:
        return []
    # (sequences, patients, patients), not a number where one of the two lacks the sequence.
    every = np.full((len(Sequence), len(names), len(names)), np.nan)
    for matrix, sequence in zip(every, Sequence, strict=True):
        at = [number for number, name in enumerate(names) if sequence in measured[name].fingerprints]
        if len(at) > 1:
            prints = [measured[names[number]].fingerprints[sequence] for number in at]
            matrix[np.ix_(at, at)] = likeness(np.array(prints))
    shared = np.isfinite(every).sum(axis=0)
    mean = np.nansum(every, axis=0) / np.maximum(shared, 1)
    skull_on = np.array([measured[name].signal_ml > LARGEST_BRAIN_ML for name in names])
    needed = np.where(shared > 1, SAME_PATIENT, SAME_PATIENT_BY_ONE)
    needed[skull_on[:, None] | skull_on] = SAME_WITH_SKULL
    findings = []
    for number, name in enumerate(names):
        for other in range(number):
            if not shared[number, other]:
                continue
            copied = [s for s, matrix in zip(Sequence, every, strict=True) if matrix[number, other] > SAME_IMAGE]
            if mean[number, other] > needed[number, other]:
                sentence = f"{name} shows the same patient as {names[other]}: use one of the two."
                findings.append(Finding(name, Kind.TWICE, Severity.WARNING, sentence, (LEAVE_OUT,)))
            elif copied:
                sentence = f"{in_words(copied)} of {name} shows the patient {names[other]}."
                repairs = (*map(_without, copied), LEAVE_OUT)
                findings.append(Finding(name, Kind.TWICE, Severity.WARNING, sentence, repairs))
            else:
                continue
            break
    return findings


def _finding_record(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "severity": finding.severity.name.lower(),
        "sentence": finding.sentence,
        "repairs": [{"key": repair.key, "title": repair.title} for repair in finding.repairs],
    }
