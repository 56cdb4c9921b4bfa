"""How well a segmentation agrees with the truth: Dice, HD95, volumes and lesion counts.

The rule for empty regions, the same everywhere in Gliascope (and that of the BraTS challenges):

    truth    prediction    Dice    HD95
    empty    empty         1       0 mm
    empty    something     0       the diagonal of the image
    something empty        0       the diagonal of the image

HD95 is the larger of the two directed 95th percentiles of surface distances, in mm, surfaces being the voxels of a
region that touch its outside through a face. 240 x 240 x 155 voxels of 1 mm have a diagonal of 373.13 mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from engine.errors import GridMismatch
from engine.model_card import TUMOUR_CORE, WHOLE_TUMOUR
from engine.volume import Box, LabelMap, Mask, bounding_box

# Pieces that touch at a corner are one lesion, as ITK-SNAP and the BraTS lesion-wise scores count them.
# cc3d 4.1.1 fails on bool masks one voxel thick with several pieces, and miscounts parts of larger arrays that are; so
# it gets a copy in bytes wherever the engine counts pieces.
_CONNECTIVITY = 26


@dataclass(frozen=True)
class RegionScore:
    """How well one region was found in one case.

    Attributes:
        dice: 0..1.
        hd95_mm: 95th percentile Hausdorff distance in mm.
        volume_ml: Of the prediction.
        truth_ml: Of the truth.
    """

    dice: float
    hd95_mm: float
    volume_ml: float
    truth_ml: float


def score(prediction: LabelMap, truth: LabelMap) -> dict[str, RegionScore]:
    """Compare a segmentation with the truth, region by region.

    Args:
        prediction: In Gliascope's labels.
        truth: In Gliascope's labels, on the same grid.

    Returns:
        ``"whole_tumour"`` and ``"tumour_core"``.

    Raises:
        GridMismatch: The two do not lie on one grid.
    """
    if not prediction.grid.same_as(truth.grid):
        found = prediction.source.name if prediction.source else "The segmentation"
        expected = truth.source.name if truth.source else "the truth"
        raise GridMismatch(
            f"{found} does not lie on the grid of {expected}", "", "Compare masks that were made on the same scan."
        )
    spacing = truth.grid.spacing
    regions = {
        WHOLE_TUMOUR: (prediction.whole_tumour, truth.whole_tumour),
        TUMOUR_CORE: (prediction.tumour_core, truth.tumour_core),
    }
    return {
        region: RegionScore(dice(a, b), hd95_mm(a, b, spacing), prediction.ml(a), truth.ml(b))
        for region, (a, b) in regions.items()
    }


def dice(a: Mask, b: Mask) -> float:
    """Dice of two masks ``(I, J, K)``: twice the overlap by the sum of both; 1 where both are empty."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2.0 * int(np.count_nonzero(a & b)) / total if total else 1.0


def hd95_mm(a: Mask, b: Mask, spacing: tuple[float, float, float]) -> float:
    """95th percentile Hausdorff distance of two masks, in mm.

    Args:
        a: ``(I, J, K)`` bool.
        b: ``(I, J, K)`` bool.
        spacing: Voxel size along each array axis, in mm.

    Returns:
        The larger of both directions; see the top of this module for empty masks.
    """
    box_a, box_b = bounding_box(a), bounding_box(b)
    if box_a is None and box_b is None:
        return 0.0
    if box_a is None or box_b is None:
        return float(np.linalg.norm(np.array(a.shape) * np.array(spacing)))
    from scipy.spatial import KDTree  # 0.2 s that only a comparison with the truth is worth

    points_a, points_b = (_surface(mask, box) * np.array(spacing) for mask, box in ((a, box_a), (b, box_b)))
    # Trees of surface points, not distance maps: twenty times quicker here, and they let other threads run.
    there, _ = KDTree(points_b).query(points_a)
    back, _ = KDTree(points_a).query(points_b)
    return max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))


def lesion_count(mask: Mask) -> int:
    """Number of connected pieces of a mask ``(I, J, K)``; pieces that touch at a corner are one."""
    box = bounding_box(mask)
    if box is None:
        return 0
    _, count = cc3d.connected_components(mask[box].astype(np.uint8), connectivity=_CONNECTIVITY, return_N=True)
    return int(count)


def lesions(labels: LabelMap) -> list[tuple[float, NDArray[np.float64]]]:
    """The connected pieces of the whole tumour, the largest first.

    Returns:
        Of each its volume in ml and the world position ``(3,)`` in mm of the voxel within it nearest to its middle.
    """
    box = bounding_box(labels.whole_tumour)
    if box is None:
        return []
    pieces, count = cc3d.connected_components(
        (labels.data[box] > 0).astype(np.uint8), connectivity=_CONNECTIVITY, return_N=True
    )
    corner = np.array([axis.start for axis in box])
    found = []
    for number in range(1, count + 1):
        voxels = np.argwhere(pieces == number)
        middle = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
        found.append((len(voxels) * labels.grid.voxel_ml, labels.grid.to_world((middle + corner)[None])[0]))
    return sorted(found, key=lambda lesion: -lesion[0])


def without_small_pieces(mask: Mask, voxel_ml: float, minimum_ml: float) -> Mask:
    """A mask without its connected pieces below a volume.

    Args:
        mask: ``(I, J, K)`` bool; left as it is.
        voxel_ml: Volume of one voxel.
        minimum_ml: Smallest volume kept, in ml.

    Returns:
        ``(I, J, K)`` bool; the same array where there is nothing to remove.
    """
    box = bounding_box(mask)
    if box is None or minimum_ml <= 0:
        return mask
    pieces, count = cc3d.connected_components(mask[box].astype(np.uint8), connectivity=_CONNECTIVITY, return_N=True)
    sizes = np.bincount(pieces.reshape(-1, order="A"), minlength=count + 1)
    keep = sizes * voxel_ml >= minimum_ml
    keep[0] = False
    if keep[1:].all():
        return mask
    cleaned = np.zeros_like(mask)
    cleaned[box] = keep[pieces]
    return cleaned


def _surface(mask: Mask, box: Box) -> NDArray[np.float64]:
    """Indices ``(N, 3)`` of the voxels of a mask that have a face neighbour outside it."""
    padded = np.pad(mask[box], 1)
    inside = padded[1:-1, 1:-1, 1:-1]
    core = inside.copy()
    for axis in range(3):
        for shift in (0, 2):
            neighbours = [slice(1, -1)] * 3
            neighbours[axis] = slice(shift, padded.shape[axis] - 2 + shift)
            core &= padded[tuple(neighbours)]
    corner = np.array([axis.start for axis in box])
    points: NDArray[np.float64] = (np.argwhere(inside & ~core) + corner).astype(np.float64)
    return points
