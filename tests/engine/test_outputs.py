"""What is written beside the masks: that others can read it, lies where it should, and replaces nothing of others."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine import outputs, pipeline
from engine.errors import CannotWrite, SequenceProblem
from engine.inference import Segmentation
from engine.model_card import Architecture, ModelCard, Role
from engine.outputs import WORKING, Wanted
from engine.pipeline import Worked
from engine.sequences import find_subjects, read
from engine.volume import LabelMap, Sequence
from tests.engine import phantoms, stand_ins

T1, T1CE, T2, FLAIR = Sequence
GRIDS = {
    T2: phantoms.grid("LPS", (48, 48, 16), (1.0, 1.0, 3.0), (3.0, 0.0, 5.0)),
    FLAIR: phantoms.grid("AIL", (50, 18, 50), (1.0, 2.5, 1.0), centre=(-1.0, -5.0, 12.0)),
}
RECORD = {"software": {"name": "Gliascope", "version": "0"}, "mask": {"sha256": "0"}, "notes": []}


@pytest.fixture
def worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worked:
    """T2 and FLAIR of a patient with a skull, each on a grid and at a place of its own, brought together."""
    stand_ins.install(monkeypatch)
    folder = tmp_path / "in" / "boris"
    folder.mkdir(parents=True)
    for sequence, grid in GRIDS.items():
        phantoms.write_volume(folder / f"boris_{sequence.value}.nii.gz", stand_ins.raw_head(sequence, grid))
    [files] = find_subjects([folder])
    return pipeline.work(files.name, read(files))


def a_result(worked: Worked) -> Segmentation:
    """The phantom's tumour with a second, small lesion, and probabilities that are 0.9 inside."""
    labels = phantoms.tumour(worked.grid).data.copy()
    labels[2:5, 2:4, 2:4] = 2
    found = LabelMap(labels, worked.grid)
    regions = {"whole_tumour": found.whole_tumour, "tumour_core": found.tumour_core}
    card = ModelCard(
        name="teacher",
        title="teacher",
        version="1",
        role=Role.TEACHER,
        sequences=(T2, FLAIR),
        spacing_mm=2.0,
        window=(96, 112, 96),
        architecture=Architecture("dynunet"),
        files={"network.xml": "0" * 64},
    )
    return Segmentation(
        label_map=found,
        probabilities={r: np.where(mask, np.float32(0.9), np.float32(0.05)) for r, mask in regions.items()},
        volumes_ml={r: found.ml(mask) for r, mask in regions.items()},
        card=card,
        used=(T2, FLAIR),
        device="CPU",
        precision="fp32",
        seconds=1.0,
        intervals_ml={"whole_tumour": (0.1, 0.4), "tumour_core": None},
    )


@pytest.mark.parametrize("place", [None, T2, FLAIR, WORKING])
def test_probabilities_lie_on_the_grid_that_was_named_and_agree_with_the_mask(
    place: outputs.Place, worked: Worked, tmp_path: Path
) -> None:
    result = a_result(worked)
    written, _ = outputs.write(Wanted(probabilities=True, grid=place), result, worked, tmp_path, RECORD)
    sequence = worked.reference if place is None else place
    like = worked.grid if place == WORKING else worked.raw[Sequence(sequence)].grid
    mask = result.label_map if place == WORKING else worked.native(result, Sequence(sequence))
    for region, inside in (("whole_tumour", mask.whole_tumour), ("tumour_core", mask.tumour_core)):
        image = nib.load(written[f"probability_{region}"])
        np.testing.assert_allclose(image.affine, like.affine, atol=1e-4)
        found = np.asarray(image.dataobj)
        assert found.shape == like.shape
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1
        assert found[inside].mean() > 0.6 > 0.3 > found[~inside].mean()
    assert (place == WORKING) == ("working_mask" in written)
    if place == WORKING:
        np.testing.assert_array_equal(np.asarray(nib.load(written["working_mask"]).dataobj), result.label_map.data)


