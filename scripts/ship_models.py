"""Make the app's models of a finished study: weights from all patients, figures from those held out.

    python -m scripts.ship_models configs/study.json --data COHORT --runs RUNS --simulated SIMULATED

``gliascope study`` with the same folders trains and scores what this needs. Each model under ``shipped`` in the config
was trained on every patient, so nothing can be measured on it; its card carries what the networks of the same recipe
reached on the patients of the folds they did not learn from: Dice and HD95 at thresholds that the other patients chose,
the threshold that is best on all, the temperature of the probabilities and the interval of the volumes.

Some patients are harder than others. Each model carries what it and the model for any subset reached on the patients
that both were measured on, so that the choice between them does not hang on who was measured on whom. docs/models.md is
written from the cards.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from engine import registry
from engine.errors import UserError
from engine.model_card import REGIONS, ModelCard, RegionScores
from engine.volume import SUBSETS, in_words, joined
from trainer import checkpoint, comparison, publication
from trainer.study import SCORES, Places, Shipped, Study, run_name

ROOT = Path(__file__).resolve().parent.parent
FIRST_GENERATION = ROOT / "docs" / "results" / "first_generation.csv"
"""What each model of the first generation reached on the ten patients it had not seen, at every threshold."""
DATA = (
    "Real glioma patients of BraTS 2018 and BraTS 2021: multi-centre, skull-stripped, co-registered, 1 mm; expert "
    "labels. Simulated patients in heads of other people beside them. No image of a real patient is part of this model."
)
LICENCE = (
    "Weights: for research use. Trained on BraTS data, whose terms ask for non-commercial research use and for the "
    "citations below."
)
CITATIONS = (
    "Menze et al., The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS), IEEE TMI 2015;34(10):1993-2024.",
    "Bakas et al., Advancing The Cancer Genome Atlas glioma MRI collections, Scientific Data 2017;4:170117.",
    "Bakas et al., Identifying the best machine learning algorithms for brain tumor segmentation, arXiv:1811.02629.",
    "Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 Benchmark on Brain Tumor Segmentation, arXiv:2107.02314.",
    "Rahimpour et al., Cross-Modal Distillation to Improve MRI-Based Brain Tumor Segmentation With Missing MRI "
    "Sequences, IEEE TBME 2022;69(7):2153-2164.",
    "Billot et al., SynthSeg, Medical Image Analysis 2023;86:102789 (label maps of the simulated patients).",
)


def main(words: list[str] | None = None) -> None:
    """Export, describe, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--simulated", type=Path)
    parser.add_argument("--version", default="2.0")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "models")
    parser.add_argument("--only", action="append", help="name of a model to make; all of the study's if left out")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "models.md")
    arguments = parser.parse_args(words)
    study = Study.read(arguments.study)
    simulated = None if arguments.simulated is None else arguments.simulated.resolve()
    places = Places(arguments.data.resolve(), arguments.runs.resolve(), simulated)
    for model in study.shipped:
        if not arguments.only or model.name in arguments.only:
            ship(model, study, places, arguments.out, arguments.version)
    set_beside(study, places, arguments.out)
    # Those that came from elsewhere are used beside them.
    cards = [card for card in registry.list_models([arguments.out]).models if card.evaluation is not None]
    command = f"python -m scripts.ship_models configs/{arguments.study.name}"
    arguments.page.write_text(page(cards, command), encoding="utf-8")


def ship(model: Shipped, study: Study, places: Places, out: Path, version: str) -> ModelCard:
    """Export one model and put on its card what was measured.

    Raises:
        UserError: It is not trained yet, or nothing of its recipe is scored.
    """
    scored = scored_runs(model, study, places)
    if not scored:
        raise UserError(f"Nothing is known of {model.name}", "no run of its recipe is scored", "Carry out the study.")
    name = run_name(model.recipe, model.sequences, (), model.seed)
    card = checkpoint.export(places.runs / name, out / model.name, model.name, version, DATA, LICENCE, CITATIONS)
    rows = comparison.read_rows(run / SCORES for run in scored)
    folds, seeds = ({getattr(row, field) for row in rows} for field in ("fold", "seed"))
    trained = len({patient for fold in study.folds for patient in fold})
    part = "" if len(folds) == len(study.folds) else f" ({len(folds)} folds done)"
    how = (
        f"{len(study.folds)}-fold cross-validation by patient{part}, {len(seeds)} "
        f"{'seed' if len(seeds) == 1 else 'seeds'}; the shipped weights were trained on all {trained} patients"
    )
    return publication.described(card, scored, how).write(card.folder)


