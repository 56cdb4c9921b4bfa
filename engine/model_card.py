"""A model is a folder that explains itself: what it takes, what it gives, how good it is and on whom that was measured.

A model folder holds ``model.json`` (this card), ``network.xml`` (the network for a CPU, which points at its weights in
the next file) and ``weights.safetensors`` (the one copy of the weights, which a GPU and further training read too).
Never a pickle: opening a model must not be able to run code.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import BadModel
from engine.files import whole_file
from engine.preprocessing import Preparation
from engine.volume import SUBSETS, Sequence, in_order, joined

FORMAT = 2
CARD_NAME = "model.json"
NETWORK_XML = "network.xml"
WEIGHTS = "weights.safetensors"
REQUIRED_FILES = (NETWORK_XML, WEIGHTS)

WHOLE_TUMOUR = "whole_tumour"
TUMOUR_CORE = "tumour_core"
REGIONS = (WHOLE_TUMOUR, TUMOUR_CORE)

RESEARCH_USE = "Research use only. Not a medical device; not for diagnosis or treatment decisions."

_LARGEST_CARD = 4 * 1024 * 1024
# Names end up in file names and on the command line.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# A file of the folder itself: no separator, no drive, no leading dot, so nothing outside the folder can be named.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUBSET_NAMES = frozenset(joined(subset) for subset in SUBSETS)

_Kind = TypeVar("_Kind")


class Role(StrEnum):
    """What a model was trained as."""

    TEACHER = "teacher"
    STUDENT = "student"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Normalisation:
    """How intensities are brought to a common scale before the network sees them.

    Attributes:
        kind: ``"zscore-in-brain"``: mean 0 and standard deviation 1 inside the brain, for each sequence by itself.
        clip: Largest absolute value kept, in standard deviations.
    """

    kind: str = "zscore-in-brain"
    clip: float = 5.0

    def __post_init__(self) -> None:
        if self.kind != "zscore-in-brain":
            raise ValueError(f'normalisation "{self.kind}" is unknown')
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ValueError("normalisation clip is not a positive number")


@dataclass(frozen=True)
class Architecture:
    """Which network to build: a name of `engine.networks` and the arguments it takes."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("the architecture has no name")


