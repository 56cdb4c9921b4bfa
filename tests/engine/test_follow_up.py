"""Two and three dates of a patient: spheres of known size in a head that was moved by a known motion."""

from __future__ import annotations

import csv
import datetime
import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from engine import follow_up, follow_up_files, rano
from engine.errors import Cancelled, CannotWrite, SequenceProblem
from engine.follow_up import GROWN, NOT_SEEN, SHRUNK, STABLE, FollowUp, TimePoint, change_map, compare
from engine.model_card import TUMOUR_CORE, WHOLE_TUMOUR
from engine.progress import Progress
from engine.rano import Course, Measure, Range
from engine.volume import Affine, Grid, LabelMap, Sequence, Subject, Volume
from tests.engine.test_alignment import MIDDLE, PATIENT_MOVED, apart_mm, scan

T1, T1CE, T2, FLAIR = Sequence
PLACE = MIDDLE + (22.0, -12.0, 10.0)
STILL = np.eye(4)


def sphere_ml(radius: float) -> float:
    return 4 / 3 * np.pi * radius**3 / 1000


def laid_out(volume: Volume, orientation: str) -> Volume:
    """The same voxels with the array's axes in another order and direction."""
    data, affine = volume.data, np.array(volume.grid.affine)
    pairs = ("LR", "PA", "IS")
    order = [next(w for w, pair in enumerate(pairs) if letter in pair) for letter in orientation]
    data, affine = np.transpose(data, order), affine[:, [*order, 3]]
    for axis, letter in enumerate(orientation):
        if letter in "LPI":
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    return replace(volume, data=np.ascontiguousarray(data), grid=Grid(data.shape, affine))


def spheres(grid: Grid, at: Affine, *balls: tuple[np.ndarray, float, float]) -> LabelMap:
    """Balls of whole tumour with balls of core in them, where a patient lies who was moved by ``at``."""
    world = grid.to_world(np.indices(grid.shape).reshape(3, -1).T)
    whole, core = np.zeros(len(world), bool), np.zeros(len(world), bool)
    for place, outer, inner in balls:
        away = np.linalg.norm(world - (at[:3, :3] @ place + at[:3, 3]), axis=1)
        whole |= away <= outer
        core |= away <= inner
    return LabelMap.of_regions(whole.reshape(grid.shape), core.reshape(grid.shape), grid)


def point(
    radius: float,
    at: Affine = STILL,
    sequences: tuple[Sequence, ...] = (T1,),
    orientation: str = "RAS",
    core: float = 0.5,
    more: tuple[tuple[np.ndarray, float, float], ...] = (),
    **about: Any,
) -> TimePoint:
    """A date with a tumour of this radius in mm, half as wide a core in it."""
    scans = {s: laid_out(scan(s, at=at), orientation) for s in sequences}
    subject = Subject("somebody", scans)
    labels = spheres(subject.grid, at, (PLACE, radius, core * radius), *more)
    volumes = {WHOLE_TUMOUR: labels.ml(labels.whole_tumour), TUMOUR_CORE: labels.ml(labels.tumour_core)}
    made = TimePoint(
        subject=subject, labels=labels, volumes_ml=volumes,
        intervals_ml={region: (0.8 * ml, 1.25 * ml) for region, ml in volumes.items()},
        model="T1 student 1.0", model_key="student-t1 1.0 t1", used=sequences,
    )  # fmt: skip
    return replace(made, **about)


@pytest.fixture(scope="module")
def grown() -> FollowUp:
    """15 mm wide, later 18; the head moved and turned in between."""
    return compare([point(15.0, PATIENT_MOVED, label="before"), point(18.0, label="after")])


def test_a_moved_head_is_brought_onto_the_latest_date(grown: FollowUp) -> None:
    assert apart_mm(grown.visits[0].matrix @ PATIENT_MOVED, np.eye(4)) < 1.0
    assert grown.visits[0].quality is not None
    assert grown.visits[0].quality > 0.6
    assert np.array_equal(grown.latest.matrix, np.eye(4))
    assert grown.doubts() == ()


def test_volumes_and_percentages_are_those_of_the_spheres(grown: FollowUp) -> None:
    course = grown.course(WHOLE_TUMOUR, Measure.VOLUME)
    assert course.values == pytest.approx([sphere_ml(15), sphere_ml(18)], rel=0.02)
    assert course.against_baseline(1) == pytest.approx((18 / 15) ** 3 - 1, abs=0.03)
    product = grown.course(WHOLE_TUMOUR, Measure.PRODUCT)
    # On voxels of 2 mm each diameter is right to about a voxel.
    for found, radius in zip(product.values, (15, 18), strict=True):
        assert np.sqrt(100 * found) == pytest.approx(2 * radius, abs=2.1)
    assert product.against_baseline(1) == pytest.approx((18 / 15) ** 2 - 1, abs=0.1)


