"""A training of the user's own: a folder with everything about it, and the process that carries it out.

    study.json      what is trained, see `trainer.study`
    patients.json   on whom, see `trainer.patients`
    start/          the model whose weights it begins with, where there is one
    runs/           the run folders
    events.jsonl    what happened: ``{"run": name, "time": unix seconds, **event}`` a line
    report/         tables and plots of the results, see `trainer.report`
    command         what was asked last
    lock            held while a process works on the folder

``python -m trainer.training FOLDER`` is that process. It survives the window that began it; killed at any moment, it
goes on where it was when it is begun again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs

from engine import model_file
from engine.errors import Cancelled, UserError
from engine.files import Locked, locked, shown, unwritten, whole_file
from engine.model_card import WEIGHTS, ModelCard
from engine.progress import Progress
from engine.volume import Sequence
from trainer import comparison
from trainer import study as trainer_study
from trainer.comparison import Comparison, PatientScore, Summary
from trainer.estimate import SCORING_SECONDS, segmentations
from trainer.events import (
    Acknowledged,
    Event,
    Failed,
    Finished,
    Paused,
    Resumed,
    Started,
    StepEnd,
    Stopped,
    from_line,
    to_line,
)
from trainer.events import Command as Command  # what `Training.ask` takes
from trainer.patients import Patients
from trainer.study import Places, Planned, Study, Workers

STUDY, PATIENTS, START, RUNS, EVENTS, REPORT = "study.json", "patients.json", "start", "runs", "events.jsonl", "report"
_COMMANDS, _LOCK, _LOG, _ELSEWHERE = "command", "lock", "log", "elsewhere.json"
_LOOK_SECONDS = 0.05  # how soon the process sees that it was asked for something
_LOCK_SECONDS = 3.0  # how long it waits for whoever only looks whether the lock is free
_PACES = 40  # reports of steps that say how fast it goes now
_TAUGHT = 1.4  # how much longer a step takes with a teacher looking on, where it was not measured yet


class State(StrEnum):
    """How a training stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    """Begun or not, and no process works on it; it can be started."""
    FAILED = "failed"
    """The same, and a run failed; starting it tries again."""
    DONE = "done"


@dataclass(frozen=True)
class Heard:
    """One line of ``events.jsonl``.

    Attributes:
        run: Which run it is about; empty for the training as a whole.
        time: In seconds since 1970.
        event: What happened.
    """

    run: str
    time: float
    event: Event


@dataclass(frozen=True)
class Standing:
    """How far a training has come.

    Attributes:
        state: Whether somebody works on it.
        run: Name of the run that is being trained or scored; empty where none is.
        title: The same for a person: ``"T1 student"``.
        number: Which one it is, from 1; 0 where none is.
        runs: How many there are.
        done: How much of all is done, 0..1, by time.
        seconds_low: What is left takes at least so long ...
        seconds_high: ... and at most so long; both ``None`` before the first steps.
        problem: What went wrong, in a sentence; empty if nothing did.
    """

    state: State
    run: str
    title: str
    number: int
    runs: int
    done: float
    seconds_low: float | None
    seconds_high: float | None
    problem: str = ""


@dataclass(frozen=True)
class Results:
    """What the finished runs of a training amount to, all on patients they had not learnt from.

    Attributes:
        scores: Of each patient, recipe, set of sequences and region.
        summaries: Means over patients of the same.
        comparisons: Students with their baselines.
        pending: Runs that are not scored yet.
    """

    scores: tuple[PatientScore, ...]
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    pending: tuple[str, ...]


@dataclass(frozen=True)
class About:
    """What the user says of a model that is to be installed.

    Attributes:
        name: The model's; not that of a model which came with Gliascope.
        version: Its version.
        data: What it was trained on, in words.
        licence: Under which terms it may be used, in words.
        citations: What to cite.
    """

    name: str
    version: str
    data: str
    licence: str
    citations: tuple[str, ...] = ()


class Busy(UserError):
    """A process works on the training already."""


