"""The command ``gliascope``: the same engine as the window, for scripts, clusters and machines without a screen.

Answers go to stdout, everything else to stderr. Exit codes: 0 done; 2 something the user can mend, told in one
sentence; 130 interrupted. Everything heavy is imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app import DEMO
from engine.errors import Cancelled, CannotWrite, ChooseVolume, SequenceProblem, UserError
from engine.files import whole_file
from engine.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

    from app.cohort import CohortScores
    from engine import provenance
    from engine.flow import Models, Patient
    from engine.nifti import Convention
    from engine.outputs import Wanted
    from engine.pipeline import Settings
    from engine.registry import Choice, Listing
    from engine.volume import Sequence
    from trainer.doctor import Report

REGION_TITLES = {"whole_tumour": "Whole tumour", "tumour_core": "Core"}
STEP_TITLES = {"align": "Aligned", "grid": "One grid", "strip": "Stripped", "bias": "Evened out"}
OUTPUT_TITLES = {
    "working_mask": "Mask on the common grid",
    "probability_whole_tumour": "Probability of whole tumour",
    "probability_tumour_core": "Probability of core",
    "surface_whole_tumour": "Surface of whole tumour",
    "surface_tumour_core": "Surface of core",
    "table_csv": "Table",
    "table_json": "Table in JSON",
    "report": "Report",
    "figure": "Figure sheet",
    "dicom_seg": "DICOM segmentation, with the patient's name and number",
}

gliascope = typer.Typer(
    name="gliascope",
    help="Outlines a brain tumour on whatever MRI sequences a patient has. Research use only.",
    epilog="gliascope [PATH]... opens the app on files or folders. "
    "Exit codes: 0 done, 2 something you can mend, 130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    subcommand_metavar="[PATH]... | COMMAND [OPTIONS]",
)

Device = Literal["auto", "cpu", "cuda"]
PathsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...", help="Files of one patient, or folders, a patient each; DICOM and zip files too."
    ),
]
ModelOption = Annotated[str, typer.Option("--model", help="A model's name, or auto for the best one there is.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="What to compute on.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON on stdout.")]


def main(words: list[str] | None = None) -> int:
    """Run one command.

    Args:
        words: What follows ``gliascope``; from the command line when not given.

    Returns:
        The exit code.
    """
    sys.excepthook = _report_a_bug
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name need not be text in this terminal's encoding; escaped it is still valid JSON.
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if words is None else words)
    if words[:1] == ["--self-test"]:  # as one says it to a program that is double-clicked otherwise
        words[0] = "self-test"
    run = typer.main.get_command(gliascope)
    if not words or (words[0] not in _names() and not words[0].startswith("-")):
        words = ["open", *words]
    try:
        code = run.main(args=words, prog_name="gliascope", standalone_mode=False)
    except UserError as error:
        say(str(error))
        return 2
    except MemoryError:
        say("There is too little memory for this. Close other programs and try again.")
        return 2
    except typer.TyperException as error:
        say(f"{error.format_message().rstrip('.')}. See gliascope --help.")
        return 2
    except (Cancelled, KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # typer makes the same of a KeyboardInterrupt
        say("Stopped. Nothing half-written was left behind.")
    return int(code or 0)


def _names() -> set[str]:
    return {str(command.name) for command in gliascope.registered_commands}


def say(sentence: str) -> None:
    """One line on stderr."""
    typer.echo(sentence, err=True)


# --- the commands -----------------------------------------------------------------------------------------------------


def _show_version(wanted: bool) -> None:
    if wanted:
        from engine.provenance import version

        typer.echo(f"gliascope {version()}")
        raise typer.Exit


@gliascope.callback()
def _gliascope(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@gliascope.command("open", hidden=True)
def open_window(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="Files or folders to open.")] = None,
) -> int:
    """Open the app."""
    for path in paths or []:
        if not os.path.exists(path):  # where `Path.exists` raises for names too long or folders closed to us
            raise UserError(f"{path} is neither a command of gliascope nor a file or folder here", "", _meant(path))
    _require_screen(f"gliascope segment {paths[0] if paths else 'PATH'} --out DIR")
    from app import application

    return application.run(paths or [])


@gliascope.command("segment")
def segment(
    paths: PathsArgument = [],  # noqa: B006 - typer copies it
    out: Annotated[Path, typer.Option("--out", help="Folder for masks and sidecars; made when it is not there.")] = ...,  # type: ignore[assignment]
    model: ModelOption = "auto",
    device: DeviceOption = "auto",
    t1: Annotated[Path | None, typer.Option("--t1", help="This file is the T1.")] = None,
    t1ce: Annotated[Path | None, typer.Option("--t1ce", help="This file is the T1 with contrast.")] = None,
    t2: Annotated[Path | None, typer.Option("--t2", help="This file is the T2.")] = None,
    flair: Annotated[Path | None, typer.Option("--flair", help="This file is the FLAIR.")] = None,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample", help="Bring sequences of different grids onto the finest one by their headers, unaligned."
        ),
    ] = False,
    dicom: Annotated[
        list[Path] | None,
        typer.Option("--dicom", metavar="DIR", help="A DICOM export: a folder, a zip file, or one of its files."),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="What to call the one patient; DICOM is called patient otherwise.")
    ] = "",
    no_align: Annotated[
        bool, typer.Option("--no-align", help="Leave every sequence where its header puts it.")
    ] = False,
    no_strip: Annotated[bool, typer.Option("--no-strip", help="Leave the skull on.")] = False,
    bias: Annotated[
        bool | None,
        typer.Option("--bias/--no-bias", help="Divide slow changes of brightness out, or leave them in as usual."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of whole tumour and core too.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Write volumes, diameters and lesions as CSV and JSON too.")
    ] = False,
    stl: Annotated[bool, typer.Option("--stl", help="Write the surfaces of whole tumour and core too.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write a page of pictures, numbers and limits as PDF too.")
    ] = False,
    figure: Annotated[
        bool, typer.Option("--figure", help="Write the largest slices with outlines for print as PNG too.")
    ] = False,
    title: Annotated[
        str, typer.Option("--title", help="What report and figure are headed with; they name nobody otherwise.")
    ] = "",
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg", help="Of DICOM, write a DICOM segmentation too; it carries the patient's name and number."
        ),
    ] = False,
    on_grid: Annotated[
        Literal["", "t1", "t1ce", "t2", "flair", "working"],
        typer.Option(
            "--grid",
            help="Whose grid probabilities and DICOM segmentation lie on; working, with a mask too, is the common one.",
        ),
    ] = "",
    volume: Annotated[
        int | None, typer.Option("--volume", min=1, help="Of a file that holds several volumes, take this one.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Segment patients; writes NAME_seg.nii.gz and NAME_seg.json for each.

    Scans as they leave the scanner are aligned, stripped of the skull and evened out first, and those on other grids
    get a mask of their own, NAME_t2_seg.nii.gz. One patient that fails does not stop the others; the exit code is then
    2.
    """
    from engine import flow
    from engine.outputs import WORKING, Wanted
    from engine.pipeline import Settings, Switch
    from engine.volume import Sequence
    from engine.workshop import Workshop

    place = WORKING if on_grid == WORKING else Sequence(on_grid) if on_grid else None
    wanted = Wanted(
        probabilities, dicom_seg, surfaces=stl, table=table, grid=place, report=report, figure=figure, title=title
    )
    named = {s: path for s, path in zip(Sequence, (t1, t1ce, t2, flair), strict=True) if path is not None}
    if not paths and not named and not dicom:
        raise UserError("There is nothing to segment", "", "Name files of one patient, or folders, a patient each.")
    align, strip = (Switch.OFF if no else Switch.AUTO for no in (no_align or resample, no_strip))
    evened = Switch.AUTO if bias is None else Switch.ON if bias else Switch.OFF
    settings = Settings(align=align, strip=strip, bias=evened)
    done: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_progress("Segmenting"))
        patients, problems = flow.find(paths, lambda: stack.enter_context(Workshop()), dicom or [], progress)
        if named:
            patients = [_with_named(patients, named)]
        if name and len(patients) == 1:
            patients = [replace(patients[0], name=name)]
        elif name:
            raise UserError(f"{len(patients)} patients cannot all be called {name}", "", "Segment one at a time.")
        failed = [{"name": "", "error": str(problem)} for problem in problems]
        models = flow.Models(None if model == "auto" else model, device)
        with progress.aside():
            for problem in (*problems, *models.problems):
                say(str(problem))
        taken: dict[str, Patient] = {}
        for number, patient in enumerate(patients):
            part = progress.part(number / len(patients), (number + 1) / len(patients))
            progress.title = f"{patient.name} ({number + 1} of {len(patients)})" if len(patients) > 1 else patient.name
            try:
                _refuse_same_name(patient, taken)
                done.append(_segment_one(patient, models, out, settings, part, resample, volume, wanted))
            except UserError as told:
                error = _in_our_words(told)
                failed.append({"name": patient.name, "error": str(error)})
                with progress.aside():
                    say(str(error) if len(patients) == 1 else f"{patient.name}: {error}")
            else:
                if not as_json:
                    with progress.aside():
                        _tell(done[-1])
    if as_json:
        _answer({"subjects": done, "failed": failed})
    return 2 if failed else 0


