"""The network architectures, by name. torch is imported only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def build(name: str, args: dict[str, Any]) -> nn.Module:
    """Make a network with fresh weights.

    Args:
        name: ``"folded_unet"`` (`FoldedUNet`), or to compare it with, of MONAI, ``"segresnet"`` and ``"dynunet"``.
        args: Its arguments, as a model card stores them: ``inputs`` and ``regions``, the rest as the network has them.

    Returns:
        A module from ``(B, C, i, j, k)`` float32 to logits ``(B, R, i, j, k)``; sizes are multiples of 16.

    Raises:
        ValueError: There is no architecture of that name.
    """
    if name == "folded_unet":
        from engine.folded_unet import FoldedUNet

        return FoldedUNet(**args)
    others = {key: value for key, value in args.items() if key not in ("inputs", "regions")}
    network: nn.Module
    if name == "segresnet":
        from monai.networks.nets import SegResNet

        network = SegResNet(spatial_dims=3, in_channels=args["inputs"], out_channels=args["regions"], **others)
    elif name == "dynunet":
        from monai.networks.nets import DynUNet

        levels = len(others["filters"])
        network = DynUNet(
            spatial_dims=3,
            in_channels=args["inputs"],
            out_channels=args["regions"],
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            **others,
        )
    else:
        raise ValueError(f"there is no architecture named {name}")
    return network
