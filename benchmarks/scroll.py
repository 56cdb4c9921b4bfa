"""Time of one step through the slices, painting included, and memory; against napari showing the same.

    xvfb-run -a -s "-screen 0 1920x1080x24" python -m benchmarks.scroll [--napari PYTHON] [--steps 120] [--large]

The simulated demo patient, 240 x 240 x 155 voxels and four sequences, or the same stretched to 512 x 512 x 400 with
``--large``; three planes and the overlay at 1920 x 1080. A frame is from asking for another slice to everything that
changes being painted. Each program runs in a process of its own, in turns, on the same arrays.

napari is not something Gliascope needs. Give it an environment that is thrown away, outside of the checkout:

    python3 -m venv /tmp/napari && /tmp/napari/bin/pip install napari PyQt6
    ... python -m benchmarks.scroll --napari /tmp/napari/bin/python

napari has no three linked planes of its own; it is given three of its viewers side by side, with the same layers and
one of the sequences visible, as Gliascope's planes show one. Painting is Mesa's in both where Xvfb is the screen:
napari draws with OpenGL, so a graphics card would help it and not Gliascope. Quote the ratio.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("t1", "t1ce", "t2", "flair")
SIZE = (1920, 1080)
LARGE = (512, 512, 400)
ROUNDS = 3


def main() -> None:
    """Measure both ways, a fresh process each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--napari", type=Path, help="python of an environment with napari and PyQt6")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--large", action="store_true", help="512 x 512 x 400 voxels")
    parser.add_argument("--only", choices=("gliascope", "napari"), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure = _gliascope if arguments.only == "gliascope" else _napari
        print(json.dumps(measure(arguments.data, arguments.steps)))
        return
    ways = {"gliascope": sys.executable}
    if arguments.napari:
        ways["napari"] = str(arguments.napari)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        _write_patient(Path(folder), LARGE if arguments.large else None)
        for _ in range(ROUNDS):
            # In turns, so that whatever else the computer does meets both.
            for way, python in ways.items():
                words = ["--only", way, "--data", folder, "--steps", str(arguments.steps)]
                done = subprocess.run(
                    [python, str(Path(__file__)), *words], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
                )
                runs[way].append(json.loads(done.stdout.splitlines()[-1]))
    _print(runs)


def _write_patient(folder: Path, shape: tuple[int, int, int] | None) -> None:
    """The demo patient as plain arrays, stretched to a shape by repeating voxels."""
    from app import DEMO
    from engine import nifti

    for name in (*NAMES, "seg"):
        path = DEMO / f"demo_{name}.nii.gz"
        if name == "seg":
            data: Any = nifti.read_label_map(path, nifti.Convention.GLIASCOPE).data
        else:
            data = nifti.read(path).data
        if shape is not None:
            places = [np.arange(n) * size // n for n, size in zip(shape, data.shape, strict=True)]
            # In the order in which files are read.
            data = np.asfortranarray(data[np.ix_(*places)])
        np.save(folder / f"{name}.npy", data)
    affine = nifti.read_grid(DEMO / "demo_t1.nii.gz")[0].affine
    np.save(folder / "affine.npy", affine)


def _steps(count: int, slices: int) -> list[int]:
    """From the middle up and down again, never the same slice twice in a row."""
    reach = slices // 3
    return [slices // 2 + (n % (2 * reach) if n % (2 * reach) < reach else 2 * reach - n % (2 * reach)) - reach // 2
            for n in range(count)]  # fmt: skip


def _gliascope(folder: Path, count: int) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    from PySide6.QtCore import QEvent, QObject, QSettings

    from app.application import make_application, make_window
    from app.settings import Settings
    from app.viewer_model import Layer, Mask, Plane
    from engine.volume import Grid, LabelMap, Sequence, Volume

    application = make_application()
    window = make_window(Settings(QSettings(str(folder / "settings.ini"), QSettings.Format.IniFormat)))
    window.resize(*SIZE)
    window.move(0, 0)
    window.show()
    labels = np.load(folder / "seg.npy")
    grid = Grid(labels.shape, np.load(folder / "affine.npy"))
    layers = {Sequence(name): Layer.of(Volume(np.load(folder / f"{name}.npy"), grid, Sequence(name))) for name in NAMES}
    model = window.model
    window.pages.setCurrentIndex(1)
    model.set_layers(layers)
    model.set_mask(Mask.of(LabelMap(labels, grid), layers))
    assert model.mask is not None
    model.move_crosshair(model.mask.largest)
    _settle(application, 1.0)
    views = window.ortho.views
    assert all(view.isVisible() for view in views.values())

    class Painted(QObject):
        """Which of the planes were painted."""

        def __init__(self) -> None:
            super().__init__()
            self.planes: set[Plane] = set()

        def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's
            if event.type() is QEvent.Type.Paint:
                self.planes.update(plane for plane, view in views.items() if view.viewport() is watched)
            return False

    painted = Painted()
    for view in views.values():
        view.viewport().installEventFilter(painted)
    frames, used = [], []
    for index in _steps(count, grid.shape[2]):
        painted.planes.clear()
        now = model.crosshair
        voxel = grid.to_voxel(now[None])[0]
        voxel[2] = index
        started, cpu = time.perf_counter(), time.process_time()
        model.move_crosshair(grid.to_world(voxel[None])[0])
        while len(painted.planes) < 3:
            application.processEvents()
        application.processEvents()
        if views[Plane.AXIAL].index != index:
            raise RuntimeError("the slice asked for is not the one drawn")
        frames.append(time.perf_counter() - started)
        used.append(time.process_time() - cpu)
    window.close()
    return _report("Gliascope", frames, used, window.size().toTuple())


def _napari(folder: Path, count: int) -> dict[str, Any]:
    import napari
    from napari.components import ViewerModel
    from napari.qt import QtViewer
    from qtpy.QtWidgets import QApplication, QGridLayout, QWidget

    application = QApplication.instance() or QApplication([])
    volumes = {name: np.load(folder / f"{name}.npy") for name in NAMES}
    labels = np.load(folder / "seg.npy")
    window = QWidget()
    window.resize(*SIZE)
    rows = QGridLayout(window)
    rows.setContentsMargins(0, 0, 0, 0)
    models, viewers = [], []
    for number, order in enumerate(((2, 1, 0), (1, 2, 0), (0, 2, 1))):
        model = ViewerModel(ndisplay=2, order=order)
        for name, data in volumes.items():
            model.add_image(data, name=name, visible=name == "t1")
        model.add_labels(labels, name="mask", opacity=0.45)
        viewer = QtViewer(model)
        rows.addWidget(viewer, number // 2, number % 2)
        models.append(model)
        viewers.append(viewer)
    window.move(0, 0)
    window.show()
    middle = [n // 2 for n in labels.shape]
    for model in models:
        model.dims.current_step = tuple(middle)
        model.reset_view()
    drawn = [0]

    def count_draw(event: object = None) -> None:
        drawn[0] += 1

    _settle(application, 2.0)
    axial = viewers[0].canvas
    axial._scene_canvas.events.draw.connect(count_draw)
    frames, used = [], []
    for index in _steps(count, labels.shape[2]):
        before = drawn[0]
        started, cpu = time.perf_counter(), time.process_time()
        for model in models:
            # The other planes have a cursor and no crosshair to draw anew, so that this is less than Gliascope does.
            model.dims.current_step = (middle[0], middle[1], index)
        while drawn[0] == before:
            application.processEvents()
            if time.perf_counter() - started > 5:
                raise RuntimeError("napari painted nothing for five seconds")
        application.processEvents()
        frames.append(time.perf_counter() - started)
        used.append(time.process_time() - cpu)
    report = _report(f"napari {napari.__version__}", frames, used, (window.width(), window.height()))
    window.close()
    sys.stdout.flush()
    print(json.dumps(report), flush=True)
    # Its threads and its OpenGL are of no more interest, and ending tidily has been seen to hang.
    import os

    os._exit(0)


def _settle(application: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        application.processEvents()


def _report(name: str, frames: list[float], used: list[float], size: tuple[int, int]) -> dict[str, Any]:
    # The first ones fill caches and are felt once.
    frames, used = frames[5:], used[5:]
    return {
        "name": name,
        "median_ms": 1000 * float(np.median(frames)),
        "p95_ms": 1000 * float(np.percentile(frames, 95)),
        "cpu_median_ms": 1000 * float(np.median(used)),
        "cpu_p95_ms": 1000 * float(np.percentile(used, 95)),
        "memory_mb": _memory_mb(),
        "size": list(size),
    }


def _memory_mb() -> float:
    if platform.system() == "Linux":
        text = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in text if line.startswith("VmHWM")).split()[1]) / 1024
    import psutil  # type: ignore[import-untyped]

    return float(psutil.Process().memory_info().rss) / 2**20


def _print(runs: dict[str, list[dict[str, Any]]]) -> None:
    # The best of the rounds: what other programs take is not theirs to answer for.
    best = {way: {key: min(run[key] for run in done) for key in done[0] if key.endswith(("_ms", "_mb"))}
            for way, done in runs.items()}  # fmt: skip
    names = {way: done[0]["name"] for way, done in runs.items()}
    print(f"{platform.machine()}, {ROUNDS} rounds in turns, best of them; window {runs['gliascope'][0]['size']}\n")
    print("| | " + " | ".join(names.values()) + (" | ratio |" if len(names) > 1 else " |"))
    print("|---|" + "---|" * (len(names) + (len(names) > 1)))
    for title, key in (
        ("frame, 95th percentile, ms", "p95_ms"),
        ("frame, median, ms", "median_ms"),
        ("of it processor time, 95th percentile, ms", "cpu_p95_ms"),
        ("of it processor time, median, ms", "cpu_median_ms"),
        ("peak memory, MB", "memory_mb"),
    ):
        values = [best[way][key] for way in best]
        ratio = f" | {values[1] / values[0]:.1f} |" if len(values) > 1 else " |"
        digits = 0 if key == "memory_mb" else 1
        print(f"| {title} | " + " | ".join(f"{value:.{digits}f}" for value in values) + ratio)


if __name__ == "__main__":
    main()
