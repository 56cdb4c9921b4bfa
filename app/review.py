"""A second look at a result: what it can be compared with, where to look, and what it measures.

What takes time happens in jobs; what is said here is always about the mask on screen, never about one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, Signal

from app import DEMO, tasks
from app.jobs import Jobs, Queue
from app.session import Session, Stage
from app.tasks import Looked, UnknownConvention
from app.telling import Problem
from app.viewer_model import Layout, Mask, Plane, Point, Ruler, Version, ViewerModel

if TYPE_CHECKING:
    from engine.findings import Finding
    from engine.inference import Segmentation
    from engine.model_card import ModelCard
    from engine.nifti import Convention

TRUTH = "Ground truth"
# After the last of several changes, so that a mask under correction is looked through once and not ten times.
LOOK_AFTER_MS = 250


@dataclass(frozen=True)
class Offer:
    """Something to compare with.

    Attributes:
        title: What it is.
        act: Compare with it; what is not there yet is read or made first.
        chosen: Whether it is what is compared with now.
    """

    title: str
    act: Callable[[], None]
    chosen: bool = False


@dataclass(frozen=True)
class Look:
    """A patient to be opened in the viewer.

    Attributes:
        scans: The files of the sequences, or the DICOM exports.
        truth: The ground truth, to compare with; ``None`` without one.
        mask: What a network made of it; ``None`` where there is nothing to show.
        title: What the mask is called, such as ``"Student T1"``.
        convention: What the labels of the truth mean; told from the file when not given.
    """

    scans: tuple[Path, ...]
    truth: Path | None = None
    mask: Path | None = None
    title: str = ""
    convention: Convention | None = None


class Review(QObject):
    """The versions of the patient on the desk, and what is known of the one on screen.

    Signals:
        changed: There are other versions, another one is on its way, or more is known of the mask.
    """

    changed = Signal()

    def __init__(self, model: ViewerModel, session: Session, jobs: Jobs, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._model, self._session, self._jobs = model, session, jobs
        self._versions: dict[str, Version] = {}
        self._patient: object = None
        self._looked: Looked | None = None
        self._coming = ""
        self._title = ""
        self._at = -1
        self._lesion = -1
        self._wanted: str | None = None
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(LOOK_AFTER_MS)
        self._later.timeout.connect(self._look)
        session.patient_changed.connect(self._follow)
        model.labels_changed.connect(self._mask_changed)
        model.layers_changed.connect(self._mask_changed)
        model.other_changed.connect(self._look_anew)

    # Versions

    @property
    def name(self) -> str:
        """What the mask on screen is called."""
        result = self._session.result
        if result is None:
            return self._title or "This scan"
        title = result.segmentation.card.title
        return title[:1].upper() + title[1:]

    @property
    def coming(self) -> str:
        """What is being read or made to compare with, in words; empty for nothing."""
        return self._coming

    def offers(self) -> list[Offer]:
        """What the patient on the desk can be compared with, those at hand first."""
        model, session = self._model, self._session
        chosen = model.other.name if model.other is not None else None
        at_hand = [
            Offer(name, lambda version=version: self.compare(version), name == chosen)  # type: ignore[misc]
            for name, version in self._versions.items()
        ]
        if session.truth is not None and TRUTH not in self._versions:
            at_hand.append(Offer(TRUTH, self.compare_truth))
        subject, result = session.subject, session.result
        if subject is not None and session.stage in (Stage.READY, Stage.DONE):
            for card in session.models:
                title = _capital(card.title)
                own = result is not None and result.segmentation.card.name == card.name
                if not own and title not in self._versions and card.usable(subject):
                    at_hand.append(Offer(title, lambda card=card: self.compare_model(card)))  # type: ignore[misc]
        return at_hand

    def compare(self, version: Version | None) -> None:
        """Compare with a version that is at hand, or with nothing."""
        if version is not None:
            self._versions[version.name] = version
        self._coming = ""
        self._model.set_other(version)
        self.changed.emit()

    def compare_truth(self) -> None:
        """Compare with the segmentation that lies beside the scans."""
        path = self._session.truth
        if path is not None:
            from engine.nifti import Convention

            self.compare_file(path, TRUTH, Convention.GLIASCOPE if path.parent == DEMO else None)

    def show_file(
        self,
        path: Path,
        title: str,
        convention: Convention | None,
        truth: Path | None = None,
        truth_convention: Convention | None = None,
    ) -> None:
        """Show a mask that was made elsewhere as if it were the result, and go to where it is largest.

        Args:
            path: The mask.
            title: What it is called.
            convention: What its labels mean; told from the file when not given.
            truth: What it is to be compared with once it is there.
            truth_convention: What the labels of that mean; told from the file when not given.
        """
        worked = self._session.worked
        if worked is None:
            return

        def show(read: tuple[Mask, str]) -> None:
            mask, note = read
            self._title = title
            self._model.set_mask(mask)
            self._session.go_to_largest()
            self.changed.emit()
            if truth is not None:
                self.compare_file(truth, TRUTH, truth_convention)
            self._tell_note(note)

        self._jobs.run(
            tasks.read_mask,
            path,
            convention,
            self._model.layers,
            worked,
            on_finished=show,
            on_failed=lambda error: self._session.fail(error, "Showing the mask stopped"),
            topic="shown",
        )

    def compare_file(self, path: Path, name: str = "", convention: Convention | None = None) -> None:
        """Compare with a mask in a file; where its labels do not say what they mean, ask."""
        worked = self._session.worked
        if worked is None:
            return
        self._begin(name or path.name)

        def compare(read: tuple[Mask, str]) -> None:
            mask, note = read
            self.compare(Version(name or path.name, mask))
            self._tell_note(note)

        def failed(error: Exception) -> None:
            self._end()
            if isinstance(error, UnknownConvention):
                from engine.nifti import Convention

                choices = tuple((kind.title, self._answer(path, name, kind)) for kind in Convention)
                self._session.tell(Problem(f"{error.what}. Which labels are these?", choices))
                return
            self._session.fail(error, "Comparing stopped")

        self._jobs.run(
            tasks.read_mask,
            path,
            convention,
            self._model.layers,
            worked,
            on_finished=compare,
            on_failed=failed,
            topic="compare",
        )

    def _tell_note(self, note: str) -> None:
        if note:
            self._session.tell(Problem(note, note=True))

    def _answer(self, path: Path, name: str, convention: Convention) -> Callable[[], None]:
        # No default arguments: a button would hand over its own.
        def answer() -> None:
            self._session.dismiss()
            self.compare_file(path, name, convention)

        return answer

    def compare_model(self, card: ModelCard) -> None:
        """Segment with another model too, and compare with that."""
        subject = self._session.subject
        if subject is None:
            return
        from engine import registry

        self._begin(_capital(card.title))

        def finished(value: tuple[Segmentation, Mask]) -> None:
            self.compare(Version(_capital(card.title), value[1]))

        self._jobs.run(
            tasks.segment_alone,
            subject,
            registry.choose_named(tuple(subject), card),
            self._model.layers,
            on_finished=finished,
            on_failed=self._failed,
            on_cancelled=self._end,
            queue=Queue.COMPUTING,
            topic="compare",
        )

    def compare_earlier(self, paths: list[Path]) -> None:
        """Compare with an earlier scan of the same patient; it is aligned where it lies elsewhere."""
        worked = self._session.worked
        if worked is None or not paths:
            return
        self._begin("earlier scan")
        self._jobs.run(
            tasks.read_earlier,
            paths,
            worked,
            on_finished=self.compare,
            on_failed=self._failed,
            queue=Queue.COMPUTING,
            topic="compare",
        )

    def _begin(self, name: str) -> None:
        self._coming = name
        self._model.set_layout(Layout.COMPARE)
        self.changed.emit()

    def _end(self) -> None:
        self._coming = ""
        self.changed.emit()

    def _failed(self, error: Exception) -> None:
        self._end()
        self._session.fail(error, "Comparing stopped")

    def _follow(self) -> None:
        """Another patient, or other files of this one: nothing of what was there holds any more."""
        subject = self._session.subject
        if subject is not self._patient:
            self._patient = subject
            self._jobs.drop("compare")
            self._jobs.drop("shown")
            self._versions, self._coming, self._title = {}, "", ""
        self.changed.emit()

    # A second look

    @property
    def looked(self) -> Looked | None:
        """What is known of the mask on screen; None while it is being looked through, and without a mask."""
        return self._looked

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Places worth a look."""
        return self._looked.findings if self._looked is not None else ()

    @property
    def at(self) -> int:
        """Which of the findings was gone to last; -1 for none."""
        return self._at

    @property
    def difference(self) -> str:
        """By how much the two that are compared differ, in words; empty while that is not known."""
        looked = self._looked
        if looked is None or looked.disagreement is None or looked.dice is None:
            return ""
        apart, dice = looked.disagreement, looked.dice
        return (
            f"Dice {dice['whole_tumour']:.2f}, core {dice['tumour_core']:.2f}   "
            f"differ by {apart['whole_tumour']:.1f} ml, core {apart['tumour_core']:.1f} ml"
        )

    def go_to_finding(self, number: int) -> None:
        """Put the crosshair into a place worth a look."""
        if 0 <= number < len(self.findings):
            self._at = number
            self._model.move_crosshair(self.findings[number].place)
            self.changed.emit()

    def next_finding(self, step: int) -> None:
        """To the next place worth a look, or with -1 to the one before; round and round."""
        if self.findings:
            begin = -1 if step > 0 and self._at < 0 else self._at if self._at >= 0 else 0
            self.go_to_finding((begin + step) % len(self.findings))

    def next_lesion(self, step: int) -> None:
        """To the next piece of tumour, from large to small, or with -1 to the one before; round and round."""
        lesions: tuple[tuple[float, Point], ...] = self._looked.lesions if self._looked is not None else ()
        if lesions:
            begin = -1 if step > 0 and self._lesion < 0 else self._lesion if self._lesion >= 0 else 0
            self._lesion = (begin + step) % len(lesions)
            self._model.move_crosshair(lesions[self._lesion][1])

    def show_diameters(self, region: str = "") -> bool:
        """Go to the slice where a region is largest and show its two diameters there.

        Args:
            region: ``"core"`` or ``"whole_tumour"``; the core, if there is one, when not given.

        Returns:
            Whether there is something to measure. While the mask is being looked through, the lines come after that.
        """
        if self._looked is None:
            self._wanted = region if self._model.mask is not None else None
            return self._wanted is not None
        measured = self._looked.diameters
        lines = measured.get(region) if region else next(iter(measured.values()), None)
        if lines is None:
            return False
        if self._model.layout is not Layout.PLANES:
            self._model.set_layout(plane=Plane.AXIAL)
        self._model.move_crosshair(lines.longest.mean(axis=0))
        self._model.set_ruler(Ruler(Plane.AXIAL, lines))
        return True

    def put_diameters_away(self) -> None:
        """Show no lines, and none that are still to come."""
        self._wanted = None
        self._model.set_ruler(None)

    def _mask_changed(self) -> None:
        ruler = self._model.ruler
        if ruler is not None and not ruler.by_hand:
            # It was measured on a mask that is no more.
            self._model.set_ruler(None)
        self._wanted = None
        self._look_anew()

    def _look_anew(self) -> None:
        if self._model.mask is None:
            self._later.stop()
            self._jobs.drop("look")
        else:
            self._later.start()
        self._looked, self._at, self._lesion = None, -1, -1
        self.changed.emit()

    def _look(self) -> None:
        model = self._model
        if model.mask is None:
            return
        other = model.other if model.other is not None and not model.other.layers else None
        own = _little(self.name) if self._session.result is not None else "this mask"
        names = (own, _little(other.name) if other is not None else "")
        self._jobs.run(
            tasks.look_again,
            model.mask,
            {key: layer.volume for key, layer in model.layers.items()},
            other.mask if other is not None else None,
            names,
            on_finished=self._have_looked,
            on_failed=self._failed,
            topic="look",
        )

    def _have_looked(self, looked: Looked) -> None:
        self._looked = looked
        self.changed.emit()
        if self._wanted is not None:
            region, self._wanted = self._wanted, None
            self.show_diameters(region)


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _little(name: str) -> str:
    """A name within a sentence: T1 and FLAIR keep their capitals."""
    first = name.split(" ")[0]
    small = name if not first.isalpha() or first.isupper() else name[:1].lower() + name[1:]
    return small if small.startswith("the ") or "." in name else f"the {small}"