def test_the_table_says_what_was_drawn(worked: Worked, tmp_path: Path) -> None:
    result = a_result(worked)
    written, _ = outputs.write(Wanted(table=True), result, worked, tmp_path, RECORD)
    lines = list(csv.DictReader(written["table_csv"].read_text(encoding="utf-8").splitlines()))
    assert [line["part"] for line in lines] == ["whole_tumour", "tumour_core", "lesion_1", "lesion_2"]
    whole, core, first, second = lines
    voxel = worked.grid.voxel_ml
    assert float(whole["volume_ml"]) == pytest.approx(result.volumes_ml["whole_tumour"], abs=1e-3)
    assert (whole["low_ml"], whole["high_ml"], core["low_ml"]) == ("0.1", "0.4", "")
    assert (whole["pieces"], core["pieces"]) == ("2", "1")
    assert float(second["volume_ml"]) == pytest.approx(12 * voxel, abs=1e-3)
    assert float(first["volume_ml"]) + float(second["volume_ml"]) == pytest.approx(float(whole["volume_ml"]), abs=2e-3)
    assert (first["core_ml"], second["core_ml"]) == (core["volume_ml"], "0.0")
    expected = worked.grid.to_world(np.array([[3.0, 2.5, 2.5]]))[0]
    assert [float(second[f"{axis}_mm"]) for axis in "xyz"] == pytest.approx(list(expected), abs=0.06)
    assert float(second["longest_mm"]) == pytest.approx(3.0, abs=1.0)
    assert float(first["mean_probability"]) == pytest.approx(0.9, abs=1e-4)
    assert whole["unsure_ml"] == "0.0"
    record = json.loads(written["table_json"].read_text(encoding="utf-8"))
    assert record["regions"]["tumour_core"]["interval_90_percent_ml"] is None
    assert len(record["lesions"]) == 2
    assert "boris" not in written["table_csv"].read_text() + written["table_json"].read_text()


def test_a_table_of_nothing_and_of_a_kept_result_have_empty_cells(worked: Worked) -> None:
    result = a_result(worked)
    nothing = replace(result, label_map=LabelMap(np.zeros(worked.grid.shape, np.uint8), worked.grid), probabilities={})
    measured = outputs.measure(nothing)
    assert measured["lesions"] == []
    assert measured["regions"]["whole_tumour"]["volume_ml"] == 0
    assert measured["regions"]["whole_tumour"]["longest_mm"] is None
    assert measured["regions"]["whole_tumour"]["unsure_ml"] is None
    assert len(outputs.as_csv(measured).splitlines()) == 3


def test_surfaces_hold_the_volume_of_the_tumour(worked: Worked, tmp_path: Path) -> None:
    result = a_result(worked)
    written, notes = outputs.write(Wanted(surfaces=True), result, worked, tmp_path, RECORD)
    assert notes == ()
    for region in ("whole_tumour", "tumour_core"):
        content = written[f"surface_{region}"].read_bytes()
        facets = np.frombuffer(content[84:], np.dtype([("n", "<f4", 3), ("p", "<f4", (3, 3)), ("a", "<u2")]))
        a, b, c = (facets["p"][:, n].astype(float) for n in range(3))
        ml = float((a * np.cross(b, c)).sum()) / 6000
        assert ml == pytest.approx(result.volumes_ml[region], rel=0.02)
    empty = LabelMap(np.zeros(worked.grid.shape, np.uint8), worked.grid)
    written, notes = outputs.write(Wanted(surfaces=True), replace(result, label_map=empty), worked, tmp_path, RECORD)
    assert written == {}
    assert notes == ("There is no tumour, and so no surface to save.",)


def test_every_output_has_a_record_with_its_hash_and_is_replaced_only_while_it_is_ours(
    worked: Worked, tmp_path: Path
) -> None:
    result, out = a_result(worked), tmp_path / "out"
    out.mkdir()
    wanted = Wanted(probabilities=True, surfaces=True, table=True, grid=WORKING)
    written, _ = outputs.write(wanted, result, worked, out, RECORD)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 2 * len(written) == 14
    for path in written.values():
        name = "boris_working_seg.json" if path.name == "boris_working_seg.nii.gz" else f"{path.name}.json"
        record = json.loads(before[name])
        assert record["output"]["sha256"] == hashlib.sha256(before[path.name]).hexdigest()
        assert record["software"]["name"] == "Gliascope"
    outputs.write(wanted, result, worked, out, RECORD)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    table = written["table_csv"]
    table.write_text("mine")
    with pytest.raises(CannotWrite, match=r"boris_table\.csv is there already and is not replaced"):
        outputs.write(Wanted(table=True), result, worked, out, RECORD)
    assert table.read_text() == "mine"


def test_outputs_beside_the_scans_are_not_taken_for_scans(worked: Worked, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "boris"
    outputs.write(Wanted(probabilities=True, grid=WORKING), a_result(worked), worked, folder, RECORD)
    [files] = find_subjects([folder])
    assert (set(files.files), files.unknown, files.segmentation) == ({T2, FLAIR}, (), None)


def test_what_cannot_be_is_told_before_anything_is_written(worked: Worked, tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="T2 was not read from DICOM"):
        outputs.refuse_what_cannot_be(Wanted(dicom_seg=True), worked)
    with pytest.raises(SequenceProblem, match="on the grid of T1ce"):
        outputs.refuse_what_cannot_be(Wanted(probabilities=True, grid=T1CE), worked)
    kept = replace(a_result(worked), probabilities={})
    with pytest.raises(CannotWrite, match="a case keeps the mask alone"):
        outputs.write(Wanted(probabilities=True), kept, worked, tmp_path / "out", RECORD)
    assert not (tmp_path / "out").exists()
