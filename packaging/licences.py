"""Who wrote what the built program carries, and on what terms: ``THIRD-PARTY.txt``, made anew at every build."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

HEAD = """\
Gliascope is licensed under the Apache License 2.0; see LICENSE.

This program also carries the software below, each part under its own licence, the texts of which follow. Qt and the
other libraries under the LGPL lie in the program's folder as shared libraries and may be replaced by other builds of
theirs; their source is at https://download.qt.io and where each part says.
"""
RULE = "=" * 100
_TEXT = re.compile(r"(licen[cs]e|copying|notice|authors|third.?party)", re.IGNORECASE)


def third_party(files: Iterable[str]) -> str:
    """What is carried, with the texts of the licences.

    Args:
        files: Every file of this machine that goes into the program.

    Raises:
        ValueError: A package says nothing of its licence.
    """
    owners = {
        str(Path(str(dist.locate_file(file))).resolve()): dist
        for dist in metadata.distributions()
        for file in dist.files or ()
    }
    carried: dict[str, metadata.Distribution] = {}
    others: set[str] = set()
    # Copies that were changed for the program are still theirs.
    theirs = {Path(file).name for file in owners} | {Path(sysconfig.get_config_var("INSTSONAME") or "").name}
    environment = tuple(str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix))
    for file in {str(Path(file).resolve()) for file in files}:
        if file in owners:
            carried[owners[file].name.lower()] = owners[file]
        elif not file.startswith(environment) and ".so" in Path(file).name and Path(file).name not in theirs:
            others.add(file)
    # The bootloader of PyInstaller is part of every program it builds.
    carried["pyinstaller"] = metadata.distribution("pyinstaller")
    parts = [("Python", sys.version.split()[0], "PSF-2.0", "https://www.python.org", _of_python())]
    parts += [_of(dist) for _, dist in sorted(carried.items())]
    parts += _of_system(others)
    listed = [f"  {name} {version}: {terms}".rstrip() for name, version, terms, _, _ in parts]
    texts = [f"{RULE}\n{name} {version}\n{terms}\n{where}\n\n{text}" for name, version, terms, where, text in parts]
    return "\n".join([HEAD, *listed, "", *texts]) + "\n"


Part = tuple[str, str, str, str, str]  # name, version, licence in a line, where it comes from, licence's text


def _of(dist: metadata.Distribution) -> Part:
    about = dist.metadata
    classified = [
        line.split("::")[-1].strip() for line in about.get_all("Classifier") or [] if line.startswith("License")
    ]
    # Some put the whole text where its name belongs.
    told = (about.get("License") or "").strip()
    named = told if "\n" not in told and len(told) < 80 else ""
    terms = about.get("License-Expression") or named or ", ".join(classified)
    texts = []
    for file in dist.files or ():
        path = Path(str(dist.locate_file(file)))
        beside = ".dist-info" in str(file) or len(file.parts) <= 2
        if beside and _TEXT.search(file.name) and file.suffix not in (".py", ".pyc", ".h") and path.is_file():
            texts.append(path.read_text(encoding="utf-8", errors="replace").strip())
    texts += [told] if told != named else []
    if not terms and not texts:
        raise ValueError(f"{dist.name} says nothing of its licence; look it up before building")
    pages = [line.split(",", 1)[1].strip() for line in about.get_all("Project-URL") or []]
    where = about.get("Home-page") or next(iter(pages), f"https://pypi.org/project/{dist.name}")
    return dist.name, dist.version, terms or "see below", where, "\n\n".join(texts)


def _of_python() -> str:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for file in (stdlib / "LICENSE.txt", Path(sys.base_prefix) / "LICENSE.txt"):
        if file.is_file():
            return file.read_text(encoding="utf-8").strip()
    return "See https://docs.python.org/3/license.html"


def _of_system(files: Iterable[str]) -> list[Part]:
    """The machine's own libraries, such as X11's, as Debian and Ubuntu know them."""
    files = sorted(files)
    if not files or shutil.which("dpkg-query") is None:
        return [(Path(file).name, "", "from the system that this was built on", "", "") for file in files]
    packages: dict[str, str] = {}
    for file in files:
        # What dpkg knows may have been moved from /lib to /usr/lib since.
        for known in (file, file.removeprefix("/usr")):
            said = subprocess.run(["dpkg-query", "-S", known], capture_output=True, text=True, check=False)
            if said.returncode == 0:
                package = said.stdout.split(":")[0]
                ask = ["dpkg-query", "-W", "-f", "${Version}\n", package]
                version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()[0]
                packages[package] = version
                break
        else:
            packages[Path(file).name] = ""
    parts = []
    for package, version in sorted(packages.items()):
        text = Path("/usr/share/doc") / package / "copyright"
        told = text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""
        parts.append((package, version, "a library of the system that this was built on", "", told))
    return parts
