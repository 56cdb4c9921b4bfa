"""A finished run, scored on patients it has not seen, as the app would segment them.

``python -m trainer.scoring RUN --data COHORT --recipe NAME --fold K`` is the worker process: one row a patient, cohort,
set of sequences, region and threshold in ``RUN/scores.csv``, and beside it how often voxels of a predicted logit were
tumour, for calibration. Real patients go through the engine itself on their own grid: read, cut, normalised, segmented
and restored. They are scored a second time as another hospital would have scanned them (`trainer.shift`). Simulated
patients are scored on the network's grid, each by the networks of one fold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine import inference, metrics, nifti
from engine.errors import UserError
from engine.files import whole_file
from engine.metrics import RegionScore
from engine.model_card import REGIONS, ModelCard
from engine.progress import Progress
from engine.runtime import Network, open_network
from engine.volume import SUBSETS, FloatArray, Grid, LabelMap, Sequence, Subject, joined
from trainer import checkpoint, run
from trainer.comparison import REAL, SHIFTED, SIMULATED, Row, write_rows
from trainer.config import TrainConfig
from trainer.patients import Patients
from trainer.shift import shift
from trainer.study import MASKS, SCORES, mask_path

if TYPE_CHECKING:
    from torch import nn

THRESHOLDS = (0.2, 0.3, 0.4, 0.5)
CALIBRATION = "calibration.npz"
# Logits further out are certain enough.
LOGIT_EDGES = np.linspace(-12.0, 12.0, 97)


@dataclass(frozen=True)
class Wanted:
    """What to score a run on.

    Attributes:
        recipe: What the rows are filed under.
        fold: The same; also which of the simulated patients are this run's.
        folds: Number of folds.
        data: The cohort: whatever `trainer.patients.Patients.read` takes.
        simulated: Folder of simulated patients that no network learnt from; ``None`` for none.
        shifted: Whether real patients are scored as from another hospital too.
    """

    recipe: str
    fold: int
    folds: int
    data: Path
    simulated: Path | None
    shifted: bool


def score(folder: Path, wanted: Wanted, progress: Progress) -> None:
    """Score a finished run and write ``scores.csv`` and ``calibration.npz`` into its folder, and what it found.

    Args:
        folder: The run folder.
        wanted: On what.
        progress: Checked at each patient.

    Raises:
        UserError: The run is not finished, or a patient cannot be read.
        Cancelled: Asked to stop; nothing was written.
    """
    network, config = checkpoint.load_network(folder)
    patients = Patients.read(wanted.data)
    chosen = [config.sequences]
    if config.sequence_dropout > 0:
        chosen = [subset for subset in SUBSETS if set(subset) <= set(config.sequences)]
    (folder / MASKS).mkdir(exist_ok=True)
    rows: list[Row] = []
    counts = np.zeros((len(config.validation_cases), len(chosen), len(REGIONS), 2, len(LOGIT_EDGES) - 1), np.int64)
    with tempfile.TemporaryDirectory() as temporary:
        card = checkpoint.export(folder, Path(temporary) / "scored", "scored", "0", "", "", ())
        opened = open_network(card, "auto")
        for number, name in enumerate(config.validation_cases):
            progress.update(number / len(config.validation_cases), f"scoring {name}")
            patient = patients.named(name)
            subject = patient.read(progress)
            truth = patient.read_truth(subject)
            cohorts = [(REAL, subject, truth)]
            if wanted.shifted:
                cohorts.append((SHIFTED, *shift(subject, truth, seed=number + 1000 * wanted.fold)))
            for cohort, images, labels in cohorts:
                for place, used in enumerate(chosen):
                    if not patient.has(used):
                        continue
                    keep = cohort == REAL and used == config.sequences
                    found, histogram = _score_real(
                        images, labels, used, card, opened, (folder, name) if keep else None, progress
                    )
                    rows += [_row(config, wanted, cohort, used, name, *one) for one in found]
                    if cohort == REAL:
                        counts[number, place] = histogram
    if wanted.simulated is not None:
        for name, used, one in _score_simulated(network, config, card, chosen, wanted, progress):
            rows.append(_row(config, wanted, SIMULATED, used, name, *one))
    with whole_file(folder / CALIBRATION) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            edges=LOGIT_EDGES,
            counts=counts,
            cases=np.array(config.validation_cases),
            sequences=np.array([joined(used) for used in chosen]),
        )
    # Last: a run with this file is scored.
    write_rows(folder / SCORES, rows)


Measured = tuple[str, float, RegionScore]
"""Region, threshold, and how well it was found."""


def _score_real(
    subject: Subject,
    truth: LabelMap,
    used: tuple[Sequence, ...],
    card: ModelCard,
    network: Network,
    kept: tuple[Path, str] | None,
    progress: Progress,
) -> tuple[list[Measured], np.ndarray]:
    """The measures of one patient, and ``(regions, 2, bins)``: voxels in the brain, and those of them in the truth.

    ``kept`` gives the run's folder and the patient's name where the masks are to be kept.
    """
    result = inference.segment(subject, card, progress.part(0, 1), network=network, use=used)
    measured = list(_at_every_threshold(result.probabilities, card, truth, kept))
    histogram = np.zeros((len(REGIONS), 2, len(LOGIT_EDGES) - 1), np.int64)
    for place, (region, mask) in enumerate(zip(REGIONS, (truth.whole_tumour, truth.tumour_core), strict=True)):
        probability = result.probabilities[region]
        inside = probability > 0  # `Prepared.restore` leaves nought outside the brain, and a network never says nought
        clipped = np.clip(probability[inside], 1e-7, 1 - 1e-7)
        logits = np.clip(np.log(clipped / (1 - clipped)), LOGIT_EDGES[0], LOGIT_EDGES[-1])
        histogram[place, 0] = np.histogram(logits, LOGIT_EDGES)[0]
        histogram[place, 1] = np.histogram(logits[mask[inside]], LOGIT_EDGES)[0]
    return measured, histogram


def _score_simulated(
    network: nn.Module,
    config: TrainConfig,
    card: ModelCard,
    chosen: list[tuple[Sequence, ...]],
    wanted: Wanted,
    progress: Progress,
) -> Iterator[tuple[str, tuple[Sequence, ...], Measured]]:
    import torch

    from trainer.distillation import outline

    assert wanted.simulated is not None
    patients = sorted(wanted.simulated.glob("*.npy"))
    if not patients:
        raise UserError(f"The folder {wanted.simulated} holds no simulated patient", "", "Simulate some first.")
    own = patients[wanted.fold :: wanted.folds]
    spacing = np.diag([config.spacing_mm] * 3 + [1.0])
    for number, path in enumerate(own):
        progress.update(number / len(own), f"scoring {path.stem}")
        stored = np.load(path)
        whole, core = stored[-2:] > 0.5
        truth = LabelMap.of_regions(whole, core, Grid(whole.shape, spacing))
        for used in chosen:
            images = stored[[list(Sequence).index(sequence) for sequence in config.sequences]].astype(np.float32)
            for channel, sequence in enumerate(config.sequences):
                if sequence not in used:
                    images[channel] = 0
            said = dict(zip(REGIONS, outline(network, images, torch.device("cpu")), strict=True))
            for measured in _at_every_threshold(said, card, truth):
                yield path.stem, used, measured


def _at_every_threshold(
    probabilities: Mapping[str, FloatArray],
    card: ModelCard,
    truth: LabelMap,
    kept: tuple[Path, str] | None = None,
) -> Iterator[Measured]:
    for threshold in THRESHOLDS:
        at = replace(card, threshold=dict.fromkeys(REGIONS, threshold))
        found = inference.to_label_map(probabilities, at, truth.grid)
        if kept is not None:
            nifti.write_label_map(found, mask_path(*kept, threshold))
        for region, one in metrics.score(found, truth).items():
            yield region, threshold, one


def _row(
    config: TrainConfig,
    wanted: Wanted,
    cohort: str,
    used: tuple[Sequence, ...],
    case: str,
    region: str,
    threshold: float,
    measured: RegionScore,
) -> Row:
    return Row(
        recipe=wanted.recipe,
        sequences=joined(used),
        fold=wanted.fold,
        seed=config.seed,
        cohort=cohort,
        case=case,
        region=region,
        threshold=threshold,
        dice=round(measured.dice, 4),
        hd95_mm=round(measured.hd95_mm, 2),
        truth_ml=round(measured.truth_ml, 3),
        found_ml=round(measured.volume_ml, 3),
    )


def main(arguments: list[str]) -> int:
    """Score from the command line; see `run.serve` for what is printed and returned."""
    parser = argparse.ArgumentParser(prog="python -m trainer.scoring")
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--folds", type=int, required=True)
    parser.add_argument("--simulated", type=Path)
    parser.add_argument("--shifted", action="store_true")
    read = parser.parse_args(arguments)
    wanted = Wanted(read.recipe, read.fold, read.folds, read.data, read.simulated, read.shifted)
    return run.serve(lambda _, progress: score(read.run, wanted, progress))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
