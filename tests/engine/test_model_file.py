"""A model as one file: what comes back is the model, and what is not one is refused and leaves nothing."""

from __future__ import annotations

import json
import pickle
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine import model_file, registry
from engine.errors import BadModel, Cancelled, CannotWrite
from engine.model_card import ModelCard
from engine.model_file import ModelExists
from engine.progress import Progress


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    """A model of the user's: the shipped one for T1 under another name."""
    folder = tmp_path / "here" / "mine"
    shutil.copytree(registry.SHIPPED / "student-t1", folder)
    return replace(ModelCard.read(folder), name="mine", title="T1 student of mine").write(folder)


@pytest.fixture
def packed(card: ModelCard, tmp_path: Path) -> Path:
    return model_file.write(card, tmp_path / "mine")


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    return folder


def repacked(packed: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The same file with other contents, its hashes as they were."""
    with zipfile.ZipFile(packed) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    change(contents)
    path = packed.with_name("other.gliamodel")
    with zipfile.ZipFile(path, "w") as file:
        for name, text in contents.items():
            file.writestr(name, text)
    return path


def test_what_is_written_is_read_back_elsewhere(card: ModelCard, packed: Path, there: Path) -> None:
    assert packed.name == "mine.gliamodel"
    told: list[float] = []
    read = model_file.read(packed, there, progress=Progress(lambda fraction, words: told.append(fraction)))
    assert told[-1] == 1.0
    assert read.folder == there / "mine"
    assert read.files == card.files
    registry.verify(read)
    assert [found.name for found in registry.list_models([there]).models] == ["mine"]
    assert [path.name for path in there.iterdir()] == ["mine"]


def test_names_of_patients_stay_at_home(card: ModelCard, packed: Path, there: Path) -> None:
    assert card.learnt_from
    read = model_file.read(packed, there)
    assert read.learnt_from == frozenset()
    assert read.training["train_cases_count"] == len(card.training["train_cases"])
    with zipfile.ZipFile(packed) as file:
        everything = b"".join(file.read(name) for name in file.namelist())
    assert all(name.encode() not in everything for name in card.learnt_from)


def test_a_model_is_replaced_only_where_the_user_agrees(packed: Path, there: Path) -> None:
    model_file.read(packed, there)
    (there / "mine" / "note").write_text("from before")
    with pytest.raises(ModelExists, match="There is a model called mine already"):
        model_file.read(packed, there)
    assert (there / "mine" / "note").exists()
    model_file.read(packed, there, replace=True)
    assert not (there / "mine" / "note").exists()


def test_the_name_of_a_shipped_model_is_refused(card: ModelCard, tmp_path: Path, there: Path) -> None:
    shipped = registry.find("student-t1", registry.list_models([registry.SHIPPED]).models)
    file = model_file.write(shipped, tmp_path / "shipped.gliamodel")
    for agreed in (False, True):
        with pytest.raises(BadModel, match="A model that came with Gliascope is called student-t1"):
            model_file.read(file, there, replace=agreed)
    assert list(there.iterdir()) == []


def listed_as(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        contents["contents.json"] = json.dumps({**json.loads(contents["contents.json"]), "name": name}).encode()

    return change


def with_pickle_listed(contents: dict[str, bytes]) -> None:
    contents["weights.pkl"] = pickle.dumps({"a": 1})
    listed = json.loads(contents["contents.json"])
    listed["files"]["weights.pkl"] = "0" * 64
    contents["contents.json"] = json.dumps(listed).encode()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda c: c.update({"weights.safetensors": c["weights.safetensors"][:-1] + b"x"}),
            "not the file that was pac",
        ),
        (
            lambda c: c.update({"model.json": c["model.json"].replace(b"T1 student", b"T2 student")}),
            "not the file that",
        ),
        (lambda c: c.pop("network.xml"), "does not hold what it lists"),
        (lambda c: c.pop("contents.json"), "no list of its contents"),
        (lambda c: c.update({"contents.json": b"[1]"}), "list of contents makes no sense"),
        (lambda c: c.update({"contents.json": b"[" * 60_000}), "is not a model that can be used"),
        (lambda c: c.update({"contents.json": b"{" + b" " * 70_000 + b"}"}), "contents.json is too large"),
        (lambda c: c.update({"../../evil.py": b"print()"}), "'../../evil.py' does not belong in one"),
        (lambda c: c.update({"/etc/cron.d/evil": b""}), "does not belong in one"),
        (lambda c: c.update({"sub/model.json": b"{}"}), "does not belong in one"),
        (with_pickle_listed, "'weights.pkl' does not belong in one"),
        (listed_as("../../there"), "cannot be called so"),
        (listed_as(".hidden"), "cannot be called so"),
        (listed_as("other"), "its card is that of mine"),
        (listed_as("student-t1"), "came with Gliascope"),
        (
            lambda c: c.update({"contents.json": c["contents.json"].replace(b'"format": 1', b'"format": 9')}),
            "another ver",
        ),
    ],
)
def test_a_strangers_file_that_is_not_what_it_says_leaves_nothing(
    packed: Path, there: Path, change: Callable[[dict[str, bytes]], None], sentence: str
) -> None:
    before = sorted(there.parent.rglob("*"))
    other = repacked(packed, change)
    with pytest.raises(BadModel) as raised:
        model_file.read(other, there)
    assert sentence in str(raised.value)
    assert sorted(there.parent.rglob("*")) == sorted([*before, other])


def test_a_file_that_is_larger_than_it_says_or_is_in_it_twice_is_refused(
    packed: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(model_file.LARGEST, "weights.safetensors", 1000)
    with pytest.raises(BadModel, match=r"weights\.safetensors is too large"):
        model_file.read(packed, there)
    with zipfile.ZipFile(packed, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("model.json", "{}")
    with pytest.raises(BadModel, match="a file is in it twice"):
        model_file.read(packed, there)
    assert list(there.iterdir()) == []


def test_a_link_in_the_file_is_refused(packed: Path, there: Path) -> None:
    path = packed.with_name("link.gliamodel")
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(path, "w") as file:
        for name in source.namelist():
            entry = zipfile.ZipInfo(name)
            if name == "network.xml":
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(entry, b"/etc/passwd" if name == "network.xml" else source.read(name))
    with pytest.raises(BadModel, match=r"network\.xml is not a plain file"):
        model_file.read(path, there)


@pytest.mark.parametrize("keep", [0, 1000, 0.5, 0.999])
def test_half_a_file_is_told_as_damaged(packed: Path, there: Path, keep: float) -> None:
    whole = packed.read_bytes()
    packed.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(BadModel, match=r"mine\.gliamodel is not a model that can be used"):
        model_file.read(packed, there)
    assert list(there.iterdir()) == []


def test_stopping_and_places_that_do_not_work_leave_nothing(card: ModelCard, packed: Path, there: Path) -> None:
    progress = Progress(lambda fraction, words: progress.cancel() if fraction > 0.3 else None)
    with pytest.raises(Cancelled):
        model_file.read(packed, there, progress=progress)
    assert list(there.iterdir()) == []
    with pytest.raises(BadModel, match="There is no file nowhere"):
        model_file.read(packed.with_name("nowhere.gliamodel"), there)
    (there / "file").write_text("")
    with pytest.raises(CannotWrite):
        model_file.read(packed, there / "file")
    with pytest.raises(CannotWrite):
        model_file.write(card, there / "file" / "mine")
    (card.folder / "network.xml").write_text("<changed/>")
    with pytest.raises(BadModel, match=r"network\.xml of the T1 student of mine is not the file"):
        model_file.write(card, there / "mine")
    assert [path.name for path in there.iterdir()] == ["file"]