class Training:
    """A training's folder; cheap to make, and safe to use from several threads.

    Args:
        folder: As `create` made it.

    Raises:
        UserError: It is no training's folder, or comes from a newer Gliascope.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        if not (folder / STUDY).is_file():
            raise UserError(f"{shown(folder)} is not the folder of a training", f"it has no {STUDY}", "Choose another.")
        self.study = Study.read(folder / STUDY)
        self.patients = Patients.read(folder / PATIENTS)
        self.planned = self.study.plan(self.places)
        self._heard = _Heard(self.planned)
        self._reading = threading.Lock()

    @classmethod
    def create(cls, folder: Path, study: Study, patients: Patients, start_from: ModelCard | None = None) -> Training:
        """Make the folder of a new training.

        Args:
            folder: Must not hold anything yet.
            study: What to train.
            patients: On whom.
            start_from: The model that recipes begin with; it is copied, so that the training depends on nothing else.

        Raises:
            UserError: The folder is taken or cannot be written to.
        """
        folder = folder.absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = any(folder.iterdir())
        except OSError as error:
            raise unwritten(folder, error) from error
        if taken:
            what = f"The folder {shown(folder)} holds something already"
            raise UserError(what, "", "Give the training another name, or choose another folder.")
        try:
            if start_from is not None:
                shutil.copytree(start_from.folder, folder / START / start_from.name)
            patients.write(folder / PATIENTS)
            # Last: a folder with a study is a training.
            study.write(folder / STUDY)
            if folder.parent != home():
                _remember(folder)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise unwritten(folder, error) from error
            raise
        return cls(folder)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.folder.name

    @property
    def places(self) -> Places:
        """Where its study finds and puts things."""
        start = self.folder / START
        return Places(self.folder / PATIENTS, self.folder / RUNS, models=start if start.is_dir() else None)

    def start(self) -> None:
        """Begin, or go on: a process that outlives this one.

        Raises:
            UserError: Another process works on the folder already, torch is not installed, or the folder is gone.
        """
        if find_spec("torch") is None:
            raise UserError("Training needs torch, which is not installed yet", "", "Install it, then start again.")
        try:
            with _locked(self.folder / _LOCK, 0.0):
                # What was asked of an earlier process is not meant for this one.
                (self.folder / _COMMANDS).unlink(missing_ok=True)
            with (self.folder / _LOG).open("a", encoding="utf-8") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "trainer.training", str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).resolve().parent.parent,
                    creationflags=_FLAGS,
                    start_new_session=True,
                )
        except OSError as error:
            raise unwritten(self.folder / EVENTS, error) from error
        # It is to outlive us; while we live, somebody has to take note of its end.
        threading.Thread(target=process.wait, daemon=True, name=f"waits for the training {self.name}").start()
        while process.poll() is None and not self.running():
            time.sleep(_LOOK_SECONDS)
        if process.poll() not in (None, 0):
            raise UserError(f"{self.name} could not be started", self._last_words(), "Try again.")

    def running(self) -> bool:
        """Whether a process works on it, on this machine."""
        try:
            with _locked(self.folder / _LOCK, 0.0, shared=True):
                return False
        except Busy:
            return True
        except OSError:
            return False  # the folder is gone, or cannot be written to: nobody can work on it

    def ask(self, command: Command | str) -> None:
        """Ask the process for something; it answers with an event `Acknowledged` within 200 ms.

        `Command.KEEP` is for what is being trained: it ends with its best weights so far, and the study goes on with
        what comes next. `Command.STOP` ends everything with the state saved; `start` goes on from there.

        Raises:
            UserError: Nobody works on it.
        """
        wanted = Command(command)
        if not self.running():
            raise UserError(f"Nobody works on {self.name} just now", "", "Start it first.")
        try:
            with (self.folder / _COMMANDS).open("a", encoding="utf-8") as file:
                file.write(f"{wanted}\n")
        except OSError as error:
            raise unwritten(self.folder / _COMMANDS, error) from error

    def events(self, after: int = 0) -> tuple[list[Heard], int]:
        """What happened since, and where to go on reading: pass it as ``after`` the next time. Begins with 0."""
        try:
            with (self.folder / EVENTS).open("rb") as file:
                file.seek(after)
                new = file.read()
        except OSError:
            return [], after
        # A line that is still being written is for the next time.
        whole = new[: new.rfind(b"\n") + 1]
        return [heard for line in whole.splitlines() if (heard := _heard(line)) is not None], after + len(whole)

    def standing(self) -> Standing:
        """How far it has come; reads only what happened since it was last asked."""
        running = self.running()
        with self._reading:
            told, self._heard.read_to = self.events(self._heard.read_to)
            for heard in told:
                self._heard.take(heard)
            return self._heard.standing(running, self.places)

    def results(self) -> Results:
        """What is known so far.

        Raises:
            UserError: A file of scores is damaged.
        """
        paths: list[Path] = []
        pending: list[Path] = []
        for run in self.planned:
            path = self.places.runs / run.config.name / trainer_study.SCORES
            if run.scored:
                (paths if path.exists() else pending).append(path)
        rows = comparison.read_rows(paths)
        scores = comparison.score_patients(rows)
        compared = comparison.holm(comparison.compare_all(rows, self.study.comparisons))
        return Results(
            tuple(scores),
            tuple(comparison.summarise_patients(scores)),
            tuple(compared),
            tuple(path.parent.name for path in pending),
        )

    def scored(self) -> tuple[str, ...]:
        """Names of the runs that are measured already."""
        names = [run.config.name for run in self.planned if run.scored]
        return tuple(name for name in names if (self.places.runs / name / trainer_study.SCORES).exists())

    def _last_words(self) -> str:
        """The last line of its process' log."""
        try:
            lines = (self.folder / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "its process ended at once")

    def installable(self) -> tuple[str, ...]:
        """Names of the finished runs that can become models of the app: trained, and measured on held-out patients.

        Where everybody was held out once, it is the run that learnt from everybody.
        """
        return tuple(run.config.name for run in self.planned if self._may_be_installed(run))

    def _may_be_installed(self, run: Planned) -> bool:
        if not (self.places.runs / run.config.name / WEIGHTS).exists():
            return False
        several = bool(self.study.shipped)
        if several == run.scored or run.recipe not in {cell.recipe for cell in self.study.cells}:
            return False
        measured = self.measured_for(run.config.name)
        return bool(measured) and {one.config.name for one in measured} <= set(self.scored())

    def measured_for(self, run: str) -> list[Planned]:
        """The runs whose scores say how good a run is: itself, or those of its kind that left somebody out."""
        wanted = next(one for one in self.planned if one.config.name == run)
        return [
            one
            for one in self.planned
            if one.scored
            and (one.recipe, one.config.sequences) == (wanted.recipe, wanted.config.sequences)
            and (one is wanted or not wanted.scored)
        ]

    def suggested_about(self, run: str) -> About:
        """What to say of the model of a run, for the user to review."""
        wanted = next(one for one in self.planned if one.config.name == run)
        kind = "any" if wanted.config.sequence_dropout else "-".join(wanted.config.sequences)
        kind = kind if len(wanted.config.sequences) < len(Sequence) or wanted.config.sequence_dropout else "all"
        count = len(wanted.config.train_cases)
        sources = sorted({self.patients.named(name).source for name in wanted.config.train_cases} - {""})
        whose = f" from {', '.join(sources[:-1])}{' and ' * (len(sources) > 1)}{sources[-1]}" if sources else ""
        return About(
            name=f"{self.name}-{wanted.config.role}-{kind}",
            version="1.0",
            data=f"{count} {'patient' if count == 1 else 'patients'}{whose}, with masks drawn by experts.",
            licence="For research use where it was trained; ask whoever owns the scans before passing it on.",
        )

    def install(
        self, run: str, models: Path, about: About, progress: Progress | None = None, replace: bool = False
    ) -> ModelCard:
        """Make a model of a finished run: export, measure, check on a patient it has not seen, then move it in.

        On its card stands what the models that are used so far reach on the same patients; the better one is used from
        then on, see `engine.registry.choose`. Takes a minute or so and works in a process of its own.

        Args:
            run: One of `installable`.
            models: Folder of the user's models.
            about: What the user says of it.
            progress: Told how far it is, and asked whether to stop.
            replace: Whether the user agreed to replace a model of the same name.

        Raises:
            ModelExists: One of that name is there and ``replace`` is not given.
            UserError: The name is not allowed, or the model does not find what it found when it was scored.
            Cancelled: Asked to stop; nothing was installed.
        """
        progress = progress or Progress()
        if run not in self.installable():
            raise UserError(f"{run} cannot be installed yet", "it is not trained and measured", "Let it finish first.")
        model_file.check_free(about.name, models, replace)
        request = {"training": str(self.folder), "run": run, "models": str(models.absolute()), "replace": replace}
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.publication"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        complaints: list[str] = []
        complaining = threading.Thread(target=lambda: complaints.extend(process.stderr or ()))
        complaining.start()
        said: dict[str, Any] = {}
        try:
            with suppress(OSError):  # it has ended by itself, and says below why
                process.stdin.write(json.dumps({**request, "about": asdict(about)}))
                process.stdin.close()
            for line in process.stdout:
                said = json.loads(line)
                if "fraction" in said:
                    progress.update(said["fraction"], said["message"])
        except Cancelled:
            process.kill()
            raise
        finally:
            process.wait()
            complaining.join()
            process.stdout.close()
            process.stderr.close()
            shutil.rmtree(models / f".{about.name}.new", ignore_errors=True)
        if "error" in said:
            raise (model_file.ModelExists if said["exists"] else UserError)(*said["error"])
        if "folder" not in said:
            why = next((line.strip() for line in reversed(complaints) if line.strip()), f"code {process.returncode}")
            raise UserError("The model could not be made", why, "Try again.")
        return ModelCard.read(Path(said["folder"]))


