"""Losses against numbers worked out by hand, and a teacher that teaches without learning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine import networks
from trainer.config import Distillation
from trainer.distillation import (
    DistillationTask,
    SegmentationTask,
    hard_loss,
    latent_loss,
    outline,
    prototype_loss,
    soft_loss,
    synthesis_loss,
)

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


def test_hard_loss_and_its_slope_are_those_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(2, 2, 5, 6, 7, generator=generator)
    truth = torch.rand(logits.shape, generator=generator) * (torch.rand(logits.shape, generator=generator) < 0.4)
    truth[1, 1] = 0
    plain, ours = (logits.clone().requires_grad_() for _ in range(2))
    p, space = torch.sigmoid(plain), (2, 3, 4)
    dice = (2 * (p * truth).sum(space) + 1) / ((p**2).sum(space) + (truth**2).sum(space) + 1)
    expected = (1 - dice).mean() + torch.nn.functional.binary_cross_entropy(p, truth)
    expected.backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = hard_loss(ours, truth)
    (3 * found).backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(ours.grad, 3 * plain.grad, atol=1e-7, rtol=1e-4)


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
    assert float(terms["loss"].detach()) == pytest.approx(float(terms["hard"] + 0.5 * terms["logits"]), rel=1e-5)
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


def test_every_term_adds_its_weight_and_teaches_the_student() -> None:
    torch.manual_seed(0)
    wanted = Distillation("teacher", 2.0, 0.5, latent=0.25, prototypes=0.125, synthesis=0.75)
    task = DistillationTask(network(1), network(4), wanted, absent=3)
    given = batch() | {"absent": batch()["teacher_images"][:, 1:]}
    terms = task(given)
    expected = (
        terms["hard"]
        + 0.5 * terms["logits"]
        + 0.25 * terms["latent"]
        + 0.125 * terms["prototypes"]
        + 0.75 * terms["synthesis"]
    )
    assert float(terms["loss"].detach()) == pytest.approx(float(expected), rel=1e-5)
    # What is thrown away afterwards is no part of the network.
    assert {name.split(".")[0] for name in task.state_dict()} == {"network", "painter", "adapter"}
    assert not any("painter" in name or "adapter" in name for name in task.network.state_dict())


@pytest.mark.parametrize("term", ["logits", "latent", "prototypes", "synthesis"])
def test_each_term_is_learnt(term: str) -> None:
    torch.manual_seed(0)
    weights = {"weight": 0.0, "weight" if term == "logits" else term: 20.0}
    task = DistillationTask(network(1), network(4), Distillation("teacher", **weights), absent=3)
    given = batch() | {"absent": batch()["teacher_images"][:, 1:]}
    first = task(given)[term]
    optimiser = torch.optim.Adam(task.parameters(), lr=0.01)
    for _ in range(20):
        terms = task(given)
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
    # The logits cannot get below the teacher's own doubt.
    assert float(terms[term]) < (1 if term == "logits" else 0.9) * float(first)


def test_a_student_with_the_teachers_features_has_nothing_left_to_learn_of_them() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(1, 6, 4, 4, 4, generator=generator)
    standard = (features - features.mean((2, 3, 4), keepdim=True)) / features.std((2, 3, 4), keepdim=True)
    assert float(latent_loss(standard, features)) == pytest.approx(0, abs=1e-6)
    truth = batch()["truth"][..., ::4, ::4, ::4]
    assert float(prototype_loss(features, features, truth)) == pytest.approx(0, abs=1e-6)
    # Similarities to the class means survive a rotation of the channels and a change of scale.
    turned = 3 * features.flip(1)
    assert float(prototype_loss(turned, features, truth)) == pytest.approx(0, abs=1e-6)
    assert float(prototype_loss(torch.randn_like(features), features, truth)) > 0.001


def test_prototypes_are_the_mean_directions_of_the_classes() -> None:
    # Two channels; the core points one way, everything else the other: similarities of 1 and 0 by construction.
    truth = torch.zeros(1, 2, 4, 4, 4)
    truth[:, :, :2] = 1
    teacher = torch.stack([truth[:, 0], 1 - truth[:, 0]], dim=1)
    student = torch.stack([torch.ones(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)], dim=1)
    # The student's core and outside prototypes agree, so all its similarities are 1 where half of the teacher's are 0;
    # the third class, tumour that is no core, is absent and counts nothing.
    expected = (0.5 + 0 + 0.5) / 3
    assert float(prototype_loss(student, teacher, truth)) == pytest.approx(expected, abs=1e-5)


def test_painting_is_judged_inside_the_brain_alone() -> None:
    absent = torch.zeros(1, 1, 4, 4, 4)
    absent[..., :2] = 2.0
    painted = torch.full_like(absent, 5.0)
    assert float(synthesis_loss(painted, absent)) == pytest.approx(3.0)
    assert float(synthesis_loss(painted, torch.zeros_like(absent))) == 0.0


def test_a_teachers_opinion_does_not_depend_on_left_and_right() -> None:
    torch.manual_seed(0)
    net = network(2).eval()
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32)
    said = outline(net, images, torch.device("cpu"))
    mirrored = outline(net, np.ascontiguousarray(images[:, ::-1]), torch.device("cpu"))
    assert said.shape == (2, 16, 16, 16)
    np.testing.assert_allclose(mirrored[:, ::-1], said, atol=0.01)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"weight": 0.1}, "name its run"),
        ({"weight": 0.0, "latent": 1.0}, "name its run"),
        ({"weight": 0.0, "blend": 0.5}, "need cross-fitted teachers"),
        ({"weight": 0.0, "blend": 1.5, "cross_fitted": ("a",)}, "between 0 and 1"),
        ({"teacher": "a", "synthesis": -1.0}, "not negative"),
    ],
)
def test_a_distillation_that_contradicts_itself_is_refused(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Distillation(**wrong)  # type: ignore[arg-type]
