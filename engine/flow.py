"""One patient from files to masks: the one way that the command line, the window, a batch and Python go.

Three stages, so that whoever has many patients can read one while another is computed and a third is written:

    read           which file is which sequence, and their voxels
    compute        the steps of `pipeline`, the choice of the model, the network, and what speaks against the result
    Result.save    masks and sidecar

`segment` is all of it in one call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from engine import (
    contents,
    export,
    inference,
    nifti,
    outputs,
    pipeline,
    provenance,
    registry,
    runtime,
    sequences,
    unusual,
)
from engine.errors import BadModel, CannotWrite, SequenceProblem, UserError
from engine.model_card import ModelCard, sha256
from engine.progress import Progress
from engine.sequences import SubjectFiles
from engine.volume import LabelMap, Sequence, Subject, Volume

if TYPE_CHECKING:
    from engine.dicom import Study
    from engine.export import Saved
    from engine.inference import Segmentation
    from engine.outputs import Wanted
    from engine.pipeline import Settings, Worked
    from engine.registry import Choice
    from engine.runtime import Device, Network
    from engine.unusual import Doubt
    from engine.workshop import Workshop


class WhichSequence(SequenceProblem):
    """None of a patient's files tells which sequence it is."""


class OtherScans(CannotWrite):
    """A result of that name is there which was made from other scans."""


@dataclass(frozen=True, eq=False)
class Patient:
    """A patient who was found and not read yet.

    Attributes:
        name: For outputs.
        files: The patient's files; None until a DICOM study is converted.
        study: What was scanned, where it came as DICOM.
        workshop: Where it is converted.
        where: For sentences about two patients of one name.
    """

    name: str
    files: SubjectFiles | None = None
    study: Study | None = None
    workshop: Workshop | None = None
    where: str = ""

    def converted(self, progress: Progress | None = None) -> SubjectFiles:
        """The patient's files, converted from DICOM where they have to be.

        Raises:
            UserError: See `dicom.subject_files`.
        """
        if self.files is not None:
            return replace(self.files, name=self.name)
        from engine import dicom

        assert self.study is not None
        assert self.workshop is not None
        return replace(dicom.subject_files(self.study, self.workshop, progress or Progress()), name=self.name)

    @property
    def told(self) -> tuple[str, ...]:
        """Sentences about what was picked among the series of a study."""
        if self.study is None:
            return ()
        chosen = [
            f"{sequence.title} is series {series.number} of {series.images} images ({series.why})."
            for sequence, series in self.study.chosen.items()
        ]
        return (*chosen, *self.study.doubts, *self.study.notes)


@dataclass(frozen=True, eq=False)
class Scans:
    """A patient's scans as they were read, each on its file's own grid.

    Attributes:
        files: Which file is which sequence, also those whose names did not say.
        volumes: What was read.
        notes: Sentences about what was guessed or left out, for the user.
        told: Sentences about what was told by contents, for the user and the sidecar.
        patient: Whom they are of; keeps converted DICOM where it is.
    """

    files: SubjectFiles
    volumes: Mapping[Sequence, Volume]
    notes: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    patient: Patient | None = None

    @property
    def name(self) -> str:
        """What the patient is called."""
        return self.files.name