@gliascope.command("follow-up")
def follow_up(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DATE...", help="The scans of each date: folders, or files named by date; DICOM too."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for numbers, plot and maps; made when it is not there.")],
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", help="What to call a date in outputs; once for each, the earliest first."),
    ] = None,
    only: Annotated[
        str, typer.Option("--sequences", help="Take these alone at every date, such as flair, so that masks compare.")
    ] = "",
    baseline: Annotated[
        int, typer.Option("--baseline", min=1, help="Which date changes are told from; the earliest is 1.")
    ] = 1,
    model: ModelOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> int:
    """Compare dates of one patient: volumes over time, what grew and shrank, percentages by RANO 2.0.

    Dates are put in order by the days in their names or headers, or are taken in the order given. A saved mask of the
    very same scans, such as a corrected one, is used where it lies beside them or its folder is given too.
    """
    from engine import flow, rano
    from engine import follow_up as engine_follow_up
    from engine import follow_up_files as files
    from engine.workshop import Workshop

    wanted = _sequences(only)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_progress("Follow-up"))
        dates, problems = files.find(paths, lambda: stack.enter_context(Workshop()), progress.part(0.0, 0.02))
        if problems:
            raise problems[0]
        if labels and len(labels) != len(dates):
            raise UserError(f"{len(labels)} names do not fit {len(dates)} dates", "", "Give --label once for each.")
        if baseline > len(dates):
            raise UserError(f"There is no date {baseline}", f"{len(dates)} were found", "Choose another --baseline.")
        models = flow.Models(None if model == "auto" else model, device)
        points = []
        for number, date in enumerate(dates):
            progress.title = f"Date {number + 1} of {len(dates)}"
            part = progress.part(0.02 + 0.8 * number / len(dates), 0.02 + 0.8 * (number + 1) / len(dates))
            points.append(files.read(date, models, part, wanted))
        progress.title = "Follow-up"
        made = engine_follow_up.compare(points, progress.part(0.82, 0.95), baseline - 1)
        if labels:
            made = made.renamed(labels)
        written = files.write(made, out, progress=progress.part(0.95, 1.0))
    values = files.as_json(made)
    if as_json:
        _answer({**values, "outputs": {what: str(path.resolve()) for what, path in written.items()}})
        return 0
    table = _table("Date", "Model", *(f"{title} ml" for title in ("Tumour", "Core")), "Since baseline", "Core since")
    for number, name in enumerate(made.titles):
        point = made.visits[number].point
        courses = [made.course(region, rano.Measure.VOLUME) for region in REGION_TITLES]
        sizes = [f"{course.values[number]:.1f}" for course in courses]
        table.add_row(name, point.made_by, *sizes, *(rano.percent(c.against_baseline(number)) for c in courses))
    _print(table)
    for sentence in (*made.findings(), *made.doubts(), *rano.NOT_JUDGED):
        typer.echo(sentence)
    for path in written.values():
        typer.echo(f"  {path.resolve()}")
    return 0


