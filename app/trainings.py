"""How the user's trainings stand, in words: plain functions, no Qt; the trainer is imported by whoever runs first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.progress import Progress

if TYPE_CHECKING:
    from trainer.training import Standing, Training


def how_trainings_stand(progress: Progress) -> list[tuple[Training, Standing]]:
    """Every training of the user's and how far it is, the newest first."""
    from trainer.training import trainings

    found = []
    for training in trainings():
        progress.check()
        found.append((training, training.standing()))
    return found


def standing_in_words(standing: Standing) -> str:
    """How far a training is: ``"running, 41 %"``."""
    from trainer.training import State

    if standing.state is State.DONE:
        return "done"
    if standing.state is State.FAILED:
        return "stopped by a failure"
    return f"{standing.state.value}, {round(100 * standing.done)} %"
