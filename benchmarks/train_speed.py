"""Examples a second of a training, against a plain MONAI recipe and against the bare network.

    python -m benchmarks.train_speed COHORT [--cases 8] [--rounds 3] [--threads 1] [--device cpu|cuda]
    python -m benchmarks.train_speed COHORT --processes 2 [--rounds 3]

Three ways take turns in one process, on the same prepared patients, with the same network and optimiser:

- ours: `trainer.loop.fit` as it is, with everything it does at a step;
- MONAI: CacheDataset, DataLoader, the same augmentation as nearly as its own transforms express it, MONAI's loss, fp32;
- bare: forward and backward of the network in bfloat16 on one tensor of random numbers, nothing else.

What MONAI has no transform for (fainter and bolder lesions, sequences left out) it need not do; where there are several
it gets the quicker one: RandSmoothDeformd after RandAffined instead of Rand3DElasticd, RandSmoothFieldAdjustIntensityd
instead of RandBiasFieldd. The cached part of its recipe costs nothing here. A CPU is measured in processor time of all
threads, which other programs disturb less, a GPU by the clock. Quote the ratios: the seconds belong to this computer.

With ``--processes`` a training is shared by so many, and one process alone takes the same batches in as many pieces, in
turns; both are measured by the clock.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from monai import transforms
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset
from monai.data.meta_tensor import MetaTensor
from monai.losses.dice import DiceLoss
from monai.utils.misc import set_determinism
from torch import Tensor, nn
from torch.nn import functional

from engine import networks
from engine.progress import Progress
from engine.volume import Sequence
from trainer import loop
from trainer.config import Distillation, TrainConfig
from trainer.dataset import Case, CaseStore, Examples
from trainer.distillation import DistillationTask, SegmentationTask
from trainer.events import Event, Orders, StepEnd, from_line
from trainer.team import Team

WARM_UP = 5


@dataclass
class Times:
    """Seconds a step of each round, by way."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, way: str, seconds: float) -> None:
        """Note one round."""
        self.rounds.setdefault(way, []).append(seconds)

    def median(self, way: str) -> float:
        """Of all rounds."""
        return statistics.median(self.rounds[way])