@gliascope.command("verify")
def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Masks, other outputs, their .json files, or folders of them."),
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Option("--inputs", metavar="DIR", help="Where the scans are; around the result if not given."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Segment once more from the same scans and compare every voxel.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Compare saved results, the scans and the model they were made from with what was recorded.

    The exit code is 2 when anything was changed or is missing.
    """
    from engine import provenance

    records = [one for path in paths for one in provenance.find_records(path)]
    places = inputs or []
    for place in places:
        if not place.exists():
            raise UserError(f"{place} is not there", "", "Name the folder of the scans with --inputs.")
    reports: list[provenance.Report] = []
    failed: list[dict[str, str]] = []
    repeated = provenance.Repeated()
    with _progress("Verifying") as progress:
        for number, path in enumerate(records):
            part = progress.part(number / len(records), (number + 1) / len(records))
            progress.title = path.name
            try:
                report = provenance.verify(path, places, again, part, repeated)
            except UserError as error:
                failed.append({"path": str(path), "error": str(error)})
                with progress.aside():
                    say(str(error))
                continue
            reports.append(report)
            if not as_json:
                with progress.aside():
                    _tell_verified(report)
    if as_json:
        _answer({"verified": [report.to_json() for report in reports], "failed": failed})
    lacking = any(report.lacks_scans for report in reports) and not places
    if lacking:
        say("Say where the scans are with --inputs and their folder.")
    return 0 if reports and not failed and all(report.ok for report in reports) else 2


def _tell_verified(report: provenance.Report) -> None:
    typer.echo(f"{report.path.name}: {report.sentence}")
    for item in report.items:
        typer.echo(f"  {item.state.value.capitalize():<13} {item.sentence}")
    for note in report.notes:
        typer.echo(f"  {note}")


@gliascope.command("models")
def list_models(
    as_json: JsonOption = False,
    take_in: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Take in a model from a .gliamodel file.")
    ] = None,
    hand_on: Annotated[str, typer.Option("--export", metavar="NAME", help="Write a model as one file.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="With --export: the file; NAME.gliamodel if not given.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --import: replace a model of the same name.")
    ] = False,
) -> int:
    """List the models there are, and which is used for which sequences; Dice and HD95 on patients they had not seen.

    Or take one in from a file that somebody handed on, or write one as such a file.
    """
    from engine import model_file, registry

    if take_in is not None:
        with _progress(f"Taking in {take_in.name}") as progress:
            try:
                card = model_file.read(take_in, registry.folders()[-1], replace, progress)
            except model_file.ModelExists as error:
                raise model_file.ModelExists(
                    error.what, error.why, "Take it in with --replace to replace that one."
                ) from error
        typer.echo(f"{card.name}, the {card.title}: {card.folder}")
        return 0
    if hand_on:
        with _progress(f"Writing {hand_on}") as progress:
            path = model_file.write(registry.find(hand_on), out or Path(f"{hand_on}{model_file.SUFFIX}"), progress)
        typer.echo(str(path.resolve()))
        return 0
    listing = registry.list_models()
    choices = _choices(listing)
    if as_json:
        cards = [{**card.to_json(), "folder": str(card.folder)} for card in listing.models]
        by_sequences = [_choice_record(present, choice) for present, choice in choices.items()]
        problems = [str(problem) for problem in listing.problems]
        _answer({"models": cards, "by_sequences": by_sequences, "problems": problems})
    else:
        table = _table("Name", "Sequences", "Role", "Dice WT", "Dice core", "Patients", "Version")
        for card in listing.models:
            any_of = "any of " if card.any_subset else ""
            scores = card.scores(card.sequences)
            numbers = [f"{scores[r].dice_mean:.2f}" for r in REGION_TITLES] if scores else ["not measured", ""]
            patients = str(card.evaluation.patients) if card.evaluation else ""
            row = (f"{any_of}{_titles(card.sequences)}", card.role.value, *numbers, patients, card.version)
            table.add_row(card.name, *row)
        _print(table)
        _print(_choice_table(choices))
    for problem in listing.problems:
        say(str(problem))
    return 2 if listing.problems else 0


@gliascope.command("evaluate")
def evaluate(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="A cohort, a folder a patient, with truth.")],
    only: Annotated[
        str, typer.Option("--sequences", help="Pretend these are all there is, such as t1 or t1,flair.")
    ] = "",
    model: ModelOption = "auto",
    device: DeviceOption = "auto",
    labels: Annotated[
        str, typer.Option("--labels", help="Convention of the truth's labels, where it cannot be told.")
    ] = "",
    table_file: Annotated[Path | None, typer.Option("--csv", help="Write a line a patient and region here.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Measure Dice and HD95 on patients with a ground truth, each segmented as if it were new."""
    from app import cohort
    from engine import flow, sequences

    wanted = _sequences(only)
    convention = _convention(labels)
    cases = sequences.with_truth(folders)
    models = flow.Models(None if model == "auto" else model, device)
    for problem in models.problems:
        say(str(problem))
    with _progress(f"{len(cases)} patients") as progress:
        scores = cohort.evaluate(cases, models, wanted, convention, progress)
    if as_json:
        _answer(scores.to_json())
    elif scores.cases:
        _print(_score_table(scores))
    if table_file is not None:  # last: hours of scores must not be lost to a folder that cannot be written to
        with whole_file(table_file) as partial:
            table_file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(scores.to_csv(), encoding="utf-8", newline="")
    for case in scores.failed:
        say(f"{case.name}: {case.error}")
    if scores.learnt_from:
        was, its = ("was", "its") if len(scores.learnt_from) == 1 else ("were", "their")
        say(
            f"{len(scores.learnt_from)} of these {len(scores.cases)} patients {was} in the training set of the model; "
            f"{its} scores say nothing about new patients."
        )
    return 2 if scores.failed else 0


@gliascope.command("batch")
def batch(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR]...", help="Folders of patients, NIfTI, BIDS or DICOM; left out to go on."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the batch; one begun there is gone on with.")] = ...,  # type: ignore[assignment]
    retry: Annotated[bool, typer.Option("--retry", help="Let those that failed have another turn.")] = False,
    only: Annotated[
        str, typer.Option("--sequences", help="Look at these alone where they are, such as t1 or t1,flair.")
    ] = "",
    model: ModelOption = "auto",
    device: DeviceOption = "auto",
    labels: Annotated[
        str, typer.Option("--labels", help="Convention of the labels of truths, where it cannot be told.")
    ] = "",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of whole tumour and core too.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Write volumes, diameters and lesions of each patient too.")
    ] = False,
    stl: Annotated[bool, typer.Option("--stl", help="Write the surfaces of whole tumour and core too.")] = False,
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg", help="Of DICOM, write a DICOM segmentation too; it carries the patient's name and number."
        ),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write a page of pictures, numbers and limits of each patient as PDF too.")
    ] = False,
    figure: Annotated[
        bool, typer.Option("--figure", help="Write the largest slices of each patient with outlines as PNG too.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", min=0, help="Processes side by side; one for each processor core if not given.")
    ] = 0,
    scheduler: Annotated[
        str, typer.Option("--scheduler", metavar="ADDRESS", help="Work on this Dask cluster, such as tcp://host:8786.")
    ] = "",
    as_json: JsonOption = False,
) -> int:
    """Segment hundreds of patients; a folder each, and a table of all.

    Run again with the same --out it goes on where it stopped, however it was stopped. One patient that fails does not
    stop the others; the exit code is then 2. Where there is a ground truth, Dice and HD95 are told.
    """
    from app import batch_command
    from engine.batch import Settings
    from engine.outputs import Wanted

    settings = Settings(
        sequences=_sequences(only) or (),
        model="" if model == "auto" else model,
        device=device,
        wanted=Wanted(probabilities, dicom_seg, surfaces=stl, table=table, report=report, figure=figure),
        labels=_convention(labels),
    )
    with _progress("Looking for patients") as progress, _stops_on_request(progress.cancel):
        going = batch_command.begin(paths or [], out, settings, progress)
        if retry:
            going.retry()
        batch_command.carry_out(going, progress, jobs, scheduler, None if as_json else say)
    summary = batch_command.summary_of(going)
    if as_json:
        _answer(summary)
    else:
        _print(batch_command.table(going))
        for sentence in batch_command.told(going):
            say(sentence)
        typer.echo(f"Table: {going.out / 'summary.csv'}")
    return 2 if summary["failed"] or summary["problems"] else 0


