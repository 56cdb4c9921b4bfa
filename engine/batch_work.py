"""The work of a batch: one patient into one folder, by processes of this machine or by those of a Dask cluster.

A worker never gives anything its final name and never touches the journal. It fills a folder it is told, says that it
is done, and may be killed at any moment before without a trace. When whoever began it dies, it ends.

Every process computes with as many threads as `segment` does: what a network says depends in its last bits on how many
share the work, and a batch writes the same bytes as `segment`. Most of a patient's time is reading, finding edges,
comparing and packing, which is done by one thread; so there are as many processes as processor cores, and while one
reads or writes the others compute.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.batch_plan import Patient, Settings, require_some
from engine.batch_worker import GRACE_SECONDS, Orders
from engine.errors import Cancelled, UserError
from engine.files import unwritten, whole_file
from engine.progress import Progress

if TYPE_CHECKING:
    from engine.flow import Models, Result, Scans

ROW = "row.json"

_TELL_SECONDS = 0.2
# Of one process with a network, four scans and their probabilities; 0.7 GB were measured.
_PROCESS_MB = 1200
_MOST_PROCESSES = 32
# Each has its network in the GPU's memory; preparing the scans keeps so many processor cores busy.
_MOST_ON_A_GPU = 4
# 160 pixels wide, lines a pixel and a half.
_PICTURE_MM, _PICTURE_DPI = 25.4, 160.0

Kind = Literal["started", "progressed", "done", "failed", "lost"]


@dataclass(frozen=True)
class Message:
    """What whoever does the work says of a patient.

    Attributes:
        kind: ``"lost"`` is the end of a worker over a patient.
        name: Of the patient.
        fraction: How far, 0..1.
        text: What is being done, why it failed, or how the worker ended.
        row: Of a patient that is done, what `segment_one` gave.
        files: Of a patient done elsewhere, the outputs by their names; empty where they lie in the folder already.
        for_memory: Whether a worker that was lost most likely had too little memory.
    """

    kind: Kind
    name: str
    fraction: float = 0.0
    text: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    for_memory: bool = False


# --- one patient ------------------------------------------------------------------------------------------------------


def segment_one(patient: Patient, settings: Settings, models: Models, into: Path, progress: Progress) -> dict[str, Any]:
    """Do everything with one patient that a batch does.

    Args:
        patient: From a plan.
        settings: Of the plan.
        models: Shared by all patients of a process.
        into: An empty folder; gets the outputs.
        progress: Told of every stage.

    Returns:
        Plain JSON values for a row of the table; outputs by their names in the folder. ``row.json`` says the same.

    Raises:
        UserError: Something the user can mend.
        Cancelled: ``progress`` was cancelled.
    """
    from engine import flow

    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        found = _found(patient, settings, stack, progress.part(0.0, 0.05))
        scans = _allowed(flow.read(found, progress.part(0.05, 0.15)), settings)
        wanted = replace(settings.wanted, dicom_seg=settings.wanted.dicom_seg and patient.files is None)
        result = flow.compute(scans, models, settings.steps, progress.part(0.15, 0.9), wanted)
        progress.update(0.9, "saving")
        saved = result.save(into, wanted, progress=progress.part(0.9, 0.94))
        outputs = {"sidecar": saved.sidecar}
        outputs |= {f"mask_{sequence}": path for sequence, path in saved.others.items()}
        outputs |= saved.more
        notes = [*result.notes, *saved.notes]
        scores: dict[str, Any] = {}
        if patient.truth is not None:
            progress.update(0.94, "comparing with the truth")
            scores, said = _scores(patient.truth, settings, result)
            notes += said
        progress.update(0.97, "drawing")
        thumbnail = into / f"{saved.mask.name.removesuffix('_seg.nii.gz')}_thumbnail.png"
        _draw(result, thumbnail)
    card = result.choice.card
    segmentation = result.segmentation
    row = {
        "sequences": [sequence.value for sequence in scans.volumes],
        "used": [sequence.value for sequence in segmentation.used],
        "model": card.name,
        "reason": result.choice.reason,
        "volumes_ml": {region: round(float(ml), 3) for region, ml in segmentation.volumes_ml.items()},
        "intervals_ml": {
            region: [round(float(ml), 3) for ml in interval]
            for region, interval in segmentation.intervals_ml.items()
            if interval is not None
        },
        "device": segmentation.device,
        "warnings": list(dict.fromkeys(notes)),
        "scores": scores,
        "learnt_from": patient.name in card.learnt_from,
        "mask": saved.mask.name,
        "thumbnail": thumbnail.name,
        "outputs": {what: path.name for what, path in outputs.items()},
        "seconds": round(time.perf_counter() - began, 2),
    }
    with whole_file(into / ROW) as partial:
        partial.write_text(json.dumps(row, sort_keys=True, indent=2) + "\n", encoding="utf-8")
    progress.update(1.0, "done")
    return row


def _found(patient: Patient, settings: Settings, stack: contextlib.ExitStack, progress: Progress) -> Any:
    """The patient as `engine.flow` takes one, with a private folder for converted DICOM that outlives the outputs."""
    from engine import flow

    if patient.files is not None:
        files = require_some(patient.files, settings.sequences)
        return flow.Patient(patient.name, files, where=str(files.folder))
    from engine import dicom
    from engine.workshop import Workshop

    workshop = stack.enter_context(Workshop())
    studies = dicom.look(patient.exports, workshop, progress)
    study = max(studies, key=lambda one: len(patient.series & {series.key for series in one.series}))
    if settings.sequences:
        study = replace(study, chosen={s: one for s, one in study.chosen.items() if s in settings.sequences})
    return flow.Patient(patient.name, study=study, workshop=workshop, where=str(patient.folder))


def _allowed(scans: Scans, settings: Settings) -> Scans:
    """Without the sequences that only their contents told, where those are not to be looked at."""
    allowed = settings.sequences
    if not allowed or all(sequence in allowed for sequence in scans.volumes):
        return scans
    files = require_some(scans.files, allowed)
    return replace(scans, files=files, volumes={s: scans.volumes[s] for s in files.files})


def _scores(truth: Path, settings: Settings, result: Result) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Dice and HD95 by region, on the grid of that scan which the truth was drawn on; or why there are none."""
    from engine import metrics, nifti

    try:
        drawn = nifti.read_label_map(truth, settings.labels)
    except UserError as error:
        return {}, (f"Not compared with the truth: {error}",)
    worked = result.worked
    for sequence in (worked.reference, *worked.raw):
        if worked.raw[sequence].grid.same_as(drawn.grid):
            found = metrics.score(worked.native(result.segmentation, sequence), drawn)
            return {region: dict(vars(score)) for region, score in found.items()}, ()
    return {}, (f"Not compared with the truth: {truth.name} lies on none of the scans' grids.",)


