"""Means, intervals and tests against values worked out by hand, by another program, or by many repetitions."""

from __future__ import annotations

import csv
import itertools
import math
import re
import statistics
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from engine.errors import UserError
from engine.model_card import TUMOUR_CORE, WHOLE_TUMOUR
from trainer import comparison, report
from trainer.comparison import Comparison, Row, compare, holm, read_rows, score_patients, summarise, write_rows


def row(case: str, dice: float, **fields: object) -> Row:
    """A row of a usual study; ``fields`` say what is different."""
    usual = Row("ours", "t1", 0, 0, "real", case, WHOLE_TUMOUR, 0.5, dice, 10.0, 50.0, 40.0)
    return replace(usual, **fields)  # type: ignore[arg-type]


def at_thresholds(case: str, of_threshold: dict[float, float], **fields: object) -> list[Row]:
    return [row(case, dice, threshold=threshold, **fields) for threshold, dice in of_threshold.items()]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_written_and_in_one_order(tmp_path: Path) -> None:
    rows = [row("b", 0.7123, seed=2), row("a", 1 / 3, hd95_mm=373.13), row("a", 0.5, threshold=0.3)]
    write_rows(tmp_path / "one.csv", rows)
    write_rows(tmp_path / "other.csv", reversed(rows))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()
    again = read_rows([tmp_path / "one.csv", tmp_path / "other.csv"])  # what is in both counts once
    assert [(r.case, r.threshold, r.seed) for r in again] == [("a", 0.3, 0), ("a", 0.5, 0), ("b", 0.5, 2)]
    assert again[1].dice == pytest.approx(1 / 3)
    assert again[2] == rows[0]


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with pytest.raises(UserError, match=r"scores.csv cannot be read"):
        read_rows([path])
    path.write_text("recipe,dice\nours,0.5\n")
    with pytest.raises(UserError, match="no column sequences"):
        read_rows([path])
    write_rows(path, [row("a", 0.5)])
    for broken in ("nan", "1.5", "many"):
        path.write_text(path.read_text().splitlines()[0] + f"\nours,t1,0,0,real,a,whole_tumour,0.5,{broken},1,1,1\n")
        with pytest.raises(UserError, match=r"score that cannot be used: line 2|score that cannot be used.*line 2"):
            read_rows([path])
    write_rows(path, [row("a", 0.5)])
    write_rows(tmp_path / "later.csv", [row("a", 0.6)])
    with pytest.raises(UserError, match="another result"):
        read_rows([path, tmp_path / "later.csv"])


# --- thresholds -------------------------------------------------------------------------------------------------------


def test_nobody_chooses_the_threshold_he_is_scored_at() -> None:
    """Each patient alone makes another threshold the best of all; the fair choice for him is the one without him."""
    rows = [
        *at_thresholds("a", {0.3: 0.90, 0.5: 0.50}),  # so much better at 0.3 that the mean of all is, too
        *at_thresholds("b", {0.3: 0.60, 0.5: 0.70}),
        *at_thresholds("c", {0.3: 0.60, 0.5: 0.70}),
    ]
    assert comparison.best_threshold(rows, "ours", "t1", WHOLE_TUMOUR) == 0.3
    scores = {score.case: score for score in score_patients(rows)}
    assert {case: score.threshold for case, score in scores.items()} == {"a": 0.5, "b": 0.3, "c": 0.3}
    assert summarise(rows)[0].dice_mean == pytest.approx((0.50 + 0.60 + 0.60) / 3)  # the unfair choice: 0.70


def test_regions_and_recipes_choose_their_own_threshold() -> None:
    cells = {("ours", WHOLE_TUMOUR): 0.3, ("ours", TUMOUR_CORE): 0.5, ("theirs", WHOLE_TUMOUR): 0.5}
    rows = [
        one
        for (recipe, region), best in cells.items()
        for case in "abc"
        for one in at_thresholds(case, {t: 0.8 if t == best else 0.7 for t in (0.3, 0.5)}, recipe=recipe, region=region)
    ]
    assert {(s.recipe, s.region): s.threshold for s in score_patients(rows)} == cells


