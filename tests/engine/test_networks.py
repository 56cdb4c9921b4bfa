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


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("folded_unet", {"filters": [8, 8], "blocks": [1, 1]}),
        ("segresnet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
        ("dynunet", {"filters": [4, 8, 8]}),
    ],
)
def test_output_lies_on_the_input(name: str, more: dict[str, object]) -> None:
    network = networks.build(name, {"inputs": 2, "regions": 3, **more})
    assert network(torch.randn(1, 2, 16, 32, 48)).shape == (1, 3, 16, 32, 48)


def test_a_network_outlines_what_it_describes() -> None:
    network = networks.build("folded_unet", {**SMALL, "dropout": 0.5}).eval()
    images = torch.randn(1, 2, 16, 32, 48)
    deepest, finest = network.describe(images)
    torch.testing.assert_close(network.outline(finest), network(images))
    assert deepest.shape[2:] < finest.shape[2:]
    # Channels are left out in training alone.
    assert not torch.equal(network.train()(images), network(images))


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