@dataclass(frozen=True)
class RegionScores:
    """How well one region was found.

    Attributes:
        dice_mean: Mean Dice over the cases, 0..1.
        dice_sd: Standard deviation of Dice over the cases.
        hd95_mean: Mean 95th percentile Hausdorff distance in mm; ``None`` where it was not measured.
    """

    dice_mean: float
    dice_sd: float
    hd95_mean: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.dice_mean <= 1:
            raise ValueError("a mean Dice is not between 0 and 1")
        if not 0 <= self.dice_sd <= 1:
            raise ValueError("a Dice standard deviation is not between 0 and 1")
        if self.hd95_mean is not None and not (math.isfinite(self.hd95_mean) and self.hd95_mean >= 0):
            raise ValueError("a mean HD95 is not a distance")


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and on whom. Only patients the network was not trained on count.

    Attributes:
        how: In words: ``"5-fold cross-validation by patient"``.
        cases: Number of scans scored.
        patients: Number of different patients among them.
        regions: Scores for ``"whole_tumour"`` and ``"tumour_core"``.
        subsets: The same for named parts of the cases, e.g. by data source: name -> region -> scores.
        by_sequences: For a model that takes any subset of its sequences, the same on all cases with these sequences
            alone: ``"t1+flair"`` -> region -> scores.
    """

    how: str
    cases: int
    patients: int
    regions: Mapping[str, RegionScores]
    subsets: Mapping[str, Mapping[str, RegionScores]] = field(default_factory=dict)
    by_sequences: Mapping[str, Mapping[str, RegionScores]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(set(scores) != set(REGIONS) for scores in (self.regions, *self.by_sequences.values())):
            raise ValueError("the evaluation does not cover exactly whole_tumour and tumour_core")
        _check_subset_names("evaluation", self.by_sequences)
        if not 0 < self.patients <= self.cases:
            raise ValueError("the evaluation does not say on how many patients and cases it was made")


@dataclass(frozen=True)
class RegionCalibration:
    """How far the probabilities and the volume of one region can be believed.

    Attributes:
        temperature: Logits are divided by it before the sigmoid (Guo et al., ICML 2017), so that of the voxels called
            80 % tumour, 80 % are.
        ece_before: Expected calibration error of the probabilities without it, 0..1.
        ece_after: The same with it.
        volume_low: The true volume lies between the volume found times this ...
        volume_high: ... and times this, in 90 of 100 patients; both ``None`` where too few were measured to say so.
        coverage: Fraction of patients, none of whom chose the factors, whose true volume does lie there; ``None`` where
            it was not measured.
        patients: How many patients all this was measured on.
    """

    temperature: float
    ece_before: float
    ece_after: float
    volume_low: float | None
    volume_high: float | None
    coverage: float | None
    patients: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError("a temperature is not a positive number")
        coverage = 0.0 if self.coverage is None else self.coverage
        if not all(0 <= fraction <= 1 for fraction in (self.ece_before, self.ece_after, coverage)):
            raise ValueError("a calibration error or a coverage is not between 0 and 1")
        low, high = self.volume_low, self.volume_high
        if (low is None) != (high is None):
            raise ValueError("the interval of a volume has one end alone")
        if low is not None and high is not None and not 0 <= low < high < math.inf:
            raise ValueError("the factors of a volume's interval are no interval")
        if self.patients < 1:
            raise ValueError("the calibration does not say on how many patients it was made")

    def interval_ml(self, found_ml: float) -> tuple[float, float] | None:
        """Where the true volume lies in 90 of 100 patients; ``None`` where that is not known, or nothing was found."""
        if self.volume_low is None or self.volume_high is None or not found_ml > 0:
            return None
        return found_ml * self.volume_low, found_ml * self.volume_high


@dataclass(frozen=True)
class Calibration:
    """How far a model's probabilities and volumes can be believed.

    Attributes:
        regions: For ``"whole_tumour"`` and ``"tumour_core"``.
        by_sequences: For a model that takes any subset of its sequences, the same where these sequences alone were
            used: ``"t1+flair"`` -> region -> calibration; ``regions`` holds for the others.
    """

    regions: Mapping[str, RegionCalibration]
    by_sequences: Mapping[str, Mapping[str, RegionCalibration]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(set(parts) != set(REGIONS) for parts in (self.regions, *self.by_sequences.values())):
            raise ValueError("the calibration does not cover exactly whole_tumour and tumour_core")
        _check_subset_names("calibration", self.by_sequences)


@dataclass(frozen=True)
class Beside:
    """Another model, measured on patients that this one was measured on: which of the two is better there.

    Attributes:
        model: Name of the other model.
        title: What people call it.
        version: Of the other model.
        sequences: What both looked at: ``"t1+flair"``.
        patients: How many patients, none of whom either has learnt from.
        own: What this model reached on them, by region.
        other: What the other reached on them.
        published: What the other's own card said it reaches, on other patients.
    """

    model: str
    title: str
    version: str
    sequences: str
    patients: int
    own: Mapping[str, RegionScores]
    other: Mapping[str, RegionScores]
    published: Mapping[str, RegionScores]

    def __post_init__(self) -> None:
        if any(set(scores) != set(REGIONS) for scores in (self.own, self.other, self.published)):
            raise ValueError("a comparison does not cover exactly whole_tumour and tumour_core")
        _check_subset_names("comparison", {self.sequences: self.own})
        if self.patients < 1:
            raise ValueError("a comparison does not say on how many patients it was made")


@dataclass(frozen=True)
class ModelCard:
    """What ``model.json`` says.

    Attributes:
        name: Short name, unique among the models; letters a-z, digits, ``.``, ``_``, ``-``.
        title: The name people read: ``"T1 student"``.
        version: Of the model, not of the program.
        role: Teacher, student or baseline.
        sequences: What the network takes, in channel order.
        spacing_mm: Isotropic voxel size the network works at.
        window: Voxels ``(i, j, k)`` of that spacing, to the patient's right, front and head, the network sees at once.
        architecture: Which network the weights belong to.
        any_subset: The network was trained with any of ``sequences`` absent, their channels zero, and may be used with
            whichever are there.
        regions: What the network's output channels are, in order.
        normalisation: How intensities are scaled first.
        mirror_axes: Axes (0 left-right, 1 back-front, 2 foot-head) along which a mirrored copy is segmented too.
        threshold: Probability, after calibration, from which a voxel belongs to a region.
        minimum_ml: Connected pieces of a region smaller than this are removed, in ml.
        evaluation: What was measured; ``None`` for a model nobody has measured yet.
        calibration: How far probabilities and volumes can be believed; ``None`` where nobody has measured that. Then
            logits go into the sigmoid as they are.
        beside: What other models reached on the same patients; one entry for each set of sequences that was compared.
        training: The training configuration, as it was saved beside the weights.
        data: What the model was trained on, in words.
        licence: Under which terms weights and data may be used, in words.
        citations: What to cite.
        intended_use: The research-use line.
        made_with: Versions of what made it: ``{"python": ..., "torch": ...}``.
        files: SHA-256 of each file of the folder, by name.
        folder: Where the model lies; not part of the card's text.

    Raises:
        ValueError: Parts contradict each other.
    """

    name: str
    title: str
    version: str
    role: Role
    sequences: tuple[Sequence, ...]
    spacing_mm: float
    window: tuple[int, int, int]
    architecture: Architecture
    any_subset: bool = False
    regions: tuple[str, ...] = REGIONS
    normalisation: Normalisation = field(default_factory=Normalisation)
    mirror_axes: tuple[int, ...] = ()
    threshold: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(REGIONS, 0.5))
    minimum_ml: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(REGIONS, 0.0))
    evaluation: Evaluation | None = None
    calibration: Calibration | None = None
    beside: tuple[Beside, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    licence: str = ""
    citations: tuple[str, ...] = ()
    intended_use: str = RESEARCH_USE
    made_with: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    folder: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        _check_card(self)

    def __hash__(self) -> int:
        return hash((self.name, self.version))

    @property
    def inputs(self) -> frozenset[Sequence]:
        """The sequences the network has channels for, without their order."""
        return frozenset(self.sequences)

    @property
    def preparation(self) -> Preparation:
        """What `engine.preprocessing` needs to make this model's input."""
        return Preparation(self.sequences, self.spacing_mm, self.window, self.normalisation.clip)

    def usable(self, present: Iterable[Sequence]) -> tuple[Sequence, ...]:
        """Those of the sequences present that the model can look at, in their fixed order; empty where it cannot work.

        A model for a subset takes what it finds; any other needs all its sequences.
        """
        found = self.inputs & frozenset(present)
        return in_order(found) if self.any_subset or found == self.inputs else ()

    def scores(self, used: Iterable[Sequence]) -> Mapping[str, RegionScores] | None:
        """What was measured with exactly these sequences, by region; ``None`` where nobody has measured that."""
        wanted = frozenset(used)
        if self.evaluation is None or self.usable(wanted) != in_order(wanted):
            return None
        if wanted == self.inputs:
            return self.evaluation.by_sequences.get(joined(wanted), self.evaluation.regions)
        return self.evaluation.by_sequences.get(joined(wanted))

    def comparable(self, used: Iterable[Sequence]) -> Mapping[str, float] | None:
        """Mean Dice with these sequences by region, as it would be on the patients that other models were measured on.

        Patients differ in how hard they are. Where another model was measured on this one's patients too, what counts
        is the difference between both there, added to what the other's card says of it. With sequences that were not
        compared themselves the patients are taken to be as much easier or harder as with those that were.

        Returns:
            0..1 by region; ``None`` where nobody has measured this set.
        """
        scores = self.scores(used)
        if scores is None:
            return None
        name = joined(used)
        same = [one for one in self.beside if one.sequences == name]
        if same:
            return {r: _share(same[0].published[r].dice_mean + _gain(same[0], r)) for r in REGIONS}
        easier = {
            r: sum(one.published[r].dice_mean - one.other[r].dice_mean for one in self.beside) / len(self.beside)
            if self.beside
            else 0.0
            for r in REGIONS
        }
        return {r: _share(scores[r].dice_mean + easier[r]) for r in REGIONS}

    def calibrated(self, used: Iterable[Sequence]) -> Mapping[str, RegionCalibration] | None:
        """How far probabilities and volumes can be believed with these sequences, by region."""
        if self.calibration is None:
            return None
        return self.calibration.by_sequences.get(joined(used), self.calibration.regions)

    @property
    def learnt_from(self) -> frozenset[str]:
        """Names of the patients it was trained on, its teacher's and its pre-training's where the card says so."""
        names: set[str] = set()
        waiting: list[Any] = [self.training]
        while waiting:
            part = waiting.pop()
            if isinstance(part, Mapping):
                names.update(str(name) for name in part.get("train_cases", ()))
                waiting.extend(part.values())
        return frozenset(names)

    @property
    def fingerprint(self) -> str:
        """One SHA-256 for the whole model: the card's text, and through it every file."""
        text = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The card as ``model.json`` has it."""
        fields = asdict(self)
        del fields["folder"]
        for name, details in (("evaluation", ("subsets", "by_sequences")), ("calibration", ("by_sequences",))):
            if fields[name] is not None:
                fields[name] = {key: value for key, value in fields[name].items() if value or key not in details}
        if not fields["beside"]:
            del fields["beside"]
        return {"format": FORMAT, **fields}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path) -> ModelCard:
        """The card of the text of a ``model.json``.

        Args:
            values: The parsed JSON. Entries this program does not know are left alone.
            folder: The model folder, for the card and for messages.

        Raises:
            BadModel: The card is newer or older than this program, incomplete or contradicts itself.
        """
        version = values.get("format")
        if isinstance(version, int) and not isinstance(version, bool) and version != FORMAT:
            raise BadModel(
                f"The model in {folder.name} was made for {'a newer' if version > FORMAT else 'an older'} Gliascope",
                f"its card has format {version}, this program reads {FORMAT}",
                "Update Gliascope, or use another model." if version > FORMAT else "Export it again from its training.",
            )
        try:
            return _parse(values, folder)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise BadModel(f"The card of the model in {folder.name} makes no sense", reason, _GET_AGAIN) from error

    @classmethod
    def read(cls, folder: Path) -> ModelCard:
        """Read the card of a model folder; opens nothing but ``model.json``.

        Raises:
            BadModel: There is no card, or it cannot be used.
        """
        path = folder / CARD_NAME
        try:
            with path.open("rb") as file:
                raw = file.read(_LARGEST_CARD)  # a longer one ends in the middle and is no JSON
        except FileNotFoundError as error:
            raise BadModel(f"The folder {folder.name} is not a model", f"it has no {CARD_NAME}", _GET_AGAIN) from error
        except OSError as error:
            raise BadModel(
                f"The card of the model in {folder.name} cannot be read",
                error.strerror or "",
                "Check that you may read the folder.",
            ) from error
        try:
            values = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            reason = "it is not JSON text"
            raise BadModel(f"The card of the model in {folder.name} makes no sense", reason, _GET_AGAIN) from error
        if not isinstance(values, dict):
            raise BadModel(f"The card of the model in {folder.name} makes no sense", "it is not a table", _GET_AGAIN)
        return cls.from_json(values, folder)

    def write(self, folder: Path) -> ModelCard:
        """Write ``model.json`` into a folder that already holds the network and the weights.

        Args:
            folder: The model folder. The hashes are taken from the files as they lie there.

        Returns:
            The card as written, with its folder and hashes.

        Raises:
            BadModel: A file is missing from the folder.
            CannotWrite: The card could not be written.
        """
        for name in REQUIRED_FILES:
            if not (folder / name).is_file():
                raise BadModel(f"The model in {folder.name} is incomplete", f"{name} is missing", "Export it again.")
        card = replace(self, folder=folder, files={name: sha256(folder / name) for name in REQUIRED_FILES})
        text = json.dumps(card.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with whole_file(folder / CARD_NAME) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        return card


_GET_AGAIN = "Get the model again from its source, or remove its folder."


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_subset_names(what: str, by_sequences: Mapping[str, object]) -> None:
    for name in by_sequences:
        if name not in _SUBSET_NAMES:
            raise ValueError(f'the {what} is also by "{name}", which names no sequences such as t1+flair')


def _gain(beside: Beside, region: str) -> float:
    return beside.own[region].dice_mean - beside.other[region].dice_mean


def _share(dice: float) -> float:
    return min(1.0, max(0.0, dice))


def check_name(name: str) -> None:
    """See that a model may be called so.

    Raises:
        ValueError: It may not.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f'the name "{name}" is not made of a-z, 0-9, ".", "_" and "-" alone')


