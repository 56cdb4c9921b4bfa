"""Dates dropped on the window: read, compared, looked at, exported, and stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QColor, QImage
from PySide6.QtWidgets import QApplication, QFileDialog

from app import cli
from app.follow_up import COLOURS, FollowUpWindow
from app.follow_up_model import State
from app.jobs import Jobs
from app.main_window import MainWindow
from app.session import Stage
from app.theme import Theme
from app.viewer_model import Plane
from engine import alignment, flow
from engine.follow_up import GROWN
from engine.model_card import WHOLE_TUMOUR, Role
from engine.volume import REST_OF_WHOLE_TUMOUR, Sequence, Volume
from tests.app import threshold_model
from tests.app.conftest import drop
from tests.engine import phantoms


@pytest.fixture(autouse=True)
def _phantoms_lie_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty slices of a made-up head are no head to be aligned; that is tested on whole ones."""
    still = alignment.Alignment(np.eye(4), True, 0.0, 0.0, 0.9, "good", 0.0)
    monkeypatch.setattr(alignment, "align", lambda *_, **__: still)


def write_date(folder: Path, more_mm: float = 0.0) -> Path:
    """The phantom's T2, its tumour wider by some mm."""
    on = phantoms.grid("LPS")
    volume = phantoms.head(on, Sequence.T2)
    data = volume.data.copy()
    world = on.to_world(np.indices(on.shape).reshape(3, -1).T).reshape(*on.shape, 3)
    away = np.linalg.norm(world - (np.array((3.0, -5.0, 7.0)) + phantoms.TUMOUR_CENTRE), axis=-1)
    data[(away < 4.0 + more_mm) & (data > 0) & (phantoms.tumour(on).data == 0)] = data[
        phantoms.tumour(on).data == REST_OF_WHOLE_TUMOUR
    ].mean()
    phantoms.write_volume(folder / "t2.nii.gz", Volume(data, on, Sequence.T2))
    return folder


@pytest.fixture
def dates(tmp_path: Path) -> list[Path]:
    """Of one patient, dropped in the wrong order."""
    return [write_date(tmp_path / "anna" / "2024-06-10", 1.6), write_date(tmp_path / "anna" / "2024-05-01")]


@pytest.fixture
def follow_up(qapp: QApplication, qtbot, models: Path) -> Iterator[FollowUpWindow]:
    """The window, empty."""
    jobs = Jobs()
    made = FollowUpWindow(Theme("dark"), jobs)
    made.show()
    qtbot.waitExposed(made)
    yield made
    made.model.close()
    made.close()
    jobs.close()
    made.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


@pytest.fixture
def compared(follow_up: FollowUpWindow, dates: list[Path], qtbot) -> FollowUpWindow:
    """Both dates dropped, segmented and compared."""
    drop(follow_up, dates)
    qtbot.waitUntil(lambda: follow_up.model.shown is not None, timeout=30_000)
    return follow_up


def painted(image: QImage, colour: str) -> int:
    """How many pixels have about this colour's hue and are strong."""
    wanted = QColor(colour)
    count = 0
    for y in range(0, image.height(), 2):
        for x in range(0, image.width(), 2):
            here = image.pixelColor(x, y)
            count += abs(here.hue() - wanted.hue()) < 12 and here.saturation() > 120
    return count


def test_a_sequence_is_brought_along_when_it_is_looked_at(follow_up: FollowUpWindow, tmp_path: Path, qtbot) -> None:
    dates = [write_date(tmp_path / day) for day in ("2024-05-01", "2024-06-10")]
    phantoms.write_volume(dates[1] / "t1.nii.gz", phantoms.head(phantoms.grid("LPS"), Sequence.T1))
    drop(follow_up, dates)
    qtbot.waitUntil(lambda: follow_up.model.shown is not None, timeout=30_000)
    views = follow_up.views
    assert views.viewer.shown is Sequence.T2
    assert views.earlier.layer is not None
    views.viewer.show(Sequence.T1)
    qtbot.waitUntil(lambda: views.earlier.layer is not None, timeout=20_000)
    assert views.titles[0].text() == "2024-05-01  (T2 instead of T1)"
    assert views.titles[1].text() == "2024-06-10"
    views.viewer.show(Sequence.T2)
    assert views.earlier.layer is not None


