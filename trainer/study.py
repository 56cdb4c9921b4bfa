"""A study: recipes times folds times seeds, each run resumable, and what they amount to when all are scored.

One config file says everything; the same file gives the same folds, runs and examples on every machine. What is
finished is skipped, what was stopped goes on, so a study of many hours may be run in pieces.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import Cancelled, UserError
from engine.files import whole_file
from engine.model_card import WEIGHTS
from engine.progress import Progress
from engine.volume import Sequence, joined
from trainer.config import TrainConfig
from trainer.events import Command, Event, Failed, Finished, StepEnd, from_line

FORMAT = 1
EVERY = tuple(Sequence)
CONFIGS = "configs"
SCORES = "scores.csv"
MASKS = "masks"
MODEL = "model:"
"""What a recipe's ``start_from`` begins with where a model is meant and not a recipe."""
_LOOK_SECONDS = 0.2  # how soon a request to stop is seen; ends of workers are seen at once


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Attributes:
        config: What to train.
        needs: Names of the runs whose weights it learns from.
        recipe: Which recipe it is an instance of.
        held_out: Folds that it does not learn from; empty for a model that is shipped.
        scored: Whether its held-out patients are scored; a teacher of cross-fitted targets is a means only.
    """

    config: TrainConfig
    needs: tuple[str, ...]
    recipe: str
    held_out: tuple[int, ...]
    scored: bool


@dataclass(frozen=True)
class Cell:
    """Part of a study: one recipe on some sets of sequences, folds and seeds."""

    recipe: str
    sequences: tuple[tuple[Sequence, ...], ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Shipped:
    """A model of the app: a recipe trained on every patient; its figures are those of the folds."""

    name: str
    recipe: str
    sequences: tuple[Sequence, ...]
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        title: Of the report.
        folds: Names of the patients of each fold.
        common: Fields of every run's `TrainConfig`.
        recipes: Fields of a recipe's runs that differ from ``common``, by recipe. In ``distillation`` the teachers are
            named by recipe; which run is meant follows from the fold.
        cells: What is trained and scored.
        comparisons: Pairs of recipe and reference.
        shipped: What is trained on all patients in the end.
        shifted: Whether held-out patients are scored as another hospital would have scanned them too.
        notes: Sentences for the report.
        teacher: Sequences of every teacher.
        held: Sequences of those patients who lack some; the others have all. Runs learn from, and are scored on, those
            who have theirs; one for any subset learns from whoever has one of them.
    """

    title: str
    folds: tuple[tuple[str, ...], ...]
    common: Mapping[str, Any]
    recipes: Mapping[str, Mapping[str, Any]]
    cells: tuple[Cell, ...]
    comparisons: tuple[tuple[str, str], ...] = ()
    shipped: tuple[Shipped, ...] = ()
    shifted: bool = True
    notes: tuple[str, ...] = ()
    teacher: tuple[Sequence, ...] = EVERY
    held: Mapping[str, tuple[Sequence, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        patients = [name for fold in self.folds for name in fold]
        if len(self.folds) < 2 or not all(self.folds) or len(set(patients)) != len(patients):
            raise ValueError("a study has at least two folds, and each patient is in exactly one")
        named = [cell.recipe for cell in self.cells] + [model.recipe for model in self.shipped]
        named += [recipe for pair in self.comparisons for recipe in pair]
        for recipe in named:
            if recipe not in self.recipes:
                raise ValueError(f'there is no recipe "{recipe}"')
        for cell in self.cells:
            if not set(cell.folds) <= set(range(len(self.folds))):
                raise ValueError(f"the study has {len(self.folds)} folds, counted from 0")

    @staticmethod
    def read(path: Path) -> Study:
        """Read a study's config file.

        Raises:
            UserError: It cannot be read, or makes no sense.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path.name} cannot be read as a study", str(error), "Check the file.") from error
        try:
            version = fields.pop("format", FORMAT)
            if version > FORMAT:
                raise UserError(f"{path.name} comes from a newer Gliascope", "", "Update this one.")
            return Study(
                title=fields.pop("title"),
                folds=tuple(tuple(fold) for fold in fields.pop("folds")),
                common=fields.pop("common"),
                recipes=fields.pop("recipes"),
                cells=tuple(_cell(cell) for cell in fields.pop("cells")),
                comparisons=tuple((one, other) for one, other in fields.pop("comparisons", ())),
                shipped=tuple(
                    Shipped(**{**model, "sequences": tuple(Sequence(s) for s in model["sequences"])})
                    for model in fields.pop("shipped", ())
                ),
                notes=tuple(fields.pop("notes", ())),
                teacher=tuple(Sequence(s) for s in fields.pop("teacher", EVERY)),
                held={name: tuple(Sequence(s) for s in held) for name, held in fields.pop("held", {}).items()},
                **fields,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path.name} is not a study", reason, "Mend that place.") from error

    def write(self, path: Path) -> None:
        """Write the config file; `read` gives the same study back.

        Raises:
            CannotWrite: The system refused.
        """
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        with whole_file(path) as partial:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")

    def plan(self, places: Places) -> list[Planned]:
        """Every run, in an order in which each comes after those it needs.

        Args:
            places: Where cohort and simulated patients are.

        Raises:
            UserError: A recipe's fields make no sense.
        """
        runs: dict[str, Planned] = {}
        try:
            for cell in self.cells:
                for seed in cell.seeds:
                    for sequences in cell.sequences:
                        for fold in cell.folds:
                            self._add(runs, cell.recipe, sequences, (fold,), seed, places, True)
            for model in self.shipped:
                self._add(runs, model.recipe, model.sequences, (), model.seed, places, False)
        except ValueError as error:
            raise UserError("A recipe of the study makes no sense", str(error), "Mend it.") from error
        return list(runs.values())

    def _add(
        self,
        runs: dict[str, Planned],
        recipe: str,
        sequences: tuple[Sequence, ...],
        held_out: tuple[int, ...],
        seed: int,
        places: Places,
        scored: bool,
    ) -> str:
        name = run_name(recipe, sequences, held_out, seed)
        if name in runs:
            if scored and not runs[name].scored:
                runs[name] = replace(runs[name], scored=True)
            return name
        fields = {**self.common, **self.recipes[recipe]}
        needs: list[str] = []
        if fields.get("distillation") is not None:
            taught = dict(fields["distillation"])
            # Teachers are the same for all seeds of their students.
            if taught.get("teacher"):
                taught["teacher"] = self._add(runs, taught["teacher"], self.teacher, held_out, 0, places, False)
                needs.append(taught["teacher"])
            if taught.get("cross_fitted"):
                inner = [fold for fold in range(len(self.folds)) if fold not in held_out]
                taught["cross_fitted"] = [
                    self._add(runs, taught["cross_fitted"], self.teacher, without, 0, places, False)
                    for without in (tuple(sorted((*held_out, fold))) for fold in inner)
                ]
                needs += taught["cross_fitted"]
            fields["distillation"] = taught
        begins = fields.get("start_from", "")
        if begins.startswith(MODEL):
            if places.models is None:
                raise ValueError(f"{recipe} begins with a model, and there is no folder of models")
            fields["start_from"] = str(places.models / begins.removeprefix(MODEL))
        elif begins:
            # Where one begins must not have seen anybody that the run is scored on, so it is trained on nobody.
            fields["start_from"] = self._add(runs, begins, EVERY, (), 0, places, False)
            needs.append(fields["start_from"])
        everyone = sorted(patient for fold in self.folds for patient in fold)
        left_out = {patient for fold in held_out for patient in self.folds[fold]}
        # A network for any subset learns from whoever has one of its sequences; what it is scored on has all.
        enough = any if fields.get("sequence_dropout") else all
        learnt_from = [
            patient
            for patient in everyone
            if patient not in left_out and enough(self._has(patient, one) for one in sequences)
        ]
        seen_whole = [patient for patient in everyone if all(self._has(patient, one) for one in sequences)]
        of_patients = fields.get("simulated_share") != 1
        fields |= {
            "name": name,
            "sequences": sequences,
            "data": str(places.data),
            "train_cases": learnt_from if of_patients else [],
            "validation_cases": [p for p in seen_whole if p in left_out] if of_patients else seen_whole,
            "simulated": str(places.simulated) if places.simulated and fields.get("simulated_share", 1) else "",
            "seed": seed,
            # Each of the processes that share a training has an example of every batch.
            "batch": max(fields.get("batch", 1), places.gpus * places.nodes),
        }
        config = TrainConfig.from_json(json.dumps(fields), name)
        runs[name] = Planned(config, tuple(needs), recipe, held_out, scored)
        return name

    def _has(self, patient: str, sequence: Sequence) -> bool:
        return sequence in self.held.get(patient, EVERY)


def run_name(recipe: str, sequences: Iterable[Sequence], held_out: tuple[int, ...], seed: int) -> str:
    """What a run and its folder are called: ``"baseline-t1-without0-seed0"``."""
    chosen = tuple(sequences)
    what = "all" if len(chosen) == len(EVERY) else joined(chosen)
    whom = f"without{'+'.join(map(str, held_out))}" if held_out else "everyone"
    return f"{recipe}-{what}-{whom}-seed{seed}"


def mask_path(run: Path, case: str, threshold: float) -> Path:
    """Where a run's folder holds what it found in a held-out patient, given all its sequences, at a threshold."""
    return run / MASKS / f"{case}-{threshold:g}.nii.gz"


@dataclass(frozen=True)
class Places:
    """Where a study finds and puts things.

    Attributes:
        data: The cohort: whatever `trainer.patients.Patients.read` takes.
        runs: Folder of the run folders.
        simulated: Simulated patients to learn from, as `trainer.dataset.save_simulated` writes them; ``None`` for none.
        simulated_test: Others, to score on; ``None`` for none.
        models: Folder of the models that recipes begin with; ``None`` for none.
        gpus: Processes that a training is divided among on each node, a GPU each.
        nodes: Nodes of a cluster's job that it is divided among.
    """

    data: Path
    runs: Path
    simulated: Path | None = None
    simulated_test: Path | None = None
    models: Path | None = None
    gpus: int = 1
    nodes: int = 1


@dataclass(frozen=True)
class Standing:
    """How far a study has come.

    Attributes:
        done: Runs finished and, where wanted, scored.
        total: Runs in all.
        working: What is being trained or scored now.
        seconds_left: Estimate from the pace of the steps so far; ``None`` before the first.
    """

    done: int
    total: int
    working: tuple[str, ...]
    seconds_left: float | None


def carry_out(
    study: Study,
    places: Places,
    side_by_side: int,
    tell: Callable[[Standing], None],
    progress: Progress,
) -> list[str]:
    """Train and score whatever is not finished, several runs side by side, one worker process each.

    Args:
        study: What to train and score.
        places: Where everything lies.
        side_by_side: Worker processes at a time.
        tell: Told at every change and every few steps.
        progress: When cancelled, every worker saves its state and ends.

    Returns:
        One sentence for each run that failed; those that need it are not begun.

    Raises:
        Cancelled: Asked to stop; everything finished is kept, everything begun can go on.
        UserError: The folder cannot be written.
    """
    return Workers(study, places, side_by_side, tell, progress).work()


def begin(run: Planned, study: Study, places: Places) -> subprocess.Popen[str]:
    """Start the worker process of a run: its training, or its scoring where it is trained already.

    Its events come from standard output, a line each, and its commands go to standard input; see `trainer.run.serve`.
    """
    name = run.config.name
    configs = places.runs / CONFIGS
    configs.mkdir(parents=True, exist_ok=True)
    if _is_trained(places, name):
        command = ["-m", "trainer.scoring", str(places.runs / name), "--data", str(places.data)]
        command += ["--recipe", run.recipe, "--fold", str(run.held_out[0]), "--folds", str(len(study.folds))]
        if places.simulated_test is not None:
            command += ["--simulated", str(places.simulated_test)]
        if study.shifted:
            command.append("--shifted")
    else:
        path = configs / f"{name}.json"
        with whole_file(path) as partial:
            partial.write_text(run.config.to_json(), encoding="utf-8")
        command = [*_divided(places), "-m", "trainer.run", str(path), str(places.runs / name)]
    threads = {"OMP_NUM_THREADS": str(run.config.threads)} if run.config.threads else {}
    with (configs / f"{name}.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [*_everywhere(places, name), sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
            env=os.environ | threads,
            # An interrupt from the keyboard is for who began it, who then asks for an orderly end.
            start_new_session=True,
        )


def _divided(places: Places) -> list[str]:
    """What makes several processes of one training."""
    if places.gpus * places.nodes == 1:
        return []
    divided = ["-m", "torch.distributed.run", f"--nnodes={places.nodes}", f"--nproc-per-node={places.gpus}"]
    if places.nodes == 1:
        return [*divided, "--standalone"]
    # The job's first node is where this runs.
    return [*divided, "--rdzv-backend=c10d", f"--rdzv-endpoint={socket.gethostname()}:29400"]


def _everywhere(places: Places, name: str) -> list[str]:
    """What begins a training on every node of a cluster's job; scoring is for one."""
    if places.nodes == 1 or _is_trained(places, name):
        return []
    return ["srun", f"--nodes={places.nodes}", f"--ntasks={places.nodes}", "--ntasks-per-node=1"]


def _is_trained(places: Places, name: str) -> bool:
    return (places.runs / name / WEIGHTS).exists()


def report(study: Study, places: Places, folder: Path, command: str) -> Path:
    """Write what the scored runs of a study amount to so far.

    Args:
        study: Which runs.
        places: Where they are.
        folder: Where the tables and plots go; see `trainer.report.write_report`.
        command: What makes all of this again.

    Returns:
        The page.

    Raises:
        UserError: Nothing is scored yet.
    """
    from trainer import comparison
    from trainer.report import write_report

    names = [run.config.name for run in study.plan(places) if run.scored]
    paths = [path for name in names if (path := places.runs / name / SCORES).exists()]
    if not paths:
        raise UserError("The study has no results yet", "no run is scored", "Let some finish first.")
    rows = comparison.read_rows(paths)
    compared = comparison.compare_all(rows, study.comparisons)
    unfinished = len(names) - len(paths)
    notes = list(study.notes)
    if unfinished:
        notes.append(f"Not finished: {unfinished} of {len(names)} runs are still to be trained or scored.")
    return write_report(folder, study.title, rows, compared, command, notes, tuple(study.recipes))


class Workers:
    """The worker processes of a study: begun when what they need is there, listened to, and given commands.

    Args:
        study: What to train and score.
        places: Where everything lies.
        side_by_side: Worker processes at a time.
        tell: Told at every change and every few steps.
        progress: When cancelled, every worker saves its state and ends.
        hear: Told every event of every worker with the name of its run; from several threads, one at a time.
    """

    def __init__(
        self,
        study: Study,
        places: Places,
        side_by_side: int,
        tell: Callable[[Standing], None],
        progress: Progress,
        hear: Callable[[str, Event], None] = lambda run, event: None,
    ) -> None:
        self._study, self._places = study, places
        self._planned = {run.config.name: run for run in study.plan(places)}
        self._side_by_side, self._tell, self._progress, self._hear = side_by_side, tell, progress, hear
        self._working: dict[str, subprocess.Popen[str]] = {}
        self._listening: dict[str, threading.Thread] = {}
        self._failed: dict[str, str] = {}
        self._left: dict[str, float] = {}
        self._pace = 0.0
        self._paused = False
        self._changed = threading.Event()
        self._hearing = threading.Lock()
        # Held while a worker is begun, so that none misses a command that comes just then.
        self._commanding = threading.RLock()

    def work(self) -> list[str]:
        """Train and score whatever is not finished; see `carry_out`."""
        try:
            while True:
                self._progress.check()
                self._changed.clear()
                self._collect()
                waiting = [name for name in self._planned if not self._is_done(name) and name not in self._working]
                ready = [name for name in waiting if self._can_begin(name)]
                for name in ready[: self._side_by_side - len(self._working)]:
                    self._begin(name)
                if not self._working and not (self._paused and ready):
                    stuck = [name for name in waiting if name not in self._failed]
                    return [*self._failed.values(), *(f"{name} waits for a run that failed." for name in stuck)]
                self._changed.wait(_LOOK_SECONDS)
        except (Cancelled, KeyboardInterrupt):
            for worker in self._working.values():
                self._say(worker, Command.STOP)
            for name in list(self._working):
                self._end(name)
            raise

    def command(self, command: Command) -> None:
        """Pass a command on to every worker; from any thread.

        A pause holds back what would begin next, too. `Command.KEEP` is for what is being trained: the study goes on
        with what comes after it. `Command.STOP` ends everything, as cancelling does.
        """
        with self._commanding:
            if command is Command.STOP:
                self._progress.cancel()
            elif command is Command.KEEP:
                self._paused = False
                for name, worker in self._working.items():
                    self._say(worker, command if not _is_trained(self._places, name) else Command.RESUME)
            else:
                self._paused = command is Command.PAUSE
                for worker in self._working.values():
                    self._say(worker, command)
        self._changed.set()

    @property
    def paused(self) -> bool:
        """Whether nothing is to be computed."""
        return self._paused

    def _is_done(self, name: str) -> bool:
        scored = (self._places.runs / name / SCORES).exists()
        return _is_trained(self._places, name) and (scored or not self._planned[name].scored)

    def _can_begin(self, name: str) -> bool:
        return name not in self._failed and all(_is_trained(self._places, other) for other in self._planned[name].needs)

    def _begin(self, name: str) -> None:
        with self._commanding:
            if self._paused:
                return
            self._working[name] = worker = begin(self._planned[name], self._study, self._places)
        self._listening[name] = threading.Thread(target=self._listen, args=(name, worker), daemon=True)
        self._listening[name].start()
        self._report()

    def _listen(self, name: str, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            try:
                event = from_line(line)
            except ValueError:  # a library that talks to standard output
                continue
            self._pass_on(name, event)
            if isinstance(event, StepEnd):
                self._left[name] = event.seconds_left
                self._pace = event.seconds_a_step
                self._report()
            elif isinstance(event, Finished):
                self._left[name] = 0.0
            elif isinstance(event, Failed):
                self._failed[name] = f"{name}: {event.message}"
        worker.wait()
        self._changed.set()

    def _collect(self) -> None:
        for name, worker in list(self._working.items()):
            code = worker.poll()
            if code is None:
                continue
            self._end(name)
            if code and name not in self._failed:
                self._failed[name] = why = _ended(name, code)
                self._pass_on(name, Failed(why))
            self._report()

    def _end(self, name: str) -> None:
        # What the worker said last is heard before anything is concluded from its end.
        self._listening.pop(name).join()
        with self._commanding:
            worker = self._working.pop(name)
            worker.communicate()

    def _report(self) -> None:
        working = tuple(self._working)
        done = sum(self._is_done(name) for name in self._planned)
        left = None
        if self._pace:
            steps = sum(
                run.config.steps
                for name, run in self._planned.items()
                if not _is_trained(self._places, name) and name not in working
            )
            running = sum(self._left.get(name, 0.0) for name in working)
            left = (steps * self._pace + running) / self._side_by_side
        with suppress(Cancelled):  # seen in the loop of `work`; a thread that listens has to go on listening
            self._tell(Standing(done, len(self._planned), working, left))

    def _pass_on(self, name: str, event: Event) -> None:
        with self._hearing, suppress(Cancelled):
            self._hear(name, event)

    @staticmethod
    def _say(worker: subprocess.Popen[str], command: Command) -> None:
        assert worker.stdin is not None
        with suppress(OSError):  # it has ended by itself
            worker.stdin.write(f"{command}\n")
            worker.stdin.flush()


def _ended(name: str, code: int) -> str:
    if code in (-9, 137):
        return f"{name} was ended by the system, most likely for lack of memory. Close other programs, then go on."
    return f"{name} ended unexpectedly (code {code}). Its log lies in {CONFIGS}; going on may be enough."


def _cell(fields: Mapping[str, Any]) -> Cell:
    return Cell(
        recipe=fields["recipe"],
        sequences=tuple(tuple(Sequence(s) for s in chosen) for chosen in fields["sequences"]),
        folds=tuple(fields["folds"]),
        seeds=tuple(fields.get("seeds", (0,))),
    )
