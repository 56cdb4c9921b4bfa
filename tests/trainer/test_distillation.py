"""Losses against numbers worked out by hand, and a teacher that teaches without learning."""

from __future__ import annotations

import math

import pytest
import torch

from engine import networks
from trainer.config import Distillation
from trainer.distillation import DistillationTask, SegmentationTask, hard_loss, soft_loss

SMALL = {"regions": 2, "filters": [8, 8], "blocks": [1, 1]}


def network(inputs: int) -> torch.nn.Module:
    return networks.build("folded_unet", {"inputs": inputs, **SMALL})


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    truth = torch.zeros(1, 2, 16, 16, 16)
    truth[:, 0, 4:12, 4:12, 4:12] = 1
    truth[:, 1, 6:10, 6:10, 6:10] = 1
    images = torch.randn(1, 4, 16, 16, 16, generator=generator) * 0.3 + truth.sum(1, keepdim=True)
    return {"images": images[:, :1], "teacher_images": images, "truth": truth}


def test_soft_loss_is_the_papers_formula() -> None:
    teacher, student, temperature = 3.0, -1.0, 5.0
    p = 1 / (1 + math.exp(-teacher / temperature))
    q = 1 / (1 + math.exp(-student / temperature))
    expected = temperature**2 * -(p * math.log(q) + (1 - p) * math.log(1 - q))
    shape = (1, 2, 2, 2, 2)
    found = soft_loss(torch.full(shape, student), torch.full(shape, teacher), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_soft_loss_pulls_towards_the_teacher_with_a_strength_that_the_temperature_does_not_change() -> None:
    slopes = []
    for temperature in (2.0, 8.0):
        student = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
        soft_loss(student, torch.full((1, 1, 2, 2, 2), 0.1), temperature).backward()
        slopes.append(float(student.grad.sum()))
    assert slopes[0] < 0
    assert slopes[1] == pytest.approx(slopes[0], rel=0.01)


def test_hard_loss_is_lowest_at_the_truth_even_where_voxels_are_split() -> None:
    truth = torch.rand(1, 2, 6, 6, 6, generator=torch.Generator().manual_seed(2)).clamp(0.05, 0.95)
    at_truth = float(hard_loss(torch.logit(truth), truth))
    for shift in (-0.5, 0.5):
        assert float(hard_loss(torch.logit(truth) + shift, truth)) > at_truth


def test_an_empty_region_gives_a_finite_loss_that_rewards_silence() -> None:
    truth = torch.zeros(1, 2, 4, 4, 4)
    loud, silent = torch.full_like(truth, 4.0), torch.full_like(truth, -12.0)
    assert math.isfinite(float(hard_loss(loud, truth)))
    assert float(hard_loss(silent, truth)) < 0.01 < float(hard_loss(loud, truth))


def test_three_steps_change_the_student_and_leave_the_teacher_alone() -> None:
    torch.manual_seed(0)
    teacher, student = network(4), network(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    start = {name: value.clone() for name, value in student.state_dict().items()}
    task = DistillationTask(student, teacher, Distillation("teacher", 5.0, 0.5))
    task.train()
    assert not task.teacher.training
    optimiser = torch.optim.SGD(task.parameters(), lr=0.1)
    for _ in range(3):
        terms = task(batch())
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
    assert float(terms["loss"].detach()) == pytest.approx(float(terms["hard"] + 0.5 * terms["distillation"]), rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert any(not torch.equal(value, start[name]) for name, value in student.state_dict().items())
    assert all(value.grad is None for value in teacher.parameters())
    assert {name.removeprefix("network.") for name in task.state_dict()} == set(student.state_dict())


def test_without_weight_a_student_learns_exactly_what_a_baseline_learns() -> None:
    torch.manual_seed(0)
    student = network(1)
    distilled = DistillationTask(student, network(4), Distillation("teacher", 5.0, 0.0))(batch())
    plain = SegmentationTask(student)(batch())
    assert torch.equal(distilled["loss"], plain["loss"])