def test_every_date_can_be_segmented_alike(follow_up: FollowUpWindow, models: Path, tmp_path: Path, qtbot) -> None:
    threshold_model.install(models, "pair", (Sequence.T2, Sequence.T1), Role.TEACHER, dice=0.9)
    dates = [write_date(tmp_path / day) for day in ("2024-05-01", "2024-06-10")]
    phantoms.write_volume(dates[1] / "t1.nii.gz", phantoms.head(phantoms.grid("LPS"), Sequence.T1))
    drop(follow_up, dates)
    model = follow_up.model
    qtbot.waitUntil(lambda: model.follow_up is not None, timeout=30_000)
    assert any("not segmented alike" in text.text() for text in follow_up.numbers.texts)
    assert follow_up.numbers.alike_button.text() == "Segment every date with T2 alone"
    qtbot.mouseClick(follow_up.numbers.alike_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: model.follow_up is not None, timeout=30_000)
    assert {entry.point.model for entry in model.entries if entry.point is not None} == {"student t2 1.0"}
    assert not any("not segmented alike" in text.text() for text in follow_up.numbers.texts)
    assert follow_up.numbers.alike_button.text() == "Segment each date with all it has"


def test_two_dates_are_dropped_and_compared(compared: FollowUpWindow) -> None:
    model = compared.model
    assert [entry.title for entry in model.entries] == ["2024-05-01", "2024-06-10"]
    made = model.follow_up
    assert made is not None
    assert made.days == (0, 40)
    assert compared.pages.currentIndex() == 1
    assert made.change(WHOLE_TUMOUR, 0).grown_ml > 0.1
    assert compared.plot.follow_up is made
    assert "2024-06-10: whole tumour" in compared.plot.accessibleDescription()
    assert "since baseline" in compared.plot.accessibleDescription()
    assert any("In the range of" in text.text() for text in compared.numbers.texts)
    assert any("not a response category" in text.text() for text in compared.numbers.texts)
    assert [row.name.text() for row in compared.rail.rows] == ["2024-05-01", "2024-06-10"]


def test_what_grew_is_painted_on_the_latest_date_alone(compared: FollowUpWindow, qtbot) -> None:
    views = compared.views
    qtbot.waitUntil(lambda: views.change.px_per_mm > 2, timeout=5_000)
    assert painted(views.change.grab().toImage(), COLOURS[GROWN]) > 40
    assert painted(views.latest.grab().toImage(), COLOURS[GROWN]) < 10
    grown = views.legend.amounts[GROWN].text()
    assert grown.startswith("grown ")
    views._choose_region("tumour_core")
    assert views.legend.amounts[GROWN].text() != grown


def test_the_views_share_crosshair_and_plane(compared: FollowUpWindow, qtbot) -> None:
    views = compared.views
    qtbot.mouseClick(views.plane_choice.button(Plane.CORONAL), Qt.MouseButton.LeftButton)
    assert {view.plane for view in views.views} == {Plane.CORONAL}
    place = views.viewer.crosshair
    views.viewer.step(Plane.CORONAL, 2)
    assert not np.allclose(place, views.viewer.crosshair)
    assert len({view.index for view in views.views}) == 1


def test_another_earlier_date_can_be_looked_at(compared: FollowUpWindow, dates: list[Path], qtbot) -> None:
    third = write_date(dates[0].parent / "2024-08-01", 1.0)
    drop(compared, [third])
    views, model = compared.views, compared.model
    qtbot.waitUntil(lambda: model.shown is not None and len(model.entries) == 3, timeout=30_000)
    assert [views.since.itemText(at) for at in range(views.since.count())] == ["2024-05-01", "2024-06-10"]
    assert views.titles[0].text() == "2024-06-10"
    views.since.activated.emit(0)
    qtbot.waitUntil(lambda: views.titles[0].text() == "2024-05-01", timeout=20_000)
    assert views.titles[2].text() == "Change since 2024-05-01"
    assert views.earlier.layer is not views.latest.layer


def test_names_and_days_can_be_typed(compared: FollowUpWindow, qtbot) -> None:
    first, second = compared.rail.rows
    first.name.setText("before surgery")
    first.name.editingFinished.emit()
    made = compared.model.follow_up
    assert made is not None
    assert made.names == ("before surgery", "date 2")
    second.name.setText("2024-04-01")
    second.name.editingFinished.emit()
    qtbot.waitUntil(lambda: compared.model.shown is not None, timeout=30_000)
    assert [entry.title for entry in compared.model.entries] == ["2024-04-01", "before surgery"]


def test_another_baseline_and_a_date_left_out(compared: FollowUpWindow) -> None:
    model = compared.model
    model.set_baseline(model.entries[1])
    assert model.follow_up is not None
    assert model.follow_up.baseline == 1
    assert [row.baseline_button.isChecked() for row in compared.rail.rows] == [False, True]
    model.remove(model.entries[0])
    assert model.follow_up is None
    assert compared.pages.currentIndex() == 0
    assert "One date" in compared.invitation.title.text()


