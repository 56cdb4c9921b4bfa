"""How a long function reports and how it is stopped; the only thing it receives from its caller."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from engine.errors import Cancelled


class Progress:
    """Reports a fraction and a message, and carries the request to stop.

    Thread-safe: `cancel` may be called from any thread while another works.

    Args:
        listener: Called as ``listener(fraction, message)`` with a fraction in 0..1, on the worker's thread.
    """

    def __init__(self, listener: Callable[[float, str], None] | None = None) -> None:
        self._listener = listener
        self._stop = Event()
        self._span = (0.0, 1.0)

    def update(self, fraction: float, message: str) -> None:
        """Report where the work is, then stop if asked to.

        Args:
            fraction: Of this progress' own span, 0..1; clipped.
            message: What is being done, in words: ``"window 3 of 8"``.

        Raises:
            Cancelled: `cancel` was called.
        """
        self.check()
        if self._listener is not None:
            start, stop = self._span
            self._listener(start + (stop - start) * min(1.0, max(0.0, fraction)), message)

    def check(self) -> None:
        """Raise `Cancelled` when the user asked to stop."""
        if self._stop.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """Ask the work to stop at its next check."""
        self._stop.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._stop.is_set()

    def part(self, start: float, stop: float) -> Progress:
        """A progress whose 0..1 is the stretch ``start..stop`` of this one; cancelling either stops both."""
        child = Progress(self._listener)
        child._stop = self._stop
        low, high = self._span
        child._span = (low + (high - low) * start, low + (high - low) * stop)
        return child
