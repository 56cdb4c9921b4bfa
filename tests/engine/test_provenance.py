"""What a record says of a result, and whether what was changed since is noticed and told in words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from engine import brain, contents, outputs, provenance, registry, segment, unusual
from engine.errors import Cancelled, CannotWrite, UnreadableImage
from engine.flow import Result
from engine.model_card import Role
from engine.outputs import Wanted
from engine.pipeline import Settings, Switch
from engine.progress import Progress
from engine.provenance import NoRecord, Report, State, verify
from engine.sequences import find_subjects, load
from engine.volume import LabelMap, Sequence
from tests.app import threshold_model
from tests.engine import fake_dicom, phantoms, stand_ins

T1, T1CE, T2, FLAIR = Sequence
UNCHANGED, CHANGED, MISSING, NOT_RECORDED = State


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A T2 student and a teacher for T2 and FLAIR; phantoms are no heads, which nobody is to remark on."""
    folder = tmp_path / "models"
    threshold_model.install(folder, "student-t2", (T2,), dice=0.7)
    threshold_model.install(folder, "teacher", (T2, FLAIR), Role.TEACHER, dice=0.8)
    monkeypatch.setattr(registry, "folders", lambda: [folder])
    monkeypatch.setattr(unusual, "look", lambda *_: ())
    monkeypatch.setattr(contents, "place", lambda files, *_: contents.Placed(files, {}, ()))
    return folder


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    return phantoms.write_subject(tmp_path / "study" / "anna", sequences=(T2, FLAIR))


@pytest.fixture
def result(patient: Path) -> Result:
    return segment(patient)


@pytest.fixture
def mask(result: Result, tmp_path: Path) -> Path:
    """Saved beside the patient's folder."""
    return result.save(tmp_path / "study" / "results").mask


def states(report: Report) -> dict[str, str]:
    return {item.what: item.state.value for item in report.items}


def sentence(report: Report, what: str) -> str:
    return next(item.sentence for item in report.items if item.what == what)


def paint(mask: Path, voxels: int = 5) -> None:
    """Change a mask as another program would."""
    image = nib.load(mask)
    data = np.asarray(image.dataobj).copy()
    data.flat[:voxels] = 2
    nib.save(nib.Nifti1Image(data, image.affine, image.header), mask)


# --- what a record says -----------------------------------------------------------------------------------------------


def test_the_record_tells_of_scans_steps_device_and_time(result: Result, mask: Path, patient: Path) -> None:
    record = json.loads(provenance.sidecar_of(mask).read_text(encoding="utf-8"))
    assert record["format"] == provenance.SIDECAR_FORMAT
    assert set(record["environment"]) >= {"python", "system", "numpy", "openvino"}
    assert record["inference"]["window"] == [32, 32, 32]
    assert record["inference"]["threshold"] == {"whole_tumour": 0.5, "tumour_core": 0.5}
    assert record["fallbacks"] == []
    assert record["made_at"].endswith("Z")
    assert record["labels_sha256"] == provenance.labels_sha256(result.labels)
    assert "anna" not in json.dumps(record)
    assert str(patient.parent) not in json.dumps(record)


def test_hashes_are_those_of_the_scans_that_were_read(patient: Path, tmp_path: Path) -> None:
    before = provenance.sha256(patient / "anna_t2.nii.gz")
    result = segment(patient)
    phantoms.write_volume(patient / "anna_t2.nii.gz", phantoms.head(phantoms.grid("LPS"), T1))
    saved = result.save(tmp_path / "out")
    assert saved.record["inputs"]["t2"] == {"sha256": before}


def test_what_was_asked_for_is_recorded_even_where_nothing_was_done(patient: Path, tmp_path: Path) -> None:
    asked = segment(patient, settings=Settings(strip=Switch.OFF)).record
    assert asked["preparation"]["settings"]["strip"] == "off"
    assert "preparation" not in segment(patient).record


def test_equal_labels_in_another_order_of_memory_have_one_hash() -> None:
    labels = phantoms.tumour(phantoms.grid("LPS"))
    turned = LabelMap(np.asfortranarray(labels.data), labels.grid)
    assert provenance.labels_sha256(turned) == provenance.labels_sha256(labels)
    other = labels.data.copy()
    other[0, 0, 0] = 1
    assert provenance.labels_sha256(LabelMap(other, labels.grid)) != provenance.labels_sha256(labels)


