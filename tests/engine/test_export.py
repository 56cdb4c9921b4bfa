"""What is saved, that it can be trusted, and that nothing half-written or personal is left behind."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine import export, nifti, pipeline, provenance
from engine.errors import CannotWrite
from engine.inference import Segmentation
from engine.model_card import Architecture, ModelCard, Role
from engine.pipeline import Settings, Switch, Worked
from engine.sequences import find_subjects, load, read
from engine.volume import Sequence, Subject
from tests.engine import phantoms, stand_ins

T1, T1CE, T2, FLAIR = Sequence


def a_card() -> ModelCard:
    return ModelCard(
        name="t1-student",
        title="T1 student",
        version="1.2",
        role=Role.STUDENT,
        sequences=(T1,),
        spacing_mm=2.0,
        window=(96, 112, 96),
        architecture=Architecture("dynunet"),
        files={"network.xml": "0" * 64},
    )


def a_result(subject: Subject) -> Segmentation:
    truth = phantoms.tumour(subject.grid)
    return Segmentation(
        label_map=truth,
        probabilities={},
        volumes_ml={"whole_tumour": truth.ml(truth.whole_tumour), "tumour_core": truth.ml(truth.tumour_core)},
        card=a_card(),
        used=(T1,),
        device="CPU",
        precision="bf16",
        seconds=3.14159,
        notes=("The tumour touches the edge of the scan.",),
    )


def from_disk(folder: Path, orientation: str = "LPS") -> Subject:
    phantoms.write_subject(folder, phantoms.grid(orientation, oblique=(3, 4, 5)), sequences=(T1, FLAIR))
    return load(find_subjects([folder])[0])


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "SLA"])
def test_the_mask_lies_on_the_scan_and_says_so(orientation: str, tmp_path: Path) -> None:
    subject = from_disk(tmp_path / "P1", orientation)
    result = a_result(subject)
    saved = export.save(result, subject, tmp_path / "out" / "deeper")
    assert saved.mask == tmp_path / "out" / "deeper" / "P1_seg.nii.gz"
    assert saved.sidecar == tmp_path / "out" / "deeper" / "P1_seg.json"
    assert saved.verified == "Saved on the grid of P1_t1.nii.gz, read back and found equal."
    mask, scan = nib.load(saved.mask), nib.load(tmp_path / "P1" / "P1_t1.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), result.label_map.data)
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert int(mask.header["sform_code"]) == int(scan.header["sform_code"])
    assert int(mask.header["qform_code"]) == int(scan.header["qform_code"])
    assert sorted(path.name for path in saved.mask.parent.iterdir()) == ["P1_seg.json", "P1_seg.nii.gz"]


def test_the_sidecar_tells_how_the_mask_came_about(tmp_path: Path) -> None:
    subject = from_disk(tmp_path / "P1")
    result = a_result(subject)
    saved = export.save(result, subject, tmp_path / "out", reason="T1 and FLAIR are here.", uncertain=[FLAIR])
    record = json.loads(saved.sidecar.read_text(encoding="utf-8"))
    assert record["software"] == {"name": "Gliascope", "version": provenance.version()}
    assert record["research_use"].startswith("Research use only.")
    assert record["model"] == {
        "name": "t1-student",
        "title": "T1 student",
        "version": "1.2",
        "sha256": a_card().fingerprint,
        "files": {"network.xml": "0" * 64},
    }
    assert record["reason"] == "T1 and FLAIR are here."
    told = {"used": ["t1"], "not_used": ["flair"], "absent": ["t1ce", "t2"], "uncertain": ["flair"]}
    assert record["sequences"] == told
    scan = tmp_path / "P1" / "P1_flair.nii.gz"
    assert record["inputs"]["flair"] == {"sha256": hashlib.sha256(scan.read_bytes()).hexdigest()}
    assert record["mask"] == {"sha256": hashlib.sha256(saved.mask.read_bytes()).hexdigest()}
    truth = result.label_map
    assert record["volumes_ml"]["whole_tumour"] == pytest.approx(truth.ml(truth.whole_tumour), abs=5e-4)
    assert record["labels"] == {"0": "background", "1": "tumour core", "2": "rest of the whole tumour"}
    assert (record["device"], record["precision"], record["seconds"]) == ("CPU", "bf16", 3.14)
    assert record["notes"] == ["The tumour touches the edge of the scan."]
    assert nifti.made_by_gliascope(saved.mask)
    assert nifti.find_convention([saved.mask]) is nifti.Convention.GLIASCOPE


def test_the_sidecar_has_the_interval_of_a_volume_where_there_is_one() -> None:
    subject = phantoms.subject()
    result = a_result(subject)
    assert "intervals_90_percent_ml" not in provenance.describe(result, subject)
    result = replace(result, intervals_ml={"whole_tumour": (0.20004, 0.41), "tumour_core": None})
    assert provenance.describe(result, subject)["intervals_90_percent_ml"] == {"whole_tumour": [0.2, 0.41]}


def test_the_version_is_the_projects() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'\nversion = "{provenance.version()}"\n' in project.read_text(encoding="utf-8")


def test_saving_twice_gives_the_same_bytes_in_sorted_utf_8(tmp_path: Path) -> None:
    subject = from_disk(tmp_path / "P1")
    result = replace(a_result(subject), notes=("Größe: 3 µl", "患者"))
    export.save(result, subject, tmp_path / "a")
    export.save(result, subject, tmp_path / "b")
    export.save(result, subject, tmp_path / "b")
    assert everything_in(tmp_path / "a") == everything_in(tmp_path / "b")
    text = (tmp_path / "a" / "P1_seg.json").read_text(encoding="utf-8")
    assert "患者" in text
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_nothing_personal_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "DOE_JANE"
    head = phantoms.head(phantoms.grid("LPS"))
    phantoms.write(
        folder / "DOE_JANE_t1.nii.gz", head.data, np.array(head.grid.affine), descrip=b"DOE^JANE", aux_file=b"DOE"
    )
    subject = load(find_subjects([folder])[0])
    saved = export.save(a_result(subject), subject, tmp_path / "out", name="case-17")
    assert saved.mask.name == "case-17_seg.nii.gz"
    content = gzip.decompress(saved.mask.read_bytes()) + saved.mask.read_bytes() + saved.sidecar.read_bytes()
    assert b"DOE" not in content
    assert str(tmp_path).encode() not in content


def test_after_resampling_the_mask_takes_the_header_of_the_file_whose_grid_it_has(tmp_path: Path) -> None:
    fine = phantoms.grid("PIR", spacing=(0.8, 0.8, 0.8), shape=(30, 35, 25))
    phantoms.write_volume(tmp_path / "P1" / "P1_t1.nii.gz", phantoms.head(phantoms.grid("LPS"), T1))
    phantoms.write_volume(tmp_path / "P1" / "P1_flair.nii.gz", phantoms.head(fine, FLAIR))
    subject = load(find_subjects([tmp_path / "P1"])[0], resample=True)
    saved = export.save(a_result(subject), subject, tmp_path / "out")
    assert "P1_flair.nii.gz" in saved.verified
    notes = json.loads(saved.sidecar.read_text())["notes"]
    assert notes[1:] == ["T1 was resampled from another grid onto that of the mask."]
    np.testing.assert_array_equal(nib.load(saved.mask).affine, nib.load(tmp_path / "P1" / "P1_flair.nii.gz").affine)


def test_scans_that_are_gone_or_were_never_files_cost_no_result(tmp_path: Path) -> None:
    subject = from_disk(tmp_path / "P1")
    read = hashlib.sha256((tmp_path / "P1" / "P1_t1.nii.gz").read_bytes()).hexdigest()
    for path in (tmp_path / "P1").iterdir():
        path.unlink()
    for case, digest in ((subject, read), (phantoms.subject(), None)):
        saved = export.save(a_result(case), case, tmp_path / "out", name="x")
        assert saved.verified == "Saved on the grid of the scans, read back and found equal."
        np.testing.assert_allclose(nib.load(saved.mask).affine, case.grid.affine, atol=1e-5)
        assert json.loads(saved.sidecar.read_text())["inputs"]["t1"] == {"sha256": digest}


def test_a_result_of_another_grid_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    result = a_result(phantoms.subject(phantoms.grid("LPS")))
    with pytest.raises(ValueError, match="grid"):
        export.save(result, phantoms.subject(phantoms.grid("RAS")), tmp_path)


def test_an_experts_segmentation_of_the_same_name_is_never_replaced(tmp_path: Path) -> None:
    folder = phantoms.write_subject(tmp_path / "P1", sequences=(T1,), truth=True)
    subject = load(find_subjects([folder])[0])
    before = everything_in(tmp_path)
    with pytest.raises(CannotWrite) as caught:
        export.save(a_result(subject), subject, folder)
    assert str(caught.value) == (
        "P1_seg.nii.gz is there already and is not replaced (it was not made by Gliascope). "
        "Choose another folder, or move that file away first."
    )
    assert everything_in(tmp_path) == before
    (folder / "P1_seg.nii.gz").rename(folder / "truth.nii.gz")
    (folder / "P1_seg.json").write_text('{"made": "elsewhere"}')
    with pytest.raises(CannotWrite, match=r"P1_seg\.json is there already"):
        export.save(a_result(subject), subject, folder)


def test_a_mask_corrected_by_hand_is_not_replaced_by_the_next_save(tmp_path: Path) -> None:
    subject = phantoms.subject()
    saved = export.save(a_result(subject), subject, tmp_path)
    mask = nib.load(saved.mask)
    corrected = np.asarray(mask.dataobj).copy()
    corrected[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(corrected, mask.affine, mask.header), saved.mask)
    kept = everything_in(tmp_path)
    with pytest.raises(CannotWrite, match="it was changed after Gliascope made it"):
        export.save(a_result(subject), subject, tmp_path)
    assert everything_in(tmp_path) == kept
    saved.mask.unlink()
    export.save(a_result(subject), subject, tmp_path)
    assert saved.mask.exists(), "its sidecar alone is in nobody's way"


# --- disks and folders that do not play along ---------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_leaves_what_was_there(
    step: int, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = phantoms.subject()
    out = tmp_path / "new" / "out"
    if before:
        export.save(a_result(subject), subject, out)
    kept = everything_in(tmp_path)
    calls: list[int] = []

    def fill(_: int) -> None:
        calls.append(1)
        if len(calls) == step:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(CannotWrite) as caught:
        export.save(replace(a_result(subject), seconds=9.0), subject, out)
    assert str(caught.value) == (
        "There is no room on the disk for phantom_seg.nii.gz. Free some space, then try again."
    )
    assert everything_in(tmp_path) == kept
    assert (tmp_path / "new").exists() is before


def test_what_a_kill_between_two_names_leaves_is_replaced_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = phantoms.subject()
    replace_file = Path.replace
    named: list[str] = []

    def killed(self: Path, target: Path) -> Path:
        named.append(target.name)
        if len(named) == 2:
            raise KeyboardInterrupt
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        export.save(a_result(subject), subject, tmp_path / "out")
    assert named[0] == "phantom_seg.json", "a mask is never seen without its record"
    monkeypatch.undo()
    saved = export.save(a_result(subject), subject, tmp_path / "out")
    assert saved.mask.exists()


def test_a_sidecar_that_cannot_take_its_place_takes_the_mask_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = phantoms.subject()
    replace_file = Path.replace

    def locked(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", locked)
    with pytest.raises(CannotWrite):
        export.save(a_result(subject), subject, tmp_path / "out")
    assert everything_in(tmp_path) == {}


def test_folders_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = phantoms.subject()
    result = a_result(subject)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match="There is no folder file to write to"):
        export.save(result, subject, tmp_path / "file")
    (tmp_path / "taken" / "phantom_seg.json").mkdir(parents=True)
    with pytest.raises(CannotWrite, match="is named"):
        export.save(result, subject, tmp_path / "taken")
    assert everything_in(tmp_path) == {"file": b"x"}

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CannotWrite) as caught:
        export.save(result, subject, tmp_path / "out")
    assert str(caught.value) == "The folder out cannot be written to. Choose another folder."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BraTS2021_00006", "BraTS2021_00006"),
        ("Müller 患者", "Müller 患者"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ('a<b>:"c"|d?*\n', "a_b_c_d_"),
        (" . ", "patient"),
        ("", "patient"),
        ("NUL", "_NUL"),
        ("com1.x", "_com1.x"),
    ],
)
def test_names_every_system_takes(name: str, expected: str) -> None:
    assert export.file_name(name) == expected


def test_very_long_names_are_cut_and_stay_different(tmp_path: Path) -> None:
    subject = phantoms.subject()
    names = ["患" * 200 + ending for ending in "ab"]
    saved = [export.save(a_result(subject), subject, tmp_path, name=name) for name in names]
    assert len({result.mask for result in saved}) == 2
    assert all(len(result.mask.name.encode()) <= 255 for result in saved)


def test_a_mask_corrected_by_hand_says_so_and_only_what_goes_on_from_it_replaces_it(tmp_path: Path) -> None:
    subject = from_disk(tmp_path / "P1")
    result = a_result(subject)
    plain = export.save(result, subject, tmp_path / "out")
    assert json.loads(plain.sidecar.read_text())["edited_by_hand"] == 0
    corrected = export.save(replace(result, edited_by_hand=3), subject, tmp_path / "out")
    assert json.loads(corrected.sidecar.read_text())["edited_by_hand"] == 3
    assert corrected.sha256 == hashlib.sha256(corrected.mask.read_bytes()).hexdigest()
    kept = everything_in(tmp_path / "out")
    for newer in (result, replace(result, edited_by_hand=4)):
        with pytest.raises(CannotWrite, match="it was corrected by hand"):
            export.save(newer, subject, tmp_path / "out")
        assert everything_in(tmp_path / "out") == kept
    export.save(replace(result, edited_by_hand=4), subject, tmp_path / "out", goes_on_from={corrected.sha256})
    assert json.loads(corrected.sidecar.read_text())["edited_by_hand"] == 4


# --- scans on grids of their own --------------------------------------------------------------------------------------


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with T1, T2 and FLAIR of a patient with a skull, each on a grid and at a place of its own."""
    stand_ins.install(monkeypatch)
    grids = {
        T1: phantoms.grid("RAS", (44, 44, 44)),
        T2: phantoms.grid("LPS", (72, 72, 18), (0.7, 0.7, 3.0), (3.0, 0.0, 5.0), (9.0, -8.0, 9.0)),
        FLAIR: phantoms.grid("AIL", (60, 20, 60), (0.8, 2.5, 0.8), centre=(-1.0, -5.0, 12.0)),
    }
    for sequence, grid in grids.items():
        path = tmp_path / "anna" / f"anna_{sequence.value}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        phantoms.write_volume(path, stand_ins.raw_head(sequence, grid))
    return tmp_path / "anna"


