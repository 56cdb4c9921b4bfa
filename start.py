"""Start Gliascope on a machine that has nothing but Python 3.11 or newer.

    python3 start.py                      opens the app on the demo patient and segments it
    python3 start.py scans/patient_7      opens the app on these files or folders
    python3 start.py segment DIR --out X  any command of gliascope
    python3 start.py test                 ruff, mypy, import-linter and pytest
    python3 start.py build                makes the program to double-click, in dist; see packaging/README.md
    python3 start.py --install torch      adds what training needs and opens nothing; so does the window's own button

The first start makes ``.venv`` beside this file and installs the exact releases named in ``constraints.txt`` into it;
later ones only look at a stamp. Standard library only, and written so that an old Python can still read it and say so.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "gliascope-stamp.json"
# Written before pip begins and removed when it is done: finding it means that an installation was interrupted, and
# pip cannot tell a half-unpacked package from a whole one.
UNFINISHED = VENV / "gliascope-unfinished"
LOG = VENV / "gliascope-install.log"
# The program is built from an environment of its own: one with the torch for CPUs, and nothing else in it.
BUILD_VENV = ROOT / "build" / "venv"
TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"

OLDEST_PYTHON = (3, 11)
# Room to ask for, with what is downloaded on the way: the app alone, torch, and torch as built for NVIDIA GPUs.
FREE_GB = {"app": 1.5, "torch": 2.5, "torch for GPUs": 9.0, "build": 6.0}
# How often a log gets a line about an installation that takes long.
NEWS_SECONDS = 5.0
# Commands that never open a window, so that a machine without Qt's system libraries can still segment.
WINDOWLESS = {
    "segment",
    "batch",
    "desktop",
    "models",
    "evaluate",
    "check",
    "train",
    "study",
    "self-test",
    "--help",
    "-h",
    "--version",
}
# Processes of tests; each holds networks and volumes of its own.
MOST_SIDE_BY_SIDE = 4
# What `--install` may be asked for.
OPTIONAL_PARTS = ("torch", "cluster", "test")


class Stop(Exception):
    """The start cannot go on; the one sentence the user needs to read."""


# --- what this machine has --------------------------------------------------------------------------------------------


class Library(NamedTuple):
    """A system library Qt loads, and the package that brings it, by package manager."""

    file: str
    apt: str
    dnf: str
    pacman: str


LIBRARIES = (
    Library("libEGL.so.1", "libegl1", "libglvnd-egl", "libglvnd"),
    Library("libGL.so.1", "libgl1", "libglvnd-glx", "libglvnd"),
    Library("libfontconfig.so.1", "libfontconfig1", "fontconfig", "fontconfig"),
    Library("libxkbcommon.so.0", "libxkbcommon0", "libxkbcommon", "libxkbcommon"),
    Library("libdbus-1.so.3", "libdbus-1-3", "dbus-libs", "dbus"),
    Library("libglib-2.0.so.0", "libglib2.0-0", "glib2", "glib2"),
    Library("libX11.so.6", "libx11-6", "libX11", "libx11"),
)
SCREEN_LIBRARIES = (
    Library("libxcb-cursor.so.0", "libxcb-cursor0", "xcb-util-cursor", "xcb-util-cursor"),
    Library("libxcb-icccm.so.4", "libxcb-icccm4", "xcb-util-wm", "xcb-util-wm"),
    Library("libxcb-image.so.0", "libxcb-image0", "xcb-util-image", "xcb-util-image"),
    Library("libxcb-keysyms.so.1", "libxcb-keysyms1", "xcb-util-keysyms", "xcb-util-keysyms"),
    Library("libxcb-randr.so.0", "libxcb-randr0", "libxcb", "libxcb"),
    Library("libxcb-render-util.so.0", "libxcb-render-util0", "xcb-util-renderutil", "xcb-util-renderutil"),
    Library("libxcb-shape.so.0", "libxcb-shape0", "libxcb", "libxcb"),
    Library("libxcb-util.so.1", "libxcb-util1", "xcb-util", "xcb-util"),
    Library("libxcb-xkb.so.1", "libxcb-xkb1", "libxcb", "libxcb"),
    Library("libX11-xcb.so.1", "libx11-xcb1", "libX11-xcb", "libx11"),
    Library("libxkbcommon-x11.so.0", "libxkbcommon-x11-0", "libxkbcommon-x11", "libxkbcommon-x11"),
)
INSTALL = {"apt": "apt-get install -y", "dnf": "dnf install -y", "pacman": "pacman -S --needed --noconfirm"}


def _loads(file: str) -> bool:
    try:
        ctypes.CDLL(file)
    except OSError:
        return False
    return True


def missing_libraries(screen: bool) -> list[Library]:
    """The system libraries that Qt needs and this Linux does not have.

    Args:
        screen: Whether a real window will open; off screen needs fewer.
    """
    if not sys.platform.startswith("linux"):
        return []
    return [library for library in LIBRARIES + (SCREEN_LIBRARIES if screen else ()) if not _loads(library.file)]


def install_command(missing: Sequence[Library]) -> str:
    """The one command that installs ``missing`` here; empty when this system's package manager is unknown."""
    for manager, words in INSTALL.items():
        program = words.split()[0]
        if shutil.which(program):
            packages = sorted({getattr(library, manager) for library in missing})
            # Root needs no sudo, and containers often have none.
            sudo = "" if os.geteuid() == 0 else "sudo "
            return f"{sudo}{words} {' '.join(packages)}"
    return ""


