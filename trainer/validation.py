"""What a training is scored on while it runs: full images, in the window that inference would give the network.

Instance normalisation looks at the empty space around the head too, so a network scored in a larger array than it will
be used in gets another score than it deserves.

Previews are written beside the scores, so that one can watch the network learn:

- ``previews/cases.npz``, once: ``names (P,)``, ``sequences (C,)``, ``images`` float16 ``(P, C, i, j, k)``, normalised,
  zero outside the brain, every sequence that all of these patients have; ``truth`` uint8 label map ``(P, i, j, k)``;
  ``spacing_mm``. Axes run to the patient's right, front and head. The array is that of the prepared case, the same for
  every run of a study, so teacher, baseline and student can be laid over each other.
- ``previews/000500.npz``, at each score: ``labels`` uint8 label map ``(P, i, j, k)`` of the same arrays, and ``dice``
  ``(P, 2)`` of whole tumour and core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import metrics, networks
from engine.errors import OutOfMemory
from engine.files import whole_file
from engine.model_card import REGIONS
from engine.preprocessing import SIZE_STEP
from engine.progress import Progress
from engine.volume import Sequence, bounding_box
from trainer.config import TrainConfig
from trainer.dataset import Case
from trainer.distillation import outline

PREVIEWS = "previews"
PREVIEW_CASES = "cases.npz"
PROBABILITY = 0.5

Place = tuple[tuple[int, int, int], tuple[int, int, int]]
"""First voxel of a window in a prepared case, which may lie outside, and the window's size."""


@dataclass(frozen=True, eq=False)
class Scores:
    """How well some weights did.

    Attributes:
        dice: ``(N, 2)`` of each case, whole tumour and core.
        labels: Label maps of the cases that are shown.
    """

    dice: np.ndarray
    labels: list[np.ndarray]

    def mean(self) -> dict[str, float]:
        """Mean Dice by region."""
        return dict(zip(REGIONS, self.dice.mean(axis=0).tolist(), strict=True))


class Validation:
    """The validation cases of a training.

    Args:
        config: Sequences, window and number of previews.
        cases: Prepared; at least one.
        folder: The run folder, which receives the previews.
        device: Where to work.

    Raises:
        UserError: A case lacks a sequence, and the network is not one for any subset.
    """

    def __init__(self, config: TrainConfig, cases: list[Case], folder: Path, device: torch.device) -> None:
        self._network = networks.build(*config.network()).to(device).eval()
        self._device = device
        self._folder = folder / PREVIEWS
        # A network for any subset is scored with what is there, the rest is absent as it would be in use.
        any_subset = config.sequence_dropout > 0
        self._places: list[Place] = []
        self._images: list[np.ndarray] = []
        for case in cases:
            given = tuple(s for s in config.sequences if s in case.sequences or not any_subset)
            self._places.append(place(case, given, config.window))
            images = np.zeros((len(config.sequences), *self._places[-1][1]), case.images.dtype)
            images[[config.sequences.index(s) for s in given]] = cut(
                case.images[case.channels(given)], self._places[-1]
            )
            self._images.append(images)
        self._truths = [case.truth for case in cases]
        self._shown = typical(cases, config.previews)
        if self._shown:
            self._show_cases([cases[number] for number in self._shown], config.spacing_mm)

    def __len__(self) -> int:
        """The number of cases."""
        return len(self._images)

    def score(self, weights: Mapping[str, torch.Tensor], progress: Progress, warn: Callable[[str], None]) -> Scores:
        """Score some weights on every case.

        Args:
            weights: Of the network.
            progress: Checked at each case.
            warn: Told in words where memory runs out and the processor takes over.

        Raises:
            OutOfMemory: There is too little memory even on the processor.
        """
        self._network.load_state_dict(weights)
        dice = np.zeros((len(self), len(REGIONS)))
        labels: dict[int, np.ndarray] = {}
        for number, (images, truth) in enumerate(zip(self._images, self._truths, strict=True)):
            progress.check()
            window = self._outline(images, warn)
            probabilities = put_back(window, self._places[number], truth.shape[1:])
            found = probabilities > PROBABILITY
            dice[number] = [metrics.dice(mask, wanted > 0.5) for mask, wanted in zip(found, truth, strict=True)]
            if number in self._shown:
                labels[number] = label_map(found)
        return Scores(dice, [labels[number] for number in self._shown])

    def show(self, scores: Scores, step: int) -> Path | None:
        """Write the previews of a step.

        Returns:
            The file; ``None`` where no case is shown.

        Raises:
            CannotWrite: The system refused.
        """
        if not self._shown:
            return None
        path = self._folder / f"{step:06d}.npz"
        _save(path, labels=_stack(scores.labels), dice=scores.dice[list(self._shown)])
        return path

    def _outline(self, images: np.ndarray, warn: Callable[[str], None]) -> np.ndarray:
        try:
            return outline(self._network, images, self._device)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            if self._device.type == "cpu":
                what = "There is too little memory to score a validation patient"
                raise OutOfMemory(what, "", "Close other programs, then start again; the training goes on.") from error
        self._device = torch.device("cpu")
        self._network.to(self._device)
        warn("The graphics card's memory does not hold a whole image; validation patients are scored on the processor.")
        return self._outline(images, warn)

    def _show_cases(self, cases: list[Case], spacing_mm: float) -> None:
        path = self._folder / PREVIEW_CASES
        if path.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        held = [sequence for sequence in Sequence if all(sequence in case.sequences for case in cases)]
        _save(
            path,
            names=np.array([case.name for case in cases]),
            sequences=np.array(held),
            images=_stack([case.images[case.channels(held)] for case in cases]),
            truth=_stack([label_map(case.truth > 0.5) for case in cases]),
            spacing_mm=np.array(spacing_mm),
        )


