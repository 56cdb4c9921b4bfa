from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from app.jobs import Jobs, Queue
from engine.progress import Progress


class Outcome:
    """Everything a job said, in order, and on which thread."""

    def __init__(self) -> None:
        self.said: list[tuple[str, object]] = []
        self.threads: set[int] = set()

    def hear(self, kind: str, value: object = None) -> None:
        self.said.append((kind, value))
        self.threads.add(threading.get_ident())

    def callbacks(self) -> dict:
        return {
            "on_finished": lambda value: self.hear("finished", value),
            "on_failed": lambda error: self.hear("failed", error),
            "on_cancelled": lambda: self.hear("cancelled"),
        }

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.said]


@pytest.fixture
def jobs(qapp) -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()


def wait_until_stopped(started: threading.Event, progress: Progress) -> str:
    started.set()
    while True:
        progress.check()
        threading.Event().wait(0.002)


def test_a_value_arrives_once_and_on_the_ui_thread(jobs, qtbot):
    outcome = Outcome()
    with qtbot.waitSignal(jobs.idle):
        jobs.run(lambda a, b, progress: a + b, 2, 3, **outcome.callbacks())
    assert outcome.said == [("finished", 5)]
    assert outcome.threads == {threading.get_ident()}


def test_the_function_runs_on_another_thread(jobs, qtbot):
    outcome = Outcome()
    with qtbot.waitSignal(jobs.idle):
        jobs.run(lambda progress: threading.get_ident(), **outcome.callbacks())
    assert outcome.said[0][1] != threading.get_ident()


def test_what_is_raised_is_handed_over(jobs, qtbot):
    outcome, mistake = Outcome(), ValueError("no")

    def fail(progress: Progress) -> None:
        raise mistake

    with qtbot.waitSignal(jobs.idle):
        jobs.run(fail, **outcome.callbacks())
    assert outcome.said == [("failed", mistake)]


def test_cancelling_stops_a_running_function(jobs, qtbot):
    outcome, started = Outcome(), threading.Event()
    job = jobs.run(wait_until_stopped, started, **outcome.callbacks())
    assert started.wait(5)
    with qtbot.waitSignal(jobs.idle):
        job.cancel()
    assert outcome.kinds == ["cancelled"]


def test_a_result_that_comes_after_cancel_is_not_delivered(jobs, qtbot):
    outcome, started, go = Outcome(), threading.Event(), threading.Event()

    def deaf(progress: Progress) -> int:
        started.set()
        go.wait(5)
        return 1

    job = jobs.run(deaf, **outcome.callbacks())
    assert started.wait(5)
    job.cancel()
    with qtbot.waitSignal(jobs.idle):
        go.set()
    assert outcome.kinds == ["cancelled"]


def test_a_newer_job_of_the_same_topic_makes_the_older_one_stale(jobs, qtbot):
    old, new, started = Outcome(), Outcome(), threading.Event()
    jobs.run(wait_until_stopped, started, topic="open", **old.callbacks())
    assert started.wait(5)
    with qtbot.waitSignal(jobs.idle):
        jobs.run(lambda progress: "new", topic="open", **new.callbacks())
    assert old.said == []
    assert new.said == [("finished", "new")]


def test_computing_is_one_after_the_other(jobs, qtbot):
    running, most, lock = [0], [0], threading.Lock()

    def compute(progress: Progress) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.01)
        with lock:
            running[0] -= 1

    with qtbot.waitSignal(jobs.idle):
        for _ in range(4):
            jobs.run(compute, queue=Queue.COMPUTING, **Outcome().callbacks())
    assert most == [1]


def test_progress_is_heard_and_ends_with_the_whole(jobs, qtbot):
    heard: list[tuple[float, str]] = []

    def work(progress: Progress) -> None:
        for n in range(1001):
            progress.update(n / 1000, f"step {n}")

    with qtbot.waitSignal(jobs.idle):
        jobs.run(work, on_progress=lambda fraction, message: heard.append((fraction, message)), **Outcome().callbacks())
    assert heard[-1] == (1.0, "step 1000")
    assert heard == sorted(heard, key=lambda report: report[0])
    assert len(heard) < 100, "a window has no use for a thousand reports"


def test_closing_ends_every_thread_and_delivers_nothing(jobs, qtbot):
    outcome, started = Outcome(), threading.Event()
    jobs.run(wait_until_stopped, started, **outcome.callbacks())
    assert started.wait(5)
    jobs.close()
    qtbot.wait(20)
    assert outcome.said == []
    assert not [t for t in threading.enumerate() if t.name.startswith(("reading", "computing"))]