def home() -> Path:
    """Where trainings are kept unless the user chose another folder."""
    return platformdirs.user_data_path("Gliascope", appauthor=False) / "trainings"


def trainings(folders: Iterable[Path] | None = None) -> list[Training]:
    """Every training of the user's, the newest first.

    Args:
        folders: Folders of trainings; by default `home`, and those that were made elsewhere.
    """
    if folders is None:
        found = [*_inside(home()), *_elsewhere()]
    else:
        found = [folder for parent in folders for folder in _inside(parent)]
    made = []
    for folder in found:
        with suppress(UserError, OSError):  # unplugged, or of a newer Gliascope: not to be gone on with from here
            made.append(((folder / STUDY).stat().st_mtime, Training(folder)))
    return [training for _, training in sorted(made, key=lambda one: -one[0])]


def carry_out(
    training: Training,
    progress: Progress,
    hear: Callable[[str, Event], None] = lambda run, event: None,
    gpus: int = 1,
    nodes: int = 1,
) -> list[str]:
    """Work on a training until it is done: train, score, report.

    Args:
        training: Its folder is locked meanwhile.
        progress: When cancelled, every worker saves its state and ends.
        hear: Told every event too, with the name of its run; empty for the training as a whole.
        gpus: Processes that each network's training is divided among on each node, a GPU each.
        nodes: Nodes of a cluster's job that it is divided among.

    Returns:
        One sentence for each run that failed.

    Raises:
        Busy: Another process works on it.
        Cancelled: Asked to stop; everything is saved.
        UserError: The folder cannot be written.
    """
    with _locked(training.folder / _LOCK, _LOCK_SECONDS), _Diary(training.folder / EVENTS) as diary:

        def told(run: str, event: Event) -> None:
            diary.write(run, event)
            hear(run, event)

        def tell(standing: trainer_study.Standing) -> None:
            if standing.working:
                progress.update(standing.done / standing.total, f"{standing.done} of {standing.total} runs")

        places = dataclasses.replace(training.places, gpus=gpus, nodes=nodes)
        workers = Workers(training.study, places, 1, tell, progress, told)
        ended = threading.Event()
        listening = threading.Thread(target=_listen, args=(training.folder / _COMMANDS, workers, told, ended))
        listening.start()
        try:
            problems = workers.work()
            progress.check()
        except Cancelled:
            told("", Stopped(0))
            raise
        except UserError as error:
            told("", Failed(str(error)))
            raise
        finally:
            ended.set()
            listening.join()
        with suppress(UserError):  # nothing is scored
            trainer_study.report(training.study, training.places, training.folder / REPORT, "gliascope train")
        problems = [_with_titles(problem, training.planned) for problem in problems]
        if problems:
            told("", Failed(" ".join(problems)))
        else:
            told("", Finished(sum(run.config.steps for run in training.planned), str(training.folder / REPORT)))
        return problems


