"""Cases: saving and opening them, the recent ones, and the corrections that outlive a crash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PySide6.QtCore import QObject, QTimer, Signal

from app import case_file
from app.case_file import Case, Kept, Restored, Scan, ScansMoved, UnusableCase
from app.correcting import Corrections
from app.jobs import Jobs
from app.session import Result, Session, Stage
from app.settings import Settings as Remembered
from app.telling import Problem
from app.viewer_model import LayerKey, Layout, Map, MaskStyle, Plane, ViewerModel, Window
from engine.errors import UserError
from engine.progress import Progress
from engine.volume import Sequence

if TYPE_CHECKING:
    from engine.dicom import Series, Study
    from engine.editing import Edit, Editor
    from engine.pipeline import Settings
    from engine.sequences import SubjectFiles

KEEP_AFTER_MS = 400
MOST_RECENT = 10


@dataclass
class _Sitting:
    """The corrections of one result, and the file that keeps them until they are saved."""

    editor: Editor
    original: Result
    path: Path
    inputs: tuple[str, ...]
    preparation: dict[str, Any]
    written: frozenset[str] = frozenset()

    def describe(self, edits: tuple[Edit, ...]) -> dict[str, Any]:
        """For `case_file`; reads nothing that changes meanwhile."""
        original = self.original
        return case_file.describe_result(
            original.segmentation,
            original.choice,
            original.seconds,
            self.editor.base,
            edits,
            self.written,
            self.preparation,
        )


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A result that is brought back as soon as the scans are prepared as they were for it."""

    values: Mapping[str, Any]
    safe: bool
    kept: Path | None
    files: SubjectFiles | None


