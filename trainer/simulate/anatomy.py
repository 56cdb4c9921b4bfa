"""From a label map to a head that patients can be made of.

The label maps are FreeSurfer-style whole heads at about 1 mm. Some of them use labels of the left hemisphere (2 white
matter, 3 cortex, 4 ventricle) a second time for marrow, bone and venous sinuses. `prepare_anatomy` tells them apart
by what hangs together: the brain's white matter is what survives erosion in large pieces, cortex is what can be
reached from it within a cortex's thickness, and a ventricle touches brain. Then it strips the brain as the programs
behind public collections do, finds its pose from the centres of deep structures, and measures the distances that
textures, mass effect and oedema depend on. Labels of 1 mm cannot show what is thinner than a voxel, so fluid in narrow
sulci is put back where the banks of two gyri meet.

`Anatomy` is made once for a head; `Anatomy.placed` bends it into the place and shape of one patient, a `Head`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy import ndimage

from engine.volume import FloatArray, Grid, LabelArray, LabelMap
from trainer.simulate.space import BoolArray, Matrix, Space


class Tissue(IntEnum):
    """What fills a voxel, after the labels of one hemisphere or the other are told apart from bone and sinuses."""

    OUTSIDE = 0
    WHITE = 1
    CORTEX = 2
    CSF = 3
    VENTRICLE = 4
    CEREBELLAR_WHITE = 5
    CEREBELLAR_CORTEX = 6
    THALAMUS = 7
    CAUDATE = 8
    PUTAMEN = 9
    PALLIDUM = 10
    HIPPOCAMPUS = 11
    BRAINSTEM = 12
    WHITE_LESION = 13
    CHOROID_PLEXUS = 14
    VENOUS = 15
    OEDEMA = 20
    NON_ENHANCING = 21
    ENHANCING = 22
    NECROSIS = 23


# FreeSurfer label -> tissue. 72 is the fifth ventricle, 30 and 62 perivascular spaces, 25 and 57 caps and lesions of
# the white matter, 136 and 163 choroid plexus.
_TISSUE_OF_LABEL = {
    **dict.fromkeys((2, 41, 85), Tissue.WHITE),
    **dict.fromkeys((3, 42), Tissue.CORTEX),
    **dict.fromkeys((24, 30, 62), Tissue.CSF),
    **dict.fromkeys((4, 5, 14, 15, 43, 44, 72), Tissue.VENTRICLE),
    **dict.fromkeys((7, 46), Tissue.CEREBELLAR_WHITE),
    **dict.fromkeys((8, 47), Tissue.CEREBELLAR_CORTEX),
    **dict.fromkeys((10, 49), Tissue.THALAMUS),
    **dict.fromkeys((11, 50, 26, 58), Tissue.CAUDATE),
    **dict.fromkeys((12, 51), Tissue.PUTAMEN),
    **dict.fromkeys((13, 52), Tissue.PALLIDUM),
    **dict.fromkeys((17, 18, 53, 54, 137, 164), Tissue.HIPPOCAMPUS),
    **dict.fromkeys((16, 28, 60), Tissue.BRAINSTEM),
    **dict.fromkeys((25, 57), Tissue.WHITE_LESION),
    **dict.fromkeys((136, 163), Tissue.CHOROID_PLEXUS),
}

# Where the centres of structures lie with the commissures level, in mm from the anterior one (right is positive);
# rounded from the published coordinates of the MNI152 space. They only have to be right to a few millimetres.
_LANDMARKS = {
    10: (-11, -18, 7), 49: (11, -18, 7),
    11: (-13, 10, 10), 50: (13, 10, 10),
    12: (-25, 1, 0), 51: (25, 1, 0),
    13: (-19, -4, -1), 52: (19, -4, -1),
    17: (-26, -22, -14), 53: (26, -22, -14),
    26: (-9, 11, -7), 58: (9, 11, -7),
    28: (-11, -15, -9), 60: (11, -15, -9),
    7: (-17, -58, -36), 46: (17, -58, -36),
    8: (-24, -63, -36), 47: (24, -63, -36),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A head made ready: labels told apart, cropped to the brain, its pose known. Make once, simulate many.

    Attributes:
        tissue: ``(I, J, K)`` uint8 of `Tissue`.
        grid: Where its voxels lie (the label map's own world).
        pose: ``(4, 4)``: world of the simulated patient -> world of the label map; rigid.
        inside_mm: ``(I, J, K)`` distance to the surface of the stripped brain, negative outside, in mm.
        depth_mm: ``(I, J, K)`` distance of a voxel of tissue to the nearest cortex or fluid, in mm.
        sulcus: ``(I, J, K)`` share of fluid in sulci too narrow for the labels to show it.
        from_ventricle_mm: ``(I, J, K)`` distance to the nearest ventricle, in mm.
        fastigium_mm: The middle of the cerebellum's front, where its folia point to, in the patient's world.
    """

    tissue: LabelArray
    grid: Grid
    pose: Matrix
    inside_mm: FloatArray
    depth_mm: FloatArray
    sulcus: FloatArray
    from_ventricle_mm: FloatArray
    fastigium_mm: tuple[float, float, float]

    def space(self, spacing: float) -> Space:
        """The box around the brain in the patient's world, in voxels of ``spacing`` mm."""
        # Every fourth voxel finds the brain's ends within the margin of the box.
        inside = np.argwhere(self.inside_mm[::4, ::4, ::4] > 0) * 4.0
        world = self.grid.to_world(inside)
        return Space.around((world - self.pose[:3, 3]) @ self.pose[:3, :3], spacing)

    def at_knots(self, space: Space, values: FloatArray, displacement: FloatArray, outside: float) -> FloatArray:
        """Look up ``values`` at the knots of ``space``, moved by ``displacement`` ``(3, ...)`` in mm."""
        return _interpolate(values, self._voxels(space.knot_world, displacement), outside)

    def tissue_at_knots(self, space: Space, displacement: FloatArray) -> LabelArray:
        """`Tissue` at the knots of ``space``, moved by ``displacement`` ``(3, ...)`` in mm."""
        where = self._voxels(space.knot_world, displacement)
        return np.asarray(ndimage.map_coordinates(self.tissue, where, order=0, mode="constant", cval=0), np.uint8)

    def placed(self, space: Space, displacement: FloatArray) -> Head:
        """The head in a patient's place, bent by ``displacement`` ``(3, I, J, K)`` in mm."""
        where = self._voxels(space.world, displacement)
        tissue = _nearest(self.tissue, where)
        inside = _interpolate(self.inside_mm, where, -20.0)
        return Head(
            tissue,
            inside > 0,
            inside,
            _interpolate(self.depth_mm, where, 0.0),
            _interpolate(self.sulcus, where, 0.0),
            _interpolate(self.from_ventricle_mm, where, 99.0),
            space.world[0] + displacement[0],
            self.fastigium_mm,
        )

    def _voxels(self, world: list[FloatArray], displacement: FloatArray) -> FloatArray:
        """Voxel coordinates ``(3, ...)`` of displaced positions in the patient's world."""
        matrix = np.linalg.inv(self.grid.affine) @ self.pose
        moved = [axis + component for axis, component in zip(world, displacement, strict=True)]
        out = np.empty((3, *moved[0].shape), np.float32)
        for row in range(3):
            a, b, c, d = (np.float32(v) for v in matrix[row])
            out[row] = a * moved[0] + b * moved[1] + c * moved[2] + d
        return out


