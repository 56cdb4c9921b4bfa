from __future__ import annotations

import io
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Picture
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from engine import dicom, nifti
from engine.errors import Cancelled, SequenceProblem, UnreadableImage, UserError
from engine.progress import Progress
from engine.volume import Grid, Sequence, Volume
from engine.workshop import Workshop
from scripts import fuzz_inputs
from tests.engine import fake_dicom
from tests.engine.fake_dicom import Examination, Kind

ROOT = Path(__file__).resolve().parent.parent.parent
THICK = (8.0, 8.0, 8.0)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    place = tmp_path / "temporary"
    place.mkdir()
    with Workshop(place) as made:
        yield made
    assert list(place.iterdir()) == []


def look(*paths: Path, workshop: Workshop) -> dicom.Study:
    (study,) = dicom.look(paths, workshop, Progress())
    return study


def numbers(study: dicom.Study) -> dict[str, int]:
    return {sequence.value: series.number for sequence, series in study.chosen.items()}


def image(converted: dicom.Converted) -> Volume:
    return nifti.read(converted.path, index=converted.index)


def shows_the_head(volume: Volume, tolerance: float = 0.0) -> bool:
    """Whether every voxel has the value of the head at that place of the world."""
    expected = fake_dicom.voxels(Grid(volume.grid.shape, volume.grid.affine)).astype(np.float32)
    return bool(np.mean(np.abs(volume.data - expected) > tolerance) < 0.002)


# --- what is found ----------------------------------------------------------------------------------------------------


def test_an_examination_of_twelve_series_needs_no_help(tmp_path: Path, workshop: Workshop) -> None:
    fake_dicom.twelve_series(tmp_path / "export", flat=True)

    study = look(tmp_path / "export", workshop=workshop)

    assert numbers(study) == {"t1": 2, "t1ce": 11, "t2": 3, "flair": 4}
    assert study.doubts == ()
    assert min(series.sure for series in study.chosen.values()) > 0.9
    assert {series.number: series.left_out for series in study.series if series.left_out} == {
        1: "a scout", 5: "diffusion", 6: "a map", 7: "susceptibility", 8: "angiography", 9: "perfusion", 12: "derived",
    }  # fmt: skip
    assert any("T2 is series 3 (axial" in note and "series 10 (coronal" in note for note in study.notes)
    by_number = {series.number: series for series in study.series}
    assert by_number[11].plane == "sagittal"
    assert by_number[11].spacing_mm == pytest.approx((8, 8, 6))
    assert by_number[3].images == by_number[3].shape[2] == len(by_number[3].files)
    assert "TI 2500 ms" in by_number[4].why


def test_the_real_study_without_names_to_help(shared: Path, tmp_path: Path, workshop: Workshop) -> None:
    files = sorted((shared / "clinical" / "dicom_three_sequences").rglob("*.dcm"))
    random.Random(6).shuffle(files)
    for number, file in enumerate(files):
        shutil.copyfile(file, tmp_path / f"{number:03d}")

    study = look(tmp_path, workshop=workshop)

    folders = {sequence.value: {f.parent.name for f in files if f.read_bytes() == series.files[5].read_bytes()}
               for sequence, series in study.chosen.items()}  # fmt: skip
    assert folders == {"t1": {"T1"}, "t2": {"T2"}, "flair": {"FLAIR"}}
    assert study.doubts == ()
    assert study.notes == ("There is no T1ce.",)
    ready = dicom.subject_files(study, workshop, Progress())
    assert ready.uncertain == {Sequence.T1}  # nothing says that no contrast was given
    for sequence, path in ready.files.items():
        grid, oriented = nifti.read_grid(path)
        assert oriented
        assert grid.spacing[2] == pytest.approx(6.0, abs=1e-3)
        assert grid.shape == study.chosen[sequence].shape
        volume = nifti.read(path)
        lowest = min(float(pydicom.dcmread(file).ImagePositionPatient[2]) for file in study.chosen[sequence].files)
        corners = np.array([[i, j, 0] for i in (0, grid.shape[0] - 1) for j in (0, grid.shape[1] - 1)])
        assert np.abs(volume.grid.to_world(corners)[:, 2] - lowest).min() < 0.01


