"""Train the network that tells sequences from their voxels, and measure it on patients it never saw.

    python -m scripts.measure_recognition fill RUN --shared ../shared --simulated RUNS/simulated-1000 --shards 10
    python -m scripts.measure_recognition train RUN
    python -m scripts.measure_recognition measure RUN --shared ../shared

``fill`` makes examples, ``train`` four networks that each leave out a quarter of the patients and one that leaves out
none and goes to ``assets/recognition``, ``measure`` writes ``docs/results/recognition.md``. Each goes on where it was
stopped. One thread is used.
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
from safetensors.torch import load_file, save_file

from engine import contents, nifti
from engine.volume import FloatArray, LabelMap, Sequence, Volume
from trainer import recognition, shift
from trainer.recognition import Bank, Brain, Fitting, Head, Recogniser

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
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--real-share", type=float, default=0.62)
    arguments = parser.parse_args()
    _one_thread()
    if arguments.what == "fill":
        _fill(arguments)
    elif arguments.what == "train":
        _train(arguments.run, arguments.shared)
    else:
        _measure(arguments.run, arguments.shared)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


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


# --- networks ---------------------------------------------------------------------------------------------------------


def _learnt_from(run: Path, shared: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The bank, and each real scan as it is: descriptions, classes, patients."""
    described, labels, patients = Bank(run / "bank").load()
    plain = _tests(run, "plain", shared, _as_they_are)
    return (
        np.concatenate([described, np.rint(plain.described * 255).astype(np.uint8)]),
        np.concatenate([labels, plain.labels]),
        np.concatenate([patients, plain.patients]),
    )


