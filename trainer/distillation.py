"""What is learnt: a task owns its networks and losses and returns a loss; the loop knows nothing of distillation."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.folded_unet import FOLD, FoldedUNet, unfold
from trainer.config import Distillation


class SegmentationTask(nn.Module):
    """One network against the truth: teachers and baselines.

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
    """A student that sees fewer sequences, taught by the truth and by what it will not have later.

    Args:
        student: Network of the student's sequences.
        teacher: Network of the teacher's sequences; ``None`` where no term of ``distillation`` asks for one.
        distillation: Which terms, and how strong.
        absent: How many sequences the student paints, where ``distillation.synthesis`` is not zero.

    Attributes:
        network: The student; with the painter and the adapter, which are thrown away afterwards, all that learns.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, distillation: Distillation, absent: int = 0
    ) -> None:
        super().__init__()
        self.network = student
        self.distillation = distillation
        # Outside the module tree: the teacher must not appear among the student's weights or be trained by accident.
        frozen = None if teacher is None else teacher.eval().requires_grad_(False)
        object.__setattr__(self, "_teacher", frozen)
        if distillation.synthesis > 0:
            finest = cast(FoldedUNet, student).head.in_channels
            self.painter = nn.Conv3d(finest, absent * FOLD**3, 3, padding=1)
        if distillation.latent > 0:
            deepest = [cast(nn.Conv3d, cast(FoldedUNet, net).down[-1]).out_channels for net in (student, self.teacher)]
            self.adapter = nn.Conv3d(deepest[0], deepest[1], 1)

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher, always in evaluation mode."""
        return cast(nn.Module, self._teacher)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Score one batch.

        Args:
            batch: ``images`` and ``truth`` as for `SegmentationTask`; as the terms need them, in the same place:
                ``target``, the truth mixed with the opinion of cross-fitted teachers, ``teacher_images (B, C_t, i, j,
                k)``, the teacher's sequences, and ``absent (B, C_a, i, j, k)``, the sequences that the student lacks.
                What patients lack is left out: then the terms that need it count nothing.

        Returns:
            ``loss`` and its terms: ``hard`` and those of ``logits``, ``latent``, ``prototypes`` and ``synthesis`` that
            have a weight and what they need.
        """
        wanted = self.distillation
        if max(wanted.latent, wanted.prototypes, wanted.synthesis) > 0:
            student = cast(FoldedUNet, self.network)
            deepest, finest = student.describe(batch["images"])
            logits = student.outline(finest)
        else:
            logits = self.network(batch["images"])
        hard = hard_loss(logits, batch.get("target", batch["truth"]))
        terms: dict[str, tuple[float, Tensor]] = {}
        looks_on = "teacher_images" in batch
        if looks_on and max(wanted.latent, wanted.prototypes) > 0:
            teacher = cast(FoldedUNet, self.teacher)
            with torch.no_grad():
                taught_deepest, taught_finest = teacher.describe(batch["teacher_images"])
                taught = teacher.outline(taught_finest)
        elif looks_on and wanted.weight > 0:
            with torch.no_grad():
                taught = self.teacher(batch["teacher_images"])
        if looks_on and wanted.weight > 0:
            terms["logits"] = wanted.weight, soft_loss(logits, taught, wanted.temperature)
        if looks_on and wanted.latent > 0:
            terms["latent"] = wanted.latent, latent_loss(self.adapter(deepest), taught_deepest)
        if looks_on and wanted.prototypes > 0:
            terms["prototypes"] = wanted.prototypes, prototype_loss(finest, taught_finest, batch["truth"])
        if "absent" in batch and wanted.synthesis > 0:
            terms["synthesis"] = wanted.synthesis, synthesis_loss(unfold(self.painter(finest)), batch["absent"])
        loss = hard
        for weight, term in terms.values():
            loss = loss + weight * term
        return {"loss": loss, "hard": hard.detach(), **{name: term.detach() for name, (_, term) in terms.items()}}


@torch.no_grad()
def outline(network: nn.Module, images: np.ndarray, device: torch.device) -> np.ndarray:
    """What a network says of a whole case, the mean with its mirror image.

    Args:
        network: In evaluation mode, on ``device``.
        images: ``(C, i, j, k)``.
        device: Where to work.

    Returns:
        Probabilities ``(R, i, j, k)`` float32.
    """
    whole = torch.from_numpy(images).float()[None].to(device)
    with torch.autocast(device.type, torch.bfloat16):
        logits = network(whole).float() + network(whole.flip(2)).float().flip(2)
    said: np.ndarray = torch.sigmoid(logits / 2)[0].cpu().numpy()
    return said


def hard_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Soft Dice plus binary cross-entropy against the truth, averaged over the regions.

    Args:
        logits: ``(B, R, i, j, k)``.
        truth: ``(B, R, i, j, k)`` in 0..1.

    Returns:
        Scalar float32. The Dice denominator carries one voxel, so an empty region neither divides by zero nor rewards
        predicting nothing everywhere.
    """
    loss: Tensor = _HardLoss.apply(logits, truth)
    return loss