def test_other_cohorts_are_scored_at_the_threshold_of_the_real_patients() -> None:
    rows = [one for case in "abc" for one in at_thresholds(case, {0.3: 0.5, 0.5: 0.6})]
    rows += [one for case in "xyz" for one in at_thresholds(case, {0.3: 0.9, 0.5: 0.4}, cohort="simulated")]
    # A shifted patient's own real scan must not choose for him either.
    rows += at_thresholds("d", {0.3: 0.99, 0.5: 0.1}) + at_thresholds("d", {0.3: 0.7, 0.5: 0.4}, cohort="shifted")
    scores = {(score.cohort, score.case): score.threshold for score in score_patients(rows)}
    assert comparison.best_threshold(rows, "ours", "t1", WHOLE_TUMOUR) == 0.3
    assert scores["simulated", "x"] == 0.3
    assert scores["real", "d"] == scores["shifted", "d"] == 0.5
    by_cohort = {summary.cohort: summary.dice_mean for summary in summarise(rows)}
    assert by_cohort["simulated"] == pytest.approx(0.9)
    assert by_cohort["shifted"] == pytest.approx(0.4)


def test_many_seeds_of_one_patient_have_one_say() -> None:
    rows = [one for seed in range(9) for one in at_thresholds("a", {0.3: 0.8, 0.5: 0.7}, seed=seed)]
    rows += at_thresholds("b", {0.3: 0.5, 0.5: 0.7}) + at_thresholds("c", {0.3: 0.5, 0.5: 0.7})
    assert comparison.best_threshold(rows, "ours", "t1", WHOLE_TUMOUR) == 0.5


def test_equally_good_thresholds_and_single_patients_take_the_one_next_to_one_half() -> None:
    rows = at_thresholds("a", {0.3: 0.1 + 0.2, 0.4: 0.3, 0.2: 0.3})
    assert comparison.best_threshold(rows, "ours", "t1", WHOLE_TUMOUR) == 0.4
    assert score_patients(rows)[0].threshold == 0.4
    simulated = at_thresholds("x", {0.3: 0.9, 0.5: 0.2}, cohort="simulated")
    assert score_patients(simulated)[0].threshold == 0.5  # simulated patients never choose


def test_a_patient_in_two_folds_or_without_the_chosen_threshold_is_refused() -> None:
    with pytest.raises(UserError, match="held out in two folds"):
        summarise([row("a", 0.5), row("a", 0.5, fold=1)])
    rows = [one for case in "abc" for one in at_thresholds(case, {0.3: 0.6, 0.5: 0.5})]
    with pytest.raises(UserError, match="not scored at the threshold"):
        summarise([*rows, row("x", 0.5, cohort="simulated")])
    with pytest.raises(UserError, match="different thresholds"):
        summarise([row("a", 0.5), row("b", 0.5, threshold=0.3)])


# --- summaries --------------------------------------------------------------------------------------------------------


def test_spreads_are_over_patients_and_over_seeds() -> None:
    dice = {"a": (0.2, 0.4), "b": (0.6, 0.6), "c": (0.9, 0.8)}
    rows = [row(case, own[seed], seed=seed, hd95_mm=own[seed] * 10) for case, own in dice.items() for seed in (0, 1)]
    (summary,) = summarise(rows)
    assert (summary.patients, summary.folds, summary.seeds_least, summary.seeds_most) == (3, 1, 2, 2)
    assert summary.dice_mean == pytest.approx((0.3 + 0.6 + 0.85) / 3)
    assert summary.dice_sd == pytest.approx(statistics.stdev([0.3, 0.6, 0.85]))
    assert summary.dice_sd_seeds == pytest.approx(statistics.stdev([1.7 / 3, 1.8 / 3]))
    assert summary.dice_median == pytest.approx(0.6)
    assert summary.hd95_mean == pytest.approx(summary.dice_mean * 10)
    assert summary.hd95_median == pytest.approx(6)