@dataclass(frozen=True, eq=False)
class Head:
    """The head in the patient's place and shape, as its tissue lies before the tumour replaces some of it.

    Attributes:
        tissue: `Tissue` of each voxel, beyond the stripped brain too.
        brain: The stripped brain.
        inside_mm: See `Anatomy`.
        depth_mm: See `Anatomy`.
        sulcus: See `Anatomy`.
        from_ventricle_mm: See `Anatomy`.
        midline_mm: Distance to the right of the middle of the head, shifted as the tissue is.
        fastigium_mm: See `Anatomy`.
    """

    tissue: LabelArray
    brain: BoolArray
    inside_mm: FloatArray
    depth_mm: FloatArray
    sulcus: FloatArray
    from_ventricle_mm: FloatArray
    midline_mm: FloatArray
    fastigium_mm: tuple[float, float, float]


def prepare_anatomy(labels: LabelMap) -> Anatomy:
    """Tell brain from the rest of the head, find the pose, and measure the distances texture and tumour need.

    Args:
        labels: FreeSurfer-style labels of a head or a brain, about 1 mm, any orientation.

    Raises:
        ValueError: The label map has no white matter.
    """
    labels, white = _crop(labels)
    grid, spacing = labels.grid, labels.grid.spacing
    tissue = _tell_apart(labels, white)
    pose = _pose(labels, tissue)
    inside = _strip(tissue, labels)
    _correct_septum(tissue, grid, pose)
    solid = np.isin(tissue, (Tissue.WHITE, Tissue.WHITE_LESION, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM))
    deep = solid | np.isin(tissue, (Tissue.THALAMUS, Tissue.CAUDATE, Tissue.PUTAMEN, Tissue.PALLIDUM))
    depth = np.asarray(ndimage.distance_transform_edt(deep, sampling=spacing), np.float32)
    from_ventricle = _distance_to(tissue == Tissue.VENTRICLE, spacing)
    fastigium = _fastigium(tissue, grid, pose)
    return Anatomy(tissue, grid, pose, inside, depth, _sulci(tissue, spacing), from_ventricle, fastigium)


