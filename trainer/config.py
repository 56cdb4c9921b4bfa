"""The whole of a training run as data: validated when made, saved beside the weights."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.preprocessing import Preparation
from engine.volume import Sequence

FORMAT = 1
ROLES = ("teacher", "student", "baseline")


@dataclass(frozen=True)
class Distillation:
    """What a student learns from networks, or from sequences, that it will not have later; a zero switches a term off.

    ``loss = hard + weight * logits + latent * latent term + prototypes * prototype term + synthesis * synthesis term``,
    see `trainer.distillation`, and ``hard`` is taken against the truth mixed with cross-fitted teachers' opinions.
    """

    teacher: str = ""
    """Run folder of the teacher that looks on at every step; needed by ``weight``, ``latent`` and ``prototypes``."""
    temperature: float = 5.0
    """T; larger softens the outputs of both."""
    weight: float = 0.1
    """Of the softened outputs: Rahimpour et al., IEEE TBME 2022;69(7):2153-2164, whose tutorial has T = 5 and 0.1."""
    latent: float = 0.0
    """Of the distance between both networks' deepest features, after KD-Net (Hu et al., MICCAI 2020)."""
    prototypes: float = 0.0
    """Of the distance between both networks' similarities of voxels to classes, after ProtoKD (Wang et al., 2023)."""
    synthesis: float = 0.0
    """Of painting the sequences that the student lacks from its last features."""
    cross_fitted: tuple[str, ...] = ()
    """Run folders of teachers; each patient's targets come from those among them that never saw the patient."""
    blend: float = 0.0
    """Share of a patient's target that comes from the cross-fitted teachers; the rest is the truth."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cross_fitted", tuple(self.cross_fitted))
        if not self.temperature > 0:
            raise ValueError(f"a temperature is positive, got {self.temperature}")
        if min(self.weight, self.latent, self.prototypes, self.synthesis) < 0:
            raise ValueError("the weight of a distillation term is not negative")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"the share of the target that comes from teachers lies between 0 and 1, got {self.blend}")
        if max(self.weight, self.latent, self.prototypes) > 0 and not self.teacher:
            raise ValueError("a student learns from a teacher: name its run")
        if self.blend > 0 and not self.cross_fitted:
            raise ValueError("targets of cross-fitted teachers need cross-fitted teachers: name their runs")


@dataclass(frozen=True)
class Augmentation:
    """Random changes to each training example; a zero switches one off."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    rotation_degrees: float = 15.0
    """Largest rotation about each axis."""
    scaling: float = 0.2
    """Largest relative change of size, each axis by itself."""
    shift_mm: float = 10.0
    """Largest shift along each axis."""
    elastic_mm: float = 6.0
    """Largest displacement of a smooth random deformation."""
    contrast: float = 0.3
    """Spread of the logarithm of a random gamma of each sequence."""
    gain: float = 0.2
    """Spread of the logarithm of a factor on each sequence's normalised intensities: a large or bright tumour shifts
    the brain's mean and spread, and with them every tissue."""
    offset: float = 0.3
    """Spread of a constant added to them."""
    lesion: float = 0.4
    """Spread of the logarithm of a factor on how far core and rest of the tumour, each by itself in each sequence,
    stand out from the brain: fainter and bolder tumours than there were."""
    lesion_shift: float = 0.3
    """Spread of a constant added to core and rest of the tumour in the same way, in units of the brain's own spread."""
    bias_field: float = 0.2
    """Spread of the logarithm of a smooth multiplicative field."""
    noise: float = 0.15
    """Largest spread of added noise, in units of the brain's own spread."""
    blur: float = 0.3
    """Probability of a coarser resolution, as of a thick-slice or low-field scan."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    name: str
    """What the run and its model are called."""
    role: str
    """teacher, student or baseline."""
    sequences: tuple[Sequence, ...]
    """Inputs of the network, in channel order."""
    data: str
    """Folder of the cases."""
    train_cases: tuple[str, ...]
    """Names of the cases to learn from; may be empty where every example is simulated."""
    validation_cases: tuple[str, ...] = ()
    """Names of cases to score now and then; never learnt from, never used to pick weights."""
    simulated: str = ""
    """Folder of simulated patients, as `trainer.dataset.save_simulated` writes them; empty for none."""
    simulated_share: float = 0.5
    """Share of the examples that come from simulated patients, where there are any."""
    start_from: str = ""
    """Run folder, or absolute path of a model folder, whose weights to start from; its inputs must include
    ``sequences``. Empty: random weights."""
    distillation: Distillation | None = None
    """None for a teacher or a baseline."""
    sequence_dropout: float = 0.0
    """Probability that an example shows only a random subset of its sequences, the others zero; the model that comes of
    it takes any subset."""
    architecture: dict[str, Any] = field(default_factory=lambda: {"name": "folded_unet", "args": {"regions": 2}})
    """Name and arguments for `engine.networks.build`; the number of inputs follows from ``sequences``."""
    spacing_mm: float = 2.0
    """Spacing the network works at."""
    window: tuple[int, int, int] = (80, 96, 80)
    """Voxels of one training window."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes; the same for student and baseline."""
    steps: int = 3000
    """Optimiser steps of ``batch`` examples each."""
    batch: int = 1
    """Examples that a step learns from."""
    accumulate: int = 1
    """Pieces that the batch is taken in, one after the other, their gradients summed: less memory, the same step."""
    learning_rate: float = 2e-3
    """Of AdamW after the warm-up; falls to zero along a cosine."""
    warm_up: int = 100
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = 0.02
    """Of AdamW."""
    average: float = 0.998
    """Decay of the running average of the weights, which is what is kept."""
    seed: int = 0
    """Everything random follows from it and the step's number."""
    threads: int = 0
    """CPU threads; 0 takes what torch chooses."""
    device: str = "auto"
    """auto, cpu or cuda."""
    validate_every: int = 500
    """Steps between scores of the validation cases; 0 never."""
    previews: int = 2
    """Validation cases whose masks are kept at each score, to watch the network learn; 0 none."""
    checkpoint_seconds: float = 120.0
    """Longest time between two checkpoints."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sequences", tuple(Sequence(s) for s in self.sequences))
        object.__setattr__(self, "window", tuple(int(n) for n in self.window))
        if len(self.window) != 3:
            raise ValueError(f"a window has three sizes, got {self.window}")
        object.__setattr__(self, "train_cases", tuple(self.train_cases))
        object.__setattr__(self, "validation_cases", tuple(self.validation_cases))
        if self.role not in ROLES:
            raise ValueError(f"a role is one of {', '.join(ROLES)}, got {self.role}")
        if not self.train_cases and not (self.simulated and self.simulated_share == 1):
            raise ValueError("a training needs at least one case, or simulated patients alone")
        shared = set(self.train_cases) & set(self.validation_cases)
        if shared:
            raise ValueError(f"{sorted(shared)[0]} is both learnt from and scored")
        if self.role == "student" and self.distillation is None:
            raise ValueError("a student learns from a teacher: name one under distillation")
        if self.role != "student" and self.distillation is not None:
            raise ValueError(f"a {self.role} has no teacher")
        if self.steps < 1 or not 0 <= self.warm_up < self.steps:
            raise ValueError("steps are positive and more than the warm-up")
        if self.batch < 1 or not 1 <= self.accumulate <= self.batch:
            raise ValueError("a batch has at least one example, and at most so many pieces as examples")
        if self.previews < 0:
            raise ValueError(f"the number of cases to preview is not negative, got {self.previews}")
        shares = (self.sequence_dropout, self.simulated_share)
        if not all(0 <= share <= 1 for share in shares) or not 0 <= self.average < 1:
            raise ValueError("probabilities and decays lie between 0 and 1")
        self.preparation()  # rejects sequences, spacing and windows that no network could read

    def learns_as(self, other: TrainConfig) -> bool:
        """Whether another run learns the same; folders, device and threads may differ, as on another machine."""
        places = {"data": "", "simulated": "", "device": "cpu", "threads": 0, "checkpoint_seconds": 0.0}
        # Pieces of a batch give the same step, and what is shown does not change what is learnt.
        places |= {"accumulate": 1, "previews": 0}
        here, there = (
            dataclasses.asdict(config) | places | {"start_from": Path(config.start_from).name}
            for config in (self, other)
        )
        return here == there and bool(self.simulated) == bool(other.simulated)

    def preparation(self) -> Preparation:
        """What the model will expect of its input."""
        return Preparation(self.sequences, self.spacing_mm, self.window)

    def network(self) -> tuple[str, dict[str, Any]]:
        """Name and full arguments of the network."""
        return self.architecture["name"], {"inputs": len(self.sequences), **self.architecture["args"]}

    def to_json(self) -> str:
        """The config as text; `from_json` reads it back."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str, name: str = "the config") -> TrainConfig:
        """Read a config.

        Args:
            text: As `to_json` writes it; left-out fields take their defaults.
            name: The file's name, for messages.

        Raises:
            UserError: It is no JSON, has unknown or contradicting fields, or comes from a newer version.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise UserError(f"{name} is not a training config", f"no JSON at {where}", "Mend that place.") from error
        if not isinstance(fields, dict):
            raise UserError(f"{name} is not a training config", "it holds no fields", "Start from one in configs.")
        version = fields.pop("format", FORMAT)
        if not isinstance(version, int):
            raise UserError(f"{name} is not a training config", "its format is no number", "Start from one in configs.")
        if version > FORMAT:
            raise UserError(f"{name} comes from a newer Gliascope", "", "Update this one, or make the config again.")
        try:
            if fields.get("distillation") is not None:
                fields["distillation"] = Distillation(**fields["distillation"])
            if "augmentation" in fields:
                fields["augmentation"] = Augmentation(**fields["augmentation"])
            return TrainConfig(**fields)
        except (TypeError, ValueError) as error:
            raise UserError(f"{name} is not a training config", str(error), "Mend that field.") from error

    @staticmethod
    def read(path: Path) -> TrainConfig:
        """Read a config file; see `from_json`."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path.name} cannot be read", str(error), "Check the path.") from error
        return TrainConfig.from_json(text, path.name)