def _listen(path: Path, workers: Workers, told: Callable[[str, Event], None], ended: threading.Event) -> None:
    """Follow what is asked in a file, a command a line, until the work has ended."""
    read_to = 0
    while not ended.wait(_LOOK_SECONDS):
        try:
            if path.stat().st_size <= read_to:
                continue
            with path.open("rb") as file:
                file.seek(read_to)
                new = file.read()
        except OSError:
            continue
        whole = new[: new.rfind(b"\n") + 1]
        read_to += len(whole)
        for word in whole.decode("utf-8", "replace").split():
            if word in tuple(Command):
                told("", Acknowledged(word))
                workers.command(Command(word))


class _Diary:
    """Appends to a training's events, each a whole line or none, whatever happened to the line before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()

    def __enter__(self) -> _Diary:
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise unwritten(self._path, error) from error
        size = os.fstat(self._file).st_size
        os.lseek(self._file, max(0, size - 1), os.SEEK_SET)
        # A power cut may have left half a line.
        self._torn = size > 0 and os.read(self._file, 1) != b"\n"
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, run: str, event: Event) -> None:
        line = json.dumps({"run": run, "time": round(time.time(), 3), **json.loads(to_line(event))}) + "\n"
        whole = (b"\n" if self._torn else b"") + line.encode()
        with self._writing:
            try:
                self._torn = os.write(self._file, whole) < len(whole)
            except OSError:  # a full disk must not end a training whose own state is safe
                self._torn = True


def _heard(line: bytes) -> Heard | None:
    """One line of the events; none where it is damaged, or of a newer version."""
    try:
        fields = json.loads(line)
        return Heard(str(fields.pop("run")), float(fields.pop("time")), from_line(json.dumps(fields)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


class _Heard:
    """What the events of a training amount to."""

    def __init__(self, planned: list[Planned]) -> None:
        self.read_to = 0
        self._planned = planned
        self._steps: dict[str, int] = {}
        self._paces: dict[str, deque[float]] = {}
        self._running = ""
        self._paused = False
        self._problem = ""

    def take(self, heard: Heard) -> None:
        event = heard.event
        if heard.run:
            self._running = heard.run
        if isinstance(event, Failed):
            self._problem = event.message
        elif heard.run or isinstance(event, Finished):
            self._problem = ""
        if isinstance(event, Started):
            self._paused = False
            self._steps[heard.run] = event.first_step
        elif isinstance(event, StepEnd):
            self._steps[heard.run] = event.step
            self._paces.setdefault(heard.run, deque(maxlen=_PACES)).append(event.seconds_a_step)
        elif isinstance(event, Paused | Resumed):
            self._paused = isinstance(event, Paused)
        elif isinstance(event, Acknowledged):
            goes_on = event.command in (Command.RESUME, Command.KEEP)
            self._paused = event.command == Command.PAUSE or (self._paused and not goes_on)
        elif isinstance(event, Stopped):
            self._paused = False

    def standing(self, running: bool, places: Places) -> Standing:
        done_cost = total_cost = 0.0
        left = [0.0, 0.0]
        undone: list[tuple[bool, bool, int]] = []
        for place, run in enumerate(self._planned, start=1):
            name, config = run.config.name, run.config
            trained = (places.runs / name / WEIGHTS).exists()
            scored = not run.scored or (places.runs / name / trainer_study.SCORES).exists()
            low, typical, high, known = self._pace(run)
            steps_done = config.steps if trained else min(self._steps.get(name, 0), config.steps)
            to_score = segmentations(run)
            whole = typical * config.steps + to_score * statistics.fmean(SCORING_SECONDS)
            total_cost += whole
            done_cost += whole if trained and scored else typical * steps_done
            margin = (1.0, 1.0) if known else (0.8, 1.5)
            left[0] += (config.steps - steps_done) * low * margin[0] + (not scored) * to_score * SCORING_SECONDS[0]
            left[1] += (config.steps - steps_done) * high * margin[1] + (not scored) * to_score * SCORING_SECONDS[1]
            if not (trained and scored):
                undone.append((name == self._running, trained, -place))
        everything = not undone
        # What was heard of last, or what is being scored, or what is next.
        number = -max(undone)[2] if undone else 0
        if running:
            state = State.PAUSED if self._paused else State.RUNNING
        else:
            state = State.DONE if everything else State.FAILED if self._problem else State.STOPPED
        measured = bool(self._paces)
        return Standing(
            state=state,
            run=self._planned[number - 1].config.name if number else "",
            title=title_of(self._planned[number - 1], self._planned) if number else "",
            number=number,
            runs=len(self._planned),
            done=1.0 if everything else min(1.0, done_cost / total_cost),
            seconds_low=left[0] if measured else None,
            seconds_high=left[1] if measured else None,
            problem=self._problem,
        )

    def _pace(self, run: Planned) -> tuple[float, float, float, bool]:
        """Seconds of a step of a run, quick, typical and slow, and whether they were measured on just this kind."""
        same = [self._planned_paces(other) for other in self._planned if other.config.name == run.config.name]
        alike = [self._planned_paces(other) for other in self._planned if other.recipe == run.recipe]
        for found in (same, alike):
            paces = sorted(pace for one in found for pace in one)
            if paces:
                last = len(paces) - 1
                return paces[round(0.1 * last)], statistics.median(paces), paces[round(0.9 * last)], True
        paces = [pace for one in self._paces.values() for pace in one]
        typical = statistics.median(paces) if paces else 1.0
        taught = run.config.distillation is not None
        of_taught = {name for name in self._paces if _taught(self._planned, name)}
        if taught and not of_taught:
            typical *= _TAUGHT
        return typical, typical, typical, False

    def _planned_paces(self, run: Planned) -> Iterable[float]:
        return self._paces.get(run.config.name, ())


def _taught(planned: list[Planned], name: str) -> bool:
    return any(run.config.distillation is not None for run in planned if run.config.name == name)


def title_of(run: Planned, planned: Iterable[Planned]) -> str:
    """What a run of a training is called: ``"T1 student"``, ``"Four-sequence teacher, fold 2"``."""
    config = run.config
    what = "Four-sequence" if len(config.sequences) == len(Sequence) else "+".join(s.title for s in config.sequences)
    if config.sequence_dropout > 0:
        what = "Any-sequence"
    if not run.scored and run.held_out:
        whom = " and ".join(str(fold + 1) for fold in run.held_out)
        return f"{what} {config.role} without group{'s' * (len(run.held_out) > 1)} {whom}"
    several = len({other.held_out for other in planned if other.scored}) > 1
    return f"{what} {config.role}" + (f", fold {run.held_out[0] + 1}" if several and run.held_out else "")


def _with_titles(sentence: str, planned: list[Planned]) -> str:
    """A sentence of a study for somebody who does not know the names of its runs."""
    # Long names first, as some are the end of others.
    for run in sorted(planned, key=lambda run: -len(run.config.name)):
        sentence = sentence.replace(run.config.name, title_of(run, planned))
    return sentence


def _inside(parent: Path) -> list[Path]:
    try:
        return [folder for folder in parent.iterdir() if (folder / STUDY).is_file()]
    except OSError:
        return []


def _elsewhere() -> list[Path]:
    try:
        return [Path(path) for path in json.loads((home() / _ELSEWHERE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _remember(folder: Path) -> None:
    """Keep where a training lies that is not at home, so that it is found again."""
    known = [path for path in _elsewhere() if (path / STUDY).is_file() and path != folder]
    with whole_file(home() / _ELSEWHERE) as partial:
        home().mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps([str(path) for path in (*known, folder)]), encoding="utf-8")


_FLAGS = 0
if sys.platform == "win32":
    _FLAGS = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS


@contextmanager
def _locked(path: Path, wait_seconds: float, shared: bool = False) -> Iterator[None]:
    """As `engine.files.locked`.

    Raises:
        Busy: Somebody else holds it.
        OSError: The file cannot be made.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, wait_seconds, shared))
        except Locked as error:
            what = f"Another process works on {path.parent.name} already"
            raise Busy(what, "", "Watch that one, or stop it first.") from error
        yield


def main(arguments: list[str]) -> int:
    """Carry out a training in a process of its own.

    Returns:
        0 done, 2 something failed that the user can mend, 130 stopped.
    """
    if hasattr(os, "nice"):
        os.nice(5)  # whoever sits at the machine comes first
    progress = Progress()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: progress.cancel())  # the machine shuts down
    try:
        training = Training(Path(arguments[0]))
        return 2 if carry_out(training, progress) else 0
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Cancelled:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
