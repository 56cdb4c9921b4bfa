"""Events survive the way through a line of text, and commands reach the work."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import Cancelled
from engine.progress import Progress
from trainer import events
from trainer.events import Command, Event, Orders, Paused, Resumed


@pytest.mark.parametrize(
    "event",
    [
        events.Started("a", "cpu", 10, 0, 1000),
        events.StepEnd(5, 0.5, {"hard": 0.4}, 1e-3, 0.2, 1.0, 5.0, 812.0, None, 61.5),
        events.Validated(5, {"whole_tumour": 0.8}, 3, True),
        events.Previewed(5, "x"),
        events.Saved(5, "x"),
        events.FellBack("There is no room on the disk."),
        events.Acknowledged("pause"),
        events.Paused(5),
        events.Resumed(5),
        events.Finished(10, "x", "best", 5),
        events.Stopped(7),
        events.Failed("No space is left."),
    ],
)
def test_there_and_back(event: events.Event) -> None:
    line = events.to_line(event)
    assert "\n" not in line
    assert events.from_line(line) == event


@pytest.mark.parametrize("line", ["{}", '{"event": "Exploded"}', "[1]", "hello", '{"event": "Saved"}'])
def test_other_lines_are_no_events(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        events.from_line(line)


def test_events_of_an_older_and_of_a_newer_version_are_understood() -> None:
    older = '{"event": "Validated", "step": 5, "dice": {}, "cases": 3}'
    assert events.from_line(older) == events.Validated(5, {}, 3, False)
    newer = '{"event": "Stopped", "step": 5, "mood": "calm"}'
    assert events.from_line(newer) == events.Stopped(5)


class Told:
    """Remembers events, and lets one wait for a kind of them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.paused = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Paused):
            self.paused.set()


@pytest.mark.parametrize("part", [False, True])
def test_work_waits_from_pause_to_resume(part: bool) -> None:
    told = Told()
    orders = Orders(told)
    orders.check()
    orders.step = 7
    orders.give(Command.PAUSE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit((orders.part(0.2, 0.4) if part else orders).check)
        assert told.paused.wait(10)
        assert told.events == [Paused(7)]
        assert not waiting.done()
        orders.give(Command.RESUME)
        waiting.result(10)
    assert told.events == [Paused(7), Resumed(7)]


def test_stop_and_keep_end_a_pause() -> None:
    told = Told()
    orders = Orders(told)
    orders.give(Command.PAUSE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(orders.check)
        assert told.paused.wait(10)
        orders.give(Command.KEEP)
        waiting.result(10)
        assert orders.keep
        told.paused.clear()
        orders.give(Command.PAUSE)
        waiting = pool.submit(orders.check)
        assert told.paused.wait(10)
        orders.give(Command.STOP)
        assert isinstance(waiting.exception(10), Cancelled)
    assert told.events == [Paused(0), Paused(0)]


def test_a_pause_taken_back_before_the_step_is_over_is_none() -> None:
    told = Told()
    orders = Orders(told)
    orders.give(Command.PAUSE)
    orders.give(Command.RESUME)
    orders.check()
    assert told.events == []


def test_whoever_can_only_cancel_gives_orders_too() -> None:
    heard: list[str] = []
    progress = Progress(lambda _, message: heard.append(message))
    orders = Orders.of(progress, Told())
    orders.update(0.5, "reading anna")
    assert heard == ["reading anna"]
    assert Orders.of(orders, Told()) is orders
    progress.cancel()
    with pytest.raises(Cancelled):
        orders.check()
