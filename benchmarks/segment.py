"""Time and peak memory from four .nii.gz files to finished masks, against torch in fp32 with MONAI's sliding window.

    python -m benchmarks.segment CASE_FOLDER MODEL_FOLDER [--repeats 5]

Each run is a fresh process that reads the scans and loads the model from disk. Reading, preparation and the way back
are the same code in both; the reference runs the same weights, windows and mirrored passes in torch. Quote the ratio:
the seconds belong to this computer.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from engine import inference, sequences
from engine.metrics import dice
from engine.model_card import REGIONS, WEIGHTS, ModelCard
from engine.preprocessing import prepare
from engine.progress import Progress
from engine.volume import FloatArray, Grid, LabelMap, Subject


@dataclass(frozen=True)
class Run:
    """What one process reports: seconds by stage, peak resident memory in MB and what it ran on."""

    reading: float
    segmenting: float
    network: float
    process: float
    peak_mb: float
    device: str


def main() -> None:
    """Measure both ways, a fresh process each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, help="folder with the scans of one patient")
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("gliascope", "reference"), help=argparse.SUPPRESS)
    parser.add_argument("--mask", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        _measure(arguments.only, arguments.case, arguments.model, arguments.mask)
        return

    runs: dict[str, list[Run]] = {"gliascope": [], "reference": []}
    masks: dict[str, LabelMap] = {}
    for _ in range(arguments.repeats):
        # In turns, so that whatever else the computer does meets both.
        for way, done in runs.items():
            run, masks[way] = _in_a_process(way, arguments.case, arguments.model)
            done.append(run)
    _print(ModelCard.read(arguments.model), runs, masks)


def _in_a_process(way: str, case: Path, model: Path) -> tuple[Run, LabelMap]:
    with tempfile.TemporaryDirectory() as folder:
        mask = Path(folder) / "mask.npz"
        words = ["-m", "benchmarks.segment", case, model, "--only", way, "--mask", mask]
        started = time.perf_counter()
        done = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True)
        process = time.perf_counter() - started
        loaded = np.load(mask)
        data = loaded["data"]
        label_map = LabelMap(data, Grid(data.shape, loaded["affine"]))
    return Run(process=process, **json.loads(done.stdout.splitlines()[-1])), label_map


def _measure(way: str, case: Path, model: Path, mask: Path) -> None:
    started = time.perf_counter()
    subject = sequences.load(sequences.find_subjects([case])[0])
    read = time.perf_counter()
    card = ModelCard.read(model)
    run = _reference if way == "reference" else _gliascope
    label_map, network_seconds, device = run(subject, card)
    finished = time.perf_counter()
    report = {
        "reading": read - started,
        "segmenting": finished - read,
        "network": network_seconds,
        "peak_mb": _peak_mb(),
        "device": device,
    }
    np.savez_compressed(mask, data=label_map.data, affine=label_map.grid.affine)
    print(json.dumps(report))


def _gliascope(subject: Subject, card: ModelCard) -> tuple[LabelMap, float, str]:
    moments: list[tuple[float, str]] = []
    progress = Progress(lambda _, message: moments.append((time.perf_counter(), message)))
    done = inference.segment(subject, card, progress, device="cpu")
    if "torch" in sys.modules:
        raise RuntimeError("segmenting on the CPU imported torch")
    windows = [n for n, (_, message) in enumerate(moments) if message.startswith("window")]
    network_seconds = moments[windows[-1] + 1][0] - moments[windows[0]][0]
    return done.label_map, network_seconds, f"OpenVINO {done.precision}"


def _reference(subject: Subject, card: ModelCard) -> tuple[LabelMap, float, str]:
    import torch
    from monai.inferers import sliding_window_inference
    from safetensors.torch import load_file

    from engine import networks

    network = networks.build(card.architecture.name, dict(card.architecture.args))
    network.load_state_dict(load_file(card.folder / WEIGHTS))
    network.float().eval()
    prepared = prepare(subject.only(card.sequences), card.preparation)
    started = time.perf_counter()
    flips = _subsets([axis + 2 for axis in card.mirror_axes])
    with torch.inference_mode():
        images = torch.from_numpy(prepared.tensor)[None]
        logits = sum(
            sliding_window_inference(
                images.flip(axes), card.window, 1, network, overlap=inference.OVERLAP, mode="gaussian"
            ).flip(axes)
            for axes in flips
        )
        probabilities = torch.sigmoid(cast("torch.Tensor", logits) / len(flips))[0].numpy()
    network_seconds = time.perf_counter() - started
    maps: FloatArray = prepared.restore(probabilities)
    regions = {region: maps[card.regions.index(region)] for region in REGIONS}
    return inference.to_label_map(regions, card, subject.grid), network_seconds, "torch fp32"


def _subsets(axes: list[int]) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for axis in axes:
        found += [[*subset, axis] for subset in found]
    return found


def _peak_mb() -> float:
    if platform.system() == "Linux":
        # ru_maxrss would count what the parent had before the process became this one.
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import psutil  # type: ignore[import-untyped]

    memory: Any = psutil.Process().memory_info()
    return float(getattr(memory, "peak_wset", memory.rss)) / 2**20


def _print(card: ModelCard, runs: dict[str, list[Run]], masks: dict[str, LabelMap]) -> None:
    print(f"{card.title} {card.version}, window {' x '.join(map(str, card.window))} at {card.spacing_mm:g} mm")
    print(f"{platform.machine()}, {len(runs['gliascope'])} runs each, median (slowest)\n")
    print(f"| | {_title(runs, 'gliascope')} | {_title(runs, 'reference')} | ratio |")
    print("|---|---|---|---|")
    rows = {
        "read the scans, s": "reading",
        "scans in memory to masks, s": "segmenting",
        "of it windows, s": "network",
        "whole process, s": "process",
        "peak memory, MB": "peak_mb",
    }
    for title, field in rows.items():
        ours, theirs = ([float(getattr(run, field)) for run in runs[way]] for way in ("gliascope", "reference"))
        middle, reference = statistics.median(ours), statistics.median(theirs)
        digits = 0 if field == "peak_mb" else 2
        print(
            f"| {title} | {middle:.{digits}f} ({max(ours):.{digits}f}) "
            f"| {reference:.{digits}f} ({max(theirs):.{digits}f}) | {reference / middle:.1f} |"
        )
    ours_map, reference_map = masks["gliascope"], masks["reference"]
    print(
        f"\nDice between the two: whole tumour {dice(ours_map.whole_tumour, reference_map.whole_tumour):.4f}, "
        f"core {dice(ours_map.tumour_core, reference_map.tumour_core):.4f}"
    )


def _title(runs: dict[str, list[Run]], way: str) -> str:
    name = "Gliascope" if way == "gliascope" else "MONAI sliding window"
    return f"{name}, {runs[way][0].device}"


if __name__ == "__main__":
    main()
