"""The worker process: ``python -m trainer.run CONFIG FOLDER`` trains and prints one JSON event a line.

It takes the commands of `trainer.events.Command` on its standard input, a word a line. An interrupt from the keyboard
ends it too, but for what was done since the last checkpoint. Under ``torchrun`` the processes share the training, and
the first of them speaks for all; see `trainer.team`.
"""

from __future__ import annotations

import math
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import Cancelled, UserError
from engine.files import Locked, locked, unwritten, whole_file
from engine.model_card import WEIGHTS
from engine.progress import Progress
from engine.volume import Sequence
from trainer.config import TrainConfig
from trainer.events import Acknowledged, Command, Event, Failed, Orders, Preparing, to_line

if TYPE_CHECKING:
    import torch

    from trainer.dataset import CaseStore

SECONDS_TO_SAVE = 60.0
SECONDS_BETWEEN_MESSAGES = 0.5


def train(config: TrainConfig, folder: Path, emit: Callable[[Event], None], progress: Progress) -> None:
    """Run one training to its end, or on from where an earlier one was stopped.

    Args:
        config: What to train.
        folder: The run folder; holds the config, the state while running and the weights when done.
        emit: Told what happens.
        progress: Checked between cases and steps; `Orders` may also pause, and end with the best weights so far.

    Raises:
        UserError: The data or the folder cannot be used, or another process trains in it.
        Cancelled: Asked to stop; the state is on disk.
    """
    orders = Orders.of(progress, emit)
    if _leads():
        with _alone(folder):
            _claim(folder, config)
            if not (folder / WEIGHTS).exists():
                _train(config, folder, emit, orders)
    elif not (folder / WEIGHTS).exists():
        _train(config, folder, emit, orders)


def _train(config: TrainConfig, folder: Path, emit: Callable[[Event], None], orders: Orders) -> None:
    import torch

    from engine import networks
    from trainer import checkpoint, loop, team
    from trainer.dataset import CaseStore, Examples
    from trainer.distillation import DistillationTask, SegmentationTask
    from trainer.validation import Validation

    together = team.assemble(_device(config.device))
    device = together.device
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    network = networks.build(*config.network())
    if config.start_from:
        checkpoint.start_from(network, config, folder.parent / config.start_from)
    task: DistillationTask | SegmentationTask
    # Patients are prepared by the lead; the others then find them prepared.
    with together.in_turn():
        store = CaseStore(Path(config.data), config.spacing_mm, folder.parent / "prepared")
        wanted = config.distillation
        if wanted is None:
            task = SegmentationTask(network).to(device)
            examples = Examples(config, store, device, orders)
        else:
            teacher = None
            seen: tuple[Sequence, ...] = ()
            if wanted.teacher:
                teacher, teacher_config = checkpoint.load_network(folder.parent / wanted.teacher)
                teacher, seen = teacher.to(device), teacher_config.sequences
            absent: tuple[Sequence, ...] = ()
            if wanted.synthesis > 0:
                # A student of any subset has seen every sequence, but never all at once.
                lacking = tuple(s for s in Sequence if s not in config.sequences)
                absent = config.sequences if config.sequence_dropout > 0 else lacking
            task = DistillationTask(network.to(device), teacher, wanted, len(absent)).to(device)
            said = opinions(config, store, folder.parent, device, orders) if wanted.blend > 0 else None
            examples = Examples(config, store, device, orders, seen, absent, said)
        cases = [store.load(name, orders) for name in config.validation_cases] if together.leads else []
        validation = Validation(config, cases, folder, device) if cases and config.validate_every else None
    loop.fit(config, task, examples, validation, folder, together, emit, orders)


