"""Places in a result that are worth a look before it is trusted, in words.

Only what can be seen from the result itself: where the network was unsure, where the mask runs into the edge of the
brain, pieces apart from the main one, and where another result disagrees. A list without entries says nothing about
the rest of the mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import cc3d
import numpy as np
from numpy.typing import NDArray

from engine.model_card import TUMOUR_CORE, WHOLE_TUMOUR
from engine.volume import LARGEST_BRAIN_ML, Box, FloatArray, Grid, LabelMap, Mask, Volume, bounding_box

# Between these a probability is called unsure.
UNSURE = (0.2, 0.8)
# Every outline has an unsure rim; only what is thicker than twice this is a place of its own.
RIM_MM = 2.0
SMALLEST_ML = 0.3
SMALLEST_EDGE_CM2 = 1.0
MOST_OF_A_KIND = 5


class Kind(Enum):
    """Why a place is worth a look."""

    EDGE = "brain edge"
    UNSURE = "low confidence"
    ISLAND = "island"
    DISAGREEMENT = "disagreement"


@dataclass(frozen=True, eq=False)
class Finding:
    """One place.

    Attributes:
        kind: Why.
        words: The same as a sentence without its full stop.
        place: World position ``(3,)`` in mm, RAS+, within it.
        amount: ml, or for the brain edge cm².
    """

    kind: Kind
    words: str
    place: NDArray[np.float64]
    amount: float


def find(
    labels: LabelMap,
    probabilities: Mapping[str, FloatArray],
    volumes: Iterable[Volume],
    other: LabelMap | None = None,
    names: tuple[str, str] = ("this result", "the other"),
) -> tuple[Finding, ...]:
    """Look for places worth a look, largest first within each kind.

    Args:
        labels: The result, in Gliascope's labels.
        probabilities: For ``"whole_tumour"`` and ``"tumour_core"``, ``(I, J, K)`` on the same grid; may be empty.
        volumes: The scans; those on another grid are not looked at.
        other: A result to compare with; one on another grid is not looked at.
        names: What both results are called.
    """
    grid = labels.grid
    found = _at_the_edge(labels, [v for v in volumes if v.grid.same_as(grid)])
    found += _unsure(labels, probabilities)
    found += _islands(labels)
    if other is not None and other.grid.same_as(grid):
        found += disagreements(labels, other, names)
    return tuple(found)


def disagreement_ml(first: LabelMap, second: LabelMap) -> dict[str, float]:
    """How many ml two results on one grid call differently, of ``"whole_tumour"`` and of ``"tumour_core"``."""
    return {
        WHOLE_TUMOUR: first.ml(first.whole_tumour != second.whole_tumour),
        TUMOUR_CORE: first.ml(first.tumour_core != second.tumour_core),
    }


def disagreements(first: LabelMap, second: LabelMap, names: tuple[str, str]) -> list[Finding]:
    """Where two results on one grid differ by more than a rim."""
    found = []
    for region, a, b in (
        ("tumour", first.whole_tumour, second.whole_tumour),
        ("core", first.tumour_core, second.tumour_core),
    ):
        for name, only in ((names[0], a & ~b), (names[1], b & ~a)):
            for ml, place in _thick_places(only, first.grid, RIM_MM / 2):
                found.append(Finding(Kind.DISAGREEMENT, f"{ml:.1f} ml that only {name} calls {region}", place, ml))
    return sorted(found, key=lambda f: -f.amount)[:MOST_OF_A_KIND]


def _unsure(labels: LabelMap, probabilities: Mapping[str, FloatArray]) -> list[Finding]:
    found = []
    for region, title in ((WHOLE_TUMOUR, "the whole tumour"), (TUMOUR_CORE, "the core")):
        if region in probabilities:
            chance = probabilities[region]
            band = (chance > UNSURE[0]) & (chance < UNSURE[1])
            for ml, place in _thick_places(band, labels.grid, RIM_MM):
                found.append(Finding(Kind.UNSURE, f"{ml:.1f} ml where {title} is unsure", place, ml))
    return sorted(found, key=lambda f: -f.amount)[:MOST_OF_A_KIND]


def _islands(labels: LabelMap) -> list[Finding]:
    whole = labels.whole_tumour
    box = bounding_box(whole)
    if box is None:
        return []
    pieces, count = cc3d.connected_components(whole[box].astype(np.uint8), connectivity=26, return_N=True)
    if count < 2:
        return []
    from scipy.ndimage import distance_transform_edt

    sizes = np.bincount(pieces.reshape(-1, order="A"), minlength=count + 1) * labels.grid.voxel_ml
    sizes[0] = 0
    main = int(sizes.argmax())
    away = distance_transform_edt(pieces != main, sampling=labels.grid.spacing)
    found = []
    for number in np.argsort(-sizes)[1 : MOST_OF_A_KIND + 1]:
        if sizes[number] > 0:
            inside = pieces == number
            far, ml = float(away[inside].min()), float(sizes[number])
            size = f"{ml:.1f} ml" if ml >= 0.1 else "less than 0.1 ml"
            words = f"An island of {size}, {far:.0f} mm from the main tumour"
            found.append(Finding(Kind.ISLAND, words, _middle(inside, box, labels.grid), ml))
    return found


def _at_the_edge(labels: LabelMap, volumes: list[Volume]) -> list[Finding]:
    whole = labels.whole_tumour
    box = bounding_box(whole)
    if box is None or not volumes:
        return []
    roomy = _grown(box, 3, whole.shape)
    signal_ml = max(np.count_nonzero(v.data > v.data.min()) for v in volumes) * labels.grid.voxel_ml
    if signal_ml > LARGEST_BRAIN_ML:
        return []
    brain = np.zeros(tuple(part.stop - part.start for part in roomy), bool)
    for volume in volumes:
        brain |= volume.data[roomy] > volume.data.min()
    outside = _open_to_the_rim(~brain)
    inside = whole[roomy]
    touching, area = np.zeros_like(inside), 0.0
    spacing = labels.grid.spacing
    for axis in range(3):
        face = np.prod([spacing[other] for other in range(3) if other != axis])
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        for here, there in ((ahead, behind), (behind, ahead)):
            meets = inside[here] & outside[there]
            touching[here] |= meets
            area += float(np.count_nonzero(meets)) * float(face)
    area_cm2 = area / 100
    if area_cm2 < SMALLEST_EDGE_CM2:
        return []
    patches, _ = cc3d.connected_components(touching.astype(np.uint8), connectivity=26, return_N=True)
    sizes = np.bincount(patches.reshape(-1, order="A"))
    sizes[0] = 0
    place = _middle(patches == int(sizes.argmax()), roomy, labels.grid)
    return [Finding(Kind.EDGE, f"Touches the edge of the brain over {area_cm2:.1f} cm²", place, area_cm2)]


def _open_to_the_rim(empty: Mask) -> Mask:
    """Without the hollows that lie wholly inside, such as ventricles that a scan shows black."""
    pieces, count = cc3d.connected_components(empty.astype(np.uint8), connectivity=6, return_N=True)
    keep = np.zeros(count + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            keep[np.unique(np.take(pieces, end, axis=axis))] = True
    keep[0] = False
    opened: Mask = keep[pieces]
    return opened


def _thick_places(mask: Mask, grid: Grid, rim_mm: float) -> list[tuple[float, NDArray[np.float64]]]:
    """Connected places thicker than twice ``rim_mm``, as ml and a position; the largest first."""
    box = bounding_box(mask)
    if box is None:
        return []
    from scipy.ndimage import distance_transform_edt

    part = np.pad(mask[box], 1)
    deep = distance_transform_edt(part, sampling=grid.spacing) > rim_mm
    hearts, count = cc3d.connected_components(deep.astype(np.uint8), connectivity=26, return_N=True)
    if not count:
        return []
    # Each voxel belongs to the heart nearest to it, if that is no further than the rim is thick.
    away, nearest = distance_transform_edt(~deep, sampling=grid.spacing, return_indices=True)
    owners = np.where(part & (away <= 1.5 * rim_mm), hearts[tuple(nearest)], 0)
    sizes = np.bincount(owners.reshape(-1, order="A"), minlength=count + 1) * grid.voxel_ml
    sizes[0] = 0
    found = []
    for number in np.argsort(-sizes)[:MOST_OF_A_KIND]:
        if sizes[number] >= SMALLEST_ML:
            inside = (hearts == number)[1:-1, 1:-1, 1:-1]
            found.append((float(sizes[number]), _middle(inside, box, grid)))
    return found


def _middle(mask: Mask, box: Box, grid: Grid) -> NDArray[np.float64]:
    """The world position of the voxel of a mask, within a box of the grid, that is nearest to the mask's middle."""
    voxels = np.argwhere(mask)
    nearest = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
    corner = np.array([part.start for part in box])
    place: NDArray[np.float64] = grid.to_world((nearest + corner)[None])[0]
    return place


def _grown(box: Box, by: int, shape: tuple[int, ...]) -> Box:
    i, j, k = (slice(max(0, p.start - by), min(n, p.stop + by)) for p, n in zip(box, shape, strict=True))
    return i, j, k