# --- telling brain from the rest of the head --------------------------------------------------------------------------


def _crop(labels: LabelMap) -> tuple[LabelMap, BoolArray]:
    """The part around the brain, and the white matter in it that is the brain's own."""
    white = np.isin(labels.data, (2, 41))
    if not white.any():
        raise ValueError("the label map has no white matter (labels 2 and 41)")
    step = max(1, round(1.0 / min(labels.grid.spacing)))
    # Erosion cuts the threads by which the falx hangs on the corpus callosum; the large pieces are the brain's.
    pieces, _ = ndimage.label(ndimage.binary_erosion(white, iterations=step))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    seed = np.isin(pieces, np.flatnonzero(sizes >= 0.1 * sizes.max())) if sizes.max() else white
    # Cerebellum and brainstem reach below it; their labels are used once.
    sure = seed | np.isin(labels.data, (7, 8, 16, 46, 47))
    margin = 14 * step
    bounds = []
    for axis, n in enumerate(sure.shape):
        occupied = np.flatnonzero(sure.any(axis=tuple({0, 1, 2} - {axis})))
        bounds.append((max(int(occupied[0]) - margin, 0), min(int(occupied[-1]) + margin + 1, n)))
    box = (slice(*bounds[0]), slice(*bounds[1]), slice(*bounds[2]))
    shift = np.eye(4)
    shift[:3, 3] = [start for start, _ in bounds]
    data = np.ascontiguousarray(labels.data[box])
    cropped = LabelMap(data, Grid(data.shape, labels.grid.affine @ shift), labels.source)
    return cropped, ndimage.binary_dilation(seed[box], iterations=6 * step, mask=white[box])


def _tell_apart(labels: LabelMap, true_white: BoolArray) -> LabelArray:
    """``(I, J, K)`` uint8 of `Tissue`; bone and marrow that carry labels of the left hemisphere become OUTSIDE."""
    data = labels.data
    lut = np.zeros(256, np.uint8)
    for label, kind in _TISSUE_OF_LABEL.items():
        lut[label] = kind
    tissue: LabelArray = lut[data]
    step = max(1, round(1.0 / min(labels.grid.spacing)))
    # Cortex is what can be reached from white matter in a cortex's thickness; the skull lies behind fluid.
    reach = true_white | (data == 3)
    true_cortex = ndimage.binary_dilation(true_white, iterations=5 * step, mask=reach) & (data == 3)
    others = (tissue > 0) & ~np.isin(data, (2, 3, 4, 24))
    brain = true_white | true_cortex | others
    pieces, count = ndimage.label(data == 4)
    touching = np.zeros(count + 1, bool)
    touching[np.unique(pieces[ndimage.binary_dilation(brain & ~true_cortex)])] = True
    touching[0] = False
    true_ventricle = touching[pieces]
    venous = (data == 2) & ~true_white
    tissue[venous] = Tissue.OUTSIDE
    tissue[(data == 3) & ~true_cortex] = Tissue.OUTSIDE
    tissue[(data == 4) & ~true_ventricle] = Tissue.OUTSIDE
    # What is left of the reused labels lies far from any brain: keep the piece around the white matter only.
    pieces, _ = ndimage.label(tissue > 0)
    tissue[pieces != np.bincount(pieces[true_white]).argmax()] = Tissue.OUTSIDE
    beside = ndimage.binary_dilation(tissue > 0, iterations=4 * step)
    tissue[venous & beside] = Tissue.VENOUS
    return tissue


def _strip(tissue: LabelArray, labels: LabelMap) -> FloatArray:
    """Distance to the surface of the stripped brain, negative outside; puts right what lies enclosed in it.

    Sulci are closed and about a millimetre of fluid stays outside the gyri, as stripping programs leave it.
    """
    spacing = labels.grid.spacing
    parenchyma = (tissue > 0) & (tissue != Tissue.CSF) & (tissue != Tissue.VENOUS)
    near = ndimage.distance_transform_edt(~parenchyma, sampling=spacing) <= 9.0
    brain = ndimage.distance_transform_edt(near, sampling=spacing) > 7.6
    # Bone within the closed hull stays out; what is enclosed by brain cannot be bone.
    unknown, _ = ndimage.label(tissue == Tissue.OUTSIDE)
    bone = np.isin(unknown, np.unique(unknown[~brain])) & (unknown > 0)
    enclosed = (unknown > 0) & ~bone
    tissue[enclosed] = np.where(labels.data[enclosed] == 3, np.uint8(Tissue.CORTEX), np.uint8(Tissue.CSF))
    brain = ndimage.gaussian_filter((brain & ~bone).astype(np.float32), [1.0 / mm for mm in spacing]) > 0.5
    # Stubs of nerves and vessels that hang on by a thread are cut off.
    pieces, count = ndimage.label(ndimage.binary_erosion(brain, iterations=2) if brain.size > 1e6 else brain)
    if count > 1:
        kept = pieces == np.bincount(pieces[pieces > 0]).argmax()
        brain &= ndimage.binary_dilation(kept, iterations=4)
    within = ndimage.distance_transform_edt(brain, sampling=spacing)
    return np.asarray(within - ndimage.distance_transform_edt(~brain, sampling=spacing), np.float32)


