"""The rules of conftest.py, tried on tests that break them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OFFENDERS = """
import logging, os, socket, subprocess, sys, threading, warnings
from pathlib import Path
import pytest

def test_window(qapp):
    from PySide6.QtWidgets import QMainWindow
    global kept
    kept = QMainWindow()
    kept.show()

def test_thread():
    threading.Thread(target=threading.Event().wait, args=(4,), daemon=True).start()

def test_process():
    global child
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])

def test_log():
    logging.getLogger("anything").warning("beware")

def test_qt_log(qapp):
    from PySide6.QtCore import qWarning
    qWarning("beware")

def test_python_warning():
    warnings.warn("beware")

def test_network():
    with socket.socket() as one:
        one.settimeout(1)
        one.connect(("192.0.2.1", 80))

def test_skip():
    pytest.skip("no time")
"""

OBSERVANT = """
import logging, os
from pathlib import Path
import pytest

def test_home_is_empty():
    assert list(Path.home().iterdir()) == []
    (Path.home() / "left").touch()

def test_home_is_fresh_each_time():
    assert list(Path.home().iterdir()) == []

@pytest.mark.logs("bew.re")
def test_expected_log():
    logging.getLogger("anything").warning("beware")

def test_allowed_skip():
    pytest.skip("needs an NVIDIA GPU: none here")

def test_window_given_to_qtbot(qtbot):
    from PySide6.QtWidgets import QMainWindow
    window = QMainWindow()
    qtbot.addWidget(window)
    window.show()
"""


def results(folder: Path, tests: str) -> dict[str, str]:
    """Outcome by test of a run under this project's own settings, as on CI."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    (folder / "tests" / "test_it.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "--basetemp", str(folder / "temporary")],
        cwd=folder,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, str] = {}
    for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) .*?::test_(\w+)", done.stdout, re.MULTILINE):
        found[name] = "PASSED" if outcome == "PASSED" and name not in found else "FAILED"
    assert found, done.stdout + done.stderr
    return found


def test_every_offence_fails(tmp_path: Path) -> None:
    found = results(tmp_path, OFFENDERS)
    assert found == dict.fromkeys(
        ("window", "thread", "process", "log", "qt_log", "python_warning", "network", "skip"), "FAILED"
    )


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    found = results(tmp_path, OBSERVANT)
    assert set(found.values()) == {"PASSED"}, found
    assert len(found) == 4  # skipped tests are listed by their reason alone
