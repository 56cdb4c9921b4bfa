"""Made-up patients of life size, coarse enough to be quick: brains that differ, with a tumour and its truth.

Grey and white matter and fluid are told apart by a random smooth field, so no two seeds give the same brain; each
sequence shows them as bright as it usually does.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.volume import Grid, Sequence, Volume
from tests.engine import phantoms

SHAPE = (60, 72, 60)
SPACING = (3.0, 3.0, 3.0)
# Fluid, grey matter, white matter, oedema, necrosis, enhancing rim.
_BRIGHTNESS = {
    Sequence.T1: (20, 70, 100, 72, 55, 78),
    Sequence.T1CE: (22, 72, 98, 72, 55, 190),
    Sequence.T2: (210, 95, 70, 150, 170, 140),
    Sequence.FLAIR: (15, 78, 62, 150, 110, 140),
}
_OEDEMA, _NECROSIS, _RIM = 3, 4, 5


def grid(orientation: str = "LPS") -> Grid:
    """Room for a whole head."""
    return phantoms.grid(orientation, SHAPE, SPACING)


def labels(seed: int, on: Grid) -> NDArray[np.uint8]:
    """The truth in the labels of BraTS 2018, on the patient's right for even seeds and on the left for odd ones."""
    tissue = _tissue(seed, on)
    truth = np.zeros(on.shape, np.uint8)
    for kind, label in ((_OEDEMA, 2), (_NECROSIS, 1), (_RIM, 4)):
        truth[tissue == kind] = label
    return truth


def image(seed: int, sequence: Sequence, on: Grid) -> Volume:
    """One image, 0 outside the brain."""
    tissue = _tissue(seed, on)
    values = np.array([0, *_BRIGHTNESS[sequence]], np.float32)[tissue.astype(int) + 1]
    noise = np.random.default_rng([seed, list(Sequence).index(sequence)]).normal(0, 5, on.shape)
    values = ndimage.gaussian_filter(values, 0.6) + ndimage.gaussian_filter(noise, 0.6)
    return Volume(np.where(tissue >= 0, np.maximum(values, 1), 0).astype(np.float32), on, sequence)


def write(folder: Path, seed: int, on: Grid | None = None) -> Path:
    """Write a patient in the layout of BraTS; the folder's name is the patient's."""
    on = on or grid()
    for sequence in Sequence:
        phantoms.write_volume(folder / f"{folder.name}_{sequence}.nii.gz", image(seed, sequence, on))
    phantoms.write(folder / f"{folder.name}_seg.nii.gz", labels(seed, on), np.array(on.affine))
    return folder


def _tissue(seed: int, on: Grid) -> NDArray[np.int8]:
    """-1 outside the brain, else 0 for fluid and so on, as in the table of brightness."""
    at = (grid("RAS").to_voxel(on.to_world(np.indices(on.shape).reshape(3, -1).T))).T
    i, j, k = np.rint(at).astype(int)
    within = np.logical_and.reduce([(n >= 0) & (n < size) for n, size in zip((i, j, k), SHAPE, strict=True)])
    tissue = np.full(i.shape, -1, np.int8)
    tissue[within] = _made(seed)[i[within], j[within], k[within]]
    return tissue.reshape(on.shape)


@lru_cache(maxsize=16)
def _made(seed: int) -> NDArray[np.int8]:
    """The tissues in the world's own directions."""
    world = grid("RAS")
    middle = world.to_world((np.array([SHAPE]) - 1) / 2)[0]
    x, y, z = (world.to_world(np.indices(SHAPE).reshape(3, -1).T) - middle).T.reshape(3, *SHAPE)
    brain = (x / 66) ** 2 + (y / 84) ** 2 + (z / 60) ** 2 < 1
    random = np.random.default_rng(seed)
    folds = ndimage.gaussian_filter(random.normal(size=SHAPE), 2.0) + 0.02 * random.normal()
    low, between = np.quantile(folds[brain], (0.12, 0.55))
    made = np.where(folds < low, 0, np.where(folds < between, 1, 2)).astype(np.int8)
    centre = np.array([30.0 if seed % 2 == 0 else -30.0, *random.uniform(-25, 25, 2)])
    away = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
    size = random.uniform(0.8, 1.2)
    for kind, radius in ((_OEDEMA, 24), (_RIM, 14), (_NECROSIS, 9)):
        made[away < size * radius] = kind
    made[~brain] = -1
    return made
