"""Cases with truth: found in a folder, prepared once, kept in memory, dealt out as training examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine import preprocessing
from engine.errors import UserError
from engine.files import whole_file
from engine.preprocessing import Preparation
from engine.progress import Progress
from engine.volume import LabelMap, Sequence, Subject
from trainer.config import TrainConfig
from trainer.patients import Patient, Patients

if TYPE_CHECKING:
    import torch

    from trainer.augmentation import Anatomy
    from trainer.simulate import SimulatedPatient

# Larger than any training window, so that a shifted or enlarged window still finds what lies beside it.
MARGIN_WINDOW_MM = (192, 224, 192)
CACHE_FORMAT = 3


@dataclass(frozen=True, eq=False)
class Case:
    """One prepared patient.

    Attributes:
        name: The patient's folder name.
        sequences: What ``images`` holds, in channel order.
        images: ``(C, i, j, k)`` float16, normalised, zero outside the brain.
        truth: ``(2, i, j, k)`` float16, the fraction of each voxel in whole tumour and tumour core.
    """

    name: str
    sequences: tuple[Sequence, ...]
    images: np.ndarray
    truth: np.ndarray

    def channels(self, wanted: Iterable[Sequence]) -> list[int]:
        """Where in ``images`` the sequences are.

        Raises:
            UserError: The patient lacks one of them.
        """
        places = []
        for sequence in wanted:
            if sequence not in self.sequences:
                raise UserError(f"{self.name} has no {sequence.title}", "", "Add it, or leave this patient out.")
            places.append(self.sequences.index(sequence))
        return places


def prepare_case(patient: Patient, spacing_mm: float, progress: Progress | None = None) -> Case:
    """Read one patient and put it on the network's spacing, exactly as inference does.

    The box is placed around the brain of all sequences that the patient has, so that a patient is prepared once for
    networks of any sequences. Training windows are shifted at random afterwards, and scores come from the inference
    engine with the model's own sequences only, so its place tells a student nothing.

    Args:
        patient: One with a ground truth.
        spacing_mm: Of the result.
        progress: Checked while reading.

    Raises:
        UserError: As `Patient.read` and `Patient.read_truth`.
    """
    subject = patient.read(progress)
    return _case(subject, patient.read_truth(subject), spacing_mm, progress)


def save_simulated(patient: SimulatedPatient, spacing_mm: float, folder: Path) -> Path:
    """Prepare a simulated patient and write it where a training finds it.

    Args:
        patient: With all four sequences; its name is the file's.
        spacing_mm: Of the prepared arrays.
        folder: Made where absent.

    Returns:
        The file: ``(6, i, j, k)`` float16, the four sequences and the two regions. Plain, so that several trainings
        share one copy in memory.
    """
    case = _case(patient.subject, patient.truth, spacing_mm, None)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case.name}.npy"
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, np.concatenate([case.images, case.truth]))
    return path


def _case(subject: Subject, truth: LabelMap, spacing_mm: float, progress: Progress | None) -> Case:
    step = preprocessing.SIZE_STEP
    window = tuple(int(np.ceil(mm / spacing_mm / step)) * step for mm in MARGIN_WINDOW_MM)
    held = tuple(sequence for sequence in Sequence if sequence in subject)
    prepared = preprocessing.prepare(
        subject, Preparation(held, spacing_mm, (window[0], window[1], window[2])), progress
    )
    regions = [prepared.forward(truth.whole_tumour), prepared.forward(truth.tumour_core)]
    return Case(subject.name, held, prepared.tensor.astype(np.float16), np.stack(regions).astype(np.float16))


class CaseStore:
    """Prepared cases, each read from its scans once and from a small file afterwards.

    Args:
        data: The cohort's folder, table or manifest; see `Patients.read`.
        spacing_mm: Of the prepared arrays.
        cache: Where the prepared files lie; made where absent.

    Raises:
        UserError: Nobody there has a ground truth.
    """

    def __init__(self, data: Path, spacing_mm: float, cache: Path) -> None:
        self._spacing_mm = spacing_mm
        self._cache = cache
        self._everyone = Patients.read(data)
        self._patients = {patient.name: patient for patient in self._everyone.having(())}
        if not self._patients:
            raise UserError(f"{data.name} holds no patient with a ground truth", "", "Choose another folder.")

    def names(self) -> list[str]:
        """Names of all patients with a ground truth that are not left out."""
        return sorted(self._patients)

    def load(self, name: str, progress: Progress | None = None) -> Case:
        """One prepared case, with the sequences that this patient has.

        Raises:
            UserError: There is no such patient, or it was left out, or cannot be read.
        """
        if name not in self._patients:
            if self._everyone.named(name).included:
                raise UserError(f"{name} has no ground truth", "", "Add it, or leave this patient out.")
            raise UserError(f"{name} was left out of the patients", "", "Take it in again, or out of the config.")
        patient = self._patients[name]
        try:
            path = self._cache / f"{name}-{self._key(patient)}.npz"
        except OSError as error:
            reason = (error.strerror or "the system gave no reason").lower()
            todo = "Connect the drive they lie on, or choose their folder again."
            raise UserError(f"The files of {name} cannot be reached", reason, todo) from error
        if path.exists():
            with np.load(path) as stored:
                held = tuple(Sequence(sequence) for sequence in stored["sequences"])
                return Case(name, held, stored["images"], stored["truth"])
        case = prepare_case(patient, self._spacing_mm, progress)
        self._cache.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, sequences=np.array(case.sequences), images=case.images, truth=case.truth)
        return case

    def _key(self, patient: Patient) -> str:
        """Changes when a file, what was decided about it, or the way of preparing does."""
        stats = [
            (kind, path.name, path.stat().st_size, path.stat().st_mtime_ns, patient.volumes.get(Sequence(kind), 0))
            for kind, path in sorted(patient.files.items())
        ]
        assert patient.truth is not None  # others are not loaded
        drawn = patient.truth.stat()
        truth = (patient.truth.name, drawn.st_size, drawn.st_mtime_ns, patient.convention, patient.onto_first)
        recipe = [CACHE_FORMAT, self._spacing_mm, MARGIN_WINDOW_MM, stats, truth]
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


class Examples:
    """Training examples by number.

    The same number always gives the same example, so a resumed run sees what an uninterrupted one would have seen, and
    a student the places and looks that its baseline saw.

    A case must have the network's own sequences; one of them is enough where the network learns with sequences left
    out. What else it lacks it cannot teach: the example of a patient without all of the teacher's sequences carries no
    ``teacher_images``, and that of one whom no cross-fitted teacher could see no ``target``.

    Args:
        config: Cases, sequences, window, augmentation and seed.
        store: Holds the cases.
        teacher_sequences: Inputs of a teacher that looks on, in channel order; empty without one.
        absent: Sequences that the student learns to paint; empty if it does not.
        device: Where cases lie and examples are made.
        progress: Told while the cases load.
        opinions: Of cross-fitted teachers: ``(2, i, j, k)`` probabilities on a case's own array, by its name; may lack
            some.

    Attributes:
        window: Voxels of an example: the config's, or smaller where that does not fit into memory.

    Raises:
        UserError: A case lacks sequences of the network's own, or there is no simulated patient.
    """

    def __init__(
        self,
        config: TrainConfig,
        store: CaseStore,
        device: torch.device,
        progress: Progress,
        teacher_sequences: tuple[Sequence, ...] = (),
        absent: tuple[Sequence, ...] = (),
        opinions: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        import torch

        from trainer.augmentation import Anatomy

        self._config = config
        self.window = config.window
        held = [s for s in Sequence if s in {*config.sequences, *teacher_sequences, *absent}]
        self._own, self._teachers, self._absent = (
            [held.index(sequence) for sequence in wanted] for wanted in (config.sequences, teacher_sequences, absent)
        )
        self._regions = slice(len(held), len(held) + 2)
        self._blend = 0.0 if config.distillation is None else config.distillation.blend
        self._cases: list[_Laid] = []
        for number, name in enumerate(config.train_cases):
            progress.update(number / len(config.train_cases), f"reading {name}")
            case = store.load(name, progress)
            there = [sequence for sequence in held if sequence in case.sequences]
            # Sequences that are left out now and then may as well not be there; the others are missed.
            any_subset = config.sequence_dropout > 0 and set(there) & set(config.sequences)
            case.channels(there if any_subset else config.sequences)
            images = np.zeros((len(held), *case.images.shape[1:]), np.float16)
            images[[held.index(sequence) for sequence in there]] = case.images[case.channels(there)]
            arrays = [images, case.truth]
            if opinions is not None and name in opinions:
                arrays.append(opinions[name].astype(np.float16))
            whole = torch.from_numpy(np.concatenate(arrays)).to(device)
            # An opinion says something of every voxel, also where there is no brain to ask about.
            anatomy = Anatomy.of(whole, self._regions.stop)
            self._cases.append(_Laid(anatomy, frozenset(held.index(sequence) for sequence in there)))
        self._device = device
        self._simulated = sorted(Path(config.simulated).glob("*.npy")) if config.simulated else []
        if config.simulated and not self._simulated:
            raise UserError(f"The folder {config.simulated} holds no simulated patient", "", "Simulate some first.")
        # A simulated patient's truth is exact: nobody's opinion is asked.
        self._channels = [list(Sequence).index(sequence) for sequence in held] + [-2, -1]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """One example, see `trainer.distillation`: ``images``, ``truth`` and what else the terms need."""
        import torch

        # Also where a training works in bfloat16, which would put positions on a grid of quarters of a voxel.
        with torch.autocast(self._device.type, enabled=False):
            return self._example(number)

    def _example(self, number: int) -> dict[str, torch.Tensor]:
        import torch

        from trainer import augmentation

        config = self._config
        chance = _generator(config.seed, 2, number)
        if self._simulated and float(torch.rand(1, generator=chance)) < config.simulated_share:
            chosen = int(torch.randint(len(self._simulated), (1,), generator=chance))
            stored = np.load(self._simulated[chosen], mmap_mode="r")
            anatomy = augmentation.Anatomy.of(torch.from_numpy(stored[self._channels]).to(self._device))
            case = _Laid(anatomy, frozenset(range(self._regions.start)))
        else:
            epoch, place = divmod(number, len(self._cases))
            order = torch.randperm(len(self._cases), generator=_generator(config.seed, 1, epoch))
            case = self._cases[int(order[place])]
        cutout = augmentation.spatial(case.anatomy, self.window, config.spacing_mm, config.augmentation, chance)
        values = cutout.values
        truth = values[self._regions]
        images = augmentation.intensity(values[self._own], truth, cutout, config.augmentation, chance)
        if config.sequence_dropout > 0 and float(torch.rand(1, generator=chance)) < config.sequence_dropout:
            there = [place for place, channel in enumerate(self._own) if channel in case.there]
            images = images * _random_subset(there, len(self._own), chance).to(images.device)
        parts = {"images": images, "truth": truth}
        if len(values) > self._regions.stop:
            parts["target"] = torch.lerp(truth, values[self._regions.stop :], self._blend)
        if self._teachers and case.there.issuperset(self._teachers):
            parts["teacher_images"] = values[self._teachers]
        if self._absent and case.there.issuperset(self._absent):
            parts["absent"] = values[self._absent]
        return {name: cutout.spread(part)[None] for name, part in parts.items()}


def folds(sizes: dict[str, float], sources: dict[str, str], count: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Split patients into folds that resemble each other in source and tumour size; the same on every machine.

    Within each source the patients are sorted by size and dealt out in blocks of ``count``, each block in a random
    order, so that every fold gets small and large tumours of every source.

    Args:
        sizes: Whole-tumour volume in ml by patient.
        sources: Where each patient comes from.
        count: Number of folds.
        seed: Of the order within the blocks.

    Returns:
        Names of each fold's patients, sorted; every patient is in exactly one.
    """
    dealt: list[list[str]] = [[] for _ in range(count)]
    chance = np.random.default_rng(seed)
    ranked = sorted(sizes, key=lambda name: (sources[name], sizes[name], name))
    for start in range(0, len(ranked), count):
        block = ranked[start : start + count]
        # An incomplete last block goes to the folds that are smallest so far.
        order = chance.permutation(count) if len(block) == count else np.argsort([len(fold) for fold in dealt])
        for name, fold in zip(block, order, strict=False):
            dealt[int(fold)].append(name)
    return [tuple(sorted(fold)) for fold in dealt]


@dataclass(frozen=True, eq=False)
class _Laid:
    """A case to cut windows from, and which of its channels are those of sequences that the patient has."""

    anatomy: Anatomy
    there: frozenset[int]


def _random_subset(there: list[int], count: int, generator: torch.Generator) -> torch.Tensor:
    """``(count, 1)`` of ones and zeros: a subset of ``there``, neither empty nor all of it, each equally likely."""
    import torch

    kept = torch.zeros(count, 1)
    if len(there) == 1:
        kept[there] = 1
        return kept
    code = int(torch.randint(1, 2 ** len(there) - 1, (1,), generator=generator))
    kept[there] = torch.tensor([[float(code >> bit & 1)] for bit in range(len(there))])
    return kept


def _generator(*numbers: int) -> torch.Generator:
    """A generator whose stream belongs to these numbers alone."""
    import torch

    digest = hashlib.sha256(json.dumps(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
