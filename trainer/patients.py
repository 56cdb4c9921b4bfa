"""The patients of a training: which files each has, what was decided about them, and the files that say so.

Patients come from a folder in any layout that `engine.sequences` knows, from a table (CSV), or from a manifest
(``patients.json``) that an earlier look at them wrote. Decisions live in the manifest alone; the scans are never
touched.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine import nifti, sequences
from engine.errors import GridMismatch, UserError
from engine.files import shown, whole_file
from engine.nifti import Convention
from engine.progress import Progress
from engine.sequences import SubjectFiles
from engine.volume import LabelMap, Sequence, Subject, in_order

FORMAT = 1
MANIFEST = "patients.json"
_TRUTH_COLUMNS = ("label", "seg", "truth", "mask")
_NAME_COLUMNS = ("patient", "name", "subject", "case")


@dataclass(frozen=True)
class Patient:
    """One patient: files and decisions, nothing read yet.

    Attributes:
        name: As in outputs, splits and configs; no two of a cohort share one.
        files: The file of each sequence there is.
        truth: The ground truth; ``None`` where there is none.
        convention: What its labels mean; ``None`` where the file itself is to say.
        included: Whether to learn from or score on this patient.
        source: The cohort or hospital it comes from; folds are balanced over sources.
        onto_first: Whether images and truth on other grids are brought onto the finest image's grid when they are read.
        volumes: Which volume of its file a sequence is, from 0, where files hold several (Decathlon).
        decisions: What was changed by consent, a sentence each.
    """

    name: str
    files: Mapping[Sequence, Path]
    truth: Path | None = None
    convention: Convention | None = None
    included: bool = True
    source: str = ""
    onto_first: bool = False
    volumes: Mapping[Sequence, int] = field(default_factory=dict)
    decisions: tuple[str, ...] = ()

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """Which sequences there are, in their fixed order."""
        return in_order(self.files)

    def has(self, wanted: Iterable[Sequence]) -> bool:
        """Whether all of these sequences are there."""
        return set(wanted) <= set(self.files)

    @property
    def subject_files(self) -> SubjectFiles:
        """The same for the reading functions of the engine."""
        folder = next(iter(self.files.values()), self.truth or Path(self.name)).parent
        return SubjectFiles(self.name, dict(self.files), (), self.truth, folder, volumes=dict(self.volumes))

    def read(self, progress: Progress | None = None) -> Subject:
        """Read the images.

        Raises:
            UserError: As `engine.sequences.load`.
            Cancelled: Asked to stop.
        """
        return sequences.load(self.subject_files, resample=self.onto_first, progress=progress)

    def read_truth(self, subject: Subject) -> LabelMap:
        """Read the ground truth in Gliascope's labels, on the grid of the images.

        Args:
            subject: The patient's images, as `read` gives them.

        Raises:
            UserError: There is none, or it cannot be read, or what its labels mean cannot be told.
            GridMismatch: It lies on another grid and was not allowed to be brought onto this one.
        """
        if self.truth is None:
            raise UserError(f"{self.name} has no ground truth", "", "Add it, or leave this patient out.")
        truth = nifti.read_label_map(self.truth, self.convention)
        if truth.grid.same_as(subject.grid):
            return truth
        if not self.onto_first:
            raise GridMismatch(
                f"{shown(self.truth)} does not lie on the grid of its images",
                subject.grid.difference(truth.grid),
                "Resample it, or leave this patient out.",
            )
        return sequences.resample_label_map(truth, subject.grid)


@dataclass(frozen=True)
class Patients:
    """The patients of a training.

    Attributes:
        patients: Sorted by name.
        origin: The folder, table or manifest they were read from.
        problems: What was found there and cannot be used, a sentence each.
    """

    patients: tuple[Patient, ...]
    origin: Path
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "patients", tuple(sorted(self.patients, key=lambda patient: patient.name)))
        names = [patient.name for patient in self.patients]
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise ValueError(f"two patients are called {twice}")

    def __len__(self) -> int:
        return len(self.patients)

    def __iter__(self) -> Iterator[Patient]:
        return iter(self.patients)

    @staticmethod
    def read(path: Path) -> Patients:
        """Find patients; their files are not opened.

        Args:
            path: A folder of patients; a table ``.csv`` with the columns ``patient``, any of ``t1``, ``t1ce``, ``t2``
                and ``flair``, and if wanted ``label`` and ``source``; or a ``patients.json``. Paths in either file
                count from where it lies.

        Raises:
            UserError: There are none, or the table or manifest makes no sense.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind == ".csv" and not path.is_dir():
            return _from_table(path)
        if kind == ".json" and not path.is_dir():
            return _from_manifest(path)
        return _from_folder(path)

    def write(self, path: Path) -> None:
        """Write the manifest; `read` gives the same patients back.

        Files are named relative to one folder, which is named once, so that a cohort that lies elsewhere, as on a
        cluster, takes the change of one line.

        Raises:
            CannotWrite: The system refused; what was there before is still there.
        """
        text = json.dumps(_record(self, path.absolute().parent), indent=1, ensure_ascii=False) + "\n"
        with whole_file(path) as partial:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")

    def named(self, name: str) -> Patient:
        """The patient of that name.

        Raises:
            UserError: There is none.
        """
        for patient in self.patients:
            if patient.name == name:
                return patient
        raise UserError(f"There is no patient {name} in {shown(self.origin)}", "", "Check the names in the config.")

    def having(self, wanted: Iterable[Sequence]) -> Patients:
        """Those to learn from that have a ground truth and all of these sequences."""
        chosen = tuple(wanted)
        return replace(
            self, patients=tuple(p for p in self.patients if p.included and p.truth is not None and p.has(chosen))
        )

    def with_patient(self, patient: Patient) -> Patients:
        """With this patient, in the place of the one of the same name where there is one."""
        return replace(self, patients=(*(p for p in self.patients if p.name != patient.name), patient))