@gliascope.command("check")
def check(
    data: Annotated[
        Path, typer.Argument(metavar="PATH", help="A cohort: its folder, a table (.csv), or a patients.json.")
    ],
    labels: Annotated[
        str, typer.Option("--labels", help="Convention of the labels of those masks that do not tell it.")
    ] = "",
    usable_only: Annotated[
        bool, typer.Option("--usable-only", help="Leave out the patients that cannot be learnt from as they are.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the patients and what was decided here.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Look for what is wrong with the patients of a training; the scans are never changed.

    The exit code is 2 when a patient cannot be learnt from as things are.
    """
    from trainer import doctor
    from trainer.patients import Patients

    convention = _convention(labels)
    patients = Patients.read(data)
    with _progress(f"{len(patients)} patients") as progress:
        report = doctor.examine(patients, progress)
        if convention is not None:
            wanted = f"labels:{convention.value}"
            for finding in report.findings:
                for repair in finding.repairs:
                    if repair.key == wanted:
                        patients = doctor.apply(patients, finding, repair)
            report = doctor.examine(patients, progress, before=report)
        if usable_only:
            for name in {patient.name for patient in report.patients if patient.included and not patient.usable}:
                patients = doctor.leave_out(patients, name)
            report = doctor.examine(patients, progress, before=report)
    if out is not None:
        patients.write(out)
    here = [patient for patient in report.patients if patient.included]
    if as_json:
        _answer(report.to_json())
    else:
        _print(_patients_table(report))
        for finding in report.findings:
            if not finding.patient or report.of(finding.patient).included:
                typer.echo(f"{finding.severity.title}: {finding.sentence}")
        typer.echo(f"{len(report.usable)} of {len(here)} patients can be learnt from as they are.")
    return 0 if here and len(report.usable) == len(here) else 2


@gliascope.command("demo")
def demo(
    headless: Annotated[bool, typer.Option("--headless", help="Without a window: write picture and mask.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for picture and mask, without a window.")] = Path(
        "gliascope-demo"
    ),
) -> int:
    """Segment the simulated patient that comes with Gliascope, in the window or without one."""
    if not headless and has_screen():
        from app import application

        return application.run([DEMO], segment=True)
    say("Segmenting the demo patient off screen" + ("." if headless else ", as there is no screen here."))
    _make_folder(out)
    from app import application

    rendered = application.render_demo([DEMO], out.resolve())
    record = json.loads(rendered.sidecar.read_text(encoding="utf-8"))
    _tell({**record, "name": "Demo patient", "mask": str(rendered.mask)})
    typer.echo(f"  Picture: {rendered.picture}")
    return 0


@gliascope.command("self-test")
def self_test(
    window: Annotated[bool, typer.Option(help="Also try the window, off screen where there is no display.")] = True,
    training: Annotated[bool, typer.Option(help="Also take two steps of training, where torch is installed.")] = True,
    as_json: JsonOption = False,
) -> int:
    """Check that the window, the models, saving and training work, each on the demo patient."""
    from app import self_check

    with _progress("Checking") as progress:

        def tell(check: self_check.Check) -> None:
            if as_json:
                return
            found = [f"Dice {value:.2f}" for value in (check.whole_tumour, check.core) if value is not None]
            said = f"{check.what} ({' and '.join(found)})" if found else check.what
            with progress.aside():
                typer.echo(f"{'passed' if check.passed else 'failed'}  {check.seconds:6.1f} s  {said}")

        checks = self_check.run(DEMO, progress, tell, window, training, on_screen=has_screen())
    if as_json:
        _answer({"passed": all(check.passed for check in checks), "checks": [vars(check) for check in checks]})
    for check in checks:
        if not check.passed:
            say(check.problem)
    return 0 if all(check.passed for check in checks) else 2


@gliascope.command("desktop")
def desktop_entry(
    remove: Annotated[bool, typer.Option("--remove", help="Take it away again.")] = False,
) -> int:
    """Put Gliascope into the menu of a Linux desktop, and let it open .nii, .nii.gz and .gliascope files."""
    from app import desktop

    if remove:
        there = desktop.remove()
        typer.echo("Gliascope is no longer in the menu." if there else "Gliascope was not in the menu.")
    else:
        typer.echo(f"Gliascope is in the menu now: {desktop.install()}")
    return 0


@gliascope.command("train")
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A training config in JSON, or the folder of a training.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs; this one gets a folder in it.")] = Path(
        "runs"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One event a line, in JSON, on stdout.")] = False,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of each node, for a training's folder.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of the cluster's job it runs in.")] = 1,
) -> int:
    """Train a model; started again, it goes on where it was stopped.

    The folder of a training, as the window makes it here or for a cluster, holds its study and its patients.
    """
    _require_torch("train")
    if config.is_dir():
        return _train_in(config, as_json, gpus, nodes)
    from trainer import events
    from trainer import run as trainer_run
    from trainer.config import TrainConfig

    wanted = TrainConfig.read(config)
    folder = out / wanted.name

    with _progress(f"Training {wanted.name}") as progress:

        def emit(event: events.Event) -> None:
            if as_json:
                with progress.aside():
                    typer.echo(events.to_line(event))
            elif isinstance(event, events.StepEnd):
                progress.update(
                    event.step / wanted.steps, f"step {event.step} of {wanted.steps}, loss {event.loss:.3f}"
                )
            elif isinstance(event, events.Validated):
                dice = ", ".join(f"{REGION_TITLES.get(r, r)} {value:.2f}" for r, value in event.dice.items())
                with progress.aside():
                    typer.echo(f"Step {event.step}: Dice {dice} on {event.cases} patients")

        trainer_run.train(wanted, folder, emit, progress)
    if not as_json:
        typer.echo(f"Weights: {folder.resolve()}")
    return 0


def _train_in(folder: Path, as_json: bool, gpus: int, nodes: int) -> int:
    """Carry out a training of the window's, as its own process would."""
    from trainer import events, training

    chosen = training.Training(folder)
    titles = {run.config.name: training.title_of(run, chosen.planned) for run in chosen.planned}

    with _progress(f"Training {chosen.name}") as progress, _stops_on_request(progress.cancel):

        def hear(run: str, event: events.Event) -> None:
            if as_json:
                with progress.aside():
                    typer.echo(json.dumps({"run": run, **json.loads(events.to_line(event))}))
            elif isinstance(event, events.StepEnd):
                standing = chosen.standing()
                left = "" if standing.seconds_high is None else f", at most {_duration(standing.seconds_high)} more"
                progress.update(standing.done, f"{titles[run]}, step {event.step}{left}")
            elif isinstance(event, events.Validated):
                dice = ", ".join(f"{REGION_TITLES.get(r, r)} {value:.2f}" for r, value in event.dice.items())
                with progress.aside():
                    typer.echo(f"{titles[run]}, step {event.step}: Dice {dice} on {event.cases} patients")

        problems = training.carry_out(chosen, progress, hear, gpus, nodes)
    for problem in problems:
        say(problem)
    if not as_json:
        typer.echo(f"Results: {(chosen.folder / training.REPORT / 'README.md').resolve()}")
    return 2 if problems else 0


@gliascope.command("study")
def study(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A study's config in JSON.")],
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The cohort, a folder a patient, with truth.")],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where the trainings are kept.")] = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where tables and plots go; the runs' folder if not given."),
    ] = None,
    simulated: Annotated[
        Path | None, typer.Option("--simulated", metavar="DIR", help="Simulated patients to learn from.")
    ] = None,
    simulated_test: Annotated[
        Path | None, typer.Option("--simulated-test", metavar="DIR", help="Others, to be scored on.")
    ] = None,
    side_by_side: Annotated[int, typer.Option("--side-by-side", min=1, help="Trainings at a time.")] = 2,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Train nothing; tell what is known so far.")
    ] = False,
) -> int:
    """Compare ways of training over folds and seeds; started again, it goes on where it was stopped."""
    _require_torch("study")
    from trainer import study as trainer_study

    wanted = trainer_study.Study.read(config)
    found = [None if folder is None else folder.resolve() for folder in (simulated, simulated_test)]
    places = trainer_study.Places(data.resolve(), runs.resolve(), found[0], found[1])
    problems: list[str] = []
    if not only_report:
        with _progress(wanted.title) as progress:

            def tell(standing: trainer_study.Standing) -> None:
                left = standing.seconds_left
                pace = "" if left is None else f", at this pace {_duration(left)} more"
                progress.update(standing.done / standing.total, f"{standing.done} of {standing.total} runs{pace}")

            problems = trainer_study.carry_out(wanted, places, side_by_side, tell, progress)
    options = {"--data": data, "--runs": runs, "--simulated": simulated, "--simulated-test": simulated_test}
    given = " ".join(f"{option} {option.strip('-').upper()}" for option, value in options.items() if value is not None)
    page = trainer_study.report(
        wanted, places, out or places.runs / "report", f"gliascope study {config.as_posix()} {given}"
    )
    typer.echo(f"Results: {page.resolve()}")
    for problem in problems:
        say(problem)
    return 2 if problems else 0


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"