def _check_card(card: ModelCard) -> None:
    check_name(card.name)
    if not card.title.strip() or not card.version.strip():
        raise ValueError("the title or the version is empty")
    if not card.sequences or len(set(card.sequences)) != len(card.sequences):
        raise ValueError("the input sequences are empty or named twice")
    for measured in (card.evaluation, card.calibration):
        if not card.any_subset and measured is not None and measured.by_sequences:
            raise ValueError("it was measured on subsets of its sequences, but needs all of them")
    if set(card.regions) != set(REGIONS) or len(card.regions) != len(REGIONS):
        raise ValueError("the regions are not whole_tumour and tumour_core")
    if not math.isfinite(card.spacing_mm):
        raise ValueError("the spacing is not a length")
    _ = card.preparation  # it checks spacing, window and clip
    if not set(card.mirror_axes) <= {0, 1, 2} or len(set(card.mirror_axes)) != len(card.mirror_axes):
        raise ValueError("the mirror axes are not among 0, 1 and 2")
    if set(card.threshold) != set(REGIONS) or not all(0 < p < 1 for p in card.threshold.values()):
        raise ValueError("the thresholds are not one probability a region")
    if set(card.minimum_ml) != set(REGIONS) or not all(math.isfinite(v) and v >= 0 for v in card.minimum_ml.values()):
        raise ValueError("the smallest volumes are not one volume a region")
    for name, digest in card.files.items():
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f'"{name}" is not the name of a file in the model folder')
        if not _SHA256.fullmatch(digest):
            raise ValueError(f"the SHA-256 of {name} is not one")


