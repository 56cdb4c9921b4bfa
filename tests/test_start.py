"""``start.py`` for real: its own environment, a real pip, and a project of one tiny package, all without a network."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import start

ROOT = Path(start.__file__).parent
posix_only = pytest.mark.skipif(os.name != "posix", reason="other system: signals and links are POSIX'")

MAIN = """
import json, os, sys
import tiny
print(json.dumps({"words": sys.argv[1:], "folder": os.getcwd(), "tiny": tiny.VERSION}))
sys.exit(int(os.environ.get("EXIT_WITH", "0")))
"""


def make_wheel(folder: Path, version: str, name: str = "tiny") -> None:
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def make_project(folder: Path) -> Path:
    """A copy of start.py with an app of its own that needs one package."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "start.py", folder)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "0"\ndependencies = ["tiny"]\n'
        "[project.optional-dependencies]\ntorch = []\ntest = []\n"
    )
    (folder / "constraints.txt").write_text("tiny==1.0\n")
    (folder / "app").mkdir()
    (folder / "app" / "__init__.py").touch()
    (folder / "app" / "__main__.py").write_text(MAIN)
    for version in ("1.0", "2.0"):
        make_wheel(folder.parent / "wheels", version)
    return folder


def environment(project: Path, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "COV_"))}
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project.parent / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    return {**own, **offline, **more}


def begin(project: Path, *words: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(project / "start.py"), *words],
        cwd=cwd or project,
        env=environment(project, **more),
        capture_output=True,
        text=True,
        check=False,
    )