def worked_on(folder: Path, settings: Settings | None = None, only: tuple[Sequence, ...] = tuple(Sequence)) -> Worked:
    volumes = read(find_subjects([folder])[0])
    return pipeline.work("anna", {s: volume for s, volume in volumes.items() if s in only}, settings)


def test_every_file_gets_a_mask_on_its_own_grid(hospital: Path, tmp_path: Path) -> None:
    worked = worked_on(hospital)
    saved = export.save(a_result(worked.subject), worked.subject, tmp_path / "out", worked=worked)
    names = ["anna_flair_seg.nii.gz", "anna_seg.json", "anna_seg.nii.gz", "anna_t2_seg.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert saved.others == {T2: tmp_path / "out" / names[3], FLAIR: tmp_path / "out" / names[0]}
    for sequence, path in {T1: saved.mask, **saved.others}.items():
        ours, theirs = nib.load(path), nib.load(hospital / f"anna_{sequence.value}.nii.gz")
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        for code in ("sform_code", "qform_code"):
            assert ours.header[code] == theirs.header[code]
        mask = nifti.read_label_map(path, nifti.Convention.GLIASCOPE)
        truth = stand_ins.truth(sequence, mask.grid)
        overlap = np.count_nonzero(mask.whole_tumour & truth.whole_tumour)
        assert 2 * overlap > 0.85 * (np.count_nonzero(mask.data) + np.count_nonzero(truth.data))
        assert nifti.made_by_gliascope(path)
    assert saved.verified == "Saved on the grid of T1 and on 2 of other scans, read back and found equal."


def test_the_sidecar_tells_of_every_mask_and_every_step(hospital: Path, tmp_path: Path) -> None:
    worked = worked_on(hospital)
    saved = export.save(a_result(worked.subject), worked.subject, tmp_path / "out", worked=worked)
    text = saved.sidecar.read_text()
    record = json.loads(text)
    assert record == json.loads(provenance.as_json(dict(saved.record)))
    assert record["mask"]["sha256"] == hashlib.sha256(saved.mask.read_bytes()).hexdigest()
    for sequence, path in saved.others.items():
        assert record["masks"][sequence.value]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["masks"]["t2"]["grid"]["shape"] == [72, 72, 18]
    assert record["grid"]["shape"] == [44, 44, 44]
    assert [step["did"] for step in record["preparation"]["steps"]] == [True] * 4
    assert "resampled from another grid" not in text
    assert "anna" not in text


def test_untouched_scans_leave_the_mask_and_sidecar_they_always_did(tmp_path: Path) -> None:
    subject = from_disk(tmp_path / "anna")
    worked = pipeline.work(subject.name, subject)
    plain = export.save(a_result(subject), subject, tmp_path / "plain")
    through = export.save(a_result(worked.subject), worked.subject, tmp_path / "through", worked=worked)
    assert everything_in(tmp_path / "plain") == everything_in(tmp_path / "through")
    assert plain.verified == through.verified


def test_an_earlier_result_with_more_masks_is_replaced_as_a_whole(hospital: Path, tmp_path: Path) -> None:
    first, fewer = worked_on(hospital), worked_on(hospital, only=(T1, T2))
    out = tmp_path / "out"
    export.save(a_result(first.subject), first.subject, out, worked=first)
    export.save(a_result(first.subject), first.subject, out, worked=first)
    export.save(a_result(fewer.subject), fewer.subject, out, worked=fewer)
    assert sorted(path.name for path in out.iterdir()) == ["anna_seg.json", "anna_seg.nii.gz", "anna_t2_seg.nii.gz"]


def test_a_mask_of_one_sequence_that_is_not_ours_is_not_replaced(hospital: Path, tmp_path: Path) -> None:
    worked = worked_on(hospital)
    export.save(a_result(worked.subject), worked.subject, tmp_path, worked=worked)
    with (tmp_path / "anna_t2_seg.nii.gz").open("ab") as stream:
        stream.write(b"somebody's work")
    before = everything_in(tmp_path)
    with pytest.raises(CannotWrite, match=r"anna_t2_seg.nii.gz is there already .* changed after Gliascope made it"):
        export.save(a_result(worked.subject), worked.subject, tmp_path, worked=worked)
    assert everything_in(tmp_path) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "anna_flair_seg.nii.gz").write_bytes(b"an expert's")
    with pytest.raises(CannotWrite, match=r"anna_flair_seg.nii.gz .* not made by Gliascope"):
        export.save(a_result(worked.subject), worked.subject, other, worked=worked)
    assert everything_in(other) == {"anna_flair_seg.nii.gz": b"an expert's"}


