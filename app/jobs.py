"""The one way off the UI thread.

A job is a plain function whose last argument is an `engine.progress.Progress`. It returns a value or raises; exactly
one of its `on_finished`, `on_failed` and `on_cancelled` is then called on the UI thread. A job that was replaced by a
newer one of the same topic is stale: it is asked to stop, and nothing it says is delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

from PySide6.QtCore import QObject, Qt, Signal, Slot

from engine.errors import Cancelled
from engine.progress import Progress

T = TypeVar("T")

# A progress bar gains nothing from more than 25 reports a second, and each is work for the UI thread.
REPORT_EVERY_S = 0.04


class Queue(Enum):
    """Where a job waits for its turn."""

    READING = auto()
    COMPUTING = auto()
    WATCHING = auto()


class _Kind(Enum):
    PROGRESS = auto()
    FINISHED = auto()
    FAILED = auto()
    CANCELLED = auto()


@dataclass(eq=False)
class Job:
    """One piece of work on its way.

    Attributes:
        id: Unique while the program runs.
        topic: Jobs of one topic replace each other; empty for none.
        progress: What the function reports to, and how it is stopped.
    """

    id: int
    topic: str
    progress: Progress
    on_finished: Callable[[Any], None]
    on_failed: Callable[[Exception], None]
    on_cancelled: Callable[[], None] | None
    on_progress: Callable[[float, str], None] | None
    future: Future[None] | None = field(default=None)

    def cancel(self) -> None:
        """Ask the function to stop at its next check; `on_cancelled` follows."""
        self.progress.cancel()


class Jobs(QObject):
    """Runs functions on threads and brings what they say back to the UI thread.

    Three queues: a small pool for reading files, a single thread for computing, because two segmentations at once are
    slower than one after the other and take twice the memory, and one for listening to a training and telling it what
    to do, which must not wait for either.

    Signals:
        idle: The last job running has ended.
    """

    idle = Signal()
    _said = Signal(int, object, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._pools = {
            Queue.READING: ThreadPoolExecutor(2, thread_name_prefix="reading"),
            Queue.COMPUTING: ThreadPoolExecutor(1, thread_name_prefix="computing"),
            Queue.WATCHING: ThreadPoolExecutor(3, thread_name_prefix="watching"),
        }
        self._running: dict[int, Job] = {}
        self._unfinished: set[int] = set()
        self._last_id = 0
        self._closed = False
        self._said.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    def run(
        self,
        function: Callable[..., T],
        *arguments: Any,
        on_finished: Callable[[T], None],
        on_failed: Callable[[Exception], None],
        on_cancelled: Callable[[], None] | None = None,
        on_progress: Callable[[float, str], None] | None = None,
        queue: Queue = Queue.READING,
        topic: str = "",
    ) -> Job:
        """Start ``function(*arguments, progress)`` away from the UI thread.

        Args:
            function: Touches no widget and no Qt object.
            arguments: What it gets before the `Progress`.
            on_finished: Gets the value returned.
            on_failed: Gets what was raised. There is no default: a failure is always shown to somebody.
            on_cancelled: Called when the function stopped because it was asked to.
            on_progress: Gets a fraction 0..1 and a message.
            queue: Which queue it waits in.
            topic: An earlier job of the same topic becomes stale.

        Returns:
            The job, to cancel it.
        """
        if topic:
            self.drop(topic)
        self._last_id += 1
        number = self._last_id
        last_report = 0.0

        def report(fraction: float, message: str) -> None:
            nonlocal last_report
            now = time.monotonic()
            if now - last_report >= REPORT_EVERY_S or fraction >= 1.0:
                last_report = now
                self._said.emit(number, _Kind.PROGRESS, (fraction, message))

        job = Job(number, topic, Progress(report), on_finished, on_failed, on_cancelled, on_progress)
        self._running[number] = job
        self._unfinished.add(number)
        job.future = self._pools[queue].submit(self._work, job, function, arguments)
        return job

    def drop(self, topic: str) -> None:
        """Make every job of this topic stale: stop it, and deliver nothing more of it."""
        for number in [n for n, job in self._running.items() if job.topic == topic]:
            self._running.pop(number).cancel()

    @property
    def busy(self) -> bool:
        """Whether any function is still running, stale ones included."""
        return bool(self._unfinished)

    def close(self) -> None:
        """Stop everything and wait for the threads to end; nothing is delivered afterwards."""
        if self._closed:
            return
        self._closed = True
        for job in self._running.values():
            job.cancel()
        self._running.clear()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        self._unfinished.clear()

    def _work(self, job: Job, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        """On the worker's thread."""
        try:
            job.progress.check()
            value = function(*arguments, job.progress)
        except Cancelled:
            self._said.emit(job.id, _Kind.CANCELLED, None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is handed over and shown
            self._said.emit(job.id, _Kind.FAILED, error)
        else:
            self._said.emit(job.id, _Kind.FINISHED, value)

    @Slot(int, object, object)
    def _deliver(self, number: int, kind: _Kind, value: Any) -> None:
        """On the UI thread."""
        job = self._running.get(number)
        if kind is _Kind.PROGRESS:
            # A report may still be on its way when the user has cancelled; the window has moved on by then.
            if job is not None and job.on_progress is not None and not job.progress.cancelled:
                job.on_progress(*value)
            return
        self._unfinished.discard(number)
        if job is not None:
            del self._running[number]
            # Whoever pressed Cancel must not be handed a result because the last window was just done.
            if kind is _Kind.FINISHED and not job.progress.cancelled:
                job.on_finished(value)
            elif kind is _Kind.FAILED:
                job.on_failed(value)
            elif job.on_cancelled is not None:
                job.on_cancelled()
        if not self._unfinished:
            self.idle.emit()
