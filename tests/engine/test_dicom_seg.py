"""A result as a DICOM Segmentation: opened again by others, it lies on the patient where the mask lies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from engine import dicom, dicom_seg, nifti
from engine.errors import CannotWrite, UnreadableImage
from engine.inference import Segmentation
from engine.model_card import Architecture, ModelCard, Role
from engine.progress import Progress
from engine.volume import Grid, LabelMap, Sequence
from engine.workshop import Workshop
from tests.engine import fake_dicom
from tests.engine.fake_dicom import Examination

T1, T1CE, T2, FLAIR = Sequence


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    place = tmp_path / "temporary"
    place.mkdir()
    with Workshop(place) as made:
        yield made


def a_result(mask: LabelMap, corrections: int = 0) -> Segmentation:
    card = ModelCard(
        name="t2-student",
        title="T2 student",
        version="1.2",
        role=Role.STUDENT,
        sequences=(T2,),
        spacing_mm=2.0,
        window=(96, 112, 96),
        architecture=Architecture("dynunet"),
        files={"network.xml": "0" * 64},
    )
    volumes = {"whole_tumour": mask.ml(mask.whole_tumour), "tumour_core": mask.ml(mask.tumour_core)}
    return Segmentation(mask, {}, volumes, card, (T2,), "CPU", "bf16", 1.0, edited_by_hand=corrections)


def lopsided(grid: Grid) -> LabelMap:
    """A tumour that looks different from every side, reaching from the first slice on, with a core."""
    labels = np.zeros(grid.shape, np.uint8)
    i, j, k = (n // 3 for n in grid.shape)
    labels[i : 2 * i + 3, j : j + 5, : k + 2] = 2
    labels[i : i + 2, j : j + 2, 1:k] = 1
    labels[i + 2, j - 2 : j + 1, k] = 2
    return LabelMap(labels, grid)


def of(study: dicom.Study, sequence: Sequence, workshop: Workshop) -> tuple[dicom.Series, LabelMap]:
    """A series, and a mask on the file it was converted to."""
    converted = dicom.convert(study.chosen[sequence], workshop, Progress())
    volume = nifti.read(converted.path, index=converted.index)
    return converted.series, lopsided(volume.grid)


def look(folder: Path, workshop: Workshop) -> dicom.Study:
    (study,) = dicom.look([folder], workshop, Progress())
    return study


def found_by_highdicom(path: Path, mask: LabelMap) -> NDArray[np.uint8]:
    """The labels of a segmentation as highdicom reads it, put on the grid of the mask by their places alone."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=False)
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    labels = np.zeros(mask.grid.shape, np.uint8)
    for segment, label in ((0, 2), (1, 1)):
        at = np.argwhere(volume.array[..., segment])
        voxels = mask.grid.to_voxel(at @ to_ras[:3, :3].T + to_ras[:3, 3])
        assert np.abs(voxels - np.rint(voxels)).max(initial=0) < 0.02
        labels[tuple(np.rint(voxels).astype(int).T)] = label
    return labels


def complaints(path: Path) -> list[str]:
    """What David Clunie's validator has against a file."""
    program = Path(sys.executable).with_name("dciodvfy" + (".exe" if sys.platform == "win32" else ""))
    ran = subprocess.run([shutil.which(program) or "dciodvfy", "-new", path], capture_output=True, text=True)
    assert "Segmentation" in ran.stdout + ran.stderr
    return [line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith(("Error", "Abort"))]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_others_find_the_same_voxels_at_the_same_places(plane: str, tmp_path: Path, workshop: Workshop) -> None:
    made = Examination(tmp_path / "in")
    made.series(fake_dicom.T2, 3, fake_dicom.grid(plane, (8, 6, 8), (5.0, -7.0, 6.0)))
    series, mask = of(look(tmp_path / "in", workshop), T2, workshop)
    written = dicom_seg.write(a_result(mask), mask, series, tmp_path / "seg.dcm")
    assert (written.exact, written.note) == (True, "")
    np.testing.assert_array_equal(found_by_highdicom(written.path, mask), mask.data)
    assert complaints(written.path) == []


def test_every_image_of_the_series_is_referred_to_and_each_frame_to_its_own(tmp_path: Path, workshop: Workshop) -> None:
    files = Examination(tmp_path / "in").series(fake_dicom.T2, 3, fake_dicom.grid(spacing=(8, 8, 6)))
    series, mask = of(look(tmp_path / "in", workshop), T2, workshop)
    dataset = pydicom.dcmread(dicom_seg.write(a_result(mask), mask, series, tmp_path / "seg.dcm").path)
    sources = {header.SOPInstanceUID: header for header in map(pydicom.dcmread, files)}
    [referenced] = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == next(iter(sources.values())).SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == set(sources)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        theirs = sources[source.ReferencedSOPInstanceUID].ImagePositionPatient
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, theirs, atol=1e-4)


@pytest.mark.parametrize("echoes", [(), (20.0, 100.0)])
def test_frames_of_one_file_are_referred_to_by_their_numbers(
    echoes: tuple[float, ...], tmp_path: Path, workshop: Workshop
) -> None:
    file = Examination(tmp_path / "in").enhanced(fake_dicom.T2, 3, fake_dicom.grid(spacing=(8, 8, 6)), echoes)
    series, mask = of(look(tmp_path / "in", workshop), T2, workshop)
    path = dicom_seg.write(a_result(mask), mask, series, tmp_path / "seg.dcm").path
    np.testing.assert_array_equal(found_by_highdicom(path, mask), mask.data)
    assert complaints(path) == []
    theirs = pydicom.dcmread(file).PerFrameFunctionalGroupsSequence
    numbers = set()
    for frame in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        numbers.add(source.ReferencedFrameNumber)
        its = theirs[source.ReferencedFrameNumber - 1].PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, its, atol=1e-4)
    of_the_echo = {image.frame + 1 for image in series.slices if image.frame is not None}
    assert numbers <= of_the_echo