# --- folders ----------------------------------------------------------------------------------------------------------


def _from_folder(folder: Path) -> Patients:
    problems: list[UserError] = []
    found = sequences.find_cohort(folder, problems)
    parents = {subject.folder.parent for subject in found if subject.folder != folder}
    patients = tuple(
        Patient(
            subject.name,
            subject.files,
            subject.segmentation,
            source=_source(subject, folder, several=len(parents) > 1),
            volumes=subject.volumes,
        )
        for subject in found
        if subject.files
    )
    if not patients:
        raise sequences.nothing_known(found[0])
    return Patients(patients, folder, tuple(str(problem) for problem in problems))


def _source(subject: SubjectFiles, folder: Path, several: bool) -> str:
    """The folder that holds the patient's, where there are several; else what the names of a cohort begin with."""
    if several and subject.folder != folder:
        return subject.folder.parent.relative_to(folder).as_posix()
    # Brats18_TCIA01_201_1 is a patient of TCIA01; BraTS2021_00006 says no more than BraTS2021.
    known = re.match(r"(?i)brats\d\d_([a-z]+\d*|20\d\d)(?=_)", subject.name)
    known = known or re.match(r"(?=[^\W\d])[\w -]*?(?=[-_ ]\d+(?:[-_ ]|$))", subject.name)
    # BIDS begins all names alike.
    return known[0] if known and known[0].lower() != "sub" else ""


# --- tables -----------------------------------------------------------------------------------------------------------


