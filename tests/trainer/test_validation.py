"""Scores are made in the window that inference would use, and previews lie where the patient does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import networks, preprocessing
from engine.errors import UserError
from engine.preprocessing import Preparation
from engine.progress import Progress
from engine.volume import LabelMap, Sequence, Subject, Volume
from tests.engine import phantoms
from trainer import dataset, validation
from trainer.config import TrainConfig
from trainer.dataset import Case
from trainer.validation import Validation

PAIR = (Sequence.T1, Sequence.FLAIR)


def config(**fields: object) -> TrainConfig:
    plain: dict[str, object] = {
        "name": "tiny",
        "role": "teacher",
        "sequences": PAIR,
        "data": "cohort",
        "train_cases": ("zoe",),
        "validation_cases": ("anna", "boris", "carla"),
        "architecture": {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}},
        "spacing_mm": 1.0,
        "window": (32, 32, 32),
    }
    return TrainConfig(**{**plain, **fields})  # type: ignore[arg-type]


def patient(
    name: str, orientation: str = "RAS", tumour: float = 1.0, monkeypatch: pytest.MonkeyPatch | None = None
) -> tuple[Subject, LabelMap, Case]:
    """A phantom, and what training makes of it."""
    grid = phantoms.grid(orientation)
    subject = Subject(name, dict(phantoms.subject(grid).items()))
    labels = phantoms.tumour(grid).data
    if tumour < 1:
        labels = np.where(np.random.default_rng(0).random(labels.shape) < tumour, labels, 0).astype(np.uint8)
    truth = LabelMap(labels, grid)
    return subject, truth, dataset._case(subject, truth, 1.0, None)


@pytest.fixture(autouse=True)
def _small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MARGIN_WINDOW_MM", (64, 64, 64))


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIL", "SRA"])
@pytest.mark.parametrize("window", [(32, 32, 32), (16, 48, 16), (80, 16, 64)])
def test_the_window_is_that_of_inference(orientation: str, window: tuple[int, int, int]) -> None:
    subject, truth, case = patient("anna", orientation)
    # Half a head in one sequence: where the window lies depends on the sequences that the network reads.
    half = np.array(subject[Sequence.T1].data)
    half[: half.shape[0] // 2] = 0
    cut = Volume(half, truth.grid, Sequence.T1)
    subject = Subject("anna", {**dict(subject.items()), Sequence.T1: cut})
    case = dataset._case(subject, truth, 1.0, None)
    for wanted in ((Sequence.T1,), PAIR):
        expected = preprocessing.prepare(subject, Preparation(wanted, 1.0, window))
        where = validation.place(case, wanted, window)
        given = validation.cut(case.images[case.channels(wanted)], where)
        assert given.shape == expected.tensor.shape
        np.testing.assert_allclose(given, expected.tensor, atol=0.01)
        if wanted == PAIR:  # the half head of T1 does not hold all of the tumour
            there = validation.cut(case.truth, where)[0]
            np.testing.assert_allclose(there, expected.forward(truth.whole_tumour), atol=0.01)


def test_what_is_cut_out_goes_back_to_its_place() -> None:
    maps = np.random.default_rng(0).random((2, 20, 30, 10))
    for where in [((3, 4, 2), (10, 12, 5)), ((-6, -1, 0), (40, 40, 10)), ((12, -5, -3), (16, 16, 16))]:
        back = validation.put_back(validation.cut(maps, where), where, (20, 30, 10))
        inside = tuple(
            slice(max(0, first), min(n, first + size)) for first, size, n in zip(*where, (20, 30, 10), strict=True)
        )
        assert np.array_equal(back[:, *inside], maps[:, *inside])
        assert back.sum() == pytest.approx(maps[:, *inside].sum())


class Ball(torch.nn.Module):
    """Finds as whole tumour where FLAIR is brightest, and as core a part of that."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flair = images[:, 1:]
        return torch.cat([flair - 1.5, flair - 1.5 - (images[:, :1] > 0).float() * 9], dim=1) * 20