def test_it_says_what_it_shows_who_made_it_and_whose_it_is(tmp_path: Path, workshop: Workshop) -> None:
    Examination(tmp_path / "in").series(fake_dicom.T2, 3)
    series, mask = of(look(tmp_path / "in", workshop), T2, workshop)
    result = a_result(mask, corrections=2)
    dataset = pydicom.dcmread(dicom_seg.write(result, mask, series, tmp_path / "seg.dcm").path)
    whole, core = dataset.SegmentSequence
    for segment, label, code in ((whole, "Whole tumour", "52988006"), (core, "Tumour core", "108369006")):
        assert segment.SegmentLabel == label
        [kind] = segment.SegmentedPropertyTypeCodeSequence
        assert (kind.CodingSchemeDesignator, kind.CodeValue) == ("SCT", code)
        assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Gliascope t2-student", "1.2")
        assert result.card.fingerprint in algorithm.AlgorithmParameters
    assert dataset.ContentDescription == "Tumour outlined by Gliascope, corrected by hand (2 corrections)"
    assert "Research use only" in dataset.ImageComments
    assert (dataset.PatientName, dataset.PatientID) == (fake_dicom.NAME, fake_dicom.IDENTITY)
    assert dataset.StudyInstanceUID == series.slices[0].study_uid
    assert dataset.SeriesInstanceUID != series.slices[0].series_uid
    assert "Nirgendwo" not in str(dataset)  # what files nothing stays behind


def test_odd_headers_neither_stop_it_nor_get_into_it(tmp_path: Path, workshop: Workshop) -> None:
    made = Examination(tmp_path / "in", name="Mümmelmann^Jürgen")
    odd = {"PatientSex": "0000", "StudyTime": "noon", "PatientWeight": "", "SpecificCharacterSet": "ISO_IR 100"}
    made.series(fake_dicom.T2, 3, **odd)
    series, mask = of(look(tmp_path / "in", workshop), T2, workshop)
    path = dicom_seg.write(a_result(mask), mask, series, tmp_path / "seg.dcm").path
    dataset = pydicom.dcmread(path)
    assert (dataset.PatientSex, dataset.StudyTime) == ("", "")
    assert str(dataset.PatientName) == "Mümmelmann^Jürgen"
    assert complaints(path) == []


def test_a_mask_with_nothing_in_it_is_a_segmentation_that_says_so(tmp_path: Path, workshop: Workshop) -> None:
    Examination(tmp_path / "in").series(fake_dicom.T2, 3)
    series, mask = of(look(tmp_path / "in", workshop), T2, workshop)
    nothing = LabelMap(np.zeros_like(mask.data), mask.grid)
    path = dicom_seg.write(a_result(nothing), nothing, series, tmp_path / "seg.dcm").path
    assert not highdicom.seg.segread(path).pixel_array.any()
    assert len(pydicom.dcmread(path).SegmentSequence) == 2
    assert complaints(path) == []


def test_pixels_between_voxels_have_the_nearest_and_it_says_so(tmp_path: Path, workshop: Workshop) -> None:
    Examination(tmp_path / "in").series(fake_dicom.T2, 3)
    series, mask = of(look(tmp_path / "in", workshop), T2, workshop)
    affine = mask.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (0.2, 0.0, 0.0)
    shifted = LabelMap(mask.data, Grid(mask.grid.shape, affine))
    written = dicom_seg.write(a_result(shifted), shifted, series, tmp_path / "seg.dcm")
    assert not written.exact
    assert "the nearest voxel" in written.note
    assert dicom_seg.read(written.path, series.slices)[..., 0].sum() == shifted.whole_tumour.sum()


def test_a_disc_that_was_taken_out_is_told_and_leaves_nothing(tmp_path: Path, workshop: Workshop) -> None:
    Examination(tmp_path / "in").series(fake_dicom.T2, 3)
    series, mask = of(look(tmp_path / "in", workshop), T2, workshop)
    shutil.rmtree(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UnreadableImage, match="cannot be read any more") as told:
        dicom_seg.write(a_result(mask), mask, series, out / "seg.dcm")
    assert not any(secret in str(told.value) for secret in fake_dicom.SECRETS)
    assert list(out.iterdir()) == []
    lost = replace(series, slices=tuple(replace(image, position=None) for image in series.slices))
    with pytest.raises(CannotWrite, match="does not say where its slices lie"):
        dicom_seg.write(a_result(mask), mask, lost, out / "seg.dcm")


def test_a_real_examination_comes_back_the_same(shared: Path, tmp_path: Path, workshop: Workshop) -> None:
    study = look(shared / "clinical" / "dicom_three_sequences", workshop)
    series, mask = of(study, FLAIR, workshop)
    written = dicom_seg.write(a_result(mask), mask, series, tmp_path / "seg.dcm")
    assert written.exact
    np.testing.assert_array_equal(found_by_highdicom(written.path, mask), mask.data)
    assert complaints(written.path) == []
