"""What the batch page shows: the plan, the batch and its rows, with signals around them.

The batch is `engine.batch.Batch`, which runs on a thread of `Jobs` and has its computing done by processes. What it
says is put into a queue and taken from there a few times a second, so that hundreds of patients cost the window no
more than one.
"""

from __future__ import annotations

import math
import os
import queue
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from app.controls import place_in_words
from app.jobs import Job, Jobs, Queue
from app.review import Look
from app.telling import Problem, Teller, time_left
from engine import batch
from engine.batch import Batch, Done, Event, Patient, Paused, Plan, Progressed, Row, Settings, Started, State
from engine.errors import MissingSequence
from engine.model_card import ModelCard
from engine.outputs import Wanted
from engine.progress import Progress
from engine.volume import Sequence as Mri
from engine.volume import in_words

# What happens is shown this often; each time costs the window a millisecond or two.
DRAIN_MS = 100
# Before so many patients are done, how long the others will take is a guess that only unsettles.
ESTIMATE_FROM = 2
ON_THE_WAY = (State.RUNNING, State.WAITING)
ENDED = (State.DONE, State.FAILED, State.SKIPPED)


class Stage(Enum):
    """Where the page is."""

    EMPTY = auto()
    LOOKING = auto()
    PLANNED = auto()
    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()
    RESTING = auto()


@dataclass(frozen=True)
class Foreseen:
    """The model that a patient's sequences lead to.

    Attributes:
        title: Of the model; empty where there is none, or where that is seen only when the patient is read.
        reason: Why, in a sentence.
        possible: Whether the patient can be segmented, as far as one can know.
    """

    title: str = ""
    reason: str = ""
    possible: bool = True


@dataclass(frozen=True)
class _Changed:
    """Some rows are others now, by a wish of the user's."""

    rows: tuple[Row, ...]


class Clock:
    """How long a run has worked, and how long what is left will take: told from the patients that it has done."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None
        self._done: list[tuple[float, int]] = []
        self._begun: dict[str, float] = {}

    def begin(self) -> None:
        """A run begins; what earlier ones took says nothing, as the machine may have been another."""
        self._before, self._since = 0.0, time.monotonic()
        self._done, self._begun = [], {}

    def hold(self, held: bool) -> None:
        """A pause is no work."""
        if held and self._since is not None:
            self._before += time.monotonic() - self._since
            self._since = None
        elif not held and self._since is None:
            self._since = time.monotonic()

    def started(self, name: str) -> None:
        """A patient's turn has come."""
        self._begun[name] = self.worked

    def count(self, row: Row) -> None:
        """A patient has ended."""
        begun = self._begun.pop(row.name, None)
        if row.state is State.DONE and begun is not None:
            self._done.append((self.worked - begun, _work_of(row)))

    @property
    def worked(self) -> float:
        """Seconds of this run, without pauses."""
        return self._before + (time.monotonic() - self._since if self._since is not None else 0.0)

    def left(self, running: Collection[Row], waiting: Collection[Row]) -> tuple[float, float] | None:
        """Seconds until nothing is left, from and to; None while that is not known.

        Args:
            running: Who is being segmented, side by side.
            waiting: Who has not begun.
        """
        known = len(self._done)
        if known < ESTIMATE_FROM:
            return None
        unit = sum(seconds for seconds, _ in self._done) / sum(work for _, work in self._done)
        rates = [seconds / work / unit for seconds, work in self._done]
        now = self.worked
        # Who has taken longer than the others did is not done at once for that.
        still = [
            max(unit * _work_of(row) - (now - self._begun.get(row.name, now)), 0.15 * unit * _work_of(row))
            for row in running
        ]
        to_come = [unit * _work_of(row) for row in waiting]
        hands = max(1, len(still))
        # The last ones are not done faster because others were done beside the earlier ones.
        mean = max((sum(to_come) + sum(still)) / hands, *still, *to_come, 0.0, 0.0)
        # Two standard errors of the sum of as many patients, whose mean is known from ``known`` others; they differ by
        # a seventh at least, whatever the first few look like.
        rest = len(to_come) + sum(left / (unit * _work_of(row)) for left, row in zip(still, running, strict=True))
        each = (sum(to_come) + sum(still)) / rest if rest else 0.0
        spread = max(0.15, statistics.stdev(rates)) * each
        error = 2 * spread * math.sqrt(rest + rest**2 / known) / hands
        return max(0.0, mean - error), mean + error