def _require_torch(command: str) -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise UserError(
            "Training needs torch, which is not installed yet", "", f"Run: python3 start.py {command} CONFIG"
        )


# --- one patient ------------------------------------------------------------------------------------------------------


def _segment_one(
    patient: Patient,
    models: Models,
    out: Path,
    settings: Settings,
    progress: Progress,
    resample: bool = False,
    volume: int | None = None,
    wanted: Wanted | None = None,
) -> dict[str, Any]:
    """Read, prepare, segment and save one patient exactly as the window does; returns what to tell."""
    from engine import flow, provenance

    started = time.perf_counter()
    scans = flow.read(
        patient, progress.part(0.0, 0.15), resample=resample, volume=volume - 1 if volume is not None else None
    )
    if patient.study is not None:
        flow.refuse_other_scans(scans, out)
    result = flow.compute(scans, models, settings, progress.part(0.15, 0.97), wanted)
    progress.update(0.97, "saving")
    saved = result.save(out, wanted, progress=progress.part(0.97, 1.0))
    hashes = {"mask", "masks", provenance.SEAL}
    return {
        "name": result.name,
        "mask": str(saved.mask.resolve()),
        **({"masks_of": {s.value: str(path.resolve()) for s, path in saved.others.items()}} if saved.others else {}),
        "sidecar": str(saved.sidecar.resolve()),
        **({"outputs": {what: str(path.resolve()) for what, path in saved.more.items()}} if saved.more else {}),
        "verified": saved.verified,
        "advice": result.choice.advice,
        "seconds_in_all": round(time.perf_counter() - started, 2),
        **{key: value for key, value in saved.record.items() if key not in hashes},
        "notes": [*scans.notes, *saved.notes, *saved.record["notes"]],
    }


