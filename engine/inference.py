"""From a subject and a model to masks on the subject's own grid, with progress and cancel at every window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, combinations, product

import numpy as np

from engine.errors import MissingSequence
from engine.metrics import without_small_pieces
from engine.model_card import REGIONS, TUMOUR_CORE, WHOLE_TUMOUR, ModelCard
from engine.preprocessing import prepare
from engine.progress import Progress
from engine.runtime import Device, Network, open_network
from engine.sequences import require_orientation
from engine.volume import LARGEST_BRAIN_ML, FloatArray, Grid, LabelMap, Sequence, Subject, in_order, in_words

OVERLAP = 0.5
NO_TUMOUR = "No tumour was found."

Run = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a model found in a subject.

    Attributes:
        label_map: Gliascope's labels on the subject's own grid.
        probabilities: For ``"whole_tumour"`` and ``"tumour_core"``, ``(I, J, K)`` float32 on the same grid, before
            thresholds and removal of small pieces; calibrated where the model is.
        volumes_ml: Volume of the two regions in ml.
        intervals_ml: Where the true volume lies in 90 of 100 patients, in ml; ``None`` where that was never measured,
            and where nothing was found.
        card: The model.
        used: The sequences it looked at, in their fixed order.
        device: ``"CPU"`` or ``"CUDA"``.
        precision: ``"bf16"`` or ``"fp32"``.
        seconds: From the call to the masks.
        notes: Sentences the user should read: steps down the memory ladder, a skull that is still there, nothing found.
        edited_by_hand: How many corrections by hand the label map holds.
        fallbacks: Those of the notes that tell of a step down the memory ladder, or of a GPU that could not be used.
        made_at: When the model ran, UTC, as in ``"2026-11-24T02:15:03Z"``; empty where nobody knows.
    """

    label_map: LabelMap
    probabilities: dict[str, FloatArray]
    volumes_ml: dict[str, float]
    card: ModelCard
    used: tuple[Sequence, ...]
    device: str
    precision: str
    seconds: float
    intervals_ml: dict[str, tuple[float, float] | None] = field(default_factory=lambda: dict.fromkeys(REGIONS))
    notes: tuple[str, ...] = ()
    edited_by_hand: int = 0
    fallbacks: tuple[str, ...] = ()
    made_at: str = ""

    @property
    def edited_words(self) -> str:
        """What every output of a corrected mask says; empty where nobody corrected it."""
        if not self.edited_by_hand:
            return ""
        return f"Corrected by hand ({self.edited_by_hand} correction{'s' * (self.edited_by_hand > 1)})."