def move_to(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the imported module believe that it lies in ``project``."""
    monkeypatch.setattr(start, "ROOT", project)
    for name in ("VENV", "STAMP", "UNFINISHED", "LOG"):
        monkeypatch.setattr(start, name, project / getattr(start, name).relative_to(ROOT))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after its first start; its name has a space and a letter outside ASCII, as users' folders have.

    It was double-clicked, so that two first starts ran at once.
    """
    project = make_project(tmp_path_factory.mktemp("start") / "Gliascöpe app")
    command = [sys.executable, str(project / "start.py"), "models"]
    starts = [
        subprocess.Popen(
            command, env=environment(project), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=200) for process in starts]
    assert [process.returncode for process in starts] == [0, 0], said
    assert [json.loads(out)["tiny"] for out, _ in said] == ["1.0", "1.0"]
    assert sum("Setting up Gliascope" in err for _, err in said) == 1
    assert sum("Everything is installed" in err for _, err in said) == 1
    return project


@pytest.fixture
def project(installed: Path) -> Iterator[Path]:
    """The same, put back afterwards; nothing but the stamp changes unless pip gets as far as installing."""
    stamp = installed / ".venv" / "gliascope-stamp.json"
    before = stamp.read_text()
    yield installed
    (installed / "constraints.txt").write_text("tiny==1.0\n")
    (installed / ".venv" / "gliascope-unfinished").unlink(missing_ok=True)
    stamp.write_text(before)


def test_the_way_to_the_app_is_written_without_letters_that_an_encoding_could_lack(project: Path) -> None:
    [path] = (project / ".venv").rglob("gliascope.pth")
    assert path.read_bytes().isascii()
    python = project / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = "import app, sys; print(ascii(app.__file__))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert Path(ast.literal_eval(done.stdout)).parent == project / "app"


def test_the_second_start_installs_nothing_and_says_nothing(project: Path) -> None:
    log = project / ".venv" / "gliascope-install.log"
    before = log.stat().st_mtime_ns
    began = time.monotonic()
    second = begin(project, "models")
    assert time.monotonic() - began < 3
    assert (second.returncode, second.stderr) == (0, "")
    assert log.stat().st_mtime_ns == before


def test_words_working_folder_and_exit_code_pass_through(project: Path, tmp_path: Path) -> None:
    # A package named like ours, or like one we need, in the user's folder must not get in the way.
    for name in ("app", "tiny"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    done = begin(project, "segment", "a b", "--out", "ö", cwd=tmp_path, EXIT_WITH="7", PYTHONPATH=str(tmp_path))
    assert done.returncode == 7, done.stderr
    said = json.loads(done.stdout)
    assert said["words"] == ["segment", "a b", "--out", "ö"]
    assert Path(said["folder"]) == tmp_path.resolve()


def test_nothing_to_pass_on_means_the_demo(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    assert json.loads(begin(project).stdout)["words"] == ["demo"]


def test_changed_constraints_are_installed(project: Path) -> None:
    for version in ("2.0", "1.0"):
        (project / "constraints.txt").write_text(f"tiny=={version}\n")
        assert json.loads(begin(project, "models").stdout)["tiny"] == version
        assert begin(project, "models").stderr == ""


def test_line_ends_of_another_system_are_no_change(project: Path) -> None:
    (project / "constraints.txt").write_bytes(b"tiny==1.0\r\n")
    assert begin(project, "models").stderr == ""


def test_an_interrupted_installation_is_made_anew(project: Path) -> None:
    # As a machine that was switched off leaves it: pip would take the half-written package for installed.
    (project / ".venv" / "gliascope-unfinished").touch()
    tiny = next((project / ".venv").rglob("tiny.py"))
    tiny.write_text("")
    again = begin(project, "models")
    assert again.returncode == 0, again.stderr
    assert "did not finish" in again.stderr
    assert json.loads(again.stdout)["tiny"] == "1.0"


def test_an_environment_of_another_python_or_place_is_not_used(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move_to(project, monkeypatch)
    good = start.read_stamp()
    assert good["app"] == start.fingerprint("app")
    for change in ({"python": "CPython 3.11.0"}, {"folder": "/elsewhere"}):
        start.STAMP.write_text(json.dumps({**good, **change}))
        assert start.read_stamp() == {}
    start.STAMP.write_text("{")
    assert start.read_stamp() == {}


def test_an_environment_somebody_else_made_is_left_alone(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    (project / ".venv").mkdir()
    (project / ".venv" / "precious.txt").touch()
    refused = begin(project, "models")
    assert refused.returncode == 2
    assert "was not made by this program" in refused.stderr
    assert (project / ".venv" / "precious.txt").exists()


def test_no_network_is_one_sentence(project: Path) -> None:
    (project / "constraints.txt").write_text("tiny==2.0\n")
    nowhere = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "1"}
    failed = begin(project, "models", **nowhere)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("The package index could not be reached")
    assert "Traceback" not in failed.stderr


def test_a_package_not_made_for_this_python_is_named(project: Path) -> None:
    (project / "constraints.txt").write_text("tiny==9.9\n")
    failed = begin(project, "models")
    assert failed.returncode == 2
    assert "There is no ready-made package tiny" in failed.stderr


@posix_only
def test_ctrl_c_during_the_installation_is_130(project: Path) -> None:
    (project / "constraints.txt").write_text("tiny==2.0\n")
    with socket.socket() as silent:  # an index that accepts and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        process = subprocess.Popen(
            [sys.executable, str(project / "start.py"), "models"],
            env=environment(project, PIP_NO_INDEX="", PIP_FIND_LINKS="", PIP_INDEX_URL=index),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        connection, _ = silent.accept()  # pip is asking
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Stopped. Start again to go on."
    assert "Traceback" not in said


# --- what the machine lacks -------------------------------------------------------------------------------------------


def test_an_old_python_can_read_start_py() -> None:
    ast.parse((ROOT / "start.py").read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize(
    ("here", "expected"), [("python3.12", "start it with: python3.12 start.py"), ("", "python.org")]
)
def test_an_old_python_is_told_what_to_start_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 12, "final", 0))
    monkeypatch.setattr(shutil, "which", lambda name: name if name == here else None)
    assert start.main(["models"]) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert "3.10.12" in sentence
    assert expected in sentence


@pytest.mark.parametrize(
    ("manager", "expected"),
    [
        ("apt-get", "apt-get install -y libegl1 libxcb-cursor0"),
        ("dnf", "dnf install -y libglvnd-egl xcb-util-cursor"),
        ("pacman", "pacman -S --needed --noconfirm libglvnd xcb-util-cursor"),
        ("", "your system's package manager"),
    ],
)
def test_missing_system_libraries_are_named_with_one_command(
    monkeypatch: pytest.MonkeyPatch, manager: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(start, "_loads", lambda file: file not in ("libEGL.so.1", "libxcb-cursor.so.0"))
    monkeypatch.setattr(shutil, "which", lambda name: name if name == manager else None)
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(start.Stop) as stopped:
        start.require_libraries([])
    assert "libEGL.so.1, libxcb-cursor.so.0" in str(stopped.value)
    assert expected in str(stopped.value)
    assert ("sudo " in str(stopped.value)) == bool(manager)
    # Without a screen the window's own libraries do not matter, and commands without a window need none at all.
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(start.Stop) as stopped:
        start.require_libraries(["demo"])
    assert "xcb" not in str(stopped.value)
    start.require_libraries(["segment", "x"])


@pytest.mark.parametrize(
    ("system", "machine", "release", "accepted"),
    [
        ("linux", "x86_64", "2.36", True),
        ("linux", "x86_64", "2.28", False),
        ("linux", "x86_64", "", False),
        ("darwin", "arm64", "14.5", True),
        ("darwin", "arm64", "13.6", False),
        ("darwin", "x86_64", "14.5", False),
        ("win32", "AMD64", "", True),
        ("win32", "ARM64", "", False),
    ],
)
def test_systems_without_packages_are_refused_before_any_download(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, release: str, accepted: bool
) -> None:
    import platform

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", release) if release else ("", ""))
    monkeypatch.setattr(platform, "mac_ver", lambda: (release, ("", "", ""), machine))
    if accepted:
        start.require_platform()
    else:
        with pytest.raises(start.Stop, match="needs"):
            start.require_platform()


def test_too_little_disk_space_is_said_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move_to(make_project(tmp_path / "project"), monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))
    assert start.main(["models"]) == 2
    assert "0.1 GB free, 1.5 GB needed" in capsys.readouterr().err
    assert not (tmp_path / "project" / ".venv").exists()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk filled up"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "PIP_CERT"),
        ("Failed to establish a new connection: [Errno -2] Temporary failure in name resolution", "HTTPS_PROXY"),
        ("[WinError 5] Access is denied: 'python.exe'", "Close any open Gliascope"),
        ("something new\n", "The installation stopped (something new)"),
    ],
)
def test_what_pip_says_becomes_a_sentence(said: str, expected: str) -> None:
    with pytest.raises(start.Stop) as stopped:
        start._raise_install_failure(said)
    assert expected in str(stopped.value)


# --- start.py test ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "expected"), [({}, 0), ({"mypy": 1}, 1), ({"pytest": 3}, 3), ({"ruff": 1, "pytest": 5}, 5)]
)
def test_every_check_runs_and_pytest_comes_last(
    monkeypatch: pytest.MonkeyPatch, failing: dict[str, int], expected: int
) -> None:
    ran: list[str] = []

    def call(command: Sequence[str], folder: Path) -> int:
        ran.append(" ".join(command[1:]).removeprefix("-I -m ") or Path(command[0]).stem)
        return next((code for name, code in failing.items() if name in ran[-1]), 0)

    monkeypatch.setattr(start, "_call", call)
    assert start.run_tests(["-k", "nothing"]) == expected
    assert ran == ["ruff check", "ruff format --check", "mypy", "lint-imports", "pytest -k nothing"]


