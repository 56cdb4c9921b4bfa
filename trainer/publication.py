"""From finished runs to a model with figures on its card.

They say what networks of its recipe reached on patients they had not seen, and what the model that is used so far
reaches on the same.

``python -m trainer.publication`` is the process that installs a model of a `Training`: one JSON request on standard
input; on standard output a JSON object a line, how far it is and in the end the model's folder or what went wrong.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import inference, metrics, model_file, registry, runtime
from engine.errors import BadModel, MissingSequence, UserError
from engine.files import unwritten
from engine.model_card import (
    REGIONS,
    Beside,
    Calibration,
    Evaluation,
    ModelCard,
    RegionCalibration,
    RegionScores,
)
from engine.progress import Progress
from engine.volume import LabelMap, Sequence, Subject, in_order, joined
from trainer import calibration, checkpoint, comparison, scoring
from trainer.comparison import PatientScore, Row
from trainer.study import SCORES, Planned
from trainer.training import START, About, Training

SAME = 0.02
"""Dice by which a model may differ from its own scores: a network is kept in half precision."""


def described(card: ModelCard, runs: Iterable[Path], how: str) -> ModelCard:
    """The card with thresholds, figures and calibration from what runs of its recipe were scored.

    Args:
        card: Of the exported network.
        runs: Scored run folders of one recipe and one set of sequences; their patients were held out.
        how: How it was measured, in words.

    Raises:
        UserError: A file of scores is damaged.
    """
    runs = list(runs)
    rows = [row for row in comparison.read_rows(run / SCORES for run in runs) if row.cohort == comparison.REAL]
    own, recipe = joined(card.sequences), rows[0].recipe
    # A model has one threshold a region; where it takes any subset, it is chosen on all of them together.
    pooled = mean_over_subsets(rows, own) if card.any_subset else rows
    thresholds = {region: comparison.best_threshold(pooled, recipe, own, region) for region in REGIONS}
    scores = _scores(rows)
    fits = _calibrations(runs, rows, thresholds)
    temperatures = {region: fits[own][region].temperature for region in REGIONS}
    patients = len({row.case for row in rows})
    chosen = sorted({row.sequences for row in rows}, key=lambda names: (names.count("+"), names))
    return replace(
        card,
        threshold={
            region: round(calibration.moved_threshold(thresholds[region], temperatures[region]), 6)
            for region in REGIONS
        },
        evaluation=Evaluation(
            how,
            patients,
            patients,
            scores[own],
            by_sequences={names: scores[names] for names in chosen} if card.any_subset else {},
        ),
        calibration=Calibration(fits[own], {names: fits[names] for names in chosen} if card.any_subset else {}),
    )


def compared(own: Iterable[PatientScore], other: Iterable[PatientScore], card: ModelCard, sequences: str) -> Beside:
    """A model beside another on the real patients whom both were measured on and neither has learnt from.

    Args:
        own: Scores of the networks of the model's recipe.
        other: Scores of those of the other's.
        card: The other model's.
        sequences: What both look at: ``"t1+flair"``.

    Raises:
        UserError: There is no such patient, or the other's card has no figures with these sequences.
    """
    mine, theirs = (
        [score for score in scores if (score.sequences, score.cohort) == (sequences, comparison.REAL)]
        for scores in (own, other)
    )
    cases = {score.case for score in mine} & {score.case for score in theirs}
    published = card.scores(Sequence(name) for name in sequences.split("+"))
    if not cases or published is None:
        raise UserError(
            f"The model cannot be compared with {card.name} on {sequences}",
            "no patient was scored with both" if published else "its card has no figures for them",
            "Score both on the same patients.",
        )
    return Beside(
        model=card.name,
        title=card.title,
        version=card.version,
        sequences=sequences,
        patients=len(cases),
        own=_of_patients([score for score in mine if score.case in cases]),
        other=_of_patients([score for score in theirs if score.case in cases]),
        published=dict(published),
    )


def _scores(rows: list[Row]) -> dict[str, Mapping[str, RegionScores]]:
    """Of the networks of one recipe, by what they read."""
    found: dict[str, dict[str, RegionScores]] = {}
    for own in comparison.summarise(rows):
        # Of a single patient there is no spread to tell.
        scores = RegionScores(round(own.dice_mean, 4), round(own.dice_sd or 0.0, 4), round(own.hd95_mean, 1))
        found.setdefault(own.sequences, {})[own.region] = scores
    return dict(found)


def mean_over_subsets(rows: list[Row], called: str) -> list[Row]:
    """One row a patient, network, region and threshold, its Dice the mean over the sets of sequences."""
    dice: dict[tuple[object, ...], list[float]] = {}
    first: dict[tuple[object, ...], Row] = {}
    for row in rows:
        key = (row.case, row.fold, row.seed, row.region, row.threshold)
        dice.setdefault(key, []).append(row.dice)
        first.setdefault(key, row)
    return [replace(first[key], sequences=called, dice=float(np.mean(values))) for key, values in dice.items()]


def _calibrations(
    runs: list[Path], rows: list[Row], thresholds: Mapping[str, float]
) -> dict[str, Mapping[str, RegionCalibration]]:
    """By set of sequences, from one network of each fold.

    The temperature and its errors are those of all sets together: a model has one threshold a region, which would mean
    something else with each temperature. The intervals are those of each set by itself.
    """
    # Case -> (sets, regions, 2, bins).
    counts: dict[str, np.ndarray] = {}
    for run in runs:
        with np.load(run / scoring.CALIBRATION) as stored:
            for case, own in zip(stored["cases"], stored["counts"], strict=True):
                counts.setdefault(str(case), own)
    cases = sorted(counts)
    result: dict[str, dict[str, RegionCalibration]] = {}
    for number, region in enumerate(REGIONS):
        pooled = np.stack([counts[case][:, number].sum(axis=0) for case in cases])
        for names in dict.fromkeys(row.sequences for row in rows):
            at = {
                row.case: row
                for row in rows
                if row.sequences == names and row.region == region and row.threshold == thresholds[region]
            }
            fitted = calibration.calibrate(
                scoring.LOGIT_EDGES,
                pooled,
                [at[case].fold for case in cases],
                [at[case].found_ml for case in cases],
                [at[case].truth_ml for case in cases],
            )
            result.setdefault(names, {})[region] = fitted.card()
    return dict(result)


# --- a model of the user's own ----------------------------------------------------------------------------------------


def publish(
    training: Training, run: str, models: Path, about: About, replace_it: bool, progress: Progress
) -> ModelCard:
    """Make a model of a finished run; see `Training.install`.

    Raises:
        UserError: The name is taken, or the model does not find what it found when it was scored.
        Cancelled: Asked to stop; nothing was installed.
    """
    model_file.check_free(about.name, models, replace_it)
    planned = next(one for one in training.planned if one.config.name == run)
    measured = training.measured_for(run)
    new = models / f".{about.name}.new"
    try:
        models.mkdir(parents=True, exist_ok=True)
        progress.update(0.0, "exporting the network")
        runs = [training.places.runs / one.config.name for one in measured]
        card = checkpoint.export(
            training.places.runs / run, new, about.name, about.version, about.data, about.licence, about.citations
        )
        progress.update(0.1, "reading what was measured")
        card = described(card, runs, _how(training, card, planned, measured))
        card = replace(
            card,
            title=f"{card.title} of {training.name}",
            training={**card.training, **_beginning(training)},
            beside=_beside(training, card, runs, models, progress.part(0.1, 0.8)),
        ).write(new)
        progress.update(0.8, "checking the model on a patient it has not seen")
        _check(training, planned, card, runs, progress.part(0.8, 1.0))
        return model_file.put(new, models / about.name)
    except OSError as error:
        raise unwritten(models / about.name, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _how(training: Training, card: ModelCard, planned: Planned, measured: list[Planned]) -> str:
    count = len({name for one in measured for name in one.config.validation_cases})
    whom = "1 patient" if count == 1 else f"{count} patients"
    if planned.scored:
        apart = f"{whom} of {training.name}, kept apart from the {len(planned.config.train_cases)} it learnt from"
        kept = card.training.get("kept")
        best = isinstance(kept, Mapping) and kept.get("which") == "best"
        return f"{apart}; it was ended when it did best on them, which flatters" if best else apart
    return (
        f"{len(measured)}-fold cross-validation on {whom} of {training.name}; "
        f"the weights were trained on all {len(planned.config.train_cases)}"
    )


def _beginning(training: Training) -> dict[str, Any]:
    """Whom the model that it began with has learnt from, for the warning about patients it knows."""
    folder = training.folder / START
    found = [ModelCard.read(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return {"beginning": {"name": found[0].name, "train_cases": sorted(found[0].learnt_from)}} if found else {}


def _beside(
    training: Training, card: ModelCard, runs: list[Path], models: Path, progress: Progress
) -> tuple[Beside, ...]:
    """What the models that would be used otherwise reach on the patients this one was measured on."""
    rows = [row for row in comparison.read_rows(run / SCORES for run in runs) if row.cohort == comparison.REAL]
    scores = comparison.score_patients(rows)
    others = [one for one in registry.list_models([registry.SHIPPED, models]).models if one.name != card.name]
    sets = [card.sequences]
    if card.any_subset:
        sets += [(sequence,) for sequence in card.sequences]
    found = []
    for number, used in enumerate(dict.fromkeys(in_order(one) for one in sets)):
        part = progress.part(number / len(sets), (number + 1) / len(sets))
        try:
            choice = registry.choose(used, others)
        except MissingSequence:
            continue
        own = [score for score in scores if score.sequences == joined(used)]
        cases = sorted({score.case for score in own} - choice.card.learnt_from)
        if choice.scores is None or not cases:
            continue  # nobody measured it, or it knows all of these patients: there is nothing fair to compare
        other = _measure(training, choice, cases, part)
        found.append(
            Beside(
                model=choice.card.name,
                title=choice.card.title,
                version=choice.card.version,
                sequences=joined(used),
                patients=len(cases),
                own=_of_patients([score for score in own if score.case in cases]),
                other={region: _mean_of(values) for region, values in other.items()},
                published=dict(choice.scores),
            )
        )
    return tuple(found)


def _measure(
    training: Training, choice: registry.Choice, cases: list[str], progress: Progress
) -> dict[str, list[tuple[float, float]]]:
    """Dice and HD95 in mm of a model on patients of the training, by region."""
    network = runtime.open_network(choice.card)
    found: dict[str, list[tuple[float, float]]] = {region: [] for region in REGIONS}
    for number, name in enumerate(cases):
        progress.update(number / len(cases), f"comparing with the {choice.card.title} on {name}")
        part = progress.part(number / len(cases), (number + 1) / len(cases))
        subject, truth = _read(training, name, part.part(0.0, 0.3))
        result = inference.segment(subject, choice.card, part.part(0.3, 1.0), network=network, use=choice.used)
        for region, score in metrics.score(result.label_map, truth).items():
            found[region].append((score.dice, score.hd95_mm))
    return found


def _read(training: Training, name: str, progress: Progress) -> tuple[Subject, LabelMap]:
    patient = training.patients.named(name)
    subject = patient.read(progress)
    return subject, patient.read_truth(subject)


def _of_patients(scores: list[PatientScore]) -> dict[str, RegionScores]:
    return {region: _mean_of([(s.dice, s.hd95_mm) for s in scores if s.region == region]) for region in REGIONS}


def _mean_of(values: list[tuple[float, float]]) -> RegionScores:
    dice, distance = np.array(values).T
    spread = float(dice.std(ddof=1)) if len(dice) > 1 else 0.0
    return RegionScores(round(float(dice.mean()), 4), round(spread, 4), round(float(distance.mean()), 1))


def _check(training: Training, planned: Planned, card: ModelCard, runs: list[Path], progress: Progress) -> None:
    """Segment a patient that was held out, with the model as it will be used, and compare with its score.

    The weights of a run that learnt from everybody have no score of their own; what they must do is find the tumour.
    """
    rows = [row for row in comparison.read_rows(run / SCORES for run in runs) if row.cohort == comparison.REAL]
    own = [row for row in rows if row.sequences == joined(card.sequences)]
    best = max(own, key=lambda row: (row.dice, row.case))
    subject, truth = _read(training, best.case, progress.part(0.0, 0.3))
    result = inference.segment(subject, card, progress.part(0.3, 1.0))
    found = metrics.score(result.label_map, truth)
    for region in REGIONS:
        expected = [
            row.dice
            for row in own
            if (row.case, row.region) == (best.case, region) and row.threshold == _threshold(card, region, own)
        ]
        if planned.scored and abs(found[region].dice - expected[0]) > SAME:
            raise BadModel(
                f"The model made of {planned.config.name} does not find what its network found",
                f"Dice {found[region].dice:.2f} instead of {expected[0]:.2f} on {best.case}",
                "Install it again; if that does not help, train it again.",
            )


def _threshold(card: ModelCard, region: str, rows: list[Row]) -> float:
    """The threshold before calibration that the card's is made of: that which comes nearest."""
    assert card.calibration is not None
    temperature = card.calibration.regions[region].temperature
    known = sorted({row.threshold for row in rows})
    return min(known, key=lambda one: abs(calibration.moved_threshold(one, temperature) - card.threshold[region]))


def main() -> int:
    """Install a model as `Training.install` asks for it on standard input."""
    request = json.load(sys.stdin)

    def say(**fields: Any) -> None:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()

    progress = Progress(lambda fraction, message: say(fraction=fraction, message=message))
    about = About(**{**request["about"], "citations": tuple(request["about"]["citations"])})
    try:
        card = publish(
            Training(Path(request["training"])),
            request["run"],
            Path(request["models"]),
            about,
            request["replace"],
            progress,
        )
    except UserError as error:
        say(exists=isinstance(error, model_file.ModelExists), error=[error.what, error.why, error.what_to_do])
        return 2
    say(folder=str(card.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