def require_libraries(words: Sequence[str]) -> None:
    """Name every missing system library at once, with the command that installs them.

    Raises:
        Stop: Something is missing that the command in ``words`` needs.
    """
    if words and words[0] in WINDOWLESS:
        return
    # Wayland sessions nearly always offer an X display too, which is what Qt falls back to.
    # What is built takes its libraries from here, and is to open windows elsewhere.
    screen = bool(os.environ.get("DISPLAY")) and words[:1] != ["test"]
    missing = missing_libraries(screen or words[:1] == ["build"])
    if not missing:
        return
    files = ", ".join(library.file for library in missing)
    command = install_command(missing)
    raise Stop(
        f"The window needs system libraries that are not installed here ({files}). "
        + (f"Install them with: {command}" if command else "Install them with your system's package manager.")
    )


def require_python() -> None:
    """Refuse an old Python, naming a newer one that is already here.

    Raises:
        Stop: This Python is too old.
    """
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return
    this = ".".join(map(str, sys.version_info[:3]))
    newer = next((name for minor in (14, 13, 12, 11) for name in [f"python3.{minor}"] if shutil.which(name)), None)
    raise Stop(
        f"Gliascope needs Python 3.11 or newer and this is {this}. "
        + (
            f"A newer one is here; start it with: {newer} start.py"
            if newer
            else "Install a newer Python from python.org or your system's packages and start again with it."
        )
    )


def require_platform() -> None:
    """Refuse a system for which the packages below Gliascope are not made, before downloading anything.

    Raises:
        Stop: There are no ready-made packages for this system.
    """
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        major = int((platform.mac_ver()[0] or "0").split(".")[0])
        if machine != "arm64" or major < 14:
            raise Stop("Gliascope needs macOS 14 or newer on Apple silicon, with a Python built for it.")
    elif sys.platform == "win32":
        if machine not in ("amd64", "x86_64") or sys.maxsize < 2**32:
            raise Stop("Gliascope needs 64-bit Windows and the 64-bit (x86-64) Python from python.org.")
    else:
        name, release = platform.libc_ver()
        numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
        if name != "glibc" or numbers < (2, 34):
            here = f"{name} {release}".strip() or "another C library"
            raise Stop(
                f"Gliascope needs a Linux with glibc 2.34 or newer and this one has {here}. "
                "Ubuntu 22.04, Debian 12, Fedora 35, RHEL 9 and later have it."
            )


# --- the environment --------------------------------------------------------------------------------------------------


def venv_program(name: str) -> Path:
    """Path of a program inside ``.venv``, on this system."""
    return VENV / "Scripts" / f"{name}.exe" if os.name == "nt" else VENV / "bin" / name


def has_nvidia_gpu() -> bool:
    """Whether torch could use a GPU here; on Windows and macOS the ready-made torch has no CUDA anyway."""
    return sys.platform.startswith("linux") and Path("/proc/driver/nvidia/version").exists()


