"""Many patients, one after the other and side by side: stopped at any moment, gone on with, none lost, none twice.

A batch is a folder:

    batch.json                what is to be done; written once
    journal.jsonl             what has happened, a line each, on the disk before anything else is done
    patients/NAME/            all outputs of one patient, as `segment` writes them, with ``row.json`` and a thumbnail
    summary.csv, summary.json the table, written when the batch comes to its end or is stopped

A patient's folder is filled under another name and gets its own in one step, so it is whole or not there. Resuming
after whatever kind of end is opening the folder again: what has its folder is done, everything else is still to do.

The work is done by other processes, see `engine.batch_work`; this one only hands it out, gives folders their names and
keeps the journal, so it can die at any moment too.
"""

from __future__ import annotations

import csv
import io
import json
import os
import queue
import secrets
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from engine import export, provenance
from engine.batch_plan import Patient, Plan, Settings, plan
from engine.batch_work import ROW, Crew, Message, processes_here
from engine.errors import Cancelled, CannotWrite, UnreadableImage, UserError
from engine.files import Locked, locked, shown, unwritten, whole_file
from engine.metrics import RegionScore
from engine.model_card import REGIONS, RESEARCH_USE
from engine.progress import Progress
from engine.volume import Sequence

__all__ = [
    "Batch", "Done", "Event", "Failed", "Finished", "Patient", "Paused", "Plan", "Progressed", "Row", "Settings",
    "Started", "State", "plan",
]  # fmt: skip

JOB = "batch.json"
JOURNAL = "journal.jsonl"
PATIENTS = "patients"
LOG = "workers.log"
SUMMARY = "summary"
FORMAT = 1

_LOCK = ".gliascope-lock"
_PART = ".gliascope-part-"
_LOOK_SECONDS = 0.2
# A worker that dies twice over the same patient dies of it.
_MOST_DEATHS = 2


class State(StrEnum):
    """Where a patient stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Row:
    """One patient, as a table shows it.

    Attributes:
        name: Of the patient; no two rows share one.
        state: Where the patient stands.
        sequences: That are there, in their fixed order; once done those that were found, before that as names tell.
        used: The sequences that the model looked at; empty until done.
        model: Its name; empty until done.
        reason: Why this model, in a sentence.
        volumes_ml: By region, ``"whole_tumour"`` and ``"tumour_core"``.
        intervals_ml: Of the volumes, where they are known: in 90 of 100 patients the truth lies between these.
        seconds: From reading to the last output.
        device: What it was computed on.
        warnings: Sentences that a person should read.
        error: Why it failed, in a sentence; empty otherwise.
        scores: By region, where there is a ground truth.
        learnt_from: Whether the model was trained on a patient of this name, so that its scores say nothing.
        mask: The mask on the grid of the reference.
        thumbnail: A small picture of the slice with most tumour.
        outputs: Everything in the patient's folder by what it is.
        folder: Where the scans lie, to open them.
        truth: The ground truth.
        fraction: How far it has come while running, 0..1.
        message: What is being done, in words.
    """

    name: str
    state: State = State.WAITING
    sequences: tuple[Sequence, ...] = ()
    used: tuple[Sequence, ...] = ()
    model: str = ""
    reason: str = ""
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    intervals_ml: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float = 0.0
    device: str = ""
    warnings: tuple[str, ...] = ()
    error: str = ""
    scores: Mapping[str, RegionScore] = field(default_factory=dict)
    learnt_from: bool = False
    mask: Path | None = None
    thumbnail: Path | None = None
    outputs: Mapping[str, Path] = field(default_factory=dict)
    folder: Path = Path()
    truth: Path | None = None
    fraction: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Started:
    """A patient's turn has come."""

    name: str
    row: Row


@dataclass(frozen=True)
class Progressed:
    """How far a patient has come; told a few times a second at most. `Row.fraction` and `Row.message` say it too."""

    name: str
    fraction: float
    message: str