def test_names_and_pins_belong_together() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(line.count("==") == 1 for line in pins), "every line pins one release"
    pinned = {line.split("==")[0] for line in pins}
    parts = {part: start.requirements(part) for part in ("app", "torch", "cluster", "test", "build")}
    wanted = {re.split("[<;]", name)[0].lower().replace("_", "-") for names in parts.values() for name in names}
    assert wanted <= pinned
    assert "torch==2.13.0" in pins


@pytest.mark.parametrize(
    ("words", "gpu", "expected"),
    [
        ([], False, ["app"]),
        (["segment", "x"], False, ["app"]),
        (["segment", "x"], True, ["app", "torch"]),
        (["train", "config.json"], False, ["app", "torch"]),
        (["study", "config.json"], False, ["app", "torch"]),
        (["batch", "x", "--out", "y"], False, ["app"]),
        (["batch", "x", "--out", "y", "--scheduler", "tcp://host:8786"], False, ["app", "cluster"]),
        (["batch", "x", "--out", "y", "--scheduler=tcp://host:8786"], True, ["app", "torch", "cluster"]),
        (["test"], False, ["app", "torch", "cluster", "test"]),
        (["build"], True, ["app", "torch", "build"]),
    ],
)
def test_torch_and_test_tools_are_installed_only_where_they_are_used(
    monkeypatch: pytest.MonkeyPatch, words: list[str], gpu: bool, expected: list[str]
) -> None:
    monkeypatch.setattr(start, "has_nvidia_gpu", lambda: gpu)
    assert start.parts_for(words) == expected


