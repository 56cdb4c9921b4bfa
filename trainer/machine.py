"""What a worker knows of the machine it runs on: its memory, and how hot that is which computes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_MEGABYTE = 1024 * 1024
_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp", "cpu-thermal", "soc_thermal")
# Asking a graphics card starts a program, which takes a moment.
_SECONDS_BETWEEN_LOOKS = 30.0


def memory_mb() -> float:
    """Memory that this process holds; on macOS the most that it has held, as nothing else can be had cheaply."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE
    if sys.platform == "win32":
        return _windows_memory_mb()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MEGABYTE


class Thermometer:
    """The temperature of the processor or of the graphics card, where the system tells it.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        system: Where Linux shows its sensors.
    """

    def __init__(self, device: str, system: Path = Path("/sys/class")) -> None:
        self._of_card = device == "cuda"
        self._system = system
        self._looked = -_SECONDS_BETWEEN_LOOKS
        self._last: float | None = None

    def read(self) -> float | None:
        """Degrees Celsius, of the hottest sensor; ``None`` where there is none."""
        if not self._of_card:
            return _processor_c(self._system)
        if time.monotonic() - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._last, self._looked = _card_c(), time.monotonic()
        return self._last


def _processor_c(system: Path) -> float | None:
    """Linux alone tells everybody; Windows and macOS only administrators."""
    found = []
    for kind, readings in (("hwmon/hwmon*/name", "temp*_input"), ("thermal/thermal_zone*/type", "temp")):
        for name in system.glob(kind):
            with suppress(OSError, ValueError):  # a sensor may be asleep, or say nothing sensible
                if name.read_text().strip() in _SENSORS:
                    found += [int(reading.read_text()) / 1000 for reading in name.parent.glob(readings)]
    return max(found, default=None)


def _card_c() -> float | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=temperature.gpu", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, stdin=subprocess.DEVNULL)
        return max((float(line) for line in said.stdout.split()), default=None)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _windows_memory_mb() -> float:
    class Counters(ctypes.Structure):
        _fields_ = (
            ("size", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            ("peak_working_set", ctypes.c_size_t),
            ("working_set", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 6),
        )

    counters = Counters(size=ctypes.sizeof(Counters))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - typed on Windows alone
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size):
        return 0.0
    return int(counters.working_set) / _MEGABYTE
