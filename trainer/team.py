"""The processes that share one training: a single one, or as many as ``torchrun`` starts on one machine or several.

    torchrun --nproc-per-node 4 -m trainer.run CONFIG FOLDER

Each process learns from its share of every batch, and all of them take the step with the sum of what they found, so
that the network is the same everywhere. The first one leads: it alone reads commands, scores, tells and writes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from engine.errors import Cancelled, UserError
from trainer.validation import ran_out_of_memory

# Whoever waits for the lead waits, also through a pause; longer than this the system's own clocks cannot count.
PATIENCE = timedelta(days=20)

Terms = dict[str, Tensor]


def assemble(device: torch.device) -> Team:
    """Find the other processes of this training.

    Args:
        device: The kind of device that the training was given.

    Raises:
        UserError: There are fewer graphics cards than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team(device)
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda" and torch.cuda.device_count() < here:
        what = f"{here} processes were started for {torch.cuda.device_count()} graphics cards"
        raise UserError(what, "", "Start one process for each card.")
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    fabric = Fabric(
        accelerator=device.type, devices=here, num_nodes=size // here, strategy=DDPStrategy(timeout=PATIENCE)
    )
    fabric.launch()
    # Threads that still listen to the others when Python ends would end the process with SIGABRT.
    atexit.register(torch.distributed.destroy_process_group)
    return SharedTeam(fabric)


class Team:
    """A training that is not shared.

    Attributes:
        device: Where this process works.
        rank: This process among all, from 0.
        size: How many there are.
    """

    def __init__(self, device: torch.device, rank: int = 0, size: int = 1) -> None:
        self.device, self.rank, self.size = device, rank, size

    @property
    def leads(self) -> bool:
        """Whether this process is the one that tells and writes."""
        return self.rank == 0

    def share(self, batch: range) -> range:
        """Those numbers of a batch that are this process's to learn from."""
        return batch[self.rank :: self.size]

    def decide(self, lead: Callable[[], bool]) -> bool:
        """Let the lead decide, and everybody hear of it.

        Args:
            lead: Called in the first process alone; may take its time.

        Raises:
            Cancelled: The lead could not go on, for whatever reason; its own error is raised in the lead itself.
        """
        return lead()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The lead does this first and leaves on the disk what the others then need not make themselves."""
        yield

    def together(self, learn: Callable[[], Terms], learning: list[torch.nn.Parameter]) -> Terms:
        """Do this process's part of a step and add up what all processes found.

        Args:
            learn: Adds gradients to the parameters and returns named scalars.
            learning: Everything that learns; their gradients are the sums afterwards.

        Returns:
            The sums of the scalars; who has not got one adds nothing to it.

        Raises:
            MemoryError: Memory ran out in one of the processes; what its own error says in that one.
            UserError: Another process failed.
        """
        return learn()


@dataclass(frozen=True)
class _Found:
    """What a process tells the others of its part of a step: which things have numbers, or why there are none."""

    trouble: str = ""
    lacks_memory: bool = False
    terms: tuple[str, ...] = ()
    learnt: tuple[bool, ...] = ()


class SharedTeam(Team):
    """A training that several processes share.

    Args:
        fabric: A `lightning_fabric.Fabric` that was launched.
    """

    def __init__(self, fabric: Any) -> None:
        super().__init__(fabric.device, fabric.global_rank, fabric.world_size)
        self._fabric = fabric
        # Words go past the graphics cards, which would have to finish their work first.
        self._words = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    def decide(self, lead: Callable[[], bool]) -> bool:
        """As of `Team`."""
        if not self.leads:
            heard = [False, False]
            torch.distributed.broadcast_object_list(heard, group=self._words)
            goes_on, decided = heard
            if not goes_on:
                raise Cancelled
            return decided
        told = [False, False]
        try:
            told = [True, lead()]
        finally:
            torch.distributed.broadcast_object_list(told, group=self._words)
        return told[1]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """As of `Team`."""
        if not self.leads:
            self.decide(lambda: True)
            yield
            return
        done = False
        try:
            yield
            done = True
        finally:
            torch.distributed.broadcast_object_list([done, done], group=self._words)

    def together(self, learn: Callable[[], Terms], learning: list[torch.nn.Parameter]) -> Terms:
        """As of `Team`."""
        terms: Terms = {}
        error: Exception | None = None
        try:
            terms = learn()
            found = _Found("", False, tuple(terms), tuple(parameter.grad is not None for parameter in learning))
        except (RuntimeError, MemoryError, OSError, UserError) as caught:
            error, found = caught, _Found(str(caught) or type(caught).__name__, ran_out_of_memory(caught))
        everybody: list[_Found] = [found] * self.size
        torch.distributed.all_gather_object(everybody, found, group=self._words)
        if error is not None:
            raise error
        # Whoever did succeed must not take the step alone.
        for other in everybody:
            if other.trouble and not other.lacks_memory:
                todo = "Mend that, then start the training again; it goes on from its last checkpoint."
                raise UserError("Another process of this training failed", other.trouble.splitlines()[0], todo)
        if any(other.trouble for other in everybody):
            raise MemoryError("memory ran out in another process of this training")
        names = sorted({name for other in everybody for name in other.terms})
        learnt = [any(flags) for flags in zip(*(other.learnt for other in everybody), strict=True)]
        self._add_up([parameter for parameter, has in zip(learning, learnt, strict=True) if has])
        return self._sums(terms, names)

    def _add_up(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace gradients by their sums over all processes, in one message."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = self._fabric.all_reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]), reduce_op="sum")
        start = 0
        for gradient in gradients:
            gradient.copy_(total[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()

    def _sums(self, terms: Mapping[str, Tensor], names: list[str]) -> Terms:
        nothing = torch.zeros((), dtype=torch.float64, device=self.device)
        total = self._fabric.all_reduce(torch.stack([terms.get(name, nothing) for name in names]), reduce_op="sum")
        return dict(zip(names, total, strict=True))
