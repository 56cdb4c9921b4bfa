"""Train the networks that tell sequences from their voxels, and measure them on patients they never saw.

    python -m scripts.measure_recognition fill RUN --shared ../shared --simulated RUNS/simulated-1000
    python -m scripts.measure_recognition train RUN --shared ../shared
    python -m scripts.measure_recognition measure RUN --shared ../shared

``fill`` makes examples, ``train`` networks that each leave out a quarter of the patients and such that leave out none
and go to ``assets/recognition``, ``measure`` writes ``docs/results/recognition.md``. Each goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine import contents, nifti
from engine.volume import FloatArray, LabelMap, Sequence, Volume
from trainer import recognition
from trainer.recognition import Augmentation, Bank, Brain, Fitting, Head

FOLDS = 4
HEADS_LEARNT = 9  # the first of the label maps; what is measured lies in others
SEED = 2026
DATA = (
    "29 patients of BraTS 2018 and 11 of BraTS 2021, and simulated patients, half of them in heads of SynthSeg's label "
    "maps (Apache-2.0). Cite Menze 2015, Bakas 2017, Bakas 2018 and Baid 2021. Research use only."
)


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("fill", "train", "measure"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--simulated", type=Path)
    parser.add_argument("--shards", type=int, default=9)
    parser.add_argument("--real-share", type=float, default=0.62)
    arguments = parser.parse_args()
    if arguments.what == "fill":
        _fill(arguments)
    elif arguments.what == "train":
        _train(arguments.run, arguments.shared)
    else:
        _measure(arguments.run, arguments.shared)


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stdout.flush()


# --- examples ---------------------------------------------------------------------------------------------------------


def _patients(shared: Path) -> list[Path]:
    return sorted(folder for folder in (shared / "cohort").iterdir() if folder.is_dir())


def _read(folder: Path, sequence: Sequence) -> Volume:
    return nifti.read(folder / f"{folder.name}_{sequence.value}.nii.gz", sequence)


def _brain(run: Path, shared: Path, number: int) -> Brain:
    path = run / "cache" / f"brain-{number:02d}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = _patients(shared)[number]
        np.save(path, recognition.real_brain(number, [_read(folder, s) for s in Sequence]).images.astype(np.float16))
    return Brain(number, np.load(path).astype(np.float32))


def _heads(run: Path, shared: Path, numbers: Iterable[int]) -> list[Head]:
    heads = []
    maps = sorted((shared / "anatomy").glob("label_map_*.nii.gz"))
    for number in numbers:
        path = run / "cache" / f"head-{number:02d}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            volume = nifti.read(maps[number])
            head = Head.of(LabelMap(volume.data.round().astype(np.uint8), volume.grid))
            np.savez(path, tissue=head.tissue, brain=head.brain)
        stored = np.load(path)
        heads.append(Head(stored["tissue"], stored["brain"]))
    return heads


def _fill(arguments: argparse.Namespace) -> None:
    run, shared = arguments.run, arguments.shared
    count = len(_patients(shared))
    for number in range(count):
        _brain(run, shared, number)
    heads = _heads(run, shared, range(HEADS_LEARNT))
    simulated = sorted(arguments.simulated.glob("simulated-*.npy"))

    def drawn(rng: np.random.Generator) -> Brain:
        if rng.random() < arguments.real_share:
            return _brain(run, shared, int(rng.integers(count)))
        return recognition.simulated_brain(np.load(simulated[int(rng.integers(len(simulated)))], mmap_mode="r"))

    Bank(run / "bank").fill(range(arguments.shards), drawn, heads, SEED, lambda n: _say(f"shard {n}"))

    def half_healthy(rng: np.random.Generator) -> Brain:
        brain = _brain(run, shared, int(rng.integers(count)))
        return brain.healthy() if rng.random() < 0.5 else brain

    Bank(run / "good").fill(
        range((arguments.shards + 1) // 2),
        half_healthy,
        heads,
        SEED + 1,
        lambda n: _say(f"good shard {n}"),
        poor=False,
        headed=0.8,
    )


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Examples:
    features: FloatArray
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    weights: FloatArray


def _learnt_from(run: Path, shared: Path) -> _Examples:
    """All examples; a real scan as it is counts most, a spoilt one least."""
    plain = _tests(run, "plain", shared, _as_they_are)

    def of_bank(name: str) -> Iterable[tuple[FloatArray, int, int]]:
        described, labels, patients = Bank(run / name).load()
        for one, label, patient in zip(described, labels, patients, strict=True):
            yield one.astype(np.float32) / 255, int(label), int(patient)

    def changed_a_little() -> Iterable[tuple[FloatArray, int, int]]:
        augmented = Augmentation(np.random.default_rng(SEED))
        for _ in range(3):
            for one, label, patient in zip(plain.described, plain.labels, plain.patients, strict=True):
                yield augmented(np.rint(one * 255).astype(np.uint8)), int(label), int(patient)

    def as_they_are() -> Iterable[tuple[FloatArray, int, int]]:
        for one, label, patient in zip(plain.described, plain.labels, plain.patients, strict=True):
            yield one, int(label), int(patient)

    parts = [
        _features(run, "bank", lambda: of_bank("bank"), 0.7),
        _features(run, "good", lambda: of_bank("good"), 1.0),
        _features(run, "changed", changed_a_little, 1.0),
        _features(run, "plain", as_they_are, 1.5),
    ]
    examples = _Examples(*(np.concatenate([getattr(part, name) for part in parts]) for name in _NAMES))
    # What is none of the four can be anything, and much that was made up is; it must not push real scans out.
    examples.weights[examples.labels == len(Sequence)] *= 0.6
    return examples


_NAMES = ("features", "labels", "patients", "weights")


def _features(
    run: Path, name: str, make: Callable[[], Iterable[tuple[FloatArray, int, int]]], weight: float
) -> _Examples:
    path = run / f"features-{name}.npz"
    if not path.exists():
        made = [(contents.features(described), label, patient) for described, label, patient in make()]
        np.savez(
            path,
            features=np.stack([m[0] for m in made]),
            labels=np.array([m[1] for m in made]),
            patients=np.array([m[2] for m in made]),
        )
        _say(f"{name}: features of {len(made)}")
    stored = np.load(path)
    count = len(stored["labels"])
    return _Examples(stored["features"], stored["labels"], stored["patients"], np.full(count, weight, dtype=np.float32))


def _fold_of(patients: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each patient: shuffled once, the same for all sequences of a patient."""
    order = np.random.default_rng(SEED).permutation(40)
    return np.where(patients >= 0, order[patients] % FOLDS, -1)