def test_unequal_seeds_are_said_and_do_not_weigh_patients_unequally() -> None:
    rows = [row("a", 0.2, seed=seed) for seed in range(3)] + [row("b", 0.8, fold=1)]
    (summary,) = summarise(rows)
    assert (summary.folds, summary.seeds_least, summary.seeds_most) == (2, 1, 3)
    assert summary.dice_mean == pytest.approx(0.5)
    assert summary.dice_sd_seeds == 0  # of patient a alone, who has all three
    assert "2 folds x 1 to 3 seeds" in "\n".join(report.summary_table([summary]))


def test_one_patient_or_one_seed_has_no_spread_rather_than_a_wrong_one() -> None:
    (summary,) = summarise([row("a", 0.5)])
    assert (summary.dice_sd, summary.dice_sd_seeds) == (None, None)


def test_empty_regions_are_counted_and_never_missing() -> None:
    core = {"region": TUMOUR_CORE}
    rows = [
        row("none", 1.0, hd95_mm=0.0, truth_ml=0.0, found_ml=0.0, **core),
        row("invented", 0.0, hd95_mm=373.13, truth_ml=0.0, found_ml=3.0, **core),
        row("missed", 0.0, hd95_mm=373.13, found_ml=0.0, **core),
        row("usual", 0.6, **core),
    ]
    (summary,) = summarise(rows)
    assert (summary.patients, summary.empty_truth, summary.empty_mask) == (4, 2, 1)
    assert summary.dice_mean == pytest.approx(0.4)


# --- comparisons ------------------------------------------------------------------------------------------------------


def pair(differences: list[float], seeds: int = 1) -> list[Row]:
    """Two recipes with these differences in points, patient by patient."""
    rows = []
    for number, difference in enumerate(differences):
        for seed in range(seeds):
            rows.append(row(f"p{number:03d}", 0.5, recipe="theirs", fold=number % 5, seed=seed))
            rows.append(row(f"p{number:03d}", 0.5 + difference / 100, fold=number % 5, seed=seed))
    return rows


def test_a_comparison_is_of_patients() -> None:
    found = compare(pair([1, 2, 3, -1, 5], seeds=3), "ours", "theirs", "t1")
    assert (found.patients, found.folds, found.seeds_least, found.seeds_most) == (5, 5, 3, 3)
    assert found.points == pytest.approx(2)
    assert found.points_median == pytest.approx(2)
    assert (found.better, found.worse, found.equal) == (4, 1, 0)
    assert compare(pair([1, 2, 3, -1, 5]), "ours", "theirs", "t1").p == found.p


def test_only_what_both_have_is_compared() -> None:
    rows = [
        *[row("a", dice, seed=seed) for seed, dice in enumerate((0.6, 0.9, 0.9))],
        *[row("a", dice, seed=seed, recipe="theirs") for seed, dice in enumerate((0.5, 0.7))],
        row("b", 0.9),
        row("c", 0.1, recipe="theirs"),
    ]
    found = compare(rows, "ours", "theirs", "t1")
    assert found.patients == 1
    assert found.points == pytest.approx(15)  # of seeds 0 and 1; the third would make it 20
    assert (found.points_low, found.points_high) == (None, None)
    with pytest.raises(UserError, match="no simulated patient was scored by both"):
        compare(rows, "ours", "theirs", "t1", cohort="simulated")


def test_all_comparisons_are_those_made_one_by_one_where_anything_is_shared() -> None:
    rows = pair([1, 2, 3, -1, 5])
    rows += [replace(one, region=TUMOUR_CORE, dice=one.dice / 2) for one in rows]
    rows += [row("a", 0.5, cohort="simulated"), row("a", 0.5, cohort="simulated", recipe="theirs", seed=1)]
    expected = [compare(rows, "ours", "theirs", "t1", region) for region in (WHOLE_TUMOUR, TUMOUR_CORE)]
    assert comparison.compare_all(rows, [("ours", "theirs"), ("ours", "nobody")]) == expected