@pytest.mark.parametrize("how", ["deep", "files", "zip", "zip in a zip", "disc", "disc in lower case", "mixed", "bare"])
def test_every_way_an_export_comes(how: str, tmp_path: Path, workshop: Workshop) -> None:
    export = tmp_path / "export"
    made = Examination(export / "a" / "b" / "c" if how == "deep" else export, flat="disc" in how)
    for number, kind in ((1, fake_dicom.T2), (2, fake_dicom.FLAIR)):
        made.series(kind, number, fake_dicom.grid(spacing=THICK), implicit=number == 2, bare=how == "bare")
    files = [path for path in export.rglob("*") if path.is_file()]
    dropped = [export]
    if how == "files":
        dropped = files
    elif how.startswith("zip"):
        dropped = [tmp_path / "export.zip"]
        with zipfile.ZipFile(dropped[0], "w", zipfile.ZIP_DEFLATED) as archive:
            for number, file in enumerate(files):
                archive.write(file, f"../../../etc/{number}" if number % 2 else f"/absolute/{file.name}")
            archive.writestr("README.TXT", "how to open this disc")
            archive.writestr("VIEWER", b"\x7fELF" + bytes(5000))
        if how == "zip in a zip":
            with zipfile.ZipFile(tmp_path / "outer", "w") as archive:
                archive.write(dropped[0], "inner.bin")
            dropped = [tmp_path / "outer"]
    elif how.startswith("disc"):
        disc = tmp_path / "disc"
        names = _disc(files, disc)
        assert len(names) == len(files)
        (disc / "STRAY").write_bytes(files[0].read_bytes()[:2000])
        if how == "disc in lower case":
            (disc / "IMAGES").rename(disc / "images")
        dropped = [disc / "DICOMDIR"]
    elif how == "mixed":
        (export / "report.pdf").write_bytes(b"%PDF-1.4")
        (export / "notes").write_text("patient was late")
        (export / "empty.dcm").touch()
        made.other(9)
        (export / "round").symlink_to(export, target_is_directory=True)
        if hasattr(os, "mkfifo"):
            os.mkfifo(export / "pipe")
    before = {path for path in tmp_path.rglob("*") if workshop.path not in path.parents}

    assert dicom.looks_like_dicom(dropped)
    study = look(*dropped, workshop=workshop)

    assert numbers(study) == {"t2": 1, "flair": 2}
    assert [series.images for series in study.series] == [20, 20]
    assert study.doubts == ()
    ready = dicom.subject_files(study, workshop, Progress())
    assert all(shows_the_head(nifti.read(path)) for path in ready.files.values())
    assert {path for path in tmp_path.rglob("*") if workshop.path not in path.parents} == before


