"""Measure the models of a recipe on the patients each was not trained on, and make the shipped model folders.

    python -m scripts.measure_models configs/first_generation.json --data COHORT --runs RUNS --folds 0 --ship 0

Every finished run of the folds is exported and run through the engine, exactly as the application runs it, on the
held-out patients of its fold, with its own sequences alone: one row a patient, model, region and threshold in
docs/results/<recipe>.csv. The threshold a patient is scored with is the one that did best on the *other* held-out
patients, so nobody has a say in his own score. The models of one fold are shipped with the threshold that is best on
all of them and with what was measured on their cards; docs/models.md is written from the same rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine import metrics, nifti, sequences
from engine.inference import segment, to_label_map
from engine.model_card import REGIONS, Evaluation, ModelCard, RegionScores
from engine.runtime import open_network
from engine.sequences import SubjectFiles
from trainer import checkpoint

ROOT = Path(__file__).resolve().parent.parent
# Models and the runs they are made of. The teacher that taught the students is measured, a later one is shipped.
MODELS = {
    "teacher": "teacher-shipped",
    "first-teacher": "teacher",
    "baseline-t1": "baseline-t1",
    "student-t1": "student-t1",
    "student-t1ce": "student-t1ce",
    "student-t2": "student-t2",
    "student-flair": "student-flair",
}
NOT_SHIPPED = ("first-teacher",)
COLUMNS = ("model", "fold", "case", "threshold", "region", "dice", "hd95_mm", "volume_ml", "truth_ml")
# Networks trained on few patients miss more than they invent, so lower thresholds are tried too.
THRESHOLDS = (0.3, 0.4, 0.5)
Row = dict[str, str]
DATA = (
    "Real glioma patients of BraTS 2018 and BraTS 2021: multi-centre, skull-stripped, co-registered, 1 mm; "
    "expert labels. Teacher and students also saw simulated patients; the baseline did not. No image of a real "
    "patient is part of this model."
)
LICENCE = (
    "Weights: for research use. Trained on BraTS data, whose terms ask for non-commercial research use "
    "and for the citations below."
)
CITATIONS = (
    "Menze et al., The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS), IEEE TMI 2015;34(10):1993-2024.",
    "Bakas et al., Advancing The Cancer Genome Atlas glioma MRI collections, Scientific Data 2017;4:170117.",
    "Bakas et al., Identifying the best machine learning algorithms for brain tumor segmentation, arXiv:1811.02629.",
    "Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 Benchmark on Brain Tumor Segmentation, arXiv:2107.02314.",
    "Rahimpour et al., Cross-Modal Distillation to Improve MRI-Based Brain Tumor Segmentation With Missing MRI "
    "Sequences, IEEE TBME 2022;69(7):2153-2164.",
)


def measure(card: ModelCard, fold: int, cases: list[SubjectFiles]) -> list[Row]:
    """Segment and score the cases with one model; a row a case, threshold and region."""
    network = open_network(card, "cpu")
    rows: list[Row] = []
    for found in cases:
        assert found.segmentation is not None  # with_truth keeps only patients with one
        truth = nifti.read_label_map(found.segmentation)
        own = {sequence: path for sequence, path in found.files.items() if sequence in card.sequences}
        subject = sequences.load(replace(found, files=own))
        probabilities = segment(subject, card, network=network).probabilities
        for threshold in THRESHOLDS:
            mask = to_label_map(probabilities, at(card, threshold), subject)
            for region, score in metrics.score(mask, truth).items():
                numbers = {
                    "dice": f"{score.dice:.4f}",
                    "hd95_mm": f"{score.hd95_mm:.2f}",
                    "volume_ml": f"{score.volume_ml:.2f}",
                    "truth_ml": f"{score.truth_ml:.2f}",
                }
                where = {"model": card.name, "fold": str(fold), "case": found.name, "threshold": str(threshold)}
                rows.append({**where, "region": region, **numbers})
    return rows


def at(card: ModelCard, threshold: float) -> ModelCard:
    """The same model with another threshold for both regions."""
    return replace(card, threshold=dict.fromkeys(REGIONS, threshold))


def best_threshold(rows: list[Row]) -> float:
    """The threshold with the highest Dice, mean of both regions; one half where there is nothing to choose by."""
    means = {
        threshold: np.mean([float(row["dice"]) for row in rows if float(row["threshold"]) == threshold])
        for threshold in THRESHOLDS
        if rows
    }
    return max(means, key=means.__getitem__, default=0.5)


def fairly_thresholded(rows: list[Row]) -> list[Row]:
    """Of one model's rows those at the threshold that the other patients chose."""
    kept = []
    for case in sorted({row["case"] for row in rows}):
        chosen = best_threshold([row for row in rows if row["case"] != case])
        kept += [row for row in rows if row["case"] == case and float(row["threshold"]) == chosen]
    return kept