def _in_our_words(error: UserError) -> UserError:
    """The same with what to do in the words of this command line."""
    from engine import flow

    if isinstance(error, ChooseVolume):
        return ChooseVolume(error.what, error.why, f"Choose one with --volume 1 to {error.count}.", error.count)
    if isinstance(error, flow.WhichSequence):
        return flow.WhichSequence(error.what, error.why, "Say so with --t1, --t1ce, --t2 or --flair and the file.")
    if isinstance(error, flow.OtherScans):
        return flow.OtherScans(
            error.what, error.why, "Give this patient another name with --name, or choose another folder."
        )
    return error


def _with_named(patients: list[Patient], named: dict[Sequence, Path]) -> Patient:
    """The one patient whose files the user has named, together with what was found beside them."""
    from engine import flow

    if len(patients) > 1 or any(patient.files is None for patient in patients):
        raise SequenceProblem(
            "--t1, --t1ce, --t2 and --flair name the NIfTI files of one patient",
            f"{len(patients)} were given" if len(patients) > 1 else "DICOM was given",
            "Segment one patient at a time with them.",
        )
    files = flow.named(named, patients[0].files if patients else None)
    return flow.Patient(files.name, files, where=str(files.folder))


def _refuse_same_name(patient: Patient, taken: dict[str, Patient]) -> None:
    # Compared as a file system that ignores case would: one mask must never silently replace another's.
    from engine import export

    before = taken.setdefault(export.file_name(patient.name).casefold(), patient)
    if before is not patient:
        raise CannotWrite(
            f"Two patients are called {patient.name}",
            f"in {before.where} and {patient.where}",
            "Segment them into different output folders.",
        )