def _correct_septum(tissue: LabelArray, grid: Grid, pose: Matrix) -> None:
    """In front of the foramina what the maps call choroid plexus is septum and fornix: white, not enhancing."""
    spots = np.argwhere(tissue == Tissue.CHOROID_PLEXUS)
    patient = (grid.to_world(spots) - pose[:3, 3]) @ pose[:3, :3]
    septum = spots[(np.abs(patient[:, 0]) < 6) & (patient[:, 1] > -12)]
    tissue[septum[:, 0], septum[:, 1], septum[:, 2]] = Tissue.WHITE


# --- pose and distances -----------------------------------------------------------------------------------------------


def _pose(labels: LabelMap, tissue: LabelArray) -> Matrix:
    """World of the simulated patient -> world of the label map: rigid, by least squares over known structures."""
    here, there = [], []
    counts = np.bincount(labels.data.ravel(), minlength=256)
    for label, place in _LANDMARKS.items():
        if counts[label] >= 50:
            here.append(_centre(labels.data == label, labels.grid))
            there.append(np.array(place, float))
    pose = np.eye(4)
    if len(here) >= 8:
        a, b = np.array(there), np.array(here)
        u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
        turn = vt.T @ np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
        pose[:3, :3] = turn
        pose[:3, 3] = b.mean(0) - turn @ a.mean(0)
        return pose
    # Too few structures to tell how the head is turned: the middle of the brain goes where it lies in other heads.
    pose[:3, 3] = _centre(tissue > 0, labels.grid) - np.array([0.0, -18.0, 5.0])
    return pose


def _fastigium(tissue: LabelArray, grid: Grid, pose: Matrix) -> tuple[float, float, float]:
    """See `Anatomy`: in front of and above the cerebellum's centre."""
    cerebellum = np.isin(tissue, (Tissue.CEREBELLAR_WHITE, Tissue.CEREBELLAR_CORTEX))
    if not cerebellum.any():
        return (0.0, -45.0, -30.0)
    x, y, z = np.linalg.inv(pose)[:3, :3] @ (_centre(cerebellum, grid) - pose[:3, 3])
    return (float(x), float(y) + 12.0, float(z) + 4.0)


def _sulci(tissue: LabelArray, spacing: tuple[float, float, float]) -> FloatArray:
    """Where the cortex of two banks touches: the ridge of the distance from white matter is fluid in truth."""
    white = np.isin(tissue, (Tissue.WHITE, Tissue.WHITE_LESION))
    away = np.asarray(ndimage.distance_transform_edt(~white, sampling=spacing), np.float32)
    smooth = ndimage.gaussian_filter(away, 0.5)
    steep = np.sqrt(sum(g**2 for g in np.gradient(smooth, *spacing)))
    ridge = np.clip((0.8 - steep) / 0.45, 0, 1) * np.clip((away - 1.2) / 1.2, 0, 1)
    return np.asarray(np.where(tissue == Tissue.CORTEX, ridge, 0), np.float32)


def _distance_to(mask: BoolArray, spacing: tuple[float, float, float]) -> FloatArray:
    if not mask.any():
        return np.full(mask.shape, 99.0, np.float32)
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing), np.float32)


def _centre(mask: BoolArray, grid: Grid) -> Matrix:
    middle = [
        float(np.average(np.arange(n), weights=mask.sum(axis=tuple({0, 1, 2} - {a})))) for a, n in enumerate(mask.shape)
    ]
    return np.asarray(grid.to_world(np.array([middle]))[0])


# --- looking up -------------------------------------------------------------------------------------------------------


def _interpolate(values: FloatArray, where: FloatArray, outside: float) -> FloatArray:
    return np.asarray(ndimage.map_coordinates(values, where, order=1, mode="constant", cval=outside), np.float32)


def _nearest(tissue: LabelArray, where: FloatArray) -> LabelArray:
    nearest = np.rint(where).astype(np.int32)
    within = np.ones(where.shape[1:], bool)
    for axis, n in enumerate(tissue.shape):
        within &= (nearest[axis] >= 0) & (nearest[axis] < n)
        np.clip(nearest[axis], 0, n - 1, out=nearest[axis])
    return np.where(within, tissue[nearest[0], nearest[1], nearest[2]], np.uint8(0))
