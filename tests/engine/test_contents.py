"""Sequences told from their voxels: on the simulated patient that comes with the program, whose head was no example."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from engine import contents, nifti, sequences
from engine.errors import BadModel, Cancelled
from engine.progress import Progress
from engine.volume import Grid, Sequence, Volume

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


@lru_cache
def demo(sequence: Sequence) -> Volume:
    return nifti.read(DEMO / f"demo_{sequence.value}.nii.gz")


def laid_out(volume: Volume, axes: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same patient in another voxel order."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    data = volume.data.transpose(axes)
    for new, old in enumerate(axes):
        matrix[old, new] = -1 if new in flips else 1
        matrix[old, 3] = data.shape[new] - 1 if new in flips else 0
    return Volume(np.flip(data, flips).copy(), Grid(data.shape, volume.grid.affine @ matrix))


@pytest.mark.parametrize("sequence", Sequence)
def test_each_sequence_is_told_whatever_its_scale(sequence: Sequence) -> None:
    volume = demo(sequence)
    for factor, offset in ((1.0, 0.0), (0.013, 0.0), (41.0, 0.0)):
        told = contents.recognise(replace(volume, data=volume.data * np.float32(factor) + np.float32(offset)))
        assert told.sequence is sequence
        assert told.sure > 0.9
        assert sum(told.probabilities.values()) == pytest.approx(1)


def test_a_description_does_not_depend_on_the_order_of_voxels() -> None:
    volume = demo(Sequence.T2)
    cut = Volume(volume.data[::2, ::2, ::2].copy(), Grid((120, 120, 78), volume.grid.affine @ np.diag([2, 2, 2, 1.0])))
    expected = contents.describe(cut)
    for axes, flips in (((0, 1, 2), (0,)), ((2, 0, 1), ()), ((1, 2, 0), (0, 2)), ((2, 1, 0), (1,))):
        np.testing.assert_allclose(contents.describe(laid_out(cut, axes, flips)), expected, atol=1e-4)


@pytest.mark.parametrize("sequence", Sequence)
def test_thick_slices_and_a_smaller_field_of_view_are_told_too(sequence: Sequence) -> None:
    volume = demo(sequence)
    thick = volume.data[:, :, :150].reshape(240, 240, 30, 5).mean(axis=3)[30:210, 20:220, 3:].copy()
    affine = volume.grid.affine @ np.diag([1, 1, 5, 1.0])
    assert contents.recognise(Volume(thick, Grid(thick.shape, affine))).sequence is sequence


def test_labels_and_noise_are_none_of_the_four() -> None:
    rng = np.random.default_rng(0)
    noise = np.abs(rng.standard_normal((90, 100, 90), dtype=np.float32))
    labels = nifti.read(DEMO / "demo_seg.nii.gz")
    for volume in (Volume(noise, Grid(noise.shape, np.diag([2, 2, 2, 1.0]))), labels):
        told = contents.recognise(volume)
        assert told.sequence is None
        assert told.words == "none of T1, T1ce, T2 and FLAIR"


def test_an_empty_volume_has_an_answer() -> None:
    empty = Volume(np.zeros((4, 5, 3), np.float32), Grid((4, 5, 3), np.eye(4)))
    assert 0 < contents.recognise(empty).sure <= 1


def test_it_stops_when_asked_to() -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        contents.recognise(demo(Sequence.T1), progress)


def test_a_network_that_was_changed_is_refused(tmp_path: Path) -> None:
    copied = tmp_path / "recognition"
    shutil.copytree(contents.SHIPPED, copied)
    weights = bytearray((copied / contents.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (copied / contents.WEIGHTS).write_bytes(weights)
    with pytest.raises(BadModel, match="not the file it was published with"):
        contents.open_network(copied)
    (copied / contents.CARD).unlink()
    with pytest.raises(BadModel, match="its files are not complete"):
        contents.open_network(copied)


@pytest.fixture
def unnamed(tmp_path: Path) -> Path:
    """The demo patient under names that say nothing."""
    for number, sequence in enumerate((Sequence.FLAIR, Sequence.T1, Sequence.T2, Sequence.T1CE)):
        shutil.copy(DEMO / f"demo_{sequence.value}.nii.gz", tmp_path / f"{number + 101}.nii.gz")
    return tmp_path


def test_files_without_a_name_get_their_sequence_from_their_content(unnamed: Path) -> None:
    (files,) = sequences.find_subjects([unnamed])
    assert not files.files
    placed = contents.place(files)
    assert {s: p.name for s, p in placed.files.files.items()} == {
        Sequence.T1: "102.nii.gz", Sequence.T1CE: "104.nii.gz", Sequence.T2: "103.nii.gz", Sequence.FLAIR: "101.nii.gz",
    }  # fmt: skip
    assert not placed.files.unknown
    assert len(placed.notes) == 4
    assert "101.nii.gz was taken for FLAIR: it looks like FLAIR (" in " ".join(placed.notes)


def test_what_the_user_said_is_left_alone(unnamed: Path) -> None:
    (files,) = sequences.find_subjects([unnamed])
    spoken_for = unnamed / "103.nii.gz"
    placed = contents.place(files, confirmed={spoken_for})
    assert spoken_for in placed.files.unknown
    assert Sequence.T2 not in placed.files.files


def test_a_doubtful_name_is_settled_by_content(tmp_path: Path) -> None:
    # "t1 sag" does not say whether contrast was given, and here it was.
    shutil.copy(DEMO / "demo_t1ce.nii.gz", tmp_path / "t1_sag.nii.gz")
    shutil.copy(DEMO / "demo_flair.nii.gz", tmp_path / "ax_flair.nii.gz")
    (files,) = sequences.find_subjects([tmp_path])
    assert files.uncertain == {Sequence.T1}
    placed = contents.place(files)
    assert {s: p.name for s, p in placed.files.files.items()} == {
        Sequence.T1CE: "t1_sag.nii.gz",
        Sequence.FLAIR: "ax_flair.nii.gz",
    }
    assert not placed.files.uncertain


def test_a_sure_name_keeps_its_place_and_the_disagreement_is_told() -> None:
    volumes = {Sequence.T1: demo(Sequence.T1), Sequence.T2: demo(Sequence.FLAIR)}
    found = contents.disagreements(volumes)
    assert set(found) == {Sequence.T2}
    words = contents.disagreement_words(volumes[Sequence.T2], Sequence.T2, found[Sequence.T2])
    assert words.startswith("demo_flair.nii.gz looks like FLAIR (")
    assert words.endswith("%), but was taken for T2.")
