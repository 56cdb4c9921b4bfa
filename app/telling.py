"""What a window tells the user in one line: a problem, a question or a note."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from engine.errors import UserError


@dataclass(frozen=True)
class Problem:
    """Something to tell the user, with what can be done about it.

    Attributes:
        sentence: What happened, why, and what to do.
        actions: Titles and what they do.
        volumes: For a file that holds several volumes: the file and how many.
        details: For somebody who mends the program; empty for what the user can mend.
        note: True when nothing went wrong.
    """

    sentence: str
    actions: tuple[tuple[str, Callable[[], None]], ...] = ()
    volumes: tuple[Path, int] | None = None
    details: str = ""
    note: bool = False


class Teller(QObject):
    """Whoever has something to tell; a `app.cards.Banner` shows it.

    Signals:
        problem_changed: There is something to tell, or nothing any more.
    """

    problem_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._problem: Problem | None = None

    @property
    def problem(self) -> Problem | None:
        """What there is to tell, if anything."""
        return self._problem

    def tell(self, problem: Problem) -> None:
        """Tell or ask something."""
        self._tell(problem)

    def dismiss(self) -> None:
        """The message was read."""
        self._tell(None)

    def fail(self, error: BaseException, doing: str) -> None:
        """Show an error: the user's sentence, or for anything unexpected a calm one with details to copy."""
        if isinstance(error, UserError):
            self._tell(Problem(str(error)))
            return
        if isinstance(error, MemoryError):
            self._tell(Problem(f"{doing} for lack of memory. Close other programs and try again."))
            return
        details = "".join(traceback.format_exception(error))
        self._tell(
            Problem(
                f"{doing} because of a mistake in Gliascope itself ({type(error).__name__}). "
                "Nothing was lost; copy the details for whoever looks after it, and try again.",
                details=details,
            )
        )

    def _tell(self, problem: Problem | None) -> None:
        if problem is not self._problem:
            self._problem = problem
            self.problem_changed.emit()


def time_left(low: float, high: float) -> str:
    """Seconds that are left as people say it: ``"35 to 48 min"``, ``"2 to 3 h"``, ``"less than a minute"``."""
    if high < 60:
        return "less than a minute"
    units = ((60, "min", 90 * 60), (3600, "h", 48 * 3600), (86400, "days", float("inf")))
    size, unit = next((size, unit) for size, unit, until in units if high <= until)
    # A quarter of an hour in the estimate of half a day means nothing.
    digits = 1 if unit != "min" and high / size < 10 else 0
    ends = [f"{max(value / size, 10**-digits):.{digits}f}" for value in (low, high)]
    return f"{ends[1]} {unit}" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} {unit}"
