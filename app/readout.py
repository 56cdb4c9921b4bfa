"""One line under the pictures: where the pointer is, or else the crosshair, and what lies there."""

from __future__ import annotations

import numpy as np
from PySide6.QtWidgets import QFrame, QHBoxLayout

from app.controls import ElidedLabel, label
from app.diagrams import figure
from app.viewer_model import Point, ViewerModel
from engine.volume import TUMOUR_CORE, Grid, Sequence


class Readout(QFrame):
    """One line under the pictures: where the crosshair is and what lies there."""

    def __init__(self, model: ViewerModel) -> None:
        super().__init__()
        self.setObjectName("readout")
        self.setFixedHeight(28)
        self._model = model
        row = QHBoxLayout(self)
        row.setContentsMargins(14, 0, 14, 0)
        row.setSpacing(22)
        self.place = label()
        self.voxel = label()
        self.values = label()
        # The first to give way in a narrow window.
        self.region = ElidedLabel()
        self.window_level = label()
        # Fixed widths: nothing else moves when these numbers change.
        self.place.setMinimumWidth(186)
        self.voxel.setMinimumWidth(104)
        self.values.setMinimumWidth(150)
        row.addWidget(self.place)
        row.addWidget(self.voxel)
        row.addWidget(self.values)
        row.addWidget(self.region, 1)
        row.addWidget(self.window_level)
        for signal in (model.pointer_changed, model.crosshair_changed, model.layers_changed, model.shown_changed,
                       model.window_changed, model.labels_changed):  # fmt: skip
            signal.connect(self._update)
        self._update()

    def _update(self) -> None:
        model = self._model
        layer, window = model.layer, model.window
        place = model.pointer if model.pointer is not None else model.crosshair
        voxel = _voxel(layer.volume.grid, place) if layer is not None else None
        if layer is not None and voxel is None:
            # The pointer is beside the scan: the crosshair never is.
            place, voxel = model.crosshair, model.voxel()
        if layer is None or window is None or voxel is None:
            for part in (self.place, self.voxel, self.values, self.region, self.window_level):
                part.setText("")
            return
        x, y, z = place
        sides = (
            f"{'R' if x >= 0 else 'L'} {abs(x):.1f}",
            f"{'A' if y >= 0 else 'P'} {abs(y):.1f}",
            f"{'S' if z >= 0 else 'I'} {abs(z):.1f}",
        )
        self.place.setText("   ".join(sides) + " mm")
        self.voxel.setText("voxel " + " ".join(map(str, voxel)))
        parts = []
        for key, other in model.layers.items():
            there = _voxel(other.volume.grid, place)
            if there is not None:
                name = key.title if isinstance(key, Sequence) else "?"
                parts.append(f"{name} {figure(float(other.volume.data[there]), other.span[1] - other.span[0])}")
        self.values.setText("    ".join(parts))
        self.region.setText(self._region(voxel))
        scale = layer.span[1] - layer.span[0]
        self.window_level.setText(f"W {figure(window.width, scale)}   L {figure(window.level, scale)}")

    def _region(self, voxel: tuple[int, int, int]) -> str:
        mask, layer = self._model.mask, self._model.layer
        if mask is None or layer is None or not mask.labels.grid.same_as(layer.volume.grid):
            return ""
        names = {0: "outside the tumour", TUMOUR_CORE: "core"}
        chances = mask.probabilities
        words = names.get(int(mask.labels.data[voxel]), "whole tumour")
        if not chances:
            return words
        return f"{words}    whole {chances['whole_tumour'][voxel]:.2f}  core {chances['tumour_core'][voxel]:.2f}"


def _voxel(grid: Grid, place: Point) -> tuple[int, int, int] | None:
    """The voxel at a world position, or None outside the grid."""
    i, j, k = np.rint(grid.to_voxel(place[None])[0]).astype(int)
    inside = 0 <= i < grid.shape[0] and 0 <= j < grid.shape[1] and 0 <= k < grid.shape[2]
    return (int(i), int(j), int(k)) if inside else None