class _HardLoss(torch.autograd.Function):
    """`hard_loss` with its slope worked out by hand: half the passes over the logits that autograd would make."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor) -> Tensor:
        values, wanted = logits.float().flatten(2), truth.float().flatten(2)
        said = torch.sigmoid(values)

        def overlap(a: Tensor, b: Tensor) -> Tensor:
            # A product of vectors is never cast to bfloat16, whose sums over a volume would be off by percents.
            pairs = zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)
            return torch.stack([torch.dot(one, other) for one, other in pairs]).reshape(values.shape[:2])

        # Squared sums are smallest at probability == truth for fractional truth too, where plain sums are not.
        twice = 2 * overlap(said, wanted) + 1
        total = overlap(said, said) + overlap(wanted, wanted) + 1
        entropy = (functional.softplus(values).sum() - overlap(values, wanted).sum()) / values.numel()
        ctx.save_for_backward(said, wanted, twice[:, :, None], total[:, :, None])
        ctx.logits = logits.shape, logits.dtype
        return (1 - twice / total).mean() + entropy

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        said, wanted, twice, total = ctx.saved_tensors
        shape, dtype = ctx.logits
        share = 2 * slopes[0] / twice.numel()
        # Of Dice by the probability, by the logit (p - p^2), and of the cross-entropy by the logit.
        slope = (said * (share * twice / total**2)).addcmul_(wanted, -share / total)
        slope.mul_(said - said * said).add_((said - wanted).mul_(slopes[0] / said.numel()))
        return slope.reshape(shape).to(dtype), None


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


def latent_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean squared distance of features, the teacher's brought to mean 0 and spread 1 in each channel.

    Args:
        student_features: ``(B, F, i, j, k)``.
        teacher_features: The same shape.

    Returns:
        Scalar float32.
    """
    space = (2, 3, 4)
    wanted = teacher_features.float()
    spread = wanted.std(space, keepdim=True).clamp(min=1e-3)
    return functional.mse_loss(student_features.float(), (wanted - wanted.mean(space, keepdim=True)) / spread)


def prototype_loss(student_features: Tensor, teacher_features: Tensor, truth: Tensor) -> Tensor:
    """Mean squared distance between both networks' cosine similarities of each position to the mean of each class.

    The classes are core, rest of the whole tumour and everything else; each network's prototype of a class is the mean
    of its own features there, so the two may have different numbers of channels.

    Args:
        student_features: ``(B, F_s, i, j, k)``.
        teacher_features: ``(B, F_t, i, j, k)``.
        truth: ``(B, 2, n i, n j, n k)``: whole tumour and core.

    Returns:
        Scalar float32; a class that is absent counts nothing.
    """
    i, j, k = student_features.shape[2:]
    whole, core = functional.adaptive_avg_pool3d(truth.float(), (i, j, k)).flatten(2).unbind(1)
    classes = torch.stack([core, (whole - core).clamp(min=0), 1 - whole], dim=1)  # (B, 3, positions)
    present = (classes.sum(2, keepdim=True) > 0.5).float()
    similarities = []
    for features in (student_features, teacher_features):
        flat = functional.normalize(features.float().flatten(2), dim=1)
        prototypes = functional.normalize(torch.einsum("bfp,bcp->bcf", flat, classes), dim=2)
        similarities.append(torch.einsum("bfp,bcf->bcp", flat, prototypes))
    distance = (similarities[0] - similarities[1]) ** 2
    return (distance * present).mean()


def synthesis_loss(painted: Tensor, absent: Tensor) -> Tensor:
    """Mean absolute difference inside the brain.

    Args:
        painted: ``(B, C, i, j, k)``.
        absent: The same shape, normalised, zero outside the brain.

    Returns:
        Scalar float32.
    """
    brain = (absent != 0).float()
    return ((painted.float() - absent.float()).abs() * brain).sum() / brain.sum().clamp(min=1)