@pytest.mark.parametrize("own_index_has_it", [True, False])
def test_the_program_is_built_with_the_torch_for_cpus(monkeypatch: pytest.MonkeyPatch, own_index_has_it: bool) -> None:
    asked: list[tuple[list[str], list[str]]] = []

    def install(names: Sequence[str], whole_before: bool, options: Sequence[str] = ()) -> None:
        asked.append((list(names), list(options)))
        if not options and not own_index_has_it:
            raise start.Stop("There is no ready-made package torch==2.13.0+cpu")

    monkeypatch.setattr(start, "_pip_install", install)
    start._install_torch_for_cpus(False)
    assert all(names == ["torch==2.13.0+cpu"] for names, _ in asked)
    assert [options[-1:] for _, options in asked] == [[]] + [[start.TORCH_FOR_CPUS]] * (not own_index_has_it)


def test_a_part_that_was_installed_before_is_kept(project: Path) -> None:
    assert begin(project, "train").stderr.startswith("Bringing the installation up to date.")
    assert begin(project, "train").stderr == ""
    (project / "constraints.txt").write_text("tiny==1.0\n# changed\n")
    begin(project, "models")
    assert begin(project, "train").stderr == ""


# --- adding to an installation ----------------------------------------------------------------------------------------


def needs_more(project: Path, *names: str) -> None:
    """Say that training needs these packages."""
    text = (project / "pyproject.toml").read_text()
    listed = ", ".join(f'"{name}"' for name in names)
    (project / "pyproject.toml").write_text(re.sub(r"torch = \[.*\]", f"torch = [{listed}]", text))


@pytest.fixture
def growing(project: Path) -> Iterator[Path]:
    yield project
    needs_more(project)
    pip = [str(project / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python"), "-I", "-m", "pip"]
    subprocess.run([*pip, "uninstall", "-y", "more"], check=True, capture_output=True)


def test_a_part_is_added_and_the_app_is_not_opened(growing: Path) -> None:
    make_wheel(growing.parent / "wheels", "1.0", "more")
    needs_more(growing, "more")
    done = begin(growing, "--install", "torch")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Everything is installed" in done.stderr
    python = growing / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    assert subprocess.run([str(python), "-I", "-c", "import more, tiny"], check=False).returncode == 0
    assert begin(growing, "--install", "torch").stderr == ""


def test_what_cannot_be_added_leaves_the_app_as_usable_as_before(growing: Path) -> None:
    needs_more(growing, "nowhere")
    refused = begin(growing, "--install", "torch")
    assert refused.returncode == 2
    assert "There is no ready-made package nowhere" in refused.stderr
    opened = begin(growing, "models", PIP_FIND_LINKS="")
    assert (opened.returncode, opened.stderr) == (0, ""), "the app opens without a network, and nothing is made anew"


def test_adding_is_stopped_by_a_word_and_the_app_is_as_usable_as_before(growing: Path) -> None:
    needs_more(growing, "more")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # An index that takes the call and never answers.
        silent.settimeout(60)
        where = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        process = subprocess.Popen(
            [sys.executable, str(growing / "start.py"), "--install", "torch"],
            env=environment(growing, PIP_INDEX_URL=where, PIP_NO_INDEX="0", PIP_FIND_LINKS=""),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.accept()[0].close()
        _, said = process.communicate("stop\n", timeout=60)
    assert process.returncode == 130, said
    opened = begin(growing, "models", PIP_FIND_LINKS="")
    assert (opened.returncode, opened.stderr) == (0, "")


def test_only_parts_that_there_are_can_be_added(project: Path) -> None:
    done = begin(project, "--install", "everything")
    assert done.returncode == 2
    assert "torch or cluster or test" in done.stderr