def opinions(
    config: TrainConfig, store: CaseStore, runs: Path, device: torch.device, progress: Progress
) -> dict[str, np.ndarray]:
    """Ask the cross-fitted teachers of a student.

    Args:
        config: Of the student.
        store: Holds the cases.
        runs: Where the teachers' run folders are.
        device: Where to work.
        progress: Checked at each case.

    Returns:
        Of each training case what the teachers that never saw it think: ``(2, i, j, k)`` float32 probabilities. A
        case that lacks sequences of all these teachers is left out.

    Raises:
        UserError: A teacher is not finished, or all of them saw a case.
    """
    from trainer import checkpoint
    from trainer.distillation import outline

    assert config.distillation is not None
    teachers = [checkpoint.load_network(runs / name) for name in config.distillation.cross_fitted]
    said = {}
    for number, name in enumerate(config.train_cases):
        progress.update(number / len(config.train_cases), f"asking the teachers about {name}")
        strangers = [(net.to(device), known) for net, known in teachers if name not in known.train_cases]
        if not strangers:
            what = f"Every cross-fitted teacher of {config.name} was trained on {name}"
            raise UserError(what, "", "Name one that was not, or leave this patient out.")
        case = store.load(name, progress)
        able = [(net, known.sequences) for net, known in strangers if set(known.sequences) <= set(case.sequences)]
        if able:
            each = [outline(net, case.images[case.channels(needed)], device) for net, needed in able]
            said[name] = np.mean(each, axis=0)
    return said


def _leads() -> bool:
    """Whether this is the only process of its training, or the first of those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process from training in the same folder.

    One whose supervisor was killed needs a moment to save its state; a new one waits for that.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / "lock", SECONDS_TO_SAVE))
        except Locked as error:
            what = f"Another process is training in the folder {folder.name}"
            raise UserError(what, "", "Wait until it is done, or stop it.") from error
        except OSError as error:
            raise unwritten(folder / "lock", error) from error
        yield


def _claim(folder: Path, config: TrainConfig) -> None:
    """Make the run folder, or make sure that it belongs to this very config."""
    from trainer import checkpoint

    path = folder / checkpoint.CONFIG
    if path.exists():
        # Compared by meaning: a field added since then has the value it had all along.
        if not TrainConfig.read(path).learns_as(config):
            what = f"The folder {folder.name} belongs to another training"
            raise UserError(what, "its config differs", "Choose another folder, or delete that one.")
        return
    with whole_file(path) as partial:
        partial.write_text(config.to_json(), encoding="utf-8")


def _device(wanted: str) -> torch.device:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device here", "", "Train on the CPU instead.")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def serve(work: Callable[[Callable[[Event], None], Orders], None]) -> int:
    """Do some work as a worker process: events out, one JSON object a line; commands in, a word a line.

    A command is answered at once by an `Acknowledged`, whatever the work is doing just then. The end of standard input,
    where that is a pipe, stops the work, and so does an end of whoever reads the events.

    Args:
        work: Takes what to tell events to, and what to ask whether to go on.

    Returns:
        0 done, 2 something the user can mend, 130 stopped.
    """
    telling = threading.Lock()

    def emit(event: Event) -> None:
        if not _leads():
            return
        with telling:
            try:
                sys.stdout.write(to_line(event) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                # What is still to be told, and what Python flushes at its end, goes nowhere.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)
                orders.cancel()

    told = -math.inf

    def tell(fraction: float, message: str) -> None:
        nonlocal told
        if time.monotonic() - told > SECONDS_BETWEEN_MESSAGES:
            emit(Preparing(fraction, message))
            told = time.monotonic()

    orders = Orders(emit, tell)

    def listen() -> None:
        for line in sys.stdin:
            word = line.strip()
            if word in tuple(Command):
                emit(Acknowledged(word))
                orders.give(Command(word))
        if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
            # Who began this is gone, and might begin it again: two must not write into one run folder.
            orders.cancel()

    if _leads():
        threading.Thread(target=listen, daemon=True).start()
    try:
        work(emit, orders)
    except UserError as error:
        emit(Failed(str(error)))
        if not _leads():
            sys.stderr.write(f"{error}\n")
        return 2
    except (Cancelled, KeyboardInterrupt):
        return 130
    return 0


def main(arguments: list[str]) -> int:
    """Train from the command line: config file and run folder; see `serve`."""
    if len(arguments) != 2:
        return serve(_usage)
    config, folder = (Path(argument) for argument in arguments)
    return serve(lambda emit, progress: train(TrainConfig.read(config), folder, emit, progress))


def _usage(*_: object) -> None:
    raise UserError("Usage: python -m trainer.run CONFIG FOLDER")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
