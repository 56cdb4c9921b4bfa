"""Which models there are, and which one to use for the sequences that are here, with a sentence that says why.

Listing reads the cards and looks whether the files are there: no hashing, no torch, no network is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import platformdirs

from engine.errors import BadModel, MissingSequence
from engine.model_card import TUMOUR_CORE, WHOLE_TUMOUR, ModelCard, RegionScores, Role, sha256
from engine.volume import SUBSETS, Sequence, in_words, joined

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "models"

WORTH_SAYING = 0.01  # Dice; less than that does not show in two digits
AS_GOOD = 0.005  # Dice, mean of whole tumour and core; what was measured on some tens of patients tells no finer


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
    """A model, what it will look at, and why it was taken.

    Attributes:
        card: The model.
        used: The sequences it is to be given, in their fixed order; among those that are here.
        reason: One or two sentences: what is here, which model is used, how good it was, what is left out and why.
        advice: One sentence on what adding sequences would bring; empty where it would bring nothing.
    """

    card: ModelCard
    used: tuple[Sequence, ...]
    reason: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Reason and advice in one."""
        return f"{self.reason[:-1]}; {self.advice[0].lower()}{self.advice[1:]}" if self.advice else self.reason

    @property
    def scores(self) -> Mapping[str, RegionScores] | None:
        """What was measured of this model with these sequences."""
        return self.card.scores(self.used)

    @property
    def patients(self) -> int:
        """On how many patients that was; 0 where it was not measured."""
        return self.card.evaluation.patients if self.scores is not None and self.card.evaluation is not None else 0


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
    """Pick the model for the sequences that are here, and which of them to give it.

    What can be picked is a model with all its sequences, or a model for any subset with whichever of its sequences, so
    that one which makes the result worse is left out. The measured Dice (mean of whole tumour and core) with exactly
    these sequences decides; of what is as good within 0.005 that which uses more of what is here, then a model made for
    just these. What nobody has measured comes last. Baselines exist to compare with and are never picked. A model that
    was measured beside another on the same patients is compared with it on those: see `ModelCard.comparable`.

    Args:
        present: The sequences of the patient.
        models: The models to pick from.

    Raises:
        MissingSequence: No model works with these sequences alone.
    """
    here, models = frozenset(present), tuple(models)
    candidates = _candidates(here, models)
    if not candidates:
        raise _nothing_fits(here, [card for card in models if card.role != Role.BASELINE])
    card, used = _best(candidates)
    return Choice(card, used, f"{_using(here, card, used, candidates)} {_expected(card, used)}", advice(here, models))


def choose_named(present: Iterable[Sequence], card: ModelCard) -> Choice:
    """A model that was asked for by name, with all that it can use of what is here.

    Args:
        present: The sequences of the patient.
        card: The model; a baseline will do.

    Raises:
        MissingSequence: It needs a sequence that is not here.
    """
    here = frozenset(present)
    used = card.usable(here)
    if not used:
        lacking = in_words(card.inputs - here)
        need = f"one of {lacking}, and none is here" if card.any_subset else f"{lacking}, which is not here"
        raise MissingSequence(
            f"The {card.title} needs {need}",
            "",
            "Add the sequence, or leave the choice of the model to Gliascope.",
        )
    unused = here - set(used)
    leaving = f", and does not use {in_words(unused)}" if unused else ""
    return Choice(card, used, f"The {card.title} was asked for by name{leaving}. {_expected(card, used)}")


def advice(present: Iterable[Sequence], models: Iterable[ModelCard]) -> str:
    """What adding sequences would bring, in one sentence; empty when it would bring nothing.

    As few sequences are named as bring something; of several ways the best one, and a second where that finds one of
    the regions better. A region that would get worse is said too.

    Args:
        present: The sequences of the patient.
        models: The models to pick from.
    """
    here, models = frozenset(present), tuple(models)
    fitting = _candidates(here, models)
    now = _comparable(*_best(fitting)) if fitting else None
    if fitting and now is None:
        return ""  # there is nothing to compare with
    absent = [sequence for sequence in Sequence if sequence not in here]
    for count in range(1, len(absent) + 1):
        ways = []
        for added in combinations(absent, count):
            then = _candidates(here | set(added), models)
            reached = _comparable(*_best(then)) if then else None
            if reached is not None and (now is None or _gains(_mean(reached), _mean(now))):
                ways.append((_mean(reached), added, reached))
        if ways:
            ways.sort(key=lambda way: -way[0])
            best = ways[0]
            others = (way for way in ways[1:] if any(_gains(way[2][region], best[2][region]) for region in _TITLES))
            told = "; adding ".join(_gain(added, now, reached) for _, added, reached in (best, *list(others)[:1]))
            return f"Adding {told} (Dice)." if now is None else f"Adding {told}."
    return ""


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


_Candidate = tuple[ModelCard, tuple[Sequence, ...]]
_TITLES = {WHOLE_TUMOUR: "whole tumour", TUMOUR_CORE: "core"}