def test_scores_and_previews_of_known_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "build", lambda *_: Ball())
    cases = [patient("anna", "RAS")[2], patient("boris", "LPS", 0.3)[2], patient("carla", "PIL", 0.6)[2]]
    scored = Validation(config(previews=2), cases, tmp_path, torch.device("cpu"))
    scores = scored.score({}, Progress(), pytest.fail)
    path = scored.show(scores, 500)
    assert path == tmp_path / "previews" / "000500.npz"
    found = [(case.images[3] > 1.5, (case.images[3] > 1.5) & (case.images[0] <= 0)) for case in cases]
    for number, case in enumerate(cases):
        for region in range(2):
            mask, truth = found[number][region], case.truth[region] > 0.5
            expected = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
            assert scores.dice[number, region] == pytest.approx(expected, abs=0.02)
    assert scores.mean() == pytest.approx(dict(zip(("whole_tumour", "tumour_core"), scores.dice.mean(0), strict=True)))
    with np.load(path) as preview, np.load(tmp_path / "previews" / "cases.npz") as shown:
        # Those whose tumours are nearest to the median, in their own order.
        assert shown["names"].tolist() == ["boris", "carla"] or shown["names"].tolist() == ["anna", "carla"]
        assert shown["sequences"].tolist() == ["t1", "t1ce", "t2", "flair"]
        assert shown["spacing_mm"] == 1.0
        place = [case.name for case in cases].index(shown["names"][1])
        case = cases[place]
        i, j, k = case.truth.shape[1:]
        assert np.array_equal(shown["images"][1][:, :i, :j, :k], case.images)
        truth = shown["truth"][1][:i, :j, :k]
        assert np.array_equal(truth == 1, case.truth[1] > 0.5)
        assert np.array_equal(truth > 0, case.truth[0] > 0.5)
        labels = preview["labels"][1][:i, :j, :k]
        assert (labels.dtype, preview["labels"].shape) == (np.uint8, shown["truth"].shape)
        assert np.mean((labels > 0) == found[place][0]) > 0.999
        assert np.array_equal(preview["dice"], scores.dice[[0 if shown["names"][0] == "anna" else 1, 2]])


def test_nothing_is_previewed_where_nobody_wants_it(tmp_path: Path) -> None:
    scored = Validation(config(previews=0), [patient("anna")[2]], tmp_path, torch.device("cpu"))
    scores = scored.score(networks.build(*config().network()).state_dict(), Progress(), pytest.fail)
    assert scored.show(scores, 500) is None
    assert list(tmp_path.iterdir()) == []


def test_patients_with_other_sequences_are_previewed_with_what_they_share(tmp_path: Path) -> None:
    subject, truth, full = patient("anna")
    fewer = Subject("boris", {sequence: subject[sequence] for sequence in (*PAIR, Sequence.T2)})
    cases = [full, dataset._case(fewer, truth, 1.0, None)]
    Validation(config(), cases, tmp_path, torch.device("cpu"))
    with np.load(tmp_path / "previews" / "cases.npz") as shown:
        assert shown["sequences"].tolist() == ["t1", "t2", "flair"]
        assert np.array_equal(shown["images"][0], full.images[[0, 2, 3]])
        assert np.array_equal(shown["images"][1], cases[1].images)


def test_a_card_too_small_for_a_whole_image_leaves_it_to_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = networks.build(*config().network()).state_dict()
    scored = Validation(config(), [patient("anna")[2]], tmp_path, torch.device("cpu"))
    expected = scored.score(weights, Progress(), pytest.fail).dice
    plain = validation.outline

    def outline(network: torch.nn.Module, images: np.ndarray, device: torch.device) -> np.ndarray:
        if device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(network, images, device)

    monkeypatch.setattr(validation, "outline", outline)
    # A device that is there on every machine and is no processor.
    scored._device = torch.device("meta")
    told: list[str] = []
    assert np.array_equal(scored.score(weights, Progress(), told.append).dice, expected)
    assert len(told) == 1
    assert "scored on the processor" in told[0]
    assert np.array_equal(scored.score(weights, Progress(), pytest.fail).dice, expected)


def test_only_a_network_for_any_subset_is_scored_on_patients_that_lack_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, truth, _ = patient("anna")
    case = dataset._case(Subject("anna", {Sequence.FLAIR: subject[Sequence.FLAIR]}), truth, 1.0, None)
    monkeypatch.setattr(networks, "build", lambda *_: Ball())
    with pytest.raises(UserError, match="anna has no T1"):
        Validation(config(previews=0), [case], tmp_path, torch.device("cpu"))
    scored = Validation(config(previews=0, sequence_dropout=0.5), [case], tmp_path, torch.device("cpu"))
    # Without T1, which says where the core is not, all of the tumour is core.
    whole, core = scored.score({}, Progress(), pytest.fail).dice[0]
    found = case.images[0] > 1.5
    assert core == pytest.approx(
        2 * (found & (case.truth[1] > 0.5)).sum() / (found.sum() + (case.truth[1] > 0.5).sum())
    )
    assert whole > core
