"""A simulated patient obeys the physics and the anatomy it claims, on a small made-up head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from engine.volume import Grid, LabelMap, Sequence
from trainer.simulate import (
    RELAXATION,
    Scanner,
    SimulatedPatient,
    Tissue,
    TumourOptions,
    brats_like_grid,
    inversion_recovery,
    jacobian,
    prepare_anatomy,
    simulate_patient,
    spin_echo,
    spoiled_gradient_echo,
)

SPACING = 2.0
DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


def ball(grid: Grid, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> NDArray[np.bool_]:
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    world = grid.to_world(indices)
    inside: NDArray[np.bool_] = np.sum(((world - centre) / radii) ** 2, axis=1) <= 1
    return inside.reshape(grid.shape)


def made_up_head(axes: str = "LIA") -> LabelMap:
    """Two hemispheres with cortex, fluid, bone that reuses label 3, ventricles, thalami; 2 mm, axes as asked."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, letter in enumerate(axes):
        row = "RLAPSI".index(letter) // 2
        sign = 1 if letter in "RAS" else -1
        affine[row, column] = 2.0 * sign
        affine[row, 3] = -sign * 94.0
    grid = Grid((95, 95, 95), affine)
    data = np.zeros(grid.shape, np.uint8)
    right = ball(grid, (94.0, 0.0, 0.0), (94.0, 200.0, 200.0)) | ball(grid, (500.0, 0, 0), (500.0, 500.0, 500.0))
    data[ball(grid, (0, 0, 0), (84, 92, 80))] = 251
    data[ball(grid, (0, 0, 0), (80, 88, 76))] = 3  # bone, under the left cortex' label
    data[ball(grid, (0, 0, 0), (74, 82, 70))] = 24
    cortex, white = ball(grid, (0, 0, 0), (68, 76, 64)), ball(grid, (0, 0, 0), (63, 71, 59))
    data[cortex] = np.where(right, 42, 3)[cortex]
    data[white] = np.where(right, 41, 2)[white]
    for side, ventricle, thalamus in ((-1, 4, 10), (1, 43, 49)):
        data[ball(grid, (side * 11.0, 5, 8), (5, 26, 8))] = ventricle
        data[ball(grid, (side * 12.0, -8, -8), (9, 14, 8))] = thalamus
    return LabelMap(data, grid)


@pytest.fixture(scope="module")
def head() -> LabelMap:
    return made_up_head()


TUMOUR = TumourOptions(core_radius_mm=14, oedema_reach_mm=10, mass_effect=0.5, centre_mm=(38.0, -10.0, 20.0))


@pytest.fixture(scope="module")
def patient(head: LabelMap) -> SimulatedPatient:
    return simulate_patient(head, 7, TUMOUR, Scanner(), spacing_mm=SPACING)


def mean(patient: SimulatedPatient, sequence: Sequence, tissue: Tissue, map_: str = "tissue") -> float:
    where = ndimage.binary_erosion(getattr(patient, map_) == tissue)
    if not where.any():
        where = getattr(patient, map_) == tissue
    return float(np.median(patient.subject[sequence].data[where]))


def test_four_sequences_lie_on_the_grid_of_brats(patient: SimulatedPatient) -> None:
    assert tuple(patient.subject) == tuple(Sequence)
    assert patient.subject.grid.orientation == "LPS"
    assert patient.subject.grid.same_as(patient.truth.grid)
    assert brats_like_grid(1.0).shape == (240, 240, 155)
    assert brats_like_grid(2.0).shape == (120, 120, 78)


def test_the_same_seed_gives_the_same_patient(head: LabelMap, patient: SimulatedPatient) -> None:
    again = simulate_patient(prepare_anatomy(head), 7, TUMOUR, Scanner(), spacing_mm=SPACING)
    for sequence in Sequence:
        np.testing.assert_array_equal(again.subject[sequence].data, patient.subject[sequence].data)
    np.testing.assert_array_equal(again.truth.data, patient.truth.data)
    other = simulate_patient(prepare_anatomy(head), 8, TUMOUR, Scanner(), spacing_mm=SPACING)
    assert (other.truth.data != patient.truth.data).any()