def _tell(result: dict[str, Any]) -> None:
    from engine.volume import ml_in_words

    volumes, intervals = result["volumes_ml"], result.get("intervals_90_percent_ml", {})
    told = [f"{title.lower()} {ml_in_words(volumes[r], intervals.get(r))}" for r, title in REGION_TITLES.items()]
    steps = result.get("preparation", {}).get("steps", [])
    in_all = f", {result['seconds_in_all']:.1f} s in all" if steps else ""
    typer.echo(f"{result['name']}: {', '.join(told)} ({result['seconds']:.1f} s on {result['device']}{in_all})")
    typer.echo(f"  {' '.join(filter(None, (result['reason'], result.get('advice'))))}")
    for step in steps:
        if step["step"] == "grid" and not step["did"]:  # there was no need, and nobody could have asked for it
            continue
        title = STEP_TITLES[step["step"]] if step["did"] else f"Not {STEP_TITLES[step['step']].lower()}"
        typer.echo(f"  {title} ({step['seconds']:.1f} s): {step['sentence']}")
    for note in result["notes"]:
        typer.echo(f"  {note}")
    typer.echo(f"  Mask: {result['mask']}")
    for sequence, path in result.get("masks_of", {}).items():
        typer.echo(f"  Mask on the grid of {_titles_of([sequence])}: {path}")
    for what, path in result.get("outputs", {}).items():
        typer.echo(f"  {OUTPUT_TITLES[what]}: {path}")


# --- options ----------------------------------------------------------------------------------------------------------


