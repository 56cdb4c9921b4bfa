"""Reading and writing NIfTI: where voxels lie, what they are worth, and what is refused with which sentence."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine import nifti
from engine.errors import CannotWrite, ChooseVolume, UnreadableImage, UserError
from engine.nifti import Convention
from engine.volume import Grid, LabelMap, Sequence
from tests.engine import phantoms

CENTRE = (3.0, -5.0, 7.0)
HEADER = 348


def sentence(path: Path, **how: object) -> str:
    """What the user is told when a file cannot be read."""
    with pytest.raises(UnreadableImage) as caught:
        nifti.read(path, **how)  # type: ignore[arg-type]
    assert_plain(str(caught.value))
    return str(caught.value)


def assert_plain(text: str) -> None:
    assert text.endswith(".")
    assert "!" not in text
    assert "\n" not in text
    assert "Errno" not in text
    assert not re.search(r"\w+Error|\\u", text)


def a_head(path: Path, dtype: str = "<i2", **fields: object) -> Path:
    head = phantoms.head(phantoms.grid("LPS"))
    return phantoms.write(path, np.rint(head.data), np.array(head.grid.affine), dtype=dtype, **fields)


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_every_orientation_keeps_left_front_and_top(orientation: str, tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid(orientation, oblique=(0, 0, 10), spacing=(1.0, 0.9, 1.2)))
    path = phantoms.write_volume(tmp_path / "head.nii.gz", head)
    volume = nifti.read(path, Sequence.T1)
    assert volume.grid.orientation == orientation
    assert volume.oriented
    assert volume.sequence is Sequence.T1
    np.testing.assert_array_equal(volume.data, np.rint(head.data))
    np.testing.assert_allclose(volume.grid.affine, nib.load(path).affine)
    for marker, value in (
        (phantoms.LEFT_MARKER, phantoms.LEFT_VALUE),
        (phantoms.FRONT_MARKER, phantoms.FRONT_VALUE),
        (phantoms.TOP_MARKER, phantoms.TOP_VALUE),
    ):
        assert phantoms.value_at(volume, marker, CENTRE) == value


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 4)], ids=["sform", "qform", "both"])
def test_the_affine_is_nibabels(orientation: str, codes: tuple[int, int], tmp_path: Path) -> None:
    grid = phantoms.grid(orientation, oblique=(8.0, -15.0, 20.0), spacing=(0.5, 0.5, 6.0))
    path = phantoms.write(tmp_path / "a.nii", phantoms.head(grid).data, np.array(grid.affine), *codes)
    read, oriented = nifti.read_grid(path)
    np.testing.assert_allclose(read.affine, nib.load(path).affine, atol=1e-5)
    np.testing.assert_allclose(read.affine, grid.affine, atol=1e-4)
    assert oriented


def test_where_both_forms_disagree_the_sform_is_believed(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz", qoffset_x=77.0, quatern_b=1.0, quatern_c=0.0, quatern_d=0.0)
    np.testing.assert_allclose(nifti.read_grid(path)[0].affine, phantoms.grid("LPS").affine, atol=1e-5)


def test_a_broken_sform_leaves_the_qform(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz", srow_x=0, srow_y=0, srow_z=0)
    np.testing.assert_allclose(nifti.read_grid(path)[0].affine, phantoms.grid("LPS").affine, atol=1e-5)


def test_without_orientation_the_usual_guess_is_made_and_marked(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz", sform_code=0, qform_code=0)
    volume = nifti.read(path)
    assert not volume.oriented
    np.testing.assert_allclose(volume.grid.affine, nib.load(path).affine)


def test_a_zero_qfac_means_one(tmp_path: Path) -> None:
    grid = phantoms.grid("RAS")
    pixdim = [0, 1, 1, 1, 0, 0, 0, 0]
    path = phantoms.write(tmp_path / "a.nii", phantoms.head(grid).data, np.array(grid.affine), 0, 1, pixdim=pixdim)
    assert nifti.read_grid(path)[0].orientation == "RAS"


def test_zero_voxel_sizes_do_not_matter_beside_an_sform(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz", pixdim=[1, 0, 0, 0, 0, 0, 0, 0])
    assert nifti.read(path).grid.spacing == pytest.approx((1, 1, 1))


def test_zero_voxel_sizes_without_an_sform_are_refused(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz", pixdim=[1, 0, 0, 0, 0, 0, 0, 0], sform_code=0)
    assert sentence(path) == (
        "The header of a.nii.gz does not place its voxels in space (its orientation matrix is singular or not finite). "
        "Export it again from the program that made it."
    )


def test_neither_orientation_nor_voxel_size_is_refused(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz", pixdim=[1, 0, 1, 1, 0, 0, 0, 0], sform_code=0, qform_code=0)
    assert "gives neither orientation nor voxel size" in sentence(path)


def test_a_singular_or_infinite_sform_alone_is_refused(tmp_path: Path) -> None:
    assert "singular" in sentence(a_head(tmp_path / "a.nii.gz", srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0], qform_code=0))
    assert "not finite" in sentence(a_head(tmp_path / "b.nii.gz", srow_x=[np.nan, 0, 0, 0], qform_code=0))


def test_axes_that_are_not_quite_perpendicular_are_accepted(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz", srow_x=[-1, 0.01, 0.02, 10])
    assert nifti.read(path).grid.orientation == "LPS"


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_number_format_and_byte_order(kind: str, order: str, ending: str, tmp_path: Path) -> None:
    grid = phantoms.grid("PIR")
    values = np.rint(phantoms.head(grid).data / 4)
    path = phantoms.write(tmp_path / f"a{ending}", values, np.array(grid.affine), dtype=order + kind)
    volume = nifti.read(path)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, values)
    np.testing.assert_allclose(volume.grid.affine, grid.affine, atol=1e-5)


@pytest.mark.parametrize("order", ["<", ">"])
def test_scaled_integers(order: str, tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz", dtype=f"{order}i2")
    with gzip.open(path) as packed:
        raw = bytearray(packed.read())
    raw[112:120] = np.array([0.25, -3.0], f"{order}f4").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))
    expected = np.rint(phantoms.head(phantoms.grid("LPS")).data) * 0.25 - 3
    np.testing.assert_allclose(nifti.read(path).data, expected, rtol=1e-6)
    np.testing.assert_allclose(nifti.read(path).data, nib.load(path).get_fdata(), rtol=1e-6)


@pytest.mark.parametrize(("slope", "inter"), [(0.0, 5.0), (np.nan, np.nan), (np.inf, 0.0), (1.0, np.nan)])
def test_a_slope_of_zero_or_nothing_means_not_scaled(slope: float, inter: float, tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(bytes(raw))
    assert nifti.read(path).data.max() == phantoms.TOP_VALUE


def test_voxels_may_begin_after_extensions_or_at_no_offset_at_all(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a name that must not travel"))
    path = tmp_path / "a.nii"
    nib.save(image, path)
    np.testing.assert_array_equal(nifti.read(path).data, np.arange(60).reshape(3, 4, 5))
    plain = a_head(tmp_path / "b.nii")
    raw = bytearray(plain.read_bytes())
    raw[108:112] = bytes(4)
    plain.write_bytes(bytes(raw))
    assert nifti.read(plain).data.max() == phantoms.TOP_VALUE


def test_nifti_2_and_several_gzip_members(tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid("LPS"))
    path = tmp_path / "two.nii.gz"
    nib.save(nib.Nifti2Image(head.data, head.grid.affine), path)
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]))
    volume = nifti.read(path)
    np.testing.assert_array_equal(volume.data, head.data)
    np.testing.assert_allclose(volume.grid.affine, head.grid.affine)


# --- several volumes --------------------------------------------------------------------------------------------------


def test_a_fourth_axis_of_one_is_dropped(tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid("LPS"))
    path = phantoms.write(tmp_path / "a.nii.gz", head.data[..., None, None], np.array(head.grid.affine))
    assert nifti.read(path).data.shape == head.data.shape


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_time_series_offers_its_volumes(ending: str, tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid("LPS"))
    series = np.stack([head.data + n for n in range(3)], axis=-1)
    path = phantoms.write(tmp_path / f"fmri{ending}", series, np.array(head.grid.affine))
    with pytest.raises(ChooseVolume) as caught:
        nifti.read(path)
    assert caught.value.count == 3
    assert str(caught.value) == f"fmri{ending} holds 3 volumes, not one (24 x 28 x 20 x 3). Choose one of them."
    for index in range(3):
        np.testing.assert_array_equal(nifti.read(path, index=index).data, head.data + index)
    with pytest.raises(ChooseVolume, match="has no volume 4"):
        nifti.read(path, index=3)


@pytest.mark.parametrize("shape", [(24, 28), (24, 28, 1), (24, 1, 20), (24,)])
def test_a_single_slice_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = phantoms.write(tmp_path / "a.nii.gz", np.arange(np.prod(shape), dtype=np.float32).reshape(shape), np.eye(4))
    assert "a.nii.gz is a single slice, not a volume" in sentence(path)


# --- files that are not images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_an_empty_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{ending}"
    path.touch()
    assert sentence(path) == f"scan{ending} is empty (0 bytes). Copy it again from its source."


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"patient,age\n1,52\n" * 40, "it is a text file"),
        (b"short", "it is a text file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "it is a PNG picture"),
        (bytes(128) + b"DICM" + bytes(500), "it is a DICOM file"),
        (bytes(1000), "its header is missing"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_another_kind_of_file_renamed(content: bytes, kind: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("scan.nii.gz" if packed else "scan.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert sentence(path) == f"{path.name} is not a NIfTI image ({kind}). Choose a .nii or .nii.gz file."


def test_text_named_as_if_compressed(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_text("not gzip at all")
    assert sentence(path) == (
        "scan.nii.gz is not compressed although its name ends in .gz (it is a text file). "
        "Copy it again from its source."
    )
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 2000000\n")
    assert "it is a Git LFS pointer" in sentence(path)
    path.write_bytes(bytes(range(256)))
    assert sentence(path) == (
        "scan.nii.gz is not compressed although its name ends in .gz. Copy it again from its source."
    )


def test_a_name_that_contradicts_the_content_says_the_right_one(tmp_path: Path) -> None:
    plain = a_head(tmp_path / "a.nii")
    packed = a_head(tmp_path / "b.nii.gz")
    plain = plain.rename(tmp_path / "a.nii.gz")
    packed = packed.rename(tmp_path / "b.nii")
    assert sentence(plain).endswith("Rename it to a.nii.")
    assert sentence(packed).endswith("Rename it to b.nii.gz.")


@pytest.mark.parametrize("fraction", [0.01, 0.02, 0.3, 0.9, 0.999])
def test_a_truncated_compressed_file(fraction: float, tmp_path: Path) -> None:
    path = a_head(tmp_path / "scan.nii.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    assert "scan.nii.gz stops in the middle" in sentence(path)


def test_how_much_is_missing_is_said(tmp_path: Path) -> None:
    path = a_head(tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes()[:9000])
    assert sentence(path) == (
        "scan.nii stops in the middle (expected 27.2 kB, found 9.0 kB). Copy it again from its source."
    )


def test_a_truncated_header(tmp_path: Path) -> None:
    path = a_head(tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes()[:200])
    assert "stops in the middle (expected 348 bytes, found 200 bytes)" in sentence(path)


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    path = a_head(tmp_path / "scan.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0xFF  # the checksum
    path.write_bytes(bytes(raw))
    assert "scan.nii.gz is damaged" in sentence(path)
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(bytes(raw))
    sentence(path)


def test_a_header_that_promises_terabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = a_head(tmp_path / "scan.nii.gz", dim=[4, 1000, 1000, 1000, 30000, 1, 1, 1])
    assert "scan.nii.gz stops in the middle" in sentence(path, index=0)
    path = a_head(tmp_path / "big.nii.gz", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    assert "is too large to open" in sentence(path)


def test_damaged_sizes(tmp_path: Path) -> None:
    path = a_head(tmp_path / "scan.nii.gz", dim=[3, 24, -28, 20, 1, 1, 1, 1])
    assert "it gives the image sizes 24 x -28 x 20" in sentence(path)


def test_colours_and_complex_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.complex64), np.eye(4)), path)
    assert "is not a grey-scale image (its voxels are complex numbers)" in sentence(path)
    colours = np.zeros((3, 4, 5), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(colours, np.eye(4)), path)
    assert "colours" in sentence(path)


def test_half_of_a_pair(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii", magic=b"ni1")
    raw = bytearray(path.read_bytes())
    raw[344:348] = b"ni1\x00"
    path.write_bytes(bytes(raw))
    assert "is not a whole NIfTI image" in sentence(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_voxels_that_are_not_numbers_are_counted(value: float, dtype: str, tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid("LPS"))
    data = head.data.astype(np.float64)
    data[3:5, 4, 5:10] = value
    path = phantoms.write(tmp_path / "a.nii.gz", data, np.array(head.grid.affine), dtype=dtype)
    assert "a.nii.gz holds voxels that are not numbers (NaN or infinite in 10 of 13,440)" in sentence(path)


def test_values_no_single_precision_number_can_hold(tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid("LPS"))
    path = phantoms.write(tmp_path / "a.nii.gz", head.data.astype(np.float64) * 1e300, np.array(head.grid.affine))
    assert "not numbers" in sentence(path)


@pytest.mark.parametrize("value", [0, 7])
def test_an_image_of_one_value(value: int, tmp_path: Path) -> None:
    path = phantoms.write(tmp_path / "a.nii.gz", np.full((5, 6, 7), value, np.int16), np.eye(4))
    assert sentence(path) == (
        f"a.nii.gz is empty: every voxel is {value}. Export it again from the program that made it."
    )


def test_a_folder_a_missing_file_and_a_name_too_long(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").mkdir()
    assert "is a folder, not an image" in sentence(tmp_path / "scan.nii.gz")
    assert sentence(tmp_path / "gone.nii.gz") == "gone.nii.gz is not there. It may have been moved; choose it again."
    told = sentence(tmp_path / f"{'x' * 400}.nii.gz")
    assert "is too long" in told
    assert len(told) < 250


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="runs as root: permissions do not bind")
def test_a_file_that_may_not_be_opened(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz")
    path.chmod(0)
    assert "may not be opened" in sentence(path)


def test_a_refused_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = a_head(tmp_path / "a.nii.gz")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert sentence(path) == "a.nii.gz may not be opened. Ask its owner for permission to read it."


def test_names_in_any_script_and_paths_of_any_length(tmp_path: Path) -> None:
    folder = tmp_path / "Ångström 患者 Пациент" / ("deep" * 40) / ("deeper" * 30)
    path = a_head(folder / "Kopf 頭 ñ.nii.gz")
    assert nifti.read(path).data.max() == phantoms.TOP_VALUE
    target = folder / "結果_seg.nii.gz"
    nifti.write_label_map(phantoms.tumour(phantoms.grid("LPS")), target, like=path)
    assert nifti.label_values(target) == {1, 2}


@pytest.mark.skipif(sys.platform != "linux", reason="other system: only Linux has names that are no text")
def test_a_name_that_is_no_text_can_still_be_said(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/scan\xff.nii.gz"))
    path.touch()
    assert sentence(path).encode("utf-8")


def test_names_of_nifti_files() -> None:
    assert nifti.is_nifti_name(Path("A.NII.GZ"))
    assert nifti.is_nifti_name(Path("a.nii"))
    assert not nifti.is_nifti_name(Path("._a.nii.gz"))
    assert not nifti.is_nifti_name(Path("a.nii.gz.part"))
    assert nifti.stem(Path("x/a.b.NII.gz")) == "a.b"


# --- label maps -------------------------------------------------------------------------------------------------------


def labels_file(path: Path, labels: list[int], dtype: str = "<u1") -> Path:
    data = np.zeros((4, 4, 4))
    data.flat[: len(labels)] = labels
    return phantoms.write(path, data, np.eye(4), dtype=dtype)


@pytest.mark.parametrize(
    ("convention", "theirs", "ours"),
    [
        (Convention.BRATS_2012_2021, [1, 2, 4], [1, 2, 1]),
        (Convention.BRATS_2012_2021, [1, 2, 3, 4], [1, 2, 1, 1]),
        (Convention.BRATS_2023, [1, 2, 3], [1, 2, 1]),
        (Convention.BRATS_2024, [1, 2, 3, 4], [1, 2, 1, 0]),
        (Convention.DECATHLON, [1, 2, 3], [2, 1, 1]),
        (Convention.GLIASCOPE, [1, 2], [1, 2]),
    ],
)
def test_each_convention(convention: Convention, theirs: list[int], ours: list[int], tmp_path: Path) -> None:
    path = labels_file(tmp_path / "a_seg.nii.gz", theirs)
    assert nifti.read_label_map(path, convention).data.flat[: len(ours)].tolist() == ours


@pytest.mark.parametrize(
    ("name", "labels", "convention"),
    [
        ("x_seg", [1, 2, 4], Convention.BRATS_2012_2021),
        ("x_seg", [4], Convention.BRATS_2012_2021),
        ("Brats18_2013_0_1_seg", [1, 2], Convention.BRATS_2012_2021),
        ("BraTS2021_00006_seg", [2], Convention.BRATS_2012_2021),
        ("BraTS-GLI-00001-000-seg", [1, 2, 3], Convention.BRATS_2024),
        ("BraTS-GLI-00001-000-seg", [1, 2, 4], Convention.BRATS_2024),
        ("BRATS_001", [1, 2, 3], Convention.DECATHLON),
        ("BRATS_001", [1], Convention.DECATHLON),
    ],
)
def test_a_convention_that_is_beyond_doubt_is_told(
    name: str, labels: list[int], convention: Convention, tmp_path: Path
) -> None:
    path = labels_file(tmp_path / f"{name}.nii.gz", labels)
    assert nifti.find_convention([path]) is convention
    nifti.read_label_map(path)


@pytest.mark.parametrize("labels", [[1, 2, 3], [1, 2], [1], [1, 2, 3, 4]])
def test_a_convention_in_doubt_is_asked_for(labels: list[int], tmp_path: Path) -> None:
    path = labels_file(tmp_path / "x_seg.nii.gz", labels)
    with pytest.raises(UserError) as caught:
        nifti.read_label_map(path)
    assert str(caught.value) == (
        f"x_seg.nii.gz does not say what the labels mean (they are {', '.join(map(str, labels))}). Name the "
        "convention: BraTS 2012-2021, BraTS 2023, BraTS 2024, Decathlon, Gliascope."
    )


def test_a_cohort_settles_what_one_file_leaves_open(tmp_path: Path) -> None:
    low_grade = labels_file(tmp_path / "a_seg.nii.gz", [1, 2])
    high_grade = labels_file(tmp_path / "b_seg.nii.gz", [1, 2, 4])
    assert nifti.find_convention([low_grade, high_grade]) is Convention.BRATS_2012_2021


def test_an_empty_segmentation_means_no_tumour_in_every_convention(tmp_path: Path) -> None:
    path = labels_file(tmp_path / "x_seg.nii.gz", [])
    assert nifti.label_values(path) == set()
    assert not nifti.read_label_map(path).data.any()


def test_labels_the_convention_lacks_are_named(tmp_path: Path) -> None:
    path = labels_file(tmp_path / "x_seg.nii.gz", [1, 2, 5])
    with pytest.raises(UnreadableImage, match=r"labels that BraTS 2023 does not have \(5\)"):
        nifti.read_label_map(path, Convention.BRATS_2023)


def test_labels_stored_as_floats(tmp_path: Path) -> None:
    path = labels_file(tmp_path / "x_seg.nii.gz", [1, 2, 4], dtype=">f4")
    assert nifti.label_values(path) == {1, 2, 4}


@pytest.mark.parametrize("odd", [0.5, -1.0, 300.0, np.nan])
def test_an_image_is_no_segmentation(odd: float, tmp_path: Path) -> None:
    data = np.zeros((4, 4, 4), np.float32)
    data[1, 1, 1] = odd
    path = phantoms.write(tmp_path / "x.nii.gz", data, np.eye(4))
    with pytest.raises(UnreadableImage, match=r"x\.nii\.gz is not a segmentation"):
        nifti.label_values(path)


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_a_mask_lies_where_its_scan_lies(orientation: str, tmp_path: Path) -> None:
    grid = phantoms.grid(orientation, oblique=(5.0, -3.0, 12.0), spacing=(0.7, 0.8, 3.0))
    scan = phantoms.write_volume(tmp_path / "scan.nii.gz", phantoms.head(grid))
    read = nifti.read(scan)
    mask = phantoms.tumour(read.grid)
    path = tmp_path / "mask.nii.gz"
    nifti.write_label_map(mask, path, like=scan)
    written, original = nib.load(path), nib.load(scan)
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask.data)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, original.affine)
    np.testing.assert_array_equal(written.get_qform(), original.get_qform())


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (0, 0), (4, 2)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_forms_and_their_codes_are_kept_even_where_they_disagree(
    codes: tuple[int, int], order: str, tmp_path: Path
) -> None:
    head = phantoms.head(phantoms.grid("LPS"))
    scan = phantoms.write(
        tmp_path / "scan.nii.gz", head.data, np.array(head.grid.affine), *codes, f"{order}i2", qoffset_x=99.0
    )
    path = tmp_path / "mask.nii.gz"
    nifti.write_label_map(phantoms.tumour(nifti.read_grid(scan)[0]), path, like=scan)
    written, original = nib.load(path).header, nib.load(scan).header
    for field in ("sform_code", "qform_code", "qoffset_x", "quatern_b", "quatern_c", "quatern_d", "srow_x", "srow_y"):
        np.testing.assert_array_equal(written[field], original[field])
    np.testing.assert_array_equal(written["pixdim"][:4], original["pixdim"][:4])


def test_no_text_of_the_scans_header_travels(tmp_path: Path) -> None:
    secret = b"JANE DOE 1950"
    scan = a_head(tmp_path / "scan.nii", descrip=secret, aux_file=secret, intent_name=secret, db_name=secret)
    path = tmp_path / "mask.nii"
    nifti.write_label_map(phantoms.tumour(phantoms.grid("LPS")), path, like=scan)
    assert secret in scan.read_bytes()
    assert b"DOE" not in path.read_bytes()
    assert path.stat().st_size == 352 + 24 * 28 * 20


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    mask = phantoms.tumour(phantoms.grid("LPS"))
    other_order = LabelMap(np.asfortranarray(mask.data), mask.grid)
    nifti.write_label_map(mask, tmp_path / "a.nii.gz")
    nifti.write_label_map(other_order, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_volume_goes_out_and_comes_back(tmp_path: Path) -> None:
    head = phantoms.head(phantoms.grid("ASL", oblique=(10, 20, 30)), Sequence.FLAIR)
    for ending in (".nii", ".nii.gz"):
        nifti.write_volume(head, tmp_path / f"a{ending}")
        again = nifti.read(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(again.data, head.data)
        assert again.grid.same_as(head.grid, 1e-3)
        np.testing.assert_allclose(nib.load(tmp_path / f"a{ending}").affine, head.grid.affine, atol=1e-5)


def test_a_mask_of_another_grid_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    scan = a_head(tmp_path / "scan.nii.gz")
    with pytest.raises(ValueError, match="another grid"):
        nifti.write_label_map(phantoms.tumour(phantoms.grid("RAS")), tmp_path / "m.nii.gz", like=scan)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.nii.gz"]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (28, "There is no room on the disk for m.nii.gz. Free some space, then try again."),
        (30, "cannot be written to. Choose another folder."),
        (5, "m.nii.gz cannot be written (input/output error). Choose another folder."),
    ],
)
def test_a_failing_disk_leaves_what_was_there(
    number: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.nii.gz"
    target.write_bytes(b"before")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CannotWrite) as caught:
        nifti.write_label_map(phantoms.tumour(phantoms.grid()), target)
    assert str(caught.value).endswith(told)
    assert_plain(str(caught.value))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.nii.gz", b"before")]


def test_what_reads_back_differently_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "_GZIP_HEADER", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00")
    with pytest.raises(CannotWrite, match="was not stored as it should be"):
        nifti.write_label_map(phantoms.tumour(phantoms.grid()), tmp_path / "m.nii.gz")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="other system: Windows has no limit on the size of files")
def test_a_disk_that_really_is_full(tmp_path: Path) -> None:
    script = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from engine import nifti; from engine.errors import CannotWrite; from engine.volume import Grid, Volume\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "v = Volume(np.random.default_rng(0).random((20, 20, 20), np.float32), Grid((20, 20, 20), np.eye(4)))\n"
        "try: nifti.write_volume(v, Path(sys.argv[1]) / 'a.nii.gz')\n"
        "except CannotWrite as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout == "There is no room on the disk for a.nii.gz. Free some space, then try again.\n"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_or_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("gone", "file"):
        with pytest.raises(CannotWrite, match=f"There is no folder {folder} to write to"):
            nifti.write_label_map(phantoms.tumour(phantoms.grid()), tmp_path / folder / "m.nii.gz")


def test_a_name_too_long_to_write(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="is too long"):
        nifti.write_label_map(phantoms.tumour(phantoms.grid()), tmp_path / f"{'m' * 300}.nii.gz")
    assert not list(tmp_path.iterdir())


# --- being quick and modest -------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    data = np.zeros((240, 240, 155), np.int16)
    data[40:200, 30:210, 10:145] = rng.normal(600, 90, (160, 180, 135))
    return phantoms.write(tmp_path / "large.nii.gz", data, np.diag([-1.0, -1.0, 1.0, 1.0]))


def test_other_threads_keep_running_while_a_scan_is_read(large: Path) -> None:
    gaps: list[float] = []
    done = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not done.wait(0.001):
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    clock = threading.Thread(target=tick)
    clock.start()
    for _ in range(3):
        nifti.read(large)
    done.set()
    clock.join()
    assert len(gaps) > 20
    # A single call that kept the interpreter lock would show as one gap of its whole length in each of the runs.
    assert sorted(gaps)[-3] < 0.1


def test_a_large_scan_costs_little_more_than_its_own_voxels(large: Path) -> None:
    import tracemalloc

    nifti.read(large)
    tracemalloc.start()
    volume = nifti.read(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < volume.data.nbytes + 16e6


def test_real_scans_read_as_nibabel_reads_them(shared: Path) -> None:
    scans = (
        sorted(shared.glob("clinical/raw_with_skull_*/*.nii.gz")) + sorted(shared.glob("cohort/*/*_flair.nii.gz"))[:3]
    )
    assert len(scans) >= 9
    for scan in scans:
        volume, image = nifti.read(scan), nib.load(scan)
        np.testing.assert_array_equal(volume.data, image.get_fdata(dtype=np.float32))
        np.testing.assert_array_equal(volume.grid.affine, image.affine)


def test_real_truth_is_mapped_to_core_and_rest(shared: Path) -> None:
    truth = sorted(shared.glob("cohort/*/*_seg.nii.gz"))[0]
    theirs = np.asarray(nib.load(truth).dataobj)
    ours = nifti.read_label_map(truth)
    np.testing.assert_array_equal(ours.whole_tumour, theirs > 0)
    np.testing.assert_array_equal(ours.tumour_core, (theirs == 1) | (theirs == 4))


def test_a_grid_needs_only_the_header(tmp_path: Path) -> None:
    path = a_head(tmp_path / "a.nii.gz")
    grid, _ = nifti.read_grid(path)
    assert grid.same_as(Grid((24, 28, 20), phantoms.grid("LPS").affine))


def test_opening_files_asks_nothing_of_python_s_compiler(tmp_path, monkeypatch):
    """In Python 3.11 it fails now and then when several threads ask at once, and files are opened by several."""
    path = phantoms.write_volume(tmp_path / "scan.nii.gz", phantoms.head(phantoms.grid("LPS")))

    def refuse(*_: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr("ast.literal_eval", refuse)
    assert nifti.read(path).data.shape == phantoms.grid("LPS").shape
