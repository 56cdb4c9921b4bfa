"""What ``gliascope batch`` does and says; the work is `engine.batch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import batch
from engine.batch import Batch, Event, Settings, State
from engine.errors import UserError
from engine.files import shown
from engine.progress import Progress
from engine.volume import Sequence, ml_in_words

if TYPE_CHECKING:
    from rich.table import Table

    from app.cli import _Bar

_REGIONS = {"whole_tumour": "Whole tumour", "tumour_core": "Core"}


def begin(paths: list[Path], out: Path, settings: Settings, progress: Progress) -> Batch:
    """A new batch, or the one that is there already.

    Raises:
        UserError: There are no patients, or the batch that is there was begun with other settings or other patients.
        Cancelled: The user asked to stop.
    """
    if (out / batch.JOB).exists():
        there = Batch.open(out)
        before, now = there.settings.to_json(), settings.to_json()
        asked = bool(paths) or now != Settings().to_json()  # with --out alone it goes on as it was begun
        now["labels"] = now["labels"] or before["labels"]  # told from the truths when the batch was begun
        if asked and before != now:
            differing = ", ".join(sorted(key for key in before if before[key] != now[key]))
            raise UserError(
                f"The batch in {shown(there.out)} was begun with other settings",
                f"other {differing}",
                "Give the same as then, or another folder with --out.",
            )
        for path in paths:
            where = path.absolute()
            if not any(where in (patient.folder, *patient.folder.parents) for patient in there.patients):
                raise UserError(
                    f"The batch in {shown(there.out)} is not of the patients in {shown(where)}",
                    "",
                    "Leave that out to go on with it, or choose another folder with --out.",
                )
        return there
    if not paths:
        raise UserError(f"There is no batch in {shown(out)} to go on with", "", "Name a folder of patients.")
    return Batch.create(batch.plan(paths, settings, progress), out)


def carry_out(going: Batch, progress: _Bar, jobs: int, scheduler: str, say: Callable[[str], None] | None) -> None:
    """Work to the end, a line for each patient.

    Args:
        going: The batch.
        progress: Shown meanwhile.
        jobs: See `Batch.run`.
        scheduler: See `Batch.run`.
        say: Told the lines; None for silence.
    """
    progress.title = "Segmenting"
    total = len(going.patients)

    def hear(event: Event) -> None:
        if say is None or not isinstance(event, batch.Finished | batch.Failed):
            return
        ended = sum(row.state in (State.DONE, State.FAILED, State.SKIPPED) for row in going.rows)
        with progress.aside():
            say(f"{ended} of {total}  {line(event.row)}")

    if say is not None:
        with progress.aside():
            for problem in going.problems:
                say(problem)
    going.run(hear, progress, jobs, scheduler)


def line(row: batch.Row) -> str:
    """One patient in one line."""
    if row.state is State.FAILED:
        return f"{row.name}: {row.error}"
    told = [
        f"{title.lower()} {ml_in_words(row.volumes_ml[r], row.intervals_ml.get(r))}" for r, title in _REGIONS.items()
    ]
    dice = [f"{row.scores[region].dice:.2f}" for region in _REGIONS if region in row.scores]
    scored = f", Dice {' and '.join(dice)}" if dice else ""
    warned = f", {len(row.warnings)} to read" if row.warnings else ""
    return f"{row.name}: {', '.join(told)}{scored}{warned} ({row.seconds:.1f} s)"


def summary_of(going: Batch) -> dict[str, Any]:
    """What ``summary.json`` says, with the rows."""
    rows = [
        {
            "name": row.name,
            "state": row.state.value,
            "sequences": list(row.sequences),
            "used": list(row.used),
            "model": row.model,
            "volumes_ml": dict(row.volumes_ml),
            "intervals_90_percent_ml": {region: list(interval) for region, interval in row.intervals_ml.items()},
            "scores": {region: vars(score) for region, score in row.scores.items()},
            "learnt_from": row.learnt_from,
            "seconds": row.seconds,
            "mask": str(row.mask) if row.mask is not None else None,
            "outputs": {what: str(path) for what, path in row.outputs.items()},
            "warnings": list(row.warnings),
            "error": row.error,
        }
        for row in going.rows
    ]
    return {**batch.summary(going.rows, going.problems), "rows": rows, "out": str(going.out)}


def table(going: Batch) -> Table:
    """All patients, for a terminal."""
    from app.cli import _table

    made = _table("Patient", "State", "Sequences", "Model", "Tumour ml", "Core ml", "Dice WT", "Dice core", "Seconds")
    for row in going.rows:
        sizes = [f"{row.volumes_ml[region]:.1f}" if row.volumes_ml else "" for region in _REGIONS]
        dice = [f"{row.scores[region].dice:.2f}" if row.scores else "" for region in _REGIONS]
        held = " ".join(sequence.title for sequence in Sequence if sequence in row.sequences)
        seconds = f"{row.seconds:.1f}" if row.seconds else ""
        made.add_row(row.name, row.state.value, held, row.model, *sizes, *dice, seconds)
    return made


def told(going: Batch) -> list[str]:
    """What is to be read after the table: what failed, what the scores are worth."""
    said = [f"{row.name}: {row.error}" for row in going.rows if row.state is State.FAILED]
    found = batch.summary(going.rows)
    kinds = (("scores", "that the model had not learnt from"), ("scores_of_all", "in all"))
    for key, whose in kinds:
        if key in found:
            scores = found[key]
            numbers = ", ".join(
                f"{title.lower()} Dice {of['dice_mean']:.3f} and HD95 {of['hd95_mm_mean']:.1f} mm"
                for title, of in ((title, scores[region]) for region, title in _REGIONS.items())
            )
            count = scores["patients"]
            said.append(f"Mean of {count} patient{'s' * (count > 1)} {whose}: {numbers}.")
    if found["learnt_from"]:
        count, scored = len(found["learnt_from"]), sum(bool(row.scores) for row in going.rows)
        was = "was" if count == 1 else "were"
        said.append(
            f"{count} of these {scored} patients {was} in the training set of the model; "
            "their scores say nothing about new patients."
        )
    return said
