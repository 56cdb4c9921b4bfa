"""One of several processes that `test_team` starts with torchrun: works with the others and says what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from engine.errors import Cancelled, UserError
from trainer import team

together = team.assemble(torch.device("cpu"))
here = together.rank
said: dict[str, object] = {"share": list(together.share(range(10, 15))), "size": together.size}

# Parameter 0 has a part in both processes, 1 in the second alone, 2 in none.
learning = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3)]


def learn() -> dict[str, torch.Tensor]:
    learning[0].grad = torch.full((3, 2), float(here + 1)).t()
    terms = {"loss": torch.tensor(here + 1.0, dtype=torch.float64)}
    if here == 1:
        learning[1].grad = torch.full((2, 3), 5.0)
        terms["logits"] = torch.tensor(7.0, dtype=torch.float64)
    return terms


said["terms"] = {name: float(value) for name, value in together.together(learn, learning).items()}
said["gradients"] = [None if p.grad is None else p.grad.flatten().tolist() for p in learning]


def fail(error: Exception) -> dict[str, torch.Tensor]:
    if here == 1:
        raise error
    return {}


for name, error in (("memory", MemoryError()), ("disk", OSError(5, "Input/output error", "/data/anna.nii"))):
    try:
        together.together(lambda error=error: fail(error), learning)  # type: ignore[misc]
    except (MemoryError, OSError, UserError) as caught:
        said[name] = [type(caught).__name__, str(caught)]

said["decided"] = [together.decide(lambda: True), together.decide(lambda: False)]


def give_up() -> bool:
    raise Cancelled


try:
    together.decide(give_up)
except Cancelled:
    said["ended"] = True

(Path(sys.argv[1]) / f"{here}.json").write_text(json.dumps(said))
