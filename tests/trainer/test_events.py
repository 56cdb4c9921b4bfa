"""Events survive the way through a line of text."""

from __future__ import annotations

import pytest

from trainer import events


@pytest.mark.parametrize(
    "event",
    [
        events.Started("a", "cpu", 10, 0, 1000),
        events.StepEnd(5, 0.5, {"hard": 0.4}, 1e-3, 0.2, 1.0),
        events.Validated(5, {"whole_tumour": 0.8}, 3),
        events.Saved(5, "x"),
        events.Finished(10, "x"),
        events.Stopped(7),
        events.Failed("No space is left."),
    ],
)
def test_there_and_back(event: events.Event) -> None:
    line = events.to_line(event)
    assert "\n" not in line
    assert events.from_line(line) == event


@pytest.mark.parametrize("line", ["{}", '{"event": "Exploded"}', "[1]", "hello"])
def test_other_lines_are_no_events(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        events.from_line(line)
