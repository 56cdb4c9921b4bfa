"""The dates of a patient: what was dropped, how far each is, and what comes of comparing them.

Knows no widget, so all of it can be driven without a window. What a date is called and when it was lives in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

from app.jobs import Job, Jobs, Queue
from app.telling import Problem, Teller
from app.viewer_model import Layer, LayerKey, Mask, Version
from engine.errors import UserError
from engine.progress import Progress
from engine.volume import Sequence, Volume

if TYPE_CHECKING:
    import datetime

    from engine.flow import Models
    from engine.follow_up import FollowUp, TimePoint
    from engine.follow_up_files import Date
    from engine.workshop import Workshop

# Whichever a date lacks, what looks most like it is shown instead.
_LIKE = {
    Sequence.T1: (Sequence.T1CE, Sequence.FLAIR, Sequence.T2),
    Sequence.T1CE: (Sequence.T1, Sequence.FLAIR, Sequence.T2),
    Sequence.T2: (Sequence.FLAIR, Sequence.T1, Sequence.T1CE),
    Sequence.FLAIR: (Sequence.T2, Sequence.T1, Sequence.T1CE),
}
_BEST = (Sequence.FLAIR, Sequence.T1CE, Sequence.T2, Sequence.T1)
ESTIMATE_FROM = 0.2


class State(Enum):
    """How far a date is."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"


@dataclass(eq=False)
class Entry:
    """A date in the list.

    Attributes:
        number: Unique while the window lives.
        date: Its files; None where the scans were taken over from the viewer.
        name: What is known of it before it was read: the name of its folder, for the screen alone.
        when: The day of the scan, where it is known.
        label: What the user called it.
        state: How far it is.
        message: What is being done, or what went wrong.
        fraction: Of the work on it, 0..1.
        point: What came of it.
        files: Of its scans.
        only: The sequences it is segmented with; None for all it has.
    """

    number: int
    date: Date | None
    name: str
    when: datetime.date | None = None
    label: str = ""
    state: State = State.WAITING
    message: str = ""
    fraction: float = 0.0
    point: TimePoint | None = None
    files: frozenset[Path] = field(default_factory=frozenset)
    only: tuple[Sequence, ...] | None = None

    @property
    def title(self) -> str:
        """What it is called on screen."""
        return self.label or (self.when.isoformat() if self.when is not None else self.name)


@dataclass(frozen=True, eq=False)
class Shown:
    """The two dates that are looked at.

    Attributes:
        follow_up: Whose.
        since: The earlier one's number.
        layers: The latest date's scans.
        mask: Its mask.
        earlier: The earlier date on the latest one's grid, as bright as the latest.
        instead: For sequences that the earlier date lacks, what is shown instead.
        sequence: Which sequence this was brought along for.
    """

    follow_up: FollowUp
    since: int
    layers: dict[LayerKey, Layer]
    mask: Mask
    earlier: Version
    instead: dict[Sequence, Sequence]
    sequence: Sequence