def test_the_orientation_of_the_label_map_does_not_move_the_tumour(patient: SimulatedPatient) -> None:
    turned = simulate_patient(made_up_head("SPR"), 7, TUMOUR, Scanner(), spacing_mm=SPACING)
    both = np.count_nonzero(turned.truth.whole_tumour & patient.truth.whole_tumour)
    assert 2 * both / (turned.truth.whole_tumour.sum() + patient.truth.whole_tumour.sum()) > 0.9


def test_the_tumour_grows_where_it_was_put(patient: SimulatedPatient) -> None:
    core = np.argwhere(patient.truth.tumour_core)
    centre = patient.truth.grid.to_world(core).mean(axis=0)
    assert np.linalg.norm(centre - np.array([38.0, -10.0, 20.0])) < 10  # right is positive: the patient's right


def test_volumes_follow_the_options(head: LabelMap, patient: SimulatedPatient) -> None:
    ball_ml = 4 / 3 * np.pi * 1.4**3
    assert 0.5 * ball_ml < patient.truth.ml(patient.truth.tumour_core) < 3 * ball_ml
    assert patient.truth.ml(patient.truth.whole_tumour) > 1.3 * patient.truth.ml(patient.truth.tumour_core)
    small = TumourOptions(core_radius_mm=8, oedema_reach_mm=3, mass_effect=0.3, centre_mm=(38.0, -10.0, 20.0))
    less = simulate_patient(head, 7, small, Scanner(), spacing_mm=SPACING)
    assert less.truth.ml(less.truth.tumour_core) < 0.6 * patient.truth.ml(patient.truth.tumour_core)


def test_the_core_is_one_piece_within_the_whole_tumour(patient: SimulatedPatient) -> None:
    assert ndimage.label(patient.truth.tumour_core)[1] == 1
    wet = patient.tissue == Tissue.OEDEMA
    assert ((patient.truth.data == 2) == wet).all()
    assert ndimage.binary_dilation(patient.truth.whole_tumour, iterations=2)[patient.truth.tumour_core].all()
    fine = np.isin(patient.tissue, (Tissue.NECROSIS, Tissue.ENHANCING, Tissue.NON_ENHANCING))
    assert (fine == patient.truth.tumour_core).all()
    assert {Tissue.NECROSIS, Tissue.ENHANCING} <= set(np.unique(patient.tissue).tolist())


def test_tumour_does_not_grow_in_fluid(patient: SimulatedPatient) -> None:
    assert not (patient.truth.whole_tumour & (patient.healthy == Tissue.VENTRICLE)).any()
    fluid = patient.truth.whole_tumour & (patient.healthy == Tissue.CSF)
    assert fluid.sum() < 0.02 * patient.truth.whole_tumour.sum()


def test_oedema_prefers_white_matter_and_spares_cortex(patient: SimulatedPatient) -> None:
    ring = ndimage.binary_dilation(patient.truth.tumour_core, iterations=3) & ~patient.truth.tumour_core
    wet = patient.truth.data == 2
    white, cortex = ring & (patient.healthy == Tissue.WHITE), ring & (patient.healthy == Tissue.CORTEX)
    assert wet[white].mean() > 0.5
    assert cortex.any()
    assert wet[cortex].mean() < 0.2 * wet[white].mean()
    left = patient.truth.grid.to_world(np.argwhere(patient.truth.whole_tumour))[:, 0] < -20
    assert left.mean() < 0.02


def test_contrast_of_the_healthy_tissues(patient: SimulatedPatient) -> None:
    for sequence in (Sequence.T1, Sequence.T1CE):
        white, grey, fluid = (mean(patient, sequence, t) for t in (Tissue.WHITE, Tissue.CORTEX, Tissue.VENTRICLE))
        assert white > 1.05 * grey > 1.5 * fluid
    white, grey, fluid = (mean(patient, Sequence.T2, t) for t in (Tissue.WHITE, Tissue.CORTEX, Tissue.VENTRICLE))
    assert fluid > 1.8 * grey > 2.0 * white
    white, fluid = (mean(patient, Sequence.FLAIR, t) for t in (Tissue.WHITE, Tissue.VENTRICLE))
    assert fluid < 0.45 * white  # nulled


