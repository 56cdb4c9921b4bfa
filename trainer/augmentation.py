"""Random changes to one training example, on whatever device it lies; everything follows from one generator.

Two thirds of a window around a head are air. Positions are worked out for every voxel, but only those that hold
something are looked up, changed and normalised, as rows of values without a shape; `Cutout.spread` puts them back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor
from torch.nn import functional

from trainer.config import Augmentation

# Of the smooth deformation and of the smooth field, along each axis of the window.
CONTROL_POINTS = (5, 6, 5)
FIELD_POINTS = (3, 4, 3)
# Air around what a case holds: one voxel that interpolation reaches into, one where everything farther off is put.
RIM = 2
# Voxels looked up at once: few enough for the processor's cache.
PIECE = 1 << 16


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A whole case, laid out so that windows can be cut from it quickly.

    Attributes:
        rows: ``(V, C)`` float32: the values of each voxel of the smallest box around what the case holds, with a rim.
        near: ``(V,)`` bool: which voxels hold something, or lie beside one that does.
        size: Voxels of that box with its rim; their product is V.
        middle: The middle of the whole case, in voxels of that box.
    """

    rows: Tensor
    near: Tensor
    size: tuple[int, int, int]
    middle: tuple[float, float, float]

    @classmethod
    def of(cls, arrays: Tensor, channels: int | None = None) -> Self:
        """Lay out a case.

        Args:
            arrays: ``(C, i, j, k)`` float16 or float32: sequences, truth and what else moves with them.
            channels: How many of the first ones tell what the case holds; what the others say elsewhere counts as
                zero. All of them if left out.
        """
        # The bits of all channels together; shifted by one, zero and minus zero are all that comes out as zero.
        bits = arrays.view(torch.int16 if arrays.element_size() == 2 else torch.int32)
        held = bits[0].clone()
        for array in bits[1:channels]:
            held |= array
        held = (held << 1) != 0
        flat = held.any(0), held.any(2)
        box = []
        for along in (flat[1].any(1), flat[1].any(0), flat[0].any(0)):
            inside = along.nonzero().flatten().tolist()
            box.append(slice(inside[0], inside[-1] + 1) if inside else slice(0, 1))
        i, j, k = box
        near = functional.pad(held[i, j, k], (RIM,) * 6)
        for axis in range(3):
            n = near.shape[axis]
            along = near.clone()
            along.narrow(axis, 1, n - 1).logical_or_(near.narrow(axis, 0, n - 1))
            along.narrow(axis, 0, n - 1).logical_or_(near.narrow(axis, 1, n - 1))
            near = along
        rows = arrays.new_zeros((*near.shape, len(arrays)), dtype=torch.float32)
        inner = (slice(RIM, -RIM),) * 3
        rows[inner] = arrays[:, i, j, k].permute(1, 2, 3, 0).float()
        if channels is not None:
            rows[inner][..., channels:].mul_(held[i, j, k, None])
        middle = [(n - 1) / 2 - part.start + RIM for n, part in zip(arrays.shape[1:], box, strict=True)]
        a, b, c = near.shape
        return cls(rows.reshape(-1, len(arrays)), near.flatten(), (a, b, c), (middle[0], middle[1], middle[2]))


@dataclass(frozen=True, eq=False)
class Cutout:
    """One window of a case, as the values of the voxels that hold something.

    Attributes:
        values: ``(C, N)`` float32.
        places: ``(N,)``: where in the flattened window they are, rising.
        window: Voxels of the window.
    """

    values: Tensor
    places: Tensor
    window: tuple[int, int, int]

    def spread(self, values: Tensor) -> Tensor:
        """``(C, N)`` values in their places: ``(C, *window)``, zero elsewhere."""
        whole = values.new_zeros((len(values), math.prod(self.window)))
        return whole.index_copy_(1, self.places, values).reshape(-1, *self.window)

    def gather(self, whole: Tensor) -> Tensor:
        """Undo `spread`: ``(C, *window)`` to ``(C, N)``."""
        return whole.reshape(len(whole), -1).index_select(1, self.places)