@dataclass(frozen=True, eq=False)
class Result:
    """What was found in a patient, and everything needed to save and to explain it.

    Attributes:
        scans: What was read.
        worked: The steps they went through.
        choice: The model, what it was given, and why.
        segmentation: What the model found, on the grid of ``worked``.
        doubts: What is unlike the scans that models know, the gravest first.
    """

    scans: Scans
    worked: Worked
    choice: Choice
    segmentation: Segmentation
    doubts: tuple[Doubt, ...] = ()

    @property
    def name(self) -> str:
        """What the patient is called."""
        return self.scans.name

    @property
    def labels(self) -> LabelMap:
        """1 tumour core, 2 rest of the whole tumour, on the grid that the model worked on."""
        return self.segmentation.label_map

    @property
    def volumes_ml(self) -> Mapping[str, float]:
        """Volume of ``"whole_tumour"`` and ``"tumour_core"``."""
        return self.segmentation.volumes_ml

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything the user should read: what was guessed, what was done, what speaks against the result."""
        return (*self.scans.notes, *self.segmentation.notes, *self.worked.doubts)

    @property
    def record(self) -> dict[str, Any]:
        """How the result came about, as plain JSON values; what a sidecar says but for the hashes of outputs."""
        return provenance.describe(
            self.segmentation, self.worked.subject, self.choice.reason, self.scans.files.uncertain, self.worked
        )

    def save(
        self,
        folder: Path | str,
        wanted: Wanted | None = None,
        name: str | None = None,
        goes_on_from: Collection[str] = (),
        progress: Progress | None = None,
    ) -> Saved:
        """Write masks and sidecar, and what is wanted beside them; all or none. See `export.save`.

        Args:
            folder: Where to; made if it is not there.
            wanted: What else to write, such as ``Wanted(table=True)``.
            name: What to call the outputs; the patient's name by default.
            goes_on_from: See `export.save`.
            progress: Checked between the outputs.

        Raises:
            CannotWrite: Nothing was written, and nothing is left behind.
            SequenceProblem: See `outputs.refuse_what_cannot_be`.
        """
        beside = outputs.maker(wanted, self.segmentation, self.worked, progress) if wanted is not None else None
        return export.save(
            self.segmentation,
            self.worked.subject,
            Path(folder),
            name or self.name,
            self.choice.reason,
            self.scans.files.uncertain,
            goes_on_from,
            self.worked,
            beside,
        )


class Models:
    """The models of one run, each opened, and with that checked against its hashes, once.

    Args:
        name: Of the model to use for every patient; None picks the best for each by its sequences.
        device: auto, cpu or cuda.
        folders: Where the models lie; `registry.folders()` when not given.

    Raises:
        BadModel: There is no model of that name.
    """

    def __init__(self, name: str | None = None, device: Device = "auto", folders: Iterable[Path] | None = None) -> None:
        self._listing = registry.list_models(folders)
        self._wanted = registry.find(name, None if folders is None else self._listing.models) if name else None
        self._device: Device = device
        self._open: dict[str, Network] = {}
        self._opening = Lock()

    @property
    def problems(self) -> tuple[UserError, ...]:
        """Model folders that cannot be used."""
        return self._listing.problems

    def choose(self, present: Iterable[Sequence]) -> Choice:
        """The model for these sequences, what of them to give it, and why.

        Raises:
            MissingSequence: No model works with them, or the one asked for does not.
        """
        if self._wanted is None:
            return registry.choose(present, self._listing.models)
        return registry.choose_named(present, self._wanted)

    def network(self, card: ModelCard) -> Network:
        """The model's network, ready to run.

        Raises:
            BadModel: A file is not the one the card was written for.
        """
        with self._opening:
            if card.name not in self._open:
                self._open[card.name] = runtime.open_network(card, self._device)
            return self._open[card.name]


def segment(
    patient: Path | str | Iterable[Path | str] | Mapping[Sequence | str, Path | str] | Subject,
    *,
    sequences: Iterable[Sequence | str] | None = None,
    model: str | None = None,
    device: Device = "auto",
    settings: Settings | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Segment one patient, exactly as the window and the command line do.

        from engine import segment

        result = segment("patients/anna")
        print(result.volumes_ml, result.choice.reason)
        result.save("results")

    Args:
        patient: A folder, a file, or several; NIfTI, or a DICOM export. Or which file is which sequence,
            ``{"t1": "a.nii.gz", "flair": "b.nii.gz"}``. Or a `Subject` that was read or made already.
        sequences: Of those that are there, take these alone, such as ``["t1", "flair"]``; all by default.
        model: Name of a model; the best one for the sequences by default.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        settings: What to do to the scans; by default whatever is needed.
        name: What to call the patient in outputs.
        progress: Told of every stage; cancelling it stops within a second.

    Raises:
        UserError: Something the user can mend, told in one sentence.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    only = None if sequences is None else tuple(as_sequence(one) for one in sequences)
    models = Models(model, device)
    if isinstance(patient, Subject):
        scans = _of_subject(patient, name, only)
    else:
        found = _one_patient(patient, progress.part(0.0, 0.02))
        scans = read(replace(found, name=name or found.name), progress.part(0.02, 0.15), only=only)
    return compute(scans, models, settings, progress.part(0.15, 1.0))


def find(
    paths: Iterable[Path],
    workshop: Callable[[], Workshop],
    exports: Iterable[Path] = (),
    progress: Progress | None = None,
) -> tuple[list[Patient], list[UserError]]:
    """The patients in files and folders, NIfTI and DICOM, and what is wrong with some of them.

    DICOM is called patient, patient_2 and so on: what it is called in its headers is nobody's business.

    Args:
        paths: Of any kind.
        workshop: Makes the private folder in which DICOM is converted; asked for only where there is some. Somebody has
            to hold it until the results are saved.
        exports: Known to be DICOM.
        progress: Told while headers are read.

    Raises:
        UserError: Nothing at all can be used.
    """
    scans: list[Path] = []
    exports = list(exports)
    for path in paths:
        (exports if _is_dicom(path) else scans).append(path)
    found, problems = _find(scans) if scans else ([], [])
    patients = [Patient(files.name, files, where=str(files.folder)) for files in found]
    if exports:
        from engine import dicom

        place = workshop()
        studies = dicom.look(exports, place, progress or Progress())
        taken = {patient.name.casefold() for patient in patients}
        names = (f"patient_{number}" if number > 1 else "patient" for number in range(1, 1_000_000))
        free = (one for one in names if one not in taken)
        patients += [Patient(next(free), study=study, workshop=place, where="a DICOM study") for study in studies]
    return patients, problems


def named(files: Mapping[Sequence, Path], beside: SubjectFiles | None = None) -> SubjectFiles:
    """One patient of files whose sequences the user has said, and of what was found beside them.

    Raises:
        SequenceProblem: One file was named as two sequences.
    """
    paths = list(files.values())
    theirs = {path.resolve() for path in paths}
    if len(theirs) < len(paths):
        raise SequenceProblem("One file was named as two sequences", "", "Name each file once.")
    first = beside or SubjectFiles(paths[0].name.split(".")[0], {}, (), None, paths[0].parent)
    found = {s: path for s, path in first.files.items() if path.resolve() not in theirs}
    both = {**found, **files}
    unknown = tuple(path for path in first.unknown if path.resolve() not in theirs)
    ordered = {sequence: both[sequence] for sequence in Sequence if sequence in both}
    doubted = frozenset(s for s in first.uncertain if s not in files and s in ordered)
    return SubjectFiles(first.name, ordered, unknown, first.segmentation, first.folder, doubted)


def read(
    patient: Patient,
    progress: Progress | None = None,
    only: Iterable[Sequence] | None = None,
    resample: bool = False,
    volume: int | None = None,
) -> Scans:
    """Read a patient's scans, and tell those by what they show whose names do not say.

    Args:
        patient: From `find`.
        progress: Told of every file.
        only: The sequences to take; all that are there when not given.
        resample: Whether sequences on other grids are brought onto the finest one by their headers alone.
        volume: Of files that hold several volumes, which to take, from 0.

    Raises:
        WhichSequence: No file tells which sequence it is.
        ChooseVolume: A file holds several volumes, and ``volume`` was not given.
        UserError: A file cannot be used, or a sequence of ``only`` is not there.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    files = patient.converted(progress.part(0.0, 0.5))
    by_content: Mapping[Path, str] = {}
    told: tuple[str, ...] = ()
    if patient.study is None:
        try:
            placed = contents.place(files, progress.part(0.5, 0.6))
        except BadModel as error:  # names are left to tell by
            told = (str(error),)
        else:
            files, by_content, told = placed.files, placed.why, placed.notes
    if not files.files and files.unknown:
        names = ", ".join(path.name for path in files.unknown)
        raise WhichSequence(
            f"Which sequence {names} is cannot be told from its name, nor from what it shows",
            "",
            "Say whether it is T1, T1ce, T2 or FLAIR.",
        )
    if not files.files:
        raise sequences.nothing_known(files)
    if only is not None:
        files = _those(files, only)
    notes = [
        *patient.told,
        *(f"{p.name} was left out: its sequence cannot be told from its name." for p in files.unknown),
    ]
    for sequence in sorted(files.uncertain) if patient.study is None else ():
        path = files.files[sequence]
        if path not in by_content:
            notes.append(f"{path.name} was taken for {sequence.title} ({sequences.detect(path).why}).")
    several = [p for p in files.files.values() if nifti.count_volumes(p) > 1] if volume is not None else []
    indices = dict.fromkeys(several, volume) if volume is not None else {}
    part = progress.part(0.6, 1.0)
    volumes: Mapping[Sequence, Volume] = (
        sequences.load(files, resample=True, progress=part, indices=indices)
        if resample
        else sequences.read(files, part, indices)
    )
    return Scans(files, volumes, tuple(notes), told, patient)