def test_the_tumour_looks_like_one(patient: SimulatedPatient) -> None:
    def ratio(sequence: Sequence, tissue: Tissue) -> float:
        return mean(patient, sequence, tissue) / mean(patient, sequence, Tissue.WHITE)

    assert ratio(Sequence.T1CE, Tissue.ENHANCING) > 1.15 * ratio(Sequence.T1, Tissue.ENHANCING)
    assert ratio(Sequence.T1CE, Tissue.ENHANCING) > 1.1
    assert ratio(Sequence.T1, Tissue.NECROSIS) < 0.85
    assert ratio(Sequence.T2, Tissue.NECROSIS) > ratio(Sequence.T2, Tissue.OEDEMA) > 1.3
    assert ratio(Sequence.FLAIR, Tissue.OEDEMA) > 1.3


def test_a_low_grade_tumour_does_not_enhance(head: LabelMap) -> None:
    options = TumourOptions(
        core_radius_mm=14, enhancement=0, necrosis=0, oedema_reach_mm=4, centre_mm=(-38.0, -10.0, 20.0)
    )
    patient = simulate_patient(head, 3, options, Scanner(), spacing_mm=SPACING)
    assert not np.isin(patient.tissue, (Tissue.ENHANCING, Tissue.NECROSIS)).any()
    assert mean(patient, Sequence.T1CE, Tissue.NON_ENHANCING) < mean(patient, Sequence.T1CE, Tissue.WHITE)
    assert mean(patient, Sequence.FLAIR, Tissue.NON_ENHANCING) > 1.3 * mean(patient, Sequence.FLAIR, Tissue.WHITE)


@pytest.mark.parametrize("amount", [0.3, 0.8])
def test_mass_effect_pushes_without_folding(head: LabelMap, amount: float) -> None:
    options = TumourOptions(core_radius_mm=16, mass_effect=amount, centre_mm=(36.0, -5.0, 18.0))
    patient = simulate_patient(head, 5, options, Scanner(), spacing_mm=SPACING)
    x, y, z = patient.displacement_mm
    # Array axes run to the left, back and head.
    determinant = jacobian(np.stack([-x, -y, z]), SPACING)
    inner = ndimage.binary_erosion(patient.subject[Sequence.T1].data > 0, iterations=2)
    assert determinant[inner].min() > 0
    # The middle of the head has moved to the left: its tissue came from further right.
    indices = patient.truth.grid.to_voxel(np.array([[0.0, -5.0, 18.0]]))[0].round().astype(int)
    assert patient.displacement_mm[0][tuple(indices)] > 0.5
    # The skull holds: nothing moves at the surface.
    brain = patient.subject[Sequence.T1].data > 0
    surface = brain & ~ndimage.binary_erosion(brain)
    assert np.median(np.abs(patient.displacement_mm[:, surface])) < 0.5


def test_mass_effect_presses_the_ventricles(head: LabelMap) -> None:
    def ventricles(amount: float) -> tuple[int, int]:
        options = TumourOptions(core_radius_mm=16, mass_effect=amount, centre_mm=(36.0, -5.0, 18.0))
        patient = simulate_patient(head, 5, options, Scanner(), spacing_mm=SPACING)
        x = patient.truth.grid.to_world(np.argwhere(patient.healthy == Tissue.VENTRICLE))[:, 0]
        return int((x > 0).sum()), int((x < 0).sum())

    (right, left), (right_pressed, left_pressed) = ventricles(0.0), ventricles(0.5)
    assert right_pressed < 0.95 * right
    assert right_pressed + left_pressed < 0.95 * (right + left)


def test_outside_the_brain_is_exactly_zero(patient: SimulatedPatient) -> None:
    brains = [volume.data > 0 for volume in patient.subject.values()]
    for brain in brains[1:]:
        np.testing.assert_array_equal(brain, brains[0])
    brain = brains[0]
    assert ndimage.label(brain)[1] == 1
    assert (patient.healthy[~brain] == Tissue.OUTSIDE).all()
    assert not patient.truth.whole_tumour[~brain].any()
    for volume in patient.subject.values():
        assert volume.data.dtype == np.float32
        assert (volume.data[~brain] == 0).all()
        assert np.isfinite(volume.data).all()
    litres = brain.sum() * patient.truth.grid.voxel_ml / 1000
    assert 1.2 < litres < 1.8  # bone that carries a cortex' label is not taken for brain


