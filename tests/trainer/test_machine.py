"""What a worker says of its machine is what the machine says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from trainer.machine import Thermometer, memory_mb


def test_memory_is_that_of_this_process() -> None:
    held = psutil.Process().memory_info().rss / 1024**2
    assert memory_mb() == pytest.approx(held, rel=0.2)


def test_the_hottest_sensor_of_the_processor_counts(tmp_path: Path) -> None:
    for place, name, readings in (
        ("hwmon/hwmon0", "nvme", {"temp1_input": "90000"}),
        ("hwmon/hwmon1", "coretemp", {"temp1_input": "51000", "temp2_input": "63500"}),
        ("hwmon/hwmon2", "k10temp", {"temp1_input": "asleep"}),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "name").write_text(name + "\n")
        for reading, value in readings.items():
            (tmp_path / place / reading).write_text(value + "\n")
    assert Thermometer("cpu", tmp_path).read() == 63.5
    zone = tmp_path / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("x86_pkg_temp\n")
    (zone / "temp").write_text("71000\n")
    assert Thermometer("cpu", tmp_path).read() == 71.0


def test_a_machine_without_sensors_says_nothing(tmp_path: Path) -> None:
    assert Thermometer("cpu", tmp_path).read() is None


@pytest.mark.skipif(sys.platform == "win32", reason="other system: a script stands in for a program")
def test_the_card_is_asked_now_and_then_and_may_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho x >> "{tmp_path}/asked"\nprintf "64\\n71\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    thermometer = Thermometer("cuda")
    assert [thermometer.read() for _ in range(5)] == [71.0] * 5
    assert (tmp_path / "asked").read_text() == "x\n"
    program.write_text("#!/bin/sh\necho N/A\n")
    assert Thermometer("cuda").read() is None
    program.write_text("#!/bin/sh\nexit 9\n")
    assert Thermometer("cuda").read() is None
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Thermometer("cuda").read() is None