def test_the_map_shows_a_shell_that_grew(grown: FollowUp) -> None:
    for region, share in ((WHOLE_TUMOUR, 1.0), (TUMOUR_CORE, 0.5)):
        change = grown.change(region, 0)
        shell = sphere_ml(18 * share) - sphere_ml(15 * share)
        assert change.grown_ml == pytest.approx(shell, rel=0.12, abs=0.25)
        assert change.shrunk_ml < 0.1 * shell + 0.05
        assert change.stable_ml == pytest.approx(sphere_ml(15 * share), rel=0.06)
    away = np.linalg.norm(
        grown.grid.to_world(np.argwhere(grown.change(WHOLE_TUMOUR, 0).labels.data == GROWN)) - PLACE, axis=1
    )
    assert away.min() > 12.5
    assert away.max() < 18.5


@pytest.mark.parametrize(("then", "now"), [("LPS", "RAS"), ("PIR", "ASL"), ("RAS", "SRP")])
def test_dates_may_be_laid_out_in_any_way(grown: FollowUp, then: str, now: str) -> None:
    made = compare([point(15.0, PATIENT_MOVED, orientation=then), point(18.0, orientation=now)])
    assert made.change(WHOLE_TUMOUR, 0).grown_ml == pytest.approx(grown.change(WHOLE_TUMOUR, 0).grown_ml, abs=0.5)
    assert made.grid.orientation == now
    places = made.grid.to_world(np.argwhere(made.change(WHOLE_TUMOUR, 0).labels.data == STABLE))
    assert np.linalg.norm(places.mean(axis=0) - PLACE) < 1.0


def test_dates_with_other_sequences_are_aligned_all_the_same() -> None:
    earlier = point(18.0, PATIENT_MOVED, sequences=(FLAIR,), model="FLAIR student 1.0", model_key="student-flair")
    made = compare([earlier, point(15.0, sequences=(T1, T1CE))])
    assert apart_mm(made.visits[0].matrix @ PATIENT_MOVED, np.eye(4)) < 1.5
    assert made.change(WHOLE_TUMOUR, 0).shrunk_ml == pytest.approx(sphere_ml(18) - sphere_ml(15), rel=0.15)
    [doubt] = made.doubts()
    assert "not segmented alike" in doubt
    assert "FLAIR student 1.0" in doubt


def test_days_decide_the_order_and_never_leave_the_memory(tmp_path: Path) -> None:
    may, june = datetime.date(2024, 5, 1), datetime.date(2024, 6, 10)
    made = compare([point(18.0, when=june), point(15.0, when=may)])
    assert made.days == (0, 40)
    assert made.names_on_screen == ("2024-05-01", "2024-06-10")
    assert made.names == ("date 1", "date 2")
    assert made.titles == ("date 1, day 0", "date 2, day 40")
    written = follow_up_files.write(made, tmp_path)
    texts = [path.read_text("utf-8") for path in tmp_path.iterdir() if path.suffix in (".csv", ".json")]
    assert len(written) == 5
    assert not any("2024" in text or "somebody" in text for text in texts)
    assert "2024-05-01" in " ".join(made.findings(on_screen=True)) + " ".join(made.names_on_screen)


def test_a_piece_that_touches_nothing_is_told() -> None:
    apart = (MIDDLE + (-30.0, 20.0, 5.0), 7.0, 0.0)
    made = compare([point(15.0), point(15.0, more=(apart,))])
    [new] = made.new
    assert new.ml == pytest.approx(sphere_ml(7), rel=0.1)
    assert np.linalg.norm(new.place - apart[0]) < 3
    assert any("may be a new lesion" in told for told in made.findings())


def test_what_the_earlier_scan_does_not_show_did_not_grow() -> None:
    whole = point(15.0)
    grid = whole.subject.grid
    low = int(grid.to_voxel(PLACE[None])[0][2])
    cut = Grid((*grid.shape[:2], low), grid.affine)
    [volume] = whole.subject.values()
    earlier = replace(
        whole,
        subject=Subject("somebody", {T1: Volume(volume.data[:, :, :low], cut, T1)}),
        labels=LabelMap(whole.labels.data[:, :, :low], cut),
    )
    change = compare([earlier, whole]).change(WHOLE_TUMOUR, 0)
    assert change.ml(NOT_SEEN) == pytest.approx(whole.labels.ml(whole.labels.data[:, :, low:] > 0), rel=0.02)
    assert change.grown_ml < 0.3


