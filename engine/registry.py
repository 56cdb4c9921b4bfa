"""Which models there are, and which one to use for the sequences that are here, with a sentence that says why.

Listing reads the cards and looks whether the files are there: no hashing, no torch, no network is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from engine.errors import BadModel, MissingSequence
from engine.model_card import TUMOUR_CORE, WHOLE_TUMOUR, ModelCard, Role, sha256
from engine.volume import Sequence, in_words

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "models"

WORTH_SAYING = 0.01  # Dice; less than that does not show in two digits


@dataclass(frozen=True)
class Listing:
    """The models that can be used and the model folders that cannot.

    Attributes:
        models: In the order of the folders, then by name; no two with one name.
        problems: One for each folder that cannot be used, ready to be shown.
    """

    models: tuple[ModelCard, ...]
    problems: tuple[BadModel, ...]


@dataclass(frozen=True)
class Choice:
    """A model and the sentence that says why it was taken."""

    card: ModelCard
    reason: str


def folders() -> list[Path]:
    """Where models lie: those that came with the program, then the user's own."""
    return [SHIPPED, platformdirs.user_data_path("Gliascope", appauthor=False) / "models"]


def list_models(folders_to_search: Iterable[Path] | None = None) -> Listing:
    """Every model in the given folders.

    Args:
        folders_to_search: Folders of model folders; `folders()` when not given. One that does not exist is empty.

    Returns:
        What can be used, and a sentence for each folder that cannot.
    """
    models: dict[str, ModelCard] = {}
    problems: list[BadModel] = []
    for parent in folders() if folders_to_search is None else folders_to_search:
        try:
            # A name with a leading dot is a model still being written, or the system's own.
            found = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
        except FileNotFoundError:
            continue
        except OSError as error:
            what = f"The models in {parent} cannot be listed"
            problems.append(BadModel(what, error.strerror or "", "Check that you may read the folder."))
            continue
        for folder in found:
            try:
                card = ModelCard.read(folder)
                _check_present(card)
                _check_unique(card, models)
            except BadModel as problem:
                problems.append(problem)
            else:
                models[card.name] = card
    return Listing(tuple(models.values()), tuple(problems))


def verify(card: ModelCard) -> None:
    """Compare every file of a model with the hash on its card.

    Raises:
        BadModel: A file is missing, cannot be read or is not the one the card was written for; it is named.
    """
    for name, expected in card.files.items():
        try:
            found = sha256(card.folder / name)
        except FileNotFoundError as error:
            raise _missing(card, name) from error
        except OSError as error:
            raise BadModel(
                f"{name} of the {card.title} cannot be read",
                error.strerror or "",
                "Check that you may read the model's folder.",
            ) from error
        if found != expected:
            raise BadModel(
                f"{name} of the {card.title} is not the file the model was published with",
                f"SHA-256 {found[:12]}... instead of {expected[:12]}...",
                "Get the model again from its source.",
            )


def find(name: str, models: Iterable[ModelCard] | None = None) -> ModelCard:
    """The model of a name.

    Args:
        name: As on the card; upper and lower case do not matter.
        models: Where to look; every model there is when not given.

    Raises:
        BadModel: There is no such model, or its folder cannot be used; in both cases the names to choose from follow.
    """
    problems: tuple[BadModel, ...] = ()
    if models is None:
        listing = list_models()
        models, problems = listing.models, listing.problems
    known = {card.name: card for card in models}
    if name.lower() in known:
        return known[name.lower()]
    for problem in problems:
        if name.lower() in problem.what.lower():
            raise problem
    names = ", ".join(sorted(known))
    raise BadModel(f'There is no model called "{name}"', "", f"Choose one of: {names}." if names else _TRAIN_OR_INSTALL)


def choose(present: Iterable[Sequence], models: Iterable[ModelCard]) -> Choice:
    """Pick the model for the sequences that are here.

    The one made for exactly these sequences, otherwise the best by measured Dice (mean of whole tumour and core) among
    those whose inputs are all here. Baselines exist to compare with and are never picked.

    Args:
        present: The sequences of the patient.
        models: The models to pick from.

    Returns:
        The model and one sentence that says why, how good it is, and what it leaves unused.

    Raises:
        MissingSequence: No model works with these sequences alone.
    """
    here = frozenset(present)
    usable = [card for card in models if card.role != Role.BASELINE]
    fitting = [card for card in usable if card.inputs <= here]
    if not fitting:
        raise _nothing_fits(here, usable)
    dedicated = [card for card in fitting if card.inputs == here]
    card = max(dedicated or fitting, key=_rank)
    return Choice(card, _reason(here, card))