def _draw(result: Result, path: Path) -> None:
    from engine import figures
    from engine.cut import Plane

    scans = {sequence: result.worked.shown[sequence] for sequence in result.segmentation.used}
    scene = figures.Scene(scans, result.labels)
    figures.plane_png(scene, Plane.AXIAL, path, width_mm=_PICTURE_MM, dpi=_PICTURE_DPI, marks=False)


def sentence_of(error: UserError | MemoryError | OSError) -> str:
    """What kept a patient from being done, in one plain sentence."""
    if isinstance(error, OSError):
        return str(unwritten(Path(str(error.filename or "the results")), error))
    if isinstance(error, MemoryError):
        return "There is too little memory for this patient. Close other programs and try again."
    return str(error)


# --- a worker process -------------------------------------------------------------------------------------------------


def serve(orders: Orders) -> int:
    """Be a worker process; what becomes of patients goes to standard output, a JSON object a line."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    told = 0.0

    def tell(answer: dict[str, Any]) -> None:
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except OSError:
            os._exit(0)

    def hear(fraction: float, message: str) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            tell({"progressed": [fraction, message]})

    orders.hear = hear
    first = orders.next()
    if first is None:
        return 0
    from engine import flow

    settings = Settings.from_json(first["settings"])
    folders = [Path(folder) for folder in first["models"]]
    models: Models | None = None
    while (order := orders.next()) is not None:
        try:
            models = models or flow.Models(settings.model or None, settings.device, folders)
            patient = Patient.from_json(order["patient"])
            row = segment_one(patient, settings, models, Path(order["into"]), orders.progress)
            tell({"done": row})
        except Cancelled:
            break
        except (UserError, MemoryError, OSError) as error:
            tell({"failed": sentence_of(error)})
    return 0


class Crew:
    """Worker processes on this machine.

    Args:
        settings: For all patients.
        messages: Gets what they say.
        jobs: How many processes; 0 for as many as there are processor cores and memory for.
        log: Gets what they write to their standard error.
    """

    def __init__(self, settings: Settings, messages: queue.SimpleQueue[Message], jobs: int, log: Path) -> None:
        self._settings, self._messages, self._log = settings, messages, log
        self.jobs = jobs or processes_here(settings)
        self._workers: list[_Worker] = []
        self._paused = False

    @property
    def free(self) -> int:
        """See `engine.batch.Hands`."""
        for worker in [worker for worker in self._workers if worker.ended]:
            worker.end(0.0)
            self._workers.remove(worker)
        return self.jobs - sum(worker.patient is not None for worker in self._workers)

    def begin(self, patient: Patient, into: Path) -> None:
        """See `engine.batch.Hands`."""
        idle = next((worker for worker in self._workers if worker.patient is None and not worker.ended), None)
        if idle is None:
            idle = _Worker(self._settings, self._messages, self._log)
            self._workers.append(idle)
            idle.hold(self._paused)
        idle.begin(patient, into)

    def pause(self, paused: bool) -> None:
        """See `engine.batch.Hands`."""
        self._paused = paused
        for worker in self._workers:
            worker.hold(paused)

    def fewer(self) -> None:
        """From now on one process less, as memory did not do for all; one stays."""
        self.jobs = max(1, self.jobs - 1)

    def close(self) -> None:
        """See `engine.batch.Hands`."""
        for worker in self._workers:
            worker.dismiss()
        until = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:
            worker.end(until)


class _Worker:
    """One worker process, and the thread that hears it."""

    def __init__(self, settings: Settings, messages: queue.SimpleQueue[Message], log: Path) -> None:
        from engine import registry

        self.patient: Patient | None = None
        self.ended = False
        self._messages = messages
        try:
            with log.open("a", encoding="utf-8") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "engine.batch_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    encoding="utf-8",
                    cwd=Path(__file__).resolve().parent.parent,
                )
        except OSError as error:
            raise unwritten(log, error) from error
        self._say({"settings": settings.to_json(), "models": [str(folder) for folder in registry.folders()]})
        self._hearing = threading.Thread(target=self._hear, daemon=True, name="hears a worker of the batch")
        self._hearing.start()

    def begin(self, patient: Patient, into: Path) -> None:
        self.patient = patient
        self._messages.put(Message("started", patient.name))
        self._say({"patient": patient.to_json(), "into": str(into)})

    def hold(self, held: bool) -> None:
        self._say({"hold": held})

    def dismiss(self) -> None:
        """Ask it to stop at once."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def end(self, until: float) -> None:
        """Make sure that it has ended, by force after a moment."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._hearing.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # what could not be said to the dead is still waiting in it
                stream.close()

    def _say(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died; the thread that hears it says so
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            patient = self.patient
            if patient is None:
                continue
            try:
                answer = json.loads(line)
            except ValueError:  # it died within a line
                continue
            if "progressed" in answer:
                fraction, text = answer["progressed"]
                self._messages.put(Message("progressed", patient.name, fraction, text))
            elif "done" in answer:
                self.patient = None
                self._messages.put(Message("done", patient.name, 1.0, row=answer["done"]))
            elif "failed" in answer:
                self.patient = None
                self._messages.put(Message("failed", patient.name, text=answer["failed"]))
        code = self._process.wait()
        self.ended = True
        patient, self.patient = self.patient, None
        if patient is not None:
            killed = code in (-signal.SIGKILL, 137) if os.name == "posix" else False
            why = "was ended by the system, most likely for lack of memory" if killed else f"ended with code {code}"
            self._messages.put(Message("lost", patient.name, text=why, for_memory=killed))


def processes_here(settings: Settings) -> int:
    """How many worker processes this machine has processor cores, memory and, where there is one, a GPU for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    room = _MOST_PROCESSES
    with contextlib.suppress(ValueError, OSError, AttributeError):
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (_PROCESS_MB << 20)
    if settings.device != "cpu":
        from engine import runtime

        if runtime.gpu_obstacle() is None:
            room = min(room, _MOST_ON_A_GPU)
    return max(1, min(cores, room, _MOST_PROCESSES))
