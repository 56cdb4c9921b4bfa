"""A model as one file to hand on: ``.gliamodel``, a zip of the model's folder with the hash of everything in it.

Reading one runs nothing, writes nowhere but into the folder of models, and leaves nothing behind where a check fails.
The hashes tell damage and careless changes; they do not prove who made a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace as replaced
from pathlib import Path
from typing import IO, Any

from engine import registry
from engine.errors import BadModel, UserError
from engine.files import shown, unwritten, whole_file
from engine.model_card import CARD_NAME, NETWORK_XML, REQUIRED_FILES, WEIGHTS, ModelCard, check_name
from engine.progress import Progress

SUFFIX = ".gliamodel"
CONTENTS = "contents.json"
FORMAT = 1
LARGEST = {CONTENTS: 64 * 1024, CARD_NAME: 4 * 1024**2, NETWORK_XML: 64 * 1024**2, WEIGHTS: 2 * 1024**3}
"""Bytes of each file at most; there can be no other."""
_CHUNK = 1024 * 1024
_PATIENTS = ("train_cases", "validation_cases")


class ModelExists(BadModel):
    """There is a model of that name already; it is replaced only where the user agrees."""


def check_free(name: str, models: Path, replace: bool = False) -> None:
    """See that a new model may be called so.

    Args:
        name: Of the model.
        models: Folder of the user's models.
        replace: Whether the user agreed to replace a model of the same name.

    Raises:
        ModelExists: One of that name is there and ``replace`` is not given.
        BadModel: It is no name, or that of a model which came with Gliascope.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise BadModel("The model cannot be called so", str(error), "Choose another name.") from error
    if (registry.SHIPPED / name).exists():
        raise BadModel(f"A model that came with Gliascope is called {name}", "", "Choose another name.")
    if (models / name).exists() and not replace:
        raise ModelExists(f"There is a model called {name} already", "", "Replace it, or choose another name.")