def test_small_exact_tests_are_those_of_all_signs() -> None:
    """Against a count of every way to give the ranks signs, with and without ties."""
    for values in ([1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 7.0], [1.0, 1.0, -1.0, 2.0, 2.0, 3.0], [4.0, 4.0, 4.0, 4.0]):
        ranks = stats.rankdata(np.abs(values))
        centre = ranks.sum() / 2
        seen = abs(sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0) - centre)
        ways = [abs(sum(chosen) - centre) for chosen in itertools.product(*((0.0, rank) for rank in ranks))]
        expected = sum(way >= seen - 1e-9 for way in ways) / len(ways)
        assert comparison.signed_rank(np.array(values)) == (pytest.approx(expected), "exact")


def test_zeros_are_left_out_of_the_test_and_counted() -> None:
    values = [1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 7.0]
    assert comparison.signed_rank(np.array([0.0, *values, 0.0])) == comparison.signed_rank(np.array(values))
    assert comparison.signed_rank(np.zeros(5)) == (1.0, "exact")
    found = compare(pair([0, 0, 3, -1]), "ours", "theirs", "t1")
    assert (found.better, found.worse, found.equal) == (1, 1, 2)
    same = compare(pair([0, 0, 0]), "ours", "theirs", "t1")
    assert (same.p, same.points, same.points_low, same.points_high) == (1.0, 0.0, 0.0, 0.0)


def test_differences_that_differ_by_rounding_alone_are_tied() -> None:
    rows = [row("a", 0.3), row("a", 0.2, recipe="theirs"), row("b", 0.8), row("b", 0.7, recipe="theirs")]
    assert (0.3 - 0.2) != (0.8 - 0.7)
    found = compare([*rows, row("c", 0.4), row("c", 0.5, recipe="theirs")], "ours", "theirs", "t1")
    assert found.p == 1.0  # three equal sizes, two plus and one minus


def test_large_samples_agree_with_the_normal_approximation_worked_out_here() -> None:
    values = np.random.default_rng(5).normal(1, 4, 80)
    p, method = comparison.signed_rank(values)
    ranks = stats.rankdata(np.abs(values))
    positive, n = ranks[values > 0].sum(), len(values)
    z = (abs(positive - n * (n + 1) / 4) - 0.5) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    assert method == "asymptotic"
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-6)
    exact, how = comparison.signed_rank(values[:50])
    assert how == "exact"
    assert exact == pytest.approx(stats.wilcoxon(values[:50], method="exact").pvalue)


def test_the_interval_is_that_of_resampled_patients() -> None:
    """Against resampling written out here, and Student's interval, which a symmetric sample has too."""
    values = np.random.default_rng(2).normal(3, 6, 40)
    values = np.concatenate([values, 2 * values.mean() - values])  # symmetric: nothing for BCa to correct
    low, high = comparison.bootstrap_interval(values)
    means = np.random.default_rng(1).choice(values, (10_000, len(values))).mean(axis=1)
    assert (low, high) == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.1)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15)
    assert comparison.bootstrap_interval(values) == (low, high)  # the same every time