def test_labels_of_the_map() -> None:
    grid = Grid((4, 1, 1), np.eye(4))
    then = LabelMap(np.array([0, 2, 1, 0], np.uint8).reshape(4, 1, 1), grid)
    now = LabelMap(np.array([2, 2, 0, 1], np.uint8).reshape(4, 1, 1), grid)
    seen = np.array([True, True, True, False]).reshape(4, 1, 1)
    assert change_map(then, now, WHOLE_TUMOUR, seen).data.ravel().tolist() == [GROWN, STABLE, SHRUNK, NOT_SEEN]
    assert change_map(then, now, TUMOUR_CORE).data.ravel().tolist() == [0, 0, SHRUNK, GROWN]
    with pytest.raises(ValueError, match="one grid"):
        change_map(then, LabelMap(np.zeros((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4))), WHOLE_TUMOUR)


def test_one_date_is_too_few_and_cancelling_stops() -> None:
    with pytest.raises(SequenceProblem, match="Add another date"):
        compare([point(15.0)])
    progress = Progress()
    threading.Timer(0.05, progress.cancel).start()
    with pytest.raises(Cancelled):
        compare([point(15.0, PATIENT_MOVED), point(18.0)], progress)


# --- RANO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "values", "minor", "expected"),
    [
        (Measure.VOLUME, (10.0, 14.0), False, Range.PROGRESSION),
        (Measure.VOLUME, (10.0, 13.9), False, Range.STABLE),
        (Measure.VOLUME, (10.0, 3.5), False, Range.PARTIAL),
        (Measure.VOLUME, (10.0, 3.6), False, Range.STABLE),
        (Measure.VOLUME, (10.0, 6.0), True, Range.MINOR),
        (Measure.VOLUME, (10.0, 6.1), True, Range.STABLE),
        (Measure.PRODUCT, (10.0, 12.5), False, Range.PROGRESSION),
        (Measure.PRODUCT, (10.0, 12.4), False, Range.STABLE),
        (Measure.PRODUCT, (10.0, 5.0), False, Range.PARTIAL),
        (Measure.PRODUCT, (10.0, 7.5), True, Range.MINOR),
        # Growth over the smallest counts, however far below baseline it still is.
        (Measure.VOLUME, (100.0, 20.0, 28.0), False, Range.PROGRESSION),
        (Measure.VOLUME, (100.0, 20.0, 27.0), False, Range.PARTIAL),
        (Measure.VOLUME, (10.0, 0.0), False, Range.GONE),
        (Measure.VOLUME, (10.0, 0.0, 0.5), False, Range.APPEARED),
        (Measure.VOLUME, (0.0, 0.0), False, Range.NOTHING),
        (Measure.VOLUME, (0.1 * 3, 0.3 * 1.4), False, Range.PROGRESSION),
    ],
)
def test_limits_of_rano(measure: Measure, values: tuple[float, ...], minor: bool, expected: Range) -> None:
    assert Course(measure, values).range_at(len(values) - 1, minor) is expected


def test_dates_before_baseline_play_no_part() -> None:
    course = Course(Measure.VOLUME, (2.0, 10.0, 11.0), baseline=1)
    assert course.smallest_before(2) == 1
    assert course.against_baseline(2) == pytest.approx(0.1)
    assert course.against_baseline(0) is None
    assert course.range_at(1) is None
    assert course.range_at(2) is Range.STABLE


def test_words_name_the_measure_and_never_a_category(grown: FollowUp) -> None:
    told = " ".join(grown.findings())
    assert "Whole tumour, volume: " in told
    assert "In the range of progression: 40 % or more in volume above the smallest." in told
    assert "In the range of progression: 25 % or more of the product above the smallest." in told
    assert "intervals" not in told
    assert "no response category" in (rano.__doc__ or "")
    assert any("steroids" in sentence for sentence in rano.NOT_JUDGED)
    assert any("enhancing" in sentence for sentence in rano.NOT_JUDGED)