def test_a_patient_called_like_another_ones_mask_does_not_replace_it(hospital: Path, tmp_path: Path) -> None:
    worked = worked_on(hospital)
    export.save(a_result(worked.subject), worked.subject, tmp_path / "out", worked=worked)
    with pytest.raises(CannotWrite, match=r"anna_t2_seg.nii.gz is there already"):
        export.save(a_result(worked.subject), worked.subject, tmp_path / "out", name="anna_t2", worked=worked)


@pytest.mark.parametrize("at", range(4))
def test_when_one_file_cannot_be_moved_none_is(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    worked = worked_on(hospital, Settings(bias=Switch.OFF))
    out = tmp_path / "out"
    export.save(a_result(worked.subject), worked.subject, out, worked=worked)
    (out / "anna_flair_seg.nii.gz").unlink()
    before = everything_in(out)
    moved: list[Path] = []
    replace_file = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.parent.name.startswith(".gliascope-"):
            moved.append(target)
            if len(moved) > at:
                raise PermissionError(errno.EACCES, "it is open in another program", str(target))
        return replace_file(self, target)

    changed = replace(a_result(worked.subject), seconds=99.0, notes=("Another result.",))
    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(CannotWrite):
        export.save(changed, worked.subject, out, worked=worked)
    assert len(moved) == at + 1
    assert everything_in(out) == before


def test_masks_of_single_sequences_are_nobodys_ground_truth(hospital: Path) -> None:
    worked = worked_on(hospital)
    export.save(a_result(worked.subject), worked.subject, hospital, worked=worked)
    [files] = find_subjects([hospital])
    assert set(files.files) == {T1, T2, FLAIR}
    assert files.segmentation is None


def test_a_tumour_that_a_file_does_not_show_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch)
    beside = phantoms.grid("RAS", (10, 30, 30), centre=(-10.0, -5.0, 7.0))
    scans = {T1: stand_ins.raw_head(T1, phantoms.grid("RAS", (44, 44, 44))), T1CE: stand_ins.raw_head(T1CE, beside)}
    worked = pipeline.work("anna", scans)
    saved = export.save(a_result(worked.subject), worked.subject, tmp_path, worked=worked)
    assert (
        "What was found is too small for the voxels of T1ce, or lies outside: the mask there is empty."
        in (saved.record["notes"])
    )