def test_holm_takes_the_family_of_each_cohort() -> None:
    def of(p: float, cohort: str = "real") -> Comparison:
        return replace(compare(pair([1, 2]), "ours", "theirs", "t1"), p=p, cohort=cohort)

    family = [of(0.04), of(0.01), of(0.03), of(0.02, "simulated")]
    assert [one.p_holm for one in holm(family)] == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert [one.p_holm for one in holm([of(0.6), of(0.7)])] == [1.0, 1.0]
    assert holm([]) == []


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.fixture
def study() -> list[Row]:
    """Three recipes on T1 for 24 patients, two regions and two cohorts; one has no core, one all sets of sequences."""
    chance = np.random.default_rng(8)
    rows = []
    for number, (region, cohort) in itertools.product(
        range(24), itertools.product((WHOLE_TUMOUR, TUMOUR_CORE), ("real", "simulated"))
    ):
        level = chance.normal(60, 15)
        empty = region == TUMOUR_CORE and number == 3
        for recipe, gain in (("theirs", 0), ("ours", 6), ("third", 2)):
            dice = float(np.clip(level + gain + chance.normal(0, 4), 0, 98)) / 100
            rows.append(
                row(
                    f"p{number:02d}",
                    round(dice, 4) if not empty else 1.0,
                    recipe=recipe,
                    region=region,
                    cohort=cohort,
                    fold=number % 5,
                    truth_ml=0.0 if empty else 5.0 + 4 * number,
                    found_ml=0.0 if empty else 5.0 + 4 * number,
                )
            )
    more = ["t1ce", "t2", "t1+t2", "t1ce+flair", "t1+t1ce+t2+flair"]
    return rows + [
        replace(one, sequences=used) for used in more for one in rows if one.cohort == "real" and one.case == "p00"
    ]


@pytest.mark.logs("font cache")
def test_a_report_says_what_the_rows_say_and_is_the_same_every_time(tmp_path: Path, study: list[Row]) -> None:
    found = [compare(study, "ours", "theirs", "t1", region) for region in (WHOLE_TUMOUR, TUMOUR_CORE)]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, rows in zip(folders, (study, study[::-1]), strict=True):
        command = "gliascope study configs/made_up.json"
        readme = report.write_report(folder, "Made up", rows, found, command, ["A note."], ["theirs", "ours"])
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Made up\n\nGenerated by `gliascope study configs/made_up.json`")
    assert "A note." in text
    assert "nan" not in text.lower()
    assert "1 patient has no tumour core." in text
    assert text.index("## Real patients") < text.index("## Simulated patients")

    summary = next(s for s in summarise(study) if (s.recipe, s.cohort, s.region) == ("ours", "real", WHOLE_TUMOUR))
    line = next(line for line in text.splitlines() if line.startswith("| T1 | ours | 24 |"))
    assert f"| 5 folds x 1 seed | {100 * summary.dice_mean:.1f} |" in line
    assert f"| {found[0].points:+.1f} | {found[0].points_low:+.1f} to {found[0].points_high:+.1f} |" in text
    recipes = [line.split(" | ")[1] for line in text.splitlines() if re.match(r"\| T1 \| \S+ \| 24", line)]
    assert recipes[:3] == ["theirs", "ours", "third"]
    sets = [line.split(" | ")[0][2:] for line in text.splitlines() if re.match(r"\| \S+ \| ours \| 1 ", line)]
    assert sets == ["T1ce", "T2", "T1+T2", "T1ce+FLAIR", "T1+T1ce+T2+FLAIR"]

    with (folders[0] / "summary.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert float(lines[2]["dice_mean"]) == pytest.approx(summary.dice_mean)
    assert {(one["recipe"], one["region"]) for one in lines} == {(s.recipe, s.region) for s in summarise(study)}
    assert sorted(read_rows([folders[0] / "cases.csv"]), key=str) == sorted(study, key=str)

    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 4  # boxes, gains and volumes of real patients; means of all sets of sequences
    for name in ["README.md", "cases.csv", "summary.csv", "comparisons.csv", *pictures]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    for name in pictures:
        drawing = (folders[0] / name).read_text(encoding="utf-8")
        ET.fromstring(drawing)
        assert "fill: #ffffff" in drawing  # opaque on dark pages
        assert "Whole tumour" in drawing  # as text, not as outlines of letters


def test_small_p_values_keep_their_figures() -> None:
    assert [report.p_value(p) for p in (0.5, 0.0951, 0.0123, 0.00099, 0.00002)] == [
        "0.50", "0.10", "0.012", "0.00099", "< 0.0001",
    ]  # fmt: skip
