"""What can go wrong in a way the user can mend, and the one way to stop early."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can understand and mend.

    Shown as it is, in the window and on the command line, so each part is written in the user's words.

    Args:
        what: What happened, naming the file or the thing: ``"scan.nii.gz stops in the middle"``.
        why: The evidence, short: ``"expected 17.9 MB, found 4.2 MB"``. May be empty.
        what_to_do: One sentence in the imperative: ``"Copy it again from its source."``
    """

    def __init__(self, what: str, why: str = "", what_to_do: str = "") -> None:
        self.what = what.strip().rstrip(".")
        self.why = why.strip().rstrip(".")
        self.what_to_do = what_to_do.strip()
        super().__init__(str(self))

    def __str__(self) -> str:
        sentence = f"{self.what} ({self.why})." if self.why else f"{self.what}."
        return f"{sentence} {self.what_to_do}".strip()

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        # The default would rebuild from the sentence alone; jobs may cross a process boundary.
        return (type(self), (self.what, self.why, self.what_to_do))


class UnreadableImage(UserError):
    """A file is not an image this program can use."""


class NotFinite(UnreadableImage):
    """An image holds voxels that are not numbers."""


class ChooseVolume(UnreadableImage):
    """A file holds several volumes and the caller has not said which one.

    Args:
        what: See `UserError`.
        why: See `UserError`.
        what_to_do: See `UserError`.
        count: How many volumes the file holds.
    """

    def __init__(self, what: str, why: str = "", what_to_do: str = "", count: int = 0) -> None:
        self.count = count
        super().__init__(what, why, what_to_do)

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str, int]]:  # type: ignore[override]
        return (type(self), (self.what, self.why, self.what_to_do, self.count))


class GridMismatch(UserError):
    """Two volumes of one subject do not share a grid."""


class SequenceProblem(UserError):
    """A file's sequence is unknown, or two files claim the same one."""


class MissingSequence(UserError):
    """No model works with the sequences that are here."""


class BadModel(UserError):
    """A model folder is incomplete, changed, or newer than this program."""


class CannotWrite(UserError):
    """An output could not be written; nothing half-written is left behind."""


class OutOfMemory(UserError):
    """Every step of the memory ladder failed."""


class Cancelled(Exception):
    """The user asked to stop; raised by `Progress.check` and caught only where jobs end."""