def _disc(files: list[Path], disc: Path) -> list[Path]:
    """A disc: images under short names in folders, and their table of contents."""
    table = FileDataset(str(disc / "DICOMDIR"), {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    table.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    table.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    table.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    records, written = [], []
    for number, file in enumerate(files):
        parts = ["IMAGES", f"S{number % 3}", f"IM{number:06d}"]
        written.append(disc.joinpath(*parts))
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, written[-1])
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", parts
        records.append(record)
    astray = Dataset()
    astray.DirectoryRecordType, astray.ReferencedFileID = "IMAGE", ["..", "..", "etc", "passwd"]
    table.DirectoryRecordSequence = [Dataset(), astray, *records]
    table.save_as(disc / "DICOMDIR", enforce_file_format=True)
    return written


def test_patients_and_days_are_kept_apart(tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid(spacing=THICK)
    for identity, date in (("1", "20240101"), ("1", "20240601"), ("2", "20240101")):
        where = tmp_path / "all" / f"{identity} {date}"
        made = Examination(where, name=f"Somebody^{identity}", identity=identity, date=date, flat=True)
        made.series(fake_dicom.T2, 1, on)

    studies = dicom.look([tmp_path / "all"], workshop, Progress())

    assert sorted(study.patient for study in studies) == [
        "Somebody 1, 2024-01-01", "Somebody 1, 2024-06-01", "Somebody 2, 2024-01-01",
    ]  # fmt: skip
    assert all(numbers(study) == {"t2": 1} for study in studies)
    assert "Somebody" not in repr(studies)


def test_nifti_goes_the_way_it_went_before(tmp_path: Path) -> None:
    Examination(tmp_path / "both").series(fake_dicom.T2, 1, fake_dicom.grid(slices=9))
    (tmp_path / "both" / "t1.nii.gz").touch()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "text").write_text("x")

    assert not dicom.looks_like_dicom([tmp_path / "both"])
    assert not dicom.looks_like_dicom([tmp_path / "nothing"])
    assert not dicom.looks_like_dicom([tmp_path / "text", tmp_path / "absent", tmp_path / "t1.nii.gz"])
    assert dicom.looks_like_dicom([next(tmp_path.rglob("*.dcm"))])


@pytest.mark.parametrize("what", ["empty folder", "reports alone", "broken", "absent", "no archive", "locked"])
def test_what_cannot_be_read_is_told_in_one_sentence(what: str, tmp_path: Path, workshop: Workshop) -> None:
    made = Examination(tmp_path / "in")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in"
    if what == "reports alone":
        made.other(1)
    elif what == "broken":
        (path / "a.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\xff\xff" + b"1.2")
    elif what == "absent":
        path = tmp_path / "elsewhere"
    elif what == "no archive":
        path = tmp_path / "a.zip"
        path.write_bytes(b"PK\x03\x04" + bytes(100))
    elif what == "locked":
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("scan", bytes(128) + b"DICM" + bytes(100))
        data = bytearray(path.read_bytes())
        for place in (data.find(b"PK\x03\x04") + 6, data.find(b"PK\x01\x02") + 8):
            data[place] |= 1
        path.write_bytes(data)

    with pytest.raises(UserError) as told:
        dicom.look([path], workshop, Progress())

    words = {
        "empty folder": "There is no DICOM image", "reports alone": "hold no images", "broken": "damaged",
        "absent": "not there", "no archive": "damaged or packed in an unusual way", "locked": "password",
    }  # fmt: skip
    assert words[what] in str(told.value)


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path: Path, workshop: Workshop) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("scan", "w") as member:
            member.write(bytes(128) + b"DICM")
            for _ in range(100):
                member.write(bytes(1 << 20))
        archive.writestr("zeros", bytes(50 << 20))
    assert bomb.stat().st_size < 1 << 20

    with pytest.raises(UnreadableImage, match="grow without end"):
        dicom.look([bomb], workshop, Progress())

    assert sum(path.stat().st_size for path in workshop.path.rglob("*")) < 40 << 20


# --- series that are more than one stack ------------------------------------------------------------------------------


