"""The brain is found in a head on any sequence, in any layout, and nothing of a tumour at its rim is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from engine import brain, nifti
from engine.errors import BadModel, Cancelled
from engine.metrics import dice
from engine.preprocessing import to_canonical
from engine.progress import Progress
from engine.volume import LARGEST_BRAIN_ML, Grid, Mask, Sequence, Volume

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
STEP = 1.5  # mm; coarser than a scan, and quick
# Fluid, bone, muscle, fat and skin beside brain, as bright as the sequence usually shows them.
SHELLS = {
    Sequence.T1: (0.35, 0.1, 0.7, 1.7),
    Sequence.T1CE: (0.35, 0.1, 0.9, 1.7),
    Sequence.T2: (2.2, 0.1, 0.4, 1.3),
    Sequence.FLAIR: (0.2, 0.1, 0.6, 1.2),
}


def coarser(volume: Volume) -> Volume:
    """The demo patient on voxels of `STEP`."""
    shape = tuple(int(n / STEP) for n in volume.grid.shape)
    data = ndimage.affine_transform(volume.data, [STEP] * 3, output_shape=shape, order=1)
    grid = Grid((shape[0], shape[1], shape[2]), volume.grid.affine @ np.diag([STEP, STEP, STEP, 1.0]))
    return Volume(data.astype(np.float32), grid, volume.sequence)


@pytest.fixture(scope="module")
def stripped() -> dict[Sequence, Volume]:
    return {sequence: coarser(nifti.read(DEMO / f"demo_{sequence}.nii.gz", sequence)) for sequence in Sequence}


@pytest.fixture(scope="module")
def tumour() -> Mask:
    labels = nifti.read_labels(DEMO / "demo_seg.nii.gz")[0].data
    shape = tuple(int(n / STEP) for n in labels.shape)
    mask: Mask = ndimage.affine_transform(labels, [STEP] * 3, output_shape=shape, order=0) > 0
    return mask


@pytest.fixture(scope="module")
def whole(stripped: dict[Sequence, Volume]) -> dict[Sequence, Volume]:
    """The demo patient within shells of fluid, bone, muscle and fat, on a neck, in noisy air."""
    there = next(iter(stripped.values())).data != 0
    margin = [(20, 20), (20, 20), (30, 14)]
    held = np.pad(there, margin)
    away = ndimage.distance_transform_edt(~held, sampling=STEP)
    low = np.argwhere(held)[:, 2].min()
    x, y, z = np.ogrid[tuple(slice(0, n) for n in held.shape)]
    middle = np.argwhere(held).mean(axis=0)
    neck = ((x - middle[0]) ** 2 + (y - middle[1]) ** 2 < (50 / STEP) ** 2) & (z < low + 10) & ~held
    grid = next(iter(stripped.values())).grid
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(-np.array([[20.0, 20.0, 30.0]]))[0]
    heads = {}
    for sequence, volume in stripped.items():
        values = np.pad(volume.data, margin)
        unit = float(np.median(values[held]))
        fluid, bone, muscle, fat = SHELLS[sequence]
        picture = np.zeros(held.shape, np.float32)
        picture[neck] = muscle
        for far, bright in ((15.0, fat), (10.0, muscle), (8.0, bone), (1.5, fluid)):
            picture[(away <= far) & ~held] = bright
        picture = ndimage.gaussian_filter(picture, 0.5) * unit
        noise = np.random.default_rng(3).normal(0, 0.02 * unit, (2, *held.shape))
        picture = np.hypot(np.where(held, values, picture) + noise[0], noise[1])
        heads[sequence] = Volume(picture.astype(np.float32), Grid(held.shape, affine), sequence)
    return heads


def truth(stripped: dict[Sequence, Volume]) -> Mask:
    return np.pad(next(iter(stripped.values())).data != 0, [(20, 20), (20, 20), (30, 14)])


@pytest.mark.parametrize("sequence", list(Sequence))
def test_the_brain_is_found_on_each_sequence_with_all_of_the_tumour(
    sequence: Sequence, whole: dict[Sequence, Volume], stripped: dict[Sequence, Volume], tumour: Mask
) -> None:
    found = brain.find_brain([whole[sequence]])
    # On T2 the shell of fluid is as bright as what lies in the sulci, and is counted: 1.5 mm all round are a tenth.
    assert dice(found, truth(stripped)) > (0.93 if sequence is Sequence.T2 else 0.95)
    assert not (np.pad(tumour, [(20, 20), (20, 20), (30, 14)]) & ~found).any()


def test_the_mask_is_one_piece_without_holes(whole: dict[Sequence, Volume]) -> None:
    found = brain.find_brain(list(whole.values()))
    assert ndimage.label(found)[1] == 1
    np.testing.assert_array_equal(ndimage.binary_fill_holes(found), found)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_how_the_file_is_laid_out_does_not_matter(order: tuple[int, int, int], whole: dict[Sequence, Volume]) -> None:
    volume = whole[Sequence.T1]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(order):
        turn[old, new], turn[old, 3] = -1, volume.grid.shape[old] - 1
    data = np.ascontiguousarray(np.flip(volume.data.transpose(order)))
    turned = Volume(data, Grid(data.shape, volume.grid.affine @ turn), Sequence.T1)
    there, here = (to_canonical(brain.find_brain([v]), *v.grid.nearest_axes()) for v in (volume, turned))
    np.testing.assert_array_equal(here, there)


def test_thick_slices_give_a_mask_on_their_own_grid(
    whole: dict[Sequence, Volume], stripped: dict[Sequence, Volume]
) -> None:
    volume = whole[Sequence.FLAIR]
    count = volume.grid.shape[2] // 4 * 4
    data = volume.data[:, :, :count].reshape(*volume.grid.shape[:2], -1, 4).mean(axis=3)
    affine = volume.grid.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 4, 1.5], [0, 0, 0, 1]])
    found = brain.find_brain([Volume(data, Grid(data.shape, affine), Sequence.FLAIR)])
    assert found.shape == data.shape
    share = truth(stripped)[:, :, :count].reshape(*data.shape, 4).mean(axis=3)
    assert dice(found, share > 0.5) > 0.94


def test_a_stripped_brain_stays_whole(stripped: dict[Sequence, Volume]) -> None:
    volume = stripped[Sequence.T2]
    found = brain.find_brain([volume])
    assert (found & (volume.data != 0)).sum() > 0.99 * (volume.data != 0).sum()


def test_where_there_is_no_brain_none_is_found() -> None:
    grid = Grid((40, 40, 40), np.diag([4.0, 4.0, 4.0, 1.0]))
    assert not brain.find_brain([Volume(np.zeros(grid.shape, np.float32), grid)]).any()


@pytest.mark.parametrize("sequence", list(Sequence))
def test_whether_the_skull_was_removed_is_seen(
    sequence: Sequence, whole: dict[Sequence, Volume], stripped: dict[Sequence, Volume]
) -> None:
    assert brain.is_stripped(stripped[sequence])
    inside = stripped[sequence].data != 0
    centred = (stripped[sequence].data - stripped[sequence].data[inside].mean()) * inside
    assert brain.is_stripped(Volume(centred, stripped[sequence].grid, sequence))
    assert not brain.is_stripped(whole[sequence])
    # Half a head without the noise of the air holds no more signal than a brain.
    data = whole[sequence].data.copy()
    data[data < 0.09 * np.median(stripped[sequence].data[stripped[sequence].data > 0])] = 0
    data = data[:, :, 70:105]
    half = Volume(data, Grid(data.shape, whole[sequence].grid.affine), sequence)
    assert np.count_nonzero(data) * half.grid.voxel_ml < LARGEST_BRAIN_ML
    assert not brain.is_stripped(half)


def test_stripping_leaves_the_brain_and_the_files_own_background() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    data = np.full(grid.shape, -5.0, np.float32)
    data[1:3, 1:3, 1:3] = 7.0
    mask = np.zeros(grid.shape, bool)
    mask[1, 1, 1] = True
    after = brain.strip(Volume(data, grid, Sequence.T1), mask)
    assert after.data[1, 1, 1] == 7.0
    assert (after.data[~mask] == -5.0).all()
    with pytest.raises(ValueError, match="does not fit"):
        brain.strip(Volume(data, grid), mask[:3])


def test_volumes_on_several_grids_are_refused(stripped: dict[Sequence, Volume]) -> None:
    small = Volume(np.zeros((4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))
    with pytest.raises(ValueError, match="one grid"):
        brain.find_brain([stripped[Sequence.T1], small])
    with pytest.raises(ValueError, match="no volume"):
        brain.find_brain([])


def test_it_can_be_stopped(stripped: dict[Sequence, Volume]) -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        brain.find_brain([stripped[Sequence.T1]], progress)


@pytest.fixture
def copied_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the network that a test may damage."""
    folder = tmp_path / "brain"
    shutil.copytree(brain.MODEL, folder)
    monkeypatch.setattr(brain, "MODEL", folder)
    brain.forget_network()
    yield folder
    brain.forget_network()


def test_a_changed_network_is_named_and_refused(copied_model: Path, whole: dict[Sequence, Volume]) -> None:
    weights = copied_model / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadModel, match="of the network that finds the brain has changed"):
        brain.find_brain([whole[Sequence.T1]])


def test_the_card_says_what_it_learnt_from() -> None:
    card = json.loads((brain.MODEL / brain.CARD).read_text(encoding="utf-8"))
    assert "SynthSeg" in card["training"]["data"]
    assert card["training"]["heads"] > 0