class FollowUpModel(Teller):
    """Two dates and more of one patient.

    Signals:
        dates_changed: There are other dates, or one of them is in another state.
        progressed: An entry came further.
        compared: There is another comparison, or none.
        shown_changed: Two other dates are looked at, or none.
    """

    dates_changed = Signal()
    progressed = Signal(object)
    compared = Signal()
    shown_changed = Signal()

    def __init__(self, jobs: Jobs, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self.entries: list[Entry] = []
        self._baseline: Entry | None = None
        self._numbers = 0
        self._workshop: Workshop | None = None
        self._models: Models | None = None
        self._job: Job | None = None
        self._stopped = False
        self._started = 0.0
        self._follow_up: FollowUp | None = None
        self._shown: Shown | None = None
        self._layers: dict[LayerKey, Layer] = {}
        self._finding = False
        self._later: list[list[Path]] = []
        self.comparing = ""

    # What is there

    @property
    def follow_up(self) -> FollowUp | None:
        """The comparison of all dates, once there is one."""
        return self._follow_up

    @property
    def shown(self) -> Shown | None:
        """The two dates that are looked at."""
        return self._shown

    @property
    def busy(self) -> bool:
        """Whether something is under way that can be cancelled."""
        return self._job is not None

    @property
    def stopped(self) -> bool:
        """Whether the user stopped before everything was done."""
        return self._stopped and any(entry.state is State.WAITING for entry in self.entries)

    @property
    def in_order(self) -> list[Entry]:
        """The dates, the earliest first where all days are known."""
        return list(self.entries)

    @property
    def all_days_known(self) -> bool:
        """Whether days decide the order."""
        return all(entry.when is not None for entry in self.entries)

    @property
    def baseline(self) -> Entry | None:
        """Which date changes are told from."""
        if self._baseline in self.entries:
            return self._baseline
        return self.entries[0] if self.entries else None

    @property
    def seconds_left(self) -> float | None:
        """Of the job under way, where that can be told."""
        entry = next((one for one in self.entries if one.state is State.WORKING), None)
        if entry is None or entry.fraction < ESTIMATE_FROM:
            return None
        return (time.monotonic() - self._started) * (1 - entry.fraction) / entry.fraction

    # Dates

    def add(self, paths: Iterable[Path]) -> None:
        """Look for dates in files and folders, and read them."""
        paths = list(paths)
        if not paths:
            return
        if self._finding:
            self._later.append(paths)
            return
        self.dismiss()
        self._finding = True

        def workshop() -> Workshop:
            from engine.workshop import Workshop

            if self._workshop is None:
                self._workshop = Workshop()
            return self._workshop

        def find(progress: Progress) -> tuple[list[Date], list[UserError]]:
            from engine import follow_up_files

            return follow_up_files.find(paths, workshop, progress)

        def found(value: tuple[list[Date], list[UserError]]) -> None:
            self._finding = False
            dates, problems = value
            twice = 0
            for date in dates:
                files = _files_of(date)
                if files and any(files & entry.files for entry in self.entries):
                    twice += 1
                    continue
                self._numbers += 1
                self.entries.append(Entry(self._numbers, date, date.patient.name, date.when, files=files))
            if problems:
                self.tell(Problem(str(problems[0])))
            elif twice:
                self.tell(Problem("These scans are in the list already.", note=True))
            self._sort()
            self._stopped = False
            self.dates_changed.emit()
            self._next()
            look_on()

        def failed(error: Exception) -> None:
            self._finding = False
            self.fail(error, "Looking for dates stopped")
            self.dates_changed.emit()
            look_on()

        def look_on() -> None:
            if self._later:
                self.add(self._later.pop(0))

        self._jobs.run(find, on_finished=found, on_failed=failed, topic="follow-up find")
        self.dates_changed.emit()

    @property
    def finding(self) -> bool:
        """Whether files are being looked through."""
        return self._finding

    def add_point(self, point: TimePoint, name: str, files: Iterable[Path]) -> None:
        """Take over a date that was segmented in the viewer, in place of one of the same scans."""
        known = frozenset(files)
        same = next((entry for entry in self.entries if known and known & entry.files), None)
        if same is not None and same.state is not State.WORKING:
            point = replace(point, when=same.when, label=same.label)
            same.point, same.state, same.message = point, State.DONE, ""
        elif same is None:
            self._numbers += 1
            self.entries.append(
                Entry(self._numbers, None, name, point.when, state=State.DONE, point=point, files=known)
            )
        self._sort()
        self._outdated()
        self.dates_changed.emit()
        self._next()

    def knows(self, files: Iterable[Path]) -> bool:
        """Whether any of these scans is among the dates."""
        wanted = frozenset(files)
        return any(wanted & entry.files for entry in self.entries)

    def clear(self) -> None:
        """Begin with no date at all."""
        self._jobs.drop("follow-up find")
        self._finding, self._later = False, []
        self._stop_job()
        self.entries, self._baseline, self._stopped = [], None, False
        self._outdated()
        self.dates_changed.emit()

    @property
    def could_be_alike(self) -> tuple[Sequence, ...]:
        """The sequences that all dates have, where segmenting with those alone would make their masks comparable."""
        made = self._follow_up
        if made is None or made.alike or any(entry.date is None or entry.only for entry in self._ready):
            return ()
        return made.common

    @property
    def made_alike(self) -> bool:
        """Whether dates are segmented with what all of them have."""
        return any(entry.only is not None for entry in self.entries)

    def segment_alike(self, alike: bool) -> None:
        """Segment every date with the sequences that all have, or again with all that each has."""
        common = self.could_be_alike
        if alike and not common:
            return
        for entry in self.entries:
            if entry.date is not None:
                entry.only, entry.point, entry.state = common if alike else None, None, State.WAITING
        self._stopped = False
        self._outdated()
        self.dates_changed.emit()
        self._next()

    def remove(self, entry: Entry) -> None:
        """Go on without a date."""
        if entry not in self.entries:
            return
        if entry.state is State.WORKING:
            self._stop_job()
        self.entries.remove(entry)
        self._outdated()
        self.dates_changed.emit()
        self._next()

    def rename(self, entry: Entry, text: str) -> None:
        """Call a date something; what reads as a day is its day."""
        from engine.follow_up_files import day_in

        text = text.strip()
        day = day_in(text) if len(text) <= 10 else None
        if day is not None and (day, "") != (entry.when, entry.label):
            entry.when, entry.label = day, ""
            order = list(self.entries)
            self._sort()
            self._relabel()
            if order != self.entries:
                self._outdated()
                self._next()
            self.dates_changed.emit()
            self.compared.emit()
        elif day is None and text not in (entry.label, entry.title):
            entry.label = text
            self._relabel()
            self.dates_changed.emit()
            self.compared.emit()

    def move_up(self, entry: Entry) -> None:
        """Say that a date was before the one above it, where days do not."""
        at = self.entries.index(entry)
        if at and not self.all_days_known:
            self.entries[at - 1], self.entries[at] = entry, self.entries[at - 1]
            self._outdated()
            self.dates_changed.emit()
            self._next()

    def set_baseline(self, entry: Entry) -> None:
        """Tell changes from this date."""
        if entry in self.entries and entry is not self.baseline:
            self._baseline = entry
            if self._follow_up is not None:
                self._follow_up = self._follow_up.with_baseline(self._ready.index(entry))
            self.dates_changed.emit()
            self.compared.emit()

    def _sort(self) -> None:
        if self.entries and self.all_days_known:
            self.entries.sort(key=lambda entry: entry.when.toordinal() if entry.when is not None else 0)

    def _relabel(self) -> None:
        for entry in self.entries:
            if entry.point is not None:
                entry.point = replace(entry.point, label=entry.label, when=entry.when)
        made = self._follow_up
        if made is not None:
            points = [entry.point for entry in self._ready]
            pairs = zip(made.visits, points, strict=True)
            self._follow_up = replace(
                made, visits=tuple(replace(visit, point=point) for visit, point in pairs if point is not None)
            )

    # Work

    @property
    def _ready(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.point is not None]

    def go_on(self) -> None:
        """Go on after a cancel, and try again what failed."""
        self._stopped = False
        for entry in self.entries:
            if entry.state is State.FAILED:
                entry.state, entry.message = State.WAITING, ""
        self.dismiss()
        self.dates_changed.emit()
        self._next()

    def cancel(self) -> None:
        """Stop what is under way."""
        if self._job is not None:
            self._stopped = True
            self._stop_job()
            self.dates_changed.emit()

    def _stop_job(self) -> None:
        if self._job is not None:
            self._jobs.drop("follow-up")
            self._job = None
            self.comparing = ""
            for entry in self.entries:
                if entry.state is State.WORKING:
                    entry.state, entry.message, entry.fraction = State.WAITING, "", 0.0

    def _outdated(self) -> None:
        """What was compared holds no more."""
        if self.comparing:
            self._stop_job()
        self._jobs.drop("follow-up show")
        self._follow_up, self._shown, self._layers = None, None, {}
        self.compared.emit()
        self.shown_changed.emit()

    def _next(self) -> None:
        if self._job is not None or self._stopped:
            return
        waiting = next((entry for entry in self.entries if entry.state is State.WAITING), None)
        if waiting is not None:
            self._read(waiting)
        elif len(self._ready) >= 2 and self._follow_up is None:
            self._compare()

    def _read(self, entry: Entry) -> None:
        date, only = entry.date, entry.only
        assert date is not None
        entry.state, entry.message, entry.fraction = State.WORKING, "reading", 0.0
        self._outdated()
        self._started = time.monotonic()

        def work(progress: Progress) -> TimePoint:
            from engine import flow, follow_up_files

            if self._models is None:
                self._models = flow.Models()
            return follow_up_files.read(date, self._models, progress, only)

        def finished(point: TimePoint) -> None:
            self._job = None
            entry.point = replace(point, label=entry.label, when=entry.when)
            entry.state, entry.message = State.DONE, ""
            self.dates_changed.emit()
            self._next()

        def failed(error: Exception) -> None:
            self._job = None
            entry.state = State.FAILED
            entry.message = str(error) if isinstance(error, UserError) else "Reading this date stopped."
            if not isinstance(error, UserError):
                self.fail(error, "Reading a date stopped")
            self.dates_changed.emit()
            self._next()

        def progressed(fraction: float, message: str) -> None:
            entry.fraction, entry.message = fraction, message
            self.progressed.emit(entry)

        self._job = self._jobs.run(
            work, on_finished=finished, on_failed=failed, on_progress=progressed, queue=Queue.COMPUTING,
            topic="follow-up",
        )  # fmt: skip
        self.dates_changed.emit()

    def _compare(self) -> None:
        ready = self._ready
        points = [entry.point for entry in ready if entry.point is not None]
        baseline = ready.index(self.baseline) if self.baseline in ready else 0
        self.comparing = "aligning the dates"

        def work(progress: Progress) -> tuple[FollowUp, Shown, dict[LayerKey, Layer]]:
            from engine import follow_up

            made = follow_up.compare(points, progress.part(0.0, 0.85), baseline)
            latest = made.latest.point
            layers: dict[LayerKey, Layer] = {s: Layer.of(v) for s, v in (latest.shown or latest.subject).items()}
            look = _look(made, len(made.visits) - 2, layers, None, progress.part(0.85, 1.0))
            return made, look, layers

        def finished(value: tuple[FollowUp, Shown, dict[LayerKey, Layer]]) -> None:
            self._job, self.comparing = None, ""
            self._follow_up, self._shown, self._layers = value
            self._relabel()
            self.dates_changed.emit()
            self.compared.emit()
            self.shown_changed.emit()

        def failed(error: Exception) -> None:
            self._job, self.comparing = None, ""
            self._stopped = True
            self.fail(error, "Comparing stopped")
            self.dates_changed.emit()

        def progressed(fraction: float, message: str) -> None:
            self.comparing = message
            self.progressed.emit(None)

        self._job = self._jobs.run(
            work, on_finished=finished, on_failed=failed, on_progress=progressed, queue=Queue.COMPUTING,
            topic="follow-up",
        )  # fmt: skip
        self.dates_changed.emit()

    def look_since(self, since: int, sequence: Sequence | None = None) -> None:
        """Look at an earlier date beside the latest, on one of the latest's sequences."""
        made, layers, before = self._follow_up, self._layers, self._shown
        if made is None or not 0 <= since < len(made.visits) - 1:
            return
        if before is not None and before.since == since and (sequence is None or sequence in before.earlier.layers):
            return

        def shown(value: Shown) -> None:
            # Names may have been typed meanwhile; whose dates these are has not changed, or this were stale.
            self._shown = value
            self.shown_changed.emit()

        self._jobs.run(
            lambda progress: _look(made, since, layers, sequence, progress, before),
            on_finished=shown,
            on_failed=lambda error: self.fail(error, "Showing the date stopped"),
            topic="follow-up show",
        )

    def export(self, folder: Path) -> None:
        """Write numbers, plot and maps of change into a folder."""
        made = self._follow_up
        if made is None:
            return
        self.dismiss()

        def write(progress: Progress) -> dict[str, Path]:
            from engine import follow_up_files

            return follow_up_files.write(made, folder, progress=progress)

        def written(files: dict[str, Path]) -> None:
            names = ", ".join(path.name for path in files.values())
            self.tell(Problem(f"Saved in {folder.name}: {names}.", note=True))

        self._jobs.run(
            write, on_finished=written, on_failed=lambda error: self.fail(error, "Saving stopped"),
            topic="follow-up save",
        )  # fmt: skip

    def close(self) -> None:
        """Stop everything, and let go of converted series."""
        for topic in ("follow-up find", "follow-up", "follow-up show", "follow-up save"):
            self._jobs.drop(topic)
        self._job = None
        self.entries = []
        self._follow_up = self._shown = None
        if self._workshop is not None:
            self._workshop.close()
            self._workshop = None


def _files_of(date: Date) -> frozenset[Path]:
    patient = date.patient
    if patient.files is not None:
        return frozenset(path.resolve() for path in (*patient.files.files.values(), *patient.files.unknown))
    if patient.study is not None:
        return frozenset(path for series in patient.study.series for path in _paths(series))
    return frozenset()


def _paths(series: Any) -> tuple[Path, ...]:
    return tuple(Path(path) for path in series.files)


def _look(
    made: FollowUp,
    since: int,
    layers: dict[LayerKey, Layer],
    sequence: Sequence | None,
    progress: Progress,
    before: Shown | None = None,
) -> Shown:
    """An earlier date on the latest one's grid, beside it; of its scans the one that is looked at.

    Each takes a second or two, so the others follow when they are looked at.
    """
    visit, latest = made.visits[since], made.latest
    there = visit.point.shown or visit.point.subject
    known = [key for key in layers if isinstance(key, Sequence)]
    instead = {key: _LIKE[key] for key in known if key not in there}
    lent = {key: next(s for s in those if s in there) for key, those in instead.items()}
    # What both dates have is compared best.
    both = [s for s in _BEST if s in known and s not in lent]
    key = sequence if sequence in known else next(iter(both), known[0])
    # Told by the masks: names and baseline may be others by now.
    same = before is not None and before.follow_up.visits[before.since].labels is visit.labels
    taken: dict[LayerKey, Layer] = dict(before.earlier.layers) if before is not None and same else {}
    if key not in taken:
        progress.update(0.0, "bringing a scan along")
        taken[key] = _as_bright(Layer.of(visit.scan_on(lent.get(key, key), made.grid)), layers[key])
    mask = before.mask if before is not None and before.mask.labels is latest.labels else Mask.of(latest.labels, layers)
    earlier = Version(made.names_on_screen[since], Mask.of(visit.labels, taken), taken)
    return Shown(made, since, layers, mask, earlier, lent, key)


def _as_bright(layer: Layer, like: Layer) -> Layer:
    """A scan through whose window tissue looks as bright as in another: scanners agree on no unit."""
    own, other = layer.default_window, like.default_window
    gain = other.width / max(own.width, 1e-6)
    volume = layer.volume
    data = (volume.data - own.low) * gain + other.low
    scaled = Volume(data.astype("float32"), volume.grid, volume.sequence, volume.source, volume.oriented)
    span = tuple((end - own.low) * gain + other.low for end in layer.span)
    return replace(layer, volume=scaled, default_window=other, span=(span[0], span[1]))
