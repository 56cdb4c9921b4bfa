"""What the program to double-click is built of, as far as it shows without building it, which takes minutes."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"
CONTENTS = runpy.run_path(str(PACKAGING / "contents.py"))
FROZEN = runpy.run_path(str(PACKAGING / "frozen.py"))


def test_every_process_that_the_app_starts_of_itself_is_one_that_the_program_can_be() -> None:
    sources = [
        path.read_text(encoding="utf-8")
        for part in ("app", "engine", "trainer")
        for path in (ROOT / part).rglob("*.py")
    ]
    started = {module for text in sources for module in re.findall(r'"-m", "((?:app|engine|trainer)\.[\w.]+)"', text)}
    assert {"trainer.run", "trainer.training"} <= started
    assert started <= set(FROZEN["WORKERS"])
    assert set(FROZEN["WORKERS"]) <= set(CONTENTS["HIDDEN"])


def frozen(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PACKAGING / "frozen.py"), *words]
    environment = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_the_program_is_its_own_worker() -> None:
    done = frozen("-m", "trainer.run", "one word too few")
    assert done.returncode == 2
    assert '"event": "Failed"' in done.stdout
    assert "CONFIG FOLDER" in done.stdout


@pytest.mark.parametrize("words", [["-m"], ["-m", "os"], ["-m", "trainer.skull"]])
def test_the_program_is_no_python_for_others(words: list[str]) -> None:
    done = frozen(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("-m is for Gliascope's own processes")


def test_the_program_is_the_command_line_too() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert frozen("--version").stdout == f"gliascope {version.group(1)}\n"


def test_what_is_carried_beside_the_modules_is_there() -> None:
    assert all((ROOT / source).exists() for source, _ in CONTENTS["DATA"])


def test_a_library_that_only_something_left_out_needed_stays_behind() -> None:
    needs = {"view.so": ["libshown.so"], "libshown.so": ["libdeep.so"], "libgtk.so": ["libcairo.so"]}
    entries = [
        ("package/view.so", "/here/view.so", "EXTENSION"),
        *((name, f"/here/{name}", "BINARY") for name in ("libshown.so", "libdeep.so", "libgtk.so", "libcairo.so")),
        ("package/libs/plugin.so", "/here/plugin.so", "BINARY"),
        ("libpython3.so", "/here/libpython3.so", "BINARY"),
        ("liblink.so", "libgtk.so", "SYMLINK"),
    ]

    def imports(file: str) -> list[tuple[str, None]]:
        return [(name, None) for name in needs.get(Path(file).name, [])]

    kept = CONTENTS["referenced"](entries, imports)
    assert {place for place, _, _ in CONTENTS["without_loose_links"](kept, kept)} == {
        "package/view.so",
        "libshown.so",
        "libdeep.so",
        "package/libs/plugin.so",
        "libpython3.so",
    }


@pytest.mark.parametrize(
    ("place", "out"),
    [
        ("PySide6/Qt/plugins/platformthemes/libqgtk3.so", True),
        ("PySide6\\plugins\\tls\\qschannelbackend.dll", True),
        ("PySide6/Qt/plugins/platforms/libqxcb.so", False),
        ("PySide6/plugins/platforms/qwindows.dll", False),
        ("libstdc++.so.6", True),
        ("libX11.so.6", False),
    ],
)
def test_what_of_qt_and_the_system_is_carried(place: str, out: bool) -> None:
    assert CONTENTS["is_left_out"](place) is out