def test_an_output_and_its_record_appear_together_or_not_at_all(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.pdf"
    with pytest.raises(ZeroDivisionError), provenance.recorded(path, result.record, "report") as partial:
        partial.write_bytes(b"half a page" * (1 // 0))
    assert list(tmp_path.glob("*page*")) == list(tmp_path.glob(".gliascope*")) == []
    with provenance.recorded(path, result.record, "report", {"width_mm": 180}) as partial:
        assert partial.name == "page.pdf"
        partial.write_bytes(b"a page")
    record = json.loads((tmp_path / "page.pdf.json").read_text())
    assert record["output"]["kind"] == "report"
    assert record["output"]["made_with"] == {"width_mm": 180}
    assert record["model"]["name"] == "teacher"
    path.write_bytes(b"somebody's notes on the page")
    with (
        pytest.raises(CannotWrite, match="changed after Gliascope made it"),
        provenance.recorded(path, result.record, "report") as partial,
    ):
        partial.write_bytes(b"another page")
    assert path.read_bytes() == b"somebody's notes on the page"
    with provenance.recorded(path, result.record, "report", replace=True) as partial:
        partial.write_bytes(b"another page")
    assert verify(path).items[1].state is UNCHANGED


def test_masks_and_extras_are_saved_together_or_not_at_all(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "anna_table.csv").write_text("somebody's table")
    with pytest.raises(CannotWrite, match=r"anna_table.csv is there already"):
        result.save(out, Wanted(table=True))
    assert [path.name for path in out.iterdir()] == ["anna_table.csv"]
    (out / "anna_table.csv").unlink()
    saved = result.save(out, Wanted(table=True, surfaces=True))
    assert len(saved.more) == 4
    assert len(list(out.iterdir())) == 2 + 2 * 4

    def fail(*_: Any) -> None:
        raise Cancelled

    before = {path: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(outputs, "measure", fail)
    with pytest.raises(Cancelled):
        replace_seconds(result).save(out, Wanted(table=True, surfaces=True))
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def replace_seconds(result: Result) -> Result:
    return replace(result, segmentation=replace(result.segmentation, seconds=99.0))


# --- what is noticed --------------------------------------------------------------------------------------------------


def test_an_untouched_result_is_unchanged_and_comes_out_the_same_again(mask: Path, patient: Path) -> None:
    report = verify(mask, again=True)
    assert report.ok
    assert states(report) == dict.fromkeys(("record", "output", "t2", "flair", "model", "again"), "unchanged")
    size = np.asarray(nib.load(mask).dataobj).size
    assert sentence(report, "again") == f"Segmented again: all {size:,} voxels of anna_seg.nii.gz come out the same."
    assert report.sentence == "Everything that was recorded is unchanged. Segmented again, it comes out the same."
    by_record = verify(provenance.sidecar_of(mask))
    assert by_record.ok
    assert by_record.notes == ("Whether the same mask comes out again was not tried.",)


def test_a_changed_scan_is_named_and_nothing_is_made_from_it_again(mask: Path, patient: Path) -> None:
    phantoms.write_volume(patient / "anna_flair.nii.gz", phantoms.head(phantoms.grid("LPS"), T1))
    report = verify(mask, again=True)
    assert not report.ok
    assert states(report) == {
        "record": "unchanged",
        "output": "unchanged",
        "t2": "unchanged",
        "flair": "changed",
        "model": "unchanged",
        "again": "missing",
    }
    assert sentence(report, "flair") == (
        "anna_flair.nii.gz is not the FLAIR that was segmented: its content is another."
    )
    assert sentence(report, "again") == "It cannot be segmented again: not every scan is there as it was."
    assert report.sentence == "Not everything is as it was: one thing was changed. It could not be segmented again."


def test_a_mask_changed_elsewhere_is_told_with_the_number_of_voxels(mask: Path) -> None:
    paint(mask)
    report = verify(mask, again=True)
    assert not report.ok
    assert sentence(report, "output") == "anna_seg.nii.gz was changed after Gliascope saved it."
    again = next(item for item in report.items if item.what == "again")
    assert again.state is CHANGED
    assert again.sentence.startswith("Segmented again: 5 of ")


def test_a_missing_scan_is_asked_for_and_found_where_one_says(mask: Path, patient: Path, tmp_path: Path) -> None:
    away = tmp_path / "archive" / "deep" / "down"
    away.mkdir(parents=True)
    (patient / "anna_flair.nii.gz").rename(away / "renamed.nii.gz")
    report = verify(mask)
    assert not report.ok
    assert report.lacks_scans
    assert states(report)["flair"] == "missing"
    assert sentence(report, "flair") == "FLAIR was not found near the result."
    report = verify(mask, [patient, tmp_path / "archive"], again=True)
    assert report.ok
    assert sentence(report, "flair") == "FLAIR is unchanged: renamed.nii.gz."
    report = verify(mask, tmp_path / "archive")
    assert sentence(report, "t2") == "T2 was not found in the folder that was named."


def test_a_moved_and_renamed_result_is_known_by_its_content(mask: Path, patient: Path, tmp_path: Path) -> None:
    study = tmp_path / "elsewhere"
    shutil.move(tmp_path / "study", study)
    moved = study / "results" / "anna_seg.nii.gz"
    assert verify(moved, again=True).ok
    renamed = moved.rename(moved.with_name("final.nii.gz"))
    report = verify(renamed, again=True)
    assert report.ok
    assert sentence(report, "output") == "anna_seg.nii.gz is unchanged; it is called final.nii.gz now."
    renamed.unlink()
    assert states(verify(study / "results" / "anna_seg.json"))["output"] == "missing"


def test_a_mask_corrected_by_hand_is_no_fault_but_cannot_be_made_again(result: Result, tmp_path: Path) -> None:
    labels = result.labels.data.copy()
    labels[:2, 0, 0] = 2
    corrected = replace(result.segmentation, label_map=LabelMap(labels, result.labels.grid), edited_by_hand=3)
    saved = replace(result, segmentation=corrected).save(tmp_path / "study" / "results", Wanted(table=True))
    report = verify(saved.mask, again=True)
    assert report.ok
    assert states(report)["again"] == "not recorded"
    assert sentence(report, "again").startswith(
        "The mask holds 3 corrections by hand, which cannot be made again. 2 of "
    )
    assert report.notes[0] == "The record says that the mask holds 3 corrections by hand."
    table = verify(saved.more["table_csv"], again=True)
    assert table.ok
    assert states(table)["again"] == "not recorded"


def test_records_of_earlier_releases_are_compared_as_far_as_they_go(mask: Path) -> None:
    sidecar = provenance.sidecar_of(mask)
    record = json.loads(sidecar.read_text())
    new = (provenance.SEAL, "labels_sha256", "environment", "inference", "made_at", "fallbacks")
    old = {key: value for key, value in record.items() if key not in new} | {"format": 1}
    old["software"]["version"] = "0.0.9"
    sidecar.write_bytes(provenance.as_json(old))
    report = verify(mask, again=True)
    assert report.ok
    assert states(report)["record"] == "not recorded"
    assert states(report)["again"] == "unchanged"
    assert report.sentence == (
        "Everything that was recorded is unchanged. One thing was not recorded and could not be compared. "
        "Segmented again, it comes out the same."
    )
    assert f"It was made by Gliascope 0.0.9; this is {provenance.version()}." in report.notes
    del old["model"], old["mask"]
    old["inputs"] = {}
    sidecar.write_bytes(provenance.as_json(old))
    assert set(states(verify(sidecar)).values()) == {"not recorded"}


def test_a_number_changed_in_the_record_is_noticed(mask: Path) -> None:
    sidecar = provenance.sidecar_of(mask)
    sidecar.write_text(sidecar.read_text().replace('"whole_tumour": 0.', '"whole_tumour": 4.', 1))
    report = verify(mask)
    assert not report.ok
    assert sentence(report, "record") == "anna_seg.json, the record itself, was changed after it was written."


@pytest.mark.parametrize("odd", [None, 5, ["x"], {"t1": "x"}])
def test_a_record_that_makes_no_sense_is_told_and_never_a_fault(odd: object, mask: Path) -> None:
    sidecar = provenance.sidecar_of(mask)
    record = json.loads(sidecar.read_text())
    repeated = provenance.Repeated()
    verify(mask, again=True, repeated=repeated)
    tops = (
        "model",
        "sequences",
        "inputs",
        "mask",
        "edited_by_hand",
        "device",
        "environment",
        "labels_sha256",
        "resampled",
    )
    places: list[tuple[str, ...]] = [(key,) for key in tops]
    places += [("software", "version"), ("model", "name"), ("model", "files"), ("sequences", "used")]
    places += [("inputs", "t2"), ("inputs", "t2", "sha256"), ("inputs", "t2", "volume"), ("inputs", "t2", "dicom")]
    places += [("preparation",), ("preparation", "settings"), ("masks",), ("masks", "t2"), ("dates",), ("output",)]
    for place in places:
        broken = json.loads(json.dumps(record))
        part = broken
        for key in place[:-1]:
            part = part.setdefault(key, {})
        part[place[-1]] = odd
        sidecar.write_bytes(provenance.as_json(broken))
        try_again = place[0] in ("preparation", "sequences", "inputs", "device", "model")
        report = verify(sidecar, again=try_again, repeated=repeated)
        assert states(report)["record"] != "unchanged" or odd == record.get(place[0])
        assert report.sentence


def test_every_output_can_be_verified(result: Result, tmp_path: Path) -> None:
    runs: list[object] = []
    everything = Wanted(probabilities=True, surfaces=True, table=True, grid=outputs.WORKING)
    saved = result.save(tmp_path / "study" / "results", everything)
    assert len(saved.more) == 7
    for path in saved.more.values():
        report = verify(path)
        assert report.ok, report.sentence
        assert "output" in states(report)
    assert states(verify(saved.more["surface_tumour_core"], again=True))["again"] == "unchanged"
    repeated = provenance.Repeated()
    for path in (saved.mask, saved.more["table_csv"]):
        assert states(verify(path, again=True, repeated=repeated))["again"] == "unchanged"
        runs.append(repeated.made)
    assert runs[0] is runs[1], "one result is segmented again only once"
    with saved.more["table_csv"].open("a") as file:
        file.write("and more\n")
    assert states(verify(saved.more["table_csv"]))["output"] == "changed"
    assert len(provenance.find_records(tmp_path / "study")) == 8


def test_a_follow_up_is_verified_date_by_date(patient: Path, result: Result, tmp_path: Path) -> None:
    later = phantoms.write_subject(tmp_path / "study" / "later", phantoms.grid("RAS"), (T2, FLAIR))
    dates = [{"date": "2024-01-02", **result.record}, {"date": "2024-05-06", **segment(later).record}]
    path = tmp_path / "study" / "follow-up.csv"
    with provenance.recorded(path, {**provenance.describe_scans({}), "dates": dates}, "follow-up") as partial:
        partial.write_text("volumes")
    report = verify(path, again=True)
    assert report.ok, report.items
    assert [item.what for item in report.items].count("again") == 2
    phantoms.write_volume(later / "later_t2.nii.gz", phantoms.head(phantoms.grid("RAS"), T1))
    report = verify(path, tmp_path / "study")
    changed = [item.sentence for item in report.items if item.state is not UNCHANGED]
    assert changed == [
        "2024-05-06: later_t2.nii.gz is not the T2 that was segmented: its content is another.",
    ]


def test_a_picture_of_scans_alone_needs_no_model(patient: Path, tmp_path: Path) -> None:
    [found] = find_subjects([patient])
    path = patient.parent / "picture.png"
    with provenance.recorded(path, provenance.describe_scans(load(found)), "picture") as partial:
        partial.write_bytes(b"a picture")
    report = verify(path, again=True)
    assert report.ok
    assert set(states(report)) == {"record", "output", "t2", "flair"}


def test_another_model_of_that_name_is_noticed(mask: Path, models: Path) -> None:
    card = models / "teacher" / "model.json"
    kept = card.read_text(encoding="utf-8")
    card.write_text(kept.replace("on phantoms", "on other phantoms"), encoding="utf-8")
    report = verify(mask, again=True)
    assert sentence(report, "model") == (
        "The model teacher 1.0 has the same weights here, but its card says something else than then."
    )
    assert states(report)["again"] == "unchanged"
    with (models / "teacher" / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    assert "is not the file the model was published with" in sentence(verify(mask), "model")
    shutil.rmtree(models / "teacher")
    assert states(verify(mask))["model"] == "missing"
    assert (
        sentence(verify(mask, again=True), "again") == "It cannot be segmented again: the model is not here as it was."
    )
    threshold_model.install(models, "teacher", (T2,), Role.TEACHER, dice=0.9)
    assert sentence(verify(mask), "model") == "The model teacher 1.0 is not here: another model has its name now."


def test_hospital_scans_come_out_the_same_again_on_every_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch)
    folder = tmp_path / "boris"
    folder.mkdir()
    grids = {
        T2: phantoms.grid("LPS", (48, 48, 16), (1.0, 1.0, 3.0), (3.0, 0.0, 5.0)),
        FLAIR: phantoms.grid("AIL", (50, 18, 50), (1.0, 2.5, 1.0), centre=(-1.0, -5.0, 12.0)),
    }
    for sequence, grid in grids.items():
        phantoms.write_volume(folder / f"boris_{sequence.value}.nii.gz", stand_ins.raw_head(sequence, grid))
    saved = segment(folder, settings=Settings(bias=Switch.OFF)).save(tmp_path / "out")
    report = verify(saved.others[FLAIR], folder, again=True)
    assert report.ok
    assert [item.what for item in report.items].count("again") == 2
    assert verify(saved.mask, folder).record == saved.sidecar


def test_the_volume_of_several_and_what_was_resampled_are_found_again(patient: Path, tmp_path: Path) -> None:
    from engine import flow

    coarse = phantoms.head(phantoms.grid("LPS", shape=(24, 28, 10), spacing=(1, 1, 2)), FLAIR)
    series = np.stack([coarse.data * 0, coarse.data], axis=-1).astype(np.int16)
    phantoms.write(patient / "anna_flair.nii.gz", series, np.array(coarse.grid.affine))
    [found], _ = flow.find([patient], lambda: pytest.fail("there is no DICOM"))
    scans = flow.read(found, resample=True, volume=1)
    result = flow.compute(scans, flow.Models(), Settings(align=Switch.OFF))
    saved = result.save(tmp_path / "study" / "results")
    assert saved.record["inputs"]["flair"]["volume"] == 2
    assert saved.record["resampled"] == ["flair"]
    assert verify(saved.mask, again=True).ok


def test_a_brain_drawn_by_hand_cannot_be_drawn_again(patient: Path, tmp_path: Path) -> None:
    drawn = LabelMap(np.ones_like(phantoms.tumour(phantoms.grid("LPS")).data), phantoms.grid("LPS"))
    saved = segment(patient, settings=Settings(brain=drawn)).save(tmp_path / "study" / "results")
    report = verify(saved.mask, again=True)
    assert "the brain was drawn by hand" in sentence(report, "again")


def test_scans_that_were_made_in_memory_are_no_fault(tmp_path: Path) -> None:
    saved = segment(phantoms.subject()).save(tmp_path / "out")
    report = verify(saved.mask, again=True)
    assert report.ok
    assert states(report)["t2"] == "not recorded"
    assert sentence(report, "again") == "It cannot be segmented again: the record does not say from which files."


def test_dicom_is_hashed_as_it_came_and_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain, "is_stripped", lambda volume: True)
    fake_dicom.Examination(tmp_path / "disc").series(fake_dicom.T2, 3)
    result = segment(tmp_path / "disc")
    assert result.segmentation.used
    saved = result.save(tmp_path / "out")
    inputs = saved.record["inputs"]
    assert all(len(one["dicom"]["sha256"]) == 64 for one in inputs.values())
    del result
    report = verify(saved.mask)
    assert report.lacks_scans
    report = verify(saved.mask, tmp_path / "disc", again=True)
    assert report.ok, [item.sentence for item in report.items]
    assert sentence(report, "t2").startswith("The DICOM series of T2 is unchanged: ")
    count = inputs["t2"]["dicom"]["files"]
    from engine import dicom
    from engine.workshop import Workshop

    with Workshop() as workshop:
        studies = dicom.look([tmp_path / "disc"], workshop, Progress())
        series = next(s for study in studies for s in study.series if s.key == inputs["t2"]["dicom"]["key"])
        series.files[-1].unlink()
    report = verify(saved.mask, tmp_path / "disc")
    assert sentence(report, "t2") == (f"The DICOM series of T2 was changed: {count - 1} files now, {count} then.")


# --- what cannot be verified ------------------------------------------------------------------------------------------


def test_what_has_no_record_is_told_in_one_sentence(mask: Path, patient: Path, tmp_path: Path) -> None:
    with pytest.raises(NoRecord, match=r"Nothing beside anna_t2.nii.gz says how it came about"):
        verify(patient / "anna_t2.nii.gz")
    with pytest.raises(UnreadableImage, match=r"gone\.nii\.gz is not there"):
        verify(tmp_path / "gone.nii.gz")
    with pytest.raises(UnreadableImage, match=r"gone\.nii\.gz is not there"):
        provenance.find_records(tmp_path / "gone.nii.gz")
    with pytest.raises(NoRecord, match="holds no record of a result"):
        provenance.find_records(patient)
    # Of a batch: made by Gliascope, but no record of an output.
    (patient / "job.json").write_text('{"software": {"name": "Gliascope", "version": "0"}}')
    with pytest.raises(NoRecord):
        verify(patient / "job.json")
    with pytest.raises(NoRecord):
        provenance.find_records(patient)
    (patient / "anna_t2.json").write_text('{"EchoTime": 0.1}')
    with pytest.raises(NoRecord):
        verify(patient / "anna_t2.json")


def test_looking_can_be_stopped_and_tells_how_far_it_is(mask: Path) -> None:
    told: list[float] = []
    verify(mask, again=True, progress=Progress(lambda fraction, message: told.append(fraction)))
    assert told == sorted(told)
    assert told[-1] == 1.0
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        verify(mask, progress=progress)