def test_echoes_are_series_of_their_own(tmp_path: Path, workshop: Workshop) -> None:
    kind = Kind("PD_T2_tse_tra", None, 3500, None, 150)
    Examination(tmp_path / "in").series(kind, 4, fake_dicom.grid(spacing=THICK), echoes=(14, 98))

    study = look(tmp_path / "in", workshop=workshop)

    assert [(s.sequence, s.left_out) for s in study.series] == [(None, "proton density"), (Sequence.T2, "")]
    assert study.series[1].description == "PD_T2_tse_tra (2 of 2, TE 98 ms)"
    volume = image(dicom.convert(study.chosen[Sequence.T2], workshop, Progress()))
    # The second echo was written with half of the values.
    full = fake_dicom.voxels(volume.grid)
    assert np.array_equal(volume.data, full // 2)


def test_times_are_series_of_their_own(tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid(spacing=THICK)
    Examination(tmp_path / "in").series(fake_dicom.T1, 4, on, times=2)

    study = look(tmp_path / "in", workshop=workshop)

    assert [series.images for series in study.series] == [20, 20]
    first, second = (image(dicom.convert(series, workshop, Progress())) for series in study.series)
    assert np.array_equal(second.data, first.data + 1)


def test_a_measurement_over_time_is_left_out(tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid(spacing=THICK, slices=20)
    Examination(tmp_path / "in").series(Kind("t1_fl3d_tra", 2, 5, None, 12, "GR", "SP"), 4, on, times=9)

    (series,) = look(tmp_path / "in", workshop=workshop).series

    assert series.left_out == "a series over time"


def test_slices_that_are_there_twice_are_used_once(tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid(spacing=THICK)
    made = Examination(tmp_path / "in")
    files = made.series(fake_dicom.T2, 4, on)
    (tmp_path / "in" / "copies").mkdir()
    for file in files[:7]:
        shutil.copyfile(file, tmp_path / "in" / "copies" / file.name)
    again = pydicom.dcmread(files[3])
    again.SOPInstanceUID += ".1"
    again.InstanceNumber = 99
    again.save_as(tmp_path / "in" / "again")

    study = look(tmp_path / "in", workshop=workshop)

    (series,) = study.series
    assert series.images == 20
    assert "Series 4 holds 7 images twice." in study.notes
    assert any("holds slices twice" in note for note in study.notes)
    assert shows_the_head(image(dicom.convert(series, workshop, Progress())))


def test_missing_slices_are_told_and_the_rest_stays_in_its_place(tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid(spacing=THICK)
    Examination(tmp_path / "in").series(fake_dicom.T2, 4, on, without=(10, 11))

    study = look(tmp_path / "in", workshop=workshop)

    assert study.doubts == ("2 of the slices of series 4 (axial, 18 slices of 8.0 mm) are missing.",)
    done = dicom.convert(study.chosen[Sequence.T2], workshop, Progress())
    volume = image(done)
    ends = volume.grid.to_world(np.array([[0, 0, 0], np.array(volume.grid.shape) - 1]))[:, 2]
    truth = on.to_world(np.array([[0, 0, 0], np.array(on.shape) - 1]))[:, 2]
    assert ends == pytest.approx(truth, abs=8.0)
    assert "filled in" in done.note


def test_a_series_that_was_stopped_gives_way_to_its_repetition(tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid(spacing=THICK)
    made = Examination(tmp_path / "in")
    made.series(fake_dicom.FLAIR, 5, on, without=range(8, 20), ImagesInAcquisition=20)
    made.series(fake_dicom.FLAIR, 6, on, ImagesInAcquisition=20)

    study = look(tmp_path / "in", workshop=workshop)

    assert numbers(study) == {"flair": 6}
    assert study.doubts == ()
    assert study.series[0].missing == 12

    shutil.rmtree(tmp_path / "in" / "Mustermann" / "06")
    alone = look(tmp_path / "in", workshop=workshop)
    assert numbers(alone) == {"flair": 5}
    assert any("12 of the slices" in doubt for doubt in alone.doubts)


def test_of_two_that_are_equally_good_the_later_is_taken(tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid(spacing=THICK)
    made = Examination(tmp_path / "in")
    made.series(fake_dicom.FLAIR, 5, on)
    made.series(fake_dicom.FLAIR, 7, on)
    made.series(fake_dicom.FLAIR, 6, fake_dicom.grid("coronal", THICK))

    assert numbers(look(tmp_path / "in", workshop=workshop)) == {"flair": 7}


def test_a_reformatted_series_is_taken_only_where_nothing_else_is(tmp_path: Path, workshop: Workshop) -> None:
    Examination(tmp_path / "in").series(fake_dicom.MPR, 12, fake_dicom.grid(spacing=(8, 8, 5)))

    study = look(tmp_path / "in", workshop=workshop)

    assert numbers(study) == {"t1ce": 12}
    assert "computed from another" in study.doubts[0]


@pytest.mark.parametrize("echoes", [(), (14.0, 98.0)])
def test_a_whole_series_in_one_file(echoes: tuple[float, ...], tmp_path: Path, workshop: Workshop) -> None:
    kind = Kind("T2W_TSE", 98, 3500, None, 90)
    Examination(tmp_path / "in").enhanced(kind, 3, fake_dicom.grid("coronal", THICK), echoes=echoes)

    study = look(tmp_path / "in", workshop=workshop)

    series = study.chosen[Sequence.T2]
    assert (series.plane, series.images, len(series.files)) == ("coronal", 28, 1)
    assert dicom.thumbnail(series).max() == 255
    volume = image(dicom.convert(series, workshop, Progress()))
    full = fake_dicom.voxels(volume.grid)
    assert np.array_equal(volume.data, full // 2 if echoes else full)


def test_an_agent_is_found_however_a_header_names_it(tmp_path: Path, workshop: Workshop) -> None:
    made = Examination(tmp_path / "in")
    made.enhanced(Kind("T1W_TSE", 9, 500, agent="Gadovist"), 1, fake_dicom.grid(spacing=THICK))
    assert numbers(look(tmp_path / "in", workshop=workshop)) == {"t1ce": 1}

    other = Examination(tmp_path / "other")
    other.series(Kind("t1_tse", 9, 500), 1, fake_dicom.grid(spacing=THICK), ContrastBolusVolume=7.5)
    assert numbers(look(tmp_path / "other", workshop=workshop)) == {"t1ce": 1}

    without = Examination(tmp_path / "without")
    without.series(Kind("t1_tse", 9, 500, agent="NONE"), 1, fake_dicom.grid(spacing=THICK))
    assert numbers(look(tmp_path / "without", workshop=workshop)) == {"t1": 1}


# --- conversion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("oblique", [(0.0, 0.0, 0.0), (12.0, -8.0, 20.0)])
def test_every_voxel_stays_in_its_place(
    plane: str, oblique: tuple[float, float, float], tmp_path: Path, workshop: Workshop
) -> None:
    on = fake_dicom.grid(plane, (8.0, 7.0, 5.0), oblique)
    Examination(tmp_path / "in").series(fake_dicom.T2, 1, on)

    study = look(tmp_path / "in", workshop=workshop)

    series = study.chosen[Sequence.T2]
    assert series.plane == plane
    assert series.shape == on.shape
    assert series.spacing_mm == pytest.approx((8.0, 7.0, 5.0), abs=1e-4)
    done = dicom.convert(series, workshop, Progress())
    assert shows_the_head(image(done), tolerance=1.0)
    assert done.note == ""
    assert dicom.convert(series, workshop, Progress()) is done
    # Slices in the order that DICOM output needs: towards the head, the front, or the right.
    depth = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    places = [float(pydicom.dcmread(file).ImagePositionPatient[depth]) for file in series.files]
    assert places == sorted(places, reverse=plane != "axial")


@pytest.mark.parametrize("packing", ["rle", "jpeg 2000", "deflated", "big endian"])
def test_packed_images_are_unpacked(packing: str, tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid(spacing=THICK)
    files = Examination(tmp_path / "in").series(fake_dicom.T2, 1, on)
    plain = dicom.thumbnail(look(tmp_path / "in", workshop=workshop).series[0])
    for file in files:
        dataset = pydicom.dcmread(file)
        if packing == "rle":
            dataset.compress(RLELossless)
        elif packing == "jpeg 2000":
            stream = io.BytesIO()
            Picture.fromarray(dataset.pixel_array).save(stream, "JPEG2000", irreversible=False)
            dataset.PixelData = encapsulate([stream.getvalue()])
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        elif packing == "deflated":
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        else:
            list(dataset.iterall())  # decoded, so that they are written the other way round
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        order = {"implicit_vr": False, "little_endian": False} if packing == "big endian" else {}
        pydicom.dcmwrite(file, dataset, enforce_file_format=True, **order)

    study = look(tmp_path / "in", workshop=workshop)

    assert shows_the_head(image(dicom.convert(study.chosen[Sequence.T2], workshop, Progress())))
    assert np.abs(dicom.thumbnail(study.series[0]).astype(int) - plain).max() <= 1


def test_what_cannot_be_unpacked_is_told(tmp_path: Path, workshop: Workshop) -> None:
    for file in Examination(tmp_path / "in").series(fake_dicom.T2, 1, fake_dicom.grid(spacing=THICK)):
        dataset = pydicom.dcmread(file)
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(64)])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        dataset.save_as(file)
    study = look(tmp_path / "in", workshop=workshop)

    with pytest.raises(UnreadableImage) as told:
        dicom.subject_files(study, workshop, Progress())

    assert str(told.value) == (
        "Series 1 (axial, 20 slices of 8.0 mm) cannot be opened (its images are packed with HTJ2K). "
        "Export it again without compression."
    )


def test_slices_that_lie_nowhere_are_never_used(tmp_path: Path, workshop: Workshop) -> None:
    """Without a place nobody knows left from right, so not even the user's choice takes them."""
    files = Examination(tmp_path / "in").series(fake_dicom.T2, 1, fake_dicom.grid(spacing=THICK))
    for file in files[4:7]:
        dataset = pydicom.dcmread(file)
        del dataset.ImagePositionPatient
        dataset.save_as(file)

    study = look(tmp_path / "in", workshop=workshop)

    assert sorted((series.images, series.left_out) for series in study.series) == [
        (3, "without a place in space"),
        (17, ""),
    ]
    assert any(doubt.startswith("3 of the slices") for doubt in study.doubts)
    lost = next(series for series in study.series if series.left_out)
    with pytest.raises(UnreadableImage, match="left and right are unknown"):
        dicom.convert(lost, workshop, Progress())


def test_no_series_no_subject(tmp_path: Path, workshop: Workshop) -> None:
    Examination(tmp_path / "in").series(fake_dicom.ADC, 1, fake_dicom.grid(spacing=THICK))
    study = look(tmp_path / "in", workshop=workshop)

    assert study.chosen == {}
    assert study.doubts == ("None of the series was recognised as T1, T1ce, T2 or FLAIR.",)
    with pytest.raises(SequenceProblem, match="Choose by hand"):
        dicom.subject_files(study, workshop, Progress())

    by_hand = study.choosing({Sequence.T2: study.series[0]})
    ready = dicom.subject_files(by_hand, workshop, Progress())
    assert list(ready.files) == [Sequence.T2]
    assert ready.uncertain == frozenset()


def test_thumbnails_have_the_proportions_of_the_slice(tmp_path: Path, workshop: Workshop) -> None:
    on = fake_dicom.grid("sagittal", (4.0, 8.0, 6.0))
    Examination(tmp_path / "in").series(fake_dicom.T2, 1, on)
    (series,) = look(tmp_path / "in", workshop=workshop).series

    small = dicom.thumbnail(series)

    # Columns cover the 224 mm from front to back, rows the 160 mm from top to bottom.
    assert small.shape == (round(96 * 160 / 224), 96)
    assert small.dtype == np.uint8
    assert small[0, 0] == 0
    assert small.max() == 255


# --- nobody's name ----------------------------------------------------------------------------------------------------


def test_who_the_patient_is_stays_in_memory(tmp_path: Path, workshop: Workshop) -> None:
    fake_dicom.twelve_series(tmp_path / "in")
    study = look(tmp_path / "in", workshop=workshop)

    ready = dicom.subject_files(study, workshop, Progress())

    assert study.patient == "Mustermann Erika, 2024-01-31"
    assert ready.name == "patient"
    told = [repr(study), repr(ready), *study.notes, *(series.why for series in study.series)]
    told += [series.title for series in study.series] + [series.key for series in study.series]
    for path in workshop.path.rglob("*"):
        told.append(str(path.relative_to(workshop.path)))
        told.append(path.read_bytes().decode("latin-1") if path.is_file() else "")
    assert not [secret for secret in (*fake_dicom.SECRETS, "20240131", "mprage") for text in told if secret in text]
    assert stat.S_IMODE(workshop.path.stat().st_mode) == 0o700


def test_a_failure_names_nobody(tmp_path: Path, workshop: Workshop) -> None:
    files = Examination(tmp_path / "in").series(fake_dicom.T2, 1, fake_dicom.grid(spacing=THICK))
    study = look(tmp_path / "in", workshop=workshop)
    for file in files:
        file.unlink()

    with pytest.raises(UserError) as told:
        dicom.subject_files(study, workshop, Progress())

    assert not [secret for secret in fake_dicom.SECRETS if secret in str(told.value)]


# --- stopping and tidying up ------------------------------------------------------------------------------------------


def test_looking_stops_within_a_second(tmp_path: Path, workshop: Workshop) -> None:
    made = Examination(tmp_path / "in")
    file = made.series(fake_dicom.T2, 1, fake_dicom.grid(slices=2))[0]
    for number in range(3000):
        os.link(file, tmp_path / "in" / f"{number}")
    progress = Progress(lambda fraction, message: stopped.append(time.monotonic()) or progress.cancel())
    stopped: list[float] = []

    with pytest.raises(Cancelled):
        dicom.look([tmp_path / "in"], workshop, progress)

    assert time.monotonic() - stopped[0] < 1.0


def test_converting_stops_within_a_second(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    Examination(tmp_path / "in").series(fake_dicom.T2, 1, fake_dicom.grid(spacing=THICK))
    study = look(tmp_path / "in", workshop=workshop)
    if sys.platform == "win32":
        pytest.skip("other system: a script that stands for the converter")
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho started > {tmp_path}/started\nexec sleep 60\n")
    slow.chmod(0o700)
    monkeypatch.setattr("dcm2niix.bin", str(slow))
    progress = Progress()
    timer = threading.Timer(0.5, progress.cancel)
    timer.start()
    began = time.monotonic()

    with pytest.raises(Cancelled):
        dicom.subject_files(study, workshop, progress)

    timer.join()
    assert time.monotonic() - began < 1.5
    assert (tmp_path / "started").exists()
    # That no process is left is held by every test's surroundings.


def test_a_workshop_goes_with_its_process_and_its_leftovers_with_the_next(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from engine.workshop import Workshop
made = Workshop(Path({str(tmp_path)!r}))
(made.new_folder() / "scan").write_text("secret")
print(made.path, flush=True)
if sys.argv[1] == "wait":
    sys.stdin.read()
"""

    def start(how: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, how], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    with start("end") as ended:
        assert ended.stdout is not None
        path = Path(ended.stdout.readline().strip())
        ended.wait()
    assert path.parent == tmp_path
    assert list(tmp_path.iterdir()) == []

    with start("wait") as killed, start("wait") as living:
        assert killed.stdout is not None
        assert living.stdout is not None
        dead, alive = Path(killed.stdout.readline().strip()), Path(living.stdout.readline().strip())
        killed.kill()
        killed.wait()
        assert (dead / "0001" / "scan").exists()
        with Workshop(tmp_path) as next_one:
            assert not dead.exists()
            assert (alive / "0001" / "scan").read_text() == "secret"
        assert not next_one.path.exists()
        assert next_one.closed
        living.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_a_long_header_is_read_to_its_end(tmp_path: Path, workshop: Workshop) -> None:
    """Private values of half a megabyte before the pixels must not hide the place of a slice."""
    made = Examination(tmp_path / "in")
    for file in made.series(fake_dicom.T2, 1, fake_dicom.grid(spacing=THICK)):
        dataset = pydicom.dcmread(file)
        dataset.private_block(0x0009, "MAKER", create=True).add_new(1, "OB", bytes(600_000))
        dataset.save_as(file)

    study = look(tmp_path / "in", workshop=workshop)

    assert numbers(study) == {"t2": 1}


@pytest.mark.parametrize("kind", [name for name, (of, _) in fuzz_inputs.KINDS.items() if of != "nifti"])
def test_what_is_broken_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    """One of each kind that scripts/fuzz_inputs.py makes by the hundred; any error but a `UserError` fails."""
    path = fuzz_inputs.KINDS[kind][1](tmp_path / "in", random.Random(kind))

    told = fuzz_inputs.open_dicom(path)

    assert told == "opened" or told.endswith(".")
