"""State on disk: a run killed at any moment goes on as if it had not been; a finished one becomes a model folder."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engine import model_file, networks, registry, runtime
from engine.errors import UserError
from engine.files import whole_file
from engine.model_card import CARD_NAME, REGIONS, TUMOUR_CORE, WEIGHTS, WHOLE_TUMOUR, Architecture, ModelCard, Role
from engine.preprocessing import SIZE_STEP
from engine.volume import Sequence
from trainer.config import TrainConfig

if TYPE_CHECKING:
    from trainer.loop import Task

CONFIG = "config.json"
STATE = "state.safetensors"
PREVIOUS = "state.previous.safetensors"
BEST_WEIGHTS = "best.safetensors"
# Pieces smaller than these are seldom tumour; fixed before anything was measured.
MINIMUM_ML = {WHOLE_TUMOUR: 1.0, TUMOUR_CORE: 0.2}
LEFT_RIGHT = 0
LAST, BEST = "last", "best"
# Below this a window no longer shows what a tumour lies in.
SMALLEST_SIDE = 48


@dataclass(frozen=True)
class Footing:
    """What of a training may shrink when memory runs out.

    Attributes:
        batch: Examples a step.
        accumulate: Pieces that a batch is taken in.
        window: Voxels of an example.
    """

    batch: int
    accumulate: int
    window: tuple[int, int, int]

    def smaller(self) -> Footing | None:
        """The next footing that needs less memory; ``None`` where there is none.

        First the batch is taken in more pieces, which changes no step; once each piece is a single example, fewer
        examples would need as much, so the window shrinks, its longest side first.
        """
        if self.accumulate < self.batch:
            return replace(self, accumulate=min(self.batch, 2 * self.accumulate))
        longest = max(range(3), key=lambda axis: self.window[axis])
        if self.window[longest] <= SMALLEST_SIDE:
            return None
        i, j, k = (n - SIZE_STEP if axis == longest else n for axis, n in enumerate(self.window))
        return replace(self, window=(i, j, k))


@dataclass
class Position:
    """Where a training stands between two steps, beside its weights.

    Attributes:
        footing: What it works with since memory last ran out.
        step: Steps done.
        validated: The last step that was scored.
        sums: Of the loss and its terms, of the steps that no event has told of yet.
        summed: How many steps these are.
    """

    footing: Footing
    step: int = 0
    validated: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0


@dataclass(frozen=True)
class Kept:
    """Which weights a finished run has.

    Attributes:
        which: ``"last"``, the average at the end of all steps, or ``"best"``, the one with the best validation score.
        step: Steps done by then.
        steps: Steps planned.
        dice: Of the validation cases by region, where these weights were scored.
        window: Voxels of the examples in the end; smaller than the config's where memory ran out.
    """

    which: str = LAST
    step: int = 0
    steps: int = 0
    dice: Mapping[str, float] = field(default_factory=dict)
    window: tuple[int, ...] = ()

    def score(self) -> float:
        """Mean Dice of the regions, 0..1; below 0 without a score."""
        return sum(self.dice.values()) / len(self.dice) if self.dice else -1.0


def save_state(
    folder: Path, position: Position, task: Task, average: dict[str, torch.Tensor], optimiser: torch.optim.AdamW
) -> Path:
    """Write everything needed to go on from ``position``; the last state is kept as the one before.

    Raises:
        CannotWrite: The system refused; the states that were there still are.
    """
    tensors = {f"task.{name}": value for name, value in task.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in entry.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    path = folder / STATE
    _write(path, tensors, {"step": str(position.step), "position": json.dumps(asdict(position))}, folder / PREVIOUS)
    return path


def load_state(
    folder: Path,
    task: Task,
    average: dict[str, torch.Tensor],
    optimiser: torch.optim.AdamW,
    position: Position,
    warn: Callable[[str], None],
) -> Position:
    """Restore what `save_state` wrote into the objects given.

    Args:
        folder: The run folder.
        task: Takes up the weights.
        average: Takes up the running average.
        optimiser: Takes up its moments.
        position: Of a run that has no state yet.
        warn: Told in words where the last state is damaged and the one before it is used.

    Returns:
        Where to go on.

    Raises:
        UserError: No state is whole.
    """
    damaged: UserError | None = None
    for path in (folder / STATE, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            tensors, metadata = _read(path)
        except UserError as error:
            damaged = damaged or error
            continue
        if damaged is not None:
            # It must not become the state before when the next one is written.
            (folder / STATE).unlink()
            warn(f"{STATE} is damaged; the training goes on from the state before it, step {metadata['step']}.")
        break
    else:
        if damaged is not None:
            raise damaged
        return position
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
    if "random.cpu" in tensors:
        torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    step = int(metadata["step"])
    if "position" not in metadata:  # of a version that scored right after the step
        return replace(position, step=step, validated=step)
    fields = json.loads(metadata["position"])
    i, j, k = fields["footing"]["window"]
    return Position(**fields | {"footing": Footing(**fields["footing"] | {"window": (i, j, k)})})


def forget_states(folder: Path) -> None:
    """Remove the states of a run that is finished."""
    for name in (STATE, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def save_weights(folder: Path, weights: dict[str, torch.Tensor], kept: Kept | None = None) -> Path:
    """Write the finished weights and which they are; a run with this file is done."""
    path = folder / WEIGHTS
    _write(path, weights, {"kept": json.dumps(asdict(kept or Kept()))})
    return path


def save_best(folder: Path, weights: dict[str, torch.Tensor], kept: Kept) -> Path:
    """Write the best weights so far and their score."""
    path = folder / BEST_WEIGHTS
    _write(path, weights, {"kept": json.dumps(asdict(kept))})
    return path


def load_best(folder: Path) -> tuple[dict[str, torch.Tensor], Kept]:
    """The best weights so far and their score.

    Raises:
        UserError: There are none, or they are damaged.
    """
    return _with_kept(folder / BEST_WEIGHTS)


def _with_kept(path: Path) -> tuple[dict[str, torch.Tensor], Kept]:
    tensors, metadata = _read(path)
    fields = json.loads(metadata.get("kept", "{}"))
    return tensors, Kept(**fields | {"window": tuple(fields.get("window", ()))})


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
    """Give ``network`` the weights of a finished run or a model that reads the same sequences and perhaps more.

    The first layer is linear, so the slice that belongs to the remaining sequences computes what the old network did
    with the others at zero.

    Args:
        network: As ``config`` describes it.
        config: Of the run that begins.
        folder: A run folder or a model folder.

    Raises:
        UserError: It lacks one of the sequences, has another architecture, or is damaged.
    """
    weights, sequences, architecture = _beginning(folder)
    missing = [sequence.title for sequence in config.sequences if sequence not in sequences]
    name, arguments = config.network()
    # As the files have it, where a pair is a list.
    wanted = json.loads(json.dumps((name, arguments | {"inputs": len(sequences)})))
    if missing or json.loads(json.dumps(architecture)) != wanted:
        why = f"it never saw {missing[0]}" if missing else "it has another architecture"
        raise UserError(f"{config.name} cannot start from {folder.name}", why, "Choose another one to start from.")
    stem = weights["stem.weight"]
    folded = stem.shape[1] // len(sequences)
    places = [sequences.index(sequence) for sequence in config.sequences]
    weights["stem.weight"] = torch.cat([stem[:, place * folded : (place + 1) * folded] for place in places], dim=1)
    network.load_state_dict(weights)


def _beginning(folder: Path) -> tuple[dict[str, torch.Tensor], tuple[Sequence, ...], tuple[str, dict[str, Any]]]:
    """Weights, sequences and architecture of a run or a model."""
    if not (folder / CARD_NAME).exists():
        network, config = load_network(folder)
        return network.state_dict(), config.sequences, config.network()
    card = ModelCard.read(folder)
    registry.verify(card)
    # Models keep their weights in half precision.
    weights = {name: value.float() for name, value in runtime.read_weights(folder).items()}
    return weights, card.sequences, (card.architecture.name, dict(card.architecture.args))


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
    training["start_from"] = Path(config.start_from).name
    kept = _with_kept(run / WEIGHTS)[1]
    if kept.steps:
        training["kept"] = asdict(kept)
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
    return model_file.put(partial, folder)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], previous: Path | None = None
) -> None:
    """Write a file whole; where ``previous`` is given, the file that it replaces gets that name."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # One entry alone: their order in the file is left to chance.
    about = {"gliascope": json.dumps(metadata | {"crc32": _checksum(whole)}, sort_keys=True)}

    def check(partial: Path) -> None:
        _read(partial)
        if previous is not None and path.exists():
            # A kill right here leaves no state by its own name, but the one before it is whole.
            os.replace(path, previous)

    with whole_file(path, check) as partial:
        try:
            save_file(whole, partial, about)
        except SafetensorError as error:
            raise _system_error(error) from error


def _system_error(error: SafetensorError) -> OSError:
    """What safetensors made a text of: ``"I/O error: No space left on device (os error 28)"``."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(str(error))
    code = int(number[1])
    # Windows has numbers of its own, which Python translates.
    return OSError(0, str(error), None, code) if os.name == "nt" else OSError(code, os.strerror(code))


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata; what an older version wrote has no checksum.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            stored: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path.name} is damaged", str(error), "Delete it to start this run again.") from error
    metadata: dict[str, str] = json.loads(stored["gliascope"]) if "gliascope" in stored else stored
    if metadata.pop("crc32", None) not in (None, _checksum(tensors)):
        raise UserError(f"{path.name} is damaged", "its checksum differs", "Delete it to start this run again.")
    return tensors, metadata


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        data = tensors[name].reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(data.data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"