def pooled(rows: list[Row]) -> dict[str, RegionScores]:
    """Mean and spread over the rows of one model."""
    regions = {}
    for region in REGIONS:
        dice = np.array([float(row["dice"]) for row in rows if row["region"] == region])
        distance = np.array([float(row["hd95_mm"]) for row in rows if row["region"] == region])
        regions[region] = RegionScores(
            round(float(dice.mean()), 4), round(float(dice.std(ddof=1)), 4), round(float(distance.mean()), 1)
        )
    return regions


def table(rows: dict[str, list[Row]], recipe: str, command: str, hows: dict[str, str]) -> str:
    """docs/models.md."""
    lines = [
        "# Models and how well they do",
        "",
        f"Generated by `{command}` from `docs/results/{recipe}.csv`; do not edit by hand.",
        "",
        "Real patients that the network was not trained on. Dice and 95th percentile Hausdorff distance on the scans' "
        "own 1 mm grid; mean and standard deviation over patients. Where a region is empty in truth and mask alike "
        "Dice counts 1, in only one of them 0. The threshold each patient is scored with was chosen on the other "
        "held-out patients.",
        "",
        "| model | patients | measured | WT Dice | WT median | core Dice | core median | WT HD95 mm | core HD95 mm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, own in rows.items():
        scores = pooled(own)
        medians = [np.median([float(r["dice"]) for r in own if r["region"] == region]) for region in REGIONS]
        whole, core = (scores[region] for region in REGIONS)
        lines.append(
            f"| {model} | {len(own) // 2} | {hows[model]} "
            f"| {whole.dice_mean:.3f} ± {whole.dice_sd:.3f} | {medians[0]:.3f} "
            f"| {core.dice_mean:.3f} ± {core.dice_sd:.3f} | {medians[1]:.3f} | {whole.hd95_mean} | {core.hd95_mean} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Export, measure, ship, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0])
    parser.add_argument("--ship", type=int, default=0, help="fold whose models are shipped")
    parser.add_argument("--version", default="1.0")
    arguments = parser.parse_args()
    recipe = json.loads(arguments.recipe.read_text(encoding="utf-8"))
    patients = {files.name: files for files in sequences.with_truth([arguments.data])}
    results = ROOT / "docs" / "results" / f"{arguments.recipe.stem}.csv"
    results.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    if results.exists():
        with results.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    done = {(row["model"], row["fold"]) for row in rows}
    for fold in arguments.folds:
        for model, suffix in MODELS.items():
            run = arguments.runs / f"fold{fold}-{suffix}"
            folder = arguments.runs / "models" / f"fold{fold}" / model
            if not (run / checkpoint.WEIGHTS).exists():
                continue
            if not folder.exists():
                checkpoint.export(run, folder, model, arguments.version, DATA, LICENCE, CITATIONS)
            if (model, str(fold)) in done:
                continue
            card = ModelCard.read(folder)
            rows += measure(card, fold, [patients[name] for name in recipe["folds"][fold]])
            with results.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            own = [row for row in rows if row["model"] == model]
            sys.stdout.write(f"{model} up to fold {fold}: {pooled(fairly_thresholded(own))}\n")
            sys.stdout.flush()

    by_model: dict[str, list[Row]] = {}
    shipped_threshold: dict[str, float] = {}
    for model in MODELS:
        if own := [row for row in rows if row["model"] == model]:
            by_model[model] = fairly_thresholded(own)
            shipped_threshold[model] = best_threshold(own)
    hows = {}
    for model, own in by_model.items():
        used = sorted({int(row["fold"]) for row in own})
        trained = len(patients) - len(recipe["folds"][used[0]])
        if len(used) == 1:
            hows[model] = f"held out by patient: trained on {trained} others"
        else:
            hows[model] = f"cross-validated by patient, {len(used)} folds of {len(recipe['folds'])}"
        if model in NOT_SHIPPED:
            continue
        source = arguments.runs / "models" / f"fold{arguments.ship}" / model
        target = ROOT / "assets" / "models" / model
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        evaluation = Evaluation(how=hows[model], cases=len(own) // 2, patients=len(own) // 2, regions=pooled(own))
        card = at(ModelCard.read(target), shipped_threshold[model])
        replace(card, evaluation=evaluation).write(target)
    command = f"python -m scripts.measure_models configs/{arguments.recipe.name}"
    (ROOT / "docs" / "models.md").write_text(table(by_model, arguments.recipe.stem, command, hows), encoding="utf-8")


if __name__ == "__main__":
    main()