def test_noise_follows_the_scanner(head: LabelMap) -> None:
    def roughness(noise: float) -> float:
        taken = Scanner()
        quiet = {Sequence.T1: taken.acquisitions[Sequence.T1]}
        made = {s: type(a)(a.kind, a.tr, a.te, flip=a.flip, noise=noise, bias=0.0) for s, a in quiet.items()}
        patient = simulate_patient(head, 2, TUMOUR, Scanner(acquisitions=made), spacing_mm=SPACING)
        data = patient.subject[Sequence.T1].data
        white = ndimage.binary_erosion(patient.tissue == Tissue.WHITE, iterations=2)
        return float((data - ndimage.uniform_filter(data, 3))[white].std() / data[white].mean())

    assert roughness(0.12) > 2 * roughness(0.01)


def test_only_the_sequences_asked_for_are_made(head: LabelMap) -> None:
    scanner = Scanner(acquisitions={Sequence.T2: Scanner().acquisitions[Sequence.T2]})
    assert tuple(simulate_patient(head, 1, TUMOUR, scanner, spacing_mm=4.0).subject) == (Sequence.T2,)


def test_patients_drawn_at_random_are_whole_and_different(head: LabelMap) -> None:
    anatomy = prepare_anatomy(head)
    volumes, whites = [], []
    for seed in range(6):
        patient = simulate_patient(anatomy, seed, spacing_mm=4.0, variation_mm=2.0)
        assert len(patient.subject) == 4
        assert patient.truth.tumour_core.any()
        volumes.append(patient.truth.ml(patient.truth.whole_tumour))
        whites.append(mean(patient, Sequence.T1, Tissue.WHITE))
    assert max(volumes) > 1.5 * min(volumes)
    assert max(whites) > 2 * min(whites)


def test_a_map_without_white_matter_is_refused() -> None:
    with pytest.raises(ValueError, match="no white matter"):
        prepare_anatomy(LabelMap(np.zeros((8, 8, 8), np.uint8), Grid((8, 8, 8), np.eye(4))))


def test_contradictory_options_are_refused() -> None:
    with pytest.raises(ValueError, match="positive sizes"):
        TumourOptions(core_radius_mm=0)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        TumourOptions(enhancement=1.5)


def test_signal_equations_at_their_limits() -> None:
    white, fluid = RELAXATION[Tissue.WHITE], RELAXATION[Tissue.CSF]
    # A spin echo with all the time in the world and no echo time shows proton density.
    assert spin_echo(fluid, 1e6, 0.0) == pytest.approx(fluid.density)
    # A 90 degree spoiled gradient echo is a saturation recovery.
    assert spoiled_gradient_echo(white, 500, 0.0, 90) == pytest.approx(white.density * (1 - np.exp(-500 / white.t1)))
    # Inversion recovery is null at T1 ln 2 when everything recovers in between.
    assert inversion_recovery(white, 1e6, 0.0, white.t1 * np.log(2)) == pytest.approx(0.0, abs=1e-9)


def test_the_demo_patient_is_what_its_readme_says() -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel reads the demo patient")
    images = {p.name: nibabel.load(p) for p in sorted(DEMO.glob("demo_*.nii.gz"))}
    assert set(images) == {f"demo_{n}.nii.gz" for n in ("t1", "t1ce", "t2", "flair", "seg")}
    assert sum(p.stat().st_size for p in DEMO.iterdir()) < 8_000_000
    truth = np.asarray(images["demo_seg.nii.gz"].dataobj)
    assert set(np.unique(truth).tolist()) == {0, 1, 2}
    brain = np.asarray(images["demo_t1.nii.gz"].dataobj) > 0
    assert not truth[~brain].any()
    for image in images.values():
        assert image.shape == (240, 240, 155)
        np.testing.assert_array_equal(image.affine, brats_like_grid().affine)
    flair, t1ce, t1 = (np.asarray(images[f"demo_{n}.nii.gz"].dataobj) for n in ("flair", "t1ce", "t1"))
    rest = brain & (truth == 0)
    assert np.median(flair[truth == 2]) > 1.4 * np.median(flair[rest])
    lit = t1ce[truth == 1] / np.median(t1ce[rest]) - t1[truth == 1] / np.median(t1[rest])
    assert np.percentile(lit, 80) > 0.3