def _train(run: Path, shared: Path) -> None:
    known = _learnt_from(run, shared)
    folds = _fold_of(known.patients)
    logits, truth = [], []
    for fold in range(FOLDS):
        folder = run / f"fold-{fold}"
        learnt = folds != fold
        weights = recognition.fit(
            known.features[learnt], known.labels[learnt], known.weights[learnt], Fitting(), 1 + fold
        )
        recognition.publish(weights, 1.0, {}, folder)
        # Chosen on scans as good as most; spoilt ones would make every answer look like a guess.
        asked = np.flatnonzero((folds == fold) & (known.weights >= 1))
        network = contents.Network(folder)
        said = np.stack([network.logits(features) for features in known.features[asked]])
        right = contents.probabilities(said, 1.0).argmax(1) == known.labels[asked]
        _say(f"fold {fold}: {right.mean():.3f} of {len(asked)} right")
        logits.append(said)
        truth.append(known.labels[asked])
    temperature = recognition.best_temperature(np.concatenate(logits), np.concatenate(truth))
    weights = recognition.fit(known.features, known.labels, known.weights, Fitting(), 99)
    told: dict[str, object] = {
        "data": DATA,
        "examples": len(known.labels),
        "measured": "docs/results/recognition.md, four folds by patient",
    }
    recognition.publish(weights, temperature, told, contents.SHIPPED)
    _say(f"published with temperature {temperature:.2f}")


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Tests:
    """Descriptions of held-out scans."""

    described: FloatArray
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]


def _tests(
    run: Path, name: str, shared: Path, make: Callable[[Path, Path], Iterable[tuple[Volume, int, int]]]
) -> _Tests:
    path = run / f"test-{name}.npz"
    if not path.exists():
        made = [(contents.describe(volume), label, patient) for volume, label, patient in make(run, shared)]
        np.savez(
            path,
            described=np.stack([m[0] for m in made]).astype(np.float16),
            labels=np.array([m[1] for m in made]),
            patients=np.array([m[2] for m in made]),
        )
        _say(f"{name}: {len(made)} scans described")
    stored = np.load(path)
    return _Tests(stored["described"].astype(np.float32), stored["labels"], stored["patients"])


def _as_they_are(run: Path, shared: Path) -> Iterable[tuple[Volume, int, int]]:
    for number, folder in enumerate(_patients(shared)):
        for label, sequence in enumerate(Sequence):
            yield _read(folder, sequence), label, number


def _in_heads(run: Path, shared: Path) -> Iterable[tuple[Volume, int, int]]:
    heads = _heads(run, shared, range(HEADS_LEARNT, HEADS_LEARNT + 3))
    for number in range(len(_patients(shared))):
        brain = _brain(run, shared, number)
        for label, sequence in enumerate(Sequence):
            rng = np.random.default_rng([8, number, label])
            head = heads[int(rng.integers(len(heads)))]
            yield recognition.example(brain, sequence.value, head, rng, poor=False), label, number


