"""Registration, brain finding and N4 that are quick and exact on phantoms, in place of the real ones.

They make what stands on the steps testable; the real ones have tests of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from engine import alignment, bias, brain, pipeline, sequences
from engine.progress import Progress
from engine.volume import Affine, Grid, LabelMap, Mask, Sequence, Volume
from tests.engine import phantoms

T1, T1CE, T2, FLAIR = Sequence
SKULL = 990.0


def rigid(degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = phantoms.rotation(degrees)
    matrix[:3, 3] = shift
    return matrix


# Where each scan was put by mistake: world of the head -> world of the file.
ASTRAY = {T2: rigid((4.0, 0.0, 8.0), (6.0, -3.0, 2.0)), FLAIR: rigid((0.0, -5.0, 0.0), (-4.0, 0.0, 5.0))}


class Called(Counter[str]):
    """How often each stand-in worked."""


def install(monkeypatch: pytest.MonkeyPatch) -> Called:
    """Registration that knows where the scans were put, a brain that is what is no skull, and a doubling N4.

    Returns:
        How often each of them worked, counted on.
    """
    calls = Called()

    def align(
        moving: Volume, reference: Volume, progress: Progress, start: Affine | None = None
    ) -> alignment.Alignment:
        progress.check()
        assert moving.sequence is not None
        calls[f"align {moving.sequence.value}"] += 1
        matrix = np.linalg.inv(ASTRAY.get(moving.sequence, np.eye(4)))
        already = moving.sequence not in ASTRAY
        return alignment.Alignment(matrix, already, 1.0, 1.0, 0.9, "poor: do not trust it" if already else "good", 0.1)

    def already_aligned(volumes: Iterable[Volume]) -> bool:
        calls["already"] += 1
        return all(volume.sequence not in ASTRAY for volume in volumes)

    def working_grid(volumes: Mapping[Sequence, Volume], reference: Sequence) -> Grid:
        calls["grid"] += 1
        assert reference in volumes
        return phantoms.grid("RAS", (40, 40, 40))

    def onto(volume: Volume, grid: Grid) -> Volume:
        assert volume.sequence is not None
        calls[f"onto {volume.sequence.value}"] += 1
        return sequences.resample(volume, grid)

    def is_stripped(volume: Volume) -> bool:
        return bool(volume.data.max() < SKULL)

    def find_brain(volumes: Iterable[Volume], progress: Progress) -> Mask:
        calls["brain"] += 1
        first = next(iter(volumes))
        found: Mask = (first.data > 0) & (first.data < SKULL / 2)
        return found

    def strip(volume: Volume, mask: Mask) -> Volume:
        return replace(volume, data=np.where(mask, volume.data, 0).astype(np.float32))

    def correct(volume: Volume, inside: Mask, progress: Progress) -> Volume:
        progress.check()
        assert volume.sequence is not None
        calls[f"bias {volume.sequence.value}"] += 1
        return replace(volume, data=volume.data * 2)

    monkeypatch.setattr(alignment, "align", align)
    monkeypatch.setattr(alignment, "already_aligned", already_aligned)
    monkeypatch.setattr(alignment, "working_grid", working_grid)
    monkeypatch.setattr(alignment, "onto", onto)
    monkeypatch.setattr(alignment, "reference_of", lambda volumes: next(iter(volumes)))
    monkeypatch.setattr(bias, "correct", correct)
    monkeypatch.setattr(pipeline, "BIAS_HELPS", True)
    monkeypatch.setattr(brain, "is_stripped", is_stripped)
    monkeypatch.setattr(brain, "find_brain", find_brain)
    monkeypatch.setattr(brain, "strip", strip)
    return calls


def raw_head(sequence: Sequence, grid: Grid, skull: bool = True) -> Volume:
    """The phantom where its file puts it, in a shell of bright bone."""
    there = ASTRAY.get(sequence, np.eye(4))
    true = Grid(grid.shape, np.linalg.inv(there) @ grid.affine)
    volume = phantoms.head(true, sequence)
    data = volume.data
    if skull:
        x, y, z = (true.to_world(np.indices(grid.shape).reshape(3, -1).T) - (3.0, -5.0, 7.0)).T
        radius = np.sqrt((x / 10.5) ** 2 + (y / 12.5) ** 2 + (z / 8.5) ** 2).reshape(grid.shape)
        data = np.where((radius > 1.1) & (radius < 1.35), np.float32(SKULL), data)
    return Volume(data, grid, sequence)


def truth(sequence: Sequence, grid: Grid) -> LabelMap:
    true = Grid(grid.shape, np.linalg.inv(ASTRAY.get(sequence, np.eye(4))) @ grid.affine)
    return LabelMap(phantoms.tumour(true).data, grid)