def write(card: ModelCard, path: Path, progress: Progress | None = None) -> Path:
    """Write a model as one file.

    Names of the patients it was trained on stay here: the file says only how many they were.

    Args:
        card: The model.
        path: The file; its ending is added where it lacks.
        progress: Told how far it is.

    Returns:
        The file.

    Raises:
        BadModel: The model's files are not those its card was written for.
        CannotWrite: The system refused.
    """
    progress = progress or Progress()
    path = path if path.suffix.lower() == SUFFIX else path.with_name(path.name + SUFFIX)
    progress.update(0.0, f"checking {card.name}")
    registry.verify(card)
    public = replaced(card, training=_without_names(card.training))
    text = json.dumps(public.to_json(), indent=1, ensure_ascii=False).encode()
    contents = {
        "format": FORMAT,
        "name": card.name,
        "files": {CARD_NAME: hashlib.sha256(text).hexdigest(), **card.files},
    }
    sizes = {name: (card.folder / name).stat().st_size for name in card.files}
    with whole_file(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(CONTENTS, json.dumps(contents, indent=1))
            file.writestr(CARD_NAME, text)
            done = 0
            for name in card.files:
                with (card.folder / name).open("rb") as source, file.open(name, "w", force_zip64=True) as target:
                    while chunk := source.read(_CHUNK):
                        target.write(chunk)
                        done += len(chunk)
                        progress.update(done / sum(sizes.values()), f"writing {path.name}")
    return path


def read(path: Path, models: Path, replace: bool = False, progress: Progress | None = None) -> ModelCard:
    """Check a model file and put the model among the user's.

    Args:
        path: The file.
        models: Folder of the user's models.
        replace: Whether the user agreed to replace a model of the same name.
        progress: Told how far it is.

    Returns:
        The card of the model in its new place.

    Raises:
        ModelExists: One of that name is there and ``replace`` is not given.
        BadModel: It is no model file, or damaged, or holds what does not belong in one, or is called as one that came
            with Gliascope.
        CannotWrite: The system refused.
        Cancelled: Asked to stop; nothing was changed.
    """
    progress = progress or Progress()
    progress.update(0.0, f"opening {shown(path)}")
    try:
        with zipfile.ZipFile(path) as file:
            contents = _contents(file, path)
            name = contents["name"]
            check_free(name, models, replace)
            partial = models / f".{name}.import"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                _unpack(file, contents["files"], partial, path, progress)
                return put(partial, models / name)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        # Damaged, locked with a password, or packed in a way that zip files seldom are.
        raise _bad(path, str(error) or "it is damaged") from error
    except FileNotFoundError as error:
        if not path.exists():
            raise BadModel(f"There is no file {shown(path)}", "", "Check the path.") from error
        raise unwritten(models / path.stem, error) from error
    except OSError as error:
        if isinstance(error, PermissionError) and not os.access(path, os.R_OK):
            raise BadModel(f"{shown(path)} cannot be read", error.strerror or "", "Check its permissions.") from error
        raise unwritten(models / path.stem, error) from error


def put(folder: Path, place: Path) -> ModelCard:
    """Check a finished model folder and move it to its place, where it appears whole or not at all.

    Args:
        folder: Beside ``place``, under another name.
        place: Where it is to be; what is there stays until the new one is whole.

    Raises:
        BadModel: A file is not the one the card was written for.
        OSError: The system refused.
    """
    card = ModelCard.read(folder)
    registry.verify(card)
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.replace(place, old)
    try:
        os.replace(folder, place)
    except OSError:
        if old.exists():
            os.replace(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return ModelCard.read(place)


def _contents(file: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """The list of contents, once it is sure that the zip holds what it lists, once each and not too large."""
    entries = file.infolist()
    names = [entry.filename for entry in entries]
    strange = [name for name in names if name not in LARGEST]
    if strange:
        raise _bad(path, f"{strange[0][:60]!r} does not belong in one")
    if len(set(names)) < len(names):
        raise _bad(path, "a file is in it twice")
    if CONTENTS not in names:
        raise _bad(path, "it has no list of its contents")
    for entry in entries:
        if entry.file_size > LARGEST[entry.filename]:
            raise _bad(path, f"{entry.filename} is too large")
        kind = entry.external_attr >> 16 & 0o170000
        if entry.is_dir() or kind not in (0, 0o100000):
            raise _bad(path, f"{entry.filename} is not a plain file")
    with file.open(CONTENTS) as stream:
        contents = json.loads(_limited(stream, CONTENTS, path))
    if not isinstance(contents, dict) or not isinstance(contents.get("files"), dict):
        raise _bad(path, "its list of contents makes no sense")
    if contents.get("format") != FORMAT:
        raise BadModel(f"{shown(path)} was made by another version of Gliascope", "", "Update this one.")
    if set(contents["files"]) != {CARD_NAME, *REQUIRED_FILES} or set(names) != {CONTENTS, *contents["files"]}:
        raise _bad(path, "it does not hold what it lists")
    if not isinstance(contents.get("name"), str):
        raise _bad(path, "it has no name")
    return contents


def _unpack(file: zipfile.ZipFile, hashes: Mapping[str, str], folder: Path, path: Path, progress: Progress) -> None:
    """Write what was listed into a new folder, each file no larger than allowed and with the hash that was listed."""
    folder.mkdir(parents=True)
    total = sum(file.getinfo(name).file_size for name in hashes) or 1
    done = 0
    for name, expected in hashes.items():
        digest = hashlib.sha256()
        size = 0
        with file.open(name) as source, (folder / name).open("wb") as target:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > LARGEST[name]:  # the zip's own word for its size was not true
                    raise _bad(path, f"{name} is too large")
                digest.update(chunk)
                target.write(chunk)
                done += len(chunk)
                progress.update(min(1.0, done / total), f"checking {name}")
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != expected:
            raise _bad(path, f"{name} is not the file that was packed")
    card = ModelCard.read(folder)
    if card.name != folder.name.removeprefix(".").removesuffix(".import"):
        raise _bad(path, f"its card is that of {card.name}")
    for name in card.files:
        if name not in REQUIRED_FILES:
            raise _bad(path, f"{name} does not belong in one")


def _limited(stream: IO[bytes], name: str, path: Path) -> bytes:
    text = stream.read(LARGEST[name] + 1)
    if len(text) > LARGEST[name]:
        raise _bad(path, f"{name} is too large")
    return text


def _without_names(part: Any) -> Any:
    """The same without the names of patients: how many they were in their place."""
    if isinstance(part, Mapping):
        known = {key: value for key, value in part.items() if key not in _PATIENTS}
        counts = {f"{key}_count": len(part[key]) for key in _PATIENTS if isinstance(part.get(key), (list, tuple))}
        return {**{key: _without_names(value) for key, value in known.items()}, **counts}
    return part


def _bad(path: Path, why: str) -> UserError:
    return BadModel(f"{shown(path)} is not a model that can be used", why, "Get it again from its source.")