def _fold_of(patients: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each patient: shuffled once, the same for all sequences of a patient."""
    order = np.random.default_rng(SEED).permutation(40)
    return np.where(patients >= 0, order[patients] % FOLDS, -1)


def _trained(
    path: Path, start: Path | None, fitting: Fitting, seed: int, data: tuple[NDArray, ...], which: NDArray[np.int64]
) -> Recogniser:
    network = Recogniser()
    if path.exists():
        network.load_state_dict(load_file(path))
        return network
    if start is not None:
        network.load_state_dict(load_file(start))
    _say(f"{path.stem}: {len(which)} examples")
    recognition.fit(network, data[0], data[1], which, fitting, seed, _say)
    save_file(network.state_dict(), path)
    return network


def _train(run: Path, shared: Path) -> None:
    described, labels, patients = _learnt_from(run, shared)
    data = (described, labels)
    folds = _fold_of(patients)
    start = run / "simulated.safetensors"
    _trained(start, None, Fitting(passes=8), 0, data, np.flatnonzero(patients == recognition.SIMULATED))
    logits, truth = [], []
    for fold in range(FOLDS):
        network = _trained(
            run / f"fold-{fold}.safetensors", start, Fitting(passes=6), 1 + fold, data, np.flatnonzero(folds != fold)
        )
        held_out = np.flatnonzero(folds == fold)
        said = recognition.logits_of(network, described[held_out])
        _say(f"fold {fold}: {np.mean(said.mean(1).argmax(1) == labels[held_out]):.3f} of {len(held_out)} right")
        logits.append(said)
        truth.append(labels[held_out])
    temperature = recognition.best_temperature(np.concatenate(logits), np.concatenate(truth))
    final = _trained(run / "final.safetensors", start, Fitting(passes=6), 99, data, np.arange(len(labels)))
    recognition.publish(
        final,
        temperature,
        {"data": DATA, "examples": len(labels), "measured": "docs/results/recognition.md, four folds by patient"},
        contents.SHIPPED,
    )
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


def _scanned_again(run: Path, shared: Path) -> Iterable[tuple[Volume, int, int]]:
    for number, folder in enumerate(_patients(shared)):
        for label, sequence in enumerate(Sequence):
            rng = np.random.default_rng([7, number, label])
            volume = _read(folder, sequence)
            yield shift.rescan(volume, shift.draw(rng), rng), label, number


def _in_heads(run: Path, shared: Path) -> Iterable[tuple[Volume, int, int]]:
    heads = _heads(run, shared, range(HEADS_LEARNT, 20))
    for number in range(len(_patients(shared))):
        brain = _brain(run, shared, number)
        for label, sequence in enumerate(Sequence):
            rng = np.random.default_rng([8, number, label])
            head = heads[int(rng.integers(len(heads)))]
            yield recognition.example(brain, sequence.value, head, rng), label, number


def _measure(run: Path, shared: Path) -> None:
    folders = _patients(shared)

    networks = []
    for fold in range(FOLDS):
        network = Recogniser()
        network.load_state_dict(load_file(run / f"fold-{fold}.safetensors"))
        networks.append(network)
    temperature = float(contents._card(contents.SHIPPED)["temperature"])
    lines = [_HEAD]
    wrong: list[str] = []
    for name, title, make in (
        ("plain", "as they are: stripped, 1 mm", _as_they_are),
        ("again", "stripped and scanned again by `trainer.shift`", _scanned_again),
        ("heads", "in a simulated head that was in no training, scanned again, some cut off", _in_heads),
    ):
        tests = _tests(run, name, shared, make)
        folds = _fold_of(tests.patients)
        shares = np.zeros((len(tests.labels), len(contents.CLASSES)))
        for fold, network in enumerate(networks):
            here = np.flatnonzero(folds == fold)
            said = recognition.logits_of(network, tests.described[here]) / temperature
            raised = np.exp(said - said.max(axis=2, keepdims=True))
            shares[here] = (raised / raised.sum(axis=2, keepdims=True)).mean(axis=1)
        lines.append(_row(title, shares, tests.labels))
        for place in np.flatnonzero(shares.argmax(1) != tests.labels):
            wrong.append(
                f"| {title} | {folders[tests.patients[place]].name} | {contents.CLASSES[tests.labels[place]]} | "
                f"{contents.CLASSES[shares[place].argmax()]} | {shares[place].max():.2f} |"
            )
    described, labels, patients = Bank(run / "bank").load()
    folds = _fold_of(patients)
    others = np.flatnonzero((folds >= 0) & (labels == len(Sequence)))
    shares = np.zeros((len(others), len(contents.CLASSES)))
    for fold, network in enumerate(networks):
        here = np.flatnonzero(folds[others] == fold)
        said = recognition.logits_of(network, described[others[here]]) / temperature
        raised = np.exp(said - said.max(axis=2, keepdims=True))
        shares[here] = (raised / raised.sum(axis=2, keepdims=True)).mean(axis=1)
    lines.append(_row("none of the four, made up from held-out patients", shares, labels[others]))
    lines += ["", _CLINICAL_HEAD, *_clinical(shared), "", _WRONG_HEAD, *(wrong or ["| none | | | | |"]), ""]
    Path("docs/results/recognition.md").write_text("\n".join(lines), encoding="utf-8")
    _say("\n".join(lines))


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
    for path in sorted((shared / "clinical").glob("raw_with_skull_*/*.nii.gz")):
        volume = nifti.read(path)
        contents.recognise(volume)  # the first one opens the network
        started = time.perf_counter()
        told = contents.recognise(volume)
        seconds = time.perf_counter() - started
        lines.append(
            f"| {path.parent.name} | {nifti.stem(path)} | {told.words} | {told.sure:.3f} | {1000 * seconds:.0f} ms |"
        )
    return lines


_HEAD = """# Which sequence is it, told from the voxels

Made by `scripts/measure_recognition.py`. Networks of four folds by patient, each asked about the patients it never saw,
through the same description that the app uses. Share of scans told right, over all and for each class; "sure" is the
share told with a probability of 0.95 or more, "surely wrong" how many of those were wrong.

| real patients | scans | right | T1 | T1ce | T2 | FLAIR | other | sure | surely wrong |
|---|---|---|---|---|---|---|---|---|---|"""

_CLINICAL_HEAD = """Scans as they were acquired, with the skull; the network that ships learnt from no such scan:

| patient | is | told | probability | time |
|---|---|---|---|---|"""

_WRONG_HEAD = """Told wrong:

| scans | patient | is | told | probability |
|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
