"""A model of a kilobyte that finds the phantom's tumour by its brightness, run by the real inference.

It makes the way from files to masks testable in a second, without weights and without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.model_card import REGIONS, Architecture, Calibration, Evaluation, ModelCard, RegionScores, Role
from engine.runtime import import_openvino, store
from engine.volume import Sequence

# Standard deviations above the brain's mean from which the phantom's T2, T1ce and FLAIR show tumour and core.
WHOLE_TUMOUR_FROM, CORE_FROM = 1.2, 2.95


def install(
    models: Path,
    name: str = "student-t2",
    sequences: tuple[Sequence, ...] = (Sequence.T2,),
    role: Role = Role.STUDENT,
    dice: float = 0.7,
    training: dict[str, Any] | None = None,
    by_sequences: dict[str, float] | None = None,
    calibration: Calibration | None = None,
) -> ModelCard:
    """Write a whole model folder; the first of ``sequences`` is the one that is looked at.

    Args:
        models: Folder of model folders.
        name: Of the model and its folder.
        sequences: Inputs, in channel order.
        role: Teacher, student or baseline.
        dice: What the card says was measured.
        training: The card's training configuration.
        by_sequences: For a model for any subset of its sequences, the Dice with each, by a name such as ``t1+flair``.
        calibration: Of the card.
    """
    folder = models / name
    folder.mkdir(parents=True)
    _write_network(folder, len(sequences))

    def scores(mean: float) -> dict[str, RegionScores]:
        return dict.fromkeys(REGIONS, RegionScores(dice_mean=mean, dice_sd=0.1, hd95_mean=8.0))

    by_subset = {subset: scores(mean) for subset, mean in (by_sequences or {}).items()}
    return ModelCard(
        name=name,
        title=name.replace("-", " "),
        version="1.0",
        role=role,
        sequences=sequences,
        spacing_mm=1.0,
        window=(32, 32, 32),
        architecture=Architecture("threshold"),
        minimum_ml={"whole_tumour": 0.05, "tumour_core": 0.0},
        any_subset=by_sequences is not None,
        evaluation=Evaluation("on phantoms", 10, 10, scores(dice), by_sequences=by_subset),
        calibration=calibration,
        training=training or {},
    ).write(folder)


def _write_network(folder: Path, channels: int) -> None:
    openvino = import_openvino()
    opset = openvino.opset13
    images = opset.parameter([1, channels, -1, -1, -1], np.float32, name="images")
    # Both outputs look at the first channel alone.
    weights = np.zeros((2, channels, 1, 1, 1), np.float32)
    weights[:, 0] = 20.0
    bias = -20.0 * np.array([WHOLE_TUMOUR_FROM, CORE_FROM], np.float32).reshape(1, 2, 1, 1, 1)
    nothing = [0, 0, 0]
    mixed = opset.convolution(images, opset.constant(weights), [1, 1, 1], nothing, nothing, [1, 1, 1])
    logits = opset.add(mixed, opset.constant(bias))
    store(openvino.Model([logits], [images], "threshold"), {}, folder)
