"""Changes keep image and truth together, and leave what inference would see."""

from __future__ import annotations

import torch

from trainer import augmentation
from trainer.config import Augmentation

NOTHING = Augmentation(
    flip=0,
    rotation_degrees=0,
    scaling=0,
    shift_mm=0,
    elastic_mm=0,
    contrast=0,
    gain=0,
    offset=0,
    lesion=0,
    lesion_shift=0,
    bias_field=0,
    noise=0,
    blur=0,
)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ball() -> torch.Tensor:
    """``(2, 32, 48, 32)``: a smooth bright lump right of the middle, and the same as truth."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (32, 48, 32)), indexing="ij")
    distance = sum((a - c) ** 2 for a, c in zip(axes, (20, 26, 14), strict=True)).sqrt()
    lump = torch.sigmoid(7 - distance)
    return torch.stack([lump, lump])


def test_without_changes_the_window_is_the_middle_of_the_case() -> None:
    case = torch.randn(3, 32, 48, 32)
    same = augmentation.spatial(case, (16, 32, 16), 2.0, NOTHING, chance())
    torch.testing.assert_close(same, case[:, 8:24, 8:40, 8:24], atol=1e-4, rtol=1e-4)


def test_image_and_truth_move_together_and_truth_stays_between_zero_and_one() -> None:
    for seed in range(5):
        image, truth = augmentation.spatial(ball(), (32, 48, 32), 2.0, Augmentation(), chance(seed))
        torch.testing.assert_close(image, truth)
        assert 0 <= float(truth.min()) <= float(truth.max()) <= 1
        assert 300 < float(truth.sum()) < 5000  # the lump, somewhat larger or smaller, and still in the window


def test_a_flip_mirrors_left_and_right_alone() -> None:
    flipped = augmentation.spatial(ball(), (32, 48, 32), 2.0, Augmentation(**{**vars(NOTHING), "flip": 1.0}), chance())
    torch.testing.assert_close(flipped, ball().flip(1), atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_example() -> None:
    case = torch.randn(2, 32, 48, 32)
    once, again = (augmentation.spatial(case, (32, 32, 32), 2.0, Augmentation(), chance(4)) for _ in range(2))
    assert torch.equal(once, again)
    once, again = (augmentation.intensity(case, ball(), Augmentation(), chance(4)) for _ in range(2))
    assert torch.equal(once, again)


def test_a_changed_image_is_normalised_as_inference_would_and_empty_outside_the_brain() -> None:
    image = torch.randn(2, 32, 48, 32)
    image[:, :8] = 0
    level = Augmentation(noise=1.0, blur=0.5, gain=0, offset=0)
    for seed in range(8):
        changed = augmentation.intensity(image, ball(), level, chance(seed))
        assert not changed[:, :8].any()
        inside = changed[:, 8:].flatten(1)
        assert torch.isfinite(inside).all()
        assert inside.mean(1).abs().max() < 0.05
        assert (inside.std(1) - 1).abs().max() < 0.05
        assert float((changed - image).abs().mean()) > 0.01


def test_gain_and_offset_are_what_normalisation_does_not_take_away() -> None:
    image = torch.randn(1, 32, 48, 32)
    means, spreads = [], []
    for seed in range(60):
        values = augmentation.intensity(
            image, ball(), Augmentation(**{**vars(NOTHING), "gain": 0.2, "offset": 0.3}), chance(seed)
        )
        means.append(values.mean())
        spreads.append(values.std().log())
    assert 0.2 < float(torch.stack(means).std()) < 0.4
    assert 0.13 < float(torch.stack(spreads).std()) < 0.27


def test_a_lesion_gets_fainter_or_bolder_and_what_is_around_it_stays() -> None:
    truth = ball()
    truth[1] = (truth[1] * 2 - 1).clamp(min=0)
    image = 2 * truth[:1] + 0.5 * torch.randn(1, 32, 48, 32, generator=chance(1))
    factors = []
    for seed in range(40):
        changed = augmentation.intensity(image, truth, Augmentation(**{**vars(NOTHING), "lesion": 0.4}), chance(seed))
        # Undo the scaling to unit spread by the part that no lesion touches.
        far = truth[0] < 1e-4
        slope = changed[0, far].std() / image[0, far].std()
        shift = changed[0, far].mean() - slope * image[0, far].mean()
        inside = truth[1] > 0.95
        factors.append(float(((changed[0, inside] - shift) / slope).mean() / image[0, inside].mean()))
    logarithms = torch.tensor(factors).log()
    assert logarithms.abs().mean() > 0.2
    assert abs(float(logarithms.mean())) < 0.2
