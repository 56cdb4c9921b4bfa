"""A finished run becomes a model folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import networks
from engine.inference import segment
from engine.volume import Sequence
from tests.engine import phantoms
from trainer import checkpoint
from trainer.config import Distillation, TrainConfig

TINY = {"name": "folded_unet", "args": {"regions": 2, "filters": [4, 8], "blocks": [1, 1]}}
T1, T1CE, T2, FLAIR = Sequence


@pytest.mark.parametrize(
    ("sequences", "dropout", "title"),
    [
        (tuple(Sequence), 0.5, "any-sequence student"),
        ((T1, FLAIR), 0.5, "any-of-T1+FLAIR student"),
        ((T1, FLAIR), 0.0, "T1+FLAIR student"),
    ],
)
def test_a_network_trained_with_sequences_absent_takes_any_subset(
    tmp_path: Path, sequences: tuple[Sequence, ...], dropout: float, title: str
) -> None:
    config = TrainConfig(
        name="run",
        role="student",
        sequences=sequences,
        data="nowhere",
        train_cases=("anna",),
        distillation=Distillation("teacher"),
        sequence_dropout=dropout,
        architecture=TINY,
        spacing_mm=1.0,
        window=(32, 32, 32),
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / checkpoint.CONFIG).write_text(config.to_json())
    checkpoint.save_weights(run, networks.build(*config.network()).state_dict())
    card = checkpoint.export(run, tmp_path / "model", "mine", "1", "", "", ())
    assert (card.title, card.any_subset) == (title, dropout > 0)
    assert card.usable((T1, T2)) == (in_both(sequences, (T1, T2)) if dropout else ())
    if dropout:
        assert segment(phantoms.subject(sequences=(T1,)), card, device="cpu").used == (T1,)


def in_both(first: tuple[Sequence, ...], second: tuple[Sequence, ...]) -> tuple[Sequence, ...]:
    return tuple(sequence for sequence in first if sequence in second)