def advice(present: Iterable[Sequence], models: Iterable[ModelCard]) -> str:
    """What adding one more sequence would bring, in one or two sentences; empty when it would bring nothing.

    Args:
        present: The sequences of the patient.
        models: The models to pick from.
    """
    here, models = frozenset(present), tuple(models)
    absent = [sequence for sequence in Sequence if sequence not in here]
    try:
        now = choose(here, models).card if here else None
    except MissingSequence:
        now = None
    better: list[str] = []
    for sequence in absent:
        try:
            then = choose(here | {sequence}, models).card
        except MissingSequence:
            continue
        gains = _gains(now, then)
        if gains:
            better.append(f"with {sequence.title}, {gains}")
    if not better:
        return ""
    start = "A sequence has to be added" if now is None else "Adding a sequence would help"
    return f"{start}: {'; '.join(better)} (Dice)."


_TRAIN_OR_INSTALL = "Train one, or install Gliascope again to get those that come with it."


def _check_present(card: ModelCard) -> None:
    for name in card.files:
        if not (card.folder / name).is_file():
            raise _missing(card, name)


def _check_unique(card: ModelCard, models: dict[str, ModelCard]) -> None:
    if card.name in models:
        raise BadModel(
            f"The model in {card.folder.name} is left out",
            f"another one, in {models[card.name].folder}, is called {card.name} too",
            "Rename or remove one of them.",
        )


def _missing(card: ModelCard, name: str) -> BadModel:
    return BadModel(
        f"The model in {card.folder.name} is incomplete", f"{name} is missing", "Get the model again from its source."
    )


def _rank(card: ModelCard) -> tuple[float, int, str]:
    # Unmeasured models come last; equal scores go to the one that uses more of what is here, then by name.
    measured = card.mean_dice
    return (-1.0 if measured is None else measured, len(card.sequences), card.name)


def _reason(here: frozenset[Sequence], card: ModelCard) -> str:
    verb = "is" if len(here) == 1 else "are"
    if card.inputs == here:
        return f"{in_words(here)} {verb} here, and the {card.title} was made for exactly that ({_expected(card)})."
    unused = [sequence for sequence in Sequence if sequence in here - card.inputs]
    count = {2: "two", 3: "three", 4: "four"}[len(here)]
    return (
        f"{in_words(here)} {verb} here; there is no model for exactly these {count}, so the {card.title} is used "
        f"({_expected(card)}); {in_words(unused)} {'is' if len(unused) == 1 else 'are'} not used."
    )


def _expected(card: ModelCard) -> str:
    if card.evaluation is None:
        return "not measured on any patient yet"
    scores, patients = card.evaluation.regions, card.evaluation.patients
    return (
        f"Dice whole tumour {scores[WHOLE_TUMOUR].dice_mean:.2f}, core {scores[TUMOUR_CORE].dice_mean:.2f} "
        f"on {patients} held-out {'patient' if patients == 1 else 'patients'}"
    )


def _gains(now: ModelCard | None, then: ModelCard) -> str:
    """What a better model reaches, in words; empty when it is no better, or when one of the two was never measured."""
    after = then.mean_dice
    before = None if now is None else now.mean_dice
    if after is None or (now is not None and (before is None or after - before < WORTH_SAYING)):
        return ""
    parts = []
    for region, title in ((WHOLE_TUMOUR, "whole tumour"), (TUMOUR_CORE, "core")):
        reached, had = then.dice(region) or 0.0, 0.0 if now is None else now.dice(region) or 0.0
        if now is None:
            parts.append(f"{title} {reached:.2f}")
        elif abs(reached - had) >= WORTH_SAYING:  # a loss is said too
            parts.append(f"{title} {reached:.2f} instead of {had:.2f}")
    return " and ".join(parts)


def _nothing_fits(here: frozenset[Sequence], usable: list[ModelCard]) -> MissingSequence:
    if not usable:
        return MissingSequence("There is no model to segment with", "", _TRAIN_OR_INSTALL)
    smallest = sorted({card.inputs for card in usable}, key=lambda inputs: (len(inputs), sorted(inputs)))
    offers = [in_words(sorted(inputs - here)) for inputs in smallest if len(inputs) == len(smallest[0])]
    what = f"No model works with {in_words(here)} alone" if here else "No sequence is here to segment"
    return MissingSequence(what, "", f"Add {' or '.join(dict.fromkeys(offers))}.")