def test_export(compared: FollowUpWindow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qtbot) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    qtbot.mouseClick(compared.rail.export_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: compared.model.problem is not None, timeout=20_000)
    assert compared.model.problem is not None
    assert compared.model.problem.sentence.startswith("Saved in out: follow-up.csv")
    assert (tmp_path / "out" / "follow-up_plot.png").is_file()
    assert (tmp_path / "out" / "follow-up.pdf").read_bytes().startswith(b"%PDF")
    text = (tmp_path / "out" / "follow-up.json").read_text("utf-8") + (tmp_path / "out" / "follow-up.csv").read_text()
    assert "2024" not in text
    assert "anna" not in text


def test_cancel_stops_and_go_on_goes_on(
    follow_up: FollowUpWindow, dates: list[Path], monkeypatch: pytest.MonkeyPatch, qtbot
) -> None:
    whole = flow.compute

    def endless(*arguments, progress, **options):
        while True:
            progress.check()

    monkeypatch.setattr(flow, "compute", endless)
    model = follow_up.model
    model.add(dates)
    qtbot.waitUntil(lambda: any(entry.state is State.WORKING for entry in model.entries), timeout=20_000)
    assert follow_up.rail.cancel_button.isVisible()
    qtbot.mouseClick(follow_up.rail.cancel_button, Qt.MouseButton.LeftButton)
    assert not model.busy
    assert follow_up.invitation.title.text() == "Stopped"
    monkeypatch.setattr(flow, "compute", whole)
    qtbot.mouseClick(follow_up.rail.go_on_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: model.follow_up is not None, timeout=30_000)


def test_a_date_that_cannot_be_read_says_why(follow_up: FollowUpWindow, dates: list[Path], qtbot) -> None:
    broken = dates[0].parent / "2024-07-01"
    broken.mkdir()
    (broken / "t2.nii.gz").write_bytes((dates[0] / "t2.nii.gz").read_bytes()[:300])
    follow_up.model.add([*dates, broken])
    qtbot.waitUntil(lambda: follow_up.model.follow_up is not None, timeout=30_000)
    row = follow_up.rail.rows[2]
    assert row.entry.state is State.FAILED
    assert "t2.nii.gz" in row.state.text()
    assert len(follow_up.model.follow_up.visits) == 2


def test_a_saved_mask_of_the_same_scans_is_used(
    follow_up: FollowUpWindow, dates: list[Path], monkeypatch: pytest.MonkeyPatch, qtbot
) -> None:
    for folder in dates:
        flow.segment(folder).save(folder)
    monkeypatch.setattr(flow, "compute", None)  # nothing is segmented again
    follow_up.model.add(dates)
    qtbot.waitUntil(lambda: follow_up.model.follow_up is not None, timeout=30_000)
    for row in follow_up.rail.rows:
        assert "The mask is that of" in row.note.text()


def test_the_patient_on_the_desk_is_one_of_the_dates(
    window: MainWindow, dates: list[Path], monkeypatch: pytest.MonkeyPatch, qtbot
) -> None:
    window.session.open([dates[1]], segment=True)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=30_000)
    window.show_follow_up([dates[0]])
    assert window.follow_up is not None
    model = window.follow_up.model
    qtbot.waitUntil(lambda: model.follow_up is not None, timeout=30_000)
    assert [entry.title for entry in model.entries] == ["2024-05-01", "2024-06-10"]
    assert model.entries[0].date is None
    # Once more, and nothing is there twice.
    window.show_follow_up()
    assert len(model.entries) == 2
    assert model.problem is None


def test_another_date_can_be_dropped_below_the_pictures(window: MainWindow, dates: list[Path], qtbot) -> None:
    window.session.open([dates[1]], segment=True)
    qtbot.waitUntil(lambda: window.session.stage is Stage.DONE, timeout=30_000)
    place = window.layouts.ortho.views[Plane.SAGITTAL]
    drop(window, [dates[0]], on=place)
    qtbot.waitUntil(
        lambda: window.follow_up is not None and window.follow_up.model.follow_up is not None, timeout=30_000
    )
    assert window.session.name == "2024-05-01"


def test_command_line(models: Path, dates: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["follow-up", *map(str, dates), "--out", str(tmp_path / "out"), "--label", "pre", "--label", "post"]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [date["date"] for date in told["dates"]] == ["pre", "post"]
    assert [date["day"] for date in told["dates"]] == [0, 40]
    assert all(Path(path).is_file() for path in told["outputs"].values())
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "post, day 40" in said
    assert "not a response category" in said
    assert cli.main(words[:-2]) == 2
    assert "1 names do not fit 2 dates" in capsys.readouterr().err
    assert cli.main(["follow-up", str(dates[0]), "--out", str(tmp_path / "one")]) == 2
    assert "Add another date." in capsys.readouterr().err
    assert not (tmp_path / "one").exists()