def main() -> None:
    """Measure a teacher's and a student's steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="folder of patients with all four sequences and ground truth")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25, help="of one round; ours takes whole reports")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.processes > 1:
        _share(arguments)
        return
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    set_determinism(0)

    with tempfile.TemporaryDirectory() as folder:
        store = CaseStore(arguments.cohort, 2.0, Path(folder) / "prepared")
        names = tuple(store.names()[: arguments.cases])
        teacher = TrainConfig(
            "teacher", "teacher", tuple(Sequence), str(arguments.cohort), names, validate_every=0, threads=1
        )
        student = replace(
            teacher, name="student", role="student", sequences=(Sequence.T1,), distillation=Distillation("teacher")
        )
        cases = [store.load(name) for name in names]
        print("| | ours | MONAI, fp32 | ratio | bare | share of bare |\n|---|---|---|---|---|---|")
        for title, config in (("teacher, four sequences", teacher), ("student of T1, logits", student)):
            times = Times()
            for number in range(arguments.rounds):
                times.add("ours", _ours(config, store, Path(folder) / f"{config.name}{number}", device))
                times.add("monai", _monai(config, cases, device, arguments.steps))
                times.add("bare", _bare(config, device, arguments.steps))
            ours, monai, bare = (times.median(way) for way in ("ours", "monai", "bare"))
            cells = f"{1000 * ours:.0f} | {1000 * monai:.0f} | {monai / ours:.1f} | {1000 * bare:.0f}"
            print(f"| {title}, ms a step | {cells} | {bare / ours:.0%} |")
            pace = " | ".join(f"{1 / seconds:.2f}" for seconds in (ours, monai))
            print(f"| examples a second | {pace} | {monai / ours:.1f} | {1 / bare:.2f} | |", flush=True)


def _share(arguments: argparse.Namespace) -> None:
    """Time one training in one process and in several, and compare their curves."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arguments.processes)]
    paces: dict[int, list[float]] = {1: [], arguments.processes: []}
    curves: dict[int, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = tuple(CaseStore(arguments.cohort, 2.0, Path(folder) / "prepared").names()[: arguments.cases])
        config = TrainConfig(
            "shared",
            "teacher",
            tuple(Sequence),
            str(arguments.cohort),
            names,
            batch=arguments.processes,
            accumulate=arguments.processes,
            steps=3 * loop.REPORT_EVERY,
            warm_up=WARM_UP,
            threads=arguments.threads,
            validate_every=0,
            device=arguments.device,
        )
        path = Path(folder) / "shared.json"
        path.write_text(config.to_json())
        for number in range(arguments.rounds):
            for processes, pace in paces.items():
                words = ["-m", "trainer.run", str(path), str(Path(folder) / f"run-{processes}-{number}")]
                command = [sys.executable, *(torchrun if processes > 1 else []), *words]
                done = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True)
                reports = [event for line in done.stdout.splitlines() if isinstance(event := from_line(line), StepEnd)]
                # The first report holds the steps that set things up.
                pace += [report.seconds_a_step for report in reports[1:]]
                curves[processes] = {report.step: report.loss for report in reports}
    alone, shared = (statistics.median(pace) for pace in paces.values())
    print("| processes | s a step, median | ratio | loss after " + ", ".join(map(str, curves[1])) + " steps |")
    print("|---|---|---|---|")
    for processes, seconds in ((1, alone), (arguments.processes, shared)):
        losses = ", ".join(f"{loss:.4f}" for loss in curves[processes].values())
        print(f"| {processes} | {seconds:.2f} | {alone / seconds:.2f} | {losses} |")


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _tasks(config: TrainConfig, device: torch.device) -> tuple[nn.Module, nn.Module | None]:
    """The network that learns, and the teacher of a student."""
    network = networks.build(*config.network()).to(device)
    if config.distillation is None:
        return network, None
    name, arguments = config.network()
    teacher = networks.build(name, arguments | {"inputs": len(Sequence)}).to(device)
    return network, teacher.eval().requires_grad_(False)


def _ours(config: TrainConfig, store: CaseStore, folder: Path, device: torch.device) -> float:
    """Seconds a step between the first and the last report of a short training."""
    network, teacher = _tasks(config, device)
    task: SegmentationTask | DistillationTask = SegmentationTask(network)
    seen: tuple[Sequence, ...] = ()
    if teacher is not None and config.distillation is not None:
        task, seen = DistillationTask(network, teacher, config.distillation), tuple(Sequence)
    examples = Examples(config, store, device, Progress(), seen)
    folder.mkdir(parents=True)
    reports: list[tuple[int, float]] = []

    def emit(event: Event) -> None:
        if isinstance(event, StepEnd):
            reports.append((event.step, _clock(device)))

    short = replace(config, steps=2 * loop.REPORT_EVERY, warm_up=WARM_UP)
    loop.fit(short, task, examples, None, folder, Team(device), emit, Orders.of(Progress(), emit))
    (first, begun), (last, ended) = reports[0], reports[-1]
    return (ended - begun) / (last - first)


def _monai(config: TrainConfig, cases: list[Case], device: torch.device, steps: int) -> float:
    """Seconds a step of the plain recipe."""
    network, teacher = _tasks(config, device)
    own = [list(Sequence).index(sequence) for sequence in config.sequences]
    # The teacher is shown the place that the student sees, as it is.
    everything = {} if teacher is None else {"teacher": slice(None)}
    items = [
        {name: MetaTensor(case.images[part].astype(np.float32)) for name, part in ({"image": own} | everything).items()}
        | {"label": MetaTensor(case.truth.astype(np.float32))}
        for case in cases
    ]
    dataset = CacheDataset(items, _recipe(config, teacher is not None), progress=False)
    loader = DataLoader(dataset, batch_size=1, shuffle=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    dice = DiceLoss(sigmoid=True, squared_pred=True)
    network.train()

    def endless() -> Iterator[dict[str, MetaTensor]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        batch = next(batches)
        tensors = {name: values.as_tensor().to(device) for name, values in batch.items()}
        truth = tensors["label"]
        logits = network(tensors["image"])
        loss = dice(logits, truth) + functional.binary_cross_entropy_with_logits(logits, truth)
        if teacher is not None and config.distillation is not None:
            t = config.distillation.temperature
            with torch.no_grad():
                target = torch.sigmoid(teacher(tensors["teacher"]) / t)
            softened = functional.binary_cross_entropy_with_logits(logits / t, target)
            loss = loss + config.distillation.weight * t**2 * softened
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), loop.GRADIENT_LIMIT)
        optimiser.step()

    return _timed(step, device, steps)