def compute(
    scans: Scans,
    models: Models,
    settings: Settings | None = None,
    progress: Progress | None = None,
    wanted: Wanted | None = None,
) -> Result:
    """Prepare scans, choose the model, and find the tumour.

    Args:
        scans: From `read`.
        models: Shared by all patients of a run.
        settings: What to do to the scans; by default whatever is needed.
        progress: Told of every step and every window.
        wanted: What is going to be written, so that what cannot be is said before the network runs.

    Raises:
        UserError: See `pipeline.work`, `registry.choose` and `inference.segment`.
        Cancelled: ``progress`` was cancelled.
    """
    progress = progress or Progress()
    choice = models.choose(scans.volumes)
    worked = pipeline.work(scans.name, scans.volumes, settings, progress.part(0.0, 0.45))
    if wanted is not None:
        outputs.refuse_what_cannot_be(wanted, worked)
    network = models.network(choice.card)
    found, doubts = outline(worked, choice, scans.told, progress.part(0.45, 1.0), network)
    return Result(scans, worked, choice, found, doubts)


def outline(
    worked: Worked,
    choice: Choice,
    told: Iterable[str] = (),
    progress: Progress | None = None,
    network: Network | None = None,
) -> tuple[Segmentation, tuple[Doubt, ...]]:
    """Find the tumour in prepared scans, and say what speaks against trusting it.

    Args:
        worked: The scans.
        choice: The model and what it is given.
        told: What was decided when the scans were read, for the sidecar.
        progress: Told of every window.
        network: The model's network where it is open already.
    """
    progress = progress or Progress()
    part = progress.part(0.0, 0.95)
    found = inference.segment(worked.subject, choice.card, part, network=network, use=choice.used)
    progress.update(0.95, "looking for what is unusual")
    doubts: tuple[Doubt, ...] = ()
    with suppress(BadModel):  # that contents cannot be looked at is told when scans are read
        doubts = unusual.look(worked.raw, worked.subject, found, progress)
    found = unusual.noted(found, doubts)
    return replace(found, notes=(*found.notes, *told)), doubts