def test_intervals_that_overlap_are_told() -> None:
    told = " ".join(compare([point(15.0), point(16.0)]).findings())
    assert "Whole tumour, volume: 17.4 ml, 25 % more than at baseline (13.9 ml)." in told
    assert "In the range of stable" in told
    assert "The 90 % intervals of now (14 to 22 ml) and of date 1 (11 to 17 ml) overlap." in told


def test_small_things_have_no_product() -> None:
    made = compare([point(4.0), point(4.6)])
    assert any("too small to be measured" in told for told in made.findings())


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("anna_2024-05-17", datetime.date(2024, 5, 17)),
        ("ses-20240517", datetime.date(2024, 5, 17)),
        ("MR 17.05.2024 post", datetime.date(2024, 5, 17)),
        ("2024_05_17_t1", datetime.date(2024, 5, 17)),
        ("BraTS2021_00006", None),
        ("2024-05-17 to 2024-06-17", None),
        ("20240231", None),
        ("12345678901", None),
    ],
)
def test_days_in_names(name: str, day: datetime.date | None) -> None:
    assert follow_up_files.day_in(name) == day


def test_everything_is_written_and_reads_back(grown: FollowUp, tmp_path: Path) -> None:
    written = follow_up_files.write(grown, tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO(written["csv"].read_text("utf-8"))))
    assert [(row["date"], row["region"]) for row in rows] == [
        ("before", WHOLE_TUMOUR), ("before", TUMOUR_CORE), ("after", WHOLE_TUMOUR), ("after", TUMOUR_CORE)
    ]  # fmt: skip
    assert float(rows[2]["volume_since_baseline_percent"]) == pytest.approx(72.8, abs=3)
    assert rows[2]["volume_range"] == "progression"
    assert rows[0]["volume_range"] == ""
    values = json.loads(written["json"].read_text("utf-8"))
    assert values["dates"][1]["regions"][WHOLE_TUMOUR]["volume"]["since_smallest_percent"] == pytest.approx(72.8, abs=3)
    assert "Wen et al." in values["criteria"]
    image = nib.load(written["change_whole_tumour"])
    assert np.array_equal(np.asarray(image.dataobj), grown.change(WHOLE_TUMOUR, 0).labels.data)
    assert np.allclose(image.affine, grown.grid.affine, atol=1e-4)
    with Image.open(written["plot"]) as picture:
        assert picture.size[0] == round(160 / 25.4 * 300)
        colours = {colour for _, colour in picture.getcolors(1 << 20) or ()}
        assert (32, 117, 168) in colours
    sidecar = json.loads((tmp_path / "out" / "follow-up.csv.json").read_text("utf-8"))
    assert sidecar["output"]["kind"] == "follow-up"
    again = follow_up_files.write(grown, tmp_path / "out")
    assert again.keys() == written.keys()
    (tmp_path / "out" / "follow-up.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(CannotWrite, match="was changed after Gliascope made it"):
        follow_up_files.write(grown, tmp_path / "out")


def test_the_page_says_what_the_numbers_say(tmp_path: Path) -> None:
    from pypdf import PdfReader

    about = {
        "format": 2, "software": {"name": "Gliascope", "version": "1"}, "edited_by_hand": 0, "reason": "It fits.",
        "model": {"name": "t1", "title": "T1 student", "version": "1.0", "sha256": "0" * 64}, "notes": [],
        "sequences": {"used": ["t1"], "not_used": [], "absent": [], "uncertain": []}, "inputs": {}, "seconds": 1.0,
        "grid": {"shape": [1, 1, 1], "spacing_mm": [1.0, 1.0, 1.0]}, "device": "CPU", "precision": "fp32",
    }  # fmt: skip
    days = datetime.date(2019, 5, 1), datetime.date(2019, 6, 10)
    made = compare([point(15.0, when=days[0]), point(18.0, when=days[1], provenance=about)])
    written = follow_up_files.write(made, tmp_path)
    text = " ".join(" ".join(page.extract_text().split()) for page in PdfReader(written["report"]).pages)
    assert "Follow-up" in text
    assert "In the range of progression: 40 % or more in volume above the smallest." in text
    assert "Change of the whole tumour" in text
    assert "These are ranges of single measures, not a response category." in text
    assert "day 40" in text
    assert "2019" not in text


def test_names_can_be_typed(grown: FollowUp) -> None:
    named = grown.renamed(("pre", "post"))
    assert named.names == ("pre", "post")
    assert follow_up_files.as_csv(named).count("post") == 2
    assert follow_up.FollowUp.with_baseline(grown, 9).baseline == 1