def _work_of(row: Row) -> int:
    """What a patient costs in comparison: reading each sequence takes about as long as all that is done once."""
    return 1 + max(1, len(row.sequences))


class BatchModel(Teller):
    """A batch from dropped folders to the table of its results.

    Args:
        jobs: Everything that runs away from the UI thread.
        parent: Its owner.

    Attributes:
        rows: Everybody, in order, as they stood a moment ago.

    Signals:
        stage_changed: Another `Stage`, or paused, or going on.
        listed: There are other patients.
        rows_changed: Indices of the rows that changed, and whether no more than how far they have come.
        plan_changed: Other models, sequences or another folder for the results.
        progressed: More was done, or some time has passed.
        look_wanted: A `Look` is to be opened in the viewer.
    """

    stage_changed = Signal()
    listed = Signal()
    rows_changed = Signal(object, bool)
    plan_changed = Signal()
    progressed = Signal()
    look_wanted = Signal(object)

    def __init__(self, jobs: Jobs, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._stage = Stage.EMPTY
        self.rows: list[Row] = []
        self._places: dict[str, int] = {}
        self._patients: dict[str, Patient] = {}
        self._paths: tuple[Path, ...] = ()
        self._plan: Plan | None = None
        self._batch: Batch | None = None
        self._out: Path | None = None
        self._chosen_out = self._earlier = False
        self._foreseen: Mapping[frozenset[Mri], Foreseen] = {}
        self._models: tuple[ModelCard, ...] = ()
        self._allowed = frozenset(Mri)
        self._model = ""
        self._wanted = Wanted()
        self._paused = False
        self._doing = ""
        self._job: Job | None = None
        self._after: Callable[[], None] | None = None
        self._said: queue.SimpleQueue[Event | _Changed] = queue.SimpleQueue()
        self.clock = Clock()
        self._counts: Counter[State] = Counter()
        self._drain = QTimer(self)
        self._drain.setInterval(DRAIN_MS)
        self._drain.timeout.connect(self._take_in)

    # What is there

    @property
    def stage(self) -> Stage:
        """Where the page is."""
        return self._stage

    @property
    def paused(self) -> bool:
        """Whether what runs holds still."""
        return self._paused

    @property
    def under_way(self) -> bool:
        """Whether patients are being segmented, or will be when a pause ends."""
        return self._stage in (Stage.STARTING, Stage.RUNNING, Stage.STOPPING)

    @property
    def batch(self) -> Batch | None:
        """The batch on the disk; None while there is only a plan."""
        return self._batch

    @property
    def out(self) -> Path | None:
        """Where the results go, or lie."""
        return self._out

    @property
    def paths(self) -> tuple[Path, ...]:
        """What was dropped."""
        return self._paths

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what was found and cannot be used."""
        there = self._batch or self._plan
        return there.problems if there is not None else ()

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """The models to choose from."""
        return self._models

    @property
    def model(self) -> str:
        """The name of the model asked for; empty for the best for each patient."""
        return self._model

    @property
    def allowed(self) -> frozenset[Mri]:
        """The sequences that may be looked at."""
        return self._allowed

    @property
    def wanted(self) -> Wanted:
        """What is written beside the masks."""
        return self._wanted

    @property
    def with_truth(self) -> int:
        """How many patients have a ground truth."""
        return sum(row.truth is not None for row in self.rows)

    @property
    def doing(self) -> str:
        """What is being looked for, in words."""
        return self._doing

    def count(self, state: State) -> int:
        """How many patients are in a state."""
        return self._counts[state]

    def foreseen(self, row: Row) -> Foreseen:
        """The model that is going to be used for a patient who is not done yet."""
        return self._foreseen.get(frozenset(row.sequences), Foreseen())

    def title_of(self, name: str) -> str:
        """What a model is called."""
        return next((card.title for card in self._models if card.name == name), name)

    @property
    def fraction(self) -> float:
        """How much is done of everything, 0..1."""
        if not self.rows:
            return 0.0
        ended = sum(self._counts[state] for state in ENDED)
        running = sum(row.fraction for row in self.rows if row.state is State.RUNNING)
        return (ended + running) / len(self.rows)

    @property
    def words(self) -> str:
        """How far it is: ``"12 of 40 done, 1 failed, 20 to 26 min left"``."""
        if not self.rows:
            return ""
        counts = self._counts
        left_out = counts[State.SKIPPED]
        said = [f"{counts[State.DONE]} of {len(self.rows) - left_out} done"]
        if counts[State.FAILED]:
            said.append(f"{counts[State.FAILED]} failed")
        if left_out:
            said.append(f"{left_out} left out")
        if self._paused:
            said.append("paused")
        elif self._stage is Stage.STOPPING:
            said.append("stopping")
        elif self.under_way:
            left = self.clock.left(*([row for row in self.rows if row.state is state] for state in ON_THE_WAY))
            said.append(f"{time_left(*left)} left" if left is not None else "time left is told after a few patients")
        return ", ".join(said)

    # Planning

    def open(self, paths: Sequence[Path]) -> None:
        """Take folders and files: those of a batch that was begun before, or patients to plan for.

        Where there is a plan already the patients are added to it.
        """
        if not paths:
            return
        if self.under_way:
            self.tell(Problem("A batch is running. Stop it first, or wait for its end.", note=True))
            return
        if len(paths) == 1 and (paths[0] / batch.JOB).is_file():
            self.resume(paths[0])
            return
        known = self._paths if self._stage is Stage.PLANNED else ()
        self._find(tuple(dict.fromkeys((*known, *(path.absolute() for path in paths)))))

    def _find(self, paths: tuple[Path, ...]) -> None:
        before = self._stage
        self.dismiss()
        self._begin(Stage.LOOKING)

        def found(value: tuple[Plan, tuple[ModelCard, ...], Mapping[frozenset[Mri], Foreseen]]) -> None:
            self._plan, self._models, self._foreseen = value
            self._batch, self._paths = None, paths
            if not self._chosen_out or before is not Stage.PLANNED:
                self._out, self._chosen_out = _place_for(paths[0]), False
            self._list(self._plan.patients, [_planned(patient) for patient in self._plan.patients])
            self._begin(Stage.PLANNED)
            self._tell_of_earlier()
            self.stage_changed.emit()

        def back() -> None:
            self._begin(before)

        def failed(error: Exception) -> None:
            back()
            self.fail(error, "Looking for patients stopped")

        def heard(_: float, message: str) -> None:
            self._doing = message
            self.progressed.emit()

        self._job = self._jobs.run(
            _look,
            paths,
            self._settings(),
            on_finished=found,
            on_failed=failed,
            on_cancelled=back,
            on_progress=heard,
            topic="plan",
        )

    def stop_looking(self) -> None:
        """Give up looking for patients."""
        if self._stage is Stage.LOOKING and self._job is not None:
            self._job.cancel()

    def set_out(self, out: Path) -> None:
        """Have the results in another folder."""
        self._out, self._chosen_out = out.absolute(), True
        self.dismiss()
        self.plan_changed.emit()
        self._tell_of_earlier()

    def _tell_of_earlier(self) -> None:
        out = self._out
        self._earlier = out is not None and (out / batch.JOB).is_file()
        if self._stage is Stage.PLANNED and out is not None and self._earlier:
            again = ("Go on with it", lambda: self.resume(out))
            self.tell(Problem(f"{place_in_words(out)} holds a batch that was begun before.", (again,), note=True))

    def allow(self, sequence: Mri, allowed: bool) -> None:
        """Say whether a sequence may be looked at; the last one stays."""
        wanted = self._allowed | {sequence} if allowed else self._allowed - {sequence}
        if wanted:
            self._allowed = wanted
            self._foresee()
        self.plan_changed.emit()

    def choose_model(self, name: str) -> None:
        """Use one model for everybody, or with an empty name the best for each."""
        self._model = name
        self._foresee()
        self.plan_changed.emit()

    def write(self, wanted: Wanted) -> None:
        """Say what is to be written beside the masks."""
        self._wanted = wanted
        self.plan_changed.emit()

    def _foresee(self) -> None:
        def told(value: Mapping[frozenset[Mri], Foreseen]) -> None:
            self._foreseen = value
            self.rows_changed.emit(range(len(self.rows)), False)
            self.plan_changed.emit()

        self._jobs.run(
            foresee,
            frozenset(frozenset(row.sequences) for row in self.rows),
            self._settings(),
            self._models,
            on_finished=told,
            on_failed=lambda error: self.fail(error, "Choosing models stopped"),
            topic="foresee",
        )

    def _settings(self) -> Settings:
        allowed = tuple(sequence for sequence in Mri if sequence in self._allowed)
        return Settings(allowed if len(allowed) < len(Mri) else (), self._model, wanted=self._wanted)

    def begin_anew(self) -> None:
        """An empty page; a batch on the disk stays as it is."""
        if self.under_way:
            return
        self._jobs.drop("plan")
        self._plan = self._batch = self._out = None
        self._paths, self._chosen_out = (), False
        self._allowed, self._model, self._wanted = frozenset(Mri), "", Wanted()
        self.dismiss()
        self._list((), [])
        self._begin(Stage.EMPTY)

    # Running

    def resume(self, out: Path) -> None:
        """Open a batch that was begun before."""
        before = self._stage
        self.dismiss()
        self._begin(Stage.LOOKING)

        def opened(value: tuple[Batch, tuple[ModelCard, ...], Mapping[frozenset[Mri], Foreseen]]) -> None:
            self._batch, self._models, self._foreseen = value
            self._plan, self._out, self._paths = None, self._batch.out, ()
            settings = self._batch.settings
            self._allowed, self._model = frozenset(settings.sequences or Mri), settings.model
            self._list(self._batch.patients, self._batch.rows)
            self._begin(Stage.RESTING)

        def back() -> None:
            self._begin(before)

        def failed(error: Exception) -> None:
            back()
            self.fail(error, "Opening the batch stopped")

        self._job = self._jobs.run(_open, out, on_finished=opened, on_failed=failed, on_cancelled=back, topic="plan")

    @property
    def why_not_start(self) -> str:
        """Why nothing can be started, in words; empty when something can."""
        if self._stage is Stage.PLANNED:
            if self._earlier:
                return "The folder for the results holds an earlier batch: go on with that, or choose another folder."
            return "" if self._counts[State.WAITING] else "Everybody is left out."
        if self._stage is Stage.RESTING:
            return "" if self._counts[State.WAITING] else "Nobody is waiting."
        return "Choose the patients first."

    def start(self) -> None:
        """Begin with what is planned, or go on with what is waiting."""
        if self.why_not_start:
            return
        self.dismiss()
        if self._batch is not None:
            self._run()
            return
        plan, out = self._plan, self._out
        assert plan is not None
        assert out is not None
        # What the labels of the truths mean was told when the patients were found.
        planned = replace(plan, settings=replace(self._settings(), labels=plan.settings.labels))
        left_out = [row.name for row in self.rows if row.state is State.SKIPPED]
        self._begin(Stage.STARTING)

        def created(value: Batch) -> None:
            self._batch = value
            self._run()

        def failed(error: Exception) -> None:
            self._begin(Stage.PLANNED)
            self.fail(error, "Starting stopped")

        self._jobs.run(_create, planned, out, left_out, on_finished=created, on_failed=failed, topic="create")

    def _run(self) -> None:
        going = self._batch
        assert going is not None
        self._paused = False
        going.go_on()
        self.clock.begin()
        self._job = self._jobs.run(
            _work,
            going,
            self._said.put,
            on_finished=lambda _: self._ended(),
            on_failed=self._ended,
            on_cancelled=self._ended,
            queue=Queue.COMPUTING,
        )
        self._begin(Stage.RUNNING)

    def pause(self) -> None:
        """Hold everything still; nothing is lost."""
        if self._stage is Stage.RUNNING and self._batch is not None:
            self._batch.pause()
            self._pause(True)

    def go_on(self) -> None:
        """Go on after a pause."""
        if self._stage is Stage.RUNNING and self._batch is not None:
            self._batch.go_on()
            self._pause(False)

    def _pause(self, paused: bool) -> None:
        if paused is not self._paused:
            self._paused = paused
            self.clock.hold(paused)
            self.stage_changed.emit()

    def stop(self, after: Callable[[], None] | None = None) -> None:
        """Stop within a second; who was being computed waits again.

        Args:
            after: Done once it has stopped.
        """
        self._after = after or self._after
        if self._stage is Stage.RUNNING and self._job is not None:
            self._begin(Stage.STOPPING)
            self._job.cancel()

    def _ended(self, error: Exception | None = None) -> None:
        self._take_in()
        self.clock.hold(True)
        self._paused = False
        self._job = None
        self._begin(Stage.RESTING)
        if error is not None:
            self.fail(error, "The batch stopped")
        after, self._after = self._after, None
        if after is not None:
            after()

    # One or some

    def retry(self, names: Iterable[str] | None = None) -> None:
        """Let patients have another turn: these, or all that failed; what rests is started."""
        wanted = [row.name for row in self.rows if row.state is State.FAILED] if names is None else list(names)
        self._wish(wanted, (State.FAILED, State.SKIPPED), State.WAITING, Batch.retry, start=True)

    def leave_out(self, names: Iterable[str]) -> None:
        """Do without patients whose turn has not come."""
        self._wish(list(names), (State.WAITING,), State.SKIPPED, Batch.skip)

    def take_in(self, names: Iterable[str]) -> None:
        """Do with patients again who were left out."""
        self._wish(list(names), (State.SKIPPED,), State.WAITING, Batch.retry)

    def _wish(
        self,
        names: list[str],
        of: tuple[State, ...],
        to: State,
        act: Callable[[Batch, Iterable[str]], int],
        start: bool = False,
    ) -> None:
        going = self._batch
        names = [name for name in names if self.row(name).state in of]
        if not names or self._stage in (Stage.LOOKING, Stage.STARTING, Stage.STOPPING):
            return
        if going is None:
            self._put([replace(self.row(name), state=to) for name in names])
            self.plan_changed.emit()
            return
        self.dismiss()

        def done(progress: Progress) -> None:
            progress.check()
            act(going, names)
            self._said.put(_Changed(tuple(going.row(name) for name in names)))

        def told(_: None) -> None:
            self._take_in()
            if start and self._stage is Stage.RESTING:
                self.start()

        # Each is a line in the journal that is on the disk before anything else is done.
        self._jobs.run(done, on_finished=told, on_failed=lambda error: self.fail(error, "That was not written down"))

    def row(self, name: str) -> Row:
        """One patient, as of a moment ago."""
        return self.rows[self._places[name]]

    def look(self, name: str) -> None:
        """Open a patient in the viewer, with the mask where there is one."""
        row, patient = self.row(name), self._patients[name]
        files = patient.files
        scans = tuple(patient.exports) if files is None else (*files.files.values(), *files.unknown)
        labels = self._batch.settings.labels if self._batch is not None else None
        done = row.state is State.DONE
        title = self.title_of(row.model)
        title = title[:1].upper() + title[1:]
        self.look_wanted.emit(Look(scans, row.truth if done else None, row.mask if done else None, title, labels))

    # What the batch says

    def _take_in(self) -> None:
        """Show what was said since the last time; at most as many rows change as there are."""
        changed: set[int] = set()
        further: set[int] = set()
        while True:
            try:
                said = self._said.get_nowait()
            except queue.Empty:
                break
            if isinstance(said, Paused):
                continue  # shown since the button was pressed
            if isinstance(said, Done | _Changed):
                rows = said.rows
            elif isinstance(said, Progressed):
                place = self._places[said.name]
                row = self.rows[place]
                (further if row.state is State.RUNNING else changed).add(place)
                self.rows[place] = replace(row, state=State.RUNNING, fraction=said.fraction, message=said.message)
                continue
            else:
                rows = (said.row,)
                if isinstance(said, Started):
                    self.clock.started(said.name)
                else:
                    self.clock.count(said.row)
            for row in rows:
                place = self._places[row.name]
                if row is not self.rows[place]:
                    self.rows[place] = row
                    changed.add(place)
        if changed:
            self._counts = Counter(row.state for row in self.rows)
            self.rows_changed.emit(sorted(changed), False)
        if further - changed:
            self.rows_changed.emit(sorted(further - changed), True)
        self.progressed.emit()

    def _put(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._said.put(_Changed((row,)))
        self._take_in()

    def _list(self, patients: Iterable[Patient], rows: Iterable[Row]) -> None:
        self._said = queue.SimpleQueue()
        self._patients = {patient.name: patient for patient in patients}
        self.rows = list(rows)
        self._places = {row.name: place for place, row in enumerate(self.rows)}
        self._counts = Counter(row.state for row in self.rows)
        self.listed.emit()

    def _begin(self, stage: Stage) -> None:
        self._stage = stage
        if self.under_way:
            self._drain.start()
        else:
            self._drain.stop()
        self._doing = ""
        self.stage_changed.emit()


# --- away from the UI thread ------------------------------------------------------------------------------------------


def _look(
    paths: tuple[Path, ...], settings: Settings, progress: Progress
) -> tuple[Plan, tuple[ModelCard, ...], Mapping[frozenset[Mri], Foreseen]]:
    from engine import registry

    found = batch.plan(paths, settings, progress.part(0.0, 0.9))
    models = registry.list_models().models
    there = frozenset(frozenset(patient.sequences) for patient in found.patients)
    return found, models, foresee(there, settings, models, progress.part(0.9, 1.0))


def foresee(
    there: Iterable[frozenset[Mri]], settings: Settings, models: tuple[ModelCard, ...], progress: Progress
) -> Mapping[frozenset[Mri], Foreseen]:
    """For each set of sequences, the model that it leads to."""
    from engine import registry

    foreseen = {}
    for sequences in there:
        progress.check()
        present = [one for one in sequences if not settings.sequences or one in settings.sequences]
        if not sequences:
            foreseen[sequences] = Foreseen(reason="Which sequences these are is told when the patient is read.")
            continue
        if not present:
            why = f"There is no {in_words(settings.sequences)}."
            foreseen[sequences] = Foreseen(reason=why, possible=False)
            continue
        try:
            wanted = next((card for card in models if card.name == settings.model), None)
            choice = registry.choose(present, models) if wanted is None else registry.choose_named(present, wanted)
        except MissingSequence as error:
            foreseen[sequences] = Foreseen(reason=str(error), possible=False)
        else:
            foreseen[sequences] = Foreseen(choice.card.title, choice.reason)
    return foreseen


def _open(out: Path, progress: Progress) -> tuple[Batch, tuple[ModelCard, ...], Mapping[frozenset[Mri], Foreseen]]:
    from engine import registry

    there = Batch.open(out)
    models = registry.list_models().models
    sequences = frozenset(frozenset(row.sequences) for row in there.rows if row.state is not State.DONE)
    return there, models, foresee(sequences, there.settings, models, progress)


def _create(planned: Plan, out: Path, left_out: list[str], progress: Progress) -> Batch:
    progress.check()
    made = Batch.create(planned, out)
    made.skip(left_out)
    return made


def _work(going: Batch, hear: Callable[[Event], None], progress: Progress) -> None:
    going.run(hear, progress)


def _planned(patient: Patient) -> Row:
    return Row(
        patient.name,
        sequences=patient.sequences,
        warnings=patient.warnings,
        folder=patient.folder,
        truth=patient.truth,
    )


def _place_for(path: Path) -> Path:
    """Where results of patients found there are likely wanted: beside them, or where one may write."""
    folder = path if path.is_dir() else path.parent
    beside = folder.parent if os.access(folder.parent, os.W_OK) else Path.home()
    return beside / f"{folder.name or 'patients'}_gliascope"