def refuse_other_scans(scans: Scans, folder: Path) -> None:
    """All DICOM is called patient: the next one's masks must not take the place of the last one's.

    Raises:
        OtherScans: The result that lies there was made from other scans.
    """
    base = export.file_name(scans.name)
    sidecar = folder / (base + export.SIDECAR_ENDING)
    before: object = None
    with suppress(OSError, ValueError, AttributeError, KeyError):
        before = {one["sha256"] for one in json.loads(sidecar.read_text(encoding="utf-8"))["inputs"].values()}
    if isinstance(before, set) and before and not before & {sha256(path) for path in scans.files.files.values()}:
        raise OtherScans(
            f"{base}{provenance.MASK_ENDING} is there already and is not replaced",
            "it was made from other scans",
            "Give this patient another name, or choose another folder.",
        )


def as_sequence(word: Sequence | str) -> Sequence:
    """The sequence of a name such as ``"t1ce"``.

    Raises:
        SequenceProblem: There is none.
    """
    try:
        return Sequence(word.strip().lower())
    except ValueError as error:
        raise SequenceProblem(f'"{word}" is not a sequence', "", "Choose among t1, t1ce, t2 and flair.") from error


def _one_patient(
    patient: Path | str | Iterable[Path | str] | Mapping[Sequence | str, Path | str], progress: Progress
) -> Patient:
    if isinstance(patient, Mapping):
        files = named({as_sequence(s): Path(path) for s, path in patient.items()})
        return Patient(files.name, files)
    from engine.workshop import Workshop

    paths = [Path(patient)] if isinstance(patient, (str, Path)) else [Path(path) for path in patient]
    found, problems = find(paths, Workshop, progress=progress)
    for problem in problems:
        raise problem
    if len(found) != 1:
        raise SequenceProblem(
            f"{len(found)} patients are there, and segment takes one at a time" if found else "There is no patient",
            ", ".join(one.name for one in found[:4]),
            "Give the files or the folder of one patient.",
        )
    return found[0]


