from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.errors import Cancelled, CannotWrite
from engine.files import whole_file


def test_a_file_appears_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "curve.csv"
    with whole_file(path) as partial:
        path.parent.mkdir()
        partial.write_text("step,loss\n")
        assert not path.exists()
    assert path.read_text() == "step,loss\n"
    assert [file.name for file in path.parent.iterdir()] == ["curve.csv"]


@pytest.mark.parametrize("error", [Cancelled(), KeyboardInterrupt(), ValueError("a mistake")])
def test_an_interruption_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("before")
    with pytest.raises(type(error)), whole_file(path) as partial:  # noqa: PT012 - the writing is what is interrupted
        partial.write_text("half")
        raise error
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"curve.csv": "before"}


def test_a_disk_that_fills_up_at_the_end_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match=r"There is no room on the disk for curve\.csv\. Free"):  # noqa: SIM117
        with whole_file(path) as partial:
            partial.write_text("after")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"curve.csv": "before"}


def test_what_does_not_pass_its_check_gets_no_name(tmp_path: Path) -> None:
    def check(partial: Path) -> None:
        raise CannotWrite(f"{partial.read_text()} was looked at")

    with pytest.raises(CannotWrite, match="this was looked at"), whole_file(tmp_path / "x", check=check) as partial:
        partial.write_text("this")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite) as caught, whole_file(tmp_path / "gone" / "x") as partial:
        partial.write_text("this")
    assert str(caught.value) == "There is no folder gone to write to. Choose another folder."
