"""The worker process: ``python -m trainer.run CONFIG FOLDER`` trains and prints one JSON event a line.

Writing ``stop`` and a line end to its standard input ends it after the step it is in, with everything saved.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from engine.errors import Cancelled, UserError
from engine.progress import Progress
from engine.volume import Sequence
from trainer.config import TrainConfig
from trainer.events import Event, Failed, to_line


def train(config: TrainConfig, folder: Path, emit: Callable[[Event], None], progress: Progress) -> None:
    """Run one training to its end, or on from where an earlier one was stopped.

    Args:
        config: What to train.
        folder: The run folder; holds the config, the state while running and the weights when done.
        emit: Told what happens.
        progress: Checked between cases and steps.

    Raises:
        UserError: The data or the folder cannot be used.
        Cancelled: Asked to stop; the state is on disk.
    """
    import torch

    from engine import networks
    from trainer import checkpoint, loop
    from trainer.dataset import CaseStore, Examples
    from trainer.distillation import DistillationTask, SegmentationTask

    _claim(folder, config)
    if (folder / checkpoint.WEIGHTS).exists():
        return
    device = _device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    network = networks.build(*config.network())
    if config.start_from:
        checkpoint.start_from(network, config, folder.parent / config.start_from)
    task: DistillationTask | SegmentationTask
    teachers: tuple[Sequence, ...] = ()
    if config.distillation is None:
        task = SegmentationTask(network).to(device)
    else:
        teacher, teacher_config = checkpoint.load_network(folder.parent / config.distillation.teacher)
        teachers = teacher_config.sequences
        task = DistillationTask(network.to(device), teacher.to(device), config.distillation)

    held = tuple(dict.fromkeys([*config.sequences, *teachers]))
    ordered = tuple(sequence for sequence in Sequence if sequence in held)
    store = CaseStore(Path(config.data), ordered, config.spacing_mm, folder.parent / "prepared")
    examples = Examples(config, store, teachers, device, progress)
    validation = [store.load(name, progress) for name in config.validation_cases]
    channels = [ordered.index(sequence) for sequence in config.sequences]
    loop.fit(config, task, examples, validation, channels, folder, device, emit, progress)


def _claim(folder: Path, config: TrainConfig) -> None:
    """Make the run folder, or make sure that it belongs to this very config."""
    from trainer import checkpoint

    path = folder / checkpoint.CONFIG
    if path.exists():
        # Compared by meaning: a field added since then has the value it had all along.
        if TrainConfig.read(path) != config:
            what = f"The folder {folder.name} belongs to another training"
            raise UserError(what, "its config differs", "Choose another folder, or delete that one.")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(config.to_json(), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be written", str(error), "Choose another folder.") from error


def _device(wanted: str) -> torch.device:  # type: ignore[name-defined]  # noqa: F821 - torch loads late
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device here", "", "Train on the CPU instead.")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def main(arguments: list[str]) -> int:
    """Train from the command line.

    Args:
        arguments: Config file and run folder.

    Returns:
        0 done, 2 something the user can mend, 130 stopped.
    """

    def emit(event: Event) -> None:
        sys.stdout.write(to_line(event) + "\n")
        sys.stdout.flush()

    progress = Progress()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                progress.cancel()
                return

    try:
        config_path, folder = (Path(argument) for argument in arguments)
    except ValueError:
        emit(Failed("Usage: python -m trainer.run CONFIG FOLDER"))
        return 2
    threading.Thread(target=listen, daemon=True).start()
    try:
        train(TrainConfig.read(config_path), folder, emit, progress)
    except UserError as error:
        emit(Failed(str(error)))
        return 2
    except (Cancelled, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
