from __future__ import annotations

import numpy as np
import pytest

from engine import findings
from engine.findings import Kind
from engine.volume import Grid, LabelMap, Sequence, Volume

GRID = Grid((60, 60, 40), np.array([[1.0, 0, 0, -30], [0, 1, 0, -30], [0, 0, 2, -40], [0, 0, 0, 1]]))


def ball(centre, radius_mm):
    world = GRID.to_world(np.indices(GRID.shape).reshape(3, -1).T).reshape(*GRID.shape, 3)
    return ((world - np.array(centre)) ** 2).sum(axis=3) < radius_mm**2


BRAIN = ball((0, 0, 0), 28)


def labels(whole, core=None):
    data = np.where(whole, 2, 0).astype(np.uint8)
    if core is not None:
        data[core] = 1
    return LabelMap(data, GRID)


def scan(brain=BRAIN):
    return [Volume(np.where(brain, 100.0, 0.0).astype(np.float32), GRID, Sequence.T1)]


def kinds(found):
    return [one.kind for one in found]


def test_a_plain_tumour_in_the_middle_gives_no_reason_to_look():
    tumour = ball((0, 0, 0), 10)
    sure = {"whole_tumour": tumour.astype(np.float32), "tumour_core": np.zeros(GRID.shape, np.float32)}
    assert findings.find(labels(tumour), sure, scan(), labels(tumour)) == ()
    assert findings.find(labels(np.zeros(GRID.shape, bool)), {}, scan()) == ()


def test_an_unsure_place_is_found_and_the_rim_of_every_outline_is_not():
    tumour = ball((0, 0, 0), 10)
    chance = np.where(tumour, 0.95, 0.02).astype(np.float32)
    chance[ball((0, 0, 0), 11) & ~ball((0, 0, 0), 9)] = 0.5  # the rim
    doubtful = ball((0, 15, 0), 6)
    chance[doubtful & ~ball((0, 0, 0), 11)] = 0.4
    found = findings.find(labels(tumour), {"whole_tumour": chance}, scan())
    assert kinds(found) == [Kind.UNSURE]
    assert found[0].amount == pytest.approx(4 / 3 * np.pi * 6**3 / 1000, rel=0.35)
    assert "whole tumour is unsure" in found[0].words
    assert np.linalg.norm(found[0].place - (0, 15, 0)) < 5


def test_a_mask_that_runs_into_the_edge_of_the_brain_is_told_with_its_area():
    tumour = ball((20, 0, 0), 12) & BRAIN
    found = findings.find(labels(tumour), {}, scan())
    assert kinds(found) == [Kind.EDGE]
    assert found[0].amount > 1
    assert f"{found[0].amount:.1f} cm²" in found[0].words
    # Out there, where both end.
    assert np.linalg.norm(found[0].place) == pytest.approx(28, abs=3)
    hollow = BRAIN & ~ball((8, 0, 0), 4)
    inner = ball((0, 0, 0), 6) & hollow
    assert findings.find(labels(inner), {}, scan(hollow)) == (), "a black ventricle is no edge of the brain"


def test_with_the_skull_on_there_is_no_telling_where_the_brain_ends():
    big = Grid(GRID.shape, np.diag([3.0, 3.0, 3.0, 1.0]))
    head = np.ones(GRID.shape, np.float32)
    head[0] = 0
    tumour = np.zeros(GRID.shape, np.uint8)
    tumour[1:20, 10:40, 10:30] = 2
    found = findings.find(LabelMap(tumour, big), {}, [Volume(head, big, Sequence.T1)])
    assert found == ()


def test_islands_are_told_with_size_and_distance():
    found = findings.find(labels(ball((0, 0, 0), 10) | ball((0, -20, 0), 4)), {}, scan())
    assert kinds(found) == [Kind.ISLAND]
    assert found[0].words.endswith("mm from the main tumour")
    distance = float(found[0].words.split(", ")[1].split()[0])
    assert distance == pytest.approx(6, abs=2)
    assert np.linalg.norm(found[0].place - (0, -20, 0)) < 2


def test_disagreement_is_counted_in_ml_and_its_places_are_told():
    mine, theirs = ball((0, 0, 0), 10), ball((0, 0, 0), 10) | ball((0, 14, 0), 7)
    counted = findings.disagreement_ml(labels(mine), labels(theirs))
    assert counted["whole_tumour"] == pytest.approx(np.count_nonzero(theirs & ~mine) * 2 / 1000)
    assert counted["tumour_core"] == 0
    found = findings.find(labels(mine), {}, scan(), labels(theirs), ("the student", "the teacher"))
    assert kinds(found) == [Kind.DISAGREEMENT]
    assert "only the teacher calls tumour" in found[0].words
    assert theirs[tuple(np.rint(GRID.to_voxel(found[0].place[None])[0]).astype(int))]
    assert findings.find(labels(mine), {}, scan(), labels(ball((0, 0, 0), 10.9))) == (), "a rim is no place of its own"
