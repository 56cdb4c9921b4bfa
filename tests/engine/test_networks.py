"""The folded U-Net computes what it says."""

from __future__ import annotations

import pytest
import torch

from engine import networks
from engine.folded_unet import InstanceNorm, fold, unfold

SMALL = {"inputs": 2, "regions": 2, "filters": [8, 16], "blocks": [1, 1]}


def test_unfolding_undoes_folding() -> None:
    images = torch.randn(2, 3, 8, 4, 6)
    folded = fold(images)
    assert folded.shape == (2, 24, 4, 2, 3)
    assert torch.equal(unfold(folded), images)
    # Channel-major: the eight folded channels of one sequence stay together.
    assert torch.equal(folded[:, 8:16], fold(images[:, 1:2]))


def test_output_lies_on_the_input() -> None:
    network = networks.build("folded_unet", SMALL)
    assert network(torch.randn(1, 2, 16, 32, 48)).shape == (1, 2, 16, 32, 48)


def test_training_and_inference_normalise_alike() -> None:
    norm = InstanceNorm(5)
    torch.nn.init.normal_(norm.weight)
    features = torch.randn(1, 5, 6, 4, 3) * 3 + 2
    reference = torch.nn.functional.instance_norm(features, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(norm.train()(features), reference)
    torch.testing.assert_close(norm.eval()(features), reference)
    two = torch.cat([features, features * 5])
    torch.testing.assert_close(norm.train()(two)[:1], reference)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no architecture named resnet"):
        networks.build("resnet", {})
