"""The network architectures, by name. torch is imported only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def build(name: str, args: dict[str, Any]) -> nn.Module:
    """Make a network with fresh weights.

    Args:
        name: ``"folded_unet"`` (`FoldedUNet`).
        args: Its arguments, as a model card stores them.

    Returns:
        A module from ``(B, C, i, j, k)`` float32 to logits ``(B, R, i, j, k)``; sizes are multiples of 16.

    Raises:
        ValueError: There is no architecture of that name.
    """
    if name != "folded_unet":
        raise ValueError(f"there is no architecture named {name}")
    from engine.folded_unet import FoldedUNet

    return FoldedUNet(**args)
