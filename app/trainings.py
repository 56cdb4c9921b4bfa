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


def going_on(progress: Progress) -> tuple[Training, str] | None:
    """A training that a process works on, and a sentence that says how far it is; ``None`` where there is none."""
    from trainer.training import State

    for training, standing in how_trainings_stand(progress):
        if standing.state in (State.RUNNING, State.PAUSED):
            what = f"{training.name}, {standing.title}" if standing.title else training.name
            verb = "training goes on" if standing.state is State.RUNNING else "training is paused"
            return training, f"{what}: {verb}, {round(100 * standing.done)} %."
    return None


def standing_in_words(standing: Standing) -> str:
    """How far a training is: ``"running, 41 %"``."""
    from trainer.training import State

    if standing.state is State.DONE:
        return "done"
    if standing.state is State.FAILED:
        return "stopped by a failure"
    return f"{standing.state.value}, {round(100 * standing.done)} %"