def _parse(values: Mapping[str, Any], folder: Path) -> ModelCard:
    if type(values.get("format")) is not int or values["format"] != FORMAT:
        raise ValueError("it does not say which format it has")
    files = {_as(str, name): _as(str, digest) for name, digest in _table(values, "files").items()}
    missing = [name for name in REQUIRED_FILES if name not in files]
    if missing:
        raise ValueError(f"it gives no SHA-256 for {missing[0]}")
    window = [_as(int, n) for n in _as(list, values["window"])]
    if len(window) != 3:
        raise ValueError("the window is not three sizes")
    architecture = _table(values, "architecture")
    normalisation = _table(values, "normalisation")
    evaluation, calibration = values.get("evaluation"), values.get("calibration")
    return ModelCard(
        name=_as(str, values["name"]),
        title=_as(str, values["title"]),
        version=_as(str, values["version"]),
        role=Role(values["role"]),
        sequences=tuple(Sequence(s) for s in _as(list, values["sequences"])),
        spacing_mm=float(_as((int, float), values["spacing_mm"])),
        window=(window[0], window[1], window[2]),
        architecture=Architecture(_as(str, architecture["name"]), dict(architecture.get("args", {}))),
        any_subset=_truth(values.get("any_subset", False)),
        regions=tuple(_as(str, r) for r in _as(list, values["regions"])),
        normalisation=Normalisation(_as(str, normalisation["kind"]), float(normalisation["clip"])),
        mirror_axes=tuple(_as(int, a) for a in values.get("mirror_axes", [])),
        threshold={r: float(v) for r, v in _table(values, "threshold").items()},
        minimum_ml={r: float(v) for r, v in _table(values, "minimum_ml").items()},
        evaluation=None if evaluation is None else _parse_evaluation(_as(dict, evaluation)),
        calibration=None if calibration is None else _parse_calibration(_as(dict, calibration)),
        beside=tuple(_parse_beside(_as(dict, one)) for one in _as(list, values.get("beside", []))),
        training=dict(values.get("training", {})),
        data=_as(str, values.get("data", "")),
        licence=_as(str, values.get("licence", "")),
        citations=tuple(_as(str, c) for c in values.get("citations", [])),
        intended_use=_as(str, values.get("intended_use", RESEARCH_USE)),
        made_with={str(k): str(v) for k, v in values.get("made_with", {}).items()},
        files=files,
        folder=folder,
    )