def _recipe(config: TrainConfig, taught: bool) -> transforms.Compose:
    """Our augmentation in MONAI's transforms; a student's teacher has its images moved along."""
    both, image = ["image", "label", *(["teacher"] if taught else [])], ["image"]
    wanted, window = config.augmentation, config.window
    angle = math.radians(wanted.rotation_degrees)
    shift = wanted.shift_mm / config.spacing_mm
    # As a fraction of the window's half, which is what its grids count in.
    bend = wanted.elastic_mm / config.spacing_mm / (max(window) / 2)
    return transforms.Compose(
        [
            transforms.RandAffined(
                both,
                prob=1.0,
                rotate_range=(angle,) * 3,
                scale_range=(wanted.scaling,) * 3,
                translate_range=(shift,) * 3,
                spatial_size=window,
                mode="bilinear",
                padding_mode="zeros",
            ),
            transforms.RandSmoothDeformd(
                both, spatial_size=window, rand_size=(5, 6, 5), pad=0, prob=1.0, def_range=bend, grid_mode="bilinear"
            ),
            transforms.RandFlipd(both, prob=wanted.flip, spatial_axis=0),
            transforms.CopyItemsd(image, names="brain"),
            transforms.RandSimulateLowResolutiond(image, prob=wanted.blur, zoom_range=(0.5, 1.0)),
            transforms.RandAdjustContrastd(
                image, prob=1.0, gamma=(math.exp(-2 * wanted.contrast), math.exp(2 * wanted.contrast))
            ),
            transforms.RandSmoothFieldAdjustIntensityd(
                image,
                spatial_size=window,
                rand_size=(3, 4, 3),
                pad=0,
                prob=1.0,
                gamma=(math.exp(-wanted.bias_field), math.exp(wanted.bias_field)),
            ),
            transforms.RandGaussianNoised(image, prob=1.0, std=wanted.noise),
            transforms.MaskIntensityd(image, mask_key="brain", select_fn=_not_zero),
            transforms.NormalizeIntensityd(image, nonzero=True, channel_wise=True),
            transforms.RandScaleIntensityd(image, factors=wanted.gain, prob=1.0, channel_wise=True),
            transforms.RandShiftIntensityd(image, offsets=wanted.offset, prob=1.0, channel_wise=True),
            transforms.MaskIntensityd(image, mask_key="brain", select_fn=_not_zero),
            transforms.DeleteItemsd("brain"),
        ]
    )


def _not_zero(image: Tensor) -> Tensor:
    return image != 0


def _bare(config: TrainConfig, device: torch.device, steps: int) -> float:
    """Seconds of forward and backward alone, on random numbers."""
    network, teacher = _tasks(config, device)
    network.train().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    images = torch.randn(1, len(Sequence), *config.window, device=device)
    own = images[:, : len(config.sequences)].contiguous()

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(own)
            if teacher is not None:
                with torch.no_grad():
                    teacher(images)
        logits.float().mean().backward()

    return _timed(step, device, steps)


def _timed(step: Callable[[], None], device: torch.device, steps: int) -> float:
    for _ in range(WARM_UP):
        step()
    begun = _clock(device)
    for _ in range(steps):
        step()
    return (_clock(device) - begun) / steps


if __name__ == "__main__":
    main()
