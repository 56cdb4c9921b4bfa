"""Random changes to one training example, on whatever device it lies; everything follows from one generator."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from trainer.config import Augmentation

# Of the smooth deformation, along each axis of the window.
CONTROL_POINTS = (5, 6, 5)


def spatial(
    images: Tensor, window: tuple[int, int, int], spacing_mm: float, augmentation: Augmentation, generator: Generator
) -> Tensor:
    """Cut one window out of a whole case under a random smooth deformation, in a single interpolation.

    Args:
        images: ``(C, i, j, k)``: sequences and truth together, so that they move together.
        window: Voxels of the result.
        spacing_mm: Of both.
        augmentation: How much of each change.
        generator: Source of chance (a CPU generator, whatever the device).

    Returns:
        ``(C, *window)``, zero where the case ends.
    """
    extent = torch.tensor(images.shape[1:], dtype=torch.float32)
    angles = _uniform(3, math.radians(augmentation.rotation_degrees), generator)
    scales = 1 + _uniform(3, augmentation.scaling, generator)
    matrix = _rotation(angles) @ torch.diag(scales)
    if float(torch.rand(1, generator=generator)) < augmentation.flip:
        matrix = matrix @ torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    shift = _uniform(3, augmentation.shift_mm / spacing_mm, generator)

    # Positions in voxels around the centre of the case, at a few control points: turning, scaling and shifting are
    # linear and survive the interpolation to every voxel exactly, which spares a product with a matrix for each.
    axes = [torch.linspace(-(n - 1) / 2, (n - 1) / 2, points) for n, points in zip(window, CONTROL_POINTS, strict=True)]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    positions = torch.einsum("ij,jabc->iabc", matrix, offsets) + shift[:, None, None, None]
    if augmentation.elastic_mm > 0:
        positions = positions + _uniform((3, *CONTROL_POINTS), augmentation.elastic_mm / spacing_mm, generator)
    # grid_sample counts axes from the last and runs -1..1 between the outermost voxel centres.
    normalised = positions * (2 / (extent - 1).clamp(min=1))[:, None, None, None]
    grid = functional.interpolate(
        normalised.flip(0)[None].to(images.device), size=window, mode="trilinear", align_corners=True
    )
    return functional.grid_sample(
        images[None], grid.permute(0, 2, 3, 4, 1), mode="bilinear", padding_mode="zeros", align_corners=True
    )[0]


def intensity(images: Tensor, truth: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Change the look of each sequence by itself, as another scanner and another tumour would.

    Args:
        images: ``(C, i, j, k)``, normalised, zero outside the brain.
        truth: ``(2, i, j, k)``: the fraction of each voxel in whole tumour and core.
        augmentation: How much of each change.
        generator: Source of chance (a CPU generator).

    Returns:
        The same shape, zero outside the brain; inside, zero mean and unit spread, as `engine.preprocessing` leaves
        every image, but for a random gain and offset.
    """
    changed = []
    for image in images:
        brain = image != 0
        image = _lesion(image, truth, augmentation, generator)
        image = _coarser(image, augmentation, generator)
        image = _contrast(image, augmentation, generator)
        if augmentation.bias_field > 0:
            field = torch.randn((1, 1, 3, 4, 3), generator=generator) * augmentation.bias_field
            field = functional.interpolate(
                field.to(image.device), size=image.shape, mode="trilinear", align_corners=True
            )[0, 0]
            # Intensities are centred on the brain's mean; lift them so that the field scales signal, not contrast.
            image = (image + 3) * torch.exp(field) - 3
        if augmentation.noise > 0:
            spread = float(torch.rand(1, generator=generator)) ** 2 * augmentation.noise
            # A seed drawn from the generator, so that the noise can be made on the device itself.
            seed = int(torch.randint(2**31, (1,), generator=generator))
            source = Generator(device=image.device).manual_seed(seed)
            image = image + spread * torch.randn(image.shape, generator=source, device=image.device)
        values = image[brain]
        if values.numel() > 1:
            image = (image - values.mean()) / values.std().clamp(min=1e-3)
        gain, offset = torch.randn(2, generator=generator).tolist()
        image = image * math.exp(gain * augmentation.gain) + offset * augmentation.offset
        changed.append(torch.where(brain, image.clamp(-5, 5), 0.0))
    return torch.stack(changed)


def _lesion(image: Tensor, truth: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    if augmentation.lesion <= 0 and augmentation.lesion_shift <= 0:
        return image
    rest, core = truth[0] - truth[1], truth[1]
    # The brain's mean is zero, so a factor moves a tumour towards the look of the average tissue or away from it. One
    # that looks average already is moved by the shift alone.
    factors = torch.exp(torch.randn(2, generator=generator) * augmentation.lesion).tolist()
    shifts = (torch.randn(2, generator=generator) * augmentation.lesion_shift).tolist()
    factor: Tensor = 1 + (factors[0] - 1) * rest + (factors[1] - 1) * core
    shift: Tensor = shifts[0] * rest + shifts[1] * core
    return image * factor + shift


def _contrast(image: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    if augmentation.contrast <= 0:
        return image
    power = float(torch.randn(1, generator=generator)) * augmentation.contrast
    # A gamma about the range -3..3 bends the middle and keeps the ends; gain and offset would be normalised away.
    unit = ((image + 3) / 6).clamp(0, 1)
    return unit.pow(math.exp(power)) * 6 - 3 + (image - image.clamp(-3, 3))


def _coarser(image: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    chance, amount, which = torch.rand(3, generator=generator).tolist()
    if chance >= augmentation.blur:
        return image
    factors = [1.0, 1.0, 1.0]
    if which < 0.5:  # thick slices along one axis, most often head to foot
        factors[2 if which < 0.3 else int(which * 10) % 3] = 1 + 2 * amount
    else:  # low resolution all round
        factors = [1 + amount] * 3
    size = [max(4, round(n / f)) for n, f in zip(image.shape, factors, strict=True)]
    small = functional.interpolate(image[None, None], size=size, mode="area")
    return functional.interpolate(small, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def _uniform(shape: int | tuple[int, ...], largest: float, generator: Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * largest


def _rotation(angles: Tensor) -> Tensor:
    """``(3, 3)`` rotation about x, then y, then z, by ``angles`` in radians."""
    (cx, cy, cz), (sx, sy, sz) = torch.cos(angles).tolist(), torch.sin(angles).tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
