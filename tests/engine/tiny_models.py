"""Small model folders made on the spot: one that finds the phantom's tumour, and ones that do simple arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import runtime
from engine.model_card import Architecture, ModelCard, Role
from engine.preprocessing import prepare
from engine.volume import Sequence
from tests.engine import phantoms

WINDOW = (32, 32, 32)
GAIN = 12.0


class BrightSpot(nn.Module):
    """Looks at the last input channel, slightly smoothed, and calls a region what is bright (or dark) enough.

    Args:
        inputs: Input channels.
        limits: For each region, the normalised intensity at its edge.
        signs: For each region, 1 where it is brighter than its edge, -1 where darker.
    """

    def __init__(self, inputs: int, limits: list[float], signs: list[float]) -> None:
        super().__init__()
        self.look = nn.Conv3d(inputs, len(limits), 3, padding=1)
        kernel = torch.zeros(3, 3, 3)
        kernel[1, 1, 1] = 0.7
        for place in ((0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)):
            kernel[place] = 0.05
        with torch.no_grad():
            self.look.weight.zero_()
            for region, (limit, sign) in enumerate(zip(limits, signs, strict=True)):
                self.look.weight[region, -1] = GAIN * sign * kernel
                self.look.bias[region] = -GAIN * sign * limit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.look(images)
        return logits


def make_card(sequences: tuple[Sequence, ...], **changes: Any) -> ModelCard:
    """A card for the phantom: 1 mm, a window that holds the whole head, pieces as small as its markers removed."""
    made = ModelCard(
        name=f"{'-'.join(sequences)}-student",
        title=f"{' + '.join(s.title for s in sequences)} student",
        version="1",
        role=Role.STUDENT,
        sequences=sequences,
        spacing_mm=1.0,
        window=WINDOW,
        architecture=Architecture("arithmetic"),
        minimum_ml={"whole_tumour": 0.1, "tumour_core": 0.02},
    )
    return replace(made, **changes)


def bright_spot(folder: Path, sequences: tuple[Sequence, ...], **changes: Any) -> ModelCard:
    """Write a model folder whose network finds the tumour of `phantoms.head`.

    To the voxel on T1ce, T2 and FLAIR at 1 mm; on T1 and on other grids roughly, and without the core.

    Args:
        folder: Made if it is not there.
        sequences: Inputs; the tumour is looked for on the last of them.
        **changes: To the card.
    """
    card = make_card(sequences, **changes)
    grid = phantoms.grid()
    prepared = prepare(phantoms.subject(grid), card.preparation)
    truth = phantoms.tumour(grid)
    whole, core, brain = (prepared.forward(m) > 0.99 for m in (truth.whole_tumour, truth.tumour_core, prepared.brain))
    image = prepared.tensor[-1]
    around, ring, inner = (float(image[mask].mean()) for mask in (brain & ~whole, whole & ~core, core))
    args = {
        "inputs": len(sequences),
        "limits": [(around + ring) / 2, (ring + inner) / 2],
        "signs": [1.0 if ring > around else -1.0, 1.0 if inner > ring else -1.0],
    }
    return install(folder, BrightSpot(**args), replace(card, architecture=Architecture("bright_spot", args)))


def arithmetic(folder: Path, logits: Callable[[torch.Tensor], torch.Tensor], card: ModelCard) -> ModelCard:
    """Write a model folder of a network without weights: ``(B, C, i, j, k)`` to logits ``(B, 2, i, j, k)``."""

    class Arithmetic(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return logits(images)

    return install(folder, Arithmetic(), card)


def install(folder: Path, network: nn.Module, card: ModelCard) -> ModelCard:
    """Export a network into a model folder and write its card."""
    folder.mkdir(parents=True, exist_ok=True)
    runtime.export(network, len(card.sequences), card.window, folder)
    return card.write(folder)


def build(name: str, args: dict[str, Any]) -> nn.Module:
    """In place of `engine.networks.build`: makes the networks of this file."""
    if name != "bright_spot":
        raise ValueError(name)
    return BrightSpot(**args)
