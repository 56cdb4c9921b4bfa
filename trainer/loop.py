"""The training loop: steps, running average, scores now and then, checkpoints. It knows nothing of distillation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine import metrics, networks
from engine.errors import Cancelled
from engine.model_card import REGIONS
from engine.progress import Progress
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.dataset import Case
from trainer.events import Event, Finished, Saved, Started, StepEnd, Stopped, Validated

REPORT_EVERY = 25
GRADIENT_LIMIT = 1.0


class Task(Protocol):
    """What is learnt: see `trainer.distillation`."""

    network: torch.nn.Module

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and named terms."""

    def train(self, mode: bool = True) -> object:
        """Put what learns in training mode."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Everything that learns: the network, and what is thrown away with the task."""

    def state_dict(self) -> dict[str, Tensor]:
        """Of everything that learns."""

    def load_state_dict(self, state: dict[str, Tensor]) -> object:
        """Take up an earlier `state_dict`."""


class Source(Protocol):
    """Training examples by number."""

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """A batch; the same for the same number."""


def fit(
    config: TrainConfig,
    task: Task,
    examples: Source,
    validation: list[Case],
    folder: Path,
    device: torch.device,
    emit: Callable[[Event], None],
    progress: Progress,
) -> None:
    """Train until done or asked to stop; goes on from the state in ``folder`` where there is one.

    Args:
        config: Steps, rates and averages.
        task: Networks and losses, on ``device``.
        examples: Step s takes example s.
        validation: Cases to score at the network's own spacing.
        folder: The run folder: state and finished weights.
        device: Where to work.
        emit: Told what happens.
        progress: Checked at each step; when cancelled the state is saved first.

    Raises:
        Cancelled: Asked to stop; the state is on disk.
    """
    network = task.network
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    learning = list(task.parameters())
    optimiser = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    first = checkpoint.load_state(folder, task, average, optimiser)
    size = sum(parameter.numel() for parameter in network.parameters())
    emit(Started(config.name, device.type, config.steps, first, size))

    task.train()
    sums: dict[str, float] = {}
    saved_at = reported_at = time.monotonic()
    for step in range(first, config.steps):
        try:
            progress.check()
        except Cancelled:
            checkpoint.save_state(folder, step, task, average, optimiser)
            emit(Stopped(step))
            raise
        rate = learning_rate(config, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16):
            terms = task(examples[step])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(terms["loss"])
        torch.nn.utils.clip_grad_norm_(learning, GRADIENT_LIMIT)
        optimiser.step()
        _update_average(average, network, min(config.average, (1 + step) / (10 + step)))

        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        done = step + 1
        now = time.monotonic()
        if done % REPORT_EVERY == 0 or done == config.steps:
            count = (done - first - 1) % REPORT_EVERY + 1
            means = {name: total / count for name, total in sums.items()}
            pace = (now - reported_at) / count
            loss = means.pop("loss")
            emit(StepEnd(done, loss, means, rate, pace, pace * (config.steps - done)))
            sums, reported_at = {}, now
        if now - saved_at > config.checkpoint_seconds and done < config.steps:
            emit(Saved(done, str(checkpoint.save_state(folder, done, task, average, optimiser))))
            saved_at = time.monotonic()
        if validation and config.validate_every and (done % config.validate_every == 0 or done == config.steps):
            emit(_validate(config, average, validation, device, done))
    emit(Finished(config.steps, str(checkpoint.save_weights(folder, average))))
    (folder / checkpoint.STATE).unlink(missing_ok=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    fraction = (step - config.warm_up) / (config.steps - config.warm_up)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * fraction))


@torch.no_grad()
def _update_average(average: dict[str, Tensor], network: torch.nn.Module, decay: float) -> None:
    current = network.state_dict()
    torch._foreach_lerp_(list(average.values()), [current[name] for name in average], 1 - decay)


@torch.no_grad()
def _validate(
    config: TrainConfig,
    average: dict[str, Tensor],
    cases: list[Case],
    device: torch.device,
    step: int,
) -> Validated:
    network = networks.build(*config.network()).to(device).eval()
    network.load_state_dict(average)
    totals = dict.fromkeys(REGIONS, 0.0)
    for case in cases:
        images = torch.from_numpy(case.images[case.channels(config.sequences)]).float()[None].to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(images)
        probabilities = torch.sigmoid(logits.float())[0].cpu().numpy()
        for region, probability, truth in zip(REGIONS, probabilities, case.truth, strict=True):
            totals[region] += metrics.dice(probability > 0.5, truth > 0.5)
    return Validated(step, {region: total / len(cases) for region, total in totals.items()}, len(cases))