def segment(
    subject: Subject,
    card: ModelCard,
    progress: Progress = Progress(),
    device: Device = "auto",
    network: Network | None = None,
    use: Iterable[Sequence] | None = None,
) -> Segmentation:
    """Find the tumour.

    Args:
        subject: Must hold every sequence that is used; others are not looked at.
        card: The model, e.g. from `registry.choose`.
        progress: Told of every stage and every window; cancelling it stops before the next one.
        device: Where to run; see `runtime.open_network`.
        network: The model's network where it is already open; otherwise its files are checked and it is opened.
        use: The sequences to look at, e.g. from `registry.choose`; by default all that the model takes, or for a model
            for any subset those among them that the subject has. Nothing of the others enters the crop, the brain
            mask, the intensities or the network.

    Raises:
        MissingSequence: The subject lacks a sequence that is to be used.
        UnreadableImage: A sequence that is used does not say how the head lies in it.
        BadModel: The model's files are missing, changed or cannot be used.
        OutOfMemory: No rung of the memory ladder had room.
        Cancelled: `progress` was cancelled.
        ValueError: ``use`` is not a set of sequences that the model works with, or the open network another model's.
    """
    started = time.perf_counter()
    used = _sequences_to_use(subject, card, use)
    require_orientation(subject[sequence] for sequence in used)
    if network is not None and network.card != card:
        raise ValueError(f"the open network is {network.card.name}, not {card.name}")

    progress.update(0.0, "opening the model")
    network = network or open_network(card, device)
    progress.update(0.1, "preparing the images")
    channels = tuple(sequence for sequence in card.sequences if sequence in used)
    preparation = replace(card.preparation, sequences=channels)
    prepared = prepare(subject.only(channels), preparation, progress.part(0.1, 0.3))
    tensor = _in_channels(prepared.tensor, channels, card)
    logits = _run(network, tensor, progress.part(0.3, 0.7))
    progress.update(0.7, "bringing the result onto the scan's grid")
    calibration = card.calibrated(used)
    if calibration is not None:
        for region, channel in zip(card.regions, logits, strict=True):
            channel /= calibration[region].temperature
    maps = prepared.restore(_sigmoid(logits))
    probabilities = {region: maps[card.regions.index(region)] for region in REGIONS}
    progress.update(0.9, "outlining")
    label_map = to_label_map(probabilities, card, subject.grid)
    progress.update(1.0, "done")

    found = {WHOLE_TUMOUR: label_map.whole_tumour, TUMOUR_CORE: label_map.tumour_core}
    volumes_ml = {region: label_map.ml(mask) for region, mask in found.items()}
    intervals_ml = {
        region: calibration[region].interval_ml(ml) if calibration is not None else None
        for region, ml in volumes_ml.items()
    }
    return Segmentation(
        label_map=label_map,
        probabilities=probabilities,
        volumes_ml=volumes_ml,
        card=card,
        used=used,
        device=network.device,
        precision=network.precision,
        seconds=time.perf_counter() - started,
        intervals_ml=intervals_ml,
        notes=(
            *network.fallbacks,
            *_more_than_a_brain(np.count_nonzero(prepared.brain) * subject.grid.voxel_ml),
            *(() if volumes_ml[WHOLE_TUMOUR] else (NO_TUMOUR,)),
        ),
        fallbacks=tuple(network.fallbacks),
        made_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def to_label_map(probabilities: Mapping[str, FloatArray], card: ModelCard, grid: Grid) -> LabelMap:
    """Masks from probabilities: the card's thresholds, the core inside the whole tumour, no pieces too small.

    Args:
        probabilities: ``(I, J, K)`` float32 for each region, on ``grid``; calibrated where the card is, as its
            thresholds refer to those.
        card: Whose thresholds and smallest volumes to use.
        grid: Of the probabilities and the masks.
    """
    voxel_ml = grid.voxel_ml
    whole = probabilities[WHOLE_TUMOUR] >= card.threshold[WHOLE_TUMOUR]
    whole = without_small_pieces(whole, voxel_ml, card.minimum_ml[WHOLE_TUMOUR])
    core = (probabilities[TUMOUR_CORE] >= card.threshold[TUMOUR_CORE]) & whole
    core = without_small_pieces(core, voxel_ml, card.minimum_ml[TUMOUR_CORE])
    return LabelMap.of_regions(whole, core, grid)


def blend(
    tensor: FloatArray,
    window: tuple[int, int, int],
    run: Run,
    mirror_axes: tuple[int, ...] = (),
    progress: Progress = Progress(),
) -> FloatArray:
    """Run a network over an array in overlapping windows and blend what it says.

    Each window is also run mirrored along every combination of ``mirror_axes``. Windows count most in their middle,
    where the network has seen all of the surroundings.

    Args:
        tensor: ``(C, i, j, k)`` float32, at least as large as the window.
        window: Voxels ``(i, j, k)`` a run takes.
        run: From ``(C, *window)`` to ``(R, *window)``.
        mirror_axes: Among 0, 1 and 2.
        progress: Told before each run: ``"window 2 of 4"``.

    Returns:
        ``(R, i, j, k)`` float32.
    """
    places = window_places(tensor.shape[1:], window)
    flips = list(chain.from_iterable(combinations(mirror_axes, n) for n in range(len(mirror_axes) + 1)))
    importance = _importance(window)
    total: FloatArray | None = None
    weight = np.zeros(tensor.shape[1:], dtype=np.float32)
    for number, (place, flip) in enumerate(product(places, flips)):
        progress.update(number / (len(places) * len(flips)), f"window {number + 1} of {len(places) * len(flips)}")
        axes = tuple(axis + 1 for axis in flip)
        said = np.flip(run(np.flip(tensor[:, *place], axes)), axes)
        if total is None:
            total = np.zeros((len(said), *tensor.shape[1:]), dtype=np.float32)
        total[:, *place] += said * importance
        weight[place] += importance
    assert total is not None  # there is at least one window
    total /= weight
    return total


def window_places(
    shape: tuple[int, ...], window: tuple[int, int, int], overlap: float = OVERLAP
) -> list[tuple[slice, slice, slice]]:
    """Where to put windows so that they cover an array evenly and overlap at least so much.

    Args:
        shape: ``(i, j, k)`` of the array, each at least the window's.
        window: ``(i, j, k)`` of a window.
        overlap: Smallest fraction of a window shared with its neighbour.

    Raises:
        ValueError: The array is smaller than a window.
    """
    along = []
    for size, extent in zip(shape, window, strict=True):
        if size < extent:
            raise ValueError(f"an array of {shape} is smaller than a window of {window}")
        count = 1 + int(np.ceil((size - extent) / (extent * (1 - overlap))))
        starts = np.linspace(0, size - extent, count).round().astype(int)
        along.append([slice(int(start), int(start) + extent) for start in starts])
    return list(product(*along))


def _sequences_to_use(subject: Subject, card: ModelCard, use: Iterable[Sequence] | None) -> tuple[Sequence, ...]:
    if use is not None:
        used = in_order(use)
        if not used or card.usable(used) != used:
            raise ValueError(f"{card.name} does not work with {in_words(used) or 'nothing'}")
    else:
        used = card.usable(subject) or in_order(card.sequences)
    missing = [sequence for sequence in used if sequence not in subject]
    if missing:
        any_will_do = card.any_subset and use is None
        raise MissingSequence(
            f"The {card.title} cannot segment {subject.name}",
            f"it needs one of {in_words(missing)}" if any_will_do else f"it needs {in_words(missing)} too",
            "Add it, or use another model.",
        )
    return used


def _in_channels(tensor: FloatArray, channels: tuple[Sequence, ...], card: ModelCard) -> FloatArray:
    """``(C, i, j, k)`` as the network takes it: what was prepared in its channels, absent sequences zero."""
    if channels == card.sequences:
        return tensor
    whole = np.zeros((len(card.sequences), *tensor.shape[1:]), dtype=np.float32)
    whole[[card.sequences.index(sequence) for sequence in channels]] = tensor
    return whole


def _run(network: Network, tensor: FloatArray, progress: Progress) -> FloatArray:
    """Logits ``(R, i, j, k)``; down the memory ladder, and from the first window again, whenever memory runs out."""
    while True:
        with suppress(MemoryError):
            return blend(tensor, network.window, network.run, network.card.mirror_axes, progress)
        # Out here, since a caught exception keeps alive what it failed with.
        network.step_down()


def _more_than_a_brain(signal_ml: float) -> tuple[str, ...]:
    if signal_ml <= LARGEST_BRAIN_ML:
        return ()
    return (
        f"The scans show more than a brain ({signal_ml:,.0f} ml hold signal). The models know scans without the skull "
        "only: remove it first, and do not trust this result.",
    )


def _importance(window: tuple[int, int, int]) -> FloatArray:
    """How much each voxel of a window counts, ``(i, j, k)`` float32: a Gaussian of an eighth of the window."""
    bells = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    bell = bells[0][:, None, None] * bells[1][:, None] * bells[2]
    # Corners would fall to nothing and divide by it.
    importance: FloatArray = np.maximum(bell, 1e-4).astype(np.float32)
    return importance


def _sigmoid(logits: FloatArray) -> FloatArray:
    half = np.float32(0.5)
    probabilities: FloatArray = half * np.tanh(half * logits) + half  # the same function, and it cannot overflow
    return probabilities
