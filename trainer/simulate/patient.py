"""A whole patient: the anatomy bent and pushed, the tumour grown, every sequence taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.volume import FloatArray, LabelArray, LabelMap, Subject, Volume
from trainer.simulate.anatomy import Anatomy, prepare_anatomy
from trainer.simulate.contrast import Contrast
from trainer.simulate.scanner import Scanner
from trainer.simulate.space import brats_like_grid
from trainer.simulate.tumour import TumourOptions, grow, place, push


@dataclass(frozen=True, eq=False)
class SimulatedPatient:
    """A patient and the truth about it.

    Attributes:
        subject: The sequences asked for, all on one grid.
        truth: 1 tumour core, 2 rest of the whole tumour.
        tissue: ``(I, J, K)`` uint8 of `Tissue`, with necrosis, enhancing and non-enhancing tumour and oedema.
        healthy: ``(I, J, K)`` uint8 of `Tissue` before the tumour replaced tissue, but already pushed by it.
        displacement_mm: ``(3, I, J, K)`` float32: where a voxel's tissue came from, minus where it is, along the
            patient's world axes.
    """

    subject: Subject
    truth: LabelMap
    tissue: LabelArray
    healthy: LabelArray
    displacement_mm: FloatArray


def simulate_patient(
    labels: LabelMap | Anatomy,
    seed: int,
    tumour: TumourOptions | None = None,
    scanner: Scanner | None = None,
    spacing_mm: float = 1.0,
    variation_mm: float = 0.0,
    name: str = "simulated",
) -> SimulatedPatient:
    """Make a patient with a tumour; on one machine the same arguments give the same patient to the last bit.

    Args:
        labels: FreeSurfer-style labels of a head, or what `prepare_anatomy` made of them (quicker for many patients).
        seed: Decides everything that is drawn.
        tumour: The tumour; drawn by `TumourOptions.random` if ``None``.
        scanner: The scanner and which sequences it takes; drawn by `Scanner.random` if ``None``.
        spacing_mm: Spacing of the output; 2 is much quicker.
        variation_mm: How far the anatomy is bent at random (standard deviation), for more heads than label maps.
        name: What to call the patient.

    Raises:
        ValueError: The label map has no white matter, or no place for the tumour.
    """
    anatomy = labels if isinstance(labels, Anatomy) else prepare_anatomy(labels)
    # One stream a purpose, so that another scanner leaves the anatomy and the tumour as they are.
    draw_kind, draw_place, draw_shape, draw_texture, draw_scan = np.random.default_rng(seed).spawn(5)
    tumour = TumourOptions.random(draw_kind) if tumour is None else tumour
    scanner = Scanner.random(draw_scan) if scanner is None else scanner

    space = anatomy.space(spacing_mm)
    bend = space.bend(variation_mm, draw_place)
    lobes = place(anatomy, space, bend, tumour, draw_place)
    knots = bend + push(lobes, tumour.mass_effect, anatomy, space, bend)
    displacement = np.stack([space.at_voxels(component) for component in knots])
    head = anatomy.placed(space, displacement)
    growth = grow(head, space, lobes, tumour, draw_shape)
    contrast = Contrast(head, growth, space, scanner, draw_texture)

    grid = brats_like_grid(spacing_mm)
    volumes = {}
    for sequence, taken in scanner.acquisitions.items():
        picture = scanner.acquire(contrast.signal(sequence), taken, head.brain, space, draw_scan)
        volumes[sequence] = Volume(space.unfold(picture), grid, sequence)
    return SimulatedPatient(
        Subject(name, volumes),
        LabelMap(space.unfold(growth.truth), grid),
        space.unfold(growth.tissue),
        space.unfold(np.where(head.brain, head.tissue, np.uint8(0))),
        np.stack([space.unfold(component) for component in displacement]),
    )
