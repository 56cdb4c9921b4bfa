"""A model as one file to hand on: ``.gliamodel``, a zip of the model's folder with the hash of everything in it.

Reading one runs nothing, writes nowhere but into the folder of models, and leaves nothing behind where a check fails.
"""

from __future__ import annotations

from pathlib import Path

from engine.errors import BadModel
from engine.model_card import ModelCard
from engine.progress import Progress

SUFFIX = ".gliamodel"


class ModelExists(BadModel):
    """There is a model of that name already; it is replaced only where the user agrees."""


def write(card: ModelCard, path: Path, progress: Progress | None = None) -> Path:
    """Write a model as one file.

    Names of the patients it was trained on stay here: the file gives only how many they were.

    Args:
        card: The model.
        path: The file; its ending is added where it lacks.
        progress: Told how far it is.

    Returns:
        The file.

    Raises:
        BadModel: The model's files are not those its card was written for.
        CannotWrite: The system refused.
    """
    raise NotImplementedError


def read(path: Path, models: Path, replace: bool = False, progress: Progress | None = None) -> ModelCard:
    """Check a model file and put the model among the user's.

    Args:
        path: The file.
        models: Folder of the user's models.
        replace: Whether the user agreed to replace a model of the same name.
        progress: Told how far it is.

    Returns:
        The card of the model in its new place.

    Raises:
        ModelExists: One of that name is there and ``replace`` is not given.
        BadModel: It is no model file, or damaged, or holds what does not belong in one, or is called as one that came
            with Gliascope.
        CannotWrite: The system refused.
        Cancelled: Asked to stop; nothing was changed.
    """
    raise NotImplementedError