def parts_for(words: Sequence[str]) -> list[str]:
    """What has to be installed to run ``words``: the app; torch, Dask and the test tools only where they are used.

    torch is by far the largest part (on Linux 5 GB with what it needs for GPUs), and a CPU segments without it.
    """
    if words[:1] == ["test"]:
        return ["app", "torch", "cluster", "test"]
    if words[:1] == ["build"]:
        return ["app", "torch", "build"]
    parts = ["app", "torch"] if words[:1] in (["train"], ["study"]) or has_nvidia_gpu() else ["app"]
    on_cluster = words[:1] == ["batch"] and any(word.split("=")[0] == "--scheduler" for word in words)
    return [*parts, "cluster"] if on_cluster else parts


def requirements(part: str) -> list[str]:
    """The packages of one part by name, from ``pyproject.toml``.

    Args:
        part: ``"app"``, or one of the optional parts, ``"torch"``, ``"cluster"``, ``"test"`` and ``"build"``.
    """
    import tomllib  # from Python 3.11 on; this file is read by older ones too

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"] if part == "app" else project["optional-dependencies"][part])


def fingerprint(part: str) -> str:
    """A hash of everything that decides what an installed part holds."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return hashlib.sha256("\n".join([text, *requirements(part)]).encode()).hexdigest()


def _python_version() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def read_stamp() -> dict[str, str]:
    """What the last finished installation wrote; empty when there is none that can be used from here."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    # Paths are written into an environment when it is made, so one that was moved along with its folder is no good.
    sound = (
        isinstance(stamp, dict)
        and stamp.get("folder") == str(ROOT)
        and stamp.get("python") == _python_version()
        and venv_program("python").exists()
        and not UNFINISHED.exists()
    )
    return stamp if sound else {}


def is_ready(parts: Sequence[str]) -> bool:
    """Whether everything is installed already; the whole check of an ordinary start."""
    stamp = read_stamp()
    return bool(stamp) and all(stamp.get(part) == fingerprint(part) for part in parts)


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Two starts at once (a second double-click) must not install into one folder together."""
    try:
        lock = (ROOT / ".venv.lock").open("a+b")
    except OSError as error:
        raise Stop(
            f"Nothing can be installed into {ROOT} ({error.strerror}). "
            "Copy Gliascope's folder to a place that is yours and start it there."
        ) from error
    with lock:
        waiting = False
        while not _try_lock(lock.fileno()):
            if not waiting:
                say("Another start of Gliascope is installing; waiting for it.")
                waiting = True
            time.sleep(0.5)
        yield


def _try_lock(file: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def install(parts: Sequence[str]) -> None:
    """Make ``.venv`` or bring it up to date.

    Args:
        parts: See `parts_for`.

    Raises:
        Stop: It cannot be done, in one sentence.
    """
    with _only_one():
        if is_ready(parts):  # somebody else finished it while we waited
            return
        began = time.monotonic()
        _require_venv_module()
        if VENV.exists() and any(VENV.iterdir()) and not read_stamp():
            _clear_away()
        whole_before = bool(read_stamp())
        # What was installed for another command stays, at the releases that hold now.
        everything = ("app", *OPTIONAL_PARTS, "build")
        parts = [part for part in everything if part in parts or part in read_stamp()]
        needed = _room_for(parts)
        if shutil.disk_usage(ROOT).free < needed * 1e9:
            free = shutil.disk_usage(ROOT).free / 1e9
            raise Stop(
                f"There is too little room on the disk of {ROOT} ({free:.1f} GB free, {needed:.1f} GB needed). "
                "Make room there, or move Gliascope's folder to another disk."
            )
        try:
            VENV.mkdir(parents=True, exist_ok=True)
            UNFINISHED.touch()
            if STAMP.exists():
                say("Bringing the installation up to date.")
            else:
                _make_environment()
            if "build" in parts and sys.platform.startswith("linux"):
                _install_torch_for_cpus(whole_before)
            _pip_install([name for part in parts for name in requirements(part)], whole_before)
            _write_down(parts)
        except OSError as error:
            raise Stop(f"{error.filename or VENV} could not be written ({error.strerror}). {_MORE_ROOM}") from error
        say(f"Everything is installed ({time.monotonic() - began:.0f} s). The next start takes a moment only.")


def _install_torch_for_cpus(whole_before: bool) -> None:
    """The release of torch that all use, in its build without CUDA, which on Linux another index has."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    release = next(line for line in text.splitlines() if line.startswith("torch==")) + "+cpu"
    try:
        _pip_install([release], whole_before)  # an index of one's own may have it
    except Stop:
        _pip_install([release], whole_before, ["--extra-index-url", TORCH_FOR_CPUS])