def place(case: Case, sequences: tuple[Sequence, ...], window: tuple[int, int, int]) -> Place:
    """Where the window lies in which inference would look at a case, given these sequences alone.

    `engine.preprocessing.prepare` centres it on the brain and enlarges it in steps where the brain is larger. It sees
    the scan, this the prepared array, into which the brain's edge reaches half a voxel farther on either side.
    """
    box = bounding_box((case.images[case.channels(sequences)] != 0).any(axis=0))
    first, size = [], []
    for axis, n in enumerate(window):
        start, stop = (0, case.truth.shape[axis + 1]) if box is None else (box[axis].start, box[axis].stop)
        needed = int(np.ceil((stop - start - 1) / SIZE_STEP)) * SIZE_STEP
        size.append(max(n, needed))
        first.append((start + stop - size[-1]) // 2)
    return (first[0], first[1], first[2]), (size[0], size[1], size[2])


def cut(maps: np.ndarray, where: Place) -> np.ndarray:
    """The window ``(C, *size)`` of ``maps (C, i, j, k)``, zero where it reaches beyond."""
    return _moved(maps, where[0], where[1])


def put_back(window: np.ndarray, where: Place, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `cut`: ``(C, *shape)``, zero outside the window."""
    return _moved(window, tuple(-n for n in where[0]), shape)


def _moved(maps: np.ndarray, first: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    result = np.zeros((len(maps), *shape), maps.dtype)
    source, target = [slice(None)], [slice(None)]
    for start, held, wanted in zip(first, maps.shape[1:], shape, strict=True):
        source.append(slice(max(0, start), max(0, min(held, start + wanted))))
        target.append(slice(max(0, -start), max(0, min(wanted, held - start))))
    result[tuple(target)] = maps[tuple(source)]
    return result


def typical(cases: list[Case], count: int) -> tuple[int, ...]:
    """Which cases to show: those with tumours nearest to the median in size, the same for every run."""
    sizes = [float(case.truth[0].sum(dtype=np.float64)) for case in cases]
    middle = float(np.median(sizes)) if sizes else 0.0
    ranked = sorted(range(len(cases)), key=lambda number: (abs(sizes[number] - middle), cases[number].name))
    return tuple(sorted(ranked[:count]))


def label_map(regions: np.ndarray) -> np.ndarray:
    """``(2, i, j, k)`` bool, whole tumour and core, as labels ``(i, j, k)``: 1 core, 2 rest of the whole tumour."""
    whole, core = regions
    return np.where(core, 1, np.where(whole, 2, 0)).astype(np.uint8)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, of the machine or of a graphics card."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower()
    phrases = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "bad_alloc")
    return isinstance(error, RuntimeError) and any(phrase in said for phrase in phrases)


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    """One array of all, those that are smaller filled up with zeros at their ends."""
    shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
    return np.stack([np.pad(array, [(0, n - m) for n, m in zip(shape, array.shape, strict=True)]) for array in arrays])


def _save(path: Path, **arrays: Any) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
