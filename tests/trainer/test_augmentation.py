"""Changes keep image and truth together, and leave what inference would see."""

from __future__ import annotations

import torch
from torch.nn import functional

from trainer import augmentation
from trainer.augmentation import Anatomy, Cutout
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


def cut(case: torch.Tensor, window: tuple[int, int, int], wanted: Augmentation, seed: int = 0) -> torch.Tensor:
    cutout = augmentation.spatial(Anatomy.of(case), window, 2.0, wanted, chance(seed))
    return cutout.spread(cutout.values)


def look(images: torch.Tensor, truth: torch.Tensor, wanted: Augmentation, seed: int = 0) -> torch.Tensor:
    """Change ``images (C, i, j, k)``, every voxel of which is in the window."""
    size = images.shape[1:]
    everything = Cutout(images.flatten(1), torch.arange(size.numel()), (size[0], size[1], size[2]))
    return everything.spread(
        augmentation.intensity(images.flatten(1), truth.flatten(1), everything, wanted, chance(seed))
    )


def test_without_changes_the_window_is_the_middle_of_the_case() -> None:
    case = torch.randn(3, 32, 48, 32)
    torch.testing.assert_close(
        cut(case, (16, 32, 16), NOTHING), case[:, 8:24, 8:40, 8:24].contiguous(), atol=1e-4, rtol=1e-4
    )
    # Also of what lies off the middle, and where the window is larger than the case.
    case[:, :20] = 0
    case[:, :, 30:] = 0
    wider = functional.pad(case, (0, 0, 8, 8, 16, 16))
    torch.testing.assert_close(cut(case, (64, 64, 32), NOTHING), wider, atol=1e-4, rtol=1e-4)


def test_values_between_voxels_are_interpolated_linearly() -> None:
    # Channels that count voxels come out as the very positions that were looked up.
    size = (20, 26, 18)
    counts = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")) + 1
    case = torch.cat([counts, torch.ones(1, *size), torch.randn(2, *size, generator=chance(3))])
    moved = cut(case, (16, 16, 16), Augmentation(flip=1.0), seed=5)
    inside = moved[3] > 1 - 1e-6
    assert inside.float().mean() > 0.5
    grid = ((moved[:3] - 1) * 2 / (torch.tensor(size) - 1)[:, None, None, None] - 1).flip(0).permute(1, 2, 3, 0)
    expected = functional.grid_sample(case[None], grid[None], align_corners=True)[0]
    torch.testing.assert_close(moved[4:, inside], expected[4:, inside], atol=1e-4, rtol=1e-4)
    positions = moved[:3, inside]
    assert (positions - positions.round()).abs().mean() > 0.1  # between voxels they are


def test_what_a_case_says_beside_its_images_counts_where_they_hold_something() -> None:
    image = torch.zeros(1, 16, 16, 16)
    image[:, 4:12, 4:12, 4:12] = 1
    opinion = torch.full((1, 16, 16, 16), 0.5)
    cutout = augmentation.spatial(Anatomy.of(torch.cat([image, opinion]), 1), (16, 16, 16), 2.0, NOTHING, chance())
    torch.testing.assert_close(cutout.spread(cutout.values)[1], image[0] / 2, atol=1e-5, rtol=1e-5)
    assert cutout.places.numel() < 12**3


def test_a_case_that_holds_nothing_gives_an_empty_window() -> None:
    nothing = torch.zeros(3, 16, 16, 16, dtype=torch.float16)
    nothing[:, 2, 2, 2] = -0.0
    cutout = augmentation.spatial(Anatomy.of(nothing), (16, 16, 16), 2.0, Augmentation(), chance())
    changed = augmentation.intensity(cutout.values[:1], cutout.values[1:], cutout, Augmentation(), chance())
    assert not cutout.spread(changed).any()


def test_image_and_truth_move_together_and_truth_stays_between_zero_and_one() -> None:
    for seed in range(5):
        image, truth = cut(ball(), (32, 48, 32), Augmentation(), seed)
        torch.testing.assert_close(image, truth)
        assert 0 <= float(truth.min()) <= float(truth.max()) <= 1 + 1e-6
        assert 300 < float(truth.sum()) < 5000  # the lump, somewhat larger or smaller, and still in the window


def test_a_flip_mirrors_left_and_right_alone() -> None:
    flipped = cut(ball(), (32, 48, 32), Augmentation(**{**vars(NOTHING), "flip": 1.0}))
    torch.testing.assert_close(flipped, ball().flip(1), atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_example() -> None:
    case = torch.randn(2, 32, 48, 32)
    once, again = (cut(case, (32, 32, 32), Augmentation(), 4) for _ in range(2))
    assert torch.equal(once, again)
    once, again = (look(case, ball(), Augmentation(), 4) for _ in range(2))
    assert torch.equal(once, again)


def test_switching_one_change_off_leaves_the_others_as_they_were() -> None:
    image = torch.randn(2, 32, 48, 32, generator=chance(1))
    shifted = Augmentation(**{**vars(NOTHING), "offset": 0.5})
    both = Augmentation(**{**vars(NOTHING), "offset": 0.5, "noise": 1e-6, "bias_field": 1e-6})
    torch.testing.assert_close(look(image, ball(), shifted, 2), look(image, ball(), both, 2), atol=1e-4, rtol=1e-4)


def test_a_coarser_scan_is_averaged_and_interpolated_back() -> None:
    image = torch.randn(1, 32, 48, 30, generator=chance(2))
    for amount, which, size in ((0.5, 0.1, (32, 48, 15)), (0.4, 0.35, (18, 48, 30)), (1.0, 0.9, (16, 24, 15))):
        small = functional.interpolate(image[None], size=size, mode="area")
        expected = functional.interpolate(small, size=image.shape[1:], mode="trilinear", align_corners=False)[0]
        found = augmentation._coarser(image, amount, which)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_changed_image_is_normalised_as_inference_would_and_empty_outside_the_brain() -> None:
    image = torch.randn(2, 32, 48, 32)
    image[:, :8] = 0
    level = Augmentation(noise=1.0, blur=0.5, gain=0, offset=0)
    for seed in range(8):
        changed = look(image, ball(), level, seed)
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
        values = look(image, ball(), Augmentation(**{**vars(NOTHING), "gain": 0.2, "offset": 0.3}), seed)
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
        changed = look(image, truth, Augmentation(**{**vars(NOTHING), "lesion": 0.4}), seed)
        # Undo the scaling to unit spread by the part that no lesion touches.
        far = truth[0] < 1e-4
        slope = changed[0, far].std() / image[0, far].std()
        shift = changed[0, far].mean() - slope * image[0, far].mean()
        inside = truth[1] > 0.95
        factors.append(float(((changed[0, inside] - shift) / slope).mean() / image[0, inside].mean()))
    logarithms = torch.tensor(factors).log()
    assert logarithms.abs().mean() > 0.2
    assert abs(float(logarithms.mean())) < 0.2
