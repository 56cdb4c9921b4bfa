"""The training loop: steps, running average, scores now and then, checkpoints. It knows nothing of distillation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import Cancelled, CannotWrite, OutOfMemory, UserError
from trainer import checkpoint
from trainer.checkpoint import Footing, Kept, Position
from trainer.config import TrainConfig
from trainer.events import Event, FellBack, Finished, Orders, Previewed, Saved, Started, StepEnd, Stopped, Validated
from trainer.machine import Thermometer, memory_mb
from trainer.team import Team
from trainer.validation import Validation, ran_out_of_memory

REPORT_EVERY = 25
GRADIENT_LIMIT = 1.0
_MEGABYTE = 1024 * 1024

Emit = Callable[[Event], None]


class Task(Protocol):
    """What is learnt: see `trainer.distillation`."""

    network: torch.nn.Module

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and named terms, each a mean over the examples of the batch."""

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

    window: tuple[int, int, int]
    """Voxels of an example; made smaller where memory runs out."""

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """An example as a batch of one; the same for the same number and window."""


def fit(
    config: TrainConfig,
    task: Task,
    examples: Source,
    validation: Validation | None,
    folder: Path,
    team: Team,
    emit: Emit,
    orders: Orders,
) -> None:
    """Train until done or told to end; goes on from the state in ``folder`` where there is one.

    Where several processes share the training, each calls this with the same arguments; validation, orders and what is
    told matter in the one that leads.

    Args:
        config: Steps, rates and averages.
        task: Networks and losses, on ``device``.
        examples: Step s learns from the ``config.batch`` examples from ``s * config.batch`` on.
        validation: What to score now and then; ``None`` for nothing.
        folder: The run folder: states, best weights so far and finished weights.
        team: The processes that share the training, and where this one works.
        emit: Told what happens.
        orders: Checked at each step. When stopped the state is saved first; when told to keep the best, that is what
            the run is finished with.

    Raises:
        Cancelled: Told to stop; the state is on disk.
        UserError: Something that the user can mend; the last state is on disk.
    """
    if config.batch < team.size:
        what = f"A batch of {config.batch} cannot be shared by {team.size} processes"
        raise UserError(what, "", f"Let the config have a batch of {team.size} or more.")
    _Training(config, task, examples, validation, folder, team, emit, orders).work()