def _room_for(parts: Sequence[str]) -> float:
    """In GB, downloads included; for what is not there yet."""
    if "build" in parts:
        return FREE_GB["build"]
    if "torch" not in parts or "torch" in read_stamp():
        return FREE_GB["app"]
    return FREE_GB["torch for GPUs" if has_nvidia_gpu() else "torch"]


_MORE_ROOM = "Check the free space and the permissions of Gliascope's folder, then start again."


def _clear_away() -> None:
    if not (UNFINISHED.exists() or STAMP.exists()):
        raise Stop(f"The folder {VENV} was not made by this program. Move it away or delete it, then start again.")
    if UNFINISHED.exists():
        say("The last installation did not finish; making it anew.")
    else:
        say("Python or this folder has changed since the last start; installing anew.")
    try:
        # The mark goes last: were this stopped half-way, the rest would otherwise look like somebody else's.
        for entry in sorted(VENV.iterdir(), key=lambda path: path == UNFINISHED):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    except OSError as error:
        raise Stop(
            f"{error.filename} could not be removed ({error.strerror}). Close any open Gliascope and start again."
        ) from error


def _require_venv_module() -> None:
    from importlib.util import find_spec

    if find_spec("venv") is None or find_spec("ensurepip") is None:
        package = f"python3.{sys.version_info[1]}-venv"
        how = f"Install it with: {'' if os.name == 'nt' or os.geteuid() == 0 else 'sudo '}apt-get install -y {package}"
        raise Stop(
            "This Python comes without its venv module. "
            + (how if shutil.which("apt-get") else "Install the complete Python from python.org and start again.")
        )