def _measure(run: Path, shared: Path) -> None:
    folders = _patients(shared)

    networks = [contents.Network(run / f"fold-{fold}") for fold in range(FOLDS)]
    temperature = contents.open_network().temperature
    lines = [_HEAD]
    wrong: list[str] = []
    for name, title, make in (
        ("plain", "as they are: stripped, 1 mm", _as_they_are),
        ("heads", "in a simulated head that was in no training, 2 mm", _in_heads),
    ):
        tests = _tests(run, name, shared, make)
        folds = _fold_of(tests.patients)
        shares = np.zeros((len(tests.labels), len(contents.CLASSES)))
        for fold, network in enumerate(networks):
            here = np.flatnonzero(folds == fold)
            said = np.stack([network.logits(contents.features(one)) for one in tests.described[here]])
            shares[here] = contents.probabilities(said, temperature)
        lines.append(_row(title, shares, tests.labels))
        shares = _together(shares, tests.patients)
        lines.append(_row(f"{title}, told together", shares, tests.labels))
        for place in np.flatnonzero(shares.argmax(1) != tests.labels):
            wrong.append(
                f"| {title} | {folders[tests.patients[place]].name} | {contents.CLASSES[tests.labels[place]]} | "
                f"{contents.CLASSES[shares[place].argmax()]} | {shares[place].max():.2f} |"
            )
    known = _features(run, "bank", lambda: (), 1.0)
    folds = _fold_of(known.patients)
    shares = np.zeros((len(folds), len(contents.CLASSES)))
    for fold, network in enumerate(networks):
        here = np.flatnonzero(folds == fold)
        said = np.stack([network.logits(features) for features in known.features[here]])
        shares[here] = contents.probabilities(said, temperature)
    spoilt = (folds >= 0) & (known.labels < len(Sequence))
    others = (folds >= 0) & (known.labels == len(Sequence))
    lines.append(
        _row("spoilt by `trainer.shift`, half in heads, some cut off, 2 mm", shares[spoilt], known.labels[spoilt])
    )
    lines.append(_row("none of the four, made up from them", shares[others], known.labels[others]))
    lines += ["", _CLINICAL_HEAD, *_clinical(shared), "", _WRONG_HEAD, *(wrong or ["| none | | | | |"]), ""]
    Path("docs/results/recognition.md").write_text("\n".join(lines), encoding="utf-8")
    _say("\n".join(lines))


def _together(shares: FloatArray, patients: NDArray[np.int64]) -> FloatArray:
    """Each patient's scans told together, as the app tells files without names."""
    joint = np.zeros_like(shares)
    for patient in set(patients.tolist()):
        here = np.flatnonzero(patients == patient)
        alone = [contents.recognition_of(shares[place]) for place in here]
        joint[here] = [list(found.probabilities.values()) for found in contents.together(alone)]
    return joint


def _row(title: str, shares: FloatArray, labels: NDArray[np.int64]) -> str:
    told = shares.argmax(1)
    right = told == labels
    sure = shares.max(1) >= contents.SURE
    each = " | ".join(
        f"{np.mean(right[labels == label]):.3f}" if (labels == label).any() else ""
        for label in range(len(contents.CLASSES))
    )
    falsely = int(np.sum(sure & ~right))
    return f"| {title} | {len(labels)} | {np.mean(right):.3f} | {each} | {np.mean(sure):.2f} | {falsely} |"


def _clinical(shared: Path) -> list[str]:
    lines = []
    for name, volumes in _scans_of_clinics(shared):
        contents.recognise(next(iter(volumes.values())))  # the first one opens the networks
        alone, seconds = {}, []
        for sequence, volume in volumes.items():
            fresh = Volume(volume.data, volume.grid)
            started = time.process_time()
            alone[sequence] = contents.recognise(fresh)
            seconds.append(time.process_time() - started)
        for (sequence, told), joint, took in zip(
            alone.items(), contents.together(alone.values()), seconds, strict=True
        ):
            lines.append(
                f"| {name} | {sequence.title} | {told.words} | {told.sure:.2f} | {joint.words} | {joint.sure:.2f} | "
                f"{1000 * took:.0f} ms |"
            )
    return lines


def _scans_of_clinics(shared: Path) -> Iterable[tuple[str, dict[Sequence, Volume]]]:
    from engine import dicom
    from engine.progress import Progress
    from engine.workshop import Workshop

    for folder in sorted((shared / "clinical").glob("raw_with_skull_*")):
        yield folder.name, {s: nifti.read(p) for s in Sequence if (p := folder / f"{s.value}.nii.gz").exists()}
    with Workshop() as workshop:
        for study in dicom.look([shared / "clinical" / "dicom_three_sequences"], workshop, Progress()):
            files = dicom.subject_files(study, workshop, Progress())
            yield "DICOM, three sequences", {sequence: nifti.read(path) for sequence, path in files.files.items()}


_HEAD = """# Which sequence is it, told from the voxels

Made by `scripts/measure_recognition.py`. Networks of four folds by patient, asked about the patients they never saw,
through the same description that the app uses. Share of scans told right, over all and for each class; "sure" is the
share told with a probability of 0.95 or more, "surely wrong" how many of those were wrong. "Told together": all four
scans of a patient at once, knowing that no two are the same sequence, as files without names are told.

| real patients | scans | right | T1 | T1ce | T2 | FLAIR | other | sure | surely wrong |
|---|---|---|---|---|---|---|---|---|---|"""

_CLINICAL_HEAD = """Scans as they were acquired, with the skull; the network that ships learnt from no such scan:

| patient | is | told alone | probability | told together | probability | processor time |
|---|---|---|---|---|---|---|"""

_WRONG_HEAD = """Told wrong:

| scans | patient | is | told | probability |
|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