def scored_runs(model: Shipped, study: Study, places: Places) -> list[Path]:
    """The folders of the runs of a model's recipe that held patients out and are scored."""
    runs = (
        places.runs / run.config.name
        for run in study.plan(places)
        if run.scored and run.recipe == model.recipe and run.config.sequences == model.sequences
    )
    return [run for run in runs if (run / SCORES).exists()]


def set_beside(study: Study, places: Places, out: Path) -> None:
    """Put on the cards what models reached on the patients they share; see the top of this file.

    Raises:
        UserError: Two models share none.
    """
    cards = {card.name: card for card in registry.list_models([out]).models}
    shipped = {model.name: model for model in study.shipped if model.name in cards}

    def scores_of(card: ModelCard) -> list[comparison.PatientScore]:
        model = shipped.get(card.name)
        runs = scored_runs(model, study, places) if model else []
        rows = comparison.read_rows(run / SCORES for run in runs) if model else first_generation(card)
        return comparison.score_patients(rows)

    anys = [(card, scores_of(card)) for card in cards.values() if card.any_subset]
    for card in (one for one in cards.values() if not one.any_subset):
        own = scores_of(card)
        beside = [publication.compared(own, theirs, other, joined(card.sequences)) for other, theirs in anys if own]
        replace(card, beside=tuple(beside)).write(card.folder)


def first_generation(card: ModelCard) -> list[comparison.Row]:
    """The scores of a model of the first generation; none for other models."""
    with FIRST_GENERATION.open(encoding="utf-8", newline="") as file:
        return [
            comparison.Row(
                recipe=row["model"],
                sequences=joined(card.sequences),
                fold=int(row["fold"]),
                seed=0,
                cohort=comparison.REAL,
                case=row["case"],
                region=row["region"],
                threshold=float(row["threshold"]),
                dice=float(row["dice"]),
                hd95_mm=float(row["hd95_mm"]),
                truth_ml=float(row["truth_ml"]),
                found_ml=float(row["volume_ml"]),
            )
            for row in csv.DictReader(file)
            if row["model"] == card.name
        ]


def page(cards: list[ModelCard], command: str) -> str:
    """docs/models.md."""
    lines = [
        "# Models and how well they do",
        "",
        f"Generated by `{command}`; do not edit by hand. The [study](results/study/README.md) behind it.",
        "",
        "Dice and 95th percentile Hausdorff distance on the scans' own 1 mm grid, of patients that the network did not "
        "learn from; mean and standard deviation over patients. Each patient is scored at the threshold that is best "
        "on the others. Where a region is empty in truth and mask alike Dice counts 1, in only one of them 0.",
        "",
        "## What is used for which sequences",
        "",
        "| sequences | model | looks at | WT Dice | core Dice | WT HD95 mm | core HD95 mm | patients |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for subset in SUBSETS:
        choice = registry.choose(subset, cards)
        scores = choice.card.scores(choice.used)
        if scores is None or choice.card.evaluation is None:
            continue
        whole, core = (scores[region] for region in REGIONS)
        lines.append(
            f"| {in_words(subset)} | {choice.card.name} | {in_words(choice.used)} | {_dice(whole)} | {_dice(core)} "
            f"| {whole.hd95_mean} | {core.hd95_mean} | {choice.card.evaluation.patients} |"
        )
    lines += ["", "## How each was measured", ""]
    for card in cards:
        assert card.evaluation is not None
        lines.append(f"- **{card.name}** {card.version}: {card.evaluation.how}.")
    lines += [
        "",
        "## How far probabilities and volumes can be believed",
        "",
        "Expected calibration error of the probabilities of voxels given at least 2 %, before and after the "
        "temperature; factors on the volume found between which the true volume lies in 90 of 100 patients, and in how "
        "many it did when the other folds chose the factors.",
        "",
        "| model | region | temperature | error before | error after | interval | held |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        if card.calibration is None:
            continue
        for region, fitted in card.calibration.regions.items():
            interval = "-" if fitted.volume_low is None else f"{fitted.volume_low:.2f} to {fitted.volume_high:.2f}"
            held = "-" if fitted.coverage is None else f"{fitted.coverage:.0%}"
            lines.append(
                f"| {card.name} | {region.replace('_', ' ')} | {fitted.temperature:.2f} | {fitted.ece_before:.3f} "
                f"| {fitted.ece_after:.3f} | {interval} | {held} |"
            )
    return "\n".join(lines) + "\n"


def _dice(scores: RegionScores) -> str:
    return f"{scores.dice_mean:.3f} ± {scores.dice_sd:.3f}"


if __name__ == "__main__":
    main()