def _from_table(path: Path) -> Patients:
    text = _text(path)
    try:
        dialect = csv.Sniffer().sniff(text.partition("\n")[0], ",;\t")
    except csv.Error:
        dialect = csv.excel
    rows = csv.DictReader(io.StringIO(text), dialect=dialect)
    columns = {(title or "").strip().lower(): title for title in rows.fieldnames or ()}
    name_column = next((columns[title] for title in _NAME_COLUMNS if title in columns), None)
    truth_column = next((columns[title] for title in _TRUTH_COLUMNS if title in columns), None)
    held = {sequence: columns[sequence.value] for sequence in Sequence if sequence.value in columns}
    if name_column is None or not held:
        raise UserError(
            f"{shown(path)} is not a table of patients",
            "its first line names no column patient" if name_column is None else "it names none of the sequences",
            "Give it the columns patient, t1, t1ce, t2, flair, label; those of absent sequences may be left out.",
        )
    patients: dict[str, Patient] = {}
    for number, row in enumerate(rows, 2):
        cells = {title: (value or "").strip() for title, value in row.items() if isinstance(value, str | None)}
        name = cells.get(name_column, "")
        if not any(cells.values()):
            continue
        if not name:
            raise UserError(f"Line {number} of {shown(path)} names no patient", "", "Fill in its first column.")
        if name in patients:
            raise UserError(f"{shown(path)} names {name} twice", f"again in line {number}", "Give each its own name.")
        files = {sequence: path.parent / cells[title] for sequence, title in held.items() if cells.get(title)}
        if not files:
            raise UserError(f"{shown(path)} names no scan of {name}", f"line {number}", "Fill it in or drop the line.")
        drawn = cells.get(truth_column, "") if truth_column else ""
        patients[name] = Patient(
            name,
            files,
            path.parent / drawn if drawn else None,
            source=cells.get(columns.get("source", ""), ""),
        )
    if not patients:
        raise UserError(f"{shown(path)} names no patient", "", "Give it a line a patient.")
    return Patients(tuple(patients.values()), path)


# --- the manifest -----------------------------------------------------------------------------------------------------


def _record(patients: Patients, beside: Path) -> dict[str, Any]:
    named = [path.absolute() for p in patients.patients for path in (*p.files.values(), p.truth) if path is not None]
    folder = _common(named)
    if folder is None:
        base = ""
    else:
        base = folder.relative_to(beside).as_posix() if folder.is_relative_to(beside) else str(folder)
    return {
        "format": FORMAT,
        "folder": base,
        "patients": [_patient_record(patient, folder) for patient in patients.patients],
    }


def _patient_record(patient: Patient, folder: Path | None) -> dict[str, Any]:
    def written(path: Path) -> str:
        return str(path.absolute()) if folder is None else path.absolute().relative_to(folder).as_posix()

    record: dict[str, Any] = {
        "name": patient.name,
        "files": {sequence.value: written(patient.files[sequence]) for sequence in patient.sequences},
        "truth": None if patient.truth is None else written(patient.truth),
        "convention": None if patient.convention is None else patient.convention.value,
        "included": patient.included,
        "source": patient.source,
        "onto_first": patient.onto_first,
    }
    if patient.volumes:
        record["volumes"] = {sequence.value: patient.volumes[sequence] for sequence in in_order(patient.volumes)}
    if patient.decisions:
        record["decisions"] = list(patient.decisions)
    return record


def _common(paths: list[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError:  # none at all, or on several drives
        return None


def _from_manifest(path: Path) -> Patients:
    try:
        fields = json.loads(_text(path))
    except json.JSONDecodeError as error:
        where = f"no JSON at line {error.lineno}, column {error.colno}"
        raise UserError(f"{shown(path)} is not a list of patients", where, "Mend that place.") from error
    try:
        version = fields.get("format", FORMAT)
        if version > FORMAT:
            raise UserError(f"{shown(path)} comes from a newer Gliascope", "", "Update this one.")
        folder = path.absolute().parent / fields.get("folder", "")
        patients = tuple(_patient(record, folder) for record in fields["patients"])
        found = Patients(patients, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{shown(path)} is not a list of patients", reason, "Mend that place.") from error
    if not found.patients:
        raise UserError(f"{shown(path)} names no patient", "", "Choose the folder of the scans instead.")
    return found


def _patient(record: dict[str, Any], folder: Path) -> Patient:
    return Patient(
        name=str(record["name"]),
        files={Sequence(sequence): folder / file for sequence, file in record["files"].items()},
        truth=None if record.get("truth") is None else folder / record["truth"],
        convention=None if record.get("convention") is None else Convention(record["convention"]),
        included=bool(record.get("included", True)),
        source=str(record.get("source", "")),
        onto_first=bool(record.get("onto_first", False)),
        volumes={Sequence(sequence): int(number) for sequence, number in record.get("volumes", {}).items()},
        decisions=tuple(str(sentence) for sentence in record.get("decisions", ())),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(path)} is not text in UTF-8", "", "Save it as CSV in UTF-8.") from error
    except OSError as error:
        reason = (error.strerror or "the system gave no reason").lower()
        raise UserError(f"{shown(path)} cannot be read", reason, "Check the path.") from error