class _Training:
    """One call of `fit`."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        examples: Source,
        validation: Validation | None,
        folder: Path,
        team: Team,
        emit: Emit,
        orders: Orders,
    ) -> None:
        self._config, self._folder, self._emit, self._orders, self._team = config, folder, emit, orders, team
        self._validation = validation if config.validate_every else None
        self._learner = learner = Learner(config, task, examples, team)
        start = Position(Footing(config.batch, config.accumulate, config.window))
        with team.in_turn():  # the lead removes a damaged state
            self._position = checkpoint.load_state(folder, task, learner.average, learner.optimiser, start, self._warn)
        examples.window = self._position.footing.window
        self._sums: dict[str, float | Tensor] = dict(self._position.sums)
        self._best = self._best_so_far()
        self._scored: Kept | None = None
        self._meter = _Meter(config, team.device)
        self._saved_at = time.monotonic()
        self._saved = self._position.step, self._position.validated
        size = sum(parameter.numel() for parameter in task.network.parameters())
        emit(Started(config.name, team.device.type, config.steps, self._position.step, size))

    def work(self) -> None:
        """Everything up to the finished weights."""
        position, orders = self._position, self._orders
        orders.before_pause = self._save
        try:
            while self._team.decide(self._before_step):
                self._step()
            if not self._team.leads:
                return
            if orders.keep and position.step == 0:
                self._warn("Nothing was learnt yet, so there is nothing to keep.")
                orders.cancel()
                orders.check()
            if orders.keep and self._validation is not None and self._best is None:
                # Told to keep the best before there was any: it comes with a score all the same.
                self._validate()
        except Cancelled:
            if self._team.leads:
                # Should the disk be full now, it has to be said that the last steps are lost.
                if self._saved != (position.step, position.validated):
                    self._write_state()
                self._emit(Stopped(position.step))
            raise
        except torch.AcceleratorError as error:
            todo = "Start the training again; it goes on from its last checkpoint."
            raise UserError("The graphics card stopped answering", str(error).splitlines()[0], todo) from error
        weights, kept = self._to_keep()
        path = checkpoint.save_weights(self._folder, weights, kept)
        self._emit(Finished(position.step, str(path), kept.which, kept.step))
        checkpoint.forget_states(self._folder)

    def _before_step(self) -> bool:
        """What only the lead does between two steps; whether there is another."""
        position, orders = self._position, self._orders
        if orders.keep:
            return False
        orders.step = position.step
        if self._is_due():
            self._validate()
        if position.step >= self._config.steps:
            return False
        with self._meter.stopped():
            if time.monotonic() - self._saved_at > self._config.checkpoint_seconds:
                self._save()
            orders.check()
        return not orders.keep

    def _step(self) -> None:
        """Learn from the next batch, if need be in smaller pieces; nothing is lost when memory runs out."""
        position, learner = self._position, self._learner
        while True:
            chance = torch.get_rng_state()
            try:
                terms = learner.step(position.step, position.footing)
                break
            except UserError:
                self._save()
                raise
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
            except OSError as error:
                self._save()
                what = f"{error.filename or 'The training data'} can no longer be read"
                why = (error.strerror or "the system gave no reason").lower()
                todo = f"Connect its drive, then start again; the training goes on from step {position.step}."
                raise UserError(what, why, todo) from error
            # Here rather than where it was caught, as the error holds on to what was computed so far.
            torch.set_rng_state(chance)
            self._shrink()
        position.step += 1
        position.summed += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._meter.count()
        if position.step % REPORT_EVERY == 0 or position.step == self._config.steps:
            self._tell()

    def _shrink(self) -> None:
        position = self._position
        smaller = position.footing.smaller()
        if smaller is None:
            self._save()
            what = "There is too little memory for this training"
            todo = "Close other programs, or train with a smaller batch or on another device."
            raise OutOfMemory(what, "even with the smallest window", todo)
        if smaller.window == position.footing.window:
            instead = f"each batch is now taken in {smaller.accumulate} pieces; what is learnt stays the same"
        else:
            sizes = " x ".join(map(str, smaller.window))
            instead = f"examples are now {sizes} voxels large; the model may become a little worse"
        position.footing = smaller
        self._learner.use(smaller)
        self._emit(FellBack(f"Memory ran out at step {position.step + 1}: {instead}."))

    def _tell(self) -> None:
        position = self._position
        means = {name: float(total) / position.summed for name, total in self._sums.items()}
        loss = means.pop("loss")
        self._emit(self._meter.read(position.step, loss, means, self._validation is not None))
        self._sums, position.summed = {}, 0

    def _is_due(self) -> bool:
        """Whether these weights are to be scored and have not been."""
        config, step = self._config, self._position.step
        if self._validation is None or step in (0, self._position.validated):
            return False
        return step % config.validate_every == 0 or step == config.steps

    def _validate(self) -> None:
        assert self._validation is not None
        position = self._position
        preview = None
        with self._meter.stopped(scoring=True):
            scores = self._validation.score(self._learner.average, self._orders, self._warn)
            kept = Kept(checkpoint.BEST, position.step, self._config.steps, scores.mean(), position.footing.window)
            # A step that is scored again after a resume is still the best, but not better.
            best = self._best is not None and self._best.step == kept.step
            if self._best is None or kept.score() > self._best.score():
                with self._unless_full():
                    checkpoint.save_best(self._folder, self._learner.average, kept)
                    self._best, best = kept, True
            with self._unless_full():
                preview = self._validation.show(scores, position.step)
        self._scored = kept
        position.validated = position.step
        self._emit(Validated(position.step, scores.mean(), len(self._validation), best))
        if preview is not None:
            self._emit(Previewed(position.step, str(preview)))

    def _save(self) -> None:
        """Write the state where it is not on disk yet; a full disk is told of, and tried again at the next time."""
        position = self._position
        self._saved_at = time.monotonic()
        if self._team.leads and self._saved != (position.step, position.validated):
            with self._unless_full():
                self._emit(Saved(position.step, str(self._write_state())))

    def _write_state(self) -> Path:
        position, learner = self._position, self._learner
        position.sums = {name: float(total) for name, total in self._sums.items()}
        path = checkpoint.save_state(self._folder, position, learner.task, learner.average, learner.optimiser)
        self._saved = position.step, position.validated
        return path

    def _best_so_far(self) -> Kept | None:
        if not (self._folder / checkpoint.BEST_WEIGHTS).exists():
            return None
        try:
            return checkpoint.load_best(self._folder)[1]
        except UserError as error:
            self._warn(f"{error.what} ({error.why}); the next score makes a new one.")
            return None

    def _to_keep(self) -> tuple[dict[str, Tensor], Kept]:
        position = self._position
        if self._orders.keep and self._best is not None:
            try:
                return checkpoint.load_best(self._folder)
            except UserError as error:
                self._warn(f"{error.what} ({error.why}); the weights of now are kept instead.")
        dice = self._scored.dice if self._scored is not None and self._scored.step == position.step else {}
        last = Kept(checkpoint.LAST, position.step, self._config.steps, dice, position.footing.window)
        return self._learner.average, last

    def _warn(self, what: str) -> None:
        self._emit(FellBack(what))

    @contextmanager
    def _unless_full(self) -> Iterator[None]:
        """Let the training outlive a disk that takes nothing more."""
        try:
            yield
        except CannotWrite as error:
            self._warn(f"{error} The training goes on meanwhile.")


class Learner:
    """What learns and how: network, optimiser, running average.

    Args:
        config: Rates and averages.
        task: Networks and losses, on ``device``.
        examples: By number.
        team: Shares the batches, and says where to work.

    Attributes:
        task: As given.
        average: Running average of the network's weights.
        optimiser: Of everything that learns.
    """

    def __init__(self, config: TrainConfig, task: Task, examples: Source, team: Team) -> None:
        self._config, self._examples, self._team, self._device = config, examples, team, team.device
        self.task = task
        task.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._learning = list(task.parameters())
        self.optimiser = torch.optim.AdamW(
            self._learning, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.average = {name: value.detach().clone() for name, value in task.network.state_dict().items()}
        task.train()

    def use(self, footing: Footing) -> None:
        """Work with less memory from now on."""
        self._examples.window = footing.window
        self.optimiser.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def step(self, step: int, footing: Footing) -> dict[str, Tensor]:
        """Take one step of the optimiser.

        Args:
            step: Steps done before it.
            footing: Examples a step, and in how many pieces.

        Returns:
            Means of the loss and its terms over the batch, float64 scalars on the device: reading each of them at once
            would make a graphics card wait.

        Raises:
            MemoryError: Memory ran out in some process of the team; so may torch's own errors say.
            UserError: Another process of the team failed.
        """
        config = self._config
        rate = learning_rate(config, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        means = self._team.together(lambda: self._learn(step, footing), self._learning)
        torch.nn.utils.clip_grad_norm_(self._learning, GRADIENT_LIMIT)
        self.optimiser.step()
        _update_average(self.average, self.task.network, min(config.average, (1 + step) / (10 + step)))
        return means

    def _learn(self, step: int, footing: Footing) -> dict[str, Tensor]:
        """Gradients and terms of this process's share of a step's batch."""
        self.optimiser.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for piece, share in self._pieces(step, footing):
            with torch.autocast(self._device.type, torch.bfloat16):
                terms = self.task(piece)
            torch.autograd.backward(terms["loss"] * share)
            for name, value in terms.items():
                part = value.detach().double() * share
                means[name] = means[name] + part if name in means else part
        return means

    def _pieces(self, step: int, footing: Footing) -> Iterator[tuple[dict[str, Tensor], float]]:
        """This process's examples of a step in pieces, each with its share of the whole batch.

        Examples that carry different things, as those of patients for whom no teacher can be asked, share no piece.
        """
        numbers = self._team.share(range(step * footing.batch, (step + 1) * footing.batch))
        largest = math.ceil(len(numbers) / footing.accumulate)
        for start in range(0, len(numbers), largest):
            alike: dict[frozenset[str], list[dict[str, Tensor]]] = {}
            for number in numbers[start : start + largest]:
                example = self._examples[number]
                alike.setdefault(frozenset(example), []).append(example)
            for found in alike.values():
                together = found[0] if len(found) == 1 else {n: torch.cat([one[n] for one in found]) for n in found[0]}
                yield together, len(found) / footing.batch


class _Meter:
    """Time a step takes, and what else a `StepEnd` says of the machine."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._thermometer = Thermometer(device.type)
        self._since = time.monotonic()
        self._steps = 0
        self._scoring = 0.0

    @contextmanager
    def stopped(self, scoring: bool = False) -> Iterator[None]:
        """What is done meanwhile is no part of a step."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self._since += took
        if scoring:
            self._scoring = took

    def count(self) -> None:
        """One more step."""
        self._steps += 1

    def read(self, step: int, loss: float, means: dict[str, float], scored: bool) -> StepEnd:
        """The event of the steps since the last."""
        config = self._config
        now = time.monotonic()
        pace = (now - self._since) / self._steps
        self._since, self._steps = now, 0
        left = pace * (config.steps - step)
        if scored:
            left += self._scoring * (math.ceil(config.steps / config.validate_every) - step // config.validate_every)
        of_card = self._device.type == "cuda"
        return StepEnd(
            step,
            loss,
            means,
            learning_rate(config, step - 1),
            pace,
            left,
            config.batch / pace,
            memory_mb(),
            torch.cuda.max_memory_reserved(self._device) / _MEGABYTE if of_card else None,
            self._thermometer.read(),
        )


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
