"""Simulated patients: a label map of a head in, four MRI sequences and the truth about a tumour out.

The demo patient, the test fixtures and pre-training come from here, so the pictures follow the physics: relaxation
times of each tissue, the signal equations of the sequences, partial volume, coils, noise and slice thickness. A patient
is made in the order of these modules, each of which explains its own model:

- `space`: where a simulated patient lies, like one of BraTS, and the smooth fields everything is drawn from.
- `anatomy`: the label map's tissues told apart, the brain stripped and levelled, its distances measured.
- `tumour`: where a tumour lies, how it pushes, its core, rim, necrosis and oedema.
- `scanner`: relaxation times, signal equations, and what a scanner does to a signal.
- `contrast`: the signal of every place, with textures and what labels are too coarse for.
- `patient`: all of it together.
"""

from trainer.simulate.anatomy import Anatomy, Tissue, prepare_anatomy
from trainer.simulate.patient import SimulatedPatient, simulate_patient
from trainer.simulate.scanner import (
    RELAXATION,
    Acquisition,
    Relaxation,
    Scanner,
    inversion_recovery,
    spin_echo,
    spoiled_gradient_echo,
)
from trainer.simulate.space import brats_like_grid, jacobian
from trainer.simulate.tumour import TumourOptions

__all__ = [
    "RELAXATION",
    "Acquisition",
    "Anatomy",
    "Relaxation",
    "Scanner",
    "SimulatedPatient",
    "Tissue",
    "TumourOptions",
    "brats_like_grid",
    "inversion_recovery",
    "jacobian",
    "prepare_anatomy",
    "simulate_patient",
    "spin_echo",
    "spoiled_gradient_echo",
]
