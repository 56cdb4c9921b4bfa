"""The types that carry arrays and their place in space."""

from __future__ import annotations

import pickle

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ChooseVolume, GridMismatch, UserError
from engine.progress import Progress
from engine.volume import Grid, LabelMap, Sequence, Subject, Volume, in_words, joined, ml_in_words
from tests.engine import phantoms

CENTRE = (3.0, -5.0, 7.0)


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_orientation_is_told_from_the_affine(orientation: str) -> None:
    grid = phantoms.grid(orientation, spacing=(0.5, 1.0, 3.0))
    assert grid.orientation == orientation
    assert grid.orientation == "".join(nib.aff2axcodes(grid.affine))
    letters_of_world = ("RL", "AP", "SI")
    expected = [(0.5, 1.0, 3.0)[next(w for w in range(3) if letter in letters_of_world[w])] for letter in orientation]
    assert grid.spacing == pytest.approx(expected)


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_markers_lie_on_the_patients_left_front_and_top(orientation: str) -> None:
    head = phantoms.head(phantoms.grid(orientation))
    for value, axis, sign in (
        (phantoms.LEFT_VALUE, 0, -1),
        (phantoms.FRONT_VALUE, 1, 1),
        (phantoms.TOP_VALUE, 2, 1),
    ):
        places = head.grid.to_world(np.argwhere(head.data == value)) - np.array(CENTRE)
        assert len(places) > 3
        assert (places[:, axis] * sign > 3).all()


def test_oblique_grids_have_the_nearest_orientation() -> None:
    for orientation in phantoms.ORIENTATIONS:
        grid = phantoms.grid(orientation, oblique=(8.0, -15.0, 20.0), spacing=(0.5, 0.5, 6.0))
        assert grid.orientation == orientation == "".join(nib.aff2axcodes(grid.affine))


def test_a_volume_of_tissue_does_not_depend_on_how_it_is_laid_out() -> None:
    volumes = {
        round(truth.ml(truth.whole_tumour), 6)
        for o in phantoms.ORIENTATIONS
        for truth in [phantoms.tumour(phantoms.grid(o))]
    }
    assert len(volumes) == 1


def test_millilitres_are_exact_on_a_sheared_grid() -> None:
    affine = np.diag([0.5, 0.5, 6.0, 1.0])
    affine[0, 1] = 0.2
    affine[0, 2] = 1.0
    labels = np.ones((4, 4, 4), np.uint8)
    label_map = LabelMap(labels, Grid(labels.shape, affine))
    assert label_map.ml(label_map.whole_tumour) == pytest.approx(64 * 1.5 / 1000)


@given(
    st.sampled_from(phantoms.ORIENTATIONS),
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
    st.tuples(*[st.floats(-40.0, 40.0)] * 3),
    st.tuples(*[st.floats(-50.0, 50.0)] * 3),
)
def test_voxels_go_to_the_world_and_back(
    orientation: str,
    spacing: tuple[float, float, float],
    oblique: tuple[float, float, float],
    voxel: tuple[float, float, float],
) -> None:
    grid = phantoms.grid(orientation, spacing=spacing, oblique=oblique)
    assert grid.to_voxel(grid.to_world(np.array([voxel])))[0] == pytest.approx(voxel, abs=1e-6)


@pytest.mark.parametrize(
    "affine",
    [
        np.zeros((4, 4)),
        np.diag([1.0, 1.0, 0.0, 1.0]),
        np.diag([1.0, np.nan, 1.0, 1.0]),
        np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_a_grid_that_is_nowhere_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(ValueError, match="affine"):
        Grid((4, 4, 4), affine)


def test_small_voxels_are_not_singular() -> None:
    assert Grid((4, 4, 4), np.diag([0.01, 0.01, 0.01, 1.0])).voxel_ml == pytest.approx(1e-9)


def test_a_grid_cannot_be_changed_from_outside() -> None:
    affine = np.eye(4)
    grid = Grid((4, 4, 4), affine)
    affine[0, 0] = 7
    assert grid.spacing == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7


def test_grids_match_within_a_tenth_of_a_millimetre_at_the_far_corner() -> None:
    grid = Grid((240, 240, 155), np.eye(4))
    nearly = np.eye(4)
    nearly[0, 0] = 1 + 0.09 / 239
    off = np.eye(4)
    off[0, 0] = 1 + 0.2 / 239
    assert grid.same_as(Grid(grid.shape, nearly))
    assert not grid.same_as(Grid(grid.shape, off))
    assert not grid.same_as(Grid((240, 240, 154), np.eye(4)))


def test_data_that_does_not_fit_its_grid_is_refused() -> None:
    grid = Grid((4, 5, 6), np.eye(4))
    with pytest.raises(ValueError, match="does not fit"):
        Volume(np.zeros((6, 5, 4), np.float32), grid)
    with pytest.raises(ValueError, match="uint8"):
        LabelMap(np.zeros((4, 5, 6), np.int16), grid)  # type: ignore[arg-type]


def test_a_subject_lists_its_sequences_in_the_fixed_order() -> None:
    head = phantoms.subject(sequences=(Sequence.FLAIR, Sequence.T1))
    assert list(head) == [Sequence.T1, Sequence.FLAIR]
    assert list(phantoms.subject().only((Sequence.T2,))) == [Sequence.T2]


def test_a_subject_on_two_grids_is_refused_with_both_named() -> None:
    volumes = {
        Sequence.T1: phantoms.head(phantoms.grid(), Sequence.T1),
        Sequence.T2: phantoms.head(phantoms.grid(centre=(3.0, -5.0, 9.5)), Sequence.T2),
    }
    with pytest.raises(GridMismatch) as caught:
        Subject("x", volumes)
    assert str(caught.value) == (
        "T2 does not lie on the grid of T1 (same size, but up to 2.5 mm apart). Resample it onto T1, or leave it out."
    )


def test_sequences_in_words() -> None:
    assert in_words(()) == ""
    assert in_words([Sequence.FLAIR]) == "FLAIR"
    assert in_words([Sequence.FLAIR, Sequence.T1]) == "T1 and FLAIR"
    assert in_words(tuple(Sequence)) == "T1, T1ce, T2 and FLAIR"


def test_sets_of_sequences_have_one_name() -> None:
    assert joined([Sequence.FLAIR, Sequence.T1, Sequence.FLAIR]) == "t1+flair"


@pytest.mark.parametrize(
    ("ml", "interval", "words"),
    [
        (42.31, None, "42.3 ml"),
        (42.31, (36.4, 51.2), "42.3 ml (90 %: 36 to 51)"),
        (2.0, [1.26, 3.0], "2.0 ml (90 %: 1.3 to 3.0)"),
    ],
)
def test_a_volume_is_told_with_plausible_digits(ml: float, interval: tuple[float, float] | None, words: str) -> None:
    assert ml_in_words(ml, interval) == words


def test_errors_survive_the_way_out_of_a_worker_process() -> None:
    error = ChooseVolume("a.nii holds 3 volumes", "4-D", "Choose one.", count=3)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a.nii holds 3 volumes (4-D). Choose one."
    assert again.count == 3
    assert isinstance(again, UserError)


def test_a_part_of_a_progress_reports_into_its_stretch() -> None:
    seen: list[float] = []
    progress = Progress(lambda fraction, _: seen.append(round(fraction, 3)))
    progress.part(0.5, 1.0).part(0.0, 0.5).update(1.0, "")
    progress.update(7.0, "")
    assert seen == [0.75, 1.0]
