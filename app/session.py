"""The patient on the desk: what was dropped, what was read, which model fits, the result, and saving it.

Everything heavy happens in jobs; the session knows no widget, so all of it can be driven without a window.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

from app import DEMO, tasks
from app.jobs import Job, Jobs, Queue
from app.tasks import Found, Opened, Prepared, SeveralVolumes
from app.telling import Problem, Teller
from app.viewer_model import Layer, LayerKey, Mask, ViewerModel
from engine.errors import MissingSequence, SequenceProblem, UnreadableImage
from engine.volume import Sequence, Subject, Volume

if TYPE_CHECKING:
    # Reading and segmenting pull in libraries that a window on its way to the screen does not need yet.
    from engine.dicom import Study
    from engine.export import Saved
    from engine.inference import Segmentation
    from engine.model_card import ModelCard
    from engine.outputs import Wanted
    from engine.pipeline import Settings, Worked
    from engine.registry import Choice
    from engine.sequences import SubjectFiles
    from engine.unusual import Doubt
    from engine.workshop import Workshop

# Before this share of the work is done, seconds left are a guess that only unsettles.
ESTIMATE_FROM = 0.08


SIDES_ARE_GUESSED = "A scan does not say which way the head lies in it; its letters carry a question mark."


class Stage(Enum):
    """Where the session is."""

    EMPTY = auto()
    LOADING = auto()
    PREPARING = auto()
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


ASKING = (Presence.UNCERTAIN, Presence.UNKNOWN)


@dataclass(frozen=True)
class Entry:
    """One line of the list of sequences.

    Attributes:
        sequence: Which sequence, or None for a file nobody has named yet.
        path: The file, or None where the sequence is absent.
        presence: What is known.
        why: How it was told, in words.
        name: What the file is called on screen: its own name, or what the scanner called the series.
    """

    sequence: Sequence | None
    path: Path | None
    presence: Presence
    why: str
    name: str = ""


@dataclass(frozen=True, eq=False)
class Result:
    """A segmentation and how long it took from the click."""

    segmentation: Segmentation
    mask: Mask
    choice: Choice
    seconds: float


@dataclass(frozen=True, eq=False)
class Studies:
    """The DICOM studies that were dropped.

    Attributes:
        all: Of every patient and day.
        workshop: Where their files are unpacked and converted; it goes with the last who holds it.
        source: What was dropped.
        taken: The study that is open, with the series that were chosen; None until one is.
    """

    all: tuple[Study, ...]
    workshop: Workshop
    source: tuple[Path, ...]
    taken: Study | None = None

    @property
    def doubted(self) -> bool:
        """Whether the series should be looked at before any is opened."""
        return len(self.all) > 1 or bool(self.all[0].doubts) or not self.all[0].chosen

    @property
    def common_source(self) -> Path:
        """One path that holds all that was dropped."""
        if len(self.source) == 1:
            return self.source[0]
        return Path(os.path.commonpath([path.absolute() for path in self.source]))


@dataclass(frozen=True, eq=False)
class _Unread:
    """A result that is shown only once the user has read what speaks against it."""

    result: Result


@dataclass
class _Desk:
    """What one patient brings with it; replaced as a whole by the next."""

    files: SubjectFiles | None = None
    indices: dict[Path, int] = field(default_factory=dict)
    confirmed: set[Path] = field(default_factory=set)
    settled: bool = False
    studies: Studies | None = None
    series_names: dict[Path, str] = field(default_factory=dict)
    told: dict[Path, tuple[bool, str]] = field(default_factory=dict)
    opened: Opened | None = None
    settings: Settings | None = None
    worked: Worked | None = None
    doubts: tuple[Doubt, ...] = ()
    choice: Choice | None = None
    why_not: str = ""
    result: Result | None = None
    unread: _Unread | None = None
    saved: Saved | None = None
    saving: str = ""
    written: set[str] = field(default_factory=set)


class Session(Teller):
    """One patient at a time, from files to a saved mask.

    Signals:
        stage_changed: Another `Stage`.
        patient_changed: Other files, other sequences, another model, or none.
        progressed: Fraction 0..1, what is being done, and seconds left or None.
        result_changed: There is a result, or none.
        saved_changed: The result lies in a file now, or no longer does.
        saving_changed: Something else is being written, or nothing.
        prepared_changed: Another step of the preparation was done, or undone.
        series_wanted: Which series are to be opened must be chosen: `Studies`.
    """

    stage_changed = Signal()
    patient_changed = Signal()
    progressed = Signal(float, str, object)
    result_changed = Signal()
    saved_changed = Signal()
    saving_changed = Signal()
    prepared_changed = Signal()
    series_wanted = Signal(object)

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
        if self._desk.studies is not None:
            # Converted series lie in a folder that nobody is to save in.
            source = self._desk.studies.source[0]
            return source if source.is_dir() else source.parent
        return self._desk.files.folder if self._desk.files is not None else None

    @property
    def files(self) -> SubjectFiles | None:
        """Which file is which sequence."""
        return self._desk.files

    @property
    def answers(self) -> tuple[dict[Path, int], set[Path]]:
        """What the user said of the files: which volume of several, whose sequence was told."""
        return dict(self._desk.indices), set(self._desk.confirmed)

    @property
    def studies(self) -> Studies | None:
        """The DICOM studies the patient was taken from; None where the scans are files of their own."""
        return self._desk.studies

    @property
    def worked(self) -> Worked | None:
        """What was done to the scans; None until that is done."""
        return self._desk.worked

    @property
    def unseen(self) -> str:
        """Why nobody checked whether contents agree with names, in words; empty when they were checked."""
        return self._desk.opened.unseen if self._desk.opened is not None else ""

    @property
    def settings(self) -> Settings:
        """What is to be done to the scans."""
        from engine.pipeline import Settings

        return self._desk.settings if self._desk.settings is not None else Settings()

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What is unlike the scans that models know, the gravest first."""
        return self._desk.doubts

    @property
    def unread(self) -> bool:
        """Whether there is a mask that is shown only after its doubts were read."""
        return self._desk.unread is not None

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
        """The sequences as models are given them."""
        return self._desk.worked.subject if self._desk.worked is not None else None

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
    def saving(self) -> str:
        """What is being written, in words; empty where nothing is."""
        return self._desk.saving

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
        opened, subject = self._desk.opened, self.subject
        if opened is None or subject is None:
            return ""
        from engine import registry

        return registry.advice(subject, opened.listing.models)

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
            presence = Presence.PRESENT if certain else Presence.UNCERTAIN
            entries.append(Entry(sequence, path, presence, words, self._name_of(path)))
        for path in files.unknown if files is not None else ():
            entries.append(Entry(None, path, Presence.UNKNOWN, why.get(path, (False, ""))[1], self._name_of(path)))
        return tuple(entries)

    def _name_of(self, path: Path) -> str:
        """What a file is called on screen."""
        studies, files = self._desk.studies, self._desk.files
        if studies is None or files is None or studies.taken is None or studies.workshop.path not in path.parents:
            return path.name
        before = self._desk.series_names.get(path)
        return before if before is not None else path.name

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
            on_finished=lambda found: self._found(found, tuple(paths)),
            on_failed=self._not_opened,
            on_cancelled=self._back,
            on_progress=self._report,
            topic="open",
        )

    def open_known(
        self, files: SubjectFiles, indices: dict[Path, int], confirmed: set[Path], settings: Settings | None = None
    ) -> None:
        """Open a patient of whom all is known that could be asked, such as that of a case."""
        self._segment_next = False
        self._start_reading()
        self._patients = [files]
        self._load(_Desk(files=files, indices=indices, confirmed=confirmed, settled=True, settings=settings), new=True)

    def choose_series(self) -> None:
        """Ask again which series of the open patient are which sequence."""
        if self._desk.studies is not None:
            self.series_wanted.emit(self._desk.studies)

    def open_study(self, studies: Studies, study: Study, settings: Settings | None = None) -> None:
        """Open the chosen series of one of the studies that were dropped."""
        again = self._desk.studies is not None and self._desk.studies.workshop is studies.workshop
        self._start_reading()
        taken = replace(studies, taken=study)

        def converted(files: SubjectFiles) -> None:
            # What the header says of a series counts where a file's name would; what the user chose is no question.
            told, names = {}, {}
            for sequence, path in files.files.items():
                series = study.chosen[sequence]
                told[path] = (not study.doubts and (series.sequence is sequence), series.why)
                names[path] = f"{series.number}  {series.description}".strip()
            confirmed = {p for s, p in files.files.items() if study.chosen[s].sequence is not s}
            self._patients = [files]
            self._load(
                _Desk(files=files, studies=taken, told=told, series_names=names, confirmed=confirmed,
                      settings=settings),
                new=not again,
            )  # fmt: skip

        self._job = self._jobs.run(
            tasks.convert,
            study,
            studies.workshop,
            on_finished=converted,
            on_failed=self._not_opened,
            on_cancelled=self._back,
            on_progress=self._report,
            topic="open",
        )

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

    def close(self) -> None:
        """Clear the desk."""
        for topic in ("open", "prepare", "segment", "save"):
            self._jobs.drop(topic)
        self._put(_Desk())
        self._next = None
        self._patients = []
        self.model.set_layers({})
        self._tell(None)
        self._begin(Stage.EMPTY)
        self._changed()

    def _put(self, desk: _Desk) -> None:
        """Put a patient on the desk; converted series of the one before are removed."""
        before, self._desk = self._desk.studies, desk
        if before is not None and (desk.studies is None or desk.studies.workshop is not before.workshop):
            before.workshop.close()

    def _start_reading(self) -> None:
        self._next = None
        # Nothing of the patient before must arrive among what is coming.
        self._jobs.drop("segment")
        self._jobs.drop("prepare")
        self._tell(None)
        self._begin(Stage.LOADING)

    def _found(self, found: Found, source: tuple[Path, ...]) -> None:
        if found.workshop is not None:
            studies = Studies(tuple(found.studies), found.workshop, source)
            if studies.doubted:
                self._back()
                self.series_wanted.emit(studies)
            else:
                self.open_study(studies, studies.all[0])
            return
        self._patients = found.patients
        self._load(_Desk(files=found.patients[0]), new=True)

    def _merge(self, all_found: Found) -> None:
        desk, found = self._desk, all_found.patients
        if desk.files is None or all_found.workshop is not None:
            self._not_opened(
                SequenceProblem(
                    "DICOM series are not added to a patient",
                    "all series of a patient are looked at together, to tell which is which",
                    "Drop the whole study on the pictures to open it.",
                )
            )
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
            if desk.files is None or files_of(opened.files) != files_of(desk.files):
                desk.files = opened.files
            self._put(desk)
            self.model.set_layers(opened.layers, keep_place=not new)
            self._choose()
            if self._raw():
                self._prepare(desk.settings)
                self._changed()
            else:
                self._begin(Stage.READY)
                self._changed()
            self._tell_of(opened)

        def failed(error: Exception) -> None:
            if isinstance(error, SeveralVolumes):
                # The patient stays in hand until the user has said which volume.
                if new:
                    self._put(desk)
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
            dict(desk.told),
            frozenset(files_of(desk.files) if desk.settled else desk.confirmed),
            on_finished=loaded,
            on_failed=failed,
            on_cancelled=self._back,
            on_progress=self._report,
            topic="open",
        )

    def _raw(self) -> dict[Sequence, Volume]:
        """The scans as their files hold them."""
        desk = self._desk
        if desk.opened is None:
            return {}
        layers = desk.opened.layers
        return {sequence: layers[sequence].volume for sequence in Sequence if sequence in layers}

    # Preparing

    def prepare(self, settings: Settings, replace_corrections: bool = False) -> None:
        """Take the scans to what models know, otherwise than before; a mask that was found is given up.

        Args:
            settings: What to do.
            replace_corrections: Also where the mask was corrected by hand; else the user is asked.
        """
        desk = self._desk
        if not self._raw() or self._stage not in (Stage.READY, Stage.DONE):
            return
        made = desk.result.segmentation.edited_by_hand if desk.result is not None else 0
        if made and not replace_corrections:
            corrections = "correction" if made == 1 else f"{made} corrections"
            again = ("Prepare again", lambda: self.prepare(settings, replace_corrections=True))
            self._tell(
                Problem(
                    f"Preparing the scans again removes the mask with your {corrections}.",
                    (again, ("Keep", self.dismiss)),
                )
            )
            self.prepared_changed.emit()
            return
        self._tell(None)
        self._prepare(settings)

    def _prepare(self, settings: Settings | None) -> None:
        desk = self._desk
        if desk.files is None or desk.opened is None:
            return
        from engine.pipeline import Settings

        wanted = settings if settings is not None else Settings()
        self._jobs.drop("segment")

        def prepared(value: Prepared) -> None:
            before, desk.worked = desk.worked, value.worked
            desk.settings, desk.doubts = wanted, value.doubts
            if before is None or not _same(before, value.worked):
                layers: dict[LayerKey, Layer] = dict(value.layers)
                layers.update((key, layer) for key, layer in self.model.layers.items() if isinstance(key, Path))
                desk.result = desk.unread = desk.saved = None
                desk.written.clear()
                self.model.set_layers(layers, keep_place=True)
            self._choose()
            self._begin(Stage.DONE if desk.result is not None else Stage.READY)
            self.prepared_changed.emit()
            self._changed()
            segment, self._segment_next = self._segment_next, False
            if segment and not desk.why_not:
                self.segment()

        self._job = self._jobs.run(
            tasks.prepare,
            desk.files.name,
            self._raw(),
            wanted,
            desk.worked,
            [*desk.opened.layers.values(), *self.model.layers.values()],
            on_finished=prepared,
            on_failed=self._not_prepared,
            on_cancelled=self._not_prepared,
            on_progress=self._report,
            queue=Queue.COMPUTING,
            topic="prepare",
        )
        self._begin(Stage.PREPARING)
        self.prepared_changed.emit()

    def _not_prepared(self, error: Exception | None = None) -> None:
        self._segment_next = False
        self._choose()
        self._back()
        self.prepared_changed.emit()
        self.patient_changed.emit()
        if error is not None:
            self.fail(error, "Preparing stopped")

    def _tell_of(self, opened: Opened) -> None:
        if any(not layer.volume.oriented for layer in opened.layers.values()):
            self._tell(Problem(self._desk.why_not or SIDES_ARE_GUESSED, note=not self._desk.why_not))
        elif opened.looks_like:
            self._ask_what_it_is(opened)
        elif opened.unseen and any(entry.presence in ASKING for entry in self.entries):
            self._tell(Problem(opened.unseen))
        elif opened.listing.problems:
            self._tell(Problem(str(opened.listing.problems[0])))

    def _ask_what_it_is(self, opened: Opened) -> None:
        """A file's name and its content disagree: nobody but the user can know."""
        path, seen = next(iter(opened.looks_like.items()))
        files = self._desk.files
        named = next((s for s, p in files.files.items() if p == path), None) if files is not None else None
        if named is None:
            return

        def keep() -> None:
            self.dismiss()
            self._desk.confirmed.add(path)
            opened.looks_like.pop(path, None)
            self.patient_changed.emit()
            self._tell_of(opened)

        sequence = seen.sequence

        def believe() -> None:
            self.dismiss()
            if sequence is None:
                self.leave_out(path)
            else:
                self.assign(path, sequence)

        what = self._name_of(path)
        second = (f"It is {sequence.title}" if sequence is not None else "Leave it out", believe)
        self._tell(
            Problem(f"{what} looks like {seen.words} ({min(99, int(100 * seen.sure))} %), but was taken for "
                    f"{named.title}. Which is it?",
                    (second, (f"It is {named.title}", keep)))
        )  # fmt: skip

    def _choose(self) -> None:
        from engine import registry, sequences

        desk = self._desk
        opened = desk.opened
        desk.choice, desk.why_not = None, ""
        if opened is None:
            desk.why_not = "Open a patient first."
        elif not self._raw():
            desk.why_not = "Say above which sequence the file is; its name does not tell."
        else:
            try:
                choice = registry.choose(tuple(self._raw()), opened.listing.models)
                sequences.require_orientation(self._raw()[sequence] for sequence in choice.used)
                if desk.worked is None:
                    desk.why_not = "The scans are not prepared yet: see Preparation."
                else:
                    desk.choice = choice
            except (MissingSequence, UnreadableImage) as error:
                desk.why_not = str(error)

    # Segmenting

    def segment(self, replace_corrections: bool = False) -> None:
        """Outline the tumour with the model chosen; corrections made by hand are given up only when told to."""
        desk = self._desk
        if desk.opened is None or desk.worked is None or desk.choice is None:
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

        def finished(value: tuple[Segmentation, Mask, tuple[Doubt, ...]]) -> None:
            segmentation, mask, desk.doubts = value
            result = Result(segmentation, mask, choice, time.monotonic() - started)
            if any(doubt.grave for doubt in desk.doubts):
                # A mask looks as sure as any: what speaks against it is read first.
                desk.result, desk.unread = None, _Unread(result)
                self.model.set_mask(None)
                self._begin(Stage.READY)
                self.result_changed.emit()
                self.saved_changed.emit()
                return
            self._finished(desk, result)

        self._job = self._jobs.run(
            tasks.segment,
            desk.worked,
            choice,
            self.model.layers,
            desk.opened.notes,
            on_finished=finished,
            on_failed=self._not_segmented,
            on_cancelled=self._back,
            on_progress=self._report,
            queue=Queue.COMPUTING,
            topic="segment",
        )

    def read_doubts(self) -> None:
        """The user has read what speaks against the mask, and wants to see it."""
        unread = self._desk.unread
        if unread is not None:
            self._finished(self._desk, unread.result)

    def _finished(self, desk: _Desk, result: Result) -> None:
        segmentation, mask = result.segmentation, result.mask
        desk.result, desk.unread = result, None
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
        if self._job is not None and self._stage in (Stage.SEGMENTING, Stage.PREPARING, Stage.LOADING):
            self._segment_next = False
            self._job.cancel()
            if self._stage is not Stage.LOADING:
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

    def save(self, folder: Path, wanted: Wanted | None = None) -> None:
        """Write mask, sidecar and what is wanted beside them into a folder, and read them back; all or none."""
        desk = self._desk
        if desk.result is None or desk.worked is None:
            return
        self._tell(None)
        result = desk.result

        def tell(words: str) -> None:
            desk.saving = words
            self.saving_changed.emit()

        def failed(error: Exception) -> None:
            tell("")
            self.fail(error, "Saving stopped")

        def saved(value: Saved) -> None:
            tell("")
            desk.written.add(value.sha256)
            if desk.result is None or desk.result.segmentation is not result.segmentation:
                return  # it was segmented again or corrected meanwhile, and that result lies nowhere yet
            desk.saved = value
            self.saved_changed.emit()

        self._jobs.run(
            tasks.save,
            result.segmentation,
            desk.worked,
            folder,
            desk.result.choice.reason,
            self._uncertain,
            frozenset(desk.written),
            wanted,
            on_finished=saved,
            on_failed=failed,
            on_progress=lambda fraction, message: tell(f"Saving: {message}"),
            topic="save",
        )
        tell("Saving: the masks")

    @property
    def _uncertain(self) -> frozenset[Sequence]:
        return frozenset(
            e.sequence for e in self.entries if e.sequence is not None and e.presence is Presence.UNCERTAIN
        )

    def recorder(self) -> Callable[[], dict[str, Any]]:
        """What tells how that which is on the desk now came about, for a job that saves a picture of it."""
        from engine import provenance

        desk, raw = self._desk, self._raw()
        worked, result, uncertain = desk.worked, desk.result, self._uncertain
        if worked is None or result is None:
            return lambda: provenance.describe_scans(raw, worked)
        reason = result.choice.reason
        return lambda: provenance.describe(result.segmentation, worked.subject, reason, uncertain, worked)

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
        if stage in (Stage.LOADING, Stage.PREPARING, Stage.SEGMENTING):
            self._started = time.monotonic()
        if stage is not self._stage:
            self._stage = stage
            self.stage_changed.emit()

    def _changed(self) -> None:
        self.patient_changed.emit()
        self.result_changed.emit()
        self.saved_changed.emit()


def files_of(files: SubjectFiles) -> dict[Path, Sequence | None]:
    """Every file and what it is taken for."""
    told: dict[Path, Sequence | None] = dict.fromkeys(files.unknown)
    told.update((path, sequence) for sequence, path in files.files.items())
    return told


def _same(first: Worked, second: Worked) -> bool:
    """Whether models are given the very same voxels, at the very same places."""
    pairs = ((first.shown, second.shown), (first.subject, second.subject))
    return all(one.keys() == other.keys() and all(one[s] is other[s] for s in one) for one, other in pairs)


def _with_files(desk: _Desk, files: SubjectFiles, confirmed: set[Path] | None = None) -> _Desk:
    """The same patient with other files: what the user has said of them is kept, what was made of them is not."""
    return _Desk(
        files=files,
        indices=dict(desk.indices),
        confirmed=desk.confirmed | (confirmed or set()),
        settled=desk.settled,
        studies=desk.studies,
        series_names=desk.series_names,
        told=desk.told,
        # What was done by hand belongs to a sequence, and another file may be that now.
        settings=replace(desk.settings, matrices={}, brain=None) if desk.settings is not None else None,
    )