def _of_subject(subject: Subject, name: str | None, only: Iterable[Sequence] | None) -> Scans:
    sources = {s: volume.source for s, volume in subject.items()}
    files = {s: path for s, path in sources.items() if path is not None}
    folder = next((path.parent for path in files.values()), Path())
    whole = SubjectFiles(name or subject.name, files, (), None, folder)
    if only is None:
        return Scans(whole, dict(subject))
    wanted = set(only)
    _require(subject, wanted, whole.name)
    return Scans(_those(whole, wanted & files.keys()), {s: v for s, v in subject.items() if s in wanted})


def _those(files: SubjectFiles, only: Iterable[Sequence]) -> SubjectFiles:
    """The same patient with these sequences and no others; what is not named is not there."""
    wanted = set(only)
    _require(files.files, wanted, files.name)
    kept = {s: path for s, path in files.files.items() if s in wanted}
    return replace(files, files=kept, unknown=(), uncertain=files.uncertain & wanted)


def _require(there: Iterable[Sequence], wanted: set[Sequence], name: str) -> None:
    lacking = [s for s in Sequence if s in wanted - set(there)]
    if lacking:
        raise SequenceProblem(f"{name} has no {lacking[0].title}", "", "Leave the patient or the sequence out.")


def _is_dicom(path: Path) -> bool:
    # What is not there or may not be read is told in a sentence where NIfTI is looked for.
    if nifti.is_nifti_name(path) or not os.path.exists(path):
        return False
    from engine import dicom

    with suppress(OSError):
        return dicom.looks_like_dicom([path])
    return False


def _find(paths: list[Path]) -> tuple[list[SubjectFiles], list[UserError]]:
    """The patients in ``paths``; what is wrong with one folder does not hide the others."""
    try:
        return sequences.find_subjects(paths), []
    except UserError as error:
        # `os.path.isdir` is False where `Path.is_dir` raises: names too long, folders closed to us.
        folders = [path for path in paths if os.path.isdir(path)]
        loose = [path for path in paths if path not in folders]
        if not loose and len(folders) == 1:
            with suppress(OSError):
                children = sorted(path for path in folders[0].iterdir() if not path.name.startswith("."))
                folders = [path for path in children if os.path.isdir(path)]
        parts = [[folder] for folder in folders] + ([loose] if loose else [])
        if len(parts) < 2:
            raise error from None
    found: list[SubjectFiles] = []
    problems: list[UserError] = []
    for part in parts:
        try:
            found += sequences.find_subjects(part)
        except UserError as problem:
            problems.append(problem)
    return found, problems
