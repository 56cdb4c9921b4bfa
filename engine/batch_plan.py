"""Which patients a batch is made of: folders of any mixture of NIfTI, BIDS and DICOM, looked through and written down.

Nothing is read here but names and DICOM headers, a folder at a time, so that hundreds of patients need no more memory
than one. What a patient's scans show is looked at when the patient's turn comes, as `segment` does.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine import dicom, dicom_files, nifti, pipeline, sequences
from engine.errors import SequenceProblem, UnreadableImage, UserError
from engine.files import shown
from engine.nifti import Convention
from engine.outputs import WORKING, Wanted
from engine.progress import Progress
from engine.runtime import Device
from engine.sequences import SubjectFiles
from engine.volume import Sequence, in_words
from engine.workshop import Workshop

_DEPTH = 7


@dataclass(frozen=True, eq=False)
class Settings:
    """What is done with every patient of a batch.

    Attributes:
        sequences: Those that may be looked at, as if no others were there; all where there is none.
        model: A model's name; empty for the best there is for each patient's sequences.
        device: Where to compute.
        steps: Of the preparation.
        wanted: What is written beside masks. A DICOM segmentation is left out for patients that were no DICOM.
        labels: What the labels of the truths mean; ``None`` where they tell it themselves.
    """

    sequences: tuple[Sequence, ...] = ()
    model: str = ""
    device: Device = "auto"
    steps: pipeline.Settings = field(default_factory=pipeline.Settings)
    wanted: Wanted = field(default_factory=Wanted)
    labels: Convention | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that `from_json` makes the same settings of."""
        place = self.wanted.grid
        return {
            "sequences": [sequence.value for sequence in self.sequences],
            "model": self.model,
            "device": self.device,
            "steps": self.steps.to_json(),
            "wanted": {
                "probabilities": self.wanted.probabilities,
                "dicom_seg": self.wanted.dicom_seg,
                "surfaces": self.wanted.surfaces,
                "table": self.wanted.table,
                "report": self.wanted.report,
                "figure": self.wanted.figure,
                "title": self.wanted.title,
                "grid": place.value if isinstance(place, Sequence) else place,
            },
            "labels": self.labels.value if self.labels is not None else None,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Settings:
        """Settings from what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: The record was not made by `to_json`.
        """
        wanted = dict(record["wanted"])
        place = wanted.pop("grid")
        return Settings(
            sequences=tuple(Sequence(value) for value in record["sequences"]),
            model=str(record["model"]),
            device=record["device"],
            steps=pipeline.Settings.from_json(record["steps"]),
            wanted=Wanted(**wanted, grid=place if place in (None, WORKING) else Sequence(place)),
            labels=Convention(record["labels"]) if record["labels"] is not None else None,
        )


@dataclass(frozen=True)
class Patient:
    """One patient of a batch, not read yet.

    Attributes:
        name: What to call the patient in outputs; no two of a batch share one.
        files: The patient's NIfTI files; None where the scans are DICOM.
        exports: The folders and archives that hold the patient's DICOM.
        series: The keys of the patient's DICOM series, by which they are found again.
        sequences: Those that are known before anything is read, in their fixed order.
        warnings: Sentences about what was found.
    """

    name: str
    files: SubjectFiles | None = None
    exports: tuple[Path, ...] = ()
    series: frozenset[str] = frozenset()
    sequences: tuple[Sequence, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the scans lie."""
        return self.files.folder if self.files is not None else self.exports[0]

    @property
    def truth(self) -> Path | None:
        """The ground truth, where there is one."""
        return self.files.segmentation if self.files is not None else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that `from_json` makes the same patient of."""
        files = self.files
        told = None
        if files is not None:
            told = {
                "files": {sequence.value: str(path) for sequence, path in files.files.items()},
                "unknown": [str(path) for path in files.unknown],
                "segmentation": str(files.segmentation) if files.segmentation is not None else None,
                "folder": str(files.folder),
                "uncertain": sorted(sequence.value for sequence in files.uncertain),
                "volumes": {sequence.value: index for sequence, index in files.volumes.items()},
            }
        return {
            "name": self.name,
            "files": told,
            "exports": [str(path) for path in self.exports],
            "series": sorted(self.series),
            "sequences": [sequence.value for sequence in self.sequences],
            "warnings": list(self.warnings),
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Patient:
        """A patient from what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: The record was not made by `to_json`.
        """
        told, files = record["files"], None
        if told is not None:
            files = SubjectFiles(
                name=record["name"],
                files={Sequence(s): Path(path) for s, path in told["files"].items()},
                unknown=tuple(Path(path) for path in told["unknown"]),
                segmentation=Path(told["segmentation"]) if told["segmentation"] is not None else None,
                folder=Path(told["folder"]),
                uncertain=frozenset(Sequence(s) for s in told["uncertain"]),
                volumes={Sequence(s): int(index) for s, index in told["volumes"].items()},
            )
        return Patient(
            name=str(record["name"]),
            files=files,
            exports=tuple(Path(path) for path in record["exports"]),
            series=frozenset(record["series"]),
            sequences=tuple(Sequence(s) for s in record["sequences"]),
            warnings=tuple(record["warnings"]),
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """What a batch is going to do.

    Attributes:
        patients: In order of their names.
        settings: For all of them.
        problems: Sentences about what was found and cannot be used.
    """

    patients: tuple[Patient, ...]
    settings: Settings = field(default_factory=Settings)
    problems: tuple[str, ...] = ()

    @property
    def with_truth(self) -> int:
        """How many patients have a ground truth."""
        return sum(patient.truth is not None for patient in self.patients)


def plan(paths: Iterable[Path], settings: Settings | None = None, progress: Progress | None = None) -> Plan:
    """Find the patients in folders and files.

    NIfTI is found as `engine.sequences.find_cohort` finds it, with the ground truths; DICOM wherever a folder holds no
    NIfTI, a patient and day each. A patient of a DICOM export is called as the highest folder with nobody else in it
    is, or by a number where that folder is called as the person is.

    What the labels of truths mean is told from all of them together, where the settings do not say it. Where it cannot
    be told, that is among the problems, and the patients are segmented and not compared.

    Args:
        paths: Folders however deep, files of one patient, DICOM archives.
        settings: What will be done with the patients.
        progress: Told while folders are looked through; stops within a second.

    Raises:
        UnreadableImage: A path is not there, or there is no patient at all.
        SequenceProblem: There are patients, but every one of them has something wrong with it.
        Cancelled: The user asked to stop.
    """
    settings, progress = settings or Settings(), progress or Progress()
    found: list[Patient] = []
    problems: list[UserError] = []
    loose: list[Path] = []
    exports: list[tuple[Path, Path]] = []
    for path in dict.fromkeys(Path(path).absolute() for path in paths):
        if os.path.isdir(path):
            progress.update(0.0, f"looking through {shown(path)}")
            scans, inside = _divided(path, progress)
            if scans or not inside:
                with _kept(problems, may_be_empty=bool(inside)):
                    cohort = sequences.find_cohort(path, problems, to_segment=True)
                    found += [_of_files(files) for files in cohort]
            exports += [(path, export) for export in inside]
        elif nifti.is_nifti_name(path) or not dicom.looks_like_dicom([path]):
            loose.append(path)
        else:
            exports.append((path.parent, path))
    if loose:
        with _kept(problems):
            found += [_of_files(files) for files in sequences.find_subjects(loose)]
    found += _of_exports(exports, problems, progress.part(0.0, 0.8))
    if not found:
        raise problems[0] if problems else UnreadableImage("There is no patient there", "", "Choose another folder.")
    patients = _named_apart(sorted(found, key=lambda patient: _natural(patient.name)))
    truths = [patient.truth for patient in patients if patient.truth is not None]
    if truths and settings.labels is None:
        progress.update(0.8, "reading what the labels of the truths mean")
        with _kept(problems):
            settings = replace(settings, labels=_convention(truths, progress.part(0.8, 1.0)))
    return Plan(tuple(patients), settings, tuple(str(problem) for problem in problems))


class _kept:  # noqa: N801 - reads as the function that it stands for
    """Puts what the user can mend on a list instead of ending everything for it."""

    def __init__(self, problems: list[UserError], may_be_empty: bool = False) -> None:
        self._problems, self._may_be_empty = problems, may_be_empty

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> bool:
        if not isinstance(error, UserError):
            return False
        if not (self._may_be_empty and isinstance(error, UnreadableImage)):
            self._problems.append(error)
        return True


def _of_files(files: SubjectFiles) -> Patient:
    truth = files.segmentation
    if truth is not None and nifti.made_by_gliascope(truth):
        files = replace(files, segmentation=None)  # an earlier result beside the scans is no truth
    told = tuple(
        f"{shown(files.files[sequence])} was taken for {sequence.title}, with a doubt."
        for sequence in Sequence
        if sequence in files.uncertain and sequence in files.files
    )
    known = tuple(sequence for sequence in Sequence if sequence in files.files)
    return Patient(files.name, files, sequences=known, warnings=told)


def _divided(folder: Path, progress: Progress, depth: int = _DEPTH) -> tuple[bool, list[Path]]:
    """Whether a folder holds NIfTI, and the folders and archives in it with DICOM: the highest with files of their own.

    Where NIfTI and DICOM lie in one folder, the DICOM there is left alone, as `segment` does.
    """
    progress.check()
    try:
        with os.scandir(folder) as inside:
            entries = sorted((entry for entry in inside if not entry.name.startswith(".")), key=lambda one: one.name)
    except OSError:
        return True, []  # told in a sentence where NIfTI is looked for
    files = [Path(entry.path) for entry in entries if _is_file(entry)]
    folders = [Path(entry.path) for entry in entries if not _is_file(entry)]
    scans = any(nifti.is_nifti_name(file) for file in files)
    if not scans and _dicom_directly(files) and dicom.looks_like_dicom([folder]):
        return False, [folder]
    exports = [file for file in files if dicom_files.is_archive(file) and dicom_files.any_dicom(file)]
    sources: list[Path] = []
    for child in folders if depth else ():
        below, more = _divided(child, progress, depth - 1)
        if child.name.lower() == "sourcedata":  # of BIDS: what the NIfTI beside it was made from
            sources = more
        else:
            scans, exports = scans or below, [*exports, *more]
    return scans, exports if scans else [*exports, *sources]


def _is_file(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return not entry.is_dir()
    return True


def _dicom_directly(files: list[Path]) -> bool:
    checked = (file for file in files[:50] if not dicom_files.is_archive(file))
    with suppress(OSError):
        return any(dicom_files.is_directory_file(file) or dicom_files.any_dicom(file) for file in checked)
    return False


@dataclass
class _Scanned:
    """A patient and day of DICOM, while folder after folder is looked through."""

    exports: list[Path] = field(default_factory=list)
    series: set[str] = field(default_factory=set)
    sequences: set[Sequence] = field(default_factory=set)
    doubts: list[str] = field(default_factory=list)
    called: set[str] = field(default_factory=set)


def _of_exports(exports: list[tuple[Path, Path]], problems: list[UserError], progress: Progress) -> list[Patient]:
    """The patients of DICOM exports, each with the folder that was given; what belongs together is one patient."""
    found: dict[Hashable, _Scanned] = {}
    for number, (_, export) in enumerate(exports):
        part = progress.part(number / len(exports), (number + 1) / len(exports))
        with Workshop() as workshop, _kept(problems):
            for study in dicom.look([export], workshop, part):
                # Whose it is stays in memory, and is forgotten when everybody is found.
                one = found.setdefault(dicom.whose(study), _Scanned())
                one.exports.append(export)
                one.series |= {series.key for series in study.series}
                one.sequences |= set(study.chosen)
                one.doubts += study.doubts
                one.called |= _words(study.patient)
    roots = {export: root for root, export in exports}
    holds = Counter(place for one in found.values() for place in {p for e in one.exports for p in _above(e, roots[e])})
    patients = []
    for one in found.values():
        shared = set.intersection(*(set(_above(export, roots[export])) for export in one.exports))
        own = sorted((place for place in shared if holds[place] == 1), key=lambda place: len(place.parts))
        others = sorted(shared, key=lambda place: -len(place.parts))
        place = next(iter([*own, *others]), roots[one.exports[0]])
        name = place.stem if place in roots and dicom_files.is_archive(place) else place.name
        patients.append(
            Patient(
                name="patient" if not name or one.called & _words(name) else name,
                exports=tuple(dict.fromkeys(one.exports)),
                series=frozenset(one.series),
                sequences=tuple(sequence for sequence in Sequence if sequence in one.sequences),
                warnings=tuple(dict.fromkeys(one.doubts)) if len(one.exports) == 1 else (),
            )
        )
    return patients


def _above(export: Path, root: Path) -> list[Path]:
    """An export and the folders above it, up to the one that was given and without it, unless it is that itself."""
    if export == root:
        return [root]
    return [place for place in (export, *export.parents) if root in place.parents]


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[^0-9a-z]+", text.casefold()) if len(word) > 2}


def _named_apart(patients: list[Patient]) -> list[Patient]:
    """No two patients under one name, however a file system takes upper and lower case."""
    from engine.export import file_name

    taken: set[str] = set()
    apart = []
    for patient in patients:
        name, number = patient.name, 2
        while file_name(name).casefold() in taken:
            name, number = f"{patient.name}_{number}", number + 1
        taken.add(file_name(name).casefold())
        files = replace(patient.files, name=name) if patient.files is not None else None
        apart.append(replace(patient, name=name, files=files))
    return apart


def _natural(name: str) -> list[tuple[int, int, str]]:
    """So that patient 2 comes before patient 10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _convention(truths: list[Path], progress: Progress) -> Convention:
    """What the labels mean, told from all truths together, as no single one may hold them all.

    Raises:
        UserError: They do not say.
    """
    present: set[int] = set()
    for number, path in enumerate(truths):
        progress.update(number / len(truths), "reading what the labels of the truths mean")
        with suppress(UnreadableImage):  # told when the patient's turn comes
            present |= nifti.label_values(path)
    return nifti.tell_convention(present, truths)


def require_some(files: SubjectFiles, allowed: tuple[Sequence, ...]) -> SubjectFiles:
    """The files of those sequences that may be looked at.

    Raises:
        SequenceProblem: None of them is there.
    """
    if not allowed:
        return files
    kept = {sequence: path for sequence, path in files.files.items() if sequence in allowed}
    if not kept:
        raise SequenceProblem(
            f"{files.name} has no {in_words(allowed)}", "", "Leave the patient out, or allow other sequences."
        )
    return replace(
        files,
        files=kept,
        unknown=(),
        uncertain=files.uncertain & kept.keys(),
        volumes={sequence: index for sequence, index in files.volumes.items() if sequence in kept},
    )