def _candidates(here: frozenset[Sequence], models: tuple[ModelCard, ...]) -> list[_Candidate]:
    """Every model with every set of the sequences here that it works with."""
    usable = [card for card in models if card.role != Role.BASELINE]
    return [
        (card, subset)
        for card in usable
        for subset in SUBSETS
        if here.issuperset(subset) and card.usable(subset) == subset
    ]


def _best(candidates: list[_Candidate]) -> _Candidate:
    measured = [(_mean(dice), card, used) for card, used in candidates if (dice := _comparable(card, used)) is not None]
    if not measured:
        return max(candidates, key=lambda c: (not c[0].any_subset, len(c[1]), c[0].name, c[1]))
    highest = max(mean for mean, _, _ in measured)
    as_good = [one for one in measured if one[0] >= highest - AS_GOOD]
    _, card, used = max(as_good, key=lambda c: (len(c[2]), not c[1].any_subset, c[0], c[1].name, c[2]))
    return card, used


def _comparable(card: ModelCard, used: tuple[Sequence, ...]) -> dict[str, float] | None:
    """Mean Dice by region, on one scale for all models; ``None`` where nobody has measured it."""
    dice = card.comparable(used)
    return None if dice is None else {region: dice[region] for region in _TITLES}


def _measured(card: ModelCard, used: tuple[Sequence, ...]) -> dict[str, float] | None:
    """Mean Dice by region of a model with these sequences; ``None`` where nobody has measured it."""
    scores = card.scores(used)
    return None if scores is None else {region: scores[region].dice_mean for region in _TITLES}


def _mean(dice: Mapping[str, float]) -> float:
    return sum(dice.values()) / len(dice)


def _gains(after: float, before: float) -> bool:
    return after - before >= WORTH_SAYING - 1e-9  # 0.71 - 0.70 is a little more or less than 0.01 to a computer


def _using(here: frozenset[Sequence], card: ModelCard, used: tuple[Sequence, ...], candidates: list[_Candidate]) -> str:
    unused = here - set(used)
    start = f"{in_words(here)}{' only' if len(here) == 1 else ''}: using the {card.title}"
    if not unused:
        return f"{start}."
    together = [_measured(*candidate) for candidate in candidates if here == set(candidate[1])]
    if any(together):
        why = f"results were better without {'it' if len(unused) == 1 else 'them'}"
    else:
        all_of_these = "both" if len(here) == 2 else f"all {len(here)}"
        why = f"no model was measured with {all_of_these}" if together else f"no model takes {all_of_these}"
    looks_at = f" with {in_words(used)}" if card.any_subset else ""
    return f"{start}{looks_at}; {in_words(unused)} {'is' if len(unused) == 1 else 'are'} not used, as {why}."


def _expected(card: ModelCard, used: tuple[Sequence, ...]) -> str:
    dice = _measured(card, used)
    if dice is None or card.evaluation is None:
        return "It was not measured on any patient yet."
    patients = card.evaluation.patients
    reached = ", ".join(f"{title} {dice[region]:.2f}" for region, title in _TITLES.items())
    said = f"On {patients} {'patient' if patients == 1 else 'patients'} it reached {reached} (Dice)."
    beside = next((one for one in card.beside if one.sequences == joined(used)), None)
    if beside is None:
        return said
    both = " and ".join(f"{beside.other[region].dice_mean:.2f}" for region in _TITLES)
    of_them = "the same" if beside.patients == patients else f"{beside.patients} of them"
    if beside.patients < patients:
        both += ", and it " + " and ".join(f"{beside.own[region].dice_mean:.2f}" for region in _TITLES)
    return f"{said} The {beside.title} reached {both} on {of_them}."


def _gain(added: tuple[Sequence, ...], now: dict[str, float] | None, reached: dict[str, float]) -> str:
    start = f"{in_words(added)} would"
    if now is None:
        return f"{start} do: {', '.join(f'{title} {reached[region]:.2f}' for region, title in _TITLES.items())}"
    rises = [f"{_TITLES[r]} to {reached[r]:.2f}" for r in _TITLES if _gains(reached[r], now[r])]
    falls = [f"{_TITLES[r]} to {reached[r]:.2f}" for r in _TITLES if _gains(now[r], reached[r])]
    return f"{start} raise {' and '.join(rises)}" + (f" but lower {falls[0]}" if falls else "")


def _nothing_fits(here: frozenset[Sequence], usable: list[ModelCard]) -> MissingSequence:
    if not usable:
        return MissingSequence("There is no model to segment with", "", _TRAIN_OR_INSTALL)
    needs = {frozenset(subset) for card in usable for subset in SUBSETS if card.usable(subset) == subset}
    smallest = sorted(needs, key=lambda inputs: (len(inputs), sorted(inputs)))
    offers = [in_words(sorted(inputs - here)) for inputs in smallest if len(inputs) == len(smallest[0])]
    what = f"No model works with {in_words(here)} alone" if here else "No sequence is here to segment"
    return MissingSequence(what, "", f"Add {' or '.join(dict.fromkeys(offers))}.")