def _make_environment() -> None:
    say(f"Setting up Gliascope in {VENV} (first start only).")
    done = subprocess.run(
        [sys.executable, "-I", "-m", "venv", str(VENV)], capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        _raise_install_failure(done.stdout + done.stderr)


def _write_down(parts: Sequence[str]) -> None:
    # Puts app, engine and trainer on the environment's path without an installation that could go stale.
    purelib = subprocess.run(
        [str(venv_program("python")), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # Escaped: before 3.13 Python reads this file in the system's encoding, which on Windows has not every letter.
    path = f"import sys; sys.path.append({str(ROOT)!a})\n"
    (Path(purelib) / "gliascope.pth").write_text(path, encoding="ascii")
    stamp = {"folder": str(ROOT), "python": _python_version(), **{part: fingerprint(part) for part in parts}}
    fresh = STAMP.with_suffix(".new")
    fresh.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    fresh.replace(STAMP)
    UNFINISHED.unlink(missing_ok=True)


def _pip_install(names: Sequence[str], whole_before: bool, options: Sequence[str] = ()) -> None:
    """Let pip install ``names``; ``whole_before`` says whether what is there now could be used without them."""
    # Downloads land beside what is installed: /tmp is often small, and their growth is what progress is read from.
    scratch = VENV / "download"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch), "PIP_USER": "0"}
    command = [str(venv_program("python")), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    # Ready-made packages only: a compiler is the last thing to ask for.
    command += ["--only-binary=:all:", "--constraint", str(ROOT / "constraints.txt"), *options, *names]
    pip = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    progress = _PipProgress(scratch)
    said: list[str] = []

    def read() -> None:
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line)
            progress.read(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        _follow(pip, progress)
    finally:
        if pip.poll() is None:
            pip.terminate()
        pip.wait()
        reader.join()
        shutil.rmtree(scratch, ignore_errors=True)
        # pip fetches everything before it changes anything: until then what was there is as whole as before, and an
        # app that works must not be made anew, perhaps without a network, because something was not added to it.
        if whole_before and not progress.unpacking:
            UNFINISHED.unlink(missing_ok=True)
    LOG.write_text("".join(said), encoding="utf-8")
    if pip.returncode:
        _raise_install_failure("".join(said))


def _follow(pip: subprocess.Popen[str], progress: _PipProgress) -> None:
    """Show in plain words how far pip is, until it ends."""
    report = _Report()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pip.wait(timeout=0.25)
            break
        report.show(progress.sentence())
    report.end()


class _PipProgress:
    """What pip is at, told from the lines it prints and the files it leaves.

    Args:
        scratch: The folder pip downloads into.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._found: set[str] = set()
        self._now = ""
        self._before = 0
        self._to_install = 0

    def read(self, line: str) -> None:
        """Take in one line of pip's."""
        words = line.split()
        if words[:1] == ["Collecting"] and len(words) > 1:
            self._found.add(re.split(r"[^\w.-]|==|[<>=!~]", words[1])[0].lower())
        elif words[:1] in (["Downloading"], ["Using"], ["Processing"]) and ".whl" in line and ".metadata" not in line:
            file = next(word for word in words if ".whl" in word)
            size = re.search(r"\(([\d.]+ [kMG]?B)\)", line)
            self._now = re.split(r"[/\\]", file)[-1].split("-")[0] + (f" ({size.group(1)})" if size else "")
        elif line.startswith("Installing collected packages:"):
            self._to_install = line.count(",") + 1
            self._before = self._installed()

    @property
    def unpacking(self) -> bool:
        """Whether it has begun to change what is installed."""
        return self._to_install > 0

    def sentence(self) -> str:
        """Where it is now."""
        if self._to_install:
            done = min(self._to_install, max(0, self._installed() - self._before))
            return f"Installing: {done} of {self._to_install} packages"
        megabytes = _size_of(self._scratch) / 1e6
        if self._now and megabytes > 1:
            return f"Fetching {self._now}; {megabytes:.0f} MB in all so far"
        return f"Finding packages: {len(self._found)}" if self._found else "Asking which packages are here"

    def _installed(self) -> int:
        folders = [*VENV.glob("lib/python3*/site-packages"), *VENV.glob("Lib/site-packages")]
        return len({name for folder in folders for name in os.listdir(folder) if name.endswith(".dist-info")})


def _size_of(folder: Path) -> int:
    total = 0
    for where, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):  # pip moves files while we look
                total += os.stat(os.path.join(where, file)).st_size
    return total


NO_NETWORK = re.compile(
    r"NewConnectionError|name resolution|getaddrinfo|ConnectTimeout|ReadTimeout|Read timed out|Network is unreachable"
    r"|ProxyError|Connection refused|Connection reset|Max retries|No route to host|RemoteDisconnected"
    r"|Could not fetch URL|Tunnel connection failed",
    re.IGNORECASE,
)


def _raise_install_failure(text: str) -> None:
    """Turn what pip or venv said into the one sentence that helps."""
    if re.search(r"No space left|Errno 28|WinError 112|Disk quota", text):
        raise Stop(
            f"The disk filled up while installing into {VENV}. Make room (2 GB; 9 GB with torch for an NVIDIA GPU) "
            "and start again."
        )
    if re.search(r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerification", text):
        raise Stop(
            "The package index answers with a certificate this Python does not trust, as behind an inspecting proxy. "
            "Set PIP_CERT to your organisation's certificate file and start again."
        )
    if NO_NETWORK.search(text):
        raise Stop(
            "The package index could not be reached, so nothing could be installed. Check the network, or set "
            "HTTPS_PROXY if your organisation uses a proxy, and start again."
        )
    # With constraints, older versions of pip call a package they cannot find a conflict.
    none = re.search(r"No matching distribution found for (\S+)|requested \(constraint\) (\S+)", text)
    if none:
        package, here = none.group(1) or none.group(2), platform.python_version()
        raise Stop(
            f"There is no ready-made package {package} for Python {here} on this system. "
            f"Start again with one of Python 3.11 to 3.14 from python.org. The whole log is {LOG}."
        )
    if re.search(r"Permission denied|Errno 13|Access is denied", text):
        raise Stop(f"A file in {VENV} could not be written. Close any open Gliascope and start again.")
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
    raise Stop(f"The installation stopped ({last}). The whole log is {LOG}.")


# --- talking ----------------------------------------------------------------------------------------------------------


def say(sentence: str) -> None:
    """Print one sentence; to stderr, as stdout belongs to the command that is started."""
    print(sentence, file=sys.stderr, flush=True)


class _Report:
    """One line that changes in a terminal; a new line now and then where it cannot."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = ""
        self._when = 0.0

    def show(self, sentence: str) -> None:
        if sentence == self._last:
            return
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + f"  {sentence}"[:width].ljust(width), end="", file=sys.stderr, flush=True)
            self._last = sentence
        elif time.monotonic() - self._when > NEWS_SECONDS:
            say(f"  {sentence}")
            self._last, self._when = sentence, time.monotonic()

    def end(self) -> None:
        if self._live and self._last:
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", file=sys.stderr, flush=True)


# --- starting ---------------------------------------------------------------------------------------------------------


def start_app(words: Sequence[str]) -> int:
    """Become ``gliascope WORDS``; returns its exit code where the system cannot replace a process."""
    # Isolated: PYTHONPATH and a package named like one of ours in the working folder must not get in the way.
    command = [str(venv_program("python")), "-I", "-m", "app", *words]
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(command[0], command)
    return _call(command, Path.cwd())


def _call(command: Sequence[str], folder: Path) -> int:
    """Run to the end, whatever the keyboard does: Ctrl-C reaches the child too, which knows how to end."""
    process = subprocess.Popen(command, cwd=folder)
    interrupted = False
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            interrupted = True
        else:
            return 130 if interrupted else code


def run_tests(words: Sequence[str]) -> int:
    """Run every check and then pytest, whose summary is the last line; all tests run side by side, some alone do not.

    Args:
        words: Passed to pytest.

    Returns:
        0 when all passed; else pytest's own code if it failed, or 1.
    """
    python = [str(venv_program("python")), "-I", "-m"]
    checks = {
        "ruff check": [*python, "ruff", "check"],
        "ruff format": [*python, "ruff", "format", "--check"],
        "mypy": [*python, "mypy"],
        "import-linter": [str(venv_program("lint-imports"))],
    }
    failed = []
    for name, command in checks.items():
        say(f"== {name}")
        code = _call(command, ROOT)
        if code == 130:
            return 130
        if code:
            failed.append(name)
    say(f"== Failed before the tests: {', '.join(failed)}" if failed else "== All checks passed; now the tests")
    # Tests of one file share what was expensive to make, so a file stays with one process.
    together = ["-n", str(min(os.cpu_count() or 1, MOST_SIDE_BY_SIDE)), "--dist", "loadfile"]
    code = _call([*python, "pytest", *(words or together)], ROOT)
    return code or (1 if failed else 0)


def work_in(folder: Path) -> None:
    """From here on, install into another folder than ``.venv``."""
    global VENV, STAMP, UNFINISHED, LOG
    STAMP, UNFINISHED, LOG = (folder / path.name for path in (STAMP, UNFINISHED, LOG))
    VENV = folder


def build_program(words: Sequence[str]) -> int:
    """Build the program to double-click; returns the exit code.

    Args:
        words: Passed to ``packaging/build.py``.
    """
    return _call([str(venv_program("python")), "-I", str(ROOT / "packaging" / "build.py"), *words], ROOT)


def install_more(parts: Sequence[str]) -> int:
    """Add parts to the installation and open nothing; for the window, which reads a line of news every half second.

    The end of standard input, where that is a pipe, or the word ``stop`` on it ends this as Ctrl-C would; whoever
    began it may have no other way to reach it.

    Raises:
        Stop: It cannot be done, in one sentence.
    """
    global NEWS_SECONDS
    if not parts or not set(parts) <= set(OPTIONAL_PARTS):
        raise Stop(f"start.py --install takes {' or '.join(OPTIONAL_PARTS)}.")
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        NEWS_SECONDS = 0.5
        threading.Thread(target=_stop_when_told, daemon=True).start()
    if not is_ready(["app", *parts]):
        install(["app", *parts])
    return 0


def _stop_when_told() -> None:
    for line in sys.stdin:
        if line.strip() == "stop":
            break
    _thread.interrupt_main()


def main(words: Sequence[str]) -> int:
    """Install what is missing, then start; returns the exit code."""
    try:
        require_python()
        require_platform()
        words = list(words)
        if words[:1] == ["--install"]:
            return install_more(words[1:])
        # Before the long part, so that what is missing is known while somebody is still looking.
        require_libraries(words)
        parts = parts_for(words)
        if "build" in parts:
            work_in(BUILD_VENV)
        if not is_ready(parts):
            install(parts)
    except Stop as stop:
        say(str(stop))
        return 2
    except KeyboardInterrupt:
        say("\nStopped. Start again to go on.")
        return 130
    if words[:1] == ["test"]:
        return run_tests(words[1:])
    if words[:1] == ["build"]:
        return build_program(words[1:])
    return start_app(words or ["demo"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
