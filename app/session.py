"""The patient on the desk: what was dropped, what was read, which model fits, the result, and saving it.

Everything heavy happens in jobs; the session knows no widget, so all of it can be driven without a window.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

from app import DEMO, tasks
from app.jobs import Job, Jobs, Queue
from app.tasks import Opened, SeveralVolumes
from app.telling import Problem, Teller
from app.viewer_model import Mask, ViewerModel
from engine.errors import MissingSequence, SequenceProblem, UnreadableImage
from engine.volume import Sequence, Subject

if TYPE_CHECKING:
    # Reading and segmenting pull in libraries that a window on its way to the screen does not need yet.
    from engine.export import Saved
    from engine.inference import Segmentation
    from engine.model_card import ModelCard
    from engine.registry import Choice
    from engine.sequences import SubjectFiles

# Before this share of the work is done, seconds left are a guess that only unsettles.
ESTIMATE_FROM = 0.08


SIDES_ARE_GUESSED = "A scan does not say which way the head lies in it; its letters carry a question mark."


class Stage(Enum):
    """Where the session is."""

    EMPTY = auto()
    LOADING = auto()
    READY = auto()
    SEGMENTING = auto()
    STOPPING = auto()
    DONE = auto()


class Presence(Enum):
    """What is known of a sequence."""

    ABSENT = "absent"
    PRESENT = "present"
    UNCERTAIN = "uncertain"
    UNKNOWN = "which sequence?"


@dataclass(frozen=True)
class Entry:
    """One line of the list of sequences.

    Attributes:
        sequence: Which sequence, or None for a file nobody has named yet.
        path: The file, or None where the sequence is absent.
        presence: What is known.
        why: How it was told, in words.
    """

    sequence: Sequence | None
    path: Path | None
    presence: Presence
    why: str


@dataclass(frozen=True, eq=False)
class Result:
    """A segmentation and how long it took from the click."""

    segmentation: Segmentation
    mask: Mask
    choice: Choice
    seconds: float


@dataclass
class _Desk:
    """What one patient brings with it; replaced as a whole by the next."""

    files: SubjectFiles | None = None
    indices: dict[Path, int] = field(default_factory=dict)
    resample: bool = False
    confirmed: set[Path] = field(default_factory=set)
    opened: Opened | None = None
    choice: Choice | None = None
    why_not: str = ""
    result: Result | None = None
    saved: Saved | None = None
    written: set[str] = field(default_factory=set)


class Session(Teller):
    """One patient at a time, from files to a saved mask.

    Signals:
        stage_changed: Another `Stage`.
        patient_changed: Other files, other sequences, another model, or none.
        progressed: Fraction 0..1, what is being done, and seconds left or None.
        result_changed: There is a result, or none.
        saved_changed: The result lies in a file now, or no longer does.
    """

    stage_changed = Signal()
    patient_changed = Signal()
    progressed = Signal(float, str, object)
    result_changed = Signal()
    saved_changed = Signal()

    def __init__(self, model: ViewerModel, jobs: Jobs, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.model = model
        self._jobs = jobs
        self._stage = Stage.EMPTY
        self._desk = _Desk()
        self._next: _Desk | None = None
        self._patients: list[SubjectFiles] = []
        self._job: Job | None = None
        self._started = 0.0
        self._segment_next = False

    # What is there

    @property
    def stage(self) -> Stage:
        """Where the session is."""
        return self._stage

    @property
    def name(self) -> str:
        """What the patient is called."""
        return self._desk.files.name if self._desk.files is not None else ""

    @property
    def folder(self) -> Path | None:
        """Where the patient's files lie."""
        return self._desk.files.folder if self._desk.files is not None else None

    @property
    def files(self) -> SubjectFiles | None:
        """Which file is which sequence."""
        return self._desk.files

    @property
    def answers(self) -> tuple[dict[Path, int], bool, set[Path]]:
        """What the user said of the files: which volume of several, whether to resample, whose sequence was told."""
        return dict(self._desk.indices), self._desk.resample, set(self._desk.confirmed)

    @property
    def written(self) -> frozenset[str]:
        """SHA-256 of the masks saved of this result."""
        return frozenset(self._desk.written)

    @property
    def patients(self) -> tuple[str, ...]:
        """The patients of the folder that was dropped, in order."""
        return tuple(files.name for files in self._patients)

    @property
    def subject(self) -> Subject | None:
        """The sequences that can be segmented together."""
        return self._desk.opened.subject if self._desk.opened is not None else None

    @property
    def choice(self) -> Choice | None:
        """The model and why."""
        return self._desk.choice

    @property
    def why_not(self) -> str:
        """Why Segment is off, in words; empty when it is on."""
        return self._desk.why_not

    @property
    def result(self) -> Result | None:
        """The last result for this patient."""
        return self._desk.result

    @property
    def saved(self) -> Saved | None:
        """Where the result lies, once saved."""
        return self._desk.saved

    @property
    def truth(self) -> Path | None:
        """A segmentation that lies beside the patient's scans."""
        return self._desk.files.segmentation if self._desk.files is not None else None

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """The models that there are."""
        return self._desk.opened.listing.models if self._desk.opened is not None else ()

    @property
    def advice(self) -> str:
        """What adding sequences would bring; empty when nothing."""
        opened = self._desk.opened
        if opened is None or opened.subject is None:
            return ""
        from engine import registry

        return registry.advice(opened.subject, opened.listing.models)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The four sequences in their order, then files nobody has named yet."""
        files, opened = self._desk.files, self._desk.opened
        known = dict(files.files) if files is not None else {}
        why = opened.why if opened is not None else {}
        entries = []
        for sequence in Sequence:
            path = known.get(sequence)
            if path is None:
                entries.append(Entry(sequence, None, Presence.ABSENT, f"No {sequence.title} was found."))
                continue
            certain, words = why.get(path, (True, ""))
            if path in self._desk.confirmed:
                certain, words = True, "You said so."
            entries.append(Entry(sequence, path, Presence.PRESENT if certain else Presence.UNCERTAIN, words))
        for path in files.unknown if files is not None else ():
            entries.append(Entry(None, path, Presence.UNKNOWN, why.get(path, (False, ""))[1]))
        return tuple(entries)

    # Opening

    def open(self, paths: Iterable[Path], segment: bool = False) -> None:
        """Open a new patient from files or folders.

        Args:
            paths: Files of one patient, folders, or a folder of patients.
            segment: Start segmenting as soon as it is read.
        """
        paths = list(paths)
        if not paths:
            return
        self._segment_next = segment
        self._start_reading()
        self._job = self._jobs.run(
            tasks.find,
            paths,
            on_finished=self._found,
            on_failed=self._not_opened,
            on_cancelled=self._back,
            topic="open",
        )

    def open_known(self, files: SubjectFiles, indices: dict[Path, int], resample: bool, confirmed: set[Path]) -> None:
        """Open a patient of whom all is known that could be asked, such as that of a case."""
        self._segment_next = False
        self._start_reading()
        self._patients = [files]
        self._load(_Desk(files=files, indices=indices, resample=resample, confirmed=confirmed), new=True)

    def open_demo(self, segment: bool = False) -> None:
        """Open the simulated patient that comes with the program."""
        self.open([DEMO], segment)

    def add(self, paths: Iterable[Path]) -> None:
        """Give the patient on the desk another sequence."""
        if self._desk.files is None:
            self.open(paths)
            return
        self._start_reading()
        self._job = self._jobs.run(
            tasks.find,
            list(paths),
            on_finished=self._merge,
            on_failed=self._not_opened,
            on_cancelled=self._back,
            topic="open",
        )

    def choose_patient(self, number: int) -> None:
        """Open another patient of the folder that was dropped."""
        if 0 <= number < len(self._patients):
            self._tell(None)
            self._load(_Desk(files=self._patients[number]), new=True)

    def assign(self, path: Path, sequence: Sequence) -> None:
        """Say which sequence a file is; a file that was taken for it takes the other's place."""
        desk = self._desk_with(path)
        if desk is None or desk.files is None:
            return
        files = dict(desk.files.files)
        before = next((s for s, p in files.items() if p == path), None)
        displaced = files.get(sequence)
        if displaced == path:
            desk.confirmed.add(path)
            self.patient_changed.emit()
            return
        unknown = [p for p in desk.files.unknown if p != path]
        if before is not None:
            del files[before]
        files[sequence] = path
        if displaced is not None and before is not None:
            files[before] = displaced
        elif displaced is not None:
            unknown.append(displaced)
        ordered = {s: files[s] for s in Sequence if s in files}
        self._load(
            _with_files(desk, replace(desk.files, files=ordered, unknown=tuple(unknown)), {path}),
            new=False,
        )

    def leave_out(self, path: Path) -> None:
        """Go on without a file."""
        desk = self._desk_with(path)
        if desk is None or desk.files is None:
            return
        files = {s: p for s, p in desk.files.files.items() if p != path}
        unknown = tuple(p for p in desk.files.unknown if p != path)
        self._tell(None)
        if not files and not unknown:
            self.close()
            return
        self._load(_with_files(desk, replace(desk.files, files=files, unknown=unknown)), new=False)

    def _desk_with(self, path: Path) -> _Desk | None:
        """The desk that a wish about a file is to change, if any.

        While the last wish is being read it is that one: two files named quickly are two files named. While another
        patient is on the way there is nothing left to wish for.
        """
        desk = self._next if self._stage is Stage.LOADING else self._desk
        if desk is None or desk.files is None or path not in (*desk.files.files.values(), *desk.files.unknown):
            return None
        return desk

    def choose_volume(self, path: Path, index: int) -> None:
        """Take one volume, counted from 0, of a file that holds several."""
        if self._desk.files is not None:
            desk = _with_files(self._desk, self._desk.files)
            desk.indices = {**self._desk.indices, path: index}
            self._tell(None)
            self._load(desk, new=self._desk.opened is None)

    def resample(self) -> None:
        """Bring sequences of different grids onto one."""
        if self._desk.files is not None:
            desk = _with_files(self._desk, self._desk.files)
            desk.resample = True
            self._tell(None)
            self._load(desk, new=False)

    def _leave_out_other_grids(self) -> None:
        """Keep the sequences that lie on the finest grid."""
        desk = self._desk
        if desk.files is None or desk.opened is None:
            return
        grids = {s: desk.opened.layers[s].volume.grid for s in desk.files.files}
        finest = min(grids.values(), key=lambda grid: round(grid.voxel_ml, 9))
        files = {s: p for s, p in desk.files.files.items() if grids[s].same_as(finest)}
        self._tell(None)
        self._load(_with_files(desk, replace(desk.files, files=files)), new=False)

    def close(self) -> None:
        """Clear the desk."""
        for topic in ("open", "segment", "save"):
            self._jobs.drop(topic)
        self._desk, self._next = _Desk(), None
        self._patients = []
        self.model.set_layers({})
        self._tell(None)
        self._begin(Stage.EMPTY)
        self._changed()

    def _start_reading(self) -> None:
        self._next = None
        # A mask of the patient before must not arrive among what is coming.
        self._jobs.drop("segment")
        self._tell(None)
        self._begin(Stage.LOADING)

    def _found(self, patients: list[SubjectFiles]) -> None:
        self._patients = patients
        self._load(_Desk(files=patients[0]), new=True)

    def _merge(self, found: list[SubjectFiles]) -> None:
        desk = self._desk
        if desk.files is None:
            self._found(found)
            return
        if len(found) > 1:
            self._not_opened(
                SequenceProblem(
                    "These files belong to several patients",
                    ", ".join(files.name for files in found[:4]),
                    f"Drop only files of {self.name} here, or drop them on the pictures to open them.",
                )
            )
            return
        if not found[0].files and not found[0].unknown:
            from engine import sequences

            self._not_opened(sequences.nothing_known(found[0]))
            return
        files, unknown = dict(desk.files.files), list(desk.files.unknown)
        for sequence, path in found[0].files.items():
            here = files.get(sequence)
            if here is not None and here != path:
                self._not_opened(
                    SequenceProblem(
                        f"{path.name} and {here.name} both claim to be {sequence.title}",
                        "",
                        "Take one out, or say in the list of sequences what it really is.",
                    )
                )
                return
            files[sequence] = path
        unknown += [path for path in found[0].unknown if path not in unknown]
        ordered = {s: files[s] for s in Sequence if s in files}
        self._load(_with_files(desk, replace(desk.files, files=ordered, unknown=tuple(unknown))), new=False)

    def _load(self, desk: _Desk, new: bool) -> None:
        assert desk.files is not None
        self._jobs.drop("segment")
        self._next = desk
        self._begin(Stage.LOADING)

        def loaded(opened: Opened) -> None:
            self._next = None
            desk.opened = opened
            self._desk = desk
            self.model.set_layers(opened.layers, keep_place=not new)
            self._choose()
            self._begin(Stage.READY)
            self._changed()
            self._tell_of(opened)
            segment, self._segment_next = self._segment_next, False
            if segment and not self._desk.why_not:
                self.segment()

        def failed(error: Exception) -> None:
            if isinstance(error, SeveralVolumes):
                # The patient stays in hand until the user has said which volume.
                if new:
                    self._desk = desk
                    self.model.set_layers({})
                else:
                    self._desk.files = desk.files
                self._choose()
                self._desk.choice, self._desk.why_not = None, f"Choose a volume of {error.path.name} first."
                self._back()
                self._changed()
                self._tell(Problem(str(error), volumes=(error.path, error.count)))
                return
            self._not_opened(error)

        self._job = self._jobs.run(
            tasks.read,
            desk.files,
            dict(desk.indices),
            desk.resample,
            on_finished=loaded,
            on_failed=failed,
            on_cancelled=self._back,
            on_progress=self._report,
            topic="open",
        )

    def _tell_of(self, opened: Opened) -> None:
        if opened.mismatch is not None and self._desk.files is not None:
            self._tell(
                Problem(str(opened.mismatch), (("Resample", self.resample), ("Leave out", self._leave_out_other_grids)))
            )
        elif any(not layer.volume.oriented for layer in opened.layers.values()):
            self._tell(Problem(self._desk.why_not or SIDES_ARE_GUESSED, note=not self._desk.why_not))
        elif opened.listing.problems:
            self._tell(Problem(str(opened.listing.problems[0])))

    def _choose(self) -> None:
        from engine import registry, sequences

        desk = self._desk
        opened = desk.opened
        desk.choice, desk.why_not = None, ""
        if opened is None:
            desk.why_not = "Open a patient first."
        elif opened.mismatch is not None:
            desk.why_not = "The sequences lie on different grids. Resample them first."
        elif opened.subject is None:
            desk.why_not = "Say above which sequence the file is; its name does not tell."
        else:
            try:
                choice = registry.choose(tuple(opened.subject), opened.listing.models)
                sequences.require_orientation(opened.subject[sequence] for sequence in choice.used)
                desk.choice = choice
            except (MissingSequence, UnreadableImage) as error:
                desk.why_not = str(error)

    # Segmenting

    def segment(self, replace_corrections: bool = False) -> None:
        """Outline the tumour with the model chosen; corrections made by hand are given up only when told to."""
        desk = self._desk
        if desk.opened is None or desk.opened.subject is None or desk.choice is None:
            return
        made = desk.result.segmentation.edited_by_hand if desk.result is not None else 0
        if made and not replace_corrections:
            corrections = "correction" if made == 1 else f"{made} corrections"
            again = ("Segment again", lambda: self.segment(replace_corrections=True))
            self._tell(Problem(f"Segmenting again replaces your {corrections}.", (again, ("Keep", self.dismiss))))
            return
        self._tell(None)
        self._begin(Stage.SEGMENTING)
        choice, started = desk.choice, time.monotonic()

        def finished(value: tuple[Segmentation, Mask]) -> None:
            self._finished(desk, choice, time.monotonic() - started, *value)

        self._job = self._jobs.run(
            tasks.segment,
            desk.opened.subject,
            choice,
            desk.opened.layers,
            on_finished=finished,
            on_failed=self._not_segmented,
            on_cancelled=self._back,
            on_progress=self._report,
            queue=Queue.COMPUTING,
            topic="segment",
        )

    def _finished(self, desk: _Desk, choice: Choice, seconds: float, segmentation: Segmentation, mask: Mask) -> None:
        desk.result = Result(segmentation, mask, choice, seconds)
        desk.saved = None
        desk.written.clear()
        if self.model.shown not in segmentation.used:
            # Whoever judges a mask wants to see what it was made from; oedema shows best where it is brightest.
            order = (Sequence.FLAIR, Sequence.T1CE, Sequence.T2, Sequence.T1)
            self.model.show(next(sequence for sequence in order if sequence in segmentation.used))
        self.model.set_mask(mask)
        self._go_to_tumour(mask)
        self._begin(Stage.DONE)
        self.result_changed.emit()
        self.saved_changed.emit()

    def put_result(self, result: Result, written: Iterable[str] = ()) -> None:
        """Take a result that was corrected by hand, or that a case kept, for the one on the desk.

        Args:
            result: The result.
            written: SHA-256 of masks that were saved of it before.
        """
        before, self._desk.result = self._desk.result, result
        self._desk.written.update(written)
        if before is None or before.segmentation is not result.segmentation:
            self._desk.saved = None
        if self._stage in (Stage.EMPTY, Stage.READY):
            self._begin(Stage.DONE)
        self.result_changed.emit()
        self.saved_changed.emit()

    def cancel(self) -> None:
        """Stop what is under way at its next check."""
        if self._job is not None and self._stage in (Stage.SEGMENTING, Stage.LOADING):
            self._segment_next = False
            self._job.cancel()
            if self._stage is Stage.SEGMENTING:
                self._begin(Stage.STOPPING)

    def go_to_largest(self) -> None:
        """Put the crosshair into the tumour's largest slice."""
        if self.model.mask is not None and self.model.mask.largest is not None:
            self.model.move_crosshair(self.model.mask.largest)

    def _go_to_tumour(self, mask: Mask) -> None:
        voxel, layer = self.model.voxel(), self.model.layer
        on_it = (
            voxel is not None
            and layer is not None
            and layer.volume.grid.same_as(mask.labels.grid)
            and mask.labels.data[voxel] > 0
        )
        # Whoever is already looking at the tumour is left there.
        if not on_it:
            self.go_to_largest()

    # Saving

    def save(self, folder: Path) -> None:
        """Write mask and sidecar into a folder, and read them back."""
        desk = self._desk
        if desk.result is None or desk.opened is None or desk.opened.subject is None:
            return
        self._tell(None)
        result = desk.result

        def saved(value: Saved) -> None:
            desk.written.add(value.sha256)
            if desk.result is None or desk.result.segmentation is not result.segmentation:
                return  # it was segmented again or corrected meanwhile, and that result lies nowhere yet
            desk.saved = value
            self.saved_changed.emit()

        self._jobs.run(
            tasks.save,
            result.segmentation,
            desk.opened.subject,
            folder,
            desk.result.choice.reason,
            frozenset(e.sequence for e in self.entries if e.sequence is not None and e.presence is Presence.UNCERTAIN),
            frozenset(desk.written),
            on_finished=saved,
            on_failed=lambda error: self.fail(error, "Saving stopped"),
            topic="save",
        )

    def _not_opened(self, error: Exception) -> None:
        self._segment_next = False
        self._back()
        self.fail(error, "Opening stopped")

    def _not_segmented(self, error: Exception) -> None:
        self._back()
        self.fail(error, "Segmenting stopped")

    def _report(self, fraction: float, message: str) -> None:
        elapsed = time.monotonic() - self._started
        left = elapsed * (1 - fraction) / fraction if fraction >= ESTIMATE_FROM else None
        self.progressed.emit(fraction, message, left)

    def _back(self) -> None:
        """To where the session was before the last job."""
        self._next = None
        if self._desk.result is not None:
            self._begin(Stage.DONE)
        else:
            self._begin(Stage.READY if self._desk.opened is not None else Stage.EMPTY)

    def _begin(self, stage: Stage) -> None:
        if stage in (Stage.LOADING, Stage.SEGMENTING):
            self._started = time.monotonic()
        if stage is not self._stage:
            self._stage = stage
            self.stage_changed.emit()

    def _changed(self) -> None:
        self.patient_changed.emit()
        self.result_changed.emit()
        self.saved_changed.emit()


def _with_files(desk: _Desk, files: SubjectFiles, confirmed: set[Path] | None = None) -> _Desk:
    """The same patient with other files: what the user has said of them is kept, what was made of them is not."""
    return _Desk(
        files=files,
        indices=dict(desk.indices),
        resample=desk.resample,
        confirmed=desk.confirmed | (confirmed or set()),
    )