def spatial(
    anatomy: Anatomy, window: tuple[int, int, int], spacing_mm: float, augmentation: Augmentation, generator: Generator
) -> Cutout:
    """Cut one window out of a case under a random smooth deformation, in a single linear interpolation.

    Args:
        anatomy: Sequences and truth together, so that they move together.
        window: Voxels of the result.
        spacing_mm: Of both.
        augmentation: How much of each change.
        generator: Source of chance (a CPU generator, whatever the device).

    Returns:
        What lies in the window; zero where the case ends.
    """
    angles = _uniform(3, math.radians(augmentation.rotation_degrees), generator)
    scales = 1 + _uniform(3, augmentation.scaling, generator)
    matrix = _rotation(angles) @ torch.diag(scales)
    if float(torch.rand(1, generator=generator)) < augmentation.flip:
        matrix = matrix @ torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    shift = _uniform(3, augmentation.shift_mm / spacing_mm, generator) + torch.tensor(anatomy.middle)

    # Positions in voxels of the case at a few control points: turning, scaling and shifting are linear and survive the
    # interpolation to every voxel exactly, which spares a product with a matrix for each.
    axes = [torch.linspace(-(n - 1) / 2, (n - 1) / 2, points) for n, points in zip(window, CONTROL_POINTS, strict=True)]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    controls = torch.einsum("ij,jabc->iabc", matrix, offsets) + shift[:, None, None, None]
    if augmentation.elastic_mm > 0:
        controls = controls + _uniform((3, *CONTROL_POINTS), augmentation.elastic_mm / spacing_mm, generator)
    return _look_up(anatomy, _smooth(controls.to(anatomy.rows.device), window), window)


