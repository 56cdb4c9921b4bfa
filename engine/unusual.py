"""What in a scan or a result is unlike what the models know, in words: a mask drawn on it would look as sure as any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from engine.inference import Segmentation
from engine.volume import Sequence, Subject, Volume


class Kind(StrEnum):
    """What can be unusual."""

    NOT_A_HEAD = "not a head"
    CT = "CT"
    SMALL_HEAD = "small head"
    MOTION = "motion"
    CUT_OFF = "cut off"
    METAL = "metal"
    CAVITY = "cavity"
    CONTRAST = "contrast"
    NO_TUMOUR = "no tumour"
    UNLIKELY_PLACE = "unlikely place"


@dataclass(frozen=True)
class Doubt:
    """One reason not to trust a result.

    Attributes:
        kind: What is unusual.
        sentence: For the user: what was seen, and what it means for the mask.
        grave: Whether the mask must not be shown or saved without this sentence being read first.
    """

    kind: Kind
    sentence: str
    grave: bool


def look(
    raw: Mapping[Sequence, Volume], subject: Subject, segmentation: Segmentation | None = None
) -> tuple[Doubt, ...]:
    """Look for what is unlike the scans the models know.

    Args:
        raw: The sequences as they were read, each on its own grid.
        subject: As the model sees them: aligned, stripped, on one grid.
        segmentation: What was found; without it, only the scans are looked at.

    Returns:
        What is unusual, the gravest first.
    """
    raise NotImplementedError
