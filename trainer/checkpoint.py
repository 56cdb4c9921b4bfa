"""State on disk: a run killed at any moment goes on as if it had not been; a finished one becomes a model folder."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engine import networks, runtime
from engine.errors import UserError
from engine.files import whole_file
from engine.model_card import REGIONS, TUMOUR_CORE, WHOLE_TUMOUR, Architecture, ModelCard, Role
from engine.volume import Sequence
from trainer.config import TrainConfig

if TYPE_CHECKING:
    from trainer.loop import Task

CONFIG = "config.json"
STATE = "state.safetensors"
WEIGHTS = "weights.safetensors"
# Pieces smaller than these are seldom tumour; fixed before anything was measured.
MINIMUM_ML = {WHOLE_TUMOUR: 1.0, TUMOUR_CORE: 0.2}
LEFT_RIGHT = 0


def save_state(
    folder: Path, step: int, task: Task, average: dict[str, torch.Tensor], optimiser: torch.optim.AdamW
) -> Path:
    """Write everything needed to go on after ``step``, replacing the last state only once the new one is whole."""
    tensors = {f"task.{name}": value for name, value in task.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in entry.items()}
    path = folder / STATE
    _write(path, tensors, {"step": str(step)})
    return path


def load_state(folder: Path, task: Task, average: dict[str, torch.Tensor], optimiser: torch.optim.AdamW) -> int:
    """Restore what `save_state` wrote into the objects given.

    Returns:
        The number of steps done; 0 where the folder holds no state.
    """
    path = folder / STATE
    if not path.exists():
        return 0
    tensors, metadata = _read(path)
    task.load_state_dict(_part(tensors, "task."))
    for name, value in _part(tensors, "average.").items():
        average[name].copy_(value)
    parameters = optimiser.param_groups[0]["params"]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # Same strides as the parameter: the fused optimiser walks both as flat memory.
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(metadata["step"])


def save_weights(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """Write the finished weights; a run with this file is done."""
    path = folder / WEIGHTS
    _write(path, {name: value.detach().cpu() for name, value in weights.items()}, {})
    return path


def load_network(folder: Path) -> tuple[torch.nn.Module, TrainConfig]:
    """The finished network of a run, in evaluation mode, and its config.

    Raises:
        UserError: The run is not finished.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise UserError(f"The run {folder.name} is not finished", f"it has no {WEIGHTS}", "Let it finish first.")
    config = TrainConfig.read(folder / CONFIG)
    network = networks.build(*config.network())
    network.load_state_dict(_read(path)[0])
    return network.eval(), config


def start_from(network: torch.nn.Module, config: TrainConfig, folder: Path) -> None:
    """Give ``network`` the weights of a finished run that reads the same sequences and perhaps more.

    The first layer is linear, so the slice that belongs to the remaining sequences computes what the old network did
    with the others at zero.

    Raises:
        UserError: The run lacks one of the sequences, or has another architecture.
    """
    source, source_config = load_network(folder)
    missing = [sequence.title for sequence in config.sequences if sequence not in source_config.sequences]
    if missing or source_config.architecture != config.architecture:
        why = f"it never saw {missing[0]}" if missing else "it has another architecture"
        raise UserError(f"{config.name} cannot start from {folder.name}", why, "Choose another run to start from.")
    weights = source.state_dict()
    stem = weights["stem.weight"]
    folded = stem.shape[1] // len(source_config.sequences)
    places = [source_config.sequences.index(sequence) for sequence in config.sequences]
    weights["stem.weight"] = torch.cat([stem[:, place * folded : (place + 1) * folded] for place in places], dim=1)
    network.load_state_dict(weights)


def export(
    run: Path, folder: Path, name: str, version: str, data: str, licence: str, citations: tuple[str, ...]
) -> ModelCard:
    """Make a model folder of a finished run; replaces ``folder`` only once the new one is whole.

    A network that was trained with sequences absent becomes a model for any subset of them.

    Args:
        run: The run folder.
        folder: The model folder.
        name: Of the model.
        version: Of the model.
        data: What it was trained on, in words.
        licence: Under which terms weights and data may be used, in words.
        citations: What to cite.

    Returns:
        The card, not yet with an evaluation.

    Raises:
        UserError: The run is not finished.
    """
    network, config = load_network(run)
    every = len(config.sequences) == len(Sequence)
    titles = "four-sequence" if every else "+".join(s.title for s in config.sequences)
    any_subset = config.sequence_dropout > 0
    if any_subset:
        titles = "any-sequence" if every else f"any-of-{titles}"
    architecture, arguments = config.network()
    training = asdict(config)
    # Where things lay belongs to whoever trained, not to who uses the model.
    del training["data"]
    training["simulated"] = Path(config.simulated).name
    card = ModelCard(
        name=name,
        title=f"{titles} {config.role}",
        version=version,
        role=Role(config.role),
        sequences=config.sequences,
        spacing_mm=config.spacing_mm,
        window=config.window,
        architecture=Architecture(architecture, arguments),
        any_subset=any_subset,
        regions=REGIONS,
        mirror_axes=(LEFT_RIGHT,),
        minimum_ml=MINIMUM_ML,
        training=training,
        data=data,
        licence=licence,
        citations=citations,
        made_with={"python": platform.python_version(), "torch": torch.__version__.split("+")[0]},
    )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    runtime.export(network, len(config.sequences), config.window, partial)
    card.write(partial)
    # The old model stays until the new one is whole and in its place.
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
    return ModelCard.read(folder)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path, _read) as partial:
        try:
            save_file(whole, partial, metadata or None)
        except SafetensorError as error:  # what it makes of an error of the system
            raise OSError(str(error)) from error


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path.name} is damaged", str(error), "Delete it to start this run again.") from error