def _sequences(text: str) -> tuple[Sequence, ...] | None:
    from engine.volume import Sequence

    wanted = [word.strip().lower() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in list(Sequence):
            raise UserError(f'"{word}" is not a sequence', "", "Choose among t1, t1ce, t2 and flair, as in t1,flair.")
    return tuple(sequence for sequence in Sequence if sequence.value in wanted) or None


def _convention(text: str) -> Convention | None:
    if not text:
        return None
    from engine.nifti import Convention

    names = [convention.value for convention in Convention]
    if text.lower() not in names:
        raise UserError(f'"{text}" is not a convention of labels', "", f"Choose among {', '.join(names)}.")
    return Convention(text.lower())


def _meant(path: Path) -> str:
    from difflib import get_close_matches

    close = get_close_matches(str(path), _names() - {"open"}, n=1)
    return f"Did you mean gliascope {close[0]}?" if close else "Check the spelling; see gliascope --help."


# --- the screen -------------------------------------------------------------------------------------------------------


def has_screen() -> bool:
    """Whether a window can be opened here: a display is named and answers."""
    if os.environ.get("QT_QPA_PLATFORM", "").split(":")[0] in ("offscreen", "minimal"):
        return False
    if not sys.platform.startswith("linux"):
        return True
    runtime, wayland = os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("WAYLAND_DISPLAY", "")
    if wayland and (Path(runtime) / wayland).exists():
        return True
    return _x_answers(os.environ.get("DISPLAY", ""))


def _x_answers(display: str) -> bool:
    """Whether something listens behind a ``DISPLAY`` such as ``:0`` or ``host:10.0``.

    Qt ends the whole program when nothing does, so it has to be known before.
    """
    host, colon, rest = display.rpartition(":")
    number = rest.split(".")[0]
    if not colon or not number.isdigit():
        return False
    local = f"/tmp/.X11-unix/X{number}"
    addresses: list[tuple[int, Any]] = [(socket.AF_INET, (host or "localhost", 6000 + int(number)))]
    if host in ("", "unix"):
        addresses = [(socket.AF_UNIX, local), (socket.AF_UNIX, f"\0{local}")]
    for family, address in addresses:
        with socket.socket(family, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
            connection.settimeout(2)
            connection.connect(address)
            return True
    return False


def _require_screen(instead: str) -> None:
    if not has_screen():
        raise UserError("There is no screen here to open the window on", "", f"Without a window: {instead}")


# --- talking ----------------------------------------------------------------------------------------------------------


class _Bar(Progress):
    """A progress with a bar and the time left on stderr; a log or a pipe gets none of its hundred states.

    Args:
        title: What is being done; may be changed on the way.
    """

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.title = title
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        self._bar = Bar(
            *columns,
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=1.0)
        super().__init__(self._show)

    def _show(self, fraction: float, message: str) -> None:
        self._bar.update(self._task, completed=fraction, description=f"{self.title}: {message}")

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while this lasts."""
        self._bar.start()
        try:
            yield
        finally:
            self._bar.stop()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while something is written."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


@contextlib.contextmanager
def _progress(title: str) -> Iterator[_Bar]:
    """A progress bar that Ctrl-C stops at its next check."""
    bar = _Bar(title)
    with bar.shown(), _stops_on_interrupt(bar.cancel):
        yield bar


@contextlib.contextmanager
def _stops_on_request(cancel: Callable[[], None]) -> Iterator[None]:
    """A cluster's request to end, a while before it insists, stops the work where it can be stopped cleanly."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stops_on_interrupt(cancel: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C asks the work to stop where it can be stopped cleanly; a second one insists."""

    def interrupted(number: int, frame: types.FrameType | None) -> None:
        cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer(answer: dict[str, Any]) -> None:
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _table(*titles: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        numbers = title.startswith(("Dice", "HD95", "Patients", "Seconds", "Tumour", "Core"))
        table.add_column(title, justify="right" if numbers else "left", no_wrap=numbers)
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)  # a patient may be called [bold]
    if not console.is_terminal:  # a file has no width to fit into
        console.width = 200
    console.print(table)


def _titles_of(values: Iterable[str]) -> str:
    from engine.volume import Sequence

    return _titles(Sequence(value) for value in values)


def _titles(sequences: Iterable[Sequence]) -> str:
    return " ".join(sequence.title for sequence in sequences)


def _choices(listing: Listing) -> dict[tuple[Sequence, ...], Choice | None]:
    """For each of the fifteen sets of sequences, what would be used; None where nothing works with it."""
    from engine import registry
    from engine.errors import MissingSequence
    from engine.volume import SUBSETS

    choices: dict[tuple[Sequence, ...], Choice | None] = dict.fromkeys(SUBSETS)
    for present in SUBSETS:
        with contextlib.suppress(MissingSequence):
            choices[present] = registry.choose(present, listing.models)
    return choices


def _choice_record(present: tuple[Sequence, ...], choice: Choice | None) -> dict[str, Any]:
    record: dict[str, Any] = {"present": list(present), "model": None}
    if choice is not None:
        regions = {region: vars(score) for region, score in choice.scores.items()} if choice.scores else None
        record |= {"model": choice.card.name, "used": list(choice.used), "regions": regions}
        record |= {"patients": choice.patients, "sentence": choice.sentence}
    return record


def _choice_table(choices: dict[tuple[Sequence, ...], Choice | None]) -> Table:
    table = _table("Sequences here", "Used", "Model", "Dice WT", "Dice core", "HD95 WT mm", "HD95 core mm", "Patients")
    for present, choice in choices.items():
        if choice is None:
            table.add_row(_titles(present), "", "no model works with these")
            continue
        numbers = ["not measured"]
        if choice.scores is not None:
            found = [choice.scores[region] for region in REGION_TITLES]
            numbers = [f"{score.dice_mean:.2f}" for score in found]
            numbers += ["" if score.hd95_mean is None else f"{score.hd95_mean:.1f}" for score in found]
            numbers.append(str(choice.patients))
        table.add_row(_titles(present), _titles(choice.used), choice.card.name, *numbers)
    return table


def _patients_table(report: Report) -> Table:
    from engine.volume import Sequence

    table = _table("Patient", *(sequence.title for sequence in Sequence), "Tumour ml", "Core ml", "Source", "Findings")
    for patient in report.patients:
        facts = patient.facts
        held = ["yes" if sequence in facts.sequences else "" for sequence in Sequence]
        sizes = ["" if ml is None else f"{ml:.1f}" for ml in (facts.whole_tumour_ml, facts.core_ml)]
        kinds = dict.fromkeys(finding.kind.title for finding in patient.findings)
        said = ", ".join(kinds) if patient.included else "left out"
        table.add_row(patient.name, *held, *sizes, facts.source, said)
    return table


def _score_table(scores: CohortScores) -> Table:
    table = _table("Patient", "Model", "Sequences", "Dice WT", "Dice core", "HD95 WT mm", "HD95 core mm", "")
    for case in scores.cases:
        found = [case.scores[region] for region in REGION_TITLES]
        numbers = [f"{score.dice:.3f}" for score in found] + [f"{score.hd95_mm:.1f}" for score in found]
        table.add_row(
            case.name, case.model, _titles(case.used), *numbers, "in the training set" if case.learnt_from else ""
        )
    table.add_section()
    summary = scores.summary()
    for title, kind in (("Mean", "mean"), ("Standard deviation", "sd"), ("Median", "median")):
        dice = [f"{summary[region][f'dice_{kind}']:.3f}" for region in REGION_TITLES]
        hd95 = [f"{summary[region][f'hd95_mm_{kind}']:.1f}" for region in REGION_TITLES]
        table.add_row(title, f"{len(scores.cases)} patients" if kind == "mean" else "", "", *dice, *hd95, "")
    return table


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(
            f"The folder {folder} could not be made", error.strerror or "", "Choose another with --out."
        ) from error


def _report_a_bug(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """For what the user cannot mend: one sentence for them, and a file with the rest for us."""
    import platform
    import tempfile
    import traceback

    from engine.provenance import version

    text = "".join(traceback.format_exception(kind, error, trace))
    about = f"Gliascope {version()}, Python {platform.python_version()}, {platform.platform()}\n\n"
    with tempfile.NamedTemporaryFile(
        "w", prefix="gliascope-report-", suffix=".txt", delete=False, encoding="utf-8"
    ) as report:
        report.write(about + text)
    say(f"Gliascope met something it was not made for ({kind.__name__}). What happened is written in {report.name}.")