@dataclass(frozen=True)
class Finished:
    """A patient is done, and everything of it is on the disk."""

    name: str
    row: Row


@dataclass(frozen=True)
class Failed:
    """A patient could not be done; ``row.error`` says why. The others go on."""

    name: str
    row: Row


@dataclass(frozen=True)
class Paused:
    """The batch was paused, or goes on."""

    paused: bool


@dataclass(frozen=True)
class Done:
    """Nothing is left to do, or it was stopped; the last event of a run."""

    rows: tuple[Row, ...]
    stopped: bool
    summary: Path


Event = Started | Progressed | Finished | Failed | Paused | Done


class Hands(Protocol):
    """Those who do the work: processes on this machine, or a cluster's. All methods come from one thread.

    What they have to say they put into the queue they were made with: see `engine.batch_work.Message`.
    """

    @property
    def free(self) -> int:
        """How many more patients they take just now."""

    def begin(self, patient: Patient, into: Path) -> None:
        """Segment a patient, the outputs to be put into a folder that is there and empty."""

    def pause(self, paused: bool) -> None:
        """Hold still at the next chance, or go on."""

    def close(self) -> None:
        """Stop at once, whatever is being done."""


# --- the batch --------------------------------------------------------------------------------------------------------


class Batch:
    """A batch on the disk, as far as it has come.

        batch = Batch.create(plan([folder]), out)    # or Batch.open(out), to go on
        batch.run(print, progress)

    `run` works until nothing is left, on the thread it is called from. `pause`, `go_on`, `retry`, `rows` and `row` may
    be called from any thread meanwhile.

    Attributes:
        out: The folder of the batch.
        patients: All of them, in order.
        settings: For all of them.
        problems: Sentences about what was found and could not be used.
    """

    def __init__(self, out: Path, planned: Plan) -> None:
        self.out = out
        self.patients = planned.patients
        self.settings = planned.settings
        self.problems = planned.problems
        self._by_name = {patient.name: patient for patient in planned.patients}
        self._journal = Journal(out / JOURNAL)
        self._changing = threading.RLock()
        self._rows = {patient.name: _waiting(patient) for patient in planned.patients}
        self._paused = False
        self._deaths: dict[str, int] = {}
        self._restore()

    @classmethod
    def create(cls, planned: Plan, out: Path) -> Batch:
        """Begin a batch in a folder; nothing is computed yet.

        Args:
            planned: From `plan`.
            out: Made if it is not there.

        Raises:
            CannotWrite: There is a batch already, or the folder cannot be written to.
            UserError: There is nobody to segment.
        """
        if not planned.patients:
            raise UserError("There is no patient to segment", "", "Choose another folder.")
        out = out.absolute()
        if (out / JOB).exists():
            raise CannotWrite(f"{shown(out)} holds a batch already", "", "Go on with it, or choose another folder.")
        job = {
            "format": FORMAT,
            "software": {"name": "Gliascope", "version": provenance.version()},
            "research_use": RESEARCH_USE,
            "settings": planned.settings.to_json(),
            "problems": list(planned.problems),
            "patients": [patient.to_json() for patient in planned.patients],
        }
        try:
            (out / PATIENTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritten(out / JOB, error) from error
        with whole_file(out / JOB) as partial:
            partial.write_text(json.dumps(job, indent=1) + "\n", encoding="utf-8")
        return cls(out, planned)

    @classmethod
    def open(cls, out: Path) -> Batch:
        """A batch that was begun before, to look at or to go on with.

        Raises:
            UnreadableImage: There is none, or what it says cannot be read.
        """
        out = out.absolute()
        try:
            job = json.loads((out / JOB).read_text(encoding="utf-8"))
            if job["format"] > FORMAT:
                raise UnreadableImage(
                    f"The batch in {shown(out)} was begun by a newer Gliascope", "", "Go on with it there."
                )
            patients = tuple(Patient.from_json(one) for one in job["patients"])
            planned = Plan(patients, Settings.from_json(job["settings"]), tuple(job["problems"]))
        except FileNotFoundError as error:
            raise UnreadableImage(
                f"There is no batch in {shown(out)}", "", "Choose the folder of its results."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnreadableImage(
                f"{JOB} in {shown(out)} cannot be read", "", "Begin the batch again in another folder."
            ) from error
        return cls(out, planned)

    # --- looking

    @property
    def rows(self) -> tuple[Row, ...]:
        """All patients, in order, as they stand now."""
        with self._changing:
            return tuple(self._rows.values())

    def row(self, name: str) -> Row:
        """One patient, as it stands now."""
        with self._changing:
            return self._rows[name]

    def patient(self, name: str) -> Patient:
        """Who is behind a row, to open the scans."""
        return self._by_name[name]

    def count(self, state: State) -> int:
        """How many patients are in a state."""
        return sum(row.state is state for row in self.rows)

    @property
    def paused(self) -> bool:
        """Whether nothing new is begun and the workers hold still."""
        return self._paused

    # --- steering

    def pause(self) -> None:
        """Hold everything still; what is being computed stays where it is, in memory."""
        self._paused = True

    def go_on(self) -> None:
        """Go on after a pause."""
        self._paused = False

    def retry(self, names: Iterable[str] | None = None) -> int:
        """Let patients that failed or were left out have another turn, in this run or the next.

        Args:
            names: Of them; all that failed when not given.

        Returns:
            How many were put back.
        """
        wanted = None if names is None else set(names)
        again = 0
        with self._changing:
            for name, row in self._rows.items():
                asked = row.state is State.FAILED if wanted is None else name in wanted
                if asked and row.state in (State.FAILED, State.SKIPPED):
                    self._journal.write({"event": "again", "name": name})
                    self._deaths.pop(name, None)
                    self._rows[name] = _waiting(self._by_name[name])
                    again += 1
        return again

    def skip(self, names: Iterable[str]) -> int:
        """Leave out patients whose turn has not come; returns how many."""
        left_out = 0
        with self._changing:
            for name in set(names):
                if self._rows[name].state is State.WAITING:
                    self._journal.write({"event": "skipped", "name": name})
                    self._rows[name] = replace(self._rows[name], state=State.SKIPPED)
                    left_out += 1
        return left_out

    def run(
        self,
        on_event: Callable[[Event], None] = lambda event: None,
        progress: Progress | None = None,
        jobs: int = 0,
        scheduler: str = "",
    ) -> None:
        """Work until nobody is waiting any more.

        Args:
            on_event: Told what happens, on this thread.
            progress: Of all patients together; cancelling it stops everything within a second. Who was being computed
                then waits again.
            jobs: Processes side by side; 0 for as many as there are processor cores and memory for.
            scheduler: Address of a Dask scheduler whose workers are to do the work, such as ``tcp://host:8786``.

        Raises:
            CannotWrite: Another process works on the batch, or the folder cannot be written to any more.
            UserError: The scheduler cannot be used.
            Cancelled: ``progress`` was cancelled.
        """
        progress = progress or Progress()
        try:
            with locked(self.out / _LOCK, 1.0):
                self._sweep()
                self._restore()
                self._work(on_event, progress, jobs, scheduler)
        except Locked as error:
            raise CannotWrite(
                f"Somebody works on the batch in {shown(self.out)} already", "", "Wait for it, or stop it there."
            ) from error
        except OSError as error:
            raise unwritten(self.out / JOURNAL, error) from error

    # --- working

    def _work(self, on_event: Callable[[Event], None], progress: Progress, jobs: int, scheduler: str) -> None:
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        hands: Hands
        if scheduler:
            from engine.batch_cluster import Cluster

            hands = Cluster(self.settings, messages, scheduler, progress)
        else:
            hands = Crew(
                self.settings, messages, min(jobs or processes_here(self.settings), len(self.patients)), self.out / LOG
            )
        parts: dict[str, Path] = {}
        held = stopped = False
        try:
            while True:
                if held != self._paused:
                    held = self._paused
                    hands.pause(held)
                    on_event(Paused(held))
                self._tell_all(progress)
                waiting = [row.name for row in self.rows if row.state is State.WAITING]
                for name in waiting[: 0 if held else max(0, hands.free)]:
                    parts[name] = self._part()
                    self._set(name, state=State.RUNNING, message="waiting for a worker")
                    hands.begin(self._by_name[name], parts[name])
                if not parts and not waiting:
                    break
                with suppress(queue.Empty):
                    message = messages.get(timeout=_LOOK_SECONDS)
                    while True:
                        self._hear(message, parts, hands, on_event)
                        message = messages.get_nowait()
        except Cancelled:
            stopped = True
            raise
        finally:
            stopped = stopped or bool(parts)
            hands.close()
            for name, part in parts.items():
                shutil.rmtree(part, ignore_errors=True)
                self._rows[name] = _waiting(self._by_name[name])
            summary = self.write_summary()
            on_event(Done(self.rows, stopped, summary))

    def _hear(self, message: Message, parts: dict[str, Path], hands: Hands, on_event: Callable[[Event], None]) -> None:
        name = message.name
        if name not in parts:  # said after its end
            return
        if message.kind == "started":
            self._set(name, message="starting")
            on_event(Started(name, self._rows[name]))
        elif message.kind == "progressed":
            self._set(name, fraction=message.fraction, message=message.text)
            on_event(Progressed(name, message.fraction, message.text))
        elif message.kind == "done":
            try:
                self._keep(name, parts[name], message.files)
            except OSError as error:
                broken = str(unwritten(self._folder(name), error))
                self._hear(Message("failed", name, text=broken), parts, hands, on_event)
                return
            del parts[name]
            self._journal.write({"event": "done", "name": name})
            with self._changing:
                self._rows[name] = self._done(self._by_name[name], message.row)
            on_event(Finished(name, self._rows[name]))
        elif message.kind == "lost" and self._deaths.get(name, 0) + 1 < _MOST_DEATHS:
            self._deaths[name] = self._deaths.get(name, 0) + 1
            if message.for_memory and isinstance(hands, Crew):
                hands.fewer()
            shutil.rmtree(parts.pop(name), ignore_errors=True)
            self._journal.write({"event": "lost", "name": name, "why": message.text})
            with self._changing:
                self._rows[name] = _waiting(self._by_name[name])
        else:
            shutil.rmtree(parts.pop(name), ignore_errors=True)
            why = message.text
            if message.kind == "lost":
                why = f"What segmented {name} {message.text}, {_MOST_DEATHS} times. Try it again by itself."
            self._journal.write({"event": "failed", "name": name, "error": why})
            with self._changing:
                self._rows[name] = replace(_waiting(self._by_name[name]), state=State.FAILED, error=why)
            on_event(Failed(name, self._rows[name]))

    def _set(self, name: str, **changes: Any) -> None:
        with self._changing:
            self._rows[name] = replace(self._rows[name], **changes)

    def _tell_all(self, progress: Progress) -> None:
        rows = self.rows
        ended = sum(row.state in (State.DONE, State.FAILED, State.SKIPPED) for row in rows)
        running = [row for row in rows if row.state is State.RUNNING]
        fraction = (ended + sum(row.fraction for row in running)) / len(rows)
        words = f"{ended} of {len(rows)} patients"
        progress.update(fraction, f"{words}, paused" if self._paused else words)

    # --- the disk

    def _part(self) -> Path:
        part = self.out / PATIENTS / f"{_PART}{secrets.token_hex(6)}"
        part.mkdir()
        return part

    def _folder(self, name: str) -> Path:
        return self.out / PATIENTS / export.file_name(name)

    def _keep(self, name: str, part: Path, files: Mapping[str, bytes]) -> None:
        """Give a whole folder its name; what has that name and is no result of this batch is not replaced."""
        folder = self._folder(name)
        for file_name, content in files.items():
            (part / file_name).write_bytes(content)
        for file in part.iterdir():
            _to_disk(file)
        _to_disk(part)
        os.rename(part, folder)
        _to_disk(folder.parent)

    def _sweep(self) -> None:
        """Remove what a run that was killed left half done."""
        for part in (self.out / PATIENTS).glob(f"{_PART}*"):
            shutil.rmtree(part, ignore_errors=True)

    def _restore(self) -> None:
        """Where everybody stands, from the journal and the folders that are there."""
        failed: dict[str, str] = {}
        skipped: set[str] = set()
        for entry in self._journal.read():
            name = str(entry.get("name", ""))
            if entry.get("event") == "failed":
                failed[name] = str(entry.get("error", ""))
            elif entry.get("event") == "skipped":
                skipped.add(name)
            elif entry.get("event") == "again":
                failed.pop(name, None)
                skipped.discard(name)
        with self._changing:
            for name, patient in self._by_name.items():
                record = _row_record(self._folder(name))
                if record is not None:
                    self._rows[name] = self._done(patient, record)
                elif name in failed:
                    self._rows[name] = replace(_waiting(patient), state=State.FAILED, error=failed[name])
                elif name in skipped:
                    self._rows[name] = replace(_waiting(patient), state=State.SKIPPED)
                else:
                    self._rows[name] = _waiting(patient)

    def _done(self, patient: Patient, record: Mapping[str, Any]) -> Row:
        folder = self._folder(patient.name)
        return Row(
            name=patient.name,
            state=State.DONE,
            sequences=tuple(Sequence(value) for value in record["sequences"]),
            used=tuple(Sequence(value) for value in record["used"]),
            model=record["model"],
            reason=record["reason"],
            volumes_ml=record["volumes_ml"],
            intervals_ml={region: (low, high) for region, (low, high) in record["intervals_ml"].items()},
            seconds=record["seconds"],
            device=record["device"],
            warnings=tuple(record["warnings"]),
            scores={region: RegionScore(**score) for region, score in record["scores"].items()},
            learnt_from=record["learnt_from"],
            mask=folder / record["mask"],
            thumbnail=folder / record["thumbnail"],
            outputs={what: folder / name for what, name in record["outputs"].items()},
            folder=patient.folder,
            truth=patient.truth,
            fraction=1.0,
        )

    # --- the end

    def write_summary(self) -> Path:
        """Write ``summary.csv`` and ``summary.json`` of everybody as they stand now; returns the former.

        Raises:
            CannotWrite: The folder cannot be written to.
        """
        rows = self.rows
        table, record = self.out / f"{SUMMARY}.csv", self.out / f"{SUMMARY}.json"
        with whole_file(table) as partial:
            partial.write_bytes(as_csv(rows, self.out).encode("utf-8", "replace"))
        with whole_file(record) as partial:
            text = json.dumps(summary(rows, self.problems), sort_keys=True, indent=2)
            partial.write_text(text + "\n", encoding="utf-8")
        return table


class Journal:
    """Lines of JSON that are only ever added to, each on the disk before anything is done that relies on it.

    A line that its writer did not get to the end of is passed over when read and cut off before the next is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._checked = False

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add a line."""
        line = (json.dumps({**entry, "time": _now()}) + "\n").encode()
        with self._writing:
            if not self._checked:
                self._cut_torn_line()
                self._checked = True
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All whole lines, in order."""
        entries = []
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        for line in lines[:-1]:  # behind the last newline is nothing, or a torn line
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    entries.append(entry)
        return entries

    def _cut_torn_line(self) -> None:
        with suppress(FileNotFoundError), self._path.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _to_disk(path: Path) -> None:
    """Make sure that a file, or the names in a folder, outlast a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and orders their changes itself
        return
    opened = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _row_record(folder: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        record = json.loads((folder / ROW).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else None
    return None


def _waiting(patient: Patient) -> Row:
    return Row(
        patient.name,
        sequences=patient.sequences,
        warnings=patient.warnings,
        folder=patient.folder,
        truth=patient.truth,
    )


# --- the table --------------------------------------------------------------------------------------------------------

COLUMNS = (
    "patient", "state", "sequences", "used", "model",
    *(f"{region}_{what}" for region in REGIONS for what in ("ml", "low_ml", "high_ml")),
    *(f"{region}_{what}" for region in REGIONS for what in ("dice", "hd95_mm", "truth_ml")),
    "learnt_from", "seconds", "device", "mask", "warnings", "error",
)  # fmt: skip


def as_csv(rows: Collection[Row], out: Path) -> str:
    """A line a patient; a cell is empty where there is no such value. Masks are named from the batch's folder on."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for row in rows:
        cells: dict[str, Any] = {
            "patient": row.name,
            "state": row.state.value,
            "sequences": " ".join(row.sequences),
            "used": " ".join(row.used),
            "model": row.model,
            "warnings": " ".join(row.warnings),
            "error": row.error,
        }
        for region, ml in row.volumes_ml.items():
            low, high = row.intervals_ml.get(region, ("", ""))
            cells |= {f"{region}_ml": ml, f"{region}_low_ml": low, f"{region}_high_ml": high}
        for region, score in row.scores.items():
            cells |= {
                f"{region}_dice": f"{score.dice:.6g}",
                f"{region}_hd95_mm": f"{score.hd95_mm:.6g}",
                f"{region}_truth_ml": f"{score.truth_ml:.6g}",
            }
        if row.state is State.DONE:
            cells |= {"learnt_from": "yes" if row.learnt_from else "no", "seconds": row.seconds, "device": row.device}
        if row.mask is not None:
            cells["mask"] = row.mask.relative_to(out).as_posix()
        table.writerow(cells)
    return text.getvalue()


def summary(rows: Collection[Row], problems: Iterable[str] = ()) -> dict[str, Any]:
    """How many patients ended how, and what the comparison with the truth gave, as plain JSON values.

    Patients that the model was trained on are told and kept out of ``scores``; with them it is ``scores_of_all``.
    """
    scored = [row for row in rows if row.scores]
    unseen = [row for row in scored if not row.learnt_from]
    models: dict[str, int] = {}
    for row in rows:
        if row.model:
            models[row.model] = models.get(row.model, 0) + 1
    return {
        "research_use": RESEARCH_USE,
        "software": {"name": "Gliascope", "version": provenance.version()},
        "patients": len(rows),
        "states": {state.value: sum(row.state is state for row in rows) for state in State},
        "models": models,
        "failed": [{"name": row.name, "error": row.error} for row in rows if row.state is State.FAILED],
        "problems": list(problems),
        "learnt_from": [row.name for row in scored if row.learnt_from],
        **({"scores": _spread(unseen)} if unseen else {}),
        **({"scores_of_all": _spread(scored)} if len(unseen) < len(scored) else {}),
    }


def _spread(rows: list[Row]) -> dict[str, Any]:
    spread: dict[str, Any] = {"patients": len(rows)}
    for region in REGIONS:
        spread[region] = {}
        for number in ("dice", "hd95_mm"):
            values = [float(getattr(row.scores[region], number)) for row in rows]
            spread[region] |= {
                f"{number}_mean": round(statistics.fmean(values), 6),
                f"{number}_sd": round(statistics.stdev(values), 6) if len(values) > 1 else 0.0,
                f"{number}_median": round(statistics.median(values), 6),
            }
    return spread
