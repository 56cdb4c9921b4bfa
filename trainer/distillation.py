"""What is learnt: a task owns its networks and losses and returns a loss; the loop knows nothing of distillation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import Distillation


class SegmentationTask(nn.Module):
    """One network against the truth: teachers, baselines, pre-training.

    Args:
        network: From ``(B, C, i, j, k)`` to logits ``(B, R, i, j, k)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Score one batch.

        Args:
            batch: ``images (B, C, i, j, k)``; ``truth (B, R, i, j, k)``, the fraction of each voxel in each region.

        Returns:
            ``loss``, to be minimised, and the named terms it is made of; all scalars.
        """
        logits = self.network(batch["images"])
        hard = hard_loss(logits, batch["truth"])
        return {"loss": hard, "hard": hard.detach()}


class DistillationTask(nn.Module):
    """A student that sees fewer sequences, taught by the truth and by a frozen teacher that sees all.

    Args:
        student: Network of the student's sequences; the only part that learns.
        teacher: Network of the teacher's sequences.
        distillation: Temperature and weight.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, distillation: Distillation) -> None:
        super().__init__()
        self.network = student
        # Outside the module tree: the teacher must not appear among the student's weights or be trained by accident.
        object.__setattr__(self, "_teacher", teacher.eval().requires_grad_(False))
        self.distillation = distillation

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher, always in evaluation mode."""
        return cast(nn.Module, self._teacher)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Score one batch.

        Args:
            batch: ``images`` and ``truth`` as for `SegmentationTask`, and ``teacher_images (B, C_t, i, j, k)``: the
                teacher's sequences in the same place.

        Returns:
            ``loss`` and its terms ``hard`` and ``distillation``.
        """
        student_logits = self.network(batch["images"])
        hard = hard_loss(student_logits, batch["truth"])
        if self.distillation.weight == 0:
            return {"loss": hard, "hard": hard.detach(), "distillation": torch.zeros_like(hard)}
        with torch.no_grad():
            teacher_logits = self.teacher(batch["teacher_images"])
        soft = soft_loss(student_logits, teacher_logits, self.distillation.temperature)
        loss = hard + self.distillation.weight * soft
        return {"loss": loss, "hard": hard.detach(), "distillation": soft.detach()}


def hard_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Soft Dice plus binary cross-entropy against the truth, averaged over the regions.

    Args:
        logits: ``(B, R, i, j, k)``.
        truth: ``(B, R, i, j, k)`` in 0..1.

    Returns:
        Scalar float32. The Dice denominator carries one voxel, so an empty region neither divides by zero nor rewards
        predicting nothing everywhere.
    """
    logits, truth = logits.float(), truth.float()
    probability = torch.sigmoid(logits)
    space = (2, 3, 4)
    overlap = (probability * truth).sum(space)
    # Squared sums are smallest at probability == truth for fractional truth too, where plain sums are not.
    total = (probability**2).sum(space) + (truth**2).sum(space)
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return dice.mean() + functional.binary_cross_entropy_with_logits(logits, truth)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``T^2 * BCE(sigma(z_t / T), sigma(z_s / T))``, averaged over voxels and regions.

    The factor T^2 keeps the gradient's size independent of the temperature (Hinton et al., 2015).

    Args:
        student_logits: ``(B, R, i, j, k)``.
        teacher_logits: The same shape.
        temperature: T.

    Returns:
        Scalar float32.
    """
    target = torch.sigmoid(teacher_logits.float() / temperature)
    softened = student_logits.float() / temperature
    return temperature**2 * functional.binary_cross_entropy_with_logits(softened, target)