def _look_up(anatomy: Anatomy, positions: Tensor, window: tuple[int, int, int]) -> Cutout:
    """Interpolate at ``positions`` ``(3, *window)``, in voxels of the anatomy's box, where there is something."""
    positions = positions.flatten(1)
    total = positions.shape[1]
    piece = PIECE if positions.device.type == "cpu" else total
    _, height, depth = anatomy.size
    steps = [(a * height + b) * depth + c for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    corners = torch.tensor(steps, dtype=torch.int32, device=positions.device)
    places, values = [], []
    for start in range(0, total, piece):
        here = positions[:, start : start + piece]
        i, j, k = (axis.round().clamp_(0, n - 1).int() for axis, n in zip(here, anatomy.size, strict=True))
        near = anatomy.near.index_select(0, i.mul_(height).add_(j).mul_(depth).add_(k)).nonzero().flatten()
        here = here.index_select(1, near)
        lower = here.floor()
        x, y, z = here - lower
        i, j, k = lower.int()
        first = i.mul_(height).add_(j).mul_(depth).add_(k)
        xy = x * y
        sides = (1 - x - y).add_(xy), y - xy, x - xy, xy
        weights = torch.stack([part for side in sides for part in (side - side * z, side * z)], dim=1)
        # A weighted sum of rows, eight corners to a voxel; torch's grid_sample takes ten times as long for the same.
        rows = first[:, None] + corners
        values.append(functional.embedding_bag(rows, anatomy.rows, mode="sum", per_sample_weights=weights).t())
        places.append(near + start)
    return Cutout(torch.cat(values, dim=1), torch.cat(places), window)


def intensity(
    images: Tensor, truth: Tensor, cutout: Cutout, augmentation: Augmentation, generator: Generator
) -> Tensor:
    """Change the look of each sequence by itself, as another scanner and another tumour would.

    Args:
        images: ``(C, N)`` normalised values of ``cutout``; zero outside the sequence's brain.
        truth: ``(2, N)``: the fraction of each voxel in whole tumour and core.
        cutout: Where the values are.
        augmentation: How much of each change.
        generator: Source of chance (a CPU generator).

    Returns:
        The same shape, zero outside the brain; inside, zero mean and unit spread, as `engine.preprocessing` leaves
        every image, but for a random gain and offset.
    """
    count, device = len(images), images.device

    def normal(spread: float, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * spread

    # Everything is drawn, also for what is switched off, which so leaves the other changes as they are.
    factors, shifts = normal(augmentation.lesion, count, 2).exp(), normal(augmentation.lesion_shift, count, 2)
    coarser = torch.rand((count, 3), generator=generator).tolist()
    powers = normal(augmentation.contrast, count).exp().tolist()
    fields = _smooth(normal(augmentation.bias_field, count, *FIELD_POINTS).to(device), cutout.window)
    noises = (torch.rand(count, generator=generator) ** 2 * augmentation.noise).tolist()
    # A seed drawn from the generator, so that the noise can be made on the device itself.
    source = Generator(device=device).manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    gains, offsets = normal(augmentation.gain, count).exp().tolist(), normal(augmentation.offset, count).tolist()

    tumour = truth[0].nonzero().flatten()
    parts = truth.index_select(1, tumour)
    parts = torch.stack([parts[0] - parts[1], parts[1]])
    # The brain's mean is zero, so a factor moves a tumour towards the look of the average tissue or away from it. One
    # that looks average already is moved by the shift alone.
    lesion_factors, lesion_shifts = 1 + (factors - 1).to(device) @ parts, shifts.to(device) @ parts
    changed = images.clone()
    # One sequence after the other, in place: it stays in the processor's cache from the first change to the last.
    for n, value in enumerate(changed):
        brain = (value != 0).float()
        voxels = brain.sum().clamp(min=2)
        lesion = value.index_select(0, tumour).mul_(lesion_factors[n]).add_(lesion_shifts[n])
        value.index_copy_(0, tumour, lesion)
        chance, amount, which = coarser[n]
        if chance < augmentation.blur:
            value.copy_(cutout.gather(_coarser(cutout.spread(value[None]), amount, which))[0])
        if augmentation.contrast > 0:
            # A gamma about the range -3..3 bends the middle and keeps the ends; gain and offset are normalised away.
            within = value.clamp(-3, 3)
            value.sub_(within)
            # A power as the exponential of a logarithm, whose minus infinity at zero comes out as zero again.
            value.add_(within.add_(3).div_(6).log_().mul_(powers[n]).exp_(), alpha=6).sub_(3)
        if augmentation.bias_field > 0:
            # Intensities are centred on the brain's mean; lift them so that the field scales signal, not contrast.
            value.add_(3).mul_(cutout.gather(fields[n : n + 1])[0].exp_()).sub_(3)
        if augmentation.noise > 0:
            value.add_(torch.randn(value.shape, generator=source, device=device), alpha=noises[n])
        # Sums instead of torch's mean and spread, which take their time to be exact to the last bit.
        value.mul_(brain)
        value.sub_(brain * (value.sum() / voxels))
        spread = torch.linalg.vector_norm(value) / (voxels - 1).sqrt()
        value.mul_(gains[n] / spread.clamp(min=1e-3)).add_(offsets[n]).clamp_(-5, 5).mul_(brain)
    return changed


def _coarser(image: Tensor, amount: float, which: float) -> Tensor:
    """``(1, i, j, k)`` as if scanned in thick slices or at a low resolution and interpolated back."""
    factors = [1.0, 1.0, 1.0]
    if which < 0.5:  # thick slices along one axis, most often head to foot
        factors[2 if which < 0.3 else int(which * 10) % 3] = 1 + 2 * amount
    else:  # low resolution all round
        factors = [1 + amount] * 3
    matrices = []
    for n, factor in zip(image.shape[1:], factors, strict=True):
        points = torch.eye(n, device=image.device)[None]
        small = functional.interpolate(points, size=max(4, round(n / factor)), mode="area")
        # Averaging and interpolating back are linear along each axis: one matrix does both.
        matrices.append(functional.interpolate(small, size=n, mode="linear", align_corners=False)[0].t())
    return _along_axes(image, matrices)


def _smooth(controls: Tensor, window: tuple[int, int, int]) -> Tensor:
    """Linear interpolation of control points ``(C, a, b, c)``, first and last at the window's ends, to every voxel."""
    matrices = []
    for points, n in zip(controls.shape[1:], window, strict=True):
        corners = torch.eye(points, device=controls.device)[None]
        matrices.append(functional.interpolate(corners, size=n, mode="linear", align_corners=True)[0].t())
    return _along_axes(controls, matrices)


def _along_axes(volume: Tensor, matrices: list[Tensor]) -> Tensor:
    """``(C, x, y, z)`` multiplied by one matrix an axis, ``(i, x)``, ``(j, y)`` and ``(k, z)``: ``(C, i, j, k)``."""
    volume = torch.einsum("ix,cxyz->ciyz", matrices[0], volume)
    volume = torch.einsum("jy,ciyz->cijz", matrices[1], volume)
    return volume @ matrices[2].t()


def _uniform(shape: int | tuple[int, ...], largest: float, generator: Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * largest


def _rotation(angles: Tensor) -> Tensor:
    """``(3, 3)`` rotation about x, then y, then z, by ``angles`` in radians."""
    (cx, cy, cz), (sx, sy, sz) = torch.cos(angles).tolist(), torch.sin(angles).tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
