"""The report, read by others: pypdf for words and fonts, PDFium for what is to be seen."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
from numpy.typing import NDArray
from pypdf import PdfReader
from pypdfium2 import raw

from engine import outputs, pipeline, provenance, report
from engine.errors import CannotWrite
from engine.figures import ORANGE, SKY, Look, Region, Scene
from engine.inference import NO_TUMOUR, Segmentation
from engine.model_card import (
    REGIONS,
    Architecture,
    Calibration,
    Evaluation,
    ModelCard,
    RegionCalibration,
    RegionScores,
    Role,
)
from engine.outputs import Wanted
from engine.report import Content, Curve, Plot, Section, Table
from engine.sequences import find_subjects, read
from engine.volume import Grid, LabelMap, Sequence, Subject
from tests.engine import phantoms, stand_ins

T1, T1CE, T2, FLAIR = Sequence
MADE = datetime(2026, 11, 24, 2, 30, tzinfo=UTC)
GRID = phantoms.grid("LPS")
CARD = ModelCard(
    name="teacher",
    title="four-sequence teacher",
    version="2.0",
    role=Role.TEACHER,
    sequences=tuple(Sequence),
    spacing_mm=2.0,
    window=(96, 112, 96),
    architecture=Architecture("dynunet"),
    any_subset=True,
    evaluation=Evaluation(
        how="5-fold cross-validation by patient",
        cases=40,
        patients=40,
        regions={region: RegionScores(0.85, 0.09, 11.25) for region in REGIONS},
        by_sequences={"t2": {region: RegionScores(0.71, 0.12) for region in REGIONS}},
    ),
    calibration=Calibration({r: RegionCalibration(1.1, 0.05, 0.02, 0.8, 1.4, 0.95, 40) for r in REGIONS}),
    files={"network.xml": "0" * 64},
)


def a_result(subject: Subject, used: tuple[Sequence, ...] = tuple(Sequence), **changed: Any) -> Segmentation:
    labels = phantoms.tumour(subject.grid)
    ml = {"whole_tumour": labels.ml(labels.whole_tumour), "tumour_core": labels.ml(labels.tumour_core)}
    made = Segmentation(
        label_map=labels,
        probabilities={region: np.full(subject.grid.shape, 0.9, np.float32) for region in REGIONS},
        volumes_ml=ml,
        card=CARD,
        used=used,
        device="CPU",
        precision="bf16",
        seconds=1.25,
        intervals_ml={region: (0.8 * value, 1.4 * value) for region, value in ml.items()},
        made_at="2026-11-24T02:30:00Z",
    )
    return replace(made, **changed)


def a_content(
    grid: Grid = GRID, sequences: tuple[Sequence, ...] = tuple(Sequence), title: str = "", **changed: Any
) -> Content:
    subject = phantoms.subject(grid, sequences, name="boris")
    result = a_result(subject, sequences, **changed)
    record = provenance.describe(result, subject, "T1 and T2: using the four-sequence teacher.")
    record["mask"] = {"sha256": "3f9c2a1b" * 8}
    return Content(
        scene=Scene(dict(subject), result.label_map),
        measured=outputs.measure(result),
        record=record,
        accuracy=report.accuracy(result.card, result.used),
        made=MADE,
        title=title,
    )


def words_of(path: Path) -> str:
    """All pages, with every run of white space as one space."""
    return " ".join(" ".join(page.extract_text() for page in PdfReader(path).pages).split())


def pixels_of(path: Path, dpi: float = 200.0) -> NDArray[np.uint8]:
    with pypdfium2.PdfDocument(path) as document:
        return np.array(document[0].render(scale=dpi / 72).to_numpy()[..., 2::-1])


def test_a_page_says_what_was_found_and_how(tmp_path: Path) -> None:
    content = a_content(title="Study 0417, Łódź")
    path = report.write(content, tmp_path / "boris_report.pdf")
    reader = PdfReader(path)
    [page] = reader.pages
    assert [float(side) for side in page.mediabox[2:]] == pytest.approx([595.28, 841.89], abs=0.01)
    words = words_of(path)
    whole = content.measured["regions"]["whole_tumour"]
    low, high = whole["interval_90_percent_ml"]
    for said in (
        "Tumour segmentation",
        "Study 0417, Łódź",
        "24 November 2026, 02:30 UTC",
        f"Gliascope {provenance.version()}",
        "Research use only. Not a medical device",
        f"{whole['volume_ml']:.1f} ml",
        f"90 %: {low:.1f} to {high:.1f} ml",
        f"{whole['longest_mm']:.1f} \N{MULTIPLICATION SIGN} {whole['across_mm']:.1f} mm",
        "Four-sequence teacher 2.0. T1 and T2: using the four-sequence teacher.",
        "Measured on 40 patients (5-fold cross-validation by patient)",
        "whole tumour Dice 0.85 \N{PLUS-MINUS SIGN} 0.09 and HD95 11.2 mm",
        "On 40 patients the 90 % interval held 95 % of the whole tumour volumes and 95 % of the core volumes.",
        "Used: T1, T1ce, T2 and FLAIR.",
        "Radiological: the patient's left is on the right; sagittal: nose to the left.",
        "Check every mask by eye.",
        "SHA-256 of the mask " + "3f9c2a1b" * 8,
        "Page 1 of 1",
    ):
        assert said in words
    assert reader.metadata is not None
    assert reader.metadata.creation_date == MADE
    assert reader.metadata.title == "Tumour segmentation Study 0417, Łódź"
    assert b"boris" not in path.read_bytes()
    assert "boris" not in words


def test_the_fonts_are_in_the_file(tmp_path: Path) -> None:
    [page] = PdfReader(report.write(a_content(), tmp_path / "a.pdf")).pages
    fonts = page["/Resources"]["/Font"]
    assert len(fonts) == 2
    for font in fonts.values():
        [descendant] = font.get_object()["/DescendantFonts"]
        descriptor = descendant.get_object()["/FontDescriptor"]
        assert "Inter" in descriptor["/FontName"]
        embedded = descriptor["/FontFile2"].get_data()
        # TrueType outlines: those of other kinds are refused by some readers in this place.
        assert embedded[:4] == b"\x00\x01\x00\x00"
        assert len(embedded) > 1000
        assert "/ToUnicode" in font.get_object()


def test_pictures_have_300_pixels_an_inch_and_outlines_are_lines(tmp_path: Path) -> None:
    path = report.write(a_content(), tmp_path / "a.pdf")
    with pypdfium2.PdfDocument(path) as document:
        objects = list(document[0].get_objects())
        images = [one for one in objects if one.type == raw.FPDF_PAGEOBJ_IMAGE]
        assert len(images) == 12
        for image in images:
            left, bottom, right, top = image.get_bounds()
            width, height = image.get_px_size()
            assert width / (right - left) * 72 == pytest.approx(300, rel=0.01)
            assert height / (top - bottom) * 72 == pytest.approx(300, rel=0.01)
    # Each says what it shows to whoever cannot see it.
    assert len(re.findall(rb"/Alt ", path.read_bytes())) == 12
    with pypdfium2.PdfDocument(path) as document:
        objects = list(document[0].get_objects())
        # Whole tumour and core on each picture, at least.
        assert sum(one.type == raw.FPDF_PAGEOBJ_PATH for one in objects) >= 24


@pytest.mark.parametrize(
    "grid",
    [
        phantoms.grid("RAI"),
        phantoms.grid("ASL", oblique=(12.0, -7.0, 20.0)),
        phantoms.grid("LIP", (40, 44, 10), (0.7, 0.7, 2.5)),
    ],
    ids=["flipped", "oblique", "thick slices"],
)
def test_outlines_are_printed_where_the_mask_lies(grid: Grid, tmp_path: Path) -> None:
    content = a_content(grid, (T2,))
    path = report.write(content, tmp_path / "a.pdf")
    dpi = 300.0
    pixels = pixels_of(path, dpi).astype(int)
    with pypdfium2.PdfDocument(path) as document:
        found = [one.get_bounds() for one in document[0].get_objects() if one.type == raw.FPDF_PAGEOBJ_IMAGE]
    widest = max(view.box[2] for view in content.scene.views.values())
    for (plane, view), (left, _, right, top) in zip(content.scene.views.items(), found, strict=True):
        scale = (right - left) / 72 * dpi / widest  # pixels for a mm of the patient
        x0, y0 = left / 72 * dpi, (841.89 - top) / 72 * dpi
        area = pixels[round(y0) : round(y0 + 0.9 * widest * scale), round(x0) : round(right / 72 * dpi)]
        rows, columns = np.nonzero(np.abs(area - SKY).max(axis=-1) < 50)
        # The middle of the view is the middle of the picture.
        middle = np.array([area.shape[1] / 2, (found[0][3] - found[0][1]) / 72 * dpi / 2])
        ends = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
        on_slice = (ends - middle) / scale + np.array(view.box[:2]) + np.array(view.box[2:]) / 2
        mask = view.cut.extract(content.scene.labels.whole_tumour, view.index)
        spacing = np.array([grid.spacing[view.cut.columns[0]], grid.spacing[view.cut.rows[0]]])
        inside = np.argwhere(mask)[:, ::-1]
        expected = np.array([inside.min(axis=0), inside.max(axis=0) + 1]) * spacing
        # To half the width of the line and a pixel.
        assert np.abs(on_slice - expected).max() < 0.75 / 72 * dpi / scale / 2 + 1.5 / scale, plane
    assert (np.abs(pixels - ORANGE).max(axis=-1) < 50).any()


def test_equal_content_gives_equal_bytes_and_another_date_others(tmp_path: Path) -> None:
    first = report.write(a_content(), tmp_path / "a.pdf").read_bytes()
    assert report.write(a_content(), tmp_path / "b.pdf").read_bytes() == first
    elsewhere = replace(a_content(), made=MADE.astimezone(timezone(timedelta(hours=5))))
    assert report.write(elsewhere, tmp_path / "c.pdf").read_bytes() == first
    later = replace(a_content(), made=MADE + timedelta(days=1))
    assert report.write(later, tmp_path / "d.pdf").read_bytes() != first
    with pytest.raises(ValueError, match="time zone"):
        replace(a_content(), made=MADE.replace(tzinfo=None))


def test_one_sequence_without_an_interval(tmp_path: Path) -> None:
    content = a_content(GRID, (T2,), intervals_ml=dict.fromkeys(REGIONS))
    words = words_of(report.write(content, tmp_path / "a.pdf"))
    assert "Used: T2. Absent: T1, T1ce and FLAIR." in words
    assert "No interval is given: none was measured" in words
    assert "90 % interval ml" not in words
    assert "whole tumour Dice 0.71" in words
    assert "HD95" not in words


def test_nothing_found(tmp_path: Path) -> None:
    empty = LabelMap(np.zeros(GRID.shape, np.uint8), GRID)
    content = a_content(
        label_map=empty,
        volumes_ml=dict.fromkeys(REGIONS, 0.0),
        intervals_ml=dict.fromkeys(REGIONS),
        notes=(NO_TUMOUR,),
    )
    words = words_of(report.write(content, tmp_path / "a.pdf"))
    assert f"Read this first {NO_TUMOUR}" in words
    assert words.count("None was found") == 2
    assert words.count("0.0 ml") == 2
    assert "Whole tumour (none)" in words
    assert "Longest mm" not in words


def test_a_corrected_mask_says_so_before_anything_else(tmp_path: Path) -> None:
    content = a_content(edited_by_hand=2, probabilities={}, intervals_ml=dict.fromkeys(REGIONS))
    words = words_of(report.write(content, tmp_path / "a.pdf"))
    assert "Read this first Corrected by hand (2 corrections)." in words
    assert "figures are those of the model alone" in words
    assert "Mean probability" not in words


def test_every_lesion_has_a_line_and_many_are_summed_up(tmp_path: Path) -> None:
    labels = np.zeros(GRID.shape, np.uint8)
    for number in range(11):
        labels[2 + 2 * number, 4 : 6 + number, 6:8] = 2
    found = LabelMap(labels, GRID)
    content = a_content(label_map=found, volumes_ml={"whole_tumour": found.ml(labels > 0), "tumour_core": 0.0})
    words = words_of(report.write(content, tmp_path / "a.pdf"))
    assert "Lesion 8" in words
    assert "Lesion 9" not in words
    assert "3 smaller" in words


def test_what_does_not_fit_goes_on_under_the_same_head(tmp_path: Path) -> None:
    plot = Plot(
        (
            Curve("Whole tumour", SKY, (0, 92), (41.2, 38.0), (36.0, 33.0), (51.0, 45.0)),
            Curve("Core", ORANGE, (0, 92), (9.8, 8.1)),
        ),
        ((0, "3 Jan 2026"), (92, "5 Apr 2026")),
        "ml",
    )
    change = replace(a_content().scene, regions=(Region("Grown", (213, 94, 0), (1,), 0.5),))
    table = Table(("Date", "Whole tumour ml"), (("3 Jan 2026", "41.2"), ("5 Apr 2026", "38.0")))
    notes = tuple(f"Doubt number {number} " + "goes on for a while " * 9 for number in range(12))
    content = a_content(title="Study 0417", notes=notes)
    extra = Section("Follow-up", ("Two dates were aligned.",), table, plot, change)
    path = report.write(replace(content, extra=(extra,)), tmp_path / "a.pdf")
    pages = [" ".join(page.extract_text().split()) for page in PdfReader(path).pages]
    assert len(pages) == 2
    for number, words in enumerate(pages, 1):
        assert f"Page {number} of 2" in words
        assert "Research use only" in words
        assert "Study 0417" in words
    everything = " ".join(pages)
    for said in ("Doubt number 11", "Two dates were aligned.", "5 Apr 2026", "Grown", "SHA-256 of the model"):
        assert said in everything
    # Nothing lies beyond the margins.
    with pypdfium2.PdfDocument(path) as document:
        for page in document:
            shown = np.asarray(page.render(scale=1.0).to_numpy()).min(axis=-1)
            rows, columns = np.nonzero(shown < 200)
            assert columns.min() >= 40
            assert columns.max() <= 595 - 40
            assert rows.max() <= 842 - 25


def test_report_and_figure_are_saved_with_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch)
    folder = tmp_path / "in" / "boris"
    grids = {T2: phantoms.grid("LPS", (48, 48, 16), (1.0, 1.0, 3.0)), FLAIR: phantoms.grid("AIL", (50, 50, 50))}
    for sequence, grid in grids.items():
        phantoms.write_volume(folder / f"boris_{sequence.value}.nii.gz", stand_ins.raw_head(sequence, grid))
    [files] = find_subjects([folder])
    worked = pipeline.work(files.name, read(files))
    result = a_result(worked.subject, (T2, FLAIR))
    record = provenance.describe(result, worked.subject, "Because.", worked=worked)
    wanted = Wanted(report=True, figure=True, title="Study 7", look=Look(radiological=False))
    out = tmp_path / "out"
    written, notes = outputs.write(wanted, result, worked, out, record)
    assert notes == ()
    assert {path.name for path in out.iterdir()} == {
        "boris_report.pdf", "boris_report.pdf.json", "boris_figure.png", "boris_figure.png.json",
    }  # fmt: skip
    for kind in ("report", "figure"):
        beside = json.loads((out / f"{written[kind].name}.json").read_text(encoding="utf-8"))
        assert beside["output"]["sha256"] == hashlib.sha256(written[kind].read_bytes()).hexdigest()
    words = words_of(written["report"])
    assert "24 November 2026, 02:30 UTC" in words
    assert "Neurological" in words
    assert "The skull was removed" in words
    assert "Study 7" in words
    before = written["report"].read_bytes()
    outputs.write(wanted, result, worked, out, record)
    assert written["report"].read_bytes() == before
    written["report"].write_bytes(b"mine")
    with pytest.raises(CannotWrite, match=r"boris_report\.pdf is there already"):
        outputs.write(wanted, result, worked, out, record)
    assert written["report"].read_bytes() == b"mine"