class Cases(QObject):
    """What is written of a patient, and how it is found again.

    Signals:
        recent_changed: Another list of recent cases.
        folder_wanted: The scans of this case are elsewhere; ask where, and call `open` again.
    """

    recent_changed = Signal()
    folder_wanted = Signal(object)

    def __init__(
        self,
        model: ViewerModel,
        session: Session,
        jobs: Jobs,
        corrections: Corrections,
        settings: Remembered,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._model, self._session, self._jobs = model, session, jobs
        self._corrections, self._settings = corrections, settings
        self._path: Path | None = None
        self._case_files: SubjectFiles | None = None
        self._case_study: Study | None = None
        self._waiting: _Waiting | None = None
        self._opening: Case | None = None
        self._known: SubjectFiles | None = None
        self._inputs: tuple[str, ...] = ()
        self._sitting: _Sitting | None = None
        # The corrections that lie in a file of the user's: those need not be kept.
        self._safe: tuple[Edit, ...] = ()
        self._kept: list[Kept] = []
        self._question: Problem | None = None
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(KEEP_AFTER_MS)
        self._later.timeout.connect(self._keep)
        session.patient_changed.connect(self._patient_changed)
        session.prepared_changed.connect(self._prepared)
        session.saved_changed.connect(self._mask_saved)
        session.problem_changed.connect(self._ask)
        session.stage_changed.connect(self._ask)
        corrections.changed.connect(self._corrected)

    # Cases

    @property
    def path(self) -> Path | None:
        """The case file of the patient on the desk, if there is one."""
        return self._path if self._is_of_case() else None

    def _is_of_case(self) -> bool:
        """Whether the patient on the desk came from the case, or was saved as it."""
        files, studies = self._session.files, self._session.studies
        if self._case_study is not None and studies is not None and studies.taken is self._case_study:
            return True
        return self._case_files is not None and self._case_files is files

    @property
    def why_not(self) -> str:
        """Why there is nothing to save, in words; empty when there is."""
        if self._session.files is None:
            return "No patient is open."
        if self._session.stage not in (Stage.READY, Stage.DONE):
            return "Wait until the work under way is done."
        return ""

    def save(self, path: Path) -> None:
        """Save the patient on the desk as a case."""
        files = self._session.files
        if files is None or self.why_not:
            return
        indices, confirmed = self._session.answers
        studies, preparation = self._session.studies, self._session.settings.to_json()
        named: list[tuple[Path, Sequence | None]] = [(file, sequence) for sequence, file in files.files.items()]
        named += [(file, None) for file in files.unknown]
        series: Mapping[Sequence, Series] = {}
        source = None
        if studies is not None and studies.taken is not None:
            # Converted series are gone tomorrow: what is named is what they were made from.
            series = {s: studies.taken.chosen[s] for s in files.files}
            named, source = [], studies.common_source
        scans = tuple(Scan(file, sequence, indices.get(file), file in confirmed) for file, sequence in named)
        applied = self._corrections.applied
        original, editor = self._corrections.original, self._corrections.editor
        view, written = self._describe_view(), self._session.written

        def write(progress: Progress) -> Path:
            told = None
            if original is not None:
                base = editor.base if editor is not None else original.segmentation.label_map
                told = case_file.describe_result(
                    original.segmentation, original.choice, original.seconds, base, applied, written
                )
            return case_file.write_case(path, Case(scans, view, told, preparation, source, series), progress)

        def saved(where: Path) -> None:
            self._path, self._case_files, self._case_study = where, files, None
            self._remember(where)
            if self._corrections.original is original and original is not None:
                self._safe = applied
                self._corrected()
            self._session.tell(Problem(f"Saved as {where.name}.", note=True))

        self._jobs.run(
            write, on_finished=saved, on_failed=lambda error: self._session.fail(error, "Saving stopped"), topic="case"
        )

    @property
    def why_not_learnt_from(self) -> str:
        """Why the patient cannot be added to the user's training set, in words; empty when he can."""
        result = self._session.result
        if result is None or self._session.stage is not Stage.DONE:
            return "There is no mask yet. Segment and correct it first."
        worked = self._session.worked
        if self._session.studies is not None or (worked is not None and worked.changed):
            return "Its scans were prepared here; a training takes scans that share a grid and show the brain alone."
        if not result.segmentation.edited_by_hand:
            return "Correct the mask first: a network learns nothing new from its own opinion."
        return ""

    def learn_from(self) -> None:
        """Add the patient on the desk, with his corrected mask as truth, to the user's training set."""
        files, subject, result = self._session.files, self._session.subject, self._session.result
        if files is None or subject is None or result is None or self.why_not_learnt_from:
            return
        indices, _ = self._session.answers
        # Scans that were left out, such as those on another grid, have no part in the mask.
        files = replace(files, files={sequence: files.files[sequence] for sequence in subject})
        volumes = {sequence: indices[path] for sequence, path in files.files.items() if path in indices}
        segmentation = result.segmentation

        def add(_: Progress) -> str:
            from trainer import corrected

            added = corrected.add(files, segmentation.label_map, segmentation.edited_by_hand, volumes)
            return added.name

        def added(name: str) -> None:
            self._session.tell(
                Problem(
                    f'{name} is in your training set. "Train your own" offers it as "corrected patients".', note=True
                )
            )

        self._jobs.run(
            add,
            on_finished=added,
            on_failed=lambda error: self._session.fail(error, "Adding to the training set stopped"),
            topic="learn",
        )

    def open(self, path: Path, folder: Path | None = None) -> None:
        """Open a case.

        Args:
            path: The ``.gliascope`` file.
            folder: Where its scans are now, if the user was asked.
        """
        self._session.dismiss()

        def opened(found: case_file.Found) -> None:
            case = found.case
            try:
                settings = settings_of(case.preparation)
            except UnusableCase as error:
                failed(error)
                return
            self._opening, self._path = case, path
            self._case_files, self._case_study = found.files, found.study
            self._remember(path)
            if found.files is not None:
                self._session.open_known(found.files, case.volumes, case.confirmed, settings)
            elif found.studies is not None and found.study is not None:
                self._session.open_study(found.studies, found.study, settings)

        def failed(error: Exception) -> None:
            if isinstance(error, ScansMoved):
                choose = ("Choose the folder", lambda: self.folder_wanted.emit(path))
                self._session.tell(Problem(str(error), (choose,)))
                return
            if not path.exists():
                self._forget_recent(path)
            self._session.fail(error, "Opening stopped")

        self._jobs.run(case_file.open_case, path, folder, on_finished=opened, on_failed=failed, topic="case")

    # Recent cases

    @property
    def recent(self) -> list[Path]:
        """The cases saved or opened last, the latest first; only the user's own files, and only if that is wished."""
        return [Path(name) for name in self._settings.recent_cases]

    @property
    def remembers(self) -> bool:
        """Whether cases are remembered."""
        return self._settings.remembers_cases

    def set_remembers(self, on: bool) -> None:
        """Remember cases from now on, or forget all and remember none."""
        self._settings.remembers_cases = on
        if not on:
            self.clear_recent()
        self.recent_changed.emit()

    def clear_recent(self) -> None:
        """Forget which cases were open."""
        self._settings.recent_cases = []
        self.recent_changed.emit()

    def _remember(self, path: Path) -> None:
        if self.remembers:
            name = str(path.absolute())
            others = [other for other in self._settings.recent_cases if other != name]
            self._settings.recent_cases = [name, *others][:MOST_RECENT]
            self.recent_changed.emit()

    def _forget_recent(self, path: Path) -> None:
        name = str(path.absolute())
        self._settings.recent_cases = [other for other in self._settings.recent_cases if other != name]
        self.recent_changed.emit()

    # A patient came

    def _patient_changed(self) -> None:
        session = self._session
        files, opening = session.files, self._opening
        if files is self._known or session.subject is None:
            if files is None:
                self._known, self._inputs, self._kept, self._question = None, (), [], None
            return
        assert files is not None  # what was read came from files
        self._known, self._inputs, self._kept, self._question = files, (), [], None
        self._opening = None
        if opening is not None and self._is_of_case():
            if opening.result is not None:
                self._restore(opening.result, safe=True, view=opening.view)
            else:
                self._show_view(opening.view)
        indices = session.answers[0]
        sources = [(path, indices.get(path)) for path in (*files.files.values(), *files.unknown)]

        def look(progress: Progress) -> tuple[tuple[str, ...], list[Kept]]:
            inputs = case_file.identify(sources, progress)
            return inputs, case_file.kept_for(inputs, progress)

        def found(value: tuple[tuple[str, ...], list[Kept]]) -> None:
            self._inputs, kept = value
            own = self._sitting.path if self._sitting is not None else None
            self._kept = [one for one in kept if one.path != own]
            self._corrected()
            self._ask()

        self._jobs.run(
            look,
            on_finished=found,
            on_failed=lambda error: self._session.fail(error, "Looking for kept corrections stopped"),
            topic="identify",
        )

    def _restore(
        self,
        values: Mapping[str, Any],
        safe: bool,
        view: Mapping[str, Any] | None = None,
        kept: Path | None = None,
    ) -> None:
        """Put a result that was kept on the desk.

        Args:
            values: As `case_file.describe_result` made them.
            safe: Whether its corrections lie in a file of the user's.
            view: What was on screen.
            kept: The file that keeps the corrections.
        """
        files, subject = self._session.files, self._session.subject
        if subject is None:
            return
        wanted = values.get("preparation")
        if wanted is not None and wanted != self._session.settings.to_json():
            # It was found in scans that had been prepared otherwise.
            try:
                settings = settings_of(wanted)
            except UnusableCase as error:
                self._session.fail(error, "Opening stopped")
                return
            self._waiting = _Waiting(values, safe, kept, files)
            self._session.prepare(settings if settings is not None else self._session.settings)
            return

        def restored(value: Restored) -> None:
            if self._session.files is not files:
                return
            original = Result(value.segmentation, value.mask, value.choice, value.seconds)
            self._sitting = None
            if kept is not None:
                self._sitting = _Sitting(value.editor, original, kept, self._inputs, self._session.settings.to_json())
            self._safe = value.editor.applied if safe else ()
            self._corrections.adopt(value.editor, original, value.written)
            # Probabilities are not kept, and a map of nothing would be taken for one that is nothing everywhere.
            self._model.set_overlay(map=Map.NONE)
            if view is not None:
                self._show_view(view)
            else:
                self._session.go_to_largest()

        self._jobs.run(
            case_file.restore_result,
            values,
            subject.grid,
            self._model.layers,
            on_finished=restored,
            on_failed=lambda error: self._session.fail(error, "Opening stopped"),
            topic="restore",
        )

    def _prepared(self) -> None:
        """The scans are prepared as a result that was kept needs them."""
        waiting = self._waiting
        if waiting is None or self._session.stage not in (Stage.READY, Stage.DONE):
            return
        self._waiting = None
        if self._session.files is waiting.files and waiting.values["preparation"] == self._session.settings.to_json():
            self._restore(waiting.values, waiting.safe, kept=waiting.kept)

    # Corrections nobody has saved

    def tell_of_kept(self) -> None:
        """At the start of the program: corrections wait for their patient."""
        if any(case_file.kept_folder().glob(f"*{case_file.KEPT_ENDING}")):
            self._session.tell(
                Problem(
                    "Corrections of a patient were not saved when Gliascope was last used. Open that patient again to "
                    "get them back.",
                    (("Discard them", self._discard_all),),
                    note=True,
                )
            )

    def _discard_all(self) -> None:
        for path in case_file.kept_folder().glob(f"*{case_file.KEPT_ENDING}"):
            case_file.forget(path)
        self._session.dismiss()

    def _ask(self) -> None:
        """The one question about kept corrections, once nothing else is to be told."""
        session = self._session
        if not self._kept or session.problem is not None or session.stage not in (Stage.READY, Stage.DONE):
            return
        if self._question is not None:
            # It was closed without an answer: they stay where they are until the patient is opened again.
            self._kept, self._question = [], None
            return
        kept = self._kept[0]
        many = (
            "1 correction of this patient was" if kept.count == 1 else f"{kept.count} corrections of this patient were"
        )
        last = f"the last: {kept.last}, {_when(kept.when)}"
        self._question = Problem(
            f"{many} never saved ({last}). Restore {'it' if kept.count == 1 else 'them'}?",
            (("Restore", self._take_back), ("Discard", self._discard)),
            note=True,
        )
        session.tell(self._question)

    def _take_back(self) -> None:
        kept, self._kept, self._question = self._kept[0], [], None
        self._session.dismiss()
        self._restore(kept.result, safe=False, kept=kept.path)

    def _discard(self) -> None:
        kept, self._kept = self._kept[0], self._kept[1:]
        self._question = None
        case_file.forget(kept.path)
        self._session.dismiss()

    def _corrected(self) -> None:
        """The corrections are others now, or those of another result, or lie in a file now."""
        editor, original, before = self._corrections.editor, self._corrections.original, self._sitting
        if before is not None and before.editor is not editor:
            self._leave(before, replaced=original is not None)
        if editor is None or original is None or not self._inputs:
            return
        if self._sitting is None:
            self._sitting = _Sitting(
                editor,
                original,
                case_file.new_kept_path(self._inputs),
                self._inputs,
                self._session.settings.to_json(),
            )
        self._sitting.written = self._session.written
        if editor.applied == self._safe:
            self._stop_keeping(self._sitting)
        else:
            self._later.start()

    def _leave(self, sitting: _Sitting, replaced: bool) -> None:
        """Its patient was closed, or, as the user agreed, its result replaced."""
        pending = self._later.isActive()
        self._sitting, self._safe = None, ()
        if replaced:
            self._stop_keeping(sitting)
        elif pending:
            self._later.stop()
            self._keep_now(sitting)

    def _stop_keeping(self, sitting: _Sitting) -> None:
        self._later.stop()
        self._jobs.drop(str(sitting.path))
        case_file.forget(sitting.path)

    def _keep(self) -> None:
        sitting = self._sitting
        if sitting is None:
            return
        edits = sitting.editor.applied

        def keep(progress: Progress) -> None:
            case_file.keep(sitting.path, sitting.inputs, sitting.describe(edits), progress)

        self._jobs.run(
            keep,
            on_finished=lambda _: None,
            on_failed=lambda error: self._session.fail(error, "Keeping the corrections stopped"),
            topic=str(sitting.path),
        )

    def _keep_now(self, sitting: _Sitting) -> None:
        """On this thread, for there may be no other any more."""
        self._jobs.drop(str(sitting.path))
        # Whoever leaves cannot be told any more that the disk is full.
        with suppress(UserError):
            case_file.keep(sitting.path, sitting.inputs, sitting.describe(sitting.editor.applied), Progress())

    def _mask_saved(self) -> None:
        if self._session.saved is not None:
            self._safe = self._corrections.applied
            self._corrected()

    def close(self) -> None:
        """The window closes: what is not saved is kept for the next time."""
        sitting, self._sitting = self._sitting, None
        if sitting is not None and sitting.editor.applied != self._safe:
            self._later.stop()
            self._keep_now(sitting)

    # What was on screen

    def _describe_view(self) -> dict[str, Any]:
        model = self._model
        names = self._names()
        overlay = model.overlay
        return {
            "layout": model.layout.value,
            "plane": model.plane.name.lower(),
            "swiped": model.swiped,
            "shown": names.get(model.shown) if model.shown is not None else None,
            "crosshair_mm": [float(mm) for mm in model.crosshair],
            "centre_mm": [float(mm) for mm in model.centre],
            "zoom": model.zoom,
            "windows": {
                name: {"width": model.window_of(key).width, "level": model.window_of(key).level}
                for key, name in names.items()
            },
            "overlay": {
                "visible": overlay.visible,
                "opacity": overlay.opacity,
                "style": overlay.style.value,
                "whole_tumour": overlay.whole_tumour,
                "core": overlay.core,
                "whole_tumour_shown": overlay.whole_tumour_shown,
                "core_shown": overlay.core_shown,
            },
        }

    def _show_view(self, view: Mapping[str, Any]) -> None:
        """Bring back what was on screen; what a file of another version says otherwise is passed over."""
        model = self._model
        keys = {name: key for key, name in self._names().items()}
        passed_over = (KeyError, ValueError, TypeError, AttributeError)
        with suppress(*passed_over):
            model.set_layout(Layout(view["layout"]), Plane[str(view["plane"]).upper()], bool(view["swiped"]))
        with suppress(*passed_over):
            model.show(keys[view["shown"]])
        for name, key in keys.items():
            with suppress(*passed_over):
                window = view["windows"][name]
                model.set_window(Window(_number(window["width"]), _number(window["level"])), key)
        with suppress(*passed_over):
            model.set_view(_number(view["zoom"]), np.array([_number(mm) for mm in view["centre_mm"]]).reshape(3))
        with suppress(*passed_over):
            model.move_crosshair(np.array([_number(mm) for mm in view["crosshair_mm"]]).reshape(3))
        with suppress(*passed_over):
            overlay = view["overlay"]
            model.set_overlay(
                visible=bool(overlay["visible"]),
                opacity=_number(overlay["opacity"]),
                style=MaskStyle(overlay["style"]),
                whole_tumour=_colour(overlay["whole_tumour"]),
                core=_colour(overlay["core"]),
                whole_tumour_shown=bool(overlay["whole_tumour_shown"]),
                core_shown=bool(overlay["core_shown"]),
            )

    def _names(self) -> dict[LayerKey, str]:
        """What layers are called in a case: by sequence, or by number where nobody has named them."""
        unknown: Iterable[LayerKey] = (key for key in self._model.layers if not isinstance(key, Sequence))
        names: dict[LayerKey, str] = {key: key.value for key in self._model.layers if isinstance(key, Sequence)}
        return names | {key: f"unknown {number}" for number, key in enumerate(unknown, start=1)}


def settings_of(record: Mapping[str, Any] | None) -> Settings | None:
    """What is to be done to the scans of a case; None where it does not say.

    Raises:
        UnusableCase: What it says was not written by Gliascope.
    """
    from engine.pipeline import Settings

    if record is None:
        return None
    try:
        return Settings.from_json(record)
    except ValueError as error:
        raise UnusableCase("The case cannot be used", "how its scans were prepared is damaged", "") from error


def _when(moment: datetime) -> str:
    now = datetime.now().astimezone()
    moment = moment.astimezone()
    day = "today" if moment.date() == now.date() else f"on {moment.day} {moment:%B %Y}"
    return f"{day} at {moment:%H:%M}"


def _number(value: object) -> float:
    number = float(str(value))
    if not np.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _colour(value: object) -> str:
    text = str(value)
    if len(text) != 7 or text[0] != "#":
        raise ValueError("not a colour")
    int(text[1:], 16)
    return text