def _parse_evaluation(values: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        how=_as(str, values["how"]),
        cases=_as(int, values["cases"]),
        patients=_as(int, values["patients"]),
        regions=_parse_scores(_table(values, "regions")),
        subsets={name: _parse_scores(scores) for name, scores in values.get("subsets", {}).items()},
        by_sequences={name: _parse_scores(scores) for name, scores in values.get("by_sequences", {}).items()},
    )


def _parse_beside(values: Mapping[str, Any]) -> Beside:
    return Beside(
        model=_as(str, values["model"]),
        title=_as(str, values["title"]),
        version=_as(str, values["version"]),
        sequences=_as(str, values["sequences"]),
        patients=_as(int, values["patients"]),
        own=_parse_scores(_table(values, "own")),
        other=_parse_scores(_table(values, "other")),
        published=_parse_scores(_table(values, "published")),
    )


def _parse_calibration(values: Mapping[str, Any]) -> Calibration:
    parts = values.get("by_sequences", {})
    return Calibration(
        _parse_calibrations(_table(values, "regions")),
        {name: _parse_calibrations(part) for name, part in parts.items()},
    )


def _parse_calibrations(values: Mapping[str, Any]) -> dict[str, RegionCalibration]:
    return {
        region: RegionCalibration(
            temperature=float(part["temperature"]),
            ece_before=float(part["ece_before"]),
            ece_after=float(part["ece_after"]),
            volume_low=_number(part["volume_low"]),
            volume_high=_number(part["volume_high"]),
            coverage=_number(part["coverage"]),
            patients=_as(int, part["patients"]),
        )
        for region, part in values.items()
    }


def _parse_scores(values: Mapping[str, Any]) -> dict[str, RegionScores]:
    return {
        region: RegionScores(
            float(scores["dice_mean"]),
            float(scores["dice_sd"]),
            _number(scores.get("hd95_mean")),
        )
        for region, scores in values.items()
    }


def _table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values[key]
    if not isinstance(value, dict):
        raise TypeError(f"{key} is not a table")
    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{json.dumps(value, default=str)[:60]} is neither true nor false")
    return value


def _as(kind: type[_Kind] | tuple[type[_Kind], ...], value: object) -> _Kind:
    # bool is an int to Python; a card that says true for a number is broken all the same.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{json.dumps(value, default=str)[:60]} is not what was expected there")
    return value
